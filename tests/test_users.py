"""Unusual uses: options of Snakemake, files that are moved, several runs at once, broken disks."""

import fcntl
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT, project, snakemake
from test_module import MINI, lab, published, with_github  # noqa: F401 (a fixture)
from test_workflow import own_file, with_study
from tripartite import job, locks, plan

NOTHING = "Nothing to be done"
STATES = "results/mini/small/states.nc"
OWN = {
    "experiments": {
        "mine": {
            "data": {"file": "my_model.nc"},
            "network": {"n_features": [10, 100], "n_seeds": 2},
        }
    },
    "figures": {"features_needed": {"experiments": ["mine"]}},
}


def one_line(said: str, *words: str) -> str:
    """The one line with all words; no job ran, and there is no traceback."""
    assert "Traceback" not in said and "Job stats" not in said, said
    (line,) = [line for line in said.splitlines() if all(word in line for word in words)]
    return line


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The project with results of a small study and of one on a user's file; only to be copied."""
    folder = with_study(project(tmp_path_factory.mktemp("ran") / "project"), MINI, "mini")
    with_study(folder, OWN, "mine")
    own_file(folder / "my_model.nc")
    for name in ("mini", "mine"):
        done = snakemake(folder, "--config", f"study={name}")
        assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture
def copy(ran, tmp_path):
    return shutil.copytree(ran, tmp_path / "project", symlinks=True)


def plain(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Snakemake without --cores."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "snakemake"), *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"} | environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )


# Options of Snakemake.


@pytest.mark.parametrize(
    ("utility", "says"),
    [
        ("--unlock", "Unlock"),
        ("--summary", STATES),
        ("--detailed-summary", STATES),
        ("--list-target-rules", "verify"),
        ("--list-rules", "simulate"),
        ("--rulegraph", "digraph"),
        ("--filegraph", "digraph"),
        ("--d3dag", "simulate"),
        ("--list-changes params", ""),
        ("--delete-all-output --dry-run", f"Would delete {STATES}"),
        ("--report report.html", "Report created"),
    ],
)
def test_utilities_need_no_cores(copy, utility, says):
    """C05."""
    done = plain(copy, *utility.split(), "--config", "study=mini")
    assert done.returncode == 0 and says in done.stdout, done.stdout
    assert "Traceback" not in done.stdout


def test_utilities_work_before_a_run(tmp_path):
    folder = with_study(project(tmp_path / "project"), MINI, "mini")
    for utility in ("--unlock", "--summary", "--lint", "--rulegraph"):
        done = plain(folder, utility, "--config", "study=mini")
        assert done.returncode == 0, done.stdout


def test_a_report_lies_anywhere_and_follows_a_run_or_shows_a_part_of_it(copy):
    """C03 and C21."""
    done = snakemake(copy, "--report", "results/mini/reports/r.html", "--config", "study=mini")
    assert done.returncode == 0 and (copy / "results/mini/reports/r.html").is_file(), done.stdout
    part = "results/mini/figures/theory.svg"
    (copy / "results/mini/figures/theory.pdf").unlink()
    done = snakemake(copy, part, "--report", "part.html", "--config", "study=mini")
    assert (
        done.returncode == 0 and "Not there yet: 1 of 9 files" in (copy / "part.html").read_text()
    )
    text = (copy / "config/studies/mini.yaml").read_text()
    (copy / "config/studies/mini.yaml").write_text(text.replace("- 100", "- 99"))
    done = snakemake(copy, "--report", "stale.html", "--config", "study=mini")
    assert "Out of date: 1 of 8 files" in (copy / "stale.html").read_text()
    shutil.rmtree(copy / "results")
    done = snakemake(copy, "--report", "r.html", "--report-after-run", "--config", "study=mini")
    assert done.returncode == 0, done.stdout
    page = (copy / "r.html").read_text()
    assert "n_features: [10, 99]" in page and "Out of date" not in page


