"""Order, masks and values belong to the data: each kind reads what a query may read, no more."""

import json
import math
import re

import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from conftest import ROOT, defaults, in_order, random_heads, run_fit, run_simulate, run_stage
from tripartite import explanation, foreign, job, study, symmetries
from tripartite.contracts import UserError, check
from tripartite.explanation import EXPLANATIONS, SCALARS, Observed, explain_attention
from tripartite.figures import palette
from tripartite.kinds.comparison.compare_maps import compare_maps
from tripartite.kinds.data.attend import attend, rounding
from tripartite.kinds.data.generate import adopt
from tripartite.kinds.explanation import criteria, prediction
from tripartite.kinds.explanation.explain import ages_of_keys, explain
from tripartite.kinds.learned.learn import learn
from tripartite.kinds.symmetries.calibrate import calibrate
from tripartite.kinds.symmetries.recipes import RECIPES, log10_needed
from tripartite.streams import stream
from tripartite.words import lines

DRAWS = {"seed": 5, "data_of": "x", "heads": "all"}
FITTED = {"symmetries": ["center_keys", "center_queries", "balance"], "calibrated_on": ["draw-0"]}
STAGES = {
    "symmetries": lambda data: run_stage(calibrate, data, DRAWS | {"calibrated_on": ["draw-0"]}),
    "explanation": lambda data: run_stage(explain, data, DRAWS | {"n_features": [8], "n_seeds": 2}),
    "learned": lambda data: run_stage(
        learn,
        data,
        DRAWS
        | defaults("learned")
        | {"n_features": [4], "n_seeds": 2, "max_steps": 20, "dtype": "float64"}
        | {"trained_on": ["draw-0"], "validated_on": ["draw-1"]},
        checkpoint={},
        previous=None,
    ),
    "comparison": lambda data: run_stage(
        compare_maps,
        data,
        DRAWS
        | {"n_features": [6, 12], "n_seeds": 3, "dtype": "float64", "symmetries": []}
        | {"variants": {"a": {"feature_map": "fitted_normal"}, "b": {"feature_map": "relu"}}},
    ),
    "network": lambda data: simulated(data)[1],
}
ACROSS_HEADS = ("inverse_temperature_shifted",)  # of a head, from a fit to the others


def simulated(data):
    """attention.nc and fit.nc of networks on the data."""
    exact = attend(data)
    run = run_simulate(data, exact, n_features=[6, 20], n_seeds=2, **FITTED)
    return exact, run_fit(data, exact, run, **FITTED)


def draw(order="bidirectional", n_tokens=7, lengths=(), n_layers=1, sigma_squared=(0.5, 6.0)):
    """Three inputs of some tokens; lengths: of the inputs, if they differ."""
    absent = [(i, slice(n, None)) for i, n in enumerate(lengths)]
    layers = [
        random_heads(list(sigma_squared), 3, absent, n_tokens=n_tokens, d_head=4, seed=layer)
        for layer in range(n_layers)
    ]
    data = layers[0]
    if n_layers > 1:
        parts = {
            name: xr.concat([one[name].isel(layer=0, drop=True) for one in layers], "layer")
            for name in "qkv"
        }
        numbers = np.arange(n_layers * data.sizes["head"]).reshape(n_layers, -1)
        data = data.drop_vars(["q", "k", "v", "distinct_head", "order", "layer"])
        data = data.assign({name: x.transpose(*layers[0][name].dims) for name, x in parts.items()})
        data = data.assign(distinct_head=(("layer", "head"), numbers))
        data = data.assign_coords(layer=np.arange(n_layers))
    return in_order(data, order)


def padded(data, places, n_tokens):
    """The same inputs with their tokens at these places of n_tokens, in their order."""
    own = data["mask"].values
    mask = np.zeros((len(own), n_tokens), dtype=bool)
    for i, where in enumerate(places):
        mask[i, where] = True
    wide = {"mask": (("input", "token"), mask)}
    wide["text"] = (("input", "token"), np.full(mask.shape, "", dtype=object))
    for name in "qkv":
        x = np.full((*data[name].shape[:3], n_tokens, data[name].shape[-1]), np.nan, dtype="f4")
        for i in range(len(own)):
            x[i][:, :, mask[i]] = data[name].values[i][:, :, own[i]]
        wide[name] = (data[name].dims, x)
    return data.drop_vars(["q", "k", "v", "mask", "text"]).assign(wide)


