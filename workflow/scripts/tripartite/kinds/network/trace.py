"""The paper's figure: the astrocyte's response beside the softmax normaliser, token by token."""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import interval

MAX_HEADS = 4  # of an experiment, that fit on a page


def trace(fits: dict[str, xr.Dataset]) -> Figure:
    """Two rows per head: ln of the response and of the normaliser, and their difference.

    One column per experiment, its first four simulated heads by the neurons they need, all for the
    first input that was read. Lines are the median over seeds, bands hold the central 80 % of
    seeds.
    """
    palette.apply()
    heads = {name: simulated_heads(fit)[:MAX_HEADS] for name, fit in fits.items()}
    n_rows = max(map(len, heads.values()))
    figure, axes = plt.subplots(
        2 * n_rows,
        len(fits),
        squeeze=False,
        sharex="col",
        figsize=(max(palette.COLUMN, palette.PAGE * len(fits) / 3), 0.6 + 2.3 * n_rows),
        gridspec_kw={"height_ratios": [2, 1] * n_rows},
    )
    for column, (experiment, fit) in enumerate(fits.items()):
        shown = first_read(fit)
        for row, (upper, lower) in enumerate(axes[:, column].reshape(n_rows, 2)):
            if row >= len(heads[experiment]):
                upper.set_axis_off(), lower.set_axis_off()
                continue
            draw_head(upper, lower, shown, *heads[experiment][row])
            if row == 0:
                palette.title_of(upper, fit, upper.get_title(loc="left"))
            if column == 0:
                upper.set_ylabel("ln response,\nln normaliser")
                lower.set_ylabel("ln(response /\nnormaliser)")
        axes[-1, column].set_xlabel(token_words(shown))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3 if len(fits) > 1 else 1)
    figure.align_ylabels(axes[:, 0])
    return figure


def simulated_heads(fit: xr.Dataset) -> list[tuple[int, int]]:
    """[layer, head] of the simulated heads, from the one that needs the fewest neurons."""
    layer, head = np.nonzero(fit["normalizer_error"].notnull().all("n_features").values)
    order = np.argsort(fit["log10_features_needed"].values[layer, head])
    return [(int(layer[i]), int(head[i])) for i in order]


def rank(fit: xr.Dataset, layer: int, head: int) -> tuple[int, int]:
    """Place of a head among all heads by the neurons it needs, and the number of heads."""
    needed = fit["log10_features_needed"].values
    return int((needed < needed[layer, head]).sum()) + 1, needed.size


def draw_head(upper: Axes, lower: Axes, fit: xr.Dataset, layer: int, head: int) -> None:
    """One head of one input: responses with bands above, their difference to ln Z below."""
    draw_responses(upper, lower, fit.sel(layer=layer, head=head))
    place, n_heads = rank(fit, layer, head)
    of_head = fit.sel(layer=layer, head=head)
    needed, r, error = (
        of_head[name].values.flat[-1]
        for name in ("log10_features_needed", "correlation", "normalizer_error")
    )
    order = "easiest" if place == 1 else f"{place}{suffix(place)} easiest"
    upper.set_title(
        f"{palette.head_name(fit, layer, head)}: {order} of {n_heads}\n"
        f"10 % rms error takes {palette.power(needed)} neurons\n"
        f"at {palette.power(np.log10(fit['n_features'].values[-1]))}: $r = {palette.decimal(r)}$, "
        f"median error {palette.percent(error)}",
        loc="left",
    )


def draw_responses(upper: Axes, lower: Axes, of_head: xr.Dataset) -> None:
    """ln of the responses of the smallest and the largest network, with bands, and of Z."""
    exact, sizes = of_head["log_normalizer"].values, of_head["n_features"].values
    tokens = np.arange(len(exact))
    upper.plot(tokens, exact, color=palette.EXACT, linewidth=1.3, label="softmax normaliser")
    lower.axhline(0, color=palette.EXACT, linewidth=0.8)
    for m, colour in {sizes[0]: palette.SMALL, sizes[-1]: palette.LARGE}.items():
        middle, low, high = interval(of_head.sel(n_features=m), "log_calcium")
        label = f"astrocyte, {palette.power(np.log10(m))} hidden neurons (median, 80 % of seeds)"
        for axis, shift in ((upper, 0 * exact), (lower, exact)):
            axis.fill_between(
                tokens, low - shift, high - shift, color=colour, alpha=0.25, linewidth=0
            )
            axis.plot(tokens, middle - shift, color=colour, linewidth=0.9, label=label)


def first_read(fit: xr.Dataset) -> xr.Dataset:
    """A fit at the first input on which networks were run."""
    read = fit["log_calcium"].notnull().any(("n_features", "layer", "head", "token"))
    return fit.isel(input=int(np.argmax(read.values)))


def token_words(shown: xr.Dataset) -> str:
    """The label of the axis of tokens, for a fit at one input."""
    name = palette.plain_text(str(shown["input"].values).replace("_", " "))
    return f"token of “{name}”"


def suffix(place: int) -> str:
    """st, nd, rd or th."""
    return (
        "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    )
