"""Whole transformers without astrocytes, beside a plain loop; and the figure."""

import itertools
from dataclasses import replace
from functools import partial
from math import erf, exp, log, sqrt
from statistics import mean, median

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy.optimize import minimize_scalar

from conftest import ROOT, assert_drawn_alike
from test_pretrained import WHEELS
from tripartite import job, knockouts
from tripartite.contracts import UserError, check, describe
from tripartite.kinds.ablation import ablation, ablation_depth
from tripartite.kinds.ablation.ablate import ablate, dynamics
from tripartite.kinds.ablation.knocked_out import (
    KNOCKOUTS,
    Queries,
    chance,
    constants_inside,
    pooled,
    queries,
    without_astrocytes,
)
from tripartite.kinds.data.generate import generate
from tripartite.pretrained import extraction, transformers
from tripartite.registry import models

KINDS = list(KNOCKOUTS)
WORDS, WIDTH, HEADS, LAYERS = 9, 6, 2, 3
SMALL = replace(models()["minilm"], heads=HEADS, layers=LAYERS)


TESTING, CALIBRATING = ["wittig", "amide_coupling"], ["suzuki_coupling", "diels_alder"]


def read(wheels, inputs=TESTING, **changes):
    wheel = wheels / WHEELS["albert"]
    texts = [ROOT / f"config/inputs/reactions/{name}.smi" for name in [*inputs, *CALIBRATING]]
    given = {"model": "albert", "title": "ALBERT", "wheel": "rxnmapper", "inputs": list(inputs)}
    given |= {"sha256": {wheel.stem: job.file_digest(wheel)}, "workers": 1}
    given |= {"calibrated_on": CALIBRATING} | changes
    return ablate([wheel, *texts], **given)


@pytest.fixture(scope="module")
def found(wheels):
    return read(wheels, workers=2)


# The equations.


@pytest.fixture
def small():
    """A BERT of three narrow layers with random weights."""
    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (WORDS, WIDTH),
        "embeddings.position_embeddings.weight": (WORDS, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.LayerNorm.weight": (WIDTH,),
        "embeddings.LayerNorm.bias": (WIDTH,),
    }
    for i, name in itertools.product(range(LAYERS), transformers.BERT_PARTS.values()):
        rows = 4 if name.startswith("intermediate") else WIDTH
        columns = 4 if name == "output.dense" else WIDTH
        shape = (rows,) if name.endswith("LayerNorm") else (rows, columns)
        shapes[f"encoder.layer.{i}.{name}.weight"] = shape
        shapes[f"encoder.layer.{i}.{name}.bias"] = (rows,)
    return {name: torch.from_numpy(rng.standard_normal(shape)) for name, shape in shapes.items()}


def best(z, outputs):
    """The best constant for outputs z o, by its normal equation in plain Python."""
    squares = [sum(x * x for x in o) for o in outputs]
    above = sum(a * a * s for a, s in zip(z, squares))
    return above / sum(a * s for a, s in zip(z, squares))


