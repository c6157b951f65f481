"""Feature maps against their closed forms, at the fixed test point G0."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from tripartite import network
from tripartite.features import FEATURE_MAPS, draw_neurons, optimal_a
from tripartite.network import Hidden, Tokens


def point():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=8), rng.normal(size=8)
    x /= np.linalg.norm(x)
    y *= 0.8 / np.linalg.norm(y)
    return x, y


X, Y = point()
S2, D2 = float((X + Y) @ (X + Y)), float((X - Y) @ (X - Y))
KERNEL = math.exp(X @ Y)
A = -0.0697564570


def test_test_point():
    """G0, to the digits printed in the specification."""
    assert float(X @ Y) == pytest.approx(-0.1402066071, abs=1e-10)
    assert S2 == pytest.approx(1.3595867858, abs=1e-10)
    assert D2 == pytest.approx(1.9204132142, abs=1e-10)
    assert KERNEL == pytest.approx(0.8691786384, abs=1e-10)


def estimates(feature_map, m=16, n_networks=60_000, a=0.0, threshold=math.inf):
    """What many networks of m neurons read for x where y is written: phi(x).phi(y), with signs."""
    rng = np.random.default_rng(0)
    drawn = draw_neurons(feature_map, rng, rng, m * n_networks, 8, a)
    weights, bias = (torch.cat(parts) for parts in zip(*drawn))
    activation = FEATURE_MAPS[feature_map].activation
    products = 1.0
    for x in (X, Y):
        hidden = Hidden(weights, bias, activation, threshold)
        log_phi, sign = network.rates(hidden, torch.from_numpy(x)[None], m)
        products = products * log_phi[0].exp() * (1 if sign is None else sign[0])
    return products.reshape(n_networks, m).mean(1).numpy()


def assert_moments(values, mean, variance=None, rel=0.04):
    """The mean within four standard errors, the variance within `rel`."""
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - mean) < 4 * error, (values.mean(), mean, error)
    if variance is not None:
        assert values.var() == pytest.approx(variance, rel=rel)


def test_estimates_are_those_of_the_network():
    """A network that `read` runs gives one of these estimates."""
    rng = np.random.default_rng(0)
    neurons = list(draw_neurons("cosine", rng, rng, 16, 8))
    q, k = (torch.from_numpy(x)[None] for x in (X, Y))
    tokens = Tokens(q, k, k, torch.zeros(1, dtype=torch.float64))
    cosine = FEATURE_MAPS["cosine"].activation
    ((log_p, sign, _),) = network.read([tokens], neurons, [(0, 16)], cosine)[0]
    wanted = estimates("cosine", 16, 1)
    assert float(log_p.exp() * sign) == pytest.approx(wanted[0], rel=1e-12)


def test_performer():
    """G5: E = K, variance K^2 (exp(s^2) - 1) / m."""
    variance = KERNEL**2 * math.expm1(S2)
    assert variance == pytest.approx(2.1868, abs=1e-4)
    assert_moments(estimates("performer"), KERNEL, variance / 16)


def test_hyperbolic():
    """G5: pairs have half the variance times 1 - exp(-s^2), per pair."""
    variance = KERNEL**2 * math.exp(S2) * (1 - math.exp(-S2)) ** 2 / 2
    assert variance == pytest.approx(0.8126, abs=1e-4)
    assert_moments(estimates("hyperbolic"), KERNEL, variance / 8)


def test_generalized_positive():
    """G6: the variance of FAVOR++ at its best parameter, .659 of the plain one."""
    assert optimal_a(S2, 8) == pytest.approx(A, abs=1e-9)
    growth = ((1 - 4 * A) / math.sqrt(1 - 8 * A)) ** 8
    exponent = 2 * (1 - 4 * A) * S2 / (1 - 8 * A) - X @ X - Y @ Y
    variance = growth * math.exp(exponent) - KERNEL**2
    assert variance / (KERNEL**2 * math.expm1(S2)) == pytest.approx(0.65936, abs=1e-4)
    assert_moments(estimates("generalized_positive", a=A), KERNEL, variance / 16)


@pytest.mark.parametrize(("mean_square", "d_head"), [(1e-3, 8), (0.5, 3), (13.0, 32), (300.0, 64)])
def test_the_best_a_minimises_the_variance(mean_square, d_head):
    def log_growth(a):  # ln of the second moment, up to terms that do not depend on a
        return (
            d_head * math.log((1 - 4 * a) / math.sqrt(1 - 8 * a))
            + 2 * (1 - 4 * a) / (1 - 8 * a) * mean_square
        )

    best = optimal_a(mean_square, d_head)
    step = 0.05 * abs(best)
    assert best < 0 and log_growth(best) < min(log_growth(best - step), log_growth(best + step))
    assert optimal_a(0.0, d_head) == 0


def test_orthogonal():
    """G7: unbiased, with less mean square error than independent weights, by at least the bound."""
    values = estimates("orthogonal", m=8, n_networks=100_000)
    assert_moments(values, KERNEL)
    squares = np.square(values - KERNEL)
    independent = KERNEL**2 * math.expm1(S2) / 8
    gain = 2 * 7 / (8 * 10) * (KERNEL - math.exp(-(X @ X + Y @ Y) / 2)) ** 2
    error = squares.std() / math.sqrt(len(squares))
    assert squares.mean() < independent - gain + 4 * error
    assert gain > 4 * error  # otherwise the bound would not be tested


def test_orthogonal_weights_are_haar_with_the_norms_of_the_draw():
    """Rows are orthogonal within blocks of D, keep their norms, and have no preferred direction."""
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    weights, bias = next(draw_neurons("orthogonal", rng, rng, 6000, 3))
    omega = same.standard_normal((6000, 3))
    np.testing.assert_allclose(weights.norm(dim=1), np.linalg.norm(omega, axis=1))
    gram = weights.unflatten(0, (-1, 3)) @ weights.unflatten(0, (-1, 3)).mT
    off = gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 1e-12 and (bias == 0).all()
    directions = weights / weights.norm(dim=1, keepdim=True)
    for row in range(3):  # without the signs of QR the rows have a preferred direction
        assert directions[row::3].mean(0).abs().max() < 4 / math.sqrt(3 * 2000)
    second = torch.einsum("ni,nj->ij", directions, directions) / 6000
    assert (second - torch.eye(3) / 3).abs().max() < 0.02


def test_cosine():
    """G5: unbiased with signs, variance exp(|x|^2 + |y|^2)(1 + exp(-2 d^2)/2 - exp(-d^2)) / m."""
    variance = math.exp(X @ X + Y @ Y) * (1 + math.exp(-2 * D2) / 2 - math.exp(-D2))
    assert variance == pytest.approx(4.4551, abs=1e-4)
    values = estimates("cosine")
    assert_moments(values, KERNEL, variance / 16)
    assert (values < 0).any()


@pytest.mark.parametrize("threshold", [2.0, 5.0, 150.0])
def test_truncated_performer(threshold):
    """G9: four parts of the plane, by whether each of the two rates is cut."""
    high = math.log(threshold)
    covariance = np.array([[X @ X, X @ Y], [X @ Y, Y @ Y]])

    def share(tilt, u_low, v_low):  # P(u < L or > L, v < L or > L) after an exponential tilt
        mean, signs = covariance @ tilt, np.array([1 if u_low else -1, 1 if v_low else -1])
        bound = signs * (high - mean)
        return multivariate_normal(np.zeros(2), signs[:, None] * covariance * signs).cdf(bound)

    wanted = math.exp(-(X @ X + Y @ Y) / 2) * (
        math.exp(S2 / 2) * share([1, 1], True, True)
        + threshold * math.exp(X @ X / 2) * share([1, 0], True, False)
        + threshold * math.exp(Y @ Y / 2) * share([0, 1], False, True)
        + threshold**2 * share([0, 0], False, False)
    )
    assert_moments(estimates("truncated_performer", threshold=threshold), wanted)
    assert wanted < KERNEL


def test_positive_cosine():
    """G10: a constant background and Gaussians, far from exp(x.y)."""
    series = sum(
        (2 / (math.pi * (4 * k**2 - 1))) ** 2 * math.exp(-2 * k**2 * D2) for k in range(1, 20)
    )
    wanted = (
        math.exp((X @ X + Y @ Y) / 2)
        * 2
        / math.pi
        * (1 / math.pi**2 + math.exp(-D2 / 2) / 8 + series / 2)
    )
    assert wanted == pytest.approx(0.216, abs=1e-3)
    assert_moments(estimates("positive_cosine"), wanted)


def test_linear():
    """G11: m (c_x c_y + x.y), c_x = 1 - ln(m) / 2 - |x|^2 / 2."""
    m = 16
    c = [1 - math.log(m) / 2 - z @ z / 2 for z in (X, Y)]
    assert_moments(estimates("linear", m), m * (c[0] * c[1] + X @ Y))


def gaussian_mean(function, n=80):
    """E f(u, v) for u = omega.x, v = omega.y, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    weights = weights / weights.sum()
    root = np.linalg.cholesky(np.array([[X @ X, X @ Y], [X @ Y, Y @ Y]]))
    u = root[0, 0] * nodes[:, None] + 0 * nodes
    v = root[1, 0] * nodes[:, None] + root[1, 1] * nodes
    return (weights[:, None] * weights * function(u, v)).sum()


