"""Declarations of the kinds of experiments, one folder each: kinds/<kind>/kind.yaml.

A declaration states the question of a kind, its settings with limits and defaults, the files that
its stages make with all variables, and its figures with captions. Rules, schema, contracts,
digests, report and reference are made from it. This module imports no large package, because every
parse of the Snakefile imports it.

    what        what the kind finds out, one or two sentences
    equation    the equation that it computes, as implemented, in Markdown
    cost        with what its time and memory grow
    limits      what it does not say
    role        experiment (a section of an experiment, the default), data, benchmark, story:
                figures that tell of all kinds, without files of their own, or claims: the claims
                of a study, in results/<study>/claims/
    category    of its figures in the report, one of the story in kinds/common.yaml
    memory      what its large arrays hold, one of MEMORY (memory.py)
    min_tokens  fewest tokens that an input must have (default 1)
    orders      orders of the data that it can read, of ORDERS (default all)
    settings    JSON Schema; `use: sizes` stands for the definition `sizes` in kinds/common.yaml
    axes        its own dimensions, in order, before the shared ones of kinds/common.yaml
    files       what its stages make, in order; the last one is drawn
    figures     the question that each answers, and how it is read: panels, points, bars, bands.
                Beside the pictures stand what is drawn as csv, made by the function `table` of its
                module, and the caption as txt, to which `answer` adds the answer with its numbers.
                `kinds`, if it shows several kinds of experiments; `one_model`, if these must share
                their data; `also: [html]` for a page, made by `page`, and `also: [md]` for a table
                that is printed as well, made by `printed`
"""

import ast
import copy
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

KINDS = Path(__file__).resolve().parent / "kinds"
ROLES = ("data", "experiment", "benchmark", "story", "claims")
TELLS = ("experiment", "story", "claims")  # roles of kinds whose figures have table and answer
USES = (
    "seed",  # of the study, for a stage that reads raw files; others have it in any case
    "pairs",  # lists of sentence pairs among its raw files, if the model embeds sentences
    "device",
    "workers",
    "checkpoint",
    "previous",
    "feature_maps",
    "room",
)  # arguments of stages beside settings
DTYPES = ("float32", "float64", "int8", "int64", "bool", "str")
MEMORY = ("states", "networks", "attention", "rates", "training", "transformer", "data")
ORDERS = ("bidirectional", "causal")  # which keys a query reads: all, or those up to its token
PLACES = ("token", "neuron", "d_head", "d_value", "d_seen")  # axes without coordinates
FIGURE_SUFFIXES = ("svg", "pdf", "png", "csv", "txt")  # of the files of each figure
INTERVAL = (("", ""), ("_low", "lower"), ("_high", "upper"))  # names of an estimate and its ends


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One variable or axis of a file; dims are separated by spaces."""

    dims: str = ""
    dtype: str = "float64"
    units: str = ""  # UDUNITS; 1 for pure numbers, none for text and truth values
    means: str
    over: str = ""  # what the interval is over, if there is one: then name_low, name_high follow
    coordinate: bool = False  # of its axes: values can be selected by it (set_xindex)
    optional: bool = False  # whether a file may lack it


@dataclass(frozen=True, kw_only=True)
class File:
    """A file, the stage that makes it, and its variables."""

    name: str
    kind: str
    stage: str
    does: str  # the message of the rule
    reads: tuple[str, ...]  # files of the same experiment; raw stands for wheels and users' files
    variables: dict[str, Variable]
    uses: tuple[str, ...] = ()
    settings: tuple[str, ...] | None = None  # the settings that the stage takes, if not all
    grows_with: tuple[str, ...] = ()  # settings for other values of which the old file is reused

    @property
    def module(self) -> str:
        """The module with the stage, as a path below workflow/scripts."""
        return f"tripartite/kinds/{self.kind}/{self.stage}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of a kind, drawn by the module of its name in the kind's folder."""

    name: str
    kind: str
    question: str
    caption: str  # how it is read
    kinds: tuple[str, ...]  # of the experiments that it shows; none for a drawing without data
    one_model: bool = False  # whether the experiments must share their data
    also: tuple[str, ...] = ()  # suffixes of what else is written beside the pictures

    @property
    def module(self) -> str:
        """The module that draws it, as a path below workflow/scripts."""
        return f"tripartite/kinds/{self.kind}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of experiment, or the data, or the benchmark."""

    name: str
    what: str
    equation: str
    cost: str
    limits: str
    role: str
    category: str
    memory: str
    min_tokens: int
    orders: tuple[str, ...]
    settings: dict
    axes: dict[str, Variable]
    files: dict[str, File]
    figures: dict[str, Figure]


