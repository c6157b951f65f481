"""The stage that trains hidden layers: labels, roles, random networks, resuming, and its figure."""

import hypothesis
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import strategies as st
from matplotlib import pyplot as plt

from conftest import assert_drawn_alike, random_heads, run_stage
from tripartite import network
from tripartite.contracts import check, describe
from tripartite.kinds.data.attend import attend
from tripartite.kinds.learned import evaluation
from tripartite.kinds.learned.learn import learn
from tripartite.kinds.learned.learned_features import answer, learned_features, table
from tripartite.streams import stream
from tripartite.symmetries import fitted

SETTINGS = {
    "n_features": [6, 16],
    "n_seeds": 2,
    "trained_on": ["draw-0", "draw-3"],
    "validated_on": ["draw-1"],
    "heads": "all",
    "loss": "weights",
    "max_steps": 25,
    "learning_rate": 0.1,
    "patience": 5,
    "dtype": "float32",
    "seed": 5,
    "data_of": "x",
}


def with_gaps(n_inputs):
    """Three heads; the inputs have 20 tokens, but the last has 12."""
    absent = [(-1, slice(12, None))]
    return random_heads([0.5, 4.0, 40.0], n_inputs, absent, n_tokens=20, d_head=4)


def run(data, checkpoint=None, previous=None, **changes):
    checkpoint = {} if checkpoint is None else checkpoint
    settings = SETTINGS | changes
    return run_stage(learn, data, settings, checkpoint=checkpoint, previous=previous)


@pytest.fixture(scope="module")
def data():
    return with_gaps(5)


@pytest.fixture(scope="module")
def learned(data):
    return run(data).assign_attrs(data="drawn")


def test_what_it_returns(learned):
    check(describe(learned, "learned"), "learned", "here")
    assert list(learned["role"].values) == ["train", "validate", "test", "train", "test"]
    assert list(learned["step"].values) == [0, 10, 20, 25]
    assert (learned["note"] == "").all()
    for name in ("kl", "output_error", "training_loss", "validation_loss"):
        assert learned[name].notnull().all() and (learned[name] >= 0).all()
    best = learned["validation_loss"].argmin("step")
    np.testing.assert_array_equal(learned["step"][best], learned["best_step"])


def test_the_precision_is_of_the_training_alone(data, learned):
    """Random features and equal attention are the same in float64."""
    fine = run(data, dtype="float64")
    differ = np.abs(fine["kl"] / learned["kl"] - 1).max(
        ("n_features", "seed", "input", "layer", "head")
    )
    assert 1e-9 < differ.sel({"origin": "learned"}) < 1e-2
    assert (differ.sel({"origin": ["random", "fitted random", "uniform"]}) == 0).all()


def test_random_is_the_network_and_uniform_the_mean(data, learned):
    """KL and output error by the explicit loop over queries, with gaps in the tokens."""
    exact = attend(data)
    for i, head, index, m in ((0, 2, 1, 6), (4, 1, 0, 16)):
        present = data["mask"].values[i]
        q, k, v = (data[name].values[i, 0, head, present].astype(float) for name in "qkv")
        omega = stream(5, "x", "omega", index, 0, head).standard_normal((16, 4))[:m]
        phi_q, phi_k = (np.exp(x @ omega.T - np.square(x).sum(1)[:, None] / 2) for x in (q, k))
        output = exact["output"].values[i, 0, head, present]
        for origin, kernel in (("random", phi_q @ phi_k.T), ("uniform", np.ones((len(q), len(q))))):
            kl, got = [], []
            for t in range(len(q)):
                a = np.exp(q[t] @ k.T) / np.exp(q[t] @ k.T).sum()
                b = kernel[t] / kernel[t].sum()
                kl.append((a * np.log(a / b)).sum())
                got.append(b @ v)
            place = {"origin": origin, "n_features": m, "seed": index, "head": head}
            at = learned.sel(place).isel(input=i, layer=0)
            np.testing.assert_allclose(at["kl"], np.mean(kl), rtol=1e-9)
            error = np.linalg.norm(np.array(got) - output) / np.linalg.norm(output)
            np.testing.assert_allclose(at["output_error"], error, rtol=1e-6)


