"""What was found, on one page."""

from collections.abc import Callable, Iterator, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tripartite.figures import palette
from tripartite.figures.palette import MM
from tripartite.figures.panels import PART, beyond, estimates, legend, mark
from tripartite.kinds.story import findings, schematic

WIDTHS = {  # of panels, in twelfths of a page
    "head": 8,
    "tokens": 4,
    "needs": 7,
    "errors": 5,
    "rebuilt": 6,
    "trained": 6,
    "calcium": 6,
    "divisions": 6,
}
FIRST_MM, ROW_MM, AROUND_MM = 42, 48, 10  # heights of rows and of the legend
MOST_NEEDED = 42  # log10 of neurons; heads that need more are counted
MOST_ERROR = 1.3
MOST_SPREAD = 2.0  # of that of ln Z
SHARES = (-0.42, 1.12)  # of the way from equal to softmax attention
MODEL_STEP = 0.17  # between models in a row, in rows

Place = tuple[SubFigure, SubplotSpec]

OWN_COLOURS = ("tokens", "calcium", "divisions")  # panels in which models have their colours
KEY_LOOK = palette.Look(palette.KEY, palette.KEY)
WHOLE, CHANGED = palette.marks(KEY_LOOK), palette.marks(KEY_LOOK, False)
NAMES = {"learned": "trained"}  # of recipes, as other figures call them


def overview(fits: dict[str, xr.Dataset]) -> Figure:
    """A drawing of the network, and a panel for each finding of which there are experiments."""
    palette.apply()
    found = findings.tables(fits)
    rows = [*in_rows(["head", *found])]
    heights = [FIRST_MM, *[ROW_MM] * (len(rows) - 1)]
    figure = plt.figure(figsize=(palette.PAGE, (sum(heights) + AROUND_MM) * MM))
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    data = [name for table in found.values() for name in table["data"].unique()]
    for part, names in zip(parts, rows):
        widths = [WIDTHS[name] for name in names]
        cells = part.add_gridspec(1, len(names), width_ratios=widths)
        for i, name in enumerate(names):
            place = (part, cells[0, i])
            if name == "head":
                draw_head(place)
            else:
                DRAW[name](place, found[name], data)
    legend(figure, [*models_in(found), *recipes_in(found)], ncols=4)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """What all panels show: a row for each mark."""
    parts = findings.tables(fits)
    return pd.concat(parts.values(), ignore_index=True) if parts else pd.DataFrame()


def answer(fits: dict[str, xr.Dataset]) -> str:
    """A sentence for each panel."""
    found = findings.tables(fits)
    words = " ".join(findings.SENTENCES[name](rows) for name, rows in found.items())
    return words or "There is no number to show."


def in_rows(names: list[str]) -> Iterator[list[str]]:
    """Panels in rows of at most twelve twelfths."""
    row: list[str] = []
    for name in names:
        if row and sum(WIDTHS[x] for x in [*row, name]) > 12:
            yield row
            row = []
        row.append(name)
    yield row


def models_in(found: dict[str, pd.DataFrame]) -> Iterator[Line2D]:
    """Entries of the legend for models: their symbols, in their colours where these are drawn."""
    shown = {name: rows for name, rows in found.items() if name != "trained"}
    data = [*dict.fromkeys(name for rows in shown.values() for name in rows["data"])]
    own = {name for key in OWN_COLOURS if key in found for name in found[key]["data"]}
    for name in data:
        look = palette.look_of(name, data)
        look = look if name in own else look._replace(fill=palette.KEY, line=palette.KEY)
        yield mark(palette.short_name(name), **palette.marks(look))


def recipes_in(found: dict[str, pd.DataFrame]) -> Iterator[Patch]:
    """Entries of the legend for recipes."""
    names = {x for rows in found.values() if "recipe" in rows for x in rows["recipe"]}
    for name, look in palette.RECIPES.items():
        if name in names:
            yield Patch(
                facecolor=look.fill, edgecolor=look.line, label=f"{NAMES.get(name, name)} neurons"
            )


def panel(place: Place, title: str, plain: str = "", n: int = 1) -> list[Axes]:
    """n axes side by side that share y, as one panel with a title and a line below it."""
    part, cell = place
    cells = cell.subgridspec(1, n)
    axes: list[Axes] = []
    for i in range(n):
        axes.append(part.add_subplot(cells[0, i], sharey=axes[0] if axes else None))
    palette.title(axes[0], title, plain)
    if n > 1:  # titles that reach over the axes beside leave no gap there
        axes[0].set_title(" " * bool(plain), loc="left")
        axes[0].annotate(
            plain,
            (0, 1),
            xytext=(0, 6),
            xycoords="axes fraction",
            textcoords="offset points",
            annotation_clip=False,
        )
        for text in axes[0].texts:
            text.set_in_layout(False)
        axes[-1].set_title("\n " if plain else " ", loc="left")
    for axis in axes[1:]:
        axis.set_label(PART)
        axis.tick_params(axis="y", labelleft=False, length=0)
    return axes


