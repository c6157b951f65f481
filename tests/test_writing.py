"""Text written token by token by whole transformers: a small random llama, beside plain loops."""

from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from math import log2

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt

from conftest import ROOT, assert_drawn_alike
from test_smollm2 import random_weights
from tripartite import rebuilding, study
from tripartite.contracts import UserError, check, describe
from tripartite.figures import palette
from tripartite.kinds.writing import measures, streaming, write
from tripartite.kinds.writing.texts import answer, blocks, page, table, texts
from tripartite.pretrained import extraction, transformers
from tripartite.pretrained.extraction import Transformer
from tripartite.rebuilding import RECIPES, Synapses
from tripartite.registry import models
from tripartite.streams import stream

MODEL = replace(models()["smollm2"], layers=2, heads=4, d_head=6)
LETTERS = [*"abcdefgh", "Ġ", "Ċ", "<|end|>"]
IDS = [3, 1, 4, 1, 5, 8, 2, 6, 5, 3, 5]
M = 16
PARALLEL = {
    "softmax": partial(transformers.causal_attention, 0),
    "equal": partial(rebuilding.equal_attention, causal=True),
    "none": partial(rebuilding.no_attention, causal=True),
}


def small(dtype=torch.float64):
    """A llama of two layers, whose four heads share two keys and values, with eleven tokens."""
    weights = random_weights(MODEL, 5, 2, np.random.default_rng(0))
    weights = {name: x.to(dtype) for name, x in weights.items()}

    def encode(text):
        if unknown := [c for c in text if c not in "abcdefgh \n"]:
            raise ValueError(f"the model has no token {unknown[0]!r}; leave it out")
        return [LETTERS.index({" ": "Ġ", "\n": "Ċ"}.get(c, c)) for c in text]

    def read(content):
        ids = encode(content.decode())
        return *transformers.llama(MODEL, weights, ids), [LETTERS[i] for i in ids]

    return Transformer(
        read,
        transformers.layers(MODEL, weights),
        partial(transformers.final, MODEL, weights),
        embed=weights["token_embd.weight"].__getitem__,
        token_logits=partial(transformers.llama_token_logits, weights),
        encode=encode,
        tokens=LETTERS,
    )


@pytest.fixture(scope="module")
def transformer():
    return small()


def rebuilt_layers(transformer, recipe, m=M):
    """Both layers, fitted to one text."""
    q, k = transformer.read(b"abba cab feed")[:2]
    return [
        rebuilding.random_layer(
            rebuilding.fit_layer([(q[layer], k[layer])], recipe, True),
            lambda head, name, layer=layer: stream(0, name, layer, head),
            m,
            q.dtype,
        )
        for layer in range(MODEL.layers)
    ]


def streams(transformer, name, n_rows=1):
    """What stands in each layer, as streams and as attention at once."""
    if name in streaming.REFERENCES:
        found = [streaming.REFERENCES[name]() for _ in range(MODEL.layers)]
        return found, [PARALLEL[name]] * MODEL.layers
    layers = rebuilt_layers(transformer, name)
    synapses = [Synapses(MODEL.heads * n_rows, M, MODEL.d_head, torch.float64) for _ in layers]
    return (
        [streaming.network_stream(*pair) for pair in zip(layers, synapses)],
        [lambda q, k, v, one=one: one.attend(q, k, v, True) for one in layers],
    )


def at_once(transformer, attention, ids):
    """Logits [token, vocabulary] of a text that is read at once."""
    x = transformer.embed(ids)
    for layer, attend in zip(transformer.layers, attention):
        x = layer(x, attend)[0]
    return transformer.token_logits(transformer.final(x))


# The streaming form.


@pytest.mark.parametrize("name", [*RECIPES, *streaming.REFERENCES])
def test_a_text_read_token_by_token_is_as_likely_as_at_once(transformer, name):
    found, attention = streams(transformer, name)
    parts = [(found, slice(0, 1))]
    read = [streaming.read_token(transformer, parts, [i], t)[0] for t, i in enumerate(IDS)]
    logits = transformer.token_logits(torch.stack(read))
    expected = at_once(transformer, attention, IDS)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    with_others = {**PARALLEL, name: attention[0]}
    del with_others[name]
    for other in with_others.values():  # the test would see another attention
        assert (at_once(transformer, [other] * MODEL.layers, IDS) - logits).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["fitted", *streaming.REFERENCES])