@functools.cache
def common() -> dict:
    """What kinds share: axes, definitions of settings, and the outer schema of studies."""
    return _read(KINDS / "common.yaml")


@functools.cache
def kinds() -> dict[str, Kind]:
    """All kinds by name; ValueError with one line for each fault of a declaration."""
    paths = sorted(KINDS.glob("*/kind.yaml"))
    try:
        found = {path.parent.name: _kind(path) for path in paths}
    except (AttributeError, KeyError, TypeError, yaml.YAMLError):
        found = {}
    if found and all(map(_is_complete, found.values())) and not [*_repeated(found)]:
        return found
    lines = [line for path in paths for line in faults(path)] + [*_repeated(found)]
    raise ValueError("\n".join(lines))


def _is_complete(kind: Kind) -> bool:
    """Whether faults would find nothing that a run could trip over; fast, for every parse."""
    modules = {file.stage for file in kind.files.values()} | {*kind.figures}
    axes_of_files = {*kind.axes, *common()["axes"], *PLACES}
    specs = [spec for file in kind.files.values() for spec in file.variables.values()]
    return (
        all((KINDS / kind.name / f"{module}.py").is_file() for module in modules)
        and all({*spec.dims.split()} <= axes_of_files for spec in specs)
        and (kind.role != "experiment" or bool(kind.category and kind.figures))
        and all("raw" not in file.reads or len(file.reads) == 1 for file in kind.files.values())
    )


def _repeated(found: dict[str, Kind]) -> Iterator[str]:
    """Names of files, stages and figures that two kinds have: one line each."""
    for what in ("file", "stage", "figure"):
        owners: dict[str, str] = {}
        for kind in found.values():
            names = kind.figures if what == "figure" else kind.files
            if what == "stage":
                names = {file.stage: file for file in kind.files.values()}
            for name in names:
                if name in owners:
                    yield (
                        f"kinds/{kind.name}/kind.yaml: the {what} {name} is that of "
                        f"kinds/{owners[name]}; choose another name"
                    )
                owners[name] = kind.name


def experiments() -> dict[str, Kind]:
    """The kinds that a section of an experiment can be."""
    return {name: kind for name, kind in kinds().items() if kind.role == "experiment"}


@functools.cache
def files() -> dict[str, File]:
    """All files that stages make, by name without suffix."""
    return {name: file for kind in kinds().values() for name, file in kind.files.items()}


@functools.cache
def stages() -> dict[str, File]:
    """All files by the names of the stages that make them."""
    return {file.stage: file for file in files().values()}


@functools.cache
def figures() -> dict[str, Figure]:
    """All figures by name."""
    return {name: figure for kind in kinds().values() for name, figure in kind.figures.items()}


def shows_experiments(figure: Figure) -> bool:
    """Whether a study names the experiments that a figure shows."""
    return bool(figure.kinds) and kinds()[figure.kind].role != "claims"


def category(figure: str) -> str:
    """The category of a figure in the report, with its number in the story."""
    story = common()["story"]
    for number, (name, named) in enumerate(story.items()):
        if figure in named:
            return f"{number} {name}"
    name = kinds()[figures()[figure].kind].category
    return f"{[*story].index(name)} {name}" if name in story else f"{len(story)} {name}"


def in_order(names: Iterable[str]) -> list[str]:
    """Figures in the order of the story; those not named there come last in their category."""
    named = [name for part in common()["story"].values() for name in part]
    declared = [*figures()]
    return sorted(
        names,
        key=lambda name: (
            category(name),
            named.index(name) if name in named else len(named) + declared.index(name),
        ),
    )


