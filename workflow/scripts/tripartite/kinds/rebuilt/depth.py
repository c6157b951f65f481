"""Which layers break a transformer, and does the closed form of their heads predict it?"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tripartite.figures import captions, palette
from tripartite.figures.palette import MM
from tripartite.figures.panels import (
    estimates,
    frame,
    legend,
    name_rows,
    points,
    say_left_out,
    spread,
)
from tripartite.kinds.rebuilt import scores
from tripartite.kinds.rebuilt.damage import EXPECTED, OUTPUT, STATES

MAX_MODELS = 4
LIMITS = (-1, 1)  # of R^2 and correlations
BESIDE = 0.06  # of the axis, where triangles stand for what is below
TOP = 2  # of the axis at most, in largest means
QUALITIES = {
    "prediction_rank": "rank correlation with the damage",
    "prediction_r2": "$R^2$ on held-out layers and inputs",
}
HARMS = {STATES: "last states", OUTPUT: "output"}  # filled, hollow


def depth(fits: dict[str, xr.Dataset]) -> Figure:
    """Damage by each layer of each model, and below how well the closed form ranks and predicts it.

    A column for each model, at its largest m and its last recipe with a closed form.
    """
    palette.apply()
    shown = spread([*fits], MAX_MODELS)
    drawn = table({name: fits[name] for name in shown})
    n_rows = len(HARMS) * len(shown)
    heights = 52, 18 + 4.2 * n_rows
    figure = plt.figure(figsize=(palette.PAGE, sum(heights) * MM))
    parts = figure.add_gridspec(2, 1, height_ratios=heights)
    upper, lower = (figure.add_subfigure(parts[row, 0]) for row in range(2))
    axes = upper.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axis, name in zip(axes, shown):
        recipe, m = shown_network(fits[name])
        of_layers = drawn[(drawn["experiment"] == name) & drawn["layer"].notna()]
        draw_damage(axis, of_layers, look_of(fits, name))
        data = scores.column_title(fits[name].attrs["data"], len(shown))
        palette.title(axis, data, f"{recipe}, $m$ = {m}")
        axis.set_xlabel("layer replaced alone")
    axes[0].set_ylabel("relative error\nof the last states")
    largest = drawn["layer_damage"].max()
    highest = max(largest, drawn["layer_damage_high"].max())
    axes[0].set_ylim(0, min(TOP * largest, 1.03 * highest) if largest > 0 else 1)
    if largest > 1e4:
        axes[0].set_yticks([0, largest], ["0", f"{largest:.0e}"])
    legend(upper)
    below = lower.subplots(1, 2, sharey=True)
    words = "by expected error × size, chosen beforehand"
    palette.title(below[0], "Order of layers", words)
    palette.title(below[1], "Size of damage", words)
    for axis, (quality, label) in zip(below, QUALITIES.items()):
        names: list[str] = []
        for name in shown:
            for harm, words in HARMS.items():
                one = drawn[(drawn["experiment"] == name) & (drawn["harm"] == harm)]
                one = one[one["layer"].isna()]
                draw_quality(axis, one, quality, len(names), look_of(fits, name), harm)
                short = palette.short_name(fits[name].attrs["data"])
                names.append(f"{short}: {words}" if harm == STATES else words)
        finish_quality(axis, drawn[drawn["layer"].isna()], quality)
        name_rows(axis, names)
        axis.tick_params(labelleft=quality == "prediction_rank")
        axis.set_xlabel(label)
    say_left_out(figure, len(shown), len(fits))
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Damage to the last states by layer, measured and predicted; and how good predictions are."""
    networks = {name: of_network(fit) for name, fit in fits.items()}
    damage = frame(networks, "layer_damage", "predicted_damage", harm=STATES, predictor=EXPECTED)
    quality = frame(networks, *QUALITIES, predictor=EXPECTED)
    return pd.concat([damage, quality], ignore_index=True).drop(columns="network")


def of_network(fit: xr.Dataset) -> xr.Dataset:
    """What a file has of the network that is drawn."""
    recipe, m = shown_network(fit)
    return fit.sel(recipe=[recipe], n_features=[m])