def assert_alike(found, wanted, masks=(), rtol=1e-12, without=()):
    """Equal numbers, NaN included; of variables by token, at the tokens of each mask alone."""
    assert set(found.data_vars) == set(wanted.data_vars)
    for name in set(wanted.data_vars) - set(without):
        x, y = found[name], wanted[name]
        if {"input", "token"} <= set(x.dims) and len(masks):
            x, y = (
                one.transpose(..., "input", "token", *(d for d in one.dims if d == "d_value"))
                for one in (x, y)
            )
            before = sum(dim not in ("input", "token", "d_value") for dim in x.dims)
            x, y = (one.values[(slice(None),) * before + (m,)] for one, m in zip((x, y), masks))
        if np.asarray(y).dtype.kind == "f":
            np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(x, y, err_msg=name)


# Padding.


@settings(max_examples=8)
@given(st.data(), st.sampled_from(["bidirectional", "causal"]))
def test_where_tokens_stand_does_not_matter(drawn, order):
    """Attention and networks of any padding, and of each prompt by itself."""
    lengths = drawn.draw(st.lists(st.integers(1, 4), min_size=3, max_size=3))
    data = draw(order, n_tokens=4, lengths=lengths, sigma_squared=[2.0])
    places = [sorted(drawn.draw(st.permutations(range(6)))[:n]) for n in lengths]
    wide = padded(data, places, 6)
    masks = wide["mask"].values, data["mask"].values
    exact, exact_wide = attend(data), attend(wide)
    assert_alike(exact_wide, exact, masks)
    run, run_wide = (
        run_simulate(one, of_one, n_features=[5], n_seeds=2)
        for one, of_one in ((data, exact), (wide, exact_wide))
    )
    assert_alike(run_wide, run, masks)
    for i, n in enumerate(lengths):
        alone = data.isel(input=[i], token=slice(n))
        of_alone = attend(alone)
        np.testing.assert_allclose(
            of_alone["output"][0], exact["output"][i, :, :, :n], rtol=1e-12, atol=1e-12
        )
        run_alone = run_simulate(alone, of_alone, n_features=[5], n_seeds=2)
        for name in ("log_calcium", "output_error"):
            wanted = run[name].isel(input=[i])
            wanted = wanted.isel(token=slice(n)) if "token" in wanted.dims else wanted
            np.testing.assert_allclose(run_alone[name], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ["bidirectional", "causal"])
@pytest.mark.parametrize("kind", STAGES)
def test_left_and_right_padding_are_alike(kind, order):
    """All that a kind writes; right padding is how inputs of a model stand."""
    lengths = (7, 5, 4)
    data = draw(order, lengths=lengths, sigma_squared=[0.5])
    left = padded(data, [range(9 - n, 9) for n in lengths], 9)
    right = padded(data, [range(n) for n in lengths], 9)
    masks = left["mask"].values, right["mask"].values
    assert_alike(STAGES[kind](left), STAGES[kind](right), masks)


# Causal order.


def test_a_causal_query_is_the_last_of_a_shorter_text():
    """Attention, responses and closed forms of query t, on the first t tokens bidirectionally."""
    data = draw("causal", sigma_squared=[1.0, 30.0])
    exact = attend(data)
    plain = {"n_features": [6, 20], "n_seeds": 2}
    run = run_simulate(data, exact, **plain)
    needed = []
    for t in range(7):
        short = in_order(data.isel(token=slice(t + 1)), "bidirectional")
        of_short = attend(short)
        for name in ("log_normalizer", "output"):
            wanted = of_short[name].isel(token=t)
            np.testing.assert_allclose(exact[name].isel(token=t), wanted, rtol=1e-12, atol=1e-12)
        run_short = run_simulate(short, of_short, **plain)
        wanted = run_short["log_calcium"].isel(token=t)
        np.testing.assert_allclose(run["log_calcium"].isel(token=t), wanted, rtol=1e-11)
        inputs = [
            [
                torch.from_numpy(x.values[i, 0, 1]).double()
                for x in (short["q"], short["k"], of_short["log_normalizer"])
            ]
            for i in range(3)
        ]
        needed.append([x[t] for x in log10_needed(inputs, inputs, RECIPES["plain"])])
    found = run_fit(data, exact, run)["log10_features_needed"].sel(head=1)
    np.testing.assert_allclose(found, np.median(needed), rtol=1e-10)


