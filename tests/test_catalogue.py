"""Public descriptions of the workflow: rule graph, version and citation."""

import re

import yaml

import tripartite
from conftest import ROOT
from tripartite import declarations

README = (ROOT / "README.md").read_text()


def test_the_pipeline_of_the_readme_is_declared():
    """Every stage of the drawing makes its file, and reads those that come before it."""
    drawing = (ROOT / "workflow/report/pipeline.svg").read_text()
    assert "(workflow/report/pipeline.svg)" in README
    pairs = re.findall(r"(\w+) → (\w+)\.nc<", drawing)
    stages, files = zip(*pairs)
    assert files[:4] == ("qkv", "attention", "states", "fit")
    for stage, file in pairs:
        declared = declarations.files()[file]
        assert declared.stage == stage
        assert {*declared.reads} <= {"raw", *files[: files.index(file)]}


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
