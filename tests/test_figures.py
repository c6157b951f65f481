"""Figures draw what the fits hold: every panel, the same bytes each time, and nothing else."""

import json

import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot as plt

from conftest import random_heads, run_fit, run_simulate, run_stage
from tripartite import job
from tripartite.figures import palette
from tripartite.kinds.data.attend import attend
from tripartite.kinds.network import (
    error_vs_features,
    features_needed,
    phase_diagram,
    predicted_error,
    protocol,
    trace,
)
from tripartite.kinds.symmetries import symmetries
from tripartite.kinds.symmetries.calibrate import calibrate

FIGURES = {
    "trace": trace.trace,
    "protocol": protocol.protocol,
    "features_needed": features_needed.features_needed,
    "error_vs_features": error_vs_features.error_vs_features,
    "phase_diagram": phase_diagram.phase_diagram,
    "predicted_error": predicted_error.predicted_error,
}


@pytest.fixture(scope="module")
def fits():
    """Heads from easy to impossible: norms at which 10^1 and 10^26 neurons are needed."""
    data = random_heads([0.5, 1.0, 60.0], n_inputs=2, n_tokens=10, d_head=4)
    exact = attend(data)
    found = {}
    for name, heads in (("all", "all"), ("one", [[0, 2]])):
        run = run_simulate(data, exact, n_features=[100, 1000], n_seeds=3, heads=heads)
        found[name] = run_fit(data, exact, run).assign_attrs(data=f"source of {name}")
    return found


def test_an_empty_panel_says_why():
    """No finite number, or none within the axes; what shows something or has words stays."""
    figure, axes = plt.subplots(2, 4)
    empty, lines, beyond, shown, mapped, worded, off, bars = axes.flat
    empty.set_title("a title is not a reason", loc="left")
    palette.title(empty, "neither", "is a name")
    empty.axhline(1)
    lines.plot([1, 2], [np.nan, np.inf])
    beyond.plot([1, 2], [5, 6])
    beyond.set_ylim(0, 1)
    shown.plot([1, 2], [np.nan, 3], "o")
    mapped.pcolormesh([0, 1], [0, 1], [[2.0]])
    worded.annotate("no thresholds", (0.5, 0.5), xycoords="axes fraction")
    off.set_axis_off()
    bars.vlines([1], [2], [3])
    before = {axis: len(axis.texts) for axis in axes.flat}
    palette.mark_empty(figure)
    added = {
        axis: axis.texts[-1].get_text() for axis in axes.flat if len(axis.texts) > before[axis]
    }
    plt.close(figure)
    nothing = "nothing to show: no finite number\n(the file's notes say why)"
    assert added == {empty: nothing, lines: nothing, beyond: "all values are beyond the axes"}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


@pytest.mark.parametrize("name", FIGURES)
def test_same_data_same_bytes(name, fits, tmp_path):
    for run in "ab":
        (tmp_path / run).mkdir()
        paths = [tmp_path / run / f"{name}.{suffix}" for suffix in ("svg", "pdf", "png")]
        job.save_figure(FIGURES[name](fits), paths, {"all/fit.nc": "abc"}, {}, "code")
    for suffix in ("svg", "pdf", "png"):
        a, b = (tmp_path / run / f"{name}.{suffix}" for run in "ab")
        assert a.read_bytes() == b.read_bytes() and a.stat().st_size > 5000
    for path in paths:  # each format tells what it was drawn from, and by which code
        made = {"upstream": {"all/fit.nc": "abc"}, "settings": {}, "code": "code"}
        assert job.origin(path) == made


@pytest.mark.parametrize("name", FIGURES)
def test_names_and_labels(name, fits):
    figure = FIGURES[name](fits)
    said = texts(figure)
    assert any("source of all" in text for text in said)
    for axis in figure.axes:
        assert not axis.axison or axis.get_xlabel() or axis.get_ylabel() or axis.get_shared_x_axes()
    assert figure.get_figwidth() <= palette.PAGE


def test_map_shows_the_numbers(fits):
    figure = FIGURES["features_needed"](fits)
    written = [text.get_text() for text in figure.axes[0].texts]
    numbers = [text for text in written if text.replace(".", "").isdigit()]
    needed = fits["all"]["log10_features_needed"].values.ravel()
    assert [f"{x:.1f}" if x < 9.95 else f"{x:.0f}" for x in needed] == numbers


