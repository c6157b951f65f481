"""Replace the attention of a whole pretrained transformer by neuron-astrocyte networks."""

import math
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from tripartite import job, rebuilding
from tripartite.attention import softmax_attention
from tripartite.contracts import UserError
from tripartite.heads import dataset, progress
from tripartite.kinds.rebuilt import cost_of_token, damage, layerwise, measures, summaries, transfer
from tripartite.kinds.rebuilt.layerwise import ALL, Replacement
from tripartite.kinds.rebuilt.summaries import EQUAL, NONE, REFERENCES, SOFTMAX
from tripartite.pretrained import extraction
from tripartite.pretrained.transformers import ATTENTION, Layer
from tripartite.rebuilding import LEARNED, Attention
from tripartite.registry import models
from tripartite.streams import stream

OUTSIDE = {EQUAL: rebuilding.equal_attention, NONE: rebuilding.no_attention}  # without neurons

T = TypeVar("T")
Read = dict[
    str, tuple[Tensor, Tensor, Tensor]
]  # q, k, v [layer, head, T, D] of the exact model, by input
Unit = tuple[str, int, int]  # what replaces attention, its neurons, and their seed
Found = dict[str, np.ndarray]  # of a unit


def rebuild(
    raw: list[Path],
    model: str,
    title: str,
    wheel: str,
    sha256: dict[str, str],
    inputs: list[str],
    calibrated_on: list[str],
    recipes: list[str],
    n_features: list[int],
    n_seeds: int,
    parts: list[str],
    max_learned: int,
    max_steps: int,
    dtype: str,
    seed: int,
    data_of: str,
    workers: int,
    checkpoint: MutableMapping[str, Found],
    validated_on: Sequence[str] = (),
) -> xr.Dataset:
    """Return what a transformer still does, with networks in place of its attention.

    raw, title, wheel, inputs and sha256 are as in generate; inputs that calibrate or validate are
    not tested. A recipe is fitted once, to the exact model's queries and keys. Every recipe, size,
    seed and part is a transformer of its own. checkpoint holds what is known of them by recipe,
    size and seed, and is filled as the work goes on. UserError where an input cannot be read.
    """
    tested = [name for name in inputs if name not in {*calibrated_on, *validated_on}]
    everything = [*calibrated_on, *validated_on, *tested]
    archives, texts = job.open_sources(raw, sha256)
    try:
        contents = extraction.contents(model, everything, texts, archives)
        transformer = extraction.open_model(model, archives[wheel], getattr(torch, dtype))
        read = {name: transformer.read(contents[name])[:3] for name in everything}
        tried = {name: contents[name] for name in tested}
        tried |= {name: x for name, x in texts.items() if name.endswith(measures.PAIRS)}
        trial = measures.trial(models()[model].architecture, transformer, tried)
    except (ValueError, KeyError) as error:
        raise UserError(f"model {model}: {error}") from error
    causal = models()[model].order == "causal"
    layers, exact = transformer.layers, ATTENTION[models()[model].order]
    n_layers, n_heads = read[everything[0]][0].shape[:2]
    parts, names = layerwise.parts_of(parts, n_layers), list(trial.entering)
    owner = [name for name in names for _ in trial.entering[name]]  # the input of each batch
    of_tested = [owner.index(name) for name in tested]  # the batch with the input itself
    hidden = [layerwise.original(layers, x, exact) for one in trial.entering.values() for x in one]
    whole = of_inputs(owner, [x[-1] for x in hidden])
    score = trial.against(whole)

    deviation = deviations(layers, hidden, exact, causal, transformer.final, (n_layers, n_heads))
    fits = fitted(read, calibrated_on, [one for one in recipes if one != LEARNED], causal)
    needed, needed_calibrating = (
        closed_forms(read, group, recipes, fits, causal) for group in (tested, calibrated_on)
    )
    heads_of = chosen_heads(parts, recipes, n_features, needed_calibrating)

    def random_networks(recipe: str, m: int, draw: int) -> Replacement:
        def of_layer(layer: int, heads: Sequence[int]) -> Attention:
            def random(head: int, name: str) -> np.random.Generator:  # as in hidden.py
                return stream(seed, data_of, name, draw, layer, heads[head])

            fit = rebuilding.some_heads(fits[recipe][layer], heads)
            return attend(rebuilding.random_layer(fit, random, m, getattr(torch, dtype)))

        return of_layer

    def learned_networks(m: int, draw: int) -> tuple[Replacement, str]:
        training, validation = (
            [read[name] for name in group] for group in (calibrated_on, validated_on)
        )
        random = partial(stream, seed, data_of, "rebuilt", LEARNED, m, draw)
        pair, note = transfer.trained(training, validation, causal, m, random, max_steps)

        def of_layer(layer: int, heads: Sequence[int]) -> Attention:
            return attend(rebuilding.learned_layer(*(x[layer, list(heads)] for x in pair)))

        return of_layer, note

    def attend(network: rebuilding.Rebuilt) -> Attention:
        return lambda q, k, v: network.attend(q, k, v, causal)

    def outside(kind: str) -> Replacement:
        return lambda layer, heads: lambda q, k, v: OUTSIDE[kind](q, k, v, causal)

    def one_unit(unit: Unit) -> Found:
        """What one kind of attention leaves of the model, in every part."""
        (kind, m, draw), key, note = unit, "-".join(map(str, unit)), ""
        if key in checkpoint:
            return checkpoint[key]
        if kind == LEARNED:
            replacement, note = learned_networks(m, draw)
        else:
            replacement = outside(kind) if kind in OUTSIDE else random_networks(kind, m, draw)
        passes = layerwise.run(layers, hidden, heads_of[kind, m], exact, replacement)
        scores = [score(of_inputs(owner, states)) for states in passes.states]
        score_of_parts = np.stack([table(one, scores[0], names) for one in scores], 1)
        errors = {
            "score": score_of_parts,  # [measure, part, input]
            "state_error": passes.state_error[:, of_tested],  # [part, input, layer]
            "head_error": passes.head_error[:, of_tested],  # [part, input, layer, head]
        }
        if note:  # likeliest tokens of NaN would be numbers
            errors = {name: np.full_like(x, np.nan) for name, x in errors.items()}
        checkpoint[key] = errors | {"note": np.array(note)}
        return checkpoint[key]

    units: list[Unit] = [(EQUAL, 0, 0), (NONE, 0, 0)]
    units += [
        (recipe, m, draw)
        for draw, m, recipe in product(range(n_seeds), n_features, recipes)
        if recipe != LEARNED or m <= max_learned
    ]
    with ThreadPoolExecutor(workers) as pool:
        done = progress(pool.map(one_unit, units), "rebuild", "networks", len(units))
        found = dict(zip(units, done, strict=True))
    was = score(whole)
    reference = np.full((len(was), len(REFERENCES), len(parts), len(names)), np.nan)
    for place, name in enumerate(REFERENCES):
        if name in OUTSIDE:
            there = heads_of[name, 0].any((1, 2))  # where anything is replaced
            reference[:, place, there] = found[name, 0, 0]["score"][:, there]
        else:
            scores = was if name == SOFTMAX else trial.chance
            reference[:, place] = table(scores, was, names)[:, None]
    arrays, notes = gathered(found, recipes, n_features, n_seeds)
    own = [names.index(name) for name in tested]  # inputs without lists of pairs
    equal = found[EQUAL, 0, 0]
    bootstrap = partial(stream, seed, data_of, "rebuilt", "bootstrap")
    weights = layers[0].args[1]  # type: ignore[attr-defined]  # layers are partial functions
    sizes = cost_of_token.sizes_of(n_layers, n_heads, weights)
    values = {
        "label": [measures.LABELS[name] for name in was],
        "note": notes,
        "replaced": np.stack(
            [[heads_of[recipe, m] for m in n_features] for recipe in recipes]
        ).swapaxes(1, 2),
        "log10_features_needed": needed,
        "log10_features_needed_calibrating": needed_calibrating,
        "exact_deviation": [max(of_inputs(owner, deviation)[name]) for name in names],
        **cost_of_token.variables(sizes),
        **summaries.summaries(
            **arrays,
            reference=reference,
            rng=bootstrap,
        ),
        **damage.variables(
            parts,
            n_features,
            arrays["score"][:, :, :, 0][..., own],  # of the first measure
            arrays["state_error"],
            {"score": equal["score"][0][:, own], "state_error": equal["state_error"]},
            layerwise.sizes(layers, [hidden[i] for i in of_tested], causal),
            needed_calibrating,
            next(iter(was)),
            reference[0, REFERENCES.index(SOFTMAX), 0, own],
            bootstrap,
        ),
    }
    coords = {
        **cost_of_token.AXES,
        "measure": list(was),
        "harm": damage.HARMS,
        "predictor": damage.PREDICTORS,
        "recipe": recipes,
        "reference": REFERENCES,
        "part": parts,
        "n_features": n_features,
        "seed": range(n_seeds),
        "input": names,
        "layer": range(n_layers),
        "head": range(n_heads),
    }
    return dataset("rebuilt", values, coords, data=title)


