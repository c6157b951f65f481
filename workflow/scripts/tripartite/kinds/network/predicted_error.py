"""Errors of the attention output: measured against the theory without free parameters."""

from itertools import cycle
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import interval, line, mark

LIMITS = (-2.2, 2.2)  # log10 of relative errors
RATIOS = (1e-2, 30)  # of ln p / p'
PANELS = {
    "output_error_rms": "The astrocyte pools the neurons\nwhose synapses it scales",
    "output_error_other_pool_rms": "It pools other neurons\n(broken locality)",
}


def predicted_error(fits: dict[str, xr.Dataset]) -> Figure:
    """One point per size and head, filled where m > R^2 (of the rms): there the theory must hold.

    Left and middle: rms relative error of the output, predicted from the exact covariance and
    measured, with 95 % intervals over seeds (where m > R^2); dotted, the error of equal attention
    to all tokens, median over heads. Right: by how much the responses of two networks differ, which
    is what another pool costs; plain weights alone.
    """
    palette.apply()
    figure, axes = plt.subplots(1, 3, figsize=(palette.PAGE, 3.6))
    styles = list(zip(fits.values(), cycle(palette.COLOURS), cycle(palette.MARKERS)))
    for axis, (name, words) in zip(axes, PANELS.items()):
        beyond = 0
        axis.plot(LIMITS, LIMITS, color=palette.EXACT, linewidth=0.8, zorder=0)
        for fit, colour, marker in styles:
            predicted = fit[f"log10_{name}_closed_form"].values
            with np.errstate(divide="ignore", invalid="ignore"):
                middle, low, high = np.log10(interval(fit, name))
            run = np.isfinite(predicted) & np.isfinite(middle)
            beyond += int((predicted[run] > LIMITS[1]).sum())
            gaussian = run & sampled(fit)
            axis.vlines(
                predicted[gaussian], low[gaussian], high[gaussian], color=colour, linewidth=0.5
            )
            draw(axis, predicted, middle, run, gaussian, colour, marker)
            if 0 < (equal := float(fit["output_error_uniform_all"])) < np.inf:
                axis.axhline(np.log10(equal), color=colour, linewidth=0.6, linestyle=":", zorder=0)
        axis.set(xlim=LIMITS, ylim=LIMITS, xlabel="log$_{10}$ error, predicted", aspect="equal")
        axis.set_title(words, loc="left")
        say_beyond(axis, beyond)
    axes[0].set_ylabel("log$_{10}$ rms error of the output, measured")
    draw_pools(axes[2], styles)
    handles = [
        mark(label, marker, color=colour, markersize=3.5)
        for label, (_, colour, marker) in zip(palette.labels(fits), styles)
    ]
    look: dict[str, Any] = {"color": "0.35", "markersize": 3.5}
    handles += [
        mark("$m > R^2$", **look),
        mark("$m < R^2$", markerfacecolor="none", markeredgewidth=0.5, **look),
        line("equal attention to all tokens (median head)", color="0.35", linestyle=":"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def sampled(fit: xr.Dataset) -> np.ndarray:
    """Where m > R^2, R that of the rms over queries: there the measured rms has an interval."""
    return fit["output_error_rms_low"].notnull().values


def draw_pools(axis, styles: list) -> None:
    """|ln p / p'| of two networks against its law, which is for plain hidden weights."""
    axis.plot(RATIOS, RATIOS, color=palette.EXACT, linewidth=0.8, zorder=0)
    for fit, colour, marker in styles:
        if fit.attrs.get("feature_map", "performer") != "performer":
            continue
        law, gaussian = fit["pool_log_ratio_law"].values, fit["phase_of"].values == "gaussian"
        middle, low, high = interval(fit, "pool_log_ratio")
        run = (law > 0) & np.isfinite(middle)
        axis.vlines(law[run], low[run], high[run], color=colour, linewidth=0.3)
        draw(axis, law, middle, run, gaussian & run, colour, marker)
    axis.set(xscale="log", yscale="log", xlim=RATIOS, ylim=RATIOS, aspect="equal")
    axis.set(xlabel="|ln $p/p'$|, predicted", ylabel="|ln $p/p'$|, measured (median)")
    axis.set_title("Responses $p$, $p'$ of two pools\n(filled: normal; hollow: frozen)", loc="left")


def say_beyond(axis, beyond: int) -> None:
    """How many points stand to the right of the panel."""
    if beyond:
        axis.annotate(
            f"{beyond} beyond →", (0.98, 0.04), xycoords="axes fraction", ha="right", fontsize=6.5
        )


def draw(axis, x, y, run, filled, colour, marker) -> None:
    """Points, filled and hollow ones."""
    for chosen, face in ((run & ~filled, "none"), (filled, colour)):
        axis.plot(
            x[chosen],
            y[chosen],
            marker,
            color=colour,
            markerfacecolor=face,
            markersize=2.5,
            markeredgewidth=0.3,
        )
