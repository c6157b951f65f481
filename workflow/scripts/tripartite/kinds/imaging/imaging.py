"""Could a microscope see the normaliser in an astrocyte, and with how many trials?"""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from tripartite.figures import captions, palette
from tripartite.figures.panels import estimates, frame, head_words, heads_by, legend, mark, row_note

MAX_COLUMNS = 2  # experiments side by side
MAX_HEADS = 2  # of each: the one whose fluorescence the normaliser explains best, and the last one
MAX_SECONDS = 60.0  # of the recording
ROOM = 5.0  # times the trials that can be afforded: the end of the axis
LEVELS = (0.025, 0.8)  # shares of experiments: false positives that the test allows, and its power
RIVALS = {  # what fluorescence is explained by, and its name in the figure
    "normaliser": "normaliser $Z$",
    "another input": "contacts of another input",
    "shuffled contacts": "shuffled contacts",
    "mean rate": "mean rate",
    "drift": "drift",
    "query norm": "norm of the query",
    "previous token": "previous token",
    "beyond": "$Z$ beyond all others",
}
DESIGNS = {
    "beside signals": "beside signals",
    "beside contacts": "beside signals and contacts",
    "two contexts": "difference of two contexts",
}
ASTROCYTES = {
    "this input": "this input",
    "another input": "another input",
    "shuffled contacts": "this one, shuffled",
    "uniform contacts": "nothing (all equal)",
}
TRACES: dict[str, tuple[str, dict[str, Any]]] = {  # variable: name in the legend, look
    "trace_fluorescence": ("one trial", {"color": palette.GUIDE, "linewidth": 0.5}),
    "trace_clean": (
        "fluorescence without noise",
        {"color": palette.PARTS["astrocyte"], "linewidth": 1.8},
    ),
    "trace_rival": (
        "predicted from contacts of another input",
        {"color": palette.PARTS["presynaptic"], "linewidth": 1.1, "linestyle": ":"},
    ),
    "trace_normalizer": (
        "predicted from softmax $Z$",
        {"color": palette.EXACT, "linewidth": 0.9, "linestyle": "--"},
    ),
}
COLUMNS = [
    "experiment",
    "data",
    "quantity",
    "rank",
    "layer",
    "head",
    "n_features",
    "noise",
    "rival",
]
COLUMNS += ["design", "astrocyte", "value", "value_low", "value_high", "trials_tried", "seconds"]


