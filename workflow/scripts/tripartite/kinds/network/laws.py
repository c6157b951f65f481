"""Laws of the typical error: phases of networks, power laws inside them, and the collapse of p / Z.

See tripartite/phases.py. A point is a head; its typical error is the median over queries.
"""

import numpy as np

from tripartite import phases
from tripartite.statistics import over_clusters
from tripartite.streams import stream

NOT_RUN = "not simulated, or without any error"
NO_PHASE = "no closed form tells the phase of this feature map"
GAUSSIAN = phases.PHASES.index("gaussian")


def laws(
    n_features: np.ndarray,
    sigma_squared: np.ndarray,
    typical: np.ndarray,
    ratio: np.ndarray,
    distinct: np.ndarray,
) -> dict[str, object]:
    """The variables of fit.nc that tell laws; of those with an interval, estimate, low and high.

    sigma_squared [layer, head] is NaN without a closed form; typical [n_features, input, draw,
    layer, head] is the ln of typical errors; ratio [n_features, layer, head] is p / Z; heads of one
    number in distinct [layer, head] share their weights, and are one cluster.
    """
    of_heads, log_m, distinct = sigma_squared.shape, np.log(n_features), distinct.ravel()
    sigma_squared, typical, ratio = (
        x.reshape(*x.shape[:-2], -1) for x in (sigma_squared, typical, ratio)
    )  # [..., point]
    known, run = np.isfinite(sigma_squared), np.isfinite(typical).all((0, 1, 2))
    index = phases.phase(log_m[:, None], np.where(known, sigma_squared, 0))  # [n_features, point]
    with np.errstate(invalid="ignore"):
        reach = phases.reach(log_m[:, None], sigma_squared)
    inside = [known & (index == phase) for phase in range(len(phases.PHASES))]
    found = [
        exponents(log_m, typical, sizes & run, distinct, stream(0, "bootstrap", "exponent", name))
        for name, sizes in zip(phases.PHASES, inside)
    ]
    of_points, of_phase, n_heads = zip(*found)
    shift, shift_note = collapse(reach, ratio, (index < GAUSSIAN) & run, distinct)
    others = {
        "phase_of": np.where(known, np.array(phases.PHASES)[index], "").astype(object),
        "reach": reach,
        "exponent_note": np.array([_exponent_notes(sizes, run, known) for sizes in inside]),
        "pool_log_ratio_law": phases.pool_log_ratio(log_m[:, None], sigma_squared),
    }  # [..., point]
    return {
        "exponent": tuple(np.stack(of_points, 1).reshape(3, len(inside), *of_heads)),
        **{name: x.reshape(*x.shape[:-1], *of_heads) for name, x in others.items()},
        "phase_exponent": tuple(np.stack(of_phase, 1)),
        "phase_heads": np.array(n_heads),
        **of_phases(ratio, inside),
        "collapse_shift": shift,
        "collapse_note": shift_note,
    }


def exponents(
    log_m: np.ndarray,
    typical: np.ndarray,
    inside: np.ndarray,
    distinct: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Exponents of typical errors [n_features, input, draw, point] over the sizes inside one phase.

    inside [n_features, point]. Returns, with intervals, the mean over inputs and draws [3, point]
    and that over points as well [3]; and the number of points with enough sizes, the others are
    NaN.
    """
    enough = inside.sum(0) >= phases.MIN_POINTS
    found = np.full(typical.shape[1:], np.nan)  # [input, draw, point]
    for sizes in map(np.array, {tuple(column) for column in inside.T[enough]}):
        same = np.flatnonzero((inside.T == sizes).all(1))
        found[..., same] = phases.slopes(
            log_m[sizes], np.moveaxis(typical[sizes][..., same], 0, -1)
        )
    of_points, points = np.full((3, len(enough)), np.nan), np.flatnonzero(enough)
    if not len(points):
        return of_points, np.full(3, np.nan), 0
    found = found[..., points]
    of_points[:, points] = over_clusters(lambda x: x.mean((0, 1)), found, [None, None], rng)
    of_all = over_clusters(np.mean, found, [None, None, distinct[points]], rng)
    return of_points, np.array(of_all), len(points)


def _exponent_notes(inside: np.ndarray, run: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Why a point has no exponent in a phase [point]."""
    few = [
        f"{n} numbers of neurons in this phase, {phases.MIN_POINTS} needed" for n in inside.sum(0)
    ]
    notes = np.where(inside.sum(0) < phases.MIN_POINTS, few, "")
    return np.where(known, np.where(run, notes, NOT_RUN), NO_PHASE).astype(object)


def of_phases(ratio: np.ndarray, inside: list[np.ndarray]) -> dict[str, np.ndarray]:
    """p / Z [n_features, point] of the heads of each phase: their number, and what spans them.

    inside has for each phase whether a head is in it, [n_features, point].
    """
    found = [np.where(sizes & np.isfinite(ratio), ratio, np.nan) for sizes in inside]
    quantiles = np.full((3, len(ratio), len(inside)), np.nan)
    for phase, values in enumerate(found):
        some = np.isfinite(values).any(1)
        quantiles[:, some, phase] = np.nanquantile(values[some], (0.1, 0.5, 0.9), axis=1)
    low, middle, high = quantiles
    return {
        "heads_in_phase": np.stack([np.isfinite(x).sum(1) for x in found], 1),
        "normalizer_ratio_in_phase": middle,
        "normalizer_ratio_in_phase_q10": low,
        "normalizer_ratio_in_phase_q90": high,
    }


def collapse(
    reach: np.ndarray, ratio: np.ndarray, outside: np.ndarray, distinct: np.ndarray
) -> tuple[tuple[float, float, float], str]:
    """The shift of ln Phi(b_m - sigma) that fits p / Z, with its interval, and why there is none.

    reach, ratio and outside, whether the Gaussian phase was left, [n_features, point].
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        log_ratio = np.log(ratio)
        usable = np.isfinite(log_ratio) & (reach > phases.MIN_REACH) & outside
    points = np.flatnonzero(usable.any(0))
    if len(points) < 2 or usable.sum() < phases.MIN_POINTS:
        return (np.nan,) * 3, (
            f"{usable.sum()} networks of {len(points)} heads outside the Gaussian phase, "
            f"{phases.MIN_POINTS} of 2 needed"
        )

    def shift(x: np.ndarray) -> np.ndarray:  # [point, n_features, 3]
        x = x[x[..., 2] == 1]
        return np.asarray(phases.collapse_shift(x[:, 0], x[:, 1]))

    networks = np.stack([reach, log_ratio, usable], -1)[:, points].swapaxes(0, 1)
    rng = stream(0, "bootstrap", "collapse")
    clusters = [distinct[points]]
    estimate, low, high = over_clusters(shift, networks, clusters, rng, n_draws=500)
    return (float(estimate), float(low), float(high)), ""
