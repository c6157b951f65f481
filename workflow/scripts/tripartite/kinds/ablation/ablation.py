"""What does a whole transformer lose with its astrocytes?"""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette

WORDS = {
    "knockout_none": "divided by 1",
    "knockout_mean": "by the mean of $Z$",
    "knockout_lagged": "by $Z$ of the token before",
}
LOOK = dict(
    zip(WORDS, zip((palette.LARGE, palette.COLOURS[0], palette.COLOURS[2]), palette.MARKERS))
)
TITLES = (
    "gain of every head",
    "the changed layer itself",
    "the model's output",
    "if all layers are changed",
)


def ablation(fits: dict[str, xr.Dataset]) -> Figure:
    """A row per model: gains of heads, the changed layer itself, the model's output, and how it builds up.

    Means over tokens and inputs with 95 % intervals over inputs.
    """
    palette.apply()
    figure, axes = plt.subplots(
        len(fits), 4, figsize=(palette.PAGE, 0.75 + 1.75 * len(fits)), squeeze=False
    )
    panels = (draw_gains, draw_layer, draw_output, draw_depth)
    for row, fit in zip(axes, fits.values()):
        for axis, draw, words in zip(row, panels, TITLES):
            draw(axis, fit)
            palette.title_of(axis, fit if axis is row[0] else None, words)
            axis.set_xlabel("layer")
    grey = {"color": "0.35"}
    handles = [
        plt.Line2D(
            [], [], color=colour, marker=marker, markersize=3, linestyle="", label=WORDS[kind]
        )
        for kind, (colour, marker) in LOOK.items()
    ]
    handles += [
        plt.Line2D([], [], marker="o", markersize=3, linestyle="", label="token's state", **grey),
        plt.Line2D(
            [],
            [],
            marker="o",
            markersize=3,
            markerfacecolor="white",
            linestyle="",
            label="outputs of the heads alone",
            **grey,
        ),
        plt.Line2D(
            [],
            [],
            marker="*",
            markersize=5,
            linestyle="",
            label="share of likeliest words kept",
            **grey,
        ),
        plt.Line2D([], [], linestyle=":", label="two tokens of the whole model", **grey),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4,
        title="what heads do instead of dividing by their own $Z$; bars: 95 % over inputs",
    )
    return figure


def kinds_of(fit: xr.Dataset) -> list[str]:
    return [kind for kind in LOOK if kind in fit["perturbation"].values]


def points(axis, x, triple: tuple[np.ndarray, ...], kind: str, **look) -> None:
    """Values with bars in the colour of a kind."""
    colour, marker = LOOK[kind]
    middle, low, high = triple
    axis.vlines(x, low, high, color=colour, linewidth=0.8)
    look = {"markersize": 3, "markeredgewidth": 0.7, "linestyle": "", "marker": marker} | look
    axis.plot(x, middle, color=colour, **look)


def ends(one: xr.Dataset, name: str) -> tuple[np.ndarray, ...]:
    return tuple(one[name + end].values for end in ("", "_low", "_high"))


def draw_gains(axis, fit: xr.Dataset) -> None:
    """sd of ln gain over queries, one dot per head and kind; without any division it is that by the mean."""
    layers = fit["layer"].values
    for place, kind in enumerate(kinds_of(fit)):
        if kind == "knockout_none" and "knockout_mean" in kinds_of(fit):
            continue
        colour, marker = LOOK[kind]
        sd = fit["sd_log_gain"].sel(perturbation=kind).values  # [layer, head]
        x = np.broadcast_to(layers[:, None] + 0.2 * (place - 1.5), sd.shape)
        axis.plot(x, sd, marker, color=colour, markersize=2, alpha=0.6, markeredgewidth=0)
        axis.plot(layers + 0.2 * (place - 1.5), np.median(sd, 1), "_", color=colour, markersize=6)
    axis.set_yscale("log")
    palette.few_decades(axis)
    axis.set_ylabel("sd of ln gain over queries")


def draw_layer(axis, fit: xr.Dataset) -> None:
    """The layer that is changed: outputs of its heads alone, and the states that leave it."""
    layers = fit["layer"].values
    for place, kind in enumerate(kinds_of(fit)):
        one = fit.sel(perturbation=kind)
        own = one.sel(lesion=[str(layer) for layer in layers])
        index = np.arange(len(layers))
        x = layers + 0.2 * (place - 1)
        states = tuple(values[index, index] for values in ends(own, "cosine"))
        points(axis, x, ends(one, "attended_cosine"), kind, markerfacecolor="white")
        points(axis, x, states, kind)
    share(axis)
    axis.set_ylabel("cosine with the whole model")


def draw_output(axis, fit: xr.Dataset) -> None:
    """The output of the model, against the layer that is changed; all of them last."""
    layers = fit["layer"].values
    x = np.append(layers, layers[-1] + 2)
    for place, kind in enumerate(kinds_of(fit)):
        one = fit.sel(perturbation=kind)
        last = one.isel(layer=-1)
        points(axis, x + 0.2 * (place - 1), ends(last, "cosine"), kind)
        kept = ends(one, "top_token_kept")
        points(axis, x + 0.2 * (place - 1), kept, kind, marker="*", markersize=4, alpha=0.6)
    axis.axhline(float(fit["cosine_chance"][-1]), color="0.35", linestyle=":")
    axis.axvline(layers[-1] + 1, color="0.8", linewidth=0.6)
    step = max(1, len(layers) // 4)
    axis.set_xticks(x[[*range(0, len(layers), step), -1]], [*map(str, layers[::step]), "all"])
    share(axis)


def draw_depth(axis, fit: xr.Dataset) -> None:
    """The states after each layer where all are changed."""
    layers = fit["layer"].values
    for kind in kinds_of(fit):
        points(
            axis,
            layers,
            ends(fit.sel(perturbation=kind, lesion="all"), "cosine"),
            kind,
            linestyle="-",
            linewidth=0.6,
        )
    axis.plot(layers, fit["cosine_chance"], color="0.35", linestyle=":")
    share(axis)


def share(axis) -> None:
    """From 0, or what lies below, to 1."""
    axis.set_ylim(min(-0.05, axis.get_ylim()[0]), 1.05)
