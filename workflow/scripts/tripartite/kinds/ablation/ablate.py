"""Take the astrocytes out of a whole pretrained transformer, of one layer or of all."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from tripartite import job
from tripartite.contracts import UserError
from tripartite.heads import dataset, progress
from tripartite.kinds.ablation.knocked_out import (
    KNOCKOUTS,
    chance,
    cosine,
    of_layers,
    without_astrocytes,
)
from tripartite.pretrained import extraction
from tripartite.statistics import over_seeds

ALL = "all"  # layers
LIMITS = {  # of values and of the ends of their intervals
    "cosine": (-1, 1),
    "cosine_chance": (-1, 1),
    "attended_cosine": (-1, 1),
    "top_token_kept": (0, 1),
}
OF_LAYER = ("attended_cosine", "median_log_gain", "sd_log_gain")  # of the changed layer itself


def ablate(
    raw: list[Path],
    model: str,
    title: str,
    wheel: str,
    inputs: list[str],
    sha256: dict[str, str],
    kinds: list[str],
    workers: int,
) -> xr.Dataset:
    """Return how far the states of a transformer without astrocytes agree with those of the whole.

    raw, title, wheel, inputs and sha256 are as in generate; kinds are names of KNOCKOUTS. Every
    layer loses its astrocytes by itself, and then all do. Numbers are means over inputs with 95 %
    intervals (jackknife, Student's t), NaN for a single input; in float64. UserError where an input
    cannot be read.
    """
    archives, texts = job.open_sources(raw, sha256)
    try:
        contents = extraction.contents(model, inputs, texts, archives)
        transformer = extraction.open_model(model, archives[wheel], torch.float64)
        intact = {name: transformer.read(contents[name]) for name in inputs}
    except (ValueError, KeyError) as error:
        raise UserError(f"model {model}: {error}") from error
    n_layers, n_heads = intact[inputs[0]][0].shape[:2]
    whole = {name: of_layers(states[3], n_layers) for name, states in intact.items()}
    names = [name for name in KNOCKOUTS if name in kinds]
    lesions = [*map(str, range(n_layers)), ALL]

    def one_pass(case: tuple[str, str, str]) -> dict[str, np.ndarray]:
        """What one input, kind and lesion gives, by the names of variables."""
        name, kind, lesion = case
        layers = range(n_layers) if lesion == ALL else [int(lesion)]
        seen: dict[str, Tensor] = {}
        hidden = transformer.read(contents[name], without_astrocytes(kind, layers, seen))[3]
        left, before = of_layers(hidden, n_layers), whole[name]
        kept = torch.tensor(torch.nan, dtype=torch.float64)
        if transformer.token_logits:
            top, was = (transformer.token_logits(x[-1]).argmax(-1) for x in (left, before))
            kept = (top == was).double().mean()
        measured = {
            "cosine": cosine(left, before).mean(-1),
            "top_token_kept": kept,
            "attended_cosine": seen["attended_cosine"],
            "median_log_gain": seen["log_gain"].quantile(0.5, -1),
            "sd_log_gain": seen["log_gain"].std(-1, correction=0),
        }
        return {variable: x.numpy() for variable, x in measured.items()}

    cases = list(product(inputs, names, lesions))
    with ThreadPoolExecutor(workers) as pool:
        passes = list(progress(pool.map(one_pass, cases), "ablate", "passes", len(cases)))
    shape = (len(inputs), len(names), len(lesions))
    found = {"cosine_chance": np.stack([chance(whole[name]).numpy() for name in inputs])}
    for name, one in passes[0].items():
        found[name] = np.stack([x[name] for x in passes]).reshape(*shape, *one.shape)
    found |= {name: found[name][:, :, :-1] for name in OF_LAYER}  # all that it reads is intact
    values: dict[str, object] = {
        name: over_inputs(x, *LIMITS.get(name, (-np.inf, np.inf))) for name, x in found.items()
    }
    values["label"] = [KNOCKOUTS[name].label for name in names]
    coords = {
        "perturbation": names,
        "lesion": lesions,
        "layer": range(n_layers),
        "head": range(n_heads),
    }
    return dataset("ablation", values, coords, data=title)


def over_inputs(values: np.ndarray, low: float, high: float) -> tuple[np.ndarray, ...]:
    """Mean over inputs, the first axis, and its interval, within limits; NaN for a single input."""
    mean = values.mean(0)
    triple = mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    if len(values) > 1:
        triple = over_seeds(lambda x: x.mean(0), values, "linear")
    return tuple(np.clip(x, low, high) for x in triple)
