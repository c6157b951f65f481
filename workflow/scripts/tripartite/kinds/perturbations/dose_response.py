"""Doses and responses of perturbations: what the figures of lesions and of noise share."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from tripartite.figures import captions, palette
from tripartite.figures.panels import (
    beyond,
    estimates,
    frame,
    grid,
    head_words,
    heads_by,
    legend,
    line,
    mark,
)

MAX_HEADS = 8  # of all experiments; of one at most half of them
MAX_LETTERS = 150  # of a legend in a line across the page
MAX_DRAWN = 1e100  # numbers beyond are left out
LAWS = {  # line and words of a law by what it is made of
    "network": ("-", "law, nothing fitted"),
    "attention": ("--", "the same done to softmax attention"),
    "rounding": (":", "uniform rounding errors (no law)"),
}
INTACT = "output_error_unperturbed"
MEASURED = ("added_error", "error_ratio", "gain", "bits_needed", INTACT)
EXPECTED = ("added_error_law", "added_error_uniform", "output_error_law", "gain_law")
WORDS = ("title", "dose_label", "dose_scale", "law_basis", "law_holds")
COLUMNS = [  # of the table
    *("experiment", "data", "recipe", "network", "n_features", "layer", "head", "name", "rank"),
    *("perturbation", *WORDS, "dose", "law", "ratio_law", "gain_law"),
    *(
        f"{name}{end}"
        for name in ("added_error", "error_ratio", "gain", "bits_needed", "intact_error")
        for end in ("", "_low", "_high")
    ),
]
INTACT_LINE: dict[str, Any] = {"color": palette.GUIDE, "linestyle": "-.", "linewidth": 0.8}


def of_group(fit: xr.Dataset, group: str) -> xr.Dataset:
    """The largest networks of a fit, with the perturbations of a group alone."""
    own = np.flatnonzero(fit["group"].values == group)
    return fit.isel(perturbation=own, n_features=-1, tolerated=-1)


def shown(fits: dict[str, xr.Dataset], group: str) -> dict[str, xr.Dataset]:
    """Experiments that have perturbations of a group; of many, the first."""
    own = {name: of_group(fit, group) for name, fit in fits.items()}
    return dict([x for x in own.items() if x[1].sizes["perturbation"]][:MAX_HEADS])


def responses(fits: dict[str, xr.Dataset], group: str) -> pd.DataFrame:
    """A row for each head, perturbation of a group and dose: what was measured, and the law.

    Heads are at most MAX_HEADS, easy before hard by the error of the intact network: `rank` is
    their place in their experiment, from 0, `name` their name. `law` is that of added_error,
    `ratio_law` that of error_ratio; NaN where there is none, or where its theory ends.
    """
    own = shown(fits, group)
    most = min(MAX_HEADS // 2, MAX_HEADS // max(len(own), 1))
    parts = []
    for experiment, fit in own.items():
        for rank, (layer, head) in enumerate(heads_by(fit[INTACT].values, most)):
            one = fit.isel(layer=layer, head=head)
            every = frame({experiment: one}, *MEASURED, *EXPECTED, *WORDS, "tried")
            about = {"rank": rank, "name": head_words(fit, (layer, head))}
            parts.append(every[every["tried"]].assign(**about))
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    table = with_laws(pd.concat(parts, ignore_index=True))
    ends = {f"{INTACT}{end}": f"intact_error{end}" for end in ("", "_low", "_high")}
    return table.rename(columns=ends)[COLUMNS]


def with_laws(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its laws, as far as their theory goes.

    First-order theory ends where the relative variance that it expects, of the intact network and
    of the perturbation (a common gain apart), is not below 1: too few neurons are left.
    """
    rounding = table["law_basis"] == "rounding"
    law = table["added_error_uniform"].where(rounding, table["added_error_law"])
    gain = table["gain_law"].fillna(1.0)
    variance = table[INTACT] ** 2 + (law**2 - (gain - 1) ** 2) / gain**2
    ends = table["law_holds"].str.contains("first order") & ~(variance < 1)
    law, ratio = law.mask(ends), (table["output_error_law"] / table[INTACT]).mask(ends)
    return table.assign(law=law, ratio_law=ratio, gain_law=table["gain_law"].mask(ends))


