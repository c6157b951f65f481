"""The neuron-astrocyte network in continuous time, one head; its algebra (network.py) is the limit.

Key k_i is on for a token's time T with r = 0 (write), or a query with r = 1 (read); phi are the
rates that the hidden layer is driven to, v the value and f the skip connection. Time in s, the rest
has no unit:

    (1)  tau_h h' = -h + phi                                    hidden layer
    (2)  tau_l l' = -l + (1 - r) v + r [H h / p + f]            last layer; no H h / p where p = 0
    (3)  tau_H H' = (1 - r) l h^T - lambda_H tau_H H            Hebbian plasticity
    (4)  tau_g g' = (1 - r) h - lambda_g tau_g g                presynaptic plasticity
    (5)  tau_p p' = -p + g . h                                  calcium of the astrocyte process

With release U > 0 the presynaptic terminal saturates, (1 - r) U h (1 - g) instead of (1 - r) h in
(4).

Between two changes of the input (1) relaxes exponentially, and so do v - l and what drives (3) to
(5) while writing: everything is a convolution of exponentials, a divided difference of exp. Write a
= l(0) - v, b = h(0) - phi and C(x, y) = int_0^T e^{-x (T - t)} e^{-y t} dt:

    tau_H [H(T) - e^{-lambda_H T} H(0)] = C(lambda_H, 0) v phi^T + C(lambda_H, 1/tau_l) a phi^T
                                + C(lambda_H, 1/tau_h) v b^T + C(lambda_H, 1/tau_l + 1/tau_h) a b^T

ASSUME: tau_p p' = -p + g . h holds in both phases, so that the process also follows the synapses
while they learn.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.signal import lfilter
from torch import Tensor

STABLE = 2.785  # longest stable step of Runge-Kutta's method of order 4, over the time constant
STAGES = np.diag([0.5, 0.5, 1.0], -1)  # Runge and Kutta's: what each takes of the slope before,
SHARES = np.array([1, 2, 2, 1]) / 6  # and what the step takes of each
STEP_BLOCK = 16  # steps whose four stages are written to H at once: [E, 64] times [64, m]
TOKEN_BLOCK = 16  # calcium takes [K, K] times [K, m] per block of K tokens
NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Time constants in s, leaks of H and g in 1/s, and release U of (4), 0 for the linear rule."""

    tau_hidden: float
    tau_last: float
    tau_hebbian: float
    tau_presynaptic: float
    tau_calcium: float
    leak_hebbian: float = 0.0
    leak_presynaptic: float = 0.0
    release: float = 0.0

    @property
    def times(self) -> dict[str, float]:
        """The time constants by their names."""
        return {name: value for name, value in vars(self).items() if name.startswith("tau_")}


class State(NamedTuple):
    """hidden h [m], last l [E], hebbian H [E, m], presynaptic g [m], calcium p []; all float64."""

    hidden: Tensor
    last: Tensor
    hebbian: Tensor
    presynaptic: Tensor
    calcium: Tensor


class Vectors(NamedTuple):
    """A state without the matrix H."""

    hidden: Tensor
    last: Tensor
    presynaptic: Tensor
    calcium: Tensor


class Period(NamedTuple):
    """A time (s) of constant input: r, rates phi [m], and last [E], v if r = 0 and f if r = 1."""

    r: int
    rates: Tensor
    last: Tensor
    seconds: float


class Diverged(ArithmeticError):
    """The state of a network is no longer finite."""


def rest(m: int, n_last: int) -> State:
    """A network of m hidden neurons and n_last in the last layer before its first token."""
    sizes = ((m,), (n_last,), (n_last, m), (m,), ())
    return State(*(torch.zeros(size, dtype=torch.float64) for size in sizes))


def protocol(
    rates_k: Tensor,
    rates_q: Tensor,
    v: Tensor,
    token_seconds: float,
    read_seconds: float,
    causal: bool,
) -> list[Period]:
    """Write all tokens, then read all; or, causal, write and read one after another.

    rates_k and rates_q [T, m], v [T, E], both times in s; no skip connection. ValueError without
    tokens.
    """
    if not len(v):
        raise ValueError("a protocol needs at least 1 token, got 0")
    nothing = torch.zeros_like(v[0])
    writes = [Period(0, rates, value, token_seconds) for rates, value in zip(rates_k, v)]
    reads = [Period(1, rates, nothing, read_seconds) for rates in rates_q]
    return [one for pair in zip(writes, reads) for one in pair] if causal else writes + reads


