"""A finished study as one archive that another lab can check: an RO-Crate of a workflow run, in a zip file.

The archive holds results, settings, workflow and lock, and in ro-crate-metadata.json the SHA-256 of each of
these files. Equal files give equal bytes: members are sorted, stored as they are and carry no time.
"""

import contextlib
import datetime
import hashlib
import json
import shutil
import stat
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote

from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from tripartite import __version__, job
from tripartite.contracts import Breach

METADATA = "ro-crate-metadata.json"
MAIN = "workflow/Snakefile"
# What is packed beside results, studies and inputs, which are named one by one: others may be private.
OWN = (
    "CITATION.cff", "LICENSE", "README.md", "Snakefile", "config/config.yaml", "config/models.txt",
    "envs/*.def", "envs/*.txt", "envs/*.yaml", MAIN, "workflow/rules/*.smk", "workflow/schemas/*.yaml",
    "workflow/scripts/**/*.py", "workflow/profiles/*/*.yaml", "workflow/report/*.rst",
)  # fmt: skip
FORMATS = {
    ".nc": "application/netcdf", ".svg": "image/svg+xml", ".pdf": "application/pdf", ".png": "image/png",
    ".yaml": "application/yaml", ".py": "text/x-python",
}  # fmt: skip
PROFILES = {  # beside Workflow RO-Crate, which the library adds
    "https://w3id.org/ro/wfrun/process/0.6": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.6": "Workflow Run Crate",
}
# Of another lab's archive; more is refused before anything is unpacked.
MOST_BYTES = 20_000_000_000
MOST_FILES = 20_000
MOST_METADATA_BYTES = 50_000_000


def export(results: list[Path], settings: list[Path], root: Path, archive: Path) -> None:
    """Check all results of a study and pack them with what made them; Breach as `job.verify`.

    settings: files of config/, of which the last is the study. root: the folder of the workflow.
    """
    job.verify(results)
    members = {
        path.relative_to(root).as_posix(): path for pattern in OWN for path in root.glob(pattern)
    }
    members |= {_below_config(path): path for path in settings}
    members |= {"/".join(("results", *path.parts[-3:])): path for path in results}
    origins = [job.load(path).attrs for path in results if job.is_contract(path)]
    checksums = {}
    size = sum(path.stat().st_size for path in members.values())
    with job.replacing(archive, size) as temporary:
        with zipfile.ZipFile(temporary, "w") as packed:
            for name, path in sorted(members.items()):
                with open(path, "rb") as source, packed.open(_entry(name, path), "w") as target:
                    checksums[name] = _copy(source, target)
            text = json.dumps(
                describe(members, checksums, origins, root, _below_config(settings[-1])),
                indent=2,
                sort_keys=True,
            )
            packed.writestr(_entry(METADATA), text + "\n")
    print(
        f"{archive}: {len(members)} files, {size / 1e6:.1f} MB, sha256 {job.file_digest(archive)}"
    )


