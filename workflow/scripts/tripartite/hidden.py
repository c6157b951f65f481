"""Networks of random hidden neurons on one head: the same in all experiments on the same data.

Apart from heads.py, so that an edit of the network concerns only the stages that run one.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tripartite.features import draw_neurons
from tripartite.heads import Head, Reading
from tripartite.network import Leak, Tokens, read

NO_LEAK = Leak()

# ln p [T], sign of p [T] and output [T, E] of a network on an input.
Response = tuple[Tensor, Tensor, Tensor]


def tokens(reading: Reading, device: str = "cpu", one_hot: bool = False) -> Tokens:
    """What a network is given; with one-hot values its outputs are its attention weights."""
    v = torch.eye(len(reading.k), dtype=torch.float64) if one_hot else reading.v
    log_gain = torch.zeros(len(reading.k), dtype=torch.float64)
    return Tokens(*(x.to(device) for x in (reading.q, reading.k, v, log_gain)))


def neurons(
    head: Head, draw: int, m: int, feature_map: str = "performer", a: float | Tensor = 0.0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights [n, D] and bias [n] of the first m neurons of a draw, some at a time."""
    weights, phases = (head.stream(name, draw) for name in ("omega", "phase"))
    return draw_neurons(feature_map, weights, phases, m, head.readings[0].q.shape[1], a)


def networks(
    head: Head,
    draw: int,
    n_features: Sequence[int],
    one_hot: bool = False,
    leak: Leak = NO_LEAK,
) -> list[list[Response]]:
    """Responses of networks of positive features to all inputs, [n_features][input]."""
    given = [tokens(reading, head.device, one_hot) for reading in head.readings]
    ranges = [(0, m) for m in n_features]
    drawn = neurons(head, draw, n_features[-1])
    found = read(given, drawn, ranges, causal=head.causal, leak=leak)
    return [[(p.cpu(), sign.cpu(), o.cpu()) for p, sign, o in network] for network in found]
