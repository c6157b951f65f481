"""The stages: from labels to tensors and back, with masks, choices of heads and known answers."""

import threading

import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from conftest import in_order, random_heads, run_fit, run_simulate
from test_contracts import qkv as random_qkv
from tripartite import job, network
from tripartite.contracts import UserError, check
from tripartite.features import CHUNK, FEATURE_MAPS, draw_neurons
from tripartite.kinds.data.attend import attend
from tripartite.kinds.data.generate import adopt, synthetic
from tripartite.kinds.network import networks
from tripartite.kinds.network.arrangement import arrangement, networks_of
from tripartite.kinds.network.measured import of_best_constant
from tripartite.kinds.network.networks import drawn_ahead, draws_at_once, read_batch
from tripartite.streams import stream


@pytest.fixture(scope="module")
def qkv():
    """Two inputs of 7 and 4 tokens; what is masked is NaN, as in the files."""
    dataset = random_qkv(n_tokens=7)
    dataset["mask"][1, 4:] = False
    for name in "qkv":
        dataset[name] = (0.5 * dataset[name]).where(dataset["mask"]).transpose(*dataset[name].dims)
    return dataset


@pytest.fixture(scope="module")
def attention(qkv):
    return attend(qkv)


@pytest.fixture(scope="module")
def states(qkv, attention):
    return run_simulate(qkv, attention, n_features=[3, 40], n_seeds=3, heads=[[0, 1]])


def test_synthetic_norms_and_independence():
    """|q|^2 = |k|^2 = sigma^2 / 2 exactly, |q + k|^2 = sigma^2 on average, v standard normal."""
    data = synthetic(
        [0.5, 2.0], n_inputs=3, n_tokens=200, d_head=16, value_mean=0, seed=1, experiment="a"
    )
    check(data, "qkv", "here")
    assert (data["text"] == "").all()
    for name in "qk":
        norm = np.square(data[name]).sum("d_head")
        np.testing.assert_allclose(norm.sel(head=0), 0.25, rtol=1e-5)
        np.testing.assert_allclose(norm.sel(head=1), 1.0, rtol=1e-5)
    pairs = data["q"].rename(token="query") + data["k"]
    np.testing.assert_allclose(
        np.square(pairs).sum("d_head").mean(("query", "token", "input")).squeeze(),
        [0.5, 2.0],
        rtol=0.01,
    )
    v = data["v"].values
    assert abs(v.mean()) < 0.02 and abs(v.std() - 1) < 0.02
    assert np.abs(np.corrcoef(data["q"].values.reshape(6, -1)) - np.eye(6)).max() < 0.1
    other = synthetic(
        [0.5, 2.0], n_inputs=3, n_tokens=200, d_head=16, value_mean=0, seed=1, experiment="b"
    )
    assert not np.allclose(data["q"], other["q"])


def test_own_data_are_given_what_is_missing():
    rng = np.random.default_rng(0)
    dims = ("input", "layer", "head", "token", "d_head")
    foreign = xr.Dataset({name: (dims, rng.standard_normal((2, 3, 2, 5, 4))) for name in "qkv"})
    data = adopt(foreign, "folder/mine.nc")
    check(data, "qkv", "here")
    assert list(data["input"].values) == ["input-0", "input-1"] and data.attrs["data"] == "mine"
    assert (data["text"] == "").all() and (data["order"] == "bidirectional").all()
    foreign["text"] = (("input", "token"), np.full((2, 5), "a\nb"))
    foreign["other"] = ("input", np.zeros(2))  # whatever else the file holds
    with_text = adopt(foreign, "mine.nc", "causal")
    assert (with_text["text"] == "a\\nb").all() and (with_text["order"] == "causal").all()
    foreign["order"] = ("layer", ["causal", "bidirectional", "causal"])
    assert list(adopt(foreign, "mine.nc")["order"].values) == [*foreign["order"].values]
    foreign = foreign.drop_vars(["text", "order"])
    np.testing.assert_array_equal(data["q"].values, foreign["q"].values.astype(np.float32))
    foreign["mask"] = (("input", "token"), np.arange(10).reshape(2, 5) < 8)
    foreign["k"][1, :, :, 3:] = np.nan
    data = adopt(foreign.assign_coords(input=["a", "b"]), "mine.nc")
    check(data, "qkv", "here")
    assert list(data["input"].values) == ["a", "b"]
    assert np.isnan(data["q"].values[1, :, :, 3:]).all()


def test_own_mask_is_taken_as_stored(tmp_path):
    """A fill value of 0 does not turn absent tokens into present ones; other values are refused."""
    dims = ("input", "layer", "head", "token", "d_head")
    foreign = xr.Dataset({name: (dims, np.ones((1, 1, 1, 3, 2))) for name in "qkv"})
    foreign["mask"] = (("input", "token"), np.array([[1, 1, 0]], dtype=np.int8))
    for fill in (0, 1, -127):
        foreign.to_netcdf(tmp_path / "mine.nc", encoding={"mask": {"_FillValue": fill}})
        data = adopt(job.read_foreign(tmp_path / "mine.nc"), "mine.nc")
        np.testing.assert_array_equal(data["mask"].values, [[True, True, False]])
    foreign["mask"][0, 2] = -100
    foreign.to_netcdf(tmp_path / "mine.nc")
    with pytest.raises(UserError, match="mine.nc: mask: has other values than 0"):
        job.read_foreign(tmp_path / "mine.nc")


