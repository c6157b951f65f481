"""Which temporary folders belong to a running job: locks that the kernel frees with the process.

A temporary folder of a job holds a file that the job has locked. If the file is not locked, the job
has ended and the folder may be deleted. Process numbers alone do not tell this: they are reused,
and have no meaning on another machine or in another container. This module imports no large
package, because every parse of the Snakefile imports it.
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

LOCK = ".lock"  # the file in a folder of a job
GRACE_SECONDS = 60  # in which a folder that was just made may not be locked yet
# The folder for locks of a machine: one for all users, whatever TMPDIR they have set.
SHARED = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())


def lock(path: Path) -> int | None:
    """Open a file and lock it for this process; None if another process has locked it.

    The file is created if it does not exist. A file of another user is opened without O_CREAT: the
    kernel refuses O_CREAT for files of others in shared folders such as /tmp. OSError where files
    cannot be locked.
    """
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
                with contextlib.suppress(OSError):
                    os.fchmod(handle, 0o666)  # whatever the umask, so that others can lock it
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
    """Mark a folder as that of a running job, where files can be locked."""
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
    """Give a hidden folder, marked as that of a running job, and delete it afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    owner = f".{os.getpid()}@{platform.node()}.tmp"
    folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=owner, dir=parent))
    try:
        with held(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_abandoned(folder: Path, min_age: float = GRACE_SECONDS) -> None:
    """Delete a folder if the job that made it has certainly ended.

    min_age: seconds after its creation in which a folder may not be locked yet.
    """
    owner = re.search(r"\.(\d+)@(.+)\.tmp$", folder.name)
    gone = owner is not None and owner[2] == platform.node() and not _runs(int(owner[1]))
    with contextlib.suppress(OSError):  # no permission, or deleted meanwhile
        old = time.time() - folder.stat().st_mtime > min_age
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
        for parent, names, _ in os.walk(root):  # other jobs may change it meanwhile
            for name in names:
                output = Path(parent) / name.rsplit("-", 1)[0].lstrip(".")
                complete = name.endswith(".partial") and output.exists()
                if name.startswith(".") and (complete or name.endswith(".tmp")):
                    clear_abandoned(Path(parent) / name)
