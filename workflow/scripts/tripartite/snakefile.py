"""What every parse of the Snakefile does: command line, checked configuration, input functions.

`Parsed` holds the studies, settings and folders of one parse; rules call its methods. The functions
before it read the command line and the log. This module imports no large package.
"""

import contextlib
import hashlib
import io
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from . import declarations, gallery, memory, plan
from . import study as study_module

BASE_MB = 1000  # memory of a job without arrays: Python with its libraries
MIN_MB = 2000  # memory requested for any stage
CUDA_MB = 3000  # memory of the host that CUDA and its libraries take beside it
LONG_SECONDS = 300  # from which on the time is told before jobs start
UNKNOWN_MB = 4000  # requested where the sizes of the data are not known
LOOKING = {"verify", "compare"}  # targets that run no stage

Wildcards = Any  # of Snakemake, with an attribute for each wildcard
Result = TypeVar("Result")


def stop(message: object) -> NoReturn:
    """Stop before any job with a message; an exception would show Snakemake's traceback."""
    sys.exit(str(message))


# The command line.


def command_line(argv: list[str]) -> Any:
    """The command line as Snakemake reads it, with profiles; None if it is not Snakemake's."""
    from snakemake.cli import parse_args

    if Path(argv[0]).name not in ("snakemake", "__main__.py"):
        return None
    ignored = io.StringIO()
    with contextlib.suppress(Exception, SystemExit):
        with contextlib.redirect_stderr(ignored), contextlib.redirect_stdout(ignored):
            return parse_args(argv[1:])[1]
    return None


def sends_jobs_away(workflow: Any, line: Callable[[], Any]) -> bool:
    """Whether jobs go to a cluster: by the executor, because --jobs may be used without one."""
    if workflow.remote_exec or workflow.resource_settings.nodes is None:
        return workflow.remote_exec
    given = line()
    return given is None or given.executor not in (None, "local", "dryrun", "touch")


def only_looks(line: Any) -> bool:
    """Whether no stage runs, as when results are checked, compared or reported."""
    if line is None:
        return False
    named = {*(line.targets or [""])} <= LOOKING
    reports = line.report and not line.report_after_run
    return bool(named or reports or line.unlock or line.summary or line.detailed_summary)


def typed_config(config: dict, arguments: list[str] | None, own: bool) -> dict:
    """The configuration with texts as they were typed: Snakemake reads study=007 as 7."""
    typed = dict(part.partition("=")[::2] for part in arguments or [])
    keys = [key for key in ("study", "file", "other") if key in typed and own]
    return dict(config) | {key: typed[key] for key in keys if not isinstance(config[key], str)}


# Folders and logs.


def usable(folder: str) -> bool:
    """Whether files can be written in a folder, which may not exist yet."""
    nearest = Path(folder).absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    return os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)


def reported_fault(log: str | Path, started: float) -> list[str]:
    """The lines of a fault at the end of the log of a job, if it ran after `started`."""
    log = Path(log)
    if not log.is_file() or log.stat().st_mtime < started:
        return []
    lines = log.read_text(errors="replace").splitlines()
    first = max((i for i, line in enumerate(lines) if line.startswith("error: ")), default=None)
    return [] if first is None else lines[first:]


def log_filter(own: bool, cluster: bool, python: str, started: float) -> Callable:
    """A filter of Snakemake's log, which makes it shorter.

    The rule of all results lists no files, and no command is shown of a job that has reported its
    fault.
    """

    def calm(record: Any) -> bool:
        event = getattr(getattr(record, "event", None), "name", "")
        if own and event == "JOB_INFO" and record.rule_name in ("default", "all"):
            record.reason, record.input = "its files were made", []
        if event == "JOB_ERROR" and python in (record.shellcmd or ""):
            logs = [str(path).split(" (")[0] for path in record.log]
            faults = [line for log in logs for line in reported_fault(log, started)]
            if faults:
                words = faults if cluster else ["see the error above"]
                record.rule_msg = "\n".join(filter(None, [record.rule_msg, *words]))
                record.shellcmd = None
        pattern = rf"{python} .+ tee (.+)' returned non-zero exit status"
        command = re.search(pattern, str(record.msg))
        return not (command and reported_fault(shlex.split(command[1])[0], started))

    return calm


# Resources.


def doubling(first: int) -> Callable:
    """A resource that doubles at each retry; used by cluster executors only."""
    return lambda wildcards, attempt: first * 2 ** (attempt - 1)


