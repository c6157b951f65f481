"""A user's file: each kind is read right, or refused in one line with the true reason."""

import ctypes
import functools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr

from conftest import ROOT
from test_contracts import qkv
from tripartite import foreign, job, study
from tripartite.contracts import UserError, check
from tripartite.figures import palette
from tripartite.kinds.data.generate import adopt

SIZES = dict(zip(foreign.DIMS, (2, 2, 2, 6, 4)))
SHAPE = tuple(SIZES.values())
VALUES = {
    name: np.random.default_rng(ord(name)).standard_normal(SHAPE).astype("f4") for name in "qkv"
}
KINDS = {}


def kind(refusal=None, values=None, name="my.nc"):
    """Register what makes a file: read right, or refused by its header or by its values."""

    def register(make):
        assert make.__name__ not in KINDS
        KINDS[make.__name__] = (make, name, refusal, values)
        return make

    return register


def write(path, dtype="f4", dims=None, only="qkv", mask=None, inputs=None, file=None, **how):
    """q, k, v with the dims of each name; mask, names of inputs if given; then what `file` does."""
    with netCDF4.Dataset(path, "w", format=how.pop("format", "NETCDF4")) as dataset:
        sizes = SIZES | how.pop("sizes", {})
        for dim, size in sizes.items():
            dataset.createDimension(dim, size)
        for name in only:
            own = (dims or {}).get(name, foreign.DIMS)
            x = dataset.createVariable(name, dtype, own, **how)
            if np.dtype(dtype).kind == "f" and own in (foreign.DIMS, foreign.VALUE_DIMS):
                x[:] = VALUES[name][..., : x.shape[-1] or None]
        if mask is not None:
            mask = np.asarray(mask)
            endian = "big" if mask.dtype.byteorder == ">" else "native"
            own = dataset.createVariable("mask", mask.dtype, ("input", "token"), endian=endian)
            own[:] = mask
        if inputs is not None:
            names = dataset.createVariable("input", str, ("input",))
            names[:] = np.array(inputs, dtype=object)
        if file:
            file(dataset)


# Read right: types, byte orders, filters, layouts.


@kind()
def plain(path):
    write(path)


@kind()
def doubles(path):
    write(path, "f8")


@kind()
def big_endian(path):
    write(path, ">f4", endian="big")


@kind()
def big_endian_doubles(path):
    write(path, ">f8", endian="big", zlib=True)


@kind()
def classic_model(path):
    write(path, format="NETCDF4_CLASSIC")


@kind()
def zlib_shuffle_and_checksums(path):
    write(path, zlib=True, shuffle=True, fletcher32=True, chunksizes=(1, 1, 1, 5, 3))


@kind()
def zstd(path):
    write(path, compression="zstd")


@kind()
def bzip2(path):
    write(path, compression="bzip2")


@kind()
def szip(path):
    write(path, compression="szip")


@kind()
def chunks_over_all_inputs(path):
    write(path, chunksizes=(2, 1, 2, 6, 1))


@kind()
def unlimited_inputs(path):
    write(path, sizes={"input": None})


@kind()
def unlimited_everything(path):
    write(path, sizes=dict.fromkeys(SIZES))


@kind()
def a_mask_of_bytes(path):
    write(path, mask=np.ones((2, 6), "i1"))


@kind()
def a_mask_of_unsigned_bytes(path):
    write(path, mask=np.ones((2, 6), "u1"))


@kind()
def a_mask_of_big_endian_integers(path):
    write(path, mask=np.ones((2, 6), ">i8"))


@kind()
def a_mask_of_xarray(path):
    write(path)
    with xr.load_dataset(path) as data:
        data["mask"] = (("input", "token"), np.ones((2, 6), dtype=bool))
        data.to_netcdf(path)


@kind()
def a_mask_that_is_an_enumeration(path):
    def file(dataset):
        boolean = dataset.createEnumType("i1", "boolean", {"FALSE": 0, "TRUE": 1})
        dataset.createVariable("mask", boolean, ("input", "token"))[:] = 1

    write(path, file=file)


@kind()
def an_unsigned_mask_by_attribute(path):
    write(path, mask=np.ones((2, 6), "i1"), file=lambda d: d["mask"].setncattr("_Unsigned", "true"))


@kind()
def a_fill_value_of_nan(path):
    write(path, fill_value=np.nan)


@kind()
def a_valid_range(path):
    write(path, file=lambda d: d["q"].setncattr("valid_range", np.float32([-0.1, 0.1])))


@kind()
def a_dtype_of_xarray_left_behind(path):
    write(path, file=lambda d: d["q"].setncattr("dtype", "bool"))


@kind()
def a_scale_of_one(path):
    write(path, file=lambda d: d["q"].setncatts({"scale_factor": 1.0, "add_offset": 0.0}))


@kind()
def odd_attributes(path):
    def file(dataset):
        dataset["q"].setncatts({"missing_value": "none", "units": "", "x": np.zeros(20_000)})
        dataset.setncattr_string("names", ["a", "b"])

    write(path, file=file)


