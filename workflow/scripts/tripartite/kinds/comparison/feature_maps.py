"""Which activation of the hidden neurons serves, and what limits it: bias or variance?"""

from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tripartite.figures import captions, palette
from tripartite.figures.panels import (
    beyond,
    estimates,
    frame,
    grid,
    head_words,
    heads_by,
    legend,
    mark,
)

MAX_ROWS = 24
N_COLUMNS = 4
ROW = 4.3  # mm
LETTERS = 24  # of a line of a title
LIMITS = (3e-3, 30.0)  # widest axis of errors
MAPS = {  # group and words of each feature map
    "performer": ("unbiased", "exponential"),
    "orthogonal": ("unbiased", "exp., orthogonal weights"),
    "hyperbolic": ("unbiased", "exp., pairs ±ω"),
    "generalized_positive": ("unbiased", "exp., generalized"),
    "fitted_normal": ("unbiased", "exp., fitted weights"),
    "cosine": ("unbiased", "cosine (with signs)"),
    "truncated_performer": ("saturating", "exp., with a ceiling"),
    "positive_cosine": ("other kernel", "cosine above 0"),
    "clipped_sine": ("other kernel", "clipped sine"),
    "linear": ("other kernel", "linear"),
    "elu_plus_one": ("other kernel", "ELU + 1"),
    "relu": ("other kernel", "ReLU"),
}
GROUPS = {
    "unbiased": "unbiased: exp(q·k)",
    "saturating": "saturating",
    "other kernel": "another kernel",
}
MARKS: dict[str, tuple[str, dict[str, Any]]] = {  # beside errors; bias has the colour of the model
    "bias": (
        "bias, where its interval excludes 0",
        {"marker": "|", "markersize": 8, "color": palette.KEY, "zorder": 2},
    ),
    "error_of_many_neurons": (
        "error at $m = \\infty$",
        {"marker": "|", "markersize": 4.5, "color": palette.EXACT, "zorder": 4},
    ),
    "error_with_best_constant": (
        "best constant in place of division",
        {"marker": "x", "color": palette.GUIDE, "zorder": 2},
    ),
}
Panels = list[tuple[str, tuple[int, int], str]]  # experiment, indices of the head, which it is


