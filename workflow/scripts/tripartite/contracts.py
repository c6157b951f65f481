"""Contracts of the netCDF files between stages: declared by kinds, checked at each write and read.

A contract has the name of its file: `qkv` is results/{study}/{experiment}/qkv.nc, declared in
kinds/data/kind.yaml. Every variable has declared dims, dtype and units; a variable that is not
declared breaks the contract.
"""

import numpy as np
import xarray as xr

from tripartite import large
from tripartite.declarations import axes, variables

SCHEMA_VERSION = 7


class UserError(ValueError):
    """An error that a user can correct: its message is complete and needs no traceback."""


def describe(dataset: xr.Dataset, contract: str) -> xr.Dataset:
    """Return `dataset` in the contract's order of variables, with units and long names.

    Texts become str of Python: a file cannot hold them together with numpy's. Whole numbers become
    float64 where the contract has it, since a study may say 1 for 1.0.
    """
    wanted, along = variables(contract), axes(contract)
    coordinates = [name for name, spec in wanted.items() if spec.coordinate]
    there = [name for name, spec in wanted.items() if name in dataset or not spec.optional]
    dataset = dataset[there].set_coords(coordinates).copy()
    for name in map(str, dataset.variables):
        spec = wanted.get(name) or along.get(name)
        if spec:
            got = dataset[name]
            if spec.dtype == "str" and got.dtype.kind in "OUT":
                texts = np.empty(got.size, dtype=object)
                texts[:] = [str(x) for x in got.values.ravel()]
                dataset[name] = got.dims, texts.reshape(got.shape)
            elif spec.dtype == "float64" and got.dtype.kind in "iu":
                dataset[name] = got.astype(np.float64)
            units = {"units": spec.units} if spec.units else {}
            dataset[name].attrs = {"long_name": spec.means, **units}
    return dataset


def check(dataset: xr.Dataset, contract: str, where: str) -> None:
    """Raise UserError with one line per difference between `dataset` and its contract."""
    check_form(dataset, contract, where)
    if contract == "qkv" and (breaches := _qkv_values(dataset)):
        raise UserError("\n".join(f"{where}: {breach}" for breach in breaches))


def check_form(dataset: xr.Dataset, contract: str, where: str) -> None:
    """As `check`, without the values."""
    wanted = axes(contract) | variables(contract)
    unknown = [name for name in dataset.variables if name not in wanted]
    breaches = [f"{name}: unknown variable in {contract}.nc" for name in unknown]
    for name, spec in wanted.items():
        dims = ", ".join(spec.dims.split())
        if name not in dataset.variables:
            if spec.optional:
                continue
            breaches.append(f"{name}: missing, wanted dims ({dims})")
            continue
        got = dataset[name]
        if ", ".join(map(str, got.dims)) != dims:
            breaches.append(f"{name}: got dims ({', '.join(map(str, got.dims))}), wanted ({dims})")
        dtype = "str" if got.dtype.kind in "OUT" else str(got.dtype)
        if dtype != spec.dtype:
            breaches.append(f"{name}: got {dtype}, wanted {spec.dtype}")
        if got.size == 0:
            breaches.append(f"{name}: is empty")
    if breaches:
        raise UserError("\n".join(f"{where}: {breach}" for breach in breaches))


def _qkv_values(qkv: xr.Dataset) -> list[str]:
    """Breaches where an input has no token, and the first value at a token that is not finite."""
    mask = qkv["mask"].values
    breaches = [
        f"mask: input {qkv['input'].values[i]} has no token" for i in np.flatnonzero(~mask.any(1))
    ]
    for name in ("q", "k", "v", "model_output"):
        if name not in qkv:
            continue
        values = qkv[name].variable
        place, count = large.search(values, mask, lambda block: ~np.isfinite(block))
        if count:
            i, layer, head, token, d = place
            breaches.append(
                f"{name}: {values[place].values} at input {qkv['input'].values[i]}, layer {layer}, "
                f"head {head}, token {token}, {values.dims[-1]} {d} ({count} such values); every "
                "value at a token must be finite"
            )
    return breaches
