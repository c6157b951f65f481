"""Fit the network to standard attention: measured errors beside the closed form, for every head."""

import numpy as np
import torch
import xarray as xr

from tripartite import theory
from tripartite.statistics import over_seeds, pooled_correlation

PER_HEAD = ("n_features", "layer", "head")
PER_QUERY = ("input", "layer", "head", "token")


def fit(qkv: xr.Dataset, attention: xr.Dataset, states: xr.Dataset) -> xr.Dataset:
    """Return the neurons each head needs (closed form), and errors and correlations with intervals.

    Statistics are pooled over queries, inputs and seeds, with 95 % intervals over seeds; heads that
    were not simulated are NaN in them, but not in the closed form.
    """
    mask = qkv["mask"].values  # [input, token]
    log_z = attention["log_normalizer"].transpose(*PER_QUERY).values
    log_r = second_moments(qkv, log_z)  # [layer, head, query]
    needed = theory.log10_features_needed(log_r).numpy()
    variables = {
        "log10_features_needed": (PER_HEAD[1:], np.median(needed, -1)),
        "log10_features_needed_q10": (PER_HEAD[1:], np.quantile(needed, 0.1, -1)),
        "log10_features_needed_q90": (PER_HEAD[1:], np.quantile(needed, 0.9, -1)),
    }
    size = np.log10(states["n_features"].values)[:, None, None]
    one_neuron = closed_forms(log_r)
    for name, values in one_neuron.items():
        variables[name] = (PER_HEAD, values - size / 2)
    for name, values in measured(states, log_z, mask).items():
        variables[name] = (PER_HEAD, values)
    # ASSUME: a sample holds the draws that carry the rms only in the Gaussian phase of the random-energy
    # model, m > R^2; elsewhere its scatter over seeds says nothing about how far off it is.
    log10_r = np.logaddexp(0, np.log(100) * one_neuron["log10_normalizer_error_rms_closed_form"])
    unsampled = size < 2 * log10_r / np.log(10)
    for bound in ("normalizer_error_rms_low", "normalizer_error_rms_high"):
        variables[bound] = (PER_HEAD, np.where(unsampled, np.nan, variables[bound][1]))

    variables["log_normalizer"] = (PER_QUERY, log_z)
    low, middle, high = _trace(states, mask)
    for name, values in (("", middle), ("_low", low), ("_high", high)):
        variables[f"log_calcium{name}"] = (("n_features", *PER_QUERY), values)
    return xr.Dataset(
        variables, coords={name: states[name] for name in ("n_features", "input", "layer", "head")}
    )


def second_moments(qkv: xr.Dataset, log_z: np.ndarray) -> torch.Tensor:
    """ln R of all queries of all inputs, [layer, head, query], in float64."""
    parts = []
    for i, present in enumerate(qkv["mask"].values):
        q, k = (torch.from_numpy(qkv[name].values[i][:, :, present]).double() for name in "qk")
        log_normalizer = torch.from_numpy(log_z[i][:, :, present])
        everything = torch.ones(log_normalizer.shape, dtype=torch.bool)
        parts.append(theory.log_second_moment(q, k, log_normalizer, everything))
    return torch.cat(parts, dim=-1)


def closed_forms(log_r: torch.Tensor) -> dict[str, np.ndarray]:
    """log10 of the normaliser errors at m = 1, from ln R [layer, head, query] -> [layer, head]."""
    log_variance = theory.log_variance(log_r)
    n_queries = log_r.shape[-1]
    log_rms = (torch.logsumexp(log_variance, -1) - np.log(n_queries)) / 2
    log_median = theory.log_median_error(log_variance / 2)
    return {
        "log10_normalizer_error_closed_form": (log_median / np.log(10)).numpy(),
        "log10_normalizer_error_rms_closed_form": (log_rms / np.log(10)).numpy(),
    }


def measured(states: xr.Dataset, log_z: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Each statistic with its interval, [n_features, layer, head]; NaN where no network was run."""
    computed = states["computed"].values.all((1, 2))  # [n_features, layer, head]
    log_p = np.moveaxis(states["log_calcium"].values, 2, -2)  # m seed layer head input token
    log_p = log_p[..., mask]  # [n_features, seed, layer, head, query]
    target = np.moveaxis(log_z, 0, -2)[..., mask]  # [layer, head, query]
    output_error = np.moveaxis(
        states["output_error"].values, 2, -1
    )  # [m, seed, layer, head, input]
    m, layer, head = np.nonzero(computed)
    log_p = np.moveaxis(log_p, 1, 0)[:, m, layer, head]  # [seed, point, query]
    output_error = np.moveaxis(output_error, 1, 0)[:, m, layer, head]  # [seed, point, input]
    target = target[layer, head]  # [point, query]
    with np.errstate(over="ignore"):
        error = np.abs(np.expm1(log_p - target))

    def pool(values: np.ndarray) -> np.ndarray:  # [seed, point, n] -> [point, seed * n]
        return np.moveaxis(values, 0, 1).reshape(values.shape[1], -1)

    def median(values: np.ndarray) -> np.ndarray:
        return np.median(pool(values), -1)

    def rms(values: np.ndarray) -> np.ndarray:
        return np.sqrt(np.mean(np.square(pool(values)), -1))

    def mean(values: np.ndarray) -> np.ndarray:
        return np.mean(pool(values), -1)

    # One network's correlation, on Fisher's scale, where means and intervals over seeds are sound.
    r = pooled_correlation(log_p, np.broadcast_to(target, log_p.shape))
    fisher_z = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))[..., None]  # [seed, point, 1]

    results = {}
    for name, statistic, values, scale in (
        ("normalizer_error", median, error, "log"),
        ("normalizer_error_rms", rms, error, "log"),
        ("output_error", mean, output_error, "log"),
        ("correlation", mean, fisher_z, "linear"),
    ):
        bounds = over_seeds(statistic, values, scale)
        for suffix, bound in zip(("", "_low", "_high"), bounds):
            grid = np.full(computed.shape, np.nan)
            grid[m, layer, head] = np.tanh(bound) if name == "correlation" else bound
            results[name + suffix] = grid
    return results


def _trace(states: xr.Dataset, mask: np.ndarray) -> np.ndarray:
    """Quantiles .1, .5, .9 over seeds of log_calcium, [3, n_features, *PER_QUERY]."""
    log_p = states["log_calcium"].values
    quantiles = np.full((3, log_p.shape[0], *log_p.shape[2:]), np.nan)
    run = states["computed"].values.all((0, 1, 2))[None, ..., None] & mask[:, None, None, :]
    quantiles[:, :, run] = np.quantile(log_p[..., run], (0.1, 0.5, 0.9), axis=1)
    return quantiles