def test_texts_side_by_side_are_those_of_a_plain_loop(transformer, name):
    """The likeliest token after each prefix, read from its beginning; prompts of other lengths."""
    prompts = [[3], [1, 4, 1, 5], [2, 7]]
    found, attention = streams(transformer, name, len(prompts))
    other = streams(transformer, "softmax", 1)[0]
    parts = [(found, slice(0, 3)), (other, slice(3, 4))]

    def choose(rows, which, logits):
        assert len(rows) == len(which) == len(logits)
        return logits.argmax(-1)

    got = streaming.continued(transformer, parts, [*prompts, [5]], 6, choose)
    for prompt, written in zip(prompts, got):
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(at_once(transformer, attention, ids)[-1].argmax()))
        assert written == ids[len(prompt) :]


def kept_numbers(step):
    """How many numbers the past of a stream has: all tensors that it holds, but weights."""
    total = 0
    for cell in step.__closure__ or ():
        held = cell.cell_contents
        if isinstance(held, Synapses):
            held = [held.sums]
        if isinstance(held, list):
            total += sum(x.numel() for x in held)
    return total


@pytest.mark.parametrize("name", ["fitted", *streaming.REFERENCES])
def test_what_is_kept_of_the_past(transformer, name):
    """Synapses do not grow; what the file says of each head is what its tensors hold."""
    found, _ = streams(transformer, name)
    seen = {}
    for t in range(100):
        streaming.read_token(transformer, [(found, slice(0, 1))], [t % 9], t)
        seen[t + 1] = kept_numbers(found[1])
    for t in (1, 10, 100):
        if name == "fitted":
            assert seen[t] == MODEL.heads * M * (MODEL.d_head + 1)
        elif name == "equal":  # the number of tokens is one for all heads
            assert seen[t] == MODEL.heads * (streaming.kept(name, MODEL.d_head, t) - 1) + 1
        else:
            assert seen[t] == MODEL.heads * streaming.kept(name, MODEL.d_head, t)


@settings(max_examples=50)
@given(
    st.lists(st.floats(-20, 20), min_size=1, max_size=8),
    st.sampled_from([0, 0.3, 0.7, 1, 5]),
    st.floats(0, 1, exclude_max=True),
)
def test_a_choice_is_that_of_a_plain_loop(logits, temperature, uniform):
    given = torch.tensor([logits, logits[::-1]], dtype=torch.float32)
    got = streaming.chosen_tokens(
        given, torch.full((2,), float(temperature)), torch.tensor([uniform] * 2).double()
    )
    for row, token in zip(given.double().numpy(), got):
        if temperature == 0:
            assert row[token] == row.max()
            continue
        p = np.exp((row - row.max()) / float(np.float32(temperature)))
        edges = np.concatenate([[0], np.cumsum(p / p.sum())])
        assert p[token] > 0
        assert edges[token] - 1e-9 <= uniform <= edges[token + 1] + 1e-9


def test_impossible_tokens_are_never_chosen():
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).expand(3, -1)
    uniform = torch.tensor([0.0, 0.5, np.nextafter(1, 0)], dtype=torch.float64)
    assert streaming.chosen_tokens(logits, torch.ones(3), uniform).tolist() == [1, 2, 2]


# Numbers of a text.


def test_measures_by_hand(transformer):
    assert measures.words_of("Don't stop, the Café-bar's 3 dogs!") == [
        *("don't", "stop", "the", "café", "bar's", "dogs")
    ]
    assert measures.distinct_pairs("a b a b a") == 2 / 4
    assert measures.distinct_pairs("word") == measures.distinct_pairs("") == 0
    known = measures.whole_words(["Ġthe", "Ġ", "dog", "ĠDog", "Ġ3", "Ġa-b"])
    assert known == {"the", "dog"}
    assert measures.known_words('"The dog," --- thedog cat', {"the", "dog"}) == 2 / 5
    assert measures.known_words(" \n", {"the"}) == 0
    p = torch.softmax(at_once(transformer, [PARALLEL["softmax"]] * 2, [3, 1, 4, 9]), -1)
    bits = -log2(p[1, 4]) - log2(p[2, 9])
    got = measures.bits_per_character(transformer, (3, 1), (4, 9))
    assert got == pytest.approx(bits / 2, rel=1e-9)


# The stage.

PROMPTS = ["abba", "he"]
INPUTS = {"a": b"abba cab feed", "b": b"bad head", "c": b"fade a bed had"}


