"""Symmetries and distributions of weights as fits: paired, tested on other inputs, with reasons."""

import numpy as np
import pytest
import torch

from conftest import run_fit, run_simulate, run_stage
from test_symmetries import draw
from tripartite.contracts import check
from tripartite.kinds.data.attend import attend
from tripartite.kinds.data.generate import _dataset
from tripartite.kinds.symmetries.calibrate import calibrate
from tripartite.kinds.symmetries.recipes import RECIPES

SETTINGS = {"calibrated_on": ["a"]}
SHOWN = ["plain", "centred", "centred, balanced", "centred, balanced, width of each direction"]


@pytest.fixture(scope="module")
def qkv():
    """Three inputs of two heads with means and axes of their own, to be centred and balanced."""
    arrays = {name: np.zeros((3, 1, 2, 30, 6)) for name in "qkv"}
    for head in range(2):
        q, k, v = draw(head, n_tokens=90, scale=0.8)
        for name, x in zip("qkv", (q, k, v)):
            arrays[name][:, 0, head] = x.reshape(3, 30, 6)
    return _dataset(arrays, "drawn", ["a", "b", "c"])


@pytest.fixture(scope="module")
def found(qkv):
    return run_stage(calibrate, qkv, SETTINGS)


def test_contract_and_roles(found):
    check(found, "symmetries", "here")
    assert found["role"].values.tolist() == ["calibrated", "tested", "tested"]
    assert found["log10_features_needed_own"].isnull().isel(input=0).all()
    assert (found["note"] == "").all()


def test_networks_need_what_the_fit_says(qkv, found):
    """Each recipe is a setting of the network, whose closed form gives the same number."""
    exact = attend(qkv)
    for recipe, (names, feature_map) in RECIPES.items():
        settings = SETTINGS | {"feature_map": feature_map, "symmetries": names, "inputs": ["b"]}
        run = run_simulate(qkv, exact, n_features=[4], n_seeds=2, **settings)
        wanted = run_fit(qkv, exact, run, **settings)["log10_features_needed"]
        got = found["log10_features_needed"].sel(recipe=recipe, input="b")
        np.testing.assert_allclose(got, wanted, rtol=1e-10)


def test_reductions_are_paired(found):
    """Plain against itself is 0 without width; the more is fitted, the less these heads need."""
    plain = found.sel(recipe="plain")
    for name in ("reduction", "reduction_low", "reduction_high", "reduction_all", "lost"):
        assert (plain[name] == 0).all()
    reduction = found["reduction"].sel(recipe=SHOWN[1:])
    assert (reduction.diff("recipe") > 0).all() and (reduction > 0).all()
    step = found["reduction_step"].sel(recipe=["centred", "balanced"])
    np.testing.assert_array_equal(step, found["reduction_all"].sel(recipe=step["recipe"]))
    counts = found["heads_better"] + found["heads_worse"]
    assert (counts <= 2).all() and not counts.sel(recipe="plain")
    assert (found["reduction_low"] <= found["reduction"]).all()
    assert (found["reduction"] <= found["reduction_high"]).all()
    needed = found["log10_features_needed"].isel(input=[1, 2])
    changes = (needed.sel(recipe="plain") - needed).median(("input", "layer", "head"))
    np.testing.assert_allclose(found["reduction_all"], changes, atol=1e-12)
    of_queries = (needed.sel(recipe="plain") - needed).mean("input")
    of_queries = of_queries.transpose(*found["reduction"].dims)
    np.testing.assert_allclose(found["reduction"], of_queries, atol=1e-12)
    lost = needed - found["log10_features_needed_own"].isel(input=[1, 2])
    np.testing.assert_allclose(found["lost"], lost.median(("input", "layer", "head")), atol=1e-12)


def test_a_head_of_nothing_and_too_few_tokens(qkv):
    """Zeros cannot be balanced: NaN and the reason. Fewer tokens than directions can."""
    broken = qkv.copy(deep=True)
    broken["q"][:, :, 0] = 0
    found = run_stage(calibrate, broken, SETTINGS)
    assert "are zero" in str(found["note"].values[0, 0]) and found["note"].values[0, 1] == ""
    balanced = [recipe for recipe in RECIPES if "balanced" in recipe]
    without = [recipe for recipe in RECIPES if "balanced" not in recipe]
    assert found["log10_features_needed"].sel(head=0, recipe=balanced).isnull().all()
    assert found["log10_features_needed"].sel(head=0, recipe=without).notnull().all()
    assert found["log10_features_needed"].sel(head=1).notnull().all()
    assert found["reduction_all"].notnull().all()
    few = qkv.isel(token=slice(4))
    assert run_stage(calibrate, few, SETTINGS)["log10_features_needed"].notnull().all()


def test_one_tested_input_and_one_head_have_no_interval_over_them(qkv):
    one = qkv.isel(input=[0, 1], head=[0])
    found = run_stage(calibrate, one, SETTINGS)
    check(found, "symmetries", "here")
    assert found["reduction_all_low"].isnull().all() and found["reduction_low"].isnull().all()
    assert found["reduction"].notnull().all()


def test_the_fitted_distribution_is_a_density_of_weights():
    """Weights with a normal distribution for each direction give no bias: G6 by axis."""
    from tripartite.features import draw_neurons

    a = torch.tensor([-0.5, -0.1, 0.0, 0.05])
    rng = np.random.default_rng(1)
    (neurons,) = draw_neurons("fitted_normal", rng, np.random.default_rng(2), 60000, 4, a)
    q, k = (torch.from_numpy(0.5 * rng.standard_normal(4)) for _ in "qk")
    weights, bias = neurons
    terms = torch.exp(weights @ (q + k) + 2 * bias - (q @ q + k @ k) / 2)
    assert (
        abs(float(terms.mean() / torch.exp(q @ k)) - 1)
        < 4 * float(terms.std() / terms.mean()) / 60000**0.5
    )


def test_an_input_of_one_token_takes_no_number_from_the_others(qkv):
    """One token, once centred, cannot be balanced by itself; what others were fitted to serves."""
    short = qkv.copy(deep=True)
    short["mask"][2, 1:] = False
    found = run_stage(calibrate, short, SETTINGS)
    assert all("fitted to" in str(note) and "are zero" in str(note) for note in found["note"][0])
    assert found["log10_features_needed"].notnull().all()
    own = found["log10_features_needed_own"].isel(input=2)
    assert own.sel(recipe="plain").notnull().all()
    assert own.sel(recipe="centred, balanced").isnull().all()
    assert found["reduction_all"].isnull().all()