def name_rows(axis: Axes, names: Sequence[str], places: Sequence[float] = ()) -> None:
    """Names of rows: at places, or the first on top and as high as all others."""
    axis.set_yticks(places or range(len(names)), names)
    axis.tick_params(axis="y", length=0)
    if not places:
        axis.set_ylim(len(names) - 0.5, -0.5)


def limit(axis: Axes, values: pd.Series, low: float, high: float, corner: str) -> None:
    """Set the limits of x, and say how many values lie beyond them."""
    axis.set_xlim(low, high)
    beyond(axis, int((~values.between(low, high)).sum()), len(values), corner)


def note(axis: Axes, words: str, place: tuple[float, float], side: str) -> None:
    """Words beside a line, on its right if they are aligned to the left."""
    axis.annotate(
        words,
        place,
        xytext=(2 if side == "left" else -2, 0),
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=6.5,
        color=palette.KEY,
    )


def marks_of(recipe: str, name: str, data: list[str], size: float) -> dict[str, Any]:
    """Marks of a model, in the colour of a recipe."""
    look = palette.RECIPES[recipe]._replace(marker=palette.look_of(name, data).marker)
    return palette.marks(look) | {"markersize": size}


def draw_head(place: Place) -> None:
    """The drawing of a head."""
    (axis,) = panel(place, "Attention with an astrocyte")
    schematic.head(axis)


def draw_tokens(place: Place, rows: pd.DataFrame, data: list[str]) -> None:
    """ln p on ln Z, and the line on which they are equal."""
    look = palette.look_of(rows["data"].iloc[0], data)
    size = palette.power(np.log10(rows["n_features"].iloc[0]))
    name = palette.short_name(rows["data"].iloc[0])
    (axis,) = panel(place, "Response p and normaliser Z", f"{name}, {size} plain neurons")
    entries = []
    for first, own in rows.groupby("first", sort=False):
        options = palette.marks(look, bool(first)) | {"markeredgewidth": 0.5, "markersize": 2.5}
        needed = own["log10_features_needed"].iloc[0]
        words = f"needs {palette.power(needed)} neurons" if needed == needed else ""
        axis.plot(own["x"], own["value"], linestyle="", rasterized=True, **options)
        entries.append(mark(words, **options))
    ends = [rows[["x"]].min().min(), rows[["x"]].max().max()]
    axis.plot(ends, ends, color=palette.EXACT, linewidth=0.8)
    axis.set_xlabel("ln $Z$ of softmax attention")
    axis.set_ylabel("ln $p$ of the astrocyte")
    axis.legend(handles=entries, loc="upper left", fontsize=7.2, borderpad=0, handletextpad=0.2)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.3 * (high - low))


def draw_needs(place: Place, rows: pd.DataFrame, data: list[str]) -> None:
    """Neurons that heads need: a row for each model and recipe, a mark for each head."""
    (axis,) = panel(place, "Neurons that heads need")
    ticks: dict[float, str] = {}
    y = 0.0
    for name, model in rows.groupby("data", sort=False):
        start = y
        for recipe, own in model.groupby("recipe", sort=False):
            jitter = (np.arange(len(own)) * 0.618 % 1 - 0.5) * 0.7
            options = marks_of(str(recipe), str(name), data, 3) | {"markeredgewidth": 0.3}
            axis.plot(own["value"], y + jitter, linestyle="", rasterized=True, **options)
            middle = own["value"].median()
            axis.plot([middle] * 2, [y - 0.45, y + 0.45], color=palette.KEY, linewidth=1.6)
            axis.annotate(
                palette.power(middle),
                (1.02, y),
                xycoords=("axes fraction", "data"),
                va="center",
                annotation_clip=False,
            )
            y += 1
        ticks[(start + y - 1) / 2] = palette.short_name(str(name))
        y += 0.4
    right = min(MOST_NEEDED, rows["value"].max() + 1)
    axis.set(xlim=(rows["value"].min() - 1, right), ylim=(y - 0.6, -4.2))
    name_rows(axis, [*ticks.values()], [*ticks])
    axis.annotate(
        "median", (1.02, -1), xycoords=("axes fraction", "data"), va="center", fontsize=6.5
    )
    lines = (
        (np.log10(rows["n_features"].max()), "largest network", -3.5),
        (np.log10(findings.CONTACTS), "contacts of an astrocyte", -2.4),
        (np.log10(findings.CORTEX), "neurons of a human cortex", -1.3),
    )
    for at, words, height in lines:
        axis.plot(
            [at, at],
            [y - 0.6, height - 0.4],
            color=palette.GUIDE,
            linewidth=0.8,
            linestyle=":",
            zorder=0,
        )
        note(axis, words, (at, height), "left")
    axis.xaxis.set_major_formatter(lambda x, _: palette.power(x))
    axis.set_xlabel("hidden neurons for 10 % rms error of $Z$")
    beyond(axis, int((rows["value"] > right).sum()), len(rows), "upper right", "heads")


