"""Calcium models that carry the normaliser: laws, noise, the search, the figure."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy.stats import poisson

from conftest import assert_drawn_alike, random_heads, run_stage
from tripartite import calcium
from tripartite.contracts import check, describe
from tripartite.kinds.data.attend import attend
from tripartite.kinds.readout import calcium_models, calcium_readout, gain
from tripartite.kinds.readout.gain import Noise
from tripartite.kinds.readout.respond import respond

SETTINGS = {
    "models": ["li_rinzel_nest", "li_rinzel_stimberg", "chi"],
    "n_operating_points": 12,
    "normalizer_shares": [1, 0.2],
    "calcium_noise": [0.1],
    "vesicles": [100],
    "heads": [[0, 0], [0, 2]],
    "inputs": "all",
    "calibrated_on": ["draw-0", "draw-1"],
    "seed": 5,
    "data_of": "x",
}


@pytest.fixture(scope="module")
def data():
    """Four inputs, the last one shorter; two of them calibrate."""
    return random_heads([0.02, 2.0, 0.5], 4, [(3, slice(30, None))], n_tokens=40, d_head=4)


def run(data, **changes):
    return run_stage(respond, data, SETTINGS | changes)


@pytest.fixture(scope="module")
def found(data):
    return run(data).assign_attrs(data="drawn")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_the_result_keeps_its_contract_and_is_the_same_again(data, found):
    check(describe(found, "readout"), "readout", "readout.nc")
    xr.testing.assert_equal(run(data, models=["chi"]), found.sel(model=["chi"]).drop_attrs())
    np.testing.assert_array_equal(found["normalizer_share"], [0.2, 1])
    assert list(found["noise"].values) == ["none", "calcium 10 %", "100 vesicles"]
    for model in SETTINGS["models"]:
        ours = found.sel(model=model)
        span = calcium.CALCIUM_MODELS[model].span
        np.testing.assert_allclose(ours["mean_stimulus"][[0, -1]], span)
        np.testing.assert_allclose(ours["stimulus"][[0, -1]], span)
    other = found.sel(head=1)
    assert (other["note"] == "not run").all() and other["exponent_z"].isnull().all()


@pytest.mark.parametrize(("model", "share", "place"), [("li_rinzel_nest", 1, 3), ("chi", 0.2, 9)])
def test_numbers_of_one_head_by_a_loop(data, found, model, share, place):
    """Every query's calcium by itself, and least squares by polyfit."""
    exact = attend(data)["log_normalizer"].values
    log_z = [exact[i, 0, 2, data["mask"].values[i]] for i in range(4)]
    mean = np.exp(np.concatenate(log_z[:2])).mean()
    at = float(found["mean_stimulus"].sel(model=model, operating_point=place))
    log_c = [
        np.log(
            [calcium.resting(model, at * (1 - share + share * np.exp(x) / mean))[0][0] for x in z]
        )
        for z in log_z
    ]
    fitted, x, y = (np.concatenate(part) for part in (log_z[:2], log_z[2:], log_c[2:]))
    ours = found.sel(model=model, operating_point=place, normalizer_share=share, layer=0, head=2)
    assert float(ours["share_steady"]) == 1 and float(ours["share_bistable"]) == 0
    assert float(ours["exponent_z"]) == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-8)
    assert float(ours["sd_log_normalizer"]) == pytest.approx(x.std(), rel=1e-10)
    left = ours["spread_left"].sel(readout="C")
    assert float(left.sel(noise="none")) == pytest.approx((x - y).std() / x.std(), rel=1e-8)
    assert float(left.sel(noise="calcium 10 %")) == pytest.approx(
        np.hypot((x - y).std(), 0.1) / x.std(), rel=1e-8
    )
    gamma = np.polyfit(np.concatenate(log_c[:2]), fitted, 1)[0]
    power = ours["readout_exponent"].sel(noise="none")
    assert float(power) == pytest.approx(gamma, rel=1e-8)
    left = ours["spread_left"].sel(readout="C^gamma", noise="none")
    assert float(left) == pytest.approx((x - gamma * y).std() / x.std(), rel=1e-7)


