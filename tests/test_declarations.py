"""Declarations of kinds: complete, true, nothing said twice; and generated files are current."""

import ast
import dataclasses
import importlib.util
import inspect
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import xarray as xr
import yaml

import stage
from conftest import ROOT
from tripartite import declarations, plan, study
from tripartite.heads import SETTINGS

PATHS = sorted(declarations.KINDS.glob("*/kind.yaml"))
# Settings that the plan adds to those of the section (plan.settings).
PLANNED = {
    "generate": {"data", "title", "wheel", "sha256", "seed", "experiment"},
    "ablate": {"model", "title", "wheel", "sha256"},
    "rebuild": {"model", "title", "wheel", "sha256", "data_of"},
    "attend": {"leak_hebbian", "leak_presynaptic"},
    "write": {"model", "title", "wheel", "inputs", "sha256", "data_of"},
    "measure": {"seed"},
    "train": {"task", "sha256", "seed", "data_of"},
    "compete": {"model", "inputs", "wheel", "sha256", "seed"},
    "score": {"claims", "fits"},
}


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location(
        "write_reference", ROOT / "workflow/scripts/write_reference.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_as_declared(reference):
    command = "python workflow/scripts/write_reference.py"
    for name, content in reference.written().items():
        written = (ROOT / name).read_text(encoding="utf-8")
        assert written == content, f"{name} is behind the declarations: run {command}"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.parent.name)
def test_every_kind_is_complete(path):
    assert [*declarations.faults(path)] == []


def test_names_are_unique():
    kinds = declarations.kinds().values()
    for part in ("files", "figures"):
        names = [name for kind in kinds for name in getattr(kind, part)]
        assert len(names) == len(set(names))
    stages = [file.stage for kind in kinds for file in kind.files.values()]
    assert len(stages) == len(set(stages))


def test_axes_have_one_order_and_every_variable_its_words():
    """Own axes first, then the shared ones; axes without coordinates stand last."""
    for name, file in declarations.files().items():
        axes = [*declarations.axes(name)]
        for variable, spec in declarations.variables(name).items():
            order = [axes.index(dim) for dim in spec.dims.split() if dim in axes]
            assert order == sorted(order), (name, variable)
            assert spec.means and spec.dtype in declarations.DTYPES
            assert bool(spec.units) == (spec.dtype not in ("str", "bool")), (name, variable)
        assert file.does.endswith("."), name


def test_every_axis_can_be_selected_by_its_name():
    """fit.sel(tolerance=.1) would be the tolerance of the lookup itself."""
    taken = {
        *inspect.signature(xr.Dataset.sel).parameters,
        *inspect.signature(xr.Dataset.isel).parameters,
    }
    for name in declarations.files():
        assert not {*declarations.axes(name)} & taken, name


STAGES = [file for kind in declarations.kinds().values() for file in kind.files.values()]


@pytest.mark.parametrize("file", STAGES, ids=lambda file: file.stage)
def test_every_setting_is_taken_and_no_default_is_said_twice(file):
    """A declared key that a stage does not take is refused when the stage runs."""
    parameters = inspect.signature(stage.function_of(file)).parameters
    section = declarations.kinds()[file.kind].settings["properties"]
    given = PLANNED.get(file.stage, set())
    if file.kind not in ("data", "benchmark", "claims"):
        given |= {*(file.settings if file.settings is not None else section)}
    records = {name: stage.fields_of(parameter) for name, parameter in parameters.items()}
    records = {name: fields for name, fields in records.items() if fields and name != "heads"}
    taken = {*parameters}.union(*records.values())
    taken |= {*SETTINGS} if "heads" in parameters else set()
    assert given <= taken | ({"inputs"} & {*parameters}), given - taken
    known = given | {*file.reads, *file.uses, "heads", "peers"}
    asked = {*parameters}.union(*records.values()) - {*records}
    assert asked <= known, asked - known
    if file.kind not in ("data", "benchmark"):
        needed = declarations.kinds()[file.kind].settings.get("required", [])
        for name in {*section} & {*parameters} - {"heads"}:
            optional = "default" not in section[name] and name not in needed
            assert (parameters[name].default is not inspect.Parameter.empty) == optional, name


def test_a_setting_that_nobody_takes_stops_the_stage():
    file = declarations.files()["attention"]
    wanted = inspect.signature(stage.function_of(file)).parameters
    with pytest.raises(TypeError, match="kinds/data/attend.py: attend does not take extra"):
        stage.fitting({"qkv": None, "extra": 1}, wanted, file, "")


