"""Random studies that the schema accepts are refused in words, or run up to their figures.

A study is drawn from the schema itself, small and often extreme, on synthetic data or on q, k, v of
a user. It is refused in lines before any job, or all of its stages and figures survive: numbers
that do not exist are NaN. Warnings are errors here as everywhere. A job may still refuse what is
known only from the values of the data, in lines as well.
"""

import json
import math
import re
import signal
import string
import tempfile
from pathlib import Path

import hypothesis
import netCDF4
import numpy as np
import pytest
from hypothesis import strategies as st
from matplotlib import pyplot

import stage
from tripartite import declarations, foreign, plan, study
from tripartite.contracts import UserError
from tripartite.kinds.dynamics.checks import time_constants
from tripartite.kinds.readout import respond
from tripartite.words import lines

SCHEMA = study.load_schema("study")
EXPERIMENT = SCHEMA["properties"]["experiments"]["additionalProperties"]["properties"]
MAPS = declarations.common()["feature_maps"]
# Kinds that read raw files need the weights of a model.
SECTIONS = [
    name
    for name, kind in declarations.experiments().items()
    if not any("raw" in file.reads for file in kind.files.values())
]
LARGEST = {  # of integers, so that a study takes less than a second
    "n_inputs": 3,
    "n_tokens": 6,
    "d_head": 4,
    "n_seeds": 4,
    "max_steps": 25,
    "steps": 40,
    "processes_per_head": 4,
    "n_features": 40,
    "most_trials": 1000,
    "naam_neurons": 12,
    "naam_memories": 4,
}
TIMES = ("step_seconds", "sample_seconds", "frame_seconds")
# Studies of slow sections; others have 17.
FEW = {"readout": 6, "perturbations": 12, "convergence": 12}
CAUSAL = (1, 2023)  # seeds with which synthetic data are causal, where a kind serves that
MAX_SECONDS = 60  # for one study; a longer time counts as a hang
SETTINGS = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(hypothesis.HealthCheck),
    # failing studies are not made smaller, as each takes a second
    "phases": [hypothesis.Phase.generate],
}


def numbers(schema: dict) -> st.SearchStrategy:
    """Numbers that a schema allows: its limits, numbers close to them, and ordinary numbers."""
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema["maximum"]
    ends = [most, most * (1 - 2**-53), least if "minimum" in schema else 5e-324]
    small = [x for x in (1e-300, 1e-12, 1e-6) if least <= x <= most]
    low, high = max(least, 1e-4), min(most, 30)
    logarithmic = st.floats(math.log10(low), math.log10(high)).map(lambda x: min(10**x, most))
    return st.one_of(
        logarithmic,
        logarithmic,
        st.sampled_from(ends + small),
        st.integers(1, 2).filter(lambda x: least <= x <= most),
    )


