"""Claims of a study: rules of verdicts, numbers, faults, and a small study from end to end."""

import dataclasses
import itertools
import json
import re
import sys

import numpy as np
import pytest
import xarray as xr
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy import stats

import looks
from conftest import ROOT, project, snakemake
from tripartite import declarations, job, study
from tripartite.contracts import UserError
from tripartite.kinds.claims import claims as figure
from tripartite.kinds.claims import quantities, score, verdicts, wording
from tripartite.kinds.claims.quantities import Number
from tripartite.kinds.claims.verdicts import FAILS, HOLDS, MISSING, OPEN

sys.path.append(str(ROOT / "workflow/scripts"))
import write_reference  # noqa: E402

RANK = {FAILS: 0, OPEN: 1, HOLDS: 2}
OPPOSITE = {"above": "at_most", "at_most": "above", "below": "at_least", "at_least": "below"}
MIRRORED = {"above": "below", "below": "above", "at_least": "at_most", "at_most": "at_least"}
SIDED = [*OPPOSITE]
values = st.integers(-20, 20).map(lambda x: x / 4)  # so that bounds are met exactly, too
lengths = st.integers(0, 20).map(lambda x: x / 4)


@st.composite
def number(draw) -> Number:
    value = draw(values)
    if draw(st.booleans()):
        return Number(value=value, n_values=1)
    return Number(value=value, low=value - draw(lengths), high=value + draw(lengths), n_values=1)


@st.composite
def test_of(draw) -> dict:
    kind = draw(st.sampled_from([*SIDED, "within", "equal_to"]))
    if kind == "within":
        return {kind: sorted((draw(values), draw(values)))}
    more = {"tolerance": draw(lengths) + 0.25} if kind == "equal_to" else {}
    return {kind: draw(values), **more}


test_of.__test__ = False


# Rules of outcomes, verdicts and confidence.


@given(number(), st.sampled_from(SIDED), values, lengths)
def test_a_harder_bound_never_helps(one, kind, bound, step):
    step = step if kind in ("above", "at_least") else -step
    easy, hard = (verdicts.outcome(one, {kind: b}, {}) for b in (bound, bound + step))
    assert RANK[hard] <= RANK[easy]


@given(number(), test_of(), lengths, lengths)
def test_a_wider_interval_decides_nothing(one, test, left, right):
    assume(one.has_interval)
    wide = Number(value=one.value, low=one.low - left, high=one.high + right)
    assert verdicts.outcome(wide, test, {}) in {verdicts.outcome(one, test, {}), OPEN}


@given(st.lists(number(), min_size=1, max_size=4), st.sampled_from(SIDED), values)
def test_the_opposite_claim_has_the_opposite_verdict(numbers, kind, bound):
    def verdict(kind):
        return verdicts.verdict([verdicts.outcome(one, {kind: bound}, {}) for one in numbers])

    assert (verdict(kind) == "Validated") == (verdict(OPPOSITE[kind]) == "Contradicted")


@given(number(), number(), st.sampled_from(SIDED))
def test_rules_are_the_same_in_the_mirror(one, bound, kind):
    def turned(x):
        return Number(value=-x.value, low=-x.high, high=-x.low, n_values=1)

    outcome = verdicts.outcome(one, {kind: "bound"}, {"bound": bound})
    mirrored = verdicts.outcome(turned(one), {MIRRORED[kind]: "bound"}, {"bound": turned(bound)})
    assert outcome == mirrored


@given(number(), test_of())
def test_an_outcome_is_what_all_points_of_the_interval_say(one, test):
    """The slow way: the truth of the test at points of the interval, the ends included."""
    low, high = one.ends
    kind, bound = verdicts.kind_of(test), test[verdicts.kind_of(test)]
    truths = set()
    for x in np.linspace(low, high, 8 * 21 + 1) if high > low else [low]:
        truths.add(
            {
                "above": lambda x: x > bound,
                "at_least": lambda x: x >= bound,
                "below": lambda x: x < bound,
                "at_most": lambda x: x <= bound,
                "within": lambda x: bound[0] <= x <= bound[1],
                "equal_to": lambda x: abs(x - bound) <= test["tolerance"],
            }[kind](x)
        )
    # a range inside of the interval may fall between the points
    assume(not (kind in ("within", "equal_to") and truths == {False} and high > low))
    wanted = {(True,): HOLDS, (False,): FAILS}.get(tuple(truths), OPEN)
    assert verdicts.outcome(one, test, {}) == wanted


