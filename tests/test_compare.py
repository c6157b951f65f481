"""Hidden layers compared: estimators against planted biases, and networks against their limits."""

import math

import hypothesis
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import strategies as st
from matplotlib import pyplot as plt

from conftest import random_heads, run_stage
from tripartite import job, theory
from tripartite.contracts import UserError, check
from tripartite.features import FEATURE_MAPS
from tripartite.kinds.comparison import dynamic_range, feature_maps
from tripartite.kinds.comparison.compare_maps import compare_maps
from tripartite.kinds.comparison.moments import (
    constant_gain_square,
    moments,
    moments_over_seeds,
    normalizer_statistics,
)
from tripartite.kinds.comparison.ranking import (
    DECADES,
    least_within,
    of_thresholds,
    ranks,
    truncation_gain,
)
from tripartite.kinds.data.attend import attend
from tripartite.kinds.network.simulate import simulate
from tripartite.streams import stream

NETWORK = {"heads": "all", "seed": 5, "data_of": "x", "symmetries": [], "dtype": "float64"}
VARIANTS = {
    "plain": {"feature_map": "performer"},
    "cut at 2": {"feature_map": "truncated_performer", "threshold": 2.0},
    "cut at 9": {"feature_map": "truncated_performer", "threshold": 9.0},
    "FAVOR++": {"feature_map": "generalized_positive"},
    "fixed a": {"feature_map": "generalized_positive", "a": -0.05},
    "linear": {"feature_map": "linear"},
    "sine": {"feature_map": "clipped_sine"},
    "relu": {"feature_map": "relu"},
}


def compare(data, variants, n_features, n_seeds, **changes):
    """Variants that are compared on these data."""
    settings = {"variants": variants, "n_features": n_features, "n_seeds": n_seeds}
    return run_stage(compare_maps, data, NETWORK | settings | changes)


def simulated(data, n_features, n_seeds, **changes):
    """The networks of one variant, as simulate makes them."""
    settings = {"n_features": n_features, "n_seeds": n_seeds, "smaller_networks": "nested"}
    plain = {"leak_hebbian": 0.0, "leak_presynaptic": 0.0}
    return run_stage(simulate, data, NETWORK | settings | plain | changes, previous=None)


@pytest.fixture(scope="module")
def low():
    """Heads of low norm, where networks of a few thousand neurons are near their limit."""
    return random_heads([0.5, 1.0], 2, n_tokens=12, d_head=4, experiment="low")


def planted(rng, n_runs, n_seeds, bias, sd):
    """Products of errors bias + noise [run, seed, seed], n coordinates."""
    errors = bias + sd * rng.standard_normal((n_runs, n_seeds, len(bias)))
    return errors, errors @ errors.swapaxes(-1, -2)


def test_moments_are_sums_over_pairs_of_seeds():
    errors, gram = planted(np.random.default_rng(0), 1, 5, np.ones(3), 1.0)
    products = [errors[0, s] @ errors[0, t] for s in range(5) for t in range(5) if s != t]
    bias_squared, variance, mean_square = moments(gram)[:, 0]
    assert bias_squared == pytest.approx(np.mean(products))
    assert mean_square == pytest.approx(np.square(errors).sum(-1).mean())
    spread = np.square(errors[0] - errors[0].mean(0)).sum() / 4
    assert variance == pytest.approx(spread) and bias_squared + variance == pytest.approx(
        mean_square
    )


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_planted_bias_and_variance_are_recovered(scale):
    """Unbiased, and in their intervals at the nominal rate: 95 %, or above without a bias."""
    rng = np.random.default_rng(1)
    bias = scale * rng.standard_normal(40) / 6
    truth = np.array([bias @ bias, 40 * 0.25, bias @ bias + 40 * 0.25])
    _, gram = planted(rng, 1500, 10, bias, 0.5)
    found = moments_over_seeds(gram)
    for name, wanted in zip(("bias_squared", "variance", "mean_square"), truth):
        values, low, high = found[name]
        assert abs(values.mean() - wanted) < 4 * values.std() / math.sqrt(1500)
        inside = (low <= wanted) & (wanted <= high)
        assert 0.93 < inside.mean() < (0.975 if scale or name != "bias_squared" else 1.01), name


