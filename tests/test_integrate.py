"""The stage that runs one head in continuous time: limits, samples, resuming, and errors."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from conftest import random_heads, run_stage
from tripartite import calcium, dynamics, job
from tripartite.contracts import UserError, check, describe
from tripartite.kinds.dynamics import checks
from tripartite.kinds.dynamics.integrate import integrate
from tripartite.kinds.dynamics.recording import Timetable, intracellular, parts
from tripartite.streams import stream

SETTINGS = {
    "n_features": 30,
    "head": [0, 1],
    "input": "draw-1",
    "order": "bidirectional",
    "token_seconds": 0.25,
    "read_seconds": 0.5,
    "tau_hidden": 0.01,
    "tau_last": 0.01,
    "tau_hebbian": 1.0,
    "tau_presynaptic": 1.0,
    "tau_calcium": 0.05,
    "leak_hebbian": 0.0,
    "leak_presynaptic": 0.0,
    "release": 0.0,
    "calcium": "linear",
    "integrator": "exact",
    "step_seconds": 0.005,
    "sample_seconds": 0.05,
    "seed": 5,
    "data_of": "x",
}
FAST = {"tau_hidden": 1e-5, "tau_last": 1e-5, "tau_calcium": 1e-3}
ORDERS = ("bidirectional", "causal")


def with_gaps():
    """Two heads; two inputs of 20 tokens, of which the second lacks two."""
    data = random_heads([0.5, 2.0], 2, [(1, [3, 19])], n_tokens=20, d_head=4)
    data["text"][1] = [f"word{t}" if t not in (3, 19) else "" for t in range(20)]
    return data


@pytest.fixture(scope="module")
def data():
    return with_gaps()


def run(data, checkpoint=None, **changes):
    checkpoint = {} if checkpoint is None else checkpoint
    return run_stage(integrate, data, SETTINGS | changes, checkpoint=checkpoint)


@pytest.fixture(scope="module")
def traces(data):
    return {order: run(data, order=order) for order in ORDERS}


def by_hand(data, causal):
    """The network's normaliser over ln m and its output, token by token, and exact attention."""
    present = data["mask"].values[1]
    q, k, v = (data[name].values[1, 0, 1, present].astype(float) for name in "qkv")
    omega = stream(5, "x", "omega", 0, 0, 1).standard_normal((32, 4))[:30]
    phi_q, phi_k = (np.exp(x @ omega.T - np.square(x).sum(1)[:, None] / 2) for x in (q, k))
    normalizer, output, exact, log_z = [], [], [], []
    for t in range(len(q)):
        seen = slice(0, t + 1 if causal else None)
        weights = phi_k[seen] @ phi_q[t] / 30
        normalizer.append(weights.sum())
        output.append(weights @ v[seen] / weights.sum())
        softmax = np.exp(k[seen] @ q[t])
        log_z.append(np.log(softmax.sum()))
        exact.append(softmax @ v[seen] / softmax.sum())
    return (np.array(x) for x in (normalizer, output, exact, log_z))


