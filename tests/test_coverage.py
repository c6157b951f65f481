"""Coverage of every kind of interval at the numbers of clusters that studies use.

Values with known truth are drawn many times: effects of inputs, heads and seeds, and noise. The
shares of intervals that hold the truth stand in docs/intervals.md, and must be those found here.
To write them anew: python tests/test_coverage.py
"""

from pathlib import Path

import numpy as np
import pytest

from tripartite.statistics import best_place, over_clusters, over_seeds, wilson

PAGE = Path(__file__).parent.parent / "docs/intervals.md"
REPEATS = 2000  # binomial sd of a coverage of .95: .005
LEAST = 0.91  # means of skewed values over ten seeds are the lowest
HEAVY = 0.7  # sd of ln of log-normal values, about that of errors over heads


def effects(rng, shape, sd=(1.0, 1.0, 1.0), noise=1.0):
    """Values [*shape, repeat] of mean 0: an effect of each axis of its sd, and noise."""
    values = noise * rng.standard_normal((*shape, REPEATS))
    for axis, of_axis in enumerate(sd[: len(shape)]):
        own = np.ones(len(shape), dtype=int)
        own[axis] = shape[axis]
        values = values + of_axis * rng.standard_normal((*own, REPEATS))
    return values


def mean(n_axes):
    return lambda x: x.mean(tuple(range(n_axes)))


def median(n_axes):
    return lambda x: np.median(x, tuple(range(n_axes)))


def seeds(n, statistic, scale="linear", heavy=False):
    """Seeds alone: 20 dependent values of each."""

    def draw(rng):
        values = effects(rng, (n, 20), sd=(1, 0))
        return np.exp(HEAVY * values) if heavy else values

    def ends(values, rng):
        return over_seeds(statistic(2), values, scale)[1:]

    # of exp(s x) with x of variance 2 the median is 1, and the mean is exp(s^2)
    truth = 0.0 if not heavy else 1.0 if statistic is median else float(np.exp(HEAVY**2))
    return draw, ends, truth


def crossed(shape, statistic=mean, labels=None, sd=(1.0, 1.0, 1.0), scale="linear"):
    """Crossed clusters; labels: of the last axis, whose places of one label share its effect."""

    def draw(rng):
        values = effects(rng, shape, sd)
        if labels is not None:
            own = rng.standard_normal((int(labels.max()) + 1, REPEATS))
            values = values + 2 * own[labels]
        return np.exp(HEAVY * values) if scale == "log" else values

    def ends(values, rng):
        clusters = [None] * (len(shape) - 1) + [labels]
        return over_clusters(statistic(len(shape)), values, clusters, rng, scale, n_draws=400)[1:]

    return draw, ends, 1.0 if scale == "log" else 0.0


SHARED = np.tile(np.arange(8), 12)  # heads of ALBERT: 8 sets of weights in 12 layers
CASES = {  # what: clusters, where studies have them; how it is simulated
    ("mean over seeds", "2 seeds", "large networks"): seeds(2, mean),
    ("mean over seeds", "5 seeds", "lesions, imaging"): seeds(5, mean),
    ("mean over seeds", "10 seeds", "all heads"): seeds(10, mean),
    ("mean over seeds", "100 seeds", "random heads"): seeds(100, mean),
    ("median over seeds", "4 seeds", "all heads of `quick`"): seeds(4, median),
    ("median over seeds", "10 seeds", "all heads"): seeds(10, median),
    ("median over seeds, log scale", "10 seeds", "errors"): seeds(10, median, "log", heavy=True),
    ("mean of skewed values over seeds, log scale", "10 seeds", "output errors"): seeds(
        10, mean, "log", heavy=True
    ),
    ("mean over inputs", "2 inputs", "`quick`"): crossed((2,)),
    ("mean over inputs", "5 inputs", "`default`"): crossed((5,)),
    ("mean over inputs and seeds", "2 x 4", "`quick`"): crossed((2, 4)),
    ("mean over inputs and seeds", "5 x 3", "effective temperature"): crossed((5, 3)),
    ("mean over inputs and seeds", "5 x 5", "imaging"): crossed((5, 5)),
    ("the same, without an effect of seeds", "5 x 5", ""): crossed((5, 5), sd=(1, 0)),
    ("the same, without an effect of inputs", "5 x 5", ""): crossed((5, 5), sd=(0, 1)),
    ("median over inputs and heads", "5 x 72", "symmetries"): crossed((5, 72), median),
    ("median over inputs and heads that share weights", "5 x 96 (8 sets)", "ALBERT"): crossed(
        (5, 96), median, SHARED, sd=(1, 0)
    ),
    ("median over inputs, seeds and heads, log scale", "5 x 2 x 12", "learned features"): crossed(
        (5, 2, 12), median, scale="log"
    ),
}


def coverage(case, rng):
    """Share of intervals that hold the truth."""
    draw, ends, truth = case
    low, high = ends(draw(rng), rng)
    return float(((low <= truth) & (truth <= high)).mean())


def of_best_place(n_inputs, rng):
    """Share of brackets that hold the place of the least true error, of five places."""
    true, hits = np.array([0.6, 0.2, 0.0, 0.1, 0.5]), 0
    for _ in range(300):
        logs = true + 0.5 * rng.standard_normal((n_inputs, 1))
        errors = np.exp(logs + 0.15 * rng.standard_normal((n_inputs, 5)))
        _, low, high = best_place(errors, [None], rng)
        hits += low <= 2 <= high
    return hits / 300


def of_shares(n, rng):
    """Wilson's interval of a share of n, for true shares from .1 to .9."""
    true = np.linspace(0.1, 0.9, REPEATS)
    low, high = wilson(rng.binomial(n, true) / n, n)
    return float(((low <= true) & (true <= high)).mean())


def found():
    """Rows of the table: what, clusters, where, coverage."""
    rows = [
        (*what, coverage(case, np.random.default_rng([i, 20])))
        for i, (what, case) in enumerate(CASES.items())
    ]
    for n in (2, 5):
        rng = np.random.default_rng([n, 21])
        rows.append(("best of tried values", f"{n} inputs", "thresholds", of_best_place(n, rng)))
    rng = np.random.default_rng(22)
    rows.append(("share (Wilson)", "400 experiments", "power", of_shares(400, rng)))
    return rows


def table(rows):
    head = "| interval of 95 % | clusters | where | coverage |\n|---|---|---|---|\n"
    return head + "".join(f"| {a} | {b} | {c} | {x:.3f} |\n" for a, b, c, x in rows)


@pytest.mark.slow
def test_intervals_cover_and_the_page_says_how_often():
    rows = found()
    short = [row for row in rows if row[-1] < LEAST]
    assert not short
    assert table(rows) in PAGE.read_text(encoding="utf-8"), "run python tests/test_coverage.py"


def test_a_bootstrap_of_few_inputs_would_not_cover():
    """Why intervals over inputs are Student's: resampled means cannot leave the data."""
    rng = np.random.default_rng(23)
    values = rng.standard_normal((2, REPEATS))
    drawn = np.stack([values[rng.integers(2, size=2)].mean(0) for _ in range(500)])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    assert ((low <= 0) & (high >= 0)).mean() < 0.6


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    start, end = text.index("| interval of 95 %"), text.index("\n\n", text.index("| interval of"))
    PAGE.write_text(text[:start] + table(found()).rstrip("\n") + text[end:], encoding="utf-8")
