"""Figure: every number that a claim rests on, with its interval, its bound and the verdict."""

import matplotlib.pyplot as plt
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure


def claims(fits: dict[str, xr.Dataset]) -> Figure:
    """To be drawn."""
    return plt.figure()


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """A row for each number."""
    return fits["claims"][["of_claim", "name", "value", "value_low", "value_high"]].to_dataframe()


def answer(fits: dict[str, xr.Dataset]) -> str:
    """How many claims have each verdict."""
    return str(len(fits["claims"]["claim"]))


def printed(fits: dict[str, xr.Dataset]) -> str:
    """All claims as a table in Markdown."""
    found = fits["claims"]
    rows = [
        f"| {claim} | {verdict} | {sure} | {words} |"
        for claim, verdict, sure, words in zip(
            found["claim"].values,
            found["verdict"].values,
            found["confidence"].values,
            found["sentence"].values,
        )
    ]
    return "\n".join(["| claim | verdict | confidence | sentence |", "|---|---|---|---|", *rows])
