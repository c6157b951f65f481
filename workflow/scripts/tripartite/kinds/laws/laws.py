"""Do networks follow their laws? Measured over law, of all kinds of experiments that have one."""

from collections.abc import Iterator
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tripartite.figures import palette
from tripartite.figures.panels import beyond, estimates, heads_by, legend, line, mark, spread

MAX_HEADS, MAX_DOSES = 3, 5  # of an experiment
MAX_RATIO = 0.03  # of time constants to the time of a token, for laws of first order
RANGE = (0.5, 2.0)  # axis of measured over law
ROWS = (("convergence", "coupling", "retention"), ("lesions", "noise"))  # of panels
TITLES = {
    "convergence": "Continuous time",
    "coupling": "Gap junctions",
    "retention": "Leaks",
    "lesions": "Lesions",
    "noise": "Noise",
}
COLUMNS = ["experiment", "data", "check", "quantity", "dose", "layer", "head", "head_rank"]
NUMBERS = ["ratio", "ratio_low", "ratio_high"]
# panel, column, doses with their parts of the file, the measured variable and its law
Check = tuple[str, str, list[tuple[str, xr.Dataset]], str, str]


def laws(fits: dict[str, xr.Dataset]) -> Figure:
    """Measured over law: a panel for each kind of check, a column for each quantity."""
    palette.apply()
    drawn = table(fits)
    known = set(drawn["check"])
    rows = [own for row in ROWS if (own := [name for name in row if name in known])]
    height = (48 * max(len(rows), 1) + 8) * palette.MM
    figure = plt.figure(figsize=(palette.PAGE, height))
    parts = figure.subfigures(max(len(rows), 1), 1, squeeze=False)[:, 0]
    names = [fit.attrs["data"] for fit in fits.values()]
    for part, row in zip(parts, rows or [[]]):
        of_panels = [drawn[drawn["check"] == name] for name in row] or [drawn]
        widths = [max(own["quantity"].nunique(), 1) for own in of_panels]
        axes = part.subplots(1, len(widths), squeeze=False, sharey=True, width_ratios=widths)[0]
        for axis, own in zip(axes, of_panels):
            draw(axis, own, names, int(110 / max(sum(widths), 4)))
            axis.set_title("".join(TITLES[name] for name in own["check"].unique()), loc="left")
        axes[0].set_ylabel("measured over law")
    handles = []
    for name in dict.fromkeys(drawn["data"]):
        look = palette.look_of(name, names)
        for first, words in looks_of(drawn[drawn["data"] == name], look):
            label = f"{palette.short_name(name)}{words}"
            handles.append(mark(label, **palette.marks(look, first)))
    if handles:
        handles.append(line("law", color=palette.EXACT, linewidth=0.8))
        legend(figure, handles, ncols=min(len(handles), 3))
    sns.despine(figure)
    return figure


def looks_of(drawn: pd.DataFrame, look: palette.Look) -> list[tuple[bool, str]]:
    """Whether marks of a model are filled, and what that says; one entry where all look alike."""
    if look.fill == palette.MODELS["random"].fill or drawn["head_rank"].max() == 0:
        return [(True, "")]
    return [(True, ", easiest head"), (False, ", other heads")]


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Measured over law with its interval, a row per experiment, quantity, dose and head.

    Of the largest networks, and of at most MAX_HEADS heads and MAX_DOSES doses of a quantity;
    `head_rank` 0 is the easiest head.
    """
    rows = []
    for experiment, fit in fits.items():
        heads = heads_of(fit, max(1, MAX_HEADS // sum(map(alike(fit), fits.values()))))
        for check, quantity, doses, measured, law in checks(fit):
            for dose, part in spread(doses, MAX_DOSES):
                for rank, (i, j) in enumerate(heads):
                    own = part.isel(layer=i, head=j)
                    expected = float(own[law])
                    if not (np.isfinite(expected) and expected > 0):
                        continue
                    place = int(fit["layer"][i]), int(fit["head"][j])
                    ratios = [
                        float(own[f"{measured}{end}"]) / expected for end in ("", "_low", "_high")
                    ]
                    about = (experiment, fit.attrs["data"], check, quantity, dose, *place, rank)
                    rows.append((*about, *ratios))
    found = pd.DataFrame(rows, columns=COLUMNS + NUMBERS).astype(dict.fromkeys(NUMBERS, float))
    return found[np.isfinite(found["ratio"])].reset_index(drop=True)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Median and range of measured over law by kind of check, and intervals that hold the law."""
    found, parts = table(fits), []
    for name, own in found.groupby("check", sort=False):
        n_held = int(((own["ratio_low"] <= 1) & (own["ratio_high"] >= 1)).sum())
        n_known = int(own["ratio_low"].notna().sum())
        ratio = own["ratio"]
        middle, low, high = map(palette.decimal, (ratio.median(), ratio.min(), ratio.max()))
        parts.append(
            f"{TITLES[str(name)].lower()} {middle} ({low} to {high}; {n_held} of {n_known} "
            "intervals contain 1)"
        )
    if not parts:
        return "No number has a law beside it."
    return f"Medians of measured over law (least to largest): {', '.join(parts)}."


