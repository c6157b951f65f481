"""Check the settings of a user before any job: all faults at once, one line each.

A line says where the fault is (file and dotted key), what was found, what is allowed and what to
do. Meaning, limits and defaults of all keys are in workflow/schemas; here are checks that a schema
cannot express: strict YAML, existing names, heads of the model, memory. This module imports no
large package, because every parse of the Snakefile imports it.
"""

import functools
import importlib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from . import declarations, duration, foreign, memory, model_faults, registry
from .choosing import HALF, chosen_inputs, spread_heads
from .strict_yaml import FLOAT, number, parsed
from .words import Fault, choices, in_bytes, lines, shown, unknown, unknown_key

# The first and the last Python for which all of envs/requirements.txt has binary packages.
PYTHONS = (3, 11), (3, 13)
NAME = r"[a-z0-9][a-z0-9_-]{0,39}"  # of studies, experiments, figures, inputs; part of file names
SCHEMAS = Path(__file__).parents[2] / "schemas"
# The folder with workflow/ and config/; files that the user's folder lacks are taken from here.
WORKFLOW_ROOT = Path(__file__).resolve().parents[3]

PLACE_OF_FILE = "{file}"  # in a study, for the key `file` of the configuration
OWN_FILES = "config/inputs/own"  # folder of a user's files of q, k and v in archives
DATA_KINDS = ("synthetic", "model", "file", "task", "same_as")  # one per experiment
SAME_AS = "same_as"  # of claims: those of another study
TRAINED = "trained"  # the section that goes with a task
OF_MODELS = ("inputs", "query_key_weights")  # settings of data that go with model only
BESIDE = (*OF_MODELS, "order")  # settings of data beside one of DATA_KINDS


# The whole check, as the Snakefile calls it.


def check(
    config: dict,
    root: Path,
    cluster: bool = False,
    own: bool = True,
    results: str = "results",
    runs: bool = True,
) -> tuple[dict, dict]:
    """The settings of the machine and of the chosen study, with defaults.

    config: as Snakemake read it; root: the folder with config/; cluster: whether jobs run on other
    machines; own: False if this is a module of another workflow, which has further keys in config;
    results: the folder of all results; runs: whether stages may run, so that their memory is
    checked. ValueError with all faults, one per line.
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
    """A study with its defaults; ValueError with all its faults, one per line.

    If a user's file does not exist any more, data made from it in the folder of all results serve.
    """
    path = find_study(name, [folder / "config/studies" for folder in (WORKFLOW_ROOT, root)])
    file = f"config/studies/{path.name}"
    study, misread = parsed(path, file)
    own = machine.get("file", "")
    study, places = with_own_file(study, own)
    if places and not own:
        text = (
            f"is missing, study {name} reads a file of yours: --config study={name} file=<its path>"
        )
        raise ValueError(f"config: file: {text}")
    if own and not places and machine.get("study", name) == name:
        text = f'study {name} has no place for it, data: {{file: "{PLACE_OF_FILE}"}}'
        raise ValueError(
            f"config: file: got {shown(own)}, but {text}; write this there, or use study=own"
        )
    study = with_claims_of(study, root)
    reported = {keys for keys, _ in misread}
    faults = study_faults(study, root, machine, root / results / name)
    left = misread + [fault for fault in faults if fault[0] not in reported]
    of_file = [(("file",), text) for keys, text in left if keys in places]
    texts = lines("config", of_file)
    if texts := texts + lines(file, [fault for fault in left if fault[0] not in places]):
        raise ValueError("\n".join(texts))
    study = complete(study, load_schema("study"))
    if study["claims"]:
        study["figures"].setdefault("claims", {})
    return study


def with_own_file(study: Any, file: str) -> tuple[Any, list[tuple]]:
    """A study with the file of the configuration where it says {file}, and the keys where it does.

    What is no valid study is returned as it is.
    """
    experiments = study.get("experiments") if isinstance(study, dict) else {}
    changed, places = dict(experiments) if isinstance(experiments, dict) else {}, []
    for name, experiment in changed.items():
        data = experiment.get("data") if isinstance(experiment, dict) else None
        if isinstance(data, dict) and data.get("file") == PLACE_OF_FILE:
            changed[name] = experiment | {"data": data | {"file": file}}
            places.append(("experiments", name, "data", "file"))
    return (study | {"experiments": changed} if places else study), places


def with_claims_of(study: Any, root: Path) -> Any:
    """A study with the claims of the one that it names (claims: {same_as: ...}).

    ValueError of one line if there is no such study, or if it has no claims of its own.
    """
    claims = study.get("claims") if isinstance(study, dict) else {}
    if not isinstance(claims, dict) or not isinstance(claims.get(SAME_AS), str):
        return study
    name, folders = claims[SAME_AS], [one / "config/studies" for one in (WORKFLOW_ROOT, root)]
    if len(claims) > 1:
        raise ValueError(
            f"claims: got {SAME_AS} and claims of its own; keep {SAME_AS}, or copy what you need"
        )
    try:
        path = find_study(name, folders)
    except ValueError as fault:
        words = str(fault).removeprefix("config: study: ")
        raise ValueError(f"claims.{SAME_AS}: {words}") from None
    theirs = parsed(path, f"config/studies/{path.name}")[0].get("claims")
    if not isinstance(theirs, dict) or SAME_AS in theirs:
        raise ValueError(f"claims.{SAME_AS}: study {name} has no claims of its own; name another")
    return study | {"claims": theirs}


def find_study(name: str, folders: list[Path]) -> Path:
    """The file of a study, in the last folder that has it; ValueError if none has it."""
    files = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    names = [stem for stem in files if re.fullmatch(NAME, stem)]
    if name not in names:
        raise ValueError(f"config: study: {unknown(name, names)}")
    return files[name]


def machine_faults(machine: dict, cluster: bool) -> list[str]:
    """Faults of the settings of config.yaml, one line each, without those of the study's name."""
    faults = _schema_faults(machine, load_schema("config"))
    if machine.get("device") == "cuda" and not cluster and not cuda_devices():
        faults.append((("device",), "got cuda, but no usable GPU is visible; use auto or cpu"))
    return lines("config", faults)


