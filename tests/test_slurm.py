"""The workflow on Slurm, on two nodes: the same bytes, after cancelled jobs and lost nodes too."""

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from conftest import ROOT, project
from pages import block
from test_environment import lock
from test_workflow import results, with_study

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("apt-get"),
        reason="a private Slurm is installed and started as root, with apt-get",
    ),
]

ONE = {
    "experiments": {
        "small": {
            "data": {
                "synthetic": {"sigma_squared": [0.5], "n_inputs": 1, "n_tokens": 8, "d_head": 4}
            },
            "network": {"n_features": [10, 100], "n_seeds": 3},
        }
    },
    "figures": {"features_needed": {"experiments": ["small"]}},
}
SMALL = "results/one/small"
# No run may take longer. The plugin looks at a job after 1, 12, 33 and 64 s, so that a chain of
# seven jobs on a busy machine can take 200 s.
SECONDS = 400


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The packages of envs/slurm.txt, in a folder of their own."""
    folder = tmp_path_factory.mktemp("plugin")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--target",
            folder,
            "-r",
            ROOT / "envs/slurm.txt",
        ],
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def cluster(plugin, tmp_path_factory):
    """The environment of a shell on the cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    script = ROOT / "tests/slurm.sh"
    try:
        subprocess.run(["timeout", "-s", "KILL", "300", script, "up", folder], check=True)
        yield {
            "PATH": f"{folder}/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(tmp_path_factory.mktemp("home")),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(plugin),
            "SLURM_CONF": str(folder / "slurm.conf"),
            "CUDA_VISIBLE_DEVICES": "",  # as on a login node
        }
    finally:
        subprocess.run(["timeout", "-s", "KILL", "60", script, "down", folder], check=True)


@pytest.fixture(scope="module")
def here(cluster, tmp_path_factory):
    """The study, run on this machine."""
    folder = with_study(project(tmp_path_factory.mktemp("here") / "project"), ONE, "one")
    code, said = finish(start(folder, cluster, "--cores", "2", profile=None), folder)
    assert code == 0, said
    return folder


@pytest.fixture
def copy(here, tmp_path):
    """A copy of the finished study, to take files from."""
    return shutil.copytree(here, tmp_path / "a copy")