@kind()
def other_variables_of_all_types(path):
    def file(dataset):
        pair = dataset.createCompoundType(np.dtype([("a", "f4"), ("b", "i8")]), "pair")
        some = dataset.createVLType("f4", "some")
        dataset.createVariable("pairs", pair, ("head",))
        dataset.createVariable("lists", some, ("head",))
        dataset.createVariable("letters", "S1", ("head",))
        dataset.createVariable("text", str, ("token",))
        dataset.createVariable("number", "f8", ())
        dataset.createDimension("nothing", 0)
        dataset.createVariable("empty", "f4", ("nothing",))
        dataset.createVariable("d_head", "f4", ("d_head",))[:] = 0

    write(path, file=file)


@kind()
def another_variable_in_half_precision(path):
    write(path)
    raw(path, lambda call, file: create(call, file, "weights", half(call)))


@kind()
def groups_beside(path):
    def file(dataset):
        group = dataset.createGroup("more")
        group.createDimension("token", 3)
        group.createVariable("q", "i4", ("token",))

    write(path, file=file)


@kind()
def names_in_any_script(path):
    write(path, inputs=["句子一", "ein 🙂 Satz, “quoted” $x^$ " + "long " * 1000])


@kind(name="with space # and [x] 模型 50%.nc")
def a_name_with_odd_letters(path):
    write(path)


@kind()
def a_symbolic_link(path):
    write(path.with_name("real.nc"))
    path.symlink_to("real.nc")


@kind()
def undecodable_text_that_is_not_read(path):
    def file(dataset):
        dataset.createVariable("text", str, ("input",))[:] = np.array(["cafe"] * 2, dtype=object)

    write(path, file=file)
    replace(path, b"cafe", b"caf\xe9")


@kind()
def labels_that_say_nothing(path):
    def file(dataset):
        dataset.createVariable("layer", "i4", ("layer",))[:] = [0, 1]
        dataset.createVariable("head", "f4", ("head",))[:] = [0.5, 1.5]

    write(path, file=file)


# Refused from outside.


@kind("there is no such file")
def nothing(path):
    pass


@kind("there is no such file", name="a" * 300)
def a_name_that_is_too_long(path):
    pass


@kind(r"is empty \(0 bytes\)")
def empty(path):
    path.touch()


@kind("is a folder, wanted a netCDF-4 file$")
def a_folder(path):
    path.mkdir()


@kind("is a zarr store.*to_netcdf")
def a_zarr_store(path):
    path.mkdir()
    (path / ".zgroup").touch()


@kind("is a pipe, socket or device")
def a_pipe(path):
    os.mkfifo(path)


@kind("is a pipe, socket or device")
def a_device(path):
    path.symlink_to("/dev/zero")


@kind("is a pipe, socket or device", name="s")
def a_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


@kind("a symbolic link that leads back to itself")
def a_circle_of_links(path):
    path.symlink_to(path)


@kind("a symbolic link to a file that is not there")
def a_broken_link(path):
    path.symlink_to("gone.nc")


@kind("the file itself is not here.*git annex get")
def a_link_of_git_annex(path):
    path.symlink_to("../.git/annex/objects/Qz/x.nc")


@kind("pointer of git-annex.*git annex get")
def a_pointer_of_git_annex(path):
    path.write_text("/annex/objects/SHA256E-s100--abc.nc\n")


