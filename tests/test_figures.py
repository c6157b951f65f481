"""Figures draw what the fits hold: every panel, the same bytes each time, and nothing else."""

import json

import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot as plt

from conftest import random_heads, run_fit, run_simulate, run_stage
from tripartite import job
from tripartite.figures import palette, panels
from tripartite.kinds.data.attend import attend
from tripartite.kinds.network import (
    features_needed,
    needed_map,
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
    "needed_map": needed_map.needed_map,
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
    panels.mark_empty(figure)
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


def test_maps_show_the_numbers(fits):
    figure = FIGURES["needed_map"](fits)
    numbers = [text.get_text() for text in figure.axes[0].texts if text.get_text().isdigit()]
    needed = fits["all"]["log10_features_needed"].values.ravel()
    assert [f"{x:.0f}" for x in needed] == numbers
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(image.get_array().ravel(), needed)


def test_strips_show_every_head_and_count_those_within_biology(fits):
    """Three heads at what they need, one of them moved beyond the axis."""
    fit = fits["all"]
    needed = fit["log10_features_needed"].copy()
    needed[0] = [5.0, 6.2, 1358.9]
    fit = fit.assign(log10_features_needed=needed)
    figure = FIGURES["features_needed"]({"all": fit})
    (axis,) = figure.axes
    points = {line.get_marker(): line.get_xdata() for line in axis.lines}
    marker = palette.look_of("source of all", ["source of all"]).marker
    assert sorted(points[marker]) == [5.0, 6.2] and points[">"] == [40]
    middle = [line.get_xdata()[0] for line in axis.lines if line.get_color() == palette.EXACT]
    assert middle == [6.2]
    row = [text.get_text() for text in axis.texts if text.xy == (1, 1)]
    assert row == ["$10^{6.2}$", "0", "1", "2", "2", "3", "1"]
    marked = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"]
    biology = features_needed.BIOLOGY
    assert marked == pytest.approx(np.log10([1000, *biology.values()]))
    table = features_needed.table({"all": fit})
    assert table["log10_features_needed"].tolist() == [5.0, 6.2, 1358.9]
    said = features_needed.answer({"all": fit})
    assert "10^6.2 (plain)" in said and "1 of 3 (plain)" in said
    fewer = features_needed.answer({"all": fit.assign(log10_features_needed=needed - 2)})
    assert "10^4.2 (plain)" in fewer and "2 of 3 (plain)" in fewer


def test_heads_that_share_weights_are_told(fits):
    """Three heads of their own; two sets of weights at two depths."""
    assert features_needed.heads_words(fits["all"], 3) == "3"
    shared = xr.Dataset({"distinct_head": (("layer", "head"), [[0, 1], [0, 1]])})
    assert features_needed.heads_words(shared, 4) == "2 × 2"


def test_the_bar_of_the_map_marks_biology(fits):
    """Marks stand at log10 of the numbers, with their names."""
    (bar,) = (axis for axis in FIGURES["needed_map"](fits).axes if axis.get_label() == "<colorbar>")
    marks = {text.get_text(): text.xy[0] for text in bar.texts}
    assert {name: 10**place for name, place in marks.items()} == pytest.approx(
        {"rodent astrocyte": 1.2e5, "human astrocyte": 2e6, "human cortex": 1.6e10}
    )
    lines = [line.get_xdata()[0] for line in bar.lines if line.get_color() == palette.EXACT]
    assert lines == list(marks.values())


def test_heads_are_called_as_the_data_call_them(fits):
    """By the labels of a user's file, at ticks and in legends; without labels by their places."""
    fit = fits["all"]
    places = [str(head) for head in fit["head"].values]
    heads = [f"head_${i}" for i in range(fit.sizes["head"])]
    named = fit.assign_attrs(labels=json.dumps({"head": heads}))
    for data, wanted in ((fit, places), (named, [palette.plain_text(head) for head in heads])):
        axis = FIGURES["needed_map"]({"all": data}).axes[0]
        assert [tick.get_text() for tick in axis.get_xticklabels()] == wanted
        assert [tick.get_text() for tick in axis.get_yticklabels()] == [
            str(layer) for layer in fit["layer"].values
        ]


def test_traces_draw_the_medians(fits):
    figure = FIGURES["trace"]({"one": fits["one"]})
    left, right = figure.axes[:2]
    fit = fits["one"].isel(input=0).sel(layer=0, head=2)
    exact, largest = fit["log_normalizer"], fit["log_calcium"].sel(n_features=1000)
    points, black = left.lines
    np.testing.assert_array_equal(black.get_ydata(), exact)
    np.testing.assert_array_equal(points.get_ydata(), largest)
    band = left.collections[0].get_paths()[0].vertices[:, 1]
    for end in ("low", "high"):  # the spread of networks
        assert np.isin(fit[f"log_calcium_{end}"].sel(n_features=1000), band).all()
    for line, m in zip(right.lines, (100, 1000)):
        np.testing.assert_array_equal(line.get_xdata(), exact)
        np.testing.assert_array_equal(line.get_ydata(), fit["log_calcium"].sel(n_features=m))
    assert any("3rd easiest of 3" in text for text in texts(figure))


@pytest.mark.parametrize("module", [trace, protocol])
def test_tables_and_answers_of_traces_hold_what_the_fit_says(module, fits):
    table = module.table({"one": fits["one"]})
    fit = fits["one"].isel(input=0).sel(layer=0, head=2)
    assert len(table) == 2 * 10 and {*table["head"]} == {2}
    for m, rows in table.groupby("n_features"):
        of_size = fit.sel(n_features=m)
        np.testing.assert_array_equal(rows["log_calcium"], of_size["log_calcium"])
        np.testing.assert_array_equal(rows["log_calcium_q10"], of_size["log_calcium_low"])
        np.testing.assert_array_equal(rows["log_normalizer"], of_size["log_normalizer"])
        assert {*rows["normalizer_error"]} == {float(of_size["normalizer_error"])}
    said = module.answer({"one": fits["one"]})
    assert palette.percent(float(fit["normalizer_error"][-1])) in said
    other = module.answer(
        {"one": fits["one"].assign(normalizer_error=fits["one"]["normalizer_error"] * 0 + 0.123)}
    )
    assert "12 %" in other and other != said


def test_heads_of_traces_are_spread_from_easy_to_hard(fits):
    """As many as there is room for; of one experiment four, of nine one each."""
    fit = fits["all"]
    needs = fit["log10_features_needed"].values.ravel()
    assert needs.argsort().tolist() == [0, 1, 2]
    for n, wanted in ((1, [0, 1, 2]), (3, [0, 2]), (4, [0, 2]), (5, [0]), (8, [0])):
        heads = trace.heads_of({str(i): fit for i in range(n)})
        assert [head.head for head in heads] == wanted * n


def test_the_protocol_says_what_the_fit_holds(fits):
    """A cell per experiment; below, errors and r of its smallest and largest networks."""
    figure = FIGURES["protocol"]({"one": fits["one"], "all": fits["all"]})
    *cells, errors, correlations = figure.axes
    assert len(cells) == 4
    for row, (name, head) in enumerate((("one", 2), ("all", 0))):
        fit = fits[name].isel(input=0).sel(layer=0, head=head)
        black = cells[2 * row].lines[-1]
        np.testing.assert_array_equal(black.get_ydata(), fit["log_normalizer"])
        sigma = float(fit["sigma_squared"])
        title = cells[2 * row].get_title(loc="left")
        assert title.startswith(rf"head (0, {head}), $\sigma^2$ = {sigma:.1f}; ")
        phases = [str(x).replace("gaussian", "Gaussian") for x in fit["phase_of"].values]
        assert title.endswith(" → ".join(dict.fromkeys(phases)))
        for axis, variable in ((errors, "normalizer_error"), (correlations, "correlation")):
            bars = [bar for bar in axis.containers if bar.lines[0].get_ydata()[0] == row]
            for bar, m in zip(bars, (100, 1000), strict=True):
                of_size = fit.sel(n_features=m)
                assert bar.lines[0].get_xdata()[0] == float(of_size[variable])
                ends = bar.lines[2][0].get_segments()[0][:, 0]
                wanted = [float(of_size[f"{variable}_{end}"]) for end in ("low", "high")]
                np.testing.assert_allclose(ends, wanted)
        constant = [line for line in errors.lines if line.get_marker() == "|"][row]
        assert constant.get_xdata()[0] == float(fit["normalizer_error_constant"])


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
    assert any("6 marks beyond" in text for text in texts(FIGURES["phase_diagram"]({"all": far})))


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


def test_ratios_are_told_in_words():
    assert theory.times(1 / 6610) == "the predicted error is 6 600 times too large"
    assert theory.times(2.5) == "the predicted error is 2.5 times too small"
    assert theory.times(1e-200) == "the predicted error is 10^200.0 times too large"
    assert theory.times(np.nan).endswith("–") and palette.spaced(1.2e5) == "120 000"


def test_no_network_counts_twice_in_the_theory(fits):
    """One head of the same data is part of all of them; random heads are always others."""
    same = {name: fit.assign_attrs(data="one source") for name, fit in fits.items()}
    assert theory.widest(same) == ["all"] and theory.widest(fits) == ["all", "one"]
    random = {name: fit.assign_attrs(data="random heads") for name, fit in fits.items()}
    assert theory.widest(random) == ["all", "one"]


def test_the_strips_of_recipes_say_what_is_gained(tmp_path):
    from test_symmetries import draw
    from tripartite.kinds.data.generate import _dataset

    q, k, v = (x.reshape(3, 1, 1, 30, 6).numpy() for x in draw(1, n_tokens=90))
    data = _dataset({"q": q, "k": k, "v": v}, "a $^$ model", ["a", "b", "c"])
    found = run_stage(calibrate, data, {"calibrated_on": ["a"]}).assign_attrs(data.attrs)
    for fits in ({str(i): found for i in range(7)}, {"one": found}):
        figure = symmetries.symmetries(fits)
        assert figure.get_figwidth() <= palette.PAGE
        job.save_figure(figure, [tmp_path / "symmetries.svg"], {})
    left, right = figure.axes
    medians = found["log10_features_needed"].isel(input=[1, 2]).median("input").squeeze()
    wanted = medians.sel(recipe=list(symmetries.RECIPES)).values
    marker = palette.OTHERS[0].marker
    heads = [line for line in left.lines if line.get_marker() == marker]
    np.testing.assert_allclose([line.get_xdata()[0] for line in heads], wanted)
    last = [*symmetries.RECIPES][-1]
    reduction = float(found["reduction_all"].sel(recipe=last))
    assert any(text.get_text().startswith(f"{reduction:.1f}") for text in right.texts)
    steps = found["reduction_step"].sel(recipe=["width of each direction", last]).values
    drawn = [bar.lines[0].get_xdata()[0] for bar in right.containers][-2:]
    np.testing.assert_allclose(drawn, steps)
    table = symmetries.table({"one": found})
    np.testing.assert_allclose(
        table.loc[table["quantity"].str.startswith("log10"), "value"], wanted
    )
    said = symmetries.answer({"one": found})
    assert f"{reduction:.1f}" in said and f"10^{wanted[-1]:.1f}" in said
    more = found.assign(reduction_all=found["reduction_all"] * 0 + 77)
    assert "77.0" in symmetries.answer({"one": more})


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
    figure = FIGURES["needed_map"]({str(i): fits["all"] for i in range(5)})
    places = {axis.get_position().y1.round(2) for axis in figure.axes[:5]}
    assert len(places) == 2 and figure.get_figwidth() <= palette.PAGE
    more = FIGURES["needed_map"]({str(i): fits["all"] for i in range(9)})
    assert any("8 of 9 experiments shown" in text for text in texts(more))
    for axis in figure.axes[:5]:  # squares
        box = axis.get_window_extent()
        assert box.width == pytest.approx(3 * box.height, rel=1e-3)


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
