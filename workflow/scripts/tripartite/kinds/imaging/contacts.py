"""Calcium of astrocytes on the same neurons whose contacts hold something else.

An astrocyte process follows p(q) = sum_a phi_a(q) g_a, with g_a = sum_t phi_a(k_t) written into
its contacts by the keys of an input. Rates are those of positive features, ln phi_a(x) = w_a.x -
|x|^2/2 up to a constant, which dF/F does not have. Of every input that is read, with two others of
the same data, the contacts

    this, other, third    hold the keys of the input itself, and of these others
    shuffled              hold those of the input, permuted over the neurons of a block
    reshuffled            the same, in another order
    other reshuffled      hold those of the first other, in this other order
    uniform               are all alike, as before learning: calcium is the mean rate of the neurons

ASSUME: what is 10^-300 of the largest product of rates and contacts of a query does not count.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CONTACTS = ("this", "other", "third", "shuffled", "reshuffled", "other reshuffled", "uniform")
BLOCK_BYTES = 1 << 24  # of rates at a time, tokens x neurons in float64


class Read(NamedTuple):
    """Queries [T, D] of an input, and the places of its own keys and those of two others."""

    q: Tensor
    this: int
    other: int
    third: int


def log_calcium(
    neurons: Iterable[Tensor], reads: Sequence[Read], keys: Sequence[Tensor], order: Tensor
) -> list[dict[str, np.ndarray]]:
    """ln p [T] of each input in `reads`, by the names of CONTACTS.

    neurons are weights [n, D], some at a time, keys [T, D] of all inputs. order [2, m] has two
    random keys for each neuron: by them the neurons of a block are put in order.
    """
    most_tokens = max(len(x) for x in [*keys, *(read.q for read in reads)])
    size = max(2, BLOCK_BYTES // (8 * most_tokens))
    found = [
        torch.full(
            (len(read.q), len(CONTACTS)), -torch.inf, dtype=torch.float64, device=read.q.device
        )
        for read in reads
    ]
    first = 0
    for weights in neurons:
        for block in weights.split(size):
            one, two = order[:, first : first + len(block)].argsort(-1)
            first += len(block)
            log_g = torch.stack([torch.logsumexp(_log_rates(k, block), 0) for k in keys])
            for total, read in zip(found, reads):
                this, other, third = log_g[[read.this, read.other, read.third]]
                held = [
                    this,
                    other,
                    third,
                    this[one],
                    this[two],
                    other[two],
                    torch.zeros_like(this),
                ]
                part = _product(_log_rates(read.q, block), torch.stack(held))
                torch.logaddexp(total, part, out=total)
    return [dict(zip(CONTACTS, total.T.cpu().numpy())) for total in found]


def _log_rates(x: Tensor, weights: Tensor) -> Tensor:
    """ln phi [T, n] of x [T, D]."""
    return x @ weights.T - x.square().sum(1, keepdim=True) / 2


def _product(log_rates: Tensor, log_contacts: Tensor) -> Tensor:
    """ln of the products [T, C] of rates [T, n] and contacts [C, n], given by their ln."""
    rates, contacts = (x.amax(1, keepdim=True) for x in (log_rates, log_contacts))
    products = (log_rates - rates).exp_() @ (log_contacts - contacts).exp_().T
    return products.log_() + rates + contacts.T
