"""What are the neurons, synapses and astrocytes, and what does each of them compute?"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from tripartite.figures import palette
from tripartite.figures.palette import MM
from tripartite.kinds.story.schematic import (
    ASTROCYTE,
    HEBBIAN,
    HIDDEN,
    HIDDEN_TEXT,
    OUTPUT,
    PALE,
    WEIGHT,
    WEIGHT_TEXT,
    Look,
    arrow,
    box,
    contacts,
    drawing,
    layers,
    places,
    text,
)

HEIGHT = 81  # mm
LESIONS = (  # as the figure `lesions` numbers and names them
    "calcium held constant",
    "calcium drawn to its mean",
    "calcium of an earlier token",
    "contacts are lost",
    "synapses without astrocyte",
    "synapses are lost",
    "hidden neurons die",
)
SYMBOLS = (  # symbol, name, unit, colour
    ("$q, k, v$", "query, key, value of a token", "–", palette.EXACT),
    ("$Z$", "normaliser of softmax", "–", palette.EXACT),
    ("$\\varphi$", "rates of $m$ hidden neurons", "–", HIDDEN_TEXT),
    ("$H$", "Hebbian synapses", "–", HEBBIAN),
    ("$g$", "contacts with the astrocyte", "–", WEIGHT_TEXT),
    ("$p$", "response of the process", "–", ASTROCYTE),
    ("Ca²⁺", "calcium, where modelled", "µM", ASTROCYTE),
    ("$\\kappa$", "coupling by gap junctions", "–", ASTROCYTE),
)
N_LAYERS, N_HEADS = 3, 5  # of the drawn transformer
BADGE = {"boxstyle": "circle,pad=0.15", "facecolor": palette.EXACT, "edgecolor": "none"}
# Corners of the outlines of the enlarged synapse, in mm; numbers of lesions where they act.
AXON = ((0, 22), (8, 22), (13, 25.5), (25, 25.5), (25, 13), (13, 13), (8, 19.5), (0, 19.5))
SPINE = (
    (26.4, 25), (33, 25.5), (37, 20.8), (42, 20.8), (42, 36), (46, 36), (46, 2), (42, 2),
    (42, 17.6), (37, 17.6), (33, 13), (26.4, 13.2),
)  # fmt: skip
BELOW = (
    (10, 0), (13, 8), (6, 13), (8, 16), (14, 11.5), (23.5, 12), (25.2, 16), (27, 12), (33, 11.5),
    (39, 15.5), (40, 12), (34, 8), (38, 0),
)  # fmt: skip
ABOVE = ((13, 27), (22, 26.3), (25.2, 22), (28.6, 26.3), (36, 26.5), (36, 29.5), (13, 29.5))
PLACES = {
    "1": (15.6, 3.2), "2": (19.6, 3.2), "3": (23.6, 3.2), "4": (20, 11.2), "5": (36.4, 12.6),
    "6": (26.1, 24.2), "7": (4, 20.8),
}  # fmt: skip
CALCIUM = ((14.4, 6.6), (21.4, 6.4), (31.6, 6), (34.4, 5))


def network(fits: dict[str, xr.Dataset]) -> Figure:
    """The network as a drawing, without data: attention, writing, reading, one synapse, scale."""
    palette.apply()
    figure = plt.figure(figsize=(palette.PAGE, HEIGHT * MM), layout=None)
    figure.set_layout_engine("none")
    panels = (  # left, bottom, width and height in mm, title, and what draws it
        (5, 42.5, 45, 34, "Softmax attention in a transformer", draw_attention),
        (57, 42.5, 54, 34, "Write: each token is stored", draw_writing),
        (118, 42.5, 60, 34, "Read: a query recalls", draw_reading),
        (
            5,
            0.5,
            140,
            36,
            "One tripartite synapse, its symbols, and where lesions act",
            draw_synapse,
        ),
        (149, 0.5, 29, 36, "One process per head", draw_scale),
    )
    for left, bottom, width, height, title, draw in panels:
        axis = figure.add_axes(
            (left * MM / palette.PAGE, bottom / HEIGHT, width * MM / palette.PAGE, height / HEIGHT)
        )
        drawing(axis, width, height)
        draw(axis)
        axis.set_title(title, loc="left")
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """The symbols with their names and units, and the numbers of lesions."""
    symbols = [(symbol, name, unit) for symbol, name, unit, _ in SYMBOLS]
    lesions = [(str(number), name, "") for number, name in enumerate(LESIONS, 1)]
    drawn = pd.DataFrame([*symbols, *lesions], columns=["symbol", "name", "unit"])
    return drawn.replace({r"\\varphi": "φ", r"\\kappa": "κ", r"\$": ""}, regex=True)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """What the network computes."""
    return (
        "Synapses H hold the sum over all tokens of values times rates, contacts g the sum of "
        "rates alone. A query reads both: the output is H φ(q), divided by the response p = g·φ(q) "
        "of the astrocyte. This is softmax attention if products of rates φ(q)·φ(k) equal "
        "exp(q·k): with random hidden neurons they do on average, the closer the more there are."
    )


def draw_attention(axis: Axes) -> None:
    """A query weighs four keys, and the values are averaged with these weights, divided by Z."""
    weights = (0.5, 2.6, 1.0, 0.5)  # pt
    rows = places(4, 12.5, 31)
    middle = float(rows.mean())
    box(axis, (3.5, middle), 5, 4.6, "$q$")
    box(axis, (41, middle), 5, 4.6, "$o$", facecolor=OUTPUT, edgecolor=OUTPUT)
    for number, (at, weight) in enumerate(zip(rows, weights), 1):
        axis.plot((6, 14.5), (middle, at), color=palette.GUIDE, linewidth=weight)
        box(axis, (17.5, at), 6, 4.2, f"$k_{number}$")
        axis.plot((20.5, 25.5), (at, at), color=palette.GUIDE, linewidth=weight)
        box(axis, (28.5, at), 6, 4.2, f"$v_{number}$")
        axis.plot((31.5, 38.5), (at, middle), color=palette.GUIDE, linewidth=weight)
    text(axis, 3.5, middle - 4.2, "query")
    text(axis, 17.5, 8.7, "keys")
    text(axis, 28.5, 8.7, "values")
    text(axis, 41, middle - 4.2, "output")
    text(axis, 0, 3, r"$o=\sum_j e^{q\cdot k_j}v_j\,/\,Z$", ha="left", fontsize=7.4)
    words = r"$Z=\sum_j e^{q\cdot k_j}$"
    box(axis, (35.3, 3), 19, 5.6, words, facecolor="white", edgecolor=palette.EXACT)


def draw_writing(axis: Axes) -> None:
    """A token's key drives the hidden layer, its value the output layer; H and g grow."""
    hidden, output = layers(axis, (21, 35, 49), (10.5, 25.5))
    contacts(axis, hidden, 32.6, 18)
    box(axis, (3.5, 22), 6, 4.6, "$k_t$")
    box(axis, (3.5, 13), 6, 4.6, "$v_t$")
    text(axis, 3.5, 26.6, "token $t$", fontsize=7.2)
    for at in hidden:
        arrow(axis, (6.5, 22), (at[0] - 1.5, at[1]), HIDDEN, 0.6)
    arrow(axis, (6.5, 12.4), (output[-1][0], output[-1][1] - 1.4), OUTPUT, 1.0, bend=0.3)
    name_parts(axis, (21, 35, 49), r"$\varphi(k_t)$")
    look = {"fontsize": 7.2, "ha": "left"}
    text(axis, 0, 2, r"$g \leftarrow g + \varphi(k_t)$", color=WEIGHT_TEXT, **look)
    text(axis, 26, 2, r"$H \leftarrow H + v_t\,\varphi(k_t)^{\top}$", color=HEBBIAN, **look)


