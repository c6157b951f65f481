"""Learned feature maps: a hidden layer whose input weights are trained to make softmax attention.

A Hedgehog map (Zhang et al., ICLR 2024, section 4.2) fires at

    phi(x) = [softmax(W x), softmax(-W x)],

2F rates from W [F, D], one W for queries and one for keys. Each head is trained by itself, so that
its linear attention A^_tj = phi(q_t).phi(k_j) / sum_l phi(q_t).phi(k_l) is like its softmax
attention A, by one of two losses:

    weights    mean over queries of -sum_j A_tj ln A^_tj
    outputs    |A^ V - A V|^2 / |A V|^2

Heads are batched but independent: every head has its own loss, its own steps and its own stop.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

EVERY = 10  # steps between two evaluations
QUERIES = 64  # drawn per step and input; all keys are read
START = 1.0  # standard deviation of the initial drives W x: of .5, 1 and 2 what validates best
DECAY = (0.9, 0.99)  # of Adam's running means of the gradient and of its square
PAIRS = 1 << 16  # of query and key at a time, where a product is beyond the range of the numbers


class Example(NamedTuple):
    """One input as all heads see it: q, k [H, T, D], v [H, T, E], A [H, T, T] and A V [H, T, E].

    read [H, T, T] says which keys a query reads, true or false: heads of one batch may differ.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    weights: Tensor
    output: Tensor
    read: Tensor


class Trained(NamedTuple):
    """What training gives for H heads, evaluated at S steps; NaN where a head had no such step.

    query_weights and key_weights [H, F, D] are those of best_step [H], at which the validation loss
    is lowest; training_loss and validation_loss [S, H]; note has H words, empty or why there is no
    result (NaN weights and best_step -1).
    """

    query_weights: Tensor
    key_weights: Tensor
    training_loss: Tensor
    validation_loss: Tensor
    best_step: Tensor
    note: list[str]


def log_features(weights: Tensor, x: Tensor) -> Tensor:
    """ln phi of x [..., T, D] for weights [..., F, D] -> [..., T, 2F]."""
    drive = x @ weights.mT
    return torch.cat([torch.log_softmax(drive, -1), torch.log_softmax(-drive, -1)], -1)


def log_kernel(log_q: Tensor, log_k: Tensor, read: Tensor) -> Tensor:
    """ln phi(q_t).phi(k_j) [..., T, S] of ln of positive features [..., T, f], [..., S, f].

    -inf where a key is not read, read [..., T, S]. Exact at all sizes: products that leave the
    range of the numbers are summed by their logs.
    """
    peak_q, peak_k = (x.detach().amax(-1, keepdim=True) for x in (log_q, log_k))
    product = torch.exp(log_q - peak_q) @ torch.exp(log_k - peak_k).mT  # at most f
    number = torch.finfo(product.dtype)
    # terms below the smallest number may matter there
    lost = (product < number.tiny / number.eps) & read
    log_product = product.masked_fill(lost | ~read, 1).log() + peak_q + peak_k.mT
    if lost.any():
        places = lost.nonzero().split(PAIRS)
        sums = [
            torch.logsumexp(log_q[(*batch, t)] + log_k[(*batch, j)], -1)
            for *batch, t, j in (place.unbind(-1) for place in places)
        ]
        log_product = log_product.masked_scatter(lost, torch.cat(sums))
    return log_product.masked_fill(~read, -torch.inf)


def feature_attention(log_q: Tensor, log_k: Tensor, read: Tensor) -> Tensor:
    """ln A^ [..., T, S], of what log_kernel takes: each query's weights sum to 1."""
    return torch.log_softmax(log_kernel(log_q, log_k, read), -1)


def weights_loss(log_weights: Tensor, seen: Example) -> Tensor:
    """Cross-entropy of ln A^ [H, T, T] to A in nats, mean over queries -> [H]."""
    return -(seen.weights * log_weights.masked_fill(~seen.read, 0)).sum(-1).mean(-1)


def outputs_loss(log_weights: Tensor, seen: Example) -> Tensor:
    """|A^ V - A V|^2 / |A V|^2 over all queries [H], for ln A^ [H, T, T]; NaN where A V is 0."""
    error = torch.exp(log_weights) @ seen.v - seen.output
    return error.square().sum((-2, -1)) / seen.output.square().sum((-2, -1))


LOSSES = {"weights": weights_loss, "outputs": outputs_loss}


def divergence(log_weights: Tensor, seen: Example) -> Tensor:
    """KL(A || A^) in nats, mean over queries [H], for ln A^ [H, T, T]; at least 0."""
    entropy = -torch.special.entr(seen.weights).sum(-1).mean(-1)
    return (weights_loss(log_weights, seen) + entropy).clamp_min(0)


def evaluation_steps(max_steps: int) -> list[int]:
    """The steps at which losses are evaluated: 0, every EVERY, and the last."""
    return [*range(0, max_steps, EVERY), max_steps]


