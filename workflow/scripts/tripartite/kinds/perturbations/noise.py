"""Which noise matters, and how many bits do synapses need?"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from tripartite.figures.panels import mark, spread
from tripartite.kinds.perturbations import dose_response

GROUP = "noise"
MAX_MARKS = 4  # heads whose bits stand in a panel


def noise(fits: dict[str, xr.Dataset]) -> Figure:
    """Added error against the dose of every kind of noise, a panel each, and the bits needed.

    Root mean squares over inputs and seeds with 95 % intervals over both; laws are lines.
    """
    figure = dose_response.dose_responses(fits, GROUP, n_columns=3, sharey="row")
    drawn = table(fits)
    for axis, (_, own) in zip(figure.axes, drawn.groupby("perturbation", sort=False)):
        visible = dose_response.drawable(own, "added_error")["added_error"].notna()
        heads = own[visible & own["bits_needed"].notna()].drop_duplicates(["experiment", "rank"])
        if len(heads):
            looks = dose_response.looks(drawn)
            marks = [mark(bits_words(x), **looks[x.experiment, x.rank]) for x in heads.itertuples()]
            title = "bits for error ≤ √2 × intact"
            axis.legend(handles=spread(marks, MAX_MARKS), title=title, loc="upper right")
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """A row for each head, kind of noise and dose."""
    return dose_response.responses(fits, GROUP)


def bits_words(row) -> str:
    """Bits that a head needs, with the range of tried ones between which they lie."""
    needed, low, high = (
        "not known" if np.isnan(x) else f"{x:g}" if np.isfinite(x) else "more"
        for x in (row.bits_needed, row.bits_needed_low, row.bits_needed_high)
    )
    return needed if low == "not known" else f"{needed} [{low}, {high}]"


def answer(fits: dict[str, xr.Dataset]) -> str:
    """The greatest ratio of errors of each kind of noise, and the bits that synapses need."""
    drawn = table(fits)
    if drawn.empty:
        return "These experiments have no noise."
    first = drawn[(drawn["experiment"] == drawn["experiment"].iloc[0]) & (drawn["rank"] == 0)]
    worst, bits = [], []
    for title, own in first.groupby("title", sort=False):
        if own["bits_needed"].notna().any():
            bits.append(f"{bits_words(next(own.itertuples()))} bits ({title})")
        elif own["error_ratio"].notna().any():
            row = own.loc[own["error_ratio"].idxmax()]
            worst.append(f"{dose_response.estimate(row, 'error_ratio')} ({title})")
    sentences = []
    head = f"In {dose_response.head_of(first.iloc[0])}"
    if worst:
        sentences.append(
            f"{head} the error against softmax attention grows at the worst dose tried by a factor "
            f"of {', '.join(worst)}."
        )
    if bits:
        head = "There" if worst else head
        sentences.append(f"{head} synapses need {' or '.join(bits)}.")
    return " ".join([*sentences, dose_response.laws_kept(drawn)])
