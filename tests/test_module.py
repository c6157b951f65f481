"""The workflow as a module of another: by a local path, by tags on GitHub, from any directory."""

import json
import re
import subprocess
import textwrap
import zipfile

import pytest
import xarray as xr
import yaml

from conftest import ROOT, project, snakemake
from tripartite import declarations, job, plan, sharing

NOTHING = "Nothing to be done"
MINI = {
    "experiments": {
        "small": {
            "data": {
                "synthetic": {"sigma_squared": [0.5, 2], "n_inputs": 2, "n_tokens": 8, "d_head": 4}
            },
            "network": {"n_features": [10, 100], "n_seeds": 2},
        }
    },
    "figures": {"theory": {"experiments": ["small"]}},
}


def lab(folder, text, study=MINI):
    """Another lab's workflow with its study."""
    (folder / "config/studies").mkdir(parents=True)
    (folder / "config/studies/mini.yaml").write_text(yaml.safe_dump(study))
    (folder / "Snakefile").write_text(textwrap.dedent(text))
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A repository with two tags, of which the second has edited how the fits are made."""
    folder = project(tmp_path_factory.mktemp("published") / "tripartite")

    def git(*words):
        name = ["-c", "user.name=lab", "-c", "user.email=lab@example.org"]
        subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True)

    git("init", "-b", "main")
    git("add", "-A")
    git("commit", "-m", "first")
    git("tag", "v1.0.0")
    with open(folder / "workflow/scripts/tripartite/phases.py", "a") as file:
        file.write("# edited\n")
    git("commit", "-am", "second")
    git("tag", "v2.0.0")
    return folder


def with_github(folder, repository):
    """A folder that git uses in place of GitHub."""
    (folder / ".home").mkdir()
    (folder / ".home/.gitconfig").write_text(
        f'[url "{repository}"]\n\tinsteadOf = https://github.com/lab-a/tripartite\n'
        "[safe]\n\tdirectory = *\n"
    )


def test_two_tags_of_github_side_by_side(published, tmp_path):
    """Each with its prefix; a rule of one is overridden; and nothing is to be done again."""
    folder = lab(
        tmp_path / "lab",
        """
        module old:
            snakefile: github("lab-a/tripartite", path="workflow/Snakefile", tag="v1.0.0")
            config: {"study": "mini"}
            prefix: "old"

        use rule * from old as old_*

        use rule fit from old as old_fit with:
            message: "Fitted in our own words."

        module new:
            snakefile: github("lab-a/tripartite", path="workflow/Snakefile", tag="v2.0.0")
            config: {"study": "mini"}
            prefix: "new"

        use rule * from new as new_*

        rule all:
            default_target: True
            input: rules.old_all.input, rules.new_all.input
        """,
    )
    with_github(folder, published)
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout
    assert "Fitted in our own words." in done.stdout
    old, new = (job.load(folder / x / "results/mini/small/fit.nc") for x in ("old", "new"))
    xr.testing.assert_equal(old, new)
    assert old.attrs["code_digest"] != new.attrs["code_digest"]
    assert (folder / "new/results/mini/figures/theory.svg").is_file()
    assert not (folder / "results").exists()
    assert NOTHING in snakemake(folder, "--dry-run").stdout
    checked = snakemake(folder, "old_verify")
    assert (
        "files are whole, were made as the study asks for, and from those that are there"
        in checked.stdout
    )
    exported = snakemake(folder, "new_export")
    assert exported.returncode == 0, exported.stdout
    with zipfile.ZipFile(folder / "new/results/export/mini.zip") as archive:
        packed = {
            name for name in archive.namelist() if not name.startswith(("results/", "config/"))
        }
    manifest = (ROOT / plan.MANIFEST).read_text().split()
    own = {name for name in manifest if not name.startswith("config/")}
    assert packed - {sharing.METADATA} == own


def test_shipped_studies_and_inputs_travel_with_the_module(published, tmp_path):
    """A config of one line is enough; from GitHub each file of the workflow is fetched by name."""
    for name, where in (
        ("a", f'"{ROOT}/workflow/Snakefile"'),
        ("b", 'github("lab-a/tripartite", path="workflow/Snakefile", tag="v1.0.0")'),
    ):
        folder = lab(
            tmp_path / name,
            f"""
            module tripartite:
                snakefile: {where}
                config: {{"study": "quick"}}

            use rule * from tripartite
            """,
        )
        with_github(folder, published)
        said = snakemake(folder, "--dry-run", "--printshellcmds", "all").stdout
        study = yaml.safe_load((ROOT / "config/studies/quick.yaml").read_text())
        plain = [name for name in study["figures"] if not declarations.figures()[name].also]
        assert re.search(rf"^draw +{len(plain)}$", said, re.M), said
        assert "wittig.smi" in said


def test_a_local_module_has_results_of_its_own_and_leaves_other_paths_alone(tmp_path):
    folder = lab(
        tmp_path / "lab",
        f"""
        module tripartite:
            snakefile: "{ROOT}/workflow/Snakefile"
            config: {{"study": "mini"}}
            pathvars:
                results="ours"

        use rule * from tripartite as tripartite_*

        rule own:
            output: "results/of/another/table.nc"
            shell: "touch {{output}}"
        """,
    )
    done = snakemake(folder, "results/of/another/table.nc", "ours/mini/small/attention.nc")
    assert done.returncode == 0, done.stdout
    assert (folder / "ours/mini/small/attention.nc").is_file()
    (folder / "ours/mini/small/qkv.nc").write_bytes(b"broken")
    for path, words in (
        ("figures/trase.svg", "trase: study mini has no figure trase; it has "),
        ("smal/fit.nc", "smal: study mini has no experiment smal; it has small"),
    ):
        said = snakemake(folder, "--dry-run", f"ours/mini/{path}").stdout
        assert words in said and "Traceback" not in said, said
    checked = snakemake(folder, "tripartite_verify")
    assert checked.returncode and "ours/mini/small/qkv.nc" in checked.stdout


def test_a_study_that_does_not_exist_is_told_with_those_that_do(tmp_path):
    folder = lab(
        tmp_path / "lab",
        f"""
        module tripartite:
            snakefile: "{ROOT}/workflow/Snakefile"
            config: {{"study": "defualt"}}

        use rule * from tripartite
        """,
    )
    said = snakemake(folder, "--dry-run").stdout
    assert "config: study: 'defualt' is unknown" in said and "default" in said and "mini" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("file", ["Snakefile", "workflow/Snakefile"])
def test_both_snakefiles_work_from_any_directory(tmp_path, file):
    folder = lab(tmp_path / "elsewhere", "")
    snakefile = str(ROOT / file)
    attention = "results/mini/small/attention.nc"
    done = snakemake(folder, "-s", snakefile, attention, "--config", "study=mini")
    assert done.returncode == 0, done.stdout
    assert json.loads(job.load(folder / attention).attrs["settings"]) == {}
    whole = snakemake(folder, "-s", snakefile, "--dry-run", "--config", "study=quick").stdout
    assert re.search(r"^draw +\d+$", whole, re.M), whole
    again = snakemake(folder, "-s", snakefile, "--dry-run", attention, "--config", "study=mini")
    assert NOTHING in again.stdout
