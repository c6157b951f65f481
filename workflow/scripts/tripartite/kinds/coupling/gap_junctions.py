"""Astrocyte processes that are coupled by gap junctions.

n processes lie side by side; neighbours exchange calcium in proportion to its difference:

    tau_p dp/dt = -p - kappa L p + z,    p -> (I + kappa L)^-1 z

with the drive z [n] of each process, the graph Laplacian L (degree minus adjacency) and kappa, the
conductance of a junction over that of a process. The mean over processes that are connected is that
of their z at any kappa; strong coupling makes them alike.
"""

import math

import numpy as np
import scipy.linalg


def rows(layout: str, n_heads: int, n_processes: int) -> int:
    """Rows of n_heads times n_processes processes.

    1 of a chain, n_heads of separate heads; of a grid the largest divisor of the number of all
    processes up to its root: a grid of a prime number of processes is a chain.
    """
    if layout == "separate":
        return n_heads
    n = n_heads * n_processes
    return 1 if layout == "chain" else next(r for r in range(math.isqrt(n), 0, -1) if n % r == 0)


def junctions(layout: str, n_heads: int, n_processes: int) -> np.ndarray:
    """Graph Laplacian [n, n] of all processes, n_processes of each head after one another.

    A chain of all; a grid whose rows are filled one after another; or separate chains, one of each
    head. ValueError for other layouts, or fewer than one process.
    """
    n = n_heads * n_processes
    if layout not in ("separate", "chain", "grid") or n < 1:
        raise ValueError(
            f"layout {layout!r} of {n} processes: wanted separate, chain or grid, of at least 1"
        )
    n_rows = rows(layout, n_heads, n_processes)
    along = np.kron(np.eye(n_rows), _chain(n // n_rows))
    if layout == "separate":
        return along
    return np.kron(_chain(n_rows), np.eye(n // n_rows)) + along


def _chain(n: int) -> np.ndarray:
    chain = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    chain[0, 0] -= 1
    chain[-1, -1] -= 1  # the ends have one neighbour
    return chain


def steady(z: np.ndarray, laplacian: np.ndarray, kappa: float) -> np.ndarray:
    """Steady state (I + kappa L)^-1 z [..., n] of processes with drives z [..., n].

    laplacian is L [n, n]. Solved for the deviation from the mean, which is then exact at any kappa.
    """
    mean = z.mean(-1, keepdims=True)
    deviation = (z - mean).reshape(-1, z.shape[-1]).T
    matrix = np.eye(len(laplacian)) + kappa * laplacian
    solved = scipy.linalg.solve(matrix, deviation, assume_a="pos").T.reshape(z.shape)
    return mean + solved - solved.mean(-1, keepdims=True)