def derivative(state: State, period: Period, constants: Constants) -> State:
    """Equations (1) to (5), per s."""
    recalled = state.hebbian @ state.hidden if period.r else None
    slopes = _slopes(_vectors(state), recalled, period, constants)
    hebbian = -constants.leak_hebbian * state.hebbian
    if not period.r:
        hebbian += torch.outer(state.last, state.hidden / constants.tau_hebbian)
    return State(hebbian=hebbian, **slopes._asdict())


def runge_kutta(state: State, period: Period, constants: Constants, step_seconds: float) -> State:
    """State at the end of the period by equal steps of Runge and Kutta's method of order 4.

    As many steps as are needed that none is longer than step_seconds. H is linear: up to 16 steps
    of the other variables come first, then what all their stages add to H, as one matrix product.
    Diverged if a state is not finite, ValueError for time constants or times that are not positive.
    """
    _check(constants, period.seconds, step_seconds)
    n_steps = max(1, math.ceil(period.seconds / step_seconds * (1 - 1e-12)))
    step = period.seconds / n_steps
    left, taken, kept = _leaky_stages(constants.leak_hebbian * step)
    vectors, hebbian = _vectors(state), state.hebbian
    for first in range(0, n_steps, STEP_BLOCK):
        n = min(STEP_BLOCK, n_steps - first)
        stages = []
        for i in range(n):
            now = end = vectors
            for stage in range(4):
                stages.append((now.hidden, now.last))
                recalled = hebbian @ now.hidden * (kept**i * left[stage]) if period.r else None
                slopes = _slopes(now, recalled, period, constants)
                end = _moved(end, slopes, step * SHARES[stage])
                if stage < 3:
                    now = _moved(vectors, slopes, step * STAGES[stage + 1, stage])
            vectors = end
        if period.r:
            hebbian = kept**n * hebbian
        else:
            weights = np.outer(kept ** np.arange(n)[::-1], step / constants.tau_hebbian * taken)
            h, last = (torch.stack(part) for part in zip(*stages))
            last *= torch.from_numpy(weights.reshape(-1, 1)).to(last)
            hebbian = torch.addmm(hebbian, last.mT, h, beta=kept**n)
        state = State(hebbian=hebbian, **vectors._asdict())
        _require_finite(state, (first + n) * step, step_seconds, constants)
    return state


def adaptive(state: State, period: Period, constants: Constants, step_seconds: float) -> State:
    """State at the end of the period by Dormand and Prince's method of order 8, rtol 1e-10.

    Its steps are its own, whatever step_seconds is. Errors as of runge_kutta.
    """
    _check(constants, period.seconds, step_seconds)
    sizes = [x.numel() for x in state]

    def packed(parts: State) -> np.ndarray:
        return torch.cat([x.reshape(-1) for x in parts]).numpy()

    def unpacked(values: np.ndarray) -> State:
        parts = torch.from_numpy(values).split(sizes)
        return State(*(part.reshape(x.shape) for part, x in zip(parts, state)))

    slope = derivative(state, period, constants)
    _require_finite(slope, 0.0, step_seconds, constants)
    scales = np.array(
        [float((x.abs() + period.seconds * dx.abs()).max()) for x, dx in zip(state, slope)]
    )
    scales = np.maximum(scales, max(1e-6 * scales.max(), 1e-100))  # of what is 0 only at first
    solution = solve_ivp(
        lambda _, values: packed(derivative(unpacked(values), period, constants)),
        (0.0, period.seconds),
        packed(state),
        method="DOP853",
        t_eval=[period.seconds],
        rtol=1e-10,
        atol=np.repeat(1e-12 * scales, sizes),
    )
    if not solution.success:
        raise Diverged(f"adaptive steps within {period.seconds:.6g} s: {solution.message}")
    end = unpacked(solution.y[:, -1].copy())
    _require_finite(end, period.seconds, step_seconds, constants)
    return end


def exact(state: State, period: Period, constants: Constants, step_seconds: float) -> State:
    """State at the end of the period in closed form, whatever its length.

    Only the last layer has none while reading: it is a Gauss-Legendre quadrature in one dimension.
    Falls to runge_kutta where the terminals saturate, and where calcium is not positive while
    reading. Errors as of runge_kutta.
    """
    _check(constants, period.seconds, step_seconds)
    if period.r == 0 and constants.release == 0:
        return write(state, period.rates[None], period.last[None], period.seconds, constants)
    read = _read(state, period, constants) if period.r == 1 else None
    return runge_kutta(state, period, constants, step_seconds) if read is None else read


