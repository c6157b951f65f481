"""Where networks are among the phases of the estimate, and what holds there."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtr

from tripartite.figures import captions, palette
from tripartite.figures.panels import beyond, estimates, frame, legend, spread

MAX_EXPERIMENTS = 9  # with rows of their own
MAX_SIZES = 3  # of an experiment
MAX_CLOUD, MAX_ROW = 500, 50  # networks of a panel, and heads in a row; more are drawn as pixels
SIGMA_SQUARED = (0.1, 200.0)  # at most
REACH = (-6.5, 4.5)
RATIO = (1e-4, 2.0)
EXPONENT = (-0.62, 0.12)
NAMES = {"gaussian": "Gaussian", "anomalous": "anomalous", "frozen": "frozen"}
SHADES: dict[str, dict[str, Any]] = {  # behind everything
    "gaussian": {"color": "white"},
    "anomalous": {"color": palette.SHADE},
    "frozen": {"color": palette.GUIDE, "alpha": 0.5},
}


def phase_diagram(fits: dict[str, xr.Dataset]) -> Figure:
    """Networks among the phases, p / Z of all of them, and exponents inside a phase.

    A row of the first panel is an experiment at one m; each point is a head at its sigma^2 = ln R
    (median over queries).
    """
    palette.apply()
    drawn = table(fits)
    networks = drawn[drawn["quantity"] == "p/Z"]
    names = [fit.attrs["data"] for fit in fits.values()]
    figure = plt.figure(figsize=(palette.PAGE, 182 * palette.MM))
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(118, 54))[:, 0]
    left, right = upper.subfigures(1, 2, squeeze=False, width_ratios=(1.55, 1))[0]
    draw_map(left.subplots(), fits, networks, names)
    groups = [part for _, part in networks.groupby("plain weights", sort=False)]
    panels = right.subplots(max(len(groups), 1), sharex=True, squeeze=False)[:, 0]
    for axis, part in zip(panels, groups):
        draw_collapse(axis, part, names)
    panels[-1].set_xlabel("$b_m - \\sigma$")
    shifts, exponents = lower.subplots(1, 2)
    draw_shifts(shifts, drawn[drawn["quantity"] == "shift"], names)
    draw_exponents(exponents, drawn[drawn["quantity"] == "exponent"], names)
    legend(figure, ncols=6)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """p / Z of networks, shifts of experiments and exponents of heads, in column `value`."""
    parts = {
        "p/Z": frame(fits, "normalizer_ratio", "sigma_squared", "reach", "phase_of"),
        "shift": frame(fits, "collapse_shift"),
        "exponent": frame(fits, "exponent", "sigma_squared"),
    }
    value = {"p/Z": "normalizer_ratio", "shift": "collapse_shift", "exponent": "exponent"}
    found = [
        part.rename(columns={f"{value[name]}{end}": f"value{end}" for end in ("", "_low", "_high")})
        .assign(quantity=name)
        .dropna(subset="value")
        for name, part in parts.items()
    ]
    drawn = pd.concat(found, ignore_index=True)
    plain = {name: has_plain_weights(fit) for name, fit in fits.items()}
    drawn["plain weights"] = drawn["experiment"].map(plain)
    without_meaning = ~drawn["plain weights"] & drawn["phase"].isin(["anomalous", "frozen"])
    return drawn[~without_meaning].reset_index(drop=True)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """How many heads are in each phase with the most neurons, and how errors fall there."""
    plain, fitted = [], []
    for fit in fits.values():
        heads = fit["heads_in_phase"].isel(n_features=-1)
        n = [int(heads.sel(phase=phase)) for phase in NAMES]
        if sum(n):
            name = f"{row_name(fit)}, m = {int(fit['n_features'][-1])}"
            if has_plain_weights(fit):
                plain.append(f"{', '.join(map(str, n))} ({name})")
            else:
                fitted.append(f"{n[0]} of {sum(n)} ({name})")
    falls = []
    for phase in NAMES:
        known = [
            fit.sel(phase=phase)
            for fit in fits.values()
            if np.isfinite(fit["phase_exponent"].sel(phase=phase))
            and fit["phase_heads"].sel(phase=phase) > 0
            and (phase == "gaussian" or has_plain_weights(fit))
        ]
        if known:
            most = max(known, key=lambda fit: int(fit["phase_heads"]))
            ends = (float(most[f"phase_exponent{end}"]) for end in ("", "_low", "_high"))
            n_heads = int(most["phase_heads"])
            falls.append(
                f"m^{captions.interval(*ends)} in the {NAMES[phase]} phase "
                f"({n_heads} head{'s' * (n_heads != 1)}, {row_name(most)})"
            )
    words = []
    if plain:
        words.append(f"Heads that are Gaussian, anomalous and frozen: {'; '.join(plain)}.")
    if fitted:
        words.append(f"Heads with fitted weights that are Gaussian: {'; '.join(fitted)}.")
    if falls:
        words.append(f"Inside a phase typical errors change as {', '.join(falls)}.")
    return " ".join(words or ["No phase of a network is known."]).replace("\\$", "$")


def has_plain_weights(fit: xr.Dataset) -> bool:
    """Whether all borders of phases hold: those of log-normal rates."""
    return fit.attrs.get("feature_map", "performer") == "performer"


def row_name(fit: xr.Dataset) -> str:
    """A model and its recipe."""
    data = palette.short_name(fit.attrs["data"])
    return data if data == "random heads" else f"{data}, {palette.recipe_of(fit)}"


def draw_map(
    axis: Axes, fits: dict[str, xr.Dataset], networks: pd.DataFrame, names: list[str]
) -> None:
    """sigma^2 of heads in rows of experiments and m, with the phases of each row behind them."""
    row, off = 0.0, 0
    ticks: dict[float, str] = {}
    known = networks[np.isfinite(networks["sigma_squared"])]
    limits = limits_of(known["sigma_squared"])
    for experiment, of_fit in [*known.groupby("experiment", sort=False)][:MAX_EXPERIMENTS]:
        fit = fits[str(experiment)]
        look = palette.marks(palette.look_of(fit.attrs["data"], names))
        sizes = spread(sorted(of_fit["n_features"].unique()), MAX_SIZES)
        axis.annotate(
            row_name(fit).replace(", ", ",\n"),
            (0, row + (len(sizes) - 1) / 2),
            xycoords=("axes fraction", "data"),
            xytext=(-24, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            annotation_clip=False,
        )
        for m in sizes:
            one = of_fit[of_fit["n_features"] == m]
            shade(axis, row, np.log(m), limits, bool(one["plain weights"].iloc[0]))
            axis.plot(
                one["sigma_squared"],
                np.full(len(one), row),
                linestyle="",
                rasterized=len(known) > MAX_CLOUD,
                **look | {"markersize": 3, "markeredgewidth": 0.5},
            )
            off += int(
                ((one["sigma_squared"] < limits[0]) | (one["sigma_squared"] > limits[1])).sum()
            )
            ticks[row] = palette.power(np.log10(m))
            row += 1
        row += 0.6
    for phase, (low, high) in borders(np.log(m), limits).items() if row else ():
        if high > 1.8 * low:
            place = float(np.sqrt(low * high))
            axis.annotate(NAMES[phase], (place, -0.75), weight="bold", ha="center", va="bottom")
    axis.set(xscale="log", xlim=limits, ylim=(row - 1 if row else 1, -1.9))
    axis.set_yticks([*ticks], [*ticks.values()])
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("$\\sigma^2 = \\ln R$ of a head (median query)")
    n = known["experiment"].nunique()
    more = f"; {off} marks beyond" * bool(off)
    more += f"; {MAX_EXPERIMENTS} of {n} experiments" * (n > MAX_EXPERIMENTS)
    palette.title(axis, "Heads among the phases", f"rows: hidden neurons $m${more}")


def limits_of(sigma_squared: pd.Series) -> tuple[float, float]:
    """Ends of the axis of sigma^2, around what is known and inside SIGMA_SQUARED."""
    known = sigma_squared[sigma_squared > 0].clip(*SIGMA_SQUARED)
    if known.empty:
        return SIGMA_SQUARED
    return float(known.min() / 1.3), float(min(known.max() * 1.3, SIGMA_SQUARED[1]))


def borders(log_m: float, limits: tuple[float, float]) -> dict[str, tuple[float, float]]:
    """Lower and upper sigma^2 of each phase at exp(log_m) neurons, inside limits."""
    edges = np.clip([limits[0], log_m / 2, 2 * log_m, limits[1]], *limits)
    return {phase: (edges[i], edges[i + 1]) for i, phase in enumerate(NAMES)}


def shade(
    axis: Axes, row: float, log_m: float, limits: tuple[float, float], frozen: bool = True
) -> None:
    """Phases behind a row; frozen: whether the border of the frozen phase has a meaning there."""
    for phase, (low, high) in borders(log_m, limits).items():
        look = SHADES["anomalous" if phase == "frozen" and not frozen else phase]
        axis.barh(row, high - low, left=low, height=1, linewidth=0, zorder=0, **look)


def draw_collapse(axis: Axes, part: pd.DataFrame, names: list[str]) -> None:
    """p / Z of all networks against b_m - sigma, with the shape by the random-energy model."""
    for data, one in part.groupby("data", sort=False):
        axis.plot(
            one["reach"],
            one["value"].where(one["value"] > 0),
            linestyle="",
            rasterized=len(part) > MAX_CLOUD,
            label=palette.short_name(str(data)),
            **palette.marks(palette.look_of(str(data), names))
            | {"markersize": 3, "markeredgewidth": 0.5},
        )
    x = np.linspace(*REACH, 200)
    axis.plot(x, ndtr(x), color=palette.EXACT, label="shape by the random-energy model", zorder=3)
    axis.set(xlim=REACH, yscale="log", ylim=RATIO, ylabel="$p / Z$ (median)")
    inside = part["reach"].between(*REACH) & part["value"].between(*RATIO)
    beyond(axis, int((~inside).sum()), len(part), "upper left", "\nnetworks")
    plain = bool(part["plain weights"].iloc[0])
    words = "plain" if plain else "fitted" if (part["recipe"] == "fitted").all() else "other"
    palette.title(axis, "Response over normaliser", f"{words} hidden weights")


def draw_shifts(axis: Axes, shifts: pd.DataFrame, names: list[str]) -> None:
    """By how much the curve has to move to fit the networks of an experiment."""
    shown = shifts[:MAX_EXPERIMENTS]
    for row, (_, one) in enumerate(shown.iterrows()):
        look = palette.marks(palette.look_of(one["data"], names))
        estimates(
            "value", "row", data=one.to_frame().T.assign(row=row), axis=axis, across=True, **look
        )
    axis.axvline(0, color=palette.EXACT, linewidth=0.7)
    labels = [
        short if short == "random heads" else f"{short}, {recipe}"
        for short, recipe in zip(map(palette.short_name, shown["data"]), shown["recipe"])
    ]
    axis.set_yticks(range(len(shown)), labels)
    axis.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("shift $s$ in $\\Phi(b_m - \\sigma + s)$")
    more = f"; {len(shown)} of {len(shifts)} experiments" * (len(shown) < len(shifts))
    palette.title(axis, "Shift of the curve that fits", f"outside of the Gaussian phase{more}")


def draw_exponents(axis: Axes, exponents: pd.DataFrame, names: list[str]) -> None:
    """Exponents of heads in a row for each phase, by sigma^2 from above."""
    axis.plot([-0.5, -0.5], [-0.5, 0.5], color=palette.EXACT, linewidth=0.7)
    axis.axvline(0, color=palette.GUIDE, linewidth=0.6, linestyle="--")
    for row, phase in enumerate(NAMES):
        axis.axhspan(row - 0.5, row + 0.5, linewidth=0, zorder=0, **SHADES[phase])
        of_phase = exponents[exponents["phase"] == phase].sort_values(
            "sigma_squared", kind="stable"
        )
        places = row + np.linspace(-0.42, 0.42, len(of_phase)) * (len(of_phase) > 1)
        of_phase = of_phase.assign(place=places)
        for data, one in of_phase.groupby("data", sort=False):
            look = palette.marks(palette.look_of(str(data), names))
            look |= {"markersize": 3, "markeredgewidth": 0.5, "elinewidth": 0.5}
            many = len(of_phase) > MAX_ROW
            estimates("value", "place", data=one, axis=axis, across=True, rasterized=many, **look)
    axis.set(xlim=EXPONENT, ylim=(len(NAMES) - 0.5, -0.5))
    axis.set_yticks(range(len(NAMES)), NAMES.values())
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("exponent $b$")
    off = ~exponents["value"].between(*EXPONENT)
    beyond(axis, int(off.sum()), len(exponents), "upper right", "heads")
    palette.title(axis, "How errors fall inside a phase", "typical error $\\propto m^b$")
