"""How long must a token be read, so that the astrocyte can follow?"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from tripartite.figures import captions, palette
from tripartite.figures.panels import (
    HeadMarks,
    frame,
    grid,
    heads_run,
    legend_of_heads,
    marked_heads,
    rows_of,
    rows_of_heads,
)

MAX_HEADS = 12
# ASSUME: a word is spoken in .2 to .35 s: 170 to 300 words a minute.
SPOKEN_WORD = (0.2, 0.35)  # s
FEW_NEURONS = "error from lag at most that of few neurons"


def calcium_speed(fits: dict[str, xr.Dataset]) -> Figure:
    """Seconds per token that each head needs, by calcium models and measured transients in rows.

    A panel for each criterion: two relative output errors that the lag alone makes, and as much
    squared error as the random neurons make.
    """
    palette.apply()
    shown, names, heads = table(fits), _rows(fits), _heads(fits)
    criteria = list(_titles(fits))
    row_mm = len(names) * max(8.0, 1.5 * len(heads))
    figure, axes = grid(len(criteria), len(criteria), row_mm, 38, sharex=True, sharey=True)
    for axis, criterion in zip(axes, criteria):
        own = shown[shown["criterion"] == criterion]
        axis.axvspan(*SPOKEN_WORD, color=palette.SHADE, linewidth=0, zorder=0)
        rows_of_heads(axis, own, "seconds", "model", names, heads)
        by_head = own.groupby(["experiment", "layer", "head"])[["seconds", "always"]].max()
        n_always, n_known = int(by_head["always"].sum()), int(by_head["seconds"].notna().sum())
        words = f"\n{n_always} of {len(heads)} heads: at any time" if n_always else ""
        unknown = len(heads) - n_known - n_always
        words += f"\n{unknown} of {len(heads)} heads: not known" if unknown else ""
        axis.set_title(f"{_titles(fits)[criterion]}{words}", loc="left")
        axis.set_xlabel("reading time per token (s)")
    axes[0].set(xscale="log", xlim=_limits(shown["seconds"].values))
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    low, high = SPOKEN_WORD
    zone = Patch(color=palette.SHADE, label=f"a spoken word, {low:g} to {high:g} s")
    n_heads = sum(len(heads_run(fit["sd_log_normalizer"])) for fit in fits.values())
    legend_of_heads(figure, heads, n_heads, [zone])
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Seconds per token of each head that is drawn, with the sd of ln Z, which sorts heads."""
    return rows_of(_heads(fits), _all(fits))


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Which processes are in time within a spoken word, and what calcium models need."""
    drawn, first = _all(fits), next(iter(fits.values()))
    drawn = drawn[drawn["seconds"].notna() | drawn["always"]]
    tolerance = float(first["lag_error"][0])
    criterion = _criterion(tolerance)
    own, few = (drawn[drawn["criterion"] == name] for name in (criterion, FEW_NEURONS))
    if own.empty:
        return "No head has a known time in which its lag falls to the errors asked for."
    limit, in_time = SPOKEN_WORD[1], []
    for name, words in _rows(fits).items():  # fast to slow
        rows = own[own["model"] == name]
        if n := int(((rows["seconds"] <= limit) | rows["always"]).sum()):
            what, tau = words.splitlines()
            what = what[:1].lower() + what[1:] if "measured" in what else what
            in_time.append(f"{n} of {len(rows)} heads at {tau} ({what})")
    rest = ["and in none with any other process" if in_time else "no head with any process"]
    rest *= len(in_time) < len(_rows(fits))
    sentences = [
        f"Within {limit:g} s, a spoken word, the lag makes an error of at most "
        f"{palette.percent(tolerance)} of the output in {', '.join([*in_time, *rest])}."
    ]
    models = [str(x) for x in first["model"].values[first["calcium_model"].values != ""]]
    for rows, what in (
        (own, f"per token for {palette.percent(tolerance)}"),
        (few, f"until their lag adds no more error than a network of {_sizes(fits)} has"),
    ):
        rows = rows[rows["model"].isin(models)].dropna(subset="seconds").sort_values("seconds")
        if len(rows):
            ends = [
                captions.interval(x.seconds, x.seconds_low, x.seconds_high, _seconds)
                for x in (rows.iloc[0], rows.iloc[-1])
            ]
            sentences.append(f"{' to '.join(ends)} s {what}")
    needed = f"Calcium models need {', and '.join(sentences[1:])}." if sentences[1:] else ""
    return f"{sentences[0]} {needed}".strip()


def _heads(fits: dict[str, xr.Dataset]) -> list[HeadMarks]:
    return marked_heads(
        fits, {name: fit["sd_log_normalizer"] for name, fit in fits.items()}, MAX_HEADS
    )


def _all(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Seconds per token of all heads that were run."""
    times = {name: _times(fit) for name, fit in fits.items()}
    return frame(times, "seconds", "always", "sd_log_normalizer")


