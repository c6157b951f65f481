"""Every command of README and docs is run by a test, or the page says why not.

A new command needs a row in one of the tables here, or the comment `<!-- not run: reason -->` just
before its block. Pages that are followed from beginning to end are in `FOLLOWED`.
"""

import ast
import json
import re
import subprocess

import netCDF4
import numpy as np
import pytest
import yaml

from conftest import ROOT, as_user, project
from pages import NOT_RUN, PAGES, block, blocks, inline, with_environment, write
from tripartite import study

# Pages whose commands, blocks of code and files are all used in order, by these tests.
FOLLOWED = {
    "docs/tutorial.md": "test_tutorial.py::test_the_tutorial_does_what_it_says",
    "docs/adding.md": "test_adding.py::test_what_the_page_adds_works",
}
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -r envs/requirements.txt"
KILLED = "test_workflow.py::test_killed_runs_resume_to_the_same_bytes_elsewhere"
SHARED = "test_sharing.py::test_export_and_compare_end_to_end"
SLURM = "test_slurm.py::test_the_page_resumes_after_a_killed_snakemake"
# Run in other tests, with what stands in the place of a study or of the environment.
ELSEWHERE = {
    f"{INSTALL} && .venv/bin/snakemake --cores 2 --config study=quick": (
        "test_looks.py::test_quick_end_to_end"
    ),
    f"{INSTALL} -r envs/tests.txt && .venv/bin/pytest": (
        "test_environment.py::test_ci_runs_the_readmes_command"
    ),
    f"{INSTALL} -r envs/tests.txt": "test_environment.py::test_ci_runs_the_readmes_command",
    ".venv/bin/pytest": "test_environment.py::test_ci_runs_the_readmes_command",
    ".venv/bin/pytest tests/test_settle.py": (
        "test_environment.py::test_ci_runs_the_readmes_command"
    ),
    ".venv/bin/snakemake --report report.html --config study=quick": (
        "test_users.py::test_utilities_need_no_cores"
    ),
    ".venv/bin/snakemake --cores 2 --report-after-run --report report.html --config study=quick": (
        "test_users.py::test_a_report_lies_anywhere_and_follows_a_run_or_shows_a_part_of_it"
    ),
    ".venv/bin/pip install --no-deps --require-hashes -r envs/slurm.txt": (
        "test_slurm.py::test_the_plugin_finds_what_it_needs_in_the_lock"
    ),
    ".venv/bin/snakemake --profile workflow/profiles/slurm --config study=complete shards=8": (
        "test_slurm.py::test_the_cluster_gives_the_same_bytes"
    ),
    "mine() { squeue --me --noheader --format='%Z|%i' | grep -F \"$PWD|\" | "
    "cut -d'|' -f2; }": SLURM,
    "mine | xargs -r scancel; while mine | grep -q .; do sleep 1; done": SLURM,
    ".venv/bin/snakemake --profile workflow/profiles/slurm --unlock": SLURM,
    ".venv/bin/snakemake --profile workflow/profiles/slurm --rerun-incomplete": SLURM,
    ".venv/bin/snakemake --unlock": KILLED,
    ".venv/bin/snakemake --cores 2 --rerun-incomplete": KILLED,
    ".venv/bin/snakemake --cores 1 verify --config study=quick": (
        "test_workflow.py::test_verify_walks_from_the_figures_to_the_data"
    ),
    ".venv/bin/snakemake --cores 1 export --config study=quick": SHARED,
    ".venv/bin/snakemake --cores 1 compare --config study=quick other=theirs.zip": SHARED,
    ".venv/bin/snakemake --cores 2 benchmark": "test_workflow.py::test_the_benchmark_is_apart",
    ".venv/bin/python workflow/scripts/write_reference.py": FOLLOWED["docs/adding.md"],
}
# Run here as dry runs: what each says.
DRY = {
    ".venv/bin/snakemake --cores 2": r"^draw +\d+$",
    ".venv/bin/snakemake --cores 2 --config study=quick": "results/quick/albert/qkv.nc",
    ".venv/bin/snakemake --cores 2 --config study=mine": "results/mine/albert/qkv.nc",
    ".venv/bin/snakemake --cores 2 --config study=own file=my_model.nc": (
        "results/own/figures/heads.html"
    ),
    ".venv/bin/snakemake --cores 2 results/quick/figures/trace.svg": "Draw trace",
    ".venv/bin/snakemake --cores 1 check --config study=quick": r"^check +1$",
    ".venv/bin/snakemake --cores 2 --config study=quick "
    """'pathvars={"results": "/scratch/me/results"}'""": "/scratch/me/results/quick/albert/qkv.nc",
    ".venv/bin/snakemake --cores 2 --config study=full device=cuda": (
        "got cuda, but no usable GPU is visible; use auto or cpu"
    ),
    "../tripartite/.venv/bin/snakemake --cores 2": "astrocytes/results/mine/albert/qkv.nc",
    "../tripartite/.venv/bin/snakemake --cores 2 -s ../tripartite/Snakefile --config study=quick": (
        "results/quick/albert/qkv.nc"
    ),
}
# Run here as they are: what each says.
RUN = {
    "cp config/studies/quick.yaml config/studies/mine.yaml": "",
    ".venv/bin/snakemake --cores 2 --dry-run": r"^draw +\d+$",
    ".venv/bin/python workflow/scripts/stage.py fit --help": r"^makes  fit\.nc$",
    ".venv/bin/snakemake --dry-run": r"^draw +\d+$",
}
# Blocks of Python, by a word in them, and the tests that run them.
PYTHON = {
    "record_attention(": "test_readme.py::test_the_recorder_gives_the_models_own_attention",
    "docs/default/claims.nc": "test_commands.py::test_a_number_is_found_as_the_page_says",
    "module tripartite:": "test_commands.py::test_a_command_says_what_it_should",
}


