"""Which lesions matter?"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from tripartite.figures import palette
from tripartite.figures.panels import beyond, estimates, grid, mark, spread
from tripartite.kinds.perturbations import dose_response
from tripartite.kinds.perturbations.dose_response import estimate, head_of
from tripartite.kinds.perturbations.registry import PERTURBATIONS

GROUP = "lesions"
INTACT = "intact network,\nagainst softmax attention"  # the row of its error
PANELS = {  # a quantity of each lesion: its law, title and axis
    "added_error": (
        "law",
        "Error added to the output",
        "error added, $|O'-\\hat{O}|\\,/\\,|\\hat{O}|$",
    ),
    "error_ratio": ("ratio_law", "Error against softmax", "over that of intact network"),
    "gain": ("gain_law", "Gain of the output", "gain (median over queries)"),
}
LAWS: dict[str, dict] = {  # marks of laws by what they are made of
    "network": {"marker": "|", "markersize": 5},
    "attention": {"marker": "x", "markersize": 3.5},
}


def lesions(fits: dict[str, xr.Dataset]) -> Figure:
    """All lesions at one dose, a row each, sorted by the error that they add.

    Root mean squares over inputs and seeds (gains: means) with 95 % intervals over both.
    """
    palette.apply()
    drawn = table(fits)
    rows = [*dict.fromkeys(drawn["row"])]
    of_heads = dose_response.looks(drawn)
    row_mm = max(6.0, 2.2 * len(of_heads) + 1.5)
    widths = {"width_ratios": (1.5, 1, 1)}
    figure, axes = grid(3, 3, (len(rows) + 1) * row_mm, 28, sharey=True, gridspec_kw=widths)
    for axis, (name, (law, title, label)) in zip(axes, PANELS.items()):
        own = dose_response.drawable(drawn, name, law, "intact_error")
        for i, (key, look) in enumerate(of_heads.items()):
            one = own[(own["experiment"] == key[0]) & (own["rank"] == key[1])]
            shift = (i - (len(of_heads) - 1) / 2) * 0.75 / len(of_heads)
            draw_head(
                axis, one.assign(place=[rows.index(row) + shift for row in one["row"]]), name, look
            )
            if name == "added_error":
                draw_intact(axis, one[:1].assign(place=shift - 1), look)
        lost = drawn[name].notna() & own[name].isna()
        beyond(axis, int(lost.sum()), len(drawn), "lower right")
        if own[name].notna().any():
            log_scale(axis)
        axis.set_title(title, loc="left")
        axis.set_xlabel(label)
        if name != "added_error":
            axis.axvline(1, color=palette.GUIDE, linewidth=0.8, zorder=0)
    axes[0].set_yticks([-1, *range(len(rows))], [INTACT, *numbered(drawn)])
    axes[0].set_ylim(len(rows) - 0.4, -1.6)
    for axis in axes:
        axis.tick_params(axis="y", length=0)
        axis.axhline(-0.5, color=palette.GUIDE, linewidth=0.6)
    bases = {*dose_response.drawable(drawn, "law").dropna(subset="law")["law_basis"]}
    entries = [
        *dose_response.head_entries(drawn),
        *(
            mark(dose_response.LAWS[basis][1], color=palette.EXACT, **look)
            for basis, look in LAWS.items()
            if basis in bases
        ),
    ]
    dose_response.head_legend(figure, entries, dose_response.not_shown(fits, GROUP))
    return figure


def numbered(drawn: pd.DataFrame) -> list[str]:
    """Rows with the numbers of their lesions, which the drawing of the network has too."""
    order = [name for name, one in PERTURBATIONS.items() if one.group == GROUP]
    rows = drawn.drop_duplicates("row")
    return [
        f"{order.index(name) + 1}: {row}" for name, row in zip(rows["perturbation"], rows["row"])
    ]


def log_scale(axis: Axes) -> None:
    """A logarithmic axis, with ticks at 1, 2 and 5 where it is short."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    if high < 50 * low:
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def draw_head(axis: Axes, own: pd.DataFrame, name: str, look: dict) -> None:
    """Marks of one head in their rows, and laws in front of them."""
    estimates(name, "place", data=own, axis=axis, across=True, **look)
    for basis, law in LAWS.items():
        laws = own[own["law_basis"] == basis]
        law = law | {"color": palette.EXACT, "linestyle": "", "zorder": 3}
        axis.plot(laws[PANELS[name][0]], laws["place"], **law)


def draw_intact(axis: Axes, own: pd.DataFrame, look: dict) -> None:
    """The error of the intact network, to compare with."""
    estimates("intact_error", "place", data=own, axis=axis, across=True, **look)
    for error in own["intact_error"]:
        axis.axvline(error, zorder=0, **dose_response.INTACT_LINE)


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """A row for each lesion and head, at the dose that is drawn; `row` is its name with the dose.

    The lesion that adds most comes first, by the median over heads.
    """
    every = dose_response.responses(fits, GROUP)
    of_kind = every.groupby(["experiment", "perturbation"])
    doses = of_kind["dose"].transform(lambda x: middle(x, every.loc[x.index[0], "dose_scale"]))
    chosen = every[every["dose"] == doses]
    chosen = chosen.assign(row=[row_words(row) for row in chosen.itertuples()])
    added = chosen.groupby("row")["added_error"].transform("median")
    return chosen.iloc[np.argsort(-added.to_numpy(dtype=float), kind="stable")].reset_index(
        drop=True
    )


def middle(doses: pd.Series, scale: str) -> float:
    """The dose to compare lesions at: half, the best constant (1), or one token."""
    tried = np.unique(doses)
    if scale == "integer":
        return float(tried[0])
    apart = np.abs(np.log(tried) if scale == "log" else tried - 0.5)
    return float(tried[apart.argmin()])


def row_words(row) -> str:
    """A lesion and its dose."""
    if row.dose_scale == "linear":
        return f"{row.title} ({palette.percent(row.dose)})"
    if row.dose_scale == "integer":
        return f"{row.title} (by {row.dose:g})"
    return f"{row.title} ({'best one' if row.dose == 1 else f'{row.dose:g} × best one'})"


def answer(fits: dict[str, xr.Dataset]) -> str:
    """The lesions that add most and least, and the range of errors against attention."""
    drawn = table(fits)
    known = drawn[drawn["added_error"].notna()]
    if known.empty:
        return "No effect of a lesion is known."
    several = len(known.drop_duplicates(["experiment", "rank"])) > 1
    most, words = f"{'By the median over heads most' if several else 'Most'} error", []
    for row, much in ((known["row"].iloc[0], most), (known["row"].iloc[-1], "least")):
        heads = spread([one for _, one in known[known["row"] == row].iterrows()], 3)
        values = [f"{estimate(one, 'added_error')} ({head_of(one)})" for one in heads]
        gains = [estimate(one, "gain") for one in heads]
        words.append(
            f"{much} is added by “{row}”: {', '.join(values)}, at gains of {', '.join(gains)}"
        )
    first = known[(known["experiment"] == known["experiment"].iloc[0]) & (known["rank"] == 0)]
    ends = [one for _, one in first.sort_values("error_ratio").iloc[[0, -1]].iterrows()]
    ratios = [f"{estimate(one, 'error_ratio')} times ({one['row']})" for one in ends]
    return (
        f"{'; '.join(words)}. In {head_of(ends[0])} errors against softmax attention become "
        f"{' to '.join(ratios)} those of the intact network."
    )
