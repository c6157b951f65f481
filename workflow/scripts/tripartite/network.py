"""The neuron-astrocyte network of Kozachkov, Kastanenka & Krotov (PNAS 2023).

Tokens x_t arrive one by one. A hidden layer of m neurons fires at h; synapses H lead from it to the
last layer l; astrocyte processes ensheath these synapses. With the global control r = 0 (write
phase) or r = 1 (read phase), key k_t, query q_t and value v_t:

    (1)  f_t = x_t                                input layer
    (2)  h_t = phi((1 - r) k_t + r q_t)           hidden layer
    (3)  l_t = (1 - r) v_t + r [(H * P) h_t + x_t]   last layer, skip connection
    (4)  H  <- H + (1 - r) l_t h_t^T              Hebbian plasticity
    (5)  g  <- g + (1 - r) h_t                    presynaptic plasticity, neuron to astrocyte
    (6)  p_t = r g . h_t,  P_ij = 1 / p_t         calcium of the astrocyte process

In the code, `hebbian` is H, `presynaptic` is g, `calcium` is p. ASSUME: both learning rates are 1,
and phi has the factor 1/sqrt(m), as in the released notebooks; a ratio of the rates is a common
gain of all outputs. ASSUME: where the calcium is exactly 0 the network is silent, its output is 0.

Extensions: a presynaptic gain w_t multiplies h_t in (4) and (5). With a leak, H and g are
multiplied by exp(-leak_H) and exp(-leak_g) before each write. A causal network writes and reads
each token before the next one comes; otherwise all tokens are written before the first is read.

`sequential` follows these equations token by token. All other functions compute the same sums,

    p(q) = sum_a phi_a(q) g_a,   g_a = sum_t w_t phi_a(k_t),   H_a = sum_t w_t phi_a(k_t) v_t,

for blocks of neurons a; `read` adds partial sums to those of networks of any size. `kernel` chooses
among the ways to compute them:

    direct          products of rates, where a bound of norms keeps them in the range of numbers
    attention_calls at any norm: hidden neurons attend to tokens, then tokens to hidden neurons, by
                    softmax attention, with H_a = u_a g_a
    log_space       for every feature map
    causal_chunks, causal_log_space   causal order: reading while writing
"""

import functools
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tripartite.features import Activation, exponential, linear
from tripartite.lse_attention import attention_with_lse

BLOCK_BYTES = 1 << 21  # of firing rates at a time, neurons x tokens; fastest as measured
GPU_BLOCK_BYTES = 1 << 27  # on other devices, of all sequences of a batch
TOKEN_BLOCK = 512  # tokens at a time
CAUSAL_CHUNK = 64  # tokens at a time, in causal order
CAUSAL_BLOCK = 2048  # neurons at a time, in causal order
ROOM = 18.0  # ln of the number of terms in a sum of products of rates, and of the size of values
# ln(largest / smallest number / 100) of each type
LOG_RANGE = {torch.float64: 690.0, torch.float32: 83.0, torch.bfloat16: 83.0}


class Hidden(NamedTuple):
    """A hidden layer: weights [..., m, D], bias [..., m] (float64), activation and its threshold.

    Sequences of a batch may have layers of their own: the leading axes are those of the tokens.
    """

    weights: Tensor
    bias: Tensor
    activation: Activation = exponential
    threshold: float = math.inf


