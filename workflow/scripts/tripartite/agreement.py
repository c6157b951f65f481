"""How far the results of two labs agree, for each file and each variable.

Texts, integers and truth values agree if they are equal. Numbers agree within rounding if no
element differs by more than ROUNDING, relative to the larger of both or to the median of the
variable, whichever is larger. Fitted values, which have 95 % intervals, also agree if a t test does
not reject equality, at 5 % for all values of all variables together (Bonferroni): 95 % of
independent replicates agree in all values. Otherwise they contradict each other. A fit that failed
in one lab only is no contradiction if settings differ, about as many fits failed in the other lab,
and other fits of the file can be compared. All other differences are not judged: of values without
intervals, and of values fitted to data with other settings.
"""

import contextlib
import json
from collections.abc import Container, Hashable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.stats import binomtest, t

from tripartite import job
from tripartite.contracts import UserError
from tripartite.declarations import variables

# Relative tolerances; that of float32 is also used for values made from float32 data that differ.
ROUNDING = {"float64": 1e-9, "float32": 1e-4}
LEVELS = {  # from best to worst
    "identical": "all values are equal",
    "rounding": "numbers differ by no more than rounding",
    "agrees": "fitted values differ by no more than their intervals allow",
    "not judged": (
        "values differ by more than rounding, and there are no intervals to judge them by, or "
        "the data differ"
    ),
    "contradicts": "fitted values differ by more than their intervals allow",
    "missing": "the other results have no such file or variable, or not all of its labels",
}
EQUAL = ("identical", "rounding")
FREEDOM = 3  # degrees of freedom of intervals that are not over seeds, but over four inputs
MAX_SEEDS = 1_000_000  # a larger number in a file is ignored
MAX_CHARACTERS = 1_000_000  # of an attribute of another lab
MAX_DEPTH = 50  # of nested brackets in an attribute of another lab
MAX_ROWS = 100  # of the table of origins
NO_INTERVALS = (  # low and high are not the ends of an interval for the value of a replicate
    "log_calcium",  # quantiles of networks
    "power_simulated",  # from different numbers of trials
)
ORDER = ("qkv", "attention", "states")  # these are compared first, since others are made from them


class Row(NamedTuple):
    file: str
    variable: str  # "" for the whole file
    level: str
    deviation: float  # the largest relative one; NaN where values are no numbers
    note: str = ""
    fitted: bool = False  # has an interval in our file
    chances: np.ndarray = np.empty(0)  # p values of the differences between fitted values
    alone: tuple[int, int] = (0, 0)  # numbers of fitted values only in our file, only in theirs


class Comparison(NamedTuple):
    rows: list[Row]
    # (what, ours, theirs) -> files that differ in it
    origins: dict[tuple[str, str, str], list[str]]
    extra: list[str]  # files that only the other lab has
    figures: dict[str, int]  # numbers of identical, different and missing figures