@pytest.mark.parametrize("model", ["li_rinzel_nest", "li_rinzel_stimberg", "chi", "g_chi"])
def test_small_fluctuations_are_normalised_in_part(model):
    """ln C is linear in ln Z then: the laws hold, the power 1 / alpha_Z leaves almost nothing."""
    rng = np.random.default_rng(0)
    log_z = [rng.normal(0, 0.02, 100) for _ in range(4)]
    points = {model: np.array(calcium.CALCIUM_MODELS[model].span)}
    found = gain.of_head(log_z[:2], log_z[2:], points, np.array([0.2, 1.0]), [Noise()], rng)
    for i, share in enumerate((0.2, 1)):
        for j, at_mean in enumerate(points[model]):
            alpha = share * float(calcium.exponent(model, np.array([at_mean]))[0])
            for name in ("exponent_z", "exponent_z_law"):
                assert found[name][0, i, j] == pytest.approx(alpha, rel=0.01)
            left = found["spread_left"][:, 0, 0, i, j]
            assert left[0] == pytest.approx(1 - alpha, rel=0.01)
            assert found["spread_left_law"][0, i, j] == pytest.approx(1 - alpha, rel=0.01)
            assert found["readout_exponent"][0, 0, i, j] == pytest.approx(1 / alpha, rel=0.01)
            assert left[1] < 0.05


def test_queries_that_do_not_rest_are_a_share_and_no_veto(data, found):
    """Numbers are over the queries at rest, and stated from a share on; bistable ones are none."""
    share, left = found["share_steady"], found["spread_left"].sel(noise="none", readout="C")
    run_heads = found["sd_log_normalizer"].notnull()
    partly = (share > gain.MIN_SHARE) & (share < 1)
    assert partly.any() and left.where(partly & run_heads).notnull().any()
    assert left.where((share < gain.MIN_SHARE) & run_heads).isnull().all()
    notes = found["note"].where(run_heads & left.isnull(), "").values
    assert set(notes.ravel()) == {
        "",
        "calcium comes to rest from every start at less than 80% of the queries",
    }


def test_bistable_queries_are_not_counted_as_graded():
    """All of them come to rest from some starts, and none from every start."""
    rng = np.random.default_rng(0)
    log_z = [rng.normal(0, 0.02, 100) for _ in range(4)]
    points = {"li_rinzel_stimberg": np.array([0.8, 1.0, 1.3])}
    found = gain.of_head(log_z[:2], log_z[2:], points, np.array([1.0]), [Noise()], rng)
    np.testing.assert_array_equal(found["share_steady"][0, 0], [0, 0, 1])
    np.testing.assert_array_equal(found["share_bistable"][0, 0], [0, 1, 0])
    np.testing.assert_array_equal(np.isnan(found["exponent_z"][0, 0]), [True, True, False])
    assert (found["best_mean_stimulus"] == 1.3).all()


def test_the_search_finds_the_best_point_on_the_fitted_inputs(data, found):
    """Beside it, every point by itself; the tested number is that of the grid."""
    for model in SETTINGS["models"]:
        for readout in gain.READOUTS:
            for noise in found["noise"].values:
                where = {"model": model, "layer": 0, "head": 2, "noise": noise, "readout": readout}
                ours = found.sel(where)
                grid = ours["mean_stimulus"].values == float(ours["best_mean_stimulus"])
                place = {
                    "operating_point": int(np.flatnonzero(grid)[0]),
                    "normalizer_share": float(ours["best_normalizer_share"]),
                }
                at = ours.sel(place)
                assert float(at["spread_left"]) == pytest.approx(
                    float(ours["best_spread_left"]), rel=1e-12
                )
                assert float(ours["best_spread_left_low"]) < float(ours["best_spread_left"])
                power = 1.0 if readout == "C" else float(at["readout_exponent"])
                assert float(ours["best_power"]) == power


