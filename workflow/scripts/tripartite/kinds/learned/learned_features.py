"""How much better is a trained hidden layer than random ones of the same size, or than none?"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from tripartite.figures import captions, palette
from tripartite.figures.panels import beyond, estimates, frame, grid, legend, spread

MAX_ROWS = 30
ROW = 5.5  # mm
LOOKS = {  # of how hidden layers were made, and how far marks stand above the middle of their row
    "learned": ("trained", palette.marks(palette.RECIPES["learned"]), 0.24),
    "fitted random": (
        "random, fitted to the inputs that train",
        palette.marks(palette.RECIPES["fitted"]),
        0.08,
    ),
    "random": ("random", palette.marks(palette.RECIPES["plain"]), -0.08),
    "uniform": (
        "equal attention to all keys",
        {"color": palette.KEY, "marker": "|", "markersize": 5.5},
        -0.24,
    ),
}
ORIGINS = {"learned": "trained", "fitted random": "fitted random", "random": "random"}
QUANTITIES = {  # title and label of each panel
    "divergence": ("Divergence from softmax attention", "median divergence (nats)"),
    "ratio": ("Trained over each of the others", "ratio of divergences, median of pairs"),
    "share of heads": ("Heads better than equal attention", "share of heads"),
}


def learned_features(fits: dict[str, xr.Dataset]) -> Figure:
    """Divergences, paired ratios, and heads better than equal attention; a row per model and m."""
    palette.apply()
    drawn = table(fits)
    names = dict(zip(fits, palette.row_names(fits)))
    n_sizes = max(1, MAX_ROWS // len(fits))
    rows = [
        (experiment, size)
        for experiment in [*fits][:MAX_ROWS]
        for size in spread(fits[experiment]["n_features"].values.tolist(), n_sizes)
    ]
    blocks = [[*names].index(experiment) for experiment, _ in rows]
    heights = dict(zip(rows, np.arange(len(rows)) + 0.5 * np.array(blocks)))  # a gap after a model
    drawn["y"] = [heights.get(row, np.nan) for row in zip(drawn["experiment"], drawn["n_features"])]
    figure, axes = grid(3, 3, ROW * (max(heights.values()) + 1), 22, sharey=True)
    for axis, (quantity, (title, label)) in zip(axes, QUANTITIES.items()):
        draw(axis, drawn[(drawn["quantity"] == quantity) & drawn["y"].notna()], quantity)
        axis.set_title(title, loc="left")
        axis.set_xlabel(label)
        axis.tick_params(axis="y", length=0)
    words = [f"{names[experiment]}, $m$ = {size}" for experiment, size in rows]
    axes[0].set_yticks([*heights.values()], words)
    axes[0].set_ylim(max(heights.values()) + 0.6, -0.6)
    beyond(axes[0], len(drawn.groupby(["experiment", "n_features"])) - len(rows), len(rows))
    legend(figure, ncols=4)
    sns.despine(figure)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Median divergences, ratios of trained layers to others, and shares of better heads."""
    ratio = frame(fits, "log10_kl_ratio", origin="learned")
    ends = [name for name in ratio if str(name).startswith("log10_kl_ratio")]
    ratio[ends] = 10.0 ** ratio[ends]
    shares = frame(fits, "share_of_heads_kl", baseline="uniform")
    shares = shares[shares["origin"] != "uniform"]  # half of its heads are better than itself
    parts = {
        "divergence": (frame(fits, "median_kl"), "median_kl"),
        "ratio": (ratio, "log10_kl_ratio"),
        "share of heads": (shares, "share_of_heads_kl"),
    }
    named = [
        part.assign(quantity=quantity).rename(
            columns={f"{name}{end}": f"value{end}" for end in ("", "_low", "_high")}
        )
        for quantity, (part, name) in parts.items()
    ]
    # the recipe that a network has in other files is not that of these hidden layers
    return pd.concat(named, ignore_index=True).drop(columns=["recipe", "network"])


def answer(fits: dict[str, xr.Dataset]) -> str:
    """What trained layers of the largest size gain over fitted ones, and shares of better heads."""
    found, ratios, shares = table(fits), [], []
    for name, (experiment, fit) in zip(palette.row_names(fits), fits.items()):
        m = int(fit["n_features"][-1])
        own = found[(found["experiment"] == experiment) & (found["n_features"] == m)]
        own = own.set_index(["quantity", "origin", "baseline"]).sort_index()
        ratio = number(own, ("ratio", "learned", "fitted random"), palette.decimal)
        ratios.append(f"{ratio} ({name}, m = {m})")
        of_heads = [
            f"{words} {number(own, ('share of heads', origin, 'uniform'), palette.percent)}"
            for origin, words in ORIGINS.items()
        ]
        shares.append(f"{', '.join(of_heads)} ({name})")
    return (
        "Divergence from softmax attention of a trained hidden layer, over that of a random one "
        f"fitted to the same inputs (median of pairs): {', '.join(ratios)}. Shares of heads "
        f"that are better than equal attention: {'; '.join(shares)}."
    )


def number(own: pd.DataFrame, key: tuple[str, str, str], words: Callable[[float], str]) -> str:
    """The value of a row with its interval in words; a dash if there is no such row."""
    if key not in own.index:
        return words(np.nan)
    value, low, high = own.loc[[key], ["value", "value_low", "value_high"]].to_numpy(float)[0]
    return captions.interval(value, low, high, words)


def draw(axis: Axes, drawn: pd.DataFrame, quantity: str) -> None:
    """Estimates of each kind of hidden layer, or of trained ones over each, in rows."""
    what = "baseline" if quantity == "ratio" else "origin"
    for name, (label, look, shift) in LOOKS.items():
        own = drawn[drawn[what] == name]
        if len(own):
            own = own.assign(y=own["y"] - shift)
            estimates("value", "y", data=own, axis=axis, across=True, label=label, **look)
    if quantity == "share of heads":
        axis.set_xlim(-0.03, 1.03)
    elif (drawn["value"] > 0).any():
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    if quantity == "ratio":
        axis.axvline(1, color=palette.GUIDE, linewidth=0.8, zorder=0)
