"""The recorder of attention, which runs where a user's model runs."""

import itertools
import math
import os

import hypothesis
import hypothesis.strategies as st
import netCDF4
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.functional import scaled_dot_product_attention as bound_early

import record_attention as recorder
from record_attention import record_attention
from tripartite import study
from tripartite.job import read_foreign
from tripartite.kinds.data.attend import attend
from tripartite.kinds.data.generate import adopt

ORIGINAL = F.scaled_dot_product_attention
PADDING = {  # of two inputs of five tokens
    "none": [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
    "right": [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]],
    "left": [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]],
    "between": [[1, 0, 1, 1, 1], [1, 1, 1, 0, 1]],
}


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def plain(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def masked(mask):
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Layer(torch.nn.Module):
    """Attention by a function of q, k, v [input, head, token, width]; keeps what it returned."""

    def __init__(self, call=plain, heads=2, key_heads=2, d_value=4):
        super().__init__()
        self.call, self.outputs = call, []
        self.query = torch.nn.Linear(8, heads * 4)
        self.key = torch.nn.Linear(8, key_heads * 4)
        self.value = torch.nn.Linear(8, key_heads * d_value)
        self.out = torch.nn.Linear(heads * d_value, 8)
        self.heads = heads, key_heads, key_heads

    def forward(self, x):
        parts = zip((self.query, self.key, self.value), self.heads)
        q, k, v = (part(x).unflatten(-1, (n, -1)).transpose(1, 2) for part, n in parts)
        output = self.call(3 * q, k, v)
        self.outputs.append(output.detach())
        return x + self.out(output.transpose(1, 2).flatten(2))


def stack(*calls, **sizes):
    """A model with a layer for each function."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*(Layer(call, **sizes) for call in calls))


def inputs(n_inputs=2, n_tokens=5):
    return torch.randn(n_inputs, n_tokens, 8, generator=torch.Generator().manual_seed(1))


def record(model, *batches):
    with torch.no_grad(), record_attention(model) as recorded:
        for batch in batches or [inputs()]:
            model(batch)
    return recorded


def read(path):
    with netCDF4.Dataset(path) as file:
        assert [file[name].dtype for name in ("q", "k", "v", "model_output")] == [np.float32] * 4
        arrays = {name: np.asarray(file[name][:]) for name in file.variables}
        return arrays | {name: file.getncattr(name) for name in file.ncattrs()}


def saved(tmp_path, model, *batches, **names):
    record(model, *batches).save(tmp_path / "a.nc", **names)
    return read(tmp_path / "a.nc")


def assert_right(file, outputs, bound=1e-5):
    """The file has these outputs [layer][input, head, token, width], and its q, k, v give them."""
    for i, layer in np.ndindex(file["q"].shape[:2]):
        present = np.flatnonzero(file["mask"][i])
        for head in range(file["q"].shape[2]):
            q, k, v = (file[name][i, layer, head].astype(float) for name in "qkv")
            for token in present:
                read_from = present[present <= token] if is_causal(file, layer) else present
                weights = [math.exp(q[token] @ k[other]) for other in read_from]
                wanted = sum(w * v[other] for w, other in zip(weights, read_from)) / sum(weights)
                got = file["model_output"][i, layer, head, token]
                np.testing.assert_allclose(got, outputs[layer][i][head, token], atol=1e-6)
                np.testing.assert_allclose(got, wanted, rtol=bound, atol=bound)


def is_causal(file, layer):
    return file["order"][layer] == "causal"


def test_calls_by_any_name_are_recorded(tmp_path, capsys):
    def bound(q, k, v):
        return bound_early(q, k, v, None, 0.0, True, scale=0.7)

    model = stack(causal, bound, plain)
    file = saved(tmp_path, model)
    assert_right(file, [layer.outputs[0] for layer in model])
    assert file["order"].tolist() == ["causal", "causal", "bidirectional"]
    assert file["layer"].tolist() == ["0", "1", "2"] and file["dtype"] == "float32"
    assert file["source"] == f"record_attention.py 1, torch {torch.__version__}"
    header, row = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header[:7] == "file layers inputs heads tokens d_head d_value".split()
    assert row[:7] == ["a.nc", "3", "2", "2", "5", "4", "4"]
    assert row[7:-2] == ["2", "causal,", "1", "bidirectional"] and float(row[-1]) < 1e-6


def test_the_study_reads_what_the_recorder_writes(tmp_path):
    mask = torch.tensor(PADDING["left"], dtype=torch.bool)
    model = stack(
        masked(mask[:, None, None]), masked(mask[:, None, None] & torch.ones(5, 5).tril().bool())
    )
    tokens = [list("abcde"), ["", "", "x", "y", "z"]]
    saved(tmp_path, model, inputs=["one", "two"], tokens=tokens)
    assert study.file_faults(tmp_path / "a.nc") == []
    data = adopt(read_foreign(tmp_path / "a.nc"), "a.nc")
    assert data["input"].values.tolist() == ["one", "two"]
    assert data["order"].values.tolist() == ["bidirectional", "causal"]
    assert data["text"].values.tolist() == tokens
    output = attend(data)["output"].values  # compared there with the model's own
    np.testing.assert_allclose(output[0, 0], model[0].outputs[0][0], atol=1e-6)


@pytest.mark.parametrize("call", [causal, plain])
def test_grouped_keys_are_repeated(tmp_path, call):
    def shared(q, k, v):
        return ORIGINAL(q, k, v, is_causal=call is causal, enable_gqa=True)

    def by_hand(q, k, v):
        return call(q, *(x.repeat_interleave(2, 1) for x in (k, v)))

    files = []
    for attention in (shared, by_hand):
        model = stack(attention, heads=4, key_heads=2)
        files.append(saved(tmp_path, model))
        assert_right(files[-1], [model[0].outputs[0]])
    assert files[0]["k"].shape[2] == 4
    assert all(np.array_equal(files[0][name], files[1][name]) for name in files[0])


@pytest.mark.parametrize("order", ["bidirectional", "causal"])
@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("kind", ["bool", "-inf", "finfo", "-10000", "opened"])
def test_masks(tmp_path, order, padding, kind):
    present = torch.tensor(PADDING[padding], dtype=torch.bool)
    allowed = present[:, None, None, :].expand(-1, 1, 5, 5)
    if order == "causal":
        allowed = allowed & torch.ones(5, 5, dtype=torch.bool).tril()
    if kind == "opened":  # rows that read nothing read everything
        allowed = allowed | ~allowed.any(-1, keepdim=True)
    low = {"-inf": -math.inf, "finfo": torch.finfo(torch.float32).min, "-10000": -10000.0}
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, low[kind]) if kind in low else allowed
    model = stack(masked(mask))
    file = saved(tmp_path, model)
    assert file["order"].tolist() == [order]
    assert np.array_equal(file["mask"], PADDING[padding])
    assert_right(file, [model[0].outputs[0]])
    for name in ("q", "k", "v", "model_output"):
        assert not np.moveaxis(file[name], 3, 1)[
            ~present.numpy()
        ].any()  # nothing where no token is


def meanings(allowed):
    """All orders and sets of tokens that a mask [query, key] can stand for, by trying all sets.

    Present tokens read what the order says, and absent tokens are read by none; or else, in causal
    masks, by rows at the beginning that read everything and belong to no token.
    """
    n, strict, opened = len(allowed), [], []
    for order, *present in itertools.product(("bidirectional", "causal"), *[[False, True]] * n):
        wanted = [
            [present[j] and (order != "causal" or j <= i) for j in range(n)] for i in range(n)
        ]
        if not any(present) or any(present[i] and any(allowed[i] != wanted[i]) for i in range(n)):
            continue
        reading = [i for i in range(n) for j in range(n) if allowed[i, j] and not present[j]]
        if not reading:
            strict.append((order, tuple(present)))
        elif order == "causal" and max(reading) < present.index(True):
            if allowed[: max(reading) + 1].all():
                opened.append((order, tuple(present)))
    return strict or opened


def squares(n):
    rows = st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=n, max_size=n)
    return rows.map(np.array)


@st.composite
def padded_masks(draw):
    """Padding and order; rows of absent tokens read any that are present or, at first, all."""
    allowed = draw(st.integers(1, 5).flatmap(squares))
    present = allowed[0] | (np.arange(len(allowed)) == draw(st.integers(0, len(allowed) - 1)))
    allowed = np.where(present[:, None], True, allowed) & present
    if draw(st.booleans()):
        allowed[present] &= np.tri(len(allowed), dtype=bool)[present]
        if draw(st.booleans()):
            allowed[: present.argmax()] = True
    return allowed


@hypothesis.given(padded_masks() | st.integers(1, 4).flatmap(squares))
def test_a_mask_means_what_all_trials_say(allowed):
    wanted = meanings(allowed)
    mask = torch.from_numpy(allowed)[None, None]
    if not wanted:
        with pytest.raises(recorder.Refused):
            recorder.meaning(mask, False, 1, len(allowed))
        return
    orders, present = recorder.meaning(mask, False, 1, len(allowed))
    assert {(order, tuple(present[0])) for order in orders} == {*wanted}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_results_and_torch_are_as_without_the_recorder(tmp_path):
    """Encoders and MultiheadAttention with weights, which both avoid the call, are recorded."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2).eval()
    absent = ~torch.tensor(PADDING["right"], dtype=torch.bool)
    with torch.no_grad():
        wanted = model(inputs(), src_key_padding_mask=absent)
        with record_attention(model) as recorded:
            got = model(inputs(), src_key_padding_mask=absent)
        assert F.scaled_dot_product_attention is ORIGINAL
    torch.testing.assert_close(got[~absent], wanted[~absent], atol=1e-5, rtol=0)
    recorded.save(tmp_path / "a.nc")
    file = read(tmp_path / "a.nc")
    assert file["layer"].tolist() == ["layers.0.self_attn", "layers.1.self_attn"]
    assert np.array_equal(file["mask"], PADDING["right"])
    assert_right(file, torch.from_numpy(file["model_output"]).transpose(0, 1))

    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    with torch.no_grad(), record_attention(attention) as recorded:
        output, weights = attention(*[inputs()] * 3, average_attn_weights=False)
    recorded.save(tmp_path / "a.nc")
    file = read(tmp_path / "a.nc")
    assert file["layer"].tolist() == ["MultiheadAttention"]
    logits = np.einsum("ilhtd,ilhsd->ilhts", file["q"], file["k"])[:, 0]
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(-1), weights, atol=1e-6)
    own = torch.from_numpy(file["model_output"][:, 0]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention.out_proj(own), output, atol=1e-6, rtol=0)


