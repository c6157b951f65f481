"""Verdicts of the claims of a study, from the files of its experiments."""

import json

import xarray as xr

from tripartite import declarations
from tripartite.kinds.claims import quantities, verdicts, wording

SELECTION = ("at", "where", "against", "take", "that", "along")


def score(fits: dict[str, xr.Dataset], claims: dict[str, dict]) -> xr.Dataset:
    """Sentence, verdict, confidence and numbers of each claim.

    fits: the last file of each experiment that the study has, by name; claims: by id, as in the
    study (kinds/claims/kind.yaml). Dimensions: claim, and quantity, a number that a claim rests on.
    """
    rows = [claim_row(fits, name, claim) for name, claim in claims.items()]
    of_claims = {key: ("claim", [row[key] for row, _ in rows]) for key in rows[0][0]}
    numbers = [number for _, numbers in rows for number in numbers]
    of_numbers = {key: ("quantity", [row[key] for row in numbers]) for key in numbers[0]}
    labels = [f"{row['of_claim']}: {row['name']}" for row in numbers]
    return xr.Dataset(of_claims | of_numbers, {"claim": list(claims), "quantity": labels})


def claim_row(fits: dict[str, xr.Dataset], name: str, claim: dict) -> tuple[dict, list[dict]]:
    """What the file says of one claim, and of each of its numbers."""
    specs = claim["rests_on"]
    numbers = {
        key: quantities.number(fits, spec, f"claims.{name}.rests_on.{key}")
        for key, spec in specs.items()
    }
    tests = tests_of(claim)
    outcomes = {key: verdicts.outcome(numbers[key], test, numbers) for key, test in tests.items()}
    source = claim.get("source", {})
    row = {
        "sentence": wording.sentence(claim["sentence"], numbers),
        "part": claim["part"],
        "headline": claim["headline"],
        **{key: source.get(key, "") for key in ("doi", "quotation", "law")},
        "conditions": claim.get("conditions", ""),
        "verdict": verdicts.verdict([*outcomes.values()]),
        "expected": claim.get("expected", ""),
        "confidence": verdicts.confidence(numbers, tests),
        "reason": reason(numbers, outcomes),
    }
    rows = []
    for key, spec in specs.items():
        number, test = numbers[key], tests.get(key)
        low, high = verdicts.bounds(test, numbers) if test else quantities.NONE
        experiments = quantities.names(spec["experiment"])
        there = [one for one in experiments if one in fits]
        rows.append(
            {
                "of_claim": name,
                "name": key,
                "experiment": ", ".join(experiments),
                "file": ", ".join(f"{one}/{file_of(fits[one])}.nc" for one in there),
                "variable": spec["variable"],
                "selection": json.dumps({part: spec[part] for part in SELECTION if spec.get(part)}),
                "n_values": number.n_values,
                "value": number.value,
                "value_low": number.low,
                "value_high": number.high,
                "unit": number.unit,
                "test": verdicts.words(test) if test else "",
                "bound_low": low,
                "bound_high": high,
                "outcome": outcomes.get(key, verdicts.SHOWN),
            }
        )
    return row, rows


def tests_of(claim: dict) -> dict[str, dict]:
    """The test of each number that is tested: its own, or that of the claim."""
    return {
        key: spec.get("test", claim.get("test", {}))
        for key, spec in claim["rests_on"].items()
        if not spec.get("only_shown") and (spec.get("test") or claim.get("test"))
    }


def reason(numbers: dict[str, quantities.Number], outcomes: dict[str, str]) -> str:
    """What the verdict comes from: names of the numbers by outcome, and what is missing."""
    parts = []
    for outcome in (verdicts.HOLDS, verdicts.FAILS, verdicts.OPEN):
        if named := [name for name, one in outcomes.items() if one == outcome]:
            parts.append(f"{outcome}: {', '.join(named)}")
    lacks = {one.lacks: None for name, one in numbers.items() if one.lacks}
    return "; ".join([*parts, *lacks])


def file_of(fit: xr.Dataset) -> str:
    """The name of a file without suffix, by the stage that made it."""
    return declarations.stages()[fit.attrs["stage"]].name
