"""What a microscope sees of the astrocyte process, and how many trials tell what drives it.

Queries are read one after another, each for T_r; Z_t is what the process is driven by:

    tau_p dp/dt = -p + Z_t         calcium of the process
    tau_r dx/dt = -x + p           binding of the indicator
    tau_d dF/dt = -F + x           fluorescence, averaged over frames

Binding and decay are a difference of exponentials, (exp(-t/tau_d) - exp(-t/tau_r)) / (tau_d - tau_r),
as of GCaMP. Time constants are in seconds. Everything is linear: frames are `frame_filter` @ Z.

ASSUME: all is settled on the first query when the recording begins.
ASSUME: fluorescence is linear in calcium, far from saturation of the indicator, without background.
ASSUME: the noise of a frame is normal, white, and independent between trials (photons and readout).
ASSUME: every trial reads the same input; what is found holds for that input.
"""

import numpy as np
from scipy.linalg import expm
from scipy.special import nctdtr, ndtr, stdtrit

SIGNIFICANCE = 0.05
POWER = 0.8
CERTAIN = 8.0  # standard deviations, beyond which no test fails
NEVER = -4.0  # and below which none succeeds (1e-5)


def frame_filter(
    n_tokens: int, n_frames: int, read_seconds: float, frame_seconds: float, tau: tuple[float, ...]
) -> np.ndarray:
    """Matrix [n_frames, n_tokens] from drives of the queries to the mean fluorescence of each frame.

    tau are the time constants of the first-order stages, in order. Its rows sum to one. Exact: matrix
    exponentials of the stages and the integral of the last, from each edge of a query or frame to the next.
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


def r_squared(y: np.ndarray, regressors: np.ndarray) -> float:
    """Share of the variance of y [F] that regressors [F, p] and a constant explain; NaN if y is constant."""
    deviation = y - y.mean()
    total = np.square(deviation).sum()
    if total <= 1e-24 * np.square(y).sum():
        return np.nan
    return float(np.square(_basis(regressors).T @ deviation).sum() / total)


def unique_direction(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Unit vector [F] along what is in x [F] and not in others [F, p] or a constant; 0 if nothing is.

    Its product with data is the least-squares coefficient of x beside the others, but for a factor.
    """
    deviation = x - x.mean()
    basis = _basis(others)
    rest = deviation - basis @ (basis.T @ deviation)
    rest -= basis @ (basis.T @ rest)  # what rounding has left
    norm = np.linalg.norm(rest)
    least = max(1e-10 * np.linalg.norm(deviation), 1e-12 * np.linalg.norm(x))
    return rest / norm if norm > least else np.zeros_like(x)


def _basis(regressors: np.ndarray) -> np.ndarray:
    """Orthonormal columns [F, r] that span regressors [F, p] around their means."""
    deviation = regressors - regressors.mean(0)
    size = np.linalg.norm(deviation, axis=0)
    known = size > 1e-12 * np.linalg.norm(regressors, axis=0)
    if not known.any():
        return np.zeros((len(regressors), 0))
    u, s, _ = np.linalg.svd(deviation[:, known] / size[known], full_matrices=False)
    return u[:, s > 1e-10 * s[0]]


def power(effect: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Probability that the t test (5 %, two sides) finds the mean of n trials' coefficients above 0.

    effect is a trial's coefficient over its standard deviation, n at least 2. Noncentral t.
    """
    noncentrality = effect * np.sqrt(n)
    critical = stdtrit(n - 1, 1 - SIGNIFICANCE / 2)
    certain = noncentrality > CERTAIN * (1 + critical)
    between = np.where(certain, 0.0, np.maximum(noncentrality, NEVER))
    found = 1 - nctdtr(n - 1, between, critical)
    return np.where(np.isnan(noncentrality), np.nan, np.where(certain, 1.0, found))


def discrimination(
    clean: np.ndarray, right: np.ndarray, rival: np.ndarray, noise: np.ndarray, n: np.ndarray
) -> np.ndarray:
    """Probability that the mean of n trials is likelier under `right` than under `rival`, all [F].

    Each is one regressor with a constant, `right` with a slope above 0; noise is the standard deviation of
    a frame in one trial. With unit directions a and b it is the probability of a.y > |b.y|: a.y - b.y and
    a.y + b.y, independent normals, are above 0. 0.5 where the two are the same, NaN where one is constant.
    """
    a, b = (unique_direction(x, np.zeros((len(x), 0))) for x in (right, rival))
    deviation = np.sqrt(n) / noise
    with np.errstate(divide="ignore", invalid="ignore"):
        minus, plus = (
            ndtr(deviation * ((a + sign * b) @ clean) / np.linalg.norm(a + sign * b))
            for sign in (-1, 1)
        )
    if not (a.any() and b.any()):
        return np.full_like(minus, np.nan)
    return np.where(min(np.linalg.norm(a - b), np.linalg.norm(a + b)) < 1e-9, 0.5, minus * plus)


def trials_grid(most: int) -> np.ndarray:
    """Numbers of trials from 1 to most at which power is computed: all up to 30, then 4 % apart."""
    apart = np.exp(np.arange(0, np.log(most), 0.04)).round()
    return np.unique(np.concatenate([apart, np.arange(1, min(30, most) + 1), [most]]))


def trials_for(curve: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Least trials from which on curves [..., len(n)] of power are at 80 %, between n [k] in ln n; inf if none."""
    curve = np.minimum.accumulate(curve[..., ::-1], -1)[..., ::-1]
    reached = curve >= POWER
    first = reached.argmax(-1)
    before = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(curve, at[..., None], -1)[..., 0] for at in (before, first))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(first > 0, (POWER - low) / (high - low), 1.0)
        log_n = np.log(n[before]) + share * (np.log(n[first]) - np.log(n[before]))
        return np.where(reached.any(-1), np.ceil(np.exp(log_n) - 1e-9), np.inf)