def draw_reading(axis: Axes) -> None:
    """A query drives the hidden layer; the process gathers p, by which the synapses are divided."""
    hidden, output = layers(axis, (19, 33, 47), (10.5, 25.5))
    middle = 18.0
    for at in contacts(axis, hidden, 30.6, middle):
        arrow(axis, at, (32.4, middle + 0.25 * (at[1] - middle)), WEIGHT, 0.6)
    axis.plot(33.8, middle, "o", color=ASTROCYTE, markersize=11, markeredgecolor="white", zorder=6)
    text(axis, 33.8, middle, "$p$", color="white", fontsize=7.2, zorder=7)
    for side in (1, -1):
        arrow(axis, (33.9, middle + 2 * side), (34.6, middle + 5.2 * side), ASTROCYTE, 1.0)
    text(axis, 40.6, 8.2, "× 1/$p$", color=ASTROCYTE, fontsize=7.2)
    box(axis, (3.5, middle), 5, 4.6, "$q$")
    for at in hidden:
        arrow(axis, (6, middle), (at[0] - 1.5, at[1]), HIDDEN, 0.6)
    arrow(axis, (49, middle), (54, middle), OUTPUT, 1.0)
    box(axis, (56.8, middle), 5, 4.6, "$o$", facecolor=OUTPUT, edgecolor=OUTPUT)
    name_parts(axis, (19, 33, 47), r"$\varphi(q)$")
    look = {"fontsize": 7.2, "ha": "left"}
    text(axis, 0, 2, r"$p = g\cdot\varphi(q) \approx Z$", color=ASTROCYTE, **look)
    text(axis, 27, 2, r"$o = H\,\varphi(q)\,/\,p$", color=OUTPUT, **look)


