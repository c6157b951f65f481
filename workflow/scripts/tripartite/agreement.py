"""How far the results of two labs agree: file by file, and variable by variable.

Texts, integers and truth values agree if they are equal. Numbers agree within rounding if no element differs
by more than ROUNDING, relative to the larger of the two or to the median of the variable, whichever is more;
and fitted values, which have an interval, also if each lab's estimate lies in the other's interval.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from tripartite import job
from tripartite.contracts import CONTRACTS, Breach

# The tolerances. float32 is for what is computed in float32, and what is made from float32 data that differ.
ROUNDING = {"float64": 1e-9, "float32": 1e-4}
LEVELS = {  # from best to worst
    "identical": "all values are equal",
    "rounding": "numbers differ by no more than rounding",
    "interval": "each estimate lies in the other's interval",
    "outside": "values differ by more",
    "missing": "the other results have no such file",
}
ORDER = ("qkv", "attention", "states")  # each before what is made from it


class Row(NamedTuple):
    file: str
    variable: str  # empty: all of the file
    level: str
    deviation: float  # the largest, relative; NaN for what is no number
    note: str
    fitted: bool  # has an interval


class Found(NamedTuple):
    rows: list[Row]
    origins: dict[
        tuple[str, str, str], list[str]
    ]  # (what, ours, theirs) -> files of which it differs
    extra: list[str]  # files that only the others have
    figures: dict[str, int]  # how many are identical, other or missing


def compare(files: list[Path], folder: Path) -> Found:
    """Compare all files of a study with those of the same names in the folder of another lab.

    Breach if one of ours is missing, or a file is damaged.
    """
    ours = {job.key(path): path for path in files if job.is_contract(path)}
    theirs = {
        job.key(path): path for path in sorted(folder.glob("*/*.nc")) if job.is_contract(path)
    }
    found = Found([], {}, [key for key in theirs if key not in ours], {})
    coarse = {}
    for key in sorted(ours, key=lambda key: _rank(ours[key].stem)):
        if not ours[key].is_file():
            raise Breach(f"{ours[key]}: is missing; run the study first")
        if key not in theirs:
            names = CONTRACTS[ours[key].stem]
            fitted = any(is_fitted(name, names) for name in names)
            found.rows.append(Row(key, "", "missing", np.nan, "", fitted))
            continue
        mine, other = job.load(ours[key]), job.load(theirs[key])
        origins = _origin(mine, ours[key]), _origin(other, theirs[key])
        coarse[key] = any(coarse.get(name) for name in _json(mine, "upstream", ours[key]))
        coarse[key] |= any(
            value in ("float32", "bfloat16") for flat in origins for value in flat.values()
        )
        found.rows.extend(
            agree(key, mine, other, ROUNDING["float32" if coarse[key] else "float64"])
        )
        if ours[key].stem == "qkv":
            coarse[key] = any(row.file == key and row.level != "identical" for row in found.rows)
        for what in origins[0] | origins[1]:
            pair = tuple(str(flat.get(what, "not there")) for flat in origins)
            if pair[0] != pair[1]:
                found.origins.setdefault((what, *pair), []).append(key)
    for path in files:
        if not job.is_contract(path):
            other = folder / path.parent.name / path.name
            same = other.is_file() and other.read_bytes() == path.read_bytes()
            level = "identical" if same else "other" if other.is_file() else "missing"
            found.figures[level] = found.figures.get(level, 0) + 1
    return found


def agree(key: str, ours: xr.Dataset, theirs: xr.Dataset, rounding: float) -> list[Row]:
    """One row for each variable of two files of the same name, or a single one if all are identical."""
    rows = [_agree(key, name, ours, theirs, rounding) for name in ours.variables]
    if all(row.level == "identical" for row in rows):
        fitted = any(row.fitted for row in rows)
        return [Row(key, "", "identical", 0, f"{len(rows)} variables", fitted)]
    return rows


def _agree(key: str, name: str, ours: xr.Dataset, theirs: xr.Dataset, rounding: float) -> Row:
    fitted = is_fitted(name, ours.variables)
    if shifted := _shifted(name, ours, theirs):
        return Row(key, name, "outside", np.nan, f"other {shifted}", fitted)
    a, b = ours[name].values, theirs[name].values
    if a.dtype.kind != "f":
        n_other = int((a != b).sum())
        if not n_other:
            return Row(key, name, "identical", 0, "", fitted)
        return Row(key, name, "outside", np.nan, f"{n_other} of {a.size} differ", fitted)
    if a.dtype == np.float32:
        rounding = ROUNDING["float32"]
    differ = deviations(a, b)
    worst = float(differ.max())
    within = differ <= rounding
    if not worst or within.all():
        return Row(
            key, name, "rounding" if worst else "identical", worst, f"≤ {rounding:g}", fitted
        )
    estimate = re.sub("_(low|high)$", "", name)
    if is_fitted(estimate, ours.variables):
        within |= inside(ours, theirs, estimate)
    note = f"{(~within).sum()} of {a.size} leave" if not within.all() else ""
    return Row(key, name, "outside" if note else "interval", worst, note, fitted)


def is_fitted(name: str, names: object) -> bool:
    """True for an estimate that has both ends of an interval beside it."""
    return f"{name}_low" in names and f"{name}_high" in names


def inside(ours: xr.Dataset, theirs: xr.Dataset, name: str) -> np.ndarray:
    """Where each of two estimates lies in the other's interval."""
    found = True
    for one, other in ((ours, theirs), (theirs, ours)):
        low, high = (other[f"{name}_{end}"].values for end in ("low", "high"))
        found &= (low <= one[name].values) & (one[name].values <= high)
    return found


