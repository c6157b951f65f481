"""How warm a softmax attention does a network resemble, and how little does that explain?"""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import heads_by, interval, mark, points

MAX_HEADS = 6  # in a panel
TEMPERATURE = "temperature"
PREDICTIONS = (  # measured, predicted, look of its marks, words of the legend
    (
        "slope_of_logs",
        "slope_of_logs_predicted",
        {"marker": "^"},
        "slope of ln weights, against its exact mean",
    ),
    (
        "inverse_temperature",
        "inverse_temperature_unshifted",
        {"marker": "o", "markerfacecolor": "white"},
        "likeliest $\\beta$, against the random-energy model",
    ),
    (
        "inverse_temperature",
        "inverse_temperature_shifted",
        {"marker": "o"},
        "the same, with a shift fitted to other heads",
    ),
)
COLOURS = {  # of what is fitted beside β
    TEMPERATURE: palette.COLOURS[0],
    "uniform share": palette.COLOURS[4],
    "decay": palette.COLOURS[2],
    "key bias": palette.COLOURS[3],
    "softmax": palette.EXACT,
    "uniform": "0.75",
}
TRACKS = tuple(COLOURS)[:4]  # of a head, from above
PALE = 0.4  # opacity where β is 1


def effective_temperature(fits: dict[str, xr.Dataset]) -> Figure:
    """A row for each experiment: β against predictions, what explanations remove, the likeliest.

    Left and middle: at most MAX_HEADS heads, with 95 % intervals over inputs and seeds, left of all
    sizes, middle of the largest. Right: all networks of the largest size.
    """
    palette.apply()
    figure, axes = plt.subplots(
        len(fits), 3, squeeze=False, figsize=(palette.PAGE, 2.1 * len(fits) + 0.6)
    )
    for row, fit in zip(axes, fits.values()):
        heads = heads_by(fit["sigma_squared"].values, MAX_HEADS)
        colours = mpl.colormaps["viridis"](np.linspace(0, 0.8, max(len(heads), 1)))
        of_heads = [(fit.isel(layer=a, head=b), colour) for (a, b), colour in zip(heads, colours)]
        draw_predictions(row[0], of_heads)
        draw_removed(row[1], of_heads)
        draw_likeliest(row[2], fit)
        palette.title_of(row[0], fit, "flattened …")
        size = palette.power(np.log10(fit["n_features"].values[-1]))
        row[1].set_title(f"… and noisy ($m$ = {size})", loc="left")
        row[2].set_title(f"best by AIC ($m$ = {size})", loc="left")
    handles = [mark(words, color="0.35", **look) for *_, look, words in PREDICTIONS]
    handles += [
        mark(name, color=colour, marker="s", markersize=4) for name, colour in COLOURS.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        title="middle and right: open or pale with $\\beta$ = 1, full with $\\beta$ fitted",
    )
    return figure


def draw_predictions(axis: Axes, heads: list) -> None:
    """Measured against predicted, with the line where they are equal."""
    axis.plot([0, 1.2], [0, 1.2], color=palette.EXACT, linewidth=0.6, linestyle=":")
    for head, colour in heads:
        fitted = head.sel(explanation=TEMPERATURE)
        for measured, predicted, look, _ in PREDICTIONS:
            x = fitted[predicted].values
            points(axis, x, interval(fitted, measured), colour, elinewidth=0.6, **look)
    axis.set(xlim=(0, 1.2), ylim=(0, 1.2), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axis.set(xlabel="predicted $\\beta$", ylabel="measured $\\beta$")


def draw_removed(axis: Axes, heads: list) -> None:
    """Share that explanations remove in queries they were not fitted to: lines in a head's row."""
    for place, (head, _) in enumerate(heads):
        largest = head.isel(n_features=-1)
        for track, name in enumerate(TRACKS):
            y = place + 0.2 * (track - 1.5)
            fitted = name if name == TEMPERATURE else f"{TEMPERATURE} and {name}"
            for explanation in dict.fromkeys((name, fitted)):
                middle, low, high = interval(
                    largest.sel(explanation=explanation), "divergence_removed_unfitted"
                )
                face = COLOURS[name] if explanation == fitted else "white"
                axis.plot([low, high], [y, y], color=COLOURS[name], linewidth=0.6)
                axis.plot(middle, y, "o", color=COLOURS[name], markerfacecolor=face, markersize=2.5)
    for y in np.arange(1, len(heads)) - 0.5:
        axis.axhline(y, color="0.85", linewidth=0.5)
    axis.axvline(0, color=palette.EXACT, linewidth=0.6, linestyle=":")
    labels = [f"{float(head['sigma_squared']):.1f}" for head, _ in heads]
    axis.set_yticks(np.arange(len(heads)), labels)
    for label, (_, colour) in zip(axis.get_yticklabels(), heads):
        label.set(color=colour, weight="bold")
    axis.set(xlim=(-0.3, 1), ylim=(len(heads) - 0.5, -0.5))
    axis.set(
        xlabel="share of divergence removed\n(in queries it was not fitted to)",
        ylabel="head, by its $\\sigma^2$",
    )


def draw_likeliest(axis: Axes, fit: xr.Dataset) -> None:
    """Share of networks in which each explanation has the lowest AIC, stacked."""
    share = fit["share_best"].isel(n_features=-1).mean(("layer", "head"))
    tokens = [f"{x:g}" for x in fit["attended_tokens"].values]
    x, bottom = np.arange(len(tokens)), np.zeros(len(tokens))
    for explanation in map(str, fit["explanation"].values):
        name = explanation.removeprefix(f"{TEMPERATURE} and ")
        has_beta = explanation.startswith(TEMPERATURE) or name in ("softmax", "uniform")
        height = np.nan_to_num(share.sel(explanation=explanation).values)
        colour = mpl.colors.to_rgba(COLOURS[name], 1 if has_beta else PALE)
        axis.bar(x, height, bottom=bottom, color=colour, width=0.8)
        bottom += height
    axis.set_xticks(x, tokens)
    axis.set(ylim=(0, 1), yticks=(0, 0.5, 1))
    axis.set(xlabel="attended tokens per query (assumed)", ylabel="share of networks")
