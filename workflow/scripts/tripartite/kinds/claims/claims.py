"""Figure: a row for each claim with its verdict, and how far its numbers are from their bounds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.palette import MM
from tripartite.figures.panels import estimates
from tripartite.kinds.claims import wording
from tripartite.kinds.claims.verdicts import FAILS, HOLDS, OPEN

OUTCOMES = {FAILS: "Contradicted", OPEN: "Inconclusive", HOLDS: "Validated"}  # and their looks
CONTAINS = "contains"  # begins the words of this test
MOST = 1e300  # in place of infinity
SMALL = 6.0  # pt, of all words
ROW_MM, MAX_ROWS = 3.5, 76
TOP_MM, BOTTOM_MM = 6, 4
# Columns: where they start and how wide they are.
NAME_MM, STRIP_MM, VERDICT_MM, NUMBER_MM = (2, 50), (54, 33), (89, 36), (125, 52)


def claims(fits: dict[str, xr.Dataset]) -> Figure:
    """A row for each claim, by part; those that are left out where there are too many are told."""
    palette.apply()
    numbers, rows = positions(fits["claims"]), [*in_rows(fits["claims"])]
    left_out = fits["claims"].sizes["claim"] - sum(1 for row in rows if "claim" in row)
    row_mm = min(ROW_MM, (palette.MAX_HEIGHT / MM - TOP_MM - BOTTOM_MM) / len(rows))
    height = TOP_MM + BOTTOM_MM + row_mm * len(rows)
    figure = plt.figure(figsize=(palette.PAGE, height * MM))
    figure.set_layout_engine("none")  # columns have their places
    width = palette.PAGE / MM
    box = (
        STRIP_MM[0] / width,
        BOTTOM_MM / height,
        STRIP_MM[1] / width,
        row_mm * len(rows) / height,
    )
    axis = figure.add_axes(box)
    axis.set(xlim=(-1.15, 1.15), ylim=(len(rows) - 0.5, -0.5))
    for y, row in enumerate(rows):
        if "claim" in row:
            own = numbers[numbers["of_claim"] == row["claim"]]
            draw_claim(axis, y, row, own.sort_values("worst", kind="stable"))
        else:
            write(axis, y, NAME_MM, row["part"], weight="bold")
    axis.axvline(0, color=palette.EXACT, linewidth=0.8, zorder=0)
    axis.set(xticks=[], yticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)
    top = -0.5 - 2 / row_mm
    for x, words in ((-1, "fails"), (0, "bound"), (1, "holds")):
        axis.text(x, top, words, fontsize=SMALL, ha="center", va="center_baseline")
    write(axis, top, VERDICT_MM, "verdict, confidence")
    write(axis, top, NUMBER_MM, "least favourable number; its test")
    if left_out:
        words = f"{left_out} claims more in the table (csv)"
        write(axis, len(rows) - 0.5 + 1.8 / row_mm, NAME_MM, words)
    return figure


def in_rows(found: xr.Dataset) -> Iterator[dict]:
    """Claims below the headings of their parts; where these are too many, Validated ones go."""
    groups = wording.parts(found)
    order = [*palette.VERDICTS]
    every = sorted(
        (row for rows in groups.values() for row in rows),
        key=lambda row: order.index(row["verdict"]),
    )
    kept = {row["claim"] for row in every[: max(0, MAX_ROWS - min(len(groups), MAX_ROWS // 3))]}
    n_parts = 0
    for part, rows in groups.items():
        rows = [row for row in rows if row["claim"] in kept]
        if rows and n_parts < MAX_ROWS // 3:
            n_parts += 1
            yield {"part": part}
            yield from rows


def positions(found: xr.Dataset) -> pd.DataFrame:
    """The tested numbers with their places on one scale: 0 at the bound, above it where tests hold.

    1 is the estimate or end that is farthest from the bound. Of a range, the distance is that from
    the nearer of its bounds, inside or outside. worst: the less, the less favourable.
    """
    rows = found.drop_dims("claim").to_dataframe().reset_index()
    rows = rows[rows["test"] != ""].reset_index(drop=True)
    first, last = (rows[f"bound_{end}"].to_numpy(float) for end in ("low", "high"))
    three = rows[["value", "value_low", "value_high"]].to_numpy(float).T
    contains = rows["test"].str.startswith(CONTAINS).to_numpy(bool)
    # of an interval that should contain the bound: on the left if it does not
    side = np.where(rows["outcome"] == FAILS, -1, 1) * np.where(three[0] < first, -1, 1)
    inside = np.where(contains, (three - first) * side, np.fmin(three - first, last - three))
    inside = np.clip(inside, -MOST, MOST)
    scale = np.abs(np.nan_to_num(inside)).max(0)
    places = inside / np.where(scale > 0, scale, 1)
    low, high = np.minimum(*places[1:]), np.maximum(*places[1:])
    rank = rows["outcome"].map({name: 3.0 * i for i, name in enumerate(OUTCOMES)})
    margin = np.where(contains, np.fmin(-low, high), np.fmin(low, places[0]))
    return rows.assign(
        place=np.where(rows["outcome"].isin(OUTCOMES), places[0], np.nan),
        place_low=np.minimum(low, places[0]),  # a range is nearest inside of an interval
        place_high=np.maximum(high, places[0]),
        worst=rank + margin,
        contains=contains,
    )


def draw_claim(axis: Axes, y: float, row: dict, own: pd.DataFrame) -> None:
    """One row: the claim's name, its numbers, the verdict, and the least favourable number.

    own: its numbers, the least favourable first.
    """
    look = palette.VERDICTS[row["verdict"]]
    write(axis, y, NAME_MM, row["claim"])
    words = f"{row['verdict']}, {row['confidence']}".removesuffix(", ")
    write(axis, y, VERDICT_MM, words, shift=2.2, weight="bold" * (look is CONTRADICTED) or "normal")
    mark = palette.marks(look) | {"markersize": 3.5, "linestyle": "", "clip_on": False}
    axis.plot(x_of(VERDICT_MM[0] + 0.6), y, **mark)
    axis.axhline(y, color=palette.SHADE, linewidth=0.5, zorder=-1)
    known = own.dropna(subset="place")
    if not len(known):
        write(axis, y, NUMBER_MM, row["reason"])
        return
    axis.plot(known["place"][1:], [y] * len(known[1:]), "|", color=palette.GUIDE, markersize=3)
    worst = known.iloc[[0]].assign(y=y)
    (one,) = worst.to_dict("records")
    look = palette.VERDICTS[OUTCOMES[one["outcome"]]]
    options = palette.marks(look, not one["contains"]) | {"markersize": 3}
    estimates("place", "y", data=worst, axis=axis, across=True, zorder=4, **options)
    value = wording.estimate(one["value"], one["value_low"], one["value_high"])
    write(axis, y, NUMBER_MM, f"{value}; {one['test']}")


CONTRADICTED = palette.VERDICTS["Contradicted"]


def x_of(millimetres: float) -> float:
    """A place on the page in coordinates of the strip."""
    start, width = STRIP_MM
    return 2.3 * (millimetres - start) / width - 1.15


def write(
    axis: Axes, y: float, place: tuple[float, float], words: str, shift: float = 0, **look: Any
) -> None:
    """Words in one line of a column, cut where they are longer."""
    start, width = place
    (line,) = palette.wrapped(words, (width - shift) / 25.4 * 72, 1, SMALL)
    axis.text(
        x_of(start + shift),
        y,
        palette.plain_text(line),
        fontsize=SMALL,
        va="center_baseline",
        **look,
    )


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """A row for each number, with part, verdict and confidence of its claim."""
    found = fits["claims"]
    of_claims = found[["part", "verdict", "confidence"]].to_dataframe()
    numbers = found.drop_dims("claim").to_dataframe().rename(columns={"of_claim": "claim"})
    return numbers.join(of_claims, on="claim").reset_index(drop=True)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """How many claims have each verdict, and which are contradicted."""
    found = fits["claims"]
    names = found["claim"].values[found["verdict"].values == "Contradicted"]
    contradicted = f" Contradicted: {', '.join(names)}." * bool(len(names))
    return f"{wording.counts(found)}.{contradicted}"


def printed(fits: dict[str, xr.Dataset]) -> str:
    """All claims as a list in Markdown."""
    return wording.listed(fits["claims"])
