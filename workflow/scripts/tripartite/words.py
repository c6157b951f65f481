"""Texts of faults: values as they are shown, and names that were probably meant.

This module imports no large package, because every parse of the Snakefile imports it.
"""

import difflib
import re
import unicodedata

Fault = tuple[tuple, str]  # keys that lead to it (integers in lists), and a text

SYNONYMS = {  # other names of settings and values, as `letters` returns them
    "cuda": "gpu nvidia mps rocm",
    "memory_gb": "ram mem",
    "shards": "chunks splits",
    "float64": "double fp64 f64",
    "float32": "single fp32 f32",
    "bfloat16": "half bf16 fp16",
    "n_features": "m neurons nneurons hidden width",
    "seed": "randomstate rng",
    "n_seeds": "repeats replicates repetitions draws",
    "n_inputs": "batch batchsize",
    "n_tokens": "length seqlen sequencelength",
    "d_head": "dim headdim dimhead",
    "dtype": "precision",
    "feature_map": "kernel activation",
    "file": "path netcdf",
    "causal": "autoregressive unidirectional",
    "bidirectional": "noncausal acausal",
    "max_steps": "epochs iterations",
    "learning_rate": "lr",
    "loss": "objective",
    "step_seconds": "dt",
    "performer": "favor",
}
# Share of letters in common, in order, from which a word is surely, or likely, a typo of another.
SURE, LIKELY = 0.9, 0.75
MAX_NEAR = 3  # names that are suggested; if more are equally near, none


def lines(file: str, faults: list[Fault]) -> list[str]:
    """Lines "file: dotted key: text", each once, sorted, without indices in lists."""
    unique = set()
    for keys, text in faults:
        names = [str(key) for key in keys if not isinstance(key, int)]
        dotted = (name if re.fullmatch(r"[\w-]{1,60}", name) else shown(name) for name in names)
        unique.add(": ".join(part for part in (file, ".".join(dotted), text) if part))
    return sorted(unique)


def shown(value: object) -> str:
    """A value in at most 60 characters."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if value == []:
        return "an empty list"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits; a deep list
        return "something too long to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown(name: object, known: list[str]) -> str:
    """The fault of a name that is none of the known ones."""
    return f"{shown(name)} is unknown{choices(known)}{nearest(name, known)}"


def unknown_key(key: object, known: list[str]) -> str:
    """The fault of a key that is none of the known ones."""
    return f"unknown key{nearest(key, known) or '; known keys are ' + ', '.join(known)}"


def choices(names: list[str]) -> str:
    """The end of a fault that lists all names to choose from."""
    return f"; choose one of {', '.join(names)}" if names else "; there is none to choose"


def nearest(name: object, known: list[str]) -> str:
    """The names in `known` that were probably meant: by letters, as a synonym, part or typo."""
    text = str(name)[:80]
    typed, near = letters(text), []
    if typed and len(known) > 1:
        near = [other for other in known if letters(other) == typed]
        near = near or [other for other in known if _is_synonym(typed, other)]
        near = near or typos(typed, known, SURE)
        near = near or [other for other in known if _is_part(text, other)]
        near = near or typos(typed, known, LIKELY)
    return f"; did you mean {' or '.join(near)}?" if 0 < len(near) <= MAX_NEAR else ""


def letters(text: str) -> str:
    """Only lower-case letters and digits: Li-Rinzel becomes lirinzel, modèle becomes modele."""
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", text).casefold())


def _is_synonym(typed: str, known: str) -> bool:
    """True also if the number of a device follows, as in gpu:0."""
    return bool({typed, typed.rstrip("0123456789")} & {*SYNONYMS.get(known, "").split()})


def _is_part(name: str, known: str) -> bool:
    """True for the beginning or some words of `known`: memory for memory_gb, seeds for n_seeds.

    Also true if `known` is the beginning and the rest is short: trace_plot for trace.
    """
    typed, whole = letters(name), letters(known)
    begins = len(typed) > 2 and whole.startswith(typed)
    begins |= 2 * len(whole) > len(typed) and len(whole) > 3 and typed.startswith(whole)
    words = [
        {letters(word).rstrip("s") for word in re.split(r"[\W_]+", text)}
        - {"", "n", "num", "number", "of"}
        for text in (name, known)
    ]
    return begins or bool(words[0]) and len(typed) > 2 and words[0] <= words[1]


def typos(typed: str, known: list[str], share: float) -> list[str]:
    """The most similar names, if at least a share of their letters is equal."""
    alike = {name: difflib.SequenceMatcher(None, typed, letters(name)).ratio() for name in known}
    best = max(alike.values())
    return [name for name in known if alike[name] == best >= share]


def in_bytes(n_bytes: int) -> str:
    """Bytes in decimal units: 120000000000 -> "120 GB"."""
    for power, unit in enumerate("B kB MB GB TB PB EB ZB YB".split()):
        if n_bytes < 1000 ** (power + 1):
            value = n_bytes / 1000**power
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return "more than 1000 YB"
