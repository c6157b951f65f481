"""Pretrained transformers read with plain tensors, for the queries, keys and values of every head.

- albert: one layer that is applied several times (Lan et al., ICLR 2020);
- bert: layers with weights of their own (Devlin et al., NAACL 2019);
- vit: a vision transformer (Dosovitskiy et al., ICLR 2021) of the DINOv2 layout (Oquab et al., TMLR
  2024): pre-norm, with LayerScale;
- llama: pre-norm with root mean squares, queries and keys rotated by their positions, a gated
  feed-forward (Touvron et al., arXiv 2302.13971, 2023), keys and values that several heads share
  (Ainslie et al., EMNLP 2023).

Weights are dicts of tensors under the names that Hugging Face gives them, without the prefix of the
whole model, or under those of a GGUF file. Each function reads one input with a model of its
architecture (registry.py has its sizes) and returns q, k, v [layer, head, token, d_head] and
hidden, the states of all tokens: what enters the first layer, what leaves each, and last the output
of the model. All but llama use the exact GELU. q and k are divided by d_head^(1/4) each, so that
q . k is the logit of the softmax attention; v is as it is. A key and a value that several heads
share stand once for each of them. Dropout is off, and there is no padding. Another attention can
take the place of softmax, in the order of the model, in all layers: a function of the layer, from
0, and its q, k, v [head, token, d_head] that gives the heads' outputs, shaped as v. Layers can also
be run one by one, on states of several variants at once, an axis before [token, d_model].
"""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, gelu, interpolate, layer_norm, linear, rms_norm, silu

from tripartite.pretrained.checkpoints import Node
from tripartite.registry import Model

Weights = dict[str, Tensor]
Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
States = tuple[Tensor, Tensor, Tensor, Tensor]
# States [..., token, d_model] that enter, an attention of q, k, v, and of a llama `first`, place
# of the first token -> states that leave, q, k, v
Layer = Callable[..., tuple[Tensor, ...]]

# The parts of a layer under one name; the checkpoints' names are on the right.
ALBERT_LAYER = "encoder.albert_layer_groups.0.albert_layers.0."
ALBERT_PARTS = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "dense": "attention.dense",
    "norm1": "attention.LayerNorm",
    "up": "ffn",
    "down": "ffn_output",
    "norm2": "full_layer_layer_norm",
}
BERT_LAYER = "encoder.layer.{}."
BERT_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "dense": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
VIT_LAYER = "encoder.layer.{}."
VIT_PARTS = {
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "dense": "attention.output.dense",
    "norm1": "norm1",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
    "norm2": "norm2",
}
VIT_SCALES = ("layer_scale1.lambda1", "layer_scale2.lambda1")
LLAMA_LAYER = "blk.{}."
LLAMA_PARTS = {
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "dense": "attn_output",
    "norm1": "attn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "norm2": "ffn_norm",
}
LAYERS = {
    "albert": (ALBERT_LAYER, ALBERT_PARTS),
    "bert": (BERT_LAYER, BERT_PARTS),
    "llama": (LLAMA_LAYER, LLAMA_PARTS),
    "vit": (VIT_LAYER, VIT_PARTS),
}
PRE_NORM = ("vit",)  # architectures whose attention reads its input through a layer norm

RESIZED, CROPPED = 256, 224  # pixels
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # red, green, blue of ImageNet


def softmax_attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the outputs [..., head, token, d_head] of all heads (Vaswani et al., 2017, eq. 1)."""
    return torch.softmax(q @ k.mT, dim=-1) @ v


def causal_attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same where a query reads the keys up to itself alone."""
    logits = q @ k.mT
    later = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
    return torch.softmax(logits.masked_fill(later, -torch.inf), dim=-1) @ v


ATTENTION: dict[str, Attention] = {"bidirectional": softmax_attention, "causal": causal_attention}
# What the fields of a GGUF file say, by the name of its architecture, and the key of the model.
GGUF_FIELDS = {
    "block_count": "layers",
    "attention.head_count": "heads",
    "rope.dimension_count": "d_head",
    "attention.layer_norm_rms_epsilon": "eps",
    "rope.freq_base": "rotary_base",
}