def known(command: str) -> bool:
    return any(command in table for table in (ELSEWHERE, DRY, RUN))


def test_every_command_is_run_or_marked():
    """Also those in the text; and no row of a table is of a command that no page has."""
    seen, unknown = set(), []
    for one in blocks():
        if one.note.startswith(NOT_RUN):
            assert len(one.note) > len(NOT_RUN) + 10, f"{one.page}: {one.note}: no reason"
            continue
        seen |= {*one.commands}
        if one.page in FOLLOWED:
            continue
        unknown += [f"{one.page}: {line}" for line in one.commands if not known(line)]
        if one.language == "python":
            tests = [test for word, test in PYTHON.items() if word in one.text]
            unknown += [] if tests else [f"{one.page}: {one.text}"]
    for path in PAGES:
        seen |= {*inline(path)}
        unknown += [f"{path.name}: {command}" for command in inline(path) if not known(command)]
    assert unknown == [], "\n".join(unknown)
    assert [line for table in (ELSEWHERE, DRY, RUN) for line in table if line not in seen] == []


@pytest.mark.parametrize(
    "test", sorted({*FOLLOWED.values(), *ELSEWHERE.values(), *PYTHON.values()})
)
def test_the_tests_that_are_named_exist(test):
    file, name = test.split("::")
    assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the project with what commands name: a user's file, another folder."""
    folder = with_environment(project(tmp_path_factory.mktemp("commands") / "tripartite"))
    with netCDF4.Dataset(folder / "my_model.nc", "w") as file:
        for dim, size in {"input": 3, "layer": 1, "head": 2, "token": 6, "d_head": 4}.items():
            file.createDimension(dim, size)
        for name in "qkv":
            variable = file.createVariable(name, float, tuple(file.dimensions))
            variable[:] = np.random.default_rng(0).standard_normal(variable.shape)
    lab = folder.with_name("lab")
    (lab / "config/studies").mkdir(parents=True)
    (module,) = [one for one in blocks("docs/sharing.md") if "module tripartite" in one.text]
    assert write(module, lab)
    for place in (folder, lab):
        (place / "config/studies/mine.yaml").write_bytes(
            (ROOT / "config/studies/quick.yaml").read_bytes()
        )
    return folder


@pytest.mark.parametrize("command", [*DRY, *RUN])
def test_a_command_says_what_it_should(command, folder):
    where = folder.with_name("lab") if command.startswith("../") else folder
    words = command
    if command in DRY:
        words = command.replace("bin/snakemake ", "bin/snakemake --dry-run --printshellcmds ", 1)
    done = subprocess.run(
        words,
        shell=True,
        cwd=where,
        env=as_user(folder) | {"CUDA_VISIBLE_DEVICES": ""},
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    says = (DRY | RUN)[command]
    assert re.search(says, done.stdout, re.M), done.stdout
    assert "Traceback" not in done.stdout
    assert (done.returncode == 0) != ("no usable GPU" in says), done.stdout


def test_the_network_of_the_page_is_valid(tmp_path):
    """The example of docs/running.md, for a model that reads the inputs that it names."""
    (text,) = [one.text for one in blocks("docs/running.md") if one.note == "network"]
    data = {"model": "minilm", "inputs": ["lincoln", "darwin", "dickens"]}
    experiments = {"a": {"data": data} | yaml.safe_load(text)}
    (tmp_path / "config/studies").mkdir(parents=True)
    (tmp_path / "config/studies/page.yaml").write_text(json.dumps({"experiments": experiments}))
    read = study.load_study("page", tmp_path, {"memory_gb": 8})["experiments"]["a"]["network"]
    assert read["n_features"] == [10000, 100000] and read["leak_hebbian"] == 0.01


def test_a_number_is_found_as_the_page_says(monkeypatch, capsys):
    """The example of docs/results.md: it prints what the page shows."""
    monkeypatch.chdir(ROOT)
    page = "docs/results.md"
    exec(compile(block(page, "python", "docs/default/claims.nc"), page, "exec"), names := {})
    assert capsys.readouterr().out == block(page, "text", "minilm-lesions")
    value = names["number"]["value"].item()
    assert f'`number["value"]` is {value:.2f}.' in (ROOT / page).read_text()


def test_the_promises_name_tests_that_exist():
    page = (ROOT / "docs/reliability.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 30
    for row in rows:
        tests = re.findall(r"`(tests/\w+\.py)::(\w+)`", row)
        assert tests, row
        for file, name in tests:
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.M), row


def constants() -> str:
    """All texts of the workflow's code, with … for what is filled in."""
    parts = []
    for path in (ROOT / "workflow").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts.append(
                    "".join(
                        getattr(part, "value", "…") if isinstance(part, ast.Constant) else "…"
                        for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts.append(node.value)
    parts += [path.read_text(encoding="utf-8") for path in (ROOT / "workflow").rglob("*.smk")]
    return "\n".join(parts)


def test_messages_are_those_of_the_code():
    """The first cell of a row of docs/troubleshooting.md in backticks, piece by piece."""
    page, said = (ROOT / "docs/troubleshooting.md").read_text(), constants()
    messages = [
        text
        for row in re.findall(r"^\| (`[^|]*)\|", page, re.M)
        for text in re.findall("`([^`]+)`", row)
    ]
    assert len(messages) > 40
    pieces = {piece.strip(" ,;:()[]'") for text in messages for piece in text.split("…")}
    assert sorted(piece for piece in pieces if piece not in said) == []
