"""Arrays that no job holds: read, computed and written in blocks, with the same numbers."""

import hashlib
import json
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from xarray.backends.netCDF4_ import NetCDF4ArrayWrapper

import stage
from conftest import ROOT, defaults, random_heads
from tripartite import declarations, duration, foreign, job, large, memory, snakefile, study
from tripartite.contracts import UserError
from tripartite.kinds.data.attend import attend
from tripartite.kinds.data.generate import adopt

ATTRS = {"data": "test", "stage": "generate", "settings": {}, "device": "cpu", "upstream": {}}
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


@pytest.fixture
def small_limits(monkeypatch):
    """What is large begins at 1000 bytes, and a block has 500: files of tests are large."""
    monkeypatch.setattr(large, "LARGE_BYTES", 1000)
    monkeypatch.setattr(large, "BLOCK_BYTES", 500)


@pytest.fixture(scope="module")
def data():
    """Three heads that read two inputs, of which the second lacks tokens."""
    return random_heads([0.5, 1.0, 2.0], 2, [(1, 2), (1, slice(9, None))], n_tokens=12, d_head=4)


# Parts of arrays.


@given(shape=SHAPES, itemsize=st.integers(1, 9), limit=st.integers(1, 100))
def test_blocks_are_an_array_in_its_order_and_small(shape, itemsize, limit):
    array = np.arange(math.prod(shape)).reshape(shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "BLOCK_BYTES", limit)
        parts = [array[index] for index in large.blocks(shape, itemsize)]
    np.testing.assert_array_equal(np.concatenate([x.ravel() for x in parts]), array.ravel())
    assert all(x.size * itemsize <= limit or x.size == 1 for x in parts)


@given(
    shape=st.lists(st.integers(1, 3), min_size=5, max_size=5).map(tuple),
    limit=st.integers(1, 200),
    seed=st.integers(0, 99),
)
def test_a_search_finds_what_a_whole_array_shows(shape, limit, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 3, shape).astype(np.float32)
    mask = rng.random((shape[0], shape[3])) < 0.7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "BLOCK_BYTES", limit)
        place, count = large.search(values, mask, lambda x: x == 0)
    bad = np.argwhere((values == 0) & mask[:, None, None, :, None])
    assert count == len(bad) and (place == tuple(bad[0]) if count else place == ())


@given(shape=SHAPES, seed=st.integers(0, 99), data=st.data())
def test_an_array_on_disk_is_an_array(shape, seed, data, tmp_path_factory):
    """Whatever part is written or read, also through xarray."""
    starts = [st.integers(0, n - 1) for n in shape]
    parts = [st.one_of(x, st.builds(slice, x, st.integers(1, 5), st.just(None))) for x in starts]
    index = data.draw(st.tuples(*parts))
    rng, folder = np.random.default_rng(seed), tmp_path_factory.getbasetemp()
    wanted, here = rng.normal(size=shape), job.OnDisk(shape, np.float64, folder)
    here[()] = wanted
    wanted[index] = here[index] = rng.normal(size=wanted[index].shape)
    variable = xr.Variable([f"x{i}" for i in range(len(shape))], here)
    np.testing.assert_array_equal(here[index], wanted[index])
    np.testing.assert_array_equal(variable[index].values, wanted[index])
    np.testing.assert_array_equal(variable.values, wanted)


def test_an_array_on_disk_leaves_no_file(tmp_path, small_limits):
    array = job.room(tmp_path / "new", (100, 100), np.float64)
    assert isinstance(array, job.OnDisk) and list((tmp_path / "new").iterdir()) == []
    assert isinstance(job.room(tmp_path, (5, 5), np.float64), np.ndarray)


def test_a_full_disk_is_said_before_anything_is_computed(tmp_path, small_limits, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"disk full: \d+ MB free, up to 80 MB needed; make room"):
        job.room(tmp_path, (10_000_000,), np.float64)


# Files.


def plain_digest(dataset: xr.Dataset) -> str:
    """content_digest of arrays as a whole."""
    digest = hashlib.sha256()
    for name in sorted(map(str, dataset.variables)):
        values = dataset[name].values
        text = values.dtype.kind in "OUT"
        content = json.dumps([str(x) for x in values.ravel()]).encode() if text else b""
        dtype = "str" if text else values.dtype.str
        head = [name, dataset[name].dims, values.shape, dtype, dataset[name].attrs]
        digest.update(json.dumps(head).encode() + content)
        digest.update(b"" if text else values.tobytes())
    attrs = {key: str(value) for key, value in dataset.attrs.items() if "digest" not in key}
    attrs.pop("processor")
    digest.update(json.dumps(attrs, sort_keys=True).encode())
    return digest.hexdigest()


