// A device for torch whose memory is the host's and whose kernels are the CPU's: a stand-in for a
// GPU. As on a GPU, an operation refuses tensors of two devices. See stand_in_device.py.
#include <cstring>

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

using at::IntArrayRef;
using at::Tensor;
constexpr auto TYPE = c10::DeviceType::PrivateUse1;
const c10::Device DEVICE(TYPE, 0);

// New memory holds NaN (all bits are 1), so that numbers nobody has written are seen.
struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    void* pointer = n ? std::memset(std::malloc(n), 0xff, n) : nullptr;
    return {pointer, pointer, &std::free, DEVICE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t n) const override { std::memcpy(to, from, n); }
};
Memory memory;
REGISTER_ALLOCATOR(TYPE, &memory);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = TYPE;
  c10::DeviceType type() const override { return TYPE; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};
const bool registered = (at::RegisterPrivateUse1HooksInterface(new Hooks), true);

// The same memory as a tensor of the CPU; it must not outlive `tensor`.
Tensor on_host(const Tensor& tensor) {
  if (!tensor.is_privateuseone()) return tensor;
  const auto& storage = tensor.storage();
  c10::DataPtr pointer(storage.mutable_data(), c10::Device(c10::kCPU));
  c10::Storage same(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(pointer));
  auto found = at::detail::make_tensor<c10::TensorImpl>(
      std::move(same), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  found.unsafeGetTensorImpl()->set_sizes_and_strides(
      tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return found;
}

// Another view of the memory of `tensor`.
Tensor as_strided(const Tensor& tensor, IntArrayRef sizes, IntArrayRef strides,
                  std::optional<int64_t> offset) {
  auto found = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(tensor.storage()), tensor.key_set(), tensor.dtype());
  found.unsafeGetTensorImpl()->set_sizes_and_strides(
      sizes, strides, offset.value_or(tensor.storage_offset()));
  return found;
}

Tensor reshape_alias(const Tensor& tensor, IntArrayRef sizes, IntArrayRef strides) {
  return as_strided(tensor, sizes, strides, std::nullopt);
}

Tensor view(const Tensor& tensor, IntArrayRef sizes) {
  const Tensor found = on_host(tensor).view(sizes);  // by the CPU's rules
  return as_strided(tensor, found.sizes(), found.strides(), std::nullopt);
}

Tensor empty(IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>,
             std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(sizes, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(IntArrayRef sizes, IntArrayRef strides, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      sizes, strides, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      c10::dtype_or_default(dtype));
}

const Tensor& resize(const Tensor& tensor, IntArrayRef sizes, std::optional<at::MemoryFormat>) {
  if (tensor.sizes() == sizes) return tensor;  // it keeps its strides
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(sizes);
  const auto& storage = impl->unsafe_storage();
  const size_t needed = (impl->storage_offset() + impl->numel()) * impl->itemsize();
  if (needed > storage.nbytes()) {
    auto fresh = memory.allocate(needed);
    if (storage.nbytes()) std::memcpy(fresh.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr_noswap(std::move(fresh));
    storage.set_nbytes(needed);
  }
  return tensor;
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  on_host(to).copy_(on_host(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  return copy_from(from, resize(to, from.sizes(), std::nullopt), false);
}

at::Scalar item(const Tensor& tensor) { return on_host(tensor).item(); }

// All else is computed by the CPU on copies. CUDA meets tensors of the CPU only as numbers (of no
// dimension, that are read) and as indices.
void by_the_cpu(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const auto& schema = operation.schema();
  const auto& parameters = schema.arguments();
  const auto given = torch::jit::last(*stack, parameters.size());
  const bool indexes = schema.name() == "aten::index.Tensor" || schema.name() == "aten::index" ||
                       schema.name().find("index_put") != std::string::npos;
  bool here = false, elsewhere = false;
  for (size_t i = 0; i < given.size(); ++i) {
    const auto* alias = parameters[i].alias_info();
    const bool written = alias && alias->isWrite();
    auto see = [&](const Tensor& tensor) {
      if (!tensor.defined()) return;
      here |= tensor.is_privateuseone();
      elsewhere |= !tensor.is_privateuseone() && (tensor.dim() || written);
    };
    if (given[i].isTensor()) see(given[i].toTensor());
    if (given[i].isTensorList())
      for (const Tensor& tensor : given[i].toTensorVector()) see(tensor);
  }
  TORCH_CHECK(!(here && elsewhere) || indexes,
              "Expected all tensors to be on the same device, but found the stand-in device and ",
              "cpu: ", schema.name());
  at::native::cpu_fallback(operation, stack, /*error_on_views=*/true);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("as_strided", &as_strided);
  library.impl("_reshape_alias", &reshape_alias);
  library.impl("view", &view);
  library.impl("resize_", &resize);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &item);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>());
}

}  // namespace
