# What the rules share: the checked configuration, the sources of the stages, and input functions.

import contextlib
import hashlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from snakemake.io import flag
from snakemake.logging import logger

# Jobs run with the interpreter that runs Snakemake, whether or not its environment is activated,
# unless it is a plain Snakemake: then an environment manager's Python comes first in PATH.
COMPLETE = all(map(importlib.util.find_spec, ("netCDF4", "torch", "xarray")))
if COMPLETE:
    os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.getenv('PATH', '')}")
# Jobs see neither PYTHONPATH nor packages of the user's home, which modules of a cluster may have set.
PYTHON = "python -E -s"

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
    "tripartite/locks",
    "tripartite/network",
    "tripartite/peers",
    "tripartite/perturbations",
    "tripartite/phases",
    "tripartite/plan",
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
own_file("../../config/models.txt")
for name in ("config", "study"):
    own_file(f"../schemas/{name}.schema.yaml")
SOURCES = {name: own_file(f"../scripts/{name}.py") for name in FILES}


def load_package():
    "Our light modules, under a name of their own: no installation, and no clash between two versions."
    init = SOURCES["tripartite/__init__"]
    name = f"tripartite_{hashlib.sha256(str(init).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, init, submodule_search_locations=[str(init.parent)]
        )
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return [importlib.import_module(f"{name}.{part}") for part in ("study", "plan", "locks")]


study_module, plan, locks = load_package()


def stop(message):
    "Stop before any job with plain lines: an exception would bring Snakemake's traceback with it."
    sys.exit(message)


if COMPLETE and (fault := study_module.python_fault(sys.version_info)):
    stop(fault)


def checked(function, *arguments):
    "Call a check of the configuration; its faults, one line each, stop Snakemake."
    try:
        return function(*arguments)
    except ValueError as faults:
        stop(f"The configuration has faults; nothing was run.\n{faults}")


def folder(pathvar):
    "The folder of a path variable such as results, with the prefix of a module."
    path = workflow.modifier.path_modifier.modify(f"<{pathvar}>")
    return workflow.pathvars.apply(str(path))


def command_line():
    "The command line as Snakemake reads it, with its profiles; None where Snakemake is called otherwise."
    from snakemake.cli import parse_args

    if Path(sys.argv[0]).name not in ("snakemake", "__main__.py"):
        return None
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return parse_args(sys.argv[1:])[1]
    except (Exception, SystemExit):
        return None


def sends_jobs_away():
    "Whether jobs go to a cluster: by the executor, as --jobs may also stand beside --cores on one machine."
    if workflow.remote_exec or workflow.resource_settings.nodes is None:
        return workflow.remote_exec
    line = command_line()
    return line is None or line.executor not in (None, "local", "dryrun", "touch")


def only_looks():
    "Whether no stage runs: results are checked, compared or reported, which takes little memory."
    line = command_line() if OWN else None
    if line is None:
        return False
    named = set(line.targets or [""]) <= {"verify", "compare"}
    reports = line.report and not line.report_after_run
    return bool(named or reports or line.unlock or line.summary or line.detailed_summary)


def checked_config():
    "The settings of the machine and of the chosen study; their faults stop Snakemake."
    arguments = (typed_config(), Path("."), CLUSTER, OWN, RESULTS)
    try:
        return study_module.check(*arguments)
    except ValueError as faults:
        too_large = "memory_gb allows" in str(faults) and only_looks()
        return checked(study_module.check, *arguments, not too_large)


def typed_config():
    "The configuration, with texts as they were typed: Snakemake reads study=007 as the number 7."
    typed = dict(part.partition("=")[::2] for part in workflow.config_settings.config_args or [])
    keys = [key for key in ("study", "other") if key in typed and OWN]
    return dict(config) | {key: typed[key] for key in keys if not isinstance(config[key], str)}


# Whether this is the main workflow; in another one, of which it is a module, targets, texts of the command
# line and other keys of the configuration are not its own.
OWN = Path(workflow.main_snakefile).resolve() in [
    study_module.SHIPPED.resolve() / path for path in ("Snakefile", "workflow/Snakefile")
]
CORES = workflow.resource_settings.cores  # None for utilities such as --unlock
if CORES == 0:
    stop("--cores: got 0, with which no job can ever start; give 1 or more")
RESULTS, LOGS, RESOURCES = map(folder, ("results", "logs", "resources"))
CLUSTER = sends_jobs_away()
MACHINE, CHOSEN = checked_config()
STUDY = MACHINE["study"]
STUDIES = {STUDY: CHOSEN}


wildcard_constraints:
    study=study_module.NAME,
    experiment=study_module.NAME,
    figure=study_module.NAME,