def _written_faults(root: Path, schema: dict) -> list[str]:
    """Faults of the YAML of config/config.yaml, which Snakemake does not report."""
    try:
        faults = parsed(root / "config/config.yaml", "")[1]
    except ValueError:  # Snakemake reports it, or there is no such file
        return []
    own = [(keys, text) for keys, text in faults if keys and keys[0] in schema["properties"]]
    return lines("config/config.yaml", own)


def python_fault(version_info: tuple) -> str | None:
    """A line if a version of Python (sys.version_info) is outside PYTHONS, else None."""
    if PYTHONS[0] <= tuple(version_info[:2]) <= PYTHONS[1]:
        return None
    got = ".".join(map(str, version_info[:3]))
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    return (
        f"Python: got {got}, wanted {first} to {last}; make the environment anew with one of "
        f"these, as in python{last} -m venv .venv (README.md, Run it)"
    )


def cuda_devices() -> int:
    """Number of usable GPUs, from the driver; 0 if there is no driver."""
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


# Schema: types, limits and unknown keys.


@functools.cache
def load_schema(name: str) -> dict:
    """The schema `config` or `study`; that of studies is put together from the declared kinds."""
    if name == "study":
        model_faults.require()
        return declarations.study_schema(tuple(registry.models()))
    return yaml.safe_load((SCHEMAS / f"{name}.schema.yaml").read_text(encoding="utf-8"))


def complete(settings: Any, schema: dict) -> Any:
    """Settings with the schema's defaults in place of missing keys."""
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
    """config with texts as numbers and numbers as texts where the schema wants these.

    Snakemake guesses the types of values of --config: memory_gb may be "8", and study may be 2023.
    """
    result = dict(config)
    for key, value in result.items():
        kind = schema["properties"].get(key, {}).get("type")
        if kind == "number" and isinstance(value, str) and FLOAT.fullmatch(value):
            result[key] = number(value)
        elif kind == "string" and isinstance(value, int) and not isinstance(value, bool):
            result[key] = str(value)
    return result


def _is_integer(_: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_: object, value: object) -> bool:
    return _is_integer(_, value) or isinstance(value, float) and math.isfinite(value)


def _pattern(validator: Any, pattern: str, value: Any, schema: dict) -> Iterator:
    if validator.is_type(value, "string") and not re.fullmatch(pattern, value):
        yield jsonschema.ValidationError("pattern")


