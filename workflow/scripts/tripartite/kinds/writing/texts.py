"""What do whole transformers write when their attention is rebuilt? Texts, and a page of all."""

import html
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import captions, palette
from tripartite.figures.palette import wrapped

POINTS = 72  # an inch
SIZE, STEP = 6.5, 8.2  # of letters and of lines, in points
NETWORK, BITS, TEXT = 8.0, 92.0, 112.0  # where columns begin, in points; BITS is the end of it
WIDTH = palette.PAGE * POINTS - TEXT - 36
MAX_HEIGHT = 7.85 * POINTS
MAX_LINES = 1  # of a text; the page beside it has all of them in full
WORDS = {
    "softmax": "softmax attention",
    "equal": "equal attention",
    "none": "no attention",
    "generalized": "one width",
    "learned": "trained",
}
COLOURS = {  # beside texts: recipes by darkness
    "softmax": palette.EXACT,
    **{name: look.fill for name, look in palette.RECIPES.items()},
    "generalized": palette.RECIPES["fitted"].fill,
}
TOP, BOTTOM = ("softmax",), ("equal", "none")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Row(NamedTuple):
    """A written text with what wrote it, and its bits per character by exact attention."""

    name: str
    m: int
    draw: int
    text: str
    scores: dict[str, float]


class Block(NamedTuple):
    """All texts after one prompt at one temperature."""

    data: str
    prompt: str
    temperature: float
    rows: list[Row]


