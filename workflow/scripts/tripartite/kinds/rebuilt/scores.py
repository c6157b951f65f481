"""Rows of scores that figures of whole models share: attention without neurons, and networks."""

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tripartite.figures import captions, palette
from tripartite.figures.panels import estimates, frame, name_rows, spread
from tripartite.kinds.rebuilt.layerwise import ALL

RECIPES = {  # their looks, and what figures call them
    "plain": (palette.RECIPES["plain"], "plain"),
    "balanced": (palette.RECIPES["balanced"], "balanced"),
    "generalized": (palette.RECIPES["fitted"]._replace(fill="#FFFFFF"), "one width"),
    "fitted": (palette.RECIPES["fitted"], "fitted"),
    "learned": (palette.RECIPES["learned"], "trained"),
}
REFERENCES: dict[
    str, tuple[str, dict[str, Any], bool]
] = {  # in the order of rows: name, line across, whether above networks
    "softmax": ("softmax attention", {"color": palette.EXACT, "linestyle": "-"}, True),
    "equal": ("equal attention", {"color": palette.GUIDE, "linestyle": "--"}, False),
    "none": ("no attention", {"color": palette.GUIDE, "linestyle": ":"}, False),
    "chance": ("guess", {"color": palette.GUIDE, "linestyle": "-."}, False),
}
BOUNDS = {"(share)": (0, 1), "cosine": (-1, 1), "rank correlation": (-1, 1)}  # by words of a label
MAX_NETWORKS = 16  # rows of a panel
ROW_MM = 3.7
LETTERS = {1: 36, 2: 36, 3: 30}  # of a line by the number of columns, else FEWEST
FEWEST = 22
ROOM = 0.05  # of the axis, beside the outermost mean or end
LONGEST = 1.0  # that a bar reaches beyond all means, in ranges of means

Row = tuple[str, int]  # a recipe and m, or a reference and 0


def score_table(fits: dict[str, xr.Dataset], measures: dict[str, Sequence[str]]) -> pd.DataFrame:
    """Scores of models all of whose attention is replaced, by experiment and measure; NaN left out.

    measures: of each experiment. Rows with a `reference` are attention without neurons. Ends are
    those of the file: of shares they may lie below 0 or above 1.
    """
    parts = [pd.DataFrame(columns=["experiment", "measure", "recipe", "n_features", "reference"])]
    for experiment, names in measures.items():
        fit = fits[experiment].sel(measure=[*names])
        if ALL not in fit["part"]:
            continue
        labels = dict(zip(names, map(str, fit["label"].values)))
        for variable in ("mean_score", "mean_reference_score"):
            own = frame({experiment: fit}, variable, part=ALL)
            own.columns = own.columns.str.replace(variable, "score")
            own = own.drop(columns=["network", "part"])
            if variable != "mean_score":
                own = own.drop(columns="recipe")
            parts.append(own.assign(label=own["measure"].map(labels)))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def rows_of(own: pd.DataFrame) -> list[Row]:
    """Rows of an experiment: softmax attention, networks by recipe and size, other references."""
    there = {*own["reference"].dropna()}
    top, bottom = (
        [(name, 0) for name, (*_, above) in REFERENCES.items() if name in there and above == first]
        for first in (True, False)
    )
    networks = own[own["reference"].isna()][["recipe", "n_features"]].drop_duplicates()
    pairs = [(str(recipe), int(m)) for recipe, m in networks.itertuples(index=False)]
    return [*top, *spread(sorted(pairs, key=_place), MAX_NETWORKS), *bottom]


def _place(row: Row) -> tuple[int, int]:
    return [*RECIPES].index(row[0]), row[1]


def row_names(rows: Sequence[Row]) -> list[str]:
    """Names of rows; the recipe stands at its first size only."""
    names = []
    for before, (name, m) in zip([("", 0), *rows], rows):
        if not m:
            names.append(REFERENCES[name][0])
        else:
            names.append(f"{m}" if name == before[0] else network_name(name, m))
    return names