def drawable(table: pd.DataFrame, *names: str) -> pd.DataFrame:
    """The table with NaN for numbers of these columns that no logarithmic axis shows."""
    columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    columns = [column for column in columns if column in table]
    inside = (table[columns] > 0) & (table[columns] < MAX_DRAWN)
    return table.assign(**{column: table[column].where(inside[column]) for column in columns})


def looks(table: pd.DataFrame) -> dict[tuple[str, int], dict]:
    """How marks of heads look, by experiment and rank: filled for the easiest of each."""
    data = dict.fromkeys(table["data"])
    return {
        (experiment, rank): palette.marks(palette.look_of(own["data"].iloc[0], data), rank == 0)
        for (experiment, rank), own in table.groupby(["experiment", "rank"], sort=False)
    }


def head_entries(table: pd.DataFrame) -> list[Line2D]:
    """Entries of a legend: the easiest head of each experiment, and the harder ones."""
    of_heads, entries = looks(table), []
    heads = table.drop_duplicates(["experiment", "rank"])
    models = heads.drop_duplicates("experiment")["data"].map(palette.short_name).tolist()
    visible = drawable(table, "added_error").dropna(subset="added_error")
    visible = {*zip(visible["experiment"], visible["rank"])}
    for experiment, own in heads.groupby("experiment", sort=False):
        model = palette.short_name(own["data"].iloc[0])
        model += f" ({experiment})" if models.count(model) > 1 else ""
        fills = [of_heads[experiment, rank]["markerfacecolor"] for rank in (0, len(own) - 1)]
        alike = same_color(*fills)
        parts = {"": own} if alike else {", easiest": own[:1], " harder": own[1:]}
        for words, part in parts.items():
            name = part["name"].iloc[0] + words.removesuffix(" harder")
            name = name if len(part) == 1 else f"{len(part)}{words} heads"
            if any((experiment, rank) in visible for rank in part["rank"]):
                look = of_heads[experiment, part["rank"].iloc[0]]
                entries.append(mark(f"{model}, {name}", **look))
    return entries


