"""Symmetries leave softmax attention exactly as it is, and do what they are fitted for."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tripartite import symmetries
from tripartite.attention import softmax_attention
from tripartite.features import optimal_a

NAMES = ("center_keys", "center_queries", "balance")
SUBSETS = [list(names) for n in range(4) for names in itertools.combinations(NAMES, n)]


def draw(seed, n_tokens=40, d_head=6, scale=1.0):
    """Queries and keys with means and axes of very different size; values."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(0.1, 1, d_head)
    q = scale * (rng.standard_normal((n_tokens, d_head)) * spread + rng.standard_normal(d_head))
    k = scale * (rng.standard_normal((n_tokens, d_head)) / spread / 3 + rng.standard_normal(d_head))
    return (torch.from_numpy(x) for x in (q, k, rng.standard_normal((n_tokens, d_head))))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    d_head=st.integers(1, 20),
    scale=st.floats(0.1, 3),
    names=st.sampled_from(SUBSETS),
    causal=st.booleans(),
)
def test_attention_stays_exact(seed, d_head, scale, names, causal):
    """To 1e-10, with symmetries fitted to other tokens than they are used on."""
    q, k, v = draw(seed, d_head=d_head, scale=scale)
    other_q, other_k, _ = draw(seed + 1, d_head=d_head, scale=scale)
    symmetry = symmetries.calibrate(other_q, other_k, names)
    seen_q, seen_k, log_gain, log_shift = symmetries.transform(q, k, symmetry)
    mask = torch.ones(40, dtype=torch.bool)
    log_z, output = softmax_attention(q, k, v, mask, causal)
    logits = seen_q @ seen_k.T + log_gain
    if causal:
        logits = logits.masked_fill(torch.ones(40, 40).triu(1).bool(), -torch.inf)
    found_z = logits.logsumexp(-1) + log_shift
    torch.testing.assert_close(found_z, log_z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(logits.softmax(-1) @ v, output, rtol=1e-10, atol=1e-10)


def test_nothing_is_done_unasked():
    q, k, _ = draw(0)
    seen_q, seen_k, log_gain, log_shift = symmetries.transform(q, k, symmetries.calibrate(q, k, []))
    assert torch.equal(seen_q, q) and torch.equal(seen_k, k)
    assert (log_gain == 0).all() and (log_shift == 0).all()


def test_centring_makes_means_vanish():
    q, k, _ = draw(1)
    symmetry = symmetries.calibrate(q, k, ["center_keys", "center_queries"])
    seen_q, seen_k, _, _ = symmetries.transform(q, k, symmetry)
    assert seen_q.mean(0).abs().max() < 1e-14 and seen_k.mean(0).abs().max() < 1e-13


def test_the_balance_minimises_the_norms(monkeypatch):
    """A^2 solves M C_q M = C_k, and no small change of A makes E|Aq|^2 + E|A^-1 k|^2 smaller."""
    monkeypatch.setattr(symmetries, "RIDGE", 0.0)
    q, k, _ = draw(2, n_tokens=400)
    a = symmetries.calibrate(q, k, ["balance"]).balance
    c_q, c_k = q.T @ q / 400, k.T @ k / 400
    m = a @ a
    torch.testing.assert_close(m @ c_q @ m, c_k, rtol=1e-10, atol=1e-10)

    def cost(a):
        seen = symmetries.transform(q, k, symmetries.Symmetry(0 * k[0], 0 * q[0], a))[:2]
        return sum(x.square().sum() for x in seen)

    rng = np.random.default_rng(0)
    for _ in range(20):
        change = torch.from_numpy(rng.standard_normal(a.shape))
        assert cost(a + 1e-3 * (change + change.T)) > cost(a)
    assert cost(a) < 0.7 * cost(torch.eye(6, dtype=torch.float64))


def test_a_rank_deficient_head_is_balanced_all_the_same():
    """Fewer tokens than dimensions: the ridge keeps the balance finite and the rest exact."""
    q, k, v = draw(3, n_tokens=4, d_head=10)
    symmetry = symmetries.calibrate(q, k, [*NAMES])
    assert torch.isfinite(symmetry.balance).all()
    seen_q, seen_k, log_gain, log_shift = symmetries.transform(q, k, symmetry)
    logits = seen_q @ seen_k.T + log_gain + log_shift[:, None]
    torch.testing.assert_close(logits, q @ k.T, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="are zero .*no balance can be fitted"):
        symmetries.calibrate(0 * q, k, ["balance"])


def test_heads_are_calibrated_each_by_itself():
    q, k = (torch.stack(pair) for pair in zip(*([*draw(seed)][:2] for seed in (4, 5))))
    both = symmetries.calibrate(q, k, [*NAMES])
    for head in range(2):
        for one, wanted in zip(both, symmetries.calibrate(q[head], k[head], [*NAMES])):
            torch.testing.assert_close(one[head], wanted, rtol=1e-12, atol=1e-12)


def test_a_normal_distribution_is_fitted_to_all_pairs():
    """a of the principal directions of q + k over all pairs of each input, by a loop."""
    inputs = [tuple(draw(seed))[:2] for seed in (6, 7)]
    symmetry, a = symmetries.fitted(inputs, ["center_keys", "balance"], "fitted_normal")
    moments = []
    for q, k in inputs:
        q, k = symmetries.transform(q, k, symmetry)[:2]
        sums = [one + other for one in q for other in k]
        moments.append(sum(torch.outer(x, x) for x in sums) / len(sums))
    moment = sum(moments) / 2
    torch.testing.assert_close(moment, moment.diagonal().diag(), rtol=0, atol=1e-10)
    wanted = [optimal_a(float(x), 1) for x in moment.diagonal()]
    np.testing.assert_allclose(a, wanted, rtol=1e-8)
    same, one = symmetries.fitted(inputs, ["center_keys", "balance"], "generalized_positive")
    np.testing.assert_allclose(one, optimal_a(float(moment.trace()), len(a)), rtol=1e-10)
    torch.testing.assert_close(same.balance @ same.balance, symmetry.balance.mT @ symmetry.balance)
    assert not symmetries.fitted(inputs, ["balance"])[1].any()


def test_a_given_parameter_is_not_fitted():
    inputs = [tuple(draw(seed))[:2] for seed in (6, 7)]
    for value in (-0.03, 0.0):
        symmetry, a = symmetries.for_map(inputs, ["balance"], "generalized_positive", value)
        torch.testing.assert_close(a, torch.full((6,), value, dtype=torch.float64), rtol=0, atol=0)
        assert torch.equal(symmetry.balance, symmetries.fitted(inputs, ["balance"])[0].balance)
    for feature_map in ("performer", "generalized_positive", "fitted_normal"):
        ours = symmetries.for_map(inputs, ["balance"], feature_map)
        wanted = symmetries.fitted(inputs, ["balance"], feature_map)
        assert torch.equal(ours[1], wanted[1]) and torch.equal(ours[0].balance, wanted[0].balance)
