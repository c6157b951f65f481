"""docs/sources.md has every constant and assumption of the code, and nothing that is not there."""

import dataclasses
import re

import pytest

from conftest import ROOT
from tripartite import calcium, declarations
from tripartite.figures.biology import BIOLOGY

PACKAGE = ROOT / "workflow/scripts/tripartite"
PAGE = "docs/sources.md"
N_WORDS = 5  # that name an assumption
UNIT = re.compile(r"\((s|1/s|uM)\)")  # in the description of a setting


def assumptions(text: str) -> list[str]:
    """The first words of every ASSUME in the text of a module, over lines of one comment."""
    found = []
    lines = text.splitlines()
    for i, line in enumerate(lines):
        for match in re.finditer("ASSUME:", line):
            code = line[: match.start()].partition("#")[0].strip() if "#" in line else ""
            after = lines[i + 1 : i + 3] if not code else []  # a comment beside code has one line
            said = " ".join([line[match.end() :], *(x.strip(" #") for x in after)])
            found.append(named(said.partition("ASSUME:")[0]))
    return found


def named(said: str) -> str:
    """The words by which an assumption is known."""
    return " ".join(said.replace("`", "").split()[:N_WORDS]).rstrip(".,;:")


def tables() -> dict[str, list[dict[str, str]]]:
    """Tables of the page by the heading above them: rows of cells by the names of their columns."""
    found: dict[str, list[dict[str, str]]] = {}
    heading, columns = "", []
    for line in (ROOT / PAGE).read_text().splitlines():
        if line.startswith("#"):
            heading, columns = line.strip("# "), []
        elif not line.startswith("|"):
            columns = []
        elif not set(line) <= set("|- "):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if columns:
                assert len(cells) == len(columns), f"{PAGE}: {len(cells)} cells in {line}"
                found.setdefault(heading, []).append(dict(zip(columns, cells)))
            else:
                columns = [cell.strip() for cell in line.strip("|").split(" | ")]
    return found


def files() -> dict[str, str]:
    """Modules and declarations of the workflow, by their path in the package."""
    return {
        str(path.relative_to(PACKAGE)): path.read_text()
        for path in sorted(PACKAGE.rglob("*"))
        if path.suffix in (".py", ".yaml")
    }


def test_words_of_assumptions():
    """In a docstring, in a comment of two lines, beside code, and two in one line."""
    text = (
        "ASSUME: one two\nthree four five six\n"
        "    # and. ASSUME: a b\n    # c d e f\n"
        "X = 1  # ASSUME: beside code\nY = 2\n"
        "# ASSUME: here. ASSUME: there, a long way off.\n"
    )
    expected = [
        "one two three four five",
        "a b c d e",
        "beside code",
        "here",
        "there, a long way off",
    ]
    assert assumptions(text) == expected


def test_every_assumption_has_a_row_and_every_row_an_assumption():
    rows = [(row["file"].strip("`"), named(row["assumption"])) for row in tables()["Assumptions"]]
    assert len(rows) == len(set(rows)), f"{PAGE}: two rows of one assumption"
    in_code = [(path, words) for path, text in files().items() for words in assumptions(text)]
    missing = [
        f"no row for '{words}' ({path})" for path, words in in_code if (path, words) not in rows
    ]
    gone = [
        f"a row for '{words}', which {path} does not say"
        for path, words in rows
        if (path, words) not in in_code
    ]
    assert not missing + gone, "\n".join([f"{PAGE}, Assumptions:", *missing, *gone])


def test_the_methods_collect_every_assumption():
    """Word for word, as write_reference.py writes them; another reading of the code finds them."""
    text = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    _, _, table = text.partition("<!-- assumptions:")
    rows = re.findall(r"^\| `([\w/.]+)` \| (?:`\w+`)? \| (.*) \|$", table, re.M)
    collected = sorted((path, named(said)) for path, said in rows)
    in_code = [(path, words) for path, text in files().items() for words in assumptions(text)]
    assert collected == sorted(in_code)


def test_constants_of_the_calcium_models():
    """Every parameter of every set, by its value."""
    sets = {
        name: dataclasses.asdict(value)
        for name, value in vars(calcium).items()
        if name.isupper() and dataclasses.is_dataclass(value)
    }
    in_code = {
        (name, constant): value
        for name, of_set in sets.items()
        for constant, value in of_set.items()
    }
    written = {
        (name, row["constant"].strip("`")): float(row[name])
        for rows in tables().values()
        for row in rows
        for name in row
        if name in sets and row[name] != "–"
    }
    assert written == in_code, (
        f"{PAGE}: not written or not of the code: {sorted(written.items() ^ in_code.items())}"
    )


def test_settings_with_a_unit():
    """Every default in s, 1/s or uM, by its value."""
    written = {
        (row["kind"], row["setting"].strip("`")): row["default"]
        for row in tables()["Settings with a unit"]
    }
    in_code = {
        (name, setting): str(spec["default"])
        for name, kind in declarations.kinds().items()
        for setting, spec in kind.settings.get("properties", {}).items()
        if "default" in spec and UNIT.search(str(spec.get("description", "")))
    }
    assert written == in_code, (
        f"{PAGE}, Settings with a unit: not written or not of the code: "
        f"{sorted(written.items() ^ in_code.items())}"
    )


def test_names_in_the_page_exist():
    """A row that names a module and a constant: the module has it."""
    texts = files()
    for rows in tables().values():
        for row in rows:
            place = row.get("where", row.get("file"))
            if place is None:
                continue
            paths = re.findall(r"`([\w/]+\.(?:py|yaml))`", place)
            assert paths, f"{PAGE}: {row} names no file"
            for path in paths:
                assert path in texts, f"{PAGE}: there is no {path}"
            for name in re.findall(r"`([A-Z][A-Z_0-9]+)`", place):
                assert any(name in texts[path] for path in paths), f"{PAGE}: no {name} in {paths}"


@pytest.mark.parametrize("name", BIOLOGY)
def test_numbers_of_biology(name):
    (row,) = [row for row in tables()["Numbers of biology"] if row["number"] == name]
    assert float(row["value"]) == BIOLOGY[name]
