"""The door to files: complete or absent, verified at every read, and free of what is private."""

import getpass
import json
import platform
import re
import shutil
import socket
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.layout_engine import ConstrainedLayoutEngine

import stage
from conftest import ROOT, run_simulate
from test_contracts import qkv
from test_learn_stage import SETTINGS, with_gaps
from tripartite import job, learning, locks
from tripartite.about import about
from tripartite.contracts import UserError
from tripartite.figures import palette
from tripartite.kinds.data.attend import attend

ATTRS = {"data": "test", "stage": "generate", "settings": {"a": 1}, "device": "cpu"}


def saved(tmp_path):
    path = tmp_path / "qkv.nc"
    job.save(qkv(), path, ATTRS)
    return path


def test_round_trip(tmp_path):
    path = saved(tmp_path)
    again = job.load(path)
    np.testing.assert_array_equal(again["q"].values, qkv()["q"].values)
    assert again["mask"].dtype == bool
    assert json.loads(again.attrs["settings"]) == {"a": 1}
    assert again["q"].attrs["units"] == "1" and again["q"].attrs["long_name"]
    assert [file.name for file in tmp_path.iterdir()] == ["qkv.nc"]


def test_same_data_same_bytes(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    assert saved(tmp_path / "a").read_bytes() == saved(tmp_path / "b").read_bytes()


def test_attributes_say_how_it_was_made_and_nothing_private(tmp_path):
    header = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, netCDF4; print(netCDF4.Dataset(sys.argv[1]))",
            saved(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for attribute in ("schema_version", "content_digest", "versions", "references", "device"):
        assert attribute in header
    for private in (str(tmp_path), socket.gethostname()):
        assert private not in header
    assert f"/{getpass.getuser()}" not in header


# Where and with what it was made.


def python(code: str, *arguments, **environment) -> str:
    """What a Python of its own prints, with our package on its path as in a job."""
    plain = {"PATH": "/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1"} | environment
    start = f"import sys; sys.path.insert(0, {str(ROOT / 'workflow/scripts')!r}); "
    said = subprocess.run(
        [sys.executable, "-c", start + code, *map(str, arguments)],
        env=plain,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


PROCESSOR = "from tripartite import job; print(job.processor(), 'torch' in sys.modules)"
LESS = {
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL "
    "AVX512_SPR"
}
LEAST = {"NPY_DISABLE_CPU_FEATURES": f"{LESS['NPY_DISABLE_CPU_FEATURES']} AVX2 AVX FMA3 F16C"}


def test_the_processor_is_named_without_torch():
    assert re.fullmatch(r"(x86_64|aarch64|ppc64le|s390x|riscv64) [A-Z0-9]+", job.processor())
    assert python(PROCESSOR).split() == [*job.processor().split(), "False"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="takes instructions of x86_64 away")
def test_another_processor_has_another_name():
    assert python(PROCESSOR, **LESS).startswith("x86_64 AVX2 ")
    assert python(PROCESSOR, **LEAST).startswith("x86_64 SSE2 ")


@pytest.mark.parametrize(
    ("machine", "baseline", "found", "name"),
    [
        ("x86_64", ["SSE", "SSE2", "SSE3"], ["SSSE3", "AVX", "AVX2", "AVX512F"], "x86_64 AVX2"),
        ("x86_64", ["SSE", "SSE2"], ["AVX2", "AVX512F", "AVX512_SKX"], "x86_64 AVX512"),
        ("AMD64", ["SSE", "SSE2", "SSE3"], ["AVX"], "x86_64 AVX"),
        ("arm64", ["NEON", "NEON_FP16", "NEON_VFPV4", "ASIMD"], ["ASIMDHP"], "aarch64 NEON"),
        ("aarch64", ["NEON", "ASIMD"], ["ASIMDHP", "SVE"], "aarch64 SVE"),
        ("ppc64le", ["VSX", "VSX2"], ["VSX3"], "ppc64le VSX3"),
        ("loongarch64", [], [], "loongarch64"),
    ],
)
def test_names_of_processors(machine, baseline, found, name, monkeypatch):
    """macOS and Linux name one architecture differently; vendors have many sets of instructions."""
    features = {"SIMD Extensions": {"baseline": baseline, "found": found}}
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(np, "show_config", lambda mode: features)
    assert job.processor() == name


def test_the_same_values_of_another_processor_are_the_same_content(tmp_path, monkeypatch):
    """So that what was made of them stays as it is; any other attribute is of the content."""
    here = job.load(saved(tmp_path)).attrs
    monkeypatch.setattr(job, "processor", lambda: "aarch64 NEON")
    there = job.load(saved(tmp_path)).attrs
    assert there["processor"] == "aarch64 NEON" != here["processor"]
    differ = {name for name in here if here[name] != there[name]}
    assert differ == {"processor"}


def test_a_file_names_all_processors_of_its_parts(tmp_path):
    job.save(qkv(), tmp_path / "qkv.nc", ATTRS | {"processor": job.joined(["b 2, a 1", "b 2"])})
    assert job.load(tmp_path / "qkv.nc").attrs["processor"] == "a 1, b 2"


def test_a_job_that_goes_on_elsewhere_names_both_processors(tmp_path, monkeypatch):
    settings = SETTINGS | {"n_features": [6], "trained_on": ["draw-0"]}
    data = with_gaps(3)
    for name, dataset in (("qkv", data), ("attention", attend(data))):
        job.save(dataset, tmp_path / f"{name}.nc", ATTRS | {"upstream": {}})
    inputs = [tmp_path / "qkv.nc", tmp_path / "attention.nc"]
    output = tmp_path / "learned.nc"
    own = learning.train

    def learned(**more) -> dict:
        stage.run("learn", inputs, [output], settings | more, "code", "cpu", 1, "")
        return job.load(output).attrs

    def cut_off(*given, **settings):  # in the second training, on another machine
        if list(tmp_path.glob(".learned*/*.safetensors")):
            raise KeyboardInterrupt
        return own(*given, **settings)

    monkeypatch.setattr(job, "processor", lambda: "aarch64 SVE")
    monkeypatch.setattr(learning, "train", cut_off)
    with pytest.raises(KeyboardInterrupt):
        learned()
    monkeypatch.setattr(learning, "train", own)
    monkeypatch.setattr(job, "processor", lambda: "x86_64 AVX2")
    assert learned()["processor"] == "aarch64 SVE, x86_64 AVX2"
    output.unlink()
    assert learned()["processor"] == "x86_64 AVX2"
    monkeypatch.setattr(job, "processor", lambda: "x86_64 AVX512")
    assert learned(n_seeds=3)["processor"] == "x86_64 AVX2, x86_64 AVX512"  # two are taken over


def test_shards_of_several_processors(tmp_path, monkeypatch):
    """The whole names those that computed, and not the one that put it together."""
    data, parts = qkv(), []
    for place, processor in enumerate(("x86_64 AVX512", "x86_64 AVX2")):
        monkeypatch.setattr(job, "processor", lambda processor=processor: processor)
        parts.append(tmp_path / f"shards/{place}/states.nc")
        upstream = {"upstream": {}, "upstream_settings": {}, "code_digest": "", "experiment": "a"}
        part = run_simulate(data, heads=[[0, place]], n_features=[3], n_seeds=2)
        job.save(part, parts[-1], ATTRS | upstream)
    monkeypatch.setattr(job, "processor", lambda: "aarch64 NEON")
    stage.put_together(parts, tmp_path / "states.nc")
    assert job.load(tmp_path / "states.nc").attrs["processor"] == "x86_64 AVX2, x86_64 AVX512"


def test_the_report_names_every_device_with_its_processor(tmp_path):
    for place, processor in enumerate(("x86_64 AVX512", "x86_64 AVX2", "x86_64 AVX2")):
        made = {"processor": processor, "device": "cuda" if place == 2 else "cpu"}
        job.save(qkv(), tmp_path / f"results/{place}/qkv.nc", ATTRS | made)
    asked = {f"{place}/qkv.nc": {"settings": {"a": 1}, "code": ""} for place in range(3)}
    said = about(tmp_path / "results", asked, tmp_path / "logs", {"experiments": {}}, "", {})
    wanted = "cpu (x86_64 AVX2) and cpu (x86_64 AVX512) and cuda (x86_64 AVX2)"
    assert f"**Computed on** {wanted}; code and data" in said


def fake(folder, name, version, module=None):
    """A distribution as its metadata on the path, and perhaps with its module."""
    (folder / f"{name}-{version}.dist-info").mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / f"{name}-{version}.dist-info/METADATA").write_text(metadata)
    if module is not None:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(module)


VERSIONS = """
import json
from tripartite import job
before = job.versions()
import scipy, netCDF4, xarray
loaded = [name for name in ("torch", "matplotlib") if name in sys.modules]
print(json.dumps([before, job.versions(), loaded]))
"""


def test_versions_are_of_what_is_imported_and_not_of_metadata_elsewhere(tmp_path):
    """A cluster's PYTHONPATH holds metadata of other numpys, and another package of our name."""
    for name in ("numpy", "xarray", "netCDF4", "torch", "matplotlib"):
        fake(tmp_path, name, "1.0.4")
    (tmp_path / "tripartite").mkdir()
    (tmp_path / "tripartite/__init__.py").write_text("__version__ = '0.0.1'")
    before, after, loaded = json.loads(python(VERSIONS, PYTHONPATH=str(tmp_path)))
    assert before == after == job.versions()
    assert before["numpy"] == np.__version__ and before["torch"] == torch.__version__.split("+")[0]
    assert loaded == []  # nothing heavy is imported to be asked


def test_versions_are_of_the_package_that_would_be_imported(tmp_path):
    """Another torch before the environment's own is the one that a stage imports.

    So is a package without metadata.
    """
    fake(tmp_path, "torch", "2.0.1+cpu", module="raise SystemExit('imported')")
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib/__init__.py").write_text("raise SystemExit('imported')")
    before, _, _ = json.loads(python(VERSIONS, PYTHONPATH=str(tmp_path)))
    assert before["torch"] == "2.0.1" and before["matplotlib"] == "unknown"
    assert before["numpy"] == np.__version__


def test_two_versions_side_by_side_are_both_named(tmp_path, monkeypatch):
    """As an upgrade leaves them that was cut off."""
    fake(tmp_path, "half", "2.0", module="")
    fake(tmp_path, "half", "1.9")
    monkeypatch.syspath_prepend(tmp_path)
    assert job.installed_version("half") == "1.9 or 2.0"
    assert job.installed_version("never_heard_of") == "not installed"


def test_the_photograph_is_that_of_the_matplotlib_that_is_imported(tmp_path):
    fake(tmp_path, "matplotlib", "1.5.0")
    code = "from tripartite.pretrained.extraction import contents; "
    code += "print(len(contents('vit', ['hopper'], {}, {})['hopper']))"
    assert int(python(code, PYTHONPATH=str(tmp_path))) > 50_000


def test_every_edit_is_seen(tmp_path):
    """A well-formed change of one value or one attribute, which no checksum of blocks notices."""
    path = saved(tmp_path)
    with netCDF4.Dataset(path, "a") as file:
        file["q"][0, 0, 0, 0, 0] += 1
    with pytest.raises(UserError, match="content differs from its digest"):
        job.load(path)
    path = saved(tmp_path)
    with netCDF4.Dataset(path, "a") as file:
        file.settings = '{"a": 2}'
    with pytest.raises(UserError, match="content differs from its digest"):
        job.load(path)


FLIP = """
import os
import numpy as np
from pathlib import Path
from tripartite import job
path, good = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes()
wanted, rng, codes = job.load(path)["q"].values, np.random.default_rng(0), []
for position in rng.integers(0, len(good), 60):
    bad = bytearray(good)
    bad[position] ^= 1 << int(rng.integers(8))
    path.write_bytes(bad)
    child = os.fork()
    if not child:
        try:
            os._exit(0 if np.array_equal(job.load(path)["q"].values, wanted) else 2)
        except job.UserError:
            os._exit(1)
    codes.append(os.waitpid(child, 0)[1] >> 8)
print(*codes)
"""


def test_flipped_bits_are_seen(tmp_path):
    """No flip of one bit gives a silently wrong value: it is refused or changes nothing.

    Each is read by a process of its own, because the HDF5 library may crash after it has read a
    damaged file.
    """
    path = tmp_path / "qkv.nc"
    job.save(qkv(n_tokens=300), path, ATTRS)
    codes = python(FLIP, path).split()
    assert set(codes) == {"0", "1"} and codes.count("1") > 30


def test_truncated_file(tmp_path):
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="qkv.nc: not a readable netCDF-4 file"):
        job.load(path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = saved(tmp_path)
    good = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        with job.replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt
    assert path.read_bytes() == good
    assert [file.name for file in tmp_path.iterdir()] == ["qkv.nc"]


def test_full_disk_is_said(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="disk full: 0 MB free, up to 5 MB needed"):
        with job.replacing(tmp_path / "states.nc", 5_000_000):
            raise OSError("HDF error")


def test_rounding_errors_of_the_layout_change_no_byte_of_a_figure(tmp_path):
    class Trembling(ConstrainedLayoutEngine):
        def execute(self, figure):
            super().execute(figure)
            for at in [
                *(axis.get_position(original=True) for axis in figure.axes),
                *(part.bbox_relative for part in figure.subfigs),
            ]:
                at.set_points(at.get_points() + rng.normal(scale=1e-14, size=(2, 2)))

    rng = np.random.default_rng(0)
    palette.apply()
    for run in "abc":
        figure = plt.figure(layout=Trembling())
        for part in figure.subfigures(2, 1):
            for axis in part.subplots(1, 3):
                axis.plot([0, 1, 3])
        paths = [tmp_path / f"{run}.{suffix}" for suffix in ("svg", "pdf", "png")]
        job.save_figure(figure, paths, {})
        plt.close(figure)
    for suffix in ("svg", "pdf", "png"):
        assert len({(tmp_path / f"{run}.{suffix}").read_bytes() for run in "abc"}) == 1


def test_breach_before_anything_is_written(tmp_path):
    bad = qkv()
    bad["q"] = bad["q"].astype("float64")
    with pytest.raises(UserError, match="q: got float64, wanted float32"):
        job.save(bad, tmp_path / "qkv.nc", ATTRS)
    assert not list(tmp_path.iterdir())


def test_wheels_are_compared_with_their_pin(tmp_path):
    path = tmp_path / "some-1.0.whl"
    with pytest.raises(UserError, match="some-1.0.whl: cannot be read"):
        job.open_wheel(path, "0" * 64)
    path.write_bytes(b"truncated")
    with pytest.raises(UserError, match="truncated or changed.*delete it and run again"):
        job.open_wheel(path, "0" * 64)


HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tripartite import job, locks
locks.SHARED = Path(sys.argv[2])
with job.card_lock(["0", "1"]) as card:
    print(card, flush=True)
    sys.stdin.read()
"""


def test_jobs_of_several_processes_have_a_card_each(tmp_path):
    """Two cards, two jobs of different processes; a third waits, one that dies frees its card."""
    environment = {"PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", HOLD, str(ROOT / "workflow/scripts"), str(tmp_path)]

    def start():
        return subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    first, second = start(), start()
    assert {first.stdout.readline(), second.stdout.readline()} == {"0\n", "1\n"}
    third = start()
    assert third.stdout.readline() == "waiting for a free GPU: other jobs hold all of them\n"
    second.kill()  # as when a job is killed
    second.communicate()
    assert third.stdout.readline() in ("0\n", "1\n")
    for process in (first, third):
        process.communicate("")
        assert process.returncode == 0


def test_a_card_given_by_a_scheduler_is_respected(tmp_path, monkeypatch):
    """Cards are called by what CUDA_VISIBLE_DEVICES holds, and locked under that name."""
    monkeypatch.setattr(locks, "SHARED", tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with job.device("auto") as name:
        assert name == "cuda:0"
        assert [path.name for path in tmp_path.iterdir()] == ["tripartite-gpu-3.lock"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with job.device("cuda") as one, job.device("cuda") as other:
        assert {one, other} == {"cuda:0", "cuda:1"}
    with job.device("cpu") as name:
        assert name == "cpu"


def test_in_a_job_of_slurm_there_are_only_the_cards_it_gave(tmp_path, monkeypatch):
    """Locks are its own: another job's first card, on the same machine, may be called 0 as well."""
    monkeypatch.setattr(locks, "SHARED", tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with job.device("cuda") as one:
        monkeypatch.setenv("SLURM_JOB_ID", "18")
        with job.device("cuda") as other:
            assert (one, other) == ("cuda:0", "cuda:0")
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with job.device("auto") as name:
        assert name == "cpu"
    with pytest.raises(UserError, match="torch finds no GPU"), job.device("cuda"):
        pass


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with job.device("auto") as name:
        assert name == "cpu"
    with pytest.raises(UserError, match="device: cuda, but torch finds no GPU"), job.device("cuda"):
        pass


FULL = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8.00 GiB of "
    "which 1.25 GiB is free. Including non-PyTorch memory, this process has 6.00 GiB memory in use"
)
NO_MEMORY = "[enforce fail at a.cpp:1] . DefaultCPUAllocator: can't allocate memory: 40 bytes."
MIXED = "Expected all tensors to be on the same device, but found cuda:0 and cpu!\nmore"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.AcceleratorError("CUDA error: unspecified launch failure\nmore"),
            ["the GPU failed (CUDA error: unspecified launch failure); nothing", "device=cpu"],
        ),
        (RuntimeError("CUDA driver error: no device\nmore"), ["the GPU failed (CUDA driver"]),
        (
            torch.OutOfMemoryError(FULL),
            ["memory of the GPU is too small", "2.50 GiB", "1.25 GiB is free); nothing", "inputs"],
        ),
        (RuntimeError(NO_MEMORY), ["machine is too small (DefaultCPUAllocator: can't", "--cores"]),
        (RuntimeError(MIXED), ["a fault of this code (Expected", "device=cpu"]),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), []),
    ],
)
def test_faults_of_devices_end_in_one_line(error, words, monkeypatch, capsys, tmp_path):
    """Nothing is written, the line says what to do; a fault of ours keeps its traceback."""

    def failing(**_):
        raise error

    monkeypatch.setattr(stage, "run", failing)
    monkeypatch.setattr(sys, "argv", ["stage.py", "simulate", "--output", str(tmp_path / "x.nc")])
    if not words:
        with pytest.raises(RuntimeError, match="shapes"):
            stage.main()
        return
    assert stage.main() == 1
    *before, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and all(word in line for word in words)
    assert bool(before) == (str(error) == MIXED) and "failing" in "".join(before or ["failing"])
    assert not list(tmp_path.iterdir())


