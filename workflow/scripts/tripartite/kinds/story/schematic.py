"""Drawings of the network, in mm: what the figures `network` and `overview` share."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch

from tripartite.figures import palette

HIDDEN, HEBBIAN, WEIGHT, ASTROCYTE, OUTPUT = palette.PARTS.values()
WEIGHT_TEXT = "#806000"  # words about g: its orange is too light for letters
HIDDEN_TEXT = "#2C7A6D"
PALE = to_rgba(ASTROCYTE, 0.16)
SMALL = 6.5  # pt
STRENGTHS = (0.5, 1.3, 0.8, 1.6, 0.5, 1.0)  # pt, of the synapses and contacts of each hidden neuron

Point = tuple[float, float]
Look = dict[str, Any]  # options of artists


def drawing(axis: Axes, width: float, height: float) -> None:
    """Make axes a sheet of width x height mm: a panel with a letter, without an axis to read."""
    axis.set(xlim=(0, width), ylim=(0, height), xticks=[], yticks=[], aspect="equal", anchor="W")
    axis.spines[:].set_visible(False)
    axis.patch.set_visible(False)


def text(axis: Axes, x: float, y: float, words: str, **look: Any) -> None:
    """Words at a place, in the middle unless look (options of Axes.text) says otherwise."""
    options: Look = {"ha": "center", "va": "center", "fontsize": SMALL} | look
    axis.text(x, y, words, **options)


def arrow(
    axis: Axes, start: Point, end: Point, colour: str, width: float = 1.0, bend: float = 0.0
) -> None:
    """An arrow from start to end, bent to the right by `bend` of its length."""
    axis.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>,head_length=3,head_width=1.6",
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=0,
            shrinkB=0,
            linewidth=width,
            color=colour,
            zorder=4,
        )
    )


def box(axis: Axes, middle: Point, width: float, height: float, words: str, **look: Any) -> None:
    """A rounded box with words in it."""
    edge: Look = {"edgecolor": palette.GUIDE, "linewidth": 0.6, "zorder": 5}
    options: Look = edge | {"facecolor": palette.SHADE} | look
    x, y = middle
    axis.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.8",
            **options,
        )
    )
    text(
        axis, x, y - 0.1, words, fontsize=7.2, zorder=6, color=palette.text_on(options["facecolor"])
    )


def neurons(axis: Axes, middles: Iterable[Point], colour: str) -> None:
    """The bodies of neurons of one layer."""
    look: Look = {
        "markersize": 7.4,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "zorder": 5,
    }
    axis.plot(*zip(*middles), "o", color=colour, **look)


def places(n: int, low: float, high: float) -> np.ndarray:
    """Places of n parts side by side."""
    return np.linspace(high, low, n)


def layers(axis: Axes, x: tuple[float, float, float], y: Point) -> tuple[list[Point], list[Point]]:
    """Hidden and output neurons, the synapses H between them, and the process around these.

    x: hidden layer, astrocyte, output layer; y: lowest and highest neuron. Returns where both
    layers of neurons are.
    """
    low, high = y
    middle, half = (low + high) / 2, (high - low) / 2
    hidden = [(x[0], float(at)) for at in places(len(STRENGTHS), low, high)]
    output = [(x[2], float(at)) for at in places(3, middle - half / 2, middle + half / 2)]
    for a, strength in zip(hidden, STRENGTHS):
        fan = [point for b in output for point in (a, b)]
        axis.plot(*zip(*fan), color=HEBBIAN, linewidth=strength, zorder=2)
    sheath: Look = {"facecolor": PALE, "edgecolor": ASTROCYTE, "linewidth": 0.8, "zorder": 1}
    axis.add_patch(Ellipse((x[1], middle), 8.5, 2 * half + 4.5, **sheath))
    neurons(axis, hidden, HIDDEN)
    neurons(axis, output, OUTPUT)
    return hidden, output


def contacts(axis: Axes, hidden: Iterable[Point], x: float, middle: float) -> list[Point]:
    """Contacts g of hidden neurons with the process, orange points at x; returns where they are."""
    found = []
    for at, strength in zip(hidden, STRENGTHS):
        place = (x, middle + 0.9 * (at[1] - middle))
        axis.plot(*zip((at[0] + 1.3, at[1]), place), color=WEIGHT, linewidth=0.7, zorder=3)
        size = 2.4 + 1.4 * strength
        look: Look = {"markersize": size, "markeredgecolor": "white", "markeredgewidth": 0.5}
        axis.plot(*place, "o", color=WEIGHT, zorder=5, **look)
        found.append(place)
    return found


def head(axis: Axes, width: float = 112, height: float = 33) -> None:
    """An attention head of neurons and one astrocyte process, as it writes and as it reads."""
    drawing(axis, width, height)
    middle = 17.5
    hidden, output = layers(axis, (24, 41, 60), (8.5, 26.5))
    contacts(axis, hidden, 38.4, middle)
    for at, words, name in ((24.5, "$k$", "key"), (17.5, "$q$", "query"), (10.5, "$v$", "value")):
        box(axis, (11, at), 5, 4.6, words)
        text(axis, 7.6, at, name, ha="right")
    drive = [
        point
        for start in (24.5, 17.5)
        for at in hidden
        for point in ((13.5, start), (at[0] - 1.3, at[1]), (np.nan, np.nan))
    ]
    axis.plot(*zip(*drive), color=palette.GUIDE, linewidth=0.5, zorder=1)
    arrow(axis, (13.5, 9.6), (output[-1][0], output[-1][1] - 1.4), OUTPUT, 0.8, bend=0.25)
    arrow(axis, (62, middle), (69, middle), OUTPUT, 1.2)
    for at, words, colour in (
        (22, "hidden $\\varphi$", HIDDEN_TEXT),
        (42.5, "astrocyte $p$", ASTROCYTE),
        (61, "output", OUTPUT),
    ):
        text(axis, at, 32, words, color=colour, fontsize=7.2)
    text(axis, 55.5, 27.4, "synapses $H$", color=HEBBIAN, fontsize=7.2)
    text(axis, 31.5, 28.2, "contacts $g$", color=WEIGHT_TEXT, fontsize=7.2)
    left: Look = {"ha": "left", "fontsize": 7.2}
    text(axis, 73, 31.6, "write, token by token", weight="bold", ha="left")
    text(axis, 73, 27.2, r"$H \leftarrow H + v\,\varphi(k)^{\top}$", color=HEBBIAN, **left)
    text(axis, 73, 22.9, r"$g \leftarrow g + \varphi(k)$", color=WEIGHT_TEXT, **left)
    text(axis, 73, 17.5, "read", weight="bold", ha="left")
    text(axis, 73, 13.1, r"$p = g\cdot\varphi(q)$", color=ASTROCYTE, **left)
    text(axis, 73, 8.8, r"output $= H\,\varphi(q)\,/\,p$", color=OUTPUT, **left)
    text(axis, 73, 3.4, "softmax attention if $\\varphi(q)\\cdot\\varphi(k)=e^{q\\cdot k}$", **left)
