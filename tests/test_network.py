"""The network: eqs (1) to (6) one token at a time, every kernel against them, and their laws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tripartite import network
from tripartite.attention import softmax_attention
from tripartite.features import FEATURE_MAPS, draw_neurons, exponential
from tripartite.network import Hidden, Leak, Tokens

MAPS = sorted(FEATURE_MAPS)
EXPONENTIAL = [name for name in MAPS if FEATURE_MAPS[name].activation is exponential]
KINKED = ["relu", "positive_cosine"]
POSITIVE = [*EXPONENTIAL, "truncated_performer", "positive_cosine", "elu_plus_one", "relu"]
SHAPES = {
    "seed": st.integers(0, 2**32 - 1),
    "n_tokens": st.integers(1, 12),
    "d_head": st.integers(1, 6),
    "m": st.integers(1, 700),
    "scale": st.floats(0.01, 1.5),
}
LEAKS = st.sampled_from([Leak(), Leak(0.2, 0.2), Leak(0.3, 0.1)])
PLAIN = settings(max_examples=60)


def draw(seed, n_tokens, d_head, m, scale=1.0, feature_map="performer", gain=True, d_value=None):
    """Tokens and a hidden layer of m neurons; a different gain for every key."""
    rng = np.random.default_rng(seed)
    q, k = (torch.from_numpy(scale * rng.standard_normal((n_tokens, d_head))) for _ in range(2))
    v = torch.from_numpy(rng.standard_normal((n_tokens, d_value or d_head)))
    log_gain = torch.from_numpy(gain * 0.3 * rng.standard_normal(n_tokens))
    drawn = draw_neurons(feature_map, rng, rng, m, d_head, -0.05)
    neurons = (torch.cat(parts) for parts in zip(*drawn))
    return Tokens(q, k, v, log_gain), Hidden(*neurons, FEATURE_MAPS[feature_map].activation, 3.0)


def read(tokens, hidden, ranges=None, **options):
    """The network's ln|p|, sign and output, by whichever kernel it chooses."""
    ranges = ranges or [(0, len(hidden.bias))]
    found = network.read(
        [tokens], [hidden[:2]], ranges, hidden.activation, hidden.threshold, **options
    )
    return [one for (one,) in found] if len(ranges) > 1 else found[0][0]


def magnitude(tokens, hidden):
    """sum_jl |phi_a(q_t) w_j phi_a(k_j)| / m [T]: what rounding errors are relative to."""
    m = len(hidden.bias)
    log_q, log_k = (network.rates(hidden, x, m)[0] for x in (tokens.q, tokens.k))
    return (log_q.exp() @ (log_k + tokens.log_gain[:, None]).exp().sum(0)) / m


def assert_same(found, calcium, output, size, rtol=1e-11):
    """p within rtol of the sum of magnitudes, and p times the output as well."""
    log_p, sign, o = found
    p = log_p.exp() * sign
    assert ((p - calcium).abs() <= rtol * size).all()
    assert ((p[:, None] * o - calcium[:, None] * output).abs() <= 10 * rtol * size[:, None]).all()
    assert not o.isnan().any() and not log_p.isnan().any()


@PLAIN
@given(**SHAPES, feature_map=st.sampled_from(MAPS), causal=st.booleans(), leak=LEAKS)
def test_every_kernel_is_the_sequential_network(
    seed, n_tokens, d_head, m, scale, feature_map, causal, leak
):
    """G1: the written-out network, what `read` chooses and every kernel that serves agree."""
    tokens, hidden = draw(seed, n_tokens, d_head, m, scale, feature_map)
    calcium, last = network.sequential(torch.zeros_like(tokens.v), tokens, hidden, causal, leak)
    size = magnitude(tokens, hidden)
    assert_same(read(tokens, hidden, causal=causal, leak=leak), calcium, last, size)
    kernels = [network.causal_log_space, network.causal_steps] if causal else [network.log_space]
    if feature_map in EXPONENTIAL:
        kernels += [network.causal_chunks] if causal else [network.direct, network.attention_calls]
    aged = tokens if causal else network._leaked(tokens, leak)
    for kernel in kernels:
        total = kernel(aged, hidden, m, None, leak)
        assert_same(network.finished(total, m, False), calcium, last, size)


