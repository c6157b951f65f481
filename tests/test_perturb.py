"""The stage that perturbs networks, and its figures: numbers by hand, names, and drawing."""

import math

import numpy as np
import pytest
from matplotlib import pyplot as plt

from conftest import assert_drawn_alike, random_heads, run_stage
from tripartite import job
from tripartite.contracts import check, describe
from tripartite.kinds.data.attend import attend
from tripartite.kinds.perturbations import lesion_doses, lesions, noise
from tripartite.kinds.perturbations.effects import least_bits
from tripartite.kinds.perturbations.perturb import perturb
from tripartite.kinds.perturbations.perturbations import survivors
from tripartite.kinds.perturbations.registry import PERTURBATIONS
from tripartite.streams import stream

DOSES = {
    "neurons": [0.5, 0.2],
    "knockout_constant": [0.3, 1],
    "knockout_mean": [1],
    "knockout_lagged": [2],
    "astrocyte_inputs": [0.5],
    "synapses": [0.0, 0.3],
    "unensheathed": [1],
    "synaptic_noise": [0.1, 1],
    "poisson": [1, 10],
    "heterogeneity": [0.5, 1],
    "nearest": [2, 6],
    "stochastic": [2, 6],
    "facilitation": [0.3, 1],
}
SETTINGS = {
    "n_features": [20, 50],
    "n_seeds": 3,
    "heads": [[0, 0], [0, 2]],
    "inputs": "all",
    "seed": 5,
    "data_of": "x",
}


@pytest.fixture(scope="module")
def data():
    """Three heads; the second input has 9 tokens, the first 15."""
    return random_heads([0.5, 1.0, 2.0], 2, [(1, slice(9, None))], n_tokens=15, d_head=4)


def run(data, kinds=DOSES, workers=1, **changes):
    settings = SETTINGS | {"kinds": kinds} | changes
    found = run_stage(perturb, data, settings, workers=workers)
    return found.assign_attrs(data="random heads")


@pytest.fixture(scope="module")
def found(data):
    return run(data)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_what_it_returns(found):
    check(describe(found, "perturbations"), "perturbations", "here")
    assert list(found["perturbation"].values) == list(PERTURBATIONS)  # in their order
    assert (np.diff(found["dose"]) > 0).all()
    for kind, doses in DOSES.items():
        tried = found["tried"].sel(perturbation=kind)
        assert found["dose"].values[tried].tolist() == sorted(doses)
    assert all(
        found[name].sel(head=1).isnull().all() for name in found if "head" in found[name].dims
    )
    one = found.sel(head=[0, 2])
    used = one["tried"]
    for name in ("output_error", "error_ratio", "added_error", "gain", "sd_log_gain", "direction"):
        low, middle, high = (one[name + end].where(used) for end in ("_low", "", "_high"))
        kept = np.isfinite(low)
        assert ((low <= middle) & (middle <= high)).where(kept, True).all(), name
        assert (np.isnan(middle) == ~used).all(), name
    ends = one["added_error_low"].notnull().where(used & (one["added_error"] > 0))
    assert ends.sum() == (used.sum() - 1) * 2 * 2  # no synapse lost: an error of 0 has no logarithm
    laws = (
        "added_error_law",
        "output_error_law",
        "gain_law",
        "gain_law_low",
        "added_error_uniform",
    )
    for name, without in zip(
        laws,
        (
            {"nearest", "facilitation"},
            set(PERTURBATIONS) - {"neurons", "heterogeneity"},
            {"nearest", "facilitation"},
            set(PERTURBATIONS) - {"facilitation"},
            set(PERTURBATIONS) - {"nearest"},
        ),
    ):
        lacks = one[name].isnull().where(used, True).all(("dose", "n_features", "layer", "head"))
        assert set(one["perturbation"].values[lacks.values]) == without, name