@pytest.mark.parametrize("kind", STAGES)
def test_layers_of_both_orders_are_two_files(kind):
    data = draw(n_layers=2, sigma_squared=[0.5])
    mixed = data.assign(order=("layer", np.array(["causal", "bidirectional"], dtype=object)))
    whole = STAGES[kind](mixed)
    for layer, order in enumerate(("causal", "bidirectional")):
        alone = STAGES[kind](in_order(data, order))
        names = [name for name in whole.data_vars if "layer" in whole[name].dims]
        one, other = (x[names].sel(layer=layer) for x in (whole, alone))
        assert_alike(one, other, rtol=1e-9, without=ACROSS_HEADS)
        assert str(one["order"].values) == order


def test_symmetries_are_means_over_the_pairs_that_are_read():
    """Each pair of a query and a key up to it, equal for each query, by loops over both."""
    data = draw(lengths=(7, 5, 4))
    inputs = [
        tuple(data[name].values[i, 0, 0, :n].astype(float) for name in "qk")
        for i, n in enumerate((7, 5, 4))
    ]
    tensors = [tuple(map(torch.from_numpy, pair)) for pair in inputs]
    names = ["center_keys", "center_queries", "balance"]
    n_queries = sum(len(q) for q, _ in inputs)
    key_mean, query_mean = np.zeros(4), np.zeros(4)
    for q, k in inputs:
        for t in range(len(q)):
            query_mean += q[t] / n_queries
            for j in range(t + 1):
                key_mean += k[j] / (t + 1) / n_queries
    found, _ = symmetries.fitted(tensors, names, causal=True)
    np.testing.assert_allclose(found.key_shift, key_mean, rtol=1e-12)
    np.testing.assert_allclose(found.query_shift, query_mean, rtol=1e-12)
    of_queries, of_keys, of_sums = np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((3, 4, 4))
    for i, (q, k) in enumerate(inputs):
        for t in range(len(q)):
            of_queries += np.outer(q[t] - query_mean, q[t] - query_mean) / n_queries
            for j in range(t + 1):
                apart = k[j] - key_mean
                of_keys += np.outer(apart, apart) / (t + 1) / n_queries
                both = q[t] + k[j]
                of_sums[i] += np.outer(both, both) / (t + 1) / len(q)
    c_q, c_k = (x + 1e-3 * x.trace() / 4 * np.eye(4) for x in (of_queries, of_keys))
    square = found.balance.numpy() @ found.balance.numpy()
    np.testing.assert_allclose(square @ c_q @ square, c_k, rtol=1e-9)  # what a balance solves
    _, a = symmetries.fitted(tensors, [], "fitted_normal", causal=True)
    moments = np.linalg.eigvalsh(of_sums.mean(0))
    np.testing.assert_allclose(a, [symmetries.optimal_a(float(x), 1) for x in moments], rtol=1e-9)


@pytest.mark.parametrize("recipe", RECIPES)
def test_neurons_needed_are_sums_over_the_keys_read(recipe):
    """R of each query by the formula of log_second_moment, written out over pairs of keys."""
    data = draw("causal")
    exact = attend(data)
    inputs = [
        [torch.from_numpy(x.values[i, 0, 1]).double() for x in (data["q"], data["k"])]
        + [torch.from_numpy(exact["log_normalizer"].values[i, 0, 1])]
        for i in range(3)
    ]
    symmetry, a = symmetries.fitted([x[:2] for x in inputs[:1]], *RECIPES[recipe], True)
    a = a.numpy()
    c = (1 - 4 * a) / (1 - 8 * a)
    needed = []
    q, k, log_gain, _ = (x.numpy() for x in symmetries.transform(*inputs[2][:2], symmetry))
    for t in range(7):
        total = z = 0.0
        for j in range(t + 1):
            z += math.exp(log_gain[j] + q[t] @ k[j])
            for other in range(t + 1):
                squares = k[j] ** 2 + k[other] ** 2
                power = (2 * c - 1) * squares / 2 + 2 * c * q[t] * (k[j] + k[other])
                power -= c * (k[j] - k[other]) ** 2 / 2
                total += math.exp(log_gain[j] + log_gain[other] + power.sum())
        growth = np.sqrt((1 - 4 * a) ** 2 / (1 - 8 * a)).prod()
        r = growth * math.exp(((2 * c - 1) * q[t] ** 2).sum()) * total / z**2
        needed.append(2 + math.log10(r - 1))
    found = STAGES["symmetries"](data)["log10_features_needed"]
    got = found.sel(recipe=recipe, head=1).isel(input=2, layer=0)
    np.testing.assert_allclose(got, np.median(needed), rtol=1e-7)


