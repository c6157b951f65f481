"""What do transformers learn with each attention, and what do they lose without its parts?"""

from typing import Any

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import grid, interval, line, mark
from tripartite.kinds.trained import samples
from tripartite.kinds.trained.knocked_out import KNOCKOUTS
from tripartite.kinds.trained.looks import BITS, LOOKS, label, of_size, sizes

HEIGHT = 2.3  # inches of a row of panels at least
AROUND, LINE = 0.85, 0.09  # inches of a row of panels, and of each score in it
STEP = 0.14  # between arms of one knock-out, in rows
BASELINE: dict[str, Any] = {"color": "0.35", "marker": "|", "markersize": 6, "linestyle": ""}
TICKS = (-10, -1, 0, 1, 10, 100, 1000)  # of changes in bits, which are drawn by their logs beyond 1


def learning(fits: dict[str, xr.Dataset]) -> Figure:
    """A row per experiment: learning curves, scores beside baselines, costs of knock-outs.

    Of arms with hidden neurons, curves and knock-outs are those of the largest networks.
    """
    palette.apply()
    n_scores = max(
        fit.sizes["baseline"] + sum(len(sizes(fit, arm)) for arm in fit["arm"].values)
        for fit in fits.values()
    )
    height = max(HEIGHT, AROUND + LINE * n_scores)
    figure, axes = grid(3 * len(fits), 3, lambda n_rows: (palette.PAGE, 0.65 + height * n_rows))
    for i, (name, fit) in enumerate(zip(palette.labels(fits), fits.values())):
        curves, scores, costs = axes[3 * i : 3 * i + 3]
        draw_curves(curves, fit)
        palette.title(curves, name, f"{fit.sizes['seed']} trainings of each")
        draw_scores(scores, fit)
        palette.title(scores, "", "held-out data")
        draw_costs(costs, fit)
        palette.title(costs, "", "parts knocked out")
    arms = [arm for arm in LOOKS if any(arm in fit["arm"].values for fit in fits.values())]
    looks = [LOOKS[arm] for arm in arms]
    figure.legend(
        handles=[
            *(mark(look.name, look.marker, color=look.colour) for look in looks),
            line("step that is kept", **BASELINE | {"markersize": 4}),
            line("baseline, or published score", **BASELINE),
        ],
        loc="outside lower center",
        ncols=4,
        title="marks and bars: means with 95 % intervals over trainings; lines: each training; "
        "curves and knock-outs of the most neurons",
    )
    return figure


def draw_curves(axis: Axes, fit: xr.Dataset) -> None:
    """Validation loss by step, a line per training, with the step that is kept."""
    for arm in map(str, fit["arm"].values):
        one, colour = of_size(fit, arm, sizes(fit, arm)[-1]), LOOKS[arm].colour
        for seed in range(one.sizes["seed"]):
            loss, kept = one["validation_loss"].isel(seed=seed), int(one["best_step"][seed])
            axis.plot(loss["step"], loss, color=colour, linewidth=0.7)
            if kept >= 0:
                axis.plot(kept, loss.sel(step=kept), "|", color=colour, markersize=4)
    axis.set_yscale("log")
    palette.few_decades(axis)
    axis.set_xlabel("step")
    axis.set_ylabel("validation loss (nats)")


def draw_scores(axis: Axes, fit: xr.Dataset) -> None:
    """Test scores of all arms and sizes, a row each, above those of baselines."""
    rows: list[str] = []
    for arm in map(str, fit["arm"].values):
        for m in sizes(fit, arm):
            draw_interval(axis, interval(of_size(fit, arm, m), "mean_test_score"), len(rows), arm)
            rows.append(label(arm, m))
    for name, score in zip(fit["baseline"].values, fit["baseline_score"].values):
        axis.plot(score, len(rows), **BASELINE)
        rows.append(str(name))
    name_rows(axis, rows)
    axis.set_xlabel(words_of(fit, str(fit["unit"].values)))


def draw_costs(axis: Axes, fit: xr.Dataset) -> None:
    """Change of the test score by each knock-out, by arm."""
    names = [str(name) for name in fit["knockout"].values]
    arms = [arm for arm in map(str, fit["arm"].values) if arm != "gru"]
    for place, arm in enumerate(arms):
        changes = interval(of_size(fit, arm, sizes(fit, arm)[-1]), "knockout_change")
        shift = STEP * (place - (len(arms) - 1) / 2)
        for row, change in enumerate(zip(*changes)):
            draw_interval(axis, change, row + shift, arm)
    axis.axvline(0, color="0.35", linewidth=0.6)
    if is_bits(fit):
        axis.set_xscale("symlog", linthresh=1)
        low, high = axis.get_xlim()
        axis.set_xticks([x for x in TICKS if low <= x <= high])
        axis.xaxis.set_major_formatter("{x:g}")
    name_rows(axis, [KNOCKOUTS[name].label for name in names])
    axis.set_xlabel(words_of(fit, "change of the score"))


def draw_interval(axis: Axes, triple: tuple, y: float, arm: str) -> None:
    """A mean with its interval in the look of an arm, in a row."""
    middle, low, high = triple
    look = LOOKS[arm]
    axis.plot([low, high], [y, y], color=look.colour, linewidth=0.9)
    axis.plot(middle, y, look.marker, color=look.colour, markersize=3)


def name_rows(axis: Axes, names: list[str]) -> None:
    """Names of rows, the first on top."""
    axis.set_yticks(range(len(names)), names, fontsize=6)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", color="0.92", linewidth=0.5)
    axis.set_axisbelow(True)


def is_bits(fit: xr.Dataset) -> bool:
    """Whether less is better."""
    return str(fit["unit"].values) == BITS


def words_of(fit: xr.Dataset, what: str) -> str:
    """What an axis shows, and which scores are better."""
    return f"{what}\n({'less' if is_bits(fit) else 'more'} is better)"


def page(fits: dict[str, xr.Dataset]) -> str:
    """The page with all texts that the networks wrote."""
    return samples.page(fits)
