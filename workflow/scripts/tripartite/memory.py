"""Memory of the large arrays of an experiment, estimated before any job runs.

Each kind declares what they hold (`memory` in its kind.yaml):

    data       only queries, keys, values and the attention of a head
    networks   also the outputs of all networks of a head
    states     also the responses of all heads
    attention  outputs that are attention weights, as wide as there are tokens
    rates      the firing rates of a whole network at once
    training   the features of all heads at once
    transformer  the weights of a model, and the states of all its variants

Measured peaks of all stages beside what is requested (snakefile.memory_mb), with 2 inputs of 2000
tokens, d_head and d_value 128, sizes 100, 300 and 1000 and 4 seeds, causal; the last line is vit of
the default study:

    layers x heads   simulated    requested    generate  attend  simulate   fit
    16 x 16          4 heads      2595 MB           538    1228      1414     -
    1 x 8            1 head       2577 MB           464     562       568  1616
    12 x 6 (257, 64) all          2344 MB           783     771       818   812

This module imports no large package, because every parse of the Snakefile imports it.
"""

from typing import NamedTuple

from . import declarations
from .choosing import count_heads
from .foreign import SIZES

CHUNK = 1 << 16  # hidden neurons drawn at a time, as in features.py
BLOCK_BYTES = 1 << 21  # of firing rates at a time, as in network.py
LARGE_BYTES = 1 << 27  # a larger array stays on disk, as in large.py


class Array(NamedTuple):
    """A large array of a job: bytes, what it is, what to lower; of_head: each worker has one."""

    size: int
    what: str
    advice: str
    of_head: bool = False


def sizes(settings: dict) -> list[int]:
    """The numbers of neurons, whether n_features is one number or a list."""
    given = settings.get("n_features", [])
    return [size for size in (given if isinstance(given, list) else [given]) if size]


def can_plan(section: str, settings: dict) -> bool:
    """Whether the settings without faults are enough to estimate the arrays."""
    memory = declarations.kinds()[section].memory
    if memory in ("data", "rates"):
        return memory == "data" or bool(sizes(settings))
    return bool(sizes(settings)) and "n_seeds" in settings