def test_the_best_point_leaves_least_where_enough_queries_rest():
    """Tested on what is fitted, no point of the grid that is safe leaves less."""
    rng = np.random.default_rng(1)
    log_z = [rng.normal(0, 0.3, 100) for _ in range(2)]
    points = {"li_rinzel_nest": np.geomspace(0.05, 2.5, 30)}
    noises = [Noise(), Noise(0.1)]
    found = gain.of_head(log_z, log_z, points, np.array([0.3, 1.0]), noises, rng)
    safe = found["share_steady"] >= gain.SAFE_SHARE
    least = np.where(safe, found["spread_left"], np.inf).min((-1, -2))
    np.testing.assert_allclose(found["best_spread_left_fitted"], least, rtol=1e-12)
    np.testing.assert_allclose(found["best_spread_left"][0], least, rtol=1e-12)
    assert (least[1] <= least[0] + 1e-12).all()  # the best power leaves no more than C


def test_with_the_normaliser_as_only_source_calcium_can_divide_well():
    """Alpha of NEST's constants is 1 near 0.25 uM, and little is left there."""
    rng = np.random.default_rng(0)
    log_z = [rng.normal(0, 0.15, 200) for _ in range(4)]
    points = {"li_rinzel_nest": np.geomspace(0.05, 2.5, 48)}
    found = gain.of_head(log_z[:2], log_z[2:], points, np.array([0.1, 1.0]), [Noise()], rng)
    at = (0, 0, 0)
    assert found["best_normalizer_share"][at] == 1
    assert 0.22 < found["best_mean_stimulus"][at] < 0.28
    assert found["best_share_steady"][at] > 0.9
    assert found["best_spread_left"][0][at] < 0.25
    assert 0.8 < found["best_exponent_z"][0][at] < 1.2


# Noise.


def simulated_spread(x, log_c, noise, gamma, rng, repeats=4000):
    """Spread left of queries that are each read many times, by drawing the noise."""
    unit = gain.log_mean_exp(gamma * log_c)
    if np.isfinite(noise.vesicles):
        drawn = rng.poisson(noise.vesicles * np.exp(gamma * log_c - unit), (repeats, len(x)))
        log_d = np.log(np.where(drawn > 0, drawn, 1))
        kept = drawn > 0
    else:
        log_d = gamma * (log_c + noise.calcium * rng.normal(size=(repeats, len(x))))
        kept = np.ones(log_d.shape, dtype=bool)
    log_gain = (x - log_d)[kept]
    return log_gain.std() / np.broadcast_to(x, kept.shape)[kept].std()


@pytest.mark.parametrize("noise", [Noise(calcium=0.1), Noise(vesicles=100), Noise(vesicles=12)])
@pytest.mark.parametrize("gamma", [1.0, 3.0])
def test_noise_leaves_what_its_law_says(noise, gamma):
    rng = np.random.default_rng(3)
    x = rng.normal(0, 0.5, 50)
    log_c = 0.4 * x + 0.02 * rng.normal(size=50)
    y, variance, read = noise.divisor(log_c, gamma, gain.log_mean_exp(gamma * log_c))
    ours = float(gain.spread_left(gain.moments(np.ones((1, 50)), x, y, variance, read)))
    assert ours == pytest.approx(simulated_spread(x, log_c, noise, gamma, rng), rel=0.01)
    if not np.isfinite(noise.vesicles):
        plain = (x - gamma * log_c).var()
        assert ours**2 * x.var() == pytest.approx(plain + (gamma * noise.calcium) ** 2, rel=1e-9)


