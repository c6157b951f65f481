"""The commands and code of the README work."""

import re
import types

import numpy as np
import torch
import yaml

from conftest import ROOT
from tripartite import study
from tripartite.contracts import check
from tripartite.job import read_foreign
from tripartite.kinds.data.attend import attend
from tripartite.kinds.data.generate import adopt

PROJECTIONS = ("query", "key", "value")
README = (ROOT / "README.md").read_text()


def block(language: str, word: str) -> str:
    """The only code block of the README in a language that contains a word."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.S)
    (found,) = [text for text in blocks if word in text]
    return found


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


def test_the_recorder_gives_the_models_own_attention(tmp_path, monkeypatch):
    """The exported file passes the checks, and its attention is what the model computed."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Encoder()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    batch = {"x": torch.randn(2, 5, 8), "attention_mask": mask}
    monkeypatch.syspath_prepend(ROOT / "workflow/scripts")
    code = compile(block("python", "record_attention"), "README.md", "exec")
    exec(code, {"model": model, "batch": batch})
    path = tmp_path / "my_model.nc"
    assert study.file_faults(path) == []
    data = adopt(read_foreign(path), "my_model.nc")
    check(data, "qkv", "my_model.nc")
    output = attend(data)["output"].values  # input, layer, head, token, d_head
    wanted = torch.stack(model.outputs, 1).detach().numpy()
    np.testing.assert_allclose(output[0], wanted[0], atol=1e-6)
    np.testing.assert_allclose(output[1][:, :, :3], wanted[1][:, :, :3], atol=1e-6)


def test_every_study_that_is_named_exists():
    named = set(re.findall(r"study=(\w+)", README)) - {"mine"}
    assert named and all((ROOT / f"config/studies/{name}.yaml").exists() for name in named)
    figures = yaml.safe_load((ROOT / "config/studies/default.yaml").read_text())["figures"]
    assert all(f"| `{name}` |" in README for name in figures)