def kind_of(fit: xr.Dataset) -> str:
    """The kind of a file, by the dimension that it alone has."""
    dims = {"ratio": "convergence", "strength": "coupling", "perturbation": "perturbations"}
    return next((kind for dim, kind in dims.items() if dim in fit.dims), "retention")


def alike(fit: xr.Dataset):
    """Whether another file is of the same kind."""
    return lambda other: kind_of(other) == kind_of(fit)


def heads_of(fit: xr.Dataset, n: int) -> list[tuple[int, int]]:
    """Heads that are drawn, from easy to hard by the error of their largest network."""
    name = "output_error_unperturbed" if "perturbation" in fit.dims else "output_error"
    error = fit[name].isel(n_features=-1)
    others = [dim for dim in error.dims if dim not in ("layer", "head")]
    return heads_by(error.median(others).transpose("layer", "head").values, n)


def checks(fit: xr.Dataset) -> Iterator[Check]:
    """What is checked in a file."""
    fit, kind = fit.isel(n_features=-1), kind_of(fit)
    if kind == "convergence":
        doses = [(f"{x:g}", fit.sel(ratio=x)) for x in fit["ratio"].values if x <= MAX_RATIO]
        for name in ("output", "calcium"):
            yield kind, f"error of {name}", doses, f"{name}_error", f"{name}_error_law"
    elif kind == "coupling":
        for layout in fit["layout"].values:
            one = fit.sel(layout=layout)
            doses = [(f"{x:g}", one.sel(strength=x)) for x in one["strength"].values]
            for name in ("gain", "output"):
                yield (
                    kind,
                    f"error of {name}, {layout}",
                    doses,
                    f"{name}_error",
                    f"{name}_error_law",
                )
    elif kind == "perturbations":
        for name in fit["perturbation"].values:
            one = fit.sel(perturbation=name)
            if one["law_basis"] != "network" or one["law_holds"] == "bounds":
                continue
            tried = one["dose"].values[one["tried"].values]
            doses = [(f"{x:g}", one.sel(dose=x)) for x in tried]
            drawn = str(one["drawn"].item())
            yield str(one["group"].item()), str(one["title"].item()), doses, drawn, f"{drawn}_law"
    else:
        fit = fit.assign(leak=fit["leak_hebbian"])
        pairs = fit.stack(pair=("leak_hebbian", "leak_presynaptic"))
        pairs = pairs.isel(pair=(pairs["note"] != "not asked").all(("layer", "head")).values)
        doses = [
            (f"{pair[0]:g}, {pair[1]:g}", pairs.isel(pair=i))
            for i, pair in enumerate(pairs["pair"].values)
        ]
        equal = [dose for dose, pair in zip(doses, pairs["pair"].values) if pair[0] == pair[1]]
        yield kind, "fitted leak", equal, "leak_fitted", "leak"
        unequal = [dose for dose, pair in zip(doses, pairs["pair"].values) if pair[0] != pair[1]]
        yield kind, "gain of unequal leaks", unequal, "gain", "gain_law"


def draw(axis: Axes, own: pd.DataFrame, names: list[str], n_letters: int) -> None:
    """Points of each quantity, by dose and head, side by side in a column."""
    axis.axhline(1, color=palette.EXACT, linewidth=0.8, zorder=1)
    quantities = [*dict.fromkeys(own["quantity"])]
    for place, quantity in enumerate(quantities):
        column = own[own["quantity"] == quantity]
        order = column.groupby(["experiment", "layer", "head"]).cumcount()
        column = column.iloc[np.lexsort((column["head_rank"], column["experiment"], order))]
        column = column.assign(x=place + 0.8 * ((np.arange(len(column)) + 0.5) / len(column) - 0.5))
        for (data, rank), part in column.groupby(["data", "head_rank"]):
            look = palette.marks(palette.look_of(str(data), names), rank == 0)
            estimates("x", "ratio", data=part, axis=axis, zorder=3, **look | {"markersize": 3})
    axis.set(yscale="log", ylim=RANGE, xlim=(-0.5, max(len(quantities), 1) - 0.5))
    axis.set_yticks([0.5, 0.7, 1, 1.4, 2], ["0.5", "0.7", "1", "1.4", "2"])
    axis.yaxis.set_minor_locator(NullLocator())
    words = [fill(palette.plain_text(palette.shown(name)), n_letters) for name in quantities]
    axis.set_xticks(range(len(quantities)), words)
    axis.tick_params(axis="x", length=0)
    beyond(axis, int((~own["ratio"].between(*RANGE)).sum()), len(own), "upper right", "points")