def test_the_numbers_of_the_page():
    """Ends that meet a bound, as docs/claims.md says."""
    one = Number(value=2, low=1, high=3, n_values=1)
    for test, wanted in (
        ({"above": 1}, OPEN),
        ({"at_least": 1}, HOLDS),
        ({"above": 3}, FAILS),
        ({"at_least": 3}, OPEN),
        ({"below": 3}, OPEN),
        ({"at_most": 3}, HOLDS),
        ({"below": 1}, FAILS),
        ({"at_most": 1}, OPEN),
        ({"within": [1, 3]}, HOLDS),
        ({"within": [1, 2.9]}, OPEN),
        ({"within": [3.1, 4]}, FAILS),
        ({"equal_to": 2, "tolerance": 1}, HOLDS),
        ({"tolerance": 0.5, "equal_to": 2}, OPEN),
        ({"containing": 3}, HOLDS),
        ({"containing": 3.1}, FAILS),
    ):
        assert verdicts.outcome(one, test, {}) == wanted, test
    plain = Number(value=2, n_values=1)
    assert verdicts.outcome(plain, {"containing": 2}, {}) == OPEN
    others = {"wide": Number(value=5, low=2.5, high=9), "none": Number(lacks="x")}
    assert verdicts.outcome(one, {"below": "wide"}, others) == OPEN
    assert verdicts.outcome(plain, {"below": "wide"}, others) == HOLDS
    assert verdicts.outcome(one, {"containing": "wide"}, others) == FAILS  # its estimate counts
    assert verdicts.outcome(one, {"below": "none"}, others) == MISSING
    assert verdicts.bounds({"below": "wide"}, others)[1] == 2.5
    assert verdicts.bounds({"within": [1, 3]}, {}) == (1, 3)
    assert verdicts.words({"tolerance": 0.5, "equal_to": -2}) == "equal to −2 ± 0.5"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_verdict_by_counting(n):
    for outcomes in itertools.product((HOLDS, FAILS, OPEN, MISSING), repeat=n):
        there = [one for one in outcomes if one != MISSING]
        held, failed = there.count(HOLDS), there.count(FAILS)
        if not there:
            wanted = "NotTested"
        elif held == len(there):  # of a missing test nothing is known
            wanted = "Validated" if held == n else "PartiallySupported"
        elif failed == len(there):
            wanted = "Contradicted"
        else:
            wanted = "PartiallySupported" if held else "Inconclusive"
        assert verdicts.verdict([*outcomes]) == wanted


def test_every_confidence():
    def sure(test, *numbers):
        named = {str(i): one for i, one in enumerate(numbers)}
        return verdicts.confidence(named, dict.fromkeys(named, test))

    narrow, near = (Number(value=2, low=low, high=2.5, n_values=1) for low in (1.5, 1.01))
    assert sure({"above": 1}, narrow) == "Moderate"  # 1 is met by the wider one
    assert sure({"above": 0.9}, narrow) == "High"
    assert sure({"above": 0.9}, narrow, near) == "Moderate"
    assert sure({"below": 1.01}, narrow) == "Moderate" and sure({"below": 1}, narrow) == "High"
    assert (
        sure({"containing": 2}, narrow) == "Moderate" and sure({"containing": 9}, narrow) == "High"
    )
    assert sure({"above": 2}, narrow) == "Low"  # Inconclusive
    few, many = (Number(value=2, n_values=n) for n in (19, 20))
    assert sure({"above": 1}, many) == "Moderate" and sure({"above": 1}, few) == "Low"
    assert sure({"above": 0.9}, narrow, many) == "Moderate"
    assert sure({"above": 0.9}, narrow, Number(lacks="x")) == "Low"
    assert sure({"above": 0.9}, Number(lacks="x")) == ""
    wide = Number(value=2, low=-9, high=9, n_values=1)
    assert sure({"above": 0.9}, narrow, wide) == "Low"  # the wide one could hold or fail
    below = Number(value=-20, low=-21, high=-19, n_values=1)
    assert sure({"above": 0.9}, narrow, below) == "High"
    assert sure({"above": 0.9}, narrow, wide, below) == "High"  # whatever the wide one is
    heads = [dataclasses.replace(narrow, heads=frozenset({("model", i)})) for i in range(2)]
    assert sure({"above": 0.9}, heads[0], heads[0]) == "Moderate"
    assert sure({"above": 0.9}, *heads) == sure({"above": 0.9}, heads[0], narrow) == "High"
    endless = Number(value=2, low=1.5, high=np.inf, n_values=1)
    assert sure({"above": 0.9}, endless) == "High" and sure({"below": 9}, endless) == "Low"


@given(number())
def test_an_interval_twice_as_wide_holds_the_old_one(one):
    assume(one.has_interval)
    wide = verdicts._widened(one)
    assert wide.low <= one.low and one.high <= wide.high
    shifted = verdicts._widened(Number(value=one.high + 1, low=one.low, high=one.high))
    assert shifted.low <= one.low and one.high <= shifted.high


# Numbers.


def a_fit(seed: int = 0) -> xr.Dataset:
    """A file with axes, a coordinate that is no index, texts, and intervals with gaps."""
    rng = np.random.default_rng(seed)
    dims, shape = ["size", "layer", "head"], (3, 2, 4)
    error = rng.uniform(0.5, 2, shape)
    error[0, 0, 0] = np.nan
    variables = {
        "error": (dims, error, {"units": "s"}),
        "error_low": (dims, error - rng.uniform(0.05, 0.5, shape)),
        "error_high": (dims, error + rng.uniform(0.05, 0.5, shape)),
        "law": (dims, error + rng.uniform(-0.4, 0.4, shape)),
        "log10_law": (dims, np.log10(error)),
        "other": (dims, rng.uniform(0.5, 2, shape)),
        "other_low": (dims, np.full(shape, 0.3)),
        "other_high": (dims, np.full(shape, 2.2)),
        "plain": (dims, rng.uniform(0.5, 2, shape)),
        "phase": (dims, rng.choice(["frozen", "free"], shape).astype(object)),
        "noise": ("case", [0.0, 0.1, 0.0]),
        "vesicles": ("case", [np.inf, np.inf, 100.0]),
        "spread": ("case", [1.0, 2.0, 3.0]),
    }
    coords = {"size": [0.1 + 0.2, 1.0, 10.0], "layer": [0, 1], "head": [0, 1, 2, 3]}
    coords["scheme"] = ("size", ["plain", "fitted", "plain"])
    return xr.Dataset(variables, coords)


