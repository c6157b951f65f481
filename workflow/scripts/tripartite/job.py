"""The one door to files: contracts are checked, files are complete or absent, origins are recorded."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import xarray as xr
from PIL import Image

from tripartite import __version__, foreign
from tripartite.contracts import CONTRACTS, SCHEMA_VERSION, Breach, check, describe

READ_SECONDS = 30  # of computing in which any result is read, beside one more for each READ_BYTES
READ_BYTES = 2 * 10**5  # even where they hold a thousand times as much, compressed
REFERENCES = (
    "Kozachkov, Kastanenka & Krotov, PNAS 120(34):e2219150120 (2023), "
    "doi:10.1073/pnas.2219150120"
)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("numpy", "scipy", "torch", "xarray", "netCDF4", "matplotlib")
    return {
        "tripartite": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name).split("+")[0] for name in packages},
    }


def content_digest(dataset: xr.Dataset) -> str:
    """sha256 over names, dims, dtypes and values of all variables, and over all other attributes."""
    digest = hashlib.sha256()
    for name in sorted(dataset.variables):
        values = dataset[name].values
        if values.dtype.kind in "OUT":
            content = json.dumps([str(value) for value in values.ravel()]).encode()
            dtype = "str"
        else:
            content = np.ascontiguousarray(values).tobytes()
            dtype = values.dtype.str
        head = json.dumps([name, dataset[name].dims, values.shape, dtype, dataset[name].attrs])
        digest.update(head.encode())
        digest.update(content)
    attrs = {key: str(value) for key, value in dataset.attrs.items() if key != "content_digest"}
    digest.update(json.dumps(attrs, sort_keys=True).encode())
    return digest.hexdigest()


def load(path: Path) -> xr.Dataset:
    """Read a stage's file whole, through the contract of its name; Breach if anything is off."""
    dataset = _read(path)
    if dataset.attrs.get("schema_version") != SCHEMA_VERSION:
        got = dataset.attrs.get("schema_version", "no")
        raise Breach(
            f"{path}: got schema version {got}, wanted {SCHEMA_VERSION}; delete the file and run again"
        )
    if dataset.attrs.get("content_digest") != content_digest(dataset):
        raise Breach(f"{path}: content differs from its digest, the file was changed after it was "
                     "written; delete it and run again")  # fmt: skip
    check(dataset, path.stem, str(path))
    return dataset


def earlier(path: Path, origin: dict[str, object], free: tuple[str, ...]) -> xr.Dataset | None:
    """What stands at `path`, if it was made as `origin` says but for the settings `free`; else None.

    origin holds attributes as `save` takes them. Other versions of the software are another origin.
    """
    try:
        dataset = load(path)
    except Breach:
        return None

    def bound(settings: dict) -> dict:
        return {key: value for key, value in settings.items() if key not in free}

    had = {name: dataset.attrs.get(name) for name in (*origin, "versions")}
    wanted = {
        name: _attribute(value) for name, value in (origin | {"versions": versions()}).items()
    }
    for attrs in (had, wanted):
        attrs["settings"] = bound(json.loads(attrs["settings"]))
    return dataset if had == wanted else None


def read_foreign(path: Path) -> xr.Dataset:
    """A user's q, k, v and mask as they are stored, names of inputs, and labels of layers and heads.

    Values are not masked or scaled: a fill value of 0 would make true zeros disappear. Breach if anything is off.
    """
    try:
        told, arrays = foreign.values(path)
    except foreign.Refused as refusal:
        raise Breach("\n".join(f"{path}: {line}" for line in str(refusal).splitlines())) from None
    return xr.Dataset(arrays, {"input": told["inputs"], **told["labels"]})


def _read(path: Path) -> xr.Dataset:
    try:
        with _watched(path):
            return xr.load_dataset(path, engine="netcdf4")
    except Exception as error:  # a damaged file surfaces as almost any error of the libraries below
        raise Breach(f"{path}: not a readable netCDF-4 file ({_first_line(error)})") from error


