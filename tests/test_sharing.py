"""Studies between labs: what is packed, what is refused, and which results agree."""

import json
import os
import re
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import share
import xarray as xr
from conftest import ROOT, project, snakemake
from rocrate.rocrate import ROCrate
from test_contracts import qkv
from test_job import LESS, python
from test_learn_stage import with_gaps
from test_workflow import with_study

from tripartite import agreement, job, sharing
from tripartite.contracts import CONTRACTS, COORDINATES, Breach
from tripartite.stages.attend import attend

ATTRS = {"source": "random heads", "settings": {"n_seeds": 3, "dtype": "float64"}, "device": "cpu",
         "code_digest": "0" * 64}  # fmt: skip


def made(contract: str, seed: int = 0) -> xr.Dataset:
    """Any numbers that fit a contract; an interval holds its estimate."""
    rng = np.random.default_rng(seed)
    variables = {}
    for name, spec in CONTRACTS[contract].items():
        dims = spec.dims.split()
        values = rng.uniform(1, 2, (2,) * len(dims))
        variables[name] = (dims, np.full(values.shape, "") if spec.dtype == "str" else values.astype(spec.dtype))  # fmt: skip
    for name in variables:
        if agreement.is_fitted(name, variables):
            for end, step in (("low", -0.1), ("high", 0.1)):
                variables[f"{name}_{end}"] = (variables[name][0], variables[name][1] + step)
    used = {dim for dims, _ in variables.values() for dim in dims}
    coords = {
        dim: np.array(["a", "b"]) if spec.dtype == "str" else np.arange(2)
        for dim, spec in COORDINATES.items()
        if dim in used
    }
    return xr.Dataset(variables, coords=coords)