def feature_maps(fits: dict[str, xr.Dataset]) -> Figure:
    """Error, bias and limit of each map at the largest m; a panel per head, maps in rows."""
    palette.apply()
    drawn, panels = table(fits), chosen(fits)
    of_all, panels = len(panels), panels[: palette.MAX_PANELS]
    rows = ordered(drawn)
    places, headings = heights(rows[:MAX_ROWS])
    drawn["y"] = drawn["map"].map(places)
    n_columns = min(N_COLUMNS, max(2, len(panels)))
    height = ROW * (len(places) + len(headings) + 1)
    figure, axes = grid(max(len(panels), 1), n_columns, height + 14, 16, sharex=True, sharey=True)
    names = [fit.attrs["data"] for fit in fits.values()]
    for place, (axis, (experiment, head, which)) in enumerate(zip(axes, panels)):
        fit = fits[experiment]
        own = drawn[
            (drawn["experiment"] == experiment)
            & (drawn["layer"] == fit["layer"].values[head[0]])
            & (drawn["head"] == fit["head"].values[head[1]])
            & drawn["y"].notna()
        ]
        look = palette.look_of(fit.attrs["data"], names)
        draw(axis, own, palette.marks(look, which.startswith("easiest")))
        words = (palette.network_words(fit), head_words(fit, head))
        lines = [fill(text, LETTERS) for text in words if text]
        lines.append(f"{which}, $m$ = {fit['n_features'].values[-1]}")
        name = palette.short_name(fit.attrs["data"]).replace(r"\$", "$")  # title escapes it
        palette.title(axis, name, "\n".join(lines))
        axis.tick_params(axis="y", length=0)
        if place + n_columns >= len(panels):
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("relative error of the output")
    ticks = {**headings, **places}
    axes[0].set_yticks([*ticks.values()], [*ticks])
    for label in axes[0].get_yticklabels():
        label.set_fontstyle("italic" if label.get_text() in headings else "normal")
    axes[0].set(xscale="log", xlim=LIMITS, ylim=(max(ticks.values(), default=0) + 0.7, -0.7))
    axes[0].set_xticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
    axes[0].xaxis.set_minor_locator(NullLocator())
    beyond(axes[0], of_all - len(panels), of_all, "lower right", "heads")
    beyond(axes[0], len(rows) - len(rows[:MAX_ROWS]), len(rows), "upper right", "maps")
    shown = [name for name in MARKS if drawn[name].between(*LIMITS).any()]
    legend(figure, [mark(MARKS[name][0], **MARKS[name][1]) for name in shown], ncols=4)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Root mean square errors of the output at the largest m, a row per experiment, map and head.

    Beside them: the bias (root of its square, NaN where the interval has 0), the limit of many
    neurons, the best constant gain, and equal attention.
    """
    kept: dict[str, tuple[str, ...]] = {
        "mean_square": ("", "_low", "_high"),
        "bias_squared": ("",),
        "constant_gain_mean_square": ("",),
    }
    largest = {}
    for experiment, fit in fits.items():
        fit = fit.isel(n_features=-1)
        unsure = ~(fit["bias_squared_low"] > 0)
        part = xr.Dataset(attrs=fit.attrs)
        for name, ends in kept.items():
            for end in ends:
                part[f"{name}{end}"] = np.sqrt(fit[f"{name}{end}"].clip(0))
        part["bias_squared"] = part["bias_squared"].where(~unsure)
        part["output_floor"] = fit["output_floor"]
        part["uniform_error"] = fit["uniform_error"].broadcast_like(fit["output_floor"])
        part["map"] = ("variant", words(fit))
        part["group"] = ("variant", [MAPS[name][0] for name in fit["feature_map"].values])
        chosen_heads = {head for name, head, _ in chosen({experiment: fit})}
        shown = np.zeros((fit.sizes["layer"], fit.sizes["head"]), dtype=bool)
        for head in chosen_heads:
            shown[head] = True
        largest[experiment] = part.where(xr.DataArray(shown, dims=("layer", "head")))
    names = ["mean_square", "bias_squared", "output_floor"]
    numbers = [*names, "constant_gain_mean_square", "uniform_error"]
    found = frame(largest, *numbers, "map", "group")
    return found.drop(columns=["recipe", "network", "threshold", "feature_map"]).rename(
        columns={
            "mean_square": "error",
            "mean_square_low": "error_low",
            "mean_square_high": "error_high",
            "bias_squared": "bias",
            "output_floor": "error_of_many_neurons",
            "constant_gain_mean_square": "error_with_best_constant",
            "uniform_error": "error_of_equal_attention",
        }
    )


def answer(fits: dict[str, xr.Dataset]) -> str:
    """The map of least error in each head, and how many err more than equal attention."""
    found, names = table(fits), dict(zip(fits, palette.row_names(fits)))
    sentences = []
    for experiment, head, _ in chosen(fits)[: palette.MAX_PANELS]:
        fit = fits[experiment]
        own = found[
            (found["experiment"] == experiment)
            & (found["layer"] == fit["layer"].values[head[0]])
            & (found["head"] == fit["head"].values[head[1]])
        ]
        own = own[np.isfinite(own["error"])]
        if own.empty:
            continue
        best = own.loc[own["error"].idxmin()]
        error = captions.interval(best["error"], best["error_low"], best["error_high"], short)
        n_worse = int((own["error"] > own["error_of_equal_attention"]).sum())
        n_biased = int((own["bias"] ** 2 > own["error"] ** 2 / 2).sum())
        sentences.append(
            f"{error} with {best['map']} ({names[experiment]}, {head_words(fit, head)}; equal "
            f"attention {short(best['error_of_equal_attention'])}; of {len(own)} activations "
            f"{n_worse} err more than it, and of {n_biased} bias is most of the squared error)"
        )
    if not sentences:
        return "No head has a finite error."
    return f"Least relative error of the output in each head: {'; '.join(sentences)}."


def short(x: float) -> str:
    """A number with two digits; a dash for NaN."""
    if x != x:
        return "–"
    return f"{x:.0f}" if 100 <= x < 1e4 else f"{x:.2g}"


def chosen(fits: dict[str, xr.Dataset]) -> Panels:
    """The easiest head of each experiment and the median one, by the least error of any map."""
    found: Panels = []
    for experiment, fit in fits.items():
        error = fit["mean_square"]
        error = error.isel(n_features=-1) if "n_features" in error.dims else error
        heads = heads_by(error.min("variant").values, fit.sizes["layer"] * fit.sizes["head"])
        middle = "hardest" if len(heads) == 2 else "median"
        places = {0: "easiest", len(heads) // 2: middle} | {0: "easiest"}
        found += [
            (experiment, heads[i], f"{which} of {len(heads)}")
            for i, which in places.items()
            if heads
        ]
    return found


def words(fit: xr.Dataset) -> list[str]:
    """Each variant in words: its map, with a ceiling or its name where that is not unique."""
    maps = fit["feature_map"].values.tolist()
    names = [
        f"exp., ceiling {ceiling:g}"
        if name == "truncated_performer" and maps.count(name) > 1
        else MAPS[name][1]
        for name, ceiling in zip(maps, fit["threshold"].values)
    ]
    return [
        name if names.count(name) == 1 else f"{name} ({palette.plain_text(str(variant)[:16])})"
        for name, variant in zip(names, fit["variant"].values)
    ]


def ordered(drawn: pd.DataFrame) -> list[tuple[str, str]]:
    """Group and words of all maps: by group, then by error over the median of their head's maps.

    The mean is over the heads in which a map was run, so that it does not count where it was not.
    """
    heads = drawn.groupby(["experiment", "layer", "head"])["error"]
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.log(drawn["error"] / heads.transform("median")).clip(-50, 50)
    means = relative.fillna(50).groupby([drawn["group"], drawn["map"]]).mean()
    return sorted(means.index, key=lambda row: ([*GROUPS].index(row[0]), means[row]))


def heights(rows: list[tuple[str, str]]) -> tuple[dict[str, float], dict[str, float]]:
    """Where maps stand, and the names of their groups above them."""
    places: dict[str, float] = {}
    headings: dict[str, float] = {}
    for group, name in rows:
        headings.setdefault(GROUPS[group], len(places) + len(headings))
        places[name] = len(places) + len(headings)
    return places, headings


def draw(axis: Axes, own: pd.DataFrame, look: dict) -> None:
    """Errors of one head with intervals, their bias and limit, and equal attention."""
    inside = own["error"].between(*LIMITS)
    estimates("error", "y", data=own[inside], axis=axis, across=True, zorder=3, **look)
    for value, y in own.loc[~inside & own["error"].notna(), ["error", "y"]].to_numpy():
        more = bool(value > LIMITS[1])
        text = short(value) if value < 1e4 else "more"
        axis.annotate(
            f"{text} ▸" if more else f"◂ {text}",
            (LIMITS[more], y),
            ha="right" if more else "left",
            va="center",
            fontsize=6.5,
            color=palette.KEY,
        )
    for name, (_, mark_look) in MARKS.items():
        part = own[own[name].between(*LIMITS)]
        colour = look["color"] if name == "bias" else mark_look["color"]
        axis.plot(part[name], part["y"], linestyle="", **mark_look | {"color": colour})
    for value in own["error_of_equal_attention"].dropna().unique()[:1]:
        axis.axvline(
            value,
            color=palette.GUIDE,
            linestyle="--",
            linewidth=0.8,
            label="equal attention",
            zorder=0,
        )
