"""How fast must calcium be, and how long must a token be read?"""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import interval, line, mark, points

MAX_PANELS = 3  # side by side
NEEDED = {  # what marks the ratio that is needed, on the map
    "ratio_needed_in_all": ("o-", "its lag doubles the squared error"),
    "ratio_needed": ("s:", "its lag alone errs as much as the random features"),
}
STYLES = ("-", "--")  # of tolerances
LAG, SECONDS = palette.COLOURS[3], palette.COLOURS[1]
FACES = (SECONDS, "white")  # of tolerances
NAMES = {"li_rinzel_nest": "Li–Rinzel (NEST)", "li_rinzel_stimberg": "Li–Rinzel (Stimberg)"}
MIN_DRAWN = 1e-4  # share of the largest below which nothing is drawn


def calcium_speed(fits: dict[str, xr.Dataset]) -> Figure:
    """Three panels per head, of the first heads of every experiment.

    Upper: output error against T_r / tau_p and m, and the times from which on the lag is tolerable,
    by itself or beside the random features. Middle: sd of the log gain, and its laws. Lower:
    reading time per token that calcium models and measured transients need.
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
        height_ratios=[1.25, 1, 1.15] * n_blocks,
        figsize=(palette.PAGE if n_columns > 1 else palette.COLUMN, 0.8 + 5.4 * n_blocks),
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
    tolerances = heads[0][0]["lag_error"].values
    handles += [
        line(f"its lag alone errs by {x:.0%}", color=LAG, linestyle=style, path_effects=outline)
        for x, style in zip(tolerances, STYLES)
    ]
    grey = {"color": "0.3", "linewidth": 1}
    fast = "fast limit $e^{-T_r/\\tau_p}\\,\\sqrt{2(1-\\rho_1)}$ sd(ln $Z$)"
    handles += [
        mark("exact network", color=palette.COLOURS[0]),
        line("law from the correlations of ln $Z$", **grey),
        line(fast, linestyle="--", **grey),
        line("slow limit sd(ln $Z$)", linestyle=":", **grey),
        *(
            mark(f"time for a lag error of {x:.0%}", "D", color=SECONDS, markerfacecolor=face)
            for x, face in zip(tolerances, FACES)
        ),
    ]
    title = "bars: 95 % over inputs, and seeds of networks"
    ncols = 2 if n_columns > 1 else 1
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, title=title)
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
    for style, ratio_for_lag in zip(STYLES, fit["ratio_for_lag"].values):
        axis.axvline(ratio_for_lag, linestyle=style, color=LAG, path_effects=outline, zorder=3)
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
        axis.set(yscale="log", ylim=(min(shown, default=MIN_DRAWN * top) / 2, 2 * top))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.set_xlabel("reading time per token $T_r/\\tau_p$")
    axis.set_ylabel("sd of the gain\nln($Z_t/p_t$)")


def draw_seconds(axis, fit: xr.Dataset, labels: bool) -> None:
    """Reading time for the tolerable errors of the lag, a line per model or transient."""
    y = np.arange(fit.sizes["model"])[::-1]
    known = [np.empty(0)]
    for place, face in enumerate(FACES):
        middle, low, high = interval(fit.isel(lag_error=place), "seconds_needed")
        points(axis, middle, (y, y, y), SECONDS, "D", markerfacecolor=face, zorder=3)
        axis.hlines(y, low, high, color=SECONDS, linewidth=0.9)
        known += [x[np.isfinite(x) & (x > 0)] for x in (middle, low, high)]
        if place == 0:
            for height, value in zip(y, middle):
                if np.isfinite(value):
                    axis.annotate(
                        f"{value:.2g} s",
                        (value, height),
                        xytext=(-4, 0),
                        textcoords="offset points",
                        ha="right",
                        va="center",
                        fontsize=5.5,
                    )
    values = np.concatenate(known)
    axis.set(xscale="log", ylim=(-0.6, len(y) - 0.4))
    axis.set_xlim(min(values, default=0.1) / 60, max(values, default=10) * 2)
    if not len(values):
        axis.annotate("no lag", (0.5, 0.5), xycoords="axes fraction", ha="center")
    names = [
        f"{words}, $\\tau$ = {seconds:.2g} s"
        for words, seconds in zip(model_words(fit), fit["relaxation_seconds"].values)
    ]
    axis.set_yticks(y, names if labels else [""] * len(y), fontsize=6)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.set_xlabel("reading time per token (s)")


def model_words(fit: xr.Dataset) -> list[str]:
    """What the models of calcium are called."""
    names, points = fit["calcium_model"].values, fit["operating_point"].values
    return [
        f"{NAMES[name]}, {x:g} µM" if name else f"measured, {model}"
        for model, name, x in zip(fit["model"].values, names, points)
    ]
