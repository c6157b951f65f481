"""Let other mechanisms read the same heads as the network, at equal numbers of units."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from tripartite import hidden, turns
from tripartite.attention import relative_error, uniform_attention
from tripartite.contracts import UserError
from tripartite.features import FEATURE_MAPS
from tripartite.heads import Head, Heads, Reading
from tripartite.kinds.rivals import counts, memories, retrieval
from tripartite.network import Hidden, Tokens, rates, read
from tripartite.statistics import over_clusters, over_seeds
from tripartite.symmetries import Symmetry, fitted, transform

SYMMETRIES = ["center_keys", "center_queries", "balance"]
# With as many hidden neurons, or stored tokens, as n_features says; whether an astrocyte divides.
MECHANISMS = {
    "network": True,
    "network, fitted": True,
    "network, fitted, gain": True,
    "no division, fitted": False,
    "delta rule, fitted": False,
    "delta rule, elu + 1": False,
    "elu + 1": True,
    "elu + 1, exponent": True,
    "replicator": True,
}
# With a number of units that the head or the input has; 0 where there is nothing to count.
RIVALS = (
    "replicator, all tokens",
    "match and control, threshold",
    "match and control, best matches",
    "elu + 1, d_head neurons",
    "equal attention",
    "equal attention, gain",
    "a constant output",
)
READINGS = ("calcium from rest", "calcium in turn", "replicator from rest", "replicator in turn")
TOLERANCE = 0.1  # of the output, for what has not settled
STARTS = {"of the tutorial": retrieval.tutorial_start, "zero": retrieval.zero_start}
PATTERNS = ("memory", "cue")


class Layer(NamedTuple):
    """Random neurons, and what their networks give of all inputs of a head."""

    outputs: list[list[np.ndarray]]  # [n_features][input] of [T, E], divided by p
    log_p: list[list[np.ndarray]]  # [n_features][input] of [T]
    hidden: Hidden
    seen: list[Tokens]  # of each input, as the neurons see it

    def log_rates(self, i: int) -> tuple[Tensor, Tensor]:
        """ln of the rates [T, m] of queries and keys of an input, with the gain of each key."""
        tokens, m = self.seen[i], len(self.hidden.bias)
        log_q, log_k = (rates(self.hidden, x, m)[0] for x in (tokens.q, tokens.k))
        return log_q, log_k + tokens.log_gain[:, None]


def rival(
    heads: Heads,
    n_features: list[int],
    n_seeds: int,
    ratios: list[float],
    naam_neurons: int,
    naam_memories: int,
    naam_flipped: float,
) -> xr.Dataset:
    """Return output errors, units, synapses and settling of the network and of its rivals.

    What mechanisms need to be told (symmetries, gains, rates, exponents, thresholds) is fitted to
    the inputs that calibrate. Intervals are over inputs and seeds. UserError where nothing can be
    fitted to a head.
    """
    sweep = np.sort(np.array(ratios, dtype=float))
    n_inputs, read_inputs = len(heads.names), heads.read_inputs

    # rates and errors beyond the range of numbers are NaN
    @np.errstate(divide="ignore", invalid="ignore", over="ignore")
    def one_head(head: Head) -> dict:
        inputs = [*head.calibrating, *head.readings]
        n_fitted = len(head.calibrating)
        exact = [x.output.numpy() for x in inputs]
        of_draws, fits = [], []
        for draw in head.each(range(n_seeds)):
            errors, fit = of_draw(head, inputs, exact, n_fitted, n_features, draw)
            of_draws.append(errors[..., n_fitted:])
            fits.append(fit)
        runs = np.stack(of_draws, 2)  # [mechanism, n_features, seed, input]
        fixed, options = of_rivals(inputs, exact, n_fitted)
        lags = np.stack([of_lags(x, sweep) for x in head.readings])  # [input, reading, ratio]
        needed = np.stack([of_lags(x, turns.GRID) for x in head.readings])
        rng = head.stream("rival")
        by_run = np.moveaxis(runs, (2, 3), (0, 1))  # [seed, input, mechanism, n_features]
        ratio = np.log10(by_run / by_run[:, :, [list(MECHANISMS).index("network, fitted")]])
        ratio[~np.isfinite(ratio)] = np.nan
        every = np.full((*runs.shape[:3], n_inputs), np.nan)
        every[..., read_inputs] = runs
        return {
            "output_error_run": every,
            "output_error": mean(by_run, 2, rng),
            "log10_error_ratio": over_clusters(lambda x: x.mean((0, 1)), ratio, [None, None], rng),
            "rate_fitted": np.array([fit[0] for fit in fits]).mean(0),
            "exponent_fitted": np.array([fit[1] for fit in fits]).mean(0),
            "rival_error": mean(np.stack(fixed, -1)[n_fitted:], 1, rng),
            "threshold_fitted": options[0],
            "matches_fitted": options[1],
            "lag_error": mean(lags, 1, rng),
            "ratio_needed": over_clusters(ratios_needed, needed, [None], rng, "log"),
        }

    d_head, d_value = heads.qkv.sizes["d_head"], heads.qkv.sizes["d_value"]
    lengths = [heads.n_tokens(i) for i in read_inputs]
    coords = {
        "mechanism": [*MECHANISMS],
        "rival": RIVALS,
        "reading": READINGS,
        "ratio": sweep,
        "start": [*STARTS],
        "pattern": PATTERNS,
        "moment": retrieval.MOMENTS,
        "n_features": n_features,
        "seed": range(n_seeds),
    }
    return heads.table(
        "rivals",
        one_head,
        coords,
        **counted(n_features, lengths, d_head, d_value),
        **retrieved(heads, n_seeds, naam_neurons, naam_memories, naam_flipped),
    )


def mean(values: np.ndarray, n_axes: int, rng: np.random.Generator) -> tuple:
    """Mean over the first n_axes axes, all of them clusters, with an interval on a log scale."""
    axes = tuple(range(n_axes))
    found = over_clusters(lambda x: x.mean(axes), values, [None] * n_axes, rng, "log")
    return tuple(np.where(np.isfinite(x), x, np.nan) for x in found)


# Mechanisms with hidden neurons, and as many stored tokens.


def of_draw(
    head: Head,
    inputs: list[Reading],
    exact: list[np.ndarray],
    n_fitted: int,
    sizes: list[int],
    draw: int,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Errors [mechanism, n_features, input] of one draw, and what was fitted.

    These are the rates of the delta rule [mechanism, n_features] (NaN for others) and the exponents
    [n_features].
    """
    pairs = [(x.q, x.k) for x in inputs[:n_fitted]]
    try:
        symmetry, a = fitted(pairs, SYMMETRIES, "fitted_normal")
    except ValueError as error:
        raise UserError(
            f"layer {head.layer}, head {head.head}: {error}; leave it out of heads"
        ) from error
    plain = layer_of(head, inputs, sizes, draw, "performer")
    normal = layer_of(head, inputs, sizes, draw, "fitted_normal", symmetry, a)
    elu = layer_of(head, inputs, sizes, draw, "elu_plus_one")
    delta, delta_rates = delta_errors(normal, inputs, exact, n_fitted, sizes)
    delta_elu, delta_elu_rates = delta_errors(elu, inputs, exact, n_fitted, sizes)
    power, exponents = exponent_errors(elu, exact, n_fitted, sizes)
    found = {
        "network": [memories.errors(x, exact) for x in plain.outputs],
        "network, fitted": [memories.errors(x, exact) for x in normal.outputs],
        "network, fitted, gain": [memories.errors(x, exact, n_fitted) for x in normal.outputs],
        "no division, fitted": [
            memories.errors(undivided(*of_size), exact, n_fitted)
            for of_size in zip(normal.outputs, normal.log_p)
        ],
        "delta rule, fitted": delta,
        "delta rule, elu + 1": delta_elu,
        "elu + 1": [memories.errors(x, exact) for x in elu.outputs],
        "elu + 1, exponent": power,
        "replicator": replicator_errors(head, inputs, exact, sizes, draw),
    }
    found_rates = np.full((len(MECHANISMS), len(sizes)), np.nan)
    names = list(MECHANISMS)
    found_rates[names.index("delta rule, fitted")] = delta_rates
    found_rates[names.index("delta rule, elu + 1")] = delta_elu_rates
    return np.array([found[name] for name in MECHANISMS]), (found_rates, exponents)


