"""The visual language of all figures: what colours, symbols and sizes mean, and how words look.

    symbol              the model
    filled, hollow      the first and the others of a few heads, easy before hard
    recipe              more is done to the hidden weights: darker
    m, hardness         one scale in all figures; more neurons are darker, harder heads are darker
    parts               hidden neurons, synapses H, weights g, astrocyte: a colour each
    black               softmax attention, laws, what is exact

Colours of a group can be told apart by deuteranopes and protanopes, those of models and recipes
also in grey. Every colour of a figure comes from here.
"""

import functools
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsInt

import matplotlib
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.colors import LogNorm

matplotlib.use("agg")
from matplotlib.axes import Axes
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import LogLocator, NullFormatter

MM = 1 / 25.4  # inches
COLUMN, PAGE = 85 * MM, 178 * MM  # widths of figures: one column of a journal, or two
MAX_HEIGHT = 200 * MM
MAX_PANELS = 8
MAX_LABEL = 24  # letters of the name of a layer or head
FINE = 20  # times a point: letters are measured as large as this, where none is rounded to pixels
MAX_LETTERS = 30  # of a title in one line, above a third of a page

EXACT = "#000000"  # softmax attention, laws
KEY = "#404040"  # entries of legends that hold for all colours, words beside data
GUIDE = "#8C8C8C"  # lines to compare with: chance, 1, a limit of biology
NOT_KNOWN = "#D9D9D9"  # where a map has no number
SHADE = "#E6E6E6"  # a range to compare with, behind everything


class Look(NamedTuple):
    """How marks of one thing look: `fill` in its symbols, `line` for edges, bars and lines."""

    fill: str
    line: str
    marker: str = "o"


MODELS = {  # by the first word of the name of the data
    "MiniLM": Look("#004488", "#004488", "s"),
    "ALBERT": Look("#BB5566", "#994455", "^"),
    "ViT": Look("#DDAA33", "#806000", "D"),
    "SmolLM2": Look("#99DDFF", "#2B7A99", "P"),
    "random": Look("#FFFFFF", "#000000", "o"),
}
OTHERS = (  # other models, in the order in which they come; symbols tell them apart
    Look("#117733", "#117733", "v"),
    Look("#CC79A7", "#99517B", "X"),
    Look("#999933", "#6B6B1F", "p"),
    Look("#882255", "#882255", "h"),
    Look("#44AA99", "#2C7A6D", "*"),
)
RECIPES = {  # the more is done to the hidden weights, the darker
    "plain": Look("#B8B8B8", "#6E6E6E"),
    "balanced": Look("#8C9BB5", "#5D6F8F"),
    "fitted": Look("#3E6FA8", "#3E6FA8"),
    "learned": Look("#0B2A52", "#0B2A52"),
}
PARTS = {  # of the network
    "hidden": "#44AA99",
    "hebbian": "#0072B2",
    "presynaptic": "#E69F00",
    "astrocyte": "#882255",
    "output": "#595959",
}
# At most four things that are neither models, recipes nor sizes; rows with names come first.
CATEGORIES = ("#0072B2", "#E69F00", "#882255", "#44AA99")
VERDICTS = {  # of claims, the least favourable first; words stand beside the marks
    "Contradicted": Look("#882255", "#882255", "X"),
    "PartiallySupported": Look("#E69F00", "#E69F00", "D"),
    "Inconclusive": Look("#FFFFFF", "#404040", "o"),
    "Validated": Look("#0072B2", "#0072B2", "o"),
    "NotTested": Look("#FFFFFF", "#404040", "_"),
}
CALCIUM_MODELS = {  # names of models of calcium
    "li_rinzel_nest": "Li–Rinzel (NEST)",
    "li_rinzel_stimberg": "Li–Rinzel (Stimberg)",
    "chi": "ChI",
    "g_chi": "G-ChI",
}

SIZES = LogNorm(10, 1e5)  # hidden neurons m
SIZES_MAP = "mako_r"
HARDNESS = LogNorm(0.1, 100)  # sigma^2 of a head
BAD_MAP = "cividis_r"  # hardness, errors: dark is bad