def study(folder: Path, change=None, **attrs) -> list[Path]:
    """Data, a fit made of them and a figure of it, as a finished study; change(fit) gives another fit."""
    fit = change(made("fit")) if change else made("fit")
    upstream = {}
    for stage, dataset in (("qkv", qkv()), ("fit", fit)):
        path = folder / f"results/tiny/small/{stage}.nc"
        job.save(dataset, path, ATTRS | {"stage": stage, "upstream": dict(upstream)} | attrs)
        upstream[job.key(path)] = job.load(path).attrs["content_digest"]
    picture = folder / "results/tiny/figures/trace.svg"
    picture.parent.mkdir()
    picture.write_text(f'<svg><description>{json.dumps({"small/fit.nc": upstream["small/fit.nc"]})}</description></svg>')  # fmt: skip
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
    """As a Workflow Run RO-Crate, read by the library; nothing in it is private."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "crate")
        assert opened.testzip() is None
    crate = ROCrate(tmp_path / "crate")
    workflow = crate.mainEntity
    assert workflow.id == "workflow/Snakefile" and "ComputationalWorkflow" in workflow.type
    profiles = {profile.id for profile in crate.root_dataset["conformsTo"]}
    assert "https://w3id.org/ro/wfrun/workflow/0.6" in profiles and len(profiles) == 3
    assert crate.license.id == "LICENSE" and len(crate.root_dataset["datePublished"]) == 10
    software = {part.get("name"): part.get("version") for part in workflow["softwareRequirements"]}
    assert software["torch"] == job.versions()["torch"] and software["snakemake"]
    (action,) = crate.root_dataset["mentions"]
    assert [part.id for part in action["object"]] == ["config/studies/tiny.yaml"]
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
    assert sharing._commit(tmp_path)[0] == ""
    git = ["git", "-c", "user.name=lab", "-c", "user.email=lab@example.org"]
    for words in (
        ["init"],
        ["commit", "--allow-empty", "-m", "x", "--date", "2020-01-01T12:00:00"],
    ):
        subprocess.run([*git, *words], cwd=tmp_path, check=True, capture_output=True,
                       env=os.environ | {"GIT_COMMITTER_DATE": "2020-01-02T12:00:00+0000"})  # fmt: skip
    commit, date = sharing._commit(tmp_path)
    assert len(commit) == 40 and date == "2020-01-02"
    (tmp_path / "new").touch()
    assert sharing._commit(tmp_path)[0] == f"{commit}, with changes"
    (tmp_path / "within").mkdir()
    assert sharing._commit(tmp_path / "within")[0] == ""


def test_all_that_is_packed_is_fetched():
    """Where the workflow is used from a repository elsewhere, only what is named is on this machine."""
    rules = (ROOT / "workflow/rules/sharing.smk").read_text()
    named = re.findall(
        r'^    "(.+)",$', rules.partition("for file in (")[2].partition("):")[0], re.M
    )
    packed = {path.relative_to(ROOT).as_posix() for each in sharing.OWN for path in ROOT.glob(each)}
    elsewhere = (
        "config/",
        "workflow/schemas/",
        "workflow/scripts/",
    )  # needed by every run: in common.smk
    assert named == sorted(name for name in packed if not name.startswith(elsewhere))


def test_only_a_whole_study_is_packed(tmp_path):
    files = study(tmp_path)
    path = tmp_path / "results/tiny/small/fit.nc"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Breach, match="fit.nc: not a readable netCDF-4 file"):
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
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "cannot be read as an archive"),
    "no zip": (lambda path: path.write_bytes(b"PK\3\4 no zip at all"), "File is not a zip file"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as an archive"),
    "bits": (lambda path: flip(path), "Bad CRC-32|differs from its SHA-256"),
    "foreign": (lambda path: rewritten(path, lambda name: name.replace(META, "readme.json")), f"has no {META}"),
    "other crate": (lambda path: rewritten(path, content=lambda n, d: b'{"@graph": []}' if n == META else d), "a crate of another kind"),
    "no json": (lambda path: rewritten(path, content=lambda n, d: b"[" * 200_000 if n == META else d), f"{META} cannot be read"),
    "checksum": (lambda path: rewritten(path, content=changed), "'results/tiny/small/fit.nc' differs from its SHA-256"),
    "more": (lambda path: rewritten(path, more=[("workflow/evil.py", "x")]), "'workflow/evil.py' is not listed"),
    "less": (lambda path: rewritten(path, lambda name: name.replace("qkv.nc", "q.nc")), "is not listed|is missing"),
    "up": (lambda path: rewritten(path, more=[("../x", "x")]), "'../x' is no plain path"),
    "up within": (lambda path: rewritten(path, more=[("results/tiny/small/../../../../x", "x")]), "is no plain path"),
    "absolute": (lambda path: rewritten(path, more=[("/x", "x")]), "'/x' is no plain path"),
    "windows": (lambda path: rewritten(path, more=[("C:\\x", "x")]), "is no plain path"),
    "link": (lambda path: rewritten(path, more=[(link("results/tiny/small/states.nc"), "/etc/passwd")]), "is a link or another special file"),
    "no results": (lambda path: rewritten(path, lambda name: name.replace("results/", "r/"), lambda n, d: d.replace(b'"results/', b'"r/') if n == META else d), "holds results of 0 studies"),
}  # fmt: skip


def flip(path: Path):
    """Another bit in the middle of the largest file of the archive."""
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
    monkeypatch.setattr("sys.argv", ["share.py", "compare", "--files", *map(str, files), "--other", str(archive), "--output", str(folder)])  # fmt: skip
    assert share.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {archive}: ") and said.count("\n") == 1
    with pytest.raises(Breach, match=words), sharing.opened(archive, folder):
        pass
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(folder.iterdir())


def test_a_bomb_is_refused_before_it_is_unpacked(archive, tmp_path, monkeypatch):
    rewritten(archive, more=[("results/tiny/small/zeros.nc", bytes(30_000_000))])
    assert archive.stat().st_size < 10_000_000
    monkeypatch.setattr(sharing, "MOST_BYTES", 20_000_000)
    with pytest.raises(Breach, match="would unpack to .* GB; at most 20000 of 0 GB are read"):
        with sharing.opened(archive, tmp_path / "x"):
            pass
    monkeypatch.setattr(sharing, "MOST_FILES", 3)
    with pytest.raises(Breach, match="at most 3 of"), sharing.opened(archive, tmp_path / "x"):
        pass
    assert not list((tmp_path / "x").iterdir())


def test_an_archive_is_gone_after_it_was_read(archive, tmp_path):
    with sharing.opened(archive, tmp_path / "x") as folder:
        assert {path.name for path in folder.rglob("*.*")} == {"qkv.nc", "fit.nc", "trace.svg"}
    assert not list((tmp_path / "x").iterdir())
    with pytest.raises(Breach, match="theirs.zip/results/tiny/small: says so"):
        with sharing.opened(archive, tmp_path / "x") as folder:
            raise Breach(f"{folder}/small: says so")
    with pytest.raises(Breach, match="holds no results; give a folder such as"):
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
ROW = agreement.Row("a/fit.nc", "y", "interval", 1.0, "", True, np.ones(5))
WHOLE = (NAME, f"{NAME}_low", f"{NAME}_high")


def moved(by, names=WHOLE):
    """A fit of which some variables are larger by a share."""
    return lambda fit: fit.assign({name: fit[name] * (1 + by) for name in names})


def nan_at_one(fit):
    fit[NAME][0, 0, 0] = np.nan
    return fit


def test_another_processor_is_told_and_is_no_other_study(tmp_path):
    """Equal values are identical, whatever computed them; a difference is no change of settings."""
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
        ({"settings": {"dtype": "float64"}}, "outside"),
        ({"settings": {"dtype": "float32"}}, "rounding"),
        ({"settings": {"dtype": "bfloat16"}}, "rounding"),
        ({"settings": {}}, "outside"),
        ({"settings": {"source": "float32"}}, "outside"),  # the name of an experiment
        ({"settings": {"variants": {"float32": {"feature_map": "relu"}}}}, "outside"),
        ({"settings": {}, "upstream_settings": {"small/states.nc": {"dtype": "float32"}}}, "rounding"),
        ({"settings": {}, "upstream_settings": {"small/states.nc": {"dtype": "float64"}}}, "outside"),
    ],
)  # fmt: skip
def test_numbers_are_judged_by_the_precision_in_which_they_were_computed(
    settings, wanted, tmp_path
):
    """Of the file and of what it was made of, also where that was not sent along."""
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
    "n_features": [8], "n_seeds": 2, "trained_on": ["draw-0"], "validated_on": ["draw-1"], "heads": "all",
    "loss": "weights", "max_steps": 100, "learning_rate": 0.1, "patience": 100, "seed": 5, "source": "x",
    "dtype": dtype,
}
inputs = [folder / name for name in ("qkv.nc", "attention.nc")]
stage.run("learn", inputs, [folder / "learned.nc"], settings, "", "cpu", 1, "")
"""
LESSER = {  # instructions that all of the libraries leave alone, as on an older processor
    "NPY_DISABLE_CPU_FEATURES": LESS["NPY_DISABLE_CPU_FEATURES"], "ATEN_CPU_CAPABILITY": "default",
    "OPENBLAS_CORETYPE": "Haswell", "MKL_CBWR": "COMPATIBLE",
}  # fmt: skip


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
        (moved(1e-6), NAME, "interval"),
        (moved(1e-12, ["log10_features_needed"]), "log10_features_needed", "rounding"),
        (moved(1e-6, ["log10_features_needed"]), "log10_features_needed", "outside"),
        (moved(0.5), NAME, "outside"),
        (moved(1e-6, [f"{NAME}_low"]), NAME, "interval"),
        (nan_at_one, NAME, "outside"),
        (lambda fit: fit.assign_coords(head=[0, 2]), NAME, "missing"),
        (lambda fit: fit.assign_coords(head=[2, 3]), NAME, "outside"),
        (lambda fit: fit.assign_coords(head=[0, 2]), "head", "outside"),
        (lambda fit: fit.isel(layer=[0]), NAME, "missing"),
        (lambda fit: moved(0.5)(fit.isel(layer=[0])), NAME, "outside"),
    ],
)  # fmt: skip
def test_levels(change, name, wanted, tmp_path):
    files = study(tmp_path / "ours")
    study(tmp_path / "theirs", change)
    found = agreement.compare(files, tmp_path / "theirs/results/tiny")
    assert levels(found.rows)[name] == wanted
    failed = {row.variable for row in agreement.failures(found.rows)}
    assert (name in failed) == (wanted in ("outside", "missing") and name == NAME)
    assert found.figures == {"other": 1}


