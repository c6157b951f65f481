# What the rules share: the checked configuration, the sources of the stages, and input functions.

import ast
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

# Jobs run with the interpreter that runs Snakemake, whether or not its environment is activated.
os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.getenv('PATH', '')}")

if Path("config/config.yaml").exists():

    configfile: "config/config.yaml"


ENVIRONMENT = "../../envs/environment.yaml"  # used with --software-deployment-method conda

# Every file of the package by its name, so that Snakemake fetches them side by side when the
# workflow is used as a module; a test compares the list with the tree.
FILES = [
    "share",
    "stage",
    "wheel",
    "tripartite/__init__",
    "tripartite/about",
    "tripartite/agreement",
    "tripartite/attention",
    "tripartite/calcium",
    "tripartite/checkpoints",
    "tripartite/contracts",
    "tripartite/dynamics",
    "tripartite/explanation",
    "tripartite/features",
    "tripartite/figures/__init__",
    "tripartite/figures/ablation",
    "tripartite/figures/agreement",
    "tripartite/figures/calcium_readout",
    "tripartite/figures/calcium_speed",
    "tripartite/figures/convergence",
    "tripartite/figures/coupling",
    "tripartite/figures/dynamic_range",
    "tripartite/figures/effective_temperature",
    "tripartite/figures/error_vs_features",
    "tripartite/figures/feature_maps",
    "tripartite/figures/features_needed",
    "tripartite/figures/imaging",
    "tripartite/figures/learned_features",
    "tripartite/figures/lesions",
    "tripartite/figures/noise",
    "tripartite/figures/palette",
    "tripartite/figures/phase_diagram",
    "tripartite/figures/predicted_error",
    "tripartite/figures/retention",
    "tripartite/figures/speed",
    "tripartite/figures/symmetries",
    "tripartite/figures/synapse",
    "tripartite/figures/trace",
    "tripartite/foreign",
    "tripartite/gap_junctions",
    "tripartite/imaging",
    "tripartite/job",
    "tripartite/kernels",
    "tripartite/learning",
    "tripartite/network",
    "tripartite/peers",
    "tripartite/perturbations",
    "tripartite/phases",
    "tripartite/pretrained",
    "tripartite/retention",
    "tripartite/sharing",
    "tripartite/stages/__init__",
    "tripartite/stages/ablate",
    "tripartite/stages/attend",
    "tripartite/stages/calibrate",
    "tripartite/stages/compare",
    "tripartite/stages/converge",
    "tripartite/stages/couple",
    "tripartite/stages/explain",
    "tripartite/stages/fit",
    "tripartite/stages/gather",
    "tripartite/stages/generate",
    "tripartite/stages/image",
    "tripartite/stages/integrate",
    "tripartite/stages/learn",
    "tripartite/stages/measure",
    "tripartite/stages/perturb",
    "tripartite/stages/respond",
    "tripartite/stages/retain",
    "tripartite/stages/settle",
    "tripartite/stages/simulate",
    "tripartite/statistics",
    "tripartite/streams",
    "tripartite/study",
    "tripartite/symmetries",
    "tripartite/theory",
    "tripartite/tokenizers",
    "tripartite/transformers",
]
# Studies and inputs that travel with the workflow; a user's own of the same name comes first.
SHIPPED = [
    "studies/complete.yaml",
    "studies/default.yaml",
    "studies/full.yaml",
    "studies/quick.yaml",
    "inputs/passages/austen.txt",
    "inputs/passages/carroll.txt",
    "inputs/passages/darwin.txt",
    "inputs/passages/lincoln.txt",
    "inputs/reactions/amide_coupling.smi",
    "inputs/reactions/diels_alder.smi",
    "inputs/reactions/fischer_esterification.smi",
    "inputs/reactions/grignard_addition.smi",
    "inputs/reactions/suzuki_coupling.smi",
    "inputs/reactions/wittig.smi",
]


def own_file(path):
    "A file of this workflow, by its path from workflow/rules: as it lies on this machine, or fetched."
    fetched = workflow.source_path(path)
    original = Path(fetched.flags["sourcecache_entry"])
    return original.resolve() if original.is_file() else Path(fetched)


for file in SHIPPED:
    own_file(f"../../config/{file}")