def test_clipped_sine():
    """No closed form: quadrature over weights and phase. A large offset, far from exp(x.y)."""
    phases = (np.arange(2000) + 0.5) / 2000 * 2 * math.pi

    def wave(u):
        return np.sin(np.clip(u, -math.pi / 2, math.pi / 2))

    def product(u, v):
        return np.mean([wave(u + b) * wave(v + b) for b in phases], axis=0)

    wanted = 2 * math.exp((X @ X + Y @ Y) / 2) * gaussian_mean(product, 60)
    assert wanted == pytest.approx(3.56, abs=0.01)
    assert_moments(estimates("clipped_sine"), wanted)


def test_elu_plus_one():
    """No closed form: quadrature over the weights."""

    def product(u, v):
        return np.where(u < 0, np.exp(u), 1 + u) * np.where(v < 0, np.exp(v), 1 + v)

    assert_moments(estimates("elu_plus_one"), gaussian_mean(product))


def test_relu():
    """The arc-cosine kernel |x||y| (sin t + (pi - t) cos t) / 2 pi."""
    angle = math.acos(X @ Y / math.sqrt((X @ X) * (Y @ Y)))
    wanted = (
        math.sqrt((X @ X) * (Y @ Y))
        / (2 * math.pi)
        * (math.sin(angle) + (math.pi - angle) * math.cos(angle))
    )
    assert_moments(estimates("relu"), wanted)


