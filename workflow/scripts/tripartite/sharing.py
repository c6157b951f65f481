"""A finished study as one archive that another lab can check: a Workflow Run RO-Crate, zipped.

The archive holds results, settings, the user's own files, workflow and lock, and in
ro-crate-metadata.json the SHA-256 of each of these files. Equal files give equal bytes: members are
sorted, stored as they are and carry no time. What comes from elsewhere has limits, which are
checked before it is read.
"""

import contextlib
import hashlib
import io
import itertools
import json
import math
import os
import re
import resource
import select
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any
from unicodedata import normalize
from urllib.parse import unquote

import netCDF4
import numpy as np
import yaml
from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from tripartite import __version__, job, locks
from tripartite.contracts import UserError

METADATA = "ro-crate-metadata.json"
MAIN = "workflow/Snakefile"
CONFIG = "config/config.yaml"
OWN_INPUTS = "config/inputs/own"  # the user's own files of q, k and v, in an archive
MANIFEST = "workflow/files.txt"  # all files that travel with the workflow
FORMATS = {
    ".nc": "application/netcdf",
    ".svg": "image/svg+xml",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".yaml": "application/yaml",
    ".py": "text/x-python",
}
CODE_ID, COMMIT_ID = "#sha256-of-the-workflow's-files", "#git-commit"
NO_COMMIT = "not known: packed outside a clone"
PROFILES = {  # beside Workflow RO-Crate, which the library adds
    "https://w3id.org/ro/wfrun/process/0.6": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.6": "Workflow Run Crate",
}
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # YAML without quotes
# What file managers leave behind: nobody wrote it, nothing of it is read.
JUNK = {
    "__macosx",
    ".ds_store",
    ".localized",
    ".appledouble",
    ".spotlight-v100",
    ".trashes",
    ".fseventsd",
    "icon\r",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    ".directory",
    "@eadir",
}
OTHER_ARCHIVES = {  # by their first bytes, or the last of the first 262
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"ustar": "tar",
}
# Of another lab's archive or folder; more is refused before it is read.
MAX_BYTES = 20_000_000_000
MAX_FILES = 20_000
MAX_METADATA_BYTES = 20_000_000
# Of one of its netCDF files: so many times the bytes of ours, and as much in any case.
MAX_SIZE_RATIO = 100
MIN_LIMIT_BYTES = 100_000_000
STRING_BYTES = 64  # of a string in memory, at least
READ_SECONDS = 120  # for one of its netCDF files, and a second more for each MB
READ_MEMORY = 4_000_000_000  # of the process that reads them, and ten times the largest file


def export(
    results: list[Path],
    settings: list[Path],
    root: Path,
    archive: Path,
    own: Sequence[Path] = (),
    absent: Sequence[str] = (),
    machine: dict[str, Any] | None = None,
) -> None:
    """Pack all results of a study, which are verified, with what made them.

    settings: files of config/, of which the last is the study. root: the folder of the workflow.
    own: the user's files of q, k and v; absent: names of those that are not there; machine:
    settings of config.yaml, of which the archive has the study and the limit of memory. UserError
    if an own file cannot be packed or was changed.
    """
    members: dict[str, Path | bytes] = {
        name: root / name for name in _own_files(root) if (root / name).is_file()
    }
    members |= {_below_config(path): path for path in settings}
    members |= {"/".join(("results", *path.parts[-3:])): path for path in results}
    origins = [job.load(path).attrs for path in results if job.is_contract(path)]
    members |= own_members(own, origins)
    study = _below_config(settings[-1])
    members[study] = named_only(_text(members[study])).encode()
    values = {"study": PurePosixPath(study).stem, **(machine or {})}
    members[CONFIG] = config_text(_text(members.get(CONFIG, b"")), values, root).encode()
    checksums = {}
    with job.replacing(archive, sum(map(_size, members.values()))) as temporary:
        with zipfile.ZipFile(temporary, "w") as packed:
            for name, content in sorted(members.items()):
                with _reading(content) as source, packed.open(_entry(name, content), "w") as target:
                    checksums[name] = _copy(source, target)
            commit, date = _commit_and_date(root, checksums)
            crate = describe(members, checksums, origins, study, commit, date)
            text = json.dumps(crate, indent=2, sort_keys=True) + "\n"
            packed.writestr(_entry(METADATA, text.encode()), text)
    size = sum(map(_size, members.values()))
    print(
        f"{archive}: {len(members)} files, {size / 1e6:.1f} MB, sha256 {job.file_digest(archive)}"
    )
    for name in sorted(set(map(own_name, absent))):
        print(
            f"{name}: is not there, so that it is not in the archive: its results can be "
            "verified, compared and drawn, but not computed anew"
        )
    if commit == NO_COMMIT:
        print(
            "the commit of the workflow is not known here, and not in the archive; the SHA-256 "
            "of its files are"
        )


