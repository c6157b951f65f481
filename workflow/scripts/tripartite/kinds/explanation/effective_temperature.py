"""How warm a softmax attention does a network resemble, and how little does that explain?"""

import matplotlib as mpl
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import beyond, estimates, frame, heads_by, legend, line

MAX_EXPERIMENTS = 4
MAX_HEADS = 6  # of an experiment
TEMPERATURE = "temperature"
DESCRIPTIONS = {  # what is fitted, and its name with the number of parameters
    "uniform share": "share of equal attention ε: 1",
    "decay": "decay with distance γ: 1",
    TEMPERATURE: "inverse temperature β: 1",
    "temperature and uniform share": "β and ε: 2",
    "temperature and decay": "β and γ: 2",
    "key bias": "bias of each key: N − 1",
    "temperature and key bias": "β and biases: N",
}
BETA = (0.0, 1.3)
REMOVED = (-0.35, 1.0)


def effective_temperature(fits: dict[str, xr.Dataset]) -> Figure:
    """A column for each experiment: beta against m, and what descriptions remove."""
    palette.apply()
    drawn = table(fits)
    shown = [*fits][:MAX_EXPERIMENTS]
    names = [fit.attrs["data"] for fit in fits.values()]
    figure, axes = plt.subplots(
        2,
        len(shown),
        squeeze=False,
        sharey="row",
        height_ratios=(45, 62),
        figsize=(palette.COLUMN if len(shown) == 1 else palette.PAGE, 150 * palette.MM),
    )
    for (upper, lower), experiment in zip(axes.T, shown):
        fit, of_fit = fits[experiment], drawn[drawn["experiment"] == experiment]
        look = palette.marks(palette.look_of(fit.attrs["data"], names))
        draw_temperatures(upper, of_fit[of_fit["quantity"] == "inverse temperature"], look)
        draw_removed(lower, of_fit[of_fit["quantity"] == "divergence removed"], look)
        palette.title_of(upper, fit)
        lower.set_title(
            f"$m$ = {palette.power(np.log10(fit['n_features'].values[-1]))}", loc="left"
        )
    axes[0, 0].set_ylabel("likeliest inverse\ntemperature β")
    axes[1, 0].set_yticks(range(len(DESCRIPTIONS)), DESCRIPTIONS.values())
    axes[1, 0].set_ylim(len(DESCRIPTIONS) - 0.5, -0.5)
    scale = mpl.cm.ScalarMappable(palette.HARDNESS, palette.BAD_MAP)
    figure.colorbar(
        scale,
        ax=[*axes.flat],
        orientation="horizontal",
        aspect=50,
        shrink=0.7,
        pad=0.02,
        label="hardness of the head $\\sigma^2$",
    )
    more = [line(f"{len(shown)} of {len(fits)} experiments are shown", linestyle="")]
    legend(figure, more * (len(shown) < len(fits)), ncols=1 if len(shown) == 1 else 3)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Inverse temperatures, measured and predicted, and shares removed, of the heads shown."""
    parts = []
    for experiment, fit in [*fits.items()][:MAX_EXPERIMENTS]:
        one = {experiment: fit}
        beta = frame(
            one,
            "inverse_temperature",
            "inverse_temperature_shifted",
            "sigma_squared",
            explanation=TEMPERATURE,
        )
        beta = beta.rename(columns={"inverse_temperature_shifted": "predicted"})
        removed = frame(one, "divergence_removed_unfitted", "sigma_squared")
        removed = removed[
            removed["explanation"].isin(DESCRIPTIONS)
            & (removed["n_features"] == fit["n_features"].values[-1])
        ]
        named = (
            ("inverse temperature", "inverse_temperature", beta),
            ("divergence removed", "divergence_removed_unfitted", removed),
        )
        heads = heads_by(fit["sigma_squared"].transpose("layer", "head").values, MAX_HEADS)
        places = {(int(fit["layer"][a]), int(fit["head"][b])): i for i, (a, b) in enumerate(heads)}
        for quantity, name, part in named:
            place = [places.get(pair) for pair in zip(part["layer"], part["head"])]
            part = part.assign(quantity=quantity, place=pd.Series(place, part.index, dtype=float))
            columns = {f"{name}{end}": f"value{end}" for end in ("", "_low", "_high")}
            parts.append(part.rename(columns=columns).dropna(subset=["place", "value"]))
    return pd.concat(parts, ignore_index=True)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Betas of the shown heads with the most neurons, and ranges of what descriptions remove."""
    drawn = table(fits)
    if drawn.empty:
        return "No network that is shown could be described."
    random = drawn["data"].str.startswith("random heads")
    of_models = drawn[~random] if not random.all() else drawn
    most = of_models.groupby("experiment")["n_features"].transform("max")
    largest = of_models[of_models["n_features"] == most]
    beta = largest[largest["quantity"] == "inverse temperature"]
    below = int((beta["value_high"] < 1).sum())
    n, sizes = len(beta), " or ".join(map(str, sorted(most.unique())))
    first = (
        f"With m = {sizes} the likeliest inverse temperature of {n} "
        f"{'random heads' if random.all() else 'heads of models'} is {span(beta['value'])} (1: "
        f"softmax attention), with intervals below 1 in {below}."
    )
    removed = largest[largest["quantity"] == "divergence removed"].groupby("explanation")["value"]
    words = {
        TEMPERATURE: "it removes",
        "key bias": "a bias of each key",
        "temperature and key bias": "both",
    }
    shares = [
        f"{text} {span(100 * removed.get_group(name))} %"
        for name, text in words.items()
        if name in removed.groups
    ]
    second = (
        f"Of the divergence from softmax attention, in queries not fitted, {', '.join(shares)}."
        if shares
        else ""
    )
    return f"{first} {second}".strip()


