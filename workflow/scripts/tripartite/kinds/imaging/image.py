"""Image the astrocyte, and find how many trials tell the normaliser from its rivals."""

import numpy as np
import torch
import xarray as xr

from tripartite import hidden
from tripartite.contracts import UserError
from tripartite.heads import Head, Heads
from tripartite.kinds.imaging.contacts import Read, log_calcium
from tripartite.kinds.imaging.fluorescence import (
    ASTROCYTES,
    HYPOTHESES,
    Noise,
    Recording,
    frame_filter,
    known_drives,
    record,
    traces,
)
from tripartite.kinds.imaging.limits import MAX_FRAMES, MIN_FRAMES, MIN_INPUTS
from tripartite.kinds.imaging.trials import DESIGNS, of_sizes


def image(
    heads: Heads,
    n_features: list[int],
    n_seeds: int,
    read_seconds: float,
    tau_calcium: float,
    indicator_rise: float,
    indicator_decay: float,
    frame_seconds: float,
    noise: list[float],
    noise_seconds: float,
    most_trials: int,
) -> xr.Dataset:
    """Return what explains the fluorescence, the trials that each design needs, and a recording.

    Times in s; noise are standard deviations of a frame's noise over that of the signal, and
    noise_seconds its correlation time. Contacts of rivals hold the next input of the data, those of
    the astrocyte that controls them the one after. Intervals are over inputs and seeds.
    """
    if len(heads.names) < MIN_INPUTS:
        raise UserError(
            f"imaging: got data of {len(heads.names)} inputs, wanted at least {MIN_INPUTS}"
        )
    tau = (tau_calcium, indicator_rise, indicator_decay)
    filters = []
    for i in heads.read_inputs:
        n_tokens = heads.n_tokens(i)
        n_frames = int(n_tokens * read_seconds / frame_seconds * (1 + 1e-12))
        if not MIN_FRAMES <= n_frames <= MAX_FRAMES:
            raise UserError(
                f"imaging: input {heads.names[i]}, {n_tokens} tokens read for {read_seconds:g} s "
                f"each, makes {n_frames} frames, wanted {MIN_FRAMES} to {MAX_FRAMES}; change "
                "read_seconds or frame_seconds"
            )
        filters.append(frame_filter(n_tokens, n_frames, read_seconds, frame_seconds, tau))
    levels = np.sort(np.array(noise, dtype=float))
    of_frames = Noise(frame_seconds, noise_seconds)

    def one_head(head: Head) -> tuple[dict, dict]:
        """Results of a head, and traces of its first recording with the largest network."""
        n_inputs = len(heads.names)
        keys = [heads.reading(i, head.layer, head.head).k.to(head.device) for i in range(n_inputs)]
        reads = [
            Read(x.q.to(head.device), i, (i + 1) % n_inputs, (i + 2) % n_inputs)
            for x, i in zip(head.readings, heads.read_inputs)
        ]
        drives = [
            known_drives(*(y.cpu().numpy() for y in (x.q, x.k, x.log_normalizer, keys[read.other])))
            for x, read in zip(head.readings, reads)
        ]

        def recordings(draw: int, m: int) -> list[Recording]:  # [input]
            order = head.stream("shuffle", draw, m).random((2, m))
            neurons = (weights.to(head.device) for weights, _ in hidden.neurons(head, draw, m))
            calcium = log_calcium(neurons, reads, keys, torch.from_numpy(order).to(head.device))
            return [record(*of_input) for of_input in zip(filters, calcium, drives)]

        of_seeds = [[recordings(draw, m) for m in n_features] for draw in head.each(range(n_seeds))]
        rng = head.stream("image")
        found = of_sizes(of_seeds, levels, of_frames, most_trials, rng)
        return found, traces(of_seeds[0][-1][0], levels, of_frames, rng)

    results, of_heads = zip(*heads.map(one_head, "image"))
    coords = {
        "rival": list(HYPOTHESES),
        "astrocyte": list(ASTROCYTES),
        "design": list(DESIGNS),
        "noise": levels,
        "n_features": n_features,
        "sample": np.arange(len(of_heads[0]["trace_seconds"])),
    }
    layer, head = heads.chosen[0]
    traced = of_heads[0] | {
        "trace_input": heads.names[heads.read_inputs[0]],
        "trace_layer": np.int64(heads.qkv["layer"].values[layer]),
        "trace_head": np.int64(heads.qkv["head"].values[head]),
        "most_trials": np.int64(most_trials),
    }
    return heads.dataset("imaging", heads.placed("imaging", list(results), coords) | traced, coords)
