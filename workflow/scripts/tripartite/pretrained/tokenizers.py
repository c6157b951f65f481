"""From text to token ids, as the pretrained models were trained to read it.

wordpiece is the uncased tokenizer of BERT (Devlin et al., NAACL 2019) and of the MiniLM distilled
from it; smiles that of the ALBERT of rxnmapper (Schwaller et al., Science Advances 2021);
byte_pairs that of SmolLM2 (Allal et al., arXiv 2502.02737), which is GPT-2's (Radford et al., 2019)
with digits one by one. A vocab maps a token to its id; the special tokens of the first two stand in
brackets: [CLS] before a text, [SEP] after it.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise

# An atom in brackets, a symbol of two letters, the arrow, a ring closure of two digits, any
# character.
SMILES_TOKEN = re.compile(r"\[[^\[\]]+\]|Br|Cl|>>|%[0-9]{2}|.", re.DOTALL)
SPECIAL = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|unused[0-9]+)\]")
LONGEST_WORD = 100  # characters; BERT reads a longer one as [UNK]
CJK = [
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
]

# GPT-2's words of a text without numbers: endings after ', letters, other signs, white space.
GPT2_WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W_]+| ?(?:[^\w\s]|_)+|\s+(?!\S)|\s+")
# GPT-2's letter of each byte: itself if it is printable, else one of those from 256 on.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTE_LETTERS = {byte: chr(byte) for byte in PRINTABLE}
BYTE_LETTERS |= {byte: chr(256 + i) for i, byte in enumerate(OTHERS)}
LETTER_BYTES = {letter: byte for byte, letter in BYTE_LETTERS.items()}

Ranks = dict[tuple[str, ...], int]  # of the pairs of pieces that may be joined


def wordpiece(text: str, vocab: dict[str, int]) -> list[int]:
    """Return [CLS], the ids of the word pieces, [SEP].

    Text is lower-cased, accents are stripped, punctuation and Chinese characters stand alone; then
    each word is cut from the left into the longest pieces that the vocabulary has, those after the
    first marked ##. A word that cannot be cut so is [UNK].
    """
    ids = [piece for word in _words(text) for piece in _pieces(word, vocab)]
    return [vocab["[CLS]"], *ids, vocab["[SEP]"]]


def smiles(text: str, vocab: dict[str, int]) -> list[int]:
    """Return [CLS], the ids of the tokens of one reaction SMILES "precursors>>products", [SEP].

    Space around it is dropped. ValueError names the tokens that the model has never seen.
    """
    tokens = SMILES_TOKEN.findall(text.strip())
    unknown = [token for token in tokens if token not in vocab or SPECIAL.fullmatch(token)]
    if unknown:
        names = ", ".join(ascii(token[:20]) for token in dict.fromkeys(unknown[:5]))
        raise ValueError(
            f"the model has no token {names}; write one reaction SMILES, precursors>>products, "
            "with reagents among the precursors"
        )
    return [vocab["[CLS]"], *(vocab[token] for token in tokens), vocab["[SEP]"]]


def byte_pairs(text: str, vocab: dict[str, int], ranks: Ranks) -> list[int]:
    """Return the ids of the tokens; nothing is added.

    The bytes of each word in UTF-8 are joined pair by pair, the pair of the lowest rank first
    (Sennrich et al., ACL 2016). Each digit is a word. ValueError names the characters with a byte
    that the model has never seen.
    """
    unseen = {byte for byte, letter in BYTE_LETTERS.items() if letter not in vocab}
    if unknown := [c for c in dict.fromkeys(text) if unseen.intersection(c.encode())]:
        raise ValueError(
            f"the model has no token {', '.join(map(ascii, unknown[:5]))}; leave it out"
        )
    pieces: dict[str, list[int]] = {}
    ids = []
    for word in _gpt2_words(text):
        if word not in pieces:
            pieces[word] = [vocab[piece] for piece in _merged(word, ranks)]
        ids += pieces[word]
    return ids


def bytes_of(tokens: Iterable[str]) -> bytes:
    """The text of tokens that byte_pairs makes, in UTF-8; a character may be cut at its ends."""
    return bytes(LETTER_BYTES[letter] for token in tokens for letter in token)


def _gpt2_words(text: str) -> Iterator[str]:
    for is_number, letters in groupby(text, lambda c: unicodedata.category(c).startswith("N")):
        part = "".join(letters)
        yield from part if is_number else GPT2_WORD.findall(part)


def _merged(word: str, ranks: Ranks) -> list[str]:
    pieces = [BYTE_LETTERS[byte] for byte in word.encode()]
    while len(pieces) > 1:
        rank, i = min((ranks.get(pair, math.inf), i) for i, pair in enumerate(pairwise(pieces)))
        if rank == math.inf:
            break
        pieces[i : i + 2] = ["".join(pieces[i : i + 2])]
    return pieces


def _words(text: str) -> list[str]:
    kept = "".join(f" {c} " if _is_cjk(c) else c for c in text if _is_text(c))
    bare = (c for c in unicodedata.normalize("NFD", kept) if unicodedata.category(c) != "Mn")
    # Character by character, so that a sigma at the end of a word is a sigma like any other.
    lower = "".join(c.lower() for c in bare)
    return "".join(f" {c} " if _is_punctuation(c) else c for c in lower).split()


def _pieces(word: str, vocab: dict[str, int]) -> list[int]:
    if len(word) > LONGEST_WORD:
        return [vocab["[UNK]"]]
    ids, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if mark + word[start:end] in vocab), None)
        if end is None:
            return [vocab["[UNK]"]]
        ids.append(vocab[mark + word[start:end]])
        start = end
    return ids


def _is_text(c: str) -> bool:
    return c in "\t\n\r" or not (c == "\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Co"))


def _is_cjk(c: str) -> bool:
    return any(first <= ord(c) <= last for first, last in CJK)


def _is_punctuation(c: str) -> bool:
    ascii_sign = c.isascii() and c.isprintable() and not c.isalnum() and c != " "
    return ascii_sign or unicodedata.category(c).startswith("P")