def compare(files: list[Path], folder: Path) -> Comparison:
    """Compare all files of a study with those of the same names in the folder of another lab.

    UserError if one of our files is missing, if there is no common file, or if a file is damaged.
    """
    ours = {job.key(path): path for path in filter(job.is_contract, files)}
    theirs = {
        job.key(path): path for path in filter(job.is_contract, sorted(folder.glob("*/*.nc")))
    }
    if not ours.keys() & theirs.keys():
        raise UserError(
            f"{folder}: holds {', '.join(map(_cell, sorted(theirs)[:3]))}, but no file of this "
            f"study, such as {sorted(ours)[0]}; give results of the same study"
        )
    comparison = Comparison([], {}, [key for key in theirs if key not in ours], {})
    coarse: dict[str, bool] = {}  # whether made in float32, or from such data that differ
    foreign: dict[str, bool] = {}  # whether made from data that differ, with other settings
    for key in sorted(ours, key=lambda key: _rank(ours[key].stem)):
        if not ours[key].is_file():
            raise UserError(f"{ours[key]}: is missing; run the study first")
        if key not in theirs:
            names = variables(ours[key].stem)
            fitted = any(is_fitted(name, names) for name in names)
            comparison.rows.append(Row(key, "", "missing", np.nan, fitted=fitted))
            continue
        mine, other = job.load(ours[key]), job.load(theirs[key])
        _check_labels(other, theirs[key])
        origins = _origin(mine, ours[key]), _origin(other, theirs[key])
        upstream = _json(mine, "upstream", ours[key])
        coarse[key] = any(coarse.get(name) for name in upstream)
        foreign[key] = any(foreign.get(name) for name in upstream)
        coarse[key] |= _is_coarse(mine, ours[key]) or _is_coarse(other, theirs[key])
        n_seeds = _n_seeds(mine, ours[key]), _n_seeds(other, theirs[key])
        rows = agree(key, mine, other, ROUNDING["float32" if coarse[key] else "float64"], n_seeds)
        comparison.rows.extend(map(_not_judged, rows) if foreign[key] else rows)
        a, b = origins
        differ = {what for what in a | b if a.get(what) != b.get(what)}
        if ours[key].stem == "qkv":
            coarse[key] = any(row.level != "identical" for row in rows)
            foreign[key] = any(row.level in ("not judged", "missing") for row in rows)
            foreign[key] &= any(_is_setting(what) for what in differ)
        for what in sorted(differ):
            ours_, theirs_ = (_cell(str(flat.get(what, "not there"))) for flat in origins)
            comparison.origins.setdefault((what, ours_, theirs_), []).append(key)
    chance = any(_is_setting(what) for what, *_ in comparison.origins)
    n_rows = max(1, sum(bool(row.chances.size or any(row.alone)) for row in comparison.rows))
    judged = {row.file for row in comparison.rows if row.chances.size}
    comparison.rows[:] = [
        _judged(row, n_rows, chance and row.file in judged) for row in comparison.rows
    ]
    for path in files:
        if not job.is_contract(path):
            twin = folder / path.parent.name / path.name
            same = twin.is_file() and twin.stat().st_size == path.stat().st_size
            same = same and twin.read_bytes() == path.read_bytes()
            level = "identical" if same else "different" if twin.is_file() else "missing"
            comparison.figures[level] = comparison.figures.get(level, 0) + 1
    return comparison


def agree(
    key: str, ours: xr.Dataset, theirs: xr.Dataset, rounding: float, n_seeds: tuple[int, int]
) -> list[Row]:
    """One row for each variable of two files of the same name, or one if all are identical.

    The ends of an interval belong to the row of the estimate. n_seeds: of both files, 0 if unknown.
    The level "agrees" means that `_judged` still has to decide.
    """
    names = [name for name in map(str, ours.variables) if not _is_end(name, ours.variables)]
    rows = [_agree(key, name, ours, theirs, rounding, n_seeds) for name in names]
    if all(row.level == "identical" for row in rows):
        together = np.concatenate([row.chances for row in rows])
        fitted = any(row.fitted for row in rows)
        return [Row(key, "", "identical", 0, f"{len(ours.variables)} variables", fitted, together)]
    return rows


def _agree(
    key: str,
    name: str,
    ours: xr.Dataset,
    theirs: xr.Dataset,
    rounding: float,
    n_seeds: tuple[int, int],
) -> Row:
    """The row of one variable and its interval."""
    fitted = is_fitted(name, ours.variables)
    names = [name, f"{name}_low", f"{name}_high"] if fitted else [name]
    if absent := [part for part in names if part not in theirs.variables]:
        return Row(key, name, "missing", np.nan, f"no {absent[0]}", fitted)
    shared, lost, note = _shared(names, ours, theirs)
    if shared is None:
        return Row(key, name, "missing", np.nan, note, fitted)
    ours, theirs = shared
    a, b = ours[name].values, theirs[name].values
    if a.dtype.kind != "f":
        n_other = int((a != b).sum())
        note = "; ".join(filter(None, [note, f"{n_other} of {a.size} differ" if n_other else ""]))
        level = "not judged" if n_other else "missing" if lost else "identical"
        return Row(key, name, level, np.nan if n_other else 0, note, fitted)
    if a.dtype == np.float32:
        rounding = ROUNDING["float32"]
    differ = deviations(a, b)
    worst = float(differ.max(initial=0))
    largest = max(deviations(ours[x].values, theirs[x].values).max(initial=0) for x in names)
    level = "identical" if not largest else "rounding" if largest <= rounding else "agrees"
    chance = chances(ours, theirs, name, n_seeds) if fitted else np.full(a.shape, np.nan)
    judged = ~np.isnan(chance)
    chance[judged & (differ <= rounding)] = 1.0
    in_ours, in_theirs = np.isfinite(a), np.isfinite(b)
    n_values = (in_ours | in_theirs).sum()
    only = (0, 0)
    if fitted:
        only = int((in_ours & ~in_theirs).sum()), int((in_theirs & ~in_ours).sum())
    notes = [note] * bool(note)
    if level == "agrees" and not fitted:
        level = "not judged"
        notes.append(f"{(differ > rounding).sum()} of {n_values} differ")
    elif level == "agrees":
        no_interval = in_ours & in_theirs & ~judged & (differ > rounding)
        if no_interval.any():
            notes.append(f"{no_interval.sum()} of {n_values} have no interval")
        if judged.any() and not 0.5 <= (wider := _wider(ours, theirs, name)) <= 2:
            notes.append(f"their intervals are {wider:.2g} times as wide")
        if not judged.any() and not any(only):
            level = "not judged"
    fitted = fitted and bool(judged.any() or any(only) or lost)
    level = "missing" if lost and level != "not judged" else level
    return Row(key, name, level, worst, "; ".join(notes), fitted, chance[judged], only)


