# What the rules share: every file of the workflow, and what the package's snakefile.py makes of configuration
# and command line.

import hashlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

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


def own_file(path):
    "A file of this workflow, by its path from its root: as it lies on this machine, or fetched."
    fetched = workflow.source_path(f"../../{path}")
    original = Path(fetched.flags["sourcecache_entry"])
    return original.resolve() if original.is_file() else Path(fetched)


# All files that travel with the workflow. Snakemake fetches each one where the workflow is a module of another.
MANIFEST = own_file("workflow/files.txt").read_text().split()
OWN_FILES = {path: own_file(path) for path in MANIFEST}


def load_package():
    "Our light modules, under a name of their own: no installation, and no clash between two versions."
    init = OWN_FILES["workflow/scripts/tripartite/__init__.py"]
    name = f"tripartite_{hashlib.sha256(str(init).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, init, submodule_search_locations=[str(init.parent)]
        )
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    parts = ("declarations", "study", "plan", "locks", "snakefile")
    return [importlib.import_module(f"{name}.{part}") for part in parts]


declarations, study_module, plan, locks, snakefile = load_package()
snakefile.checked(declarations.kinds)

if COMPLETE and (fault := study_module.python_fault(sys.version_info)):
    snakefile.stop(fault)


def line():
    "The command line as Snakemake reads it, or None."
    return snakefile.command_line(sys.argv)


def folder(pathvar):
    "The folder of a path variable such as results, with the prefix of a module."
    path = workflow.modifier.path_modifier.modify(f"<{pathvar}>")
    return workflow.pathvars.apply(str(path))


# Whether this is the main workflow; in another one, of which it is a module, targets, texts of the command
# line and other keys of the configuration are not its own.
OWN = Path(workflow.main_snakefile).resolve() in [
    study_module.WORKFLOW_ROOT / path for path in ("Snakefile", "workflow/Snakefile")
]
CORES = workflow.resource_settings.cores  # None for utilities such as --unlock
if CORES == 0:
    snakefile.stop("--cores: got 0, with which no job can ever start; give 1 or more")
RESULTS, LOGS, RESOURCES = map(folder, ("results", "logs", "resources"))
CLUSTER = snakefile.sends_jobs_away(workflow, line)
MACHINE, CHOSEN = snakefile.checked_config(
    snakefile.typed_config(config, workflow.config_settings.config_args, OWN),
    CLUSTER,
    OWN,
    RESULTS,
    line,
)
STUDY = MACHINE["study"]
HERE = snakefile.Parsed(MACHINE, CHOSEN, RESULTS, OWN_FILES)


wildcard_constraints:
    study=study_module.NAME,
    experiment=study_module.NAME,
    figure=study_module.NAME,


# Targets are checked only where this is the main workflow; they may belong to other studies.
if OWN and any(argument.startswith(f"{RESULTS}/") for argument in sys.argv[1:]):
    for target in getattr(line(), "targets", None) or []:
        if fault := HERE.target_fault(Path(target)):
            snakefile.stop(fault)

for place in (RESULTS, LOGS, RESOURCES):
    if workflow.is_main_process and not snakefile.usable(place):
        given = line()
        looks = given and (
            given.dryrun or given.report or place != LOGS and snakefile.only_looks(given)
        )
        if not looks:
            snakefile.stop(
                f"{place}: files cannot be written there; make it a folder that you may write to"
            )

# Jobs that compute heads side by side: on a cluster --set-threads says with how many cores.
THREADS = 1 if CLUSTER else max(1, (CORES or 1) // len(CHOSEN["experiments"]))
# One job per GPU, with no flag; the jobs find their own card. Without a GPU there is nothing to count.
# On a cluster, whose GPUs are not seen from here, cuda asks for one per job and auto for none.
GPUS = study_module.cuda_devices() if MACHINE["device"] != "cpu" else 0
if CLUSTER:
    GPUS = int(MACHINE["device"] == "cuda")
elif GPUS and workflow.is_main_process and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", GPUS)


def threads(file):
    "Cores of a stage: several where it runs heads side by side."
    return THREADS if "workers" in file.uses else 1


def device(file):
    "Where a stage computes, and how many GPUs it takes; no param: a change of device reruns nothing."
    uses = "device" in file.uses
    return {"device": MACHINE["device"] if uses else "cpu", "gpu": 1 if GPUS and uses else 0}


def command(stage, more=""):
    "The shell command of a stage. Progress and errors reach both the terminal and the log."
    return (
        f"{PYTHON} {{params.stage:q}} {stage} --input {{input.data:q}} {more} --output {{output:q}} "
        "--device {resources.device} --workers {threads} "
        "--settings {params.settings:q} --code {params.code} 2>&1 | tee {log:q}"
    )


class About(str):
    "What made the study, for the first page of a report; found out when the page is written."

    def __str__(self):
        about = [*PYTHON.split(), OWN_FILES["workflow/scripts/share.py"], "about", "--study", STUDY]
        about += ["--results", f"{RESULTS}/{STUDY}", "--logs", f"{LOGS}/{STUDY}"]
        about += ["--file", MACHINE["file"]]
        said = subprocess.run(about, text=True, capture_output=True)
        if given := line():  # the report may lie anywhere
            Path(given.report or ".").absolute().parent.mkdir(parents=True, exist_ok=True)
        return said.stdout or said.stderr


if OWN:
    config["about"] = About()
if OWN and any(argument.startswith("--report") for argument in sys.argv):
    given = line()
    if given and given.report and not given.report_after_run and not Path(RESULTS, STUDY).is_dir():
        snakefile.stop(
            f"There is no report of the study {STUDY}: run it first, or name another one with --config study=..."
        )

given = line() if OWN and COMPLETE and workflow.is_main_process else None
if given and {*given.targets} <= {"all"} and not snakefile.only_looks(given):
    if expected := HERE.expected(CORES or 1):
        logger.info(expected)

STARTED = time.time() - 60  # clocks of other machines may be late
if workflow.is_main_process and "calm" not in [
    getattr(one, "__name__", "") for one in logger.filters
]:
    logger.addFilter(snakefile.log_filter(OWN, CLUSTER, PYTHON, STARTED))
