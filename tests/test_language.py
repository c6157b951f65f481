"""Figures of whole rebuilt networks, drawn from small files."""

import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot as plt

from conftest import assert_drawn_alike
from tripartite.figures import palette
from tripartite.kinds.rebuilt import damage, depth_predictors, language, scores, whole_models
from tripartite.kinds.rebuilt import depth as depth_module
from tripartite.kinds.rebuilt.depth import depth, shown_network
from tripartite.kinds.rebuilt.language import networks_of
from tripartite.kinds.rebuilt.summaries import REFERENCES
from tripartite.streams import stream

N_FEATURES = [100, 10_000]
RECIPES = ["plain", "fitted", "learned"]
LAYERS, HEADS = 4, 2
AXES = {
    "measure": 0,
    "harm": damage.HARMS,
    "predictor": damage.PREDICTORS,
    "recipe": RECIPES,
    "reference": REFERENCES,
    "part": ["all", *map("layer {}".format, range(LAYERS))],
    "n_features": N_FEATURES,
    "layer": range(LAYERS),
    "head": range(HEADS),
}
DRAWN = {  # axes of what the figures draw, and whether there is an interval
    "label": ("measure", False),
    "mean_score": ("measure recipe part n_features", True),
    "mean_change": ("measure recipe part n_features", True),
    "mean_reference_score": ("measure reference part", True),
    "state_error": ("recipe part n_features layer", True),
    "log10_features_needed": ("recipe layer head", False),
    "expected_error": ("recipe n_features layer", False),
    "layer_damage": ("harm recipe n_features layer", True),
    "predicted_damage": ("harm predictor recipe n_features layer", False),
    "prediction_r2": ("harm predictor recipe n_features", True),
    "prediction_rank": ("harm predictor recipe n_features", True),
    "added_damage": ("harm recipe n_features", True),
    "growth": ("recipe part n_features", True),
    "grown_error": ("recipe part n_features layer", False),
}
NO_FORM = ("log10_features_needed", "expected_error", "predicted_damage", "prediction_r2")


def rebuilt(measures, title="A model"):
    """A file of random numbers, with NaN where learned networks have none."""
    coords = AXES | {"measure": measures}
    found = {}
    for name, (dims, with_interval) in DRAWN.items():
        dims = dims.split()
        shape = [len(coords[dim]) for dim in dims]
        values = stream(1, name).uniform(0.1, 1, shape)
        if name == "label":
            values = np.array([f"words for {x}" for x in measures], dtype=object)
        if name in NO_FORM:
            values[tuple(slice(None) if x != "recipe" else -1 for x in dims)] = np.nan
        found[name] = dims, values
        if with_interval:
            found |= {f"{name}_low": (dims, values - 0.05), f"{name}_high": (dims, values + 0.05)}
    return xr.Dataset(found, {x: list(y) for x, y in coords.items()}, {"data": title})


def writing():
    """A file of texts."""
    coords = {
        "recipe": RECIPES[:2],
        "n_features": [100, 1000, 10_000],
        "temperature": [0.7],
        "seed": [0, 1],
        "prompt": ["Once upon a $time", "Another"],
        "reference": REFERENCES[:3],
    }
    of_text = ["recipe", "n_features", "temperature", "seed", "prompt"]
    found = {}
    for name, dims in (("text", of_text), ("reference_text", ["reference", *of_text[2:]])):
        texts = np.empty([len(coords[dim]) for dim in dims], dtype=object)
        for place in np.ndindex(texts.shape):
            texts[place] = f"{name} {place} a\nlong line " * 30
        found[name] = dims, texts
    return xr.Dataset(found, {x: list(y) for x, y in coords.items()}, {"data": "A model"})


