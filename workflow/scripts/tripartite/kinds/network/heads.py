"""Every head of a model at a glance, as a map, a table and a page: what it needs, how it errs."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.kinds.network import heads_page, of_heads
from tripartite.kinds.network.needed_map import NEEDED, draw_map, draw_scale, square_cells

FEW = 5  # log10 of neurons that are few
ERRORS = Normalize(0, 1)  # of the output; those beyond have the darkest colour
MAX_LETTERS, MAX_NAME = 80, 20  # of the title, and of the names of networks
N_COLUMNS = 4  # maps of needs, and of errors


def heads(fits: dict[str, xr.Dataset]) -> Figure:
    """Neurons that each head needs by each recipe, and output errors of the largest networks.

    Colours alone: the numbers stand in the table and the page beside the figure.
    """
    palette.apply()
    frame, simulated = of_heads.rows(fits), of_heads.networks(fits)
    first = next(iter(fits.values()))
    needed = [name for name in of_heads.RECIPES if f"log10_needed_{name}" in frame]
    networks = [*simulated][:N_COLUMNS]
    rows = [[first] * len(panels) for panels in (needed, networks) if panels]
    figure, axes, bars = square_cells(rows, [*range(len(rows))], 4)
    for axis, name in zip(axes, needed):
        values = frame[f"log10_needed_{name}"]
        draw_map(axis, first, as_map(values, first), NEEDED)
        few = f"{(values <= FEW).sum()} of {len(values)} ≤ {palette.power(FEW)}"
        palette.title(axis, name, f"median {palette.power(values.median())} neurons\n{few}")
    for axis, name in zip(axes[len(needed) :], networks):
        m = int(simulated[name]["n_features"][-1])
        values = frame[f"output_error_{name}_{m}"]
        draw_map(axis, first, as_map(values, first), ERRORS)
        better = (values < frame["output_error_uniform"]).sum()
        below = f"{better} of {values.notna().sum()} < equal attention"
        words = f"$m$ = {digits(m)}: median {palette.decimal(values.median())}\n{below}"
        palette.title(axis, cut(name, MAX_NAME), words)
    if needed:
        draw_scale(bars[0])
    draw_error_scale(bars[-1])
    title = palette.plain_text(cut(first.attrs["data"], MAX_LETTERS))
    figure.suptitle(title, weight="bold", x=0.01, ha="left", y=0.99)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """The numbers of all heads, a row each."""
    return of_heads.rows(fits)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Neurons of the median head by each recipe, errors of networks, and what helps most heads."""
    frame, simulated = of_heads.rows(fits), of_heads.networks(fits)
    needs = []
    for name in of_heads.RECIPES:
        values = frame.get(f"log10_needed_{name}", pd.Series(dtype=float)).dropna()
        if len(values):
            few = f"{(values <= FEW).sum()} of {len(values)} heads at most 10^{FEW}"
            needs.append(f"10^{values.median():.1f} {name} ({few})")
    errors = []
    for name, fit in simulated.items():
        m = int(fit["n_features"][-1])
        values = frame[f"output_error_{name}_{m}"]
        better = (values < frame["output_error_uniform"]).sum()
        errors.append(
            f"{palette.decimal(values.median())} {name} (m = {digits(m)}; {better} of "
            f"{values.notna().sum()} heads better than equal attention)"
        )
    helps = frame["helps"][frame["helps"] != ""].value_counts()
    known = [f"{what} in {n}" for what, n in helps.items()]
    sentences = {
        "The median head needs": needs,
        "The median error of the output is": errors,
        "What helps most, by heads:": known,
    }
    return " ".join(f"{start} {', '.join(words)}." for start, words in sentences.items() if words)


def page(fits: dict[str, xr.Dataset]) -> str:
    """The page on which one hovers over the heads."""
    first = next(iter(fits.values()))
    simulated = {
        name: [*map(int, fit["n_features"])] for name, fit in of_heads.networks(fits).items()
    }
    return heads_page.page(of_heads.rows(fits), first.attrs["data"], simulated)


def as_map(values: pd.Series, fit: xr.Dataset) -> np.ndarray:
    """One number of each head [layer, head]."""
    return values.values.reshape(fit.sizes["layer"], fit.sizes["head"])


def digits(m: int) -> str:
    """Hidden neurons in digits, by thousands."""
    return f"{m:,}".replace(",", " ")


def cut(text: str, n_letters: int) -> str:
    """A text that the font can write, at most n_letters long."""
    text = palette.shown(text)
    return text if len(text) <= n_letters else f"{text[: n_letters - 1]}…"


def draw_error_scale(axis: Axes) -> None:
    """The colours of errors as a bar in these axes."""
    axis.figure.colorbar(
        mpl.cm.ScalarMappable(ERRORS, palette.BAD_MAP),
        cax=axis,
        orientation="horizontal",
        extend="max",
        label="relative error of the output (mean over inputs and networks)",
    )
