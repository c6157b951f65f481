"""Other mechanisms that could read what a head has stored: outputs for queries, numbers in and out.

The network stores keys and values in synapses H of m hidden neurons and divides by its astrocyte.
Its rivals, for queries q_t, keys k_j and values v_j of one head (bidirectional order):

    linear memory      o_t = c H phi(q_t), H = sum_j v_j phi(k_j)^T: no division, one gain c
    delta rule         H <- H + b (v_j - H f(k_j)) f(k_j)^T in the order of the tokens,
                       o_t = c H f(q_t), f = phi / |phi|
                       (Schlag, Irie & Schmidhuber, ICML 2021, arXiv:2102.11174)
    exponent           o_t = c H phi(q_t) / (phi(q_t) . g^alpha), g = sum_j phi(k_j), by element
                       (Mia, Bal & Sengupta, arXiv:2312.10925; without its relative positions)
    replicator         a gain g_j for each stored token, o_t = sum_j g_j v_j, with
                       tau g_j' = g_j [(s_j - ln g_j) - sum_i g_i (s_i - ln g_i)], s_j = q_t . k_j
                       (after Vivet & Arenas, arXiv:2604.25481, whose abstract alone was read)
    match and control  keys that match the query well enough drive the output, all equally
                       (a reduced form of Ellwood, PLoS Comput Biol 20:e1011843, 2024)

The settled replicator with keys as values is one step of a modern Hopfield network (Ramsauer et
al., ICLR 2021). Gains c, rates b, exponents alpha and thresholds are fitted to inputs that
calibrate.

ASSUME: match and control without spikes: a match is q . k, exact and without noise.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import solve_triangular
from scipy.signal import lfilter
from scipy.special import softmax
from torch import Tensor

from tripartite.attention import relative_error

RATES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # of the delta rule that are tried
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)  # that are tried
N_THRESHOLDS = 100  # that are tried, at quantiles of all matches


# Synapses with hidden neurons.


def unit(log_rates: Tensor) -> Tensor:
    """f = phi / |phi| [T, m] of rates phi whose logs are log_rates [T, m]."""
    rates = torch.exp(log_rates - log_rates.amax(1, keepdim=True))
    return rates / rates.norm(dim=1, keepdim=True)


def delta_rule(reading: np.ndarray, writing: np.ndarray, v: np.ndarray, rate: float) -> np.ndarray:
    """Outputs H f(q_t) [T, E] of the delta rule, when all N tokens are written.

    reading [T, N] has f(q_t) . f(k_j), writing [N, N] f(k_i) . f(k_j), v [N, E]. H is a sum of
    u_j f(k_j)^T with u_j = v_j - b sum_{i<j} (f(k_j) . f(k_i)) u_i: one triangular system instead
    of m x E synapses (as Yang et al., arXiv:2406.06484, compute it).
    """
    system = np.eye(len(v)) + rate * np.tril(writing, -1)
    options = {"lower": True, "unit_diagonal": True, "check_finite": False}
    return rate * reading @ solve_triangular(system, v, **options)


def pooled_powers(log_q: Tensor, log_k: Tensor, sizes: Sequence[int]) -> np.ndarray:
    """phi(q_t) . g^alpha [EXPONENTS, sizes, T] of the first m neurons, g = sum_j phi(k_j).

    log_q [T, m] and log_k [N, m] are the logs of all rates.
    """
    contacts = torch.exp(
        torch.logsumexp(log_k, 0)[:, None] * torch.tensor(EXPONENTS, dtype=torch.float64)
    )
    query = torch.exp(log_q)
    total = torch.zeros(len(query), len(EXPONENTS), dtype=torch.float64)
    sums = []
    for start, stop in itertools.pairwise([0, *sizes]):
        total = total + query[:, start:stop] @ contacts[start:stop]
        sums.append(total)
    return torch.stack(sums).permute(2, 0, 1).numpy()


# A place for each token.


def replicator(
    scores: np.ndarray, time: float | np.ndarray, log_start: np.ndarray | float = 0.0
) -> np.ndarray:
    """Gains g [..., N] after a time (in units of tau) of scores [..., N], from exp(log_start).

    ln g - s relaxes with tau but for the normalisation: g(t) = softmax(e^-t ln g(0) +
    (1 - e^-t) s), which ends at softmax(s). From equal gains it is softmax attention at the inverse
    temperature 1 - e^-t, and equal to leaky neurons s' = -s + q . k behind a softmax.
    """
    return softmax(np.exp(-time) * log_start - np.expm1(-time) * scores, axis=-1)


def replicator_in_turn(logits: np.ndarray, time: float) -> np.ndarray:
    """Gains [T, N] at the end of each query that is read for a time, settled on the first one.

    ln g is then a running mean of the logits [T, N], but for a constant of each query.
    """
    keep = np.exp(-time)
    start = keep * logits[:1]
    return softmax(lfilter([1 - keep], [1, -keep], logits, axis=0, zi=start)[0], axis=1)


def threshold_read(logits: np.ndarray, v: np.ndarray, threshold: float) -> np.ndarray:
    """Mean value [T, E] of the keys whose match is at least the threshold; 0 where none is."""
    above = logits >= threshold
    return above @ v / np.maximum(above.sum(1), 1)[:, None]


def best_matches_read(order: np.ndarray, v: np.ndarray, count: int) -> np.ndarray:
    """Mean value [T, E] of the `count` keys that match best (all, if there are fewer).

    order [T, N] has the keys of each query by falling match.
    """
    return v[order[:, : int(count)]].mean(1)


# What is fitted.


def best_gain(outputs: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> float:
    """The gain c of least |c X - O|^2 over inputs, of outputs X and exact ones O [T, E]."""
    size = sum(float((x * x).sum()) for x in outputs)
    return sum(float((x * o).sum()) for x, o in zip(outputs, exact)) / size if size > 0 else 0.0


def errors(
    outputs: Sequence[np.ndarray], exact: Sequence[np.ndarray], n_fitted: int | None = None
) -> np.ndarray:
    """Relative errors [input] of outputs [input][T, E]; with n_fitted, after one gain for all.

    The gain is fitted to the first n_fitted inputs.
    """
    gain = 1.0 if n_fitted is None else best_gain(outputs[:n_fitted], exact)
    return np.array([relative_error(gain * x, o) for x, o in zip(outputs, exact)])


def best_option(of_options: Sequence[np.ndarray], n_fitted: int) -> int:
    """The option with the least mean error over the first n_fitted inputs, of errors [input]."""
    means = [np.mean(x[:n_fitted]) for x in of_options]
    return int(np.nanargmin(means)) if np.isfinite(means).any() else 0
