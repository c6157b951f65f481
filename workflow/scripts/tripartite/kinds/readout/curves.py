"""Curves of one calcium model: its steady states, its oscillations and exponents by stimulus."""

import numpy as np

from tripartite import calcium


def of_model(
    model: str, n_points: int, n_cycles: int, at_mean: np.ndarray
) -> dict[str, np.ndarray | float | str]:
    """Variables of readout.nc that belong to a model, by their names.

    n_points are taken along each curve, n_cycles along the oscillation; at_mean [operating_point]
    (uM) are stimuli at which relaxation times are wanted.
    """
    stimulus = np.geomspace(*calcium.CALCIUM_MODELS[model].span, n_points)
    c, growth = calcium.along_curve(model, stimulus[-1], n_points)
    resting, regime = calcium.answer(model, stimulus)
    found: dict[str, np.ndarray | float | str] = {
        "stimulus_name": calcium.CALCIUM_MODELS[model].stimulus,
        "steady_stimulus": calcium.curve(model, c)[0],
        "steady_calcium": c,
        "steady_growth": growth,
        "stimulus": stimulus,
        "exponent": calcium.exponent_of(model, stimulus, resting),
        "regime": np.array(calcium.REGIMES, dtype=object)[regime],
        "mean_stimulus": at_mean,
        "relaxation_seconds": -1 / calcium.resting(model, at_mean)[1],
        **cycles(model, n_cycles),
    }
    for kind in ("hopf", "fold"):
        stimuli = [b.stimulus for b in calcium.bifurcations(model) if b.kind == kind]
        found[f"{kind}_first"] = min(stimuli, default=np.nan)
        found[f"{kind}_last"] = max(stimuli, default=np.nan)
    return found


def cycles(model: str, n: int) -> dict[str, np.ndarray]:
    """Period (s), lowest and highest calcium (uM) of the oscillation at n stimuli (uM).

    The stimuli lie from one end of the oscillation to the other; each is continued from the last
    one, downwards and upwards from the middle. NaN where there is none.
    """
    names = ("cycle_stimulus", "period", "cycle_low", "cycle_high")
    ends = calcium.oscillation(model)
    if np.isnan(ends[0]):
        return dict.fromkeys(names, np.full(n, np.nan))
    stimuli = np.geomspace(*ends, n)
    found, middle = np.full((3, n), np.nan), n // 2
    for places in (range(middle, -1, -1), range(middle, n)):
        state = None
        for i in places:
            cycle = calcium.limit_cycle(model, stimuli[i], state)
            state = cycle.state if np.isfinite(cycle.period) else state
            found[:, i] = cycle.period, cycle.lowest, cycle.highest
    return dict(zip(names, (stimuli, *found)))