def test_numbers_by_hand(data, found):
    """Dead neurons of one head and size, over seeds and inputs with gaps, from arrays alone."""
    exact, m, dose, head = attend(data), 20, 0.2, 2
    total, added, before, gains = [], [], [], []
    for index in range(3):
        omega = stream(5, "x", "omega", index, 0, head).standard_normal((56, 4))[:m]
        for i in range(2):
            seen = data["mask"].values[i]
            q, k, v = (data[name].values[i, 0, head, seen].astype(float) for name in "qkv")
            phi_q, phi_k = (np.exp(x @ omega.T - np.square(x).sum(1)[:, None] / 2) for x in (q, k))
            name = str(data["input"].values[i])
            rng = stream(5, "x", "perturb", "neurons", dose, m, index, 0, head, name)
            alive = survivors(m, dose, rng) == 1
            assert alive.sum() == 16
            o, new = (
                phi_q[:, own]
                @ (phi_k[:, own].T @ v)
                / (phi_q[:, own] @ phi_k[:, own].sum(0))[:, None]
                for own in (alive | True, alive)
            )
            softmax = exact["output"].values[i, 0, head, seen]
            total.append(np.linalg.norm(new - softmax) / np.linalg.norm(softmax))
            before.append(np.linalg.norm(o - softmax) / np.linalg.norm(softmax))
            added.append(np.linalg.norm(new - o) / np.linalg.norm(o))
            gains.append(np.median((new * o).sum(1) / (o * o).sum(1)))
    one = found.sel(perturbation="neurons", dose=dose, n_features=m, layer=0, head=head)
    for name, values in (
        ("output_error", total),
        ("output_error_unperturbed", before),
        ("added_error", added),
    ):
        assert float(one[name]) == pytest.approx(np.sqrt(np.mean(np.square(values))), rel=1e-6)
    assert float(one["gain"]) == pytest.approx(np.mean(gains), rel=1e-6)
    ratio = np.sqrt(np.mean(np.square(total)) / np.mean(np.square(before)))
    assert float(one["error_ratio"]) == pytest.approx(ratio, rel=1e-6)
    law = np.sqrt(1 / 0.8) * one["output_error_unperturbed"]
    assert float(one["output_error_law"]) == pytest.approx(float(law), rel=1e-12)


@pytest.mark.parametrize(
    "ratios, wanted",
    [
        ([3, 1.2, 1, 1], 4),
        ([1, 1, 1, 1], 2),
        ([3, 1.2, 2, 1], 8),  # from there on, not once
        ([3, 3, 3, 1.5], math.inf),
        ([3, math.nan, 1, 1], math.nan),
    ],
)
def test_least_bits(ratios, wanted):
    """Against a loop, and by eye; bits that were tried are 2, 4, 6 and 8."""
    bits = np.array([2, 4, 6, 8])
    got = float(least_bits(bits, np.array(ratios)[:, None], 1.4)[0])
    assert got == wanted or (math.isnan(got) and math.isnan(wanted))
    if not math.isnan(wanted):
        serve = [b for i, b in enumerate(bits) if max(ratios[i:]) <= 1.4]
        assert got == min(serve, default=math.inf)


def test_bits_are_those_of_the_ratio(data, found):
    """The number and its range from error_ratio alone, a criterion after the other."""
    settings = SETTINGS | {"n_features": [50]}
    bits = run(data, {"stochastic": [1, 3, 5, 8, 12], "neurons": [0.5]}, **settings)
    for limit in (1.1, math.sqrt(2)):
        for head in (0, 2):
            one = bits.sel(perturbation="stochastic", n_features=50, layer=0, head=head)
            own = one.isel(dose=one["tried"].values)
            for end in ("", "_low", "_high"):
                ratio = own[f"error_ratio{end}"].values
                serve = [b for i, b in enumerate(own["dose"].values) if ratio[i:].max() <= limit]
                got = float(one[f"bits_needed{end}"].sel(tolerated=limit))
                assert got == min(serve, default=math.inf)
            ends = [
                float(one[f"bits_needed{x}"].sel(tolerated=limit)) for x in ("_low", "", "_high")
            ]
            assert ends == sorted(ends) and ends[1] < 12
    assert bits["bits_needed"].sel(perturbation="neurons").isnull().all()
    never = run(data, {"nearest": [1]}, n_features=[20])
    assert np.isinf(never["bits_needed"].sel(head=[0, 2], tolerated=1.1)).all()


def test_one_input_has_no_interval(data, found):
    one = run(data, {"neurons": [0.5], "nearest": [4]}, inputs=["draw-0"])
    of_heads = one.sel(head=[0, 2])
    for name in ("output_error", "error_ratio", "gain", "bits_needed"):
        assert of_heads[f"{name}_low"].isnull().all() and of_heads[f"{name}_high"].isnull().all()
    assert of_heads["error_ratio"].sel(perturbation="neurons", dose=0.5).notnull().all()
    assert of_heads["bits_needed"].sel(perturbation="nearest").notnull().all()


