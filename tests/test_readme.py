"""The code of the README works; it is short, and names what exists."""

import re
import types

import numpy as np
import pytest
import torch
import yaml

from conftest import ROOT
from pages import PAGES, block
from tripartite import study
from tripartite.contracts import check
from tripartite.job import read_foreign
from tripartite.kinds.data.attend import attend
from tripartite.kinds.data.generate import adopt

PROJECTIONS = ("query", "key", "value")
README = (ROOT / "README.md").read_text()
FINDINGS_END = "<!-- end of findings -->"
# Studies that pages let their reader write, and run in their tests.
MADE_BY_PAGES = {"mine", "toy", "squared", "rxnfp"}


class Encoder(torch.nn.Module):
    """Two layers of two heads, with the module names of the transformers package."""

    def __init__(self):
        super().__init__()
        self.config = types.SimpleNamespace(num_attention_heads=2)
        self.encoder = torch.nn.Module()
        self.encoder.layer = torch.nn.ModuleList()
        for _ in range(2):
            layer = torch.nn.Module()
            layer.attention = torch.nn.Module()
            layer.attention.self = torch.nn.Module()
            for name in PROJECTIONS:
                setattr(layer.attention.self, name, torch.nn.Linear(8, 8))
            self.encoder.layer.append(layer)

    def forward(self, x, attention_mask):
        self.outputs = []
        for layer in self.encoder.layer:
            q, k, v = (
                getattr(layer.attention.self, name)(x).unflatten(-1, (2, 4)).transpose(1, 2)
                for name in PROJECTIONS
            )
            mask = attention_mask[:, None, None, :].bool()
            o = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            self.outputs.append(o)
            x = x + o.transpose(1, 2).flatten(-2)
        return x


@pytest.mark.parametrize("page", ["README.md", "docs/own_transformers.md"])
def test_the_recorder_gives_the_models_own_attention(page, tmp_path, monkeypatch):
    """The exported file passes the checks, and its attention is what the model computed."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Encoder()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    batch = {"x": torch.randn(2, 5, 8), "attention_mask": mask}
    monkeypatch.syspath_prepend(ROOT / "workflow/scripts")
    code = compile(block(page, "python", "record_attention"), page, "exec")
    given = {"names": ["long", "short"], "tokens": [[*"abcde"], [*"abc??"]]}
    exec(code, {"model": model, "batch": batch} | given)
    path = tmp_path / "my_model.nc"
    assert study.file_faults(path) == []
    data = adopt(read_foreign(path), "my_model.nc")
    check(data, "qkv", "my_model.nc")
    named = page != "README.md"
    assert [*data["input"].values] == (["long", "short"] if named else ["input-0", "input-1"])
    output = attend(data)["output"].values  # input, layer, head, token, d_head
    wanted = torch.stack(model.outputs, 1).detach().numpy()
    np.testing.assert_allclose(output[0], wanted[0], atol=1e-6)
    np.testing.assert_allclose(output[1][:, :, :3], wanted[1][:, :, :3], atol=1e-6)


def test_every_study_that_is_named_exists():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"study=(\w+)", text)) - MADE_BY_PAGES
        assert all((ROOT / f"config/studies/{name}.yaml").exists() for name in named), page


def test_every_figure_of_the_default_study_is_explained():
    figures = yaml.safe_load((ROOT / "config/studies/default.yaml").read_text())["figures"]
    page = (ROOT / "docs/results.md").read_text()
    assert [name for name in figures if f"| `{name}` |" not in page] == []


def test_the_readme_is_read_in_five_minutes():
    """At 260 words a minute, beside the findings, which are generated."""
    before, _, after = README.partition("<!-- findings: ")
    text = re.sub(
        r"```.*?```|!\[.*?\)|\]\(.*?\)", " ", before + after.partition(FINDINGS_END)[2], flags=re.S
    )
    assert "\n## Run it\n" in README  # a message of study.py names it
    assert FINDINGS_END in README and len(text.split()) <= 1300


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "config/README.md"])
def test_links_lead_somewhere(page):
    """Of pages outside docs/, whose own are checked when the site is built: files and headings."""
    path = ROOT / page
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if anchor:
            headings = re.findall("^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            slugs = [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings]
            assert anchor in slugs, link
