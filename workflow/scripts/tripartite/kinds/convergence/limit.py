"""The limit of short time constants: errors of continuous time, of Runge-Kutta, and their laws.

All tokens of an input are written from rest, then all queries are read one after another, each for
T = 1 s, with tau_hidden = tau_last = tau_calcium = tau = ratio T. What the last layer and calcium
are at the end of each query is compared with the algebra. Writing is in closed form (dynamics.py).
So is reading, as H and g stay as they are: with z = g . phi and W = H phi of a query, and with the
drives u and w of the process and of the last layer, g . h and H h, at its start (x = t / tau),

    p(x)    = z + [(p(0) - z) + (u - z) x] e^-x
    l(X)    = e^-X l(0) + W int_0^X e^(x - X) / p(x) dx + (w - W) e^-X int_0^X dx / p(x),

X = T / tau, where the two integrals are quadratures. Writing makes an error of first order in the
ratio, reading one of exp(-1 / ratio), which is beyond all orders: if l, p and the drives had
settled on the query before,

    l(X) - o ~ e^-X {l(0) - o + [X (w - W) - o (X (p(0) - z) + X^2 / 2 (u - z))] / z},   o = W / z,

but for a constant times e^-X, which is small where neighbouring queries differ little.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tripartite import dynamics
from tripartite.attention import relative_error
from tripartite.network import Hidden, rates
from tripartite.statistics import over_seeds

MAX_RATIO = 0.03  # up to here the output error is of first order in the ratio
MIN_ERROR = 1e-12  # errors below are rounding errors
MIN_RISE = 1e-9  # least share of calcium at the start of a query that is followed
MAX_MEMORY = 80.0  # time constants, of which exp(-x) is left
MAX_TOKENS, MAX_NEURONS = 8, 256  # of a network on which Runge-Kutta's method is tried


class Activity(NamedTuple):
    """What a network is driven with: rates of queries and of keys [T, m], and values [T, E].

    Rates of query t are in units of exp(log_unit_t) [T] times that of all keys.
    """

    rates_q: Tensor
    rates_k: Tensor
    v: Tensor
    log_unit: Tensor


def activity(hidden: Hidden, q: Tensor, k: Tensor, v: Tensor) -> Activity:
    """Rates of hidden neurons over the highest one of each query, and over that of all keys."""
    log_q, log_k = (rates(hidden, x, len(hidden.bias))[0] for x in (q, k))
    highest_q, highest_k = log_q.amax(1, keepdim=True), log_k.max()
    rates_q, rates_k = torch.exp(log_q - highest_q), torch.exp(log_k - highest_k)
    return Activity(rates_q, rates_k, v, highest_q[:, 0] - highest_k)


def constants_of(ratio: float) -> dynamics.Constants:
    """T is 1 s: ratio = tau_hidden / T = tau_last / T = tau_calcium / T."""
    return dynamics.Constants(
        tau_hidden=ratio, tau_last=ratio, tau_hebbian=1.0, tau_presynaptic=1.0, tau_calcium=ratio
    )


def read_out_errors(network: Activity, ratios: np.ndarray) -> np.ndarray:
    """Errors of output, calcium and reading, each followed by its law: [6, ratio] on an input.

    That of the output is |O - O_0| / |O_0|, that of calcium the median of |p / p_0 - 1| over
    queries; that of reading compares the output with what the algebra reads from the same H and g.
    dynamics.Diverged, which names the ratio, where a state is not finite.
    """
    rates_q, rates_k, v, log_unit = network
    calcium, output = dynamics.read_out(v.mT @ rates_k, rates_k.sum(0), rates_q)
    change_p, change_o = dynamics.first_order(rates_k, v, rates_q)
    law_o, law_p = float(change_o.norm() / output.norm()), _median(change_p)
    rest = dynamics.rest(rates_k.shape[1], v.shape[1])
    errors = []
    for ratio in ratios:
        try:
            written = dynamics.write(rest, rates_k, v, 1.0, constants_of(ratio))
        except dynamics.Diverged as error:
            raise dynamics.Diverged(f"ratios: {ratio:g}: {error}") from None
        settled = dynamics.read_out(written.hebbian, written.presynaptic, rates_q)[1]
        p, o, law_reading = read(written, rates_q, log_unit, ratio)
        error_p, error_o = _median(p / calcium - 1), float(relative_error(o, output))
        reading = float(relative_error(o, settled)), float(law_reading.norm() / settled.norm())
        errors.append([error_o, ratio * law_o, error_p, ratio * law_p, *reading])
    return np.array(errors).T


def read(
    written: dynamics.State, rates_q: Tensor, log_unit: Tensor, ratio: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Calcium [T] and last layer [T, E] at the end of each query, and the law of its error [T, E].

    Queries of rates [T, m] are read in turn from the state that was written, as in the header.
    Rates of query t are in units of exp(log_unit_t) times that of the rates that were written, and
    calcium in that unit.
    """
    seconds = 1 / ratio  # X
    kept = math.exp(-seconds)
    z, drive = rates_q @ written.presynaptic, rates_q @ written.hebbian.mT
    units = torch.exp(-torch.diff(log_unit, prepend=torch.zeros(1).to(log_unit)))
    u, p = written.presynaptic @ written.hidden, written.calcium
    w = written.hebbian @ written.hidden
    starts, ends = [], []
    for unit, z_t, drive_t in zip(units, z, drive):
        u, w, p = unit * u, unit * w, unit * p
        starts.append((u, w, p))
        p = z_t + kept * ((p - z_t) + (u - z_t) * seconds)
        u, w = z_t + kept * (u - z_t), drive_t + kept * (w - drive_t)
        ends.append(p)
    u, w, p = (torch.stack(x) for x in zip(*starts))
    late, early = _integrals(z, u, p, seconds)
    gained = late[:, None] * drive + early[:, None] * (w - drive)
    last, output = written.last, []
    for gain in gained:
        last = kept * last + gain
        output.append(last)
    last = torch.stack([written.last, *output[:-1]])
    o = drive / z[:, None]
    share = seconds * (w - drive) - o * (seconds * (p - z) + seconds**2 / 2 * (u - z))[:, None]
    law = kept * (last - o + share / z[:, None])
    return torch.stack(ends), torch.stack(output), law


