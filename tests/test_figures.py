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
    features_needed,
    phase_diagram,
    protocol,
    theory,
    trace,
)
from tripartite.kinds.symmetries import symmetries
from tripartite.kinds.symmetries.calibrate import calibrate

FIGURES = {
    "trace": trace.trace,
    "protocol": protocol.protocol,
    "features_needed": features_needed.features_needed,
    "phase_diagram": phase_diagram.phase_diagram,
    "theory": theory.theory,
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
    """Errors of the normaliser of a single head, measured and by the closed form, as in the fit."""
    figure = FIGURES["theory"](fits)
    one = fits["all"].sel(layer=0, head=0)
    for axis, name in zip(figure.axes, theory.CURVES):
        bars = {tuple(bar.lines[0].get_ydata()): bar for bar in axis.containers}
        (segments,) = bars[tuple(one[name].values)][2]
        ends = np.array([path.vertices[:, 1] for path in segments.get_paths()])
        np.testing.assert_allclose(ends.T, [one[f"{name}_low"], one[f"{name}_high"]])
        lines = [line for line in axis.lines if line.get_marker() == "None"]
        closed = 10 ** one[f"log10_{name}_closed_form"].values
        assert any(np.allclose(line.get_ydata(), closed) for line in lines)


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
    crowded = ("phase_diagram", "theory")
    assert any(f"{feature_map}, balanced" in text for text in said) or name in crowded
    assert not any("nan" in text for text in said)
    assert name != "trace" or "token of “draw-1”" in said


def test_the_phase_diagram_draws_every_network(fits):
    """Heads at their sigma^2 in rows of m, all p / Z, exponents; what is beyond is counted."""
    one = fits["all"]
    figure = FIGURES["phase_diagram"]({"all": one})
    rows, ratios = (
        [line for line in axis.lines if line.get_linestyle() == "None"] for axis in figure.axes[:2]
    )
    sizes = [line.get_ydata()[0] for line in rows]
    assert sizes == [0, 1]
    for line in rows:
        np.testing.assert_array_equal(line.get_xdata(), one["sigma_squared"].values.ravel())
    (drawn,) = ratios
    np.testing.assert_array_equal(drawn.get_xdata(), one["reach"].values.ravel())
    np.testing.assert_array_equal(drawn.get_ydata(), one["normalizer_ratio"].values.ravel())
    table = phase_diagram.table({"all": one})
    of_ratio = table[table["quantity"] == "p/Z"]
    np.testing.assert_array_equal(of_ratio["value"], one["normalizer_ratio"].values.ravel())
    exponents = table.loc[table["quantity"] == "exponent", "value"]
    assert len(exponents) == one["exponent"].notnull().sum()
    far = one.assign(sigma_squared=one["sigma_squared"] + 1000)
    assert any("6 beyond" in text for text in texts(FIGURES["phase_diagram"]({"all": far})))


def test_phases_behind_a_row_are_those_of_its_networks():
    """Gaussian below ln m / 2, frozen above 2 ln m; nothing outside of the axis."""
    found = phase_diagram.borders(np.log(100), (1.0, 50.0))
    edges = (np.log(100) / 2, 2 * np.log(100))
    wanted = {"gaussian": (1.0, edges[0]), "anomalous": edges, "frozen": (edges[1], 50.0)}
    assert {name: pytest.approx(ends) for name, ends in wanted.items()} == found
    assert phase_diagram.borders(np.log(100), (20.0, 50.0))["gaussian"] == (20.0, 20.0)


def test_the_answer_about_phases_counts_heads(fits):
    one = fits["all"]
    counts = one["heads_in_phase"].isel(n_features=-1)
    n = [int(counts.sel(phase=phase)) for phase in ("gaussian", "anomalous", "frozen")]
    assert f"{n[0]}, {n[1]}, {n[2]} (source of all, plain" in phase_diagram.answer({"all": one})
    more = one.assign(heads_in_phase=one["heads_in_phase"] + 5)
    assert f"{n[0] + 5}, {n[1] + 5}, {n[2] + 5} (" in phase_diagram.answer({"all": more})


def test_the_theory_is_that_of_the_fits(fits):
    """Measured over predicted, m over R^2, and the intervals that contain the prediction."""
    fit = fits["all"]
    table = theory.table({"all": fit})
    assert len(table) == fit["normalizer_error"].notnull().sum()
    for name in theory.POOLS:
        log_ratio = np.log10(fit[name].values) - fit[f"log10_{name}_closed_form"].values
        drawn = np.log10(table[f"{name}_over_predicted"])
        np.testing.assert_allclose(drawn, log_ratio.ravel())
    # the rms has an interval where m > R^2
    inside = table["log10_m_over_r2"] > 0
    np.testing.assert_array_equal(inside, fit["output_error_rms_low"].notnull().values.ravel())
    assert 0 < inside.sum() < len(table)
    figure = FIGURES["theory"]({"all": fit})
    for axis, name in zip(figure.axes[3:5], theory.POOLS):
        (bars,) = axis.containers
        np.testing.assert_allclose(
            bars.lines[0].get_ydata(), table.loc[inside, f"{name}_over_predicted"]
        )
    costs = figure.axes[-1]
    drawn = [line for line in costs.lines if line.get_linestyle() == "None"]
    cost = fit["other_pool_cost"].isel(n_features=-1).values.ravel()
    assert any(np.array_equal(np.sort(line.get_xdata()), np.sort(cost)) for line in drawn)


def test_the_answer_about_the_theory_counts_intervals(fits):
    fit = fits["all"]
    table = theory.table({"all": fit})
    hold, n = theory.contained(table[table["log10_m_over_r2"] > 0])
    assert f"{hold} of {n} intervals" in theory.answer({"all": fit})
    wrong = fit.assign(
        {f"log10_{name}_closed_form": fit[f"log10_{name}_closed_form"] + 3 for name in theory.POOLS}
    )
    assert f"0 of {n} intervals" in theory.answer({"all": wrong})
    median = float(fit["other_pool_cost"].isel(n_features=-1).median())
    assert f"{median:.1f} (source of all, plain)" in theory.answer({"all": fit})


def test_no_network_counts_twice_in_the_theory(fits):
    """One head of the same data is part of all of them; random heads are always others."""
    same = {name: fit.assign_attrs(data="one source") for name, fit in fits.items()}
    assert theory.widest(same) == ["all"] and theory.widest(fits) == ["all", "one"]
    random = {name: fit.assign_attrs(data="random heads") for name, fit in fits.items()}
    assert theory.widest(random) == ["all", "one"]


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
    figure = FIGURES["theory"](many)
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
