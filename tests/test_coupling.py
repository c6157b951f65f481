"""Gap junctions: Laplacians, steady states, the law of the gain error, and the stage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy.integrate import solve_ivp

from conftest import assert_drawn_alike, random_heads, run_stage
from tripartite.contracts import UserError, check, describe
from tripartite.kinds.coupling import coupling, gap_junctions, processes
from tripartite.kinds.coupling.couple import couple
from tripartite.kinds.coupling.gap_junctions import junctions, steady
from tripartite.kinds.data.attend import attend
from tripartite.streams import stream

KAPPAS = [1.0, 0.0, 0.1, 1000.0]
SETTINGS = {
    "layouts": ["separate", "chain", "grid"],
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


def neighbours(layout, n_heads, n_processes):
    """Pairs, process by process."""
    n = n_heads * n_processes
    n_columns = n // gap_junctions.rows(layout, n_heads, n_processes)
    for i in range(n):
        if i % n_columns < n_columns - 1:
            yield i, i + 1
        if i + n_columns < n and layout == "grid":
            yield i, i + n_columns


@pytest.mark.parametrize("layout", ["separate", "chain", "grid"])
@pytest.mark.parametrize("n", [(1, 1), (1, 2), (3, 2), (7, 1), (3, 4), (4, 4)])
def test_laplacian_of_neighbours(layout, n):
    wanted = np.zeros((n[0] * n[1], n[0] * n[1]))
    for i, j in neighbours(layout, *n):
        wanted[[i, j], [i, j]] += 1
        wanted[[i, j], [j, i]] -= 1
    np.testing.assert_array_equal(junctions(layout, *n), wanted)


def test_grids_are_nearly_square():
    assert [gap_junctions.rows("grid", n, 1) for n in (1, 4, 6, 7, 12, 36)] == [1, 2, 2, 1, 3, 6]
    assert gap_junctions.rows("chain", 3, 4) == 1 and gap_junctions.rows("separate", 3, 4) == 3
    for wrong in (("ring", 2, 2), ("chain", 0, 1)):
        with pytest.raises(ValueError, match="wanted separate, chain or grid"):
            junctions(*wrong)


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=12),
    st.floats(0, 1e6),
    st.sampled_from(["chain", "grid"]),
)
def test_the_steady_state_solves_its_equation(z, kappa, layout):
    """G30: dp/dt = 0 there, the mean is conserved, no process leaves the range of the drives."""
    z, laplacian = np.array(z), junctions(layout, len(z), 1)
    p = steady(z, laplacian, kappa)
    assert p.mean() == pytest.approx(z.mean(), rel=1e-12, abs=1e-12)
    residual = -p - kappa * laplacian @ p + z
    np.testing.assert_allclose(residual, 0, atol=1e-12 * (1 + kappa) * (1 + z.max()))
    assert (p >= z.min() - 1e-9).all() and (p <= z.max() + 1e-9).all()


@pytest.mark.parametrize("layout", ["chain", "grid"])
def test_limits_of_the_coupling(layout):
    z = np.random.default_rng(0).normal(size=(3, 12))
    laplacian = junctions(layout, 3, 4)
    np.testing.assert_allclose(steady(z, laplacian, 0), z, atol=1e-15)
    wanted = np.broadcast_to(z.mean(-1, keepdims=True), z.shape)
    np.testing.assert_allclose(steady(z, laplacian, 1e9), wanted, atol=1e-7)


def test_separate_heads_keep_their_means():
    z = np.random.default_rng(0).normal(size=(5, 12))
    p = steady(z, junctions("separate", 3, 4), 1e9)
    wanted = z.reshape(5, 3, 4).mean(-1, keepdims=True).repeat(4, -1).reshape(5, 12)
    np.testing.assert_allclose(p, wanted, atol=1e-7)


def relax(z, start, laplacian, kappa, time):
    """Processes [..., n] a time t / tau_p after start [..., n], with drives z [..., n].

    Exact: the mode of eigenvalue l of the Laplacian relaxes with the rate 1 + kappa l.
    """
    eigenvalues, modes = np.linalg.eigh(laplacian)
    end = steady(z, laplacian, kappa)
    left = np.exp(-(1 + kappa * eigenvalues) * time)
    return end + ((start - end) @ modes * left) @ modes.T


def test_processes_relax_to_the_steady_state():
    """Against the numerical solution of the differential equation, and at its end."""
    rng = np.random.default_rng(1)
    z, start = rng.normal(size=(2, 6))
    laplacian = junctions("grid", 3, 2)
    done = solve_ivp(
        lambda t, p: -p - 2 * laplacian @ p + z, (0, 0.6), start, rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(relax(z, start, laplacian, 2.0, 0.6), done.y[:, -1], atol=1e-8)
    np.testing.assert_allclose(
        relax(z, start, laplacian, 2.0, 40.0), steady(z, laplacian, 2.0), atol=1e-12
    )
    np.testing.assert_allclose(relax(z, start, laplacian, 2.0, 0.0), start, atol=1e-12)


def test_what_it_returns(coupled):
    check(describe(coupled, "coupling"), "coupling", "here")
    np.testing.assert_array_equal(coupled["strength"], np.sort(KAPPAS))
    assert list(coupled["rows"].values) == [2, 1, 2] and int(coupled["processes"]) == 2
    assert coupled["gain_error"].isel(head=1).isnull().all()
    for name in ("gain_error", "output_error", "attention_error", "output_change"):
        run = coupled[name].isel(head=[0, 2])
        low, high = (coupled[f"{name}_{end}"].isel(head=[0, 2]) for end in ("low", "high"))
        assert run.notnull().all() and (low <= run).all() and (run <= high).all()


def test_changes_are_to_no_coupling(coupled):
    """Also if the strength 0 is not asked for; heads are counted by their own intervals."""
    for name in ("gain", "output"):
        error, change = coupled[f"{name}_error"], coupled[f"{name}_change"]
        np.testing.assert_allclose(error / error.sel(strength=0), change.transpose(*error.dims))
        assert (coupled[f"{name}_change_high"].sel(strength=0).isel(head=[0, 2]) == 1).all()
        pooled = np.exp(np.log(change).mean(("layer", "head")))
        np.testing.assert_allclose(coupled[f"{name}_change_all"], pooled, rtol=1e-12)
        better = (coupled[f"{name}_change_high"] < 1).sum(("layer", "head"))
        worse = (coupled[f"{name}_change_low"] > 1).sum(("layer", "head"))
        np.testing.assert_array_equal(coupled[f"{name}_better"], better)
        np.testing.assert_array_equal(coupled[f"{name}_worse"], worse)
    assert coupled["gain_better"].max() == 2


def test_the_strength_0_is_always_run(data, coupled):
    found = run_stage(couple, data, SETTINGS | {"strengths": [0.1, 1.0, 1000.0]})
    np.testing.assert_array_equal(found["strength"], coupled["strength"])
    np.testing.assert_array_equal(found["output_error"], coupled["output_error"])


@pytest.mark.parametrize("layout", ["separate", "chain", "grid"])
def test_every_error_by_the_loop(data, coupled, layout):
    """Blocks, homeostasis, coupling and outputs written out, query by query."""
    exact = attend(data)
    heads, laplacian = (2, 0), junctions(layout, 2, 2)
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
    names = ("gain_error", "output_error", "attention_error", "sum_error")
    for m in (5, 40):
        for kappa in KAPPAS:
            inverse = np.linalg.inv(np.eye(4) + kappa * laplacian)
            squares = {(h, name): [] for h in heads for name in names}  # of each seed and input
            for index in range(3):
                for i in range(2):
                    sums = {key: 0.0 for key in squares}
                    norm = {h: np.square(truth[h, i][1]).sum() for h in heads}
                    n_queries = len(truth[2, i][0])
                    for t in range(n_queries):
                        z = [
                            blocks[h, i, index, m, b][0][t] / scale[h]
                            for h in heads
                            for b in (0, 1)
                        ]
                        p = inverse @ np.array(z)
                        for place, h in enumerate(heads):
                            own = p[2 * place : 2 * place + 2] * scale[h]
                            gain = np.square(own / truth[h, i][0][t] - 1).mean()
                            o = truth[h, i][1][t]
                            of_blocks = [blocks[h, i, index, m, b] for b in (0, 1)]
                            made = sum(
                                drive[t] / own[b] / 2 for b, (_, drive) in zip((0, 1), of_blocks)
                            )
                            total = sum(z[t] / own[b] / 2 for b, (z, _) in zip((0, 1), of_blocks))
                            sums[h, "gain_error"] += gain * norm[h] / n_queries
                            sums[h, "output_error"] += np.square(made - o).sum()
                            sums[h, "attention_error"] += np.square(made / total - o).sum()
                            sums[h, "sum_error"] += np.square(made - made / total).sum()
                    for h, name in sums:
                        squares[h, name].append(sums[h, name] / norm[h])
            at = coupled.sel(layout=layout, strength=kappa, n_features=m, layer=0)
            for h, name in squares:
                wanted = np.sqrt(np.mean(squares[h, name]))
                np.testing.assert_allclose(at[name].sel(head=h), wanted, rtol=1e-6, atol=1e-14)


@given(st.integers(0, 10_000), st.floats(0, 100))
def test_the_sum_of_weights_is_1_without_coupling(seed, kappa):
    """O^ - O = (O^ / G - O) + (G - 1) O^ / G; and G = 1 at kappa = 0, whatever the estimates."""
    rng = np.random.default_rng(seed)
    exact = processes.Exact(np.zeros((6, 2)), list(rng.normal(size=(2, 6, 3))), [4, 2])
    blocks = [
        processes.Blocks(rng.normal(size=(1, 2, 6)), rng.normal(size=(1, 2, 6, 3)))
        for _ in range(2)
    ]
    laplacians = [junctions("chain", 2, 2)]
    found = processes.squared_errors(blocks, exact, laplacians, np.array([0.0, kappa]))[:, 0, :, 0]
    _, output, attention, of_sum = np.moveaxis(found, -1, 0)  # [input, strength, head]
    np.testing.assert_allclose(of_sum[:, 0], 0, atol=1e-25)
    np.testing.assert_allclose(output[:, 0], attention[:, 0], rtol=1e-12)
    longest, shortest = (np.sqrt(attention) + s * np.sqrt(of_sum) for s in (1, -1))
    assert (np.sqrt(output) <= longest * (1 + 1e-12)).all()
    assert (np.sqrt(output) >= np.abs(shortest) * (1 - 1e-12)).all()


def test_the_laws_hold_for_random_heads():
    """sigma^2 of at most 1, 60 seeds: the squared errors of every coupling.

    That of the gain is exact, those of the output are of first order: m of at least 100.
    """
    data = random_heads([0.25, 0.5, 1.0], 4, n_tokens=24, d_head=8, seed=2, experiment="b")
    settings = SETTINGS | {"heads": "all", "n_seeds": 60, "n_features": [30, 300]}
    found = run_stage(couple, data, settings)
    ratio = np.square(found["gain_error"] / found["gain_error_law"])
    assert float(abs(ratio - 1).max()) < 0.15
    large = found.sel(n_features=300)
    for name in ("output_error", "attention_error", "sum_error"):
        known = large[f"{name}_law"] > 1e-3
        ratio = np.square(large[name] / large[f"{name}_law"]).where(known)
        assert known.sum() > 15 and float(abs(ratio - 1).max()) < 0.15, name
    assert large["sum_error_law"].sel(layout="chain", strength=1000).min() > 1e-2


def equal_heads(n_heads):
    """Heads that are all the first of some random ones, with networks of their own."""
    data = random_heads([0.5] * n_heads, 2, n_tokens=16, d_head=4, seed=4)
    for name in "qkv":
        data[name][:] = data[name][:, :, :1].values
    return data


def test_limits_of_the_laws():
    """Without coupling G12 / m for each block; with many equal heads G13's numerator is alone."""
    data, n_processes, m = equal_heads(6), 2, 50
    settings = SETTINGS | {"heads": "all", "layouts": ["separate", "chain"], "n_features": [m]}
    settings |= {"strengths": [0, 1, 1e7], "processes_per_head": n_processes, "n_seeds": 2}
    found = run_stage(couple, data, settings).isel(layer=0, head=0, n_features=0)
    exact = attend(data)
    own, numerator, both = [], [], []
    for i in range(2):
        q, k, v = (data[name].values[i, 0, 0].astype(float) for name in "qkv")
        o = exact["output"].values[i, 0, 0]
        a, relative = np.exp(q @ k.T), []
        for t in range(len(q)):
            c = np.exp(
                q[t] @ q[t] + 2 * (q[t] @ k.T)[:, None] + 2 * (q[t] @ k.T) + k @ k.T
            ) / np.square(a[t].sum())
            d = v - o[t]
            relative.append([np.trace(d.T @ c @ d), np.trace(v.T @ c @ v) - o[t] @ o[t]])
            relative[-1].append(2 * (o[t] @ v.T @ c).sum() - 2 * o[t] @ o[t])  # with the pool's own
            relative[-1].append(o[t] @ o[t] * (c.sum() - 1))
        g12, apart, cross, pool = np.sum(relative, 0) / np.square(o).sum() / (m * n_processes)
        own.append(g12)
        both.append(apart - cross / 6 + pool / 6)  # one sixth of the pool is the head's own
        numerator.append(apart)
    law = np.square(found["output_error_law"])
    np.testing.assert_allclose(law.sel(strength=0), np.mean(own), rtol=1e-6)
    np.testing.assert_allclose(law.sel(layout="separate"), np.mean(own), rtol=1e-6)
    strong = law.sel(layout="chain", strength=1e7)
    np.testing.assert_allclose(strong, np.mean(both), rtol=1e-4)
    assert float(strong) > 1.3 * np.mean(own)
    np.testing.assert_allclose(found["sum_error_law"].sel(layout="separate"), 0, atol=1e-7)