for name in ("config", "study"):
    own_file(f"../schemas/{name}.schema.yaml")
SOURCES = {name: own_file(f"../scripts/{name}.py") for name in FILES}


def source(name):
    "The file of a script: repo-relative in a clone, so that moving the clone reruns nothing."
    relative = Path("workflow/scripts")
    own = all(
        (relative / f"{file}.py").is_file()
        and (relative / f"{file}.py").read_bytes() == path.read_bytes()
        for file, path in SOURCES.items()
    )
    return ancient(local(str(relative / f"{name}.py" if own else SOURCES[name])))


def code(stage):
    "Digest of a stage and of everything of ours that it imports: an edit reruns exactly its stages."
    seen, queue = {}, ["stage", stage]
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen[name] = SOURCES[name].read_text()
        for node in ast.walk(ast.parse(seen[name])):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tripartite"):
                package = node.module.replace(".", "/")
                names = [f"{package}/{alias.name}" for alias in node.names] + [
                    package,
                    f"{package}/__init__",
                ]
                queue += [name for name in names if name in SOURCES]
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def load_module(name):
    "Import one of our light modules by its file: no installation, and no clash between two versions."
    spec = importlib.util.spec_from_file_location(
        f"tripartite_{name}", SOURCES[f"tripartite/{name}"]
    )
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


study_module = load_module("study")


def stop(message):
    "Stop before any job with plain lines: an exception would bring Snakemake's traceback with it."
    sys.exit(message)


def checked(function, *arguments):
    "Call a check of the configuration; its faults, one line each, stop Snakemake."
    try:
        return function(*arguments)
    except ValueError as faults:
        stop(f"The configuration has faults; nothing was run.\n{faults}")


if workflow.resource_settings.cores == 0:
    stop("--cores: got 0, with which no job can ever start; give 1 or more")

# Whether jobs go to a cluster. Which executor sends them is not known yet, but all such need --jobs, which
# is a number of cores where jobs stay here.
CLUSTER = workflow.remote_exec or workflow.resource_settings.nodes is not None

MACHINE, CHOSEN = checked(study_module.check, config, Path("."), CLUSTER)
STUDY = MACHINE["study"]
STUDIES = {STUDY: CHOSEN}


wildcard_constraints:
    study=study_module.NAME,
    experiment=study_module.NAME,
    figure=study_module.NAME,


def study(name):
    "The settings of a study, checked when the first of its files is asked for."
    if name not in STUDIES:
        STUDIES[name] = checked(study_module.load_study, name, Path("."), MACHINE)
    return STUDIES[name]


def attention_settings(section):
    "What distinguishes the softmax attention that a network is compared with; nothing, as a rule."
    keys = ("order", "leak_hebbian", "leak_presynaptic")
    network = section.get("network", {"order": "bidirectional"})
    special = network["order"] == "causal" or any(network.get(key) for key in keys[1:])
    return {key: network[key] for key in keys} if special else {}


def stage_files(section):
    "The files that an experiment makes of its data, without suffix; the last one is drawn."
    (name,) = study_module.sections(section)
    return study_module.SECTIONS[name]


def section_of(study_name, kind, name):
    "What a study says of an experiment or a figure: in a module nobody has judged their names before."
    known = study(study_name)[f"{kind}s"]
    if name not in known:
        stop(f"{name}: study {study_name} has no {kind} {name}; it has {', '.join(known)}")
    return known[name]


def file_owner(study_name, name, file):
    "The experiment with which a file stands: itself, or the one whose data it shares."
    experiments = study(study_name)["experiments"]
    owner = section_of(study_name, "experiment", name)["data"].get("same_as", name)
    own = (file == "attention") and (
        attention_settings(experiments[name]) != attention_settings(experiments[owner])
    )
    return owner if file in ("qkv", "attention") and not own else name


