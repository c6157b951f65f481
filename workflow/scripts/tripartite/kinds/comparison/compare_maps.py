"""Compare hidden layers on the same heads and weights: bias, variance, limits and ranks."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from tripartite import symmetries as exact_symmetries
from tripartite.contracts import UserError
from tripartite.features import FEATURE_MAPS, draw_neurons
from tripartite.kernels import limit_kernel, limit_read
from tripartite.network import Hidden, Tokens, rates, read
from tripartite.statistics import cluster_bootstrap, over_seeds
from tripartite.streams import stream

PER_VARIANT = ("variant", "n_features", "layer", "head")
ENDS = ("", "_low", "_high")
TIE = 1e-3  # relative difference of two mean squares up to which neither is better
LEAST_SEEDS = 3
LEAST_THRESHOLDS = 3


def compare_maps(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    variants: dict[str, dict],
    n_features: list[int],
    n_seeds: int,
    heads: str | list[list[int]],
    seed: int,
    data_of: str,
    device: str,
    inputs: str | list[str] = "all",
    symmetries: tuple[str, ...] | list[str] = (),
    calibrated_on: tuple[str, ...] | list[str] = (),
    dtype: str = "float64",
    workers: int = 1,
) -> xr.Dataset:
    """Return bias, variance, floor and rank of hidden layers that differ in their feature map alone.

    variants are {name: {feature_map, threshold, a}}, the last two as far as the map takes them; their
    order is that of the axis. The other settings are those of simulate: every variant, and simulate
    itself, has the same streams of hidden weights, and smaller networks are the first neurons of larger
    ones. Networks are bidirectional. Heads that were not chosen are NaN. UserError where there are less
    than 3 seeds, or a variant has settings that its map does not take.
    """
    if n_seeds < LEAST_SEEDS:
        raise UserError(
            f"n_seeds: got {n_seeds}, wanted at least {LEAST_SEEDS}: variance needs several"
        )
    for name, variant in variants.items():
        _check(name, **variant)
    names = [str(name) for name in qkv["input"].values]
    chosen_inputs = [i for i, name in enumerate(names) if name not in calibrated_on]
    if inputs != "all":
        chosen_inputs = [names.index(name) for name in inputs]
    calibrating = [names.index(name) for name in calibrated_on] or chosen_inputs
    every_head = itertools.product(range(qkv.sizes["layer"]), range(qkv.sizes["head"]))
    chosen = list(every_head) if heads == "all" else [tuple(pair) for pair in heads]
    mask = torch.from_numpy(qkv["mask"].values)  # [input, token]
    shape = (len(variants), len(n_features), qkv.sizes["layer"], qkv.sizes["head"])
    results: dict[str, np.ndarray] = {}
    squares = np.full((*shape, n_seeds), np.nan)  # |E|^2 of each seed

    def put(name: str, at: tuple, values: np.ndarray | float) -> None:
        results.setdefault(name, np.full(shape, np.nan))[at] = values

    def tokens_of(layer: int, head: int, i: int) -> list[torch.Tensor]:  # q, k, v [token, d_head]
        return [
            torch.from_numpy(qkv[name].values[i, layer, head]).double()[mask[i]] for name in "qkv"
        ]

    def run(layer: int, head: int, place: int, variant: dict) -> None:
        settings = {"threshold": math.inf, "a": None} | variant
        feature_map, threshold, a = (settings[x] for x in ("feature_map", "threshold", "a"))
        activation = FEATURE_MAPS[feature_map].activation
        symmetry, a = _fitted(
            [tokens_of(layer, head, i)[:2] for i in calibrating],
            list(symmetries),
            feature_map,
            a,
            f"layer {layer}, head {head}",
        )
        seen, sequences, exact, log_z = [], [], [], []
        for i in chosen_inputs:
            q, k, v = tokens_of(layer, head, i)
            q, k, log_gain, log_shift = exact_symmetries.transform(q, k, symmetry)
            seen.append(Tokens(q, k, v, log_gain))
            q, k, v = (x.to(device, getattr(torch, dtype)) for x in (q, k, v))
            sequences.append(Tokens(q, k, v, log_gain.to(device)))
            exact.append(torch.from_numpy(attention["output"].values[i, layer, head])[mask[i]])
            log_normalizer = attention["log_normalizer"].values[i, layer, head]
            log_z.append(torch.from_numpy(log_normalizer)[mask[i]] - log_shift)
        errors, ratios = [], []  # [seed][n_features], all inputs
        for draw in range(n_seeds):
            key = (draw, layer, head)
            neurons = list(
                draw_neurons(
                    feature_map,
                    stream(seed, data_of, "omega", *key),
                    stream(seed, data_of, "phase", *key),
                    n_features[-1],
                    qkv.sizes["d_head"],
                    a,
                )
            )
            spans = [(0, m) for m in n_features]
            found = read(sequences, neurons, spans, activation, threshold)
            errors.append([relative_error([x[2] for x in one], exact) for one in found])
            ratios.append([_ratio(one, log_z) for one in found])
            if draw == 0:
                decades = rate_range(sequences, neurons, n_features, activation, threshold)
        errors = torch.stack([torch.stack(one) for one in errors], 1)  # [n_features, seed, error]
        gram = (errors @ errors.mT).numpy()  # [n_features, seed, seed]
        ratios = np.swapaxes(np.array(ratios), 0, 1)  # [n_features, seed, query]
        at = (place, slice(None), layer, head)
        put("log10_rate_range", at, decades)
        squares[at] = np.diagonal(gram, axis1=-2, axis2=-1)
        for name, values in (moments_over_seeds(gram) | normalizer_statistics(ratios)).items():
            put(name, at, values)
        floors = [  # of the linear map it depends on m
            output_floor(feature_map, seen, exact, m, threshold)
            for m in (n_features if feature_map == "linear" else n_features[:1])
        ]
        put("output_floor", at, floors)

    tasks = [
        (*pair, place, variant)
        for pair, (place, variant) in itertools.product(chosen, enumerate(variants.values()))
    ]
    bar_format = "{desc}: {percentage:.0f} % of {total} runs, {elapsed} gone, {remaining} left\n"
    with ThreadPoolExecutor(workers if device == "cpu" else 1) as pool:
        for _ in tqdm(
            pool.map(lambda task: run(*task), tasks),
            total=len(tasks),
            desc="compare",
            mininterval=5,
            maxinterval=5,
            bar_format=bar_format,
        ):
            pass

    variables = {name: (PER_VARIANT, values) for name, values in results.items()}
    thresholds = np.array(
        [variant.get("threshold", np.inf) for variant in variants.values()], float
    )
    maps = [variant["feature_map"] for variant in variants.values()]
    rng = stream(seed, data_of, "compare", "bootstrap")
    layer, head = np.array(chosen).T
    variables |= _ranks(squares[:, :, layer, head], rng)
    variables |= _truncation(squares, chosen, maps, thresholds, rng)
    variables |= {"feature_map": ("variant", maps), "threshold": ("variant", thresholds)}
    return xr.Dataset(
        variables,
        coords={
            "variant": list(variants),
            "n_features": np.array(n_features, dtype=np.int64),
            **{name: qkv[name] for name in ("layer", "head")},
        },
        attrs={"data": qkv.attrs.get("data", "")},
    )


def _check(name: str, feature_map: str, **settings: float) -> None:
    if feature_map not in FEATURE_MAPS:
        raise UserError(
            f"variants, {name}: feature_map: got {feature_map}, wanted one of {', '.join(FEATURE_MAPS)}"
        )
    allowed = FEATURE_MAPS[feature_map].settings
    wrong = [key for key in settings if key not in allowed]
    if wrong:
        raise UserError(
            f"variants, {name}: got {', '.join(wrong)}, but {feature_map} takes "
            f"{', '.join(allowed) or 'no settings'}"
        )
    if feature_map == "truncated_performer" and not settings.get("threshold", 0) > 0:
        raise UserError(
            f"variants, {name}: threshold: got {settings.get('threshold')}, wanted above 0"
        )


def _fitted(inputs, names, feature_map, a, where):
    """Symmetries and the parameter a of a head, as in simulate."""
    try:
        kind = "performer" if a is not None else feature_map  # a is given: nothing to be fitted
        symmetry, best = exact_symmetries.fitted(inputs, names, kind)
    except ValueError as error:
        raise UserError(
            f"{where}: {error}; leave out balance, or compare on other heads"
        ) from error
    return symmetry, best if a is None else torch.full_like(best, a)


def relative_error(outputs: list[torch.Tensor], exact: list[torch.Tensor]) -> torch.Tensor:
    """O^ - O of all inputs as one vector, scaled so that its square is the mean over inputs of
    |O^ - O|^2 / |O|^2."""
    scale = math.sqrt(len(exact))
    return torch.cat(
        [
            ((out.cpu().double() - o) / (o.norm() * scale)).flatten()
            for out, o in zip(outputs, exact)
        ]
    )


def _ratio(found: list[tuple], log_z: list[torch.Tensor]) -> np.ndarray:
    """p / Z of the queries of all inputs [query]; inf where it is beyond float64."""
    return torch.cat(
        [sign.cpu() * torch.exp(log_p.cpu() - z) for (log_p, sign, _), z in zip(found, log_z)]
    ).numpy()


def moments(gram: np.ndarray) -> np.ndarray:
    """Squared bias, variance and mean square of errors E_s from the products E_s.E_t.

    gram [..., S, S], S >= 2 -> [3, ...]. The squared bias is the mean of the products of different
    seeds, an unbiased estimate of |E E_s|^2 that may be negative; the variance is the rest.
    """
    n = gram.shape[-1]
    own = np.trace(gram, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", over="ignore"):  # networks whose output is beyond any number
        bias_squared = (gram.sum((-2, -1)) - own) / (n * (n - 1))
        return np.stack([bias_squared, own / n - bias_squared, own / n])


def moments_over_seeds(gram: np.ndarray) -> dict[str, np.ndarray]:
    """moments of gram [n_features, S, S] with 95 % intervals over seeds; S >= 3."""
    found = over_seeds(
        lambda kept: moments(gram[..., kept[:, None], kept]), np.arange(gram.shape[-1]), "linear"
    )
    names = ("bias_squared", "variance", "mean_square")
    return {
        name + end: values
        for end, all_three in zip(ENDS, found)
        for name, values in zip(names, all_three)
    }


def normalizer_statistics(ratios: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of p / Z [n_features, seed, query], pooled over queries of all inputs."""

    def median_error(values: np.ndarray) -> np.ndarray:  # [seed, n_features, query]
        pooled = np.moveaxis(np.abs(values - 1), 0, 1)
        return np.median(pooled.reshape(len(pooled), -1), -1)

    with np.errstate(invalid="ignore", over="ignore"):
        bias = np.median(ratios.mean(1) - 1, -1)
    found = over_seeds(median_error, np.moveaxis(ratios, 1, 0), "log")
    return {
        "normalizer_bias": bias,
        "share_not_positive": (ratios <= 0).mean((1, 2)),
        **{f"normalizer_error{end}": values for end, values in zip(ENDS, found)},
    }