def one_by_one(weights, ids, kind, lesioned, fitted):
    """BERT token by token and head by head in plain Python; states [layer + 1][token].

    fitted: z and outputs of calibrating queries by layer and head.
    """
    w = {name: x.numpy() for name, x in weights.items()}

    def norm(name, x):
        centred = x - x.mean()
        return w[f"{name}.weight"] * centred / sqrt((centred**2).mean() + 1e-12) + w[f"{name}.bias"]

    def linear(name, x):
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    places, words = (
        w["embeddings.position_embeddings.weight"],
        w["embeddings.word_embeddings.weight"],
    )
    sentence = w["embeddings.token_type_embeddings.weight"][0]
    xs = [
        norm("embeddings.LayerNorm", words[word] + places[t] + sentence)
        for t, word in enumerate(ids)
    ]
    states = [xs]
    for i in range(LAYERS):
        part = f"encoder.layer.{i}."
        q, k, v = (
            [linear(f"{part}attention.self.{name}", x) for x in xs]
            for name in ("query", "key", "value")
        )
        outputs = [[] for _ in xs]
        for head in range(HEADS):
            own = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            z = [sum(exp(a[own] @ b[own] / sqrt(WIDTH / HEADS)) for b in k) for a in q]
            drives = [
                sum(exp(a[own] @ b[own] / sqrt(WIDTH / HEADS)) * c[own] for b, c in zip(k, v))
                for a in q
            ]
            here = [drive / one for drive, one in zip(drives, z)]
            other = fitted[i, head]
            for t, drive in enumerate(drives):
                divided_by = z[t]
                if i in lesioned:
                    divided_by = {
                        "knockout_one": 1,
                        "knockout_tokens": len(xs),
                        "knockout_mean": mean(other[0]),
                        "knockout_median": median(other[0]),
                        "knockout_best": best(*other),
                        "knockout_best_inside": INSIDE[i][head],
                        "knockout_best_here": best(z, here),
                        "knockout_lagged": z[max(t - 1, 0)],
                    }[kind]
                outputs[t] += list(drive / divided_by)
        new = []
        for x, output in zip(xs, outputs):
            x = norm(
                f"{part}attention.output.LayerNorm",
                x + linear(f"{part}attention.output.dense", np.array(output)),
            )
            inner = [u * (1 + erf(u / sqrt(2))) / 2 for u in linear(f"{part}intermediate.dense", x)]
            new.append(
                norm(f"{part}output.LayerNorm", x + linear(f"{part}output.dense", np.array(inner)))
            )
        xs = new
        states.append(xs)
    return np.array(states)


INSIDE = [[1.5 + layer + head / 2 for head in range(HEADS)] for layer in range(LAYERS)]
LOG_INSIDE = [np.log(of_layer) for of_layer in INSIDE]


@pytest.fixture
def calibrated():
    """Queries by layer, as the code has them, and z and outputs by layer and head; 7 queries."""
    rng = np.random.default_rng(3)
    z, o = rng.uniform(1, 9, (LAYERS, HEADS, 7)), rng.standard_normal((LAYERS, HEADS, 7, 3))
    found = [Queries(np.log(a), np.square(b).sum(-1)) for a, b in zip(z, o)]
    return found, {
        (i, head): (list(z[i, head]), list(o[i, head]))
        for i in range(LAYERS)
        for head in range(HEADS)
    }


@pytest.mark.parametrize("lesioned", [[], [0], [1, 2], [0, 1, 2]])
def test_states_are_those_of_a_plain_loop(small, lesioned, calibrated):
    """All kinds side by side, from the intact states below the first lesion."""
    ids, seen = [3, 1, 4, 1, 5], {}
    attention = without_astrocytes(lesioned, calibrated[0], LOG_INSIDE, seen)
    first = lesioned[0] if lesioned else 0
    x = transformers.bert(SMALL, small, ids)[3][first]
    states = []
    for layer, run in enumerate(transformers.layers(SMALL, small)[first:], first):
        x = run(x, partial(attention, layer))[0]
        states.append(x.expand(len(KINDS), -1, -1))
    for place, kind in enumerate(KINDS):
        wanted = one_by_one(small, ids, kind, lesioned, calibrated[1])[first + 1 :]
        got = [x[place].numpy() for x in states]
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-11)
    assert bool(seen) == bool(lesioned)


