"""Run one head of the network on one input in continuous time, and record what an electrode could."""

import itertools
import math
from collections.abc import Iterator, MutableMapping
from fractions import Fraction

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from tripartite import calcium as calcium_models
from tripartite.attention import softmax_attention
from tripartite.contracts import UserError
from tripartite.dynamics import INTEGRATORS, Constants, Diverged, State, protocol, rest
from tripartite.features import FEATURE_MAPS, draw_neurons
from tripartite.streams import stream

PIECE = 16  # periods between two places at which the work can go on
MOST_SAMPLES = 2_000_000
WINDOW, NEURONS = 12, 6  # recorded are the neurons that fire most at the first tokens

# ASSUME: the process drives a calcium model around an operating point at which calcium is graded, by its
# activation relative to the mean, x: IP3 of 0.7 + 0.3 x for Li-Rinzel, glutamate of 1 x for G-ChI (uM).
STIMULUS = {"li_rinzel": (0.7, 0.3), "g_chi": (0.0, 1.0)}


def integrate(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    n_features: int,
    head: list[int],
    input: str,
    order: str,
    token_seconds: float,
    read_seconds: float,
    tau_hidden: float,
    tau_last: float,
    tau_hebbian: float,
    tau_presynaptic: float,
    tau_calcium: float,
    leak_hebbian: float,
    leak_presynaptic: float,
    release: float,
    calcium: str,
    integrator: str,
    step_seconds: float,
    sample_seconds: float,
    seed: int,
    data_of: str,
    checkpoint: MutableMapping[str, dict[str, np.ndarray]],
) -> xr.Dataset:
    """Return samples of rates, synapses and calcium over time, and the output of every token as read.

    The settings are those of the section dynamics, times in s and leaks in 1/s. source is the experiment
    whose qkv.nc is read: the hidden weights are those of seed 0 of its networks. Rates are in units of the
    largest of any key, and of any query; H, g and p follow, and log_calcium_unit says what p counts: p
    exp(log_calcium_unit) is the normaliser. The algebra beside it is that of the paper: no time constants,
    leaks or saturation. The exact attention of causal order is computed here, attention.nc has none. kept
    holds what is finished, in pieces, and the last state, so that a run that was cut off can continue.
    """
    layer, place = head
    i = _check(qkv, head, input)
    present = qkv["mask"].values[i]
    n_tokens, causal = int(present.sum()), order == "causal"
    total = n_tokens * (Fraction(str(token_seconds)) + Fraction(str(read_seconds)))
    _check_samples(total, sample_seconds)
    q, k, v = (torch.from_numpy(qkv[x].values[i, layer, place, present]).double() for x in "qkv")
    log_z, exact = (
        torch.from_numpy(attention[x].values[i, layer, place, present])
        for x in ("log_normalizer", "output")
    )
    if causal:
        log_z, exact = softmax_attention(q, k, v, torch.ones(n_tokens, dtype=torch.bool), True)

    streams = (stream(seed, data_of, name, 0, layer, place) for name in ("omega", "phase"))
    neurons = draw_neurons("performer", *streams, n_features, q.shape[1])
    weights, bias = (torch.cat(parts) for parts in zip(*neurons))
    (rates_k, unit_k), (rates_q, unit_q) = (_rates(x, weights, bias) for x in (k, q))
    growth = (release or 1.0) * token_seconds / tau_presynaptic  # of g, by a token with a rate of 1
    kernel = rates_q @ rates_k.mT  # [query, key]
    kernel = kernel.tril() if causal else kernel
    algebra = kernel.sum(1)
    algebra_output = kernel @ v / algebra.masked_fill(algebra == 0, torch.inf)[:, None]
    chosen = _chosen_neurons(rates_k, rates_q)
    units = (v.mT @ rates_k[:, chosen]).abs().argmax(0)  # the last layer's, of the largest synapses

    constants = Constants(
        tau_hidden,
        tau_last,
        tau_hebbian,
        tau_presynaptic,
        tau_calcium,
        leak_hebbian,
        leak_presynaptic,
        release,
    )
    periods = protocol(rates_k, rates_q, v, token_seconds, read_seconds, causal)
    lengths = [Fraction(str(x)) for x in (token_seconds, read_seconds)]
    sample = Fraction(str(sample_seconds))

    def one_piece(number: int, state: State) -> tuple[State, dict[str, np.ndarray]]:
        """The state after up to PIECE periods, and what was recorded meanwhile."""
        found, last, on = {}, [], []

        def record(**values: float | int | Tensor) -> None:
            for name, value in values.items():
                value = value.numpy() if isinstance(value, Tensor) else np.array(value)
                found.setdefault(name, []).append(value)

        for index in range(number * PIECE, min(len(periods), (number + 1) * PIECE)):
            writes = (index + 1) // 2 if causal else min(index, n_tokens)
            token = index // 2 if causal else index % n_tokens
            period = periods[index]
            start = writes * lengths[0] + (index - writes) * lengths[1]
            for end, seconds, sampled in _parts(start, lengths[period.r], sample):
                try:
                    part = period._replace(seconds=seconds)
                    state = INTEGRATORS[integrator](state, part, constants, step_seconds)
                except Diverged as error:
                    raise UserError(
                        f"dynamics: step_seconds: in the {seconds:g} s before {float(end):g} s: {error}"
                    ) from None
                if not sampled:
                    continue
                on.append(token if period.r else -1)
                last.append(state.last)
                record(
                    seconds=float(end),
                    control=period.r,
                    token_on=token,
                    rates=state.hidden[chosen],
                    hebbian=state.hebbian[units, chosen],
                    presynaptic=state.presynaptic[chosen],
                    calcium=state.calcium,
                )
            if period.r:
                error, _ = _errors(state.last[None], exact[[token]])
                record(calcium_read=state.calcium, output_error_read=error[0])
        found = {name: np.stack(values) for name, values in found.items()}
        if on:
            wanted = torch.where(torch.tensor(on)[:, None] < 0, torch.nan, exact[on])
            found["output_error"], found["output_cosine"] = _errors(torch.stack(last), wanted)
        return state, found

    n_pieces = math.ceil(len(periods) / PIECE)
    done, state = _resumed(checkpoint, rest(n_features, v.shape[1]))
    bar_format = "{desc}: {percentage:.0f} % of {total} pieces, {elapsed} gone, {remaining} left\n"
    for number in tqdm(
        range(n_pieces), desc="integrate", mininterval=5, maxinterval=5, bar_format=bar_format
    ):
        if number >= done:
            state, checkpoint[f"piece-{number}"] = one_piece(number, state)
            checkpoint["state"] = {"done": np.array(number + 1)} | {
                name: x.numpy() for name, x in state._asdict().items()
            }
    pieces = [checkpoint[f"piece-{number}"] for number in range(n_pieces)]
    names = dict.fromkeys(itertools.chain(*pieces))
    found = {name: np.concatenate([one[name] for one in pieces if name in one]) for name in names}

    dims = {name: ("time", "neuron") for name in ("rates", "hebbian", "presynaptic")}
    dims |= {name: ("token",) for name in ("calcium_read", "output_error_read")}
    normalizer = growth * algebra.numpy()
    found["normalizer"] = np.where(found["control"] == 1, normalizer[found["token_on"]], np.nan)
    found["intracellular"] = _intracellular(calcium, found["calcium"], sample_seconds)
    of_tokens = {
        "text": qkv["text"].values[i, present].astype(object),
        "log_normalizer": log_z.numpy(),
        "normalizer_network": normalizer,
        "output_error_algebra": _errors(algebra_output, exact)[0],
    }
    numbers = {
        "log_calcium_unit": unit_k + unit_q - math.log(growth),
        **dict(zip(constants._fields[:5], constants)),
        "token_seconds": token_seconds,
        "read_seconds": read_seconds,
        "n_features": np.int64(n_features),
        "layer": np.int64(layer),
        "head": np.int64(place),
        "input": input,
        "calcium_model": calcium,
    }
    return xr.Dataset(
        {name: (dims.get(name, ("time",)), values) for name, values in found.items()}
        | {name: (("token",), values) for name, values in of_tokens.items()}
        | {name: ((), value) for name, value in numbers.items()}
        | {"output_unit": (("neuron",), units.numpy())},
        coords={"time": np.arange(len(found["seconds"])), "neuron": chosen.numpy()},
        attrs={"data": qkv.attrs.get("data", "")},
    )