# jsonschema itself accepts 64.0 as an integer, nan as a number and "ok\n" for ^[a-z]+$.
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
            faults += [((*keys, key), unknown_key(key, known)) for key in got if key not in known]
        elif error.validator == "required":
            missing = [key for key in error.validator_value if key not in got]
            faults += [((*keys, key), "is missing and has no default") for key in missing]
        elif error.validator == "uniqueItems":
            i = next(i for i, item in enumerate(got) if item in got[:i])
            faults.append(((*keys, i), f"{shown(got[i])} is repeated; name each once"))
        elif error.validator == "maximum":
            limit = error.validator_value
            words = f"{shown(got)} is over the limit of {limit}; choose at most {limit}"
            faults.append((keys, words))
        elif error.validator == "enum" and isinstance(got, str):
            faults.append((keys, unknown(got, part["enum"])))
        else:
            faults.append((keys, f"got {shown(got)}, wanted {_wanted(part)}"))
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


# Checks that a schema cannot express. They read only settings without faults.


def study_faults(study: Any, root: Path, machine: dict, made: Path | None = None) -> list[Fault]:
    """Faults of a study's settings; made: the folder of the study's results, if it may exist."""
    schema = load_schema("study")
    faults = _schema_faults(study, schema)
    valid = _without(complete(study, schema), {_upto_list(keys) for keys, _ in faults})
    if not isinstance(valid, dict) or "experiments" not in valid:
        return faults
    written, experiments = study["experiments"], valid["experiments"]
    for name, experiment in experiments.items():
        if "file" in experiment.get("data", {}):
            file = own_file(experiment["data"], root)
            if made and not os.path.exists(file) and recorded_digest(made / name / "qkv.nc", file):
                file = made / name / "qkv.nc"
            experiment["data"]["file"] = str(file)
    faults = [(keys, _with_memory(keys, text, experiments, root)) for keys, text in faults]
    for name, experiment in experiments.items():
        where = ("experiments", name)
        if name in ("figures", "claims"):
            faults.append((where, f"is the folder of the {name}; choose another name"))
        if "data" in experiment:
            faults += _data_faults(name, experiments, written, root)
        given = sections(written[name])
        if len(given) != 1 and isinstance(written[name], dict):
            got, wanted = " and ".join(given) or "none", ", ".join(declarations.experiments())
            faults.append((where, f"got {got}, wanted exactly one of {wanted}"))
        for section in given:
            if section in experiment:
                keys, wrote = (*where, section), written[name][section]
                shape = _shape(name, experiments, root)
                names = input_names(name, experiments, root)
                settings = with_places(experiment[section], shape)
                own = [*_size_faults(keys, section, settings, shape)]
                orders = layer_orders(name, experiments, root)
                own += _order_faults(keys, section, settings, orders)
                own += _kind_faults(section, keys, settings, wrote, names, shape)
                reported = {keys for keys, _ in own}
                own += [x for x in _name_faults(keys, settings, names) if x[0] not in reported]
                if not any("blocks" in text for _, text in own):  # no second fault of one kind
                    limit = machine.get("memory_gb")
                    own += _memory_faults(keys, section, settings, shape, limit)
                faults += own
    for figure, settings in valid.get("figures", {}).items():
        keys, declared = ("figures", figure, "experiments"), declarations.figures()[figure]
        for name in settings.get("experiments", []):
            if name and name not in written:
                faults.append((keys, unknown(name, experiments)))
            elif name and not {*declared.kinds} & {*sections(written[name])}:
                has = " and ".join(sections(written[name])) or "no section"
                wanted = " or ".join(declared.kinds)
                faults.append((keys, f"{name} has {has}, {figure} shows experiments with {wanted}"))
        faults += _joint_faults(keys, figure, settings.get("experiments", []), experiments)
        if declared.kinds == ("claims",) and not valid.get("claims"):
            text = "shows the claims of the study, which has none; write some, or take it out"
            faults.append((("figures", figure), text))
    kinds = {name: given[0] for name in written if len(given := sections(written[name])) == 1}
    broken = {keys[1] for keys, _ in faults if keys[0] == "claims" and keys[1:]}
    claims = {x: one for x, one in (valid.get("claims") or {}).items() if x not in broken}
    claim_checks = importlib.import_module(f"{__package__}.kinds.claims.checks")
    return faults + [*claim_checks.faults(claims, kinds)]


