"""The network: eqs (1) to (6) one token at a time, the batched log-space version, and their laws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tripartite import network
from tripartite.attention import softmax_attention
from tripartite.features import FEATURE_MAPS, performer

SHAPES = {
    "seed": st.integers(0, 2**32 - 1),
    "n_tokens": st.integers(1, 12),
    "d_head": st.integers(1, 6),
    "m": st.integers(1, 700),
    "scale": st.floats(0.01, 1.5),
    "feature_map": st.sampled_from(sorted(FEATURE_MAPS)),
}


def draw(seed, n_tokens, d_head, m, scale=1.0, d_value=3):
    rng = np.random.default_rng(seed)
    q, k = (torch.from_numpy(scale * rng.standard_normal((n_tokens, d_head))) for _ in range(2))
    v = torch.from_numpy(rng.standard_normal((n_tokens, d_value)))
    omega = torch.from_numpy(rng.standard_normal((m, d_head)))
    return q, k, v, omega


def batched(q, k, v, omega, feature_map=performer, n_features=None, mask=None):
    mask = torch.ones(q.shape[:-1], dtype=torch.bool) if mask is None else mask
    return network.batched(q, k, v, mask, omega, feature_map, n_features or [len(omega)])


@settings(deadline=None, max_examples=50)
@given(**SHAPES)
def test_sequential_equals_batched_equals_linear_attention(
    seed, n_tokens, d_head, m, scale, feature_map
):
    """G1: the written-out network, the log-space one and sum v phi.phi / sum phi.phi are the same."""
    phi_map = FEATURE_MAPS[feature_map]
    q, k, v, omega = draw(seed, n_tokens, d_head, m, scale)
    x = torch.zeros_like(v)
    calcium, last = network.sequential(x, q, k, v, omega, phi_map)
    log_calcium, output = batched(q, k, v, omega, phi_map)
    phi_q, phi_k = (phi_map(omega, t).exp() / math.sqrt(m) for t in (q, k))
    weights = phi_q @ phi_k.T  # [T, T]
    linear = (weights @ v) / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(log_calcium[0].exp(), calcium, rtol=1e-10, atol=0)
    torch.testing.assert_close(output[0], last, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(linear, last, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weights.sum(-1), calcium, rtol=1e-10, atol=0)


@settings(deadline=None, max_examples=30)
@given(**SHAPES)
def test_weights_sum_to_one(seed, n_tokens, d_head, m, scale, feature_map):
    """G2: constant values come back exactly, and outputs stay in the hull of the values."""
    q, k, v, omega = draw(seed, n_tokens, d_head, m, scale)
    phi_map = FEATURE_MAPS[feature_map]
    _, constant = batched(q, k, torch.full_like(v, 2.5), omega, phi_map)
    torch.testing.assert_close(constant, torch.full_like(constant, 2.5), rtol=1e-12, atol=0)
    _, output = batched(q, k, v, omega, phi_map)
    assert (output <= v.amax(0) + 1e-12).all() and (output >= v.amin(0) - 1e-12).all()
    mix = torch.from_numpy(np.random.default_rng(seed).standard_normal((3, 3)))
    _, mapped = batched(q, k, v @ mix + 1.5, omega, phi_map)
    torch.testing.assert_close(mapped, output @ mix + 1.5, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(**SHAPES)
def test_order_and_duplicates(seed, n_tokens, d_head, m, scale, feature_map):
    """G1, G4: the order of written tokens is forgotten; c copies of each key multiply Z by c."""
    phi_map = FEATURE_MAPS[feature_map]
    q, k, v, omega = draw(seed, n_tokens, d_head, m, scale)
    log_calcium, output = batched(q, k, v, omega, phi_map)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n_tokens))
    log_p, o = batched(q, k[order], v[order], omega, phi_map)
    torch.testing.assert_close(log_p, log_calcium, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(o, output, rtol=1e-10, atol=1e-10)
    tripled = [t.repeat(3, 1) for t in (q, k, v)]
    log_p, o = batched(*tripled, omega, phi_map)
    torch.testing.assert_close(
        log_p[0, :n_tokens], log_calcium[0] + math.log(3), rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(o[0, :n_tokens], output[0], rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=30)
@given(**SHAPES)
def test_rotation(seed, n_tokens, d_head, m, scale, feature_map):
    """G3: phi of a rotated drive is phi with rotated weights, and a gain of phi cancels."""
    phi_map = FEATURE_MAPS[feature_map]
    q, k, v, omega = draw(seed, n_tokens, d_head, m, scale)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((d_head, d_head)))
    rotation = torch.from_numpy(rotation)
    log_p, o = batched(q @ rotation.T, k @ rotation.T, v, omega, phi_map)
    log_calcium, output = batched(q, k, v, omega @ rotation, phi_map)
    torch.testing.assert_close(log_p, log_calcium, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(o, output, rtol=1e-9, atol=1e-9)
    log_p, o = batched(q, k, v, omega, lambda w, x: phi_map(w, x) + 0.7)
    reference, output = batched(q, k, v, omega, phi_map)
    torch.testing.assert_close(log_p, reference + 1.4, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(o, output, rtol=1e-10, atol=1e-10)


def test_the_control_gates_plasticity_and_reading():
    """r = 1 leaves H and g as they are; r = 0 writes them and gives no calcium."""
    q, k, v, omega = draw(5, 2, 3, 8)
    hebbian, presynaptic = torch.ones(3, 8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    inputs = (v[0], q[0], k[0], v[1], omega, performer)
    h, g, last, calcium = network.step(hebbian, presynaptic, *inputs, r=1)
    assert torch.equal(h, hebbian) and torch.equal(g, presynaptic)
    phi = performer(omega, q[:1])[0].exp() / math.sqrt(8)
    torch.testing.assert_close(calcium, phi.sum())
    torch.testing.assert_close(last, 1 + v[0])
    h, g, last, calcium = network.step(hebbian, presynaptic, *inputs, r=0)
    phi = performer(omega, k[:1])[0].exp() / math.sqrt(8)
    torch.testing.assert_close(h, 1 + torch.outer(v[1], phi))
    torch.testing.assert_close(g, 1 + phi)
    assert calcium == 0 and torch.equal(last, v[1])


def test_one_token_returns_its_value():
    """G1: with one token the output is its value at any norm; the skip connection adds x."""
    q, k, v, omega = draw(0, 1, 4, 7, scale=30.0)
    _, output = batched(q, k, v, omega)
    torch.testing.assert_close(output[0], v, rtol=1e-12, atol=0)
    q, k, v, omega = draw(0, 1, 4, 7)
    _, last = network.sequential(torch.full_like(v, 3.0), q, k, v, omega, performer)
    torch.testing.assert_close(last, v + 3.0, rtol=1e-12, atol=0)


def test_nested_sizes_are_the_networks_of_that_size():
    q, k, v, omega = draw(1, 9, 5, 1500)
    sizes = [1, 10, 256, 257, 1500]
    log_calcium, output = batched(q, k, v, omega, n_features=sizes)
    for i, m in enumerate(sizes):
        log_p, o = batched(q, k, v, omega[:m])
        torch.testing.assert_close(log_calcium[i], log_p[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(output[i], o[0], rtol=1e-11, atol=1e-11)


def test_masked_tokens_are_not_written():
    q, k, v, omega = draw(2, 8, 5, 300)
    mask = torch.arange(8) < 5
    poisoned = v.clone()
    poisoned[5:] = torch.nan
    log_p, o = batched(q, k, poisoned, omega, mask=mask)
    log_calcium, output = batched(q[:5], k[:5], v[:5], omega)
    torch.testing.assert_close(log_p[:, :5], log_calcium, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(o[:, :5], output, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("norm", [30.0, 300.0])
def test_long_queries_and_keys_do_not_underflow(norm):
    """Where all rates are zero in float64, the log-space network gives what log-space sums give."""
    q, k, v, omega = draw(3, 6, 4, 200)
    q, k = (norm * t / t.norm(dim=-1, keepdim=True) for t in (q, k))
    calcium, _ = network.sequential(torch.zeros_like(v), q, k, v, omega, performer)
    assert (calcium == 0).all() or norm < 40
    log_calcium, output = batched(q, k, v, omega)
    log_phi_q, log_phi_k = (performer(omega, t).numpy().astype(np.longdouble) for t in (q, k))
    terms = log_phi_q[:, None, :] + log_phi_k[None, :, :]  # [query, key, m]
    peak = terms.max((1, 2), keepdims=True)
    weights = np.exp(terms - peak).sum(-1)  # [query, key]
    log_p = np.log(weights.sum(-1)) + peak[:, 0, 0] - np.log(np.longdouble(200))
    o = weights @ v.numpy() / weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(log_calcium[0].numpy(), log_p.astype(float), rtol=1e-12)
    np.testing.assert_allclose(output[0].numpy(), o.astype(float), rtol=1e-9, atol=1e-9)


def test_many_neurons_are_softmax_attention():
    """The limit of the paper: at low norm and many neurons the network is softmax attention."""
    q, k, v, omega = draw(4, 16, 4, 200_000, scale=0.25)
    mask = torch.ones(16, dtype=torch.bool)
    log_normalizer, exact = softmax_attention(q, k, v, mask)
    log_calcium, output = batched(q, k, v, omega)
    assert (log_calcium[0] - log_normalizer).abs().max() < 0.01
    assert (output[0] - exact).abs().max() < 0.02
