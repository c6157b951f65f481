"""Prompts that are empty."""

from collections.abc import Iterator

from ...words import Fault, shown


def faults(
    where: tuple, settings: dict, wrote: dict, names: list[str] | None, shape: dict[str, int]
) -> Iterator[Fault]:
    for prompt in settings.get("prompts", []):
        if prompt is not None and not prompt.strip():
            text = f"got {shown(prompt)}, which is empty; write the text that is to be continued"
            yield (*where, "prompts"), text
