"""Faults of the claims of a study, found before any job. This module imports no large package."""

import json
import shlex
from collections.abc import Iterator, Mapping

from ... import declarations
from ...words import SURE, Fault, choices, letters, nearest, shown, typos
from .terms import HEADS, N_VALUES, PAIR, PLACE, POWER

COUNTED = ("count", "share")
MAX_LETTERS = 115_000  # of all claims; a command may have 131 072 on Linux

Variables = Mapping[str, declarations.Variable]


def faults(claims: dict, kinds: dict[str, str]) -> Iterator[Fault]:
    """Faults of claims without schema faults; kinds: the kind of each experiment of the study.

    An experiment that the study lacks is no fault, as the claim is then not tested; one that is
    misspelt is.
    """
    if (n := len(shlex.quote(json.dumps({"claims": claims})))) > MAX_LETTERS:
        text = f"are {n} letters of text, at most {MAX_LETTERS} can be scored; shorten quotations"
        yield ("claims",), text
    for name, claim in claims.items():
        where, numbers = ("claims", name), claim["rests_on"]
        source = claim.get("source", {})
        if "quotation" in source and "doi" not in source:
            yield (*where, "source"), "has a quotation without doi; say where it stands"
        yield from _sentence_faults((*where, "sentence"), claim["sentence"], numbers)
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
        if not any(tested.values()):
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
    if len(kinds) > 1:
        yield where, f"got {' and '.join(kinds)}, wanted exactly one test"
    if ("tolerance" in test) != ("equal_to" in test):
        yield where, "tolerance and equal_to go together; give both"
    if "within" in test and test["within"][0] > test["within"][1]:
        yield (*where, "within"), "has the larger number first; wanted the lower one first"
    for key in kinds:
        bound = test[key]
        if isinstance(bound, str) and bound not in numbers:
            yield (*where, key), unknown(bound, list(numbers))
        elif isinstance(bound, str) and bound in tested:
            yield (*where, key), f"compares {bound} with itself; give it only_shown: true"


def _number_faults(where: tuple, spec: dict, kinds: dict[str, str]) -> Iterator[Fault]:
    """Faults of one number: what belongs together, and names of variables and axes."""
    take, that, name = spec.get("take"), spec.get("that", {}), spec["variable"]
    if (take in COUNTED) != bool(that):
        yield (*where, "that"), "goes with take: count or share, and these need it"
    if (take == "slope") != ("along" in spec):
        yield (*where, "along"), "goes with take: slope, which needs it"
    given = spec["experiment"]
    for experiment in given if isinstance(given, list) else [given]:
        if experiment not in kinds:
            if typos(letters(experiment), [*kinds], SURE):
                yield (*where, "experiment"), unknown(experiment, [*kinds])
            continue
        known = _variables(kinds[experiment])
        parts: dict[tuple, tuple[Variables, dict]] = {(): (known, spec)}  # by keys to them
        if "where" in spec:
            parts["where",] = known, spec["where"]
        for condition, bound in that.items():
            if isinstance(bound, str) and condition != "equals":
                parts["that", condition] = known, {"variable": bound}
        if against := spec.get("against"):
            second = against.get("experiment", experiment)
            theirs = _variables(kinds[second]) if second in kinds else {}
            parts["against",] = theirs, {"variable": name, **against}
        used = [of[part["variable"]] for of, part in parts.values() if part["variable"] in of]
        dims = {dim for variable in used for dim in variable.dims.split()}
        for keys, (of, part) in parts.items():
            if of and part["variable"] not in of:
                last = () if keys[:1] == ("that",) else ("variable",)
                yield (*where, *keys, *last), unknown(part["variable"], list(of))
            for key, wanted in part.get("at", {}).items() if of and used else ():
                if fault := _axis_fault(key, wanted, of, dims):
                    yield (*where, *keys, "at", key), fault
        if name in known and known[name].dtype == "str" and not {"equals"} & {*that}:
            yield (*where, "variable"), f"{name} is text; count it with take and that: equals"
        if name in known and "along" in spec and spec["along"] not in known[name].dims.split():
            yield (*where, "along"), unknown(spec["along"], known[name].dims.split())


def _variables(kind: str) -> dict[str, declarations.Variable]:
    """The variables and axes of the last file of a kind."""
    file = [*declarations.kinds()[kind].files][-1]
    return declarations.variables(file) | declarations.axes(file)


def _axis_fault(key: str, wanted: object, known: Variables, dims: set[str]) -> str:
    """Why places cannot be selected by a key, or ""; dims: of the variables of the number."""
    if key == HEADS:
        pairs = wanted if isinstance(wanted, list) and wanted else [None]
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return "wanted pairs of layer and head, such as [[0, 7], [1, 10]]"
        needed = {*PAIR}
    else:
        needed = {*known[key].dims.split()} if key in known else {key}
    if needed <= dims and len(needed) < 2 or key == HEADS and needed <= dims:
        return ""
    return f"{unknown(key, sorted(dims))}" if dims else f"{key} is no axis here; take it out"


def unknown(name: object, known: list[str]) -> str:
    """The fault of a name that is none of many: the nearest ones, or else all of them."""
    return f"{shown(name)} is unknown{nearest(name, known) or choices(known)}"