def imaging(fits: dict[str, xr.Dataset]) -> Figure:
    """A column for each experiment: a recording, what explains it, trials, what passes for Z.

    The largest network, at the noise that is nearest to the signal; 95 % intervals over inputs and
    seeds.
    """
    palette.apply()
    shown = dict([*fits.items()][:MAX_COLUMNS])
    drawn = table(fits)
    rows = (6.5, len(RIVALS), 2 * len(DESIGNS), len(DESIGNS) * (len(ASTROCYTES) + 1))
    if len(shown) > 1:
        figure, axes = plt.subplots(
            len(rows), 2, figsize=(palette.PAGE, 192 * palette.MM), height_ratios=rows
        )
    else:
        figure, square = plt.subplots(
            2, 2, figsize=(palette.PAGE, 125 * palette.MM), height_ratios=(rows[2], rows[3])
        )
        axes = square.T.reshape(4, 1)
    heads = []
    for (experiment, fit), column in zip(shown.items(), axes.T):
        own = drawn[(drawn["experiment"] == experiment) & chosen(drawn, fit)]
        draw_trace(column[0], fit, own)
        places = heads_of(fit)
        look = palette.look_of(fit.attrs["data"], [x.attrs["data"] for x in fits.values()])
        looks = [palette.marks(look, filled=not rank) for rank in range(len(places))]
        for place, of_head in zip(places, looks):
            words = f"{palette.short_name(fit.attrs['data'])}: {head_words(fit, place)}"
            heads.append(mark(words, **of_head))
        draw_explained(column[1], own, looks)
        draw_trials(column[2], fit, own, looks)
        draw_found(column[3], own, looks)
    for axis in axes[1:, 1:].flat:
        axis.tick_params(labelleft=False)
    if len(fits) > len(shown):
        words = f"{len(shown)} of {len(fits)} experiments shown"
        figure.suptitle(words, fontsize=palette.STYLE["legend.fontsize"])
    legend(figure, heads, ncols=2)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Numbers of the heads shown with all networks and noises, and the recording drawn."""
    shown = dict([*fits.items()][:MAX_COLUMNS])
    parts = []
    for experiment, fit in shown.items():
        for rank, (layer, head) in enumerate(heads_of(fit)):
            few = fit.isel(layer=[layer], head=[head])
            for name in ("r_squared", "partial", "trials_needed", "share_found"):
                # numbers of trials are known or beyond what can be afforded where these are
                names = (name, "trials_tried") if name == "trials_needed" else (name,)
                part = frame({experiment: few}, *names).assign(quantity=name, rank=rank)
                ends = {f"{name}{end}": f"value{end}" for end in ("", "_low", "_high")}
                parts.append(part.rename(columns=ends))
        traces = fit[["trace_seconds", *TRACES]].isel(
            noise=middle_noise(fit), missing_dims="ignore"
        )
        recording = traces.to_dataframe().melt("trace_seconds", [*TRACES], "quantity")
        recording = recording.rename(columns={"trace_seconds": "seconds"})
        recording = recording[recording["seconds"] <= MAX_SECONDS]
        about: dict[str, Any] = {"layer": int(fit["trace_layer"]), "head": int(fit["trace_head"])}
        about |= {"n_features": int(fit["n_features"][-1]), "experiment": experiment}
        about |= {"noise": float(fit["noise"][middle_noise(fit)]), "data": fit.attrs["data"]}
        parts.append(recording.assign(**about))
    return pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Trials of two designs in the heads shown, and how often other astrocytes pass."""
    drawn = table(fits)
    shown = [*fits.items()][:MAX_COLUMNS]

    def listed(quantity: str, design: str, astrocyte: str = "") -> str:
        words = []
        for experiment, fit in shown:
            own = drawn[(drawn["experiment"] == experiment) & chosen(drawn, fit)]
            own = own[(own["quantity"] == quantity) & (own["design"] == design)]
            own = own[own["astrocyte"] == astrocyte] if astrocyte else own
            numbers = [
                share(row["value"]) if astrocyte else trials_words(fit, row, "an unknown number ")
                for _, row in own.sort_values("rank").iterrows()
            ]
            words.append(f"{' and '.join(numbers) or '–'} ({about(fit)})")
        return ", ".join(words)

    def about(fit: xr.Dataset) -> str:
        return palette.short_name(fit.attrs["data"])

    if not any(heads_of(fit) for _, fit in shown):
        return "No head has a recording that varies."
    signals, contexts = "beside signals", "two contexts"
    fit = shown[0][1]
    return (
        f"With a noise of {fit['noise'].values[middle_noise(fit)]:g} times the signal and m = "
        f"{int(fit['n_features'][-1])}, {listed('trials_needed', signals)} trials find Z beside "
        f"signals; an astrocyte of another input passes in "
        f"{listed('share_found', signals, 'another input')} of experiments. The difference of two "
        f"contexts takes {listed('trials_needed', contexts)} pairs of recordings; there one of "
        f"another input passes in {listed('share_found', contexts, 'another input')}, one with "
        f"shuffled contacts in {listed('share_found', contexts, 'shuffled contacts')}. Numbers are "
        "those of the first head and the last one."
    )


def heads_of(fit: xr.Dataset) -> list[tuple[int, int]]:
    """Places (layer, head) of the heads shown, first the one that the normaliser explains best."""
    return heads_by(-fit["r_squared"].sel(rival="normaliser").values[-1], MAX_HEADS)


