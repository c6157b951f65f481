"""Calcium models that carry the normaliser: laws of partial normalisation, readout, the figure."""

import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot as plt

from conftest import random_heads, run_stage
from tripartite import calcium, job
from tripartite.contracts import check, describe
from tripartite.figures import palette
from tripartite.kinds.data.attend import attend
from tripartite.kinds.readout import gain
from tripartite.kinds.readout.calcium_readout import calcium_readout
from tripartite.kinds.readout.respond import respond

SETTINGS = {
    "models": ["li_rinzel", "chi", "g_chi"],
    "operating_points": [0.8, 0.1, 0.4],
    "depths": [0.1, 0.02],
    "heads": [[0, 0], [0, 2]],
    "inputs": "all",
    "seed": 5,
    "data_of": "x",
}


@pytest.fixture(scope="module")
def data():
    """Three inputs, the last one shorter."""
    return random_heads([0.02, 2.0, 0.5], 3, [(2, slice(30, None))], n_tokens=40, d_head=4)


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
    xr.testing.assert_equal(run(data, models=["chi"]), found.sel(model=["chi"]))
    np.testing.assert_array_equal(found["added_stimulus"], [0.02, 0.1])
    np.testing.assert_array_equal(found["operating_point"], [0.1, 0.4, 0.8])
    assert (np.diff(found["stimulus"]) > 0).all()
    other = found.sel(head=1)
    assert (other["note"] == "not run").all() and other["exponent_z"].isnull().all()


def test_numbers_of_one_head_by_a_loop(data, found):
    """Every query's calcium by itself, and least squares by polyfit."""
    exact = attend(data)["log_normalizer"].values
    log_z = [exact[i, 0, 2, data["mask"].values[i]] for i in range(3)]
    mean = np.exp(np.concatenate(log_z)).mean()
    log_c = [
        np.log(
            [calcium.resting("li_rinzel", 0.1 + 0.1 * np.exp(x) / mean)[0][0] for x in one_input]
        )
        for one_input in log_z
    ]
    x, y = np.concatenate(log_z), np.concatenate(log_c)
    ours = found.sel(model="li_rinzel", operating_point=0.1, added_stimulus=0.1, layer=0, head=2)
    assert float(ours["exponent_z"]) == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-10)
    assert float(ours["sd_log_normalizer"]) == pytest.approx(x.std(), rel=1e-12)
    assert float(ours["sd_log_gain_plain"]) == pytest.approx((x - y).std(), rel=1e-10)
    gamma = np.polyfit(np.concatenate(log_c[:2]), np.concatenate(log_z[:2]), 1)[0]
    assert float(ours["readout_exponent"]) == pytest.approx(gamma, rel=1e-10)
    assert float(ours["sd_log_gain"]) == pytest.approx(
        (log_z[2] - gamma * log_c[2]).std(), rel=1e-9
    )
    for name in ("exponent_z", "readout_exponent", "sd_log_gain_plain"):
        low, middle, high = (float(ours[name + end]) for end in ("_low", "", "_high"))
        assert low < middle < high


@pytest.mark.parametrize("model, rest", [("li_rinzel", 0.1), ("chi", 0.1), ("g_chi", 0.8)])
def test_small_fluctuations_are_normalised_in_part(data, model, rest):
    """ln C is linear in ln Z then: the laws hold, the power 1 / alpha_Z leaves almost nothing."""
    point = {"models": [model], "operating_points": [rest], "depths": [0.1]}
    found = run(data, inputs=["draw-0", "draw-1"], **point)
    ours = found.sel(model=model, operating_point=rest, added_stimulus=0.1, layer=0, head=0)
    sd = float(ours["sd_log_normalizer"])
    assert sd < 0.05
    alpha = float(calcium.exponent(model, np.array([rest + 0.1]))[0]) * 0.1 / (rest + 0.1)
    assert float(ours["exponent_z"]) == pytest.approx(alpha, rel=0.03)
    assert float(ours["exponent_z_law"]) == pytest.approx(alpha, rel=0.03)
    assert float(ours["sd_log_gain_plain"]) == pytest.approx((1 - alpha) * sd, rel=0.01)
    assert float(ours["sd_log_gain_law"]) == pytest.approx((1 - alpha) * sd, rel=0.01)
    assert float(ours["readout_exponent"]) == pytest.approx(1 / alpha, rel=0.05)
    assert float(ours["sd_log_gain"]) < 0.05 * sd


