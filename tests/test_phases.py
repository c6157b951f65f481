"""Phases of the estimate and the laws inside them: limits, planted laws, coverage of intervals."""

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr, logsumexp, ndtr, ndtri_exp

from conftest import random_heads
from tripartite import phases, theory
from tripartite.kinds.network.laws import laws
from tripartite.statistics import over_clusters

LOG_M = np.log([10, 100, 1000, 1e4, 1e5])


def test_borders_are_those_of_the_random_energy_model():
    """m = exp(sigma^2 / 2) and exp(2 sigma^2)."""
    for log_m, name in ((0.9, "frozen"), (1.1, "anomalous"), (3.9, "anomalous"), (4.1, "gaussian")):
        assert phases.PHASES[phases.phase(np.array(log_m), np.array(2.0))] == name


def test_reach_is_the_distance_of_the_largest_draw():
    reach = phases.reach(np.log(np.array([1e5])), np.array([4.0]))
    np.testing.assert_allclose(ndtr(-(reach + 2)), 1e-5, rtol=1e-9)


@pytest.mark.parametrize(("m", "largest"), [(10, 9.6), (100, 5.6), (1000, 4.4)])
def test_typical_response_to_one_pair(m, largest):
    """G16: the median of networks over Phi(b_m - sigma), as it stands in `collapse_shift`.

    It is 1 at the border of the Gaussian phase, rises with sigma, and is largest at MIN_REACH.
    """
    rng = np.random.default_rng(1)
    sigma_squared = np.linspace(np.log(m) / 2, 60, 200)
    reach = phases.reach(np.log(m), sigma_squared)
    inside = sigma_squared[reach > phases.MIN_REACH]
    z = rng.standard_normal((1500, m))
    factors = []
    for square in inside[np.linspace(0, len(inside) - 1, 12).astype(int)]:
        typical = np.median(np.exp(np.sqrt(square) * z - square / 2).mean(1))
        factors.append(typical / ndtr(phases.reach(np.log(m), square)))
    assert 1 < min(factors) < 2 and max(factors) == pytest.approx(largest, rel=0.15)
    assert np.argmax(factors) > 8


@pytest.mark.parametrize(("m", "wanted"), [(10, 70), (100, 11), (1000, 5)])
def test_typical_response_to_a_sum_over_keys(m, wanted):
    """By this factor the shape is too low for a head of 16 keys and sigma^2 = 25."""
    data = random_heads([18.0], 4, n_tokens=16, d_head=16)
    rng = np.random.default_rng(2)
    ratios, log_r = [], []
    for i in range(4):
        q, k = (data[name].values[i, 0, 0].astype(float) for name in "qk")
        log_z = logsumexp(q @ k.T, axis=1)
        given = [torch.from_numpy(x) for x in (q, k, log_z, np.zeros((1, 16)))]
        log_r.append(theory.log_second_moment(*given).numpy())
        for _ in range(40):
            omega = rng.standard_normal((m, 16))
            of_q, of_k = (np.exp(x @ omega.T - np.square(x).sum(1)[:, None] / 2) for x in (q, k))
            ratios.append(of_q @ of_k.sum(0) / m / np.exp(log_z))
    sigma_squared = np.median(log_r)
    assert sigma_squared == pytest.approx(25, rel=0.02)
    factor = np.median(ratios) / ndtr(phases.reach(np.log(m), sigma_squared))
    assert factor == pytest.approx(wanted, rel=0.15)


def test_a_power_law_is_found_exactly():
    errors = np.stack([2 - 0.5 * LOG_M, 1 - 0.2 * LOG_M])
    np.testing.assert_allclose(phases.slopes(LOG_M, errors), [-0.5, -0.2], rtol=1e-12)
    errors[0, 1] = -np.inf
    assert np.isnan(phases.slopes(LOG_M, errors)).tolist() == [True, False]
    assert np.isnan(phases.slopes(LOG_M[:2], errors[:, :2])).all()


def test_two_networks_in_the_gaussian_phase_differ_by_the_closed_form():
    rng = np.random.default_rng(7)
    m, sigma_squared = 3000, 1.0
    z = np.sqrt(sigma_squared) * rng.standard_normal((2, 1500, m))
    log_p = np.log(np.exp(z - sigma_squared / 2).mean(-1))
    law = phases.pool_log_ratio(np.log(m), np.array(sigma_squared))
    np.testing.assert_allclose(np.median(np.abs(log_p[0] - log_p[1])), law, rtol=0.06)


