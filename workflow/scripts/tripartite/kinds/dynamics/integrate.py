"""Run one head of the network on one input in continuous time, and record it."""

import math
from collections.abc import MutableMapping
from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from tripartite.attention import softmax_attention
from tripartite.contracts import UserError
from tripartite.dynamics import INTEGRATORS, Constants, Diverged, rest
from tripartite.heads import Heads, progress
from tripartite.hidden import neurons
from tripartite.kinds.dynamics import recording
from tripartite.kinds.dynamics.recording import Timetable
from tripartite.network import Hidden


def integrate(
    heads: Heads,
    head: list[int],
    input: str,
    n_features: int,
    timetable: Timetable,
    constants: Constants,
    integrator: str,
    step_seconds: float,
    calcium: str,
    checkpoint: MutableMapping[str, dict[str, np.ndarray]],
) -> xr.Dataset:
    """Return samples of rates, synapses and calcium over time, and the output for every token.

    The hidden weights are those of seed 0 of the networks of the same data. Rates are in units of
    the largest of any key, and of any query; H, g and p follow, and log_calcium_unit says what p
    counts: p exp(log_calcium_unit) is the normaliser. The algebra beside it is that of the paper:
    no time constants, leaks or saturation. The exact attention of causal order is computed here,
    attention.nc has none. checkpoint holds what is finished, in pieces, and the last state, so that
    a run that was cut off can continue.
    """
    one_head = replace(heads, heads=[head], inputs=[input]).head(*head)
    (reading,) = one_head.readings
    n_tokens, sample_seconds = len(reading.q), timetable.sample_seconds
    end = timetable.end(n_tokens)
    if timetable.sample > end:
        raise UserError(
            f"dynamics: sample_seconds: got {sample_seconds:g} s, wanted at most the "
            f"{float(end):g} s that all tokens take; lower it"
        )
    log_z, exact = reading.log_normalizer, reading.output
    if timetable.causal:
        present = torch.ones(n_tokens, dtype=torch.bool)
        log_z, exact = softmax_attention(reading.q, reading.k, reading.v, present, causal=True)

    weights, bias = (torch.cat(parts) for parts in zip(*neurons(one_head, 0, n_features)))
    network = recording.network_of(Hidden(weights, bias), reading.q, reading.k, reading.v)
    electrodes = recording.electrodes_of(network)
    pieces = recording.pieces(network, timetable)
    done, state = recording.resumed(checkpoint, rest(n_features, reading.v.shape[1]))

    def advance(state, period):
        return INTEGRATORS[integrator](state, period, constants, step_seconds)

    for number, piece in enumerate(progress(pieces, "integrate", "pieces")):
        if number < done:
            continue
        try:
            state, recorded = recording.record(
                state, piece, advance, timetable.sample, electrodes, exact
            )
        except Diverged as error:
            raise UserError(f"dynamics: step_seconds: {error}") from None
        checkpoint[f"piece-{number}"] = recorded
        arrays = {name: x.numpy() for name, x in state._asdict().items()}
        checkpoint["state"] = {"done": np.array(number + 1)} | arrays
    found = recording.joined([checkpoint[f"piece-{number}"] for number in range(len(pieces))])

    try:
        found["intracellular"] = recording.intracellular(calcium, found["calcium"], sample_seconds)
    except ValueError as error:
        raise UserError(f"dynamics: calcium: {calcium}: {error}") from None
    # growth of g by a token with a rate of 1
    growth = (constants.release or 1.0) * timetable.token_seconds / constants.tau_presynaptic
    unscaled, output = recording.algebra(network, timetable.causal)
    normalizer = growth * unscaled.numpy()
    while_read = np.where(found["control"] == 1, normalizer[found["token_on"]], np.nan)
    place = heads.names.index(input)
    text = heads.qkv["text"].values[place, heads.qkv["mask"].values[place]]
    values = {
        "hidden_neuron": electrodes.neurons.numpy(),
        "output_unit": electrodes.units.numpy(),
        "normalizer": while_read,
        "text": text.astype(object),
        "log_normalizer": log_z.numpy(),
        "normalizer_network": normalizer,
        "output_error_algebra": recording.error_and_cosine(output, exact)[0],
        "log_calcium_unit": network.log_unit - math.log(growth),
        **constants.times,
        "token_seconds": timetable.token_seconds,
        "read_seconds": timetable.read_seconds,
        "n_features": n_features,
        "layer": head[0],
        "head": head[1],
        "input": input,
        "calcium_model": calcium,
    }
    return heads.dataset("traces", found | values, {"sample": np.arange(len(found["seconds"]))})
