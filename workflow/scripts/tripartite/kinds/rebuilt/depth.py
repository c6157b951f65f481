"""Where and why does a whole transformer break, and how do its errors grow through its layers?"""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tripartite.figures import palette
from tripartite.figures.panels import interval, line, mark, points, spread
from tripartite.kinds.rebuilt.damage import EXPECTED, FALLING, OUTPUT, PREDICTORS, STATES
from tripartite.kinds.rebuilt.language import COLOURS
from tripartite.kinds.rebuilt.layerwise import ALL

MAX_MODELS = 4
HEIGHTS = (1.1, 0.85, 0.95, 1.2, 1.4, 1.4)  # inches, of the rows
N_DEEP = 4  # rows against layers
MEASURED, PREDICTED = palette.EXACT, palette.LARGE
LIMITS = (-1, 1)  # of R^2 and correlations; what is below stands at the end
LABELS = (
    "damage to\noutput",
    "damage to\nlast states",
    "log$_{10}$ needed\nneurons",
    "error of states,\nall replaced",
)
HARMS = {OUTPUT: ("o", palette.COLOURS[0]), STATES: ("s", palette.COLOURS[3])}
WORDS = {  # of predictors
    EXPECTED: "closed form × size",
    "needed": "needed neurons",
    "size": "size of attention",
    "layer": "number of layer",
    "equal": "equal attention",
    "measured": "error it leaves",
    "mean": "same for all",
    "other_inputs": "other inputs",
}


def depth(fits: dict[str, xr.Dataset]) -> Figure:
    """A column for each model, at its largest m and its last recipe with a closed form.

    From above: damage to output and last states by a layer that is replaced alone; neurons that
    its heads need; errors of the states through the layers if all are replaced; R^2 of predictions
    on held-out layers and inputs; rank correlations.
    """
    palette.apply()
    names = spread(list(fits), MAX_MODELS)
    chosen = {name: fits[name] for name in names}
    figure, axes = plt.subplots(
        len(HEIGHTS),
        len(chosen),
        squeeze=False,
        figsize=(palette.PAGE, sum(HEIGHTS) + 0.6),
        height_ratios=HEIGHTS,
    )
    for column, (words, fit) in enumerate(zip(palette.labels(chosen), chosen.values())):
        recipe, m = shown_network(fit)
        one = fit.sel(recipe=recipe).isel(n_features=-1)
        of_model = axes[:, column]
        title = f"{recipe}, $m$ = {m:,}\n{sum_words(one)}"
        palette.title(of_model[0], words, title)
        for axis, harm in zip(of_model, (OUTPUT, STATES)):
            draw_damage(axis, one.sel(harm=harm))
        draw_needs(of_model[2], one, m)
        draw_growth(of_model[3], fit)
        draw_quality(of_model[4], one, "prediction_r2", column == 0)
        draw_quality(of_model[5], one, "prediction_rank", column == 0)
        of_model[4].set_xlabel("$R^2$, held out")
        of_model[5].set_xlabel("rank correlation")
        of_model[N_DEEP - 1].set_xlabel("layer")
        for axis in of_model[:N_DEEP]:
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axis, words in zip(axes[:, 0], LABELS):
        axis.set_ylabel(words)
    figure.legend(handles=legend(chosen), loc="outside upper center", ncols=3)
    return figure


def shown_network(fit: xr.Dataset) -> tuple[str, int]:
    """The last recipe with a closed form, or the last one, and the largest m."""
    return recipes_of(fit)[-1], int(fit["n_features"][-1])


def recipes_of(fit: xr.Dataset) -> list[str]:
    """Recipes with a closed form, or all if there is none."""
    known = fit["expected_error"].notnull().any(("n_features", "layer")).values
    names = [str(x) for x in fit["recipe"].values]
    return [name for name, there in zip(names, known) if there] or names


def sum_words(one: xr.Dataset) -> str:
    """Damage of the output: what single layers do in sum, and all together."""
    added = float(one["added_damage"].sel(harm=OUTPUT))
    together = np.nan
    if ALL in one["part"]:
        change = float(one["mean_change"].isel(measure=0).sel(part=ALL))
        together = change if str(one["measure"][0].values) in FALLING else -change
    return f"sum {palette.decimal(added)}, all {palette.decimal(together)}"


