"""A finished study as one archive that another lab can check: a Provenance Run Crate, zipped.

The archive holds results, settings, the user's own files, the workflow and its lock file, and in
ro-crate-metadata.json the SHA-256 of each of these files and how each result was made. If the study
has claims, it also holds them as nanopublications. Equal files give equal archives: members are
sorted, not compressed and have no time. Files of another lab have limits, which are checked before
they are read.
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
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any
from unicodedata import normalize
from urllib.parse import unquote

import netCDF4
import numpy as np
import yaml

from tripartite import crate, job, locks, nanopublications, plan
from tripartite.contracts import UserError
from tripartite.crate import MAIN
from tripartite.study import PLACE_OF_FILE

METADATA = "ro-crate-metadata.json"
CONFIG = "config/config.yaml"
CLAIMS = "nanopublications.jsonld"
OWN_INPUTS = "config/inputs/own"  # the user's own files of q, k and v, in an archive
NO_COMMIT = "not known: packed outside a clone"
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # YAML without quotes
JUNK_NAMES = """
__macosx .ds_store .localized .appledouble .spotlight-v100 .trashes .fseventsd thumbs.db
ehthumbs.db desktop.ini .directory @eadir
"""
JUNK = {*JUNK_NAMES.split(), "icon\r"}  # files and folders of file managers, which are ignored
OTHER_ARCHIVES = {  # by their first bytes, or the last of the first 262
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"ustar": "tar",
}
# Limits of another lab's archive or folder, checked before it is read.
MAX_BYTES = 20_000_000_000
MAX_FILES = 20_000
MAX_METADATA_BYTES = 20_000_000
MAX_SIZE_RATIO = 100  # of one of its netCDF files to ours; but this many bytes are always read:
MIN_LIMIT_BYTES = 100_000_000
STRING_BYTES = 64  # of a string in memory, at least
READ_SECONDS = 120  # for one of its netCDF files, and one second more for each MB
READ_MEMORY = 4_000_000_000  # bytes of the process that reads them, and ten times the largest file


def export(
    results: list[Path],
    settings: list[Path],
    root: Path,
    archive: Path,
    own: Sequence[Path] = (),
    absent: Sequence[str] = (),
    machine: dict[str, Any] | None = None,
    page: str = "",
) -> None:
    """Pack all verified results of a study with all files that they were made from.

    settings: files of config/, the study last; root: the folder of the workflow; own: the user's
    files of q, k and v; absent: names of those that do not exist; machine: settings of config.yaml,
    of which the study and the limit of memory are packed; page: the gallery. UserError if an own
    file cannot be packed or was changed.
    """
    members: dict[str, Path | bytes] = {
        name: root / name for name in _own_files(root) if (root / name).is_file()
    }
    members |= {_below_config(path): path for path in settings}
    named = {"/".join(("results", *path.parts[-3:])): path for path in results}
    members |= named
    origins = {name: job.load(path).attrs for name, path in named.items() if job.is_contract(path)}
    drawn = {name: job.origin(path) for name, path in named.items() if path.suffix == ".svg"}
    members |= own_members(own, [*origins.values()])
    study = _below_config(settings[-1])
    file = str((machine or {}).get("file", ""))
    members[study] = named_only(_text(members[study]), file).encode()
    values = {"study": PurePosixPath(study).stem, **(machine or {})}
    if page:
        members[f"results/{PurePosixPath(study).stem}/index.html"] = page.encode()
    members[CONFIG] = config_text(_text(members.get(CONFIG, b"")), values, root).encode()
    checksums = {}
    with job.replacing(archive, sum(map(_size, members.values()))) as temporary:
        with zipfile.ZipFile(temporary, "w") as packed:
            for name, content in sorted(members.items()):
                with _reading(content) as source, packed.open(_entry(name, content), "w") as target:
                    checksums[name] = _copy(source, target)
            claims = [path for path in results if path.as_posix().endswith(f"/{plan.CLAIMS}")]
            for path in claims:
                name, code = PurePosixPath(study).stem, crate.code(checksums)
                chains = nanopublications.chains(job.load(path), name, code)
                content = (json.dumps(chains, indent=1, ensure_ascii=False) + "\n").encode()
                packed.writestr(_entry(CLAIMS, content), content)
                members[CLAIMS], checksums[CLAIMS] = content, hashlib.sha256(content).hexdigest()
            commit, date = _commit_and_date(root, checksums)
            description = crate.describe(
                {name: _size(content) for name, content in members.items()},
                checksums,
                crate.jobs(origins, drawn, [*members]),
                crate.versions(origins),
                [name for name in members if name == study or name.startswith(OWN_INPUTS)],
                PurePosixPath(study).stem,
                commit,
                date,
            )
            text = json.dumps(description, indent=1, sort_keys=True) + "\n"
            packed.writestr(_entry(METADATA, text.encode()), text)
    megabytes = sum(map(_size, members.values())) / 1e6
    sha256 = job.file_digest(archive)
    print(f"{archive}: {len(members)} files, {megabytes:.1f} MB, sha256 {sha256}")
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
    """The name of a user's own file in an archive: without folders, in Unicode's form NFC."""
    return normalize("NFC", re.split(r"[/\\]", str(path))[-1])


def own_members(own: Sequence[Path], origins: list[dict]) -> dict[str, Path]:
    """The user's own files by their names in the archive; origins: attributes of netCDF files.

    UserError if a file cannot be read, is not the one that the results were made from, or has the
    name of another file, where upper and lower case count as equal.
    """
    members = {}
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
        members[f"{OWN_INPUTS}/{name}"] = path
    return members


def named_only(study: str, file: str = "") -> str:
    """The text of a study with the names of the user's own files in place of their paths.

    file: of the configuration; its name stands where the study leaves a place for it.
    """
    node = yaml.compose(study, Loader=yaml.BaseLoader)
    paths = [(one, file if one.value == PLACE_OF_FILE else one.value) for one in _files(node)]
    return _replaced(study, [(one, own_name(path)) for one, path in paths])


def _files(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """The values of all keys `file` of a YAML text."""
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
    """The text of config.yaml with the study and limit of memory of `machine`, else with defaults.

    Comments are kept, unless the file has keys that the workflow does not have.
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
    """A YAML text with other values of some nodes, unchanged elsewhere."""
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
    """The text of a member, with its own line ends."""
    return (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8")


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _reading(content: Path | bytes) -> IO[bytes]:
    return io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb")


def _below_config(path: Path) -> str:
    """The path from the folder config on, such as config/studies/quick.yaml."""
    return "config/" + path.as_posix().split("config/")[-1]


def _commit_and_date(root: Path, checksums: dict[str, str]) -> tuple[str, str]:
    """The commit of the workflow and its day, of a clone or of an unpacked archive.

    Otherwise NO_COMMIT and the day of the release. It is never today's date: equal results give
    equal archives. UserError if CITATION.cff has no date.
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
            if graph[crate.CODE_ID]["value"] == crate.code(checksums) and dated:
                return str(graph[crate.COMMIT_ID]["value"]), date
    try:
        released = yaml.safe_load(_text(root / "CITATION.cff"))["date-released"]
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{root / 'CITATION.cff'}: has no date-released, the date of an archive that is "
            "packed outside a clone; add it, as 2026-01-31"
        ) from error
    return NO_COMMIT, str(released)


def _commit(root: Path) -> tuple[str, str] | None:
    """The commit of a clone and its day; the commit is marked if packed files were changed.

    The result does not depend on the user's settings of git, nor on dates and modes of files.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    settings = [f"safe.directory={root.resolve()}", "core.fsmonitor=false", "core.fileMode=false"]
    settings += ["log.showSignature=false"]
    command = ["git", "-C", str(root), *(word for text in settings for word in ("-c", text))]

    def git(*words: str) -> str:
        done = subprocess.run([*command, *words], capture_output=True, text=True, env=environment)
        return done.stdout.strip() if done.returncode == 0 else ""

    if not shutil.which("git") or git("rev-parse", "--show-toplevel") != str(root.resolve()):
        return None
    packed = [name for name in _own_files(root) if name != CONFIG]
    changed = git("status", "--porcelain", "--untracked-files=all", "--", *packed)
    commit, date = git("rev-parse", "--verify", "HEAD"), git("show", "-s", "--format=%cs", "HEAD")
    return (commit + ", with changes" * bool(changed), date) if commit and date else None


def _own_files(root: Path) -> list[str]:
    """Files of the workflow that are packed; studies and inputs are named one by one."""
    named = ("config/studies/", "config/inputs/")
    return [CONFIG, *(name for name in plan.travelling(root) if not name.startswith(named))]


def _entry(name: str, content: Path | bytes) -> zipfile.ZipInfo:
    """A member of an archive, without time and owner."""
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    entry.file_size = _size(content)  # so that large files get large headers
    return entry


def _copy(source: IO[bytes], target: IO[bytes] | None = None, n_bytes: int = 1 << 20) -> str:
    """Copy in blocks, or only read; returns the SHA-256 of the content."""
    digest = hashlib.sha256()
    while block := source.read(n_bytes):
        digest.update(block)
        if target:
            target.write(block)
    return digest.hexdigest()


@contextlib.contextmanager
def opened(other: Path, beside: Path, files: Sequence[Path] = ()) -> Iterator[Path]:
    """Give another lab's results/STUDY: the folder itself, or an archive unpacked for the time.

    beside: folder for the unpacked archive; files: our results, which select the study and limit
    the size of theirs. UserError of one line if there is no such file or folder, if an archive is
    not as `export` makes it, and if one of their files cannot be read.
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
        except Exception as error:  # a damaged archive can cause almost any error
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
    """The first line of an error, or its type if it has no text."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return words.splitlines()[0] if words else type(error).__name__


def find_results(other: Path, study: str) -> Path:
    """The folder results/STUDY: `other` itself, or in it as in a project or an unpacked archive.

    UserError if there is none, or if there are several and none has the name of our study.
    """
    os.scandir(other).close()  # an OSError here says that the folder may not be read
    folders = _listed(other)
    in_folders = [path for folder in folders for path in _listed(folder / "results")]
    # `other` is the folder itself, a project, a folder results, or has a project in it.
    for level in ([other], _listed(other / "results"), folders, in_folders):
        studies = [folder for folder in level if _holds_results(folder)]
        if len(studies) > 1:
            studies = [folder for folder in studies if folder.name == study] or studies
        if len(studies) > 1:
            names = ", ".join(repr(folder.name) for folder in studies[:3])
            names += ", ..." * (len(studies) > 3)
            raise UserError(
                f"{other}: holds {len(studies)} studies ({names}); give the folder of one of them"
            )
        for folder in studies:
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
    """The netCDF files of another lab that ours are compared with, and the bytes each may have.

    UserError if one is not a file, or is larger.
    """
    limits = {}
    for mine in filter(job.is_contract, files):
        path = folder / job.key(mine)
        if not os.path.lexists(path):
            continue
        if not path.is_file():
            raise UserError(
                f"{path}: is no file, or a link to a missing file; give results as they were made"
            )
        limits[path] = max(MIN_LIMIT_BYTES, MAX_SIZE_RATIO * declared_bytes(mine))
        if (size := path.stat().st_size) > limits[path]:
            raise UserError(
                f"{path}: has {size / 1e9:.1f} GB, at most {limits[path] / 1e9:.1f} GB are read: "
                f"{MAX_SIZE_RATIO} times what ours takes"
            )
    return limits


def read_apart(limits: dict[Path, int]) -> None:
    """Read files of another lab in another process, before they are read in this one.

    limits: the bytes that the values of each file may have. UserError if one is damaged or larger,
    or if the netCDF library crashes or does not end.
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
    """Read files of another lab one by one, and print for each its fault or "", as JSON.

    limits: the bytes that the values of each file may have.
    """
    most = READ_MEMORY + 10 * max(limits.values())
    with contextlib.suppress(OSError, ValueError):  # where a system knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for path, limit in limits.items():
        print(json.dumps(_fault_of(path, limit)), flush=True)


def _fault_of(path: Path, limit: int) -> str:
    """The fault of a file of another lab, in one line; "" if it has none."""
    try:
        if (size := declared_bytes(path)) > limit:
            words = f"at most {limit / 1e9:.1f} GB are read: {MAX_SIZE_RATIO} times what ours takes"
            return f"{path}: would take {size / 1e9:.1f} GB of memory, {words}"
        job.load(path)
    except UserError as fault:
        first, *more = str(fault).splitlines()
        first = "".join(letter if letter.isprintable() else "?" for letter in first)
        first = re.sub(r"; delete (it|the file) and run again$", "; ask for it again", first)
        if "schema version" in first:
            first = first.replace("ask for it again", "ask for results of this version")
        return first + f" (and {len(more)} more faults)" * bool(more)
    except Exception as error:  # a damaged file can cause almost any error of the libraries
        return f"{path}: cannot be read ({_words(error)}); it may be damaged: ask for it again"
    return ""


def declared_bytes(path: Path) -> int:
    """Bytes of all variables of a netCDF file by its header, or of one chunk if that is more.

    UserError if it has types that are not used in results; OSError if it is no netCDF file.
    """
    total = 0
    with netCDF4.Dataset(path) as data:
        for name, variable in data.variables.items():
            is_text = variable.dtype is str
            if not is_text and not isinstance(variable.datatype, np.dtype):
                raise UserError(
                    f"{path}: {name[:80]!r} has a user-defined type; ask for the file again"
                )
            chunk = variable.chunking()
            cells = math.prod(variable.shape)
            cells = max(cells, math.prod(chunk)) if isinstance(chunk, list) else cells
            total += cells * (STRING_BYTES if is_text else variable.dtype.itemsize)
    return total


def unpack(archive: Path, folder: Path) -> Path:
    """Check every member of an archive, write its results into `folder`, return results/STUDY.

    Files of file managers are ignored, and so is one folder around all members. UserError if it is
    no archive of `export`, is damaged or too large, or has names that lead out of it.
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
    # the folder around all members, if there is one
    around = min(tops, key=lambda name: name.count("/")).removesuffix(METADATA)
    names = [
        name.removeprefix(around) if name.startswith(around) else f"../{name}" for name, _ in named
    ]
    members = {name: entry for name, (_, entry) in zip(names, named)}
    checksums = _checksums(packed, members.pop(METADATA), archive)
    if len(members) + 1 < len(names):
        raise UserError(f"{archive}: has several files of one name; ask for the archive again")
    unlisted = sorted(members.keys() - checksums)
    missing = sorted(checksums.keys() - members.keys())
    digests = {}  # of files whose names have another encoding than in the metadata
    if len(unlisted) == len(missing):
        for name in unlisted:
            with packed.open(members[name]) as source:
                digests[_copy(source, None, _block(members[name]))] = name
    for name in missing:
        if checksums[name] in digests and not _is_result(PurePosixPath(name)):
            members[name] = members.pop(digests.pop(checksums[name]))
    for name in sorted(members.keys() ^ checksums.keys()):
        where = f"not listed in {METADATA}" if name in members else "missing"
        shown = name.removeprefix("../")[:80]
        raise UserError(f"{archive}: {shown!r} is {where}; ask for the archive again")
    return members, checksums


def _plain(name: str) -> str:
    """The name of a member in one form for all systems: with /, in Unicode's form NFC."""
    return normalize("NFC", PurePosixPath(name.replace("\\", "/")).as_posix())


def _is_junk(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith("._") or part.casefold() in JUNK for part in parts)


def _is_result(path: PurePosixPath) -> bool:
    drawn = path.parts[2:3] == ("figures",)
    return len(path.parts) == 4 and path.parts[0] == "results" and (drawn or job.is_contract(path))


def _fault(entry: zipfile.ZipInfo) -> str:
    """Why a member must not be read; "" if it may."""
    name = PureWindowsPath(entry.orig_filename)  # for all separators, and for drives
    if name.anchor or ".." in name.parts or "\0" in entry.orig_filename:
        return "is no path inside the archive"
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is a link or another special file"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        return (
            "is compressed in a way that is not read here: unpack the archive and give its folder"
        )
    return "is encrypted" if entry.flag_bits & 1 else ""


def _block(entry: zipfile.ZipInfo) -> int:
    """Bytes to read at a time: 4 kB of LZMA can hold 30 MB, which zipfile unpacks at once.

    Members with bzip2 are refused: 4 kB can hold gigabytes.
    """
    return 1 << 12 if entry.compress_type == zipfile.ZIP_LZMA else 1 << 20


def _checksums(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, archive: Path) -> dict[str, str]:
    """SHA-256 of each file by its name, from the metadata."""
    if entry.file_size > MAX_METADATA_BYTES:
        raise UserError(f"{archive}: {METADATA} is larger than {MAX_METADATA_BYTES / 1e6:.0f} MB")
    text = io.BytesIO()
    with packed.open(entry) as source:
        _copy(source, text, _block(entry))
    try:
        graph = json.loads(text.getvalue())["@graph"]
        files = [part for part in graph if "sha256" in part]
        checksums = {_plain(unquote(part["@id"])): str(part["sha256"]) for part in files}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{archive}: {METADATA} cannot be read; ask for the archive again"
        ) from error
    if MAIN not in checksums:
        raise UserError(f"{archive}: is a crate of another kind; give an archive made by export")
    return checksums