def test_the_log_says_which_device_computes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: f"Model of {name}")
    assert job.device_words("cpu") == "the CPU"
    assert job.device_words("cuda:1") == "the GPU cuda:1 (Model of cuda:1)"


def test_finished_parts_are_found_again(tmp_path):
    """By the same job alone; a damaged part counts as missing; a whole output leaves nothing."""
    output = tmp_path / "learned.nc"
    kept = job.Checkpoint(output, {"steps": 3}, "code")
    kept["16-0"] = {"x": np.arange(3.0), "note": np.array(["", "diverged"])}
    again = job.Checkpoint(output, {"steps": 3}, "code")
    assert list(again) == ["16-0"] and len(again) == 1
    np.testing.assert_array_equal(again["16-0"]["x"], np.arange(3.0))
    assert again["16-0"]["note"].tolist() == ["", "diverged"]
    other = job.Checkpoint(output, {"steps": 4}, "code")
    assert "16-0" not in other and len(other) == 0
    (file,) = tmp_path.rglob("*.safetensors")
    for size in (0, 20, file.stat().st_size - 5):
        file.write_bytes(file.read_bytes()[:size])
        assert "16-0" not in again
    other["16-1"] = {"x": np.zeros(2)}
    kept.clear()
    assert not list(tmp_path.iterdir())