def test_a_map_says_how_many_heads_are_within_biology():
    """Two by three heads, counted by hand; six sets of weights, and three that two layers share."""
    needed = np.array([[5.0, 5.2, 6.4], [10.1, 10.3, np.nan]])
    within = {"rodent astrocyte": 1, "human astrocyte": 2, "human cortex": 4}
    counts = [f"{n} within a {name}" for name, n in within.items()]
    own = features_needed.words_of(needed, np.arange(6).reshape(2, 3)).split("\n")
    assert own == ["6 heads, median $10^{6.4}$", *counts]
    shared = features_needed.words_of(needed, np.array([[0, 1, 2], [0, 1, 2]])).split("\n")
    assert shared == ["3 heads × 2 depths, median $10^{6.4}$", *counts]


def test_the_bar_of_the_map_marks_biology(fits):
    """Marks stand at log10 of the numbers, with their names."""
    bar = features_needed.features_needed(fits).axes[-1]
    marks = {text.get_text(): text.xy[0] for text in bar.texts}
    assert {name: 10**place for name, place in marks.items()} == pytest.approx(
        {"rodent astrocyte": 1.2e5, "human astrocyte": 2e6, "human cortex": 1.6e10}
    )
    assert [line.get_xdata()[0] for line in bar.lines] == list(marks.values())


def test_heads_are_called_as_the_data_call_them(fits):
    """By the labels of a user's file, at ticks and in legends; without labels by their places."""
    fit = fits["all"]
    places = [str(head) for head in fit["head"].values]
    heads = [f"head_${i}" for i in range(fit.sizes["head"])]
    named = fit.assign_attrs(labels=json.dumps({"head": heads}))
    for data, wanted in ((fit, places), (named, [palette.plain_text(head) for head in heads])):
        axis = FIGURES["features_needed"]({"all": data}).axes[0]
        assert [tick.get_text() for tick in axis.get_xticklabels()] == wanted
        assert [tick.get_text() for tick in axis.get_yticklabels()] == [
            str(layer) for layer in fit["layer"].values
        ]
        curves = texts(FIGURES["error_vs_features"]({"all": data}))
        assert f"head {wanted[0]}:" in " ".join(curves)


def test_trace_draws_the_medians(fits):
    figure = FIGURES["trace"]({"one": fits["one"]})
    upper, lower = figure.axes[:2]
    fit = fits["one"].isel(input=0).sel(layer=0, head=2)
    drawn = {line.get_label(): line.get_ydata() for line in upper.lines}
    np.testing.assert_array_equal(drawn["softmax normaliser"], fit["log_normalizer"])
    largest = next(y for label, y in drawn.items() if "$10^{3}$" in label)
    np.testing.assert_array_equal(largest, fit["log_calcium"].sel(n_features=1000))
    assert any("3rd easiest of 3" in text for text in texts(figure))


def test_the_protocol_says_what_the_fit_holds(fits):
    """A row per experiment: error, r and phase of its smallest and largest networks."""
    figure = FIGURES["protocol"]({"one": fits["one"], "all": fits["all"]})
    assert len(figure.axes) == 4
    for name, head, left in (("one", 2, figure.axes[0]), ("all", 0, figure.axes[2])):
        fit = fits[name].isel(input=0).sel(layer=0, head=head)
        drawn = {line.get_label(): line.get_ydata() for line in left.lines}
        np.testing.assert_array_equal(drawn["softmax normaliser"], fit["log_normalizer"])
        lines = left.get_title(loc="left").split("\n")
        sigma, constant = map(float, (fit["sigma_squared"], fit["normalizer_error_constant"]))
        assert lines[0].startswith(rf"layer 0, head {head}, $\sigma^2 = {sigma:.1f}$; ")
        assert lines[0].endswith(f"best constant {palette.percent(constant)}")
        for m, said in zip((100, 1000), lines[1:], strict=True):
            of_size = fit.sel(n_features=m)
            phase = str(of_size["phase_of"].values).replace("gaussian", "Gaussian")
            assert said.startswith(f"$10^{{{np.log10(m):.0f}}}$ neurons ({phase}): median error ")
            for variable, words in (
                ("normalizer_error", palette.percent),
                ("correlation", palette.decimal),
            ):
                ends = (words(float(of_size[f"{variable}_{end}"])) for end in ("low", "high"))
                assert words(float(of_size[variable])) in said and f"[{', '.join(ends)}]" in said


