"""How fast must calcium be, and how long must a token be read?"""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import interval, line, mark

MAX_PANELS = 3  # side by side
NEEDED = {  # what marks the ratio that is needed, on the map
    "ratio_needed_in_all": ("o-", "stale calcium doubles the squared error, bars: 95 % over seeds"),
    "ratio_needed": ("s:", "its gain error alone equals that of the random features"),
}
NAMES = {"li_rinzel_nest": "Li–Rinzel (NEST)", "li_rinzel_stimberg": "Li–Rinzel (Stimberg)"}
MIN_DRAWN = 1e-4  # share of the largest below which nothing is drawn


def calcium_speed(fits: dict[str, xr.Dataset]) -> Figure:
    """Three panels per head, of the first heads of every experiment.

    Upper: output error against T_r / tau_p and m. Middle: sd of the log gain, and its laws. Lower:
    reading time per token that calcium models need.
    """
    palette.apply()
    heads = [
        (fit, pair)
        for fit in fits.values()
        for pair in _heads(fit)[: max(1, MAX_PANELS // len(fits))]
    ]
    n_columns = min(MAX_PANELS, len(heads))
    n_blocks = -(-len(heads) // n_columns)
    figure, axes = plt.subplots(
        3 * n_blocks,
        n_columns,
        squeeze=False,
        height_ratios=[1.25, 1, 0.85] * n_blocks,
        figsize=(palette.PAGE if n_columns > 1 else palette.COLUMN, 0.7 + 5 * n_blocks),
    )
    for axis in axes.flat:
        axis.set_axis_off()
    errors = np.concatenate([fit["total_error"].sel(pair).values.ravel() for fit, pair in heads])
    errors = errors[np.isfinite(errors) & (errors > 0)]
    lowest, highest = (errors.min(), errors.max()) if len(errors) else (0.1, 1)
    norm = mpl.colors.LogNorm(lowest, max(highest, 1.01 * lowest))
    for place, (fit, pair) in enumerate(heads):
        block, column = divmod(place, n_columns)
        own = axes[3 * block : 3 * block + 3, column]
        for axis in own:
            axis.set_axis_on()
        fit_ = fit.sel(pair)
        words = palette.head_name(fit, **pair)
        palette.title_of(own[0], fit, words)
        draw_map(own[0], fit_, norm)
        draw_gain(own[1], fit_)
        draw_seconds(own[2], fit_, labels=column == 0)
    figure.colorbar(
        mpl.cm.ScalarMappable(norm, "cividis"),
        ax=axes[::3].ravel().tolist(),
        pad=0.01,
        aspect=25,
        label="relative output error",
    )
    outline = [patheffects.withStroke(linewidth=2.2, foreground="black")]
    handles = [
        line(
            words,
            color="white",
            markersize=3.5,
            marker=look[0],
            linestyle=look[1:],
            path_effects=outline,
        )
        for look, words in NEEDED.values()
    ]
    grey = {"color": "0.3", "linewidth": 1}
    fast = "fast limit $e^{-T_r/\\tau_p}\\,\\sqrt{2(1-\\rho_1)}$ sd(ln $Z$)"
    handles += [
        mark("exact network, bars: 95 % over inputs", color=palette.COLOURS[0]),
        line("law from the correlations of ln $Z$", **grey),
        line(fast, linestyle="--", **grey),
        line("slow limit sd(ln $Z$)", linestyle=":", **grey),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if n_columns > 1 else 1)
    return figure


def _heads(fit: xr.Dataset) -> list[dict[str, int]]:
    """Labels of the heads that were run, in order; those of the first one if none was."""
    run = fit["total_error"].notnull().any(("ratio", "n_features")).transpose("layer", "head")
    places = np.argwhere(run.values) if run.any() else np.zeros((1, 2), dtype=int)
    return [
        {"layer": int(fit["layer"][a]), "head": int(fit["head"][b])} for a, b in places.tolist()
    ]


def _edges(x: np.ndarray) -> np.ndarray:
    """Edges of cells around rising x > 0, half way on a log axis."""
    logs = np.log(x)
    steps = np.diff(logs) if len(x) > 1 else np.array([1.0])
    middles = logs[:-1] + steps[: len(x) - 1] / 2
    return np.exp([logs[0] - steps[0] / 2, *middles, logs[-1] + steps[-1] / 2])


def draw_map(axis, fit: xr.Dataset, norm) -> None:
    ratio, m = fit["ratio"].values, fit["n_features"].values
    edges = _edges(ratio), _edges(m)
    axis.pcolormesh(*edges, fit["total_error"].values.T, norm=norm, cmap="cividis", rasterized=True)
    outline = [patheffects.withStroke(linewidth=2.2, foreground="black")]
    for name, (look, _) in NEEDED.items():
        middle, low, high = interval(fit, name)
        middle = np.maximum(middle, edges[0][0])  # what is smaller stands at the edge
        axis.plot(middle, m, look, color="white", markersize=3.5, path_effects=outline, zorder=4)
        if name == "ratio_needed_in_all":
            axis.hlines(m, low, high, color="white", linewidth=1, path_effects=outline, zorder=3)
    axis.set(xscale="log", yscale="log", xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]])
    axis.set_yticks(m, [palette.power(np.log10(x)) for x in m])
    axis.minorticks_off()
    axis.set_ylabel("hidden neurons $m$")
    axis.set_xlabel("reading time per token $T_r/\\tau_p$")
    axis.xaxis.set_major_formatter("{x:g}")


def draw_gain(axis, fit: xr.Dataset) -> None:
    ratio, law = fit["ratio"].values, fit["sd_log_gain_law"].values
    middle, low, high = interval(fit, "sd_log_gain")
    fine = np.geomspace(ratio[0], ratio[-1], 100)
    axis.axhline(float(fit["sd_log_normalizer"]), linestyle=":", color="0.3")
    axis.plot(fine, np.exp(-fine) * float(fit["sd_log_gain_stale_law"]), "--", color="0.3")
    axis.plot(ratio, law, color="0.3")
    axis.vlines(ratio, low, high, color=palette.COLOURS[0], linewidth=0.8)
    axis.plot(ratio, middle, "o", color=palette.COLOURS[0], markersize=3)
    axis.set(xscale="log", xlim=_edges(ratio)[[0, -1]])
    top = np.nanmax([*law, *high, *middle, 0], initial=0)
    if top > MIN_DRAWN:  # equal queries have no stale gain
        shown = middle[middle > MIN_DRAWN * top]
        axis.set(yscale="log", ylim=(shown.min() / 2, 2 * top))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.set_xlabel("reading time per token $T_r/\\tau_p$")
    axis.set_ylabel("sd of the gain\nln($Z_t/p_t$)")


def draw_seconds(axis, fit: xr.Dataset, labels: bool) -> None:
    """Reading time at the largest m, a line per model."""
    last = fit.isel(n_features=-1)
    y = np.arange(fit.sizes["model"])[::-1]
    middle, low, high = interval(last, "seconds_needed")
    axis.hlines(y, low, high, color=palette.COLOURS[1], linewidth=0.9)
    axis.plot(middle, y, "D", color=palette.COLOURS[1], markersize=3)
    axis.set(xscale="log", ylim=(-0.6, len(y) - 0.4))
    known = [x for x in (*middle, *low, *high) if np.isfinite(x) and x > 0]
    axis.set_xlim(min(known, default=0.1) / 4, max(known, default=10) * 4)
    if not np.isfinite(middle).any():
        axis.annotate("no lower bound", (0.5, 0.5), xycoords="axes fraction", ha="center")
    for place, value in zip(y, middle):
        if np.isfinite(value):
            axis.annotate(
                f"{value:.2g} s",
                (value, place),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=6,
            )
    names = [
        f"{words}, $\\tau$ = {seconds:.2g} s"
        for words, seconds in zip(model_words(fit), fit["relaxation_seconds"].values)
    ]
    axis.set_yticks(y, names if labels else [""] * len(y), fontsize=6)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    size = palette.power(np.log10(int(last["n_features"])))
    axis.set_xlabel(f"reading time per token\nneeded (s), $m$ = {size}")


def model_words(fit: xr.Dataset) -> list[str]:
    """What the models of calcium are called."""
    names, points = fit["calcium_model"].values, fit["operating_point"].values
    return [
        f"{NAMES[name]}, {x:g} µM" if name else str(model)
        for model, name, x in zip(fit["model"].values, names, points)
    ]