def test_normalizer_statistics():
    """Ratios [n_features, seed, query] by hand: the bias is that of means over seeds."""
    ratios = np.array([[[0.5, 1.2, -0.1], [0.7, 1.0, 0.9]]])
    found = normalizer_statistics(ratios)
    assert found["normalizer_bias"][0] == pytest.approx(-0.4)
    assert found["normalizer_error"][0][0] == pytest.approx(0.25)
    assert found["share_not_positive"][0] == pytest.approx(1 / 6)
    inf = normalizer_statistics(np.array([[[np.inf, np.inf], [-np.inf, 1.0]]]))
    assert np.isinf(inf["normalizer_error"][0][0])


def test_ranks_with_ties_and_failures():
    np.testing.assert_array_equal(ranks(np.array([3.0, 1.0, np.nan, 2.0])), [3, 1, 4, 2])
    np.testing.assert_array_equal(ranks(np.array([2.0, 1.0, 1.0 + 1e-6, np.inf])), [3, 1.5, 1.5, 4])
    np.testing.assert_array_equal(ranks(np.full((2, 2), np.inf)), np.full((2, 2), 1.5))
    np.testing.assert_array_equal(ranks(np.zeros(3)), [2, 2, 2])


THRESHOLDS = np.array([2.0, 10.0, 100.0, np.inf])
SPANS = np.array([1.0, 1.5, 3.5, 6.0])  # decades of rates below each


def test_the_best_threshold_is_in_its_interval():
    """Ends are thresholds that were tried; of clear differences they are the best itself."""
    rng = np.random.default_rng(2)
    means = np.array([2.0, 1.1, 1.0, 1.3])
    hits = []
    for _ in range(20):
        inputs = rng.lognormal(sigma=0.2, size=(5, 1, 1))
        squares = means * inputs * rng.lognormal(sigma=0.3, size=(5, 4, 4))
        found = of_thresholds(squares, np.ones(5), THRESHOLDS, SPANS, rng)
        best, lowest, highest = found["best_threshold"]
        assert lowest <= best <= highest and {best, lowest, highest} <= set(THRESHOLDS)
        assert dict(zip(THRESHOLDS, SPANS))[best] == found["best_threshold_decades"][0]
        hits.append(lowest <= 100.0 <= highest)
    assert np.mean(hits) >= 0.9
    clear = np.array([5.0, 4.0, 3.0, 1.0]) * rng.lognormal(sigma=0.01, size=(5, 4, 4))
    found = of_thresholds(clear, np.ones(5), THRESHOLDS, SPANS, rng)
    assert found["best_threshold"] == (np.inf,) * 3
    one = of_thresholds(clear[:1], np.ones(1), THRESHOLDS, SPANS, rng)
    assert one["best_threshold"] == (np.inf, 2.0, np.inf)  # one input says nothing of others
    assert np.isnan(one["truncation_gain"][1]) and np.isnan(one["mean_square_in_range"][1]).all()


def test_errors_within_decades_and_beside_equal_attention():
    """At 2, 3 and 4 decades by hand, between thresholds on the line of ln error."""
    squares = np.broadcast_to([4.0, 2.0, 0.5, 1.0], (3, 3, 4))
    uniform = np.array([0.5, 1.0, 1.5])
    found = of_thresholds(squares, uniform, THRESHOLDS, SPANS, np.random.default_rng(0))
    wanted = [2.0 * 0.25**0.25, 2.0 * 0.25**0.75, 0.5]
    assert DECADES == (2.0, 3.0, 4.0)
    for name, scale in (("mean_square_in_range", 1.0), ("in_range_over_uniform", uniform.mean())):
        np.testing.assert_allclose(found[name][0], np.array(wanted) / scale)


