"""Record the attention of any torch model and save it as one netCDF file for tripartite.

Copy this file into the folder, or the environment, where your model runs. It needs torch, numpy
and netCDF4 (or h5netcdf). Load the model, put it in eval mode, and run it on your inputs:

    from record_attention import record_attention

    with torch.no_grad(), record_attention(model) as recorded:
        model(**batch)  # one or several passes: each row of each batch is one input
    recorded.save("my_model.nc")

While the `with` block is open, every call of torch's scaled_dot_product_attention inside the model
is recorded as the call has it: q and k after projections, rotation and normalisation, each times
the root of the scale, so that q.k is the logit; v; the model's own output, before its projection;
and what the mask means: which tokens are present, and whether a token reads all others
("bidirectional") or only those up to itself ("causal"). A layer is one call of one module in a
pass; a module that is called again in a pass is the layer "name#2". `save` recomputes
softmax(q.k) v in float64, compares it with the model's output, and prints a table.

- Attention that one q, k and v per token cannot describe is left out, by name and reason: sliding
  windows shorter than the sequence, biases per pair of tokens, other masks, queries and keys of two
  lengths, dropout in use. All other layers are saved.
- Eager, flash and flex code, and soft-capped logits, do not make the call: load models of the
  transformers package with attn_implementation="sdpa" (the default of most).
- Layers of other tokens, heads or widths than the first go to my_model-2.nc, my_model-3.nc, ...
- recorded.save("my_model.nc", inputs=["a", "b"], tokens=[["the", "cat"], ["a", "dog"]]) names the
  inputs, and the tokens of each, padding included.
"""

import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

try:
    import netCDF4
except ImportError:
    import h5netcdf.legacyapi as netCDF4  # type: ignore[no-redef]

VERSION = 1
BLOCKED = -1000  # a mask's value that adds nothing to a softmax: exp(-1000) is 0 in float64
TOLERANCE = {"bfloat16": 0.05, "float16": 0.01}  # of the relative difference; others: 1e-3
DIMS = ("input", "layer", "head", "token")
ADVICE = (
    "load a model of the transformers package with attn_implementation='sdpa'; eager, flash and "
    "flex code and soft-capped logits cannot be recorded"
)
BUILTIN = torch._C._nn.scaled_dot_product_attention


class Refused(Exception):
    """Why a call of the attention cannot be described by one q, k and v per token."""


