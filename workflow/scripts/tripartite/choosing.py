"""Inputs and heads that a study chooses without names: `half` of the inputs, a number of heads.

This module imports no large package, because every parse of the Snakefile imports it.
"""

from collections.abc import Sequence

HALF = "half"
GOLDEN = 0.6180339887498949  # its multiples modulo 1 are evenly spread, however many there are


def first_half(names: Sequence[str], left: int = 1) -> list[str]:
    """The first half of the names, rounded up, so that at least `left` of them remain."""
    return list(names[: max(0, min(-(-len(names) // 2), len(names) - left))])


def chosen_inputs(
    names: Sequence[str], fitted: str | Sequence[str], validated: str | Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Names of the inputs to which something is fitted, and of those that validate it.

    names: of all inputs, in order. Where fitted or validated is "half", it is the first half of the
    inputs that the other one does not take; at least one input remains to be tested.
    """
    if fitted == HALF:
        others = [name for name in names if name not in validated or validated == HALF]
        fitted = first_half(others, 2 if validated == HALF else 1)
    if validated == HALF:
        validated = first_half([name for name in names if name not in fitted])
    return list(fitted), list(validated)


def spread_heads(n: int, n_layers: int, n_heads: int) -> list[tuple[int, int]]:
    """n places [layer, head], evenly spread over n_layers layers and their n_heads heads.

    Layers differ by at most one in how many of their heads are taken; where there are fewer than n
    heads, all are.
    """
    n = min(n, n_layers * n_heads)
    places: set[tuple[int, int]] = set()
    for i in range(n):
        layer = (2 * i + 1) * n_layers // (2 * n)
        head = int((i + 0.5) * GOLDEN % 1 * n_heads)
        while (layer, head) in places:
            head = (head + 1) % n_heads
        places.add((layer, head))
    return sorted(places)


def count_heads(heads: str | int | Sequence, n_layers: int, n_heads: int) -> int:
    """How many heads the setting `heads` chooses: all, a number, or a list of [layer, head]."""
    if isinstance(heads, int):
        return min(heads, n_layers * n_heads)
    return n_layers * n_heads if isinstance(heads, str) else len(heads)
