"""How do errors grow through a transformer, and what else predicts the damage of a layer?"""

import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tripartite.figures import captions, palette
from tripartite.figures.palette import MM
from tripartite.figures.panels import (
    estimates,
    frame,
    legend,
    mark,
    name_rows,
    say_left_out,
    spread,
)
from tripartite.kinds.rebuilt import scores
from tripartite.kinds.rebuilt.damage import PREDICTORS, STATES
from tripartite.kinds.rebuilt.depth import (
    HARMS,
    MAX_MODELS,
    QUALITIES,
    draw_quality,
    finish_quality,
    look_of,
    of_network,
    quality_words,
    recipes_of,
)
from tripartite.kinds.rebuilt.layerwise import ALL

WORDS = {  # of predictors, that of the closed form first
    "expected": "closed form × size,\nchosen beforehand",
    "needed": "needed neurons",
    "size": "size of attention",
    "layer": "number of layer",
    "equal": "equal attention",
    "measured": "error that it leaves",
    "mean": "same for all",
    "other_inputs": "other inputs",
}
SHORT = {"prediction_rank": "rank correlation", "prediction_r2": "$R^2$, held out"}
APART = 0.2  # of a row, between models
LARGE = 1e3  # factors from which on no interval is written above a panel


def depth_predictors(fits: dict[str, xr.Dataset]) -> Figure:
    """Errors of states if all layers are replaced, and all predictors of the damage of one."""
    palette.apply()
    shown = spread([*fits], MAX_MODELS)
    drawn = table({name: fits[name] for name in shown})
    heights = 52, 76
    figure = plt.figure(figsize=(palette.PAGE, sum(heights) * MM))
    parts = figure.add_gridspec(2, 1, height_ratios=heights)
    upper, lower = (figure.add_subfigure(parts[row, 0]) for row in range(2))
    axes = upper.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axis, name in zip(axes, shown):
        own = drawn[(drawn["experiment"] == name) & drawn["layer"].notna()]
        draw_growth(axis, own, look_of(fits, name).marker)
        m = int(fits[name]["n_features"][-1])
        data = scores.column_title(fits[name].attrs["data"], len(shown))
        palette.title(axis, data, f"$m$ = {m}, growth per layer\n{factors(own)}")
    means = drawn["state_error"].where(drawn["state_error"] > 0)
    if means.notna().any():
        axes[0].set_yscale("log")
        axes[0].set_ylim(means.min() / 2, means.max() * 2)
        palette.few_decades(axes[0])
    axes[0].set_ylabel("relative error\nof the states")
    quality = drawn[drawn["layer"].isna()]
    models: dict[str, Line2D] = {}
    axes = lower.subplots(1, len(HARMS) * len(QUALITIES), sharey=True)
    for place, axis in enumerate(axes):
        harm, name = [*HARMS][place // 2], [*QUALITIES][place % 2]
        own = quality[quality["harm"] == harm]
        axis.axhspan(-0.55, 0.5, color=palette.SHADE, linewidth=0, zorder=-1)
        for shift, experiment in enumerate(shown):
            above = APART * (shift - (len(shown) - 1) / 2)
            for row, predictor in enumerate(PREDICTORS):
                of_model = own[(own["experiment"] == experiment) & (own["predictor"] == predictor)]
                short = palette.short_name(fits[experiment].attrs["data"])
                look = look_of(fits, experiment)
                draw_quality(axis, of_model, name, row + above, look, harm)
                if of_model[name].notna().any() and short not in models:
                    models[short] = mark(short, **palette.marks(look, harm == STATES))
        finish_quality(axis, own, name)
        name_rows(axis, [WORDS[predictor] for predictor in PREDICTORS])
        axis.tick_params(labelleft=place == 0)
        axis.set_xlabel(SHORT[name])
        if place % 2 == 0:
            palette.title(axis, f"Damage: {HARMS[harm]}")
    legend(lower, models.values())
    say_left_out(figure, len(shown), len(fits))
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Errors of states by layer with their fitted growth, and qualities of all predictors."""
    whole = {
        name: fit.sel(recipe=ends(recipes_of(fit))).isel(n_features=[-1])
        for name, fit in fits.items()
        if ALL in fit["part"]
    }
    names = "state_error", "grown_error", "growth"
    grown = [frame(whole, *names, part=ALL)] if whole else []
    quality = frame({name: of_network(fit) for name, fit in fits.items()}, *QUALITIES)
    found = pd.concat([*grown, quality], ignore_index=True).drop(columns="network")
    return found if grown else found.assign(layer=float("nan"))


def ends(names: list[str]) -> list[str]:
    """The first and the last, once."""
    return [*dict.fromkeys((names[0], names[-1]))]


def draw_growth(axis: Axes, own: pd.DataFrame, marker: str) -> None:
    """Errors of states through the layers, and the line that is fitted to them, by recipe."""
    for recipe, one in own.groupby("recipe", sort=False):
        look = scores.RECIPES[str(recipe)][0]._replace(marker=marker)
        estimates("layer", "state_error", data=one, axis=axis, **palette.marks(look))
        axis.plot(one["layer"], one["grown_error"], color=palette.EXACT, linewidth=0.8, zorder=3)
    axis.set_xlabel("layer")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def factors(own: pd.DataFrame) -> str:
    """The fitted factor from a layer to the next, a line for each recipe."""
    lines = []
    for recipe, one in own.groupby("recipe", sort=False):
        first = one.iloc[0]
        fits = not first[["growth", "growth_low", "growth_high"]].astype(float).max() >= LARGE
        words = quality_words(first, "growth") if fits else f"{first['growth']:.3g}"
        lines.append(f"{scores.RECIPES[str(recipe)][1]}: × {words}")
    return "\n".join(lines)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """By how much errors grow by a layer, and which predictors are better than a constant."""
    drawn = table(fits)
    grown, better = [], []
    for name, fit in fits.items():
        own = drawn[drawn["experiment"] == name]
        model = palette.short_name(fit.attrs["data"])
        of_all = own[own["layer"].notna()]
        if len(of_all):
            grown.append(f"{quality_words(of_all.iloc[-1], 'growth')} ({model})")
        for row in own[own["layer"].isna() & (own["harm"] == STATES)].itertuples():
            if row.prediction_r2_low > 0:
                ends = row.prediction_r2, row.prediction_r2_low, row.prediction_r2_high
                words = WORDS[row.predictor].replace("\n", " ")
                better.append(f"“{words}” in {model} ({captions.interval(*ends)})")
    first = (
        "With all layers replaced, the error of the states grows from a layer to the next by a "
        f"factor of {', '.join(grown)}. "
    )
    return (first if grown else "") + (
        "Of all predictors of the damage to the last states, these have an R² on held-out layers "
        f"and inputs whose interval lies above 0: {', '.join(better) or 'none'}."
    )
