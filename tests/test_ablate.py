"""Whole transformers without astrocytes, beside a plain loop; and the figure."""

import itertools
from dataclasses import replace
from math import erf, exp, log, sqrt

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from conftest import ROOT, assert_drawn_alike
from test_pretrained import WHEELS
from tripartite import declarations, job
from tripartite.contracts import UserError, check, describe
from tripartite.figures import palette
from tripartite.kinds.ablation.ablate import ablate
from tripartite.kinds.ablation.ablation import ablation
from tripartite.kinds.ablation.knocked_out import KNOCKOUTS, chance, without_astrocytes
from tripartite.kinds.data.generate import generate
from tripartite.pretrained import transformers
from tripartite.registry import models

KINDS = list(KNOCKOUTS)
WORDS, WIDTH, HEADS, LAYERS = 9, 6, 2, 3
SMALL = replace(models()["minilm"], heads=HEADS, layers=LAYERS)


def read(wheels, inputs=("wittig", "amide_coupling"), kinds=KINDS, **changes):
    wheel = wheels / WHEELS["albert"]
    texts = [ROOT / f"config/inputs/reactions/{name}.smi" for name in inputs]
    given = {"model": "albert", "title": "ALBERT", "wheel": "rxnmapper", "inputs": list(inputs)}
    given |= {"sha256": {wheel.stem: job.file_digest(wheel)}, "kinds": kinds, "workers": 1}
    given |= changes
    return ablate([wheel, *texts], **given)


@pytest.fixture(scope="module")
def found(wheels):
    return read(wheels, workers=2)


def test_every_knockout_can_be_asked_for():
    kinds = declarations.kinds()["ablation"].settings["properties"]["kinds"]
    assert kinds["items"]["enum"] == kinds["default"] == KINDS


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


