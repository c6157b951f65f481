"""What a whole rebuilt network still does, beside the original.

A trial says which states enter the first layer, for each input, and scores the states that leave
the last one. An input has one batch of states or several, [variant, token, d_model], without
padding: the variants of a batch are equally long. Variant 0 of the first batch is the input as it
is, but for lists of sentence pairs. A measure has one number for each input, or none where it does
not apply. Shares are in [0, 1], cosines and rank correlations in [-1, 1], bits at least 0. The
original itself scores 1 in every share, cosine and rank correlation that compares with the
original, and 0 in the divergence from it.

Causal language models (llama) read texts:
- bits_per_character: -log2 p of tokens 2 to T, over the bytes of the text;
- likeliest_token_kept: share of places whose likeliest next token is that of the original;
- divergence: KL(original || rebuilt) of the next token in bits, mean over places.

Masked language models (albert) read reactions:
- masked_token_right: share of masked tokens that are the likeliest ones in their places. Every
  seventh token is masked, as many as in training (15 %; Devlin et al., NAACL 2019, 3.1), with seven
  offsets, so that each token but CLS and SEP is asked once. Chance: the token that is the most
  frequent one in the other reactions, in all places;
- masked_token_kept: share of masked tokens whose likeliest one is that of the original;
- likeliest_token_kept: the same of all tokens of the reaction without masks.

Encoders of sentences (bert) read texts and lists of sentence pairs. The embedding of a text is the
mean of the states of its tokens, CLS and SEP with them, as all-MiniLM-L6-v2 was trained (Reimers &
Gurevych, EMNLP 2019):
- embedding_cosine: cosine of the embedding with that of the original; of a list, mean over its
  sentences;
- rank_order_right: Spearman's rank correlation between the cosines of pairs of sentences and the
  labels of the list, which say from 0 to 5 how much alike the two are;
- rank_order_kept: the same between these cosines and those of the original.

Vision transformers (vit) read photographs, whole and their four quarters, each by itself:
- token_cosine: cosine of a token's state with that of the original, mean over the tokens of the
  whole photograph;
- class_cosine: the same of the class token;
- neighbour_right: share of quarters whose nearest other quarter, of all photographs, is one of the
  same photograph. Nearest by the cosine of class tokens. Chance: 3 of all others;
- neighbour_kept: share of quarters whose nearest other quarter is the one that the original finds.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import normalize

from tripartite.pretrained.extraction import Transformer, picture

States = dict[str, list[Tensor]]  # by input: [variant, token, d_model], batch by batch
Scores = dict[str, dict[str, float]]  # by measure and input

MASK = "[MASK]"
PAIRS = ".pairs"  # at the end of the names of lists of sentence pairs
APART = 7  # tokens from one mask to the next
QUARTER = 112  # pixels, 8 patches: one side of a quarter of what the vision transformer reads
QUARTERS = [(top, left) for top in (0, QUARTER) for left in (0, QUARTER)]

LABELS = {  # of measures, in figures
    "bits_per_character": "bits per character",
    "likeliest_token_kept": "likeliest token kept (share)",
    "divergence": "divergence from the original (bits per token)",
    "masked_token_right": "masked token right (share)",
    "masked_token_kept": "likeliest masked token kept (share)",
    "embedding_cosine": "cosine of embeddings",
    "rank_order_right": "rank correlation with labels of pairs",
    "rank_order_kept": "rank correlation with the original",
    "token_cosine": "cosine of tokens",
    "class_cosine": "cosine of class tokens",
    "neighbour_right": "nearest quarter of same photograph (share)",
    "neighbour_kept": "nearest quarter kept (share)",
}


class Trial(NamedTuple):
    """How a whole network is tried on some inputs.

    entering: the states that enter the first layer. against takes the states that leave the last
    layer of the original; it returns a function that scores those that leave the last layer of
    another network. chance: scores of a guess that reads nothing, of the measures that have one.
    """

    entering: States
    against: Callable[[States], Callable[[States], Scores]]
    chance: Scores


class Pair(NamedTuple):
    """Two sentences, and how much alike they are, from 0 to 5."""

    label: float
    first: str
    second: str


def trial(architecture: str, transformer: Transformer, contents: dict[str, bytes]) -> Trial:
    """The trial of a model of an architecture on inputs, by their names and bytes.

    Those of an encoder of sentences whose names end with .pairs are lists of sentence pairs.
    ValueError names the list with a fault.
    """
    return TRIALS[architecture](transformer, contents)


def _scores(of_inputs: dict[str, dict[str, float]]) -> Scores:
    """By measure and input, of numbers by input and measure."""
    measures = dict.fromkeys(name for scores in of_inputs.values() for name in scores)
    return {
        measure: {name: scores[measure] for name, scores in of_inputs.items() if measure in scores}
        for measure in measures
    }


# Causal language models.


def of_texts(transformer: Transformer, contents: dict[str, bytes]) -> Trial:
    """Trial of a causal language model on texts."""
    encode, token_logits = transformer.encode, transformer.token_logits
    assert encode and token_logits  # it reads texts
    ids = {name: encode(content.decode()) for name, content in contents.items()}

    def log_p(states: States, name: str) -> Tensor:
        """ln of the probability of the next token [token - 1, vocabulary]."""
        x = transformer.final(states[name][0][0, :-1])
        return token_logits(x).log_softmax(-1)

    def against(exact: States) -> Callable[[States], Scores]:
        original = {name: log_p(exact, name) for name in ids}

        def score(states: States) -> Scores:
            found = {}
            for name, was in original.items():
                now = log_p(states, name)
                found[name] = {
                    "bits_per_character": bits_per_character(
                        now, ids[name][1:], len(contents[name])
                    ),
                    "likeliest_token_kept": likeliest_kept(now, was),
                    "divergence": divergence(now, was),
                }
            return _scores(found)

        return score

    return Trial({name: [transformer.embed(x)[None]] for name, x in ids.items()}, against, {})


def bits_per_character(log_p: Tensor, following: list[int], n_bytes: int) -> float:
    """-log2 of the probability of the tokens that follow, over the bytes of the whole text; >= 0.

    log_p [token - 1, vocabulary], natural logs; following are tokens 2 to T.
    """
    of_each = log_p[torch.arange(len(following)), following]
    return -float(of_each.double().sum()) / math.log(2) / n_bytes


def likeliest_kept(x: Tensor, original: Tensor) -> float:
    """Share of places, in [0, 1], whose likeliest token is that of the original.

    x and original [..., vocabulary] are logits or ln of probabilities.
    """
    return float((x.argmax(-1) == original.argmax(-1)).double().mean())


def divergence(log_p: Tensor, original: Tensor) -> float:
    """KL(original || rebuilt) in bits, mean over places; >= 0, 0 for the original itself.

    log_p and original [place, vocabulary] are natural logs of probabilities.
    """
    return float((original.exp() * (original - log_p)).sum(-1).double().mean()) / math.log(2)


# Masked language models.


def of_reactions(transformer: Transformer, contents: dict[str, bytes]) -> Trial:
    """Trial of a masked language model on reactions."""
    encode, token_logits = transformer.encode, transformer.token_logits
    assert encode and token_logits  # it reads texts
    ids = {name: encode(content.decode()) for name, content in contents.items()}
    mask = transformer.tokens.index(MASK)
    hidden = {name: masks(len(x)) for name, x in ids.items()}
    entering = {
        name: [
            torch.stack(
                [
                    transformer.embed(torch.where(row, mask, torch.tensor(x)).tolist())
                    for row in rows
                ]
            )
        ]
        for (name, x), rows in zip(ids.items(), hidden.values())
    }

    def likeliest(states: States, name: str) -> tuple[Tensor, Tensor]:
        """The likeliest tokens [token] without masks, and those in the places of masks."""
        found = token_logits(transformer.final(states[name][0])).argmax(-1)
        return found[0], found[hidden[name]]

    def against(exact: States) -> Callable[[States], Scores]:
        original = {name: likeliest(exact, name) for name in ids}

        def score(states: States) -> Scores:
            found = {}
            for name, was in original.items():
                now = likeliest(states, name)
                right = torch.tensor(ids[name]).expand_as(hidden[name])[hidden[name]]
                found[name] = {
                    "masked_token_right": share_equal(now[1], right),
                    "masked_token_kept": share_equal(now[1], was[1]),
                    "likeliest_token_kept": share_equal(now[0], was[0]),
                }
            return _scores(found)

        return score

    return Trial(entering, against, {"masked_token_right": most_frequent_right(ids)})


def masks(n_tokens: int) -> Tensor:
    """Which tokens are masked [variant, token]: none in the first variant.

    Each token but the first and the last is masked in one of the others, every APART-th at a time.
    """
    place = torch.arange(n_tokens)
    inner = (place > 0) & (place < n_tokens - 1)
    rows = [inner & (place % APART == offset) for offset in range(APART)]
    return torch.stack([torch.zeros_like(inner), *(row for row in rows if row.any())])


def share_equal(a: Tensor, b: Tensor) -> float:
    """Share of places, in [0, 1], where two tensors are equal."""
    return float((a == b).double().mean())


def most_frequent_right(ids: dict[str, list[int]]) -> dict[str, float]:
    """Share of tokens of a reaction, but CLS and SEP, that are the most frequent one of the others.

    Of equally frequent ones the first that was read is taken. No reaction has a share if there is
    but one.
    """
    inner = {name: x[1:-1] for name, x in ids.items()}
    found = {}
    for name, own in inner.items():
        if others := [i for other, x in inner.items() if other != name for i in x]:
            ((guess, _),) = Counter(others).most_common(1)
            found[name] = own.count(guess) / len(own)
    return found


# Encoders of sentences.


def of_sentences(transformer: Transformer, contents: dict[str, bytes]) -> Trial:
    """Trial of an encoder of sentences on texts and lists of sentence pairs.

    The sentences of a list stand in batches of equal length, those of the first halves of all pairs
    before those of the second ones.
    """
    pairs = {name: read_pairs(name, x) for name, x in contents.items() if name.endswith(PAIRS)}
    texts = {name: [content.decode()] for name, content in contents.items()}
    for name, listed in pairs.items():
        texts[name] = [pair.first for pair in listed] + [pair.second for pair in listed]
    entering: States = {}
    order: dict[str, Tensor] = {}  # of the sentences, in the batches
    for name, sentences in texts.items():
        assert transformer.encode  # it reads texts
        ids = [transformer.encode(sentence) for sentence in sentences]
        lengths = sorted({len(x) for x in ids})
        batches = [[i for i, x in enumerate(ids) if len(x) == length] for length in lengths]
        entering[name] = [
            torch.stack([transformer.embed(ids[i]) for i in batch]) for batch in batches
        ]
        order[name] = torch.tensor([i for batch in batches for i in batch])

    def embeddings(states: States, name: str) -> Tensor:
        """Embeddings [sentence, d_model] in the order of the list."""
        found = torch.cat([embedding(transformer.final(x)) for x in states[name]])
        return found[order[name].argsort()]

    def against(exact: States) -> Callable[[States], Scores]:
        original = {name: embeddings(exact, name) for name in texts}

        def score(states: States) -> Scores:
            found = {}
            for name, was in original.items():
                now = embeddings(states, name)
                found[name] = {"embedding_cosine": float(cosine(now, was).mean())}
                if name in pairs:
                    alike = cosine(*now.chunk(2))
                    labels = torch.tensor([pair.label for pair in pairs[name]])
                    found[name]["rank_order_right"] = rank_correlation(alike, labels)
                    kept = rank_correlation(alike, cosine(*was.chunk(2)))
                    found[name]["rank_order_kept"] = kept
            return _scores(found)

        return score

    return Trial(entering, against, {"rank_order_right": dict.fromkeys(pairs, 0.0)})


def read_pairs(name: str, content: bytes) -> list[Pair]:
    """The sentence pairs of a list: a line with names, then label, first and second by tabs.

    ValueError names the list and the line that is no pair.
    """
    lines = content.decode().splitlines()
    pairs = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            label, first, second = line.split("\t")
            pairs.append(Pair(float(label), first, second))
        except ValueError:
            raise ValueError(
                f"pairs {name}: line {number}: got {line[:60]!r}, wanted a number and two "
                "sentences, with tabs between them"
            ) from None
    if len({pair.label for pair in pairs}) < 2:
        raise ValueError(f"pairs {name}: has no two labels, so that its pairs have no order")
    return pairs


def embedding(states: Tensor) -> Tensor:
    """Embeddings [sentence, d_model] of unit length, of states [sentence, token, d_model]."""
    return normalize(states.double().mean(-2), dim=-1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine [...] of vectors [..., D], in [-1, 1]; exactly 1 for equal ones.

    1 - |a - b|^2 / 2 of unit vectors, which is more exact near 1 than their product.
    """
    a, b = (normalize(x.double(), dim=-1) for x in (a, b))
    return 1 - (a - b).square().sum(-1) / 2


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation in [-1, 1], equal numbers sharing their mean rank.

    0 if either does not vary, as no order is told then.
    """
    if len(a.unique()) < 2 or len(b.unique()) < 2:
        return 0.0
    return float(spearmanr(a.numpy(), b.numpy()).statistic)


# Vision transformers.


def of_photographs(transformer: Transformer, contents: dict[str, bytes]) -> Trial:
    """Trial of a vision transformer on photographs."""
    entering = {}
    for name, content in contents.items():
        image = picture(content)
        quarters = [image[:, top : top + QUARTER, left : left + QUARTER] for top, left in QUARTERS]
        entering[name] = [
            transformer.embed(image)[None],
            torch.stack([transformer.embed(quarter) for quarter in quarters]),
        ]

    def nearest(states: States) -> Tensor:
        """The number of the nearest other quarter, of all quarters [photograph, quarter]."""
        tokens = [transformer.final(states[name][1])[:, 0] for name in contents]
        return nearest_others(torch.cat(tokens)).unflatten(0, (len(contents), -1))

    def against(exact: States) -> Callable[[States], Scores]:
        original = {name: transformer.final(exact[name][0][0]) for name in contents}
        was_nearest = nearest(exact)

        def score(states: States) -> Scores:
            found = {}
            now_nearest = nearest(states)
            for i, (name, was) in enumerate(original.items()):
                alike = cosine(transformer.final(states[name][0][0]), was)
                found[name] = {
                    "token_cosine": float(alike.mean()),
                    "class_cosine": float(alike[0]),
                }
                if len(contents) > 1:
                    own = now_nearest[i] // len(QUARTERS)
                    found[name]["neighbour_right"] = share_equal(own, torch.tensor(i))
                    kept = share_equal(now_nearest[i], was_nearest[i])
                    found[name]["neighbour_kept"] = kept
            return _scores(found)

        return score

    chance: Scores = {}
    if len(contents) > 1:
        n_others = len(contents) * len(QUARTERS) - 1
        right = (len(QUARTERS) - 1) / n_others
        chance["neighbour_right"] = dict.fromkeys(contents, right)
        chance["neighbour_kept"] = dict.fromkeys(contents, 1 / n_others)
    return Trial(entering, against, chance)


def nearest_others(x: Tensor) -> Tensor:
    """For each vector of x [n, D] the number [n] of that other one with the highest cosine."""
    unit = normalize(x.double(), dim=-1)
    alike = unit @ unit.T
    return alike.fill_diagonal_(-torch.inf).argmax(-1)


TRIALS: dict[str, Callable[[Transformer, dict[str, bytes]], Trial]] = {
    "albert": of_reactions,
    "bert": of_sentences,
    "llama": of_texts,
    "vit": of_photographs,
}