def draw_errors(place: Place, rows: pd.DataFrame, data: list[str]) -> None:
    """Errors of each head with both recipes, joined, and of the median head with its interval."""
    sizes = " or ".join(palette.power(np.log10(m)) for m in rows["n_features"].unique())
    (axis,) = panel(place, "Error of the output", f"{sizes} neurons, a line per head")
    ticks = {}
    for number, (name, model) in enumerate(rows.groupby("data", sort=False)):
        x = {recipe: 2.6 * number + i for i, recipe in enumerate(model["recipe"].unique())}
        heads = model[model["what"] == "head"]
        ends = heads.pivot(index=["layer", "head"], columns="recipe", values="value")[[*x]]
        gaps = np.c_[ends.values, np.full(len(ends), np.nan)]
        places = np.tile([*x.values(), np.nan], len(ends))
        axis.plot(
            places,
            gaps.ravel(),
            color=palette.NOT_KNOWN,
            linewidth=0.5,
            antialiased=False,  # half as large as a png
        )
        equal = model.loc[model["what"] == "equal attention", "value"].iloc[0]
        axis.plot(
            [min(x.values()) - 0.4, max(x.values()) + 0.4],
            [equal] * 2,
            color=palette.KEY,
            linestyle="--",
            linewidth=0.8,
        )
        medians = model[model["what"] == "median head"]
        medians = medians.assign(x=medians["recipe"].map(x))
        axis.plot(medians["x"], medians["value"], color=palette.EXACT, linewidth=0.8)
        for recipe, own in medians.groupby("recipe", sort=False):
            options = marks_of(str(recipe), str(name), data, 5)
            estimates("x", "value", data=own, axis=axis, zorder=4, **options)
        ticks[sum(x.values()) / 2] = palette.short_name(str(name))
    equal = rows[rows["what"] == "equal attention"].reset_index(drop=True)
    highest = equal.loc[equal["value"].idxmax()]
    axis.annotate(
        "equal attention",
        ([*ticks][[*ticks.values()].index(palette.short_name(highest["data"]))], highest["value"]),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        fontsize=6.5,
        color=palette.KEY,
    )
    heads = rows[rows["what"] == "head"]
    top = max(1.0, min(MOST_ERROR, heads["value"].max() * 1.05))
    axis.set_ylim(0, top)
    axis.set_xticks([*ticks], [*ticks.values()])
    axis.tick_params(axis="x", length=0)
    axis.set_ylabel("relative error of the output")
    beyond(axis, int((heads["value"] > top).sum()), len(heads), "upper right", "values")


def draw_rebuilt(place: Place, rows: pd.DataFrame, data: list[str]) -> None:
    """Scores of whole models between equal and softmax attention, a row for each model."""
    sizes = rows.groupby("recipe", sort=False)["n_features"].unique().map(list)
    usual = rows["n_features"].mode().iloc[0]
    parts = [f"{usual} neurons in each head"]
    parts += [
        f"{NAMES.get(recipe, recipe)}: {', '.join(map(str, m))}"
        for recipe, m in sizes.items()
        if m != [usual]
    ]
    (axis,) = panel(place, "Whole transformers rebuilt", "; ".join(parts))
    names = []
    for row, (name, own) in enumerate(rows.groupby("data", sort=False)):
        own = own.assign(y=row + 0.2 * (np.arange(len(own)) - (len(own) - 1) / 2) + 0.1)
        for recipe, one in own.groupby("recipe", sort=False):
            options = marks_of(str(recipe), str(name), data, 4.5)
            estimates("value", "y", data=one, axis=axis, across=True, **options)
        first = own.iloc[0]
        for at, side in ((0, "equal"), (1, "softmax")):
            note(axis, palette.decimal(first[side]), (at, row - 0.42), "right")
        measure = palette.plain_text(first["measure"]).replace(" (share)", "")
        names.append(f"{palette.short_name(str(name))}\n{fill(measure, 20)}")
    axis.axvline(0, color=palette.KEY, linestyle="--", linewidth=0.8)
    axis.axvline(1, color=palette.EXACT, linewidth=0.8)
    limit(axis, rows["value"], *SHARES, "lower right")
    note(axis, "equal attention", (0, -0.85), "left")
    note(axis, "softmax", (1, -0.85), "right")
    name_rows(axis, names)
    axis.set_ylim(len(names) - 0.45, -1.1)
    axis.set_xticks([0, 0.5, 1])
    axis.set_xlabel("share of the way from equal to softmax attention")


