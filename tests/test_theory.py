"""Closed forms: against explicit double sums, and against the network itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tripartite import network, theory
from tripartite.features import draw_neurons


def head(seed, n_tokens=6, d_head=4, scale=0.5, gain=0.0):
    """Queries, keys, ln of the weighted normaliser, and ln of the weights of the keys [1, T]."""
    rng = np.random.default_rng(seed)
    q, k = (torch.from_numpy(scale * rng.standard_normal((n_tokens, d_head))) for _ in range(2))
    log_weight = torch.from_numpy(gain * rng.standard_normal((1, n_tokens)))
    return q, k, torch.logsumexp(q @ k.T + log_weight, -1), log_weight


def double_sum(q, k, log_weight, a=0.0, mirror=False):
    """ln R by an explicit loop over pairs of keys, in extended precision.

    The exponent of a pair is that of E exp(4a|w|^2 + b.w) at b = sqrt(1 - 4a)(2q + k_j + k_l); for the
    product with the mirrored neuron it is that of b = k_j - k_l.
    """
    q, k, w = (x.numpy().astype(np.longdouble) for x in (q, k, log_weight))
    d, log_r = q.shape[1], []
    for query, weights in zip(q, np.broadcast_to(w, (len(q), len(k)))):
        terms = []
        for x, log_x in zip(k, weights):
            for y, log_y in zip(k, weights):
                b = x - y if mirror else 2 * query + x + y
                square = (1 - 4 * a) * (b @ b) / (2 * (1 - 8 * a))
                terms.append(log_x + log_y + square - query @ query - (x @ x + y @ y) / 2)
        terms = np.array(terms)
        logits = k @ query + weights
        log_z = logits.max() + np.log(np.exp(logits - logits.max()).sum())
        total = terms.max() + np.log(np.exp(terms - terms.max()).sum())
        log_r.append(d / 2 * np.log((1 - 4 * a) ** 2 / (1 - 8 * a)) + total - 2 * log_z)
    return np.array(log_r, dtype=float)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 5), st.floats(0.05, 60),
    st.floats(0, 3), st.floats(-1, 0.1),
)  # fmt: skip
def test_moments_are_the_double_sums(seed, n_tokens, d_head, scale, gain, a):
    """G12 with weighted keys and generalized positive features, at norms far beyond the range of exp."""
    arguments = head(seed, n_tokens, d_head, scale, gain)
    log_r = theory.log_second_moment(*arguments, a).numpy()
    wanted = double_sum(arguments[0], arguments[1], arguments[3], a)
    np.testing.assert_allclose(log_r, np.maximum(wanted, theory.LOG_R_MIN), rtol=1e-9, atol=1e-10)
    log_mirror = theory.log_mirror_moment(*arguments).numpy()
    wanted = double_sum(arguments[0], arguments[1], arguments[3], mirror=True)
    np.testing.assert_allclose(log_mirror, wanted, rtol=1e-9, atol=1e-9)


def test_masked_keys_do_not_count():
    """A weight of 0 leaves a key out; with a weight for each query, as in causal order, row by row."""
    q, k, _, _ = head(0, n_tokens=6)
    causal = torch.zeros(6, 6, dtype=torch.float64).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)  # fmt: skip
    log_normalizer = torch.logsumexp(q @ k.T + causal, -1)
    log_r = theory.log_second_moment(q, k, log_normalizer, causal)
    for t in range(6):
        no_weight = torch.zeros(1, t + 1, dtype=torch.float64)
        alone = theory.log_second_moment(q[t : t + 1], k[: t + 1], log_normalizer[t : t + 1], no_weight)  # fmt: skip
        torch.testing.assert_close(log_r[t : t + 1], alone, rtol=1e-12, atol=1e-12)


def test_one_pair_is_the_kernel_variance():
    """With one key R = exp(|q + k|^2): G5 is the special case of G12."""
    q, k, log_normalizer, log_weight = head(1, n_tokens=1)
    log_r = theory.log_second_moment(q, k, log_normalizer, log_weight)
    torch.testing.assert_close(log_r, (q + k).square().sum(-1), rtol=1e-12, atol=1e-12)


def test_no_variance_where_query_cancels_key():
    q = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    log_weight = torch.zeros(1, 1, dtype=torch.float64)
    log_r = theory.log_second_moment(q, -q, -(q @ q.T)[0], log_weight)
    assert float(log_r) <= 1e-14
    assert theory.log10_features_needed(theory.log_variance(log_r)) < -10


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("feature_map", "a"), [("performer", 0.0), ("generalized_positive", -0.05), ("hyperbolic", 0.0)]
)
def test_the_network_has_the_predicted_variance(seed, feature_map, a):
    """G12: relative variance (R - 1) / m of the calcium, by 4000 independent networks; weighted keys."""
    q, k, log_normalizer, log_weight = head(seed, n_tokens=8, scale=0.25, gain=0.5)
    m, n_networks = 20, 4000
    rng = np.random.default_rng(seed + 100)
    neurons = draw_neurons(feature_map, rng, rng, m * n_networks, 4, a)
    tokens = network.Tokens(q, k, k, log_weight[0])
    blocks = [(i * m, (i + 1) * m) for i in range(n_networks)]
    log_calcium = torch.stack([one[0] for (one,) in network.read([tokens], neurons, blocks)])
    ratio = (log_calcium - log_normalizer).exp()  # [network, token]
    log_r = theory.log_second_moment(q, k, log_normalizer, log_weight, a)
    assert float(log_r.max()) < 2  # beyond it a sample variance means nothing
    log_variance = theory.log_variance(log_r)
    if feature_map == "hyperbolic":
        mirror = theory.log_mirror_moment(q, k, log_normalizer, log_weight)
        log_variance = theory.log_mirrored_variance(log_variance, mirror)
    predicted = log_variance.exp() / m
    standard_error = (predicted / n_networks).sqrt()
    assert ((ratio.mean(0) - 1).abs() < 4.5 * standard_error).all()
    square = (ratio - 1).square()
    error = square.std(0) / math.sqrt(n_networks)
    assert ((square.mean(0) - predicted).abs() < 5 * error).all()


def test_mirrored_neurons_at_any_size():
    """R - 1 + R' - 1 by the plain formula where it has one, and no overflow where not."""
    log_r, log_mirror = torch.tensor([0.5, 2.0, 900.0]).double(), torch.tensor([-0.3, -2.0, 3.0]).double()  # fmt: skip
    found = theory.log_mirrored_variance(theory.log_variance(log_r), log_mirror)
    wanted = torch.log(torch.expm1(log_r[:2]) + torch.expm1(log_mirror[:2]))
    torch.testing.assert_close(found[:2], wanted, rtol=1e-12, atol=1e-12)
    assert float(found[2]) == pytest.approx(900.0)


