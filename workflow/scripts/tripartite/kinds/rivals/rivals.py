"""Is there a better mechanism? Errors of the network and its rivals, and how fast they settle."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from tripartite.figures import captions, palette
from tripartite.figures.panels import (
    beyond,
    estimates,
    frame,
    head_words,
    heads_by,
    legend,
    mark,
    row_note,
)

MAX_HEADS = 2  # shown, easy before hard
EXACT = 1e-9  # error below which a mechanism is exact
MAX_ERROR = 10.0  # end of the axis
MAX_TIME = 100.0  # over the time constant: the longest ratio that settings allow
STRIP = 0.16  # share of the axis of errors, below the least one, for what is exact
SIZED = {  # with as many units as said, and their names
    "network": "network, random neurons",
    "network, fitted": "network, fitted neurons",
    "network, fitted, gain": "the same with a fitted gain",
    "no division, fitted": "without division, fitted gain",
    "delta rule, fitted": "delta rule, fitted neurons",
    "delta rule, elu + 1": "delta rule, elu + 1 neurons",
    "elu + 1": "elu + 1 neurons",
    "elu + 1, exponent": "the same, fitted exponent",
    "replicator": "replicator, random tokens",
}
FIXED = {  # with as many units as the head or the input has
    "replicator, all tokens": "replicator, all tokens",
    "match and control, threshold": "matches above a threshold",
    "match and control, best matches": "best matches",
    "elu + 1, d_head neurons": "elu + 1 of queries and keys",
    "equal attention": "equal attention",
    "equal attention, gain": "the same with a fitted gain",
    "a constant output": "best constant output",
}
CURVES = {  # drawn against units, and their colours
    "network, fitted": palette.RECIPES["fitted"].line,
    "delta rule, elu + 1": palette.CATEGORIES[1],
    "replicator": palette.CATEGORIES[2],
}
READINGS = {
    "calcium from rest": "calcium that divides, from 0",
    "calcium in turn": "the same, query after query",
    "replicator from rest": "replicator, from equal gains",
    "replicator in turn": "the same, query after query",
}
STARTS = {"of the tutorial": "start of its tutorial:", "zero": "start from zero:"}
STATES = {"synapses": "synapses", "first": "neurons", "last": "neurons, settled"}


class Shown(NamedTuple):
    """A head that is shown: experiment, its file, place (layer, head), and look of its marks."""

    experiment: str
    fit: xr.Dataset
    place: tuple[int, int]
    look: dict[str, Any]

    @property
    def words(self) -> str:
        """Its name in a legend."""
        return f"{palette.short_name(self.fit.attrs['data'])}: {head_words(self.fit, self.place)}"


def rivals(fits: dict[str, xr.Dataset]) -> Figure:
    """Errors by mechanism with few and with most units, against units, settling, and the memory.

    At most two heads. Means over inputs and seeds with 95 % intervals over both; of what settles
    over inputs, of the associative memory (of the first experiment) over seeds.
    """
    palette.apply()
    heads, drawn = shown_heads(fits), table(fits)
    figure = plt.figure(figsize=(palette.PAGE, palette.MAX_HEIGHT))
    parts: Any = figure.subfigures(3, 1, height_ratios=(2.4, 1.2, 1.1))
    axes = np.array([part.subplots(1, 2) for part in parts])
    errors = drawn[drawn["quantity"].isin(["error", "error, fixed size"])]
    limits = error_limits(errors)
    few, most = two_sizes(next(iter(fits.values())))
    draw_errors(axes[0, 0], errors, heads, few, limits)
    if most > few:
        draw_errors(axes[0, 1], errors, heads, most, limits)
    else:
        axes[0, 1].set_axis_off()
    for axis, head in zip(axes[1], heads):
        draw_curves(axis, of_head(errors, head), head, limits)
    for axis in axes[1, len(heads) :]:
        axis.set_axis_off()
    axes[0, 1].tick_params(labelleft=False)
    if len(heads) > 1:
        axes[1, 1].tick_params(labelleft=False)
        axes[1, 1].set_ylabel("")
    draw_times(axes[2, 0], drawn[drawn["quantity"] == "time"], heads)
    draw_memory(axes[2, 1], drawn[drawn["quantity"] == "overlap"])
    if len(fits) > len({head.experiment for head in heads}) and heads:
        n = len({head.experiment for head in heads})
        words = f"{n} of {len(fits)} experiments shown"
        figure.suptitle(words, fontsize=palette.STYLE["legend.fontsize"])
    legend(figure, [mark(head.words, **head.look) for head in heads], ncols=3)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Errors with units and synapses of each mechanism, times to settle, and overlaps.

    ratio: error over that of the fitted network of the same size, input and seed (geometric mean).
    """
    counted = ("units", "synapses", "synapses_written")
    parts = []
    for rank, head in enumerate(shown_heads(fits)):
        few = head.fit.isel(layer=[head.place[0]], head=[head.place[1]])
        few = few.assign(
            {f"ratio{end}": 10 ** few[f"log10_error_ratio{end}"] for end in ("", "_low", "_high")}
        )
        of_rivals = few.rename({"rival": "mechanism", "mechanism": "_"}).drop_vars("_")
        of_rivals = of_rivals[[name for name in of_rivals if "rival" in str(name)]]
        of_rivals = of_rivals.rename({f"rival_{name}": name for name in counted})
        of_rivals = of_rivals.assign_attrs(few.attrs)
        for quantity, fit, name, *others in (
            ("error", few, "output_error", "ratio", *counted),
            ("error, fixed size", of_rivals, "rival_error", *counted),
            ("time", few, "ratio_needed"),
        ):
            part = frame({head.experiment: fit}, name, *others).assign(quantity=quantity, rank=rank)
            ends = {f"{name}{end}": f"value{end}" for end in ("", "_low", "_high")}
            parts.append(part.rename(columns=ends))
    experiment, fit = next(iter(fits.items()))
    overlap = fit.sel(pattern="memory").isel(moment=[0, -1])
    overlap = overlap.assign_coords(moment=["first", "last"])
    for name, states in (("naam_drive_overlap", {}), ("naam_overlap", {"moment": "state"})):
        part = frame({experiment: overlap.drop_vars("pattern")}, name)
        ends = {f"{name}{end}": f"value{end}" for end in ("", "_low", "_high")}
        part = part.rename(columns=ends | states).assign(quantity="overlap")
        parts.append(part if states else part.assign(state="synapses"))
    found = pd.concat(parts, ignore_index=True)
    names = ["experiment", "data", "quantity", "rank", "layer", "head", "mechanism", "n_features"]
    names += [*counted, "value", "value_low", "value_high", "ratio", "ratio_low", "ratio_high"]
    return found.reindex(columns=[*names, "reading", "start", "state"])


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Errors of the network, the delta rule and the replicator, times, and the memory's start."""
    drawn, heads = table(fits), shown_heads(fits)
    few, most = two_sizes(next(iter(fits.values())))

    def listed(quantity: str, name: str = "value", **which: Any) -> str:
        words = []
        for head in heads:
            own = of_head(drawn, head)
            own = own[
                (own["quantity"] == quantity) & (own[[*which]] == pd.Series(which)).all(axis=1)
            ]
            for _, row in own.iterrows():
                exact = quantity == "error" and row["value"] < EXACT
                ends = (row[name], row[f"{name}_low"], row[f"{name}_high"])
                words.append("0" if exact else captions.interval(*ends))
        return " and ".join(words) or "–"

    fitted = listed("error", mechanism="network, fitted", n_features=most)
    exact = listed("error", mechanism="replicator", n_features=most)
    delta = listed("error", "ratio", mechanism="delta rule, elu + 1", n_features=few)
    tokens = drawn.loc[drawn["mechanism"] == "replicator, all tokens", "units"].max()
    overlap = drawn[drawn["quantity"] == "overlap"].set_index(["start", "state"])["value"]
    starts = [
        f"{palette.decimal(overlap.get((start, 'synapses'), np.nan))} and "
        f"{palette.decimal(overlap.get((start, 'last'), np.nan))}"
        for start in STARTS
    ]
    words = (
        f"With {count(most)} units the network of fitted neurons errs by {fitted} "
        f"({'; '.join(head.words for head in heads)}), a replicator with a gain for each of "
        f"{tokens:.0f} tokens by {exact}; with {count(few)} units a delta "
        f"rule on elu + 1 neurons with a fitted gain errs {delta} times as much as the network. "
        f"Query after query, calcium has to settle for {listed('time', reading='calcium in turn')} "
        f"time constants until the error of the output falls to 10 %, the replicator's gains for "
        f"{listed('time', reading='replicator in turn')}. "
    )
    return (words if heads else "No head has an error. ") + (
        f"In the associative memory, synapses at the start and settled neurons overlap with the "
        f"memory by {starts[0]} from the start of its public tutorial, {starts[1]} from zero."
    )


