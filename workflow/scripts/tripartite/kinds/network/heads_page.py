"""The map of heads as a page that needs no network: one hovers over a head and reads its numbers.

The drawing library stands in the page; a policy of the page forbids it to fetch anything.
"""

import html
import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import plotly.io

from tripartite.figures import palette
from tripartite.kinds.network.needed_map import TICKS
from tripartite.kinds.network.of_heads import RECIPES

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
BUTTONS = ["zoom2d", "pan2d", "resetScale2d", "toImage"]
MAX_LETTERS = 60  # of a label
ERRORS = (0.0, 1.0)
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: heads</title>
<style>
body {{font: 15px/1.4 sans-serif; margin: 1em; color: #222; overflow-wrap: anywhere}}
h1 {{font-size: 1.2em}}
p {{max-width: 60em}}
</style>
</head>
<body>
<main>
<h1>{title}: every head at a glance</h1>
<p>A square is a head; its colour is what the menu says, dark is bad.
Hover over it to read all its numbers.</p>
"""
FOOT = """
<p><b>Neurons needed</b>: hidden neurons (positive random features) with which the softmax
normaliser of a query has a relative rms error of 10 %, by the closed form: median over queries,
of inputs to which nothing was fitted. <b>Plain</b>: queries and keys as they are.
<b>Balanced</b>: centred and balanced, which leaves softmax attention as it is. <b>Fitted</b>,
<b>generalised</b>: the distribution of the hidden weights is fitted as well, with a width for
each direction (fitted_normal) or one for all (generalized_positive). <b>Errors</b>: relative
error of the output, mean over inputs and networks; an error above that of equal
attention is worse than equal weights for all tokens. <b>Phases</b>: in the Gaussian phase errors
fall as one over the root of the neurons; frozen networks have too few for any use; anomalous ones
are between. <b>Helps most</b>: centring and balancing, or fitting alone, by the decades of
neurons that it saves; training, where its output error is below those of random features of the
same size, of fitted ones and of equal attention, by a larger factor than these are below plain
random features. The table heads.csv beside this page has the numbers with their intervals.</p>
</main>
</body>
</html>
"""


def page(frame: pd.DataFrame, data: str, simulated: dict[str, list[int]]) -> str:
    """The page of the heads in `frame` (of_heads.rows), of the networks with these sizes."""
    n_layers, n_heads = int(frame["layer"].max()) + 1, int(frame["head"].max()) + 1

    def cells(values: list | pd.Series) -> list[list]:
        return [[*values[i : i + n_heads]] for i in range(0, len(values), n_heads)]

    buttons: list[dict] = []

    def view(words: str, title: str, values: list[float], low: float, high: float, **ticks: Any):
        """An entry of the menu: values of all heads, limits and ticks of their colours."""
        z = cells([None if math.isnan(x) else round(x, 3) for x in values])
        bar = {"title.text": title, "tickvals": None, "ticktext": None} | ticks
        change = {"z": [z], "zmin": low, "zmax": high}
        change |= {f"colorbar.{key}": [x] if key != "title.text" else x for key, x in bar.items()}
        buttons.append({"label": words, "method": "restyle", "args": [change]})

    powers = {
        "tickvals": [*map(math.log10, TICKS)],
        "ticktext": [f"10<sup>{x}</sup>" for x in TICKS],
    }
    for name in RECIPES:
        if f"log10_needed_{name}" in frame:  # colours as in the figure: log of log10
            needed = [math.log10(max(x, 1e-3)) for x in frame[f"log10_needed_{name}"]]
            low, high = math.log10(TICKS[0]), math.log10(TICKS[-1])
            view(f"neurons needed, {name}", "neurons", needed, low, high, **powers)
    for name, sizes in simulated.items():
        for m in sizes:
            errors = [*frame[f"output_error_{name}_{m}"]]
            view(f"output error, {name}, {m:,} neurons", "output error", errors, *ERRORS)
    template, details = hover(frame, simulated)
    first = buttons[0]["args"][0]
    heatmap = go.Heatmap(
        z=first["z"][0],
        zmin=first["zmin"],
        zmax=first["zmax"],
        colorscale="cividis",
        reversescale=True,
        colorbar={
            "title": {"text": first["colorbar.title.text"]},
            "tickvals": first["colorbar.tickvals"][0],
            "ticktext": first["colorbar.ticktext"][0],
        },
        xgap=1 if n_heads <= 40 else 0,
        ygap=1 if n_layers <= 40 else 0,
        customdata=cells(details),
        hovertemplate=template,
        hoverongaps=True,
    )
    figure = go.Figure(heatmap)
    figure.update_layout(
        template="none",
        height=min(720, max(420, 160 + 24 * n_layers)),
        margin={"t": 60, "l": 60, "r": 20, "b": 50},
        plot_bgcolor=palette.NOT_KNOWN,
        xaxis={"title": {"text": "head"}, "showgrid": False, "zeroline": False, **ticks(n_heads)},
        yaxis={
            **ticks(n_layers),
            "title": {"text": "layer"},
            "autorange": "reversed",
            "showgrid": False,
            "zeroline": False,
        },
        hoverlabel={
            "align": "left",
            "font": {"size": 13},
            "bgcolor": "white",
            "font_color": "black",
        },
        updatemenus=[
            {
                "buttons": buttons,
                "x": 0,
                "xanchor": "left",
                "y": 1,
                "yanchor": "bottom",
                "pad": {"b": 8},
            }
        ],
    )
    drawn = plotly.io.to_html(
        figure,
        full_html=False,
        include_plotlyjs=True,
        div_id="heads",
        config={"displaylogo": False, "responsive": True, "modeBarButtons": [BUTTONS]},
    )
    return HEAD.format(policy=POLICY, title=cut(data, 120)) + drawn + FOOT


def ticks(n: int) -> dict[str, int]:
    """Ticks of n layers or heads: whole numbers, at most 20 of them."""
    return {"tick0": 0, "dtick": -(-n // 20)}


def hover(frame: pd.DataFrame, simulated: dict[str, list[int]]) -> tuple[str, list[list[str]]]:
    """What is shown of a head: a template, and the texts of each head that fill it."""
    lines, columns = [], []

    def field(texts: list[str]) -> str:
        columns.append(texts)
        return f"%{{customdata[{len(columns) - 1}]}}"

    layer, head = (
        field([cut(text, MAX_LETTERS) for text in frame[f"{name}_label"]])
        for name in ("layer", "head")
    )
    orders = frame["order"].unique()  # one order is said once, which keeps the page small
    order = field([*frame["order"]]) if len(orders) > 1 else orders[0]
    lines.append(f"<b>layer {layer}, head {head}</b> {order}")
    for name in RECIPES:
        if f"log10_needed_{name}" in frame:
            texts = [number(x) for x in frame[f"log10_needed_{name}"].round(1)]
            power = f"10<sup>{field(texts)}</sup>"  # of all heads once, as it is long
            lines.append(f"neurons needed, {name}: {power}")
    for name, sizes in simulated.items():
        for m in sizes:
            both = zip(frame[f"output_error_{name}_{m}"], frame[f"phase_{name}_{m}"])
            texts = [f"{number(error)}{phase and f' ({phase})'}" for error, phase in both]
            lines.append(f"output error, {name}, {m:,} neurons: {field(texts)}")
    if "output_error_uniform" in frame:
        texts = [number(x) for x in frame["output_error_uniform"]]
        lines.append(f"output error, equal attention: {field(texts)}")
    if trained := [name for name in frame if name.startswith("output_error_learned_")]:
        form = ", ".join(f"{name.rsplit('_', 1)[1]}: {{}}" for name in trained)
        texts = [form.format(*map(number, errors)) for errors in frame[trained].values.tolist()]
        known = frame[trained].notna().any(axis=1)
        texts = [text if is_known else "–" for text, is_known in zip(texts, known)]
        lines.append(f"output error, trained features: {field(texts)}")
    lines.append(f"<b>helps most: {field([*frame['helps']])}</b>")
    return "<br>".join(lines) + "<extra></extra>", [[*texts] for texts in zip(*columns)]


def number(x: float) -> str:
    """Three digits; a dash for what is not known."""
    return "–" if math.isnan(x) else f"{x:.3g}"


def cut(text: object, n_letters: int) -> str:
    """A text of a user as HTML, at most n_letters long."""
    text = str(text)
    return html.escape(text if len(text) <= n_letters else f"{text[: n_letters - 1]}…")