SMALLER = ("legend.fontsize", "legend.title_fontsize")
STYLE: dict[Any, Any] = {  # Any, as matplotlib declares each key of rcParams literally
    "font.family": "DejaVu Sans",
    # exponents have 0.7 of the size: at least 5 pt
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 7.2),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 7.2),
    **dict.fromkeys(SMALLER, 6.5),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("xtick.minor.width", "ytick.minor.width"), 0.5),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
    **dict.fromkeys(("xtick.minor.size", "ytick.minor.size"), 1.5),
    **dict.fromkeys(("xtick.major.pad", "ytick.major.pad"), 2),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color"), "#000000"),
    **dict.fromkeys(("xtick.color", "ytick.color"), "#000000"),
    "axes.labelpad": 2,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.5,
    "legend.columnspacing": 1.2,
    "legend.handletextpad": 0.5,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "svg.hashsalt": "tripartite",
    "svg.fonttype": "none",  # text stays text: it can be found, edited and read aloud
    "pdf.fonttype": 42,  # TrueType, which journals take
}


def apply() -> None:
    """Set the style, without settings of the machine's matplotlibrc."""
    matplotlib.rcdefaults()
    sns.set_theme(context="paper", style="ticks", rc=STYLE)


# Models, sizes and hardness.


def look_of(data: str, others: Iterable[str] = ()) -> Look:
    """Colours and symbol of a model, by the name of the data.

    others: names of all data of the figure, in order; models that are not known take the looks of
    OTHERS in that order.
    """
    if (word := _word(data)) in MODELS:
        return MODELS[word]
    unknown = list(dict.fromkeys(name for name in others if _word(name) not in MODELS))
    return OTHERS[(unknown.index(data) if data in unknown else 0) % len(OTHERS)]


def _word(data: str) -> str:
    return re.split(r"[ ,(]", data, maxsplit=1)[0]


def short_name(data: str, n_letters: int = 16) -> str:
    """A model in a word: MiniLM, ALBERT, ViT, SmolLM2, random heads; other names are cut."""
    if data.startswith("random heads"):
        return "random heads"
    name = _word(data) if _word(data) in MODELS else shown(data)
    return plain_text(name if len(name) <= n_letters else f"{name[: n_letters - 1]}…")


def marks(look: Look, filled: bool = True) -> dict[str, Any]:
    """Options of `Axes.plot` and `Axes.errorbar` for marks of a look, filled or hollow."""
    return {
        "color": look.line,
        "marker": look.marker,
        "markerfacecolor": look.fill if filled else "white",
        "markeredgecolor": look.line,
        "markeredgewidth": 0.8,
    }


def colour_of_size(m: float) -> tuple[float, ...]:
    """The colour of m hidden neurons, the same in all figures; never as dark as EXACT."""
    place = float(np.ma.filled(SIZES(np.clip(m, SIZES.vmin, SIZES.vmax)), np.nan))
    return _mapped(SIZES_MAP, place * 0.65 + 0.1)


def colour_of_hardness(sigma_squared: float) -> tuple[float, ...]:
    """The colour of a head with this sigma^2 (mean over keys of |q + k|^2 or ln R)."""
    if sigma_squared != sigma_squared:
        return matplotlib.colors.to_rgb(NOT_KNOWN)
    inside = np.clip(sigma_squared, HARDNESS.vmin, HARDNESS.vmax)
    return _mapped(BAD_MAP, float(HARDNESS(inside)))


def _mapped(name: str, place: float) -> tuple[float, ...]:
    return tuple(map(float, matplotlib.colormaps[name](place)[:3]))


