"""Let the calcium of real astrocytes carry the normaliser, and read it back as a power of calcium.

Query t sets the stimulus S_t = I_0 + depth Z_t / mean(Z) of a calcium model, which comes to rest at C_t.
The network divides by C_t^gamma, in a unit of its own: the gain of query t is Z_t / C_t^gamma, and only
how it varies counts.

    alpha = d ln C / d ln S,    alpha_Z = d ln C / d ln Z = alpha (S - I_0) / S

Where C goes as Z^alpha_Z, dividing by C leaves a gain of Z^(1 - alpha_Z), of sd |1 - alpha_Z| sd(ln Z),
and gamma = 1 / alpha_Z leaves none.

ASSUME: every query is read until calcium rests; where it oscillates instead, nothing graded is read.
"""

import itertools
from collections.abc import Callable

import numpy as np
import xarray as xr
from tqdm import tqdm

from tripartite import calcium
from tripartite.statistics import cluster_bootstrap
from tripartite.streams import stream

ENDS = ("", "_low", "_high")
CURVE = 100  # points of a model's curves
LEAST = 0.01  # uM, where curves begin
VARIES = 1e-9  # sd of ln Z below which it does not vary
PER_HEAD = ("exponent_z", "readout_exponent", "sd_log_gain", "sd_log_gain_plain")


def respond(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    models: list[str],
    operating_points: list[float],
    depths: list[float],
    heads: str | list[list[int]],
    inputs: str | list[str],
    seed: int,
    data_of: str,
) -> xr.Dataset:
    """Return the models' steady states and oscillations, and the normalisation that they allow each head.

    operating_points are I_0, and depths what a head's mean Z adds to it (uM of IP3, of glutamate for g_chi);
    points are all pairs, by depth. gamma is fitted to the first half of the inputs (of the queries, for one input) and
    tried on the second. Intervals are over inputs, NaN where there is only one. `note` says why there is no
    number.
    """
    names = [str(name) for name in qkv["input"].values]
    chosen_inputs = list(range(len(names)) if inputs == "all" else map(names.index, inputs))
    every_head = itertools.product(range(qkv.sizes["layer"]), range(qkv.sizes["head"]))
    chosen = list(every_head) if heads == "all" else [tuple(pair) for pair in heads]
    pairs = [(rest, depth) for depth in sorted(depths) for rest in sorted(operating_points)]
    points = np.array(pairs, dtype=float)
    variables = {name: ("point", x) for name, x in zip(("operating_point", "depth"), points.T)}
    variables |= _curves(models, points.sum(1))

    of_heads = (qkv.sizes["layer"], qkv.sizes["head"])
    dims = ("model", "point", "layer", "head")
    shape = (len(models), len(points), *of_heads)
    found = {
        name: np.full(shape, np.nan)
        for name in (
            *(name + end for name in PER_HEAD for end in ENDS),
            "exponent_z_law",
            "sd_log_gain_law",
            "share_steady",
        )
    }
    found |= {f"sd_log_normalizer{end}": np.full(of_heads, np.nan) for end in ENDS}
    notes = np.full(shape, "not run", dtype=object)
    bar_format = "{desc}: {percentage:.0f} % of {total} heads, {elapsed} gone, {remaining} left\n"
    for at in tqdm(chosen, desc="respond", mininterval=5, maxinterval=5, bar_format=bar_format):
        log_z = [
            attention["log_normalizer"].values[i][at][qkv["mask"].values[i]] for i in chosen_inputs
        ]
        rng = stream(seed, data_of, "respond", *at)
        for name, values in _one_head(log_z, models, points, rng).items():
            (notes if name == "note" else found[name])[(..., *at)] = values
    for name, values in found.items():
        variables[name] = (("layer", "head") if name.startswith("sd_log_norm") else dims, values)
    return xr.Dataset(
        variables | {"note": (dims, notes)},
        coords={
            "case": np.arange(CURVE),
            "model": models,
            "point": np.arange(len(points)),
            **{name: qkv[name] for name in ("layer", "head")},
        },
        attrs={"data": qkv.attrs.get("data", "")},
    )


def _curves(models: list[str], at_mean: np.ndarray) -> dict[str, tuple]:
    """Steady states along their curve, oscillations and exponents by stimulus, bifurcations, of each model.

    at_mean are the stimuli [point] of a mean normaliser.
    """
    most = max(2.0, 1.2 * at_mean.max())
    stimulus = np.geomspace(min(LEAST, at_mean.min() / 2), most, CURVE)
    rows = {}

    def add(name: str, dims: tuple, values: np.ndarray) -> None:
        rows.setdefault(name, (("model", *dims), []))[1].append(values)

    for model in models:
        c, growth = calcium.along_curve(model, most, CURVE)
        add("steady_stimulus", ("case",), calcium.curve(model, c)[0])
        add("steady_calcium", ("case",), c)
        add("steady_growth", ("case",), growth)
        add("exponent", ("case",), calcium.exponent(model, stimulus))
        cycles = _cycles(model, stimulus)
        for name, values in zip(("period", "cycle_low", "cycle_high"), cycles):
            add(name, ("case",), values)
        bifurcations = calcium.bifurcations(model)
        for kind in ("hopf", "fold"):
            at = sorted(b.stimulus for b in bifurcations if b.kind == kind) or [np.nan]
            add(f"{kind}_first", (), at[0])
            add(f"{kind}_last", (), at[-1])
        add("exponent_at_mean", ("point",), calcium.exponent(model, at_mean))
        seconds = [calcium.relaxation_seconds(model, x) for x in at_mean]
        add("relaxation_seconds", ("point",), seconds)
    found = {
        name: (
            (("case", "model"), np.array(values).T) if "case" in dims else (dims, np.array(values))
        )
        for name, (dims, values) in rows.items()
    }
    return found | {"stimulus": ("case", stimulus)}


