"""Curves of one calcium model: its steady states, its oscillations and exponents by stimulus."""

import numpy as np

from tripartite import calcium


def of_model(
    model: str, stimulus: np.ndarray, at_mean: np.ndarray
) -> dict[str, np.ndarray | float]:
    """Variables of readout.nc that belong to a model, by their names.

    stimulus [k] (uM) rises; as many steady states are taken along their curve. at_mean (uM) are
    stimuli of any shape at which exponents and relaxation times are wanted.
    """
    c, growth = calcium.along_curve(model, stimulus[-1], len(stimulus))
    found: dict[str, np.ndarray | float] = {
        "steady_stimulus": calcium.curve(model, c)[0],
        "steady_calcium": c,
        "steady_growth": growth,
        "exponent": calcium.exponent(model, stimulus),
        **cycles(model, stimulus),
    }
    for kind in ("hopf", "fold"):
        stimuli = [b.stimulus for b in calcium.bifurcations(model) if b.kind == kind]
        found[f"{kind}_first"] = min(stimuli, default=np.nan)
        found[f"{kind}_last"] = max(stimuli, default=np.nan)
    seconds = [calcium.relaxation_seconds(model, x) for x in at_mean.ravel()]
    return found | {
        "exponent_at_mean": calcium.exponent(model, at_mean.ravel()).reshape(at_mean.shape),
        "relaxation_seconds": np.reshape(seconds, at_mean.shape),
    }


def cycles(model: str, stimulus: np.ndarray) -> dict[str, np.ndarray]:
    """Period (s), lowest and highest calcium (uM) of the oscillation at each stimulus [k] (uM).

    Each is simulated from the end of the last one; NaN where calcium comes to rest.
    """
    found, state = [], None
    for x in stimulus:
        cycle = calcium.limit_cycle(model, x, state)
        state = cycle.state if np.isfinite(cycle.period) else None
        found.append((cycle.period, cycle.lowest, cycle.highest))
    return dict(zip(("period", "cycle_low", "cycle_high"), np.array(found).T))