def text_on(colour: Any) -> str:
    """White or black, whichever has the greater contrast on a colour."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "#FFFFFF" if linear @ [0.2126, 0.7152, 0.0722] < 0.18 else "#000000"


# Titles and names.


def title_of(axis: Axes, fit: xr.Dataset | None, plain: str = "") -> None:
    """Title of a panel: the data of a fit and its network; "" if fit is None; plain lines below."""
    if fit is None:
        title(axis, "", plain)
    else:
        title(axis, fit.attrs["data"], plain, network_words(fit))


def title(axis: Axes, bold: str, plain: str = "", mark: str = "") -> None:
    """Title of a panel: bold, with plain lines below: `mark`, and what is shown."""
    mark = plain_text(mark if len(mark) <= MAX_LETTERS else mark.replace(", ", ",\n"))
    lines = mark.split("\n") * bool(mark) + plain.split("\n") * bool(plain)
    axis.set_title("\n".join(lines), loc="left")
    bold = shown(bold)
    bold = bold if len(bold) <= MAX_LETTERS else f"{bold[: MAX_LETTERS - 1]}…"
    axis.annotate(
        plain_text(bold),
        (0, 1),
        xytext=(0, 6 + 9.8 * len(lines)),
        xycoords="axes fraction",
        textcoords="offset points",
        weight="bold",
        annotation_clip=False,
        gid="title",
    )


def network_words(fit: xr.Dataset) -> str:
    """Feature map, order and symmetries of a network, where they are not the default."""
    feature_map = fit.attrs.get("feature_map", "performer")
    words = [] if feature_map == "performer" else [feature_map.replace("_", " ")]
    orders = {str(order) for order in np.ravel(fit["order"].values)} if "order" in fit else set()
    words += [" and ".join(sorted(orders))] if "causal" in orders else []
    symmetries = fit.attrs.get("symmetries", "").split()
    centred = [name.removeprefix("center_") for name in symmetries if name != "balance"]
    changes = [f"{centred[0]} centred" if len(centred) == 1 else "centred"] if centred else []
    changes += ["balanced"] if "balance" in symmetries else []
    return ", ".join([*words, *([" and ".join(changes)] if changes else [])])


def recipe_of(fit: xr.Dataset) -> str:
    """What was done to the hidden weights of a network, as one of RECIPES."""
    if fit.attrs.get("feature_map", "performer") == "fitted_normal":
        return "fitted"
    return "balanced" if "balance" in fit.attrs.get("symmetries", "") else "plain"


def full_name(fit: xr.Dataset) -> str:
    """The data of a fit, with the words of its network."""
    return ", ".join(filter(None, (fit.attrs["data"], network_words(fit))))


def plain_text(text: str) -> str:
    """A text of a user without formulas: $ is printed."""
    return text.replace("$", r"\$")


def labels(fits: dict[str, xr.Dataset]) -> list[str]:
    """Labels of experiments in a legend: data and network, and the name if these are not unique."""
    titles = [full_name(fit) for fit in fits.values()]
    return [
        plain_text(words if titles.count(words) == 1 else f"{words} ({name})")
        for name, words in zip(fits, titles)
    ]


def head_name(fit: xr.Dataset, layer: SupportsInt, head: SupportsInt) -> str:
    """A layer and a head, by the labels of the user's file, if it has any, or by numbers."""
    names = (tick_labels(fit, dim, [i])[0] for dim, i in (("layer", layer), ("head", head)))
    return "layer {}, head {}".format(*names)


def tick_labels(fit: xr.Dataset, dim: str, places: Iterable[SupportsInt]) -> list[str]:
    """Labels of layers or heads with these indices; dim: "layer" or "head"."""
    labels = json.loads(fit.attrs.get("labels", "{}")).get(dim)
    if not labels:
        return [str(int(i)) for i in places]
    short = short_labels(labels, MAX_LABEL)
    return [plain_text(short[int(i)]) for i in places]