def saved(folder, data):
    """The files of q, k, v and of their attention."""
    job.save(data, folder / "qkv.nc", ATTRS)
    exact = attend(data, room=partial(job.room, folder))
    job.save(exact, folder / "attention.nc", ATTRS)
    return folder / "qkv.nc", folder / "attention.nc"


def test_a_large_file_holds_the_same_as_a_small_one(tmp_path, data, monkeypatch):
    small = saved(tmp_path / "small", data)
    monkeypatch.setattr(large, "LARGE_BYTES", 1000)
    monkeypatch.setattr(large, "BLOCK_BYTES", 500)
    first, again = (saved(tmp_path / name, data) for name in ("first", "again"))
    for few, many, same in zip(small, first, again):
        assert many.read_bytes() == same.read_bytes()
        with job.load(few) as wanted, job.load(many) as got:
            digest = got.attrs["content_digest"]
            assert digest == wanted.attrs["content_digest"] == plain_digest(got)
            xr.testing.assert_identical(got, wanted)
            for name in wanted.variables:
                kept = ("dtype", "_FillValue", "zlib", "complevel", "fletcher32", "shuffle")
                old, new = wanted[name].encoding, got[name].encoding
                assert [str(old.get(key)) for key in kept] == [str(new.get(key)) for key in kept]
    with netCDF4.Dataset(first[0]) as file:
        assert file["q"].chunking() == [1, 1, 1, 12, 4]  # one head that reads one input
    assert sorted(x.name for x in (tmp_path / "first").iterdir()) == ["attention.nc", "qkv.nc"]


def test_a_change_of_a_large_file_is_seen(tmp_path, data, small_limits):
    path, _ = saved(tmp_path, data)
    with netCDF4.Dataset(path, "a") as file:
        file["v"][1, 0, 2, 3, 1] += 1
    with pytest.raises(UserError, match="content differs from its digest"):
        job.load(path)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(UserError, match="not a readable netCDF-4 file"):
        job.load(path)


def test_a_large_file_that_breaks_its_contract_is_not_written(tmp_path, data, small_limits):
    bad = data.copy(deep=True)
    bad["v"][0, 0, 1, 3, 2] = np.inf
    with pytest.raises(UserError, match="v: inf at input draw-0, layer 0, head 1, token 3"):
        job.save(bad, tmp_path / "qkv.nc", ATTRS)
    assert list(tmp_path.iterdir()) == []


# A user's file.


CHUNKINGS = {
    "contiguous": {"contiguous": True},
    "netCDF's own": {"zlib": True},
    "heads": {"zlib": True, "chunksizes": (1, 1, 1, 6, 4)},
    "odd": {"zlib": True, "chunksizes": (2, 2, 3, 4, 3)},
    "whole": {"zlib": True, "chunksizes": (3, 3, 4, 6, 4)},
}


@pytest.mark.parametrize("storage", CHUNKINGS.values(), ids=CHUNKINGS)
def test_a_users_file_arrives_in_blocks_of_whole_chunks(tmp_path, storage, monkeypatch):
    """With what was never written marked, and converted as in memory."""
    shape, rng = (3, 3, 4, 6, 4), np.random.default_rng(0)
    path = tmp_path / "mine.nc"
    with netCDF4.Dataset(path, "w") as file:
        for dim, size in zip((*foreign.DIMS, "d_value"), (*shape, 4)):
            file.createDimension(dim, size)
        for name in "qkv":
            dims = foreign.VALUE_DIMS if name == "v" else foreign.DIMS
            written = file.createVariable(name, "f8", dims, **storage)
            if name == "v":
                written[2, 1:, 3] = rng.normal(size=(2, 6, 4))
            else:
                written[:] = rng.normal(size=shape)
    seen = []
    for block_bytes in (1 << 24, 1000):
        code = foreign.__file__
        small = tmp_path / f"{block_bytes}.py"
        text = Path(code).read_text()
        small.write_text(text.replace("BLOCK_BYTES = 1 << 24", f"BLOCK_BYTES = {block_bytes}"))
        monkeypatch.setattr(foreign, "__file__", str(small))
        seen.append(job.read_foreign(path))
        monkeypatch.setattr(foreign, "__file__", code)
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        for name in "qkv":
            for one in seen:
                np.testing.assert_array_equal(one[name].values, file[name][:])
            chunks = file[name].chunking()
            block = foreign._block(file[name])
            lengths = [1] * 5 if chunks == "contiguous" else chunks
            assert all(x % y == 0 or x == n for x, y, n in zip(block, lengths, shape))
    whole = seen[0].drop_vars("v").assign(v=seen[0]["q"].variable)
    in_memory = adopt(whole, "mine.nc")
    monkeypatch.setattr(large, "LARGE_BYTES", 1000)
    monkeypatch.setattr(large, "BLOCK_BYTES", 500)
    on_disk = adopt(whole, "mine.nc", room=partial(job.room, tmp_path))
    xr.testing.assert_identical(on_disk.load(), in_memory)


