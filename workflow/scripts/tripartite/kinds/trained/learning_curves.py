"""How fast do transformers learn with each attention?"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import frame, grid, legend, say_left_out
from tripartite.kinds.trained.looks import LOOKS, arms_of, sizes

N_COLUMNS = 3
DASHED = "leak"
DECADE = 10  # losses that differ by less have a linear axis


def learning_curves(fits: dict[str, xr.Dataset]) -> Figure:
    """A panel per experiment: validation loss by step, a line for each training."""
    palette.apply()
    shown = {name: fits[name] for name in [*fits][: palette.MAX_PANELS]}
    drawn = table(shown)
    n_columns = min(N_COLUMNS, len(shown))
    width = palette.PAGE if n_columns > 1 else palette.COLUMN
    figure, axes = grid(len(shown), n_columns, 52, around_mm=12, width=width)
    for axis, (name, fit) in zip(axes, shown.items()):
        draw(axis, drawn[drawn["experiment"] == name])
        palette.title(axis, fit.attrs["data"], f"{fit.sizes['seed']} trainings of each")
    for axis in axes[::n_columns]:
        axis.set_ylabel("validation loss (bits)")
    legend(figure, ncols=3 if n_columns > 1 else 2)
    say_left_out(figure, len(shown), len(fits))
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Validation loss (bits) of trainings of the largest networks by step, and which was kept."""
    parts = []
    for name, fit in fits.items():
        for arm in arms_of(fit):
            if known := sizes(fit, arm):
                largest = {name: fit.sel(arm=[arm], n_features=known[-1:])}
                parts.append(frame(largest, "validation_loss", "best_step"))
    found = pd.concat(parts, ignore_index=True)
    found["validation_loss"] /= np.log(2)  # nats of the file
    found["kept"] = found["step"] == found["best_step"]
    columns = ["experiment", "data", "arm", "n_features", "seed", "step", "validation_loss", "kept"]
    return found[columns].dropna(subset="validation_loss")


def draw(axis: Axes, own: pd.DataFrame) -> None:
    """A line for each training, with a mark at the step whose weights are kept."""
    for arm in LOOKS:
        of_arm = own[own["arm"] == arm]
        for _, one in of_arm.groupby("seed"):
            marks = LOOKS[arm].marks
            style = "--" if arm == DASHED else "-"
            axis.plot(one["step"], one["validation_loss"], style, color=marks["color"], lw=0.7)
            kept = one[one["kept"]]
            label = LOOKS[arm].name if (kept["validation_loss"] > 0).any() else ""
            marks |= {"linestyle": style, "linewidth": 0.7, "label": label}
            axis.plot(kept["step"], kept["validation_loss"], **marks)
    known = own.loc[own["validation_loss"] > 0, "validation_loss"]
    if len(known) and known.max() > DECADE * known.min():
        axis.set_yscale("log")
        palette.few_decades(axis)
    axis.set_xlabel("step of training")


def answer(fits: dict[str, xr.Dataset]) -> str:
    """The least validation losses of the largest networks, mean over trainings, by task."""
    drawn = table(fits)
    tasks = []
    for name, fit in fits.items():
        own = drawn[drawn["experiment"] == name]
        least = own.groupby(["arm", "seed"])["validation_loss"].min().groupby("arm").mean()
        words = [f"{LOOKS[arm].name} {least[arm]:#.3g}" for arm in arms_of(fit) if arm in least]
        tasks.append(f"{fit.attrs['data']}: {', '.join(words)}")
    return f"Least validation loss in bits, mean over trainings: {'; '.join(tasks)}."