def start(folder, cluster, *arguments, profile="workflow/profiles/slurm", **config):
    """Start Snakemake, by default with the profile, but with more frequent looks at the queue."""
    profiled = ["--profile", profile, "--slurm-init-seconds-before-status-checks", "1"]
    with open(folder / "said", "w") as said:
        return subprocess.Popen(
            [
                Path(sys.executable).parent / "snakemake",
                *(profiled if profile else []),
                *arguments,
                "--config",
                "study=one",
                *(f"{key}={value}" for key, value in config.items()),
            ],
            cwd=folder,
            env=cluster,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process, folder):
    """Wait for Snakemake, with a limit; returns its exit code and output."""
    try:
        process.wait(SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, (folder / "said").read_text()


def queue(cluster, format, folder, states="all"):
    """A line for each job of a folder, in the order of submission."""
    said = subprocess.run(
        ["squeue", "--noheader", "--sort=i", "--states", states, "--format", f"%Z|{format}"],
        env=cluster,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        timeout=30,
    ).stdout
    return [line.split("|", 1)[1] for line in said.splitlines() if line.startswith(f"{folder}|")]


def wait_for(found):
    """Wait until `found()` returns something, and return it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if there := found():
            return there
        time.sleep(0.1)
    raise TimeoutError


def running(cluster, folder):
    """Wait for the first running job of a folder; returns its id and its node."""
    job, node = wait_for(lambda: queue(cluster, "%i %N", folder, "running"))[0].split()
    return job, node


def test_the_plugin_finds_what_it_needs_in_the_lock(plugin):
    """All but numpy, of which its report wants a later version; the report is not used."""
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lock())
    own = {each.name: each for each in importlib.metadata.distributions(path=[str(plugin)])}
    for each in own.values():
        for needed in map(Requirement, each.requires):
            name = needed.name.lower()
            version = own[name].version if name in own else pinned[name]
            assert name == "numpy" or needed.specifier.contains(version), needed


def test_the_cluster_gives_the_same_bytes(here, cluster, tmp_path):
    """Every job runs in Slurm, with its memory and time, and none asks for a GPU; with shards."""
    folder = with_study(project(tmp_path / "project"), ONE, "one")
    code, said = finish(start(folder, cluster, shards=2), folder)
    assert code == 0, said
    assert results(folder) == results(here)
    done = queue(cluster, "%k %T %m %l %b", folder)
    assert [*done[:2], *sorted(done[2:4]), *done[4:]] == [  # shards are joined
        "rule_generate_wildcards_one_small COMPLETED 2000M 30:00 N/A",
        "rule_attend_wildcards_one_small COMPLETED 2000M 30:00 N/A",
        "rule_simulate_shard_wildcards_one_small_2_1 COMPLETED 2000M 2:00:00 N/A",
        "rule_simulate_shard_wildcards_one_small_2_2 COMPLETED 2000M 2:00:00 N/A",
        "rule_gather_wildcards_one_small_2 COMPLETED 2000M 30:00 N/A",
        "rule_simulate_wildcards_one_small COMPLETED 2000M 2:00:00 N/A",
        "rule_fit_wildcards_one_small COMPLETED 2000M 2:00:00 N/A",
        "rule_draw_wildcards_one_features_needed COMPLETED 2000M 30:00 N/A",
    ]


def test_a_cancelled_job_is_retried(here, cluster, copy):
    (copy / SMALL / "qkv.nc").unlink()
    run = start(copy, cluster, f"{SMALL}/qkv.nc")
    job, _ = running(cluster, copy)
    subprocess.run(["scancel", job], env=cluster, check=True)
    code, said = finish(run, copy)
    assert code == 0, said
    assert queue(cluster, "%T", copy) == ["CANCELLED", "COMPLETED"]
    assert results(copy) == results(here)


def test_the_jobs_of_a_lost_node_run_on_the_other(here, cluster, copy):
    (copy / SMALL / "qkv.nc").unlink()
    run = start(copy, cluster, f"{SMALL}/qkv.nc")
    _, node = running(cluster, copy)
    state = Path(cluster["SLURM_CONF"]).parent
    time.sleep(1)  # the job has begun
    try:
        subprocess.run([ROOT / "tests/slurm.sh", "crash", state, node], check=True, timeout=30)
        code, said = finish(run, copy)
    finally:
        subprocess.run([ROOT / "tests/slurm.sh", "node", state, node], check=True, timeout=30)
    assert code == 0, said
    (other,) = {"n1", "n2"} - {node}
    assert queue(cluster, "%N %T", copy) == [f"{node} NODE_FAIL", f"{other} COMPLETED"]
    assert results(copy) == results(here)


def test_too_little_memory_is_doubled(here, cluster, copy):
    (copy / SMALL / "states.nc").unlink()
    planner = copy / "workflow/scripts/tripartite/snakefile.py"
    text = planner.read_text().replace("MIN_MB = 2000", "MIN_MB = 300")
    planner.write_text(text.replace("BASE_MB = 1000", "BASE_MB = 0"))
    code, said = finish(start(copy, cluster, f"{SMALL}/states.nc", "--retries", "4"), copy)
    assert code == 0, said
    *killed, last = queue(cluster, "%m %T", copy)
    assert killed == [f"{300 * 2**n}M FAILED" for n in range(len(killed))] and killed
    assert last == f"{300 * 2 ** len(killed)}M COMPLETED"
    assert results(copy) == results(here)


def test_cuda_asks_for_a_gpu_that_is_not_seen_from_here(cluster, copy):
    """The GPU is checked in the job, as the scheduler provides it there."""
    for name in ("states.nc", "fit.nc"):
        (copy / SMALL / name).unlink()
    shutil.rmtree(copy / "logs")
    target = f"{SMALL}/states.nc"
    run = start(copy, cluster, target, device="cuda")
    try:
        job, _ = running(cluster, copy)
        wait_for(lambda: queue(cluster, "%i", copy, "completed,failed"))
    finally:
        run.kill()  # its next look at the queue would be much later
        run.wait()
    told = subprocess.run(
        ["scontrol", "show", "job", job], env=cluster, text=True, stdout=subprocess.PIPE, timeout=30
    ).stdout
    assert "TresPerJob=gres:gpu:1" in told
    log = (copy / "logs/one/small/simulate.log").read_text()
    assert (copy / target).exists() or "torch finds no GPU" in log, log


def test_the_page_resumes_after_a_killed_snakemake(here, cluster, copy):
    """Its jobs are cancelled, those of other folders are not; nothing runs twice."""
    for name in ("qkv.nc", "attention.nc"):
        (copy / SMALL / name).unlink()
    *cancel, unlock, resume = block("docs/clusters.md", "bash", "mine()").splitlines()
    ours, more = ".venv/bin/snakemake --profile workflow/profiles/slurm", "--rerun-incomplete"
    assert (unlock, resume) == (f"{ours} --unlock", f"{ours} {more}")
    target = f"{SMALL}/attention.nc"
    subprocess.run(
        ["sbatch", "--chdir", copy.parent, "--output", "/dev/null", "--wrap", "sleep 300"],
        env=cluster,
        check=True,
        timeout=30,
    )
    run = start(copy, cluster, target)
    running(cluster, copy)
    run.kill()
    run.wait()
    assert queue(cluster, "%T", copy, "running") == ["RUNNING"]
    subprocess.run(["bash", "-c", "\n".join(cancel)], cwd=copy, env=cluster, check=True, timeout=60)
    assert queue(cluster, "%T", copy) == ["CANCELLED"]
    assert queue(cluster, "%T", copy.parent) == ["RUNNING"]
    code, said = finish(start(copy, cluster, "--unlock"), copy)
    assert code == 0, said
    code, said = finish(start(copy, cluster, target, more), copy)
    assert code == 0, said
    assert queue(cluster, "%k %T", copy) == [
        "rule_generate_wildcards_one_small CANCELLED",
        "rule_generate_wildcards_one_small COMPLETED",
        "rule_attend_wildcards_one_small COMPLETED",
    ]
    assert results(copy) == results(here)