def test_a_head_keeps_its_direction_and_gains_z_over_p(calibrated):
    """G14; where all queries have one normaliser, the best constant and the past are as good."""
    rng = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, HEADS, 5, 4, generator=rng, dtype=torch.float64)
    seen = {}
    changed = without_astrocytes([2], calibrated[0], LOG_INSIDE, seen)(2, q, k, v)
    exact = transformers.softmax_attention(2, q, k, v)
    z = (q @ k.mT).exp().sum(-1)
    assert changed.shape == (len(KINDS), HEADS, 5, 4)
    torch.testing.assert_close(changed, seen["log_gain"].exp()[..., None] * exact)
    lagged = z / torch.cat([z[:, :1], z[:, :-1]], -1)
    torch.testing.assert_close(seen["log_gain"][-1].exp(), lagged, rtol=1e-12, atol=0)
    torch.testing.assert_close(seen["log_gain"][0].exp(), z, rtol=1e-12, atol=0)
    for kind, head in itertools.product(range(len(KINDS)), range(HEADS)):
        error = torch.linalg.norm(changed[kind, head] - exact[head])
        wanted = float(error / torch.linalg.norm(exact[head]))
        assert float(seen["head_error"][kind, head]) == pytest.approx(wanted, rel=1e-12)
    constants = [i for i, kind in enumerate(KNOCKOUTS.values()) if kind.constant]
    least = seen["head_error"][KINDS.index("knockout_best_here")]
    assert (least <= seen["head_error"][constants] + 1e-12).all()
    same = without_astrocytes([0], calibrated[0], LOG_INSIDE, {})(0, q[:, :1].expand_as(q), k, v)
    output = transformers.softmax_attention(0, q[:, :1].expand_as(q), k, v)
    for kind in ("knockout_best_here", "knockout_lagged"):
        torch.testing.assert_close(same[KINDS.index(kind)], output, rtol=1e-12, atol=1e-14)


def test_constants_of_the_changed_model_are_fitted_layer_by_layer(small):
    """Each by a scalar search, on the outputs that layers before it leave in two inputs."""
    layers = transformers.layers(SMALL, small)
    states = [transformers.bert(SMALL, small, ids)[3][0] for ids in ([3, 1, 4, 1, 5], [2, 6, 5])]
    found = constants_inside(layers, states)

    def divided(layer, seen, q, k, v):
        output, z = transformers.softmax_attention(layer, q, k, v), (q @ k.mT).exp().sum(-1)
        seen.append((z, output))
        return output * (z / torch.from_numpy(found[layer]).exp()[:, None])[..., None]

    def error(z, output, log_c):
        return float(((z / exp(log_c) - 1)[:, None] * output).square().sum())

    for layer, run in enumerate(layers):
        seen = []
        states = [run(x, partial(divided, layer, seen))[0] for x in states]
        z, outputs = torch.cat([x for x, _ in seen], -1), torch.cat([x for _, x in seen], -2)
        for head in range(HEADS):
            of_head = partial(error, z[head], outputs[head])
            log_c = float(minimize_scalar(of_head, bracket=(-1, 3)).x)
            assert float(found[layer][head]) == pytest.approx(log_c, abs=1e-5)


@given(st.integers(0, 2**32), st.integers(1, 9), st.floats(-60, 60))
def test_no_constant_is_better_than_the_best(seed, n, unit):
    """Least squares against neighbours and by the normal equation; a unit is only a factor."""
    rng = np.random.default_rng(seed)
    log_z, squares = rng.normal(0, 2, n), rng.exponential(size=n)
    best = knockouts.log_best_constant(log_z, squares)

    def error(log_c):
        return (np.square(np.exp(log_z - log_c) - 1) * squares).sum()

    assert error(best) <= min(error(best + 1e-3), error(best - 1e-3))
    z = np.exp(log_z)
    c = (np.square(z) * squares).sum() / (z * squares).sum()
    assert float(best) == pytest.approx(log(c), abs=1e-9)
    moved = knockouts.log_best_constant(log_z + unit, squares)
    assert float(moved) == pytest.approx(float(best) + unit, abs=1e-9)
    assert knockouts.log_best_constant(log_z, 0 * squares) <= log_z.max() + 1e-12