FIT = a_fit()
FITS = {"one": FIT, "two": a_fit(1)}


def taken(**spec) -> Number:
    return quantities.number(FITS, {"experiment": "one", "variable": "error"} | spec, "claims.a")


def loop(fit: xr.Dataset, *names: str):
    """Values of variables at every place, one after another, without NaN of the first."""
    arrays = [fit[name].values for name in names]
    for place in np.ndindex(arrays[0].shape):
        if arrays[0][place] == arrays[0][place]:
            yield [array[place] for array in arrays]


@pytest.mark.parametrize("take", ["mean", "median", "min", "max"])
def test_statistics_of_values_and_of_both_ends(take):
    def slow(name):
        x = sorted(row[1] for row in loop(FIT, "error", name))
        middle = len(x) // 2
        return {
            "mean": sum(x) / len(x),
            "median": x[middle] if len(x) % 2 else (x[middle - 1] + x[middle]) / 2,
            "min": x[0],
            "max": x[-1],
        }[take]

    found = taken(take=take)
    wanted = [slow(f"error{end}") for end in ("", "_low", "_high")]
    assert [found.value, found.low, found.high] == pytest.approx(wanted)
    assert found.n_values == 23 and found.unit == "s"
    assert not taken(take=take, variable="plain").has_interval


@pytest.mark.parametrize("take", ["count", "share"])
@pytest.mark.parametrize("condition", ["above", "below"])
@pytest.mark.parametrize("other", [1.2, "law", "other"])
def test_counts_with_what_is_certain_and_possible(take, condition, other):
    held = certain = possible = n = 0
    for x, low, high, law, y, y_low, y_high in loop(
        FIT, "error", "error_low", "error_high", "law", "other", "other_low", "other_high"
    ):
        bound = {"law": (law,) * 3, "other": (y, y_low, y_high)}.get(other, (other,) * 3)
        if condition == "above":
            held, certain, possible = (
                held + (x > bound[0]),
                certain + (low > bound[2]),
                possible + (high > bound[1]),
            )
        else:
            held, certain, possible = (
                held + (x < bound[0]),
                certain + (high < bound[1]),
                possible + (low < bound[2]),
            )
        n += 1
    found = taken(take=take, that={condition: other})
    scale = n if take == "share" else 1
    wanted = np.array([held, certain, possible]) / scale
    assert [found.value, found.low, found.high] == pytest.approx([*wanted]) and found.unit == "1"
    assert certain < held < possible


def test_counts_of_texts_and_of_intervals_that_contain():
    frozen = taken(variable="phase", take="count", that={"equals": "frozen"})
    assert frozen.value == sum(x == "frozen" for (x,) in loop(FIT, "phase"))
    assert not frozen.has_interval
    found = taken(take="share", that={"containing": "law"})
    inside = [
        low <= law <= high
        for _, low, law, high in loop(FIT, "error", "error_low", "law", "error_high")
    ]
    assert found.value == sum(inside) / len(inside) and 0 < found.value < 1
    without = FIT.copy(deep=True)
    without["error_low"][2], without["error_high"][2] = np.nan, np.nan
    spec = {
        "experiment": "one",
        "variable": "error",
        "take": "share",
        "that": {"containing": "law"},
    }
    assert quantities.number({"one": without}, spec, "").n_values == 15


def test_slope_with_its_interval():
    found = taken(at={"layer": 1}, take="slope", along="size")
    x = np.log(np.repeat(FIT["size"].values, 4))
    fitted = stats.linregress(x, np.log(FIT["error"].sel(layer=1).values.ravel()))
    half = stats.t(len(x) - 2).ppf(0.975) * fitted.stderr
    wanted = [fitted.slope, fitted.slope - half, fitted.slope + half]
    assert [found.value, found.low, found.high] == pytest.approx(wanted)
    two = taken(at={"layer": 1, "head": 0, "size": [1, 10]}, take="slope", along="size")
    assert not two.has_interval
    with pytest.raises(UserError, match="needs numbers above 0"):
        negative = {"one": FIT.assign(error=-FIT["error"])}
        spec = {"experiment": "one", "variable": "error", "take": "slope", "along": "size"}
        quantities.number(negative, spec, "claims.a")


