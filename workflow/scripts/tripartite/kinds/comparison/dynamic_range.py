"""How many decades of firing rate does a head need, and how many do neurons have?"""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, NullFormatter

from tripartite.figures import captions, palette
from tripartite.figures.panels import (
    beyond,
    estimates,
    frame,
    grid,
    head_words,
    heads_by,
    legend,
    line,
    mark,
)

MAX_HEADS = 2  # of an experiment, from easy to hard
MIN_FLOOR = 1e-3  # floors below are not drawn
ERRORS, MAX_DECADES = (1e-3, 30.0), 16.0  # widest axes
DECADES = 3.0  # of which the answer tells what is left of a head
# Decades from the lowest to the highest rate of cortical neurons: .15 to 16 Hz (Attwell &
# Laughlin, J Cereb Blood Flow Metab 2001), and below .01 to above 50 Hz (Hromadka et al., PLoS Biol
# 2008).
CORTEX = (np.log10(16 / 0.15), np.log10(50 / 0.01))


def dynamic_range(fits: dict[str, xr.Dataset]) -> Figure:
    """Error of the output against decades of firing rate, a panel per experiment."""
    palette.apply()
    drawn = table(fits)
    shown = dict([*fits.items()][: palette.MAX_PANELS])
    n_columns = min(3 if len(shown) != 4 else 2, len(shown))
    figure, axes = grid(
        len(shown),
        n_columns,
        66 if len(shown) <= 3 else 52,
        width=palette.PAGE if n_columns > 1 else palette.COLUMN,
        sharex=True,
        sharey=True,
    )
    decades = drawn.loc[drawn["decades"] < MAX_DECADES, "decades"]
    axes[0].set_xlim(0, max([5, *np.ceil(decades)]) + 0.5)
    names = [fit.attrs["data"] for fit in fits.values()]
    for place, (axis, (experiment, fit)) in enumerate(zip(axes, shown.items())):
        axis.set(yscale="log")
        axis.axvspan(*CORTEX, color=palette.SHADE, linewidth=0, zorder=0)
        of_experiment = drawn[drawn["experiment"] == experiment]
        look = palette.look_of(fit.attrs["data"], names)
        words = [f"$m$ = {fit['n_features'].values[-1]}"]
        for rank, head in enumerate(heads(fit)):
            at = fit["layer"].values[head[0]], fit["head"].values[head[1]]
            own = of_experiment[
                (of_experiment["layer"] == at[0]) & (of_experiment["head"] == at[1])
            ]
            draw(axis, own, palette.marks(look, rank == 0), above=rank > 0)
            words.append(f"{'hollow' if rank else 'filled'}: {head_words(fit, head)}")
        if not len(of_experiment):
            words.append("no ceilings compared")
        palette.title_of(axis, fit, "\n".join(words))
        if place + n_columns >= len(shown):
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("firing rate, highest over median (decades)")
        axis.xaxis.set_major_locator(MultipleLocator(2))
        n_beyond = int((~inside(of_experiment)).sum())
        beyond(axis, n_beyond, len(of_experiment), "lower left", "points")
    for axis in axes[::n_columns]:
        axis.set_ylabel("relative error of the output")
    known = drawn[["error", "error_of_equal_attention"]].to_numpy()
    known = known[(known > ERRORS[0]) & (known < ERRORS[1])]
    low, high = (known.min(), known.max()) if known.size else (0.1, 1)
    axes[0].set_ylim(min(low / 1.6, high / 10), high * 1.9)
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].annotate(
        "cortex,\nlowest to\nhighest",
        (np.mean(CORTEX), 0.98),
        xycoords=axes[0].get_xaxis_transform(),
        ha="center",
        va="top",
        fontsize=6.5,
        color=palette.KEY,
    )
    beyond(axes[0], len(fits) - len(shown), len(fits), "upper left", "experiments")
    extra = {
        "error": line("measured, a point for each ceiling", marker="o", color=palette.KEY),
        "best_ceiling": mark(
            "best ceiling", markersize=7, markerfacecolor="none", color=palette.KEY
        ),
        "error_of_many_neurons": line("the same with $m = \\infty$", color=palette.EXACT),
        "error_of_equal_attention": line("equal attention", linestyle=":", color=palette.GUIDE),
    }
    least = {"error_of_many_neurons": MIN_FLOOR}
    visible = drawn[inside(drawn)]
    known = [name for name in extra if (visible[name] > least.get(name, 0)).any()]
    if known:
        legend(figure, [extra[name] for name in known], ncols=4 if n_columns > 1 else 2)
    return figure