@kind("pointer of Git LFS.*git lfs pull")
def a_pointer_of_git_lfs(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 9\n")


@kind("a page of the web")
def a_page_of_the_web(path):
    path.write_text("\n<!DOCTYPE html><html><body>Sign in</body></html>")


@kind("is a text .'{ \"q\": .1, 2. }' ...., wanted netCDF-4")
def a_text(path):
    path.write_text('{\n "q": [1, 2] }\n' + " " * 2000)


@kind("is a text .'模型模型")
def a_text_that_is_cut_within_a_letter(path):
    path.write_text("模型" * 1000, encoding="utf-8")


@kind("not a readable netCDF-4 file .it is no HDF5 file")
def any_bytes(path):
    path.write_bytes(bytes(range(255, 0, -1)) * 100)


@kind("begins with zeros")
def zeros(path):
    path.write_bytes(bytes(10_000))


@kind("zip archive .npz")
def an_npz_archive(path):
    with open(path, "wb") as file:
        np.savez(file, q=np.zeros(3))


@kind("zip archive .npz, torch")
def a_file_of_torch(path):
    torch.save({"q": torch.zeros(3)}, path)


@kind("torch.save or of Python objects")
def an_old_file_of_torch(path):
    torch.save({"q": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)


@kind("is a numpy file")
def a_numpy_file(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


@kind("is a safetensors file")
def a_safetensors_file(path):
    header = b'{"q":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


@kind("compressed by gzip; unpack it")
def a_gzip(path):
    path.write_bytes(b"\x1f\x8b\x08" + bytes(100))


@kind("an HDF4 file")
def hdf4(path):
    path.write_bytes(b"\x0e\x03\x13\x01" + bytes(100))


for _format in ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"):

    @kind(rf"got a {_format}.*nccopy -4")
    def _classic(path, _format=_format):
        write(path, format=_format)

    KINDS[_format] = KINDS.pop("_classic")


@kind("truncated: it has 20 bytes; copy it")
def a_beginning(path):
    write(path)
    path.write_bytes(path.read_bytes()[:20])


@kind("truncated: it has 9 bytes")
def hardly_a_beginning(path):
    path.write_bytes(foreign.SIGNATURE + b"\0")


@kind(r"is truncated: it has 3000 bytes of \d+; copy it or export it again")
def truncated(path):
    write(path)
    path.write_bytes(path.read_bytes()[:3000])


@kind(r"is truncated: it has \d+ bytes of \d+")
def one_byte_less(path):
    write(path)
    path.write_bytes(path.read_bytes()[:-1])


@kind("not a readable netCDF-4 file")
def a_signature_alone(path):
    path.write_bytes(foreign.SIGNATURE + bytes(100))


# Refused by the header.


@kind("q: got 16-bit floats .convert them: x.float().*wanted float32 or float64")
def half_floats(path):
    write(path, only="kv")
    raw(path, lambda call, file: create(call, file, "q", half(call)))


@kind("mask: got 16-bit floats")
def a_mask_of_half_floats(path):
    write(path)
    raw(path, lambda call, file: create(call, file, "mask", half(call)))


@kind("q: got 128-bit floats")
def long_doubles(path):
    write(path, only="kv")
    raw(path, lambda call, file: create(call, file, "q", named(call, "H5T_NATIVE_LDOUBLE_g")))


for _number, _filter in {
    32004: "lz4",
    32001: None,
    32000: "lzf",
    32026: "blosc2",
    31999: "unknown",
}.items():
    if _filter:

        @kind(
            rf"q: is compressed by the filter {_filter} \({_number}\).*write it with zlib or zstd"
        )
        def _filtered(path, number=_number):
            write(path, only="kv")
            float32 = lambda call: named(call, "H5T_IEEE_F32LE_g")  # noqa: E731
            raw(path, lambda call, file: create(call, file, "q", float32(call), number))

        KINDS[f"filter_{_number}"] = KINDS.pop("_filtered")


@kind("q: got dims .phony_dim.*an HDF5 file without the dimensions of netCDF")
def hdf5_without_dimensions(path):
    path.write_bytes(b"")
    raw(
        path,
        lambda call, file: [create(call, file, n, named(call, "H5T_IEEE_F32LE_g")) for n in "qkv"],
        new=True,
    )


@kind("did not end within 2 s of computing and was stopped")
def a_group_within_itself(path):
    write(path)
    raw(path, loop)


@kind("q: got int32, wanted float32 or float64")
def integers(path):
    write(path, "i4")


@kind("q: got text, wanted float32 or float64")
def strings(path):
    write(path, str)


@kind("q: got a compound type")
def complex_numbers(path):
    def file(dataset):
        pair = dataset.createCompoundType(np.dtype([("r", "f4"), ("i", "f4")]), "complex")
        dataset.createVariable("q", pair, foreign.DIMS)

    write(path, only="kv", file=file)


@kind("q: got lists")
def lists(path):
    def file(dataset):
        dataset.createVariable("q", dataset.createVLType("f4", "some"), foreign.DIMS)

    write(path, only="kv", file=file)


@kind("k: missing, wanted dims .*; the variables are q, v")
def no_keys(path):
    write(path, only="qv")


@kind("q: missing.*the variables are none; variables of groups are not read")
def all_in_a_group(path):
    write(
        path, only="", file=lambda d: d.createGroup("model").createVariable("q", "f4", foreign.DIMS)
    )


@kind("q: got dims .input, head, layer, token, d_head.*; transpose it")
def other_order(path):
    write(path, dims=dict.fromkeys("qkv", ("input", "head", "layer", "token", "d_head")))


@kind("q: got dims .batch, l, h, t, d.*; rename its dimensions")
def other_names(path):
    sizes = dict(batch=2, l=2, h=2, t=6, d=4)
    write(path, sizes=sizes, dims=dict.fromkeys("qkv", tuple(sizes)))


@kind(r"q: got dims .head, token, d_head.*; add what is missing with length 1 \(input, layer\)")
def one_input_and_one_layer(path):
    write(path, dims=dict.fromkeys("qkv", ("head", "token", "d_head")))


@kind()
def narrower_values(path):
    write(path, sizes={"d_value": 3}, dims={"v": ("input", "layer", "head", "token", "d_value")})


@kind("k: got dims .*; repeat keys and values of grouped queries")
def grouped_queries(path):
    own = ("input", "layer", "kv_head", "token", "d_head")
    write(path, sizes={"kv_head": 1}, dims={"k": own, "v": own})


@kind("v: got dims .*; repeat keys")
def grouped_queries_and_narrower_values(path):
    own = ("input", "layer", "kv_head", "token", "d_value")
    write(path, sizes={"kv_head": 1, "d_value": 3}, dims={"v": own})


@kind("k: got dims .*cross-attention")
def keys_of_other_tokens(path):
    own = ("input", "layer", "head", "key", "d_head")
    write(path, sizes={"key": 9}, dims={"k": own, "v": own})


@kind("q: has the attribute scale_factor")
def packed(path):
    write(path, file=lambda d: d["q"].setncattr("scale_factor", 0.5))


@kind("q: has the attribute add_offset")
def shifted(path):
    write(path, file=lambda d: d["q"].setncattr("add_offset", 0.5))


@kind("dimension token is empty, wanted at least 1")
def no_tokens(path):
    write(
        path,
        sizes={"token": None},
        only="",
        file=lambda d: [d.createVariable(n, "f4", foreign.DIMS) for n in "qkv"],
    )


@kind("dimension input has 1000000 entries, the limit is 100000")
def a_million_inputs(path):
    write(path, sizes={"input": 10**6}, dims=dict.fromkeys("qkv", ("input",)))


@kind("mask: got float32, wanted a bool or integer type")
def a_mask_of_floats(path):
    write(path, mask=np.ones((2, 6), "f4"))


@kind("mask: got dims .input, layer, head, token, d_head.*masks of pairs are not covered")
def a_mask_of_pairs(path):
    write(path, file=lambda d: d.createVariable("mask", "i1", foreign.DIMS))


@kind(r"mask: has other values than 0 \(no token\) and 1 \(a token\): 255; write mask != 0")
def a_mask_of_an_image(path):
    write(path, mask=np.uint8([[255] * 6, [255] * 3 + [0] * 3]))


@kind("mask: has other values .*: -1; write mask != 0")
def a_mask_of_fortran(path):
    write(path, mask=np.int32([[-1] * 6, [-1] * 3 + [0] * 3]))


@kind("mask: has other values .*: -127; -127 is what netCDF gives where nothing was written")
def a_mask_written_in_part(path):
    write(path, file=lambda d: d.createVariable("mask", "i1", ("input", "token")).__setitem__(0, 1))


@kind("mask: nothing was ever written into it; write it, or leave it out")
def a_mask_never_written(path):
    write(path, file=lambda d: d.createVariable("mask", "i1", ("input", "token")))


@kind("mask: input b has no token; 1 is where there is a token, the opposite of torch")
def an_inverted_mask_of_a_full_input(path):
    write(path, mask=np.int8([[0, 0, 0, 0, 1, 1], [0] * 6]), inputs=["a", "b"])


@kind("input: name 1 is no UTF-8 text")
def names_in_latin_1(path):
    write(path, inputs=["thee", "cafe"])
    replace(path, b"cafe", b"caf\xe9")


@kind("input: two inputs have the same name")
def names_twice(path):
    write(path, inputs=["a", "a"])


@kind("input: name 1 is empty")
def a_name_of_spaces(path):
    write(path, inputs=["a", "  "])


@kind(r"^input: name 0 \('two\\nlines'\) has a line break or a control character; take it out$")
def a_name_of_two_lines(path):
    write(path, inputs=["two\nlines", "b"])


@kind(r"input: name 1 \('\\x1b\[31m'\)")
def a_name_with_an_escape(path):
    write(path, inputs=["a", "\x1b[31m"])


@kind("input: name 1 .*control character")
def a_name_no_xml_can_hold(path):
    write(path, inputs=["a", "x\ufffe"])


@kind("head: name 1 .*control character")
def a_label_with_a_tab(path):
    def file(dataset):
        dataset.createVariable("head", str, ("head",))[:] = np.array(["a", "b\t"], dtype=object)

    write(path, file=file)


@kind("input: name 0 is empty; give it a name")
def letters_never_written(path):
    def file(dataset):
        dataset.createDimension("letter", 3)
        dataset.createVariable("input", "S1", ("input", "letter"))

    write(path, file=file)


@kind("input: the names of the inputs must be one string each")
def letters_of_other_dims(path):
    def file(dataset):
        dataset.createDimension("letter", 2)
        dataset.createVariable("input", "S1", ("letter", "input"))

    write(path, file=file)


@pytest.mark.parametrize("encoding", [{}, {"_Encoding": "utf-8"}])
def test_names_may_be_rows_of_characters(tmp_path, encoding):
    """As CF wants them, and as the files of this workflow have them."""
    path = tmp_path / "x.nc"

    def file(dataset):
        dataset.createDimension("letter", 5)
        names = dataset.createVariable("input", "S1", ("input", "letter"))
        names.set_auto_chartostring(False)
        names[:] = np.array([list("a\0\0\0\0"), [*"f", b"\xc3", b"\xb6", *"hn"]], dtype="S1")
        names.setncatts(encoding)

    write(path, file=file)
    found = foreign.header(path)
    assert found["faults"] == [] and found["inputs"] == ["a", "föhn"]


# Refused when values are read.


@kind(
    values="q: was never written at input input-0, layer 0, head 0, token 0, d_head 0 "
    ".192 such values"
)
def queries_never_written(path):
    write(path, only="kv", file=lambda d: d.createVariable("q", "f4", foreign.DIMS))


@kind(values="k: was never written at input input-0, layer 1, head 0, token 0")
def one_layer_never_written(path):
    def file(dataset):
        dataset.createVariable("k", "f8", foreign.DIMS)[:, 0] = VALUES["k"][:, 0]

    write(path, only="qv", file=file)


@kind(values="k: was never written at input input-0, layer 1")
def never_written_with_the_attribute(path):
    def file(dataset):
        fill = netCDF4.default_fillvals["f4"]
        dataset.createVariable("k", "f4", foreign.DIMS, fill_value=fill)[:, 0] = VALUES["k"][:, 0]

    write(path, only="qv", file=file)


@kind(values="k: was never written at input input-0, layer 1")
def never_written_where_fill_is_zero(path):
    def file(dataset):
        how = {"fill_value": 0, "zlib": True, "chunksizes": (1, 1, 1, 6, 4)}
        dataset.createVariable("k", "f4", foreign.DIMS, **how)[:, 0] = VALUES["k"][:, 0]

    write(path, only="qv", file=file)


@kind(values="v: was never written at input input-2")
def values_of_an_input_less(path):
    def file(dataset):
        dataset["q"][2] = dataset["k"][2] = 1

    write(path, sizes={"input": None}, file=file)


@kind(values="v: was never written at input input-2")
def values_of_an_input_less_where_fill_is_zero(path):
    def file(dataset):
        dataset["q"][2] = dataset["k"][2] = 1

    write(path, sizes={"input": None}, fill_value=0, file=file)


@kind(
    values="q: is -999, which the attribute missing_value marks as missing, at input input-1, "
    "layer 0, head 1"
)
def a_missing_value(path):
    def file(dataset):
        dataset["q"].missing_value = np.float64(-999)
        dataset["q"][1, 0, 1, 2, 3] = -999

    write(path, file=file)


@kind(values="q: is 1e.20, which the attribute _FillValue marks as missing, at input input-1")
def a_fill_value(path):
    write(
        path,
        fill_value=1e20,
        file=lambda d: (
            d["q"].__setitem__((1, 0, 1, 2, 3), np.nan) or d["q"].__setitem__((1, 0, 1, 2, 3), 1e20)
        ),
    )


@kind(values="q: nan at input input-1, layer 0, head 1, token 2, d_head 3")
def a_nan(path):
    write(path, file=lambda d: d["q"].__setitem__((1, 0, 1, 2, 3), np.nan))


@kind(values="q: inf at input input-0")
def beyond_float32(path):
    write(path, "f8", file=lambda d: d["q"].__setitem__((0, 0, 0, 0, 0), 1e39))


@kind(values="not a readable netCDF-4 file: some of its values are damaged")
def a_flipped_bit_of_a_value(path):
    write(path, fletcher32=True)
    content = bytearray(path.read_bytes())
    content[content.index(VALUES["q"].tobytes()[:64]) + 17] ^= 4
    path.write_bytes(content)


# Tools: HDF5's own library, for what netCDF does not write.


def raw(path, change, new=False):
    library = ctypes.CDLL(netCDF4._netCDF4.__file__)
    call = functools.partial(foreign._call, library)
    name = os.fsencode(path)
    file = call("H5Fcreate", name, 2, 0, 0) if new else call("H5Fopen", name, 1, 0)
    assert file >= 0
    change(call, file)
    call("H5Fclose", file)


def named(call, name):
    return ctypes.c_int64.in_dll(call.args[0], name).value


def half(call):
    kind = call("H5Tcopy", named(call, "H5T_IEEE_F32LE_g"))
    call("H5Tset_fields", kind, 15, 10, 5, 0, 10)
    call("H5Tset_size", kind, 2)
    call("H5Tset_ebias", kind, 15)
    return kind


def create(call, file, name, kind, number=None):
    """A variable of SHAPE, in one chunk with an optional filter if a number is given."""
    shape = (ctypes.c_uint64 * 5)(*SHAPE)
    plan = call("H5Pcreate", named(call, "H5P_CLS_DATASET_CREATE_ID_g"))
    if number:
        call("H5Pset_chunk", plan, 5, shape)
        call("H5Pset_filter", plan, number, 1, 0, None)
    space = call("H5Screate_simple", 5, shape, None)
    made = call("H5Dcreate2", file, name.encode(), kind, space, 0, plan, 0)
    assert made >= 0
    call("H5Dclose", made)


def loop(call, file):
    call("H5Gclose", call("H5Gcreate2", file, b"more", 0, 0, 0))
    call("H5Lcreate_soft", b"/more", file, b"more/again", 0, 0)


def replace(path, old, new):
    content = path.read_bytes()
    assert len(old) == len(new) and content.count(old) >= 1
    path.write_bytes(content.replace(old, new))


# What must hold.


@pytest.fixture
def soon(monkeypatch):
    """Values of a few kilobytes have no more time than a header has; some files take it all."""
    monkeypatch.setattr(foreign, "VALUES_SECONDS", foreign.HEADER_SECONDS)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_file(name, tmp_path, soon):
    make, file, refusal, of_values = KINDS[name]
    path = tmp_path / file
    make(path)
    told = foreign.header(path)
    lines = "\n".join(told["faults"])
    if refusal:
        assert re.search(refusal, lines, re.M), lines
        assert all(len(line) < 400 and line.isprintable() for line in told["faults"])
        assert not told["sizes"] and not told["inputs"]
        with pytest.raises(UserError) as breach:
            job.read_foreign(path)
        assert str(breach.value).startswith(f"{path}: ")
        return
    assert lines == "" and dict(zip(SIZES, told["sizes"].values())).keys() == SIZES.keys()
    if of_values:
        with pytest.raises(UserError, match=of_values):
            check(adopt(job.read_foreign(path), str(path)), "qkv", str(path))
        return
    data = adopt(job.read_foreign(path), str(path))
    check(data, "qkv", "here")
    assert data.attrs == {"data": path.stem} and list(data["input"].values) == told["inputs"]
    for x in "qkv":
        np.testing.assert_array_equal(data[x].values, VALUES[x][..., : data[x].shape[-1]])


def test_a_header_is_read_once(tmp_path, monkeypatch):
    """A parse asks several times; a file that was written again is read again."""
    path, started = tmp_path / "my.nc", []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(1) or popen(*a, **k))
    write(path)
    assert foreign.header(path) == foreign.header(str(path))
    assert len(started) == 1
    write(path, sizes={"width": 3}, dims={"v": ("input", "layer", "head", "token", "width")})
    assert foreign.header(path)["faults"] and len(started) == 2


def test_a_file_that_is_still_open_for_writing(tmp_path):
    """As in the notebook that has exported it: the reason is not that it is truncated."""
    path = tmp_path / "my.nc"
    write(path)
    with netCDF4.Dataset(path, "a"):
        with pytest.raises(UserError, match="my.nc: is open for writing in another program"):
            job.read_foreign(path)
    with netCDF4.Dataset(path):
        assert "q" in job.read_foreign(path)


def test_a_file_that_was_never_closed(tmp_path):
    """Newer HDF5 files say so themselves, long after their writer was killed."""
    path = tmp_path / "my.nc"
    write(path)
    content = bytearray(path.read_bytes())
    content[8], content[11] = 3, 5
    path.write_bytes(content)
    (fault,) = foreign.header(path)["faults"]
    assert fault.startswith("was never closed by what wrote it (killed?); export it again")


def test_a_file_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "my.nc"
        write(path)
        path.chmod(0)
        root = os.geteuid() == 0
        if root:
            os.chmod(folder, 0o755)
            os.seteuid(65534)
        try:
            (fault,) = foreign.header(path)["faults"]
            (
                os.chmod(folder, 0)
                if not root
                else os.seteuid(0) or os.chmod(folder, 0) or os.seteuid(65534)
            )
            (of_folder,) = foreign.header(path)["faults"]
        finally:
            if root:
                os.seteuid(0)
            os.chmod(folder, 0o755)
    assert fault == "may not be read (permission denied); ask its owner, or chmod u+r"
    assert of_folder.startswith("a folder of its path may not be entered (permission denied)")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """HDF5's library would refuse to open anything there."""
    write(tmp_path / "my.nc")

    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(foreign.fcntl, "flock", no_locks)
    assert foreign._look(tmp_path / "my.nc") == {"HDF5_USE_FILE_LOCKING": "FALSE"}
    assert "q" in job.read_foreign(tmp_path / "my.nc")


def test_a_python_without_netcdf(tmp_path, monkeypatch):
    """Snakemake may run in another environment than its jobs: nothing is said, the job checks."""
    write(tmp_path / "my.nc", only="q")
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    told = foreign.header(tmp_path / "my.nc")
    empty = {"sizes": {}, "inputs": [], "labels": {}, "orders": []}
    assert told == empty | {"origin": {}, "faults": []}
    assert study.file_faults(tmp_path / "my.nc") == []
    with pytest.raises(foreign.Refused, match="this Python has no netCDF4"):
        foreign.values(tmp_path / "my.nc", np.empty)


def test_filters_are_found_wherever_plugins_are_looked_for(tmp_path, monkeypatch):
    """A cluster's modules set a path of plugins, which would hide those of netCDF4."""
    write(tmp_path / "my.nc", compression="zstd")
    monkeypatch.setenv("HDF5_PLUGIN_PATH", "/nowhere")
    assert foreign.header(tmp_path / "my.nc")["faults"] == []
    np.testing.assert_array_equal(job.read_foreign(tmp_path / "my.nc")["q"].values, VALUES["q"])


def test_a_declared_size_takes_no_memory(tmp_path):
    """A file of a few kilobytes that stands for petabytes is refused by its sizes."""
    how = {"sizes": {"token": 10**12}, "only": ""}
    write(
        tmp_path / "my.nc",
        **how,
        file=lambda d: [
            d.createVariable("mask", "i1", ("input", "token"), chunksizes=(1, 1000)),
            *(
                d.createVariable(n, "f4", foreign.DIMS, chunksizes=(1, 1, 1, 1000, 4))
                for n in "qkv"
            ),
        ],
    )
    told = foreign.header(tmp_path / "my.nc")
    assert told["faults"] == [] and told["sizes"]["tokens"] == 10**12


def damaged(content: bytes):
    """Copies with a block of zeros or a flipped bit; some keep HDF5's library busy for ever."""
    for start in range(0, len(content), 2500):
        block = content[start : start + 4096]
        yield content[:start] + bytes(len(block)) + content[start + len(block) :]
    rng = np.random.default_rng(3)
    places = [(3027, 4), (2707, 7), *zip(rng.integers(0, 4000, 12), rng.integers(0, 8, 12))]
    for place, bit in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(bit)
        yield bytes(flipped)


def test_damaged_files_end(tmp_path):
    """Each is refused in one line, or read right; the lines of endless ones name the limit."""
    good = tmp_path / "good.nc"
    write(good, mask=np.ones((2, 6), "i1"), inputs=["a", "b"], fletcher32=True)
    refused = 0
    for i, content in enumerate(damaged(good.read_bytes())):
        path = tmp_path / f"bad{i}.nc"
        path.write_bytes(content)
        faults = foreign.header(path)["faults"]
        assert all(fault and "\n" not in fault for fault in faults)
        if faults:
            refused += 1
            continue
        try:
            data = adopt(job.read_foreign(path), str(path))
        except UserError as breach:
            assert str(breach).startswith(f"{path}: ")
            refused += 1
            continue
        for x in "qkv":
            np.testing.assert_array_equal(data[x].values, VALUES[x])
    assert refused > 5


def test_reading_values_has_a_limit(tmp_path, monkeypatch):
    """Where a child says that all is well and then never comes back, the job ends."""
    path = tmp_path / "my.nc"
    write(path)
    child = tmp_path / "child.py"
    told = {"faults": [], "seconds": 1, "arrays": [["q", ["x"], [9], "<f4", [9], {}]]}
    child.write_text(
        "import signal, sys\n"
        f"print({json.dumps(told)!r}, flush=True)\n"
        "signal.setitimer(signal.ITIMER_PROF, 1)\n"
        "while True: pass\n"
    )
    monkeypatch.setattr(foreign, "__file__", str(child))
    with pytest.raises(UserError, match="my.nc: reading it did not end within 1 s of computing"):
        job.read_foreign(path)


ENDLESS = """
import sys
from pathlib import Path
from tripartite import job
job.READ_SECONDS = 1
job.load(Path(sys.argv[1]))
"""


def test_a_damaged_result_ends_its_reader(tmp_path):
    """A result that HDF5's library reads for ever: one line that names it, and the job ends."""
    path = tmp_path / "qkv.nc"
    job.save(qkv(), path, {"data": "test", "stage": "generate", "settings": {}, "device": "cpu"})
    raw(path, loop)
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS, path],
        text=True,
        capture_output=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow/scripts")},
    )
    assert done.returncode == 1 and time.monotonic() - begin < 60
    assert re.fullmatch(
        rf"error: {path}: reading it did not end within 1 s of computing and was stopped: "
        "it is damaged; delete it and run again\n",
        done.stderr,
    )