def _judged(row: Row, n_rows: int, chance: bool) -> Row:
    """The row with the level by its p values; n_rows: rows that are judged.

    chance: whether fits that only one lab has can be due to chance, because settings differ.
    """
    if row.level not in ("agrees", "missing"):
        return row
    contradicts, notes = False, [row.note] * bool(row.note)
    if n_differ := int((row.chances < 0.05 / n_rows / max(1, row.chances.size)).sum()):
        contradicts = True
        notes.append(f"{n_differ} of {row.chances.size} differ, p down to {row.chances.min():.1g}")
    if any(row.alone):
        contradicts |= not chance or binomtest(row.alone[0], sum(row.alone)).pvalue < 0.05 / n_rows
        notes.append(f"{row.alone[0]} only here, {row.alone[1]} only there")
    return row._replace(level="contradicts" if contradicts else row.level, note="; ".join(notes))


def _not_judged(row: Row) -> Row:
    """A row of what is fitted to data of other settings."""
    level = "not judged" if row.level == "agrees" else row.level
    return row._replace(level=level, fitted=False, chances=np.empty(0), alone=(0, 0))


def is_fitted(name: str, names: Container[Hashable]) -> bool:
    """True for an estimate with both ends of its interval among the names."""
    return f"{name}_low" in names and f"{name}_high" in names and name not in NO_INTERVALS


def _is_end(name: str, names: Container[Hashable]) -> bool:
    stem, _, end = name.rpartition("_")
    return end in ("low", "high") and is_fitted(stem, names)


def chances(
    ours: xr.Dataset, theirs: xr.Dataset, name: str, n_seeds: tuple[int, int]
) -> np.ndarray:
    """p values of Student's t test of two estimates, from their intervals; NaN without intervals.

    Of each interval the half towards the other estimate is used. The intervals are Student's over
    n_seeds seeds, whose values have the same distribution in both labs (0: not over seeds).
    """
    over_seeds = min(n_seeds) > 1
    freedom = np.array(n_seeds) - 1 if over_seeds else np.full(2, FREEDOM)
    n = np.array(n_seeds) if over_seeds else np.ones(2)
    a, b = (lab[name].values.astype(np.float64) for lab in (ours, theirs))
    with np.errstate(all="ignore"):
        below, above = (
            [np.abs(lab[f"{name}_{end}"].values - lab[name].values) for lab in (ours, theirs)]
            for end in ("low", "high")
        )
        half = np.where(a < b, above[0], below[0]), np.where(a < b, below[1], above[1])
        variances = (np.stack(half, -1) / t.isf(0.025, freedom)) ** 2 * n  # of one seed
        error = np.sqrt(variances @ freedom / freedom.sum() * (1 / n).sum())
        p = 2 * t.sf(np.abs(a - b) / error, freedom.sum())
    p = np.where(a == b, 1.0, np.where(error == 0, 0.0, p))
    return np.where(np.isfinite(error), p, np.nan)


def _wider(ours: xr.Dataset, theirs: xr.Dataset, name: str) -> float:
    """Median ratio of the widths of intervals, theirs over ours."""
    widths = [lab[f"{name}_high"].values - lab[f"{name}_low"].values for lab in (theirs, ours)]
    with np.errstate(all="ignore"):
        ratio = widths[0] / widths[1]
    return float(np.median(ratio[np.isfinite(ratio)])) if np.isfinite(ratio).any() else 1.0


def deviations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Relative differences of two arrays; 0 where both are NaN or equally inf, inf where one is."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    finite = np.abs(a[np.isfinite(a)])
    floor = np.median(finite) if finite.size else 0.0
    with np.errstate(all="ignore"):
        differ = np.abs(a - b) / np.maximum(np.maximum(np.abs(a), np.abs(b)), floor)
    differ = np.where(np.isfinite(differ), differ, np.inf)
    return np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, differ)