# Files asked for by their paths may belong to other studies, and may not exist in any. In another
# workflow, of which this one is a module, paths are not ours to judge.
OWN = Path(workflow.main_snakefile).resolve() in [
    study_module.SHIPPED.resolve() / path for path in ("Snakefile", "workflow/Snakefile")
]
for target in map(Path, sys.argv[1:] if OWN else []):
    if target.parts[:1] == ("results",) and len(target.parts) == 4:
        asked, folder = target.parts[1:3]
        kind, known, name = ("experiment", study(asked)["experiments"], folder)
        if folder == "figures":
            kind, known, name = ("figure", study(asked)["figures"], target.stem)
        if name not in known:
            stop(f"{target}: study {asked} has no {kind} {name}; it has {', '.join(known)}")
        if kind == "experiment" and target.suffix == ".nc":
            made = ("qkv", "attention", *stage_files(known[name]))
            if target.stem not in made:
                has = ", ".join(f"{file}.nc" for file in made)
                stop(f"{target}: experiment {name} of study {asked} has {has}")
            owner = file_owner(asked, name, target.stem)
            if owner != name:
                there = f"results/{asked}/{owner}/{target.name}"
                stop(f"{target}: {name} shares the data of {owner}; ask for {there}")


def experiment(wildcards):
    "The section of an experiment."
    return section_of(wildcards.study, "experiment", wildcards.experiment)


def shared(*names):
    "Input function: the named files, of the experiments that own them."

    def paths(wildcards):
        return [
            f"<results>/{wildcards.study}/{file_owner(wildcards.study, wildcards.experiment, name)}/{name}.nc"
            for name in names
        ]

    return paths


PINS = dict(
    line.split(" --hash=sha256:")
    for line in own_file("../../config/models.txt").read_text().splitlines()
    if line and not line.startswith("#")
)
WHEELS = {requirement.replace("==", "-"): requirement for requirement in PINS}


def data_of(wildcards):
    "The data of an experiment, or of the one whose data it shares."
    owner = file_owner(wildcards.study, wildcards.experiment, "qkv")
    return section_of(wildcards.study, "experiment", owner)["data"]


def wheels(wildcards):
    "The wheels that an experiment reads, by the names of their files."
    data = data_of(wildcards)
    packages = study_module.packages(data["model"], data["inputs"]) if "model" in data else []
    return [name for package in packages for name in WHEELS if name.rsplit("-", 1)[0] == package]


def input_files(wildcards):
    "The text files of an experiment's inputs; photographs come out of packages."
    data = data_of(wildcards)
    return study_module.input_files(data["model"], data["inputs"]) if "model" in data else []


def raw_sources(wildcards):
    "What data generation reads. A wheel or a text that only got a new date reruns nothing."
    data = data_of(wildcards)
    if "file" in data:
        return [local(data["file"])]
    fetched = [f"<resources>/wheels/{name}.whl" for name in wheels(wildcards)]
    texts = [local(str(file)) for file in input_files(wildcards)]
    return [ancient(path) for path in fetched + texts]


def generate_settings(wildcards):
    data = experiment(wildcards)["data"]
    settings = {"data": data}
    if "synthetic" in data:
        settings |= {"seed": study(wildcards.study)["seed"], "experiment": wildcards.experiment}
    if "model" in data:
        settings |= model_settings(wildcards)
    return json.dumps(settings, sort_keys=True)


def model_settings(wildcards):
    "What a pretrained model is called, and the hashes of all that is read of it."
    pins = {name: PINS[WHEELS[name]] for name in wheels(wildcards)}
    texts = {
        Path(file).stem: hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for file in input_files(wildcards)
    }
    known = study_module.MODELS[data_of(wildcards)["model"]]
    return {name: known[name] for name in ("title", "wheel")} | {"sha256": pins | texts}


def ablate_settings(wildcards):
    data, section = data_of(wildcards), experiment(wildcards)["ablation"]
    inputs = data["inputs"] if section["inputs"] == "all" else section["inputs"]
    settings = {"model": data["model"], **model_settings(wildcards), **section, "inputs": inputs}
    return json.dumps(settings, sort_keys=True)


def simulate_settings(wildcards):
    settings = {
        **experiment(wildcards)["network"],
        "seed": study(wildcards.study)["seed"],
        "source": file_owner(wildcards.study, wildcards.experiment, "qkv"),
    }
    return json.dumps(settings, sort_keys=True)


def section_settings(wildcards):
    "The settings of an experiment whose section is not a network."
    (name,) = study_module.sections(experiment(wildcards))
    settings = {
        **experiment(wildcards)[name],
        "seed": study(wildcards.study)["seed"],
        "source": file_owner(wildcards.study, wildcards.experiment, "qkv"),
    }
    return json.dumps(dict(sorted(settings.items())))  # variants keep the order of the study