def test_random_output_is_that_of_the_network(data, learned):
    """The tripartite network itself, token by token, makes the same output error."""
    q, k, v = (torch.from_numpy(data[name].values[2, 0, 0]).double() for name in "qkv")
    exact = torch.from_numpy(attend(data)["output"].values[2, 0, 0])
    omega = torch.from_numpy(stream(5, "x", "omega", 0, 0, 0).standard_normal((8, 4))[:6])
    hidden = network.Hidden(omega, torch.zeros(6, dtype=torch.float64))
    tokens = network.Tokens(q, k, v, torch.zeros(20, dtype=torch.float64))
    _, last = network.sequential(torch.zeros_like(v), tokens, hidden)
    got = (
        learned["output_error"]
        .sel({"origin": "random", "n_features": 6, "seed": 0, "head": 0})
        .isel(input=2)
    )
    np.testing.assert_allclose(got.squeeze(), (last - exact).norm() / exact.norm(), rtol=1e-9)


def test_fitted_random_is_the_loop_with_what_the_training_inputs_give(data, learned):
    """Shifts, balance and widths from trained_on alone; KL by the explicit loop over queries."""
    head, index, m, i = 1, 1, 16, 4
    inputs = []
    for name in ("draw-0", "draw-3"):
        one = data.sel(input=name).isel(layer=0, head=head)
        inputs.append(tuple(torch.from_numpy(one[x].values).double() for x in "qk"))
    symmetry, a = fitted(inputs, ["center_keys", "center_queries", "balance"], "fitted_normal")
    mu, c, balance, a = (x.numpy() for x in (*symmetry, a))
    present = data["mask"].values[i]
    q, k = (data[name].values[i, 0, head, present].astype(float) for name in "qk")
    omega = stream(5, "x", "omega", index, 0, head).standard_normal((16, 4))[:m]
    weights = np.sqrt(1 - 4 * a) * omega
    bias = (a * omega**2 + np.log(1 - 4 * a) / 4).sum(1)
    rates = []
    for x in ((q - c) @ balance.T, (k - mu) @ np.linalg.inv(balance)):
        rates.append(np.exp(x @ weights.T + bias - np.square(x).sum(1)[:, None] / 2))
    kernel = rates[0] @ (rates[1] * np.exp((k - mu) @ c)[:, None]).T
    a_hat = kernel / kernel.sum(1, keepdims=True)
    softmax = np.exp(q @ k.T) / np.exp(q @ k.T).sum(1, keepdims=True)
    kl = (softmax * np.log(softmax / a_hat)).sum(1).mean()
    place = {"origin": "fitted random", "n_features": m, "seed": index, "head": head}
    np.testing.assert_allclose(learned["kl"].sel(place).isel(input=i, layer=0), kl, rtol=1e-8)


def test_fitted_random_attention_tends_to_softmax():
    """With many neurons what is fitted leaves attention exact: KL falls like 1 / m to 0."""
    data = random_heads([0.5], 3, n_tokens=12, d_head=4)
    few = {"trained_on": ["draw-0"], "validated_on": ["draw-1"], "max_steps": 1}
    found = run(data, n_features=[100, 20000], n_seeds=2, **few)
    kl = found["kl"].sel({"origin": ["random", "fitted random"]}).mean(("seed", "input"))
    assert (kl.sel(n_features=20000) < 1e-4).all()
    assert (kl.sel(n_features=100) > 50 * kl.sel(n_features=20000)).all()


