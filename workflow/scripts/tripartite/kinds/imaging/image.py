"""Image the astrocyte: what explains its fluorescence, and how many trials tell the normaliser from rivals.

Hypotheses are what drives the process while query t is read, all seen through the same known filters:

    normaliser       Z_t = sum_j exp(q_t.k_j), of exact attention
    mean rate        mean_a phi_a(q_t), of the network's own neurons: contacts without plasticity
    drift            t
    query norm       |q_t|
    previous token   exp(q_t.k_{t-1}), 0 for the first

and each is a regressor beside a constant. Trials repeat an input in the same network; an experiment is one
network of random hidden weights that reads one input.
"""

import itertools
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from scipy.special import ndtri, stdtrit
from torch import Tensor
from tqdm import tqdm

from tripartite.contracts import UserError
from tripartite.features import draw_neurons
from tripartite.kinds.imaging import fluorescence as imaging
from tripartite.network import Tokens, read
from tripartite.statistics import LEVEL, cluster_bootstrap
from tripartite.streams import stream

RIVALS = ("normaliser", "mean rate", "drift", "query norm", "previous token")
ENDS = ("", "_low", "_high")
LEAST_FRAMES, MOST_FRAMES = 20, 20_000
TRACE_FRAMES = 600
EXPERIMENTS = 400  # simulated
DRAWS = 500


class Reading(NamedTuple):
    """A head that reads an input: its tokens, the filter [F, T], and drives [T] of all but mean rate."""

    tokens: Tokens
    filter: np.ndarray
    drives: dict[str, np.ndarray]


class Imaged(NamedTuple):
    """dF/F [F] of a network without noise, and regressors [F, rival]."""

    clean: np.ndarray
    regressors: np.ndarray


def image(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    n_features: list[int],
    n_seeds: int,
    heads: str | list[list[int]],
    inputs: str | list[str],
    read_seconds: float,
    tau_calcium: float,
    indicator_rise: float,
    indicator_decay: float,
    frame_seconds: float,
    noise: list[float],
    most_trials: int,
    seed: int,
    data_of: str,
) -> xr.Dataset:
    """Return what explains the fluorescence, the trials that a test needs, and traces of one recording.

    Times in s; noise are standard deviations of a frame's noise over that of the signal. Heads, inputs
    and hidden weights as in simulate. Intervals are over inputs and seeds (cluster bootstrap). Numbers of
    trials are NaN beyond most_trials, or where a rival is likelier, and a note says why.
    """
    names = [str(name) for name in qkv["input"].values]
    chosen_inputs = range(len(names)) if inputs == "all" else [names.index(x) for x in inputs]
    every_head = itertools.product(range(qkv.sizes["layer"]), range(qkv.sizes["head"]))
    chosen = list(every_head) if heads == "all" else [tuple(pair) for pair in heads]
    mask = qkv["mask"].values
    tau = (tau_calcium, indicator_rise, indicator_decay)
    filters = {}
    for i in chosen_inputs:
        n_tokens = int(mask[i].sum())
        n_frames = int(n_tokens * read_seconds / frame_seconds * (1 + 1e-12))
        if not LEAST_FRAMES <= n_frames <= MOST_FRAMES:
            raise UserError(
                f"imaging: input {names[i]}, {n_tokens} tokens read for {read_seconds:g} s each, makes {n_frames} "
                f"frames, wanted {LEAST_FRAMES} to {MOST_FRAMES}; change read_seconds or frame_seconds"
            )
        filters[i] = imaging.frame_filter(n_tokens, n_frames, read_seconds, frame_seconds, tau)
    noise = np.sort(np.array(noise, dtype=float))
    found, traces = {}, {}
    bar_format = "{desc}: {percentage:.0f} % of {total} heads, {elapsed} gone, {remaining} left\n"
    for at in tqdm(chosen, desc="image", mininterval=5, maxinterval=5, bar_format=bar_format):
        readings = [_reading(qkv, attention, i, at, filters[i]) for i in chosen_inputs]
        runs = []  # [seed][m][input]
        for index in range(n_seeds):
            neurons = draw_neurons(
                "performer",
                stream(seed, data_of, "omega", index, *at),
                stream(seed, data_of, "phase", index, *at),
                n_features[-1],
                qkv.sizes["d_head"],
            )
            runs.append(_record(readings, list(neurons), n_features))
        rng = stream(seed, data_of, "image", *at)
        of_sizes = [
            _summaries(
                [[run[size][i] for run in runs] for i in range(len(readings))],
                noise,
                most_trials,
                rng,
            )
            for size in range(len(n_features))
        ]
        for name in of_sizes[0]:
            values = np.stack([np.asarray(one[name]) for one in of_sizes], -1)  # [..., m]
            if name not in found:
                shape = (*values.shape, qkv.sizes["layer"], qkv.sizes["head"])
                empty = "not run" if values.dtype == object else np.nan
                found[name] = np.full(shape, empty, dtype=values.dtype)
            found[name][(..., *at)] = values
        if not traces:
            traces = _traces(runs[0][-1][0], noise, frame_seconds, rng) | {
                "trace_input": ((), names[chosen_inputs[0]]),
                "trace_layer": ((), np.int64(qkv["layer"].values[at[0]])),
                "trace_head": ((), np.int64(qkv["head"].values[at[1]])),
            }
    per_head = ("n_features", "layer", "head")
    axes = {
        "r_squared": ("rival",),
        "trials_to_discriminate": ("rival", "point"),
        "discriminate_note": ("rival", "point"),
        "trials_needed": ("point",),
        "trials_note": ("point",),
        "power_simulated": ("point",),
    }
    variables = {
        name: ((*axes.get(name.removesuffix("_low").removesuffix("_high"), ()), *per_head), values)
        for name, values in found.items()
    }
    return xr.Dataset(
        variables
        | traces
        | {"noise": ("point", noise), "most_trials": ((), np.int64(most_trials))},
        coords={
            "rival": list(RIVALS),
            "point": np.arange(len(noise)),
            "n_features": np.array(n_features, dtype=np.int64),
            "time": np.arange(len(traces["trace_seconds"][1])),
            **{name: qkv[name] for name in ("layer", "head")},
        },
        attrs={"data": qkv.attrs.get("data", "")},
    )


