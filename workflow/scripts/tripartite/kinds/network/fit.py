"""Fit the network to standard attention: measured errors beside the closed forms, for every head.

Then the phase that each network is in, and the power laws of its error inside one phase.
"""

from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from scipy.special import logsumexp

from tripartite import phases, theory
from tripartite.attention import log_key_weight
from tripartite.statistics import cluster_bootstrap, over_seeds, pooled_correlation
from tripartite.streams import stream
from tripartite.symmetries import Symmetry, transform

PER_HEAD = ("n_features", "layer", "head")
PER_QUERY = ("input", "layer", "head", "token")
CLOSED_FORM = ("performer", "generalized_positive", "fitted_normal", "hyperbolic")
OUTPUT_CLOSED_FORM = ("performer", "generalized_positive", "fitted_normal")


def fit(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    states: xr.Dataset,
    feature_map: str = "performer",
    order: str = "bidirectional",
    leak_hebbian: float = 0.0,
    leak_presynaptic: float = 0.0,
) -> xr.Dataset:
    """Return the neurons each head needs (closed form), and errors and correlations with intervals.

    All are over the inputs on which networks were run. Statistics are pooled over queries, inputs and
    seeds, with 95 % intervals over seeds; heads that were not simulated are NaN in them. The closed form
    of the normaliser is for every head, that of the output for the simulated ones; they are NaN for
    feature maps that have none. Phases, exponents and crossovers: see tripartite/phases.py.
    """
    used = states["computed"].any(("n_features", "seed", "layer", "head")).values  # [input]
    mask = qkv["mask"].values & used[:, None]  # [input, token]
    log_z = attention["log_normalizer"].transpose(*PER_QUERY).values
    seen = list(_seen(qkv, log_z, states, mask, order, leak_presynaptic))
    log_variance = log_variances(seen, feature_map)
    needed = theory.log10_features_needed(log_variance).numpy()  # [layer, head, query]
    variables = {
        "log10_features_needed": (PER_HEAD[1:], np.median(needed, -1)),
        "log10_features_needed_q10": (PER_HEAD[1:], np.quantile(needed, 0.1, -1)),
        "log10_features_needed_q90": (PER_HEAD[1:], np.quantile(needed, 0.9, -1)),
    }
    size = np.log10(states["n_features"].values)[:, None, None]
    one_neuron = closed_forms(log_variance)
    for name, values in one_neuron.items():
        variables[name] = (PER_HEAD, values - size / 2)
    has_output = feature_map in OUTPUT_CLOSED_FORM and leak_hebbian == leak_presynaptic
    run = states["computed"].any(("n_features", "seed", "input")).values & has_output
    outputs = output_closed_forms(seen, qkv["v"].values, attention["output"].values, mask, run)
    for name in ("output_error", "output_error_other_pool"):
        log10 = outputs[name] / np.log(10) - size / 2
        variables[f"log10_{name}_rms_closed_form"] = (PER_HEAD, log10)
    variables["output_gain_closed_form"] = (PER_HEAD, 1 + outputs["gain"] / 10**size)
    for name, values in measured(states, log_z, mask).items():
        variables[name] = (PER_HEAD, values)
    # ASSUME: a sample holds the draws that carry the rms only in the Gaussian phase of the random-energy
    # model, m > R^2; elsewhere its scatter over seeds says nothing about how far off it is.
    with np.errstate(invalid="ignore"):  # NaN where there is no closed form
        log_r = np.logaddexp(0, np.log(100) * one_neuron["log10_normalizer_error_rms_closed_form"])
        sigma_squared = np.logaddexp(0, log_variance.median(-1).values.numpy())
    unsampled = ~(size >= 2 * log_r / np.log(10))
    for name in ("normalizer_error_rms", "output_error_rms", "output_error_other_pool_rms"):
        for bound in ("low", "high"):
            values = variables[f"{name}_{bound}"][1]
            variables[f"{name}_{bound}"] = (PER_HEAD, np.where(unsampled, np.nan, values))
    ratio = variables["normalizer_ratio"][1]
    variables |= laws(sigma_squared, typical_errors(states, log_z, mask), ratio, states)

    variables["log_normalizer"] = (PER_QUERY, log_z)
    low, middle, high = _trace(states, mask)
    for name, values in (("", middle), ("_low", low), ("_high", high)):
        variables[f"log_calcium{name}"] = (("n_features", *PER_QUERY), values)
    coords = {name: states[name] for name in ("n_features", "input", "layer", "head")}
    return xr.Dataset(variables, coords=coords | {"phase": list(phases.PHASES)})


