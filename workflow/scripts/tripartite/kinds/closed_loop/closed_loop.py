"""Does the calcium that a network drives divide its output better than a constant does?"""

from typing import Any

import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import captions, palette
from tripartite.figures.panels import (
    HeadMarks,
    beyond,
    estimates,
    frame,
    grid,
    heads_run,
    legend,
    marked_heads,
    rows_of,
)

MAX_HEADS = 4
HIGHEST = 2.0  # ratio that is drawn
ORDERS = {"bidirectional": "all written, then all read", "causal": "each written, then read"}
# What divides the output, colour and line, and by which factor marks stand beside their time.
MARKED = {
    "calcium_fitted": ("best power of calcium", palette.CATEGORIES[2], "-", 1.0),
    "calcium": ("calcium, scaled", palette.CATEGORIES[1], "--", 1.06),
    "process": ("astrocyte process $p$, not scaled", palette.CATEGORIES[0], ":", 0.94),
}
LINES = {
    "algebra": ("network's normaliser, not scaled", "-"),
    "algebra_scaled": ("network's normaliser, scaled", "--"),
}


def closed_loop(fits: dict[str, xr.Dataset]) -> Figure:
    """Output errors over that of the best constant against the time per token.

    A row for each head, a column for each order. The process is gated: it is driven by reading.
    """
    palette.apply()
    gated, heads = table(fits).query("drive == 'gated'"), _heads(fits)
    panels = [(head, order) for head in heads for order in ORDERS]
    figure, axes = grid(max(len(panels), 1), len(ORDERS), 48, 26, sharex=True, sharey=True)
    for axis, (head, order) in zip(axes, panels):
        draw(axis, head.rows(gated).query("order == @order"), head.look)
        fit = fits[head.experiment]
        words = f"{palette.head_name(fit, head.layer, head.head)}\n{ORDERS[order]}"
        palette.title_of(axis, fit.drop_vars("order"), words)
    seconds = sorted({float(x) for fit in fits.values() for x in fit["duration"].values})
    axes[0].set(xscale="log", xlim=(seconds[0] / 1.5, seconds[-1] * 1.5), ylim=(0, HIGHEST))
    axes[0].set_xticks(seconds, [f"{x:g}" for x in seconds])
    axes[0].minorticks_off()
    for axis in axes[:: len(ORDERS)]:
        axis.set_ylabel("output error / that of\nthe best constant")
    for axis in axes[-len(ORDERS) :]:
        axis.set_xlabel("time per token, written and read (s)")
    n_heads = sum(len(heads_run(fit["share_at_rest"])) for fit in fits.values())
    title = f"{len(heads)} of {n_heads} heads shown" if len(heads) < n_heads else None
    legend(figure, ncols=3, title=title)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Errors over that of the best constant, of each head that is drawn, with both drives."""
    return rows_of(_heads(fits), _all(fits))


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Errors of the division by the best power of calcium over that of the best constant."""
    drawn = _all(fits).query("drive == 'gated'").dropna(subset="error_over_constant")
    own = drawn.query("division == 'calcium_fitted'").sort_values("error_over_constant")
    if own.empty:
        return "No head has a relative error."
    ranges = [f"{_range(part)} at {seconds:g} s" for seconds, part in own.groupby("duration")]
    low, high = own["error_over_constant_low"], own["error_over_constant_high"]
    own_z = drawn.groupby("division")["error_over_constant"].agg(["min", "max"])
    scaled, unscaled = (
        f"× {' to '.join(map(palette.decimal, own_z.loc[name]))}" if name in own_z.index else "–"
        for name in ("algebra_scaled", "algebra")
    )
    return (
        "With division by the best power of the calcium that the network drives, output errors are "
        f"× {', × '.join(ranges)} per token (range over heads and orders), over those with the "
        f"best constant; the whole interval is below 1 in {int((high < 1).sum())} of {len(own)} "
        f"cases and above 1 in {int((low > 1).sum())}. With the network's normaliser they are "
        f"{unscaled}, and {scaled} if it is scaled by a factor fitted alike."
    )


def draw(axis: Axes, drawn: pd.DataFrame, look: dict[str, Any]) -> None:
    """Errors by what divides; marks beyond the axis are counted."""
    axis.axhline(1, color=palette.GUIDE, linewidth=1.5, label="best constant", zorder=1)
    for name, (label, style) in LINES.items():
        own = drawn[drawn["division"] == name]
        axis.plot(
            own["duration"],
            own["error_over_constant"],
            color=palette.EXACT,
            linestyle=style,
            label=label,
        )
    for name, (label, colour, style, shift) in MARKED.items():
        own = drawn[drawn["division"] == name]
        hollow = look["markerfacecolor"] == "white"
        colours = {"color": colour, "markeredgecolor": colour}
        colours["markerfacecolor"] = "white" if hollow else colour
        own = own.assign(duration=own["duration"] * shift)
        estimates(
            "duration",
            "error_over_constant",
            data=own,
            axis=axis,
            label=label,
            **(look | colours | {"linestyle": style}),
        )
    marked = drawn[drawn["division"].isin(MARKED)]["error_over_constant"]
    beyond(axis, int((marked > HIGHEST).sum()), int(marked.notna().sum()))


def _heads(fits: dict[str, xr.Dataset]) -> list[HeadMarks]:
    """Heads that are drawn, by the output error of the network with its own normaliser."""
    errors = {
        name: fit["output_error"].sel(division="algebra").mean(("order", "drive", "duration"))
        for name, fit in fits.items()
    }
    return marked_heads(fits, errors, MAX_HEADS)


def _all(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Errors of all heads that were run."""
    return frame(fits, "error_over_constant", "output_error", division=[*MARKED, *LINES])


def _range(rows: pd.DataFrame) -> str:
    """The least and the greatest of sorted rows, with intervals."""
    ends = [
        captions.interval(*(row[f"error_over_constant{end}"] for end in ("", "_low", "_high")))
        for _, row in rows.iloc[[0, -1][: len(rows)]].iterrows()
    ]
    return " to ".join(ends)