def test_errors_are_drawn_with_their_intervals(fits):
    figure = FIGURES["error_vs_features"]({"one": fits["one"]})
    bars = [c for c in figure.axes[0].containers if hasattr(c, "lines")]
    drawn = {tuple(bar.lines[0].get_ydata()) for bar in bars}
    one = fits["one"].sel(layer=0, head=2)
    assert tuple(one["normalizer_error"].values) in drawn
    assert tuple(one["normalizer_error_rms"].values) in drawn


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("norm", [0.0, 1e8])
def test_extreme_heads_can_be_drawn(name, norm, tmp_path):
    """Heads without any error, and heads that need more neurons than float64 can count."""
    data = random_heads([1.0], n_inputs=1, n_tokens=5, d_head=3)
    data["q"] *= norm
    data["k"] *= norm
    exact = attend(data)
    found = run_fit(data, exact, run_simulate(data, exact, n_features=[10], n_seeds=2))
    figure = FIGURES[name]({"a": found.assign_attrs(data="extreme")})
    job.save_figure(figure, [tmp_path / f"{name}.png"], {})


@pytest.mark.parametrize("name", FIGURES)
def test_names_are_no_formulas(name, fits, tmp_path):
    odd = fits["one"].assign_attrs(data="x $^$ y").assign_coords(input=["$x^$", "b"])
    job.save_figure(FIGURES[name]({"one": odd}), [tmp_path / f"{name}.png"], {})


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("feature_map", ["cosine", "relu", "hyperbolic"])
def test_maps_without_a_closed_form_and_untested_inputs_can_be_drawn(name, feature_map, tmp_path):
    """Signs, silent neurons, no closed form; the first input calibrates and is not shown."""
    data = random_heads([0.5, 1.0], n_inputs=2, n_tokens=8, d_head=3)
    exact = attend(data)
    settings = {
        "feature_map": feature_map,
        "symmetries": ["balance"],
        "calibrated_on": ["draw-0"],
    }
    run = run_simulate(data, exact, n_features=[2, 30], n_seeds=3, **settings)
    found = run_fit(data, exact, run, **settings).assign_attrs(data.attrs | run.attrs)
    assert palette.full_name(found) == f"random heads, {feature_map}, balanced"
    figure = FIGURES[name]({"a": found})
    job.save_figure(figure, [tmp_path / f"{name}.png"], {})
    said = texts(figure)
    crowded = ("error_vs_features", "phase_diagram", "predicted_error")
    assert any(f"{feature_map}, balanced" in text for text in said) or name in crowded
    assert not any("nan" in text for text in said)
    assert name != "trace" or "token of “draw-1”" in said


def test_the_phase_diagram_draws_every_network(fits):
    """At its sigma^2 and m, in the colour of p / Z; what is beyond the axes is counted."""
    one = fits["all"]
    figure = FIGURES["phase_diagram"]({"all": one})
    drawn = np.concatenate([np.asarray(c.get_offsets()) for c in figure.axes[0].collections])
    x, y = (
        values.ravel()
        for values in np.broadcast_arrays(
            one["sigma_squared"].values, np.log10(one["n_features"].values)[:, None, None]
        )
    )
    np.testing.assert_allclose(drawn, np.stack([x, y], -1))
    colours = np.concatenate([c.get_array() for c in figure.axes[0].collections])
    np.testing.assert_array_equal(colours, one["normalizer_ratio"].values.ravel())
    far = one.assign(sigma_squared=one["sigma_squared"] + 1000)
    assert "6 beyond →" in texts(FIGURES["phase_diagram"]({"all": far}))


def test_two_pools_are_drawn_by_their_law(fits):
    fit = fits["all"]
    axis = FIGURES["predicted_error"]({"all": fit}).axes[2]
    points = [line for line in axis.lines if line.get_linestyle() == "None"]
    law = fit["pool_log_ratio_law"].values
    shown = np.isfinite(law) & fit["pool_log_ratio"].notnull().values
    assert shown.any()
    for i, wanted in ((0, law), (1, fit["pool_log_ratio"].values)):
        drawn = np.concatenate([line.get_data()[i] for line in points])
        np.testing.assert_allclose(np.sort(drawn), np.sort(wanted[shown]))


def test_predicted_errors_are_those_of_the_fits(fits):
    figure = FIGURES["predicted_error"]({"all": fits["all"]})
    points = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    (equal,) = (line for line in figure.axes[0].lines if line.get_linestyle() == ":")
    uniform = np.log10(float(fits["all"]["output_error_uniform_all"]))
    assert equal.get_ydata()[0] == pytest.approx(uniform)
    filled, hollow = (
        [line for line in points if line.get_markerfacecolor() == face]
        for face in (palette.COLOURS[0], "none")
    )
    x, y = (np.concatenate([line.get_data()[i] for line in (*hollow, *filled)]) for i in (0, 1))
    np.testing.assert_allclose(
        np.sort(x), np.sort(fits["all"]["log10_output_error_rms_closed_form"].values.ravel())
    )
    np.testing.assert_allclose(
        np.sort(y), np.sort(np.log10(fits["all"]["output_error_rms"].values.ravel()))
    )
    assert len(filled[0].get_xdata()) == fits["all"]["output_error_rms_low"].notnull().sum() > 0


