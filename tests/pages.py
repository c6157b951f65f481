"""The pages for readers: their code blocks, the commands in them, and what they say of files."""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from conftest import ROOT, as_user

PAGES = [
    path
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "config/README.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
    )
    if path.is_file()
]
BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
# In the text: what begins like a command, in backticks.
INLINE = re.compile(r"`((?:(?:\.\./tripartite/)?\.venv/bin/|git |pip |python3? |snakemake )[^`]*)`")
NOT_RUN = "not run: "


class Block(NamedTuple):
    """A code block, and the comment that stands just before it."""

    page: str  # its path from the root of the project
    note: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines of a block of commands."""
        return self.text.splitlines() if self.language == "bash" else []


def blocks(*pages: str) -> list[Block]:
    """The code blocks of these pages, of all pages by default."""
    found = []
    for path in [ROOT / page for page in pages] or PAGES:
        name = path.relative_to(ROOT).as_posix()
        for match in BLOCK.finditer(path.read_text(encoding="utf-8")):
            found.append(Block(name, match["note"] or "", match["language"], match["text"]))
    return found


def block(page: str, language: str, word: str) -> str:
    """The text of the only code block of a page in a language that contains a word."""
    (text,) = [x.text for x in blocks(page) if x.language == language and word in x.text]
    return text


def inline(path: Path) -> list[str]:
    """The commands in the text of a page."""
    return INLINE.findall(BLOCK.sub("", path.read_text(encoding="utf-8")))


def with_environment(folder: Path) -> Path:
    """A copy of the project with this environment as .venv, so that commands run word for word."""
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    return folder


def typed(command: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a command of a page in a folder, as a user types it."""
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=as_user(folder),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def write(one: Block, folder: Path) -> bool:
    """Do with a block what its comment says of a file; False if it says nothing of one.

    "file: PATH", "file, appended: PATH", "into: PATH, before: LINE" (or after), "into: PATH, at its
    end".
    """
    what, _, where = one.note.partition(": ")
    if what not in ("file", "file, appended", "into"):
        return False
    path = folder / where.split(", ")[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    there = path.read_text(encoding="utf-8") if path.is_file() else ""
    if what == "file":
        there = one.text
    elif what == "file, appended" or where.endswith(", at its end"):
        there = f"{there.rstrip()}\n{one.text}"
    else:
        side, _, line = where.partition(", ")[2].partition(": ")
        assert there.count(line) == 1, f"{one.page}: {line!r} is not one line of {path}"
        apart = "\n\n" * one.text.startswith("def ")  # as formatted code is
        new = f"{one.text}{apart}{line}" if side == "before" else f"{line}\n{one.text.rstrip()}"
        there = there.replace(line, new)
    path.write_text(there, encoding="utf-8")
    return True
