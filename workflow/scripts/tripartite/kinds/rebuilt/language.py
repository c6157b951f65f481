"""How well does a language model predict text with a network as its whole attention?"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.palette import MM
from tripartite.figures.panels import say_left_out, spread
from tripartite.kinds.rebuilt import scores
from tripartite.kinds.rebuilt.scores import ROW_MM, number

MEASURES = ("bits_per_character", "likeliest_token_kept")
N_TEXTS = 4  # of networks
TEXT_WIDTH = palette.PAGE * 72 - 100  # points, beside names of rows
TEXT_MM = 3.4  # height of a line of text
AROUND_MM = 15  # title and label of a row of panels


def language(fits: dict[str, xr.Dataset]) -> Figure:
    """Two panels for each language model, and below them what some of the networks write.

    Bits per character and the share of likeliest tokens that are kept, a row for each network. The
    text is that of the first seed, prompt and temperature: four networks, evenly spread over
    recipes and sizes, and attention without neurons.
    """
    palette.apply()
    models = language_models(fits)
    drawn = table(fits)
    rows = {name: scores.rows_of(drawn[drawn["experiment"] == name]) for name in models}
    texts = drawn[drawn["text"].notna()]
    text_mm = TEXT_MM * (len(texts) + 1.5) if len(texts) else 0
    heights = {name: AROUND_MM + ROW_MM * max(2, len(rows[name])) for name in models}
    fitting = np.cumsum([*heights.values()]) + text_mm <= palette.MAX_HEIGHT / MM
    shown = [*models][: max(1, min(palette.MAX_PANELS // 2, int(fitting.sum())))]
    ratios = [*(heights[name] for name in shown), *([text_mm] if text_mm else [])]
    figure = plt.figure(figsize=(palette.PAGE, min(palette.MAX_HEIGHT, sum(ratios) * MM)))
    grid = figure.add_gridspec(len(ratios), 2, height_ratios=ratios)
    for place, name in enumerate(shown):
        own = drawn[(drawn["experiment"] == name) & drawn["text"].isna()]
        marker = palette.look_of(models[name].attrs["data"], data_of(models)).marker
        axes = [figure.add_subplot(grid[place, column]) for column in range(2)]
        for axis, measure in zip(axes, measures_of(models[name])):
            of_measure = own[own["measure"] == measure]
            scores.draw_scores(axis, of_measure, rows[name], marker, axis is axes[0], 2)
        if len(measures_of(models[name])) < 2:
            axes[1].set_axis_off()
        palette.title(axes[0], models[name].attrs["data"])
    if text_mm:
        write_texts(figure.add_subplot(grid[-1, :]), texts)
    say_left_out(figure, len(shown), len(models))
    return figure


def language_models(fits: dict[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Rebuilt models that predict text, or all if none does."""
    rebuilt = {name: fit for name, fit in fits.items() if "state_error" in fit}
    models = {name: fit for name, fit in rebuilt.items() if MEASURES[0] in fit["measure"]}
    return models or rebuilt


def data_of(fits: dict[str, xr.Dataset]) -> list[str]:
    """Names of data, in order."""
    return [fit.attrs["data"] for fit in fits.values()]


def measures_of(fit: xr.Dataset) -> list[str]:
    """The two measures that are drawn of a model: those of language, or its first ones."""
    names = [str(name) for name in fit["measure"].values]
    return [name for name in MEASURES if name in names] or names[:2]


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Scores of networks and of attention without neurons, and the texts that are shown."""
    models = language_models(fits)
    found = scores.score_table(models, {name: measures_of(fit) for name, fit in models.items()})
    return pd.concat([found, text_table(fits)], ignore_index=True)


def text_table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """What some networks and attention without networks write after the first prompt."""
    written = {name: fit for name, fit in fits.items() if "text" in fit}
    found: list[dict] = []
    for experiment, fit in [*written.items()][:1]:
        first = fit.isel(seed=0, prompt=0, temperature=0)
        about = {
            "experiment": experiment,
            "data": fit.attrs["data"],
            "prompt": str(first["prompt"].values),
            "temperature": float(first["temperature"]),
            "seed": int(first["seed"]),
        }
        references = {
            name: str(first["reference_text"].sel(reference=name).values)
            for name in fit["reference"].values
        }
        for recipe, m in networks_of(fit):
            text = str(first["text"].sel(recipe=recipe, n_features=m).values)
            found.append(about | {"recipe": recipe, "n_features": m, "text": text})
        rows = [about | {"reference": name, "text": text} for name, text in references.items()]
        found = [*rows[:1], *found, *rows[1:]]
    columns = ["reference", "recipe", "n_features", "text"]
    return pd.DataFrame(found, columns=None if found else columns)


def networks_of(written: xr.Dataset) -> list[tuple[str, int]]:
    """Recipes and sizes of at most N_TEXTS networks that write, evenly spread in the file."""
    pairs = [
        (str(recipe), int(m)) for recipe in written["recipe"].values for m in written["n_features"]
    ]
    return spread(pairs, N_TEXTS)


def write_texts(axis: Axes, texts: pd.DataFrame) -> None:
    """The prompt, and a line for each text behind the name of what wrote it."""
    axis.set_axis_off()
    first = texts.iloc[0]
    head = f"{first['data']} continues “{first['prompt']}” (temperature {first['temperature']:g})"
    step = 1 / (len(texts) + 1)
    lines = [axis.text(0, 1.03, _line(head, 0.8 * TEXT_WIDTH), va="top", weight="bold")]
    for row, (_, one) in enumerate(texts.iterrows(), start=1):
        name = (
            scores.network_name(one["recipe"], int(one["n_features"]))
            if isinstance(one["recipe"], str)
            else scores.REFERENCES[one["reference"]][0]
        )
        axis.text(-0.008, 1 - row * step, name, va="top", ha="right")
        line = _line(one["text"], TEXT_WIDTH)
        lines.append(axis.text(0, 1 - row * step, line, va="top", fontsize=6.5))
    for text in lines:
        text.set_in_layout(False)


def _line(text: str, width: float) -> str:
    """The beginning of a text, in one line of this width in points."""
    return palette.plain_text(palette.wrapped(text, width, 1)[0])


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Bits per character without networks, and of the largest network of each recipe."""
    drawn = table(fits)
    words = []
    for name, fit in language_models(fits).items():
        measure = measures_of(fit)[0]
        own = drawn[(drawn["experiment"] == name) & (drawn["measure"] == measure)]
        if own.empty:
            continue
        networks = ", ".join(
            f"{number(own, recipe, m)} with {m} {scores.RECIPES[recipe][1]}"
            for recipe, m in scores.best_rows(scores.rows_of(own))
        )
        words.append(
            f"{palette.short_name(fit.attrs['data'])}: {own['label'].iloc[0]} "
            f"{number(own, 'softmax', brackets=False)} with softmax attention, "
            f"{number(own, 'equal', brackets=False)} with equal attention and "
            f"{number(own, 'none', brackets=False)} with none; with networks in place of all "
            f"attention {networks} neurons in each head."
        )
    return " ".join(words) or "No model was run with all of its attention replaced."