def memory_mb(arrays: list[memory.Array], threads: int = 1) -> int:
    """Memory to request for a job with these large arrays: a quarter more than all of them.

    Each of the threads, which run heads side by side, has the arrays of a head.
    """
    if not arrays:
        return UNKNOWN_MB
    n_bytes = sum(one.size * (threads if one.of_head else 1) for one in arrays)
    return max(MIN_MB, int(BASE_MB + 1.25 * n_bytes / 1e6))


# Studies, settings and folders of one parse.


class Caption(str):
    """A caption, read when the report is written: its figure may be drawn in the same run."""

    about: tuple[Path, dict, str]

    def __new__(cls, folder: Path, study: dict, figure: str) -> "Caption":
        caption = super().__new__(cls)
        caption.about = folder, study, figure
        return caption

    def __str__(self) -> str:
        return gallery.caption(*self.about)


@dataclass
class Parsed:
    """Studies, settings and folders of one parse, with the input and parameter functions."""

    machine: dict  # settings of config.yaml
    chosen: dict  # the chosen study
    results: str  # the folder of all results
    own_files: dict[str, Path]  # files that travel with the workflow, by their paths from its root
    studies: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.studies[self.name] = self.chosen

    @property
    def name(self) -> str:
        """The name of the chosen study."""
        return self.machine["study"]

    def study(self, name: str) -> dict:
        """The settings of a study, checked when its first file is requested."""
        if name not in self.studies:
            arguments = (name, Path("."), self.machine, self.results)
            self.studies[name] = checked(study_module.load_study, *arguments)
        return self.studies[name]

    def named(self, wildcards: Wildcards, kind: str) -> dict:
        """The study of a file; stops if it has no such experiment or figure."""
        study, name = self.study(wildcards.study), getattr(wildcards, kind)
        names = study[f"{kind}s"]
        if name not in names:
            stop(f"{name}: study {wildcards.study} has no {kind} {name}; it has {', '.join(names)}")
        return study

    def target_fault(self, target: Path) -> str:
        """Why a requested file belongs to no study, or ""."""
        if not target.is_relative_to(self.results):
            return ""
        parts = target.relative_to(self.results).parts
        if len(parts) != 3 or "/".join(parts[1:]) == plan.CLAIMS:
            return ""
        asked, folder, _ = parts
        kind, name = ("figure", target.stem) if folder == "figures" else ("experiment", folder)
        study = self.study(asked)
        names = study[f"{kind}s"]
        if name not in names:
            return f"{target}: study {asked} has no {kind} {name}; it has {', '.join(names)}"
        if kind == "experiment" and target.suffix == ".nc":
            made = plan.made_files(study, name)
            if target.stem not in made:
                has = ", ".join(f"{file}.nc" for file in made)
                return f"{target}: experiment {name} of study {asked} has {has}"
            owner = plan.owner(study, name, target.stem)
            if owner != name:
                there = f"{self.results}/{asked}/{owner}/{target.name}"
                return f"{target}: {name} shares the data of {owner}; ask for {there}"
        return ""

    # Input functions.

    def reads(self, *names: str) -> Callable:
        """The named files, of the experiments that own them; raw: the wheels of a model."""
        from snakemake.io import ancient

        def paths(wildcards: Wildcards) -> list:
            study = self.named(wildcards, "experiment")
            if "raw" in names:  # a new date of a wheel reruns nothing
                wheels = plan.wheels(plan.data_of(study, wildcards.experiment))
                return [ancient(f"<resources>/wheels/{name}.whl") for name in wheels]
            owners = [plan.owner(study, wildcards.experiment, name) for name in names]
            folder = f"<results>/{wildcards.study}"
            return [f"{folder}/{owner}/{name}.nc" for owner, name in zip(owners, names)]

        return paths

    def drawn(self, wildcards: Wildcards) -> list[str]:
        """The files that a figure shows."""
        study = self.named(wildcards, "figure")
        if declarations.figures()[wildcards.figure].kinds == ("claims",):
            return [f"<results>/{wildcards.study}/{plan.CLAIMS}"]
        return [
            f"<results>/{wildcards.study}/{name}/{plan.stage_files(study, name)[-1]}.nc"
            for name in study["figures"][wildcards.figure].get("experiments", ())
        ]

    def claimed(self, wildcards: Wildcards) -> list[str]:
        """The files that the claims of a study rest on."""
        study, folder = self.study(wildcards.study), f"<results>/{wildcards.study}"
        names = plan.claimed(study)
        return [f"{folder}/{name}/{plan.stage_files(study, name)[-1]}.nc" for name in names]

    def claims_settings(self, wildcards: Wildcards) -> str:
        """The claims of a study, as JSON."""
        return plan.text(plan.settings(self.study(wildcards.study), "claims", "claims", Path()))

    def figure_files(self) -> list[str]:
        """All files of the figures of the chosen study."""
        return [f"<results>/{self.name}/{file}" for file in plan.figure_files(self.chosen)]

    def figure_settings(self, wildcards: Wildcards) -> str:
        """A digest of what the page with all figures says of their experiments.

        Without the path of a user's file: the page is written anew where its content has changed.
        """
        shown = {
            name: section | {"data": section["data"] | {"file": ""}}
            for name, section in self.chosen["experiments"].items()
        }
        text = plan.text(shown | {"figures": self.chosen["figures"]})
        return hashlib.sha256(text.encode()).hexdigest()

    def study_files(self) -> list[str]:
        """All results of the chosen study."""
        files = plan.figure_files(self.chosen) + plan.experiment_files(self.chosen)
        return [f"<results>/{self.name}/{file}" for file in files]

    def simulated(self, wildcards: Wildcards) -> list:
        """Inputs of a simulation; with shards, their states take the place of the attention."""
        from snakemake.io import flag

        qkv, attention = self.reads("qkv", "attention")(wildcards)
        shards = self.machine["shards"]
        if shards == 1:
            return [qkv, attention]
        # Snakemake records the input files, and reruns if they differ. With this flag it records
        # the same files with and without shards, as the result is the same.
        whole = f"<results>/{wildcards.study}/{wildcards.experiment}/shards/{shards}/states.nc"
        recorded = attention.replace("<results>", self.results)
        return [qkv, flag(whole, "sourcecache_entry", recorded)]

    # Parameter functions. Snakemake does not compare parameters that are functions of `input` with
    # the last run: another path of a script or of a user's file reruns nothing; their contents
    # count in `settings` and `code`.

    def script(self, name: str) -> Callable:
        """The file of a script; in a clone its relative path, so that commands can be pasted."""
        relative = Path("workflow/scripts") / f"{name}.py"
        own = self.own_files[relative.as_posix()]
        path = relative if relative.is_file() and relative.samefile(own) else own
        return lambda wildcards, input: str(path)

    def settings(self, file: str) -> Callable:
        """The settings of the stage that makes a file of an experiment, as JSON."""
        return lambda wildcards: plan.text(
            plan.settings(
                self.named(wildcards, "experiment"),
                wildcards.experiment,
                file,
                Path(self.results) / wildcards.study,
            )
        )

    def raw_files(self, file: str) -> Callable:
        """Files beside wheels that a stage reads: texts of a model, or the user's file.

        None for a stage that reads files of the experiment only.
        """

        def paths(wildcards: Wildcards, input: object) -> list[str]:
            if "raw" not in declarations.files()[file].reads:
                return []
            study = self.named(wildcards, "experiment")
            data = plan.data_of(study, wildcards.experiment)
            if "file" in data:
                return [str(study_module.own_file(data))]
            return [str(path) for path in plan.texts(data, Path("."), file)]

        return paths

    def caption(self, wildcards: Wildcards, input: object) -> str:
        """The caption of a figure in the report."""
        folder = Path(self.results) / wildcards.study
        return Caption(folder, self.named(wildcards, "figure"), wildcards.figure)

    def labels(self, suffix: str) -> Callable[[Wildcards], dict[str, str]]:
        """How the report names a file of a figure: number in the story, question, what it is."""
        words = {"svg": "figure", "csv": "numbers (csv)"}[suffix]

        def labels(wildcards: Wildcards) -> dict[str, str]:
            names = declarations.in_order(self.named(wildcards, "figure")["figures"])
            return {
                "no": f"{names.index(wildcards.figure) + 1:02d}",
                "question": declarations.figures()[wildcards.figure].question,
                "shown as": words,
            }

        return labels

    def gathered(self, wildcards: Wildcards, input: Any) -> str:
        """The option with the files of shards, if there are any."""
        return f"--shards {shlex.quote(input.data[1])}" if self.machine["shards"] > 1 else ""

    def memory(self, file: declarations.File) -> Callable:
        """Memory (MB) of a job by the plan of its experiment's arrays, doubled at each retry."""
        cuda = CUDA_MB if self.machine["device"] == "cuda" and "device" in file.uses else 0

        def megabytes(wildcards: Wildcards, attempt: int, threads: int) -> int:
            study = self.named(wildcards, "experiment")
            arrays = study_module.memory_needed(wildcards.experiment, study)
            n_heads = threads + bool(cuda)  # at a time, as in heads.py
            return (memory_mb(arrays, n_heads) + cuda) * 2 ** (attempt - 1)

        return megabytes

    def said_of_claims(self) -> str:
        """The verdicts of the chosen study as text, if it draws them."""
        text = Path(self.results) / self.name / "figures/claims.md"
        return text.read_text(encoding="utf-8") if "claims" in self.chosen["figures"] else ""

    def expected(self, cores: int) -> str:
        """A line that says how long the missing files of the study may take; "" if it is short."""
        totals: dict[str, float] = {}
        experiments, stages = self.chosen["experiments"], declarations.stages()
        for name in experiments:
            for stage, seconds in study_module.seconds_needed(name, self.chosen).items():
                path = Path(self.results) / self.name / name / f"{stages[stage].name}.nc"
                side_by_side = cores if "workers" in stages[stage].uses else len(experiments)
                if not path.exists():
                    shared = seconds / max(1, min(cores, side_by_side))
                    totals[stage] = totals.get(stage, 0) + shared
        if sum(totals.values()) < LONG_SECONDS:
            return ""
        longest = sorted(totals, key=lambda stage: -totals[stage])[:3]
        parts = ", ".join(f"{stage} {_rounded(totals[stage])}" for stage in longest)
        return (
            f"{self.name}: about {_rounded(sum(totals.values()))} on {cores} cores, within a "
            f"factor of three ({parts}); choose heads or fewer n_features to shorten it"
        )

    def packed(self, wildcards: Wildcards, input: object) -> list[str]:
        """What is packed of config/: shipped files, inputs that the study reads, last the study."""
        shipped = ("config/studies/", "config/inputs/")
        files = [file for path, file in self.own_files.items() if path.startswith(shipped)]
        for name in self.chosen["experiments"]:
            files += plan.texts(plan.data_of(self.chosen, name), Path("."))
        folders = [root / "config/studies" for root in (study_module.WORKFLOW_ROOT, Path("."))]
        return [str(file) for file in [*files, study_module.find_study(self.name, folders)]]

    def packed_content(self, wildcards: Wildcards) -> list:
        """What tells one archive from another beside the results: all else that is packed."""
        there, absent = plan.own_files(self.chosen)
        root = study_module.WORKFLOW_ROOT
        beside = [root / name for name in plan.travelling(root) if name not in self.own_files]
        own = [*self.own_files.values(), *beside]
        files = [*map(Path, self.packed(wildcards, None)), *own, *there]
        machine = [self.machine["memory_gb"], Path(self.machine["file"]).name]
        return [plan.digest(file) for file in files] + absent + machine

    def options(self) -> str:
        """The options by which share.py finds the chosen study and its results."""
        options = ["--study", self.name, "--results", f"{self.results}/{self.name}"]
        options += ["--file", self.machine["file"]] if self.machine["file"] else []
        return " ".join(map(shlex.quote, options)).replace("{", "{{").replace("}", "}}")

    def other_results(self, wildcards: Wildcards) -> str:
        """The path in the setting `other`; stops without it."""
        path = self.machine["other"]
        if not path:
            words = "other: is missing; add the archive or folder to compare with"
            stop(f"{words}: --config other=theirs.zip")
        if not Path(path).exists():
            stop(f"other: {path!r}: there is no such archive or folder")
        return path