def test_own_values_beyond_float32_are_named():
    dims = ("input", "layer", "head", "token", "d_head")
    values = np.full((1, 1, 1, 2, 2), 1e39)
    foreign = xr.Dataset({name: (dims, values) for name in "qkv"})
    with pytest.raises(
        UserError, match="mine.nc: q: inf at input input-0, layer 0, head 0, token 0"
    ):
        check(adopt(foreign, "mine.nc"), "qkv", "mine.nc")


def test_attention_is_the_explicit_loop(qkv, attention):
    check(attention, "attention", "here")
    for i, n_tokens in enumerate((7, 4)):
        for head in range(2):
            q, k, v = (qkv[name].values[i, 0, head, :n_tokens].astype(float) for name in "qkv")
            for t in range(n_tokens):
                weights = [np.exp(q[t] @ key) for key in k]
                normalizer = sum(weights)
                output = sum(w * value for w, value in zip(weights, v)) / normalizer
                got = attention.isel(input=i, layer=0, head=head, token=t)
                np.testing.assert_allclose(got["log_normalizer"], np.log(normalizer), rtol=1e-12)
                np.testing.assert_allclose(got["output"], output, rtol=1e-12)
    assert np.isnan(attention["log_normalizer"].values[1, :, :, 4:]).all()


def test_states_are_the_sequential_network(qkv, attention, states):
    """Token by token through equations (1) to (6), for each input, seed and size by itself."""
    check(states, "states", "here")
    assert states.attrs == {"feature_map": "performer", "symmetries": ""}
    for i, n_tokens in enumerate((7, 4)):
        q, k, v = (
            torch.from_numpy(qkv[name].values[i, 0, 1, :n_tokens]).double() for name in "qkv"
        )
        exact = torch.from_numpy(attention["output"].values[i, 0, 1, :n_tokens])
        for seed in range(3):
            omega = stream(5, "x", "omega", seed, 0, 1).standard_normal((40, 4))
            for m in (3, 40):
                weights = torch.from_numpy(omega[:m])
                hidden = network.Hidden(weights, torch.zeros(m, dtype=torch.float64))
                tokens = network.Tokens(q, k, v, torch.zeros(n_tokens, dtype=torch.float64))
                p, last = network.sequential(torch.zeros_like(v), tokens, hidden)
                got = states.sel(n_features=m, seed=seed, head=1).isel(input=i, layer=0)
                np.testing.assert_allclose(
                    got["log_calcium"][:n_tokens], p.log(), rtol=1e-10, atol=1e-10
                )
                error = (last - exact).norm() / exact.norm()
                np.testing.assert_allclose(got["output_error"], error, rtol=1e-9)


def test_points_that_were_not_run_say_so(states):
    assert states["computed"].sel(head=1).all() and not states["computed"].sel(head=0).any()
    assert states["log_calcium"].sel(head=0).isnull().all()
    assert states["output_error"].sel(head=0).isnull().all()
    assert states["log_calcium"].isel(input=1, token=slice(4, None)).isnull().all()
    assert states["log_calcium"].sel(head=1).isel(input=1, token=slice(4)).notnull().all()


def test_seeds_do_not_depend_on_how_many_there_are(qkv, attention, states):
    more = run_simulate(qkv, attention, n_features=[40], n_seeds=4)
    for name in ("log_calcium", "output_error"):
        same = more[name].sel(n_features=40, seed=[0, 1, 2], head=1)
        np.testing.assert_allclose(same, states[name].sel(n_features=40, head=1), rtol=1e-11)


def test_every_layer_and_head_has_weights_of_its_own(qkv):
    """The same queries and keys in two layers and two heads are estimated by different neurons."""
    twice = qkv.isel(head=[0, 0], layer=[0, 0]).assign_coords(layer=[0, 1], head=[0, 1])
    run = run_simulate(twice, attend(twice), n_features=[20], n_seeds=2)
    values = run["log_calcium"].isel(n_features=0, input=0, token=0).values.ravel()
    assert len(np.unique(values)) == 8


