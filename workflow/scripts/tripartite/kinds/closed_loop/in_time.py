"""A head in continuous time whose astrocyte's calcium divides its output: writing and reading.

The equations are those of dynamics.py without leaks and saturation, and with calcium C of the model
of Li and Rinzel (calcium.py) that the astrocyte process p drives by IP3:

    (1)  tau_h h' = -h + phi
    (2)  tau_l l' = -l + (1 - r) v + r Gamma H h
    (3)  tau_H H' = (1 - r) l h^T,    (4)  tau_g g' = (1 - r) h,    (5)  tau_p p' = -p + s g . h
    (6)  C' = f(C, n; I),  n' = ...,   I = I_0 + a p

The process is driven in both phases (s = 1), or gated as in the paper's algebra (s = r). The output
is divided by what this simulation drives: Gamma = 1 / p, or Gamma = k C^-gamma. A token
is on for T seconds, while it is written and while it is read.

Within such a period h = phi + b exp(-t / tau_h). So (1), (3), (4) and (5) have closed forms, in
which rates occur only in scalar products: a network of m neurons costs what these products do. What
is left is the two variables of (6), by steps of Runge and Kutta, and (2) while reading, a
convolution of Gamma with exponentials: Gauss-Legendre weights for a parabola through the two ends
and the middle of each step. C in the middle is the cubic of Hermite through values and slopes.

Bidirectional: all tokens are written, then all are read. Causal: every token is read before the
next is written; then the output that is left in l at the end of reading is written as well.

Axes: duration D (T in s), period K = 2 tokens, number of tokens N, query T, node J (2 n + 1 ends
and middles of n steps), value E, division A.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from tripartite import calcium

MODEL = "li_rinzel_nest"
MAX_STEP = 0.25  # s, of calcium, stable to 0.4: no state relaxes faster than 6.6 / s
ORDERS = ("bidirectional", "causal")
POINTS, SHARES = np.polynomial.legendre.leggauss(12)


@dataclass(frozen=True, kw_only=True)
class Times:
    """Time constants in s; tau_calcium is that of the process p."""

    tau_hidden: float
    tau_last: float
    tau_hebbian: float
    tau_presynaptic: float
    tau_calcium: float


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which token is on in each period [K], among keys (0 to N - 1) and queries (N to 2 N - 1)."""

    rates: np.ndarray
    writes: np.ndarray  # [K], true where the token is written

    @property
    def reads(self) -> np.ndarray:
        """The periods in which queries are read, in their order [T]."""
        return np.flatnonzero(~self.writes)


def schedule(n_tokens: int, order: str) -> Schedule:
    """Periods of an order: bidirectional or causal."""
    every = np.arange(2 * n_tokens)
    rates = every.reshape(2, n_tokens).T.ravel() if order == "causal" else every
    return Schedule(rates=rates, writes=rates < n_tokens)


# Hidden layer and process, in closed form.


@dataclass(frozen=True, kw_only=True)
class Products:
    """Scalar products of what stands in the periods of a schedule.

    kernel [K, K] is phi_k . phi_l; of_b [D, K, K] b_k . phi_l; both_b [D, K, K] b_k . b_l.
    """

    kernel: np.ndarray
    of_b: np.ndarray
    both_b: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Process:
    """p at the beginning of each period [D, K], and its drives [D, K, 5], as of `parts`."""

    start: np.ndarray
    drive: np.ndarray


def products(kernel: np.ndarray, plan: Schedule, seconds: np.ndarray, times: Times) -> Products:
    """Scalar products in a network with the kernel phi_i . phi_j [2 N, 2 N].

    The first N are keys, the others queries; seconds [D].
    """
    kernel = kernel[np.ix_(plan.rates, plan.rates)]
    of_b, both_b = (np.empty((len(seconds), *kernel.shape)) for _ in range(2))
    for i, kept in enumerate(np.exp(-seconds / times.tau_hidden)):
        of_b[i] = relaxed(kernel, kept, 0) - kernel  # b = h - phi
        both_b[i] = relaxed(of_b[i], kept, 1) - of_b[i]
    return Products(kernel=kernel, of_b=of_b, both_b=both_b)


