"""The training of one network: steps, evaluations, and what is kept so that it can go on.

The numbers are a function of the settings alone: batches are found by their step, so that all arms
read the same tokens, and a training that was cut off goes on to the same bytes on one kind of
processor.
"""

import json
import math
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tripartite.contracts import UserError
from tripartite.kinds.trained.arms import Change

EVALUATIONS = 10  # of a training, evenly spread over its steps
WARMING = 0.1  # ASSUME: share of the steps in which the step size rises to its largest
DECAY = (0.9, 0.99)  # ASSUME: of AdamW's means of the gradient and its square
WEIGHT_DECAY = 0.01  # ASSUME: of AdamW, as in torch
MAX_NORM = 1.0  # ASSUME: to which longer gradients are shortened
TOKENS = 1 << 13  # that are evaluated at a time
PARTS = ("now", "best", "first", "second")  # weights, those kept, means of AdamW

Batch = tuple[Tensor, Tensor]  # inputs [B, T], targets [B, T] or [B], -100 where nothing is asked
Kept = MutableMapping[str, dict[str, np.ndarray]]


class Trained(NamedTuple):
    """What a training gives at its evaluations [E]; the network has the weights of best_step."""

    training_loss: np.ndarray  # nats, mean over the steps since the evaluation before
    validation_loss: np.ndarray
    best_step: int  # of the least validation loss; -1 if no loss was finite
    note: str  # where it diverged, or empty


def evaluation_steps(steps: int) -> list[int]:
    """The steps at which losses are evaluated, from 0 to the last."""
    return sorted({round(i * steps / EVALUATIONS) for i in range(EVALUATIONS + 1)})


def step_size(step: int, steps: int) -> float:
    """Share of the largest step size: it rises linearly, then falls linearly to 0."""
    warming = max(1, round(WARMING * steps))
    return min((step + 1) / warming, (steps - step) / (steps - warming + 1))


def train(
    network: Any,
    batch: Callable[[int], Batch],
    validation: Batch,
    at: list[int],
    learning_rate: float,
    kept: Kept,
    name: str,
    made_with: dict,
    advance: Callable[[int], object] = int,
) -> Trained:
    """Train a network, and leave it with the weights of the least validation loss.

    batch: the training data of a step; at: steps of evaluations, from 0 to the last one. The part
    of kept by `name` holds what is needed to go on, as of the last evaluation; made_with: what it
    must have been made with. A loss that is not finite ends the training. advance is told the steps
    that are done.
    """
    steps = at[-1]
    weights = dict(network.named_parameters())
    optimizer = torch.optim.AdamW(
        weights.values(), learning_rate, DECAY, weight_decay=WEIGHT_DECAY, fused=True
    )
    curves = np.full((2, len(at)), np.nan)
    best, best_step, note, first_step = math.inf, -1, "", -1
    numbers = {part: {key: torch.zeros_like(x) for key, x in weights.items()} for part in PARTS}
    if name in kept:
        part = kept[name]
        _same(name, json.loads(str(part["made_with"])), made_with)
        first_step, best_step, best = (part[key].item() for key in ("step", "best_step", "best"))
        curves = part["curves"]
        for key, x in weights.items():
            for which in PARTS:
                numbers[which][key].copy_(torch.from_numpy(part[f"{which}.{key}"]))
            x.data.copy_(numbers["now"][key])
    for key, x in weights.items():
        optimizer.state[x] = {
            "step": torch.tensor(float(max(0, first_step)), device=x.device),
            "exp_avg": numbers["first"][key],
            "exp_avg_sq": numbers["second"][key],
        }
    done = max(0, first_step)
    advance(done)
    losses: list[float] = []
    for step in range(done, steps + 1):
        if step in at and step > first_step:
            place = at.index(step)
            curves[:, place] = np.mean(losses) if losses else np.nan, loss(network, validation)
            losses = []
            if curves[1, place] < best:
                best, best_step = float(curves[1, place]), step
                numbers["best"] = {key: x.detach().clone() for key, x in weights.items()}
            numbers["now"] = weights
            kept[name] = {
                f"{which}.{key}": x.detach().cpu().numpy()
                for which in PARTS
                for key, x in numbers[which].items()
            } | {
                "step": np.array(step),
                "best_step": np.array(best_step),
                "best": np.array(best),
                "curves": curves,
                "made_with": np.array(json.dumps(made_with)),
            }
            advance(step - done)
            done = step
        if step == steps:
            break
        inputs, targets = batch(step)
        value = _cross_entropy(network(inputs), targets)
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            note = f"diverged: the loss was {losses[-1]} at step {step}"
            advance(steps - done)
            break
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), MAX_NORM)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * step_size(step, steps)
        optimizer.step()
    for key, x in weights.items():
        x.data.copy_(numbers["best"][key])
    return Trained(curves[0], curves[1], best_step, note)


def _same(name: str, got: dict, wanted: dict) -> None:
    """UserError if a part was made with other settings."""
    for key in wanted:
        if got.get(key) != wanted[key]:
            raise UserError(
                f"the checkpoint {name} was made with {key} {got.get(key)}, wanted {wanted[key]}: "
                "it belongs to another study; move it there, and run again"
            )


def loss(network: Any, data: Batch) -> float:
    """Cross-entropy in nats, mean over the targets that are asked."""
    total, n = 0.0, 0
    for inputs, targets in _pieces(data):
        with torch.no_grad():
            asked = int((targets >= 0).sum())
            total += float(_cross_entropy(network(inputs), targets)) * asked if asked else 0.0
            n += asked
    return total / n


def accuracy(network: Any, data: Batch) -> float:
    """Share of the targets that are asked which have the largest logit."""
    right, n = 0, 0
    for inputs, targets in _pieces(data):
        with torch.no_grad():
            right += int((network(inputs).argmax(-1) == targets).sum())
            n += int((targets >= 0).sum())
    return right / n


def score(network: Any, data: Batch, unit: str, change: Change | None = None) -> float:
    """Bits per character, or accuracy; with a change of the output of all heads."""

    def changed(inputs: Tensor) -> Tensor:
        return network(inputs) if change is None else network(inputs, change)

    return accuracy(changed, data) if unit == "accuracy" else loss(changed, data) / math.log(2)


def _pieces(data: Batch) -> list[Batch]:
    n = max(1, TOKENS // data[0].shape[1])
    return list(zip(data[0].split(n), data[1].split(n)))


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


def write(
    network: Any, prompts: list[list[int]], n: int, temperature: float, uniform: np.ndarray
) -> list[list[int]]:
    """Continue prompts by n symbols each, token by token with what the network keeps of the past.

    uniform [>= longest prompt + n, prompt] are random numbers between 0 and 1: the symbol that is
    drawn at a temperature is the first whose cumulative probability exceeds them.
    """
    texts = [list(prompt) for prompt in prompts]
    past = network.empty(len(texts))
    device = next(network.parameters()).device
    for place in range(max(map(len, prompts)) + n - 1):
        # a text that is complete is read on, so that all stay of one length
        symbols = torch.tensor([text[min(place, len(text) - 1)] for text in texts], device=device)
        with torch.no_grad():
            logits, past = network.step(past, symbols)
        shares = torch.softmax(logits.double() / temperature, -1).cumsum(-1).cpu().numpy()
        for text, prompt, share, u in zip(texts, prompts, shares, uniform[place]):
            if place == len(text) - 1 and len(text) < len(prompt) + n:
                text.append(min(int(np.searchsorted(share, u, "right")), len(share) - 1))
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts)]
