"""Calcium models: published numbers, two ways to every bifurcation, and Brian2 as a witness."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from tripartite import calcium

MODELS = tuple(calcium.CALCIUM_MODELS)
OSCILLATING = tuple(m for m in MODELS if m != "chi")


# Numbers computed by others' codes: G29.


def test_numbers_of_li_rinzel_with_the_constants_of_nest():
    first, last = calcium.bifurcations("li_rinzel_nest")
    assert first.kind == last.kind == "hopf"
    assert (first.stimulus, first.c, first.omega) == pytest.approx(
        (0.35453, 0.15569, 0.5005), abs=6e-5
    )
    assert (last.stimulus, last.c, last.omega) == pytest.approx((0.63688, 0.3233, 0.5987), abs=6e-5)
    assert calcium.limit_cycle("li_rinzel_nest", 0.4).period == pytest.approx(12.77, abs=0.006)
    cycle = calcium.limit_cycle("li_rinzel_nest", 0.5)
    assert (cycle.period, cycle.lowest, cycle.highest) == pytest.approx(
        (11.49, 0.108, 0.445), abs=0.003
    )


def test_numbers_of_li_rinzel_with_the_constants_of_stimberg():
    found = {(b.kind, round(b.stimulus, 5)) for b in calcium.bifurcations("li_rinzel_stimberg")}
    assert found == {("fold", 0.48086), ("fold", 0.55056), ("hopf", 0.53619), ("hopf", 0.86405)}
    for ip3, period in ((0.6, 29.4), (0.8, 20.3), (1.0, 17.7)):
        cycle = calcium.limit_cycle("li_rinzel_stimberg", ip3)
        assert cycle.period == pytest.approx(period, abs=0.06)
        assert 1.05 <= round(cycle.highest, 2) <= 1.10
    assert np.isfinite(
        calcium.relaxation_seconds("li_rinzel_stimberg", 1.0)
    )  # it can also stay at rest


# Bifurcations by simulation.


def growth_in_simulation(model, stimulus):
    """Growth rate (1/s) of a small deviation from a steady state, from its successive peaks."""
    c = calcium.steady_states(model, np.array([stimulus]))[0][:, 0]
    c = c[np.isfinite(c)][0 if stimulus < 0.6 and model == "li_rinzel_stimberg" else -1]
    rest = calcium.curve(model, np.array(c))[1]
    start = rest * (1 + 1e-5 * np.array([1, -1, 0, 0][: len(rest)]))
    run = solve_ivp(
        lambda _, y: calcium.rates_of_change(model, y, stimulus),
        (0, 60),
        start,
        method="DOP853",
        rtol=1e-11,
        atol=1e-14,
        events=lambda _, y: calcium.rates_of_change(model, y, stimulus)[0],
    )
    times, heights = run.t_events[0][1:], np.abs(run.y_events[0][1:, 0] - c)
    small = heights < 1e-2 * c
    return np.polyfit(times[small], np.log(heights[small]), 1)[0]


@pytest.mark.parametrize("model, place", [(m, i) for m in OSCILLATING for i in (0, -1)])
def test_small_deviations_grow_in_simulation_beyond_a_hopf_point(model, place):
    point = [b for b in calcium.bifurcations(model) if b.kind == "hopf"][place]
    near = point.stimulus * np.array([0.995, 1.005])
    simulated = brentq(lambda x: growth_in_simulation(model, x), *near, xtol=1e-6)
    assert simulated == pytest.approx(point.stimulus, rel=1e-3)


@pytest.mark.parametrize("place", [0, 1])
def test_a_trajectory_passes_a_fold_only_where_the_states_are_gone(place):
    """Both states that meet at a fold of li_rinzel_stimberg repel, so time runs back: a trajectory
    that comes along stops at one of them, or passes. Bisection finds the IP3 between."""
    fold = [b for b in calcium.bifurcations("li_rinzel_stimberg") if b.kind == "fold"][place]
    gone = 1 if place == 0 else -1  # above the first fold by C, below the second
    with_states, without = (fold.stimulus * (1 + sign * 0.002 * gone) for sign in (-1, 1))
    assert not passes(with_states, fold.c) and passes(without, fold.c)
    for _ in range(12):
        middle = (with_states + without) / 2
        with_states, without = (
            (with_states, middle) if passes(middle, fold.c) else (middle, without)
        )
    assert (with_states + without) / 2 == pytest.approx(fold.stimulus, rel=1e-3)


def passes(ip3, c, width=0.004):
    """Whether a trajectory back in time from one side of C reaches the other within 5000 s."""
    cell = calcium.STIMBERG
    q_2 = cell.d_2 * (ip3 + cell.d_1) / (ip3 + cell.d_3)
    for side in (-1, 1):
        start = c + side * width

        def leaves(_, y):
            return abs(y[0] - c) - 6 * width

        leaves.terminal = True
        run = solve_ivp(
            lambda _, y: -calcium.rates_of_change("li_rinzel_stimberg", y, ip3),
            (0, 5000),
            [start, q_2 / (q_2 + start)],
            method="LSODA",
            rtol=1e-9,
            atol=1e-12,
            events=leaves,
        )
        if (run.y[0, -1] - c) * side < -5 * width * abs(side):
            return True
    return False


# Steady states and their exponent.


def least_squares_states(model, stimulus):
    """Steady states by roots of dC/dt on a fine grid of C, with h at rest: the slow obvious way."""
    cell = calcium.CALCIUM_MODELS[model][0]
    q_2 = cell.d_2 * (stimulus + cell.d_1) / (stimulus + cell.d_3)

    def slope(c):
        return calcium.rates_of_change(model, np.array([c, q_2 / (q_2 + c)]), stimulus)[0]

    grid = np.linspace(1e-3, 1.6, 4001)
    signs = np.sign([slope(c) for c in grid])
    return [brentq(slope, *grid[i : i + 2], xtol=1e-14) for i in np.flatnonzero(np.diff(signs))]


@pytest.mark.parametrize(
    "model, stimulus",
    [
        ("li_rinzel_nest", 0.2),
        ("li_rinzel_stimberg", 0.3),
        ("li_rinzel_stimberg", 0.51),
        ("li_rinzel_stimberg", 0.7),
    ],
)
def test_no_steady_state_is_missed(model, stimulus):
    c = calcium.steady_states(model, np.array([stimulus]))[0][:, 0]
    expected = least_squares_states(model, stimulus)
    np.testing.assert_allclose(np.sort(c[np.isfinite(c)]), expected, rtol=1e-10)


@settings(max_examples=60)
@given(model=st.sampled_from(MODELS), stimulus=st.floats(0.01, 10))
def test_steady_states_stay_and_their_eigenvalues_are_those_of_differences(model, stimulus):
    c, growth = calcium.steady_states(model, np.array([stimulus]))
    known = np.isfinite(c[:, 0])
    assert known.any()
    for one, rate in zip(c[known, 0], growth[known, 0]):
        state = calcium.curve(model, np.array(one))[1]
        slopes = calcium.rates_of_change(model, state, stimulus)
        np.testing.assert_allclose(slopes, 0, atol=1e-10)
        step = 1e-6 * np.eye(len(state))
        jacobian = (
            np.array(
                [
                    calcium.rates_of_change(model, state + x, stimulus)
                    - calcium.rates_of_change(model, state - x, stimulus)
                    for x in step
                ]
            ).T
            / 2e-6
        )
        assert np.linalg.eigvals(jacobian).real.max() == pytest.approx(rate, abs=1e-5)


@pytest.mark.parametrize(
    "model, stimulus",
    [("li_rinzel_nest", 0.3), ("li_rinzel_nest", 0.8), ("li_rinzel_stimberg", 0.4), ("g_chi", 1.0)],
)
def test_the_exponent_is_that_of_the_steady_states_nearby(model, stimulus):
    near = stimulus * np.exp([-1e-4, 1e-4])
    rise = np.diff(np.log(calcium.resting(model, near)[0]))[0] / 2e-4
    assert calcium.exponent(model, np.array([stimulus]))[0] == pytest.approx(rise, rel=1e-5)


def test_exponents_of_the_graded_range():
    """Rising with IP3 to above 1 below the first Hopf point, none up to the last, then falling."""
    below, between, above = (
        calcium.exponent("li_rinzel_nest", x)
        for x in (
            np.linspace(0.05, 0.354, 9),
            np.array([0.36, 0.5, 0.63]),
            np.linspace(0.638, 3, 9),
        )
    )
    assert (np.diff(below) > 0).all() and below[-1] > 1 and below[0] < 0.06
    assert np.isnan(between).all()
    assert (np.diff(above) < 0).all() and above[0] < 1


@pytest.mark.parametrize(
    "model, stimulus", [("li_rinzel_nest", 0.2), ("li_rinzel_stimberg", 1.2), ("g_chi", 2.0)]
)
def test_calcium_relaxes_with_the_slowest_time_constant(model, stimulus):
    seconds = calcium.relaxation_seconds(model, stimulus)
    rest = calcium.resting(model, np.array([stimulus]))[0][0]
    before = calcium.drive(model, np.array([1.001 * stimulus]), 1.0)
    assert before[0] == pytest.approx(
        calcium.resting(model, np.array([1.001 * stimulus]))[0][0], rel=1e-8
    )
    c = calcium.drive(model, np.r_[1.001 * stimulus, np.full(400, stimulus)], seconds / 50) - rest
    envelope = np.abs(c).reshape(-1)[1:]
    peaks = np.array(
        [part.max() for part in np.array_split(envelope[100:], 4)]
    )  # 1.5 time constants each
    rate = -np.polyfit(1.5 * np.arange(4), np.log(peaks), 1)[0]
    assert rate == pytest.approx(1, abs=0.15)


def test_relaxation_is_not_known_where_calcium_oscillates():
    assert np.isnan(calcium.relaxation_seconds("li_rinzel_nest", 0.5))


# Bistability.


def settles(model, stimulus, start, seconds=3000):
    """Range of calcium (uM) in the last tenth of a simulation: the slow obvious way."""
    run = solve_ivp(
        lambda _, y: calcium.rates_of_change(model, y, stimulus),
        (0, seconds),
        start,
        method="LSODA",
        rtol=1e-9,
        atol=1e-11,
    )
    late = run.y[0, run.t > 0.9 * seconds]
    return late.min(), late.max()


@pytest.mark.parametrize("ip3", [0.9, 1.0, 1.1])
def test_li_rinzel_rests_or_oscillates_above_its_last_hopf_point(ip3):
    """The Hopf point of the resting state is at 0.864 uM: cycles from a far start live beyond."""
    model = "li_rinzel_stimberg"
    c, regime = calcium.answer(model, np.array([ip3]))
    assert calcium.REGIMES[regime[0]] == "bistable"
    rest = calcium.curve(model, c[0])[1]
    assert np.ptp(settles(model, ip3, 1.001 * rest)) < 1e-3
    low, high = settles(model, ip3, [0.1, 0.8])
    assert low < 0.04 and high > 1


@pytest.mark.parametrize("model", OSCILLATING)
def test_an_oscillation_lives_up_to_its_ends_and_not_beyond(model):
    """Continued by small even steps from the middle; what is beyond the ends comes to rest."""
    ends = calcium.oscillation(model)
    for end, sign in zip(ends, (-1, 1)):
        inside = end * np.exp(-0.02 * sign)
        cycle = calcium.limit_cycle(model, end * np.exp(-0.1 * sign))
        for stimulus in np.geomspace(end * np.exp(-0.1 * sign), inside, 9):
            cycle = calcium.limit_cycle(model, stimulus, cycle.state)
        assert np.isfinite(cycle.period)
        beyond = end * np.exp(0.02 * sign)
        assert np.ptp(settles(model, beyond, cycle.state, 6000)) < 1e-2


def test_known_ends_of_oscillations():
    """The upper Hopf point of NEST's constants is subcritical as well, in a range of 0.2 %."""
    assert calcium.oscillation("li_rinzel_stimberg") == pytest.approx((0.536, 1.137), abs=2e-3)
    first, last = calcium.oscillation("li_rinzel_nest")
    hopf = calcium.bifurcations("li_rinzel_nest")[1].stimulus
    assert hopf < last < 1.004 * hopf and first == pytest.approx(0.3545, rel=3e-3)
    low, high = settles("li_rinzel_nest", 0.6373, [0.1, 0.8], 20000)
    assert high - low > 0.2
    assert np.isnan(calcium.oscillation("chi")).all()


