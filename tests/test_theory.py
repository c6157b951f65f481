"""Closed forms against explicit double sums, and against the network."""

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

    The exponent of a pair is that of E exp(4a|w|^2 + b.w) at b = sqrt(1 - 4a)(2q + k_j + k_l); for
    the product with the mirrored neuron it is that of b = k_j - k_l.
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


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 8),
    st.integers(1, 5),
    st.floats(0.05, 60),
    st.floats(0, 3),
    st.floats(-1, 0.1),
)
def test_moments_are_the_double_sums(seed, n_tokens, d_head, scale, gain, a):
    """G12 with weighted keys, generalized positive features, and norms beyond the range of exp."""
    arguments = head(seed, n_tokens, d_head, scale, gain)
    log_r = theory.log_second_moment(*arguments, a).numpy()
    wanted = double_sum(arguments[0], arguments[1], arguments[3], a)
    np.testing.assert_allclose(log_r, np.maximum(wanted, theory.LOG_R_MIN), rtol=1e-9, atol=1e-10)
    log_mirror = theory.log_mirror_moment(*arguments).numpy()
    wanted = double_sum(arguments[0], arguments[1], arguments[3], mirror=True)
    np.testing.assert_allclose(log_mirror, wanted, rtol=1e-9, atol=1e-9)


def test_masked_keys_do_not_count():
    """A weight of 0 leaves a key out; weights may differ between queries, as in causal order."""
    q, k, _, _ = head(0, n_tokens=6)
    causal = torch.zeros(6, 6, dtype=torch.float64).masked_fill(
        torch.ones(6, 6).triu(1).bool(), -torch.inf
    )
    log_normalizer = torch.logsumexp(q @ k.T + causal, -1)
    log_r = theory.log_second_moment(q, k, log_normalizer, causal)
    for t in range(6):
        no_weight = torch.zeros(1, t + 1, dtype=torch.float64)
        alone = theory.log_second_moment(
            q[t : t + 1], k[: t + 1], log_normalizer[t : t + 1], no_weight
        )
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
    """G12: relative variance (R - 1) / m of the calcium of 4000 networks, with weighted keys."""
    q, k, log_normalizer, log_weight = head(seed, n_tokens=8, scale=0.25, gain=0.5)
    m, n_networks = 20, 4000
    rng = np.random.default_rng(seed + 100)
    neurons = draw_neurons(feature_map, rng, rng, m * n_networks, 4, a)
    tokens = network.Tokens(q, k, k, log_weight[0])
    blocks = [(i * m, (i + 1) * m) for i in range(n_networks)]
    log_calcium = torch.stack([one[0] for (one,) in network.read([tokens], neurons, blocks)])
    ratio = (log_calcium - log_normalizer).exp()  # [network, token]
    log_r = theory.log_second_moment(q, k, log_normalizer, log_weight, a)
    assert float(log_r.max()) < 2  # for larger values a sample variance has no meaning
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
    """R - 1 + R' - 1 by the plain formula, and no overflow where that overflows."""
    log_r, log_mirror = (
        torch.tensor([0.5, 2.0, 900.0]).double(),
        torch.tensor([-0.3, -2.0, 3.0]).double(),
    )
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
    """For equal sd it is .67449 sd; for unequal sd it is the sample median of draws."""
    equal = torch.full((9,), math.log(0.2), dtype=torch.float64)
    assert float(theory.log_median_error(equal).exp()) == pytest.approx(0.6744898 * 0.2, rel=1e-6)
    sd = torch.tensor([0.01, 0.1, 0.5, 2.0], dtype=torch.float64)
    draws = np.abs(np.random.default_rng(0).standard_normal((200_000, 4)) * sd.numpy())
    assert float(theory.log_median_error(sd.log()).exp()) == pytest.approx(
        np.median(draws), rel=0.01
    )
    huge = torch.tensor([5.0, 900.0, 1500.0], dtype=torch.float64)
    assert torch.isfinite(theory.log_median_error(huge))


def outputs_of(q, k, v, m, n_seeds, rng, separate=False):
    """Outputs of networks in float64 [seed, T, E]; separate: divided by another's calcium."""
    outputs = []
    for _ in range(n_seeds):
        calcium = []
        for _ in range(1 + separate):
            omega = rng.standard_normal((m, q.shape[1]))
            phi_q, phi_k = (np.exp(x @ omega.T - (x * x).sum(1)[:, None] / 2) for x in (q, k))
            calcium.append(phi_q @ phi_k.sum(0))
            if len(calcium) == 1:
                drive = phi_q @ (phi_k.T @ v)
        outputs.append(drive / calcium[-1][:, None])
    return np.array(outputs)