def test_features_needed():
    log_r = torch.tensor([math.log(2.0), 700.0, 3000.0], dtype=torch.float64)
    needed = theory.log10_features_needed(theory.log_variance(log_r))
    assert float(needed[0]) == pytest.approx(2.0, abs=1e-12)  # R - 1 = 1
    assert float(needed[2]) == pytest.approx(2 + 3000 / math.log(10), rel=1e-12)
    at_m = math.sqrt(math.expm1(math.log(2.0)) / 10 ** float(needed[0]))
    assert at_m == pytest.approx(0.1, rel=1e-12)


def test_median_error_of_normal_errors():
    """Equal sd gives .67449 sd; a pool of unequal ones gives the sample median of draws."""
    equal = torch.full((9,), math.log(0.2), dtype=torch.float64)
    assert float(theory.log_median_error(equal).exp()) == pytest.approx(0.6744898 * 0.2, rel=1e-6)
    sd = torch.tensor([0.01, 0.1, 0.5, 2.0], dtype=torch.float64)
    draws = np.abs(np.random.default_rng(0).standard_normal((200_000, 4)) * sd.numpy())
    assert float(theory.log_median_error(sd.log()).exp()) == pytest.approx(
        np.median(draws), rel=0.01
    )
    huge = torch.tensor([5.0, 900.0, 1500.0], dtype=torch.float64)
    assert torch.isfinite(theory.log_median_error(huge))