def test_every_figure_of_the_studies_is_declared():
    for path in (ROOT / "config/studies").glob("*.yaml"):
        figures = yaml.safe_load(path.read_text())["figures"]
        assert {*figures} <= {*declarations.figures()}
    told = (kind for kind in declarations.kinds().values() if kind.role in declarations.TELLS)
    drawn = {name for kind in told for name in kind.figures}
    default, own = (
        yaml.safe_load((ROOT / f"config/studies/{name}.yaml").read_text())["figures"]
        for name in ("default", "own")
    )
    assert drawn == {*default} | {*own}, "a figure is in neither default.yaml nor own.yaml"


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A function that changes a copy of a declaration and returns its faults."""
    folder = shutil.copytree(declarations.KINDS, tmp_path / "kinds")

    def change(old: str, new: str, file: str = "kind.yaml") -> list[str]:
        path = folder / "settling" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return [*declarations.faults(folder / "settling/kind.yaml")]

    yield change


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "    caption: >-\n",
            "    word: >-\n",
            "figures.calcium_speed: 'caption' is a required property",
        ),
        (
            "dims: model, units: umol/L, means",
            "dims: model, means",
            "files.settling.variables.operating_point: 'units' is a required property",
        ),
        (
            "stage: settle\n",
            "stage: settles\n",
            "files.settling: stage: there is no kinds/settling/settles.py; write it, with a "
            "function settles",
        ),
        (
            "  calcium_speed:\n",
            "  calcium_sped:\n",
            "figures: calcium_sped: there is no kinds/settling/calcium_sped.py; write it, with a "
            "function",
        ),
        (
            "dims: ratio layer head",
            "dims: rato layer head",
            "dims: 'rato' is no axis; declare it under axes",
        ),
        (
            "{use: sizes}",
            "{use: size}",
            "settings.properties.n_features: use: 'size' is unknown; kinds/common",
        ),
        ("category: Biology\n", "", "category: is missing"),
        ("reads: [qkv, attention]", "reads: [raw, qkv]", "files.settling.reads: raw stands alone"),
        ("what: >-", "hwat: >-", "'what' is a required property"),
        ("files:", "files: [", "cannot be read"),
    ],
)
def test_an_incomplete_kind_is_told_by_file_and_key(broken, old, new, line):
    found = broken(old, new)
    assert any(
        fault.startswith("kinds/settling/kind.yaml: ") and line in fault for fault in found
    ), found


def test_a_module_without_its_function_is_told(broken):
    found = broken("def settle(", "def settles(", "settle.py")
    assert found == [
        "kinds/settling/kind.yaml: files.settling: stage: kinds/settling/settle.py has no "
        "function settle"
    ]


def test_digests_hold_the_contract_of_their_kind_alone(monkeypatch, tmp_path):
    """Another meaning of a variable changes its file's digest, a caption its figure's."""

    def digests():
        files = {name: plan.stage_code(name) for name in declarations.files()}
        return files | {f"figure {name}": plan.figure_code(name) for name in declarations.figures()}

    def fresh():
        for function in (
            declarations.kinds,
            declarations.files,
            declarations.stages,
            declarations.figures,
        ):
            function.cache_clear()
        for function in (
            declarations.axes,
            declarations.variables,
            declarations.contract,
            plan.stage_code,
        ):
            function.cache_clear()
        return digests()

    folder = shutil.copytree(declarations.KINDS, tmp_path / "kinds")
    monkeypatch.setattr(declarations, "KINDS", folder)
    before = fresh()
    path = folder / "settling/kind.yaml"
    text = path.read_text()
    path.write_text(text.replace("means: relative output error", "means: error of the output", 1))
    path.write_text(text.replace("sd of ln(Z_t / p_t)", "standard deviation of ln(Z_t / p_t)", 1))
    after = fresh()
    assert {name for name in before if before[name] != after[name]} == {"settling"}
    path.write_text(text)
    figures, before = text.index("figures:"), fresh()
    caption = text[figures:].replace("    caption: ", "    caption: As said, ", 1)
    path.write_text(text[:figures] + caption.replace("As said, >-\n", ">-\n      As said, ", 1))
    after = fresh()
    changed = {name for name in before if before[name] != after[name]}
    assert len(changed) == 1 and changed.pop().startswith("figure ")
    monkeypatch.undo()
    fresh()


def test_settings_are_the_same_as_the_schema_says():
    """Every study that ships is complete by its schema; stages take its settings as they are."""
    for name in ("quick", "default"):
        settings = study.load_study(name, ROOT, {})
        for experiment in settings["experiments"]:
            for file in plan.stage_files(settings, experiment):
                text = plan.text(plan.settings(settings, experiment, file, ROOT / "results" / name))
                assert json.loads(text)


def test_reference_names_every_kind_setting_variable_and_figure(reference):
    index, written = reference.reference(), reference.written()
    for kind in declarations.kinds().values():
        page = f"kinds/{kind.name}.md"
        assert f"[{kind.name}]({page})" in index and page in written["mkdocs.yml"]
        text = written[f"docs/{page}"]
        for name in (*kind.settings["properties"], *kind.figures):
            assert f"| `{name}` |" in text, name
        for file in kind.files.values():
            assert f"\n### {file.name}.nc\n" in text
            assert all(f"| `{name}` |" in text for name in file.variables)
        for words in (kind.equation, kind.cost, kind.limits):
            assert re.split("`?docs/", words.strip())[0] in text
        assert sys.executable not in text
    pages = {path.name for path in (ROOT / "docs/kinds").iterdir()}
    assert pages == {f"{name}.md" for name in declarations.kinds()}


def sources(file):
    """Modules that the digest of a stage holds, as paths below workflow/scripts."""
    found, queue = set(), [plan.SCRIPTS / f"{name}.py" for name in ("stage", file.module)]
    while queue:
        path = queue.pop()
        if path not in found:
            found.add(path)
            queue += plan._imports(path)
    package = plan.SCRIPTS / "tripartite"
    return {path.relative_to(package).as_posix() for path in found if package in path.parents}


def test_imports_are_those_that_python_sees(tmp_path):
    """They are found by their lines, because every parse of the Snakefile reads all modules."""
    (tmp_path / "odd.py").write_text(
        "from tripartite import (\n    contracts,  # of files\n    heads as of_heads,\n)\n"
        "def later():\n    from tripartite.figures import palette\n    from numpy import job\n"
    )

    def parsed(path):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                parts = (node.module or "").split(".")
                if node.level or parts[0] == "tripartite":
                    above = path.parents[node.level - 1] if node.level else plan.SCRIPTS
                    package = above.joinpath(*parts)
                    yield from (package / alias.name for alias in node.names)
                    yield from (package, package / "__init__")

    found = {path.stem for path in plan._imports(tmp_path / "odd.py")}
    assert found == {"contracts", "heads", "palette", "__init__"}
    for path in [tmp_path / "odd.py", *plan.SCRIPTS.rglob("*.py")]:
        files = (Path(f"{name}.py") for name in parsed(path))
        wanted = {file for file in files if file.is_file()}
        assert {*plan._imports(path)} == wanted, path


@pytest.mark.parametrize("file", STAGES, ids=lambda file: file.stage)
def test_words_of_faults_are_no_part_of_what_results_are_made_with(file):
    """A better message reruns nothing; nor does a module of another kind."""
    held = sources(file)
    assert not held & {"words.py", "checks.py", "study.py", "snakefile.py", "model_faults.py"}
    assert not any(name.endswith("/checks.py") for name in held)
    kinds = {name.split("/")[1] for name in held if name.startswith("kinds/")}
    assert kinds <= {file.kind, "benchmark"}


def test_a_closed_form_that_is_declared_reruns_the_fit(monkeypatch):
    before = {name: plan.stage_code(name) for name in ("fit", "states")}
    maps = declarations.common()["feature_maps"]
    monkeypatch.setitem(maps, "relu", {"closed_forms": ["normalizer"]})
    plan.stage_code.cache_clear()
    after = {name: plan.stage_code(name) for name in ("fit", "states")}
    plan.stage_code.cache_clear()
    assert before["fit"] != after["fit"] and before["states"] == after["states"]


def test_two_kinds_with_one_name_are_told():
    kinds = dict(declarations.kinds())
    kinds["twin"] = dataclasses.replace(kinds["settling"], name="twin")
    assert [*declarations._repeated(kinds)] == [
        f"kinds/twin/kind.yaml: the {what} {name} is that of kinds/settling; choose another name"
        for what, name in (("file", "settling"), ("stage", "settle"), ("figure", "calcium_speed"))
    ]


def test_an_incomplete_kind_stops_the_parse(tmp_path, monkeypatch):
    """Not only what cannot be read: also what a job would trip over."""
    folder = shutil.copytree(declarations.KINDS, tmp_path / "kinds")
    monkeypatch.setattr(declarations, "KINDS", folder)
    (folder / "settling/settle.py").unlink()
    declarations.kinds.cache_clear()
    with pytest.raises(ValueError, match="settling: stage: there is no kinds/settling/settle.py"):
        declarations.kinds()
    monkeypatch.undo()
    declarations.kinds.cache_clear()


def test_what_travels_holds_a_kind_that_is_not_yet_in_the_manifest(tmp_path):
    (tmp_path / "workflow/kinds/new/__pycache__").mkdir(parents=True)
    for name in ("files.txt", "kinds/new/kind.yaml", "kinds/new/__pycache__/x.pyc", ".hidden"):
        (tmp_path / "workflow" / name).write_text("README.md\n")
    assert plan.travelling(tmp_path) == [
        "README.md",
        "workflow/files.txt",
        "workflow/kinds/new/kind.yaml",
    ]
