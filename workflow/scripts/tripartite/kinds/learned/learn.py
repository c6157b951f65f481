"""Train the hidden layer of every chosen head, and compare it with random ones of the same size."""

import itertools
import math
from collections.abc import Callable, MutableMapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from tripartite.contracts import UserError
from tripartite.features import FEATURE_MAPS, draw_neurons
from tripartite.kinds.learned import learning
from tripartite.statistics import cluster_bootstrap
from tripartite.streams import stream

AXES = {  # of what one training gives, beside heads
    "kl": ("origin", "input"),
    "output_error": ("origin", "input"),
    "training_loss": ("step",),
    "validation_loss": ("step",),
    "best_step": (),
    "note": (),
}
METHODS = ("learned", "random", "uniform")
ENDS = ("", "_low", "_high")
EXTENDS = (
    "n_features",
    "n_seeds",
)  # with other ones, trainings that are there already are taken over
PART = 16  # heads evaluated at a time


def learn(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    n_features: list[int],
    n_seeds: int,
    trained_on: list[str],
    validated_on: list[str],
    heads: str | list[list[int]],
    loss: str,
    max_steps: int,
    learning_rate: float,
    patience: int,
    seed: int,
    data_of: str,
    device: str,
    checkpoint: MutableMapping[str, dict[str, np.ndarray]],
    dtype: str = "float32",
    previous: xr.Dataset | None = None,
) -> xr.Dataset:
    """Return how far learned, random and equal attention are from softmax attention, per input.

    n_features are even numbers of hidden neurons; heads is "all" or a list of [layer, head]; inputs
    that are in neither trained_on nor validated_on are tests. loss is "weights" or "outputs". dtype, "float32" or
    "float64", is of the training; what comes of it is evaluated in float64.
    source is the experiment whose qkv.nc is read: the random neurons are those of its networks.
    checkpoint holds what is finished, by size and seed, and is filled as the work goes on, so that a run
    that was cut off can continue; previous is what this function returned for other sizes or seeds, whose
    trainings are not repeated. attention is bidirectional and without leak.
    """
    names = [str(name) for name in qkv["input"].values]
    _check(qkv, names, n_features, trained_on, validated_on, heads, loss)
    every_head = list(itertools.product(range(qkv.sizes["layer"]), range(qkv.sizes["head"])))
    chosen = every_head if heads == "all" else [tuple(pair) for pair in heads]
    layer, head = np.array(chosen).T
    roles = {name: "train" for name in trained_on} | {name: "validate" for name in validated_on}
    role = np.array([roles.get(name, "test") for name in names])
    examples = [_example(qkv, attention, i, layer, head, device) for i in range(len(names))]
    of_role = {
        part: [one for one, its in zip(examples, role) if its == part]
        for part in ("train", "validate")
    }
    uniform = _errors(examples, _equal)

    def one_run(m: int, index: int) -> dict[str, np.ndarray]:
        """Everything of one size and one seed; heads are in the order of `chosen`."""
        d_head = qkv.sizes["d_head"]
        draws = [
            torch.from_numpy(
                stream(seed, data_of, "learned", index, *pair).standard_normal((m // 2, d_head))
            )
            for pair in chosen
        ]
        found = learning.train(
            of_role["train"],
            of_role["validate"],
            torch.stack(draws),
            stream(seed, data_of, "learned", index, "queries"),
            loss,
            max_steps,
            learning_rate,
            patience,
            getattr(torch, dtype),
        )
        neurons = [_random_neurons(seed, data_of, index, pair, m, d_head) for pair in chosen]
        weights, bias = (torch.stack(parts).to(device) for parts in zip(*neurons))
        query_weights, key_weights = (x.to(device) for x in found[:2])

        def learned(one: learning.Example, heads: slice) -> Tensor:
            return learning.log_attention(
                learning.log_features(query_weights[heads], one.q[heads]),
                learning.log_features(key_weights[heads], one.k[heads]),
            )

        def random(one: learning.Example, heads: slice) -> Tensor:
            log_q, log_k = (
                _performer(weights[heads], bias[heads], x[heads]) for x in (one.q, one.k)
            )
            return learning.log_attention(log_q, log_k)

        errors = [_errors(examples, learned), _errors(examples, random), uniform]
        kl, output_error = (np.stack(parts) for parts in zip(*errors))
        return {
            "kl": kl,  # [origin, input, H]
            "output_error": output_error,
            "training_loss": found.training_loss.numpy(),  # [step, H]
            "validation_loss": found.validation_loss.numpy(),
            "best_step": found.best_step.numpy(),  # [H]
            "note": np.array(found.note),
        }

    runs = list(itertools.product(n_features, range(n_seeds)))
    bar_format = "{desc}: {percentage:.0f} % of {total} runs, {elapsed} gone, {remaining} left\n"
    for m, index in tqdm(runs, desc="learn", mininterval=5, maxinterval=5, bar_format=bar_format):
        if f"{m}-{index}" not in checkpoint:
            found = _of_previous(previous, m, index, layer, head)
            checkpoint[f"{m}-{index}"] = found or one_run(m, index)

    empty = {"best_step": -1, "note": ""}
    variables = {"role": ("input", role.astype(object))}
    for name, axes in AXES.items():
        values = np.stack([np.asarray(checkpoint[f"{m}-{index}"][name]) for m, index in runs])
        values = values.reshape(len(n_features), n_seeds, *values.shape[1:])
        values = np.moveaxis(values, 2, 0) if "origin" in axes else values
        dtype = object if name == "note" else values.dtype
        shape = (*values.shape[:-1], qkv.sizes["layer"], qkv.sizes["head"])
        full = np.full(shape, empty.get(name, np.nan), dtype=dtype)
        full[..., layer, head] = values
        before = [axis for axis in axes if axis == "origin"]
        after = [axis for axis in axes if axis != "origin"]
        variables[name] = ((*before, "n_features", "seed", *after, "layer", "head"), full)
    for name, values in _summaries(variables, role == "test", layer, head, seed, data_of).items():
        variables[name] = (("origin", "n_features"), values)
    return xr.Dataset(
        variables,
        coords={
            "origin": np.array(METHODS, dtype=object),
            "n_features": np.array(n_features, dtype=np.int64),
            "seed": np.arange(n_seeds),
            "step": np.array(learning.evaluation_steps(max_steps), dtype=np.int64),
            **{name: qkv[name] for name in ("input", "layer", "head")},
        },
        attrs={"data": qkv.attrs.get("data", "")},
    )


def _of_previous(
    previous: xr.Dataset | None, m: int, index: int, layer: np.ndarray, head: np.ndarray
) -> dict[str, np.ndarray]:
    """One training as `one_run` gives it, if it is there."""
    if previous is None or m not in previous["n_features"] or index not in previous["seed"]:
        return {}
    one = previous.sel(n_features=m, seed=index)
    found = {
        name: one[name].transpose(*axes, ...).values[..., layer, head]
        for name, axes in AXES.items()
    }
    return found | {"note": found["note"].astype(str)}


def _check(
    qkv: xr.Dataset,
    names: list[str],
    n_features: list[int],
    trained_on: list[str],
    validated_on: list[str],
    heads: str | list[list[int]],
    loss: str,
) -> None:
    """Raise UserError where what is asked for cannot be done."""
    given = [*trained_on, *validated_on]
    unknown = [name for name in given if name not in names]
    odd = [m for m in n_features if m < 2 or m % 2]
    if odd:
        raise UserError(f"n_features: got {odd[0]}, wanted even numbers from 2")
    if loss not in learning.LOSSES:
        raise UserError(f"loss: got {loss}, wanted one of {', '.join(learning.LOSSES)}")
    if unknown:
        raise UserError(f"trained_on, validated_on: got {unknown[0]}, wanted names of {names}")
    if not trained_on or not validated_on or len(set(given)) < len(given):
        raise UserError(
            f"trained_on, validated_on: got {trained_on} and {validated_on}, wanted different "
            "inputs in each"
        )
    if len(given) == len(names):
        raise UserError(
            f"trained_on, validated_on: got all {len(names)} inputs, wanted one left to test"
        )
    for layer, head in [] if heads == "all" else heads:
        if not (0 <= layer < qkv.sizes["layer"] and 0 <= head < qkv.sizes["head"]):
            raise UserError(
                f"heads: got [{layer}, {head}], wanted layers below {qkv.sizes['layer']} and heads "
                f"below {qkv.sizes['head']}"
            )


def _example(
    qkv: xr.Dataset, attention: xr.Dataset, i: int, layer: np.ndarray, head: np.ndarray, device: str
) -> learning.Example:
    """The chosen heads of one input, with the softmax attention of attention.nc."""
    present = qkv["mask"].values[i]

    def of_heads(values: np.ndarray) -> Tensor:  # [H, token, ...]
        return torch.from_numpy(values[i][layer, head][:, present]).to(device, torch.float64)

    q, k, v = (of_heads(qkv[name].values) for name in "qkv")
    log_normalizer = of_heads(attention["log_normalizer"].values)
    weights = torch.exp(q @ k.mT - log_normalizer[..., None])
    return learning.Example(q, k, v, weights, of_heads(attention["output"].values))


def _random_neurons(
    seed: int, data_of: str, index: int, pair: tuple[int, int], m: int, d_head: int
) -> tuple[Tensor, Tensor]:
    """Weights [m, D] and bias [m] of the network of this experiment, seed and head."""
    streams = (stream(seed, data_of, name, index, *pair) for name in ("omega", "phase"))
    return tuple(torch.cat(parts) for parts in zip(*draw_neurons("performer", *streams, m, d_head)))


def _equal(one: learning.Example, heads: slice) -> Tensor:
    """ln of equal attention to all tokens."""
    return torch.full_like(one.weights[heads], -math.log(one.k.shape[1]))


def _performer(weights: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """ln phi [H, T, m] of positive random features for x [H, T, D]."""
    drive = x @ weights.mT + bias[:, None]
    square = x.square().sum(-1, keepdim=True)
    return FEATURE_MAPS["performer"].activation(drive, square, weights.shape[1], math.inf)[0]


def _errors(
    examples: list[learning.Example], attend: Callable[[learning.Example, slice], Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """KL and output error [input, H]; attend gives ln A^ [some H, T, T] of a slice of the heads."""
    kl, output_error = [], []
    for one in examples:
        for first in range(0, len(one.q), PART):
            heads = slice(first, first + PART)
            seen = learning.Example(*(x[heads] for x in one))
            log_weights = attend(one, heads)
            kl.append(learning.divergence(log_weights, seen))
            output_error.append(learning.outputs_loss(log_weights, seen).sqrt())
    shape = (len(examples), -1)
    return tuple(torch.cat(parts).reshape(shape).cpu().numpy() for parts in (kl, output_error))


def _summaries(
    variables: dict, tests: np.ndarray, layer: np.ndarray, head: np.ndarray, seed: int, data_of: str
) -> dict[str, np.ndarray]:
    """Medians over test inputs, heads and seeds with intervals, each [origin, n_features]."""

    def clusters(name: str) -> np.ndarray:  # [n_features, input, H, seed, origin]
        values = variables[name][1][:, :, :, tests][..., layer, head]
        return values.transpose(1, 3, 4, 2, 0)

    kl = clusters("kl")
    random, uniform = (kl[..., [METHODS.index(name)]] for name in ("random", "uniform"))
    with np.errstate(divide="ignore", invalid="ignore"):  # of heads without any divergence
        ratio = np.log10(kl / random)
    per_head = {
        "median_kl": kl,
        "median_output_error": clusters("output_error"),
        "log10_kl_ratio": ratio,
    }
    found = {}
    for name, values in per_head.items():
        sizes = [
            _median(one, stream(seed, data_of, "learned", "bootstrap", name)) for one in values
        ]
        found |= {name + end: np.stack(parts, 1) for end, parts in zip(ENDS, zip(*sizes))}
    better = np.where(np.isnan(kl), np.nan, kl < uniform)
    shares = [_of_finite_heads(one) for one in better]
    found["share_better_than_uniform"] = np.stack(
        [one.mean((0, 1, 2)) if one.size else np.full(len(METHODS), np.nan) for one in shares], 1
    )
    return found


def _median(values: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Median and interval, each [origin], of values [input, H, seed, origin]; NaN if unknown."""

    def median(values: np.ndarray) -> np.ndarray:
        return np.median(values, (0, 1, 2))

    values = _of_finite_heads(values)
    nothing = np.full(len(METHODS), np.nan)
    if not values.size:
        return nothing, nothing, nothing
    if max(values.shape[:3]) < 2:  # one value has no interval
        return median(values), nothing, nothing
    return cluster_bootstrap(median, values, 3, rng)


def _of_finite_heads(values: np.ndarray) -> np.ndarray:
    """values [input, H, seed, origin] of heads of which none is missing: methods stay paired."""
    return values[:, np.isfinite(values).all((0, 2, 3))]
