"""Let the synapses forget, and fit the retention to what the network then attends to."""

import numpy as np
import xarray as xr

from tripartite import hidden
from tripartite.heads import Head, Heads
from tripartite.kinds.retention.leaks import first_notes, laws, shown, summaries
from tripartite.network import Leak


def retain(
    heads: Heads,
    token_seconds: float,
    leaks: list[list[float]],
    n_features: list[int],
    n_seeds: int,
) -> xr.Dataset:
    """Return the leak fitted to a network's attention, its gain, and what it retains of each age.

    leaks are pairs of hebbian and presynaptic (1/s); every token is written for token_seconds, all
    are written before the first is read. Networks get one-hot values, so that their outputs are
    their attention weights, and run once: a leak weights these by age. Intervals are over seeds and
    inputs. Where no leak can be fitted, it is NaN and `note` says why. All is NaN for pairs of
    coordinates that are not in leaks.
    """
    asked = np.array(leaks, dtype=float)
    hebbian, row = np.unique(asked[:, 0], return_inverse=True)
    presynaptic, column = np.unique(asked[:, 1], return_inverse=True)
    per_token = [Leak(*(token_seconds * rate for rate in pair)) for pair in leaks]
    n_ages = heads.qkv.sizes["token"]

    def on_grid(values: np.ndarray, empty: float | str = np.nan) -> np.ndarray:
        """Values [leak, ...] by leak_hebbian and leak_presynaptic."""
        grid = np.full((len(hebbian), len(presynaptic), *values.shape[1:]), empty, values.dtype)
        grid[row, column] = values
        return grid

    def one_head(head: Head) -> dict:
        logits = [x.q.numpy() @ x.k.numpy().T for x in head.readings]
        values = [x.v.numpy() for x in head.readings]

        runs = []  # [seed][input][leak]
        for draw in head.each(range(n_seeds)):
            networks = hidden.networks(head, draw, n_features, one_hot=True)
            without = zip(*([w.numpy() for _, _, w in network] for network in networks))
            runs.append(
                [
                    [shown(*of_input, leak, n_ages) for leak in per_token]
                    for of_input in zip(without, logits, values)
                ]
            )
        estimates = summaries(runs, token_seconds, head.stream("retain"))
        return {
            **{name: tuple(map(on_grid, triple)) for name, triple in estimates.items()},
            **{name: on_grid(law) for name, law in laws(logits, per_token, n_ages).items()},
            "note": on_grid(first_notes(runs), "not asked"),
        }

    coords = {"leak_hebbian": hebbian, "leak_presynaptic": presynaptic, "n_features": n_features}
    age = token_seconds * np.arange(n_ages)
    return heads.table("retention", one_head, coords, age=age)