def test_dynamics_by_hand():
    """The constant that is best on average is compared, not that of each input; 1 is worst."""
    cosines = np.zeros((2, len(KINDS), 2))
    place = {kind: i for i, kind in enumerate(KINDS)}
    cosines[:, place["knockout_best"]] = [[0.8, 0.2], [0.6, 0.1]]
    cosines[:, place["knockout_mean"]] = [[0.9, 0.1], [0.4, 0.1]]
    cosines[:, place["knockout_lagged"]] = [[0.95, 0.0], [0.95, 0.0]]
    got = dynamics(cosines)
    assert list(got["best_constant"]) == ["knockout_best", "knockout_best"]
    np.testing.assert_allclose(got["dynamics_adds"][0], [0.3, 0.85])
    np.testing.assert_allclose(got["late_costs"][0], [-0.25, 0.15])
    half = 12.7062 * 0.1 * sqrt(2) / 2  # t of one degree of freedom, standard error of 2
    low, high = (end[0] for end in got["late_costs"][1:])
    np.testing.assert_allclose([low, high], [-0.25 - half * sqrt(2), -0.25 + half * sqrt(2)], 1e-4)


def test_chance_is_the_mean_over_pairs():
    states = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for layer, got in zip(states, chance(states)):
        pairs = [torch.cosine_similarity(a, b, dim=0) for a, b in itertools.permutations(layer, 2)]
        assert float(got) == pytest.approx(float(sum(pairs) / len(pairs)), abs=1e-14)


# The stage, on a real model.


def test_what_it_returns(found):
    check(describe(found, "ablation"), "ablation", "here")
    assert list(found["label"].values) == [one.label for one in KNOCKOUTS.values()]


def test_only_what_comes_after_a_lesion_changes(found):
    for column, lesion in enumerate(found["lesion"].values[:-1]):
        cosine = found["cosine"].sel(lesion=lesion)
        assert (cosine[:, :column] == 1).all()
        assert (cosine[:, column:] < 0.999).all()
    first, every = (found["cosine"].sel(lesion=name)[:, 0] for name in ("0", "all"))
    np.testing.assert_array_equal(first, every)
    assert (found["top_token_kept"] >= 0).all() and (found["top_token_kept"] <= 1).all()


def test_constants_are_those_of_calibrating_inputs(found, wheels):
    """Gains and errors of heads by plain loops, from the queries and keys of the data stage."""
    wheel, inputs = wheels / WHEELS["albert"], [*CALIBRATING, *TESTING]
    qkv = generate(
        [wheel, *(ROOT / f"config/inputs/reactions/{name}.smi" for name in inputs)],
        {"model": "albert", "inputs": inputs},
        title="ALBERT",
        wheel="rxnmapper",
        sha256={wheel.stem: job.file_digest(wheel)},
    )
    for layer, head in [(0, 2), (5, 7), (11, 0)]:
        z, outputs = [], []
        for i in range(4):
            q, k, v = (
                qkv[x].values[i, layer, head, qkv["mask"].values[i]].astype(float) for x in "qkv"
            )
            z.append([sum(exp(a @ b) for b in k) for a in q])
            weights = np.array([[exp(a @ b) for b in k] for a in q]) / np.array(z[-1])[:, None]
            outputs.append(weights @ v)
        fitted = z[0] + z[1]
        constants = {
            "knockout_one": [1, 1],
            "knockout_tokens": [len(z[2]), len(z[3])],
            "knockout_mean": [mean(fitted)] * 2,
            "knockout_median": [median(fitted)] * 2,
            "knockout_best": [best(fitted, [*outputs[0], *outputs[1]])] * 2,
            "knockout_best_here": [best(z[i], outputs[i]) for i in (2, 3)],
        }
        for kind, values in constants.items():
            own = found.sel(layer=layer, head=head, perturbation=kind)
            log_gain = [np.log(np.array(z[i]) / c) for i, c in zip((2, 3), values)]
            errors = [
                np.linalg.norm(np.expm1(gain)[:, None] * outputs[i]) / np.linalg.norm(outputs[i])
                for i, gain in zip((2, 3), log_gain)
            ]
            medians = mean(float(np.median(gain)) for gain in log_gain)
            assert float(own["median_log_gain"]) == pytest.approx(medians, abs=2e-4)
            spread = mean(float(gain.std()) for gain in log_gain)
            assert float(own["sd_log_gain"]) == pytest.approx(spread, abs=1e-4)
            assert float(own["head_error"]) == pytest.approx(float(mean(errors)), rel=1e-3)


