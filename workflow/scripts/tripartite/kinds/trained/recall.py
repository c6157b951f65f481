"""How much do trained networks recall, against the numbers that they keep of the past?"""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import grid, interval, line, mark, points
from tripartite.kinds.trained.looks import LOOKS, SIZELESS, sizes

N_COLUMNS = 3
GUESSES = ("--", ":")
APART = 1.05  # between arms of one size of state, as a factor


def recall(fits: dict[str, xr.Dataset]) -> Figure:
    """A panel per experiment: accuracy by the size of the state, beside guesses."""
    palette.apply()
    n_columns = min(N_COLUMNS, len(fits))
    figure, axes = grid(
        len(fits),
        n_columns,
        lambda n_rows: (max(palette.COLUMN, 2.35 * n_columns), 0.95 + 2 * n_rows),
    )
    for axis, name, fit in zip(axes, palette.labels(fits), fits.values()):
        draw(axis, fit)
        palette.title(axis, name, f"{fit.sizes['seed']} trainings of each")
    arms = [arm for arm in LOOKS if any(arm in fit["arm"].values for fit in fits.values())]
    first = next(iter(fits.values()))
    handles = [mark(LOOKS[arm].name, LOOKS[arm].marker, color=LOOKS[arm].colour) for arm in arms]
    handles += [
        line(str(name), color="0.35", linestyle=style)
        for name, style in zip(first["baseline"].values, GUESSES)
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2 if n_columns == 1 else 4,
        title="means and 95 % intervals over trainings",
    )
    return figure


def draw(axis: Axes, fit: xr.Dataset) -> None:
    """Accuracy of each arm by its size, arms of one size side by side."""
    for place, arm in enumerate(map(str, fit["arm"].values)):
        look, aside = LOOKS[arm], APART ** (place - (fit.sizes["arm"] - 1) / 2)
        one = fit.sel(arm=arm, n_features=sizes(fit, arm))
        points(
            axis,
            one["state_size"] * aside,
            interval(one, "mean_test_score"),
            look.colour,
            look.marker,
            linestyle="" if arm in SIZELESS else "-",
            linewidth=0.8,
        )
    for score, style in zip(fit["baseline_score"].values, GUESSES):
        axis.axhline(score, color="0.35", linestyle=style, linewidth=0.7)
    axis.set_xscale("log")
    axis.set_ylim(-0.03, 1.05)
    axis.set_xlabel("numbers that are kept of earlier tokens")
    axis.set_ylabel("share recalled")
