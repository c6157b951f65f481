"""Public descriptions of the workflow: rule graph, version and citation."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

import tripartite
from conftest import ROOT

README = (ROOT / "README.md").read_text()


def graph() -> set[tuple[str, str]]:
    """Edges between rules of the study quick, from Snakemake, without rules that only gather."""
    command = [
        Path(sys.executable).parent / "snakemake",
        "--cores",
        "1",
        "--rulegraph",
        "mermaid-js",
    ]
    said = subprocess.run(
        [*command, "--forceall", "--config", "study=quick"],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", said.stdout))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", said.stdout)}
    return {(a, b) for a, b in edges if b not in ("default", "all")}


def shown(edges: set[tuple[str, str]]) -> str:
    return "\n".join(["flowchart LR", *(f"  {a} --> {b}" for a, b in sorted(edges))])


def test_the_rule_graph_in_the_readme_is_current():
    edges = graph()
    assert ("simulate", "fit") in edges
    assert shown(edges) in README


def test_the_version_stands_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", tripartite.__version__)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == tripartite.__version__
    assert citation["references"][0]["doi"] == "10.1073/pnas.2219150120"


def test_the_catalogue_finds_what_it_wants():
    assert all(
        (ROOT / file).is_file() for file in ("workflow/Snakefile", "config/README.md", "LICENSE")
    )
    assert yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]["report"]


def test_no_rule_is_kept_in_the_cache_between_workflows():
    """Snakemake's cache ignores wildcards and imported modules: two seeds could share an entry."""
    rules = "".join(path.read_text() for path in (ROOT / "workflow").rglob("*.smk"))
    assert not re.search(r"^\s+cache:", rules, re.M)
    assert "`--cache`" in (ROOT / "config/README.md").read_text()