def test_oscillating_calcium_is_no_normaliser(found):
    ours = found.sel(model="li_rinzel", operating_point=0.4, added_stimulus=0.1, layer=0, head=0)
    assert ours["share_steady"] == 0 and np.isnan(ours["exponent_z"])
    assert ours["note"] == "calcium comes to rest at 0% of the queries only"
    assert np.isnan(ours["exponent_at_mean"]) and np.isnan(ours["relaxation_seconds"])


def test_curves_and_bifurcations_are_those_of_the_models(found):
    for model in SETTINGS["models"]:
        ours = found.sel(model=model)
        points = [b for b in calcium.bifurcations(model) if b.kind == "hopf"]
        assert float(ours["hopf_first"]) == min(b.stimulus for b in points)
        assert float(ours["hopf_last"]) == max(b.stimulus for b in points)
        assert np.isnan(ours["fold_first"]) == (model != "chi")
        stimulus = calcium.curve(model, ours["steady_calcium"].values)[0]
        np.testing.assert_allclose(ours["steady_stimulus"], stimulus, rtol=1e-12)
        oscillates = ours["period"].notnull()
        inside = (ours["stimulus"] > 1.05 * ours["hopf_first"]) & (
            ours["stimulus"] < 0.95 * ours["hopf_last"]
        )
        assert oscillates[inside].all() and inside.any()
        assert (ours["cycle_high"] > ours["cycle_low"])[oscillates].all()


def test_one_input_is_halved_and_has_no_interval(data):
    found = run(data, inputs=["draw-1"], models=["li_rinzel"])
    ours = found.sel(model="li_rinzel", operating_point=0.1, added_stimulus=0.1, layer=0, head=2)
    assert np.isfinite(ours["sd_log_gain"]) and np.isnan(ours["sd_log_gain_low"])


def test_moments_of_a_power_law():
    """y = ln C = 0.4 x + noise: the sds and powers are those of numpy, whatever the inputs are."""
    rng = np.random.default_rng(0)
    x = [rng.normal(size=n) for n in (30, 20, 10)]
    y = [0.4 * a + 0.1 * rng.normal(size=len(a)) for a in x]
    sums, (a, b) = gain.moments(x, y), map(np.concatenate, (x, y))
    assert gain.sd_x(sums) == pytest.approx(a.std(), rel=1e-12)
    assert gain.slope(sums) == pytest.approx(np.polyfit(a, b, 1)[0], rel=1e-12)
    best = gain.best_power(sums)
    assert gain.sd_gain(sums, best) == pytest.approx((a - best * b).std(), rel=1e-10)
    for power in (0.99 * best, 1.01 * best):
        assert gain.sd_gain(sums, power) > gain.sd_gain(sums, best)
    assert np.isnan(gain.slope(0 * sums + 1)) and np.isnan(gain.best_power(0 * sums + 1))


def test_a_normaliser_that_does_not_vary_is_told(data):
    same = data.copy(deep=True)
    same["q"][:] = 0
    same["mask"][:] = True
    for name in "kv":
        same[name] = same[name].fillna(0)
    found = run(same, models=["chi"])
    assert (found["note"].sel(head=0) == "the normaliser does not vary").all()
    assert found["readout_exponent"].isnull().all()
    calcium_readout({"a": found.assign_attrs(data="equal queries")})


def test_figure(found, tmp_path):
    nothing = found.copy(deep=True)
    for name in nothing.data_vars:
        if nothing[name].dtype == float:
            nothing[name][:] = np.nan
    odd = found.assign_attrs(data="x $^$ y").sel(model=["chi"])
    for fits in (
        {"a": found},
        {str(i): odd for i in range(6)},
        {"a": nothing},
        {"a": odd, "b": found},
    ):
        for run in "ab":
            figure = calcium_readout(fits)
            assert figure.get_figwidth() <= palette.PAGE
            job.save_figure(figure, [tmp_path / f"{run}.svg"], {})
        assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    figure = calcium_readout({"a": found})
    panel = figure.axes[2 * 3]  # the first head and model
    plain = [line.get_ydata() for line in panel.lines if line.get_marker() == "o"]
    head = found.sel(model="li_rinzel", layer=0, head=0)
    np.testing.assert_array_equal(plain, head["sd_log_gain_plain"])
