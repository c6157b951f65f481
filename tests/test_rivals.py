"""Rivals of the network: each mechanism against its law or its slow version, counts, the figure."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy.integrate import solve_ivp
from scipy.special import logsumexp, softmax

from conftest import assert_drawn_alike, defaults, random_heads, run_stage
from tripartite import job
from tripartite.contracts import UserError, check, describe
from tripartite.kinds.data.attend import attend
from tripartite.kinds.rivals import counts, memories, retrieval
from tripartite.kinds.rivals.rival import MECHANISMS, READINGS, RIVALS, rival
from tripartite.kinds.rivals.rivals import (
    FIXED,
    SIZED,
    answer,
    rivals,
    shown_heads,
    table,
    two_sizes,
)
from tripartite.streams import stream

SETTINGS = defaults("rivals") | {
    "n_features": [5, 16, 40],
    "n_seeds": 3,
    "calibrated_on": ["draw-0"],
    "ratios": [0.1, 1.0, 5.0],
    "naam_neurons": 24,
    "naam_memories": 2,
    "seed": 5,
    "data_of": "x",
}


@pytest.fixture(scope="module")
def data():
    """Two heads; the inputs have 14 tokens, but the last has 11."""
    return random_heads([0.5, 2.0], 3, [(-1, slice(11, None))], n_tokens=14, d_head=4)


def run(data, **changes):
    return run_stage(rival, data, SETTINGS | changes).assign_attrs(data="random heads")


@pytest.fixture(scope="module")
def found(data):
    return run(data)


def head_of(data, i, head):
    present = data["mask"].values[i]
    return (data[name].values[i, 0, head, present].astype(float) for name in "qkv")


# Mechanisms.


def loop_of_delta_rule(f_q, f_k, v, rate):
    """Token after token, with the synapses themselves."""
    h = np.zeros((v.shape[1], f_k.shape[1]))
    for f, value in zip(f_k, v):
        h += rate * np.outer(value - h @ f, f)
    return f_q @ h.T


@given(st.integers(0, 1000), st.floats(0.01, 1), st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_delta_rule_is_that_of_synapses(seed, rate, n, m):
    rng = np.random.default_rng(seed)
    logs = (torch.from_numpy(rng.normal(size=(size, m))) for size in (4, n))
    f_q, f_k = (memories.unit(log).numpy() for log in logs)
    np.testing.assert_allclose(np.square(f_k).sum(1), 1, rtol=1e-12)
    v = rng.normal(size=(n, 3))
    outputs = memories.delta_rule(f_q @ f_k.T, f_k @ f_k.T, v, rate)
    np.testing.assert_allclose(outputs, loop_of_delta_rule(f_q, f_k, v, rate), atol=1e-11)
    last = memories.delta_rule(f_k[-1:] @ f_k.T, f_k @ f_k.T, v, 1.0)
    np.testing.assert_allclose(last[0], v[-1], atol=1e-11)  # the last pair is stored exactly


def test_crosstalk_of_the_linear_memory():
    """Keys N(0, I / d): an older value comes back with noise of variance (N - 1) / d (plain sums).

    Orthonormal keys have none, with either rule.
    """
    rng, n, d = np.random.default_rng(0), 9, 16
    noise = []
    for _ in range(2000):
        k, v = rng.normal(size=(n, d)) / d**0.5, rng.normal(size=(n, 1))
        noise.append((k[0] @ k.T @ v - k[0] @ k[0] * v[0]).item())
    np.testing.assert_allclose(np.var(noise), (n - 1) / d, rtol=0.12)  # 3.5 standard errors
    k, v = np.eye(16)[:n], rng.normal(size=(n, 2))
    np.testing.assert_allclose(memories.delta_rule(k @ k.T, k @ k.T, v, 1.0), v)


@given(st.integers(0, 1000), st.floats(0, 8))
@settings(max_examples=20, deadline=None)
def test_replicator_in_closed_form_against_integrators(seed, time):
    """Its own equation, and leaky neurons behind a softmax, which are the same from equal gains."""
    rng = np.random.default_rng(seed)
    scores, start = rng.normal(size=(2, 5))
    start = start - logsumexp(start)

    def derivative(_, g):
        drive = scores - np.log(g)
        return g * (drive - g @ drive)

    options = {"rtol": 1e-10, "atol": 1e-12}
    solved = solve_ivp(derivative, (0, time), np.exp(start), **options).y[:, -1]
    np.testing.assert_allclose(memories.replicator(scores, time, start), solved, atol=1e-8)
    leaky = solve_ivp(lambda _, s: scores - s, (0, time), np.zeros(5), **options).y[:, -1]
    np.testing.assert_allclose(memories.replicator(scores, time), softmax(leaky), atol=1e-8)
    np.testing.assert_allclose(memories.replicator(scores, np.inf), softmax(scores), rtol=1e-12)
    np.testing.assert_allclose(memories.replicator(scores, 0.0, start), np.exp(start), rtol=1e-12)


def test_replicator_of_queries_in_turn_by_a_loop():
    logits = 3 * np.random.default_rng(1).normal(size=(7, 5))
    gains = [softmax(logits[0])]
    for row in logits[1:]:
        gains.append(memories.replicator(row, 0.7, np.log(gains[-1])))
    np.testing.assert_allclose(memories.replicator_in_turn(logits, 0.7), gains, rtol=1e-12)


def test_one_step_of_a_modern_hopfield_network_is_attention_and_lowers_its_energy():
    """With keys as values it is what the settled replicator reads (Ramsauer et al. 2020)."""
    rng = np.random.default_rng(2)
    patterns, state = rng.normal(size=(6, 4)), rng.normal(size=4)

    def energy(x):
        return x @ x / 2 - logsumexp(patterns @ x)

    step = memories.replicator(patterns @ state, np.inf) @ patterns
    assert energy(step) < energy(state)
    gradient = [(energy(state + e) - energy(state - e)) / 2e-6 for e in 1e-6 * np.eye(4)]
    np.testing.assert_allclose(state - step, gradient, atol=1e-8)


@given(st.integers(0, 1000), st.integers(1, 7), st.floats(-2, 2))
@settings(max_examples=30, deadline=None)
def test_match_and_control_by_loops(seed, count, threshold):
    rng = np.random.default_rng(seed)
    logits, v = rng.normal(size=(4, 5)), rng.normal(size=(5, 2))
    order = np.argsort(-logits, axis=1)
    by_number = memories.best_matches_read(order, v, count)
    by_threshold = memories.threshold_read(logits, v, threshold)
    for t in range(4):
        best = sorted(range(5), key=lambda j: -logits[t, j])[:count]
        np.testing.assert_allclose(by_number[t], np.mean([v[j] for j in best], 0))
        above = [v[j] for j in range(5) if logits[t, j] >= threshold]
        np.testing.assert_allclose(by_threshold[t], np.mean(above, 0) if above else [0, 0])
    np.testing.assert_allclose(
        memories.threshold_read(logits, v, -np.inf), v.mean(0)[None] + 0 * by_number
    )


def test_powers_of_contacts_by_loops():
    rng = np.random.default_rng(3)
    log_q, log_k = (torch.from_numpy(rng.normal(size=(n, 6))) for n in (2, 4))
    found = memories.pooled_powers(log_q, log_k, [2, 6])
    phi_q, g = np.exp(log_q.numpy()), np.exp(log_k.numpy()).sum(0)
    for i, alpha in enumerate(memories.EXPONENTS):
        for j, m in enumerate((2, 6)):
            wanted = [sum(phi[a] * g[a] ** alpha for a in range(m)) for phi in phi_q]
            np.testing.assert_allclose(found[i, j], wanted, rtol=1e-12)


def test_the_best_gain_is_best():
    rng = np.random.default_rng(4)
    outputs, exact = list(rng.normal(size=(3, 5, 2))), list(rng.normal(size=(3, 5, 2)))
    gain = memories.best_gain(outputs[:2], exact)
    np.testing.assert_allclose(
        memories.errors([3.0 * exact[0]] * 2, exact[:1] * 2, 1), 0, atol=1e-15
    )

    def squares(c):
        return sum(np.square(c * x - o).sum() for x, o in zip(outputs[:2], exact))

    assert squares(gain) <= min(squares(gain * 1.01), squares(gain * 0.99))
    assert memories.best_gain([np.zeros((2, 2))], exact) == 0


def test_counts():
    """Of the formulas by hand: d_head 3 in, d_value 2 out, one contact with what divides."""
    assert counts.of_neurons(10, 3, 2, True) == (10 * (3 + 2 + 1), 10 * (2 + 1))
    assert counts.of_neurons(10, 3, 2, False) == (10 * (3 + 2), 10 * 2)
    assert counts.of_tokens(10, 3, 2, True) == (10 * (3 + 2 + 1), 10 * (3 + 2))


# The associative memory.


def memory_state(seed=0, n=7, k=3):
    rng = np.random.default_rng(seed)
    s, p = ((x + x.T) / 2 for x in rng.normal(size=(2, n, n)) / 3)
    return retrieval.State(rng.normal(size=n) / 3, s, p), rng.choice([-1.0, 1.0], (k, n))


def test_coupling_by_its_tensor():
    state, stored = memory_state()
    tensor = np.einsum("ma,mb,mc,md->abcd", *[stored] * 4) / 7**3
    wanted = np.einsum("abcd,cd->ab", tensor, state.p)
    np.testing.assert_allclose(retrieval.coupled(state.p, stored), wanted, rtol=1e-12)


@pytest.mark.parametrize("taus", [(1.0, 1.0, 1.0), (1.0, 0.3, 2.5), (10.0, 1.0, 0.1)])
def test_energy_falls_as_the_formula_says(taus):
    for seed in range(3):
        state, stored = memory_state(seed)
        change = retrieval.velocity(state, stored, taus)
        later, earlier = (
            retrieval.energy(retrieval.State(*(y + t * dy for y, dy in zip(state, change))), stored)
            for t in (1e-6, -1e-6)
        )
        rate = retrieval.energy_rate(state, stored, taus)
        assert rate < 0
        np.testing.assert_allclose((later - earlier) / 2e-6, rate, rtol=1e-6)


def test_what_is_retrieved_from_where():
    """The limits of the tutorial: the answer is in its start; from zero the cue is kept."""
    rng = np.random.default_rng(6)
    stored = rng.choice([-1.0, 1.0], (2, 30))
    cue = stored[0] * np.where(np.arange(30) < 5, -1, 1)
    start = retrieval.tutorial_start(cue, stored)
    velocity = retrieval.velocity(start, stored)
    np.testing.assert_allclose(velocity.p, -start.p, atol=1e-12)
    assert retrieval.overlap(start.x, stored[0]) == 20 / 30
    assert retrieval.overlap(retrieval.drive(start), stored[0]) == 1
    end = retrieval.path(start, stored)[-1]
    assert retrieval.overlap(end.x, stored[0]) == 1
    states = retrieval.path(retrieval.zero_start(cue, stored), stored)
    assert all(retrieval.overlap(x.x, cue) == 1 for x in states)
    assert retrieval.overlap(states[-1].x, stored[0]) == 20 / 30
    energies = [retrieval.energy(x, stored) for x in states]
    assert np.diff(energies).max() < 0


# The stage.


def test_what_it_returns(data, found):
    check(describe(found, "rivals"), "rivals", "here")
    runs = found["output_error_run"]
    assert runs.sel(input="draw-0").isnull().all()
    tested = runs.sel(input=["draw-1", "draw-2"])
    assert tested.notnull().all()
    np.testing.assert_allclose(found["output_error"], tested.mean(("seed", "input")), rtol=1e-12)
    ratio = np.log10(tested / tested.sel(mechanism="network, fitted")).mean(("seed", "input"))
    known = found["log10_error_ratio"].notnull()
    assert known.sel(mechanism=list(MECHANISMS)[:-1]).all()
    np.testing.assert_allclose(
        found["log10_error_ratio"].where(known), ratio.where(known), atol=1e-12
    )
    # all tokens are kept: exact, whatever the head
    exact = found.sel(mechanism="replicator")
    assert (exact["output_error"].sel(n_features=[16, 40]) < 1e-12).all()
    assert (exact["output_error"].sel(n_features=5) > 0.1).all()
    assert (found["rival_error"].sel(rival="replicator, all tokens") < 1e-12).all()
    np.testing.assert_array_equal(exact["units"], [5, 12.5, 12.5])  # of 14 and 11 tokens
    np.testing.assert_array_equal(exact["synapses"], [5 * 9, 12.5 * 9, 12.5 * 9])
    network = found.sel(mechanism="network")
    np.testing.assert_array_equal(network["synapses"], np.array([5, 16, 40]) * 9)
    np.testing.assert_array_equal(network["synapses_written"], np.array([5, 16, 40]) * 5)
    fits = found["rate_fitted"].notnull().all(("n_features", "layer", "head"))
    assert [x for x, known in zip(MECHANISMS, fits.values) if known] == [
        "delta rule, fitted",
        "delta rule, elu + 1",
    ]


def test_the_mechanisms_of_the_stage_by_their_own_rates(data, found):
    """The network, the plain sum without division and the delta rule of one draw, from scratch."""
    omega = stream(5, "x", "omega", 1, 0, 1).standard_normal((40, 4))[:16]
    exact = attend(data)["output"].values
    outputs, delta = [], []
    for i in range(3):
        q, k, v = head_of(data, i, 1)
        phi_q, phi_k = (
            np.exp(np.where(u < 0, u, np.log1p(np.maximum(u, 0))))
            for u in (q @ omega.T, k @ omega.T)
        )
        outputs.append(phi_q @ phi_k.T @ v / (phi_q @ phi_k.sum(0))[:, None])
        f_q, f_k = (x / np.linalg.norm(x, axis=1)[:, None] for x in (phi_q, phi_k))
        delta.append([loop_of_delta_rule(f_q, f_k, v, rate) for rate in memories.RATES])
    o = [exact[i, 0, 1][data["mask"].values[i]] for i in range(3)]
    of_rates = [memories.errors([x[r] for x in delta], o, 1) for r in range(len(memories.RATES))]
    wanted = of_rates[int(np.argmin([x[0] for x in of_rates]))]
    one = found["output_error_run"].sel(n_features=16, seed=1).isel(layer=0, head=1)
    for i, name in ((1, "draw-1"), (2, "draw-2")):
        error = np.linalg.norm(outputs[i] - o[i]) / np.linalg.norm(o[i])
        np.testing.assert_allclose(one.sel(mechanism="elu + 1", input=name), error, rtol=1e-9)
        found_delta = one.sel(mechanism="delta rule, elu + 1", input=name)
        np.testing.assert_allclose(found_delta, wanted[i], rtol=1e-9)


def test_networks_converge_and_what_lags_settles(data):
    one = run(data, n_features=[8000], n_seeds=2, heads=[[0, 0]]).squeeze()
    errors = one["output_error"].sel(head=0)
    assert errors.sel(mechanism="network") < 0.05
    assert errors.sel(mechanism="network, fitted") < 0.05
    assert errors.sel(mechanism="elu + 1") > 0.05  # another kernel: a floor
    lags = one["lag_error"].sel(head=0)
    law = 1 / np.expm1(lags["ratio"])
    np.testing.assert_allclose(lags.sel(reading="calcium from rest"), law, rtol=1e-12)
    assert (lags.sel(ratio=5) < lags.sel(ratio=0.1)).all()
    needed = one["ratio_needed"].sel(head=0, reading="calcium from rest")
    np.testing.assert_allclose(needed, np.log(11), rtol=2e-3)
    q, k, v = head_of(data, 1, 0)
    gains = memories.replicator(q @ k.T, 1.0)
    exact = softmax(q @ k.T, 1) @ v
    first = np.linalg.norm(gains @ v - exact) / np.linalg.norm(exact)
    only = run(data, inputs=["draw-1"], heads=[[0, 0]], n_seeds=2)["lag_error"]
    np.testing.assert_allclose(
        only.sel(reading="replicator from rest", ratio=1).isel(layer=0, head=0), first, rtol=1e-9
    )
    assert set(READINGS) == set(only["reading"].values)


def test_a_head_to_which_nothing_can_be_fitted(data):
    zero = data.copy()
    zero["k"] = zero["k"] * 0
    with pytest.raises(
        UserError, match="layer 0, head 0: all queries or keys are zero.*leave it out"
    ):
        run(zero)


def test_sizes_and_heads_do_not_depend_on_one_another(data, found):
    one = run(data, n_features=[16], heads=[[0, 1]])
    for name in ("output_error", "output_error_low"):
        ours, wanted = (x[name].sel(n_features=16, head=1) for x in (one, found))
        np.testing.assert_allclose(ours[:-1], wanted[:-1], rtol=1e-6)
    assert one["rival_error"].sel(head=0).isnull().all()


def test_figure(data, found, tmp_path):
    lost = found.copy()
    for name in ("output_error", "rival_error", "ratio_needed"):
        for end in ("", "_low", "_high"):
            lost[name + end] = lost[name + end] * np.nan
    odd = run(data, heads=[[0, 1]], n_features=[16], n_seeds=2).assign_attrs(data="x $^$ y")
    assert_drawn_alike(rivals, {"b": odd, "c": lost}, tmp_path)
    for fits in ({"c": lost}, {"b": odd}, {"b": odd, "a": found, "c": lost}):
        job.save_figure(rivals(fits), [tmp_path / "x.png"], {})
        assert "nan" not in answer(fits)
    assert {*FIXED} == {*RIVALS} and {*SIZED} == {*MECHANISMS}
    plt.close("all")


def test_the_figure_draws_what_was_found(found):
    few, most = two_sizes(found)
    heads = shown_heads({"a": found})
    assert [head.look["markerfacecolor"] == "white" for head in heads] == [False, True]
    errors = found["output_error"].sel(mechanism="network, fitted", n_features=most)
    hardness = [float(errors[head.place]) for head in heads]
    assert hardness == sorted(hardness)
    small, large, *curves, times, _ = rivals({"a": found}).axes
    for head, curve in zip(heads, curves):
        one = found.isel(layer=head.place[0], head=head.place[1])
        for axis, size in ((small, few), (large, most)):
            wanted = one["output_error"].sel(n_features=size).values
            wanted = np.sort([*wanted[wanted > 1e-9], *one["rival_error"].values[1:]])
            assert any(np.array_equal(np.sort(line.get_xdata()), wanted) for line in axis.lines)
        wanted = one["output_error"].sel(mechanism="network, fitted").values
        assert any(np.array_equal(line.get_ydata(), wanted) for line in curve.lines)
        wanted = one["ratio_needed"].dropna("reading").values
        assert any(np.array_equal(line.get_xdata(), wanted) for line in times.lines)
    plt.close("all")


def test_table_and_answer_have_what_was_found(found):
    drawn = table({"a": found})
    errors = drawn[drawn["quantity"] == "error"]
    for _, row in errors.iterrows():
        place = {name: row[name] for name in ("mechanism", "n_features", "layer", "head")}
        one = found.sel(place)
        assert row["value"] == float(one["output_error"])
        assert row["units"] == float(one["units"]) and row["synapses"] == float(one["synapses"])
        np.testing.assert_allclose(row["ratio_low"], 10 ** float(one["log10_error_ratio_low"]))
    overlap = drawn[drawn["quantity"] == "overlap"].set_index(["start", "state"])["value"]
    wanted = found["naam_overlap"].sel(start="zero", pattern="memory").isel(moment=-1)
    assert overlap["zero", "last"] == float(wanted)
    said = answer({"a": found})
    (first, *_) = shown_heads({"a": found})
    largest = found["output_error"].sel(mechanism="network, fitted").isel(n_features=-1)
    assert f"errs by {float(largest[first.place]):.2f} [" in said
    assert answer({"a": found.assign(output_error=2 * found["output_error"])}) != said
