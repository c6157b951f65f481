"""Streams of random numbers by name, so that a new experiment changes no other result."""

import hashlib
import json

import numpy as np


def stream(seed: int, *names: str | float) -> np.random.Generator:
    """The random generator of these names, for the `seed` of a study.

    The names are hashed into the spawn key of numpy's SeedSequence: streams with different names
    are independent, in whatever order they are made. Numbers are drawn on the CPU in float64 and
    then moved to the device, so that all devices get the same numbers.
    """
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    spawn_key = tuple(int(word) for word in np.frombuffer(digest, dtype="<u4"))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=spawn_key))
