"""What the calcium of real astrocytes makes of the normaliser."""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from tripartite.figures import palette
from tripartite.figures.panels import heads_run, interval, line, mark, points

MAX_HEADS = 4  # of all experiments
NAMES = {
    "li_rinzel_nest": "Li–Rinzel (NEST)",
    "li_rinzel_stimberg": "Li–Rinzel (Stimberg)",
    "chi": "ChI",
    "g_chi": "G-ChI",
}
STIMULI = {
    "IP3": "IP$_3$ (µM)",
    "source of IP3": "source of IP$_3$, $J/\\Omega_{5P}$ (µM)",
    "glutamate": "glutamate (µM)",
}
C, POWER = "C", "C^gamma"
COLOURS = {C: palette.COLOURS[0], POWER: palette.COLOURS[1]}
OSCILLATES, BISTABLE = "0.88", "#FFF0C2"
HEADS = palette.COLOURS[2:]
MARKERS = {C: "o", POWER: "s"}
HOLLOW = {"markerfacecolor": "white", "markeredgewidth": 0.7}


def calcium_readout(fits: dict[str, xr.Dataset]) -> Figure:
    """A column per calcium model: steady states; exponents; the spread left in heads; with noise.

    Heads are the first ones of every experiment, with the normaliser as the only source of the
    stimulus; the last row has what is left at the best operating points, tested, for each noise.
    """
    palette.apply()
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
        figsize=(palette.PAGE if len(models) > 1 else palette.COLUMN, 1.2 + 1.2 * n_rows),
    )
    for column, model in enumerate(models):
        fit = next(x for x in fits.values() if model in x["model"].values).sel(model=model)
        of_column = axes[:, column]
        palette.title(of_column[0], NAMES[model], _period(fit))
        draw_states(of_column[0], fit)
        draw_exponent(of_column[1], fit)
        for axis, (shown, pair) in zip(of_column[2:-1], heads):
            if model in shown["model"].values:
                draw_spread(axis, shown.sel({"model": model, **pair}))
        for axis in of_column[:-1]:
            _shade(axis, fit)
        for axis in of_column[: n_rows - 2]:
            axis.tick_params(labelbottom=False)
        of_column[-2].set_xlabel(STIMULI[str(fit["stimulus_name"].values)])
        draw_noise(
            of_column[-1],
            [(x.sel(model=model), pair) for x, pair in heads if model in x["model"].values],
        )
    for row, (shown, pair) in enumerate(heads, 2):
        source = palette.plain_text(palette.full_name(shown.sel(pair)))
        axes[row, 0].set_title(f"{source}, {palette.head_name(shown, **pair)}", loc="left")
        axes[row, 0].set_ylabel("share left of\nsd of log gain")
    axes[0, 0].set_ylabel("calcium $C$ (µM)")
    axes[1, 0].set_ylabel("exponent\n$\\alpha$ = d ln $C$ / d ln $S$")
    axes[-1, 0].set_ylabel("share left at the\nbest point, tested")
    for row in axes[1:]:
        _same_range(row)
    _legend(figure, heads)
    return figure


def _heads(fit: xr.Dataset) -> list[dict[str, int]]:
    """Heads that were run, in order; the first one if none was."""
    first = {"layer": int(fit["layer"][0]), "head": int(fit["head"][0])}
    return heads_run(fit["sd_log_normalizer"]) or [first]


def _period(fit: xr.Dataset) -> str:
    """How fast a model oscillates, in words."""
    period = fit["period"].values
    if not np.isfinite(period).any():
        return "no oscillation"
    return f"periods {np.nanmin(period):.3g} to {np.nanmax(period):.3g} s"


def _shade(axis: Axes, fit: xr.Dataset) -> None:
    """Grey where no steady state is stable, yellow where the model is bistable."""
    stimulus, regime = fit["stimulus"].values, fit["regime"].values
    finite = np.isfinite(stimulus)
    if not finite.all():
        return
    axis.set(xscale="log", xlim=stimulus[[0, -1]])
    middles = np.sqrt(stimulus[1:] * stimulus[:-1])
    edges = np.concatenate([stimulus[:1], middles, stimulus[-1:]])
    for name, colour in (("oscillates", OSCILLATES), ("bistable", BISTABLE)):
        there = np.concatenate([[False], regime == name, [False]]).astype(int)
        for begin, end in np.flatnonzero(np.diff(there)).reshape(-1, 2):
            axis.axvspan(edges[begin], edges[end], color=colour, linewidth=0, zorder=0)
    axis.xaxis.set_major_locator(LogLocator())
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()


def draw_states(axis: Axes, fit: xr.Dataset) -> None:
    """Steady states along their curve, the range of the oscillation, and bifurcations."""
    stimulus, c = fit["steady_stimulus"].values, fit["steady_calcium"].values
    stable = fit["steady_growth"].values < 0
    for keep, look in ((stable, "-"), (~stable, ":")):
        near = keep | np.roll(keep, 1) if look == ":" else keep
        axis.plot(stimulus, np.where(near, c, np.nan), look, color=palette.EXACT, zorder=3)
    x, low, high = (fit[name].values for name in ("cycle_stimulus", "cycle_low", "cycle_high"))
    axis.fill_between(x, low, high, color=palette.SMALL, alpha=0.35, linewidth=0)
    for edge in (low, high):
        axis.plot(x, edge, color=palette.SMALL)
    for kind, marker in (("hopf", "o"), ("fold", "D")):
        for which in ("first", "last"):
            at = float(fit[f"{kind}_{which}"])
            if np.isfinite(at):
                place = at, _on_curve(stimulus, c, at, kind, which)
                axis.plot(*place, marker, color=palette.LARGE, markersize=3, zorder=4)
    if np.isfinite(c).any():
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.yaxis.set_major_formatter("{x:g}")


