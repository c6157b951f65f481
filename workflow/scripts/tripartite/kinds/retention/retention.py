"""How long do synapses remember, can it be seen from the outputs, and what do unequal leaks do?"""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import head_words, heads_by, interval, line, mark, points, spread

MAX_HEADS = 4  # drawn, from easy to hard
MAX_CURVES = 5  # leaks whose curves are drawn
MAX_MARKS = 9  # ages at which the network is drawn
MIN_RETAINED = 1e-4  # weight below which nothing is drawn


def retention(fits: dict[str, xr.Dataset]) -> Figure:
    """Retained weight against age, fitted against true leak, and the gain; a row per experiment.

    Means over inputs and seeds with 95 % intervals over both; laws are lines or dashes.
    """
    palette.apply()
    figure = plt.figure(figsize=(palette.PAGE, 0.35 + 2.65 * len(fits)))
    parts = figure.subfigures(len(fits), 1, squeeze=False)
    for part, fit in zip(parts[:, 0], map(asked, fits.values())):
        heads = heads_by(fit["output_error"].values[0, -1], MAX_HEADS)
        axes = part.subplots(1, 3)
        for axis, draw in zip(axes, (draw_ages, draw_leaks, draw_gains)):
            draw(axis, fit, heads)
        handles = [
            mark(head_words(fit, place), palette.MARKERS[rank], color=palette.COLOURS[rank])
            for rank, place in enumerate(heads)
        ]
        if handles:
            part.legend(
                handles=handles,
                loc="outside lower center",
                ncols=MAX_HEADS,
                handletextpad=0.2,
                title=f"networks of $m$ = {fit['n_features'].values[-1]} neurons",
            )
    law = "law of exact attention, nothing fitted (dashes in the right panels)"
    handles = [
        mark("simulated (bars: 95 % over inputs and seeds)", color="0.35"),
        line(law, color="0.35", linewidth=0.9),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def asked(fit: xr.Dataset) -> xr.Dataset:
    """The pairs of leaks of the study, along a dimension `pair` that comes first."""
    pairs = fit.stack(pair=("leak_hebbian", "leak_presynaptic")).transpose("pair", ...)
    is_asked = (pairs["note"] != "not asked").all(("n_features", "layer", "head"))
    return pairs.isel(pair=is_asked.values)


def draw_ages(axis, fit: xr.Dataset, heads: list) -> None:
    """Attention over that without leak, for equal leaks, of the first head."""
    words = head_words(fit, heads[0]) if heads else "no result"
    palette.title_of(axis, fit, f"what is retained (slope by construction)\n{words}")
    axis.set(xlabel="age of the key (s)", ylabel="attention / attention without leak")
    hebbian, presynaptic = fit["leak_hebbian"].values, fit["leak_presynaptic"].values
    equal = spread(np.flatnonzero(hebbian == presynaptic).tolist(), MAX_CURVES)
    if not heads or not equal:
        return
    age = fit["age"].values
    for rank, place in enumerate(equal):
        pair = fit.isel(pair=place, layer=heads[0][0], head=heads[0][1])
        law, triple = pair["log_retained_law"].values, interval(pair, "log_retained")
        drawn = np.flatnonzero(law > np.log(MIN_RETAINED)).tolist()
        if not drawn:
            continue
        half = f"{np.log(2) / hebbian[place]:.2g} s" if hebbian[place] > 0 else "never"
        colour = plt.get_cmap("viridis")(0.9 * rank / max(len(equal) - 1, 1))
        axis.plot(age[drawn], np.exp(law[drawn]), color=colour, linewidth=0.9)
        at = spread(drawn, MAX_MARKS)
        retained = tuple(np.exp(x[at].clip(max=700)) for x in triple)
        points(axis, age[at], retained, colour, zorder=3)
        axis.plot([], [], "o-", color=colour, markersize=3, label=f"{hebbian[place]:g} /s ({half})")
    axis.set_yscale("log")
    bottom, top = axis.get_ylim()
    bottom = max(bottom, MIN_RETAINED / 3)
    axis.set_ylim(bottom, top * (top / bottom) ** 0.8)  # room for the legend, where no curve is
    axis.legend(title="leak (half-life)", loc="upper right", fontsize=5.5, title_fontsize=5.5)


def draw_leaks(axis, fit: xr.Dataset, heads: list) -> None:
    """Leak fitted to attention weights against that of the synapses."""
    palette.title(axis, "", "what can be inferred from outputs\nmaximum likelihood, exact logits")
    axis.set(xlabel="true leak of $H$ (1/s)", ylabel="fitted leak (1/s)")
    true = fit["leak_hebbian"].values
    positive = true[true > 0]
    if not heads or not len(positive):
        return
    near = max(positive.min() / 2, true.max() * 1e-9)  # below, the axis is linear
    diagonal = np.append(0, np.geomspace(near, true.max() * 1.5, 100))
    axis.plot(diagonal, diagonal, color="0.35", linewidth=0.9)
    for rank, (layer, head) in enumerate(heads):
        fitted = interval(fit.isel(layer=layer, head=head, n_features=-1), "leak_fitted")
        x = true * 1.06 ** (rank - (len(heads) - 1) / 2)
        points(axis, x, fitted, palette.COLOURS[rank], palette.MARKERS[rank], zorder=3)
    if len(set(positive)) > 1:
        left = -near / 2 if (true == 0).any() else near
        for scale, limits in ((axis.set_xscale, axis.set_xlim), (axis.set_yscale, axis.set_ylim)):
            scale("symlog", linthresh=near, linscale=0.4)
            limits(left, true.max() * 1.5)
        ticks = sorted(set(true[true >= near]))
        ticks = [ticks[i] for i in sorted({0, len(ticks) // 2, len(ticks) - 1})]
        for which in (axis.xaxis, axis.yaxis):
            which.set_ticks(ticks, [f"{x:g}" for x in ticks])
        axis.minorticks_off()


def draw_gains(axis, fit: xr.Dataset, heads: list) -> None:
    """Sum of attention weights against the difference of leaks; the law as dashes."""
    palette.title(axis, "", "gain of the output\nmedian over queries")
    axis.set(xlabel="$\\lambda_g-\\lambda_H$ (1/s)", ylabel="gain: sum of attention weights")
    difference = (fit["leak_presynaptic"] - fit["leak_hebbian"]).values
    axis.axhline(1, color="0.75", linewidth=0.6, zorder=0)
    axis.locator_params(axis="x", nbins=5)
    step = np.ptp(difference) / 60
    for rank, (layer, head) in enumerate(heads):
        of_head = fit.isel(layer=layer, head=head)
        x = difference + step * (rank - (len(heads) - 1) / 2)
        axis.plot(x, of_head["gain_law"], "_", color=palette.COLOURS[rank], markersize=9, mew=0.9)
        gain = interval(of_head.isel(n_features=-1), "gain")
        points(axis, x, gain, palette.COLOURS[rank], palette.MARKERS[rank], zorder=3)
    gains = fit["gain"].values[np.isfinite(fit["gain"].values)]
    if len(gains) and gains.min() > 0 and gains.max() > 20 * gains.min():
        axis.set_yscale("log")
