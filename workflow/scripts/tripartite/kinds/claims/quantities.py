"""The numbers that claims rest on, taken from files of experiments by the labels of their axes.

A number is an estimate with the ends of its 95 % interval, NaN where its file has none. A mean,
median, minimum or maximum of several values has as ends what it is if all values are at their
lower ends at once, and at their upper ends: that is rather too wide. Ends of a count are what is
certain by all intervals, and what is possible. kinds/claims/kind.yaml describes what can be asked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from tripartite.contracts import UserError
from tripartite.statistics import LEVEL

Fits = Mapping[str, xr.Dataset]
Ends = dict[str, xr.DataArray]  # value, low and high

STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": np.mean,
    "median": np.median,
    "min": np.min,
    "max": np.max,
}
OF_PLACES = "heads"  # selects pairs of layer and head


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

    @property
    def has_interval(self) -> bool:
        """Whether an end is known; the other one is infinite if it is not."""
        return not (np.isnan(self.low) and np.isnan(self.high))

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends; the estimate itself if there is no interval."""
        if not self.has_interval:
            return self.value, self.value
        low = -np.inf if np.isnan(self.low) else self.low
        return low, np.inf if np.isnan(self.high) else self.high


def names(given: str | list[str]) -> list[str]:
    """One name or several as a list."""
    return [given] if isinstance(given, str) else list(given)


def number(fits: Fits, spec: dict, where: str) -> Number:
    """The number that `spec` describes; one that lacks something if the study does not have it.

    fits: files by the names of their experiments; where: the key of the number, for messages.
    UserError if one value is wanted and several are selected.
    """
    try:
        parts = [_values(fits, name, spec) for name in names(spec["experiment"])]
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        if not joined["value"].size:
            raise Lacking("no value is known there")
        found = _taken(joined, spec, where)
    except Lacking as lack:
        return Number(lacks=str(lack))
    first = fits[names(spec["experiment"])[0]]
    pure = spec.get("take") in ("count", "share", "slope")
    pure |= spec.get("against", {}).get("as") == "ratio"
    unit = "1" if pure else str(first[spec["variable"]].attrs.get("units", ""))
    low, high = sorted((found[1], found[2])) if not np.isnan(found[1:]).any() else found[1:]
    return Number(value=found[0], low=low, high=high, n_values=joined["value"].size, unit=unit)


def _fit(fits: Fits, name: str) -> xr.Dataset:
    if name not in fits:
        raise Lacking(f"there is no experiment {name}")
    return fits[name]


def _values(fits: Fits, name: str, spec: dict) -> dict[str, np.ndarray]:
    """The known values of one experiment with their ends, and what is compared with each of them.

    Arrays value, low, high; other_value, other_low, other_high of the variable in `that`; x of the
    axis in `along`.
    """
    fit, at = _fit(fits, name), spec.get("at", {})
    found = _ends(fit, name, spec["variable"], at)
    if against := spec.get("against"):
        second = against.get("experiment", name)
        variable = against.get("variable", spec["variable"])
        theirs = _ends(_fit(fits, second), second, variable, at | against.get("at", {}))
        found = _compared(found, theirs, against["as"])
    if "that" in spec and isinstance(next(iter(spec["that"].values())), str):
        (condition, other), *_ = spec["that"].items()
        if condition != "equals":
            theirs = _ends(fit, name, other, at)
            found |= {f"other_{key}": part for key, part in theirs.items()}
    if "along" in spec:
        if spec["along"] not in found["value"].dims:
            raise Lacking(f"{name}: {spec['variable']} has no axis {spec['along']}")
        found["x"] = fit[spec["along"]].reset_coords(drop=True)
    if where := spec.get("where"):
        found["kept"] = _kept(fit, name, where, at)
    arrays = xr.broadcast(*xr.align(*found.values(), join="inner"))
    flat = {key: part.values.ravel() for key, part in zip(found, arrays)}
    is_text = flat["value"].dtype.kind in "OUT"
    known = flat["value"] != "" if is_text else ~np.isnan(flat["value"].astype(float))
    known = known & flat.pop("kept", np.ones(known.shape, bool)).astype(bool)
    return {key: part[known] for key, part in flat.items()}


def _ends(fit: xr.Dataset, name: str, variable: str, at: dict) -> Ends:
    """A variable with its ends, NaN without them, at the selected labels."""
    if variable not in fit.variables:
        raise Lacking(f"{name} has no variable {variable}")
    value = _selected(fit, name, variable, at)
    found = {"value": value}
    for end in ("low", "high"):
        key = f"{variable}_{end}"
        nothing = xr.zeros_like(value, dtype=float) * np.nan
        found[end] = _selected(fit, name, key, at) if key in fit.variables else nothing
    return found


def _selected(fit: xr.Dataset, name: str, variable: str, at: dict) -> xr.DataArray:
    """A variable at labels of its axes; labels of axes that it does not have change nothing."""
    array = fit[variable]
    for key, wanted in at.items():
        if key == OF_PLACES:
            if {"layer", "head"} <= {*array.dims}:
                places = [
                    (_place(array, name, "layer", i), _place(array, name, "head", j))
                    for i, j in wanted
                ]
                layers, heads = (xr.DataArray(list(part), dims=OF_PLACES) for part in zip(*places))
                array = array.isel(layer=layers, head=heads)
            continue
        if key not in fit.variables and key not in fit.dims:
            raise Lacking(f"{name} has no axis {key}")
        labels = fit[key]
        if labels.ndim != 1 or labels.dims[0] not in array.dims:
            continue
        (dim,) = labels.dims
        several = isinstance(wanted, list)
        one_by_one = array[key] if key in array.coords else labels
        places = [
            _place(one_by_one, name, key, label) for label in (wanted if several else [wanted])
        ]
        array = array.isel({dim: places if several else places[0]})
    return array.reset_coords(drop=True)


