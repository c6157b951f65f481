"""Train the hidden layer of every chosen head, and compare it with random ones of the same size."""

from collections.abc import MutableMapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from tripartite import hidden, learning
from tripartite.choosing import chosen_inputs
from tripartite.heads import Heads, progress
from tripartite.kinds.learned import evaluation
from tripartite.network import Hidden
from tripartite.symmetries import Symmetry, fitted

OF_ORIGINS = ("kl", "output_error")
CENTER = ["center_keys", "center_queries"]  # of fitted random neurons, and balance
OF_TRAINING = (*OF_ORIGINS, "training_loss", "validation_loss", "best_step", "note")


def learn(
    heads: Heads,
    n_features: list[int],
    n_seeds: int,
    trained_on: str | list[str],
    validated_on: str | list[str],
    loss: str,
    max_steps: int,
    learning_rate: float,
    patience: int,
    dtype: str,
    checkpoint: MutableMapping[str, dict[str, np.ndarray]],
    previous: xr.Dataset | None,
) -> xr.Dataset:
    """Return how far trained, random and equal attention are from softmax attention, per input.

    A query of each reads the keys that its layer's order lets it read; layers of both orders may be
    trained together.

    Inputs that are in neither trained_on nor validated_on are tests. dtype is that of the training;
    what comes of it is evaluated in float64. The random neurons are those of simulate: plain ones,
    and normal ones that are fitted to trained_on after queries and keys are centred and balanced.
    checkpoint holds what trainings gave, by size and seed, and is filled as the work goes on, so
    that a job that was cut off can continue; previous is what this function returned for other
    sizes or seeds, whose trainings are not repeated.
    """
    training_on, validating_on = chosen_inputs(heads.names, trained_on, validated_on)
    roles = dict.fromkeys(training_on, "train")
    roles |= dict.fromkeys(validating_on, "validate")
    role = np.array([roles.get(name, "test") for name in heads.names])
    examples = [_example(heads, i) for i in range(len(heads.names))]
    training, validation = (
        [one for one, its in zip(examples, role) if its == part] for part in ("train", "validate")
    )
    uniform = evaluation.errors(examples, evaluation.uniform_attention)
    symmetry, a = _fitted(heads, [i for i, part in enumerate(role) if part == "train"])

    def one_training(m: int, index: int) -> dict[str, np.ndarray]:
        """Everything of one size and one seed; heads are in the order of heads.chosen."""
        shape = m // 2, heads.qkv.sizes["d_head"]
        starts = [
            heads.stream("learned", index, *pair).standard_normal(shape) for pair in heads.chosen
        ]
        trained = learning.train(
            training,
            validation,
            torch.from_numpy(np.stack(starts)),
            heads.stream("learned", index, "queries"),
            loss=loss,
            max_steps=max_steps,
            learning_rate=learning_rate,
            patience=patience,
            dtype=getattr(torch, dtype),
        )
        learned = evaluation.errors(examples, evaluation.learned_attention(trained))
        plain = evaluation.random_attention(_random_layers(heads, index, m))
        normal = evaluation.random_attention(_random_layers(heads, index, m, a), symmetry)
        random = (evaluation.errors(examples, attention) for attention in (plain, normal))
        kl, output_error = (np.stack(parts) for parts in zip(learned, *random, uniform))
        return {
            "kl": kl,  # [origin, input, H]
            "output_error": output_error,
            "training_loss": trained.training_loss.numpy(),  # [step, H]
            "validation_loss": trained.validation_loss.numpy(),
            "best_step": trained.best_step.numpy(),  # [H]
            "note": np.array(trained.note),
        }

    trainings = []
    runs = [(m, index) for m in n_features for index in range(n_seeds)]
    for m, index in progress(runs, "learn", "trainings"):
        name = f"{m}-{index}"
        if name not in checkpoint:
            checkpoint[name] = _taken_over(previous, m, index, heads) or one_training(m, index)
        trainings.append(checkpoint[name])
    values = {}  # [n_features, seed, ..., H], origin before all
    for name in OF_TRAINING:
        stacked = np.stack([training[name] for training in trainings])
        stacked = stacked.reshape(len(n_features), n_seeds, *stacked.shape[1:])
        values[name] = np.moveaxis(stacked, 2, 0) if name in OF_ORIGINS else stacked
    of_heads = [{name: x[..., i] for name, x in values.items()} for i in range(len(heads.chosen))]
    coords = {
        "origin": evaluation.ORIGINS,
        "baseline": evaluation.BASELINES,
        "n_features": n_features,
        "seed": range(n_seeds),
        "step": learning.evaluation_steps(max_steps),
    }
    placed = heads.placed("learned", of_heads, coords)
    placed["note"][placed["note"] == "not run"] = ""  # what is not trained does not fail
    kl, output_error = (values[name][:, :, :, role == "test"] for name in OF_ORIGINS)
    summaries = evaluation.summaries(
        kl, output_error, heads.distinct, lambda name: heads.stream("learned", "bootstrap", name)
    )
    return heads.dataset("learned", placed | summaries | {"role": role}, coords)