def test_performer_norm():
    """G8: E |phi(q)|^2 = exp(|q|^2), at a norm where the tail is light."""
    q = torch.full((1, 4), math.sqrt(0.4 / 4), dtype=torch.float64)
    rng = np.random.default_rng(0)
    drawn = draw_neurons("performer", rng, rng, 1_000_000, 4)
    parts = [network.rates(Hidden(*neurons), q, 1)[0][0] for neurons in drawn]
    square = (2 * torch.cat(parts)).exp()
    error = float(square.std()) / 1000
    assert abs(float(square.mean()) - math.exp(0.4)) < 4 * error


@pytest.mark.parametrize("feature_map", sorted(FEATURE_MAPS))
def test_the_first_neurons_do_not_depend_on_how_many_there_are(feature_map, monkeypatch):
    def draw(m):
        weights, phases = np.random.default_rng(1), np.random.default_rng(2)
        return [torch.cat(x) for x in zip(*draw_neurons(feature_map, weights, phases, m, 5, -0.1))]

    long = draw(200)
    for m in (1, 7, 64, 199):
        for a, b in zip(draw(m), long):
            torch.testing.assert_close(a, b[:m], rtol=1e-13, atol=1e-13)
    monkeypatch.setattr("tripartite.features.CHUNK", 30)
    for a, b in zip(draw(200), long):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
