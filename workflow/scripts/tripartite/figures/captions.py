"""Captions of figures: question, answer with numbers, how it is read, what is behind it."""

import json

import numpy as np
import xarray as xr

from tripartite.figures import palette


def caption(question: str, answer: str, reading: str, fits: dict[str, xr.Dataset]) -> str:
    """The caption as plain text: question and answer, how the figure is read, n and files.

    question and reading are those of its declaration, answer is what its module says with numbers;
    fits: what it shows.
    """
    answer = answer.replace(r"\$", "$")  # names in figures are escaped
    parts = [" ".join(filter(None, (question, answer))), reading, behind(fits)]
    return "\n\n".join(filter(None, (" ".join(part.split()) for part in parts))) + "\n"


def behind(fits: dict[str, xr.Dataset]) -> str:
    """Heads, inputs, networks and sizes behind each experiment, and the file that is read."""
    lines = []
    for name, fit in fits.items():
        words = ", ".join(counts(fit))
        data = fit.attrs["data"] or f"{fit.sizes.get('claim', 0)} claims"
        lines.append(f"{data} ({name}{': ' if words else ''}{words})")
    if not lines:
        return ""
    files = ", ".join(f"{name}/{fit.attrs['title'].split()[-1]}.nc" for name, fit in fits.items())
    return f"Shown: {'; '.join(lines)}. Files: {files}."


def counts(fit: xr.Dataset) -> list[str]:
    """How many heads, inputs and independent networks or trainings there are, and their sizes.

    Of claims, how many numbers of how many experiments.
    """
    words = []
    if fit.attrs.get("kind") == "claims":
        rests_on = {name for names in fit["experiment"].values for name in names.split(", ")}
        return [f"{fit.sizes['quantity']} numbers of {len(rests_on)} experiments"]
    settings = all_settings(fit)
    if {"layer", "head"} <= {*fit.sizes} and (n := n_heads(fit)):
        words.append(f"{n} heads" if n > 1 else "1 head")
        run = settings.get("heads")
        if isinstance(run, list) and len(run) < n:
            words.append(f"{len(run)} of them simulated")
    if fit.attrs.get("kind") == "writing":
        words.append(f"{fit.sizes['prompt']} prompts" if fit.sizes["prompt"] > 1 else "1 prompt")
    elif n := n_inputs(fit, settings):
        words.append(f"{n} inputs" if n > 1 else "1 input")
    if n := int(settings.get("n_seeds", 0)):
        words.append(f"{n} {'trainings' if fit.attrs.get('kind') == 'trained' else 'networks'}")
    if "n_features" in fit and fit["n_features"].size:
        sizes = np.atleast_1d(fit["n_features"].values)
        words.append(f"m = {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else ""))
    return words


def n_heads(fit: xr.Dataset) -> int:
    """Most heads of which any variable has a finite number."""
    most = 0
    for values in fit.data_vars.values():
        if {"layer", "head"} <= {*values.dims} and values.dtype.kind == "f":
            others = [dim for dim in values.dims if dim not in ("layer", "head")]
            most = max(most, int((abs(values) < np.inf).any(others).sum()))
    return most


def n_inputs(fit: xr.Dataset, settings: dict) -> int:
    """Inputs of which the file has all kinds of numbers, or else those of its settings.

    Without those that calibrate, train or validate; 0 if it is not known.
    """
    held = {
        x for use in ("calibrated", "trained", "validated") for x in settings.get(f"{use}_on", [])
    }
    if "input" in fit and not fit["input"].ndim:
        return 1
    known = [
        {*fit["input"].values[values.notnull().any([x for x in values.dims if x != "input"])]}
        for values in fit.data_vars.values()
        if "input" in values.dims and values.dtype.kind == "f"
    ]
    if known := [names - held for names in known if names - held]:
        return len(set.intersection(*known))
    inputs = settings.get("inputs", [])
    return inputs if isinstance(inputs, int) else len({*inputs} - held) or len(inputs)


def all_settings(fit: xr.Dataset) -> dict:
    """Settings of the file's own stage and, behind it, of those from which it was made."""
    behind = json.loads(fit.attrs.get("upstream_settings", "{}"))
    found: dict = {}
    for settings in (*behind.values(), json.loads(fit.attrs.get("settings", "{}"))):
        found |= {key: value for key, value in settings.items() if value != "all"}
    if "inputs" not in found:
        for settings in behind.values():
            if isinstance(data := settings.get("data"), dict):
                drawn = data.get("synthetic") or {}
                found["inputs"] = data.get("inputs", drawn.get("n_inputs", []))
    return found


def interval(value: float, low: float, high: float, words=palette.decimal) -> str:
    """A number with its interval in brackets; without it where the ends are not known."""
    if not np.isfinite([low, high]).any():
        return words(value)
    return f"{words(value)} [{words(low)}, {words(high)}]"
