"""Figures of whole rebuilt networks, drawn from small files."""

import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot as plt

from conftest import assert_drawn_alike
from tripartite.kinds.rebuilt import damage
from tripartite.kinds.rebuilt.depth import depth, shown_network
from tripartite.kinds.rebuilt.language import N_LETTERS, language, networks_of, one_line
from tripartite.kinds.rebuilt.summaries import REFERENCES
from tripartite.kinds.rebuilt.whole_models import whole_models
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


@pytest.mark.parametrize("draw", [language, whole_models, depth])
def test_figures_of_some_models(draw, tmp_path):
    assert_drawn_alike(draw, {"small": SMALL, "other": OTHER}, tmp_path)


def test_texts_of_four_networks_and_the_references():
    written = writing()
    figure = language({"small": SMALL, "written": written})
    networks = [("plain", 100), ("plain", 10_000), ("fitted", 100), ("fitted", 10_000)]
    assert networks_of(written) == networks
    shown = words(figure)
    for letter, (recipe, m) in zip("abcd", networks):
        assert f"{letter}  {recipe}, {m:,} neurons" in shown
        assert letter in shown  # beside the curve
        text = written["text"].sel(recipe=recipe, n_features=m).values[0, 0, 0]
        assert one_line(text) in shown
    assert one_line(written["reference_text"].values[0, 0, 0, 0]) in shown
    assert any(r"Once upon a \$time" in text for text in shown)


@pytest.mark.parametrize("text", ["", "x" * 500, "one two\nthree " * 50, "\n\n", "a  b"])
def test_a_line_of_text_is_one_line(text):
    line = one_line(text)
    assert len(line) <= N_LETTERS and "\n" not in line
    assert line.removesuffix(" …") in " ".join(text.split())


def test_only_models_that_predict_text_are_language_models():
    figure = language({"small": SMALL, "other": OTHER})
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "words for bits_per_character",
        "words for likeliest_token_kept",
    ]


def test_curves_are_the_means():
    axis = whole_models({"small": SMALL}).axes[0]
    one = SMALL.sel(measure="bits_per_character", part="all")
    softmax = one["mean_reference_score"].sel(reference="softmax").values
    for drawn, recipe in zip(axis.containers, RECIPES):
        expected = softmax + one["mean_change"].sel(recipe=recipe).values
        np.testing.assert_allclose(drawn.lines[0].get_ydata(), expected, rtol=1e-12)


def test_the_last_recipe_with_a_closed_form_is_shown():
    assert shown_network(SMALL) == ("fitted", 10_000)
    assert shown_network(SMALL.sel(recipe=["learned"])) == ("learned", 10_000)


def test_damage_is_drawn_as_measured_and_predicted():
    axis = depth({"small": SMALL}).axes[0]
    one = SMALL.sel(recipe="fitted", harm="output").isel(n_features=-1)
    measured, predicted = axis.containers[0].lines[0], axis.lines[1]
    np.testing.assert_array_equal(measured.get_ydata(), one["layer_damage"])
    of_form = one["predicted_damage"].sel(predictor=damage.EXPECTED)
    np.testing.assert_array_equal(predicted.get_ydata(), of_form)


def test_models_of_which_no_layer_is_replaced_alone_are_drawn(tmp_path):
    only = SMALL.sel(part=["layer 1"]).copy()
    for name in ("layer_damage", "predicted_damage", "prediction_r2", "prediction_rank"):
        only[name] = only[name] * np.nan
    assert_drawn_alike(depth, {"only": only}, tmp_path)
