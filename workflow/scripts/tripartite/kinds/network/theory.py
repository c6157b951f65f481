"""Errors of normaliser and output against their closed forms, which have no free parameter."""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import beyond, estimates, frame, heads_by, legend, mark

MAX_MODELS = 4  # in the panels of single heads
MAX_HEADS = 3  # of random heads in a panel
MAX_ROWS = 9  # of costs
MAX_CLOUD, MAX_ROW = 500, 50  # networks of a panel, and heads in a row; more are drawn as pixels
MIN_ERROR, MAX_ERROR = 1e-6, 30.0  # ends of the axis of errors
M_OVER_R2 = (-30.0, 5.0)  # log10
LOG10_RATIO = (-7.0, 0.7)  # measured over predicted error
AGREEMENT = (0.4, 1.25)  # the same where it must be 1
COST = (0.7, 1000.0)
LABEL_DECADES = 0.4  # of error between names of lines
VARIABLES = (
    "normalizer_error_rms",
    "normalizer_error",
    "output_error_rms",
    "output_error_other_pool_rms",
)
CURVES = {  # of the upper panels
    "normalizer_error_rms": "rms; line: exact",
    "normalizer_error": "median; line: if normal",
}
POOLS = {
    "output_error_rms": "pooling the same neurons",
    "output_error_other_pool_rms": "pooling other neurons",
}


def theory(fits: dict[str, xr.Dataset]) -> Figure:
    """Errors of the normaliser in few heads, of the output in all networks, and costs of pools."""
    palette.apply()
    drawn = table(fits)
    networks, names = drawn[drawn["counted"]], [*drawn["data"].unique()]
    rows = [*networks.groupby("experiment", sort=False)]
    heights = (54, 58, 25 + 5 * min(len(rows), MAX_ROWS))  # mm
    figure = plt.figure(figsize=(palette.PAGE, (sum(heights) + 10) * palette.MM))
    upper, middle, lower = figure.subfigures(3, 1, squeeze=False, height_ratios=heights)[:, 0]
    of_heads = drawn[drawn["curve"] != ""]
    groups = [part for _, part in of_heads.groupby("random", sort=False)]
    if groups:
        panels = upper.subplots(1, 2 * len(groups), sharey=True)
        chosen = ((part, name) for part in groups for name in CURVES)
        for axis, (part, name) in zip(panels, chosen):
            draw_curves(axis, part, name, names)
        panels[0].set(yscale="log", ylim=(error_floor(of_heads), MAX_ERROR))
        panels[0].set_ylabel("relative error\nof the normaliser")
    cloud, own, other = middle.subplots(1, 3)
    draw_cloud(cloud, networks, names)
    for axis, name in zip((own, other), POOLS):
        draw_agreement(axis, networks, name, names)
    own.set_ylabel("measured / predicted")
    draw_costs(lower.subplots(), rows, names)
    entries = []
    if not of_heads["random"].all():
        model = palette.look_of(of_heads.loc[~of_heads["random"], "data"].iloc[0], names)
        for words, filled in (("easiest head of a model", True), ("hardest one run", False)):
            look = palette.marks(model, filled) | {"color": palette.KEY}
            face = palette.KEY if filled else "white"
            look |= {"markerfacecolor": face, "markeredgecolor": palette.KEY}
            entries.append(mark(words, **look))
    legend(figure, entries, ncols=5)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """A row for each network: errors, measured and by their closed forms (log10), and m / R^2.

    R is that of the rms over queries. In rows of `curve` the errors of the normaliser are drawn.
    """
    closed = [f"log10_{name}_closed_form" for name in VARIABLES]
    drawn = frame(fits, *VARIABLES, "other_pool_cost", "sigma_squared", *closed)
    drawn = drawn[drawn["normalizer_error"].notna()].reset_index(drop=True)
    drawn = drawn.rename(
        columns={
            old: f"log10_{name}_predicted" for old, name in zip(closed, VARIABLES, strict=True)
        }
    )
    log_m = np.log10(drawn["n_features"])
    predicted = drawn["log10_normalizer_error_rms_predicted"]
    with np.errstate(invalid="ignore"):  # NaN without a closed form
        log_r = np.logaddexp(0, np.log(10) * (log_m + 2 * predicted)) / np.log(10)
    drawn["log10_m_over_r2"] = log_m - 2 * log_r
    for name in POOLS:
        drawn = drawn.assign(
            **{
                f"{name}_over_predicted{end}": over(drawn, f"{name}{end}", name)
                for end in ("", "_low", "_high")
            }
        )
    drawn["random"] = drawn["data"].str.startswith("random heads")
    drawn["counted"] = drawn["experiment"].isin(widest(fits))
    drawn["curve"] = ""
    for experiment, head, words in shown_heads(fits):
        chosen = (drawn["experiment"] == experiment) & (drawn["layer"] == head[0])
        drawn.loc[chosen & (drawn["head"] == head[1]), "curve"] = words
    return drawn