INTEGRATORS = {"exact": exact, "runge_kutta": runge_kutta, "adaptive": adaptive}


def write(
    state: State, rates: Tensor, v: Tensor, token_seconds: float, constants: Constants
) -> State:
    """Write K tokens of rates [K, m] and values v [K, E] one after another, in closed form.

    h(0) and l(0) of every token are linear in those of the start and in the tokens before, so that
    H gains one matrix product, [E, K] of recurrent values times the rates. Calcium is followed
    through the last tokens only: of what it gained before, less than rounding is left. Computes in
    the dtype of the rates. ValueError for saturating terminals, and time constants or times that
    are not positive.
    """
    _check(constants, token_seconds)
    if constants.release:
        raise ValueError(
            f"release: got {constants.release}, wanted 0: no closed form if g saturates"
        )
    state = State(*(x.to(rates) for x in state))
    if not len(rates):
        return state
    decay = token_seconds / constants.tau_calcium
    n_forgotten = max(0, len(rates) - _memory_in_tokens(decay, rates.dtype))
    hebbian, g, h, last = _write(state, rates, v.to(rates), n_forgotten, token_seconds, constants)
    calcium = math.exp(-decay * n_forgotten) * state.calcium
    for block in rates[n_forgotten:].split(TOKEN_BLOCK):
        basis = torch.cat([g[None], h[None], block])
        weights = torch.from_numpy(_calcium_form(len(block), token_seconds, constants)).to(basis)
        g, h, *_ = products = weights @ basis
        calcium_gain = torch.tensordot(products[2:], basis)
        calcium = math.exp(-decay * len(block)) * calcium + calcium_gain
    end = State(h, last, hebbian, g, calcium)
    _require_finite(end, token_seconds * len(rates), token_seconds, constants)
    return end


def stability_limit(constants: Constants, highest_rate: float = 0.0) -> float:
    """Longest stable step in s of runge_kutta: 2.785 over the fastest rate of relaxation.

    highest_rate is the highest rate phi, which speeds up terminals that saturate.
    """
    _check(constants)
    filling = constants.release * highest_rate / constants.tau_presynaptic
    return STABLE / max(
        1 / constants.tau_hidden,
        1 / constants.tau_last,
        1 / constants.tau_calcium,
        constants.leak_hebbian,
        constants.leak_presynaptic + filling,
    )


def read_out(hebbian: Tensor, presynaptic: Tensor, rates_q: Tensor) -> tuple[Tensor, Tensor]:
    """Calcium g . phi [T] and output H phi / g . phi [T, E] (0 where p = 0) of a settled network.

    hebbian [E, m], presynaptic [m], rates_q [T, m].
    """
    calcium = rates_q @ presynaptic
    divisor = calcium.masked_fill(calcium == 0, torch.inf)
    return calcium, rates_q @ hebbian.mT / divisor[:, None]


def first_order(rates_k: Tensor, v: Tensor, rates_q: Tensor) -> tuple[Tensor, Tensor]:
    """First-order change per tau / T of what is read, if tau_h = tau_l = tau, written from rest.

    rates_k [K, m], v [K, E], rates_q [T, m]; returns d ln p [T] and d output [T, E]. Expanding C in
    tau: g loses the last key's rates, d g = -phi_K, and H the curvature of the values along the
    stream, d H = sum_i [(v_{i-1} + v_{i+1}) / 2 - v_i] phi_i^T - v_K phi_K^T / 2, with v_0 =
    v_{K+1} = 0. What is left out of H and g is as small as exp(-T / tau).
    """
    values = -v.clone()
    values[1:] += v[:-1] / 2
    values[:-1] += v[1:] / 2
    values[-1] -= v[-1] / 2
    calcium, output = read_out(v.mT @ rates_k, rates_k.sum(0), rates_q)
    relative = -(rates_q @ rates_k[-1]) / calcium
    drive = rates_q @ (values.mT @ rates_k).mT
    return relative, drive / calcium[:, None] - relative[:, None] * output


