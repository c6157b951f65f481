"""What the calcium of real astrocytes makes of the normaliser."""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from tripartite.figures import palette
from tripartite.figures.panels import heads_run, interval, line, mark, points

MAX_HEADS = 3  # of all experiments
NAMES = {"li_rinzel": "Li–Rinzel", "chi": "ChI", "g_chi": "G-ChI"}
STIMULI = {"g_chi": "glutamate (µM)"}
BEST, PLAIN = "s", "o"
HOLLOW, EDGE = {"markerfacecolor": "white"}, {"markeredgewidth": 0.7}


def calcium_readout(fits: dict[str, xr.Dataset]) -> Figure:
    """A column per calcium model. Steady states and oscillations; exponents; gain that is left.

    The gain is that of the first heads of every experiment; below is the power to divide by for it.
    """
    palette.apply()
    first = next(iter(fits.values()))
    models = list(dict.fromkeys(str(x) for fit in fits.values() for x in fit["model"].values))
    heads = [
        (fit, pair)
        for fit in fits.values()
        for pair in _heads(fit)[: max(1, MAX_HEADS // len(fits))]
    ][:MAX_HEADS]
    n_rows = 3 + len(heads)
    figure, axes = plt.subplots(
        n_rows,
        len(models),
        squeeze=False,
        sharex="col",
        figsize=(palette.PAGE if len(models) > 1 else palette.COLUMN, 1.0 + 1.45 * n_rows),
    )
    of_model = {
        model: next(fit.sel(model=model) for fit in fits.values() if model in fit["model"].values)
        for model in models
    }
    for column, (model, fit) in enumerate(of_model.items()):
        period = fit["period"].values
        words = "no oscillation"
        if np.isfinite(period).any():
            words = f"periods of {np.nanmin(period):.3g} to {np.nanmax(period):.3g} s"
        palette.title(axes[0, column], NAMES[model], words)
        draw_states(axes[0, column], fit)
        draw_exponent(axes[1, column], fit)
        for row, (shown, pair) in enumerate(heads, 2):
            if model in shown["model"].values:
                draw_gain(axes[row, column], shown.sel({"model": model, **pair}))
                if column == 0:
                    source = palette.plain_text(shown.attrs["data"])
                    words = f"{source}, {palette.head_name(shown, **pair)}"
                    axes[row, 0].set_title(words, loc="left")
        shown, pair = heads[0]
        if model in shown["model"].values:
            draw_power(axes[-1, column], shown.sel({"model": model, **pair}))
        axes[-1, column].set_xlabel(f"{STIMULI.get(model, 'IP$_3$ (µM)')} at the mean normaliser")
        for row in range(n_rows):
            _bands(axes[row, column], fit)
            axes[row, column].minorticks_off()
    axes[0, 0].set_ylabel("calcium $C$ (µM)")
    axes[1, 0].set_ylabel("exponent\n$\\alpha$ = d ln $C$ / d ln stimulus")
    for row in range(2, n_rows - 1):
        axes[row, 0].set_ylabel("sd of the log gain")
    axes[-1, 0].set_ylabel("power $\\gamma$ to divide by\n(first head)")
    for row in range(2, n_rows):
        _common(axes[row])
    _legend(figure, first)
    return figure


def _heads(fit: xr.Dataset) -> list[dict[str, int]]:
    """Heads that were run, in order; the first one if none was."""
    first = {"layer": int(fit["layer"][0]), "head": int(fit["head"][0])}
    return heads_run(fit["sd_log_normalizer"]) or [first]


def _bands(axis, fit: xr.Dataset) -> None:
    """Grey where no steady state is stable."""
    stimulus, known = fit["stimulus"].values, np.isfinite(fit["exponent"].values)
    axis.set(xscale="log", xlim=stimulus[[0, -1]])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~known, [False]]).astype(int)))
    for begin, end in edges.reshape(-1, 2):
        axis.axvspan(
            stimulus[max(begin - 1, 0)],
            stimulus[min(end, len(stimulus) - 1)],
            color="0.93",
            linewidth=0,
            zorder=0,
        )
    axis.xaxis.set_major_formatter("{x:g}")


