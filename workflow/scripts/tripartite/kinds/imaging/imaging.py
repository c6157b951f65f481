"""Could a microscope see the normaliser in an astrocyte, and with how many trials?"""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import head_words, heads_by, interval, mark, points

MAX_HEADS = 4  # drawn, from easy to hard
ASTROCYTE = "#882255"
RIVAL = "#E69F00"
UNREACHED = 2.2  # times the trials that can be afforded: where unknown numbers of trials are drawn


def imaging(fits: dict[str, xr.Dataset]) -> Figure:
    """A recording, what explains it, and the trials that tell; per experiment, largest network.

    Means or numbers of trials with 95 % intervals over inputs and seeds.
    """
    palette.apply()
    figure = plt.figure(figsize=(palette.PAGE, 0.5 + 4.6 * len(fits)))
    parts = figure.subfigures(len(fits), 1, squeeze=False)[:, 0]
    for part, fit in zip(parts, fits.values()):
        heads = heads_by(-fit["r_squared"].sel(rival="normaliser").values[-1], MAX_HEADS)
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
            mark(signal_words(fit, place), palette.MARKERS[rank], color=palette.COLOURS[rank])
            for rank, place in enumerate(heads)
        ]
        if handles:
            size = fit["n_features"].values[-1]
            part.legend(
                handles=handles,
                loc="outside lower center",
                ncols=2,
                handletextpad=0.2,
                title=f"heads, $m$ = {size} (s.d. of the signal in ΔF/F, 95 % interval)",
            )
    unreached = "not reached: more trials than the dotted line, or the rival is likelier too often"
    handles = [
        mark("estimate (bars: 95 % over inputs and seeds)", color="0.35"),
        mark(unreached, color="0.35", fillstyle="none"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def signal_words(fit: xr.Dataset, place: tuple[int, int]) -> str:
    """What a head is called, and the standard deviation of its signal."""
    signal = interval(largest(fit, place), "signal_sd")
    middle, low, high = (palette.percent(float(x)) for x in signal)
    return f"{head_words(fit, place)} ({middle}, {low} to {high})"


def largest(fit: xr.Dataset, place: tuple[int, int]) -> xr.Dataset:
    """The largest network of the head at a place (layer, head)."""
    return fit.isel(n_features=-1, layer=place[0], head=place[1])


def draw_trace(axis, fit: xr.Dataset) -> None:
    """One trial, and what the normaliser and the mean rate predict."""
    seconds, noise = fit["trace_seconds"].values, fit["noise"].values
    middle = int(np.abs(np.log(noise)).argmin())  # nearest to the signal
    name = palette.plain_text(str(fit["trace_input"].values).replace("_", " "))
    place = palette.head_name(fit, fit["trace_layer"], fit["trace_head"])
    palette.title_of(
        axis,
        fit,
        f"a recording while “{name}” is read: {place}, $m$ = {fit['n_features'].values[-1]}, "
        f"noise {noise[middle]:g} × signal",
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
        values = fit[name].isel(noise=middle, missing_dims="ignore")
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
    for rank, place in enumerate(heads):
        network = largest(fit, place)
        ends = zip(interval(network, "r_squared"), interval(network, "partial"))
        shares = tuple(np.append(alone, beyond) for alone, beyond in ends)
        x = np.arange(len(names) + 1.0) + beside(rank, heads)
        draw_points(axis, x, shares, rank)
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
    for rank, place in enumerate(heads):
        x = noise * 10 ** (0.25 * beside(rank, heads))
        draw_counts(axis, fit, x, interval(largest(fit, place), "trials_needed"), rank)
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
    for rank, place in enumerate(heads):
        noisy = largest(fit, place).isel(rival=slice(1, None), noise=-1)
        x = np.arange(len(names)) + beside(rank, heads)
        draw_counts(axis, fit, x, interval(noisy, "trials_to_discriminate"), rank)
    categories(axis, names)
    afforded(axis, fit)


def draw_counts(axis, fit: xr.Dataset, x: np.ndarray, triple: tuple, rank: int) -> None:
    """Numbers of trials, and open marks above where there is none."""
    top = UNREACHED * float(fit["most_trials"])
    middle, low, high = triple
    draw_points(axis, x, (middle, low, np.minimum(high, top * 2)), rank)
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


def draw_points(axis, x: np.ndarray, triple: tuple, rank: int) -> None:
    """Estimates of a head with their intervals."""
    points(axis, x, triple, palette.COLOURS[rank], palette.MARKERS[rank], zorder=3)


def beside(rank: int, heads: list) -> float:
    """Place of a head beside others, in categories."""
    return 0.17 * (rank - (len(heads) - 1) / 2)


def categories(axis, names: list[str]) -> None:
    """Names of categories below an axis."""
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.tick_params(axis="x", length=0)


def afforded(axis, fit: xr.Dataset) -> None:
    """A logarithmic axis from one trial to a line at those that can be afforded, and room above."""
    most = int(fit["most_trials"])
    axis.set_yscale("log")
    axis.set_ylim(0.8, UNREACHED**2 * most)
    axis.axhline(most, color="0.35", linewidth=0.6, linestyle=":", zorder=0)