@pytest.mark.parametrize("how", ["ratio", "difference"])
def test_ratios_and_differences_allow_what_both_intervals_allow(how):
    spot = {"size": 10, "layer": 1, "head": 2}
    found = taken(at=spot, against={"variable": "other", "as": how})
    one = FIT.sel(spot)
    ours, theirs = (
        np.linspace(float(one[f"{name}_low"]), float(one[f"{name}_high"]), 50)
        for name in ("error", "other")
    )
    grid = ours[:, None] / theirs if how == "ratio" else ours[:, None] - theirs
    assert [found.low, found.high] == pytest.approx([grid.min(), grid.max()])
    plain = one["error"] / one["other"] if how == "ratio" else one["error"] - one["other"]
    assert found.value == pytest.approx(float(plain)) and found.unit == (
        "1" if how == "ratio" else "s"
    )
    across = FIT.assign(other_low=FIT["other_low"] - 0.3)  # the denominator may be zero
    spec = {"experiment": "one", "variable": "error", "at": spot}
    spec["against"] = {"variable": "other", "as": how}
    wide = quantities.number({"one": across}, spec, "")
    assert (wide.high == np.inf) == (wide.low == -np.inf) == (how == "ratio")


def test_against_another_experiment_other_labels_and_a_logarithm():
    spot = {"size": 1, "layer": 0, "head": 1}
    here, there = (float(FITS[name]["error"].sel(spot)) for name in FITS)
    found = taken(at=spot, against={"experiment": "two", "as": "difference"})
    assert found.value == pytest.approx(here - there)
    found = taken(at=spot, against={"at": {"size": 10}, "as": "ratio"})
    assert found.value == pytest.approx(here / float(FIT["error"].sel(spot | {"size": 10})))
    found = taken(at=spot, against={"variable": "log10_law", "as": "ratio"})
    assert found.value == pytest.approx(1)
    assert taken(take="share", that={"containing": "log10_law"}).value == 1
    assert taken(variable="log10_law", take="share", that={"above": "law"}).value == pytest.approx(
        np.mean([x > y for x, y in loop(FIT, "error", "law")])
    )


def test_values_of_several_experiments_are_put_together():
    found = taken(experiment=["one", "two"], take="mean")
    assert found.value == pytest.approx(np.nanmean([fit["error"] for fit in FITS.values()]))
    assert found.n_values == 46


def test_values_are_selected_by_labels():
    error = FIT["error"].values
    for at, wanted in (
        ({"size": 0.3, "layer": 1, "head": 2}, error[0, 1, 2]),  # 0.1 + 0.2 is not 0.3
        ({"size": 1, "heads": [[0, 3]]}, error[1, 0, 3]),
        ({"scheme": "fitted", "layer": 0, "head": 3}, error[1, 0, 3]),
        ({"scheme": "plain", "size": 10, "layer": 0, "head": 3}, error[2, 0, 3]),
    ):
        assert taken(at=at).value == wanted, at
    for at, wanted in (
        ({"size": [1, 10], "layer": 0}, error[1:, 0]),
        ({"size": 10, "heads": [[0, 3], [1, 0]]}, [error[2, 0, 3], error[2, 1, 0]]),
        ({"scheme": "plain", "layer": 1}, error[[0, 2], 1]),  # all places that have it
    ):
        assert taken(at=at, take="mean").value == pytest.approx(np.mean(wanted)), at
    case = taken(variable="spread", at={"noise": 0, "vesicles": 100})
    assert case.value == 3
    with pytest.raises(UserError, match=r"claims\.a: selects 2 values of spread; select one"):
        taken(variable="spread", at={"noise": 0})


def test_where_keeps_some_values():
    found = taken(take="mean", where={"variable": "phase", "equals": "frozen"})
    wanted = [x for x, phase in loop(FIT, "error", "phase") if phase == "frozen"]
    assert found.value == pytest.approx(np.mean(wanted)) and found.n_values == len(wanted)
    found = taken(take="mean", where={"variable": "law", "above": 0.8, "below": 1.5})
    wanted = [x for x, law in loop(FIT, "error", "law") if 0.8 < law < 1.5]
    assert found.value == pytest.approx(np.mean(wanted)) and 0 < len(wanted) < 23


def test_an_end_that_is_not_known_is_infinite():
    fit = FIT.copy(deep=True)
    fit["error_high"].loc[{"size": 10, "layer": 1, "head": 0}] = np.nan
    spec = {"experiment": "one", "variable": "error", "at": {"size": 10, "layer": 1, "head": 0}}
    found = quantities.number({"one": fit}, spec, "")
    assert found.has_interval and found.high == np.inf
    assert found.low == float(FIT["error_low"].sel(spec["at"]))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"experiment": "three"}, "there is no experiment three"),
        ({"against": {"experiment": "three", "as": "ratio"}}, "there is no experiment three"),
        ({"at": {"size": 2}}, "one has no size 2"),
        ({"at": {"heads": [[7, 0]]}}, "one has no layer 7"),
        ({"at": {"recipe": "x"}}, "one has no axis recipe"),
        ({"at": {"scheme": "fitted", "size": 10}}, "one has no size at which all of"),
        ({"variable": "gain"}, "one has no variable gain"),
        ({"at": {"size": 0.3, "layer": 0, "head": 0}}, "no value of error is known there"),
        ({"take": "slope", "along": "size", "at": {"size": [1]}}, "a slope needs two sizes"),
    ],
)
def test_what_a_study_lacks_is_not_tested(spec, words):
    rests_on = {"x": {"experiment": "one", "variable": "error"} | spec}
    claim = {"sentence": "It is {x}.", "part": "P", "headline": False, "rests_on": rests_on}
    row, (one,) = score.claim_row(named(FITS), "a", claim | {"test": {"above": 0}})
    assert row["verdict"] == "NotTested" and row["confidence"] == "" and words in row["reason"]
    assert row["sentence"] == "It is –." and np.isnan(one["value"]) and one["outcome"] == MISSING