def values(schema: dict, key: str = "") -> st.SearchStrategy:
    """All values that a part of the schema allows, within LARGEST."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "integer":
        return st.integers(schema["minimum"], min(schema["maximum"], LARGEST.get(key, 1000)))
    if kind == "number":
        return numbers(schema)
    if kind == "array" and "items" in schema:
        least = schema.get("minItems", 0)
        sizes = {"min_size": least, "max_size": min(schema.get("maxItems", least + 2), least + 2)}
        unique = (
            {"unique_by": lambda x: float(x) if isinstance(x, int | float) else str(x)}
            if schema.get("uniqueItems")
            else {}
        )
        return st.lists(values(schema["items"], key), **sizes, **unique)
    if kind == "object" and "properties" in schema:
        parts = {name: values(part, name) for name, part in schema["properties"].items()}
        return _object(parts, schema)
    raise NotImplementedError(key)


def _object(parts: dict[str, st.SearchStrategy], schema: dict) -> st.SearchStrategy:
    needed = schema.get("required", [])
    return st.fixed_dictionaries(
        {name: parts[name] for name in parts if name in needed},
        optional={name: part for name, part in parts.items() if name not in needed},
    ).filter(lambda x: len(x) >= schema.get("minProperties", 0))


ARRAYS = {  # values of q, k and v in a user's file
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "zero": lambda rng, shape: np.zeros(shape),
    "equal": lambda rng, shape: np.broadcast_to(
        rng.standard_normal((*shape[:3], 1, shape[4])), shape
    ),
    "ones": lambda rng, shape: np.ones(shape),
    "large": lambda rng, shape: 12 * rng.standard_normal(shape),
    "huge": lambda rng, shape: 1e18 * rng.standard_normal(shape),
    "tiny": lambda rng, shape: 1e-30 * rng.standard_normal(shape),
    "beyond": lambda rng, shape: 1e150 * rng.standard_normal(shape),
    "below": lambda rng, shape: 1e-150 * rng.standard_normal(shape),
    "mixed": lambda rng, shape: (
        rng.standard_normal(shape) * 10.0 ** rng.integers(-20, 3, shape[:4])[..., None]
    ),
    "one": lambda rng, shape: np.eye(shape[3], shape[4])[None, None, None] + np.zeros(shape),
}


@st.composite
def studies(draw, section: str, every_figure: bool = False) -> tuple[dict, dict | None, list[str]]:
    """A study of one experiment, how its file of q, k, v is made (or None), and its figures."""
    recipe = None
    if draw(st.booleans()):
        data = {"synthetic": draw(values(EXPERIMENT["data"]["properties"]["synthetic"]))}
        drawn = {
            "n_inputs": draw(st.integers(1, 4)),
            "n_tokens": draw(st.sampled_from([1, 2, 3, 6, 12])),
            "d_head": draw(st.sampled_from([1, 2, 4, 8])),
        }
        data["synthetic"] = drawn | {"sigma_squared": data["synthetic"]["sigma_squared"]}
        n_inputs, n_tokens = drawn["n_inputs"], drawn["n_tokens"]
        n_layers, n_heads = 1, len(data["synthetic"]["sigma_squared"])
        names = [f"draw-{i}" for i in range(n_inputs)]
    else:
        data = {"file": "mine.nc"}
        n_inputs, n_layers, n_heads = (draw(st.integers(1, most)) for most in (4, 2, 2))
        n_tokens = draw(st.sampled_from([1, 2, 3, 6]))
        recipe = {
            "shape": (n_inputs, n_layers, n_heads, n_tokens, draw(st.sampled_from([1, 2, 4]))),
            "kinds": [draw(st.sampled_from(sorted(ARRAYS))) for _ in "qkv"],
            "tokens": draw(
                st.none() | st.lists(st.integers(1, n_tokens), min_size=n_inputs, max_size=n_inputs)
            ),
            "dtype": draw(st.sampled_from(["f4", "f8"])),
        }
        names = [f"input-{i}" for i in range(n_inputs)]
    settings = draw(_section(section, n_layers, n_heads, names))
    if section == "network" and draw(st.booleans()):
        for key in [key for spec in MAPS.values() for key in spec.get("settings", [])]:
            settings.pop(key, None)
        settings |= draw(
            one_map(
                EXPERIMENT["network"]
                | {
                    "properties": {
                        key: EXPERIMENT["network"]["properties"][key]
                        for key in ("feature_map", "threshold", "a")
                    }
                }
            )
        )
    total = n_tokens * sum(
        settings.get(key, EXPERIMENT[section]["properties"].get(key, {}).get("default", 0))
        for key in ("token_seconds", "read_seconds")
    )
    for key in TIMES:  # so that there are not millions of steps
        if key in EXPERIMENT[section]["properties"]:
            parts = [0.5, 1, 25, 100, 300] if key != "frame_seconds" else [1, 20, 25, 100, 300]
            settings[key] = min(max(total / draw(st.sampled_from(parts)), 1e-9), 1e6)
    if section == "dynamics":
        shortest = min(time_constants(study.complete(settings, EXPERIMENT[section])).values())
        settings["step_seconds"] = min(settings["step_seconds"], 2.7 * shortest)
        hypothesis.assume(total / settings["step_seconds"] < 3000)
        hypothesis.assume(settings.get("integrator") != "adaptive" or total / shortest < 300)
    names = [*declarations.kinds()[section].figures]
    chosen = names if every_figure else draw(st.sampled_from([[], []] + [[name] for name in names]))
    seed = draw(st.sampled_from([0, 1, 2023, 2**63 - 1]))
    if "synthetic" in data and seed in CAUSAL and "causal" in declarations.kinds()[section].orders:
        data["order"] = "causal"
        if section == "dynamics":
            settings["order"] = "causal"
    written = {
        "seed": seed,
        "experiments": {"any": {"data": data, section: settings}},
    }
    return written, recipe, chosen


def some_of(items: list) -> st.SearchStrategy:
    """Some items of a list, in its order."""
    chosen = st.lists(st.booleans(), min_size=len(items), max_size=len(items))
    return chosen.map(lambda x: [item for item, there in zip(items, x) if there])


def one_map(schema: dict) -> st.SearchStrategy:
    """A feature map, mostly with the settings that belong to it."""
    parts = schema["properties"]

    def with_own(name: str) -> st.SearchStrategy:
        own = {key: values(parts[key]) for key in MAPS[name].get("settings", [])}
        return st.fixed_dictionaries({"feature_map": st.just(name)} | own)

    return st.sampled_from(parts["feature_map"]["enum"]).flatmap(with_own) | values(schema)


def _section(section: str, n_layers: int, n_heads: int, names: list[str]) -> st.SearchStrategy:
    """The settings of a section, for data of so many layers and heads and these inputs."""
    schema = EXPERIMENT[section]
    pairs = [list(pair) for pair in np.ndindex(n_layers, n_heads)]
    sizes = st.sets(st.integers(1, LARGEST["n_features"]), min_size=1, max_size=6).map(sorted)
    # hyperbolic and learned features come in pairs
    sizes |= sizes.map(lambda x: [2 * m for m in x])
    # Names mostly have one role each, because other studies are refused.
    first, middle, last = names[:1], names[1:2], names[2:] or names[1:]
    special = {
        "heads": st.just("all") | some_of(pairs).filter(len),
        "head": st.sampled_from(pairs),
        "input": st.sampled_from(names),
        "inputs": st.just("all") | some_of(last).filter(len) if last else st.just("all"),
        "n_features": sizes
        if schema["properties"].get("n_features", {}).get("type") == "array"
        else st.integers(1, LARGEST["n_features"]),
        **{key: st.just(first) | some_of(names) for key in ("calibrated_on", "trained_on")},
        "validated_on": st.just(middle) | some_of(names),
    }
    parts = {key: special[key] if key in special else None for key in schema["properties"]}
    for key in parts:
        if parts[key] is None and key == "variants":
            one = schema["properties"][key]["additionalProperties"]
            name = st.text(string.ascii_lowercase, min_size=1, max_size=3)
            parts[key] = st.dictionaries(name, one_map(one), min_size=2, max_size=3)
        elif parts[key] is None:
            parts[key] = values(schema["properties"][key], key)
    needed = {*schema.get("required", []), *({"n_seeds"} & {*parts})}
    if section == "learned":
        parts["n_features"] = sizes.map(lambda x: [2 * m for m in x[:2]])
    if section in ("explanation", "retention"):  # because every network is fitted
        parts["n_features"] = sizes.map(lambda x: x[:2])
    if (
        section == "dynamics"
    ):  # mostly similar to the time of a token, so that there are not too many steps
        for key in parts:
            if key.startswith("tau_"):
                parts[key] = st.sampled_from([0.01, 0.1, 1, 10]) | parts[key]
        parts["token_seconds"] = parts["read_seconds"] = (
            st.sampled_from([0.1, 0.25, 1, 3]) | parts["read_seconds"]
        )
    return _object(parts, schema | {"required": needed})


def write(recipe: dict, path: Path) -> None:
    """A user's netCDF file of q, k, v and mask."""
    dims = dict(zip(foreign.DIMS, recipe["shape"]))
    with netCDF4.Dataset(path, "w") as file:
        for name, n in dims.items():
            file.createDimension(name, n)
        for name, kind in zip("qkv", recipe["kinds"]):
            rng = np.random.default_rng(ord(name))
            with np.errstate(over="ignore"):
                file.createVariable(name, recipe["dtype"], tuple(dims))[:] = ARRAYS[kind](
                    rng, recipe["shape"]
                ).astype(recipe["dtype"])
        if recipe["tokens"]:
            there = np.arange(dims["token"]) < np.array(recipe["tokens"])[:, None]
            file.createVariable("mask", "i1", ("input", "token"))[:] = there