def span(values: pd.Series) -> str:
    """Smallest to largest of some values, with two digits."""
    low, high = (f"{x:.2g}" if abs(x) < 100 else f"{x:.3g}" for x in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def draw_temperatures(axis: Axes, drawn: pd.DataFrame, look: dict) -> None:
    """Beta of each head against m, and what the random-energy model predicts from other heads."""
    axis.axhline(1, color=palette.GUIDE, linewidth=0.6, linestyle="--", label="softmax attention")
    for _, one in drawn.groupby("place"):
        axis.plot(
            one["n_features"],
            one["predicted"],
            color=palette.EXACT,
            linewidth=0.6,
            label="predicted, with a shift fitted to other heads",
        )
        draw_head(axis, "n_features", "value", one, look)
    off = ~drawn["value"].between(*BETA)
    beyond(axis, int(off.sum()), len(drawn), "lower right")
    axis.set(xscale="log", ylim=BETA, xlabel="hidden neurons $m$")
    if len(drawn):
        axis.set_xlim(drawn["n_features"].min() / 1.5, drawn["n_features"].max() * 1.5)


def draw_removed(axis: Axes, drawn: pd.DataFrame, look: dict) -> None:
    """Share that descriptions remove, a row each; heads from above, easy before hard."""
    axis.axvline(0, color=palette.GUIDE, linewidth=0.6, linestyle="--")
    n_heads = max(drawn["place"].max() + 1, 1) if len(drawn) else 1
    rows = {name: row for row, name in enumerate(DESCRIPTIONS)}
    for place, one in drawn.groupby("place"):
        height = 0.7 * ((place + 0.5) / n_heads - 0.5)
        one = one.assign(row=one["explanation"].map(rows) + height)
        draw_head(axis, "value", "row", one, look, across=True)
    for y in np.arange(1, len(rows)) - 0.5:
        axis.axhline(y, color=palette.SHADE, linewidth=0.5)
    off = ~drawn["value"].between(*REMOVED)
    beyond(axis, int(off.sum()), len(drawn), "lower left")
    axis.set(xlim=REMOVED, xlabel="share of divergence\nremoved")
    axis.tick_params(axis="y", length=0)


def draw_head(axis: Axes, x: str, y: str, one: pd.DataFrame, look: dict, across=False) -> None:
    """Estimates of a head in the colour of its hardness."""
    colour = palette.colour_of_hardness(float(one["sigma_squared"].iloc[0]))
    look = look | {"color": palette.KEY, "markerfacecolor": colour, "markeredgecolor": palette.KEY}
    estimates(x, y, data=one, axis=axis, across=across, **look | {"markeredgewidth": 0.5})
