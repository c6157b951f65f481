"""How far the results of two labs differ: one point for each variable of each file."""

from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette

LOOKS = {  # colour, symbol and its size; what matters most is drawn last
    "identical": (palette.EXACT, "o", 3),
    "rounding": (palette.CATEGORIES[0], "o", 3),
    "agrees": (palette.CATEGORIES[3], "D", 3),
    "not judged": (palette.CATEGORIES[1], "s", 3),
    "contradicts": (palette.CATEGORIES[2], "X", 6),
    "missing": (palette.KEY, "x", 4),
}
MIN_DEVIATION, MAX_DEVIATION = 1e-18, 1e4  # of the axis; smaller and larger ones are at its ends
NO_NUMBER = 1e6  # position of rows without a deviation
NAMED = ("not judged", "contradicts")  # levels of which the variable that differs most is named


def agreement(rows: list, study: str) -> Figure:
    """A row for each file name, a point for each variable: further right, values differ more.

    rows: as in agreement.Comparison; study: the title.
    """
    palette.apply()
    kinds = list(dict.fromkeys(map(_kind, rows)))
    figure, axis = plt.subplots(
        figsize=(palette.PAGE, min(palette.MAX_HEIGHT, 1.2 + 0.22 * len(kinds)))
    )
    for level, (colour, marker, size) in LOOKS.items():
        chosen = [row for row in rows if row.level == level]
        x = [np.clip(row.deviation, MIN_DEVIATION, MAX_DEVIATION) for row in chosen]
        x = [NO_NUMBER if np.isnan(value) else value for value in x]
        y = [kinds.index(_kind(row)) for row in chosen]
        counts: dict[tuple[float, int], int] = {}
        for i, point in enumerate(zip(x, y)):  # equal points are fanned out
            y[i] += 0.3 * np.sin(2.4 * counts.setdefault(point, 0))
            counts[point] += 1
        look: dict[str, Any] = {"color": colour, "markersize": size, "alpha": 0.7}
        look |= {"markeredgewidth": 0.8 if marker == "x" else 0.5}
        axis.plot(x, y, marker, label=f"{level} ({len(chosen)})", **look)
    for kind in kinds:
        worst = max(
            (row for row in rows if _kind(row) == kind and row.level in NAMED),
            key=lambda row: (NAMED.index(row.level), np.nan_to_num(row.deviation, nan=-1)),
            default=None,
        )
        if worst:
            lines = wrap(worst.variable.replace("_", "_ "), 22)
            axis.annotate(
                "\n".join(line.replace("_ ", "_") for line in lines),
                (1.01, kinds.index(kind)),
                va="center",
                fontsize=6,
                xycoords=("axes fraction", "data"),
                annotation_clip=False,
            )
    figure.set_layout_engine("constrained", w_pad=0.1)  # inches: the names reach to the border
    axis.set(xscale="log", xlim=(MIN_DEVIATION / 10, NO_NUMBER * 10), ylim=(len(kinds) - 0.5, -0.5))
    axis.set_xticks(
        [MIN_DEVIATION, 1e-9, 1e-4, 1, MAX_DEVIATION, NO_NUMBER],
        ["0", "$10^{-9}$", "$10^{-4}$", "1", "more", "no\nnumber"],
    )
    axis.minorticks_off()
    for rounding in (1e-9, 1e-4):  # of float64 and float32
        axis.axvline(rounding, color=palette.GUIDE, linewidth=0.6, linestyle=":", zorder=0)
    axis.set_yticks(range(len(kinds)), kinds)
    axis.set_xlabel(
        "largest relative deviation of a variable; dotted: rounding in float64 and in float32\n"
        "right: the variable of a row that differs most, contradictions first"
    )
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, handletextpad=0.2)
    axis.set_title(palette.plain_text(study), loc="left", pad=18, weight="bold")  # above the legend
    return figure


def _kind(row: Any) -> str:
    """The name of a row's file, without experiment and suffix."""
    return row.file.split("/")[1].removesuffix(".nc")