def test_numbers_are_those_of_whole_passes(found, wheels):
    """Every lesion of one kind read from its first layer, with plain attention in all layers."""
    wheel = wheels / WHEELS["albert"]
    archives, _ = job.open_sources([wheel], {wheel.stem: job.file_digest(wheel)})
    transformer = extraction.open_model("albert", archives["rxnmapper"], torch.float64)
    texts = {
        name: (ROOT / f"config/inputs/reactions/{name}.smi").read_bytes()
        for name in (*CALIBRATING, *TESTING)
    }
    calibrating = [
        [queries(*qkv[:2], transformers.softmax_attention(0, *qkv)) for qkv in zip(*states[:3])]
        for states in (transformer.read(texts[name]) for name in CALIBRATING)
    ]
    for lesion in ("4", "all"):
        place, cosines, kept = KINDS.index("knockout_mean"), [], []
        for name in TESTING:

            def attention(layer, q, k, v, lesion=lesion):
                output = transformers.softmax_attention(layer, q, k, v)
                if lesion not in ("all", str(layer)):
                    return output
                z = pooled([one[layer] for one in calibrating]).log_z
                p = torch.from_numpy(np.exp(z).mean(-1))[:, None, None]
                return (q @ k.mT).exp().sum(-1, keepdim=True) / p * output

            states = transformer.read(texts[name], attention)[3][-1]
            whole = transformer.read(texts[name])[3][-1]
            cosines.append(torch.cosine_similarity(states, whole, dim=-1).mean())
            top, was = (transformer.token_logits(x).argmax(-1) for x in (states, whole))
            kept.append((top == was).double().mean())
        own = found.sel(lesion=lesion).isel(perturbation=place)
        assert float(own["cosine"][-1]) == pytest.approx(float(sum(cosines) / 2), rel=1e-9)
        assert float(own["top_token_kept"]) == pytest.approx(float(sum(kept) / 2), rel=1e-9)


def test_the_finding_is_of_the_best_constant(found):
    """On a real model: what is named is the best, and its loss is what dynamics adds."""
    for lesion in found["lesion"].values:
        own = found.sel(lesion=lesion).isel(layer=-1)
        named = own["cosine"].sel(perturbation=own["best_constant"].item())
        assert float(named) == float(own["cosine"].where(own["constant"]).max())
        assert float(own["dynamics_adds"]) == pytest.approx(1 - float(named), abs=1e-12)
        late = float(named - own["cosine"].sel(perturbation="knockout_lagged"))
        assert float(own["late_costs"]) == pytest.approx(late, abs=1e-12)


def test_numbers_do_not_depend_on_workers_and_calibrating_inputs_are_not_tested(found, wheels):
    again = read(wheels, inputs=[*CALIBRATING, *TESTING])
    for name in again:
        np.testing.assert_array_equal(again[name], found[name])


def test_one_input_has_no_interval(found, wheels, tmp_path):
    one = read(wheels, inputs=["wittig"])
    assert np.isfinite(one["cosine"]).all() and np.isnan(one["cosine_low"]).all()
    job.save(one, tmp_path / "ablation.nc", {"data": "ALBERT", "settings": {}})
    np.testing.assert_array_less(found["cosine_low"] - 1e-12, found["cosine"])


def test_bad_input_is_one_line(wheels):
    with pytest.raises(UserError, match="^model albert: .*nothing"):
        read(wheels, inputs=["wittig"], model="albert", wheel="nothing")
    with pytest.raises(UserError, match="sha256 is .* delete it"):
        read(wheels, sha256={"rxnmapper-0.4.3": "0" * 64})


