"""The harness of stages: what heads read, where results are put, what is refused; and networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import random_heads
from tripartite import hidden
from tripartite.contracts import UserError, check, describe
from tripartite.features import draw_neurons
from tripartite.heads import Heads, progress
from tripartite.kinds.data.attend import attend
from tripartite.network import Hidden, sequential
from tripartite.streams import stream

COORDS = {
    "ratio": np.array([0.5, 2.0, 4.0]),
    "n_features": [3, 5],
    "model": ["a", "b"],
    "lag_error": [0.1, 0.05],
}


@pytest.fixture(scope="module")
def data():
    """Three inputs, of which the second lacks tokens in the middle and at its end."""
    absent = [(1, 2), (1, slice(5, None))]
    return random_heads([0.5, 1.0], 3, absent, n_tokens=7, d_head=4)


@pytest.fixture(scope="module")
def exact(data):
    return attend(data)


def test_a_head_reads_what_is_there(data, exact):
    head = Heads(data, exact, inputs=["draw-1", "draw-0"], calibrated_on=["draw-2"]).head(0, 1)
    first, second = head.readings
    assert [first.name, second.name, head.calibrating[0].name] == ["draw-1", "draw-0", "draw-2"]
    present = [0, 1, 3, 4]
    for name in "qkv":
        wanted = data[name].values[1, 0, 1][present]
        np.testing.assert_array_equal(getattr(first, name), wanted.astype(float))
    np.testing.assert_array_equal(first.output, exact["output"].values[1, 0, 1][present])
    z = torch.logsumexp(first.q @ first.k.mT, -1)
    torch.testing.assert_close(first.log_normalizer, z)
    assert len(second.q) == 7 and second.q.dtype == torch.float64


def test_all_inputs_are_those_that_do_not_calibrate(data, exact):
    heads = Heads(data, exact, calibrated_on=["draw-1"])
    assert heads.read_inputs == [0, 2] and heads.chosen == [(0, 0), (0, 1)]
    assert [heads.n_tokens(i) for i in range(3)] == [7, 4, 7]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"heads": [[0, 2]]}, r"heads: got \[0, 2\], wanted layers below 1 and heads below 2"),
        ({"heads": [[1, 0]]}, r"heads: got \[1, 0\], wanted layers below 1 and heads below 2"),
        ({"inputs": ["draw-9"]}, "inputs: got draw-9, wanted some of draw-0, draw-1, draw-2"),
        ({"calibrated_on": ["x"]}, "inputs: got x, wanted some of draw-0, draw-1, draw-2"),
    ],
)
def test_what_does_not_exist_is_refused(data, exact, settings, line):
    with pytest.raises(UserError, match=line):
        Heads(data, exact, **settings)


@pytest.mark.parametrize("workers", [1, 3])
def test_results_are_put_to_the_places_of_their_heads(data, exact, workers, capfd):
    """Also where heads run side by side; other heads are NaN, and their notes say so."""
    heads = Heads(data, exact, heads=[[0, 1]], seed=3, data_of="x", workers=workers)

    def one_head(head):
        values = head.stream("values").uniform(size=(3, 2))
        zero = np.zeros(3)
        exact = dict.fromkeys(
            ("gain_error", "sd_log_gain", "gain_output_error"), (zero, -1 + zero, zero)
        )
        whole = dict.fromkeys(
            ("sd_log_gain_stale", "sd_log_normalizer", "lag_correlation"), (0.0, -1.0, 1.0)
        )
        sized = ("random_feature_error", "ratio_needed", "ratio_needed_in_all")
        return {
            **exact,
            **whole,
            **{name: (zero[:2], zero[:2], zero[:2]) for name in sized},
            "ratio_for_lag": (zero[:2], zero[:2], zero[:2]),
            "total_error": (values, values - 1, values + 1),
            "sd_log_gain_law": zero,
            "sd_log_gain_stale_law": 0.0,
            "ratio_note": ["", "because"],
        }

    empty = np.zeros((2, 2, 1, 2))
    found = heads.table(
        "settling",
        one_head,
        COORDS,
        calcium_model=["x", ""],
        operating_point=[0.1, np.nan],
        relaxation_seconds=[1.0, 2.0],
        seconds_needed=(empty, empty, empty),
    )
    check(describe(found, "settling"), "settling", "here")
    one = found.sel(layer=0, head=1)
    wanted = stream(3, "x", "values", 0, 1).uniform(size=(3, 2))
    np.testing.assert_array_equal(one["total_error"], wanted)
    np.testing.assert_array_equal(one["total_error_high"].sel(ratio=2.0), wanted[1] + 1)
    assert list(one["ratio_note"].values) == ["", "because"]
    assert found["total_error"].sel(head=0).isnull().all()
    assert (found["ratio_note"].sel(head=0) == "not run").all()
    assert "settle: 100 % of 1 heads, elapsed 00:00, about" in capfd.readouterr().err


def test_an_interval_needs_three_values(data, exact):
    with pytest.raises(ValueError, match="zip"):
        Heads(data, exact).placed("settling", [{"gain_error": (1.0, 2.0)}], COORDS)


def test_neurons_are_those_of_the_streams(data, exact):
    head = Heads(data, exact, seed=7, data_of="mine").head(0, 1)
    streams = (stream(7, "mine", name, 2, 0, 1) for name in ("omega", "phase"))
    for ours, wanted in zip(hidden.neurons(head, 2, 9), draw_neurons("performer", *streams, 9, 4)):
        for got, one in zip(ours, wanted):
            assert torch.equal(got, one)


@pytest.mark.parametrize("one_hot", [False, True])
def test_networks_are_the_equations_token_by_token(data, exact, one_hot):
    head = Heads(data, exact, seed=7, data_of="mine", inputs=["draw-1"]).head(0, 0)
    found = hidden.networks(head, 0, [4, 8], one_hot)
    weights, bias = (torch.cat(parts) for parts in zip(*hidden.neurons(head, 0, 8)))
    (reading,) = head.readings
    tokens = hidden.tokens(reading, one_hot=one_hot)
    assert tokens.v.shape == ((4, 4) if one_hot else reading.v.shape)
    for ((log_p, sign, output),), m in zip(found, (4, 8)):
        x = torch.zeros_like(tokens.v)
        p, wanted = sequential(x, tokens, Hidden(weights[:m], bias[:m]))
        torch.testing.assert_close(sign * torch.exp(log_p), p)
        torch.testing.assert_close(output, wanted)
        if one_hot:
            torch.testing.assert_close(output.sum(1), torch.ones(4, dtype=torch.float64))


def test_progress_gives_all_steps(capfd):
    assert list(progress(range(3), "stage", "runs")) == [0, 1, 2]
    assert "stage: 100 % of 3 runs, elapsed" in capfd.readouterr().err


def test_progress_counts_parts_of_heads(data, exact):
    """Shares of all heads add up to the heads, also of a head that names no parts."""
    shares = []

    def one_head(head):
        before = head.advance
        watched = replace(head, advance=lambda share: (shares.append(share), before(share)))
        return [seed for seed in watched.each(range(4 if head.head else 0))]

    assert Heads(data, exact).map(one_head, "stage") == [[], [0, 1, 2, 3]]
    assert shares == [0.25] * 4
