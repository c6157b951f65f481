"""What do whole transformers of any kind still do when their attention is a network?"""

import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.palette import MM
from tripartite.figures.panels import say_left_out
from tripartite.kinds.rebuilt import scores
from tripartite.kinds.rebuilt.language import data_of
from tripartite.kinds.rebuilt.scores import ROW_MM, number

MEASURES = (  # of a model, a column: the first two that it has
    "bits_per_character",
    "masked_token_right",
    "embedding_cosine",
    "rank_order_right",
    "token_cosine",
    "neighbour_right",
    "likeliest_token_kept",
)
MAX_MODELS = 4


def whole_models(fits: dict[str, xr.Dataset]) -> Figure:
    """A column for each model, with two of its measures, a row for each network."""
    palette.apply()
    shown = [*fits][:MAX_MODELS]
    drawn = table({name: fits[name] for name in shown})
    rows = {name: scores.rows_of(drawn[drawn["experiment"] == name]) for name in shown}
    n_rows = max(2, *map(len, rows.values())) if rows else 2
    width = palette.PAGE if len(shown) > 1 else palette.COLUMN
    height = min(palette.MAX_HEIGHT, (2 * (ROW_MM * n_rows + 11) + 10) * MM)
    figure, axes = plt.subplots(2, len(shown), squeeze=False, figsize=(width, height))
    for column, name in enumerate(shown):
        data = fits[name].attrs["data"]
        same = column > 0 and rows[name] == rows[shown[column - 1]]
        marker = palette.look_of(data, data_of(fits)).marker
        for axis, measure in zip(axes[:, column], measures_of(fits[name])):
            own = drawn[(drawn["experiment"] == name) & (drawn["measure"] == measure)]
            scores.draw_scores(axis, own, rows[name], marker, not same, len(shown))
        for axis in axes[len(measures_of(fits[name])) :, column]:
            axis.set_axis_off()
        palette.title(axes[0, column], scores.column_title(data, len(shown)))
    say_left_out(figure, len(shown), len(fits))
    return figure


def measures_of(fit: xr.Dataset) -> list[str]:
    """The two measures of a model that are drawn."""
    names = [str(name) for name in fit["measure"].values]
    return ([name for name in MEASURES if name in names] or names)[:2]


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Scores of networks and of attention without neurons."""
    return scores.score_table(fits, {name: measures_of(fit) for name, fit in fits.items()})


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Both measures of each model: largest networks, and attention without neurons."""
    drawn = table(fits)
    sentences = []
    for name, fit in fits.items():
        words = []
        for place in range(2):
            measure = measures_of(fit)[place : place + 1]
            own = drawn[(drawn["experiment"] == name) & drawn["measure"].isin(measure)]
            if own.empty:
                continue
            networks = " and ".join(
                f"{number(own, recipe, m)} with {m} {scores.RECIPES[recipe][1]} neurons"
                for recipe, m in scores.best_rows(scores.rows_of(own))[::-1]
            )
            others = ", ".join(
                f"{called} {number(own, reference, brackets=False)}"
                for reference, (called, *_) in scores.REFERENCES.items()
                if (own["reference"] == reference).any()
            )
            words.append(f"{own['label'].iloc[0]} {networks} ({others})")
        if words:
            sentences.append(f"{palette.short_name(fit.attrs['data'])}: {'; '.join(words)}.")
    if not sentences:
        return "No model was run with all of its attention replaced."
    return f"With networks in place of all attention, {' '.join(sentences)}"