@hypothesis.given(
    pairs=st.lists(st.tuples(st.floats(0, 9), st.floats(0.01, 9)), min_size=1, max_size=7),
    limits=st.tuples(st.floats(0, 10), st.floats(0, 10)),
)
def test_more_decades_never_err_more(pairs, limits):
    """NaN below the least range; never above any tried threshold within, and falling with more."""
    decades, squares = np.array(pairs).T
    less, more = (least_within(squares, decades, limit) for limit in sorted(limits))
    assert math.isnan(less) == (decades.min() > min(limits))
    if not math.isnan(less):
        assert less <= squares[decades <= min(limits)].min()
        assert squares.min() * (1 - 1e-9) <= more <= less * (1 + 1e-9)


def test_the_best_of_equals_gains_nothing():
    """Chosen and evaluated on the same seeds the best of equal thresholds would seem to gain."""
    rng = np.random.default_rng(3)
    thresholds = np.array([*range(2, 10), np.inf])
    noise = rng.lognormal(sigma=0.5, size=(2000, 1, 10, 9))
    gains = np.log([truncation_gain(squares, thresholds, rng)[0] for squares in noise])
    assert abs(gains.mean()) < 4 * gains.std() / math.sqrt(2000)
    naive = np.log(noise.mean(2).min(-1) / noise.mean(2)[..., -1]).mean()
    assert naive < -0.2
    assert math.isnan(truncation_gain(np.ones((2, 4, 3)), np.array([1.0, 2.0, 3.0]), rng)[0])
    better = np.array([1.0, 0.5, 1.0]) * np.ones((2, 4, 1))
    gain = truncation_gain(better, np.array([1.0, 2.0, np.inf]), rng)
    np.testing.assert_allclose(gain, 0.5)


def test_no_constant_gain_is_better_than_the_best():
    """The closed form against a search over constants, and 0 where one constant is exact."""
    rng = np.random.default_rng(4)
    exact = torch.from_numpy(rng.normal(size=(6, 3)))
    log_p = torch.from_numpy(rng.normal(size=6))
    output = exact + 0.3 * torch.from_numpy(rng.normal(size=(6, 3)))
    network = [(log_p, torch.ones(6), output)]
    drive = torch.exp(log_p)[:, None] * output
    tried = [
        float((c * drive - exact).square().sum() / exact.square().sum())
        for c in np.linspace(-1, 2, 30001)
    ]
    assert constant_gain_square(network, [exact]) == pytest.approx(min(tried), rel=1e-6)
    same = [(torch.full((6,), 700.0, dtype=torch.float64), torch.ones(6), 3 * exact)]
    assert constant_gain_square(same, [exact]) == pytest.approx(0, abs=1e-12)


@pytest.fixture(scope="module")
def comparison(low):
    return compare(low, VARIANTS, [30, 300], n_seeds=6).assign_attrs(data="drawn")


def test_the_contract_and_what_maps_leave_out(comparison):
    check(comparison, "comparison", "here")
    assert list(comparison["variant"].values) == list(VARIANTS)
    assert comparison["threshold"].values[1] == 2.0 and np.isinf(comparison["threshold"].values[0])
    missing = comparison["output_floor"].isnull().all(("n_features", "layer", "head"))
    assert list(comparison["variant"].values[missing.values]) == ["sine"]
    no_range = comparison["log10_rate_range"].isnull().all(("n_features", "layer", "head"))
    assert list(comparison["variant"].values[no_range.values]) == ["linear", "sine", "relu"]
    assert (comparison["output_floor"].sel(variant=["plain", "FAVOR++"]) < 1e-6).all()
    assert comparison["mean_square"].notnull().all() and comparison["rank"].notnull().all()
    assert (comparison["share_not_positive"].sel(variant="plain") == 0).all()
    np.testing.assert_allclose(comparison["rank"].sum("variant"), 8 * 9 / 2)


def test_equal_attention_is_the_mean_of_the_values(low, comparison):
    """By a loop over heads and inputs; no network divided by the best constant errs above 1."""
    exact = attend(low)
    for head in range(2):
        squares = []
        for i in range(2):
            v, o = (x.values[i, 0, head] for x in (low["v"], exact["output"]))
            squares.append(np.square(v.mean(0) - o).sum() / np.square(o).sum())
        got = comparison["uniform_error"].sel(head=head, layer=0)
        assert float(got) == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-6)
    constant = comparison["constant_gain_mean_square"]
    assert ((constant >= 0) & (constant <= 1)).all()