def over(drawn: pd.DataFrame, column: str, name: str) -> pd.Series:
    """Measured over predicted error; 0 or inf where it is beyond float64."""
    with np.errstate(divide="ignore", over="ignore"):
        return 10 ** (np.log10(drawn[column]) - drawn[f"log10_{name}_predicted"])


def shown_heads(fits: dict[str, xr.Dataset]) -> list[tuple[str, tuple[int, int], str]]:
    """Experiment, (layer, head) and words of the heads of the upper panels.

    Of random heads MAX_HEADS of the first experiment; of each model the easiest and the hardest
    head of the experiment with the most neurons.
    """
    sources: dict[str, str] = {}
    for name, fit in fits.items():
        source = palette.short_name(fit.attrs["data"], 1000)
        largest = sources.setdefault(source, name)
        if source != "random heads" and fit["n_features"][-1] > fits[largest]["n_features"][-1]:
            sources[source] = name
    found = []
    models = [source for source in sources if source != "random heads"][:MAX_MODELS]
    for source in (*(s for s in sources if s == "random heads"), *models):
        fit = fits[sources[source]]
        run = fit["normalizer_error"].notnull().all("n_features")
        needed = fit["log10_features_needed"].where(run).transpose("layer", "head").values
        heads = heads_by(needed, 2 if source in models else MAX_HEADS)
        for place, (a, b) in enumerate(heads):
            words = "easiest" if not place else "hardest" if place == len(heads) - 1 else "between"
            found.append((sources[source], (int(fit["layer"][a]), int(fit["head"][b])), words))
    return found


def widest(fits: dict[str, xr.Dataset]) -> list[str]:
    """Of experiments with the same data and network the one with most heads: none counts twice.

    Random heads of two experiments are other heads.
    """
    found: dict[str, str] = {}
    for name, fit in fits.items():
        source = palette.full_name(fit)
        source += f" ({name})" * source.startswith("random heads")
        if source not in found or n_run(fit) > n_run(fits[found[source]]):
            found[source] = name
    return [*found.values()]


def n_run(fit: xr.Dataset) -> int:
    """Heads that were simulated."""
    return int(fit["normalizer_error"].notnull().any("n_features").sum())


def answer(fits: dict[str, xr.Dataset]) -> str:
    """How many intervals contain the prediction where m > R^2, its error elsewhere, and costs."""
    drawn = table(fits)
    networks = drawn[drawn["counted"] & np.isfinite(drawn["log10_m_over_r2"])]
    if networks.empty:
        return "No network that is shown has closed forms."
    inside = networks["log10_m_over_r2"] > 0
    words = []
    if inside.any():
        hold, n = contained(networks[inside])
        words.append(
            f"In the {inside.sum()} networks with m > R² (R: relative second moment of what one "
            f"neuron estimates), {hold} of {n} intervals of the output's rms error contain the "
            "prediction, whether the astrocyte pools the neurons whose synapses it scales or others"
        )
        easy = inside & networks["random"] & (networks["sigma_squared"] <= 1)
        hold, n = contained(networks[easy])
        words[-1] += f"; in random heads with σ² ≤ 1, {hold} of {n}." if n else "."
    else:
        words.append("No network has m > R², where the theory must hold.")
    if not inside.all():
        off = networks.loc[~inside, "output_error_rms_over_predicted"].median()
        words.append(
            f"In the other {(~inside).sum()} networks, with m < R², {times(off)} (median)."
        )
    costs = [
        f"{one['other_pool_cost'].median():.1f} ({row_name(one)})"
        for _, one in largest(networks).groupby("experiment", sort=False)
    ]
    words.append(
        "An astrocyte that pools other neurons multiplies the error (largest m, median head) by "
        f"{', '.join(costs)}."
    )
    return " ".join(words).replace("\\$", "$")


def contained(networks: pd.DataFrame) -> tuple[int, int]:
    """How many intervals of both errors of the output contain the prediction, and of how many."""
    low, high = (
        np.stack([networks[f"{name}_over_predicted{end}"] for name in POOLS])
        for end in ("_low", "_high")
    )
    return int(((low <= 1) & (high >= 1)).sum()), int(np.isfinite(low).sum())