# The reverse fit.

N = 16
RNG = np.random.default_rng(0)
LOGITS = 1.5 * RNG.standard_normal((N, N))
AGE = ages_of_keys(N, causal=True)
BIAS = 0.5 * RNG.standard_normal(N)
BIAS -= BIAS.mean()
PLANTED = {"inverse_temperature": 0.7, "decay": 0.05, "uniform_share": 0.2, "key_bias": BIAS}


def planted(values):
    """P of a causal query over its own keys, written out."""
    rows = np.zeros((N, N))
    for t in range(N):
        ages = np.arange(t, -1, -1)
        drive = values["inverse_temperature"] * LOGITS[t, : t + 1]
        weights = np.exp(drive + values["key_bias"][: t + 1] - values["decay"] * ages)
        share = values["uniform_share"]
        rows[t, : t + 1] = (1 - share) * weights / weights.sum() + share / (t + 1)
    return rows


def values_of(name):
    free = EXPLANATIONS[name]
    fixed = {"inverse_temperature": float(name != "uniform"), "decay": 0.0, "uniform_share": 0.0}
    return fixed | {"key_bias": 0 * BIAS} | {key: PLANTED[key] for key in free}


def test_the_age_of_a_key():
    np.testing.assert_array_equal(ages_of_keys(3, False), [[2, 1, 0]] * 3)
    np.testing.assert_array_equal(ages_of_keys(3, True), [[0, -1, -2], [1, 0, -1], [2, 1, 0]])


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_causal_attention_gives_its_parameters(name):
    """And no query gives weight to a key that it does not read."""
    values = values_of(name)
    target = planted(values)
    found = explain_attention(target, LOGITS, AGE, name)
    assert found.note == ""
    for key, wanted in values.items():
        np.testing.assert_allclose(found.estimates[key], wanted, atol=2e-4)
    np.testing.assert_allclose(np.exp(found.log_attention), target, atol=2e-5)
    assert (np.exp(found.log_attention)[AGE < 0] == 0).all()
    score, information = explanation.score(
        explanation.point(values, Observed(target, LOGITS, AGE)),
        Observed(target, LOGITS, AGE),
        EXPLANATIONS[name],
    )
    np.testing.assert_allclose(score, 0, atol=1e-9)
    assert np.isfinite(information).all()


@pytest.mark.parametrize("name", [name for name, free in EXPLANATIONS.items() if free])
def test_causal_scores_are_the_derivatives(name):
    target = planted({**PLANTED, "decay": 0.0})
    free, observed, values = EXPLANATIONS[name], Observed(target, LOGITS, AGE), values_of(name)
    scalars = [key for key in SCALARS if key in free]

    def log_likelihood(step):
        new = values | {key: values[key] + x for key, x in zip(scalars, step)}
        if "key_bias" in free:
            new["key_bias"] = values["key_bias"] + step[len(scalars) :]
        p = planted(new)
        return (target[AGE >= 0] * np.log(p[AGE >= 0])).sum()

    n = len(scalars) + N * ("key_bias" in free)
    gradient, _ = explanation.score(explanation.point(values, observed), observed, free)
    steps = 1e-5 * np.eye(n)
    numeric = [(log_likelihood(h) - log_likelihood(-h)) / 2e-5 for h in steps]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-6)


def test_a_key_that_no_query_has_read_has_the_mean_bias():
    """Of every second query: the last key is read by one half alone, whose fit alone knows it."""
    values = values_of("key bias")
    target = planted(values)
    half = slice(0, None, 2)
    fit = explain_attention(target[half], LOGITS[half], AGE[half], "key bias", values)
    assert fit.note == "" and fit.estimates["key_bias"][-1] == 0
    np.testing.assert_allclose(
        fit.estimates["key_bias"][:-1], BIAS[:-1] - BIAS[:-1].mean(), atol=1e-6
    )
    total = 0.0
    for first in (0, 1):
        rest = slice(1 - first, None, 2)
        bias = BIAS.copy()
        if first == 0:
            bias = np.append(BIAS[:-1] - BIAS[:-1].mean(), 0)
        p = planted(values | {"key_bias": bias})[rest]
        total += (target[rest] * np.log(np.where(target[rest] > 0, p, 1))).sum()
    got = criteria.unfitted_likelihood(target, LOGITS, AGE, "key bias", values)
    assert got == pytest.approx(total, rel=1e-6)


