"""How long do synapses remember, can it be seen from the outputs, and what do unequal leaks do?"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tripartite.figures import palette
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
    spread,
)

MAX_HEADS = 2  # of an experiment, from easy to hard
MAX_CURVES = 5  # leaks whose curves are drawn
MAX_MARKS = 9  # ages at which the network is drawn
MAX_PAIRS = 8  # of unequal leaks
MIN_RETAINED = 1e-4  # weight below which nothing is drawn
MAX_DRAWN = 1e100
COLUMNS = ["experiment", "data", "quantity", "head_rank", "leak_hebbian", "leak_presynaptic"]
COLUMNS += ["layer", "head", "age", "value", "value_low", "value_high", "exact"]
FASTER = {True: "astrocyte forgets faster", False: "astrocyte forgets slower"}


def retention(fits: dict[str, xr.Dataset]) -> Figure:
    """Attention by age, a panel per experiment; fitted over true leaks; gains of unequal leaks."""
    palette.apply()
    drawn = table(fits)
    shown = dict([*fits.items()][: palette.MAX_PANELS - 2])
    n_panels = len(shown) + 2
    n_columns = n_panels if n_panels < 4 else -(-n_panels // 2)
    figure, axes = grid(n_panels, n_columns, 58, 16)
    names = [fit.attrs["data"] for fit in fits.values()]
    looks = {
        (experiment, rank): palette.marks(palette.look_of(fit.attrs["data"], names), rank == 0)
        for experiment, fit in shown.items()
        for rank in range(MAX_HEADS)
    }
    for axis, (experiment, fit) in zip(axes, shown.items()):
        own = drawn[(drawn["experiment"] == experiment) & (drawn["quantity"] == "attention")]
        draw_ages(axis, own, looks[experiment, 0])
        heads = heads_of(fit)
        palette.title_of(
            axis,
            fit,
            f"{head_words(fit, heads[0])}\n$m$ = {fit['n_features'].values[-1]}" if heads else "",
        )
    beyond(axes[0], len(fits) - len(shown), len(fits), "lower left", "experiments")
    leaks, gains = (drawn[drawn["quantity"] == name] for name in ("fitted leak", "gain"))
    draw_leaks(axes[-2], leaks, looks)
    draw_gains(axes[-1], gains, looks)
    handles = []
    for (experiment, rank), look in looks.items():
        heads = heads_of(fits[experiment])
        if rank < len(heads):
            name = palette.short_name(fits[experiment].attrs["data"])
            label = f"{name}, {head_words(fits[experiment], heads[rank])}"
            handles.append(mark(label, **look))
    handles.append(line("exact attention, nothing fitted", color=palette.EXACT, linewidth=0.8))
    if len(drawn):
        legend(figure, handles, ncols=3)
    return figure


def heads_of(fit: xr.Dataset) -> list[tuple[int, int]]:
    """Heads that are drawn, from easy to hard by their error with the first pair of leaks."""
    return heads_by(asked(fit)["output_error"].values[0, -1], MAX_HEADS)


def asked(fit: xr.Dataset) -> xr.Dataset:
    """The pairs of leaks of the study, along a dimension `pair` that comes first."""
    pairs = fit.stack(pair=("leak_hebbian", "leak_presynaptic")).transpose("pair", ...)
    is_asked = (pairs["note"] != "not asked").all(("n_features", "layer", "head"))
    return pairs.isel(pair=is_asked.values)


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Attention by age, fitted over true leaks, and gains of unequal leaks, beside exact ones.

    Of the largest networks and of heads that are drawn, `head_rank` 0 the easiest; attention over
    that without leak of this one alone, for equal leaks.
    """
    parts = []
    for experiment, fit in fits.items():
        fit = fit.isel(n_features=-1)
        heads = heads_of(fits[experiment])
        for rank, (i, j) in enumerate(heads):
            own = fit.isel(layer=[i], head=[j])
            parts += [
                part.assign(quantity=quantity, head_rank=rank)
                for quantity, part in of_head(experiment, own, first=rank == 0)
            ]
    if not parts:
        return pd.DataFrame(columns=COLUMNS, dtype=float)
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def of_head(experiment: str, own: xr.Dataset, first: bool):
    """Quantities of one head and their tables, with value, value_low, value_high and exact."""
    ends = ("", "_low", "_high")
    if first:
        retained = xr.Dataset(attrs=own.attrs)
        for end in ends:
            retained[f"value{end}"] = np.exp(own[f"log_retained{end}"].clip(max=700))
        retained["exact"] = np.exp(own["log_retained_law"].clip(max=700))
        retained["age"] = own["age"]
        part = frame({experiment: retained}, "value", "exact", "age")
        yield (
            "attention",
            part[(part["leak_hebbian"] == part["leak_presynaptic"]) & part["exact"].notna()],
        )
    ratio = xr.Dataset(attrs=own.attrs)
    for end in ends:
        ratio[f"value{end}"] = (own[f"leak_fitted{end}"] / own["leak_hebbian"]).where(
            own["leak_hebbian"] > 0
        )
    part = frame({experiment: ratio}, "value").assign(exact=1.0)
    # the fit does not depend on the leak of the astrocyte's synapses
    yield "fitted leak", part.drop_duplicates("leak_hebbian")
    gain = xr.Dataset(attrs=own.attrs)
    for end in ends:
        gain[f"value{end}"] = own[f"gain{end}"]
    gain["exact"] = own["gain_law"]
    part = frame({experiment: gain}, "value", "exact")
    yield "gain", part[part["leak_hebbian"] != part["leak_presynaptic"]]


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Ranges of fitted over true leaks, and of gains where leaks differ, of each head."""
    found, words = table(fits), []
    names = dict(zip(fits, palette.row_names(fits)))
    for experiment, fit in fits.items():
        for rank, head in enumerate(heads_of(fit)):
            own = found[(found["experiment"] == experiment) & (found["head_rank"] == rank)]
            where = f"{names[experiment]}, {head_words(fit, head)}"
            leaks = own[own["quantity"] == "fitted leak"]
            leaks = leaks[np.isfinite(leaks["value"])]
            gains = own[own["quantity"] == "gain"]
            gains = gains[np.isfinite(gains[["value", "exact"]]).all(axis=1)]
            parts = []
            if len(leaks):
                n = int(((leaks["value_low"] <= 1) & (leaks["value_high"] >= 1)).sum())
                ends = leaks["value"].min(), leaks["value"].max()
                parts.append(
                    f"fitted leaks are {' to '.join(map(palette.decimal, ends))} times true ones "
                    f"({n} of {len(leaks)} intervals include 1)"
                )
            faster = gains["leak_presynaptic"] > gains["leak_hebbian"]
            for which, group in ((True, gains[faster]), (False, gains[~faster])):
                if len(group):
                    text = f"where the {FASTER[which]}, the gain is {gains_words(group)}"
                    parts.append(text)
            if parts:
                words.append(f"{where}: {'; '.join(parts)}.")
    equal = found[(found["quantity"] == "attention") & (found["leak_hebbian"] > 0)]["leak_hebbian"]
    if words and len(equal):
        lives = [f"{np.log(2) / leak:.2g}" for leak in (equal.max(), equal.min())]
        words.insert(
            0,
            "By construction attention to a key, over that without leak, halves in ln 2 over the "
            f"leak: in {' to '.join(dict.fromkeys(lives))} s.",
        )
    return " ".join(words) or "No leak could be fitted, and no leaks differ."


def gains_words(group: pd.DataFrame) -> str:
    """Ranges of gains, and those of exact attention."""
    ranges = [
        f"{short(values.min())} to {short(values.max())}"
        if len(values) > 1
        else short(values.min())
        for values in (group["value"], group["exact"])
    ]
    return f"{ranges[0]} (exact attention {ranges[1]})"


def short(x: float) -> str:
    """A number with two decimals, or three digits."""
    return palette.decimal(x) if 0.1 <= x < 100 else f"{x:.3g}"


def draw_ages(axis: Axes, own: pd.DataFrame, look: dict) -> None:
    """Attention over that without leak by age, for equal leaks, with half-lives at their ends."""
    axis.set(xlabel="age of the key (s)", ylabel="attention over that without leak", yscale="log")
    own = own[own["exact"].between(MIN_RETAINED, MAX_DRAWN)]
    ends = []
    for leak in spread(sorted(own["leak_hebbian"].unique()), MAX_CURVES):
        curve = own[own["leak_hebbian"] == leak].sort_values("age")
        axis.plot(curve["age"], curve["exact"], color=palette.EXACT, linewidth=0.8, zorder=4)
        marked = spread(range(len(curve)), MAX_MARKS)
        estimates("age", "value", data=curve.iloc[marked], axis=axis, zorder=3, **look)
        words = f"{np.log(2) / leak:.2g} s" if leak > 0 else "never"
        ends.append((curve["age"].iloc[-1], curve["exact"].iloc[-1], words))
    if not ends:
        return
    axis.set_xlim(-0.03 * own["age"].max(), 1.3 * own["age"].max())
    axis.set_ylim(own["exact"].min() / 2, own["exact"].max() * 3)
    low, high = np.log(axis.get_ylim())
    heights = apart([(np.log(end[1]) - low) / (high - low) for end in ends], 0.065)
    for (age, _, words), height in zip(ends, heights):
        axis.annotate(
            words,
            (age, height),
            xytext=(5, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="center",
            color=palette.KEY,
        )
    axis.annotate(
        "half-life", (0.98, 0.98), xycoords="axes fraction", ha="right", va="top", color=palette.KEY
    )


def apart(heights: list[float], least: float) -> list[float]:
    """Heights moved up, where needed, so that neighbours are at least so far apart."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = list(heights)
    for below, above in zip(order, order[1:]):
        moved[above] = max(moved[above], moved[below] + least)
    return moved


