"""How does the error that a lesion adds grow with its dose, and do laws predict it?"""

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from tripartite.kinds.perturbations import dose_response

GROUP = "lesions"


def lesion_doses(fits: dict[str, xr.Dataset]) -> Figure:
    """Added error against the dose of every lesion, a panel each, with the laws as lines.

    Root mean squares over inputs and seeds with 95 % intervals over both.
    """
    return dose_response.dose_responses(fits, GROUP, n_columns=4, sharey=True)


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """A row for each head, lesion and dose."""
    return dose_response.responses(fits, GROUP)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Added errors at the greatest dose of each lesion, and how often laws hold."""
    drawn = table(fits)
    if drawn.empty:
        return "These experiments have no lesions."
    first = drawn[(drawn["experiment"] == drawn["experiment"].iloc[0]) & (drawn["rank"] == 0)]
    greatest = first.loc[first.groupby("title", sort=False)["dose"].idxmax()]
    errors = [
        f"{dose_response.estimate(row, 'added_error')} ({row['title']}, {row['dose']:g})"
        for _, row in greatest.iterrows()
    ]
    head = dose_response.head_of(first.iloc[0])
    return (
        f"The greatest doses tried add errors of {', '.join(errors)} in {head}. "
        f"{dose_response.laws_kept(drawn)}"
    )