def test_causal_networks_are_explained_by_their_own_keys():
    """The weights of networks by loops; slopes over the pairs that are read."""
    data = draw("causal", sigma_squared=[6.0])
    found = STAGES["explanation"](data)
    betas, slopes = [], []
    for i in range(3):
        q, k, v = (data[name].values[i, 0, 0].astype(float) for name in "qkv")
        logits = q @ k.T
        for seed in range(2):
            omega = stream(5, "x", "omega", seed, 0, 0).standard_normal((8, 4))
            phi_q, phi_k = (np.exp(x @ omega.T - np.square(x).sum(1)[:, None] / 2) for x in (q, k))
            weights, top, bottom = np.zeros((7, 7)), 0.0, 0.0
            for t in range(7):
                kernel = phi_k[: t + 1] @ phi_q[t]
                weights[t, : t + 1] = kernel / kernel.sum()
                apart = logits[t, : t + 1] - logits[t, : t + 1].mean()
                top += apart @ np.log(kernel)
                bottom += apart @ apart
            slopes.append(top / bottom)
            one = criteria.explain_network(weights, logits, ages_of_keys(7, True), v)
            betas.append(one.values["inverse_temperature"])
    at = found.isel(n_features=0, layer=0, head=0)
    np.testing.assert_allclose(at["slope_of_logs"], np.mean(slopes), rtol=1e-8)
    np.testing.assert_allclose(at["inverse_temperature"], np.mean(betas, 0), rtol=1e-6)


def test_the_slope_of_causal_networks_has_its_exact_mean():
    rng, read = np.random.default_rng(1), AGE[:8, :8] >= 0
    q, k = (0.8 * rng.standard_normal((8, 3)) for _ in "qk")
    slopes = []
    for _ in range(300):
        omega = rng.standard_normal((10, 3))
        phi_q, phi_k = (np.exp(x @ omega.T - np.square(x).sum(1)[:, None] / 2) for x in (q, k))
        slopes.append(prediction.slope(np.log(phi_q @ phi_k.T), q @ k.T, read))
    (wanted,) = prediction.expected_slope(q, k, np.log([10.0]), read)
    error = np.std(slopes) / np.sqrt(300)
    assert error < 0.02 and abs(np.mean(slopes) - wanted) < 4 * error


# Features that are trained, and hidden layers that are compared.


def test_learned_attention_is_over_the_keys_read():
    """Equal attention and random neurons of a causal layer beside a bidirectional one, by loops."""
    data = draw(n_layers=2)
    data = data.assign(order=("layer", np.array(["bidirectional", "causal"], dtype=object)))
    found, exact = STAGES["learned"](data), attend(data)
    for layer in range(2):
        q, k, v = (data[name].values[2, layer, 1].astype(float) for name in "qkv")
        omega = stream(5, "x", "omega", 1, layer, 1).standard_normal((8, 4))[:4]
        phi_q, phi_k = (np.exp(x @ omega.T - np.square(x).sum(1)[:, None] / 2) for x in (q, k))
        for origin, kernel in (("random", phi_q @ phi_k.T), ("uniform", np.ones((7, 7)))):
            kl, outputs = [], []
            for t in range(7):
                n = t + 1 if layer else 7
                a = np.exp(k[:n] @ q[t]) / np.exp(k[:n] @ q[t]).sum()
                b = kernel[t, :n] / kernel[t, :n].sum()
                kl.append((a * np.log(a / b)).sum())
                outputs.append(b @ v[:n])
            wanted = exact["output"].values[2, layer, 1]
            at = found.sel({"origin": origin, "layer": layer, "head": 1, "seed": 1})
            at = at.isel(input=2, n_features=0)
            np.testing.assert_allclose(at["kl"], np.mean(kl), rtol=1e-8)
            error = np.linalg.norm(outputs - wanted) / np.linalg.norm(wanted)
            np.testing.assert_allclose(at["output_error"], error, rtol=1e-7)