# Figures.


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_figure(found, tmp_path):
    """One layer by median and range over layers, all layers with intervals, rows in one order."""
    silent = found.assign(top_token_kept=found["top_token_kept"] * np.nan)
    fits = {"a": found, "b": silent.assign_attrs(data="x $^$ y")}
    assert_drawn_alike(ablation.ablation, fits, tmp_path)
    table = ablation.table(fits)
    last = found["cosine"].isel(layer=-1)
    for kind in ablation.DIVISORS:
        own = table[(table["row"] == kind) & (table["quantity"] == "cosine")]
        one, every = (own[own["changed"] == words] for words in ("one layer", "all layers"))
        single = last.sel(perturbation=kind).values[:-1]
        wanted = [np.median(single), single.min(), single.max()]
        assert one[["value", "least", "most"]].values.tolist() == [wanted] * 2
        for end in ("", "_low", "_high"):
            value = float(found[f"cosine{end}"].isel(layer=-1).sel(perturbation=kind, lesion="all"))
            assert every[f"value{end}"].tolist() == [value] * 2
    assert {*table.loc[table["quantity"] == "words", "experiment"]} == {"a"}
    figure = ablation.ablation(fits)
    output, words, dynamics = figure.axes
    drawn = {x for line in output.lines for x in line.get_xdata()}
    assert {*table.loc[table["quantity"] == "cosine", "value"]} <= drawn
    added = {float(found["dynamics_adds"].sel(lesion="all"))}
    assert added <= {x for line in dynamics.lines for x in line.get_xdata()}
    assert len(ablation.ablation({"b": fits["b"]}).axes) == 2  # no panel of words
    labels = [text.get_text() for text in output.get_yticklabels()]
    assert labels == [*ablation.DIVISORS.values(), *ablation.CHANCE.values()]


def test_figure_of_depth(found, tmp_path):
    fits = {"a": found, "b": found.assign_attrs(data="x $^$ y")}
    assert_drawn_alike(ablation_depth.ablation_depth, fits, tmp_path)
    table = ablation_depth.table(fits)
    for kind in ablation_depth.SHOWN:
        of_kind = found.sel(perturbation=kind)
        output = of_kind["cosine"].isel(layer=-1).values[:-1]
        for quantity, wanted in (("output", output), ("heads", of_kind["attended_cosine"].values)):
            own = table[(table["perturbation"] == kind) & (table["quantity"] == quantity)]
            np.testing.assert_array_equal(own.loc[own["experiment"] == "a", "value"], wanted)
    upper = ablation_depth.ablation_depth(fits).axes[0]
    wanted = found["cosine"].sel(perturbation="knockout_lagged").isel(layer=-1).values[:-1]
    assert any(np.array_equal(line.get_ydata(), wanted) for line in upper.lines)
    many = {str(i): found for i in range(6)}
    assert len(ablation_depth.ablation_depth(many).axes) == 8


def test_answers_say_the_numbers_of_the_file(found):
    """Numbers in one layer, in all and of dynamics; another file has others; NaN is no number."""
    words = ablation.answer({"a": found})
    best = found["cosine"].sel(perturbation="knockout_best").isel(layer=-1).values
    added = found["dynamics_adds"].sel(lesion="all")
    for number in (np.median(best[:-1]), best[-1], float(added)):
        assert f"{number:.2f}" in words
    other = found.assign(dynamics_adds=found["dynamics_adds"] / 2)
    assert ablation.answer({"a": other}) != words
    least = best[:-1].min()
    assert f"{least:.2f} [" in ablation_depth.answer({"a": found})
    nothing = found.copy(deep=True)
    for name in nothing.data_vars:
        if nothing[name].dtype.kind == "f":
            nothing[name][:] = np.nan
    for module in (ablation, ablation_depth):
        assert module.answer({"a": nothing}) == "No effect is known."
        assert "nan" not in module.answer({"a": found, "b": nothing})
        name = module.__name__.rsplit(".", 1)[-1]
        getattr(module, name)({"a": nothing}).canvas.draw()
