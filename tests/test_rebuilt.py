"""Transformers with other attention, layer by layer: beside plain loops, and the stage."""

import functools
import itertools
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from tripartite import duration, memory, network, plan, rebuilding, study
from tripartite.contracts import UserError, check, describe
from tripartite.features import draw_neurons
from tripartite.kinds.rebuilt import layerwise, rebuild, summaries, transfer
from tripartite.kinds.rebuilt.checks import faults
from tripartite.pretrained import transformers
from tripartite.pretrained.extraction import Transformer
from tripartite.registry import models
from tripartite.streams import stream
from tripartite.symmetries import transform

LAYERS, HEADS, D_HEAD, WIDTH, TOKENS, WORDS = 3, 2, 4, 8, 7, 11
OWN_MODELS = {"albert": "albert", "bert": "minilm", "vit": "vit", "llama": "smollm2"}
NAMES = ["one", "two", "three", "four"]
TEXTS = {
    name: bytes(stream(0, name).integers(97, 97 + WORDS, TOKENS + i).tolist())
    for i, name in enumerate(NAMES)
}


# Small models.


def small(architecture, size=1.0):
    """A small model of an architecture and its random weights in float64; size: of q and k."""
    model = replace(models()[OWN_MODELS[architecture]], layers=LAYERS, heads=HEADS, d_head=D_HEAD)
    prefix, parts = transformers.LAYERS[architecture]
    rng = stream(1, architecture)
    inner, weights = 2 * WIDTH, {}
    for i in range(LAYERS):
        for part, name in parts.items():
            shape = [WIDTH, WIDTH]
            shape = [inner, WIDTH] if part in ("up", "gate") else shape
            shape = [WIDTH, inner] if part == "down" else shape
            shape = (
                [D_HEAD, WIDTH] if architecture == "llama" and part in ("key", "value") else shape
            )
            x = (
                size * rng.standard_normal(shape) / WIDTH**0.5
                if part in ("query", "key")
                else (rng.standard_normal(shape) / WIDTH**0.5)
            )
            x = 1 + 0.1 * rng.standard_normal(WIDTH) if part.startswith("norm") else x
            weights[f"{prefix.format(i)}{name}.weight"] = x
            weights[f"{prefix.format(i)}{name}.bias"] = 0.1 * rng.standard_normal(len(x))
        for name in transformers.VIT_SCALES:
            weights[prefix.format(i) + name] = 1 + 0.1 * rng.standard_normal(WIDTH)
    for name in ("layernorm.weight", "layernorm.bias", "output_norm.weight"):
        weights[name] = 1 + 0.1 * rng.standard_normal(WIDTH)
    weights["token_embd.weight"] = rng.standard_normal((WORDS, WIDTH))
    return model, {name: torch.from_numpy(x) for name, x in weights.items()}


def opened(architecture, dtype=torch.float64, size=1.0):
    """Its order, softmax attention, layers and final norm."""
    model, weights = small(architecture, size)
    weights = {name: x.to(dtype) for name, x in weights.items()}
    final = partial(transformers.final, model, weights)
    return (
        model.order == "causal",
        transformers.ATTENTION[model.order],
        transformers.layers(model, weights),
        final,
    )


def originals(layers, exact, dtype=torch.float64, n_variants=2):
    """States of two inputs, the second one in several variants."""
    rng = stream(2, "states")
    shapes = (1, TOKENS, WIDTH), (n_variants, TOKENS + 2, WIDTH)
    entering = [torch.from_numpy(rng.standard_normal(shape)).to(dtype) for shape in shapes]
    return [layerwise.original(layers, x, exact) for x in entering]


def random_of(layer, heads, head, name):
    return stream(3, name, layer, heads[head])


