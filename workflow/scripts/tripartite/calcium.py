"""Calcium models Li-Rinzel, ChI and G-ChI: steady states, bifurcations and oscillations.

Calcium C of the cytosol (uM) and the share h of receptors that are not inactivated, at IP3 I (uM):

    dC/dt = (Omega_C m^3 h^3 + Omega_L) (C_T - (1 + rho_A) C) - O_P C^2 / (C^2 + K_P^2)
    dh/dt = O_2 (Q_2 (1 - h) - C h)
    m = I / (I + d_1) C / (C + d_5),    Q_2 = d_2 (I + d_1) / (I + d_3)

(Li and Rinzel 1994). Where IP3 is a variable, it is made by phospholipases and broken down by a
kinase and a phosphatase (De Pitta et al. 2009):

    dI/dt = J_in + O_delta / (1 + I / kappa_delta) C^2 / (C^2 + K_delta^2)
            - O_3K C^4 / (C^4 + K_D^4) I / (I + K_3K) - Omega_5P I

The models, and what drives each of them, its stimulus (uM):

    li_rinzel_nest      C and h; IP3 is clamped. NEST's astrocyte_lr_1994 (its rates are per ms, and
                        1000 times as large per s: rate_IP3R 0.006 is Omega_C 6, rate_L 0.00011
                        Omega_L 0.11, rate_SERCA 0.0009 O_P 0.9, k_IP3R 0.0002 O_2 0.2;
                        concentrations in uM and ratio_ER_cyt, rho_A, are the same)
    li_rinzel_stimberg  C and h; IP3 is clamped. Constants of the networks of Stimberg et al. (2019)
    chi                 C, h and I. The same cell with its own IP3, driven by an exogenous source
                        J_in = Omega_5P I_ex: I_ex is the IP3 that the source alone would hold
                        against the phosphatase. Constants of their figure 5, the ring of
                        astrocytes, whose largest source (F_ex, 0.09 uM/s) is an I_ex of 1.8 uM
    g_chi               C, h, I and the share Gamma of bound receptors, with J_in = O_beta Gamma,
                        driven by glutamate Y. Constants of their figure 2

    dGamma/dt = O_N Y (1 - Gamma) - Omega_N (1 + zeta C / (C + K_KC)) Gamma

(Stimberg, Goodman, Brette, De Pitta: Modeling neuron-glia interactions with the Brian 2 simulator;
its figures are Brian2's examples example_5_astro_ring and example_2_gchi_astrocyte.)

A state is an array [n, ...] of C, h, I and Gamma, as many as the model has; time is in seconds. The
steady states are a curve with C as its parameter: h, the stimulus and all else follow from C in
closed form. So no steady state is missed, and folds and Hopf points are roots along the curve.

At a stimulus calcium rests, oscillates, or is bistable: what it does then depends on where it
started, because a stable steady state stands beside an oscillation or another one.

ASSUME: where it is bistable, `resting` means the stable steady state of least calcium.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

CURVE_BEGIN = 1e-10  # uM, from the calcium of no stimulus to the first point of the curve
CURVE_POINTS = 4000  # of the curve, between which one root is looked for
NO_STIMULUS = 1e-3  # uM, a curve that begins below begins at no stimulus
COMPLEX_STEP = 1e-200
TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}
MAX_STIMULUS = 1e3  # uM
STIMULUS_ROUNDING = 1e-9  # uM, a stimulus that is less below 0 is 0
MIN_CYCLE = 1e-3  # uM, calcium that varies less is steady
MAX_SETTLING = 2000.0  # s, given to an oscillation to settle
CYCLE_START = (0.1, 0.8, 0.5, 0.0)  # a state far from steady states
CYCLE_TRIALS = 16  # stimuli at which oscillations are looked for
CYCLE_STEPS = (0.1, 5e-4)  # of ln stimulus, first and last, to which the ends are known


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Parameters of the equations of C and h."""

    omega_c: float  # 1/s, highest rate of release by IP3 receptors
    omega_l: float  # 1/s, rate of the leak
    c_t: float  # uM, total calcium of the cell, per volume of cytosol
    rho_a: float  # 1, volume of the store over that of the cytosol
    o_p: float  # uM/s, highest rate of uptake by pumps
    k_p: float  # uM, calcium at which pumps work at half that rate
    d_1: float  # uM, dissociation constant of IP3
    d_2: float  # uM, dissociation constant of calcium at the site that inactivates
    d_3: float  # uM, dissociation constant of IP3 at inactivated receptors
    d_5: float  # uM, dissociation constant of calcium at the site that activates
    o_2: float  # 1/(uM s), rate at which calcium binds to the site that inactivates