def test_compared_layers_are_over_the_keys_read():
    """Networks are those of simulate; equal attention and the limit at infinity by loops."""
    data = draw("causal")
    exact, found = attend(data), STAGES["comparison"](data)
    check(found, "comparison", "here")
    for name, feature_map in (("a", "fitted_normal"), ("b", "relu")):
        run = run_simulate(data, exact, n_features=[6, 12], n_seeds=3, feature_map=feature_map)
        wanted = np.square(run["output_error"]).mean(("seed", "input"))
        np.testing.assert_allclose(found["mean_square"].sel(variant=name), wanted, rtol=1e-6)
    squares, floors = [], []
    for i in range(3):
        q, k, v = (data[name].values[i, 0, 1].astype(float) for name in "qkv")
        output, equal, limit = exact["output"].values[i, 0, 1], [], []
        for t in range(7):
            equal.append(v[: t + 1].mean(0))
            norms = np.linalg.norm(q[t]) * np.linalg.norm(k[: t + 1], axis=1)
            angle = np.arccos(k[: t + 1] @ q[t] / norms)
            kernel = norms * (np.sin(angle) + (np.pi - angle) * np.cos(angle))
            limit.append(kernel @ v[: t + 1] / kernel.sum())
        for errors, got in ((squares, equal), (floors, limit)):
            errors.append(np.square(got - output).sum() / np.square(output).sum())
    at = found.sel(layer=0, head=1)
    np.testing.assert_allclose(at["uniform_error"], np.sqrt(np.mean(squares)), rtol=1e-7)
    floor = at["output_floor"].sel(variant="b")
    np.testing.assert_allclose(floor, np.sqrt(np.mean(floors)), rtol=1e-6)
    assert (found["output_floor"].sel(variant="a") < 1e-6).all()


def test_figures_name_the_order():
    data = draw(sigma_squared=[0.5])
    words = {
        order: palette.network_words(STAGES["symmetries"](in_order(data, order)))
        for order in ("bidirectional", "causal")
    }
    assert words == {"bidirectional": "", "causal": "causal"}
    mixed = xr.Dataset({"order": ("layer", ["causal", "bidirectional"])})
    assert palette.network_words(mixed) == "bidirectional and causal"
    assert palette.network_words(mixed.isel(layer=0)) == "causal"


# Values of another width.


@pytest.mark.parametrize("order", ["bidirectional", "causal"])
@pytest.mark.parametrize("kind", [kind for kind in STAGES if kind != "symmetries"])
def test_values_padded_with_zeros_give_the_same(kind, order):
    data = draw(order, sigma_squared=[0.5])
    narrow = data.isel(d_value=slice(3))
    rest = ((0, 0),) * 4
    wide = narrow.drop_vars("v")
    wide["v"] = (data["v"].dims, np.pad(narrow["v"].values, (*rest, (0, 6))))
    found, wanted = STAGES[kind](narrow), STAGES[kind](wide)
    if kind == "network":
        assert_alike(found, wanted)
        assert attend(narrow)["output"].shape[-1] == 3
    else:
        assert_alike(found, wanted, rtol=1e-11)


# The model's own output.


def with_model(causal, size=1.0, dtype=torch.float32, scale=None, seed=0):
    """A file of two layers as it is recorded from a model, and the model's own q, k, v."""
    rng = np.random.default_rng(seed)
    q, k, v = (
        torch.from_numpy(rng.standard_normal((2, 2, 2, 9, 8)))
        .mul(size if x != "v" else 1)
        .to(dtype)
        for x in "qkv"
    )
    scale = 8**-0.5 if scale is None else scale
    own = scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale).float().numpy()
    dims = ("input", "layer", "head", "token", "d_head")
    root = 8**-0.25
    file = xr.Dataset(
        {
            "q": (dims, (q.float() * root).numpy()),
            "k": (dims, (k.float() * root).numpy()),
            "v": (foreign.VALUE_DIMS, v.float().numpy()),
            "model_output": (foreign.VALUE_DIMS, own),
        },
        coords={"layer": ["blocks.0", "blocks.1"]},
        attrs={"dtype": str(dtype).removeprefix("torch.")},
    )
    return adopt(file, "mine.nc", "causal" if causal else "bidirectional")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_output_of_the_model_itself_passes(causal, dtype):
    data = with_model(causal, dtype=dtype)
    check(data, "qkv", "here")
    assert np.isfinite(attend(data)["output"]).all()