def texts(fits: dict[str, xr.Dataset]) -> Figure:
    """Blocks of texts, a prompt each, from softmax attention over fewer neurons to no attention.

    What does not fit on the page is left out: blocks, then sizes, and seeds last.
    """
    palette.apply()
    every = [block for fit in fits.values() for block in blocks(fit)]
    shown = fitting(every)
    height = sum(map(height_of, shown)) + STEP
    figure = plt.figure(figsize=(palette.PAGE, height / POINTS), layout="none")
    y = height - STEP
    for block in shown:
        y = draw_block(figure, block, y, height)
    n_texts = sum(len(block.rows) for block in every)
    n_shown = sum(len(block.rows) for block in shown)
    words = "numbers: bits per character that the exact transformer finds in a text"
    if n_shown < n_texts:
        words += f"; {n_shown} of {n_texts} texts"
    put(figure, 0, y + 2, height, words, color=palette.KEY)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """The texts that are shown, in full, with scores; recipe: or the reference, with m = 0."""
    rows = []
    for block in fitting([block for fit in fits.values() for block in blocks(fit)]):
        about = {"data": block.data, "prompt": block.prompt, "temperature": block.temperature}
        for row in block.rows:
            own = {"recipe": row.name, "n_features": row.m, "seed": row.draw, "text": row.text}
            rows.append(about | own | row.scores)
    return pd.DataFrame(rows)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Mean bits per character of the texts: of softmax attention, and of the largest networks."""
    words = []
    for fit in fits.values():
        one = fit.sel(measure="bits_per_character").isel(temperature=0)
        named: list[tuple[str, str, dict]] = [
            (WORDS[name], "reference_mean_score", {"reference": name}) for name in TOP + BOTTOM
        ]
        largest = int(fit["n_features"][-1])
        networks: list[tuple[str, str, dict]] = [
            (
                f"{largest} {WORDS.get(name, name)} neurons",
                "mean_score",
                {"recipe": name, "n_features": largest},
            )
            for name in map(str, fit["recipe"].values)
        ]
        means = [
            f"{mean_words(one, variable, place)} with {called}"
            for called, variable, place in (*named[:1], *networks[::-1], *named[1:])
        ]
        words.append(f"{palette.short_name(fit.attrs['data'])} {', '.join(means)}")
    return (
        "The texts take the exact transformer so many bits per character, mean over prompts and "
        f"seeds: {'; '.join(words)}. Few bits mean likely texts, repetitions too, not good ones."
    )


def mean_words(fit: xr.Dataset, name: str, place: dict) -> str:
    """A mean with its interval, which is cut at 0."""
    middle, low, high = (float(fit[f"{name}{end}"].sel(place)) for end in ("", "_low", "_high"))
    return captions.interval(middle, max(low, 0) if low == low else low, high)


def draw_block(figure: Figure, block: Block, y: float, height: float) -> float:
    """A prompt and its texts, from y (points) downwards; returns where the next block begins."""
    for line in title_of(block):
        put(figure, 0, y, height, palette.plain_text(line), weight="bold")
        y -= STEP
    last = None
    for row in block.rows:
        lines = wrapped(row.text, WIDTH, MAX_LINES)
        top = y + SIZE
        if (row.name, row.m) != last:
            put(figure, NETWORK, y, height, palette.plain_text(words_of(row)))
        bits = palette.decimal(row.scores["bits_per_character"])
        put(figure, BITS + 14, y, height, bits, color=palette.KEY, ha="right")
        for line in lines:
            put(figure, TEXT, y, height, palette.plain_text(line))
            y -= STEP
        bottom = y + STEP - 2
        if colour := COLOURS.get(row.name):
            x, ends = 2 / POINTS / palette.PAGE, [(top - 1) / height, bottom / height]
            bar = mpl.lines.Line2D([x, x], ends, color=colour, lw=3, solid_capstyle="butt")
            figure.add_artist(bar)
        last = row.name, row.m
    return y - STEP / 2


def put(figure: Figure, x: float, y: float, height: float, words: str, **more: object) -> None:
    """A line of text at x, y in points from the left and the bottom."""
    place = x / POINTS / palette.PAGE, y / height
    figure.text(*place, words, fontsize=SIZE, va="baseline", **more)  # type: ignore[arg-type]


def words_of(row: Row) -> str:
    """What wrote a text, such as fitted, m = 1024."""
    name = WORDS.get(row.name, row.name)
    return f"{name}, m = {row.m}" if row.m else name


def blocks(fit: xr.Dataset) -> Iterator[Block]:
    """The texts of an experiment: those of softmax first, then from many neurons to none."""
    measures = [str(name) for name in fit["measure"].values]

    def row(of: str, name: str, m: int, draw: int, place: dict) -> Row:
        own = fit.sel({"seed": draw, **place})
        numbers = map(float, own[f"{of}score"].values)
        return Row(name, m, draw, str(own[f"{of}text"].item()), dict(zip(measures, numbers)))

    draws = [int(draw) for draw in fit["seed"].values]
    recipes = [str(name) for name in fit["recipe"].values]
    sizes = [int(m) for m in fit["n_features"].values]
    for prompt, temperature in product(fit["prompt"].values, fit["temperature"].values):
        place = {"prompt": prompt, "temperature": temperature}

        def of_references(names: tuple[str, ...], place: dict = place) -> list[Row]:
            return [
                row("reference_", name, 0, draw, {"reference": name, **place})
                for name, draw in product(names, draws)
            ]

        middle = [
            row("", recipe, m, draw, {"recipe": recipe, "n_features": m, **place})
            for recipe, m, draw in product(recipes[::-1], sizes[::-1], draws)
        ]
        rows = [*of_references(TOP), *middle, *of_references(BOTTOM)]
        yield Block(fit.attrs["data"], str(prompt), float(temperature), rows)


def fitting(every: list[Block]) -> list[Block]:
    """The first blocks that fit on a page; of the first one, as many sizes as fit, the largest."""
    shown: list[Block] = []
    for block in every:
        if sum(map(height_of, [*shown, block])) + STEP > MAX_HEIGHT:
            break
        shown.append(block)
    if shown:
        return shown
    block = every[0]
    while height_of(block) + STEP > MAX_HEIGHT:
        networks = [*dict.fromkeys((row.name, row.m) for row in block.rows)]
        sizes = sorted({m for _, m in networks if m})
        if len(sizes) < 2:  # more seeds than a page holds
            n_draws = max(row.draw for row in block.rows)
            rows = [row for row in block.rows if row.draw < n_draws]
        else:
            rows = [row for row in block.rows if row.m != sizes[len(sizes) // 2 - 1]]
        block = block._replace(rows=rows)
    return [block]


def height_of(block: Block) -> float:
    """Points that a block takes."""
    lines = sum(len(wrapped(row.text, WIDTH, MAX_LINES)) for row in block.rows)
    return STEP * (lines + len(title_of(block)) + 0.5)


def title_of(block: Block) -> tuple[str, ...]:
    """The lines above a block: its prompt, and what continues it."""
    title = f"“{block.prompt} …”  {block.data}, temperature {block.temperature:g}"
    return wrapped(title, 0.9 * palette.PAGE * POINTS, 2)


# The page.

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{font: 15px/1.4 sans-serif; margin: 1em; color: #222}}
table {{border-collapse: collapse}}
th, td {{text-align: left; vertical-align: top; padding: .3em .6em; border-bottom: 1px solid #ccc}}
td.text {{white-space: pre-wrap; overflow-wrap: anywhere; max-width: 46em; font-family: serif}}
td.number {{text-align: right}}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>Every text of every seed, as it was written; none was chosen. A seed draws the hidden weights and
the random numbers of the choices of tokens, which are the same for all networks and references.
<b>Bits</b>: per character, by the transformer with softmax attention; a text that repeats itself
needs few. <b>Distinct pairs</b>: share of pairs of neighbouring words that are distinct.
<b>Known words</b>: share of the pieces between white space that are whole words of the model's
vocabulary.</p>
"""
COLUMNS = ("attention", "seed", "bits", "distinct pairs", "known words", "text")


def page(fits: dict[str, xr.Dataset]) -> str:
    """All texts in tables, a table for each prompt and temperature, without scripts."""
    every = [block for fit in fits.values() for block in blocks(fit)]
    title = html.escape(f"{', '.join(dict.fromkeys(block.data for block in every))}: written texts")
    found = [HEAD.format(policy=POLICY, title=title)]
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    for block in every:
        words = f"{block.data}, temperature {block.temperature:g}: “{block.prompt}”"
        found.append(f"<h2>{html.escape(words)}</h2>\n<table>\n<tr>{head}</tr>\n")
        found += [f"<tr>{cells(row)}</tr>\n" for row in block.rows]
        found.append("</table>\n")
    return "".join([*found, "</main>\n</body>\n</html>\n"])


def cells(row: Row) -> str:
    """The cells of a text in the order of COLUMNS."""
    numbers = "".join(
        f'<td class="number">{palette.decimal(value)}</td>' for value in row.scores.values()
    )
    name, text = html.escape(words_of(row)), html.escape(row.text)
    return f'<th scope="row">{name}</th><td>{row.draw}</td>{numbers}<td class="text">{text}</td>'
