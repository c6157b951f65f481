"""Fit the network to standard attention: measured errors beside the closed form, for every head."""

import numpy as np
import torch
import xarray as xr

from tripartite import theory
from tripartite.attention import log_key_weight
from tripartite.statistics import over_seeds, pooled_correlation
from tripartite.symmetries import Symmetry, transform

PER_HEAD = ("n_features", "layer", "head")
PER_QUERY = ("input", "layer", "head", "token")
CLOSED_FORM = ("performer", "generalized_positive", "hyperbolic")


def fit(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    states: xr.Dataset,
    feature_map: str = "performer",
    order: str = "bidirectional",
    leak_presynaptic: float = 0.0,
) -> xr.Dataset:
    """Return the neurons each head needs (closed form), and errors and correlations with intervals.

    All are over the inputs on which networks were run. Statistics are pooled over queries, inputs and
    seeds, with 95 % intervals over seeds; heads that were not simulated are NaN in them. The closed form
    is for every head, and NaN for feature maps that have none.
    """
    used = states["computed"].any(("n_features", "seed", "layer", "head")).values  # [input]
    mask = qkv["mask"].values & used[:, None]  # [input, token]
    log_z = attention["log_normalizer"].transpose(*PER_QUERY).values
    log_variance = log_variances(qkv, log_z, states, mask, feature_map, order, leak_presynaptic)
    needed = theory.log10_features_needed(log_variance).numpy()  # [layer, head, query]
    variables = {
        "log10_features_needed": (PER_HEAD[1:], np.median(needed, -1)),
        "log10_features_needed_q10": (PER_HEAD[1:], np.quantile(needed, 0.1, -1)),
        "log10_features_needed_q90": (PER_HEAD[1:], np.quantile(needed, 0.9, -1)),
    }
    size = np.log10(states["n_features"].values)[:, None, None]
    one_neuron = closed_forms(log_variance)
    for name, values in one_neuron.items():
        variables[name] = (PER_HEAD, values - size / 2)
    for name, values in measured(states, log_z, mask).items():
        variables[name] = (PER_HEAD, values)
    # ASSUME: a sample holds the draws that carry the rms only in the Gaussian phase of the random-energy
    # model, m > R^2; elsewhere its scatter over seeds says nothing about how far off it is.
    with np.errstate(
        invalid="ignore"
    ):  # NaN where there is no closed form: nothing is known of the phase
        log_r = np.logaddexp(0, np.log(100) * one_neuron["log10_normalizer_error_rms_closed_form"])
    unsampled = ~(size >= 2 * log_r / np.log(10))
    for bound in ("normalizer_error_rms_low", "normalizer_error_rms_high"):
        variables[bound] = (PER_HEAD, np.where(unsampled, np.nan, variables[bound][1]))

    variables["log_normalizer"] = (PER_QUERY, log_z)
    low, middle, high = _trace(states, mask)
    for name, values in (("", middle), ("_low", low), ("_high", high)):
        variables[f"log_calcium{name}"] = (("n_features", *PER_QUERY), values)
    return xr.Dataset(
        variables, coords={name: states[name] for name in ("n_features", "input", "layer", "head")}
    )


def log_variances(
    qkv: xr.Dataset, log_z: np.ndarray, states: xr.Dataset, mask: np.ndarray, feature_map: str,
    order: str, leak: float,
) -> torch.Tensor:  # fmt: skip
    """ln of the relative variance of one neuron's estimate, of all queries [layer, head, query]."""
    symmetry = Symmetry(*(torch.from_numpy(states[name].values) for name in Symmetry._fields))
    a = torch.from_numpy(states["feature_a"].values)
    parts = []
    for i in np.flatnonzero(mask.any(1)):
        present = mask[i]
        q, k = (torch.from_numpy(qkv[name].values[i][:, :, present]).double() for name in "qk")
        q, k, log_gain, log_shift = transform(q, k, symmetry)
        log_normalizer = torch.from_numpy(log_z[i][:, :, present]) - log_shift
        if feature_map not in CLOSED_FORM:
            parts.append(torch.full_like(log_normalizer, torch.nan))
            continue
        everything = torch.ones(log_normalizer.shape, dtype=torch.bool)
        log_weight = log_key_weight(everything, order == "causal", leak) + log_gain[..., None, :]
        log_r = theory.log_second_moment(q, k, log_normalizer, log_weight, a)
        log_variance = theory.log_variance(log_r)
        if feature_map == "hyperbolic":
            log_mirror = theory.log_mirror_moment(q, k, log_normalizer, log_weight)
            log_variance = theory.log_mirrored_variance(log_variance, log_mirror)
        parts.append(log_variance)
    return torch.cat(parts, dim=-1)