def test_labels_that_only_they_have_are_no_fault(tmp_path):
    files = study(tmp_path / "ours", lambda fit: fit.isel(head=[0]))
    study(tmp_path / "theirs")
    found = agreement.compare(files, tmp_path / "theirs/results/tiny")
    rows = {row.variable: row for row in found.rows if row.file == "small/fit.nc"}
    assert rows[NAME].level == "identical" and rows[NAME].note == "1 head shared of 1 and 2"
    assert not agreement.failures(found.rows)


def test_wider_intervals_are_told(tmp_path):
    """A lab with very wide intervals agrees with everybody: that must be seen."""
    files = study(tmp_path / "ours")

    def wide(fit):
        return fit.assign({NAME: fit[NAME] + 1, f"{NAME}_low": fit[NAME] - 9, f"{NAME}_high": fit[NAME] + 9})  # fmt: skip

    study(tmp_path / "theirs", wide)
    found = agreement.compare(files, tmp_path / "theirs/results/tiny")
    (row,) = [row for row in found.rows if row.variable == NAME]
    assert row.level == "interval" and row.note == "their intervals are 90 times as wide"


def test_what_has_no_interval_is_not_judged(tmp_path):
    """Where both have none, any number is as good; where one has no number, it is not."""

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
    assert row.level == "interval" and row.note == "4 of 8 have no interval"
    assert not agreement.failures(found.rows)


