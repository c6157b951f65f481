"""The network in continuous time: closed forms, integrators, limits, and what must not be asked."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from tripartite import dynamics, network
from tripartite.dynamics import Constants, Diverged, Period, State, exact, runge_kutta, write

M, E, K = 12, 3, 70  # more tokens than a block
T = 0.7


def constants_of(hidden, last, hebbian, presynaptic, calcium, *leaks, release=0.0):
    """Time constants of these variables, and leaks of H and g."""
    times = dict(zip(TIMES, (hidden, last, hebbian, presynaptic, calcium)))
    return Constants(**times, **dict(zip(LEAKS, leaks)), release=release)


TIMES = ("tau_hidden", "tau_last", "tau_hebbian", "tau_presynaptic", "tau_calcium")
LEAKS = ("leak_hebbian", "leak_presynaptic")
CASES = {
    "plain": constants_of(0.05, 0.08, 1.3, 0.7, 0.2),
    "one time constant": constants_of(0.1, 0.1, 1.0, 1.0, 0.1),
    "leaks": constants_of(0.05, 0.08, 1.3, 0.7, 0.2, 0.3, 0.9),
    "leaks at the time constants": constants_of(0.5, 0.5, 1.0, 1.0, 0.5, 2.0, 2.0),
}
each_case = pytest.mark.parametrize("constants", CASES.values(), ids=CASES)


def draw(n_tokens=K, seed=0):
    """A state that has learnt something, rates [n, M] and values [n, E]."""
    rng = np.random.default_rng(seed)
    sizes = [(M,), (E,), (E, M), (M,), (), (n_tokens, M), (n_tokens, E)]
    *state, rates, v = (torch.from_numpy(np.array(rng.random(size) + 0.1)) for size in sizes)
    return State(*state), rates, v - 0.6


def close(got, wanted, rtol):
    for name, one, other in zip(State._fields, got, wanted):
        error = float((one - other).norm() / other.norm())
        assert error < rtol, f"{name}: {error}"


rate = st.floats(0, 1e4) | st.sampled_from([0.0, 1.0, 1 + 1e-9, 50.0])


@given(st.floats(1e-3, 10), rate, rate)
def test_two_exponentials_convolved(seconds, a, b):
    got = dynamics._overlap(seconds, a, b)
    low, gap = min(a, b), abs(a - b) * seconds
    share = -math.expm1(-gap) / gap if gap else 1.0
    assert got == pytest.approx(seconds * math.exp(-low * seconds) * share, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(
    "rates", [(2, 3, 5), (2, 2, 2), (0, 0, 1e-7), (3, 3 + 1e-8, 40), (0, 900, 900), (1, 2.4, 3.9)]
)
def test_three_exponentials_convolved(rates):
    a, b, c = rates

    def inner(t):  # of the last two, integrated numerically
        return quad(lambda s: math.exp(-b * (t - s) - c * s), 0, t, epsabs=0, epsrel=1e-12)[0]

    points = [x for x in (0.7 - 20 / max(rates), 20 / max(rates)) if 0 < x < 0.7]
    wanted, _ = quad(
        lambda t: math.exp(-a * (0.7 - t)) * inner(t),
        0,
        0.7,
        points=points or None,
        epsabs=0,
        epsrel=1e-10,
    )
    assert dynamics._overlap(0.7, *rates) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("tau", [(0.05, 0.08), (0.3, 0.3), (1e-4, 3.0)])
def test_one_token_in_closed_form(tau):
    """The formula without leak, as it is derived by hand."""
    (tau_h, tau_l), (state, rates, v) = tau, draw(1)
    constants = constants_of(tau_h, tau_l, 1.3, 0.7, 0.2)
    end = exact(state, Period(0, rates[0], v[0], T), constants, 1.0)
    a, b = state.last - v[0], state.hidden - rates[0]

    def area(one):
        return -one * math.expm1(-T / one)

    both = tau_h * tau_l / (tau_h + tau_l)
    growth = T * torch.outer(v[0], rates[0]) + area(tau_l) * torch.outer(a, rates[0])
    growth += area(tau_h) * torch.outer(v[0], b) + area(both) * torch.outer(a, b)
    wanted = State(
        rates[0] + math.exp(-T / tau_h) * b,
        v[0] + math.exp(-T / tau_l) * a,
        state.hebbian + growth / 1.3,
        state.presynaptic + (T * rates[0] + area(tau_h) * b) / 0.7,
        end.calcium,
    )
    close(end, wanted, 1e-12)


def obvious_runge_kutta(state, period, constants, n_steps):
    """The method on the whole state, as in textbooks."""

    def moved(slope, seconds):
        return State(*(x + seconds * dx for x, dx in zip(state, slope)))

    step = period.seconds / n_steps
    for _ in range(n_steps):
        one = dynamics.derivative(state, period, constants)
        two = dynamics.derivative(moved(one, step / 2), period, constants)
        three = dynamics.derivative(moved(two, step / 2), period, constants)
        four = dynamics.derivative(moved(three, step), period, constants)
        state = moved(
            [(a + 2 * (b + c) + d) / 6 for a, b, c, d in zip(one, two, three, four)], step
        )
    return state


@pytest.mark.parametrize("n_steps", [1, 9, 40], ids=lambda n: f"{n} steps")
@pytest.mark.parametrize("release", [0.0, 0.6], ids=["linear", "saturating"])
@pytest.mark.parametrize("r", [0, 1], ids=["write", "read"])
@each_case
def test_runge_kutta_is_the_obvious_one(constants, r, release, n_steps):
    """With few steps it is unstable: they agree even while they diverge."""
    state, rates, v = draw(1)
    period, constants = Period(r, rates[0], v[0], T), replace(constants, release=release)
    wanted = obvious_runge_kutta(state, period, constants, n_steps)
    close(runge_kutta(state, period, constants, T / n_steps), wanted, 1e-12)


def test_derivative_is_the_equations():
    """As they are written, with every term."""
    state, rates, v = draw(1)
    h, last, hebbian, g, p = state
    constants = replace(CASES["leaks"], release=0.6)
    for r in (0, 1):
        recalled = hebbian @ h / p + v[0]
        wanted = State(
            (rates[0] - h) / 0.05,
            ((recalled if r else v[0]) - last) / 0.08,
            (1 - r) * torch.outer(last, h) / 1.3 - 0.3 * hebbian,
            (1 - r) * 0.6 * h * (1 - g) / 0.7 - 0.9 * g,
            (g @ h - p) / 0.2,
        )
        close(dynamics.derivative(state, Period(r, rates[0], v[0], T), constants), wanted, 1e-13)


@each_case
@pytest.mark.parametrize("r", [0, 1], ids=["write", "read"])
def test_integrators_agree_with_the_closed_form(constants, r):
    state, rates, v = draw(1)
    period = Period(r, rates[0], v[0], T)
    wanted = exact(state, period, constants, 1.0)
    close(runge_kutta(state, period, constants, 5e-4), wanted, 1e-10)
    close(dynamics.adaptive(state, period, constants, 1.0), wanted, 1e-9)


@each_case
def test_runge_kutta_converges_to_it_with_order_4(constants):
    state, rates, v = draw(1)
    period = Period(0, rates[0], v[0], T)
    wanted = exact(state, period, constants, 1.0).hebbian
    error = [
        float((runge_kutta(state, period, constants, T / n).hebbian - wanted).norm())
        for n in (200, 400)
    ]
    assert math.log2(error[0] / error[1]) == pytest.approx(4, abs=0.15)


@each_case
def test_tokens_together_are_tokens_one_by_one(constants):
    state, rates, v = draw()
    wanted = state
    for one, value in zip(rates, v):
        wanted = exact(wanted, Period(0, one, value, T), constants, 1.0)
    close(write(state, rates, v, T, constants), wanted, 1e-12)


@given(*[st.floats(1e-3, 30)] * 5, st.floats(0, 5), st.floats(0, 5), st.integers(1, K - 1))
@settings(max_examples=40)
def test_writing_can_stop_and_go_on(a, b, c, d, e, leak_h, leak_g, first):
    constants = constants_of(a, b, c, d, e, leak_h, leak_g)
    state, rates, v = draw()
    half = write(state, rates[:first], v[:first], T, constants)
    got = write(half, rates[first:], v[first:], T, constants)
    whole = write(state, rates, v, T, constants)
    for one, other in zip(got, whole):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10 * float(other.abs().max()))


@given(st.floats(1e-3, 30), st.floats(1e-2, 30))
@settings(max_examples=40)
def test_presynaptic_weights_count_what_was_fired(tau_h, tau_g):
    """tau_g g + tau_h h gains exactly the integral of the rates."""
    rates, v = draw()[1:]
    rest = dynamics.rest(M, E)
    end = write(rest, rates, v, T, constants_of(tau_h, 0.1, 1.0, tau_g, 0.2))
    wanted = (T * rates.sum(0) - tau_h * end.hidden) / tau_g
    torch.testing.assert_close(end.presynaptic, wanted, rtol=1e-11, atol=1e-12 * K * T / tau_g)


def test_reading_relaxes_calcium_to_the_normaliser():
    """p(t) = Z + (p_0 - Z) exp(-t / tau_p) and an output of o Z / p, where h and l are fast."""
    state, rates, _ = draw(1)
    constants = constants_of(1e-9, 1e-9, 1.0, 1.0, 0.4)
    skip = torch.full((E,), 0.3, dtype=torch.float64)
    end = exact(state, Period(1, rates[0], skip, T), constants, 1.0)
    z = state.presynaptic @ rates[0]
    calcium = z + (state.calcium - z) * math.exp(-T / 0.4)
    torch.testing.assert_close(end.calcium, calcium, rtol=1e-8, atol=0)
    _, settled = dynamics.read_out(state.hebbian, state.presynaptic, rates)
    torch.testing.assert_close(end.last, settled[0] * z / calcium + skip, rtol=1e-7, atol=0)
    torch.testing.assert_close(end.hebbian, state.hebbian, rtol=0, atol=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["exact", "adaptive"])
def test_fast_time_constants_give_the_algebra(causal, name):
    """The network of the paper, token by token, is the limit tau_h, tau_l << tau_p << T."""
    rng = np.random.default_rng(1)
    q, k, v = (0.5 * torch.from_numpy(rng.standard_normal((4, 3))) for _ in range(3))
    hidden = network.Hidden(
        torch.from_numpy(rng.standard_normal((M, 3))), torch.zeros(M, dtype=torch.float64)
    )
    tokens = network.Tokens(q, k, v, torch.zeros(4, dtype=torch.float64))
    p, last = network.sequential(torch.zeros_like(v), tokens, hidden, causal)
    rates_k, rates_q = (network.rates(hidden, x, M)[0].exp() / M**0.5 for x in (k, q))
    tau = 1e-6 if name == "exact" else 1e-3
    constants = constants_of(tau, tau, 1.0, 1.0, 20 * tau)
    state = dynamics.rest(M, 3)
    periods = dynamics.protocol(rates_k, rates_q, v, 1.0, 1.0, causal)
    assert [one.r for one in periods] == ([0, 1] * 4 if causal else [0] * 4 + [1] * 4)
    calcium, outputs = [], []
    for period in periods:
        state = dynamics.INTEGRATORS[name](state, period, constants, 1.0)
        if period.r:
            calcium.append(state.calcium)
            outputs.append(state.last)
    torch.testing.assert_close(torch.stack(calcium), p, rtol=10 * tau, atol=0)
    torch.testing.assert_close(torch.stack(outputs), last, rtol=10 * tau, atol=10 * tau)


def test_leaks_forget_with_age():
    """Both leaks: attention falls by exp(-lambda T) per later token, and still sums to 1."""
    _, rates, v = draw(6)
    leak = 0.8
    end = write(dynamics.rest(M, E), rates, v, T, constants_of(1e-7, 1e-7, 1, 1, 1, leak, leak))
    weights = (rates @ rates.mT) * torch.exp(-leak * T * torch.arange(5, -1, -1))
    wanted = (weights / weights.sum(1, keepdim=True)) @ v
    _, output = dynamics.read_out(end.hebbian, end.presynaptic, rates)
    torch.testing.assert_close(output, wanted, rtol=1e-5, atol=1e-6)


def test_terminals_saturate():
    """g = 1 - exp(-U phi T / tau_g) at constant rates; without a closed form, exact takes steps."""
    state, rates, v = draw(1)
    constants = constants_of(0.05, 0.08, 1.3, 0.7, 0.2, release=0.9)
    state = state._replace(hidden=rates[0], presynaptic=torch.zeros(M, dtype=torch.float64))
    period = Period(0, rates[0], v[0], T)
    end = exact(state, period, constants, 1e-3)
    wanted = 1 - torch.exp(-0.9 * rates[0] * T / 0.7)
    torch.testing.assert_close(end.presynaptic, wanted, rtol=1e-10, atol=0)
    close(dynamics.adaptive(state, period, constants, 1.0), end, 1e-9)
    with pytest.raises(ValueError, match="release: got 0.9, wanted 0"):
        write(state, rates, v, T, constants)


def test_exact_steps_where_calcium_has_a_pole():
    state, rates, v = draw(1)
    constants = CASES["plain"]
    for broken in (
        state._replace(calcium=-state.calcium / 50),
        state._replace(presynaptic=-state.presynaptic),
    ):
        period = Period(1, rates[0], v[0], 0.01)
        got, wanted = (f(broken, period, constants, 1e-3) for f in (exact, runge_kutta))
        close(got, wanted, 1e-15)


def test_a_silent_network_is_silent():
    rest, (_, rates, _) = dynamics.rest(M, E), draw(1)
    nothing = torch.zeros(E, dtype=torch.float64)
    for integrate in dynamics.INTEGRATORS.values():
        end = integrate(rest, Period(1, rates[0], nothing, T), CASES["plain"], 0.01)
        assert end.calcium == 0 and (end.last == 0).all()
    calcium, output = dynamics.read_out(rest.hebbian, rest.presynaptic, rates)
    assert (calcium == 0).all() and (output == 0).all()


def test_steps_are_stable_up_to_the_limit():
    state, rates, v = draw(1)
    for constants, fastest in (
        (CASES["plain"], 0.05),
        (replace(CASES["leaks"], leak_hebbian=50.0), 0.02),
        (replace(CASES["plain"], tau_calcium=0.01), 0.01),
    ):
        limit = dynamics.stability_limit(constants)
        assert limit == pytest.approx(2.785 * fastest)
        n = 400
        sizes = []
        for step in (0.99 * limit, 1.05 * limit):
            end = runge_kutta(state, Period(0, rates[0], v[0], n * step), constants, step)
            sizes.append(max(float(x.abs().max()) for x in end))
        assert sizes[0] < 1e4 < 1e8 < sizes[1]
    filling = dynamics.stability_limit(replace(CASES["plain"], release=0.5), highest_rate=140.0)
    assert filling == pytest.approx(2.785 * 0.7 / (0.5 * 140))


def test_divergence_is_told():
    state, rates, v = draw(1)
    with pytest.raises(Diverged) as error:
        runge_kutta(state, Period(0, rates[0], v[0], 500.0), CASES["plain"], 0.5)
    time = float(str(error.value).split(" s after")[0].split()[-1])
    assert 0 < time < 500
    assert "step_seconds 0.5, wanted at most 0.139" in str(error.value)
    assert str(error.value).split()[0] in State._fields
    for integrate in dynamics.INTEGRATORS.values():
        infinite = Period(0, torch.full_like(rates[0], torch.inf), v[0], T)
        with pytest.raises(Diverged):
            integrate(state, infinite, CASES["plain"], 0.01)


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_time_constants_are_positive(name, bad):
    state, rates, v = draw(1)
    constants = replace(CASES["plain"], **{name: bad})
    for integrate in dynamics.INTEGRATORS.values():
        with pytest.raises(ValueError, match=f"{name}: got {bad} s, wanted more than 0"):
            integrate(state, Period(0, rates[0], v[0], T), constants, 0.01)
    with pytest.raises(ValueError, match=name):
        write(state, rates, v, T, constants)
    with pytest.raises(ValueError, match=name):
        dynamics.stability_limit(constants)


def test_other_bad_settings():
    state, rates, v = draw(1)
    with pytest.raises(ValueError, match="seconds: got 0.0 s"):
        exact(state, Period(0, rates[0], v[0], 0.0), CASES["plain"], 1.0)
    with pytest.raises(ValueError, match="step_seconds: got -1.0 s"):
        runge_kutta(state, Period(0, rates[0], v[0], T), CASES["plain"], -1.0)
    with pytest.raises(ValueError, match="leak_hebbian: got -1"):
        write(state, rates, v, T, replace(CASES["plain"], leak_hebbian=-1.0))
    with pytest.raises(ValueError, match="at least 1 token"):
        dynamics.protocol(rates[:0], rates[:0], v[:0], 1.0, 1.0, False)


def test_first_order_is_the_derivative():
    """Against the difference quotient at two small time constants, extrapolated to none."""
    _, rates, v = draw(9)
    queries = draw(4, seed=3)[1]
    p_0, o_0 = dynamics.read_out(v.mT @ rates, rates.sum(0), queries)
    quotients = []
    for tau in (2e-4, 1e-4):
        end = write(dynamics.rest(M, E), rates, v, 1.0, constants_of(tau, tau, 1, 1, 1))
        p, o = dynamics.read_out(end.hebbian, end.presynaptic, queries)
        quotients.append(((p / p_0 - 1) / tau, (o - o_0) / tau))
    for law, coarse, fine in zip(dynamics.first_order(rates, v, queries), *quotients):
        torch.testing.assert_close(2 * fine - coarse, law, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n", [1, 8, 40])
def test_excess_of_runge_kutta(n):
    """Against the method itself, on one neuron and one synapse whose input has gone."""
    tau, seconds = 0.4, 1.0
    one = torch.ones(1, dtype=torch.float64)
    state = State(one, one, 0 * one[None], 0 * one, one[0])
    constants = constants_of(tau, tau, 1.0, 1.0, 1.0)
    end = runge_kutta(state, Period(0, 0 * one, 0 * one, seconds), constants, seconds / n)
    wanted = float(end.hebbian) - tau / 2 * -math.expm1(-2 * seconds / tau)
    assert dynamics.runge_kutta_excess(seconds / n, tau, seconds) == pytest.approx(wanted, rel=1e-9)


@given(st.integers(1, 300), st.floats(0, 50))
@settings(max_examples=40)
def test_decaying_sums_are_recurrences(n, exponent):
    x = draw(n)[1]
    wanted = x.clone()
    for i in range(1, n):
        wanted[i] += math.exp(-exponent) * wanted[i - 1]
    torch.testing.assert_close(dynamics._decaying_sum(x, exponent), wanted, rtol=1e-12, atol=0)


def test_no_tokens_change_nothing():
    state, rates, v = draw(1)
    close(write(state, rates[:0], v[:0], T, CASES["plain"]), state, 1e-15)


def test_single_precision_stays_single():
    state, rates, v = draw(5)
    single = State(*(x.float() for x in state))
    end = write(single, rates.float(), v.float(), T, CASES["leaks"])
    assert {x.dtype for x in end} == {torch.float32}
    mixed = write(state, rates.float(), v, T, CASES["leaks"])
    assert {x.dtype for x in mixed} == {torch.float32}
    close(end, write(state, rates, v, T, CASES["leaks"]), 1e-5)
