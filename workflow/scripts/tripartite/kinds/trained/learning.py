"""What do transformers learn with each attention, and what do they lose without its parts?"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import captions, palette
from tripartite.figures.palette import MM
from tripartite.figures.panels import estimates, frame, legend, name_rows, say_left_out
from tripartite.kinds.trained import samples
from tripartite.kinds.trained.knocked_out import KNOCKOUTS
from tripartite.kinds.trained.looks import LOOKS, SIZELESS, arms_of, cut, is_bits, networks, sizes

MAX_TASKS = palette.MAX_PANELS // 2
ROW_MM, LEAST_ROWS = 3.6, 9  # height of a row of scores, and how many a panel has room for
AROUND_MM, LEGEND_MM = 14, 8
MAX_NAME = 24  # letters of a baseline
STEP = 0.19  # between arms of one knock-out, in rows
TICKS = (-10, -1, 0, 1, 10, 100, 1000)  # of costs in bits, which are drawn by their logs beyond 1
PUBLISHED = " (published)"


def learning(fits: dict[str, xr.Dataset]) -> Figure:
    """A row of panels per experiment: scores beside baselines, and what knock-outs cost."""
    palette.apply()
    shown = {name: fits[name] for name in [*fits][:MAX_TASKS]}
    drawn = table(shown)
    n_rows = [len(networks(fit)) + fit.sizes["baseline"] for fit in shown.values()]
    heights = [ROW_MM * max(LEAST_ROWS, n) + AROUND_MM for n in n_rows]
    height = min(palette.MAX_HEIGHT, (sum(heights) + LEGEND_MM) * MM)
    figure, axes = plt.subplots(
        len(shown), 2, squeeze=False, figsize=(palette.PAGE, height), height_ratios=heights
    )
    for (left, right), (name, fit) in zip(axes, shown.items()):
        own = drawn[drawn["experiment"] == name]
        draw_scores(left, own, fit)
        draw_costs(right, own, fit)
        palette.title(left, fit.attrs["data"])
    palette.title(axes[0, 1], "Parts knocked out")
    legend(figure, ncols=5)
    say_left_out(figure, len(shown), len(fits))
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Scores of arms and baselines, and costs of knock-outs: by how much they make a score worse.

    quantity: score, baseline or cost of a knock-out; name: the baseline or the knock-out.
    """
    parts = []
    for name, fit in fits.items():
        one = {name: fit}
        score = frame(one, "mean_test_score").assign(quantity="score")
        baseline = frame(one, "baseline_score").assign(quantity="baseline")
        largest = [(arm, sizes(fit, arm)[-1]) for arm in arms_of(fit) if sizes(fit, arm)]
        cost = frame(one, "knockout_change").assign(quantity="cost of a knock-out")
        cost = chosen(cost, largest)
        if not is_bits(fit):  # less accuracy is worse
            ends = cost["knockout_change_high"], cost["knockout_change_low"]
            cost = cost.assign(
                knockout_change=-cost["knockout_change"],
                knockout_change_low=-ends[0],
                knockout_change_high=-ends[1],
            )
        score = chosen(score, networks(fit))
        names = {"mean_test_score": "value", "baseline_score": "value", "knockout_change": "value"}
        of_ends = {f"{key}{end}": f"value{end}" for key in names for end in ("_low", "_high")}
        names |= of_ends | {"baseline": "name", "knockout": "name"}
        parts += [
            part.rename(columns=names).assign(unit=str(fit["unit"].values))
            for part in (score, baseline, cost)
            if len(part)
        ]
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    columns = ("experiment", "data", "quantity", "arm", "n_features", "name", "unit", "value")
    return found.reindex(columns=[*columns, "value_low", "value_high"])


def chosen(own: pd.DataFrame, pairs: list[tuple[str, int]]) -> pd.DataFrame:
    """Rows of a table that are of these arms and sizes."""
    there = [pair in pairs for pair in zip(own["arm"], own["n_features"])]
    return own.loc[np.array(there, dtype=bool)]


def draw_scores(axis: Axes, own: pd.DataFrame, fit: xr.Dataset) -> None:
    """Test scores, a row for each arm and size, above those of baselines."""
    rows = networks(fit)
    own = own if is_bits(fit) else cut(own, 0, 1)
    scores = own[own["quantity"] == "score"]
    for row, (arm, m) in enumerate(rows):
        one = scores[(scores["arm"] == arm) & (scores["n_features"] == m)].assign(row=row)
        estimates("value", "row", data=one, axis=axis, across=True, **LOOKS[arm].marks)
    baselines = own[own["quantity"] == "baseline"]
    look: dict = {"marker": "|", "markersize": 6, "markeredgewidth": 1.2, "linestyle": ""}
    places = len(rows) + np.arange(len(baselines))
    axis.plot(baselines["value"], places, color=palette.KEY, **look)
    axis.axhline(len(rows) - 0.5, color=palette.SHADE, linewidth=0.5)
    name_rows(
        axis,
        [row_name(arm, m) for arm, m in rows] + [baseline_name(name) for name in baselines["name"]],
    )
    for words in axis.get_yticklabels()[len(rows) :]:
        words.set_color(palette.KEY)
    axis.set_xlabel(f"{fit['unit'].item()} ({'less' if is_bits(fit) else 'more'} is better)")


