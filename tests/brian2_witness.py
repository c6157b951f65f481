"""Calcium trajectories by Brian2, with equations and parameters of its own: run by test_calcium.py.

Equations in Brian2's language as Stimberg et al. (2019) and NEST's astrocyte_lr_1994 have them,
with units; JSON of {model: [state, stimuli]} is read, and JSON of {model: calcium} printed.
"""

import json
import sys
import warnings

warnings.simplefilter("ignore")

import brian2 as b2  # noqa: E402

b2.prefs.codegen.target = "numpy"
UM, PER_S, PER_UM_S = b2.umolar, 1 / b2.second, 1 / b2.umolar / b2.second

LI_RINZEL = """
ip3 : mmolar
m = ip3 / (ip3 + Kd_IP3_1) : 1
n = C / (C + Kd_act) : 1
C_ER = (Ca_tot - C) / ratio : mmolar
dC/dt = ratio * rate_IP3R * m**3 * n**3 * h**3 * (C_ER - C) + ratio * rate_L * (C_ER - C)
        - rate_SERCA * C**2 / (Km_SERCA**2 + C**2) : mmolar
dh/dt = k_IP3R * (Kd_inh * (ip3 + Kd_IP3_1) / (ip3 + Kd_IP3_2) * (1 - h) - C * h) : 1
"""
LI_RINZEL_PARAMETERS = {
    "Ca_tot": 2.0 * UM,
    "ratio": 0.185,
    "Kd_IP3_1": 0.13 * UM,
    "Kd_inh": 1.049 * UM,
    "Kd_IP3_2": 0.9434 * UM,
    "Kd_act": 0.08234 * UM,
    "k_IP3R": 0.2 * PER_UM_S,
    "rate_IP3R": 6.0 * PER_S,
    "rate_L": 0.11 * PER_S,
    "rate_SERCA": 0.9 * UM * PER_S,
    "Km_SERCA": 0.1 * UM,
}

CELL = """
dC/dt = J_r + J_l - J_p : mmolar
dh/dt = (h_inf - h) / tau_h : 1
J_r = Omega_C * m_inf**3 * h**3 * (C_T - (1 + rho_A) * C) : mmolar/second
J_l = Omega_L * (C_T - (1 + rho_A) * C) : mmolar/second
J_p = O_P * C**2 / (C**2 + K_P**2) : mmolar/second
m_inf = I / (I + d_1) * C / (C + d_5) : 1
h_inf = Q_2 / (Q_2 + C) : 1
tau_h = 1 / (O_2 * (Q_2 + C)) : second
Q_2 = d_2 * (I + d_1) / (I + d_3) : mmolar
"""
CELL_PARAMETERS = {
    "O_P": 0.9 * UM * PER_S,
    "K_P": 0.05 * UM,
    "C_T": 2.0 * UM,
    "rho_A": 0.18,
    "Omega_C": 6.0 * PER_S,
    "Omega_L": 0.1 * PER_S,
    "d_1": 0.13 * UM,
    "d_2": 1.05 * UM,
    "O_2": 0.2 * PER_UM_S,
    "d_3": 0.9434 * UM,
    "d_5": 0.08 * UM,
}

TURNOVER = """
dI/dt = J_in + J_delta - J_3K - Omega_5P * I : mmolar
J_delta = O_delta / (1 + I / kappa_delta) * C**2 / (C**2 + K_delta**2) : mmolar/second
J_3K = O_3K * C**4 / (C**4 + K_D**4) * I / (I + K_3K) : mmolar/second
"""
CHI = """
J_in = Omega_5P * I_ex : mmolar/second
I_ex : mmolar
"""
CHI_PARAMETERS = CELL_PARAMETERS | {
    "O_delta": 0.6 * UM * PER_S,
    "kappa_delta": 1.5 * UM,
    "K_delta": 0.1 * UM,
    "Omega_5P": 0.05 * PER_S,
    "K_D": 0.7 * UM,
    "K_3K": 1.0 * UM,
    "O_3K": 4.5 * UM * PER_S,
}
G_CHI = """
dGamma/dt = O_N * Y * (1 - Gamma) - Omega_N * (1 + zeta * C / (C + K_KC)) * Gamma : 1
J_in = O_beta * Gamma : mmolar/second
Y : mmolar
"""
G_CHI_PARAMETERS = CELL_PARAMETERS | {
    "K_P": 0.1 * UM,
    "O_beta": 5 * UM * PER_S,
    "O_N": 0.3 * PER_UM_S,
    "Omega_N": 0.5 * PER_S,
    "K_KC": 0.5 * UM,
    "zeta": 10,
    "O_delta": 0.2 * UM * PER_S,
    "kappa_delta": 1.5 * UM,
    "K_delta": 0.3 * UM,
    "Omega_5P": 0.1 * PER_S,
    "K_D": 0.5 * UM,
    "K_3K": 1.0 * UM,
    "O_3K": 4.5 * UM * PER_S,
}
WITNESSES = {  # equations, parameters, and the name of the stimulus
    "li_rinzel_nest": (LI_RINZEL, LI_RINZEL_PARAMETERS, "ip3"),
    "li_rinzel_stimberg": (CELL + "I : mmolar\n", CELL_PARAMETERS, "I"),
    "chi": (CELL + TURNOVER + CHI, CHI_PARAMETERS, "I_ex"),
    "g_chi": (CELL + TURNOVER + G_CHI, G_CHI_PARAMETERS, "Y"),
}


def trajectory(model: str, state: list[float], stimuli: list[float]) -> list[float]:
    """Calcium (uM) every 0.1 s, of stimuli (uM) that last 10 s each."""
    b2.start_scope()
    b2.defaultclock.dt = 5 * b2.ms
    equations, parameters, stimulus = WITNESSES[model]
    cell = b2.NeuronGroup(1, equations, method="rk4", namespace=parameters)
    cell.C, cell.h = state[0] * UM, state[1]
    if model in ("chi", "g_chi"):
        cell.I = state[2] * UM
    if model == "g_chi":
        cell.Gamma = state[3]
    monitor = b2.StateMonitor(cell, "C", record=True, dt=100 * b2.ms)
    network = b2.Network(cell, monitor)
    for value in stimuli:
        setattr(cell, stimulus, value * UM)
        network.run(10 * b2.second, namespace={})
    return (monitor.C[0] / UM).tolist()


if __name__ == "__main__":
    print(
        json.dumps({name: trajectory(name, *given) for name, given in json.load(sys.stdin).items()})
    )