def _place(array: xr.DataArray, name: str, key: str, label: object) -> int:
    """The position of a label."""
    labels = array[key].values if key in array.coords else array.values
    if isinstance(label, int | float) and labels.dtype.kind in "fiu":
        same = np.isclose(labels.astype(float), label, rtol=1e-9, atol=0)
        same |= labels == label
    else:
        same = np.array([str(one) == str(label) for one in labels.ravel()])
    if not same.any():
        raise Lacking(f"{name} has no {key} {label}")
    return int(np.flatnonzero(same)[0])


def _compared(ours: Ends, theirs: Ends, how: str) -> Ends:
    """Ratio or difference of values, with the extremes that both intervals allow as ends."""
    function = np.divide if how == "ratio" else np.subtract
    has = [part["low"].notnull() | part["high"].notnull() for part in (ours, theirs)]
    ends = [
        [part[end].where(there, part["value"]) for end in ("low", "high")]
        for part, there in zip((ours, theirs), has)
    ]
    corners = [function(one, other) for one in ends[0] for other in ends[1]]
    both = xr.concat(xr.broadcast(*xr.align(*corners, join="inner")), "corner")
    known = has[0] | has[1]
    return {
        "value": function(ours["value"], theirs["value"]),
        "low": both.min("corner", skipna=False).where(known),
        "high": both.max("corner", skipna=False).where(known),
    }


def _kept(fit: xr.Dataset, name: str, where: dict, at: dict) -> xr.DataArray:
    """Where the values count."""
    if where["variable"] not in fit.variables:
        raise Lacking(f"{name} has no variable {where['variable']}")
    other = _selected(fit, name, where["variable"], at | where.get("at", {}))
    kept = xr.ones_like(other, dtype=bool)
    if "equals" in where:
        kept &= other == where["equals"]
    if "above" in where:
        kept &= other > where["above"]
    if "below" in where:
        kept &= other < where["below"]
    return kept


def _taken(values: dict[str, np.ndarray], spec: dict, where: str) -> tuple[float, float, float]:
    """What is taken of the known values: estimate, lower and upper end."""
    take = spec.get("take", "value")
    if take == "value":
        if values["value"].size > 1:
            n = values["value"].size
            raise UserError(
                f"{where}: selects {n} values of {spec['variable']}; select one with at, or say "
                "what is taken of them with take"
            )
        return tuple(float(values[key][0]) for key in ("value", "low", "high"))
    if take in STATISTICS:
        ends = [np.nan, np.nan]
        if not np.isnan(values["low"]).any() and not np.isnan(values["high"]).any():
            ends = [float(STATISTICS[take](values[end])) for end in ("low", "high")]
        return float(STATISTICS[take](values["value"])), *ends
    if take == "slope":
        return _slope(values["x"].astype(float), values["value"].astype(float))
    n, certain, possible = _counts(values, spec)
    scale = values["value"].size if take == "share" else 1
    return n / scale, certain / scale, possible / scale


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope of ln y against ln x by least squares, with Student's t interval of its residuals."""
    x, y = np.log(x), np.log(y)
    if len(x) < 2 or np.ptp(x) == 0:
        raise Lacking("a slope needs two sizes")
    dx = x - x.mean()
    slope = (dx * y).sum() / (dx * dx).sum()
    if len(x) == 2:
        return slope, np.nan, np.nan
    rest = y - y.mean() - slope * dx
    error = np.sqrt((rest * rest).sum() / (len(x) - 2) / (dx * dx).sum())
    half = stdtrit(len(x) - 2, (1 + LEVEL) / 2) * error
    return slope, slope - half, slope + half


def _counts(values: dict[str, np.ndarray], spec: dict) -> tuple[float, float, float]:
    """How many values there are for which `that` holds, is certain and is possible.

    Only where an interval contains something there is no uncertainty beside it, so that both ends
    are NaN; also of texts, and of values without intervals.
    """
    ((condition, bound), *_) = spec["that"].items()
    value = values["value"]
    if condition == "equals":
        return float((value == bound).sum()), np.nan, np.nan
    value = value.astype(float)
    if "other_value" in values:
        other, other_low, other_high = (values[f"other_{key}"] for key in ("value", "low", "high"))
    else:
        other = np.full(value.shape, float(bound))
        other_low = other_high = np.full(value.shape, np.nan)
    low, high = values["low"], values["high"]
    if condition == "containing":
        return float(((low <= other) & (other <= high)).sum()), np.nan, np.nan
    unknown = np.isnan(low).all() and np.isnan(other_low).all()
    low, high = np.where(np.isnan(low), value, low), np.where(np.isnan(high), value, high)
    other_low = np.where(np.isnan(other_low), other, other_low)
    other_high = np.where(np.isnan(other_high), other, other_high)
    if condition == "above":
        holds, certain, possible = value > other, low > other_high, high > other_low
    else:
        holds, certain, possible = value < other, high < other_low, low < other_high
    if unknown:
        return float(holds.sum()), np.nan, np.nan
    return tuple(float(part.sum()) for part in (holds, certain, possible))
