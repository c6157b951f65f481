"""What does one token cost a network of neurons and astrocytes, beside a chip and a brain?"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from tripartite.figures import palette
from tripartite.figures.palette import MM
from tripartite.figures.panels import frame, legend, name_rows, say_left_out
from tripartite.kinds.rebuilt.scores import RECIPES

MAX_MODELS = 6
LOG10_M = 4.0  # of the networks whose energy is shown
CONTEXT = 1000  # tokens that softmax attention reads
WAYS = {  # of computing a token, by the variable of its energy
    "cost_tissue": "network,\nliving tissue",
    "cost_neuromorphic": "network,\nneuromorphic chip",
    "cost_chip": "network,\ndigital chip",
    "cost_chip_softmax": "softmax attention,\ndigital chip",
}
APART = 0.17  # of a row, between models
STRIP = 0.3  # half of the height of a row that its heads fill
MANY = 2000  # marks of heads that are drawn as a picture


def cost(fits: dict[str, xr.Dataset]) -> Figure:
    """Energy of one token by what computes it; neurons that heads need, and those of a cortex."""
    palette.apply()
    shown = {name: fits[name] for name in [*fits][:MAX_MODELS]}
    drawn = table(shown)
    heads = drawn[drawn["quantity"] == "head"]
    rows = [
        (name, recipe)
        for name in shown
        for recipe in heads.loc[heads["experiment"] == name, "recipe"].unique()
    ]
    height = max(70, 5.2 * len(rows) + 32)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(palette.PAGE, height * MM), width_ratios=(1, 1.15)
    )
    draw_energies(left, drawn, shown)
    draw_needs(right, drawn, shown, rows)
    palette.title(left, "Energy", f"$m$ = {power_words(LOG10_M)} hidden neurons\nin each head")
    palette.title(
        right,
        "Neurons",
        "black: as many as a human cortex has\ngrey: paid by the energy of a brain",
    )
    legend(figure, ncols=len(shown))
    say_left_out(figure, len(shown), len(fits))
    return figure


def power_words(log10: float) -> str:
    """A power of ten in digits, by thousands."""
    return f"{10**log10:,.0f}".replace(",", " ")


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Energies of one token, needs of heads, and what a brain has energy and neurons for.

    quantity: a variable of an energy (J, low to high estimate of all assumptions together, of one
    token, or of a word for the brain); head, its need; cortex and energy, the m (low to high) for
    which a human cortex has neurons, and for which a brain has the energy of one word. Needs and m
    are log10.
    """
    rows: list[dict] = []
    needs = [pd.DataFrame({"quantity": []})]
    for name, fit in fits.items():
        about = {"experiment": name, "data": fit.attrs["data"]}
        of_size = fit.sel(log10_features=LOG10_M, method="nearest").sel(context=CONTEXT)
        for way in (*WAYS, "cost_brain"):
            low, high = map(float, of_size[way].values)
            rows.append(about | {"quantity": way, "low": low, "high": high})
        most = float(fit["log10_cortical_neurons"])
        rows.append(about | {"quantity": "cortex", "low": most, "high": most})
        high, low = map(float, fit["log10_affordable_features"].values)
        rows.append(about | {"quantity": "energy", "low": low, "high": high})
        if known := recipes(fit):
            heads = frame({name: fit.sel(recipe=known)}, "log10_features_needed")
            needs.append(heads.drop(columns="network").assign(quantity="head"))
    return pd.concat([pd.DataFrame(rows), *needs[1:]], ignore_index=True).reindex(
        columns=[
            *("experiment", "data", "quantity", "low", "high"),
            *("recipe", "layer", "head", "log10_features_needed"),
        ]
    )


def recipes(fit: xr.Dataset) -> list[str]:
    """The first recipe with a closed form, and the last one if it is another."""
    known = fit["log10_features_needed"].notnull().any(("layer", "head")).values
    names = [str(name) for name in fit["recipe"].values[known]]
    return [*dict.fromkeys(names[:1] + names[-1:])]


def look_of(fits: dict[str, xr.Dataset], name: str) -> palette.Look:
    """The look of the model of an experiment."""
    data = [fit.attrs["data"] for fit in fits.values()]
    return palette.look_of(fits[name].attrs["data"], data)


def draw_energies(axis: Axes, drawn: pd.DataFrame, fits: dict[str, xr.Dataset]) -> None:
    """A row for each way of computing, from the low to the high estimate; the energy of a brain."""
    for place, (name, fit) in enumerate(fits.items()):
        own = drawn[drawn["experiment"] == name].set_index("quantity")
        look = palette.marks(look_of(fits, name))
        for row, way in enumerate(WAYS):
            y = row + min(APART, 0.8 / len(fits)) * (place - (len(fits) - 1) / 2)
            axis.plot(
                own.loc[way, ["low", "high"]].astype(float),
                [y, y],
                label=palette.short_name(fit.attrs["data"]) if own.loc[way, "high"] > 0 else "",
                **look,
            )
    brain = drawn.loc[drawn["quantity"] == "cost_brain", ["low", "high"]]
    if np.isfinite(brain.to_numpy(float)).all():
        axis.axvspan(brain["low"].min(), brain["high"].max(), color=palette.SHADE, linewidth=0)
        axis.annotate(
            "a brain,\none word",
            (brain["high"].max(), len(WAYS) - 0.5),
            xytext=(3, 2),
            textcoords="offset points",
            va="bottom",
            color=palette.KEY,
            fontsize=6.5,
            annotation_clip=False,
        )
    name_rows(axis, [*WAYS.values()])
    ends = drawn.loc[drawn["quantity"].isin([*WAYS, "cost_brain"]), ["low", "high"]].stack()
    if len(ends := ends[np.isfinite(ends) & (ends > 0)]):
        axis.set_xscale("log")
        axis.set_xlim(ends.min() / 5, ends.max() * 200)
        axis.xaxis.set_major_locator(LogLocator(100, numticks=9))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("energy of one token (J), low to high estimate")