def test_fit_finds_planted_errors(qkv, attention, states):
    """Astrocytes that are 10, 20 and 60 % off at all tokens, by seed: median, rms, correlation."""
    planted = states.copy(deep=True)
    factor = np.log([1.1, 1.2, 1.6])
    exact = attention["log_normalizer"].values[None, None]
    planted["log_calcium"][:] = exact + factor[None, :, None, None, None, None]
    planted["log_calcium"][dict(head=0)] = np.nan
    planted["output_error"][dict(head=1)] = xr.DataArray([0.1, 0.2, 0.6], dims="seed")
    found = run_fit(qkv, attention, planted)
    check(found, "fit", "here")
    head = found.sel(head=1).isel(layer=0)
    np.testing.assert_allclose(head["normalizer_error"], 0.2, rtol=1e-9)
    np.testing.assert_allclose(
        head["normalizer_error_rms"], np.sqrt((0.01 + 0.04 + 0.36) / 3), rtol=1e-9
    )
    np.testing.assert_allclose(head["output_error"], 0.3, rtol=1e-12)
    spread = np.sqrt(np.var([0.1, 0.2, 0.6], ddof=1) / 3)  # on the scale of the errors
    assert (head["output_error_low"] < 0.3 - spread).all()
    assert (head["output_error_high"] > 0.3 + spread).all()
    mask = qkv["mask"].values
    np.testing.assert_allclose(head["correlation"], 1, rtol=1e-12)
    assert found["normalizer_error"].sel(head=0).isnull().all()
    np.testing.assert_allclose(
        found["log_calcium"].sel(head=1).values[0][mask[:, None, :]],
        attention["log_normalizer"].sel(head=1).values[mask[:, None, :]] + factor[1],
    )
    low = attention["log_normalizer"].sel(head=1).values[mask[:, None, :]]
    got = found["log_calcium_low"].sel(head=1).values[0][mask[:, None, :]]
    np.testing.assert_allclose(got, low + np.quantile(factor, 0.1))


def test_correlation_is_that_of_single_networks(qkv, attention, states):
    """Per seed over all inputs, averaged on Fisher's scale, with Student's interval."""
    found = run_fit(qkv, attention, states).sel(head=1, n_features=40).isel(layer=0)
    mask = qkv["mask"].values
    z = attention["log_normalizer"].sel(head=1).isel(layer=0).values[mask]
    values = states["log_calcium"].sel(head=1, n_features=40).isel(layer=0).values
    fisher = np.arctanh([np.corrcoef(p[mask], z)[0, 1] for p in values])
    low, high = scipy.stats.t.interval(0.95, 2, fisher.mean(), scipy.stats.sem(fisher))
    got = [float(found[f"correlation{end}"]) for end in ("_low", "", "_high")]
    np.testing.assert_allclose(got, np.tanh([low, fisher.mean(), high]), rtol=1e-9)


def test_the_rms_has_an_interval_only_where_it_can_be_sampled():
    """m > R^2: at low norm always, at large norm never."""
    data = synthetic(
        [0.5, 30.0], n_inputs=1, n_tokens=6, d_head=4, value_mean=0, seed=2, experiment="r"
    )
    exact = attend(data)
    run = run_simulate(data, exact, n_features=[100, 1000], n_seeds=3)
    found = run_fit(data, exact, run).isel(layer=0)
    assert found["normalizer_error_rms_low"].sel(head=0).notnull().all()
    assert found["normalizer_error_rms_high"].sel(head=1).isnull().all()
    assert found["normalizer_error_rms"].notnull().all()


def test_the_closed_median_is_that_of_normal_errors(qkv, attention, states):
    """Against draws: normal errors of each query's exact variance at m = 40, pooled."""
    found = run_fit(qkv, attention, states).sel(head=0, n_features=40).isel(layer=0)
    parts = []
    for i, n_tokens in enumerate((7, 4)):
        q, k = (qkv[name].values[i, 0, 0, :n_tokens].astype(float) for name in "qk")
        for query in q:
            pairs = sum(np.exp(2 * query @ (a + b) + a @ b) for a in k for b in k)
            parts.append(np.exp(query @ query) * pairs / np.exp(k @ query).sum() ** 2 - 1)
    draws = np.random.default_rng(0).standard_normal((100_000, len(parts))) * np.sqrt(parts)
    wanted = np.median(np.abs(draws)) / np.sqrt(40)
    np.testing.assert_allclose(10 ** found["log10_normalizer_error_closed_form"], wanted, rtol=0.01)


def test_features_needed_is_the_median_over_queries_of_the_double_sum(qkv, attention, states):
    found = run_fit(qkv, attention, states)
    for head in range(2):
        needed = []
        for i, n_tokens in enumerate((7, 4)):
            q, k = (qkv[name].values[i, 0, head, :n_tokens].astype(float) for name in "qk")
            for query in q:
                pairs = sum(np.exp(2 * query @ (a + b) + a @ b) for a in k for b in k)
                r = np.exp(query @ query) * pairs / np.exp(k @ query).sum() ** 2
                needed.append(2 + np.log10(r - 1))
        one = found.sel(head=head).isel(layer=0)
        np.testing.assert_allclose(one["log10_features_needed"], np.median(needed), rtol=1e-9)
        np.testing.assert_allclose(
            one["log10_features_needed_q10"], np.quantile(needed, 0.1), rtol=1e-9
        )
        np.testing.assert_allclose(
            one["log10_features_needed_q90"], np.quantile(needed, 0.9), rtol=1e-9
        )
        rms = np.sqrt(np.mean(10 ** (np.array(needed) - 2)) / states["n_features"].values)
        np.testing.assert_allclose(
            10 ** one["log10_normalizer_error_rms_closed_form"], rms, rtol=1e-9
        )