def _reading(
    qkv: xr.Dataset, attention: xr.Dataset, i: int, at: tuple[int, int], frames: np.ndarray
) -> Reading:
    present = qkv["mask"].values[i]
    q, k, v = (qkv[name].values[i][at][present].astype(float) for name in "qkv")
    log_z = attention["log_normalizer"].values[i][at][present]
    similarity = (q[1:] * k[:-1]).sum(1)
    drives = {
        "normaliser": _scaled(log_z),
        "drift": np.arange(len(q)).astype(float),
        "query norm": np.linalg.norm(q, axis=1),
        "previous token": _scaled(np.append(-np.inf, similarity)),
    }
    tokens = Tokens(*(torch.from_numpy(x) for x in (q, k, v, np.zeros(len(q)))))
    return Reading(tokens, frames, drives)


def _scaled(log_values: np.ndarray) -> np.ndarray:
    """exp of ln values [T], in units of the largest: dF/F has no unit. 0 if all are."""
    largest = log_values.max()
    return np.exp(log_values - largest) if largest > -np.inf else np.zeros_like(log_values)


def _record(
    readings: list[Reading], neurons: list[tuple[Tensor, Tensor]], n_features: list[int]
) -> list[list[Imaged]]:
    """Fluorescence and regressors of the networks of one seed, [m][input].

    phi(0) is the same for all neurons: the network that has written keys of 0 pools its mean rate.
    """
    ranges = [(0, m) for m in n_features]
    learned = [one.tokens for one in readings]
    unit = [one._replace(k=torch.zeros_like(one.k)) for one in learned]
    found = []
    for ours, plain in zip(read(learned, neurons, ranges), read(unit, neurons, ranges)):
        recorded = []
        for one, (log_p, _, _), (log_mean, _, _) in zip(readings, ours, plain):
            drives = one.drives | {"mean rate": _scaled(log_mean.numpy())}
            regressors = np.stack([one.filter @ drives[name] for name in RIVALS], -1)
            fluorescence = one.filter @ _scaled(log_p.numpy())
            recorded.append(Imaged(_relative(fluorescence), regressors))
        found.append(recorded)
    return found


def _relative(fluorescence: np.ndarray) -> np.ndarray:
    """dF/F of F [F], whose baseline is the mean of the recording; 0 where F varies by rounding only."""
    with np.errstate(invalid="ignore"):  # no fluorescence at all
        relative = fluorescence / fluorescence.mean() - 1
    return relative if np.abs(relative).max() > 1e-12 else np.zeros_like(relative)