def _on_curve(stimulus: np.ndarray, c: np.ndarray, at: float, kind: str, which: str) -> float:
    """Calcium of the steady states where the stimulus is `at`: lowest for the first Hopf point."""
    places = np.flatnonzero(np.diff(np.sign(stimulus - at)) != 0)
    if kind == "fold" or not len(places):
        return float(c[np.nanargmin(np.abs(stimulus - at))])
    place = places[0 if which == "first" else -1]
    return float(c[place : place + 2].mean())


def draw_exponent(axis: Axes, fit: xr.Dataset) -> None:
    """Exponents at rest, dotted where the model is bistable."""
    stimulus, regime = fit["stimulus"], fit["regime"]
    axis.plot(stimulus, fit["exponent"].where(regime == "rest"), color=palette.EXACT)
    axis.plot(stimulus, fit["exponent"].where(regime != "rest"), ":", color=palette.EXACT)
    axis.axhline(1, color="0.6", linewidth=0.6, linestyle="--")
    axis.set_ylim(0, None)


def shown_noises(fit: xr.Dataset) -> list[tuple[str, str]]:
    """Names and line styles of no noise, the middle noise of calcium, and the fewest vesicles."""
    of_calcium = np.flatnonzero(fit["calcium_noise"].values > 0)
    of_release = np.flatnonzero(np.isfinite(fit["vesicles"].values))
    places = {"-": 0}
    if len(of_calcium):
        places["--"] = of_calcium[len(of_calcium) // 2]
    if len(of_release):
        places[":"] = of_release[-1]
    return [(str(fit["noise"].values[i]), style) for style, i in places.items()]


def draw_spread(axis: Axes, fit: xr.Dataset) -> None:
    """What is left of the sd of the log gain of one head, and the share of its queries at rest."""
    only = fit.isel(normalizer_share=-1)
    x = only["mean_stimulus"]
    axis.plot(x, only["share_steady"], color="0.55", linewidth=0.7, zorder=1)
    axis.axhline(1, color="0.6", linewidth=0.6, linestyle="--")
    for readout, colour in COLOURS.items():
        for noise, style in shown_noises(fit):
            y = only["spread_left"].sel(readout=readout, noise=noise)
            axis.plot(x, y, style, color=colour)
    axis.set_ylim(0, 1.25)


def draw_noise(axis: Axes, heads: list[tuple[xr.Dataset, dict[str, int]]]) -> None:
    """What is left at the best operating point of each head, by noise; a colour per head."""
    for i, (fit, pair) in enumerate(heads):
        for j, readout in enumerate((C, POWER)):
            best = fit.sel(pair).sel(readout=readout)
            x = np.arange(best.sizes["noise"]) + 0.09 * (2 * i + j - len(heads) + 0.5)
            look = HOLLOW if readout == POWER else {}
            shown = interval(best, "best_spread_left")
            points(axis, x, shown, HEADS[i], MARKERS[readout], markersize=2.5, **look)
    axis.axhline(1, color="0.6", linewidth=0.6, linestyle="--")
    names = [str(name) for name in heads[0][0]["noise"].values] if heads else []
    words = [name.replace("calcium", "$C$:").replace(" vesicles", " ves.") for name in names]
    axis.set_xticks(range(len(words)), words, rotation=60)
    axis.set_ylim(0, 1.25)


def _same_range(row: np.ndarray) -> None:
    """One range of y for panels side by side, with numbers at the first of them."""
    highest = max(axis.get_ylim()[1] for axis in row)
    for i, axis in enumerate(row):
        axis.set_ylim(0, highest)
        axis.tick_params(labelleft=i == 0)


def _legend(figure: Figure, heads: list[tuple[xr.Dataset, dict[str, int]]]) -> None:
    exact, grey = {"color": palette.EXACT}, {"color": "0.3"}
    bifurcation = {"color": palette.LARGE, "markersize": 3}
    handles = [
        line("stable steady state", **exact),
        line("unstable steady state; $\\alpha$ where bistable", **exact, linestyle=":"),
        Patch(color=palette.SMALL, alpha=0.35, label="range of oscillation"),
        Patch(color=OSCILLATES, label="no stable steady state: oscillates"),
        Patch(color=BISTABLE, label="bistable: rests or oscillates"),
        mark("Hopf bifurcation", "o", **bifurcation),
        mark("fold", "D", **bifurcation),
        line("share of queries at rest from every start", color="0.55", linewidth=0.7),
        line("dividing by $C$", color=COLOURS[C]),
        line("dividing by $C^\\gamma$, $\\gamma$ fitted to other inputs", color=COLOURS[POWER]),
    ]
    for noise, style in shown_noises(heads[0][0]):
        words = {"-": "without noise", "--": f"noise of {noise}", ":": f"release: {noise}"}[style]
        handles.append(line(words, **grey, linestyle=style))
    handles += [
        mark("best point, $C$; bars: 95 % over inputs", MARKERS[C], **grey),
        mark("best point, $C^\\gamma$", MARKERS[POWER], **grey, **HOLLOW),
    ]
    for i, (fit, pair) in enumerate(heads):
        words = f"{palette.plain_text(fit.attrs['data'])}, {palette.head_name(fit, **pair)}"
        handles.append(line(words, color=HEADS[i], linewidth=3))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