def test_laws_hold_at_low_norms(data, found):
    """Exact and first-order laws against the mean over three networks of 50 neurons."""
    one = found.sel(n_features=50, head=0).squeeze("layer")
    for kind, dose, tolerance in (
        ("synapses", 0.3, 0.15),
        ("synaptic_noise", 1, 0.4),
        ("poisson", 10, 0.4),
    ):
        at = one.sel(perturbation=kind, dose=dose)
        np.testing.assert_allclose(at["added_error"], at["added_error_law"], rtol=tolerance)
    half = one.sel(perturbation="astrocyte_inputs", dose=0.5)
    assert float(half["gain_law"]) == pytest.approx(2) and abs(half["gain"] - 2) < 0.3
    for kind in ("knockout_constant", "knockout_mean", "knockout_lagged", "astrocyte_inputs"):
        np.testing.assert_allclose(one["direction"].sel(perturbation=kind, dose=DOSES[kind]), 1)
    bounds = one.sel(perturbation="facilitation", dose=DOSES["facilitation"])
    assert (bounds["gain_law_low"] <= bounds["gain"]).all()
    assert (bounds["gain"] <= bounds["gain_law_high"]).all()
    assert float(one["added_error"].sel(perturbation="synapses", dose=0)) == 0


def test_kinds_doses_sizes_and_heads_do_not_depend_on_one_another(data, found):
    less = run(
        data, {"poisson": [10], "neurons": [0.2]}, n_features=[20, 30], heads=[[0, 2]], workers=2
    )
    for kind, dose in (("poisson", 10), ("neurons", 0.2)):
        place = {"perturbation": kind, "dose": dose, "n_features": 20, "head": 2}
        for name in ("output_error", "added_error_low", "gain", "direction", "added_error_law"):
            got, wanted = less[name].sel(place), found[name].sel(place)
            assert got.notnull().all()
            np.testing.assert_allclose(got, wanted, rtol=1e-7, err_msg=name)
    alone = run(data, {"poisson": [10]}, inputs=["draw-1"], n_seeds=2)
    assert alone["added_error"].sel(head=0).notnull().all()


# Figures.

MODULES = [lesions, lesion_doses, noise]


def draw(module, fits):
    return getattr(module, module.__name__.rsplit(".", 1)[-1])(fits)


@pytest.mark.parametrize("norm", [0.0, 30.0])
def test_extreme_heads(data, norm):
    """Equal keys, and heads with a huge bare sum: no warning, and figures draw them."""
    data = data.copy(deep=True)
    data["q"], data["k"] = data["q"] * norm, data["k"] * norm
    far = run(data)
    assert far["output_error_unperturbed"].sel(head=0).notnull().all()
    for module in MODULES:
        draw(module, {"a": far}).canvas.draw()
        module.answer({"a": far})


@pytest.mark.parametrize("module", MODULES)
def test_the_same_data_give_the_same_bytes(module, data, found, tmp_path):
    odd = found.assign_attrs(data="x $^$ y, centred")
    few = run(data, {"neurons": [0.2], "poisson": [10]}, n_features=[20])
    fits = {"a": found, "b": odd, "c": few}
    assert_drawn_alike(lambda fits: draw(module, fits), fits, tmp_path)


def points(axis):
    return {(x, y) for line in axis.lines for x, y in zip(line.get_xdata(), line.get_ydata())}


@pytest.mark.parametrize("module", [lesion_doses, noise])
def test_doses_are_drawn_as_added_errors(module, found):
    """A panel for each, whose points are those of the file, and laws are lines."""
    figure, table = draw(module, {"a": found}), module.table({"a": found})
    group = [name for name, one in PERTURBATIONS.items() if one.group == module.GROUP]
    assert sum(axis.axison for axis in figure.axes) == len(group)
    assert {*table["perturbation"]} == {*group}
    errors = found["output_error_unperturbed"].sel(n_features=50, layer=0, head=[0, 2])
    assert (table["rank"] == 0).tolist() == (
        table["head"] == [0, 2][np.argmin(errors.values)]
    ).tolist()
    for axis, name in zip(figure.axes, group):
        one = found.sel(perturbation=name, n_features=50, layer=0)
        assert axis.get_title(loc="left").lower() == one["title"].item().lower()
        for head in (0, 2):
            own = table[(table["perturbation"] == name) & (table["head"] == head)]
            assert own["dose"].tolist() == sorted(DOSES[name])
            for end in ("", "_low", "_high"):
                wanted = one[f"added_error{end}"].sel(head=head, dose=own["dose"].values)
                np.testing.assert_array_equal(own[f"added_error{end}"], wanted)
            kept = own[own["added_error"] > 0]
            assert {*zip(kept["dose"], kept["added_error"])} <= points(axis)
            laws = own[own["law"] > 0]
            assert {*zip(laws["dose"], laws["law"])} <= points(axis)


