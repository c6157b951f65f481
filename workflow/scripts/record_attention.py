"""Record the attention of any torch model and save it as one netCDF file for tripartite.

Copy this file to where your model runs; it needs torch, numpy and netCDF4 (or h5netcdf). Load the
model, put it in eval mode, and run it on your inputs:

    from record_attention import record_attention

    with torch.no_grad(), record_attention(model) as recorded:
        model(**batch)  # one or several passes: each row of each batch is one input
    recorded.save("my_model.nc")

While the `with` block is open, every call of torch's scaled_dot_product_attention by the model is
recorded as it is made: q and k after projection, rotation and normalisation, each times the root of
the scale, so that q.k is the logit; v; the model's own output, before its output projection; and
what the mask means: which tokens are present, and whether a token reads all of them
("bidirectional") or only those up to itself ("causal"). A layer is one call of one module in a
pass; the second call of a module in a pass is the layer "name#2". `save` recomputes softmax(q.k) v
in float64, compares it with the model's output, and prints a table.

- Attention that q, k and v of each token do not determine is left out, by name and reason: sliding
  windows shorter than the sequence, biases per pair of tokens, other masks, queries and keys of two
  lengths, dropout in use. All other layers are saved.
- Eager, flash and flex code, and soft-capped logits, make no such call: load models of the
  transformers package with attn_implementation="sdpa" (the default of most).
- Layers with other tokens, heads or widths than the first go to my_model-2.nc, my_model-3.nc, ...
- recorded.save("my_model.nc", inputs=["a", "b"], tokens=[["the", "cat"], ["a", "dog"]]) names the
  inputs, and the tokens of each, padding included.
"""

import contextlib
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

try:
    import netCDF4
except ImportError:
    import h5netcdf.legacyapi as netCDF4  # type: ignore[no-redef]

VERSION = 1
BUILTIN = torch._C._nn.scaled_dot_product_attention
BLOCKED = -1000  # a mask with this value or less hides a key: exp(-1000) is 0 in float64
EPS = torch.finfo(torch.float32).eps
HEADER = "file layers inputs heads tokens d_head d_value order dtype worst_difference".split()
TWO_ORDERS = "causal for some inputs, bidirectional for others"
NOT_SEEN = (
    "made no call of scaled_dot_product_attention; load models of the transformers package with "
    "attn_implementation='sdpa' (eager, flash and flex code and soft-capping cannot be recorded)"
)


class Refused(Exception):
    """Why q, k and v of each token do not determine the output of a call."""


