"""Let a pretrained transformer write whose attention is rebuilt from neurons and astrocytes."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from tripartite import job
from tripartite.contracts import UserError
from tripartite.heads import dataset, progress
from tripartite.kinds.writing import measures
from tripartite.kinds.writing.streaming import (
    REFERENCES,
    Part,
    Stream,
    chosen_tokens,
    continued,
    kept,
    network_stream,
)
from tripartite.pretrained import extraction
from tripartite.pretrained.extraction import Transformer
from tripartite.pretrained.tokenizers import bytes_of
from tripartite.rebuilding import Fit, Synapses, fit_layer, random_layer
from tripartite.statistics import over_clusters
from tripartite.streams import stream

DTYPE = torch.float32
# Of the networks that write side by side: weights of the model are read once for all of them.
GROUP_BYTES = 500_000_000


Ids = tuple[int, ...]  # of tokens


# Tokens such as <|endoftext|> and <file_sep>; a word of a text has no signs beside letters.
# ASSUME: marks of ends of texts and of roles are not written, so that all texts are as long.
MARK = re.compile(r"<\|?[a-z]\w*\|?>")


class Network(NamedTuple):
    """What stands for the attention: a recipe, neurons and draw, or a reference without these."""

    name: str
    m: int = 0
    draw: int = 0


class Text(NamedTuple):
    """A text that is to be written."""

    network: Network
    temperature: float
    draw: int  # of the random numbers of its choices
    prompt: str


def write(
    raw: list[Path],
    model: str,
    title: str,
    wheel: str,
    prompts: list[str],
    temperatures: list[float],
    n_tokens: int,
    recipes: list[str],
    n_features: list[int],
    n_seeds: int,
    calibrated_on: list[str],
    inputs: list[str],
    sha256: dict[str, str],
    seed: int,
    data_of: str,
    workers: int,
) -> xr.Dataset:
    """Return what the transformer writes with each network and reference for its attention.

    raw, title, wheel, inputs and sha256 are as in generate. Recipes are fitted to the inputs that
    calibrate; the others are scored for comparison. Means have 95 % intervals over seeds and
    prompts, crossed. Computed in float32, probabilities in float64. UserError where an input cannot
    be read or a prompt has characters that the model does not know.
    """
    inputs = [name for name in inputs if name not in calibrated_on]
    archives, texts = job.open_sources(raw, sha256)
    try:
        contents = extraction.contents(model, [*calibrated_on, *inputs], texts, archives)
        transformer = extraction.open_model(model, archives[wheel], DTYPE)
        read = [transformer.read(contents[name])[:2] for name in calibrated_on]
    except (ValueError, KeyError) as error:
        raise UserError(f"model {model}: {error}") from error
    ids = {prompt: tokens_of(transformer, model, prompt) for prompt in prompts}
    seeds, n_layers = range(n_seeds), len(transformer.layers)
    n_heads, _, d_head = read[0][0].shape[1:]
    choices = {
        (draw, prompt): torch.from_numpy(stream(seed, data_of, "choices", draw, prompt).random(n))
        for draw, prompt, n in product(seeds, prompts, [n_tokens])
    }
    known = measures.whole_words(transformer.tokens)

    def fit_of(case: tuple[str, int]) -> Fit:
        recipe, layer = case
        return fit_layer([(q[layer], k[layer]) for q, k in read], recipe, causal=True)

    def stream_of(network: Network, n_rows: int, layer: int) -> Stream:
        """What stands in a layer for the attention of some rows."""
        if not network.m:
            return REFERENCES[network.name]()

        def random(head: int, name: str) -> np.random.Generator:
            return stream(seed, data_of, name, network.draw, layer, head)

        fit = fits[network.name, layer]
        synapses = Synapses(n_heads * n_rows, network.m, d_head, DTYPE)
        return network_stream(random_layer(fit, random, network.m, DTYPE), synapses)

    def of_group(numbered: tuple[int, list[Text]]) -> list[list[int]]:
        number, group = numbered
        words = f"write, part {number} of {len(groups)}"
        own = [ids[text.prompt] for text in group]
        drawn = torch.stack([choices[text.draw, text.prompt] for text in group])
        shown = partial(progress, what=words, unit="tokens")
        parts = [*parts_of(group, n_layers, stream_of)]
        return continued(
            transformer, parts, own, n_tokens, chooser(transformer, group, drawn), shown
        )

    def scores_of(prompt: Ids, written: Ids) -> tuple[float, ...]:
        text = decoded(transformer, written)
        return (
            measures.bits_per_character(transformer, prompt, written),
            measures.distinct_pairs(text),
            measures.known_words(text, known),
        )

    references = [
        Text(Network(name), temperature, draw, prompt)
        for name, temperature, draw, prompt in product(REFERENCES, temperatures, seeds, prompts)
    ]
    rebuilt = [
        Text(Network(recipe, m, draw), temperature, draw, prompt)
        for recipe, m, temperature, draw, prompt in product(
            recipes, n_features, temperatures, seeds, prompts
        )
    ]
    groups = side_by_side([*references, *rebuilt], 4 * n_layers * n_heads * d_head)
    with ThreadPoolExecutor(workers) as pool:
        cases = [*product(recipes, range(n_layers))]
        fits = dict(zip(cases, pool.map(fit_of, cases)))
        found = [tuple(x) for y in pool.map(of_group, enumerate(groups, 1)) for x in y]
        written = dict(zip((text for group in groups for text in group), found))
        human = [
            cut(tokens_of(transformer, model, contents[x].decode()), len(ids[prompts[0]]), n_tokens)
            for x in inputs
        ]
        pairs = [*dict.fromkeys([(ids[text.prompt], x) for text, x in written.items()] + human)]
        scored = progress(pool.map(scores_of, *zip(*pairs)), "write, scores", "texts", len(pairs))
        scores = dict(zip(pairs, scored))

    result: dict[str, object] = {
        "input_score": np.array([scores[pair] for pair in human]).T,
        "state_size": [m * (d_head + 1) for m in n_features],
        "reference_state_size": [
            [kept(name, d_head, len(ids[prompt]) + n_tokens) for prompt in prompts]
            for name in REFERENCES
        ],
    }
    shape = len(temperatures), n_seeds, len(prompts)
    for name, first, part in (
        ("reference_", (len(REFERENCES),), references),
        ("", (len(recipes), len(n_features)), rebuilt),
    ):
        texts_of_part = np.array([decoded(transformer, written[text]) for text in part], object)
        values = np.array([scores[ids[text.prompt], written[text]] for text in part])
        values = np.moveaxis(values, -1, 0).reshape(-1, *first, *shape)
        result[f"{name}text"] = texts_of_part.reshape(*first, *shape)
        result[f"{name}score"] = values
        rng = stream(seed, data_of, "intervals", name)
        result[f"{name}mean_score"] = mean_over(values, rng)
    coords = {
        "measure": [*measures.MEASURES],
        "recipe": recipes,
        "n_features": n_features,
        "reference": [*REFERENCES],
        "temperature": temperatures,
        "seed": seeds,
        "prompt": prompts,
        "input": inputs,
    }
    return dataset("writing", result, coords, data=title)


def tokens_of(transformer: Transformer, model: str, prompt: str) -> Ids:
    """The tokens of a prompt; UserError where the model cannot write, or not after this prompt."""
    if transformer.embed is None or transformer.encode is None or transformer.token_logits is None:
        raise UserError(
            f"model {model}: cannot write, as it does not predict the next token; choose a causal "
            "language model, such as smollm2"
        )
    try:
        ids = tuple(transformer.encode(prompt))
    except ValueError as error:
        raise UserError(f"prompts: {prompt[:40]!r}: {error}") from error
    if not ids:
        raise UserError("prompts: one is empty; write the text that is to be continued")
    return ids


def cut(ids: Sequence[int], n_prompt: int, n_tokens: int) -> tuple[Ids, Ids]:
    """The first tokens of a text for a prompt, and the n_tokens that follow; at least one stays."""
    n_prompt = max(1, min(n_prompt, len(ids) - 1))
    return tuple(ids[:n_prompt]), tuple(ids[n_prompt : n_prompt + n_tokens])


def side_by_side(texts: Sequence[Text], bytes_per_neuron: int) -> list[list[Text]]:
    """Texts in groups that are written at once, in order, each with networks of some 500 MB.

    bytes_per_neuron: of the hidden weights of one neuron in each head of the model; its synapses
    take as much for each text.
    """
    groups: list[list[Text]] = [[]]
    size, drawn = 0, set[Network]()
    for text in sorted(texts, key=lambda text: text.network):
        needed = bytes_per_neuron * text.network.m
        if groups[-1] and size + needed * (1 + (text.network not in drawn)) > GROUP_BYTES:
            groups.append([])
            size, drawn = 0, set()
        size += needed * (1 + (text.network not in drawn))
        drawn.add(text.network)
        groups[-1].append(text)
    return groups


def parts_of(
    group: Sequence[Text], n_layers: int, stream_of: Callable[[Network, int, int], Stream]
) -> Iterator[Part]:
    """The streams of each network of a group, and the rows that they serve."""
    networks = [text.network for text in group]
    for network in dict.fromkeys(networks):
        n, first = networks.count(network), networks.index(network)
        yield [stream_of(network, n, layer) for layer in range(n_layers)], slice(first, first + n)


def chooser(
    transformer: Transformer, group: Sequence[Text], uniform: Tensor
) -> Callable[[list[int], list[int], Tensor], Tensor]:
    """The choice of tokens of a group, as `continued` takes it, by random numbers [row, token]."""
    temperature = torch.tensor([text.temperature for text in group], dtype=torch.float64)
    marks = [i for i, name in enumerate(transformer.tokens) if MARK.fullmatch(name)]

    def choose(rows: list[int], which: list[int], logits: Tensor) -> Tensor:
        logits[:, marks] = -torch.inf
        return chosen_tokens(logits, temperature[rows], uniform[rows, which])

    return choose


def decoded(transformer: Transformer, ids: Sequence[int]) -> str:
    """The text of tokens, with a mark where bytes are no letter that can be shown."""
    text = bytes_of(transformer.tokens[i] for i in ids).decode("utf-8", "replace")
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def mean_over(values: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Means of scores [measure, ..., seed, prompt], with intervals over the last two axes."""
    crossed = np.moveaxis(values, (-2, -1), (0, 1))
    triple = over_clusters(lambda x: x.mean((0, 1)), crossed, [None, None], rng)
    most = np.array([np.inf, 1, 1]).reshape(-1, *[1] * (triple[0].ndim - 1))
    return tuple(np.clip(x, 0, most) for x in triple)