def row_name(arm: str, m: int) -> str:
    """The name of an arm, with its number of hidden neurons if it has any."""
    return LOOKS[arm].short if arm in SIZELESS else f"{LOOKS[arm].short}, $m$ = {m}"


def baseline_name(name: str) -> str:
    """The name of a baseline; * stands for a published score."""
    words = palette.shown(name.replace(PUBLISHED, "*"))
    return palette.plain_text(words if len(words) <= MAX_NAME else f"{words[: MAX_NAME - 1]}…")


def draw_costs(axis: Axes, own: pd.DataFrame, fit: xr.Dataset) -> None:
    """A row for each knock-out: by how much it makes the score of each arm worse."""
    costs = own[own["quantity"] == "cost of a knock-out"]
    costs = costs if is_bits(fit) else cut(costs, -1, 1)
    arms = [arm for arm in LOOKS if (costs["arm"] == arm).any()]
    for place, arm in enumerate(arms):
        one = costs[costs["arm"] == arm]
        shift = STEP * (place - (len(arms) - 1) / 2)
        rows = one["name"].map([*KNOCKOUTS].index) + shift
        estimates(
            "value",
            "row",
            data=one.assign(row=rows),
            axis=axis,
            across=True,
            label=LOOKS[arm].name,
            **LOOKS[arm].marks,
        )
    axis.axvline(0, color=palette.GUIDE, linewidth=0.8, zorder=0)
    for row in range(1, len(KNOCKOUTS)):
        axis.axhline(row - 0.5, color=palette.SHADE, linewidth=0.5, zorder=0)
    if costs["value"].abs().max() > TICKS[3] * 10:
        axis.set_xscale("symlog", linthresh=1)
        low, high = axis.get_xlim()
        few = [0, 10.0 ** np.floor(np.log10(high))]
        axis.set_xticks([x for x in TICKS if low <= x <= high] if high < TICKS[-1] * 10 else few)
        axis.xaxis.set_major_formatter("{x:g}")
    name_rows(axis, [one.label for one in KNOCKOUTS.values()])
    axis.set_xlabel(f"loss of {'bits per character' if is_bits(fit) else 'accuracy'}")


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Scores of the largest networks beside the best baseline, and what two knock-outs cost."""
    drawn = table(fits)
    scores, costs = [], []
    for name, fit in fits.items():
        own = drawn[drawn["experiment"] == name]
        task = fit.attrs["data"]
        of_arms = own[own["quantity"] == "score"]
        words = [
            f"{LOOKS[arm].name} {number(of_arms[of_arms['arm'] == arm].iloc[-1], 0, 1)}"
            for arm in arms_of(fit)
            if (of_arms["arm"] == arm).any()
        ]
        baselines = own[
            (own["quantity"] == "baseline") & ~own["name"].astype(str).str.endswith(PUBLISHED)
        ]
        if len(baselines):
            values = baselines["value"]
            best = baselines.loc[values.idxmin() if is_bits(fit) else values.idxmax()]
            words.append(f"best baseline ({best['name']}) {palette.decimal(best['value'])}")
        unit = "bits per character, less is better" if is_bits(fit) else "accuracy"
        scores.append(f"{task} ({unit}): {', '.join(words)}")
        of_costs = own[own["quantity"] == "cost of a knock-out"]
        constant, emptied = (
            of_costs[of_costs["name"] == which].set_index("arm")
            for which in ("best_constant", "synapses_emptied")
        )
        if len(constant) and len(emptied):
            words = [f"{LOOKS[x].name} {number(row, -1, 1)}" for x, row in constant.iterrows()]
            least, most = map(palette.decimal, (emptied["value"].min(), emptied["value"].max()))
            costs.append(f"{task}: {', '.join(words)} (empty synapses: {least} to {most})")
    held_out = f"Held-out scores of the largest networks: {'; '.join(scores)}."
    if not costs:
        return held_out
    return (
        f"{held_out} In the same units, the best constant in place of the astrocyte's "
        f"response p costs: {'; '.join(costs)}."
    )


def number(row: pd.Series, low: float, high: float) -> str:
    """A value with its interval, which is cut at the ends of the scale of accuracies."""
    if row["unit"] == "accuracy":
        row = cut(row.to_frame().T.infer_objects(), low, high).iloc[0]
    return captions.interval(*(float(row[f"value{end}"]) for end in ("", "_low", "_high")))


def page(fits: dict[str, xr.Dataset]) -> str:
    """The page with all texts that the networks wrote."""
    return samples.page(fits)