def short_labels(labels: list[str], n_letters: int = 12) -> list[str]:
    """Labels of at most n_letters that the font can write, for the ticks of a map.

    Of longer labels that differ in their numbers only, such as model.layers.31.self_attn, these
    numbers are left; others are cut. Where the font lacks a letter, all are numbered instead.
    """
    too_long = max(map(len, labels)) > n_letters or not all(map(can_write, labels))
    parts = [re.split(r"(\d+)", label) for label in labels]
    if too_long and len({tuple(x[::2]) for x in parts}) == 1 and len({*labels}) == len(labels):
        varying = [i for i in range(len(parts[0])) if len({part[i] for part in parts}) > 1]
        labels = [".".join(part[i] for i in varying) or label for part, label in zip(parts, labels)]
    if not all(map(can_write, labels)):
        labels = [*map(str, range(len(labels)))]
    return [label if len(label) <= n_letters else f"{label[: n_letters - 1]}…" for label in labels]


def shown(text: str) -> str:
    """A text with ? for the letters that the font lacks."""
    return "".join(letter if can_write(letter) else "?" for letter in text)


def can_write(text: str) -> bool:
    """Whether the font of the figures has all letters of a text."""
    font = get_font(findfont(STYLE["font.family"]))
    return all(font.get_char_index(ord(letter)) for letter in text)


@functools.cache
def wrapped(text: str, width: float, n_lines: int, size: float = 6.5) -> tuple[str, ...]:
    """A text in at most n_lines lines of this width in points, cut with … if it is longer.

    size: of letters, in points. An end of a line stands as ¶, more than three of them as ¶ and
    their number, so that texts stay short; ? stands for letters that the font lacks.
    """
    font = get_font(findfont(STYLE["font.family"]))
    font.set_size(size, FINE * 72)

    def fits(line: str) -> bool:
        font.set_text(line, 0.0)
        return font.get_width_height()[0] / 64 <= FINE * width

    text = " ".join(text.replace("\n", " ¶ ").split())
    text = re.sub(r"¶( ¶){3,}", lambda ends: f"¶×{ends[0].count('¶')}", text)
    words = shown(text).split(" ")
    lines = [""]
    for word in words:
        while word:
            longer = f"{lines[-1]} {word}" if lines[-1] else word
            if fits(longer):
                lines[-1], word = longer, ""
            elif lines[-1]:
                lines.append("")
            else:  # a word that is longer than a line
                n = next(n for n in range(len(word), 0, -1) if n == 1 or fits(word[:n]))
                lines[-1], word = word[:n], word[n:]
    if len(lines) > n_lines:
        kept = lines[n_lines - 1]
        while kept and not fits(f"{kept}…"):
            kept = kept[:-1]
        lines = [*lines[: n_lines - 1], f"{kept}…"]
    return tuple(lines)


def row_names(fits: dict[str, xr.Dataset]) -> list[str]:
    """Experiments in a word or two: the model, and the experiment where that is not unique."""
    names = [short_name(fit.attrs["data"]) for fit in fits.values()]
    return [
        words if names.count(words) == 1 else f"{words} ({short_labels([name], 20)[0]})"
        for name, words in zip(fits, names)
    ]


# Numbers.


def power(x: float) -> str:
    """10^x as a formula, x with one decimal unless it is whole; a dash for NaN."""
    if x != x:
        return "–"
    return f"$10^{{{round(float(x), 1):g}}}$"


def decimal(x: float) -> str:
    """x with two decimals, 0 without a sign, with an exponent above a million; a dash for NaN."""
    if x != x:
        return "–"
    return f"{x:z.2f}" if abs(x) < 1e6 else f"{x:.2g}"


def spaced(x: float) -> str:
    """x as a whole number of two digits, with a space before each three zeros: 120 000."""
    return f"{float(f'{x:.2g}'):,.0f}".replace(",", " ")


def percent(x: float) -> str:
    """A share x in percent with two digits, without exponents; a dash for NaN."""
    if not np.isfinite(x):
        return "–" if x != x else "∞"
    return f"{100 * x:.0f} %" if 0.1 <= x < 1e4 else f"{100 * x:.2g} %"


def few_decades(axis: Axes) -> None:
    """Ticks at 1, 2 and 5 as well, if powers of ten would be too few."""
    low, high = axis.get_ylim()
    if high < 50 * low:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
