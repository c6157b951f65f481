"""Variants of a comparison whose settings do not go together."""

from collections.abc import Iterator

from ...checks import calibration_faults, map_faults
from ...words import Fault


def faults(
    where: tuple, settings: dict, wrote: dict, names: list[str] | None, shape: dict[str, int]
) -> Iterator[Fault]:
    variants = {key: part for key, part in settings.get("variants", {}).items() if part}
    written, sizes = wrote.get("variants", {}), settings.get("n_features", [])
    for name, variant in variants.items():
        for keys, text in map_faults((*where, "variants", name), variant, written[name], sizes):
            yield (*where, "n_features") if keys[-1] == "n_features" else keys, text
    maps = [(variant.get("feature_map"), written[name]) for name, variant in variants.items()]
    yield from calibration_faults(where, settings, maps, names)
