"""What does a whole transformer lose with its astrocytes?"""

from collections.abc import Iterator

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import interval, line, mark

COLOURS = (palette.LARGE, palette.COLOURS[0], palette.COLOURS[2], *palette.COLOURS[3:])
TITLES = (
    "gain of every head",
    "the changed layer itself",
    "the model's output",
    "if all layers are changed",
)

Looks = dict[str, tuple[str, str]]  # colour and marker of each perturbation


def ablation(fits: dict[str, xr.Dataset]) -> Figure:
    """A row per model: gains of heads, the changed layer, the model's output, and how it builds up.

    Means over tokens and inputs with 95 % intervals over inputs.
    """
    palette.apply()
    figure, axes = plt.subplots(
        len(fits), 4, figsize=(palette.PAGE, 0.75 + 1.75 * len(fits)), squeeze=False
    )
    labels = {
        str(name): str(label)
        for fit in fits.values()
        for name, label in zip(fit["perturbation"].values, fit["label"].values)
    }
    looks = dict(zip(labels, zip(COLOURS, palette.MARKERS)))
    panels = (draw_gains, draw_layer, draw_output, draw_depth)
    for row, fit in zip(axes, fits.values()):
        for axis, draw, words in zip(row, panels, TITLES):
            draw(axis, fit, looks)
            palette.title_of(axis, fit if axis is row[0] else None, words)
            axis.set_xlabel("layer")
    grey = {"color": "0.35"}
    handles = [mark(labels[name], marker, color=colour) for name, (colour, marker) in looks.items()]
    handles += [
        mark("token's state", **grey),
        mark("outputs of the heads alone", markerfacecolor="white", **grey),
        mark("share of likeliest words kept", "*", markersize=5, **grey),
        line("two tokens of the whole model", linestyle=":", **grey),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4,
        title="what heads do instead of dividing by their own $Z$; bars: 95 % over inputs",
    )
    return figure


def points(axis, x, triple: tuple[np.ndarray, ...], own: tuple[str, str], **look) -> None:
    """Values with bars, in the colour and with the marker of a perturbation."""
    colour, marker = own
    middle, low, high = triple
    axis.vlines(x, low, high, color=colour, linewidth=0.8)
    look = {"markersize": 3, "markeredgewidth": 0.7, "linestyle": "", "marker": marker} | look
    axis.plot(x, middle, color=colour, **look)


def of_each(fit: xr.Dataset, looks: Looks) -> Iterator[tuple[int, xr.Dataset, tuple[str, str]]]:
    """Place, part of the fit, and look of each perturbation that it has."""
    for place, name in enumerate(fit["perturbation"].values):
        yield place, fit.sel(perturbation=name), looks[name]


def draw_gains(axis, fit: xr.Dataset, looks: Looks) -> None:
    """sd of ln gain over queries, a dot per head; of perturbations with the same sd, the last."""
    layers, every = fit["layer"].values, fit["sd_log_gain"].values
    for place, one, (colour, marker) in of_each(fit, looks):
        sd = one["sd_log_gain"].values  # [layer, head]
        if any(np.allclose(sd, later, equal_nan=True) for later in every[place + 1 :]):
            continue  # two constants, such as 1 and the mean
        x = np.broadcast_to(layers[:, None] + 0.2 * (place - 1.5), sd.shape)
        axis.plot(x, sd, marker, color=colour, markersize=2, alpha=0.6, markeredgewidth=0)
        axis.plot(layers + 0.2 * (place - 1.5), np.median(sd, 1), "_", color=colour, markersize=6)
    axis.set_yscale("log")
    palette.few_decades(axis)
    axis.set_ylabel("sd of ln gain over queries")


def draw_layer(axis, fit: xr.Dataset, looks: Looks) -> None:
    """The layer that is changed: outputs of its heads alone, and the states that leave it."""
    layers = fit["layer"].values
    for place, one, look in of_each(fit, looks):
        own = one.sel(lesion=[str(layer) for layer in layers])
        index = np.arange(len(layers))
        x = layers + 0.2 * (place - 1)
        states = tuple(values[index, index] for values in interval(own, "cosine"))
        points(axis, x, interval(one, "attended_cosine"), look, markerfacecolor="white")
        points(axis, x, states, look)
    share(axis)
    axis.set_ylabel("cosine with the whole model")


def draw_output(axis, fit: xr.Dataset, looks: Looks) -> None:
    """The output of the model, against the layer that is changed; all of them last."""
    layers = fit["layer"].values
    x = np.append(layers, layers[-1] + 2)
    for place, one, look in of_each(fit, looks):
        points(axis, x + 0.2 * (place - 1), interval(one.isel(layer=-1), "cosine"), look)
        kept = {"marker": "*", "markersize": 4, "alpha": 0.6}
        points(axis, x + 0.2 * (place - 1), interval(one, "top_token_kept"), look, **kept)
    axis.axhline(float(fit["cosine_chance"][-1]), color="0.35", linestyle=":")
    axis.axvline(layers[-1] + 1, color="0.8", linewidth=0.6)
    step = max(1, len(layers) // 4)
    axis.set_xticks(x[[*range(0, len(layers), step), -1]], [*map(str, layers[::step]), "all"])
    share(axis)


def draw_depth(axis, fit: xr.Dataset, looks: Looks) -> None:
    """The states after each layer where all are changed."""
    layers = fit["layer"].values
    for _, one, look in of_each(fit, looks):
        states = interval(one.sel(lesion="all"), "cosine")
        points(axis, layers, states, look, linestyle="-", linewidth=0.6)
    axis.plot(layers, fit["cosine_chance"], color="0.35", linestyle=":")
    share(axis)


def share(axis) -> None:
    """From 0, or what lies below, to 1."""
    axis.set_ylim(min(-0.05, axis.get_ylim()[0]), 1.05)
