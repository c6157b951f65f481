"""Sentences of claims with numbers in their places, and claims as texts for readers."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from textwrap import fill

import xarray as xr

from tripartite.kinds.claims.quantities import Number
from tripartite.kinds.claims.terms import N_VALUES, PLACE, POWER, VERDICTS

UNKNOWN = "–"
COLUMNS = 100  # of a terminal


def sentence(template: str, numbers: Mapping[str, Number]) -> str:
    """A sentence with its numbers; those that are missing are a dash."""
    return PLACE.sub(lambda found: shown(numbers[found[1]], found[2] or ""), template)


def shown(number: Number, form: str = "") -> str:
    """A number in a format of Python; in brackets, as [.2f], with its interval; n: its values.

    10^ before the format: ten to the power of the number.
    """
    if form == N_VALUES:
        return str(number.n_values)
    value, low, high = number.value, number.low, number.high
    if form.startswith(POWER):
        value, low, high = (10.0**x if x < 308 else x for x in (value, low, high))
    form = form.removeprefix(POWER)
    return estimate(value, low, high, form.strip("[]")) if form[:1] == "[" else one(value, form)


def estimate(value: float, low: float, high: float, form: str = "") -> str:
    """A number with its interval in brackets, without it where it has none."""
    interval = f" [{one(low, form)}, {one(high, form)}]"
    return one(value, form) + interval * (not math.isnan(low))


def one(value: float, form: str = "") -> str:
    """One value in a format, .3g without one; a dash for NaN."""
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = format(value, form or ".3g")
    if not float(re.sub(r"[^\d.]", "", text) or 1):  # no minus zero
        text = text.lstrip("-")
    return text.replace("-", "−").replace("%", "\N{NO-BREAK SPACE}%")


def counts(claims: xr.Dataset) -> str:
    """How many claims have each verdict."""
    n = Counter(map(str, claims["verdict"].values))
    parts = ", ".join(f"{n[verdict]} {verdict}" for verdict in VERDICTS if n[verdict])
    return f"{claims.sizes['claim']} claims: {parts}"


def parts(claims: xr.Dataset) -> dict[str, list[dict]]:
    """The claims of a file claims.nc by part, in order; `numbers` are rows of their numbers."""
    of_numbers = claims.drop_dims("claim").to_dataframe().to_dict("records")
    found: dict[str, list[dict]] = {}
    for row in claims.drop_dims("quantity").to_dataframe().reset_index().to_dict("records"):
        numbers = [one for one in of_numbers if one["of_claim"] == row["claim"]]
        found.setdefault(row["part"], []).append(row | {"numbers": numbers})
    return found


def listed(claims: xr.Dataset) -> str:
    """All claims as a list in Markdown that is read on a terminal as well."""
    lines = [f"{counts(claims)}."]
    for part, rows in parts(claims).items():
        lines += ["", f"## {part}", ""]
        for row in rows:
            sure = f" (confidence {row['confidence']})" if row["confidence"] else ""
            text = f"- **{row['verdict']}**{sure} `{row['claim']}`: {row['sentence']}"
            text += f" ({row['reason']})" * (row["verdict"] == VERDICTS[-1])
            lines.append(fill(text, COLUMNS, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines) + "\n"


def findings(claims: xr.Dataset) -> str:
    """The headline claims as a list in Markdown, with the verdict in front of each."""
    lines = []
    for part, rows in parts(claims.isel(claim=claims["headline"].values)).items():
        lines += ["", f"**{part}**", ""]
        for row in rows:
            lines.append(f"- **{row['verdict']}.** {row['sentence']} (`{row['claim']}`)")
    return "\n".join(lines[1:])


def tables(claims: xr.Dataset) -> str:
    """All claims with source, numbers, tests and conditions: a table in Markdown for each part."""
    lines = [f"{counts(claims)}."]
    for part, rows in parts(claims).items():
        lines += ["", f"### {part}", "", "| claim | source | numbers and tests | verdict |"]
        lines.append("|---|---|---|---|")
        for row in rows:
            claim = f"`{row['claim']}`<br>{row['sentence']}"
            claim += f"<br>*Conditions:* {row['conditions']}" * bool(row["conditions"])
            numbers = "<br>".join(map(_number, row["numbers"]))
            verdict = f"**{row['verdict']}**<br>{row['confidence']}"
            cells = (claim, _source(row), numbers, verdict)
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines)


def _source(row: dict) -> str:
    """Where a claim comes from: DOI as a link, quotation, law."""
    link = f"[{row['doi']}](https://doi.org/{row['doi']})" if row["doi"] else ""
    quotation = f"“{row['quotation']}”" if row["quotation"] else ""
    return "<br>".join(filter(None, (link, quotation, row["law"]))) or "this study"


def _number(row: dict) -> str:
    """A number with its test, and how this ended unless it holds."""
    value = estimate(row["value"], row["value_low"], row["value_high"])
    unit = f" {row['unit']}" if row["unit"] not in ("1", "") else ""
    ended = f", {row['outcome']}" if row["outcome"] != "holds" else ""
    test = f"; {row['test']}{ended}" if row["test"] else ""
    where = f"`{row['file']}`: `{row['variable']}` `{row['selection']}`"
    return f"{row['name']} = {value}{unit} (n = {row['n_values']}; {where}){test}"


def _cell(text: str) -> str:
    """A text in a cell of a table."""
    return " ".join(text.replace("|", "\\|").split())