def network_name(recipe: str, m: int) -> str:
    """What figures call a network."""
    return f"{RECIPES[recipe][1]}, $m$ = {m}"


def draw_scores(
    axis: Axes,
    own: pd.DataFrame,
    rows: Sequence[Row],
    model: str,
    named: bool,
    n_columns: int,
) -> None:
    """A measure of one model, across: its table, a row for each network and reference.

    model: the marker of its name; named: whether rows have their names; n_columns: of the figure.
    """
    name_rows(axis, row_names(rows), named)
    if own.empty:
        return
    label = str(own["label"].iloc[0])
    low, high = bounds(label)
    own = own.assign(
        score_low=own["score_low"].clip(low, high), score_high=own["score_high"].clip(low, high)
    )
    for name, (_, look, _) in REFERENCES.items():
        if len(one := own[own["reference"] == name]):
            axis.axvline(one["score"].iloc[0], linewidth=0.8, zorder=0, **look)
            estimates(
                "score",
                "row",
                data=one.assign(row=rows.index((name, 0))),
                axis=axis,
                across=True,
                marker="|",
                markersize=6,
                markeredgewidth=1.2,
                color=look["color"],
            )
    for row, (name, m) in enumerate(rows):
        if m and len(one := own[(own["recipe"] == name) & (own["n_features"] == m)]):
            look = palette.marks(RECIPES[name][0]._replace(marker=model))
            estimates("score", "row", data=one.assign(row=row), axis=axis, across=True, **look)
        if row and m and name != rows[row - 1][0]:
            axis.axhline(row - 0.5, color=palette.SHADE, linewidth=0.5, zorder=-1)
    limit(axis, own, (low, high))
    large = np.abs(axis.get_xlim()).max() > 1e5
    axis.xaxis.set_major_locator(MaxNLocator(2 if large else 5))
    if large:
        axis.xaxis.set_major_formatter("{x:.0e}")
    label += " (less is better)" * label.startswith("bits")
    axis.set_xlabel(fill(label, LETTERS.get(n_columns, FEWEST)))


def column_title(data: str, n_columns: int) -> str:
    """The name of data above one of some columns, cut if there are many."""
    n_letters = LETTERS.get(n_columns, FEWEST)
    return data if len(data) <= n_letters else f"{data[: n_letters - 1]}…"


def bounds(label: str) -> tuple[float, float]:
    """Between which numbers a measure lies, by its label."""
    return next((ends for words, ends in BOUNDS.items() if words in label), (0, np.inf))


def limit(axis: Axes, own: pd.DataFrame, ends: tuple[float, float]) -> None:
    """Limits of the axis: all means, and bars unless they are much longer."""
    means = own["score"].to_numpy(float)
    low, high = means.min(), means.max()
    apart = (high - low) or 1
    low = max(low - LONGEST * apart, np.nanmin([low, *own["score_low"]]))
    high = min(high + LONGEST * apart, np.nanmax([high, *own["score_high"]]))
    room = ROOM * (high - low or 1)
    axis.set_xlim(low - room, high + room)


# Words.


def number(own: pd.DataFrame, name: str, m: int = 0, brackets: bool = True) -> str:
    """The score of a network or a reference, with its interval if brackets are wanted."""
    of_row = (own["recipe"] == name) & (own["n_features"] == m) if m else own["reference"] == name
    if not of_row.any():
        return "–"
    low, high = bounds(str(own["label"].iloc[0]))
    one = own[of_row].iloc[0]
    ends = (float(np.clip(one[f"score_{end}"], low, high)) for end in ("low", "high"))
    words: Callable = palette.decimal
    return captions.interval(float(one["score"]), *ends) if brackets else words(one["score"])


def best_rows(rows: Sequence[Row]) -> list[Row]:
    """The largest network of each recipe."""
    return [*{name: (name, m) for name, m in rows if m}.values()]
