"""What does a language model still know when its attention is a neuron-astrocyte network?"""

from collections.abc import Sequence
from string import ascii_lowercase
from textwrap import shorten

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from tripartite.figures import palette
from tripartite.figures.panels import interval, line, points, spread
from tripartite.kinds.rebuilt.layerwise import ALL

MEASURES = ("bits_per_character", "likeliest_token_kept")
COLOURS = dict(
    zip(
        ("plain", "balanced", "generalized", "fitted", "learned"),
        (palette.SMALL, palette.COLOURS[0], palette.COLOURS[2], palette.LARGE, palette.COLOURS[3]),
    )
)
ENDS: dict[str, dict] = {  # horizontal lines
    "softmax": {"color": palette.EXACT},
    "equal": {"color": "0.4", "linestyle": "--"},
    "none": {"color": "0.4", "linestyle": ":"},
    "chance": {"color": "0.6", "linestyle": "-."},
}
N_TEXTS = 4  # of networks
N_LETTERS = 105  # of a line of text
HEIGHT, TEXT_HEIGHT = 1.9, 0.14  # inches, of a row of panels and a line of text
MARGIN = 2  # factor between the smallest m, or the largest, and the ends of the axis
ROOM = 0.15  # above and below, of the height of means; longer bars leave the panel
OFFSET = 1.06  # from one recipe to the next, so that their bars do not hide one another


def language(fits: dict[str, xr.Dataset]) -> Figure:
    """Two panels for each language model, and below them what networks of the curve write.

    Bits per character and the share of likeliest tokens that are kept against hidden neurons. The
    text is that of the first seed, prompt and temperature: four networks, evenly spread over
    recipes and sizes, and the references.
    """
    palette.apply()
    rebuilt = {name: fit for name, fit in fits.items() if "state_error" in fit}
    models = {name: fit for name, fit in rebuilt.items() if MEASURES[0] in fit["measure"]}
    models = models or rebuilt
    written = next((fit for fit in fits.values() if "text" in fit), None)
    lines = text_lines(written) if written is not None else []
    text_height = TEXT_HEIGHT * (len(lines) + 1.5) if lines else 0.0
    size = palette.PAGE, 0.35 + HEIGHT * len(models) + text_height
    figure = plt.figure(figsize=size)
    ratios = [HEIGHT] * len(models) + [text_height] * bool(lines)
    grid = figure.add_gridspec(len(ratios), 2, height_ratios=ratios)
    for row, (words, fit) in enumerate(zip(palette.labels(models), models.values())):
        for column, name in enumerate(MEASURES):
            axis = figure.add_subplot(grid[row, column])
            if name in fit["measure"]:
                draw_curves(axis, fit, name)
            if row == len(models) - 1:
                axis.set_xlabel("hidden neurons $m$ of each head")
            if column == 0:
                axis.set_title(words, loc="left", weight="bold")
                if written is not None and name in fit["measure"]:
                    draw_letters(axis, fit, written)
    handles = legend(list(models.values()))
    figure.legend(handles=handles, loc="outside upper center", ncols=6)
    if written is not None:
        draw_texts(figure.add_subplot(grid[-1, :]), written, lines)
    return figure


def draw_curves(axis: Axes, fit: xr.Dataset, measure: str) -> None:
    """A measure of the whole model against neurons, for each recipe, and its ends.

    The mean of softmax attention plus the mean difference from it, with the interval of this
    difference: inputs differ in what softmax attention makes of them.
    """
    one = fit.sel(measure=measure)
    m = one["n_features"].values.astype(float)
    axis.set(xscale="log", xlim=(m[0] / MARGIN, m[-1] * MARGIN), ylabel=str(one["label"].values))
    axis.xaxis.set_minor_formatter(NullFormatter())
    if ALL not in one["part"]:
        return
    one = one.sel(part=ALL)
    softmax = float(one["mean_reference_score"].sel(reference="softmax"))
    recipes = [str(recipe) for recipe in one["recipe"].values]
    for place, recipe in enumerate(recipes):
        shift = OFFSET ** (place - (len(recipes) - 1) / 2)
        triple = tuple(softmax + x for x in interval(one.sel(recipe=recipe), "mean_change"))
        points(axis, m * shift, triple, COLOURS[recipe], linestyle="-")
    ends = one["mean_reference_score"].sel(reference=list(ENDS)).values
    for end, look in zip(ends, ENDS.values()):
        if np.isfinite(end):
            axis.axhline(end, zorder=0, **look)
    shown = np.append(ends, one["mean_score"])
    low, high = np.nanmin(shown), np.nanmax(shown)
    room = ROOM * (high - low or 1)
    axis.set_ylim(low - room, high + room)