@pytest.mark.parametrize("model", MODELS)
def test_regimes_are_those_of_starts_at_random(model):
    """Bounded trajectories from random states: all rest at one calcium, or none, or some do."""
    rng = np.random.default_rng(1)
    span = calcium.CALCIUM_MODELS[model].span
    stimuli = np.exp(rng.uniform(*np.log(span), 8))
    marks = [b.stimulus for b in calcium.bifurcations(model)] + list(calcium.oscillation(model))
    c, regimes = calcium.answer(model, stimuli)
    seen = set()
    for stimulus, rest, regime in zip(stimuli, c, regimes):
        if np.nanmin(np.abs(np.log(stimulus / np.array([*marks, 1e9])))) < 0.05:
            continue  # transients are long there
        n = calcium.CALCIUM_MODELS[model].n_variables
        starts = rng.uniform(0, 1, (2, n))
        ends = np.array([settles(model, stimulus, start, 1000) for start in starts])
        at_rest = np.abs(ends - rest).max(1) < 1e-3
        seen.add(calcium.REGIMES[regime])
        if calcium.REGIMES[regime] == "rest":
            assert at_rest.all()
        elif calcium.REGIMES[regime] == "oscillates":
            assert not at_rest.any() and (np.ptp(ends, 1) > 1e-2).all()
    assert "rest" in seen


