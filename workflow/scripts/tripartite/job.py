"""Reading and writing results: contracts checked, files complete or absent, origins recorded."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
import time
import weakref
import zipfile
from collections.abc import Hashable, Iterable, Iterator, MutableMapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import netCDF4
import numpy as np
import xarray as xr
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from xarray.backends import BackendArray
from xarray.core import indexing

from tripartite import __version__, foreign, large, locks
from tripartite.contracts import SCHEMA_VERSION, UserError, check, check_form, describe
from tripartite.declarations import files

if TYPE_CHECKING:  # most jobs draw nothing
    from matplotlib.figure import Figure

READ_SECONDS = 30  # of CPU time to read a result, at most, and one more for each READ_BYTES
READ_BYTES = 2 * 10**5  # of a file; compressed, they can hold a thousand times as much
REFERENCES = (
    "Kozachkov, Kastanenka & Krotov, PNAS 120(34):e2219150120 (2023), doi:10.1073/pnas.2219150120"
)
# numpy's names of vector instructions, by which libraries choose the order of sums; widest first.
VECTORS = "AVX512_SKX AVX2 AVX SSE2 SVE ASIMD VSX4 VSX3 VSX2 VXE RVV LSX".split()
KNOWN_AS = {"AVX512_SKX": "AVX512", "ASIMD": "NEON"}
MACHINES = {"AMD64": "x86_64", "arm64": "aarch64"}  # names on Windows and macOS


def versions() -> dict[str, str]:
    """Versions of the software on which numbers depend."""
    packages = ("numpy", "scipy", "torch", "xarray", "netCDF4", "matplotlib")
    own = {"tripartite": __version__, "python": platform.python_version()}
    return own | {name: installed_version(name) for name in packages}


def installed_version(name: str) -> str:
    """Version of an installed package; it is not imported for this.

    The version is read from the metadata beside the package. Metadata elsewhere on the path, such
    as in PYTHONPATH, may belong to other installations.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return "not installed"
    folder = str(Path(spec.origin).parents[1])
    distributions = importlib.metadata.distributions(name=name, path=[folder])
    # ASSUME: an interrupted upgrade leaves two versions, of which either may be installed.
    return " or ".join(sorted({x.version.split("+")[0] for x in distributions})) or "unknown"


def processor() -> str:
    """Architecture and widest vector instructions of this processor, such as "x86_64 AVX2".

    They set the order of sums: float64 may differ in its last digits between processors.
    """
    machine = MACHINES.get(platform.machine(), platform.machine())
    extensions = np.show_config(mode="dicts")["SIMD Extensions"]
    names = {*extensions.get("baseline", ()), *extensions.get("found", ())}
    widest = [KNOWN_AS.get(name, name) for name in VECTORS if name in names][:1]
    return " ".join([machine, *widest])


def joined(processors: Iterable[str]) -> str:
    """All processors that computed parts of a file, each once."""
    return ", ".join(sorted({name for names in processors for name in names.split(", ")}))


def content_digest(dataset: xr.Dataset) -> str:
    """sha256 of names, dims, dtypes and values of all variables, and of all other attributes.

    The processor is left out: equal values from another processor are the same content, and what
    was made of them stays valid. Numbers are read in blocks, in C order.
    """
    digest = hashlib.sha256()
    for name in sorted(map(str, dataset.variables)):
        variable = dataset[name].variable
        is_text = variable.dtype.kind in "OUT"
        dtype = "str" if is_text else variable.dtype.str
        head = json.dumps([name, variable.dims, variable.shape, dtype, variable.attrs])
        digest.update(head.encode())
        if is_text:
            digest.update(json.dumps([str(value) for value in variable.values.ravel()]).encode())
        for index in () if is_text else large.blocks(variable.shape, variable.dtype.itemsize):
            digest.update(np.ascontiguousarray(variable[index].values).data)
    left_out = ("content_digest", "processor")
    attrs = {key: str(value) for key, value in dataset.attrs.items() if key not in left_out}
    digest.update(json.dumps(attrs, sort_keys=True).encode())
    return digest.hexdigest()


