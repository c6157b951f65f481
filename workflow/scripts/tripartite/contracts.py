"""What each netCDF file between the stages holds: one registry, checked at each write and each read.

A contract is named like its file: `qkv` is results/{study}/{experiment}/qkv.nc. Every variable has
fixed dims, dtype and units; extra variables are a breach, so that the registry stays true.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

SCHEMA_VERSION = 2

# One order of axes everywhere, leaving out what a variable does not have.
AXES = ("case", "n_features", "seed", "input", "layer", "head", "token", "d_seen", "d_head")


class Variable(NamedTuple):
    dims: str  # space-separated, in the order of AXES
    dtype: str
    units: str
    long_name: str


COORDINATES = {
    "n_features": Variable("n_features", "int64", "1", "hidden neurons m"),
    "seed": Variable("seed", "int64", "1", "index of the random hidden weights"),
    "input": Variable("input", "str", "", "name of the input"),
    "layer": Variable("layer", "int64", "1", "layer of the transformer"),
    "head": Variable("head", "int64", "1", "attention head of the layer"),
    "case": Variable("case", "int64", "1", "what was timed"),
}

PER_QUERY = "input layer head token"
PER_HEAD = "n_features layer head"


def _with_interval(name: str, long_name: str) -> dict[str, Variable]:
    bound = "{} end of the 95 % interval over seeds: " + long_name
    return {
        name: Variable(PER_HEAD, "float64", "1", long_name),
        f"{name}_low": Variable(PER_HEAD, "float64", "1", bound.format("lower")),
        f"{name}_high": Variable(PER_HEAD, "float64", "1", bound.format("upper")),
    }


CONTRACTS = {
    "qkv": {
        "q": Variable(PER_QUERY + " d_head", "float32", "1", "queries, scaled by d_head^-1/4"),
        "k": Variable(PER_QUERY + " d_head", "float32", "1", "keys, scaled by d_head^-1/4"),
        "v": Variable(PER_QUERY + " d_head", "float32", "1", "values"),
        "mask": Variable("input token", "bool", "1", "true where the input has a token"),
    },
    "attention": {
        "log_normalizer": Variable(PER_QUERY, "float64", "1", "ln sum_j exp(q.k_j)"),
        "output": Variable(PER_QUERY + " d_head", "float64", "1", "softmax attention output"),
    },
    "states": {
        "log_calcium": Variable(
            "n_features seed " + PER_QUERY, "float64", "1",
            "ln of the astrocyte process's response |g.phi(q)|, the estimate of log_normalizer",
        ),
        "calcium_sign": Variable(
            "n_features seed " + PER_QUERY, "int8", "1",
            "sign of the response g.phi(q): 1 wherever a network was run, unless a feature map has signs "
            "or silent neurons",
        ),
        "output_error": Variable(
            "n_features seed input layer head", "float64", "1",
            "relative error of the network's output, |O^ - O| / |O| (Frobenius norm over tokens); NaN where the "
            "exact output O is 0",
        ),
        "computed": Variable(
            "n_features seed input layer head", "bool", "1", "true where the network was run"
        ),
        "key_shift": Variable("layer head d_head", "float64", "1", "mu, subtracted from keys"),
        "query_shift": Variable(
            "layer head d_head", "float64", "1",
            "c, subtracted from queries; key j has the presynaptic gain exp(c.(k_j - mu))",
        ),
        "balance": Variable(
            "layer head d_seen d_head", "float64", "1",
            "A: the hidden neurons see A (q - c) and A^-1 (k - mu)",
        ),
        "feature_a": Variable(
            "layer head", "float64", "1", "a of generalized positive features; 0 for other maps"
        ),
        "draw": Variable(
            "n_features seed", "int64", "1",
            "independent draw of hidden weights that the network takes its neurons from; -1 where there is "
            "no network of that size and seed",
        ),
        "first_neuron": Variable(
            "n_features seed", "int64", "1",
            "first of the network's n_features neurons in its draw: networks that overlap in the same "
            "draw share neurons and are not independent",
        ),
    },
    "fit": {
        "log10_features_needed": Variable(
            "layer head", "float64", "1",
            "log10 of the hidden neurons m at which a query's rms normaliser error sqrt((R - 1) / m) "
            "is 10 %, 2 + log10(R - 1), with R the relative second moment of one neuron's estimate: "
            "median over queries and inputs; NaN for feature maps without a closed form",
        ),
        "log10_features_needed_q10": Variable(
            "layer head", "float64", "1", "10 % quantile over queries and inputs of the same"
        ),
        "log10_features_needed_q90": Variable(
            "layer head", "float64", "1", "90 % quantile over queries and inputs of the same"
        ),
        **_with_interval(
            "normalizer_error",
            "relative normaliser error |exp(log_calcium - log_normalizer) - 1|: "
            "median over queries, inputs and seeds; inf where it is beyond float64",
        ),
        **_with_interval(
            "normalizer_error_rms",
            "relative normaliser error: root mean square over queries, inputs and seeds (the interval is "
            "NaN where m < R^2: draws too rare for any sample carry the rms there)",
        ),
        **_with_interval(
            "output_error", "relative error of the attention output: mean over inputs and seeds"
        ),
        **_with_interval(
            "correlation",
            "Pearson correlation of log_calcium and log_normalizer over queries and inputs: mean over "
            "seeds on Fisher's scale; NaN where a response is not positive, or one of the two does not vary",
        ),
        "share_not_positive": Variable(
            PER_HEAD, "float64", "1", "share of responses g.phi(q) that are zero or negative"
        ),
        "log10_normalizer_error_closed_form": Variable(
            PER_HEAD, "float64", "1",
            "log10 of the median normaliser error if every estimate were normal with the exact "
            "variance (R - 1) / m",
        ),
        "log10_normalizer_error_rms_closed_form": Variable(
            PER_HEAD, "float64", "1",
            "log10 of the exact rms normaliser error, sqrt(mean over queries of (R - 1) / m)",
        ),
        "log_normalizer": Variable(PER_QUERY, "float64", "1", "ln sum_j exp(q.k_j)"),
        "log_calcium": Variable(
            "n_features " + PER_QUERY, "float64", "1", "ln of the astrocyte's response: median over seeds (NaN where it is not positive)"
        ),
        "log_calcium_low": Variable(
            "n_features " + PER_QUERY, "float64", "1", "ln of the astrocyte's response: 10 % quantile over seeds"
        ),
        "log_calcium_high": Variable(
            "n_features " + PER_QUERY, "float64", "1",
            "ln of the astrocyte's response: 90 % quantile over seeds",
        ),
    },
    "speed": {
        "method": Variable("case", "str", "", "implementation"),
        "order": Variable("case", "str", "", "bidirectional or causal"),
        "n_tokens": Variable("case", "int64", "1", "tokens N of the sequence"),
        "n_features": Variable("case", "int64", "1", "hidden neurons or random features m"),
        "dtype": Variable("case", "str", "", "numbers in which it computes"),
        "n_heads": Variable("case", "int64", "1", "heads computed one after another, or by workers"),
        "workers": Variable("case", "int64", "1", "workers of one thread each"),
        "seconds": Variable("case", "float64", "s", "time: median over repeats"),
        "seconds_low": Variable("case", "float64", "s", "time: shortest"),
        "seconds_high": Variable("case", "float64", "s", "time: longest"),
        "gemm_share": Variable(
            "case", "float64", "1",
            "operations of the random-feature products, 4 N m (d + d_value + 1) per head, over what large "
            "matrix products do in the same time, numbers and workers",
        ),
        "peak_memory": Variable(
            "case", "float64", "B", "most memory above inputs, neurons and outputs, in a process of its own"
        ),
        "output_error": Variable(
            "case", "float64", "1", "relative error of the output against exact softmax attention, in float64"
        ),
    },
}  # fmt: skip


class Breach(ValueError):
    """Bad input: the message is complete in itself and needs no traceback."""


def describe(dataset: xr.Dataset, contract: str) -> xr.Dataset:
    """Return `dataset` in the contract's variable order, with units and long names."""
    variables = CONTRACTS[contract]
    dataset = dataset[list(variables)]
    for name in dataset.variables:
        spec = variables.get(name) or COORDINATES.get(name)
        if spec:
            units = {"units": spec.units} if spec.units else {}
            dataset[name].attrs = {"long_name": spec.long_name, **units}
    return dataset


def check(dataset: xr.Dataset, contract: str, where: str) -> None:
    """Raise Breach with one line per difference between `dataset` and its contract."""
    variables = CONTRACTS[contract]
    used = {dim for spec in variables.values() for dim in spec.dims.split()}
    wanted = variables | {name: spec for name, spec in COORDINATES.items() if name in used}
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
                f"{name}: got dims ({', '.join(got.dims)}), wanted ({', '.join(spec.dims.split())})"
            )
        dtype = "str" if got.dtype.kind in "OUT" else str(got.dtype)
        if dtype != spec.dtype:
            breaches.append(f"{name}: got {dtype}, wanted {spec.dtype}")
        if got.size == 0:
            breaches.append(f"{name}: is empty")
    if contract == "qkv" and not breaches:
        breaches = _qkv_values(dataset)
    if breaches:
        raise Breach("\n".join(f"{where}: {breach}" for breach in breaches))


def _qkv_values(qkv: xr.Dataset) -> list[str]:
    """Every input has a token, and q, k, v are finite at all tokens: the first bad place of each."""
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
