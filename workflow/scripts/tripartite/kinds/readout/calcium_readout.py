"""How much of the spread of the gain is left when calcium, or a power of it, divides the output?"""

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from tripartite.figures import captions, palette
from tripartite.figures.panels import (
    HeadMarks,
    frame,
    grid,
    heads_run,
    legend_of_heads,
    marked_heads,
    rows_of,
    rows_of_heads,
)

MAX_HEADS = 12
HIGHEST = 1.12  # spread left that is drawn
READOUTS = {"C": "calcium", "C^gamma": "a fitted power of it"}
TITLES = {"C": "Divided by calcium", "C^gamma": "By a fitted power of it"}


def calcium_readout(fits: dict[str, xr.Dataset]) -> Figure:
    """Spread of the gain that is left, over that without astrocyte, of each head by calcium model.

    A panel for each readout, without noise and with the most noise of calcium that was run.
    """
    palette.apply()
    shown, names, heads = table(fits), _models(fits), _heads(fits)
    panels = [(readout, noise) for readout in READOUTS for noise in _noises(fits)]
    row_mm = len(names) * max(8.0, 1.7 * len(heads))
    figure, axes = grid(len(panels), len(panels), row_mm, 34, sharex=True, sharey=True)
    for axis, (readout, noise) in zip(axes, panels):
        own = shown[(shown["readout"] == readout) & (shown["noise"] == noise)]
        axis.axvline(1, color=palette.GUIDE, linestyle="--", linewidth=0.8, zorder=0)
        rows_of_heads(axis, own, "spread_left", "model", names, heads)
        axis.set_title(f"{TITLES[readout]},\n{_noise_words(noise)}", loc="left")
        left = own["spread_left"]
        missing = f"{left.isna().sum()} of {len(left)} not known\n" * bool(left.isna().any())
        beyond = f"{(left > HIGHEST).sum()} of {len(left)} beyond\n" * bool((left > HIGHEST).any())
        axis.set_xlabel(f"spread of the gain left\n{missing}{beyond}".rstrip())
    axes[0].set_xlim(-0.03, HIGHEST)
    axes[0].set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    n_heads = sum(len(heads_run(fit["sd_log_normalizer"])) for fit in fits.values())
    legend_of_heads(figure, heads, n_heads)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Spread left of each head that is drawn, with its best operating points."""
    return rows_of(_heads(fits), _all(fits))


def answer(fits: dict[str, xr.Dataset]) -> str:
    """What dividing by calcium, and by a power of it, leaves of the spread of ln Z, by model."""
    drawn, names = _all(fits).dropna(subset="spread_left"), _models(fits)
    sentences = []
    for readout, words in READOUTS.items():
        parts = []
        for noise in _noises(fits):
            own = drawn[(drawn["readout"] == readout) & (drawn["noise"] == noise)]
            if own.empty:
                continue
            by_model = own.groupby("model")["spread_left"]
            ranges = [
                f"{_share(by_model.min()[name])} to {_share(by_model.max()[name])} with {model}"
                for name, model in names.items()
                if name in by_model.groups
            ]
            least = own.loc[own["spread_left"].idxmin()]
            low, high = least["spread_left_low"], least["spread_left_high"]
            parts.append(
                f"{_noise_words(noise)} {', '.join(ranges)}, the least of all "
                f"{captions.interval(least['spread_left'], low, high, _share)}"
            )
        if parts:
            leaves = f"Of the spread of ln Z, dividing by {words} leaves"
            sentences.append(f"{leaves} {'; '.join(parts)}.")
    if not sentences:
        return "No head has enough queries at which calcium comes to rest."
    return f"{' '.join(sentences)} Ranges are over heads."


def _heads(fits: dict[str, xr.Dataset]) -> list[HeadMarks]:
    return marked_heads(
        fits, {name: fit["sd_log_normalizer"] for name, fit in fits.items()}, MAX_HEADS
    )


def _all(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """What is left in all heads that were run, by readout, noise that is drawn, and model."""
    names = {f"best_spread_left{end}": f"spread_left{end}" for end in ("", "_low", "_high")}
    others = ["best_mean_stimulus", "best_normalizer_share", "best_power", "best_share_read"]
    others.append("sd_log_normalizer")
    parts = {}
    for experiment, fit in fits.items():
        noises = [name for name in _noises(fits) if name in fit["noise"].values]
        parts[experiment] = fit[[*names, *others]].sel(noise=noises).rename(names)
    return frame(parts, "spread_left", *others)


def _models(fits: dict[str, xr.Dataset]) -> dict[str, str]:
    """What the models of any experiment are called."""
    run = {str(name) for fit in fits.values() for name in fit["model"].values}
    return {name: words for name, words in palette.CALCIUM_MODELS.items() if name in run}


def _noises(fits: dict[str, xr.Dataset]) -> list[str]:
    """No noise, and the most noise of calcium in any experiment."""
    of_calcium = {
        float(noise): str(name)
        for fit in fits.values()
        for name, noise in zip(fit["noise"].values, fit["calcium_noise"].values)
    }
    return ["none", of_calcium[max(of_calcium)]] if max(of_calcium) > 0 else ["none"]


def _noise_words(noise: str) -> str:
    return "without noise" if noise == "none" else f"with {noise.removeprefix('calcium ')} noise"


def _share(x: float) -> str:
    return palette.decimal(x) if x >= 0.01 or x != x else f"{x:.1g}"
