"""Times that do not go together, of a simulation in continuous time."""

from collections.abc import Iterator
from fractions import Fraction

from ...checks import MAX_GROWTH, too_many
from ...words import Fault

# Longest stable step over the time constant of Runge-Kutta's method of order 4, on the real axis,
# as in dynamics.py.
STABLE = 2.785
MAX_SAMPLES, MAX_STEPS = 2_000_000, 20_000_000
# Shortest time constants in the time of all tokens: steps of the adaptive integrator are as short.
MAX_ADAPTIVE = 2_000_000


def faults(
    where: tuple, settings: dict, wrote: dict, names: list[str] | None, shape: dict[str, int]
) -> Iterator[Fault]:
    tokens = shape.get("tokens", 0)
    on = [settings.get(key, 0) for key in ("token_seconds", "read_seconds")]
    total = tokens * sum(on)
    for key, limit in (("sample_seconds", MAX_SAMPLES), ("step_seconds", MAX_STEPS)):
        yield from too_many(where, settings, key, total, limit, tokens)
    sample = settings.get("sample_seconds")
    if sample and 0 < tokens * sum(Fraction(str(x)) for x in on) < Fraction(str(sample)):
        text = f"{sample} s is longer than the {total:g} s of {tokens} tokens; lower it"
        yield (*where, "sample_seconds"), text
    lost, kept = (settings.get(key) for key in ("leak_presynaptic", "leak_hebbian"))
    growth = 0 if lost is None or kept is None else (lost - kept) * total
    if growth > MAX_GROWTH:
        text = (
            f"{lost} lets the output grow up to exp({growth:.0f}) times in the {total:g} s of "
            f"{tokens} tokens, wanted exp({MAX_GROWTH}) at most; bring it closer to leak_hebbian "
            f"({kept})"
        )
        yield (*where, "leak_presynaptic"), text
    constants, step = time_constants(settings), settings.get("step_seconds")
    if not constants:
        return
    shortest = min(constants, key=constants.__getitem__)
    least = constants[shortest]
    if settings.get("integrator") == "adaptive" and total / least > MAX_ADAPTIVE:
        text = (
            f"adaptive takes steps as short as the shortest time constant ({shortest}, "
            f"{least:g} s), {total / least:.2g} in the {total:g} s of {tokens} tokens, wanted at "
            f"most {MAX_ADAPTIVE}; raise it to {1.05 * total / MAX_ADAPTIVE:.2g} s or more, or use "
            "exact"
        )
        yield (*where, "integrator"), text
    if step and settings.get("integrator") in ("exact", "runge_kutta") and step > STABLE * least:
        text = (
            f"{step} s is unstable: the limit of Runge-Kutta is {STABLE} times the shortest time "
            f"constant ({shortest}, {least:g} s), {STABLE * least:.3g} s; lower it, or use "
            "integrator: adaptive"
        )
        yield (*where, "step_seconds"), text


def time_constants(settings: dict) -> dict[str, float]:
    """Times (s) in which something relaxes, by the settings that say so."""
    constants = {key: settings[key] for key in settings if key.startswith("tau_")}
    constants |= {
        f"1 / {key}": 1 / settings[key]
        for key in ("leak_hebbian", "leak_presynaptic")
        if settings.get(key)
    }
    return {key: value for key, value in constants.items() if value}
