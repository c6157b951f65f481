"""Leaks that let the output grow beyond all numbers."""

from collections.abc import Iterator

from ...checks import MAX_GROWTH
from ...words import Fault


def faults(
    where: tuple, settings: dict, wrote: dict, names: list[str] | None, shape: dict[str, int]
) -> Iterator[Fault]:
    tokens = shape.get("tokens", 0)
    for pair in filter(None, settings.get("leaks", [])):
        growth = (pair[1] - pair[0]) * settings.get("token_seconds", 0) * tokens
        if growth > MAX_GROWTH:
            text = (
                f"{pair} lets the output of {tokens} tokens grow up to exp({growth:.0f}) times, "
                f"wanted exp({MAX_GROWTH}) at most; bring the two closer, or lower token_seconds"
            )
            yield (*where, "leaks"), text