def _example(heads: Heads, i: int) -> learning.Example:
    """The chosen heads of one input, with their softmax attention."""
    readings = [heads.reading(i, *pair) for pair in heads.chosen]

    def of_heads(name: str) -> Tensor:  # [H, T, ...], in memory T first: sums keep their order
        parts = [getattr(reading, name) for reading in readings]
        return torch.stack(parts, 1).transpose(0, 1).to(heads.device)

    q, k, v, log_normalizer = (of_heads(name) for name in ("q", "k", "v", "log_normalizer"))
    ones = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool)
    read = torch.stack([ones.tril() if reading.causal else ones for reading in readings])
    read = read.to(heads.device)  # [H, T, T]
    weights = torch.exp(q @ k.mT - log_normalizer[..., None]).masked_fill(~read, 0)
    return learning.Example(q, k, v, weights, of_heads("output"), read)


def _fitted(heads: Heads, training: list[int]) -> tuple[Symmetry, list[Tensor]]:
    """What is fitted to the inputs that train: symmetries of H heads, and a [D] of each head.

    A head to which no balance can be fitted is centred alone.
    """
    found = []
    for place in heads.chosen:
        readings = [heads.reading(i, *place) for i in training]
        inputs, causal = [(one.q, one.k) for one in readings], heads.causal(place[0])
        try:
            found.append(fitted(inputs, [*CENTER, "balance"], "fitted_normal", causal))
        except ValueError:
            found.append(fitted(inputs, CENTER, "fitted_normal", causal))
    symmetries, a = zip(*found)
    return Symmetry(*(torch.stack(parts) for parts in zip(*symmetries))), list(a)


def _random_layers(heads: Heads, index: int, m: int, a: list[Tensor] | None = None) -> Hidden:
    """The hidden layers of simulate, of one size and seed: weights [H, m, D] and bias [H, m].

    a [D] of each head is that of neurons with a fitted normal distribution; plain ones have none.
    """
    if a is None:
        drawn = [hidden.neurons(heads.head(*pair), index, m) for pair in heads.chosen]
    else:
        drawn = [
            hidden.neurons(heads.head(*pair), index, m, "fitted_normal", of_head)
            for pair, of_head in zip(heads.chosen, a)
        ]
    layers = [[torch.cat(parts) for parts in zip(*neurons)] for neurons in drawn]
    weights, bias = (torch.stack(parts).to(heads.device) for parts in zip(*layers))
    return Hidden(weights, bias)


def _taken_over(
    previous: xr.Dataset | None, m: int, index: int, heads: Heads
) -> dict[str, np.ndarray]:
    """One training out of what was returned before; empty if it is not there."""
    if previous is None or m not in previous["n_features"] or index not in previous["seed"]:
        return {}
    training = previous.sel(n_features=m, seed=index)
    found = {name: training[name].values[(..., *heads.places)] for name in OF_TRAINING}
    return found | {"note": found["note"].astype(str)}
