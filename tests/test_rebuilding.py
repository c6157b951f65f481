"""Layers of a transformer, rebuilt: at once, token by token, and beside softmax attention."""

import math

import numpy as np
import pytest
import torch

from tripartite import rebuilding
from tripartite.attention import softmax_attention
from tripartite.rebuilding import RECIPES, Synapses
from tripartite.streams import stream

HEADS, TOKENS, D, E = 2, 12, 6, 5


def drawn(name, size=0.6):
    rng = stream(0, "rebuilding", name)
    q, k = (torch.from_numpy(size * rng.standard_normal((HEADS, TOKENS, D))) for _ in range(2))
    return q + 0.3, k - 0.2, torch.from_numpy(rng.standard_normal((HEADS, TOKENS, E)))


def random(head, name):
    return stream(1, "rebuilding", name, head)


def layer(recipe, causal, m, dtype=torch.float64, size=0.6):
    if recipe == "learned":
        rng = stream(2, "rebuilding")
        weights = torch.from_numpy(rng.standard_normal((2, HEADS, m // 2, D)))
        return rebuilding.learned_layer(*weights)
    fit = rebuilding.fit_layer([drawn(name, size)[:2] for name in "ab"], recipe, causal)
    return rebuilding.random_layer(fit, random, m, dtype)


def streamed(rebuilt, q, k, v, causal):
    """Outputs token by token: each is written before it is read, or all before any is."""
    m = rebuilt.keys(k[:, :1]).shape[-1]
    synapses = Synapses(HEADS, m, E, v.dtype)
    outputs = []
    for t in range(TOKENS):
        synapses.write(rebuilt.keys(k[:, t : t + 1])[:, 0], v[:, t])
        if causal:
            outputs.append(synapses.read(rebuilt.queries(q[:, t : t + 1])[:, 0]))
    if not causal:
        outputs = [synapses.read(rebuilt.queries(q[:, t : t + 1])[:, 0]) for t in range(TOKENS)]
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("size", [0.6, 12.0])  # rates from e^-1000 to e^1000 at the larger one
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("recipe", [*RECIPES, "learned"])
def test_token_by_token_is_as_at_once(recipe, causal, size):
    rebuilt = layer(recipe, causal, 64, size=size)
    q, k, v = drawn("c", size)
    expected = rebuilt.attend(q, k, v, causal)
    assert torch.allclose(streamed(rebuilt, q, k, v, causal), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("recipe", RECIPES)
def test_more_neurons_approach_softmax_attention(recipe, causal):
    q, k, v = drawn("c", 0.25)
    exact = softmax_attention(q, k, v, torch.ones(TOKENS, dtype=torch.bool), causal)[1]
    errors = []
    for m in (100, 40_000):
        network = layer(recipe, causal, m, size=0.25)
        errors.append((network.attend(q, k, v, causal) - exact).norm() / exact.norm())
    assert errors[1] < errors[0] / 8  # 1 / 20 by the law
    assert errors[1] < 0.02


def test_a_layer_is_the_sums_of_its_equations():
    """Explicit sums over tokens and neurons, of the plain recipe."""
    q, k, v = drawn("c")
    rebuilt = layer("plain", True, 16)
    omega = [random(head, "omega").standard_normal((24, D))[:16] for head in range(HEADS)]
    expected = np.zeros((HEADS, TOKENS, E))
    for head in range(HEADS):
        for t in range(TOKENS):
            total = 0.0
            for j in range(t + 1):
                for w in omega[head]:
                    rate = math.exp(w @ k[head, j].numpy() - float(k[head, j].square().sum()) / 2)
                    rate *= math.exp(w @ q[head, t].numpy())
                    total += rate
                    expected[head, t] += rate * v[head, j].numpy()
            expected[head, t] /= total
    np.testing.assert_allclose(rebuilt.attend(q, k, v, True).numpy(), expected, rtol=1e-10)


def test_some_heads_are_those_of_all():
    q, k, v = drawn("c")
    fit = rebuilding.fit_layer([drawn(name)[:2] for name in "ab"], "fitted", True)
    whole = rebuilding.random_layer(fit, random, 32, torch.float64).attend(q, k, v, True)
    part = rebuilding.random_layer(
        rebuilding.some_heads(fit, [1]), lambda head, name: random(1, name), 32, torch.float64
    )

    def exact(q, k, v):
        return torch.full_like(v, 7.0)

    def attend(q, k, v):
        return part.attend(q, k, v, True)

    output = rebuilding.in_places(exact, attend, [1])(q, k, v)
    assert torch.equal(output[0], torch.full_like(output[0], 7.0))
    assert torch.allclose(output[1], whole[1], rtol=1e-12)
    assert torch.equal(rebuilding.in_places(exact, attend, [])(q, k, v), exact(q, k, v))


@pytest.mark.parametrize("causal", [False, True])
def test_equal_and_no_attention(causal):
    q, k, v = drawn("c")
    equal = rebuilding.equal_attention(q, k, v, causal)
    for head in range(HEADS):
        for t in range(TOKENS):
            read = v[head, : t + 1] if causal else v[head]
            assert torch.allclose(equal[head, t], read.mean(0))
    assert not rebuilding.no_attention(q, k, v, causal).any()


@pytest.mark.parametrize("causal", [False, True])
def test_needed_neurons_are_those_of_each_head(causal):
    """The closed form of all heads at once is that of simulated single neurons, head by head."""
    q, k, _ = drawn("c", 0.25)
    fit = rebuilding.fit_layer([drawn(name, 0.25)[:2] for name in "ab"], "plain", causal)
    needed = rebuilding.log10_needed(q, k, fit, causal)
    omega = torch.from_numpy(stream(3, "needed").standard_normal((400_000, D)))
    for head in range(HEADS):
        for t in (0, TOKENS - 1):
            keys = k[head, : t + 1] if causal else k[head]
            rates = torch.exp(omega @ keys.T - keys.square().sum(-1) / 2).sum(-1)
            rates *= torch.exp(omega @ q[head, t] - q[head, t].square().sum() / 2)
            variance = rates.var() / rates.mean().square()
            assert abs(float(needed[head, t]) - math.log10(100 * variance)) < 0.05
