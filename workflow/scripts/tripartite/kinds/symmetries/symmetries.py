"""Neurons that heads need before and after fits to other inputs: rows of recipes of each model."""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import captions, palette
from tripartite.figures.panels import estimates, frame, legend, mark
from tripartite.figures.strips import (
    beside,
    decades,
    first,
    median,
    n_beyond,
    rows,
    say_shown,
    strip,
)

MAX_MODELS = 5
ROW_MM = 5.4
MAX_LETTERS = 24  # of the name of a model
LOG10_FEW = 5  # of the neurons that are few, as in calibrate
RECIPES = {  # each adds one thing to those above: name, recipe with this thing alone, look
    "plain": ("plain", None, "plain"),
    "centred": ("1 centred", "centred", "balanced"),
    "centred, balanced": ("2 + balanced", "balanced", "balanced"),
    "centred, balanced, one width": ("3 + one width", "one width", "fitted"),
    "centred, balanced, width of each direction": (
        "3′ + width per direction",
        "width of each direction",
        "fitted",
    ),
}
QUANTITIES = {  # of the table, by their variables
    "log10_features_needed": "log10 of neurons that a head needs",
    "reduction_all": "decades saved in all",
    "reduction_step": "decades saved by the last thing added",
    "heads_with_few": f"heads that need at most 10^{LOG10_FEW} neurons",
    "heads_worse": "heads that need more than plain",
}