SMALL = rebuilt(["bits_per_character", "likeliest_token_kept"])
OTHER = rebuilt(["embedding_cosine", "rank_order_right", "rank_order_kept"], "Another")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def words(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def marks(axis):
    """x of every estimate that is drawn, with its row."""
    return {
        round(float(y), 6): float(x)
        for drawn in axis.containers
        for x, y in zip(*drawn.lines[0].get_data())
    }


@pytest.mark.parametrize(
    "draw",
    [language.language, whole_models.whole_models, depth, depth_predictors.depth_predictors],
)
def test_figures_of_some_models(draw, tmp_path):
    assert_drawn_alike(draw, {"small": SMALL, "other": OTHER}, tmp_path)


def test_rows_are_means_with_their_intervals():
    figure = language.language({"small": SMALL})
    axis, other = figure.axes[:2]
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names == [
        "softmax attention",
        *("plain, $m$ = 100", "10000", "fitted, $m$ = 100", "10000", "trained, $m$ = 100", "10000"),
        *("equal attention", "no attention", "guess"),
    ]
    of_all = SMALL.sel(part="all")
    for panel, measure in ((axis, "bits_per_character"), (other, "likeliest_token_kept")):
        drawn, one = marks(panel), of_all.sel(measure=measure)
        assert drawn[0] == float(one["mean_reference_score"].sel(reference="softmax"))
        assert drawn[4] == float(one["mean_score"].sel(recipe="fitted", n_features=10_000))
        assert drawn[9] == float(one["mean_reference_score"].sel(reference="chance"))
    (bar,) = axis.containers[1 + 3 + 3].lines[2]  # four references, then networks by row
    (start, end) = bar.get_segments()[0][:, 0]
    fitted = of_all.sel(measure="bits_per_character", recipe="fitted", n_features=10_000)
    np.testing.assert_allclose([start, end], [fitted["mean_score_low"], fitted["mean_score_high"]])


def test_bars_of_shares_end_at_0_and_1():
    own = scores.score_table({"a": SMALL}, {"a": ["bits_per_character"]})
    own = own.assign(label="a (share)", score_low=-1.0, score_high=2.0)
    axis = plt.figure().add_subplot()
    scores.draw_scores(axis, own, scores.rows_of(own), "o", True, 2)
    ends = {
        float(x)
        for drawn in axis.containers
        for bar in drawn.lines[2]
        for x in bar.get_segments()[0][:, 0]
    }
    assert ends == {0, 1}
    assert scores.number(own, "softmax").endswith("[0.00, 1.00]")


def test_tables_have_the_numbers_of_the_file():
    found = whole_models.table({"small": SMALL, "other": OTHER})
    row = found[
        (found["experiment"] == "other")
        & (found["measure"] == "rank_order_right")
        & (found["recipe"] == "plain")
        & (found["n_features"] == 100)
    ].iloc[0]
    one = OTHER.sel(measure="rank_order_right", recipe="plain", n_features=100, part="all")
    for end in ("", "_low", "_high"):
        assert row[f"score{end}"] == float(one[f"mean_score{end}"])
    written = language.table({"small": SMALL, "written": writing()})
    texts = written[written["text"].notna()]
    assert [*texts["reference"].dropna()] == ["softmax", "equal", "none"] and len(texts) == 7
    harm = depth_module.table({"small": SMALL})
    of_layers = harm[harm["layer"].notna()]
    one = SMALL.sel(recipe="fitted", n_features=10_000, harm="states")
    np.testing.assert_array_equal(of_layers["layer_damage"], one["layer_damage"])


@pytest.mark.parametrize(
    "module, name",
    [
        (language, "mean_score"),
        (whole_models, "mean_score"),
        (depth_module, "prediction_rank"),
        (depth_predictors, "growth"),
    ],
)
def test_answers_follow_the_numbers(module, name):
    changed = SMALL.assign({name: SMALL[name] + 1})
    assert "0." in module.answer({"a": SMALL})
    assert module.answer({"a": SMALL}) != module.answer({"a": changed})
    only = SMALL.sel(part=["layer 1"]).copy()
    for part in ("prediction_rank", "prediction_r2"):
        only[part] = only[part] * np.nan
    said = module.answer({"a": only})
    assert "nan" not in said and ("No " in said or "none" in said)


def test_texts_of_four_networks_and_the_references():
    written = writing()
    figure = language.language({"small": SMALL, "written": written})
    networks = [("plain", 100), ("plain", 10_000), ("fitted", 100), ("fitted", 10_000)]
    assert networks_of(written) == networks
    shown = words(figure)
    for recipe, m in networks:
        assert f"{recipe}, $m$ = {m}" in shown
        text = written["text"].sel(recipe=recipe, n_features=m).values[0, 0, 0]
        assert palette.wrapped(text, language.TEXT_WIDTH, 1)[0] in shown
    assert any(r"Once upon a \$time" in text for text in shown)


@pytest.mark.parametrize("text", ["", "x" * 500, "one two\nthree " * 50, "\n\n", "a  b", "W" * 200])
def test_a_line_of_text_is_as_wide_as_its_room(text):
    (line,) = palette.wrapped(text, 100, 1)
    assert "\n" not in line
    drawn = plt.figure(dpi=300).text(0, 0, line, fontsize=6.5)
    assert drawn.get_window_extent().width <= 102 * 300 / 72


def test_ends_of_lines_are_counted():
    assert palette.wrapped("a" + 5 * "\n" + "b\nc", 300, 1) == ("a ¶×5 b ¶ c",)


def test_only_models_that_predict_text_are_language_models():
    figure = language.language({"small": SMALL, "other": OTHER})
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "words for bits_per_character",
        "words for likeliest_token_kept",
    ]


