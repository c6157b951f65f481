"""What a microscope sees of the astrocyte process while queries are read, and what may drive it.

Queries are read one after another, each for T_r; Z_t is what the process is driven by:

    tau_p dp/dt = -p + Z_t         calcium of the process
    tau_r dx/dt = -x + p           binding of the indicator
    tau_d dF/dt = -F + x           fluorescence, averaged over frames

Binding and decay are a difference of exponentials,
(exp(-t/tau_d) - exp(-t/tau_r)) / (tau_d - tau_r), as of GCaMP. Time constants are in seconds.
Everything is linear: frames are `frame_filter` @ Z.

Hypotheses are what drives the process while query t is read, all seen through the same filter:

    normaliser         Z_t = sum_j exp(q_t.k_j), of exact attention
    another input      contacts that hold another input, on the network's own neurons
    shuffled contacts  contacts of this input, permuted over the neurons
    mean rate          of the network's own neurons: uniform contacts, as before learning
    drift              t
    query norm         |q_t|
    previous token     exp(q_t.k_{t-1}), 0 for the first

The astrocytes that are imaged are one whose contacts hold this input, and three that are no
normaliser of it: their contacts hold a third input, or are shuffled in another order, so that no
regressor is what drives them, or they are uniform.

The noise of a frame is an Ornstein-Uhlenbeck process sampled at frames, which is an autoregression
of first order: frames i and j are correlated by exp(-|i - j| T_f / T_n), with the time T_f between
frames and the correlation time T_n.

ASSUME: all is settled on the first query when the recording begins.
ASSUME: fluorescence is linear in calcium, far from saturation of the indicator, without background.
ASSUME: noise of the tissue, the microscope and the rest of the cell has one correlation time.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import expm
from scipy.signal import lfilter

SIGNALS = ("mean rate", "drift", "query norm", "previous token")  # that no text need be known for
HYPOTHESES = ("normaliser", "another input", "shuffled contacts", *SIGNALS)
ASTROCYTES = ("this input", "another input", "shuffled contacts", "uniform contacts")
MAX_TRACE_FRAMES = 600


class Recording(NamedTuple):
    """Noiseless dF/F of a network while an input is read.

    regressors [F, rival] are the hypotheses. first [astrocyte, F] is dF/F; second [astrocyte, F]
    that of the same queries after the other input has been written; difference [F] that of dF/F
    between both, as the exact normalisers predict it.
    """

    regressors: np.ndarray
    first: np.ndarray
    second: np.ndarray
    difference: np.ndarray


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


def known_drives(
    q: np.ndarray, k: np.ndarray, log_normalizer: np.ndarray, other_keys: np.ndarray
) -> dict[str, np.ndarray]:
    """Drives [T] that do not depend on the network, for q, k [T, D] and ln Z [T] of an input.

    Beside hypotheses the "other normaliser", of the same queries and the keys of another input.
    """
    similarity = (q[1:] * k[:-1]).sum(1)
    return {
        "normaliser": _scaled(log_normalizer),
        "other normaliser": _scaled(np.logaddexp.reduce(q @ other_keys.T, 1)),
        "drift": np.arange(len(q)).astype(float),
        "query norm": np.linalg.norm(q, axis=1),
        "previous token": _scaled(np.append(-np.inf, similarity)),
    }


def record(
    frames: np.ndarray, log_calcium: dict[str, np.ndarray], drives: dict[str, np.ndarray]
) -> Recording:
    """A network seen through a filter [F, T]: ln p [T] of contacts.CONTACTS, the known drives."""
    calcium = {name: _scaled(x) for name, x in log_calcium.items()}
    drives = drives | {
        "another input": calcium["other"],
        "shuffled contacts": calcium["shuffled"],
        "mean rate": calcium["uniform"],
    }
    first, second = (
        np.stack([_relative(frames @ calcium[name]) for name in names])
        for names in (
            ("this", "third", "reshuffled", "uniform"),
            ("other", "third", "other reshuffled", "uniform"),
        )
    )
    ours, others = (_relative(frames @ drives[x]) for x in ("normaliser", "other normaliser"))
    regressors = np.stack([frames @ drives[name] for name in HYPOTHESES], -1)
    return Recording(regressors, first, second, ours - others)


def _scaled(log_values: np.ndarray) -> np.ndarray:
    """exp of ln values [T], in units of the largest: dF/F has no unit. 0 if all are."""
    largest = log_values.max()
    return np.exp(log_values - largest) if largest > -np.inf else np.zeros_like(log_values)


def _relative(fluorescence: np.ndarray) -> np.ndarray:
    """dF/F of F [F], whose baseline is the mean of the recording; 0 where F varies by rounding."""
    with np.errstate(invalid="ignore"):  # no fluorescence at all
        relative = fluorescence / fluorescence.mean() - 1
    return relative if np.abs(relative).max() > 1e-12 else np.zeros_like(relative)


class Noise(NamedTuple):
    """The noise of frames, of standard deviation 1: frame_seconds between them, correlation time.

    A correlation time of 0 is white noise.
    """

    frame_seconds: float
    seconds: float

    @property
    def innovation(self) -> tuple[float, float]:
        """Correlation of a frame with the one before, and the standard deviation of what is new."""
        if self.seconds == 0:
            return 0.0, 1.0
        frames = self.frame_seconds / self.seconds
        return float(np.exp(-frames)), float(np.sqrt(-np.expm1(-2 * frames)))

    def draw(self, n: int, n_frames: int, rng: np.random.Generator) -> np.ndarray:
        """The noise [n, n_frames] of n trials."""
        kept, new = self.innovation
        drawn = rng.standard_normal((n, n_frames))
        drawn[:, 1:] *= new
        return lfilter([1.0], [1.0, -kept], drawn, axis=-1) if kept else drawn

    def covariance(self, a: np.ndarray, b: np.ndarray) -> float:
        """Covariance of the products of a and b [F] with the noise of one trial.

        Each frame of the autoregression adds what is new to all later ones, so that this is a sum
        over frames.
        """
        kept, new = self.innovation
        a, b = (lfilter([1.0], [1.0, -kept], x[::-1])[::-1] for x in (a, b))
        return float(a[0] * b[0] + new**2 * (a[1:] @ b[1:]))


def traces(
    recording: Recording, levels: np.ndarray, noise: Noise, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The first frames of a recording: a trial at each level, and what two hypotheses predict."""
    clean = recording.first[0]
    n = min(len(clean), MAX_TRACE_FRAMES)
    trial = clean + levels[:, None] * clean.std() * noise.draw(len(levels), len(clean), rng)
    normalizer, other = (_relative(x) for x in recording.regressors.T[:2])
    return {
        "trace_seconds": noise.frame_seconds * (np.arange(n) + 0.5),
        "trace_fluorescence": trial[:, :n],
        "trace_clean": clean[:n],
        "trace_normalizer": normalizer[:n],
        "trace_rival": other[:n],
    }