def check_fields(model: Model, fields: dict[str, Any]) -> None:
    """ValueError where a model declares other numbers than the fields of its GGUF file, if any."""
    architecture = fields.get("general.architecture", model.architecture)
    if architecture != model.architecture:
        raise ValueError(
            f"{model.file}: architecture: got {model.architecture}, the checkpoint is a "
            f"{architecture}"
        )
    for field, key in GGUF_FIELDS.items():
        declared = getattr(model, key)
        value = fields.get(f"{architecture}.{field}", declared)
        # a list where layers differ
        if isinstance(value, list) or not math.isclose(value, declared, rel_tol=1e-6):
            raise ValueError(f"{model.file}: {key}: got {declared}, the checkpoint says {value}")
    _check_tokens(model, fields.get(f"{architecture}.context_length", model.tokens))


def _check_tokens(model: Model, n_places: int) -> None:
    if n_places < model.tokens:
        raise ValueError(
            f"{model.file}: tokens: got {model.tokens}, the checkpoint reads at most {n_places}"
        )


def check_sizes(model: Model, weights: Weights) -> None:
    """ValueError where a checkpoint has other sizes than its model declares."""
    layer, parts = LAYERS[model.architecture]
    if "{}" in layer:
        pattern = re.escape(layer).replace(r"\{\}", "([0-9]+)")
        layers = {found[1] for name in weights if (found := re.match(pattern, name))}
        if len(layers) != model.layers:
            raise ValueError(
                f"{model.file}: layers: got {model.layers}, the checkpoint has {len(layers)}"
            )
    width = len(weights[f"{layer.format(0)}{parts['query']}.weight"])
    if width != model.heads * model.d_head:
        raise ValueError(
            f"{model.file}: heads and d_head: got {model.heads} and {model.d_head}, the queries of "
            f"the checkpoint have {width} numbers together"
        )
    if model.tokenizer and model.architecture != "llama":  # which has no table of positions
        _check_tokens(model, len(weights["embeddings.position_embeddings.weight"]))


def albert(
    model: Model, weights: Weights, ids: list[int], attention: Attention | None = None
) -> States:
    """Return q, k, v and hidden [layer + 1, token, d_model] of ALBERT reading the tokens `ids`."""
    return _stack(model, weights, embed(model, weights, ids), attention)


def albert_token_logits(model: Model, weights: Weights, hidden: Tensor) -> Tensor:
    """Return the logits of the masked-token head: hidden [..., d_model] -> [..., vocabulary]."""
    x = gelu(_linear(weights, "predictions.dense", hidden))
    x = _norm(weights, "predictions.LayerNorm", x, model.eps)
    return _linear(weights, "predictions.decoder", x)


def bert(
    model: Model, weights: Weights, ids: list[int], attention: Attention | None = None
) -> States:
    """Return q, k, v and hidden [layer + 1, token, d_model] of BERT reading the tokens `ids`."""
    return _stack(model, weights, embed(model, weights, ids), attention)


def llama(
    model: Model, weights: Weights, ids: list[int], attention: Attention | None = None
) -> States:
    """Return q, k, v and hidden [layer + 2, token, d_model] of a llama reading the tokens `ids`.

    The last of hidden is the last but one after the final norm. k and v stand once for each query
    head that reads them.
    """
    q, k, v, hidden = _stack(model, weights, embed(model, weights, ids), attention)
    return q, k, v, torch.cat([hidden, final(model, weights, hidden[-1])[None]])


def llama_token_logits(weights: Weights, hidden: Tensor) -> Tensor:
    """Return the logits of the next token: hidden [..., d_model] -> [..., vocabulary]."""
    return linear(hidden, weights["token_embd.weight"])


def vit(
    model: Model, weights: Weights, image: Tensor, attention: Attention | None = None
) -> States:
    """Return q, k, v and hidden [layer + 2, token, d_model] of the vision transformer.

    image [3, height, width] is normalised; height and width are multiples of the patch size. Token
    0 is the class token, the others are patches, row by row. The last of hidden is the last but one
    after the final layer norm.
    """
    q, k, v, hidden = _stack(model, weights, embed(model, weights, image), attention)
    return q, k, v, torch.cat([hidden, final(model, weights, hidden[-1])[None]])


