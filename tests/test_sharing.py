"""Exchange of studies between labs: packing, refused archives, agreement of results."""

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tracemalloc
import unicodedata
import warnings
import zipfile
import zlib
from pathlib import Path
from urllib.parse import unquote

import hypothesis
import hypothesis.strategies as st
import netCDF4
import numpy as np
import pytest
import scipy.stats
import xarray as xr
import yaml
from matplotlib import pyplot as plt
from matplotlib.text import Text
from rocrate.rocrate import ROCrate

import share
from conftest import ROOT, project, snakemake
from test_contracts import qkv
from test_job import LESS, python
from test_learn_stage import with_gaps
from test_workflow import with_study
from tripartite import agreement, job, sharing
from tripartite.contracts import UserError
from tripartite.declarations import axes, files, variables
from tripartite.figures import agreement as figure
from tripartite.kinds.data.attend import attend

ATTRS = {
    "data": "random heads",
    "settings": {"n_seeds": 3, "dtype": "float64"},
    "device": "cpu",
    "code_digest": "0" * 64,
}


def made(contract: str, seed: int = 0) -> xr.Dataset:
    """Random numbers that fit a contract; intervals contain their estimates."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, spec in variables(contract).items():
        dims = spec.dims.split()
        values = rng.uniform(1, 2, (2,) * len(dims))
        made[name] = (
            dims,
            np.full(values.shape, "") if spec.dtype == "str" else values.astype(spec.dtype),
        )
    for name in made:
        if agreement.is_fitted(name, made):
            for end, step in (("low", -0.1), ("high", 0.1)):
                made[f"{name}_{end}"] = (made[name][0], made[name][1] + step)
    coords = {
        dim: np.array(["a", "b"]) if spec.dtype == "str" else np.arange(2).astype(spec.dtype)
        for dim, spec in axes(contract).items()
    }
    return xr.Dataset(made, coords=coords)


def command(monkeypatch, files, *words):
    """Give share.py these words, and a study that asks for these files as they were made."""

    def made(path):
        try:
            return job.origin(path)
        except UserError:
            return {"settings": {}, "code": ""}

    asked = {"/".join(path.parts[-2:]): made(path) for path in files}
    monkeypatch.setattr(
        share, "requested", lambda *given: ({"experiments": {}, "figures": {}}, asked)
    )
    line = ["share.py", *words, "--study", "tiny", "--results", files[0].parents[1]]
    monkeypatch.setattr("sys.argv", [*map(str, line)])


def study(folder: Path, change=None, **attrs) -> list[Path]:
    """Data, a fit of them and its figure, as a finished study; change(fit) gives another fit."""
    fit = change(made("fit")) if change else made("fit")
    upstream = {}
    for stage, dataset in (("qkv", qkv()), ("fit", fit)):
        path = folder / f"results/tiny/small/{stage}.nc"
        job.save(dataset, path, ATTRS | {"stage": stage, "upstream": dict(upstream)} | attrs)
        upstream[job.key(path)] = job.load(path).attrs["content_digest"]
    picture = folder / "results/tiny/figures/trace.svg"
    picture.parent.mkdir()
    origin = {"upstream": {"small/fit.nc": upstream["small/fit.nc"]}, "settings": {}, "code": ""}
    picture.write_text(f"<svg><description>{json.dumps(origin)}</description></svg>")
    return sorted((folder / "results/tiny").rglob("*.*"))


def packed(folder: Path, *arguments, **attrs) -> Path:
    files = study(folder, *arguments, **attrs)
    settings = folder / "config/studies/tiny.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("experiments: {}\n")
    passage = ROOT / "config/inputs/passages/darwin.txt"
    sharing.export(files, [passage, settings], ROOT, folder / "theirs.zip")
    return folder / "theirs.zip"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("theirs"))


@pytest.fixture
def archive(exported, tmp_path):
    (tmp_path / "theirs").mkdir()
    return Path(shutil.copy(exported, tmp_path / "theirs"))


def levels(rows) -> dict[str, str]:
    return {row.variable: row.level for row in rows if row.file == "small/fit.nc"}


# Archives.


def test_an_archive_says_what_it_holds_and_how_it_was_made(archive, tmp_path):
    """It is a Provenance Run Crate that the library can read, without private paths."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "crate")
        assert opened.testzip() is None
    crate = ROCrate(tmp_path / "crate")
    workflow = crate.mainEntity
    assert workflow.id == "workflow/Snakefile" and "ComputationalWorkflow" in workflow.type
    profiles = {profile.id for profile in crate.root_dataset["conformsTo"]}
    assert "https://w3id.org/ro/wfrun/provenance/0.5" in profiles and len(profiles) == 4
    assert crate.license.id == "LICENSE" and len(crate.root_dataset["datePublished"]) == 10
    software = {part.get("name"): part.get("version") for part in workflow["softwareRequirements"]}
    assert software["torch"] == job.versions()["torch"] and software["snakemake"]
    action = crate.get("#run")
    assert action["instrument"] is workflow
    assert action["object"].id == "config/studies/tiny.yaml"
    made = {
        "results/tiny/figures/trace.svg",
        "results/tiny/small/fit.nc",
        "results/tiny/small/qkv.nc",
    }
    assert {part.id for part in action["result"]} == made
    folder = tmp_path / "crate"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"config/inputs/passages/darwin.txt", "workflow/scripts/tripartite/network.py"} <= files
    for name in files - {sharing.METADATA}:
        assert crate.get(name)["sha256"] == job.file_digest(folder / name)
    text = (folder / sharing.METADATA).read_text()
    assert str(ROOT) not in text and str(tmp_path) not in text and os.uname().nodename not in text


def test_same_study_same_bytes(archive, tmp_path):
    (tmp_path / "again").mkdir()
    assert packed(tmp_path / "again").read_bytes() == archive.read_bytes()


def test_the_commit_of_a_clone_is_named(tmp_path):
    assert sharing._commit(tmp_path) is None
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow/files.txt").write_text("workflow/Snakefile\n")
    git = ["git", "-c", "user.name=lab", "-c", "user.email=lab@example.org"]
    for words in (
        ["init"],
        ["add", "workflow"],
        ["commit", "-m", "x", "--date", "2020-01-01T12:00:00"],
    ):
        subprocess.run(
            [*git, *words],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            env=os.environ | {"GIT_COMMITTER_DATE": "2020-01-02T12:00:00+0000"},
        )
    commit, date = sharing._commit(tmp_path)
    assert len(commit) == 40 and date == "2020-01-02"
    (tmp_path / "notes.txt").touch()
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").touch()
    assert sharing._commit(tmp_path) == (commit, date), "what is not packed as it is does not count"
    (tmp_path / "workflow/Snakefile").touch()
    assert sharing._commit(tmp_path)[0] == f"{commit}, with changes"
    assert sharing._commit(tmp_path / "workflow") is None


def test_only_a_whole_study_is_packed(tmp_path):
    files = study(tmp_path)
    path = tmp_path / "results/tiny/small/fit.nc"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="fit.nc: not a readable netCDF-4 file"):
        sharing.export(files, [], ROOT, tmp_path / "x.zip")
    assert not list(tmp_path.glob("*.zip"))


def rewritten(archive: Path, names=lambda name: name, content=lambda name, data: data, more=()):
    """The archive with other names, contents and further members."""
    with zipfile.ZipFile(archive) as opened:
        members = [(names(name), content(name, opened.read(name))) for name in opened.namelist()]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in [*members, *more]:
            opened.writestr(name, data)


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


def changed(name, data, of="results/tiny/small/fit.nc"):
    return data[:-1] + b"?" if name == of else data


META = sharing.METADATA
FAULTS = {
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-2000]),
        "cannot be read as an archive",
    ),
    "no zip": (lambda path: path.write_bytes(b"PK\3\4 no zip at all"), "File is not a zip file"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as an archive"),
    "bits": (lambda path: flip(path), "Bad CRC-32|differs from its SHA-256"),
    "foreign": (
        lambda path: rewritten(path, lambda name: name.replace(META, "readme.json")),
        f"has no {META}",
    ),
    "other crate": (
        lambda path: rewritten(path, content=lambda n, d: b'{"@graph": []}' if n == META else d),
        "a crate of another kind",
    ),
    "no json": (
        lambda path: rewritten(path, content=lambda n, d: b"[" * 200_000 if n == META else d),
        f"{META} cannot be read",
    ),
    "checksum": (
        lambda path: rewritten(path, content=changed),
        "'results/tiny/small/fit.nc' differs from its SHA-256",
    ),
    "more": (
        lambda path: rewritten(path, more=[("workflow/evil.py", "x")]),
        "'workflow/evil.py' is not listed",
    ),
    "less": (
        lambda path: rewritten(path, lambda name: name.replace("qkv.nc", "q.nc")),
        "is not listed|is missing",
    ),
    "up": (lambda path: rewritten(path, more=[("../x", "x")]), "'../x' is no path inside"),
    "up within": (
        lambda path: rewritten(path, more=[("results/tiny/small/../../../../x", "x")]),
        "is no path inside",
    ),
    "absolute": (lambda path: rewritten(path, more=[("/x", "x")]), "'/x' is no path inside"),
    "windows": (lambda path: rewritten(path, more=[("C:\\x", "x")]), "is no path inside"),
    "link": (
        lambda path: rewritten(path, more=[(link("results/tiny/small/states.nc"), "/etc/passwd")]),
        "is a link or another special file",
    ),
    "no results": (
        lambda path: rewritten(
            path,
            lambda name: name.replace("results/", "r/"),
            lambda n, d: d.replace(b'"results/', b'"r/') if n == META else d,
        ),
        "holds results of 0 studies",
    ),
}


