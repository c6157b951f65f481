"""The kinds of experiments as they declare themselves, one folder each: kinds/<kind>/kind.yaml.

A declaration says what a kind asks, its settings with limits and defaults, the files that its
stages make with every variable in them, and its figures with their captions. Rules, schema,
contracts, digests, report and reference are made from it. Light, because every parse of the
Snakefile imports it.

    what        what the kind finds out, one or two sentences
    role        experiment (a section of an experiment, the default), data or benchmark
    category    of its figures in the report
    memory      what its large arrays hold, one of MEMORY (memory.py)
    min_tokens  fewest tokens that an input must have (1)
    settings    JSON Schema; `use: sizes` stands for the definition `sizes` in kinds/common.yaml
    axes        its own dimensions, in order, before the shared ones of kinds/common.yaml
    files       what its stages make, in order; the last one is drawn
    figures     what each shows in a line, and its caption
"""

import ast
import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

KINDS = Path(__file__).resolve().parent / "kinds"
ROLES = ("data", "experiment", "benchmark")
USES = ("device", "workers", "checkpoint", "previous")  # what a stage may take beside its settings
DTYPES = ("float32", "float64", "int8", "int64", "bool", "str")
MEMORY = ("states", "networks", "attention", "rates", "training", "data")
PLACES = ("token", "neuron", "d_head", "d_seen")  # axes without coordinates
INTERVAL = (("", ""), ("_low", "lower"), ("_high", "upper"))  # names of an estimate and its ends


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One variable or axis of a file; dims are separated by spaces."""

    dims: str = ""
    dtype: str = "float64"
    units: str = ""  # UDUNITS; 1 for pure numbers, none for text and truth values
    means: str
    over: str = (
        ""  # what an interval is taken over; with it, name_low and name_high stand in the file
    )


@dataclass(frozen=True, kw_only=True)
class File:
    """What one stage makes: its rule, and the variables of the file."""

    name: str
    kind: str
    stage: str
    does: str  # the message of the rule
    reads: tuple[str, ...]  # files of the same experiment; raw stands for wheels and users' files
    variables: dict[str, Variable]
    uses: tuple[str, ...] = ()
    settings: tuple[str, ...] | None = None  # the settings that the stage takes, if not all
    grows_with: tuple[str, ...] = ()  # settings with other values of which its file is taken over

    @property
    def module(self) -> str:
        """The module with the stage, as a path below workflow/scripts."""
        return f"tripartite/kinds/{self.kind}/{self.stage}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of a kind, drawn by the module of its name in the kind's folder."""

    name: str
    kind: str
    shows: str
    caption: str

    @property
    def module(self) -> str:
        return f"tripartite/kinds/{self.kind}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of experiment, or the data, or the benchmark."""

    name: str
    what: str
    role: str
    category: str
    memory: str
    min_tokens: int
    settings: dict
    axes: dict[str, Variable]
    files: dict[str, File]
    figures: dict[str, Figure]


@functools.cache
def common() -> dict:
    """What kinds share: axes, definitions of settings, and the frame of a study's schema."""
    return _read(KINDS / "common.yaml")


@functools.cache
def kinds() -> dict[str, Kind]:
    """All kinds by their names; ValueError with one line for each fault of a declaration."""
    paths = sorted(KINDS.glob("*/kind.yaml"))
    try:
        return {path.parent.name: _kind(path) for path in paths}
    except (AttributeError, KeyError, TypeError, yaml.YAMLError):
        raise ValueError("\n".join(line for path in paths for line in faults(path))) from None


def experiments() -> dict[str, Kind]:
    """The kinds that a section of an experiment can be."""
    return {name: kind for name, kind in kinds().items() if kind.role == "experiment"}


@functools.cache
def files() -> dict[str, File]:
    """All files that stages make, by their names without suffix."""
    return {name: file for kind in kinds().values() for name, file in kind.files.items()}


@functools.cache
def stages() -> dict[str, File]:
    """All files by the names of the stages that make them."""
    return {file.stage: file for file in files().values()}


@functools.cache
def figures() -> dict[str, Figure]:
    """All figures by their names."""
    return {name: figure for kind in kinds().values() for name, figure in kind.figures.items()}


