"""In which layers does division by the normaliser matter?"""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tripartite.figures import captions, palette
from tripartite.figures.panels import beyond, estimates, frame, grid, legend, line
from tripartite.kinds.ablation.ablation import ALL, DIVISORS, named, names_of

MAX_MODELS = palette.MAX_PANELS // 2
SHOWN: dict[str, dict[str, Any]] = {  # what heads divide by, and how its line looks
    name: {"color": colour, "linestyle": style}
    for name, colour, style in zip(
        ("knockout_best_here", "knockout_best", "knockout_lagged", "knockout_one"),
        palette.CATEGORIES,
        ("-", "--", "-.", ":"),
    )
}
CHANCE: dict[str, Any] = {"color": palette.GUIDE, "linewidth": 0.6}


def ablation_depth(fits: dict[str, xr.Dataset]) -> Figure:
    """Agreement with the intact model against the layer that is changed, a column for each model.

    Above the output of the model, below that of the changed layer's heads; means over tokens and
    inputs with 95 % intervals over inputs.
    """
    palette.apply()
    drawn = table(fits)
    models = drawn.drop_duplicates("experiment").set_index("experiment")["data"]
    n_models = max(len(models), 1)
    figure, axes = grid(2 * n_models, n_models, 45, around_mm=18, sharex="col", sharey=True)
    for experiment, upper, lower in zip(models.index, axes[:n_models], axes[n_models:]):
        own = drawn[drawn["experiment"] == experiment]
        look = palette.look_of(own["data"].iloc[0], models)
        for axis, quantity in ((upper, "output"), (lower, "heads")):
            draw(axis, own[own["quantity"] == quantity], look)
        for value in own.loc[own["quantity"] == "chance", "value"]:
            upper.axhline(value, zorder=0, **CHANCE)
        palette.title_of(upper, fits[experiment])
        lower.set_xlabel("layer that is changed")
        lower.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes[0].set_ylim(max(min(-0.1, axes[0].get_ylim()[0]), -1.05), 1.05)
    axes[0].set_ylabel("output of the model:\ncosine with the intact one")
    axes[n_models].set_ylabel("outputs of the layer's heads:\ncosine with the intact ones")
    if drawn.empty:
        return figure
    entries = [
        *(line(DIVISORS[name].replace("\n", " "), **look) for name, look in SHOWN.items()),
        line("chance: two tokens of one input", **CHANCE),
    ]
    left_out = f"{n_models} of {len(fits)} experiments shown" if n_models < len(fits) else ""
    legend(figure, entries, ncols=3, title=left_out)
    return figure


def draw(axis: Axes, drawn: pd.DataFrame, look: palette.Look) -> None:
    """A line with intervals for each thing that heads divide by."""
    beyond(axis, int((drawn["value"].abs() > 1.05).sum()), len(drawn))
    for name, style in SHOWN.items():
        own = drawn[drawn["perturbation"] == name]
        estimates(
            "layer", "value", data=own, axis=axis, marker=look.marker, markersize=2.2, **style
        )


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """A row for each mark: cosines of the output and of the heads, and chance, by changed layer."""
    fits = dict([*fits.items()][:MAX_MODELS])
    last = {name: fit.isel(layer=-1) for name, fit in fits.items()}
    output = named(frame(last, "cosine"), "cosine").drop(columns="layer")
    output = output[output["lesion"] != ALL].rename(columns={"lesion": "layer"})
    parts = {
        "output": output.astype({"layer": int}),
        "heads": named(frame(fits, "attended_cosine"), "attended_cosine"),
    }
    tables = [
        part[part["perturbation"].isin([*SHOWN])].assign(quantity=quantity)
        for quantity, part in parts.items()
    ]
    chance = named(frame(last, "cosine_chance"), "cosine_chance").assign(quantity="chance")
    return pd.concat([*tables, chance], ignore_index=True)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """The layer in which a constant of other inputs costs most, and what is left of its heads."""
    drawn = table(fits)
    drawn = drawn[drawn["perturbation"] == "knockout_best"]
    models = drawn.drop_duplicates("experiment").set_index("experiment")["data"]
    if drawn.empty:
        return "No effect is known."
    least, heads = [], []
    for experiment, name in zip(models.index, names_of(models)):
        own = drawn[drawn["experiment"] == experiment].dropna(subset="value")
        output = own[own["quantity"] == "output"]
        worst = output.loc[output["value"].idxmin()]
        cosine = captions.interval(*(worst[f"value{end}"] for end in ("", "_low", "_high")))
        least.append(f"layer {worst['layer']:g} of {name} ({cosine})")
        median = float(np.median(own.loc[own["quantity"] == "heads", "value"]))
        heads.append(f"{palette.decimal(median)} ({name})")
    return (
        "Constants of other inputs in one layer change the output most, by its cosine with the "
        f"intact one, in {', '.join(least)}. Outputs of the changed layer's own heads keep "
        f"a cosine, median over layers, of {', '.join(heads)}."
    )
