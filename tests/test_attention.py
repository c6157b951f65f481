"""Softmax attention against torch's own kernel, its limits and its derivative."""

import numpy as np
import pytest
import torch

from tripartite import attention
from tripartite.attention import softmax_attention


def draw(n_tokens=7, d_head=5, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.standard_normal((2, 3, n_tokens, d_head))) for _ in range(3)]


def everywhere(q):
    return torch.ones(q.shape[:-1], dtype=torch.bool)


def test_output_is_torchs_attention():
    q, k, v = draw()
    mask = torch.ones(2, 3, 7, dtype=torch.bool)
    mask[0, 1, 4:] = False
    _, output = softmax_attention(q, k, v, mask)
    reference = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask[..., None, :], scale=1.0
    )
    torch.testing.assert_close(output, reference, rtol=1e-12, atol=1e-12)


def test_normalizer_is_the_sum():
    q, k, v = draw()
    log_normalizer, _ = softmax_attention(q, k, v, everywhere(q))
    for t in range(7):
        total = sum(torch.exp((q[1, 2, t] * k[1, 2, j]).sum()) for j in range(7))
        torch.testing.assert_close(log_normalizer[1, 2, t].exp(), total, rtol=1e-12, atol=0)


def test_limits():
    """G33: q = 0 gives the mean of the values, a very long query the value of its best key."""
    q, k, v = draw()
    _, uniform = softmax_attention(0 * q, k, v, everywhere(q))
    torch.testing.assert_close(uniform, v.mean(-2, keepdim=True).expand_as(v))
    log_normalizer, hard = softmax_attention(1e6 * q, k, v, everywhere(q))
    best = (q @ k.mT).argmax(-1)
    torch.testing.assert_close(hard, torch.take_along_dim(v, best[..., None], -2))
    assert torch.isfinite(log_normalizer).all()


def test_gradient_of_the_log_normalizer():
    """G33: the gradient of ln Z in q is the mean key under the attention weights."""
    q, k, _ = draw()
    q.requires_grad_(True)
    log_normalizer, mean_key = softmax_attention(q, k, k, everywhere(q))
    (gradient,) = torch.autograd.grad(log_normalizer.sum(), q)
    torch.testing.assert_close(gradient, mean_key, rtol=1e-12, atol=1e-12)


def test_shifting_keys_changes_no_output():
    """G3: k -> k + mu multiplies Z by exp(q . mu) and does not change the output."""
    q, k, v = draw()
    log_normalizer, output = softmax_attention(q, k, v, everywhere(q))
    mu = torch.arange(5, dtype=torch.float64) / 5
    shifted, same = softmax_attention(q, k + mu, v, everywhere(q))
    torch.testing.assert_close(same, output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shifted, log_normalizer + q @ mu, rtol=1e-12, atol=1e-12)


def test_causal_and_leaky_attention_are_the_explicit_loops():
    """Keys up to the query, weighted by exp(-leak age) separately in numerator and normaliser."""
    q, k, v = (x[0, 0] for x in draw())
    mask = torch.ones(7, dtype=torch.bool)
    for causal in (False, True):
        for leak in ((0.0, 0.0), (0.2, 0.2), (0.4, 0.1)):
            log_normalizer, output = softmax_attention(q, k, v, mask, causal, leak)
            for t in range(7):
                last = t if causal else 6
                kernel = [torch.exp(q[t] @ k[j]) for j in range(last + 1)]
                w_h, w_g = (
                    [x * np.exp(-rate * (last - j)) for j, x in enumerate(kernel)] for rate in leak
                )
                torch.testing.assert_close(log_normalizer[t].exp(), sum(w_g))
                wanted = sum(w * value for w, value in zip(w_h, v)) / sum(w_g)
                torch.testing.assert_close(output[t], wanted, rtol=1e-12, atol=1e-12)


def test_absent_tokens_have_no_age():
    """Masked tokens at the end have no weight and do not change the age of other keys."""
    q, k, v = (x[0, 0] for x in draw())
    mask = torch.arange(7) < 5
    for causal in (False, True):
        long = softmax_attention(q, k, v, mask, causal, (0.2, 0.3))
        short = softmax_attention(q[:5], k[:5], v[:5], mask[:5], causal, (0.2, 0.3))
        for a, b in zip(long, short):
            torch.testing.assert_close(a[:5], b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_of_queries_give_what_all_give(causal, monkeypatch):
    """Of a batch with gaps and unequal leaks, however the queries are cut."""
    rng = np.random.default_rng(7)
    q, k, v = (torch.from_numpy(rng.standard_normal((2, 11, 3))) for _ in range(3))
    mask = torch.from_numpy(rng.random((2, 11)) < 0.8)
    mask[:, 0] = True
    whole = attention.softmax_attention(q, k, v, mask, causal, (0.1, 0.3))
    monkeypatch.setattr(attention, "BLOCK_VALUES", 4 * 11)
    for a, b in zip(whole, attention.softmax_attention(q, k, v, mask, causal, (0.1, 0.3))):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
