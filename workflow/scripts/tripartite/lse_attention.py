"""Softmax attention together with its log-sum-exp, on the CPU and on GPUs."""

import threading
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

COMPILING = 1 << 40  # softmax weights whose time on a GPU is about that of a compilation
COMPILES_ON = ("cuda",)  # types of devices
MAX_COMPILED = 8  # torch compiles a function for no more shapes than that


def attention_with_lse(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q.k + bias) v [..., T, E] and its log-sum-exp [..., T].

    q [..., T, D], k [..., S, D], v [..., S, E], bias [..., S]. On the CPU by torch's fused kernel,
    on other devices by matrix products, unless flex_attention was measured to be faster.
    """
    if q.device.type == "cpu":
        return flash(q, k, v, bias)
    shape = (*q.shape, *v.shape[-2:], q.dtype)
    with _choosing:
        _computed[shape] += q.shape[:-1].numel() * k.shape[-2]
        if _computed[shape] > COMPILING and shape not in _forms and _may_compile(q, v):
            _forms[shape] = faster(q, k, v, bias)
        form = _forms.get(shape, products)
    return form(q, k, v, bias)


def flash(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """As attention_with_lse, by the kernel behind scaled_dot_product_attention on the CPU.

    It is private, and tests check its behaviour: the public function returns no log-sum-exp. It
    wants E = D: zeros are added.
    """
    width = max(q.shape[-1], v.shape[-1])
    padded = (torch.nn.functional.pad(x, (0, width - x.shape[-1])) for x in (q, k, v))
    three = [x.reshape(-1, 1, *x.shape[-2:]) for x in padded]
    kind = torch.float32 if q.dtype == torch.bfloat16 else q.dtype
    mask = bias.to(kind).reshape(-1, 1, 1, bias.shape[-1]).expand(-1, -1, q.shape[-2], -1)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output, log_sum = fused(*three, 0.0, False, attn_mask=mask, scale=1.0)
    output = output.reshape(*q.shape[:-1], width)[..., : v.shape[-1]]
    return output, log_sum.reshape(q.shape[:-1])


def products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """As attention_with_lse, by matrix products, on every device; holds the weights [..., T, S]."""
    exact = torch.float32 if q.dtype == torch.bfloat16 else q.dtype
    logits = (q.to(exact) @ k.to(exact).mT).add_(bias.to(exact)[..., None, :])
    peak = logits.amax(-1, keepdim=True)
    weights = logits.sub_(peak).exp_()
    total = weights.sum(-1, keepdim=True)
    output = (weights @ v.to(exact)).div_(total)
    return output, (peak + total.log()).squeeze(-1)


def flex(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """As attention_with_lse, by flex_attention, which is to be compiled for a GPU."""
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    of_keys = bias.reshape(-1, bias.shape[-1]).float()  # [B, S]

    def score(value: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return value + of_keys[batch, key]

    three = [x.reshape(-1, 1, *x.shape[-2:]) for x in (q, k, v)]
    output, extra = flex_attention(
        three[0], three[1], three[2], score_mod=score, scale=1.0, return_aux=AuxRequest(lse=True)
    )
    assert extra.lse is not None  # it was requested
    return output.reshape(*q.shape[:-1], v.shape[-1]), extra.lse.reshape(q.shape[:-1])


# How attention is computed on a GPU, by the shapes and dtype of its inputs: the number of softmax
# weights so far, and the form that was found to be faster in this process.
_computed: Counter[tuple] = Counter()
_forms: dict[tuple, Callable] = {}
_choosing = threading.Lock()


def _may_compile(q: Tensor, v: Tensor) -> bool:
    """Whether flex_attention serves these inputs, and was the faster form wherever it was tried."""
    serves = q.device.type in COMPILES_ON and q.dtype != torch.float64
    wide = min(q.shape[-1], v.shape[-1]) >= 16
    return serves and wide and len(_forms) < MAX_COMPILED and products not in _forms.values()


def faster(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Callable:
    """The faster form of attention_with_lse for these inputs, measured; one line says which.

    `products`, if flex_attention cannot be compiled here or gives other numbers.
    """
    given, form = (q, k, v, bias), products
    compiled = torch.compile(flex)
    try:
        agree = all(
            bool((x.float() - y.float()).abs().max() < 0.01 * (1 + y.float().abs().max()))
            for x, y in zip(compiled(*given), products(*given))
        )
        share = _seconds(compiled, *given) / _seconds(products, *given)
    except Exception as error:  # of compilers that are missing, or fail in ways of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        found = f"flex_attention cannot be compiled ({reason})"
    else:
        found = f"compiled flex_attention takes {share:.2f} of the time of matrix products"
        if not agree:
            found = "compiled flex_attention gives other numbers than matrix products"
        elif share < 1:
            form = compiled
    used = "flex_attention is" if form is compiled else "matrix products are"
    shape = f"{tuple(q.shape)} x {k.shape[-2]}"
    print(f"attention on {q.device}, {shape}: {found}; {used} used", flush=True)
    return form


def _seconds(form: Callable, *given: Tensor) -> float:
    """Time of one call, after one to warm up."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        float(form(*given)[1].sum())  # waits for the device
        times.append(time.perf_counter() - start)
    return times[1]