def rotated(x):
    """Half of the coordinates turned by the place of the token, as rotary embeddings do."""
    angle = np.arange(9)[:, None] * np.geomspace(1, 0.1, 4)
    a, b = x[..., :4], x[..., 4:]
    turned = (a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle))
    return np.concatenate(turned, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", ["order", "scale", "mask", "rotation"])
def test_another_output_is_refused_by_its_layer(wrong, dtype):
    """One line names the layer; only the second is wrong."""
    data = with_model(causal=True, dtype=dtype, scale=None)
    if wrong == "order":
        data["order"][1] = "bidirectional"
    elif wrong == "scale":
        data["q"][:, 1] *= 2
    elif wrong == "rotation":
        with_both = {name: rotated(data[name].values[:, 1]) for name in "qk"}
        for name, x in with_both.items():
            data[name][:, 1] = x
    else:  # the model read left padding, the mask says right padding
        data["mask"][0] = np.arange(9) < 7
        own = data["model_output"].values
        own[0, 1] = np.roll(own[0, 1], 2, axis=1)
    with pytest.raises(UserError) as refusal:
        attend(data)
    line = str(refusal.value)
    assert "\n" not in line and "in 1 of 2 layers; the worst is layer 1 (blocks.1)" in line
    assert f"{data['order'].values[1]}, which differs by" in line


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([0.1, 1.0, 5.0, 30.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    causal=st.booleans(),
)
def test_rounding_of_a_model_is_no_alarm(seed, size, dtype, causal):
    """Small and large logits; ten times the allowed difference is an alarm."""
    data = with_model(causal, size, dtype, seed=seed)
    exact = attend(data)["output"].values
    q, k = (torch.from_numpy(data[name].values[0, 1, 0]).double() for name in "qk")
    allowed = rounding(q, k, data.attrs["model_dtype"])
    off = np.random.default_rng(seed).standard_normal(exact[0, 1, 0].shape)
    off *= 10 * allowed * np.linalg.norm(exact[0, 1, 0]) / np.linalg.norm(off)
    data["model_output"][0, 1, 0] = exact[0, 1, 0] + off
    with pytest.raises(UserError, match="worst is layer 1 "):
        attend(data)


# Faults in words.

SIZES = dict(zip((*foreign.DIMS, "d_value"), (2, 2, 1, 4, 2, 3)))


def write(path, order=None, text=None, extra=(), **attrs):
    """A user's file, with an order of the layers and texts of the tokens, if given."""
    with netCDF4.Dataset(path, "w") as file:
        for dim, n in SIZES.items():
            file.createDimension(dim, n)
        for name in "qkv":
            dims = foreign.VALUE_DIMS if name == "v" else foreign.DIMS
            shape = [SIZES[dim] for dim in dims]
            file.createVariable(name, "f4", dims)[:] = np.ones(shape)
        if order is not None:
            kind = str if isinstance(order[0], str) else "i4"
            variable = file.createVariable("order", kind, ("layer",))
            variable[:] = np.array(order, dtype=object if kind is str else kind)
        if text is not None:
            kind = str if isinstance(text[0][0], str) else "i4"
            variable = file.createVariable("text", kind, ("input", "token"))
            variable[:] = np.array(text, dtype=object if kind is str else kind)
        for name in extra:
            file.createVariable(name, "i1", ("input", "token"))[:] = 1
        labels = file.createVariable("layer", str, ("layer",))
        labels[:] = np.array(["blocks.0", "blocks.1"], dtype=object)
        file.setncatts(attrs)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"order": ["causal", "sideways"]}, r"order: got 'sideways' of layer 1; wanted bidir"),
        ({"order": [0, 1]}, r"order: wanted bidirectional or causal for each layer"),
        ({"text": [[1] * 4] * 2}, r"text: wanted one string for each token"),
        ({"dtype": "int8"}, r"attribute dtype: got 'int8', wanted one of float32"),
        ({"extra": ["attention_mask"]}, r"attention_mask: is not read; call it mask"),
        ({"extra": ["key_padding_mask"]}, r"key_padding_mask: is not read; turn it round"),
        ({"extra": ["is_causal"]}, r"is_causal: is not read; write order \(layer\)"),
    ],
)
def test_a_file_with_a_fault_is_refused_before_any_job(made, words, tmp_path):
    write(tmp_path / "mine.nc", **made)
    (line,) = faults_of({"file": "mine.nc"}, NETWORK, tmp_path)
    assert line.startswith("any.yaml: ") and "mine.nc" in line
    assert re.search(words, line), line


