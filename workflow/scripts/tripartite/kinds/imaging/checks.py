"""Frames that are too many or too few, and inputs that are too few."""

from collections.abc import Iterator

from ...checks import too_many
from ...words import Fault
from .limits import MAX_PLANNED, MIN_FRAMES, MIN_INPUTS


def faults(
    where: tuple, settings: dict, wrote: dict, names: list[str] | None, shape: dict[str, int]
) -> Iterator[Fault]:
    tokens, frame = shape.get("tokens", 0), settings.get("frame_seconds")
    total = tokens * settings.get("read_seconds", 0)
    yield from too_many(where, settings, "frame_seconds", total, MAX_PLANNED, tokens)
    if frame and 0 < total < MIN_FRAMES * frame:
        text = (
            f"{frame} s are {total / frame:.1f} frames in the {total:g} s of {tokens} tokens, "
            f"wanted at least {MIN_FRAMES}; lower it, or raise read_seconds"
        )
        yield (*where, "frame_seconds"), text
    if names is not None and len(names) < MIN_INPUTS:
        yield (
            where,
            f"got data of {len(names)} inputs, wanted at least {MIN_INPUTS}: rivals hold others",
        )