def symmetries(fits: dict[str, xr.Dataset]) -> Figure:
    """What is fitted to queries and keys, in order, on tested inputs: a row each.

    Left: heads and their median; how many need at most 10^5 neurons, and how many are beyond the
    axis. Right: decades of neurons saved by each thing alone, and added to those above, with 95 %
    intervals over inputs and distinct heads; in all; and heads that need more with it alone.
    """
    palette.apply()
    shown = first(fits, MAX_MODELS)
    drawn = table(shown)
    height = 28 + ROW_MM * (1 + len(RECIPES)) * len(shown)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(palette.PAGE, height * palette.MM), width_ratios=(5, 4), sharey=True
    )
    names = [name for name, _, _ in RECIPES.values()]
    titles = [palette.short_name(fit.attrs["data"], MAX_LETTERS) for fit in shown.values()]
    places = rows(left, [(title, names) for title in titles])
    right.axvline(0, color=palette.GUIDE, linewidth=0.8)
    texts = []
    data = [fit.attrs["data"] for fit in shown.values()]
    for (experiment, fit), at in zip(shown.items(), places):
        own = drawn[drawn["experiment"] == experiment]
        marker = palette.look_of(fit.attrs["data"], data).marker
        for place, (recipe, (_, alone, look)) in zip(at, RECIPES.items()):
            needed = of(own, "log10_features_needed", recipe)["value"].values
            strip(left, place, needed, palette.RECIPES[look], marker)
            median(left, place, float(np.median(needed)) if len(needed) else np.nan)
            texts.append([*words_of(own, recipe, alone, needed)])
            if alone:
                for filled, name, shift in ((True, alone, -0.17), (False, recipe, 0.17)):
                    saved = of(own, "reduction_step", name).assign(row=place + shift)
                    marks = palette.marks(palette.RECIPES[look]._replace(marker=marker), filled)
                    estimates("value", "row", data=saved, axis=right, across=True, **marks)
    decades(left)
    left.axvline(LOG10_FEW, color=palette.GUIDE, linewidth=0.8, linestyle="--", zorder=0.5)
    right.set_xlabel("decades of hidden neurons saved\n(median over heads and inputs)")
    right.tick_params(axis="y", length=0, labelleft=False)
    every = [place for at in places for place in at]
    few, beyond, in_all, worse = zip(*texts)
    beside(left, every, {f"heads\n≤ $10^{LOG10_FEW}$": few, "beyond\naxis": beyond})
    beside(right, every, {"saved in all": in_all, "heads worse\nalone": worse})
    left.set_title("Neurons needed", loc="left")
    right.set_title("Neurons saved", loc="left")
    if (drawn["quantity"] == QUANTITIES["reduction_step"]).any():
        key = palette.Look(palette.KEY, palette.KEY, palette.look_of(data[0], data).marker)
        words = {"this step alone": True, "added to the steps above it": False}
        legend(figure, [mark(x, **palette.marks(key, filled)) for x, filled in words.items()])
    say_shown(figure, len(shown), len(fits))
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """What each head needs by each recipe (median over tested inputs), and numbers of all heads.

    Heads to which something could not be fitted are in none of them.
    """
    parts = []
    for experiment, fit in fits.items():
        needed = fit["log10_features_needed"].isel(input=fit["role"].values == "tested")
        needed = needed.median("input").sel(recipe=list(RECIPES)).where(fit["note"] == "")
        heads = fit.assign(log10_features_needed=needed).rename(recipe="fitted")
        for name, quantity in QUANTITIES.items():
            part = frame({experiment: heads}, name).dropna(subset=name).drop(columns="recipe")
            ends = {f"{name}{end}": f"value{end}" for end in ("", "_low", "_high")}
            parts.append(part.rename(columns=ends).assign(quantity=quantity))
    return pd.concat(parts, ignore_index=True)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Decades saved by all steps in each model, and heads that then need few neurons."""
    words = []
    last = [*RECIPES][-1]
    for experiment, fit in fits.items():
        drawn = table({experiment: fit})
        needed = [of(drawn, "log10_features_needed", recipe)["value"] for recipe in ("plain", last)]
        few = [int(fit["heads_with_few"].sel(recipe=recipe)) for recipe in ("plain", last)]
        name = palette.short_name(fit.attrs["data"])
        if needed[0].empty:
            words.append(f"nothing could be fitted to {name}")
            continue
        saved = captions.interval(*saved_by(drawn, "reduction_all", last), decades_words)
        words.append(
            f"{saved} in {name}, whose median head needs 10^{needed[1].median():.1f} instead of "
            f"10^{needed[0].median():.1f} ({few[1]} instead of {few[0]} of {len(needed[0])} heads "
            f"need at most 10^{LOG10_FEW})"
        )
    start = "Decades of neurons that centring, balancing and a width per direction save"
    return f"{start}: {'; '.join(words)}."


def of(drawn: pd.DataFrame, name: str, recipe: str) -> pd.DataFrame:
    """Rows of one variable and recipe."""
    return drawn[(drawn["quantity"] == QUANTITIES[name]) & (drawn["fitted"] == recipe)]


def saved_by(drawn: pd.DataFrame, name: str, recipe: str) -> tuple[float, float, float]:
    """A reduction with the ends of its interval; NaN if it is not known."""
    rows = of(drawn, name, recipe)[["value", "value_low", "value_high"]].values
    middle, low, high = map(float, rows[0]) if len(rows) else (np.nan,) * 3
    return middle, low, high


def words_of(drawn: pd.DataFrame, recipe: str, alone: str | None, needed: np.ndarray) -> list[str]:
    """Texts beside a row: heads with few neurons, beyond the axis, decades saved, heads worse."""
    few = of(drawn, "heads_with_few", recipe)["value"].iloc[0]
    texts = [f"{few:.0f} of {len(needed)}", str(n_beyond(needed))]
    if not alone:
        return [*texts, "", ""]
    worse = of(drawn, "heads_worse", alone)["value"].iloc[0]
    saved = captions.interval(*saved_by(drawn, "reduction_all", recipe), decades_words)
    return [*texts, saved, f"{worse:.0f} of {len(needed)}"]


def decades_words(x: float) -> str:
    """Decades with one decimal; with three digits where queries of huge norm make them long."""
    return palette.decimal(x) if x != x else f"{x:.1f}" if abs(x) < 1000 else f"{x:.3g}"