def faults_of(data, sections, folder, others=()):
    """Lines about a study of one experiment."""
    written = {"experiments": {**dict(others), "mine": {"data": data, **sections}}}
    found = study.study_faults(written, folder, {"memory_gb": 8})
    return lines("any.yaml", found)


NETWORK = {"network": {"n_features": [4]}}
CAUSAL = {"synthetic": {"sigma_squared": [1.0]}, "order": "causal"}
ALBERT = {"model": "albert", "inputs": ["wittig"]}


@pytest.mark.parametrize(
    ("data", "sections", "words"),
    [
        (CAUSAL | {"order": "causl"}, NETWORK, ["'causl' is unknown", "did you mean causal?"]),
        (ALBERT | {"order": "causal"}, NETWORK, ["the model has an order of its own; remove it"]),
        (
            {"same_as": "other", "order": "causal"},
            NETWORK,
            ["order: goes with synthetic or file; same_as has an order of its own; remove it"],
        ),
        (
            CAUSAL,
            {"settling": {"n_features": [4], "ratios": [0.3, 1, 3]}},
            ["layer 0 of the data is causal, which settling does not serve"],
        ),
        (
            CAUSAL,
            {"dynamics": {"n_features": 4, "head": [0, 0], "input": "draw-0"}},
            ["got bidirectional, but layer 0 of the data is causal; say order: causal"],
        ),
        (
            CAUSAL,
            {"network": {"n_features": [4], "dtype": "bfloat16"}},
            ["bfloat16 does not serve causal order (layer 0 of the data); use float32 or float64"],
        ),
    ],
)
def test_what_does_not_go_with_an_order_is_said(data, sections, words):
    other = {"other": {"data": ALBERT, **NETWORK}} if "same_as" in data else {}
    (line,) = faults_of(data, sections, ROOT, other)
    assert all(word in line for word in words), line


@pytest.mark.parametrize("kind", ["symmetries", "readout"])
def test_kinds_that_serve_causal_data_are_not_refused(kind):
    assert faults_of(CAUSAL, {kind: {"calibrated_on": ["draw-0"]}}, ROOT) == []
    dynamics = {"n_features": 4, "head": [0, 0], "input": "draw-0", "order": "causal"}
    assert faults_of(CAUSAL, {"dynamics": dynamics}, ROOT) == []


def test_an_order_is_said_once(tmp_path, monkeypatch):
    """By the file or by the study; a layer that is not chosen does not count."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.nc", ["causal", "bidirectional"])
    both = {"file": "mine.nc", "order": "causal"}
    (line,) = faults_of(both, NETWORK, tmp_path)
    assert "order: the file itself says the order of its layers; remove it" in line
    settling = {"n_features": [4], "ratios": [0.3, 1, 3]}
    (line,) = faults_of({"file": "mine.nc"}, {"settling": settling}, tmp_path)
    assert "layer 0 of the data is causal, which settling does not serve" in line
    assert not faults_of(
        {"file": "mine.nc"}, {"settling": settling | {"heads": [[1, 0]]}}, tmp_path
    )
    write(tmp_path / "mine.nc")
    assert faults_of(both, NETWORK, tmp_path) == []


def test_texts_and_labels_of_a_file_are_kept(tmp_path):
    """A line break becomes \\n, as no figure can hold it."""
    texts = [["The", "cat", "\n", "\x01x"], ["a", "é", "", " "]]
    write(tmp_path / "mine.nc", ["causal", "bidirectional"], texts, dtype="bfloat16")
    data = adopt(job.read_foreign(tmp_path / "mine.nc"), "mine.nc")
    check(data, "qkv", "here")
    assert data["text"].values.tolist() == [["The", "cat", "\\n", "\\x01x"], texts[1]]
    assert list(data["order"].values) == ["causal", "bidirectional"]
    assert json.loads(data.attrs["labels"]) == {"layer": ["blocks.0", "blocks.1"]}
    assert palette.head_name(data, 1, 0) == "layer blocks.1, head 0"