def head_legend(figure: Figure, entries: list[Line2D], title: str) -> None:
    """A legend below all panels, in rows of equal length in which the longest entry has room."""
    longest = max([len(str(entry.get_label())) for entry in entries], default=0)
    most = int(np.clip(MAX_LETTERS // (longest + 7), 1, 4))
    n_rows = -(-len(entries) // most)
    legend(figure, entries, ncols=-(-len(entries) // max(n_rows, 1)), title=title)


def not_shown(fits: dict[str, xr.Dataset], group: str) -> str:
    """How many experiments and heads are shown, if not all."""
    own = shown(fits, group)
    n_run = sum(int(np.isfinite(fit[INTACT].values).sum()) for fit in own.values())
    n = len(responses(fits, group).drop_duplicates(["experiment", "rank"]))
    with_some = [fit for fit in fits.values() if (fit["group"] == group).any()]
    words = [f"{n} of {n_run} heads"] if n < n_run else []
    words += [f"{len(own)} of {len(with_some)} experiments"] if len(own) < len(with_some) else []
    return f"{' and '.join(words)} shown" if words else ""


def dose_responses(
    fits: dict[str, xr.Dataset], group: str, n_columns: int, **options: Any
) -> Figure:
    """Added error against dose, a panel for each perturbation; options: of pyplot.subplots."""
    palette.apply()
    drawn = responses(fits, group)
    kinds = [*drawn.groupby("perturbation", sort=False)]
    figure, axes = grid(max(len(kinds), 1), n_columns, 50, around_mm=18, **options)
    for axis, (_, own) in zip(axes, kinds):
        draw_doses(axis, own)
        axis.set_title(sentence(own["title"].iloc[0]), loc="left")
    for axis in axes[::n_columns]:
        axis.set_ylabel("error added to the output")
    if not kinds:
        axes[0].set_title(f"No {group} in these experiments", loc="left")
        return figure
    bases = {*drawable(drawn, "law").dropna(subset="law")["law_basis"]}
    intact = drawable(drawn, "intact_error")["intact_error"].notna()
    entries = [
        *head_entries(drawn),
        *([line("error of the intact network", **INTACT_LINE)] if intact.any() else []),
        *(
            line(words, linestyle=style, color=palette.EXACT, linewidth=0.8)
            for basis, (style, words) in LAWS.items()
            if basis in bases
        ),
    ]
    head_legend(figure, entries, not_shown(fits, group))
    return figure


def draw_doses(axis: Axes, own: pd.DataFrame) -> None:
    """Marks and the law as a line for each head; the intact error as a line across."""
    dose, scale = np.unique(own["dose"]), own["dose_scale"].iloc[0]
    known, own = own["added_error"].notna(), drawable(own, "added_error", "law", "intact_error")
    lost = int((known & own["added_error"].isna()).sum())
    beyond(axis, lost, len(own), "lower left")
    of_heads = looks(own)
    for key, of_head in own.groupby(["experiment", "rank"], sort=False):
        of_head = of_head.sort_values("dose")
        estimates("dose", "added_error", data=of_head, axis=axis, **of_heads[key])
        style = LAWS[of_head["law_basis"].iloc[0]][0]
        look: dict[str, Any] = {"color": palette.EXACT, "linewidth": 0.8, "zorder": 3}
        if of_head["law"].notna().sum() == 1:
            look |= {"marker": "_", "markersize": 9}
        axis.plot(of_head["dose"], of_head["law"], style, **look)
        axis.axhline(of_head["intact_error"].iloc[0], zorder=0, **INTACT_LINE)
    if (own["added_error"] > 0).any():
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(numticks=6))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xlabel(own["dose_label"].iloc[0])
    if scale == "linear":
        axis.set(xlim=(-0.05, 1.05), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))
    if scale == "log" and dose[0] > 0:
        axis.set(xscale="log", xlim=(dose[0] / 1.3, dose[-1] * 1.3))
    if scale == "integer":
        axis.set_xlim(dose[0] - 0.5, dose[-1] + 0.5)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if (len(dose) == 1 and scale != "linear") or (scale == "log" and dose[-1] < 50 * dose[0]):
        axis.set_xticks(dose, [f"{x:g}" for x in dose])
        axis.minorticks_off()


def laws_kept(table: pd.DataFrame) -> str:
    """How many laws lie in the interval of what was measured; "" if none is known."""
    laws = table[(table["law_basis"] != "rounding") & table["law"].notna()]
    laws = laws[laws["added_error_low"].notna()]
    inside = laws["law"].between(laws["added_error_low"], laws["added_error_high"])
    exact = laws["law_basis"] == "network"
    words = [
        f"{words} in {int(inside[own].sum())} of {int(own.sum())} cases"
        for own, words in ((exact, "laws"), (~exact, "the same done to softmax attention"))
        if own.any()
    ]
    return f"Within the 95 % interval lie {' and '.join(words)}." if words else ""


def head_of(row: pd.Series) -> str:
    """The model and the head of a row."""
    return f"{palette.short_name(row['data'])}, {row['name']}"


def estimate(row: pd.Series, name: str) -> str:
    """A number of a row with its interval."""
    value, low, high = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return captions.interval(value, low, high, three_digits)


def three_digits(x: float) -> str:
    if 100 <= abs(x) < 1e6:
        return f"{x:.0f}"
    return "–" if x != x else f"{x:.3g}" if abs(x) >= 100 else f"{x:#.3g}"


def sentence(words: str) -> str:
    """Words with a capital at the start."""
    return words[:1].upper() + words[1:]
