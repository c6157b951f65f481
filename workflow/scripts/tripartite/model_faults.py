"""What is wrong with the declarations of pretrained models, one line each: file, key, what to do.

Apart from registry.py, so that the words of a message are no part of what data are made with.
Light, because every parse of the Snakefile imports it.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from .declarations import ORDERS
from .registry import ARCHITECTURES, INPUTS, PINS, SUFFIXES, TOKENIZERS, Model, declared, pins
from .words import shown, unknown, unknown_key

WANTED: dict[Any, str] = {
    int: "an integer",
    float: "a number with a point, such as 1.0e-12",
    str: "text",
}
CHOICES = {
    "inputs": INPUTS,
    "architecture": ARCHITECTURES,
    "tokenizer": TOKENIZERS,
    "order": ORDERS,
}


def require() -> None:
    """ValueError with one line for each fault of a declaration."""
    if faults := [line for name, keys in declared().items() for line in _faults(name, keys)]:
        raise ValueError("\n".join(sorted(faults)))


def pin_faults(packages: list[str]) -> Iterator[str]:
    """Packages whose wheels are not pinned, or several times: one line each."""
    for package in packages:
        pinned = [pin for name, (_, pin) in pins().items() if name.rsplit("-", 1)[0] == package]
        if [len(pin) for pin in pinned] != [64]:
            yield (
                f"{PINS} has no single pin of the wheel {package}; write one line "
                f"{package}==VERSION --hash=sha256:DIGEST"
            )


def _faults(name: str, keys: Any) -> Iterator[str]:
    """What is wrong with a declaration, one line each: its file, the key, and what to do."""
    where = f"models/{name}.yaml"
    if not isinstance(keys, dict):
        yield f"{where}: got {shown(keys)}, wanted a mapping (key: value)"
        return
    fields = {field.name: field for field in dataclasses.fields(Model) if field.name != "name"}
    yield from (
        f"{where}: {shown(key)}: {unknown_key(key, [*fields])}" for key in keys if key not in fields
    )
    needed = {key for key, field in fields.items() if field.default is dataclasses.MISSING}
    inputs, reads = str(keys.get("inputs")), ARCHITECTURES.get(str(keys.get("architecture")))
    needed |= {"tokenizer"} if reads == "texts" else set()
    if reads == "texts" and not str(keys.get("weights")).endswith(".gguf"):
        needed.add("vocabulary")
    if keys.get("architecture") == "llama":
        needed.add("rotary_base")
    if reads and inputs in INPUTS and (reads == "texts") != bool(INPUTS[inputs]):
        yield f"{where}: inputs: got {inputs}, {keys['architecture']} reads {reads}"
    for key in needed - {*keys}:
        yield f"{where}: {key}: is missing"
    for key in fields.keys() & keys.keys():
        value, kind = keys[key], fields[key].type
        if type(value) is not kind:
            yield f"{where}: {key}: got {shown(value)}, wanted {WANTED[kind]}"
        elif kind is not str and value <= 0:
            yield f"{where}: {key}: got {shown(value)}, wanted more than 0"
        elif key in CHOICES and value not in CHOICES[key]:
            yield f"{where}: {key}: {unknown(value, [*CHOICES[key]])}"
        elif key == "weights" and not value.endswith(SUFFIXES):
            yield f"{where}: {key}: got {shown(value)}, wanted one of {', '.join(SUFFIXES)}"