def legend(fits: Sequence[xr.Dataset]) -> list[Line2D]:
    """Recipes of all files, and the ends of the scale."""
    recipes = {str(x) for fit in fits for x in fit["recipe"].values}
    words = {"softmax": "softmax attention", "equal": "equal attention", "none": "no attention"}
    ends = [
        line(words.get(name, name), **look)
        for name, look in ENDS.items()
        if any(fit["mean_reference_score"].sel(reference=name).notnull().any() for fit in fits)
    ]
    marks = [
        line(recipe, marker="o", markersize=3, color=colour)
        for recipe, colour in COLOURS.items()
        if recipe in recipes
    ]
    note = line("bars: 95 % of the difference from softmax", linestyle="")
    return [*marks, *ends, note]


def networks_of(written: xr.Dataset) -> list[tuple[str, int]]:
    """Recipes and sizes of at most N_TEXTS networks that write, evenly spread in the file."""
    pairs = [
        (str(recipe), int(m)) for recipe in written["recipe"].values for m in written["n_features"]
    ]
    return spread(pairs, N_TEXTS)


def draw_letters(axis: Axes, fit: xr.Dataset, written: xr.Dataset) -> None:
    """Letters of the texts at their points of the curve, where the curve has these networks."""
    recipes = [str(recipe) for recipe in fit["recipe"].values]
    for letter, (recipe, m) in zip(ascii_lowercase, networks_of(written)):
        if recipe in recipes and m in fit["n_features"] and ALL in fit["part"]:
            one = fit["mean_score"].sel(measure=MEASURES[0], recipe=recipe, part=ALL, n_features=m)
            shift = OFFSET ** (recipes.index(recipe) - (len(recipes) - 1) / 2)
            axis.annotate(
                letter, (m * shift, float(one)), xytext=(4, 3), textcoords="offset points",
                weight="bold", color=COLOURS[recipe],
            )  # fmt: skip


def text_lines(written: xr.Dataset) -> list[tuple[str, str, str]]:
    """Name, text and colour of each line: references, and networks between them."""
    first = written.isel(seed=0, prompt=0, temperature=0)
    found = [("softmax attention", first["reference_text"].sel(reference="softmax"), palette.EXACT)]
    networks = list(zip(ascii_lowercase, networks_of(written)))
    for letter, (recipe, m) in networks:
        text = first["text"].sel(recipe=recipe, n_features=m)
        found.append((f"{letter}  {recipe}, {m:,} neurons", text, COLOURS[recipe]))
    for name in ("equal", "none"):
        text = first["reference_text"].sel(reference=name)
        words = f"{name if name == 'equal' else 'no'} attention"
        found.append((words, text, str(ENDS[name]["color"])))
    return [(words, one_line(str(text.values)), colour) for words, text, colour in found]


def one_line(text: str) -> str:
    """The beginning of a text, in one line that the font can write."""
    words = shorten(text, N_LETTERS, placeholder=" …") if " " in text.strip() else text[:N_LETTERS]
    return palette.plain_text(palette.shown(" ".join(words.split())))


def draw_texts(axis: Axes, written: xr.Dataset, lines: Sequence[tuple[str, str, str]]) -> None:
    """The prompt, and a line for each text."""
    axis.set_axis_off()
    prompt = one_line(str(written["prompt"].values[0]))
    temperature = float(written["temperature"][0])
    head = f"continues “{prompt}” (first seed; temperature {temperature:g})"
    step = 1 / (len(lines) + 1)
    axis.text(0, 1, head, va="top", weight="bold")
    for row, (name, text, colour) in enumerate(lines, start=1):
        axis.text(0, 1 - row * step, name, va="top", color=colour, fontsize=6.5)
        axis.text(0.19, 1 - row * step, text, va="top", fontsize=6.5)