class Tokens(NamedTuple):
    """Inputs of the network: q, k [..., T, D], v [..., T, E], and log_gain [..., T] in float64.

    log_gain is the ln of the presynaptic gain w of each key, -inf where there is no token.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_gain: Tensor


class Leak(NamedTuple):
    """Loss per token of the synapses: H keeps exp(-hebbian), g keeps exp(-presynaptic)."""

    hebbian: float = 0.0
    presynaptic: float = 0.0


NO_LEAK = Leak()


class Partial(NamedTuple):
    """Contributions of some neurons to the read phase, to be multiplied by exp(log_scale).

    log_scale [..., T] in float64, calcium [..., T] (part of p), drive [..., T, E] (part of H h).
    """

    log_scale: Tensor
    calcium: Tensor
    drive: Tensor


# ln|p|, sign of p and output, for each range of neurons and each input.
Networks = list[list[tuple[Tensor, Tensor, Tensor]]]


# The reference: one token at a time.


def rates(hidden: Hidden, x: Tensor, m: int) -> tuple[Tensor, Tensor | None]:
    """ln|phi| and sign of phi [..., T, n] of n neurons of a network of m, for x [..., T, D]."""
    u = x @ hidden.weights.mT + hidden.bias.to(x.dtype)[..., None, :]
    square = x.square().sum(-1, keepdim=True)
    return hidden.activation(u, square, m, hidden.threshold)


def step(
    hebbian: Tensor,
    presynaptic: Tensor,
    x: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hidden: Hidden,
    r: int,
    leak: Leak = NO_LEAK,
    gain: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One token through equations (1) to (6).

    hebbian [E, m], presynaptic [m], x [E], q and k [D], v [E]; r is 0 to write and 1 to read.
    Returns hebbian, presynaptic, the last layer [E] and the calcium (a scalar, 0 while writing).
    """
    m = len(hidden.bias)
    log_h, sign = rates(hidden, ((1 - r) * k + r * q)[None], m)
    h = torch.exp(log_h[0]) / m**0.5  # [m]                                                  (2)
    h = h if sign is None else h * sign[0]
    calcium = r * (presynaptic @ h)  # scalar                                                (6)
    if r == 0:
        last = v  # [E]                                                                      (3)
        hebbian = math.exp(-leak.hebbian) * hebbian + gain * torch.outer(last, h)  # [E, m]   (4)
        presynaptic = math.exp(-leak.presynaptic) * presynaptic + gain * h  # [m]             (5)
    elif calcium == 0:
        last = x
    else:
        last = (hebbian / calcium) @ h + x  # [E]                                            (3)
    return hebbian, presynaptic, last, calcium


def sequential(
    x: Tensor, tokens: Tokens, hidden: Hidden, causal: bool = False, leak: Leak = NO_LEAK
) -> tuple[Tensor, Tensor]:
    """Write all tokens, then read all; or, if causal, write and read one token after another.

    x [T, E]. Returns the calcium p [T] of the astrocyte and the last layer [T, E] with the skip
    connection. Rates are not scaled: they underflow at norms above about 30.
    """
    q, k, v = tokens.q, tokens.k, tokens.v
    gain = tokens.log_gain.exp()
    hebbian = q.new_zeros(v.shape[-1], len(hidden.bias))
    presynaptic = q.new_zeros(len(hidden.bias))
    calcium, last = [], []
    phases = [[(t, 0), (t, 1)] for t in range(len(q))]
    if not causal:
        phases = [[(t, r) for t in range(len(q))] for r in (0, 1)]
    for t, r in (event for phase in phases for event in phase):
        hebbian, presynaptic, l_t, p_t = step(
            hebbian, presynaptic, x[t], q[t], k[t], v[t], hidden, r, leak, gain[t]
        )
        if r == 1:
            calcium.append(p_t)
            last.append(l_t)
    return torch.stack(calcium), torch.stack(last)


# Networks of any size from partial sums.


def read(
    inputs: Sequence[Tokens],
    neurons: Iterable[tuple[Tensor, Tensor]],
    ranges: Sequence[tuple[int, int]],
    activation: Activation = exponential,
    threshold: float = math.inf,
    causal: bool = False,
    leak: Leak = NO_LEAK,
) -> Networks:
    """Run the networks of the neurons in ranges (start, stop) on all inputs, in one pass.

    neurons yields weights [..., n, D] and bias [..., n] in order; they are converted to the dtype
    and device of the inputs, their leading axes broadcast to those of the inputs. Networks with
    overlapping ranges share neurons. Returns ln|p| [..., T] in float64, the sign of p, and the
    output [..., T, E] without skip connection, for each range and input. Rows of missing tokens
    (log_gain -inf) have no meaning.
    """
    if not causal:
        inputs, leak = [_leaked(tokens, leak) for tokens in inputs], NO_LEAK
    run = functools.partial(
        _networks, inputs, activation=activation, threshold=threshold, causal=causal, leak=leak
    )
    if activation is linear:  # its rates depend on the size of the network
        layer = list(neurons)
        weights = torch.cat([part for part, _ in layer], dim=-2)
        bias = torch.cat([part for _, part in layer], dim=-1)
        return [run([(*pair, *_some(weights, bias, *pair))], [pair])[0] for pair in ranges]
    return run(_pieces(neurons, {edge for pair in ranges for edge in pair}), ranges)


def _pieces(neurons: Iterable[tuple[Tensor, Tensor]], edges: set[int]) -> Iterator[tuple]:
    """Cut the neurons at the edges of ranges; yields start, stop, weights, bias of each piece."""
    first = 0
    for weights, bias in neurons:
        n = bias.shape[-1]
        cuts = sorted({0, n} | {edge - first for edge in edges if 0 < edge - first < n})
        for start, stop in zip(cuts, cuts[1:]):
            yield first + start, first + stop, *_some(weights, bias, start, stop)
        first += n