@pytest.mark.parametrize("sigma_squared", [0.25, 0.5, 1.0])
def test_low_norm_heads_follow_the_closed_form(sigma_squared):
    """The measured mean square error is (R - 1) / m within its own standard error over seeds."""
    data = synthetic(
        [sigma_squared], n_inputs=2, n_tokens=24, d_head=8, value_mean=0, seed=3, experiment="low"
    )
    exact = attend(data)
    sizes = [50, 500]
    run = run_simulate(data, exact, n_features=sizes, n_seeds=200)
    error = np.expm1(run["log_calcium"] - exact["log_normalizer"])
    per_seed = np.square(error).mean(("input", "layer", "head", "token"))  # n_features, seed
    predicted = (
        10 ** (2 * run_fit(data, exact, run)["log10_normalizer_error_rms_closed_form"]).squeeze()
    )
    standard_error = per_seed.std("seed", ddof=1) / np.sqrt(200)
    assert (abs(per_seed.mean("seed") - predicted) < 3.5 * standard_error).all()


def test_the_question_of_performer_pytorch_69():
    """73 % error, as reported, at d = 128, 24 tokens and 1024 features: no fault, and no bad luck.

    A head of standard normal q and k needs 10^12 neurons. The response is frozen: unbiased networks
    of 1024 err by more than uniform attention does, which is what the reported 73 % are: the 1e-4
    that is added to each feature there outweighs them.
    """
    rng = np.random.default_rng(0)
    dims = ("input", "layer", "head", "token", "d_head")
    scales = {"q": 128**-0.25, "k": 128**-0.25, "v": 1.0}
    arrays = {
        name: (dims, scale * rng.standard_normal((2, 1, 1, 24, 128)))
        for name, scale in scales.items()
    }
    data = adopt(xr.Dataset(arrays), "mine.nc")
    exact = attend(data)
    for feature_map in ("performer", "orthogonal"):
        settings = {"n_features": [1024], "n_seeds": 20, "feature_map": feature_map}
        run = run_simulate(data, exact, **settings)
        found = run_fit(data, exact, run, feature_map=feature_map)
        assert 1.3 < found["output_error"] < 1.8
        if feature_map == "performer":
            assert found["phase_of"].item() == "frozen"
            assert 11.5 < found["log10_features_needed"] < 13

    q, k, v = (data[name].values[0, 0, 0].astype(float) for name in "qkv")
    wanted = exact["output"].values[0, 0, 0]
    errors = {"theirs": [], "ours": [], "uniform": []}
    for seed in range(20):
        omega = np.random.default_rng(seed).standard_normal((1024, 128))
        drives = q @ omega.T, k @ omega.T
        largest = drives[0].max(1, keepdims=True), drives[1].max()
        phi_q, phi_k = (
            np.exp(drive - np.square(x).sum(1, keepdims=True) / 2 - most)
            for x, drive, most in zip((q, k), drives, largest)
        )
        for name, added in (("theirs", 1e-4), ("ours", 0.0)):
            a = (phi_q + added) @ (phi_k + added).T
            output = a @ v / a.sum(1, keepdims=True)
            errors[name].append(np.abs(output - wanted).mean() / np.abs(wanted).mean())
        errors["uniform"].append(np.abs(v.mean(0) - wanted).mean() / np.abs(wanted).mean())
    means = {name: np.mean(values) for name, values in errors.items()}
    assert abs(means["theirs"] - 0.73) < 0.1 and abs(means["uniform"] - 0.73) < 0.1
    assert 1.3 < means["ours"] < 1.8


BALANCED = {"symmetries": ["center_keys", "center_queries", "balance"], "calibrated_on": ["b"]}


@pytest.fixture(scope="module")
def named(qkv):
    return qkv.assign_coords(input=["a", "b"])


