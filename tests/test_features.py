"""Feature maps against their closed forms, at the fixed test point G0."""

import math

import numpy as np
import pytest
import torch

from tripartite.features import performer


def point():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=8), rng.normal(size=8)
    x /= np.linalg.norm(x)
    y *= 0.8 / np.linalg.norm(y)
    return torch.from_numpy(x), torch.from_numpy(y)


def test_test_point():
    """G0, to the digits printed in the specification."""
    x, y = point()
    assert float(x @ y) == pytest.approx(-0.1402066071, abs=1e-10)
    assert float((x + y) @ (x + y)) == pytest.approx(1.3595867858, abs=1e-10)
    assert math.exp(x @ y) == pytest.approx(0.8691786384, abs=1e-10)


def test_performer_is_unbiased_with_the_known_variance():
    """G5: E phi.phi = K = exp(x.y), and variance K^2 (exp(s^2) - 1) per feature, s = |x + y|."""
    x, y = point()
    omega = torch.from_numpy(np.random.default_rng(0).standard_normal((2_000_000, 8)))
    product = (performer(omega, x[None]) + performer(omega, y[None])).exp()[0]
    kernel = math.exp(x @ y)
    variance = kernel**2 * math.expm1((x + y) @ (x + y))
    assert variance == pytest.approx(2.1868, abs=1e-4)
    standard_error = math.sqrt(variance / len(product))
    assert abs(product.mean() - kernel) < 4 * standard_error
    assert float(product.var()) == pytest.approx(variance, rel=0.05)


def test_performer_norm():
    """G8: E |phi(q)|^2 = exp(|q|^2), at a norm where the tail is light."""
    q = torch.full((1, 4), math.sqrt(0.4 / 4), dtype=torch.float64)
    omega = torch.from_numpy(np.random.default_rng(0).standard_normal((1_000_000, 4)))
    square = (2 * performer(omega, q)).exp()[0]
    error = float(square.std()) / 1000
    assert abs(float(square.mean()) - math.exp(0.4)) < 4 * error
