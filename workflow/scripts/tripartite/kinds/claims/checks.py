"""Faults of the claims of a study, found before any job. This module imports no large package."""

import json
import shlex
from collections.abc import Iterator, Mapping

from ... import declarations
from ...words import Fault, unknown
from .terms import HEADS, N_VALUES, PAIR, PLACE, POWER

COUNTED = ("count", "share")
MAX_LETTERS = 100_000  # of all claims, which are one argument of a command (131 072 on Linux)

Variables = Mapping[str, declarations.Variable]


def faults(claims: dict, kinds: dict[str, str]) -> Iterator[Fault]:
    """Faults of claims without schema faults; kinds: the kind of each experiment of the study.

    An experiment that the study lacks is no fault: the claim is then not tested.
    """
    if (n := len(shlex.quote(json.dumps({"claims": claims})))) > MAX_LETTERS:
        text = f"are {n} letters of text, at most {MAX_LETTERS} can be scored; shorten quotations"
        yield ("claims",), text
    for name, claim in claims.items():
        where = ("claims", name)
        source = claim.get("source") or {}
        if "quotation" in source and "doi" not in source:
            yield (*where, "source"), "has a quotation without doi; say where it stands"
        numbers = claim.get("rests_on") or {}
        yield from _sentence_faults((*where, "sentence"), claim.get("sentence") or "", numbers)
        tested = {}
        for key, spec in numbers.items():
            here = (*where, "rests_on", key)
            yield from _number_faults(here, spec, kinds)
            if "test" in spec:
                yield from _test_faults((*here, "test"), spec["test"], numbers, [key])
            if spec.get("only_shown") and "test" in spec:
                yield (*here, "only_shown"), "goes without test; take one of them out"
            if not spec.get("only_shown"):
                tested[key] = spec.get("test", claim.get("test"))
        if numbers and not any(tested.values()):
            yield where, "has no test of any number; give test, such as {above: 0.5}"
        if "test" in claim:
            own = [key for key, test in tested.items() if test is claim["test"]]
            yield from _test_faults((*where, "test"), claim["test"], numbers, own)


def _sentence_faults(where: tuple, sentence: str, numbers: dict) -> Iterator[Fault]:
    """Places in a sentence that stand for no number, or for one in no format of Python."""
    for name, form in PLACE.findall(sentence):
        if name not in numbers:
            yield where, f"{{{name}}}: {unknown(name, list(numbers))}"
        try:
            format(0.0, "" if form == N_VALUES else form.removeprefix(POWER).strip("[]"))
        except ValueError:
            yield where, f"{{{name}:{form}}}: wanted a format such as .2f, [.2f], 10^.1f or n"


def _test_faults(where: tuple, test: dict, numbers: dict, tested: list[str]) -> Iterator[Fault]:
    """Faults of one test; tested: the names of the numbers that it tests."""
    kinds = [key for key in test if key != "tolerance"]
    if len(kinds) != 1:
        yield where, f"got {' and '.join(kinds) or 'none'}, wanted exactly one test"
    if ("tolerance" in test) != ("equal_to" in test):
        yield where, "tolerance and equal_to go together; give both"
    ends = test.get("within") or [None]
    if None not in ends and ends[0] > ends[1]:
        yield (*where, "within"), "has the larger number first; wanted the lower one first"
    for key in kinds:
        bound = test[key]
        if isinstance(bound, str) and bound not in numbers:
            yield (*where, key), unknown(bound, list(numbers))
        elif isinstance(bound, str) and bound in tested:
            yield (*where, key), f"compares {bound} with itself; give it only_shown: true"


def _number_faults(where: tuple, spec: dict, kinds: dict[str, str]) -> Iterator[Fault]:
    """Faults of one number: what belongs together, and names of variables and axes."""
    take, that = spec.get("take", "value"), spec.get("that") or {}
    if (take in COUNTED) != ("that" in spec):
        yield (*where, "that"), "goes with take: count or share, and these need it"
    if (take == "slope") != ("along" in spec):
        yield (*where, "along"), "goes with take: slope, which needs it"
    given = spec.get("experiment")
    against = spec.get("against") or {}
    for name in given if isinstance(given, list) else [given]:
        if name not in kinds:
            continue
        known = _variables(kinds[name])
        used = [spec.get("variable")]
        yield from _name_faults(where, spec, known)
        if "where" in spec:
            used.append(spec["where"].get("variable"))
            yield from _name_faults((*where, "where"), spec["where"], known)
        for condition, bound in that.items():
            if isinstance(bound, str) and condition != "equals":
                used.append(bound)
                yield from _name_faults((*where, "that", condition), {"variable": bound}, known)
        second = against.get("experiment", name)
        if against and second in kinds:
            theirs = {"variable": spec.get("variable"), **against}
            of_both = _variables(kinds[second])
            yield from _name_faults((*where, "against"), theirs, of_both)
            known = of_both | known
            used.append(theirs["variable"])
        yield from _axis_faults(where, spec, [known[one] for one in used if one in known], known)
        variable = known.get(spec.get("variable") or "")
        is_text = variable is not None and variable.dtype == "str"
        if is_text and not (take in COUNTED and "equals" in that):
            text = f"{spec['variable']} is text; count it with take and that: {{equals: ...}}"
            yield (*where, "variable"), text
        along = spec.get("along")
        if along and variable and along not in variable.dims.split():
            yield (*where, "along"), unknown(along, variable.dims.split())


def _variables(kind: str) -> dict[str, declarations.Variable]:
    """The variables and axes of the last file of a kind."""
    file = [*declarations.kinds()[kind].files][-1]
    return declarations.variables(file) | declarations.axes(file)


def _name_faults(where: tuple, spec: dict, known: Variables) -> Iterator[Fault]:
    """Faults of a variable, and of the axes and variables by which places are selected."""
    variable = spec.get("variable")
    if variable and variable not in known:
        keys = where if where[-2] == "that" else (*where, "variable")
        yield keys, unknown(variable, list(known))
    dims = {dim for one in known.values() for dim in one.dims.split()}
    labels = {name for name, one in known.items() if len(one.dims.split()) < 2}
    for key, wanted in (spec.get("at") or {}).items():
        if key not in dims | labels | {HEADS}:
            yield (*where, "at", key), unknown(key, sorted(dims))
        if key == HEADS and not _are_pairs(wanted):
            yield (*where, "at", key), "wanted pairs of layer and head, such as [[0, 7], [1, 10]]"


def _are_pairs(wanted: object) -> bool:
    pairs = wanted if isinstance(wanted, list) and wanted else [None]
    return all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)


def _axis_faults(where: tuple, spec: dict, used: list, known: Variables) -> Iterator[Fault]:
    """Axes that none of the variables of a number has, so that they would select nothing."""
    dims = {dim for one in used for dim in one.dims.split()}
    for key in spec.get("at") or {} if used else {}:
        needed = PAIR if key == HEADS else known[key].dims.split() if key in known else [key]
        if needed and not {*needed} <= dims:
            yield (*where, "at", key), f"{spec['variable']} has no such axis; take it out"
