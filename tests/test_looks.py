"""The study quick from end to end, the looks of all of its figures, and its colours."""

import importlib
import itertools
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from matplotlib import pyplot as plt

import looks
from conftest import ROOT, cf_faults, project, snakemake
from test_workflow import NOTHING, jobs, results
from tripartite import declarations
from tripartite.figures import captions, palette

STUDY = yaml.safe_load((ROOT / "config/studies/quick.yaml").read_text())
FIGURES = [*STUDY["figures"]]
BLIND = ("deuteranomaly", "protanomaly")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A project in which the study quick was run."""
    folder = project(tmp_path_factory.mktemp("quick") / "project")
    done = snakemake(folder, "--config", "study=quick")
    assert done.returncode == 0, done.stdout
    return folder


@pytest.mark.slow
def test_quick_end_to_end(folder):
    """The shipped study runs completely, leaves only declared files, and then has nothing to do."""
    wanted = {
        f"results/quick/figures/{name}.{suffix}"
        for name in STUDY["figures"]
        for suffix in (*declarations.FIGURE_SUFFIXES, *declarations.figures()[name].also)
    } | {"results/quick/index.html", "results/quick/claims/claims.nc"}
    for name, experiment in STUDY["experiments"].items():
        (section,) = declarations.experiments().keys() & experiment.keys()
        files = [*declarations.kinds()[section].files]
        files += ["qkv", "attention"] * (not {"same_as", "task"} & {*experiment["data"]})
        wanted |= {f"results/quick/{name}/{file}.nc" for file in files}
    assert set(results(folder)) == wanted
    again = snakemake(folder, "--config", "study=quick")
    assert NOTHING in again.stdout
    assert cf_faults(sorted((folder / "results/quick").glob("*/*.nc"))) == {}
    # Another caption draws its figure again, another meaning of a variable makes its kind again.
    declared = folder / "workflow/scripts/tripartite/kinds/settling/kind.yaml"
    text = declared.read_text()
    caption = declarations.figures()["calcium_speed"].caption.split()[0]
    for old, new, wanted in (
        (caption, f"As said: {caption}", {"draw": 1}),
        (
            "gain error |Z_t / p_t - 1|",
            "error of the gain |Z_t / p_t - 1|",
            {"settle": 1, "draw": 1},
        ),
    ):
        before, _, after = text.partition("figures:") if old == caption else ("", "", text)
        assert old in after
        declared.write_text(text.replace(after, after.replace(old, new, 1)))
        said = snakemake(folder, "--config", "study=quick", "--dry-run").stdout
        assert jobs(said) == wanted, said
    declared.write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_figures_look_as_they_must(name, folder):
    """Widths, panels, letters, texts, sizes, lines, colours and legends of each figure of quick."""
    figure = looks.drawn(name, looks.load(folder / "results/quick", name))
    assert looks.faults(figure) == []
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("awkward", looks.AWKWARD)
def test_awkward_data_do_not_break_a_figure(awkward, name, folder):
    """Many heads, long and strange names, values without end or none: all stays on the page."""
    fits = looks.AWKWARD[awkward](looks.load(folder / "results/quick", name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numbers that overflow
        figure = looks.drawn(name, fits)
        checks = (looks.sizes, looks.letters, looks.texts, looks.overlaps, looks.colours)
        assert [fault for check in checks for fault in check(figure)] == []
        module = module_of(name)
        assert module.answer(fits) and isinstance(module.table(fits), pd.DataFrame)
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_captions_and_tables_say_what_is_drawn(name, folder):
    """A caption has question, answer with a number, reading, n and files; a table has numbers."""
    place = folder / "results/quick/figures"
    text, declared = (place / f"{name}.txt").read_text(), declarations.figures()[name]
    question, reading, *behind = text.strip().split("\n\n")
    assert question.startswith(declared.question) and declared.question.endswith("?")
    assert reading == " ".join(declared.caption.split())
    if declared.kinds:
        answer = question.removeprefix(declared.question)
        assert re.search(r"\d", answer) and not re.search(r"\bnan\b", answer), answer
        table = pd.read_csv(place / f"{name}.csv")
        assert len(table) and np.isfinite(table.select_dtypes("number")).any(axis=None)
        for experiment in STUDY["figures"][name].get("experiments", ["claims"]):
            assert experiment in behind[0]


def module_of(figure: str):
    return importlib.import_module(declarations.figures()[figure].module.replace("/", "."))


def test_colours_can_be_told_apart():
    """By deuteranopes and protanopes in each group; models and recipes by lightness too."""
    models = {name: look.fill for name, look in palette.MODELS.items()}
    recipes = {name: look.fill for name, look in palette.RECIPES.items()}
    categories = dict(enumerate(palette.CATEGORIES))
    for group, least in ((models, 20), (recipes, 15), (palette.PARTS, 20), (categories, 25)):
        for (one, a), (other, b) in itertools.combinations(group.items(), 2):
            if {one, other} == {"astrocyte", "output"}:
                continue  # the output is grey: never a mark beside the astrocyte's
            for kind in BLIND:
                assert looks.difference(a, b, kind) > least, (one, other, kind)
    for group, least in ((models, 10), (recipes, 10)):
        for a, b in itertools.combinations(group.values(), 2):
            assert looks.difference(a, b, "grey") > least, (a, b)
    for look in (*palette.MODELS.values(), *palette.OTHERS, *palette.RECIPES.values()):
        assert looks.contrast(look.line, "white") > 3, look
    markers = [look.marker for look in (*palette.MODELS.values(), *palette.OTHERS)]
    assert len({*markers}) == len(markers)


def test_maps_get_darker_one_way():
    """More neurons are darker, and so are harder heads and larger errors."""
    for colour, values in (
        (palette.colour_of_size, (10, 100, 1000, 10000, 100000)),
        (palette.colour_of_hardness, (0.1, 1, 10, 100)),
    ):
        light = [looks.luminance(colour(value)) for value in values]
        assert light == sorted(light, reverse=True) and len({*light}) == len(light)
        assert colour(0) == colour(values[0]) and colour(1e300) == colour(values[-1])


def test_other_models_have_looks_of_their_own():
    names = ["MiniLM", "mine", "yours", "ALBERT (RXNMapper)"]
    found = [palette.look_of(name, names) for name in names]
    assert len({*found}) == 4 and found[0] == palette.MODELS["MiniLM"]
    assert palette.short_name("ViT (DINOv2-S layout)") == "ViT"
    assert palette.short_name("a model with a long name") == "a model with a …"


def test_a_caption_counts_what_is_behind_it():
    from conftest import random_heads, run_fit, run_simulate
    from tripartite.kinds.data.attend import attend

    data = random_heads([0.5, 1.0], n_inputs=2, n_tokens=8, d_head=3)
    exact = attend(data)
    fit = run_fit(data, exact, run_simulate(data, exact, n_features=[10, 100], n_seeds=3))
    settings = {"small/states.nc": {"n_seeds": 3, "inputs": "all", "heads": "all"}}
    fit = fit.assign_attrs(
        data="random heads",
        title="tripartite fit",
        upstream_settings=json.dumps(settings),
        settings="{}",
    )
    words = "random heads (small: 2 heads, 2 inputs, 3 networks, m = 10 to 100)"
    assert captions.behind({"small": fit}) == f"Shown: {words}. Files: small/fit.nc."
    settings["small/states.nc"] |= {"heads": [[0, 1]], "calibrated_on": ["draw-0"]}
    some = fit.assign_attrs(upstream_settings=json.dumps(settings))
    assert captions.counts(some)[:3] == ["2 heads", "1 of them simulated", "1 input"]
    drawn = {"made.nc": {"data": {"synthetic": {"n_inputs": 4}}}, "run.nc": {"inputs": "all"}}
    named = {"inputs": ["a", "b", "c"], "trained_on": ["a"], "validated_on": ["b"]}
    for settings, words in ((drawn, ["4 inputs"]), ({"x.nc": named}, ["1 input"]), ({}, [])):
        without = xr.Dataset(attrs={"upstream_settings": json.dumps(settings)})
        assert captions.counts(without) == words
    texts = xr.Dataset({"score": ("prompt", [1.0, 2.0])}, attrs={"kind": "writing"})
    assert captions.counts(texts) == ["2 prompts"]
    declared = declarations.figures()["trace"]
    text = captions.caption(declared.question, "It is 3.", declared.caption, {"small": fit})
    assert text.split("\n\n")[0] == f"{declared.question} It is 3."


def test_faults_of_looks_are_found():
    """Each check finds the fault that it is for."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(5, 9), layout="none")
    left.plot([1, 2], [1, 2], color="#12ab34", linewidth=0.2, label="shown")
    left.annotate("tiny", (0.5, 0.5), xycoords="axes fraction", fontsize=4)
    left.annotate("tilted", (0.2, 0.8), xycoords="axes fraction", rotation=45)
    right.annotate("one text", (0.5, 0.5), xycoords="axes fraction")
    right.annotate("other text", (0.5, 0.5), xycoords="axes fraction", color="#BBBBBB")
    right.annotate("outside", (5, 0.5), xycoords="axes fraction")
    figure.legend(handles=[plt.Line2D([], [], marker="s", color=palette.KEY, label="none")])
    figure.canvas.draw()
    found = "\n".join(looks.faults(figure))
    plt.close(figure)
    for words in (
        "mm wide",
        "mm high",
        "has the letters [] at 2 panels",
        "#12ab34",
        "'tiny' has 4.0 pt",
        "'tilted' is turned by 45",
        "'one text' and 'other text' overlap",
        "'outside' leaves the canvas",
        "'other text' has a contrast",
        "has 0.2 pt",
        "the legend has 'none'",
    ):
        assert words in found, (words, found)
