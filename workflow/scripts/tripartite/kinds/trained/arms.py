"""Small transformers whose attention is one of several arms.

Each arm gives a head's output and ln of the response p that divides it, so that a knock-out needs
no more than `change`: exp(log_p - log_p') * output is the output that is divided by p' instead.
"""

from typing import NamedTuple

from torch import Tensor


class Read(NamedTuple):
    """What the heads of a layer read: output [B, H, T, E], ln p [B, H, T], values [B, H, T, E]."""

    output: Tensor
    log_p: Tensor
    v: Tensor


# Network.forward(inputs, change=None) -> logits [B, T, n_outputs], or [B, n_outputs] for tasks with
# one target per sequence. change(layer, read: Read) -> output [B, H, T, E] replaces the attention
# output of all heads of a layer; None leaves all. A change may record what it is given, to fit
# constants. gru has no attention and takes no change.