def _integrals(z: Tensor, u: Tensor, p: Tensor, seconds: float) -> tuple[Tensor, Tensor]:
    """int_0^X e^(x - X) / p(x) dx and e^-X int_0^X dx / p(x) [T] of the header, X = seconds.

    Gauss and Legendre's quadrature over y = X - x on panels that double from both ends; 0 where p
    is.
    """
    longest = min(seconds, MAX_MEMORY)
    rise = float((p / torch.maximum(torch.maximum(z, u), p)).nan_to_num(1).min())

    def doubling(shortest: float) -> np.ndarray:
        return shortest * 2.0 ** np.arange(max(1, math.ceil(math.log2(longest / shortest))))

    ends = [0, longest, *doubling(0.5)]
    if longest == seconds:
        ends += [*(seconds - doubling(min(max(rise, MIN_RISE), 0.5)))]
    edges = np.unique([edge for edge in ends if 0 <= edge <= longest])
    half = torch.from_numpy(np.diff(edges))[:, None] / 2
    nodes, weights = (torch.from_numpy(x) for x in (dynamics.NODES, dynamics.WEIGHTS))
    y = (torch.from_numpy(edges[:-1])[:, None] + half * (1 + nodes)).reshape(-1)
    x = seconds - y
    calcium = z[:, None] + ((p - z)[:, None] + (u - z)[:, None] * x) * torch.exp(-x)
    inverse = (half * weights).reshape(-1) / calcium.masked_fill(calcium <= 0, torch.inf)
    return inverse @ torch.exp(-y), inverse.sum(1) * math.exp(-seconds)


def _median(errors: Tensor) -> float:
    return float(np.median(errors.abs().numpy()))


