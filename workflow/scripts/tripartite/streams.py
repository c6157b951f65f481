"""Random streams that are found by name, so that adding an experiment changes no other result."""

import hashlib
import json

import numpy as np


def stream(seed: int, *names: str | float) -> np.random.Generator:
    """Return the generator that belongs to `names` under the study's `seed`.

    The names are hashed into the spawn key of numpy's SeedSequence: streams of different names are
    independent, and the order in which they are asked for does not matter. Draws are made on the
    CPU in float64 and moved to the device, so that every device sees the same numbers.
    """
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    spawn_key = tuple(int(word) for word in np.frombuffer(digest, dtype="<u4"))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=spawn_key))
