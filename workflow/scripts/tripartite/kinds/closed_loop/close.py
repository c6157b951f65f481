"""Divide the output of heads by the calcium that they drive, in one simulation of each network."""

import math
from itertools import product

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from tripartite import calcium
from tripartite.attention import softmax_attention
from tripartite.heads import Head, Heads, Reading
from tripartite.hidden import neurons
from tripartite.kinds.closed_loop import division, loop
from tripartite.kinds.closed_loop.in_time import MODEL, ORDERS, Times
from tripartite.kinds.closed_loop.loop import DRIVES, Input, Protocol
from tripartite.network import Hidden, rates

MAX_LOG_RATE = 100.0  # ASSUME: ln of the highest rate, in units of the highest that calibrates
# ASSUME: as in the simulations that are recorded (kinds/dynamics); H and g grow by h T / 1 s.
TIMES = Times(tau_hidden=0.01, tau_last=0.01, tau_hebbian=1.0, tau_presynaptic=1.0, tau_calcium=0.2)


def close(
    heads: Heads,
    n_features: int,
    n_seeds: int,
    durations: list[float],
    operating_point: float,
    depth: float,
) -> xr.Dataset:
    """Return the errors of outputs that calcium divides, beside other ways to divide.

    A token is on for each of the durations (s), written and read. IP3 is operating_point, plus
    depth (uM) at the mean normaliser of the inputs that calibrate; readouts are fitted there, and
    all else is of the other inputs. What stands token by token is of the first of these and of seed
    0. Intervals are over inputs and seeds, NaN for one input.
    """
    protocol = Protocol(
        seconds=np.sort(np.array(durations, dtype=float)),
        times=TIMES,
        at_rest=operating_point,
        depth=depth,
    )
    shape = len(ORDERS), len(DRIVES)

    def one_head(head: Head) -> dict:
        n = len(head.calibrating)
        cells = [cell for draw in range(n_seeds) for cell in cells_of(head, draw, n_features)]
        driven = loop.driven(cells, n, protocol)
        found = [loop.of_cell(cell, n, protocol) for cell in head.each(driven)]
        stacked = {
            name: np.stack([x[name] for x in found]).reshape(n_seeds, *shape, *found[0][name].shape)
            for name in found[0]
        }  # [seed, order, drive, ...]
        of_inputs = {name: np.moveaxis(stacked[name], 3, 0) for name in ("errors", "variances")}
        values = division.summary(**of_inputs, powers=stacked["powers"], rng=head.stream("close"))
        present = heads.present(heads.read_inputs[0])
        for name in ("error", "log_gain", "calcium", "ip3"):
            values[f"token_{name}"] = padded(stacked[name][0], present)
        values["token_ip3"] = values["token_ip3"][:, 0]
        values["share_at_rest"] = stacked["at_rest"][:, :, 0].mean((0, 2))
        return values

    at_mean = np.array([operating_point + depth])
    coords = {
        "order": ORDERS,
        "drive": DRIVES,
        "division": division.DIVISIONS,
        "duration": protocol.seconds,
    }
    return heads.table(
        "closed_loop",
        one_head,
        coords,
        operating_point=operating_point,
        depth=depth,
        exponent_at_mean=calcium.exponent(MODEL, at_mean)[0],
        relaxation_seconds=calcium.relaxation_seconds(MODEL, at_mean[0]),
        n_features=n_features,
        token_input=heads.names[heads.read_inputs[0]],
    )


def cells_of(head: Head, draw: int, m: int) -> list[list[Input]]:
    """Inputs, those that calibrate first, of one network in all orders and with all drives.

    Rates are in units of the largest of any key, and of any query, of the inputs that calibrate.
    """
    readings = head.calibrating + head.readings
    weights, bias = (torch.cat(parts) for parts in zip(*neurons(head, draw, m)))
    hidden = Hidden(weights, bias)
    logs = [[rates(hidden, x, m)[0] for x in (reading.k, reading.q)] for reading in readings]
    n = len(head.calibrating)
    units = [max(float(x.max()) for x in phase[:n]) for phase in zip(*logs)]
    kernels = [kernel_of(of_keys, of_queries, units) for of_keys, of_queries in logs]
    return [
        [
            Input(
                kernel=kernel,
                v=reading.v.numpy(),
                exact=exact_of(reading, order),
                order=order,
                drive=drive,
                log_unit=sum(units) - math.log(m),
            )
            for reading, kernel in zip(readings, kernels)
        ]
        for order, drive in product(ORDERS, DRIVES)
    ]


def kernel_of(of_keys: Tensor, of_queries: Tensor, units: list[float]) -> np.ndarray:
    """Products of rates [2 T, 2 T] of keys and queries, of ln of the rates [T, m] and of units."""
    pairs = zip((of_keys, of_queries), units)
    scaled = [torch.exp((x - unit).clamp(max=MAX_LOG_RATE)) for x, unit in pairs]
    every = torch.cat(scaled)
    return (every @ every.mT).numpy()


def exact_of(reading: Reading, order: str) -> np.ndarray:
    """Output of softmax attention [T, E]; attention.nc has that of one order only."""
    present = torch.ones(len(reading.k), dtype=torch.bool)
    q, k, v = reading.q, reading.k, reading.v
    return softmax_attention(q, k, v, present, causal=order == "causal")[1].numpy()


def padded(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Values [..., T] at their places among all tokens [..., token], NaN elsewhere."""
    found = np.full((*values.shape[:-1], len(present)), np.nan)
    found[..., present] = values
    return found