def middle_noise(fit: xr.Dataset) -> int:
    """Place of the noise that is nearest to the signal."""
    return int(np.abs(np.log(fit["noise"].values)).argmin())


def chosen(drawn: pd.DataFrame, fit: xr.Dataset) -> pd.Series:
    """Rows of the largest network, at the middle noise where they have one."""
    noise = drawn["noise"].isna() | (drawn["noise"] == fit["noise"].values[middle_noise(fit)])
    return noise & (drawn["n_features"] == int(fit["n_features"][-1]))


def draw_trace(axis: Axes, fit: xr.Dataset, own: pd.DataFrame) -> None:
    """One trial, fluorescence without noise, and what Z and contacts of another input predict."""
    noise = fit["noise"].values[middle_noise(fit)]
    name = palette.shown(str(fit["trace_input"].values).replace("_", " "))
    name = palette.plain_text(name if len(name) <= 20 else f"{name[:19]}…")
    place = palette.head_name(fit, fit["trace_layer"], fit["trace_head"])
    words = (
        f"“{name}” is read, $m$ = {int(fit['n_features'][-1])}\n{place}, noise {noise:g} × signal"
    )
    palette.title_of(axis, fit, words)
    for quantity, (label, look) in TRACES.items():
        trace = own[own["quantity"] == quantity]
        axis.plot(trace["seconds"], trace["value"], label=label, **look)
    axis.set(xlabel="time (s)", ylabel="ΔF/F")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.margins(x=0)


def draw_explained(axis: Axes, own: pd.DataFrame, looks: list[dict]) -> None:
    """Shares of variance explained by each alone, and by the normaliser beyond all others."""
    own = own[own["quantity"].isin(["r_squared", "partial"])]
    own = own.assign(rival=own["rival"].where(own["quantity"] == "r_squared", "beyond"))
    rows = {name: float(y) for y, name in enumerate(RIVALS)}
    of_heads = in_rows(own, own["rival"].map(rows), looks)
    for part, look in zip(of_heads, looks):
        estimates("value", "y", data=part, axis=axis, across=True, **look)
    axis.set_title("Variance explained, without noise", loc="left")
    axis.set(xlim=(-0.03, 1.03), xlabel="share of variance")
    name_rows(axis, [*rows.values()], [*RIVALS.values()])
    write_beside(axis, of_heads, [*rows.values()])


