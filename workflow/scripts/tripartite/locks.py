"""Which temporary folders belong to a running job: locks that the kernel frees with the process.

A temporary folder of a job holds a file that the job has locked; whoever finds the file unlocked
may clear the folder away. Process numbers say less: they are used again, and mean nothing on
another machine or in another container. Light, because every parse of the Snakefile imports it.
"""

import contextlib
import fcntl
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"  # in a folder of a job
YOUNG = 60  # seconds; a folder of another machine may just have been made, and not be locked yet
# Of a machine, for all of its users, whatever TMPDIR they have set.
SHARED = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())


def lock(path: Path) -> int | None:
    """Open a file and lock it for this process; None where another one has it.

    The file is made where there is none. One that another user has made is opened as it is: in a
    shared folder such as /tmp the kernel lets nobody open another's file "or make it". OSError
    where files cannot be locked.
    """
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
                with contextlib.suppress(OSError):
                    os.fchmod(handle, 0o666)  # whatever the umask: others shall lock it too
                os.close(handle)
            continue
        except PermissionError:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:  # deleted since it was opened
            pass
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Mark a folder as one of a job that is alive; without a mark where files cannot be locked."""
    handle = None
    with contextlib.suppress(OSError):
        handle = lock(folder / LOCK)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


@contextlib.contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give a hidden folder for something called `name`, marked as alive, and gone afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    owner = f".{os.getpid()}@{platform.node()}.tmp"
    folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=owner, dir=parent))
    try:
        with held(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_abandoned(folder: Path, young: float = YOUNG) -> None:
    """Delete a folder if the job that made it has surely ended.

    young: seconds after its creation in which a folder may not be locked yet.
    """
    owner = re.search(r"\.(\d+)@(.+)\.tmp$", folder.name)
    gone = owner is not None and owner[2] == platform.node() and not _runs(int(owner[1]))
    with contextlib.suppress(OSError):  # not ours to open, or gone meanwhile
        old = time.time() - folder.stat().st_mtime > young
        if not (folder / LOCK).exists():
            if old and (gone or not owner):
                shutil.rmtree(folder, ignore_errors=True)
            return
        handle = lock(folder / LOCK)
        if handle is None:
            return
        try:
            if gone or old:
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def clear(folders: list[Path]) -> None:
    """Delete what ended jobs left below the folders: temporary files, parts of complete outputs."""
    for root in folders:
        for parent, names, _ in os.walk(root):  # which other jobs may change meanwhile
            for name in names:
                output = Path(parent) / name.rsplit("-", 1)[0].lstrip(".")
                complete = name.endswith(".partial") and output.exists()
                if name.startswith(".") and (complete or name.endswith(".tmp")):
                    clear_abandoned(Path(parent) / name)
