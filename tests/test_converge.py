"""Continuous time approaches the algebra in both phases, and the figure shows it."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt

from conftest import assert_drawn_alike, random_heads, run_stage
from tripartite import dynamics, job
from tripartite.contracts import UserError, check, describe
from tripartite.kinds.convergence import limit
from tripartite.kinds.convergence.converge import converge
from tripartite.kinds.convergence.convergence import answer, convergence, heads_of, table
from tripartite.network import Hidden
from tripartite.streams import stream

SETTINGS = {
    "n_features": [5, 40],
    "n_seeds": 3,
    "ratios": [0.1, 0.3, 0.03, 0.01, 0.003],
    "steps": [8, 64, 32, 100],
    "heads": [[0, 0], [0, 1]],
    "inputs": ["draw-0", "draw-2"],
    "seed": 5,
    "data_of": "x",
}


def run(data, **changes):
    return run_stage(converge, data, SETTINGS | changes)


@pytest.fixture(scope="module")
def data():
    """Three heads; the inputs have 20 tokens, but the last has 12."""
    absent = [(-1, slice(12, None))]
    return random_heads([0.5, 4.0, 40.0], 3, absent, n_tokens=20, d_head=4)


@pytest.fixture(scope="module")
def found(data):
    return run(data)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_what_it_returns(found):
    check(describe(found, "convergence"), "convergence", "here")
    run_heads, other = found.isel(head=[0, 1]), found.isel(head=2)
    for name in ("output_error", "calcium_error", "reading_error"):
        assert (run_heads[f"{name}_low"] <= run_heads[name]).all()
        assert (run_heads[name] <= run_heads[f"{name}_high"]).all()
        assert other[name].isnull().all() and other[f"{name}_law"].isnull().all()
    assert (run_heads["slope_note"] == "").all() and (other["slope_note"] == "not run").all()
    np.testing.assert_array_equal(found["ratio"], [0.003, 0.01, 0.03, 0.1, 0.3])
    np.testing.assert_array_equal(found["step"], [8, 32, 64, 100])


def test_errors_by_the_explicit_loop(data, found):
    """The general integrator of dynamics.py, one token and one query after another, from rest."""
    ratio, m, head = 0.3, 5, 1
    constants = dynamics.Constants(
        tau_hidden=ratio, tau_last=ratio, tau_hebbian=1, tau_presynaptic=1, tau_calcium=ratio
    )
    errors, calcium_errors, reading_errors = [], [], []
    for index in range(3):
        omega = stream(5, "x", "omega", index, 0, head).standard_normal((40, 4))[:m]
        for i in (0, 2):
            present = data["mask"].values[i]
            q, k, v = (data[name].values[i, 0, head, present].astype(float) for name in "qkv")
            phi_q, phi_k = (np.exp(x @ omega.T - np.square(x).sum(1)[:, None] / 2) for x in (q, k))
            kernel = phi_q @ phi_k.T
            algebra = kernel @ v / kernel.sum(1, keepdims=True)
            state, p, output, settled = dynamics.rest(m, 4), [], [], []
            tensors = [torch.from_numpy(x) for x in (phi_k, phi_q, v)]
            for period in dynamics.protocol(*tensors, 1.0, 1.0, causal=False):
                state = dynamics.exact(state, period, constants, 1.0)
                if period.r:
                    p.append(float(state.calcium))
                    output.append(state.last.numpy())
                    drive = (state.hebbian @ period.rates).numpy()
                    settled.append(drive / float(state.presynaptic @ period.rates))
            errors.append(np.linalg.norm(output - algebra) / np.linalg.norm(algebra))
            calcium_errors.append(np.median(np.abs(p / kernel.sum(1) - 1)))
            difference = np.array(output) - settled
            reading_errors.append(np.linalg.norm(difference) / np.linalg.norm(settled))
    one = found.sel(ratio=ratio, n_features=m, layer=0, head=head)
    np.testing.assert_allclose(one["output_error"], np.mean(errors), rtol=1e-9)
    np.testing.assert_allclose(one["calcium_error"], np.mean(calcium_errors), rtol=1e-9)
    np.testing.assert_allclose(one["reading_error"], np.mean(reading_errors), rtol=1e-9)


def reading(seed, ratio, n_queries=6, spread=1.0):
    """A written network of 7 neurons, and queries whose rates differ in their logs by spread."""
    rng = np.random.default_rng(seed)
    rates_k, v = np.exp(rng.normal(size=(5, 7))), rng.normal(size=(5, 3))
    rates_q = np.exp(spread * rng.normal(size=(n_queries, 7)))
    constants = limit.constants_of(ratio)
    tensors = (torch.from_numpy(x) for x in (rates_k, v))
    written = dynamics.write(dynamics.rest(7, 3), *tensors, 1.0, constants)
    return written, torch.from_numpy(rates_q), constants


@given(st.integers(0, 1000), st.floats(0.02, 30), st.floats(0, 3))
@settings(max_examples=30)
def test_reading_is_the_differential_equation(seed, ratio, spread):
    """Against dynamics.exact query by query, whatever the units of the rates of each query."""
    written, rates_q, constants = reading(seed, ratio, spread=spread)
    log_unit = torch.from_numpy(np.random.default_rng(seed).normal(size=len(rates_q)))
    scaled = rates_q / log_unit.exp()[:, None]
    calcium, output, _ = limit.read(written, scaled, log_unit, ratio)
    state = written
    for t, rates in enumerate(rates_q):
        state = dynamics.exact(
            state, dynamics.Period(1, rates, torch.zeros(3).double(), 1.0), constants, 1.0
        )
        torch.testing.assert_close(calcium[t] * log_unit[t].exp(), state.calcium, rtol=1e-8, atol=0)
        torch.testing.assert_close(output[t], state.last, rtol=1e-7, atol=1e-12)


def test_the_law_of_reading_is_its_limit():
    """Queries that differ little, or many time constants: the error over its law tends to 1."""
    for spread, ratio, tolerance in ((1e-4, 0.3, 2e-3), (1.0, 1 / 32, 0.02)):
        written, rates_q, _ = reading(3, ratio, spread=spread)
        log_unit = torch.zeros(len(rates_q)).double()
        _, output, law = limit.read(written, rates_q, log_unit, ratio)
        settled = dynamics.read_out(written.hebbian, written.presynaptic, rates_q)[1]
        error, law = (output - settled)[2:], law[2:]  # from writing to reading is no small step
        assert float((error - law).norm() / law.norm()) < tolerance
        assert float(law.norm()) > 1e-12


def test_reading_is_beyond_all_orders(found):
    """Below a ratio of .03 it adds nothing that is seen, at .3 it does."""
    known = found.isel(head=[0, 1])
    assert float(known["reading_error"].sel(ratio=0.01).max()) < 1e-12
    fall = known["reading_error"].sel(ratio=0.1) / known["reading_error"].sel(ratio=0.3)
    assert float(fall.max()) < 0.1  # of first order it would be 1 / 3
    assert float(known["reading_error"].sel(ratio=0.3).min()) > 1e-3


def test_slope_is_1_and_errors_follow_their_laws(found):
    known = found.isel(head=[0, 1])
    np.testing.assert_allclose(known["slope"], 1, atol=0.02)
    assert (known["slope_low"] <= known["slope"]).all()
    small = known.sel(ratio=[0.01, 0.003])
    for name, tolerance in (("output_error", 0.01), ("calcium_error", 1e-9)):
        np.testing.assert_allclose(small[name], small[f"{name}_law"], rtol=tolerance)


def test_calcium_misses_the_last_key(data, found):
    """Its law is the attention that the network pays to the last token."""
    weights = []
    for index in range(3):
        omega = stream(5, "x", "omega", index, 0, 0).standard_normal((40, 4))
        for i in (0, 2):
            present = data["mask"].values[i]
            q, k = (data[name].values[i, 0, 0, present].astype(float) for name in "qk")
            kernel = np.exp(q @ omega.T) @ np.exp(k @ omega.T - np.square(k).sum(1)[:, None] / 2).T
            weights.append(np.median(kernel[:, -1] / kernel.sum(1)))
    law = found["calcium_error_law"].sel(n_features=40, layer=0, head=0)
    np.testing.assert_allclose(law, found["ratio"] * np.mean(weights), rtol=1e-9)


def test_integrator(found):
    """At the middle ratio, 0.03: 8 steps are too few to be stable; the law holds."""
    assert found["integrator_ratio"] == 0.03
    error, law = found["integrator_error"], found["integrator_error_law"]
    np.testing.assert_array_equal(np.isnan(error), [True, False, False, False])
    assert np.isnan(law[0])
    np.testing.assert_allclose(error[1:], law[1:], rtol=1e-6)
    assert found["integrator_order"] == pytest.approx(4, abs=0.3)
    assert float(found["integrator_order_low"]) <= float(found["integrator_order"])


def test_fine_steps_show_the_order(data):
    found = run(data, n_features=[5], steps=[80, 160], ratios=[0.1, 0.3, 0.2], n_seeds=2)
    assert found["integrator_order"] == pytest.approx(4, abs=0.05)
    assert found["integrator_order_law"] == pytest.approx(
        float(found["integrator_order"]), abs=1e-3
    )


def test_norms_beyond_the_range_of_exp_change_nothing(data):
    """A factor common to all keys, or to one query, cancels: |x| = 50 is as good as any."""
    weights = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 4)))
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 4)))
    network = Hidden(weights, torch.zeros(6, dtype=torch.float64))
    plain = torch.exp(x @ weights.mT - x.square().sum(1, keepdim=True) / 2)
    found, far = limit.activity(network, x, x, x), limit.activity(network, 50 * x, 50 * x, x)
    assert torch.isfinite(far.log_unit).all()
    for name, over in (("rates_q", 1), ("rates_k", (0, 1))):
        got = getattr(found, name)
        factor = (plain / got).mean(over, keepdim=True)
        torch.testing.assert_close(got * factor, plain)
        assert torch.isfinite(getattr(far, name)).all()


def test_exponents_do_not_depend_on_the_order_of_the_points():
    """x^1.5 exactly, and noise that no order of the sums may change by a bit."""
    x = np.array([0.3, 0.001, 0.03])
    slopes, note = limit.exponents(x, 2 * np.stack([x**1.5, x]).T, "points")
    np.testing.assert_allclose(slopes, [1.5, 1.0], rtol=1e-13)
    assert note == ""
    errors = np.random.default_rng(0).uniform(size=(3, 4))
    wanted, _ = limit.exponents(x, errors, "points")
    got, _ = limit.exponents(x[::-1], errors[::-1], "points")
    np.testing.assert_array_equal(got, wanted)


def test_a_state_that_is_not_finite_names_its_ratio(data, monkeypatch):
    def diverging(*_):
        raise dynamics.Diverged("hidden is not finite at 3 s")

    monkeypatch.setattr(dynamics, "write", diverging)
    with pytest.raises(UserError, match="convergence: ratios: 0.003: hidden is not finite at 3 s"):
        run(data)


@pytest.mark.parametrize(
    "changes, slope_note, order_note",
    [
        (
            {"ratios": [0.3, 0.1, 0.03], "steps": [16, 20, 24]},
            "1 ratios of at most 0.03, 2 needed",
            "",
        ),
        ({"steps": [1, 2, 40]}, "", "1 steps of at most 0.03 T, 2 needed"),
    ],
)
def test_why_there_is_no_slope(data, changes, slope_note, order_note):
    found = run(data, n_features=[5], **changes)
    assert (found["slope_note"][..., :2] == slope_note).all()
    assert found["integrator_note"] == order_note
    assert found["slope"][..., :2].isnull().all() == bool(slope_note)
    assert np.isnan(found["integrator_order"]) == bool(order_note)
    check(describe(found, "convergence"), "convergence", "here")


def extreme(kind):
    data = random_heads([1.0], 1, n_tokens=1 if kind == "one token" else 5, d_head=3)
    if kind == "no norm":
        data["q"] *= 0
        data["k"] *= 0
    if kind == "no values":
        data["v"] *= 0
    if kind == "silent":
        data["q"] *= 1e8
        data["k"] *= -1e8
    changes = {"ratios": [1e-14, 2e-14, 0.3]} if kind == "fast" else {}
    settings = {"heads": "all", "inputs": "all", "n_features": [5], "steps": [8, 32, 64]}
    return run(data, **settings | changes).assign_attrs(data=f"{kind} $^$, plain")


@pytest.mark.parametrize("kind", ["one token", "no norm", "silent", "no values", "fast"])
def test_extreme_heads(kind, tmp_path):
    found = extreme(kind)
    check(describe(found, "convergence"), "convergence", "here")
    wanted = {
        "no values": "an output is 0, or a query has no response",
        "fast": "0 of 2 errors are beyond rounding, 2 needed",
    }
    if kind != "silent":
        assert (found["slope_note"] == wanted.get(kind, "")).all()
    if kind == "one token":  # key and value are not written in full: H lacks 3/2 tau, g lacks tau
        np.testing.assert_allclose(found["output_error_law"][..., 0, 0, 0], found["ratio"] / 2)
        np.testing.assert_allclose(found["calcium_error_law"][..., 0, 0, 0], found["ratio"])
    assert (found["slope"].notnull() == (found["slope_note"] == "")).all()
    job.save_figure(convergence({"a": found}), [tmp_path / "convergence.png"], {})


def test_figure_draws_the_numbers(found):
    fits = {"a": found.assign_attrs(data="a $^$ model, plain")}
    output, over_law, _ = convergence(fits).axes
    drawn = table(fits)
    for rank, (layer, head) in enumerate(heads_of(found)):
        own = found.isel(n_features=-1, layer=layer, head=head)
        errors = drawn[(drawn["head_rank"] == rank) & (drawn["quantity"] == "output error")]
        np.testing.assert_array_equal(errors["value"], own["output_error"])
        np.testing.assert_array_equal(errors["law"], own["output_error_law"])
        ratio = own["output_error"] / own["output_error_law"]
        np.testing.assert_array_equal(
            over_law.containers[rank].lines[0].get_ydata(), ratio.transpose("ratio")
        )
        lines = [tuple(line.get_ydata()) for line in output.lines]
        assert tuple(own["output_error_law"].values) in lines
    text = answer(fits)
    slopes = found["slope"].isel(n_features=-1)
    assert "τ of 0.003 of" in text and f"power {float(slopes.min()):.4g}" in text
    assert answer({"a": fits["a"].assign(output_error=found["output_error"] * 2)}) != text
    plt.close("all")


def test_figure_of_many_and_of_nothing_is_the_same_each_time(found, tmp_path):
    numbers = [name for name in found.data_vars if found[name].dtype == float]
    nothing = found.assign({name: xr.full_like(found[name], np.nan) for name in numbers})
    fits = {str(i): found.assign_attrs(data=f"experiment {i}") for i in range(5)}
    fits["nothing"] = nothing.assign_attrs(data="nothing")
    assert_drawn_alike(convergence, fits, tmp_path)