def test_the_last_recipe_with_a_closed_form_is_shown():
    assert shown_network(SMALL) == ("fitted", 10_000)
    assert shown_network(SMALL.sel(recipe=["learned"])) == ("learned", 10_000)


def test_damage_is_drawn_as_measured_and_predicted():
    axis = depth({"small": SMALL}).axes[0]
    one = SMALL.sel(recipe="fitted", harm="states").isel(n_features=-1)
    measured, predicted = axis.containers[0].lines[0], axis.lines[1]
    np.testing.assert_array_equal(measured.get_ydata(), one["layer_damage"])
    of_form = one["predicted_damage"].sel(predictor=damage.EXPECTED)
    np.testing.assert_array_equal(predicted.get_ydata(), of_form)


def test_the_predictor_chosen_beforehand_comes_first_and_is_named_so():
    figure = depth_predictors.depth_predictors({"small": SMALL})
    quality = figure.axes[1]
    assert quality.get_yticklabels()[0].get_text().endswith("chosen beforehand")
    expected = SMALL.sel(recipe="fitted", harm="states", n_features=10_000)["prediction_rank"]
    drawn = marks(quality)
    assert [drawn[row] for row in range(len(damage.PREDICTORS))] == [*expected.values]
    main = depth({"small": SMALL}).axes[1]
    assert marks(main)[0] == float(expected.sel(predictor=damage.EXPECTED))


def test_a_factor_that_is_no_factor_leaves_room():
    """Growth by 1e170 has no interval above its panel, which would not fit."""
    names = "growth", "growth_low", "growth_high"
    for factor, written in ((1.25, "× 1.25 [1.25, 1.25]"), (1e170, "× 1e+170")):
        fit = SMALL.assign({name: SMALL[name] * 0 + factor for name in names})
        title = depth_predictors.depth_predictors({"small": fit}).axes[0].get_title(loc="left")
        assert title.endswith(written)
        plt.close("all")


def test_qualities_below_the_axis_are_counted():
    low = SMALL.assign(prediction_r2=SMALL["prediction_r2"] - 5)
    axis = depth({"small": low}).axes[2]
    assert axis.get_title(loc="left").endswith("2 of 2 below −1")


def test_models_of_which_no_layer_is_replaced_alone_are_drawn(tmp_path):
    only = SMALL.sel(part=["layer 1"]).copy()
    for name in ("layer_damage", "predicted_damage", "prediction_r2", "prediction_rank"):
        only[name] = only[name] * np.nan
    assert_drawn_alike(depth, {"only": only}, tmp_path)
