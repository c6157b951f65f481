"""Where a transformer breaks: the damage of each layer, what predicts it, and how errors grow.

A layer that is replaced alone does damage to the output (the first measure) and to the states that
leave the last layer. Its expected error is what the closed form says of its heads:

    x = s (mean over heads of min(1, .01 n / m))^(1/2),

with s the change of the states that leave the layer if its attention is taken away, relative to
them, and n the neurons that a head needs for a 10 % rms error of its normaliser (theory.py). This
predictor was chosen before any damage was measured; that errors and sizes are means over tokens,
rather than norms of all tokens together, came after a first look at SmolLM2 (layerwise.py). Its
rivals are the others of PREDICTORS.

Each predicts by a linear law y = a + b x, fitted by least squares to the other layers of the other
inputs: neither the layer nor the input that is predicted is seen. A law in which damage falls with
what should cause it contradicts its predictor, so that b is at least 0, but for the number of the
layer, which has no sign. R^2 is that of these predictions,
1 - sum (y - y')^2 / sum (y - mean y)^2: 0 or less for what predicts no better than a constant.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata

from tripartite.statistics import Function, Interval, over_clusters, pooled_correlation

OUTPUT, STATES = HARMS = ("output", "states")
EXPECTED, OTHERS = "expected", "other_inputs"
PREDICTORS = (EXPECTED, "needed", "size", "layer", "equal", "measured", "mean", OTHERS)
FREE = "layer"  # the predictor with which damage may rise or fall
FALLING = ("bits_per_character", "divergence")  # measures of which less is better
LOG10_NEEDED_AT = -2.0  # log10 of the squared error that `needed` stands for
N_DRAWS = 300  # of inputs and layers, for intervals of predictions
MIN_LAYERS = 3  # that a law is fitted to: with two it has no freedom left

Random = Callable[[str], np.random.Generator]


def variables(
    parts: Sequence[str],
    n_features: Sequence[int],
    score: np.ndarray,
    state_error: np.ndarray,
    equal: dict[str, np.ndarray],
    size: np.ndarray,
    needed: np.ndarray,
    measure: str,
    exact: np.ndarray,
    rng: Random,
) -> dict[str, np.ndarray | Interval]:
    """The variables of rebuilt.nc that say where the transformer breaks, by name.

    score [recipe, n_features, seed, part, input] is that of `measure`, exact [input] that of the
    original; state_error [recipe, n_features, seed, part, input, layer]. equal has score
    [part, input] and state_error [part, input, layer] of equal attention; size [input, layer] is
    the relative change of the states that leave a layer without attention; needed [recipe, layer,
    head] is log10 of the neurons that heads need on the inputs that calibrate. NaN where a layer
    is not replaced alone.
    """
    n_layers = size.shape[-1]
    alone = [parts.index(x) if x in parts else -1 for x in map("layer {}".format, range(n_layers))]
    there = np.array(alone) >= 0
    sign = 1.0 if measure in FALLING else -1.0
    harm = np.stack([sign * (score - exact), state_error[..., -1]])
    harm_equal = np.stack([sign * (equal["score"] - exact), equal["state_error"][..., -1]])
    error = np.where(there, _own_layer(state_error[..., alone, :, :]), np.nan).mean(2)

    def by_layer(x: np.ndarray) -> np.ndarray:
        """x [..., part, input] of the parts that are one layer: [..., input, layer]."""
        return np.where(there, x[..., alone, :].swapaxes(-1, -2), np.nan)

    seen = by_layer(harm)  # [harm, recipe, n_features, seed, input, layer]
    damage = seen.mean(3)
    expected = expected_error(needed, n_features)
    shape = damage.shape
    predictors = {
        EXPECTED: size * expected[..., None, :],
        "needed": np.broadcast_to(np.median(needed, -1)[:, None, None], shape[1:]),
        "size": size,
        "layer": np.arange(float(n_layers)),
        "equal": by_layer(harm_equal)[:, None, None],
        "measured": error,
        "mean": np.zeros(1),
    }
    x = np.stack([np.broadcast_to(predictors[name], shape) for name in PREDICTORS[:-1]])
    lowest = np.where([name == FREE for name in PREDICTORS[:-1]], -np.inf, 0)
    laws = held_out(x, np.broadcast_to(damage, x.shape), lowest[:, None, None, None])
    others = _others(damage)
    predicted = np.concatenate([laws, others])

    def over_layers(statistic: Function, of_predictors: np.ndarray, name: str, scale: str) -> list:
        """Estimates [harm, predictor, ...] of pairs [predictor, harm, ..., input, layer]."""
        pair = np.stack([np.broadcast_to(damage, of_predictors.shape), of_predictors])
        values = np.moveaxis(pair, (-2, -1), (0, 1))
        found = over_clusters(statistic, values, [None, None], rng(name), scale, N_DRAWS)
        return [part.swapaxes(0, 1) for part in found]

    left, least, most = over_layers(unexplained, predicted, "prediction_r2", "log")
    ranks = over_layers(rank_correlation, np.concatenate([x, others]), "prediction_rank", "linear")
    clusters = [None, None]
    by_seed = np.moveaxis(seen, (-2, 3), (0, 1))  # [input, seed, harm, recipe, n_features, layer]
    errors = np.moveaxis(
        state_error, (4, 2), (0, 1)
    )  # [input, seed, recipe, n_features, part, layer]
    return {
        "layer_damage": over_clusters(_mean, by_seed, clusters, rng("layer_damage")),
        "predicted_damage": predicted.mean(-2).swapaxes(0, 1),
        "prediction_r2": (1 - left, 1 - most, 1 - least),
        "prediction_rank": tuple(np.clip(part, -1, 1) for part in ranks),
        "expected_error": expected,
        "attention_size": size.mean(0),
        "added_damage": over_clusters(added, by_seed, clusters, rng("added_damage")),
        "growth": tuple(
            part.swapaxes(1, 2)
            for part in over_clusters(growth, errors, clusters, rng("growth"), "log")
        ),
        "grown_error": grown(errors.mean((0, 1))).swapaxes(1, 2),
    }


def _own_layer(x: np.ndarray) -> np.ndarray:
    """x [..., layer that is replaced, input, layer] of the same layer: [..., input, layer]."""
    return np.diagonal(x, axis1=-3, axis2=-1)


def _mean(x: np.ndarray) -> np.ndarray:
    return x.mean((0, 1))


def expected_error(needed: np.ndarray, n_features: Sequence[int]) -> np.ndarray:
    """Expected relative error of a layer's attention [recipe, n_features, layer], in [0, 1].

    needed [recipe, layer, head] is log10 of neurons for a 10 % rms error.
    """
    log10_m = np.log10(n_features)[:, None, None]
    # ASSUME: the error of an output is that of its normaliser, at most the output itself; outputs
    # of heads are equally large and their errors independent.
    squared = 10 ** np.minimum(0, LOG10_NEEDED_AT + needed[:, None] - log10_m)
    return np.sqrt(squared.mean(-1))


def held_out(x: np.ndarray, y: np.ndarray, lowest: np.ndarray | float = -np.inf) -> np.ndarray:
    """Predictions of y [..., input, layer] from x, by laws of the other layers of other inputs.

    lowest [...] is the least slope of a law. NaN with one input, or fewer than MIN_LAYERS others.
    """
    found = np.full(y.shape, np.nan)
    n_inputs, n_layers = y.shape[-2:]
    if n_inputs < 2 or n_layers <= MIN_LAYERS:
        return found
    for i in range(n_inputs):
        for layer in range(n_layers):
            others = (np.delete(np.delete(z, i, -2), layer, -1) for z in (x, y))
            seen_x, seen_y = (z.reshape(*z.shape[:-2], -1) for z in others)
            a, b = linear_law(seen_x, seen_y, lowest)
            found[..., i, layer] = a + b * x[..., i, layer]
    return found


def linear_law(
    x: np.ndarray, y: np.ndarray, lowest: np.ndarray | float = -np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """a and b of y = a + b x over the last axis, by least squares with b at least `lowest`.

    b = 0 where x does not vary.
    """
    mean_x, mean_y = x.mean(-1), y.mean(-1)
    dx = x - mean_x[..., None]
    square = (dx * dx).sum(-1)
    rounding = np.square(1e-12 * np.abs(x).max(-1)) * x.shape[-1]
    varies = ~(square <= rounding)  # true of NaN, which stays
    b = np.where(varies, (dx * y).sum(-1) / np.where(varies, square, 1), 0)
    b = np.maximum(b, lowest)
    return mean_y - b * mean_x, b


def _others(y: np.ndarray) -> np.ndarray:
    """Mean of y [..., input, layer] over the other inputs, of the same layer [1, ...]."""
    n = y.shape[-2]
    return ((y.sum(-2, keepdims=True) - y) / (n - 1) if n > 1 else np.full(y.shape, np.nan))[None]


def unexplained(pairs: np.ndarray) -> np.ndarray:
    """1 - R^2 [...] of y and its predictions, pairs [input, layer, 2, ...]; NaN of a constant y."""
    y, predicted = pairs[:, :, 0], pairs[:, :, 1]
    left = np.square(y - predicted).sum((0, 1))
    total = np.square(y - y.mean((0, 1))).sum((0, 1))
    return np.where(total > 0, left / np.where(total > 0, total, 1), np.nan)


def rank_correlation(pairs: np.ndarray) -> np.ndarray:
    """Spearman's correlation [...] over layers of pairs [input, layer, 2, ...], mean over inputs.

    No law is fitted: its sign says whether damage rises or falls with the predictor. Inputs in
    which layers do not differ have no order; NaN if there is no other.
    """
    ranks = rankdata(pairs, axis=1)
    x, y = (np.moveaxis(ranks[:, :, i], 1, -1) for i in range(2))
    found = pooled_correlation(x, y)
    known = ~np.isnan(found)
    n = known.sum(0)
    return np.where(n > 0, np.where(known, found, 0).sum(0) / np.maximum(n, 1), np.nan)


def added(damage: np.ndarray) -> np.ndarray:
    """What single layers do in sum, of damage [input, seed, harm, ..., layer]: [harm, ...].

    The mean of the sum for the output; for the states the root of the sum of squares, as of
    independent errors.
    """
    output, states = damage[:, :, 0], damage[:, :, 1]
    return np.stack([_mean(output.sum(-1)), _mean(np.sqrt(np.square(states).sum(-1)))])


def growth(errors: np.ndarray) -> np.ndarray:
    """Factor a [...] by which errors [input, seed, ..., layer] grow from layer to layer.

    Fitted to the mean e_l = e_0 a^l by least squares of ln e, from the first error on; NaN with
    fewer than two layers.
    """
    return np.exp(_law_of_logs(errors.mean((0, 1)))[1])


def grown(errors: np.ndarray) -> np.ndarray:
    """The fitted e_0 a^l [..., layer] of errors [..., layer]; NaN before the first error."""
    start, slope = _law_of_logs(errors)
    fitted = np.exp(start[..., None] + slope[..., None] * np.arange(errors.shape[-1]))
    return np.where(errors > 0, fitted, np.nan)


def _law_of_logs(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln e_0 and ln a of errors [..., layer], over the layers where there is an error."""
    known = errors > 0
    n = known.sum(-1)
    enough = n > 1
    layers = np.broadcast_to(np.arange(errors.shape[-1]), errors.shape)
    logs = np.log(np.where(known, errors, 1))
    count = np.maximum(n, 1)
    mean_layer, mean_log = ((x * known).sum(-1) / count for x in (layers, logs))
    deviation = (layers - mean_layer[..., None]) * known
    square = np.square(deviation).sum(-1)
    slope = np.where(enough, (deviation * logs).sum(-1) / np.where(enough, square, 1), np.nan)
    return mean_log - slope * mean_layer, slope
