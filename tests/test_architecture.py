"""Which modules import which, and that all files travel with the workflow."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from tripartite import declarations

PACKAGE = ROOT / "workflow/scripts/tripartite"
DOORS = {  # labels and files
    "about",
    "agreement",
    "contracts",
    "crate",
    "heads",
    "hidden",
    "job",
    "nanopublications",
    "sharing",
}
LIGHT = {  # read by every parse of the Snakefile
    "choosing",
    "checks",
    "declarations",
    "duration",
    "foreign",
    "gallery",
    "locks",
    "memory",
    "model_faults",
    "plan",
    "registry",
    "snakefile",
    "strict_yaml",
    "study",
    "words",
}
HEAVY = {"matplotlib", "netCDF4", "numpy", "pandas", "scipy", "torch", "xarray"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ["tripartite" * bool(node.level), node.module]))
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def at_the_top(path: Path) -> set[str]:
    """Modules that a file imports at its top, not within functions."""
    body = ast.parse(path.read_text()).body
    names = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in body if isinstance(node, ast.ImportFrom)}


def of_ours(path: Path) -> set[str]:
    """Modules of the package that a file imports, such as kinds.settling.lag."""
    names = {name.removeprefix("tripartite.") for name in imports(path) if "tripartite." in name}
    return {name for name in names if name.split(".")[0] != "__version__"}


def room_of(path: Path) -> str:
    """Layer of a module: light, doors, science, figures, or a kind's checks, stages and so on."""
    name = path.relative_to(PACKAGE)
    if name.parts[0] != "kinds":
        if name.parts[0] == "figures":
            return "figures"
        return "light" if path.stem in LIGHT else "doors" if path.stem in DOORS else "science"
    kind = declarations.kinds()[name.parts[1]]
    stages = {file.stage for file in kind.files.values()} | {"gather"}
    if path.stem in stages:
        return "stage"
    if kind.role == "claims" and path.stem in ("quantities", "verdicts", "wording"):
        return "stage"  # they take numbers from files of all kinds, by labels
    return (
        "figures"
        if path.stem in kind.figures
        else "light"
        if path.stem in ("checks", "limits", "terms")
        else "science"
    )


def test_arrows():
    """Stages and figures import science; science imports no files, labels and Snakemake."""
    for path in PACKAGE.rglob("*.py"):
        if path.stem == "__init__":
            continue
        room = room_of(path)
        tops = {name.split(".")[0] for name in imports(path)}
        ours = of_ours(path)
        first = {name.split(".")[0] for name in ours}
        if room == "light":
            assert first <= LIGHT | {"limits", "terms"}, path
            assert not HEAVY & {name.split(".")[0] for name in at_the_top(path)}, path
        elif room == "doors":
            assert not first & {"kinds", "figures"}, path
        elif room == "science":
            modules = {name.rpartition(".")[0].replace(".", "/") for name in ours}
            beside = [PACKAGE / f"{module}.py" for module in modules]
            known = ours.union(*(of_ours(one) for one in beside if one.is_file()))
            # shared by several figures of a kind, or a page beside one
            figures = any("figures" in name for name in known)
            assert figures or not tops & {"xarray", "netCDF4", "pandas", "matplotlib"}, path
            assert not first & DOORS - {"contracts"} or figures, path
        elif room == "figures":
            assert not tops & {"torch", "netCDF4"}, path
            assert first <= {"figures", "kinds"}, path
        elif room == "stage":
            assert "netCDF4" not in tops and "figures" not in first, path
        assert "snakemake" not in tops or path.stem == "snakefile", path


def test_kinds_do_not_know_one_another():
    """What two kinds share is in a module beside the kinds."""
    for path in (PACKAGE / "kinds").rglob("*.py"):
        others = [name for name in of_ours(path) if name.startswith("kinds.")]
        assert all(name.split(".")[1] == path.parent.name for name in others), path


def test_nothing_unsafe():
    """No unpickling, no evaluation of text, no global random numbers anywhere in the package."""
    bad = re.compile(
        r"\bpickle\b|\beval\(|\bexec\(|weights_only=False|np\.random\.(seed|rand|randn)\("
    )
    for path in (ROOT / "workflow/scripts").rglob("*.py"):
        assert not bad.search(path.read_text()), path


@pytest.mark.parametrize(
    "command",
    [
        "snakemake --lint",
        "snakefmt --check .",
        "ruff format --check workflow tests benchmarks",
        "ruff check workflow tests benchmarks",
        "mypy",
    ],
)
def test_lint_format_and_types(command):
    name, *arguments = command.split()
    program = Path(sys.executable).parent / name
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_machine_paths_in_the_project():
    """No committed file has a path of this machine."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        text = (ROOT / name).read_text(errors="ignore")
        assert str(ROOT) not in text and str(Path.home()) not in text.replace("Path.home()", ""), (
            name
        )
