"""Kernels of infinitely many neurons, by Monte Carlo, quadrature and bivariate normal integrals."""

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr, owens_t

from test_features import KERNEL, X, Y, assert_moments, estimates, gaussian_mean
from tripartite import network
from tripartite.features import FEATURE_MAPS, draw_neurons
from tripartite.kernels import KERNELS, limit_kernel, limit_read
from tripartite.network import Hidden, Tokens


def kernel(feature_map, q, k, m=1, threshold=math.inf):
    """kappa(q, k) of all pairs, as numbers."""
    q, k = (torch.as_tensor(np.atleast_2d(x), dtype=torch.float64) for x in (q, k))
    log_kernel, sign = limit_kernel(feature_map, q, k, m, threshold)
    return (log_kernel.exp() * (1 if sign is None else sign)).numpy()


def points(norm, n=6, d=4, seed=0):
    """q and k [n, d] of the given norm in all directions."""
    x = np.random.default_rng(seed).normal(size=(2, n, d))
    return norm * x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("feature_map", sorted(KERNELS))
def test_kernels_are_the_mean_of_networks(feature_map):
    """At G0, the product of rates of many neurons has the kernel as its mean."""
    a = -0.07 if feature_map in ("generalized_positive", "fitted_normal") else 0.0
    values = estimates(feature_map, n_networks=30_000, a=a, threshold=3.0)
    assert_moments(values, kernel(feature_map, X, Y, 16, 3.0)[0, 0])


def test_only_the_clipped_sine_has_no_closed_form():
    assert set(FEATURE_MAPS) - set(KERNELS) == {"clipped_sine"}
    x = torch.zeros(1, 2, dtype=torch.float64)
    assert limit_kernel("clipped_sine", x, x) is None


def test_known_values():
    """G0, G10 and G11 of the specification."""
    assert kernel("performer", X, Y)[0, 0] == pytest.approx(KERNEL, rel=1e-12)
    assert kernel("positive_cosine", X, Y)[0, 0] == pytest.approx(0.216, abs=1e-3)
    c = [1 - math.log(16) / 2 - z @ z / 2 for z in (X, Y)]
    assert kernel("linear", X, Y, 16)[0, 0] == pytest.approx(16 * (c[0] * c[1] + X @ Y), rel=1e-12)
    # at q = k a positive cosine is half a wave: E max(0, cos)^2 = 1 / 4
    assert kernel("positive_cosine", X, X)[0, 0] == pytest.approx(
        math.exp(X @ X) / (2 * math.pi), rel=1e-6
    )


def bivariate(h, k, r):
    """P(u < h, v < k) of standard normal u, v with correlation r (Owen 1956)."""
    root = np.sqrt((1 - r) * (1 + r))
    opposite = np.where((h * k > 0) | ((h * k == 0) & (h + k >= 0)), 0.0, 0.5)
    cut = owens_t(h, (k / h - r) / root) + owens_t(k, (h / k - r) / root)
    return (ndtr(h) + ndtr(k)) / 2 - cut - opposite


def four_quadrants(q, k, threshold):
    """G9: the truncated kernel by whether each of the two rates is cut."""
    xx, yy, xy, top = (q * q).sum(-1)[:, None], (k * k).sum(-1), q @ k.T, math.log(threshold)
    x, y = np.sqrt(xx), np.sqrt(yy)

    def share(tilt_x, tilt_y, u_low, v_low):
        h = (top - tilt_x * xx - tilt_y * xy) / x
        g = (top - tilt_x * xy - tilt_y * yy) / y
        return bivariate(u_low * h, v_low * g, u_low * v_low * xy / (x * y))

    return np.exp(-(xx + yy) / 2) * (
        np.exp(xx / 2 + yy / 2 + xy) * share(1, 1, 1, 1)
        + threshold * np.exp(xx / 2) * share(1, 0, 1, -1)
        + threshold * np.exp(yy / 2) * share(0, 1, -1, 1)
        + threshold**2 * share(0, 0, -1, -1)
    )


@pytest.mark.parametrize("norm", [0.1, 1.0, 3.0, 5.0])
@pytest.mark.parametrize("threshold", [0.5, 2.0, 150.0, 1e4])
def test_truncated_is_four_bivariate_probabilities(norm, threshold):
    q, k = points(norm, n=20)
    wanted = four_quadrants(q, k, threshold)
    np.testing.assert_allclose(kernel("truncated_performer", q, k, 1, threshold), wanted, rtol=2e-6)


def dense(log_rate, norm, length, cosine, n=200_001):
    """ln E f(u) f(v) by the trapezoidal rule in both directions, in log space."""
    z = np.linspace(-12, 12 + norm + length, n)[:, None]
    w = np.linspace(-10, 10 + length, 801)
    step = (z[1, 0] - z[0, 0]) * (w[1] - w[0])
    parts = []
    for block in np.array_split(z, 400):
        v = length * (cosine * block + math.sqrt(1 - cosine**2) * w)
        log_term = log_rate(norm * block) + log_rate(v) - (block**2 + w**2) / 2
        top = log_term.max()
        parts.append(top + math.log(np.exp(log_term - top).sum()))
    return np.logaddexp.reduce(parts) + math.log(step / (2 * math.pi))


@pytest.mark.parametrize(
    ("norm", "length", "cosine"), [(10.0, 10.0, 0.1), (9.0, 14.0, -0.7), (14.0, 6.0, 0.95)]
)
def test_truncated_at_norms_where_probabilities_cancel(norm, length, cosine):
    q = np.array([norm, 0.0])
    k = length * np.array([cosine, math.sqrt(1 - cosine**2)])
    for threshold in (2.0, 1e3):
        got = math.log(kernel("truncated_performer", q, k, 1, threshold)[0, 0])
        top = math.log(threshold)
        wanted = dense(lambda u, top=top: np.minimum(u, top), norm, length, cosine, 20_001)
        assert got == pytest.approx(wanted - (norm**2 + length**2) / 2, abs=1e-3)