def gathered(
    found: dict[Unit, Found], recipes: list[str], n_features: list[int], n_seeds: int
) -> tuple[Found, np.ndarray]:
    """What all units of networks found, on axes [recipe, n_features, seed] in front, and notes.

    NaN where a unit was not run.
    """
    shape = len(recipes), len(n_features), n_seeds
    arrays: Found = {}
    notes = np.full(shape[1:], "", dtype=object)
    for (kind, m, draw), one in found.items():
        if kind in OUTSIDE:
            continue
        place = recipes.index(kind), n_features.index(m), draw
        for name, x in one.items():
            if name != "note":
                arrays.setdefault(name, np.full((*shape, *x.shape), np.nan))[place] = x
            elif x:
                notes[place[1:]] = str(x)
    return arrays, notes


def of_inputs(owner: Sequence[str], batches: Sequence[T]) -> dict[str, list[T]]:
    """Batches by the inputs to which they belong."""
    found: dict[str, list[T]] = {name: [] for name in owner}
    for name, x in zip(owner, batches, strict=True):
        found[name].append(x)
    return found


def table(scores: measures.Scores, of: Iterable[str], names: Sequence[str]) -> np.ndarray:
    """Scores [measure, input] of these measures and inputs; NaN where there is none."""
    return np.array([[scores.get(one, {}).get(name, np.nan) for name in names] for one in of])