# Values, masks and names.


def test_true_zeros_stay_where_the_fill_value_is_zero(tmp_path):
    """Also where the attribute missing_value is 0; a chunk of zeros that was written is no gap."""
    q = VALUES["q"].copy()
    q[0, 0, 0, 0, 0] = 0
    q[1, 1] = 0

    def file(dataset):
        how = {"fill_value": 0, "zlib": True, "chunksizes": (1, 1, 1, 6, 4)}
        dataset.createVariable("q", "f4", foreign.DIMS, **how)[:] = q
        dataset["q"].missing_value = np.float32(0)

    write(tmp_path / "my.nc", only="kv", file=file)
    data = adopt(job.read_foreign(tmp_path / "my.nc"), "my.nc")
    np.testing.assert_array_equal(data["q"].values, q)


@pytest.mark.parametrize("rubbish", [0, np.nan, np.inf, -999, foreign.NEVER_WRITTEN])
def test_whatever_stands_at_absent_tokens_is_left_out(tmp_path, rubbish, capsys):
    mask = np.arange(12).reshape(2, 6) < 9

    def file(dataset):
        dataset["q"].missing_value = np.float32(-999)
        for x in "qkv":
            dataset[x][1, :, :, 3:] = rubbish

    write(tmp_path / "my.nc", mask=mask.astype("i1"), file=file)
    data = adopt(job.read_foreign(tmp_path / "my.nc"), "my.nc")
    check(data, "qkv", "here")
    assert np.isnan(data["q"].values[1, :, :, 3:]).all()
    np.testing.assert_array_equal(data["q"].values[1, :, :, :3], VALUES["q"][1, :, :, :3])
    assert capsys.readouterr().out == ""