def _times(fit: xr.Dataset) -> xr.Dataset:
    """Seconds per token [criterion, model, layer, head] with intervals.

    always [criterion, layer, head]: whether the criterion holds at every reading time that was run.
    """
    found = {}
    for end in ("", "_low", "_high"):
        lag = fit[f"seconds_needed{end}"].rename(lag_error="criterion")
        lag = lag.assign_coords(criterion=[_criterion(float(x)) for x in fit["lag_error"]])
        few = fit[f"ratio_needed_in_all{end}"].isel(n_features=-1, drop=True)
        few = (few * fit["relaxation_seconds"]).expand_dims(criterion=[FEW_NEURONS])
        found[f"seconds{end}"] = xr.concat([lag, few], "criterion")
    lag = fit["gain_output_error"].max("ratio") <= fit["lag_error"]
    lag = lag.rename(lag_error="criterion").assign_coords(criterion=found["seconds"].criterion[:-1])
    last = fit[["total_error", "random_feature_error"]].isel(n_features=-1, drop=True)
    few = last["total_error"].max("ratio") <= 2**0.5 * last["random_feature_error"]
    always = xr.concat([lag, few.expand_dims(criterion=[FEW_NEURONS])], "criterion")
    always &= found["seconds"].isnull().all("model")
    others = {"always": always, "sd_log_normalizer": fit["sd_log_normalizer"]}
    return xr.Dataset(found | others, attrs=fit.attrs)


def _criterion(tolerance: float) -> str:
    return f"output error from lag at most {palette.percent(tolerance)}"


def _titles(fits: dict[str, xr.Dataset]) -> dict[str, str]:
    """Titles of panels, by criterion."""
    tolerances = [_criterion(float(x)) for x in next(iter(fits.values()))["lag_error"]]
    titles = {name: name.capitalize().replace(" at", "\nat") for name in tolerances}
    sizes = _sizes(fits).replace("m", "$m$") if "=" in _sizes(fits) else _sizes(fits)
    return titles | {FEW_NEURONS: f"Error from lag at most\nthat of {sizes} neurons"}


def _sizes(fits: dict[str, xr.Dataset]) -> str:
    """The largest numbers of neurons that were run."""
    sizes = {int(fit["n_features"][-1]) for fit in fits.values()}
    return f"m = {sizes.pop()}" if len(sizes) == 1 else "the largest m"


def _rows(fits: dict[str, xr.Dataset]) -> dict[str, str]:
    """Names of models and measured transients, the fastest first."""
    found = {}
    for fit in fits.values():
        for model in fit["model"].values:
            one = fit.sel(model=model)
            name, seconds = str(one["calcium_model"].values), float(one["relaxation_seconds"])
            words = f"{model}, measured".capitalize()
            if name:
                point = float(one["operating_point"])
                words = palette.CALCIUM_MODELS[name]
                words += f", {point:g} µM IP₃" if np.isfinite(point) else ""
            found[str(model)] = (seconds, f"{words}\nτ = {_seconds(seconds)} s")
    return {name: words for name, (_, words) in sorted(found.items(), key=lambda x: x[1][0])}


def _seconds(x: float) -> str:
    if x != x:
        return "–"
    return f"{x:.0f}" if 100 <= x < 1e5 else f"{x:.2g}"


def _limits(seconds: np.ndarray) -> tuple[float, float]:
    """Ends of the axis, with the spoken word and all estimates."""
    known = [*seconds[np.isfinite(seconds) & (seconds > 0)], *SPOKEN_WORD]
    return min(known) / 2, max(known) * 2