def flip(path: Path):
    """Flip a bit in the middle of the largest file of the archive."""
    with zipfile.ZipFile(path) as opened:
        largest = max(opened.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(path.read_bytes())
    data[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_archive_is_one_line_and_writes_nothing(
    fault, archive, tmp_path, monkeypatch, capsys
):
    damage, words = FAULTS[fault]
    damage(archive)
    files = study(tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    folder = tmp_path / "results/comparison"
    command(monkeypatch, files, "compare", "--other", str(archive), "--output", str(folder))
    assert share.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {archive}: ") and said.count("\n") == 1
    with pytest.raises(UserError, match=words), sharing.opened(archive, folder):
        pass
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(folder.iterdir())


def test_a_bomb_is_refused_before_it_is_unpacked(archive, tmp_path, monkeypatch):
    rewritten(archive, more=[("results/tiny/small/zeros.nc", bytes(30_000_000))])
    assert archive.stat().st_size < 10_000_000
    monkeypatch.setattr(sharing, "MAX_BYTES", 20_000_000)
    with pytest.raises(UserError, match="would unpack to .* GB; at most 20000 of 0 GB are read"):
        with sharing.opened(archive, tmp_path / "x"):
            pass
    monkeypatch.setattr(sharing, "MAX_FILES", 3)
    with pytest.raises(UserError, match="at most 3 of"), sharing.opened(archive, tmp_path / "x"):
        pass
    assert not list((tmp_path / "x").iterdir())


def test_an_archive_is_gone_after_it_was_read(archive, tmp_path):
    with sharing.opened(archive, tmp_path / "x") as folder:
        assert {path.name for path in folder.rglob("*.*")} == {"qkv.nc", "fit.nc", "trace.svg"}
    assert not list((tmp_path / "x").iterdir())
    with pytest.raises(UserError, match="theirs.zip/results/tiny/small: says so"):
        with sharing.opened(archive, tmp_path / "x") as folder:
            raise UserError(f"{folder}/small: says so")
    with pytest.raises(UserError, match="holds no results; give a folder such as"):
        with sharing.opened(tmp_path / "x", tmp_path):
            pass


# Agreement.


def test_the_same_results_are_identical(archive, tmp_path):
    files = study(tmp_path)
    with sharing.opened(archive, tmp_path / "x") as folder:
        found = agreement.compare(files, folder)
    assert {(row.file, row.level, row.fitted) for row in found.rows} == {
        ("small/qkv.nc", "identical", False),
        ("small/fit.nc", "identical", True),
    }
    assert found.figures == {"identical": 1} and not found.origins and not found.extra
    said = agreement.summary(found, "tiny", "a")
    assert "What both have was made with the same settings, code, versions and device." in said


NAME = "normalizer_error"
ROW = agreement.Row("a/fit.nc", "y", "agrees", 1.0, "", True, np.ones(5))
WHOLE = (NAME, f"{NAME}_low", f"{NAME}_high")


def moved(by, names=WHOLE):
    """A fit with some variables larger by a factor."""
    return lambda fit: fit.assign({name: fit[name] * (1 + by) for name in names})


def nan_at_one(fit):
    fit[NAME][0, 0, 0] = np.nan
    return fit


def test_another_processor_is_told_and_is_no_other_study(tmp_path):
    """Equal values are identical on all processors; another processor is no change of settings."""
    files = study(tmp_path / "a", processor="x86_64 AVX2")
    study(tmp_path / "b", processor="aarch64 NEON")
    found = agreement.compare(files, tmp_path / "b/results/tiny")
    assert {row.level for row in found.rows} == {"identical"}
    both = ["small/fit.nc", "small/qkv.nc"]
    ((what, files_of),) = found.origins.items()
    assert what == ("processor", "x86_64 AVX2", "aarch64 NEON") and sorted(files_of) == both
    assert not agreement._is_setting("processor")
    said = agreement.summary(found, "tiny", "b")
    assert "| processor | x86_64 AVX2 | aarch64 NEON | 2, such as small/qkv.nc |" in said


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"settings": {"dtype": "float64"}}, "not judged"),
        ({"settings": {"dtype": "float32"}}, "rounding"),
        ({"settings": {"dtype": "bfloat16"}}, "rounding"),
        ({"settings": {}}, "not judged"),
        ({"settings": {"data": "float32"}}, "not judged"),  # the name of an experiment
        ({"settings": {"variants": {"float32": {"feature_map": "relu"}}}}, "not judged"),
        (
            {"settings": {}, "upstream_settings": {"small/states.nc": {"dtype": "float32"}}},
            "rounding",
        ),
        (
            {"settings": {}, "upstream_settings": {"small/states.nc": {"dtype": "float64"}}},
            "not judged",
        ),
    ],
)
def test_numbers_are_judged_by_the_precision_in_which_they_were_computed(
    settings, wanted, tmp_path
):
    """Precision of the file or of its inputs, also if these are not in the archive."""
    name = "log10_features_needed"
    files = study(tmp_path / "a", **settings)
    study(tmp_path / "b", moved(1e-6, [name]), **settings)
    found = agreement.compare(files, tmp_path / "b/results/tiny")
    assert levels(found.rows)[name] == wanted