# Stages.


def run(folder, name, settings, workers=1):
    """Run a stage on files, as a job does."""
    file = declarations.stages()[name]
    inputs = [folder / f"{read}.nc" for read in file.reads]
    stage.run(name, inputs, [folder / f"{file.name}.nc"], settings, "code", "cpu", workers)
    return job.load(folder / f"{file.name}.nc")


def simulate(folder, workers, **more):
    settings = {"n_features": [3, 10], "n_seeds": 3, "seed": 5, "data_of": "x"}
    return run(folder, "simulate", defaults("network") | settings | more, workers)


def network(folder, workers, **more):
    settings = defaults("network") | more
    taken = {key: settings[key] for key in declarations.files()["fit"].settings}
    return simulate(folder, workers, **more), run(folder, "fit", taken)


@pytest.mark.parametrize("heads", ["all", [[0, 1]]])
def test_stages_on_large_files_give_the_same_and_read_one_head_at_a_time(
    tmp_path, data, heads, monkeypatch
):
    saved(tmp_path / "small", data)
    wanted = network(tmp_path / "small", 1, heads=heads)
    monkeypatch.setattr(large, "LARGE_BYTES", 1000)
    monkeypatch.setattr(large, "BLOCK_BYTES", 500)
    saved(tmp_path / "large", data)
    read, whole = [], NetCDF4ArrayWrapper._getitem

    def noted(self, key):
        found = whole(self, key)
        if self.variable_name in ("q", "k", "v", "output"):
            read.append(found.nbytes)
        return found

    monkeypatch.setattr(NetCDF4ArrayWrapper, "_getitem", noted)
    got = network(tmp_path / "large", 2, heads=heads)
    assert len(read) > 20 and max(read) <= 12 * 4 * 8  # of one head
    for one, other in zip(got, wanted):
        xr.testing.assert_identical(one.load().drop_attrs(), other.load().drop_attrs())
        assert one.attrs["content_digest"] != ""


def test_shards_of_large_files_are_put_together(tmp_path, data, small_limits):
    saved(tmp_path, data)
    wanted, parts = simulate(tmp_path, 1), []
    settings = json.loads(wanted.attrs["settings"])
    for part in (1, 2):
        parts.append(tmp_path / f"shards/2/{part}/states.nc")
        inputs = [tmp_path / "qkv.nc", tmp_path / "attention.nc"]
        stage.run("simulate", inputs, parts[-1:], settings, "code", "cpu", 1, f"{part}/2")
    stage.put_together(parts, tmp_path / "whole/states.nc")
    got = job.load(tmp_path / "whole/states.nc")
    xr.testing.assert_identical(got.load().drop_attrs(), wanted.load().drop_attrs())


def test_many_threads_read_one_file(tmp_path, data, small_limits):
    path, _ = saved(tmp_path, data)
    wanted = data["q"].values
    with job.load(path) as dataset, ThreadPoolExecutor(8) as pool:
        variable, places = dataset["q"].variable, [*np.ndindex(wanted.shape[:3])] * 40
        for place, got in zip(places, pool.map(lambda x: variable[x].values, places)):
            np.testing.assert_array_equal(got, wanted[place])


