"""What do whole transformers lose if their heads divide by something else than their normaliser?"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import captions, palette
from tripartite.figures.palette import MM
from tripartite.figures.panels import beyond, estimates, frame, legend, line, mark

MAX_MODELS = 8
ALL = "all"  # layers
DIVISORS = {  # what heads divide by, in the order of rows
    "knockout_best_here": "best constant of the input",
    "knockout_best_inside": "best constant of other inputs,\nin the changed model",
    "knockout_best": "best constant of other inputs",
    "knockout_mean": "mean of $Z$ of other inputs",
    "knockout_lagged": "$Z$ of the token before",
    "knockout_one": "no division",
}
CHANCE = {"chance": "chance: two tokens of one input"}
RANGE: dict[str, Any] = {"linewidth": 3, "alpha": 0.3}  # over layers


def ablation(fits: dict[str, xr.Dataset]) -> Figure:
    """The model's output against the intact one, a row for each thing that heads divide by.

    Changed in one layer (median and range over layers) and in all: means over tokens and inputs
    with 95 % intervals over inputs; likeliest words, where a model has them; what dynamics adds.
    """
    palette.apply()
    drawn = table(fits)
    of_quantity = dict([*drawn.groupby("quantity", sort=False)])
    models = drawn.drop_duplicates("experiment").set_index("experiment")["data"]
    looks = {name: palette.look_of(data, models) for name, data in models.items()}
    rows = DIVISORS | CHANCE
    height = len(rows) * max(7.5, 2.2 * len(models) + 2) + 32
    figure = plt.figure(figsize=(palette.PAGE, min(palette.MAX_HEIGHT, height * MM)))
    widths = [1.8, 0.8, 0.8] if "words" in of_quantity else [1.8, 1]
    spaces = figure.add_gridspec(1, len(widths), width_ratios=widths)
    output = figure.add_subplot(spaces[0])
    draw(output, of_quantity.get("cosine", drawn), [*rows], looks)
    output.set_title("Output of the model", loc="left")
    output.set_xlabel("cosine with the intact model")
    output.set_yticks(range(len(rows)), [*rows.values()])
    output.axhline(len(DIVISORS) - 0.5, color=palette.GUIDE, linewidth=0.6)  # chance is below
    if "words" in of_quantity:
        words = figure.add_subplot(spaces[1], sharey=output)
        draw(words, of_quantity["words"], [*rows], looks)
        words.tick_params(labelleft=False)
        words.set_title("Likeliest words", loc="left")
        words.set_xlabel("share of tokens kept")
    dynamics = figure.add_subplot(spaces[-1])
    draw(dynamics, of_quantity.get("dynamics", drawn[:0]), [*models.index], looks)
    dynamics.set_yticks(range(len(models)), names_of(models, 10))
    dynamics.set_title("What dynamics adds", loc="left")
    dynamics.set_xlabel("cosine added")
    if not looks:
        return figure
    grey = palette.Look(palette.KEY, palette.KEY, next(iter(looks.values())).marker)
    entries = [
        *(
            mark(name, **palette.marks(look))
            for name, look in zip(names_of(models), looks.values())
        ),
        mark("one layer changed: median", **palette.marks(grey)),
        line("range over layers", color=palette.KEY, **RANGE),
        mark("all layers changed (bars: 95 %)", **palette.marks(grey, filled=False)),
    ]
    left_out = f"{len(models)} of {len(fits)} experiments shown" if len(models) < len(fits) else ""
    legend(figure, entries, ncols=2 if len(models) <= 4 else 4, title=left_out)
    return figure


def draw(axis: Axes, drawn: pd.DataFrame, rows: Sequence[str], looks: dict) -> None:
    """Marks of each model, filled for one layer and hollow for all, with the range over layers."""
    for i, (experiment, look) in enumerate(looks.items()):
        own = drawn[drawn["experiment"] == experiment]
        shift = 0.0 if experiment in rows else (i - (len(looks) - 1) / 2) * 0.75 / len(looks)
        own = own.assign(place=[rows.index(row) + shift for row in own["row"]])
        grey = palette.Look(palette.GUIDE, palette.GUIDE, look.marker)
        one, every = (own[own["changed"] == words] for words in ("one layer", "all layers"))
        axis.hlines(one["place"], one["least"], one["most"], color=look.line, zorder=1, **RANGE)
        for part, marks in (
            (one, palette.marks(look)),
            (every, palette.marks(look, filled=False)),
            (own[own["changed"] == "nothing"], palette.marks(grey)),
        ):
            estimates("value", "place", data=part, axis=axis, across=True, **marks)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    low, high = axis.get_xlim()
    low, high = max(min(-0.05, low), -1.05), min(max(1.04, high), 2.05)
    axis.set_xlim(low, high)
    lost = drawn["value"].notna() & ~drawn["value"].between(low, high)
    beyond(axis, int(lost.sum()), len(drawn), "lower right")
    axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axis.tick_params(axis="y", length=0)
    axis.axvline(0, color=palette.GUIDE, linewidth=0.6, zorder=0)


def names_of(models: pd.Series, n_letters: int = 16) -> list[str]:
    """Short names of models, by experiment where two have the same."""
    names = [palette.short_name(data, n_letters) for data in models]
    return [
        name if names.count(name) == 1 else palette.short_name(str(experiment), n_letters)
        for name, experiment in zip(names, models.index)
    ]


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """A row for each mark: its quantity, its row, what is changed, and the range over layers."""
    fits = {name: fit.isel(layer=-1) for name, fit in [*fits.items()][:MAX_MODELS]}
    cosine, words = frame(fits, "cosine"), frame(fits, "top_token_kept")
    adds, chance = frame(fits, "dynamics_adds", "best_constant"), frame(fits, "cosine_chance")
    chance = chance.assign(row="chance", changed="nothing").drop(columns="layer")
    parts = {
        "cosine": pd.concat([changed(cosine, "cosine"), named(chance, "cosine_chance")]),
        "words": changed(words, "top_token_kept"),
        "dynamics": changed(adds, "dynamics_adds"),
    }
    tables = [part.assign(quantity=quantity) for quantity, part in parts.items()]
    return pd.concat([part for part in tables if len(part)] or tables[:1], ignore_index=True)


def named(part: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table whose number and ends are called value."""
    return part.rename(columns={f"{name}{end}": f"value{end}" for end in ("", "_low", "_high")})


