"""How many hidden neurons every head of every model needs: a strip for each model and network."""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.biology import BIOLOGY
from tripartite.figures.panels import frame
from tripartite.figures.strips import (
    beside,
    by_data,
    decades,
    first,
    median,
    n_beyond,
    rows,
    say_shown,
    strip,
)

MAX_ROWS = 24  # experiments that fit on a page
ROW_MM = 5.6
MAX_LETTERS = 24  # of the name of a row
NAMES = {  # of networks, shorter
    "": "plain",
    "centred and balanced": "balanced",
    "fitted normal, centred and balanced": "fitted",
}


def features_needed(fits: dict[str, xr.Dataset]) -> Figure:
    """A row for each experiment, a point for each head: log10 of neurons for 10 % rms error.

    Rows stand in groups of the same data. On the right: the median, heads within each limit (the
    largest network that was run, and what biology has), all heads, and those beyond the axis.
    """
    palette.apply()
    shown = first(fits, MAX_ROWS)
    drawn, groups = table(shown), by_data(shown)
    height = 34 + ROW_MM * (len(shown) + len(groups))
    figure, axis = plt.subplots(figsize=(palette.PAGE, height * palette.MM))
    places = rows(
        axis,
        [(palette.short_name(x, MAX_LETTERS), row_names(group)) for x, group in groups.items()],
    )
    numbers: dict[float, list[str]] = {}
    limits = limits_of(shown)
    for (data, group), at in zip(groups.items(), places):
        look = palette.look_of(data, groups)
        for experiment, place in zip(group, at):
            needed = drawn.loc[drawn["experiment"] == experiment, "log10_features_needed"].values
            strip(
                axis,
                place,
                needed,
                palette.RECIPES[palette.recipe_of(shown[experiment])],
                look.marker,
            )
            middle = float(np.median(needed)) if len(needed) else np.nan
            median(axis, place, middle)
            numbers[place] = [
                palette.power(middle),
                *(str((needed <= np.log10(most)).sum()) for most in limits.values()),
                heads_words(shown[experiment], len(needed)),
                str(n_beyond(needed)) if len(needed) else "–",
            ]
    decades(axis)
    mark_limits(axis, limits, ROW_MM)
    within = (
        "\n".join([*name.split(), f"≤ {palette.power(np.log10(most))}"])
        for name, most in limits.items()
    )
    heads = ["median", *within, "heads", "beyond\naxis"]
    beside(axis, [*numbers], dict(zip(heads, zip(*numbers.values()))))
    say_shown(figure, len(shown), len(fits))
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """log10 of the neurons that each head needs; heads of one distinct_head share their weights."""
    needed = frame(fits, "log10_features_needed", "distinct_head")
    return needed.dropna(subset="log10_features_needed", ignore_index=True)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Neurons of the median head, and heads that need no more than an astrocyte has contacts."""
    medians, counts = [], []
    name, most = next(iter(BIOLOGY.items()))
    for data, group in by_data(fits).items():
        of_recipe, within = [], []
        for recipe, fit in zip(row_names(group), group.values()):
            needed = fit["log10_features_needed"].values
            needed = needed[~np.isnan(needed)]
            middle = f"10^{np.median(needed):.1f}" if len(needed) else "has no closed form"
            of_recipe.append(f"{middle} ({recipe})")
            within.append(f"{(needed <= np.log10(most)).sum()} of {len(needed)} ({recipe})")
        medians.append(f"{palette.short_name(data)} {', '.join(of_recipe)}")
        counts.append(f"{palette.short_name(data)} {', '.join(within)}")
    return (
        f"Hidden neurons that the median head needs: {'; '.join(medians)}. Heads that need at most "
        f"{palette.spaced(most)} neurons, the contacts of a {name}: {'; '.join(counts)}."
    )


def row_names(group: dict[str, xr.Dataset]) -> list[str]:
    """What was done to networks of the same data, in a few words; with names if two are alike."""
    words = [
        palette.network_words(fit.drop_vars("order", errors="ignore")) for fit in group.values()
    ]
    words = [NAMES.get(x, x) for x in words]
    alike = [
        x if words.count(x) == 1 else f"{x}, {palette.shown(name)}" for x, name in zip(words, group)
    ]
    return [
        palette.plain_text(x if len(x) <= MAX_LETTERS else f"{x[: MAX_LETTERS - 1]}…")
        for x in alike
    ]


def heads_words(fit: xr.Dataset, n_heads: int) -> str:
    """The number of heads, as heads x depths where layers share their weights."""
    n_sets = len(np.unique(fit["distinct_head"]))
    shared = n_sets < n_heads and n_heads % n_sets == 0
    return f"{n_sets} × {n_heads // n_sets}" if shared else str(n_heads)


def limits_of(fits: dict[str, xr.Dataset]) -> dict[str, float]:
    """Numbers of neurons to compare with, rising: the largest network that was run, and biology."""
    largest = max(int(fit["n_features"].max()) for fit in fits.values())
    limits = {"largest network": float(largest), **BIOLOGY}
    return dict(sorted(limits.items(), key=lambda limit: limit[1]))


def mark_limits(axis: Axes, limits: dict[str, float], row_mm: float) -> None:
    """A line at each limit, with its name above, each lower than the one before."""
    of_axis = 1 / (
        abs(np.subtract(*axis.get_ylim())) * row_mm / 25.4 * 72
    )  # of its height, a point
    for level, (name, most) in zip(reversed(range(len(limits))), limits.items()):
        x = np.log10(most)
        axis.axvline(
            x,
            ymax=1 + of_axis * (10 + 9.5 * level),
            color=palette.GUIDE,
            linewidth=0.8,
            linestyle="--",
            zorder=0.5,
            clip_on=False,
        ).set_in_layout(False)
        axis.annotate(
            name,
            (x, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, 3 + 9.5 * level),
            textcoords="offset points",
            color=palette.KEY,
            annotation_clip=False,
        )