def test_variants_are_found_by_their_threshold_and_feature_map(comparison, tmp_path):
    """Also in the file: both are coordinates of the axis."""
    attrs = {"stage": "compare_maps", "settings": {}}
    job.save(comparison, tmp_path / "comparison.nc", attrs)
    for fit in (comparison, job.load(tmp_path / "comparison.nc")):
        of_threshold = fit.set_xindex("threshold").sel(threshold=9)
        assert of_threshold["variant"] == "cut at 9"
        wanted = fit["mean_square"].sel(variant="cut at 9")
        np.testing.assert_array_equal(of_threshold["mean_square"], wanted)
        of_map = fit.set_xindex("feature_map").sel(feature_map="generalized_positive")
        assert of_map["variant"].values.tolist() == ["FAVOR++", "fixed a"]


@pytest.mark.parametrize("name", ["plain", "cut at 2", "FAVOR++", "linear", "relu"])
def test_the_networks_are_those_of_simulate(low, comparison, name):
    """The same hidden weights and numbers: mean square, normaliser error and share not positive."""
    exact = attend(low)
    run = simulated(low, [30, 300], 6, **VARIANTS[name])
    one = comparison.sel(variant=name)
    wanted = np.square(run["output_error"]).mean(("seed", "input"))
    np.testing.assert_allclose(one["mean_square"], wanted, rtol=1e-6)
    ratio = run["calcium_sign"] * np.exp(run["log_calcium"] - exact["log_normalizer"])
    error = abs(ratio - 1).median(("seed", "input", "token"))
    np.testing.assert_allclose(one["normalizer_error"], error, rtol=1e-6)
    bias = ratio.mean("seed").transpose("n_features", "layer", "head", ...) - 1
    np.testing.assert_allclose(
        one["normalizer_bias"], bias.median(("input", "token")), rtol=1e-6, atol=1e-9
    )
    share = (run["calcium_sign"] <= 0).mean(("seed", "input", "token"))
    np.testing.assert_allclose(one["share_not_positive"], share)


def test_the_range_of_rates_is_that_of_the_neurons(low, comparison):
    """Of plain neurons by hand: max and median of u - |x|^2 / 2 over neurons, queries and keys."""
    omega = stream(5, "x", "omega", 0, 0, 1).standard_normal((304, 4))
    decades = []
    for i in range(2):
        x = np.concatenate([low[name].values[i, 0, 1] for name in "qk"]).astype(float)
        log_phi = (x @ omega[:300].T - np.square(x).sum(1, keepdims=True) / 2) / math.log(10)
        decades.append(log_phi.max() - np.median(log_phi))
    got = comparison["log10_rate_range"].sel(variant="plain", head=1, n_features=300, layer=0)
    assert float(got) == pytest.approx(np.mean(decades), abs=1e-3)
    cut = comparison["log10_rate_range"].sel(variant="cut at 2")
    assert (cut < comparison["log10_rate_range"].sel(variant="plain")).all()


@pytest.mark.slow
def test_bias_is_where_theory_says(low):
    """Performer: the bias of a ratio, order 1 / m. Other maps: the floor of their kernel."""
    exact, m = attend(low), 4000
    variants = {
        "plain": {"feature_map": "performer"},
        "cut": {"feature_map": "truncated_performer", "threshold": 1.5},
        "waves": {"feature_map": "positive_cosine"},
        "elu": {"feature_map": "elu_plus_one"},
        "relu": {"feature_map": "relu"},
    }
    run = compare(low, variants, [m], n_seeds=60)
    for head in range(2):
        one = run.isel(layer=0, n_features=0, head=head)
        squares, biases = [], []
        for i in range(2):
            q, k, v = (torch.from_numpy(low[x].values[i, 0, head]).double() for x in "qkv")
            o, log_z = (
                torch.from_numpy(exact[x].values[i, 0, head]) for x in ("output", "log_normalizer")
            )
            scale, trace, bias, _ = theory.output_moments(
                q, k, v, o, log_z, torch.zeros(1, 12).double()
            )
            squares.append(float((scale.exp() * trace).sum() / m / o.square().sum()))
            biases.append(
                float((scale.exp()[:, None] * bias / m).square().sum() / o.square().sum())
            )
        plain = one.sel(variant="plain")
        assert plain["bias_squared_low"] <= np.mean(biases) <= plain["bias_squared_high"]
        assert float(plain["variance"]) == pytest.approx(np.mean(squares), rel=0.15)
        for name in ("cut", "waves", "elu", "relu"):
            found = one.sel(variant=name)
            floor = float(found["output_floor"]) ** 2
            assert found["bias_squared_low"] * 0.97 <= floor <= found["bias_squared_high"] * 1.03
            assert floor > 2 * found["variance"]


