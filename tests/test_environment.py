"""The environment files agree, and the README's commands are the ones that CI and users run."""

import importlib.metadata
import re
import sys
from pathlib import Path

import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement

from tripartite import study


def lock(name="requirements"):
    lines = Path(f"envs/{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_conda_environment_equals_the_lock():
    environment = yaml.safe_load(Path("envs/environment.yaml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert sorted(pip) == sorted(lock())


def test_the_container_holds_the_lock_and_nothing_else():
    """Read as text: building it takes Apptainer and a registry."""
    text = Path("envs/apptainer.def").read_text()
    assert "    envs/requirements.txt /opt/requirements.txt\n" in text
    assert re.findall("pip install.*", text) == [
        "pip install --no-cache-dir -r /opt/requirements.txt"
    ]
    conda = yaml.safe_load(Path("envs/environment.yaml").read_text())["dependencies"]
    assert "python=3.11" in conda and "From: python:3.11-" in text


def test_lock_is_exact_and_installed():
    """Every line is one pinned version, and these versions are installed."""
    for line in lock() + lock("tests"):
        pin, _, marker = line.partition("; ")
        name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", pin).groups()
        if marker and not Marker(marker).evaluate():
            continue
        assert importlib.metadata.version(name).split("+")[0] == version, name


def test_lock_is_complete():
    """All requirements of installed packages of the lock are in the lock."""
    lines = [line.partition("; ")[0] for line in lock() + lock("tests")]
    names = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    for name in sorted(names - {"torch"}):  # torch brings CUDA libraries on other machines
        for needed in importlib.metadata.requires(name) or []:
            requirement = Requirement(needed)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted = requirement.name.lower().replace("_", "-").replace(".", "-")
                assert wanted in names | {"setuptools", "pip"}, f"{name} needs {needed}"


def test_torch_and_snakemake_pins():
    assert "torch==2.13.0" in lock()
    assert any(re.fullmatch(r"snakemake==9\.27\.\d+", line) for line in lock())


def test_the_cpu_build_is_of_the_same_torch():
    """The lock, installed afterwards, keeps it: 2.13.0+cpu is a version 2.13.0."""
    page = Path("docs/running.md").read_text()
    (pin,) = re.findall(r"pip install (torch==\S+) --index-url", page)
    assert pin in lock()
    assert Requirement(pin).specifier.contains(f"{pin.split('==')[1]}+cpu")


def test_the_pythons_are_named_alike():
    """The pages, the lock and the check name the same versions of Python."""
    first, last = (".".join(map(str, version)) for version in study.PYTHONS)
    pages = ("README.md", "docs/running.md", "docs/tutorial.md", "docs/troubleshooting.md")
    for file in (*pages, "envs/requirements.txt"):
        assert f"Python {first} to {last}" in Path(file).read_text()
    assert study.PYTHONS[0] <= sys.version_info[:2] <= study.PYTHONS[1]


def test_the_slurm_profile_keeps_clear_of_the_plugins_defects():
    """Without accounting, other status commands hang, and job arrays lose valid files."""
    profile = yaml.safe_load(Path("workflow/profiles/slurm/profile.yaml").read_text())
    assert profile["executor"] == "slurm" and profile["slurm-status-command"] == "squeue"
    assert profile["slurm-status-attempts"] >= 100 and profile["retries"] >= 1
    assert not {"slurm-array-jobs", "rerun-incomplete"} & profile.keys()
    assert profile["default-resources"].keys() == {"mem_mb", "runtime"}


def test_ci_runs_the_readmes_command():
    readme = Path("README.md").read_text()
    commands = re.findall(r"^python3 -m venv .*$", readme, re.M)
    assert len(commands) == 2
    assert all("-r envs/requirements.txt" in command for command in commands)
    assert "snakemake --cores 2" in commands[0] and commands[1].endswith("pytest")
    assert "-r envs/tests.txt" in commands[1] and "tests.txt" not in commands[0]
