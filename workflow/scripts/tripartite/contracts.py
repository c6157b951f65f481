"""Contracts of the netCDF files between stages: declared by kinds, checked at each write and read.

A contract is named like its file: `qkv` is results/{study}/{experiment}/qkv.nc, declared in
kinds/data/kind.yaml. Every variable has fixed dims, dtype and units; extra variables are a breach,
so that the declaration stays true.
"""

import numpy as np
import xarray as xr

from tripartite.declarations import axes, variables

SCHEMA_VERSION = 5


class UserError(ValueError):
    """What a user can mend: the message is complete in itself and needs no traceback."""


def describe(dataset: xr.Dataset, contract: str) -> xr.Dataset:
    """Return `dataset` in the contract's variable order, with units and long names.

    Text becomes Python's own, also where numpy's str stands beside it, which no file can hold;
    whole numbers become float64 where the contract has that: a study may say 1 for 1.0.
    """
    wanted, along = variables(contract), axes(contract)
    dataset = dataset[list(wanted)].copy()
    for name in map(str, dataset.variables):
        spec = wanted.get(name) or along.get(name)
        if spec:
            got = dataset[name]
            if spec.dtype == "str" and got.dtype.kind in "OUT":
                texts = np.array([str(x) for x in got.values.ravel()] or [""], dtype=object)[
                    : got.size
                ]
                dataset[name] = got.dims, texts.reshape(got.shape)
            elif spec.dtype == "float64" and got.dtype.kind in "iu":
                dataset[name] = got.astype(np.float64)
            units = {"units": spec.units} if spec.units else {}
            dataset[name].attrs = {"long_name": spec.means, **units}
    return dataset


def check(dataset: xr.Dataset, contract: str, where: str) -> None:
    """Raise UserError with one line per difference between `dataset` and its contract."""
    wanted = axes(contract) | variables(contract)
    breaches = [
        f"{name}: unknown variable in {contract}.nc"
        for name in dataset.variables
        if name not in wanted
    ]
    for name, spec in wanted.items():
        if name not in dataset.variables:
            breaches.append(f"{name}: missing, wanted dims ({', '.join(spec.dims.split())})")
            continue
        got = dataset[name]
        if got.dims != tuple(spec.dims.split()):
            breaches.append(
                f"{name}: got dims ({', '.join(map(str, got.dims))}), wanted "
                f"({', '.join(spec.dims.split())})"
            )
        dtype = "str" if got.dtype.kind in "OUT" else str(got.dtype)
        if dtype != spec.dtype:
            breaches.append(f"{name}: got {dtype}, wanted {spec.dtype}")
        if got.size == 0:
            breaches.append(f"{name}: is empty")
    if contract == "qkv" and not breaches:
        breaches = _qkv_values(dataset)
    if breaches:
        raise UserError("\n".join(f"{where}: {breach}" for breach in breaches))


def _qkv_values(qkv: xr.Dataset) -> list[str]:
    """Faults unless every input has a token and q, k, v are finite at all tokens."""
    mask = qkv["mask"].values
    breaches = [
        f"mask: input {qkv['input'].values[i]} has no token" for i in np.flatnonzero(~mask.any(1))
    ]
    for name in ("q", "k", "v"):
        bad = ~np.isfinite(qkv[name].values) & mask[:, None, None, :, None]
        if bad.any():
            i, layer, head, token, d = np.argwhere(bad)[0]
            breaches.append(
                f"{name}: {qkv[name].values[i, layer, head, token, d]} at input "
                f"{qkv['input'].values[i]}, layer {layer}, head {head}, token {token}, d_head {d} "
                f"({bad.sum()} such values); every value at a token must be finite"
            )
    return breaches
