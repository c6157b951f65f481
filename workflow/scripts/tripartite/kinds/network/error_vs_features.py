"""Error against the number of hidden neurons, measured and by the closed form."""

from itertools import cycle

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import interval, line, mark, points
from tripartite.kinds.network.trace import simulated_heads

MAX_HEADS = 6  # simulated ones; experiments with more go to the panel of all heads
ERROR = (3e-4, 30)  # axis of relative errors
CLOSED = (-3.5, 12)  # axis of log10 closed-form errors


def error_vs_features(fits: dict[str, xr.Dataset]) -> Figure:
    """One panel per experiment with few simulated heads, and one of all heads of every source.

    Where no experiment has few heads, its easiest, middle and hardest ones are shown. Measured
    medians and rms with 95 % intervals over seeds stand beside the exact rms sqrt((R - 1) / m) and
    the median of normal errors of that variance. Where m < R^2 no sample holds the draws that carry
    the rms: the measured one falls below and has no interval.
    """
    palette.apply()
    few = [fit for fit in fits.values() if len(simulated_heads(fit)) <= MAX_HEADS]
    shown = {palette.full_name(fit) for fit in few}
    curves = few + [fit for fit in fits.values() if palette.full_name(fit) not in shown]
    n_columns = min(3, len(curves) + 1)
    n_rows = len(curves) // n_columns + 1
    figure = plt.figure(
        figsize=(max(palette.COLUMN, palette.PAGE * n_columns / 3), 0.5 + 2.3 * n_rows)
    )
    grid = figure.add_gridspec(n_rows, n_columns)
    for place, fit in enumerate(curves):
        draw_curves(figure.add_subplot(grid[divmod(place, n_columns)]), fit)
    rest = figure.add_subplot(grid[n_rows - 1, len(curves) % n_columns :])
    draw_cloud(rest, widest(fits))
    figure.legend(handles=legend(), loc="outside lower center", ncols=n_columns)
    return figure


def widest(fits: dict[str, xr.Dataset]) -> list[xr.Dataset]:
    """Of experiments on the same data the one with most heads, so that no head counts twice."""
    found: dict[str, xr.Dataset] = {}
    for fit in fits.values():
        source = palette.full_name(fit)
        if source not in found or len(simulated_heads(fit)) > len(simulated_heads(found[source])):
            found[source] = fit
    return list(found.values())


def draw_curves(axis, fit: xr.Dataset) -> None:
    """Median and rms error against m: each simulated head, or the easiest, middle and hardest."""
    m = fit["n_features"].values
    heads = simulated_heads(fit)
    if len(heads) > MAX_HEADS:
        heads = [heads[0], heads[len(heads) // 2], heads[-1]]
    for (layer, head), colour in zip(heads, palette.COLOURS):
        of_head = fit.sel(layer=layer, head=head)
        for name, style, fill, shift in (
            ("normalizer_error_rms", "-", "white", 1.04),
            ("normalizer_error", "--", colour, 1 / 1.04),
        ):
            closed_form = of_head[f"log10_{name}_closed_form"].clip(-9, 9)
            axis.plot(m, 10**closed_form, style, color=colour)
            triple = tuple(np.where(np.isfinite(x), x, np.nan) for x in interval(of_head, name))
            points(axis, m * shift, triple, colour, markerfacecolor=fill, markeredgewidth=0.8)
        needed = palette.power(float(of_head["log10_features_needed"]))
        above = float(of_head["log10_normalizer_error_closed_form"].min()) > np.log10(ERROR[1])
        axis.plot(
            [],
            [],
            color=colour,
            label=f"{palette.head_name(fit, layer, head)}: {needed}" + (" ↑" if above else ""),
        )
    axis.set(xscale="log", yscale="log", xlim=(m[0] / 1.5, m[-1] * 1.5), ylim=ERROR)
    if m[-1] < 10 * m[0]:  # matplotlib would label every 10^2.1 in between
        ends = np.unique(m[[0, -1]])
        axis.set_xticks(ends, [f"{x:,}" for x in ends])
        axis.xaxis.set_minor_formatter("")
    palette.title_of(axis, fit)
    axis.set_xlabel("hidden neurons $m$")
    axis.set_ylabel("relative error of the normaliser")
    corner = "upper right" if fit["normalizer_error"].max() < 0.3 else "lower left"
    axis.legend(
        loc=corner, handlelength=1, title="neurons for 10 % rms\n(median query)"
    ).set_in_layout(False)


def draw_cloud(axis, fits: list[xr.Dataset]) -> None:
    """Measured against closed-form median error of every simulated head, one colour per source."""
    axis.plot(CLOSED, CLOSED, color=palette.EXACT, linewidth=0.8)
    axis.annotate(
        "measured as if\nerrors were normal", (1.9, 1.1), ha="left", va="center", fontsize=6.5
    )
    beyond = 0
    styles = zip(cycle(palette.COLOURS), cycle(palette.MARKERS))
    for fit, (colour, marker) in zip(fits, styles):
        x, middle, low, high = at_largest(fit)
        inside = x <= CLOSED[1]
        beyond += (~inside).sum()
        log10_m = np.log10(fit["n_features"].values[-1])
        axis.vlines(x[inside], low[inside], high[inside], color=colour, linewidth=0.5)
        axis.plot(
            x[inside],
            middle[inside],
            marker,
            color=colour,
            markersize=2.5,
            markeredgewidth=0,
            label=f"{palette.plain_text(palette.full_name(fit))}, $m$ = {palette.power(log10_m)}",
        )
    axis.set(xlim=CLOSED, ylim=np.log10(ERROR))
    palette.title(axis, "All heads")
    if beyond:
        axis.annotate(
            f"{beyond} beyond →", (1, 0.76), xycoords="axes fraction", ha="right", fontsize=6.5
        )
    axis.set_xlabel("log$_{10}$ median error if errors were normal")
    axis.set_ylabel("log$_{10}$ median error, measured")
    axis.legend(loc="lower right", handletextpad=0.2).set_in_layout(False)


def at_largest(fit: xr.Dataset) -> list[np.ndarray]:
    """log10 of the median error at the largest m, one value per simulated head.

    By the closed form, and measured with its interval.
    """
    last = fit.isel(n_features=-1)
    run = last["normalizer_error"].notnull().values
    with np.errstate(divide="ignore"):  # a head without any error stands below the axis
        measured = np.log10(interval(last, "normalizer_error"))
    return [x[run] for x in (last["log10_normalizer_error_closed_form"].values, *measured)]


def legend() -> list[plt.Line2D]:
    """What line styles and markers mean."""
    grey = {"color": "0.35"}
    return [
        line("rms, exact", linestyle="-", **grey),
        mark("rms, measured", markerfacecolor="white", **grey),
        line("median, if errors were normal", linestyle="--", **grey),
        mark("median, measured (bars: 95 % over seeds)", **grey),
        mark("median line above the axis", r"$\uparrow$", markersize=6, **grey),
    ]