def process(
    network: Products, plan: Schedule, seconds: np.ndarray, times: Times, gated: bool
) -> Process:
    """The astrocyte process p of a network that is at rest before its first token."""
    kernel, of_b, both_b = network.kernel, network.of_b, network.both_b
    lag = lost(times.tau_hidden, seconds)[:, None, None]
    written = written_before(plan)
    span = seconds[:, None, None]
    unit = times.tau_presynaptic
    g_phi = (written * (span * kernel + lag * of_b)).sum(1) / unit  # [D, K], g . phi
    g_b = (written * (span * of_b.swapaxes(1, 2) + lag * both_b)).sum(1) / unit
    phi, cross, b = (x.diagonal(axis1=-2, axis2=-1) for x in (kernel, of_b, both_b))
    tau, nothing = times.tau_hidden, np.zeros_like(g_phi)
    while_written = (
        g_phi + tau / unit * cross,
        phi / unit + nothing,
        g_b + tau / unit * (b - cross),
        cross / unit,
        -tau / unit * b,
    )
    if gated:
        while_written = (nothing,) * 5
    while_read = (g_phi, nothing, g_b, nothing, nothing)
    drive = np.where(plan.writes[:, None], np.stack(while_written, -1), np.stack(while_read, -1))
    start = np.empty_like(g_phi)
    for i, (kept, gains) in enumerate(parts(seconds[:, None], times)):
        start[i] = lfilter([0.0, 1.0], [1.0, -kept[0]], drive[i] @ gains[:, 0])
    return Process(start=start, drive=drive)


def relaxed(x: np.ndarray, kept: float, axis: int) -> np.ndarray:
    """h at the beginning of each period, of inputs x along an axis: h' = kept h + (1 - kept) x."""
    return lfilter([0.0, 1 - kept], [1.0, -kept], x, axis=axis)


def lost(tau: float, seconds: np.ndarray) -> np.ndarray:
    """Integral (s) of exp(-t / tau) over each of the seconds."""
    return -tau * np.expm1(-seconds / tau)


def written_before(plan: Schedule) -> np.ndarray:
    """True where period k [K, first axis] wrote before period l began."""
    return plan.writes[:, None] & np.triu(np.ones((len(plan.writes),) * 2, dtype=bool), 1)


def parts(at: np.ndarray, times: Times) -> list[tuple[np.ndarray, np.ndarray]]:
    """What p keeps of its start [J], and takes of its drives [5, J], at times [D, J] of a period.

    The drives are 1, t, e, t e, e^2 with e = exp(-t / tau_h), convolved with exp(-t / tau_p).
    ValueError where tau_p is tau_h or its half, for which the formulas have no value.
    """
    own, slow = 1 / times.tau_calcium, 1 / times.tau_hidden
    if min(abs(own - slow), abs(own - 2 * slow)) < 1e-6 * own:
        raise ValueError(f"tau_calcium: got {times.tau_calcium} s, tau_hidden or half of it")
    found = []
    for t in at:
        kept = np.exp(-own * t)

        def convolved(rate: float, t: np.ndarray = t, kept: np.ndarray = kept) -> np.ndarray:
            return own * (np.exp(-rate * t) - kept) / (own - rate)

        gap = own - slow
        twice = (own * t * np.exp(-slow * t) - convolved(slow)) / gap
        linear = t - times.tau_calcium * convolved(0.0)
        gains = (convolved(0.0), linear, convolved(slow), twice, convolved(2 * slow))
        found.append((kept, np.stack(gains)))
    return found


# Calcium.


def grid(seconds: np.ndarray, times: Times, longest: float = MAX_STEP) -> np.ndarray:
    """Ends of equally many steps of each duration [D, n + 1] (s), short at both of its ends.

    Steps double from both ends, from a fraction of the time constants there; the longest ones are
    halved until none is longer than `longest`, and until there are as many for every duration.
    """
    found = []
    for span in seconds:
        begin, end = min(times.tau_hidden, times.tau_calcium) / 4, times.tau_last / 4
        doubling = 2.0 ** np.arange(64)
        first, last = (x[x < span / 2] for x in (begin * doubling, end * doubling))
        found.append(sorted({0.0, *first, span / 2, *(span - last), span}))
        while np.diff(found[-1]).max() > longest:
            halve(found[-1])
    n_edges = max(len(edges) for edges in found)
    for edges in found:
        while len(edges) < n_edges:
            halve(edges)
    return np.array(found)