def test_two_frozen_networks_differ_by_a_logistic_law():
    """The largest of m normal numbers, drawn by its distribution: the law is the limit of large m.

    Networks of 300 neurons differ by 13 % less, as several rates share the response.
    """
    rng = np.random.default_rng(8)
    for log_m, low, high in ((1e5, 0.98, 1.02), (np.log(1e4), 1.0, 1.1)):
        largest = -ndtri_exp(np.log(rng.exponential(size=(2, 20000))) - log_m)
        sigma = 2 * np.sqrt(2 * log_m)
        law = phases.pool_log_ratio(np.array(log_m), np.array(sigma**2))
        measured = np.median(sigma * np.abs(largest[0] - largest[1]))
        assert low < measured / law < high
    sigma, m = 5.0, 300
    log_p = logsumexp(sigma * rng.standard_normal((2, 4000, m)), axis=-1)
    law = phases.pool_log_ratio(np.log(m), np.array(sigma**2))
    assert 0.82 < np.median(np.abs(log_p[0] - log_p[1])) / law < 0.92
    assert np.isnan(phases.pool_log_ratio(np.log(1000.0), np.array([6.0, np.nan]))).all()


def planted(rng, exponents, noise=0.2):
    """ln errors [input, head, seed, size] on a line, with scatter of each input, head and seed."""
    n_inputs, n_heads, n_seeds = 6, 8, 10
    steep = np.zeros((n_inputs, n_heads, n_seeds, 1))
    for axis, n in enumerate((n_inputs, n_heads, n_seeds)):
        shape = [1, 1, 1, 1]
        shape[axis] = n
        steep = steep + 0.03 * rng.standard_normal(shape)
    scatter = noise * rng.standard_normal((n_inputs, n_heads, n_seeds, len(LOG_M)))
    return (exponents + steep) * LOG_M + scatter


@pytest.mark.slow
def test_planted_exponents_lie_in_their_intervals():
    """Over inputs, heads and seeds: 95 % of 200 intervals hold the planted exponent.

    Axes of 6, 8 and 10 clusters; crossed intervals are a little too wide, never too narrow.
    """
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        slopes = phases.slopes(LOG_M, planted(rng, -0.5))
        _, low, high = over_clusters(np.mean, slopes, [None] * 3, rng, n_draws=300)
        hits += bool(low <= -0.5 <= high)
    assert 0.91 <= hits / 200 <= 0.995  # binomial sd is .015


def test_collapse_is_moved_back():
    reach = np.linspace(-4, 1, 12)
    assert phases.collapse_shift(reach, log_ndtr(reach + 0.7)) == pytest.approx(0.7, abs=1e-5)


def test_exponents_are_fitted_inside_one_phase_alone():
    """A head that is frozen at small m and Gaussian at large m; why there is no exponent."""
    m = np.array([3, 10, 30, 1000, 3000, 10000, 30000, 100000])
    sigma_squared = np.array([[3.0, np.nan, 60.0]])  # borders at 4.5 and 403
    typical = np.where(m > 403, -0.5 * np.log(m), -0.1 * np.log(m))[:, None, None, None, None]
    rng = np.random.default_rng(5)
    typical = typical + 0.01 * rng.standard_normal((8, 2, 5, 1, 3))
    typical[..., 2] = np.nan
    ratio = np.ones((8, 1, 3)) * [0.5, 1.0, np.nan]
    found = laws(m, sigma_squared, typical, ratio, np.arange(3)[None])
    exponent, notes = found["exponent"][0][:, 0], found["exponent_note"][:, 0]  # [phase, head]
    np.testing.assert_allclose(exponent[2, 0], -0.5, atol=0.02)
    assert np.isnan(exponent[:2, 0]).all()
    assert notes[:, 0].tolist() == [
        "1 numbers of neurons in this phase, 3 needed",
        "2 numbers of neurons in this phase, 3 needed",
        "",
    ]
    assert notes[0, 1] == "no closed form tells the phase of this feature map"
    assert notes[2, 2] == "not simulated, or without any error"
    names = found["phase_of"][:, 0]  # [n_features, head]
    assert names[:3, 0].tolist() == ["frozen", "anomalous", "anomalous"]
    assert (names[:, 1] == "").all()
    assert found["phase_heads"].tolist() == [0, 0, 1]
    counts = [[1, *[0] * 7], [0, 1, 1, *[0] * 5], [0, 0, 0, *[1] * 5]]
    assert found["heads_in_phase"].tolist() == counts
    of_phase = found["normalizer_ratio_in_phase"]  # a head without a phase, or not run, is in none
    assert of_phase[0, 0] == 0.5 and np.isnan(of_phase[1:, 0]).all()


def test_too_few_networks_give_no_numbers_but_reasons():
    """NaN with a reason, and no warning: for two sizes, heads without error."""
    rng = np.random.default_rng(6)
    for m, typical in (
        (np.array([10, 100]), rng.standard_normal((2, 1, 3, 1, 1))),
        (np.array([10, 100, 1000]), np.full((3, 1, 3, 1, 1), -np.inf)),
    ):
        found = laws(m, np.ones((1, 1)), typical, np.ones((len(m), 1, 1)), np.zeros((1, 1)))
        assert np.isnan(found["phase_exponent"]).all()
        assert np.isnan(found["collapse_shift"]).all()
        assert "3 of 2 needed" in found["collapse_note"]