def embed(model: Model, weights: Weights, content: list[int] | Tensor) -> Tensor:
    """The states [token, d_model] that enter the first layer, of ids of tokens or of an image."""
    if isinstance(content, Tensor):
        return _patches(weights, content)
    if model.architecture == "llama":
        return weights["token_embd.weight"][content]
    x = _words(weights, content, model.eps)
    if model.architecture == "albert":  # [token, d_embedding] -> [token, d_model]
        x = _linear(weights, "encoder.embedding_hidden_mapping_in", x)
    return x


def layers(model: Model, weights: Weights) -> list[Layer]:
    """The layers of a model, in order; ALBERT's is the same each time."""
    prefix, parts = LAYERS[model.architecture]
    block = {"llama": _llama_layer, "vit": _pre_norm}.get(model.architecture, _post_norm)
    kinds = ("weight",) if model.architecture == "llama" else ("weight", "bias")
    found: list[Layer] = []
    for i in range(model.layers):
        layer = _layer(weights, prefix.format(i), parts, kinds)
        if model.architecture == "vit":
            for scale, part in zip(VIT_SCALES, ("dense", "down")):
                # LayerScale: a factor for each channel, folded into the linear map before it.
                factor = weights[prefix.format(i) + scale]
                layer[f"{part}.weight"] = factor[:, None] * layer[f"{part}.weight"]
                layer[f"{part}.bias"] = factor * layer[f"{part}.bias"]
        found.append(partial(block, model, layer))
    return found


def final(model: Model, weights: Weights, x: Tensor) -> Tensor:
    """The output of a model, of the states that leave its last layer; the same if post-norm."""
    if model.architecture == "llama":
        return rms_norm(x, x.shape[-1:], weights["output_norm.weight"], model.eps)
    return _norm(weights, "layernorm", x, model.eps) if model.architecture == "vit" else x


def fresh_queries_keys(
    model: Model, hidden: Tensor, rng: Callable[[str, int], np.random.Generator]
) -> tuple[Tensor, Tensor]:
    """Return q and k [layer, head, token, d_head] of untrained projections of a model's own states.

    hidden [layer + 1 or more, token, d_model] is what enters each layer. rng gives the random
    numbers of "query" or "key" in a layer; layers that share their weights share these as well.
    Weights and biases are uniform within +-d_model^-1/2, as torch.nn.Linear draws them; a layer
    norm before attention has weight 1 and bias 0. Behind such a norm every entry has mean 0 and
    variance (1 + 1 / d_model) / 3 over draws, whatever was read, so that after the scaling by
    d_head^-1/4 the mean of |q|^2 is (1 + 1 / d_model) d_head^1/2 / 3, and so is that of |k|^2.
    """
    d_model = hidden.shape[-1]
    bound, width = d_model**-0.5, model.heads * model.d_head
    projected: dict[str, list[Tensor]] = {"query": [], "key": []}
    for i, x in enumerate(hidden[: model.layers]):
        if model.architecture in PRE_NORM:
            x = layer_norm(x, x.shape[-1:], eps=model.eps)
        for part, of_layers in projected.items():
            numbers = rng(part, 0 if model.shared_layers else i).uniform(
                -bound, bound, (width, d_model + 1)
            )
            drawn = torch.from_numpy(numbers).to(x)
            y = linear(x, drawn[:, :-1], drawn[:, -1])  # [token, head * d_head]
            of_layers.append(y.unflatten(-1, (model.heads, -1)).movedim(-2, 0))
    q, k = (torch.stack(of_layers) / model.d_head**0.25 for of_layers in projected.values())
    return q, k


