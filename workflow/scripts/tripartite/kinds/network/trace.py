"""The paper's figure: the astrocyte's response beside the softmax normaliser, token by token."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tripartite.figures import captions, palette
from tripartite.figures.palette import MM
from tripartite.figures.panels import PART, frame, legend, line, spread
from tripartite.figures.strips import first, say_shown

MAX_HEADS = 4  # of an experiment
MAX_NUMBERS = 40  # letters of numbers in a line of a title
MAX_TOKENS = 60  # that are drawn one after the other; the scatter has all
MAX_LETTERS = 40  # of a line of a title
MAX_LABEL = 16  # of a head, to leave room in its line
N_COLUMNS = 2
CELL_MM = 46.0  # height of a row
RENAMED = {f"log_calcium_{end}": f"log_calcium_{q}" for end, q in (("low", "q10"), ("high", "q90"))}


class Head(NamedTuple):
    """A head of an experiment that is drawn, by its labels."""

    experiment: str
    layer: int
    head: int


def trace(fits: dict[str, xr.Dataset]) -> Figure:
    """A panel per head, the response of the largest network and the normaliser at up to 60 tokens.

    Beside each: the response against the normaliser, at all tokens, of the smallest and the largest
    network. Experiments show their easiest and hardest simulated heads, and those between as far as
    there is room, all at the first input that was read. Points are medians over networks, bands and
    whiskers hold the central 80 % of them.
    """
    palette.apply()
    shown = first(fits, palette.MAX_PANELS)
    heads = heads_of(shown)
    drawn = responses(shown, heads)
    figure = plt.figure(figsize=(palette.PAGE, height_mm(len(heads)) * MM))
    for head, cell in zip(heads, cells_for(figure, len(heads))):
        fit = fits[head.experiment]
        draw_responses(*cell, of_head(drawn, head))
        model, rest = words_of_data(fit)
        palette.title(cell[0], model, head_words(fit, head), rest)
    explain(figure, drawn)
    say_shown(figure, len(shown), len(fits))
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """ln of responses and normalisers of the heads that are drawn, by token, and their errors."""
    heads = heads_of(fits)
    return with_numbers(responses(fits, heads), fits, "log10_features_needed")


def with_numbers(drawn: pd.DataFrame, fits: dict[str, xr.Dataset], *names: str) -> pd.DataFrame:
    """Errors, correlations and further numbers of heads beside their responses."""
    numbers = frame(fits, "normalizer_error", "correlation", *names)
    numbers = numbers.drop(columns=["data", "recipe", "network"])
    return drawn.merge(numbers, "left", on=["experiment", "layer", "head", "n_features"])


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Correlation and error of the largest networks, in the easiest head and in the hardest one."""
    words = []
    for fit in fits.values():
        heads = simulated_heads(fit)
        of_model = []
        for place, order in zip(dict.fromkeys((heads[0], heads[-1])), ("easiest", "hardest")):
            largest = fit.isel(layer=place[0], head=place[1], n_features=-1)
            of_model.append(
                f"r = {captions.interval(*ends(largest, 'correlation'))}, error "
                f"{captions.interval(*ends(largest, 'normalizer_error'), palette.percent)} in its "
                f"{order} head that was run"
            )
        m = int(fit["n_features"][-1])
        words.append(f"{palette.short_name(fit.attrs['data'])} (m = {m}): {'; '.join(of_model)}")
    return (
        "Correlation of ln p and ln Z in single networks, and median relative error of p, over all "
        f"inputs: {'. '.join(words)}."
    )


