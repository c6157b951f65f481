"""One network that reads several inputs, and what each way to divide makes of its output.

A cell is one network in one order with one drive of its process. Its first inputs calibrate: there
the mean normaliser adds `depth` to IP3, and there the readouts of calcium are fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tripartite.kinds.closed_loop import division, in_time
from tripartite.kinds.closed_loop.division import DIVISIONS
from tripartite.kinds.closed_loop.in_time import Process, Schedule, Times, schedule

DRIVES = ("gated", "ungated")
# ASSUME: p in units of the mean normaliser below which the output is not raised further.
MIN_PROCESS = 1e-4
MAX_LOG = 650.0  # of a gain
MAX_ERROR = 1e70  # relative; a causal network that writes what it has read may run away
SIMULATED = DIVISIONS[2:]  # the algebra is not


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input as one network sees it in one order; N tokens."""

    kernel: np.ndarray  # [2 N, 2 N], phi_i . phi_j of keys and queries
    v: np.ndarray  # [N, E]
    exact: np.ndarray  # [N, E], of softmax attention
    order: str
    drive: str
    log_unit: float  # ln of the normaliser that a product of rates of 1 stands for

    @property
    def plan(self) -> Schedule:
        return schedule(len(self.v), self.order)

    def algebra(self) -> tuple[np.ndarray, np.ndarray]:
        """Normaliser [N] and output [N, E] without time constants; no output where it is 0."""
        n = len(self.v)
        attention = self.kernel[n:, :n]
        attention = np.tril(attention) if self.order == "causal" else attention
        normalizer = attention.sum(1)
        divisor = np.where(normalizer > 0, normalizer, np.inf)
        return normalizer, attention @ self.v / divisor[:, None]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How long tokens are on (s) [D], time constants, and IP3 at rest and what is added (uM)."""

    seconds: np.ndarray
    times: Times
    at_rest: float
    depth: float
    max_step: float = in_time.MAX_STEP

    @property
    def edges(self) -> np.ndarray:
        return in_time.grid(self.seconds, self.times, self.max_step)

    @property
    def growth(self) -> np.ndarray:
        """g after a token with a rate of 1 [D]."""
        return self.seconds / self.times.tau_presynaptic


@dataclass(frozen=True, kw_only=True)
class Driven:
    """An input with what its network drives.

    process: p; gain: what turns it into IP3 (uM) [D]; calcium (uM) [D, N, J] at the nodes of the
    periods in which queries are read.
    """

    input: Input
    process: Process
    gain: np.ndarray
    calcium: np.ndarray


def driven(
    cells: Sequence[Sequence[Input]], n_calibrating: int, protocol: Protocol
) -> list[list[Driven]]:
    """What each cell drives with each of its inputs, [cell][input]."""
    seconds, times = protocol.seconds, protocol.times
    processes, gains = [], []
    for cell in cells:
        mean = np.concatenate([x.algebra()[0] for x in cell[:n_calibrating]]).mean()
        for x in cell:
            network = in_time.products(x.kernel, x.plan, seconds, times)
            gated = x.drive == "gated"
            processes.append(in_time.process(network, x.plan, seconds, times, gated))
            gains.append(protocol.depth / protocol.growth / (mean or np.inf))
    every = [x for cell in cells for x in cell]
    plans = [x.plan for x in every]
    found = in_time.driven(processes, plans, gains, protocol.at_rest, protocol.edges, times)
    parts = zip(every, processes, gains, found)
    flat = iter([Driven(input=x, process=p, gain=a, calcium=c) for x, p, a, c in parts])
    return [[next(flat) for _ in cell] for cell in cells]


def of_cell(cell: Sequence[Driven], n_calibrating: int, protocol: Protocol) -> dict:
    """What the ways to divide make of the outputs of a cell.

    Of all inputs after those that calibrate, errors and variances (of the log gain over queries)
    [input, division, D] and at_rest [input], the share of queries at whose settled IP3 calcium
    rests. Of the first of them, error and log_gain [division, D, N], calcium [D, N] at the end of
    reading (uM) and ip3 [N], settled (uM). powers [D] are the fitted gamma.
    """
    weights = in_time.weights(protocol.edges, protocol.times)
    form = in_time.parts(in_time.nodes(protocol.edges), protocol.times)
    readouts, scale = calibrated(cell[:n_calibrating], protocol, form, weights)
    tested = [
        of_input(one, readouts, scale, protocol, form, weights) for one in cell[n_calibrating:]
    ]
    first = tested[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "errors": np.array([np.sqrt(x["error_square"].mean(-1)) for x in tested]),
            "variances": np.array([x["log_gain"].var(-1) for x in tested]),
            "powers": readouts["calcium_fitted"][1],
            "error": np.sqrt(first["error_square"]) / first["size"],
            "log_gain": first["log_gain"],
            "calcium": cell[n_calibrating].calcium[:, :, -1],
            "ip3": first["ip3"],
            "at_rest": np.array([in_time.rests(x["ip3"]).mean() for x in tested]),
        }


def of_input(
    one: Driven, readouts: dict, scale: float, protocol: Protocol, form: list, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Squared error of the output and log gain [division, D, N], size and settled IP3 [N] (uM).

    Errors and sizes of the exact output are in units of its root mean square over queries.
    """
    x, plan = one.input, one.input.plan
    normalizer, algebra = x.algebra()
    log_c, shape = np.log(one.calcium), (-1, 1, 1)
    constant = x.log_unit - np.log(len(x.v) * protocol.growth)  # weights of 1 / N
    of_unit = {"unit": (constant, 0 * constant)}
    gammas = [gamma_process(one, protocol.depth, form)]
    for name in SIMULATED[1:]:
        log_k, power = (part.reshape(shape) for part in (readouts | of_unit)[name])
        gammas.append(np.exp(np.clip(log_k - power * log_c, -MAX_LOG, MAX_LOG)))
    sums = np.stack([np.einsum("wdj,dnj->wdn", weights, gamma) for gamma in gammas], 2)
    network = in_time.products(x.kernel, plan, protocol.seconds, protocol.times)
    outputs, _ = in_time.outputs(network, plan, x.v, sums, protocol.seconds, protocol.times)
    both = np.stack([algebra, scale * algebra])[:, None]  # [2, 1, N, E]
    both = np.broadcast_to(both, (2, *outputs[:, 0].shape))
    outputs = np.concatenate([both, outputs.swapaxes(0, 1)])
    size = np.linalg.norm(x.exact) / len(x.exact) ** 0.5 or np.nan
    relative = np.clip((outputs - x.exact) / size, -MAX_ERROR, MAX_ERROR)
    with np.errstate(divide="ignore"):
        log_gain = np.log(sums[0].swapaxes(0, 1) * protocol.growth[:, None] * normalizer)
    scales = np.broadcast_to(np.log([1.0, scale])[:, None, None], (2, *log_gain.shape[1:]))
    return {
        "error_square": np.square(relative).sum(-1),
        "size": np.linalg.norm(x.exact, axis=1) / size,
        "log_gain": np.concatenate([scales, log_gain]),
        "ip3": protocol.at_rest + one.gain[0] * protocol.growth[0] * normalizer,
    }