def study(name):
    "The settings of a study, checked when the first of its files is asked for."
    if name not in STUDIES:
        STUDIES[name] = checked(study_module.load_study, name, Path("."), MACHINE, RESULTS)
    return STUDIES[name]


def named(wildcards, kind):
    "The study of a file, where it has the experiment or figure of that name."
    known, name = study(wildcards.study)[f"{kind}s"], getattr(wildcards, kind)
    if name not in known:
        stop(f"{name}: study {wildcards.study} has no {kind} {name}; it has {', '.join(known)}")
    return study(wildcards.study)


def check_target(target):
    "Stop with plain words where a file that was asked for belongs to no study."
    if not target.is_relative_to(RESULTS) or len(target.relative_to(RESULTS).parts) != 3:
        return
    asked, place, _ = target.relative_to(RESULTS).parts
    kind, name = ("figure", target.stem) if place == "figures" else ("experiment", place)
    known = study(asked)[f"{kind}s"]
    if name not in known:
        stop(f"{target}: study {asked} has no {kind} {name}; it has {', '.join(known)}")
    if kind == "experiment" and target.suffix == ".nc":
        made = ("qkv", "attention", *plan.stage_files(study(asked), name))
        if target.stem not in made:
            has = ", ".join(f"{file}.nc" for file in made)
            stop(f"{target}: experiment {name} of study {asked} has {has}")
        owner = plan.owner(study(asked), name, target.stem)
        if owner != name:
            there = f"{RESULTS}/{asked}/{owner}/{target.name}"
            stop(f"{target}: {name} shares the data of {owner}; ask for {there}")


# Files asked for by their paths may belong to other studies, and may not exist in any.
if OWN and any(argument.startswith(f"{RESULTS}/") for argument in sys.argv[1:]):
    for target in getattr(command_line(), "targets", None) or []:
        check_target(Path(target))


def shared(*names):
    "Input function: the named files, of the experiments that own them."

    def paths(wildcards):
        known = named(wildcards, "experiment")
        owners = [plan.owner(known, wildcards.experiment, name) for name in names]
        return [
            f"<results>/{wildcards.study}/{owner}/{name}.nc" for owner, name in zip(owners, names)
        ]

    return paths


def wheels(wildcards):
    "The wheels that an experiment reads. One that only got a new date reruns nothing."
    data = plan.data_of(named(wildcards, "experiment"), wildcards.experiment)
    return [ancient(f"<resources>/wheels/{name}.whl") for name in plan.wheels(data)]


# What a job is given beside files and settings. Functions of `input` are no part of what Snakemake compares with
# the last run: where a script or a user's file lies reruns nothing, what is in it stands in `settings` and `code`.


def script(name):
    "The file of a script: repo-relative in a clone, as a command that can be pasted into a terminal."
    path = Path("workflow/scripts") / f"{name}.py"
    path = path if path.is_file() and path.samefile(SOURCES[name]) else SOURCES[name]
    return lambda wildcards, input: str(path)


def raw_files(wildcards, input):
    "The files beside wheels from which data are generated: texts of a model, or the user's own file."
    data = plan.data_of(named(wildcards, "experiment"), wildcards.experiment)
    if "file" in data:
        return [str(study_module.own_file(data))]
    return [str(path) for path in plan.texts(data, Path("."))]


def settings(file):
    "Parameter function: the settings of the stage that makes a file of an experiment, as JSON."
    return lambda wildcards: plan.text(
        plan.settings(
            named(wildcards, "experiment"),
            wildcards.experiment,
            file,
            Path(RESULTS) / wildcards.study,
        )
    )


def drawn(wildcards):
    "The files that a figure shows."
    known = named(wildcards, "figure")
    return [
        f"<results>/{wildcards.study}/{name}/{plan.stage_files(known, name)[-1]}.nc"
        for name in known["figures"][wildcards.figure]["experiments"]
    ]


def study_files():
    "All results of the chosen study."
    files = plan.figure_files(CHOSEN) + plan.experiment_files(CHOSEN)
    return [f"<results>/{STUDY}/{file}" for file in files]


SHARDS = MACHINE["shards"]  # jobs that share the heads of an experiment; one file comes of them


def simulated(wildcards):
    "What a simulation reads. With shards, what they made stands in the place of the attention that they read."
    qkv, attention = shared("qkv", "attention")(wildcards)
    if SHARDS == 1:
        return [qkv, attention]
    # Snakemake records the set of input files, and runs again where it differs: a flag lets it record the
    # same files with shards and without, as the result is the same.
    whole = f"<results>/{wildcards.study}/{wildcards.experiment}/shards/{SHARDS}/states.nc"
    return [qkv, flag(whole, "sourcecache_entry", attention.replace("<results>", RESULTS))]


