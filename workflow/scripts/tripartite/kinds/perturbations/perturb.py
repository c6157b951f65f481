"""Lesion and disturb the networks of every chosen head, and set the laws beside what it does."""

import numpy as np
import xarray as xr

from tripartite import hidden
from tripartite.heads import Head, Heads, Reading
from tripartite.kinds.perturbations import effects
from tripartite.kinds.perturbations.perturbations import Network, log_rates
from tripartite.kinds.perturbations.registry import PERTURBATIONS, ROUNDED, WORDS
from tripartite.streams import stream


def perturb(
    heads: Heads, kinds: dict[str, list[float]], n_features: list[int], n_seeds: int
) -> xr.Dataset:
    """Return errors and gains of the output at each dose of each perturbation, beside their laws.

    kinds maps names of PERTURBATIONS to doses; where one was not tried at the dose of another,
    numbers are NaN. Hidden weights are those of simulate's plain networks. Intervals are over
    seeds and inputs, and NaN for a single input.
    """
    names = [name for name in PERTURBATIONS if name in kinds]
    doses = np.unique([float(dose) for of_kind in kinds.values() for dose in of_kind])
    tried = np.array([np.isin(doses, kinds[name]) for name in names])
    cases = [(names[row], float(doses[column])) for row, column in np.argwhere(tried)]

    def of_input(head: Head, reading: Reading, draw: int, weights: np.ndarray) -> list[dict]:
        """Effects on the networks of one draw that have read one input [n_features]."""
        log_q, log_k = (log_rates(x.numpy(), weights) for x in (reading.q, reading.k))
        exact = reading.v.numpy(), reading.log_normalizer.numpy(), reading.output.numpy()
        found = []
        for m in n_features:
            own = (m, draw, head.layer, head.head, reading.name)
            rngs = [stream(head.seed, head.data_of, "perturb", *case, *own) for case in cases]
            done = [(PERTURBATIONS[name], dose, rng) for (name, dose), rng in zip(cases, rngs)]
            found.append(effects.of_network(Network(log_q[:, :m], log_k[:, :m], *exact), done))
        return found

    def placed(values: np.ndarray) -> np.ndarray:
        """Values [case, n_features] as [perturbation, dose, n_features]."""
        table = np.full((*tried.shape, len(n_features)), np.nan)
        table[tried] = values
        return table

    def bits_needed(ratio: np.ndarray) -> np.ndarray:
        """Bits [perturbation, tolerated, n_features] of a ratio [perturbation, dose, ...]."""
        table = np.full((len(names), len(effects.TOLERATED), len(n_features)), np.nan)
        for row, name in enumerate(names):
            if name in ROUNDED:
                own = doses[tried[row]], ratio[row, tried[row]]
                table[row] = [effects.least_bits(*own, limit) for limit in effects.TOLERATED]
        return table

    def one_head(head: Head) -> dict:
        with np.errstate(all="ignore"):  # outputs beyond float64 are inf, of silent networks NaN
            of_draws = []
            for draw in head.each(range(n_seeds)):
                neurons = hidden.neurons(head, draw, n_features[-1])
                weights = np.concatenate([omega.numpy() for omega, _ in neurons])
                of_draws.append([of_input(head, x, draw, weights) for x in head.readings])
            found = effects.summaries(of_draws, head.stream("perturb", "intervals"))
        unperturbed = found.pop("output_error_unperturbed")
        tables = {
            name: tuple(map(placed, x)) if isinstance(x, tuple) else placed(x)
            for name, x in found.items()
        }
        bits = tuple(map(bits_needed, tables["error_ratio"]))
        return tables | {"output_error_unperturbed": unperturbed, "bits_needed": bits}

    words = {word: [getattr(PERTURBATIONS[name], word) for name in names] for word in WORDS}
    coords = {
        "perturbation": names,
        "dose": doses,
        "tolerated": effects.TOLERATED,
        "n_features": n_features,
    }
    return heads.table("perturbations", one_head, coords, tried=tried, **words)
