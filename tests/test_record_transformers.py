"""The recorder on models of the transformers package, with random weights: run where that is.

    pip install torch==2.13.0 transformers==5.24.0 netCDF4 pytest
    pytest -o addopts= --noconftest tests/test_record_transformers.py -rP

-rP prints the tables. What is recorded is compared with the attention weights that the model's
eager code returns.
"""

import netCDF4
import numpy as np
import pytest
import torch

from record_attention import record_attention

transformers = pytest.importorskip("transformers")

N_TOKENS = 12
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.4,  # logits of some units
}
TEXT = SIZES | {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 8}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.4}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "pad_token_id": 0}
WHISPER = {
    **{f"{part}_layers": 2 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 4 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 48 for part in ("encoder", "decoder")},
    **{"d_model": 32, "num_mel_bins": 8, "max_source_positions": 20, "init_std": 0.4},
    **{"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "decoder_start_token_id": 1,
}
DEEPSEEK = TEXT | {
    **{"num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 24, "v_head_dim": 12},
    **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "first_k_dense_replace": 1},
    **{"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2},
    **{"n_group": 2, "topk_group": 1},
}
WINDOW = "a sliding window shorter than the sequence"
CASES = {  # model, settings, padding, order; or why it is refused
    "bert": ("Bert", TEXT, "none", "bidirectional"),
    "bert, padded": ("Bert", TEXT, "right", "bidirectional"),
    "albert, padded": ("Albert", TEXT | {"embedding_size": 16}, "right", "bidirectional"),
    "gpt2": ("GPT2", TEXT | GPT2, "none", "causal"),
    "gpt2, padded": ("GPT2", TEXT | GPT2, "left", "causal"),
    "llama": ("Llama", GROUPED, "none", "causal"),
    "llama, padded right": ("Llama", GROUPED, "right", "causal"),
    "llama, padded left": ("Llama", GROUPED, "left", "causal"),
    "qwen3": ("Qwen3", GROUPED, "none", "causal"),
    "mistral, window 4": ("Mistral", GROUPED | {"sliding_window": 4}, "none", WINDOW),
    "mistral, window 4, padded": ("Mistral", GROUPED | {"sliding_window": 4}, "left", WINDOW),
    "mistral, window 12": ("Mistral", GROUPED | {"sliding_window": 12}, "none", "causal"),
    "mistral, window 64": ("Mistral", GROUPED | {"sliding_window": 64}, "left", "causal"),
    "deepseek v3": ("DeepseekV3", DEEPSEEK, "none", "causal"),
    "gemma 2": ("Gemma2", GROUPED, "none", "Gemma2Model made no call of scaled_dot_product"),
}


def build(kind, settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    return getattr(transformers, f"{kind}Model")(config).eval()


def batch(padding):
    mask = torch.ones(2, N_TOKENS, dtype=torch.long)
    mask[1, {"none": slice(0), "right": slice(8, None), "left": slice(4)}[padding]] = 0
    ids = torch.randint(3, 50, mask.shape, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids} if padding == "none" else {"input_ids": ids, "attention_mask": mask}


def record(model, inputs):
    with torch.no_grad(), record_attention(model) as recorded:
        model(**inputs)
    return recorded


def read(path):
    with netCDF4.Dataset(path) as file:
        return {name: np.asarray(file[name][:]) for name in file.variables} | {
            "dtype": file.getncattr("dtype")
        }


def weights(file, layer):
    """softmax(q.k) of a layer of a file: [input, head, query, key]."""
    allowed = torch.from_numpy(file["mask"]).bool()[:, None, None]
    if file["order"][layer] == "causal":
        allowed = allowed & torch.ones(2 * allowed.shape[-1:]).tril().bool()
    q, k = (torch.from_numpy(file[name][:, layer]).double() for name in "qk")
    logit = (q @ k.mT).masked_fill(~allowed, -torch.inf)
    assert logit[logit.isfinite()].std() > 0.3, "the logits are too small for a test"
    return logit.softmax(-1).numpy()


def assert_output(file, bound=1e-5):
    """softmax(q.k) v is the model's output, in every head."""
    for i, layer, head in np.ndindex(file["q"].shape[:3]):
        present = file["mask"][i].astype(bool)
        output = (weights(file, layer)[i, head] @ file["v"][i, layer, head])[present]
        own = file["model_output"][i, layer, head][present]
        assert np.linalg.norm(output - own) <= bound * np.linalg.norm(own)


def assert_weights(file, wanted):
    """softmax(q.k) is what the model's eager code returns [layer][input, head, query, key]."""
    assert len(wanted) == file["q"].shape[1]
    for layer, of_model in enumerate(wanted):
        got = weights(file, layer)
        for i, present in enumerate(file["mask"].astype(bool)):
            difference = got[i][:, present] - of_model[i].numpy()[:, present]
            assert abs(difference).max() < 1e-5
    assert_output(file)


def eager(model, inputs, name="attentions"):
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model(**inputs, output_attentions=True)[name]


@pytest.mark.parametrize("case", CASES)
def test_a_text_model(tmp_path, case):
    kind, settings, padding, expected = CASES[case]
    model, inputs = build(kind, settings), batch(padding)
    recorded = record(model, inputs)
    if expected not in ("bidirectional", "causal"):
        with pytest.raises((ValueError, RuntimeError)) as error:
            recorded.save(tmp_path / "a.nc")
        print(error.value)
        assert expected in str(error.value) and not [*tmp_path.iterdir()]
        return
    recorded.save(tmp_path / "a.nc")
    file = read(tmp_path / "a.nc")
    assert file["order"].tolist() == [expected] * 2
    mask = inputs.get("attention_mask", torch.ones(2, N_TOKENS))
    assert np.array_equal(file["mask"], mask)
    assert_weights(file, eager(model, inputs))


def test_bfloat16_with_padding_on_the_left(tmp_path):
    model, inputs = build("Llama", GROUPED).bfloat16(), batch("left")
    record(model, inputs).save(tmp_path / "a.nc")
    file = read(tmp_path / "a.nc")
    assert file["dtype"] == "bfloat16" and np.array_equal(file["mask"], inputs["attention_mask"])
    assert_output(file, bound=0.02)


def test_an_image_model(tmp_path):
    model = build("ViT", SIZES | {"image_size": 16, "patch_size": 4})
    inputs = {"pixel_values": torch.randn(2, 3, 16, 16)}
    record(model, inputs).save(tmp_path / "a.nc")
    file = read(tmp_path / "a.nc")
    assert file["order"].tolist() == ["bidirectional"] * 2 and file["mask"].shape == (2, 17)
    assert_weights(file, eager(model, inputs))


def test_labels_of_shared_modules(tmp_path):
    record(build("Albert", TEXT | {"embedding_size": 16}), batch("none")).save(tmp_path / "a.nc")
    first, second = read(tmp_path / "a.nc")["layer"]
    assert second == f"{first}#2"


def test_t5_is_refused_by_its_bias(tmp_path):
    inputs = batch("none")
    inputs["decoder_input_ids"] = inputs["input_ids"][:, :7]
    with pytest.raises(ValueError) as error:
        record(build("T5", T5 | {"vocab_size": 50}), inputs).save(tmp_path / "a.nc")
    print(error.value)
    by_bias, cross = str(error.value).split("; ")
    assert by_bias.endswith("decoder.block.1.layer.0.SelfAttention: a bias per pair of tokens")
    assert "EncDecAttention: queries and keys of two lengths" in cross


def test_whisper_has_two_files_and_cross_attention_is_left_out(tmp_path, capsys):
    model = build("Whisper", WHISPER)
    inputs = {
        "input_features": torch.randn(2, 8, 40),
        "decoder_input_ids": batch("none")["input_ids"],
    }
    record(model, inputs).save(tmp_path / "a.nc")
    encoder, decoder = read(tmp_path / "a.nc"), read(tmp_path / "a-2.nc")
    assert encoder["order"].tolist() == ["bidirectional"] * 2
    assert decoder["order"].tolist() == ["causal"] * 2
    said = capsys.readouterr().out
    assert "left out: decoder.layers.0.encoder_attn, decoder.layers.1.encoder_attn: queries" in said
    print(said)
    assert_weights(encoder, eager(model, inputs, "encoder_attentions"))
    assert_weights(decoder, eager(model, inputs, "decoder_attentions"))


class OfTorch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x, absent):
        return self.attention(3 * x, 3 * x, x, key_padding_mask=absent, average_attn_weights=False)


def test_attention_of_torch(tmp_path):
    torch.manual_seed(0)
    model = OfTorch().eval()
    inputs = {"x": torch.randn(2, N_TOKENS, 32), "absent": batch("right")["attention_mask"] == 0}
    record(model, inputs).save(tmp_path / "a.nc")
    with torch.no_grad():
        assert_weights(read(tmp_path / "a.nc"), [model(**inputs)[1]])
