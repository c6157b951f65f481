"""Contracts of files: all breaches at once, with their messages."""

import numpy as np
import pytest
import xarray as xr

from tripartite import contracts
from tripartite.contracts import UserError, check, describe
from tripartite.declarations import Variable


def qkv(n_tokens=3, **changes):
    rng = np.random.default_rng(0)
    shape = (2, 1, 2, n_tokens, 4)
    dims = ("input", "layer", "head", "token", "d_head")
    variables = {name: (dims, rng.standard_normal(shape, dtype=np.float32)) for name in "qkv"}
    variables["mask"] = (("input", "token"), np.ones((2, n_tokens), dtype=bool))
    variables["v"] = ((*dims[:-1], "d_value"), variables["v"][1])
    variables["order"] = ("layer", np.full(1, "bidirectional", dtype=object))
    variables["text"] = (("input", "token"), np.full((2, n_tokens), "", dtype=object))
    variables["distinct_head"] = (("layer", "head"), np.arange(2)[None])
    coords = {"input": ["a", "b"], "layer": np.arange(1), "head": np.arange(2)}
    return xr.Dataset(variables | changes, coords=coords)


def test_a_good_dataset_passes():
    check(qkv(), "qkv", "x/qkv.nc")


@pytest.mark.parametrize("text", ["gone", np.str_("gone")])
def test_text_of_any_kind_and_whole_numbers_can_be_saved(text):
    """numpy's str together with Python's, and 1 for 1.0, as in a study."""
    empty = xr.Dataset(
        {
            "note": ("x", np.array([text, "", np.str_("mixed")], dtype=object)),
            "age": ("token", np.arange(3)),
        }
    )
    contract = {
        "note": Variable(dims="x", dtype="str", means=""),
        "age": Variable(dims="token", units="s", means=""),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contracts, "variables", {"small": contract}.get)
        patch.setattr(contracts, "axes", {"small": {}}.get)
        saved = describe(empty, "small")
    assert {type(x) for x in saved["note"].values} == {str} and saved["age"].dtype == np.float64
    assert saved["note"].values.tolist() == ["gone", "", "mixed"]


def test_every_breach_is_named_at_once():
    bad = qkv().drop_vars("k").rename(v="values")
    bad["q"] = bad["q"].astype("float64").transpose("layer", "input", "head", "token", "d_head")
    with pytest.raises(UserError) as error:
        check(bad, "qkv", "x/qkv.nc")
    lines = str(error.value).splitlines()
    assert "x/qkv.nc: values: unknown variable in qkv.nc" in lines
    assert "x/qkv.nc: k: missing, wanted dims (input, layer, head, token, d_head)" in lines
    assert "x/qkv.nc: v: missing, wanted dims (input, layer, head, token, d_value)" in lines
    assert (
        "x/qkv.nc: q: got dims (layer, input, head, token, d_head), "
        "wanted (input, layer, head, token, d_head)"
    ) in lines
    assert "x/qkv.nc: q: got float64, wanted float32" in lines
    assert len(lines) == 5


def test_values_are_named_where_they_are_bad():
    bad = qkv()
    bad["q"][1, 0, 1, 2, 3] = np.nan
    bad["v"][0, 0, 0, 1, 0] = np.inf
    with pytest.raises(UserError) as error:
        check(bad, "qkv", "qkv.nc")
    assert "q: nan at input b, layer 0, head 1, token 2, d_head 3 (1 such values)" in str(
        error.value
    )
    assert "v: inf at input a, layer 0, head 0, token 1, d_value 0" in str(error.value)
    bad["mask"][1, 2] = False
    bad["mask"][0, :] = False
    with pytest.raises(UserError, match="mask: input a has no token") as error:
        check(bad, "qkv", "qkv.nc")
    assert "q: nan" not in str(error.value)
