"""How long do synapses remember, can it be seen from the outputs, and what do unequal leaks do?"""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette

HEADS = 4  # drawn, from easy to hard
CURVES = 5  # leaks whose curves are drawn
DOTS = 9  # ages at which the network is drawn
LEAST = 1e-4  # retained weight


def retention(fits: dict[str, xr.Dataset]) -> Figure:
    """Retained weight against age, fitted against true leak, and the gain; a row per experiment.

    Means or medians over inputs and seeds with 95 % intervals over seeds; laws are lines or dashes.
    """
    palette.apply()
    figure = plt.figure(figsize=(palette.PAGE, 0.35 + 2.65 * len(fits)))
    parts = figure.subfigures(len(fits), 1, squeeze=False)
    for part, fit in zip(parts[:, 0], fits.values()):
        heads = chosen(fit)
        axes = part.subplots(1, 3)
        for axis, draw in zip(axes, (draw_ages, draw_leaks, draw_gains)):
            draw(axis, fit, heads)
        handles = [
            plt.Line2D(
                [],
                [],
                color=palette.COLOURS[rank],
                marker=palette.MARKERS[rank],
                markersize=3,
                linestyle="",
                label=words_of(fit, at),
            )
            for rank, at in enumerate(heads)
        ]
        if handles:
            part.legend(
                handles=handles,
                loc="outside lower center",
                ncols=HEADS,
                handletextpad=0.2,
                title=f"networks of $m$ = {fit['n_features'].values[-1]} neurons",
            )
    grey = "0.35"
    handles = [
        plt.Line2D(
            [],
            [],
            color=grey,
            marker="o",
            markersize=3,
            linestyle="",
            label="simulated (bars: 95 % over seeds)",
        ),
        plt.Line2D(
            [],
            [],
            color=grey,
            linewidth=0.9,
            label="law of exact attention, nothing fitted (dashes in the right panels)",
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def chosen(fit: xr.Dataset) -> list[tuple[int, int]]:
    """Places (layer, head) of the heads that are drawn, from the lowest output error."""
    error = fit["output_error"].values[0, -1]
    run = [tuple(int(x) for x in at) for at in np.argwhere(np.isfinite(error))]
    run.sort(key=lambda at: (error[at], at))
    if len(run) > HEADS:
        run = [run[i] for i in np.linspace(0, len(run) - 1, HEADS).round().astype(int)]
    return run


def words_of(fit: xr.Dataset, at: tuple[int, int]) -> str:
    return palette.head_name(fit, fit["layer"][at[0]], fit["head"][at[1]])


def ends(one: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(one[name + end].values for end in ("", "_low", "_high"))


def bars(axis, x: np.ndarray, triple: tuple, colour: str, marker: str) -> None:
    middle, low, high = triple
    sizes = np.nan_to_num([middle - low, high - middle]).clip(0)
    axis.errorbar(
        x, middle, sizes, fmt=marker, color=colour, markersize=3, elinewidth=0.8, zorder=3
    )


def draw_ages(axis, fit: xr.Dataset, heads: list) -> None:
    """Attention over that without leak, for equal leaks, of the first head."""
    words = (
        f"what is retained\n{words_of(fit, heads[0])}" if heads else "what is retained\nno result"
    )
    palette.title_of(axis, fit, words)
    axis.set(xlabel="age of the key (s)", ylabel="attention / attention without leak")
    hebbian, presynaptic = fit["leak_hebbian"].values, fit["leak_presynaptic"].values
    equal = sorted(np.flatnonzero(hebbian == presynaptic), key=lambda i: hebbian[i])
    if len(equal) > CURVES:
        equal = [equal[i] for i in np.linspace(0, len(equal) - 1, CURVES).round().astype(int)]
    if not heads or not equal:
        return
    age = fit["age"].values
    for rank, point in enumerate(equal):
        one = fit.isel(point=point, layer=heads[0][0], head=heads[0][1])
        law, triple = one["log_retained_law"].values, ends(one, "log_retained")
        known = np.flatnonzero(law > np.log(LEAST))
        if not len(known):
            continue
        half = f"{np.log(2) / hebbian[point]:.2g} s" if hebbian[point] > 0 else "never"
        colour = plt.get_cmap("viridis")(0.9 * rank / max(len(equal) - 1, 1))
        axis.plot(age[known], np.exp(law[known]), color=colour, linewidth=0.9)
        dots = known[np.linspace(0, len(known) - 1, DOTS).round().astype(int)]
        bars(axis, age[dots], tuple(np.exp(x[dots].clip(max=700)) for x in triple), colour, "o")
        axis.plot([], [], "o-", color=colour, markersize=3, label=f"{hebbian[point]:g} /s ({half})")
    axis.set_yscale("log")
    bottom, top = axis.get_ylim()
    bottom = max(bottom, LEAST / 3)
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
    near = positive.min() / 2  # below, the axis is linear
    line = np.append(0, np.geomspace(near, true.max() * 1.5, 100))
    axis.plot(line, line, color="0.35", linewidth=0.9)
    for rank, (layer, head) in enumerate(heads):
        one = fit.isel(layer=layer, head=head, n_features=-1)
        x = true * 1.06 ** (rank - (len(heads) - 1) / 2)
        bars(axis, x, ends(one, "leak_fitted"), palette.COLOURS[rank], palette.MARKERS[rank])
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
        one = fit.isel(layer=layer, head=head)
        x = difference + step * (rank - (len(heads) - 1) / 2)
        axis.plot(x, one["gain_law"], "_", color=palette.COLOURS[rank], markersize=9, mew=0.9)
        triple = ends(one.isel(n_features=-1), "gain")
        bars(axis, x, triple, palette.COLOURS[rank], palette.MARKERS[rank])
    gains = fit["gain"].values[np.isfinite(fit["gain"].values)]
    if len(gains) and gains.min() > 0 and gains.max() > 20 * gains.min():
        axis.set_yscale("log")