def test_the_rank_tells_better_from_worse(low):
    """A clear order: no truncation, some, nearly constant rates."""
    variants = {
        "constant": {"feature_map": "truncated_performer", "threshold": 0.05},
        "cut": {"feature_map": "truncated_performer", "threshold": 1.0},
        "plain": {"feature_map": "performer"},
    }
    run = compare(low, variants, [2000], n_seeds=6)
    for end in ("", "_low", "_high"):
        for head in range(2):
            ranks_of = run[f"rank{end}"].sel(layer=0, head=head).isel(n_features=0)
            np.testing.assert_array_equal(ranks_of, [3, 2, 1])
    best = run.isel(n_features=0, layer=0)
    assert np.isinf(best["best_threshold"]).all() and (best["truncation_gain"] == 1).all()
    assert (best["best_threshold_note"] == "").all()


def test_too_few_thresholds_and_heads_that_were_not_run(low):
    variants = {name: VARIANTS[name] for name in ("plain", "cut at 2")}
    run = compare(low, variants, [10], n_seeds=3, heads=[[0, 1]])
    check(run, "comparison", "here")
    assert list(run["best_threshold_note"].values[0, 0]) == [
        "not run",
        "2 thresholds, the untruncated included, of 3 needed",
    ]
    assert run["best_threshold"].isnull().all() and run["mean_square"].sel(head=0).isnull().all()


def test_masks_symmetries_and_calibration():
    """Inputs that calibrate are left out; the limit is exact with shifts and gains."""
    data = random_heads([1.0, 2.0], 2, [(1, slice(4, None))], n_tokens=7, d_head=4)
    exact = attend(data)
    variants = {"plain": {"feature_map": "performer"}, "fitted": {"feature_map": "fitted_normal"}}
    fitted = {
        "symmetries": ["center_keys", "center_queries", "balance"],
        "calibrated_on": ["draw-1"],
    }
    run = compare(data, variants, [20], n_seeds=3, **fitted)
    assert (run["output_floor"] < 1e-6).all()
    for name, variant in variants.items():
        states = simulated(data, [20], 3, **fitted, **variant)
        wanted = np.square(states["output_error"]).mean(("seed", "input"))
        np.testing.assert_allclose(run["mean_square"].sel(variant=name), wanted, rtol=1e-6)
        log_ratio = states["log_calcium"] - exact["log_normalizer"].values
        error = abs(np.expm1(log_ratio)).median(("seed", "input", "token"))
        np.testing.assert_allclose(run["normalizer_error"].sel(variant=name), error, rtol=1e-6)


def test_norms_beyond_the_range_are_no_warnings():
    """Real heads may have |x|^2 of thousands: numbers may be infinite, but not wrong."""
    data = random_heads([4000.0], 1, n_tokens=6, d_head=4, experiment="far")
    run = compare(data, VARIANTS, [50], n_seeds=3)
    check(run, "comparison", "here")
    data["v"] *= 0  # the exact output is 0: no relative error
    run = compare(data, VARIANTS, [50], n_seeds=3)
    assert run["mean_square"].isnull().all()
    assert (run["best_threshold_note"] == "errors are not finite").all()


def test_workers_change_nothing(low, comparison):
    settings = NETWORK | {"variants": VARIANTS, "n_features": [30, 300], "n_seeds": 6}
    again = run_stage(compare_maps, low, settings, workers=3)
    xr.testing.assert_identical(again.assign_attrs(comparison.attrs), comparison)