def describe(
    members: dict[str, Path], checksums: dict[str, str], origins: list[dict], root: Path, study: str
) -> dict:
    """The metadata of a crate: what was run, on what, with which software, and what came out.

    Who ran it and when is not said: results do not know. origins: attributes of the netCDF files; study: the name of its file.
    """
    crate = ROCrate()
    files = {}
    for name, path in sorted(members.items()):
        properties = {"sha256": checksums[name], "contentSize": str(path.stat().st_size)}
        if path.suffix in FORMATS:
            properties["encodingFormat"] = FORMATS[path.suffix]
        if name == MAIN:
            properties |= {"name": "tripartite", "version": __version__}
            version = job.installed_version("snakemake")
            files[name] = crate.add_workflow(
                path, name, main=True, lang="snakemake", lang_version=version, properties=properties
            )
        else:
            files[name] = crate.add_file(path, name, properties=properties)
    for url, name in PROFILES.items():
        profile = {"@type": "CreativeWork", "name": name, "version": url.rsplit("/", 1)[1]}
        crate.root_dataset.append_to("conformsTo", crate.add(ContextEntity(crate, url, profile)))
    crate.metadata.extra_contexts.append("https://w3id.org/ro/terms/workflow-run/context")
    title = f"tripartite study {PurePosixPath(study).stem}"
    crate.name = title
    crate.description = (
        "A transformer built from neurons and astrocytes: the settings, results and figures of a study, "
        "with the workflow that made them"
    )
    commit, date = _commit(root)
    crate.root_dataset["datePublished"] = date
    if "LICENSE" in files:
        crate.license = files["LICENSE"]
    workflow = files[MAIN]
    own = {name: digest for name, digest in checksums.items() if name.startswith("workflow/")}
    code = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
    for name, value in (("sha256 of the workflow's files", code), ("git commit", commit)):
        if value:
            identifier = crate.add(
                ContextEntity(crate, f"#{name.replace(' ', '-')}", {"@type": "PropertyValue", "name": name, "value": value})
            )  # fmt: skip
            workflow.append_to("identifier", identifier)
    for name, versions in sorted(_versions(origins).items()):
        software = {"@type": "SoftwareApplication", "name": name, "version": ", ".join(versions)}
        needed = crate.add(ContextEntity(crate, f"#software-{name}", software))
        workflow.append_to("softwareRequirements", needed)
    workflow.append_to("softwareRequirements", files["envs/requirements.txt"])
    devices = sorted({attrs["device"] for attrs in origins})
    action = crate.add_action(
        workflow, "#run",
        object=[files[study]], result=[files[name] for name in members if name.startswith("results/")],
        properties={"@type": "CreateAction", "name": title, "description": f"Device: {', '.join(devices)}",
                    "actionStatus": "http://schema.org/CompletedActionStatus"},
    )  # fmt: skip
    crate.root_dataset["mentions"] = [action]
    return crate.metadata.generate()


def _below_config(path: Path) -> str:
    """config/studies/quick.yaml, wherever the folder config is."""
    parts = path.as_posix().split("config/")
    return f"config/{parts[-1]}"


def _versions(origins: list[dict]) -> dict[str, list[str]]:
    """Versions of the software that made the files, by its name; one each, unless files were mixed."""
    found = {"snakemake": {job.installed_version("snakemake")}}
    for attrs in origins:
        for name, version in json.loads(attrs["versions"]).items():
            found.setdefault(name, set()).add(version)
    return {name: sorted(versions) for name, versions in found.items()}