def draw_damage(axis: Axes, one: xr.Dataset) -> None:
    """Damage by each layer, measured and as the closed form predicts it for unseen inputs."""
    layers = one["layer"].values
    points(axis, layers, interval(one, "layer_damage"), MEASURED)
    predicted = one["predicted_damage"].sel(predictor=EXPECTED)
    axis.plot(layers, predicted, color=PREDICTED)
    axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)


def draw_needs(axis: Axes, one: xr.Dataset, m: int) -> None:
    """log10 of the neurons that each head needs, and those that it has."""
    needs = one["log10_features_needed"].transpose("layer", "head").values
    layers = np.repeat(one["layer"].values, needs.shape[1])
    axis.plot(layers, needs.ravel(), ".", color="0.45", markersize=2.5)
    axis.plot(one["layer"], np.median(needs, 1), color=PREDICTED)
    axis.axhline(np.log10(m), color=MEASURED, linestyle="--", linewidth=0.8)


def draw_growth(axis: Axes, fit: xr.Dataset) -> None:
    """Errors of states where all layers are replaced, and their fitted growth, of two recipes."""
    axis.set_yscale("log")
    if ALL not in fit["part"]:
        return
    of_all = fit.sel(part=ALL).isel(n_features=-1)
    for height, recipe in enumerate(ends(recipes_of(fit))):
        errors, colour = of_all.sel(recipe=recipe), COLOURS[recipe]
        points(axis, errors["layer"], interval(errors, "state_error"), colour, markersize=2)
        axis.plot(errors["layer"], errors["grown_error"], color=colour, linewidth=0.7)
        factor, low, high = (float(x) for x in interval(errors, "growth"))
        words = f"$a$ = {factor:.2f} ({low:.2f} to {high:.2f})"
        place: dict = {"xy": (0, 1), "xycoords": "axes fraction"}
        away: dict = {"xytext": (0, 2 + 8 * height), "textcoords": "offset points"}
        axis.annotate(words, **place, **away, color=colour, fontsize=6)
    palette.few_decades(axis)


def ends(names: list[str]) -> list[str]:
    """The first and the last, once."""
    return [*dict.fromkeys((names[0], names[-1]))]


def draw_quality(axis: Axes, one: xr.Dataset, name: str, named: bool) -> None:
    """R^2 or rank correlation of each predictor, for both harms; beyond the axis at its end."""
    for place, (harm, (marker, colour)) in enumerate(HARMS.items()):
        of_harm = one.sel(harm=harm)
        middle, low, high = interval(of_harm, name)
        height = -np.arange(len(PREDICTORS)) - 0.3 * (place - 0.5)
        low, middle, high = (np.clip(x, *LIMITS) for x in (low, middle, high))
        size = np.nan_to_num([middle - low, high - middle]).clip(0)
        look: dict = {"markersize": 2.5, "elinewidth": 0.7, "linestyle": "", "clip_on": False}
        axis.errorbar(middle, height, xerr=size, marker=marker, color=colour, **look)
    axis.set_xlim(*LIMITS)
    axis.set_xticks(np.linspace(*LIMITS, 5))
    axis.axvline(0, color="0.7", linewidth=0.6, zorder=0)
    axis.set_yticks(-np.arange(len(PREDICTORS)), [WORDS[x] for x in PREDICTORS] if named else [])
    axis.set_ylim(-len(PREDICTORS) + 0.5, 0.5)


def legend(fits: dict[str, xr.Dataset]) -> list:
    """What marks and lines mean."""
    recipes = dict.fromkeys(x for fit in fits.values() for x in ends(recipes_of(fit)))
    return [
        mark("measured, layer alone (95 %)", color=MEASURED),
        line("predicted by the closed form; median head", color=PREDICTED),
        mark("a head", marker=".", color="0.45"),
        line("neurons of each head", color=MEASURED, linestyle="--"),
        *(
            line(
                f"{x}, all replaced (95 %), fitted $a^l$",
                color=COLOURS[x],
                marker="o",
                markersize=2,
            )
            for x in recipes
        ),
        mark("damage to the output (95 %)", color=HARMS[OUTPUT][1]),
        mark("damage to the last states (95 %)", marker="s", color=HARMS[STATES][1]),
    ]