def test_results_go_where_path_variables_say(ran, tmp_path):
    """C06: on the command line, in config.yaml, and in a module."""
    folder = with_study(project(tmp_path / "project"), MINI, "mini")
    where = {"results": str(tmp_path / "scratch/results"), "logs": "scratch logs"}
    config = ("--config", "study=mini", f"pathvars={json.dumps(where)}")
    done = snakemake(folder, *config)
    assert done.returncode == 0, done.stdout
    made = tmp_path / "scratch/results/mini/small/states.nc"
    assert made.read_bytes() == (ran / STATES).read_bytes()
    assert not (folder / "results").exists() and (folder / "scratch logs/mini/small").is_dir()
    for target, says in (
        ("verify", "9 files are whole"),
        ("export", "scratch/results/export/mini.zip: "),
        ("--report=r.html", "Report created"),
    ):
        done = snakemake(folder, target, *config)
        assert done.returncode == 0 and says in done.stdout, done.stdout
    said = snakemake(folder, str(made.with_name("fits.nc")), *config).stdout
    one_line(said, "experiment small of study mini has qkv.nc, attention.nc, states.nc, fit.nc")
    (folder / "config/config.yaml").write_text(f"study: mini\npathvars: {json.dumps(where)}\n")
    assert NOTHING in snakemake(folder, "--dry-run").stdout
    (folder / "config/config.yaml").write_text("study: mini\npathvars: [results]\n")
    assert "Traceback" not in snakemake(folder, "--dry-run").stdout
    text = f"""
        module tripartite:
            snakefile: "{ROOT}/workflow/Snakefile"
            config: {{"study": "mini", "pathvars": {{"results": "out"}}}}

        use rule * from tripartite
        """
    said = snakemake(lab(tmp_path / "lab", text), "--dry-run").stdout
    assert "out/mini/small/states.nc" in said, said


@pytest.mark.parametrize(
    "name", ["007", "1e3", "2026_11", "2026-11-25", "true", "null", "0x1f", "1"]
)
def test_names_of_studies_that_look_like_numbers(fresh, name):
    """C08: the name is the text that was typed, not the number that YAML or Python reads."""
    with_study(fresh, MINI, name)
    said = snakemake(fresh, "--dry-run", "--config", f"study={name}").stdout
    assert f"results/{name}/small/states.nc" in said, said
    (fresh / f"config/studies/{name}.yaml").unlink()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return with_study(project(tmp_path_factory.mktemp("fresh") / "project"), MINI, "mini")


def test_shards_or_none_are_the_same_result(copy, tmp_path):
    """C16: results with and without shards are the same, and neither reruns the other's."""
    for shards in ("2", "3", "1"):
        said = snakemake(copy, "--dry-run", "--config", "study=mini", f"shards={shards}").stdout
        assert NOTHING in said, said
    folder = with_study(project(tmp_path / "sharded"), MINI, "mini")
    done = snakemake(folder, "--config", "study=mini", "shards=2")
    assert done.returncode == 0 and "simulate_shard" in done.stdout, done.stdout
    assert (folder / STATES).read_bytes() == (copy / STATES).read_bytes()
    assert not list(folder.rglob("shards"))
    for shards in ("1", "3", "2"):
        said = snakemake(folder, "--dry-run", "--config", "study=mini", f"shards={shards}").stdout
        assert NOTHING in said, said


def test_jobs_beside_cores_are_no_cluster(fresh):
    """C29: in a profile of the site or on the command line; the executor decides."""
    profile = fresh / "site"
    profile.mkdir()
    (profile / "profile.yaml").write_text("jobs: 100\n")
    for more in (("--jobs", "4"), ("--profile", str(profile))):
        said = snakemake(
            fresh,
            *more,
            "--dry-run",
            "--config",
            "study=mini",
            "device=cuda",
            CUDA_VISIBLE_DEVICES="",
        ).stdout
        one_line(said, "config: device: got cuda, but no usable GPU is visible")


def test_modules_of_a_cluster_do_not_reach_jobs(tmp_path):
    """C30: PYTHONPATH has another numpy, another release of tripartite, and a breaking module."""
    folder = with_study(project(tmp_path / "project"), MINI, "mini")
    loaded = tmp_path / "modules"
    (loaded / "numpy-1.26.4.dist-info").mkdir(parents=True)
    (loaded / "numpy-1.26.4.dist-info/METADATA").write_text("Name: numpy\nVersion: 1.26.4\n")
    for name in ("tripartite", "xarray", "torch"):
        (loaded / name).mkdir()
        (loaded / f"{name}/__init__.py").write_text("raise SystemExit('of the cluster')\n")
    done = snakemake(
        folder, "results/mini/small/qkv.nc", "--config", "study=mini", PYTHONPATH=str(loaded)
    )
    assert done.returncode == 0, done.stdout
    versions = json.loads(job.load(folder / "results/mini/small/qkv.nc").attrs["versions"])
    assert versions["numpy"] == np.__version__


