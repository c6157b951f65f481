"""Error against the number of hidden neurons, measured and by the closed form."""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tripartite.figures import palette
from tripartite.figures.trace import simulated_heads

FEW = 6  # experiments with more simulated heads go to the panel of all heads
ERROR = (8e-4, 30)  # axis of relative errors
CLOSED = (-3.5, 12)  # axis of log10 closed-form errors


def error_vs_features(fits: dict[str, xr.Dataset]) -> Figure:
    """One panel per experiment with few simulated heads, and one of all heads of all experiments.

    Measured medians and rms with 95 % intervals over seeds stand on the lines of the closed form
    where it holds: the exact rms sqrt((R - 1) / m), and the median of normal errors of that variance.
    """
    palette.apply()
    curves = [fit for fit in fits.values() if len(simulated_heads(fit)) <= FEW]
    n_columns = min(3, len(curves) + 1)
    n_rows = len(curves) // n_columns + 1
    figure = plt.figure(
        figsize=(max(palette.COLUMN, palette.PAGE * n_columns / 3), 0.5 + 2.3 * n_rows)
    )
    grid = figure.add_gridspec(n_rows, n_columns)
    for place, fit in enumerate(curves):
        draw_curves(figure.add_subplot(grid[divmod(place, n_columns)]), fit)
    rest = figure.add_subplot(grid[n_rows - 1, len(curves) % n_columns :])
    draw_cloud(rest, list(fits.values()))
    figure.legend(handles=legend(), loc="outside lower center", ncols=5 if n_columns > 1 else 2)
    return figure


def draw_curves(axis, fit: xr.Dataset) -> None:
    """Median and rms error of each simulated head against m."""
    m = fit["n_features"].values
    for (layer, head), colour in zip(simulated_heads(fit), palette.HEADS):
        one = fit.sel(layer=layer, head=head)
        for name, style, fill, shift in (
            ("normalizer_error_rms", "-", "white", 1.04),
            ("normalizer_error", "--", colour, 1 / 1.04),
        ):
            axis.plot(m, 10 ** one[f"log10_{name}_closed_form"].clip(-9, 9), style, color=colour)
            middle, low, high = (one[name + end].values for end in ("", "_low", "_high"))
            axis.errorbar(
                m * shift, middle, (middle - low, high - middle), fmt="o", markersize=3,
                color=colour, markerfacecolor=fill, markeredgewidth=0.8, elinewidth=0.8,
            )  # fmt: skip
        needed = palette.power(one["log10_features_needed"])
        above = float(one["log10_normalizer_error_closed_form"].min()) > np.log10(ERROR[1])
        axis.plot(
            [],
            [],
            color=colour,
            label=f"layer {layer} head {head}: {needed}" + (" ↑" if above else ""),
        )
    axis.set(xscale="log", yscale="log", ylim=ERROR)
    palette.title(axis, fit.attrs["source"])
    axis.set_xlabel("hidden neurons $m$")
    axis.set_ylabel("relative error of the normaliser")
    corner = "upper right" if fit["normalizer_error"].max() < 0.3 else "lower left"
    axis.legend(loc=corner, handlelength=1, title="head: neurons needed").set_in_layout(False)


def draw_cloud(axis, fits: list[xr.Dataset]) -> None:
    """Measured against closed-form median error of every simulated head, one colour per source."""
    axis.plot(CLOSED, CLOSED, color=palette.EXACT, linewidth=0.8)
    axis.annotate("measured =\nclosed form", (1.9, 1.1), ha="left", va="center", fontsize=6.5)
    sources = list(dict.fromkeys(fit.attrs["source"] for fit in fits))
    beyond = 0
    for source, colour, marker in zip(sources, palette.HEADS, palette.MARKERS):
        x, low, middle, high = (
            np.concatenate([at_largest(fit, name) for fit in fits if fit.attrs["source"] == source])
            for name in ("closed_form", "low", "", "high")
        )
        inside = x <= CLOSED[1]
        beyond += (~inside).sum()
        axis.vlines(x[inside], low[inside], high[inside], color=colour, linewidth=0.5)
        axis.plot(
            x[inside], middle[inside], marker, color=colour, markersize=2.5, markeredgewidth=0,
            label=source,
        )  # fmt: skip
    axis.set(xlim=CLOSED, ylim=np.log10(ERROR))
    palette.title(axis, "All heads, largest $m$")
    if beyond:
        axis.annotate(
            f"{beyond} more →", (1, 0.7), xycoords="axes fraction", ha="right", fontsize=6.5
        )
    axis.set_xlabel("log$_{10}$ median error, closed form")
    axis.set_ylabel("log$_{10}$ median error, measured")
    axis.legend(loc="lower right", handletextpad=0.2).set_in_layout(False)


def at_largest(fit: xr.Dataset, name: str) -> np.ndarray:
    """log10 of the median error at the largest m, one value per simulated head."""
    last = fit.isel(n_features=-1)
    if name == "closed_form":
        values = last["log10_normalizer_error_closed_form"].values
    else:
        with np.errstate(divide="ignore"):  # a head without any error stands below the axis
            values = np.log10(last[f"normalizer_error_{name}".rstrip("_")].values)
    return values[last["normalizer_error"].notnull().values]


def legend() -> list[Line2D]:
    """What line styles and markers mean."""
    grey = {"color": "0.35"}
    return [
        Line2D([], [], linestyle="-", label="rms, closed form", **grey),
        Line2D([], [], marker="o", linestyle="", markerfacecolor="white", markersize=3,
               label="rms, measured", **grey),
        Line2D([], [], linestyle="--", label="median, closed form", **grey),
        Line2D([], [], marker="o", linestyle="", markersize=3,
               label="median, measured (95 % interval over seeds)", **grey),
        Line2D([], [], linestyle="", marker=r"$\uparrow$", label="lines lie above", **grey),
    ]  # fmt: skip
