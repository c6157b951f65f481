"""Tests of the numbers of a claim, its verdict, and the confidence in it.

Verdicts have the words of the FORRT replication outcome; docs/claims.md has the rules.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray as xr

from tripartite.contracts import UserError
from tripartite.kinds.claims.quantities import Number
from tripartite.kinds.claims.wording import one

HOLDS, FAILS, OPEN, MISSING, SHOWN = "holds", "fails", "open", "missing", ""
CENSUS = 20  # values from which on a number without interval counts as one of all
WORDS = {
    "above": "above",
    "below": "below",
    "at_least": "at least",
    "at_most": "at most",
    "containing": "contains",
}


def kind_of(test: Mapping[str, object]) -> str:
    """The key that says what a test is."""
    return next(key for key in test if key != "tolerance")


def words(test: dict) -> str:
    """A test in words."""
    kind = kind_of(test)
    if kind == "within":
        return "within {} to {}".format(*(one(bound, "g") for bound in test[kind]))
    if kind == "equal_to":
        return f"equal to {one(test[kind], 'g')} ± {one(test['tolerance'], 'g')}"
    return f"{WORDS[kind]} {test[kind] if isinstance(test[kind], str) else one(test[kind], 'g')}"


def compared_with(test: dict, numbers: Mapping[str, Number]) -> tuple[float, float]:
    """What a test compares a number with: the ends of a range, or of the bound.

    numbers: all numbers of the claim, by name, one of which may be the bound. NaN if it is missing.
    """
    kind = kind_of(test)
    if kind == "within":
        return float(test[kind][0]), float(test[kind][1])
    if kind == "equal_to":
        return test[kind] - test["tolerance"], test[kind] + test["tolerance"]
    if not isinstance(test[kind], str):
        return float(test[kind]), float(test[kind])
    bound = numbers[test[kind]]
    return (bound.value, bound.value) if kind == "containing" else bound.ends


def bounds(test: dict, numbers: Mapping[str, Number]) -> tuple[float, float]:
    """Above what and below what the whole interval of a number must be; NaN for no such bound."""
    low, high = compared_with(test, numbers)
    if kind_of(test) in ("above", "at_least"):
        return high, np.nan
    if kind_of(test) in ("below", "at_most"):
        return np.nan, low
    return low, high


def outcome(number: Number, test: dict, numbers: Mapping[str, Number]) -> str:
    """Whether the test of a number holds, fails, is open or misses something."""
    kind, (low, high), (first, last) = kind_of(test), number.ends, compared_with(test, numbers)
    if np.isnan([number.value, first]).any():
        return MISSING
    if kind == "containing":
        if not number.has_interval:
            return OPEN
        return HOLDS if low <= first <= high else FAILS
    if kind in ("within", "equal_to"):
        if first <= low and high <= last:
            return HOLDS
        return FAILS if high < first or last < low else OPEN
    if kind in ("below", "at_most"):  # as above, mirrored
        low, high, first, last = -high, -low, -last, -first
    if kind in ("above", "below"):
        return HOLDS if low > last else FAILS if high <= first else OPEN
    return HOLDS if low >= last else FAILS if high < first else OPEN


def verdict(outcomes: list[str]) -> str:
    """The verdict of a claim, from the outcomes of its tests."""
    known = {*outcomes} - {MISSING}
    if not known:
        return "NotTested"
    if {*outcomes} == {HOLDS}:
        return "Validated"
    if known == {FAILS}:
        return "Contradicted"
    return "PartiallySupported" if HOLDS in known else "Inconclusive"


def confidence(numbers: Mapping[str, Number], tests: Mapping[str, dict]) -> str:
    """High, Moderate or Low, "" if nothing is tested.

    tests: by the names of the numbers that are tested.
    """

    def outcomes(numbers: Mapping[str, Number]) -> list[str]:
        return [outcome(numbers[name], test, numbers) for name, test in tests.items()]

    known = outcomes(numbers)
    found = verdict(known)
    if found == "NotTested":
        return ""
    tested = [numbers[name] for name in tests]
    enough = all(one.has_interval or one.n_values >= CENSUS for one in tested)
    turns = HOLDS in known and OPEN in known and FAILS not in known
    if MISSING in known or found == "Inconclusive" or turns or not enough:
        return "Low"
    wider = {name: _widened(one) for name, one in numbers.items()}
    # a wide interval contains a number more easily than a narrow one
    easy = any(
        kind_of(test) == "containing" and outcome(numbers[name], test, numbers) == HOLDS
        for name, test in tests.items()
    )
    sure = all(one.has_interval for one in tested) and verdict(outcomes(wider)) == found
    heads = frozenset().union(*(one.heads for one in tested))
    one_head = len(heads) == 1 and all(one.heads for one in tested)
    return "High" if sure and not easy and not one_head else "Moderate"


def _widened(number: Number) -> Number:
    """A number with both ends twice as far from it; each end only moves outwards."""
    low, value, high = number.low, number.value, number.high
    low -= 0 if low == value else abs(value - low)  # both may be infinite
    high += 0 if high == value else abs(high - value)
    return replace(number, low=low, high=high)


def checked(claims: xr.Dataset) -> str:
    """How many verdicts are as expected; UserError with one line per claim that has another one.

    claims: the file claims.nc.
    """
    wanted = claims["expected"].values != ""
    wrong = claims.isel(claim=wanted & (claims["verdict"] != claims["expected"]).values)
    if wrong.sizes["claim"]:
        lines = [
            f"{one['claim'].item()}: is {one['verdict'].item()}, expected {one['expected'].item()} "
            f"({one['reason'].item()}): {one['sentence'].item()}"
            for one in (wrong.isel(claim=i) for i in range(wrong.sizes["claim"]))
        ]
        raise UserError("\n".join(lines))
    n = claims.sizes["claim"]
    return f"{wanted.sum()} of {n} claims have the verdict that the study expects, none another one"