TRAINED = """
import json
from pathlib import Path
import stage
folder, dtype = Path(sys.argv[1]), sys.argv[2]
settings = {
    "n_features": [8], "n_seeds": 2, "trained_on": ["draw-0"], "validated_on": ["draw-1"],
    "heads": "all", "loss": "weights", "max_steps": 100, "learning_rate": 0.1, "patience": 100,
    "seed": 5, "data_of": "x", "dtype": dtype,
}
inputs = [folder / name for name in ("qkv.nc", "attention.nc")]
stage.run("learn", inputs, [folder / "learned.nc"], settings, "", "cpu", 1, "")
"""
LESSER = {  # libraries use no such instructions, as on an older processor
    "NPY_DISABLE_CPU_FEATURES": LESS["NPY_DISABLE_CPU_FEATURES"],
    "ATEN_CPU_CAPABILITY": "default",
    "OPENBLAS_CORETYPE": "Haswell",
    "MKL_CBWR": "COMPATIBLE",
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_on_another_processor_agrees_within_rounding(dtype, tmp_path):
    """1e-4 in float32 and 1e-9 in float64, in every head; the data are the same bytes."""
    data = with_gaps(4)
    for lab, environment in (("ours", {}), ("theirs", LESSER)):
        folder = tmp_path / lab / "small"
        for name, dataset in (("qkv", data), ("attention", attend(data))):
            job.save(
                dataset,
                folder / f"{name}.nc",
                ATTRS | {"settings": {}, "upstream": {}, "code_digest": ""},
            )
        python(TRAINED, folder, dtype, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", **environment)
    files = sorted((tmp_path / "ours/small").glob("*.nc"))
    found = agreement.compare(files, tmp_path / "theirs")
    assert agreement.failures(found.rows) == []
    assert {row.level for row in found.rows} <= {"identical", "rounding"}
    worst = max(row.deviation for row in found.rows)
    assert worst < agreement.ROUNDING[dtype]
    assert {what for what, *_ in found.origins} <= {"processor"}


@pytest.mark.parametrize(
    ("change", "name", "wanted"),
    [
        (moved(1e-12), NAME, "rounding"),
        (moved(1e-6), NAME, "agrees"),
        (moved(1e-12, ["log10_features_needed"]), "log10_features_needed", "rounding"),
        (moved(1e-6, ["log10_features_needed"]), "log10_features_needed", "not judged"),
        (moved(0.5), NAME, "contradicts"),
        (moved(1e-6, [f"{NAME}_low"]), NAME, "agrees"),
        (nan_at_one, NAME, "contradicts"),
        (lambda fit: fit.assign_coords(head=[0, 2]), NAME, "missing"),
        (lambda fit: fit.assign_coords(head=[2, 3]), NAME, "missing"),
        (lambda fit: fit.assign_coords(head=[0, 2]), "head", "not judged"),
        (lambda fit: fit.isel(layer=[0]), NAME, "missing"),
        (lambda fit: moved(0.5)(fit.isel(layer=[0])), NAME, "contradicts"),
    ],
)
def test_levels(change, name, wanted, tmp_path):
    files = study(tmp_path / "ours")
    study(tmp_path / "theirs", change)
    found = agreement.compare(files, tmp_path / "theirs/results/tiny")
    assert levels(found.rows)[name] == wanted
    failed = {row.variable for row in agreement.failures(found.rows)}
    assert (name in failed) == (wanted in ("contradicts", "missing") and name == NAME)
    assert found.figures == {"different": 1}


def test_labels_that_only_they_have_are_no_fault(tmp_path):
    files = study(tmp_path / "ours", lambda fit: fit.isel(head=[0]))
    study(tmp_path / "theirs")
    found = agreement.compare(files, tmp_path / "theirs/results/tiny")
    rows = {row.variable: row for row in found.rows if row.file == "small/fit.nc"}
    assert rows[NAME].level == "identical" and rows[NAME].note == "1 head shared of 1 and 2"
    assert not agreement.failures(found.rows)


def test_wider_intervals_are_told(tmp_path):
    """A lab with very wide intervals agrees with all others; this must be visible."""
    files = study(tmp_path / "ours")

    def wide(fit):
        return fit.assign(
            {NAME: fit[NAME] + 1, f"{NAME}_low": fit[NAME] - 9, f"{NAME}_high": fit[NAME] + 9}
        )

    study(tmp_path / "theirs", wide)
    found = agreement.compare(files, tmp_path / "theirs/results/tiny")
    (row,) = [row for row in found.rows if row.variable == NAME]
    assert row.level == "agrees" and row.note == "their intervals are 90 times as wide"


def test_what_has_no_interval_is_not_judged(tmp_path):
    """If both have no interval, any number is accepted; a missing number is not."""

    def without(by):
        def change(fit):
            fit = moved(by, [NAME])(fit)
            ends = {name: fit[name].where(fit["head"] == 0) for name in WHOLE[1:]}
            return fit.assign(ends | {NAME: fit[NAME].where(fit["head"] == 1, made("fit")[NAME])})

        return change

    files = study(tmp_path / "ours", without(0))
    study(tmp_path / "theirs", without(0.5))
    found = agreement.compare(files, tmp_path / "theirs/results/tiny")
    (row,) = [row for row in found.rows if row.variable == NAME]
    assert row.level == "agrees" and row.note == "4 of 8 have no interval"
    assert not agreement.failures(found.rows)


def test_no_interval_at_all_is_not_judged_and_no_failure(tmp_path):
    def without(by):
        def change(fit):
            fit = moved(by, [NAME])(fit)
            return fit.assign({name: fit[name] * np.nan for name in WHOLE[1:]})

        return change

    files = study(tmp_path / "ours", without(0))
    study(tmp_path / "theirs", without(0.5))
    found = agreement.compare(files, tmp_path / "theirs/results/tiny")
    (row,) = [row for row in found.rows if row.variable == NAME]
    assert row.level == "not judged" and "have no interval" in row.note
    assert not agreement.failures(found.rows)


def without_fits(n, names=(NAME,)):
    """A fit with NaN for the first n values of each name and their intervals."""

    def change(fit):
        for name in names:
            for part in (name, f"{name}_low", f"{name}_high"):
                fit[part].values.reshape(-1)[:n] = np.nan
        return fit

    return change


@pytest.mark.parametrize(
    ("ours", "theirs", "settings", "level", "note"),
    [
        (0, 1, {"n_seeds": 4}, "agrees", "0 only here, 1 only there"),
        (0, 1, {"n_seeds": 3}, "contradicts", "0 only here, 1 only there"),
        (0, 8, {"n_seeds": 4}, "agrees", "0 only here, 8 only there"),
        (8, 8, {"n_seeds": 4}, "identical", ""),
    ],
)
def test_fits_that_one_lab_could_not_do(ours, theirs, settings, level, note, tmp_path):
    """This can be chance only if the settings differ."""
    folder = tmp_path / "theirs"
    settings = settings | {"dtype": "float64"}
    files = study(tmp_path / "ours", without_fits(theirs))
    study(folder, without_fits(ours), settings=settings)
    found = agreement.compare(files, folder / "results/tiny")
    (row,) = [
        row for row in found.rows if row.file == "small/fit.nc" and row.variable in (NAME, "")
    ]
    assert row.level == level and (level == "identical" or row.note == note)
    failed = {row.variable for row in agreement.failures(found.rows)}
    assert failed == ({NAME} if level == "contradicts" else set())


def test_fits_that_only_one_lab_could_do_are_no_chance():
    """Many in one variable, or all of a file, are no chance."""
    row = ROW._replace(alone=(20, 0))
    assert agreement._judged(row, 100, True).level == "contradicts"
    assert agreement._judged(row._replace(alone=(12, 8)), 100, True).level == "agrees"


def test_a_file_without_any_fit_in_common_fails(tmp_path):
    fitted = [name for name in made("fit") if agreement.is_fitted(name, made("fit"))]
    files = study(tmp_path / "ours")
    study(tmp_path / "theirs", without_fits(8, fitted), settings={"n_seeds": 4})
    found = agreement.compare(files, tmp_path / "theirs/results/tiny")
    assert {row.variable for row in agreement.failures(found.rows)} >= {NAME}


@pytest.mark.parametrize("settings", [{"seed": 1}, {"n_seeds": 3, "dtype": "float64"}])
def test_what_is_fitted_to_data_of_other_settings_is_not_judged(
    settings, tmp_path, monkeypatch, capsys
):
    """Unless data differ with the same settings: then fits are judged."""
    files = study(tmp_path / "ours")
    theirs = tmp_path / "theirs/results/tiny"
    study(tmp_path / "theirs", moved(0.5))
    data = qkv()
    data["q"] *= 2
    job.save(
        data,
        theirs / "small/qkv.nc",
        ATTRS | {"stage": "qkv", "upstream": {}, "settings": settings},
    )
    found = agreement.compare(files, theirs)
    (row,) = [row for row in found.rows if row.variable == NAME]
    other = "seed" in settings
    assert (
        row.level == ("not judged" if other else "contradicts")
        and row.fitted != other
        and bool(row.chances.size) != other
    )
    command(monkeypatch, files, "compare", "--other", str(theirs), "--output", str(tmp_path / "x"))
    assert share.main() == 1
    said = capsys.readouterr()
    wanted = "no fitted value that can be judged" if other else "fitted values contradict those of"
    assert wanted in said.err and said.err.count("\n") == 1
    assert "**The data differ** (small/qkv.nc)" in said.out


def test_more_seeds_are_judged_more_sharply(tmp_path):
    """The number of seeds is in the settings of a file or of its inputs."""
    least = []
    for n, where in ((3, "settings"), (10, "settings"), (10, "upstream_settings")):
        folder = tmp_path / f"{n}-{where}"
        nested = {"small/states.nc": {"network": {"n_seeds": n}}}
        attrs = {"settings": {}} | {where: nested}
        files = study(folder / "ours", **attrs)
        study(folder / "theirs", moved(0.5), **attrs)
        found = agreement.compare(files, folder / "theirs/results/tiny")
        (row,) = [row for row in found.rows if row.variable == NAME]
        least.append(row.chances.min())
    assert least[0] > 100 * least[1] and least[1] == least[2]
    odd = xr.Dataset(attrs={"settings": json.dumps({"n_seeds": "many"})})
    assert agreement._n_seeds(odd, folder) == 0


def test_chances_are_students():
    """Equal to those of scipy from the samples."""
    rng = np.random.default_rng(1)
    samples = rng.standard_normal((4, 50)), 3 * rng.standard_normal((9, 50)) + 1
    wanted = scipy.stats.ttest_ind(*samples, equal_var=True).pvalue
    found = agreement.chances(lab(samples[0]), lab(samples[1]), "y", (4, 9))
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def lab(samples):
    """Means over the first axis with Student's intervals."""
    n, mean = len(samples), samples.mean(0)
    half = scipy.stats.t.isf(0.025, n - 1) * samples.std(0, ddof=1) / np.sqrt(n)
    return xr.Dataset({"y": ("x", mean), "y_low": ("x", mean - half), "y_high": ("x", mean + half)})


def test_replicates_agree_and_others_do_not():
    """95 % of pairs of replicates agree in all of 300 values; large shifts are detected."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.1, 10, 300)

    def agree(sizes, shift=0.0):
        ours, theirs = (scale * rng.standard_normal((n, 300)) for n in sizes)
        theirs[:, 0] += shift * scale[0]
        p = agreement.chances(lab(ours), lab(theirs), "y", sizes)
        return agreement._judged(ROW._replace(chances=p), 1, False).level == "agrees"

    for sizes in ((3, 3), (5, 5), (10, 10), (5, 40)):
        same = np.mean([agree(sizes) for _ in range(1000)])
        assert same > 0.93  # 3 sd below 95 %
        assert np.mean([agree(sizes, 100) for _ in range(100)]) < 0.05


def test_another_study_is_one_line(tmp_path, monkeypatch, capsys):
    files = study(tmp_path / "ours")
    other = tmp_path / "theirs/results/tiny"
    study(tmp_path / "theirs")
    (other / "small").rename(other / "large")
    command(monkeypatch, files, "compare", "--other", str(other), "--output", str(tmp_path / "x"))
    assert share.main() == 1
    assert capsys.readouterr().err == (
        f"error: {other}: holds large/fit.nc, large/qkv.nc, but no file of this study, such "
        "as small/fit.nc; give results of the same study\n"
    )


def test_float32_has_a_wider_rounding(tmp_path):
    settings = {"n_seeds": 3, "dtype": "float32"}
    files = study(tmp_path / "ours", settings=settings)
    study(tmp_path / "theirs", moved(1e-6, ["log10_features_needed"]), settings=settings)
    found = agreement.compare(files, tmp_path / "theirs/results/tiny")
    assert levels(found.rows)["log10_features_needed"] == "rounding"


def test_what_is_made_of_other_float32_data_has_a_wider_rounding(tmp_path):
    files = study(tmp_path / "ours")
    folder = tmp_path / "theirs"
    study(folder, moved(1e-6, ["log10_features_needed"]))
    path = folder / "results/tiny/small/qkv.nc"
    data = qkv()
    data["q"] *= np.float32(1 + 1e-6)
    job.save(data, path, ATTRS | {"stage": "qkv", "upstream": {}})
    found = agreement.compare(files, folder / "results/tiny")
    assert levels(found.rows)["log10_features_needed"] == "rounding"
    assert {row.variable: row.level for row in found.rows if "qkv" in row.file}["q"] == "rounding"


def test_deviations_by_hand():
    nan, inf = np.nan, np.inf
    ours = np.array([1.0, 2.0, 4.0, 0.0, nan, inf, inf, 1.0])
    theirs = np.array([1.0, 1.0, 5.0, 0.1, nan, inf, -inf, nan])
    # the median of our values, 1, is the smallest divisor
    wanted = np.array([0, 0.5, 0.2, 0.1, 0, 0, inf, inf])
    np.testing.assert_allclose(agreement.deviations(ours, theirs), wanted)
    assert agreement.deviations(np.zeros(2), np.array([0.0, 1e-30])).tolist() == [0, 1]


def test_the_report_names_what_differs(tmp_path, monkeypatch, capsys):
    files = study(tmp_path / "ours")
    theirs = tmp_path / "theirs/results/tiny"
    study(
        tmp_path / "theirs",
        moved(3),
        settings={"n_seeds": 4, "dtype": "float64"},
        device="cuda",
        code_digest="f" * 64,
        data="a | b\x1b[31m",
    )
    shutil.copytree(theirs / "small", theirs / "extra")
    (theirs / "small/qkv.nc").unlink()
    folder = tmp_path / "comparison"
    command(monkeypatch, files, "compare", "--other", str(theirs), "--output", str(folder))
    assert share.main() == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert f"small/fit.nc {NAME}" in said.err
    text = (folder / "tiny.md").read_text()
    assert text.startswith(said.out[said.out.index("# ") :].split("\nAll that was compared: ")[0])
    assert "\x1b" not in text
    for row in (
        "| n_seeds | 3 | 4 | small/fit.nc |",
        "| device | cpu | cuda | small/fit.nc |",
        "| data | random heads | a / b?[31m | small/fit.nc |",
        "| code of fit | 000000000000 | ffffffffffff | small/fit.nc |",
        "| small/qkv.nc | all | missing | – |  |",
        f"| small/fit.nc | {NAME} | contradicts | 0.75 | their intervals are 4 times as wide; 8 "
        "of 8 differ, p down to ... |",
    ):
        assert row in re.sub(r"p down to \S+", "p down to ...", text).splitlines()
    assert "Only the other has extra/fit.nc, extra/qkv.nc." in text
    assert {path.name for path in folder.iterdir()} == {
        f"tiny.{end}" for end in ("md", "svg", "pdf", "png")
    }


def test_fitted_values_that_are_missing_fail(tmp_path):
    files = study(tmp_path / "ours")
    study(tmp_path / "theirs")
    (tmp_path / "theirs/results/tiny/small/fit.nc").unlink()
    found = agreement.compare(files, tmp_path / "theirs/results/tiny")
    assert [row.file for row in agreement.failures(found.rows)] == ["small/fit.nc"]
    (tmp_path / "ours/results/tiny/small/qkv.nc").unlink()
    with pytest.raises(UserError, match="qkv.nc: is missing; run the study first"):
        agreement.compare(files, tmp_path / "theirs/results/tiny")


# Archives that other programs changed, and folders.

SOME = "größe 模.nc"  # a user's own file, whose name archivers encode differently


@pytest.fixture(scope="module")
def travelled(tmp_path_factory):
    """An archive with a user's own file, and our results, which are equal to its results."""
    folder = tmp_path_factory.mktemp("travelled")
    own = folder / SOME
    own.write_bytes(b"q, k and v")
    files = study(folder)
    return packed_of(folder, files, own=[own]), files


def packed_of(folder: Path, files: list[Path], text="experiments: {}\n", **options) -> Path:
    settings = folder / "config/studies/tiny.yaml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(text)
    sharing.export(files, [settings], ROOT, folder / "own.zip", **options)
    return folder / "own.zip"


@pytest.fixture
def here(monkeypatch):
    """Read their files in this process, because starting another process takes long."""

    def read(limits):
        for path, limit in limits.items():
            if fault := sharing._fault_of(path, limit):
                raise UserError(fault)

    monkeypatch.setattr(sharing, "read_apart", read)


def repacked(
    archive: Path,
    target: Path,
    name=lambda name: name,
    more=(),
    method=zipfile.ZIP_STORED,
    order=sorted,
):
    """The same files as packed by another program."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w", method) as new:
        for member in order(old.namelist()):
            new.writestr(name(member), old.read(member))
        for junk in more:
            new.writestr(junk, "" if junk.endswith("/") else "x")
    return target


def below(folder: str):
    return lambda name: f"{folder}/{name}"


def as_cp437(name: str) -> str:
    """A name in UTF-8, read as code page 437, which zip files without a flag have."""
    return name.encode("utf-8").decode("cp437")


def decomposed(name: str) -> str:
    return unicodedata.normalize("NFD", name)


def unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


def self_extracting(archive: Path, target: Path) -> Path:
    target.write_bytes(b"MZ a program that unpacks what follows" + archive.read_bytes())
    return target


def foreign_modes(archive: Path, target: Path) -> Path:
    """Other modes and dates, as after a copy to another file system."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            other = zipfile.ZipInfo(entry.filename, (2026, 1, 2, 3, 4, 6))
            other.create_system, other.external_attr = 0, 0x20
            new.writestr(other, old.read(entry))
    return target


def large_headers(archive: Path, target: Path) -> Path:
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as member:
                member.write(old.read(name))
    return target


def linked(archive: Path, target: Path) -> Path:
    target.symlink_to(archive)
    return target


def in_a_folder(archive: Path, target: Path) -> Path:
    """Unpacked on a Mac: with a folder around all files, and files of the Finder."""
    unpacked(archive, target / "mine")
    (target / "__MACOSX/mine/results/tiny/small").mkdir(parents=True)
    (target / "__MACOSX/mine/results/tiny/small/._fit.nc").write_text("x")
    return target


def beside_others(archive: Path, target: Path) -> Path:
    """A project with results of several studies, one called like ours, and a link to itself."""
    unpacked(archive, target)
    shutil.copytree(target / "results/tiny", target / "results/large")
    (target / "results/circle").symlink_to("circle")
    (target / "results/up").symlink_to(target)
    return target


def renamed(archive: Path, target: Path) -> Path:
    unpacked(archive, target)
    return (target / "results/tiny").rename(target / "of another name")


def with_a_pipe(archive: Path, target: Path) -> Path:
    """Entries that are not read may be of any kind."""
    unpacked(archive, target)
    os.mkfifo(target / "results/tiny/small/states.nc.tmp")
    os.mkfifo(target / "results/tiny/figures/other.svg")
    return target


SAME = {
    "finder": lambda a, b: repacked(
        a, b, below("mine"), ["__MACOSX/mine/._README.md", "mine/.DS_Store"]
    ),
    "ds_store": lambda a, b: repacked(a, b, more=[".DS_Store", "results/.DS_Store"]),
    "appledouble": lambda a, b: repacked(a, b, more=["._README.md", "results/tiny/small/._fit.nc"]),
    "explorer": lambda a, b: repacked(
        a, b, below("mine"), ["mine/Thumbs.db", "mine/results/desktop.ini"]
    ),
    "network drive": lambda a, b: repacked(a, b, more=["@eaDir/README.md", ".directory", "Icon\r"]),
    "deflated": lambda a, b: repacked(a, b, method=zipfile.ZIP_DEFLATED),
    "lzma": lambda a, b: repacked(a, b, method=zipfile.ZIP_LZMA),
    "folders": lambda a, b: repacked(a, b, more=["results/", "results/tiny/", "empty/"]),
    "order": lambda a, b: repacked(a, b, order=lambda names: sorted(names, reverse=True)),
    "two folders": lambda a, b: repacked(a, b, below("a/b")),
    "dots": lambda a, b: repacked(a, b, below(".")),
    "backslashes": lambda a, b: repacked(a, b, lambda name: name.replace("/", "\\")),
    "backslashes in a folder": lambda a, b: repacked(
        a, b, lambda name: f"mine\\{name}", ["mine\\results\\"]
    ),
    "decomposed names": lambda a, b: repacked(a, b, decomposed),
    "another alphabet": lambda a, b: repacked(a, b, as_cp437),
    "zip64": large_headers,
    "self-extracting": self_extracting,
    "modes": foreign_modes,
    "link": linked,
    "unpacked": unpacked,
    "its results": lambda a, b: unpacked(a, b) / "results",
    "its study": lambda a, b: unpacked(a, b) / "results/tiny",
    "another study's name": renamed,
    "unpacked in a folder": in_a_folder,
    "beside others": beside_others,
    "with a pipe": with_a_pipe,
}


@pytest.mark.parametrize("hands", SAME)
def test_an_archive_from_other_hands_is_compared(hands, travelled, here, tmp_path):
    archive, files = travelled
    other = SAME[hands](archive, tmp_path / "other")
    with sharing.opened(other, tmp_path / "x", files) as theirs:
        found = agreement.compare(files, theirs)
    assert {(row.file, row.level) for row in found.rows} == {
        ("small/qkv.nc", "identical"),
        ("small/fit.nc", "identical"),
    }
    assert found.figures == {"identical": 1} and not agreement.failures(found.rows)
    assert not list((tmp_path / "x").glob("*"))


def tarred(archive: Path, target: Path, mode="w") -> Path:
    with tarfile.open(target, mode) as packed:
        packed.add(archive, "mine.zip")
    return target


def starting(start: bytes):
    return lambda archive, target: target.write_bytes(start + bytes(300)) and target


def twice(archive: Path, target: Path) -> Path:
    """An archive in an archive, as some sites distribute files."""
    with zipfile.ZipFile(target, "w") as packed:
        packed.write(archive, "mine.zip")
    return target


def broken(method: int, shift: int):
    """The largest member is compressed and its stream damaged."""

    def write(archive: Path, target: Path) -> Path:
        repacked(archive, target, method=method)
        with zipfile.ZipFile(target) as packed:
            largest = max(packed.infolist(), key=lambda entry: entry.compress_size)
        data = bytearray(target.read_bytes())
        start = largest.header_offset + 30 + len(largest.filename) + shift
        data[start : start + 40] = b"\xff" * 40
        target.write_bytes(data)
        return target

    return write


def patched(offset: int, value: bytes):
    """Changes bytes of the first member's entry, in the directory and before its data."""

    def write(archive: Path, target: Path) -> Path:
        data = bytearray(archive.read_bytes())
        with zipfile.ZipFile(archive) as packed:
            start = packed.start_dir
        data[start + offset + 2 : start + offset + 2 + len(value)] = value
        data[offset : offset + len(value)] = value
        target.write_bytes(data)
        return target

    return write


def metadata(text: bytes):
    def write(archive: Path, target: Path) -> Path:
        with (
            zipfile.ZipFile(archive) as old,
            zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for name in old.namelist():
                new.writestr(name, text if name == META else old.read(name))
        return target

    return write


def listed_twice(archive: Path, target: Path) -> Path:
    repacked(archive, target)
    with zipfile.ZipFile(target, "a") as packed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed.writestr("README.md", "x")
    return target


def two_studies(archive: Path, target: Path) -> Path:
    """An archive that lists results of two studies, with their SHA-256."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == META:
                crate = json.loads(data)
                (fit,) = [
                    part for part in crate["@graph"] if part["@id"] == "results/tiny/small/fit.nc"
                ]
                crate["@graph"].append(fit | {"@id": "results/large/small/fit.nc"})
                data = json.dumps(crate)
            new.writestr(name, data)
        new.writestr("results/large/small/fit.nc", old.read("results/tiny/small/fit.nc"))
    return target


def pipe(archive: Path, target: Path) -> Path:
    os.mkfifo(target)
    return target


def socket_file(archive: Path, target: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(target))
    return target


def circle(archive: Path, target: Path) -> Path:
    target.symlink_to(target)
    return target


def folder_with(**content):
    """An unpacked archive with something else in place of fit.nc."""

    def write(archive: Path, target: Path) -> Path:
        path = unpacked(archive, target) / "results/tiny/small/fit.nc"
        path.unlink()
        ((kind, value),) = content.items()
        getattr(path, kind)(*value)
        return target

    return write


def pipe_within(archive: Path, target: Path) -> Path:
    path = unpacked(archive, target) / "results/tiny/small/fit.nc"
    path.unlink()
    os.mkfifo(path)
    return target


def sparse(archive: Path, target: Path) -> Path:
    path = unpacked(archive, target) / "results/tiny/small/fit.nc"
    os.truncate(path, 10**12)
    return target


def crowded(archive: Path, target: Path) -> Path:
    folder = unpacked(archive, target) / "results/tiny/more"
    folder.mkdir()
    for i in range(sharing.MAX_FILES + 1):
        os.mknod(folder / str(i))
    return target


def several(archive: Path, target: Path) -> Path:
    unpacked(archive, target)
    shutil.copytree(target / "results/tiny", target / "results/a")
    (target / "results/tiny").rename(target / "results/b")
    return target


def tampered(change):
    """An unpacked archive with a changed fit.nc whose digest was changed as well."""

    def write(archive: Path, target: Path) -> Path:
        path = unpacked(archive, target) / "results/tiny/small/fit.nc"
        fit = xr.load_dataset(path)
        fit = change(fit) or fit
        fit.attrs["content_digest"] = job.content_digest(fit)
        path.unlink()
        fit.to_netcdf(path, engine="netcdf4")
        return target

    return write


def attribute(**attrs):
    return tampered(lambda fit: fit.attrs.update(attrs))


def rewritten_file(change, keep=True):
    """An unpacked archive with a fit.nc that was changed by netCDF4."""

    def write(archive: Path, target: Path) -> Path:
        path = unpacked(archive, target) / "results/tiny/small/fit.nc"
        with netCDF4.Dataset(path, "a" if keep else "w") as data:
            change(data)
        return target

    return write


def huge(data):
    """A variable of 4 TB that takes no space on the disk."""
    data.createDimension("x", 10**12)
    data.createVariable("x", "f4", ("x",), chunksizes=(1000,), zlib=True)


def huge_chunk(data):
    """One value, for which the library allocates a chunk of 10^9 values."""
    data.createDimension("x", None)
    data.createVariable("x", "f4", ("x",), chunksizes=(10**9,), zlib=True)


def many_strings(data):
    data.createDimension("x", 10**9)
    data.createVariable("x", str, ("x",), chunksizes=(1000,))


def own_type(data):
    data.createDimension("x", 2)
    data.createVariable("x", data.createVLType(np.int32, "list"), ("x",))


DEEP = "[" * 100_000 + "]" * 100_000
ODD = {
    "missing": (lambda a, b: b, "No such file"),
    "pipe": (pipe, "is neither a file nor a folder"),
    "socket": (socket_file, "is neither a file nor a folder"),
    "device": (lambda a, b: Path("/dev/zero"), "is neither a file nor a folder"),
    "circle": (circle, "Too many levels of symbolic links"),
    "empty folder": (lambda a, b: b.mkdir() or b, "holds no results"),
    "tar": (tarred, r"another kind \(tar\); unpack it"),
    "tar.gz": (lambda a, b: tarred(a, b, "w:gz"), r"another kind \(gzip\); unpack it"),
    "tar.xz": (lambda a, b: tarred(a, b, "w:xz"), r"another kind \(xz\); unpack it"),
    "7z": (starting(b"7z\xbc\xaf\x27\x1c"), r"another kind \(7z\); unpack it"),
    "rar": (starting(b"Rar!\x1a\x07"), r"another kind \(rar\); unpack it"),
    "zip in zip": (twice, "unpack it and give 'mine.zip'"),
    "encrypted": (patched(6, b"\x01"), "is encrypted"),
    "deflate64": (patched(8, b"\x09"), "unpack the archive and give its folder"),
    "broken lzma": (broken(zipfile.ZIP_LZMA, 9), "cannot be read as an archive|Bad CRC"),
    "broken lzma header": (broken(zipfile.ZIP_LZMA, 0), "cannot be read as an archive"),
    "bzip2": (
        lambda a, b: repacked(a, b, method=zipfile.ZIP_BZIP2),
        "unpack the archive and give its folder",
    ),
    "broken deflate": (broken(zipfile.ZIP_DEFLATED, 4), "cannot be read as an archive"),
    "one name twice": (listed_twice, "has several files of one name"),
    "something within": (
        lambda a, b: repacked(a, b, below("mine"), ["mine/evil.py"]),
        "'evil.py' is not listed",
    ),
    "something around": (
        lambda a, b: repacked(a, b, below("mine"), ["evil.py"]),
        "'evil.py' is not listed",
    ),
    "backslashes upwards": (lambda a, b: repacked(a, b, more=["..\\x"]), "is no path inside"),
    "a share": (lambda a, b: repacked(a, b, more=["\\\\host\\share\\x"]), "is no path inside"),
    "two studies": (two_studies, "holds results of 2 studies"),
    "metadata too large": (
        metadata(bytes(sharing.MAX_METADATA_BYTES + 1)),
        "is larger than 20 MB",
    ),
    "metadata is a list": (metadata(b"[]"), "cannot be read; ask"),
    "metadata is a number": (metadata(b'{"@graph": 7}'), "cannot be read; ask"),
    "metadata has odd names": (
        metadata(b'{"@graph": [{"@id": [], "sha256": 1}]}'),
        "cannot be read; ask",
    ),
    "metadata is UTF-16": (metadata("{}".encode("utf-16")), "cannot be read; ask"),
    "too many files": (crowded, "has a folder of more than 20000 files in it"),
    "several studies": (several, r"holds 2 studies \('a', 'b'\); give the folder of one"),
    "pipe within": (pipe_within, "is no file"),
    "folder within": (folder_with(mkdir=()), "is no file"),
    "device within": (folder_with(symlink_to=("/dev/zero",)), "is no file"),
    "circle within": (
        folder_with(symlink_to=("fit.nc",)),
        "is no file, or a link to a missing file",
    ),
    "text within": (folder_with(write_text=("version https://git-lfs",)), "cannot be read"),
    "empty file within": (folder_with(write_text=("",)), "cannot be read"),
    "huge file within": (sparse, "has 1000.0 GB, at most 0.1 GB are read"),
    "huge array": (rewritten_file(huge), "would take 4000.0 GB of memory"),
    "huge chunk": (rewritten_file(huge_chunk), "would take 4.0 GB of memory"),
    "huge texts": (rewritten_file(many_strings), "would take 64.0 GB of memory"),
    "a user-defined type": (rewritten_file(own_type), "'x' has a user-defined type"),
    "no contract": (rewritten_file(lambda data: None, keep=False), "got schema version no"),
    "data is an array": (
        attribute(data=np.arange(3)),
        "got ndarray as its attribute data, wanted a text",
    ),
    "data is a number": (attribute(data=1), "as its attribute data, wanted a text"),
    "data is a list": (attribute(data=["a", "b"]), "got list as its attribute data"),
    "data is huge": (attribute(data="x" * 1_000_001), "got a text of more than 1 MB"),
    "device is an array": (attribute(device=np.ones(2)), "got ndarray as its attribute device"),
    "stage is an array": (attribute(stage=np.ones(2)), "got ndarray as its attribute stage"),
    "code is an array": (
        attribute(code_digest=np.ones(2)),
        "got ndarray as its attribute code_digest",
    ),
    "schema is an array": (
        attribute(schema_version=np.ones(2)),
        "cannot be read|got schema version",
    ),
    "settings are nested": (
        attribute(settings=DEEP),
        "its attribute settings is missing or damaged",
    ),
    "settings are nested less": (
        attribute(settings='{"a":' * 60 + "1" + "}" * 60),
        "attribute settings is missing",
    ),
    "settings are a number": (attribute(settings=3), "as its attribute settings, wanted a text"),
    "settings are a list": (
        attribute(settings='[["a", 1]]'),
        "its attribute settings is missing or damaged",
    ),
    "settings have a huge number": (
        attribute(settings='{"n_seeds": ' + "9" * 5000 + "}"),
        "attribute settings is",
    ),
    "no settings": (
        tampered(lambda fit: fit.attrs.pop("settings") and None),
        "attribute settings is missing",
    ),
    "versions are an array": (
        attribute(versions=np.ones(2)),
        "got ndarray as its attribute versions",
    ),
    "versions are no JSON": (
        attribute(versions="torch"),
        "its attribute versions is missing or damaged",
    ),
    "upstream settings are a text": (
        attribute(upstream_settings='"a"'),
        "its attribute upstream_settings is",
    ),
    "two equal heads": (
        tampered(lambda fit: fit.assign_coords(head=[1, 1])),
        "head has the label 1 twice",
    ),
    "two equal phases": (
        tampered(lambda fit: fit.assign_coords(phase=["a", "a"])),
        "phase has the label a twice",
    ),
    "heads are no integers": (
        tampered(lambda fit: fit.assign_coords(head=[0.0, np.nan])),
        "head: got float64",
    ),
    "heads are names": (tampered(lambda fit: fit.assign_coords(head=["0", "1"])), "head: got str"),
    "no labels": (tampered(lambda fit: fit.drop_vars("head")), "head: missing"),
    "damaged label": (
        tampered(lambda fit: fit.assign_coords(token=[0, 1])),
        "token: unknown variable|cannot be read",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_archives_and_folders_are_one_line(
    kind, travelled, here, tmp_path, monkeypatch, capsys
):
    """Each ends at once and leaves no files."""
    monkeypatch.chdir(tmp_path)  # because names of sockets must be short
    (tmp_path / "there").mkdir()
    archive, files = travelled
    make, words = ODD[kind]
    other = make(archive, tmp_path / "there/other")
    command(monkeypatch, files, "compare", "--other", str(other), "--output", str(tmp_path / "x"))
    assert share.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {other}") and said.count("\n") == 1
    assert re.search(words, said)
    assert not list((tmp_path / "x").glob("*"))


@pytest.mark.slow
def test_their_files_are_read_in_another_process(travelled, tmp_path, monkeypatch):
    """The message names a file that makes the library hang or crash, or that is damaged."""
    archive, files = travelled
    with sharing.opened(archive, tmp_path / "x", files) as folder:
        assert (folder / "small/fit.nc").exists()
    damaged = unpacked(archive, tmp_path / "y") / "results/tiny"
    whole = (damaged / "small/fit.nc").read_bytes()
    os.truncate(damaged / "small/fit.nc", 5000)
    with pytest.raises(
        UserError, match=r"fit.nc: cannot be read \(.*\); it may be damaged: ask for it again"
    ):
        with sharing.opened(damaged, tmp_path / "x", files):
            pass
    monkeypatch.setattr(sharing, "READ_SECONDS", 8)
    # with these zeros HDF5 may loop for ever
    (damaged / "small/fit.nc").write_bytes(whole[:5120] + bytes(1024) + whole[6144:])
    with pytest.raises(
        UserError, match="fit.nc: cannot be read .*; it may be damaged: ask for it again"
    ):
        sharing.read_apart({damaged / "small/fit.nc": 10**9})
    monkeypatch.setattr(sharing, "READ_SECONDS", 3)
    os.mkfifo(tmp_path / "pipe.nc")
    with pytest.raises(UserError, match="pipe.nc: cannot be read within 3 s; it may be damaged"):
        sharing.read_apart({tmp_path / "pipe.nc": 10})
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(UserError, match="fit.nc: makes the netCDF library fail"):
        sharing.read_apart({damaged / "small/fit.nc": 10})


def test_a_bomb_that_lies_about_its_size_takes_little_memory(archive, tmp_path):
    """A member that says 100 bytes and unpacks to 200 MB is refused by its checksum."""
    for method, pack in ((zipfile.ZIP_LZMA, raw_lzma), (zipfile.ZIP_DEFLATED, raw_deflate)):
        bomb = pack(bytes(200_000_000))
        target = tmp_path / f"{method}.zip"
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
            for name in old.namelist():
                new.writestr(name, bomb if name == "README.md" else old.read(name))
        data = bytearray(target.read_bytes())
        for mark, offset in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
            start = data.find(
                b"README.md", data.find(mark) if offset == 8 else data.rfind(b"PK\5\6") - 30000
            )
            start = data.rfind(mark, 0, start)
            data[start + offset : start + offset + 2] = method.to_bytes(2, "little")
            data[start + offset + 14 : start + offset + 18] = (100).to_bytes(4, "little")
        target.write_bytes(data)
        tracemalloc.start()
        with pytest.raises(UserError, match="Bad CRC-32|differs from its SHA-256"):
            with sharing.opened(target, tmp_path / "x"):
                pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100_000_000


def raw_lzma(data: bytes) -> bytes:
    packer = zipfile.LZMACompressor()
    return packer.compress(data) + packer.flush()


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


# Users' own files, and equal archives.


def test_own_files_travel_under_their_names(tmp_path, capsys):
    """A study with files of several folders, whose paths are not in the archive."""
    paths = {name: tmp_path / "secret project" / name for name in ("my model.nc", "other.nc")}
    paths["my model.nc"].parent.mkdir()
    for name, path in paths.items():
        path.write_bytes(name.encode())
    text = (
        "# kept\nexperiments:\n"
        f"  a: {{data: {{file: '{paths['my model.nc']}'}}}} # mine\n"
        f"  b:\n    data:\n      file: >-\n        {paths['other.nc']}\n"
        "    network: {n_features: [1]}\n"
        "  c: {data: {file: ../hidden place/gone.nc}}\n"
        "  d: {data: {file: plain.nc}}\n"
    )
    upstream = {name: job.file_digest(path) for name, path in paths.items()}
    files = study(tmp_path)
    attrs = ATTRS | {"stage": "qkv", "upstream": upstream}
    job.save(qkv(), tmp_path / "results/tiny/own/qkv.nc", attrs)
    files.append(tmp_path / "results/tiny/own/qkv.nc")
    archive = packed_of(
        tmp_path, files, text, own=[*paths.values(), paths["other.nc"]], absent=["gone.nc"]
    )
    said = capsys.readouterr().out
    assert said.count("gone.nc: is not there, so that it is not in the archive") == 1
    folder = unpacked(archive, tmp_path / "unpacked")
    assert (folder / "config/inputs/own/my model.nc").read_bytes() == b"my model.nc"
    wanted = (
        '# kept\nexperiments:\n  a: {data: {file: "my model.nc"}} # mine\n'
        "  b:\n    data:\n      file: other.nc\n    network: {n_features: [1]}\n"
        "  c: {data: {file: gone.nc}}\n  d: {data: {file: plain.nc}}\n"
    )
    assert (folder / "config/studies/tiny.yaml").read_text() == wanted
    for path in folder.rglob("*"):
        assert path.is_dir() or not re.search(b"secret project|hidden place", path.read_bytes()), (
            path
        )
    crate = ROCrate(folder)
    action = crate.get("#run")
    assert {unquote(part.id) for part in action["object"]} == {
        "config/studies/tiny.yaml",
        "config/inputs/own/my model.nc",
        "config/inputs/own/other.nc",
    }
    paths["other.nc"].write_bytes(b"new")
    with pytest.raises(
        UserError, match="other.nc: was changed after the results were made from it"
    ):
        packed_of(tmp_path, files, text, own=[*paths.values()])


def test_the_command_that_packs(tmp_path, monkeypatch, capsys):
    """With the settings of config.yaml, of which only the limit of memory is packed."""
    files = study(tmp_path)
    settings = tmp_path / "config/studies/tiny.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("experiments: {a: {data: {file: x/my.nc}}}\n")
    (tmp_path / "my.nc").write_text("q")
    machine = {
        "study": "tiny",
        "memory_gb": 64.5,
        "device": "cuda",
        "shards": 8,
        "other": "/home/me",
    }
    own = [tmp_path / "my.nc"], ["a.nc", "b.nc"]
    for files_of_users in (([], []), own):
        monkeypatch.setattr(share.plan, "own_files", lambda _, found=files_of_users: found)
        command(
            monkeypatch,
            files,
            "export",
            "--settings",
            settings,
            "--output",
            tmp_path / "tiny.zip",
            "--machine",
            json.dumps(machine),
        )
        assert share.main() == 0
    said = capsys.readouterr().out
    assert all(said.count(f"{name}: is not there, so that") == 1 for name in ("a.nc", "b.nc"))
    folder = unpacked(tmp_path / "tiny.zip", tmp_path / "there")
    config = yaml.safe_load((folder / "config/config.yaml").read_text())
    assert config == {
        "study": "tiny",
        "device": "auto",
        "memory_gb": 64.5,
        "shards": 1,
        "file": "",
        "other": "",
        "pathvars": {},
    }
    assert (folder / "config/inputs/own/my.nc").read_text() == "q"
    assert (
        folder / "config/studies/tiny.yaml"
    ).read_text() == "experiments: {a: {data: {file: my.nc}}}\n"


@pytest.mark.parametrize("name", ["a.nc", "A.nc", "é.nc"])
def test_own_files_of_one_name(name, tmp_path):
    """Also of equal names without case; the same file twice is one file."""
    for folder, other in (("a", name), ("b", decomposed(name.lower()))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / other).write_text(folder)
    paths = [path for folder in "ab" for path in (tmp_path / folder).iterdir()]
    with pytest.raises(UserError, match="there is another file of the name"):
        sharing.own_members(paths, [])
    paths[1].write_text("a")
    assert set(sharing.own_members(paths, [])) <= {
        f"config/inputs/own/{n}" for n in (name, name.lower())
    }


@pytest.mark.parametrize("name", ["a\\b.nc", "a\nb.nc"])
def test_own_files_that_no_other_system_can_unpack(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match="not every system can unpack"):
        sharing.own_members([tmp_path / name], [])
    with pytest.raises(UserError, match="gone.nc: is no file that can be packed"):
        sharing.own_members([tmp_path / "gone.nc"], [])


NAMES = st.text(
    st.characters(
        codec="utf-8",
        exclude_categories=["Cc", "Cs", "Zl", "Zp"],
        exclude_characters="/\\\ufeff\ufffe\uffff{}<>",
    ),
    min_size=1,
).filter(lambda name: name.strip() == name and name[0] != "-")


@hypothesis.given(
    NAMES, st.sampled_from(["", "/home/a/", "../", "x y/"]), st.sampled_from("'\""), st.booleans()
)
def test_only_the_names_of_own_files_are_replaced(name, folder, quote, flow):
    """For any name, the study then has the name, and its text is the same elsewhere."""
    value = (
        json.dumps(folder + name, ensure_ascii=False)
        if quote == '"'
        else "'" + (folder + name).replace("'", "''") + "'"
    )
    before, after = (
        ("data: {a: [1,2],  file: ", " , b: é} # c\n")
        if flow
        else ("data:\n  file: ", "   # c\n  b: é\n")
    )
    new = sharing.named_only(before + value + after)
    assert new.startswith(before) and new.endswith(after)
    assert yaml.safe_load(new)["data"]["file"] == unicodedata.normalize("NFC", name)


def test_the_config_of_an_archive(tmp_path):
    """It has the study and the limit of memory; comments are kept, other settings are not."""
    shipped = (ROOT / "config/config.yaml").read_text()
    machine = {
        "study": "mine",
        "memory_gb": 64,
        "device": "cuda",
        "shards": 7,
        "other": "/home/me/x.zip",
    }
    text = sharing.config_text(shipped, machine, ROOT)
    assert text == shipped.replace("study: default", "study: mine").replace(
        "memory_gb: 8", "memory_gb: 64"
    )
    wanted = {
        "study": "mine",
        "device": "auto",
        "memory_gb": 64,
        "shards": 1,
        "file": "",
        "other": "",
        "pathvars": {},
    }
    for mine in (
        "",
        "- 1",
        "7",
        "a: [",
        "study: x\npathvars: {results: /scratch/me}\n",
        "{study: a, other: b}",
        "study: x\nother:\n# kept",
        "study: >-\n  a\nother: /home/me\r\nshards: 7\r\n",
        "study: &a b\nother: *a\n",
    ):
        text = sharing.config_text(mine, machine, ROOT)
        assert yaml.safe_load(text) == wanted and "me" not in text.replace("memory_gb", ""), mine
        assert ("# kept" in text) == ("# kept" in mine)


EXPORT = """
import os, sys
from pathlib import Path
os.umask(int(sys.argv[2], 8))
sys.path.insert(0, sys.argv[1] + "/workflow/scripts")
from tripartite import sharing
files = sorted(path for path in Path("results/tiny").rglob("*.*") if path.is_file())
settings = [Path("config/inputs/passages/darwin.txt"), Path("config/studies/tiny.yaml")]
paths = map(Path, ("config/inputs/own/my.nc", "../data/my.nc", "my.nc"))
own = [path for path in paths if path.exists()][:1]
sharing.export(files, settings, Path(sys.argv[1]), Path("results/export/tiny.zip"), own)
"""


def exported_from(root: Path, umask: str, **environment) -> tuple[bytes, str]:
    """Bytes of the archive that a lab packs there in another process, and the output."""
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, root, umask],
        cwd=root,
        text=True,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "HOME": str(root)} | environment,
    )
    assert done.returncode == 0, done.stderr
    return (root / "results/export/tiny.zip").read_bytes(), done.stdout


@pytest.mark.slow
def test_equal_results_give_equal_archives(tmp_path):
    """Whatever the folder, the user and the time zone, with and without the clone; packed again."""
    first = project(tmp_path / "a föhn")
    study(first)
    (first / "my.nc").write_text("q")
    text = "experiments: {{a: {{data: {{file: {}}}}}}} # mine\n"
    (first / "config/studies/tiny.yaml").write_text(text.format("my.nc"))
    bare, said = exported_from(first, "077", TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="1")
    assert "the commit of the workflow is not known here" in said
    second = tmp_path / "b"
    shutil.copytree(first, second)
    shutil.rmtree(second / "results/export")
    (second / "my.nc").unlink()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/my.nc").write_text("q")
    (second / "config/studies/tiny.yaml").write_text(text.format("../data/my.nc"))
    config = second / "config/config.yaml"
    config.write_text(
        config.read_text()
        .replace("study: default", "study: tiny")
        .replace("shards: 1", "shards: 9")
    )
    for path in second.rglob("*"):
        os.utime(path, (10**9, 10**9))
    (second / "workflow/scripts/tripartite/._job.py").write_text("x")
    assert exported_from(second, "022", TZ="America/Lima", LANG="C.UTF-8")[0] == bare

    git = ["git", "-c", "user.name=lab", "-c", "user.email=lab@example.org"]
    for words in (
        ["init", "-q"],
        ["add", "workflow", "envs", "config", "Snakefile", "README.md", "LICENSE", "CITATION.cff"],
        ["commit", "-qm", "x"],
    ):
        subprocess.run([*git, *words], cwd=first, check=True, capture_output=True)
    cloned, said = exported_from(first, "022")
    assert cloned != bare and "not known" not in said
    os.chown(first, 1000, 1000)  # a clone of another user, which git calls dubious
    os.chown(first / ".git", 1000, 1000)
    (first / "notes.txt").write_text("private")
    (first / "workflow/Snakefile").chmod(0o755)
    variables = {"TZ": "Asia/Tokyo", "GIT_DIR": "/nowhere", "LANGUAGE": "de"}
    assert exported_from(first, "077", **variables)[0] == cloned
    archive = first / "results/export/tiny.zip"
    third = unpacked(archive, tmp_path / "c")
    again, said = exported_from(third, "022")
    assert again == cloned and "not known" not in said
    with open(third / "workflow/Snakefile", "a") as file:
        file.write("\n")
    other, said = exported_from(third, "022")
    assert other != cloned and "the commit of the workflow is not known here" in said


def test_no_commit_is_said_in_the_archive(tmp_path):
    """The date is then that of the release, not today's."""
    shutil.copy(ROOT / "CITATION.cff", tmp_path)
    commit, date = sharing._commit_and_date(tmp_path, {})
    released = yaml.safe_load((ROOT / "CITATION.cff").read_text())["date-released"].isoformat()
    assert (commit, date) == ("not known: packed outside a clone", released)
    for text in ("[" * 100_000, "{}", '{"@graph": [{"@id": "#git-commit", "value": "x"}]}', "\x00"):
        (tmp_path / META).write_text(text)
        assert sharing._commit_and_date(tmp_path, {}) == (commit, date)
    (tmp_path / "CITATION.cff").write_text("version: 1\n")
    with pytest.raises(UserError, match="has no date-released"):
        sharing._commit_and_date(tmp_path, {})


# Equal results of every kind.


@pytest.mark.parametrize("contract", sorted(files()))
@pytest.mark.parametrize("values", ["numbers", "no intervals", "nothing"])
def test_equal_results_of_every_kind_agree(contract, values, tmp_path, here, monkeypatch, capsys):
    """Also if no value has an interval or is a number, and if there is no figure."""
    dataset = qkv() if contract == "qkv" else made(contract)
    for name in () if contract == "qkv" else dataset.data_vars:
        ends = name.endswith(("_low", "_high")) and values == "no intervals"
        if dataset[name].dtype.kind == "f" and (ends or values == "nothing"):
            dataset[name] = dataset[name] * np.nan
    path = tmp_path / "results/tiny/small" / f"{contract}.nc"
    job.save(dataset, path, ATTRS | {"stage": contract, "upstream": {}, "settings": {"n_seeds": 1}})
    found = agreement.compare([path], tmp_path / "results/tiny")
    assert [row.level for row in found.rows] == ["identical"]
    assert not agreement.failures(found.rows) and not found.figures
    if (contract, values) == ("states", "nothing"):
        command(
            monkeypatch,
            [path],
            "compare",
            "--other",
            str(tmp_path / "results/tiny"),
            "--output",
            str(tmp_path / "x"),
        )
        assert share.main() == 0
        said = capsys.readouterr().out
        assert "All 1 rows are identical or differ by rounding only." in said
        assert "Figures" not in said and "There is no fitted value that can be judged" in said


def test_what_cannot_be_judged_and_differs_fails(tmp_path):
    """A study without intervals agrees if it is identical or differs by rounding only."""
    for folder, factor in (("ours", 1), ("same", 1), ("rounding", 1 + 1e-12), ("other", 2)):
        attention = made("attention")
        attention["output"] = attention["output"] * factor
        path = tmp_path / folder / "results/tiny/small/attention.nc"
        job.save(attention, path, ATTRS | {"stage": "attention", "upstream": {}})
    files = [tmp_path / "ours/results/tiny/small/attention.nc"]
    failed = {
        folder: [
            row.level
            for row in agreement.failures(
                agreement.compare(files, tmp_path / folder / "results/tiny").rows
            )
        ]
        for folder in ("same", "rounding", "other")
    }
    assert failed == {"same": [], "rounding": [], "other": ["not judged"]}


def test_our_own_results_are_checked_first(travelled, tmp_path, monkeypatch, capsys):
    """Results that do not belong together are not compared."""
    archive, _ = travelled
    files = study(tmp_path)
    job.save(
        made("fit", 1),
        tmp_path / "results/tiny/small/fit.nc",
        ATTRS | {"stage": "fit", "upstream": {}},
    )
    command(monkeypatch, files, "compare", "--other", str(archive), "--output", str(tmp_path / "x"))
    assert share.main() == 1
    assert "trace.svg: was made from another small/fit.nc" in capsys.readouterr().err


def test_levels_stand_in_table_summary_and_figure(tmp_path):
    """One word for each level, in all outputs."""
    judged = ("agrees", "contradicts")
    rows = [
        agreement.Row("a/fit.nc", f"y{i}", level, 10.0**-i, "", level in judged)
        for i, level in enumerate(agreement.LEVELS)
    ]
    found = agreement.Comparison(rows, {}, [f"b/{i}.nc" for i in range(9)], {"identical": 3})
    said = agreement.summary(found, "tiny", "theirs.zip") + agreement.table(found)
    assert all(f"| {level} |" in said for level in agreement.LEVELS)
    assert (
        "1 of 2 rows of fitted values agree. Rows that differ or are missing, and are not "
        "judged: 2." in said
    )
    assert "and 4 more" in said
    drawn = figure.agreement(rows, "n" * 40)
    labels = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
    assert labels == [f"{level} (1)" for level in agreement.LEVELS]
    drawn.canvas.draw()
    legend = drawn.axes[0].get_legend().get_window_extent()
    (title,) = (text for text in drawn.axes[0].findobj(Text) if text.get_text() == "n" * 40)
    assert legend.x0 >= 0 and legend.x1 <= drawn.bbox.x1
    assert not legend.overlaps(title.get_window_extent())
    plt.close(drawn)


# As users do it.

MINI = {
    "experiments": {
        "small": {
            "data": {
                "synthetic": {"sigma_squared": [0.5], "n_inputs": 2, "n_tokens": 6, "d_head": 4}
            },
            "network": {"n_features": [10], "n_seeds": 2},
        }
    },
    "figures": {"features_needed": {"experiments": ["small"]}},
}


def test_export_and_compare_end_to_end(tmp_path):
    """One lab exports, another compares; the archive holds a project that runs."""
    folder = with_study(project(tmp_path / "a föhn & wind"), MINI)
    (folder / "config/studies/private.yaml").write_text("experiments: {}")
    done = snakemake(folder, "export", "--config", "study=tiny")
    assert done.returncode == 0, done.stdout
    assert "9 files are whole" in done.stdout
    archive = folder / "results/export/tiny.zip"
    again = snakemake(folder, "export", "--config", "study=tiny")
    assert "Nothing to be done" in again.stdout
    with zipfile.ZipFile(archive) as opened:
        assert not any("private" in name for name in opened.namelist())
        opened.extractall(tmp_path / "unpacked")
    unpacked = tmp_path / "unpacked"
    said = snakemake(unpacked, "compare", "--config", f"other={archive}")  # it names its study
    assert (
        said.returncode == 0
        and "1 of 1 rows of fitted values agree. All 4 rows are identical" in said.stdout
    )
    for option, words in (
        ("device=cpu", "other: is missing; add the archive or folder"),
        ("other=no.zip", "other: 'no.zip': there is no such archive or folder"),
    ):
        said = snakemake(unpacked, "compare", "--config", "study=tiny", option)
        assert said.returncode == 1 and words in said.stdout and "Traceback" not in said.stdout
    (unpacked / "results/tiny/small/fit.nc").unlink()
    said = snakemake(folder, "compare", "--config", "study=tiny", "other=../unpacked/results/tiny")
    assert said.returncode == 1 and "Traceback" not in said.stdout
    assert "are missing there: small/fit.nc" in said.stdout
    assert (folder / "results/comparison/tiny.md").exists()