def named(fits: dict) -> dict:
    return {name: fit.assign_attrs(stage="fit") for name, fit in fits.items()}


# Words.


def test_numbers_in_sentences():
    numbers = {
        "x": Number(value=-0.551, low=-0.61, high=-0.4, n_values=7),
        "none": Number(lacks="x"),
        "bare": Number(value=-0.001, n_values=1),
        "open": Number(value=2, low=1, high=np.inf),
    }
    for template, wanted in (
        ("{x}", "−0.551"),
        ("{x:.1f} of {x:n}", "−0.6 of 7"),
        ("{x:[.1f]}", "−0.6 [−0.6, −0.4]"),
        ("{x:10^[.2f]}", "0.28 [0.25, 0.40]"),
        ("{x:.0%}", "−55\N{NO-BREAK SPACE}%"),
        ("{bare:.2f}, {bare:[.1f]}", "0.00, 0.0"),
        ("{none:.2f} {open:[.0f]}", "– 2 [1, ∞]"),
    ):
        assert wording.sentence(template, numbers) == wanted


# Faults of the section.

GOOD = {
    "sentence": "It is {x:[.2f]}.",
    "rests_on": {
        "x": {"experiment": "small", "variable": "output_error_all", "at": {"n_features": 10}}
    },
    "test": {"below": 1},
}
NET = {"n_features": [10, 100], "n_seeds": 2}
HEADS = {"sigma_squared": [0.25, 0.5], "n_inputs": 2, "n_tokens": 16, "d_head": 4}
SMALL = {
    "experiments": {
        "small": {"data": {"synthetic": HEADS}, "network": NET},
        "other": {"data": {"same_as": "small"}, "network": NET | {"n_features": [100]}},
    },
    "figures": {"network": {}, "claims": {}},
}


def faults_of(folder, given: dict, name: str = "mine") -> list[str]:
    """Lines of the faults of a study."""
    (folder / "config/studies").mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(given))
    (folder / f"config/studies/{name}.yaml").write_text(yaml.safe_dump(plain))
    try:
        study.load_study(name, folder, {})
    except ValueError as error:
        return str(error).splitlines()
    return []


def changed(spec: dict, path: str, value: object) -> dict:
    """A claim with another value at a dotted key; None takes it out."""
    spec = json.loads(json.dumps(spec))
    *above, last = path.split(".")
    part = spec
    for key in above:
        part = part.setdefault(key, {})
    if value is None:
        del part[last]
    else:
        part[last] = value
    return spec


X = "rests_on.x"
FAULTS = [
    ("test", None, "", "has no test of any number"),
    ("test", {"under": 1}, "test.under", "unknown key"),
    ("test", {"above": 1, "below": 2}, "test", "got above and below, wanted exactly one test"),
    ("test", {"equal_to": 1}, "test", "tolerance and equal_to go together"),
    ("test", {"tolerance": 1}, "test", "tolerance and equal_to go together"),
    ("test", {"within": [2, 1]}, "test.within", "has the larger number first"),
    ("test", {"within": [2]}, "test.within", "wanted two numbers"),
    ("test", {"below": "y"}, "test.below", "'y' is unknown; choose one of x"),
    ("test", {"below": "x"}, "test.below", "compares x with itself"),
    ("sentence", "It is {y}.", "sentence", "{y}: 'y' is unknown; choose one of x"),
    ("sentence", "It is {x:.2q}.", "sentence", "{x:.2q}: wanted a format such as .2f"),
    ("sentence", "x" * 601, "sentence", "wanted a sentence of at most 600 letters"),
    ("sentence", None, "sentence", "is missing and has no default"),
    ("rests_on", {}, "rests_on", "wanted a mapping of at least one number"),
    ("source", {"quotation": "q"}, "source", "has a quotation without doi"),
    ("source", {"doi": "10.1", "law": "x"}, "source.doi", "wanted a DOI such as"),
    ("source", {"doi": "10.1000/x", "quotation": "q" * 501}, "source.quotation", "at most 500"),
    ("headline", "yes", "headline", "wanted true or false"),
    ("expected", "Valid", "expected", "'Valid' is unknown"),
    ("verdict", "Validated", "verdict", "unknown key"),
    (f"{X}.experiment", None, f"{X}.experiment", "is missing"),
    (f"{X}.variable", "output_eror_all", f"{X}.variable", "did you mean output_error_all?"),
    (f"{X}.variable", "phase_of", f"{X}.variable", "phase_of is text; count it"),
    (f"{X}.at", {"n_feature": 10}, f"{X}.at.n_feature", "'n_feature' is unknown"),
    (f"{X}.at", {"layer": 0}, f"{X}.at.layer", "'layer' is unknown; choose one of n_features"),
    (f"{X}.at", {"heads": [0, 1]}, f"{X}.at.heads", "wanted pairs of layer and head"),
    (f"{X}.take", "sum", f"{X}.take", "'sum' is unknown"),
    (f"{X}.take", "count", f"{X}.that", "goes with take: count or share"),
    (f"{X}.that", {"above": 1}, f"{X}.that", "goes with take: count or share"),
    (f"{X}.take", "slope", f"{X}.along", "goes with take: slope"),
    (f"{X}.along", "n_features", f"{X}.along", "goes with take: slope"),
    (f"{X}.where", {"variable": "fase"}, f"{X}.where.variable", "'fase'"),
    (f"{X}.where", {"above": 1}, f"{X}.where.variable", "is missing"),
    (f"{X}.against", {"variable": "gain", "as": "ratio"}, f"{X}.against.variable", "'gain'"),
    (f"{X}.against", {"variable": "sigma_squared"}, f"{X}.against.as", "is missing"),
    (
        f"{X}.against",
        {"experiment": "other", "at": {"sise": 1}, "as": "ratio"},
        f"{X}.against.at.sise",
        "'sise' is unknown",
    ),
    (f"{X}.only_shown", True, "", "has no test of any number"),
]