@dataclass(frozen=True, kw_only=True, slots=True)
class Turnover:
    """Parameters of the equation of IP3."""

    o_delta: float  # uM/s, highest rate of IP3 from phospholipase C delta
    kappa_delta: float  # uM, IP3 that halves that rate
    k_delta: float  # uM, calcium at which that rate is at half
    o_3k: float  # uM/s, highest rate of degradation by the 3-kinase
    k_d: float  # uM, calcium at which that rate is at half
    k_3k: float  # uM, IP3 at which that rate is at half
    omega_5p: float  # 1/s, rate of degradation by the 5-phosphatase


@dataclass(frozen=True, kw_only=True, slots=True)
class Receptor:
    """Parameters of the equation of Gamma."""

    o_beta: float  # uM/s, highest rate of IP3 from bound receptors (phospholipase C beta)
    o_n: float  # 1/(uM s), rate at which glutamate binds
    omega_n: float  # 1/s, rate at which it unbinds
    zeta: float  # 1, what high calcium adds to that rate, over omega_n
    k_kc: float  # uM, calcium that adds half of it


NEST = Cell(
    omega_c=6.0,
    omega_l=0.11,
    c_t=2.0,
    rho_a=0.185,
    o_p=0.9,
    k_p=0.1,
    d_1=0.13,
    d_2=1.049,
    d_3=0.9434,
    d_5=0.08234,
    o_2=0.2,
)
STIMBERG = Cell(
    omega_c=6.0,
    omega_l=0.1,
    c_t=2.0,
    rho_a=0.18,
    o_p=0.9,
    k_p=0.05,
    d_1=0.13,
    d_2=1.05,
    d_3=0.9434,
    d_5=0.08,
    o_2=0.2,
)
FIGURE_2 = replace(STIMBERG, k_p=0.1)
RING = Turnover(
    o_delta=0.6, kappa_delta=1.5, k_delta=0.1, o_3k=4.5, k_d=0.7, k_3k=1.0, omega_5p=0.05
)
SYNAPSE = Turnover(
    o_delta=0.2, kappa_delta=1.5, k_delta=0.3, o_3k=4.5, k_d=0.5, k_3k=1.0, omega_5p=0.1
)
GLUTAMATE = Receptor(o_beta=5.0, o_n=0.3, omega_n=0.5, zeta=10.0, k_kc=0.5)


class Model(NamedTuple):
    """The parts of a model, and its stimulus."""

    cell: Cell
    turnover: Turnover | None  # None where IP3 is clamped
    receptor: Receptor | None  # None where IP3 has an exogenous source
    stimulus: str
    span: tuple[float, float]  # uM, stimuli that are of interest

    @property
    def n_variables(self) -> int:
        """How many variables a state has."""
        return 2 + (self.turnover is not None) + (self.receptor is not None)