@pytest.mark.parametrize("order", ORDERS)
def test_what_it_returns(data, traces, order):
    found = traces[order]
    check(describe(found, "traces"), "traces", "here")
    assert found.sizes["token"] == 18 and found.sizes["sample"] == 18 * 15
    assert found.sizes["neuron"] == len(set(found["hidden_neuron"].values)) == 6
    np.testing.assert_allclose(found["seconds"], 0.05 * np.arange(1, 271), rtol=1e-14)
    assert list(found["text"].values[:4]) == ["word0", "word1", "word2", "word4"]
    reading = found["control"] == 1
    for name in ("output_error", "normalizer"):
        np.testing.assert_array_equal(found[name].notnull(), reading)
    at = found["seconds"].values - 1e-9
    token = (at // 0.75) if order == "causal" else np.where(at < 4.5, at // 0.25, (at - 4.5) // 0.5)
    wanted = (at % 0.75 > 0.25) if order == "causal" else at > 4.5
    np.testing.assert_array_equal(reading, wanted)
    np.testing.assert_array_equal(found["token_on"], token)


@pytest.mark.parametrize("order", ORDERS)
def test_the_algebra_is_the_network_by_hand(data, traces, order):
    found = traces[order]
    normalizer, output, exact, log_z = by_hand(data, order == "causal")
    unit = np.exp(float(found["log_calcium_unit"]))
    np.testing.assert_allclose(found["normalizer_network"] * unit, normalizer, rtol=1e-10)
    np.testing.assert_allclose(found["log_normalizer"], log_z, rtol=1e-6)
    error = np.linalg.norm(output - exact, axis=1) / np.linalg.norm(exact, axis=1)
    np.testing.assert_allclose(found["output_error_algebra"], error, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_short_time_constants_give_the_algebra(data, order):
    """First order: ten times shorter, ten times closer; and cosine and error belong together."""
    gaps = []
    for factor in (10, 1):
        found = run(data, order=order, **{key: factor * value for key, value in FAST.items()})
        gap = abs(found["output_error_read"] - found["output_error_algebra"])
        gaps.append(float(gap.max()))
    settled = abs(found["calcium_read"] / found["normalizer_network"] - 1).max()
    assert gaps[1] < 2e-3 and 7 < gaps[0] / gaps[1] < 13 and settled < 2e-3
    last = found.isel(sample=found["control"].values == 1)
    error, cosine = last["output_error"].values, last["output_cosine"].values
    assert (cosine <= 1 + 1e-12).all() and (
        error >= np.sqrt(1 - cosine.clip(-1, 1) ** 2) - 1e-9
    ).all()


def test_release_and_plasticity_are_in_the_unit_of_calcium(data):
    """Hardly any saturation at a slow plasticity: p in units of Z is what it is without."""
    slow = {"tau_hebbian": 1e4, "tau_presynaptic": 1e4, "integrator": "runge_kutta"}
    plain, saturating = (run(data, **slow, release=u) for u in (0.0, 0.5))
    unit = [np.exp(float(found["log_calcium_unit"])) for found in (plain, saturating)]
    np.testing.assert_allclose(
        saturating["calcium_read"] * unit[1], plain["calcium_read"] * unit[0], rtol=1e-3
    )
    assert unit[1] / unit[0] == pytest.approx(2)


def test_integrators_agree_and_samples_do_not_disturb(data, traces):
    exact = traces["bidirectional"]
    other = run(data, integrator="runge_kutta", step_seconds=0.001)
    for name in ("rates", "hebbian", "presynaptic", "calcium", "output_error"):
        scale = float(abs(exact[name]).max())
        np.testing.assert_allclose(other[name], exact[name], atol=1e-5 * scale)
    finer = run(data, sample_seconds=0.02)
    assert finer.sizes["sample"] == 675
    for name in ("calcium_read", "output_error_read"):
        np.testing.assert_allclose(finer[name], exact[name], rtol=1e-9)


def test_neurons_and_synapses_are_those_recorded(data, traces):
    """H and g at the end of writing, by the sum over tokens, of the recorded neurons and units."""
    found = run(data, **FAST)
    present = data["mask"].values[1]
    k, v = (data[name].values[1, 0, 1, present].astype(float) for name in "kv")
    omega = stream(5, "x", "omega", 0, 0, 1).standard_normal((32, 4))[:30]
    log_phi = k @ omega.T - np.square(k).sum(1)[:, None] / 2
    phi = np.exp(log_phi - log_phi.max())[:, found["hidden_neuron"].values]
    written = found.isel(sample=int((found["control"] == 0).sum()) - 1)
    np.testing.assert_allclose(written["rates"], phi[-1], rtol=1e-9)
    np.testing.assert_allclose(written["presynaptic"], 0.25 * phi.sum(0), rtol=1e-3)
    synapses = 0.25 * v.T @ phi  # [E, neuron]
    np.testing.assert_array_equal(found["output_unit"], abs(synapses).argmax(0))
    largest = synapses[found["output_unit"].values, np.arange(6)]
    np.testing.assert_allclose(written["hebbian"], largest, rtol=1e-3, atol=1e-5)
    assert len(set(phi[:12, :3].argmax(0))) == 3  # different tokens


class CutOff(dict):
    """A store that ends the run once the state of the second piece is kept."""

    def __setitem__(self, key, value):
        super().__setitem__(key, {name: np.array(x) for name, x in value.items()})
        if key == "state" and value["done"] == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("order", ORDERS)
def test_a_run_that_was_cut_off_goes_on(data, traces, order, tmp_path):
    """The same bytes; what was finished is not done again, and what is damaged is."""
    store = CutOff()
    with pytest.raises(KeyboardInterrupt):
        run(data, store, order=order)
    assert set(store) == {"piece-0", "piece-1", "state"}
    kept = job.Checkpoint(tmp_path / "traces.nc", order)
    kept.update(store)
    kept["piece-0"] = kept["piece-0"] | {"calcium": 7 + 0 * kept["piece-0"]["calcium"]}
    again = run(data, kept, order=order)
    assert (again["calcium"] == 7).sum() == len(store["piece-0"]["calcium"])
    kept = job.Checkpoint(tmp_path / "other.nc", order)
    kept.update(store)
    again = run(data, kept, order=order)
    assert len(kept) == 4
    for name in traces[order].variables:
        values, wanted = (one[name].values for one in (again, traces[order]))
        assert values.dtype == object or values.tobytes() == wanted.tobytes(), name
    xr.testing.assert_identical(again, traces[order])
    del store["piece-0"]
    xr.testing.assert_identical(run(data, dict(store), order=order), traces[order])


@given(
    st.fractions(0, 10, max_denominator=50),
    st.fractions("1/50", 5, max_denominator=50),
    st.fractions("1/50", 3, max_denominator=50),
)
def test_parts_of_a_period(start, seconds, sample):
    cut = list(parts(start, seconds, sample))
    assert cut[-1][0] == start + seconds
    assert sum(Fraction(part[1]) for part in cut) == pytest.approx(seconds, rel=1e-14)
    assert all(0 < part[1] <= float(sample) for part in cut)
    ends = [end for end, _, sampled in cut if sampled]
    count = (start + seconds) // sample - start // sample
    assert len(ends) == count and all(end % sample == 0 for end in ends)


def test_samples_longer_than_a_token(data, traces):
    found = run(data, sample_seconds=0.6)
    assert found.sizes["sample"] == 22
    at = traces["bidirectional"].isel(sample=slice(11, None, 12))
    np.testing.assert_allclose(found["calcium"], at["calcium"], rtol=1e-9)


def test_one_token_and_one_neuron(data):
    data = data.isel(token=slice(0, 1))
    found = run(data, n_features=1)
    check(describe(found, "traces"), "traces", "here")
    assert found["output_error_algebra"] < 1e-6 and found.sizes["neuron"] == 1


def test_calcium_model_is_driven(data, monkeypatch, traces):
    """By IP3 around 0.7 uM, or glutamate, that follows the process."""
    given = {}

    def drive(model, stimulus, seconds):
        given[model] = stimulus
        assert seconds == 0.05
        return 2 * stimulus

    monkeypatch.setattr(calcium, "drive", drive)
    p = traces["bidirectional"]["calcium"].values
    for model, wanted in (("li_rinzel_nest", 0.7 + 0.3 * p / p.mean()), ("g_chi", p / p.mean())):
        found = run(data, calcium=model)
        np.testing.assert_allclose(given[model], wanted, rtol=1e-12)
        np.testing.assert_allclose(found["intracellular"], 2 * wanted, rtol=1e-12)
    assert traces["bidirectional"]["intracellular"].isnull().all()

    def diverge(*arguments):
        raise calcium.Diverged("calcium is not finite at 3 s")

    monkeypatch.setattr(calcium, "drive", diverge)
    with pytest.raises(
        UserError,
        match="^dynamics: calcium: li_rinzel_nest: calcium is not finite at 3 s; lower sample",
    ):
        run(data, calcium="li_rinzel_nest")


def test_one_query_with_nearly_all_of_the_response_is_told_in_a_line():
    """1,300 times the mean drives G-ChI beyond the glutamate for which it is meant."""
    response = np.full(1999, 1e-3)
    response[7] = 3.0
    with pytest.raises(ValueError) as error:
        intracellular("g_chi", response, 0.1)
    assert str(error.value) == (
        "one query has 1200 times the mean response, and would drive it with 1200 uM "
        "of glutamate, wanted at most 1000; use linear, or another head or input"
    )
    assert np.isfinite(intracellular("g_chi", response[:300], 0.1)).all()


@pytest.mark.parametrize("model", ["li_rinzel_nest", "g_chi"])
def test_real_calcium_is_finite(data, model):
    found = run(data, calcium=model, sample_seconds=0.25)
    assert (found["intracellular"] > 0).all() and (found["intracellular"] < 2).all()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"input": "draw-7"}, "inputs: got draw-7, wanted some of draw-0, draw-1"),
        ({"head": [0, 2]}, r"heads: got \[0, 2\], wanted layers below 1 and heads below 2"),
        (
            {"sample_seconds": 14.0},
            "sample_seconds: got 14 s, wanted at most the 13.5 s that all tokens take",
        ),
        (
            {"integrator": "runge_kutta", "step_seconds": 0.05, "read_seconds": 40.0},
            r"in the 0.05 s before [0-9.]+ s: [a-z]+ is not finite .* step_seconds .*; "
            "take shorter steps$",
        ),
    ],
)
def test_what_cannot_be_done(data, changes, words):
    with np.errstate(all="ignore"), pytest.raises(UserError, match=words) as error:
        run(data, **changes)
    assert "\n" not in str(error.value)