def test_what_cannot_be_balanced_is_refused(low):
    data = low.copy(deep=True)
    data["k"] *= 0
    with pytest.raises(UserError, match="layer 0, head 0: .*compare on other heads"):
        compare(data, VARIANTS, [5], n_seeds=3, symmetries=["balance"])


def test_figures_draw_what_there_is(comparison):
    """One experiment or two, without known floors, without thresholds."""
    plain = comparison.sel(variant=["plain", "relu"])
    for fits in (
        {"a": plain},
        {"a": comparison},
        {"a": comparison, "b": comparison.assign_attrs(data="other"), "c": plain},
    ):
        for draw in (feature_maps.feature_maps, dynamic_range.dynamic_range):
            figure = draw(fits)
            figure.canvas.draw()
            plt.close(figure)


def test_an_infinite_end_of_an_interval_moves_no_axis(comparison):
    infinite = comparison.copy(deep=True)
    infinite["mean_square_high"][:] = np.inf
    limits = []
    for fit in (comparison, infinite):
        figure = dynamic_range.dynamic_range({"a": fit})
        figure.canvas.draw()
        limits.append(figure.axes[0].get_ylim()[1])
        plt.close(figure)
    assert limits[1] <= limits[0]


def test_every_feature_map_has_words_in_the_figure():
    assert {*feature_maps.MAPS} == {*FEATURE_MAPS}


def test_maps_are_drawn_in_groups_by_error(comparison):
    """Rows have the errors of the file; a map is judged where it was run."""
    fits = {"a": comparison, "b": comparison.sel(variant=["plain", "linear", "relu"])}
    found = feature_maps.table(fits)
    largest = comparison.isel(n_features=-1)
    for _, row in found[found["experiment"] == "a"].iterrows():
        own = largest.sel(variant=row["variant"], layer=row["layer"], head=row["head"])
        assert row["error"] == pytest.approx(float(own["mean_square"]) ** 0.5)
        assert row["error_of_equal_attention"] == float(own["uniform_error"])
        excluded = float(own["bias_squared_low"]) > 0
        assert np.isfinite(row["bias"]) == excluded
    rows = feature_maps.ordered(found)
    groups = [group for group, _ in rows]
    assert groups == sorted(groups, key=[*feature_maps.GROUPS].index)
    best = found[found["experiment"] == "a"].groupby("map")["error"].mean()
    first = [name for group, name in rows if group == "other kernel"][0]
    assert best[first] == min(best[name] for group, name in rows if group == "other kernel")
    axis = feature_maps.feature_maps(fits).axes[0]
    drawn = axis.containers[0].lines[0].get_xdata()
    assert {*drawn} <= {*found["error"]} and len(drawn)
    plt.close("all")


def test_answers_follow_the_numbers(comparison):
    fits = {"a": comparison}
    better = comparison.copy(deep=True)
    better["mean_square"].loc[{"variant": "relu"}] = 1e-8
    assert "with ReLU" not in feature_maps.answer(fits)
    text = feature_maps.answer({"a": better})
    assert "0.0001" in text and "with ReLU" in text
    text = dynamic_range.answer(fits)
    own = comparison.isel(n_features=-1, layer=0)
    for head in dynamic_range.heads(comparison):
        assert f"{float(own['best_threshold_decades'][head[1]]):.2g} [" in text
    found = dynamic_range.table(fits)
    assert np.isinf(found["ceiling"]).any() and (found["decades"] > 0).all()
    more = comparison.assign(best_threshold_decades=comparison["best_threshold_decades"] + 5)
    assert dynamic_range.answer({"a": more}) != text
    within = comparison["in_range_over_uniform"].sel(decades=3.0).isel(n_features=-1)
    assert f"error is {float(within.min()):.2f} to {float(within.max()):.2f} times" in text
    few = comparison.sel(variant=["plain", "relu"])
    assert dynamic_range.answer({"a": few}).startswith("No head has a best ceiling")
    assert dynamic_range.table({"a": few}).empty
