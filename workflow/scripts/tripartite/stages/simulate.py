"""Run the neuron-astrocyte network on every chosen head, for every seed and number of neurons."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from tripartite import symmetries as exact_symmetries
from tripartite.contracts import Breach
from tripartite.features import FEATURE_MAPS, draw_neurons, optimal_a
from tripartite.network import Leak, Tokens, read
from tripartite.streams import stream
from tripartite.symmetries import Symmetry


def simulate(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    feature_map: str,
    n_features: list[int],
    n_seeds: int,
    heads: str | list[list[int]],
    seed: int,
    source: str,
    device: str,
    inputs: str | list[str] = "all",
    calibrated_on: tuple[str, ...] | list[str] = (),
    symmetries: tuple[str, ...] | list[str] = (),
    a: float | None = None,
    threshold: float = np.inf,
    order: str = "bidirectional",
    leak_hebbian: float = 0.0,
    leak_presynaptic: float = 0.0,
    smaller_networks: str = "nested",
    dtype: str = "float64",
    workers: int = 1,
) -> xr.Dataset:
    """Return the calcium and the output errors of networks with n_features hidden neurons.

    heads and inputs are "all" or lists ([layer, head] and names); arrays are NaN and `computed` is false
    elsewhere. "all" inputs are those that do not calibrate. source is the experiment whose qkv.nc is
    read: the hidden weights belong to it, so that experiments on the same data use the same weights.
    smaller_networks says how networks of less than the largest size share its neurons: "nested", each
    is the first neurons of the largest of its seed; "blocks", the largest is cut into as many as it
    holds, each a seed of its own. `draw` and `first_neuron` say which neurons a network has.
    The numbers do not depend on workers, the threads that run heads at the same time.
    """
    names = [str(name) for name in qkv["input"].values]
    chosen_inputs = [i for i, name in enumerate(names) if name not in calibrated_on]
    if inputs != "all":
        chosen_inputs = [names.index(name) for name in inputs]
    calibrating = [names.index(name) for name in calibrated_on]
    every_head = list(itertools.product(range(qkv.sizes["layer"]), range(qkv.sizes["head"])))
    chosen = every_head if heads == "all" else [tuple(pair) for pair in heads]
    mask = torch.from_numpy(qkv["mask"].values)  # [input, token]
    n_inputs, n_layers, n_heads, n_tokens, d_head = qkv["q"].shape
    draws, starts = arrangement(n_features, n_seeds, smaller_networks)  # [n_features, seed]
    per_head = (*draws.shape, n_inputs, n_layers, n_heads)
    results = {
        "log_calcium": np.full((*per_head, n_tokens), np.nan),
        "calcium_sign": np.zeros((*per_head, n_tokens), dtype=np.int8),
        "output_error": np.full(per_head, np.nan),
        "computed": np.zeros(per_head, dtype=bool),
        "key_shift": np.zeros((n_layers, n_heads, d_head)),
        "query_shift": np.zeros((n_layers, n_heads, d_head)),
        "balance": np.broadcast_to(np.eye(d_head), (n_layers, n_heads, d_head, d_head)).copy(),
        "feature_a": np.zeros((n_layers, n_heads)),
    }

    def tokens_of(layer: int, head: int, i: int) -> list[torch.Tensor]:  # q, k, v [token, d_head]
        return [
            torch.from_numpy(qkv[name].values[i, layer, head]).double()[mask[i]] for name in "qkv"
        ]

    seen = {}
    for layer, head in every_head:  # the closed forms are for all of them
        calibrating_tokens = [tokens_of(layer, head, i) for i in calibrating or chosen_inputs]
        try:
            symmetry, best_a = _calibration(
                calibrating_tokens,
                list(symmetries),
                a is None and feature_map == "generalized_positive",
            )
        except ValueError as error:
            if (layer, head) not in chosen:
                continue  # it stays as it is
            raise Breach(
                f"layer {layer}, head {head}: {error}; leave out balance, or simulate other heads"
            ) from error
        seen[layer, head] = symmetry, best_a if a is None else a
        for name, value in symmetry._asdict().items():
            results[name][layer, head] = value.numpy()
        results["feature_a"][layer, head] = seen[layer, head][1]

    def run(layer: int, head: int, draw: int) -> None:
        symmetry, head_a = seen[layer, head]
        sequences, shifts = [], []
        for i in chosen_inputs:
            q, k, v = tokens_of(layer, head, i)
            q, k, log_gain, log_shift = exact_symmetries.transform(q, k, symmetry)
            q, k, v = (x.to(device, getattr(torch, dtype)) for x in (q, k, v))
            sequences.append(Tokens(q, k, v, log_gain.to(device)))
            shifts.append(log_shift)
        if device != "cpu" and order == "bidirectional":
            sequences = [_padded(sequences)]
        networks = [  # place in the results, neurons
            ((size, place), (int(starts[size, place]), int(starts[size, place]) + m))
            for size, m in enumerate(n_features)
            for place in np.flatnonzero(draws[size] == draw)
        ]
        key = (draw, layer, head)
        neurons = draw_neurons(
            feature_map, stream(seed, source, "omega", *key), stream(seed, source, "phase", *key),
            n_features[-1], d_head, head_a,
        )  # fmt: skip
        found = read(
            sequences, neurons, [span for _, span in networks], FEATURE_MAPS[feature_map].activation,
            threshold, order == "causal", Leak(leak_hebbian, leak_presynaptic),
        )  # fmt: skip
        for (place, _), per_input in zip(networks, found):
            if len(per_input) < len(chosen_inputs):  # they were padded to one
                per_input = [
                    [x[n][: int(mask[i].sum())] for x in per_input[0]]
                    for n, i in enumerate(chosen_inputs)
                ]
            for i, shift, (log_p, sign, output) in zip(chosen_inputs, shifts, per_input):
                exact = torch.from_numpy(attention["output"].values[i, layer, head])[mask[i]]
                error = (output.cpu().double() - exact).norm() / exact.norm()
                at = (*place, i, layer, head)
                results["log_calcium"][at][mask[i].numpy()] = (log_p.cpu() + shift).numpy()
                results["calcium_sign"][at][mask[i].numpy()] = sign.cpu().numpy()
                results["output_error"][at] = float(error)
                results["computed"][at] = True

    runs = [(*pair, draw) for pair, draw in itertools.product(chosen, range(draws.max() + 1))]
    bar_format = "{desc}: {percentage:.0f} % of {total} runs, {elapsed} gone, {remaining} left\n"
    with ThreadPoolExecutor(workers if device == "cpu" else 1) as pool:
        for _ in tqdm(
            pool.map(lambda task: run(*task), runs),
            total=len(runs), desc="simulate", mininterval=5, maxinterval=5, bar_format=bar_format,
        ):  # fmt: skip
            pass

    point = ("n_features", "seed", "input", "layer", "head")
    dims = {
        "log_calcium": (*point, "token"),
        "calcium_sign": (*point, "token"),
        "output_error": point,
        "computed": point,
        "key_shift": ("layer", "head", "d_head"),
        "query_shift": ("layer", "head", "d_head"),
        "balance": ("layer", "head", "d_seen", "d_head"),
        "feature_a": ("layer", "head"),
        "draw": ("n_features", "seed"),
        "first_neuron": ("n_features", "seed"),
    }
    results |= {"draw": draws, "first_neuron": starts}
    return xr.Dataset(
        {name: (dims[name], values) for name, values in results.items()},
        coords={
            "n_features": np.array(n_features, dtype=np.int64),
            "seed": np.arange(draws.shape[1]),
            **{name: qkv[name] for name in ("input", "layer", "head")},
        },
        attrs={"source": described(qkv.attrs.get("source", ""), feature_map, symmetries, order)},
    )


def described(source: str, feature_map: str, symmetries: list[str], order: str) -> str:
    """The name of the data in figures, with what sets this network apart."""
    marks = [] if feature_map == "performer" else [feature_map.replace("_", " ")]
    marks += ["causal"] if order == "causal" else []
    centred = [name.removeprefix("center_") for name in symmetries if name != "balance"]
    changes = [f"{centred[0]} centred" if len(centred) == 1 else "centred"] if centred else []
    changes += ["balanced"] if "balance" in symmetries else []
    return ", ".join([source, *marks, " and ".join(changes)]).removesuffix(", ")


def arrangement(n_features: list[int], n_seeds: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Which draw of the hidden weights each network takes its neurons from, and from which on.

    Two arrays [n_features, seed], -1 where there is no network of that size and seed.
    """
    blocks = [n_features[-1] // m if kind == "blocks" else 1 for m in n_features]
    draws = np.full((len(n_features), n_seeds * max(blocks)), -1)
    starts = draws.copy()
    for row, (m, n) in enumerate(zip(n_features, blocks)):
        index = np.arange(n_seeds * n)
        draws[row, index] = index // n
        starts[row, index] = index % n * m
    return draws, starts


def _calibration(
    inputs: list[list[torch.Tensor]], names: list[str], fits_a: bool
) -> tuple[Symmetry, float]:
    """The symmetries of one head and the best parameter a, from q, k, v of some inputs."""
    q, k = (torch.cat(parts) for parts in list(zip(*inputs))[:2])  # [all tokens, d_head]
    symmetry = exact_symmetries.calibrate(q, k, names)
    if not fits_a:
        return symmetry, 0.0
    seen = [exact_symmetries.transform(q, k, symmetry)[:2] for q, k, _ in inputs]
    spread = torch.stack([exact_symmetries.mean_square(q, k) for q, k in seen]).mean()
    return symmetry, optimal_a(float(spread), q.shape[-1])


def _padded(sequences: list[Tokens]) -> Tokens:
    """Sequences of different lengths as one batch; what is added has no gain."""

    def pad(parts: list[torch.Tensor], value: float = 0.0) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)

    q, k, v, log_gain = zip(*sequences)
    return Tokens(pad(q), pad(k), pad(v), pad(log_gain, -torch.inf))