@pytest.mark.parametrize("feature_map", sorted(FEATURE_MAPS))
@pytest.mark.parametrize(
    ("order", "leaks"),
    [("bidirectional", {}), ("causal", {"leak_hebbian": 0.1, "leak_presynaptic": 0.2})],
)
def test_every_setting_is_the_sequential_network(named, feature_map, order, leaks):
    """Symmetries, gains, orders, leaks and maps together, by the written-out network of a head."""
    extra = {"a": -0.03} if feature_map == "generalized_positive" else {}
    extra |= {"threshold": 3.0} if feature_map == "truncated_performer" else {}
    named = in_order(named, order)
    exact = attend(named, **leaks)
    settings = BALANCED | extra | leaks | {"feature_map": feature_map}
    run = run_simulate(named, exact, n_features=[5, 30], n_seeds=2, heads=[[0, 1]], **settings)
    check(run, "states", "here")
    q, k, v = (torch.from_numpy(named[name].values[0, 0, 1]).double() for name in "qkv")
    one = run.sel(head=1).isel(layer=0, input=0)
    a = torch.from_numpy(one["balance"].values)
    shift_q, shift_k = (torch.from_numpy(one[name].values) for name in ("query_shift", "key_shift"))
    seen_q, seen_k = (q - shift_q) @ a.T, (k - shift_k) @ torch.linalg.inv(a)
    tokens = network.Tokens(seen_q, seen_k, v, (k - shift_k) @ shift_q)
    for seed in range(2):
        weights, phases = (stream(5, "x", name, seed, 0, 1) for name in ("omega", "phase"))
        (neurons,) = draw_neurons(
            feature_map, weights, phases, 30, 4, torch.from_numpy(one["feature_a"].values)
        )
        for m in (5, 30):
            first = [part[:m] for part in neurons]
            hidden = network.Hidden(*first, FEATURE_MAPS[feature_map].activation, 3.0)
            leak = network.Leak(*leaks.values())
            causal = order == "causal"
            p, last = network.sequential(torch.zeros_like(v), tokens, hidden, causal, leak)
            p = p * (q @ shift_k).exp()
            got = one.sel(n_features=m, seed=seed)
            found = np.exp(got["log_calcium"].values) * got["calcium_sign"].values
            np.testing.assert_allclose(found, p, rtol=1e-8, atol=1e-9 * float(p.abs().max()))
            wanted = torch.from_numpy(exact["output"].values[0, 0, 1])
            error = float((last - wanted).norm() / wanted.norm())
            np.testing.assert_allclose(got["output_error"], error, rtol=1e-6)
    assert not run["computed"].sel(input="b").any()
    found = run_fit(named, exact, run, feature_map=feature_map, **leaks)
    check(found, "fit", "here")
    share = (run["calcium_sign"].sel(head=1, input="a") <= 0).mean(("seed", "token"))
    np.testing.assert_allclose(found["share_not_positive"].sel(head=1), share)
    assert (run["feature_a"].sel(head=1) == extra.get("a", 0)).all() == (
        feature_map != "fitted_normal"
    )
    has_closed_form = feature_map in (
        "performer",
        "hyperbolic",
        "generalized_positive",
        "fitted_normal",
    )
    assert found["log10_features_needed"].notnull().all() == has_closed_form
    assert found["normalizer_error"].sel(head=1).notnull().all()


def test_symmetries_are_fitted_to_the_named_inputs_alone(named):
    """Other values in the tested input change no symmetry; the closed form knows the gains."""
    exact = attend(named)
    run = run_simulate(named, exact, n_features=[30], n_seeds=2, **BALANCED)
    other = named.copy(deep=True)
    for name in "qk":
        other[name][0] *= 2
    again = run_simulate(other, attend(other), n_features=[30], n_seeds=2, **BALANCED)
    for name in ("balance", "key_shift", "query_shift"):
        np.testing.assert_array_equal(run[name], again[name])
    plain = run_simulate(named, exact, n_features=[30], n_seeds=2, inputs=["a"])
    assert not np.allclose(run["balance"], plain["balance"])
    np.testing.assert_array_equal(plain["balance"][0, 0], np.eye(4))
    needed = [run_fit(named, exact, x)["log10_features_needed"] for x in (run, plain)]
    assert (abs(needed[0] - needed[1]) > 1e-3).all()


def test_balanced_heads_follow_their_closed_form():
    """R of transformed queries and keys with gains is the variance measured on other inputs."""
    data = synthetic(
        [0.5], n_inputs=2, n_tokens=24, d_head=8, value_mean=0, seed=4, experiment="low"
    )
    data["q"] += 0.15  # something to centre
    data["k"] -= 0.1
    exact = attend(data)
    settings = BALANCED | {"calibrated_on": ["draw-1"]}
    for feature_map in ("performer", "generalized_positive", "fitted_normal"):
        settings |= {"n_features": [50, 500], "n_seeds": 200, "feature_map": feature_map}
        run = run_simulate(data, exact, **settings)
        error = np.expm1(run["log_calcium"] - exact["log_normalizer"]).isel(input=0)
        per_seed = np.square(error).mean(("layer", "head", "token"))
        found = run_fit(data, exact, run, feature_map=feature_map)
        predicted = 10 ** (2 * found["log10_normalizer_error_rms_closed_form"]).squeeze()
        standard_error = per_seed.std("seed", ddof=1) / np.sqrt(200)
        assert (abs(per_seed.mean("seed") - predicted) < 3.5 * standard_error).all()
        assert (run["feature_a"] < 0).all() == (feature_map != "performer")


