"""Sentences of claims with numbers in their places."""

import re
from collections.abc import Mapping

import numpy as np

from tripartite.kinds.claims.checks import N_VALUES, PLACE
from tripartite.kinds.claims.quantities import Number

UNKNOWN = "–"


def sentence(template: str, numbers: Mapping[str, Number]) -> str:
    """A sentence with its numbers; those that are missing are a dash."""
    return PLACE.sub(lambda found: shown(numbers[found[1]], found[2] or ""), template)


def shown(number: Number, form: str = "") -> str:
    """A number in a format of Python; in brackets, as [.2f], with its interval; n: its values."""
    if np.isnan(number.value):
        return UNKNOWN
    if form == N_VALUES:
        return str(number.n_values)
    if not form.startswith("["):
        return one(number.value, form)
    inner = form.strip("[]")
    middle = one(number.value, inner)
    if not number.has_interval:
        return middle
    return f"{middle} [{', '.join(one(end, inner) for end in number.ends)}]"


def one(value: float, form: str) -> str:
    """One value in a format, .3g without one."""
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = format(value, form or ".3g")
    if not float(re.sub(r"[^\d.]", "", text) or 1):  # no minus zero
        text = text.lstrip("-")
    return text.replace("-", "−")
