"""The metadata of an archive: a Provenance Run Crate, which says how each result was made.

The workflow is run by one action, and each file of a stage and each figure is made by another one,
whose instrument is the module of the stage. Its objects are the files that were read, and the
settings, the digest of the code, the device and the processor as they stand in the file. No action
has an agent or a time, because results do not record who ran them and when.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from rocrate.model import ContextEntity
from rocrate.model.entity import Entity
from rocrate.rocrate import ROCrate

from tripartite import __version__, declarations, job

MAIN = "workflow/Snakefile"
FORMATS = {
    ".nc": "application/netcdf",
    ".svg": "image/svg+xml",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".yaml": "application/yaml",
    ".py": "text/x-python",
    ".csv": "text/csv",
    ".html": "text/html",
    ".md": "text/markdown",
    ".tsv": "text/tab-separated-values",
    ".jsonld": "application/ld+json",
}
CODE_ID, COMMIT_ID, RUN_ID = "#sha256-of-the-workflow's-files", "#git-commit", "#run"
RO_CRATE = "1.1"  # the version that the profiles extend; with it comes Workflow RO-Crate 1.0
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
WORKFLOW_TYPES = ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]
CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"
DONE = {"actionStatus": "http://schema.org/CompletedActionStatus"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """How files were made, out of what they carry."""

    name: str  # experiment/file.nc or figures/figure
    step: str  # the stage, or the figure that is drawn
    does: str  # what the step does, in one sentence
    tool: str  # the module that was run
    results: list[str]  # names of files in the archive
    upstream: dict[str, str]  # digests of what was read, by experiment/file.nc or name of raw file
    facts: dict[str, str]  # settings, digest of the code, device, processor


def jobs(origins: Mapping[str, dict], drawn: Mapping[str, dict], names: Sequence[str]) -> list[Job]:
    """The jobs that made the results of a study.

    origins: attributes of netCDF files; drawn: what pictures say of themselves (job.origin), one of
    each figure; both by their names in the archive; names: of all files in it.
    """
    found = []
    for name, attrs in origins.items():
        path = PurePosixPath(name)
        file = declarations.files()[path.stem]
        facts = {"settings": attrs["settings"], "code digest": attrs["code_digest"]}
        facts |= {key: attrs[key] for key in ("device", "processor")}
        found.append(
            Job(
                name="/".join(path.parts[-2:]),
                step=file.stage,
                does=file.does.replace("{experiment}", "an experiment"),
                tool=f"workflow/scripts/{file.module}.py",
                results=[name],
                upstream=json.loads(attrs["upstream"]),
                facts=facts,
            )
        )
    for name, origin in drawn.items():
        path = PurePosixPath(name)
        figure = declarations.figures()[path.stem]
        found.append(
            Job(
                name=f"figures/{figure.name}",
                step=f"draw-{figure.name}",
                does=f"Draw the figure that answers: {figure.question}",
                tool=f"workflow/scripts/{figure.module}.py",
                results=[
                    one
                    for one in names
                    if PurePosixPath(one).with_suffix("") == path.with_suffix("")
                ],
                upstream=origin["upstream"],
                facts={"settings": json.dumps(origin["settings"]), "code digest": origin["code"]},
            )
        )
    return found


def describe(
    sizes: Mapping[str, int],
    checksums: Mapping[str, str],
    made: Sequence[Job],
    versions: Mapping[str, Sequence[str]],
    inputs: Sequence[str],
    study: str,
    commit: str,
    date: str,
) -> dict:
    """The metadata of a crate: workflow, inputs, software, results, and how each was made.

    sizes, checksums: of files by their names; made: how results were made; versions: of software by
    its name; inputs: names of the study and of the user's own files; study: its name; commit, date:
    of the workflow.
    """
    crate = ROCrate(version=RO_CRATE)
    made = [one for one in made if one.tool in sizes]
    tools = {one.tool: one for one in made}
    files = {}
    for name in sorted(sizes):
        properties: dict[str, Any] = {"sha256": checksums[name], "contentSize": str(sizes[name])}
        other = "application/octet-stream" if name in inputs else "text/plain"
        properties["encodingFormat"] = FORMATS.get(PurePosixPath(name).suffix, other)
        if name in tools:
            properties |= {"@type": ["File", "SoftwareSourceCode"], "name": tools[name].step}
            properties |= {"description": tools[name].does, "version": __version__}
        if name == MAIN:
            properties |= {"name": "tripartite", "version": __version__, "@type": WORKFLOW_TYPES}
            version = job.installed_version("snakemake")
            files[name] = crate.add_workflow(
                None, name, main=True, lang="snakemake", lang_version=version, properties=properties
            )
        else:
            files[name] = crate.add_file(None, name, properties=properties)
    for url, name in PROFILES.items():
        profile = {"@type": "CreativeWork", "name": name, "version": url.rsplit("/", 1)[1]}
        crate.root_dataset.append_to("conformsTo", crate.add(ContextEntity(crate, url, profile)))
    crate.metadata.extra_contexts.append(CONTEXT)
    title = f"tripartite study {study}"
    crate.name = title
    crate.description = (
        "A transformer built from neurons and astrocytes: the settings, results and figures of a "
        "study, with the workflow that made them"
    )
    crate.root_dataset["datePublished"] = date
    if "LICENSE" in files:
        crate.license = files["LICENSE"]
    if "README.md" in files:
        files["README.md"]["about"] = crate.root_dataset
    workflow = files[MAIN]
    workflow["conformsTo"] = crate.add(ContextEntity(crate, BIOSCHEMAS, {"@type": "CreativeWork"}))
    for identifier, name, value in (
        (CODE_ID, "sha256 of the workflow's files", code(checksums)),
        (COMMIT_ID, "git commit", commit),
    ):
        workflow.append_to("identifier", _value(crate, identifier, name, value))
    for name, known in sorted(versions.items()):
        software = {"@type": "SoftwareApplication", "name": name, "version": ", ".join(known)}
        needed = crate.add(ContextEntity(crate, f"#software-{name}", software))
        workflow.append_to("softwareRequirements", needed)
    workflow.append_to("softwareRequirements", files["envs/requirements.txt"])
    devices = sorted({one.facts["device"] for one in made if "device" in one.facts})
    run = crate.add_action(
        workflow,
        RUN_ID,
        object=_one_or_more([files[name] for name in inputs]),
        result=[files[name] for name in files if name.startswith("results/")],
        properties=DONE
        | {
            "@type": "CreateAction",
            "name": title,
            "description": f"Device: {', '.join(devices)}",
        },
    )
    actions, steps = _provenance(crate, files, checksums, made)
    organized = {"@type": "OrganizeAction", "name": f"Run of Snakemake: {title}"} | DONE
    organizer = crate.add(ContextEntity(crate, "#organize", organized))
    organizer["instrument"] = crate.dereference("#software-snakemake")
    organizer["object"], organizer["result"] = steps, run
    crate.root_dataset["mentions"] = [run, organizer, *actions]
    return crate.metadata.generate()


def _provenance(
    crate: ROCrate, files: dict[str, Entity], checksums: Mapping[str, str], made: Sequence[Job]
) -> tuple[list[Entity], list[Entity]]:
    """Add an action for each job, and the step of the workflow that it belongs to.

    Returns these actions, and those that say that a step was carried out.
    """
    workflow = files[MAIN]
    raw = {digest: name for name, digest in checksums.items() if name.startswith("config/")}
    steps: dict[str, Entity] = {}
    actions, controls = [], []
    for one in made:
        tool = files[one.tool]
        if one.step not in steps:
            properties = {"@type": "HowToStep", "name": one.step, "description": one.does}
            step = crate.add(ContextEntity(crate, f"#step/{one.step}", properties))
            step["workExample"] = tool
            workflow.append_to("step", step)
            workflow.append_to("hasPart", tool)
            steps[one.step] = step
        objects = []
        for key, digest in one.upstream.items():
            folder = "/".join(PurePosixPath(one.results[0]).parts[:2])
            name = f"{folder}/{key}" if "/" in key else raw.get(digest, "")
            if name not in files:
                objects.append(_value(crate, f"#raw/{quote(key)}/{digest}", key, digest))
            else:
                objects.append(files[name])
        for fact, value in one.facts.items():
            place = one.name if fact == "settings" else value
            identifier = f"#{fact.replace(' ', '-')}/{quote(place)}"
            objects.append(_value(crate, identifier, fact, value))
        action = crate.add_action(
            tool,
            f"#run/{quote(one.name)}",
            object=_one_or_more(objects),
            result=_one_or_more([files[name] for name in one.results]),
            properties=DONE
            | {"@type": "CreateAction", "name": f"{one.step}: {one.name}", "description": one.does},
        )
        properties = {"@type": "ControlAction", "name": f"step {one.step}: {one.name}"}
        control = crate.add(ContextEntity(crate, f"#control/{quote(one.name)}", properties))
        control["instrument"], control["object"] = steps[one.step], action
        actions.append(action)
        controls.append(control)
    return actions, controls


def _one_or_more(entities: list[Entity]) -> Entity | list[Entity]:
    return entities[0] if len(entities) == 1 else entities


def _value(crate: ROCrate, identifier: str, name: str, value: str) -> Entity:
    said = {"@type": "PropertyValue", "name": name, "value": value}
    return crate.dereference(identifier) or crate.add(ContextEntity(crate, identifier, said))


def versions(origins: Mapping[str, dict]) -> dict[str, list[str]]:
    """Versions of the software that made the files, by name; one each, unless files were mixed."""
    software = {"snakemake": {job.installed_version("snakemake")}}
    for attrs in origins.values():
        for name, version in json.loads(attrs["versions"]).items():
            software.setdefault(name, set()).add(version)
    return {name: sorted(known) for name, known in software.items()}


def code(checksums: Mapping[str, str]) -> str:
    """The SHA-256 of those of the workflow's files."""
    own = {name: digest for name, digest in checksums.items() if name.startswith("workflow/")}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