def runge_kutta_excess(step_seconds: float, tau: float, seconds: float) -> float:
    """Error (s) of runge_kutta in C(0, 2 / tau), an integral of two factors exp(-t / tau).

    The only integral that it gets wrong while writing without leak, apart from exp(-seconds / tau):
    what is linear, int (phi - h) dt = tau_h (h(T) - h(0)), every Runge-Kutta method keeps exactly.
    """
    n = round(seconds / step_seconds)
    left, _, kept = _leaky_stages(step_seconds / tau)  # of each factor
    one = step_seconds * SHARES @ left**2
    return one * (1 - kept ** (2 * n)) / (1 - kept**2) - _overlap(seconds, 0, 2 / tau)


def _vectors(state: State) -> Vectors:
    return Vectors(state.hidden, state.last, state.presynaptic, state.calcium)


def _slopes(
    vectors: Vectors, recalled: Tensor | None, period: Period, constants: Constants
) -> Vectors:
    """Equations (1), (2), (4) and (5), per s; recalled is H h while reading, else None."""
    h, last, g, p = vectors
    if recalled is not None:
        drive = period.last if p == 0 else recalled / p + period.last
        g_slope = -constants.leak_presynaptic * g
    else:
        drive = period.last
        growth = (
            torch.addcmul(h, h, g, value=-1).mul_(constants.release) if constants.release else h
        )
        g_slope = growth / constants.tau_presynaptic
        if constants.leak_presynaptic:
            g_slope -= constants.leak_presynaptic * g
    return Vectors(
        (period.rates - h).div_(constants.tau_hidden),
        (drive - last).div_(constants.tau_last),
        g_slope,
        (g.dot(h) - p).div_(constants.tau_calcium),
    )


def _moved(vectors: Vectors, slopes: Vectors, seconds: float) -> Vectors:
    return Vectors(*(torch.add(x, slope, alpha=seconds) for x, slope in zip(vectors, slopes)))


def _leaky_stages(z: float) -> tuple[np.ndarray, np.ndarray, float]:
    """A step of x' = -z x + s by Runge and Kutta.

    Returns the share of x(0) in each stage, of each s in x, and of x(0) in x.
    """
    solved = np.linalg.inv(np.eye(4) + z * STAGES)
    left = solved.sum(1)
    return left, SHARES @ solved, 1 - z * SHARES @ left


