"""Couple astrocyte processes of heads by gap junctions: less noise against mixed normalisers."""

import numpy as np
import xarray as xr

from tripartite import hidden
from tripartite.contracts import UserError
from tripartite.heads import Heads, progress
from tripartite.kinds.coupling import processes
from tripartite.kinds.coupling.gap_junctions import laplacian, rows
from tripartite.statistics import over_seeds

MAX_PROCESSES = 4000  # matrices of all pairs


def couple(
    heads: Heads,
    layouts: list[str],
    processes_per_head: int,
    n_features: list[int],
    strengths: list[float],
    n_seeds: int,
) -> xr.Dataset:
    """Return errors of gain and output at each strength, their law, and the best strength.

    n_features are neurons of one process; the neurons of a head are the first ones of its seed.
    Heads lie in the order in which they are given. Intervals are over seeds. UserError for more
    than MAX_PROCESSES processes.
    """
    n = len(heads.chosen) * processes_per_head
    if n > MAX_PROCESSES:
        raise UserError(
            f"coupling: {len(heads.chosen)} heads of {processes_per_head} processes are {n} "
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
    kappas = np.sort(np.array(strengths, dtype=float))
    junctions = [laplacian(layout, n) for layout in layouts]

    def one_seed(draw: int) -> tuple[np.ndarray, np.ndarray]:
        blocks = [
            processes.read_blocks(
                inputs,
                hidden.neurons(head, draw, n_features[-1] * processes_per_head),
                n_features,
                processes_per_head,
            )
            for head, inputs in zip(chosen, tokens)
        ]
        return processes.measured_errors(blocks, exact, junctions, kappas)

    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # errors beyond float64
        errors = [one_seed(draw) for draw in progress(range(n_seeds), "couple", "seeds")]
        gain, output = (np.stack(x) for x in zip(*errors))
        noise, mixing, best_law = processes.laws(
            tokens, exact, n_features, processes_per_head, junctions, kappas
        )
        of_heads = {  # [layout, strength, (n_features,) head]
            "gain_error": over_seeds(lambda x: np.sqrt(x.mean(0)), gain, "log"),
            "output_error": over_seeds(lambda x: np.sqrt(x.mean((0, -1))), output, "log"),
            "gain_error_law": np.sqrt(noise + mixing[:, :, None]),
            "gain_error_noise": np.sqrt(noise),
            "gain_error_mixing": np.sqrt(mixing),
        }
        of_all: dict[str, object] = {
            "gain_error_all": over_seeds(lambda x: np.sqrt(x.mean((0, -1))), gain, "log"),
            "output_error_all": over_seeds(lambda x: np.sqrt(x.mean((0, -2, -1))), output, "log"),
        }
    rng = heads.stream("couple", "bootstrap")
    for name, squares in (("best", gain), ("best_output", output.mean(-1))):
        strength, note = processes.best_strength(squares, kappas, rng)
        of_all |= {f"{name}_strength": strength, f"{name}_note": note}
    of_all |= {
        "best_strength_law": best_law,
        "rows": [rows(layout, n) for layout in layouts],
        "processes": processes_per_head,
    }
    coords = {"layout": layouts, "strength": kappas, "n_features": n_features}
    results = [
        {name: of_head(values, place) for name, values in of_heads.items()}
        for place in range(len(chosen))
    ]
    return heads.dataset("coupling", heads.placed("coupling", results, coords) | of_all, coords)


def of_head(values: np.ndarray | tuple, place: int) -> np.ndarray | tuple:
    """Values of one head, out of those of all [..., head]; of an interval all three."""
    return tuple(x[..., place] for x in values) if isinstance(values, tuple) else values[..., place]