@functools.cache
def variables(name: str) -> dict[str, Variable]:
    """The variables of a file, with the ends of intervals."""
    declared = {}
    for variable, spec in files()[name].variables.items():
        for end, which in INTERVAL if spec.over else INTERVAL[:1]:
            means = f"{which} end of the 95 % interval over {spec.over}: {spec.means}"
            means = means if end else spec.means
            declared[variable + end] = replace(spec, means=means, over="")
    return declared


@functools.cache
def axes(name: str) -> dict[str, Variable]:
    """The axes of a file that have coordinates, in order."""
    own = kinds()[files()[name].kind].axes
    shared = {axis: spec for axis, spec in _axes(common()["axes"]).items() if axis not in own}
    used = {dim for spec in files()[name].variables.values() for dim in spec.dims.split()}
    return {axis: spec for axis, spec in (own | shared).items() if axis in used}


@functools.cache
def contract(name: str) -> dict[str, dict[str, Variable]]:
    """Variables and axes of a file: they are checked, and are part of the digest of its code."""
    return {"variables": variables(name), "axes": axes(name)}


@functools.cache
def study_schema(models: tuple[str, ...]) -> dict:
    """The JSON Schema of studies; models: names of the pretrained models."""
    schema = copy.deepcopy(common()["study"])
    parts = schema["properties"]
    data = copy.deepcopy(kinds()["data"].settings)
    data["properties"]["model"]["enum"] = list(models)
    sections = {name: kind.settings for name, kind in experiments().items()}
    parts["experiments"]["additionalProperties"]["properties"] = {"data": data} | sections
    parts["claims"] = kinds()["claims"].settings | {"default": {}}
    parts["figures"]["properties"] = {
        name: {
            "description": figure.question,
            "$ref": "#/$defs/figure" if shows_experiments(figure) else "#/$defs/drawing",
        }
        for kind in kinds().values()
        for name, figure in kind.figures.items()
        if kind.role in TELLS
    }
    return schema


# Reading of declarations.


def _read(path: Path) -> dict:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    return yaml.load(path.read_text(encoding="utf-8"), loader)


def _kind(path: Path) -> Kind:
    declared, name = _read(path), path.parent.name
    settings = declared.get("settings", {"properties": {}})
    frame = {"description": declared["what"], "type": "object", "additionalProperties": False}
    properties = {key: resolved(part) for key, part in settings["properties"].items()}
    figures = declared.get("figures", {}).items()
    return Kind(
        name=name,
        what=declared["what"],
        **{key: declared.get(key, "") for key in ("equation", "cost", "limits")},
        role=declared.get("role", "experiment"),
        category=declared.get("category", ""),
        memory=declared.get("memory", "data"),
        min_tokens=declared.get("min_tokens", 1),
        orders=tuple(declared.get("orders", ORDERS)),
        settings={**frame, **settings, "properties": properties},
        axes=_axes(declared.get("axes", {})),
        files={file: _file(name, file, part) for file, part in declared.get("files", {}).items()},
        figures={figure: _figure(name, figure, part) for figure, part in figures},
    )


def _file(kind: str, name: str, declared: dict) -> File:
    lists = {key: tuple(part) for key, part in declared.items() if isinstance(part, list)}
    variables = _variables(declared["variables"])
    return File(name=name, kind=kind, **declared | lists | {"variables": variables})


def _figure(kind: str, name: str, declared: dict) -> Figure:
    lists = {key: tuple(part) for key, part in declared.items() if isinstance(part, list)}
    return Figure(name=name, kind=kind, **{"kinds": (kind,)} | declared | lists)


def _variables(declared: dict) -> dict[str, Variable]:
    return {
        name: Variable(**spec | {"units": str(spec.get("units", ""))})
        for name, spec in declared.items()
    }


def _axes(declared: dict) -> dict[str, Variable]:
    return _variables({axis: {"dims": axis, **spec} for axis, spec in declared.items()})


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