def category(figure: str) -> str:
    """Under which a figure stands in the report."""
    return kinds()[figures()[figure].kind].category


@functools.cache
def variables(name: str) -> dict[str, Variable]:
    """The variables of a file, with those that hold the ends of intervals."""
    found = {}
    for variable, spec in files()[name].variables.items():
        if not spec.over:
            found[variable] = spec
            continue
        for end, which in INTERVAL:
            means = f"{which} end of the 95 % interval over {spec.over}: {spec.means}"
            words = means if end else spec.means
            found[variable + end] = Variable(
                dims=spec.dims, dtype=spec.dtype, units=spec.units, means=words
            )
    return found


@functools.cache
def axes(name: str) -> dict[str, Variable]:
    """The axes of a file, in order; those without coordinates have no dtype."""
    own = kinds()[files()[name].kind].axes
    shared = {axis: spec for axis, spec in _axes(common()["axes"]).items() if axis not in own}
    used = {dim for spec in files()[name].variables.values() for dim in spec.dims.split()}
    return {axis: spec for axis, spec in (own | shared).items() if axis in used}


@functools.cache
def contract(name: str) -> dict[str, dict[str, Variable]]:
    """Variables and axes of a file: what it is checked against, and part of its digest."""
    return {"variables": variables(name), "axes": axes(name)}


@functools.cache
def study_schema(models: tuple[str, ...]) -> dict:
    """The JSON Schema of studies; models are the names of the pretrained ones."""
    schema = copy.deepcopy(common()["study"])
    parts = schema["properties"]
    data = copy.deepcopy(kinds()["data"].settings)
    data["properties"]["model"]["enum"] = list(models)
    sections = {name: kind.settings for name, kind in experiments().items()}
    parts["experiments"]["additionalProperties"]["properties"] = {"data": data} | sections
    parts["figures"]["properties"] = {
        name: {"description": figure.shows, "$ref": "#/$defs/figure"}
        for kind in experiments().values()
        for name, figure in kind.figures.items()
    }
    return schema


# Reading.


def _read(path: Path) -> dict:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    return yaml.load(path.read_text(encoding="utf-8"), loader)


def _kind(path: Path) -> Kind:
    told, name = _read(path), path.parent.name
    settings = told.get("settings", {"properties": {}})
    return Kind(
        name=name,
        what=told["what"],
        role=told.get("role", "experiment"),
        category=told.get("category", ""),
        memory=told.get("memory", "data"),
        min_tokens=told.get("min_tokens", 1),
        settings={
            "description": told["what"],
            "type": "object",
            "additionalProperties": False,
            **settings,
            "properties": {key: resolved(part) for key, part in settings["properties"].items()},
        },
        axes=_axes(told.get("axes", {})),
        files={
            file: File(
                name=file,
                kind=name,
                stage=part["stage"],
                does=part["does"],
                reads=tuple(part["reads"]),
                uses=tuple(part.get("uses", ())),
                settings=tuple(part["settings"]) if "settings" in part else None,
                grows_with=tuple(part.get("grows_with", ())),
                variables=_variables(part["variables"]),
            )
            for file, part in told["files"].items()
        },
        figures={
            figure: Figure(name=figure, kind=name, shows=part["shows"], caption=part["caption"])
            for figure, part in told.get("figures", {}).items()
        },
    )


def _variables(told: dict) -> dict[str, Variable]:
    return {
        name: Variable(**spec | {"units": str(spec.get("units", ""))})
        for name, spec in told.items()
    }


def _axes(told: dict) -> dict[str, Variable]:
    return _variables({axis: {"dims": axis, **spec} for axis, spec in told.items()})


def resolved(part: Any) -> Any:
    """A schema in which definitions of kinds/common.yaml replace `use`; keys beside `use` win."""
    if isinstance(part, list):
        return [resolved(one) for one in part]
    if not isinstance(part, dict):
        return part
    if isinstance(part.get("use"), str):
        others = {key: value for key, value in part.items() if key != "use"}
        part = common()["settings"][part["use"]] | others
    if isinstance(part.get("enum"), str):
        part = part | {"enum": list(common()[part["enum"]])}
    return {key: resolved(value) for key, value in part.items()}


# What an incomplete declaration lacks.

