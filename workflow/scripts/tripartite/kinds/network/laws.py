"""Laws of the typical error: phases of networks, power laws inside them, and the collapse of p / Z.

See tripartite/phases.py. A point is a head; its typical error is the median over queries.
"""

import numpy as np

from tripartite import phases
from tripartite.statistics import cluster_bootstrap
from tripartite.streams import stream

NOT_RUN = "not simulated, or without any error"
NO_PHASE = "no closed form tells the phase of this feature map"
ONE_LAW = "one power law serves: the exponents before and after do not differ"
GAUSSIAN = phases.PHASES.index("gaussian")


def laws(
    n_features: np.ndarray, sigma_squared: np.ndarray, typical: np.ndarray, ratio: np.ndarray
) -> dict[str, object]:
    """The variables of fit.nc that tell laws; of those with an interval, estimate, low and high.

    sigma_squared [layer, head] is NaN without a closed form; typical [n_features, input, draw,
    layer, head] is the ln of typical errors; ratio [n_features, layer, head] is p / Z.
    """
    of_heads, log_m = sigma_squared.shape, np.log(n_features)
    sigma_squared, typical, ratio = (
        x.reshape(*x.shape[:-2], -1) for x in (sigma_squared, typical, ratio)
    )  # [..., point]
    known, run = np.isfinite(sigma_squared), np.isfinite(typical).all((0, 1, 2))
    index = phases.phase(log_m[:, None], np.where(known, sigma_squared, 0))  # [n_features, point]
    with np.errstate(invalid="ignore"):
        reach = phases.reach(log_m[:, None], sigma_squared)
    inside = [known & (index == phase) for phase in range(len(phases.PHASES))]
    found = [
        exponents(log_m, typical, sizes & run, stream(0, "bootstrap", "exponent", name))
        for name, sizes in zip(phases.PHASES, inside)
    ]
    of_points, of_phase, n_heads = zip(*found)
    meeting, meeting_note = crossovers(log_m, typical, run)
    shift, shift_note = collapse(reach, ratio, (index < GAUSSIAN) & run)
    intervals = {"exponent": np.stack(of_points, 1)} | meeting  # [3, ..., point]
    others = {
        "phase_of": np.where(known, np.array(phases.PHASES)[index], "").astype(object),
        "reach": reach,
        "exponent_note": np.array([_exponent_notes(sizes, run, known) for sizes in inside]),
        "crossover_note": meeting_note,
    }  # [..., point]
    return {
        **{name: tuple(x.reshape(*x.shape[:-1], *of_heads)) for name, x in intervals.items()},
        **{name: x.reshape(*x.shape[:-1], *of_heads) for name, x in others.items()},
        "phase_exponent": tuple(np.stack(of_phase, 1)),
        "phase_heads": np.array(n_heads),
        "collapse_shift": shift,
        "collapse_note": shift_note,
    }


def exponents(
    log_m: np.ndarray, typical: np.ndarray, inside: np.ndarray, rng: np.random.Generator
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
    of_points[:, points] = cluster_bootstrap(lambda x: x.mean((0, 1)), found, 2, rng)
    of_all = cluster_bootstrap(np.mean, np.moveaxis(found, 2, 1), 3, rng)  # [input, point, draw]
    return of_points, np.array(of_all), len(points)


def _exponent_notes(inside: np.ndarray, run: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Why a point has no exponent in a phase [point]."""
    few = [
        f"{n} numbers of neurons in this phase, {phases.MIN_POINTS} needed" for n in inside.sum(0)
    ]
    notes = np.where(inside.sum(0) < phases.MIN_POINTS, few, "")
    return np.where(known, np.where(run, notes, NOT_RUN), NO_PHASE).astype(object)


def crossovers(
    log_m: np.ndarray, typical: np.ndarray, run: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Where two power laws of the typical error meet [3, point], and why they do not [point].

    NaN where one law serves.
    """
    values = np.full((3, 3, len(run)), np.nan)  # what, estimate and its ends, point
    note = f"{len(log_m)} numbers of neurons, {phases.MIN_POINTS_TWO} needed"
    notes, points = np.where(run, note, NOT_RUN).astype(object), np.flatnonzero(run)
    if len(log_m) >= phases.MIN_POINTS_TWO and len(points):

        def meeting(x: np.ndarray) -> np.ndarray:  # [input, draw, point, n_features]
            place, before, after = phases.crossover(log_m, x.mean((0, 1)))
            return np.stack([place / np.log(10), before, after, after - before])

        by_point = np.moveaxis(typical[..., points], 0, -1)
        rng = stream(0, "bootstrap", "crossover")
        found = np.stack(cluster_bootstrap(meeting, by_point, 2, rng, n_draws=500), 1)
        one_law = ~(found[3, 1] * found[3, 2] > 0)  # the change of the exponent may be 0
        values[:, :, points] = np.where(one_law, np.nan, found[:3])
        notes[points] = np.where(one_law, ONE_LAW, "")
    names = ("log10_crossover", "exponent_before", "exponent_after")
    return dict(zip(names, values)), notes


def collapse(
    reach: np.ndarray, ratio: np.ndarray, outside: np.ndarray
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
    estimate, low, high = cluster_bootstrap(shift, networks, 1, rng, n_draws=500)
    return (float(estimate), float(low), float(high)), ""
