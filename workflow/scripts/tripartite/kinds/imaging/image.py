"""Image the astrocyte, and find how many trials tell the normaliser from its rivals."""

from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from tripartite import hidden
from tripartite.contracts import UserError
from tripartite.heads import Head, Heads
from tripartite.kinds.imaging.fluorescence import (
    HYPOTHESES,
    Recording,
    frame_filter,
    known_drives,
    record,
    traces,
)
from tripartite.kinds.imaging.limits import MAX_FRAMES, MIN_FRAMES
from tripartite.kinds.imaging.trials import of_sizes


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
    most_trials: int,
) -> xr.Dataset:
    """Return what explains the fluorescence, the trials that a test needs, and a recording.

    Times in s; noise are standard deviations of a frame's noise over that of the signal. Intervals
    are over inputs and seeds (cluster bootstrap). Numbers of trials are NaN beyond most_trials, or
    where a rival is likelier, and a note says why.
    """
    tau = (tau_calcium, indicator_rise, indicator_decay)
    filters = {}
    for i in heads.read_inputs:
        n_tokens = heads.n_tokens(i)
        n_frames = int(n_tokens * read_seconds / frame_seconds * (1 + 1e-12))
        if not MIN_FRAMES <= n_frames <= MAX_FRAMES:
            raise UserError(
                f"imaging: input {heads.names[i]}, {n_tokens} tokens read for {read_seconds:g} s "
                f"each, makes {n_frames} frames, wanted {MIN_FRAMES} to {MAX_FRAMES}; change "
                "read_seconds or frame_seconds"
            )
        filters[heads.names[i]] = frame_filter(n_tokens, n_frames, read_seconds, frame_seconds, tau)
    levels = np.sort(np.array(noise, dtype=float))

    def one_head(head: Head) -> tuple[dict, dict]:
        """Results of a head, and traces of its first recording with the largest network."""
        drives = [
            known_drives(x.q.numpy(), x.k.numpy(), x.log_normalizer.numpy()) for x in head.readings
        ]
        # phi(0) is the same for all neurons: what has written keys of 0 pools its mean rate
        unwritten = [replace(x, k=torch.zeros_like(x.k)) for x in head.readings]
        pooled = replace(head, readings=unwritten)

        def recordings(draw: int) -> list[list[Recording]]:  # [n_features][input]
            sizes = zip(
                hidden.networks(head, draw, n_features), hidden.networks(pooled, draw, n_features)
            )
            return [
                [
                    record(filters[x.name], log_p.numpy(), log_mean.numpy(), known)
                    for x, known, (log_p, *_), (log_mean, *_) in zip(head.readings, drives, *size)
                ]
                for size in sizes
            ]

        of_seeds = [recordings(draw) for draw in head.each(range(n_seeds))]
        rng = head.stream("image")
        found = of_sizes(of_seeds, levels, most_trials, rng)
        return found, traces(of_seeds[0][-1][0], levels, frame_seconds, rng)

    results, of_heads = zip(*heads.map(one_head, "image"))
    coords = {
        "rival": list(HYPOTHESES),
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
