"""Closed forms: against explicit double sums, and against the network itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tripartite import network, theory
from tripartite.attention import softmax_attention
from tripartite.features import performer


def head(seed, n_tokens=6, d_head=4, scale=0.5):
    rng = np.random.default_rng(seed)
    q, k = (torch.from_numpy(scale * rng.standard_normal((n_tokens, d_head))) for _ in range(2))
    mask = torch.ones(n_tokens, dtype=torch.bool)
    log_normalizer, _ = softmax_attention(q, k, k, mask)
    return q, k, log_normalizer, mask


def double_sum(q, k):
    """ln R by an explicit loop over pairs of keys, in extended precision."""
    q, k = q.numpy().astype(np.longdouble), k.numpy().astype(np.longdouble)
    log_r = []
    for query in q:
        terms = np.array([2 * query @ a + 2 * query @ b + a @ b for a in k for b in k])
        logits = k @ query
        log_z = logits.max() + np.log(np.exp(logits - logits.max()).sum())
        total = terms.max() + np.log(np.exp(terms - terms.max()).sum())
        log_r.append(query @ query + total - 2 * log_z)
    return np.array(log_r, dtype=float)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 5), st.floats(0.05, 60))
def test_second_moment_is_the_double_sum(seed, n_tokens, d_head, scale):
    """G12, at norms far beyond the range of exp."""
    q, k, log_normalizer, mask = head(seed, n_tokens, d_head, scale)
    log_r = theory.log_second_moment(q, k, log_normalizer, mask).numpy()
    np.testing.assert_allclose(
        log_r, np.maximum(double_sum(q, k), theory.LOG_R_MIN), rtol=1e-9, atol=1e-11
    )


def test_masked_keys_do_not_count():
    q, k, _, _ = head(0, n_tokens=6)
    mask = torch.arange(6) < 4
    log_normalizer, _ = softmax_attention(q, k, k, mask)
    log_r = theory.log_second_moment(q, k, log_normalizer, mask)
    short = theory.log_second_moment(
        q[:4], k[:4], softmax_attention(q[:4], k[:4], k[:4], mask[:4])[0], mask[:4]
    )
    torch.testing.assert_close(log_r[:4], short, rtol=1e-12, atol=1e-12)


def test_one_pair_is_the_kernel_variance():
    """With one key R = exp(|q + k|^2): G5 is the special case of G12."""
    q, k, log_normalizer, mask = head(1, n_tokens=1)
    log_r = theory.log_second_moment(q, k, log_normalizer, mask)
    torch.testing.assert_close(log_r, (q + k).square().sum(-1), rtol=1e-12, atol=1e-12)


def test_no_variance_where_query_cancels_key():
    q = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    mask = torch.ones(1, dtype=torch.bool)
    log_normalizer, _ = softmax_attention(q, -q, q, mask)
    log_r = theory.log_second_moment(q, -q, log_normalizer, mask)
    assert float(log_r) <= 1e-14
    assert theory.log10_features_needed(log_r) < -10


@pytest.mark.parametrize("seed", range(5))
def test_the_network_has_the_predicted_variance(seed):
    """G12: relative variance (R - 1) / m of exp(log calcium), by 4000 independent networks."""
    q, k, log_normalizer, mask = head(seed, n_tokens=8, scale=0.25)
    m, n_networks = 20, 4000
    omega = torch.from_numpy(np.random.default_rng(seed + 100).standard_normal((n_networks, m, 4)))
    copies = [t.expand(n_networks, 8, 4) for t in (q, k)]
    log_calcium, _ = network.batched(
        *copies, copies[1], mask.expand(n_networks, 8), omega, performer, [m]
    )
    ratio = (log_calcium[0] - log_normalizer).exp()  # [network, token]
    log_r = theory.log_second_moment(q, k, log_normalizer, mask)
    predicted = torch.expm1(log_r) / m
    assert float(log_r.max()) < 2  # beyond it a sample variance means nothing
    standard_error = (predicted / n_networks).sqrt()
    assert ((ratio.mean(0) - 1).abs() < 4.5 * standard_error).all()
    square = (ratio - 1).square()
    error = square.std(0) / math.sqrt(n_networks)
    assert ((square.mean(0) - predicted).abs() < 5 * error).all()


def test_features_needed():
    log_r = torch.tensor([math.log(2.0), 700.0, 3000.0], dtype=torch.float64)
    needed = theory.log10_features_needed(log_r)
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