@pytest.mark.parametrize("mean", [0.001, 0.01, 0.5, 3.0, 50.0, 390.0, 410.0, 5000.0])
def test_moments_of_the_log_of_a_poisson_number(mean):
    k = np.arange(1, int(mean + 15 * np.sqrt(mean) + 30))
    weights = poisson.pmf(k, mean)
    weights /= weights.sum()
    average = weights @ np.log(k)
    ours = gain.log_count(np.array([mean]))
    assert ours[0][0] == pytest.approx(average, abs=2e-3 if mean < 0.0025 else 1e-6)
    assert ours[1][0] == pytest.approx(
        weights @ np.log(k) ** 2 - average**2, abs=2e-3 if mean < 0.0025 else 1e-6
    )
    assert ours[2][0] == pytest.approx(1 - np.exp(-mean), rel=1e-12)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    exponent=st.floats(0.05, 2),
    noise=st.sampled_from([Noise(), Noise(0.02), Noise(0.2), Noise(vesicles=50)]),
)
def test_no_other_power_leaves_less(seed, exponent, noise):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.5, 80)
    log_c = exponent * x + 0.02 * rng.normal(size=80)

    def left(power):
        divisor = noise.divisor(log_c, power, gain.log_mean_exp(power * log_c))
        return float(gain.spread_left(gain.moments(np.ones((1, 80)), x, *divisor)))

    best = gain.best_power(x, log_c, noise)
    for factor in (0.5, 0.98, 1.02, 2):
        assert left(best) < left(factor * best)
    if noise.calcium:  # shrunk, as a slope on what is known with errors
        shrunk = gain.best_power(x, log_c, Noise()) * log_c.var() / (log_c.var() + noise.calcium**2)
        assert best == pytest.approx(shrunk, rel=1e-9)


# What is odd, and the figure.


def test_curves_bifurcations_and_regimes_are_those_of_the_models(found):
    for model in SETTINGS["models"]:
        ours = found.sel(model=model)
        points = [b.stimulus for b in calcium.bifurcations(model) if b.kind == "hopf"]
        if points:
            assert float(ours["hopf_first"]) == min(points)
            assert float(ours["hopf_last"]) == max(points)
            ends = ours["cycle_stimulus"].values[[0, -1]]
            np.testing.assert_allclose(ends, calcium.oscillation(model), rtol=1e-9)
            assert (ours["cycle_high"] > ours["cycle_low"])[1:-1].all()
        else:
            assert ours["period"].isnull().all() and (ours["regime"] == "rest").all()
        assert np.isnan(ours["fold_first"]) == (model != "li_rinzel_stimberg")
        stimulus = calcium.curve(model, ours["steady_calcium"].values)[0]
        np.testing.assert_allclose(ours["steady_stimulus"], stimulus, rtol=1e-12)
        np.testing.assert_array_equal(ours["regime"] == "oscillates", ours["exponent"].isnull())
    stimberg = found.sel(model="li_rinzel_stimberg")
    beside = stimberg["stimulus"].where(stimberg["regime"] == "bistable", drop=True)
    assert 0.53 < float(beside.min()) and 1.08 < float(beside.max()) < 1.14


def test_one_tested_input_has_no_interval(data):
    found = run(data, inputs=["draw-3"], models=["li_rinzel_nest"], heads=[[0, 2]])
    ours = found.sel(model="li_rinzel_nest", layer=0, head=2)
    assert ours["best_spread_left"].notnull().all()
    assert ours["best_spread_left_low"].isnull().all()


def test_a_normaliser_that_does_not_vary_is_told(data):
    same = data.copy(deep=True)
    same["q"][:] = 0
    same["mask"][:] = True
    for name in "kv":
        same[name] = same[name].fillna(0)
    found = run(same, models=["chi"])
    for name in ("note", "best_note"):
        assert (found[name].sel(head=0) == "the normaliser does not vary").all()
    assert found["readout_exponent"].isnull().all() and found["best_spread_left"].isnull().all()
    calcium_readout.calcium_readout({"a": found.assign_attrs(data="equal queries")})