def test_an_environment_managers_python_beside_a_plain_snakemake(copy):
    """If Snakemake's Python lacks our packages, the first Python in PATH runs the jobs."""
    text = (copy / "workflow/rules/common.smk").read_text()
    needs = '("netCDF4", "torch", "xarray")'
    assert needs in text
    (copy / "workflow/rules/common.smk").write_text(text.replace(needs, '("no_such_package",)'))
    other = copy / "manager"
    other.mkdir()
    (other / "python").write_text(
        f'#!/bin/sh\necho "a Python of its own"\nexec "{sys.executable}" "$@"\n'
    )
    (other / "python").chmod(0o755)
    done = snakemake(
        copy, "--force", STATES, "--config", "study=mini", PATH=f"{other}:/usr/bin:/bin"
    )
    assert done.returncode == 0 and "a Python of its own" in done.stdout, done.stdout


def test_a_module_takes_the_keys_that_are_its_own(tmp_path):
    """C02: the other lab's config has other keys, some of them similar to ours."""
    folder = lab(
        tmp_path / "lab",
        f"""
        configfile: "config/lab.yaml"

        module tripartite:
            snakefile: "{ROOT}/workflow/Snakefile"
            config: config | {{"study": "mini"}}

        use rule * from tripartite as tripartite_*

        rule all:
            default_target: True
            input: rules.tripartite_all.input
        """,
    )
    (folder / "config/lab.yaml").write_text("samples: s.tsv\nthreshold: 3\ndevices: [a, b]\n")
    said = snakemake(folder, "--dry-run").stdout
    assert "results/mini/small/states.nc" in said, said
    (folder / "config/lab.yaml").write_text("device: gpu\n")
    one_line(snakemake(folder, "--dry-run").stdout, "config: device: 'gpu' is unknown", "cuda")


def test_another_home_place_or_branch_has_nothing_to_do(published, tmp_path):  # noqa: F811
    """C07: by a tag, by a branch with later commits, and by the path of a clone that was moved."""
    text = """
        module tripartite:
            snakefile: github("lab-a/tripartite", path="workflow/Snakefile", {ref})
            config: {{"study": "mini"}}

        use rule * from tripartite

        rule everything:
            default_target: True
            input: rules.all.input
        """
    folder = lab(tmp_path / "lab", text.format(ref='tag="v2.0.0"'))
    with_github(folder, published)
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout
    second = tmp_path / "second home"
    second.mkdir()
    shutil.copy(folder / ".home/.gitconfig", second)
    assert NOTHING in snakemake(folder, "--dry-run", HOME=str(second)).stdout
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert NOTHING in snakemake(folder, "--dry-run", **cache).stdout
    (folder / "Snakefile").write_text(
        (lab(tmp_path / "b", text.format(ref='branch="main"')) / "Snakefile").read_text()
    )
    assert NOTHING in snakemake(folder, "--dry-run").stdout
    clone, moved = tmp_path / "clone", tmp_path / "moved clone"
    shutil.copytree(published, clone)
    snakefile = ("-s", str(clone / "Snakefile"), "--config", "study=mini")
    assert NOTHING in snakemake(folder, "--dry-run", *snakefile).stdout
    clone.rename(moved)
    snakefile = ("-s", str(moved / "Snakefile"), "--config", "study=mini")
    assert NOTHING in snakemake(folder, "--dry-run", *snakefile).stdout


# Origins of results.


def test_a_users_file_is_known_by_its_bytes(copy):
    """C33: other bytes rerun everything whatever their date; equal bytes nothing, anywhere."""
    config = ("--config", "study=mine")
    file, settings = copy / "my_model.nc", copy / "config/studies/mine.yaml"
    assert NOTHING in snakemake(copy, "--dry-run", *config).stdout
    for moment in (0, time.time() + 1000):  # older, and newer
        os.utime(file, (moment, moment))
        assert NOTHING in snakemake(copy, "--dry-run", *config).stdout
    (copy / "elsewhere").mkdir()
    file.rename(copy / "elsewhere/ein Modell #1 [*] 模.nc")
    text = settings.read_text()
    settings.write_text(
        text.replace("my_model.nc", json.dumps("elsewhere/ein Modell #1 [*] 模.nc"))
    )
    assert NOTHING in snakemake(copy, "--dry-run", *config).stdout
    settings.write_text(text)
    own_file(file, v=np.ones((2, 1, 2, 6, 4)))
    os.utime(file, (0, 0))
    said = snakemake(copy, "--dry-run", *config).stdout
    assert re.search(r"^generate +1$", said, re.M) and re.search(r"^draw +1$", said, re.M), said
    done = snakemake(copy, "verify", *config)
    assert (
        done.returncode and "mine/qkv.nc: is out of date: the file of the data was " in done.stdout
    )


