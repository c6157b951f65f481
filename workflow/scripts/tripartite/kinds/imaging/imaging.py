"""Could a microscope see the normaliser in an astrocyte, and with how many trials?"""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette

HEADS = 4  # drawn, from easy to hard
ASTROCYTE = "#882255"
RIVAL = "#E69F00"
UNREACHED = (
    2.2  # where numbers of trials are drawn that are not known, times those that can be afforded
)


def imaging(fits: dict[str, xr.Dataset]) -> Figure:
    """A recording, what explains it, and the trials that tell; per experiment, largest network.

    Means or numbers of trials with 95 % intervals over inputs and seeds.
    """
    palette.apply()
    figure = plt.figure(figsize=(palette.PAGE, 0.5 + 4.6 * len(fits)))
    parts = figure.subfigures(len(fits), 1, squeeze=False)[:, 0]
    for part, fit in zip(parts, fits.values()):
        heads = chosen(fit)
        axes = part.subplot_mosaic(
            [["trace"] * 3, ["share", "noise", "rival"]],
            height_ratios=[0.75, 1],
            width_ratios=[1.15, 1, 1],
        )
        draw_trace(axes["trace"], fit)
        draw_shares(axes["share"], fit, heads)
        draw_trials(axes["noise"], fit, heads)
        draw_rivals(axes["rival"], fit, heads)
        handles = [
            plt.Line2D(
                [],
                [],
                color=palette.COLOURS[rank],
                marker=palette.MARKERS[rank],
                markersize=3,
                linestyle="",
                label=words_of(fit, at),
            )
            for rank, at in enumerate(heads)
        ]
        if handles:
            part.legend(
                handles=handles,
                loc="outside lower center",
                ncols=2,
                handletextpad=0.2,
                title=f"heads, $m$ = {fit['n_features'].values[-1]} (s.d. of the signal in ΔF/F, 95 % interval)",
            )
    grey = {"color": "0.35", "markersize": 3, "marker": "o", "linestyle": ""}
    handles = [
        plt.Line2D([], [], **grey, label="estimate (bars: 95 % over inputs and seeds)"),
        plt.Line2D(
            [],
            [],
            **grey,
            fillstyle="none",
            label="not reached: more trials than the dotted line, or "
            "the rival is likelier too often",
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def chosen(fit: xr.Dataset) -> list[tuple[int, int]]:
    """Places (layer, head) of the heads that are drawn, from what the normaliser explains best."""
    share = fit["r_squared"].sel(rival="normaliser").values[-1]
    run = [tuple(int(x) for x in at) for at in np.argwhere(np.isfinite(share))]
    run.sort(key=lambda at: (-share[at], at))
    if len(run) > HEADS:
        run = [run[i] for i in np.linspace(0, len(run) - 1, HEADS).round().astype(int)]
    return run


def words_of(fit: xr.Dataset, at: tuple[int, int]) -> str:
    middle, low, high = (palette.percent(x) for x in ends(largest(fit, at), "signal_sd"))
    place = palette.head_name(fit, fit["layer"][at[0]], fit["head"][at[1]])
    return f"{place} ({middle}, {low} to {high})"


def largest(fit: xr.Dataset, at: tuple[int, int]) -> xr.Dataset:
    return fit.isel(n_features=-1, layer=at[0], head=at[1])


def ends(one: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(one[name + end].values for end in ("", "_low", "_high"))


def draw_trace(axis, fit: xr.Dataset) -> None:
    """One trial, and what the normaliser and the mean rate predict."""
    seconds, noise = fit["trace_seconds"].values, fit["noise"].values
    point = int(np.abs(np.log(noise)).argmin())
    name = palette.plain_text(str(fit["trace_input"].values).replace("_", " "))
    place = palette.head_name(fit, fit["trace_layer"], fit["trace_head"])
    palette.title_of(
        axis,
        fit,
        f"a recording while “{name}” is read: {place}, $m$ = {fit['n_features'].values[-1]}, "
        f"noise {noise[point]:g} × signal",
    )
    for name, label, style in (
        ("trace_fluorescence", "one trial", {"color": "0.8", "linewidth": 0.5}),
        ("trace_clean", "without noise", {"color": ASTROCYTE, "linewidth": 1.3}),
        (
            "trace_normalizer",
            "exact normaliser $Z$ predicts",
            {"color": palette.EXACT, "linewidth": 0.8},
        ),
        (
            "trace_rival",
            "mean rate predicts",
            {"color": RIVAL, "linewidth": 0.8, "linestyle": "--"},
        ),
    ):
        values = fit[name].isel(point=point) if "point" in fit[name].dims else fit[name]
        axis.plot(seconds, values, label=label, **style)
    axis.set(xlabel="time (s)", ylabel="ΔF/F")
    axis.margins(x=0)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 0.98), ncols=4, borderpad=0, handlelength=1.5)
    axis.set_title(axis.get_title(loc="left"), loc="left", pad=17)
    axis.texts[0].xyann = (0, axis.texts[0].xyann[1] + 11)  # above the legend


def draw_shares(axis, fit: xr.Dataset, heads: list) -> None:
    """Variance explained by each alone, and by the normaliser beyond all."""
    names = [str(name) for name in fit["rival"].values]
    axis.set_title(
        "what explains it, without noise\n(each alone; right: beyond all rivals)", loc="left"
    )
    axis.set(ylabel="share of variance explained", ylim=(0, 1.02))
    for rank, at in enumerate(heads):
        one = largest(fit, at)
        triple = [np.append(x, y) for x, y in zip(ends(one, "r_squared"), ends(one, "partial"))]
        draw_bars(axis, np.arange(len(names) + 1.0) + beside(rank, heads), triple, rank)
    axis.axvline(len(names) - 0.5, color="0.75", linewidth=0.6)
    categories(axis, [*names, "normaliser beyond"])


def draw_trials(axis, fit: xr.Dataset, heads: list) -> None:
    """Trials against noise, of a test beside all rivals."""
    powers = fit["power_simulated"].isel(n_features=-1).values
    powers = powers[np.isfinite(powers)]
    simulated = ""
    if len(powers):
        simulated = f"\n(simulated: {100 * powers.min():.0f} to {100 * powers.max():.0f} %)"
    axis.set_title(f"test beside all rivals, 80 % power{simulated}", loc="left")
    axis.set(xlabel="noise of a frame / signal (s.d.)", ylabel="trials", xscale="log")
    noise = fit["noise"].values
    for rank, at in enumerate(heads):
        x = noise * 10 ** (0.25 * beside(rank, heads))
        draw_counts(axis, fit, x, ends(largest(fit, at), "trials_needed"), rank)
    axis.set_xlim(noise.min() / 1.6, noise.max() * 1.6)
    axis.set_xticks(noise, [f"{x:g}" for x in noise])
    axis.minorticks_off()
    afforded(axis, fit)


def draw_rivals(axis, fit: xr.Dataset, heads: list) -> None:
    """Trials to tell the normaliser from each rival, at the largest noise."""
    names = [str(name) for name in fit["rival"].values[1:]]
    axis.set_title(
        f"likelier than one rival, 80 % right\n(noise {fit['noise'].values[-1]:g} × signal)",
        loc="left",
    )
    axis.set_ylabel("trials")
    for rank, at in enumerate(heads):
        one = largest(fit, at).isel(rival=slice(1, None), point=-1)
        x = np.arange(len(names)) + beside(rank, heads)
        draw_counts(axis, fit, x, ends(one, "trials_to_discriminate"), rank)
    categories(axis, names)
    afforded(axis, fit)


def draw_counts(axis, fit: xr.Dataset, x: np.ndarray, triple: tuple, rank: int) -> None:
    """Numbers of trials, and open marks above where there is none."""
    top = UNREACHED * float(fit["most_trials"])
    middle, low, high = triple
    draw_bars(axis, x, (middle, low, np.minimum(high, top * 2)), rank)
    none = np.isnan(middle)
    axis.plot(
        x[none],
        np.full(none.sum(), top),
        palette.MARKERS[rank],
        color=palette.COLOURS[rank],
        markersize=3,
        fillstyle="none",
        markeredgewidth=0.7,
    )


def draw_bars(axis, x: np.ndarray, triple: tuple, rank: int) -> None:
    middle, low, high = triple
    sizes = np.nan_to_num([middle - low, high - middle]).clip(0)
    axis.errorbar(
        x,
        middle,
        sizes,
        fmt=palette.MARKERS[rank],
        color=palette.COLOURS[rank],
        markersize=3,
        elinewidth=0.8,
        zorder=3,
    )


def beside(rank: int, heads: list) -> float:
    """Place of a head beside others, in categories."""
    return 0.17 * (rank - (len(heads) - 1) / 2)


def categories(axis, names: list[str]) -> None:
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.tick_params(axis="x", length=0)


def afforded(axis, fit: xr.Dataset) -> None:
    """A logarithmic axis from one trial to a line at those that can be afforded, and room above."""
    most = int(fit["most_trials"])
    axis.set_yscale("log")
    axis.set_ylim(0.8, UNREACHED**2 * most)
    axis.axhline(most, color="0.35", linewidth=0.6, linestyle=":", zorder=0)