PEAK = """
import resource, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
import stage
import test_large
import netCDF4
from tripartite import job, large
large.LARGE_BYTES = 1 << 20
netCDF4.set_chunk_cache(1 << 20)  # 64 MB for each variable that is read, of any size
for heads in (4, 128):
    folder = Path(sys.argv[3]) / str(heads)
    folder.mkdir()
    path = folder / "mine.nc"
    test_large.write_own(path, test_large.SIZES | {"heads": heads})
    settings = {"data": {"file": job.file_digest(path)}}
    stage.run("generate", [path], [folder / "qkv.nc"], settings, "", "cpu", 1)
    test_large.run(folder, "attend", {})
    test_large.simulate(folder, 1, heads=[[0, 0], [0, 3]])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""
SIZES = dict(zip(foreign.SIZES, (2, 1, 128, 256, 64, 64)))


def write_own(path, sizes):
    """A random file of a user, written head by head."""
    rng = np.random.default_rng(0)
    with netCDF4.Dataset(path, "w") as file:
        for dim, size in zip((*foreign.DIMS, "d_value"), sizes.values()):
            file.createDimension(dim, size)
        for name in "qkv":
            dims = foreign.VALUE_DIMS if name == "v" else foreign.DIMS
            written = file.createVariable(name, "f4", dims)
            for place in np.ndindex(written.shape[:3]):
                written[place] = rng.standard_normal(written.shape[3:]) / 4


def test_no_stage_holds_a_large_file(tmp_path):
    """A file of 84 MB in place of 3 MB takes less memory more than that, and than is planned."""
    command = [sys.executable, "-c", PEAK, ROOT / "workflow/scripts", ROOT / "tests", tmp_path]
    said = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    few, many = (float(x) for x in said.stdout.split() if re.fullmatch(r"\d+\.\d+", x))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "LARGE_BYTES", 1 << 20)
        settings = {"n_features": [3, 10], "n_seeds": 3, "heads": [[0, 0], [0, 3]]}
        arrays = memory.plan(SIZES, settings)
    assert many < few + 84
    assert many < snakefile.memory_mb(arrays)


# Time.


SHAPE = dict(zip(foreign.SIZES, (2, 32, 32, 2000, 128, 128)))
NETWORK = {"n_features": [100, 1000], "n_seeds": 4}


def test_time_goes_with_what_is_computed():
    """Heads, seeds and neurons by themselves; keys of all queries in cubes."""
    every = duration.seconds(SHAPE, NETWORK, "network", True)
    assert set(every) == {"generate", "attend", "simulate", "fit"}
    few = duration.seconds(SHAPE, NETWORK | {"heads": [[0, 0]]}, "network", True)
    assert few["simulate"] < every["simulate"] / 2 and few["fit"] < every["fit"]
    assert few["attend"] == every["attend"]
    shared = duration.seconds(SHAPE, NETWORK, "network", False)
    assert set(shared) == {"simulate", "fit"}
    long = SHAPE | {"tokens": 200_000}
    more = [
        duration.seconds(long | {"tokens": n}, NETWORK, "network", True) for n in (10**5, 10**6)
    ]
    assert 99 < more[1]["attend"] / more[0]["attend"] < 100
    assert 900 < more[1]["fit"] / more[0]["fit"] < 1000
    wide = NETWORK | {"n_features": [10**7]}
    wider = [duration.seconds(SHAPE, wide | {"n_seeds": n}, "network", True) for n in (1, 3)]
    assert 2.99 < wider[1]["simulate"] / wider[0]["simulate"] < 3


def test_a_long_study_says_how_long_it_takes(tmp_path, monkeypatch):
    """Only files that are missing count; heads that are computed side by side share the cores."""
    own = {"data": {"file": "my.nc"}, "network": NETWORK | {"n_features": [10_000]}}
    chosen = {"experiments": {"mine": own}}
    header = {"sizes": SHAPE | {"layers": 16, "tokens": 1000}, "inputs": ["a", "b"], "faults": []}
    monkeypatch.setattr(foreign, "header", lambda path: header)
    parsed = snakefile.Parsed({"study": "own"}, chosen, str(tmp_path), {})
    seconds = study.seconds_needed("mine", chosen)
    total = sum(seconds.values()) - seconds["simulate"] / 2
    said = parsed.expected(2)
    assert said.startswith(
        f"own: about {total / 60:.0f} min on 2 cores, within a factor of three ("
    )
    assert f"simulate {seconds['simulate'] / 120:.0f} min" in said and "choose heads" in said
    for file in ("qkv", "attention", "states"):
        (tmp_path / "own/mine").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"own/mine/{file}.nc").touch()
    assert f"(fit {seconds['fit'] / 60:.0f} min)" in parsed.expected(2)
    (tmp_path / "own/mine/fit.nc").touch()
    assert parsed.expected(2) == ""