@pytest.mark.parametrize("model", MODELS)
def test_the_answer_is_the_resting_state(model):
    """Stability from bifurcations is that from the eigenvalues of every state."""
    stimulus = np.geomspace(*calcium.CALCIUM_MODELS[model].span, 301)
    c, regime = calcium.answer(model, stimulus)
    np.testing.assert_allclose(c, calcium.resting(model, stimulus)[0], rtol=1e-12)
    np.testing.assert_array_equal(regime == 2, np.isnan(c))
    first, last = calcium.oscillation(model)
    several = (calcium.steady_states(model, stimulus)[1] < 0).sum(0) > 1
    beside = (stimulus >= first) & (stimulus <= last) & np.isfinite(c)
    np.testing.assert_array_equal(regime == 1, beside | several)


def test_chi_keeps_its_own_ip3():
    """Without a source phospholipase C delta alone holds IP3 near 1 uM: calcium rests at 0.435 uM,
    as Li-Rinzel with that IP3, and the largest published source moves it by 6 %."""
    c, regime = calcium.answer("chi", np.array([1e-6, 1.8]))
    assert (regime == 0).all()
    assert c[0] == pytest.approx(0.43535, abs=1e-4) and c[1] / c[0] == pytest.approx(
        1.056, abs=2e-3
    )
    ip3 = calcium.curve("chi", c)[1][2]
    np.testing.assert_allclose(calcium.resting("li_rinzel_stimberg", ip3)[0], c, rtol=1e-9)
    low, high = settles("chi", 1.8, [0.05, 0.9, 0.1])
    assert low == pytest.approx(c[1], abs=1e-4) and high == pytest.approx(c[1], abs=1e-4)