# ASSUME: the spans go from where calcium hardly answers to beyond all that happens; chi's to its
# published source; g_chi's includes 6 uM, the mean glutamate of Stimberg's figure 2.
CALCIUM_MODELS = {
    "li_rinzel_nest": Model(NEST, None, None, "IP3", (0.05, 2.5)),
    "li_rinzel_stimberg": Model(STIMBERG, None, None, "IP3", (0.05, 2.5)),
    "chi": Model(STIMBERG, RING, None, "source of IP3", (0.02, 1.8)),
    "g_chi": Model(FIGURE_2, SYNAPSE, GLUTAMATE, "glutamate", (0.001, 10.0)),
}
STIMULI = {name: model.stimulus for name, model in CALCIUM_MODELS.items()}
REGIMES = ("rest", "bistable", "oscillates")
STATE_VARIABLES = ("calcium C", "gate h", "IP3 I", "bound receptors Gamma")


@dataclass(frozen=True, kw_only=True)
class Bifurcation:
    """Where steady states change."""

    kind: str  # "fold" or "hopf"
    stimulus: float  # uM
    c: float  # uM, calcium there
    omega: float  # rad/s, frequency of the oscillation that begins; 0 at a fold


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """An oscillation of calcium; period, lowest and highest are NaN where calcium comes to rest."""

    period: float  # s
    lowest: float  # uM
    highest: float  # uM
    state: np.ndarray  # [n], where the simulation ended: on the oscillation if there is one


class Diverged(ArithmeticError):
    """A variable is not finite: names it and the time."""


def rates_of_change(model: str, state: np.ndarray, stimulus: np.ndarray) -> np.ndarray:
    """Time derivatives [n, ...] of a state [n, ...] at a stimulus [...] (uM)."""
    return np.stack(np.broadcast_arrays(*_slopes(model, state, stimulus)))


def _slopes(model: str, state: Sequence | np.ndarray, stimulus: float | np.ndarray) -> list:
    """Those derivatives of arrays or of plain numbers: the equations as they stand."""
    cell, turnover, receptor, *_ = CALCIUM_MODELS[model]
    c, h, ip3 = state[0], state[1], stimulus if turnover is None else state[2]
    m = ip3 / (ip3 + cell.d_1) * c / (c + cell.d_5)
    q_2 = cell.d_2 * (ip3 + cell.d_1) / (ip3 + cell.d_3)
    store = cell.c_t - (1 + cell.rho_a) * c
    pump = cell.o_p * c**2 / (c**2 + cell.k_p**2)
    slopes = [
        (cell.omega_c * (m * h) ** 3 + cell.omega_l) * store - pump,
        cell.o_2 * (q_2 * (1 - h) - c * h),
    ]
    if turnover is None:
        return slopes
    lost = _lost(turnover, c, ip3)
    if receptor is None:
        return [*slopes, turnover.omega_5p * stimulus - lost]
    gamma = state[3]
    return [
        *slopes,
        receptor.o_beta * gamma - lost,
        receptor.o_n * stimulus * (1 - gamma) - _unbinding(receptor, c) * gamma,
    ]


def _lost(t: Turnover, c: np.ndarray, ip3: float | np.ndarray) -> np.ndarray:
    """IP3 degraded, less that made by phospholipase C delta (uM/s)."""
    production = t.o_delta / (1 + ip3 / t.kappa_delta) * c**2 / (c**2 + t.k_delta**2)
    kinase = t.o_3k * c**4 / (c**4 + t.k_d**4) * ip3 / (ip3 + t.k_3k)
    return kinase + t.omega_5p * ip3 - production


def _unbinding(r: Receptor, c: np.ndarray) -> np.ndarray:
    """Rate (1/s) at which glutamate unbinds."""
    return r.omega_n * (1 + r.zeta * c / (c + r.k_kc))