def name_parts(axis: Axes, x: tuple[float, float, float], rates: str) -> None:
    """The names of hidden layer, process and output layer, above them."""
    parts = ((f"hidden {rates}", HIDDEN_TEXT), ("astrocyte", ASTROCYTE), ("output", OUTPUT))
    for at, (words, colour) in zip((x[0] - 2, x[1] + 0.5, x[2]), parts):
        text(axis, at, 31, words, color=colour, fontsize=7.2)


def draw_synapse(axis: Axes) -> None:
    """Bouton, spine and the astrocyte process around them; numbers of lesions; lists of both."""
    sheath: Look = {"facecolor": PALE, "edgecolor": ASTROCYTE, "linewidth": 0.8, "zorder": 1}
    axis.add_patch(PathPatch(curve(BELOW), **sheath))
    axis.add_patch(PathPatch(curve(ABOVE), **sheath))
    # axon and bouton, dendrite and spine
    axis.add_patch(
        PathPatch(curve(AXON), facecolor=HIDDEN, edgecolor="white", linewidth=0.6, zorder=3)
    )
    axis.add_patch(
        PathPatch(
            curve(SPINE), facecolor=palette.NOT_KNOWN, edgecolor=OUTPUT, linewidth=0.8, zorder=3
        )
    )
    axis.plot(
        (26.1, 26.1), (15.8, 22.4), color=HEBBIAN, linewidth=2.4, solid_capstyle="round", zorder=5
    )
    for x, y in ((23.4, 17.2), (22.4, 19.2), (23.5, 21.2), (21.2, 17.6), (21.4, 20.8)):
        axis.plot(x, y, "o", color="white", markersize=2, markeredgewidth=0, zorder=5)
    for x, y in CALCIUM:
        axis.plot(x, y, "o", color=ASTROCYTE, markersize=2, markeredgewidth=0, zorder=3)
    arrow(axis, (17.5, 15.6), (17.5, 8.6), WEIGHT, 1.6)
    arrow(axis, (25.1, 8.4), (25.1, 14.2), ASTROCYTE, 1.6)
    text(axis, 15.3, 9.4, "$g$", color=WEIGHT_TEXT, fontsize=7.8)
    text(axis, 28.3, 8.6, "1/$p$", color=ASTROCYTE, fontsize=7.2)
    text(axis, 29, 19.1, "$H$", color=HEBBIAN, fontsize=7.8, zorder=6)
    text(axis, 15.5, 19.1, "$\\varphi$", color="black", fontsize=7.8, zorder=6)
    text(axis, 30, 2.6, "Ca²⁺, $p$", color=ASTROCYTE, fontsize=7.2)
    text(axis, 0, 33, "bouton of a\nhidden neuron", color=HIDDEN_TEXT, ha="left")
    text(axis, 47.5, 19.2, "spine of\nan output\nneuron", color=OUTPUT, ha="left")
    text(axis, 26, 33, "astrocyte\nprocess", color=ASTROCYTE)
    for numbers, (x, y) in PLACES.items():
        text(axis, x, y, numbers, color="white", zorder=8, weight="bold", bbox=BADGE)
    for row, (symbol, name, unit, colour) in enumerate(SYMBOLS):
        y = 30.3 - 4 * row
        text(axis, 65, y, symbol, color=colour, fontsize=7.2, ha="right")
        text(axis, 67, y, name, ha="left")
        text(axis, 101, y, unit)
    text(axis, 67, 34.6, "symbols", ha="left", weight="bold")
    text(axis, 101, 34.6, "unit", weight="bold")
    text(axis, 110.2, 34.6, "lesions", ha="left", weight="bold")
    for number, name in enumerate(LESIONS, 1):
        y = 34.3 - 4 * number
        text(axis, 108, y, str(number), color="white", weight="bold", bbox=BADGE)
        text(axis, 110.2, y, name, ha="left")


