"""Write and read tokens in continuous time, and see how the network approaches its algebra."""

import numpy as np
import torch
import xarray as xr

from tripartite import hidden
from tripartite.contracts import UserError
from tripartite.dynamics import Diverged
from tripartite.heads import Head, Heads, Reading
from tripartite.kinds.convergence import limit
from tripartite.network import Hidden


def converge(
    heads: Heads, n_features: list[int], n_seeds: int, ratios: list[float], steps: list[int]
) -> xr.Dataset:
    """Return errors of continuous time against time constants, and of Runge-Kutta against steps.

    Time constants are a ratio times the time T for which a token is written, and a query read.
    Runge-Kutta's method takes `steps` steps per token, at the middle ratio, in the first head,
    input and size. Where there is no slope or order, a note says why. UserError where a state is
    not finite.
    """
    rising_ratios, rising_steps = np.sort(np.array(ratios, dtype=float)), np.sort(steps)
    middle_ratio = float(rising_ratios[len(ratios) // 2])

    def networks(head: Head, draw: int) -> list[Hidden]:
        weights, bias = (
            torch.cat(parts) for parts in zip(*hidden.neurons(head, draw, n_features[-1]))
        )
        return [Hidden(weights[:m], bias[:m]) for m in n_features]

    def errors_of(network: Hidden, x: Reading) -> np.ndarray:
        try:
            return limit.read_out_errors(limit.activity(network, x.q, x.k, x.v), rising_ratios)
        except Diverged as error:
            raise UserError(f"convergence: {error}") from None

    def one_head(head: Head) -> np.ndarray:
        errors = np.stack(
            [
                [[errors_of(network, x) for x in head.readings] for network in networks(head, draw)]
                for draw in head.each(range(n_seeds))
            ],
            axis=-1,
        )  # [n_features, input, 6, ratio, seed]
        return errors.mean(1).transpose(1, 2, 0, 3)

    first = heads.head(*heads.chosen[0])

    def integrator_errors(draw: int) -> np.ndarray:
        network, x = networks(first, draw)[0], first.readings[0]
        activity = limit.activity(network, x.q, x.k, x.v)
        return limit.integrator_errors(activity, middle_ratio, rising_steps)

    results = limit.of_networks(np.array(heads.map(one_head, "converge")), rising_ratios)
    of_steps = np.stack([integrator_errors(draw) for draw in range(n_seeds)], axis=-1)
    coords = {"ratio": rising_ratios, "step": rising_steps, "n_features": n_features}
    values = heads.placed("convergence", results, coords)
    values |= limit.of_integrator(of_steps, rising_steps, middle_ratio)
    return heads.dataset("convergence", values, coords)