def draw_states(axis, fit: xr.Dataset) -> None:
    stimulus, c = fit["steady_stimulus"].values, fit["steady_calcium"].values
    stable = fit["steady_growth"].values < 0
    for keep, look in ((stable, "-"), (~stable, ":")):
        near = keep | np.roll(keep, 1) if look == ":" else keep
        axis.plot(stimulus, np.where(near, c, np.nan), look, color=palette.EXACT, zorder=3)
    low, high = fit["cycle_low"].values, fit["cycle_high"].values
    axis.fill_between(
        fit["stimulus"].values, low, high, color=palette.SMALL, alpha=0.35, linewidth=0
    )
    for edge in (low, high):
        axis.plot(fit["stimulus"].values, edge, color=palette.SMALL)
    for kind, marker in (("hopf", "o"), ("fold", "D")):
        for which in ("first", "last"):
            at = float(fit[f"{kind}_{which}"])
            if np.isfinite(at):
                place = at, _on_curve(stimulus, c, at, kind, which)
                axis.plot(*place, marker, color=palette.LARGE, markersize=3.5, zorder=4)
    if np.isfinite(c).any():
        _log(axis)


def _on_curve(stimulus: np.ndarray, c: np.ndarray, at: float, kind: str, which: str) -> float:
    """Calcium of the steady states where the stimulus is `at`: lowest for the first Hopf point."""
    places = np.flatnonzero(np.diff(np.sign(stimulus - at)) != 0)
    if kind == "fold" or not len(places):
        return float(c[np.abs(np.log(stimulus / at)).argmin()])
    place = places[0 if which == "first" else -1]
    return float(c[place : place + 2].mean())


def draw_exponent(axis, fit: xr.Dataset) -> None:
    axis.plot(fit["stimulus"], fit["exponent"], color=palette.EXACT)
    axis.axhline(1, color="0.6", linewidth=0.6, linestyle="--")
    axis.set_ylim(0, None)


def draw_gain(axis, fit: xr.Dataset) -> None:
    total, low, high = interval(fit, "sd_log_normalizer")
    axis.axhline(total, color=palette.EXACT, linewidth=0.8)
    axis.axhspan(low, high, color=palette.EXACT, alpha=0.1, linewidth=0)
    for colour, of_depth in _by_depth(fit):
        x = of_depth["stimulus_at_mean"]
        axis.plot(x, of_depth["sd_log_gain_law"], color=colour, linewidth=0.7)
        points(axis, x, interval(of_depth, "sd_log_gain_plain"), colour, PLAIN, **EDGE)
        points(axis, x, interval(of_depth, "sd_log_gain"), colour, BEST, **EDGE, **HOLLOW)
    if np.isfinite(fit["sd_log_gain"]).any():
        _log(axis)


def draw_power(axis, fit: xr.Dataset) -> None:
    for colour, of_depth in _by_depth(fit):
        power = interval(of_depth, "readout_exponent")
        points(axis, of_depth["stimulus_at_mean"], power, colour, BEST, **EDGE, **HOLLOW)
    axis.axhline(1, color="0.6", linewidth=0.6, linestyle="--")
    if np.isfinite(fit["readout_exponent"]).any():
        _log(axis)


def _by_depth(fit: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """A colour and the numbers of each depth, with the stimuli of the mean normaliser."""
    fit = fit.assign(stimulus_at_mean=fit["operating_point"] + fit["added_stimulus"])
    return [
        (colour, fit.isel(added_stimulus=i))
        for i, colour in zip(range(fit.sizes["added_stimulus"]), palette.COLOURS)
    ]


def _log(axis) -> None:
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.yaxis.set_major_formatter("{x:g}")


def _common(row) -> None:
    """One range of y for panels side by side, from those that show something."""
    ends = [axis.get_ylim() for axis in row if axis.get_yscale() == "log"]
    if ends:
        for axis in row:
            _log(axis)
            axis.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
            axis.minorticks_off()


def _legend(figure: Figure, fit: xr.Dataset) -> None:
    exact, grey = {"color": palette.EXACT}, {"color": "0.3"}
    bifurcation = {"color": palette.LARGE, "markersize": 3.5}
    handles = [
        line("stable steady state", **exact),
        line("unstable", **exact, linestyle=":"),
        Patch(color=palette.SMALL, alpha=0.35, label="range of oscillation"),
        Patch(color="0.93", label="calcium cannot come to rest"),
        mark("Hopf bifurcation", "o", **bifurcation),
        mark("fold", "D", **bifurcation),
        line("gain without astrocyte, sd(ln $Z$)", **exact, linewidth=0.8),
        mark("dividing by $C$; bars: 95 % over inputs", PLAIN, **grey),
        line("law $|1-\\alpha_Z|$ sd(ln $Z$)", **grey, linewidth=0.7),
        mark("dividing by the best power $C^\\gamma$, other inputs", BEST, **grey, **HOLLOW),
    ]
    handles += [
        line(
            f"the mean normaliser adds {float(of_depth['added_stimulus']):g} µM",
            color=colour,
            linewidth=3,
        )
        for colour, of_depth in _by_depth(fit)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