def _joint_faults(
    where: tuple, figure: str, names: list[str], experiments: dict
) -> Iterator[Fault]:
    """Faults of the experiments of a figure of several kinds that shows one model."""
    declared = declarations.figures()[figure]
    known = [name for name in names if name in experiments] if declared.one_model else []
    data = {experiments[name].get("data", {}).get("same_as", name): name for name in known}
    if len(data) > 1:
        text = f"{' and '.join(data.values())} have other data, {figure} shows one model"
        yield where, f"{text}; give experiments that share their data (same_as)"
    for kind in declared.kinds if known else ():
        same = [name for name in known if kind in sections(experiments[name])]
        if kind == declared.kind and not same:
            yield where, f"got none with {kind}, {figure} needs at least one; add one"
        if kind != declared.kind and len(same) > 1:
            text = (
                f"{' and '.join(same)} have {kind}, {figure} shows one of them; take out the others"
            )
            yield where, text


def with_places(settings: dict, shape: dict[str, int]) -> dict:
    """Settings with the places of the heads where `heads` is a number of them."""
    n = settings.get("heads")
    if not isinstance(n, int) or not {"layers", "heads"} <= {*shape}:
        return settings
    places = spread_heads(n, shape["layers"], shape["heads"])
    return settings | {"heads": [list(place) for place in places]}


def _kind_faults(
    section: str, where: tuple, settings: dict, wrote: dict, names: list[str] | None, shape: dict
) -> list[Fault]:
    """Faults that the kind's own module checks.py finds, if it has one."""
    if not (declarations.KINDS / section / "checks.py").is_file():
        return []
    checks = importlib.import_module(f"{__package__}.kinds.{section}.checks")
    return list(checks.faults(where, settings, wrote, names, shape))


def sections(experiment: object) -> list[str]:
    """The sections of an experiment that are names of kinds."""
    kinds = declarations.experiments()
    return [name for name in kinds if isinstance(experiment, dict) and name in experiment]


def _data_faults(name: str, experiments: dict, written: dict, root: Path) -> Iterator[Fault]:
    """Faults of an experiment's data; experiments: settings without faults; written: all."""
    data, wrote = experiments[name]["data"], written[name]["data"]
    where = ("experiments", name, "data")
    given = [key for key in DATA_KINDS if key in wrote]
    if len(given) > 1 or not set(wrote) - {*BESIDE}:
        got = " and ".join(given) or "none"
        yield where, f"got {got}, wanted exactly one of {', '.join(DATA_KINDS)}"
    for key in OF_MODELS:
        if key in wrote and given and "model" not in wrote:
            yield (*where, key), f"goes with model only, not with {given[0]}; remove it"
    if "order" in wrote and given and given[0] not in ("synthetic", "file"):
        text = f"{'the model' if 'model' in wrote else given[0]} has an order of its own"
        yield (*where, "order"), f"goes with synthetic or file; {text}; remove it"
    if "model" in data:
        model, names = data["model"], known_inputs(data["model"], root)
        if "inputs" not in wrote:
            yield (*where, "inputs"), f"is missing, {model} needs one or more{choices(names)}"
        for wanted in data.get("inputs", []):
            if wanted and wanted not in names:
                yield (*where, "inputs"), f"for {model}, {unknown(wanted, names)}"
        rotated = registry.models()[model].rotary_base
        if rotated and data.get("query_key_weights") == "fresh":
            text = (
                f"got fresh, which does not rotate queries and keys as {model} does; leave it out"
            )
            yield (*where, "query_key_weights"), text
        for fault in model_faults.pin_faults(packages(model, data.get("inputs", []))):
            yield (*where, "model"), f"{model}: {fault}"
    if "file" in data:
        for fault in file_faults(data["file"]):
            yield (*where, "file"), f"{shown(wrote['file'])}: {fault}"
        if "order" in data and foreign.header(data["file"])["orders"]:
            yield (*where, "order"), "the file itself says the order of its layers; remove it"
    if "same_as" in data:
        other, here = data["same_as"], (*where, "same_as")
        owners = [key for key in experiments if key != name and _owns_data(experiments[key])]
        if other == name:
            yield here, f"names itself, wanted an experiment with data of its own{choices(owners)}"
        elif other not in written:
            yield here, unknown(other, owners)
        elif "same_as" in experiments.get(other, {}).get("data", {}):
            text = f"{other} has same_as itself, wanted an experiment with data of its own"
            yield here, text + choices(owners)
    owned = experiments.get(data.get("same_as", name), {}).get("data", {})
    trained = TRAINED in sections(written[name])
    if given and trained != ("task" in owned) and owned:
        text = "has a task, which goes with the section trained only; give other data"
        if trained:
            text = f"has no task, which trained needs{choices([*registry.TASKS])}"
        yield where, text
    for fault in model_faults.pin_faults(registry.TASKS.get(data.get("task", ""), [])):
        yield (*where, "task"), f"{data['task']}: {fault}"
    if trained:
        return
    changing = [section for section in sections(written[name]) if _changes_models(section)]
    if changing and _owns_data({"data": owned}) and given and "model" not in owned:
        text = f"has no model, whose layers {changing[0]} could change"
        yield where, f"{text}; give one, or same_as with one"
    if changing and owned.get("query_key_weights") == "fresh":
        text = f"has fresh query and key weights, but {changing[0]} runs the pretrained model"
        yield where, f"{text}; give data without query_key_weights"