def layer_of(
    head: Head,
    inputs: list[Reading],
    sizes: list[int],
    draw: int,
    feature_map: str,
    symmetry: Symmetry | None = None,
    a: float | Tensor = 0.0,
) -> Layer:
    """Networks of a feature map on all inputs; queries and keys are transformed by a symmetry."""
    seen = []
    for x in inputs:
        q, k, log_gain = x.q, x.k, torch.zeros(len(x.k), dtype=torch.float64)
        if symmetry is not None:
            q, k, log_gain, _ = transform(q, k, symmetry)
        seen.append(Tokens(q, k, x.v, log_gain))
    neurons = [*hidden.neurons(head, draw, sizes[-1], feature_map, a)]
    activation = FEATURE_MAPS[feature_map].activation
    found = read(seen, neurons, [(0, m) for m in sizes], activation)
    weights, bias = (torch.cat(parts) for parts in zip(*neurons))
    return Layer(
        [[o.numpy() for _, _, o in network] for network in found],
        [[p.numpy() for p, _, _ in network] for network in found],
        Hidden(weights, bias, activation),
        seen,
    )


def undivided(outputs: list[np.ndarray], log_p: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs [input][T, E] of the same synapses without division, in units of the largest p."""
    top = max(float(x.max()) for x in log_p)
    return [o * np.exp(x - top)[:, None] for o, x in zip(outputs, log_p)]


def delta_errors(
    layer: Layer, inputs: list[Reading], exact: list[np.ndarray], n_fitted: int, sizes: list[int]
) -> tuple[list[np.ndarray], list[float]]:
    """Errors [n_features][input] of the delta rule, and the rate of each size."""
    outputs: dict[tuple[int, float], list[np.ndarray]] = {}
    for i, reading in enumerate(inputs):
        v, logs = reading.v.numpy(), layer.log_rates(i)
        for m in sizes:
            query, key = (memories.unit(log[:, :m]) for log in logs)
            pair = (query @ key.T).numpy(), (key @ key.T).numpy()
            for rate in memories.RATES:
                outputs.setdefault((m, rate), []).append(memories.delta_rule(*pair, v, rate))
    found, chosen = [], []
    for m in sizes:
        options = [memories.errors(outputs[m, rate], exact, n_fitted) for rate in memories.RATES]
        best = memories.best_option(options, n_fitted)
        found.append(options[best])
        chosen.append(memories.RATES[best])
    return found, chosen


def exponent_errors(
    layer: Layer, exact: list[np.ndarray], n_fitted: int, sizes: list[int]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Errors [n_features][input] with the best exponent of the contacts, and the exponents."""
    whole = memories.EXPONENTS.index(1.0)
    pooled = [memories.pooled_powers(*layer.log_rates(i), sizes) for i in range(len(exact))]
    found, chosen = [], []
    for i, outputs in enumerate(layer.outputs):
        options = [
            memories.errors(
                [o * (p[whole, i] / p[place, i])[:, None] for o, p in zip(outputs, pooled)],
                exact,
                n_fitted,
            )
            for place in range(len(memories.EXPONENTS))
        ]
        best = memories.best_option(options, n_fitted)
        found.append(options[best])
        chosen.append(memories.EXPONENTS[best])
    return found, np.array(chosen)


def replicator_errors(
    head: Head, inputs: list[Reading], exact: list[np.ndarray], sizes: list[int], draw: int
) -> list[np.ndarray]:
    """Errors [n_features][input] of settled gains of as many tokens, drawn at random."""
    found = np.empty((len(sizes), len(inputs)))
    for i, x in enumerate(inputs):
        order = head.stream("replicator", draw, x.name).permutation(len(x.k))
        for place, m in enumerate(sizes):
            kept = np.sort(order[:m])
            gains = memories.replicator((x.q @ x.k[kept].T).numpy(), np.inf)
            found[place, i] = relative_error(gains @ x.v.numpy()[kept], exact[i])
    return list(found)


# Mechanisms whose size is that of the head or the input.


def of_rivals(
    inputs: list[Reading], exact: list[np.ndarray], n_fitted: int
) -> tuple[list[np.ndarray], tuple[float, float]]:
    """Errors [rival][input], and the threshold and number of matches that were fitted."""
    logits = [(x.q @ x.k.T).numpy() for x in inputs]
    values = [x.v.numpy() for x in inputs]
    matches = np.concatenate([x.ravel() for x in logits[:n_fitted]])
    thresholds = np.quantile(matches, np.linspace(0, 1, memories.N_THRESHOLDS))
    most = max(len(v) for v in values[:n_fitted])
    numbers = sorted({int(round(x)) for x in np.geomspace(1, most, memories.N_THRESHOLDS)})

    def best(
        function: Callable, matches: list[np.ndarray], options: Sequence[float]
    ) -> tuple[np.ndarray, float]:
        tried = [
            memories.errors(
                [function(x, v, option) for x, v in zip(matches[:n_fitted], values)], exact
            )
            for option in options
        ]
        option = options[memories.best_option(tried, n_fitted)]
        outputs = [function(x, v, option) for x, v in zip(matches, values)]
        return memories.errors(outputs, exact), option

    orders = [np.argsort(-x, axis=1, kind="stable") for x in logits]
    settled = [memories.replicator(x, np.inf) @ v for x, v in zip(logits, values)]
    by_threshold, threshold = best(memories.threshold_read, logits, thresholds.tolist())
    by_number, number = best(memories.best_matches_read, orders, numbers)
    equal = [uniform_attention(x.v).numpy() for x in inputs]
    mean_output = np.concatenate(exact[:n_fitted]).mean(0)
    found = [
        memories.errors(settled, exact),
        by_threshold,
        by_number,
        memories.errors([published(x) for x in inputs], exact),
        memories.errors(equal, exact),
        memories.errors(equal, exact, n_fitted),
        memories.errors([np.broadcast_to(mean_output, o.shape) for o in exact], exact),
    ]
    return found, (float(threshold), float(number))


def published(reading: Reading) -> np.ndarray:
    """Output [T, E] of linear attention as published: phi = elu + 1 of the query or key itself.

    ASSUME: queries and keys are in their own units there, without a temperature (d_head^1/4 times
    those that the networks read).
    """
    d = reading.q.shape[1]
    neurons = torch.eye(d, dtype=torch.float64) * d**0.25, torch.zeros(d, dtype=torch.float64)
    activation = FEATURE_MAPS["elu_plus_one"].activation
    (((_, _, output),),) = read([hidden.tokens(reading)], [neurons], [(0, d)], activation)
    return output.numpy()


# How fast.


def of_lags(reading: Reading, ratios: np.ndarray) -> np.ndarray:
    """Errors [reading, ratio] of one input when a query is read for so many time constants."""
    log_z, exact = reading.log_normalizer.numpy(), reading.output.numpy()
    logits, v = (reading.q @ reading.k.T).numpy(), reading.v.numpy()
    later = exact[1:] if len(exact) > 1 else exact
    from_rest, in_turn = [], []
    for ratio in ratios:
        from_rest.append(relative_error(memories.replicator(logits, ratio) @ v, exact))
        gains = memories.replicator_in_turn(logits, ratio)
        in_turn.append(relative_error((gains @ v)[-len(later) :], later))
    lagging = turns.squared_errors((log_z, exact), exact, ratios) if len(exact) > 1 else ratios * 0
    return np.stack([1 / np.expm1(ratios), np.sqrt(lagging), from_rest, in_turn])


def ratios_needed(curves: np.ndarray) -> np.ndarray:
    """T_r / tau [reading] from which on the mean error of [input, reading, GRID] is small."""
    means = curves.mean(0)
    return turns.crossings(means.T, np.full(len(means), TOLERANCE))


# Beside all heads.


def counted(sizes: list[int], lengths: list[int], d_head: int, d_value: int) -> dict:
    """Units and synapses [mechanism, n_features] and [rival], for inputs of these lengths."""
    of_sizes = np.empty((3, len(MECHANISMS), len(sizes)))  # units, synapses, written ones
    for i, (name, pooled) in enumerate(MECHANISMS.items()):
        for j, m in enumerate(sizes):
            if name == "replicator":
                stored = [min(m, n) for n in lengths]
                of_inputs = [(n, *counts.of_tokens(n, d_head, d_value, True)) for n in stored]
                of_sizes[:, i, j] = np.mean(of_inputs, 0)
            else:
                of_sizes[:, i, j] = m, *counts.of_neurons(m, d_head, d_value, pooled)
    n = float(np.mean(lengths))
    of_rivals_ = np.zeros((3, len(RIVALS)))
    for i, pooled in ((0, True), (1, False), (2, False)):
        # linear in the number of tokens
        of_rivals_[:, i] = n, *(n * x for x in counts.of_tokens(1, d_head, d_value, pooled))
    # each neuron has one query and key
    of_rivals_[:, 3] = d_head, *counts.of_neurons(d_head, 1, d_value, True)
    names = ("units", "synapses", "synapses_written")
    return {
        **dict(zip(names, of_sizes)),
        **{f"rival_{name}": x for name, x in zip(names, of_rivals_)},
    }


def retrieved(
    heads: Heads, n_seeds: int, n_neurons: int, n_memories: int, flipped: float
) -> dict[str, object]:
    """Overlaps and energies of the associative memory, from each start; without any head."""
    overlaps = np.empty((n_seeds, len(STARTS), len(PATTERNS), len(retrieval.MOMENTS)))
    energies = np.empty((n_seeds, len(STARTS), len(retrieval.MOMENTS)))
    driven = np.empty((n_seeds, len(STARTS)))
    for seed in range(n_seeds):
        rng = heads.stream("naam", seed)
        stored = rng.choice([-1.0, 1.0], (n_memories, n_neurons))
        cue = stored[0] * np.where(rng.permutation(n_neurons) < flipped * n_neurons, -1, 1)
        for i, start in enumerate(STARTS.values()):
            states = retrieval.path(start(cue, stored), stored)
            for j, pattern in enumerate((stored[0], cue)):
                overlaps[seed, i, j] = [retrieval.overlap(x.x, pattern) for x in states]
            energies[seed, i] = [retrieval.energy(x, stored) / n_neurons for x in states]
            driven[seed, i] = retrieval.overlap(retrieval.drive(states[0]), stored[0])

    def of_seeds(values: np.ndarray) -> tuple:
        return over_seeds(lambda x: x.mean(0), values, "linear")

    return {
        "naam_overlap": of_seeds(overlaps),
        "naam_energy": of_seeds(energies),
        "naam_energy_run": np.moveaxis(energies, 0, -1),
        "naam_drive_overlap": of_seeds(driven),
    }
