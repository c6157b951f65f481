"""The figures that tell of all kinds of experiments: the network, and the overview."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib import pyplot as plt

import looks
from conftest import ROOT
from tripartite import declarations
from tripartite.figures import palette
from tripartite.kinds.perturbations.registry import PERTURBATIONS
from tripartite.kinds.story import findings, network, overview
from tripartite.kinds.trained.knocked_out import KNOCKOUTS

HEADS = {"layer": [0, 1], "head": [0, 1, 2]}


def interval(name: str, dims: list[str], values: object, width: float = 0.1) -> dict:
    """A variable with the ends of its interval."""
    ends = (("", 0.0), ("_low", -width), ("_high", width))
    return {name + end: (dims, np.array(values) + shift) for end, shift in ends}


def fit_of(kind: str, data: str, variables: dict, coords: dict, **attrs: object) -> xr.Dataset:
    about = {"kind": kind, "data": data, "title": f"tripartite {kind}", "settings": json.dumps({})}
    return xr.Dataset(variables, coords, about | attrs)


def a_network(recipe: str, rng: np.random.Generator, data: str = "MiniLM") -> xr.Dataset:
    fitted = recipe == "fitted"
    needed = rng.uniform(3, 6, (2, 3)) if fitted else rng.uniform(4, 20, (2, 3))
    of_sizes = ["n_features", "layer", "head"]
    errors = rng.uniform(0.1, 0.9, (2, 2, 3))
    of_tokens = ["input", "layer", "head", "token"]
    variables = {
        "log10_features_needed": (["layer", "head"], needed),
        "log_normalizer": (of_tokens, rng.uniform(3, 6, (2, 2, 3, 5))),
        "log_calcium": (["n_features", *of_tokens], rng.uniform(3, 6, (2, 2, 2, 3, 5))),
        **interval("output_error", of_sizes, errors),
        **interval("correlation", of_sizes, rng.uniform(0.5, 0.9, (2, 2, 3)), 0.05),
        **interval("output_error_all", ["n_features"], np.median(errors, (1, 2))),
        **interval("output_error_uniform_all", [], np.array(0.8)),
    }
    coords = {"n_features": [100, 1000], "input": ["a", "b"], **HEADS}
    map_of = "fitted_normal" if fitted else "performer"
    return fit_of("network", data, variables, coords, feature_map=map_of, symmetries="")


def a_rebuilt(rng: np.random.Generator) -> xr.Dataset:
    dims = ["measure", "recipe", "part", "n_features"]
    scores = np.array([[2.5, 2.4], [2.0, 1.8], [1.9, np.nan]])[None, :, None]
    references = np.array([[1.0], [3.0], [4.0], [np.nan]])[None]
    variables = {
        "label": ("measure", ["bits per character"]),
        **interval("mean_score", dims, scores),
        **interval("mean_reference_score", ["measure", "reference", "part"], references),
    }
    coords = {
        "measure": ["bits_per_character"],
        "recipe": ["plain", "fitted", "learned"],
        "part": ["all"],
        "n_features": [64, 1024],
        "reference": ["softmax", "equal", "none", "chance"],
    }
    return fit_of("rebuilt", "SmolLM2 (4-bit)", variables, coords)


def a_trained(rng: np.random.Generator) -> xr.Dataset:
    variables = {
        "unit": ((), "accuracy"),
        "n_parameters": (["arm", "n_features"], [[9, -1], [9, 9], [9, -1]]),
        **interval(
            "mean_test_score", ["arm", "n_features"], [[0.9, np.nan], [0.4, 0.8], [0.5, np.nan]]
        ),
        **interval(
            "knockout_change",
            ["knockout", "arm", "n_features"],
            [[[-0.6, np.nan], [-0.1, -0.2], [np.nan, np.nan]]],
        ),
    }
    coords = {
        "arm": ["softmax", "learned", "gru"],
        "n_features": [4, 32],
        "knockout": ["best_constant"],
    }
    return fit_of("trained", "recall of 8 pairs", variables, coords)


def a_readout(rng: np.random.Generator) -> xr.Dataset:
    dims = ["readout", "noise", "model", "layer", "head"]
    left = rng.uniform(0.1, 0.9, (2, 3, 2, 2, 3))
    left[..., 0, 2] = np.nan
    variables = {
        "calcium_noise": ("noise", [0.0, 0.1, 0.0]),
        "vesicles": ("noise", [np.inf, np.inf, 100.0]),
        "sd_log_normalizer": (["layer", "head"], rng.uniform(0.1, 1, (2, 3))),
        **interval("best_spread_left", dims, left),
    }
    coords = {"readout": ["C", "C^gamma"], "model": ["li_rinzel_nest", "chi"], **HEADS}
    return fit_of("readout", "MiniLM", variables, coords)


def an_ablation(rng: np.random.Generator) -> xr.Dataset:
    dims = ["perturbation", "lesion", "layer"]
    variables = interval("cosine", dims, rng.uniform(0.1, 0.9, (2, 3, 2)))
    coords = {
        "perturbation": ["knockout_best", "knockout_lagged"],
        "lesion": ["0", "1", "all"],
        "layer": [0, 1],
    }
    return fit_of("ablation", "MiniLM", variables, coords)


@pytest.fixture(scope="module")
def fits():
    rng = np.random.default_rng(0)
    return {
        "plain": a_network("plain", rng),
        "fitted": a_network("fitted", rng),
        "rebuilt": a_rebuilt(rng),
        "recall": a_trained(rng),
        "readout": a_readout(rng),
        "ablation": an_ablation(rng),
    }


@pytest.fixture(scope="module")
def figure(fits):
    return looks.drawn("overview", fits)


@pytest.fixture(autouse=True)
def _no_open_figures():
    yield
    plt.close("all")


def titles(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj() if text.get_gid() == "title"]


def drawn_values(figure, axis: str) -> np.ndarray:
    """Coordinates of all points and lines."""
    found = [
        np.ravel(getattr(line, f"get_{axis}data")()).astype(float)
        for axes in figure.axes
        for line in axes.lines
    ]
    return np.concatenate(found)


def of(fits, panel: str, **chosen: object) -> pd.DataFrame:
    """Rows of a panel in the table, with these labels."""
    rows = overview.table(fits)
    rows = rows[rows["panel"] == panel]
    for key, value in chosen.items():
        rows = rows[rows[key] == value]
    return rows


# The drawing.


def test_the_network_needs_no_data():
    figure = looks.drawn("network", {})
    assert looks.faults(figure) == []
    assert len([*looks.panels.lettered(figure)]) == 5
    assert network.answer({})


def test_lesions_have_the_numbers_and_names_of_their_figure():
    lesions = [x.title for x in PERTURBATIONS.values() if x.group == "lesions"]
    assert list(network.LESIONS) == lesions
    assert sorted(network.PLACES) == [str(i + 1) for i in range(len(lesions))]
    table = network.table({}).set_index("symbol")
    assert [table.loc[str(i), "name"] for i in range(1, len(lesions) + 1)] == lesions
    assert table.loc["Ca²⁺", "unit"] == "µM"


def test_studies_with_figures_open_with_both():
    for path in sorted((ROOT / "config/studies").glob("*.yaml")):
        text = path.read_text()
        if "\n  overview:" in text:
            assert "\n  network: {}" in text, path.name
            assert text.index("\n  network: {}") < text.index("\n  overview:")
    assert declarations.figures()["network"].kinds == ()
    assert declarations.in_order(declarations.figures())[:2] == ["network", "overview"]


# The overview.


def test_all_panels(figure):
    assert looks.faults(figure) == []
    assert len(titles(figure)) == 8


@pytest.mark.parametrize("name", ["fitted", "rebuilt", "recall", "readout", "ablation"])
def test_panels_without_experiments_are_left_out(name, fits):
    some = {name: fits[name]}
    figure = looks.drawn("overview", some)
    assert looks.faults(figure) == []
    assert len(titles(figure)) == 2  # the drawing and one finding
    assert overview.answer(some)


def test_names_of_users(fits):
    strange = {
        name: fit.assign_attrs(data=f"$x_{i}$ 模型 " + "long " * 9)
        for i, (name, fit) in enumerate(fits.items())
    }
    figure = looks.drawn("overview", strange)
    checks = (looks.sizes, looks.letters, looks.texts, looks.overlaps)
    assert [fault for check in checks for fault in check(figure)] == []
    assert r"\$" not in overview.answer(strange)


def test_nothing_finite(fits):
    without = {
        name: fit.assign({key: fit[key] * np.nan for key in fit if fit[key].dtype.kind == "f"})
        for name, fit in fits.items()
    }
    figure = looks.drawn("overview", without)
    assert len(titles(figure)) == 1
    assert overview.answer(without) == "There is no number to show."
    assert not len(overview.table(without))


def test_needs_and_errors_are_those_of_the_fits(fits, figure):
    for recipe in ("plain", "fitted"):
        fit = fits[recipe]
        needs = of(fits, "needs", recipe=recipe)
        np.testing.assert_array_equal(needs["value"], fit["log10_features_needed"].values.ravel())
        errors = of(fits, "errors", recipe=recipe, what="head")
        largest = fit.isel(n_features=-1)
        np.testing.assert_array_equal(errors["value"], largest["output_error"].values.ravel())
        (median,) = of(fits, "errors", recipe=recipe, what="median head").to_dict("records")
        for end in ("", "_low", "_high"):
            assert median[f"value{end}"] == float(largest[f"output_error_all{end}"])
    x, y = drawn_values(figure, "x"), drawn_values(figure, "y")
    assert np.isin(of(fits, "needs")["value"], x).all()
    assert np.isin(of(fits, "errors")["value"], y).all()


def test_most_heads_and_a_pair_of_recipes_are_compared(fits):
    """An experiment with a few heads stands for no model; without two recipes there is no pair."""
    few = fits["plain"].copy(deep=True)
    few["output_error"][:, 1:] = np.nan
    both = {"few": few, **fits}
    assert {*of(both, "needs")["experiment"]} == {"plain", "fitted"}
    assert "errors" not in findings.tables({"plain": fits["plain"]})
    assert "errors" not in findings.tables({"few": few, "fitted": fits["fitted"]})


def test_tokens_are_of_the_easiest_and_a_median_head(fits):
    rows = of(fits, "tokens")
    needed = np.sort(fits["plain"]["log10_features_needed"].values.ravel())
    assert rows["log10_features_needed"].unique().tolist() == [needed[0], needed[2]]
    first = rows[rows["first"] == True]  # noqa: E712 - a column of objects
    fit = fits["plain"].sel(layer=first["layer"].iloc[0], head=first["head"].iloc[0])
    np.testing.assert_array_equal(first["x"], fit["log_normalizer"].values.ravel())
    np.testing.assert_array_equal(first["value"], fit["log_calcium"][-1].values.ravel())


def test_rebuilt_models_stand_between_equal_and_softmax_attention(fits, figure):
    rows = of(fits, "rebuilt").set_index("recipe")
    assert rows["n_features"].to_dict() == {"plain": 1024, "fitted": 1024, "learned": 64}
    # bits: 3 with equal attention, 1 with softmax attention, less is better
    assert rows.loc["fitted", "value"] == pytest.approx((3 - 1.8) / 2)
    assert rows.loc["fitted", "value_low"] == pytest.approx((3 - 1.9) / 2)
    assert rows.loc["fitted", "value_high"] == pytest.approx((3 - 1.7) / 2)
    assert np.isin(rows["value"], drawn_values(figure, "x")).all()


def test_trained_networks_with_a_constant_for_p(fits):
    rows = of(fits, "trained", row="trained neurons")
    assert rows["n_features"].tolist() == [32, 32]
    assert rows["value"].tolist() == pytest.approx([0.8, 0.6])  # as trained; changed by -0.2
    assert rows["value_low"].tolist() == pytest.approx([0.7, 0.5])
    assert of(fits, "trained", row=findings.ARMS["gru"])["what"].tolist() == ["trained"]
    arms = declarations.kinds()["trained"].settings["properties"]["arms"]["items"]["enum"]
    assert {*findings.ARMS} == {*arms} and "best_constant" in KNOCKOUTS


def test_calcium_without_noise_and_with_the_most(fits):
    rows = of(fits, "calcium")
    assert {*rows["noise"]} == {0.0, 0.1}
    fit, needed = fits["readout"], fits["plain"]["log10_features_needed"]
    needed = needed.where(fit["best_spread_left"].notnull().any(("readout", "noise", "model")))
    one = of(fits, "calcium", noise=0.1, readout="C", row="ChI").set_index("first")
    for first, place in ((True, needed.argmin(...)), (False, needed.argmax(...))):
        left = fit["best_spread_left"].isel(place).sel(readout="C", model="chi").isel(noise=1)
        assert one.loc[first, "value"] == float(left)


def test_divisions_in_one_layer_and_in_all(fits):
    cosine = fits["ablation"]["cosine"].sel(perturbation="knockout_best").isel(layer=-1)
    rows = of(fits, "divisions", row="best constant").set_index("what")
    assert rows.loc["one layer", "value"] == float(cosine[:2].median())
    assert rows.loc["all layers", "value"] == float(cosine[2])
    assert rows.loc["all layers", "value_low"] == pytest.approx(float(cosine[2]) - 0.1)


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("plain", "correlation"),
        ("plain", "log10_features_needed"),
        ("fitted", "output_error_all"),
        ("rebuilt", "mean_score"),
        ("recall", "knockout_change"),
        ("readout", "best_spread_left"),
        ("ablation", "cosine"),
    ],
)
def test_the_answer_is_computed(name, variable, fits):
    before = overview.answer(fits)
    changed = fits | {name: fits[name].assign({variable: fits[name][variable] * 0.9})}
    assert overview.answer(changed) != before


def test_models_keep_their_symbols(figure):
    (legend,) = figure.legends
    shown = {text.get_text(): handle for handle, text in zip(legend.legend_handles, legend.texts)}
    assert shown["MiniLM"].get_marker() == palette.MODELS["MiniLM"].marker
    assert shown["SmolLM2"].get_marker() == palette.MODELS["SmolLM2"].marker