def random_configuration(seed):
    """q, k, v, o, ln Z of a random head with sigma^2 of at most 1 for every query."""
    rng = np.random.default_rng(seed)
    n, d, e = rng.integers(2, 13), rng.integers(1, 9), rng.integers(1, 5)
    q, k = (torch.from_numpy(rng.standard_normal((n, d))) for _ in "qk")
    v = torch.from_numpy(rng.standard_normal((n, e)))
    weight = torch.zeros(1, n, dtype=torch.float64)
    scale = 1.0
    while True:
        log_z = torch.logsumexp(scale**2 * q @ k.T, -1)
        log_r = theory.log_second_moment(scale * q, scale * k, log_z, weight)
        if log_r.max() <= rng.uniform(0.3, 1):
            break
        scale *= 0.9
    q, k = scale * q, scale * k
    return q, k, v, torch.softmax(q @ k.T, -1) @ v, log_z, weight, rng


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 20), st.floats(0, 2), st.floats(-1, 0.1))
def test_output_moments_are_the_double_sums(seed, scale, gain, a):
    """G12 and G13 by loops over pairs of keys: weighted keys, generalized positive features."""
    q, k, log_z, log_weight = head(seed, 4, 3, scale, gain)
    v = torch.from_numpy(np.random.default_rng(seed + 1).standard_normal((4, 2)))
    o = torch.softmax(q @ k.T + log_weight, -1) @ v
    log_scale, trace, bias, separate = theory.output_moments(q, k, v, o, log_z, log_weight, a)
    log_r = theory.log_second_moment(q, k, log_z, log_weight, a)
    for t in range(4):
        pairs = np.zeros((4, 4))
        for j in range(4):
            for i in range(4):
                chosen = torch.tensor([j, i])
                b = 2 * q[t] + k[j] + k[i]
                log_c = 1.5 * math.log((1 - 4 * a) ** 2 / (1 - 8 * a)) + (1 - 4 * a) * (b @ b) / (
                    2 - 16 * a
                )
                log_c -= q[t] @ q[t] + (k[j] @ k[j] + k[i] @ k[i]) / 2
                pairs[j, i] = torch.exp(
                    log_c + log_weight[0, chosen].sum() - 2 * log_z[t] - log_scale[t]
                )
        d = (v - o[t]).numpy()
        largest = np.abs(pairs).max()
        wanted = np.trace(d.T @ pairs @ d)
        np.testing.assert_allclose(trace[t], wanted, rtol=1e-8, atol=1e-10 * largest)
        np.testing.assert_allclose(bias[t], -d.T @ pairs.sum(1), rtol=1e-8, atol=1e-10 * largest)
        r = math.exp(log_r[t] - log_scale[t])
        unit = math.exp(-log_scale[t])
        wanted = np.trace(v.numpy().T @ pairs @ v.numpy()) + float(o[t] @ o[t]) * (r - 2 * unit)
        np.testing.assert_allclose(separate[t], wanted, rtol=1e-7, atol=1e-9 * (largest + unit))