def own_name(path: str) -> str:
    """What a user's own file is called in an archive: its name without folders."""
    return normalize("NFC", re.split(r"[/\\]", str(path))[-1])


def own_members(own: Sequence[Path], origins: list[dict]) -> dict[str, Path]:
    """The user's own files by their names in the archive.

    UserError if one cannot be read, is not what the results were made from, or has the name of
    another one, also where a system takes large and small letters for the same. origins: attributes
    of the netCDF files.
    """
    found = {}
    digests: dict[str, str] = {}
    made_from: dict[str, set[str]] = {}  # SHA-256 of the raw files of the data, by name
    for attrs in origins:
        for name, digest in json.loads(attrs["upstream"]).items():
            made_from.setdefault(name, set()).add(digest)
    for path in own:
        if not path.is_file():
            raise UserError(
                f"{path}: is no file that can be packed; put it back, or take it out of the study"
            )
        digest, name = job.file_digest(path), own_name(path.as_posix())
        if "\\" in path.name or not path.name.isprintable():
            raise UserError(
                f"{path}: has a name that not every system can unpack; give it another one and "
                "run again"
            )
        if digests.setdefault(name.casefold(), digest) != digest:
            raise UserError(
                f"{path}: there is another file of the name {name} in the study, and an archive "
                "holds them in one folder; give one of them another name and run again"
            )
        if digest not in made_from.get(path.name, {digest}):
            raise UserError(
                f"{path}: was changed after the results were made from it; run the study again"
            )
        found[f"{OWN_INPUTS}/{name}"] = path
    return found


def named_only(study: str) -> str:
    """The text of a study with the names of the user's own files in place of their paths."""
    node = yaml.compose(study, Loader=yaml.BaseLoader)
    return _replaced(study, [(file, own_name(file.value)) for file in _files(node)])


