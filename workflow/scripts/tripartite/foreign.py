"""Read a user's file of queries, keys and values safely; say in one line why a file is refused.

A damaged or unusual file can crash the netCDF libraries or keep them busy for ever. So the kind of
the file, its permissions, locks and first bytes are checked first; the rest is read in a child
process with limits:

    python foreign.py header FILE SECONDS    prints as JSON: sizes, names of inputs, labels, faults
    python foreign.py values FILE SECONDS    prints the same and the arrays, then their bytes

Values are taken as they are stored: nothing is masked, scaled or decoded. Every parse of the
Snakefile imports this module, so numpy and netCDF4 are imported only where values are read.
"""

import codecs
import contextlib
import ctypes
import errno
import fcntl
import functools
import importlib.util
import itertools
import json
import math
import os
import signal
import stat
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    from netCDF4 import Dataset, Variable

DIMS = ("input", "layer", "head", "token", "d_head")
VALUE_DIMS = (*DIMS[:-1], "d_value")  # of v and model_output; their width may be d_head as well
SIZES = ("inputs", "layers", "heads", "tokens", "d_head", "d_value")  # names of their lengths
NUMBERS = ("q", "k", "v", "model_output", "mask")  # variables whose values are sent
OPTIONAL = ("model_output", "mask")
ORDERS = ("bidirectional", "causal")
DTYPES = ("float32", "float16", "bfloat16", "float64")  # of models
# names that a mask or an order has elsewhere, and what to do
MISNAMED = {
    "attention_mask": "call it mask (input, token), 1 where there is a token",
    "key_padding_mask": "turn it round and call it mask (input, token), 1 where there is a token",
    "is_causal": "write order (layer), bidirectional or causal",
    "causal": "write order (layer), bidirectional or causal",
}
NEVER_WRITTEN = 9.969209968386869e36  # netCDF's fill value of floats
MAX_INPUTS = 100_000
MAX_MASK_VALUES = 10**7  # a mask with more values is checked in the job only

HEADER_SECONDS = 2  # of CPU time to read a header, at most
VALUES_SECONDS = 10  # the same for values, and one second more for each BYTES_PER_SECOND
BYTES_PER_SECOND = 10**7
WAIT_SECONDS = 60  # for a disk that does not answer

NO_FILE = "there is no such file; give its path from the folder where Snakemake runs"
AGAIN = "copy it or export it again"
TO_NETCDF = "write it with xarray's to_netcdf or with netCDF4"
OF_PYTHON = f"is a file of torch.save or of Python objects, wanted netCDF-4; {TO_NETCDF}"
FIRST_BYTES = {  # of other kinds of files: what the file is, and what to do
    b"CDF\x01": "got a NETCDF3_CLASSIC file, wanted netCDF-4; convert it (nccopy -4)",
    b"CDF\x02": "got a NETCDF3_64BIT_OFFSET file, wanted netCDF-4; convert it (nccopy -4)",
    b"CDF\x05": "got a NETCDF3_64BIT_DATA (CDF-5) file, wanted netCDF-4; convert it (nccopy -4)",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file; fetch it (git lfs pull)",
    b"/annex/objects/": "is a pointer of git-annex, not the file; fetch it (git annex get)",
    b"PK\x03\x04": f"is a zip archive (npz, torch or zarr), wanted netCDF-4; {TO_NETCDF}",
    b"\x93NUMPY": f"is a numpy file, wanted netCDF-4; {TO_NETCDF}",
    **dict.fromkeys((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), OF_PYTHON),
    b"\x0e\x03\x13\x01": f"is an HDF4 file, wanted netCDF-4; {TO_NETCDF}",
    b"\x1f\x8b": "is compressed by gzip; unpack it (gunzip)",
    b"BZh": "is compressed by bzip2; unpack it (bunzip2)",
    b"\xfd7zXZ": "is compressed by xz; unpack it (unxz)",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it (unzstd)",
}
SIGNATURE = b"\x89HDF\r\n\x1a\n"
FILTER_NAMES = """
4 szip, 5 nbit, 6 scaleoffset, 307 bzip2, 32000 lzf, 32001 blosc, 32003 snappy, 32004 lz4,
32008 bitshuffle, 32013 zfp, 32015 zstd, 32017 sz, 32024 sz3, 32026 blosc2, 32028 sperr
"""
FILTERS = dict(entry.split() for entry in FILTER_NAMES.split(","))  # by HDF5's registered numbers
DAMAGED = f"it is damaged, or has what netCDF does not know; {AGAIN}"
NO_LIBRARY = 3  # exit status of the child if there is no netCDF4
DAMAGED_VALUES = 4  # and if values cannot be read
BLOCK_BYTES = 1 << 24  # of values that are sent at a time
FLOAT = 1  # HDF5's type class of floats
COMPACT, CHUNKED, VIRTUAL = 0, 2, 3  # HDF5's layouts