def test_no_interval_at_all_is_outside_but_no_failure(tmp_path):
    def without(by):
        def change(fit):
            fit = moved(by, [NAME])(fit)
            return fit.assign({name: fit[name] * np.nan for name in WHOLE[1:]})

        return change

    files = study(tmp_path / "ours", without(0))
    study(tmp_path / "theirs", without(0.5))
    found = agreement.compare(files, tmp_path / "theirs/results/tiny")
    (row,) = [row for row in found.rows if row.variable == NAME]
    assert row.level == "outside" and "have no interval" in row.note
    assert not agreement.failures(found.rows)


def without_fits(n, names=(NAME,)):
    """A fit in which the first n values of each name are NaN, and so are their intervals."""

    def change(fit):
        for name in names:
            for part in (name, f"{name}_low", f"{name}_high"):
                fit[part].values.reshape(-1)[:n] = np.nan
        return fit

    return change


@pytest.mark.parametrize(
    ("ours", "theirs", "settings", "level", "note"),
    [
        (0, 1, {"n_seeds": 4}, "interval", "0 only here, 1 only there"),
        (0, 1, {"n_seeds": 3}, "outside", "0 only here, 1 only there"),
        (0, 8, {"n_seeds": 4}, "interval", "0 only here, 8 only there"),
        (8, 8, {"n_seeds": 4}, "identical", ""),
    ],
)
def test_fits_that_one_lab_could_not_do(ours, theirs, settings, level, note, tmp_path):
    """By chance if the settings differ, and not otherwise."""
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
    assert failed == ({NAME} if level == "outside" else set())


def test_fits_that_only_one_lab_could_do_are_no_chance():
    """Many in one variable, or all of a file: 20 of 20 heads, or whatever there is."""
    row = ROW._replace(alone=(20, 0))
    assert agreement._judged(row, 100, True).level == "outside"
    assert agreement._judged(row._replace(alone=(12, 8)), 100, True).level == "interval"


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
    """Data that differ though their settings do not are no excuse."""
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
    assert row.level == "outside" and row.fitted != other and bool(row.chances.size) != other
    monkeypatch.setattr("sys.argv", ["share.py", "compare", "--files", *map(str, files), "--other", str(theirs), "--output", str(tmp_path / "x")])  # fmt: skip
    assert share.main() == 1
    said = capsys.readouterr()
    wanted = "no fitted value that can be judged" if other else "fitted values that do not agree"
    assert wanted in said.err and said.err.count("\n") == 1
    assert "**The data differ** (small/qkv.nc)" in said.out


def test_more_seeds_are_judged_more_sharply(tmp_path):
    """Seeds stand in the settings of a file, or of what it is made of."""
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
    """As scipy has them, from the samples themselves."""
    rng = np.random.default_rng(1)
    samples = rng.standard_normal((4, 50)), 3 * rng.standard_normal((9, 50)) + 1
    wanted = scipy.stats.ttest_ind(*samples, equal_var=True).pvalue
    found = agreement.chances(lab(samples[0]), lab(samples[1]), "y", (4, 9))
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def lab(samples):
    """Means over the first axis and their Student's intervals."""
    n, mean = len(samples), samples.mean(0)
    half = scipy.stats.t.isf(0.025, n - 1) * samples.std(0, ddof=1) / np.sqrt(n)
    return xr.Dataset({"y": ("x", mean), "y_low": ("x", mean - half), "y_high": ("x", mean + half)})