def test_a_large_file_is_read_once(tmp_path, monkeypatch):
    """Its digest is kept, and computed anew after a write, even if size and date are set back."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "large"
    path.write_bytes(bytes(1 << 20))
    plan.digest(path)
    assert not (
        tmp_path / ".snakemake"
    ).exists()  # it may still be changed within one tick of the clock
    time.sleep(2.1)
    first, status = plan.digest(path), path.stat()
    (kept,) = (tmp_path / ".snakemake/tripartite/digests").iterdir()
    assert kept.read_text() == first == job.file_digest(path)
    time.sleep(0.01)
    path.write_bytes(bytes((1 << 20) - 1) + b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert plan.digest(path) == job.file_digest(path) != first


def test_what_was_made_of_a_file_serves_when_it_is_gone(copy, tmp_path):
    """C01: at home and where the archive is unpacked; with the file in it, all can be made anew."""
    config = ("--config", "study=mine")
    done = snakemake(copy, "export", *config)
    assert done.returncode == 0, done.stdout
    other = tmp_path / "lab-b"
    with zipfile.ZipFile(copy / "results/export/mine.zip") as archive:
        archive.extractall(other)
    assert "study: mine" in (other / "config/config.yaml").read_text()
    assert "9 files are whole" in snakemake(other, "verify").stdout
    shutil.rmtree(other / "results")
    done = snakemake(other)
    assert done.returncode == 0, done.stdout
    for name in ("qkv", "fit"):
        made = [folder / f"results/mine/mine/{name}.nc" for folder in (copy, other)]
        assert made[0].read_bytes() == made[1].read_bytes()
    for folder, file in ((copy, "my_model.nc"), (other, "config/inputs/own/my_model.nc")):
        (folder / file).unlink()
        assert NOTHING in snakemake(folder, "--dry-run", *config).stdout
        assert "9 files are whole" in snakemake(folder, "verify", *config).stdout
        assert "Report created" in snakemake(folder, "--report", "r.html", *config).stdout
        done = snakemake(folder, "results/mine/figures/features_needed.svg", "--force", *config)
        assert done.returncode == 0, done.stdout
        done = snakemake(folder, "--forceall", *config)  # the results are still there
        assert done.returncode and "my_model.nc: cannot be read" in done.stdout
        assert "9 files are whole" in snakemake(folder, "verify", *config).stdout
    done = snakemake(copy, "export", "--force", *config)
    assert "my_model.nc: is not there" in done.stdout


def test_only_what_was_made_of_a_file_stands_for_it(copy):
    """Results of another file or of no file do not replace it: a typo in the name is a fault."""
    settings = copy / "config/studies/mine.yaml"
    text = settings.read_text()
    settings.write_text(text.replace("my_model.nc", "my_modle.nc"))
    said = snakemake(copy, "--dry-run", "--config", "study=mine").stdout
    one_line(said, "experiments.mine.data.file: 'my_modle.nc': there is no such file")
    (copy / "my_model.nc").unlink()
    settings.write_text(text)
    assert NOTHING in snakemake(copy, "--dry-run", "--config", "study=mine").stdout
    shutil.copy(copy / "results/mini/small/qkv.nc", copy / "results/mine/mine/qkv.nc")
    said = snakemake(copy, "--dry-run", "--config", "study=mine").stdout
    one_line(said, "experiments.mine.data.file: 'my_model.nc': there is no such file")


def test_an_archive_is_packed_anew_when_what_it_holds_has_changed(copy):
    """After a user's missing file is there again, and after a text of the project changed."""
    config = ("--config", "study=mine")
    (copy / "my_model.nc").rename(copy / "tape.nc")
    done = snakemake(copy, "export", *config)
    assert done.returncode == 0 and "my_model.nc: is not there" in done.stdout, done.stdout
    assert NOTHING in snakemake(copy, "export", "--dry-run", *config).stdout
    (copy / "tape.nc").rename(copy / "my_model.nc")
    assert re.search(r"^export +1$", snakemake(copy, "export", "--dry-run", *config).stdout, re.M)
    done = snakemake(copy, "export", *config)
    assert done.returncode == 0 and "is not there" not in done.stdout
    (copy / "README.md").write_text("changed")
    assert re.search(r"^export +1$", snakemake(copy, "export", "--dry-run", *config).stdout, re.M)


