"""How does the error that a lesion adds grow with its dose, and do laws predict it?"""

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from tripartite.kinds.perturbations import dose_response
from tripartite.kinds.perturbations.lesions import row_words

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
    """The greatest error that each lesion adds, at which dose, and how often laws hold."""
    drawn = table(fits)
    if drawn.empty:
        return "These experiments have no lesions."
    first = drawn[(drawn["experiment"] == drawn["experiment"].iloc[0]) & (drawn["rank"] == 0)]
    known = first[first["added_error"].notna()]
    if known.empty:
        return "No effect of a lesion is known."
    worst = known.loc[known.groupby("title", sort=False)["added_error"].idxmax()]
    errors = [
        f"{row_words(row)} {dose_response.estimate(row, 'added_error')}"
        for _, row in worst.iterrows()
    ]
    head = dose_response.head_of(first.iloc[0])
    return (
        f"In {head}, errors added at the worst dose tried are: {'; '.join(errors)}. "
        f"{dose_response.laws_kept(drawn)}"
    )
