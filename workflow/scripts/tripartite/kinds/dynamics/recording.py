"""What electrodes and a calcium indicator record of one head in continuous time.

Times are fractions wherever they are added, so that the parts of a period add up to it and equal
parts have equal lengths.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tripartite import calcium as calcium_models
from tripartite.dynamics import Diverged, Period, State, protocol
from tripartite.network import Hidden, rates

PIECE = 16  # periods after which the state is kept
MAX_TOKENS, MAX_NEURONS = 12, 6  # recorded are the neurons that fire most at the first tokens

# ASSUME: the process drives a calcium model around an operating point at which calcium is graded,
# by its activation relative to the mean, x: IP3 of 0.7 + 0.3 x for Li-Rinzel, glutamate of 1 x for
# G-ChI (uM).
STIMULUS = {"li_rinzel_nest": (0.7, 0.3), "g_chi": (0.0, 1.0)}

Arrays = dict[str, np.ndarray]


class Turn(NamedTuple):
    """A token that is on: written (r = 0) or read (r = 1), from `start` on, for `seconds`."""

    r: int
    token: int
    start: Fraction
    seconds: Fraction


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """In which order and for how long (s) tokens are on, and the time between samples (s)."""

    order: str  # bidirectional or causal
    token_seconds: float
    read_seconds: float
    sample_seconds: float

    @property
    def causal(self) -> bool:
        return self.order == "causal"

    @property
    def write(self) -> Fraction:
        return Fraction(str(self.token_seconds))

    @property
    def read(self) -> Fraction:
        return Fraction(str(self.read_seconds))

    @property
    def sample(self) -> Fraction:
        return Fraction(str(self.sample_seconds))

    def end(self, n_tokens: int) -> Fraction:
        """When all tokens are written and read."""
        return n_tokens * (self.write + self.read)

    def turns(self, n_tokens: int) -> list[Turn]:
        """All turns in the order of time, as the periods of dynamics.protocol."""
        write, read, tokens = self.write, self.read, range(n_tokens)
        if self.causal:
            starts = [t * (write + read) for t in tokens]
            pairs = [
                (Turn(0, t, starts[t], write), Turn(1, t, starts[t] + write, read)) for t in tokens
            ]
            return [turn for pair in pairs for turn in pair]
        writes = [Turn(0, t, t * write, write) for t in tokens]
        return writes + [Turn(1, t, n_tokens * write + t * read, read) for t in tokens]


class Network(NamedTuple):
    """Rates phi of the hidden neurons of a head, in units of the largest of a phase; and values."""

    rates_k: Tensor  # [T, m]
    rates_q: Tensor  # [T, m]
    v: Tensor  # [T, E]
    log_unit: float  # ln of what 1 stands for in a product of rates of a key and a query


def network_of(hidden: Hidden, q: Tensor, k: Tensor, v: Tensor) -> Network:
    """The network of these neurons on q and k [T, D] and v [T, E]."""
    (rates_k, unit_k), (rates_q, unit_q) = (_scaled_rates(hidden, x) for x in (k, q))
    return Network(rates_k, rates_q, v, unit_k + unit_q)


def _scaled_rates(hidden: Hidden, x: Tensor) -> tuple[Tensor, float]:
    """phi [T, m] of x [T, D] in units of the largest, and ln of that unit."""
    m = len(hidden.bias)
    log_phi, _ = rates(hidden, x, m)
    unit = log_phi.max()
    return torch.exp(log_phi - unit), float(unit) - math.log(m) / 2


def algebra(network: Network, causal: bool) -> tuple[Tensor, Tensor]:
    """Normaliser g . phi(q) [T] and output [T, E] without time constants, leaks and saturation."""
    kernel = network.rates_q @ network.rates_k.mT  # [query, key]
    kernel = kernel.tril() if causal else kernel
    normalizer = kernel.sum(1)
    divisor = normalizer.masked_fill(normalizer == 0, torch.inf)
    return normalizer, kernel @ network.v / divisor[:, None]


class Electrodes(NamedTuple):
    """Recorded hidden neurons [n], and the unit [n] of the last layer that each drives most."""

    neurons: Tensor
    units: Tensor


def electrodes_of(network: Network) -> Electrodes:
    """The neurons that fire most at different ones of the first tokens, as many of each phase."""
    neurons: list[int] = []
    for phi in (network.rates_k, network.rates_q):
        peak, token = phi[:MAX_TOKENS].max(0)
        by_token: dict[int, int] = {}
        for neuron in torch.argsort(peak, descending=True, stable=True).tolist():
            if neuron not in neurons:
                by_token.setdefault(int(token[neuron]), neuron)
            if len(by_token) == MAX_NEURONS // 2:
                break
        neurons += [by_token[t] for t in sorted(by_token)]
    units = (network.v.mT @ network.rates_k[:, neurons]).abs().argmax(0)
    return Electrodes(torch.tensor(neurons), units)


# In time.


def pieces(network: Network, timetable: Timetable) -> list[list[tuple[Turn, Period]]]:
    """All turns with their periods, PIECE at a time."""
    seconds = timetable.token_seconds, timetable.read_seconds
    periods = protocol(network.rates_k, network.rates_q, network.v, *seconds, timetable.causal)
    both = list(zip(timetable.turns(len(network.v)), periods, strict=True))
    return [both[i : i + PIECE] for i in range(0, len(both), PIECE)]


def record(
    state: State,
    piece: list[tuple[Turn, Period]],
    advance: Callable[[State, Period], State],
    sample: Fraction,
    electrodes: Electrodes,
    exact: Tensor,
) -> tuple[State, Arrays]:
    """The state after a piece, and what was recorded meanwhile, by names of variables of traces.nc.

    advance gives the state at the end of a period; exact [T, E] are the outputs of softmax
    attention. Samples [sample, ...] are taken every `sample` s, and what was read [token] at the
    end of each reading; either is missing where there is none. Diverged says when.
    """
    samples, reads, last, read_token = [], [], [], []
    for turn, period in piece:
        for end, seconds, sampled in parts(turn.start, turn.seconds, sample):
            try:
                state = advance(state, period._replace(seconds=seconds))
            except Diverged as error:
                when = f"in the {seconds:g} s before {float(end):g} s"
                raise Diverged(f"{when}: {error}") from None
            if sampled:
                samples.append(_sample(state, electrodes, turn, end))
                last.append(state.last)
                read_token.append(turn.token if turn.r else -1)
        if turn.r:
            error_read, _ = error_and_cosine(state.last[None], exact[[turn.token]])
            reads.append(
                {"calcium_read": state.calcium.numpy(), "output_error_read": error_read[0]}
            )
    found = _stacked(samples) | _stacked(reads)
    if samples:
        writing = torch.tensor(read_token)[:, None] < 0
        wanted = torch.where(writing, torch.nan, exact[read_token])
        errors = error_and_cosine(torch.stack(last), wanted)
        found |= dict(zip(("output_error", "output_cosine"), errors))
    return state, found


def parts(
    start: Fraction, seconds: Fraction, sample: Fraction
) -> Iterator[tuple[Fraction, float, bool]]:
    """Parts of a period, cut at samples: end and length, and whether it ends with a sample."""
    end, before = start + seconds, start
    for number in range(start // sample + 1, end // sample + 1):
        yield number * sample, float(number * sample - before), True
        before = number * sample
    if before < end:
        yield end, float(end - before), False


def _sample(state: State, at: Electrodes, turn: Turn, time: Fraction) -> Arrays:
    return {
        "seconds": np.array(float(time)),
        "control": np.array(turn.r),
        "token_on": np.array(turn.token),
        "rates": state.hidden[at.neurons].numpy(),
        "hebbian": state.hebbian[at.units, at.neurons].numpy(),
        "presynaptic": state.presynaptic[at.neurons].numpy(),
        "calcium": state.calcium.numpy(),
    }


def _stacked(rows: list[Arrays]) -> Arrays:
    return {name: np.stack([row[name] for row in rows]) for name in (rows[0] if rows else [])}


def joined(recorded: list[Arrays]) -> Arrays:
    """What was recorded in all pieces, one after another."""
    names = dict.fromkeys(chain(*recorded))
    return {
        name: np.concatenate([piece[name] for piece in recorded if name in piece]) for name in names
    }


def resumed(kept: Mapping[str, Arrays], start: State) -> tuple[int, State]:
    """How many pieces are finished, and the state after them; none if any of them is damaged."""
    if "state" not in kept:
        return 0, start
    arrays = kept["state"]
    done = int(arrays["done"])
    if any(f"piece-{number}" not in kept for number in range(done)):
        return 0, start
    return done, State(*(torch.from_numpy(arrays[name]).clone() for name in State._fields))


def error_and_cosine(last: Tensor, exact: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Relative error and cosine [n] of outputs [n, E]; NaN where one of the two is 0 or unknown."""
    size, wanted = last.norm(dim=1), exact.norm(dim=1)
    error = (last - exact).norm(dim=1) / torch.where(wanted > 0, wanted, torch.nan)
    both = size * wanted
    cosine = (last * exact).sum(1) / torch.where(both > 0, both, torch.nan)
    return error.numpy(), cosine.numpy()


def intracellular(model: str, calcium: np.ndarray, seconds: float) -> np.ndarray:
    """Calcium (uM) of a model that the process drives, every `seconds`; NaN for linear.

    ValueError where the model is driven beyond what it is meant for, or diverges.
    """
    if model == "linear":
        return np.full(len(calcium), np.nan)
    least, gain = STIMULUS[model]
    mean = calcium.mean()
    stimulus = least + gain * calcium / (mean or 1.0)
    if stimulus.max() > calcium_models.MAX_STIMULUS:
        raise ValueError(
            f"one query has {calcium.max() / mean:.0f} times the mean response, and would drive it "
            f"with {stimulus.max():.0f} uM of {calcium_models.STIMULI[model]}, wanted at most "
            f"{calcium_models.MAX_STIMULUS:g}; use linear, or another head or input"
        )
    try:
        return calcium_models.drive(model, stimulus, seconds)
    except calcium_models.Diverged as error:
        raise ValueError(f"{error}; lower sample_seconds, or use linear") from None
