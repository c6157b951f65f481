"""Run the neuron-astrocyte network on every chosen head, for every seed and number of neurons."""

import math
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from tripartite import hidden
from tripartite import symmetries as exact_symmetries
from tripartite.features import FEATURE_MAPS
from tripartite.heads import Head, Heads
from tripartite.kinds.network.arrangement import Arrangement, arrangement, networks_of
from tripartite.kinds.network.networks import draws_at_once, output_errors, read_batch, seen
from tripartite.network import Leak, Tokens, read

MAX_NAMED = 5  # heads that a warning names
PER_NETWORK = (
    "log_calcium",
    "calcium_sign",
    "output_error",
    "output_gain",
    "output_error_other_pool",
    "computed",
)
Place = tuple[int, int]  # layer and head
Outputs = dict[tuple[int, int], dict[int, Tensor]]  # [T, E], by size and input, then by seed


def simulate(
    heads: Heads,
    n_features: list[int],
    n_seeds: int,
    smaller_networks: str,
    feature_map: str,
    symmetries: list[str],
    leak_hebbian: float,
    leak_presynaptic: float,
    dtype: str,
    previous: xr.Dataset | None,
    a: float | None = None,
    threshold: float = math.inf,
) -> xr.Dataset:
    """Return the calcium and the output errors of networks with n_features hidden neurons.

    Symmetries, and the parameter a where it is not given, are fitted to the inputs that calibrate,
    or to those that are read. previous is what this function returned for other heads or seeds:
    what is in it is not computed again, and no number depends on it.
    """
    arranged = arrangement(n_features, n_seeds, smaller_networks)
    fits = fitted(heads, symmetries, feature_map, a)
    networks = partial(networks_of, arranged, n_features)
    ranges = [network.neurons for network in networks(0)]  # the same in every draw
    m = max(stop for _, stop in ranges)
    n_threads = max(1, heads.workers // max(1, len(heads.chosen)))  # that draw for a head
    kept = draws_kept(previous, n_seeds, heads.chosen)
    coords = {"n_features": n_features, "seed": range(arranged.draw.shape[1])}
    options: dict[str, Any] = {
        "activation": FEATURE_MAPS[feature_map].activation,
        "threshold": threshold,
        "leak": Leak(leak_hebbian, leak_presynaptic),
    }

    def batches(head: Head, inputs: list[tuple[Tokens, Tensor]]) -> list[range]:
        """The draws of a head that are not kept, as many at a time as run together."""
        draws = range(kept[head.layer, head.head], n_seeds)
        given = [tokens for tokens, _ in inputs]
        n = draws_at_once(given, m, len(ranges), n_threads) if in_batches(head) else 1
        return [draws[i : i + n] for i in range(0, len(draws), n)]

    def responses(head: Head, draws: range, inputs: list[tuple[Tokens, Tensor]]) -> Iterator[tuple]:
        """Places (size, seed, input) of the networks of some draws, and what they respond."""
        _, a_of_head = fits[head.layer, head.head]
        neurons = [hidden.neurons(head, draw, m, feature_map, a_of_head) for draw in draws]
        given = [tokens for tokens, _ in inputs]
        if in_batches(head):
            found = read_batch(given, neurons, ranges, n_threads, **options)
        else:
            found = [read(given, x, ranges, causal=head.causal, **options) for x in neurons]
        for draw, of_draw in zip(draws, found):
            for (size, seed, _), of_network in zip(networks(draw), of_draw):
                for i, (_, log_shift), response in zip(heads.read_inputs, inputs, of_network):
                    log_p, sign, output = (x.cpu() for x in response)
                    yield (size, seed, i), (log_p + log_shift, sign, output)

    def one_head(head: Head) -> dict[str, np.ndarray]:
        place = head.layer, head.head
        symmetry, number = fits[place][0], getattr(torch, dtype)
        inputs = [seen(x.q, x.k, x.v, symmetry, number, heads.device) for x in head.readings]
        states = heads.not_run("states", PER_NETWORK, coords, without=("layer", "head"))
        take_over(states, previous, place, arranged, kept[place])
        outputs: Outputs = defaultdict(dict)
        for draws in head.each(batches(head, inputs)):
            for at, (log_p, sign, output) in responses(head, draws, inputs):
                size, seed, i = at
                states["log_calcium"][*at, heads.present(i)] = log_p.numpy()
                states["calcium_sign"][*at, heads.present(i)] = sign.numpy()
                states["computed"][at] = True
                outputs[size, i][seed] = output
        compare(states, outputs, arranged, heads, head)
        return states

    found = heads.table(
        "states", one_head, coords, **arranged._asdict(), **of_all_heads(heads, fits)
    )
    return found.assign_attrs(feature_map=feature_map, symmetries=" ".join(symmetries))


def in_batches(head: Head) -> bool:
    """Whether draws and inputs run together: on a GPU, where networks are bidirectional."""
    return head.device != "cpu" and not head.causal


def compare(
    states: dict[str, np.ndarray],
    outputs: Outputs,
    arranged: Arrangement,
    heads: Heads,
    head: Head,
) -> None:
    """Put the errors of new outputs into the states of a head."""
    exact = dict(zip(heads.read_inputs, (x.output for x in head.readings)))
    for (size, i), of_seeds in outputs.items():
        log_p, sign = (
            torch.from_numpy(states[name][size, arranged.draw[size] >= 0, i][:, heads.present(i)])
            for name in ("log_calcium", "calcium_sign")
        )
        for name, values in output_errors(of_seeds, exact[i], log_p, sign).items():
            states[name][size, list(of_seeds), i] = values


def fitted(
    heads: Heads, names: list[str], feature_map: str, a: float | None
) -> dict[Place, tuple[exact_symmetries.Symmetry, Tensor]]:
    """Symmetries and a of all heads, chosen or not, as closed forms are computed for all of them.

    A head to which no balance can be fitted, as its queries or keys are zero, goes without one.
    """
    found, left = {}, []
    for place in np.ndindex(heads.qkv.sizes["layer"], heads.qkv.sizes["head"]):
        head = heads.head(*place)
        inputs = [(x.q, x.k) for x in head.calibrating or head.readings]
        try:
            found[place] = exact_symmetries.for_map(inputs, names, feature_map, a, head.causal)
        except ValueError:
            others = [name for name in names if name != "balance"]
            found[place] = exact_symmetries.for_map(inputs, others, feature_map, a, head.causal)
            left.append(f"layer {place[0]}, head {place[1]}")
    if left:
        more = f" and {len(left) - MAX_NAMED} more" * (len(left) > MAX_NAMED)
        print(
            "warning: not balanced, as all of their queries or keys are zero: "
            f"{'; '.join(left[:MAX_NAMED])}{more}",
            flush=True,
        )
    return found


def of_all_heads(heads: Heads, fits: dict[Place, tuple]) -> dict[str, np.ndarray]:
    """What was fitted as variables of the file, [layer, head, ...]."""
    shape = heads.qkv.sizes["layer"], heads.qkv.sizes["head"]
    parts = [symmetry._asdict() | {"feature_a": a} for symmetry, a in fits.values()]
    return {
        name: torch.stack([part[name] for part in parts]).unflatten(0, shape).numpy()
        for name in parts[0]
    }


def draws_kept(previous: xr.Dataset | None, n_draws: int, chosen: list[Place]) -> dict[Place, int]:
    """How many draws of each chosen head, from the first one on, are taken over from `previous`.

    The networks of the last draw are compared with those of the first one, so that they change
    where draws are added or left out.
    """
    if previous is None:
        return dict.fromkeys(chosen, 0)
    n_before = int(previous["draw"].max()) + 1
    n_kept = n_draws if n_draws == n_before else min(n_draws, n_before) - 1
    there = previous["computed"].any(("n_features", "seed", "input")).values  # [layer, head]
    kept = {place: n_kept * int(there[place]) for place in chosen}
    if any(kept.values()):
        print(
            f"{sum(kept.values())} of {len(chosen) * n_draws} runs are taken over from the file "
            "that is there",
            flush=True,
        )
    return kept


def take_over(
    states: dict[str, np.ndarray],
    previous: xr.Dataset | None,
    place: Place,
    arranged: Arrangement,
    n_kept: int,
) -> None:
    """Copy the networks of the first draws of a head into its states."""
    if previous is None:
        return
    before = previous[list(states)].isel(layer=place[0], head=place[1]).load()
    for size, draws in enumerate(arranged.draw):
        seeds = np.flatnonzero((draws >= 0) & (draws < n_kept))
        for name, values in states.items():
            values[size, seeds] = before[name].values[size, seeds]