def _check(qkv: xr.Dataset, head: list[int], name: str) -> int:
    """The place of the input; UserError where head or input do not exist."""
    names = [str(one) for one in qkv["input"].values]
    n_layers, n_heads = qkv.sizes["layer"], qkv.sizes["head"]
    if name not in names:
        raise UserError(f"input: got {name}, wanted one of {', '.join(names)}")
    if not (0 <= head[0] < n_layers and 0 <= head[1] < n_heads):
        raise UserError(
            f"head: got {head}, wanted a layer below {n_layers} and a head below {n_heads}"
        )
    return names.index(name)


def _check_samples(total: Fraction, sample_seconds: float) -> None:
    n = total / Fraction(str(sample_seconds))
    if n > MOST_SAMPLES:
        raise UserError(
            f"dynamics: sample_seconds: got {sample_seconds:g} s, {float(n):.0f} samples in {float(total):g} s, "
            f"wanted at most {MOST_SAMPLES}; raise it to {1.05 * float(total) / MOST_SAMPLES:.2g} s or more"
        )
    if n < 1:
        raise UserError(
            f"dynamics: sample_seconds: got {sample_seconds:g} s, wanted at most the {float(total):g} s that all "
            "tokens take; lower it"
        )


def _rates(x: Tensor, weights: Tensor, bias: Tensor) -> tuple[Tensor, float]:
    """phi [T, m] of x [T, D] in units of the largest, and ln of that unit."""
    square = x.square().sum(-1, keepdim=True)
    performer = FEATURE_MAPS["performer"].activation
    log_phi, _ = performer(x @ weights.mT + bias, square, len(weights), math.inf)
    unit = log_phi.max()
    return torch.exp(log_phi - unit), float(unit) - math.log(len(weights)) / 2