# Faults of declarations.

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
        "coordinate": {"type": "boolean"},
        "optional": {"type": "boolean"},
        "means": TEXT,
    },
    # numbers have a unit, 1 if they are pure; texts and truth values have none
    "if": {"required": ["dtype"], "properties": {"dtype": {"enum": ["str", "bool"]}}},
    "else": {"required": ["units"]},
}
FILE = {
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
        "variables": {"type": "object", "minProperties": 1, "additionalProperties": SPEC},
    },
}
FIGURE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["question", "caption"],
    "properties": {
        "question": TEXT,
        "caption": TEXT,
        "kinds": NAMES,
        "one_model": {"type": "boolean"},
        "also": {"type": "array", "items": {"enum": ["html", "md"]}},
    },
}
FORM = {
    "type": "object",
    "additionalProperties": False,
    "required": ["what"],
    "properties": {
        "what": TEXT,
        "equation": TEXT,
        "cost": TEXT,
        "limits": TEXT,
        "role": {"enum": list(ROLES)},
        "category": TEXT,
        "memory": {"enum": list(MEMORY)},
        "min_tokens": {"type": "integer", "minimum": 1},
        "orders": {"type": "array", "minItems": 1, "items": {"enum": list(ORDERS)}},
        "settings": {"type": "object", "required": ["properties"]},
        "axes": {"type": "object", "additionalProperties": SPEC},
        "files": {"type": "object", "minProperties": 1, "additionalProperties": FILE},
        "figures": {"type": "object", "additionalProperties": FIGURE},
    },
}


def faults(path: Path) -> Iterator[str]:
    """Faults of a kind's folder, one line each: its file, the key, and what to do."""
    import jsonschema  # imported here, as a parse without faults does not need it

    where = f"kinds/{path.parent.name}/kind.yaml"
    try:
        declared = _read(path)
    except (OSError, yaml.YAMLError) as error:
        yield f"{where}: cannot be read ({str(error).splitlines()[0]})"
        return
    validator = jsonschema.Draft202012Validator(FORM)
    broken = sorted(validator.iter_errors(declared), key=lambda breach: breach.json_path)
    for breach in broken:
        key = ".".join(map(str, breach.absolute_path))
        yield f"{where}: {key}: {breach.message}" if key else f"{where}: {breach.message}"
    if broken:
        return
    shared = common()
    for key, part in _uses(declared.get("settings", {}), "settings"):
        if part not in shared["settings"]:
            known = ", ".join(shared["settings"])
            yield f"{where}: {key}: use: {part!r} is unknown; kinds/common.yaml defines {known}"
    axes = {*declared.get("axes", {}), *shared["axes"], *PLACES}
    if "files" not in declared and declared.get("role") != "story":
        yield f"{where}: files: is missing"
    for name, file in declared.get("files", {}).items():
        for variable, spec in file["variables"].items():
            for dim in set(spec.get("dims", "").split()) - axes:
                yield (
                    f"{where}: files.{name}.variables.{variable}: dims: {dim!r} is no axis; "
                    "declare it under axes"
                )
        if "raw" in file["reads"] and len(file["reads"]) > 1:
            yield f"{where}: files.{name}.reads: raw stands alone; read the files in another stage"
        yield from _module_faults(path.parent, file["stage"], f"{where}: files.{name}: stage")
    of_story = declared.get("role", "experiment") in TELLS
    for name, figure in declared.get("figures", {}).items():
        beside = [*("table", "answer") * of_story, *("page",) * ("html" in figure.get("also", []))]
        beside += ["printed"] * ("md" in figure.get("also", []))
        yield from _module_faults(path.parent, name, f"{where}: figures: {name}", beside)
    if declared.get("role", "experiment") == "experiment":
        for key in ("category", "memory", "settings", "figures"):
            if key not in declared:
                yield f"{where}: {key}: is missing"


def _uses(part: object, key: str) -> Iterator[tuple[str, str]]:
    """Keys at which shared definitions are used, and the names of these."""
    if isinstance(part, dict):
        if isinstance(part.get("use"), str):
            yield key, part["use"]
        for name, value in part.items():
            yield from _uses(value, f"{key}.{name}")


def _module_faults(
    folder: Path, name: str, where: str, beside: Iterable[str] = ()
) -> Iterator[str]:
    """Faults if the kind's folder has no module `name` with functions of that name and `beside`."""
    file, shown = folder / f"{name}.py", f"kinds/{folder.name}/{name}.py"
    if not file.is_file():
        yield f"{where}: there is no {shown}; write it, with a function {name}"
        return
    body = ast.parse(file.read_text(encoding="utf-8")).body
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    for wanted in (name, *beside):
        if wanted not in functions:
            yield f"{where}: {shown} has no function {wanted}"