def figure_names(also: tuple[str, ...]) -> str:
    """A pattern of the figures beside which files of these suffixes are written.

    Without suffixes, of all other names too: a name that no figure has is told later.
    """
    of_others = "|".join(
        name for name, figure in declarations.figures().items() if figure.also != also
    )
    if not also:
        return rf"(?!(?:{of_others})\.){study_module.NAME}"
    return "|".join(name for name, figure in declarations.figures().items() if figure.also == also)


def _rounded(seconds: float) -> str:
    """A rough time in minutes, or in hours if it is long."""
    if seconds > 2 * 3600:
        return f"{seconds / 3600:.0f} hours"
    return f"{max(1, seconds / 60):.0f} min"


def checked(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a check of the configuration; its faults stop Snakemake, one line each."""
    try:
        return function(*arguments)
    except ValueError as faults:
        stop(f"The configuration has faults; nothing was run.\n{faults}")


def checked_config(
    config: dict, cluster: bool, own: bool, results: str, line: Callable[[], Any]
) -> tuple[dict, dict]:
    """The settings of config.yaml and of the chosen study; their faults stop Snakemake."""
    arguments = (config, Path("."), cluster, own, results)
    try:
        return study_module.check(*arguments)
    except ValueError as faults:
        too_large = "memory_gb allows" in str(faults) and only_looks(line() if own else None)
        return checked(study_module.check, *arguments, not too_large)


def output(file: declarations.File) -> str:
    """The path of a file that a stage makes."""
    return f"<results>/{{study}}/{{experiment}}/{file.name}.nc"
