"""Run the neuron-astrocyte network on every chosen head, for every seed and number of neurons."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from tripartite import symmetries as exact_symmetries
from tripartite.contracts import UserError
from tripartite.features import FEATURE_MAPS, draw_neurons
from tripartite.network import Leak, Tokens, read
from tripartite.streams import stream

PER_NETWORK = (
    "log_calcium",
    "calcium_sign",
    "output_error",
    "output_gain",
    "output_error_other_pool",
    "computed",
)
EXTENDS = ("heads", "n_seeds")  # with other ones, what is there already is taken over


def simulate(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    feature_map: str,
    n_features: list[int],
    n_seeds: int,
    heads: str | list[list[int]],
    seed: int,
    data_of: str,
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
    previous: xr.Dataset | None = None,
) -> xr.Dataset:
    """Return the calcium and the output errors of networks with n_features hidden neurons.

    heads and inputs are "all" or lists ([layer, head] and names); arrays are NaN and `computed` is false
    elsewhere. "all" inputs are those that do not calibrate. source is the experiment whose qkv.nc is
    read: the hidden weights belong to it, so that experiments on the same data use the same weights.
    smaller_networks says how networks of less than the largest size share its neurons: "nested", each
    is the first neurons of the largest of its seed; "blocks", the largest is cut into as many as it
    holds, each a seed of its own; "disjoint", the networks of a seed have no neuron in common. `draw`
    and `first_neuron` say which neurons a network has.
    The numbers do not depend on workers, the threads that run heads at the same time, nor on previous,
    what this function returned for other heads or seeds: only what is not in it is computed.
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
        "output_gain": np.full(per_head, np.nan),
        "output_error_other_pool": np.full(per_head, np.nan),
        "computed": np.zeros(per_head, dtype=bool),
        "key_shift": np.zeros((n_layers, n_heads, d_head)),
        "query_shift": np.zeros((n_layers, n_heads, d_head)),
        "balance": np.broadcast_to(np.eye(d_head), (n_layers, n_heads, d_head, d_head)).copy(),
        "feature_a": np.zeros((n_layers, n_heads, d_head)),
    }

    n_draws = draws.max() + 1
    known = np.zeros((n_draws, n_layers, n_heads), dtype=bool)
    if previous is not None:
        n_before = int(previous["draw"].max()) + 1
        # The last draw is compared with the first, so that it changes where draws are added.
        n_kept = n_draws if n_draws == n_before else min(n_draws, n_before) - 1
        for layer, head in chosen:
            known[:n_kept, layer, head] = previous["computed"].values[..., layer, head].any()
        for name in PER_NETWORK:
            for size, row in enumerate(draws):
                n_columns = np.count_nonzero((row >= 0) & (row < n_kept))
                before = previous[name].values[size, :n_columns]
                of_heads = known[:n_kept].any(0)  # [layer, head]
                results[name][size, :n_columns][:, :, of_heads] = before[:, :, of_heads]
        if known.any():
            print(
                f"{known.sum()} of {len(chosen) * n_draws} runs are taken over from the file that is there",
                flush=True,
            )

    def tokens_of(layer: int, head: int, i: int) -> list[torch.Tensor]:  # q, k, v [token, d_head]
        return [
            torch.from_numpy(qkv[name].values[i, layer, head]).double()[mask[i]] for name in "qkv"
        ]

    seen = {}
    for layer, head in every_head:  # the closed forms are for all of them
        calibrating_tokens = [tokens_of(layer, head, i) for i in calibrating or chosen_inputs]
        try:
            kind = "performer" if a is not None else feature_map  # a is given: nothing to be fitted
            symmetry, best_a = exact_symmetries.fitted(
                [(q, k) for q, k, _ in calibrating_tokens], list(symmetries), kind
            )
        except ValueError as error:
            if (layer, head) not in chosen:
                continue  # it stays as it is
            raise UserError(
                f"layer {layer}, head {head}: {error}; leave out balance, or simulate other heads"
            ) from error
        seen[layer, head] = symmetry, best_a if a is None else torch.full_like(best_a, a)
        for name, value in symmetry._asdict().items():
            results[name][layer, head] = value.numpy()
        results["feature_a"][layer, head] = seen[layer, head][1].numpy()

    def run(layer: int, head: int) -> None:
        symmetry, head_a = seen[layer, head]
        sequences, shifts, exact = [], [], {}
        for i in chosen_inputs:
            q, k, v = tokens_of(layer, head, i)
            q, k, log_gain, log_shift = exact_symmetries.transform(q, k, symmetry)
            q, k, v = (x.to(device, getattr(torch, dtype)) for x in (q, k, v))
            sequences.append(Tokens(q, k, v, log_gain.to(device)))
            shifts.append(log_shift)
            exact[i] = torch.from_numpy(attention["output"].values[i, layer, head])[mask[i]]
        if device != "cpu" and order == "bidirectional":
            sequences = [_padded(sequences)]
        outputs = {}  # of networks of a size on an input, by their seeds
        for draw in np.flatnonzero(~known[:, layer, head]):
            networks = [  # place in the results, neurons
                ((size, place), (int(starts[size, place]), int(starts[size, place]) + m))
                for size, m in enumerate(n_features)
                for place in np.flatnonzero(draws[size] == draw)
            ]
            key = (int(draw), layer, head)
            neurons = draw_neurons(
                feature_map,
                stream(seed, data_of, "omega", *key),
                stream(seed, data_of, "phase", *key),
                max(stop for _, (_, stop) in networks),
                d_head,
                head_a,
            )
            found = read(
                sequences,
                neurons,
                [span for _, span in networks],
                FEATURE_MAPS[feature_map].activation,
                threshold,
                order == "causal",
                Leak(leak_hebbian, leak_presynaptic),
            )
            for ((size, place), _), per_input in zip(networks, found):
                if len(per_input) < len(chosen_inputs):  # they were padded to one
                    per_input = [
                        [x[n][: int(mask[i].sum())] for x in per_input[0]]
                        for n, i in enumerate(chosen_inputs)
                    ]
                for i, shift, (log_p, sign, output) in zip(chosen_inputs, shifts, per_input):
                    at = (size, place, i, layer, head)
                    results["log_calcium"][at][mask[i].numpy()] = (log_p.cpu() + shift).numpy()
                    results["calcium_sign"][at][mask[i].numpy()] = sign.cpu().numpy()
                    results["computed"][at] = True
                    outputs.setdefault((size, i), {})[int(place)] = output.cpu()
            bar.update()
        for (size, i), of_seeds in outputs.items():
            every = slice(0, np.count_nonzero(draws[size] >= 0))
            calcium = [
                torch.from_numpy(results[name][size, every, i, layer, head][:, mask[i].numpy()])
                for name in ("log_calcium", "calcium_sign")
            ]
            for name, values in zip(
                ("output_error", "output_gain", "output_error_other_pool"),
                _output_errors(of_seeds, exact[i], *calcium),
            ):
                results[name][size, list(of_seeds), i, layer, head] = values

    bar_format = "{desc}: {percentage:.0f} % of {total} runs, {elapsed} gone, {remaining} left\n"
    n_runs = len(chosen) * n_draws - known.sum()
    with (
        tqdm(
            total=n_runs, desc="simulate", mininterval=5, maxinterval=5, bar_format=bar_format
        ) as bar,
        ThreadPoolExecutor(workers if device == "cpu" else 1) as pool,
    ):
        for _ in pool.map(lambda pair: run(*pair), chosen):
            pass

    point = ("n_features", "seed", "input", "layer", "head")
    dims = {
        "log_calcium": (*point, "token"),
        "calcium_sign": (*point, "token"),
        "output_error": point,
        "output_gain": point,
        "output_error_other_pool": point,
        "computed": point,
        "key_shift": ("layer", "head", "d_head"),
        "query_shift": ("layer", "head", "d_head"),
        "balance": ("layer", "head", "d_seen", "d_head"),
        "feature_a": ("layer", "head", "d_seen"),
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
        attrs={
            "data": qkv.attrs.get("data", ""),
            "feature_map": feature_map,
            "symmetries": " ".join(symmetries),
            "order": order,
        },
    )