def _write(
    state: State, rates: Tensor, v: Tensor, n_forgotten: int, seconds: float, constants: Constants
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """H after all tokens, g and h after the first n_forgotten, l after all."""
    n, slow, fast = len(v), 1 / constants.tau_hidden, 1 / constants.tau_last
    overlap = functools.partial(_overlap, seconds)
    driven = torch.cat([state.last[None], -math.expm1(-fast * seconds) * v])
    last = _decaying_sum(driven, fast * seconds)  # [K + 1, E], at the bounds of the tokens

    # Each token adds with_phi phi^T + with_b b^T to H, and so to g, whose l is always 1.
    leak, grown = constants.leak_hebbian, 1 / constants.tau_hebbian
    a = last[:-1] - v
    with_phi, with_b = (
        torch.add(grown * overlap(leak, x) * v, a, alpha=grown * overlap(leak, x + fast))
        for x in (0, slow)
    )
    if leak:
        with_phi *= _left(leak * seconds, n, v.dtype)
        with_b *= _left(leak * seconds, n, v.dtype)
    start, taken = _of_rates(with_phi, with_b, slow * seconds)
    kept = math.exp(-leak * seconds * n)
    hebbian = torch.addr(state.hebbian, start, state.hidden, beta=kept).addmm_(taken.mT, rates)

    start, taken = _counted(n_forgotten, seconds, constants, v.dtype)
    kept = math.exp(-constants.leak_presynaptic * seconds * n_forgotten)
    g = kept * state.presynaptic + start * state.hidden + taken @ rates[:n_forgotten]
    recent = min(n_forgotten, _memory_in_tokens(slow * seconds, v.dtype))
    weights = -math.expm1(-slow * seconds) * _left(slow * seconds, recent, v.dtype)[:, 0]
    h = (
        math.exp(-slow * seconds * n_forgotten) * state.hidden
        + weights @ rates[n_forgotten - recent : n_forgotten]
    )
    return hebbian, g, h, last[-1]


@functools.lru_cache(maxsize=16)
def _counted(
    n: int, seconds: float, constants: Constants, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """What g takes of h(0) [1], and of the rates of n tokens [n]."""
    slow, leak = 1 / constants.tau_hidden, constants.leak_presynaptic
    left = _left(leak * seconds, n, torch.float64) / constants.tau_presynaptic
    with_phi, with_b = (_overlap(seconds, leak, x) * left for x in (0, slow))
    start, taken = _of_rates(with_phi, with_b, slow * seconds)
    return start.to(dtype), taken[:, 0].to(dtype)


@functools.lru_cache(maxsize=16)
def _left(exponent: float, n: int, dtype: torch.dtype) -> Tensor:
    """exp(-exponent) to the power of the age of n tokens, oldest first: [n, 1]."""
    ages = torch.arange(n - 1, -1, -1, dtype=torch.float64)
    return torch.exp(-exponent * ages)[:, None].to(dtype)


def _of_rates(with_phi: Tensor, with_b: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    """with_phi . phi + with_b . b of tokens [K, n], b = h - phi, as a sum over h(0) and all phi.

    Returns the factors of h(0) [n] and of each phi [K, n].
    """
    if not len(with_b):
        return with_b.sum(0), with_phi
    after = _decaying_sum(with_b.flip(0), exponent).flip(0)
    taken = with_phi - with_b
    taken[:-1].add_(after[1:], alpha=-math.expm1(-exponent))
    return after[0], taken


def _memory_in_tokens(exponent: float, dtype: torch.dtype) -> int:
    """Number of tokens after which exp(-exponent) per token is below rounding."""
    return math.ceil(-math.log(torch.finfo(dtype).eps) / exponent)


@functools.lru_cache(maxsize=64)
def _calcium_form(n: int, seconds: float, constants: Constants) -> np.ndarray:
    """In the basis x of g, h and n rates: g and h after n tokens, and the form Q of calcium's gain.

    [n + 4, n + 2]; calcium gains x^T Q x. It integrates g . h, products of two sums of
    exponentials.
    """
    slow, leak = 1 / constants.tau_hidden, constants.leak_presynaptic
    own, grown = 1 / constants.tau_calcium, 1 / constants.tau_presynaptic
    overlap = functools.partial(_overlap, seconds)
    unit = np.eye(n + 2)
    phi = unit[2:]
    h = _accumulated(unit[1], -math.expm1(-slow * seconds) * phi, slow * seconds)
    b = h[:-1] - phi
    gain = grown * (overlap(leak, 0) * phi + overlap(leak, slow) * b)
    g = _accumulated(unit[0], gain, leak * seconds)  # [n + 1, n + 2], as h
    kept = own * np.exp(-own * seconds * np.arange(n)[::-1, None])
    both = overlap(own, leak, slow) + overlap(own, leak + slow, slow)
    form = (
        g[:-1].T @ (kept * (overlap(own, leak) * phi + overlap(own, leak + slow) * b))
        + grown * phi.T @ (kept * (overlap(own, leak, 0) * phi + both * b))
        + grown * b.T @ (kept * overlap(own, leak + slow, 2 * slow) * b)
    )
    return np.ascontiguousarray(np.concatenate([g[-1:], h[-1:], form]))


def _read(state: State, period: Period, constants: Constants) -> State | None:
    """State after reading; None where calcium is not always positive, so that 1 / p has a pole."""
    seconds, slow, fast = period.seconds, 1 / constants.tau_hidden, 1 / constants.tau_last
    own, leak = 1 / constants.tau_calcium, constants.leak_presynaptic
    b = state.hidden - period.rates
    drives = [float(state.presynaptic @ period.rates), float(state.presynaptic @ b)]
    start, first_drive = float(state.calcium), drives[0] + drives[1]
    if start <= 0 or min(drives[0], first_drive) < 0:
        return None

    def calcium(t: float) -> float:
        return (
            start * math.exp(-own * t)
            + own * drives[0] * _overlap(t, own, leak)
            + own * drives[1] * _overlap(t, own, leak + slow)
        )

    rise = start * constants.tau_calcium / first_drive if first_drive else math.inf
    times, weights = _panels(
        seconds, min(constants.tau_hidden, constants.tau_calcium, rise), constants.tau_last
    )
    gamma = weights * fast * np.exp(-fast * (seconds - times)) / [calcium(t) for t in times]
    decay = np.exp(-constants.leak_hebbian * times)
    mean_rates = (gamma * decay).sum() * period.rates
    mean_rates += (gamma * decay * np.exp(-slow * times)).sum() * b
    kept = math.exp(-fast * seconds)
    return State(
        period.rates + math.exp(-slow * seconds) * b,
        kept * state.last + (1 - kept) * period.last + state.hebbian @ mean_rates,
        math.exp(-constants.leak_hebbian * seconds) * state.hebbian,
        math.exp(-leak * seconds) * state.presynaptic,
        torch.tensor(calcium(seconds), dtype=torch.float64),
    )


def _panels(seconds: float, from_start: float, from_end: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of a quadrature from 0 to seconds, on panels that double from both ends."""

    def doubling(shortest: float) -> np.ndarray:
        n = max(0, math.ceil(math.log2(seconds / 2 / shortest)))
        return shortest * 2.0 ** np.arange(-1, n)

    edges = np.concatenate([[0, seconds], doubling(from_start), seconds - doubling(from_end)])
    edges = np.unique(edges[(edges >= 0) & (edges <= seconds)])
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + NODES)).ravel(), (half * WEIGHTS).ravel()


def _decaying_sum(x: Tensor, exponent: float) -> Tensor:
    """y_i = x_i + exp(-exponent) y_{i-1} of x [K, n].

    Sums are taken within blocks of sqrt(K), then over blocks.
    """
    n, n_columns = x.shape
    size = math.isqrt(n - 1) + 1
    blocks = torch.nn.functional.pad(x, (0, 0, 0, size**2 - n)).view(size, size, n_columns)
    within = _kernel(exponent, size, x.dtype) @ blocks
    before = _kernel(exponent * size, size, x.dtype)[:-1, :-1] @ within[:-1, -1]
    decay = math.exp(-exponent) * _left(exponent, size, x.dtype).flip(0)
    within[1:].addcmul_(decay, before[:, None])
    return within.view(-1, n_columns)[:n]


@functools.lru_cache(maxsize=16)
def _kernel(exponent: float, n: int, dtype: torch.dtype) -> Tensor:
    """exp(-exponent (i - j)), 0 where j > i: [n, n]."""
    steps = torch.arange(n, dtype=torch.float64)
    return torch.exp(-exponent * (steps[:, None] - steps).clamp(min=0)).tril().to(dtype)


def _accumulated(start: np.ndarray, gains: np.ndarray, exponent: float) -> np.ndarray:
    """x_0 = start [n], x_i = exp(-exponent) x_{i-1} + gains_i of gains [K, n]: [K + 1, n]."""
    kept = math.exp(-exponent)
    later, _ = lfilter([1.0], [1.0, -kept], gains, axis=0, zi=kept * start[None])
    return np.concatenate([start[None], later])


@functools.lru_cache(maxsize=4096)
def _overlap(seconds: float, *rates: float) -> float:
    """Convolution of exp(-rate t) of all the rates, at t = seconds; exact also at equal rates."""
    nodes = sorted(-rate * seconds for rate in rates)
    return seconds ** (len(nodes) - 1) * _divided_difference(nodes)


def _divided_difference(nodes: list[float]) -> float:
    """Divided difference of exp at sorted nodes (de Boor, Surveys in Approximation Theory 2005)."""
    if len(nodes) == 1:
        return math.exp(nodes[0])
    width = nodes[-1] - nodes[0]
    if width > 1:
        return (_divided_difference(nodes[1:]) - _divided_difference(nodes[:-1])) / width
    homogeneous = [1.0] + [0.0] * 20  # symmetric polynomials of degree k of nodes - middle
    middle = nodes[0] + width / 2
    for node in nodes:
        for k in range(1, len(homogeneous)):
            homogeneous[k] += (node - middle) * homogeneous[k - 1]
    order = len(nodes) - 1
    return math.exp(middle) * sum(x / math.factorial(order + k) for k, x in enumerate(homogeneous))


def _require_finite(state: State, time: float, step: float, constants: Constants) -> None:
    if math.isfinite(sum(float(values.sum()) for values in state)):
        return
    for name, values in zip(state._fields, state):
        if not torch.isfinite(values).all():
            raise Diverged(
                f"{name} is not finite {time:.6g} s after the start of the period: got "
                f"step_seconds {step:.6g}, wanted at most {stability_limit(constants):.3g}; "
                "take shorter steps"
            )


def _check(constants: Constants, seconds: float = 1.0, step_seconds: float = 1.0) -> None:
    positive = constants.times | {"seconds": seconds, "step_seconds": step_seconds}
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name}: got {value} s, wanted more than 0")
    for name in ("leak_hebbian", "leak_presynaptic", "release"):
        if not getattr(constants, name) >= 0:
            raise ValueError(f"{name}: got {getattr(constants, name)}, wanted 0 or more")