def draw_trained(place: Place, rows: pd.DataFrame, data: list[str]) -> None:
    """Scores of trained networks and, hollow, with a constant in place of p: tasks side by side."""
    tasks = [own for _, own in rows.groupby("experiment", sort=False)]
    words = "filled: as trained, hollow: best constant for $p$"
    axes = panel(place, "Trained from scratch", words, len(tasks))
    arms = [arm for arm in findings.ARMS.values() if arm in {*rows["row"]}]
    for axis, own in zip(axes, tasks):
        own = own.assign(y=[arms.index(row) for row in own["row"]])
        for _, pair in own.dropna(subset="value").groupby("y"):
            axis.plot(pair["value"], pair["y"], color=palette.NOT_KNOWN, linewidth=2, zorder=0)
        for what, look in (("best constant for p", CHANGED), ("trained", WHOLE)):
            one = own[own["what"] == what]
            estimates("value", "y", data=one, axis=axis, across=True, **look)
        unit = str(own["unit"].iloc[0])
        if unit == "bits per character":
            axis.invert_xaxis()
        else:
            limit(axis, own["value"], -0.08, 1.08, "lower right")
        name = fill(palette.short_name(str(own["data"].iloc[0]), 20), 11)
        axis.set_xlabel(f"{name}\n{unit.replace(' per ', ' / ')}")
    name_rows(axes[0], arms)


def draw_calcium(place: Place, rows: pd.DataFrame, data: list[str]) -> None:
    """Spread of the gain left, a row for each model of calcium; noise and readout side by side."""
    strips = [*rows.groupby(["noise", "readout"], sort=False)]
    words = "sd of ln gain / sd of ln $Z$; hollow: harder head"
    axes = panel(place, "Spread left by calcium models", words, len(strips))
    names = [*rows["row"].unique()]
    top = min(max(1.1, rows["value"].max() * 1.05), MOST_SPREAD)
    for axis, ((noise, readout), own) in zip(axes, strips):
        models = [*own["data"].unique()]
        for number, name in enumerate(models):
            shift = MODEL_STEP * (number - (len(models) - 1) / 2)
            one = own[own["data"] == name]
            one = one.assign(y=[names.index(row) + shift for row in one["row"]])
            for first, part in one.groupby("first"):
                look = palette.marks(palette.look_of(name, data), bool(first))
                estimates("value", "y", data=part, axis=axis, across=True, **look)
        axis.axvline(1, color=palette.GUIDE, linewidth=0.8, linestyle=":", zorder=0)
        limit(axis, own["value"], 0, top, "lower right")
        words = "$C$" if readout == "C" else "$C^{\\gamma}$"
        how = "no noise" if noise == 0 else f"{palette.percent(noise)} noise"
        axis.set_xlabel(f"{words}\n{how}")
    name_rows(axes[0], names)


def draw_divisions(place: Place, rows: pd.DataFrame, data: list[str]) -> None:
    """Cosines of outputs of whole models that divide by something else, in one layer and in all."""
    (axis,) = panel(place, "Whole models that divide by …", "filled: in one layer, hollow: in all")
    names, models = [*rows["row"].unique()], [*rows["data"].unique()]
    for number, name in enumerate(models):
        shift = MODEL_STEP * (number - (len(models) - 1) / 2)
        own = rows[rows["data"] == name]
        own = own.assign(y=[names.index(row) + shift for row in own["row"]])
        look = palette.look_of(name, data)
        for _, pair in own.groupby("y"):
            axis.plot(pair["value"], pair["y"], color=palette.NOT_KNOWN, linewidth=2, zorder=0)
        for what, filled in (("all layers", False), ("one layer", True)):
            part = own[own["what"] == what]
            estimates(
                "value", "y", data=part, axis=axis, across=True, **palette.marks(look, filled)
            )
    axis.axvline(0, color=palette.GUIDE, linewidth=0.6)
    lowest = np.nanmin([0, *rows["value"], *rows["value_low"]])
    limit(axis, rows["value"], max(lowest, -1) - 0.06, 1.04, "lower left")
    name_rows(axis, names)
    axis.set_xlabel("cosine with the output of the whole model")


DRAW: dict[str, Callable[[Place, pd.DataFrame, list[str]], None]] = {
    "tokens": draw_tokens,
    "needs": draw_needs,
    "errors": draw_errors,
    "rebuilt": draw_rebuilt,
    "trained": draw_trained,
    "calcium": draw_calcium,
    "divisions": draw_divisions,
}