def output_floor(
    feature_map: str, sequences: list[Tokens], exact: list[torch.Tensor], m: int, threshold: float
) -> float:
    """Relative output error of infinitely many neurons, rms over inputs; NaN if unknown."""
    outputs = []
    for q, k, v, log_gain in sequences:
        kernel = limit_kernel(feature_map, q, k, m, threshold)
        if kernel is None:
            return math.nan
        outputs.append(limit_read(*kernel, log_gain, v)[2])
    return float(relative_error(outputs, exact).norm())


def rate_range(
    sequences: list[Tokens],
    neurons: list[tuple],
    n_features: list[int],
    activation,
    threshold: float,
) -> list[float]:
    """log10 of the highest over the median firing rate phi, its factor exp(-|x|^2 / 2) included.

    Over all neurons, queries and keys of an input; mean over inputs, for each of n_features. NaN for
    maps with signs or silent neurons.
    """
    weights, bias = (torch.cat(parts) for parts in zip(*neurons))
    found = []
    for m in n_features:
        decades = []
        for q, k, _, _ in sequences:
            x = torch.cat([q, k])
            hidden = Hidden(weights[:m].to(x), bias[:m].to(x.device), activation, threshold)
            log_phi, sign = rates(hidden, x, m)
            if sign is not None or bool((log_phi == -torch.inf).any()):
                return [math.nan] * len(n_features)
            decades.append(float(log_phi.max() - log_phi.flatten().median()) / math.log(10))
        found.append(sum(decades) / len(decades))
    return found