def draw_trials(axis: Axes, fit: xr.Dataset, own: pd.DataFrame, looks: list[dict]) -> None:
    """Trials of each design; what cannot be afforded stands in a strip beyond a break."""
    most = float(fit["most_trials"])
    own = own[own["quantity"] == "trials_needed"]
    rows = {name: 2.0 * y for y, name in enumerate(DESIGNS)}
    for part, look in zip(in_rows(own, own["design"].map(rows), looks, 0.45), looks):
        known = part[part["value"] <= most]
        estimates("value", "y", data=known, axis=axis, across=True, **look)
        beyond = part[~(part["value"] <= most)]
        edge = most * np.sqrt(ROOM)
        axis.hlines(beyond["y"], beyond["value_low"], edge, color=look["color"], linewidth=0.8)
        for far, ends in beyond.groupby(beyond["value_low"] >= most):  # an open end has no number
            marks = look if far else look | {"marker": ">"}
            axis.plot(np.full(len(ends), edge), ends["y"], linestyle="", **marks)
        for _, row in part.iterrows():
            row_note(axis, row["y"], trials_words(fit, row))
    axis.set_title("Trials that find $Z$ (80 % power)", loc="left")
    axis.set(xscale="log", xlim=(0.9, most * ROOM), xlabel="trials, or pairs of recordings")
    axis.axvspan(most, most * ROOM, color=palette.SHADE, linewidth=0, zorder=0)
    axis.xaxis.set_major_locator(LogLocator(subs=(1,)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    ticks = [10.0**i for i in range(int(np.log10(most)) + 1) if 10.0**i < 0.9 * most]
    words = [f"{tick:g}" for tick in ticks] + [f"> {most:g}"]
    axis.set_xticks([*ticks, most * np.sqrt(ROOM)], words)
    axis.set_xticks([], minor=True)
    axis.plot(
        most,
        0,
        transform=axis.get_xaxis_transform(),
        marker=[(-0.5, -1), (0.5, 1)],
        markersize=6,
        color=palette.EXACT,
        markeredgewidth=0.8,
        clip_on=False,
    )
    name_rows(axis, [*rows.values()], [*DESIGNS.values()], 1.0)


def draw_found(axis: Axes, own: pd.DataFrame, looks: list[dict]) -> None:
    """Shares of experiments that find Z in as many trials, by the design and what contacts hold."""
    own = own[own["quantity"] == "share_found"]
    rows: dict[tuple[str, str], float] = {}
    places: list[int] = []
    words: list[str] = []
    for design, name in DESIGNS.items():
        places.append(len(places))
        words.append(f"{name}:")
        for astrocyte, held in ASTROCYTES.items():
            rows[design, astrocyte] = float(len(places))
            places.append(len(places))
            words.append(held)
    y = pd.Series([*zip(own["design"], own["astrocyte"])], own.index, dtype=object).map(rows)
    of_heads = in_rows(own, y, looks)
    for part, look in zip(of_heads, looks):
        estimates("value", "y", data=part, axis=axis, across=True, **look)
    for level in LEVELS:
        axis.axvline(
            level,
            color=palette.GUIDE,
            linestyle=":",
            linewidth=0.8,
            label="2.5 % and 80 % of experiments",
            zorder=0,
        )
    axis.set_title("What passes for $Z$, if contacts hold …", loc="left")
    axis.set(xlim=(-0.03, 1.03), xlabel="share of experiments that find $Z$")
    name_rows(axis, places, words)
    for label in axis.get_yticklabels()[:: len(ASTROCYTES) + 1]:
        label.set_fontweight("bold")
    write_beside(axis, of_heads, [*rows.values()])


def in_rows(own: pd.DataFrame, y: pd.Series, looks: list[dict], apart: float = 0.2) -> list:
    """Tables of the heads in order, with their rows y: the first a little higher than the last."""
    shifts = np.linspace(-apart, apart, len(looks)) if len(looks) > 1 else [0.0]
    own = own.assign(y=y.astype(float))
    return [
        own[own["rank"] == rank].assign(y=own["y"] + shift) for rank, shift in enumerate(shifts)
    ][: len(looks)]


def name_rows(axis: Axes, places: list, words: list[str], edge: float = 0.6) -> None:
    """Names of rows at the left; the first row is at the top."""
    axis.set_yticks(places, words)
    axis.set_ylim(max(places) + edge, min(places) - edge)
    axis.tick_params(axis="y", length=0)


def write_beside(axis: Axes, of_heads: list[pd.DataFrame], places: list[float]) -> None:
    """The values of each row at its right, of the first head first."""
    for place in places:
        values = [part.loc[(part["y"] - place).abs() < 0.5, "value"] for part in of_heads]
        words = ", ".join(share(float(x.iloc[0])) for x in values if len(x))
        row_note(axis, place, words)


def trials_words(fit: xr.Dataset, row: pd.Series, unknown: str = "") -> str:
    """A number of trials with its interval, or what is known of it."""
    most = float(fit["most_trials"])
    if np.isfinite(row["value"]):
        return captions.interval(row["value"], row["value_low"], row["value_high"], short)
    low = row["value_low"]
    return f"{unknown}[{short(low)}, > {most:g}]" if low < most else f"> {most:g}"


def share(x: float) -> str:
    return palette.decimal(x) if x != x or 0.1 <= x < 100 else f"{x:.2g}"


def short(x: float) -> str:
    return f"{x:.0f}" if 9.95 <= x < 1e6 else f"{x:.2g}"
