"""Named random streams."""

import numpy as np
from scipy import stats

from tripartite.streams import stream

KNOWN = [0.07457415003704417, -2.1367241220966284, 1.3098883187640986]


def test_same_name_same_numbers():
    a = stream(1, "albert", "omega", 0, 2).standard_normal(5)
    b = stream(1, "albert", "omega", 0, 2).standard_normal(5)
    np.testing.assert_array_equal(a, b)


def test_known_numbers():
    """The streams determine all results: these numbers must not change."""
    drawn = stream(2023, "albert", "omega", 0, 0, 2).standard_normal(3)
    np.testing.assert_allclose(drawn, KNOWN, rtol=1e-12)


def test_different_names_are_independent():
    names = [("a", "bc"), ("ab", "c"), ("a", "b", "c"), ("abc",), (1, 2), ("1", "2"), (12,)]
    draws = np.array(
        [stream(seed, *name).standard_normal(2000) for name in names for seed in (1, 2)]
    )
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-4