def calibrated(
    cell: Sequence[Driven], protocol: Protocol, form: list, weights: np.ndarray
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], float]:
    """ln k and gamma [D] of each readout of calcium, and the best factor of the algebra.

    H phi at the end of each query is that of synapses that were written while 1 / p divided.
    """
    sums, of_algebra = [], []
    for one in cell:
        x, plan = one.input, one.input.plan
        gamma = gamma_process(one, protocol.depth, form)
        gains = np.einsum("wdj,dnj->wdn", weights, gamma)[:, :, None]
        network = in_time.products(x.kernel, plan, protocol.seconds, protocol.times)
        _, drive = in_time.outputs(network, plan, x.v, gains, protocol.seconds, protocol.times)
        drive = drive[:, 0]
        along, square = (drive * x.exact).sum(-1), np.square(drive).sum(-1)
        sums.append((np.log(one.calcium[:, :, -1]), along, square))
        output = x.algebra()[1]
        of_algebra.append(((output * x.exact).sum(-1), np.square(output).sum(-1)))
    log_c, along, square = (np.concatenate(x, 1) for x in zip(*sums))  # [D, queries]
    durations = [division.fitted(*x) for x in zip(log_c, along, square)]
    readouts = {
        name: (np.array([x[name][0] for x in durations]), np.array([x[name][1] for x in durations]))
        for name in durations[0]
    }
    return readouts, division.least_squares(*map(np.concatenate, zip(*of_algebra)))[0]


def gamma_process(one: Driven, depth: float, form: list) -> np.ndarray:
    """1 / p [D, N, J], or 1 / p_min where p is less: a gated process begins at 0."""
    process = in_time.at_nodes(one.process, one.input.plan, form)
    gain = np.where(one.gain > 0, one.gain, np.finfo(float).tiny)[:, None, None]
    return 1 / np.maximum(process, MIN_PROCESS * depth / gain)