def test_summaries_are_of_the_tests(learned):
    """Medians of values and of paired ratios, and shares of heads, each by xarray."""
    tests = learned.isel(input=[2, 4])
    over = ("seed", "input", "layer", "head")
    for name in ("kl", "output_error"):
        ratio = xr.concat(
            [
                np.log10(tests[name] / tests[name].sel({"origin": one}, drop=True))
                for one in evaluation.BASELINES
            ],
            xr.DataArray(list(evaluation.BASELINES), dims="baseline"),
        )
        share = (ratio.mean(("seed", "input")) < 0).mean(("layer", "head"))
        itself = xr.zeros_like(share)
        for one in evaluation.BASELINES:
            itself.loc[{"origin": one, "baseline": one}] = 0.5
        for variable, wanted in (
            (f"median_{name}", tests[name].median(over)),
            (f"log10_{name}_ratio", ratio.median(over)),
            (f"share_of_heads_{name}", share + itself),
        ):
            wanted = wanted.transpose(*learned[variable].dims)
            np.testing.assert_allclose(learned[variable], wanted, rtol=1e-9, atol=1e-12)
            for low, high in ((f"{variable}_low", variable), (variable, f"{variable}_high")):
                assert (learned[low] <= learned[high]).all()


def test_heads_of_one_weight_are_one_cluster():
    """12 copies of each of 2 heads count as 2 heads, not as 24."""
    kl = np.ones((4, 1, 3, 5, 24))
    kl[0] = np.repeat([0.2, 0.3], 12) * np.linspace(0.99, 1.01, 15).reshape(3, 5, 1)
    widths = []
    for labels in (np.repeat([0, 1], 12), np.arange(24)):
        found = evaluation.summaries(kl, kl, labels, lambda name: stream(0, "x", name))
        _, low, high = (x[0, 0, 0] for x in found["log10_kl_ratio"])
        assert low <= np.log10(np.sqrt(0.06)) <= high or low <= np.log10(0.25) <= high
        widths.append(high - low)
    assert widths[0] > 2 * widths[1] > 0


@hypothesis.given(
    share=st.integers(0, 8), half=st.floats(0, 2), n=st.integers(1, 8), known=st.booleans()
)
def test_the_interval_of_a_share_is_one_of_shares(share, half, n, known):
    """Between 0 and 1, around the share, never without width, and NaN where it is not known."""
    estimate = np.array([share / 8])
    ends = [estimate + sign * half if known else np.array([np.nan]) for sign in (-1, 1)]
    got, low, high = evaluation.within_shares((estimate, *ends), np.array([n]))
    assert got == estimate
    if known:
        assert 0 <= low <= estimate <= high <= 1 and high - low > 0.1
    else:
        assert np.isnan(low) and np.isnan(high)


class CutOff(dict):
    """A store that ends the run once it holds n results."""

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        if len(self) == 3:
            raise KeyboardInterrupt


def test_a_run_that_was_cut_off_goes_on(data, learned):
    """Identical arrays, and what was finished is not done again."""
    checkpoint = CutOff()
    with pytest.raises(KeyboardInterrupt):
        run(data, checkpoint)
    assert list(checkpoint) == ["6-0", "6-1", "16-0"]
    assert all(isinstance(x, np.ndarray) for one in checkpoint.values() for x in one.values())
    checkpoint = dict(checkpoint)
    checkpoint["6-0"] = checkpoint["6-0"] | {
        "best_step": np.array([7, 7, 7])
    }  # to see where it is read from
    again = run(data, checkpoint)
    assert list(checkpoint) == ["6-0", "6-1", "16-0", "16-1"]
    assert (again["best_step"].sel(n_features=6, seed=0) == 7).all()
    xr.testing.assert_equal(again.drop_vars("best_step"), learned.drop_vars("best_step"))


def test_sizes_seeds_and_heads_do_not_depend_on_one_another(data, learned):
    one = run(data, n_features=[16], n_seeds=1, heads=[[0, 1]])
    for name in ("kl", "validation_loss"):
        got = one[name].sel(n_features=16, seed=0, head=1)
        np.testing.assert_allclose(got, learned[name].sel(n_features=16, seed=0, head=1), rtol=1e-3)
        assert one[name].sel(head=[0, 2]).isnull().all()
    assert (one["best_step"].sel(head=[0, 2]) == -1).all() and (one["note"] == "").all()
    check(describe(one, "learned"), "learned", "here")