@pytest.mark.parametrize(("path", "value", "key", "words"), FAULTS)
def test_a_fault_is_one_line(path, value, key, words, tmp_path):
    """With file and dotted key; the study without it has none."""
    assert faults_of(tmp_path, SMALL | {"claims": {"a": GOOD}}) == []
    (line,) = faults_of(tmp_path, SMALL | {"claims": {"a": changed(GOOD, path, value)}})
    where = f"config/studies/mine.yaml: claims.a{'.' * bool(key)}{key}: "
    assert line.startswith(where) and words in line


def test_faults_of_several_keys(tmp_path):
    def lines(claim):
        return "\n".join(faults_of(tmp_path, SMALL | {"claims": {"a": claim}}))

    both = changed(GOOD, f"{X}.test", {"below": 1})
    both = changed(both, f"{X}.only_shown", True)
    assert f"claims.a.{X}.only_shown: goes without test" in lines(both)
    slope = changed(changed(GOOD, f"{X}.take", "slope"), f"{X}.along", "head")
    assert f"claims.a.{X}.along: 'head' is unknown; choose one of n_features" in lines(slope)
    count = changed(changed(GOOD, f"{X}.take", "count"), f"{X}.that", {"below": "gain"})
    assert f"claims.a.{X}.that.below: 'gain' is unknown" in lines(count)
    assert lines(changed(GOOD, f"{X}.experiment", "absent")) == ""  # then it is not tested


def test_claims_of_another_study(tmp_path):
    assert faults_of(tmp_path, SMALL | {"claims": {"a": GOOD}}, "first") == []
    second = {**SMALL, "experiments": {"other": SMALL["experiments"]["small"]}}
    assert faults_of(tmp_path, second | {"claims": {"same_as": "first"}}) == []
    claims = study.load_study("mine", tmp_path, {})["claims"]
    assert claims == study.load_study("first", tmp_path, {})["claims"] and claims["a"]
    for other, words in (
        ({"same_as": "none"}, "claims.same_as: 'none' is unknown"),
        ({"same_as": "first", "b": GOOD}, "claims: got same_as and claims of its own"),
        ({"same_as": "mine"}, "claims.same_as: study mine has no claims of its own"),
    ):
        (line,) = faults_of(tmp_path, second | {"claims": other})
        assert words in line


def test_other_faults(tmp_path):
    named = {"experiments": {"claims": SMALL["experiments"]["small"]}}
    (line,) = faults_of(tmp_path, named)
    assert "experiments.claims: is the folder of the claims; choose another name" in line
    (line,) = faults_of(tmp_path, SMALL)
    assert "figures.claims: shows the claims of the study, which has none" in line
    many = {f"c{i}": GOOD | {"conditions": "c" * 2000} for i in range(60)}
    (line,) = faults_of(tmp_path, SMALL | {"claims": many})
    assert re.search(r"mine.yaml: claims: are \d{6} letters of text, at most 115000", line)
    apostrophes = {"a": GOOD | {"conditions": "'" * 30_000}}  # a shell takes five letters for each
    (line,) = faults_of(tmp_path, SMALL | {"claims": apostrophes})
    assert "letters of text" in line


# From end to end.

CLAIMS = {
    "small-errors": {
        "part": "Random heads",
        "headline": True,
        "sentence": "100 neurons err by {error:[.2f]}.",
        "source": {"doi": "10.1073/pnas.2219150120", "quotation": "words of the paper"},
        "rests_on": {
            "error": {
                "experiment": "small",
                "variable": "output_error_all",
                "at": {"n_features": 100},
            }
        },
        "test": {"below": 1},
        "conditions": "Two random heads.",
        "expected": "Validated",
    },
    "no-error": {
        "part": "Random heads",
        "headline": True,
        "sentence": "10 neurons do not err: {error:.2f}.",
        "rests_on": {
            "error": {
                "experiment": "small",
                "variable": "output_error",
                "at": {"n_features": 10},
                "take": "min",
            }
        },
        "test": {"at_most": 0},
        "expected": "Contradicted",
    },
    "elsewhere": {
        "sentence": "A model errs by {error}.",
        "rests_on": {"error": {"experiment": "minilm", "variable": "output_error_all"}},
        "test": {"below": 1},
    },
}