def test_memory_does_not_hold_synapses_over_time(data):
    """What is kept of a piece does not grow with the neurons."""
    sizes = []
    for m in (30, 60):
        kept = {}
        run(data, kept, n_features=m)
        sizes.append(sum(x.nbytes for x in kept["piece-0"].values()))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("order", ORDERS)
def test_turns_are_the_periods_of_the_protocol(order):
    """Each begins where the one before ends, and the last ends when all tokens have been read."""
    times = {"token_seconds": 0.1, "read_seconds": 0.7, "sample_seconds": 0.3}
    timetable = Timetable(order=order, **times)
    turns = timetable.turns(5)
    some = torch.ones(5, 2, dtype=torch.float64)
    periods = dynamics.protocol(some, some, some, 0.1, 0.7, timetable.causal)
    assert [(turn.r, float(turn.seconds)) for turn in turns] == [(p.r, p.seconds) for p in periods]
    ends = [turn.start + turn.seconds for turn in turns]
    assert [turn.start for turn in turns] == [0, *ends[:-1]] and ends[-1] == timetable.end(5) == 4
    for r in (0, 1):
        assert [turn.token for turn in turns if turn.r == r] == list(range(5))


def test_the_stability_limit_is_that_of_the_integrator():
    """Studies are checked without torch, by a copy of the number."""
    assert checks.STABLE == dynamics.STABLE