def integrator_errors(network: Activity, ratio: float, steps: np.ndarray) -> np.ndarray:
    """Relative error of Runge-Kutta's method against the closed form, and its law [2, step].

    It is the larger one of the errors of H and g, after the first tokens and in the first neurons;
    NaN for steps that are not stable. The law leaves out what is as small as exp(-1 / ratio).
    """
    v, rates_k = network.v[:MAX_TOKENS], network.rates_k[:MAX_TOKENS, :MAX_NEURONS]
    constants, rest = constants_of(ratio), dynamics.rest(rates_k.shape[1], v.shape[1])
    exact = dynamics.write(rest, rates_k, v, 1.0, constants)
    change_v, change_k = (
        torch.diff(x, dim=0, prepend=torch.zeros_like(x[:1])) for x in (v, rates_k)
    )
    coefficient = float((change_v.mT @ change_k).norm() / exact.hebbian.norm())
    errors = np.full((2, len(steps)), np.nan)
    for i, n in enumerate(steps):
        if 1 / n > dynamics.stability_limit(constants):
            continue
        state = rest
        for rate, value in zip(rates_k, v):
            period = dynamics.Period(0, rate, value, 1.0)
            state = dynamics.runge_kutta(state, period, constants, 1 / n)
        measured = (
            relative_error(state.hebbian, exact.hebbian),
            relative_error(state.presynaptic, exact.presynaptic),
        )
        law = coefficient * abs(dynamics.runge_kutta_excess(1 / n, ratio, 1.0))
        errors[:, i] = max(map(float, measured)), law
    return errors


# Statistics over seeds.


def mean_over_seeds(values: np.ndarray, scale: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the last axis, which is seeds, with its interval."""
    return over_seeds(lambda x: x.mean(0), np.moveaxis(values, -1, 0), scale)


def exponents(x: np.ndarray, errors: np.ndarray, points: str) -> tuple[np.ndarray, str]:
    """Exponent of errors [point, seed] in x [point], per seed; or NaN and why there is none.

    points says in that note what the points are.
    """
    nothing = np.full(errors.shape[1], np.nan)
    usable = (errors > MIN_ERROR).all(1)
    if len(x) < 2:
        return nothing, f"{len(x)} {points}, 2 needed"
    if not np.isfinite(errors).all():
        return nothing, "an output is 0, or a query has no response"
    if usable.sum() < 2:
        return nothing, f"{usable.sum()} of {len(x)} errors are beyond rounding, 2 needed"
    falling = np.flatnonzero(usable)[np.argsort(-x[usable])]  # so that sums have one order
    log_x, log_error = np.log(x[falling]), np.log(errors[falling])
    return (log_x - log_x.mean()) @ log_error / np.square(log_x - log_x.mean()).sum(), ""


def of_networks(errors: np.ndarray, ratios: np.ndarray) -> list[dict]:
    """Means over seeds of each head, and slopes of the output error in the ratio.

    errors [head, 6, ratio, n_features, seed] as of read_out_errors.
    """
    small = ratios <= MAX_RATIO
    words = f"ratios of at most {MAX_RATIO}"
    fitted = [
        [exponents(ratios[small], of_size, words) for of_size in of_head[0, small].swapaxes(0, 1)]
        for of_head in errors
    ]
    per_seed = np.array([[slope for slope, _ in of_head] for of_head in fitted])
    slopes = zip(*mean_over_seeds(per_seed, "linear"))
    results = []
    for of_head, slope, notes in zip(errors, slopes, fitted):
        middle, low, high = mean_over_seeds(of_head, "log")
        results.append(
            {
                "output_error": (middle[0], low[0], high[0]),
                "output_error_law": middle[1],
                "calcium_error": (middle[2], low[2], high[2]),
                "calcium_error_law": middle[3],
                "reading_error": (middle[4], low[4], high[4]),
                "reading_error_law": middle[5],
                "slope": slope,
                "slope_note": [note for _, note in notes],
            }
        )
    return results


def of_integrator(errors: np.ndarray, steps: np.ndarray, ratio: float) -> dict:
    """Means of errors [2, step, seed] as of integrator_errors, and the order of the method.

    The order shows where steps are below the time constant.
    """
    fine = 1 / steps <= ratio
    words = f"steps of at most {ratio:g} T"
    (order, note), (order_law, _) = (exponents(1 / steps[fine], x[fine], words) for x in errors)
    return {
        "integrator_error": mean_over_seeds(errors[0], "log"),
        "integrator_error_law": errors[1].mean(-1),
        "integrator_ratio": ratio,
        "integrator_order": mean_over_seeds(order, "linear"),
        "integrator_order_law": order_law.mean(),
        "integrator_note": note,
    }
