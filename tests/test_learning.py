"""Learned features: against explicit loops, planted maps, and heads trained by themselves."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from tripartite import learning
from tripartite.learning import Example


def draws(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def keys_read(shape, causal=()):
    """Which keys a query reads [H, T, T]; causal: the heads of which these are those up to it."""
    read = torch.ones(shape, dtype=torch.bool)
    for head in causal:
        read[head] = read[head].tril()
    return read


def example(q, k, v, causal=()):
    read = keys_read((len(q), q.shape[1], q.shape[1]), causal)
    weights = torch.softmax((q @ k.mT).masked_fill(~read, -torch.inf), -1)
    return Example(q, k, v, weights, weights @ v, read)


def heads(seed, square_norm, n_heads=3, n_tokens=60, d_head=8, causal=()):
    """Queries and keys of random directions with the given mean square norm."""
    scale = math.sqrt(square_norm / d_head)
    q, k = (scale * draws((seed, i), n_heads, n_tokens, d_head) for i in range(2))
    return example(q, k, draws((seed, 2), n_heads, n_tokens, d_head), causal)


def some(one, chosen):
    return Example(*(x[chosen] for x in one))


def train(training, validation, start, **changes):
    options = {"loss": "weights", "max_steps": 60, "learning_rate": 0.1, "patience": 100}
    options |= {"dtype": torch.float64} | changes
    return learning.train(training, validation, start, np.random.default_rng(0), **options)


def log_attention(found, one):
    return learning.feature_attention(
        learning.log_features(found.query_weights, one.q),
        learning.log_features(found.key_weights, one.k),
        one.read,
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [0.3, 3, 300])
def test_attention_is_the_explicit_loop(scale, causal):
    """Also where every product of firing rates is beyond float64; over the keys that are read."""
    q, k, w_q, w_k = (scale * draws((1, i), 5, 4) for i in range(4))
    (read,) = keys_read((1, 5, 5), [0] if causal else [])
    log_phi = learning.log_features(w_q, q), learning.log_features(w_k, k)
    got = learning.feature_attention(*log_phi, read)
    for t in range(5):
        kernel = []
        for j in range(t + 1 if causal else 5):
            terms = []
            for sign in (1, -1):
                u = sign * (w_q @ q[t]).numpy()
                w = sign * (w_k @ k[j]).numpy()
                terms += [a - logsumexp(u) + b - logsumexp(w) for a, b in zip(u, w)]
            kernel.append(logsumexp(terms))
        wanted = kernel - logsumexp(kernel)
        np.testing.assert_allclose(got[t, : len(kernel)], wanted, rtol=1e-9, atol=1e-9)
        assert (got[t, len(kernel) :] == -torch.inf).all()


def test_small_numbers_agree_with_large_ones():
    """float32 beside float64 at norms of pretrained heads."""
    q, k, w_q, w_k = (draws((2, i), 2, 40, 16) * scale for i, scale in enumerate((4, 4, 8, 8)))
    read = keys_read((2, 40, 40))
    got, wanted = (
        learning.feature_attention(
            *(learning.log_features(*pair) for pair in ((w_q, q), (w_k, k))), read
        )
        for w_q, q, w_k, k in ([x.float() for x in (w_q, q, w_k, k)], [w_q, q, w_k, k])
    )
    assert wanted.min() < -100  # products that float32 does not hold
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scale", [0.5, 1000])
@pytest.mark.parametrize("loss", learning.LOSSES)
def test_gradients(loss, scale):
    one = heads(3, 2.0, n_heads=2, n_tokens=4, d_head=3, causal=[1])
    weights = (scale * draws(4, 2, 2, 3, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: learning._loss(w, one, loss), weights, atol=1e-6)


def test_losses_by_hand():
    one = heads(5, 2.0, n_heads=2, n_tokens=3, causal=[1])
    log_weights = torch.log_softmax(draws(6, 2, 3, 3).masked_fill(~one.read, -torch.inf), -1)
    for head in range(2):
        a, b = one.weights[head].numpy(), log_weights[head].exp().numpy()
        n_read = [t + 1 if head else 3 for t in range(3)]
        pairs = [(a[t, :n], b[t, :n]) for t, n in enumerate(n_read)]
        cross = np.mean([-sum(x * np.log(y)) for x, y in pairs])
        kl = np.mean([sum(x * np.log(x / y)) for x, y in pairs])
        exact, got = a @ one.v[head].numpy(), b @ one.v[head].numpy()
        error = (np.linalg.norm(got - exact) / np.linalg.norm(exact)) ** 2
        assert float(learning.weights_loss(log_weights, one)[head]) == pytest.approx(cross, 1e-12)
        assert float(learning.divergence(log_weights, one)[head]) == pytest.approx(kl, 1e-12)
        assert float(learning.outputs_loss(log_weights, one)[head]) == pytest.approx(error, 1e-12)
    assert (learning.divergence(one.weights.log(), one) < 1e-15).all()


def planted(seed, w_q, w_k, n_tokens=150):
    """Attention that a Hedgehog map of weights [H, F, D] makes exactly."""
    q, k, v = (draws((seed, i), len(w_q), n_tokens, w_q.shape[-1]) for i in range(3))
    log_phi = learning.log_features(w_q, q), learning.log_features(w_k, k)
    read = keys_read((len(w_q), n_tokens, n_tokens))
    weights = learning.feature_attention(*log_phi, read).exp()
    return Example(q, k, v, weights, weights @ v, read)


def test_a_planted_map_is_recovered():
    """Of the size that made the attention, on an input it has not seen."""
    w_q, w_k = draws(7, 2, 3, 4), draws(8, 2, 3, 4)
    inputs = [planted(seed, w_q, w_k) for seed in range(5)]
    found = train(inputs[:3], inputs[3:4], draws(9, 2, 3, 4), max_steps=600, learning_rate=0.3)
    uniform = torch.full_like(inputs[4].weights, -math.log(150))
    kl, of_uniform = (
        learning.divergence(x, inputs[4]) for x in (log_attention(found, inputs[4]), uniform)
    )
    assert (kl < 1e-3 * of_uniform).all()


@pytest.mark.parametrize("causal", [[], [0]])
def test_training_in_float64_is_an_explicit_loop(causal):
    """Adam in plain numpy, with gradients from steps into the complex plane (no rounding)."""
    inputs = [heads(seed, 3.0, 1, n_tokens=6, d_head=3, causal=causal) for seed in range(2)]
    start = draws(20, 1, 2, 3)
    found = train(inputs[:1], inputs[1:], start, max_steps=30)
    q, k, _, weights, *_ = (x[0].numpy() for x in inputs[0])
    scale = [np.sqrt(np.square(x).mean()) for x in (q, k)]

    def log_phi(w, x):
        drive = x @ w.T
        parts = [u - np.log(np.exp(u).sum(-1, keepdims=True)) for u in (drive, -drive)]
        return np.concatenate(parts, -1)

    def loss(w):  # [2, F, D]
        kernel = np.exp(log_phi(w[0], q / scale[0])) @ np.exp(log_phi(w[1], k / scale[1])).T
        total = 0
        for t in range(6):
            row = kernel[t, : t + 1] if causal else kernel[t]
            total -= (weights[t, : len(row)] * np.log(row / row.sum())).sum() / 6
        return total

    w = np.stack([start[0].numpy() / math.sqrt(3)] * 2)
    first, second = np.zeros_like(w), np.zeros_like(w)
    curve = []
    for step in range(31):
        if step % 10 == 0:
            curve.append((step, loss(w), w))
        gradient = np.zeros_like(w)
        for place in np.ndindex(w.shape):
            aside = w.astype(complex)
            aside[place] += 1e-30j
            gradient[place] = loss(aside).imag / 1e-30
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.99 ** (step + 1))
        w = w - 0.1 * (1 - step / 30) / math.sqrt(3) * mean / np.sqrt(square)
    steps, losses, of_step = zip(*curve)
    np.testing.assert_allclose(found.training_loss[:, 0], losses, rtol=1e-12)
    best = of_step[steps.index(found.best_step[0])]
    np.testing.assert_allclose(found.query_weights[0], best[0] / scale[0], rtol=1e-10)
    np.testing.assert_allclose(found.key_weights[0], best[1] / scale[1], rtol=1e-10)


def test_trained_features_beat_random_ones():
    """G35: at rho = 3 and 128 features several times; few random ones lose to equal attention."""
    inputs = [heads(seed, 3.0, n_heads=4, n_tokens=256, d_head=16) for seed in range(4)]
    start = draws(10, 4, 64, 16)
    found = train(inputs[:2], inputs[2:3], start, max_steps=150, dtype=torch.float32)
    omega = draws(11, 4, 128, 16)
    kl = {"learned": log_attention(found, inputs[3])}
    for m in (8, 128):
        log_phi = [
            x @ omega[:, :m].mT - x.square().sum(-1, keepdim=True) / 2 for x in inputs[3][:2]
        ]
        kl[m] = learning.feature_attention(*log_phi, inputs[3].read)
    kl["uniform"] = torch.full_like(inputs[3].weights, -math.log(256))
    kl = {name: float(learning.divergence(x, inputs[3]).median()) for name, x in kl.items()}
    assert kl["learned"] < kl[128] / 3 and kl["learned"] < kl["uniform"] / 2
    assert kl["uniform"] < kl[8]


@pytest.mark.parametrize("causal", [[], [1]])
def test_heads_are_independent(causal):
    """Trained together or alone, though one of them stops early or has another order."""
    inputs = [heads(seed, 4.0, n_heads=2, n_tokens=80, causal=causal) for seed in range(2)]
    for x, y in zip(*inputs):
        y[1] = x[1]  # validated where it trains, the second head goes on
    start = draws(13, 2, 4, 8)
    options = {"patience": 2, "max_steps": 100}
    both = train(inputs[:1], inputs[1:], start, **options)
    assert both.training_loss[-1, 0].isnan() and both.training_loss[-1, 1].isfinite()
    for head in range(2):
        one = [some(x, [head]) for x in inputs]
        alone = train(one[:1], one[1:], start[[head]], **options)
        for name in ("query_weights", "key_weights"):
            np.testing.assert_allclose(
                getattr(alone, name)[0], getattr(both, name)[head], rtol=1e-8, atol=1e-10
            )
        np.testing.assert_allclose(
            alone.validation_loss[:, 0], both.validation_loss[:, head], rtol=1e-9
        )
        assert alone.best_step[0] == both.best_step[head]


@pytest.mark.parametrize("loss", learning.LOSSES)
def test_the_best_step_is_kept(loss):
    """The weights are those of the least validation loss, and a head stops `patience` later."""
    inputs = [heads(seed, 6.0, n_tokens=20) for seed in range(2)]
    found = train(inputs[:1], inputs[1:], draws(14, 3, 16, 8), loss=loss, max_steps=400, patience=3)
    steps = np.array(learning.evaluation_steps(400))
    for head in range(3):
        curve = found.validation_loss[:, head].numpy()
        seen = np.flatnonzero(np.isfinite(curve))
        best = np.nanargmin(curve)
        assert steps[best] == found.best_step[head] and best < len(steps) - 4
        assert list(seen) == list(range(best + 4))
        again = learning.LOSSES[loss](log_attention(found, inputs[1]), inputs[1])[head]
        assert float(again) == pytest.approx(curve[best], 1e-9)


@pytest.mark.parametrize("loss", learning.LOSSES)
@pytest.mark.parametrize("rate", [1e30, 1e300])
def test_divergence_is_said(rate, loss):
    """NaN and the reason, for every head by itself."""
    inputs = [heads(seed, 2.0, n_tokens=20) for seed in range(2)]
    found = train(
        inputs[:1],
        inputs[1:],
        draws(15, 3, 4, 8),
        loss=loss,
        learning_rate=rate,
        dtype=torch.float32,
    )
    assert found.query_weights.isnan().all() and found.key_weights.isnan().all()
    assert (found.best_step == -1).all()
    assert all(note.startswith("training diverged at step 10: ") for note in found.note)
    silent = inputs[0]._replace(output=inputs[0].output * torch.tensor([0.0, 1, 1])[:, None, None])
    found = train([silent], inputs[1:], draws(15, 3, 4, 8), loss="outputs")
    assert found.note == ["training diverged at step 0: the loss is not finite", "", ""]
    assert found.query_weights[1:].isfinite().all()


def test_norms_do_not_matter_to_training():
    """Queries a thousand times shorter and keys longer: the same attention, the same drives."""
    inputs = [heads(seed, 3.0, n_tokens=20) for seed in range(2)]
    other = [one._replace(q=one.q / 1000, k=one.k * 1000) for one in inputs]
    start = draws(16, 3, 4, 8)
    a, b = train(inputs[:1], inputs[1:], start), train(other[:1], other[1:], start)
    np.testing.assert_allclose(a.query_weights, b.query_weights / 1000, rtol=1e-6)
    np.testing.assert_allclose(a.validation_loss, b.validation_loss, rtol=1e-9)


def test_zero_queries_and_one_token():
    """Nothing to learn is no error: equal attention is right from the start."""
    zero = heads(17, 0.0, n_tokens=5)
    one_token = heads(18, 2.0, n_tokens=1)
    for one in (zero, one_token):
        found = train([one], [one], draws(19, 3, 4, 8), max_steps=20)
        assert not any(found.note)
        assert (learning.divergence(log_attention(found, one), one) < 1e-9).all()
