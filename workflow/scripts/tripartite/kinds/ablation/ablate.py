"""Take the astrocytes out of a whole pretrained transformer, of one layer or of all, and see what is left.

An astrocyte that responds with p'_t instead of the normaliser Z_t multiplies a head's output by the gain
Z_t / p'_t, whatever p' is (Kozachkov, Kastanenka & Krotov 2023, eq. 12, has p = Z). Each head's
direction is kept, but heads of other gains are mixed, layers are added to what came before them, norms
rescale the sum, and the next layers read it: what a transformer makes of that is measured here.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from tripartite import job
from tripartite.contracts import UserError
from tripartite.perturbations import constant, lagged, towards_mean
from tripartite.pretrained import extraction
from tripartite.pretrained.transformers import Attention, softmax_attention
from tripartite.statistics import over_seeds

KNOCKOUTS = {  # ln Z of a head's queries [token] -> ln p'
    "knockout_none": lambda log_z: constant(log_z, 1.0),
    "knockout_mean": lambda log_z: towards_mean(log_z, 1.0),
    "knockout_lagged": lambda log_z: lagged(log_z, 1.0),
}
ALL = "all"


def ablate(
    raw: list[Path],
    model: str,
    title: str,
    wheel: str,
    inputs: list[str],
    sha256: dict[str, str],
    kinds: list[str],
    workers: int = 1,
) -> xr.Dataset:
    """Return how far the states of a transformer without astrocytes agree with those of the whole one.

    raw, title, wheel, inputs and sha256 are as in generate; kinds are names of KNOCKOUTS. Every layer
    loses its astrocytes by itself, and then all do. Numbers are means over inputs with 95 % intervals
    (jackknife, Student's t), NaN for a single input; in float64. UserError where an input cannot be read.
    """
    archives, texts = job.open_sources(raw, sha256)
    try:
        contents = extraction.contents(model, inputs, texts, archives)
        transformer = extraction.open_model(model, archives[wheel], torch.float64)
        intact = {name: transformer.read(contents[name]) for name in inputs}
    except (ValueError, KeyError) as error:
        raise UserError(f"model {model}: {error}") from error
    n_layers, n_heads = intact[inputs[0]][0].shape[:2]
    lesions = [*map(str, range(n_layers)), ALL]
    found = {
        "cosine": np.full((len(inputs), len(kinds), len(lesions), n_layers), np.nan),
        "top_token_kept": np.full((len(inputs), len(kinds), len(lesions)), np.nan),
        "attended_cosine": np.full((len(inputs), len(kinds), n_layers), np.nan),
        "median_log_gain": np.full((len(inputs), len(kinds), n_layers, n_heads), np.nan),
        "sd_log_gain": np.full((len(inputs), len(kinds), n_layers, n_heads), np.nan),
        "cosine_chance": np.full((len(inputs), n_layers), np.nan),
    }

    def run(case: tuple[int, int, int]) -> None:
        place, row, column = case
        name, layers = inputs[place], range(n_layers) if lesions[column] == ALL else [column]
        seen = {}
        changed = without_astrocytes(kinds[row], layers, seen)
        hidden = transformer.read(contents[name], changed)[3]
        before = of_layers(intact[name][3], n_layers)
        found["cosine"][place, row, column] = cosine(of_layers(hidden, n_layers), before).mean(-1)
        if transformer.token_logits:
            top, was = (transformer.token_logits(x).argmax(-1) for x in (hidden[-1], before[-1]))
            found["top_token_kept"][place, row, column] = (top == was).double().mean()
        if lesions[column] != ALL:  # all that this layer reads is still intact
            at = place, row, column
            found["attended_cosine"][at] = seen["attended_cosine"]
            found["median_log_gain"][at] = seen["log_gain"].quantile(0.5, -1)
            found["sd_log_gain"][at] = seen["log_gain"].std(-1, correction=0)

    for place, name in enumerate(inputs):
        found["cosine_chance"][place] = chance(of_layers(intact[name][3], n_layers))
    cases = list(product(range(len(inputs)), range(len(kinds)), range(len(lesions))))
    bar_format = "{desc}: {percentage:.0f} % of {total} passes, {elapsed} gone, {remaining} left\n"
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(run, cases)
        for _ in tqdm(
            done,
            total=len(cases),
            desc="ablate",
            mininterval=5,
            maxinterval=5,
            bar_format=bar_format,
        ):
            pass
    dims = {
        "cosine": ("perturbation", "lesion", "layer"),
        "top_token_kept": ("perturbation", "lesion"),
        "attended_cosine": ("perturbation", "layer"),
        "median_log_gain": ("perturbation", "layer", "head"),
        "sd_log_gain": ("perturbation", "layer", "head"),
        "cosine_chance": ("layer",),
    }
    variables = {}
    for name, values in found.items():
        ends = (
            values.mean(0),
            np.full(values.shape[1:], np.nan),
            np.full(values.shape[1:], np.nan),
        )
        if len(inputs) > 1:
            ends = over_seeds(lambda x: x.mean(0), values, "linear")
        limits = (0, 1) if name == "top_token_kept" else (-1, 1) if "cosine" in name else None
        for end, one in zip(("", "_low", "_high"), ends):
            variables[name + end] = (dims[name], np.clip(one, *limits) if limits else one)
    return xr.Dataset(
        variables,
        coords={
            "perturbation": list(kinds),
            "lesion": lesions,
            "layer": np.arange(n_layers),
            "head": np.arange(n_heads),
        },
        attrs={"data": title},
    )


def without_astrocytes(kind: str, layers: range | list[int], seen: dict) -> Attention:
    """Softmax attention whose heads in some layers have lost their astrocytes.

    Of the last of these layers, `seen` is given log_gain [head, token] and attended_cosine, that of the
    outputs of all heads side by side with what they would have been: mean over tokens.
    """

    def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        output = softmax_attention(layer, q, k, v)
        if layer not in layers:
            return output
        log_z = torch.logsumexp(q @ k.mT, -1).numpy()  # [head, token]
        with np.errstate(divide="ignore"):
            log_p = np.stack([KNOCKOUTS[kind](row) for row in log_z])
        seen["log_gain"] = torch.from_numpy(log_z - log_p)
        changed = seen["log_gain"].exp()[..., None] * output
        side_by_side = (x.movedim(0, -2).flatten(-2) for x in (changed, output))
        seen["attended_cosine"] = cosine(*side_by_side).mean()
        return changed

    return attention


def of_layers(hidden: Tensor, n_layers: int) -> Tensor:
    """The states [layer, token, d_model] that leave each layer, the last as the output of the model."""
    return torch.cat([hidden[1:n_layers], hidden[-1:]])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


def chance(states: Tensor) -> Tensor:
    """Mean cosine [layer] of states [layer, token, d_model] of two tokens of one input."""
    unit = torch.nn.functional.normalize(states, dim=-1)
    n = unit.shape[1]
    return (unit.sum(1).square().sum(-1) - n) / (n * (n - 1))