class Call(NamedTuple):
    """One call of the attention, on the CPU in float32; q and k are times the root of the scale."""

    q: torch.Tensor  # [input, head, token, d_head]; q, k and v may have fewer heads than the output
    k: torch.Tensor
    v: torch.Tensor  # [input, head, token, d_value]
    model_output: torch.Tensor  # as v
    orders: set[str]  # "bidirectional", "causal", or both where no input has two tokens
    present: np.ndarray  # bool [input, token]
    dtype: str  # the model's

    def values(self, name: str, i: int) -> np.ndarray:
        """An array of input i: [head, token, width], 0 where no token is."""
        array = getattr(self, name)[i]
        array = array.repeat_interleave(self.model_output.shape[1] // len(array), 0)
        return np.where(self.present[i, :, None], array.numpy(), 0)


class Layer(NamedTuple):
    calls: dict[int, Call]  # by the number of the pass
    order: str
    difference: float  # largest, of softmax(q.k) v from the model's output, relative to the latter

    def sizes(self) -> dict[str, int]:
        call, *_ = self.calls.values()
        return {
            "input": sum(len(call.present) for call in self.calls.values()),
            "head": call.model_output.shape[1],
            "token": max(call.present.shape[1] for call in self.calls.values()),
            "d_head": call.q.shape[-1],
            "d_value": call.v.shape[-1],
        }

    def look(self) -> tuple:
        """What layers of one file have in common."""
        tokens = [(i, call.present.shape, call.present.tobytes()) for i, call in self.calls.items()]
        return *self.sizes().values(), self.dtype(), *tokens

    def dtype(self) -> str:
        return next(iter(self.calls.values())).dtype


@contextlib.contextmanager
def record_attention(model: torch.nn.Module) -> Iterator["Recorded"]:
    """Record each call of scaled_dot_product_attention in the forward passes of a model.

    A pass that ends by an error leaves nothing. All hooks are removed at the end of the block.
    """
    recorded = Recorded(model)
    original, inside = F.scaled_dot_product_attention, False

    def attention(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal inside
        inside = True
        try:
            output = original(*args, **kwargs)
        finally:
            inside = False
        recorded._note(output, *args, **kwargs)
        return output

    class Watch(TorchFunctionMode):
        """Sees calls by code that bound the function before `attention` took its place.

        Under a mode, torch's encoders and MultiheadAttention leave their fused code in eval mode.
        """

        def __torch_function__(
            self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
        ) -> Any:
            kwargs = kwargs or {}
            if func is BUILTIN and not inside:
                return attention(*args, **kwargs)
            if func is F.multi_head_attention_forward and kwargs.get("need_weights", True):
                func(*args, **kwargs | {"need_weights": False})  # with weights it makes no call
            return func(*args, **kwargs)

    with contextlib.ExitStack() as stack:
        for part in recorded.names:
            enter = part.register_forward_pre_hook(recorded._enter, prepend=True)
            leave = part.register_forward_hook(recorded._leave, always_call=True)
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        if "torch._dynamo" in sys.modules:  # run compiled models as plain code
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(setattr, F, "scaled_dot_product_attention", original)
        F.scaled_dot_product_attention = attention
        stack.enter_context(Watch())
        yield recorded


class Recorded:
    """What record_attention saw of a model: the calls of each forward pass, by layer."""

    def __init__(self, model: torch.nn.Module):
        self.names = {part: name for name, part in model.named_modules()}
        self.title = type(model).__name__
        self.n_passes = 0
        self.in_parts = False  # whether a pass began in a part of the model
        self.passes: list[dict[str, Call | str]] = []  # str: why a call is refused
        self.made_calls: set[str] = set()  # names of modules
        self.attention_modules: set[str] = set()  # names of those that ran, by their class
        self._running: list[str] = []
        self._calls: dict[str, Call | str] = {}
        self._count: Counter[str] = Counter()

    def _enter(self, part: torch.nn.Module, _: Any) -> None:
        if not self._running:  # a pass begins
            self._calls, self._count = {}, Counter()
            self.in_parts |= self.names[part] != ""
        self._running.append(self.names[part])
        if "Attention" in type(part).__name__ and self.names[part]:
            self.attention_modules.add(self.names[part])

    def _leave(self, part: torch.nn.Module, _: Any, output: Any) -> None:
        self._running.pop()
        if not self._running and output is not None:  # None: it ended by an error
            self.n_passes += 1
            self.passes += [self._calls] if self._calls else []

    def _note(self, output: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        if not self._running:
            return  # a call by something else than the model
        name = self._running[-1]
        self.made_calls.add(name)
        self._count[name] += 1
        label = (name or self.title) + (f"#{self._count[name]}" if self._count[name] > 1 else "")
        try:
            self._calls[label] = _call(output, *args, **kwargs)
        except Refused as reason:
            self._calls[label] = str(reason)

    def save(
        self,
        path: str | os.PathLike[str],
        inputs: Sequence[str] | None = None,
        tokens: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """Write what was recorded; print a table of the files, and what is left out and why.

        inputs: a name for each row of each batch, in order; tokens: the texts of the tokens of each
        of them, padding included. Files take them where they fit. A file that exists is replaced
        when all new ones are whole. FileNotFoundError without the folder; RuntimeError if nothing
        was recorded; ValueError if no layer can be saved, or names fit no file.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent}: there is no such folder; make it first")
        if not self.n_passes:
            raise RuntimeError(f"no pass of {self.title} was recorded; call it in the with block")
        if not self.passes:
            raise RuntimeError(f"{self.title} {NOT_SEEN}")
        layers, left_out = self._layers()
        if not layers:
            raise ValueError(f"no layer can be saved: {'; '.join(left_out)}")
        groups: dict[tuple, dict[str, Layer]] = defaultdict(dict)
        for label, layer in layers.items():
            groups[layer.look()][label] = layer
        lengths = [[*map(len, _present(group))] for group in groups.values()]
        if inputs is not None and not _are_names(inputs):
            raise ValueError("inputs: wanted a list of different names, one for each input")
        names = _fitting("inputs", inputs, len, [len(sizes) for sizes in lengths])
        texts = _fitting("tokens of each input", tokens, lambda rows: [*map(len, rows)], lengths)
        rows = [HEADER]
        files = []
        try:
            for n, group in enumerate(groups.values()):
                target = path.with_name(f"{path.stem}-{n + 1}{path.suffix}") if n else path
                files.append((target.with_name(f".{target.name}.{os.getpid()}.tmp"), target))
                _write(files[-1][0], group, names[n], texts[n])
                rows.append(_row(target.name, group))
            for temporary, target in files:
                os.replace(temporary, target)
        finally:
            for temporary, _ in files:
                temporary.unlink(missing_ok=True)
        widths = [max(map(len, column)) for column in zip(*rows)]
        for row in rows:
            print("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
        for line in left_out:
            print(f"left out: {line}")
        if self.in_parts:
            print("note: parts of the model were called by themselves; call model(...) as a whole")
        older = path.with_name(f"{path.stem}-{len(files) + 1}{path.suffix}")
        if older.exists():
            print(f"note: {older.name} and those after it are of another recording")

    def _layers(self) -> tuple[dict[str, Layer], list[str]]:
        """Layers that can be saved, by label, and a line for each reason why others cannot."""
        layers, reasons = {}, defaultdict(list)
        for label in dict.fromkeys(label for calls in self.passes for label in calls):
            try:
                calls = {i: p[label] for i, p in enumerate(self.passes) if label in p}
                layers[label] = _layer(calls)
            except Refused as reason:
                reasons[str(reason)].append(label)
        silent = self.attention_modules - {
            a for a in self.attention_modules for b in self.made_calls if _nested(a, b)
        }
        outermost = {a for a in silent for b in silent if a != b and f"{b}.".startswith(f"{a}.")}
        for name in self.names.values():
            if name in silent - outermost:
                reasons[NOT_SEEN].append(name)
        return layers, [f"{', '.join(labels)}: {reason}" for reason, labels in reasons.items()]


def _nested(a: str, b: str) -> bool:
    return f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.")


def _call(
    output: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call:
    """A call of scaled_dot_product_attention and its output; Refused if it cannot be saved."""
    if output.dim() != 4:
        raise Refused(f"{output.dim()} axes, wanted 4: input, head, token, width")
    if dropout_p:
        raise Refused("dropout in use; put the model in eval mode")
    n_inputs, _, n_tokens, _ = output.shape
    if key.shape[2] != n_tokens:
        raise Refused(
            "queries and keys of two lengths (cross attention, or a cache of keys: call "
            "model(ids), not generate)"
        )
    orders, present = meaning(attn_mask, is_causal, n_inputs, n_tokens)
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    root = abs(scale) ** 0.5 or 1.0

    def copy(x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        x = x.detach().to(output.dtype)  # as autocast does inside the call
        return x.to("cpu", torch.float32, copy=True).mul_(factor).expand(n_inputs, *x.shape[1:])

    q, k, v, model_output = copy(query, scale / root), copy(key, root), copy(value), copy(output)
    return Call(q, k, v, model_output, orders, present, str(output.dtype).removeprefix("torch."))


def meaning(
    mask: torch.Tensor | None, is_causal: bool, n_inputs: int, n_tokens: int
) -> tuple[set[str], np.ndarray]:
    """The orders that a mask can stand for, and the tokens that are present: bool [input, token].

    mask: true where a key is read, or floats that are added to the logits; of their shape [input,
    head, query, key], or broadcast to it. Refused if it is something else than order and padding.
    """
    allowed = np.ones((1, n_tokens, n_tokens), dtype=bool)
    if mask is not None:
        if mask.dtype != torch.bool:
            if not ((mask == 0) | (mask <= BLOCKED)).all():
                raise Refused("a bias per pair of tokens")
            mask = mask == 0
        mask = mask[(None,) * (4 - mask.dim())]
        if (mask != mask[:, :1]).any():
            raise Refused("a mask of its own for each head")
        allowed = allowed & mask[:, 0].cpu().numpy()
    if is_causal:
        allowed = np.tril(allowed)
    found = [_meaning(rows) for rows in allowed]
    orders = set.intersection(*(orders for orders, _ in found))
    if not orders:
        raise Refused(TWO_ORDERS)
    present = [tokens for _, tokens in found]
    return orders, np.broadcast_to(present, (n_inputs, n_tokens))


def _meaning(allowed: np.ndarray) -> tuple[set[str], np.ndarray]:
    """The same for one input; allowed: bool [query, key].

    An absent token is read by none; what it reads does not matter. Padding on the left leaves empty
    rows in causal masks; some models open these for all keys, to avoid 0 / 0.
    """
    lower = np.tri(len(allowed), dtype=bool)
    opened = np.logical_and.accumulate(allowed.all(1))  # rows at the beginning that read all
    read = np.logical_or.reduce(allowed)  # [key]
    if not read.any():
        raise Refused("an input without a token (is its mask inverted?)")
    wanted = {"bidirectional": read, "causal": read & lower}
    orders = {order for order, rows in wanted.items() if (allowed == rows)[read].all()}
    if orders:
        return orders, read
    late = np.logical_or.reduce(allowed[~opened])
    if late.any() and (allowed == late & lower)[late].all():
        return {"causal"}, late
    back = np.subtract.outer(range(len(allowed)), range(len(allowed)))  # from query to key
    used = back[allowed & late[:, None]]
    band = (back >= used.min(initial=0)) & (back <= used.max(initial=0))
    if (allowed == band & late)[late].all():
        raise Refused("a sliding window shorter than the sequence")
    raise Refused("a mask of another kind than padding or causal")


def _layer(calls: dict[int, Call | str]) -> Layer:
    """The layer of these calls, its output compared; Refused if it cannot be saved."""
    good = {}
    for i, call in calls.items():
        if isinstance(call, str):
            raise Refused(call)
        good[i] = call
    orders = set.intersection(*(call.orders for call in good.values()))
    if not orders:
        raise Refused(TWO_ORDERS)
    order = min(orders)
    return Layer(good, order, max(_difference(call, order == "causal") for call in good.values()))


def _difference(call: Call, causal: bool) -> float:
    """Largest |softmax(q.k) v - output| / |output| of all inputs and heads.

    Refused where it is more than rounding can make, of logits in float32 and of the output in the
    dtype of the model.
    """
    worst = 0.0
    of_output = 4 * torch.finfo(getattr(torch, call.dtype)).eps if call.dtype != "float32" else 0
    for i, present in enumerate(call.present):
        arrays = [call.values(name, i)[:, present] for name in ("q", "k", "v", "model_output")]
        later = torch.ones(2 * arrays[0].shape[1:2]).triu(1).bool()  # [query, key]
        for q, k, v, output in zip(*(torch.from_numpy(array).double() for array in arrays)):
            logit = q @ k.T
            if causal:
                logit.masked_fill_(later, -torch.inf)
            error = logit.softmax(-1) @ v - output
            difference = float(error.norm() / (output.norm() or 1))
            longest = float(q.norm(dim=-1).max() * k.norm(dim=-1).max())
            if not difference <= EPS * (32 + 4 * longest) + of_output:  # also if it is NaN
                raise Refused("softmax(q.k) v differs from its output by more than rounding")
            worst = max(worst, difference)
    return worst


def _present(group: dict[str, Layer]) -> list[np.ndarray]:
    """Where the inputs of a file have tokens: bool [token] each, padding of its batch included."""
    layer, *_ = group.values()
    return [present for call in layer.calls.values() for present in call.present]


def _are_names(inputs: Sequence[str]) -> bool:
    """Whether each input has a text of its own."""
    texts = [str(name).strip() for name in inputs]
    return not isinstance(inputs, str) and all(texts) and len({*texts}) == len(texts)


def _fitting(what: str, given: Any, measure: Callable, wanted: list) -> list:
    """What is given, for each file whose size it has, else None; ValueError if it fits none."""
    if given is None:
        return [None] * len(wanted)
    got = measure(given)
    if got not in wanted:
        raise ValueError(f"{what}: got {got}, wanted {wanted[0]} (padding included)")
    return [given if got == size else None for size in wanted]


def _row(file: str, group: dict[str, Layer]) -> list[str]:
    """A file's row of the table."""
    layer, *_ = group.values()
    orders = Counter(layer.order for layer in group.values())
    order = ", ".join(f"{n} {name}" if len(orders) > 1 else name for name, n in orders.items())
    worst = max(layer.difference for layer in group.values())
    sizes = map(str, (len(group), *layer.sizes().values()))
    return [file, *sizes, order, layer.dtype(), f"{worst:.1e}"]


def _write(path: Path, group: dict[str, Layer], names: Any, texts: Any) -> None:
    """Write layers of one look to a file, an array of an input and a layer at a time."""
    present = _present(group)
    layer, *_ = group.values()
    sizes = {"layer": len(group)} | layer.sizes()
    n_tokens = sizes["token"]
    with netCDF4.Dataset(path, "w") as file:
        file.setncattr("dtype", layer.dtype())
        file.setncattr("source", f"record_attention.py {VERSION}, torch {torch.__version__}")
        for dim, size in sizes.items():
            file.createDimension(dim, size)

        def strings(name: str, dims: tuple[str, ...], values: list) -> None:
            file.createVariable(name, str, dims)[:] = np.array(values, dtype=object)

        strings("layer", ("layer",), [*group])
        strings("order", ("layer",), [layer.order for layer in group.values()])
        if names is not None:
            strings("input", ("input",), [*map(str, names)])
        if texts is not None:
            rows = [[*map(str, row)] + [""] * (n_tokens - len(row)) for row in texts]
            strings("text", ("input", "token"), rows)
        mask = [np.pad(row, (0, n_tokens - len(row))) for row in present]
        file.createVariable("mask", "i1", ("input", "token"))[:] = np.array(mask, dtype=np.int8)
        for name in ("q", "k", "v", "model_output"):
            width = "d_head" if name in ("q", "k") else "d_value"
            dims = ("input", "layer", "head", "token", width)
            chunk = (1, 1, 1, n_tokens, sizes[width])
            array = file.createVariable(name, "f4", dims, zlib=True, complevel=1, chunksizes=chunk)
            for at, layer in enumerate(group.values()):
                calls = layer.calls.values()
                arrays = (call.values(name, i) for call in calls for i in range(len(call.present)))
                for row, values in enumerate(arrays):
                    padding = ((0, 0), (0, n_tokens - len(values[0])), (0, 0))
                    array[row, at] = np.pad(values, padding)
