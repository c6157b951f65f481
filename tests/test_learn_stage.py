"""The stage that trains hidden layers: labels, roles, random networks, resuming, and its figure."""

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib import pyplot as plt

from conftest import assert_drawn_alike, random_heads, run_stage
from tripartite import network
from tripartite.contracts import check, describe
from tripartite.figures import palette
from tripartite.kinds.data.attend import attend
from tripartite.kinds.learned import evaluation
from tripartite.kinds.learned.learn import learn
from tripartite.kinds.learned.learned_features import learned_features
from tripartite.streams import stream

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
    assert (differ.sel({"origin": ["random", "uniform"]}) == 0).all()


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


def test_summaries_are_of_the_tests(learned):
    tests = learned.isel(input=[2, 4])
    over = ("seed", "input", "layer", "head")
    ratio = np.log10(tests["kl"] / tests["kl"].sel({"origin": "random"}, drop=True))
    better = tests["kl"] < tests["kl"].sel({"origin": "uniform"}, drop=True)
    for name, wanted in (
        ("median_kl", tests["kl"].median(over)),
        ("median_output_error", tests["output_error"].median(over)),
        ("log10_kl_ratio", ratio.median(over)),
    ):
        np.testing.assert_allclose(learned[name], wanted, rtol=1e-12)
        assert (learned[f"{name}_low"] <= learned[name]).all()
        assert (learned[name] <= learned[f"{name}_high"]).all()
    np.testing.assert_allclose(learned["share_better_than_uniform"], better.mean(over), rtol=1e-12)
    assert (learned["log10_kl_ratio"].sel({"origin": "random"}) == 0).all()


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
    for name in ("median_kl", "median_kl_low", "log10_kl_ratio", "share_better_than_uniform"):
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
    figure = learned_features(fits)
    assert figure.get_figwidth() <= palette.PAGE and len(figure.axes) == 2
    drawn = figure.axes[0].get_lines()[0]
    np.testing.assert_array_equal(
        drawn.get_ydata(), learned["median_kl"].sel({"origin": "learned"})
    )
    plt.close("all")