def _changes_models(section: str) -> bool:
    """Whether a kind reads the raw files of its data."""
    return any("raw" in file.reads for file in declarations.kinds()[section].files.values())


def _owns_data(experiment: dict) -> bool:
    return "data" in experiment and "same_as" not in experiment["data"]


def _size_faults(
    where: tuple, section: str, settings: dict, shape: dict[str, int]
) -> Iterator[Fault]:
    """Faults of numbers of neurons, heads and tokens."""
    sizes = memory.sizes(settings)
    for smaller, larger in zip(sizes, sizes[1:]):
        if smaller >= larger:
            text = f"{larger} comes after {smaller}; wanted rising numbers, each once"
            yield (*where, "n_features"), text
            break
    chosen = settings.get("heads", "all")
    pairs = chosen if isinstance(chosen, list) else []
    for key, pair in [("heads", pair) for pair in pairs] + [("head", settings.get("head"))]:
        if pair and None not in pair and "layers" in shape and "heads" in shape:
            layer, head = pair
            if layer >= shape["layers"] or head >= shape["heads"]:
                has = f"layers 0 to {shape['layers'] - 1} and heads 0 to {shape['heads'] - 1}"
                yield (*where, key), f"[{layer}, {head}] does not exist; the data has {has}"
    min_tokens = declarations.kinds()[section].min_tokens
    if shape.get("tokens", min_tokens) < min_tokens:
        text = f"got data with {shape['tokens']} tokens per input, wanted at least {min_tokens}"
        yield where, f"{text}; use longer inputs"


def _order_faults(where: tuple, section: str, settings: dict, orders: list[str]) -> Iterator[Fault]:
    """A fault if the kind cannot read the order of a layer; orders: of the layers, if known."""
    chosen = settings.get("heads", "all")
    layers = range(len(orders)) if not isinstance(chosen, list) else [x[0] for x in chosen if x]
    if settings.get("head"):
        layers = [settings["head"][0]]
    for layer in sorted({layer for layer in layers if layer is not None and layer < len(orders)}):
        if orders[layer] not in declarations.kinds()[section].orders:
            text = f"layer {layer} of the data is {orders[layer]}, which {section} does not serve"
            yield where, f"{text}; choose heads of other layers, or take other data"
            return
        causal = orders[layer] == "causal"
        if causal and settings.get("order", "causal") != "causal":
            text = f"got {settings['order']}, but layer {layer} of the data is causal"
            yield (*where, "order"), f"{text}; say order: causal"
            return
        if causal and settings.get("dtype") == "bfloat16":
            text = f"bfloat16 does not serve causal order (layer {layer} of the data)"
            yield (*where, "dtype"), f"{text}; use float32 or float64"
            return


def _memory_faults(
    where: tuple, section: str, settings: dict, shape: dict[str, int], memory_gb: Any
) -> Iterator[Fault]:
    """A fault if the largest array needs more memory than memory_gb allows."""
    if not ({*foreign.SIZES} <= {*shape} and _is_number(None, memory_gb)):
        return
    if memory.can_plan(section, settings):
        needed, what, advice, _ = max(memory.plan(shape, settings, section))
        if needed > memory_gb * 10**9:
            text = f"needs {in_bytes(needed)} for {what}, memory_gb allows {memory_gb}"
            yield where, f"{text}: lower {advice}, or raise memory_gb in config/config.yaml"


