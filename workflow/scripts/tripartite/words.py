"""Words of faults: values as they are shown, known names, and what was probably meant.

Light, because every parse of the Snakefile imports it.
"""

import difflib
import re
import unicodedata

Fault = tuple[tuple, str]  # where it is (keys, and integers for places in lists), and what it is


SYNONYMS = {  # what others call it, in plain letters
    "cuda": ("gpu", "nvidia", "mps", "rocm"),
    "memory_gb": ("ram", "mem"),
    "shards": ("chunks", "splits"),
    "float64": ("double", "fp64", "f64"),
    "float32": ("single", "fp32", "f32"),
    "bfloat16": ("half", "bf16", "fp16"),
    "n_features": ("m", "neurons", "nneurons", "hidden", "width"),
    "seed": ("randomstate", "rng"),
    "n_seeds": ("repeats", "replicates", "repetitions", "draws"),
    "n_inputs": ("batch", "batchsize"),
    "n_tokens": ("length", "seqlen", "sequencelength"),
    "d_head": ("dim", "headdim", "dimhead"),
    "dtype": ("precision",),
    "feature_map": ("kernel", "activation"),
    "file": ("path", "netcdf"),
    "causal": ("autoregressive", "unidirectional"),
    "bidirectional": ("noncausal", "acausal"),
    "max_steps": ("epochs", "iterations"),
    "learning_rate": ("lr",),
    "loss": ("objective",),
    "step_seconds": ("dt",),
    "performer": ("favor",),
}

SURE, LIKELY = 0.9, 0.75

MAX_NEAR = 3  # more that are equally near are no help


def lines(file: str, faults: list[Fault]) -> list[str]:
    """file: dotted key: what is wrong, each once, sorted; places in lists are left out."""
    found = set()
    for keys, text in faults:
        names = [str(key) for key in keys if not isinstance(key, int)]
        dotted = (name if re.fullmatch(r"[\w-]{1,60}", name) else shown(name) for name in names)
        found.add(": ".join(part for part in (file, ".".join(dotted), text) if part))
    return sorted(found)


def shown(value: object) -> str:
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
    return f"{shown(name)} is unknown{choices(known)}{nearest(name, known)}"


def unknown_key(key: object, known: list[str]) -> str:
    return f"unknown key{nearest(key, known) or '; known keys are ' + ', '.join(known)}"


def choices(names: list[str]) -> str:
    return f"; choose one of {', '.join(names)}" if names else "; there is none to choose"


def nearest(name: object, known: list[str]) -> str:
    """What of `known` was probably meant: the same letters, a synonym, a part, or a typo of it."""
    text = str(name)[:80]
    typed, near = letters(text), []
    if typed and len(known) > 1:
        near = [one for one in known if letters(one) == typed]
        near = near or [one for one in known if _is_synonym(typed, one)]
        near = near or _slips(typed, known, SURE)
        near = near or [one for one in known if _is_part(text, one)]
        near = near or _slips(typed, known, LIKELY)
    return f"; did you mean {' or '.join(near)}?" if 0 < len(near) <= MAX_NEAR else ""


def letters(text: str) -> str:
    """Small letters and digits alone: Li-Rinzel and li_rinzel are one word, modèle is modele."""
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", text).casefold())


def _is_synonym(typed: str, known: str) -> bool:
    """True also with the number of a device behind it, as in gpu:0."""
    return bool({typed, typed.rstrip("0123456789")} & {*SYNONYMS.get(known, ())})


def _is_part(name: str, known: str) -> bool:
    """True for the beginning or some words of `known`: memory for memory_gb, seeds for n_seeds.

    And for what has `known` as its beginning and not much more, as in trace_plot for trace.
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


def _slips(typed: str, known: list[str], share: float) -> list[str]:
    alike = {one: difflib.SequenceMatcher(None, typed, letters(one)).ratio() for one in known}
    best = max(alike.values())
    return [one for one in known if alike[one] == best >= share]


def in_bytes(n_bytes: int) -> str:
    """120000000000 -> 120 GB, in powers of ten."""
    for power, unit in enumerate(("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")):
        if n_bytes < 1000 ** (power + 1):
            value = n_bytes / 1000**power
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return "more than 1000 YB"