def networks(hidden, layers, causal, m, recipe="plain"):
    """Networks of a recipe that is fitted to the original's own queries and keys."""

    @functools.cache
    def fit_of(layer):
        seen = []

        def record(q, k, v):
            seen.append((q[0], k[0]))
            return torch.zeros_like(v)

        for x in hidden:
            layers[layer](x[layer], record)
        return rebuilding.fit_layer(seen, recipe, causal)

    def replacement(layer, heads):
        fit = rebuilding.some_heads(fit_of(layer), heads)
        random = partial(random_of, layer, heads)
        made = rebuilding.random_layer(fit, random, m, hidden[0].dtype)
        return lambda q, k, v: made.attend(q, k, v, causal)

    return replacement


def chosen(*parts, feasible=None):
    feasible = np.zeros((LAYERS, HEADS), dtype=bool) if feasible is None else feasible
    names = layerwise.parts_of(parts, LAYERS)
    return names, np.stack([layerwise.replaced(name, feasible) for name in names])


# Layer by layer.


@pytest.mark.parametrize("architecture", OWN_MODELS)
@pytest.mark.parametrize(("dtype", "least"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_exact_attention_in_place_gives_the_original(architecture, dtype, least):
    causal, exact, layers, final = opened(architecture, dtype)
    hidden = originals(layers, exact, dtype)
    found = rebuild.deviations(layers, hidden, exact, causal, final, (LAYERS, HEADS))
    assert len(found) == 2 and max(found) < least
    wrong = layerwise.run(
        layers, hidden, chosen("all")[1], exact, lambda layer, heads: lambda q, k, v: v
    )
    assert min(wrong.state_error[0, :, -1]) > 0.01  # another attention would be seen


@pytest.mark.parametrize("architecture", OWN_MODELS)
def test_more_neurons_approach_the_original(architecture):
    causal, exact, layers, _ = opened(architecture, size=0.3)
    hidden = originals(layers, exact)
    errors = []
    for m in (16, 16_384):
        passes = layerwise.run(
            layers, hidden, chosen("all")[1], exact, networks(hidden, layers, causal, m)
        )
        errors.append((passes.state_error, passes.head_error))
    for few, many in zip(*errors):  # 1 / 32 by the law
        assert np.mean(many) < np.mean(few) / 8
    assert errors[1][0].max() < 0.02


def test_parts_are_written_out_each_once():
    found = layerwise.parts_of(["layer 1", "each_layer", "all", "first_layers", "feasible"], LAYERS)
    layer, first = (f"layer {i}" for i in (0, 2)), (f"first {k}" for k in (1, 2, 3))
    assert found == ["layer 1", *layer, "all", *first, "feasible"]


def test_what_is_replaced_by_hand():
    few = np.array([[True, False], [False, False], [True, True]])
    names, heads = chosen("all", "each_layer", "first_layers", "feasible", feasible=few)
    for name, found in zip(names, heads):
        for layer, head in itertools.product(range(LAYERS), range(HEADS)):
            wanted = {
                "all": True,
                "feasible": few[layer, head],
                f"layer {layer}": True,
                **{f"first {k}": True for k in range(layer + 1, LAYERS + 1)},
            }
            assert found[layer, head] == wanted.get(name, False), name


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_parts_side_by_side_are_whole_passes_of_each(architecture):
    """Every part by a plain pass from the first layer on, with its own attention in every layer.

    A layer alone changes nothing before it, and the first of all layers are all.
    """
    causal, exact, layers, _ = opened(architecture)
    hidden = originals(layers, exact)
    few = np.array([[True, False], [False, False], [False, True]])
    names, heads = chosen("all", "each_layer", "first_layers", "feasible", feasible=few)
    replacement = networks(hidden, layers, causal, 32, "fitted")
    found = layerwise.run(layers, hidden, heads, exact, replacement)
    for part, (i, states) in itertools.product(range(len(names)), enumerate(hidden)):
        x = states[0]
        for layer, run_layer in enumerate(layers):

            def attention(q, k, v, layer=layer, part=part, i=i):
                output = exact(layer, q, k, v).clone()
                for head in np.flatnonzero(heads[part, layer]):
                    at = [int(head)]
                    own = replacement(layer, at)(q[:, at], k[:, at], v[:, at])
                    wanted = output[:, at]
                    error = (own - wanted).norm() / wanted.norm()
                    measured = found.head_error[part, i, layer, head]
                    assert measured == pytest.approx(float(error), rel=1e-6)
                    output[:, at] = own
                return output

            x = run_layer(x, attention)[0]
            error = mean_over_tokens(x, states[layer + 1])
            assert found.state_error[part, i, layer] == pytest.approx(error, rel=1e-6, abs=1e-15)
        torch.testing.assert_close(found.states[part][i], x, rtol=1e-9, atol=1e-12)
    last, whole = names.index(f"first {LAYERS}"), names.index("all")
    for a, b in zip(found.states[last], found.states[whole]):
        assert torch.equal(a, b)
    np.testing.assert_array_equal(np.isnan(found.head_error).all(1), ~heads)
    for layer in range(LAYERS):
        errors = found.state_error[names.index(f"layer {layer}")]
        assert not errors[:, :layer].any() and errors[:, layer:].all()


def mean_over_tokens(x, exact):
    """Relative error of states, token by token."""
    pairs = zip(x.reshape(-1, WIDTH), exact.reshape(-1, WIDTH))
    return np.mean([float((a - b).norm() / b.norm()) for a, b in pairs])


def test_a_token_of_massive_activations_hides_no_error():
    exact = torch.ones(1, 10, WIDTH)
    exact[0, 0] = 1e4
    x = exact.clone()
    x[0, 1:] = 2
    assert layerwise.token_error(x, exact) == pytest.approx(0.9, rel=1e-12)


def test_the_size_of_attention_is_what_leaves_with_it():
    causal, exact, layers, _ = opened("llama")
    hidden = originals(layers, exact)
    found = layerwise.sizes(layers, hidden, causal)
    for i, states in enumerate(hidden):
        for layer, run_layer in enumerate(layers):
            without = run_layer(states[layer], lambda q, k, v: 0 * v)[0]
            expected = mean_over_tokens(without, states[layer + 1])
            assert found[i, layer] == pytest.approx(expected, rel=1e-9)


def test_nothing_replaced_is_the_original_itself():
    _, exact, layers, _ = opened("bert")
    hidden = originals(layers, exact)
    found = layerwise.run(layers, hidden, chosen("feasible")[1], exact, None)
    assert all(torch.equal(a, b[-1]) for a, b in zip(found.states[0], hidden))
    assert not found.state_error.any() and np.isnan(found.head_error).all()


# The stage, on a small language model.


@pytest.fixture
def tiny(monkeypatch):
    """A llama of three layers in place of every wheel; letters are its tokens."""
    model, weights = small("llama", 0.7)
    run, layers = partial(transformers.llama, model, weights), transformers.layers(model, weights)

    def encode(text):
        return [ord(letter) - 97 for letter in text]

    def read(content):
        ids = encode(content.decode())
        return *run(ids), [chr(97 + i) for i in ids]

    transformer = Transformer(
        read=read,
        layers=layers,
        final=partial(transformers.final, model, weights),
        token_logits=partial(transformers.llama_token_logits, weights),
        encode=encode,
        tokens=[chr(97 + i) for i in range(WORDS)],
        embed=weights["token_embd.weight"].__getitem__,
    )
    monkeypatch.setattr(rebuild, "models", lambda: {"tiny": model})
    monkeypatch.setattr(rebuild.job, "open_sources", lambda raw, sha256: ({"wheel": None}, TEXTS))
    monkeypatch.setattr(rebuild.extraction, "open_model", lambda *given: transformer)
    monkeypatch.setattr(rebuild.extraction, "contents", lambda model, names, texts, _: texts)
    return transformer


def rebuilt(tiny=None, **changes):
    given = {
        "raw": [],
        "model": "tiny",
        "title": "Tiny",
        "wheel": "wheel",
        "sha256": {},
        "inputs": NAMES,
        "calibrated_on": ["one"],
        "recipes": ["plain", "balanced", "generalized", "fitted"],
        "n_features": [8, 16],
        "n_seeds": 2,
        "parts": ["all", "layer 1"],
        "max_learned": 8,
        "max_steps": 20,
        "dtype": "float64",
        "seed": 5,
        "data_of": "x",
        "workers": 1,
        "checkpoint": {},
    }
    return rebuild.rebuild(**given | changes)


def test_a_network_token_by_token_is_the_stage(tiny):
    """Every head by the equations of the network, a token at a time; bits by their definition."""
    found = rebuilt(recipes=["fitted"], n_features=[8])
    check(describe(found, "rebuilt"), "rebuilt", "here")
    q, k, *_ = tiny.read(TEXTS["one"])
    fits = [rebuilding.fit_layer([(q[i], k[i])], "fitted", True) for i in range(LAYERS)]
    for name, draw in itertools.product(["two", "four"], range(2)):
        ids = tiny.encode(TEXTS[name].decode())
        x = tiny.embed(ids)
        for layer, run_layer in enumerate(tiny.layers):

            def attention(q, k, v, layer=layer, draw=draw):
                outputs = []
                for head in range(HEADS):
                    symmetry = type(fits[layer].symmetry)(*(y[head] for y in fits[layer].symmetry))
                    a = fits[layer].a[head]
                    streams = (
                        stream(5, "x", kind, draw, layer, head) for kind in ("omega", "phase")
                    )
                    hidden = network.Hidden(
                        *next(draw_neurons("fitted_normal", *streams, 8, D_HEAD, a))
                    )
                    seen_q, seen_k, gain, _ = transform(q[head], k[head], symmetry)
                    tokens = network.Tokens(seen_q, seen_k, v[head], gain)
                    outputs.append(
                        network.sequential(torch.zeros_like(v[head]), tokens, hidden, True)[1]
                    )
                return torch.stack(outputs)

            x = run_layer(x, attention)[0]
        p = torch.softmax(tiny.token_logits(tiny.final(x)), -1)
        bits = -sum(math.log2(p[t, ids[t + 1]]) for t in range(len(ids) - 1)) / len(TEXTS[name])
        own = found["score"].sel(measure="bits_per_character", part="all", input=name, seed=draw)
        assert float(own.squeeze()) == pytest.approx(bits, rel=1e-8)


def test_references_and_means_of_the_stage(tiny):
    found = rebuilt(parts=["all", "layer 1", "feasible"], n_features=[8, 4096])
    for name in ["two", "three", "four"]:
        logits = tiny.token_logits(tiny.read(TEXTS[name])[3][-1])[:-1]
        following = torch.tensor(tiny.encode(TEXTS[name].decode())[1:])
        nats = torch.nn.functional.cross_entropy(logits, following, reduction="sum")
        own = found.sel(measure="bits_per_character", input=name)
        wanted = float(nats) / math.log(2) / len(TEXTS[name])
        softmax = own["reference_score"].sel(reference="softmax")
        assert softmax.values == pytest.approx(wanted, rel=1e-9)
        assert (
            own["reference_score"].sel(reference="equal", part=["all", "layer 1"]) != wanted
        ).all()
    reference = found["reference_score"]
    assert np.isnan(reference.sel(reference="equal", part="feasible")).all()
    assert np.isnan(reference.sel(reference="none", part="layer 1")).all()
    assert (found["exact_deviation"] < 1e-12).all()
    change = found["score"] - reference.sel(reference="softmax")
    mean = change.mean(("seed", "input")).transpose(*found["mean_change"].dims)
    np.testing.assert_allclose(found["mean_change"], mean, rtol=1e-9, atol=1e-12)
    assert (found["mean_score_low"] <= found["mean_score"]).all()
    needed = found["log10_features_needed_calibrating"]  # feasible heads, by a loop
    for recipe, m in itertools.product(found["recipe"].values, found["n_features"].values):
        own = found["replaced"].sel(recipe=recipe, n_features=m, part="feasible")
        for layer, head in itertools.product(range(LAYERS), range(HEADS)):
            one = float(needed.sel(recipe=recipe, layer=layer, head=head))
            assert bool(own[layer, head]) == (10**one <= m)
    feasible = found["replaced"].sel(part="feasible")
    assert feasible.any() and not feasible.all()


def test_workers_interruptions_and_other_settings_change_nothing(tiny):
    checkpoint = {}
    wanted = rebuilt(checkpoint=checkpoint)
    kept = dict(list(checkpoint.items())[:7])
    again = rebuilt(workers=3, checkpoint=kept)
    assert wanted.identical(again) and len(kept) == len(checkpoint) == 18
    fewer = rebuilt(recipes=["fitted"], n_features=[16], parts=["layer 1"], inputs=NAMES[:3])
    part = wanted.sel(recipe=["fitted"], n_features=[16], part=["layer 1"], input=NAMES[1:3])
    np.testing.assert_array_equal(fewer["score"], part["score"])


def test_trained_layers(tiny, monkeypatch):
    """They learn the attention of their heads, up to their limit; a failure is told."""
    given = {"recipes": ["plain", "learned"], "validated_on": ["two"], "parts": ["all"]}
    found = rebuilt(**given)
    check(describe(found, "rebuilt"), "rebuilt", "here")
    learned = found.sel(recipe="learned")
    assert list(found["input"].values) == ["three", "four"]
    assert np.isfinite(learned["score"].sel(n_features=8)).all()
    assert np.isnan(learned["score"].sel(n_features=16)).all()
    assert np.isfinite(found["score"].sel(recipe="plain")).all()
    assert np.isnan(learned["log10_features_needed"]).all()
    short = rebuilt(**given | {"max_steps": 1}).sel(recipe="learned")
    errors = [float(x["head_error"].sel(n_features=8).mean()) for x in (learned, short)]
    assert errors[0] < errors[1]
    monkeypatch.setattr(transfer, "LEARNING_RATE", 1e300)
    failed = rebuilt(**given).sel(recipe="learned", n_features=8)
    assert np.isnan(failed["score"]).all()
    assert failed["note"].values[0].startswith("layer 0, head 0: training diverged")


def test_a_missing_tensor_is_one_line(tiny, monkeypatch):
    def missing(*given):
        raise ValueError("models/tiny.yaml: weights: x has no blk.0")

    monkeypatch.setattr(rebuild.extraction, "open_model", missing)
    with pytest.raises(UserError, match="^model tiny: models/tiny.yaml: weights: x has no blk.0$"):
        rebuilt()


def test_examples_are_the_attention_of_every_head(tiny):
    q, k, v, *_ = tiny.read(TEXTS["one"])
    for layer, causal in itertools.product(range(LAYERS), (True, False)):
        seen = transfer.example(q[layer], k[layer], v[layer], causal)
        exact = transformers.causal_attention if causal else transformers.softmax_attention
        torch.testing.assert_close(seen.output, exact(layer, q[layer], k[layer], v[layer]))
        torch.testing.assert_close(seen.weights @ seen.v, seen.output)


# Means and intervals.


def test_a_measure_of_one_input_has_an_interval_over_seeds():
    rng = np.random.default_rng(0)
    score = rng.standard_normal((1, 1, 3, 2, 1, 4))  # [recipe, n_features, seed, measure, ...]
    score[:, :, :, 1, :, 1:] = np.nan  # the second measure is of the first input alone
    reference = np.zeros((2, 4, 1, 4))
    reference[1, :, :, 1:] = np.nan
    reference[:, 2] = np.nan
    errors = rng.random((1, 1, 3, 1, 4, 2))
    found = summaries.summaries(
        score, errors, errors[..., None], reference, lambda name: stream(0, name)
    )
    mean, low, high = (x[1].item() for x in found["mean_score"])
    values = score[0, 0, :, 1, 0, 0]
    half = student.ppf(0.975, 2) * values.std(ddof=1) / math.sqrt(3)
    assert (mean, low, high) == pytest.approx(
        (values.mean(), values.mean() - half, values.mean() + half)
    )
    mean, low, high = (x[0].item() for x in found["mean_score"])
    assert mean == pytest.approx(score[0, 0, :, 0, 0].mean()) and low < mean < high
    assert found["head_error"].item(0) == pytest.approx(errors[0, 0, :, 0, :, 0].mean())


# Settings.

SHAPE = {"inputs": 8, "layers": 3, "heads": 2, "tokens": 512, "d_head": 4, "d_value": 4}


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        ({"parts": ["layer 3"]}, "parts", "layer 3 does not exist; the model has layers 0 to 2"),
        ({"parts": ["first 4"]}, "parts", "first 4 does not exist; the model has 3 layers"),
        ({"max_steps": 9}, "max_steps", "goes with the recipe learned only; remove it"),
        (
            {"recipes": ["learned"]},
            "validated_on",
            "is missing, learned needs inputs on which its best step is chosen; choose one of a, b",
        ),
        (
            {"recipes": ["learned"], "validated_on": ["b"], "n_features": [9, 64, 99]},
            "n_features",
            "9 is odd, every trained neuron makes 2 features; use even numbers",
        ),
        (
            {"recipes": ["learned"], "validated_on": ["b"], "n_features": [99]},
            "max_learned",
            "64 is below all n_features, nothing would be trained; raise it to 99, or take out "
            "learned",
        ),
        (
            {"recipes": ["learned"], "validated_on": ["b"], "parts": ["all", "feasible"]},
            "parts",
            "feasible needs a closed form, which learned has not; leave one of the two out",
        ),
    ],
)
def test_wrong_settings(changes, key, text):
    defaults = {"recipes": ["plain"], "parts": ["all"], "max_learned": 64}
    wrote = {"n_features": [64], "calibrated_on": ["a"]} | changes
    ((keys, found),) = faults(("here",), defaults | wrote, wrote, ["a", "b"], SHAPE)
    assert (keys, found) == (("here", key), text)


