"""Let the synapses forget, and fit the retention to what the network then attends to."""

import itertools
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from tripartite.features import draw_neurons
from tripartite.kinds.retention.leaks import ages, fitted_leak, log_attention, measured_leak
from tripartite.network import Leak, Tokens, read
from tripartite.statistics import over_seeds
from tripartite.streams import stream

ENDS = ("", "_low", "_high")


class Reading(NamedTuple):
    """A head that reads an input: q, k, v [T, D] and logits [T, T] in numpy, ages [T]."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    logits: np.ndarray
    age: np.ndarray


def retain(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    token_seconds: float,
    leaks: list[list[float]],
    n_features: list[int],
    n_seeds: int,
    heads: str | list[list[int]],
    inputs: str | list[str],
    seed: int,
    data_of: str,
) -> xr.Dataset:
    """Return the leak fitted to a network's attention, the gain of unequal leaks, and what ages retain.

    leaks are pairs of hebbian and presynaptic (1/s); every token is written for token_seconds, all are
    written before the first is read. Networks get one-hot values, so that their outputs are their
    attention weights. Heads, inputs and hidden weights as in simulate. Where no leak can be fitted, it is
    NaN and `note` says why.
    """
    names = [str(name) for name in qkv["input"].values]
    chosen_inputs = range(len(names)) if inputs == "all" else [names.index(x) for x in inputs]
    every_head = itertools.product(range(qkv.sizes["layer"]), range(qkv.sizes["head"]))
    chosen = list(every_head) if heads == "all" else [tuple(pair) for pair in heads]
    per_token = [Leak(*(token_seconds * leak for leak in pair)) for pair in leaks]
    mask = qkv["mask"].values
    n_ages = min(mask[i].sum() for i in chosen_inputs)  # that every input has
    of_heads = (qkv.sizes["layer"], qkv.sizes["head"])
    sizes = (len(leaks), len(n_features))
    dims = ("point", "n_features", "layer", "head")
    empty = np.full((*sizes, *of_heads), np.nan)
    profile = np.full((len(leaks), *of_heads, mask.shape[1]), np.nan)
    per_network = ("leak_fitted", "leak_measured", "gain", "output_error")
    found = {name + end: (dims, empty.copy()) for name in per_network for end in ENDS}
    found["gain_law"] = (("point", "layer", "head"), empty[:, 0].copy())
    retained = [*(f"log_retained{end}" for end in ENDS), "log_retained_law"]
    found |= {name: (("point", "layer", "head", "token"), profile.copy()) for name in retained}
    notes = np.full((*sizes, *of_heads), "not run", dtype=object)

    bar_format = "{desc}: {percentage:.0f} % of {total} heads, {elapsed} gone, {remaining} left\n"
    for at in tqdm(chosen, desc="retain", mininterval=5, maxinterval=5, bar_format=bar_format):
        readings = [_reading(qkv, i, at, mask[i]) for i in chosen_inputs]
        runs = []
        for index in range(n_seeds):
            neurons = list(
                draw_neurons(
                    "performer",
                    stream(seed, data_of, "omega", index, *at),
                    stream(seed, data_of, "phase", index, *at),
                    n_features[-1],
                    qkv.sizes["d_head"],
                )
            )
            runs.append([_one_network(one, neurons, n_features, per_token) for one in readings])
        gains, curves = zip(*(_laws(one, per_token, n_ages) for one in readings))
        found["gain_law"][1][:, *at] = np.median(np.concatenate(gains, 1), 1)
        found["log_retained_law"][1][:, *at, :n_ages] = np.mean(curves, 0)
        notes[(slice(None), slice(None), *at)] = _first_notes(
            [one["note"] for run in runs for one in run]
        )
        for name, values in _summaries(runs, token_seconds, n_ages).items():
            if name.startswith("log_retained"):
                found[name][1][:, *at, :n_ages] = values
            else:
                found[name][1][:, :, *at] = values
    hebbian, presynaptic = np.array(leaks, dtype=float).T
    return xr.Dataset(
        found
        | {
            "note": (dims, notes),
            "leak_hebbian": ("point", hebbian),
            "leak_presynaptic": ("point", presynaptic),
            "age": ("token", token_seconds * np.arange(mask.shape[1])),
        },
        coords={
            "point": np.arange(len(leaks)),
            "n_features": np.array(n_features, dtype=np.int64),
            **{name: qkv[name] for name in ("layer", "head")},
        },
        attrs={"data": qkv.attrs.get("data", "")},
    )


def _reading(qkv: xr.Dataset, i: int, at: tuple[int, int], present: np.ndarray) -> Reading:
    q, k, v = (qkv[name].values[i][at][present].astype(float) for name in "qkv")
    return Reading(q, k, v, q @ k.T, ages(len(q)))


def _one_network(
    one: Reading, neurons: list, n_features: list[int], per_token: list[Leak]
) -> dict[str, np.ndarray]:
    """What the networks of one seed show on one input, each [point, n_features, ...]."""
    n_tokens = len(one.q)
    q, k = torch.from_numpy(one.q), torch.from_numpy(one.k)
    tokens = Tokens(q, k, torch.eye(n_tokens).double(), torch.zeros(n_tokens).double())

    def weights(leak: Leak) -> np.ndarray:  # [m, T, N]
        networks = read([tokens], neurons, [(0, m) for m in n_features], leak=leak)
        return np.stack([network[0][2].numpy() for network in networks])

    without = weights(Leak())
    found = {
        name: [] for name in ("fitted", "measured", "gain", "output_error", "log_ratio", "note")
    }
    for leak in per_token:
        ours = weights(leak)
        with np.errstate(
            divide="ignore", invalid="ignore"
        ):  # ln 0: retained less than float64 holds
            log_ratio = np.log(ours) - np.log(without)
        exact = np.exp(log_attention(one.logits, one.age, *leak)) @ one.v
        norm = np.linalg.norm(exact)
        fits = [fitted_leak(x, one.logits, one.age) for x in ours]
        found["fitted"].append([leak for leak, _ in fits])
        found["note"].append([note for _, note in fits])
        found["measured"].append([measured_leak(x, one.age) for x in log_ratio])
        found["gain"].append(ours.sum(-1))
        found["output_error"].append(
            [np.linalg.norm(x @ one.v - exact) / norm if norm > 0 else np.nan for x in ours]
        )
        found["log_ratio"].append(log_ratio[-1].mean(0)[::-1])  # [age], of the largest network
    return {name: np.array(values) for name, values in found.items()}


def _laws(one: Reading, per_token: list[Leak], n_ages: int) -> tuple[np.ndarray, np.ndarray]:
    """Gain [point, T] and mean ln of the ratio to no leak [point, age], of exact attention."""
    without = log_attention(one.logits, one.age, 0.0, 0.0)
    gains, curves = [], []
    for leak in per_token:
        ours = log_attention(one.logits, one.age, *leak)
        gains.append(np.exp(ours).sum(1))
        curves.append((ours - without).mean(0)[::-1][:n_ages])
    return np.array(gains), np.array(curves)


def _summaries(runs: list, token_seconds: float, n_ages: int) -> dict[str, np.ndarray]:
    """Estimates and intervals over seeds of a head, from runs [seed][input]."""

    def per_seed(name: str) -> np.ndarray:  # [seed, input, ...]
        return np.array([[one[name] for one in run] for run in runs])

    def mean(values: np.ndarray) -> np.ndarray:
        return values.mean((0, 1))

    gains = np.array([np.concatenate([one["gain"] for one in run], -1) for run in runs])
    curves = np.array([[one["log_ratio"][:, :n_ages] for one in run] for run in runs])
    with np.errstate(invalid="ignore", over="ignore"):
        triples = {
            "leak_fitted": over_seeds(mean, per_seed("fitted") / token_seconds, "linear"),
            "leak_measured": over_seeds(mean, per_seed("measured") / token_seconds, "linear"),
            "gain": over_seeds(lambda x: np.median(x, (0, -1)), gains, "log"),
            "output_error": over_seeds(mean, per_seed("output_error"), "log"),
            "log_retained": over_seeds(mean, curves, "linear"),
        }
    return {
        name + end: np.where(np.isfinite(values), values, np.nan)
        for name, triple in triples.items()
        for end, values in zip(ENDS, triple)
    }


def _first_notes(notes: list[np.ndarray]) -> np.ndarray:
    """The first note of any seed and input [point, n_features], empty where all leaks are fitted."""
    first = [next(filter(None, one), "") for one in zip(*(x.ravel() for x in notes))]
    return np.array(first, dtype=object).reshape(notes[0].shape)
