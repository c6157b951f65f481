"""Lesions and noise: each against an obvious version, each law against many draws, and bounds."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tripartite import declarations, network, theory
from tripartite.kinds.perturbations.perturbations import Network, log_rates, n_lost, survivors
from tripartite.kinds.perturbations.registry import PERTURBATIONS


def drawn(m=300, seed=0, n_queries=24, sizes=(0.25, 0.2)):
    """24 keys of 8, values of 4, and a network; G15 with one query, where |q + k|^2 = .88."""
    rng = np.random.default_rng(2)
    shapes = ((sizes[1], 24, 8), (sizes[0], n_queries, 8), (1, 24, 4))
    k, q, v = (size * rng.normal(size=shape) for size, *shape in shapes)
    omega = np.random.default_rng(seed + 100).normal(size=(m, 8))
    return q, k, v, omega, built(q, k, v, omega)


def built(q, k, v, omega):
    weights = np.exp(q @ k.T)
    z = weights.sum(1)
    log_q, log_k = (log_rates(x, omega) for x in (q, k))
    return Network(log_q, log_k, v, np.log(z), weights @ v / z[:, None])


def rates(q, k, omega):
    m = len(omega)
    return (np.exp(x @ omega.T - np.square(x).sum(1)[:, None] / 2) / m**0.5 for x in (q, k))


def perturbed(net, kind, dose, seed=0):
    return PERTURBATIONS[kind].function(net, dose, np.random.default_rng(seed))


def test_the_registry_has_what_the_settings_have():
    """Each can be asked for, by the name of its function, and is drawn in one figure."""
    kind = declarations.kinds()["perturbations"]
    assert list(PERTURBATIONS) == list(kind.settings["properties"]["kinds"]["properties"])
    assert {one.group for one in PERTURBATIONS.values()} == {*kind.figures} - {"lesion_doses"}
    for name, one in PERTURBATIONS.items():
        if not name.startswith("knockout_"):  # all made by one function
            assert (one.function.__name__, one.law.__name__) == (name, f"law_{name}")


def test_it_is_the_network():
    q, k, v, omega, net = drawn(40)
    q, k, v, omega = (torch.from_numpy(x) for x in (q, k, v, omega))
    tokens = network.Tokens(q, k, v, torch.zeros(len(k)).double())
    hidden = network.Hidden(omega, torch.zeros(40).double())
    calcium, last = network.sequential(torch.zeros_like(v), tokens, hidden)
    rates, _ = network.rates(hidden, q, 40)
    np.testing.assert_allclose(net.log_rates_q, rates, atol=1e-12)
    np.testing.assert_allclose(np.exp(net.log_calcium), calcium, rtol=1e-12)
    np.testing.assert_allclose(net.output, last, rtol=1e-10)


@pytest.mark.parametrize(
    "kind, dose, wanted",
    [
        ("knockout_constant", 2.5, None),
        ("knockout_constant", 1, None),
        ("knockout_mean", 0.3, lambda p: [x + 0.3 * (sum(p) / len(p) - x) for x in p]),
        ("knockout_mean", 0, lambda p: p),
        ("knockout_lagged", 3, lambda p: [p[max(t - 3, t if t < 3 else 0)] for t in range(len(p))]),
        ("knockout_lagged", 99, lambda p: p),
    ],
)
def test_knockouts(kind, dose, wanted):
    """p' by its words; the output is p / p' times what it was, in the same direction."""
    net = drawn()[-1]
    p = np.exp(net.log_calcium)
    law, z = PERTURBATIONS[kind].law(net, dose), np.exp(net.log_normalizer)
    if wanted is None:

        def wanted(x):
            """The dose times the best constant for the outputs, of the network or exact."""
            outputs = net.output if len(x) and x[0] == p[0] else net.exact
            squares = [sum(a * a for a in o) for o in outputs]
            above = sum(a * a * s for a, s in zip(x, squares))
            return [dose * above / sum(a * s for a, s in zip(x, squares))] * len(x)

    changed, output = perturbed(net, kind, dose)
    np.testing.assert_allclose(changed / net.p * p, wanted(list(p)), rtol=1e-12)
    np.testing.assert_allclose(output, (p / wanted(list(p)))[:, None] * net.output, rtol=1e-10)
    gain = z / wanted(list(z))
    np.testing.assert_allclose(law.gain, gain, rtol=1e-12)
    error = np.linalg.norm((gain - 1)[:, None] * net.exact) / np.linalg.norm(net.exact)
    assert math.sqrt(law.added) == pytest.approx(error, rel=1e-9, abs=1e-12)
    assert law.log_gain_variance == pytest.approx(np.log(gain).var(), abs=1e-12)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(2, 9), st.floats(0.1, 10), st.floats(1e-3, 1e3))
def test_a_constant_costs_by_closed_form_in_any_unit(seed, n, dose, unit):
    """1 - a (2 / dose - 1 / dose^2), a = <g|o|^2> / <|o|^2> at the best one; not of the unit."""
    rng = np.random.default_rng(seed)
    q, k, v, omega = (rng.normal(size=(rows, 3)) for rows in (n, n, n, 5))
    net = built(q, k, v, omega)
    law = PERTURBATIONS["knockout_constant"].law
    squares, z = np.square(net.exact).sum(1), np.exp(net.log_normalizer)
    kept = (z * squares).sum() ** 2 / ((z * z * squares).sum() * squares.sum())
    wanted = 1 - kept * (2 / dose - 1 / dose**2)
    assert law(net, dose).added == pytest.approx(wanted, abs=1e-9)
    assert law(net, 1).added <= law(net, dose).added + 1e-12
    scaled = dataclasses.replace(net, log_normalizer=net.log_normalizer + math.log(unit))
    assert law(scaled, dose).added == pytest.approx(law(net, dose).added, rel=1e-9)
    _, before = perturbed(net, "knockout_constant", dose)
    faster = dataclasses.replace(net, log_rates_k=net.log_rates_k + math.log(unit))
    np.testing.assert_allclose(perturbed(faster, "knockout_constant", dose)[1], before, rtol=1e-8)


def test_a_gain_of_knockouts_is_an_identity_and_that_of_lost_contacts_a_mean():
    """What law_holds says: one draw against many, of one network."""
    net = drawn(60)[-1]
    own = {"identity": [], "in expectation, to first order in 1/m": []}
    for kind, dose in (("knockout_lagged", 1), ("astrocyte_inputs", 0.5)):
        draws = []
        for seed in range(300):
            p, output = perturbed(net, kind, dose, seed)
            np.testing.assert_allclose(output, (net.p / p)[:, None] * net.output, rtol=1e-9)
            draws.append(net.p / p)
        own[PERTURBATIONS[kind].law_holds] = np.array(draws)
    same, spread = own.values()
    assert (same == same[0]).all() and spread.std(0).min() > 0.05
    assert abs(1 / (1 / spread).mean(0) - 2).max() < 0.1  # the calcium is half on average


def test_dead_neurons_leave_a_smaller_network():
    q, k, v, omega, net = drawn(50)
    alive = survivors(50, 0.4, np.random.default_rng(0)) == 1
    assert alive.sum() == 30 and n_lost(50, 0.4) == 20 and n_lost(3, 0.99) == 2
    _, output = perturbed(net, "neurons", 0.4)
    np.testing.assert_allclose(output, built(q, k, v, omega[alive]).output, rtol=1e-10)
    phi_q, phi_k = rates(q, k, omega)
    bare = phi_q[:, alive] @ phi_k[:, alive].sum(0)
    _, output = perturbed(net, "astrocyte_inputs", 0.4)
    np.testing.assert_allclose(output, phi_q @ (phi_k.T @ v) / bare[:, None], rtol=1e-10)


def test_synapses_one_by_one():
    """Lost, unsheathed and rounded synapses by explicit loops over H_ia."""
    q, k, v, omega, net = drawn(7)
    phi_q, phi_k = rates(q, k, omega)
    hebbian, g = v.T @ phi_k, phi_k.sum(0)
    p = phi_q @ g
    hit = np.random.default_rng(0).random(hebbian.shape) < 0.5
    assert 0 < hit.sum() < hit.size
    for kind, efficacy in (("synapses", 0 * p), ("unensheathed", 0 * p + 1 / p.mean())):
        wanted = np.zeros((len(q), len(hebbian)))
        for t in range(len(q)):
            for i in range(len(hebbian)):
                for a in range(7):
                    factor = efficacy[t] if hit[i, a] else 1 / p[t]
                    wanted[t, i] += hebbian[i, a] * phi_q[t, a] * factor
        np.testing.assert_allclose(perturbed(net, kind, 0.5)[1], wanted, rtol=1e-9)

    def nearest(x, bits):
        places = np.linspace(x.min(), x.max(), 2**bits)
        return np.array([min(places, key=lambda place: abs(place - y)) for y in x.flat])

    coarse = nearest(hebbian, 3).reshape(hebbian.shape), nearest(g, 3)
    wanted = phi_q @ coarse[0].T / (phi_q @ coarse[1])[:, None]
    np.testing.assert_allclose(perturbed(net, "nearest", 3)[1], wanted, rtol=1e-9)
    _, output = perturbed(net, "stochastic", 40)
    np.testing.assert_allclose(output, net.output, rtol=1e-8)


def test_saturated_contacts():
    q, k, v, omega, net = drawn(20)
    phi_q, phi_k = rates(q, k, omega)
    use = 0.7 / phi_k.max()
    g = [(1 - math.prod(1 - use * x for x in phi_k[:, a])) / use for a in range(20)]
    wanted = phi_q @ (phi_k.T @ v) / (phi_q @ g)[:, None]
    np.testing.assert_allclose(perturbed(net, "facilitation", 0.7)[1], wanted, rtol=1e-10)


DRAWN = {  # doses, and how far beyond the sampling error first order may be off
    "astrocyte_inputs": ((0.2, 0.6), 0.03),
    "neurons": ((0.2, 0.6), 0.06),
    "synapses": ((0.1, 0.7), 0),
    "unensheathed": ((0.3, 0.6), 0),
    "synaptic_noise": ((0.05, 1), 0),
    "poisson": ((0.3, 10), 0.04),
    "heterogeneity": ((0.1, 0.5), 0.04),
    "stochastic": ((3, 6), 0.05),
}


@pytest.mark.parametrize("kind, dose", [(kind, dose) for kind in DRAWN for dose in DRAWN[kind][0]])
def test_laws(kind, dose):
    """Mean squared added error and mean gain of one network over draws of the perturbation."""
    net = drawn(300)[-1]
    law, rng = PERTURBATIONS[kind].law(net, dose), np.random.default_rng(1)
    squares, gains, spread = [], [], []
    for _ in range(400):
        _, output = PERTURBATIONS[kind].function(net, dose, rng)
        squares.append(np.square(output - net.output).sum() / np.square(net.output).sum())
        gains.append((output * net.output).sum(1) / np.square(net.output).sum(1))
        spread.append(np.log(gains[-1]).var() if (gains[-1] > 0).all() else np.nan)
    beyond = DRAWN[kind][1]
    error = 4 * np.std(squares) / 20 + beyond * law.added
    assert abs(np.mean(squares) - law.added) < error < 0.35 * law.added
    gain_error = 5 * np.std(gains, 0) / 20 + beyond * law.gain
    assert (abs(np.mean(gains, 0) - law.gain) < gain_error).all()
    if kind == "astrocyte_inputs":
        assert np.mean(spread) == pytest.approx(law.log_gain_variance, rel=0.12)


def test_rounding_to_the_nearest_level_is_no_uniform_noise():
    """Large errors of few bits are beyond step^2 / 12, and no law is claimed."""
    net = drawn(300, sizes=(0.6, 0.6))[-1]
    _, output = perturbed(net, "nearest", 3)
    law = PERTURBATIONS["nearest"].law(net, 3)
    added = np.square(output - net.output).sum() / np.square(net.output).sum()
    assert added > 2.5 * law.added_uniform and math.isnan(law.added)
    phi_q, phi_k = net.phi_q, net.phi_k  # the formula, by loops
    step_h, step_g = (np.ptp(x) / 7 for x in (net.v.T @ phi_k, phi_k.sum(0)))
    wanted = sum(
        phi_q[t, a] ** 2
        * (4 * step_h**2 + np.square(net.output[t]).sum() * step_g**2)
        / 12
        / net.p[t] ** 2
        for t in range(len(phi_q))
        for a in range(300)
    )
    assert law.added_uniform == pytest.approx(wanted / np.square(net.output).sum(), rel=1e-9)


def test_total_error_over_networks():
    """G15 and G19 in their test bed: m E|O' - o|^2 = .1097, doubled by c = .5, .1372 at cv = .5."""
    q, k, v, _, net = drawn(n_queries=1)
    scale, trace, _, _ = theory.output_moments(
        *(torch.from_numpy(x) for x in (q, k, v, net.exact, net.log_normalizer)),
        torch.zeros(1, 24).double(),
    )
    predicted = float(scale[0].exp() * trace[0])
    assert predicted == pytest.approx(0.1097, abs=5e-5)
    doses = {"neurons": 0.5, "heterogeneity": 0.5}
    factor = {kind: PERTURBATIONS[kind].law(net, dose).total_factor for kind, dose in doses.items()}
    assert factor == {"neurons": 2.0, "heterogeneity": 1.25}
    found = {kind: [] for kind in ("", *doses)}
    for seed in range(4000):
        net, rng = drawn(300, seed, n_queries=1)[-1], np.random.default_rng(seed)
        outputs = {
            kind: PERTURBATIONS[kind].function(net, dose, rng)[1] for kind, dose in doses.items()
        }
        for kind, output in ({"": net.output} | outputs).items():
            found[kind].append(300 * np.square(output - net.exact).sum(1).mean())
    for kind, values in found.items():
        wanted = predicted * factor.get(kind, 1)
        error = 4 * np.std(values) / len(values) ** 0.5
        assert abs(np.mean(values) - wanted) < error + 0.03 * wanted < 0.12 * wanted, kind


