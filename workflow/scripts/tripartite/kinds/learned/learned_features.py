"""How much better is a trained hidden layer than random ones of the same size, or than none?"""

import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from tripartite.figures import captions, palette
from tripartite.figures.panels import estimates, frame, grid, legend

MAX_COLUMNS = 4  # models side by side
ORIGINS = {  # how hidden layers were made: name, look, and by which factor marks stand beside m
    "learned": ("trained hidden layer", palette.RECIPES["learned"], 1.0),
    "fitted random": ("random, fitted to the same inputs", palette.RECIPES["fitted"], 1.05),
    "random": ("random hidden layer", palette.RECIPES["plain"], 0.95),
}


def learned_features(fits: dict[str, xr.Dataset]) -> Figure:
    """Divergence from softmax attention against hidden neurons, and heads better than equal attention.

    A column for each experiment: medians over test inputs, heads and seeds; below, shares of heads.
    """
    palette.apply()
    drawn = table(fits)
    n_columns = min(MAX_COLUMNS, len(fits))
    wide = n_columns > 1
    figure, axes = grid(
        2 * len(fits), n_columns, 48, width=palette.PAGE if wide else palette.COLUMN
    )
    for (experiment, fit), upper, lower in zip(fits.items(), axes[: len(fits)], axes[len(fits) :]):
        own = drawn[drawn["experiment"] == experiment]
        draw(upper, own[own["quantity"] == "divergence"])
        draw(lower, own[own["quantity"] == "share of heads"])
        palette.title_of(upper, fit)
        if (own.loc[own["quantity"] == "divergence", "value"] > 0).any():
            upper.set_yscale("log")
            upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            upper.yaxis.set_major_formatter("{x:g}")
            upper.yaxis.set_minor_formatter(NullFormatter())
        lower.set_ylim(-0.04, 1.04)
        lower.set_xlabel("hidden neurons $m$")
    axes[0].set_ylabel("divergence from softmax\nattention (nats, median)")
    axes[len(fits)].set_ylabel("share of heads better\nthan equal attention")
    legend(figure, ncols=4 if wide else 1)
    sns.despine(figure)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Median divergences of each origin, and the share of heads that are better than equal attention."""
    divergence = frame(fits, "median_kl")
    shares = frame(fits, "share_of_heads_kl", baseline="uniform")
    parts = {
        "divergence": (divergence, "median_kl"),
        "share of heads": (shares, "share_of_heads_kl"),
    }
    named = [
        part.assign(quantity=quantity).rename(
            columns={f"{name}{end}": f"value{end}" for end in ("", "_low", "_high")}
        )
        for quantity, (part, name) in parts.items()
    ]
    return pd.concat(named, ignore_index=True)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """By which factor trained hidden layers of the largest size diverge less than fitted random ones."""
    words = []
    for fit in fits.values():
        largest = fit.sel(origin="learned", baseline="fitted random").isel(n_features=-1)
        middle, high, low = (
            10 ** -float(largest[f"log10_kl_ratio{end}"]) for end in ("", "_low", "_high")
        )
        name = palette.short_name(fit.attrs["data"])
        words.append(f"{captions.interval(middle, low, high, '{:.1f}'.format)} ({name})")
    size = int(next(iter(fits.values()))["n_features"][-1])
    return (
        f"At m = {size}, trained ones diverge from softmax attention less than random ones that are "
        f"fitted to the same inputs, by a factor of {', '.join(words)}."
    )


def draw(axis: Axes, drawn: pd.DataFrame) -> None:
    """A line with intervals for each origin; equal attention as a line across."""
    for origin, (label, look, shift) in ORIGINS.items():
        own = drawn[drawn["origin"] == origin]
        own = own.assign(n_features=own["n_features"] * shift)
        estimates(
            "n_features",
            "value",
            data=own,
            axis=axis,
            label=label,
            linestyle="-",
            **palette.marks(look),
        )
    sizes = np.unique(drawn["n_features"])
    for value in drawn.loc[drawn["origin"] == "uniform", "value"].unique():
        axis.axhline(
            value, color=palette.GUIDE, linestyle="--", label="equal attention to all keys"
        )
    axis.set(xscale="log", xlim=(sizes[0] / 1.4, sizes[-1] * 1.4))
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()