def gathered(wildcards, input):
    "The option that names what shards have made, if there are any."
    return f"--shards {shlex.quote(input.data[1])}" if SHARDS > 1 else ""


# Jobs that compute heads side by side: on a cluster --set-threads says with how many cores.
THREADS = 1 if CLUSTER else max(1, (CORES or 1) // len(CHOSEN["experiments"]))


def doubling(first):
    "A resource that a scheduler is asked for, twice as much at each retry; local runs count none of it."
    return lambda wildcards, attempt: first * 2 ** (attempt - 1)


def command(stage, more=""):
    "The shell command of a stage. Progress and errors reach both the terminal and the log."
    return (
        f"{PYTHON} {{params.stage:q}} {stage} --input {{input.data:q}} {more} --output {{output:q}} "
        "--settings {params.settings:q} --code {params.code} 2>&1 | tee {log:q}"
    )


def shared_study():
    "The options by which share.py finds the chosen study and its results."
    return f"--study {STUDY} --results {shlex.quote(f'{RESULTS}/{STUDY}')}"


def packed(wildcards, input):
    "What travels of config/: what is shipped, the inputs that the study reads, and last the study."
    files = [own_file(f"../../config/{file}") for file in SHIPPED]
    for name in CHOSEN["experiments"]:
        files += plan.texts(plan.data_of(CHOSEN, name), Path("."))
    folders = [folder / "config/studies" for folder in (study_module.SHIPPED, Path("."))]
    return [str(file) for file in [*files, study_module.find_study(STUDY, folders)]]


def packed_content(wildcards):
    "What tells one archive from another beside the results: all else that is packed."
    there, absent = plan.own_files(CHOSEN)
    files = [*map(Path, packed(None, None)), *PACKED, *SOURCES.values(), *there]
    return [plan.digest(file) for file in files] + absent + [MACHINE["memory_gb"]]


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


class About(str):
    "What made the study, for the first page of a report: found out when the page is written, and at no other time."

    def __str__(self):
        about = [*PYTHON.split(), SOURCES["share"], "about", "--study", STUDY]
        about += ["--results", f"{RESULTS}/{STUDY}", "--logs", f"{LOGS}/{STUDY}"]
        said = subprocess.run(about, text=True, capture_output=True)
        if line := command_line():  # the report may lie anywhere
            Path(line.report or ".").absolute().parent.mkdir(parents=True, exist_ok=True)
        return said.stdout or said.stderr


if OWN:
    config["about"] = About()
if OWN and any(argument.startswith("--report") for argument in sys.argv):
    line = command_line()
    if line and line.report and not line.report_after_run and not Path(RESULTS, STUDY).is_dir():
        stop(
            f"There is no report of the study {STUDY}: run it first, or name another one with --config study=..."
        )


def usable(folder):
    "Whether files can be written below a folder, which may still have to be made."
    nearest = Path(folder).absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    return os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)


for place in (RESULTS, LOGS, RESOURCES):
    if workflow.is_main_process and not usable(place):
        line = command_line()
        looks = line and (line.dryrun or line.report or place != LOGS and only_looks())
        if not looks:
            stop(f"{place}: files cannot be written there; make it a folder that you may write to")


def calm(record):
    "A filter of Snakemake's log: a target lists none of its files, a fault that a job of ours has told no command."
    event = getattr(getattr(record, "event", None), "name", "")
    if OWN and event == "JOB_INFO" and record.rule_name in ("default", "all"):
        record.reason, record.input = "its files were made", []
    if event == "JOB_ERROR" and PYTHON in (record.shellcmd or ""):
        faults = [fault for path in record.log for fault in told(str(path).split(" (")[0])]
        if faults:
            words = faults if CLUSTER else ["told above"]
            record.rule_msg = "\n".join(filter(None, [record.rule_msg, *words]))
            record.shellcmd = None
    command = re.search(rf"{PYTHON} .+ tee (.+)' returned non-zero exit status", str(record.msg))
    return not (command and told(shlex.split(command[1])[0]))


def told(log):
    "The lines of a fault at the end of the log of a job in this run; they need no more words."
    log = Path(log)
    if not log.is_file() or log.stat().st_mtime < STARTED:
        return []
    lines = log.read_text(errors="replace").splitlines()
    first = max((i for i, line in enumerate(lines) if line.startswith("error: ")), default=None)
    return [] if first is None else lines[first:]


STARTED = time.time() - 60  # clocks of other machines may be late
if workflow.is_main_process and "calm" not in [
    getattr(one, "__name__", "") for one in logger.filters
]:
    logger.addFilter(calm)
