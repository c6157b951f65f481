"""Queries that are read one after another, while a slow variable follows them.

Each query is read for a time T_r. The process of the astrocyte relaxes to the normaliser Z_t of the
query that is read:

    tau_p dp/dt = -p + Z_t,    p_t = Z_t + (p_{t-1} - Z_t) exp(-T_r / tau_p)

at the end of query t. The output is read then, and is o_t Z_t / p_t: its direction is right and its
gain is stale. Only the ratio T_r / tau_p matters.

ASSUME: the process is settled on the first query, which does not count.
ASSUME: H and g are complete before the first query and stay as they are while all are read.
"""

import numpy as np

GRID = np.geomspace(1e-3, 60.0, 121)  # of T_r / tau_p, in which times that are needed are searched
MAX_EXPM1 = 30.0  # ln(p / Z) beyond which p / Z - 1 is p / Z
MIN_ERROR = 1e-12  # errors below are rounding errors

Stream = tuple[
    np.ndarray, np.ndarray
]  # ln Z or ln p [..., T], and outputs [..., T, E], of the queries of an input


def relaxed(log_normalizer: np.ndarray, ratio: float) -> np.ndarray:
    """ln p_t at the end of each query [..., T], for ln Z_t [..., T] and T_r / tau_p.

    It is a running ln-sum-exp.
    """
    age = ratio * np.arange(log_normalizer.shape[-1])
    drive = log_normalizer + np.log(-np.expm1(-ratio)) + age
    drive[..., 0] = log_normalizer[..., 0]
    return np.logaddexp.accumulate(drive, axis=-1) - age


def log_gain(log_normalizer: np.ndarray, ratio: float) -> np.ndarray:
    """ln(Z_t / p_t) [..., T - 1] from the second query on, for ln Z_t [..., T] and T_r / tau_p.

    p_t / Z_t - 1 = (p_{t-1} / Z_t - 1) exp(-T_r / tau_p) keeps its digits however small it is.
    """
    before = relaxed(log_normalizer, ratio)[..., :-1] - log_normalizer[..., 1:]
    near = np.log1p(np.exp(-ratio) * np.expm1(np.minimum(before, MAX_EXPM1)))
    far = np.logaddexp(before - ratio, np.log(-np.expm1(-ratio)))
    return -np.where(before < MAX_EXPM1, near, far)


def squared_errors(stream: Stream, exact: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """|O^ p / p~ - O|^2 / |O|^2 from the second query on, [ratio, ...], of networks on an input.

    stream has ln p [..., T] and outputs O^ [..., T, E] of settled networks, whose process relaxes
    to p~; exact is O [T, E]. A ratio of inf is a settled network.
    """
    log_p, output = stream
    difference = output[..., 1:, :] - exact[1:]
    settled = np.square(difference).sum(-1)  # [..., T - 1]
    both = 2 * (output[..., 1:, :] * difference).sum(-1)
    size = np.square(output[..., 1:, :]).sum(-1)
    found = []
    for ratio in ratios:
        excess = np.expm1(log_gain(log_p, ratio)) if ratio < np.inf else np.zeros_like(settled)
        found.append((excess**2 * size + excess * both + settled).sum(-1))
    with np.errstate(invalid="ignore"):  # no output
        return np.array(found).clip(0) / np.square(exact[1:]).sum()


def crossings(curves: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """T_r / tau_p [n] from which on curves of errors [GRID, n] stay below levels [n]; or NaN.

    Between ratios of GRID the ln of the error is linear in the ln of the ratio. NaN for a curve
    that never crosses its level, or that ends above it.
    """
    above = curves > levels
    after = len(GRID) - np.argmax(above[::-1], 0)  # of the last one above
    known = np.isfinite(curves).all(0) & (levels > MIN_ERROR) & above.any(0) & ~above[-1]
    place = np.where(known, after, 1) + np.array([[-1], [0]])
    ends = np.take_along_axis(curves, place, 0)
    before, behind = np.log(np.maximum(ends, MIN_ERROR)) - np.log(np.maximum(levels, MIN_ERROR))
    share = before / np.where(known, before - behind, 1)
    log_ratio = np.log(GRID)[place]
    return np.where(known, np.exp(log_ratio[0] + share * (log_ratio[1] - log_ratio[0])), np.nan)
