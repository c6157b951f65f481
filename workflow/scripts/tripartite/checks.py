"""Checks of settings that several kinds of experiments share; each kind may have a checks.py too.

Each check yields faults (keys, text). It reads only settings that have no fault yet; `wrote` are
the settings as the user wrote them, without defaults. This module imports no large package, because
every parse of the Snakefile imports it.
"""

from collections.abc import Iterator

from . import declarations
from .choosing import HALF
from .words import Fault, choices

MAX_GROWTH = 80  # ln of the gain that unequal leaks may give to outputs; float32 ends at exp(88)
HYPERBOLIC = "{} is odd, hyperbolic has pairs of neurons; use even numbers"


def maps_with(key: str) -> list[str]:
    """The feature maps that have a property in kinds/common.yaml: `fitted` or `exponential`."""
    return [name for name, spec in declarations.common()["feature_maps"].items() if spec.get(key)]


def map_faults(where: tuple, network: dict, wrote: dict, sizes: list) -> Iterator[Fault]:
    """Settings of another feature map, settings that are missing, and odd numbers of neurons."""
    feature_map = network.get("feature_map")
    for owner, spec in declarations.common()["feature_maps"].items():
        for key in spec.get("settings", []):
            if key in wrote and feature_map not in (None, owner):
                text = f"goes with feature_map {owner} only, not {feature_map}; remove it"
                yield (*where, key), text
    if feature_map == "truncated_performer" and "threshold" not in wrote:
        yield (*where, "threshold"), "is missing, truncated_performer needs one, such as 150"
    odd = [size for size in sizes if size and size % 2]
    if feature_map == "hyperbolic" and odd:
        yield (*where, "n_features"), HYPERBOLIC.format(odd[0])


def calibration_faults(
    where: tuple, settings: dict, maps: list[tuple[str | None, dict]], names: list[str] | None
) -> Iterator[Fault]:
    """Inputs to calibrate on that are missing, or that nothing needs.

    maps: names of feature maps, each with the settings that were written for it; names: inputs of
    the data.
    """
    calibrating, symmetries = settings.get("calibrated_on"), settings.get("symmetries", [None])
    if calibrating is None or not all(symmetries) or not all(calibrating):
        return
    if not all(feature_map for feature_map, _ in maps):
        return
    fitted = [name for name, wrote in maps if name in maps_with("fitted") and "a" not in wrote]
    if (symmetries or fitted) and not calibrating:
        needs = "symmetries need" if symmetries else f"{fitted[0]} needs"
        needs = needs.replace("generalized_positive", "generalized_positive without a")
        text = f"is missing, {needs} inputs to be fitted to{choices(names or [])}"
        yield (*where, "calibrated_on"), text
    if calibrating and calibrating != HALF and not symmetries and not fitted:
        text = f"goes with symmetries, {' or '.join(maps_with('fitted'))}; remove it, and name "
        text += "what is read as inputs"
        yield (*where, "calibrated_on"), text


def too_many(
    where: tuple, settings: dict, key: str, total: float, limit: int, tokens: int
) -> Iterator[Fault]:
    """A fault if the time settings[key] (s) fits more than `limit` times into the total (s)."""
    seconds = settings.get(key)
    if seconds and total / seconds > limit:
        text = (
            f"{seconds} s are {total / seconds:.0f} in the {total:g} s of {tokens} tokens, "
            f"wanted at most {limit}; raise it to {total / limit:.2g} s or more"
        )
        yield (*where, key), text