def test_a_mask_that_looks_inverted_is_told(tmp_path, capsys):
    """By a beginning without tokens in every input, or by keys where the mask says no."""
    present = np.arange(6) < np.array([[4], [3]])
    write(tmp_path / "my.nc", mask=(~present).astype("i1"))
    adopt(job.read_foreign(tmp_path / "my.nc"), "own/my.nc")
    said = capsys.readouterr().out
    assert said.startswith(
        "warning: own/my.nc: mask: every input begins with absent tokens; it must be 1"
    )
    assert "the opposite of torch's key_padding_mask" in said and said.count("\n") == 1

    def file(dataset):
        dataset["k"][1, :, :, :3] = 0

    write(tmp_path / "left.nc", mask=np.int8([[1] * 6, [1, 1, 1, 0, 0, 0]]), file=file)
    adopt(job.read_foreign(tmp_path / "left.nc"), "left.nc")
    assert (
        "all keys at absent tokens have values, and some at tokens have none"
        in capsys.readouterr().out
    )
    write(
        tmp_path / "ok.nc", mask=np.int8([[1] * 6, [0, 0, 0, 1, 1, 1]]), file=file
    )  # padded on the left
    adopt(job.read_foreign(tmp_path / "ok.nc"), "ok.nc")
    assert capsys.readouterr().out == ""