def _seen(
    qkv: xr.Dataset,
    log_z: np.ndarray,
    states: xr.Dataset,
    mask: np.ndarray,
    order: str,
    leak: float,
) -> Iterator[tuple]:
    """What the networks were given, input by input: q, k, ln Z, ln weight and ln gain of the keys, and a.

    ln weight [T or 1, T] is the same for all heads, all else begins with [layer, head].
    """
    symmetry = Symmetry(*(torch.from_numpy(states[name].values) for name in Symmetry._fields))
    a = torch.from_numpy(states["feature_a"].values)
    for i in np.flatnonzero(mask.any(1)):
        present = mask[i]
        q, k = (torch.from_numpy(qkv[name].values[i][:, :, present]).double() for name in "qk")
        q, k, log_gain, log_shift = transform(q, k, symmetry)
        log_normalizer = torch.from_numpy(log_z[i][:, :, present]) - log_shift
        everything = torch.ones(log_normalizer.shape[-1], dtype=torch.bool)
        yield q, k, log_normalizer, log_key_weight(everything, order == "causal", leak), log_gain, a


def _of_head(one: tuple, at: tuple[int, int]) -> tuple:
    """q, k, ln Z, ln weight of the keys [T or 1, T], and a of one head: squares of T for one at a time."""
    q, k, log_normalizer, log_weight, log_gain, a = one
    return q[at], k[at], log_normalizer[at], log_weight + log_gain[at], a[at]


def log_variances(seen: list[tuple], feature_map: str) -> torch.Tensor:
    """ln of the relative variance of one neuron's estimate, of all queries [layer, head, query]."""
    parts = []
    for one in seen:
        log_variance = torch.full_like(one[2], torch.nan)
        for at in np.ndindex(log_variance.shape[:2]) if feature_map in CLOSED_FORM else ():
            q, k, log_normalizer, log_weight, a = _of_head(one, at)
            log_r = theory.log_second_moment(q, k, log_normalizer, log_weight, a)
            log_variance[at] = theory.log_variance(log_r)
            if feature_map == "hyperbolic":
                log_mirror = theory.log_mirror_moment(q, k, log_normalizer, log_weight)
                log_variance[at] = theory.log_mirrored_variance(log_variance[at], log_mirror)
        parts.append(log_variance)
    return torch.cat(parts, dim=-1)


def output_closed_forms(
    seen: list[tuple], v: np.ndarray, output: np.ndarray, mask: np.ndarray, run: np.ndarray
) -> dict[str, np.ndarray]:
    """ln rms error of outputs, with shared and with separate pools, and bias of the gain, at m = 1.

    run [layer, head] says for which heads, the others are NaN. Means over inputs of relative squares.
    """
    inputs = np.flatnonzero(mask.any(1))
    results = {
        name: np.full((*run.shape, len(inputs)), np.nan)
        for name in ("output_error", "output_error_other_pool", "gain")
    }
    for place, (i, one) in enumerate(zip(inputs, seen)):
        for at in zip(*np.nonzero(run)):
            q, k, log_normalizer, log_weight, a = _of_head(one, at)
            values, exact = (
                torch.from_numpy(x[i][at][mask[i]]).double() for x in (v, output)
            )  # [T, E]
            norm = 2 * exact.norm().log()
            log_scale, covariance, bias, separate = theory.output_moments(
                q, k, values, exact, log_normalizer, log_weight, a
            )
            traces = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
            for name, trace in (("output_error", traces), ("output_error_other_pool", separate)):
                squares = torch.logsumexp(log_scale + trace.clamp_min(0).log(), 0)
                results[name][(*at, place)] = squares - norm
            along = (exact * bias).sum(-1) * torch.exp(log_scale - norm)
            results["gain"][(*at, place)] = along.sum()
    for name in ("output_error", "output_error_other_pool"):
        results[name] = (logsumexp(results[name], -1) - np.log(len(inputs))) / 2
    return results | {"gain": results["gain"].mean(-1)}