@pytest.mark.parametrize("norm", [0.5, 2.0])
def test_elu_plus_one_is_its_quadrature(norm):
    q, k = points(norm)
    wanted = [
        [gaussian_mean_of(lambda u: np.where(u < 0, np.exp(u), 1 + u), x, y) for y in k] for x in q
    ]
    # the tolerance is that of the quadrature, at the kinks
    np.testing.assert_allclose(kernel("elu_plus_one", q, k), wanted, rtol=1e-4)


def gaussian_mean_of(f, x, y, n=200):
    """E f(omega.x) f(omega.y) by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    weights = weights / weights.sum()
    root = np.linalg.cholesky(np.array([[x @ x, x @ y], [x @ y, y @ y]]))
    u = root[0, 0] * nodes[:, None]
    v = root[1, 0] * nodes[:, None] + root[1, 1] * nodes
    return (weights[:, None] * weights * f(u) * f(v)).sum()


def test_positive_cosine_is_its_quadrature():
    phases = (np.arange(2000) + 0.5) / 2000 * 2 * math.pi

    def product(u, v):
        return np.mean(
            [np.maximum(0, np.cos(u + b)) * np.maximum(0, np.cos(v + b)) for b in phases], 0
        )

    wanted = 2 / math.pi * math.exp((X @ X + Y @ Y) / 2) * gaussian_mean(product, 60)
    assert kernel("positive_cosine", X, Y)[0, 0] == pytest.approx(wanted, rel=1e-5)


def test_truncation_ends_in_the_untruncated_and_in_a_constant():
    """A high threshold changes nothing; a low one leaves threshold^2 exp(-(|q|^2 + |k|^2) / 2)."""
    q, k = points(1.0)
    np.testing.assert_allclose(
        kernel("truncated_performer", q, k, 1, 1e12), np.exp(q @ k.T), rtol=1e-6
    )
    np.testing.assert_array_equal(kernel("truncated_performer", q, k), kernel("performer", q, k))
    np.testing.assert_allclose(
        kernel("truncated_performer", q, k, 1, 1e-9), 1e-18 * math.exp(-1), rtol=1e-6
    )


@pytest.mark.parametrize("feature_map", ["truncated_performer", "elu_plus_one", "relu"])
def test_parallel_opposite_and_zero(feature_map):
    """Correlations of 1, -1 and none: an integral over one variable, or 0."""
    z = np.linspace(-14, 14, 2_000_001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    f = {
        "truncated_performer": lambda u: np.minimum(np.exp(u), 3.0),
        "elu_plus_one": lambda u: np.where(u < 0, np.exp(np.minimum(u, 0)), 1 + u),
        "relu": lambda u: np.maximum(u, 0),
    }[feature_map]
    q = np.array([0.6, 0.8])
    for factor in (1.0, -1.5, 2.0, 0.0):
        wanted = (density * f(z) * f(factor * z)).sum()
        if feature_map == "truncated_performer":
            wanted *= math.exp(-(1 + factor**2) / 2)
        for pair in ((q, factor * q), (factor * q, q)):
            got = kernel(feature_map, *pair, 1, 3.0)[0, 0]
            assert got == pytest.approx(wanted, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("feature_map", sorted(KERNELS))
def test_no_norm_leaves_the_range(feature_map):
    """At |x| = 60 exp(|x|^2 / 2) overflows float64; a batch gives the results of its parts."""
    q, k = (torch.from_numpy(x).reshape(2, 3, 4) for x in points(60.0))
    log_kernel, _ = limit_kernel(feature_map, q, k, 10, 150.0)
    assert log_kernel.shape == (2, 3, 3) and torch.isfinite(log_kernel).all()
    alone, _ = limit_kernel(feature_map, q[1], k[1], 10, 150.0)
    torch.testing.assert_close(log_kernel[1], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("feature_map", ["performer", "truncated_performer", "relu", "linear"])
def test_a_large_network_reads_what_its_limit_reads(feature_map):
    """Calcium and output of 10^5 neurons, with presynaptic gains, are close to the limit."""
    rng = np.random.default_rng(1)
    q, k, v = (torch.from_numpy(0.4 * rng.standard_normal((5, 4))) for _ in range(3))
    log_gain = torch.from_numpy(rng.standard_normal(5))
    m, tokens = 100_000, Tokens(q, k, v, log_gain)
    neurons = draw_neurons(feature_map, rng, rng, m, 4)
    ((log_p, sign, output),) = network.read(
        [tokens], neurons, [(0, m)], FEATURE_MAPS[feature_map].activation, 2.0
    )[0]
    found = limit_read(*limit_kernel(feature_map, q, k, m, 2.0), log_gain, v)
    torch.testing.assert_close(log_p, found[0], rtol=0, atol=0.05)
    torch.testing.assert_close(sign.double(), found[1])
    torch.testing.assert_close(output, found[2], rtol=0.05, atol=0.05)


def test_nothing_fires_for_a_query_of_zero():
    """relu is silent at a drive of 0: no calcium, and an output of 0 as in the network."""
    q, k = torch.zeros(1, 2, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
    log_p, sign, output = limit_read(*limit_kernel("relu", q, k), torch.zeros(3), k)
    assert log_p[0] == -math.inf and (output == 0).all() and sign[0] == 0
    hidden = Hidden(
        torch.ones(4, 2, dtype=torch.float64), torch.zeros(4), FEATURE_MAPS["relu"].activation
    )
    assert (network.rates(hidden, q, 4)[0] == -math.inf).all()
