"""How does continuous time approach the algebra, and its integrators their closed form?"""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import heads_run, interval, line, points

MAX_HEADS = 6  # of an experiment
ROUNDING = np.finfo(float).eps


def convergence(fits: dict[str, xr.Dataset]) -> Figure:
    """One row per experiment: error of output and calcium against tau / T, and of Runge-Kutta.

    Points are means over inputs and seeds with 95 % intervals over seeds as bands or bars, open
    ones what reading adds to the error of the output; lines are laws without free parameters.
    """
    palette.apply()
    figure = plt.figure(figsize=(palette.PAGE, 2.75 * len(fits)))
    rows = figure.subfigures(len(fits), 1, squeeze=False)[:, 0]
    for row, fit in zip(rows, fits.values()):
        axes = row.subplots(1, 3)
        largest = fit.isel(n_features=-1)
        for axis, name in zip(axes, ("output_error", "calcium_error")):
            draw(axis, largest, name)
            axis.set(xscale="log", yscale="log")
            axis.set_xlabel(r"time constants $\tau$ / time per token $T$")
        draw(axes[0], largest, "reading_error", ":", markerfacecolor="none")
        errors = positive(largest["output_error"].values)
        if np.isfinite(errors).any():
            axes[0].set_ylim(np.nanmin(errors) / 3, np.nanmax(errors) * 3)
        axes[0].set_ylabel(r"output error, $|O - O_0|\,/\,|O_0|$")
        axes[1].set_ylabel(r"calcium error, $|p / p_0 - 1|$")
        draw_integrator(axes[2], fit)
        words = f"Output, $m$ = {int(largest['n_features'])}{slopes(largest)}"
        palette.title_of(axes[0], fit, words)
        axes[1].set_title("Calcium: last key not yet written,\nprocess not yet settled", loc="left")
        axes[2].set_title(order(fit), loc="left")
        handles, labels = axes[0].get_legend_handles_labels()
        handles = handles[: len(set(labels))]
        look = {"color": palette.EXACT, "linewidth": 0.8}
        law = "law of first order, of writing (bands: 95 % over seeds)"
        handles.append(line(law, linestyle="--", **look))
        handles.append(
            line(
                "part of reading, and its law",
                linestyle=":",
                marker="o",
                markersize=3,
                markerfacecolor="none",
                **look,
            )
        )
        row.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def slopes(fit: xr.Dataset) -> str:
    """The range of the slopes of all heads, in words."""
    known = fit["slope"].values[np.isfinite(fit["slope"].values)]
    if not known.size:
        return ""
    low, high = f"{known.min():.3f}", f"{known.max():.3f}"
    return f"\nslope {low}" + (f" to {high}" if high != low else "") + " (1 by linearity)"


def draw(axis, fit: xr.Dataset, name: str, style: str = "--", **look: str) -> None:
    """Points per head with its interval, and its law in that style."""
    ratio, shown = fit["ratio"].values, heads_run(fit["output_error"])[:MAX_HEADS]
    for pair, colour, marker in zip(shown, palette.COLOURS, palette.MARKERS):
        head = fit.sel(pair)
        middle, low, high = map(positive, interval(head, name))
        label = palette.head_name(fit, **pair)
        axis.plot(ratio, middle, marker, color=colour, markersize=3, label=label, **look)
        axis.fill_between(ratio, low, high, color=colour, alpha=0.25, linewidth=0)
        law = positive(head[f"{name}_law"].values)
        axis.plot(ratio, law, style, color=colour, linewidth=0.8)


def draw_integrator(axis, fit: xr.Dataset) -> None:
    """Points with intervals, the law, a line of slope 4 through the finest step, and rounding."""
    step = fit["step"].values.astype(float)
    middle, low, high = map(positive, interval(fit, "integrator_error"))
    points(axis, step, (middle, low, high), palette.COLOURS[0])
    law = positive(fit["integrator_error_law"].values)
    axis.plot(step, law, "--", color=palette.EXACT, linewidth=0.8)
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
        fourth_order = middle[stable][-1] * (step[stable][-1] / step) ** 4
        axis.plot(step, fourth_order, color="0.6", linewidth=0.8)
        axis.annotate(
            "slope −4",
            (step[-1], fourth_order[-1]),
            xytext=(4, -11),
            textcoords="offset points",
            ha="right",
            color="0.45",
        )
    axis.set(xscale="log", yscale="log", xlim=(step[0] / 1.3, step[-1] * 1.3))
    axis.set_xticks(step, [f"{n:.0f}" for n in step])
    axis.minorticks_off()
    axis.set_xlabel("steps per token")
    axis.set_ylabel("error of $H$, Runge–Kutta")


def order(fit: xr.Dataset) -> str:
    """What was measured of the integrator, in words."""
    words = rf"Integrator at $\tau / T$ = {float(fit['integrator_ratio']):g}"
    if not np.isfinite(fit["integrator_order"]):
        return words
    numbers = *interval(fit, "integrator_order"), fit["integrator_order_law"].values
    return words + "\norder {:.2f} ({:.2f} to {:.2f}), law {:.2f}".format(*numbers)


def positive(values: np.ndarray) -> np.ndarray:
    """What a log axis can show."""
    return np.where(values > 0, values, np.nan)
