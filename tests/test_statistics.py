"""Intervals over seeds and clusters: nominal coverage, and limiting cases."""

import numpy as np
import pytest
from scipy.stats import binom

from tripartite.statistics import (
    best_place,
    over_clusters,
    over_seeds,
    pooled_correlation,
    wilson,
)


def test_interval_of_a_mean_is_students():
    """For the mean the jackknife with Student's t is the textbook interval."""
    from scipy import stats

    values = np.random.default_rng(0).standard_normal((12, 1))
    estimate, low, high = over_seeds(lambda x: x.mean(0), values, "linear")
    wanted = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values[:, 0]))
    np.testing.assert_allclose([low[0], high[0]], wanted, rtol=1e-12)
    np.testing.assert_allclose(estimate, values.mean(), rtol=1e-12)


def test_many_seeds_are_deleted_in_groups():
    """4000 seeds in 100 groups of 40: Student's interval of the group means, by few calls."""
    from scipy import stats

    values = np.random.default_rng(0).standard_normal((4000, 1))
    calls = []

    def mean(x):
        calls.append(len(x))
        return x.mean(0)

    _, low, high = over_seeds(mean, values, "linear")
    groups = values.reshape(100, 40).mean(1)
    wanted = stats.t.interval(0.95, 99, loc=groups.mean(), scale=stats.sem(groups))
    np.testing.assert_allclose([low[0], high[0]], wanted, rtol=1e-9)
    assert calls == [4000] + [3960] * 100


def test_coverage_of_the_median_error():
    """10 seeds of 200 dependent errors: 95 % of intervals hold the true median of their sizes.

    Each seed shifts all of its errors together, as the hidden neurons of one seed do.
    """
    rng = np.random.default_rng(1)
    truth = 0.6744898 * np.hypot(1.0, 0.3)
    repeats = 1000
    values = np.abs(
        rng.standard_normal((10, repeats, 200)) + 0.3 * rng.standard_normal((10, repeats, 1))
    )

    def median(x):
        return np.median(np.moveaxis(x, 0, 1).reshape(repeats, -1), -1)

    _, low, high = over_seeds(median, values, "log")
    covered = ((low < truth) & (truth < high)).mean()
    assert 0.93 < covered < 0.97  # binomial sd is .007


def test_bounds_of_heavy_tailed_errors_stay_positive_and_finite():
    rng = np.random.default_rng(2)
    _, low, high = over_seeds(
        lambda x: np.abs(x).mean((0, 2)), rng.standard_cauchy((3, 4, 5)), "log"
    )
    assert (low > 0).all() and np.isfinite(high).all() and (low < high).all()


def test_no_variation_no_width():
    estimate, low, high = over_seeds(lambda x: x.mean(0), np.zeros((5, 3)), "log")
    assert (estimate == 0).all() and (low == 0).all() and (high == 0).all()


def test_correlation_of_something_constant_is_nan():
    assert np.isnan(pooled_correlation(np.ones((1, 4)), np.arange(4.0)[None]))
    almost = np.array([[0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2]])  # constant up to rounding
    assert np.isnan(pooled_correlation(almost, np.arange(4.0)[None]))
    assert pooled_correlation(1e-9 * np.arange(4.0)[None], -np.arange(4.0)[None]) == -1


def test_one_seed_is_an_error():
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        over_seeds(lambda x: x.mean(0), np.zeros((1, 3)), "linear")


def test_intervals_over_clusters_are_reproducible():
    values = np.arange(12.0).reshape(3, 4)
    one, other = (
        over_clusters(lambda x: x.mean((0, 1)), values, [None, None], np.random.default_rng(1))
        for _ in "ab"
    )
    np.testing.assert_array_equal(one, other)


def test_the_interval_of_a_share_covers():
    """Wilson: of 400, at least 93 % on any share; its ends solve |p^ - p|^2 = z^2 p (1 - p) / n."""
    shares = np.arange(401) / 400
    low, high = wilson(shares, 400)
    for truth in (0.1, 0.5, 0.8, 0.95):
        within = (low <= truth) & (truth <= high)
        assert binom.pmf(np.arange(401)[within], 400, truth).sum() > 0.93
    for end in (low[320], high[320]):
        np.testing.assert_allclose(
            abs(0.8 - end), 1.959964 * np.sqrt(end * (1 - end) / 400), rtol=1e-6
        )


def test_clusters_of_one_axis_are_students():
    """Of the mean of inputs, the textbook interval, up to the noise of the draws."""
    from scipy import stats

    rng = np.random.default_rng(6)
    for n in (2, 3, 5, 8):
        values = rng.standard_normal((n, 4))
        estimate, low, high = over_clusters(np.mean, values, [None], rng, n_draws=20000)
        of_inputs = values.mean(1)
        wanted = stats.t.interval(0.95, n - 1, loc=of_inputs.mean(), scale=stats.sem(of_inputs))
        np.testing.assert_allclose([low, high] - estimate, wanted - of_inputs.mean(), rtol=0.03)


def test_places_of_one_label_are_one_cluster():
    """Twelve layers that share the weights of eight heads are eight heads, not 96."""
    rng = np.random.default_rng(7)
    heads = rng.standard_normal(8)
    values = np.tile(heads, 12)
    shared = over_clusters(np.mean, values, [np.tile(np.arange(8), 12)], rng, n_draws=20000)
    alone = over_clusters(np.mean, heads, [None], rng, n_draws=20000)
    np.testing.assert_allclose(shared, alone, rtol=0.05)


def test_one_cluster_says_nothing_about_others():
    rng = np.random.default_rng(8)
    values = rng.standard_normal((1, 5))
    estimate, low, high = over_clusters(np.mean, values, [None, None], rng)
    assert estimate == values.mean() and np.isnan([low, high]).all()
    assert best_place(np.exp(values), [None], rng) == (int(values.argmin()), 0, 4)


def test_the_best_place_is_bracketed():
    """Places whose errors hardly differ may all be the best; a place far worse may not."""
    rng = np.random.default_rng(9)
    errors = np.exp(0.1 * rng.standard_normal((8, 1)) + np.log([3.0, 1.01, 1.0, 2.0]))
    errors *= np.exp(0.05 * rng.standard_normal((8, 4)))
    assert best_place(errors, [None], rng)[1:] == (1, 2)
