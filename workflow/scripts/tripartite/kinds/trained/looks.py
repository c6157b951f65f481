"""How arms look in figures and are called, and which of their sizes are drawn."""

from typing import NamedTuple

import pandas as pd
import xarray as xr

from tripartite.figures import palette
from tripartite.figures.panels import spread


class Arm(NamedTuple):
    """What an arm is called, also in a word or two, its look, and whether it is filled."""

    name: str
    short: str
    look: palette.Look
    filled: bool = True

    @property
    def marks(self) -> dict:
        """Options of its marks."""
        return palette.marks(self.look, self.filled)


TRAINED = palette.RECIPES["learned"]._replace(marker="v")
ASTROMORPHIC, GRU = palette.CATEGORIES[2], palette.CATEGORIES[1]
LOOKS = {  # in the order of all figures
    "softmax": Arm("softmax attention", "softmax", palette.Look(palette.EXACT, palette.EXACT, "o")),
    "learned": Arm("trained neurons", "trained", TRAINED),
    "leak": Arm("leaky trained neurons", "trained leaky", TRAINED, False),
    "astromorphic": Arm(
        "astromorphic", "astromorphic", palette.Look(ASTROMORPHIC, ASTROMORPHIC, "p")
    ),
    "random": Arm(
        "fixed random neurons", "fixed random", palette.RECIPES["plain"]._replace(marker="X")
    ),
    "gru": Arm("recurrent network (GRU)", "GRU", palette.Look(GRU, GRU, "*")),
}
SIZELESS = ("softmax", "gru")  # arms without hidden neurons
BITS = "bits per character"  # a unit of which less is better
MAX_SIZES = 3  # of an arm that are drawn


def arms_of(fit: xr.Dataset) -> list[str]:
    """The arms of a file in the order of figures."""
    return [arm for arm in LOOKS if arm in fit["arm"].values]


def sizes(fit: xr.Dataset, arm: str) -> list[int]:
    """The values of n_features at which an arm was trained, rising."""
    known = fit["n_parameters"].sel(arm=arm).values >= 0
    return [int(m) for m in fit["n_features"].values[known]]


def networks(fit: xr.Dataset) -> list[tuple[str, int]]:
    """Arms and their sizes that are drawn, the smallest and the largest among them."""
    return [(arm, m) for arm in arms_of(fit) for m in spread(sizes(fit, arm), MAX_SIZES)]


def is_bits(fit: xr.Dataset) -> bool:
    """Whether less is better."""
    return str(fit["unit"].values) == BITS


def cut(own: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    """A table of values whose intervals are cut at the ends of a scale."""
    ends = {f"value_{end}": own[f"value_{end}"].clip(low, high) for end in ("low", "high")}
    return own.assign(**ends)
