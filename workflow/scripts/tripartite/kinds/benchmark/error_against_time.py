"""Error of the output against the time of one pass, on heads of a pretrained model."""

import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import estimates, legend

LOOKS = {  # of methods
    "ours, plain": palette.RECIPES["plain"],
    "ours, fitted": palette.RECIPES["fitted"],
    "ours, learned": palette.RECIPES["learned"],
    "performer-pytorch": palette.Look("#FFFFFF", palette.CATEGORIES[1], "v"),
    "darkformer-pytorch": palette.Look("#FFFFFF", palette.CATEGORIES[2], "s"),
}


def error_against_time(fits: dict[str, xr.Dataset]) -> Figure:
    """One panel for each head, a line for each method, from few neurons to many."""
    palette.apply()
    (fit,) = fits.values()
    table = fit.to_dataframe()
    heads = list(dict.fromkeys(table["head"]))
    figure, axes = plt.subplots(
        1, len(heads), figsize=(palette.PAGE, 2.9), sharey=True, squeeze=False
    )
    for axis, head in zip(axes[0], heads):
        of_head = table[table["head"] == head]
        for method, look in LOOKS.items():
            draw_method(axis, of_head[of_head["method"] == method], method, look)
        (exact,) = of_head[of_head["n_features"] == 0]["seconds"]
        axis.axvline(1e3 * exact, color=palette.EXACT, linewidth=0.8, label="exact attention")
        axis.axhline(1, color=palette.GUIDE, linewidth=0.6, linestyle=":", zorder=0)
        axis.margins(y=0.12)
        axis.set(xscale="log", yscale="log")
        axis.set_xlabel("time of one pass (ms), one thread")
        palette.title(axis, f"MiniLM, {head}", f"a passage of {of_head['n_tokens'].iloc[0]} tokens")
    axes[0, 0].set_ylabel("relative error of the output")
    legend(figure, ncols=6)
    return figure


def printed(fits: dict[str, xr.Dataset]) -> str:
    """Every point as a page of documentation."""
    (fit,) = fits.values()
    lines = [
        f"# Error of the output against time on {fit.attrs['machine']}",
        "",
        "Heads of MiniLM that read a passage, one thread, float32. Medians over repeats and over "
        "draws of neurons or trainings, smallest to largest.",
        "",
        "| head | method | m | time (ms) | error |",
        "|---|---|---|---|---|",
    ]
    for row in fit.to_dataframe().itertuples():
        low, high = 1e3 * row.seconds_low, 1e3 * row.seconds_high
        cells = (
            row.head,
            row.method,
            row.n_features or "–",
            f"{1e3 * row.seconds:.3g} ({low:.3g} to {high:.3g})",
            f"{row.output_error:.2g} ({row.output_error_low:.2g} to {row.output_error_high:.2g})",
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def draw_method(axis, rows: pd.DataFrame, method: str, look: palette.Look) -> None:
    """Errors of one method by time, with the smallest and the largest over draws."""
    rows = rows.assign(ms=1e3 * rows["seconds"])
    label = method.replace("learned", "trained")
    look_of_marks = palette.marks(look) | {"linestyle": "-", "label": label}
    estimates("ms", "output_error", data=rows, axis=axis, **look_of_marks)
    own = method.startswith("ours")  # others have the same sizes
    for place, beside in ((0, (4, 5)), (-1, (4, -9))) if own and len(rows) else ():
        row = rows.iloc[place]
        axis.annotate(
            f"{row['n_features']:,}".replace(",", " "),
            (row["ms"], row["output_error"]),
            xytext=beside,
            textcoords="offset points",
            fontsize=6,
            color=look.line,
        )
