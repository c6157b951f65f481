"""Layers that the model does not have, and settings of trained hidden layers."""

from collections.abc import Iterator

from ...words import Fault, choices

LEARNED = "learned"
OF_LEARNED = ("validated_on", "max_learned", "max_steps")


def faults(
    where: tuple, settings: dict, wrote: dict, names: list[str] | None, shape: dict[str, int]
) -> Iterator[Fault]:
    parts = [part for part in settings.get("parts", []) if part]
    n_layers = shape.get("layers", 0)
    for part in parts if n_layers else ():
        kind, _, number = part.partition(" ")
        if number and int(number) >= n_layers + (kind == "first"):
            has = f"layers 0 to {n_layers - 1}" if kind == "layer" else f"{n_layers} layers"
            yield (*where, "parts"), f"{part} does not exist; the model has {has}"
    recipes = settings.get("recipes", [])
    if LEARNED not in recipes:
        for key in OF_LEARNED if all(recipes) and recipes else ():
            if key in wrote:
                yield (*where, key), f"goes with the recipe {LEARNED} only; remove it"
        return
    if "validated_on" not in wrote:
        text = f"is missing, {LEARNED} needs inputs on which its best step is chosen"
        yield (*where, "validated_on"), text + choices(names or [])
    if "feasible" in parts:
        text = f"feasible needs a closed form, which {LEARNED} has not; leave one of the two out"
        yield (*where, "parts"), text
    largest, sizes = settings.get("max_learned"), [x for x in settings.get("n_features", []) if x]
    trained = [size for size in sizes if largest and size <= largest]
    odd = [size for size in trained if size % 2]
    if odd:
        text = f"{odd[0]} is odd, every trained neuron makes 2 features; use even numbers"
        yield (*where, "n_features"), text
    if sizes and largest and not trained:
        text = f"{largest} is below all n_features, nothing would be trained"
        yield (*where, "max_learned"), f"{text}; raise it to {sizes[0]}, or take out {LEARNED}"
