"""Softmax attention with its log-sum-exp: every form against the definition, and the choice."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tripartite import lse_attention
from tripartite.lse_attention import faster, flash, flex, products

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 3e-2}


def draw(n_queries, n_keys, width, width_of_values, dtype=torch.float64):
    """q, k, v and bias of three sequences, with biases of different size."""
    g = torch.Generator().manual_seed(9)
    shapes = (n_queries, width), (n_keys, width), (n_keys, width_of_values)
    q, k, v = (torch.randn(3, *shape, generator=g).to(dtype) for shape in shapes)
    bias = torch.randn(n_keys, generator=g, dtype=torch.float64)
    return q, k, v, 5 * bias * torch.arange(1, 4)[:, None]


def assert_attention(form, q, k, v, bias):
    """Bias is added to every query's logits, and counts in the log-sum-exp."""
    output, log_sum = form(q, k, v, bias)
    logits = q.double() @ k.double().mT + bias[:, None, :]
    tolerance = {"rtol": TOLERANCE[q.dtype], "atol": TOLERANCE[q.dtype]}
    torch.testing.assert_close(log_sum.double(), logits.logsumexp(-1), **tolerance)
    torch.testing.assert_close(output.double(), logits.softmax(-1) @ v.double(), **tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("form", [flash, products])
@given(lengths=st.tuples(*4 * [st.integers(1, 40)]))
def test_forms_are_softmax_attention(form, dtype, lengths):
    """At all numbers of queries and keys, and for values narrower or wider than queries."""
    assert_attention(form, *draw(*lengths, dtype))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_is_softmax_attention():
    """On the CPU and not compiled: torch compiles its log-sum-exp for GPUs only."""
    assert_attention(flex, *draw(50, 40, 32, 16, torch.float32))


@pytest.mark.parametrize("form", [flash, products])
def test_keys_that_are_absent_count_nothing(form):
    q, k, v, bias = draw(5, 7, 4, 4)
    bias[:, 4:] = -torch.inf
    for found, wanted in zip(form(q, k, v, bias), form(q, k[:, :4], v[:, :4], bias[:, :4])):
        torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


def test_products_do_not_leave_the_range_of_numbers():
    q, k, v, bias = draw(5, 7, 4, 4)
    assert_attention(products, 100 * q, 100 * k, v, bias - 1e4)


def slow(*inputs):
    time.sleep(0.05)
    return products(*inputs)


def wrong(*inputs):
    output, log_sum = products(*inputs)
    return 2 * output, log_sum


def broken(*inputs):
    raise ValueError("no compiler was found\nmore lines")


@pytest.mark.parametrize(
    ("compiled", "said"),
    [
        (broken, "cannot be compiled (no compiler was found); matrix products are used"),
        (wrong, "gives other numbers than matrix products; matrix products are used"),
        (slow, "of the time of matrix products; matrix products are used"),
        (products, "of the time of matrix products; flex_attention is used"),
    ],
)
def test_the_compiled_form_serves_if_it_works_and_is_faster(compiled, said, monkeypatch, capsys):
    """What it says is one line."""
    wanted = compiled if said.endswith("flex_attention is used") else products
    monkeypatch.setattr(torch, "compile", lambda function: compiled)
    if wanted is compiled:
        monkeypatch.setattr(lse_attention, "products", slow)
    assert faster(*draw(6, 5, 16, 16, torch.float32)) is wanted
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("attention on cpu, (3, 6, 16) x 5: ") and line.endswith(said)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("form", [products, lambda *inputs: torch.compile(flex)(*inputs)])
def test_forms_on_a_gpu(form):
    def there(*inputs):
        return [x.cpu() for x in form(*(x.cuda() for x in inputs))]

    assert_attention(there, *draw(300, 200, 32, 32, torch.float32))