def draw_leaks(axis: Axes, leaks: pd.DataFrame, looks: dict) -> None:
    """Fitted over true leak of each head, against the true leak."""
    axis.set_title("Leak fitted to the outputs", loc="left")
    axis.set(xlabel="true leak of $H$ (1/s)", ylabel="fitted over true leak")
    axis.axhline(1, color=palette.EXACT, linewidth=0.8, zorder=0)
    n, leaks = len(leaks), leaks[leaks["value"].abs() < MAX_DRAWN]
    beyond(axis, n - len(leaks), n, what="points")
    if leaks.empty:
        return
    true = sorted(leaks["leak_hebbian"].unique())
    shift = {key: 1.05 ** (i - (len(looks) - 1) / 2) for i, key in enumerate(looks)}
    for key, look in looks.items():
        own = leaks[(leaks["experiment"] == key[0]) & (leaks["head_rank"] == key[1])]
        own = own.assign(leak_hebbian=own["leak_hebbian"] * min(max(shift[key], 1 / 1.06), 1.06))
        estimates("leak_hebbian", "value", data=own, axis=axis, zorder=3, **look)
    axis.set(xscale="log", xlim=(true[0] / 1.4, true[-1] * 1.4))
    ticks = spread(true, 5)
    axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def draw_gains(axis: Axes, gains: pd.DataFrame, looks: dict) -> None:
    """Gains of unequal leaks; a row for each pair, by how much faster the astrocyte forgets."""
    axis.set_title("Gain where leaks differ", loc="left")
    axis.set_xlabel("gain: sum of attention weights")
    axis.axvline(1, color=palette.GUIDE, linewidth=0.8, zorder=0)
    n, gains = len(gains), gains[gains["value"].between(1 / MAX_DRAWN, MAX_DRAWN)]
    beyond(axis, n - len(gains), n, what="points")
    pairs = gains[["leak_hebbian", "leak_presynaptic"]].drop_duplicates()
    pairs = sorted(pairs.itertuples(index=False, name=None), key=lambda pair: pair[0] - pair[1])
    pairs = spread(pairs, MAX_PAIRS)
    labels: list[str] = []
    places = {}
    for pair in pairs:
        group = FASTER[pair[1] > pair[0]]
        if group not in labels:
            labels.append(group)
        places[pair] = len(labels)
        labels.append(f"$H$ {pair[0]:g}, $g$ {pair[1]:g} /s")
    axis.set_yticks(range(len(labels)), [x if x not in FASTER.values() else "" for x in labels])
    axis.set_ylim(max(len(labels), 1) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    for place, label in enumerate(labels):
        if label in FASTER.values():
            axis.annotate(
                label,
                (0.02, place),
                xycoords=("axes fraction", "data"),
                va="center",
                color=palette.KEY,
                bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5},
            )
    for place, (key, look) in enumerate(looks.items()):
        own = gains[(gains["experiment"] == key[0]) & (gains["head_rank"] == key[1])]
        y = [places.get(pair, np.nan) for pair in zip(own["leak_hebbian"], own["leak_presynaptic"])]
        own = own.assign(y=np.array(y) + 0.44 * ((place + 0.5) / len(looks) - 0.5))
        estimates("value", "y", data=own, axis=axis, across=True, zorder=3, **look)
        axis.plot(own["exact"], own["y"], "|", color=palette.EXACT, markersize=6, zorder=4)
    if len(gains) and gains["value"].max() > 20 * gains["value"].min():
        axis.set_xscale("log")