def _cycles(model: str, stimulus: np.ndarray) -> np.ndarray:
    """Period, lowest and highest calcium [3, k] of the oscillation at each stimulus, each begun on the last."""
    found, state = [], None
    for x in stimulus:
        period, lowest, highest, end = calcium.limit_cycle(model, x, state)
        state = end if np.isfinite(period) else None
        found.append((period, lowest, highest))
    return np.array(found).T


def _one_head(
    log_z: list[np.ndarray],
    models: list[str],
    points: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """What a head [model, point] shows; points are pairs of I_0 and depth [point, 2], log_z its ln Z of each input."""
    every = np.concatenate(log_z)
    x = every - every.mean()
    relative = np.exp(every - np.logaddexp.reduce(every) + np.log(len(every)))  # Z / mean Z
    ends = np.cumsum([len(one) for one in log_z])[:-1]
    shape = (len(models), len(points))
    found = {
        name: np.full(shape, np.nan)
        for name in (*(n + e for n in PER_HEAD for e in ENDS), "exponent_z_law", "sd_log_gain_law")
    }
    found["share_steady"] = np.zeros(shape)
    notes = np.full(shape, "", dtype=object)
    parts = [x] if len(log_z) == 1 else np.split(x, ends)
    found |= _named("sd_log_normalizer", _interval(_sd_x, _moments(parts, parts), rng))
    for i, model in enumerate(models):
        for j, (rest, depth) in enumerate(points):
            stimulus = rest + depth * relative
            c = calcium.resting(model, stimulus)[0]
            share = np.isfinite(c).mean()
            found["share_steady"][i, j] = share
            if x.std() < VARIES:
                notes[i, j] = "the normaliser does not vary"
            elif share < 1:
                notes[i, j] = f"calcium comes to rest at {share:.0%} of the queries only"
            else:
                law = np.median(calcium.exponent(model, stimulus) * (1 - rest / stimulus))
                found["exponent_z_law"][i, j] = law
                found["sd_log_gain_law"][i, j] = abs(1 - law) * x.std()
                y = np.log(c)
                for name, values in _readout(x, y - y.mean(), ends, rng).items():
                    found[name][i, j] = values
    return found | {"note": notes}


def _readout(x: np.ndarray, y: np.ndarray, ends: np.ndarray, rng: np.random.Generator) -> dict:
    """Exponents and sd of log gains with intervals, of x = ln Z and y = ln C; ends cut them into inputs."""
    pieces = [np.split(values, ends) for values in (x, y)]
    if len(ends):
        half = (len(ends) + 2) // 2
        fitted, tried = ([one[part] for one in pieces] for part in (slice(half), slice(half, None)))
    else:
        middle = len(x) // 2
        fitted, tried = [[x[:middle]], [y[:middle]]], [[x[middle:]], [y[middle:]]]
    everything, fitted, tried = _moments(*pieces), _moments(*fitted), _moments(*tried)
    gamma = _interval(_gamma, fitted, rng)
    return {
        **_named("exponent_z", _interval(_slope, everything, rng)),
        **_named("readout_exponent", gamma),
        **_named("sd_log_gain", _interval(lambda m: _sd_gain(m, gamma[0]), tried, rng)),
        **_named("sd_log_gain_plain", _interval(lambda m: _sd_gain(m, 1.0), everything, rng)),
    }


def _named(name: str, triple: tuple) -> dict[str, np.ndarray]:
    return {name + end: value for end, value in zip(ENDS, triple)}


def _moments(x: list[np.ndarray], y: list[np.ndarray]) -> np.ndarray:
    """Sums [input, 6] of 1, x, y, x^2, x y, y^2 over the queries of each input."""
    return np.array(
        [[len(a), a.sum(), b.sum(), a @ a, a @ b, b @ b] for a, b in zip(x, y)], dtype=float
    )


def _covariances(moments: np.ndarray) -> tuple[float, float, float]:
    """Var(x), Cov(x, y) and Var(y) over the queries of all inputs."""
    n, x, y, xx, xy, yy = moments.sum(0)
    return xx / n - (x / n) ** 2, xy / n - x * y / n**2, yy / n - (y / n) ** 2


def _sd_x(moments: np.ndarray) -> np.ndarray:
    return np.sqrt(max(_covariances(moments)[0], 0))


def _slope(moments: np.ndarray) -> float:
    """Exponent of C in Z, by least squares of ln C on ln Z."""
    xx, xy, _ = _covariances(moments)
    return xy / xx if xx > 0 else np.nan


def _gamma(moments: np.ndarray) -> float:
    """Power of C that leaves the least variance of ln(Z / C^gamma)."""
    _, xy, yy = _covariances(moments)
    return xy / yy if yy > 0 else np.nan


def _sd_gain(moments: np.ndarray, gamma: float) -> np.ndarray:
    xx, xy, yy = _covariances(moments)
    return np.sqrt(max(xx - 2 * gamma * xy + gamma**2 * yy, 0))


def _interval(statistic: Callable, moments: np.ndarray, rng: np.random.Generator) -> tuple:
    """Estimate and 95 % interval over inputs; one input has no interval."""
    if len(moments) == 1:
        return statistic(moments), np.nan, np.nan
    return cluster_bootstrap(statistic, moments, 1, rng, n_draws=500)