def curve(points: tuple) -> Path:
    """A closed smooth curve through middles of the edges of a polygon with these corners."""
    corners = np.array(points, dtype=float)
    middles = (corners + np.roll(corners, -1, 0)) / 2
    path = [middles[-1]]
    for corner, middle in zip(corners, middles):
        path += [corner, middle]
    return Path(path, [Path.MOVETO, *[Path.CURVE3] * (2 * len(corners))], closed=False)


def draw_scale(axis: Axes) -> None:
    """A process for each head of each layer, with gap junctions between neighbours."""
    middles = [
        (6.2 + 5 * column, 13.4 + 7 * row) for row in range(N_LAYERS) for column in range(N_HEADS)
    ]
    tiles: Look = {"markeredgecolor": palette.GUIDE, "markeredgewidth": 0.5, "zorder": 1}
    axis.plot(*zip(*middles), "s", color="white", markersize=12.5, **tiles)
    process: Look = {"facecolor": PALE, "edgecolor": ASTROCYTE, "linewidth": 0.6, "zorder": 2}
    where: Look = {"units": "xy", "offsets": middles, "offset_transform": axis.transData}
    axis.add_collection(EllipseCollection(1.2, 4, 0, **where, **process))
    # all synapses, neurons and junctions as one line each
    synapses = [
        (x + a, y + b)
        for x, y in middles
        for place in (-1.3, 0, 1.3)
        for a, b in ((-1.1, place), (1.2, 0), (np.nan, np.nan))
    ]
    dots: Look = {
        "linestyle": "",
        "marker": "o",
        "markersize": 1.8,
        "markeredgewidth": 0,
        "zorder": 3,
    }
    axis.plot(*zip(*synapses), color=HEBBIAN, linewidth=0.5, zorder=2)
    axis.plot(*zip(*synapses[::3]), color=HIDDEN, **dots)
    axis.plot(*zip(*synapses[1::9]), color=OUTPUT, **dots)
    junctions = [
        (x + a, y - 1.6)
        for number, (x, y) in enumerate(middles)
        if number % N_HEADS
        for a in (-4.6, -0.4, np.nan)
    ]
    axis.plot(*zip(*junctions), color=ASTROCYTE, linewidth=1.2, zorder=4)
    text(axis, 16, 33.2, "heads of a layer")
    text(axis, 1.2, 20.4, "layers", rotation=90)
    text(axis, 16, 6, "gap junctions $\\kappa$ \nbetween processes", color=ASTROCYTE, fontsize=7.2)