@PLAIN
@given(**SHAPES, feature_map=st.sampled_from(MAPS))
def test_the_network_is_linear_attention(seed, n_tokens, d_head, m, scale, feature_map):
    """G1: sum v phi.phi / sum phi.phi with explicit features, of any sign."""
    tokens, hidden = draw(seed, n_tokens, d_head, m, scale, feature_map)
    phi = []
    for x in (tokens.q, tokens.k):
        log_phi, sign = network.rates(hidden, x, m)
        phi.append(log_phi.exp() / math.sqrt(m) * (1 if sign is None else sign))
    weights = phi[0] @ (phi[1] * tokens.log_gain.exp()[:, None]).T  # [T, T]
    calcium = weights.sum(-1)
    output = (weights @ tokens.v) / torch.where(calcium == 0, torch.inf, calcium)[:, None]
    assert_same(read(tokens, hidden), calcium, output, magnitude(tokens, hidden))


@PLAIN
@given(**SHAPES, feature_map=st.sampled_from(MAPS), causal=st.booleans())
def test_weights_sum_to_one(seed, n_tokens, d_head, m, scale, feature_map, causal):
    """G2: constant values come back, V -> VB + 1b' maps outputs, positive maps stay in the hull."""
    tokens, hidden = draw(seed, n_tokens, d_head, m, scale, feature_map)
    log_p, sign, output = read(tokens, hidden, causal=causal)
    heard = sign != 0  # a silent network has no output
    bound = 1e-11 * (magnitude(tokens, hidden) / log_p.exp())[heard][:, None]
    flat = tokens._replace(v=torch.full_like(tokens.v, 2.5))
    constant = read(flat, hidden, causal=causal)[2]
    assert ((constant[heard] - 2.5).abs() <= bound).all() and (constant[~heard] == 0).all()
    mix = torch.from_numpy(np.random.default_rng(seed).standard_normal((d_head, d_head)))
    mapped = read(tokens._replace(v=tokens.v @ mix + 1.5), hidden, causal=causal)[2]
    assert ((mapped - (output @ mix + 1.5))[heard].abs() <= 100 * bound).all()
    if feature_map in POSITIVE:
        assert (sign >= 0).all()
        inside = (output <= tokens.v.amax(0) + 1e-11) & (output >= tokens.v.amin(0) - 1e-11)
        assert inside[heard].all()


@PLAIN
@given(**SHAPES, feature_map=st.sampled_from(MAPS))
def test_order_and_duplicates(seed, n_tokens, d_head, m, scale, feature_map):
    """G1, G4: the order of written tokens is forgotten; c copies of each key multiply Z by c."""
    tokens, hidden = draw(seed, n_tokens, d_head, m, scale, feature_map)
    log_p, sign, output = read(tokens, hidden)
    p, size = log_p.exp() * sign, magnitude(tokens, hidden)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n_tokens))
    mixed = Tokens(tokens.q, tokens.k[order], tokens.v[order], tokens.log_gain[order])
    assert_same(read(mixed, hidden), p, output, size)
    tripled = Tokens(*(torch.cat([x] * 3) for x in tokens))
    found = [x[:n_tokens] for x in read(tripled, hidden)]
    assert_same(found, 3 * p, output, 3 * size)