def test_replicates_agree_and_others_do_not():
    """95 % of pairs of labs that measured the same agree in all of 300 values; large shifts are seen."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.1, 10, 300)

    def agree(sizes, shift=0.0):
        ours, theirs = (scale * rng.standard_normal((n, 300)) for n in sizes)
        theirs[:, 0] += shift * scale[0]
        p = agreement.chances(lab(ours), lab(theirs), "y", sizes)
        return agreement._judged(ROW._replace(chances=p), 1, False).level == "interval"

    for sizes in ((3, 3), (5, 5), (10, 10), (5, 40)):
        same = np.mean([agree(sizes) for _ in range(1000)])
        assert same > 0.93  # 3 sd below 95 %
        assert np.mean([agree(sizes, 100) for _ in range(100)]) < 0.05


def test_another_study_is_one_line(tmp_path, monkeypatch, capsys):
    files = study(tmp_path / "ours")
    other = tmp_path / "theirs/results/tiny"
    study(tmp_path / "theirs")
    (other / "small").rename(other / "large")
    monkeypatch.setattr("sys.argv", ["share.py", "compare", "--files", *map(str, files), "--other", str(other), "--output", str(tmp_path / "x")])  # fmt: skip
    assert share.main() == 1
    assert capsys.readouterr().err == f"error: {other}: holds large/fit.nc, large/qkv.nc, but no file of this study, such as small/fit.nc; give results of the same study\n"  # fmt: skip


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
    wanted = [0, 0.5, 0.2, 0.1, 0, 0, inf, inf]  # the median of ours, 1, is the least divisor
    np.testing.assert_allclose(agreement.deviations(ours, theirs), wanted)
    assert agreement.deviations(np.zeros(2), np.array([0.0, 1e-30])).tolist() == [0, 1]


def test_the_report_names_what_differs(tmp_path, monkeypatch, capsys):
    files = study(tmp_path / "ours")
    theirs = tmp_path / "theirs/results/tiny"
    study(tmp_path / "theirs", moved(3), settings={"n_seeds": 4, "dtype": "float64"}, device="cuda",
          code_digest="f" * 64, source="a | b\x1b[31m")  # fmt: skip
    shutil.copytree(theirs / "small", theirs / "extra")
    (theirs / "small/qkv.nc").unlink()
    folder = tmp_path / "comparison"
    monkeypatch.setattr("sys.argv", ["share.py", "compare", "--files", *map(str, files), "--other", str(theirs), "--output", str(folder)])  # fmt: skip
    assert share.main() == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert f"small/fit.nc {NAME}" in said.err
    text = (folder / "tiny.md").read_text()
    assert text.startswith(said.out.split("\nAll that was compared: ")[0]) and "\x1b" not in text
    for row in (
        "| n_seeds | 3 | 4 | small/fit.nc |",
        "| device | cpu | cuda | small/fit.nc |",
        "| source | random heads | a / b?[31m | small/fit.nc |",
        "| code of fit | 000000000000 | ffffffffffff | small/fit.nc |",
        "| small/qkv.nc | all | missing | – |  |",
        f"| small/fit.nc | {NAME} | outside | 0.75 | their intervals are 4 times as wide; 8 of 8 leave, p down to 3e-07 |",
    ):
        assert row in text.splitlines()
    assert "Only the other has extra/fit.nc, extra/qkv.nc." in text
    assert {path.name for path in folder.iterdir()} == {f"tiny.{end}" for end in ("md", "svg", "pdf", "png")}  # fmt: skip


def test_fitted_values_that_are_missing_fail(tmp_path):
    files = study(tmp_path / "ours")
    study(tmp_path / "theirs")
    (tmp_path / "theirs/results/tiny/small/fit.nc").unlink()
    found = agreement.compare(files, tmp_path / "theirs/results/tiny")
    assert [row.file for row in agreement.failures(found.rows)] == ["small/fit.nc"]
    (tmp_path / "ours/results/tiny/small/qkv.nc").unlink()
    with pytest.raises(Breach, match="qkv.nc: is missing; run the study first"):
        agreement.compare(files, tmp_path / "theirs/results/tiny")


# As users do it.

MINI = {
    "experiments": {
        "small": {
            "data": {"synthetic": {"sigma_squared": [0.5], "n_inputs": 2, "n_tokens": 6, "d_head": 4}},
            "network": {"n_features": [10], "n_seeds": 2},
        }
    },
    "figures": {"features_needed": {"experiments": ["small"]}},
}  # fmt: skip


def test_export_and_compare_end_to_end(tmp_path):
    """What one lab exports another checks; the archive holds a project that runs."""
    folder = with_study(project(tmp_path / "a föhn & wind"), MINI)
    (folder / "config/studies/private.yaml").write_text("experiments: {}")
    done = snakemake(folder, "export", "--config", "study=tiny")
    assert done.returncode == 0, done.stdout
    assert "7 files are whole" in done.stdout
    archive = folder / "results/export/tiny.zip"
    again = snakemake(folder, "export", "--config", "study=tiny")
    assert "Nothing to be done" in again.stdout
    with zipfile.ZipFile(archive) as opened:
        assert not any("private" in name for name in opened.namelist())
        opened.extractall(tmp_path / "unpacked")
    unpacked = tmp_path / "unpacked"
    said = snakemake(unpacked, "compare", "--config", "study=tiny", f"other={archive}")
    assert said.returncode == 0 and "1 of 1 rows of fitted values agree" in said.stdout
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
