"""Does the calcium that a network drives divide its output better than a constant does?"""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import heads_run, interval, line, mark, points, spread

MAX_HEADS = 3
MAX_TOKENS = 60  # shown one by one
LIMITS = 0.05, 20.0  # of ratios; intervals may be cut there
STEP = 1.06  # between points of one duration, which stand side by side
LOOKS = {  # colour, marker, line and what each division is
    "algebra": ("0", "", "-", "normaliser of this network (algebra)"),
    "algebra_scaled": ("0", "", ":", "the same, times the best constant"),
    "process": (palette.COLOURS[5], "s", "-", "process $p$"),
    "calcium": (palette.COLOURS[1], "^", "-", "calcium $C$, times the best constant"),
    "calcium_fitted": (
        palette.COLOURS[0],
        "o",
        "-",
        r"the best power of calcium, $k\,C^{-\gamma}$",
    ),
    "constant": ("0.5", "", "--", "the best constant"),
}
DRAWN = [name for name in LOOKS if name != "constant"]
ORDER_WORDS = {
    "bidirectional": "all written, then all read",
    "causal": "each written, then read",
}


def closed_loop(fits: dict[str, xr.Dataset]) -> Figure:
    """Upper row: gains token by token, one order a panel, of the first head of the first
    experiment. Below, a row for each head and a column for each order: errors over that of the best
    constant, against the time per token. The process is gated, except for open marks.
    """
    palette.apply()
    heads = [(fit, pair) for fit in fits.values() for pair in heads_run(fit["share_at_rest"])]
    heads = spread(heads, MAX_HEADS)
    first = next(iter(fits.values()))
    orders = first["order"].values
    n_rows = 1 + len(heads)
    figure, axes = plt.subplots(
        n_rows, len(orders), squeeze=False, figsize=(palette.PAGE, 0.9 + 2.15 * n_rows)
    )
    for column, order in enumerate(orders):
        if heads:
            draw_tokens(axes[0, column], *heads[0], order)
        for axis, (fit, pair) in zip(axes[1:, column], heads):
            draw_ratios(axis, fit.sel(pair).sel(order=order))
            words = f"{palette.head_name(fit, **pair)}: {ORDER_WORDS[order]}"
            palette.title_of(axis, fit, words)
    for axis in axes[1:].flat:
        low, high = axis.get_ylim()
        axis.set_ylim(min(max(low, LIMITS[0]), 0.45), max(min(high, LIMITS[1]), 1.1))
        palette.few_decades(axis)
    handles = [
        line(words, color=colour, marker=marker, linestyle=style, markersize=3)
        for colour, marker, style, words in LOOKS.values()
    ]
    colour, marker, _, _ = LOOKS["calcium_fitted"]
    open_look = {"color": colour, "markerfacecolor": "white"}
    words = "the best power, process also driven while tokens are written"
    handles.append(mark(words, marker=marker, **open_look))
    rest, depth = (f"{float(first[name]):g}" for name in ("operating_point", "depth"))
    words = (
        f"$m$ = {int(first['n_features'])}, IP$_3$ of {rest} + {depth} µM at the mean normaliser"
    )
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2,
        title=f"output divided by (bars: 95 % over inputs and seeds; {words})",
    )
    return figure


def draw_tokens(axis, fit: xr.Dataset, pair: dict[str, int], order: str) -> None:
    """ln of the gain that each division leaves, query by query, at the middle duration."""
    place = (fit.sizes["duration"] - 1) // 2 + (fit.sizes["duration"] > 1)
    one = fit.sel(pair).sel(order=order, drive="gated").isel(duration=place)
    present = one["token_calcium"].notnull().values
    axis.axhline(0, color=LOOKS["algebra"][0])
    for name in ("constant", "calcium", "calcium_fitted"):
        colour, _, style, _ = LOOKS[name]
        gain = one["token_log_gain"].sel(division=name).values[present][:MAX_TOKENS]
        axis.plot(np.arange(1, len(gain) + 1), gain, color=colour, linestyle=style, linewidth=0.9)
    axis.set_xlabel("token")
    axis.set_ylabel("ln of the gain $\\Gamma\\,\\hat Z$")
    name = palette.plain_text(str(fit["token_input"].values).replace("_", " "))
    seconds = float(one["duration"])
    words = (
        f"{palette.head_name(fit, **pair)}: {ORDER_WORDS[order]}\n“{name}”, {seconds:g} s per token"
    )
    palette.title_of(axis, fit, words)


def draw_ratios(axis, fit: xr.Dataset) -> None:
    """Output errors over that of the best constant, against the time per token, with intervals."""
    seconds, gated = fit["duration"].values, fit.sel(drive="gated")
    axis.axhline(1, color=LOOKS["constant"][0], linestyle=LOOKS["constant"][2])
    for place, name in enumerate(DRAWN):
        colour, marker, style, _ = LOOKS[name]
        triple = ratios(gated.sel(division=name))
        if marker:
            look = {"linestyle": style, "linewidth": 0.9}
            points(axis, seconds * STEP ** (place - 3), triple, colour, marker, **look)
        else:
            axis.plot(seconds, triple[0], color=colour, linestyle=style)
    colour, marker, _, _ = LOOKS["calcium_fitted"]
    ungated = fit.sel(drive="ungated", division="calcium_fitted")
    look = {"markerfacecolor": "white"}
    triple = ratios(ungated)
    points(axis, seconds * STEP**2, triple, colour, marker, **look)
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(seconds, [f"{x:g}" for x in seconds])
    axis.minorticks_off()
    axis.set_xlabel("time per token, written and read (s)")
    axis.set_ylabel("output error / that of\nthe best constant")


def ratios(fit: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """error_over_constant with its interval; what is far beyond the axes is drawn just beyond."""
    middle, low, high = (
        np.clip(x, LIMITS[0] / 2, 2 * LIMITS[1]) for x in interval(fit, "error_over_constant")
    )
    return middle, low, high