def train(
    training: list[Example],
    validation: list[Example],
    start: Tensor,
    queries: np.random.Generator,
    *,
    loss: str,
    max_steps: int,
    learning_rate: float,
    patience: int,
    dtype: torch.dtype,
) -> Trained:
    """Train W of queries and keys of H heads by Adam (Kingma & Ba, ICLR 2015).

    start [H, F, D] holds standard normal numbers, of which the initial W are made: the same for
    queries and keys, because random features with common weights already have the softmax kernel.
    learning_rate is that of the first step, in units of drives at coordinates of rms 1; it falls
    linearly to 0 at max_steps. A head stops when its validation loss has not improved for
    `patience` evaluations. queries draws the same queries for all heads.
    """
    device = training[0].q.device
    n_heads, _, d_head = start.shape
    # Queries and keys of rms 1 per coordinate make one learning rate fit heads of all norms.
    scale = [
        torch.cat([getattr(one, name) for one in training], -2).square().mean((-2, -1)).sqrt()
        for name in ("q", "k")
    ]  # [H] each
    scale = [torch.where(x > 0, x, 1.0)[:, None, None] for x in scale]

    def scaled(one: Example) -> Example:
        one = one._replace(q=one.q / scale[0], k=one.k / scale[1])
        return Example(*(x if x.dtype == torch.bool else x.to(dtype) for x in one))

    training, validation = [scaled(x) for x in training], [scaled(x) for x in validation]
    start = (start * START / math.sqrt(d_head)).to(device, dtype)
    weights = torch.stack([start, start], 1)  # [H, 2, F, D]
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    steps = evaluation_steps(max_steps)
    curves = torch.full((2, len(steps), n_heads), torch.nan, dtype=torch.float64)
    best = torch.full(weights.shape, torch.nan, dtype=torch.float64)
    best_loss = torch.full((n_heads,), torch.inf, dtype=torch.float64)
    best_step = torch.full((n_heads,), -1)
    note = [""] * n_heads
    running = torch.arange(n_heads)

    def mean_loss(weights: Tensor, examples: list[Example]) -> Tensor:  # [H]
        total = sum(_loss(weights, one, loss) for one in examples)
        return total / len(examples)  # type: ignore[return-value]  # there are examples

    for step in range(max_steps + 1):
        if step in steps:
            with torch.no_grad():
                losses = [mean_loss(weights, x).double().cpu() for x in (training, validation)]
            size = weights.abs().amax((-3, -2, -1)).cpu()
            place = steps.index(step)
            curves[:, place, running] = torch.stack(losses)
            finite = torch.isfinite(losses[0]) & torch.isfinite(losses[1])
            # Drives that the numbers resolve no finer than 1 make features of rounding errors.
            resolved = size * torch.finfo(dtype).eps < 1
            for i in torch.nonzero(~finite | ~resolved).flatten().tolist():
                head = int(running[i])
                what = f"hidden weights of {size[i]:.0e}" if finite[i] else "the loss is not finite"
                note[head] = f"training diverged at step {step}: {what}"
                best[head], best_step[head] = torch.nan, -1
            better = finite & resolved & (losses[1] < best_loss[running])
            found = running[better]
            best[found] = weights[better.to(device)].double().cpu()
            best_loss[found], best_step[found] = losses[1][better], step
            waited = place - torch.tensor([steps.index(max(int(s), 0)) for s in best_step[running]])
            keep = finite & resolved & (waited < patience)
            if not keep.all():  # heads that have stopped cost nothing
                running, here = running[keep], keep.to(device)
                weights, first, second = (x[here] for x in (weights, first, second))
                training, validation = (
                    [Example(*(x[here] for x in one)) for one in examples]
                    for examples in (training, validation)
                )
            if not len(running) or step == max_steps:
                break
        drawn = [_some_queries(one, queries) for one in training]
        weights.requires_grad_(True)
        (gradient,) = torch.autograd.grad(mean_loss(weights, drawn).sum(), weights)
        weights = weights.detach()
        first = DECAY[0] * first + (1 - DECAY[0]) * gradient
        second = DECAY[1] * second + (1 - DECAY[1]) * gradient.square()
        mean, square = (x / (1 - b ** (step + 1)) for x, b in zip((first, second), DECAY))
        rate = learning_rate * (1 - step / max_steps) / math.sqrt(d_head)
        # A gradient whose square is below the smallest number makes no step.
        weights = weights - rate * torch.where(square == 0, 0, mean / square.sqrt())
    return Trained(
        query_weights=best[:, 0] / scale[0].cpu(),
        key_weights=best[:, 1] / scale[1].cpu(),
        training_loss=curves[0],
        validation_loss=curves[1],
        best_step=best_step,
        note=note,
    )


def _loss(weights: Tensor, seen: Example, loss: str) -> Tensor:
    """The loss [H] of weights [H, 2, F, D]."""
    log_q, log_k = log_features(weights[:, 0], seen.q), log_features(weights[:, 1], seen.k)
    return LOSSES[loss](feature_attention(log_q, log_k, seen.read), seen)


def _some_queries(one: Example, queries: np.random.Generator) -> Example:
    n_tokens = one.q.shape[-2]
    chosen = queries.permutation(n_tokens)[:QUERIES]
    some = torch.from_numpy(chosen).to(one.q.device)
    of_queries = {name: getattr(one, name)[:, some] for name in ("q", "weights", "output", "read")}
    return one._replace(**of_queries)
