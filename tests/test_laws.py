"""The figure that sets measured numbers beside their laws, of kinds that have one."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from conftest import assert_drawn_alike, random_heads, run_stage
from tripartite.kinds.convergence.converge import converge
from tripartite.kinds.coupling.couple import couple
from tripartite.kinds.data.attend import attend
from tripartite.kinds.laws.laws import RANGE, answer, checks, laws, table
from tripartite.kinds.perturbations.perturb import perturb
from tripartite.kinds.retention.retain import retain

COMMON = {"heads": "all", "inputs": "all", "seed": 5, "data_of": "x", "n_seeds": 3}
SETTINGS = {
    "convergence": (converge, {"ratios": [0.1, 0.01, 0.003], "steps": [8, 16, 32]}),
    "coupling": (
        couple,
        {"layouts": ["separate", "chain"], "processes_per_head": 2, "strengths": [0, 1, 10]},
    ),
    "perturbations": (
        perturb,
        {"kinds": {"synapses": [0.3, 0.6], "poisson": [1], "nearest": [4], "knockout_mean": [1]}},
    ),
    "retention": (retain, {"token_seconds": 0.25, "leaks": [[0.1, 0.1], [0.2, 0.1]]}),
}


@pytest.fixture(scope="module")
def fits():
    data = random_heads([0.5, 1.0], n_inputs=2, n_tokens=8, d_head=3)
    exact = attend(data)
    found = {}
    for kind, (stage, own) in SETTINGS.items():
        settings = COMMON | own | {"n_features": [50, 300]}
        used = (data,) if kind == "convergence" else (data, exact)
        found[kind] = run_stage(stage, used[0], settings, *used[1:])
        found[kind] = found[kind].assign_attrs(data="random heads")
    return found


def test_measured_over_law(fits):
    found = table(fits)
    assert {*found["check"]} == {"convergence", "coupling", "retention", "lesions", "noise"}
    one = found[found["quantity"] == "error of gain, chain"].set_index(["dose", "head"])
    own = fits["coupling"].isel(n_features=-1, layer=0).sel(layout="chain", strength=10, head=1)
    for end in ("", "_low", "_high"):
        wanted = float(own[f"gain_error{end}"] / own["gain_error_law"])
        assert one.loc[("10", 1), f"ratio{end}"] == pytest.approx(wanted)
    leaks = found[found["quantity"] == "fitted leak"]
    own = fits["retention"].isel(n_features=-1, layer=0).sel(leak_hebbian=0.1, leak_presynaptic=0.1)
    np.testing.assert_allclose(np.sort(leaks["ratio"]), np.sort(own["leak_fitted"] / 0.1))
    doses = found.loc[found["check"] == "convergence", "dose"]
    assert {*doses} == {"0.003", "0.01"}  # the law is of first order


def test_only_laws_of_the_network_are_checked(fits):
    names = [quantity for _, quantity, *_ in checks(fits["perturbations"])]
    assert names == ["synapses are lost", "neurons spike (Poisson)"]


def test_the_figure_draws_the_table(fits, tmp_path):
    assert_drawn_alike(laws, fits, tmp_path)
    found = table(fits)
    axes = laws(fits).axes
    drawn = [y for axis in axes for part in axis.containers for y in part.lines[0].get_ydata()]
    np.testing.assert_allclose(np.sort(drawn), np.sort(found["ratio"]))
    assert {axis.get_ylim() for axis in axes} == {RANGE}
    plt.close("all")


def test_the_answer_follows_the_numbers(fits):
    text = answer(fits)
    assert "lesions" in text and "gap junctions" in text
    doubled = fits["coupling"].copy()
    for end in ("", "_low", "_high"):
        doubled[f"gain_error{end}"] = doubled[f"gain_error{end}"] * 2
    assert answer(fits | {"coupling": doubled}) != text
    assert "continuous time" in answer({"a": fits["convergence"]})
