"""What is wrong with a user's values: masks that look inverted, and numbers that stand for none.

Arrays may be larger than memory: they are asked for parts of themselves only.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from tripartite import large
from tripartite.foreign import NEVER_WRITTEN


def inverted_mask(keys: Any, mask: np.ndarray) -> str:
    """Why a mask may be true where there is no token; "" where nothing speaks for it.

    keys [input, layer, head, token, d_head], mask [input, token].
    """
    if not mask[:, 0].any():
        return "every input begins with absent tokens"
    if mask.all():
        return ""
    has_values = np.zeros_like(mask)
    for i, layer, head in np.ndindex(keys.shape[:3]):
        values = np.asarray(keys[i, layer, head])  # [token, d_head]
        present = np.isfinite(values) & (values != 0) & (values != NEVER_WRITTEN)
        has_values[i] |= present.any(-1)
    if has_values[~mask].all() and not has_values[mask].all():
        return "all keys at absent tokens have values, and some at tokens have none"
    return ""


def absent_values(
    name: str, values: Any, attrs: Mapping, mask: np.ndarray, inputs: list[str]
) -> Iterator[str]:
    """Values at tokens that stand for none: netCDF's default, or what attributes name.

    values [input, layer, head, token, d_head]. A fill value of 0 names nothing: true zeros are
    common.
    """
    reasons = {NEVER_WRITTEN: "was never written"}
    for key in ("missing_value", "_FillValue"):
        value = attrs.get(key)
        if value and value == value and value not in reasons:
            reasons[value] = f"is {value:g}, which the attribute {key} marks as missing,"
    for value, reason in reasons.items():
        place, count = large.search(values, mask, partial(np.equal, values.dtype.type(value)))
        if count:
            i, layer, head, token, d = place
            yield (
                f"{name}: {reason} at input {inputs[i]}, layer {layer}, head {head}, token "
                f"{token}, d_head {d} ({count} such values); every value at a token must be there"
            )
