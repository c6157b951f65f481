"""The numbers that claims rest on, taken from files of experiments by the labels of their axes.

A number is an estimate with the ends of its 95 % interval, NaN where its file has none, and
infinite where only the other end is known. A mean, median, minimum or maximum of several values has
as ends what it is if all values are at their lower ends at once, and at their upper ends: that is
rather too wide. Ends of a count are what is certain by all intervals, and what is possible.
kinds/claims/kind.yaml describes what can be asked.
"""

import operator
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from tripartite.contracts import UserError
from tripartite.kinds.claims.terms import HEADS, PAIR
from tripartite.statistics import LEVEL

Fits = Mapping[str, xr.Dataset]
Estimates = dict[str, xr.DataArray]  # value, low and high
Values = dict[str, np.ndarray]  # the same of the known values, one after another
Triple = tuple[float, float, float]

LOG10 = "log10_"  # begins the names of variables that are logarithms
NONE = (np.nan, np.nan)  # the ends of a number without interval
STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": np.mean,
    "median": np.median,
    "min": np.min,
    "max": np.max,
}


class Lacking(Exception):
    """What a study does not have, in words."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """An estimate with the ends of its interval (NaN without one), and of how many values."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    n_values: int = 0
    unit: str = ""
    lacks: str = ""  # what is missing, in words
    heads: frozenset = frozenset()  # attention heads that it is taken from, if it is one of heads

    @property
    def has_interval(self) -> bool:
        return not np.isnan(self.low)

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends; the estimate itself if there is no interval."""
        return (self.low, self.high) if self.has_interval else (self.value, self.value)


def names(given: str | list[str]) -> list[str]:
    """One name or several as a list."""
    return [given] if isinstance(given, str) else list(given)


def number(fits: Fits, spec: dict, where: str) -> Number:
    """The number that `spec` describes; one that lacks something if the study does not have it.

    fits: files by the names of their experiments; where: the key of the number, for messages.
    UserError if one value is wanted and several are selected, or if it cannot be computed.
    """
    try:
        parts = {name: _values(fits, name, spec) for name in names(spec["experiment"])}
        for name, part in parts.items():
            if not part["value"].size:
                raise Lacking(f"{name}: no value of {spec['variable']} is known there")
        heads = frozenset(
            (fits[name].attrs.get("data", name), place)
            for name, part in parts.items()
            for place in np.unique(part.pop("head", np.array([]))).tolist()
        )
        joined = {key: np.concatenate([part[key] for part in parts.values()]) for key in [*part]}
        value, *ends = map(float, _taken(joined, spec, where))
    except Lacking as lack:
        return Number(lacks=str(lack))
    first = fits[names(spec["experiment"])[0]]
    pure = spec.get("take") in ("count", "share", "slope")
    pure |= spec.get("against", {}).get("as") == "ratio"
    unit = "1" if pure else str(first[spec["variable"]].attrs.get("units", ""))
    low, high = sorted(ends) if not np.isnan(ends).any() else NONE
    n_values = joined["value"].size
    return Number(value=value, low=low, high=high, n_values=n_values, unit=unit, heads=heads)


def _fit(fits: Fits, name: str) -> xr.Dataset:
    if name not in fits:
        raise Lacking(f"there is no experiment {name}")
    return fits[name]


def _values(fits: Fits, name: str, spec: dict) -> Values:
    """The known values of one experiment with their ends, and what is compared with each of them.

    Arrays value, low, high; other_value, other_low, other_high of the variable in `that`; x of the
    axis in `along`; the place of its head, of a variable that is one of heads.
    """
    fit, at = _fit(fits, name), spec.get("at", {})
    found = _estimates(fit, name, spec["variable"], at)
    if against := spec.get("against"):
        second = against.get("experiment", name)
        variable = against.get("variable", spec["variable"])
        theirs = _estimates(_fit(fits, second), second, variable, at | against.get("at", {}))
        found, theirs = _on_one_scale(spec["variable"], found, variable, theirs)
        found = _compared(found, theirs, against["as"])
    ((condition, bound),) = spec.get("that", {"": 0}).items()
    if isinstance(bound, str) and condition != "equals":
        theirs = _estimates(fit, name, bound, at)
        found, theirs = _on_one_scale(spec["variable"], found, bound, theirs)
        found |= {f"other_{key}": part for key, part in theirs.items()}
    if "along" in spec:
        if spec["along"] not in found["value"].dims:
            raise Lacking(f"{name}: {spec['variable']} has no axis {spec['along']} left")
        found["x"] = fit[spec["along"]].reset_coords(drop=True)
    if restriction := spec.get("where"):
        found["kept"] = _kept(fit, name, restriction, at)
    if {*PAIR} <= {*fit[spec["variable"]].dims}:
        shape = tuple(fit.sizes[dim] for dim in PAIR)
        places = fit.assign({HEADS: (PAIR, np.arange(np.prod(shape)).reshape(shape))})
        found["head"] = _selected(places, name, HEADS, at)
    arrays = xr.broadcast(*xr.align(*found.values(), join="inner"))
    flat = {key: part.values.ravel() for key, part in zip(found, arrays)}
    known = _is_known(flat["value"]) & flat.pop("kept", np.array(True)).astype(bool)
    if "other_value" in flat:
        known &= _is_known(flat["other_value"])
    if condition == "containing":
        known &= _is_known(flat["low"])
    return {key: part[known] for key, part in flat.items()}


def _is_known(values: np.ndarray) -> np.ndarray:
    """Texts that are not empty, numbers that are not NaN."""
    return values != "" if values.dtype.kind in "OUT" else ~np.isnan(values.astype(float))


def _estimates(fit: xr.Dataset, name: str, variable: str, at: dict) -> Estimates:
    """A variable with its ends, NaN without them, at the selected labels."""
    value = _selected(fit, name, variable, at)
    nothing = xr.full_like(value, np.nan, dtype=float)
    low, high = (
        _selected(fit, name, key, at) if (key := f"{variable}_{end}") in fit.variables else nothing
        for end in ("low", "high")
    )
    one_sided = low.isnull() != high.isnull()
    infinite = {"low": low.fillna(-np.inf), "high": high.fillna(np.inf)}
    return {
        "value": value,
        "low": low.where(~one_sided, infinite["low"]),
        "high": high.where(~one_sided, infinite["high"]),
    }


def _on_one_scale(
    name: str, ours: Estimates, other: str, theirs: Estimates
) -> tuple[Estimates, Estimates]:
    """Two variables to compare: if one alone is a log10_..., ten to the power of it."""
    both = []
    for own, second, estimates in ((name, other, ours), (other, name, theirs)):
        if own.startswith(LOG10) and not second.startswith(LOG10):
            with np.errstate(over="ignore"):
                estimates = {key: 10.0**part for key, part in estimates.items()}
        both.append(estimates)
    return both[0], both[1]


def _selected(fit: xr.Dataset, name: str, variable: str, at: dict) -> xr.DataArray:
    """A variable at labels of its axes; labels of axes that it does not have change nothing.

    Several labels of one axis, such as its index and another coordinate, must all hold.
    """
    if variable not in fit.variables:
        raise Lacking(f"{name} has no variable {variable}")
    array = fit[variable]
    chosen: dict[Hashable, np.ndarray] = {}
    single: set[Hashable] = set()
    for key, wanted in at.items():
        if key == HEADS:
            if {"layer", "head"} <= {*array.dims}:
                array = _at_heads(fit, name, array, wanted)
            continue
        if key not in fit.variables and key not in fit.dims:
            raise Lacking(f"{name} has no axis {key}")
        labels = fit[key]
        if labels.ndim > 1 or not {*labels.dims} <= {*array.dims}:
            continue
        several = wanted if isinstance(wanted, list) else [wanted]
        there = np.any([_places(labels, name, key, label) for label in several], 0)
        for dim in labels.dims:
            chosen[dim] = chosen.get(dim, np.array(True)) & there
            single |= set() if isinstance(wanted, list) else {dim}
    for dim, mask in chosen.items():
        if not mask.any():
            raise Lacking(f"{name} has no {dim} at which all of {at} hold")
        alone = dim in single and mask.sum() == 1
        array = array.isel({dim: int(np.argmax(mask)) if alone else np.flatnonzero(mask)})
    return array.reset_coords(drop=True)


def _at_heads(fit: xr.Dataset, name: str, array: xr.DataArray, pairs: list) -> xr.DataArray:
    """A variable at pairs of layer and head, along a new axis."""
    places = [
        [int(np.argmax(_places(fit[dim], name, dim, label))) for dim, label in zip(PAIR, pair)]
        for pair in pairs
    ]
    layers, heads = (xr.DataArray(list(part), dims=HEADS) for part in zip(*places))
    return array.isel(layer=layers, head=heads)


def _places(labels: xr.DataArray, name: str, key: str, wanted: object) -> np.ndarray:
    """Where a label is; numbers are equal to nine digits."""
    if isinstance(wanted, int | float) and labels.dtype.kind in "fiu":
        same = np.isclose(labels.values.astype(float), wanted, rtol=1e-9, atol=0)
    else:
        same = labels.astype(str).values == str(wanted)
    if not same.any():
        raise Lacking(f"{name} has no {key} {wanted}")
    return same


def _compared(ours: Estimates, theirs: Estimates, how: str) -> Estimates:
    """Ratio or difference of values, with the extremes that both intervals allow as ends.

    Ends are infinite where the denominator may be zero.
    """
    compare = operator.truediv if how == "ratio" else operator.sub
    has = [part["low"].notnull() for part in (ours, theirs)]
    ends = [
        [part[end].where(there, part["value"]) for end in ("low", "high")]
        for part, there in zip((ours, theirs), has)
    ]
    with np.errstate(all="ignore"):
        value = compare(ours["value"], theirs["value"])
        corners = [compare(one, other) for one in ends[0] for other in ends[1]]
    together = xr.concat(xr.broadcast(*xr.align(*corners, join="inner")), "corner")
    bounded = together.notnull().all("corner")
    if how == "ratio":
        bounded &= (ends[1][0] > 0) | (ends[1][1] < 0)
    known = has[0] | has[1]
    return {
        "value": value,
        "low": together.min("corner").where(bounded, -np.inf).where(known),
        "high": together.max("corner").where(bounded, np.inf).where(known),
    }


def _kept(fit: xr.Dataset, name: str, restriction: dict, at: dict) -> xr.DataArray:
    """Where the values count."""
    other = _selected(fit, name, restriction["variable"], at | restriction.get("at", {}))
    kept = xr.ones_like(other, dtype=bool)
    if "equals" in restriction:
        kept &= other == restriction["equals"]
    if "above" in restriction:
        kept &= other > restriction["above"]
    if "below" in restriction:
        kept &= other < restriction["below"]
    return kept


def _taken(values: Values, spec: dict, where: str) -> Triple:
    """What is taken of the known values: estimate, lower and upper end."""
    take, value, ends = spec.get("take", "value"), values["value"], (values["low"], values["high"])
    if take == "value":
        if value.size > 1:
            raise UserError(
                f"{where}: selects {value.size} values of {spec['variable']}; select one with at, "
                "or say what is taken of them with take"
            )
        return value[0], ends[0][0], ends[1][0]
    if take in STATISTICS:
        statistic = STATISTICS[take]
        low, high = map(statistic, ends) if not np.isnan(ends).any() else NONE
        return statistic(value), low, high
    if take == "slope":
        x, y = values["x"].astype(float), value.astype(float)
        if (x <= 0).any() or (y <= 0).any():
            raise UserError(f"{where}: a slope of logarithms needs numbers above 0; use where")
        return _slope(np.log(x), np.log(y))
    count, certain, possible = _counts(values, spec)
    scale = value.size if take == "share" else 1
    return count / scale, certain / scale, possible / scale


def _slope(x: np.ndarray, y: np.ndarray) -> Triple:
    """Slope of y against x by least squares, with Student's t interval of its residuals."""
    if np.ptp(x) == 0:
        raise Lacking("a slope needs two sizes")
    dx = x - x.mean()
    slope = (dx * y).sum() / (dx * dx).sum()
    if len(x) == 2:
        return slope, *NONE
    rest = y - y.mean() - slope * dx
    error = np.sqrt((rest * rest).sum() / (len(x) - 2) / (dx * dx).sum())
    half = stdtrit(len(x) - 2, (1 + LEVEL) / 2) * error
    return slope, slope - half, slope + half


def _counts(values: Values, spec: dict) -> Triple:
    """How many values there are for which `that` holds, is certain and is possible.

    Both ends are NaN where nothing has an interval, and where an interval itself is asked about.
    """
    ((condition, bound),) = spec["that"].items()
    if condition == "equals":
        return (values["value"] == bound).sum(), *NONE
    ours = [values[key].astype(float) for key in ("value", "low", "high")]
    if isinstance(bound, str):
        theirs = [values[f"other_{key}"].astype(float) for key in ("value", "low", "high")]
    else:
        theirs = [np.full(ours[0].shape, part) for part in (float(bound), *NONE)]
    if condition == "containing":
        return ((ours[1] <= theirs[0]) & (theirs[0] <= ours[2])).sum(), *NONE
    if condition == "below":
        ours, theirs = theirs, ours
    has_none = np.isnan([ours[1], theirs[1]]).all()
    (value, low, high), (other, other_low, other_high) = (
        [np.where(np.isnan(part), three[0], part) for part in three] for three in (ours, theirs)
    )
    count = (value > other).sum()
    ends = NONE if has_none else ((low > other_high).sum(), (high > other_low).sum())
    return count, *ends