def attend_settings(wildcards):
    return json.dumps(attention_settings(experiment(wildcards)), sort_keys=True)


def fit_settings(wildcards):
    network = experiment(wildcards)["network"]
    keys = ("feature_map", "order", "leak_hebbian", "leak_presynaptic")
    return json.dumps({key: network[key] for key in keys}, sort_keys=True)


def fits(wildcards):
    experiments = study(wildcards.study)["experiments"]
    return [
        f"<results>/{wildcards.study}/{name}/{stage_files(experiments[name])[-1]}.nc"
        for name in section_of(wildcards.study, "figure", wildcards.figure)["experiments"]
    ]


def figure_files(study_name):
    return [
        f"<results>/{study_name}/figures/{name}.{suffix}"
        for name in study(study_name)["figures"]
        for suffix in ("svg", "pdf", "png")
    ]


def experiment_files(study_name):
    files = []
    for name, section in study(study_name)["experiments"].items():
        files += [
            f"<results>/{study_name}/{name}/{file}.nc"
            for file in ("qkv", "attention", *stage_files(section))
            if file_owner(study_name, name, file) == name
        ]
    return files


# Jobs that compute heads side by side: on a cluster --set-threads says with how many cores.
THREADS = 1 if CLUSTER else max(1, workflow.cores // len(study(STUDY)["experiments"]))


def doubling(first):
    "A resource that a scheduler is asked for, twice as much at each retry; local runs count none of it."
    return lambda wildcards, attempt: first * 2 ** (attempt - 1)


def command(stage, more=""):
    "The shell command of a stage. Progress and errors reach both the terminal and the log."
    return (
        f"python {{input.stage:q}} {stage} --input {{input.data:q}} --output {{output:q}} "
        f"--settings {{params.settings:q}} --code {{params.code}} {more} 2>&1 | tee {{log:q}}"
    )


def packed_settings(wildcards):
    "What travels of config/: what is shipped, the inputs that the study reads, and last the study."
    files = [own_file(f"../../config/{file}") for file in SHIPPED]
    for section in study(STUDY)["experiments"].values():
        data = section["data"]
        files += study_module.input_files(data["model"], data["inputs"]) if "model" in data else []
    folders = [folder / "config/studies" for folder in (study_module.SHIPPED, Path("."))]
    files.append(study_module.find_study(STUDY, folders))
    return [ancient(local(str(file))) for file in files]


def other_results(wildcards):
    "What `other` names; nothing is compared without it."
    path = MACHINE["other"]
    if not path:
        stop(
            "other: is missing; add the archive or folder to compare with: --config other=theirs.zip"
        )
    if not Path(path).exists():
        stop(f"other: {path!r}: there is no such archive or folder")
    return path


def about():
    "What made the study, for the first page of its report."
    files = [
        file.replace("<results>", "results")
        for file in figure_files(STUDY) + experiment_files(STUDY)
    ]
    command = [sys.executable, SOURCES["share"], "about", "--files", *files]
    command += ["--logs", f"logs/{STUDY}", "--study", json.dumps(CHOSEN)]
    said = subprocess.run(command, text=True, capture_output=True)
    if said.returncode:
        stop(
            f"There is no report of the study {STUDY}: run it first, or name another one with "
            f"--config study=...\n{said.stderr}"
        )
    return said.stdout


def remove_leftovers(results):
    "Temporary files of jobs of this machine that are dead; complete files have their final names."
    made = [f"{results}/{name}" for name in (STUDY, "benchmark", "comparison", "export")]
    for folder in (*made, "resources"):
        for leftover in Path(folder).rglob(".*.tmp"):
            owner = re.search(r"\.(\d+)@(.+)\.tmp$", leftover.name)
            if not owner:
                continue
            pid, host = owner.groups()
            if host == platform.node() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(leftover, ignore_errors=True)
        for unfinished in Path(folder).rglob(".*.partial"):
            if (unfinished.parent / unfinished.name.split("-")[0].lstrip(".")).exists():
                shutil.rmtree(unfinished, ignore_errors=True)


# The report's first page is written from `config` when Snakemake is asked for a report, and at no other time.
if OWN and any(argument.startswith("--report") for argument in sys.argv):
    config["about"] = about()
