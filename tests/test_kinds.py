"""A new kind of experiment is one folder: it is run, drawn, checked and described from there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
import yaml

from conftest import project, snakemake
from pages import blocks
from test_workflow import NOTHING, jobs, with_study
from tripartite import declarations

STUDY = {
    "experiments": {
        "small": {
            "data": {
                "synthetic": {"sigma_squared": [0.5, 1], "n_inputs": 2, "n_tokens": 6, "d_head": 4}
            },
            "network": {"n_features": [10, 20], "n_seeds": 2},
        },
        "fitted": {"data": {"same_as": "small"}, "symmetries": {"calibrated_on": ["draw-0"]}},
    },
    "figures": {"features_needed": {"experiments": ["small"]}},
}
TOY = "workflow/scripts/tripartite/kinds/toy"
# The kind that docs/adding.md adds.
DECLARATION, STAGE, FIGURE = (
    next(one.text for one in blocks("docs/adding.md") if one.note == f"file: {TOY}/{name}")
    for name in ("kind.yaml", "gauge.py", "lengths.py")
)


def plan(folder: Path) -> dict[str, int]:
    said = snakemake(folder, "--config", "study=tiny", "--dry-run").stdout
    assert NOTHING in said or jobs(said), said
    return {} if NOTHING in said else jobs(said)


@pytest.mark.slow
def test_a_kind_is_one_folder(tmp_path):
    folder = with_study(project(tmp_path / "project"), STUDY)
    done = snakemake(folder, "--config", "study=tiny")
    assert done.returncode == 0, done.stdout
    toy = folder / TOY
    toy.mkdir()
    for name, text in (("kind.yaml", DECLARATION), ("gauge.py", STAGE), ("lengths.py", FIGURE)):
        (toy / name).write_text(text)
    declared = toy / "kind.yaml"
    declared.write_text(DECLARATION.replace("caption:", "words:"))
    said = snakemake(folder, "--config", "study=tiny", "--dry-run")
    fault = "kinds/toy/kind.yaml: figures.lengths: 'caption' is a required property"
    assert said.returncode == 1 and fault in said.stdout and "Traceback" not in said.stdout
    declared.write_text(DECLARATION)
    script = folder / "workflow/scripts/write_reference.py"
    subprocess.run([sys.executable, script], cwd=folder, check=True)
    assert plan(folder) == {}

    study = yaml.safe_load(yaml.safe_dump(STUDY))
    study["experiments"]["long"] = {"data": {"same_as": "small"}, "toy": {"scale": [1]}}
    study["figures"]["lengths"] = {"experiments": ["long"]}
    with_study(folder, study)
    said = snakemake(folder, "--config", "study=tiny", "--dry-run").stdout
    where = "config/studies/tiny.yaml: experiments.long.toy"
    assert f"{where}.scale: unknown key; did you mean scales?" in said
    assert f"{where}.scales: is missing and has no default" in said

    study["experiments"]["long"]["toy"] = {"scales": [2, 0.5], "heads": [[0, 1]]}
    with_study(folder, study)
    assert plan(folder) == {"gauge": 1, "draw": 1}
    done = snakemake(folder, "--config", "study=tiny")
    assert done.returncode == 0, done.stdout
    assert (folder / "results/tiny/figures/lengths.svg").stat().st_size > 1000
    norm = xr.load_dataset(folder / "results/tiny/long/norms.nc")["norm"].sel(scale=0.5)
    assert norm.isel(head=0).isnull().all() and float(norm.isel(layer=0, head=1)) > 1
    page = (folder / "docs/kinds/toy.md").read_text()
    assert "# toy\n" in page and "| `scales` | needed |" in page and "| `norm` |" in page
    assert "| `lengths` | How long are queries? | Norm of the queries" in page
    assert "(kinds/toy.md)" in (folder / "docs/reference.md").read_text()
    assert "- kinds/toy.md\n" in (folder / "mkdocs.yml").read_text()
    assert (
        "workflow/scripts/tripartite/kinds/toy/gauge.py"
        in (folder / "workflow/files.txt").read_text()
    )
    assert "`lengths`" in (folder / "docs/results.md").read_text()


def test_every_job_gets_the_device_and_the_cores_that_its_kind_declares(tmp_path):
    """No rule forgets one: all say where to compute; only what runs heads in parallel has cores."""
    folder = with_study(project(tmp_path / "project"), STUDY)
    arguments = ("--dry-run", "--printshellcmds", "--forceall", "--config", "study=quick")
    said = snakemake(folder, "--cores", "64", *arguments, "device=cpu").stdout
    commands = re.findall(r"stage\.py (\w+) .*--device (\w+) --workers (\d+) ", said)
    stages = {file.stage: file for file in declarations.files().values()}
    assert {stage for stage, _, _ in commands} >= stages.keys() - {"measure", "compete", "write"}
    for stage, device, workers in commands:
        side_by_side = stage in stages and "workers" in stages[stage].uses
        assert device == "cpu" and (int(workers) > 1) == side_by_side, stage