def test_a_study_scores_its_claims_and_notices_a_planted_number(tmp_path):
    """Verdicts reach terminal, pages and README; one number changed in a file is refused by all."""
    folder = project(tmp_path / "project")
    shown = {"figures": {"claims": {}}, "claims": CLAIMS}
    small = {"experiments": {"small": SMALL["experiments"]["small"]}}
    text = yaml.safe_dump(json.loads(json.dumps(small | shown)), sort_keys=False)
    (folder / "config/studies/mine.yaml").write_text(text)
    done = snakemake(folder, "--config", "study=mine")
    assert done.returncode == 0, done.stdout
    results = folder / "results/mine"
    said = (results / "figures/claims.md").read_text()
    assert said.startswith("3 claims: 1 Validated, 1 Contradicted, 1 NotTested.\n")
    assert said.strip() in done.stdout[-len(said) - 200 :]  # the last words
    assert all(len(line) <= wording.COLUMNS for line in said.splitlines())
    claims = job.load(results / "claims/claims.nc")
    (sentence,) = claims["sentence"].sel(claim=["small-errors"]).values
    error = job.load(results / "small/fit.nc")["output_error_all"].sel(n_features=100)
    assert f"100 neurons err by {float(error):.2f} [" in sentence
    page = (results / "index.html").read_text()
    assert "<strong>Contradicted</strong>" in page and sentence in page
    assert "https://doi.org/10.1073/pnas.2219150120" in page and "Two random heads." in page
    caption = (results / "figures/claims.txt").read_text()
    assert "Contradicted: no-error." in caption
    assert "Shown: 3 claims (claims: 3 numbers of 2 experiments)." in caption
    table = (results / "figures/claims.csv").read_text().splitlines()
    assert len(table) == 4 and table[0].startswith("claim,name,experiment,file")
    checked = snakemake(folder, "check", "--config", "study=mine")
    assert checked.returncode == 0
    assert "2 of 3 claims have the verdict that the study expects" in checked.stdout
    marks = f"<!-- findings: {write_reference.BY_CLAIMS} -->\n\n<!-- end of findings -->"
    readme = write_reference.readme(claims, f"# A\n\n{marks}\n\nlast")
    assert f"**Random heads**\n\n- **Validated.** {sentence} (`small-errors`)\n" in readme
    assert "- **Contradicted.** 10 neurons do not err: " in readme
    assert readme.endswith("<!-- end of findings -->\n\nlast")
    assert write_reference.readme(claims, readme) == readme

    fit = job.load(results / "small/fit.nc")
    places = {"n_features": 100}
    for end in ("", "_low", "_high"):
        fit[f"output_error_all{end}"].loc[places] += 5
    path = results / "small/fit.nc"
    made = ("Conventions", "title", "history", "schema_version", "versions", "references")
    kept = {key: x for key, x in fit.attrs.items() if key not in (*made, "content_digest")}
    job.save(fit, path, kept)
    done = snakemake(folder, "check", "--config", "study=mine")
    assert done.returncode == 1 and "Traceback" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    (line,) = [*dict.fromkeys(lines)]
    assert line.startswith(
        "error: small-errors: is Contradicted, expected Validated (fails: error)"
    )
    claims = job.load(results / "claims/claims.nc")
    assert write_reference.readme(claims, readme) != readme


