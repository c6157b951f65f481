"""How fast the astrocyte must be: queries are read one after another while its process follows them.

The process relaxes to the normaliser Z_t of the query that is read, for T_r seconds each:

    tau_p dp/dt = -p + Z_t,    p_t = Z_t + (p_{t-1} - Z_t) exp(-T_r / tau_p)

at the end of query t. The output is read then, and is o_t Z_t / p_t: its direction is right and its
gain is stale. Only the ratio T_r / tau_p matters.

ASSUME: the process is settled on the first query, which does not count.
ASSUME: H and g are complete before the first query and stay as they are while all are read.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
import xarray as xr
from scipy.optimize import brentq
from tqdm import tqdm
from tripartite import calcium
from tripartite.contracts import UserError
from tripartite.features import draw_neurons
from tripartite.network import Tokens, read
from tripartite.statistics import cluster_bootstrap, over_seeds
from tripartite.streams import stream

ENDS = ("", "_low", "_high")
RANGE = (1e-3, 60.0)  # of T_r / tau_p in which ratio_needed is searched
GRID = np.geomspace(*RANGE, 121)
FAR = 30.0  # ln(p / Z) beyond which p / Z - 1 is p / Z
ROUNDING = 1e-12  # errors below are rounding errors
FEWEST = 3  # tokens of an input, for a correlation of neighbours
# ASSUME: the IP3 of these models follows its drive at once; below and above their oscillations.
MODELS = {
    "li_rinzel 0.2 uM": ("li_rinzel", 0.2),
    "li_rinzel 0.7 uM": ("li_rinzel", 0.7),
    "chi 0.3 uM": ("chi", 0.3),
    "chi 1.2 uM": ("chi", 1.2),
}
FINE_PROCESS = 0.1  # ASSUME: s, the fastest calcium transients of fine processes
OVER_INPUTS = {  # statistics of the exact network, and their axes before layer and head
    "gain_error": ("point",),
    "sd_log_gain": ("point",),
    "gain_output_error": ("point",),
    "sd_log_gain_stale": (),
    "sd_log_normalizer": (),
    "lag_correlation": (),
}
OVER_SEEDS = {
    "random_feature_error": ("n_features",),
    "total_error": ("point", "n_features"),
    "ratio_needed": ("n_features",),
    "ratio_needed_in_all": ("n_features",),
}
LAWS = {"sd_log_gain_law": ("point",), "sd_log_gain_stale_law": ()}


def settle(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    n_features: list[int],
    n_seeds: int,
    heads: str | list[list[int]],
    inputs: str | list[str],
    ratios: list[float],
    seed: int,
    data_of: str,
    device: str = "cpu",
    workers: int = 1,
) -> xr.Dataset:
    """Return the errors that a process of each T_r / tau_p (ratios) makes, and the ratio that is needed.

    Heads, inputs and hidden weights as in simulate. Intervals are over seeds, or over inputs where the
    network is exact (NaN for one input). Times are those of calcium models at rest, in seconds.
    """
    names = [str(name) for name in qkv["input"].values]
    chosen_inputs = range(len(names)) if inputs == "all" else [names.index(x) for x in inputs]
    every_head = itertools.product(range(qkv.sizes["layer"]), range(qkv.sizes["head"]))
    chosen = list(every_head) if heads == "all" else [tuple(pair) for pair in heads]
    mask = qkv["mask"].values
    for i in chosen_inputs:
        if mask[i].sum() < FEWEST:
            raise UserError(
                f"settling: input {names[i]} has {mask[i].sum()} tokens, wanted at least {FEWEST} to read "
                "one after another; leave it out of inputs"
            )
    ratios = np.sort(np.array(ratios, dtype=float))
    sizes = {"point": len(ratios), "n_features": len(n_features)}
    of_heads = (qkv.sizes["layer"], qkv.sizes["head"])
    found = {
        name: np.full((3, *(sizes[axis] for axis in axes), *of_heads), np.nan)
        for name, axes in (OVER_INPUTS | OVER_SEEDS | LAWS).items()
    }
    notes = np.full((len(n_features), *of_heads), "not run", dtype=object)

    def run(layer: int, head: int) -> None:
        one, streams = [], []  # tokens, exact (ln Z, output), of each input
        for i in chosen_inputs:
            q, k, v = (
                torch.from_numpy(qkv[name].values[i, layer, head, mask[i]]).double()
                for name in "qkv"
            )
            tokens = Tokens(q, k, v, torch.zeros(len(q)).double())
            one.append(Tokens(*(x.to(device) for x in tokens)))
            streams.append(
                [
                    attention[name].values[i, layer, head, mask[i]]
                    for name in ("log_normalizer", "output")
                ]
            )
        results = _exact(streams, ratios, stream(seed, data_of, "settle", layer, head))
        errors, total, curves = [], [], []
        for index in range(n_seeds):
            neurons = draw_neurons(
                "performer",
                stream(seed, data_of, "omega", index, layer, head),
                stream(seed, data_of, "phase", index, layer, head),
                n_features[-1],
                one[0].q.shape[1],
            )
            networks = read(one, neurons, [(0, m) for m in n_features])
            pairs = [
                [
                    (log_p.cpu().numpy(), output.cpu().numpy(), exact)
                    for (log_p, _, output), (_, exact) in zip(network, streams)
                ]
                for network in networks
            ]  # [n_features][input]
            settled, relaxing, on_grid = (
                [[[output_error(*x, ratio) for x in one] for one in pairs] for ratio in sweep]
                for sweep in ((np.inf,), ratios, GRID)
            )
            errors.append(settled[0])
            total.append(relaxing)
            curves.append(on_grid)
        errors, total, curves = (np.array(x) for x in (errors, total, curves))
        with np.errstate(divide="ignore"):  # the ln of no error
            for name, values in (("random_feature_error", errors), ("total_error", total)):
                results[name] = over_seeds(_rms_over_seeds, values, "log")
        everything = np.concatenate(
            [errors[:, None], curves], 1
        )  # [seed, settled and GRID, m, input]
        results["ratio_needed_in_all"] = over_seeds(_crossings, everything, "log")
        gain = partial(_gain_output_error, streams)
        on_grid = np.array([gain(ratio) for ratio in GRID])
        needed = [
            [ratio_needed(gain, on_grid, x) for x in level]
            for level in np.stack(results["random_feature_error"])[[0, 2, 1]]
        ]
        results["ratio_needed"] = [[ratio for ratio, _ in level] for level in needed]
        notes[:, layer, head] = [note for _, note in needed[0]]
        for name, values in results.items():
            found[name][..., layer, head] = values

    bar_format = "{desc}: {percentage:.0f} % of {total} heads, {elapsed} gone, {remaining} left\n"
    with ThreadPoolExecutor(workers if device == "cpu" else 1) as pool:
        for _ in tqdm(
            pool.map(lambda pair: run(*pair), chosen),
            total=len(chosen),
            desc="settle",
            mininterval=5,
            maxinterval=5,
            bar_format=bar_format,
        ):
            pass
    seconds = [calcium.relaxation_seconds(*model) for model in MODELS.values()] + [FINE_PROCESS]
    variables = {"ratio": ("point", ratios), "relaxation_seconds": ("model", np.array(seconds))}
    for name, axes in (OVER_INPUTS | OVER_SEEDS).items():
        for end, values in zip(ENDS, found[name]):
            variables[name + end] = ((*axes, "layer", "head"), values)
    for name, axes in LAWS.items():
        variables[name] = ((*axes, "layer", "head"), found[name][0])
    for end in ENDS:
        dims, values = variables[f"ratio_needed_in_all{end}"]
        variables[f"seconds_needed{end}"] = (("model", *dims), np.multiply.outer(seconds, values))
    return xr.Dataset(
        variables | {"ratio_note": (("n_features", "layer", "head"), notes)},
        coords={
            "model": [*MODELS, "fine process"],
            "point": np.arange(len(ratios)),
            "n_features": np.array(n_features, dtype=np.int64),
            **{name: qkv[name] for name in ("layer", "head")},
        },
        attrs={"data": qkv.attrs.get("data", "")},
    )


def relaxed(log_normalizer: np.ndarray, ratio: float) -> np.ndarray:
    """ln p_t at the end of each query [..., T], for ln Z_t [..., T] and T_r / tau_p: a running ln-sum-exp."""
    age = ratio * np.arange(log_normalizer.shape[-1])
    drive = log_normalizer + np.log(-np.expm1(-ratio)) + age
    drive[..., 0] = log_normalizer[..., 0]
    return np.logaddexp.accumulate(drive, axis=-1) - age


def log_gain(log_normalizer: np.ndarray, ratio: float) -> np.ndarray:
    """ln(Z_t / p_t) [..., T - 1] from the second query on, for ln Z_t [..., T] and T_r / tau_p.

    p_t / Z_t - 1 = (p_{t-1} / Z_t - 1) exp(-T_r / tau_p) keeps its digits however small it is.
    """
    before = relaxed(log_normalizer, ratio)[..., :-1] - log_normalizer[..., 1:]
    near = np.log1p(np.exp(-ratio) * np.expm1(np.minimum(before, FAR)))
    return -np.where(before < FAR, near, np.logaddexp(before - ratio, np.log(-np.expm1(-ratio))))


def sd_law(sd: float, correlation: np.ndarray, ratio: float) -> float:
    """sd of ln(Z_t / p_t) for fluctuations of ln Z of small sd and correlation rho_1, rho_2, ... [lag].

    To first order ln p is the mean of earlier ln Z with weights (1 - a) a^j, a = exp(-T_r / tau_p), hence

        Var = 2 a^2 / (1 + a) Var(ln Z) (1 - (1 - a) sum_k rho_k a^(k-1)):

    sd(ln Z) for slow processes, and a sqrt(2) sd(ln Z) sqrt(1 - rho_1) for fast ones.
    """
    a = np.exp(-ratio)
    memory = (1 - a) * (correlation * a ** np.arange(len(correlation))).sum()
    return a * sd * np.sqrt(2 / (1 + a) * max(1 - memory, 0))


def output_error(
    log_p: np.ndarray, output: np.ndarray, exact: np.ndarray, ratio: float = np.inf
) -> float:
    """|O^ p / p~ - O| / |O| from the second query on: output [T, E] under the relaxation p~ of ln p [T]."""
    gain = np.exp(log_gain(log_p, ratio))[:, None] if ratio < np.inf else 1.0
    norm = np.linalg.norm(exact[1:])
    return float(np.linalg.norm(gain * output[1:] - exact[1:]) / norm) if norm else np.nan


def ratio_needed(
    curve: Callable[[float], float], on_grid: np.ndarray, error: float
) -> tuple[float, str]:
    """T_r / tau_p from which on the curve, known on GRID, stays below error; NaN and a note if none."""
    if not (np.isfinite(error) and np.isfinite(on_grid).all() and error > ROUNDING):
        return np.nan, "the error of the random features is 0 or not known"
    above = np.flatnonzero(on_grid > error)
    if not len(above):
        return (
            np.nan,
            f"the error of the gain is smaller at every T_r / tau_p from {RANGE[0]:g} on",
        )
    if above[-1] == len(GRID) - 1:
        return np.nan, f"the error of the gain is larger up to T_r / tau_p = {RANGE[1]:g}"
    ends = np.log(GRID[above[-1] : above[-1] + 2])
    root = brentq(lambda x: curve(np.exp(x)) / error - 1, *ends, xtol=1e-10)
    return float(np.exp(root)), ""


def _crossings(errors: np.ndarray) -> np.ndarray:
    """T_r / tau_p [m] from which on the total error is at most sqrt(2) times the settled one.

    errors [seed, settled and every ratio of GRID, m, input]; NaN where it is so on all of GRID.
    """
    mean_square = np.square(errors).mean((0, -1))
    found = np.full(mean_square.shape[1], np.nan)
    for place, (settled, *slow) in enumerate(mean_square.T):
        excess = np.array(slow) / settled - 2 if settled > ROUNDING**2 else np.array([])
        above = np.flatnonzero(excess > 0)
        if len(above) and above[-1] < len(GRID) - 1:
            last = slice(above[-1], above[-1] + 2)
            found[place] = np.exp(np.interp(0, -excess[last], np.log(GRID[last])))
    return found


def _gain_output_error(streams: list, ratio: float) -> float:
    """Output error that the stale gain alone gives, root mean square over inputs."""
    errors = [output_error(log_z, output, output, ratio) for log_z, output in streams]
    return float(np.sqrt(np.mean(np.square(errors))))


def _exact(streams: list, ratios: np.ndarray, rng: np.random.Generator) -> dict[str, tuple]:
    """Statistics of the network without random features: estimate, low, high; and laws."""
    longest = max(len(log_z) for log_z, _ in streams)
    gains = np.full((len(streams), longest, len(ratios)), np.nan)  # |Z / p - 1|
    variance, output, law, plain = [], [], [], []
    for gain, (log_z, exact) in zip(gains, streams):
        logs = np.stack([log_gain(log_z, ratio) for ratio in ratios], -1)  # [T - 1, point]
        gain[: len(logs)] = np.abs(np.expm1(logs))
        variance.append(logs.var(0))
        output.append([output_error(log_z, exact, exact, ratio) for ratio in ratios])
        sd, correlation = log_z.std(), autocorrelation(log_z)
        law.append([sd_law(sd, correlation, ratio) for ratio in ratios])
        stale = 2**0.5 * sd * np.sqrt(1 - correlation[0])
        plain.append([np.diff(log_z).var(), sd**2, correlation[0], stale])
    plain = np.array(plain)
    per_input = {
        "gain_error": (_median, gains),
        "sd_log_gain": (_root_mean, np.array(variance)),
        "gain_output_error": (_root_mean, np.square(output)),
        "sd_log_gain_stale": (_root_mean, plain[:, 0]),
        "sd_log_normalizer": (_root_mean, plain[:, 1]),
        "lag_correlation": (lambda x: x.mean(0), plain[:, 2]),
    }
    results = {name: _over_inputs(*pair, rng) for name, pair in per_input.items()}
    results["sd_log_gain_law"] = _root_mean(np.square(law))
    results["sd_log_gain_stale_law"] = _root_mean(np.square(plain[:, 3]))
    return results


def autocorrelation(x: np.ndarray) -> np.ndarray:
    """Correlation of x [T] with itself at lags 1 to T - 1, 0 where x does not vary."""
    deviation = x - x.mean()
    if np.abs(deviation).max() <= 1e-12 * max(np.abs(x).max(), 1):  # rounding errors
        return np.zeros(len(x) - 1)
    products = np.correlate(deviation, deviation, "full")[len(x) - 1 :]
    return products[1:] / products[0]


def _median(values: np.ndarray) -> np.ndarray:
    """Median over inputs and queries of values [input, T, point], NaN where there is no query."""
    ordered = np.sort(values.reshape(-1, values.shape[-1]), axis=0)  # NaN last
    n = np.isfinite(ordered[:, 0]).sum()
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def _root_mean(values: np.ndarray) -> np.ndarray:
    return np.sqrt(values.mean(0))


def _rms_over_seeds(values: np.ndarray) -> np.ndarray:
    """Root mean square over seeds and inputs of values [seed, ..., input]."""
    return np.sqrt(np.square(values).mean((0, -1)))


def _over_inputs(statistic: Callable, values: np.ndarray, rng: np.random.Generator) -> tuple:
    """Estimate and interval over inputs, of values [input, ...]; one input has no interval."""
    if len(values) > 1:
        return cluster_bootstrap(statistic, values, 1, rng, n_draws=500)
    estimate = statistic(values)
    return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