@PLAIN
@given(**SHAPES, feature_map=st.sampled_from(MAPS), shift=st.floats(-3, 3))
def test_rotation_and_gain(seed, n_tokens, d_head, m, scale, feature_map, shift):
    """G3: phi of a rotated drive is phi with rotated weights; a gain of phi leaves the output."""
    tokens, hidden = draw(seed, n_tokens, d_head, m, scale, feature_map)
    size = magnitude(tokens, hidden)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((d_head, d_head)))
    rotation = torch.from_numpy(rotation)
    rotated = tokens._replace(q=tokens.q @ rotation.T, k=tokens.k @ rotation.T)
    log_p, sign, output = read(tokens, hidden._replace(weights=hidden.weights @ rotation))
    if feature_map not in KINKED:  # kinks move by rounding
        assert_same(read(rotated, hidden), log_p.exp() * sign, output, 2 * size, 1e-9)

    def louder(u, square, n, threshold):
        log_phi, sign = hidden.activation(u, square, n, threshold)
        return log_phi + shift, sign

    log_p, sign, output = read(tokens, hidden)
    found = read(tokens, hidden._replace(activation=louder)) if feature_map != "linear" else None
    if found:
        gain = math.exp(2 * shift)
        assert_same(found, gain * log_p.exp() * sign, output, gain * size)


@PLAIN
@given(**SHAPES, feature_map=st.sampled_from(EXPONENTIAL), causal=st.booleans())
def test_a_key_far_from_a_query_is_not_read(seed, n_tokens, d_head, m, scale, feature_map, causal):
    """G4: a key of gain 0, or a copy of one, changes nothing."""
    tokens, hidden = draw(seed, n_tokens, d_head, m, scale, feature_map)
    far = Tokens(*(torch.cat([x, 2 * x[-1:]]) for x in tokens))
    far.log_gain[-1] = -2000.0
    for whole, part in zip(read(tokens, hidden, causal=causal), read(far, hidden, causal=causal)):
        torch.testing.assert_close(part[:n_tokens], whole, rtol=1e-10, atol=1e-10)