def failures(rows: list[Row]) -> list[Row]:
    """Rows of fitted values that contradict each other or are missing.

    If no fitted value could be judged, all rows that differ or are missing: then no row shows that
    the results agree.
    """
    if any(row.fitted for row in rows):
        return [row for row in rows if row.fitted and row.level in ("contradicts", "missing")]
    return [row for row in rows if row.level not in EQUAL]


def _check_labels(dataset: xr.Dataset, path: Path) -> None:
    """UserError if an axis has two equal labels: its values could not be compared."""
    for dim, index in dataset.indexes.items():
        if not index.is_unique:
            label = _cell(str(index[index.duplicated()][0]))
            raise UserError(f"{path}: {dim} has the label {label} twice; ask for it again")


def _rank(stem: str) -> int:
    return ORDER.index(stem) if stem in ORDER else len(ORDER)


def _shared(
    names: list[str], ours: xr.Dataset, theirs: xr.Dataset
) -> tuple[tuple[xr.Dataset, xr.Dataset] | None, bool, str]:
    """Variables at the labels that both have; whether theirs lack some of ours; and a note."""
    a, b = (
        lab[names].reset_coords(drop=False) if names[0] not in lab.dims else lab
        for lab in (ours, theirs)
    )
    lost, notes = False, []
    for dim in ours[names[0]].dims:
        if dim in ours.coords and dim in theirs.coords and names[0] != dim:
            labels = set(theirs[dim].values.tolist())
            common = [label for label in ours[dim].values if label in labels]
            if not common:
                return None, True, f"other {dim}"
            sizes = ours.sizes[dim], theirs.sizes[dim]
            if len(common) < max(sizes):
                notes.append(f"{len(common)} {dim} shared of {sizes[0]} and {sizes[1]}")
            lost |= len(common) < sizes[0]
            a, b = a.sel({dim: common}), b.sel({dim: common})
        elif ours.sizes[dim] != theirs.sizes.get(dim):
            return None, True, f"other {dim}"
    return (a, b), lost, "; ".join(notes)


def _n_seeds(dataset: xr.Dataset, path: Path) -> int:
    """The smallest n_seeds in the settings of a file or of its inputs; 0 without any."""
    numbers = [n for n in _settings(dataset, "n_seeds", path) if type(n) is int]
    return min((n for n in numbers if 0 <= n <= MAX_SEEDS), default=0)


def _settings(dataset: xr.Dataset, key: str, path: Path) -> list[object]:
    """All values of a setting in the settings of a file and of its inputs."""
    names = [name for name in ("settings", "upstream_settings") if name in dataset.attrs]
    leaves = [leaf for name in names for leaf in _leaves("", _json(dataset, name, path))]
    return [value for name, value in leaves if name.rpartition(".")[2] == key]


def _text(dataset: xr.Dataset, key: str, path: Path) -> str:
    """An attribute that must be a text, "" if missing; UserError if it is no text or too long."""
    text = dataset.attrs.get(key, "")
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        got = "a text of more than 1 MB" if isinstance(text, str) else type(text).__name__
        raise UserError(
            f"{path}: got {got} as its attribute {key}, wanted a text; ask for it again"
        )
    return text


def _json(dataset: xr.Dataset, key: str, path: Path) -> dict:
    """An attribute that holds a mapping as JSON; UserError if it does not or is nested deeply."""
    text, mapping = _text(dataset, key, path), None
    depth = max(accumulate((c in "[{") - (c in "]}") for c in text), default=0)
    with contextlib.suppress(ValueError):
        mapping = json.loads(text) if depth <= MAX_DEPTH else None
    if not isinstance(mapping, dict):
        raise UserError(f"{path}: its attribute {key} is missing or damaged; ask for it again")
    return mapping


def _origin(dataset: xr.Dataset, path: Path) -> dict[str, object]:
    """How a file was made: data, device, code, versions and settings, by name."""
    flat = {key: _text(dataset, key, path) for key in ("data", "device", "processor")}
    stage = _text(dataset, "stage", path) or path.stem
    flat[f"code of {stage}"] = _text(dataset, "code_digest", path)
    versions = _json(dataset, "versions", path)
    flat |= {f"version of {name}": value for name, value in versions.items()}
    return flat | dict(_leaves("", _json(dataset, "settings", path)))


