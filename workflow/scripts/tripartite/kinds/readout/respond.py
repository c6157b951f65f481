"""Let calcium of real astrocytes carry the normaliser, and read it back as a power of calcium."""

import numpy as np
import xarray as xr

from tripartite.heads import Head, Heads
from tripartite.kinds.readout import curves, gain

CURVE_POINTS = 100  # of each curve of a model
MIN_STIMULUS = 0.01  # uM, curves begin there or below


def respond(
    heads: Heads, models: list[str], operating_points: list[float], depths: list[float]
) -> xr.Dataset:
    """Return steady states and oscillations of the models, and how well they normalise each head.

    operating_points are I_0, and depths what a head's mean Z adds to it (uM of IP3, of glutamate
    for g_chi). gamma is fitted to the first half of the inputs (of the queries, for one input) and
    tried on the second. Intervals are over inputs, NaN where there is only one. `note` says why
    there is no number.
    """
    rests, added = (np.sort(np.array(x, dtype=float)) for x in (operating_points, depths))
    at_mean = rests + added[:, None]  # [added_stimulus, operating_point]
    lowest, highest = min(MIN_STIMULUS, at_mean.min() / 2), max(2.0, 1.2 * at_mean.max())
    stimulus = np.geomspace(lowest, highest, CURVE_POINTS)

    def one_head(head: Head) -> dict:
        log_z = [x.log_normalizer.numpy() for x in head.readings]
        return gain.of_head(log_z, models, added, rests, head.stream("respond"))

    of_models = [curves.of_model(model, stimulus, at_mean) for model in models]
    values = {name: np.array([found[name] for found in of_models]) for name in of_models[0]}
    coords = {
        "model": models,
        "curve_place": np.arange(CURVE_POINTS),
        "stimulus": stimulus,
        "added_stimulus": added,
        "operating_point": rests,
    }
    return heads.table("readout", one_head, coords, **values)
