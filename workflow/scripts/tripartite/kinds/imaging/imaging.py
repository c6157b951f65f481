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
ROOM = 6.0  # times the trials that can be afforded: the end of the axis
DESIGN_WORDS = {
    "beside signals": "test beside signals",
    "beside contacts": "beside rival contacts too",
    "two contexts": "difference of two contexts",
}


def imaging(fits: dict[str, xr.Dataset]) -> Figure:
    """A recording, what explains it, the trials of each design, and what passes for the normaliser.

    Means or numbers of trials with 95 % intervals over inputs and seeds; largest network filled,
    smallest open.
    """
    palette.apply()
    figure = plt.figure(figsize=(palette.PAGE, 0.6 + 5.2 * len(fits)))
    parts = figure.subfigures(len(fits), 1, squeeze=False)[:, 0]
    for part, fit in zip(parts, fits.values()):
        heads = heads_by(-fit["r_squared"].sel(rival="normaliser").values[-1], MAX_HEADS)
        designs = [str(name) for name in fit["design"].values]
        axes = part.subplot_mosaic(
            [
                ["trace"] * 4,
                [f"trials {name}" for name in designs] + ["shares"],
                [f"found {name}" for name in designs] + ["rivals"],
            ],
            height_ratios=[0.7, 1, 1],
            width_ratios=[1, 1, 1, 1.35],
        )
        draw_trace(axes["trace"], fit)
        for name in designs:
            draw_trials(axes[f"trials {name}"], fit, heads, name)
            draw_found(axes[f"found {name}"], fit, heads, name)
            if name != designs[0]:
                for axis in (axes[f"trials {name}"], axes[f"found {name}"]):
                    axis.set_ylabel("")
                    axis.tick_params(axis="y", labelleft=False)
        draw_shares(axes["shares"], fit, heads)
        draw_rivals(axes["rivals"], fit, heads)
        handles = [
            mark(signal_words(fit, place), palette.MARKERS[rank], color=palette.COLOURS[rank])
            for rank, place in enumerate(heads)
        ]
        if handles:
            title = "heads (s.d. of the signal in ΔF/F of the largest network, 95 % interval)"
            part.legend(
                handles=handles,
                loc="outside lower center",
                ncols=2,
                handletextpad=0.2,
                title=title,
            )
    figure.legend(handles=looks(fits), loc="outside lower center", ncols=2)
    return figure


def looks(fits: dict[str, xr.Dataset]) -> list:
    """What fillings, arrows and hatching mean."""
    sizes = {tuple(int(m) for m in fit["n_features"].values[[0, -1]]) for fit in fits.values()}
    small, large = sizes.pop() if len(sizes) == 1 else ("smallest", "largest")
    handles = [mark(f"$m$ = {large} (bars: 95 % over inputs and seeds)", color="0.35")]
    if small != large:
        handles.append(mark(f"$m$ = {small}", color="0.35", fillstyle="none"))
    handles += [
        mark("beyond the trials that can be afforded, or its interval is", "^", color="0.35"),
        mark("simulated frame by frame", "_", color="0.35", markersize=6),
    ]
    return handles


def signal_words(fit: xr.Dataset, place: tuple[int, int]) -> str:
    """What a head is called, and the standard deviation of its signal."""
    signal = interval(largest(fit, place), "signal_sd")
    middle, low, high = (palette.percent(float(x)) for x in signal)
    return f"{head_words(fit, place)} ({middle}, {low} to {high})"


def largest(fit: xr.Dataset, place: tuple[int, int]) -> xr.Dataset:
    """The largest network of the head at a place (layer, head)."""
    return fit.isel(n_features=-1, layer=place[0], head=place[1])


def draw_trace(axis, fit: xr.Dataset) -> None:
    """One trial, and what the normaliser and contacts of another input predict."""
    seconds, noise = fit["trace_seconds"].values, fit["noise"].values
    middle = middle_noise(fit)
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
            "contacts of another input predict",
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
    axis.set_title("variance explained, no noise\n(each alone; right: beyond all)", loc="left")
    axis.set_ylim(0, 1.02)
    for rank, place in enumerate(heads):
        network = largest(fit, place)
        ends = zip(interval(network, "r_squared"), interval(network, "partial"))
        shares = tuple(np.append(alone, beyond) for alone, beyond in ends)
        x = np.arange(len(names) + 1.0) + beside(rank, heads)
        draw_points(axis, x, shares, rank)
    axis.axvline(len(names) - 0.5, color="0.75", linewidth=0.6)
    categories(axis, [*names, "normaliser beyond"])