@pytest.mark.parametrize(
    ("feature_map", "order", "leaks"),
    [
        ("performer", "bidirectional", {}),
        ("fitted_normal", "bidirectional", {}),
        ("performer", "causal", {"leak_hebbian": 0.1, "leak_presynaptic": 0.1}),
        ("fitted_normal", "causal", {}),
    ],
)
def test_outputs_follow_their_closed_form(feature_map, order, leaks):
    """Squared errors of outputs with the own and another pool, and gains: 300 networks."""
    data = synthetic(
        [0.5], n_inputs=2, n_tokens=16, d_head=8, value_mean=2, seed=4, experiment="low"
    )
    data["q"] += 0.1
    data = in_order(data, order)
    exact = attend(data, **leaks)
    settings = BALANCED | {"calibrated_on": ["draw-1"], "feature_map": feature_map} | leaks
    run = run_simulate(data, exact, n_features=[400], n_seeds=300, **settings)
    whole = run_fit(data, exact, run, **settings)
    check(whole, "fit", "here")
    found = whole.squeeze()
    for name in ("output_error", "output_error_other_pool"):
        squares = np.square(run[name].sel(input="draw-0")).squeeze()
        predicted = 10 ** (2 * float(found[f"log10_{name}_rms_closed_form"]))
        standard_error = float(squares.std("seed", ddof=1)) / 300**0.5
        assert abs(float(squares.mean()) - predicted) < 4 * standard_error
        assert 10 * standard_error < predicted
    gain = run["output_gain"].sel(input="draw-0").squeeze()
    error = float(gain.std("seed", ddof=1)) / 300**0.5
    assert abs(float(gain.mean()) - float(found["output_gain_closed_form"])) < 4 * error
    assert float(found["phase_of"].item() == "gaussian") and found["sigma_squared"] < 1


def test_what_values_have_in_common_costs_only_with_another_pool():
    """A constant added to V: absolute errors with the own pool stay, with another they grow.

    The closed forms and the networks themselves, of the same draws of queries, keys and neurons.
    """
    found = []
    for value_mean in (0, 3):
        data = random_heads([0.5], 2, n_tokens=16, d_head=8, value_mean=value_mean)
        exact = attend(data)
        run = run_simulate(data, exact, n_features=[400], n_seeds=100)
        norm = float(np.log10(np.linalg.norm(exact["output"].values, axis=(-2, -1))).mean())
        fit = run_fit(data, exact, run).squeeze()
        found.append(
            {
                name: np.array([fit[f"log10_{name}_rms_closed_form"], np.log10(fit[f"{name}_rms"])])
                + norm
                for name in ("output_error", "output_error_other_pool")
            }
        )
    without, with_mean = found
    np.testing.assert_allclose(with_mean["output_error"], without["output_error"], atol=0.01)
    assert (with_mean["output_error_other_pool"] > without["output_error_other_pool"] + 0.4).all()


def test_what_the_states_say_of_outputs(qkv, attention, states):
    """Gain and separate pools against the network written out; the next seed's calcium divides."""
    q, k, v = (torch.from_numpy(qkv[name].values[0, 0, 1]).double() for name in "qkv")
    exact = torch.from_numpy(attention["output"].values[0, 0, 1])
    calcium, drives = [], []
    for seed in range(3):
        omega = torch.from_numpy(stream(5, "x", "omega", seed, 0, 1).standard_normal((40, 4)))
        phi_q, phi_k = (
            torch.exp(x @ omega.T - x.square().sum(1, keepdim=True) / 2) for x in (q, k)
        )
        calcium.append(phi_q @ phi_k.sum(0))
        drives.append(phi_q @ (phi_k.T @ v))
    for seed in range(3):
        output, other = (drives[seed] / calcium[i % 3][:, None] for i in (seed, seed + 1))
        one = states.isel(n_features=1, seed=seed, input=0, layer=0).sel(head=1)
        gain = float((output * exact).sum() / exact.square().sum())
        assert float(one["output_gain"]) == pytest.approx(gain, rel=1e-9)
        error = float((other - exact).norm() / exact.norm())
        assert float(one["output_error_other_pool"]) == pytest.approx(error, rel=1e-9)


def test_disjoint_networks_share_no_neuron(qkv, attention):
    """Sizes side by side in one draw; the second is the network of the neurons after the first."""
    draws, starts = arrangement([10, 20, 45], 2, "disjoint")
    np.testing.assert_array_equal(draws, [[0, 1]] * 3)
    np.testing.assert_array_equal(starts, [[0, 0], [10, 10], [30, 30]])
    settings = {"heads": [[0, 1]], "n_seeds": 2}
    run = run_simulate(qkv, attention, n_features=[10, 20], smaller_networks="disjoint", **settings)
    whole = run_simulate(qkv, attention, n_features=[10, 30], **settings)
    small, large, all_thirty = (
        np.exp(one["log_calcium"].isel(n_features=i).sel(head=1).values)
        for one, i in ((run, 0), (run, 1), (whole, 1))
    )
    np.testing.assert_allclose((10 * small + 20 * large) / 30, all_thirty, rtol=1e-10)
    np.testing.assert_array_equal(run["log_calcium"][0], whole["log_calcium"][0])


