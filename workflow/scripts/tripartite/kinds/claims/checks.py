"""Faults of the claims of a study, found before any job. This module imports no large package."""

import json
import re
from collections.abc import Iterator

from ... import declarations
from ...words import Fault, unknown

PLACE = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")
MAX_LETTERS = 100_000  # of all claims: they are one argument of the command that scores them
HEADS = "heads"  # selects pairs of layer and head


def faults(claims: dict, kinds: dict[str, str]) -> Iterator[Fault]:
    """Faults of claims without schema faults; kinds: the kind of each experiment of the study.

    An experiment that the study lacks is no fault: the claim is then not tested.
    """
    if (n := len(json.dumps(claims))) > MAX_LETTERS:
        text = f"are {n} letters of text, at most {MAX_LETTERS} can be scored; shorten quotations"
        yield ("claims",), text
    for name, claim in claims.items():
        where = ("claims", name)
        source = claim.get("source") or {}
        if "quotation" in source and "doi" not in source:
            yield (*where, "source"), "has a quotation without doi; say where it stands"
        numbers = claim.get("rests_on") or {}
        for place, _ in PLACE.findall(claim.get("sentence") or ""):
            if place not in numbers:
                yield (*where, "sentence"), f"{{{place}}}: {unknown(place, list(numbers))}"
        tests = [((*where, "test"), claim.get("test"))]
        tested = 0
        for key, spec in numbers.items():
            here = (*where, "rests_on", key)
            tests.append(((*here, "test"), spec.get("test")))
            tested += bool(not spec.get("only_shown") and (spec.get("test") or claim.get("test")))
            yield from _number_faults(here, spec, kinds)
        if numbers and not tested:
            yield where, "has no test of any number; give test, such as {above: 0.5}"
        for keys, test in tests:
            yield from _test_faults(keys, test or {}, numbers)


def _test_faults(where: tuple, test: dict, numbers: dict) -> Iterator[Fault]:
    """Faults of one test."""
    kinds = [key for key in test if key != "tolerance"]
    if len(kinds) != 1 and test:
        yield where, f"got {' and '.join(kinds) or 'none'}, wanted exactly one test"
    if ("tolerance" in test) != ("equal_to" in test):
        yield where, "tolerance and equal_to go together; give both"
    if "within" in test and None not in test["within"] and test["within"][0] > test["within"][1]:
        yield (*where, "within"), "has the larger number first; wanted the lower one first"
    for key in kinds:
        if isinstance(test[key], str) and test[key] not in numbers:
            yield (*where, key), unknown(test[key], list(numbers))


def _number_faults(where: tuple, spec: dict, kinds: dict[str, str]) -> Iterator[Fault]:
    """Faults of one number: variables, axes, and what belongs together."""
    take = spec.get("take", "value")
    if (take in ("count", "share")) != ("that" in spec):
        yield (*where, "that"), "goes with take: count or share, and these need it"
    if (take == "slope") != ("along" in spec):
        yield (*where, "along"), "goes with take: slope, which needs it"
    given = spec.get("experiment")
    for name in given if isinstance(given, list) else [given]:
        if name not in kinds:
            continue
        file = [*declarations.kinds()[kinds[name]].files][-1]
        known, axes = declarations.variables(file), {HEADS}
        for spec_of in (*known.values(), *declarations.axes(file).values()):
            axes |= {*spec_of.dims.split()}
        axes |= {key for key, one in known.items() if one.coordinate}
        yield from _names(where, spec, known, axes)
        that = next(iter((spec.get("that") or {}).items()), ("", ""))
        if that[0] != "equals" and isinstance(that[1], str) and that[1] and that[1] not in known:
            yield (*where, "that", that[0]), unknown(that[1], list(known))
        if "where" in spec:
            yield from _names((*where, "where"), spec["where"], known, axes)
        if "against" in spec and spec["against"].get("experiment", name) == name:
            yield from _names((*where, "against"), spec["against"], known, axes)


def _names(where: tuple, spec: dict, known: dict, axes: set[str]) -> Iterator[Fault]:
    """Faults of a variable and of the axes at which it is taken."""
    variable = spec.get("variable")
    if variable and variable not in known:
        yield (*where, "variable"), unknown(variable, list(known))
    for axis in spec.get("at") or {}:
        if axis not in axes:
            yield (*where, "at", axis), unknown(axis, sorted(axes))