def vit_weights(model: Model, initialisers: Weights, nodes: list[Node]) -> Weights:
    """Return a vision transformer's weights from an ONNX graph, named as in DINOv2.

    The export keeps the names of biases, norms and scales, after a prefix, and those of no
    matrices: each is found as the initialiser of the MatMul that feeds the Add with its bias, and
    transposed. The position embeddings are the nameless [1, 1, d_model] and [1, patches, d_model].
    ValueError if the graph has another layout.
    """
    prefix = model.prefix
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in initialisers.items()
        if name.startswith(prefix)
    }
    matrices = {
        node.outputs[0]: initialisers[node.inputs[1]]
        for node in nodes
        if node.operation == "MatMul" and node.inputs[1] in initialisers
    }
    for node in nodes:
        bias = next((name for name in node.inputs if name.startswith(prefix)), "")
        matrix = next((matrices[name] for name in node.inputs if name in matrices), None)
        if node.operation == "Add" and matrix is not None and bias.endswith(".bias"):
            weights[bias.removeprefix(prefix).removesuffix("bias") + "weight"] = matrix.T
    nameless = [x for name, x in initialisers.items() if "." not in name and x.dim() == 3]
    if sorted(x.shape[1] == 1 for x in nameless) != [False, True]:
        raise ValueError("the graph does not have the two position embeddings of a DINOv2 export")
    nameless.sort(key=lambda x: x.shape[1])
    weights["embeddings.position_embeddings"] = torch.cat(nameless, dim=1)
    wanted = {
        VIT_LAYER.format(i) + name
        for i in range(model.layers)
        for name in (*(f"{part}.weight" for part in VIT_PARTS.values()), *VIT_SCALES)
    }
    if missing := sorted(wanted - weights.keys()):
        raise ValueError(f"the graph has no {missing[0]} ({len(missing)} weights are missing)")
    return weights


def photograph(image: Image.Image) -> Tensor:
    """Return a picture [3, 224, 224] as the vision transformer reads it.

    Three colours, shorter side resized to 256 pixels (bicubic), the middle 224 x 224 cut out,
    brightness normalised as in ImageNet.
    """
    size = [int(RESIZED * side / min(image.size)) for side in image.size]  # width, height
    image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - CROPPED) // 2, (image.height - CROPPED) // 2
    image = image.crop((left, top, left + CROPPED, top + CROPPED))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    pixels = pixels.reshape(CROPPED, CROPPED, 3).movedim(-1, 0) / 255  # [3, 224, 224]
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def _layer(weights: Weights, prefix: str, parts: dict[str, str], kinds: tuple[str, ...]) -> Weights:
    """Return the weights, and biases if it has any, of one layer under the names of its parts."""
    return {
        f"{part}.{kind}": weights[f"{prefix}{name}.{kind}"]
        for part, name in parts.items()
        for kind in kinds
    }


def _words(weights: Weights, ids: list[int], eps: float) -> Tensor:
    """Words, positions and the type of the first sentence, summed and normalised."""
    words = weights["embeddings.word_embeddings.weight"][ids]  # [token, d_embedding]
    positions = weights["embeddings.position_embeddings.weight"][: len(ids)]
    sentence = weights["embeddings.token_type_embeddings.weight"][0]
    return _norm(weights, "embeddings.LayerNorm", words + positions + sentence, eps)


def _patches(weights: Weights, image: Tensor) -> Tensor:
    """The class token and the patches of an image [3, height, width], with their positions."""
    patches = "embeddings.patch_embeddings.projection"
    kernel = weights[f"{patches}.weight"]
    x = conv2d(image, kernel, weights[f"{patches}.bias"], stride=kernel.shape[-1])
    rows, columns = x.shape[-2:]  # x [d_model, rows, columns]
    x = torch.cat([weights["embeddings.cls_token"][0], x.flatten(1).T])  # [token, d_model]
    return x + _positions(weights["embeddings.position_embeddings"][0], rows, columns)


def _positions(embeddings: Tensor, rows: int, columns: int) -> Tensor:
    """Position embeddings [1 + side^2, D], resized from a square grid -> [1 + rows columns, D]."""
    side = round((len(embeddings) - 1) ** 0.5)
    grid = embeddings[1:].T.reshape(1, -1, side, side)
    grid = interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([embeddings[:1], grid[0].flatten(1).T])