def test_right_settings():
    wrote = {"n_features": [8, 65], "recipes": ["plain", "learned"], "validated_on": ["b"]}
    settings = wrote | {"parts": ["layer 2", "first 3"], "max_learned": 8}
    assert not [*faults(("here",), settings, wrote, None, SHAPE)]


def example_study(**rebuilt):
    data = {"model": "smollm2", "inputs": ["carroll", "austen", "melville", "darwin"]}
    given = {"n_features": [64], "calibrated_on": ["darwin"]} | rebuilt
    return {"experiments": {"a": {"data": data, "rebuilt": given}}}


def test_roles_of_inputs_and_what_is_told_before(tmp_path):
    settings = example_study(
        recipes=["learned", "plain"], calibrated_on="half", validated_on=["carroll"]
    )
    whole = study.complete(settings, study.load_schema("study")) | {"seed": 3}
    found = plan.settings(whole, "a", "rebuilt", Path("nowhere"))
    assert found["calibrated_on"] == ["austen", "melville"] and found["data_of"] == "a"
    assert (
        found["validated_on"] == ["carroll"]
        and found["inputs"] == whole["experiments"]["a"]["data"]["inputs"]
    )
    arrays = study.memory_needed("a", whole)
    assert 5e8 < sum(one.size for one in arrays) < 8e9
    seconds = study.seconds_needed("a", whole)["rebuild"]
    assert 60 < seconds < 600


def test_more_work_is_told_to_take_longer():
    settings = {"recipes": ["plain"], "parts": ["all"], "n_features": [64], "n_seeds": 2}

    def told(**changes):
        return duration.seconds(SHAPE, settings | changes, "rebuilt", False)["rebuild"]

    more = [
        {"recipes": ["plain", "fitted"]},
        {"parts": ["all", "each_layer"]},
        {"n_features": [64, 640]},
        {"n_seeds": 9},
        {"recipes": ["plain", "learned"], "max_learned": 64, "max_steps": 100},
    ]
    assert all(told(**changes) > told() for changes in more)
    sizes = [
        sum(one.size for one in memory.plan(SHAPE, settings | changes, "rebuilt"))
        for changes in ({}, {"n_features": [10**6]}, {"parts": ["each_layer"]})
    ]
    assert sizes[0] < min(sizes[1:])
