"""Dose and response of perturbations, a panel each: what the figures lesions and noise share."""

from collections.abc import Callable
from functools import partial

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from tripartite.figures import palette
from tripartite.figures.panels import head_words, heads_by, interval, line, mark

MAX_HEADS = 4  # in a panel, from easy to hard
MAX_DRAWN = 1e100  # numbers beyond are left out
LABELS = {  # of the variable that is drawn
    "added_error": "added error",
    "output_error": "error against softmax",
    "gain": "gain $p/p'$ (shade: bounds)",
}
LAWS = {  # line and words of a law by what it is made of
    "network": ("-", "law, nothing fitted"),
    "attention": ("--", "the same done to softmax attention"),
    "rounding": (":", "uniform rounding errors (no law)"),
}

Places = list[tuple[int, int]]  # (layer, head)


def dose_responses(fits: dict[str, xr.Dataset], group: str, n_columns: int) -> Figure:
    """A panel for each perturbation of a group, and one of their gains; experiments in rows."""
    palette.apply()
    panels = {name: _panels(fit, group) for name, fit in fits.items()}
    rows = [-(-len(own) // n_columns) for own in panels.values()]
    figure = plt.figure(figsize=(palette.PAGE, 0.55 + sum(1.75 * n + 0.45 for n in rows)))
    ratios = [ratio for n in rows for ratio in [1] * n + [0.15]]  # legends have rows of their own
    grid, top = figure.add_gridspec(len(ratios), n_columns, height_ratios=ratios), 0
    for n_rows, (name, own) in zip(rows, panels.items()):
        fit = fits[name]
        heads = heads_by(fit["output_error_unperturbed"].values[-1], MAX_HEADS)
        for place, (title, draw) in enumerate(own):
            axis = figure.add_subplot(grid[top + place // n_columns, place % n_columns])
            draw(axis, fit, heads)
            palette.title_of(axis, fit if place == 0 else None, title)
        below = figure.add_subplot(grid[top + n_rows, :])
        below.set_axis_off()
        if own:
            head_legend(below, fit, heads)
        else:
            palette.title_of(below, fit, f"no {group} in this experiment")
        top += n_rows + 1
    look = {"color": "0.35", "linewidth": 0.9}
    bases = {
        str(basis) for fit in fits.values() for basis in of_group(fit, group)["law_basis"].values
    }
    has_bits = any(fit["bits_needed"].notnull().any() for fit in fits.values())
    handles = [
        mark("simulated (bars: 95 %)", color="0.35"),
        Patch(color="0.35", alpha=0.18, linewidth=0, label="error before, against softmax (95 %)"),
        *(
            line(words, linestyle=style, **look)
            for basis, (style, words) in LAWS.items()
            if basis in bases
        ),
    ]
    if group == "noise" and has_bits:
        words = "bits needed (error at most √2 times) and range"
        handles.append(line(words, marker="|", markersize=5, **look))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3 if group == "noise" else 4,
        columnspacing=1,
        title="added error: change of the output over the output before, "
        "$|O'-\\hat{O}|\\,/\\,|\\hat{O}|$",
    )
    return figure


def of_group(fit: xr.Dataset, group: str) -> xr.Dataset:
    """A fit of the perturbations of a group alone."""
    return fit.isel(perturbation=np.flatnonzero(fit["group"].values == group))


def _panels(fit: xr.Dataset, group: str) -> list[tuple[str, Callable]]:
    """Title of each panel, and what draws it."""
    own = of_group(fit, group)
    names = own["perturbation"].values
    panels: list[tuple[str, Callable]] = [
        (str(title), partial(draw_doses, name=name))
        for title, name in zip(own["title"].values, names)
    ]
    with_gain = [name for name, label in zip(names, own["gain_label"].values) if label]
    if with_gain:
        panels.append(("gain of the output", partial(draw_gains, names=with_gain)))
    return panels


def head_legend(axis, fit: xr.Dataset, heads: Places) -> None:
    """Name the colours of the heads, and say of which networks they are."""
    handles = [
        line(
            head_words(fit, place),
            color=palette.COLOURS[rank],
            marker=palette.MARKERS[rank],
            markersize=3,
        )
        for rank, place in enumerate(heads)
    ]
    n_run = int(np.isfinite(fit["output_error_unperturbed"].values[-1]).sum())
    some = f"{len(heads)} of {n_run} heads, " if n_run > len(heads) else ""
    axis.legend(
        handles=handles,
        loc="center",
        ncols=MAX_HEADS,
        handlelength=1.6,
        title=f"{some}networks of $m$ = {fit['n_features'].values[-1]} neurons",
    )


def drawable(values: np.ndarray) -> np.ndarray:
    """Values, NaN where one is beyond what can be drawn."""
    return np.where(np.abs(values) < MAX_DRAWN, values, np.nan)


def draw_doses(axis, fit: xr.Dataset, heads: Places, name: str) -> None:
    """Points with bars for each head, the law as a line, and the unperturbed error as a band."""
    one = fit.sel(perturbation=name).isel(n_features=-1)
    one = one.isel(dose=one["tried"].values)
    dose, drawn = one["dose"].values, one["drawn"].item()
    positive = False
    for rank, (layer, head) in enumerate(heads):
        own, colour = one.isel(layer=layer, head=head), palette.COLOURS[rank]
        middle, low, high = map(drawable, interval(own, drawn))
        positive |= bool((middle > 0).any())
        axis.vlines(dose, low, high, color=colour, linewidth=0.8)
        axis.plot(dose, middle, palette.MARKERS[rank], color=colour, markersize=2.8)
        draw_law(axis, own, colour)
        draw_bits(axis, own, rank)
        if drawn != "gain":
            _, below, above = map(drawable, interval(own, "output_error_unperturbed"))
            axis.axhspan(below, above, color=colour, alpha=0.15, linewidth=0)
    if drawn != "gain" and positive:
        axis.set_yscale("log")
        palette.few_decades(axis)
    axis.set(xlabel=one["dose_label"].item(), ylabel=LABELS[drawn])
    if one["dose_scale"] == "log":
        axis.set_xscale("log")
        if dose[-1] < 50 * dose[0]:
            axis.set_xticks(dose, [f"{x:g}" for x in dose])
            axis.minorticks_off()
    if one["dose_scale"] == "integer":
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(dose) == 1:
        axis.set_xticks(dose, [f"{dose[0]:g}"])
        axis.minorticks_off()


def draw_law(axis, own: xr.Dataset, colour: str) -> None:
    """The law of what one head does at each dose; bounds of its gain as a shade."""
    dose, drawn, basis = own["dose"].values, own["drawn"].item(), own["law_basis"].item()
    if drawn == "gain":
        low, high = own["gain_law_low"].values, own["gain_law_high"].values
        axis.fill_between(dose, low, high, color=colour, alpha=0.3, linewidth=0.6)
        return
    law = own["added_error_uniform" if basis == "rounding" else f"{drawn}_law"].values
    style = ("_" if len(dose) == 1 else "") + LAWS[basis][0]
    axis.plot(dose, drawable(law), style, markersize=12, color=colour, linewidth=0.9, zorder=1.5)


def draw_bits(axis, own: xr.Dataset, rank: int) -> None:
    """Bits that one head needs, and their range, above the axis; a range to inf has no end."""
    needed, low, high = (float(x[-1]) for x in interval(own, "bits_needed"))  # of the largest error
    if np.isnan(needed):
        return
    last = own["dose"].values[-1] + 1
    height = 0.03 + 0.045 * rank  # of the panel
    look = {"color": palette.COLOURS[rank], "transform": axis.get_xaxis_transform()}
    if not np.isnan(low):
        axis.plot(np.minimum([low, high], last), [height] * 2, linewidth=1.2, **look)
    if np.isfinite(needed):
        axis.plot(needed, height, "|", markersize=5, **look)


def draw_gains(axis, fit: xr.Dataset, heads: Places, names: list[str]) -> None:
    """Gain at the largest dose of each; thin lines are one sd of ln gain over queries."""
    labels = []
    for place, name in enumerate(names):
        one = fit.sel(perturbation=name).isel(n_features=-1)
        one = one.isel(dose=np.flatnonzero(one["tried"].values)[-1])
        labels.append(f"{one['gain_label'].item()} ({one['dose'].item():g})")
        for rank, (layer, head) in enumerate(heads):
            own = one.isel(layer=layer, head=head)
            y = place + 0.7 * ((rank + 0.5) / len(heads) - 0.5)
            middle, low, high = (float(drawable(x)) for x in interval(own, "gain"))
            factor = float(np.exp(min(float(own["sd_log_gain"]), 200.0)))
            colour = palette.COLOURS[rank]
            axis.hlines(y, middle / factor, middle * factor, color=colour, linewidth=0.6)
            axis.hlines(y, low, high, color=colour, linewidth=2.2, alpha=0.6)
            axis.plot(middle, y, palette.MARKERS[rank], color=colour, markersize=2.8)
            axis.plot(float(own["gain_law"]), y, "|", color=palette.EXACT, markersize=5)
    axis.axvline(1, color=palette.EXACT, linewidth=0.6, linestyle=":")
    axis.set_xscale("log")
    axis.set_yticks(range(len(names)), labels)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel("median gain\n(black: law, thin: sd)")