def halve(edges: list[float]) -> None:
    """Put an edge into the middle of the longest step."""
    i = int(np.diff(edges).argmax())
    edges.insert(i + 1, (edges[i] + edges[i + 1]) / 2)


def nodes(edges: np.ndarray) -> np.ndarray:
    """Ends and middles [D, 2 n + 1] of steps."""
    found = np.empty((len(edges), 2 * edges.shape[1] - 1))
    found[:, ::2] = edges
    found[:, 1::2] = (edges[:, 1:] + edges[:, :-1]) / 2
    return found


def at_nodes(of_network: Process, plan: Schedule, form: list) -> np.ndarray:
    """p [D, T, J] at the nodes of the periods in which queries are read; form as of `parts`."""
    start, drive = of_network.start[:, plan.reads], of_network.drive[:, plan.reads]
    return np.stack(
        [np.outer(p, kept) + x @ gains for p, x, (kept, gains) in zip(start, drive, form)]
    )


def stimuli(
    networks: Sequence[Process], drives: Sequence[np.ndarray], period: int, form: list
) -> np.ndarray:
    """IP3 beyond rest [J, D, network] (uM) in a period; `form` is that of `parts`.

    Networks that have fewer periods stay in their last one. All receptors are bound at 1000 uM, and
    more is not given.
    """
    here = [min(period, x.start.shape[1] - 1) for x in networks]
    start = np.stack([a * x.start[:, k] for a, x, k in zip(drives, networks, here)])  # [n, D]
    drive = np.stack([a[:, None] * x.drive[:, k] for a, x, k in zip(drives, networks, here)])
    found = [
        kept[:, None] * start[:, i] + gains.T @ drive[:, i].T
        for i, (kept, gains) in enumerate(form)
    ]
    return np.minimum(np.stack(found, 1), calcium.MAX_STIMULUS)


def rests(ip3: np.ndarray) -> np.ndarray:
    """Whether calcium comes to rest at IP3 [k] (uM)."""
    return np.isfinite(calcium.resting(MODEL, np.minimum(ip3, calcium.MAX_STIMULUS))[0])


def driven(
    networks: Sequence[Process],
    plans: Sequence[Schedule],
    drives: Sequence[np.ndarray],
    at_rest: float,
    edges: np.ndarray,
    times: Times,
) -> list[np.ndarray]:
    """Calcium (uM) [D, T, J] of each network at the nodes of the periods in which it reads.

    drives a [D] (uM) turn p into IP3, at_rest is I_0 (uM). Calcium begins at rest.
    """
    form = parts(nodes(edges), times)
    steps = np.diff(edges).T[:, :, None]  # [n, D, 1]
    n_nodes = 2 * len(steps) + 1
    resting = calcium.curve(MODEL, calcium.resting(MODEL, at_rest)[0][0])[1]
    shape = (2, len(edges), len(networks))
    state = np.broadcast_to(resting[:, None, None], shape)
    found = [np.empty((len(edges), len(plan.reads), n_nodes)) for plan in plans]
    values = np.empty((n_nodes, *shape[1:]))
    for period in range(max(len(plan.writes) for plan in plans)):
        ip3 = at_rest + stimuli(networks, drives, period, form)
        slope = calcium.rates_of_change(MODEL, state, ip3[0])
        for i, step in enumerate(steps):
            values[2 * i] = state[0]
            new = stepped(state, slope, ip3[2 * i + 1 : 2 * i + 3], step)
            new_slope = calcium.rates_of_change(MODEL, new, ip3[2 * i + 2])
            between = (state[0] + new[0]) / 2 + step / 8 * (slope[0] - new_slope[0])
            values[2 * i + 1] = between
            state, slope = new, new_slope
        values[-1] = state[0]
        for place, (own, plan) in enumerate(zip(found, plans)):
            if period < len(plan.writes) and not plan.writes[period]:
                own[:, np.searchsorted(plan.reads, period)] = values[:, :, place].T
    return found