def test_results_hold_the_name_of_a_users_file_and_never_its_path(copy):
    """C14: in results, report and archive."""
    secret = copy / "secret-project"
    secret.mkdir()
    (copy / "my_model.nc").rename(secret / "my_model.nc")
    settings = copy / "config/studies/mine.yaml"
    settings.write_text(settings.read_text().replace("my_model.nc", str(secret / "my_model.nc")))
    shutil.rmtree(copy / "results")
    config = ("--config", "study=mine")
    for more in ((), ("export",), ("--report", "r.html")):
        done = snakemake(copy, *more, *config)
        assert done.returncode == 0, done.stdout
    made = [path for path in (copy / "results").rglob("*.*") if path.is_file()]
    assert len(made) == 11
    for path in (*made, copy / "r.html"):
        assert b"secret-project" not in path.read_bytes(), path
    with zipfile.ZipFile(copy / "results/export/mine.zip") as archive:
        assert not any(b"secret-project" in archive.read(name) for name in archive.namelist())
        assert "config/inputs/own/my_model.nc" in archive.namelist()


@pytest.mark.parametrize("with_records", [True, False])
def test_stale_results_are_told_whatever_snakemake_knows(copy, with_records):
    """After a change of seed, setting or code, each file says what differs; so does compare."""
    config = ("--config", "study=mini")
    shutil.copytree(copy / "results/mini", copy / "theirs")
    if not with_records:
        shutil.rmtree(copy / ".snakemake")
    for path in copy.rglob("results/mini/*/*"):
        path.touch()
    settings = copy / "config/studies/mini.yaml"
    settings.write_text(settings.read_text() + "seed: 2024\n")
    stage = copy / "workflow/scripts/tripartite/kinds/data/attend.py"
    stage.write_text(stage.read_text() + "# edited\n")
    for target in ("verify", "compare"):
        done = snakemake(copy, target, *config, "other=theirs")
        assert done.returncode and "Traceback" not in done.stdout, done.stdout
        for words in (
            "small/qkv.nc: is out of date: seed was 2023, now 2024",
            "small/states.nc: is out of date: seed was 2023, now 2024",
            "small/attention.nc: is out of date: the code that makes it has changed since",
        ):
            assert f"results/mini/{words}" in done.stdout, done.stdout
        assert "fit.nc: is out of date" not in done.stdout


def test_a_result_of_another_study_in_its_place_is_told(copy):
    """A valid file of another study is detected by its settings or by digests."""
    with_study(copy, MINI | {"seed": 7}, "other")
    done = snakemake(copy, "results/other/small/fit.nc", "--config", "study=other")
    assert done.returncode == 0, done.stdout
    shutil.copy(copy / "results/other/small/fit.nc", copy / "results/mini/small/fit.nc")
    done = snakemake(copy, "verify", "--config", "study=mini")
    assert "fit.nc: was made from another small/states.nc" in done.stdout
    shutil.copy(copy / "results/other/small/states.nc", copy / "results/mini/small/states.nc")
    done = snakemake(copy, "verify", "--config", "study=mini")
    assert "states.nc: is out of date: seed was 7, now 2023" in done.stdout


def test_what_only_looks_needs_no_memory(copy):
    """C31: results made with another limit of memory are verified and compared as they are."""
    shutil.copytree(copy / "results/mini", copy / "theirs")
    config = ("--config", "study=mini", "memory_gb=0.000001")
    one_line(snakemake(copy, "--dry-run", *config).stdout, "memory_gb allows 1e-06")
    for more in (("verify",), ("--report", "r.html"), ("--summary",)):
        done = snakemake(copy, *more, *config)
        assert done.returncode == 0, done.stdout
    done = snakemake(copy, "compare", *config, "other=theirs")
    assert done.returncode == 0, done.stdout


