"""Lesion and disturb the networks of every chosen head, and set the laws beside what it does."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import xarray as xr
from tqdm import tqdm

from tripartite.contracts import UserError
from tripartite.features import draw_neurons
from tripartite.perturbations import KINDS, Law, Network
from tripartite.statistics import over_seeds
from tripartite.streams import stream

ENDS = ("", "_low", "_high")
SCALES = {  # on which the interval of a measured number is symmetric
    "output_error": "log",
    "added_error": "log",
    "gain": "log",
    "sd_log_gain": "log",
    "direction": "linear",
}
GAINS = ("gain", "gain_law", "gain_law_low", "gain_law_high")  # of every query
LAWS = ("added_error_law", "added_error_uniform", "sd_log_gain_law", "output_error_law")


def perturb(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    kinds: dict[str, list[float]],
    n_features: list[int],
    n_seeds: int,
    heads: str | list[list[int]],
    inputs: str | list[str],
    seed: int,
    data_of: str,
    workers: int = 1,
) -> xr.Dataset:
    """Return errors and gains of the output at each dose of each kind, with intervals and laws.

    kinds maps names of `perturbations.KINDS` to doses; heads is "all" or a list of [layer, head], inputs
    "all" or a list of names. Hidden weights are those of simulate's plain networks. Errors are
    rms over inputs and seeds, with 95 % intervals over seeds. UserError where a kind, head or input is not
    known.
    """
    names = [str(name) for name in qkv["input"].values]
    _check(qkv, names, kinds, heads, inputs)
    chosen_inputs = range(len(names)) if inputs == "all" else [names.index(x) for x in inputs]
    every_head = itertools.product(range(qkv.sizes["layer"]), range(qkv.sizes["head"]))
    chosen = list(every_head) if heads == "all" else [tuple(pair) for pair in heads]
    mask = qkv["mask"].values
    ordered = [kind for kind in KINDS if kind in kinds]
    cases = [
        (row, point, kind, float(dose))
        for row, kind in enumerate(ordered)
        for point, dose in enumerate(kinds[kind])
    ]
    sizes = (n_seeds, len(cases), len(n_features))
    counts = [int(mask[i].sum()) for i in chosen_inputs]
    spans = [slice(stop - n, stop) for n, stop in zip(counts, np.cumsum(counts))]

    def run(layer: int, head: int) -> dict[str, np.ndarray]:
        per_input = (*sizes, len(chosen_inputs))
        found = {name: np.full(per_input, np.nan) for name in (*SCALES, *LAWS) if name != "gain"}
        found |= {name: np.full((*sizes, sum(counts)), np.nan) for name in GAINS}
        unperturbed = np.empty((n_seeds, 1, len(n_features), len(chosen_inputs)))
        for index in range(n_seeds):
            drawn = draw_neurons(
                "performer",
                stream(seed, data_of, "omega", index, layer, head),
                stream(seed, data_of, "phase", index, layer, head),
                n_features[-1],
                qkv.sizes["d_head"],
            )
            weights = np.concatenate([omega.numpy() for omega, _ in drawn])
            for place, i in enumerate(chosen_inputs):
                q, k, v = (
                    qkv[name].values[i, layer, head, mask[i]].astype(float) for name in "qkv"
                )
                log_q, log_k = (x @ weights.T - np.square(x).sum(1)[:, None] / 2 for x in (q, k))
                exact = attention["output"].values[i, layer, head, mask[i]]
                log_z = attention["log_normalizer"].values[i, layer, head, mask[i]]
                for size, m in enumerate(n_features):
                    net = Network(log_q[:, :m], log_k[:, :m], v, log_z, exact)
                    unperturbed[index, 0, size, place] = _relative(net.output, exact)
                    for case, (_, _, kind, dose) in enumerate(cases):
                        key = (kind, dose, m, index, layer, head, names[i])
                        rng = stream(seed, data_of, "perturb", *key)
                        at = (index, case, size)
                        _, output = KINDS[kind].perturbed(net, dose, rng)
                        for name, values in _measured(net, output, KINDS[kind].law(net, dose)):
                            found[name][(*at, spans[place] if name in GAINS else place)] = values
        return _summaries(found, unperturbed)

    def quietly(pair: tuple[int, int]) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):  # outputs beyond float64 are inf, of silent networks NaN
            return run(*pair)

    bar_format = "{desc}: {percentage:.0f} % of {total} heads, {elapsed} gone, {remaining} left\n"
    with ThreadPoolExecutor(workers) as pool:
        done = list(
            tqdm(
                pool.map(quietly, chosen),
                total=len(chosen),
                desc="perturb",
                mininterval=5,
                maxinterval=5,
                bar_format=bar_format,
            )
        )
    doses = np.full((len(ordered), max(len(kinds[kind]) for kind in ordered)), np.nan)
    for row, point, _, dose in cases:
        doses[row, point] = dose
    of_heads = (len(n_features), qkv.sizes["layer"], qkv.sizes["head"])
    dims = ("n_features", "layer", "head")
    variables = {"dose": (("perturbation", "point"), doses)}
    for name in done[0]:
        if name.startswith("output_error_unperturbed"):
            values = np.full(of_heads, np.nan)
            for (layer, head), one in zip(chosen, done):
                values[:, layer, head] = one[name][0]
            variables[name] = (dims, values)
            continue
        values = np.full((*doses.shape, *of_heads), np.nan)
        for (layer, head), one in zip(chosen, done):
            for (row, point, _, _), per_size in zip(cases, one[name]):
                values[row, point, :, layer, head] = per_size
        variables[name] = (("perturbation", "point", *dims), values)
    return xr.Dataset(
        variables,
        coords={
            "perturbation": ordered,
            "point": np.arange(doses.shape[1], dtype=np.int64),
            "n_features": np.array(n_features, dtype=np.int64),
            **{name: qkv[name] for name in ("layer", "head")},
        },
        attrs={"data": qkv.attrs.get("data", "")},
    )


def _check(qkv: xr.Dataset, names: list[str], kinds, heads, inputs) -> None:
    """Raise UserError where what is asked for cannot be done."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        got = unknown[0] if unknown else "none"
        raise UserError(f"kinds: got {got}, wanted some of {', '.join(KINDS)}")
    missing = [name for name in ([] if inputs == "all" else inputs) if name not in names]
    if missing:
        raise UserError(f"inputs: got {missing[0]}, wanted names of {names}")
    limits = (qkv.sizes["layer"], qkv.sizes["head"])
    for pair in [] if heads == "all" else heads:
        if any(x >= limit for x, limit in zip(pair, limits)):
            raise UserError(
                f"heads: got {list(pair)}, wanted layers below {limits[0]} and heads below {limits[1]}"
            )


