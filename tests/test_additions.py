"""A seed or a head that is added to an experiment is all that is computed."""

import json

import pytest
import yaml

from conftest import ROOT, run_simulate, snakemake
from test_contracts import qkv
from test_learn_stage import run as train
from test_learn_stage import with_gaps
from test_shards import STUDY
from tripartite import job, learning
from tripartite.kinds.data.attend import attend
from tripartite.kinds.network import simulate as stage

HEADS = [[0, 0], [0, 1], [0, 2]]


@pytest.fixture(scope="module")
def data():
    dataset = with_gaps(2)
    return dataset, attend(dataset)


@pytest.mark.parametrize(
    ("before", "after", "runs"),
    [
        ((HEADS[:1], 2), (HEADS[:1], 4), 3),  # the last of before is compared with another next one
        ((HEADS[:2], 3), (HEADS, 3), 3),
        ((HEADS[:2], 3), (HEADS[1:], 3), 3),
        ((HEADS[:2], 2), (HEADS, 3), 2 + 2 + 3),
        ((HEADS, 4), (HEADS[2:], 2), 1),
        ((HEADS, 2), (HEADS, 2), 0),
        ((HEADS[:1], 1), (HEADS[:1], 2), 2),
    ],
)
@pytest.mark.parametrize("kind", ["nested", "blocks", "disjoint"])
@pytest.mark.parametrize("feature_map", ["performer", "cosine"])
def test_what_is_there_is_taken_over_and_changes_no_number(
    data, before, after, runs, kind, feature_map, monkeypatch
):
    counted, read = [], stage.read
    monkeypatch.setattr(stage, "read", lambda *x, **y: counted.append(x) or read(*x, **y))

    def simulated(heads, n_seeds, **more):
        counted.clear()
        settings = {"feature_map": feature_map, "smaller_networks": kind, "n_features": [3, 7, 15]}
        return run_simulate(*data, heads=heads, n_seeds=n_seeds, **settings, **more)

    there = simulated(*before)
    fresh = simulated(*after)
    assert len(counted) == len(after[0]) * after[1]
    got = simulated(*after, previous=there)
    assert len(counted) == runs
    assert got.identical(fresh)


def test_trainings_that_are_there_are_not_repeated(monkeypatch):
    data, counted, own = with_gaps(4), [], learning.train

    def counting(*given, **settings):
        counted.append(given)
        return own(*given, **settings)

    monkeypatch.setattr(learning, "train", counting)
    there = train(data, n_features=[6], n_seeds=2, trained_on=["draw-0"])
    fresh = train(data, n_features=[4, 6], n_seeds=3, trained_on=["draw-0"])
    counted.clear()
    got = train(data, n_features=[4, 6], n_seeds=3, trained_on=["draw-0"], previous=there)
    assert len(counted) == 4
    assert got.identical(fresh)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("settings", {"n_seeds": 9, "heads": "all"}, True),
        ("settings", {"n_seeds": 2, "heads": "all", "seed": 1}, False),
        ("code_digest", "other", False),
        ("upstream", {"a/qkv.nc": "other"}, False),
        ("device", "cuda", False),
        ("schema_version", 1, False),
        ("versions", '{"numpy": "1"}', False),
    ],
)
def test_nothing_else_may_differ(name, value, found, tmp_path, monkeypatch):
    origin = {
        "stage": "simulate",
        "settings": {"n_seeds": 2, "heads": "all"},
        "code_digest": "abc",
        "upstream": {"a/qkv.nc": "abc"},
        "device": "cpu",
    }
    if name == "schema_version":
        monkeypatch.setattr(job, "SCHEMA_VERSION", value)
    if name == "versions":
        monkeypatch.setattr(job, "versions", lambda: json.loads(value))
    job.save(qkv(), tmp_path / "qkv.nc", origin)
    monkeypatch.undo()
    if name in origin:
        origin[name] = value
    there = job.previous(tmp_path / "qkv.nc", origin, ("n_seeds", "heads"))
    assert (there is not None) == found


def test_what_is_damaged_or_missing_is_not_taken_over(tmp_path):
    origin = {"settings": {}}
    path = tmp_path / "qkv.nc"
    assert job.previous(path, origin, ()) is None
    job.save(qkv(), path, origin)
    assert job.previous(path, origin, ()) is not None
    path.write_bytes(path.read_bytes()[:-100])
    assert job.previous(path, origin, ()) is None


def test_in_the_workflow(tmp_path):
    """Also as shards; a run that fails in between loses nothing and is not taken for done."""

    def run(folder, n_seeds, heads, *more):
        study = json.loads(json.dumps(STUDY))
        study["experiments"]["small"]["network"] |= {"n_seeds": n_seeds, "heads": heads}
        (tmp_path / folder / "config/studies").mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "config/studies/mini.yaml").write_text(yaml.safe_dump(study))
        given = ("-s", str(ROOT / "Snakefile"), "--config", "study=mini", *more)
        return snakemake(tmp_path / folder, *given)

    def results(folder):
        files = (path for path in (tmp_path / folder / "results").rglob("*") if path.is_file())
        return {str(path.relative_to(tmp_path / folder)): path.read_bytes() for path in files}

    heads = [[0, i] for i in range(4)]
    states = tmp_path / "a/results/mini/small/states.nc"
    assert run("a", 2, heads[:3]).returncode == 0
    before = states.read_bytes()
    attention = states.with_name("attention.nc")
    content = attention.read_bytes()
    attention.write_bytes(content[:-100])
    failed = run("a", 3, heads)
    assert failed.returncode == 1 and "not a readable netCDF-4 file" in failed.stdout
    assert states.read_bytes() == before
    attention.write_bytes(content)
    split = run("a", 3, [*heads, [0, 4]], "shards=2")
    assert split.returncode == 0, split.stdout
    assert "2 of 9 runs are taken over" in split.stdout  # the first seed of heads 0 and 2, not of 4
    assert "1 of 6 runs are taken over" in split.stdout  # that of head 1, not of 3
    assert run("b", 3, [*heads, [0, 4]]).returncode == 0
    assert results("a") == results("b")
