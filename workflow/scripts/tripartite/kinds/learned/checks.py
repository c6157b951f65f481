"""Numbers of features that cannot be trained."""

from collections.abc import Iterator

from ...words import Fault


def faults(
    where: tuple, settings: dict, wrote: dict, names: list[str] | None, shape: dict[str, int]
) -> Iterator[Fault]:
    odd = [size for size in settings.get("n_features", []) if size and size % 2]
    if odd:
        text = f"{odd[0]} is odd, every hidden neuron makes 2 features; use even numbers"
        yield (*where, "n_features"), text
