"""Standard transformer attention of every head: the reference of everything that follows."""

import numpy as np
import torch
import xarray as xr

from tripartite.attention import softmax_attention
from tripartite.large import Room


def attend(
    qkv: xr.Dataset,
    order: str = "bidirectional",
    leak_hebbian: float = 0.0,
    leak_presynaptic: float = 0.0,
    room: Room = np.empty,
) -> xr.Dataset:
    """Return log_normalizer and output of softmax attention in float64; NaN where no token is.

    order is "bidirectional" or "causal"; the leaks, per token, weigh older keys less. room, of a
    shape and a dtype, gives an array to be filled.
    """
    mask = qkv["mask"].values  # [input, token]
    log_normalizer = np.full(qkv["q"].shape[:-1], np.nan)
    output = room(qkv["v"].shape, np.float64)
    leak = (leak_hebbian, leak_presynaptic)
    for index in np.ndindex(log_normalizer.shape[:3]):  # one by one, which bounds the memory
        present = mask[index[0]]
        q, k, v = (
            torch.from_numpy(qkv[name].variable[index].values[present]).double() for name in "qkv"
        )
        everything = torch.ones(len(q), dtype=torch.bool)
        log_z, o = softmax_attention(q, k, v, everything, order == "causal", leak)
        log_normalizer[index][present] = log_z.numpy()  # [token(, d_head)]
        block = np.full(qkv["v"].shape[3:], np.nan)
        block[present] = o.numpy()
        output[index] = block
    return xr.Dataset(
        {
            "log_normalizer": (qkv["q"].dims[:-1], log_normalizer),
            "output": (qkv["v"].dims, output),
        },
        coords={name: qkv[name] for name in ("input", "layer", "head")},
    )
