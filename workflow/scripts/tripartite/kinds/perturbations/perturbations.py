"""Lesions and noise of the neuron-astrocyte network, and the laws of what they do.

One head has written all tokens: presynaptic weights g_a = sum_i phi_a(k_i) and synapses
H_a = sum_i phi_a(k_i) v_i of hidden neurons a. A query t reads

    p_t = sum_a g_a phi_a(q_t),    O_t = sum_a H_a phi_a(q_t) / p_t.

A perturbation changes what is read to p'_t and O'_t. The gain of the output is
O'_t.O_t / |O_t|^2; where only the calcium is changed, O'_t = (p_t / p'_t) O_t and the gain is
p_t / p'_t. The neuron's part in a wrong output, y_ta = (H_a - O_t g_a) phi_a(q_t), sums to 0 over
all neurons: it is what laws to first order in 1 / m (delta method) are made of.

A law is what is expected of O' - O given the unperturbed network; the knock-outs' laws put exact
softmax attention in its place. Rates are scaled by one factor for all keys and one for each query,
which cancel in O and in p / p'; `log_calcium` is on the true scale, where p estimates the
normaliser Z.

A perturbation is a function of its name, and its law is law_<name>; registry.py has all of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from tripartite.knockouts import lagged, log_best_constant, log_mean, towards_mean

Array = np.ndarray
Changed = tuple[Array, Array]  # p' [T] and O' [T, E]
MAX_LOG_RATE = 600.0  # neurons beyond it have g near the smallest number and do not count
MAX_SPIKES = 1e15  # counts above are their expectation, to all digits that float64 has


@dataclass(frozen=True)
class Network:
    """One head of m neurons that has read T queries, and what softmax attention makes of them.

    log_rates_q [T, m] and log_rates_k [N, m] are ln(sqrt(m) phi), v [N, E] the values,
    log_normalizer [T] the exact ln Z and exact [T, E] the exact output.
    """

    log_rates_q: Array
    log_rates_k: Array
    v: Array
    log_normalizer: Array
    exact: Array

    @property
    def m(self) -> int:
        return self.log_rates_q.shape[1]

    @cached_property
    def key_scale(self) -> float:
        return float(self.log_rates_k.max())

    @cached_property
    def phi_k(self) -> Array:
        """[N, m], at most 1."""
        return np.exp(self.log_rates_k - self.key_scale)

    @cached_property
    def g(self) -> Array:
        return self.phi_k.sum(0)  # [m]

    @cached_property
    def hebbian(self) -> Array:
        return self.v.T @ self.phi_k  # [E, m]

    @cached_property
    def query_scale(self) -> Array:
        with np.errstate(divide="ignore"):
            return (self.log_rates_q + np.log(self.g)).max(1)  # [T]

    @cached_property
    def phi_q(self) -> Array:
        """[T, m], such that the largest g_a phi_a(q_t) of a query is 1."""
        return np.exp(np.minimum(self.log_rates_q - self.query_scale[:, None], MAX_LOG_RATE))

    @cached_property
    def square_phi_q(self) -> Array:
        return np.square(self.phi_q)  # [T, m]

    @cached_property
    def relative_rates(self) -> Array:
        """Rates of the queries over the mean rate of queries and neurons [T, m]."""
        return np.exp(self.log_rates_q - self.log_mean_rate)

    @cached_property
    def log_mean_rate(self) -> float:
        return float(logsumexp(self.log_rates_q) - math.log(self.log_rates_q.size))

    @cached_property
    def shares(self) -> tuple[Array, float]:
        """Of neurons in the calcium: sum of squares [T], and summed variance over queries."""
        share = self.phi_q * (self.g / self.p[:, None])
        return np.square(share).sum(1), float(share.var(0).sum())

    @cached_property
    def p(self) -> Array:
        return self.phi_q @ self.g  # [T]

    @cached_property
    def output(self) -> Array:
        return self.phi_q @ self.hebbian.T / self.p[:, None]  # [T, E]

    @cached_property
    def log_calcium(self) -> Array:
        return np.log(self.p) + self.query_scale + self.key_scale - math.log(self.m)  # [T]

    @cached_property
    def parts(self) -> Array:
        """|H_a - O_t g_a|^2 [T, m]."""
        cross = self.output @ self.hebbian
        own = np.square(self.hebbian).sum(0)
        size = np.square(self.output).sum(1)[:, None]
        return np.maximum(own - 2 * self.g * cross + np.square(self.g) * size, 0)

    @cached_property
    def spread(self) -> float:
        """sum_ta |y_ta|^2 / p_t^2."""
        return float(((self.parts * self.square_phi_q).sum(1) / np.square(self.p)).sum())

    @cached_property
    def spike_spread(self) -> Array:
        """sum_a |H_a - O_t g_a|^2 phi_a(q_t) / p_t^2 [T]."""
        return (self.parts * self.phi_q).sum(1) / np.square(self.p)

    @cached_property
    def synaptic_spread(self) -> Array:
        """sum_ia H_ia^2 phi_a(q_t)^2 / p_t^2 [T]."""
        own = np.square(self.hebbian).sum(0)
        return self.square_phi_q @ own / np.square(self.p)

    @cached_property
    def size(self) -> float:
        """|O^|^2; NaN where the output is 0, and no change relative to it is known."""
        return float(np.square(self.output).sum()) or math.nan


class Law(NamedTuple):
    """What is expected; NaN or None where there is no law.

    added is sum_t |O'_t - O_t|^2 over sum_t |O_t|^2, gain [T] the gain of the output, gain_low and
    gain_high [T] bounds that it cannot leave, log_gain_variance the variance of ln gain over
    queries, total_factor the factor on the variance of the error against exact attention;
    added_uniform is the formula of uniform rounding errors, which is none.
    """

    added: float = math.nan
    gain: Array | None = None
    gain_low: Array | None = None
    gain_high: Array | None = None
    log_gain_variance: float = math.nan
    total_factor: float = math.nan
    added_uniform: float = math.nan


Perturbed = Callable[[Network, float, np.random.Generator], Changed]
Expected = Callable[[Network, float], Law]


def log_rates(x: Array, weights: Array) -> Array:
    """ln(sqrt(m) phi) [T, m] of drives x [T, D] with weights [m, D], as network.rates.

    In numpy, whose sums differ from those of torch in the last digit.
    """
    return x @ weights.T - np.square(x).sum(1)[:, None] / 2


def _divided(drive: Array, p: Array) -> Changed:
    """p and drive / p; a network without calcium is silent."""
    return p, drive / np.where(p == 0, np.inf, p)[:, None]


def _with_gain(net: Network, gain: Array) -> Changed:
    return net.p / gain, gain[:, None] * net.output


# The astrocyte is knocked out: p' is a function of ln p, and the law applies it to ln Z.


def _knockout(log_changed: Callable[[Array, Array, float], Array]) -> tuple[Perturbed, Expected]:
    """O' = (p / p') O exactly (any p'); the law is that of exact attention, without parameters.

    log_changed maps ln p [T], |O|^2 [T] and the dose to ln p' [T].
    """

    def perturbed(net: Network, dose: float, rng: np.random.Generator) -> Changed:
        squares = np.square(net.output).sum(1)
        return _with_gain(
            net, np.exp(net.log_calcium - log_changed(net.log_calcium, squares, dose))
        )

    def law(net: Network, dose: float) -> Law:
        size = np.square(net.exact).sum(1)
        log_gain = net.log_normalizer - log_changed(net.log_normalizer, size, dose)
        gain = np.exp(log_gain)
        added = (np.square(gain - 1) * size).sum() / (size.sum() or math.nan)
        return Law(float(added), gain, log_gain_variance=float(log_gain.var()))

    return perturbed, law


def _constant(log_p: Array, squares: Array, dose: float) -> Array:
    """p' = dose times the constant that serves best, of whatever unit p is."""
    return np.full_like(log_p, math.log(dose) + log_best_constant(log_p, squares))


knockout_constant, law_knockout_constant = _knockout(_constant)
knockout_mean, law_knockout_mean = _knockout(lambda log_p, _, dose: towards_mean(log_p, dose))
knockout_lagged, law_knockout_lagged = _knockout(lambda log_p, _, dose: lagged(log_p, dose))


# Lesions of neurons, contacts and synapses.


def survivors(m: int, share: float, rng: np.random.Generator) -> Array:
    """1 for neurons that stay and 0 for the round(share m) that are lost; one always stays."""
    alive = np.ones(m)
    alive[rng.choice(m, n_lost(m, share), replace=False)] = 0
    return alive


def n_lost(m: int, share: float) -> int:
    return min(round(share * m), m - 1)


def astrocyte_inputs(net: Network, dose: float, rng: np.random.Generator) -> Changed:
    """A share of the neurons loses its contact g_a with the astrocyte, but keeps its synapses."""
    p = net.phi_q @ (net.g * survivors(net.m, dose, rng))
    return _divided(net.phi_q @ net.hebbian.T, p)


def law_astrocyte_inputs(net: Network, dose: float) -> Law:
    """Gain 1 / (1 - c); its variance by the delta method, c m of m drawn without replacement."""
    c = n_lost(net.m, dose) / net.m
    odds = c / (1 - c) * net.m / max(net.m - 1, 1)
    squares, between = net.shares
    size = np.square(net.output).sum(1)
    variance = odds * (squares - 1 / net.m) / (1 - c) ** 2
    added = ((c / (1 - c)) ** 2 * size.sum() + (variance * size).sum()) / net.size
    return Law(float(added), np.full(len(size), 1 / (1 - c)), log_gain_variance=odds * between)


def unensheathed(net: Network, dose: float, rng: np.random.Generator) -> Changed:
    """Every synapse H_ia is outside the sheath with probability dose."""
    # ASSUME: there it has the fixed efficacy 1 / mean_t p, which is right on average.
    bare = net.hebbian * (rng.random(net.hebbian.shape) < dose)
    inside = net.phi_q @ (net.hebbian - bare).T
    outside = (net.phi_q @ bare.T) * _over_mean(net)[:, None]
    return net.p, (inside + outside) / net.p[:, None]


def law_unensheathed(net: Network, dose: float) -> Law:
    """Exact: gain 1 - f + f p_t / mean p."""
    return _changed_synapses(net, dose, _over_mean(net) - 1)


def _over_mean(net: Network) -> Array:
    return np.exp(net.log_calcium - log_mean(net.log_calcium))  # p_t / mean p [T]


def synapses(net: Network, dose: float, rng: np.random.Generator) -> Changed:
    """Every synapse H_ia is lost with probability dose."""
    kept = rng.random(net.hebbian.shape) >= dose
    return _divided(net.phi_q @ (net.hebbian * kept).T, net.p)


def law_synapses(net: Network, dose: float) -> Law:
    """Exact: the output keeps 1 - c of itself, and every lost synapse adds its own variance."""
    return _changed_synapses(net, dose, np.full(len(net.p), -1.0))


def _changed_synapses(net: Network, share: float, change: Array) -> Law:
    """The current of every synapse changes by the factor 1 + change [T] with probability share."""
    size = np.square(net.output).sum(1)
    squares = np.square(change) * (share**2 * size + share * (1 - share) * net.synaptic_spread)
    return Law(float(squares.sum()) / net.size, 1 + share * change)


def neurons(net: Network, dose: float, rng: np.random.Generator) -> Changed:
    """A share of the hidden neurons dies: neither calcium nor output hears of them."""
    alive = survivors(net.m, dose, rng)
    return _divided(net.phi_q @ (net.hebbian * alive).T, net.phi_q @ (net.g * alive))


def law_neurons(net: Network, dose: float) -> Law:
    """Those who are left are a network of m (1 - c); added error by the delta method."""
    c = n_lost(net.m, dose) / net.m
    added = c / (1 - c) * net.m / max(net.m - 1, 1) * net.spread / net.size
    return Law(added, np.ones(len(net.p)), total_factor=1 / (1 - c))


# Noise, spikes, unequal neurons, coarse synapses, saturation.


def synaptic_noise(net: Network, dose: float, rng: np.random.Generator) -> Changed:
    """H_ia plus normal noise whose standard deviation is dose times the rms of H."""
    noise = dose * math.sqrt(np.square(net.hebbian).mean()) * rng.standard_normal(net.hebbian.shape)
    return net.p, net.output + net.phi_q @ noise.T / net.p[:, None]


def law_synaptic_noise(net: Network, dose: float) -> Law:
    """Exact: the sd of each output is s |phi(q)| / p."""
    squares = (net.square_phi_q.sum(1) / np.square(net.p)).sum()
    variance = dose**2 * np.square(net.hebbian).mean() * len(net.hebbian)  # of all outputs
    added = variance * squares / net.size
    return Law(float(added), np.ones(len(net.p)))


def poisson(net: Network, dose: float, rng: np.random.Generator) -> Changed:
    """Neurons spike while a query is read; synapses and astrocyte hear the same Poisson counts."""
    # ASSUME: all queries are read for the same time, in which a neuron of the mean rate over
    # queries and neurons is expected to spike dose times.
    expected = dose * net.relative_rates
    counts = rng.poisson(np.minimum(expected, MAX_SPIKES)).astype(float)
    if expected.max() > MAX_SPIKES:
        counts = np.where(expected > MAX_SPIKES, expected, counts)
    unit = np.exp(net.log_mean_rate - math.log(dose) - net.query_scale)[:, None]  # phi of a spike
    return _divided(counts @ net.hebbian.T * unit, counts @ net.g * unit[:, 0])


def law_poisson(net: Network, dose: float) -> Law:
    """Delta method: the variance of a count is its mean."""
    unit = np.exp(net.log_mean_rate - math.log(dose) - net.query_scale)
    return Law(float((unit * net.spike_spread).sum()) / net.size, np.ones(len(net.p)))


def heterogeneity(net: Network, dose: float, rng: np.random.Generator) -> Changed:
    """Lognormal gains of mean 1 and coefficient of variation dose, common to H_a and g_a."""
    variance = math.log1p(dose**2)
    gain = np.exp(math.sqrt(variance) * rng.standard_normal(net.m) - variance / 2)
    return _divided(net.phi_q @ (net.hebbian * gain).T, net.phi_q @ (net.g * gain))


def law_heterogeneity(net: Network, dose: float) -> Law:
    """m_eff = m / (1 + cv^2); delta method."""
    added = dose**2 * net.spread / net.size
    return Law(added, np.ones(len(net.p)), total_factor=1 + dose**2)


def stochastic(net: Network, dose: float, rng: np.random.Generator) -> Changed:
    """H and g on one of the two next of 2^dose levels, right on average."""
    return _rounded(net, dose, lambda x: np.floor(x + rng.random(x.shape)))


def law_stochastic(net: Network, dose: float) -> Law:
    """Error (dH phi - O dg.phi) / p, variances step^2 f (1 - f); delta method for the part of g."""
    squares = []
    for x in (net.hebbian, net.g[None]):
        place, step, _ = levels(x, dose)
        rest = place - np.floor(place)
        squares.append(net.square_phi_q @ (step**2 * rest * (1 - rest)).sum(0))  # [T]
    total = squares[0] + np.square(net.output).sum(1) * squares[1]
    return Law(float((total / np.square(net.p)).sum()) / net.size, np.ones(len(net.p)))


def nearest(net: Network, dose: float, rng: np.random.Generator) -> Changed:
    """H and g on the nearest of 2^dose levels."""
    return _rounded(net, dose, np.rint)


def law_nearest(net: Network, dose: float) -> Law:
    """None: errors go with the rates. Uniform errors would have the variance step^2 / 12."""
    step_h, step_g = (levels(x, dose)[1] for x in (net.hebbian, net.g))
    per_neuron = len(net.hebbian) * step_h**2 + np.square(net.output).sum(1) * step_g**2
    squares = per_neuron / 12 * net.square_phi_q.sum(1) / np.square(net.p)
    return Law(added_uniform=float(squares.sum()) / net.size)


def levels(x: Array, bits: float) -> tuple[Array, float, float]:
    """x in steps above its lowest level, the step, and that level.

    2^bits levels lie from the least to the largest x.
    """
    # ASSUME: all synapses of a head share one scale, and all its contacts with the astrocyte
    # another.
    lowest = float(x.min())
    step = (float(x.max()) - lowest) / (2**bits - 1)
    return (x - lowest) / step if step > 0 else np.zeros_like(x), step, lowest


def _rounded(net: Network, bits: float, to_level: Callable[[Array], Array]) -> Changed:
    hebbian, g = (
        lowest + step * to_level(place)
        for place, step, lowest in (levels(x, bits) for x in (net.hebbian, net.g))
    )
    return _divided(net.phi_q @ hebbian.T, net.phi_q @ g)


def facilitation(net: Network, dose: float, rng: np.random.Generator) -> Changed:
    """Presynaptic facilitation that saturates: g_a = (1 - prod_i (1 - U phi_a(k_i))) / U.

    dose is the largest U phi of a key; g_a returns to the sum of rates as it goes to 0.
    """
    use = dose / net.phi_k.max()
    with np.errstate(divide="ignore"):
        log_left = np.log1p(-np.minimum(use * net.phi_k, 1)).sum(0)
    return _with_gain(net, net.p / (net.phi_q @ (-np.expm1(log_left) / use)))


def law_facilitation(net: Network, dose: float) -> Law:
    """Bounds: 1 - exp(-U g) <= 1 - prod_i (1 - U phi_i) <= min(1, U g), from 1 - x <= exp(-x)."""
    use = dose / net.phi_k.max()
    most, least = np.minimum(net.g, 1 / use), -np.expm1(-use * net.g) / use
    return Law(gain_low=net.p / (net.phi_q @ most), gain_high=net.p / (net.phi_q @ least))