@contextlib.contextmanager
def _watched(path: Path):
    """End the process with one line if a file cannot be read through: damaged ones keep HDF5's library busy for ever."""
    done, begin = threading.Event(), time.process_time()
    limit = READ_SECONDS + (path.stat().st_size // READ_BYTES if path.is_file() else 0)

    def watch():
        while not done.wait(1):
            if time.process_time() - begin > limit:
                print(
                    f"error: {path}: reading it did not end within {limit:.0f} s of computing and was stopped: it is "
                    "damaged; delete it and run again",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def save(dataset: xr.Dataset, path: Path, attrs: dict[str, object]) -> None:
    """Write `dataset` under the contract of the path's name; the final name is complete or absent.

    It is written under a temporary name in the same folder, read back and compared, flushed to disk
    and renamed. attrs: strings and integers are kept, everything else is stored as JSON.
    """
    dataset = describe(dataset, path.stem)
    dataset.attrs = {
        "Conventions": "CF-1.11",
        "title": f"tripartite {path.stem}",
        **{key: _attribute(value) for key, value in attrs.items()},
        "schema_version": SCHEMA_VERSION,
        "versions": json.dumps(versions()),
        "references": REFERENCES,
    }
    check(dataset, path.stem, str(path))
    dataset.attrs["content_digest"] = content_digest(dataset)
    compressed = {"zlib": True, "complevel": 1, "shuffle": True, "fletcher32": True}
    encoding = {
        name: compressed if dataset[name].dtype.kind not in "OUT" else {"dtype": str}
        for name in dataset.variables
    }
    with replacing(path, dataset.nbytes) as temporary:
        dataset.to_netcdf(temporary, format="NETCDF4", engine="netcdf4", encoding=encoding)
        if content_digest(_read(temporary)) != dataset.attrs["content_digest"]:
            raise OSError(f"{path}: what was read back differs from what was written")


class Kept(MutableMapping):
    """Parts of a long job, name -> arrays by their names, that are found again after an interruption.

    They lie in a hidden folder beside the output, whose name holds a digest of all that the job depends
    on, and go when the output is complete. A part that is damaged counts as missing.
    """

    def __init__(self, output: Path, *origin: object):
        digest = hashlib.sha256(json.dumps([versions(), *origin], sort_keys=True).encode())
        self.folder = output.parent / f".{output.name}-{digest.hexdigest()[:16]}.partial"

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def __getitem__(self, name: str) -> dict[str, np.ndarray]:
        try:
            with np.load(self._path(name), allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise KeyError(name) from error

    def __setitem__(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        with replacing(self._path(name), sum(x.nbytes for x in arrays.values())) as temporary:
            np.savez(temporary, **arrays)

    def __delitem__(self, name: str) -> None:
        self._path(name).unlink()

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.npz")))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def clear(self) -> None:
        """Forget everything, also what is left of other settings of the same output."""
        output = self.folder.name.rsplit("-", 1)[0]
        for folder in self.folder.parent.glob(f"{output}-*.partial"):
            shutil.rmtree(folder, ignore_errors=True)


def owner() -> str:
    """The end of a temporary name: whose it is, so that only the dead are cleared away."""
    return f".{os.getpid()}@{platform.node()}.tmp"


@contextlib.contextmanager
def replacing(path: Path, expected_bytes: int = 0):
    """Give a temporary name beside `path` to write to; on success it takes the name `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=owner(), dir=path.parent))
    temporary = folder / path.name
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(path.parent).free
        if free < max(expected_bytes, 1 << 20):
            raise Breach(
                f"{path}: disk full: {free / 1e6:.0f} MB free, up to {expected_bytes / 1e6:.0f} MB "
                "needed; make room and run again"
            ) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _attribute(value: object) -> str | int:
    return (
        value if isinstance(value, str | int) and not isinstance(value, bool) else json.dumps(value)
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def is_contract(path: Path) -> bool:
    """True for the file of a stage, such as .../qkv.nc."""
    return path.suffix == ".nc" and path.stem in CONTRACTS


def open_wheel(path: Path, sha256: str) -> zipfile.ZipFile:
    """Open a wheel as data, after comparing its hash with the pin; Breach if it is not the one."""
    got = file_digest(path)
    if got != sha256:
        raise Breach(
            f"{path}: sha256 is {got[:16]}..., wanted {sha256[:16]}... (truncated or changed); "
            "delete it and run again"
        )
    return zipfile.ZipFile(path)


def open_sources(
    paths: list[Path], sha256: dict[str, str]
) -> tuple[dict[str, zipfile.ZipFile], dict[str, bytes]]:
    """Wheels by package, and the raw bytes of all other files by stem; sha256 by the stem of a wheel."""
    wheels = [path for path in paths if path.suffix == ".whl"]
    archives = {path.stem.rsplit("-", 1)[0]: open_wheel(path, sha256[path.stem]) for path in wheels}
    return archives, {path.stem: path.read_bytes() for path in paths if path not in wheels}


def file_digest(path: Path) -> str:
    """sha256 of a file that is not ours; Breach if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Breach(f"{path}: cannot be read ({error.strerror}); run again") from error


@contextlib.contextmanager
def device(wanted: str):
    """Give the device for "auto", "cpu" or "cuda": "cpu", or "cuda:0" and so on, a card of its own.

    Jobs share the cards of a machine, also jobs of other Snakemake processes: each holds a lock, and one
    that finds no free card waits. Cards that a scheduler has given (CUDA_VISIBLE_DEVICES) are respected;
    in a job of Slurm there are no others.
    """
    if wanted == "cpu":
        yield "cpu"
        return
    import torch  # only the stages that compute on a device pay for it

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    allocation = os.environ.get("SLURM_JOB_ID", "")
    n_cards = 0 if allocation and not given else torch.cuda.device_count()
    if not n_cards and wanted == "cuda":
        raise Breach(
            "device: cuda, but torch finds no GPU; choose auto or cpu in config/config.yaml"
        )
    if not n_cards:
        yield "cpu"
        return
    cards = given.split(",")[:n_cards] if given else [str(card) for card in range(n_cards)]
    if allocation:  # Slurm may call the first card of every job 0
        cards = [f"{allocation}-{card}" for card in cards]
    with card_lock(cards) as card:
        yield f"cuda:{card}"


@contextlib.contextmanager
def card_lock(cards: list[str]):
    """Hold the lock of a free card and give its place in the list; wait until there is one."""
    waited = False
    while True:
        for place, card in enumerate(cards):
            name = re.sub(r"[^A-Za-z0-9-]", "_", card)
            path = Path(tempfile.gettempdir()) / f"tripartite-gpu-{name}.lock"
            handle = os.open(path, os.O_CREAT | os.O_RDONLY, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            try:
                yield place
            finally:
                os.close(handle)  # and with it the lock, as when the process dies
            return
        if not waited:
            print("waiting for a free GPU: other jobs hold all of them", flush=True)
            waited = True
        time.sleep(0.5)


def save_figure(figure, paths: list[Path], upstream: dict[str, str]) -> None:
    """Write a figure under each name, with the digests of the fits it shows and with no date.

    The same data give the same bytes.
    """
    origin = json.dumps(upstream, sort_keys=True)
    metadata = {
        ".svg": {"Date": None, "Description": origin},
        ".pdf": {"CreationDate": None, "Subject": origin},
        ".png": {"Description": origin},
    }
    _settle(figure)
    for path in paths:
        with replacing(path, 10 << 20) as temporary:
            figure.savefig(temporary, metadata=metadata[path.suffix])


def _settle(figure) -> None:
    """Lay a figure out for good: its solver's rounding errors differ from run to run, places do not."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    figure.set_layout_engine("none")
    parts = list(figure.subfigs)
    for part in parts:
        parts += part.subfigs
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(6) + 0)  # no -0
    for axis in figure.axes:
        axis.set_position(np.round(axis.get_position(original=True).bounds, 6) + 0)


def save_text(text: str, path: Path) -> None:
    """Write a text whole or not at all."""
    with replacing(path, len(text)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def key(path: Path) -> str:
    """How a stage's file is called by what is made from it: experiment/file.nc."""
    return f"{path.parent.name}/{path.name}"


def verify(paths: list[Path]) -> None:
    """Walk from the figures back to the data: all is whole and made from what lies beside it.

    paths are all files of a study. Every netCDF file is checked against its contract and digest, and
    every digest that a file or figure names against the file that it names. Breach with one line per
    fault.
    """
    upstream, digests, faults = {}, {}, []
    for path in paths:
        try:
            if not path.is_file():
                raise Breach(f"{path}: is missing")
            if is_contract(path):
                attrs = load(path).attrs
                digests[key(path)] = attrs["content_digest"]
                upstream[path] = json.loads(attrs["upstream"])
            else:
                upstream[path] = json.loads(_origin(path))
        except Breach as fault:
            faults.append(str(fault))
    for path, named in upstream.items():
        for name, digest in named.items():
            if name in digests and digests[name] != digest:
                faults.append(f"{path}: was made from another {name} than the one that is there")
            elif "/" in name and name not in digests:  # a raw source has no folder in its name
                faults.append(f"{path}: was made from {name}, which is not there or not whole")
    if faults:
        raise Breach("\n".join(faults) + "\nrun again with --forceall, or restore the files")
    print(f"{len(paths)} files are whole, and each was made from those that are there")


def _origin(path: Path) -> str:
    """The digests that a figure carries, as JSON."""
    try:
        if path.suffix == ".png":
            with Image.open(path) as image:
                return image.text["Description"]
        content = path.read_bytes()
        if path.suffix == ".pdf":
            return re.search(rb"/Subject \((.*?)\)", content, re.S)[1].decode()
        return ElementTree.fromstring(content).find(".//{*}description").text
    except Exception as error:  # whatever a damaged picture makes its reader say
        raise Breach(f"{path}: does not say what it was made from, or is damaged") from error