def _some(weights: Tensor, bias: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Some neurons of weights [..., n, D] and bias [..., n]."""
    return weights[..., start:stop, :], bias[..., start:stop]


def _networks(
    inputs: Sequence[Tokens],
    pieces: Iterable[tuple[int, int, Tensor, Tensor]],
    ranges: Sequence[tuple[int, int]],
    activation: Activation,
    threshold: float,
    causal: bool,
    leak: Leak,
) -> Networks:
    totals: dict[tuple[int, int], Partial] = {}  # of networks, by their first neuron and input
    results: dict[tuple[int, int], list[tuple[Tensor, Tensor, Tensor]]] = {}
    device, dtype = inputs[0].q.device, inputs[0].q.dtype
    for start, stop, weights, bias in pieces:
        starts = {first for first, last in ranges if first <= start and stop <= last}
        hidden = Hidden(weights.to(device, dtype), bias.to(device), activation, threshold)
        for i, tokens in enumerate(inputs if starts else []):
            run = kernel(tokens, hidden, causal)
            if len(starts) == 1:
                key = min(starts), i
                totals[key] = run(tokens, hidden, stop - start, totals.get(key), leak)
            else:
                part = run(tokens, hidden, stop - start, None, leak)
                for first in starts:
                    total = totals.get((first, i))
                    totals[first, i] = absorb(total, part) if total else merge(None, part)
        for first in starts:
            last = max(last for begin, last in ranges if begin == first)
            sums = [totals[first, i] for i in range(len(inputs))]
            if (first, stop) in ranges:
                results[first, stop] = [finished(x, stop - first, stop == last) for x in sums]
            if stop == last:
                totals = {key: total for key, total in totals.items() if key[0] != first}
    return [results[pair] for pair in ranges]


def merge(total: Partial | None, part: Partial) -> Partial:
    """Sum of two partial sums, in new tensors."""
    copy = Partial(*(tensor.clone() for tensor in (part if total is None else total)))
    return copy if total is None else absorb(copy, part)


def absorb(total: Partial, part: Partial) -> Partial:
    """Add a partial sum to another, in place."""
    if torch.equal(total.log_scale, part.log_scale):  # parts of direct products have one scale
        total.drive.add_(part.drive)
        total.calcium.add_(part.calcium)
        return total
    scale = torch.maximum(total.log_scale, part.log_scale)
    old, new = (  # NaN = -inf - (-inf), where both are empty
        torch.exp(sums.log_scale - scale).nan_to_num(nan=0.0).to(total.drive.dtype)
        for sums in (total, part)
    )
    total.drive.mul_(old[..., None]).addcmul_(part.drive, new[..., None])
    total.calcium.mul_(old).addcmul_(part.calcium, new)
    total.log_scale.copy_(scale)
    return total


def finished(total: Partial, m: int, in_place: bool) -> tuple[Tensor, Tensor, Tensor]:
    """ln|p|, sign of p and output of a network of m neurons, from the sums over all neurons."""
    log_calcium = total.log_scale + total.calcium.double().abs().log() - math.log(m)
    divisor = total.calcium.masked_fill(total.calcium == 0, torch.inf)[..., None]
    output = total.drive.div_(divisor) if in_place else total.drive / divisor
    return log_calcium, total.calcium.sign().to(torch.int8), output


def _leaked(tokens: Tokens, leak: Leak) -> Tokens:
    """Tokens with the leak until all are written, as a gain of keys and values by their age."""
    if leak == NO_LEAK:
        return tokens
    present = (tokens.log_gain > -torch.inf).double()
    age = present.flip(-1).cumsum(-1).flip(-1) - 1  # tokens that were written later
    excess = torch.exp((leak.presynaptic - leak.hebbian) * age)[..., None]
    v = (tokens.v.double() * excess).to(tokens.v.dtype)
    return tokens._replace(v=v, log_gain=tokens.log_gain - leak.presynaptic * age)


# Kernels: tokens, hidden [n of a network of m], m, the sums so far or None, and leak, to the sums
# with these neurons.


def kernel(tokens: Tokens, hidden: Hidden, causal: bool) -> Callable[..., Partial]:
    """The fastest kernel that is safe for these tokens and neurons.

    Rates are multiplied as they are only if no product of two can leave the range of the numbers:
    the bound |w| (|q| + |k|) + |2b| on their logs, the spread of the key weights and room for the
    sums.
    """
    safe = (
        hidden.activation is exponential and log_range(tokens, hidden) < LOG_RANGE[tokens.q.dtype]
    )
    if causal:
        return causal_chunks if safe and tokens.q.dim() == 2 else causal_log_space
    on_cpu = tokens.q.device.type == "cpu"
    if safe and on_cpu and tokens.q.dim() == 2:
        return direct
    wide = on_cpu and tokens.v.shape[-1] > 2 * tokens.k.shape[-1]  # flash makes keys as wide
    return attention_calls if hidden.activation is exponential and not wide else log_space


def log_range(tokens: Tokens, hidden: Hidden) -> float:
    """Bound of ln(largest / smallest product of rates) in the sums over neurons and tokens."""
    present = tokens.log_gain > -torch.inf
    squares = _square(tokens.k)[present]
    key_log = tokens.log_gain[present] - squares / 2
    reach = _norm(hidden.weights) * (squares.max().sqrt() + _norm(tokens.q))
    spread = key_log.max() - key_log.min() + 2 * hidden.bias.abs().max()
    return float(reach + spread) + math.log(hidden.bias.shape[-1] * tokens.k.shape[-2])


def _block(n: int, keys: Tensor) -> int:
    """Neurons at a time: n in about equal parts, whose rates for keys [..., T, D] fit in a block.

    Multiples of 64 neurons, if they need no more parts: matrix products are 10 % faster.
    """
    n_tokens, at_once = min(keys.shape[-2], TOKEN_BLOCK), BLOCK_BYTES
    if keys.device.type != "cpu":
        n_tokens, at_once = keys.shape[:-1].numel(), device_block_bytes(keys.device)
    size = math.ceil(n / max(1, round(n * n_tokens * keys.element_size() / at_once)))
    return min(n, math.ceil(size / 64) * 64)


@functools.cache
def device_block_bytes(device: torch.device) -> int:
    """GPU_BLOCK_BYTES, or less where little memory is free at first: several blocks are held."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else sys.maxsize
    return min(GPU_BLOCK_BYTES, free // 256)


_kept = threading.local()


def _workspace(shapes: Mapping[str, tuple[int, ...]], like: Tensor) -> list[Tensor]:
    """Uninitialised tensors in memory that the thread keeps: new pages cost as much as exp."""
    kept: dict[Any, Tensor] = _kept.__dict__
    tensors = []
    for name, shape in shapes.items():
        n, key = math.prod(shape), (name, like.dtype, like.device)
        if key not in kept or len(kept[key]) < n:
            kept[key] = like.new_empty(n)
        tensors.append(kept[key][:n].view(shape))
    return tensors


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1).max().double()


def _square(x: Tensor) -> Tensor:
    """|x|^2 [..., T] in float64, without a copy of x [..., T, D] in float64."""
    parts = x.split(64, dim=-2)  # small enough to be allocated without new pages
    return torch.cat([part.double().square().sum(-1) for part in parts], dim=-1)


def direct(
    tokens: Tokens, hidden: Hidden, m: int, total: Partial | None, leak: Leak = NO_LEAK
) -> Partial:
    """Products of rates in base 2, block by block; for the exponential activation within range.

    exp(-|k|^2 / 2) and the gain multiply the values, exp(-|q|^2 / 2) the scale. q [T, D].
    """
    q, k, v, log_gain = tokens
    n_tokens, width = v.shape
    key_log = log_gain - _square(k) / 2
    log_scale = key_log.max() - _square(q) / 2
    weight = torch.exp(key_log - key_log.max()).to(q.dtype)  # [T]
    exact = q.dtype if q.dtype != torch.bfloat16 else torch.float32  # of the sums
    if total is not None and torch.equal(total.log_scale, log_scale):
        sums = total
    else:
        zeros = functools.partial(q.new_zeros, dtype=exact)
        sums = Partial(log_scale, zeros(n_tokens), zeros(n_tokens, width))
    spans = [slice(i, i + TOKEN_BLOCK) for i in range(0, n_tokens, TOKEN_BLOCK)]
    tokens_at_once = min(n_tokens, TOKEN_BLOCK)
    size = _block(len(hidden.bias), k)
    shapes = {
        "rates": (size, tokens_at_once),
        "weights": (size, q.shape[1]),
        "values": (tokens_at_once, width),
    }
    rates_buffer, w, values = _workspace(shapes, q)
    hebbian, presynaptic = _workspace(
        {"hebbian": (size, width), "presynaptic": (size,)}, sums.calcium
    )
    rates_buffer = rates_buffer.view(-1)
    for start in range(0, len(hidden.bias), size):
        block = hidden.weights[start : start + size]
        n = len(block)
        torch.mul(block, 1 / math.log(2), out=w[:n])
        hebbian[:n].zero_()
        presynaptic[:n].zero_()
        for span in spans:
            keys = k[span]
            phi = rates_buffer[: n * len(keys)].view(n, -1)  # [n, T]
            torch.mm(w[:n], keys.T, out=phi).exp2_()
            torch.mul(v[span], weight[span, None], out=values[: len(keys)])
            _add(hebbian[:n], presynaptic[:n], phi, values[: len(keys)], weight[span])
        # exp(bias) once to write, once to read
        gain = torch.exp(2 * hidden.bias[start : start + size]).to(exact)
        hebbian[:n].mul_(gain[:, None])
        presynaptic[:n].mul_(gain)
        stored = hebbian[:n].to(q.dtype), presynaptic[:n].to(q.dtype)
        for span in spans:
            phi = rates_buffer[: n * len(q[span])].view(-1, n)  # [T, n]
            torch.mm(q[span], w[:n].T, out=phi).exp2_()
            _add(sums.drive[span], sums.calcium[span], phi, *stored)
    return sums if total is None or sums is total else merge(total, sums)


def _add(matrix: Tensor, vector: Tensor, phi: Tensor, x: Tensor, y: Tensor) -> None:
    """matrix += phi @ x and vector += phi @ y, in place."""
    if phi.dtype == matrix.dtype:
        matrix.addmm_(phi, x)
        vector.addmv_(phi, y)
    else:
        matrix += phi @ x
        vector += (phi @ y[:, None])[:, 0]  # in bfloat16 twice as fast as the product with a vector


def attention_calls(
    tokens: Tokens, hidden: Hidden, m: int, total: Partial | None, leak: Leak = NO_LEAK
) -> Partial:
    """Both phases as softmax attention; for the exponential activation at any norm.

    Write: hidden neurons attend to tokens; this gives u = H / g and the log-sum-exp ln g. Read:
    tokens attend to hidden neurons. The largest ln weight of a key is subtracted in float64.
    """
    q, k, v, log_gain = tokens
    key_log = log_gain - _square(k) / 2
    peak = key_log.amax(-1, keepdim=True)
    log_query = peak - _square(q) / 2
    if total is None:
        exact = q.dtype if q.dtype != torch.bfloat16 else torch.float32  # of the sums
        calcium = q.new_zeros(q.shape[:-1], dtype=exact)
        nothing = torch.full_like(log_query, -torch.inf)
        total = Partial(nothing, calcium, q.new_zeros((*q.shape[:-1], v.shape[-1]), dtype=exact))
    n = hidden.bias.shape[-1]
    size = _block(n, k)
    step = TOKEN_BLOCK if q.device.type == "cpu" else q.shape[-2]  # bounds the memory
    for start in range(0, n, size):
        w, bias = _some(hidden.weights, hidden.bias, start, start + size)
        w = w.expand(*k.shape[:-2], -1, -1)  # [..., n, D]
        u, log_g = attention_with_lse(w, k, v, key_log - peak)
        log_g = log_g.double() + 2 * bias
        top = log_g.amax(-1, keepdim=True)
        for i in range(0, q.shape[-2], step):
            span = slice(i, i + step)
            drive, log_p = attention_with_lse(q[..., span, :], w, u, log_g - top)
            log_scale = log_p.double() + top + log_query[..., span]
            part = Partial(
                log_scale, torch.ones_like(total.calcium[..., span]), drive.to(total.drive.dtype)
            )
            absorb(
                Partial(
                    total.log_scale[..., span], total.calcium[..., span], total.drive[..., span, :]
                ),
                part,
            )
    return total


def log_space(
    tokens: Tokens, hidden: Hidden, m: int, total: Partial | None, leak: Leak = NO_LEAK
) -> Partial:
    """Logs of rates, with a running maximum for each query; for every feature map at any norm."""
    q, k, v, log_gain = tokens
    v = v.masked_fill((log_gain == -torch.inf)[..., None], 0)
    n = hidden.bias.shape[-1]
    size = _block(n, k)
    for start in range(0, n, size):
        weights, bias = _some(hidden.weights, hidden.bias, start, start + size)
        block = hidden._replace(weights=weights, bias=bias)
        log_phi, sign = rates(block, k, m)  # [..., T, n]
        log_phi = log_phi + log_gain[..., None].to(q.dtype)
        peak = _finite(log_phi.amax(-2, keepdim=True))  # [..., 1, n]
        phi = torch.exp(log_phi - peak)
        phi = phi if sign is None else phi * sign
        hebbian, presynaptic = phi.mT @ v, phi.sum(-2)  # [..., n, E], [..., n], over exp(peak)
        log_phi, sign = rates(block, q, m)
        log_phi = log_phi + peak
        scale = _finite(log_phi.amax(-1))  # [..., T]
        phi = torch.exp(log_phi - scale[..., None])
        phi = phi if sign is None else phi * sign
        calcium = (phi @ presynaptic[..., None]).squeeze(-1)
        part = Partial(scale.double(), calcium, phi @ hebbian)
        total = part if total is None else merge(total, part)
    assert total is not None  # a layer has neurons
    return total


def _finite(peak: Tensor) -> Tensor:
    """A maximum of logs that can be subtracted: 0 instead of -inf, where nothing fires."""
    return peak.masked_fill(peak == -torch.inf, 0)


def causal_chunks(
    tokens: Tokens, hidden: Hidden, m: int, total: Partial | None, leak: Leak = NO_LEAK
) -> Partial:
    """Causal order, a chunk of tokens at a time; for the exponential activation within range.

    Tokens of a chunk attend to one another through a masked matrix of kernels; earlier tokens are
    in H and g. q [T, D].
    """
    q, k, v, log_gain = tokens
    n_tokens = len(q)
    key_log = log_gain - _square(k) / 2
    log_scale = key_log.max() - _square(q) / 2
    weight = torch.exp(key_log - key_log.max()).to(q.dtype)  # [T]
    spans = [slice(i, i + CAUSAL_CHUNK) for i in range(0, n_tokens, CAUSAL_CHUNK)]
    kernels = [q.new_zeros(len(q[span]), len(q[span])) for span in spans]
    calcium, drive = torch.zeros_like(weight), torch.zeros_like(v)
    ages = torch.arange(CAUSAL_CHUNK, dtype=torch.float64, device=q.device)
    lags = ages[:, None] - ages
    # [chunk, chunk], by reader and writer
    keep_h, keep_g = (torch.exp(-rate * lags.clamp_min(0)).tril().to(q.dtype) for rate in leak)
    n_max, width = min(len(hidden.bias), CAUSAL_BLOCK), v.shape[1]
    shapes: dict[str, tuple[int, ...]] = {"weights": (n_max, q.shape[1])}
    shapes |= dict.fromkeys(("keys", "queries"), (CAUSAL_CHUNK * n_max,))
    shapes |= {"hebbian": (n_max, width), "presynaptic": (n_max,)}
    weights, keys, queries, synapses, contacts = _workspace(shapes, q)
    for start in range(0, len(hidden.bias), CAUSAL_BLOCK):
        block = hidden.weights[start : start + CAUSAL_BLOCK]
        n = len(block)
        w, hebbian, presynaptic = weights[:n], synapses[:n].zero_(), contacts[:n].zero_()
        torch.mul(block, 1 / math.log(2), out=w)
        gain = torch.exp(2 * hidden.bias[start : start + CAUSAL_BLOCK]).to(q.dtype)
        for i, span in enumerate(spans):
            size = len(q[span])
            phi_k, phi_q = keys[: n * size].view(n, size), queries[: size * n].view(size, n)
            torch.mm(w, k[span].T, out=phi_k).exp2_().mul_(weight[span])  # [n, chunk]
            torch.mm(q[span], w.T, out=phi_q).exp2_().mul_(gain)  # [chunk, n]
            kernels[i].addmm_(phi_q, phi_k)
            if i:
                decay_h, decay_g = (
                    keep[:size, 0] * math.exp(-rate) for keep, rate in zip((keep_h, keep_g), leak)
                )
                drive[span].addcmul_(phi_q @ hebbian, decay_h[:, None])
                calcium[span].addcmul_(phi_q @ presynaptic, decay_g)
            if i + 1 < len(spans):
                old_h, old_g = (math.exp(-rate * size) for rate in leak)
                kept = v[span] * keep_h[size - 1, :size, None]
                hebbian.addmm_(phi_k, kept, beta=old_h)
                presynaptic.addmv_(phi_k, keep_g[size - 1, :size], beta=old_g)
    for matrix, span in zip(kernels, spans):
        size = len(matrix)
        drive[span].addmm_(matrix * keep_h[:size, :size], v[span])
        calcium[span].add_((matrix * keep_g[:size, :size]).sum(1))
    part = Partial(log_scale, calcium, drive)
    return part if total is None else merge(total, part)


def causal_log_space(
    tokens: Tokens, hidden: Hidden, m: int, total: Partial | None, leak: Leak = NO_LEAK
) -> Partial:
    """Causal order, a chunk of tokens at a time; for every feature map at any norm.

    Tokens of a chunk attend to one another through a masked matrix of kernels; earlier tokens are
    in H and g. For each neuron, rates are relative to the largest one that the first query of the
    chunk reads. A chunk ends before a rate that is beyond the range of the numbers above that; a
    chunk of one token is within range at any norm. Unequal leaks take twice the time, as H and g
    then have scales of their own.
    """
    exact = torch.float32 if tokens.q.dtype == torch.bfloat16 else tokens.q.dtype
    q, k, v, gain = (x.to(exact) for x in tokens)
    v = v.masked_fill((gain == -torch.inf)[..., None], 0)
    inputs = Tokens(q, k, torch.cat([v, torch.ones_like(v[..., :1])], -1), gain)  # of H and g
    for start in range(0, hidden.bias.shape[-1], CAUSAL_BLOCK):
        weights, bias = _some(hidden.weights, hidden.bias, start, start + CAUSAL_BLOCK)
        block = hidden._replace(weights=weights.to(exact), bias=bias.to(exact))
        scale, sums = _causal_block(inputs, block, m, leak.presynaptic)
        drive, calcium = sums[..., :-1], sums[..., -1]
        if leak.hebbian != leak.presynaptic:
            scale_h, sums = _causal_block(inputs, block, m, leak.hebbian)
            both = torch.maximum(scale, scale_h - ROOM)
            drive = sums[..., :-1] * torch.exp(scale_h - both)[..., None]
            scale, calcium = both, calcium * torch.exp(scale - both)
        part = Partial(scale.double(), calcium, drive)
        total = part if total is None else merge(total, part)
    assert total is not None  # a layer has neurons
    return total


def _causal_block(tokens: Tokens, hidden: Hidden, m: int, leak: float) -> tuple[Tensor, Tensor]:
    """sum_a,s phi_a(q_t) w_s phi_a(k_s) exp(-leak (t - s)) v_s [..., T, E], s <= t.

    To be multiplied by exp of what is returned before it [..., T]. log_gain has the dtype of q.
    """
    q, k, v, gain = tokens
    number = torch.finfo(q.dtype)
    # ln of rates: the least of a key or query that is not left out, so that no product is denormal
    # (which is slow); the largest of a key that the first query reads; the largest of all
    lowest = math.log(number.tiny) / 2
    low, high = lowest - math.log(number.eps) + ROOM, -lowest - ROOM
    n_chunk = min(CAUSAL_CHUNK, q.shape[-2])
    age = leak * torch.arange(n_chunk + 1, device=q.device, dtype=q.dtype)
    shape = *q.shape[:-2], hidden.bias.shape[-1]
    synapses = q.new_zeros(*shape, v.shape[-1])
    reference = q.new_zeros(shape)  # synapses are relative to exp(reference)
    peak = q.new_full(shape, -torch.inf)  # ln of the largest rate in them
    keys, queries = q.new_empty(2, *shape[:-1], n_chunk, shape[-1])  # [..., chunk, n]
    scales, sums = [], []
    for i in range(0, q.shape[-2], n_chunk):
        log_k, sign_k = _chunk_rates(hidden, k[..., i : i + n_chunk, :], m)
        log_q, sign_q = _chunk_rates(hidden, q[..., i : i + n_chunk, :], m)
        start, stop = 0, log_k.shape[-2]
        while start < stop:
            part = slice(start, stop)
            size = stop - start
            gained = gain[..., i + start : i + stop, None] + age[:size, None]
            key = torch.add(log_k[..., part, :], gained, out=keys[..., :size, :])
            largest = torch.maximum(peak, key[..., 0, :])[..., None, :]  # rates, by reader
            late = bool((largest == -torch.inf).any())  # some neurons have not fired yet
            if late:
                largest = _running_max(torch.cat([largest, key[..., 1:, :]], -2))
            first = largest.masked_fill(largest == -torch.inf, torch.inf).amin(-2)
            first = first.masked_fill(first == torch.inf, 0)  # of those that never fire
            synapses *= torch.exp((reference - first + low).clamp_max(0))[..., None]
            reference = first - low
            key -= reference[..., None, :]
            top = key.amax(-2)
            if (top > high).any():
                size = int((key.amax(-1) > high).reshape(-1, size).any(0).int().argmax())
                key = key[..., :size, :]
                top = key.amax(-2)
                part = slice(start, start + size)
            query = torch.add(log_q[..., part, :], first[..., None, :], out=queries[..., :size, :])
            read = log_q[..., part, :] + largest[..., :size, :] if late else query
            scale = _finite(read.amax(-1))
            query -= scale[..., None] - high
            # exp of -inf is slow
            phi_q, phi_k = (
                torch.threshold_(x.clamp_(lowest - 1, high).exp_(), math.exp(lowest), 0.0)
                for x in (query, key)
            )
            if sign_k is not None and sign_q is not None:
                phi_k *= sign_k[..., part, :]
                phi_q *= sign_q[..., part, :]
            values = v[..., i + start : i + start + size, :]
            sums.append((phi_q @ phi_k.mT).tril_() @ values + phi_q @ synapses)
            synapses += phi_k.mT @ values
            scales.append(scale - (high + low) - age[:size])
            peak = torch.maximum(peak, top + reference) - age[size]
            reference = reference - age[size]
            start += size
    return torch.cat(scales, -1), torch.cat(sums, -2)


def _chunk_rates(hidden: Hidden, x: Tensor, m: int) -> tuple[Tensor, Tensor | None]:
    """As rates, with fewer passes through memory."""
    if hidden.weights.dim() == 2:
        u = torch.nn.functional.linear(x, hidden.weights, hidden.bias)
    else:  # sequences with layers of their own
        u = (x @ hidden.weights.mT).add_(hidden.bias[..., None, :])
    return hidden.activation(u, x.square().sum(-1, keepdim=True), m, hidden.threshold)


def _running_max(x: Tensor) -> Tensor:
    """Maximum of x [..., T, n] over the tokens up to each; torch.cummax is ten times slower."""
    shift = 1
    while shift < x.shape[-2]:
        x = torch.cat([x[..., :shift, :], torch.maximum(x[..., shift:, :], x[..., :-shift, :])], -2)
        shift *= 2
    return x


def causal_steps(
    tokens: Tokens, hidden: Hidden, m: int, total: Partial | None, leak: Leak = NO_LEAK
) -> Partial:
    """Causal order, token by token, for every feature map at any norm: the plain loop.

    What causal_log_space is compared with. H and g of each neuron are relative to a scale of their
    own. q [T, D].
    """
    q, k, v, log_gain = tokens
    exact = torch.float32 if q.dtype == torch.bfloat16 else q.dtype
    hidden = hidden._replace(weights=hidden.weights.to(exact))
    q, k, v = q.to(exact), k.to(exact), v.to(exact)
    least = min(leak)  # the common part of both leaks is subtracted from their common scale
    keep_h, keep_g = (math.exp(least - rate) for rate in leak)
    hebbian, presynaptic = q.new_zeros(len(hidden.bias), v.shape[1]), q.new_zeros(len(hidden.bias))
    peak = q.new_full((len(hidden.bias),), -torch.inf)  # H and g are relative to exp(peak)
    scales, calciums, drives = [], [], []
    for t in range(len(q)):
        log_phi, sign = rates(hidden, k[t : t + 1], m)  # [1, m]
        log_phi = log_phi[0] + log_gain[t].to(exact)
        new_peak = torch.maximum(peak - least, log_phi)
        old = torch.exp(peak - least - _finite(new_peak))
        phi = torch.exp(log_phi - _finite(new_peak))
        phi = phi if sign is None else phi * sign[0]
        hebbian = hebbian * (old * keep_h)[:, None] + phi[:, None] * v[t]
        presynaptic = presynaptic * (old * keep_g) + phi
        peak = new_peak
        log_phi, sign = rates(hidden, q[t : t + 1], m)
        log_phi = log_phi[0] + peak
        scale = _finite(log_phi.amax())
        phi = torch.exp(log_phi - scale)
        phi = phi if sign is None else phi * sign[0]
        scales.append(scale)
        calciums.append(phi @ presynaptic)
        drives.append(phi @ hebbian)
    part = Partial(torch.stack(scales).double(), torch.stack(calciums), torch.stack(drives))
    return part if total is None else merge(total, part)