def times(x: float) -> str:
    """In words how a measured error compares with the predicted one; x: their ratio."""
    if not 0 < x < np.inf:
        return f"the ratio of measured and predicted error is {palette.decimal(x)}"
    factor = max(x, 1 / x)
    words = f"{factor:.2g}" if factor < 100 else f"10^{np.log10(factor):.1f}"
    if 100 <= factor < 1e6:
        words = palette.spaced(factor)
    return f"the predicted error is {words} times too {'small' if x > 1 else 'large'}"


def largest(networks: pd.DataFrame) -> pd.DataFrame:
    """The networks with the most neurons of each experiment."""
    most = networks.groupby("experiment")["n_features"].transform("max")
    return networks[networks["n_features"] == most]


def row_name(one: pd.DataFrame) -> str:
    """A model and its recipe, or an experiment with random heads."""
    first = one.iloc[0]
    name = palette.short_name(first["data"])
    return f"{name}, {first['experiment'] if first['random'] else first['recipe']}"


def error_floor(of_heads: pd.DataFrame) -> float:
    """Lower end of the axis of errors: a power of ten."""
    errors = of_heads[[*CURVES]].to_numpy(dtype=float)
    errors = errors[(errors > 0) & (errors < MAX_ERROR)]
    return max(10 ** np.floor(np.log10(errors.min() * 0.9)), MIN_ERROR) if errors.size else 1e-3


def draw_curves(axis: Axes, part: pd.DataFrame, name: str, names: list[str]) -> None:
    """Errors of single heads against m, measured with intervals and by the closed form."""
    labels: list[float] = []
    above, heads = 0, [one for _, one in part.groupby(["experiment", "layer", "head"], sort=False)]
    for one in heads:
        exact = 10 ** one[f"log10_{name}_predicted"].clip(-9, 9)
        above += int((exact > MAX_ERROR).all())
        axis.plot(one["n_features"], exact, color=palette.EXACT, linewidth=0.7, label="theory")
        look = palette.marks(
            palette.look_of(one["data"].iloc[0], names), one["curve"].iloc[0] == "easiest"
        )
        estimates("n_features", name, data=one, axis=axis, **look)
        last = float(np.log10(exact.iloc[-1])) if len(exact) else np.nan
        free = one["n_features"].iloc[-1] == part["n_features"].max() and all(
            abs(last - other) > LABEL_DECADES for other in labels
        )
        if not one["random"].iloc[0] and MIN_ERROR < 10**last < MAX_ERROR and free:
            labels.append(last)
            axis.annotate(
                palette.short_name(one["data"].iloc[0], 8),
                (1, 10**last),
                xycoords=("axes fraction", "data"),
                xytext=(1, 0),
                textcoords="offset points",
                va="center",
                fontsize=6.5,
                annotation_clip=False,
            )
    low, high = part["n_features"].min(), part["n_features"].max()
    axis.set(xscale="log", xlim=(low / 1.6, high * 1.6), xlabel="hidden neurons $m$")
    if high < 10 * low:  # matplotlib would label every 10^2.1 in between
        ends = np.unique([low, high])
        axis.set_xticks(ends, [f"{x:,}" for x in ends])
        axis.xaxis.set_minor_formatter("")
    axis.tick_params(which="minor", bottom=False, left=False)
    bold = "Random heads" if part["random"].iloc[0] else "Heads of models"
    palette.title(axis, bold, CURVES[name])
    n_off = int((part[name] > MAX_ERROR).sum())
    words = [f"m > R² in {(part['log10_m_over_r2'] > 0).sum()} of {len(part)}"]
    words += [f"above the axis:\ntheory of {above} of {len(heads)} heads"] * bool(above)
    words += [f"{n_off} of {len(part)} points"] * bool(n_off)
    say(axis, "\n".join(words), "lower left" if part[name].median() > 0.05 else "upper right")


def say(axis: Axes, words: str, corner: str) -> None:
    """Write words into a corner of a panel."""
    y, x = corner.split()
    axis.annotate(
        words,
        (0.03 if x == "left" else 0.97, 0.97 if y == "upper" else 0.03),
        xycoords="axes fraction",
        ha=x,
        va="top" if y == "upper" else "bottom",
        fontsize=6.5,
        color=palette.KEY,
    )


