"""Closed forms of a head: how far its networks err, from queries, keys and values alone."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from tripartite import theory


class Pairs(NamedTuple):
    """Queries and keys of one input as the hidden neurons of one head see them."""

    q: Tensor  # [T, D]
    k: Tensor  # [T, D]
    log_normalizer: Tensor  # [T], of what is seen
    log_weight: Tensor  # [T or 1, T], ln weight of each key for each query
    a: Tensor  # [D], parameter of the hidden weights in each direction


class OutputErrors(NamedTuple):
    """Errors of the output at m = 1: ln rms relative error, and bias of the gain."""

    log_error: float  # the astrocyte pools the neurons whose synapses it scales
    log_error_other_pool: float  # it pools other neurons
    gain: float


UNKNOWN = OutputErrors(np.nan, np.nan, np.nan)


def log_variance(pairs: Pairs, feature_map: str, closed_forms: Collection[str]) -> Tensor:
    """ln of the relative variance R - 1 of one neuron's estimate of each query's normaliser [T].

    NaN where the feature map has no closed form "normalizer".
    """
    if "normalizer" not in closed_forms:
        return torch.full_like(pairs.log_normalizer, torch.nan)
    found = theory.log_variance(theory.log_second_moment(*pairs))
    if feature_map == "hyperbolic":
        found = theory.log_mirrored_variance(found, theory.log_mirror_moment(*pairs[:4]))
    return found


def output_squares(pairs: Pairs, v: Tensor, exact: Tensor) -> tuple[float, float, float]:
    """ln of the mean squared relative error of one input's output for one neuron, and its gain.

    To first order in 1 / m: with the astrocyte pooling the neurons whose synapses it scales, with
    it pooling others, and the bias of the gain. v and exact [T, E], values and exact output.
    """
    norm = 2 * exact.norm().log()
    log_scale, trace, bias, other_pool = theory.output_moments(
        pairs.q, pairs.k, v, exact, *pairs[2:]
    )
    logs = [
        float(torch.logsumexp(log_scale + trace.clamp_min(0).log(), 0) - norm)
        for trace in (trace, other_pool)
    ]
    gain = ((exact * bias).sum(-1) * torch.exp(log_scale - norm)).sum()
    return logs[0], logs[1], float(gain)


def output_errors(of_inputs: Sequence[tuple[float, float, float]]) -> OutputErrors:
    """Errors of the output of one head, from what output_squares gives for each input."""
    logs, logs_other_pool, gains = zip(*of_inputs)
    log_error, log_error_other_pool = (
        logsumexp([logs, logs_other_pool], -1) - np.log(len(logs))
    ) / 2
    return OutputErrors(log_error, log_error_other_pool, float(np.mean(gains)))


def of_networks(
    n_features: np.ndarray, log_variance: Tensor, outputs: OutputErrors
) -> dict[str, np.ndarray]:
    """The variables of fit.nc that closed forms give, by their names.

    log_variance [layer, head, query], outputs [layer, head].
    """
    needed = theory.log10_features_needed(log_variance).numpy()
    log10_m = np.log10(n_features)[:, None, None]
    log_median = theory.log_median_error(log_variance / 2).numpy()  # of normal errors
    log10_errors = {
        "normalizer_error": log_median / np.log(10),
        "normalizer_error_rms": log10_rms(log_variance),
        "output_error_rms": outputs.log_error / np.log(10),
        "output_error_other_pool_rms": outputs.log_error_other_pool / np.log(10),
    }  # at m = 1
    return {
        "log10_features_needed": np.median(needed, -1),
        "log10_features_needed_q10": np.quantile(needed, 0.1, -1),
        "log10_features_needed_q90": np.quantile(needed, 0.9, -1),
        **{f"log10_{name}_closed_form": x - log10_m / 2 for name, x in log10_errors.items()},
        "output_gain_closed_form": 1 + outputs.gain / 10**log10_m,
        "sigma_squared": _log_r(np.median(log_variance.numpy(), -1)),
    }


def log10_rms(log_variance: Tensor) -> np.ndarray:
    """log10 of the rms normaliser error at m = 1; log_variance [..., query]."""
    n_queries = log_variance.shape[-1]
    log_rms = (torch.logsumexp(log_variance, -1) - np.log(n_queries)) / 2
    return (log_rms / np.log(10)).numpy()


def is_sampled(n_features: np.ndarray, log_variance: Tensor) -> np.ndarray:
    """Whether networks hold the draws that carry the rms error [n_features, layer, head].

    ASSUME: they do in the Gaussian phase of the random-energy model alone, m > R^2; elsewhere the
    scatter of the measured rms over seeds says nothing about how far off it is.
    """
    log_r = _log_r(np.log(100) * log10_rms(log_variance))
    return np.log10(n_features)[:, None, None] >= 2 * log_r / np.log(10)


def _log_r(log_variance: np.ndarray) -> np.ndarray:
    """ln R from ln(R - 1)."""
    with np.errstate(invalid="ignore"):  # NaN where there is no closed form
        return np.logaddexp(0, log_variance)