def _summaries(
    runs: list[list[Imaged]], noise: np.ndarray, most: int, rng: np.random.Generator
) -> dict:
    """Everything of the networks [input][seed] of one size of a head, without the axis of sizes."""
    found = {}

    def put(name: str, triple: tuple) -> None:
        found.update({name + end: np.asarray(values) for end, values in zip(ENDS, triple)})

    shares, unique, deviations, effects, curves = [], [], [], [], []
    grid = imaging.trials_grid(most)
    for one in itertools.chain(*runs):
        shares.append([imaging.r_squared(one.clean, x[:, None]) for x in one.regressors.T])
        deviations.append(one.clean.std())
        direction = imaging.unique_direction(one.regressors[:, 0], one.regressors[:, 1:])
        varies = np.isfinite(shares[-1][0])
        effects.append(direction @ one.clean / deviations[-1] if varies else np.nan)
        unique.append(effects[-1] ** 2 / len(one.clean))
        curves.append(
            [
                imaging.discrimination(
                    one.clean, one.regressors[:, 0], rival, noise[:, None] * deviations[-1], grid
                )
                if varies
                else np.full((len(noise), len(grid)), np.nan)
                for rival in one.regressors.T[1:]
            ]
        )
    crossed = (len(runs), len(runs[0]))

    def clusters(values: list) -> np.ndarray:  # [input, seed, ...]
        return np.array(values).reshape(*crossed, *np.shape(values)[1:])

    for name, values in (("r_squared", shares), ("partial", unique), ("signal_sd", deviations)):
        put(
            name,
            cluster_bootstrap(lambda x: x.mean((0, 1)), clusters(values), 2, rng, n_draws=DRAWS),
        )
    effects = np.array(effects)
    powers = imaging.power(effects[:, None, None] / noise[:, None], grid[1:])
    still = "the fluorescence does not vary" if np.isnan(effects).any() else ""
    for name, values, n in (
        ("trials_needed", clusters(powers), grid[1:]),
        ("trials_to_discriminate", clusters(curves), grid),
    ):
        put(name, _trials(values, n, rng))
    notes = [
        still or f"more than {most} trials: the power of {most} is {100 * x:.0f} %"
        for x in powers[:, :, -1].mean(0)
    ]
    needed = found["trials_needed"]
    found["trials_note"] = np.where(np.isnan(needed), np.array(notes, dtype=object), "")
    put("power_simulated", _simulated(effects[:, None] / noise, needed, rng))
    ends = np.array(curves)[:, :, 0, -1]  # [recording, rival], with least noise
    words = []
    for name, end in zip(RIVALS[1:], ends.T):
        constant, better = int(np.isnan(end).sum()), int((end < 0.5).sum())
        words.append(
            still
            or (f"{name} is constant in {constant} of {len(end)} recordings" if constant else "")
            or (f"{name} is likelier in {better} of {len(end)} recordings" if better else "")
            or f"more than {most} trials"
        )
    several = found["trials_to_discriminate"]
    because = np.array(words, dtype=object)[:, None]
    found["discriminate_note"] = np.where(np.isnan(several), because, "")
    for name in [*(f"trials_to_discriminate{end}" for end in ENDS), "discriminate_note"]:
        none = "the normaliser itself" if name == "discriminate_note" else np.nan
        first = np.full((1, len(noise)), none, dtype=found[name].dtype)
        found[name] = np.concatenate([first, found[name]])
    return found


def _trials(curves: np.ndarray, n: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Trials at which the mean of the curves [input, seed, ..., n] reaches 80 %, and interval.

    NaN where it does not; the upper end is inf where it may not.
    """
    beyond = 2 * n[-1]

    def trials(values: np.ndarray) -> np.ndarray:
        return np.minimum(imaging.trials_for(values.mean((0, 1)), n), beyond)

    middle, low, high = cluster_bootstrap(trials, curves, 2, rng, n_draws=DRAWS)
    none = middle > n[-1]
    high = np.where(high > n[-1], np.inf, high)
    return tuple(np.where(none, np.nan, x) for x in (middle, low, high))


def _simulated(effects: np.ndarray, trials: np.ndarray, rng: np.random.Generator) -> tuple:
    """Share of simulated experiments whose t test finds it, with Wilson's interval, each [point].

    effects [recording, point]; an experiment takes one of the recordings, and the coefficient of each of its
    trials is normal around the effect.
    """
    shares = np.full(len(trials), np.nan)
    for point, n in enumerate(trials):
        if np.isnan(n):
            continue
        detected = 0
        for effect in rng.choice(effects[:, point], EXPERIMENTS):
            ours = effect + rng.standard_normal(int(n))
            t = ours.mean() / ours.std(ddof=1) * np.sqrt(n)
            detected += t > stdtrit(n - 1, 1 - imaging.SIGNIFICANCE / 2)
        shares[point] = detected / EXPERIMENTS
    return shares, *wilson(shares, EXPERIMENTS)


def wilson(share: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Wilson's 95 % interval of a share of n."""
    z = ndtri((1 + LEVEL) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return centre - half, centre + half


def _traces(one: Imaged, noise: np.ndarray, frame_seconds: float, rng: np.random.Generator) -> dict:
    """The first frames of one recording: a trial at each noise, and what two hypotheses predict."""
    n = min(len(one.clean), TRACE_FRAMES)
    trial = one.clean + noise[:, None] * one.clean.std() * rng.standard_normal(
        (len(noise), len(one.clean))
    )
    predicted = [_relative(x) for x in one.regressors.T[:2]]
    return {
        "trace_seconds": ("time", frame_seconds * (np.arange(n) + 0.5)),
        "trace_fluorescence": (("point", "time"), trial[:, :n]),
        "trace_clean": ("time", one.clean[:n]),
        "trace_normalizer": ("time", predicted[0][:n]),
        "trace_rival": ("time", predicted[1][:n]),
    }