TEXT = {"type": "string", "minLength": 1}
NAMES = {"type": "array", "items": TEXT}
SPEC = {
    "type": "object",
    "additionalProperties": False,
    "required": ["means"],
    "properties": {
        "dims": TEXT,
        "dtype": {"enum": list(DTYPES)},
        "units": {"type": ["string", "integer"]},
        "over": TEXT,
        "means": TEXT,
    },
    # numbers have a unit, 1 if they are pure; text and truth values have none
    "if": {"required": ["dtype"], "properties": {"dtype": {"enum": ["str", "bool"]}}},
    "else": {"required": ["units"]},
}
FORM = {
    "type": "object",
    "additionalProperties": False,
    "required": ["what", "files"],
    "properties": {
        "what": TEXT,
        "role": {"enum": list(ROLES)},
        "category": TEXT,
        "memory": {"enum": list(MEMORY)},
        "min_tokens": {"type": "integer", "minimum": 1},
        "settings": {"type": "object", "required": ["properties"]},
        "axes": {"type": "object", "additionalProperties": SPEC},
        "files": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["stage", "does", "reads", "variables"],
                "properties": {
                    "stage": TEXT,
                    "does": TEXT,
                    "reads": NAMES,
                    "uses": {"type": "array", "items": {"enum": list(USES)}},
                    "settings": NAMES,
                    "grows_with": NAMES,
                    "variables": {
                        "type": "object",
                        "minProperties": 1,
                        "additionalProperties": SPEC,
                    },
                },
            },
        },
        "figures": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["shows", "caption"],
                "properties": {"shows": TEXT, "caption": TEXT},
            },
        },
    },
}


def faults(path: Path) -> Iterator[str]:
    """What is wrong with a kind's folder, one line each: its file, the key, and what to do."""
    import jsonschema  # here, as no parse needs it

    where = f"kinds/{path.parent.name}/kind.yaml"
    try:
        told = _read(path)
    except (OSError, yaml.YAMLError) as error:
        yield f"{where}: cannot be read ({str(error).splitlines()[0]})"
        return
    validator = jsonschema.Draft202012Validator(FORM)
    broken = sorted(validator.iter_errors(told), key=lambda breach: breach.json_path)
    for breach in broken:
        key = ".".join(map(str, breach.absolute_path))
        yield f"{where}: {key}: {breach.message}" if key else f"{where}: {breach.message}"
    if broken:
        return
    shared = common()
    for key, part in _uses(told.get("settings", {}), "settings"):
        if part not in shared["settings"]:
            known = ", ".join(shared["settings"])
            yield f"{where}: {key}: use: {part!r} is unknown; kinds/common.yaml defines {known}"
    axes = {*told.get("axes", {}), *shared["axes"], *PLACES}
    for name, file in told["files"].items():
        for variable, spec in file["variables"].items():
            for dim in set(spec.get("dims", "").split()) - axes:
                yield (
                    f"{where}: files.{name}.variables.{variable}: dims: {dim!r} is no axis; "
                    "declare it under axes"
                )
        yield from _module_faults(path.parent, file["stage"], f"{where}: files.{name}: stage")
    for name in told.get("figures", {}):
        yield from _module_faults(path.parent, name, f"{where}: figures: {name}")
    if told.get("role", "experiment") == "experiment":
        for key in ("category", "memory", "settings", "figures"):
            if key not in told:
                yield f"{where}: {key}: is missing"


def _uses(part: object, key: str) -> Iterator[tuple[str, str]]:
    """Where shared definitions are used, and which."""
    if isinstance(part, dict):
        if isinstance(part.get("use"), str):
            yield key, part["use"]
        for name, value in part.items():
            yield from _uses(value, f"{key}.{name}")


def _module_faults(folder: Path, name: str, where: str) -> Iterator[str]:
    """Why a kind's folder has no function `name` in the module of that name."""
    file, shown = folder / f"{name}.py", f"kinds/{folder.name}/{name}.py"
    if not file.is_file():
        yield f"{where}: there is no {shown}; write it, with a function {name}"
        return
    body = ast.parse(file.read_text(encoding="utf-8")).body
    if name not in [node.name for node in body if isinstance(node, ast.FunctionDef)]:
        yield f"{where}: {shown} has no function {name}"