def test_a_head_that_never_rests_is_told():
    rng = np.random.default_rng(0)
    log_z = [rng.normal(0, 0.3, 200) for _ in range(3)]
    points = {"li_rinzel_nest": np.array([0.4, 0.5, 0.6])}
    found = gain.of_head(log_z[:2], log_z[2:], points, np.array([1.0]), [Noise()], rng)
    assert np.isnan(found["best_mean_stimulus"]).all()
    words = "fewer than 95% of the queries are read at every operating point"
    assert (found["best_note"] == words).all()


def without_numbers(fit):
    nothing = fit.copy(deep=True)
    for name in nothing.data_vars:
        if nothing[name].dtype == float:
            nothing[name][:] = np.nan
    return nothing


def test_figure(found, tmp_path):
    """Marks are the spreads of the file, a row for each model and a line for each head."""
    fits = {"a": found.sel(model=["chi"]), "b": found, "c": without_numbers(found)}
    assert_drawn_alike(calcium_readout.calcium_readout, fits, tmp_path)
    figure = calcium_readout.calcium_readout({"a": found})
    sd = found["sd_log_normalizer"].sel(layer=0)
    heads = sorted((0, 2), key=lambda head: float(sd.sel(head=head)))
    panels = [(readout, noise) for readout in gain.READOUTS for noise in ("none", "calcium 10 %")]
    for axis, (readout, noise) in zip(figure.axes, panels, strict=True):
        marks = [line for line in axis.lines if line.get_marker() == "v"]
        for line, head in zip(marks, heads, strict=True):
            wanted = found["best_spread_left"].sel(readout=readout, noise=noise, layer=0, head=head)
            np.testing.assert_array_equal(line.get_xdata(), wanted)
            np.testing.assert_array_equal(np.round(line.get_ydata().astype(float)), range(3))


def test_table_and_answer(found):
    own = calcium_readout.table({"a": found}).set_index(["readout", "noise", "model", "head"])
    for end in ("", "_low", "_high"):
        wanted = found[f"best_spread_left{end}"].sel(layer=0).to_series().dropna()
        drawn = own[f"spread_left{end}"].reorder_levels(wanted.index.names).dropna()
        assert {*drawn.index} == {x for x in wanted.index if x[1] != "100 vesicles"}
        np.testing.assert_array_equal(drawn, wanted[drawn.index])
    before = calcium_readout.answer({"a": found})
    least = found["best_spread_left"].sel(noise="none", readout="C", model="li_rinzel_nest")
    assert f"without noise {float(least.min()):.2f} to {float(least.max()):.2f} with Li" in before
    half = found.assign(best_spread_left=found["best_spread_left"] / 2)
    assert calcium_readout.answer({"a": half}) != before
    assert "No head" in calcium_readout.answer({"a": without_numbers(found)})


def test_what_calcium_models_do(found, tmp_path):
    """Curves of the file, broken where steady states lose stability, and ranges of oscillation."""
    assert_drawn_alike(calcium_models.calcium_models, {"a": found}, tmp_path)
    calcium_models.calcium_models({"a": without_numbers(found)})
    drawn = calcium_models.table({"a": found})
    nest = found.sel(model="li_rinzel_nest")
    own = drawn[drawn["model"] == "li_rinzel_nest"].groupby("quantity")["value"]
    stable = own.get_group("stable steady state").values
    wanted = nest["steady_calcium"].where(nest["steady_growth"] < 0)
    np.testing.assert_array_equal(stable, wanted)
    np.testing.assert_array_equal(own.get_group("exponent"), nest["exponent"])
    unstable = own.get_group("unstable steady state").dropna()
    assert (
        (nest["steady_growth"] > 0).sum() < len(unstable) <= (nest["steady_growth"] > 0).sum() + 2
    )
    words = calcium_models.answer({"a": found})
    assert "ChI does not oscillate" in words
    first = float(nest["cycle_stimulus"][0])
    assert f"Li–Rinzel (NEST) oscillates at {first:.3g} to" in words
    other = found.assign(cycle_stimulus=found["cycle_stimulus"] * 2)
    assert calcium_models.answer({"a": other}) != words
