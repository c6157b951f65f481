"""How arms look in figures, and which of their sizes is drawn."""

from typing import NamedTuple

import numpy as np
import xarray as xr

from tripartite.figures import palette


class Look(NamedTuple):
    """What an arm is called, its colour and its marker."""

    name: str
    colour: str
    marker: str


LOOKS = {
    "softmax": Look("softmax attention", palette.EXACT, "o"),
    "random": Look("fixed random neurons", palette.SMALL, "s"),
    "learned": Look("trained neurons", palette.LARGE, "^"),
    "leak": Look("trained neurons, leak", palette.COLOURS[4], "D"),
    "astromorphic": Look("astromorphic", palette.COLOURS[2], "v"),
    "gru": Look("recurrent network (GRU)", palette.COLOURS[7], "X"),
}
SIZELESS = ("softmax", "gru")  # arms without hidden neurons
BITS = "bits per character"  # a unit of which less is better


def sizes(fit: xr.Dataset, arm: str) -> list[int]:
    """The values of n_features at which an arm was trained, rising."""
    known = fit["n_parameters"].sel(arm=arm).values >= 0
    return [int(m) for m in fit["n_features"].values[known]]


def label(arm: str, m: int) -> str:
    """The name of an arm, with its number of hidden neurons if it has any."""
    return LOOKS[arm].name if arm in SIZELESS else f"{LOOKS[arm].name}, {m}"


def of_size(fit: xr.Dataset, arm: str, m: int | np.integer) -> xr.Dataset:
    """What a file has of an arm of one size."""
    return fit.sel(arm=arm, n_features=m)
