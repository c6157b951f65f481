"""How much do trained networks recall, against the numbers that they keep of the past?"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import captions, palette
from tripartite.figures.panels import beyond, estimates, frame, grid, legend, say_left_out
from tripartite.kinds.trained.looks import LOOKS, SIZELESS, arms_of, cut

MAX_TASKS = 3  # one above the other
GUESSES = ("--", ":")
LIMITS = (-0.03, 1.05)  # of the axis of shares
APART = 1.03  # between arms of one size of state, as a factor
CROWDED = 0.14  # of the axis: labels that are nearer stand lower


def recall(fits: dict[str, xr.Dataset]) -> Figure:
    """A panel per experiment: accuracy by the size of the state, beside guesses."""
    palette.apply()
    shown = {name: fits[name] for name in [*fits][:MAX_TASKS]}
    drawn = table(shown)
    figure, axes = grid(len(shown), 1, 58, around_mm=16, width=palette.COLUMN)
    for axis, (name, fit) in zip(axes, shown.items()):
        draw(axis, drawn[drawn["experiment"] == name])
        palette.title(axis, fit.attrs["data"], f"{fit.sizes['seed']} trainings of each")
    axes[-1].set_xlabel("numbers that are kept of earlier tokens")
    legend(figure, ncols=2)
    say_left_out(figure, len(shown), len(fits))
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Share recalled by arm and size of its state, and by guesses."""
    parts = []
    for name, fit in fits.items():
        own = frame({name: fit}, "mean_test_score", "state_size")
        own = own[own["mean_test_score"].notna()]
        guess = frame({name: fit}, "baseline_score")
        names = {"mean_test_score": "value", "baseline_score": "value", "baseline": "guess"}
        names |= {f"mean_test_score{end}": f"value{end}" for end in ("_low", "_high")}
        parts += [part.rename(columns=names) for part in (own, guess)]
    columns = ("experiment", "data", "arm", "n_features", "state_size", "guess")
    found = pd.concat(parts, ignore_index=True)
    return found.reindex(columns=[*columns, "value", "value_low", "value_high"])


def draw(axis: Axes, own: pd.DataFrame) -> None:
    """Accuracy of each arm by its size, arms of one size side by side."""
    arms = [arm for arm in LOOKS if (own["arm"] == arm).any()]
    kept = cut(own, 0, 1)
    for place, arm in enumerate(arms):
        one = kept[kept["arm"] == arm]
        aside = APART ** (place - (len(arms) - 1) / 2) if arm not in SIZELESS else 1
        estimates(
            "state_size",
            "value",
            data=one.assign(state_size=one["state_size"] * aside),
            axis=axis,
            label=LOOKS[arm].name,
            linestyle="" if arm in SIZELESS else "-",
            linewidth=0.8,
            **LOOKS[arm].marks,
        )
    axis.set_xscale("log")
    axis.set_ylim(LIMITS)
    axis.set_ylabel("share recalled")
    label_sizes(axis, np.unique(own["state_size"].dropna()))
    shown = own["value"].between(*LIMITS)
    guesses = own.loc[own["guess"].notna() & shown, ["guess", "value"]]
    beyond(axis, int((own["value"].notna() & ~shown).sum()), len(own), "upper left", "values")
    for row, (name, score) in enumerate(guesses.values):
        axis.axhline(
            score, color=palette.GUIDE, linestyle=GUESSES[row % 2], linewidth=0.8, zorder=0
        )
        axis.annotate(
            f"guess: {name}",
            (0.99, score),
            xycoords=("axes fraction", "data"),
            xytext=(0, 1),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=6.5,
            color=palette.KEY,
        )


def label_sizes(axis: Axes, sizes: np.ndarray) -> None:
    """Ticks at the sizes of states; one that is near the last stands a line lower."""
    if not len(sizes):
        return
    low, high = sizes[0] / 1.5, sizes[-1] * 1.5
    places = np.log(sizes / low) / np.log(high / low)
    lower = [False]
    for apart in np.diff(places):
        lower.append(bool(apart < CROWDED and not lower[-1]))
    axis.set_xlim(low, high)
    for minor in (False, True):
        chosen = sizes[np.array(lower) == minor]
        axis.set_xticks(chosen, [str(int(size)) for size in chosen], minor=minor)
    axis.tick_params(axis="x", which="minor", length=2.5, width=0.6, pad=10, labelsize=7.2)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """The share that each arm recalls, by the size of its state."""
    drawn = cut(table(fits), 0, 1)
    tasks = []
    for name, fit in fits.items():
        own = drawn[drawn["experiment"] == name]
        words = []
        for arm in arms_of(fit):
            for row in own[own["arm"] == arm].itertuples():
                share = captions.interval(row.value, row.value_low, row.value_high)
                words.append(f"{LOOKS[arm].name} {share} with {int(row.state_size)} numbers")
        guesses = own[own["guess"].notna()]
        words += [f"a guess of {row.guess} {row.value:.3g}" for row in guesses.itertuples()]
        tasks.append(f"{fit.attrs['data']}: {', '.join(words)}")
    return f"Share recalled, with so many numbers kept of earlier tokens: {'; '.join(tasks)}."