def with_labels(path, layer, head):
    def file(dataset):
        for dim, labels in (("layer", layer), ("head", head)):
            dtype = str if isinstance(labels[0], str) else "i4"
            variable = dataset.createVariable(dim, dtype, (dim,))
            variable[:] = np.array(labels, dtype=object if dtype is str else dtype)

    write(path, file=file)


def test_labels_of_layers_and_heads_are_kept(tmp_path):
    """Settings go by places, so that places stay coordinates; labels stand beside them."""
    with_labels(tmp_path / "my.nc", ["encoder.0", "encoder.$11"], [7, 3])
    data = adopt(job.read_foreign(tmp_path / "my.nc"), "my.nc")
    check(data, "qkv", "here")
    assert data["layer"].values.tolist() == data["head"].values.tolist() == [0, 1]
    assert json.loads(data.attrs["labels"]) == {
        "layer": ["encoder.0", "encoder.$11"],
        "head": ["7", "3"],
    }
    assert palette.head_name(data, 1, 0) == r"layer encoder.\$11, head 7"
    assert palette.tick_labels(data, "head", data["head"].values[::-1]) == ["3", "7"]
    with_labels(tmp_path / "own.nc", ["a", "b"], [0, 1])
    data = adopt(job.read_foreign(tmp_path / "own.nc"), "own.nc")
    assert json.loads(data.attrs["labels"]) == {"layer": ["a", "b"]}
    assert palette.head_name(data, 0, 1) == "layer a, head 1"
    assert palette.head_name(data.drop_attrs(), 0, 1) == "layer 0, head 1"


