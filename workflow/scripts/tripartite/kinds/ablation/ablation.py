"""What does a whole transformer lose with its astrocytes, and what with their dynamics alone?"""

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import interval, line, mark

TITLES = (
    "error of every head",
    "the changed layer itself",
    "the model's output",
    "what dynamics adds",
)
OWN = "knockout_best_here"
OF_HEADS = (OWN, "knockout_lagged")  # other constants err more, and 1 by any factor
OF_LAYER = ("knockout_tokens", OWN, "knockout_lagged")
MAX_ERROR = 100  # of a head that is drawn; larger ones stand there
STEP = 0.1  # between perturbations side by side, in layers

Look = tuple[str, str]  # colour and marker of a perturbation
LATE: Look = (palette.LARGE, "D")


def ablation(fits: dict[str, xr.Dataset]) -> Figure:
    """A row per model: errors of heads, the changed layer, the model's output, what dynamics adds.

    Means over tokens and inputs with 95 % intervals over inputs.
    """
    palette.apply()
    figure, axes = plt.subplots(
        len(fits), 4, figsize=(palette.PAGE, 0.95 + 1.75 * len(fits)), squeeze=False
    )
    labels = {
        str(name): str(label)
        for fit in fits.values()
        for name, label in zip(fit["perturbation"].values, fit["label"].values)
    }
    looks = dict(zip(labels, zip(palette.COLOURS, palette.MARKERS)))
    panels = (draw_heads, draw_layer, draw_output, draw_dynamics)
    for row, fit in zip(axes, fits.values()):
        for axis, draw, words in zip(row, panels, TITLES):
            draw(axis, fit, looks)
            palette.title_of(axis, fit if axis is row[0] else None, words)
            axis.set_xlabel("layer")
    grey = {"color": "0.35"}
    handles = [mark(labels[name], marker, color=colour) for name, (colour, marker) in looks.items()]
    handles += [
        mark("outputs of all heads, before they are added", markerfacecolor="white", **grey),
        line("two tokens of the whole model", linestyle=":", **grey),
        mark("whole model minus best constant", color=palette.EXACT),
        mark("best constant minus token before", LATE[1], color=LATE[0]),
        mark("share of likeliest tokens lost by best constant", "*", markersize=5, **grey),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        title="what heads divide by instead of their own $Z$ (constants, and $Z$ of the token "
        "before); bars: 95 % over inputs",
    )
    return figure


def points(axis, x, triple: tuple[np.ndarray, ...], look: Look, **more) -> None:
    """Values with bars, in the colour and with the marker of a perturbation."""
    colour, marker = look
    middle, low, high = triple
    axis.vlines(x, low, high, color=colour, linewidth=0.7, alpha=0.7)
    more = {"markersize": 2.8, "markeredgewidth": 0.6, "linestyle": "", "marker": marker} | more
    axis.plot(x, middle, color=colour, **more)


def of_each(
    fit: xr.Dataset, looks: dict[str, Look], names: Sequence[str]
) -> Iterator[tuple[float, xr.Dataset, Look]]:
    """Shift to the side, part of the fit, and look of each of these perturbations."""
    for place, name in enumerate(names):
        shift = STEP * (place - (len(names) - 1) / 2)
        yield shift, fit.sel(perturbation=name), looks[name]


def draw_heads(axis, fit: xr.Dataset, looks: dict[str, Look]) -> None:
    """Error of the output of each head, a dot per head, with its median over heads."""
    layers = fit["layer"].values
    for shift, one, (colour, marker) in of_each(fit, looks, OF_HEADS):
        error = np.minimum(one["head_error"].values, MAX_ERROR)  # [layer, head]
        x = np.broadcast_to(layers[:, None] + 3 * shift, error.shape)
        axis.plot(x, error, marker, color=colour, markersize=1.8, alpha=0.6, markeredgewidth=0)
        axis.plot(layers + 3 * shift, np.median(error, 1), "_", color=colour, markersize=6)
    axis.set_yscale("log")
    axis.set_ylim(0.05, 1.3 * MAX_ERROR)
    axis.set_yticks([0.1, 1, 10, MAX_ERROR], ["0.1", "1", "10", f"≥{MAX_ERROR}"])
    axis.minorticks_off()
    axis.set_ylabel("error of a head's output")


def draw_layer(axis, fit: xr.Dataset, looks: dict[str, Look]) -> None:
    """The layer that is changed: outputs of its heads alone, and the states that leave it."""
    layers, index = fit["layer"].values, np.arange(fit.sizes["layer"])
    own = fit.sel(lesion=[str(layer) for layer in layers])
    for shift, one, look in of_each(own, looks, OF_LAYER):
        states = tuple(values[index, index] for values in interval(one, "cosine"))
        attended = interval(one, "attended_cosine")
        points(axis, layers + 2 * shift, attended, look, markerfacecolor="white")
        points(axis, layers + 2 * shift, states, look)
    axis.set_ylim(min(-0.05, axis.get_ylim()[0]), 1.05)
    axis.set_ylabel("cosine with the whole model")


def draw_output(axis, fit: xr.Dataset, looks: dict[str, Look]) -> None:
    """The output of the model, against the layer that is changed; all of them last."""
    x = lesions_of(axis, fit)
    for shift, one, look in of_each(fit, looks, list(looks)):
        points(axis, x + shift, interval(one.isel(layer=-1), "cosine"), look)
    axis.axhline(float(fit["cosine_chance"][-1]), color="0.35", linestyle=":")
    axis.set_ylim(-0.15, 1.05)
    axis.set_ylabel("cosine with the whole model")


def draw_dynamics(axis, fit: xr.Dataset, looks: dict[str, Look]) -> None:
    """Cosine that the best constant loses, and what is lost beside it one token late."""
    x = lesions_of(axis, fit)
    points(axis, x - STEP, interval(fit, "dynamics_adds"), (palette.EXACT, "o"))
    points(axis, x + STEP, interval(fit, "late_costs"), LATE)
    lost = 1 - fit["top_token_kept"].sel(perturbation=fit["best_constant"]).values
    axis.plot(x, lost, "*", color="0.35", markersize=4)
    axis.axhline(0, color="0.35", linewidth=0.6)
    axis.set_ylim(-0.3, 1.05)
    axis.set_ylabel("difference of cosines")


def lesions_of(axis, fit: xr.Dataset) -> np.ndarray:
    """Places of the layers that are changed, and of all, apart from them; ticks say so."""
    layers = fit["layer"].values
    x = np.append(layers, layers[-1] + 2)
    axis.axvline(layers[-1] + 1, color="0.8", linewidth=0.6)
    step = max(1, len(layers) // 4)
    axis.set_xticks(x[[*range(0, len(layers), step), -1]], [*map(str, layers[::step]), "all"])
    return x
