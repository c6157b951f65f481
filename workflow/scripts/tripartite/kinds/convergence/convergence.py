"""How does continuous time approach the algebra, and its integrators their closed form?"""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette

MOST = 6  # heads drawn
ROUNDING = np.finfo(float).eps


def convergence(fits: dict[str, xr.Dataset]) -> Figure:
    """One row per experiment: error of output and calcium against tau / T, and of Runge-Kutta's method.

    Points are means over inputs and seeds with 95 % intervals over seeds as bands or bars; dashed lines
    are laws without free parameters.
    """
    palette.apply()
    figure = plt.figure(figsize=(palette.PAGE, 2.75 * len(fits)))
    rows = figure.subfigures(len(fits), 1, squeeze=False)[:, 0]
    for row, fit in zip(rows, fits.values()):
        axes = row.subplots(1, 3)
        largest = fit.isel(n_features=-1)
        shown = heads_shown(largest)
        for axis, name in zip(axes, ("output_error", "calcium_error")):
            draw(axis, largest, name, shown)
            axis.set_xlabel(r"time constant $\tau$ / time per token $T$")
        axes[0].set_ylabel(r"output error, $|O - O_0|\,/\,|O_0|$")
        axes[1].set_ylabel(r"calcium error, $|p / p_0 - 1|$")
        draw_integrator(axes[2], fit)
        palette.title_of(
            axes[0],
            fit,
            f"Output, $m$ = {int(largest['n_features'])}" + slopes(largest),
        )
        axes[1].set_title("Calcium: the last key is not\nwritten in full", loc="left")
        axes[2].set_title(order(fit), loc="left")
        handles, labels = axes[0].get_legend_handles_labels()
        handles += [plt.Line2D([], [], color=palette.EXACT, linestyle="--", linewidth=0.8)]
        labels += ["law, no free parameter (bands: 95 % over seeds)"]
        row.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def heads_shown(fit: xr.Dataset) -> list[tuple[int, int]]:
    """Places of layers and heads that were run, at most MOST."""
    run = fit["output_error"].notnull().any("point").values
    return [tuple(int(i) for i in pair) for pair in np.argwhere(run)[:MOST]]


def slopes(fit: xr.Dataset) -> str:
    """The range of the slopes of all heads, in words."""
    known = fit["slope"].values[np.isfinite(fit["slope"].values)]
    if not known.size:
        return ""
    low, high = f"{known.min():.3f}", f"{known.max():.3f}"
    heads = f"{known.size} heads" if known.size > 1 else "1 head"
    return f"\nslope {low}" + (f" to {high}" if high != low else "") + f" in {heads}"


def draw(axis, fit: xr.Dataset, name: str, shown: list[tuple[int, int]]) -> None:
    """A line per head with its interval, and its law."""
    fit = fit.sortby("ratio")
    ratio = fit["ratio"].values
    for (layer, head), colour, marker in zip(shown, palette.COLOURS, palette.MARKERS):
        one = fit.isel({"layer": layer, "head": head})
        middle, low, high = (positive(one[name + end]) for end in ("", "_low", "_high"))
        label = palette.head_name(fit, one["layer"], one["head"])
        if np.isfinite(one["slope"]):
            ends = (float(one[f"slope{end}"]) for end in ("", "_low", "_high"))
            label += ": slope {:.3f} ({:.3f} to {:.3f})".format(*ends)
        axis.plot(ratio, middle, marker, color=colour, markersize=3, label=label)
        axis.fill_between(ratio, low, high, color=colour, alpha=0.25, linewidth=0)
        axis.plot(ratio, positive(one[f"{name}_law"]), "--", color=colour, linewidth=0.8)
    axis.set(xscale="log", yscale="log")


def draw_integrator(axis, fit: xr.Dataset) -> None:
    """Points with intervals, the law, a line of slope 4 through the finest step, and rounding."""
    fit = fit.sortby("step")
    step = fit["step"].values.astype(float)
    middle, low, high = (positive(fit[f"integrator_error{end}"]) for end in ("", "_low", "_high"))
    bars = np.maximum([middle - low, high - middle], 0)  # rounding
    axis.errorbar(
        step, middle, bars, fmt="o", color=palette.COLOURS[0], markersize=3, elinewidth=0.8
    )
    axis.plot(step, positive(fit["integrator_error_law"]), "--", color=palette.EXACT, linewidth=0.8)
    axis.axhline(ROUNDING, color="0.6", linewidth=0.8)
    axis.annotate(
        "rounding",
        (0.02, ROUNDING),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        color="0.45",
    )
    stable = np.isfinite(middle)
    if stable.any():
        line = middle[stable][-1] * (step[stable][-1] / step) ** 4
        axis.plot(step, line, color="0.6", linewidth=0.8)
        axis.annotate(
            "slope −4",
            (step[-1], line[-1]),
            xytext=(4, -11),
            textcoords="offset points",
            ha="right",
            color="0.45",
        )
    axis.set(xscale="log", yscale="log", xlim=(step[0] / 1.3, step[-1] * 1.3))
    axis.set_xticks(step, [f"{n:.0f}" for n in step])
    axis.minorticks_off()
    axis.set_xlabel("steps per token")
    axis.set_ylabel("error of synapses $H$, Runge–Kutta")


def order(fit: xr.Dataset) -> str:
    """What was measured of the integrator, in words."""
    ends = [float(fit[f"integrator_order{end}"]) for end in ("", "_low", "_high")]
    words = rf"Integrator at $\tau / T$ = {float(fit['integrator_ratio']):g}"
    if not np.isfinite(ends[0]):
        return words
    law = float(fit["integrator_order_law"])
    return words + "\norder {:.2f} ({:.2f} to {:.2f}), law {:.2f}".format(*ends, law)


def positive(values: xr.DataArray) -> np.ndarray:
    """What a log axis can show."""
    return values.where(values > 0).values