def closed_forms(log_variance: torch.Tensor) -> dict[str, np.ndarray]:
    """log10 of the normaliser errors at m = 1, from [layer, head, query] to [layer, head]."""
    n_queries = log_variance.shape[-1]
    log_rms = (torch.logsumexp(log_variance, -1) - np.log(n_queries)) / 2
    log_median = theory.log_median_error(log_variance / 2)
    return {
        "log10_normalizer_error_closed_form": (log_median / np.log(10)).numpy(),
        "log10_normalizer_error_rms_closed_form": (log_rms / np.log(10)).numpy(),
    }


def measured(states: xr.Dataset, log_z: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Each statistic with its interval, [n_features, layer, head]; NaN where no network was run."""

    def pool(values: np.ndarray) -> np.ndarray:  # [seed, point, n] -> [point, seed * n]
        return np.moveaxis(values, 0, 1).reshape(values.shape[1], -1)

    def median(values: np.ndarray) -> np.ndarray:
        return np.median(pool(values), -1)

    def rms(values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.sqrt(np.mean(np.square(pool(values)), -1))

    def mean(values: np.ndarray) -> np.ndarray:
        return np.mean(pool(values), -1)

    inputs = np.flatnonzero(mask.any(1))
    results = {}
    for size in range(states.sizes["n_features"]):
        seeds = np.flatnonzero(states["draw"].values[size] >= 0)
        computed = states["computed"].values[size][seeds][:, inputs]
        layer, head = np.nonzero(computed.all((0, 1)))
        here = {
            name: np.moveaxis(states[name].values[size][seeds], 1, -2)[:, layer, head][..., mask]
            for name in ("log_calcium", "calcium_sign")
        }  # [seed, point, query]
        target = np.moveaxis(log_z, 0, -2)[layer, head][..., mask]  # [point, query]
        output_error = states["output_error"].values[size][seeds][:, inputs][:, :, layer, head]
        positive = here["calcium_sign"] > 0
        with np.errstate(over="ignore"):  # beyond float64 an error is infinite
            ratio = here["calcium_sign"] * np.exp(here["log_calcium"] - target)
        error = np.abs(ratio - 1)
        # One network's correlation, on Fisher's scale, where means and intervals over seeds are sound.
        log_p = np.where(positive.all((0, 2))[:, None], here["log_calcium"], np.nan)
        r = pooled_correlation(log_p, np.broadcast_to(target, log_p.shape))
        fisher_z = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))[..., None]  # [seed, point, 1]

        def put(name: str, values: np.ndarray) -> None:
            shape = (states.sizes["n_features"], *states["computed"].shape[-2:])
            results.setdefault(name, np.full(shape, np.nan))[size, layer, head] = values

        for name, statistic, values, scale in (
            ("normalizer_error", median, error, "log"),
            ("normalizer_error_rms", rms, error, "log"),
            ("output_error", mean, np.moveaxis(output_error, 1, -1), "log"),
            ("correlation", mean, fisher_z, "linear"),
        ):
            for suffix, bound in zip(("", "_low", "_high"), over_seeds(statistic, values, scale)):
                put(name + suffix, np.tanh(bound) if name == "correlation" else bound)
        put("share_not_positive", 1 - positive.mean((0, 2)))
    return results


def _trace(states: xr.Dataset, mask: np.ndarray) -> np.ndarray:
    """Quantiles .1, .5, .9 over seeds of log_calcium where it is positive in all of them, else NaN.

    [3, n_features, *PER_QUERY]
    """
    log_p = np.where(states["calcium_sign"].values > 0, states["log_calcium"].values, np.nan)
    quantiles = np.full((3, log_p.shape[0], *log_p.shape[2:]), np.nan)
    for size, draws in enumerate(states["draw"].values):
        seeds = np.flatnonzero(draws >= 0)
        run = states["computed"].values[size][seeds].all(0)[..., None] & mask[:, None, None, :]
        values = log_p[size][seeds][:, run]
        quantiles[:, size, run] = np.quantile(values, (0.1, 0.5, 0.9), axis=0)
    return quantiles