def _commit(root: Path) -> tuple[str, str]:
    """The commit of a clone, marked where files were changed since, and its day; else nothing and today."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    if not shutil.which("git") or git("rev-parse", "--show-toplevel") != str(root.resolve()):
        return "", today
    changed = ", with changes" if git("status", "--porcelain") else ""
    return git("rev-parse", "HEAD") + changed, git("log", "-1", "--format=%cs") or today


def _entry(name: str, path: Path | None = None) -> zipfile.ZipInfo:
    """A member with neither time nor owner."""
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    if path:
        entry.file_size = path.stat().st_size  # so that large files get large headers
    return entry


def _copy(source: BinaryIO, target: BinaryIO | None = None) -> str:
    """Copy to the end, or read only; return the SHA-256 of what was read."""
    digest = hashlib.sha256()
    while block := source.read(1 << 20):
        digest.update(block)
        if target:
            target.write(block)
    return digest.hexdigest()


@contextlib.contextmanager
def opened(other: Path, beside: Path) -> Iterator[Path]:
    """Give another lab's results/STUDY: a folder as it is, or out of an archive and gone afterwards.

    Breach if there is no such thing, and if anything about the archive is not as `export` makes it.
    """
    if other.is_dir():
        if not any(job.is_contract(path) for path in other.glob("*/*.nc")):
            raise Breach(f"{other}: holds no results; give a folder such as results/quick, with "
                         "<experiment>/fit.nc in it, or an archive made by export")  # fmt: skip
        yield other
        return
    beside.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".other.", suffix=job.owner(), dir=beside))
    try:
        try:
            results = unpack(other, folder)
        except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile,
                zlib.error) as error:  # fmt: skip
            if isinstance(error, Breach):
                raise
            words = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise Breach(f"{other}: cannot be read as an archive ({words}); it may be truncated or "
                         "damaged: ask for it again")  # fmt: skip
        try:
            yield results
        except Breach as fault:
            raise Breach(str(fault).replace(str(folder), str(other))) from fault
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(archive: Path, folder: Path) -> Path:
    """Check every member of an archive, write its results below `folder`, return results/STUDY there.

    Breach if it is foreign, damaged, too large, or has names that lead elsewhere.
    """
    with zipfile.ZipFile(archive) as packed:
        entries = [entry for entry in packed.infolist() if not entry.is_dir()]
        for entry in entries:
            if fault := _fault(entry):
                raise Breach(
                    f"{archive}: {entry.orig_filename[:80]!r} {fault}; nothing was unpacked"
                )
        names = [entry.filename for entry in entries]
        size = sum(entry.file_size for entry in entries)
        if size > MOST_BYTES or len(names) > MOST_FILES:
            raise Breach(
                f"{archive}: would unpack to {len(names)} files of {size / 1e9:.1f} GB; at most "
                f"{MOST_FILES} of {MOST_BYTES / 1e9:.0f} GB are read"
            )
        if METADATA not in names:
            raise Breach(f"{archive}: has no {METADATA}; give an archive made by export")
        checksums = _checksums(packed, archive)
        if len(set(names)) < len(names):
            raise Breach(f"{archive}: has several files of one name; ask for the archive again")
        for name in sorted(set(names) ^ {*checksums, METADATA}):
            where = f"not listed in {METADATA}" if name in names else "missing"
            raise Breach(f"{archive}: {name[:80]!r} is {where}; ask for the archive again")
        wanted = {name for name in names if _is_result(PurePosixPath(name))}
        studies = {PurePosixPath(name).parts[1] for name in wanted}
        if len(studies) != 1:
            raise Breach(f"{archive}: holds results of {len(studies)} studies, wanted one")
        free = shutil.disk_usage(folder).free
        if free < size:
            raise Breach(f"{folder.parent}: {free / 1e9:.1f} GB free, {size / 1e9:.1f} GB needed to read "
                         f"{archive}; make room and run again")  # fmt: skip
        for name in sorted(set(names) - {METADATA}):
            with contextlib.ExitStack() as stack:
                source, target = stack.enter_context(packed.open(name)), None
                if name in wanted:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    target = stack.enter_context(open(folder / name, "wb"))
                if _copy(source, target) != checksums[name]:
                    raise Breach(f"{archive}: {name!r} differs from its SHA-256 in {METADATA}; ask for "
                                 "the archive again")  # fmt: skip
    return folder / "results" / studies.pop()


def _is_result(path: PurePosixPath) -> bool:
    drawn = path.parts[2:3] == ("figures",)
    return len(path.parts) == 4 and path.parts[0] == "results" and (drawn or job.is_contract(path))


def _fault(entry: zipfile.ZipInfo) -> str:
    """What is wrong with a member before it is read; nothing, as a rule."""
    name = PurePosixPath(entry.orig_filename)
    plain = "\\" not in str(name) and ":" not in str(name) and str(name) == entry.filename
    if name.is_absolute() or ".." in name.parts or not plain:
        return "is no plain path below the archive"
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is a link or another special file"
    return "is encrypted" if entry.flag_bits & 1 else ""


def _checksums(packed: zipfile.ZipFile, archive: Path) -> dict[str, str]:
    """SHA-256 of each file by its name, as the metadata have it."""
    if packed.getinfo(METADATA).file_size > MOST_METADATA_BYTES:
        raise Breach(f"{archive}: {METADATA} is larger than {MOST_METADATA_BYTES / 1e6:.0f} MB")
    try:
        graph = json.loads(packed.read(METADATA))["@graph"]
        found = {
            unquote(entity["@id"]): str(entity["sha256"]) for entity in graph if "sha256" in entity
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Breach(f"{archive}: {METADATA} cannot be read; ask for the archive again") from error
    if MAIN not in found:
        raise Breach(f"{archive}: is a crate of another kind; give an archive made by export")
    return found