def by_covariance(q, k, v, o, log_z, log_weight):
    """Trace, bias and trace with separate pools from a covariance [E, E] of each query."""
    found = []
    for t in range(len(q)):
        log_w = 2 * k @ q[t] + k.square().sum(-1) / 2 + log_weight[min(t, len(log_weight) - 1)]
        w = torch.exp(log_w - log_w.max())
        pairs = w[:, None] * w * torch.exp(-torch.cdist(k[None], k[None])[0].square() / 2)
        x = v - o[t]
        log_scale = q[t].square().sum() + 2 * (log_w.max() - log_z[t])
        excess = pairs.sum() - torch.exp(-log_scale)
        trace, bias = (x.mT @ pairs @ x).trace(), -x.mT @ pairs.sum(1)
        separate = trace - 2 * o[t] @ bias + 2 * o[t].square().sum() * excess
        found.append((log_scale, trace, bias, separate))
    return [torch.stack(x) for x in zip(*found)]


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("causal", [False, True])
def test_output_moments_lose_no_digits(scale, mean, causal, monkeypatch):
    """By explicit covariances: also where a query attends to one key alone, or values are alike.

    In causal order, in blocks of queries as for one block.
    """
    q, k, _, log_weight = head(3, 40, 8, scale, 1.0)
    v = mean + torch.from_numpy(np.random.default_rng(4).standard_normal((40, 6)))
    if causal:
        log_weight = log_weight.expand(40, -1).masked_fill(
            torch.ones(40, 40).triu(1).bool(), -torch.inf
        )
    log_z = torch.logsumexp(q @ k.T + log_weight, -1)
    o = torch.softmax(q @ k.T + log_weight, -1) @ v
    found = theory.output_moments(q, k, v, o, log_z, log_weight)
    wanted = by_covariance(q, k, v, o, log_z, log_weight)
    rounding = 2e-15 * (1 + mean)  # of values and outputs
    deviation = wanted[1].sqrt()
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-12, atol=1e-10)
    bound = 1e-10 * wanted[1] + (2 * deviation + rounding) * rounding
    assert ((found[1] - wanted[1]).abs() <= bound).all()
    bound = (1e-10 * deviation + rounding)[:, None]
    assert ((found[2] - wanted[2]).abs() <= bound).all()
    assert ((found[3] - wanted[3]).abs() <= 1e-10 * (wanted[3] + 2 * o.square().sum(-1))).all()
    log_r = theory.log_second_moment(q, k, log_z, log_weight)
    mirror = theory.log_mirror_moment(q, k, log_z, log_weight)
    monkeypatch.setattr(theory, "BLOCK_VALUES", 7 * 40)
    for whole, part in zip(found, theory.output_moments(q, k, v, o, log_z, log_weight)):
        torch.testing.assert_close(part, whole, rtol=1e-11, atol=1e-13)
    for whole, part in (
        (log_r, theory.log_second_moment(q, k, log_z, log_weight)),
        (mirror, theory.log_mirror_moment(q, k, log_z, log_weight)),
    ):
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_outputs_follow_the_theory_for_thirty_heads():
    """Errors, bias and separate pools: within Monte Carlo error.

    36 random heads with sigma^2 <= 1, 400 networks of 1000 neurons each; for the bias 1500 of 200.
    Scores are (measured - predicted) / standard error: all below 4.5, and on average as large as
    chance makes them.
    """
    scores, biases = [], []
    for seed in range(36):
        q, k, v, o, log_z, weight, rng = random_configuration(seed)
        log_scale, trace, bias, separate = theory.output_moments(q, k, v, o, log_z, weight)
        scale = torch.exp(log_scale).numpy()
        trace = (trace.numpy() * scale).sum()
        arguments = [x.numpy() for x in (q, k, v)]
        error = outputs_of(*arguments, 1000, 400, rng) - o.numpy()
        apart = outputs_of(*arguments, 1000, 400, rng, separate=True) - o.numpy()
        for values, wanted in (
            (np.square(error).sum((1, 2)), trace),
            (np.square(apart).sum((1, 2)), (separate.numpy() * scale).sum()),
        ):
            standard_error = values.std(ddof=1) / len(values) ** 0.5
            scores.append((values.mean() - wanted / 1000) / standard_error)
        few = (outputs_of(*arguments, 200, 1500, rng) - o.numpy()).reshape(1500, -1)
        predicted = (bias.numpy() * scale[:, None]).ravel() / 200
        size = np.linalg.norm(predicted)
        projected = few @ predicted / size
        biases.append((projected.mean(), size, projected.std(ddof=1) / 1500**0.5))
    assert np.abs(scores).max() < 4.5 and 0.8 < np.sqrt(np.mean(np.square(scores))) < 1.25
    measured, size, standard_error = np.array(biases).T
    slope = (measured * size / standard_error**2).sum() / np.square(size / standard_error).sum()
    assert abs(slope - 1) < 3.5 / np.sqrt(np.square(size / standard_error).sum()) < 0.5


def test_the_published_test_bed():
    """G15's head: m E|O^ - o|^2 is .1097, of one query and 24 keys."""
    rng = np.random.default_rng(2)
    k = torch.from_numpy(0.2 * rng.standard_normal((24, 8)))
    q = torch.from_numpy(0.25 * rng.standard_normal((1, 8))).expand(24, 8)
    v = torch.from_numpy(rng.standard_normal((24, 4)))
    weight = torch.zeros(1, 24, dtype=torch.float64)
    log_z, o = torch.logsumexp(q @ k.T, -1), torch.softmax(q @ k.T, -1) @ v
    log_scale, trace, _, _ = theory.output_moments(q, k, v, o, log_z, weight)
    assert float(torch.exp(log_scale[0]) * trace[0]) == pytest.approx(0.1097, abs=5e-5)
