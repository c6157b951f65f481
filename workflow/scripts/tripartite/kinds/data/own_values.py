"""What is wrong with a user's values: masks that look inverted, and numbers that stand for none."""

from collections.abc import Iterator, Mapping

import numpy as np

from tripartite.foreign import NEVER_WRITTEN


def inverted_mask(keys: np.ndarray, mask: np.ndarray) -> str:
    """Why a mask may be true where there is no token; "" where nothing speaks for it.

    keys [input, layer, head, token, d_head], mask [input, token].
    """
    if not mask[:, 0].any():
        return "every input begins with absent tokens"
    values = keys.swapaxes(1, 3)  # [input, token, head, layer, d_head]
    present = np.isfinite(values) & (values != 0) & (values != NEVER_WRITTEN)
    has_values = present.any((2, 3, 4))
    if not mask.all() and has_values[~mask].all() and not has_values[mask].all():
        return "all keys at absent tokens have values, and some at tokens have none"
    return ""


def absent_values(
    name: str, values: np.ndarray, attrs: Mapping, mask: np.ndarray, inputs: list[str]
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
    token = mask[:, None, None, :, None]
    for value, reason in reasons.items():
        bad = (values == values.dtype.type(value)) & token
        if bad.any():
            i, layer, head, place, d = np.argwhere(bad)[0]
            yield (
                f"{name}: {reason} at input {inputs[i]}, layer {layer}, head {head}, token "
                f"{place}, d_head {d} ({bad.sum()} such values); every value at a token must be "
                "there"
            )