def deviations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Relative differences of two arrays; 0 where both are NaN or the same infinity, inf where one is."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    finite = np.abs(a[np.isfinite(a)])
    floor = np.median(finite) if finite.size else 0.0
    with np.errstate(all="ignore"):
        differ = np.abs(a - b) / np.maximum(np.maximum(np.abs(a), np.abs(b)), floor)
    differ = np.where(np.isfinite(differ), differ, np.inf)
    return np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, differ)


def failures(rows: list[Row]) -> list[Row]:
    """Fitted values that are outside or missing."""
    return [row for row in rows if row.fitted and row.level in ("outside", "missing")]


def _rank(stem: str) -> int:
    return ORDER.index(stem) if stem in ORDER else len(ORDER)


def _shifted(name: str, ours: xr.Dataset, theirs: xr.Dataset) -> str:
    """The axes of a variable that are not the same in both; where they differ, values have no partner."""
    other = [
        dim
        for dim in ours[name].dims
        if ours.sizes[dim] != theirs.sizes[dim]
        or (dim in ours.coords and name != dim and not ours[dim].equals(theirs[dim]))
    ]
    return ", ".join(other)


def _json(dataset: xr.Dataset, key: str, path: Path) -> dict:
    try:
        return dict(json.loads(dataset.attrs[key]))
    except (KeyError, TypeError, ValueError) as error:
        raise Breach(
            f"{path}: its attribute {key} is missing or damaged; ask for it again"
        ) from error


def _origin(dataset: xr.Dataset, path: Path) -> dict[str, object]:
    """What a file says of how it was made, by the name of each detail."""
    attrs = dataset.attrs
    flat = {key: attrs.get(key, "") for key in ("source", "device")}
    flat[f"code of {attrs.get('stage', path.stem)}"] = attrs.get("code_digest", "")
    flat |= {
        f"version of {name}": value for name, value in _json(dataset, "versions", path).items()
    }
    return flat | dict(_leaves("", _json(dataset, "settings", path)))


def _leaves(place: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(f"{place}.{key}".lstrip("."), part)
    else:
        yield place, value


def table(found: Found, study: str, other: str) -> str:
    """All that was found as a page of documentation."""
    counts = {level: sum(row.level == level for row in found.rows) for level in LEVELS}
    fitted = [row for row in found.rows if row.fitted]
    bad = failures(found.rows)
    rest = sum(row.level in ("outside", "missing") and not row.fitted for row in found.rows)
    lines = [
        f"# {study}, beside {_cell(other)}", "",
        f"{len(fitted) - len(bad)} of {len(fitted)} fitted values (or files of them) agree; {rest} others "
        "are outside or missing.", "",
        "| level | means | rows |", "|---|---|---|",
        *(f"| {level} | {words} | {counts[level]} |" for level, words in LEVELS.items()), "",
        f"Rounding: {ROUNDING['float64']:g} relative, {ROUNDING['float32']:g} for what is computed in float32 "
        "or made from float32 data that differ.",
        "Figures, byte by byte: " + ", ".join(f"{n} {level}" for level, n in found.figures.items()) + ".",
        *([f"Only the other has {', '.join(map(_cell, found.extra))}."] if found.extra else []), "",
        "## How they were made", "",
    ]  # fmt: skip
    if found.origins:
        lines += ["| what differs | ours | theirs | files |", "|---|---|---|---|"]
        for (what, *pair), files in found.origins.items():
            shown = [_cell(value[:12] if what.startswith("code of") else value) for value in pair]
            where = files[0] if len(files) == 1 else f"{len(files)}, such as {files[0]}"
            lines.append(f"| {_cell(what)} | {' | '.join(shown)} | {where} |")
    else:
        lines.append("With the same settings, code, versions and device.")
    lines += ["", "## What came out", "",
              "| file | variable | agreement | largest deviation | |", "|---|---|---|---|---|"]  # fmt: skip
    for row in found.rows:
        deviation = f"{row.deviation:.2g}" if row.deviation == row.deviation else "–"
        cells = row.file, row.variable or "all", row.level, deviation, row.note
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Another lab's words, short and printable, in a table."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text).replace("|", "/")
    return plain if len(plain) <= 60 else plain[:57] + "..."