def test_passes_are_inputs(tmp_path):
    model, long = stack(causal, plain), inputs(1, 7)
    tokens = [list("abcde"), list("fghij"), list("klmnopq")]
    file = saved(tmp_path, model, inputs(), long, inputs=["x", "y", "z"], tokens=tokens)
    assert file["mask"].sum(1).tolist() == [5, 5, 7] and file["q"].shape == (3, 2, 2, 7, 4)
    assert file["text"][:, 4:].tolist() == [["e", "", ""], ["j", "", ""], ["o", "p", "q"]]
    assert_right(file, [[*layer.outputs[0], *layer.outputs[1]] for layer in model])


def test_a_block_run_twice_or_within_another_records_once(tmp_path):
    model = stack(causal, lambda q, k, v: bound_early(q, k, v))
    first = saved(tmp_path, model)
    with record_attention(model) as outer:
        second = saved(tmp_path, model)
    outer.save(tmp_path / "outer.nc")
    for other in (second, read(tmp_path / "outer.nc")):
        assert all(np.array_equal(first[name], other[name]) for name in first)
    assert len(first["layer"]) == 2


def test_an_error_leaves_nothing_behind(tmp_path):
    model = stack(plain, plain)
    with torch.no_grad(), record_attention(model) as recorded:
        model(inputs())
        with pytest.raises(RuntimeError, match="shapes"):
            model[1].query = torch.nn.Linear(7, 8)
            model(inputs())
    recorded.save(tmp_path / "a.nc")
    assert read(tmp_path / "a.nc")["q"].shape[:2] == (2, 2)
    with pytest.raises(RuntimeError, match="shapes"):
        record(model)
    assert F.scaled_dot_product_attention is ORIGINAL
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_widened_first(tmp_path, dtype, autocast):
    seen = []

    def attention(q, k, v):
        if autocast:  # float32 that autocast rounds
            q, k, v = (x.float() * 1.1 for x in (q, k, v))
        seen.extend((q, k))
        return causal(q, k, v)

    model = stack(attention)
    with torch.autocast("cpu", dtype, enabled=autocast):
        if autocast:
            file = saved(tmp_path, model)
        else:
            file = saved(tmp_path, model.to(dtype), inputs().to(dtype))
    assert file["dtype"] == str(dtype).removeprefix("torch.")
    q, k = (x.to(dtype).double().numpy() for x in seen)
    wanted = np.einsum("ihtd,ihsd->ihts", q, k) / 2
    got = np.einsum("ihtd,ihsd->ihts", file["q"][:, 0].astype(float), file["k"][:, 0].astype(float))
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    assert_right(file, [model[0].outputs[0].float()], bound=4 * torch.finfo(dtype).eps)


