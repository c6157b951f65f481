"""Let calcium of real astrocytes carry the normaliser, and read it back as a power of calcium."""

import numpy as np
import xarray as xr

from tripartite.calcium import CALCIUM_MODELS
from tripartite.heads import Head, Heads
from tripartite.kinds.readout import curves, gain

CURVE_POINTS, CYCLES = 100, 32  # of each curve of a model, and of its oscillations


def respond(
    heads: Heads,
    models: list[str],
    normalizer_shares: list[float],
    n_operating_points: int,
    calcium_noise: list[float],
    vesicles: list[float],
) -> xr.Dataset:
    """Return steady states and oscillations of the models, and how well they normalise each head.

    Operating points lie throughout the span of each model, with each of the normalizer_shares.
    Powers and the best operating points are fitted to the inputs that calibrate and tried on the
    others, over which intervals are. `note` and `best_note` say why there is no number.
    """
    shares = np.sort(np.array(normalizer_shares, dtype=float))
    noises = [gain.Noise(), *map(gain.Noise, sorted(calcium_noise))]
    noises += [gain.Noise(vesicles=n) for n in sorted(vesicles, reverse=True)]
    points = {
        model: np.geomspace(*CALCIUM_MODELS[model].span, n_operating_points) for model in models
    }

    def one_head(head: Head) -> dict:
        fitted, tested = (
            [x.log_normalizer.numpy() for x in readings]
            for readings in (head.calibrating, head.readings)
        )
        return gain.of_head(fitted, tested, points, shares, noises, head.stream("respond"))

    of_models = [curves.of_model(model, CURVE_POINTS, CYCLES, points[model]) for model in models]
    values = {name: np.array([found[name] for found in of_models]) for name in of_models[0]}
    coords = {
        "readout": gain.READOUTS,
        "noise": [noise.name for noise in noises],
        "model": models,
        "curve_place": np.arange(CURVE_POINTS),
        "cycle_place": np.arange(CYCLES),
        "normalizer_share": shares,
        "operating_point": np.arange(n_operating_points),
    }
    values |= {
        "calcium_noise": np.array([noise.calcium for noise in noises]),
        "vesicles": np.array([noise.vesicles for noise in noises]),
    }
    return heads.table("readout", one_head, coords, **values)
