"""Fit symmetries and distributions of hidden weights to some inputs, and test them on others."""

import numpy as np
import xarray as xr

from tripartite.heads import Head, Heads
from tripartite.kinds.symmetries.recipes import BEFORE, RECIPES, Input, log10_needed
from tripartite.statistics import Interval, over_clusters
from tripartite.streams import stream

MAX_LOG10_FEW = 5.0  # of the neurons that are few


def calibrate(heads: Heads) -> xr.Dataset:
    """Return the neurons that each head needs by each recipe, and the paired reductions.

    Recipes are fitted to the inputs that calibrate, and for comparison to each other input by
    itself. All numbers are the closed form's; intervals are over the tested inputs for one head,
    over them and distinct heads for all. What cannot be fitted to a head is NaN, and `note` says
    why; such a head is in no number of all heads.
    """
    tested = heads.read_inputs

    def one_head(head: Head) -> dict:
        given = {x.name: (x.q, x.k, x.log_normalizer) for x in (*head.calibrating, *head.readings)}
        inputs = [given[name] for name in heads.names]
        calibrating = [given[x.name] for x in head.calibrating]
        needed, own = np.full((2, len(RECIPES), len(inputs)), np.nan)
        notes = []

        def fit(place: int, read: list[int], fitted_to: list[Input], to: str) -> list[float]:
            recipe = [*RECIPES][place]
            given = [inputs[i] for i in read]
            try:
                found = log10_needed(given, fitted_to, RECIPES[recipe], head.causal)
            except ValueError as error:
                notes.append(f"{recipe}, fitted to {to}: {error}")
                return [np.nan] * len(read)
            return [float(np.median(x)) for x in found]

        for place in range(len(RECIPES)):
            every = [*range(len(inputs))]
            needed[place] = fit(place, every, calibrating, "the calibrating inputs")
            for i in tested:
                own[place, i] = fit(place, [i], [inputs[i]], heads.names[i])[0]
        return {
            "log10_features_needed": needed,
            "log10_features_needed_own": own,
            "note": notes[0] if notes else "",
        }

    coords = {"recipe": [*RECIPES]}
    found = heads.placed("symmetries", heads.map(one_head, "calibrate"), coords)
    needed = found["log10_features_needed"][:, tested]  # [recipe, input, layer, head]
    places, fitted = heads.places, found["note"][heads.places] == ""
    on_others, on_itself = (
        x[:, :, *places][..., fitted]
        for x in (needed, found["log10_features_needed_own"][:, tested])
    )  # [recipe, input, head]
    gained, distinct = on_others[:1] - on_others, heads.distinct[fitted]
    before = np.array([list(RECIPES).index(BEFORE.get(name, name)) for name in RECIPES])
    of_heads = np.full((3, len(RECIPES), *found["note"].shape), np.nan)
    rng = stream(0, "bootstrap", "reduction")
    of_heads[:, :, *(x[fitted] for x in places)] = over_clusters(
        lambda x: x.mean(0), np.moveaxis(gained, 1, 0), [None], rng
    )
    others = {
        "role": ["tested" if i in tested else "calibrated" for i in range(len(heads.names))],
        "heads_with_few": (np.median(needed, 1) <= MAX_LOG10_FEW).sum((1, 2)),
        "reduction": tuple(of_heads),
        "reduction_all": over_heads(gained, distinct, "reduction_all"),
        "reduction_step": over_heads(on_others[before] - on_others, distinct, "reduction_step"),
        "heads_better": (of_heads[1] > 0).sum((1, 2)),
        "heads_worse": (of_heads[2] < 0).sum((1, 2)),
        "lost": over_heads(on_others - on_itself, distinct, "lost"),
    }
    return heads.dataset("symmetries", found | others, coords)


def over_heads(values: np.ndarray, distinct: np.ndarray, name: str) -> Interval:
    """Median over inputs and heads of values [recipe, input, head], with its interval.

    Heads of one number in distinct [head] share their weights. NaN without heads.
    """
    if not values.size:
        return (np.full(len(values), np.nan),) * 3
    return over_clusters(
        lambda x: np.median(x, (0, 1)),
        np.moveaxis(values, 0, -1),
        [None, distinct],
        stream(0, "bootstrap", name),
    )
