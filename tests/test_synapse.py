"""The figure of the tripartite synapse: words, phases, the same bytes, and odd experiments."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from test_integrate import run, with_gaps
from tripartite import job
from tripartite.figures import palette
from tripartite.kinds.dynamics.synapse import peaks, synapse, token_windows


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
    assert figure.get_figwidth() <= palette.PAGE and len(figure.axes) == 12
    write, read = figure.axes[:2]
    for axis, start, length in ((write, 0.0, 0.25), (read, 18 * 0.25, 0.5)):
        assert [text.get_text() for text in axis.texts][:4] == ["word0", "word1", "word2", "word4"]
        middles = [text.get_position()[0] for text in axis.texts if text.get_rotation() == 90]
        np.testing.assert_allclose(middles, start + length * (np.arange(12) + 0.5))
        assert axis.get_xlim() == pytest.approx((start, start + 12 * length))
    said = texts(figure)
    assert "a model" in said and "then read,\n500 ms each" in said
    assert any(text.startswith("centred\n") for text in said)
    assert any("layer 0, head 1, $m$ = 30" in text and "= 50 ms" in text for text in said)


def test_lines_are_the_samples(fits):
    fit = fits["words"]
    figure = synapse({"words": fit})
    calcium, error = figure.axes[9], figure.axes[11]
    seen = fit.isel(sample=(fit["seconds"] > 4.5) & (fit["seconds"] < 10.51))
    labels = {line.get_label(): line for line in (*calcium.lines, *error.lines)}
    drawn = labels["astrocyte process $p$"]
    np.testing.assert_array_equal(drawn.get_xdata(), seen["seconds"])
    np.testing.assert_array_equal(drawn.get_ydata(), seen["calcium"])
    drawn = labels["output against exact attention"]
    np.testing.assert_array_equal(drawn.get_ydata(), seen["output_error"])
    steps = {
        one.get_label(): one.get_segments() for one in (*calcium.collections, *error.collections)
    }
    for words, wanted in (
        ("normaliser of this network (algebra)", fit["normalizer_network"]),
        ("exact softmax normaliser $Z$", np.exp(fit["log_normalizer"] - fit["log_calcium_unit"])),
        ("the same of the algebra: finite number of hidden neurons", fit["output_error_algebra"]),
    ):
        np.testing.assert_allclose([segment[0, 1] for segment in steps[words]], wanted[:12])
        np.testing.assert_allclose(
            [segment[0, 0] for segment in steps[words]], 4.5 + 0.5 * np.arange(12)
        )


def test_alternating_phases_share_a_window(fits):
    (cells,) = token_windows(fits["numbers"], 12)
    assert [(cell.r, cell.token) for cell in cells[:4]] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert cells[3].start == pytest.approx(1.0) and cells[3].stop == pytest.approx(1.5)
    figure = synapse({"numbers": fits["numbers"]})
    assert len(figure.axes) == 6
    assert [text.get_text() for text in figure.axes[0].texts][:3] == ["0", "1", "2"]


def test_the_first_two_experiments_are_shown(fits):
    """Two columns, with fewer tokens; a row of calcium models only where there is one."""
    third = fits["words"].assign_attrs(data="third")
    figure = synapse({**fits, "third": third})
    assert len(figure.axes) == 12 + 6 and "third" not in texts(figure)
    assert sum(text.get_rotation() == 90 for text in figure.axes[0].texts) == 8
    driven = fits["words"].assign(intracellular=0.1 + fits["words"]["calcium"])
    assert len(synapse({"words": driven}).axes) == 14
    assert any("µM" in text for text in texts(synapse({"a": fits["numbers"], "words": driven})))


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


def test_a_word_has_the_colour_of_its_fastest_neuron(fits):
    fit = fits["words"].isel(sample=slice(0, 2))
    rates = np.zeros((2, fit.sizes["neuron"]))
    rates[0, :2] = 0.2, 0.1
    fit = fit.assign(rates=(fit["rates"].dims, rates)).isel(neuron=slice(0, 2))
    place = (int(fit["control"][0]), int(fit["token_on"][0]))
    assert peaks([fit])[place] == palette.COLOURS[0]