def test_heads_without_a_result_are_left_out(data, learned):
    """A head whose training diverged in one seed counts for no origin; without any, all is NaN."""
    lost = run(data, learning_rate=1e30)
    assert lost["kl"].sel({"origin": "learned"}).isnull().all()
    assert lost["kl"].sel({"origin": "random"}).notnull().all()
    assert lost["note"].str.startswith("training diverged at step 10: ").all()
    for name in ("median_kl", "median_kl_low", "log10_kl_ratio", "share_of_heads_kl"):
        assert lost[name].isnull().all()
    checkpoint = {}
    run(data, checkpoint, n_features=[6])
    checkpoint["6-1"]["kl"][0, :, 2] = np.nan
    got = run(data, checkpoint, n_features=[6])
    wanted = learned["kl"].sel(n_features=6, head=[0, 1]).isel(input=[2, 4])
    np.testing.assert_allclose(
        got["median_kl"][:, 0], wanted.median(("seed", "input", "layer", "head")), rtol=1e-12
    )


def test_one_value_has_no_interval(data):
    small = {"n_features": [6], "n_seeds": 1, "heads": [[0, 1]], "trained_on": ["draw-0"]}
    one = run(data.isel(input=[0, 1, 2]), **small)
    assert one["median_kl"].notnull().all() and one["median_kl_low"].isnull().all()


def test_errors_of_parts_of_the_heads_are_those_of_all(data, learned, monkeypatch):
    """Heads are evaluated some at a time."""
    monkeypatch.setattr(evaluation, "MAX_HEADS", 2)
    xr.testing.assert_allclose(run(data), learned, rtol=1e-9)


def test_figure(learned, tmp_path):
    fits = {"a": learned, "b": learned.isel(n_features=[1]).assign_attrs(data="other, centred")}
    assert_drawn_alike(learned_features, fits, tmp_path)
    divergence, ratio, shares = learned_features(fits).axes
    of_a = {"origin": "learned", "n_features": learned["n_features"].values}
    drawn = divergence.containers[0].lines[0].get_xdata()[: learned.sizes["n_features"]]
    np.testing.assert_array_equal(drawn, learned["median_kl"].sel(of_a))
    drawn = ratio.containers[0].lines[0].get_xdata()[: learned.sizes["n_features"]]
    wanted = learned["log10_kl_ratio"].sel(of_a | {"baseline": "fitted random"})
    np.testing.assert_allclose(drawn, 10**wanted)
    drawn = shares.containers[0].lines[0].get_xdata()[: learned.sizes["n_features"]]
    wanted = learned["share_of_heads_kl"].sel(of_a | {"baseline": "uniform"})
    np.testing.assert_array_equal(drawn, wanted)
    plt.close("all")


def test_table_and_answer_say_what_is_drawn(learned):
    fits = {"a": learned}
    found = table(fits)
    shares = found[found["quantity"] == "share of heads"]
    assert "uniform" not in set(shares["origin"])  # half of its heads are better than itself
    one = found[(found["quantity"] == "ratio") & (found["baseline"] == "uniform")].iloc[0]
    wanted = learned.sel(origin="learned", baseline="uniform").isel(n_features=0)
    ends = ("", "_low", "_high")
    np.testing.assert_allclose(
        [one[f"value{end}"] for end in ends],
        [10 ** float(wanted[f"log10_kl_ratio{end}"]) for end in ends],
    )
    largest = learned.sel(origin="learned", baseline="fitted random").isel(n_features=-1)
    assert f"of pairs): {10 ** float(largest['log10_kl_ratio']):.2f}" in answer(fits)
    better = learned.assign(log10_kl_ratio=learned["log10_kl_ratio"] - 1)
    assert f"of pairs): {10 ** float(largest['log10_kl_ratio'] - 1):.2f}" in answer({"a": better})
    nothing = learned.assign({name: learned[name] * np.nan for name in ("log10_kl_ratio",)})
    nothing = nothing.assign({f"log10_kl_ratio{end}": nothing["log10_kl_ratio"] for end in ends})
    assert "of pairs): – (drawn" in answer({"a": nothing})
