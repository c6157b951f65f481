"""Feature maps against their closed forms, at the fixed test point G0."""

import math

import numpy as np
import pytest
import torch

from tripartite.features import performer
from tripartite.network import batched


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


def pair_statistics(log_phi, m=20, n_networks=100_000):
    """Mean of the network's estimates of exp(x.y), and m times their variance, for any map.

    x is the one query and y the one key of networks of m neurons; the map is given as log phi.
    """
    x, y = point()
    omega = torch.from_numpy(np.random.default_rng(0).standard_normal((n_networks, m, 8)))
    q, k = (t.expand(n_networks, 1, 8) for t in (x, y))
    mask = torch.ones(n_networks, 1, dtype=torch.bool)
    log_calcium, _ = batched(q, k, k, mask, omega, log_phi, [m])
    estimates = log_calcium.exp().flatten()
    return float(estimates.mean()), m * float(estimates.var())


def test_network_with_favor_plus_plus():
    """G6: generalised positive features exp(A|w|^2 + sqrt(1 - 4A) w.x - |x|^2 / 2) with optimal A."""
    x, y = point()
    s2, d, kernel = float((x + y) @ (x + y)), 8, math.exp(x @ y)
    rho = (math.sqrt((2 * s2 + d) ** 2 + 8 * d * s2) - 2 * s2 - d) / (4 * s2)
    a = (1 - 1 / rho) / 8
    assert (rho, a) == pytest.approx((0.6418272436, -0.0697564570), abs=1e-9)

    def log_phi(omega, x):
        scale = d / 4 * math.log(1 - 4 * a) + a * omega.square().sum(-1)[..., None, :]
        return scale + math.sqrt(1 - 4 * a) * x @ omega.mT - x.square().sum(-1, keepdim=True) / 2

    growth = ((1 - 4 * a) / math.sqrt(1 - 8 * a)) ** d
    exponent = 2 * (1 - 4 * a) * s2 / (1 - 8 * a) - float(x @ x) - float(y @ y)
    variance = growth * math.exp(exponent) - kernel**2
    plain = kernel**2 * math.expm1(s2)
    assert variance / plain == pytest.approx(0.65936, abs=1e-4)
    mean, measured = pair_statistics(log_phi)
    assert abs(mean - kernel) < 4 * math.sqrt(variance / 2e6)
    assert measured == pytest.approx(variance, rel=0.03)


def test_network_with_hyperbolic_features():
    """G5: pairs of neurons with w and -w have half the variance times 1 - exp(-s^2) per pair."""
    x, y = point()
    s2, kernel = float((x + y) @ (x + y)), math.exp(x @ y)
    wanted = kernel**2 * math.exp(s2) * (1 - math.exp(-s2)) ** 2 / 2
    assert wanted == pytest.approx(0.8126, abs=1e-4)

    def log_phi(omega, x):
        half = omega[..., : omega.shape[-2] // 2, :]
        return performer(torch.cat([half, -half], -2), x)

    mean, measured = pair_statistics(log_phi)
    assert abs(mean - kernel) < 4 * math.sqrt(wanted / 1e6)
    assert measured / 2 == pytest.approx(wanted, rel=0.03)
