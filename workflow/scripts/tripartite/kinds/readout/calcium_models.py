"""Where do models of astrocytic calcium rest, where do they oscillate, and how steep are they?"""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from tripartite.figures import palette
from tripartite.figures.panels import grid, legend

STIMULI = {
    "IP3": "IP₃ (µM)",
    "source of IP3": "source of IP₃, $J/\\Omega_{5P}$ (µM)",
    "glutamate": "glutamate (µM)",
}
REGIMES: dict[str, tuple[str, dict[str, Any]]] = {  # grounds of panels
    "oscillates": ("no stable steady state", {"facecolor": palette.SHADE}),
    "bistable": (
        "bistable: state depends on the start",
        {"facecolor": "white", "edgecolor": palette.GUIDE, "hatch": "////"},
    ),
}
OSCILLATION: dict[str, Any] = {"color": palette.PARTS["astrocyte"], "linestyle": "--"}
CURVES: dict[str, tuple[str, dict[str, Any]]] = {  # quantities of the table: label, look
    "stable steady state": ("stable steady state", {"color": palette.EXACT}),
    "unstable steady state": (
        "unstable steady state",
        {"color": palette.EXACT, "linestyle": ":"},
    ),
    "least of oscillation": ("least and most of an oscillation", OSCILLATION),
    "most of oscillation": ("least and most of an oscillation", OSCILLATION),
}


def calcium_models(fits: dict[str, xr.Dataset]) -> Figure:
    """A column per model: calcium of steady states and oscillations, and exponents below."""
    palette.apply()
    drawn, models = table(fits), _models(fits)
    wide = len(models) > 1
    figure, axes = grid(
        2 * len(models),
        len(models),
        40,
        36,
        width=palette.PAGE if wide else palette.COLUMN,
        sharex="col",
        sharey="row",
    )
    for (model, fit), upper, lower in zip(models.items(), axes, axes[len(models) :]):
        own = drawn[drawn["model"] == model]
        for quantity, (label, look) in CURVES.items():
            curve = own[own["quantity"] == quantity]
            if curve["value"].notna().any():
                upper.plot(curve["stimulus"], curve["value"], label=label, **look)
        exponent = own[own["quantity"] == "exponent"]
        lower.plot(exponent["stimulus"], exponent["value"], color=palette.EXACT)
        lower.axhline(1, color=palette.GUIDE, linestyle="--", linewidth=0.8, zorder=1)
        for axis in (upper, lower):
            _shade(axis, fit)
        palette.title(upper, palette.CALCIUM_MODELS[model])
        lower.set_xlabel(STIMULI[str(fit["stimulus_name"].values)])
    axes[0].set_ylabel("calcium $C$ (µM)")
    if (drawn.loc[drawn["quantity"] != "exponent", "value"] > 0).any():
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter("{x:g}")
        palette.few_decades(axes[0])
    axes[len(models)].set_ylabel("exponent\nd ln $C$ / d ln stimulus")
    axes[len(models)].set_ylim(0, None)
    known = [fit for fit in models.values() if fit["stimulus"].notnull().all()]
    regimes = {str(name) for fit in known for name in fit["regime"].values}
    grounds = [
        Patch(label=words, linewidth=0, **look)
        for name, (words, look) in REGIMES.items()
        if name in regimes
    ]
    legend(figure, grounds, ncols=3 if wide else 1)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Curves of each model by the stimulus (µM): steady states, ends of oscillations, exponents.

    A curve is broken by rows without a value. Values are µM of calcium, exponents have no unit.
    """
    parts = []
    for model, fit in _models(fits).items():
        c, stable = fit["steady_calcium"], fit["steady_growth"] < 0
        beside = np.convolve(~stable, [1, 1, 1], "same") > 0  # joins curves
        curves = {
            "stable steady state": ("steady_stimulus", c.where(stable)),
            "unstable steady state": ("steady_stimulus", c.where(beside)),
            "least of oscillation": ("cycle_stimulus", fit["cycle_low"]),
            "most of oscillation": ("cycle_stimulus", fit["cycle_high"]),
            "exponent": ("stimulus", fit["exponent"]),
        }
        for quantity, (stimulus, values) in curves.items():
            named = {"model": model, "quantity": quantity}
            numbers = {"stimulus": fit[stimulus].values, "value": values.values}
            parts.append(pd.DataFrame(named | numbers))
    return pd.concat(parts, ignore_index=True)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Where each model oscillates, how fast, and its exponents where it comes to rest."""
    sentences = []
    for model, fit in _models(fits).items():
        name = palette.CALCIUM_MODELS[model]
        period, at = fit["period"].values, fit["cycle_stimulus"].values
        known = np.isfinite(fit["stimulus"]).all()
        words = "does not oscillate" if known else "is not known"
        if np.isfinite(period).any():
            words = (
                f"oscillates at {np.nanmin(at):.3g} to {np.nanmax(at):.3g} µM of "
                f"{str(fit['stimulus_name'].values).replace('IP3', 'IP₃')}, with periods of "
                f"{np.nanmin(period):.3g} to {np.nanmax(period):.3g} s"
            )
        steep = fit["exponent"].where(fit["regime"] == "rest").values
        if np.isfinite(steep).any():
            words += (
                f"; where it comes to rest from every start, its exponent is "
                f"{np.nanmin(steep):.3g} to {np.nanmax(steep):.3g}"
            )
        sentences.append(f"{name} {words}.")
    return " ".join(sentences)


def _models(fits: dict[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Models of all experiments, each with the first file that has it: they depend on no data."""
    return {
        name: next(fit.sel(model=name) for fit in fits.values() if name in fit["model"].values)
        for name in palette.CALCIUM_MODELS
        if any(name in fit["model"].values for fit in fits.values())
    }


def _shade(axis: Axes, fit: xr.Dataset) -> None:
    """Grounds where the model has no stable steady state, and where it is bistable."""
    stimulus, regime = fit["stimulus"].values, fit["regime"].values
    if not (np.isfinite(stimulus).all() and 0 < stimulus[0] < stimulus[-1]):
        axis.set(xscale="log", xlim=(0.01, 1))
        return
    axis.set(xscale="log", xlim=stimulus[[0, -1]])
    middles = np.sqrt(stimulus[1:] * stimulus[:-1])
    edges = np.concatenate([stimulus[:1], middles, stimulus[-1:]])
    for name, (_, look) in REGIMES.items():
        there = np.concatenate([[False], regime == name, [False]]).astype(int)
        for begin, end in np.flatnonzero(np.diff(there)).reshape(-1, 2):
            axis.axvspan(edges[begin], edges[end], linewidth=0, zorder=0, **look)
    axis.xaxis.set_major_locator(LogLocator())
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
