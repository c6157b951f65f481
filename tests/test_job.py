"""The door to files: complete or absent, verified at every read, and free of what is private."""

import getpass
import json
import shutil
import socket
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
import stage
import torch
from conftest import ROOT
from matplotlib import pyplot as plt
from matplotlib.layout_engine import ConstrainedLayoutEngine
from test_contracts import qkv

from tripartite import job, locks
from tripartite.contracts import Breach
from tripartite.figures import palette

ATTRS = {"source": "test", "stage": "generate", "settings": {"a": 1}, "device": "cpu"}


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
        [sys.executable, "-c", "import sys, netCDF4; print(netCDF4.Dataset(sys.argv[1]))", saved(tmp_path)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for attribute in ("schema_version", "content_digest", "versions", "references", "device"):
        assert attribute in header
    for private in (str(tmp_path), socket.gethostname()):
        assert private not in header
    assert f"/{getpass.getuser()}" not in header


def test_every_edit_is_seen(tmp_path):
    """A well-formed change of one value or one attribute, which no checksum of blocks notices."""
    path = saved(tmp_path)
    with netCDF4.Dataset(path, "a") as file:
        file["q"][0, 0, 0, 0, 0] += 1
    with pytest.raises(Breach, match="content differs from its digest"):
        job.load(path)
    path = saved(tmp_path)
    with netCDF4.Dataset(path, "a") as file:
        file.settings = '{"a": 2}'
    with pytest.raises(Breach, match="content differs from its digest"):
        job.load(path)


def test_flipped_bits_are_seen(tmp_path):
    """No flip of one bit gives a silently wrong value: it is refused or changes nothing."""
    path, data = tmp_path / "qkv.nc", qkv(n_tokens=300)
    job.save(data, path, ATTRS)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(0, len(good), 60):
        bad = bytearray(good)
        bad[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        try:
            again = job.load(path)
        except Breach:
            refused += 1
        else:
            np.testing.assert_array_equal(again["q"].values, data["q"].values)
    assert refused > 30


def test_truncated_file(tmp_path):
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(Breach, match="qkv.nc: not a readable netCDF-4 file"):
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
    with pytest.raises(Breach, match="disk full: 0 MB free, up to 5 MB needed"):
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
    with pytest.raises(Breach, match="q: got float64, wanted float32"):
        job.save(bad, tmp_path / "qkv.nc", ATTRS)
    assert not list(tmp_path.iterdir())


def test_wheels_are_compared_with_their_pin(tmp_path):
    path = tmp_path / "some-1.0.whl"
    with pytest.raises(Breach, match="some-1.0.whl: cannot be read"):
        job.open_wheel(path, "0" * 64)
    path.write_bytes(b"truncated")
    with pytest.raises(Breach, match="truncated or changed.*delete it and run again"):
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
    """Two cards, two jobs of different Snakemake processes; a third waits, and one that dies frees its card."""
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
    with pytest.raises(Breach, match="torch finds no GPU"), job.device("cuda"):
        pass


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with job.device("auto") as name:
        assert name == "cpu"
    with pytest.raises(Breach, match="device: cuda, but torch finds no GPU"), job.device("cuda"):
        pass


@pytest.mark.parametrize(
    ("message", "is_the_gpu"),
    [
        ("CUDA error: unspecified launch failure\nmore", True),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_a_lost_gpu_is_one_line(message, is_the_gpu, monkeypatch, capsys, tmp_path):
    """Nothing is written, the line says what to do; a fault of ours keeps its traceback."""

    def lost(*arguments):
        raise RuntimeError(message)

    monkeypatch.setattr(stage, "run", lost)
    monkeypatch.setattr(sys, "argv", ["stage.py", "simulate", "--output", str(tmp_path / "x.nc")])
    if not is_the_gpu:
        with pytest.raises(RuntimeError, match="shapes"):
            stage.main()
        return
    assert stage.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(
        f"error: the GPU failed ({message.splitlines()[0]}); nothing of this job"
    )
    assert said.count("\n") == 1 and "Run the same command again" in said
    assert not list(tmp_path.iterdir())


def test_finished_parts_are_found_again(tmp_path):
    """By the same job alone; a damaged part counts as missing; nothing is left when the output is whole."""
    output = tmp_path / "learned.nc"
    kept = job.Kept(output, {"steps": 3}, "code")
    kept["16-0"] = {"x": np.arange(3.0), "note": np.array(["", "diverged"])}
    again = job.Kept(output, {"steps": 3}, "code")
    assert list(again) == ["16-0"] and len(again) == 1
    np.testing.assert_array_equal(again["16-0"]["x"], np.arange(3.0))
    assert again["16-0"]["note"].tolist() == ["", "diverged"]
    other = job.Kept(output, {"steps": 4}, "code")
    assert "16-0" not in other and len(other) == 0
    (file,) = tmp_path.rglob("*.npz")
    for size in (0, 20, file.stat().st_size - 5):
        file.write_bytes(file.read_bytes()[:size])
        assert "16-0" not in again
    other["16-1"] = {"x": np.zeros(2)}
    kept.clear()
    assert not list(tmp_path.iterdir())