def shown_heads(fits: dict[str, xr.Dataset]) -> list[Shown]:
    """Heads of the first experiments, from easy to hard by the error of the fitted network."""
    names = [fit.attrs["data"] for fit in fits.values()]
    heads = []
    for experiment, fit in [*fits.items()][:MAX_HEADS]:
        errors = fit["output_error"].sel(mechanism="network, fitted").isel(n_features=-1)
        look = palette.look_of(fit.attrs["data"], names)
        places = heads_by(errors.transpose("layer", "head").values, MAX_HEADS)
        for rank, place in enumerate(places[: max(1, MAX_HEADS // len(fits))]):
            heads.append(Shown(experiment, fit, place, palette.marks(look, filled=not rank)))
    return heads


def of_head(drawn: pd.DataFrame, head: Shown) -> pd.DataFrame:
    """Rows of a head."""
    layer, number = (int(head.fit[dim][i]) for dim, i in zip(("layer", "head"), head.place))
    own = drawn["experiment"] == head.experiment
    return drawn[own & (drawn["layer"] == layer) & (drawn["head"] == number)]


def two_sizes(fit: xr.Dataset) -> tuple[int, int]:
    """Numbers of units: the largest at which the replicator lacks tokens, and the last."""
    sizes = fit["n_features"].values
    partly = sizes[fit["units"].sel(mechanism="replicator").values >= sizes]
    return int(partly[-1] if len(partly) else sizes[0]), int(sizes[-1])


def error_limits(errors: pd.DataFrame) -> tuple[float, float]:
    """Ends of the axis of errors, without the strip of what is exact."""
    known = errors[["value", "value_low", "value_high"]].to_numpy(dtype=float)
    known = known[(known > EXACT) & (known < MAX_ERROR)]
    if not len(known):
        return 0.1, 1.0
    low = max(known.min(), 1e-4)
    return low / 1.2, float(max(known.max() * 1.2, 2 * low))


def draw_errors(
    axis: Axes, errors: pd.DataFrame, heads: list[Shown], size: int, limits: tuple[float, float]
) -> None:
    """A row for each mechanism with so many units, and for those whose size is given."""
    names = SIZED | FIXED
    rows = {name: y + (y >= len(SIZED)) for y, name in enumerate(names)}  # a gap between both
    own = errors[(errors["n_features"] == size) | (errors["quantity"] == "error, fixed size")]
    n_beyond = 0
    ratios: dict[str, list[str]] = {}
    for head, shift in zip(heads, (-0.17, 0.17)):
        part = of_head(own, head)
        part = part.assign(y=part["mechanism"].map(rows) + (shift if len(heads) > 1 else 0))
        n_beyond += int((part["value"] > limits[1]).sum())
        draw_exact(part, exact_edge(limits), head.look, axis, "y", across=True)
        for _, row in part[part["quantity"] == "error"].iterrows():
            ratios.setdefault(row["mechanism"], []).append(ratio_words(row))
    for name, numbers in ratios.items():
        row_note(axis, rows[name], "× " + ", ".join(numbers))
    row_note(axis, -1, "× fitted network")
    sized = own[own["quantity"] == "error"]
    synapses = sized.loc[sized["units"] == size, "synapses"]
    words = f"{count(synapses.min())} to {count(synapses.max())} synapses" if len(synapses) else ""
    stored = sized[sized["mechanism"] == "replicator"].dropna(subset=["units", "synapses"])
    if len(stored):
        words += f"\nreplicator: {count(stored['units'].iloc[0])} units, "
        words += f"{count(stored['synapses'].iloc[0])} synapses"
    palette.title(axis, f"Errors with {count(size)} units", words)
    axis.set_xlabel("relative error of the output")
    axis.set_yticks([*rows.values()], [*names.values()])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(max(rows.values()) + 0.6, -1.6)
    error_axis(axis, limits, "x")
    beyond(axis, n_beyond, len(heads) * len(rows), "lower right")


def count(x: float) -> str:
    """A number of units or synapses in digits, by thousands from 10 000 on."""
    if x >= 1e8:
        return f"{x:.2g}"
    return f"{x:.0f}" if x < 1e4 else f"{x:,.0f}".replace(",", " ")


def ratio_words(row: pd.Series) -> str:
    ratio = row["ratio"]
    if row["value"] < EXACT:
        return "0"
    return f"{ratio:.0e}" if 100 <= ratio < np.inf else palette.decimal(ratio)


def exact_edge(limits: tuple[float, float], share: float = STRIP / 2) -> float:
    """Where what is exact is drawn: in the middle of its strip, or where this share begins."""
    low, high = limits
    return low / (high / low) ** (share / (1 - STRIP))


def draw_exact(
    part: pd.DataFrame, edge: float, look: dict[str, Any], axis: Axes, place: str, across: bool
) -> None:
    """Errors with their intervals; what is exact in the middle of its strip, without a bar."""
    exact = part["value"] < EXACT
    known, zero = part[~exact], part[exact].assign(value=edge, value_low=edge, value_high=edge)
    for some in (known, zero):
        x, y = ("value", place) if across else (place, "value")
        estimates(x, y, data=some, axis=axis, across=across, **look)


def error_axis(axis: Axes, limits: tuple[float, float], which: str) -> None:
    """A logarithmic axis of errors with a strip for what is exact at its lower end."""
    low, high = limits
    end = exact_edge(limits, STRIP)
    axis.set(**{f"{which}scale": "log", f"{which}lim": (end, high)})
    span = axis.axvspan if which == "x" else axis.axhspan
    span(end, low, color=palette.SHADE, linewidth=0, zorder=0)
    lines = axis.xaxis if which == "x" else axis.yaxis
    ticks = LogLocator(subs=(1, 2, 5) if high < 99 * low else (1,)).tick_values(low, high)
    ticks = [tick for tick in ticks if low * (high / low) ** 0.12 <= tick <= high]
    lines.set_ticks(
        [exact_edge(limits), *ticks], labels=["exact", *(f"{tick:g}" for tick in ticks)]
    )
    lines.set_ticks([], minor=True)
    lines.set_minor_formatter(NullFormatter())


def draw_curves(axis: Axes, own: pd.DataFrame, head: Shown, limits: tuple[float, float]) -> None:
    """Errors of a few mechanisms of a head against their units."""
    for name, colour in CURVES.items():
        part = own[(own["mechanism"] == name) & (own["quantity"] == "error")]
        part = part.drop_duplicates("units")
        edge = exact_edge(limits)
        y = part["value"].where(part["value"] >= EXACT, edge)
        axis.plot(part["units"], y, color=colour, label=SIZED[name])
        look = head.look | {"color": colour, "markeredgecolor": colour}
        if look["markerfacecolor"] != "white":
            look["markerfacecolor"] = colour
        draw_exact(part, edge, look, axis, "units", across=False)
    for name, style in (("equal attention", ":"), ("a constant output", "--")):
        level = own.loc[own["mechanism"] == name, "value"]
        for value in level[level > EXACT]:
            axis.axhline(value, color=palette.GUIDE, linestyle=style, label=FIXED[name], zorder=0)
    sizes = own["n_features"].dropna()
    if len(sizes):
        axis.set(xscale="log", xlim=(sizes.min() / 1.3, sizes.max() * 1.3))
    axis.set_xlabel("units: hidden neurons or stored tokens")
    palette.title(axis, head.words)
    error_axis(axis, limits, "y")
    axis.set_ylabel("relative error\nof the output")
    n = int((own["value"] > limits[1]).sum())
    beyond(axis, n, len(own), "upper right")


def draw_times(axis: Axes, times: pd.DataFrame, heads: list[Shown]) -> None:
    """How long a query is read until what settles errs by 10 %."""
    rows = {name: float(y) for y, name in enumerate(READINGS)}
    for head, shift in zip(heads, (-0.17, 0.17)):
        part = of_head(times, head)
        part = part.assign(y=part["reading"].map(rows) + (shift if len(heads) > 1 else 0))
        estimates("value", "y", data=part, axis=axis, across=True, **head.look)
    palette.title(axis, "Time until the error is 10 %")
    axis.set_xlabel("time of reading over time constant")
    known = times[["value", "value_high"]].to_numpy(dtype=float)
    axis.set_xlim(0, 1.05 * known[known < MAX_TIME].max(initial=1.0))
    beyond(axis, int((times["value"] >= MAX_TIME).sum()), len(times), "lower right")
    axis.set_yticks([*rows.values()], [*READINGS.values()])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(max(rows.values()) + 0.6, -0.6)


def draw_memory(axis: Axes, overlap: pd.DataFrame) -> None:
    """Overlap with the memory of synapses and neurons, from two starts."""
    places: dict[tuple[str, str], float] = {}
    ticks, words = [], []
    for start, name in STARTS.items():
        words.append(name)
        for state, named in STATES.items():
            places[start, state] = float(len(words))
            words.append(named)
    ticks = [*range(len(words))]
    y = [places[key] for key in zip(overlap["start"], overlap["state"])]
    estimates("value", "y", data=overlap.assign(y=y), axis=axis, across=True, color=palette.KEY)
    palette.title(axis, "Associative memory")
    axis.set(xlim=(-0.05, 1.05), xlabel="overlap with the memory")
    axis.set_yticks(ticks, words)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(max(ticks) + 0.6, -0.6)
    for label in axis.get_yticklabels()[:: len(STATES) + 1]:
        label.set_fontweight("bold")