class Call(NamedTuple):
    """One call of the attention, on the CPU in float32; q and k are times the root of the scale."""

    q: torch.Tensor  # [input, head, token, d_head]; q, k and v may have fewer heads than the output
    k: torch.Tensor
    v: torch.Tensor  # [input, head, token, d_value]
    output: torch.Tensor  # as v
    orders: set[str]  # "bidirectional", "causal", or both where no input has two tokens
    present: np.ndarray  # bool [input, token]
    dtype: str  # the model's

    def values(self, name: str, i: int) -> np.ndarray:
        """An array of input i: [head, token, width], 0 where no token is."""
        array = getattr(self, name)[i]
        array = array.repeat_interleave(self.output.shape[1] // array.shape[0], 0).numpy()
        return np.where(self.present[i, :, None], array, 0)


class Layer(NamedTuple):
    calls: dict[int, Call]  # by the number of the pass
    order: str
    difference: float  # largest, of softmax(q.k) v from the model's output, relative to the latter

    @property
    def look(self) -> tuple:
        """Layers of one look share a file."""
        call = next(iter(self.calls.values()))
        tokens = [(i, call.present.shape, call.present.tobytes()) for i, call in self.calls.items()]
        return call.dtype, call.output.shape[1], call.q.shape[-1], call.v.shape[-1], *tokens


class Recorded:
    """What record_attention saw of a model, one dict of calls by layer for each forward pass."""

    def __init__(self, model: torch.nn.Module):
        self.names = {part: name for name, part in model.named_modules()}
        self.title = type(model).__name__  # the label of calls by the model itself
        self.passes: list[dict[str, Call | str]] = []  # str: why the call is refused
        self.n_passes = 0
        self.seen: set[str] = set()  # names of modules
        self.unseen: set[str] = set()  # names of attention modules that ran
        self._running: list[str] = []
        self._calls: dict[str, Call | str] = {}
        self._count: Counter[str] = Counter()

    def _enter(self, part: torch.nn.Module, _: Any) -> None:
        if part in self.names:
            if not self._running:  # a pass begins
                self._calls, self._count = {}, Counter()
            self._running.append(self.names[part])
            if "Attention" in type(part).__name__:
                self.unseen.add(self.names[part])

    def _leave(self, part: torch.nn.Module, _: Any, output: Any) -> None:
        if part in self.names and self._running:
            self._running.pop()
            if not self._running and output is not None:  # None: it ended by an error
                self.n_passes += 1
                self.passes += [self._calls] if self._calls else []

    def _note(self, output: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        if not self._running:
            return  # a call of something else than the model
        name = self._running[-1]
        self.seen.add(name)
        self._count[name] += 1
        label = name or self.title
        label += f"#{self._count[name]}" if self._count[name] > 1 else ""
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
        """Write the layers that can be served, and print a table of them and of what is left out.

        inputs: a name for each row of each batch, in order; tokens: the texts of the tokens of each
        of them, padding included. A file that exists is replaced once the new one is whole. Layers
        of another look go to further files, with inputs and tokens where these fit.
        RuntimeError if nothing was recorded; ValueError if no layer can be served or names do not
        fit; FileNotFoundError without the folder. Then no file is written.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent}: there is no such folder; make it first")
        if not self.n_passes:
            raise RuntimeError(
                f"no forward pass of {self.title} was recorded; call it inside the with block"
            )
        if not self.passes:
            raise RuntimeError(
                f"{self.title} made no call of scaled_dot_product_attention; {ADVICE}"
            )
        layers, left_out = self._served()
        if not layers:
            raise ValueError(f"no layer can be served: {'; '.join(left_out)}")
        groups: dict[tuple, dict[str, Layer]] = defaultdict(dict)
        for label, layer in layers.items():
            groups[layer.look][label] = layer
        texts = _fitting(list(groups.values()), inputs, tokens)
        rows = [_HEADER]
        written = []
        try:
            for n, (group, text) in enumerate(zip(groups.values(), texts), start=1):
                target = path.with_name(f"{path.stem}-{n}{path.suffix}") if n > 1 else path
                written.append((target.with_name(f".{target.name}.{os.getpid()}.tmp"), target))
                _write(written[-1][0], group, *text)
                rows.append(_row(target.name, group))
            for temporary, target in written:
                os.replace(temporary, target)
        finally:
            for temporary, _ in written:
                temporary.unlink(missing_ok=True)
        widths = [max(map(len, column)) for column in zip(*rows)]
        for row in rows:
            print("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
        for line in left_out:
            print(f"left out: {line}")

    def _served(self) -> tuple[dict[str, Layer], list[str]]:
        """Layers that can be saved, by label, and a line for each reason why others cannot."""
        served, refused = {}, defaultdict(list)
        for label in dict.fromkeys(label for calls in self.passes for label in calls):
            try:
                served[label] = _layer(
                    {i: p[label] for i, p in enumerate(self.passes) if label in p}
                )
            except Refused as reason:
                refused[str(reason)].append(label)
        lines = [f"{reason}: {', '.join(labels)}" for reason, labels in refused.items()]
        unseen = [name for name in self.names.values() if name in self.unseen]
        unseen = [a for a in unseen if not any(_related(a, b) for b in self.seen)]
        unseen = [a for a in unseen if not any(a != b and _inside(b, a) for b in unseen)]
        if unseen:
            lines.append(f"made no call that was seen ({ADVICE}): {', '.join(unseen)}")
        return served, lines


def _inside(name: str, outer: str) -> bool:
    return not outer or f"{name}.".startswith(f"{outer}.")


def _related(a: str, b: str) -> bool:
    return _inside(a, b) or _inside(b, a)


@contextlib.contextmanager
def record_attention(model: torch.nn.Module) -> Iterator[Recorded]:
    """Record each call of scaled_dot_product_attention in the forward passes of a model.

    A pass that ends by an error leaves nothing. Hooks and wrapper are gone after the block.
    """
    recorded = Recorded(model)
    original, fast = F.scaled_dot_product_attention, torch.backends.mha.get_fastpath_enabled()
    inside = False

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
        """Sees calls by code that took the function before `attention` stood in its place."""

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
        for handle in (
            hooks.register_module_forward_pre_hook(recorded._enter),
            hooks.register_module_forward_hook(recorded._leave, always_call=True),
        ):
            stack.callback(handle.remove)
        stack.callback(setattr, F, "scaled_dot_product_attention", original)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        F.scaled_dot_product_attention = attention
        torch.backends.mha.set_fastpath_enabled(False)  # fused code of encoders in eval mode
        with Watch():
            yield recorded


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
    """What a call of scaled_dot_product_attention says; Refused if q, k and v do not say it all."""
    if output.dim() != 4:
        raise Refused(f"{output.dim()} axes, wanted 4: input, head, token, width")
    if dropout_p:
        raise Refused("dropout in use; call model.eval() first")
    n_inputs, _, n_tokens, _ = output.shape
    if key.shape[2] != n_tokens:
        raise Refused("queries and keys of two lengths (cross attention, or a cache of keys)")
    orders, present = meaning(attn_mask, is_causal, n_inputs, n_tokens)
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    root = abs(scale) ** 0.5 or 1.0

    def copy(x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        x = x.detach().to("cpu", torch.float32, copy=True).mul_(factor)
        return x.expand(n_inputs, *x.shape[1:])

    q, k, v, o = copy(query, scale / root), copy(key, root), copy(value), copy(output)
    return Call(q, k, v, o, orders, present, str(output.dtype).removeprefix("torch."))


def meaning(
    mask: torch.Tensor | None, is_causal: bool, n_inputs: int, n_tokens: int
) -> tuple[set[str], np.ndarray]:
    """Orders that a mask of a call can stand for, and the tokens that are present [input, token].

    mask: bool, true where a key is read, or a float that is added to the logit; its shape is that
    of the logits, or is broadcast to it. Refused if it is another mask.
    """
    allowed = np.ones((1, n_tokens, n_tokens), dtype=bool)
    if mask is not None:
        if mask.dtype != torch.bool:
            if not ((mask == 0) | (mask <= BLOCKED)).all():
                raise Refused("a bias for each pair of tokens")
            mask = mask == 0
        mask = mask[(None,) * (4 - mask.dim())]  # [input, head, query, key]
        if (mask != mask[:, :1]).any():
            raise Refused("a mask of its own for each head")
        allowed = allowed & mask[:, 0].cpu().numpy()
    if is_causal:
        allowed = np.tril(allowed)
    found = [_order(rows) for rows in allowed]
    orders = set.intersection(*(orders for orders, _ in found))
    if not orders:
        raise Refused("causal for some inputs, bidirectional for others")
    present = np.array([tokens for _, tokens in found])
    return orders, np.broadcast_to(present, (n_inputs, n_tokens))


def _order(allowed: np.ndarray) -> tuple[set[str], np.ndarray]:
    """The same for one input: allowed [query, key].

    An absent token is read by none; what it reads does not matter. Causal masks with padding on the
    left leave its rows empty, which some models then open for all keys, to avoid 0 / 0.
    """
    readable = allowed.any(0)
    opened = np.logical_and.accumulate(allowed.all(1))  # rows at the beginning that read all
    padded = allowed[~opened].any(0)
    lower = np.tri(len(allowed), dtype=bool)
    orders = {
        "bidirectional": (allowed == readable)[readable].all(),
        "causal": (allowed == readable & lower)[readable].all(),
    }
    if not readable.any():
        raise Refused("an input without a token")
    if any(orders.values()):
        return {order for order, holds in orders.items() if holds}, readable
    if padded.any() and not padded[opened].any() and (allowed == padded & lower)[padded].all():
        return {"causal"}, padded
    query, key = np.nonzero(allowed & padded[:, None])
    distance = np.subtract.outer(range(len(allowed)), range(len(allowed)))
    band = (distance >= (query - key).min(initial=0)) & (distance <= (query - key).max(initial=0))
    if (allowed == band & padded)[padded].all():
        raise Refused("a sliding window shorter than the sequence")
    raise Refused("a mask that is neither padding nor causal")


def _layer(calls: dict[int, Call | str]) -> Layer:
    """The layer that its calls make, with the check of its output; Refused if it has no order."""
    good = {i: call for i, call in calls.items() if not isinstance(call, str)}
    for call in calls.values():
        if isinstance(call, str):
            raise Refused(call)
    orders = set.intersection(*(call.orders for call in good.values()))
    if not orders:
        raise Refused("causal for some inputs, bidirectional for others")
    order = min(orders)
    difference = max(_difference(call, order == "causal") for call in good.values())
    dtype = next(iter(good.values())).dtype
    if not difference <= TOLERANCE.get(dtype, 1e-3):
        raise Refused(f"softmax(q.k) v is not its output (relative difference {difference:.0e})")
    return Layer(good, order, difference)


def _difference(call: Call, causal: bool) -> float:
    """Largest relative difference of softmax(q.k) v from the output, of all inputs and heads."""
    worst = []
    for i, present in enumerate(call.present):
        arrays = [call.values(name, i)[:, present] for name in ("q", "k", "v", "output")]
        for q, k, v, output in zip(*(array.astype(np.float64) for array in arrays)):
            logit = q @ k.T  # [query, key]
            if causal:
                logit[np.triu_indices(len(q), 1)] = -np.inf
            weight = np.exp(logit - logit.max(1, keepdims=True))
            error = weight @ v / weight.sum(1, keepdims=True) - output
            worst.append(np.abs(error).max() / (np.abs(output).max() or 1))
    return float(np.max(worst))  # NaN if one is


def _presence(group: dict[str, Layer]) -> list[np.ndarray]:
    """The tokens of each input of the layers of a file: bool [token]."""
    layer = next(iter(group.values()))
    return [present for call in layer.calls.values() for present in call.present]


def _fitting(
    groups: list[dict[str, Layer]],
    inputs: Sequence[str] | None,
    tokens: Sequence[Sequence[str]] | None,
) -> list[tuple[Sequence[str] | None, Sequence[Sequence[str]] | None]]:
    """inputs and tokens for each group, None where they do not fit; ValueError if they fit none."""
    lengths = [[len(present) for present in _presence(group)] for group in groups]
    named = [inputs is not None and len(inputs) == len(group) for group in lengths]
    told = [tokens is not None and [*map(len, tokens)] == group for group in lengths]
    if inputs is not None and not any(named):
        raise ValueError(f"inputs: got {len(inputs)} names, wanted {len(lengths[0])}")
    if inputs is not None and len({*inputs}) < len(inputs):
        raise ValueError("inputs: two of them have the same name")
    if tokens is not None and not any(told):
        got, wanted = ([*map(len, tokens)], lengths[0])
        raise ValueError(f"tokens: got {got} texts, wanted {wanted}, padding included")
    return [(inputs if a else None, tokens if b else None) for a, b in zip(named, told)]


def _write(
    path: Path,
    group: dict[str, Layer],
    inputs: Sequence[str] | None,
    tokens: Sequence[Sequence[str]] | None,
) -> None:
    """Write a file of layers of one look, a layer and an input at a time."""
    present = _presence(group)
    n_tokens = max(map(len, present))
    call = next(iter(next(iter(group.values())).calls.values()))
    sizes = dict(zip(DIMS, (len(present), len(group), call.output.shape[1], n_tokens)))
    widths = {"d_head": call.q.shape[-1], "d_value": call.v.shape[-1]}
    with netCDF4.Dataset(path, "w") as file:
        file.setncattr("dtype", call.dtype)
        file.setncattr("source", f"record_attention.py {VERSION}, torch {torch.__version__}")
        for dim, size in (sizes | widths).items():
            file.createDimension(dim, size)

        def texts(name: str, dims: tuple[str, ...], values: Any) -> None:
            file.createVariable(name, str, dims)[:] = np.array(values, dtype=object)

        texts("layer", ("layer",), list(group))
        texts("order", ("layer",), [layer.order for layer in group.values()])
        if inputs is not None:
            texts("input", ("input",), [str(name) for name in inputs])
        if tokens is not None:
            rows = [[str(text) for text in row] for row in tokens]
            texts("text", DIMS[::3], [row + [""] * (n_tokens - len(row)) for row in rows])
        mask = [np.pad(tokens, (0, n_tokens - len(tokens))) for tokens in present]
        file.createVariable("mask", "i1", DIMS[::3])[:] = np.array(mask, dtype=np.int8)
        for name, array in (("q", "q"), ("k", "k"), ("v", "v"), ("model_output", "output")):
            width = "d_head" if name in ("q", "k") else "d_value"
            chunk = (1, 1, 1, n_tokens, widths[width])
            options: dict[str, Any] = {"zlib": True, "complevel": 1, "chunksizes": chunk}
            variable = file.createVariable(name, "f4", (*DIMS, width), **options)
            for at, layer in enumerate(group.values()):
                rows_of = ((call, i) for call in layer.calls.values() for i in range(len(call.q)))
                for row, (call, i) in enumerate(rows_of):
                    values = call.values(array, i)  # [head, token, width]
                    missing = n_tokens - values.shape[1]
                    variable[row, at] = np.pad(values, ((0, 0), (0, missing), (0, 0)))


_HEADER = (
    "file", "layers", "heads", "d_head", "d_value", "tokens", "inputs", "order", "worst difference"
)  # fmt: skip


def _row(file: str, group: dict[str, Layer]) -> tuple[str, ...]:
    """The row of the table for one file."""
    present = _presence(group)
    layer = next(iter(group.values()))
    call = next(iter(layer.calls.values()))
    orders = Counter(layer.order for layer in group.values())
    order = ", ".join(f"{n} {name}" if len(orders) > 1 else name for name, n in orders.items())
    worst = max(layer.difference for layer in group.values())
    sizes = (len(group), call.output.shape[1], call.q.shape[-1], call.v.shape[-1])
    sizes += (max(map(len, present)), len(present))
    return file, *map(str, sizes), order, f"{worst:.1e} ({call.dtype})"