def test_a_better_gain_is_no_better_output():
    """Heads of low norms: coupling halves the error of the gain and raises that of the output."""
    data = random_heads([0.5] * 4, 8, n_tokens=24, d_head=8, seed=6)
    settings = SETTINGS | {"heads": "all", "n_seeds": 20, "n_features": [300]}
    found = run_stage(couple, data, settings).sel(strength=1000, n_features=300)
    assert (found["gain_better"] == 4).all() and (found["output_better"] == 0).all()
    assert (found["output_worse"].sel(layout="chain") == 4).all()
    np.testing.assert_allclose(found["output_change"].sel(layout="separate"), 1, atol=0.02)


def test_one_head_is_averaged(data):
    """No other normaliser is mixed in: more coupling is less noise, to 1 / sqrt(P) of it."""
    found = run_stage(couple, data, SETTINGS | {"heads": [[0, 1]], "processes_per_head": 4})
    one = found.sel(layer=0, head=1)
    np.testing.assert_allclose(one["gain_error_mixing"], 0, atol=1e-12)
    assert (one["gain_error_law"].diff("strength") < 0).all()
    end = one["gain_error_law"].sel(strength=max(KAPPAS)) / one["gain_error_law"].sel(strength=0)
    np.testing.assert_allclose(end, 0.5, rtol=1e-3)
    np.testing.assert_allclose(one["best_gain_strength"], max(KAPPAS))
    for name in ("gain_error", "output_error_law"):
        separate, chain = (one[name].sel(layout=layout) for layout in ("separate", "chain"))
        np.testing.assert_array_equal(separate, chain)


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
            gains.append(np.square(kernel.sum(1) / np.exp(q @ k.T).sum(1) - 1).mean())
    np.testing.assert_allclose(found["output_error"], np.sqrt(np.mean(errors)), rtol=1e-4)
    np.testing.assert_allclose(found["gain_error"], np.sqrt(np.mean(gains)), rtol=1e-4)


