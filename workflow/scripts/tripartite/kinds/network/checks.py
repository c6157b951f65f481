"""Settings of a network that do not go together."""

from collections.abc import Iterator

from ...checks import MAX_GROWTH, calibration_faults, map_faults, maps_with
from ...words import Fault

MAX_BLOCKS = 1024  # networks cut out of one; more take longer to sort out than to run


def faults(
    where: tuple, settings: dict, wrote: dict, names: list[str] | None, shape: dict[str, int]
) -> Iterator[Fault]:
    feature_map = settings.get("feature_map")
    sizes = [*filter(None, settings.get("n_features", []))]
    yield from map_faults(where, settings, wrote, sizes)
    yield from calibration_faults(where, settings, [(feature_map, wrote)], names)
    if settings.get("dtype") == "bfloat16":
        served = maps_with("exponential")
        if feature_map and feature_map not in served:
            text = f"bfloat16 does not serve {feature_map}; use float32 or float64, or one of "
            yield (*where, "dtype"), text + ", ".join(served)
    presynaptic, hebbian = settings.get("leak_presynaptic"), settings.get("leak_hebbian")
    if presynaptic is not None and hebbian is not None and "tokens" in shape:
        growth = (presynaptic - hebbian) * shape["tokens"]
        if growth > MAX_GROWTH:
            text = (
                f"{presynaptic} lets the output of {shape['tokens']} tokens grow up to "
                f"exp({growth:.0f}) times, wanted exp({MAX_GROWTH}) at most; bring it closer to "
                f"leak_hebbian ({hebbian})"
            )
            yield (*where, "leak_presynaptic"), text
    if settings.get("smaller_networks") == "blocks" and sizes:
        n_blocks = sizes[-1] // sizes[0]
        if n_blocks > MAX_BLOCKS:
            text = (
                f"{sizes[-1]} neurons make {n_blocks} blocks of {sizes[0]}, wanted at most "
                f"{MAX_BLOCKS}; raise the smallest number, or use smaller_networks: nested"
            )
            yield (*where, "n_features"), text