def heads(fit: xr.Dataset) -> list[tuple[int, int]]:
    """Heads that are drawn, from easy to hard by their least error with any variant."""
    return heads_by(fit["mean_square"].isel(n_features=-1).min("variant").values, MAX_HEADS)


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Errors at the largest m by ceiling (inf: none), decades of rates, and the best ceiling.

    A row per experiment, head and ceiling, of heads that are drawn and experiments with ceilings.
    """
    parts = {}
    for experiment, fit in fits.items():
        fit = fit.isel(n_features=-1)
        saturating = np.isin(fit["feature_map"].values, ("truncated_performer", "performer"))
        fit = fit.isel(variant=np.flatnonzero(saturating)).sortby("threshold")
        shown = np.zeros((fit.sizes["layer"], fit.sizes["head"]), dtype=bool)
        for head in heads(fits[experiment]):
            shown[head] = np.isfinite(fit["threshold"].values).any()
        part = xr.Dataset(attrs=fit.attrs)
        for end in ("", "_low", "_high"):
            part[f"error{end}"] = np.sqrt(fit[f"mean_square{end}"].clip(0))
            for name, of_head in (
                ("best_ceiling", "best_threshold"),
                ("best_decades", "best_threshold_decades"),
            ):
                part[f"{name}{end}"] = fit[f"{of_head}{end}"].broadcast_like(fit["mean_square"])
        part["decades"] = fit["log10_rate_range"]
        part["error_of_many_neurons"] = fit["output_floor"]
        part["error_of_equal_attention"] = fit["uniform_error"].broadcast_like(fit["mean_square"])
        parts[experiment] = part.where(xr.DataArray(shown, dims=("layer", "head")))
    names = ["error", "decades", "error_of_many_neurons", "error_of_equal_attention"]
    found = frame(parts, *names, "best_ceiling", "best_decades")
    found = found.drop(columns=["recipe", "network", "feature_map"])
    return found.rename(columns={"threshold": "ceiling"}).sort_values(
        ["experiment", "layer", "head", "ceiling"], kind="stable"
    )


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Decades of the best ceiling of each head, beside those of the cortex."""
    found, names = table(fits), dict(zip(fits, palette.row_names(fits)))
    words = []
    for experiment, fit in fits.items():
        for layer, head in heads(fit):
            at = fit["layer"].values[layer], fit["head"].values[head]
            own = found[
                (found["experiment"] == experiment)
                & (found["layer"] == at[0])
                & (found["head"] == at[1])
            ]
            if own.empty or not np.isfinite(own["best_decades"].iloc[0]):
                continue
            best, low, high = (
                float(own[f"best_decades{end}"].iloc[0]) for end in ("", "_low", "_high")
            )
            where = f"{names[experiment]}, {head_words(fit, (layer, head))}"
            words.append(f"{captions.interval(best, low, high, '{:.2g}'.format)} ({where})")
    cortex = (
        f"cortical neurons have {CORTEX[0]:.1f} to {CORTEX[1]:.1f} from the lowest to the highest "
        "rate"
    )
    if not words:
        return f"No head has a best ceiling; {cortex}."
    within = [
        float(fit["in_range_over_uniform"].sel(decades=DECADES).isel(n_features=-1).values[head])
        for fit in fits.values()
        for head in heads(fit)
    ]
    within = [value for value in within if np.isfinite(value)]
    text = (
        "At the ceiling of least error, these decades lie between the median and the highest "
        f"firing rate: {', '.join(words)}; {cortex}, about half of them above the median."
    )
    if within:
        ends = " to ".join(map(palette.decimal, (min(within), max(within))))
        text += (
            f" With {DECADES:g} decades at most, the mean square error is {ends} times that of "
            f"equal attention ({len(within)} heads)."
        )
    return text


def inside(drawn: pd.DataFrame) -> pd.Series:
    """Whether points are on the widest axes."""
    return drawn["error"].between(*ERRORS) & (drawn["decades"] < MAX_DECADES)


def draw(axis: Axes, own: pd.DataFrame, look: dict, above: bool) -> None:
    """Errors of a head by ceiling, their limit, equal attention, and the best ceiling in a ring."""
    if own.empty:
        return
    # a tenth of the error at least, so that an interval that holds 0 does not rule the axis
    own = own.assign(error_low=np.fmax(own["error_low"], own["error"] / 10))
    estimates(
        "decades",
        "error",
        data=own,
        axis=axis,
        linestyle="-",
        zorder=3,
        **look | {"linewidth": 0.8},
    )
    floor = own[(own["error_of_many_neurons"] > MIN_FLOOR) & np.isfinite(own["ceiling"])]
    axis.plot(
        floor["decades"],
        floor["error_of_many_neurons"],
        color=palette.EXACT,
        linewidth=0.8,
        zorder=4,
    )
    equal = own["error_of_equal_attention"].iloc[0]
    if ERRORS[0] < equal < ERRORS[1]:
        axis.axhline(equal, color=palette.GUIDE, linestyle=":", linewidth=1, zorder=1)
        axis.plot(1, equal, transform=axis.get_yaxis_transform(), clip_on=False, zorder=5, **look)
    best = own[inside(own) & (own["ceiling"] == own["best_ceiling"])]
    if best.empty or not best["best_decades"].iloc[0] < MAX_DECADES:
        return
    decades, low, high = (
        float(best[f"best_decades{end}"].iloc[0]) for end in ("", "_low", "_high")
    )
    error = float(best["error"].iloc[0])
    axis.plot([low, high], [error, error], color=look["color"], linewidth=1.6, zorder=2)
    axis.plot(
        decades,
        error,
        "o",
        color=look["color"],
        markersize=7,
        markerfacecolor="none",
        markeredgewidth=0.8,
        zorder=5,
    )
    words, last = f"{decades:.1f} decades", float(own.loc[inside(own), "decades"].max())
    label: dict[str, Any] = {"textcoords": "offset points", "color": look["color"], "zorder": 6}
    if last < 0.64 * axis.get_xlim()[1]:  # beside the line, where it hides nothing
        axis.annotate(words, (max(last, high), error), xytext=(5, 0), va="center", **label)
    else:
        side: dict[str, Any] = {
            "xytext": (0, 13.5 if above else -10),
            "va": "bottom" if above else "top",
        }
        axis.annotate(words, (decades, error), ha="center", **side, **label)
