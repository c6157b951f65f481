"""The published protocol: one head that reads one input, response beside normaliser, arm by arm."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from tripartite.figures import captions, palette
from tripartite.figures.palette import MM
from tripartite.figures.panels import estimates, frame
from tripartite.figures.strips import first, say_shown
from tripartite.kinds.network.trace import (
    Head,
    cells_for,
    draw_responses,
    ends,
    explain,
    head_label,
    height_mm,
    of_head,
    responses,
    simulated_heads,
    with_numbers,
    words_of_data,
)

MAX_ARMS = palette.MAX_PANELS - 2
MAX_LETTERS = 36  # of the name of a row
BESIDE = ("normalizer_error_constant", "sigma_squared", "phase_of")
MEASURES = {  # their names on axes
    "normalizer_error": "median relative error of $p$",
    "correlation": "correlation $r$ of $\\ln p$ and $\\ln Z$",
}


def protocol(fits: dict[str, xr.Dataset]) -> Figure:
    """A cell per experiment as in trace; below, errors and correlations of all of them.

    Each experiment shows its easiest simulated head, reading the first input that was read. Errors
    and correlations of the smallest and the largest network have 95 % intervals over networks; the
    error of the best constant stands beside them.
    """
    palette.apply()
    shown = first(fits, MAX_ARMS)
    heads = [head_of(name, fit) for name, fit in shown.items()]
    changed = any(words_of_data(fit)[1] for fit in shown.values())
    traces, numbers = responses(shown, heads), measures(shown, heads)
    heights = height_mm(len(heads)), 16 + 5 * len(heads)
    figure = plt.figure(figsize=(palette.PAGE, min(sum(heights) * MM, palette.MAX_HEIGHT)))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    for head, cell in zip(heads, cells_for(above, len(heads))):
        fit = shown[head.experiment]
        draw_responses(*cell, of_head(traces, head))
        model, rest = words_of_data(fit)
        rest = rest or palette.recipe_of(fit) * changed  # titles of equal height
        palette.title(cell[0], model, place_words(fit, head), rest)
    explain(above, traces)
    axes = below.subplots(1, 2, sharey=True)
    axes[0].set_title("Error of the response", loc="left")
    axes[1].set_title("Correlation with the normaliser", loc="left")
    for axis, name in zip(axes, MEASURES):
        draw_measure(axis, numbers, shown, name)
    say_shown(figure, len(shown), len(fits))
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """ln of responses and normalisers by token, with errors, correlations, phases and sigma^2."""
    heads = [head_of(name, fit) for name, fit in fits.items()]
    return with_numbers(responses(fits, heads), fits, *BESIDE)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Errors of the largest networks, and of the best constant in place of the response."""
    words = []
    for head in (head_of(name, fit) for name, fit in fits.items()):
        fit = fits[head.experiment]
        of_fit = fit.sel(layer=head.layer, head=head.head)
        largest = of_fit.isel(n_features=-1)
        error = captions.interval(*ends(largest, "normalizer_error"), palette.percent)
        r = captions.interval(*ends(largest, "correlation"))
        constant = palette.percent(float(of_fit["normalizer_error_constant"]))
        name, m = palette.full_name(fit), int(largest["n_features"])
        words.append(f"{error} (r = {r}; the best constant {constant}) in {name}, m = {m}")
    return f"The median relative error of the response is {'; '.join(words)}."


def head_of(experiment: str, fit: xr.Dataset) -> Head:
    """The easiest simulated head of an experiment."""
    layer, head = simulated_heads(fit)[0]
    return Head(experiment, int(fit["layer"][layer]), int(fit["head"][head]))


def measures(fits: dict[str, xr.Dataset], heads: list[Head]) -> pd.DataFrame:
    """Errors and correlations of the smallest and the largest networks of one head of each fit."""
    parts = []
    for place, head in enumerate(heads):
        fit = fits[head.experiment].sel(layer=head.layer, head=head.head)
        fit = fit.sel(n_features=np.unique(fit["n_features"].values[[0, -1]]))
        part = frame({head.experiment: fit}, "normalizer_error", "correlation", *BESIDE)
        parts.append(part.assign(row=place))
    return pd.concat(parts, ignore_index=True)


def place_words(fit: xr.Dataset, head: Head) -> str:
    """The name of a head, its sigma^2, and the phases of its smallest and largest networks."""
    of_fit = fit.sel(layer=head.layer, head=head.head)
    sigma_squared = float(of_fit["sigma_squared"])
    words = head_label(fit, head)
    if np.isfinite(sigma_squared):
        words += rf", $\sigma^2$ = {sigma_squared:.1f}"
    phases = of_fit["phase_of"].values[[0, -1]]
    if all(phases):
        words += f"; {' → '.join(dict.fromkeys(phases))}".replace("gaussian", "Gaussian")
    return words


def draw_measure(axis: Axes, numbers: pd.DataFrame, fits: dict[str, xr.Dataset], name: str) -> None:
    """A row for each experiment: one of MEASURES of its networks of both sizes."""
    names = []
    for row, (letter, fit) in enumerate(zip("abcdefgh", fits.values())):
        model, rest = words_of_data(fit)
        words = ", ".join(filter(None, (palette.short_name(model), rest)))
        words = words if len(words) <= MAX_LETTERS else f"{words[: MAX_LETTERS - 1]}…"
        names.append(palette.plain_text(f"{letter}  {palette.shown(words)}"))
        own = numbers[numbers["row"] == row]
        marker = palette.look_of(fit.attrs["data"], (x.attrs["data"] for x in fits.values())).marker
        for m, of_size in own.groupby("n_features"):
            colour = palette.colour_of_size(m)
            look = {"color": colour, "marker": marker, "markersize": 4}
            estimates(name, "row", data=of_size, axis=axis, across=True, **look)
        if name == "normalizer_error":
            constant = own["normalizer_error_constant"]
            axis.plot(constant, own["row"], "|", color=palette.GUIDE, markersize=10, zorder=1)
            if row == 0:
                beside: dict[str, Any] = {
                    "fontsize": 6.5,
                    "color": palette.KEY,
                    "ha": "center",
                    "va": "bottom",
                }
                axis.annotate("best constant", (constant.iloc[0], -0.45), **beside)
    if name == "normalizer_error" and (numbers[name] > 0).any():
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(MEASURES[name])