def test_links_and_dates_of_a_shared_project(copy, tmp_path):
    """C33: results and resources are links to a scratch disk, the clone is behind a link."""
    scratch = tmp_path / "scratch"
    (copy / "results").rename(scratch)
    (copy / "results").symlink_to(scratch)
    (tmp_path / "link").symlink_to(copy)
    assert NOTHING in snakemake(tmp_path / "link", "--dry-run", "--config", "study=mini").stdout
    done = snakemake(tmp_path / "link", "--force", STATES, "--config", "study=mini")
    assert done.returncode == 0 and (copy / "results").is_symlink()


# Several runs at once.


def test_what_belongs_to_a_live_job_is_left_alone(tmp_path):
    """By its lock, whatever its process number: of this machine, another one or a container."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    made = {}
    for name, owner in {
        "here": f"{dead.pid}@{platform.node()}",
        "elsewhere": f"{dead.pid}@another",
        "reused": f"1@{platform.node()}",
    }.items():
        for state in ("alive", "dead"):
            made[name, state] = folder = tmp_path / f".{name}-{state}.nc.x.{owner}.tmp"
            folder.mkdir()
            (folder / locks.LOCK).touch()
    handles = [
        locks.lock(folder / locks.LOCK) for (_, state), folder in made.items() if state == "alive"
    ]
    old = time.time() - 2 * locks.GRACE_SECONDS
    for folder in made.values():
        os.utime(folder, (old, old))
    locks.clear([tmp_path])
    assert [key for key, folder in made.items() if folder.exists()] == [
        key for key in made if key[1] == "alive"
    ]
    for handle in handles:
        os.close(handle)
    locks.clear([tmp_path])
    assert not list(tmp_path.iterdir())


def test_a_young_folder_of_another_machine_is_left_alone(tmp_path):
    """A folder that was just made may not be locked yet."""
    folder = tmp_path / ".states.nc.x.1@another.tmp"
    folder.mkdir()
    (folder / locks.LOCK).touch()
    locks.clear([tmp_path])
    assert folder.exists()


def test_parts_of_a_live_job_survive_the_end_of_another(tmp_path):
    """Parts of a running job stay while another run ends; parts of an ended one are deleted."""
    (tmp_path / "learned.nc").touch()
    kept = job.Checkpoint(tmp_path / "learned.nc", {"seed": 1}, "code", {})
    with kept.held():
        kept["4-0"] = {"x": np.zeros(3)}
        old = time.time() - 2 * locks.GRACE_SECONDS
        os.utime(kept.folder, (old, old))
        locks.clear([tmp_path])
        job.Checkpoint(tmp_path / "learned.nc", {"seed": 2}, "code", {}).clear()
        assert list(kept) == ["4-0"]
    os.utime(kept.folder, (old, old))
    locks.clear([tmp_path])
    assert [path.name for path in tmp_path.iterdir()] == ["learned.nc"]


def test_two_users_lock_one_file(tmp_path):
    """In a shared folder: a file is opened as it is, whoever has made it, and never made anew."""
    path = tmp_path / "tripartite-gpu-0.lock"
    mask = os.umask(0o077)
    try:
        handle = locks.lock(path)
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666
    assert locks.lock(path) is None
    os.close(handle)
    path.chmod(0o444)  # like the file of another user, where only its owner may write
    handle = os.open(path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert locks.lock(path) is None
    os.close(handle)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_two_users_lock_one_file_where_the_kernel_protects_it(tmp_path):
    """In a sticky folder that all may write to, with the kernel's protection of regular files."""
    tmp_path.chmod(0o1777)
    for parent in [*tmp_path.parents][:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    code = (
        "import os, sys; os.setuid(int(sys.argv[1])); sys.path.insert(0, sys.argv[2])\n"
        "import pathlib, importlib.util\n"
        "spec = importlib.util.spec_from_file_location('locks', sys.argv[3])\n"
        "locks = importlib.util.module_from_spec(spec); spec.loader.exec_module(locks)\n"
        "handle = locks.lock(pathlib.Path(sys.argv[4])); print(handle is not None, flush=True)\n"
        "sys.stdin.read()\n"
    )
    copied = shutil.copy(locks.__file__, tmp_path / "locks.py")
    os.chmod(copied, 0o644)
    command = [str(tmp_path), str(copied), str(tmp_path / "gpu.lock")]
    python = [os.path.realpath(sys.executable), "-c", code]
    if subprocess.run(
        [*python[:1], "-c", "import os; os.setuid(12345); open(os.__file__)"], capture_output=True
    ).returncode:
        python[0] = "/usr/bin/python3"
    first = subprocess.Popen(
        [*python, "12345", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "True\n"
    second = subprocess.Popen(
        [*python, "12346", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert second.stdout.readline() == "False\n"
    first.communicate("")
    second.communicate("")
    third = subprocess.run(
        [*python, "12346", *command], input="", stdout=subprocess.PIPE, text=True
    )
    assert third.stdout == "True\n"


def test_two_snakemakes_in_one_folder(copy):
    """Two studies at once: both are made, and neither deletes files that the other writes."""
    with_study(copy, MINI | {"seed": 5}, "first")
    with_study(copy, MINI | {"seed": 6}, "second")
    command = [str(Path(sys.executable).parent / "snakemake"), "--cores", "1", "--config"]
    both = [
        subprocess.Popen(
            [*command, f"study={name}"],
            cwd=copy,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("first", "second")
    ]
    for process in both:
        said = process.communicate(timeout=300)[0]
        assert process.returncode == 0, said
    for name in ("first", "second"):
        assert "9 files are whole" in snakemake(copy, "verify", "--config", f"study={name}").stdout


def test_clearing_does_not_mind_what_others_change(tmp_path):
    """Folders may disappear during the walk, because other jobs end."""
    stop = threading.Event()

    def others():
        while not stop.is_set():
            with locks.temporary_folder(tmp_path / "a/b", "states.nc"):
                pass
            shutil.rmtree(tmp_path / "a", ignore_errors=True)

    busy = threading.Thread(target=others)
    busy.start()
    try:
        for _ in range(300):
            locks.clear([tmp_path, tmp_path / "nowhere"])
    finally:
        stop.set()
        busy.join()


# A short log.


def test_a_target_is_told_in_one_line(ran, copy):
    """And a run prints few lines."""
    done = snakemake(copy, "--force", "results/mini/figures/theory.svg", "--config", "study=mini")
    assert done.returncode == 0, done.stdout
    done = snakemake(copy, "--forceall", "--dry-run", "--config", "study=mini")
    (place,) = [
        i
        for i, line in enumerate(done.stdout.splitlines())
        if "Everything of the study mini" in line
    ]
    line, reason = done.stdout.splitlines()[place : place + 2]
    assert line == "Job 0: Everything of the study mini is there." and len(reason) < 60
    assert done.stdout.count("theory.pdf") < 2


def test_a_bad_file_that_a_job_finds_is_told_without_much_around_it(copy):
    q = np.zeros((2, 1, 2, 6, 4))
    q[1, 0, 1, 3, 2] = np.nan
    own_file(copy / "my_model.nc", q=q)
    done = snakemake(copy, "--config", "study=mine")
    assert done.returncode == 1
    lines = done.stdout.split("Collect queries, keys and values of mine.")[1].splitlines()
    assert (
        sum("nan at input input-1, layer 0, head 1, token 3, d_head 2" in line for line in lines)
        == 1
    )
    about = [line for line in lines if line.strip() and not line.startswith("warning: ")]
    assert len(about) < 16, "\n".join(lines)
    assert "CalledProcessError" not in done.stdout and "stage.py" not in done.stdout
    assert "Error in rule generate:" in lines and "    message: see the error above" in lines


def test_a_fault_of_ours_keeps_its_traceback(copy):
    stage = copy / "workflow/scripts/tripartite/kinds/data/attend.py"
    text = stage.read_text()
    assert "    mask = qkv" in text
    stage.write_text(text.replace("    mask = qkv", "    1 / 0\n    mask = qkv", 1))
    done = snakemake(copy, "--config", "study=mini")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stdout
    assert "Error in rule attend" in done.stdout and "stage.py attend" in done.stdout


@pytest.mark.parametrize("n_lines", [1, 30])
def test_an_interrupted_pipe_does_not_hang(copy, n_lines):
    """As after `snakemake ... | head -1`."""
    command = [
        str(Path(sys.executable).parent / "snakemake"),
        "--cores",
        "2",
        "--forceall",
        "--config",
        "study=mini",
    ]
    running = subprocess.Popen(
        command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    for _ in range(n_lines):
        running.stdout.readline()
    running.stdout.close()
    try:
        running.wait(timeout=120)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)


@pytest.mark.parametrize("place", ["results", "logs", "resources"])
def test_a_file_in_the_place_of_a_folder_is_one_line(fresh, place):
    """F5."""
    (fresh / place).write_text("")
    try:
        done = snakemake(fresh, "--config", "study=mini")
    finally:
        (fresh / place).unlink()
    assert done.returncode == 1
    assert one_line(done.stdout, "files cannot be written there") == (
        f"{place}: files cannot be written there; make it a folder that you may write to"
    )


LINES = """
--config study=mini device=gpu | did you mean cuda
--config study=mini device=CUDA | did you mean cuda
--config study= | config: study
--config study=../../etc/passwd | config: study
--config study=mini study2=x | unknown key
--config study=mini memory_gb=lots | config: memory_gb
--config study=mini memory_gb=nan | config: memory_gb
--config study=mini memory_gb=-1 | config: memory_gb
--config study=mini memory_gb=1e999 | config: memory_gb
--config study=mini shards=0 | config: shards
--config study=mini shards=2.5 | config: shards
--config study=mini shards=99999999999999999999 | config: shards
--config study=mini other=7 | 
--config study=[mini] | config: study
--config study=mini about=x | unknown key
--cores 0 --config study=mini | --cores: got 0
results/mini/small --config study=mini | 
results/mini/small/fit.txt --config study=mini | 
results/mini/smal/fit.nc --config study=mini | no experiment smal
results/mini/figures/x.svg --config study=mini | no figure x
results/nowhere/small/fit.nc | 'nowhere' is unknown
results//mini//small/fit.nc | 
./results/mini/small/fit.nc | 
results/../results/mini/small/fit.nc | 
results/mini/small/fit.nc/ | 
results/MINI/small/fit.nc | 'MINI' is unknown
nothing_like_this --config study=mini | 
compare --config study=mini | other: is missing
compare --config study=mini other=/dev/null | 
compare --config study=mini other=nowhere.zip | there is no such archive or folder
--until fit --config study=mini | 
--omit-from fit --config study=mini | 
--forcerun generate --config study=mini | 
--set-threads simulate=0 --config study=mini | 
--set-resources simulate:mem_mb=1 --config study=mini | 
--resources gpu=3 --config study=mini | 
--configfile nowhere.yaml | 
--configfile config/models.txt | 
--directory nowhere/there --config study=quick | 
--batch all=1/2 --config study=mini | 
--rerun-triggers mtime --config study=mini | 
--quiet --config study=mini | 
--nolock --touch --config study=mini | 
"""


def test_odd_command_lines(fresh):
    """Each ends soon, with the right words where they are known, and never with our traceback."""
    for line in filter(None, LINES.splitlines()):
        words, says = line.split(" | ")[0], line.partition(" | ")[2]
        started = time.monotonic()
        said = snakemake(fresh, "--dry-run", *words.split()).stdout
        assert time.monotonic() - started < 60, words  # on a busy machine
        assert says.strip() in said, (words, said)
        ours = "workflow/rules/" in said and "Traceback" in said
        assert not ours and "Error in file" not in said and " in file " not in said, (words, said)


def test_a_name_in_quotes_is_that_name(fresh):
    said = snakemake(fresh, "--dry-run", "--config", 'study="mini"').stdout
    assert STATES in said, said


@pytest.mark.parametrize("target", ["/nowhere/scratch", "elsewhere"])
def test_a_link_to_a_disk_that_is_not_there_is_one_line(fresh, target):
    (fresh / "results").symlink_to(target)
    try:
        done = snakemake(fresh, "--config", "study=mini")
    finally:
        (fresh / "results").unlink()
    assert done.returncode == 1
    one_line(done.stdout, "results: files cannot be written there")


def test_failures_of_a_labs_own_rules_are_told_as_ever(tmp_path):
    """A line of another rule's log that begins with "error: " is not taken for our fault."""
    folder = lab(
        tmp_path / "lab",
        f"""
        module tripartite:
            snakefile: "{ROOT}/workflow/Snakefile"
            config: {{"study": "mini"}}

        use rule * from tripartite as tripartite_*

        rule own:
            output: "own.txt"
            log: "own.log"
            shell: "echo 'error: of the lab' 2>&1 | tee {{log}}; exit 3"
        """,
    )
    done = snakemake(folder, "own.txt")
    assert done.returncode == 1
    assert "Error in rule own" in done.stdout and "exit 3" in done.stdout, done.stdout