def load(path: Path) -> xr.Dataset:
    """Read the file of a stage; UserError if it breaks its contract or was changed.

    Large arrays are read once for their digest and stay in the file, which is open until the
    dataset is closed; their parts can be read by several threads.
    """
    dataset, digest = _read(path)
    if dataset.attrs.get("schema_version") != SCHEMA_VERSION:
        got = dataset.attrs.get("schema_version", "no")
        raise UserError(
            f"{path}: got schema version {got}, wanted {SCHEMA_VERSION}; delete the file and run "
            "again"
        )
    if dataset.attrs.get("content_digest") != digest:
        raise UserError(
            f"{path}: content differs from its digest, the file was changed after it was "
            "written; delete it and run again"
        )
    check_form(dataset, path.stem, str(path))  # values were checked before they had this digest
    return dataset


def previous(path: Path, origin: dict[str, object], free: tuple[str, ...]) -> xr.Dataset | None:
    """The file at `path` if it has the origin `origin`, apart from the settings `free`; else None.

    origin: attributes as for `save`. Other versions of the software are another origin. Another
    processor is not; a file that is made of this one names both processors.
    """
    try:
        dataset = load(path)
    except UserError:
        return None

    def bound(settings: dict) -> dict:
        return {key: value for key, value in settings.items() if key not in free}

    now = origin | {"versions": versions()}
    had: dict[str, Any] = {name: dataset.attrs.get(name) for name in now}
    wanted: dict[str, Any] = {name: _attribute(value) for name, value in now.items()}
    for attrs in (had, wanted):
        attrs["settings"] = bound(json.loads(attrs["settings"]))
    return dataset if had == wanted else None


def read_foreign(path: Path, room: large.Room = np.empty) -> xr.Dataset:
    """What a user's file holds, as kinds/data/kind.yaml describes it (data, file).

    Values are not masked or scaled: with a fill value of 0, true zeros would be lost. room: of a
    shape and a dtype, gives an array to be filled. UserError with one line per fault of the file.
    """
    try:
        header, arrays = foreign.values(path, room)
    except foreign.Refused as refusal:
        faults = [f"{path}: {line}" for line in str(refusal).splitlines()]
        raise UserError("\n".join(faults)) from None
    arrays = {
        name: (dims if name in ("q", "k", "mask") else foreign.VALUE_DIMS, values, attributes)
        for name, (dims, values, attributes) in arrays.items()
    }
    if header["orders"]:
        arrays["order"] = ("layer", np.array(header["orders"], dtype=object))
    if "text" in header:
        arrays["text"] = (("input", "token"), np.array(header["text"], dtype=object))
    coords = {"input": header["inputs"], **header["labels"]}
    return xr.Dataset(arrays, coords, {"dtype": header["dtype"]})


def _read(path: Path) -> tuple[xr.Dataset, str]:
    """A dataset and its digest; the file is closed unless it has large arrays."""
    try:
        with _watched(path):
            dataset = xr.open_dataset(path, engine="netcdf4", cache=False)
            for variable in dataset.variables.values():
                if variable.nbytes <= large.LARGE_BYTES or variable.dtype.kind in "OUT":
                    variable.load()
            if not _large(dataset):
                dataset.close()
            return dataset, content_digest(dataset)
    except Exception as error:  # a damaged file can cause almost any error of the libraries
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a readable netCDF-4 file ({reason})") from error