def test_lesions_are_compared_at_half_as_added_errors(found):
    """Also of dead neurons; sorted by the median over heads, with gains and laws."""
    table = lesions.table({"a": found})
    doses = dict(zip(table["perturbation"], table["dose"]))
    wanted = {"neurons": 0.5, "knockout_constant": 1, "knockout_mean": 1, "knockout_lagged": 2}
    assert doses == wanted | {"astrocyte_inputs": 0.5, "synapses": 0.3, "unensheathed": 1}
    for row in table.itertuples():
        place = {"perturbation": row.perturbation, "dose": row.dose, "head": row.head}
        one = found.sel(place | {"n_features": 50, "layer": 0})
        for name in ("added_error", "error_ratio", "gain"):
            assert getattr(row, name) == float(one[name])
        assert row.intact_error == float(one["output_error_unperturbed"])
        assert row.law == float(one["added_error_law"])
    medians = table.groupby("row", sort=False)["added_error"].median()
    assert (np.diff(medians) <= 0).all()
    figure = lesions.lesions({"a": found})
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels[0] == lesions.INTACT
    assert [label.partition(": ")[2] for label in labels[1:]] == [*medians.index]
    assert "7: hidden neurons die (50 %)" in labels
    for axis, name in zip(figure.axes, lesions.PANELS):
        assert {*table[name]} <= {x for x, _ in points(axis)}


def test_laws_stop_where_their_theory_ends(found):
    """First-order laws, where they and the intact network expect a relative variance above 1."""
    few = found.copy(deep=True)
    few["output_error_unperturbed"] *= 1 / few["output_error_unperturbed"]
    table = lesions.table({"a": few})
    ended = table[table["law"].isna()]
    assert {*ended["perturbation"]} == {"neurons", "astrocyte_inputs"}
    ratios = lesions.table({"a": found}).set_index(["perturbation", "head"])["ratio_law"]
    assert ratios.loc["neurons", 0] == pytest.approx(math.sqrt(2), rel=1e-12)
    assert table["ratio_law"].isna().all()


@pytest.mark.parametrize(
    "module, name",
    [(lesions, "added_error"), (lesion_doses, "added_error"), (noise, "bits_needed")],
)
def test_answers_say_the_numbers_of_the_file(module, name, found):
    """Another number in the file is another number in the answer; NaN is no number."""
    other = found.copy(deep=True)
    other[name] *= 7
    words = [module.answer({"a": fit}) for fit in (found, other)]
    assert words[0] != words[1] and "nan" not in " ".join(words)
    if module is noise:
        first = module.table({"a": found}).query("perturbation == 'stochastic' and rank == 0")
        assert f"need {first['bits_needed'].iloc[0]:g} [" in words[0]
    else:
        worst = module.table({"a": found}).query("perturbation == 'astrocyte_inputs' and rank == 0")
        assert f"{worst['added_error'].iloc[0]:#.3g} [" in words[0]


@pytest.mark.parametrize("module", MODULES)
def test_experiments_without_such_kinds_and_without_numbers(module, found, tmp_path):
    other = found.sel(perturbation=["neurons"] if module is noise else ["poisson"])
    empty = found.copy(deep=True)
    for name in empty.data_vars:
        if empty[name].dtype == float:
            empty[name][:] = np.nan
    fits = {"a": other, "b": empty} | {str(i): found for i in range(9)}
    job.save_figure(draw(module, fits), [tmp_path / "x.png"], {})
    assert module.table(fits)["experiment"].nunique() == 7  # of 8 that have such perturbations
    for few in ({"a": other}, {"b": empty}):
        job.save_figure(draw(module, few), [tmp_path / "y.png"], {})
        assert len(module.table(few)) == 0 and module.answer(few).count(".") == 1


def test_of_many_heads_a_few_are_shown(found):
    """From the easiest to the hardest; the figure says how many there are."""
    heads = np.arange(12)
    many = found.isel(head=np.zeros(12, int)).assign_coords(head=heads).copy(deep=True)
    many["output_error_unperturbed"] *= 1 + (heads - 5) ** 2
    table = lesions.table({"a": many})
    shown = table.drop_duplicates("head").sort_values("rank")
    assert len(shown) == 4 and shown["head"].iloc[0] == 5 and shown["head"].iloc[-1] == 11
    said = [text.get_text() for text in lesions.lesions({"a": many}).findobj(plt.Text)]
    assert "4 of 12 heads shown" in said
