"""Take the astrocytes out of a whole pretrained transformer, of one layer or of all."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from tripartite import job
from tripartite.contracts import UserError
from tripartite.heads import dataset, progress
from tripartite.kinds.ablation import knocked_out
from tripartite.kinds.ablation.knocked_out import KNOCKOUTS, cosine
from tripartite.knockouts import log_best_constant
from tripartite.pretrained import extraction
from tripartite.pretrained.transformers import softmax_attention
from tripartite.statistics import over_seeds

ALL = "all"  # layers
LATE = "knockout_lagged"
LIMITS = {  # of values and of the ends of their intervals
    "cosine": (-1, 1),
    "cosine_chance": (-1, 1),
    "attended_cosine": (-1, 1),
    "top_token_kept": (0, 1),
}
OF_LAYER = ("attended_cosine", "head_error", "median_log_gain", "sd_log_gain")  # the changed layer


def ablate(
    raw: list[Path],
    model: str,
    title: str,
    wheel: str,
    inputs: list[str],
    calibrated_on: list[str],
    sha256: dict[str, str],
    workers: int,
) -> xr.Dataset:
    """Return how far the states of a transformer without astrocytes agree with those of the whole.

    raw, title, wheel, inputs and sha256 are as in generate; inputs that calibrate, to which the
    constants are fitted, are not tested. Every layer loses its astrocytes by itself, and then all
    do. Numbers are means over inputs with 95 % intervals (Student's t over inputs), NaN for a
    single input; in float64. UserError where an input cannot be read.
    """
    inputs = [name for name in inputs if name not in calibrated_on]
    archives, texts = job.open_sources(raw, sha256)
    try:
        contents = extraction.contents(model, [*calibrated_on, *inputs], texts, archives)
        transformer = extraction.open_model(model, archives[wheel], torch.float64)
        read = [transformer.read(contents[name]) for name in calibrated_on]
        intact = {name: transformer.read(contents[name])[3] for name in inputs}
    except (ValueError, KeyError) as error:
        raise UserError(f"model {model}: {error}") from error
    calibrating = [queries_of(states) for states in read]
    n_layers, n_heads = len(transformer.layers), calibrating[0][0].log_z.shape[0]
    fitted = [knocked_out.pooled([one[layer] for one in calibrating]) for layer in range(n_layers)]
    best = [log_best_constant(*one) for one in fitted]
    inside = knocked_out.constants_inside(transformer.layers, [states[3][0] for states in read])
    whole = {name: knocked_out.of_layers(hidden, n_layers) for name, hidden in intact.items()}
    lesions = [*map(str, range(n_layers)), ALL]

    def one_pass(case: tuple[str, str]) -> dict[str, np.ndarray]:
        """What one input and lesion gives for all kinds, by the names of variables."""
        name, lesion = case
        changed = range(n_layers) if lesion == ALL else [int(lesion)]
        seen: dict[str, Tensor] = {}
        constants = inside if lesion == ALL else best
        attention = knocked_out.without_astrocytes(changed, fitted, constants, seen)
        x, cosines = intact[name][changed[0]], torch.ones(len(KNOCKOUTS), n_layers).double()
        for layer in range(changed[0], n_layers):  # all that comes before is intact
            x = transformer.layers[layer](x, partial(attention, layer))[0]  # [kind, token, d_model]
            left = transformer.final(x) if layer == n_layers - 1 else x
            cosines[:, layer] = cosine(left, whole[name][layer]).mean(-1)
        kept = torch.full([len(KNOCKOUTS)], torch.nan).double()
        if transformer.token_logits:
            was = transformer.token_logits(whole[name][-1]).argmax(-1)
            kept = (transformer.token_logits(left).argmax(-1) == was).double().mean(-1)
        measured = {
            "cosine": cosines,
            "top_token_kept": kept,
            "attended_cosine": seen["attended_cosine"],
            "head_error": seen["head_error"],
            "median_log_gain": seen["log_gain"].quantile(0.5, -1),
            "sd_log_gain": seen["log_gain"].std(-1, correction=0),
        }
        return {variable: x.numpy() for variable, x in measured.items()}

    cases = list(product(inputs, lesions))
    with ThreadPoolExecutor(workers) as pool:
        passes = list(progress(pool.map(one_pass, cases), "ablate", "passes", len(cases)))
    found = {"cosine_chance": np.stack([knocked_out.chance(x).numpy() for x in whole.values()])}
    for name, one in passes[0].items():
        values = np.stack([x[name] for x in passes]).reshape(len(inputs), len(lesions), *one.shape)
        values = np.moveaxis(values, 2, 1)  # [input, kind, lesion, ...]
        found[name] = values[:, :, :-1] if name in OF_LAYER else values
    result: dict[str, object] = {
        name: over_inputs(x, "linear", LIMITS.get(name)) for name, x in found.items()
    }
    result |= dynamics(found["cosine"][..., -1])
    result["label"] = [one.label for one in KNOCKOUTS.values()]
    result["constant"] = [one.constant for one in KNOCKOUTS.values()]
    coords = {
        "perturbation": list(KNOCKOUTS),
        "lesion": lesions,
        "layer": range(n_layers),
        "head": range(n_heads),
    }
    return dataset("ablation", result, coords, data=title)


def queries_of(states: tuple) -> list[knocked_out.Queries]:
    """Queries of each layer of a whole model that has read an input, of q, k and v [layer, ...]."""
    return [
        knocked_out.queries(q, k, softmax_attention(layer, q, k, v))
        for layer, (q, k, v) in enumerate(zip(*states[:3]))
    ]


def dynamics(cosines: np.ndarray) -> dict[str, object]:
    """What dynamics adds to the constant that serves best, of cosines [input, kind, lesion].

    The best constant is chosen by the mean over the very inputs, so that no other looks better.
    """
    names = np.array(list(KNOCKOUTS))
    constant = np.array([one.constant for one in KNOCKOUTS.values()])
    mean = np.where(constant[:, None], cosines.mean(0), -np.inf)
    best = mean.argmax(0)  # [lesion]
    of_best = np.take_along_axis(cosines, best[None, None], 1)[:, 0]  # [input, lesion]
    late = cosines[:, list(KNOCKOUTS).index(LATE)]
    return {
        "best_constant": names[best],
        "dynamics_adds": over_inputs(1 - of_best, "log"),
        "late_costs": over_inputs(of_best - late, "linear"),
    }


def over_inputs(
    values: np.ndarray, scale: str, limits: tuple[float, float] | None = None
) -> tuple[np.ndarray, ...]:
    """Mean over inputs, the first axis, and its interval, within limits; NaN for a single input."""
    mean = values.mean(0)
    triple = mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    if len(values) > 1:
        triple = over_seeds(lambda x: x.mean(0), values, scale)
    return tuple(np.clip(x, *(limits or (-np.inf, np.inf))) for x in triple)