def closed_forms(log_variance: torch.Tensor) -> dict[str, np.ndarray]:
    """log10 of the normaliser errors at m = 1, from [layer, head, query] to [layer, head]."""
    n_queries = log_variance.shape[-1]
    log_rms = (torch.logsumexp(log_variance, -1) - np.log(n_queries)) / 2
    log_median = theory.log_median_error(log_variance / 2)
    return {
        "log10_normalizer_error_closed_form": (log_median / np.log(10)).numpy(),
        "log10_normalizer_error_rms_closed_form": (log_rms / np.log(10)).numpy(),
    }


def measured(states: xr.Dataset, log_z: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Each statistic with its interval, [n_features, layer, head]; NaN where no network was run."""

    def pool(values: np.ndarray) -> np.ndarray:  # [seed, point, n] -> [point, seed * n]
        return np.moveaxis(values, 0, 1).reshape(values.shape[1], -1)

    def median(values: np.ndarray) -> np.ndarray:
        return np.median(pool(values), -1)

    def rms(values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.sqrt(np.mean(np.square(pool(values)), -1))

    def mean(values: np.ndarray) -> np.ndarray:
        return np.mean(pool(values), -1)

    per_head = ("output_error", "output_gain", "output_error_other_pool")
    inputs = np.flatnonzero(mask.any(1))
    results = {}
    for size in range(states.sizes["n_features"]):
        seeds = np.flatnonzero(states["draw"].values[size] >= 0)
        computed = states["computed"].values[size][seeds][:, inputs]
        layer, head = np.nonzero(computed.all((0, 1)))
        here = {
            name: np.moveaxis(states[name].values[size][seeds], 1, -2)[:, layer, head][..., mask]
            for name in ("log_calcium", "calcium_sign")
        }  # [seed, point, query]
        target = np.moveaxis(log_z, 0, -2)[layer, head][..., mask]  # [point, query]
        outputs = {
            name: np.moveaxis(states[name].values[size][seeds][:, inputs][:, :, layer, head], 1, -1)
            for name in per_head
        }  # [seed, point, input]
        positive = here["calcium_sign"] > 0
        with np.errstate(over="ignore"):  # beyond float64 an error is infinite
            ratio = here["calcium_sign"] * np.exp(here["log_calcium"] - target)
        error = np.abs(ratio - 1)
        # One network's correlation, on Fisher's scale, where means and intervals over seeds are sound.
        log_p = np.where(positive.all((0, 2))[:, None], here["log_calcium"], np.nan)
        r = pooled_correlation(log_p, np.broadcast_to(target, log_p.shape))
        fisher_z = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))[..., None]  # [seed, point, 1]

        def put(name: str, values: np.ndarray) -> None:
            shape = (states.sizes["n_features"], *states["computed"].shape[-2:])
            results.setdefault(name, np.full(shape, np.nan))[size, layer, head] = values

        for name, statistic, values, scale in (
            ("normalizer_error", median, error, "log"),
            ("normalizer_error_rms", rms, error, "log"),
            ("normalizer_ratio", median, ratio, "log"),
            ("output_error", mean, outputs["output_error"], "log"),
            ("output_error_rms", rms, outputs["output_error"], "log"),
            ("output_error_other_pool_rms", rms, outputs["output_error_other_pool"], "log"),
            ("output_gain", mean, outputs["output_gain"], "linear"),
            ("correlation", mean, fisher_z, "linear"),
        ):
            for suffix, bound in zip(("", "_low", "_high"), over_seeds(statistic, values, scale)):
                put(name + suffix, np.tanh(bound) if name == "correlation" else bound)
        put("share_not_positive", 1 - positive.mean((0, 2)))
    return results


def typical_errors(states: xr.Dataset, log_z: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """ln of the median over queries of the normaliser's error, [n_features, input, draw, layer, head].

    Mean over the networks that were cut out of one draw. NaN where no network was run.
    """
    draws, inputs = states["draw"].values, np.flatnonzero(mask.any(1))
    shape = (len(draws), len(inputs), draws.max() + 1, *states["computed"].shape[-2:])
    typical = np.full(shape, np.nan)
    for size, i, draw in np.ndindex(shape[:3]):
        seeds = np.flatnonzero(draws[size] == draw)
        here = np.ix_(seeds, [inputs[i]])
        run = states["computed"].values[size][here].all((0, 1))  # [layer, head]
        log_p, sign = (
            states[name].values[size][here][:, 0, run][..., mask[inputs[i]]]
            for name in ("log_calcium", "calcium_sign")
        )  # [seed, head, query]
        target = log_z[inputs[i]][run][..., mask[inputs[i]]]
        with np.errstate(over="ignore", divide="ignore"):
            error = np.abs(sign * np.exp(log_p - target) - 1)
            typical[size, i, draw, run] = np.log(np.median(error, -1)).mean(0)
    return typical


def laws(
    sigma_squared: np.ndarray, typical: np.ndarray, ratio: np.ndarray, states: xr.Dataset
) -> dict[str, tuple]:
    """Phases, exponents inside one of them, where two power laws meet, and the collapse of p / Z.

    sigma_squared [layer, head], typical as typical_errors, ratio [n_features, layer, head].
    """
    log_m = np.log(states["n_features"].values)
    of_heads = sigma_squared.shape
    flat = typical.reshape(*typical.shape[:3], -1)  # [n_features, input, draw, point]
    sigma_squared = sigma_squared.ravel()
    known = np.isfinite(sigma_squared)
    run = np.isfinite(flat).all((0, 1, 2))
    index = phases.phase(log_m[:, None], np.where(known, sigma_squared, 0))  # [n_features, point]
    names = np.where(known, np.array(phases.PHASES)[index], "")
    with np.errstate(invalid="ignore"):
        reach = phases.reach(log_m[:, None], sigma_squared)
    n_phases = len(phases.PHASES)
    exponent = np.full((3, n_phases, len(sigma_squared)), np.nan)  # estimate, low, high
    pooled, counts = np.full((3, n_phases), np.nan), np.zeros(n_phases, dtype=np.int64)
    notes = np.full((n_phases, len(sigma_squared)), "", dtype=object)
    for p, name in enumerate(phases.PHASES):
        inside = known & (index == p)  # [n_features, point]
        enough = inside.sum(0) >= phases.LEAST_POINTS
        notes[p] = [_exponent_note(*x) for x in zip(inside.sum(0), run, known)]
        found = np.full(flat.shape[1:], np.nan)  # exponents [input, draw, point]
        for sizes in {tuple(column) for column in inside.T[enough & run]}:
            points = np.flatnonzero(run & (inside.T == sizes).all(1))
            chosen = flat[np.array(sizes)][..., points]
            found[..., points] = phases.slopes(log_m[np.array(sizes)], np.moveaxis(chosen, 0, -1))
        points = np.flatnonzero(enough & run)
        counts[p] = len(points)
        if not len(points):
            continue
        rng = stream(0, "bootstrap", "exponent", name)
        exponent[:, p, points] = cluster_bootstrap(
            lambda x: x.mean((0, 1)), found[..., points], 2, rng
        )
        by_head = np.moveaxis(found[..., points], 2, 1)  # [input, head, draw]
        pooled[:, p] = cluster_bootstrap(np.mean, by_head, 3, rng)
    variables = {
        "sigma_squared": (PER_HEAD[1:], sigma_squared.reshape(of_heads)),
        "phase_of": (PER_HEAD, names.reshape(-1, *of_heads).astype(object)),
        "reach": (PER_HEAD, reach.reshape(-1, *of_heads)),
        "exponent_note": (("phase", *PER_HEAD[1:]), notes.reshape(-1, *of_heads)),
        "phase_heads": (("phase",), counts),
    }
    for suffix, values, all_heads in zip(("", "_low", "_high"), exponent, pooled):
        variables[f"exponent{suffix}"] = (("phase", *PER_HEAD[1:]), values.reshape(-1, *of_heads))
        variables[f"phase_exponent{suffix}"] = (("phase",), all_heads)
    return variables | _crossovers(log_m, flat, run, of_heads) | _collapse(reach, ratio, index, run)


def _exponent_note(n_sizes: int, run: bool, known: bool) -> str:
    if not known:
        return "no closed form tells the phase of this feature map"
    if not run:
        return "not simulated, or without any error"
    if n_sizes < phases.LEAST_POINTS:
        return f"{n_sizes} numbers of neurons in this phase, {phases.LEAST_POINTS} needed"
    return ""


def _crossovers(
    log_m: np.ndarray, flat: np.ndarray, run: np.ndarray, of_heads: tuple[int, int]
) -> dict[str, tuple]:
    """Where two power laws of the typical error meet; NaN where one law serves."""
    values = np.full((3, 3, len(run)), np.nan)  # what, estimate and bounds, point
    note = f"{len(log_m)} numbers of neurons, {phases.LEAST_POINTS_TWO} needed"
    notes = np.where(run, note, "not simulated, or without any error").astype(object)
    points = np.flatnonzero(run)
    if len(log_m) >= phases.LEAST_POINTS_TWO and len(points):

        def meeting(x: np.ndarray) -> np.ndarray:  # [input, draw, point, n_features]
            place, before, after = phases.crossover(log_m, x.mean((0, 1)))
            return np.stack([place / np.log(10), before, after, after - before])

        by_point = np.moveaxis(flat[..., points], 0, -1)
        rng = stream(0, "bootstrap", "crossover")
        found = np.stack(cluster_bootstrap(meeting, by_point, 2, rng, n_draws=500), 1)
        one_law = ~(found[3, 1] * found[3, 2] > 0)  # the change of the exponent may be 0
        found = np.where(one_law, np.nan, found)
        values[:, :, points] = found[:3]
        text = "one power law serves: the exponents before and after do not differ"
        notes[points] = np.where(one_law, text, "")
    variables = {"crossover_note": (PER_HEAD[1:], notes.reshape(of_heads))}
    for name, triple in zip(("log10_crossover", "exponent_before", "exponent_after"), values):
        for suffix, one in zip(("", "_low", "_high"), triple):
            variables[name + suffix] = (PER_HEAD[1:], one.reshape(of_heads))
    return variables


def _collapse(
    reach: np.ndarray, ratio: np.ndarray, index: np.ndarray, run: np.ndarray
) -> dict[str, tuple]:
    """By how much ln Phi(b_m - sigma) has to be moved to fit the typical p / Z outside the Gaussian phase."""
    ratio = ratio.reshape(reach.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        log_ratio = np.log(ratio)
    with np.errstate(invalid="ignore"):
        inside = np.isfinite(log_ratio) & (reach > phases.LEAST_REACH) & (index < 2) & run
    points = np.flatnonzero(inside.any(0))
    note, values = "", (np.nan,) * 3
    if len(points) < 2 or inside.sum() < phases.LEAST_POINTS:
        note = (
            f"{inside.sum()} networks of {len(points)} heads outside the Gaussian phase, "
            f"{phases.LEAST_POINTS} of 2 needed"
        )
    else:
        pairs = np.stack([reach, log_ratio, inside], -1)[:, points].swapaxes(0, 1)  # [head, m, 3]

        def shift(x: np.ndarray) -> np.ndarray:
            x = x[x[..., 2] == 1]
            return np.asarray(phases.collapse_shift(x[:, 0], x[:, 1]))

        rng = stream(0, "bootstrap", "collapse")
        values = cluster_bootstrap(shift, pairs, 1, rng, n_draws=500)
    names = ("collapse_shift", "collapse_shift_low", "collapse_shift_high")
    variables = {name: ((), float(value)) for name, value in zip(names, values)}
    return variables | {"collapse_note": ((), note)}


def _trace(states: xr.Dataset, mask: np.ndarray) -> np.ndarray:
    """Quantiles .1, .5, .9 over seeds of log_calcium where it is positive in all of them, else NaN.

    [3, n_features, *PER_QUERY]
    """
    log_p = np.where(states["calcium_sign"].values > 0, states["log_calcium"].values, np.nan)
    quantiles = np.full((3, log_p.shape[0], *log_p.shape[2:]), np.nan)
    for size, draws in enumerate(states["draw"].values):
        seeds = np.flatnonzero(draws >= 0)
        run = states["computed"].values[size][seeds].all(0)[..., None] & mask[:, None, None, :]
        values = log_p[size][seeds][:, run]
        quantiles[:, size, run] = np.quantile(values, (0.1, 0.5, 0.9), axis=0)
    return quantiles