class Refused(ValueError):
    """Why a file cannot be read, one line per fault, without its path."""


# In the parent process: checks from outside, and the child.


def header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file holds, without values: {sizes, inputs, labels, orders, origin, faults}.

    sizes maps SIZES to lengths, inputs are names, labels are texts by "layer" and "head", orders
    those of the layers, if it says them; origin has the attributes `settings` and `upstream` of a
    file that this workflow made. If there is a fault, all others are empty. All are empty if this
    Python has no netCDF4; then only the job checks the file. A file that has not changed is read
    once.
    """
    try:
        status = os.stat(path)
        seen = status.st_size, status.st_mtime_ns, status.st_mode
    except (OSError, ValueError):
        seen = None
    return _header(os.path.abspath(path), seen)


@functools.lru_cache
def _header(path: str, seen: tuple | None) -> dict[str, Any]:
    empty: dict[str, Any] = {"sizes": {}, "inputs": [], "labels": {}, "orders": []}
    empty |= {"origin": {}, "faults": []}
    try:
        with _child("header", path, HEADER_SECONDS) as process:
            try:
                line = process.communicate(timeout=WAIT_SECONDS)[0]
            except subprocess.TimeoutExpired as error:
                raise Refused(
                    f"reading its header took more than {WAIT_SECONDS} s; is its disk available?"
                ) from error
            if process.returncode not in (0, NO_LIBRARY):
                raise Refused(_ending(process.returncode, HEADER_SECONDS))
            return empty | json.loads(line or "{}")
    except Refused as refusal:
        return empty | {"faults": [str(refusal)]}


def values(
    path: str | os.PathLike[str], room: Callable[..., Any]
) -> tuple[dict[str, Any], dict[str, tuple]]:
    """What `header` returns with text and dtype, and arrays: (dims, values as stored, attributes).

    text [input][token] says what each token is, if the file has it. Refused if there is a fault.
    room: such as np.empty, gives an array for a shape and a dtype; it is filled in blocks.
    Attributes are _FillValue and missing_value, if they are numbers. Elements of q, k and v that
    were never written into the file are NEVER_WRITTEN.
    """
    import numpy as np

    path, arrays, seconds = os.path.abspath(path), {}, VALUES_SECONDS
    if os.path.isfile(path):
        seconds += os.path.getsize(path) // BYTES_PER_SECOND
    with _child("values", path, seconds) as process:

        def check(n_bytes: int) -> None:
            if not n_bytes:
                raise Refused(_ending(process.wait(), seconds))

        pipe: Any = process.stdout
        line = pipe.readline()
        check(len(line))
        found = json.loads(line)
        if found["faults"]:
            raise Refused("\n".join(found["faults"]))
        seconds = found["seconds"]
        for name, dims, shape, dtype, block_shape, attributes in found["arrays"]:
            array = room(tuple(shape), dtype)
            for index in _blocks(shape, block_shape):
                block = np.empty([part.stop - part.start for part in index], dtype)
                memory, n = block.reshape(-1).view("u1").data, 0
                while n < block.nbytes:
                    got = pipe.readinto(memory[n:])
                    check(got)
                    n += got
                array[index] = block
            arrays[name] = (dims, array, attributes)
    return found, arrays


def _blocks(shape: list[int], block: list[int]) -> Iterator[tuple[slice, ...]]:
    """The blocks of an array, which are smaller at its ends, in C order."""
    axes = [
        [slice(start, min(start + length, size)) for start in range(0, size, length)]
        for size, length in zip(shape, block)
    ]
    return itertools.product(*axes)


@contextlib.contextmanager
def _child(mode: str, path: str, seconds: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process that reads a file, after a check from outside; it is killed at the end."""
    command = [sys.executable, "-E", "-s", "-P", __file__, mode, path, str(seconds)]
    with subprocess.Popen(
        command,
        env=os.environ | _look(path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _ending(code: int, seconds: float) -> str:
    """Why a child ended before it had sent everything."""
    if code == -signal.SIGPROF:
        return (
            f"reading it did not end within {seconds:g} s of computing and was stopped: it is "
            f"damaged, or its links lead in a circle; {AGAIN}"
        )
    if code == NO_LIBRARY:
        return "cannot be read: this Python has no netCDF4"
    if code == -signal.SIGKILL:
        return "the process that reads it was killed; is there enough memory?"
    if code == DAMAGED_VALUES:
        return f"not a readable netCDF-4 file: some of its values are damaged; {AGAIN}"
    how = f"crashed (signal {-code})" if code < 0 else f"failed (code {code})"
    return f"the library that reads it {how}: {DAMAGED}"


def _look(path: str) -> dict[str, str]:
    """Refuse a file that no library should open; else return environment variables for reading."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise Refused(_why_not_there(path, error)) from error
    if stat.S_ISDIR(mode):
        zarr = any(os.path.exists(os.path.join(path, name)) for name in (".zgroup", "zarr.json"))
        kind = f"zarr store, wanted a netCDF-4 file; {TO_NETCDF}"
        raise Refused(f"is a {kind if zarr else 'folder, wanted a netCDF-4 file'}")
    if not stat.S_ISREG(mode):
        raise Refused("is a pipe, socket or device, wanted a file on disk")
    try:
        with open(path, "rb") as file:
            environment = _locked(file)
            _check_bytes(file, os.fstat(file.fileno()).st_size)
    except PermissionError as error:
        raise Refused("may not be read (permission denied); ask its owner, or chmod u+r") from error
    except OSError as error:
        raise Refused(f"cannot be read ({error.strerror})") from error
    return environment


def _why_not_there(path: str, error: Exception) -> str:
    if getattr(error, "errno", None) == errno.ELOOP:
        return "is a symbolic link that leads back to itself; link to the file"
    if isinstance(error, PermissionError):
        return "a folder of its path may not be entered (permission denied); ask its owner"
    try:
        target = os.readlink(path)
    except (OSError, ValueError):
        return NO_FILE
    if "annex/objects" in target:
        return "is a link of git-annex, and the file itself is not here; fetch it (git annex get)"
    return "is a symbolic link to a file that is not there; link to the file, or mount its disk"


def _locked(file: BinaryIO) -> dict[str, str]:
    """Environment variables for reading an open file; Refused if it is open for writing."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_UN)
    except BlockingIOError as error:
        raise Refused(
            "is open for writing in another program (a notebook?); close it there"
        ) from error
    except OSError:  # a file system without locks, which HDF5's library would require
        return {"HDF5_USE_FILE_LOCKING": "FALSE"}
    return {}


def _check_bytes(file: BinaryIO, size: int) -> None:
    """Refuse a file that is not HDF5, or not complete."""
    if not size:
        raise Refused(f"is empty (0 bytes): writing it failed or is not finished; {AGAIN}")
    start = file.read(1024)
    for beginning, reason in FIRST_BYTES.items():
        if start.startswith(beginning):
            raise Refused(reason)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        raise Refused(f"is a safetensors file, wanted netCDF-4; {TO_NETCDF}")
    offset = 0
    while True:  # an HDF5 file begins at byte 0, 512, 1024, ...
        file.seek(offset)
        block = file.read(64)
        if block.startswith(SIGNATURE):
            break
        offset = max(512, 2 * offset)
        if offset >= size:
            raise Refused(_kind_of(start))
    if len(block) < 48:
        raise Refused(f"is truncated: it has {size} bytes; {AGAIN}")
    version = block[8]
    eof = block[28:36] if version > 1 else block[40 + 4 * version : 48 + 4 * version]
    wanted = int.from_bytes(eof, "little")
    if (block[9] if version > 1 else block[13]) == 8 and size < wanted < 1 << 62:
        raise Refused(f"is truncated: it has {size} bytes of {wanted}; {AGAIN}")
    if version == 3 and block[11] & 1:
        raise Refused(
            "was never closed by what wrote it (killed?); export it again, or repair it (h5clear "
            "-s)"
        )


def _kind_of(start: bytes) -> str:
    """What a file is that is not HDF5, by its first bytes."""
    if not any(start):
        return f"begins with zeros: it was copied or written in part; {AGAIN}"
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start).strip()
    except UnicodeDecodeError:
        text = "\0"
    if text.lower().startswith(("<!doctype html", "<html")):
        return f"is a page of the web (HTML), wanted netCDF-4; {AGAIN}"
    if all(letter.isprintable() or letter.isspace() for letter in text):
        return f"is a text ({' '.join(text.split())[:40]!r} ...), wanted netCDF-4; {AGAIN}"
    return f"not a readable netCDF-4 file (it is no HDF5 file at all); {AGAIN}"


# In the child process: the contents.


def main(mode: str, path: str, seconds: str) -> int:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no core file
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not mix with the answer
    warnings.simplefilter("ignore")
    package = importlib.util.find_spec("netCDF4")
    if not package:
        return NO_LIBRARY
    folders = [os.environ.get("HDF5_PLUGIN_PATH", ""), *(package.submodule_search_locations or ())]
    folders[1:] = [os.path.join(folder, "plugins") for folder in folders[1:]]
    os.environ["HDF5_PLUGIN_PATH"] = os.pathsep.join(filter(None, folders))
    import netCDF4

    _limit(float(seconds))
    stage = "header"
    try:
        stored = _stored(path, mode == "values")
        with netCDF4.Dataset(path) as dataset:
            dataset.set_auto_maskandscale(False)
            found = _contents(dataset, stored, MAX_MASK_VALUES if mode == "header" else sys.maxsize)
            if mode == "values" and not found["faults"]:
                found |= _token_texts(dataset)
            if mode == "values" and not found["faults"]:
                stage = "values"
                _send_values(dataset, stored, found, out)
    except UnicodeDecodeError:
        fault = "a name of a variable, dimension or attribute is no UTF-8 text; rename it"
        found = {"faults": [fault]}
    except Exception as error:  # a damaged file can cause almost any error of the libraries
        if stage == "values":
            os._exit(DAMAGED_VALUES)
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(": '")[0]
        found = {"faults": [f"not a readable netCDF-4 file ({reason}): {DAMAGED}"]}
    if stage == "header":
        out.write(json.dumps(found).encode() + b"\n")
    out.flush()
    os._exit(0)  # without the clean-up of HDF5's library, which may crash as well


def _limit(seconds: float) -> None:
    """Let the system end this process after so many seconds of CPU time."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _contents(dataset: "Dataset", stored: dict, max_mask_values: int) -> dict[str, Any]:
    """sizes, inputs, labels, origin and faults of an open file."""
    lengths = {name: len(dimension) for name, dimension in dataset.dimensions.items()}
    faults = [
        fault for name in NUMBERS for fault in _variable_faults(dataset, name, stored.get(name))
    ]
    faults += [
        f"{name}: is not read; {remedy}"
        for name, remedy in MISNAMED.items()
        if name in dataset.variables
    ]
    faults += [
        f"dimension {dim} is empty, wanted at least 1" for dim in DIMS if lengths.get(dim) == 0
    ]
    n_inputs, names, labels = lengths.get("input", 0), [], {}
    if n_inputs > MAX_INPUTS:
        faults.append(f"dimension input has {n_inputs} entries, the limit is {MAX_INPUTS}")
    else:
        names = [f"input-{i}" for i in range(n_inputs)]
        if "input" in dataset.variables:
            names, wrong = _texts(dataset.variables["input"], "input")
            faults += wrong
    for dim in ("layer", "head"):
        if dim in dataset.variables and lengths.get(dim, 0) <= MAX_INPUTS:
            texts, wrong = _labels(dataset.variables[dim], dim)
            faults += wrong
            if texts:
                labels[dim] = texts
    orders, wrong = _orders(dataset)
    faults += wrong
    if (
        not faults
        and "mask" in dataset.variables
        and dataset.variables["mask"].size <= max_mask_values
    ):
        faults += _mask_faults(dataset.variables["mask"], names, stored.get("mask"))
    if faults:
        return {"faults": faults}
    sizes = {size: lengths[dim] for size, dim in zip(SIZES, DIMS)}
    sizes["d_value"] = dataset.variables["v"].shape[-1]
    own = [key for key in ("settings", "upstream") if key in dataset.ncattrs()]
    origin = {key: str(dataset.getncattr(key)) for key in own}
    found = {"sizes": sizes, "inputs": names, "labels": labels, "orders": orders}
    return found | {"origin": origin, "faults": []}


def _orders(dataset: "Dataset") -> tuple[list[str], list[str]]:
    """The order of each layer, if the file says it; and its faults, with those of dtype."""
    faults = []
    dtype = _dtype(dataset)
    if dtype not in DTYPES:
        faults = [f"attribute dtype: got {dtype[:40]!r}, wanted one of {', '.join(DTYPES)}"]
    if "order" not in dataset.variables:
        return [], faults
    wanted = "wanted bidirectional or causal for each layer, with dims (layer)"
    if not _has_texts(dataset.variables["order"], "layer"):
        return [], [*faults, f"order: {wanted}"]
    try:
        orders = [str(text) for text in _strings(dataset.variables["order"])]
    except UnicodeDecodeError:
        return [], [*faults, f"order: is no UTF-8 text; {wanted}"]
    for layer, order in enumerate(orders):
        if order not in ORDERS:
            return [], [*faults, f"order: got {order[:40]!r} of layer {layer}; {wanted}"]
    return orders, faults


def _dtype(dataset: "Dataset") -> str:
    """The dtype of the model, as the file says it."""
    return str(dataset.getncattr("dtype")) if "dtype" in dataset.ncattrs() else DTYPES[0]


def _token_texts(dataset: "Dataset") -> dict[str, Any]:
    """{text, dtype}: what each token is, [input][token], and the model's dtype; or {faults}."""
    found: dict[str, Any] = {"dtype": _dtype(dataset)}
    if "text" not in dataset.variables:
        return found
    variable = dataset.variables["text"]
    if variable.dimensions != ("input", "token"):  # it says something else
        return found
    if variable.dtype is not str:
        return {"faults": ["text: wanted one string for each token"]}
    try:
        return found | {"text": variable[...].tolist()}
    except UnicodeDecodeError:
        return {"faults": ["text: one of its strings is no UTF-8 text; encode it as UTF-8"]}


def _variable_faults(dataset: "Dataset", name: str, stored: dict | None) -> Iterator[str]:
    """Faults of one of NUMBERS."""
    dims: tuple[str, ...] = DIMS if name in ("q", "k") else VALUE_DIMS
    kinds, wanted = "f", "float32 or float64"
    if name == "mask":
        dims, kinds, wanted = ("input", "token"), "biu", "a bool or integer type"
    if name not in dataset.variables:
        if name not in OPTIONAL:
            has = ", ".join(dataset.variables) or "none"
            hidden = "; variables of groups are not read" if dataset.groups else ""
            yield (
                f"{name}: missing, wanted dims ({', '.join(dims)}); the variables are {has}{hidden}"
            )
        return
    variable = dataset.variables[name]
    if name != "mask" and "d_head" in variable.dimensions:
        dims = DIMS  # values as wide as queries
    if variable.dimensions != dims:
        got, remedy = ", ".join(variable.dimensions), _dims_remedy(name, variable.dimensions, dims)
        yield f"{name}: got dims ({got}), wanted ({', '.join(dims)}){remedy}"
    kind, words = _type(variable, stored)
    if kind not in kinds:
        yield f"{name}: got {words}, wanted {wanted}"
        return
    for key, plain in (("scale_factor", 1), ("add_offset", 0)):
        if key in variable.ncattrs() and variable.getncattr(key) != plain:
            yield (
                f"{name}: has the attribute {key}, by which its numbers would have to be scaled; "
                "write it without (as float32) or take the attribute away"
            )
    if stored and stored["elsewhere"]:
        yield f"{name}: its values lie in other files; write them into this one"
    for number, said in stored["filters"] if stored else ():
        known = FILTERS.get(str(number), said or "unknown")
        yield (
            f"{name}: is compressed by the filter {known} ({number}), which netCDF does not have "
            "here; write it with zlib or zstd"
        )


def _type(variable: "Variable", stored: dict | None) -> tuple[str, str]:
    """The kind of a variable's type (numpy's letter, if it has one) and its name."""
    # netCDF takes floats of other sizes for text, and crashes
    if stored and stored["float_bytes"] not in (0, 4, 8):
        bits = 8 * stored["float_bytes"]
        return "odd", f"{bits}-bit floats (convert them: x.float() in torch, astype('float32'))"
    name = type(variable.datatype).__name__
    if name in ("CompoundType", "VLType") and variable.dtype is not str:
        return name, {"CompoundType": "a compound type", "VLType": "lists"}[name]
    return getattr(variable.dtype, "kind", "text"), getattr(variable.dtype, "name", "text")


def _dims_remedy(name: str, got: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    """What to do about other dimensions, or ""."""
    if any(dim.startswith("phony_dim_") for dim in got):
        return f"; an HDF5 file without the dimensions of netCDF: {TO_NETCDF}"
    if sorted(got) == sorted(wanted):
        return "; transpose it"
    if name == "mask":
        return "; causal masks and masks of pairs are not covered" * (len(got) > 2)
    if len(got) < len(wanted):
        missing = ", ".join(dim for dim in wanted if dim not in got)
        return f"; add what is missing with length 1 ({missing})" * (set(got) < set(wanted))
    if len(got) > len(wanted):
        return ""
    differ = [dim for dim, other in zip(wanted, got) if dim != other]
    if len(differ) > 2:
        return "; rename its dimensions"
    remedies = {
        "head": "repeat keys and values of grouped queries, so that each query head has its own",
        "d_head": "queries and keys have the same width",
        "d_value": "call the width of values d_value",
        "token": "keys of other tokens than the queries (cross-attention) are not covered",
    }
    return "".join(f"; {remedies.get(dim, 'rename the dimension ' + dim)}" for dim in differ)


def _texts(variable: "Variable", name: str) -> tuple[list[str], list[str]]:
    """Names along the dimension `name`, and faults of these."""
    if not _has_texts(variable, name):
        return [], [f"{name}: the names of the {name}s must be one string each, with dims ({name})"]
    try:
        texts = [str(text) for text in _strings(variable)]
    except UnicodeDecodeError:
        return [], [f"{name}: {_first_undecodable(variable)} is no UTF-8 text; encode it as UTF-8"]
    for i, text in enumerate(texts):
        if not text.strip():
            return texts, [f"{name}: name {i} is empty; give it a name"]
        if not is_drawable(text):
            return texts, [
                f"{name}: name {i} ({text[:40]!r}) has a line break or a control character; take "
                "it out"
            ]
    if len(set(texts)) < len(texts):
        return texts, [f"{name}: two {name}s have the same name; give each a name of its own"]
    return texts, []


def _has_texts(variable: "Variable", name: str) -> bool:
    """Whether a variable has a string, or a row of characters as CF has it, for each `name`."""
    if variable.dtype is str:
        return variable.dimensions == (name,)
    characters = getattr(variable.dtype, "kind", "") == "S" and len(variable.dimensions) == 2
    return characters and variable.dimensions[0] == name


def _strings(variable: "Variable") -> Iterable[object]:
    if variable.dtype is str:
        return variable[:]
    variable.set_auto_chartostring(False)
    variable.set_auto_mask(False)
    return (b"".join(row).rstrip(b"\0").decode("utf-8") for row in variable[:].tolist())


def _first_undecodable(variable: "Variable") -> str:
    """Which of the names is no UTF-8 text."""
    for i in range(len(variable)):
        try:
            variable[i]
        except UnicodeDecodeError:
            return f"name {i}"
    return "a name"


def is_drawable(text: str) -> bool:
    """True for one line of characters that all formats of figures can hold."""
    return all(
        unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp")
        and ord(letter) & 0xFFFE != 0xFFFE
        for letter in text
    )


def _labels(variable: "Variable", name: str) -> tuple[list[str], list[str]]:
    """Labels of layers or heads, if they are more than their indices; and their faults."""
    if _has_texts(variable, name):
        return _texts(variable, name)
    if variable.dimensions != (name,):
        return [], []
    kind = getattr(variable.dtype, "kind", "text")
    if kind not in "iu" or type(variable.datatype).__name__ == "VLType":
        return [], []
    numbers = variable[:].tolist()
    own = numbers != list(range(len(numbers))) and len(set(numbers)) == len(numbers)
    return [str(number) for number in numbers] * own, []


def _mask_faults(variable: "Variable", names: list[str], stored: dict | None) -> Iterator[str]:
    """Faults of the values of a mask; names: of the inputs."""
    import netCDF4
    import numpy as np

    if stored and not stored["written"]:
        yield (
            "mask: nothing was ever written into it; write it, or leave it out if all tokens are "
            "there"
        )
        return
    mask = variable[...]
    odd = np.unique(mask[(mask != 0) & (mask != 1)]).tolist()
    if odd:
        shown = ", ".join(map(str, odd[:3]))
        default: Any = netCDF4.default_fillvals.get(variable.dtype.str[1:])
        remedy = "write mask != 0 if all of these mark tokens"
        if default in odd and (len(odd) > 1 or 1 in mask):
            remedy = f"{int(default)} is what netCDF gives where nothing was written"
        yield f"mask: has other values than 0 (no token) and 1 (a token): {shown}; {remedy}"
        return
    for i in np.flatnonzero(~(mask == 1).any(1))[:1]:
        yield (
            f"mask: input {names[i]} has no token; 1 is where there is a token, the opposite of "
            "torch's key_padding_mask"
        )


def _send_values(dataset: "Dataset", stored: dict, found: dict, out: BinaryIO) -> None:
    """Write the line of JSON, then the bytes of q, k, v and mask, a block at a time."""
    import numpy as np

    present = [name for name in NUMBERS if name in dataset.variables]
    arrays, n_bytes = [], 0
    for name in present:
        variable = dataset.variables[name]
        dtype = variable.dtype.newbyteorder("=")
        n_bytes += variable.size * dtype.itemsize
        keys = [key for key in ("_FillValue", "missing_value") if key in variable.ncattrs()]
        fills = {key: np.asarray(variable.getncattr(key)) for key in keys}
        fills = {key: x for key, x in fills.items() if x.ndim == 0 and x.dtype.kind in "fiu"}
        attributes = {key: float(x) for key, x in fills.items()}
        block = _block(variable)
        arrays.append([name, variable.dimensions, variable.shape, dtype.str, block, attributes])
    seconds = VALUES_SECONDS + n_bytes // BYTES_PER_SECOND
    _limit(seconds)
    out.write(json.dumps(found | {"arrays": arrays, "seconds": seconds}).encode() + b"\n")
    for name, _, shape, dtype, block_shape, _ in arrays:
        for index in _blocks(shape, block_shape):
            values = np.ascontiguousarray(dataset.variables[name][index])
            if name != "mask" and stored.get(name):
                _mark_unwritten(values, [part.start for part in index], stored[name])
            out.write(values.astype(dtype, copy=False).data.cast("B"))


def _block(variable: "Variable") -> list[int]:
    """Shape of the blocks to be read: whole chunks, since each is decompressed as a whole.

    At most BLOCK_BYTES where chunks are smaller. Tokens and d_head are never cut.
    """
    shape, chunks = variable.shape, variable.chunking()
    n_cut = max(1, len(shape) - 2)
    block = [*(chunks if isinstance(chunks, list) else [1] * n_cut)[:n_cut], *shape[n_cut:]]
    for axis in reversed(range(n_cut)):
        fit = BLOCK_BYTES // (math.prod(block) * variable.dtype.itemsize)
        block[axis] = min(shape[axis], block[axis] * max(1, fit))
        if block[axis] < shape[axis]:
            break
    return block


def _mark_unwritten(block: "np.ndarray", start: list[int], stored: dict) -> None:
    """Set NEVER_WRITTEN where the file has no chunk; start: of a block of whole chunks."""
    import numpy as np

    if not stored["written"]:
        block[...] = NEVER_WRITTEN
    for axis, size in enumerate(stored["extent"]):  # larger are the dimensions of other variables
        block.swapaxes(0, axis)[max(0, size - start[axis]) :] = NEVER_WRITTEN
    if not stored["offsets"]:
        return
    offsets, lengths = np.array(stored["offsets"]) - start, np.array(stored["chunks"])
    offsets = offsets[((offsets >= 0) & (offsets < block.shape)).all(1)]
    written = np.zeros(-(-np.array(block.shape) // lengths), dtype=bool)
    written[tuple((offsets // lengths).T)] = True
    for axis, length in enumerate(lengths):
        written = written.repeat(min(length, block.shape[axis]), axis)
    block[~written[tuple(map(slice, block.shape))]] = NEVER_WRITTEN


# How variables are stored, which HDF5's library tells and netCDF's does not.


def _stored(path: str, chunks: bool) -> dict[str, dict]:
    """How q, k, v and mask are stored; {} if HDF5's library cannot be called.

    float_bytes: size of its floats in memory, 0 for other types. filters: those that HDF5 lacks
    here, as pairs of number and name. elsewhere: whether values are in other files. written:
    whether there are any values. extent: its lengths; those of netCDF's dimensions may be larger.
    offsets: first elements of its chunks of the shape `chunks`, if some chunks are missing and the
    argument `chunks` is true.
    """
    try:
        library = ctypes.CDLL(importlib.import_module("netCDF4._netCDF4").__file__)
        call = functools.partial(_call, library)
        call("H5Eset_auto2", 0, None, None)
        file = call("H5Fopen", os.fsencode(path), 0, 0)
    except (AttributeError, OSError):
        return {}
    if file < 0:
        return {}
    stored = {}
    for name in NUMBERS:
        variable = call("H5Dopen2", file, name.encode(), 0)
        if variable >= 0:
            stored[name] = _stored_variable(call, variable, chunks)
            call("H5Dclose", variable)
    call("H5Fclose", file)
    return stored


def _call(library: ctypes.CDLL, name: str, *arguments: Any) -> int:
    """Call a function of HDF5's library; returns an identifier, a size or a negative error."""
    function = getattr(library, name)
    function.restype = ctypes.c_int64
    integers = [ctypes.c_int64(x) if isinstance(x, int) else x for x in arguments]
    return function(*integers)


def _stored_variable(
    call: Callable[..., int], variable: int, look_for_gaps: bool
) -> dict[str, Any]:
    in_file = call("H5Dget_type", variable)
    in_memory = call("H5Tget_native_type", in_file, 0)
    floats = _int(call("H5Tget_class", in_memory)) == FLOAT
    float_bytes = call("H5Tget_size", in_memory) if floats else 0
    call("H5Tclose", in_memory), call("H5Tclose", in_file)
    space, lengths = call("H5Dget_space", variable), (ctypes.c_uint64 * 32)()
    extent = list(lengths[: _int(call("H5Sget_simple_extent_dims", space, lengths, None))])
    call("H5Sclose", space)
    plan = call("H5Dget_create_plist", variable)
    filters = []
    for i in range(_int(call("H5Pget_nfilters", plan))):
        name = ctypes.create_string_buffer(64)
        flags, n, config = map(ctypes.byref, (ctypes.c_uint(), ctypes.c_size_t(), ctypes.c_uint()))
        number = _int(call("H5Pget_filter2", plan, i, flags, n, None, 64, name, config))
        if _int(call("H5Zfilter_avail", number)) <= 0:
            said = name.value.decode("ascii", "replace").split(";")[0]
            filters.append((number, "".join(letter for letter in said if letter.isprintable())))
    layout = _int(call("H5Pget_layout", plan))
    chunks, offsets = [], []
    if layout == CHUNKED:
        chunks = list(lengths[: _int(call("H5Pget_chunk", plan, 32, lengths))])
        if look_for_gaps:
            offsets = _chunk_offsets(call, variable, extent, chunks)
    elsewhere = layout == VIRTUAL or _int(call("H5Pget_external_count", plan)) > 0
    call("H5Pclose", plan)
    return {
        "float_bytes": float_bytes,
        "filters": filters,
        "elsewhere": elsewhere,
        "written": layout == COMPACT or call("H5Dget_storage_size", variable) > 0,
        "extent": extent,
        "chunks": chunks,
        "offsets": offsets,
    }


def _chunk_offsets(
    call: Callable[..., int], variable: int, extent: list[int], chunks: list[int]
) -> list[tuple[int, ...]]:
    """The first element of each chunk that the file holds, if some chunks are missing."""
    offsets: list[tuple[int, ...]] = []
    size = ctypes.c_uint64
    n_chunks, pointer = size(), ctypes.POINTER(size)
    kind = ctypes.CFUNCTYPE(ctypes.c_int, pointer, ctypes.c_uint, size, size, ctypes.c_void_p)

    def note(offset: Any, *_: object) -> int:
        offsets.append(tuple(offset[: len(chunks)]))
        return 0

    wanted = math.prod(-(-size // length) for size, length in zip(extent, chunks))
    try:
        call("H5Dget_num_chunks", variable, 0, ctypes.byref(n_chunks))
        if n_chunks.value == wanted:
            return []
        call("H5Dchunk_iter", variable, 0, kind(note), None)
    except AttributeError:  # HDF5 before 1.14
        return []
    return offsets


def _int(value: int) -> int:
    """The int of C in a result that was read as 64 bits."""
    return ctypes.c_int32(value & 0xFFFFFFFF).value


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