def test_few_neurons_want_more_coupling_of_the_gain_than_many():
    """Heads that differ: the strength of the least gain error falls with m, and has a bracket."""
    data = random_heads([0.5, 2.0, 0.5], 3, n_tokens=24, d_head=4, seed=3, experiment="c")
    kappas = [0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
    settings = SETTINGS | {"heads": "all", "strengths": kappas, "n_features": [3, 300, 30_000]}
    found = run_stage(couple, data, settings).sel(layout="chain", layer=0)
    best, low, high = (found[f"best_gain_strength{end}"].values for end in ("", "_low", "_high"))
    assert (low <= best).all() and (best <= high).all() and (best[0] > best[2]).all()
    assert np.isin([best, low, high], kappas).all()
    place = found["gain_error"].values.argmin(0)  # [m, head]
    np.testing.assert_array_equal(np.array(kappas)[place], best)


@pytest.mark.parametrize(
    ("errors", "best"),
    [
        ([1, 2, 3], [0.0] * 3),
        ([3, 2, 1], [9.0] * 3),
        ([3, 1, 2], [1.0] * 3),
        ([1, 1, 1], [np.nan] * 3),
        ([np.inf, 1, 2], [np.nan] * 3),
    ],
)
def test_where_the_best_strength_is(errors, best):
    squares = np.ones((4, 3, 1, 3, 1, 1, 4)) * np.array(errors, dtype=float)[:, None, None, None]
    rng = np.random.default_rng(0)
    found = processes.best_strengths(squares, np.array([0.0, 1.0, 9.0]), rng)
    for name in ("gain", "output"):
        np.testing.assert_array_equal(np.ravel(found[f"best_{name}_strength"]), best)


def test_too_many_processes_are_refused(data):
    with pytest.raises(
        UserError, match="2 heads of 3000 processes are 6000 processes, wanted at most"
    ):
        run_stage(couple, data, SETTINGS | {"processes_per_head": 3000})


def test_one_process_has_no_neighbour(data):
    found = run_stage(couple, data, SETTINGS | {"heads": [[0, 1]], "processes_per_head": 1})
    assert found["best_gain_strength"].isnull().all()
    assert found["best_output_strength"].isnull().all()
    coupling.coupling({"a": found.assign_attrs(data="one process")})


def test_one_input_has_no_interval(data):
    """Nothing is known of other inputs: no head counts as better or worse."""
    found = run_stage(couple, data, SETTINGS | {"inputs": ["draw-0"]})
    assert found["output_change"].sel(head=0).notnull().all()
    assert found["output_change_low"].isnull().all() and found["gain_change_all_low"].isnull().all()
    assert not found["gain_better"].any() and not found["output_worse"].any()
    coupling.coupling({"a": found.assign_attrs(data="one input")})


def test_figure(coupled, tmp_path):
    """Means over heads at each size, single heads of the largest networks, and numbers of heads."""
    nothing = coupled.copy(deep=True)
    for name in nothing.data_vars:
        if nothing[name].dtype == float:
            nothing[name][:] = np.nan
    assert_drawn_alike(coupling.coupling, {"a": coupled, "b": nothing}, tmp_path)
    coupling.coupling({"a": nothing})
    figure = coupling.coupling({"a": coupled})
    for column, layout in enumerate(coupled["layout"].values):
        one = coupled.sel(layout=layout)
        output, counts, gain = (figure.axes[i * coupled.sizes["layout"] + column] for i in range(3))
        for axis, name in ((output, "output"), (gain, "gain")):
            drawn = [tuple(line.get_ydata()) for line in axis.lines]
            for m in (5, 40):
                assert tuple(one[f"{name}_change_all"].sel(n_features=m).values) in drawn
            for head in (0, 2):
                wanted = one[f"{name}_change"].sel(n_features=40, layer=0, head=head)
                assert tuple(wanted.values) in drawn
        numbers = [text.get_text() for text in counts.texts if text.get_text().isdigit()]
        wanted = [one[f"output_{x}"].sel(n_features=40).values[1:] for x in ("worse", "better")]
        assert numbers == [str(n) for of_sign in wanted for n in of_sign]
        assert any(label.get_text() == "0" for label in gain.get_xticklabels())


def test_table_and_answer(coupled):
    drawn = coupling.table({"a": coupled})
    dims = ["layout", "strength", "n_features"]
    means = drawn[drawn["head"].isna()].set_index(dims)
    single = drawn[drawn["head"].notna()].set_index([*dims, "head"])
    for end in ("", "_low", "_high"):
        wanted = coupled[f"output_change_all{end}"].to_series()
        np.testing.assert_array_equal(means[f"output_change{end}"], wanted[means.index])
        wanted = coupled[f"gain_change{end}"].sel(layer=0).to_series()
        np.testing.assert_array_equal(single[f"gain_change{end}"], wanted[single.index])
    assert {*single.index.get_level_values("head")} == {0, 2}
    before = coupling.answer({"a": coupled})
    strongest = coupled.isel(strength=-1, n_features=-1).sel(layout="separate")
    assert f"gain errors are × {float(strongest['gain_change_all']):.2f} [" in before
    assert f"worse in {int(strongest['output_worse'])} heads" in before
    other = coupled.assign(output_change_all=coupled["output_change_all"] * 3)
    assert coupling.answer({"a": other}) != before
