"""Couple astrocyte processes by gap junctions: the error of the gain against that of the output."""

import numpy as np
import xarray as xr

from tripartite import hidden
from tripartite.contracts import UserError
from tripartite.heads import Heads, progress
from tripartite.kinds.coupling import processes
from tripartite.kinds.coupling.gap_junctions import junctions, rows

MAX_PROCESSES = 4000  # matrices of all pairs


def couple(
    heads: Heads,
    layouts: list[str],
    processes_per_head: int,
    n_features: list[int],
    strengths: list[float],
    n_seeds: int,
) -> xr.Dataset:
    """Return errors of gain and output of each head at each strength, their change, and laws.

    n_features are neurons of one process; the neurons of a head are the first ones of its seed.
    Heads lie in the order in which they are given. The strength 0, to which changes refer, is
    always run. Intervals are over seeds and inputs, and over heads where all are pooled. UserError
    for more than MAX_PROCESSES processes.
    """
    n_heads = len(heads.chosen)
    n = n_heads * processes_per_head
    if n > MAX_PROCESSES:
        raise UserError(
            f"coupling: {n_heads} heads of {processes_per_head} processes are {n} "
            f"processes, wanted at most {MAX_PROCESSES}; choose fewer heads, or lower "
            "processes_per_head"
        )
    chosen = [heads.head(*pair) for pair in heads.chosen]
    tokens = [[hidden.tokens(x) for x in head.readings] for head in chosen]
    log_z = [np.concatenate([x.log_normalizer.numpy() for x in head.readings]) for head in chosen]
    exact = processes.Exact(
        np.stack(log_z, -1),
        [np.concatenate([x.output.numpy() for x in head.readings]) for head in chosen],
        [len(x.q) for x in chosen[0].readings],
    )
    kappas = np.unique([0.0, *strengths])
    laplacians = [junctions(layout, n_heads, processes_per_head) for layout in layouts]

    def one_seed(draw: int) -> np.ndarray:
        blocks = [
            processes.read_blocks(
                inputs,
                hidden.neurons(head, draw, n_features[-1] * processes_per_head),
                n_features,
                processes_per_head,
            )
            for head, inputs in zip(chosen, tokens)
        ]
        return processes.squared_errors(blocks, exact, laplacians, kappas)

    rng = heads.stream("couple", "bootstrap")
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # errors beyond float64
        squares = np.stack([one_seed(i) for i in progress(range(n_seeds), "couple", "seeds")])
        errors = processes.of_heads(squares, rng)  # [layout, strength, n_features, head]
        of_all = processes.of_all(squares, errors, heads.distinct, rng)
        of_heads: dict[str, np.ndarray | tuple] = {
            **errors,
            **processes.best_strengths(squares, kappas, rng),
            **processes.laws(tokens, exact, n_features, processes_per_head, laplacians, kappas),
        }
    coords = {"layout": layouts, "strength": kappas, "n_features": n_features}
    results = [
        {name: of_head(values, place) for name, values in of_heads.items()}
        for place in range(n_heads)
    ]
    others = {
        "rows": [rows(layout, n_heads, processes_per_head) for layout in layouts],
        "processes": processes_per_head,
    }
    found = heads.placed("coupling", results, coords)
    return heads.dataset("coupling", found | of_all | others, coords)


def of_head(values: np.ndarray | tuple, place: int) -> np.ndarray | tuple:
    """Values of one head, out of those of all [..., head]; of an interval all three."""
    return tuple(x[..., place] for x in values) if isinstance(values, tuple) else values[..., place]