def _files(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """The values of all keys `file`."""
    if isinstance(node, yaml.SequenceNode):
        for part in node.value:
            yield from _files(part)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == "file" and isinstance(value, yaml.ScalarNode):
                yield value
            else:
                yield from _files(value)


def config_text(text: str, machine: dict, root: Path) -> str:
    """The text of config.yaml with a study and a limit of memory; all else has its default.

    Comments stay, unless the file has keys that are not the workflow's.
    """
    schema = yaml.safe_load(_text(root / "workflow/schemas/config.schema.yaml"))
    wanted = {key: spec["default"] for key, spec in schema["properties"].items()}
    wanted |= {key: machine[key] for key in ("study", "memory_gb") if key in machine}
    with contextlib.suppress(yaml.YAMLError, AttributeError, TypeError, ValueError):
        pairs = [(key.value, value) for key, value in yaml.compose(text).value]
        lacking = {key: value for key, value in wanted.items() if key not in dict(pairs)}
        new = _replaced(text, [(node, wanted[key]) for key, node in pairs if key in wanted])
        more = "".join(f"{key}: {json.dumps(value)}\n" for key, value in lacking.items())
        new = new.removesuffix("\n") + "\n" + more
        if yaml.safe_load(new) == wanted:
            return new
    return yaml.safe_dump(wanted, sort_keys=False)


def _replaced(text: str, values: list[tuple[yaml.Node, object]]) -> str:
    """A YAML text in which some nodes have another value, and nothing else is changed."""
    for node, value in sorted(values, key=lambda pair: -pair[0].start_mark.index):
        before, after = text[: node.start_mark.index], text[node.end_mark.index :]
        old = text[node.start_mark.index : node.end_mark.index]
        space = "" if before[-1:].isspace() else " "
        new = str(value)
        if not PLAIN.fullmatch(new) or yaml.safe_load(new) != value:
            new = json.dumps(value, ensure_ascii=False)
        text = before + space + new + "\n" * old.endswith("\n") + after
    return text


def _text(content: Path | bytes) -> str:
    """A text with its line ends as they are."""
    return (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8")


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _reading(content: Path | bytes) -> IO[bytes]:
    return io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb")


def describe(
    members: Mapping[str, Path | bytes],
    checksums: dict[str, str],
    origins: list[dict],
    study: str,
    commit: str,
    date: str,
) -> dict:
    """The metadata of a crate: what was run, on what, with which software, and what came out.

    Who ran it and when is not said: results do not know. origins: attributes of the netCDF files;
    study: the name of its file; commit: of the workflow, and its day.
    """
    crate = ROCrate()
    files = {}
    for name, content in sorted(members.items()):
        properties = {"sha256": checksums[name], "contentSize": str(_size(content))}
        if PurePosixPath(name).suffix in FORMATS:
            properties["encodingFormat"] = FORMATS[PurePosixPath(name).suffix]
        if name == MAIN:
            properties |= {"name": "tripartite", "version": __version__}
            version = job.installed_version("snakemake")
            files[name] = crate.add_workflow(
                None, name, main=True, lang="snakemake", lang_version=version, properties=properties
            )
        else:
            files[name] = crate.add_file(None, name, properties=properties)
    for url, name in PROFILES.items():
        profile = {"@type": "CreativeWork", "name": name, "version": url.rsplit("/", 1)[1]}
        crate.root_dataset.append_to("conformsTo", crate.add(ContextEntity(crate, url, profile)))
    crate.metadata.extra_contexts.append("https://w3id.org/ro/terms/workflow-run/context")
    title = f"tripartite study {PurePosixPath(study).stem}"
    crate.name = title
    crate.description = (
        "A transformer built from neurons and astrocytes: the settings, results and figures of a "
        "study, with the workflow that made them"
    )
    crate.root_dataset["datePublished"] = date
    if "LICENSE" in files:
        crate.license = files["LICENSE"]
    workflow = files[MAIN]
    for identifier, name, value in (
        (CODE_ID, "sha256 of the workflow's files", _code(checksums)),
        (COMMIT_ID, "git commit", commit),
    ):
        said = {"@type": "PropertyValue", "name": name, "value": value}
        workflow.append_to("identifier", crate.add(ContextEntity(crate, identifier, said)))
    for name, versions in sorted(_versions(origins).items()):
        software = {"@type": "SoftwareApplication", "name": name, "version": ", ".join(versions)}
        needed = crate.add(ContextEntity(crate, f"#software-{name}", software))
        workflow.append_to("softwareRequirements", needed)
    workflow.append_to("softwareRequirements", files["envs/requirements.txt"])
    devices = sorted({attrs["device"] for attrs in origins})
    action = crate.add_action(
        workflow,
        "#run",
        object=[files[name] for name in members if name == study or name.startswith(OWN_INPUTS)],
        result=[files[name] for name in members if name.startswith("results/")],
        properties={
            "@type": "CreateAction",
            "name": title,
            "description": f"Device: {', '.join(devices)}",
            "actionStatus": "http://schema.org/CompletedActionStatus",
        },
    )
    crate.root_dataset["mentions"] = [action]
    return crate.metadata.generate()


def _below_config(path: Path) -> str:
    """config/studies/quick.yaml, wherever the folder config is."""
    parts = path.as_posix().split("config/")
    return f"config/{parts[-1]}"


def _versions(origins: list[dict]) -> dict[str, list[str]]:
    """Versions of the software that made the files, by name; one each, unless files were mixed."""
    found = {"snakemake": {job.installed_version("snakemake")}}
    for attrs in origins:
        for name, version in json.loads(attrs["versions"]).items():
            found.setdefault(name, set()).add(version)
    return {name: sorted(versions) for name, versions in found.items()}


def _code(checksums: dict[str, str]) -> str:
    """One SHA-256 over those of the workflow's files."""
    own = {name: digest for name, digest in checksums.items() if name.startswith("workflow/")}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def _commit_and_date(root: Path, checksums: dict[str, str]) -> tuple[str, str]:
    """The commit of the workflow and its day, of a clone or of an unpacked archive.

    Else it is said that there is none, with the day of the release. Never today: equal results give
    equal archives.
    """
    if commit := _commit(root):
        return commit
    with contextlib.suppress(
        OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError
    ):
        path = root / METADATA
        if path.stat().st_size <= MAX_METADATA_BYTES:
            graph = {entity["@id"]: entity for entity in json.loads(path.read_bytes())["@graph"]}
            date = str(graph["./"]["datePublished"])
            dated = re.fullmatch(r"\d{4}-\d\d-\d\d", date)
            if graph[CODE_ID]["value"] == _code(checksums) and dated:
                return str(graph[COMMIT_ID]["value"]), date
    try:
        released = yaml.safe_load(_text(root / "CITATION.cff"))["date-released"]
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{root / 'CITATION.cff'}: has no date-released, the date of an archive that is "
            "packed outside a clone; add it, as 2026-01-31"
        ) from error
    return NO_COMMIT, str(released)


def _commit(root: Path) -> tuple[str, str] | None:
    """The commit of a clone, marked where files that are packed were changed since, and its day.

    It is the same whoever asks: settings of the user, dates of files and their modes do not count.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    chosen = {
        "safe.directory": root.resolve(),
        "core.fsmonitor": "false",
        "core.fileMode": "false",
        "log.showSignature": "false",
    }
    options = [word for key, value in chosen.items() for word in ("-c", f"{key}={value}")]

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", root, *options, *words],
            capture_output=True,
            text=True,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    if not shutil.which("git") or git("rev-parse", "--show-toplevel") != str(root.resolve()):
        return None
    packed = [name for name in _own_files(root) if name != CONFIG]
    changed = git("status", "--porcelain", "--untracked-files=all", "--", *packed)
    commit, date = git("rev-parse", "--verify", "HEAD"), git("show", "-s", "--format=%cs", "HEAD")
    return (commit + ", with changes" * bool(changed), date) if commit and date else None


def _own_files(root: Path) -> list[str]:
    """Files of the workflow, without studies and inputs: those that are packed are named singly."""
    names = (root / MANIFEST).read_text(encoding="utf-8").split()
    named = ("config/studies/", "config/inputs/")
    return [CONFIG, *(name for name in names if not name.startswith(named))]


def _entry(name: str, content: Path | bytes) -> zipfile.ZipInfo:
    """A member with neither time nor owner."""
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    entry.file_size = _size(content)  # so that large files get large headers
    return entry


def _copy(source: IO[bytes], target: IO[bytes] | None = None, n_bytes: int = 1 << 20) -> str:
    """Copy to the end in blocks, or read only; return the SHA-256 of what was read."""
    digest = hashlib.sha256()
    while block := source.read(n_bytes):
        digest.update(block)
        if target:
            target.write(block)
    return digest.hexdigest()


@contextlib.contextmanager
def opened(other: Path, beside: Path, files: Sequence[Path] = ()) -> Iterator[Path]:
    """Give another lab's results/STUDY: a folder as it is, or an archive, unpacked until the end.

    files: our results, which choose among several studies and say how large theirs may be.
    UserError of one line if there is no such thing, if anything about an archive is not as `export`
    makes it, and if one of their files cannot be read.
    """
    folder, stack = None, contextlib.ExitStack()
    try:
        try:
            mode = other.stat().st_mode
            if stat.S_ISDIR(mode):
                results = find_results(other, files[0].parts[-3] if files else "")
            elif stat.S_ISREG(mode):
                folder = stack.enter_context(locks.temporary_folder(beside, "other"))
                results = unpack(other, folder)
            else:
                raise UserError(
                    f"{other}: is neither a file nor a folder; give an archive made by export, or "
                    "a folder"
                )
            if theirs := byte_limits(results, files):
                read_apart(theirs)
        except UserError:
            raise
        except Exception as error:  # a damaged archive surfaces as almost any error
            remedy = "; it may be truncated or damaged: ask for it again" if folder else ""
            what = " as an archive" if folder else ""
            raise UserError(f"{other}: cannot be read{what} ({_words(error)}){remedy}") from error
        yield results
    except UserError as fault:
        if not folder:
            raise
        raise UserError(str(fault).replace(str(folder), str(other))) from fault
    finally:
        stack.close()


def _words(error: Exception) -> str:
    """The first line of an error, or its kind where it says nothing."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return words.splitlines()[0] if words else type(error).__name__


def find_results(other: Path, study: str) -> Path:
    """The folder results/STUDY: `other` itself, or in it as in a project or an unpacked archive.

    UserError if there is none, or if there are several of which none is called like our study.
    """
    os.scandir(other).close()  # a folder that may not be read is told as such
    folders = _listed(other)
    in_folders = [path for folder in folders for path in _listed(folder / "results")]
    # It is given itself, in a project, in the folder results, or in a project in a folder.
    for level in ([other], _listed(other / "results"), folders, in_folders):
        found = [folder for folder in level if _holds_results(folder)]
        if len(found) > 1:
            found = [folder for folder in found if folder.name == study] or found
        if len(found) > 1:
            names = ", ".join(repr(folder.name) for folder in found[:3]) + ", ..." * (
                len(found) > 3
            )
            raise UserError(
                f"{other}: holds {len(found)} studies ({names}); give the folder of one of them"
            )
        for folder in found:
            if any(len(_listed(part)) > MAX_FILES for part in (folder, *_listed(folder))):
                raise UserError(
                    f"{other}: has a folder of more than {MAX_FILES} files in it; give results "
                    "as they were made"
                )
            return folder
    raise UserError(
        f"{other}: holds no results; give a folder such as results/quick, with "
        "<experiment>/fit.nc in it, or an archive made by export"
    )


def _listed(folder: Path) -> list[Path]:
    """Entries of a folder, at most MAX_FILES + 1; none if it is no folder or may not be read."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, MAX_FILES + 1)]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def _holds_results(folder: Path) -> bool:
    return any(job.is_contract(path) for part in _listed(folder) for path in _listed(part))


def byte_limits(folder: Path, files: Sequence[Path]) -> dict[Path, int]:
    """The netCDF files of another lab that ours are compared with, and the bytes each may take.

    UserError if one is no file, or is larger.
    """
    found = {}
    for mine in filter(job.is_contract, files):
        path = folder / job.key(mine)
        if not os.path.lexists(path):
            continue
        if not path.is_file():
            raise UserError(
                f"{path}: is no file, or a link to nowhere; give results as they were made"
            )
        found[path] = max(MIN_LIMIT_BYTES, MAX_SIZE_RATIO * declared_bytes(mine))
        if (size := path.stat().st_size) > found[path]:
            raise UserError(
                f"{path}: has {size / 1e9:.1f} GB, at most {found[path] / 1e9:.1f} GB are read: "
                f"{MAX_SIZE_RATIO} times what ours takes"
            )
    return found


def read_apart(limits: dict[Path, int]) -> None:
    """Read files of another lab in a process of its own, before they are read in this one.

    UserError if one is damaged, takes more bytes than its limit, or makes the library fail or wait
    for ever.
    """
    script = Path(__file__).parents[1] / "share.py"
    command = [sys.executable, "-E", "-s", script, "read", "--files", *limits]
    command += ["--limits", *limits.values()]
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as reader:
        try:
            for path in limits:
                seconds = READ_SECONDS + path.stat().st_size / 1e6
                pipe: Any = reader.stdout
                ready, _, _ = select.select([pipe], [], [], seconds)
                line = pipe.readline() if ready else b""
                if not line:
                    did = "makes the netCDF library fail"
                    did = did if ready else f"cannot be read within {seconds:.0f} s"
                    raise UserError(f"{path}: {did}; it may be damaged: ask for it again")
                if fault := json.loads(line):
                    raise UserError(fault)
        finally:
            reader.kill()


def read_all(limits: dict[Path, int]) -> None:
    """Read files of another lab one by one, and print after each what is wrong with it, as JSON.

    limits: the most bytes that the values of each may take.
    """
    most = READ_MEMORY + 10 * max(limits.values())
    with contextlib.suppress(OSError, ValueError):  # where a system knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for path, limit in limits.items():
        print(json.dumps(_fault_of(path, limit)), flush=True)


def _fault_of(path: Path, limit: int) -> str:
    """What is wrong with a file of another lab, in one line; nothing, as a rule."""
    try:
        if (size := declared_bytes(path)) > limit:
            return (
                f"{path}: would take {size / 1e9:.1f} GB of memory, at most {limit / 1e9:.1f} GB "
                f"are read: {MAX_SIZE_RATIO} times what ours takes"
            )
        job.load(path)
    except UserError as fault:
        first, *more = str(fault).splitlines()
        first = "".join(letter if letter.isprintable() else "?" for letter in first)
        first = re.sub(r"; delete (it|the file) and run again$", "; ask for it again", first)
        return first + f" (and {len(more)} more faults)" * bool(more)
    except Exception as error:  # a damaged file surfaces as almost any error of the libraries below
        return f"{path}: cannot be read ({_words(error)}); it may be damaged: ask for it again"
    return ""


def declared_bytes(path: Path) -> int:
    """Bytes of all variables of a netCDF file by its header, or of one chunk where that is more.

    UserError if it has types that no file of ours has; OSError if it is no netCDF file.
    """
    total = 0
    with netCDF4.Dataset(path) as data:
        for name, variable in data.variables.items():
            is_text = variable.dtype is str
            if not is_text and not isinstance(variable.datatype, np.dtype):
                raise UserError(
                    f"{path}: {name[:80]!r} is of a type of its own; ask for the file again"
                )
            chunk = variable.chunking()
            cells = max(
                math.prod(variable.shape), math.prod(chunk) if isinstance(chunk, list) else 0
            )
            total += cells * (STRING_BYTES if is_text else variable.dtype.itemsize)
    return total


def unpack(archive: Path, folder: Path) -> Path:
    """Check every member of an archive, write its results into `folder`, return results/STUDY.

    What file managers add is ignored, and so is a folder around everything. UserError if it is
    foreign, damaged, too large, or has names that lead elsewhere.
    """
    with open(archive, "rb") as file:
        first = file.read(262)
    for start, kind in OTHER_ARCHIVES.items():
        if first.startswith(start) or kind == "tar" and first.endswith(start):
            raise UserError(
                f"{archive}: is an archive of another kind ({kind}); unpack it and give its folder"
            )
    with zipfile.ZipFile(archive) as packed:
        entries, checksums = _members(packed, archive)
        wanted = {name for name in entries if _is_result(PurePosixPath(name))}
        size = sum(entries[name].file_size for name in wanted)
        studies = {PurePosixPath(name).parts[1] for name in wanted}
        if len(studies) != 1:
            raise UserError(f"{archive}: holds results of {len(studies)} studies, wanted one")
        free = shutil.disk_usage(folder).free
        if free < size:
            raise UserError(
                f"{folder.parent}: {free / 1e9:.1f} GB free, {size / 1e9:.1f} GB needed to read "
                f"{archive}; make room and run again"
            )
        for name, entry in sorted(entries.items()):
            with contextlib.ExitStack() as stack:
                source, target = stack.enter_context(packed.open(entry)), None
                if name in wanted:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    target = stack.enter_context(open(folder / name, "wb"))
                if _copy(source, target, _block(entry)) != checksums[name]:
                    raise UserError(
                        f"{archive}: {name!r} differs from its SHA-256 in {METADATA}; ask for "
                        "the archive again"
                    )
    return folder / "results" / studies.pop()


def _members(
    packed: zipfile.ZipFile, archive: Path
) -> tuple[dict[str, zipfile.ZipInfo], dict[str, str]]:
    """The members of an archive by their names in the metadata, and the SHA-256 stated there.

    UserError if members and metadata name different files.
    """
    entries = [entry for entry in packed.infolist() if not entry.filename.endswith(("/", "\\"))]
    size = sum(entry.file_size for entry in entries)
    if size > MAX_BYTES or len(entries) > MAX_FILES:
        raise UserError(
            f"{archive}: would unpack to {len(entries)} files of {size / 1e9:.1f} GB; at most "
            f"{MAX_FILES} of {MAX_BYTES / 1e9:.0f} GB are read"
        )
    for entry in entries:
        if fault := _fault(entry):
            raise UserError(
                f"{archive}: {entry.orig_filename[:80]!r} {fault}; nothing was unpacked"
            )
    named = [
        (_plain(entry.filename), entry) for entry in entries if not _is_junk(_plain(entry.filename))
    ]
    tops = [name for name, _ in named if PurePosixPath(name).name == METADATA]
    if not tops:
        inner = [name for name, _ in named if name.endswith(".zip")]
        remedy = (
            f"unpack it and give {inner[0][:80]!r}" if inner else "give an archive made by export"
        )
        raise UserError(f"{archive}: has no {METADATA}; {remedy}")
    # a folder around everything
    around = min(tops, key=lambda name: name.count("/")).removesuffix(METADATA)
    names = [
        name.removeprefix(around) if name.startswith(around) else f"../{name}" for name, _ in named
    ]
    found = {name: entry for name, (_, entry) in zip(names, named)}
    checksums = _checksums(packed, found.pop(METADATA), archive)
    if len(found) + 1 < len(names):
        raise UserError(f"{archive}: has several files of one name; ask for the archive again")
    unlisted, missing = sorted(found.keys() - checksums), sorted(checksums.keys() - found.keys())
    digests = {}  # of files whose names an archiver wrote in another alphabet
    if len(unlisted) == len(missing):
        for name in unlisted:
            with packed.open(found[name]) as source:
                digests[_copy(source, None, _block(found[name]))] = name
    for name in missing:
        if checksums[name] in digests and not _is_result(PurePosixPath(name)):
            found[name] = found.pop(digests.pop(checksums[name]))
    for name in sorted(found.keys() ^ checksums.keys()):
        where = f"not listed in {METADATA}" if name in found else "missing"
        shown = name.removeprefix("../")[:80]
        raise UserError(f"{archive}: {shown!r} is {where}; ask for the archive again")
    return found, checksums


def _plain(name: str) -> str:
    """The name of a member as all systems write it: with /, and letters with accents as one."""
    return normalize("NFC", PurePosixPath(name.replace("\\", "/")).as_posix())


def _is_junk(name: str) -> bool:
    return any(
        part.startswith("._") or part.casefold() in JUNK for part in PurePosixPath(name).parts
    )


def _is_result(path: PurePosixPath) -> bool:
    drawn = path.parts[2:3] == ("figures",)
    return len(path.parts) == 4 and path.parts[0] == "results" and (drawn or job.is_contract(path))


def _fault(entry: zipfile.ZipInfo) -> str:
    """What is wrong with a member before it is read; nothing, as a rule."""
    name = PureWindowsPath(entry.orig_filename)  # knows all separators, and drives
    if name.anchor or ".." in name.parts or "\0" in entry.orig_filename:
        return "is no plain path below the archive"
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is a link or another special file"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        return (
            "is compressed in a way that is not read here: unpack the archive and give its folder"
        )
    return "is encrypted" if entry.flag_bits & 1 else ""


def _block(entry: zipfile.ZipInfo) -> int:
    """Bytes to read at a time: zipfile unpacks LZMA, of which 4 kB hold 30 MB, without a limit.

    Of bzip2, 4 kB hold gigabytes: it is refused.
    """
    return 1 << 12 if entry.compress_type == zipfile.ZIP_LZMA else 1 << 20


def _checksums(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, archive: Path) -> dict[str, str]:
    """SHA-256 of each file by its name, as the metadata have it."""
    if entry.file_size > MAX_METADATA_BYTES:
        raise UserError(f"{archive}: {METADATA} is larger than {MAX_METADATA_BYTES / 1e6:.0f} MB")
    text = io.BytesIO()
    with packed.open(entry) as source:
        _copy(source, text, _block(entry))
    try:
        graph = json.loads(text.getvalue())["@graph"]
        found = {
            _plain(unquote(part["@id"])): str(part["sha256"]) for part in graph if "sha256" in part
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{archive}: {METADATA} cannot be read; ask for the archive again"
        ) from error
    if MAIN not in found:
        raise UserError(f"{archive}: is a crate of another kind; give an archive made by export")
    return found