def stepped(state: np.ndarray, slope: np.ndarray, ip3: np.ndarray, step: np.ndarray) -> np.ndarray:
    """State after a step of Runge and Kutta; ip3 [2, ...] in its middle and at its end."""
    total = slope.copy()
    for share, weight, stimulus in ((0.5, 2, ip3[0]), (0.5, 2, ip3[0]), (1.0, 1, ip3[1])):
        slope = calcium.rates_of_change(MODEL, state + share * step * slope, stimulus)
        total += weight * slope
    return state + step / 6 * total


# Last layer.


def weights(edges: np.ndarray, times: Times) -> np.ndarray:
    """Weights [2, D, J] of Gamma at the nodes in l at the end of a period.

    l takes H phi times the first sum and H b times the second: of exp(-(T - t) / tau_l) / tau_l,
    and of the same times exp(-t / tau_h).
    """
    found = np.zeros((2, len(edges), 2 * edges.shape[1] - 1))
    x = (1 + POINTS) / 2  # of a step
    shapes = np.stack([(2 * x - 1) * (x - 1), 4 * x * (1 - x), x * (2 * x - 1)])
    for i, ends in enumerate(edges):
        width = np.diff(ends)[:, None]
        t = ends[:-1, None] + width * x
        kernel = np.exp((t - ends[-1]) / times.tau_last) / times.tau_last * width * SHARES / 2
        for row, weight in zip(found[:, i], (kernel, kernel * np.exp(-t / times.tau_hidden))):
            of_step = weight @ shapes.T  # [n, 3]
            row[:-1:2] += of_step[:, 0]
            row[1::2] += of_step[:, 1]
            row[2::2] += of_step[:, 2]
    return found


@np.errstate(over="ignore", invalid="ignore")  # a causal network may run away
def outputs(
    network: Products,
    plan: Schedule,
    v: np.ndarray,
    gains: np.ndarray,
    seconds: np.ndarray,
    times: Times,
) -> tuple[np.ndarray, np.ndarray]:
    """Output l [D, A, T, E] at the end of reading each query, and H phi [D, A, T, E] there.

    v [N, E]; gains [2, D, A, T] are sums of Gamma as of `weights`.
    """
    n_divisions, n_values = gains.shape[2], v.shape[1]
    keys = plan.rates[plan.writes]
    rows = np.flatnonzero(plan.writes)
    kept = np.exp(-seconds / times.tau_last)[:, None, None]  # [D, 1, 1]
    of_last, of_hidden = (lost(tau, seconds) for tau in (times.tau_last, times.tau_hidden))
    both = times.tau_hidden * times.tau_last / (times.tau_hidden + times.tau_last)
    spans = np.array([[seconds, of_last], [of_hidden, lost(both, seconds)]]) / times.tau_hebbian
    spans = spans[:, :, :, None, None]  # [of phi or b, of v or l - v, D, 1, 1]
    last = np.zeros((len(seconds), n_divisions, n_values))
    with_phi, with_b = (np.zeros((*last.shape[:2], len(keys), n_values)) for _ in range(2))
    found, recalled = (np.empty((*last.shape[:2], len(plan.reads), n_values)) for _ in range(2))
    n_written = n_read = 0
    for period, writes in enumerate(plan.writes):
        if writes:
            value = v[keys[n_written]]
            left = last - value
            with_phi[:, :, n_written] = spans[0, 0] * value + spans[0, 1] * left
            with_b[:, :, n_written] = spans[1, 0] * value + spans[1, 1] * left
            last = value + kept * left
            n_written += 1
            continue
        before = rows[:n_written]
        phi_phi = network.kernel[before, period]  # [L]
        b_phi = network.of_b[:, before, period]  # [D, L]
        phi_b, b_b = network.of_b[:, period, before], network.both_b[:, before, period]
        x, y = with_phi[:, :, :n_written], with_b[:, :, :n_written]
        drive = phi_phi @ x + np.matmul(b_phi[:, None, None], y)[:, :, 0]
        rest = np.matmul(phi_b[:, None, None], x)[:, :, 0]
        rest += np.matmul(b_b[:, None, None], y)[:, :, 0]
        of_phi, of_b = gains[:, :, :, n_read, None]
        last = kept * last + of_phi * drive + of_b * rest
        found[:, :, n_read], recalled[:, :, n_read] = last, drive
        n_read += 1
    return found, recalled
