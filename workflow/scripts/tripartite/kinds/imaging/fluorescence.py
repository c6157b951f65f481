"""What a microscope sees of the astrocyte process while queries are read, and what may drive it.

Queries are read one after another, each for T_r; Z_t is what the process is driven by:

    tau_p dp/dt = -p + Z_t         calcium of the process
    tau_r dx/dt = -x + p           binding of the indicator
    tau_d dF/dt = -F + x           fluorescence, averaged over frames

Binding and decay are a difference of exponentials,
(exp(-t/tau_d) - exp(-t/tau_r)) / (tau_d - tau_r), as of GCaMP. Time constants are in seconds.
Everything is linear: frames are `frame_filter` @ Z.

Hypotheses are what drives the process while query t is read, all seen through the same filter:

    normaliser       Z_t = sum_j exp(q_t.k_j), of exact attention
    mean rate        mean_a phi_a(q_t), of the network's own neurons: contacts without plasticity
    drift            t
    query norm       |q_t|
    previous token   exp(q_t.k_{t-1}), 0 for the first

ASSUME: all is settled on the first query when the recording begins.
ASSUME: fluorescence is linear in calcium, far from saturation of the indicator, without background.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import expm

HYPOTHESES = ("normaliser", "mean rate", "drift", "query norm", "previous token")
MAX_TRACE_FRAMES = 600


class Recording(NamedTuple):
    """dF/F [F] of a network without noise, and the hypotheses as regressors [F, rival]."""

    clean: np.ndarray
    regressors: np.ndarray


def frame_filter(
    n_tokens: int, n_frames: int, read_seconds: float, frame_seconds: float, tau: tuple[float, ...]
) -> np.ndarray:
    """Matrix [n_frames, n_tokens] from drives of the queries to the mean fluorescence of frames.

    tau are the time constants of the first-order stages, in order. Its rows sum to one. Exact:
    matrix exponentials of the stages and the integral of the last, from each edge of a query or
    frame to the next.
    """
    n = len(tau)
    rate = 1 / np.array(tau)
    change = np.zeros((n + 2, n + 2))  # of stages, integral of the last, and the drive
    change[range(n), range(n)] = -rate
    change[range(n), [n + 1, *range(n - 1)]] = rate
    change[n, n - 1] = 1
    frames = frame_seconds * np.arange(n_frames + 1)
    queries = read_seconds * np.arange(n_tokens)
    edges = np.unique(np.concatenate([frames, queries[queries < frames[-1]]]))
    state = np.zeros((n + 1, n_tokens))
    state[:n, 0] = 1
    integral = []
    lengths, place = np.unique(np.diff(edges), return_inverse=True)
    steps = expm(lengths[:, None, None] * change)
    on = np.searchsorted(queries, edges[:-1], side="right") - 1
    for step, token, begins in zip(steps[place], on, np.isin(edges[:-1], frames)):
        if begins:
            integral.append(state[n].copy())
        state = step[: n + 1, : n + 1] @ state
        state[:, token] += step[: n + 1, n + 1]
    integral.append(state[n].copy())
    return np.diff(integral, axis=0) / frame_seconds


def known_drives(q: np.ndarray, k: np.ndarray, log_normalizer: np.ndarray) -> dict[str, np.ndarray]:
    """Drives [T] of all hypotheses but the mean rate, for q, k [T, D] and ln Z [T] of an input."""
    similarity = (q[1:] * k[:-1]).sum(1)
    return {
        "normaliser": _scaled(log_normalizer),
        "drift": np.arange(len(q)).astype(float),
        "query norm": np.linalg.norm(q, axis=1),
        "previous token": _scaled(np.append(-np.inf, similarity)),
    }


def record(
    frames: np.ndarray,
    log_calcium: np.ndarray,
    log_mean_rate: np.ndarray,
    drives: dict[str, np.ndarray],
) -> Recording:
    """A network seen through a filter [F, T]: ln p, ln of its mean rate [T], the known drives."""
    drives = drives | {"mean rate": _scaled(log_mean_rate)}
    regressors = np.stack([frames @ drives[name] for name in HYPOTHESES], -1)
    return Recording(_relative(frames @ _scaled(log_calcium)), regressors)


def _scaled(log_values: np.ndarray) -> np.ndarray:
    """exp of ln values [T], in units of the largest: dF/F has no unit. 0 if all are."""
    largest = log_values.max()
    return np.exp(log_values - largest) if largest > -np.inf else np.zeros_like(log_values)


def _relative(fluorescence: np.ndarray) -> np.ndarray:
    """dF/F of F [F], whose baseline is the mean of the recording; 0 where F varies by rounding."""
    with np.errstate(invalid="ignore"):  # no fluorescence at all
        relative = fluorescence / fluorescence.mean() - 1
    return relative if np.abs(relative).max() > 1e-12 else np.zeros_like(relative)


def traces(
    recording: Recording, noise: np.ndarray, frame_seconds: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The first frames of a recording: a trial at each noise, and what two hypotheses predict."""
    clean = recording.clean
    n = min(len(clean), MAX_TRACE_FRAMES)
    trial = clean + noise[:, None] * clean.std() * rng.standard_normal((len(noise), len(clean)))
    normalizer, mean_rate = (_relative(x) for x in recording.regressors.T[:2])
    return {
        "trace_seconds": frame_seconds * (np.arange(n) + 0.5),
        "trace_fluorescence": trial[:, :n],
        "trace_clean": clean[:n],
        "trace_normalizer": normalizer[:n],
        "trace_rival": mean_rate[:n],
    }