def arrangement(n_features: list[int], n_seeds: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Which draw of the hidden weights each network takes its neurons from, and from which on.

    Two arrays [n_features, seed], -1 where there is no network of that size and seed.
    """
    blocks = [n_features[-1] // m if kind == "blocks" else 1 for m in n_features]
    before = np.cumsum([0, *n_features[:-1]]) if kind == "disjoint" else [0] * len(n_features)
    draws = np.full((len(n_features), n_seeds * max(blocks)), -1)
    starts = draws.copy()
    for row, (m, n) in enumerate(zip(n_features, blocks)):
        index = np.arange(n_seeds * n)
        draws[row, index] = index // n
        starts[row, index] = before[row] + index % n * m
    return draws, starts


def _output_errors(
    outputs: dict[int, torch.Tensor],
    exact: torch.Tensor,
    log_calcium: torch.Tensor,
    sign: torch.Tensor,
) -> tuple[list[float], list[float], list[float]]:
    """Error, gain and error with separate pools of the outputs [T, E] of networks of a size, by seed.

    log_calcium and sign [seed, T] are those of all networks of the size. With separate pools an output is divided by the calcium of the next
    network, whose neurons are others, instead of its own.
    """
    norm = exact.norm()
    errors, gains, separate = [], [], []
    for place, output in outputs.items():
        output, other = output.double(), (place + 1) % len(log_calcium)
        errors.append(float((output - exact).norm() / norm))
        gains.append(float((output * exact).sum() / norm.square()))
        # ASSUME: a silent network has output 0, whatever divides it.
        ratio = torch.exp(log_calcium[place] - log_calcium[other]) * sign[place] * sign[other]
        swapped = torch.where(sign[place] == 0, 0.0, ratio)[:, None] * output
        separate.append(float((swapped - exact).norm() / norm))
    return errors, gains, separate


def _padded(sequences: list[Tokens]) -> Tokens:
    """Sequences of different lengths as one batch; what is added has no gain."""

    def pad(parts: list[torch.Tensor], value: float = 0.0) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)

    q, k, v, log_gain = zip(*sequences)
    return Tokens(pad(q), pad(k), pad(v), pad(log_gain, -torch.inf))