def draw_cloud(axis: Axes, networks: pd.DataFrame, names: list[str]) -> None:
    """Measured over predicted rms error of the output against m / R^2, all networks."""
    axis.axvspan(M_OVER_R2[0], 0, color=palette.SHADE, linewidth=0, zorder=0)
    axis.axhline(0, color=palette.EXACT, linewidth=0.7)
    known = networks[np.isfinite(networks["log10_m_over_r2"])]
    with np.errstate(divide="ignore"):
        ratio = np.log10(known["output_error_rms_over_predicted"])
    for data, one in known.groupby("data", sort=False):
        axis.plot(
            one["log10_m_over_r2"],
            ratio[one.index],
            linestyle="",
            markersize=3,
            rasterized=len(known) > MAX_CLOUD,
            label=palette.short_name(str(data)),
            **palette.marks(palette.look_of(str(data), names)) | {"markeredgewidth": 0.5},
        )
    off = (known["log10_m_over_r2"] < M_OVER_R2[0]) | (ratio < LOG10_RATIO[0])
    axis.set(xlim=M_OVER_R2, ylim=LOG10_RATIO)
    axis.set_xticks([-20, -10, 0], [palette.power(x) for x in (-20, -10, 0)])
    axis.set_yticks([-6, -4, -2, 0], [palette.power(x) for x in (-6, -4, -2, 0)])
    axis.set(xlabel="$m / R^2$", ylabel="measured / predicted")
    say(axis, "m < R²", "upper left")
    if off.any():
        say(axis, f"{off.sum()} of {len(known)}\nnetworks beyond", "lower right")
    palette.title(axis, "Output, all networks", "rms error")


def draw_agreement(axis: Axes, networks: pd.DataFrame, name: str, names: list[str]) -> None:
    """The same where m > R^2, with intervals."""
    inside = networks[networks["log10_m_over_r2"] > 0]
    axis.axhline(1, color=palette.EXACT, linewidth=0.7)
    ratio = f"{name}_over_predicted"
    for data, one in inside.groupby("data", sort=False):
        estimates(
            "m_over_r2",
            ratio,
            data=one.assign(m_over_r2=10 ** one["log10_m_over_r2"]),
            axis=axis,
            rasterized=len(inside) > MAX_ROW,
            **palette.marks(palette.look_of(str(data), names)) | {"markersize": 3},
        )
    axis.set(xscale="log", xlim=(0.8, 1e5), ylim=AGREEMENT, xlabel="$m / R^2$")
    off = (inside[ratio] < AGREEMENT[0]) | (inside[ratio] > AGREEMENT[1])
    beyond(axis, int(off.sum()), len(inside), "upper right", "networks")
    held = (inside[f"{ratio}_low"] <= 1) & (inside[f"{ratio}_high"] >= 1)
    if len(inside):
        say(axis, f"{held.sum()} of {len(inside)} intervals contain 1", "lower right")
    palette.title(axis, "Output, m > R²", POOLS[name])


def draw_costs(axis: Axes, rows: list, names: list[str]) -> None:
    """What pooling other neurons costs each head at the largest m, a row for each experiment."""
    shown, off, n = rows[:MAX_ROWS], 0, 0
    for row, (_, one) in enumerate(shown):
        one = largest(one).sort_values("sigma_squared", kind="stable")
        one = one.assign(place=row + np.linspace(-0.36, 0.36, len(one)) * (len(one) > 1))
        look = palette.marks(palette.look_of(one["data"].iloc[0], names))
        look["rasterized"] = len(one) > MAX_ROW
        bars = {"elinewidth": 0.5, "alpha": 0.3 if len(one) > 20 else 1, "marker": ""}
        estimates("other_pool_cost", "place", data=one, axis=axis, across=True, **look | bars)
        axis.plot(
            one["other_pool_cost"],
            one["place"],
            **look | {"markersize": 2.2, "markeredgewidth": 0.5, "linestyle": ""},
        )
        theory = one[one["log10_m_over_r2"] > 0]
        predicted = 10 ** (
            theory["log10_output_error_other_pool_rms_predicted"]
            - theory["log10_output_error_rms_predicted"]
        )
        axis.plot(
            predicted, theory["place"], "|", color=palette.EXACT, markersize=4, markeredgewidth=0.8
        )
        median = one["other_pool_cost"].median()
        axis.plot([median] * 2, [row - 0.42, row + 0.42], color=palette.KEY, linewidth=1.5)
        off += int(
            (one["other_pool_cost"] > COST[1]).sum() + (one["other_pool_cost"] < COST[0]).sum()
        )
        n += len(one)
        axis.annotate(
            f"{median:.1f}",
            (1, row),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
        )
    beyond(axis, off, n, "upper right", "heads")
    axis.set(xscale="log", xlim=COST, ylim=(max(len(shown), 1) - 0.5, -0.5))
    axis.set_yticks(range(len(shown)), [row_name(one) for _, one in shown])
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(
        "error of the output if other neurons are pooled, over that of the same neurons"
    )
    more = f"; {len(shown)} of {len(rows)} experiments" * (len(shown) < len(rows))
    palette.title(
        axis, "Cost of pooling other neurons", f"at the largest $m$; at the right, medians{more}"
    )
