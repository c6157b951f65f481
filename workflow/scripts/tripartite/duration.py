"""Computing time of an experiment, estimated before any job runs: operations by the rate of a core.

The estimate is rough, within a factor of three as a rule: processors differ as much, and what
Python does between the large operations is not counted. Operations are multiplications with an
addition; an exponential counts as EXP of them, and a number that goes through a file as STORED.
This module imports no large package, because every parse of the Snakefile imports it.
"""

from . import declarations, memory
from .choosing import count_heads
from .foreign import SIZES

RATE = 1e10  # operations per second of one core, in float64
EXP = 20
STORED = 500  # compression, checksums and digests
START = 6 * RATE  # of a job: Python and its libraries
OTHERS = 25 * RATE  # of the kinds that do more than to run and fit networks


def seconds(
    shape: dict[str, int], settings: dict, section: str, owns_data: bool
) -> dict[str, float]:
    """Seconds on one core of each stage of an experiment; shape: lengths by the names SIZES.

    owns_data: whether its queries, keys, values and attention are made for it.
    """
    inputs, layers, heads, tokens, d_head, d_value = (shape[name] for name in SIZES)
    width, n_heads = d_head + d_value, layers * heads
    n_values = inputs * n_heads * tokens * width
    n_chosen = count_heads(settings.get("heads", "all"), layers, heads)
    n_read = inputs if settings.get("inputs", "all") == "all" else len(settings["inputs"])
    n_seeds, sizes = settings.get("n_seeds", 1), memory.sizes(settings) or [0]
    total = sum(sizes) if settings.get("smaller_networks") == "disjoint" else sizes[-1]
    n_queries = n_chosen * n_read * tokens
    networks = n_seeds * n_queries * total * (2 * width + 2 * EXP)  # written and read
    networks /= 3 if settings.get("dtype") == "float32" else 1
    # sums over pairs of keys for every query
    networks *= max(1, len(settings.get("variants", {})))
    closed_forms = n_heads * n_read * tokens**2 * (3 * tokens + 6 * width + 10 * EXP)
    kind = declarations.kinds()[section]
    first, *others = [file.stage for file in kind.files.values()]
    work = {first: networks + OTHERS}
    if kind.memory == "data":
        work = {first: 2 * closed_forms + OTHERS}
    if kind.memory == "training":
        rows, steps = min(tokens, 64), settings.get("max_steps", 1)
        n_products = n_seeds * sum(sizes) * n_chosen * steps * rows * tokens
        work = {first: n_products * 6 + 20 * n_chosen * inputs * tokens**2 * sum(sizes)}
    if kind.memory == "transformer":
        work = {first: _of_transformer(shape, settings, n_read) + OTHERS}
    if kind.memory == "states":
        of_outputs = 4 * n_queries * tokens**2
        measured = len(sizes) * n_seeds**2 * n_queries * 10 * EXP  # intervals over seeds
        work = {first: networks, "fit": closed_forms + of_outputs + measured}
    found = dict.fromkeys([first, *others], START + STORED * n_values)
    found = {stage: n + work.get(stage, 0) for stage, n in found.items()}
    if owns_data:
        pairs = inputs * n_heads * tokens**2
        found["generate"] = START + 2 * STORED * n_values
        found["attend"] = START + 2 * STORED * n_values + pairs * (width + 4 * EXP)
    return {stage: n / RATE for stage, n in found.items()}


def _of_transformer(shape: dict[str, int], settings: dict, n_read: int) -> float:
    """Operations of a whole transformer whose heads are replaced, in every part and network."""
    inputs, layers, heads, tokens, d_head, d_value = (shape[name] for name in SIZES)
    width, n_heads = d_head + d_value, layers * heads
    sizes, recipes = memory.sizes(settings), settings.get("recipes", [])
    one_pass = 12 * tokens * layers * (heads * d_value) ** 2 + n_heads * tokens**2 * width
    passes = networks = 0.0  # whole ones: a part runs from its first replaced layer on
    for part in settings.get("parts", []):
        passes += {"each_layer": (layers + 1) / 2, "first_layers": layers}.get(part, 1)
        networks += {"first_layers": (layers + 1) / 2}.get(part, 1)
    n_networks = len(recipes) * settings.get("n_seeds", 1)
    work = one_pass * (3 * inputs + n_read * passes * (2 + n_networks * len(sizes)))
    rates = n_heads * tokens * sum(sizes) * (2 * width + 2 * EXP)
    work += n_networks * networks * (n_read * rates + n_heads * sum(sizes) * d_head * 3 * EXP)
    work /= 3 if settings.get("dtype") == "float32" else 1
    work += len(recipes) * inputs * n_heads * tokens**2 * (3 * tokens + 6 * width + 10 * EXP)
    trained = [size for size in sizes if size <= settings.get("max_learned", 0)]
    if "learned" in recipes:
        steps, rows = settings.get("max_steps", 1), min(tokens, 64)
        work += settings.get("n_seeds", 1) * sum(trained) * n_heads * steps * rows * tokens * 16
    return work
