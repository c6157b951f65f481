"""Gap junctions: Laplacians, steady states, the law of the gain error, and the stage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy.integrate import solve_ivp

from conftest import random_heads, run_stage
from tripartite import job
from tripartite.contracts import UserError, check, describe
from tripartite.figures import palette
from tripartite.kinds.coupling import gap_junctions
from tripartite.kinds.coupling.couple import couple
from tripartite.kinds.coupling.coupling import coupling
from tripartite.kinds.coupling.gap_junctions import laplacian, squared_errors, steady
from tripartite.kinds.coupling.processes import best_strength
from tripartite.kinds.data.attend import attend
from tripartite.streams import stream

KAPPAS = [1.0, 0.0, 0.1, 1000.0]
SETTINGS = {
    "layouts": ["chain", "grid"],
    "processes_per_head": 2,
    "n_features": [5, 40],
    "strengths": KAPPAS,
    "n_seeds": 3,
    "heads": [[0, 2], [0, 0]],
    "inputs": "all",
    "seed": 5,
    "data_of": "x",
}


@pytest.fixture(scope="module")
def data():
    """Inputs of 10 and 7 tokens."""
    return random_heads([0.25, 0.5, 1.0], 2, [(1, slice(7, None))], n_tokens=10, d_head=4)


@pytest.fixture(scope="module")
def coupled(data):
    return run_stage(couple, data, SETTINGS).assign_attrs(data="drawn")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def neighbours(layout, n):
    """Pairs, process by process."""
    n_columns = n // gap_junctions.rows(layout, n)
    for i in range(n):
        if i % n_columns < n_columns - 1:
            yield i, i + 1
        if i + n_columns < n:
            yield i, i + n_columns


@pytest.mark.parametrize("layout", ["chain", "grid"])
@pytest.mark.parametrize("n", [1, 2, 6, 7, 12, 16])
def test_laplacian_of_neighbours(layout, n):
    wanted = np.zeros((n, n))
    for i, j in neighbours(layout, n):
        wanted[[i, j], [i, j]] += 1
        wanted[[i, j], [j, i]] -= 1
    np.testing.assert_array_equal(laplacian(layout, n), wanted)


def test_grids_are_nearly_square():
    assert [gap_junctions.rows("grid", n) for n in (1, 4, 6, 7, 12, 36)] == [1, 2, 2, 1, 3, 6]
    assert gap_junctions.rows("chain", 12) == 1
    for wrong in (("ring", 4), ("chain", 0)):
        with pytest.raises(ValueError, match="wanted chain or grid"):
            laplacian(*wrong)


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=12),
    st.floats(0, 1e6),
    st.sampled_from(["chain", "grid"]),
)
def test_the_steady_state_solves_its_equation(z, kappa, layout):
    """G30: dp/dt = 0 there, the mean is conserved, no process leaves the range of the drives."""
    z, junctions = np.array(z), laplacian(layout, len(z))
    p = steady(z, junctions, kappa)
    assert p.mean() == pytest.approx(z.mean(), rel=1e-12, abs=1e-12)
    residual = -p - kappa * junctions @ p + z
    np.testing.assert_allclose(residual, 0, atol=1e-12 * (1 + kappa) * (1 + z.max()))
    assert (p >= z.min() - 1e-9).all() and (p <= z.max() + 1e-9).all()


@pytest.mark.parametrize("layout", ["chain", "grid"])
def test_limits_of_the_coupling(layout):
    z = np.random.default_rng(0).normal(size=(3, 12))
    junctions = laplacian(layout, 12)
    np.testing.assert_allclose(steady(z, junctions, 0), z, atol=1e-15)
    wanted = np.broadcast_to(z.mean(-1, keepdims=True), z.shape)
    np.testing.assert_allclose(steady(z, junctions, 1e9), wanted, atol=1e-7)


def relax(z, start, junctions, kappa, time):
    """Processes [..., n] a time t / tau_p after start [..., n], with drives z [..., n].

    Exact: the mode of eigenvalue l of the Laplacian relaxes with the rate 1 + kappa l.
    """
    eigenvalues, modes = np.linalg.eigh(junctions)
    end = steady(z, junctions, kappa)
    left = np.exp(-(1 + kappa * eigenvalues) * time)
    return end + ((start - end) @ modes * left) @ modes.T


def test_processes_relax_to_the_steady_state():
    """Against the numerical solution of the differential equation, and at its end."""
    rng = np.random.default_rng(1)
    z, start = rng.normal(size=(2, 6))
    junctions = laplacian("grid", 6)
    done = solve_ivp(
        lambda t, p: -p - 2 * junctions @ p + z, (0, 0.6), start, rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(relax(z, start, junctions, 2.0, 0.6), done.y[:, -1], atol=1e-8)
    np.testing.assert_allclose(
        relax(z, start, junctions, 2.0, 40.0), steady(z, junctions, 2.0), atol=1e-12
    )
    np.testing.assert_allclose(relax(z, start, junctions, 2.0, 0.0), start, atol=1e-12)


def test_noise_and_mixing_by_monte_carlo():
    """Independent normal drives: 4e4 draws give squared errors to 3 %."""
    rng = np.random.default_rng(2)
    mean, variance = rng.uniform(0.5, 2, size=(2, 6))
    junctions = laplacian("grid", 6)
    drives = mean + np.sqrt(variance) * rng.standard_normal((40_000, 6))
    for kappa in (0.0, 0.3, 5.0):
        measured = np.square(steady(drives, junctions, kappa) - mean).mean(0)
        noise, mixing = squared_errors(mean, variance, junctions, kappa)
        np.testing.assert_allclose(noise + mixing, measured, rtol=0.03)


def test_what_it_returns(coupled):
    check(describe(coupled, "coupling"), "coupling", "here")
    np.testing.assert_array_equal(coupled["strength"], np.sort(KAPPAS))
    assert list(coupled["rows"].values) == [1, 2] and int(coupled["processes"]) == 2
    assert coupled["gain_error"].isel(head=1).isnull().all()
    for name in ("gain_error", "output_error"):
        run = coupled[name].isel(head=[0, 2])
        low, high = (coupled[f"{name}_{end}"].isel(head=[0, 2]) for end in ("low", "high"))
        assert run.notnull().all() and (low <= run).all() and (run <= high).all()


@pytest.mark.parametrize("layout", ["chain", "grid"])
def test_every_error_by_the_loop(data, coupled, layout):
    """Blocks, homeostasis, coupling and outputs written out, query by query."""
    exact = attend(data)
    heads, junctions = (2, 0), laplacian(layout, 4)
    truth, blocks = {}, {}
    for head in heads:
        for i in range(2):
            present = data["mask"].values[i]
            q, k, v = (data[name].values[i, 0, head, present].astype(float) for name in "qkv")
            truth[head, i] = np.exp(q @ k.T).sum(1), exact["output"].values[i, 0, head, present]
            for index in range(3):
                omega = stream(5, "x", "omega", index, 0, head).standard_normal((80, 4))
                for m in (5, 40):
                    for b in range(2):
                        phi_q, phi_k = (
                            np.exp(
                                x @ omega[b * m : b * m + m].T - np.square(x).sum(1)[:, None] / 2
                            )
                            for x in (q, k)
                        )
                        kernel = phi_q @ phi_k.T / m
                        blocks[head, i, index, m, b] = kernel.sum(1), kernel @ v
    scale = {h: np.mean(np.concatenate([truth[h, i][0] for i in range(2)])) for h in heads}
    for m in (5, 40):
        for kappa in KAPPAS:
            inverse = np.linalg.inv(np.eye(4) + kappa * junctions)
            gain, output = {h: [] for h in heads}, {h: [] for h in heads}
            for index in range(3):
                for i in range(2):
                    error, norm = dict.fromkeys(heads, 0.0), dict.fromkeys(heads, 0.0)
                    for t in range(len(truth[2, i][0])):
                        z = [
                            blocks[h, i, index, m, b][0][t] / scale[h]
                            for h in heads
                            for b in (0, 1)
                        ]
                        p = inverse @ np.array(z)
                        for place, h in enumerate(heads):
                            own = p[2 * place : 2 * place + 2] * scale[h]
                            gain[h] += list(np.square(own / truth[h, i][0][t] - 1))
                            made = sum(blocks[h, i, index, m, b][1][t] / own[b] / 2 for b in (0, 1))
                            error[h] += np.square(made - truth[h, i][1][t]).sum()
                            norm[h] += np.square(truth[h, i][1][t]).sum()
                    for h in heads:
                        output[h].append(error[h] / norm[h])
            at = coupled.sel(layout=layout, strength=kappa, n_features=m, layer=0)
            for h in heads:
                here = at.sel(head=h)
                np.testing.assert_allclose(here["gain_error"], np.sqrt(np.mean(gain[h])), rtol=1e-6)
                np.testing.assert_allclose(
                    here["output_error"], np.sqrt(np.mean(output[h])), rtol=1e-6
                )
            pooled = np.sqrt(np.mean([gain[h] for h in heads]))
            np.testing.assert_allclose(at["gain_error_all"], pooled, rtol=1e-6)


def test_the_law_holds_for_random_heads():
    """sigma^2 of at most 1, 60 seeds: the squared gain error of every coupling within 15 %."""
    data = random_heads([0.25, 0.5, 1.0], 4, n_tokens=24, d_head=8, seed=2, experiment="b")
    settings = SETTINGS | {"heads": "all", "n_seeds": 60, "n_features": [30, 300]}
    found = run_stage(couple, data, settings)
    ratio = np.square(found["gain_error"] / found["gain_error_law"])
    assert float(abs(ratio - 1).max()) < 0.15
    parts = np.square(found["gain_error_noise"]) + np.square(found["gain_error_mixing"])
    np.testing.assert_allclose(np.sqrt(parts), found["gain_error_law"].transpose(*parts.dims))


def test_one_head_is_averaged(data):
    """No other normaliser is mixed in: more coupling is less noise, to 1 / sqrt(P) of it."""
    found = run_stage(couple, data, SETTINGS | {"heads": [[0, 1]], "processes_per_head": 4})
    one = found.sel(layer=0, head=1)
    np.testing.assert_allclose(one["gain_error_mixing"], 0, atol=1e-12)
    assert (one["gain_error_law"].diff("strength") < 0).all()
    end = one["gain_error_law"].sel(strength=max(KAPPAS)) / one["gain_error_law"].sel(strength=0)
    np.testing.assert_allclose(end, 0.5, rtol=1e-3)
    np.testing.assert_allclose(found["best_strength_law"], max(KAPPAS))


def test_one_strongly_coupled_head_is_the_network_of_all_its_neurons(data):
    """kappa of 1e6: the output of a network of 80 neurons, and the gain error of its response."""
    exact = attend(data)
    settings = SETTINGS | {"heads": [[0, 1]], "strengths": [0, 1, 1e6], "n_features": [40]}
    found = run_stage(couple, data, settings, exact)
    found = found.sel(layer=0, head=1, strength=1e6, layout="chain")
    errors, gains = [], []
    for index in range(3):
        omega = stream(5, "x", "omega", index, 0, 1).standard_normal((80, 4))
        for i in range(2):
            present = data["mask"].values[i]
            q, k, v = (data[name].values[i, 0, 1, present].astype(float) for name in "qkv")
            phi_q, phi_k = (np.exp(x @ omega.T - np.square(x).sum(1)[:, None] / 2) for x in (q, k))
            kernel = phi_q @ phi_k.T / 80
            o = exact["output"].values[i, 0, 1, present]
            made = kernel @ v / kernel.sum(1)[:, None]
            errors.append(np.square(made - o).sum() / np.square(o).sum())
            gains += list(np.square(kernel.sum(1) / np.exp(q @ k.T).sum(1) - 1))
    np.testing.assert_allclose(found["output_error"], np.sqrt(np.mean(errors)), rtol=1e-4)
    np.testing.assert_allclose(found["gain_error"], np.sqrt(np.mean(gains)), rtol=1e-4)


def test_many_neurons_want_no_coupling_and_few_want_much():
    """Heads that differ: the best strength falls with m, and is inside the range between."""
    data = random_heads([0.5, 2.0, 0.5], 3, n_tokens=24, d_head=4, seed=3, experiment="c")
    kappas = [0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
    settings = SETTINGS | {"heads": "all", "strengths": kappas, "n_features": [3, 300, 30_000]}
    found = run_stage(couple, data, settings).sel(layout="chain")
    law = found["best_strength_law"].values
    assert law[0] > law[1] > law[2] and 0.01 < law[1] < 30
    best, low, high = (found[f"best_strength{end}"].values for end in ("", "_low", "_high"))
    assert (low <= best).all() and (best <= high).all() and best[0] > best[2]
    assert np.isin([best, low, high], kappas).all()
    total = np.square(found["gain_error_law"]).mean(("layer", "head")).isel(n_features=1).values
    assert total.argmin() not in (0, len(kappas) - 1)  # a U
    assert abs(kappas.index(kappas[total.argmin()]) - np.searchsorted(kappas, law[1])) <= 1


@pytest.mark.parametrize(
    ("errors", "best", "word"),
    [
        ([1, 2, 3], 0.0, "weakest"),
        ([3, 2, 1], 9.0, "strongest"),
        ([3, 1, 2], 1.0, ""),
        ([1, 1, 1], np.nan, "nothing"),
        ([np.inf, 1, 2], np.nan, "beyond"),
    ],
)
def test_where_the_best_strength_is(errors, best, word):
    squares = np.array(errors, dtype=float)[None, None, :, None, None].repeat(4, 0)
    triple, note = best_strength(squares, np.array([0.0, 1.0, 9.0]), np.random.default_rng(0))
    np.testing.assert_array_equal(np.ravel(triple), [best] * 3)
    assert word in str(note.item()) and (word != "" or note.item() == "")


def test_too_many_processes_are_refused(data):
    with pytest.raises(
        UserError, match="2 heads of 3000 processes are 6000 processes, wanted at most"
    ):
        run_stage(couple, data, SETTINGS | {"processes_per_head": 3000})


def test_one_process_has_no_neighbour(data):
    found = run_stage(couple, data, SETTINGS | {"heads": [[0, 1]], "processes_per_head": 1})
    assert found["best_strength"].isnull().all() and found["best_strength_law"].isnull().all()
    assert all("changes nothing" in str(note) for note in found["best_note"].values.ravel())
    coupling({"a": found.assign_attrs(data="one process")})


def test_figure(coupled, tmp_path):
    nothing = coupled.copy(deep=True)
    for name in nothing.data_vars:
        if nothing[name].dtype == float:
            nothing[name][:] = np.nan
    odd = coupled.assign_attrs(data="x $^$ y")
    for fits in ({"a": coupled}, {str(i): odd for i in range(6)}, {"a": nothing}):
        for run in "ab":
            figure = coupling(fits)
            assert figure.get_figwidth() <= palette.PAGE
            job.save_figure(figure, [tmp_path / f"{run}.svg"], {})
        assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    figure = coupling({"a": coupled})
    for axis, kind in zip((figure.axes[0], figure.axes[2]), ("gain", "output")):
        drawn = [tuple(line.get_ydata()) for line in axis.lines if line.get_marker() == "o"]
        one = coupled[f"{kind}_error_all"].sel(layout="chain")
        assert drawn == [tuple(one.sel(n_features=m).values) for m in (5, 40)]
    assert any(label.get_text() == "0" for label in figure.axes[0].get_xticklabels())