def test_labels_travel_to_the_files_that_figures_draw(tmp_path):
    folder = tmp_path / "results/mine/mine"
    folder.mkdir(parents=True)
    with_labels(tmp_path / "my.nc", ["first", "last"], [0, 1])

    def stage(name, inputs, output, settings):
        command = [sys.executable, ROOT / "workflow/scripts/stage.py", name, "--input", *inputs]
        command += ["--output", *output, "--settings", json.dumps(settings)]
        done = subprocess.run(command, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr

    qkv_, attention = folder / "qkv.nc", folder / "attention.nc"
    stage(
        "generate",
        [tmp_path / "my.nc"],
        [qkv_],
        {"data": {"file": job.file_digest(tmp_path / "my.nc")}},
    )
    stage("attend", [qkv_], [attention], {})
    for path in (qkv_, attention):
        assert json.loads(job.load(path).attrs["labels"]) == {"layer": ["first", "last"]}
        assert str(tmp_path).encode() not in path.read_bytes()


def test_a_file_named_with_a_control_character_can_be_drawn(tmp_path):
    write(tmp_path / "a\nb\x1b.nc")
    data = adopt(job.read_foreign(tmp_path / "a\nb\x1b.nc"), "a\nb\x1b.nc")
    assert data.attrs["data"] == "a?b?"
