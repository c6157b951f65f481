"""What each netCDF file between the stages holds: one registry, checked at each write and each read.

A contract is named like its file: `qkv` is results/{study}/{experiment}/qkv.nc. Every variable has
fixed dims, dtype and units; extra variables are a breach, so that the registry stays true.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

SCHEMA_VERSION = 3

# One order of axes everywhere, leaving out what a variable does not have.
AXES = (
    "case", "explanation", "variant", "origin", "recipe", "phase", "model", "layout", "perturbation",
    "rival", "point", "n_features", "seed", "step", "time", "input", "layer", "head", "token", "neuron",
    "d_seen", "d_head",
)  # fmt: skip


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
    "explanation": Variable("explanation", "str", "", "standard attention that explains a network"),
    "variant": Variable("variant", "str", "", "name of the hidden layer that is compared"),
    "origin": Variable("origin", "str", "", "where the attention weights come from"),
    "step": Variable("step", "int64", "1", "step of training"),
    "recipe": Variable("recipe", "str", "", "what is fitted"),
    "phase": Variable("phase", "str", "", "phase of the random-energy model"),
    "model": Variable("model", "str", "", "model of calcium"),
    "layout": Variable("layout", "str", "", "how astrocyte processes are coupled"),
    "perturbation": Variable("perturbation", "str", "", "what is done to the network"),
    "rival": Variable("rival", "str", "", "what the fluorescence is explained by"),
    "point": Variable("point", "int64", "1", "place in the sweep"),
    "time": Variable("time", "int64", "1", "sample"),
    "neuron": Variable("neuron", "int64", "1", "hidden neuron"),
}

PER_QUERY = "input layer head token"
PER_HEAD = "n_features layer head"
PER_EXPLANATION = f"explanation {PER_HEAD}"


def _with_interval(name: str, long_name: str) -> dict[str, Variable]:
    return _bounds(name, PER_HEAD, long_name, "seeds")


def _bounds(name: str, dims: str, long_name: str, over: str) -> dict[str, Variable]:
    bound = f"{{}} end of the 95 % interval over {over}: {long_name}"
    return {
        name: Variable(dims, "float64", "1", long_name),
        f"{name}_low": Variable(dims, "float64", "1", bound.format("lower")),
        f"{name}_high": Variable(dims, "float64", "1", bound.format("upper")),
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
        "output_gain": Variable(
            "n_features seed input layer head", "float64", "1",
            "gain of the network's output, (O^ . O) / |O|^2 (Frobenius, over tokens)",
        ),
        "output_error_separate": Variable(
            "n_features seed input layer head", "float64", "1",
            "relative error of the output if it were divided by the calcium of another network of the same "
            "size, whose astrocyte pools other neurons (that of the next seed)",
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
            "A: the hidden neurons see A (q - c) and A^-T (k - mu)",
        ),
        "feature_a": Variable(
            "layer head d_seen", "float64", "1",
            "a of generalized positive features, in each direction that the hidden neurons see; 0 for other maps",
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
        **_with_interval(
            "normalizer_ratio",
            "response over normaliser, p / Z: median over queries, inputs and seeds (no interval where it is "
            "not positive)",
        ),
        **_with_interval(
            "output_error_rms",
            "relative error of the attention output: root mean square over inputs and seeds (interval as "
            "that of normalizer_error_rms)",
        ),
        **_with_interval(
            "output_error_separate_rms",
            "the same if the output were divided by the calcium of an astrocyte that pools other neurons",
        ),
        **_with_interval(
            "output_gain", "gain of the output, (O^ . O) / |O|^2: mean over inputs and seeds"
        ),
        "share_not_positive": Variable(
            PER_HEAD, "float64", "1", "share of responses g.phi(q) that are zero or negative"
        ),
        "log10_output_error_rms_closed_form": Variable(
            PER_HEAD, "float64", "1",
            "log10 of the rms relative error of the output, from the covariance to first order in 1 / m "
            "(simulated heads)",
        ),
        "log10_output_error_separate_rms_closed_form": Variable(
            PER_HEAD, "float64", "1",
            "log10 of the same if the astrocyte pooled other neurons than those whose synapses it scales",
        ),
        "output_gain_closed_form": Variable(
            PER_HEAD, "float64", "1", "gain of the output, from its bias to first order in 1 / m"
        ),
        "sigma_squared": Variable(
            "layer head", "float64", "1", "sigma^2 = ln R: median over queries and inputs"
        ),
        "phase_of": Variable(
            PER_HEAD, "str", "", "phase of the network: gaussian for m > R^2, frozen for m < R^(1/2), "
            "anomalous between; empty for feature maps without a closed form",
        ),
        "reach": Variable(
            PER_HEAD, "float64", "1", "b_m - sigma, with b_m = -Phi^-1(1 / m)"
        ),
        **_bounds(
            "exponent", "phase layer head",
            "exponent of the typical normaliser error (median over queries) in m, inside the phase",
            "inputs and seeds",
        ),
        "exponent_note": Variable("phase layer head", "str", "", "why there is no exponent"),
        **_bounds(
            "phase_exponent", "phase", "the same exponent: mean over heads", "inputs, heads and seeds"
        ),
        "phase_heads": Variable("phase", "int64", "1", "heads in phase_exponent"),
        **_bounds(
            "log10_crossover", "layer head", "log10 of the m at which two power laws of the typical error meet",
            "inputs and seeds",
        ),
        **_bounds("exponent_before", "layer head", "exponent below that m", "inputs and seeds"),
        **_bounds("exponent_after", "layer head", "exponent above that m", "inputs and seeds"),
        "crossover_note": Variable("layer head", "str", "", "why there is no crossover"),
        **_bounds(
            "collapse_shift", "", "s in p / Z = Phi(b_m - sigma + s), fitted outside the Gaussian phase", "heads"
        ),
        "collapse_note": Variable("", "str", "", "why there is no shift"),
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
    "symmetries": {
        "role": Variable("input", "str", "", "calibrated: recipes are fitted to it; or tested"),
        "log10_features_needed": Variable(
            "recipe input layer head", "float64", "1",
            "log10 of the hidden neurons for 10 % rms normaliser error, median over queries, with what was "
            "fitted to the calibrated inputs",
        ),
        "log10_features_needed_own": Variable(
            "recipe input layer head", "float64", "1",
            "the same with what was fitted to the tested input itself (NaN for the calibrated ones)",
        ),
        **_bounds(
            "reduction", "recipe layer head",
            "reduction of log10 of the neurons against plain, paired: median over queries of the tested inputs",
            "queries",
        ),
        **_bounds(
            "reduction_all", "recipe",
            "the same of the median query: median over tested inputs and heads", "inputs and heads",
        ),
        **_bounds(
            "lost", "recipe",
            "log10 of the neurons, fitted to other inputs over fitted to the tested input: median over tested "
            "inputs and heads", "inputs and heads",
        ),
        "heads_with_few": Variable(
            "recipe", "int64", "1", "heads that need at most 10^5 neurons (median over tested inputs)"
        ),
        "note": Variable("layer head", "str", "", "why nothing can be fitted to a head"),
    },
    "explanation": {
        **_bounds(
            "inverse_temperature", PER_EXPLANATION, "inverse temperature beta: mean over inputs and seeds",
            "inputs and seeds",
        ),
        **_bounds(
            "uniform_share", PER_EXPLANATION, "share eps of uniform attention: mean over inputs and seeds",
            "inputs and seeds",
        ),
        **_bounds(
            "decay", PER_EXPLANATION, "decay gamma per token written after a key: mean over inputs and seeds",
            "inputs and seeds",
        ),
        **_bounds(
            "key_bias_sd", PER_EXPLANATION,
            "standard deviation of the keys' biases b: mean over inputs and seeds", "inputs and seeds",
        ),
        **_bounds(
            "output_gain", PER_EXPLANATION,
            "gain of the network's output on that of the explanation: mean over inputs and seeds",
            "inputs and seeds",
        ),
        "delta_aic": Variable(
            PER_EXPLANATION, "float64", "1",
            "AIC above the lowest of the same network, one attended token per query: mean over inputs and seeds",
        ),
        "delta_bic": Variable(
            PER_EXPLANATION, "float64", "1", "BIC above the lowest of the same network, likewise, with one datum per query"
        ),
        "share_best": Variable(
            PER_EXPLANATION, "float64", "1", "share of inputs and seeds in which its AIC is the lowest"
        ),
        "kl": Variable(
            PER_EXPLANATION, "float64", "nat",
            "Kullback-Leibler divergence of the network's attention from the explanation: mean over queries, "
            "inputs and seeds",
        ),
        "sigma_squared": Variable(
            "layer head", "float64", "1", "sigma^2 = ln R: median over queries and inputs"
        ),
        "inverse_temperature_predicted": Variable(
            PER_HEAD, "float64", "1", "1 - phi(x) / (sigma Phi(x)) at x = b_m - sigma + reach_shift; NaN in the Gaussian phase"
        ),
        "inverse_temperature_unshifted": Variable(
            PER_HEAD, "float64", "1", "the same without shift, free of parameters"
        ),
        **_bounds("reach_shift", "", "shift that fits the networks outside the Gaussian phase best", "heads"),
        "reach_shift_note": Variable("", "str", "", "why there is no shift"),
        "note": Variable(PER_HEAD, "str", "", "why a network is not explained"),
    },
    # contract: traces
    # contract: convergence
    # contract: settling
    # contract: readout
    # contract: coupling
    # contract: perturbations
    # contract: retention
    # contract: imaging
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
    "learned": {
        "role": Variable("input", "str", "", "train, validate or test"),
        "kl": Variable(
            "origin n_features seed input layer head", "float64", "1",
            "divergence KL(A || A^) of attention weights A^ from softmax attention A, in nats: mean over "
            "queries",
        ),
        "output_error": Variable(
            "origin n_features seed input layer head", "float64", "1",
            "relative error of the attention output, |O^ - O| / |O| (Frobenius norm over tokens)",
        ),
        "training_loss": Variable(
            "n_features seed step layer head", "float64", "1",
            "loss on the inputs that train; NaN once the head has stopped",
        ),
        "validation_loss": Variable(
            "n_features seed step layer head", "float64", "1",
            "loss on the inputs that validate; NaN once the head has stopped",
        ),
        "best_step": Variable(
            "n_features seed layer head", "int64", "1",
            "step of the least validation loss, whose hidden weights are kept; -1 if none",
        ),
        "note": Variable(
            "n_features seed layer head", "str", "", "why training gave no result, or empty"
        ),
        **_bounds(
            "median_kl", "origin n_features",
            "divergence KL(A || A^) in nats: median over test inputs, heads and seeds",
            "test inputs, heads and seeds",
        ),
        **_bounds(
            "median_output_error", "origin n_features",
            "relative error of the attention output: median over test inputs, heads and seeds",
            "test inputs, heads and seeds",
        ),
        **_bounds(
            "log10_kl_ratio", "origin n_features",
            "log10 of KL(A || A^) over that of random features of the same size, input, head and seed: "
            "median over test inputs, heads and seeds",
            "test inputs, heads and seeds",
        ),
        "share_better_than_uniform": Variable(
            "origin n_features", "float64", "1",
            "share of test inputs, heads and seeds with less divergence than equal attention to all tokens",
        ),
    },
    "comparison": {
        "feature_map": Variable("variant", "str", "", "feature map"),
        "threshold": Variable(
            "variant", "float64", "1", "where exp(u) is cut, u the input of a neuron; inf where it is not"
        ),
        **_bounds(
            "bias_squared", "variant n_features layer head",
            "squared bias of the output, |E O^ - O|^2 / |O|^2 (Frobenius norm over tokens): unbiased estimate, "
            "which may be negative, mean over inputs",
            "seeds",
        ),
        **_bounds(
            "variance", "variant n_features layer head",
            "variance of the output, E|O^ - E O^|^2 / |O|^2: unbiased estimate, mean over inputs",
            "seeds",
        ),
        **_bounds(
            "mean_square", "variant n_features layer head",
            "mean square error of the output, E|O^ - O|^2 / |O|^2, squared bias plus variance: mean over inputs",
            "seeds",
        ),
        **_bounds(
            "normalizer_error", "variant n_features layer head",
            "relative normaliser error |p / Z - 1|: median over queries, inputs and seeds; it says little of "
            "maps with an arbitrary scale (linear, relu, elu_plus_one)",
            "seeds",
        ),
        "normalizer_bias": Variable(
            "variant n_features layer head", "float64", "1",
            "bias of the normaliser with its sign, mean over seeds of p / Z - 1: median over queries and inputs",
        ),
        "share_not_positive": Variable(
            "variant n_features layer head", "float64", "1",
            "share of responses g.phi(q) that are zero or negative",
        ),
        "output_floor": Variable(
            "variant n_features layer head", "float64", "1",
            "relative output error of infinitely many neurons, from the kernel of the feature map: root mean "
            "square over inputs (rounding errors where the kernel is exp(q.k); of the linear map for its m); "
            "NaN where there is no closed form",
        ),
        "log10_rate_range": Variable(
            "variant n_features layer head", "float64", "1",
            "log10 of the highest over the median firing rate phi, its factor exp(-|x|^2 / 2) included, over "
            "neurons, queries and keys of an input: mean over inputs, first seed; NaN for maps with signs or "
            "silent neurons",
        ),
        **_bounds(
            "rank", "variant n_features",
            "rank of mean_square among the variants, 1 the best: mean over heads", "heads and seeds",
        ),
        **_bounds(
            "best_threshold", "n_features layer head",
            "threshold of the least mean_square, among variants of truncated_performer and performer (inf); "
            "ends of the interval are thresholds that were tried too",
            "seeds",
        ),
        "truncation_gain": Variable(
            "n_features layer head", "float64", "1",
            "mean_square at the best threshold over that of performer: even seeds choose, odd seeds evaluate",
        ),
        "best_threshold_note": Variable(
            "n_features layer head", "str", "", "why there is no best threshold; empty where there is one"
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