@contextlib.contextmanager
def _watched(path: Path) -> Iterator[None]:
    """End the process with a message if reading takes longer than READ_SECONDS of CPU time.

    A damaged file can keep HDF5's library busy for ever.
    """
    done, begin = threading.Event(), time.process_time()
    limit = READ_SECONDS + (path.stat().st_size // READ_BYTES if path.is_file() else 0)

    def watch() -> None:
        while not done.wait(1):
            if time.process_time() - begin > limit:
                print(
                    f"error: {path}: reading it did not end within {limit:.0f} s of computing and "
                    "was stopped: it is damaged; delete it and run again",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def save(dataset: xr.Dataset, path: Path, attrs: dict[str, object]) -> None:
    """Write `dataset` through the contract of its file name; the file is complete or absent.

    It is written under a temporary name in the same folder, read back and compared, flushed to disk
    and renamed. attrs: strings and integers are kept, everything else is stored as JSON; the
    attribute `processor` is this processor, unless attrs name those that computed the parts.
    """
    dataset = describe(dataset, path.stem)
    dataset.attrs = {
        "Conventions": "CF-1.11",
        "title": f"tripartite {path.stem}",
        "history": f"written by tripartite {__version__}, stage {attrs.get('stage', path.stem)}",
        "processor": processor(),
        **{name: _attribute(value) for name, value in attrs.items()},
        "schema_version": SCHEMA_VERSION,
        "versions": json.dumps(versions()),
        "references": REFERENCES,
    }
    check(dataset, path.stem, str(path))
    dataset.attrs["content_digest"] = content_digest(dataset)
    compressed = {"zlib": True, "complevel": 1, "shuffle": True, "fletcher32": True}
    encoding: dict[Hashable, dict[str, Any]] = {}
    for name in dataset.variables:
        # CF conventions: labels of an axis are characters, and its numbers have no fill value
        is_axis = name in dataset.dims
        if dataset[name].dtype.kind in "OUT":
            encoding[name] = {"dtype": "S1" if is_axis else str}
        else:
            encoding[name] = compressed | ({"_FillValue": None} if is_axis else {})
    with replacing(path, dataset.nbytes) as temporary:
        in_blocks = _large(dataset)
        small = dataset.drop_vars(in_blocks)
        encoding = {name: encoding[name] for name in small.variables}
        small.to_netcdf(temporary, format="NETCDF4", engine="netcdf4", encoding=encoding)
        if in_blocks:
            _append(dataset[in_blocks], temporary, compressed)
        again, digest = _read(temporary)
        again.close()
        if digest != dataset.attrs["content_digest"]:
            raise OSError(f"{path}: the content that was read back differs from what was written")


def _large(dataset: xr.Dataset) -> list[str]:
    """Names of the variables with large arrays of numbers."""
    return [
        str(name)
        for name, variable in dataset.data_vars.items()
        if variable.nbytes > large.LARGE_BYTES and variable.dtype.kind in "fi"
    ]


def _append(dataset: xr.Dataset, path: Path, compressed: dict[str, Any]) -> None:
    """Add variables to a netCDF file as to_netcdf would, but in blocks."""
    with netCDF4.Dataset(path, "a") as file:
        for name in dataset.data_vars:
            array: Any = dataset[name].variable
            for dim, size in array.sizes.items():
                if dim not in file.dimensions:
                    file.createDimension(dim, size)
            variable: Any = file.createVariable(
                str(name),
                array.dtype,
                array.dims,
                fill_value=np.nan if array.dtype.kind == "f" else False,
                chunksizes=large.chunk(array.shape),
                **compressed,
            )
            variable.setncatts(array.attrs)
            variable.set_auto_maskandscale(False)
            for index in large.blocks(array.shape, array.dtype.itemsize):
                variable[index] = array[index].values


class OnDisk(BackendArray):
    """An array in a file without a name, which ends with the array or with the process.

    Parts are read and written by ints and slices, also by several threads.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, folder: Path) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder)
        weakref.finalize(self, self._file.close)
        n_bytes = math.prod(self.shape) * self.dtype.itemsize
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, not a crash later
            os.posix_fallocate(self._file.fileno(), 0, n_bytes)
        else:
            self._file.truncate(n_bytes)

    def _mapped(self, mode: Any) -> np.memmap:
        return np.memmap(self._file, self.dtype, mode, shape=self.shape)

    def __setitem__(self, index: tuple, values: Any) -> None:
        self._mapped("r+")[index] = values

    def __getitem__(self, key: Any) -> np.ndarray:
        if not isinstance(key, indexing.ExplicitIndexer):
            return self._read(key)
        basic = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(key, self.shape, basic, self._read)

    def _read(self, key: tuple) -> np.ndarray:
        return np.array(self._mapped("r")[key])  # a mapping that stays would count as memory


def room(folder: Path, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array to be filled: in memory, or, if it is large, on the disk of `folder`.

    UserError if the disk has no space for it.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if n_bytes <= large.LARGE_BYTES:
        return np.empty(shape, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return OnDisk(shape, dtype, folder)
    except OSError as error:
        raise UserError(f"{folder}: {_disk_full(folder, n_bytes)}") from error


class Checkpoint(MutableMapping):
    """Parts of a long job, name -> arrays by their names, that survive an interruption.

    They are kept in a hidden folder beside the output, whose name has a digest of all that the job
    depends on, and are deleted when the output is complete. A damaged part counts as missing. A
    part is a safetensors file, in whose metadata stand the arrays of texts.
    """

    def __init__(self, output: Path, *origin: object) -> None:
        digest = hashlib.sha256(json.dumps([versions(), *origin], sort_keys=True).encode())
        self.folder = output.parent / f".{output.name}-{digest.hexdigest()[:16]}.partial"

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def __getitem__(self, name: str) -> dict[str, np.ndarray]:
        try:
            with safe_open(self._path(name), "numpy") as file:
                texts = json.loads((file.metadata() or {}).get("texts", "{}"))
                arrays = {key: file.get_tensor(key) for key in file.keys()}
        except (OSError, ValueError, SafetensorError) as error:
            raise KeyError(name) from error
        return arrays | {key: np.array(text) for key, text in texts.items()}

    def __setitem__(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{processor()}.processor").touch()
        texts = {key: x.tolist() for key, x in arrays.items() if x.dtype.kind == "U"}
        numbers = {key: np.array(x, order="C") for key, x in arrays.items() if key not in texts}
        with replacing(self._path(name), sum(x.nbytes for x in arrays.values())) as temporary:
            save_file(numbers, temporary, {"texts": json.dumps(texts)})

    def __delitem__(self, name: str) -> None:
        self._path(name).unlink()

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.safetensors")))

    def __len__(self) -> int:
        return len(list(iter(self)))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Mark the parts as those of a running job."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locks.held(self.folder):
            yield

    def processors(self) -> list[str]:
        """The processors that computed parts: a job may be continued on another machine."""
        return [path.stem for path in self.folder.glob("*.processor")]

    def clear(self) -> None:
        """Delete all parts, also those that ended jobs with other settings left of this output."""
        shutil.rmtree(self.folder, ignore_errors=True)
        output = self.folder.name.rsplit("-", 1)[0]
        for folder in self.folder.parent.glob(f"{output}-*.partial"):
            locks.clear_abandoned(folder, min_age=0)


@contextlib.contextmanager
def replacing(path: Path, expected_bytes: int = 0) -> Iterator[Path]:
    """Give a temporary path to write to; on success the file is moved to `path`.

    UserError if the disk has less space than expected_bytes.
    """
    with locks.temporary_folder(path.parent, path.name) as folder:
        temporary = folder / path.name
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:
            free = shutil.disk_usage(path.parent).free
            if free < max(expected_bytes, 1 << 20):
                raise UserError(f"{path}: {_disk_full(path.parent, expected_bytes)}") from error
            raise


def _disk_full(folder: Path, needed: int) -> str:
    free = shutil.disk_usage(folder).free
    return (
        f"disk full: {free / 1e6:.0f} MB free, up to {needed / 1e6:.0f} MB needed; make room and "
        "run again"
    )


def _attribute(value: object) -> str | int:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return value
    return json.dumps(value)


def is_contract(path: PurePath) -> bool:
    """True for a file that a stage makes, such as .../qkv.nc."""
    return path.suffix == ".nc" and path.stem in files()


def open_wheel(path: Path, sha256: str) -> zipfile.ZipFile:
    """Open a wheel as data, after comparing its hash with the pin; UserError if they differ."""
    got = file_digest(path)
    if got != sha256:
        raise UserError(
            f"{path}: sha256 is {got[:16]}..., wanted {sha256[:16]}... (truncated or changed); "
            "delete it and run again"
        )
    return zipfile.ZipFile(path)


def open_sources(
    paths: list[Path], sha256: dict[str, str]
) -> tuple[dict[str, zipfile.ZipFile], dict[str, bytes]]:
    """Wheels by package, and bytes of all other files by stem; sha256: by the stem of a wheel."""
    wheels = [path for path in paths if path.suffix == ".whl"]
    archives = {path.stem.rsplit("-", 1)[0]: open_wheel(path, sha256[path.stem]) for path in wheels}
    return archives, {path.stem: path.read_bytes() for path in paths if path not in wheels}


def file_digest(path: Path) -> str:
    """sha256 of a file, as hexadecimal digits; UserError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run again") from error


@contextlib.contextmanager
def device(wanted: str) -> Iterator[str]:
    """Give the device for "auto", "cpu" or "cuda": "cpu", or a GPU for this job alone ("cuda:0").

    Jobs share the GPUs of a machine, also jobs of other Snakemake processes: each job locks one
    GPU, and waits if none is free. Only GPUs in CUDA_VISIBLE_DEVICES are used, if it is set; a job
    of Slurm without it has none. UserError for "cuda" without a GPU.
    """
    if wanted == "cpu":
        yield "cpu"
        return
    import torch  # only stages that compute on a device need it

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    allocation = os.environ.get("SLURM_JOB_ID", "")
    n_cards = 0 if allocation and not given else torch.cuda.device_count()
    if not n_cards and wanted == "cuda":
        raise UserError(
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


def device_words(name: str) -> str:
    """What a device of `device` is, for the log."""
    if name == "cpu":
        return "the CPU"
    import torch

    return f"the GPU {name} ({torch.cuda.get_device_name(name)})"


@contextlib.contextmanager
def card_lock(cards: list[str]) -> Iterator[int]:
    """Lock a free GPU and give its index in the list; wait until there is one."""
    waited = False
    while True:
        for i, card in enumerate(cards):
            name = re.sub(r"[^A-Za-z0-9-]", "_", card)
            path = locks.SHARED / f"tripartite-gpu-{name}.lock"
            try:
                handle = locks.lock(path)
            except OSError as error:
                raise UserError(
                    f"{path}: cannot be locked ({error.strerror}); delete it and run again"
                ) from error
            if handle is None:
                continue
            try:
                yield i
            finally:
                os.close(handle)  # this frees the lock, as the end of the process does
            return
        if not waited:
            print("waiting for a free GPU: other jobs hold all of them", flush=True)
            waited = True
        time.sleep(0.5)


def save_figure(
    figure: "Figure",
    paths: list[Path],
    upstream: dict[str, str],
    settings: dict | None = None,
    code: str = "",
    beside: dict[str, str] | None = None,
    title: str = "",
) -> None:
    """Write a figure to each path, with its origin and without a date: equal data, equal bytes.

    upstream: digests of the files that it shows, by their keys; code: digest of its code; beside:
    digests of the texts that were written with it, by their names; title: what it shows in a
    sentence, for readers that do not see it.
    """
    made = {"upstream": upstream, "settings": settings or {}, "code": code}
    origin = json.dumps(made | ({"beside": beside} if beside else {}), sort_keys=True)
    metadata = {
        ".svg": {"Date": None, "Description": origin, **({"Title": title} if title else {})},
        ".pdf": {"CreationDate": None, "Subject": origin, **({"Title": title} if title else {})},
        ".png": {"Description": origin},
    }
    _settle(figure)
    for path in paths:
        with replacing(path, 10 << 20) as temporary:
            figure.savefig(temporary, metadata=metadata[path.suffix])


def _settle(figure: "Figure") -> None:
    """Fix the layout, with rounded positions: the solver's last digits differ from run to run."""
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
    """Write a text completely or not at all."""
    with replacing(path, len(text)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def key(path: Path) -> str:
    """The name of a file in the attributes of what is made from it: experiment/file.nc."""
    return f"{path.parent.name}/{path.name}"


def verify(results: Path, asked: dict[str, dict]) -> None:
    """Check all results of a study against what is asked for now, and against one another.

    results: the folder results/STUDY; asked: settings and code by the key of each file, from
    plan.asked. Every netCDF file is checked against its contract and its digest; every digest that
    a file or figure records of an input is compared with that input. UserError with one line per
    fault.
    """
    origins, digests, faults = {}, {}, []
    for name in asked:
        path = results / name
        try:
            if not path.is_file():
                raise UserError(f"{path}: is missing")
            if is_contract(path):
                digests[name] = load(path).attrs["content_digest"]
            origins[name] = origin(path)
        except UserError as fault:
            faults.append(str(fault))
    for name, made in origins.items():
        path = results / name
        faults += [f"{path}: is out of date: {what}" for what in outdated(made, asked[name])]
        for source, digest in made["upstream"].items():
            if source in digests and digests[source] != digest:
                faults.append(f"{path}: was made from another {source} than the one that is there")
            elif "/" in source and source not in digests:  # a raw source has no folder in its name
                faults.append(f"{path}: was made from {source}, which is missing or damaged")
    if faults:
        raise UserError(
            "\n".join(faults)
            + "\nrun the study again (with --forceall if Snakemake finds nothing to be "
            "done), or restore the files"
        )
    print(
        f"{len(asked)} files are whole, were made as the study asks for, and from those that are "
        "there"
    )


def outdated(made: dict, asked: dict) -> list[str]:
    """How the origin of a file differs from what is asked for now: settings, raw data, code."""
    had, wanted = (dict(_leaves("", origin["settings"])) for origin in (made, asked))
    changes = []
    for name in sorted(had.keys() | wanted.keys()):
        if had.get(name) != wanted.get(name):
            what = name.replace("data.file", "the file of the data")
            changes.append(f"{what} was {_shown(had, name)}, now {_shown(wanted, name)}")
    if not changes and made["code"] != asked["code"]:
        changes.append("the code that makes it has changed since")
    return changes


def _shown(settings: dict, name: str) -> str:
    """A setting as JSON, shortened to one line."""
    if name not in settings:
        return "not set"
    text = json.dumps(settings[name])
    return text if len(text) <= 40 else f"{text[:37]}..."


def _leaves(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Every value of nested settings, with its dotted name."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(f"{name}.{key}".lstrip("."), part)
    else:
        yield name, value


def origin(path: Path) -> dict:
    """How a result was made, as it says: upstream, settings and code.

    What a text (.csv, .txt, .html, .md) was made from stands in the picture beside it, with its
    digest. UserError if it does not say, or is damaged.
    """
    picture = path.with_suffix(".svg") if path.suffix in (".csv", ".txt", ".html", ".md") else path
    try:
        if path.suffix == ".nc":
            with xr.open_dataset(path, engine="netcdf4") as dataset:
                attrs = dataset.attrs
            found = {name: json.loads(attrs[name]) for name in ("upstream", "settings")}
            return found | {"code": attrs["code_digest"]}
        if picture.suffix == ".png":
            with Image.open(picture) as image:
                assert isinstance(image, PngImageFile)
                text: str | None = image.text["Description"]
        elif picture.suffix == ".pdf":
            text = re.findall(rb"/Subject \((.*?)\)", picture.read_bytes(), re.S)[0].decode()
        else:
            text = ElementTree.fromstring(picture.read_bytes()).findtext(".//{*}description")
        found = json.loads(text or "")
        if path != picture and found["beside"][path.name] != file_digest(path):
            raise ValueError("the picture beside it was made with other bytes of it")
        return {name: found[name] for name in ("upstream", "settings", "code")}
    except Exception as error:  # a damaged file can cause almost any error of its reader
        raise UserError(f"{path}: does not say what it was made from, or is damaged") from error
