"""Find the standard attention that explains the attention of simulated networks best."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from tripartite import phases, theory
from tripartite.explanation import (
    EXPLANATIONS,
    LEAST_POINTS,
    SHIFTS,
    explain_attention,
    inverse_temperature_shift,
    predicted_inverse_temperature,
)
from tripartite.features import draw_neurons
from tripartite.network import Tokens, read
from tripartite.statistics import cluster_bootstrap
from tripartite.streams import stream

ESTIMATES = (
    "inverse_temperature",
    "uniform_share",
    "decay",
    "key_bias_sd",
    "output_gain",
)
ENDS = ("", "_low", "_high")


def explain(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    n_features: list[int],
    n_seeds: int,
    heads: str | list[list[int]],
    seed: int,
    data_of: str,
    device: str,
    inputs: str | list[str] = "all",
    workers: int = 1,
) -> xr.Dataset:
    """Return the parameters of each explanation, how well it explains, and the predicted temperature.

    Networks of plain positive features get one-hot values, so that their outputs are their attention
    weights. Estimates are means over inputs and seeds with 95 % intervals over both (cluster bootstrap);
    heads and inputs as in simulate, whose hidden weights these are. Where a network cannot be explained,
    its head is NaN at that size, and `note` says why.
    """
    names = [str(name) for name in qkv["input"].values]
    chosen_inputs = range(len(names)) if inputs == "all" else [names.index(x) for x in inputs]
    every_head = itertools.product(range(qkv.sizes["layer"]), range(qkv.sizes["head"]))
    chosen = list(every_head) if heads == "all" else [tuple(pair) for pair in heads]
    mask = torch.from_numpy(qkv["mask"].values)
    of_heads = (len(n_features), qkv.sizes["layer"], qkv.sizes["head"])
    per_network = (len(EXPLANATIONS), *of_heads, len(chosen_inputs), n_seeds)
    found = {name: np.full(per_network, np.nan) for name in (*ESTIMATES, "aic", "bic", "kl")}
    sigma_squared = np.full(of_heads[1:], np.nan)
    notes = np.full(of_heads, "not run", dtype=object)

    def run(layer: int, head: int) -> None:
        notes[:, layer, head] = ""
        log_r = []
        for place, i in enumerate(chosen_inputs):
            q, k, v = (
                torch.from_numpy(qkv[name].values[i, layer, head]).double()[mask[i]]
                for name in "qkv"
            )
            log_z = torch.from_numpy(attention["log_normalizer"].values[i, layer, head])[mask[i]]
            log_r.append(theory.log_second_moment(q, k, log_z, torch.zeros(1, len(q)).double()))
            logits = (q @ k.T).numpy()
            age = np.broadcast_to(np.arange(len(q))[::-1].astype(float), logits.shape)
            tokens = Tokens(q, k, torch.eye(len(q)).double(), torch.zeros(len(q)).double())
            tokens = Tokens(*(x.to(device) for x in tokens))
            for index in range(n_seeds):
                neurons = draw_neurons(
                    "performer",
                    stream(seed, data_of, "omega", index, layer, head),
                    stream(seed, data_of, "phase", index, layer, head),
                    n_features[-1],
                    q.shape[1],
                )
                networks = read([tokens], neurons, [(0, m) for m in n_features])
                for size, ((_, _, weights),) in enumerate(networks):
                    at = (size, layer, head, place, index)
                    note = _explain_one(found, at, weights.cpu().numpy(), logits, age, v.numpy())
                    notes[size, layer, head] = notes[size, layer, head] or note
        sigma_squared[layer, head] = float(torch.cat(log_r).median())

    bar_format = "{desc}: {percentage:.0f} % of {total} heads, {elapsed} gone, {remaining} left\n"
    with ThreadPoolExecutor(workers if device == "cpu" else 1) as pool:
        for _ in tqdm(
            pool.map(lambda pair: run(*pair), chosen),
            total=len(chosen),
            desc="explain",
            mininterval=5,
            maxinterval=5,
            bar_format=bar_format,
        ):
            pass
    return xr.Dataset(
        _summaries(found, chosen)
        | _predictions(found, sigma_squared, n_features, chosen)
        | {"note": (("n_features", "layer", "head"), notes)},
        coords={
            "explanation": list(EXPLANATIONS),
            "n_features": np.array(n_features, dtype=np.int64),
            **{name: qkv[name] for name in ("layer", "head")},
        },
    )


def _explain_one(
    found: dict, at: tuple, weights: np.ndarray, logits: np.ndarray, age: np.ndarray, v: np.ndarray
) -> str:
    """Put all explanations of one network [T, N] into its place; the note of the first that fails."""
    silent = ~(weights.sum(1) > 0)
    if silent.any():
        return f"{silent.sum()} queries have no response"
    note = ""
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.nansum(weights * np.log(weights), 1)
    for e, explanation in enumerate(EXPLANATIONS):
        fitted = explain_attention(weights, logits, age, explanation)
        if fitted.note:
            note = note or f"{explanation}: {fitted.note}"
            continue
        output, best = weights @ v, np.exp(fitted.log_attention) @ v
        values = {name: fitted.estimates[name] for name in ESTIMATES[:3]}
        values |= {
            "key_bias_sd": fitted.estimates["key_bias"].std(),
            "output_gain": (output * best).sum() / (np.square(best).sum() or np.nan),
            "aic": fitted.aic,
            "bic": fitted.aic + (math.log(len(weights)) - 2) * fitted.n_parameters,
            "kl": float(entropy.mean()) - fitted.log_likelihood / len(weights),
        }
        for name, value in values.items():
            found[name][(e, *at)] = value
    return note


def _summaries(found: dict[str, np.ndarray], chosen: list[tuple]) -> dict[str, tuple]:
    """Means over inputs and seeds, with intervals; NaN where any network of a head is not explained.

    An explanation that cannot be fitted to a network is not the best one there.
    """
    dims = ("explanation", "n_features", "layer", "head")
    shape = found["aic"].shape[:4]
    layer, head = np.array(chosen).T
    variables = {}
    n_clusters = found["aic"].shape[-2:]
    for name in ESTIMATES:
        triple = np.full((3, *shape), np.nan)
        values = np.moveaxis(found[name][:, :, layer, head], (-2, -1), (0, 1))
        triple[0][:, :, layer, head] = values.mean((0, 1))  # one network has no interval
        if max(n_clusters) > 1:
            rng = stream(0, "bootstrap", name)
            triple[:, :, :, layer, head] = cluster_bootstrap(
                lambda x: x.mean((0, 1)), values, 2, rng, n_draws=1000
            )
        variables |= {name + end: (dims, one) for end, one in zip(ENDS, triple)}
    aic = found["aic"]
    lowest = np.where(np.isnan(aic), np.inf, aic).min(0)
    lowest = np.where(np.isfinite(lowest), lowest, np.nan)
    best = np.where(np.isnan(lowest), np.nan, aic == lowest)
    variables["delta_aic"] = (dims, (aic - lowest).mean((-2, -1)))
    bic = found["bic"]
    variables["delta_bic"] = (
        dims,
        (bic - np.where(np.isnan(bic), np.inf, bic).min(0)).mean((-2, -1)),
    )
    variables["share_best"] = (dims, best.mean((-2, -1)))
    variables["kl"] = (dims, found["kl"].mean((-2, -1)))
    return variables


def _predictions(
    found: dict[str, np.ndarray],
    sigma_squared: np.ndarray,
    n_features: list[int],
    chosen: list[tuple],
) -> dict[str, tuple]:
    """Inverse temperature by the random-energy model, and the shift at which it fits these networks."""
    layer, head = np.array(chosen).T
    log_m = np.log(n_features)[:, None]
    of_heads = sigma_squared[layer, head]  # [point]
    reach, sigma = phases.reach(log_m, of_heads), np.sqrt(of_heads)
    place = list(EXPLANATIONS).index("temperature")
    measured = found["inverse_temperature"][place][:, layer, head].mean((-2, -1))  # [m, point]
    usable = (phases.phase(log_m, of_heads) < 2) & np.isfinite(measured) & np.isfinite(reach)
    points = np.flatnonzero(usable.any(0))
    note, triple = "", (np.nan,) * 3
    if len(points) < 2 or usable.sum() < LEAST_POINTS:
        note = (
            f"{usable.sum()} networks of {len(points)} heads outside the Gaussian phase, "
            f"{LEAST_POINTS} of 2 needed"
        )
    else:
        everything = np.stack([reach, np.broadcast_to(sigma, reach.shape), measured, usable], -1)

        def shift(x: np.ndarray) -> np.ndarray:  # [point, m, 4]
            x = x[x[..., 3] == 1]
            return np.asarray(inverse_temperature_shift(*x[:, :3].T))

        rng = stream(0, "bootstrap", "shift")
        triple = cluster_bootstrap(shift, everything[:, points].swapaxes(0, 1), 1, rng, n_draws=500)
        if min(abs(triple[0] - end) for end in SHIFTS) < 1e-3:
            note, triple = (
                f"no shift between {SHIFTS[0]:g} and {SHIFTS[1]:g} fits best",
                (np.nan,) * 3,
            )
    variables = {
        "sigma_squared": (("layer", "head"), sigma_squared),
        "reach_shift_note": ((), note),
    }
    variables |= {f"reach_shift{end}": ((), float(one)) for end, one in zip(ENDS, triple)}
    for name, moved in (("unshifted", 0.0), ("predicted", float(triple[0]))):
        values = np.full((len(n_features), *sigma_squared.shape), np.nan)
        with np.errstate(invalid="ignore"):
            one = predicted_inverse_temperature(reach, sigma, moved)
        outside = phases.phase(log_m, of_heads) < 2
        values[:, layer, head] = np.where(outside, one, np.nan)
        variables[f"inverse_temperature_{name}"] = (("n_features", "layer", "head"), values)
    return variables
