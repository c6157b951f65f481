"""A simulation that is split among jobs gives the same bytes as one that is not."""

import pytest
import xarray as xr
import yaml

from conftest import ROOT, snakemake
from tripartite.contracts import UserError
from tripartite.kinds.network.gather import gather, share

STUDY = {
    "experiments": {
        "small": {
            "data": {
                "synthetic": {
                    "sigma_squared": [0.5, 2, 1, 3, 6],
                    "n_inputs": 2,
                    "n_tokens": 8,
                    "d_head": 4,
                }
            },
            "network": {
                "n_features": [10, 100],
                "n_seeds": 2,
                "symmetries": ["center_keys", "balance"],
                "calibrated_on": ["draw-0"],
                "heads": [[0, 0], [0, 1], [0, 3], [0, 4]],
            },
        }
    },
    "figures": {"theory": {"experiments": ["small"]}},
}


def run(folder, *settings):
    (folder / "config/studies").mkdir(parents=True)
    (folder / "config/studies/mini.yaml").write_text(yaml.safe_dump(STUDY))
    arguments = ("-s", str(ROOT / "Snakefile"))
    done = snakemake(folder, *arguments, "--config", "study=mini", *settings)
    assert done.returncode == 0, done.stdout
    again = snakemake(folder, *arguments, "--dry-run", "--config", "study=mini", *settings)
    assert "Nothing to be done" in again.stdout
    files = (path for path in (folder / "results").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_shards_give_the_same_bytes_and_leave_nothing(tmp_path):
    """More shards than heads are no fault: one has nothing to do."""
    whole, split = run(tmp_path / "whole"), run(tmp_path / "split", "shards=5")
    assert split.keys() == whole.keys()
    assert [name for name in whole if split[name] != whole[name]] == []


def test_every_head_is_in_one_shard():
    heads = [[0, i] for i in range(7)]
    for n in (1, 2, 7, 9):
        parts = [share(heads, f"{part}/{n}") for part in range(1, n + 1)]
        assert sorted(sum(parts, [])) == heads
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_head_in_two_shards_is_refused():
    axes = ("n_features", "seed", "input", "layer", "head")
    part = xr.Dataset({"computed": (axes, [[[[[True, False]]]]])})
    with pytest.raises(UserError, match="shards: layer 0, head 0 is in two of them"):
        gather([part, part])


def test_a_number_of_shards_that_cannot_be_is_told(tmp_path):
    said = snakemake(
        tmp_path, "-s", str(ROOT / "Snakefile"), "--dry-run", "--config", "shards=0"
    ).stdout
    assert "config: shards: got 0, wanted" in said and "Traceback" not in said