def test_the_slope_chart_says_what_is_gained(tmp_path):
    from test_symmetries import draw
    from tripartite.kinds.data.generate import _dataset

    q, k, v = (x.reshape(3, 1, 1, 30, 6).numpy() for x in draw(1, n_tokens=90))
    data = _dataset({"q": q, "k": k, "v": v}, "a $^$ model", ["a", "b", "c"])
    found = run_stage(calibrate, data, {"calibrated_on": ["a"]}).assign_attrs(data.attrs)
    for fits in ({"one": found}, {"one": found, "two": found, "three": found}):
        figure = symmetries.symmetries(fits)
        assert figure.get_figwidth() <= palette.PAGE
        job.save_figure(figure, [tmp_path / "symmetries.svg"], {})
    axis = figure.axes[0]
    medians = found["log10_features_needed"].isel(input=[1, 2]).median("input").squeeze()
    wanted = medians.sel(recipe=list(symmetries.SHOWN)).values
    np.testing.assert_allclose(
        [line for line in axis.lines if line.get_marker() == "o"][0].get_ydata(), wanted
    )
    reduction = float(
        found["reduction_all"].sel(recipe="centred, balanced, width of each direction")
    )
    assert f"{-reduction:+.1f}".replace("-", "−") in axis.get_xticklabels()[-1].get_text()


def test_heads_of_equal_keys_can_be_drawn(tmp_path):
    """Nothing to balance in any head, and no divergence to draw on a log axis."""
    from test_learn_stage import run as train
    from tripartite.kinds.learned.learned_features import learned_features

    data = random_heads([1.0, 2.0], n_inputs=3, n_tokens=5, d_head=3)
    data["k"][:] = data["k"][:, :, :, :1]
    found = run_stage(calibrate, data, {"calibrated_on": ["draw-0"]})
    assert (found["note"] != "").all() and found["reduction_all"].isnull().all()
    learned = train(data, n_features=[4], trained_on=["draw-0"], max_steps=10, patience=2)
    for figure, fit in ((symmetries.symmetries, found), (learned_features, learned)):
        drawn = figure({"a": fit.assign_attrs(data="equal keys")})
        job.save_figure(drawn, [tmp_path / "figure.svg"], {})


def test_many_maps_wrap_into_rows(fits):
    figure = FIGURES["features_needed"]({str(i): fits["all"] for i in range(5)})
    places = {tuple(round(x, 2) for x in axis.get_position().p0) for axis in figure.axes[:5]}
    assert len({y for _, y in places}) == 2 and figure.get_figwidth() <= palette.PAGE


def test_more_sources_than_colours_are_all_drawn(fits):
    many = {str(i): fits["all"].assign_attrs(data=f"source {i}") for i in range(8)}
    figure = FIGURES["error_vs_features"](many)
    assert all(any(f"source {i}" in text for text in texts(figure)) for i in range(8))


def test_ordinals():
    assert [f"{i}{trace.suffix(i)}" for i in (1, 2, 3, 4, 11, 12, 13, 21, 112)] == [
        "1st",
        "2nd",
        "3rd",
        "4th",
        "11th",
        "12th",
        "13th",
        "21st",
        "112th",
    ]


def test_numbers_in_words():
    assert palette.power(5) == "$10^{5}$" and palette.power(4.07) == "$10^{4.1}$"
    assert palette.decimal(-0.004) == "0.00" and palette.decimal(-0.006) == "-0.01"
    assert palette.percent(0.013) == "1.3 %" and palette.percent(0.999) == "100 %"


def test_experiments_on_one_source_are_told_apart():
    """By their names, and only where it is needed; a long title has two lines."""
    sources = {"a": "x $^", "b": "y", "c": "x $^"}
    fits = {name: xr.Dataset(attrs={"data": source}) for name, source in sources.items()}
    assert palette.labels(fits) == [r"x \$^ (a)", "y", r"x \$^ (c)"]
    figure, axis = plt.subplots()
    palette.title(axis, "MiniLM", "below", "fitted normal, centred and balanced")
    assert axis.get_title(loc="left") == "fitted normal,\ncentred and balanced\nbelow"
    assert [text.get_text() for text in axis.texts] == ["MiniLM"]
    plt.close(figure)