# Brian2.

CASES = {
    "li_rinzel_nest": [0.3, 0.5, 0.5, 0.2],
    "li_rinzel_stimberg": [0.3, 0.7, 0.7, 0.7],
    "chi": [0.1, 40.0, 40.0, 0.1],
    "g_chi": [0.6, 0.3, 0.0, 1.0],
}


def test_brian2_finds_the_same_trajectories():
    given = {}
    for model, stimuli in CASES.items():
        c = calcium.resting(model, np.array(stimuli[:1]))[0][0]
        given[model] = calcium.curve(model, np.array(c))[1].tolist(), stimuli
    script = Path(__file__).with_name("brian2_witness.py")
    run = subprocess.run(
        [sys.executable, script], input=json.dumps(given), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    for model, theirs in json.loads(run.stdout).items():
        ours = calcium.drive(model, np.repeat(CASES[model], 100), 0.1)
        assert np.ptp(ours) > 0.2  # there is something to agree on
        np.testing.assert_allclose(theirs[1:], ours[:-1], atol=1e-5)


# Driving.


def test_calcium_follows_a_slow_stimulus_and_stays_at_rest():
    stimulus = np.linspace(0.1, 0.2, 200)
    c = calcium.drive("li_rinzel_nest", stimulus, 30.0)
    np.testing.assert_allclose(c, calcium.resting("li_rinzel_nest", stimulus)[0], rtol=1e-2)
    still = calcium.drive("li_rinzel_stimberg", np.full(20, 0.3), 5.0)
    np.testing.assert_allclose(
        still, calcium.resting("li_rinzel_stimberg", np.array([0.3]))[0][0], rtol=1e-9
    )


@pytest.mark.parametrize("bad", [-0.1, np.nan, np.inf, 1001.0])
def test_a_stimulus_that_cannot_be_is_told(bad):
    with pytest.raises(ValueError, match="stimulus: got .* uM, wanted 0 to 1000 at all times"):
        calcium.drive("li_rinzel_nest", np.array([0.2, bad]), 0.1)


def test_less_than_nothing_by_rounding_is_nothing():
    stimulus = np.array([0.5, 0.0, 0.5])
    np.testing.assert_array_equal(
        calcium.drive("g_chi", stimulus - [0, 1e-18, 0], 0.1), calcium.drive("g_chi", stimulus, 0.1)
    )


@pytest.mark.parametrize("model", MODELS)
def test_no_oscillation_is_found_where_rounding_alone_turns_calcium(model):
    """Stimuli that leave the cell at rest, from none to the least of a study."""
    for stimulus in (1e-301, 1e-9, 1.840470353959032e-05):
        assert np.isnan(calcium.limit_cycle(model, stimulus).period)


def nest_astrocyte(ip3):
    """Period (ms), lowest and highest calcium (uM) of NEST's astrocyte_lr_1994 at an IP3 (uM).

    Its equations and default parameters as its manual has them, in ms and uM, with what the store
    holds (calc_ER) written out and calcium kept between 0 and the total inside the right-hand side.
    """
    total, ratio, rate_ip3r, rate_l, rate_serca = 2.0, 0.185, 0.006, 0.00011, 0.0009
    km_serca, kd_act, kd_inh, kd_ip3_1, kd_ip3_2, k_ip3r = 0.1, 0.08234, 1.049, 0.13, 0.9434, 0.0002

    def slopes(_, y):
        calc, h = max(0.0, min(y[0], total)), y[1]
        calc_er = (total - calc) / ratio
        open_share = ip3 / (ip3 + kd_ip3_1) * calc / (calc + kd_act) * h
        channel = ratio * rate_ip3r * open_share**3 * (calc_er - calc)
        leak = ratio * rate_l * (calc_er - calc)
        pump = rate_serca * calc**2 / (km_serca**2 + calc**2)
        alpha = k_ip3r * kd_inh * (ip3 + kd_ip3_1) / (ip3 + kd_ip3_2)
        return [channel - pump + leak, alpha * (1 - h) - k_ip3r * calc * h]

    def peak(t, y):
        return slopes(t, y)[0]

    peak.direction = -1
    run = solve_ivp(
        slopes,
        (0, 1.5e6),
        [0.1, 0.8],
        method="LSODA",
        rtol=1e-10,
        atol=1e-12,
        events=peak,
        dense_output=True,
    )
    before, last = run.t_events[0][-2:]
    cycle = run.sol(np.linspace(before, last, 20001))[0]
    return last - before, cycle.min(), cycle.max()


@pytest.mark.parametrize("ip3", [0.36, 0.4, 0.5, 0.63])
def test_li_rinzel_is_the_astrocyte_of_nest(ip3):
    """In 1 / s where NEST has 1 / ms: rates times 1000, concentrations as they are."""
    period, lowest, highest = nest_astrocyte(ip3)
    ours = calcium.limit_cycle("li_rinzel_nest", ip3)
    np.testing.assert_allclose(
        [ours.period, ours.lowest, ours.highest], [period / 1000, lowest, highest], rtol=1e-3
    )


def test_the_astrocyte_of_nest_oscillates_between_its_hopf_points():
    hopf = [b.stimulus for b in calcium.bifurcations("li_rinzel_nest") if b.kind == "hopf"]
    np.testing.assert_allclose(hopf, [0.354, 0.637], atol=6e-4)


def test_divergence_names_variable_and_time(monkeypatch):
    def diverging(model, state, stimulus):
        return [1e3 * state[0] ** 2 if stimulus > 0.3 else 0.0, 0.0]

    monkeypatch.setattr(calcium, "_slopes", diverging)
    with pytest.raises(calcium.Diverged, match="calcium C is not finite at 0.2 s"):
        calcium.drive("li_rinzel_nest", np.array([0.2, 0.4]), 0.1)