def test_blocks_are_seeds_of_their_own(qkv, attention):
    """Networks of a size share no neuron, and the file says which they have; fits take all."""
    run = run_simulate(
        qkv,
        attention,
        n_features=[10, 20, 45],
        n_seeds=2,
        heads=[[0, 1]],
        smaller_networks="blocks",
    )
    check(run, "states", "here")
    np.testing.assert_array_equal(
        run["draw"], [[0] * 4 + [1] * 4, [0, 0, 1, 1] + [-1] * 4, [0, 1] + [-1] * 6]
    )
    np.testing.assert_array_equal(
        run["first_neuron"],
        [[0, 10, 20, 30] * 2, [0, 20, 0, 20] + [-1] * 4, [0, 0] + [-1] * 6],
    )
    there = run["computed"].sel(head=1).isel(layer=0, input=0).values
    np.testing.assert_array_equal(there, run["draw"].values >= 0)
    q, k, v = (torch.from_numpy(qkv[name].values[0, 0, 1]).double() for name in "qkv")
    omega = torch.from_numpy(stream(5, "x", "omega", 1, 0, 1).standard_normal((48, 4)))
    hidden = network.Hidden(omega[20:30], torch.zeros(10, dtype=torch.float64))
    tokens = network.Tokens(q, k, v, torch.zeros(7, dtype=torch.float64))
    p, _ = network.sequential(torch.zeros_like(v), tokens, hidden)
    got = run.sel(n_features=10, seed=6, head=1).isel(input=0, layer=0)
    np.testing.assert_allclose(got["log_calcium"], p.log(), rtol=1e-10, atol=1e-10)
    found = run_fit(qkv, attention, run).sel(head=1).isel(layer=0)
    target = attention["log_normalizer"].sel(head=1).isel(layer=0)
    for m, n in zip((10, 20, 45), (8, 4, 2)):
        values = run["log_calcium"].sel(n_features=m, head=1).isel(layer=0, seed=slice(n))
        error = abs(np.expm1(values - target).values)
        np.testing.assert_allclose(found["normalizer_error"].sel(n_features=m), np.nanmedian(error))


def test_nested_networks_begin_at_the_first_neuron():
    draws, starts = arrangement([10, 20], 3, "nested")
    np.testing.assert_array_equal(draws, [[0, 1, 2]] * 2)
    np.testing.assert_array_equal(starts, np.zeros((2, 3)))


def test_networks_of_a_draw():
    blocks = arrangement([10, 20], 2, "blocks")
    assert networks_of(blocks, [10, 20], 1) == [(0, 2, (0, 10)), (0, 3, (10, 20)), (1, 1, (0, 20))]


def flat(parts):
    """The tensors of nested lists, in order."""
    return [parts] if isinstance(parts, torch.Tensor) else [x for part in parts for x in flat(part)]


@pytest.mark.parametrize("lengths", [[7], [7, 4, 5]])
@pytest.mark.parametrize("feature_map", ["performer", "relu"])
def test_a_batch_responds_as_each_input_by_itself(lengths, feature_map):
    """As on a GPU, for several draws: what is added to shorter inputs is taken off again."""
    rng = np.random.default_rng(3)
    q, k, v, log_gain = (
        [torch.from_numpy(0.5 * rng.standard_normal((n, 4)))[:, slice(*end)] for n in lengths]
        for end in ((4,), (4,), (4,), (1,))
    )
    sequences = [network.Tokens(*x, gain[:, 0]) for *x, gain in zip(q, k, v, log_gain)]
    drawn = [next(draw_neurons(feature_map, rng, rng, 50, 4)) for _ in range(2)]
    draws = [[(w[:30], b[:30]), (w[30:], b[30:])] for w, b in drawn]  # in two pieces
    options = {"activation": FEATURE_MAPS[feature_map].activation}
    ranges = [(0, 20), (0, 50)]
    wanted = [network.read(sequences, neurons, ranges, **options) for neurons in draws]
    found = read_batch(sequences, draws, ranges, **options)
    for x, y in zip(flat(found), flat(wanted), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-11)


def test_a_shard_without_heads_has_all_variables(qkv, attention, states):
    """The file is as that of other heads is for heads that were not chosen."""
    run = run_simulate(qkv, attention, n_features=[3, 40], n_seeds=3, heads=[])
    check(run, "states", "here")
    xr.testing.assert_identical(run.sel(head=[0]), states.sel(head=[0]))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_dtypes_agree(qkv, attention, states, dtype, tolerance):
    run = run_simulate(qkv, attention, n_features=[3, 40], n_seeds=3, heads=[[0, 1]], dtype=dtype)
    assert run["log_calcium"].dtype == np.float64
    for name in ("log_calcium", "output_error"):
        np.testing.assert_allclose(run[name], states[name], rtol=tolerance, atol=tolerance)
    assert not np.array_equal(run["log_calcium"], states["log_calcium"], equal_nan=True)