def one_by_one(weights, ids, kind, lesioned):
    """BERT token by token and head by head in plain Python; states [layer + 1][token]."""
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
            for t, a in enumerate(q):
                drive = sum(
                    exp(a[own] @ b[own] / sqrt(WIDTH / HEADS)) * c[own] for b, c in zip(k, v)
                )
                divided_by = z[t]
                if i in lesioned:
                    divided_by = {
                        "knockout_none": 1,
                        "knockout_mean": sum(z) / len(z),
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lesioned", [[], [0], [1, 2], [0, 1, 2]])
def test_states_are_those_of_a_plain_loop(small, kind, lesioned):
    ids, seen = [3, 1, 4, 1, 5], {}
    attention = without_astrocytes(kind, lesioned, seen)
    hidden = transformers.bert(SMALL, small, ids, attention)[3].numpy()
    np.testing.assert_allclose(
        hidden, one_by_one(small, ids, kind, lesioned), rtol=1e-9, atol=1e-11
    )
    assert bool(seen) == bool(lesioned)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_keeps_its_direction_and_gains_z_over_p(kind):
    """G14; where all queries have one normaliser, its mean and its past are as good as itself."""
    rng = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 2, 5, 4, generator=rng, dtype=torch.float64)
    seen = {}
    changed = without_astrocytes(kind, [7], seen)(7, q, k, v)
    exact = transformers.softmax_attention(7, q, k, v)
    z = (q @ k.mT).exp().sum(-1)
    p = {
        "knockout_none": torch.ones_like(z),
        "knockout_mean": z.mean(-1, keepdim=True).expand_as(z),
        "knockout_lagged": torch.cat([z[:, :1], z[:, :-1]], -1),
    }[kind]
    torch.testing.assert_close(changed, (z / p)[..., None] * exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(seen["log_gain"], (z / p).log(), rtol=1e-12, atol=1e-14)
    same = without_astrocytes(kind, [0], seen)(0, q[:, :1].expand_as(q), k, v)
    gain = 1 if kind != "knockout_none" else z[:, :1, None]
    output = transformers.softmax_attention(0, q[:, :1].expand_as(q), k, v)
    torch.testing.assert_close(same, gain * output, rtol=1e-12, atol=1e-14)


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
        np.testing.assert_allclose(cosine[:, :column], 1, rtol=1e-12)
        assert (cosine[:, column:] < 0.999).all()
    first, every = (found["cosine"].sel(lesion=name)[:, 0] for name in ("0", "all"))
    np.testing.assert_array_equal(first, every)
    assert (found["top_token_kept"] >= 0).all() and (found["top_token_kept"] <= 1).all()


def test_gains_are_those_of_the_heads_own_normalisers(found, wheels):
    wheel, inputs = wheels / WHEELS["albert"], ["wittig", "amide_coupling"]
    qkv = generate(
        [wheel, *(ROOT / f"config/inputs/reactions/{name}.smi" for name in inputs)],
        {"model": "albert", "inputs": inputs},
        title="ALBERT",
        wheel="rxnmapper",
        sha256={wheel.stem: job.file_digest(wheel)},
    )
    for layer, head in [(0, 2), (5, 7), (11, 0)]:
        medians, spreads = [], []
        for i in range(2):
            q, k = (
                qkv[x].values[i, layer, head, qkv["mask"].values[i]].astype(float) for x in "qk"
            )
            log_z = np.array([log(sum(exp(a @ b) for b in k)) for a in q])
            medians.append(np.median(log_z))
            spreads.append(log_z.std())
        own = found.sel(layer=layer, head=head)
        none, mean = (own.sel(perturbation=kind) for kind in KINDS[:2])
        assert float(none["median_log_gain"]) == pytest.approx(np.mean(medians), abs=1e-4)
        assert float(none["sd_log_gain"]) == pytest.approx(np.mean(spreads), abs=1e-4)
        assert float(mean["sd_log_gain"]) == pytest.approx(float(none["sd_log_gain"]), abs=1e-12)


def test_numbers_depend_neither_on_workers_nor_on_other_kinds(found, wheels):
    some = ["knockout_lagged", "knockout_none"]
    again = read(wheels, kinds=some)
    assert list(again["perturbation"].values) == some[::-1]  # in the order of KNOCKOUTS
    for name in again:
        here = {"perturbation": some} if "perturbation" in found[name].dims else {}
        np.testing.assert_array_equal(again[name].sel(here), found[name].sel(here))


def test_one_input_has_no_interval(found, wheels, tmp_path):
    one = read(wheels, inputs=["wittig"], kinds=["knockout_mean"])
    assert np.isfinite(one["cosine"]).all() and np.isnan(one["cosine_low"]).all()
    job.save(one, tmp_path / "ablation.nc", {"data": "ALBERT", "settings": {}})
    np.testing.assert_array_less(found["cosine_low"] - 1e-12, found["cosine"])


def test_bad_input_is_one_line(wheels):
    with pytest.raises(UserError, match="^model albert: .*nothing"):
        read(wheels, inputs=["wittig"], model="albert", wheel="nothing")
    with pytest.raises(UserError, match="sha256 is .* delete it"):
        read(wheels, sha256={"rxnmapper-0.4.3": "0" * 64})


def test_figure(found, tmp_path):
    silent = found.assign(top_token_kept=found["top_token_kept"] * np.nan)
    fits = {
        "a": found,
        "b": silent.sel(perturbation=["knockout_lagged"]).assign_attrs(data="x $^$ y"),
    }
    assert_drawn_alike(ablation, fits, tmp_path)
    figure = ablation(fits)
    assert figure.get_figwidth() <= palette.PAGE and len(figure.axes) == 8
    output = figure.axes[2]
    wanted = found["cosine"].sel(perturbation="knockout_mean").values[:, -1]
    assert any(np.array_equal(line.get_ydata(), wanted) for line in output.lines)
    assert output.get_xticklabels()[-1].get_text() == "all"
    plt.close("all")
