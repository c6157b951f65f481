"""Calcium that lags behind the queries: the recursion, its laws, the ratio needed, the figure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy.integrate import solve_ivp

from conftest import assert_drawn_alike, random_heads, run_stage
from tripartite import calcium
from tripartite.contracts import UserError, check, describe
from tripartite.kinds.data.attend import attend
from tripartite.kinds.settling import calcium_speed, lag
from tripartite.kinds.settling.lag import autocorrelation, sd_law
from tripartite.kinds.settling.settle import MEASURED, MODELS, settle
from tripartite.streams import stream
from tripartite.turns import MAX_EXPM1, log_gain, relaxed

RATIOS = [2.0, 0.1, 0.5, 8.0]
SETTINGS = {
    "n_features": [20, 200],
    "n_seeds": 3,
    "heads": [[0, 0], [0, 2]],
    "inputs": "all",
    "ratios": RATIOS,
    "seed": 5,
    "data_of": "x",
}


def slow(log_z, ratio):
    """The recursion as it stands."""
    p = [np.exp(log_z[0])]
    for z in np.exp(log_z[1:]):
        p.append(z + (p[-1] - z) * np.exp(-ratio))
    return np.array(p)


@pytest.fixture(scope="module")
def data():
    """Inputs of 12 and 9 tokens."""
    absent = [(1, slice(9, None))]
    return random_heads([1.0, 2.0, 6.0], 2, absent, n_tokens=12, d_head=4)


@pytest.fixture(scope="module")
def settled(data):
    return run_stage(settle, data, SETTINGS).assign_attrs(data="drawn")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@given(
    st.lists(st.floats(-20, 20), min_size=2, max_size=12), st.floats(1e-3, 30), st.floats(-900, 900)
)
def test_the_recursion_is_that_of_the_loop(log_z, ratio, shift):
    """A common factor of all normalisers changes no gain, be it beyond float64."""
    log_z = np.array(log_z)
    wanted = slow(log_z, ratio)
    np.testing.assert_allclose(np.exp(relaxed(log_z, ratio)), wanted, rtol=1e-9)
    gain = log_gain(log_z, ratio)
    np.testing.assert_allclose(gain, (log_z - np.log(wanted))[1:], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(log_gain(log_z + shift, ratio), gain, rtol=1e-7, atol=1e-9)


def test_small_gains_keep_their_digits():
    """exp(-40) of a step from 1 to 3: Z / p - 1 = (2 / 3) exp(-40)."""
    gain = np.expm1(log_gain(np.log([1.0, 3.0]), 40.0))
    np.testing.assert_allclose(gain, 2 / 3 * np.exp(-40), rtol=1e-12)


def test_steps_beyond_float64_have_a_gain():
    """After a normaliser exp(2000) times larger p is exp(-T_r / tau) times that; all is smooth."""
    np.testing.assert_allclose(log_gain(np.array([2000.0, 0.0]), 3.0), 3 - 2000)
    np.testing.assert_allclose(log_gain(np.array([0.0, 2000.0]), 3.0), -np.log1p(-np.exp(-3)))
    near, far = (log_gain(np.array([MAX_EXPM1 + x, 0.0]), 3.0) for x in (-1e-9, 1e-9))
    np.testing.assert_allclose(near, far, rtol=1e-9)


def test_the_recursion_is_the_differential_equation():
    """tau dp/dt = Z(t) - p with Z constant for T_r each, integrated numerically."""
    log_z = np.random.default_rng(0).normal(size=6)
    tau, seconds, p = 0.7, 0.3, [np.exp(log_z[0])]
    for z in np.exp(log_z[1:]):
        done = solve_ivp(
            lambda t, p, z=z: (z - p) / tau, (0, seconds), p[-1:], rtol=1e-10, atol=1e-12
        )
        p.append(done.y[0, -1])
    np.testing.assert_allclose(np.exp(relaxed(log_z, seconds / tau)), p, rtol=1e-8)


@pytest.mark.parametrize("start", [0.0, 0.2, 5.0])
def test_reading_time_for_a_given_error(start):
    """G22: T_r = tau ln(|p_0 / Z - 1| (1 + e) / e) if p_0 < Z, with (1 - e) / e if above."""
    error, z = 0.05, 2.0
    factor = (1 + error) / error if start < z else (1 - error) / error
    ratio = np.log(abs(start / z - 1) * factor)
    log_start = np.log(start) if start else -1e4  # a process at rest
    gain = log_gain(np.array([log_start, np.log(z)]), ratio)
    np.testing.assert_allclose(np.abs(np.expm1(gain)), error, rtol=1e-12)
    longer = log_gain(np.array([log_start, np.log(z)]), 1.01 * ratio)
    assert np.abs(np.expm1(longer)) < error


@pytest.mark.parametrize("correlation", [-0.4, 0.0, 0.6])
def test_law_of_the_gain_for_a_correlated_stream(correlation):
    """ln Z is an autoregressive process of small sd and known correlations: 4e5 tokens."""
    n, sd = 400_000, 0.01
    noise = np.random.default_rng(1).normal(size=n) * sd * np.sqrt(1 - correlation**2)
    log_z = np.zeros(n)
    for t in range(1, n):
        log_z[t] = correlation * log_z[t - 1] + noise[t]
    rho = correlation ** np.arange(1.0, 200)
    for ratio in (0.1, 0.7, 2.0, 5.0):
        np.testing.assert_allclose(
            log_gain(log_z, ratio)[100:].std(), sd_law(sd, rho, ratio), rtol=0.015
        )


def test_limits_of_the_law():
    """Slow: sd(ln Z). Fast: exp(-T_r / tau) times the stale law, that of ln(Z_t / Z_t-1)."""
    rho = np.array([0.5, 0.2, 0.1])
    assert sd_law(0.3, rho, 1e-6) == pytest.approx(0.3, rel=1e-5)
    stale = np.sqrt(2) * 0.3 * np.sqrt(1 - 0.5)
    assert sd_law(0.3, rho, 12.0) == pytest.approx(np.exp(-12) * stale, rel=1e-5)


def test_correlations_by_the_loop():
    x = np.random.default_rng(2).normal(size=30)
    d = x - x.mean()
    wanted = [sum(d[t] * d[t + k] for t in range(30 - k)) / (d * d).sum() for k in range(1, 30)]
    np.testing.assert_allclose(autocorrelation(x), wanted, atol=1e-14)
    assert not autocorrelation(np.full(5, 0.1)).any()


def test_what_it_returns(data, settled):
    check(describe(settled, "settling"), "settling", "here")
    np.testing.assert_array_equal(settled["ratio"], np.sort(RATIOS))
    assert settled["gain_error"].isel(head=1).isnull().all()
    assert (settled["ratio_note"].isel(head=1) == "not run").all()
    run = settled.isel(head=[0, 2])
    for name in (
        "gain_error",
        "sd_log_gain",
        "gain_output_error",
        "random_feature_error",
        "total_error",
    ):
        middle, low, high = (run[name + end] for end in ("", "_low", "_high"))
        assert middle.notnull().all() and (low <= middle + 1e-12).all(), name
        assert (middle <= high + 1e-12).all(), name
    np.testing.assert_array_equal(run["gain_error"].sel(ratio=0.5), run["gain_error"][1])
    assert (run["gain_output_error"].diff("ratio") < 0).all()


def test_every_error_by_the_loop(data, settled):
    """Exact network and networks of m neurons, written out token by token."""
    exact = attend(data)
    ratios = np.sort(RATIOS)
    for head in (0, 2):
        medians, variances, stale_errors = [], [], []
        plain, total = np.zeros((2, 3, 2)), np.zeros((len(ratios), 2, 3, 2))
        for i in range(2):
            present = data["mask"].values[i]
            q, k, v = (data[name].values[i, 0, head, present].astype(float) for name in "qkv")
            log_z, o = np.log(np.exp(q @ k.T).sum(1)), exact["output"].values[i, 0, head, present]
            gains = np.array([np.exp(log_z)[1:] / slow(log_z, ratio)[1:] for ratio in ratios])
            medians.append(np.abs(gains - 1))
            variances.append(np.log(gains).var(1))
            norm = np.sqrt(np.square(o[1:]).sum())
            stale_errors.append(
                [np.sqrt(np.square(o[1:] * (g - 1)[:, None]).sum()) / norm for g in gains]
            )
            for index in range(3):
                omega = stream(5, "x", "omega", index, 0, head).standard_normal((200, 4))
                for size, m in enumerate((20, 200)):
                    phi_q, phi_k = (
                        np.exp(x @ omega[:m].T - np.square(x).sum(1)[:, None] / 2) / m**0.5
                        for x in (q, k)
                    )
                    p = phi_q @ phi_k.sum(0)
                    drive = phi_q @ (phi_k.T @ v)
                    error = (drive / p[:, None] - o)[1:]
                    plain[size, index, i] = np.square(error).sum() / norm**2
                    for place, ratio in enumerate(ratios):
                        error = (drive / slow(np.log(p), ratio)[:, None] - o)[1:]
                        total[place, size, index, i] = np.square(error).sum() / norm**2
        at = settled.sel(layer=0, head=head)
        pooled = np.concatenate(medians, 1)
        np.testing.assert_allclose(at["gain_error"], np.median(pooled, 1), rtol=1e-6)
        np.testing.assert_allclose(at["sd_log_gain"], np.sqrt(np.mean(variances, 0)), rtol=1e-6)
        wanted = np.sqrt(np.square(stale_errors).mean(0))
        np.testing.assert_allclose(at["gain_output_error"], wanted, rtol=1e-5)
        np.testing.assert_allclose(
            at["random_feature_error"], np.sqrt(plain.mean((1, 2))), rtol=1e-6
        )
        np.testing.assert_allclose(at["total_error"], np.sqrt(total.mean((2, 3))), rtol=1e-6)


def test_the_ratio_that_is_needed():
    """Error exp(-r): it is as small as e from ln(1 / e) on; humps count until the last."""
    levels = np.array([0.5, 0.1, 0.01])
    falls = np.repeat(np.exp(-lag.GRID)[:, None], 3, 1)
    np.testing.assert_allclose(lag.crossings(falls, levels), np.log(1 / levels), rtol=2e-3)
    power = 0.02 * lag.GRID[:, None] ** [-1.0, -0.5]  # a power of the ratio is exact
    wanted = [0.02 / 0.003, (0.02 / 0.01) ** 2]
    np.testing.assert_allclose(lag.crossings(power, np.array([0.003, 0.01])), wanted, rtol=1e-12)
    hump = (lag.GRID * np.exp(-lag.GRID))[:, None]
    (ratio,) = lag.crossings(hump, np.array([0.1]))
    assert ratio > 1 and ratio * np.exp(-ratio) == pytest.approx(0.1, rel=5e-3)
    for curve, level, word in (
        (falls, 2.0, "smaller at every"),
        (falls, 0.0, "not known"),
        (falls * np.nan, 0.1, "not known"),
        (falls ** (1 / 10), 0.001, "larger up to"),
    ):
        assert np.isnan(lag.crossings(curve[:, :1], np.array([level]))).all()
        assert word in lag.note(curve[:, 0], level)
    assert lag.note(falls[:, 0], 0.1) == ""


@given(st.integers(0, 1000), st.integers(1, 4))
def test_crossings_by_the_loop(seed, n):
    """The last point above the level, and a straight line between logarithms to the next."""
    rng = np.random.default_rng(seed)
    curves = np.exp(rng.normal(size=(len(lag.GRID), n)) - np.linspace(0, 4, len(lag.GRID))[:, None])
    levels = np.exp(rng.uniform(-6, 2, size=n))
    for curve, level, found in zip(curves.T, levels, lag.crossings(curves, levels)):
        above = [i for i, error in enumerate(curve) if error > level]
        if not above or above[-1] == len(curve) - 1:
            assert np.isnan(found)
            continue
        i = above[-1]
        (a, b), (x, y) = np.log(curve[i : i + 2] / level), np.log(lag.GRID[i : i + 2])
        assert found == pytest.approx(np.exp(x + (y - x) * a / (a - b)), rel=1e-9)


def test_times_for_a_lag_of_two_queries(data):
    """Z steps from 1 to 3: the lag errs by (2 / 3) e^-r / (1 - (2 / 3) e^-r) of one output of 2."""
    exact = [(np.log([1.0, 1.0, 3.0]), np.ones((3, 2)))] * 2
    found = lag.of_exact(exact, np.array([1.0]), np.random.default_rng(0))
    ratio, low, high = found["ratio_for_lag"]
    e = np.array([0.1, 0.05]) * np.sqrt(2)  # one of two outputs errs
    np.testing.assert_allclose(ratio, np.log(2 / 3 * (1 + e) / e), rtol=2e-3)
    np.testing.assert_allclose([low, high], [ratio, ratio], rtol=1e-12)  # inputs are equal


def test_doubled_squared_error_is_found_on_the_grid():
    """settled^2 (1 + (exp(-r) / .2)^2) has doubled where exp(-r) = .2."""
    settled = 0.3**2
    slow_ = settled * (1 + np.square(np.exp(-lag.GRID) / 0.2))
    squares = np.concatenate([[2 * settled], slow_])[None, None, :, None]
    np.testing.assert_allclose(lag._crossings(squares), np.log(5), rtol=5e-3)
    assert np.isnan(lag._crossings(np.ones_like(squares))).all()


def test_times_are_those_of_the_models(settled):
    times = settled["relaxation_seconds"]
    for name, model in MODELS.items():
        assert float(times.sel(model=name)) == pytest.approx(calcium.relaxation_seconds(*model))
        assert float(times.sel(model=name)) > max(MEASURED.values())
    for name, seconds in MEASURED.items():
        assert float(times.sel(model=name)) == seconds
    for end in ("", "_low", "_high"):
        ratio = settled[f"seconds_needed{end}"] / settled[f"ratio_for_lag{end}"]
        np.testing.assert_allclose((ratio / times).stack(all=ratio.dims).dropna("all"), 1)
    assert (settled["ratio_for_lag"].isel(head=2).diff("lag_error") > 0).all()


@pytest.mark.parametrize(("model", "ip3"), [("li_rinzel_nest", 0.2), ("li_rinzel_stimberg", 0.3)])
def test_calcium_relaxes_with_the_time_of_its_model(model, ip3):
    """Integrated calcium after a small step of IP3: its last deviation falls by exp(-t / tau)."""
    tau = calcium.relaxation_seconds(model, ip3)
    stimulus = np.full(400, ip3)
    stimulus[0] = 1.001 * ip3
    seconds = tau / 20
    c = calcium.drive(model, np.concatenate([np.full(1, ip3), stimulus]), seconds)
    deviation = c - calcium.resting(model, np.array([ip3]))[0][0]
    late = np.log(np.abs(deviation[60:120]))
    fitted = -seconds / np.polyfit(np.arange(60), late, 1)[0]
    assert fitted == pytest.approx(tau, rel=0.05)


def test_short_inputs_are_refused(data):
    short = data.copy(deep=True)
    short["mask"][1, 2:] = False
    with pytest.raises(UserError, match="input draw-1 has 2 tokens, wanted at least 3"):
        run_stage(settle, short, SETTINGS)


def test_equal_queries_have_no_stale_gain(data):
    """One input, one value of Z: no interval over inputs, no ratio, and it can be drawn."""
    same = data.copy(deep=True)
    same["q"][:] = same["q"][:, :, :, :1].values
    found = run_stage(settle, same, SETTINGS | {"inputs": ["draw-0"]})
    one = found.sel(head=0)
    assert float(one["gain_error"].max()) < 1e-12 and one["gain_error_low"].isnull().all()
    assert one["sd_log_gain_law"].max() < 1e-12
    assert all("smaller at every" in str(note) for note in one["ratio_note"].values.ravel())
    fits = {"a": found.assign_attrs(data="equal queries")}
    figure = calcium_speed.calcium_speed(fits)
    assert "2 of 2 heads: at any time" in figure.axes[0].get_title(loc="left")


def test_figure(settled, tmp_path):
    """Marks are the seconds of the file, the head with the least sd of ln Z first."""
    nothing = settled.copy(deep=True)
    for name in nothing.data_vars:
        if nothing[name].dtype == float and name not in ("ratio", "relaxation_seconds"):
            nothing[name][:] = np.nan
    assert_drawn_alike(calcium_speed.calcium_speed, {"a": settled, "b": nothing}, tmp_path)
    figure = calcium_speed.calcium_speed({"a": settled})
    by_time = np.argsort(settled["relaxation_seconds"].values)
    few = settled["ratio_needed_in_all"].isel(n_features=-1) * settled["relaxation_seconds"]
    seconds = [settled["seconds_needed"].isel(lag_error=i) for i in range(2)]
    sd = settled["sd_log_normalizer"].sel(layer=0)
    assert sd.sel(head=0) < sd.sel(head=2)
    for axis, wanted in zip(figure.axes, [*seconds, few]):
        marks = [line for line in axis.lines if line.get_marker() == "v"]
        for line, head in zip(marks, (0, 2), strict=True):
            drawn = dict(zip(np.round(line.get_ydata().astype(float)), line.get_xdata()))
            one = wanted.sel(layer=0, head=head).values[by_time]
            np.testing.assert_array_equal([drawn.get(i, np.nan) for i in range(len(one))], one)
        assert [line.get_markerfacecolor() == "white" for line in marks] == [False, True]


def test_table_and_answer(settled):
    fits = {"a": settled}
    drawn = calcium_speed.table(fits)
    for end in ("", "_low", "_high"):
        own = drawn.query("criterion == 'output error from lag at most 5 %'")
        own = own.set_index(["model", "head"])[f"seconds{end}"]
        for head in (0, 2):
            wanted = settled[f"seconds_needed{end}"].sel(lag_error=0.05, layer=0, head=head)
            np.testing.assert_array_equal(own.loc[:, head], wanted)
    always = settled["gain_output_error"].max("ratio").sel(layer=0, head=0) < 0.1
    assert (
        always
        and drawn.query("criterion == 'output error from lag at most 10 %' and head == 0")[
            "always"
        ].all()
    )
    before = calcium_speed.answer(fits)
    slow = settled.copy(deep=True)
    for end in ("", "_low", "_high"):
        slow[f"seconds_needed{end}"] *= 1000
    after = calcium_speed.answer({"a": slow})
    assert (
        "2 of 2 heads at τ = 0.1 s (fastest rise" in before and "1 of 2 heads at τ = 0.1" in after
    )
    assert after != before and "nan" not in before.split()


def test_more_heads_than_a_figure_holds(settled):
    """Evenly spread from the easiest to the hardest, and the legend says how many."""
    fits = {str(i): settled for i in range(13)}
    figure = calcium_speed.calcium_speed(fits)
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "12 of 26 heads, easy to hard"
    assert len(calcium_speed.table(fits).groupby(["experiment", "layer", "head"])) == 12