def _name_faults(where: tuple, settings: dict, names: list[str] | None) -> Iterator[Fault]:
    """Faults of inputs that do not exist or have two roles; names: of all inputs, if known."""
    roles = {
        key: settings[key] if isinstance(settings.get(key), list) else []
        for key in ("calibrated_on", "trained_on", "validated_on", "inputs")
    }
    roles |= {"input": [settings["input"]] if settings.get("input") else []}
    first = "trained_on" if "trained_on" in settings else "calibrated_on"
    halves = [key for key in (first, "validated_on") if settings.get(key) == HALF]
    if halves and names:
        given = (settings.get(key) or [] for key in (first, "validated_on"))
        roles[first], roles["validated_on"] = chosen_inputs(names, *given)
        if empty := [key for key in halves if not roles[key]]:
            text = f"got half, but with {len(names)} of them no input is left for this"
            text += "; record more inputs into one file"
            yield (*where, empty[0]), text
            return
    for key, wanted in roles.items():
        for name in wanted:
            if name and names is not None and name not in names:
                yield (*where, key), unknown(name, names)
    fitted = [key for key in ("calibrated_on", "trained_on") if roles[key]]
    for first in fitted:
        for other in ("validated_on", "inputs"):
            for name in set(roles[first]) & set(roles[other]):
                if name:
                    verb = "validate" if other == "validated_on" else "test"
                    text = f"{shown(name)} is in {first}; {verb} on other inputs"
                    yield (*where, other), text
    used = [name for key in ("calibrated_on", "trained_on", "validated_on") for name in roles[key]]
    everything = settings.get("inputs", "all") == "all" and not set(names or used) - set(used)
    if fitted and names and all(used) and everything and set(used) <= set(names):
        last = "validated_on" if roles["validated_on"] else fitted[0]
        left = "tested" if last == "validated_on" or "inputs" not in settings else "simulated"
        has = "and trained_on have" if last == "validated_on" else "has"
        yield (*where, last), f"{has} all inputs; leave at least one to be {left}"


def _with_memory(keys: tuple, text: str, experiments: dict, root: Path) -> str:
    """The fault of a too large n_features, with the memory that it would need."""
    got = re.match(r"(\d+) is over the limit of \d+", text)
    if not got or keys[3:4] != ("n_features",):
        return text
    d_head = _shape(keys[1], experiments, root).get("d_head")
    if d_head is None:
        return text
    size = in_bytes(int(got[1]) * d_head * 8)
    note = f" (the hidden weights of one head alone are {size})"
    return text.replace(";", f"{note};", 1)


def _upto_list(keys: tuple) -> tuple:
    """keys up to the first index in a list: of a bad pair [layer, head], the pair."""
    return keys[: next((i for i, key in enumerate(keys, 1) if isinstance(key, int)), len(keys))]


def _without(value: object, broken: set[tuple], keys: tuple = ()) -> object:
    """`value` without the keys that have a fault; items of lists with a fault become None."""
    if keys in broken:
        return None
    if isinstance(value, list):
        return [_without(item, broken, (*keys, i)) for i, item in enumerate(value)]
    if isinstance(value, dict):
        parts = {key: _without(part, broken, (*keys, key)) for key, part in value.items()}
        return {key: part for key, part in parts.items() if (*keys, key) not in broken}
    return value


# Sizes, memory and time.


def memory_needed(experiment: str, study: dict, root: Path = Path(".")) -> list[memory.Array]:
    """The large arrays of a valid experiment, largest first; [] if its sizes are not known."""
    shape = _shape(experiment, study["experiments"], root)
    if not {*foreign.SIZES} <= {*shape}:
        return []
    (section,) = sections(study["experiments"][experiment])
    return sorted(memory.plan(shape, study["experiments"][experiment][section], section))[::-1]