def draw_trials(axis, fit: xr.Dataset, heads: list, design: str) -> None:
    """Trials of a design against noise."""
    axis.set_title(f"{DESIGN_WORDS[design]}:\ntrials for 80 % power", loc="left")
    axis.set(xlabel="noise of a frame / signal (s.d.)", ylabel="trials", xscale="log")
    noise = fit["noise"].values
    for size, look in networks(fit):
        for rank, place in enumerate(heads):
            shift = beside(rank, heads) + (0.06 if size else -0.06)
            of_head = fit.isel(n_features=size, layer=place[0], head=place[1]).sel(design=design)
            x = noise * 10 ** (0.8 * shift)
            draw_counts(axis, fit, x, interval(of_head, "trials_needed"), rank, look)
    axis.set_xlim(noise.min() / 1.8, noise.max() * 1.8)
    axis.set_xticks(noise, [f"{x:g}" for x in noise])
    axis.minorticks_off()
    afforded(axis, fit)


def draw_found(axis, fit: xr.Dataset, heads: list, design: str) -> None:
    """Shares of experiments that find the normaliser, by what the contacts hold."""
    names = [str(name) for name in fit["astrocyte"].values]
    middle = middle_noise(fit)
    axis.set_title(
        f"found in as many trials, if\ncontacts are (noise {fit['noise'].values[middle]:g}):",
        loc="left",
    )
    axis.set(ylabel="share of experiments", ylim=(-0.02, 1.04))
    for level in (0.025, 0.8):
        axis.axhline(level, color="0.35", linewidth=0.6, linestyle=":", zorder=0)
    for size, look in networks(fit):
        for rank, place in enumerate(heads):
            of_head = fit.isel(n_features=size, noise=middle, layer=place[0], head=place[1])
            of_head = of_head.sel(design=design)
            x = np.arange(len(names)) + beside(rank, heads) + (0.06 if size else -0.06)
            draw_points(axis, x, interval(of_head, "share_found"), rank, **look)
            simulated = of_head["share_simulated"].values
            axis.plot(x, simulated, "_", color=palette.COLOURS[rank], markersize=6)
    axis.axvline(0.5, color="0.75", linewidth=0.6)
    categories(axis, [name.removesuffix(" contacts") for name in names])


def draw_rivals(axis, fit: xr.Dataset, heads: list) -> None:
    """Trials to tell the normaliser from each rival, at the same noise."""
    names = [str(name) for name in fit["rival"].values[1:]]
    middle = middle_noise(fit)
    axis.set_title(
        f"trials until $Z$ fits better\nthan one rival (noise {fit['noise'].values[middle]:g})",
        loc="left",
    )
    for rank, place in enumerate(heads):
        of_head = largest(fit, place).isel(rival=slice(1, None), noise=middle)
        x = np.arange(len(names)) + beside(rank, heads)
        draw_counts(axis, fit, x, interval(of_head, "trials_to_discriminate"), rank, {})
    categories(axis, names)
    afforded(axis, fit)


def middle_noise(fit: xr.Dataset) -> int:
    """Place of the noise that is nearest to the signal."""
    return int(np.abs(np.log(fit["noise"].values)).argmin())


def networks(fit: xr.Dataset) -> list[tuple[int, dict]]:
    """Places of the smallest and the largest network, and how their marks look."""
    last = fit.sizes["n_features"] - 1
    open_marks = {"fillstyle": "none", "markeredgewidth": 0.7}
    return [(0, open_marks), (last, {})] if last else [(0, {})]


def draw_counts(axis, fit: xr.Dataset, x: np.ndarray, triple: tuple, rank: int, look: dict) -> None:
    """Numbers of trials; arrows from the lower end of the interval up, where there is none."""
    top = np.sqrt(ROOM) * float(fit["most_trials"])
    middle, low, _ = triple
    draw_points(axis, x, triple, rank, **look)
    none = np.isnan(middle)
    colour = palette.COLOURS[rank]
    axis.vlines(x[none], low[none], np.full(none.sum(), top), color=colour, linewidth=0.8)
    look = {"markeredgewidth": 0.7} | look
    axis.plot(x[none], np.full(none.sum(), top), "^", color=colour, markersize=3.5, **look)


def draw_points(axis, x: np.ndarray, triple: tuple, rank: int, **look) -> None:
    """Estimates of a head with their intervals."""
    points(axis, x, triple, palette.COLOURS[rank], palette.MARKERS[rank], zorder=3, **look)


def beside(rank: int, heads: list) -> float:
    """Place of a head beside others, in categories."""
    return 0.24 * (rank - (len(heads) - 1) / 2) * min(1, 3 / max(1, len(heads)))


def categories(axis, names: list[str]) -> None:
    """Names of categories below an axis."""
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.tick_params(axis="x", length=0)


def afforded(axis, fit: xr.Dataset) -> None:
    """A logarithmic axis from one trial on, hatched beyond those that can be afforded."""
    most = int(fit["most_trials"])
    axis.set_yscale("log")
    axis.set_ylim(0.8, ROOM * most)
    axis.axhspan(most, ROOM * most, facecolor="none", edgecolor="0.85", hatch="////", linewidth=0)
    axis.axhline(most, color="0.6", linewidth=0.6, zorder=0)
