"""docs/tutorial.md, followed word for word."""

import io
import re
import shutil
from contextlib import redirect_stdout

import pytest
import yaml

from conftest import ROOT, project
from pages import blocks, typed, with_environment, write
from test_commands import ELSEWHERE

PAGE = "docs/tutorial.md"
STUDY = "config/studies/mine.yaml"


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path, monkeypatch):
    """Its files are written, its commands and code run in order, and what it shows is compared.

    In place of the results of quick stand those of its experiment synthetic, from the study of the
    page: the page says that they are the same.
    """
    folder = with_environment(project(tmp_path / "project"))
    steps, page = blocks(PAGE), (ROOT / PAGE).read_text()
    (mine,) = [one for one in steps if one.note == f"file: {STUDY}"]
    write(mine, folder)
    quick = yaml.safe_load((ROOT / "config/studies/quick.yaml").read_text())
    shown = yaml.safe_load(mine.text)
    assert shown["seed"] == quick["seed"]
    assert shown["experiments"].items() <= quick["experiments"].items()
    (folder / "config/studies/quick.yaml").write_text(mine.text)
    monkeypatch.chdir(folder)

    def run(command):
        done = typed(command, folder)
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout

    def changed(old, new):
        text = (folder / STUDY).read_text()
        assert text.count(old) == 1, text
        (folder / STUDY).write_text(text.replace(old, new))

    said, names = run(".venv/bin/snakemake --cores 2 --config study=mine"), {}
    assert "Everything of the study mine is there" in said
    shutil.copytree(folder / "results/mine", folder / "results/quick")
    for step in steps:
        if step.language == "python":
            with redirect_stdout(io.StringIO()) as out:
                exec(compile(step.text, PAGE, "exec"), names)
            said = out.getvalue()
        elif step.language == "text" and step.text.startswith("config/studies/mine.yaml: "):
            changed("n_seeds", "n_seed")
            assert step.text in run(".venv/bin/snakemake --cores 2 --config study=mine")
            changed("n_seed", "n_seeds")
        elif step.language == "text" and step.text.startswith("error: "):
            changed("[-0.55, -0.45]", "[-1.05, -0.95]")
            said = run(".venv/bin/snakemake --cores 1 check --config study=mine")
            assert step.text in said and "Select jobs" in said and "simulate" not in said, said
        elif step.language == "text":
            assert said == step.text
        elif not write(step, folder):
            for command in step.commands:
                if "--dry-run" in command:
                    changed("n_seeds: 40", "n_seeds: 50")
                said = "" if command in ELSEWHERE else run(command)
                if "--dry-run" in command:
                    table = re.findall(r"^(\w+) +\d+$", said, re.M)
                    assert {*table} == {"simulate", "fit", "draw", "gallery", "default", "total"}
                    assert "Params have changed since last execution" in said
                if "--force" in command:
                    assert "Draw theory" in said
                if " check " in command:
                    quoted = (
                        "1 of 1 claims have the verdict that the study expects, none another one"
                    )
                    assert quoted in page
                    assert quoted in said, said
                    assert (quoted := "117 of 150 runs are taken over from the file") in page
                    assert quoted in said, said
                    assert not write(step, folder)
