"""The layout: who imports whom, and that every file is registered with the workflow."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

PACKAGE = ROOT / "workflow/scripts/tripartite"
DOORS = {"about", "agreement", "contracts", "foreign", "job", "sharing"}  # labels and files
LIGHT = {"foreign", "locks", "plan", "study"}  # read by every parse of the Snakefile
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
    """What is imported whenever a module is, and not within a function."""
    body = ast.parse(path.read_text()).body
    names = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in body if isinstance(node, ast.ImportFrom)}


def test_arrows():
    """Stages and figures -> science; science knows nothing of files, labels and Snakemake."""
    for path in PACKAGE.rglob("*.py"):
        room = path.parent.name if path.parent != PACKAGE else "science"
        tops = {name.split(".")[0] for name in imports(path)}
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("tripartite.")}
        assert "snakemake" not in tops, path
        if path.stem in LIGHT and room == "science":
            assert ours <= LIGHT, path
            assert not HEAVY & {name.split(".")[0] for name in at_the_top(path)}, path
        elif room == "science" and path.stem in DOORS or path.stem == "__init__":
            assert not ours - DOORS - LIGHT - {"__version__"}, path
        elif room == "science":
            assert not tops & {"xarray", "netCDF4", "pandas", "matplotlib"}, path
            assert not ours & (DOORS | {"stages", "figures"}), path
        elif room == "figures":
            assert not tops & {"torch", "netCDF4"} and ours <= {"figures"}, path
        elif room == "stages":
            assert "netCDF4" not in tops and not ours & {"stages", "figures"}, path


def test_nothing_unsafe():
    """No unpickling, no evaluation of text, no global random numbers anywhere in the package."""
    bad = re.compile(
        r"\bpickle\b|\beval\(|\bexec\(|weights_only=False|np\.random\.(seed|rand|randn)\("
    )
    for path in (ROOT / "workflow/scripts").rglob("*.py"):
        assert not bad.search(path.read_text()), path


def test_every_file_is_registered():
    text = (ROOT / "workflow/rules/common.smk").read_text()
    registered = set(ast.literal_eval(re.search(r"FILES = (\[.*?\])", text, re.S).group(1)))
    scripts = ROOT / "workflow/scripts"
    tree = {path.relative_to(scripts).with_suffix("").as_posix() for path in scripts.rglob("*.py")}
    assert registered == tree


def test_lint_and_format():
    folder = Path(sys.executable).parent
    for command in (["snakemake", "--lint"], ["snakefmt", "--check", "."]):
        done = subprocess.run(
            [folder / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_machine_paths_in_the_project():
    """Nothing committed knows where it was written."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        text = (ROOT / name).read_text(errors="ignore")
        assert str(ROOT) not in text and str(Path.home()) not in text.replace("Path.home()", ""), (
            name
        )
