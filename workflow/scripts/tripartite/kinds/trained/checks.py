"""Sizes of networks that do not fit together."""

from collections.abc import Iterator

from ...words import Fault


def faults(
    where: tuple, settings: dict, wrote: dict, names: list[str] | None, shape: dict[str, int]
) -> Iterator[Fault]:
    odd = [size for size in settings.get("n_features", []) if size and size % 2]
    if odd:
        text = f"{odd[0]} is odd, learned hidden neurons make 2 features each; use even numbers"
        yield (*where, "n_features"), text
    width, heads = settings.get("d_model"), settings.get("n_heads")
    if width and heads and width % (2 * heads):
        text = f"{width} is no multiple of {2 * heads}, twice the {heads} heads, since positions "
        text += f"turn pairs of numbers; use {(width // (2 * heads) + 1) * 2 * heads}"
        yield (*where, "d_model"), text
    rates = settings.get("learning_rates", [])
    for smaller, larger in zip(rates, rates[1:]):
        if smaller and larger and smaller >= larger:
            text = f"{larger} comes after {smaller}; wanted rising numbers, each once"
            yield (*where, "learning_rates"), text
            break
