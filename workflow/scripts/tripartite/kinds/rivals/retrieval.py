"""The neuron-astrocyte associative memory, its energy, and what it retrieves from where.

Kozachkov, Slotine & Krotov (PNAS 2025, arXiv:2311.08135): neurons x_i, synapses S_ij and astrocyte
processes P_ij,

    tau_x x' = -x + g(S) f(x)
    tau_S S' = -S + f(x) f(x)^T + g(P)
    tau_P P' = -P + T : g(P) + g(S)

with f = g = tanh(b .) and T_ijkl = N^-3 sum_mu xi_i xi_j xi_k xi_l of K memories xi (the dense
associative memory of the fourth order). T : g(P) is N^-3 sum_mu (xi . g(P) xi) xi xi^T. With
L' = the activation, the energy

    E = [x.f - sum L(x)] + [S:g - sum L(S)] / 2 + [P:g - sum L(P)] / 2
        - f.g(S)f / 2 - g(P):g(S) / 2 - g(P):T:g(P) / 4

falls along every path for all time constants, if S and P are symmetric:

    E' = -tau_x sum f' x'^2 - (tau_S / 2) sum g' S'^2 - (tau_P / 2) sum g' P'^2.

The equations and the start are those of the public tutorial (github.com/kozleo/naam); the energy
was derived for this project. The text that makes a transformer of it was not at hand, so it does
not read heads here.
"""

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

GAIN = 5.0  # b, of the tutorial
DURATION = 10.0  # time constants: retrieval takes 1 to 5 from the start of the tutorial
MOMENTS = np.concatenate([[0.0], np.geomspace(0.05, DURATION, 30)])  # at which it is looked at
TOLERANCE = 1e-6  # of the integrator, relative and absolute


class State(NamedTuple):
    """Neurons x [N], synapses S [N, N], processes P [N, N]."""

    x: np.ndarray
    s: np.ndarray
    p: np.ndarray


def coupled(g_p: np.ndarray, memories: np.ndarray) -> np.ndarray:
    """T : g(P) [N, N], for memories [K, N] of 1 and -1."""
    strength = np.einsum("ki,ij,kj->k", memories, g_p, memories, optimize=True)
    return (memories.T * strength) @ memories / memories.shape[1] ** 3


def velocity(
    state: State, memories: np.ndarray, taus: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> State:
    """Derivatives of x, S and P; taus are theirs."""
    x, s, p = state
    f, g_s, g_p = (np.tanh(GAIN * y) for y in state)
    return State(
        (-x + g_s @ f) / taus[0],
        (-s + np.outer(f, f) + g_p) / taus[1],
        (-p + coupled(g_p, memories) + g_s) / taus[2],
    )


def energy(state: State, memories: np.ndarray) -> float:
    """E of a state."""
    f, g_s, g_p = (np.tanh(GAIN * y) for y in state)
    # L(y) = ln cosh(b y) / b, without overflow
    legendre = [
        float((y * g - (np.logaddexp(GAIN * y, -GAIN * y) - np.log(2)) / GAIN).sum())
        for y, g in zip(state, (f, g_s, g_p))
    ]
    coupling = f @ g_s @ f / 2 + (g_p * g_s).sum() / 2 + (g_p * coupled(g_p, memories)).sum() / 4
    return legendre[0] + legendre[1] / 2 + legendre[2] / 2 - float(coupling)


def energy_rate(
    state: State, memories: np.ndarray, taus: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> float:
    """E' by the formula, never positive for symmetric S and P."""
    parts = [
        tau * float((GAIN / np.cosh(GAIN * y) ** 2 * change**2).sum())
        for tau, y, change in zip(taus, state, velocity(state, memories, taus))
    ]
    return -parts[0] - parts[1] / 2 - parts[2] / 2


def tutorial_start(cue: np.ndarray, memories: np.ndarray) -> State:
    """The start of the tutorial for a cue [N]: processes against the cue, synapses at their rest.

    g(P) = -f f^T and g(S) = -T : g(P): the processes then stand still.
    """
    f = np.tanh(GAIN * cue)
    g_p = -np.outer(f, f)
    return State(cue, *(np.arctanh(y) / GAIN for y in (-coupled(g_p, memories), g_p)))


def zero_start(cue: np.ndarray, memories: np.ndarray) -> State:
    """The cue [N] in the neurons, no synapses and no processes."""
    n = len(cue)
    return State(cue, np.zeros((n, n)), np.zeros((n, n)))


def path(start: State, memories: np.ndarray, moments: np.ndarray = MOMENTS) -> list[State]:
    """States at these moments, from 0 on; all time constants are 1."""
    n = len(start.x)

    def unpacked(y: np.ndarray) -> State:
        return State(y[:n], y[n : n + n * n].reshape(n, n), y[n + n * n :].reshape(n, n))

    def derivative(_: float, y: np.ndarray) -> np.ndarray:
        return np.concatenate([part.ravel() for part in velocity(unpacked(y), memories)])

    first = np.concatenate([part.ravel() for part in start])
    found = solve_ivp(
        derivative,
        (0.0, moments[-1]),
        first,
        t_eval=moments,
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )
    return [unpacked(y) for y in found.y.T]


def overlap(x: np.ndarray, pattern: np.ndarray) -> float:
    """Mean of sign(x_i) pattern_i: 1 where they agree, 0 for unrelated ones."""
    return float(np.mean(np.sign(x) * pattern))


def drive(state: State) -> np.ndarray:
    """g(S) f(x) [N]: what the synapses tell the neurons."""
    return np.tanh(GAIN * state.s) @ np.tanh(GAIN * state.x)