def shown_network(fit: xr.Dataset) -> tuple[str, int]:
    """The last recipe with a closed form, or the last one, and the largest m."""
    return recipes_of(fit)[-1], int(fit["n_features"][-1])


def recipes_of(fit: xr.Dataset) -> list[str]:
    """Recipes with a closed form, or all if there is none."""
    known = fit["expected_error"].notnull().any(("n_features", "layer")).values
    names = [str(x) for x in fit["recipe"].values]
    return [name for name, there in zip(names, known) if there] or names


def look_of(fits: dict[str, xr.Dataset], name: str) -> palette.Look:
    """The look of the model of an experiment."""
    data = [fit.attrs["data"] for fit in fits.values()]
    return palette.look_of(fits[name].attrs["data"], data)


def draw_damage(axis: Axes, own: pd.DataFrame, look: palette.Look) -> None:
    """Damage by each layer, measured and as the closed form predicts it for unseen inputs."""
    estimates("layer", "layer_damage", data=own, axis=axis, **palette.marks(look))
    words = "predicted from the closed form of the heads, by a law of other layers and inputs"
    known = own["predicted_damage"].notna().any()
    axis.plot(
        own["layer"],
        own["predicted_damage"],
        color=palette.EXACT,
        label=words if known else "",
        zorder=3,
    )
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if own.empty:
        axis.set_xticks([])


def draw_quality(
    axis: Axes, own: pd.DataFrame, name: str, row: float, look: palette.Look, harm: str, **more: str
) -> None:
    """R^2 or rank correlation in a row; what is below the axis as a triangle at its end."""
    marks = palette.marks(look, harm == STATES) | more
    one = own.assign(row=row)
    estimates(name, "row", data=one[one[name] >= LIMITS[0]], axis=axis, across=True, **marks)
    below = one[one[name] < LIMITS[0]]
    ends = np.full(len(below), LIMITS[0] - BESIDE)
    upper = below[f"{name}_high"].to_numpy(float)
    triple = ends, ends, np.where(upper > ends, upper, np.nan)
    points(axis, below["row"], triple, across=True, **(marks | {"marker": "<"}))


def finish_quality(axis: Axes, own: pd.DataFrame, name: str) -> None:
    """Limits, zero, and how many values are below the axis."""
    axis.set_xlim(LIMITS[0] - 2 * BESIDE, LIMITS[1] + 2 * BESIDE)
    axis.set_xticks(np.linspace(*LIMITS, 5))
    axis.axvline(0, color=palette.GUIDE, linewidth=0.8, zorder=0)
    if n := int((own[name] < LIMITS[0]).sum()):
        axis.set_title(f"◂ {n} of {own[name].notna().sum()} below −1", loc="left")


def answer(fits: dict[str, xr.Dataset]) -> str:
    """How well the closed form ranks and predicts the damage to the last states, by model."""
    drawn = table(fits)
    quality = drawn[drawn["layer"].isna() & (drawn["harm"] == STATES)]
    ranks, r2, better, known = [], [], 0, 0
    for name, fit in fits.items():
        own = quality[quality["experiment"] == name]
        if own.empty:
            continue
        model = palette.short_name(fit.attrs["data"])
        ranks.append(f"{quality_words(own.iloc[0], 'prediction_rank')} ({model})")
        r2.append(f"{quality_words(own.iloc[0], 'prediction_r2')} ({model})")
        better += int(own["prediction_r2_low"].iloc[0] > 0)
        known += int(own["prediction_r2_low"].notna().iloc[0])
    if not ranks:
        return "No layer was replaced alone in any model, or too few inputs were tested."
    return (
        "The predictor that was chosen beforehand, the error that the closed form expects of a "
        "layer's attention times the size of that attention, has a rank correlation with the "
        f"damage to the last states of {', '.join(ranks)}. On held-out layers and inputs its R² is "
        f"{', '.join(r2)}: the interval lies above 0, better than a constant, in {better} of "
        f"{known} models."
    )


def quality_words(row: pd.Series, name: str) -> str:
    """A correlation or R^2 with its interval."""
    return captions.interval(*(float(row[f"{name}{end}"]) for end in ("", "_low", "_high")))
