"""What reviewers, catalogues, editors and developers read: versions agree, and help is true."""

import json
import re
import subprocess
import sys

import jsonschema
import pytest
import yaml

import tripartite
from conftest import ROOT
from tripartite import declarations, plan, stage_help

CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
CODEMETA = json.loads((ROOT / "codemeta.json").read_text())
CODECHECK = yaml.safe_load((ROOT / "codecheck.yml").read_text())
EDITED = [*sorted((ROOT / "config/studies").glob("*.yaml")), ROOT / "config/config.yaml"]


def test_versions_dates_and_titles_agree():
    assert tripartite.__version__ == CITATION["version"] == CODEMETA["version"]
    assert CITATION["date-released"].isoformat() == CODEMETA["datePublished"]
    assert CITATION["title"] == CODEMETA["name"] == CODECHECK["paper"]["title"]
    assert CODEMETA["license"] == f"https://spdx.org/licenses/{CITATION['license']}"
    assert CITATION["keywords"] == CODEMETA["keywords"]
    assert CITATION["abstract"] == CODEMETA["description"]
    (author,) = CITATION["authors"]
    assert author == {"name": CODEMETA["author"][0]["name"]} == CODECHECK["paper"]["authors"][0]
    paper = CODEMETA["referencePublication"]
    first = CITATION["references"][0]
    assert paper["@id"] == f"https://doi.org/{first['doi']}" and paper["name"] == first["title"]
    locked = (ROOT / "envs/requirements.txt").read_text().lower()
    for needed in CODEMETA["softwareRequirements"]:
        assert f"\n{needed['name'].lower()}==" in locked


def test_the_software_is_cited_and_not_replaced():
    """A preferred-citation would stand in place of the software; the paper is a reference."""
    assert "preferred-citation" not in CITATION
    assert CITATION["references"][0]["doi"] == "10.1073/pnas.2219150120"


def test_a_codechecker_finds_every_figure_of_quick_and_default():
    """As the specification of codecheck.yml wants it; what a codechecker fills in is not there."""
    text = (ROOT / "codecheck.yml").read_text()
    assert text.startswith("%YAML 1.1\n---\n")
    assert CODECHECK["version"] == "https://codecheck.org.uk/spec/config/1.0/"
    named = [entry["file"] for entry in CODECHECK["manifest"]]
    assert len({*named}) == len(named) and all(entry["comment"] for entry in CODECHECK["manifest"])
    for name in ("quick", "default"):
        study = yaml.safe_load((ROOT / f"config/studies/{name}.yaml").read_text())
        figures = {f"results/{name}/figures/{figure}.svg" for figure in study["figures"]}
        claims = {f"results/{name}/{plan.CLAIMS}"} if study.get("claims") else set()
        assert {file for file in named if file.startswith(f"results/{name}/")} == figures | claims
    assert not {"codechecker", "report", "certificate", "check_time"} & CODECHECK.keys()


def test_texts_for_people_travel():
    travelling = plan.travelling(ROOT)
    assert {"CONTRIBUTING.md", "codemeta.json", "codecheck.yml", "CITATION.cff"} <= {*travelling}


def test_contributing_names_every_test_file_that_it_speaks_of():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = {*re.findall(r"`(test_\w+)`", text)}
    assert named <= {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    for link in re.findall(r"\]\((docs/[\w.]+)\)", text):
        assert (ROOT / link).is_file()
    commands = re.findall(r"```bash\n(.*?)\n```", text)
    readme = (ROOT / "README.md").read_text()
    assert commands[0] in readme and commands[1].split("/")[-1] == "pytest"


# Editors.


def schema_of(path):
    """The schema that the first line names, as an editor finds it; and the line."""
    first = path.read_text().splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    return yaml.safe_load((path.parent / named[1]).resolve().read_text())


@pytest.mark.parametrize("path", EDITED, ids=lambda path: path.stem)
def test_editors_find_the_schema_and_no_fault(path):
    schema = schema_of(path)
    checker = jsonschema.validators.validator_for(schema)
    checker.check_schema(schema)
    faults = [*checker(schema).iter_errors(yaml.safe_load(path.read_text()))]
    assert not faults, [fault.message for fault in faults]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda study: study["figures"].update(trace={"experiments": 3}), ["figures", "trace"]),
        (lambda study: study["experiments"].update({"A b": {}}), ["experiments"]),
        (lambda study: study.update(seeds=1), []),
        (lambda study: study["experiments"]["own"]["data"].update(file="{other}"), ["experiments"]),
    ],
)
def test_editors_underline_what_is_wrong(change, where):
    """Also behind the references to definitions."""
    path = ROOT / "config/studies/own.yaml"
    study = yaml.safe_load(path.read_text())
    change(study)
    (fault, *_) = jsonschema.Draft202012Validator(schema_of(path)).iter_errors(study)
    assert [*fault.absolute_path][: len(where)] == where


# The help of stages.


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("stage", declarations.stages())
def test_help_tells_what_a_stage_takes_and_makes(stage):
    file = declarations.stages()[stage]
    told = stage_help.told(stage)
    assert max(map(len, told.splitlines())) <= stage_help.WIDTH
    assert f"makes  {file.name}.nc" in told
    for name in file.reads:
        assert name == "raw" or f"{name}.nc" in told
    settings = declarations.kinds()[file.kind].settings["properties"]
    for name, part in settings.items():
        taken = file.settings is None or name in file.settings
        assert (f"\n  {name} (" in told) == taken
        assert not taken or words(part["description"]) in words(told)
    for name, spec in (declarations.axes(file.name) | file.variables).items():
        assert f"\n  {name}" in told and words(spec.means) in words(told)
        assert not spec.units or f"unit {spec.units}" in told
        assert not spec.over or f"{name}_low, {name}_high: 95 % interval" in words(told)
    for use in file.uses:
        assert stage_help.USES[use] in words(told)


def test_help_knows_all_that_stages_use():
    assert stage_help.USES.keys() == {*declarations.USES}


def test_help_gives_defaults_of_nested_settings():
    told = stage_help.told("generate")
    assert "  synthetic.n_tokens (default 64)\n" in told
    assert "  synthetic.sigma_squared (needed)\n" in told
    assert "  <name>.rests_on.<name>.variable (needed)\n" in stage_help.told("score")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["settle", "--help"], "settle, a stage of the kind settling: "),
        (["draw", "-h"], "  calcium_speed (shows settling)\n"),
        (["nonsense", "--help"], "Stages: ablate, "),
        (["--help"], "Stages: ablate, "),
    ],
)
def test_help_is_printed(words, wanted):
    script = ROOT / "workflow/scripts/stage.py"
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    assert done.returncode == 0 and wanted in done.stdout, done.stdout + done.stderr


def test_help_of_figures_asks_what_each_asks():
    told = words(stage_help.told("draw"))
    for figure in declarations.figures().values():
        assert figure.name in told and words(figure.question) in told
