"""From the bytes of a checkpoint to named tensors: safetensors, torch, ONNX and GGUF files.

Nothing here runs what a file holds: safetensors, ONNX and GGUF are plain data, and torch files are
read with weights_only. Whatever is wrong with the bytes is a ValueError of one line.
"""

import io
import math
import struct
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

ONNX = {1: "<f4", 2: "u1", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}  # TensorProto.DataType

# What a reader of plain data runs into when the bytes are not what they should be.
MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    struct.error,
)


class Node(NamedTuple):
    """One operation of an ONNX graph: its type and the names of what it reads and makes."""

    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_safetensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors by name."""
    try:
        return load(data)
    except (*MALFORMED, SafetensorError) as error:
        raise ValueError(f"not a readable safetensors file ({_reason(error)})") from None


def read_torch(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a state dict saved by torch, on the CPU."""
    try:
        weights = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises what its zip reader, unpickler or version happen to
        raise ValueError(f"not a readable torch checkpoint ({_reason(error)})") from None
    if not isinstance(weights, dict) or not all(isinstance(x, Tensor) for x in weights.values()):
        raise ValueError("not a readable torch checkpoint (wanted a dict of tensors)")
    return dict(weights)


def read_onnx(data: bytes) -> tuple[dict[str, Tensor], list[Node]]:
    """Return the initialisers by name, and the nodes in the order of the graph.

    The file is a protobuf message: ModelProto.graph is field 7, GraphProto.node 1 and .initializer
    5, NodeProto.input 1, .output 2 and .op_type 4, TensorProto.dims 1, .data_type 2, .name 8 and
    .raw_data 9. Only numbers kept as raw_data are read, as PyTorch writes them.
    """
    try:
        initialisers, nodes = {}, []
        graphs = [value for field, value in _fields(memoryview(data)) if field == 7]
        if len(graphs) != 1:
            raise ValueError(f"got {len(graphs)} graphs, wanted 1")
        for field, value in _fields(graphs[0]):
            if field == 1:
                nodes.append(_node(value))
            elif field == 5:
                name, tensor = _initialiser(value)
                initialisers[name] = tensor
        return initialisers, nodes
    except MALFORMED as error:
        raise ValueError(f"not a readable ONNX file ({_reason(error)})") from None


def read_gguf(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors by name, in float32 whatever they are stored in, and the fields by name.

    Fields are numbers, texts and lists of them: sizes of the model, its vocabulary and its merges.
    """
    try:
        # The reader maps a file. What it reads there is checked, and copied where it is kept.
        with tempfile.NamedTemporaryFile() as file, np.errstate(over="raise", invalid="raise"):
            file.write(data)
            file.flush()
            reader = _GGUFReader(file.name)
            weights = {
                part.name: torch.from_numpy(
                    np.require(dequantize(part.data, part.tensor_type), requirements="W")
                )
                for part in reader.tensors
            }
            return weights, {name: field.contents() for name, field in reader.fields.items()}
    except (*MALFORMED, ArithmeticError, LookupError, NotImplementedError) as error:
        raise ValueError(f"not a readable GGUF file ({_reason(error)})") from None


class _GGUFReader(GGUFReader):
    """A reader that does not go on behind the end of its file, where it finds empty arrays."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self.data):
            raise ValueError(f"it has {len(self.data)} bytes, wanted {end}")
        return super()._get(int(offset), dtype, count, override_order)


def _tensor(raw: memoryview, kind: int, shape: list[int]) -> Tensor:
    if kind not in ONNX:
        raise ValueError(f"a tensor has dtype {kind}, wanted one of {', '.join(map(str, ONNX))}")
    dtype = np.dtype(ONNX[kind])
    wanted = math.prod(shape) * dtype.itemsize
    if len(raw) != wanted:
        raise ValueError(f"a tensor of shape {list(shape)} has {len(raw)} bytes, wanted {wanted}")
    # A copy, since torch does not know of memory that it may not write.
    return torch.from_numpy(np.frombuffer(raw, dtype).reshape(shape).copy())


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Numbers and values of the fields of a protobuf message: integers, or bytes of nested ones."""
    position = 0
    value: Any
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(message, position)
        elif kind in (1, 2, 5):
            length = {1: 8, 5: 4}.get(kind)
            if length is None:
                length, position = _varint(message, position)
            value, position = message[position : position + length], position + length
            if position > len(message):
                raise ValueError("it ends within a field")
        else:
            raise ValueError(f"a field has wire type {kind}")
        yield key >> 3, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return an integer in groups of 7 bits, lowest first, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("it ends within a field")
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
    raise ValueError("an integer has more than 10 bytes")


def _node(message: memoryview) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 4: []}
    for field, value in _fields(message):
        if field in texts:
            texts[field].append(str(value, "utf-8"))
    return Node("".join(texts[4]), tuple(texts[1]), tuple(texts[2]))


def _initialiser(message: memoryview) -> tuple[str, Tensor]:
    name, kind, raw = "", 0, memoryview(b"")
    dims: list[int] = []
    for field, value in _fields(message):
        if field == 1:
            dims += _packed(value)
        elif field == 2:
            kind = value
        elif field == 8:
            name = str(value, "utf-8")
        elif field == 9:
            raw = value
    return name, _tensor(raw, kind, dims)


def _packed(value: int | memoryview) -> list[int]:
    """Repeated integers, which a writer may put into one field each or all into one."""
    if isinstance(value, int):
        return [value]
    integers, position = [], 0
    while position < len(value):
        integer, position = _varint(value, position)
        integers.append(integer)
    return integers


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words if len(words) <= 120 else f"{words[:117]}..."