@pytest.fixture
def run(monkeypatch):
    """The stage on the small llama; its settings can be changed."""
    monkeypatch.setattr(write.job, "open_sources", lambda raw, sha256: ({"w": None}, INPUTS))
    monkeypatch.setattr(extraction, "contents", lambda model, names, texts, _: texts)
    monkeypatch.setattr(extraction, "open_model", lambda model, wheel, dtype: small(dtype))

    def stage(**changes):
        given = {"model": "smollm2", "title": "small", "wheel": "w", "sha256": {}, "raw": []}
        given |= {"prompts": PROMPTS, "temperatures": [0.0, 0.7], "n_tokens": 9, "workers": 1}
        given |= {"recipes": ["plain", "fitted"], "n_features": [4, 30], "n_seeds": 2}
        given |= {"calibrated_on": ["a"], "inputs": ["a", "b", "c"], "seed": 5, "data_of": "x"}
        return write.write(**given | changes)

    return stage


def test_what_the_stage_writes(run):
    found = run()
    check(describe(found, "writing"), "writing", "here")
    assert list(found["input"].values) == ["b", "c"]
    assert list(found["state_size"].values) == [4 * 7, 30 * 7]
    assert found["reference_state_size"].values.tolist() == [[156, 132], [7, 7], [0, 0]]
    assert all(len(text) == 9 for text in found["text"].values.ravel())  # a letter each, no mark
    cold = found["reference_text"].sel(temperature=0.0)
    assert (cold[:, 0] == cold[:, 1]).all()  # of the likeliest tokens no number is random
    warm = found.sel(temperature=0.7)
    assert (warm["reference_text"][:, 0] != warm["reference_text"][:, 1]).any()
    assert (warm["text"].sel(n_features=4) != warm["text"].sel(n_features=30)).any()
    for name in ("", "reference_"):
        mean = found[f"{name}score"].mean(("seed", "prompt"))
        np.testing.assert_allclose(found[f"{name}mean_score"], mean)


def test_a_text_is_that_of_a_plain_loop(run):
    """One of softmax attention: probabilities and cumulative sums in numpy, with the same draws."""
    found, model = run(), small(torch.float32)
    for draw, prompt in product(range(2), PROMPTS):
        uniform = stream(5, "x", "choices", draw, prompt).random(9)
        ids = model.encode(prompt)
        for u in uniform:
            logits = at_once(model, [PARALLEL["softmax"]] * 2, ids)[-1].double().numpy()[:-1]
            p = np.exp(logits / 0.7)
            ids.append(int(np.searchsorted(np.cumsum(p) / p.sum(), u)))
        text = "".join(LETTERS[i] for i in ids[len(prompt) :])
        own = found.sel(seed=draw, prompt=prompt, temperature=0.7, reference="softmax")
        assert own["reference_text"].item() == text.replace("Ġ", " ").replace("Ċ", "\n")


def test_texts_do_not_depend_on_workers_groups_or_other_seeds(run, monkeypatch):
    found = run()
    for name, x in run(workers=3).items():
        np.testing.assert_array_equal(x, found[name])
    more = run(n_seeds=3, prompts=[*PROMPTS, "dad"]).sel(prompt=PROMPTS).isel(seed=slice(2))
    np.testing.assert_array_equal(more["text"], found["text"])
    monkeypatch.setattr(write, "GROUP_BYTES", 20_000)
    np.testing.assert_array_equal(run()["text"], found["text"])


def test_one_prompt_has_no_interval(run):
    found = run(prompts=["abba"])
    assert np.isfinite(found["mean_score"]).all() and np.isnan(found["mean_score_low"]).all()


def test_bad_prompts_are_one_line(run, monkeypatch):
    with pytest.raises(UserError, match=r"^prompts: 'xyz': the model has no token 'x'; leave it"):
        run(prompts=["abba", "xyz"])
    blind = small()._replace(embed=None)
    monkeypatch.setattr(extraction, "open_model", lambda *_: blind)
    with pytest.raises(UserError, match="^model smollm2: cannot write, .* such as smollm2$"):
        run()


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0, 3, 90, 700])), max_size=20),
)
def test_groups_hold_every_text_once_within_their_size(pairs):
    every = [write.Text(write.Network(name, m), 1.0, i, "") for i, (name, m) in enumerate(pairs)]
    groups = write.side_by_side(every, 10**6)
    assert sorted(text for group in groups for text in group) == sorted(every)
    for group in groups if every else ():
        networks = [text.network for text in group]
        assert sum(a != b for a, b in pairwise(networks)) == len({*networks}) - 1
        size = sum(x.m for x in networks) + sum(x.m for x in {*networks})
        assert len(group) == 1 or size * 10**6 <= write.GROUP_BYTES