def curve(model: str, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stimulus [...] and state [n, ...] at which C [...] (uM) is steady.

    The stimulus is negative or not finite where C is steady at none. dC/dt = 0 gives m h as a
    function of C; with h = Q_2 / (Q_2 + C) it is linear in IP3.
    """
    cell, turnover, receptor, *_ = CALCIUM_MODELS[model]
    store = cell.c_t - (1 + cell.rho_a) * c
    flux = cell.o_p * c**2 / (c**2 + cell.k_p**2) / store - cell.omega_l
    y = (flux / cell.omega_c) ** (1 / 3) * (c + cell.d_5) / c
    ip3 = y * (cell.d_1 * cell.d_2 + c * cell.d_3) / (cell.d_2 - y * (cell.d_2 + c))
    q_2 = cell.d_2 * (ip3 + cell.d_1) / (ip3 + cell.d_3)
    h = q_2 / (q_2 + c)
    if turnover is None:
        return ip3, np.stack([c, h])
    lost = _lost(turnover, c, ip3)
    if receptor is None:
        return lost / turnover.omega_5p, np.stack([c, h, ip3])
    gamma = lost / receptor.o_beta
    unbinding = _unbinding(receptor, c)
    return unbinding * gamma / (receptor.o_n * (1 - gamma)), np.stack([c, h, ip3, gamma])


def _slope(model: str, c: np.ndarray) -> np.ndarray:
    """d stimulus / dC along the curve, by a complex step: exact to rounding."""
    return curve(model, c + COMPLEX_STEP * 1j)[0].imag / COMPLEX_STEP


def jacobian(model: str, state: np.ndarray, stimulus: np.ndarray) -> np.ndarray:
    """Derivatives [..., n, n] of `rates_of_change` by the state [n, ...], by complex steps."""
    n = len(state)
    columns = []
    for i in range(n):
        step = np.zeros(n, dtype=complex)
        step[i] = COMPLEX_STEP * 1j
        moved = state + step.reshape(-1, *[1] * (state.ndim - 1))
        columns.append(rates_of_change(model, moved, stimulus).imag / COMPLEX_STEP)
    return np.moveaxis(np.array(columns), (0, 1), (-1, -2))


def _growth(model: str, c: np.ndarray) -> np.ndarray:
    """Largest real part of the eigenvalues (1/s) of the steady states of C [k]."""
    stimulus, state = curve(model, c)
    return np.linalg.eigvals(jacobian(model, state, stimulus)).real.max(-1)


@cache
def _branches(model: str) -> tuple[np.ndarray, ...]:
    """Rising stretches of C [k] (uM) on which the stimulus only rises or only falls.

    They meet at folds.
    """
    cell, turnover, receptor, *_ = CALCIUM_MODELS[model]

    def flux(c: float) -> float:  # what the pump takes up and the leak does not lose
        store = cell.c_t - (1 + cell.rho_a) * c
        return cell.o_p * c**2 / (c**2 + cell.k_p**2) - cell.omega_l * store

    most = cell.c_t / (1 + cell.rho_a)
    least = brentq(flux, 1e-6, most, xtol=1e-15)  # where IP3 is 0
    c = least + np.geomspace(CURVE_BEGIN, most - least, CURVE_POINTS, endpoint=False)
    stimulus, state = curve(model, c)
    real = stimulus >= 0
    if turnover is not None:
        real &= state[2] >= 0
    if receptor is not None:
        real &= state[3] < 1
    places = np.flatnonzero(real)
    first = places[0]
    if first > 0:  # where no stimulus is needed
        c[first] = brentq(lambda x: curve(model, np.array(x))[0], c[first - 1], c[first])
    c, rises = c[real], _slope(model, c[real]) > 0
    gaps = np.diff(places) > 1
    cuts = np.flatnonzero((np.diff(rises)) | gaps)
    parts = np.split(c, cuts + 1)
    for i, cut in enumerate(cuts):
        if not gaps[cut]:
            fold = brentq(lambda x: _slope(model, np.array(x)), c[cut], c[cut + 1], xtol=1e-15)
            parts[i], parts[i + 1] = np.append(parts[i], fold), np.append(fold, parts[i + 1])
    return tuple(parts)


def steady_states(model: str, stimulus: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C (uM) of every steady state [branch, k] at stimuli [k] (uM), and its growth rate (1/s).

    The growth rate is the largest real part of the eigenvalues: the state is stable where it is
    negative. NaN where a branch does not reach.
    """
    c = _states(model, np.atleast_1d(np.asarray(stimulus, dtype=float)))
    growth = np.full(c.shape, np.nan)
    known = np.isfinite(c)
    growth[known] = _growth(model, c[known])
    return c, growth


def _states(model: str, stimulus: np.ndarray) -> np.ndarray:
    """C (uM) of every steady state [branch, k] at stimuli [k] (uM); NaN beyond a branch."""
    found = []
    for part in _branches(model):
        on_part = curve(model, part)[0]
        order = np.argsort(on_part)
        least, most = on_part[order[[0, -1]]]
        known = (stimulus >= (0 if least < NO_STIMULUS else least)) & (stimulus <= most)
        c = np.where(known, np.interp(stimulus, on_part[order], part[order]), np.nan)
        for _ in range(60):  # Newton, within the branch
            if not known.any():
                break
            step = (curve(model, c[known])[0] - stimulus[known]) / _slope(model, c[known])
            c[known] = np.clip(c[known] - step, part[0], part[-1])
            if np.abs(step).max() < 1e-15:
                break
        found.append(c)
    return np.array(found)


@cache
def bifurcations(model: str) -> tuple[Bifurcation, ...]:
    """Folds and Hopf points of the steady states by rising C: roots along their curve.

    A fold is where the stimulus turns; a Hopf point where a sum of two eigenvalues that are not
    real changes its sign.
    """
    parts = _branches(model)
    folds = [before[-1] for before, after in zip(parts, parts[1:]) if before[-1] == after[0]]
    found = [
        Bifurcation(kind="fold", stimulus=float(curve(model, c)[0]), c=float(c), omega=0.0)
        for c in folds
    ]
    for part in parts:
        sums = _sums(model, part)
        for i in np.flatnonzero(np.sign(sums[1:]) * np.sign(sums[:-1]) < 0):
            c = brentq(lambda x: _sums(model, np.array([x]))[0], *part[i : i + 2], xtol=1e-15)
            stimulus, state = curve(model, np.array(c))
            values = np.linalg.eigvals(jacobian(model, state, stimulus))
            omega = abs(values[np.abs(values.real).argmin()].imag)
            if omega > 0:  # else two real eigenvalues cancel
                hopf = Bifurcation(kind="hopf", stimulus=float(stimulus), c=c, omega=float(omega))
                found.append(hopf)
    return tuple(sorted(found, key=lambda bifurcation: bifurcation.c))


def along_curve(model: str, highest: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """C (uM) and growth rate (1/s) [n] of steady states along their curve up to a stimulus (uM)."""
    every = np.unique(np.concatenate(_branches(model)))
    every = every[: np.flatnonzero(curve(model, every)[0] <= highest)[-1] + 1]
    near = every[np.linspace(0, len(every) - 1, n // 2).round().astype(int)]  # dense at low C
    c = np.sort(np.concatenate([near, np.linspace(every[0], every[-1], n - n // 2 + 2)[1:-1]]))
    return c, _growth(model, c)


def _sums(model: str, c: np.ndarray) -> np.ndarray:
    """Product of the sums of all pairs of eigenvalues [k], for the steady states of C [k]."""
    stimulus, state = curve(model, c)
    values = np.linalg.eigvals(jacobian(model, state, stimulus))
    pairs = np.triu_indices(len(state), 1)
    return (values[:, pairs[0]] + values[:, pairs[1]]).prod(-1).real


def resting(model: str, stimulus: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C (uM) and growth rate (1/s) of the resting state at stimuli [k] (uM).

    That is the stable steady state of least C; NaN where none is stable.
    """
    c, growth = steady_states(model, stimulus)
    c = np.where(growth < 0, c, np.inf)
    lowest = c.argmin(0)[None]
    c, growth = (np.take_along_axis(x, lowest, 0)[0] for x in (c, growth))
    return np.where(np.isfinite(c), c, np.nan), np.where(np.isfinite(c), growth, np.nan)


@cache
def _stable_ranges(model: str) -> tuple[tuple[float, float], ...]:
    """Ranges of C (uM) whose steady states are stable: stability changes at bifurcations only."""
    hopf = [b.c for b in bifurcations(model) if b.kind == "hopf"]
    found = []
    for part in _branches(model):
        ends = [part[0], *(c for c in hopf if part[0] < c < part[-1]), part[-1]]
        found += [
            (float(low), float(high))
            for low, high in zip(ends, ends[1:])
            if _growth(model, np.array([(low + high) / 2]))[0] < 0
        ]
    return tuple(found)


def answer(model: str, stimulus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C (uM) of the resting state at stimuli [k] (uM), NaN where none is stable, and the regime.

    The regime [k] is a place in REGIMES: calcium comes to rest from every start; it is bistable,
    with an oscillation or another stable steady state beside the resting one; it oscillates.
    """
    c = _states(model, stimulus)
    stable = np.zeros(c.shape, dtype=bool)
    for low, high in _stable_ranges(model):
        stable |= (c >= low) & (c <= high)
    first, last = oscillation(model)
    alone = (stable.sum(0) == 1) & ~((stimulus >= first) & (stimulus <= last))
    regime = np.where(stable.any(0), np.where(alone, 0, 1), 2)
    c = np.where(stable, c, np.inf).min(0)
    return np.where(np.isfinite(c), c, np.nan), regime


@cache
def oscillation(model: str) -> tuple[float, float]:
    """Lowest and highest stimulus (uM) at which an oscillation lives; NaN if there is none.

    Oscillations are looked for from CYCLE_START throughout the model's span, and one is continued
    downwards and upwards, each from the last one, by steps that are halved from where it is lost.
    """
    tried = np.geomspace(*CALCIUM_MODELS[model].span, CYCLE_TRIALS)
    cycles = [(x, limit_cycle(model, x)) for x in tried]
    living = [(x, cycle) for x, cycle in cycles if np.isfinite(cycle.period)]
    if not living:
        return np.nan, np.nan
    begin, cycle = living[len(living) // 2]
    return _continued(model, begin, cycle, -1), _continued(model, begin, cycle, 1)


def _continued(model: str, stimulus: float, cycle: Cycle, sign: int) -> float:
    """The last stimulus (uM) to which a cycle is continued, upwards for sign 1, else downwards."""
    step, is_lost = CYCLE_STEPS[0], False
    while step > CYCLE_STEPS[1]:
        tried = stimulus * np.exp(sign * step)
        found = limit_cycle(model, tried, cycle.state)
        if np.isfinite(found.period) and tried < MAX_STIMULUS:
            stimulus, cycle = tried, found
        else:
            is_lost = True
        step /= 2 if is_lost else 1
    return float(stimulus)


def exponent(model: str, stimulus: np.ndarray) -> np.ndarray:
    """alpha = d ln C / d ln stimulus at rest, at stimuli [k] (uM); NaN where no state is stable."""
    return exponent_of(model, stimulus, resting(model, stimulus)[0])


def exponent_of(model: str, stimulus: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The same of C [k] (uM) that is steady at the stimuli; NaN where C is."""
    found = np.full(c.shape, np.nan)
    known = np.isfinite(c)
    stimulus = np.broadcast_to(stimulus, c.shape)
    found[known] = stimulus[known] / (c[known] * _slope(model, c[known]))
    return found


def relaxation_seconds(model: str, stimulus: float) -> float:
    """Slowest relaxation time (s) of calcium at rest at a stimulus (uM); NaN if none is stable."""
    return float(-1 / resting(model, stimulus)[1][0])


def limit_cycle(model: str, stimulus: float, start: np.ndarray | None = None) -> Cycle:
    """The oscillation that is reached from a state [n] at a stimulus (uM).

    It is simulated until two successive periods and heights agree to 1e-6.
    """
    state = np.array(CYCLE_START[: CALCIUM_MODELS[model].n_variables]) if start is None else start
    nothing = Cycle(period=np.nan, lowest=np.nan, highest=np.nan, state=state)
    begin, span = 0.0, 100.0

    def slopes(_: float, y: np.ndarray) -> list[float]:
        return _slopes(model, y.tolist(), float(stimulus))

    def turn(_: float, y: np.ndarray) -> float:  # calcium has an extremum
        return slopes(_, y)[0]

    while begin < MAX_SETTLING:
        run = _run_with_turns(slopes, turn, span, state)
        begin, state = begin + span, _finite(run.y[:, -1], begin + span)
        times, heights = run.t_events[0][-6:], run.y_events[0][-6:]
        if len(times) < 6:
            if np.ptp(run.y[0, run.t > span / 2]) < MIN_CYCLE:
                return nothing
            span *= 2
            continue
        heights = heights[:, 0]
        if np.ptp(heights) < MIN_CYCLE:
            return nothing
        period, before = times[-1] - times[-3], times[-3] - times[-5]
        moved = np.abs(heights[-2:] - heights[-4:-2]).max()
        if moved < 1e-6 * heights[-1] and abs(period / before - 1) < 1e-6:
            lowest, highest = np.sort(heights[-2:])
            return Cycle(period=float(period), lowest=lowest, highest=highest, state=state)
    return nothing


def _run_with_turns(slopes: Callable, turn: Callable, span: float, state: np.ndarray):
    """What solve_ivp returns, with the times of `turn`; without any where the state is at rest.

    Close to rest, rounding alone turns calcium, and brentq finds no root where a step saw a change
    of sign.
    """
    settings = {"method": "LSODA", **TOLERANCE}
    try:
        return solve_ivp(slopes, (0, span), state, events=turn, **settings)
    except ValueError as error:
        if "different signs" not in str(error):
            raise
        run = solve_ivp(slopes, (0, span), state, **settings)
        run.t_events, run.y_events = [np.empty(0)], [np.empty((0, len(state)))]
        return run


def drive(model: str, stimulus: np.ndarray, seconds: float) -> np.ndarray:
    """C [k] (uM) at the ends of k equal intervals (s), each with a constant stimulus [k] (uM).

    From the resting state of the first stimulus; where none is stable, from its oscillation. Less
    than nothing by rounding is nothing. Raises ValueError for a stimulus below 0 or above 1000 uM
    and Diverged where a variable is not finite.
    """
    stimulus = np.asarray(stimulus, dtype=float)
    stimulus = np.where((stimulus < 0) & (stimulus > -STIMULUS_ROUNDING), 0.0, stimulus)
    wrong = ~((stimulus >= 0) & (stimulus <= MAX_STIMULUS))
    if wrong.any():
        raise ValueError(
            f"stimulus: got {stimulus[wrong][0]:g} uM, wanted 0 to {MAX_STIMULUS:g} at all times"
        )
    c = resting(model, stimulus[:1])[0][0]
    state = (
        curve(model, np.array(c))[1] if np.isfinite(c) else limit_cycle(model, stimulus[0]).state
    )
    found = []
    for i, x in enumerate(stimulus.tolist()):
        run = solve_ivp(
            lambda _, y, x=x: _slopes(model, y.tolist(), x),
            (0, seconds),
            state,
            method="DOP853",
            t_eval=[seconds],
            **TOLERANCE,
        )
        state = _finite(
            run.y[:, -1] if run.success else np.full(len(state), np.nan), (i + 1) * seconds
        )
        found.append(state[0])
    return np.array(found)


def _finite(state: np.ndarray, seconds: float) -> np.ndarray:
    for name, value in zip(STATE_VARIABLES, state):
        if not np.isfinite(value):
            raise Diverged(f"{name} is not finite at {seconds:g} s")
    return state