def test_a_study_without_claims_cannot_be_checked(tmp_path):
    folder = project(tmp_path / "project")
    given = {"experiments": SMALL["experiments"]}
    (folder / "config/studies/mine.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(given))))
    done = snakemake(folder, "check", "--config", "study=mine")
    assert done.returncode == 1
    assert "error: claims: study mine has none; nothing can be checked" in done.stdout


# The study default.


def test_the_tracked_verdicts_are_those_of_the_study_default():
    """An edited claim needs a new run; so does a run that found other numbers."""
    given = study.load_study("default", ROOT, {})["claims"]
    assert len(given) >= 25
    tracked = job.load(write_reference.CLAIMS)
    assert json.loads(tracked.attrs["settings"])["claims"] == given
    assert tracked["claim"].values.tolist() == [*given]
    verdicts.checked(tracked)
    results = ROOT / "results/default"
    if (results / "index.html").is_file():
        made = job.load(results / "claims/claims.nc")
        assert made.attrs["content_digest"] == tracked.attrs["content_digest"]


def test_the_page_has_every_claim():
    """docs/claims.md has every sentence, verdict and test, not of findings alone."""
    claims = scored()
    page = write_reference.claims_page(
        claims, f"<!-- claims: {write_reference.BY_CLAIMS} -->\n\n<!-- end of claims -->"
    )
    for row in claims["sentence"].values:
        assert row in page
    assert "[10.1073/pnas.2219150120](https://doi.org/10.1073/pnas.2219150120)" in page
    assert "“words of the paper”" in page and "error = " in page and "below 1" in page
    assert page.count("| **") == 3


def scored() -> xr.Dataset:
    """Claims scored on files that have what they need."""
    dims = ["n_features"]
    fit = xr.Dataset(
        {
            "output_error_all": (dims, [0.5, 0.2]),
            "output_error_all_low": (dims, [0.4, 0.1]),
            "output_error_all_high": (dims, [0.6, 0.3]),
            "output_error": (dims, [0.5, 0.2]),
        },
        {"n_features": [10, 100]},
    )
    claims = study.complete({"claims": CLAIMS}, study.load_schema("study"))["claims"]
    found = score.score({"small": fit.assign_attrs(stage="fit")}, claims)
    assert {*found} == {*declarations.variables("claims")}
    return found


def test_the_protocol_has_the_errors_of_its_claims():
    """Median errors in the table of docs/protocol.md, to the digits that it has."""
    claims = job.load(ROOT / "docs/default/claims.nc")
    page, experiment, n_rows = (ROOT / "docs/protocol.md").read_text(), "", 0
    for name, m, shown in re.findall(
        r"^\| ?(`[\w-]+`|) \| ?[^|]*\| ([\d ]+) \| \w+ \| ([^|]*%[^|]*) \|", page, re.M
    ):
        experiment = name.strip("`") or experiment
        selection = json.dumps({"at": {"n_features": int(m.replace(" ", ""))}})
        of_row = (claims["file"] == f"{experiment}/fit.nc") & (claims["selection"] == selection)
        row = claims.isel(quantity=int(np.flatnonzero(of_row)[0]))
        numbers = re.findall(r"[\d.]+", shown)
        assert len(numbers) == 3
        for number, key in zip(numbers, ("value", "value_low", "value_high")):
            digits = len(number.partition(".")[2])
            assert f"{100 * float(row[key]):.{digits}f}" == number, (experiment, m, key)
        n_rows += 1
    assert n_rows == 8


@pytest.mark.parametrize("awkward", ["", *looks.AWKWARD])
def test_the_figure_looks_as_it_must(awkward):
    fits = {"claims": scored().assign_attrs(kind="claims", data="")}
    fits = looks.AWKWARD[awkward](fits) if awkward else fits
    drawn = looks.drawn("claims", fits)
    assert looks.faults(drawn) == []
    words = [text.get_text() for text in drawn.axes[0].texts]
    assert any(word.startswith("Contradicted, ") for word in words)
    n = fits["claims"].sizes["claim"]
    left = [word for word in words if "claims more in the table" in word]
    assert bool(left) == (n > figure.MAX_ROWS) and (not left or left[0].startswith(f"{n - 66} "))
    plt.close("all")


def test_places_in_the_figure():
    """0 is the bound, 1 what is farthest from it, and more is on the side on which tests hold."""
    nan = np.nan
    rows = [  # test, value and ends, bounds, outcome; place and its ends
        ("above 1", (3, 2, 5), (1, nan), HOLDS, (0.5, 0.25, 1)),
        ("below 1", (3, 2, 5), (nan, 1), FAILS, (-0.5, -1, -0.25)),
        ("at least 1", (3, nan, nan), (1, nan), HOLDS, (1, nan, nan)),
        ("within 0 to 4", (1, 0.5, 2), (0, 4), HOLDS, (0.5, 0.25, 1)),
        ("contains 2", (3, 1, 5), (2, 2), HOLDS, (1 / 3, -1 / 3, 1)),
        ("contains 2", (4, 3, 6), (2, 2), FAILS, (-0.5, -1, -0.25)),
        ("above 0", (1, -np.inf, 2), (0, nan), OPEN, (0, -1, 0)),
        ("above 0", (nan, nan, nan), (0, nan), MISSING, (nan, nan, nan)),
        ("above 0", (0, 0, 0), (0, nan), FAILS, (0, 0, 0)),
    ]
    tests, values, bounds, outcomes, wanted = zip(*rows)
    columns = dict(zip(("value", "value_low", "value_high"), np.array(values, float).T))
    columns |= dict(zip(("bound_low", "bound_high"), np.array(bounds, float).T))
    columns |= {"test": [*tests], "outcome": [*outcomes]}
    found = xr.Dataset({key: ("quantity", x) for key, x in columns.items()})
    found = figure.positions(found.assign_coords(claim=["a"]))
    places = found[["place", "place_low", "place_high"]].to_numpy()
    np.testing.assert_allclose(places, np.array(wanted, float), atol=1e-12)
    assert found["worst"][1] < found["worst"][6] < found["worst"][0]


def test_a_claim_of_no_part_is_under_a_heading():
    assert scored()["part"].values.tolist() == ["Random heads", "Random heads", "Claims"]


def test_heads_behind_a_number():
    """A claim of one head is never of High confidence, whichever file and setting it comes from."""
    dims = ["layer", "head"]
    error = (dims, [[0.1, 0.2], [0.3, np.nan]])
    fit = xr.Dataset({"error": error}, {"layer": [0, 1], "head": [0, 1]}, {"data": "model"})
    spec = {"experiment": "a", "variable": "error"}
    other = fit.assign(error=(dims, [[np.nan, 0.2], [np.nan, np.nan]]))
    one = quantities.number({"a": fit}, spec | {"at": {"layer": 0, "head": 1}}, "")
    alone = quantities.number({"b": other}, spec | {"experiment": "b"}, "")
    assert one.heads == alone.heads == {("model", 1)}
    assert len(quantities.number({"a": fit}, spec | {"take": "max"}, "").heads) == 3
    over_all = fit.assign(error=0.2)
    assert quantities.number({"a": over_all}, spec, "").heads == frozenset()