def test_the_control_gates_plasticity_and_reading():
    """r = 1 leaves H and g as they are; r = 0 writes them and gives no calcium."""
    (q, k, v, _), hidden = draw(5, 2, 3, 8)
    hebbian, presynaptic = torch.ones(3, 8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    inputs = (v[0], q[0], k[0], v[1], hidden)
    h, g, last, calcium = network.step(hebbian, presynaptic, *inputs, r=1)
    assert torch.equal(h, hebbian) and torch.equal(g, presynaptic)
    phi = network.rates(hidden, q[:1], 8)[0][0].exp() / math.sqrt(8)
    torch.testing.assert_close(calcium, phi.sum())
    torch.testing.assert_close(last, 1 + v[0])
    h, g, last, calcium = network.step(hebbian, presynaptic, *inputs, r=0)
    phi = network.rates(hidden, k[:1], 8)[0][0].exp() / math.sqrt(8)
    torch.testing.assert_close(h, 1 + torch.outer(v[1], phi))
    torch.testing.assert_close(g, 1 + phi)
    assert calcium == 0 and torch.equal(last, v[1])


@pytest.mark.parametrize("feature_map", MAPS)
def test_one_token_and_one_neuron(feature_map):
    """G1: with one token the output is its value, with one neuron a mean of what it has stored."""
    tokens, hidden = draw(0, 1, 4, 7, 0.5, feature_map)
    log_p, sign, output = read(tokens, hidden)
    assert sign != 0
    torch.testing.assert_close(output, tokens.v, rtol=1e-12, atol=1e-12)
    _, last = network.sequential(torch.full_like(tokens.v, 3.0), tokens, hidden)
    torch.testing.assert_close(last, tokens.v + 3.0, rtol=1e-12, atol=1e-12)
    tokens, hidden = draw(1, 5, 4, 1, 0.5, feature_map)
    assert not any(x.isnan().any() for x in read(tokens, hidden))


def test_a_silent_network_says_so():
    """No neuron fires: ln p is -inf, the sign 0 and the output 0, in both orders, and never NaN."""
    tokens, hidden = draw(0, 4, 2, 3, feature_map="relu")
    silent = hidden._replace(bias=hidden.bias - 100)
    for causal in (False, True):
        log_p, sign, output = read(tokens, silent, causal=causal)
        assert (log_p == -torch.inf).all() and (sign == 0).all() and (output == 0).all()
    calcium, last = network.sequential(tokens.v, tokens, silent)
    assert (calcium == 0).all() and torch.equal(last, tokens.v)


@pytest.mark.parametrize("feature_map", MAPS)
@pytest.mark.parametrize("causal", [False, True])
def test_ranges_are_networks_of_their_own(feature_map, causal, monkeypatch):
    """Nested sizes, blocks and the levels of a dyadic tree, in one pass, drawn in pieces."""
    rng = np.random.default_rng(1)
    tokens, _ = draw(1, 9, 4, 1, 0.7)
    tree = [
        (i * 2**level, (i + 1) * 2**level) for level in range(4, 8) for i in range(128 >> level)
    ]
    ranges = [*tree, (0, 1), (0, 10), (0, 130), (3, 131)]
    monkeypatch.setattr("tripartite.features.CHUNK", 40)
    pieces = list(draw_neurons(feature_map, rng, rng, 131, 4, -0.05))
    assert len(pieces) > 3
    activation = FEATURE_MAPS[feature_map].activation
    found = network.read([tokens], pieces, ranges, activation, 3.0, causal)
    weights, bias = (torch.cat(parts) for parts in zip(*pieces))
    for (start, stop), (one,) in zip(ranges, found):
        hidden = Hidden(weights[start:stop], bias[start:stop], activation, 3.0)
        calcium, last = network.sequential(torch.zeros_like(tokens.v), tokens, hidden, causal)
        assert_same(one, calcium, last, magnitude(tokens, hidden))


@pytest.mark.parametrize("causal", [False, True])
def test_writing_in_parts_is_writing_at_once(causal, monkeypatch):
    """Blocks of tokens and neurons, however they are cut, with leak and without."""
    tokens, hidden = draw(3, 37, 5, 90)
    for leak in (Leak(), Leak(0.1, 0.05)):
        whole = read(tokens, hidden, causal=causal, leak=leak)
        for name, size in (
            ("TOKEN_BLOCK", 5),
            ("CAUSAL_CHUNK", 4),
            ("CAUSAL_BLOCK", 7),
            ("BLOCK_BYTES", 512),
        ):
            monkeypatch.setattr(network, name, size)
        cut = read(tokens, hidden, causal=causal, leak=leak)
        monkeypatch.undo()
        for a, b in zip(whole, cut):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_writing_in_two_halves_is_writing_at_once():
    """The synapses after all tokens are those after the first half, written on."""
    (q, k, v, _), hidden = draw(4, 10, 3, 20)
    h, g = torch.zeros(3, 20, dtype=torch.float64), torch.zeros(20, dtype=torch.float64)
    for half in (range(5), range(5, 10)):
        for t in half:
            h, g, _, _ = network.step(h, g, v[t], q[t], k[t], v[t], hidden, r=0)
    phi = network.rates(hidden, k, 20)[0].exp() / math.sqrt(20)
    torch.testing.assert_close(h, v.T @ phi)
    torch.testing.assert_close(g, phi.sum(0))


@pytest.mark.parametrize("kernel", [network.attention_calls, network.log_space])
def test_a_batch_of_padded_sequences_is_each_by_itself(kernel):
    """As on a GPU: what is added has a gain of 0, whatever it holds."""
    long, hidden = draw(2, 8, 4, 300)
    short = Tokens(*(x[:5] for x in draw(3, 8, 4, 300)[0]))
    padded = Tokens(*(torch.cat([x, torch.ones(3, *x.shape[1:], dtype=x.dtype)]) for x in short))
    padded.log_gain[5:] = -torch.inf
    batch = Tokens(*(torch.stack(pair) for pair in zip(long, padded)))
    found = network.finished(kernel(batch, hidden, 300, None), 300, False)
    for i, tokens in enumerate((long, short)):
        for a, b in zip(found, read(tokens, hidden)):
            torch.testing.assert_close(a[i][: len(tokens.q)], b, rtol=1e-11, atol=1e-11)
    leaked = network._leaked(batch, Leak(0.1, 0.3))
    wanted = network._leaked(short, Leak(0.1, 0.3))
    torch.testing.assert_close(leaked.log_gain[1, :5], wanted.log_gain)
    torch.testing.assert_close(leaked.v[1, :5], wanted.v)


@pytest.mark.parametrize("feature_map", ["generalized_positive", "cosine", "linear"])
def test_sequences_of_a_batch_may_have_layers_of_their_own(feature_map):
    """Two inputs and three layers in one batch [layer, input] give what each pair gives alone."""
    inputs, layers = zip(*(draw(seed, 8, 4, 300, feature_map=feature_map) for seed in range(3)))
    q, k, v, log_gain = (torch.stack(parts) for parts in zip(*inputs[:2]))
    batch = Tokens(*(x.expand(3, *x.shape) for x in (q, k, v, log_gain)))
    weights, bias = (torch.stack(parts)[:, None] for parts in zip(*(x[:2] for x in layers)))
    pieces = [(weights[..., :90, :], bias[..., :90]), (weights[..., 90:, :], bias[..., 90:])]
    ranges = [(0, 60), (0, 300), (60, 200)]
    found = network.read([batch], pieces, ranges, *layers[0][2:])
    for of_range, (start, stop) in zip(found, ranges):
        for i, layer in enumerate(layers):
            own = layer._replace(weights=layer.weights[start:stop], bias=layer.bias[start:stop])
            for j, tokens in enumerate(inputs[:2]):
                for x, alone in zip(of_range[0], read(tokens, own)):
                    torch.testing.assert_close(x[i, j], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("leak", [Leak(0.3, 0.3), Leak(0.2, 0.5)])
def test_leak_is_retention(causal, leak):
    """G24: o = sum kappa v exp(-leak_H age) / sum kappa exp(-leak_g age), age in later tokens."""
    tokens, hidden = draw(6, 12, 3, 50, gain=False)
    log_p, _, output = read(tokens, hidden, causal=causal, leak=leak)
    phi = [network.rates(hidden, x, 50)[0].exp() for x in (tokens.q, tokens.k)]
    kappa = (phi[0] @ phi[1].T / 50).numpy()
    for t in range(12):
        last = t if causal else 11
        ages = last - np.arange(last + 1)
        w_h, w_g = (kappa[t, : last + 1] * np.exp(-rate * ages) for rate in leak)
        assert log_p[t].exp().item() == pytest.approx(w_g.sum(), rel=1e-12)
        np.testing.assert_allclose(
            output[t], w_h @ tokens.v[: last + 1].numpy() / w_g.sum(), rtol=1e-11
        )


@pytest.mark.parametrize("norm", [30.0, 300.0])
def test_long_queries_and_keys_do_not_underflow(norm):
    """Where all rates are zero in float64, the network gives what log-space sums give."""
    tokens, hidden = draw(3, 6, 4, 200, gain=False)
    q, k = (norm * t / t.norm(dim=-1, keepdim=True) for t in tokens[:2])
    tokens = tokens._replace(q=q, k=k)
    calcium, _ = network.sequential(torch.zeros_like(tokens.v), tokens, hidden)
    assert (calcium == 0).all() or norm < 40
    log_phi_q, log_phi_k = (
        network.rates(hidden, t, 200)[0].numpy().astype(np.longdouble) for t in (q, k)
    )
    terms = log_phi_q[:, None, :] + log_phi_k[None, :, :]  # [query, key, m]
    for causal in (False, True):
        log_p, _, output = read(tokens, hidden, causal=causal)
        for t in range(6):
            seen = terms[t, : t + 1] if causal else terms[t]
            weights = np.exp(seen - seen.max()).sum(-1)
            exact = np.log(weights.sum()) + seen.max() - np.log(np.longdouble(200))
            assert log_p[t].item() == pytest.approx(float(exact), rel=1e-12)
            o = weights @ tokens.v[: len(weights)].numpy() / weights.sum()
            np.testing.assert_allclose(output[t], o.astype(float), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("feature_map", ["performer", "truncated_performer"])
@pytest.mark.parametrize("leak", [Leak(5.0, 5.0), Leak(20.0, 20.0), Leak(3.0, 2.5)])
def test_what_leaked_away_does_not_silence_the_rest(dtype, feature_map, leak):
    """A first key that excites all neurons, an attention sink, is forgotten with its scale."""
    tokens, hidden = draw(12, 64, 8, 100, feature_map=feature_map, gain=False)
    q, k = (15 * x / x.norm(dim=-1, keepdim=True) for x in tokens[:2])
    k[0] *= 0.02
    hidden = hidden._replace(weights=hidden.weights.to(dtype))
    tokens = Tokens(q.to(dtype), k.to(dtype), tokens.v.to(dtype), tokens.log_gain)
    log_p, sign, _ = read(tokens, hidden, causal=True, leak=leak)
    log_phi = [
        network.rates(hidden._replace(weights=hidden.weights.double()), x.double(), 100)[0]
        for x in tokens[:2]
    ]
    terms = log_phi[0][:, None] + log_phi[1][None]  # [query, key, m]
    lag = torch.arange(64.0)[:, None] - torch.arange(64.0)
    terms = terms - (leak.presynaptic * lag).masked_fill(lag < 0, torch.inf)[..., None]
    wanted = terms.flatten(1).logsumexp(1) - math.log(100)
    assert (sign == 1).all()
    tolerance = 2e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(log_p, wanted, rtol=tolerance, atol=tolerance)


def without_signs(hidden):
    """The same layer with rates |phi|."""
    return hidden._replace(activation=lambda *x: (hidden.activation(*x)[0], None))


@settings(max_examples=150)
@given(
    **(SHAPES | {"n_tokens": st.integers(1, 40), "scale": st.floats(0.01, 20)}),
    feature_map=st.sampled_from(MAPS),
    leak=LEAKS | st.just(Leak(30.0, 30.0)),
    sinks=st.lists(st.tuples(st.integers(0, 39), st.sampled_from([0.0, 0.01, 30.0])), max_size=3),
    absent=st.sets(st.integers(0, 39), max_size=4),
)
def test_causal_order_at_any_norm(
    seed, n_tokens, d_head, m, scale, feature_map, leak, sinks, absent
):
    """Chunks give what single tokens give: every map, tokens of huge or no norm, absent ones."""
    tokens, hidden = draw(seed, n_tokens, d_head, m, scale, feature_map)
    for t, factor in sinks:
        tokens.k[t % n_tokens] *= factor
    tokens.log_gain[[t % n_tokens for t in absent]] = -torch.inf
    wanted = network.causal_steps(tokens, hidden, m, None, leak)
    found = network.causal_log_space(tokens, hidden, m, None, leak)
    loud = without_signs(hidden)
    size = network.causal_steps(tokens, loud, m, None, leak)  # without signs, which cancel
    bound = 1e-11 * (1 + wanted.log_scale.abs())
    scale = torch.exp(found.log_scale - size.log_scale)
    theirs = torch.exp(wanted.log_scale - size.log_scale)
    error = (found.calcium * scale - wanted.calcium * theirs).abs()
    assert (error <= bound * size.calcium).all()
    error = (found.drive * scale[:, None] - wanted.drive * theirs[:, None]).abs().amax(-1)
    hebbian = network.causal_steps(tokens._replace(v=tokens.v.abs()), loud, m, None, leak)
    assert (error <= bound * (size.calcium + hebbian.drive.amax(-1))).all()


def test_causal_rates_beyond_the_range_of_single_precision():
    """Rates that grow by exp(1000) within a chunk: what double precision gives, of every map."""
    for feature_map in MAPS:
        tokens, hidden = draw(13, 100, 8, 300, 6.0, feature_map)
        growth = torch.linspace(0.01, 1, 100, dtype=torch.float64)[:, None]
        tokens = tokens._replace(q=tokens.q * growth, k=tokens.k * growth.flip(0))
        single = Tokens(*(x.float() for x in tokens[:3]), tokens.log_gain)
        narrow = hidden._replace(weights=hidden.weights.float(), bias=hidden.bias.float())
        same = Tokens(*(x.double() for x in single))
        wide = narrow._replace(weights=narrow.weights.double(), bias=narrow.bias.double())
        loud = without_signs(wide)
        size, _, _ = network.finished(network.causal_steps(same, loud, 300, None), 300, False)
        found, exact = (
            network.finished(network.causal_log_space(x, y, 300, None), 300, False)
            for x, y in ((single, narrow), (same, wide))
        )
        p, wanted = (x[1] * torch.exp(x[0] - size) for x in (found, exact))
        assert (p - wanted).abs().max() < 2e-3, feature_map  # of rates around exp(-1000)


def test_a_causal_batch_is_each_by_itself():
    """Batches of any shape, with absent tokens after and before those of the shorter sequence."""
    long, hidden = draw(2, 70, 4, 300, 3.0)
    short = Tokens(*(x[:50] for x in draw(3, 70, 4, 300, 3.0)[0]))
    for first in (0, 20):
        padded = Tokens(*(torch.ones(70, *x.shape[1:], dtype=x.dtype) for x in short))
        padded.log_gain[:] = -torch.inf
        for whole, part in zip(padded, short):
            whole[first : first + 50] = part
        batch = Tokens(*(torch.stack(pair)[:, None] for pair in zip(long, padded)))
        total = network.causal_log_space(batch, hidden, 300, None, Leak(0.1, 0.3))
        found = [x[:, 0] for x in network.finished(total, 300, False)]
        for i, (tokens, place) in enumerate(((long, slice(70)), (short, slice(first, first + 50)))):
            total = network.causal_steps(tokens, hidden, 300, None, Leak(0.1, 0.3))
            for a, b in zip(found, network.finished(total, 300, False)):
                torch.testing.assert_close(a[i][place], b, rtol=1e-10, atol=1e-10)


@PLAIN
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.05, 12),
    causal=st.booleans(),
    feature_map=st.sampled_from(EXPONENTIAL),
    gain=st.floats(0, 40),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_fast_path_is_never_wrong(seed, scale, causal, feature_map, gain, dtype):
    """Whatever kernel the norm bound chooses: finite, and the log-space sum in float64."""
    tokens, hidden = draw(seed, 9, 5, 300, scale, feature_map)
    tokens = tokens._replace(log_gain=gain * tokens.log_gain)
    rounded = Tokens(*(x.to(dtype) for x in tokens[:3]), tokens.log_gain)
    narrow = hidden._replace(weights=hidden.weights.to(dtype))
    same = Tokens(*(x.double() for x in rounded[:3]), tokens.log_gain)
    kernel = network.causal_steps if causal else network.log_space
    wide = hidden._replace(weights=narrow.weights.double())
    log_p, _, output = network.finished(kernel(same, wide, 300, None), 300, False)
    found = read(rounded, narrow, causal=causal)
    tolerance = 1e-10 if dtype == torch.float64 else 3e-5 * max(1.0, scale**2)
    torch.testing.assert_close(found[0], log_p, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[2].double(), output, rtol=tolerance, atol=tolerance)


def test_the_bound_chooses_the_kernel():
    """Direct products at low norm, attention at high norm, and safe sums for other maps."""
    low, hidden = draw(0, 5, 4, 20, 0.3)
    high = low._replace(q=1000 * low.q)
    relu = hidden._replace(activation=FEATURE_MAPS["relu"].activation)
    assert network.kernel(low, hidden, False) is network.direct
    assert network.kernel(high, hidden, False) is network.attention_calls
    assert network.kernel(low, hidden, True) is network.causal_chunks
    assert network.kernel(high, hidden, True) is network.causal_log_space
    batch = Tokens(*(x[None] for x in low))
    assert network.kernel(batch, hidden, True) is network.causal_log_space
    assert network.kernel(low, relu, False) is network.log_space


def test_float32_at_norm_45():
    """No overflow, and a relative rms error of the output below 3e-6 against float64."""
    tokens, hidden = draw(7, 200, 64, 4000, gain=False)
    lengths = torch.linspace(20, 45, 200, dtype=torch.float64)[:, None]
    q, k = (lengths * t / t.norm(dim=-1, keepdim=True) for t in tokens[:2])
    single = Tokens(q.float(), k.float(), tokens.v.float(), tokens.log_gain)
    narrow = hidden._replace(weights=hidden.weights.float())
    same = Tokens(*(x.double() for x in single))
    wide = narrow._replace(weights=narrow.weights.double())
    log_p, _, output = network.finished(network.log_space(same, wide, 4000, None), 4000, False)
    assert network.kernel(single, narrow, False) is network.attention_calls
    found_p, _, found = read(single, narrow)
    error = (found.double() - output).norm(dim=-1) / output.norm(dim=-1)
    assert error.square().mean().sqrt() < 3e-6
    assert error.max() < 3e-5
    assert (found_p - log_p).abs().max() < 1e-4  # of numbers around -900


def test_bfloat16_is_close():
    """A few 1e-3 of the output and the normaliser at low norm, by products and by attention."""
    tokens, hidden = draw(8, 60, 32, 4000, 0.3, gain=False)
    wide = read(tokens, hidden)
    half = Tokens(*(x.bfloat16() for x in tokens[:3]), tokens.log_gain)
    narrow = hidden._replace(weights=hidden.weights.bfloat16())
    assert network.kernel(half, narrow, False) is network.direct
    calls = network.finished(network.attention_calls(half, narrow, 4000, None), 4000, False)
    for found in (read(half, narrow), calls):
        assert (found[0] - wide[0]).abs().max() < 0.02
        error = (found[2].double() - wide[2]).norm() / wide[2].norm()
        assert error < 0.02


def test_many_neurons_are_softmax_attention():
    """The limit of the paper: at low norm and many neurons the network is softmax attention."""
    tokens, hidden = draw(4, 16, 4, 200_000, 0.25, gain=False)
    mask = torch.ones(16, dtype=torch.bool)
    for causal in (False, True):
        log_normalizer, exact = softmax_attention(*tokens[:3], mask, causal)
        log_calcium, _, output = read(tokens, hidden, causal=causal)
        assert (log_calcium - log_normalizer).abs().max() < 0.01
        assert (output - exact).abs().max() < 0.02


SERVED = [
    (feature_map, causal, dtype, tolerance)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.1))
    for causal in (False, True)
    for feature_map in MAPS
    if dtype != torch.bfloat16 or (feature_map in EXPONENTIAL and not causal)
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("feature_map", "causal", "dtype", "tolerance"), SERVED)
def test_gpu_and_cpu_agree(feature_map, causal, dtype, tolerance):
    tokens, hidden = draw(11, 130, 32, 3000, 0.4, feature_map)
    calcium, _, output = read(tokens, hidden, causal=causal)
    there = Tokens(*(x.to("cuda", dtype) for x in tokens[:3]), tokens.log_gain.cuda())
    if not causal:
        there = Tokens(*(x[None] for x in there))
    found_p, _, found = (
        x.cpu().reshape(y.shape)
        for x, y in zip(read(there, hidden, causal=causal), (calcium, calcium, output))
    )
    torch.testing.assert_close(found_p, calcium, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.double(), output, rtol=tolerance, atol=tolerance)
