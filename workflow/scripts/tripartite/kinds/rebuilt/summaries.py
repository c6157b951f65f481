"""Means of scores and errors over tested inputs and seeds, with intervals."""

from collections.abc import Callable

import numpy as np

from tripartite.statistics import over_clusters, over_seeds

Triple = tuple[np.ndarray, ...]  # mean, lower and upper end
SOFTMAX, EQUAL, NONE, CHANCE = REFERENCES = ("softmax", "equal", "none", "chance")


def summaries(
    score: np.ndarray,
    state_error: np.ndarray,
    head_error: np.ndarray,
    reference: np.ndarray,
    rng: Callable[[str], np.random.Generator],
) -> dict[str, np.ndarray | Triple]:
    """The variables of rebuilt.nc that come of passes, by name.

    score [recipe, n_features, seed, measure, part, input], state_error [recipe, n_features, seed,
    part, input, layer], head_error likewise and [head]; reference [measure, reference, part,
    input], those of softmax attention first. rng: the random numbers of a name.
    """
    scores = score.transpose(3, 0, 4, 1, 2, 5)  # [measure, recipe, part, n_features, seed, input]
    change = scores - reference[:, 0, None, :, None, None]
    states = state_error.transpose(4, 2, 0, 3, 1, 5)  # [input, seed, recipe, part, n_features, ...]
    heads = head_error.transpose(4, 2, 0, 3, 1, 5, 6)
    of_states = over_clusters(_mean, states, [None, None], rng("state_error"))
    return {
        "score": scores,
        "reference_score": reference,
        "mean_score": _by_measure(scores, rng("mean_score")),
        "mean_change": _by_measure(change, rng("mean_change")),
        "mean_reference_score": _over_inputs(reference),
        "state_error": tuple(np.maximum(x, 0) for x in of_states),
        "head_error": _mean(heads),
    }


def _mean(x: np.ndarray) -> np.ndarray:
    return x.mean((0, 1))


def _by_measure(scores: np.ndarray, rng: np.random.Generator) -> Triple:
    """Means over seeds and inputs, the last axes, of each measure; only where it has a score.

    A measure of one input has an interval over seeds alone.
    """
    found = []
    for of_measure in scores:
        values = np.moveaxis(of_measure, (-1, -2), (0, 1))  # [input, seed, ...]
        known = ~np.isnan(values).all(tuple(range(1, values.ndim)))
        values = values[known]
        if len(values) == 1:
            found.append(over_seeds(lambda x: x.mean(0), values[0], "linear"))
        else:
            found.append(over_clusters(_mean, values, [None, None], rng))
    return tuple(np.stack(parts) for parts in zip(*found))


def _over_inputs(reference: np.ndarray) -> Triple:
    """Means of references [measure, reference, part, input] over the inputs with a score."""
    found = []
    for of_measure in reference:
        values = np.moveaxis(of_measure, -1, 0)
        values = values[~np.isnan(values[:, 0]).all(-1)]  # softmax attention has all scores
        mean = values.mean(0)
        triple = mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
        found.append(over_seeds(_first, values, "linear") if len(values) > 1 else triple)
    return tuple(np.stack(parts) for parts in zip(*found))


def _first(x: np.ndarray) -> np.ndarray:
    return x.mean(0)
