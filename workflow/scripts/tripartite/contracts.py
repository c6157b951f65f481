"""What each netCDF file between the stages holds: one registry, checked at each write and each read.

A contract is named like its file: `qkv` is results/{study}/{experiment}/qkv.nc. Every variable has
fixed dims, dtype and units; extra variables are a breach, so that the registry stays true.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

SCHEMA_VERSION = 4

# One order of axes everywhere, leaving out what a variable does not have.
AXES = (
    "case", "explanation", "variant", "origin", "recipe", "phase", "model", "layout", "perturbation",
    "lesion", "rival", "point", "n_features", "seed", "step", "time", "input", "layer", "head", "token", "neuron",
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
    "case": Variable("case", "int64", "1", "what was timed, or a place on a curve"),
    "explanation": Variable("explanation", "str", "", "standard attention that explains a network"),
    "variant": Variable("variant", "str", "", "name of the hidden layer that is compared"),
    "origin": Variable("origin", "str", "", "where the attention weights come from"),
    "step": Variable("step", "int64", "1", "step of training"),
    "recipe": Variable("recipe", "str", "", "what is fitted"),
    "phase": Variable("phase", "str", "", "phase of the random-energy model"),
    "model": Variable("model", "str", "", "model of calcium"),
    "layout": Variable("layout", "str", "", "how astrocyte processes are coupled"),
    "perturbation": Variable("perturbation", "str", "", "what is done to the network"),
    "lesion": Variable("lesion", "str", "", "layer that has lost its astrocytes, or all"),
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
        "text": Variable("input token", "str", "", "what the token is"),
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
    "traces": {
        "seconds": Variable("time", "float64", "s", "time since the first token was written"),
        "control": Variable("time", "int64", "1", "global control r: 0 while writing, 1 while reading"),
        "token_on": Variable("time", "int64", "1", "place of the token that is on"),
        "rates": Variable("time neuron", "float64", "1", "rate h, in units of the highest of a key (query) while writing (reading)"),
        "hebbian": Variable(
            "time neuron", "float64", "1", "synapse H of the hidden neuron to output_unit of the last layer"
        ),
        "output_unit": Variable("neuron", "int64", "1", "unit of the last layer to which the neuron's synapse is largest"),
        "presynaptic": Variable("time neuron", "float64", "1", "weight g of the hidden neuron to the astrocyte"),
        "calcium": Variable("time", "float64", "1", "activation p of the astrocyte process"),
        "log_calcium_unit": Variable(
            "", "float64", "1", "ln of the normaliser at a calcium of 1 (settled network, no leak or saturation)"
        ),
        "normalizer": Variable(
            "time", "float64", "1",
            "normaliser g.phi(q) of the algebra for the query that is on, in units of calcium; NaN while writing",
        ),
        "intracellular": Variable(
            "time", "float64", "uM", "calcium of the model that the process drives; NaN without one"
        ),
        "output_error": Variable(
            "time", "float64", "1",
            "relative error |l - o| / |o| of the last layer against exact attention; NaN while writing",
        ),
        "output_cosine": Variable("time", "float64", "1", "cosine of l and o, likewise"),
        "text": Variable("token", "str", "", "what the token is"),
        "log_normalizer": Variable(
            "token", "float64", "1", "ln sum_j exp(q.k_j), exact, over the tokens written by then"
        ),
        "normalizer_network": Variable(
            "token", "float64", "1", "normaliser g.phi(q) of the algebra, in units of calcium"
        ),
        "calcium_read": Variable("token", "float64", "1", "calcium at the end of reading the token"),
        "output_error_read": Variable("token", "float64", "1", "output_error at the end of reading the token"),
        "output_error_algebra": Variable(
            "token", "float64", "1",
            "relative error of the output of the algebra with the same hidden neurons: without time constants, "
            "leaks and saturation",
        ),
        "tau_hidden": Variable("", "float64", "s", "time constant of the hidden rates"),
        "tau_last": Variable("", "float64", "s", "time constant of the last layer"),
        "tau_hebbian": Variable("", "float64", "s", "time constant of Hebbian plasticity"),
        "tau_presynaptic": Variable("", "float64", "s", "time constant of presynaptic plasticity"),
        "tau_calcium": Variable("", "float64", "s", "time constant of the astrocyte process"),
        "token_seconds": Variable("", "float64", "s", "how long a token is written"),
        "read_seconds": Variable("", "float64", "s", "how long a token is read"),
        "n_features": Variable("", "int64", "1", "hidden neurons m"),
        "layer": Variable("", "int64", "1", "layer of the head"),
        "head": Variable("", "int64", "1", "the head"),
        "input": Variable("", "str", "", "name of the input"),
        "calcium_model": Variable("", "str", "", "model of intracellular calcium, or linear for none"),
    },
    "convergence": {
        "ratio": Variable(
            "point", "float64", "1",
            "time constants of hidden and last layer, over the time that a token is on",
        ),
        **_bounds(
            "output_error", "point n_features layer head",
            "relative error of the output of synapses written in continuous time against those of the "
            "algebra, |O - O_0| / |O_0| (Frobenius norm over tokens): mean over inputs and seeds", "seeds",
        ),
        "output_error_law": Variable(
            "point n_features layer head", "float64", "1",
            "the same to first order in the ratio, free of parameters",
        ),
        **_bounds(
            "calcium_error", "point n_features layer head",
            "relative error of calcium, |p / p_0 - 1|: median over queries, mean over inputs and seeds",
            "seeds",
        ),
        "calcium_error_law": Variable(
            "point n_features layer head", "float64", "1",
            "the same to first order: ratio times the weight of the last token in the network's attention",
        ),
        **_bounds(
            "slope", "n_features layer head",
            "exponent of the output error in the ratio, for ratios up to 0.03: mean over seeds", "seeds",
        ),
        "slope_note": Variable("n_features layer head", "str", "", "why there is no slope"),
        **_bounds(
            "integrator_error", "step",
            "relative error of Runge-Kutta's method with as many steps per token (coordinate step), the "
            "larger one of H and of g, against the closed form: mean over seeds; first head, input and size, "
            "at most 8 tokens and 256 neurons; NaN where it is not stable", "seeds",
        ),
        "integrator_error_law": Variable(
            "step", "float64", "1",
            "the same from the method's own sum of exponentials, free of parameters: mean over seeds",
        ),
        "integrator_ratio": Variable("", "float64", "1", "ratio at which the integrator is tried"),
        **_bounds(
            "integrator_order", "",
            "exponent of that error in the length of a step, for steps up to the time constant: mean over seeds",
            "seeds",
        ),
        "integrator_order_law": Variable(
            "", "float64", "1", "the same of the law: 4 where steps are far below the time constant"
        ),
        "integrator_note": Variable("", "str", "", "why there is no order"),
    },
    "settling": {
        "ratio": Variable(
            "point", "float64", "1",
            "T_r / tau_p: time that a query is read over the time constant of the astrocyte process",
        ),
        **_bounds(
            "gain_error", "point layer head",
            "gain error |Z_t / p_t - 1| of the exact network: median over queries and inputs", "inputs",
        ),
        **_bounds(
            "sd_log_gain", "point layer head",
            "sd of ln(Z_t / p_t) over queries: root mean square over inputs", "inputs",
        ),
        "sd_log_gain_law": Variable(
            "point layer head", "float64", "1",
            "the same to first order in the fluctuations of ln Z, from their sd and correlations",
        ),
        **_bounds(
            "sd_log_gain_stale", "layer head",
            "sd of ln(Z_t / Z_t-1), the gain at the beginning of query t if the process had settled on the "
            "one before: root mean square over inputs", "inputs",
        ),
        "sd_log_gain_stale_law": Variable(
            "layer head", "float64", "1", "its law, sqrt(2) sd(ln Z) sqrt(1 - rho_1)"
        ),
        **_bounds(
            "sd_log_normalizer", "layer head",
            "sd of ln Z over queries, the limit of sd_log_gain for slow processes: root mean square over inputs",
            "inputs",
        ),
        **_bounds(
            "lag_correlation", "layer head",
            "rho_1, correlation of ln Z of neighbouring queries: mean over inputs", "inputs",
        ),
        **_bounds(
            "gain_output_error", "point layer head",
            "relative output error that the stale gain alone gives, |o_t (Z_t / p_t - 1)| / |O| (Frobenius norm "
            "over tokens): root mean square over inputs", "inputs",
        ),
        **_bounds(
            "random_feature_error", PER_HEAD,
            "relative output error |O^ - O| / |O| of settled networks: root mean square over inputs and seeds",
            "seeds",
        ),
        **_bounds(
            "total_error", f"point {PER_HEAD}",
            "relative output error of networks whose process relaxes to their own response: root mean square "
            "over inputs and seeds", "seeds",
        ),
        **_bounds(
            "ratio_needed", PER_HEAD,
            "T_r / tau_p from which on gain_output_error is below random_feature_error", "seeds",
        ),
        "ratio_note": Variable(PER_HEAD, "str", "", "why there is no such ratio"),
        **_bounds(
            "ratio_needed_in_all", PER_HEAD,
            "T_r / tau_p from which on total_error is below sqrt(2) random_feature_error: a slow process also "
            "loses the noise that it shares with its synapses, and that cancels; NaN where it is below at all "
            "ratios from 0.001 on", "seeds",
        ),
        "relaxation_seconds": Variable(
            "model", "float64", "s", "slowest relaxation time of calcium at a steady operating point (IP3)"
        ),
        **{
            f"seconds_needed{end}": Variable(
                f"model {PER_HEAD}", "float64", "s",
                f"{words}time that a query must be read, ratio_needed_in_all times relaxation_seconds",
            )
            for end, words in (
                ("", ""), ("_low", "lower end of the 95 % interval over seeds: "),
                ("_high", "upper end of the 95 % interval over seeds: "),
            )
        },
    },
    "readout": {
        "operating_point": Variable(
            "point", "float64", "uM", "I_0, stimulus at rest: IP3, or glutamate for g_chi"
        ),
        "depth": Variable("point", "float64", "uM", "stimulus that the mean normaliser of a head adds"),
        "stimulus": Variable("case", "float64", "uM", "IP3, or glutamate for g_chi"),
        "steady_stimulus": Variable(
            "case model", "float64", "uM", "stimulus of a steady state, along the curve of steady states"
        ),
        "steady_calcium": Variable("case model", "float64", "uM", "its calcium C"),
        "steady_growth": Variable(
            "case model", "float64", "s-1",
            "largest real part of its eigenvalues: it is stable where that is negative",
        ),
        "exponent": Variable(
            "case model", "float64", "1",
            "alpha = d ln C / d ln stimulus at rest; NaN where calcium does not come to rest",
        ),
        "period": Variable(
            "case model", "float64", "s", "period of the oscillation; NaN where there is none"
        ),
        "cycle_low": Variable("case model", "float64", "uM", "lowest calcium of the oscillation"),
        "cycle_high": Variable("case model", "float64", "uM", "highest calcium of the oscillation"),
        **{
            f"{kind}_{which}": Variable(
                "model", "float64", "uM", f"{words} stimulus of a {kind} bifurcation; NaN if there is none"
            )
            for kind in ("hopf", "fold")
            for which, words in (("first", "smallest"), ("last", "largest"))
        },
        "exponent_at_mean": Variable(
            "model point", "float64", "1", "alpha at the stimulus of a head's mean normaliser"
        ),
        "relaxation_seconds": Variable(
            "model point", "float64", "s", "slowest relaxation time of calcium at that stimulus"
        ),
        **_bounds(
            "sd_log_normalizer", "layer head",
            "sd of ln Z over queries of all inputs, the sd of the log gain without astrocyte", "inputs",
        ),
        "share_steady": Variable(
            "model point layer head", "float64", "1",
            "share of the queries at whose stimulus calcium comes to rest",
        ),
        **_bounds(
            "exponent_z", "model point layer head",
            "alpha_Z, exponent of C in Z: slope of ln C on ln Z over queries", "inputs",
        ),
        "exponent_z_law": Variable(
            "model point layer head", "float64", "1",
            "alpha (S - I_0) / S, the local exponent: median over queries",
        ),
        **_bounds(
            "readout_exponent", "model point layer head",
            "gamma, power of C to divide by that leaves the least variance of the log gain, fitted to the first "
            "half of the inputs", "inputs",
        ),
        **_bounds(
            "sd_log_gain", "model point layer head",
            "sd of ln(Z / C^gamma) over queries of the second half of the inputs", "inputs",
        ),
        **_bounds(
            "sd_log_gain_plain", "model point layer head", "sd of ln(Z / C) over queries", "inputs"
        ),
        "sd_log_gain_law": Variable(
            "model point layer head", "float64", "1",
            "its law, |1 - alpha_Z| sd(ln Z), with the local exponent",
        ),
        "note": Variable("model point layer head", "str", "", "why there is no number"),
    },
    "coupling": {
        "strength": Variable(
            "point", "float64", "1", "kappa, conductance of a gap junction over that of a process"
        ),
        "rows": Variable("layout", "int64", "1", "rows in which the processes of all heads lie"),
        "processes": Variable("", "int64", "1", "processes that share the neurons of a head"),
        **_bounds(
            "gain_error", f"layout point {PER_HEAD}",
            "gain error p_i / Z - 1 of a head's processes, n_features neurons each: root mean square over "
            "processes, queries, inputs and seeds", "seeds",
        ),
        "gain_error_law": Variable(
            f"layout point {PER_HEAD}", "float64", "1",
            "the same in expectation: root of gain_error_noise^2 + gain_error_mixing^2",
        ),
        "gain_error_noise": Variable(
            f"layout point {PER_HEAD}", "float64", "1",
            "its part from the noise of the random features, which coupling averages",
        ),
        "gain_error_mixing": Variable(
            "layout point layer head", "float64", "1",
            "its part from neighbours of other heads, whose normalisers differ",
        ),
        **_bounds(
            "output_error", f"layout point {PER_HEAD}",
            "relative output error |O^ - O| / |O| (Frobenius norm over tokens): root mean square over inputs and "
            "seeds", "seeds",
        ),
        **_bounds(
            "gain_error_all", "layout point n_features", "gain_error of all heads: root mean square", "seeds"
        ),
        **_bounds(
            "output_error_all", "layout point n_features", "output_error of all heads: root mean square", "seeds"
        ),
        **_bounds(
            "best_strength", "layout n_features",
            "kappa of the least gain error of all heads, of those that were tried; so are the ends", "seeds",
        ),
        "best_strength_law": Variable(
            "layout n_features", "float64", "1",
            "kappa of the least gain_error_law of all heads, between the least and the largest that were tried",
        ),
        "best_note": Variable(
            "layout n_features", "str", "", "what limits best_strength, where it is at an end"
        ),
        **_bounds(
            "best_output_strength", "layout n_features",
            "kappa of the least output error of all heads, likewise", "seeds",
        ),
        "best_output_note": Variable(
            "layout n_features", "str", "", "what limits best_output_strength, where it is at an end"
        ),
    },
    "perturbations": {
        "dose": Variable(
            "perturbation point", "float64", "1", "how much of it, as the study says of each kind; NaN beyond the last"
        ),
        **_bounds(
            "output_error", f"perturbation point {PER_HEAD}",
            "relative error of the perturbed output against softmax attention: root mean square over inputs "
            "and seeds", "seeds",
        ),
        "output_error_law": Variable(
            f"perturbation point {PER_HEAD}", "float64", "1",
            "the same by its law from the unperturbed error: lost or unequal neurons are fewer neurons",
        ),
        **_bounds(
            "output_error_unperturbed", PER_HEAD, "the same of the network as it was", "seeds"
        ),
        **_bounds(
            "added_error", f"perturbation point {PER_HEAD}",
            "change of the output, |O' - O^| / |O^| (Frobenius): root mean square over inputs and seeds", "seeds",
        ),
        "added_error_law": Variable(
            f"perturbation point {PER_HEAD}", "float64", "1",
            "the same as expected from the unperturbed network (knock-outs: from softmax attention); exact for "
            "synapses, unensheathed and synaptic_noise, to first order in 1 / m for the others",
        ),
        "added_error_uniform": Variable(
            f"perturbation point {PER_HEAD}", "float64", "1",
            "the same if errors of rounding to the nearest level were uniform and independent, which they "
            "are not",
        ),
        **_bounds(
            "gain", f"perturbation point {PER_HEAD}",
            "gain of a query's output, (O'.O^) / |O^|^2, p / p' where only the calcium is changed: median over "
            "queries, inputs and seeds", "seeds",
        ),
        "gain_law": Variable(f"perturbation point {PER_HEAD}", "float64", "1", "the same of the expected gain"),
        "gain_law_low": Variable(f"perturbation point {PER_HEAD}", "float64", "1", "the same of a bound below which no gain can be"),
        "gain_law_high": Variable(f"perturbation point {PER_HEAD}", "float64", "1", "the same of a bound above which no gain can be"),
        **_bounds(
            "sd_log_gain", f"perturbation point {PER_HEAD}",
            "standard deviation over queries of ln gain, where it is positive: mean over inputs and seeds", "seeds",
        ),
        "sd_log_gain_law": Variable(
            f"perturbation point {PER_HEAD}", "float64", "1",
            "the same by its law (knock-outs: from the exact normaliser; astrocyte_inputs: to first order)",
        ),
        **_bounds(
            "direction", f"perturbation point {PER_HEAD}",
            "cosine of a query's output with what it was: mean over queries, inputs and seeds", "seeds",
        ),
    },
    "ablation": {
        **_bounds(
            "cosine", "perturbation lesion layer",
            "cosine of a token's state after the layer (the last: the model's output) with that of the whole "
            "model: mean over tokens and inputs", "inputs",
        ),
        **_bounds(
            "cosine_chance", "layer",
            "the same of two tokens of one input in the whole model: mean over pairs and inputs", "inputs",
        ),
        **_bounds(
            "attended_cosine", "perturbation layer",
            "cosine of the outputs of all heads side by side, before they are added to the token's state, with "
            "those of the whole model, if this layer alone is changed: mean over tokens and inputs", "inputs",
        ),
        **_bounds(
            "top_token_kept", "perturbation lesion",
            "share of tokens whose likeliest word is that of the whole model: mean over inputs; NaN for models "
            "without a head that predicts tokens", "inputs",
        ),
        **_bounds(
            "median_log_gain", "perturbation layer head",
            "ln gain of the head's output, ln(Z / p'), if this layer alone is changed: median over queries, mean "
            "over inputs", "inputs",
        ),
        **_bounds(
            "sd_log_gain", "perturbation layer head",
            "its standard deviation over queries: mean over inputs", "inputs",
        ),
    },
    "retention": {
        "leak_hebbian": Variable("point", "float64", "1/s", "loss of the hidden-to-output weights"),
        "leak_presynaptic": Variable("point", "float64", "1/s", "loss of the neuron-to-astrocyte weights"),
        "age": Variable("token", "float64", "s", "time since a key was written, when all are read"),
        **{
            name: variable._replace(units="1/s")
            for name, variable in (
                _bounds(
                    "leak_fitted", f"point {PER_HEAD}",
                    "leak of softmax attention with a temperature and a decay that explains the network's attention "
                    "best (maximum likelihood): mean over inputs and seeds; that of the hidden-to-output weights, "
                    "since a gain cancels", "seeds",
                )
                | _bounds(
                    "leak_measured", f"point {PER_HEAD}",
                    "falling slope of ln(attention / attention of the same network without leak) on age: mean over "
                    "inputs and seeds", "seeds",
                )
            ).items()
        },
        "note": Variable(f"point {PER_HEAD}", "str", "", "why no leak is fitted; empty where one is"),
        **_bounds(
            "gain", f"point {PER_HEAD}",
            "gain: sum of a query's attention weights, 1 for equal leaks: median over queries, inputs and seeds",
            "seeds",
        ),
        "gain_law": Variable(
            "point layer head", "float64", "1", "the same of exact attention: median over queries and inputs"
        ),
        **_bounds(
            "output_error", f"point {PER_HEAD}",
            "relative error of the output against softmax attention of the same retention, |O^ - O| / |O| "
            "(Frobenius norm over tokens): mean over inputs and seeds", "seeds",
        ),
        **_bounds(
            "log_retained", "point layer head token",
            "ln of attention over that without leak, against age: mean over queries, inputs and seeds, largest "
            "network, ages that every input has", "seeds",
        ),
        "log_retained_law": Variable(
            "point layer head token", "float64", "1", "the same of exact attention"
        ),
    },
    "imaging": {
        "noise": Variable(
            "point", "float64", "1", "standard deviation of a frame's noise over that of the signal"
        ),
        "most_trials": Variable("", "int64", "1", "trials that an experiment can afford"),
        **_bounds(
            "r_squared", f"rival {PER_HEAD}",
            "share of the variance of noiseless fluorescence that it explains alone: mean over inputs and seeds",
            "inputs and seeds",
        ),
        **_bounds(
            "partial", PER_HEAD,
            "share of that variance that the normaliser explains beyond all rivals: mean over inputs and seeds",
            "inputs and seeds",
        ),
        **_bounds(
            "signal_sd", PER_HEAD,
            "standard deviation of noiseless dF/F over frames (F the mean of the recording): mean over inputs and "
            "seeds", "inputs and seeds",
        ),
        **_bounds(
            "trials_needed", f"point {PER_HEAD}",
            "trials for 80 % power of the t test over trials (5 %) to find a coefficient of the normaliser above 0 "
            "beside all rivals, in a network and on an input drawn at random: noncentral t; an upper end beyond "
            "most_trials is inf", "inputs and seeds",
        ),
        "trials_note": Variable(f"point {PER_HEAD}", "str", "", "why there is no such number; empty where there is"),
        "power_simulated": Variable(
            f"point {PER_HEAD}", "float64", "1", "share of simulated experiments of trials_needed trials in which that test finds it"
        ),
        "power_simulated_low": Variable(
            f"point {PER_HEAD}", "float64", "1", "lower end of Wilson's 95 % interval of that share"
        ),
        "power_simulated_high": Variable(
            f"point {PER_HEAD}", "float64", "1", "upper end of Wilson's 95 % interval of that share"
        ),
        **_bounds(
            "trials_to_discriminate", f"rival point {PER_HEAD}",
            "trials from which on, in 80 % of experiments, fluorescence is likelier if it rises with the "
            "normaliser than if it rises or falls with the rival; an upper end beyond most_trials is inf",
            "inputs and seeds",
        ),
        "discriminate_note": Variable(
            f"rival point {PER_HEAD}", "str", "", "why there is no such number; empty where there is"
        ),
        "trace_seconds": Variable("time", "float64", "s", "middle of the frame"),
        "trace_fluorescence": Variable(
            "point time", "float64", "1", "dF/F of one trial: first head and input, first seed, largest network"
        ),
        "trace_clean": Variable("time", "float64", "1", "the same without noise"),
        "trace_normalizer": Variable(
            "time", "float64", "1", "dF/F that the exact normaliser predicts, nothing fitted"
        ),
        "trace_rival": Variable("time", "float64", "1", "dF/F that the mean rate predicts, nothing fitted"),
        "trace_input": Variable("", "str", "", "input of the trace"),
        "trace_layer": Variable("", "int64", "1", "layer of the trace's head"),
        "trace_head": Variable("", "int64", "1", "head of the trace"),
    },
    "speed": {
        "method": Variable("case", "str", "", "implementation"),
        "order": Variable("case", "str", "", "bidirectional, causal, or how synapses are written in continuous time"),
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
            "operations of the random-feature products, 4 N m (d + d_value + 1) per head, or of a write update, "
            "2 N m d, over what large matrix products do in the same time, numbers and workers",
        ),
        "peak_memory": Variable(
            "case", "float64", "B", "most memory above inputs, neurons and outputs, in a process of its own"
        ),
        "output_error": Variable(
            "case", "float64", "1",
            "relative error of the output against exact softmax attention, in float64; of Hebbian weights "
            "against exact or ten times finer integration where they are written in continuous time",
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
    """Return `dataset` in the contract's variable order, with units and long names.

    Text becomes Python's own, also where numpy's str stands beside it, which no file can hold; whole numbers
    become float64 where the contract has that: a study may say 1 for 1.0.
    """
    variables = CONTRACTS[contract]
    dataset = dataset[list(variables)].copy()
    for name in dataset.variables:
        spec = variables.get(name) or COORDINATES.get(name)
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