def _is_setting(what: str) -> bool:
    made_with = what.startswith(("code of ", "version of "))
    return not made_with and what not in ("data", "device", "processor")


def _is_coarse(dataset: xr.Dataset, path: Path) -> bool:
    """True if the settings of a file or of its inputs have a type below float64."""
    return any(x in ("float32", "bfloat16") for x in _settings(dataset, "dtype", path))


def _leaves(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Every value of nested settings, with its dotted name."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(f"{name}.{key}".lstrip("."), part)
    else:
        yield name, value


def summary(comparison: Comparison, study: str, other: str) -> str:
    """A page in Markdown: what agrees, how both were made, which fitted values do not agree."""
    counts = {level: sum(row.level == level for row in comparison.rows) for level in LEVELS}
    fitted = [row for row in comparison.rows if row.fitted]
    bad = failures(comparison.rows)
    rest = sum(row.level not in EQUAL and not row.fitted for row in comparison.rows)
    judged = [row.chances for row in comparison.rows if row.chances.size]
    unlike = sum(int((chance < 0.05).sum()) for chance in judged)
    data = [
        row.file for row in comparison.rows if "/qkv." in row.file and row.level == "not judged"
    ]
    verdict = f"{len(fitted) - len(bad)} of {len(fitted)} rows of fitted values agree."
    if not fitted:
        verdict = "There is no fitted value that can be judged."
    if not any(row.level not in EQUAL for row in comparison.rows):
        verdict += f" All {len(comparison.rows)} rows are identical or differ by rounding only."
    elif rest:
        verdict += f" Rows that differ or are missing, and are not judged: {rest}."
    lines = [f"# {study}, beside {_cell(other)}", "", verdict, ""]
    if data:
        lines += [
            f"**The data differ** ({', '.join(dict.fromkeys(data))}): what is fitted to them "
            "is no replicate, and is not judged if their settings differ.",
            "",
        ]
    lines += [
        "| level | means | rows |",
        "|---|---|---|",
        *(f"| {level} | {words} | {counts[level]} |" for level, words in LEVELS.items()),
        "",
        f"Rounding: {ROUNDING['float64']:g} relative, {ROUNDING['float32']:g} for what is "
        "computed in float32 or made from float32 data that differ.",
        f"Intervals: Student's t test of {sum(chance.size for chance in judged)} fitted values in "
        f"{len(judged)} variables, at 5 % for all of them together (Bonferroni over variables, "
        f"and over the values of each). {unlike} differ at 5 % for each alone; of replicates "
        "about 5 % do.",
    ]
    if comparison.figures:
        numbers = ", ".join(f"{n} {level}" for level, n in comparison.figures.items())
        lines.append(f"Figures, byte by byte: {numbers}.")
    if comparison.extra:
        lines.append(f"Only the other has {_several(comparison.extra)}.")
    lines += ["", "## How they were made", ""]
    if comparison.origins:
        lines += ["| what differs | ours | theirs | files |", "|---|---|---|---|"]
        for (what, *pair), files in list(comparison.origins.items())[:MAX_ROWS]:
            shown = [_cell(value[:12] if what.startswith("code of") else value) for value in pair]
            where = files[0] if len(files) == 1 else f"{len(files)}, such as {files[0]}"
            lines.append(f"| {_cell(what)} | {' | '.join(shown)} | {where} |")
        if len(comparison.origins) > MAX_ROWS:
            lines += ["", f"{len(comparison.origins) - MAX_ROWS} more differ."]
    else:
        lines.append("What both have was made with the same settings, code, versions and device.")
    if bad:
        lines += ["", "## What does not agree", "", *_listed(bad)]
    return "\n".join(lines) + "\n"


def table(comparison: Comparison) -> str:
    """All rows, in Markdown."""
    return "\n".join(["## All that was compared", "", *_listed(comparison.rows)]) + "\n"


def _listed(rows: list[Row]) -> list[str]:
    lines = ["| file | variable | agreement | largest relative deviation | note |"]
    lines.append("|---|---|---|---|---|")
    for row in rows:
        deviation = f"{row.deviation:.2g}" if row.deviation == row.deviation else "–"
        cells = row.file, row.variable or "all", row.level, deviation, row.note
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _several(names: list[str]) -> str:
    """The first names of a list, and the number of others."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(_cell, names[:5])) + more


def _cell(text: str) -> str:
    """A text of another lab for the cell of a table: short and printable."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text).replace("|", "/")
    return plain if len(plain) <= 60 else plain[:57] + "..."