def run(written: dict, recipe: dict | None, figures: list[str], folder: Path) -> str:
    """Run a study as Snakemake does, up to its figures; return "refused", "stopped" or "drawn"."""
    if recipe:
        write(recipe, folder / "mine.nc")
    written = json.loads(json.dumps(written))
    faults = lines("any.yaml", study.study_faults(written, folder, {"memory_gb": 8}))
    if faults:
        assert all(fault.startswith("any.yaml: ") and "\n" not in fault for fault in faults)
        return f"refused: {faults[0]}"
    whole = study.complete(written, SCHEMA)
    experiment = whole["experiments"]["any"]
    (section,) = study.sections(experiment)
    files = declarations.kinds()[section].files
    made = {name: folder / "any" / f"{name}.nc" for name in ("qkv", "attention", *files)}
    settings = {name: plan.settings(whole, "any", name, folder, folder) for name in made}
    try:
        for name, output in made.items():
            declared = declarations.files()[name]
            inputs = [made[read] for read in declared.reads if read != "raw"]
            inputs += [folder / "mine.nc"] if name == "qkv" and recipe else []
            stage.run(declared.stage, inputs, [output], settings[name], "", "cpu", 1)
    except UserError as error:
        return f"stopped: {error}"
    for name in figures:
        picture = folder / "figures" / f"{name}.svg"
        stage.run("draw", [made[[*files][-1]]], [picture], {}, "", "cpu", 1)
        pyplot.close("all")
        assert not re.search(r"[\" ](nan|inf)\b", picture.read_text().split("</metadata>")[1])
    return "drawn"


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    """Fewer points of the calcium models' curves, and TimeoutError after MAX_SECONDS."""

    def stop(*_):
        raise TimeoutError(f"longer than {MAX_SECONDS} s")

    monkeypatch.setattr(respond, "CURVE_POINTS", 8)
    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def check(drawn: tuple) -> None:
    """Run a drawn study; a refusal has lines that name the setting or the file."""
    signal.alarm(MAX_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        ended = run(*drawn, Path(folder))
    signal.alarm(0)
    hypothesis.event(ended.split(":")[0])
    if ended.startswith("stopped"):
        assert "every value at a token must be finite" in ended or re.match(
            r"stopped: (layer \d+, head \d+: |[a-z]+: )", ended
        ), ended


def one(section: str, settings: dict, recipe: dict | None = None, **synthetic) -> tuple:
    """A study as `studies` draws it, with every figure of its section."""
    data = {"synthetic": synthetic} if recipe is None else {"file": "mine.nc"}
    figures = [*declarations.kinds()[section].figures]
    return {"experiments": {"any": {"data": data, section: settings}}}, recipe, figures


ZERO_VALUES = {
    "shape": (2, 1, 1, 3, 2),
    "kinds": ["normal", "mixed", "zero"],
    "tokens": None,
    "dtype": "f4",
}
HUGE_LOGITS = {
    "shape": (2, 1, 1, 3, 1),
    "kinds": ["huge", "huge", "tiny"],
    "tokens": [3, 1],
    "dtype": "f8",
}
ONCE_FAILED = {
    "notes of two kinds of text": one(
        "retention",
        {"n_features": [10], "n_seeds": 2, "leaks": [[0.1, 1], [1, 1], [1, 0.1]]},
        sigma_squared=[1e-300, 1, 50],
        n_inputs=1,
        n_tokens=2,
        d_head=8,
    ),
    "whole seconds": one(
        "retention",
        {"n_features": [10], "n_seeds": 2, "token_seconds": 1, "leaks": [[1, 1]]},
        sigma_squared=[1],
        n_inputs=1,
        n_tokens=3,
        d_head=2,
    ),
    "calcium at rest": one(
        "readout",
        {"models": ["li_rinzel_nest"], "n_operating_points": 2, "calibrated_on": ["draw-0"]},
        sigma_squared=[1],
        n_inputs=2,
        n_tokens=4,
        d_head=2,
    ),
    "rounding below a median": one(
        "network",
        {"n_features": [10, 20, 30], "n_seeds": 3, "dtype": "bfloat16"},
        sigma_squared=[1e-9],
        n_inputs=2,
        n_tokens=4,
        d_head=2,
    ),
    "values of zero": one(
        "perturbations",
        {
            "n_features": [8],
            "n_seeds": 2,
            "kinds": {"heterogeneity": [1], "neurons": [0.5], "knockout_mean": [1]},
        },
        ZERO_VALUES,
    ),
    "logits of zero values explained": one(
        "explanation", {"n_features": [4], "n_seeds": 2}, ZERO_VALUES
    ),
    "huge logits": one("symmetries", {"calibrated_on": ["input-0"]}, HUGE_LOGITS),
    "an interval beyond float64": one(
        "network",
        {"n_features": [16, 20, 36, 42, 70], "n_seeds": 2},
        {
            "shape": (4, 2, 1, 2, 4),
            "kinds": ["mixed", "below", "mixed"],
            "tokens": None,
            "dtype": "f8",
        },
    ),
    "a score beyond float64": one(
        "explanation",
        {"n_features": [4, 11], "n_seeds": 4},
        sigma_squared=[1.0, 1e-06, 1e-06],
        n_inputs=2,
        n_tokens=6,
        d_head=1,
    ),
    "no thresholds": one(
        "comparison",
        {"n_features": [4], "n_seeds": 3, "variants": {"x": {}, "y": {"feature_map": "relu"}}},
        sigma_squared=[1e-300],
        n_inputs=1,
        n_tokens=1,
        d_head=1,
    ),
}


@pytest.mark.parametrize("name", ONCE_FAILED)
def test_what_once_ended_in_a_traceback(name, tmp_path):
    assert run(*ONCE_FAILED[name], tmp_path) == "drawn"


@pytest.mark.parametrize("section", SECTIONS)
def test_whatever_the_schema_accepts_ends_well(section):
    """The same 200 studies or so in each run, of all sections."""

    @hypothesis.settings(max_examples=FEW.get(section, 17), derandomize=True, **SETTINGS)
    @hypothesis.given(studies(section))
    def any_study(drawn):
        check(drawn)

    any_study()


@pytest.mark.long
@pytest.mark.parametrize("section", SECTIONS)
def test_many_more_end_well(section):
    """Other studies in each run, some 2,000, all figures; --hypothesis-seed=N repeats a run."""

    @hypothesis.settings(max_examples=154, print_blob=True, **SETTINGS)
    @hypothesis.given(studies(section, every_figure=True))
    def any_study(drawn):
        check(drawn)

    any_study()
