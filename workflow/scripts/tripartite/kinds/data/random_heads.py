"""Synthetic heads: random queries and keys of known norms."""

from collections.abc import Callable

import numpy as np


def random_heads(
    sigma_squared: list[float],
    n_inputs: int,
    n_tokens: int,
    d_head: int,
    value_mean: float,
    rng: Callable[[str], np.random.Generator],
) -> dict[str, np.ndarray]:
    """q, k, v [input, layer, head, token, d_head] of one layer with one head per sigma^2.

    sigma^2 is the mean of |q + k|^2 over pairs of query and key. Queries and keys have random
    directions and the fixed square norm sigma^2 / 2 each, so that |q + k|^2 stays below 2 sigma^2;
    values are normal with the mean value_mean and the variance 1. Inputs and heads are independent.
    rng gives the random numbers of q, k and v.
    """
    shape = (n_inputs, 1, len(sigma_squared), n_tokens, d_head)
    norm = np.sqrt(np.array(sigma_squared) / 2)[:, None, None]  # [head, 1, 1]
    q, k, v = (rng(name).standard_normal(shape) for name in ("q", "k", "v"))
    for x in (q, k):
        x *= norm / np.linalg.norm(x, axis=-1, keepdims=True)
    return {"q": q, "k": k, "v": v + value_mean}