def _stack(model: Model, weights: Weights, x: Tensor, attention: Attention | None) -> States:
    """Run x [token, d_model] through the layers; q, k, v and hidden of all."""
    attention = attention or ATTENTION[model.order]
    heads, hidden = [], [x]
    for i, layer in enumerate(layers(model, weights)):
        x, *qkv = layer(x, partial(attention, i))
        heads.append(qkv)
        hidden.append(x)
    q, k, v = (torch.stack(tensors) for tensors in zip(*heads))  # [layer, head, token, d_head]
    return q, k, v, torch.stack(hidden)


def _post_norm(
    model: Model, layer: Weights, x: Tensor, attention: Callable[..., Tensor]
) -> tuple[Tensor, ...]:
    """x' = norm1(x + attention(x)), then norm2(x' + feed-forward(x')): BERT and ALBERT."""
    attended, *qkv = _attend(model, layer, x, attention)
    x = _norm(layer, "norm1", x + attended, model.eps)
    return _norm(layer, "norm2", x + _feed_forward(layer, x), model.eps), *qkv


def _pre_norm(
    model: Model, layer: Weights, x: Tensor, attention: Callable[..., Tensor]
) -> tuple[Tensor, ...]:
    """x' = x + attention(norm1(x)), then x' + feed-forward(norm2(x')): the vision transformer."""
    attended, *qkv = _attend(model, layer, _norm(layer, "norm1", x, model.eps), attention)
    x = x + attended
    return x + _feed_forward(layer, _norm(layer, "norm2", x, model.eps)), *qkv


def _llama_layer(
    model: Model, layer: Weights, x: Tensor, attention: Callable[..., Tensor], first: int = 0
) -> tuple[Tensor, ...]:
    """x' = x + attention(norm1(x)), then x' + down(silu(gate(y)) up(y)) of y = norm2(x').

    x [..., token, d_model] are tokens of a text from place `first` on.
    """

    def norm(part: str) -> Tensor:
        return rms_norm(x, x.shape[-1:], layer[f"{part}.weight"], model.eps)

    def project(part: str, y: Tensor) -> Tensor:
        return linear(y, layer[f"{part}.weight"])

    y = norm("norm1")
    q, k, v = (
        project(part, y).unflatten(-1, (-1, model.d_head)).transpose(-3, -2)
        for part in ("query", "key", "value")
    )
    root = model.d_head**0.25
    q, k = (rotate(z, model.rotary_base, first) / root for z in (q, k))
    k, v = (z.repeat_interleave(model.heads // z.shape[-3], dim=-3) for z in (k, v))
    output = attention(q, k, v)  # [..., head, token, d_head]
    x = x + project("dense", output.transpose(-3, -2).flatten(-2))
    y = norm("norm2")
    return x + project("down", silu(project("gate", y)) * project("up", y)), q, k, v


def rotate(x: Tensor, base: float, first: int = 0) -> Tensor:
    """Turn entries 2i and 2i + 1 of x [..., token, d_head] by place * base^(-2i / d_head).

    The places of the tokens are first, first + 1 and so on.

    The rotary embedding of positions (Su et al., Neurocomputing 2024, eq. 15): q . k depends on the
    distance of two tokens alone.
    """
    places = torch.arange(first, first + x.shape[-2], dtype=torch.float64)
    speeds = base ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    angles = torch.outer(places, speeds)  # [token, d_head / 2]
    cosine, sine = angles.cos().to(x), angles.sin().to(x)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)


def _attend(
    model: Model, layer: Weights, x: Tensor, attention: Callable[..., Tensor]
) -> tuple[Tensor, ...]:
    """What attention adds to x [..., token, d_model], and q, k, v [..., head, token, d_head]."""
    q, k, v = (
        _linear(layer, part, x).unflatten(-1, (model.heads, -1)).transpose(-3, -2)
        for part in ("query", "key", "value")
    )
    root = q.shape[-1] ** 0.25
    q, k = q / root, k / root
    output = attention(q, k, v)  # [..., head, token, d_head]
    return _linear(layer, "dense", output.transpose(-3, -2).flatten(-2)), q, k, v


def _feed_forward(layer: Weights, x: Tensor) -> Tensor:
    return _linear(layer, "down", gelu(_linear(layer, "up", x)))


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)
