"""The networks of a head: what they are given, their responses, and the errors of their outputs."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from tripartite.attention import relative_error
from tripartite.features import CHUNK
from tripartite.network import Tokens, device_block_bytes, read
from tripartite.symmetries import Symmetry, transform

T = TypeVar("T")
Response = tuple[Tensor, Tensor, Tensor]  # ln|p| [T], sign of p [T], output [T, E]


def seen(
    q: Tensor, k: Tensor, v: Tensor, symmetry: Symmetry, dtype: torch.dtype, device: str
) -> tuple[Tokens, Tensor]:
    """What the hidden neurons see of q, k [T, D], v [T, E], and what ln|p| lacks of ln Z [T]."""
    q, k, log_gain, log_shift = transform(q, k, symmetry)
    q, k, v = (x.to(device, dtype) for x in (q, k, v))
    return Tokens(q, k, v, log_gain.to(device)), log_shift


def read_batch(
    sequences: Sequence[Tokens],
    draws: Sequence[Iterable[tuple[Tensor, Tensor]]],
    ranges: Sequence[tuple[int, int]],
    n_threads: int = 1,
    **options: Any,
) -> list[list[list[Response]]]:
    """As network.read for the neurons of each draw, all draws and sequences in one batch.

    This is fastest on a GPU; bidirectional networks alone. Responses [draw][range][sequence] are on
    the CPU.
    """
    batch = Tokens(*(x.expand(len(draws), *x.shape) for x in padded(sequences)))
    layers = (
        (torch.stack(weights)[:, None], torch.stack(bias)[:, None])  # [draw, 1, n, D], [draw, 1, n]
        for weights, bias in (zip(*pieces) for pieces in drawn_ahead(draws, n_threads))
    )
    found = read([batch], layers, ranges, **options)
    responses = [[x.cpu() for x in response] for (response,) in found]  # [draw, input, T, ...]
    lengths = [len(tokens.q) for tokens in sequences]
    return [
        [
            [
                (log_p[draw, i, :n], sign[draw, i, :n], output[draw, i, :n])
                for i, n in enumerate(lengths)
            ]
            for log_p, sign, output in responses
        ]
        for draw in range(len(draws))
    ]


def drawn_ahead(draws: Sequence[Iterable[T]], n_threads: int) -> Iterator[list[T]]:
    """As zip(*draws) of equally long draws: several at a time, and the next during the last."""
    with ThreadPoolExecutor(n_threads) as pool:
        iterators = [iter(draw) for draw in draws]

        def begin() -> list[Future]:
            return [pool.submit(next, iterator, None) for iterator in iterators]

        begun = begin()
        while None not in (pieces := [future.result() for future in begun]):
            begun = begin()
            yield pieces


def draws_at_once(sequences: Sequence[Tokens], m: int, n_ranges: int, n_threads: int) -> int:
    """How many draws of m neurons fit in a batch.

    Their weights are no more numbers than a thread holds of a large network, and the outputs of
    their networks fit in a block of the device's memory.
    """
    longest = max(len(tokens.q) for tokens in sequences)
    outputs = 8 * n_ranges * len(sequences) * longest * (sequences[0].v.shape[1] + 2)
    fits = device_block_bytes(sequences[0].q.device) // outputs
    return max(1, min(max(CHUNK // m, n_threads), fits))


def padded(sequences: Sequence[Tokens]) -> Tokens:
    """Sequences of different lengths as one batch; what is added has no gain."""

    def pad(parts: Sequence[Tensor], value: float = 0.0) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([*parts], batch_first=True, padding_value=value)

    q, k, v, log_gain = zip(*sequences)
    return Tokens(pad(q), pad(k), pad(v), pad(log_gain, -torch.inf))


def output_errors(
    outputs: dict[int, Tensor], exact: Tensor, log_calcium: Tensor, sign: Tensor
) -> dict[str, list[float]]:
    """Errors and gains of outputs [T, E], by seed, of networks of one size that read one input.

    log_calcium and sign [seed, T] are those of all networks of the size. output_error_other_pool is
    that of an output which is divided by the calcium of the next network, which has other neurons.
    """
    errors, gains, errors_other_pool = [], [], []
    for seed, output in outputs.items():
        output, other = output.double(), (seed + 1) % len(log_calcium)
        errors.append(float(relative_error(output, exact)))
        gains.append(float((output * exact).sum() / exact.norm().square()))
        # ASSUME: a silent network has output 0, whatever divides it.
        ratio = torch.exp(log_calcium[seed] - log_calcium[other]) * sign[seed] * sign[other]
        other_pool = torch.where(sign[seed] == 0, 0.0, ratio)[:, None] * output
        errors_other_pool.append(float(relative_error(other_pool, exact)))
    return {
        "output_error": errors,
        "output_gain": gains,
        "output_error_other_pool": errors_other_pool,
    }