def deviations(
    layers: Sequence[Layer],
    hidden: Sequence[Tensor],
    exact: layerwise.OfLayer,
    causal: bool,
    final: Callable[[Tensor], Tensor],
    shape: tuple[int, int],
) -> list[float]:
    """Largest deviation of each batch with exact attention in place of itself, relative."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        present = torch.ones(k.shape[-2], dtype=torch.bool)
        exact = softmax_attention(q.double(), k.double(), v.double(), present, causal)[1]
        return exact.to(v.dtype)

    everywhere = np.ones((1, *shape), dtype=bool)
    passes = layerwise.run(layers, hidden, everywhere, exact, lambda layer, heads: attend)
    pairs = [(final(x), final(was[-1])) for x, was in zip(passes.states[0], hidden)]
    return [float((x - was).abs().max() / was.abs().max()) for x, was in pairs]


def fitted(
    read: Read, calibrated_on: Sequence[str], recipes: Sequence[str], causal: bool
) -> dict[str, list[rebuilding.Fit]]:
    """What is fitted to the heads of each layer, by recipe."""
    n_layers = len(read[calibrated_on[0]][0])
    cases = list(product(recipes, range(n_layers)))
    found: dict[str, list[rebuilding.Fit]] = {recipe: [] for recipe in recipes}
    for recipe, layer in progress(cases, "rebuild: fit recipes", "layers", len(cases)):
        inputs = [(read[name][0][layer], read[name][1][layer]) for name in calibrated_on]
        found[recipe].append(rebuilding.fit_layer(inputs, recipe, causal))
    return found


def closed_forms(
    read: Read,
    group: Sequence[str],
    recipes: Sequence[str],
    fits: dict[str, list[rebuilding.Fit]],
    causal: bool,
) -> np.ndarray:
    """log10 of the neurons that heads need [recipe, layer, head]: median over queries of a group.

    NaN for learned hidden layers, for which there is no closed form.
    """
    n_layers, n_heads = read[group[0]][0].shape[:2]
    needed = np.full((len(recipes), n_layers, n_heads), np.nan)
    for recipe, of_layers in fits.items():
        for layer, fit in enumerate(of_layers):
            of_inputs = [
                rebuilding.log10_needed(read[name][0][layer], read[name][1][layer], fit, causal)
                for name in group
            ]
            needed[recipes.index(recipe), layer] = torch.cat(of_inputs, -1).quantile(0.5, -1)
    return needed


def chosen_heads(
    parts: Sequence[str], recipes: Sequence[str], n_features: Sequence[int], needed: np.ndarray
) -> dict[tuple[str, int], np.ndarray]:
    """Which heads are replaced [part, layer, head], by what replaces them and its neurons.

    needed: log10 of the neurons that heads need [recipe, layer, head].
    """
    found = {
        (recipe, m): np.stack([layerwise.replaced(x, of_heads <= math.log10(m)) for x in parts])
        for (recipe, of_heads), m in product(zip(recipes, needed), n_features)
    }
    none = np.zeros(needed.shape[1:], dtype=bool)  # feasible without a recipe
    found[EQUAL, 0] = np.stack([layerwise.replaced(part, none) for part in parts])
    found[NONE, 0] = found[EQUAL, 0] & (np.array(parts) == ALL)[:, None, None]
    return found
