"""The figure of the tripartite synapse: words, phases, the same bytes, and odd experiments."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from test_integrate import run, with_gaps
from tripartite import job
from tripartite.figures import panels
from tripartite.kinds.dynamics.synapse import (
    EXACT,
    ROWS,
    SETTLED,
    answer,
    apart,
    fastest,
    synapse,
    table,
    token_windows,
)


@pytest.fixture(scope="module")
def fits():
    data = with_gaps()
    words = run(data).assign_attrs(data="a model", symmetries="center_keys center_queries")
    numbers = run(data, order="causal", input="draw-0").assign_attrs(data="random heads")
    return {"words": words, "numbers": numbers}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


def letters(figure):
    panels.finish(figure)
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_gid() == "letter"]


def test_same_data_same_bytes(fits, tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / f"synapse.{suffix}" for suffix in ("svg", "pdf", "png")]
        job.save_figure(synapse(fits), paths, {"x": "abc"})
    for path in paths:
        other = tmp_path / "a" / path.name
        assert path.read_bytes() == other.read_bytes() and other.stat().st_size > 5000


def test_words_are_where_their_tokens_are(fits):
    figure = synapse({"words": fits["words"]})
    assert len(figure.axes) == 12 and letters(figure) == [*"abcde"]
    write, read = figure.axes[:2]
    for axis, start, length in ((write, 0.0, 0.25), (read, 18 * 0.25, 0.5)):
        words = [text for text in axis.texts if text.get_rotation() == 90]
        assert [text.get_text() for text in words][:4] == ["word0", "word1", "word2", "word4"]
        middles = [text.get_position()[0] for text in words]
        np.testing.assert_allclose(middles, start + length * (np.arange(12) + 0.5))
        assert axis.get_xlim() == pytest.approx((start, start + 12 * length))
    said = texts(figure)
    assert "a model" in said and "then all are read, 500 ms each" in said
    assert any(text.startswith("centred\n") for text in said)
    assert any("layer 0, head 1, $m$ = 30" in text for text in said)
    assert any("= 50 ms" in text for text in said)


def test_lines_are_the_samples(fits):
    fit = fits["words"]
    figure = synapse({"words": fit})
    seen = fit.isel(sample=(fit["seconds"] > 4.5) & (fit["seconds"] < 10.51))
    calcium, error = figure.axes[9::2]
    for axis, name in ((calcium, "calcium"), (error, "output_error")):
        (line,) = [line for line in axis.lines if len(line.get_xdata()) == seen.sizes["sample"]]
        np.testing.assert_array_equal(line.get_xdata(), seen["seconds"])
        np.testing.assert_array_equal(line.get_ydata(), seen[name])
    for label, axis, wanted in (
        (SETTLED, calcium, fit["normalizer_network"]),
        (EXACT, calcium, np.exp(fit["log_normalizer"] - fit["log_calcium_unit"])),
        (SETTLED, error, fit["output_error_algebra"]),
    ):
        levels = [line for line in axis.lines if line.get_label() == label]
        np.testing.assert_allclose([line.get_ydata()[0] for line in levels], wanted[:12])
        starts = [line.get_xdata()[0] for line in levels]
        np.testing.assert_allclose(starts, 4.5 + 0.5 * np.arange(12), atol=0.0501)  # first samples


def test_windows_of_a_quantity_have_one_axis(fits):
    axes = synapse({"words": fits["words"]}).axes
    for write, read in zip(axes[2::2], axes[3::2]):
        assert write.get_ylim() == read.get_ylim()


def test_table_has_the_samples_of_the_fit(fits):
    fit = fits["words"]
    drawn = table({"words": fit})
    assert {*drawn["phase"][drawn["window"] == 0]} == {"written"} and drawn["window"].max() == 1
    places = np.searchsorted(fit["seconds"], drawn["seconds"] - 1e-9)
    np.testing.assert_array_equal(drawn["process p"], fit["calcium"][places])
    assert (drawn["word"] == fit["text"].values[fit["token_on"][places]]).all()
    few = fastest([fit.isel(sample=places)])
    for number, neuron in enumerate(few, 1):
        for name in ("rates", "hebbian", "presynaptic"):
            column = ROWS[name].column.replace("#", str(number))
            np.testing.assert_array_equal(drawn[column], fit[name][places, neuron])
    read = drawn[drawn["phase"] == "read"]
    wanted = fit["output_error_algebra"].values[read["token"]]
    np.testing.assert_array_equal(read["output error settled"], wanted)


def test_neurons_are_those_that_fire_most(fits):
    fit = fits["words"].isel(sample=slice(0, 3), neuron=slice(0, 4))
    rates = np.array([[0, 0.5, 0.2, 0.3], [0.6, 0, 0, 0.4], [0.1, 0, 0.9, 0.8]])
    dims = fit["rates"].dims
    fit = fit.assign(rates=(dims, rates), control=("sample", [0, 0, 1]))
    assert fastest([fit]) == [1, 0, 2]


def test_answer_has_the_numbers_of_the_fit(fits):
    fit = fits["words"]
    said = answer({"words": fit})
    assert f"errs by {float(fit['output_error_read'].median()):.2f}" in said
    assert "Intracellular" not in said and "In this order" in answer({"a": fits["numbers"]})
    driven = fit.assign(intracellular=-fit["calcium"])
    assert "has one of -1.00 with the process" in answer({"a": driven})
    ranks = fit["calcium_read"].to_series().rank().corr(fit["log_normalizer"].to_series().rank())
    assert f"of {ranks:.2f} with that of softmax" in said
    assert answer({"a": fit.assign(output_error_read=fit["output_error_read"] + 1)}) != said
    assert "nan" not in answer({"a": fit.assign(calcium_read=fit["calcium_read"] * np.nan)})


def test_names_of_lines_stand_apart():
    found = apart(np.array([0.5, 0.1, 0.52]), 0.2)
    assert (np.diff(np.sort(found)) >= 0.2 - 1e-12).all() and found.argsort().tolist() == [1, 0, 2]
    assert apart(np.array([1.0, 1.0, 1.0]), 0.2).max() <= 1.1 + 1e-12


def test_alternating_phases_share_a_window(fits):
    (cells,) = token_windows(fits["numbers"])
    assert [(cell.r, cell.token) for cell in cells[:4]] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert cells[3].start == pytest.approx(1.0) and cells[3].stop == pytest.approx(1.5)
    figure = synapse({"numbers": fits["numbers"]})
    assert len(figure.axes) == 6 and letters(figure) == [*"abcde"]
    words = [text.get_text() for text in figure.axes[0].texts if text.get_rotation() == 90]
    assert words[:3] == ["0", "1", "2"]


def test_the_first_experiment_is_shown(fits):
    """A row of calcium models only where there is one."""
    figure = synapse(fits)
    assert len(figure.axes) == 12 and any("1 of 2 experiments" in text for text in texts(figure))
    driven = fits["words"].assign(intracellular=0.1 + fits["words"]["calcium"])
    figure = synapse({"words": driven})
    assert len(figure.axes) == 14 and any("µM" in text for text in texts(figure))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"output_error": 0.0, "output_error_algebra": 0.0},
        {"calcium": np.nan},
        {"output_error": np.nan, "normalizer": np.nan, "rates": np.nan},
        {"log_normalizer": 1e4},
        {"calcium": 1e-300, "normalizer": 0.0, "rates": 0.0},
    ],
)
def test_odd_experiments_can_be_drawn(values, fits, tmp_path):
    odd = fits["words"].assign({name: 0 * fits["words"][name] + x for name, x in values.items()})
    odd = odd.assign(text=("token", ["$x^$", *["a" * 30] * 17]), input="$y^$_z")
    job.save_figure(synapse({"odd": odd.assign_attrs(data="x $^$ y")}), [tmp_path / "a.png"], {})


def test_small_experiments_can_be_drawn(tmp_path):
    data = with_gaps()
    one = run(data.isel(token=slice(0, 1)), n_features=1)
    coarse = run(data, sample_seconds=9.0)  # no sample while the first tokens are written
    for fit in (one, coarse):
        fit = fit.assign_attrs(data="a model")
        job.save_figure(synapse({"a": fit, "b": fit}), [tmp_path / "a.png"], {})