def plan(shape: dict[str, int], settings: dict, section: str = "network") -> list[Array]:
    """The large arrays of an experiment, in float64; shape: lengths by the names SIZES."""
    inputs, layers, heads, tokens, *widths = (shape[name] for name in SIZES)
    d_head = max(widths)  # of queries and keys, or of values
    queries = f"{inputs} inputs x {layers} layers x {heads} heads x {tokens} tokens"
    n_queries = inputs * layers * heads * tokens
    # queries and keys in float32, values in float32, and outputs in float64
    of_all = [4 * n_queries * widths[0]] * 2 + [n * n_queries * widths[1] for n in (4, 8)]
    held = sum(size for size in of_all if size <= LARGE_BYTES)
    arrays = [
        Array(
            4 * held,
            f"queries, keys, values and outputs that are held ({queries} x {d_head} d_head, 4 "
            "copies)",
            "the number of inputs or tokens",
        ),
        Array(
            8 * 8 * n_queries,
            f"the normalisers of all heads ({queries}, 8 copies)",
            "the number of inputs or tokens",
        ),
        Array(
            2 * 8 * inputs * tokens * 2 * sum(widths),
            f"queries, keys, values and outputs of one head ({inputs} inputs x {tokens} tokens x "
            f"{d_head} d_head, 2 copies)",
            "the number of inputs or tokens",
            of_head=True,
        ),
        Array(
            8 * 8 * tokens**2,
            f"the attention of one head to one input ({tokens} x {tokens} tokens, 8 copies)",
            "the number of tokens",
            of_head=True,
        ),
    ]
    memory = declarations.kinds()[section].memory
    if memory == "data":
        return arrays
    m_all, n_seeds = sizes(settings), settings.get("n_seeds", 1)
    m = m_all[-1]
    if memory == "transformer":
        return [*arrays, *_of_transformer(shape, settings)]
    if memory == "rates":
        m *= settings.get("processes_per_head", 1)
        what = f"{m} n_features x {tokens} tokens and {d_head} d_head, 6 copies"
        what = f"the rates and synapses of one head ({what})"
        n_bytes = 6 * 8 * m * (2 * tokens + 2 * d_head)
        advice = "n_features or the number of tokens"
        return [*arrays, Array(n_bytes, what, advice, of_head=True)]
    n_heads = count_heads(settings.get("heads", "all"), layers, heads)
    of_chosen = f"{inputs} inputs x {n_heads} heads x {tokens} tokens"
    if memory == "training":
        n_bytes = 8 * inputs * n_heads * tokens * (tokens + 2 * sum(widths))
        what = f"the attention of all chosen heads ({of_chosen} x {tokens} tokens)"
        arrays.append(Array(n_bytes, what, "the number of tokens, inputs or heads"))
        rows = min(tokens, 64)
        what = f"training ({n_heads} heads x {rows} queries x {tokens} tokens x {m} n_features)"
        n_bytes = 6 * 8 * n_heads * rows * tokens * m // 8
        return [*arrays, Array(n_bytes, what, "n_features or the number of tokens or heads")]
    kind = settings.get("smaller_networks", "nested")
    n_sizes, n_networks = len(m_all), len(m_all) * n_seeds
    if kind == "blocks":
        n_seeds *= m // m_all[0]
        n_networks = sum(m // size for size in m_all) * settings["n_seeds"]
    total = sum(m_all) if kind == "disjoint" else m
    maps = [part.get("feature_map") for part in settings.get("variants", {}).values() if part]
    # the weights of linear features are drawn all at once
    whole = "linear" in (*maps, settings.get("feature_map"))
    drawn = total if whole else min(total, 2 * CHUNK)
    width = tokens if memory == "attention" else d_head  # of the values
    arrays += [
        Array(
            2 * 8 * drawn * d_head,
            f"the hidden weights of one head ({drawn} n_features x {d_head} d_head, 2 copies)",
            "n_features",
            of_head=True,
        ),
        Array(
            2 * 8 * n_networks * inputs * tokens * width,
            f"the outputs of one head ({n_networks} networks x {inputs} inputs x {tokens} tokens x "
            f"{width}, 2 copies)",
            "n_seeds or the number of n_features, inputs or tokens",
            of_head=True,
        ),
        Array(
            4 * max(BLOCK_BYTES, 64 * 8 * tokens),
            "the firing rates (a block of neurons at a time, 4 copies)",
            "the number of tokens",
            of_head=True,
        ),
    ]
    if pairs := [pair for pair in settings.get("leaks", []) if pair]:
        n_hebbian, n_presynaptic = (len({*rates}) for rates in zip(*pairs))
        cells = n_hebbian * n_presynaptic
        what = f"what is retained ({n_hebbian} x {n_presynaptic} leaks x {queries}, 12 copies)"
        n_bytes = 12 * 8 * cells * layers * heads * tokens
        arrays.append(
            Array(n_bytes, what.replace(f"{inputs} inputs x ", ""), "the number of leaks")
        )
    if memory == "states":
        # simulate has those of all sizes, with their signs, and fit works on one size at a time
        n_copies = max(3 * n_sizes, 14)
        what = f"the states ({n_sizes} n_features x {n_seeds} seeds x {of_chosen})"
        n_bytes = n_copies * 8 * n_seeds * inputs * n_heads * tokens
        advice = "n_seeds or the number of n_features, inputs or heads"
        arrays.append(Array(n_bytes, what, advice))
        what = f"quantiles of the states of all heads ({n_sizes} n_features x {queries}, 6 copies)"
        advice = "the number of n_features or inputs"
        arrays.append(Array(6 * 8 * n_sizes * n_queries, what, advice))
        what = f"the symmetries of all heads ({layers} layers x {heads} heads x {widths[0]} x "
        what += f"{widths[0]} d_head, 4 copies)"
        n_bytes = 4 * 8 * layers * heads * widths[0] ** 2
        arrays.append(Array(n_bytes, what, "the number of heads in the file"))
    return arrays


def _of_transformer(shape: dict[str, int], settings: dict) -> list[Array]:
    """The large arrays of a whole transformer whose heads are replaced; its weights in float32.

    Its states are as wide as all values of its heads together.
    """
    inputs, layers, heads, tokens, d_head, d_value = (shape[name] for name in SIZES)
    d_model, m = heads * d_value, sizes(settings)[-1]
    n_bytes = 8 if settings.get("dtype") == "float64" else 4
    n_states = sum(
        layers if part in ("each_layer", "first_layers") else 1
        for part in settings.get("parts", [])
    )
    copies = f"{n_states} parts x {inputs} inputs x {tokens} tokens x {d_model}"
    # 12 d_model^2 weights in a layer, as in most transformers
    arrays = [
        Array(
            2 * n_bytes * 12 * layers * d_model**2,
            f"the weights of the model ({layers} layers x 12 x {d_model} x {d_model}, 2 copies)",
            "nothing, choose a smaller model",
        ),
        Array(
            n_bytes * inputs * tokens * layers * (d_model + heads * (2 * d_head + d_value)),
            f"states, queries, keys and values of the model ({inputs} inputs x {layers} layers)",
            "the number of inputs or tokens",
        ),
        Array(
            2 * n_bytes * n_states * inputs * tokens * d_model,
            f"the states of all parts ({copies}, 2 copies)",
            "the number of parts, inputs or tokens",
            of_head=True,
        ),
        Array(
            (2 * 8 + n_bytes) * heads * m * d_head,
            f"the hidden weights of one layer ({heads} heads x {m} n_features x {d_head} d_head, "
            "3 copies)",
            "n_features",
            of_head=True,
        ),
    ]
    trained = [size for size in sizes(settings) if size <= settings.get("max_learned", 0)]
    if "learned" in settings.get("recipes", []) and trained:
        rows = min(tokens, 64)
        what = f"{heads} heads of a layer x {rows} queries x {tokens} tokens x {trained[-1]}"
        n = 2 * tokens**2 + 12 * tokens * (rows + trained[-1])
        groups = [settings.get(key, []) for key in ("calibrated_on", "validated_on")]
        inputs = sum(len(x) if isinstance(x, list) else inputs // 2 for x in groups)
        advice = "max_learned or the number of inputs or tokens"
        size = n_bytes * heads * inputs * n
        arrays.append(Array(size, f"training ({what} n_features)", advice, of_head=True))
    return arrays