def draw_needs(
    axis: Axes, drawn: pd.DataFrame, fits: dict[str, xr.Dataset], rows: list[tuple[str, str]]
) -> None:
    """A row for each model and recipe: the needs of its heads, and what a brain has."""
    low, high = (float(end) for end in next(iter(fits.values()))["log10_features"].values[[0, -1]])
    names, n_beyond, n_heads = [], 0, 0
    for row, (name, recipe) in enumerate(rows):
        own = drawn[drawn["experiment"] == name]
        limits = own.set_index("quantity")[["low", "high"]]
        needs = own.loc[own["recipe"] == recipe, "log10_features_needed"].to_numpy(float)
        energy, cortex = limits.loc["energy"], limits.loc["cortex", "low"]
        width = energy["high"] - energy["low"]
        if np.isfinite(width):
            place = energy["low"], row - 0.5
            axis.add_patch(Rectangle(place, width, 1, color=palette.SHADE, linewidth=0, zorder=-1))
        axis.plot([cortex] * 2, [row - 0.5, row + 0.5], color=palette.EXACT, linewidth=1.2)
        look = palette.marks(RECIPES[recipe][0]._replace(marker=look_of(fits, name).marker))
        places = row + STRIP * (2 * ((np.arange(needs.size) * 0.618034) % 1) - 1)
        axis.plot(
            needs.clip(low, high),
            places,
            **look | {"linestyle": "", "markersize": 2.5, "markeredgewidth": 0.5, "zorder": 1},
            rasterized=needs.size > MANY,
        )
        axis.annotate(
            f"{int((needs <= cortex).sum())} of {needs.size}",
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            annotation_clip=False,
        )
        first = row == 0 or rows[row - 1][0] != name
        called, short = RECIPES[recipe][1], palette.short_name(fits[name].attrs["data"])
        names.append(f"{short}: {called}" if first else called)
        n_beyond, n_heads = n_beyond + int((needs > high).sum()), n_heads + needs.size
    name_rows(axis, names)
    axis.set_xlim(low, high)
    axis.set_xticks(ticks := np.arange(low, high + 1, 5), [palette.power(float(x)) for x in ticks])
    words = "hidden neurons $m$ for 10 % rms error of the normaliser"
    axis.set_xlabel(words + f"\n{n_beyond} of {n_heads} heads beyond" * bool(n_beyond))
    if rows:
        axis.annotate(
            "within\na cortex",
            (1.01, 1),
            xycoords="axes fraction",
            va="bottom",
            color=palette.KEY,
            fontsize=6.5,
            annotation_clip=False,
        )


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Energy of a token of the first model and of a word; heads for which a cortex has neurons."""
    drawn = table(fits)
    first, fit = next(iter(fits.items()))
    energies = drawn[drawn["experiment"] == first].set_index("quantity")[["low", "high"]]
    tissue, brain = energies.loc["cost_tissue"], energies.loc["cost_brain"]
    words = []
    for name, other in fits.items():
        own = drawn[drawn["experiment"] == name]
        most = float(own.loc[own["quantity"] == "cortex", "low"].iloc[0])
        counts = []
        for recipe in recipes(other):
            needs = own.loc[own["recipe"] == recipe, "log10_features_needed"]
            counts.append(f"{int((needs <= most).sum())} of {len(needs)} {RECIPES[recipe][1]}")
        if counts:
            words.append(
                f"{' and '.join(counts)} heads ({palette.short_name(other.attrs['data'])})"
            )
    return (
        f"By published energies of an event, a token of {palette.short_name(fit.attrs['data'])} at "
        f"m = {power_words(LOG10_M)} takes {joules(tissue)} in living "
        f"tissue, one word takes a human brain {joules(brain)}. If all "
        "heads had as many hidden neurons, a human cortex would have enough for "
        f"{', '.join(words) or 'no head whose need is known'}."
    )


def joules(ends: pd.Series) -> str:
    """An energy from low to high."""
    if not np.isfinite(ends.astype(float)).all():
        return "an unknown energy"
    return f"{joule(ends['low'])} to {joule(ends['high'])} J"


def joule(energy: float) -> str:
    """An energy with one digit, as a power of ten below 0.1."""
    if energy > 0.1 or energy == 0:
        return f"{energy:.1f}" if energy < 1e6 else f"{energy:.0e}"
    digit, power = f"{energy:.0e}".split("e")
    return f"{digit} × 10^{int(power)}"
