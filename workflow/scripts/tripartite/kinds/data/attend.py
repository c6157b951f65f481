"""Standard transformer attention of every head: the reference of everything that follows."""

import json

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from tripartite.attention import relative_error, softmax_attention
from tripartite.contracts import UserError
from tripartite.large import Room

# ASSUME: a model's softmax and sums round a few times, each relative to its largest numbers.
ROUNDINGS = 32


def attend(
    qkv: xr.Dataset,
    leak_hebbian: float = 0.0,
    leak_presynaptic: float = 0.0,
    room: Room = np.empty,
) -> xr.Dataset:
    """Return log_normalizer and output of softmax attention in float64; NaN where no token is.

    Every layer has its order; the leaks, per token, weigh older keys less. Where the file has the
    model's own output and nothing leaks, UserError if the output differs by more than rounding.
    room, of a shape and a dtype, gives an array to be filled.
    """
    mask = qkv["mask"].values  # [input, token]
    log_normalizer = np.full(qkv["q"].shape[:-1], np.nan)
    output = room(qkv["v"].shape, np.float64)
    leak = (leak_hebbian, leak_presynaptic)
    causal = qkv["order"].values == "causal"
    of_model = None if any(leak) or "model_output" not in qkv else qkv["model_output"]
    excess = np.zeros(mask.shape[:1] + log_normalizer.shape[1:3])
    for index in np.ndindex(log_normalizer.shape[:3]):  # one by one, which bounds the memory
        present = mask[index[0]]
        q, k, v = (
            torch.from_numpy(qkv[name].variable[index].values[present]).double() for name in "qkv"
        )
        everything = torch.ones(len(q), dtype=torch.bool)
        log_z, o = softmax_attention(q, k, v, everything, bool(causal[index[1]]), leak)
        log_normalizer[index][present] = log_z.numpy()  # [token(, d_head)]
        block = np.full(output.shape[3:], np.nan)
        block[present] = o.numpy()
        output[index] = block
        if of_model is not None:
            own = torch.from_numpy(of_model.variable[index].values[present]).double()
            allowed = rounding(q, k, qkv.attrs.get("model_dtype", "float32"))
            difference = float(relative_error(own, o))
            excess[index] = difference if difference > allowed else 0
    if excess.any():
        raise UserError(_fault(qkv, excess))
    return xr.Dataset(
        {
            "log_normalizer": (qkv["q"].dims[:-1], log_normalizer),
            "output": (qkv["v"].dims, output),
        },
        coords={name: qkv[name] for name in ("input", "layer", "head")},
    )


def rounding(q: Tensor, k: Tensor, dtype: str) -> float:
    """Relative difference of outputs that rounding may make, for q and k [T, D].

    Logits are sums of products up to |q| |k| in float32, and the output is rounded to the dtype of
    the model.
    """
    largest = float(q.norm(dim=-1).max() * k.norm(dim=-1).max())
    of_logits = torch.finfo(torch.float32).eps * (ROUNDINGS + 4 * largest)
    return of_logits + 4 * torch.finfo(getattr(torch, dtype)).eps * (dtype != "float32")


def _fault(qkv: xr.Dataset, excess: np.ndarray) -> str:
    """The line about outputs that are not the model's; excess [input, layer, head]."""
    of_layers = excess.max((0, 2))
    layer = int(of_layers.argmax())
    labels = json.loads(qkv.attrs.get("labels", "{}")).get("layer")
    name = f"layer {layer}" + (f" ({labels[layer]})" if labels else "")
    return (
        f"{qkv.attrs['data']}: model_output: softmax(q.k) v is not the model's own output in "
        f"{(of_layers > 0).sum()} of {len(of_layers)} layers; the worst is {name}, "
        f"{qkv['order'].values[layer]}, which differs by {of_layers[layer]:.2g} of the output; "
        "check the order, the mask (1 where there is a token) and the scale of q and k, or record "
        "the model with record_attention.py"
    )