@settings(max_examples=60)
@given(
    st.integers(1, 6),
    st.integers(1, 9),
    st.floats(1e-6, 1),
    st.floats(0.1, 3),
    st.integers(0, 2**32),
)
def test_saturation_stays_in_its_bounds(n, m, dose, size, seed):
    """G32 and the tighter bounds of the law, for every query."""
    rng = np.random.default_rng(seed)
    q, k, v, omega = (rng.normal(size=(rows, 3)) * size for rows in (n, n, n, m))
    net = built(q, k, v, omega)
    p, _ = perturbed(net, "facilitation", dose)
    law, use = PERTURBATIONS["facilitation"].law(net, dose), dose / net.phi_k.max()
    gain = net.p / p
    assert (gain >= law.gain_low * (1 - 1e-9)).all() and (gain <= law.gain_high * (1 + 1e-9)).all()
    assert (law.gain_low >= 1 - 1e-9).all()
    textbook = net.phi_q @ (net.g - use * np.square(net.g) / 2)
    assert (p >= textbook - 1e-9 * net.p).all()


@settings(max_examples=60)
@given(
    st.sampled_from(["neurons", "heterogeneity", "poisson"]),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(0, 2**32),
)
def test_what_changes_both_roles_still_averages(kind, n, m, seed):
    """The output stays an average of values: 1 for values of 1, 0 where the network is silent."""
    rng = np.random.default_rng(seed)
    q, k, omega = (rng.normal(size=(rows, 3)) for rows in (n, n, m))
    net = built(q, k, np.ones((n, 2)), omega)
    p, output = PERTURBATIONS[kind].function(net, 0.7, rng)
    np.testing.assert_allclose(output, np.where(p > 0, 1, 0)[:, None] * np.ones(2), rtol=1e-9)


def test_scale_does_not_matter():
    """Large norms, at which plain rates underflow: outputs and calcium stay what they are."""
    rng = np.random.default_rng(0)
    q, k, v, omega = (rng.normal(size=(rows, 4)) for rows in (6, 6, 6, 50))
    net = built(q, 40 * k, v, omega)
    assert (np.square(40 * k).sum(1) > 1500).any()
    log_terms = net.log_rates_q[:, None] + net.log_rates_k[None]  # [T, N, m]
    terms = np.exp(log_terms - log_terms.max((1, 2), keepdims=True))
    wanted = np.einsum("tna,ne->te", terms, v) / terms.sum((1, 2))[:, None]
    np.testing.assert_allclose(net.output, wanted, rtol=1e-9)
    log_p = np.log(terms.sum((1, 2))) + log_terms.max((1, 2)) - math.log(50)
    np.testing.assert_allclose(net.log_calcium, log_p, rtol=1e-12)