def ranks(mean_square: np.ndarray) -> np.ndarray:
    """Rank of each variant, 1 the smallest, from [..., variant]; ties share their mean rank."""
    x = np.nan_to_num(mean_square, nan=np.inf)
    mine, other = x[..., :, None], x[..., None, :]
    with np.errstate(invalid="ignore"):
        better = other < mine * (1 - TIE)
        worse = mine < other * (1 - TIE)
    tied = ~better & ~worse
    return 0.5 + better.sum(-1) + tied.sum(-1) / 2  # it is tied with itself


def _ranks(squares: np.ndarray, rng: np.random.Generator) -> dict[str, tuple]:
    """Mean over heads of the rank among variants, from |E|^2 [variant, n_features, head, seed]."""
    found = [
        cluster_bootstrap(
            lambda x: ranks(x.mean(1)).mean(0), squares[:, size].transpose(1, 2, 0), 2, rng
        )
        for size in range(squares.shape[1])
    ]  # [n_features][3][variant]
    return {
        f"rank{end}": (PER_VARIANT[:2], np.stack(values, -1))
        for end, values in zip(ENDS, zip(*found))
    }


def _truncation(
    squares: np.ndarray,
    chosen: list,
    maps: list[str],
    thresholds: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, tuple]:
    """The best threshold of each head, and what it gains.

    squares are |E|^2 [variant, n_features, layer, head, seed].
    """
    shape = squares.shape[1:4]
    names = [f"best_threshold{end}" for end in ENDS] + ["truncation_gain"]
    results = {name: np.full(shape, np.nan) for name in names}
    notes = np.full(shape, "not run", dtype=object)
    kinds = np.isin(maps, ("truncated_performer", "performer"))
    members = np.flatnonzero(kinds)[np.argsort(thresholds[kinds], kind="stable")]
    for size, (layer, head) in itertools.product(range(shape[0]), chosen):
        at = (size, layer, head)
        if len(members) < LEAST_THRESHOLDS:
            notes[at] = (
                f"{len(members)} thresholds, the untruncated included, of {LEAST_THRESHOLDS} needed"
            )
            continue
        one = squares[members, size, layer, head].T  # [seed, threshold]
        if not np.isfinite(one).all():
            notes[at] = "errors are not finite"
            continue
        notes[at] = ""
        found = best_threshold(one, thresholds[members], rng)
        for name, value in zip(names, (*found, truncation_gain(one, thresholds[members]))):
            results[name][at] = value
    results["best_threshold_note"] = notes.astype(str)
    return {name: (PER_VARIANT[1:], values) for name, values in results.items()}


def best_threshold(
    squares: np.ndarray, thresholds: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, float]:
    """The threshold of the least mean square with a 95 % bootstrap interval over seeds.

    squares [seed, threshold], thresholds increasing. The ends are thresholds that were tried.
    """
    best, low, high = cluster_bootstrap(lambda x: np.argmin(x.mean(0)), squares, 1, rng)
    return thresholds[int(best)], thresholds[math.floor(low)], thresholds[math.ceil(high)]


def truncation_gain(squares: np.ndarray, thresholds: np.ndarray) -> float:
    """Mean square at the best threshold over that of the untruncated map, from squares [seed, threshold].

    Even seeds choose and odd seeds evaluate, so that the best of equals gains nothing. NaN where there
    is no untruncated map (threshold inf).
    """
    if thresholds[-1] != np.inf:
        return np.nan
    best = np.argmin(squares[::2].mean(0))
    evaluated = squares[1::2].mean(0)
    return float(evaluated[best] / evaluated[-1]) if evaluated[-1] > 0 else np.nan
