"""How does continuous time approach the algebra?"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import beyond, estimates, frame, grid, heads_by, legend, line
from tripartite.kinds.convergence.limit import MAX_RATIO

MAX_HEADS = 6  # of an experiment, from easy to hard
RANGE = (0.5, 100.0)  # widest axis of measured errors over their laws
PANELS = {  # quantity: title, label
    "output error": ("Error of the output", "relative error of the output"),
    "output error over law": ("The same over its law", "measured over law"),
    "calcium error over law": ("Error of calcium over its law", "measured over law"),
}


def convergence(fits: dict[str, xr.Dataset]) -> Figure:
    """Error of the output against tau / T, and errors of output and calcium over their laws."""
    palette.apply()
    drawn = table(fits)
    figure, axes = grid(3, 3, 52, 16)
    names = [fit.attrs["data"] for fit in fits.values()]
    for axis, (quantity, (title, label)) in zip(axes, PANELS.items()):
        of_panel = drawn[drawn["quantity"] == quantity]
        axis.set_title(title, loc="left")
        axis.set(xlabel=r"time constants $\tau$ / time per token $T$", ylabel=label)
        if of_panel.empty:
            continue
        axis.set(xscale="log", yscale="log")
        for (data, rank), own in of_panel.groupby(["data", "head_rank"]):
            look = palette.look_of(data, names)
            label = f"{palette.short_name(data)}, {'other heads' if rank else 'easiest head'}"
            marks = palette.marks(look, rank == 0)
            if rank:  # larger and behind, so that equal values show both
                marks |= {"markersize": 6, "zorder": 2}
            estimates("ratio", "value", data=own, axis=axis, label=label, **{"zorder": 3} | marks)
        for _, own in of_panel.groupby(["experiment", "head_rank"]):
            axis.plot(own["ratio"], own["law"], color=palette.EXACT, linewidth=0.8, zorder=1)
        if quantity == "output error":
            values = of_panel["value"]
            axis.set_ylim(values.min() / 2, values.max() * 2)
        else:
            clip(axis, of_panel["value"])
    extra = [line("law of first order", color=palette.EXACT, linewidth=0.8)] if len(drawn) else []
    legend(figure, extra, ncols=4)
    return figure


def clip(axis: Axes, ratios: pd.Series) -> None:
    """An axis of ratios that shows 0.9 to 1.1 at least, and says how many are beyond RANGE."""
    low, high = min(0.8, ratios.min()), max(1.25, ratios.max())
    axis.set_ylim(max(low / 1.1, RANGE[0]), min(high * 1.3, RANGE[1]))
    ticks = [
        t
        for t in (0.5, 0.8, 1, 1.25, 2, 5, 10, 50, 100)
        if axis.get_ylim()[0] <= t <= axis.get_ylim()[1]
    ]
    if high > 3:
        ticks = [t for t in ticks if t not in (0.8, 1.25)]
    axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    beyond(axis, int((~ratios.between(*RANGE)).sum()), len(ratios), "upper left", "points")


def heads_of(fit: xr.Dataset) -> list[tuple[int, int]]:
    """Heads that are drawn, from easy to hard by their error at the longest time constants."""
    return heads_by(fit["output_error"].isel(ratio=-1, n_features=-1).values, MAX_HEADS)


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Errors of the largest networks by tau / T, and errors over their laws, each with its law.

    Of heads that are drawn, `head_rank` 0 the easiest; without errors of 0 or below rounding.
    """
    parts = []
    for experiment, fit in fits.items():
        for rank, (i, j) in enumerate(heads_of(fit)):
            own = fit.isel(n_features=-1, layer=[i], head=[j])
            for quantity in PANELS:
                name = quantity.removesuffix(" over law").replace(" ", "_")
                law = own[f"{name}_law"].where(own[f"{name}_law"] > np.finfo(float).eps)
                by = law if quantity.endswith("law") else xr.ones_like(law)
                part = xr.Dataset(attrs=own.attrs)
                for end in ("", "_low", "_high"):
                    part[f"value{end}"] = own[f"{name}{end}"].where(own[name] > 0) / by
                part["law"] = law / by
                found = frame({experiment: part}, "value", "law")
                parts.append(
                    found[found["value"].notna()].assign(quantity=quantity, head_rank=rank)
                )
    found = pd.concat(parts) if parts else pd.DataFrame(columns=["data", "quantity", "head_rank"])
    return found.drop(columns=["recipe", "network"], errors="ignore").reset_index(drop=True)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """The error at the shortest time constants, its power, and how far it is from its law."""
    found = table(fits)
    if found.empty:
        return "No head has an error beyond rounding."
    slopes = np.concatenate(
        [
            fit["slope"].isel(n_features=-1).values[tuple(zip(*heads_of(fit)))]
            for fit in fits.values()
            if heads_of(fit)
        ]
    )
    slopes = slopes[np.isfinite(slopes)]
    errors = found[found["quantity"] == "output error"]
    shortest = errors[errors["ratio"] == errors["ratio"].min()]["value"]
    over = found[found["quantity"].str.endswith("law") & (found["ratio"] <= MAX_RATIO)]["value"]
    words = (
        f"At time constants τ of {errors['ratio'].min():g} of the time T of a token, outputs "
        "differ from the algebra by "
        f"{' to '.join(map(palette.percent, dict.fromkeys((shortest.min(), shortest.max()))))}"
    )
    if slopes.size:
        powers = dict.fromkeys(f"{x:.4g}" for x in (slopes.min(), slopes.max()))
        words += f"; the error grows with the power {' to '.join(powers)} of τ / T"
    if len(over):
        most = palette.percent(float((over - 1).abs().max()))
        words += (
            f"; up to τ / T = {MAX_RATIO:g} errors of output and calcium are within {most} of "
            "their laws of first order"
        )
    return f"{words}."