def seconds_needed(experiment: str, study: dict, root: Path = Path(".")) -> dict[str, float]:
    """Rough seconds on one core of each stage of a valid experiment; {} without known sizes."""
    experiments = study["experiments"]
    shape, data = _shape(experiment, experiments, root), experiments[experiment]["data"]
    if not {*foreign.SIZES} <= {*shape}:
        return {}
    owned = experiments[data["same_as"]]["data"] if "same_as" in data else data
    if texts := input_files(owned["model"], owned["inputs"], root) if "model" in owned else []:
        # ASSUME: a token has three letters; the model could read more of them.
        shape["tokens"] = min(shape["tokens"], max(path.stat().st_size for path in texts) // 3)
    (section,) = sections(experiments[experiment])
    return duration.seconds(shape, experiments[experiment][section], section, data is owned)


def _shape(name: str, experiments: dict, root: Path) -> dict[str, int]:
    """Sizes (foreign.SIZES) of an experiment's data, as far as they are known."""
    data = experiments.get(name, {}).get("data", {})
    if "same_as" in data:
        other = experiments.get(data["same_as"], {}).get("data", {})
        data = {} if "same_as" in other else other
    if "synthetic" in data:
        drawn = data["synthetic"]
        shape = {"layers": 1, "heads": len(drawn.get("sigma_squared", []))}
        shape |= {"inputs": drawn.get("n_inputs"), "tokens": drawn.get("n_tokens")}
        shape |= {"d_head": drawn.get("d_head")}
    elif "model" in data:
        sizes = vars(registry.models()[data["model"]])
        shape = {**sizes, "inputs": len(data.get("inputs", []))}
    elif "file" in data:
        shape = foreign.header(own_file(data, root))["sizes"]
    else:
        shape = {}
    if "d_head" in shape:
        shape = {"d_value": shape["d_head"]} | shape
    return {size: shape[size] for size in foreign.SIZES if shape.get(size)}


def layer_orders(name: str, experiments: dict, root: Path) -> list[str]:
    """The order of each layer of an experiment's data; [] if it is not known."""
    data = experiments.get(name, {}).get("data", {})
    if "same_as" in data:
        data = experiments.get(data["same_as"], {}).get("data", {})
    if "synthetic" in data:
        return [data.get("order", "bidirectional")]
    if "model" in data:
        model = registry.models()[data["model"]]
        return [model.order] * model.layers
    if "file" in data:
        header = foreign.header(own_file(data, root))
        n_layers = header["sizes"].get("layers", 0)
        return header["orders"] or [data.get("order", "bidirectional")] * n_layers
    return []


# Files beside the study: inputs and a user's file.


def input_names(name: str, experiments: dict, root: Path) -> list[str] | None:
    """Names of the inputs of an experiment's data, None if they cannot be known."""
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
    """Names of all inputs that a model can read."""
    kind = registry.models()[model].inputs
    if kind == "photographs":
        return list(registry.PHOTOGRAPHS)
    folders = [folder / "config/inputs" / kind for folder in (WORKFLOW_ROOT, root)]
    files = [path for folder in folders for path in folder.glob(f"*{registry.INPUTS[kind]}")]
    return sorted({path.stem for path in files if path.is_file() and re.fullmatch(NAME, path.stem)})


def input_files(model: str, inputs: list[str], root: Path = Path(".")) -> list[Path]:
    """The files of the named inputs; none for photographs, which are parts of packages."""
    kind = registry.models()[model].inputs
    if kind == "photographs":
        return []
    folder, suffix = Path("config/inputs") / kind, registry.INPUTS[kind]
    relative = [folder / f"{name}{suffix}" for name in inputs]
    return [root / path if (root / path).is_file() else WORKFLOW_ROOT / path for path in relative]


def packages(model: str, inputs: list[str]) -> list[str]:
    """The packages whose wheels are read: the model's, and those with photographs."""
    declared = registry.models()[model]
    photographs = inputs if declared.inputs == "photographs" else []
    others = {registry.PHOTOGRAPHS[name][0] for name in photographs if name in registry.PHOTOGRAPHS}
    return [declared.wheel, *sorted(others - {registry.INSTALLED})]


def own_file(data: dict, root: Path = Path(".")) -> Path:
    """The path of a user's file: as in the study, or in the folder for such files in archives."""
    path, packed = root / data["file"], root / OWN_FILES / Path(data["file"]).name
    return packed if os.path.exists(packed) and not os.path.exists(path) else path


def recorded_digest(qkv: Path, file: Path) -> str:
    """SHA-256 of the user's file of which qkv.nc was made; "" if it was another file or none."""
    try:
        origin = foreign.header(qkv)["origin"]
        settings, upstream = json.loads(origin["settings"]), json.loads(origin["upstream"])
        return settings["data"]["file"] if file.name in upstream else ""
    except (KeyError, TypeError, ValueError):
        return ""


def file_faults(path: Path) -> list[str]:
    """Faults of a user's file of q, k and v, one line each; values of q, k and v are not read."""
    return foreign.header(path)["faults"]