def _chosen_neurons(rates_k: Tensor, rates_q: Tensor) -> Tensor:
    """Neurons that fire most at different ones of the first tokens, as many of each phase."""
    chosen = []
    for rates in (rates_k, rates_q):
        peak, token = rates[:WINDOW].max(0)
        by_token = {}
        for neuron in torch.argsort(peak, descending=True, stable=True).tolist():
            if neuron not in chosen:
                by_token.setdefault(int(token[neuron]), neuron)
            if len(by_token) == NEURONS // 2:
                break
        chosen += [by_token[at] for at in sorted(by_token)]
    return torch.tensor(chosen)


def _parts(
    start: Fraction, seconds: Fraction, sample: Fraction
) -> Iterator[tuple[Fraction, float, bool]]:
    """Cut a period at the samples: where each part ends, its length, and whether a sample is due there.

    In fractions, so that the parts add up, and equal parts have equal lengths.
    """
    end, before = start + seconds, start
    for number in range(start // sample + 1, end // sample + 1):
        yield number * sample, float(number * sample - before), True
        before = number * sample
    if before < end:
        yield end, float(end - before), False


def _errors(last: Tensor, exact: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Relative error and cosine [n] of outputs [n, E]; NaN where one of the two is 0 or unknown."""
    size, wanted = last.norm(dim=1), exact.norm(dim=1)
    error = (last - exact).norm(dim=1) / torch.where(wanted > 0, wanted, torch.nan)
    both = size * wanted
    cosine = (last * exact).sum(1) / torch.where(both > 0, both, torch.nan)
    return error.numpy(), cosine.numpy()


def _resumed(checkpoint: MutableMapping, start: State) -> tuple[int, State]:
    """How many pieces are finished, and the state after them; nothing if any is damaged."""
    if "state" not in checkpoint:
        return 0, start
    arrays = checkpoint["state"]
    done = int(arrays["done"])
    if any(f"piece-{number}" not in checkpoint for number in range(done)):
        return 0, start
    return done, State(*(torch.from_numpy(arrays[name]).clone() for name in State._fields))


def _intracellular(model: str, calcium: np.ndarray, seconds: float) -> np.ndarray:
    """Calcium in uM of a model that the process drives; NaN without one."""
    if model == "linear":
        return np.full(len(calcium), np.nan)
    least, gain = STIMULUS[model]
    mean = calcium.mean()
    stimulus = least + gain * calcium / (mean or 1.0)
    if stimulus.max() > calcium_models.MAX_STIMULUS:
        raise UserError(
            f"dynamics: calcium: {model}: one query has {calcium.max() / mean:.0f} times the mean response, and "
            f"would drive it with {stimulus.max():.0f} uM of {calcium_models.STIMULI[model]}, wanted at most "
            f"{calcium_models.MAX_STIMULUS:g}; use linear, or another head or input"
        )
    try:
        return calcium_models.drive(model, stimulus, seconds)
    except calcium_models.Diverged as error:
        raise UserError(
            f"dynamics: calcium: {model}: {error}; lower sample_seconds, or use linear"
        ) from None