def window(n):
    """Causal attention to the last n tokens."""
    return torch.ones(5, 5).tril().triu(1 - n).bool()


def dropping(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)


def weakly_masked(q, k, v):
    """A mask of -1000 that does not hide keys, since logits are larger."""
    return masked(torch.where(window(5), 0.0, -1000.0))(30 * q, 30 * k, v)


DOCUMENTS = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3)).bool()
REFUSED = {
    "a sliding window shorter than the sequence": masked(window(4)),
    "a bias per pair of tokens": masked(torch.linspace(-3, 0, 25).reshape(5, 5)),
    "a mask of another kind than padding or causal": masked(DOCUMENTS),
    "a mask of its own for each head": masked(torch.stack([window(5), window(9).T])),
    "an input without a token": masked(torch.zeros(1, 5).bool()),
    "queries and keys of two lengths": lambda q, k, v: plain(q, k[:, :, :3], v[:, :, :3]),
    "dropout in use; put the model in eval mode": dropping,
    "causal for some inputs, bidirectional for others": masked(
        torch.stack([window(5), torch.ones(5, 5).bool()])[:, None]
    ),
    "3 axes, wanted 4": lambda q, k, v: plain(q[0], k[0], v[0]).expand(2, 2, 5, 4),
    "softmax(q.k) v differs from its output by more than rounding": weakly_masked,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_served_is_left_out_by_name(tmp_path, capsys, reason):
    model = stack(causal, REFUSED[reason], plain)
    file = saved(tmp_path, model)
    assert file["layer"].tolist() == ["0", "2"]
    assert f"left out: 1: {reason}" in capsys.readouterr().out
    (tmp_path / "a.nc").write_text("as before")
    with pytest.raises(ValueError, match="^no layer can be saved: 0, 1: ") as error:
        saved(tmp_path, stack(*[REFUSED[reason]] * 2))
    assert reason in str(error.value) and "\n" not in str(error.value)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.nc", "as before")]


def test_long_windows_are_causal(tmp_path):
    model = stack(masked(window(5)), masked(window(9)))
    file = saved(tmp_path, model)
    assert file["order"].tolist() == ["causal", "causal"]
    assert_right(file, [layer.outputs[0] for layer in model])


def test_an_order_that_changes_between_passes_is_refused(tmp_path):
    model = stack(plain)
    with torch.no_grad(), record_attention(model) as recorded:
        model(inputs())
        model[0].call = causal
        model(inputs())
    with pytest.raises(ValueError, match="0: causal for some inputs, bidirectional for others"):
        recorded.save(tmp_path / "a.nc")


def test_values_have_a_width_of_their_own(tmp_path):
    model = stack(plain, d_value=3)
    file = saved(tmp_path, model)
    assert file["v"].shape == file["model_output"].shape == (2, 1, 2, 5, 3)
    assert_right(file, [model[0].outputs[0]])


def test_a_shared_module_is_a_layer_at_each_call(tmp_path):
    shared = Layer(causal)
    model = torch.nn.Sequential(shared, Layer(causal), shared, shared)
    file = saved(tmp_path, model, inputs(), inputs(1))
    assert file["layer"].tolist() == ["0", "1", "0#2", "0#3"]
    calls = [shared.outputs[n::3] for n in range(3)]
    assert_right(file, [torch.cat(o) for o in (calls[0], model[1].outputs, *calls[1:])])


class TwoLengths(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = stack(plain, plain), stack(causal, causal)

    def forward(self, x):
        return self.decoder(self.encoder(x)[:, :3])


def test_layers_of_another_look_have_a_file_of_their_own(tmp_path, capsys):
    model, tokens = TwoLengths(), [["a", "b", "c"]] * 2
    file = saved(tmp_path, model, inputs=["x", "y"], tokens=tokens)
    second = read(tmp_path / "a-2.nc")
    assert file["layer"].tolist() == ["encoder.0", "encoder.1"] and "text" not in file
    assert second["layer"].tolist() == ["decoder.0", "decoder.1"]
    assert second["text"].tolist() == tokens
    assert file["input"].tolist() == second["input"].tolist() == ["x", "y"]
    for got, part in ((file, model.encoder), (second, model.decoder)):
        assert_right(got, [layer.outputs[0] for layer in part])
    lines = capsys.readouterr().out.splitlines()
    table = [dict(zip(lines[0].split(), line.split())) for line in lines[1:]]
    assert [(row["file"], row["layers"], row["tokens"]) for row in table] == [
        ("a.nc", "2", "5"),
        ("a-2.nc", "2", "3"),
    ]


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    recorded = record(TwoLengths())
    (tmp_path / "a.nc").write_text("as before")
    write = recorder._write

    def fail_later(path, *rest):
        write(path, *rest)
        if "a-2" in path.name:
            raise OSError("No space left on device")

    monkeypatch.setattr(recorder, "_write", fail_later)
    with pytest.raises(OSError, match="No space left"):
        recorded.save(tmp_path / "a.nc")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.nc", "as before")]


class EagerAttention(Layer):
    def forward(self, x):
        q, k, v = (part(x) for part in (self.query, self.key, self.value))
        return (q @ k.mT / 8**0.5).softmax(-1) @ v


def test_attention_that_makes_no_call_is_named(tmp_path, capsys):
    saved(tmp_path, torch.nn.Sequential(Layer(), EagerAttention()))
    assert "left out: 1: made no call of scaled_dot_product_attention" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="EagerAttention made no call of .*'sdpa'"):
        saved(tmp_path, EagerAttention())


def test_calls_by_others_are_not_recorded(tmp_path):
    model, other = stack(causal), stack(plain)
    with torch.no_grad(), record_attention(model) as recorded:
        model(other(inputs()))
        causal(*[torch.ones(1, 1, 2, 4)] * 3)
    recorded.save(tmp_path / "a.nc")
    assert read(tmp_path / "a.nc")["layer"].tolist() == ["0"]


def test_a_compiled_model_runs_as_plain_code(tmp_path):
    model, compiled = stack(causal), []
    backend = torch.compile(model, backend=lambda graph, _: compiled.append(graph) or graph.forward)
    file = saved(tmp_path, backend)
    assert_right(file, [model[0].outputs[0]])
    assert not compiled
    model[0].outputs = []
    backend(inputs())
    assert compiled  # as it is without the recorder


def test_wrong_use_is_told(tmp_path):
    recorded = record(stack(plain))
    with pytest.raises(RuntimeError, match="no pass of Sequential was recorded"):
        recorder.Recorded(stack(plain)).save(tmp_path / "a.nc")
    with pytest.raises(FileNotFoundError, match="missing: there is no such folder"):
        recorded.save(tmp_path / "missing/a.nc")
    for names in (["a", "a"], ["a", " "], "ab"):
        with pytest.raises(ValueError, match="^inputs: wanted a list of different names"):
            recorded.save(tmp_path / "a.nc", inputs=names)
    with pytest.raises(ValueError, match="^inputs: got 3, wanted 2 "):
        recorded.save(tmp_path / "a.nc", inputs=list("abc"))
    with pytest.raises(ValueError, match=r"^tokens of each input: got \[5, 4\], wanted \[5, 5\] "):
        recorded.save(tmp_path / "a.nc", tokens=["abcde", "abcd"])
    assert os.listdir(tmp_path) == []


def test_what_may_be_overlooked_is_told(tmp_path, capsys):
    """Parts of a model that were called by themselves, and files of an earlier recording."""
    model = stack(plain)
    with torch.no_grad(), recorder.record_attention(model) as recorded:
        model.forward(inputs())
    (tmp_path / "a-2.nc").touch()
    recorded.save(tmp_path / "a.nc")
    said = capsys.readouterr().out
    assert "note: parts of the model were called by themselves" in said
    with torch.no_grad(), recorder.record_attention(model) as recorded:
        model(inputs())
    for stale in tmp_path.glob("a-*.nc"):
        stale.unlink()
    recorded.save(tmp_path / "a.nc")
    assert "note:" not in capsys.readouterr().out
    (tmp_path / "a-2.nc").touch()
    recorded.save(tmp_path / "a.nc")
    assert "note: a-2.nc and those after it are of another recording" in capsys.readouterr().out