def test_workers_change_nothing(qkv, attention, states):
    run = run_simulate(qkv, attention, n_features=[3, 40], n_seeds=3, heads=[[0, 1]], workers=3)
    xr.testing.assert_identical(run, states)


def test_a_head_of_nothing_is_not_balanced(named, capsys):
    """It is centred as the others are, and its name is told; the others are as without it."""
    empty = named.copy(deep=True)
    empty["k"][dict(input=1, head=1)] = 0.0
    run = run_simulate(empty, attend(empty), n_features=[5], n_seeds=2, **BALANCED)
    said = capsys.readouterr().out
    told = "warning: not balanced, as all of their queries or keys are zero: layer 0, head 1\n"
    assert told in said
    dead = run.isel(layer=0).sel(head=1)
    np.testing.assert_array_equal(dead["balance"], np.eye(4))
    assert (dead["query_shift"] != 0).all() and (dead["key_shift"] == 0).all()
    whole = run_simulate(named, attend(named), n_features=[5], n_seeds=2, **BALANCED)
    xr.testing.assert_identical(run.sel(head=[0]), whole.sel(head=[0]))


@pytest.mark.parametrize("order", ["bidirectional", "causal"])
def test_errors_beside_equal_attention(order):
    """Each query's mean over the values it may read, written out; heads that beat it count."""
    data = in_order(random_heads([0.5, 12.0], 3, n_tokens=10, d_head=4), order)
    exact = attend(data)
    run = run_simulate(data, exact, n_features=[20, 400], n_seeds=3)
    found = run_fit(data, exact, run)
    errors = np.zeros((3, 2))
    for i, head in np.ndindex(errors.shape):
        v = data["v"].values[i, 0, head]
        outputs = [v[: t + 1 if order == "causal" else 10].mean(0) for t in range(10)]
        wanted = exact["output"].values[i, 0, head]
        errors[i, head] = np.linalg.norm(outputs - wanted) / np.linalg.norm(wanted)
    np.testing.assert_allclose(found["output_error_uniform"][0], errors.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["output_error_uniform_all"], errors.mean(0).mean(), rtol=1e-5)
    of_heads = run["output_error"].mean(("seed", "input"))  # [n_features, layer, head]
    better = (of_heads < errors.mean(0)).sum(("layer", "head"))
    np.testing.assert_array_equal(found["heads_better_than_uniform"], better)
    middle = of_heads.median(("layer", "head"))
    np.testing.assert_allclose(found["output_error_all"], middle, rtol=1e-12)
    assert (found["output_error_all_low"] < middle).all()


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=30))
def test_no_constant_has_a_smaller_median_error(log_z):
    """Against a search over constants; an even number of queries takes the larger middle one."""
    log_z = np.array(log_z)
    least = float(of_best_constant(log_z))
    constants = np.concatenate([log_z, np.linspace(-25, 25, 401)])
    errors = np.abs(np.exp(constants[:, None] - log_z) - 1)
    middle = np.sort(errors, -1)[:, len(log_z) // 2]
    assert least <= middle.min() + 1e-9
    ordered, n = np.sort(log_z), len(log_z) // 2 + 1
    start = min(range(len(log_z) - n + 1), key=lambda i: ordered[i + n - 1] - ordered[i])
    best = 2 / (np.exp(-ordered[start]) + np.exp(-ordered[start + n - 1]))
    assert np.sort(np.abs(best / np.exp(log_z) - 1))[n - 1] == pytest.approx(least, abs=1e-6)


def test_a_batch_holds_no_more_than_is_drawn_at_a_time(monkeypatch):
    """And its outputs fit in a block of memory; at least one draw."""
    x = torch.zeros(32, 6)
    inputs = [network.Tokens(x[:n], x[:n], x[:n], x[:n, 0]) for n in (20, 32)]
    bytes_of_a_draw = 8 * 5 * 2 * 32 * 8  # 5 networks of 2 inputs
    monkeypatch.setattr(networks, "device_block_bytes", lambda device: 10 * bytes_of_a_draw)
    assert draws_at_once(inputs, CHUNK // 7, 5, 2) == 7
    assert draws_at_once(inputs, CHUNK // 100, 5, 2) == 10
    assert draws_at_once(inputs, 3 * CHUNK, 5, 2) == 2  # each in a thread of its own
    monkeypatch.setattr(networks, "device_block_bytes", lambda device: 1)
    assert draws_at_once(inputs, CHUNK // 7, 5, 2) == 1


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_next_neurons_are_drawn_while_the_device_computes(n_threads):
    begun = threading.Event()

    def draw(letter):
        for number in range(3):
            if number == 1:
                begun.set()
            yield f"{letter}{number}"

    pieces = drawn_ahead([draw("a"), draw("b")], n_threads)
    assert next(pieces) == ["a0", "b0"]
    assert begun.wait(60)  # without a call of next
    assert list(pieces) == [["a1", "b1"], ["a2", "b2"]]
