"""MNIST-1D: series of 40 numbers in ten classes (Greydanus and Kobak, arXiv 2011.14439).

The series are those that the published package makes with its own settings and seed, to the last
bit. Its module holds the templates of the ten digits and these settings as literals, which are read
from its wheel; nothing of the wheel is run.
"""

import ast
import zipfile
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from tripartite.contracts import UserError

Array = np.ndarray

WHEEL = "mnist1d"
MEMBER = "mnist1d/data.py"
N_CLASSES = 10
SHIFT = 1e-8  # that the package adds to a template, so that it is 0 at its padding only
WIDTH = 2  # of the filter that correlates the noise, in points
N_VALIDATION = 500  # the last ones of the training part

# Test accuracies that the authors publish (arXiv 2011.14439; the README of their package).
PUBLISHED = {
    "logistic regression": 0.32,
    "MLP": 0.68,
    "GRU": 0.91,
    "CNN": 0.94,
    "human": 0.96,
}


class Series(NamedTuple):
    """Series [n, 40] and their classes [n], of which the first n_training are the training part."""

    x: Array
    y: Array
    n_training: int


def read(archive: zipfile.ZipFile) -> Series:
    """The series as the package of the wheel makes them; UserError if it lacks what they need."""
    try:
        module = ast.parse(archive.read(MEMBER))
        literals: dict[str, Any] = {
            node.targets[0].id: node.value
            for node in ast.walk(module)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        settings = ast.literal_eval(literals["arg_dict"])
        calls = [literals[f"d{digit}"] for digit in range(N_CLASSES)]
        templates = [ast.literal_eval(call.args[0]) for call in calls]
        return make(np.array(templates, dtype=np.float64), settings)
    except (KeyError, ValueError, TypeError, IndexError, SyntaxError, AttributeError) as error:
        raise UserError(
            f"{WHEEL}: {MEMBER} has not the promised templates and settings ({error!r}); fetch the "
            "wheel that is pinned"
        ) from None


def make(templates: Array, settings: dict[str, Any]) -> Series:
    """Series of templates [class, n], by the package's steps and in the order of its numbers."""
    random = np.random.RandomState(settings["seed"])  # the package has numpy's old generator
    x = templates - templates.mean(1, keepdims=True)
    x = x / x.std(1, keepdims=True)
    x = (x - x[:, :1]) / 6.0
    n_each = settings["num_samples"] // len(x)
    series = np.stack([_one(shape, settings, random) for shape in x for _ in range(n_each)])
    order = random.permutation(len(series))
    series, y = series[order], np.repeat(np.arange(len(x)), n_each)[order]
    series = (series - series.mean()) / series.std()
    return Series(series, y, int(len(y) * settings["train_split"]))


def _one(shape: Array, settings: dict[str, Any], random: np.random.RandomState) -> Array:
    """A template that is padded, stretched, scaled, shifted, and that noise and a slope change."""
    low, high = settings["padding"]
    padding = low + int(random.rand() * (high - low + 1))
    x = np.concatenate([shape + SHIFT, np.zeros(padding)])
    x = _resampled(x, settings["template_len"] + high)
    x = x * (1 + settings["scale_coeff"] * (random.rand() - 0.5))
    x = np.roll(x, random.choice(settings["max_translation"]))
    noise = gaussian_filter(settings["corr_noise_scale"] * random.randn(len(x)), WIDTH)
    x = np.where(x != 0, x, noise)
    x = x + settings["iid_noise_scale"] * random.randn(len(x))
    slope = settings["shear_scale"] * (random.rand() - 0.5)
    x = x - slope * np.linspace(-0.5, 0.5, len(x))
    return _resampled(x, settings["final_seq_length"])


def _resampled(x: Array, n: int) -> Array:
    """x at n places from its first to its last, by straight lines."""
    return np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(x)), x)


def nearest_neighbour(x: Array, y: Array, tested: Array, classes: Array) -> float:
    """Share of tested series [n, T] that have the class of the nearest x [N, T], by Euclid."""
    squares = np.square(x).sum(1) - 2 * tested @ x.T
    return float((y[squares.argmin(1)] == classes).mean())