def ends(fit: xr.Dataset, name: str) -> tuple[float, float, float]:
    """One number and the ends of its interval."""
    value, low, high = (float(fit[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return value, low, high


def simulated_heads(fit: xr.Dataset) -> list[tuple[int, int]]:
    """[layer, head] of the simulated heads, from the one that needs the fewest neurons."""
    layer, head = np.nonzero(fit["normalizer_error"].notnull().all("n_features").values)
    order = np.argsort(fit["log10_features_needed"].values[layer, head])
    return [(int(layer[i]), int(head[i])) for i in order] or [(0, 0)]


def heads_of(fits: dict[str, xr.Dataset]) -> list[Head]:
    """Heads that are drawn: of each experiment as many as there is room for, easy before hard."""
    n = min(MAX_HEADS, max(1, palette.MAX_PANELS // len(fits)))
    if len(fits) > 1 and n > 1:
        n -= n % N_COLUMNS  # experiments start a row
    return [
        Head(name, int(fit["layer"][layer]), int(fit["head"][head]))
        for name, fit in fits.items()
        for layer, head in spread(simulated_heads(fit), n)
    ]


def first_read(fit: xr.Dataset) -> xr.Dataset:
    """A fit at the first input on which networks were run."""
    read = fit["log_calcium"].notnull().any(("n_features", "layer", "head", "token"))
    return fit.isel(input=int(np.argmax(read.values)))


def responses(fits: dict[str, xr.Dataset], heads: list[Head]) -> pd.DataFrame:
    """ln Z and ln p of heads at the first input that was read: a row per token and size.

    Of p there are the median over networks and the 10 % and 90 % quantiles.
    """
    parts = []
    for head in heads:
        fit = first_read(fits[head.experiment]).sel(layer=head.layer, head=head.head)
        fit = fit.sel(n_features=np.unique(fit["n_features"].values[[0, -1]]))
        parts.append(frame({head.experiment: fit}, "log_normalizer", "log_calcium"))
    return pd.concat(parts, ignore_index=True).rename(columns=RENAMED)


def of_head(drawn: pd.DataFrame, head: Head) -> pd.DataFrame:
    """The rows of one head."""
    experiment, layer, number = (drawn[name] for name in ("experiment", "layer", "head"))
    return drawn[(experiment == head.experiment) & (layer == head.layer) & (number == head.head)]


def height_mm(n_heads: int) -> float:
    """Height of the cells of heads with their legend."""
    return CELL_MM * -(-n_heads // N_COLUMNS) + 8


def cells_for(figure: Figure, n_heads: int) -> list[tuple[Axes, Axes]]:
    """A cell for each head: axes of the trace, and of the scatter beside it."""
    n_rows = -(-n_heads // N_COLUMNS)
    grid = figure.add_gridspec(n_rows, 2 * N_COLUMNS, width_ratios=[2, 1] * N_COLUMNS)
    cells = []
    for place in range(n_heads):
        row, column = divmod(place, N_COLUMNS)
        left = figure.add_subplot(grid[row, 2 * column])
        right = figure.add_subplot(grid[row, 2 * column + 1], sharey=left, label=PART)
        cells.append((left, right))
    return cells


def draw_responses(left: Axes, right: Axes, drawn: pd.DataFrame) -> None:
    """One head at one input: ln Z and ln p by token, and ln p against ln Z.

    The trace has the largest network and the first tokens, the scatter both sizes and all tokens.
    """
    sizes, some = sorted(drawn["n_features"].unique()), drawn[:0]
    for m in sizes:
        of_size = drawn[drawn["n_features"] == m]
        look: dict[str, Any] = {
            "color": palette.colour_of_size(m),
            "marker": "o",
            "markersize": 2.4,
        }
        look |= {
            "linestyle": "",
            "markeredgewidth": 0,
            "label": f"response $p$ of {m:,} neurons".replace(",", " "),
        }
        right.plot("log_normalizer", "log_calcium", data=of_size, **look)
        if m == sizes[-1]:
            some = of_size[np.isfinite(of_size["log_normalizer"])][:MAX_TOKENS]
            left.fill_between(
                "token",
                "log_calcium_q10",
                "log_calcium_q90",
                data=some,
                color=look["color"],
                alpha=0.25,
                linewidth=0,
            )
            left.plot("token", "log_calcium", data=some, **look)
            left.plot(some["token"], some["log_normalizer"], color=palette.EXACT, linewidth=0.8)
    columns = drawn[["log_normalizer", "log_calcium"]].values
    ends = np.concatenate([columns.ravel(), some[[*RENAMED.values()]].values.ravel()])
    ends = ends[np.isfinite(ends)]
    if len(ends) and np.ptp(ends) > 0:
        margin = 0.05 * np.ptp(ends)
        limits = ends.min() - margin, ends.max() + margin
        left.set_ylim(limits)
        right.set_xlim(limits)
        right.plot(limits, limits, color=palette.EXACT, linewidth=0.8)
    right.tick_params(labelleft=False)
    right.set_xlabel(r"$\ln Z$")
    left.set_ylabel(r"$\ln p$, $\ln Z$")
    left.set_xlabel(token_words(drawn))


def explain(figure: Figure, drawn: pd.DataFrame) -> None:
    """The legend of cells; bands are those of the largest networks."""
    exact = line("normaliser $Z$ of softmax attention", color=palette.EXACT, linewidth=0.8)
    spread = "spread: 80 % of networks"
    look: dict[str, Any] = {"color": palette.colour_of_size(drawn["n_features"].max())}
    band = Patch(alpha=0.25, linewidth=0, label=spread, **look)
    legend(figure, [exact, band])


def token_words(drawn: pd.DataFrame) -> str:
    """The label of the axis of tokens."""
    if drawn.empty:
        return "token"
    name = cut(str(drawn["input"].iloc[0]).replace("_", " "))
    return palette.plain_text(f"token of “{name}”")


def words_of_data(fit: xr.Dataset) -> tuple[str, str]:
    """The model, and the rest of the name of its data with the words of its network."""
    model, _, rest = fit.attrs["data"].partition(", ")
    return model, cut(", ".join(filter(None, (rest, palette.network_words(fit)))))


def cut(text: str) -> str:
    """A text that the font can write, at most MAX_LETTERS long."""
    text = palette.shown(text)
    return text if len(text) <= MAX_LETTERS else f"{text[: MAX_LETTERS - 1]}…"


def head_words(fit: xr.Dataset, head: Head) -> str:
    """Rank of a head among all, what it needs, and what its largest networks reach."""
    of_fit = fit.sel(layer=head.layer, head=head.head)
    words = head_label(fit, head)
    needed, own = fit["log10_features_needed"].values, float(of_fit["log10_features_needed"])
    if np.isfinite(own):
        place = int((needed < own).sum()) + 1
        order = "easiest" if place == 1 else f"{place}{suffix(place)} easiest"
        needs = "needs" if len(words) <= MAX_LABEL else "\nneeds"
        words += f", {order} of {needed.size}: {needs} $m$ = {palette.power(own)}"
    largest = of_fit.isel(n_features=-1)
    r = captions.interval(*ends(largest, "correlation"))
    error = captions.interval(*ends(largest, "normalizer_error"), palette.percent)
    between = ",\n" if len(r + error) > MAX_NUMBERS else ", "
    return f"{words}\n$r$ = {r}{between}median error {error}"


def head_label(fit: xr.Dataset, head: Head) -> str:
    """A head as head (layer, head), by the labels of the user's file, if it has any."""
    names = []
    for dim, label in (("layer", head.layer), ("head", head.head)):
        labels = palette.short_labels(palette.tick_labels(fit, dim, fit[dim].values))
        names.append(labels[[*fit[dim].values].index(label)])
    return f"head ({', '.join(names)})"


def suffix(place: int) -> str:
    """st, nd, rd or th."""
    return (
        "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    )
