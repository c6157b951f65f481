"""Tests of the numbers of a claim, its verdict, and the confidence in it.

The words are those of the FORRT vocabulary of replication outcomes; docs/claims.md has the rules.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray as xr

from tripartite.contracts import UserError
from tripartite.kinds.claims.quantities import Number

HOLDS, FAILS, OPEN, MISSING, SHOWN = "holds", "fails", "open", "missing", ""
VERDICTS = ("Validated", "PartiallySupported", "Contradicted", "Inconclusive", "NotTested")
CENSUS = 20  # values from which on a number without interval counts as one of all
WORDS = {
    "above": "above",
    "below": "below",
    "at_least": "at least",
    "at_most": "at most",
    "containing": "interval contains",
}


def bounds(test: dict, numbers: Mapping[str, Number]) -> tuple[float, float, str]:
    """The lower and upper bound of a test, and the test in words.

    numbers: all numbers of the claim, by name, one of which may be the bound. NaN where a test has
    no such bound, or the number that is the bound is missing.
    """
    if "within" in test:
        low, high = map(float, test["within"])
        return low, high, f"within {low:g} to {high:g}"
    if "equal_to" in test:
        middle, half = float(test["equal_to"]), float(test["tolerance"])
        return middle - half, middle + half, f"equal to {middle:g} ± {half:g}"
    ((kind, bound),) = test.items()
    words = f"{WORDS[kind]} {bound:g}" if not isinstance(bound, str) else f"{WORDS[kind]} {bound}"
    low, high = numbers[bound].ends if isinstance(bound, str) else (float(bound), float(bound))
    if kind in ("above", "at_least"):
        return high, np.nan, words
    if kind in ("below", "at_most"):
        return np.nan, low, words
    return low, high, words


def outcome(number: Number, test: dict, numbers: Mapping[str, Number]) -> str:
    """Whether the test of a number holds, fails, is open or misses something."""
    referred = [numbers[bound] for bound in test.values() if isinstance(bound, str)]
    if np.isnan(number.value) or any(np.isnan(other.value) for other in referred):
        return MISSING
    low, high = number.ends
    kind = next(iter(test))
    if kind == "containing":
        first, last, _ = bounds(test, numbers)
        if not number.has_interval:
            return OPEN
        return HOLDS if low <= last and first <= high else FAILS
    if kind in ("within", "equal_to", "tolerance"):
        first, last, _ = bounds(test, numbers)
        if first <= low and high <= last:
            return HOLDS
        return FAILS if high < first or low > last else OPEN
    bound = next(iter(test.values()))
    first, last = referred[0].ends if referred else (float(bound), float(bound))
    strict = kind in ("above", "below")
    if kind in ("below", "at_most"):  # as above, mirrored
        low, high, first, last = -high, -low, -last, -first
    if low > last or not strict and low >= last:
        return HOLDS
    if high < first or strict and high <= first:
        return FAILS
    return OPEN


def verdict(outcomes: list[str]) -> str:
    """The verdict of a claim, from the outcomes of its tests."""
    known = [one for one in outcomes if one in (HOLDS, FAILS, OPEN)]
    if not known:
        return "NotTested"
    if {*known} == {HOLDS}:
        return "Validated"
    if {*known} == {FAILS}:
        return "Contradicted"
    return "PartiallySupported" if HOLDS in known else "Inconclusive"


def confidence(numbers: Mapping[str, Number], tests: Mapping[str, dict]) -> str:
    """High, Moderate or Low, "" if nothing is tested.

    tests: by the names of the numbers that are tested.
    """

    def outcomes(numbers: Mapping[str, Number]) -> list[str]:
        return [outcome(numbers[name], test, numbers) for name, test in tests.items()]

    found = verdict(outcomes(numbers))
    if found == "NotTested":
        return ""
    tested = [numbers[name] for name in tests]
    if MISSING in outcomes(numbers):
        return "Low"
    if all(one.has_interval for one in tested):
        wider = {name: _widened(one) for name, one in numbers.items()}
        return "High" if verdict(outcomes(wider)) == found else "Moderate"
    enough = all(one.has_interval or one.n_values >= CENSUS for one in tested)
    return "Moderate" if enough else "Low"


def _widened(number: Number) -> Number:
    """A number with an interval twice as wide."""
    low, high = (2 * end - number.value for end in (number.low, number.high))
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
    return f"{wanted.sum()} claims have the verdict that the study expects"