def _relative(output: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(output - wanted) / np.linalg.norm(wanted))


def _measured(net: Network, output: np.ndarray, law: Law):
    """Name and value of everything that one perturbed network gives; gains are [T]."""
    along = (output * net.output).sum(1)
    square = np.square(net.output).sum(1)
    gain = along / square
    usable = np.log(gain[(gain > 0) & np.isfinite(gain)])
    cosine = along / np.sqrt(square * np.square(output).sum(1))
    spoke = np.isfinite(cosine)
    yield "output_error", _relative(output, net.exact)
    yield "added_error", _relative(output, net.output)
    yield "gain", gain
    yield "sd_log_gain", usable.std() if len(usable) > 1 else math.nan
    yield "direction", cosine[spoke].mean() if spoke.any() else math.nan
    yield "added_error_law", math.sqrt(law.added)
    yield "added_error_uniform", math.sqrt(law.added_uniform)
    yield "sd_log_gain_law", math.sqrt(law.log_gain_variance)
    yield "output_error_law", math.sqrt(law.total_factor)  # a factor on the unperturbed error
    for name, values in zip(GAINS[1:], (law.gain, law.gain_low, law.gain_high)):
        if values is not None:
            yield name, values


def _rms(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(x).mean((0, 3)))


def _summaries(found: dict[str, np.ndarray], unperturbed: np.ndarray) -> dict[str, np.ndarray]:
    """Every number [case, n_features] of one head, from values [seed, case, n_features, input or query]."""
    statistics = {
        "output_error": _rms,
        "added_error": _rms,
        "gain": lambda x: np.median(x, (0, 3)),
        "sd_log_gain": lambda x: x.mean((0, 3)),
        "direction": lambda x: x.mean((0, 3)),
    }
    summaries = {}

    def measured(name: str, values: np.ndarray, statistic, scale: str) -> None:
        triple = (statistic(values), np.nan, np.nan)  # one network has no interval
        if len(values) > 1:
            triple = over_seeds(statistic, values, scale)
        for end, one in zip(ENDS, triple):
            summaries[name + end] = np.broadcast_to(one, triple[0].shape)

    for name, statistic in statistics.items():
        measured(name, found[name], statistic, SCALES[name])
    measured("output_error_unperturbed", unperturbed, _rms, "log")
    for name in GAINS[1:]:
        summaries[name] = np.median(found[name], (0, 3))
    for name in ("added_error_law", "added_error_uniform"):
        summaries[name] = _rms(found[name])
    summaries["sd_log_gain_law"] = found["sd_log_gain_law"].mean((0, 3))
    factor = found["output_error_law"].mean((0, 3))
    summaries["output_error_law"] = factor * summaries["output_error_unperturbed"]
    return summaries
