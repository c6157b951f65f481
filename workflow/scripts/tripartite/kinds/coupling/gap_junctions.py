"""Astrocyte processes that are coupled by gap junctions.

n processes lie side by side; neighbours exchange calcium in proportion to its difference:

    tau_p dp/dt = -p - kappa L p + z,    p -> (I + kappa L)^-1 z

with the drive z [n] of each process, the graph Laplacian L (degree minus adjacency) and kappa, the
conductance of a junction over that of a process. The mean over processes is that of z at any kappa;
strong coupling makes all processes alike.
"""

import math

import numpy as np
import scipy.linalg


def rows(layout: str, n: int) -> int:
    """Rows of n processes: 1 of a chain; of a grid the largest divisor of n up to its root.

    A grid of a prime number of processes is a chain.
    """
    if layout == "chain":
        return 1
    return next(r for r in range(math.isqrt(n), 0, -1) if n % r == 0)


def laplacian(layout: str, n: int) -> np.ndarray:
    """Graph Laplacian [n, n] of a chain, or of a grid whose rows are filled one after another.

    ValueError for other layouts, or fewer than one process.
    """
    if layout not in ("chain", "grid") or n < 1:
        raise ValueError(f"layout {layout!r} of {n} processes: wanted chain or grid, of at least 1")
    n_rows = rows(layout, n)
    lengths = (n_rows, n // n_rows)
    down, along = (2.0 * np.eye(m) - np.eye(m, k=1) - np.eye(m, k=-1) for m in lengths)
    for part in (down, along):
        part[0, 0] -= 1
        part[-1, -1] -= 1  # the ends have one neighbour
    return np.kron(down, np.eye(lengths[1])) + np.kron(np.eye(lengths[0]), along)


def steady(z: np.ndarray, junctions: np.ndarray, kappa: float) -> np.ndarray:
    """Steady state (I + kappa L)^-1 z [..., n] of processes with drives z [..., n].

    junctions is the Laplacian L [n, n]. Solved for the deviation from the mean, which is then exact
    at any kappa.
    """
    mean = z.mean(-1, keepdims=True)
    deviation = (z - mean).reshape(-1, z.shape[-1]).T
    matrix = np.eye(len(junctions)) + kappa * junctions
    solved = scipy.linalg.solve(matrix, deviation, assume_a="pos").T.reshape(z.shape)
    return mean + solved - solved.mean(-1, keepdims=True)


def squared_errors(
    normalizer: np.ndarray, variance: np.ndarray, junctions: np.ndarray, kappa: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared error of steady processes: noise and mixing, each [..., n], which add up.

    Drives are independent, with means normalizer [..., n], which they should be, and variance
    [..., n]. With M = (I + kappa L)^-1, noise is sum_j M_ij^2 var_j and mixing ((M Z)_i - Z_i)^2.
    """
    spread = steady(np.eye(len(junctions)), junctions, kappa)
    mixing = np.square(steady(normalizer, junctions, kappa) - normalizer)
    return variance @ np.square(spread).T, mixing