def changed(part: pd.DataFrame, name: str) -> pd.DataFrame:
    """Medians and ranges over single layers, and values of all layers, for each row."""
    part = named(part, name).drop(columns="layer")
    part["row"] = part["perturbation"] if "perturbation" in part else part["experiment"]
    part = part[part["row"].isin([*DIVISORS]) | (part["row"] == part["experiment"])]
    part = part.drop(columns="perturbation", errors="ignore")
    every = part[part["lesion"] == ALL].assign(changed="all layers").drop(columns="lesion")
    single = part[part["lesion"] != ALL]
    single = single.groupby(["experiment", "data", "recipe", "network", "row"], sort=False)["value"]
    one = single.agg(value="median", least="min", most="max").reset_index()
    return pd.concat([one.assign(changed="one layer"), every])


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Cosines with constants of other inputs, in one layer and in all, and what dynamics adds."""
    drawn = table(fits)
    models = drawn.drop_duplicates("experiment").set_index("experiment")["data"]

    def values(quantity: str, row: str, changed: str) -> str:
        of_row = drawn[(drawn["quantity"] == quantity) & (drawn["changed"] == changed)]
        found = []
        for experiment, name in zip(models.index, names_of(models)):
            own = of_row[
                (of_row["experiment"] == experiment) & of_row["row"].isin([row, experiment])
            ]
            for _, one in own.iterrows():
                ends = (one[f"value{end}"] for end in ("", "_low", "_high"))
                found.append(f"{captions.interval(*ends)} ({name})")
        return ", ".join(found) or "not known"

    if drawn.empty:
        return "No effect is known."
    best, inside = "knockout_best", "knockout_best_inside"
    named_best = {*drawn.loc[drawn["quantity"] == "dynamics", "best_constant"].dropna()}
    words = DIVISORS.get(*named_best) if len(named_best) == 1 else None
    words = (words or "constant that serves best").replace("$", "")
    return (
        "Division by the best constants of other inputs leaves the output a cosine with the intact "
        f"one of {values('cosine', best, 'one layer')} if one layer is changed (medians over "
        f"layers), and of {values('cosine', best, 'all layers')} if all are. Then constants fitted "
        f"in the changed model leave {values('cosine', inside, 'all layers')}, and no division "
        f"{values('cosine', 'knockout_one', 'all layers')}; dynamics adds "
        f"{values('dynamics', '', 'all layers')} to the {words}."
    )