def faults(section, **data):
    experiments = {"x": {"data": data, "writing": section}}
    found = study.study_faults({"experiments": experiments}, ROOT, {"memory_gb": 8})
    return [f"{'.'.join(map(str, keys))}: {text}" for keys, text in found]


def test_bad_settings_are_one_line_before_any_job():
    section = {"prompts": ["Once"], "n_features": [8], "calibrated_on": ["lincoln"]}
    data = {"model": "smollm2", "inputs": ["lincoln", "darwin"]}
    assert faults(section, **data) == []
    for empty in ("", "  \n"):
        (line,) = faults(section | {"prompts": ["Once", empty]}, **data)
        assert line.startswith("experiments.x.writing.prompts: got") and "is empty; write" in line
    (line,) = faults(section, model="minilm", inputs=["lincoln", "darwin"])
    assert "layer 0 of the data is bidirectional, which writing does not serve" in line
    drawn = {"sigma_squared": [1], "n_inputs": 2, "n_tokens": 4, "d_head": 4}
    (line,) = faults(section | {"calibrated_on": "half"}, synthetic=drawn, order="causal")
    assert "has no model, whose layers writing could change" in line
    (line,) = faults(section | {"recipes": ["learned"]}, **data)
    assert "experiments.x.writing.recipes" in line


# The figure and the page.


def test_figure(run, tmp_path):
    found = run()
    fits = {"a": found.assign_attrs(data="x $^$ <i>y</i>")}
    assert_drawn_alike(texts, fits, tmp_path)
    figure = texts(fits)
    figure.set_dpi(300)  # as it is saved: letters are rounded to pixels
    width, height = figure.get_size_inches()
    assert width <= palette.PAGE and height * 25.4 <= 200
    boxes = [text.get_window_extent() for text in figure.texts]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)
    drawn = {text.get_text() for text in figure.texts}
    assert {"softmax attention", "fitted, m = 30", "plain, m = 4", "no attention"} <= drawn
    plt.close("all")


def test_what_does_not_fit_on_a_page_is_left_out_in_whole_seeds(run):
    found = run()
    many = found.isel(n_features=[0, 1] * 10).assign_coords(n_features=range(1, 21))
    figure = texts({"a": many.assign_attrs(data="x")})
    assert figure.get_figheight() * 25.4 <= 200
    assert any("of 344 texts" in text.get_text() for text in figure.texts)
    long = found.assign(text=found["text"].str.replace("^", "abc " * 90, regex=True))
    figure = texts({"a": long.assign_attrs(data="x")})
    figure.set_dpi(300)  # as it is saved: letters are rounded to pixels
    assert all(x.get_window_extent().x1 <= figure.bbox.x1 for x in figure.texts)
    assert any(text.get_text().endswith("…") for text in figure.texts)
    plt.close("all")


def test_the_table_has_whole_texts_and_the_answer_their_means(run):
    found = run().assign_attrs(data="x")
    shown = table({"a": found})
    rows = shown[(shown["recipe"] == "fitted") & (shown["n_features"] == 30)]
    wanted = found["text"].sel(recipe="fitted", n_features=30).values.ravel()
    assert {*rows["text"]} == {*wanted}
    mean = found["mean_score"].sel(measure="bits_per_character", recipe="fitted", n_features=30)
    said = answer({"a": found})
    assert f"{float(mean.isel(temperature=0)):.2f} [" in said
    assert said != answer({"a": found.assign(mean_score=found["mean_score"] + 1)})


def test_the_page_has_every_text(run):
    found = run().assign_attrs(data="x & <i>y</i>")
    text = found["text"].copy()
    text[0, 0, 0, 0, 0] = "<script>alert(1)</script>"
    said = page({"a": found.assign(text=text)})
    assert "<script>" not in said and "&lt;script&gt;alert(1)" in said and "<i>" not in said
    n_texts = found["text"].size + found["reference_text"].size
    assert (
        said.count('<td class="text">')
        == n_texts
        == sum(len(block.rows) for block in blocks(found))
    )
    assert said.count("<h2>") == 4 and "default-src 'none'" in said
