"""The GPU path without a GPU: on a stand-in device every stage gives the numbers of the CPU."""

from collections import Counter

import pytest
import torch
import xarray as xr

import stand_in_device
from conftest import defaults, in_order, random_heads, run_stage
from stage import function_of
from test_network import MAPS, draw
from tripartite import declarations, lse_attention, network
from tripartite.kinds.benchmark import measure
from tripartite.kinds.trained import arms, train
from tripartite.network import Leak, Tokens

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


@pytest.fixture(scope="session")
def device(request):
    return stand_in_device.load(request.config.cache.mkdir("stand_in_device"))


# The stand-in itself.


@pytest.mark.parametrize(
    "mix",
    [
        lambda there, here: there + here,
        lambda there, here: here @ there,
        lambda there, here: torch.cat([there, here]),
        lambda there, here: torch.where(there > 0, there, here),
        lambda there, here: here.addmm_(there, there),
        lambda there, here: torch.mm(there, there, out=here),
        lambda there, here: torch.zeros(()).add_(there.sum()),
        lambda there, here: torch.einsum("ij,jk->ik", there, here),
    ],
)
def test_it_meets_no_tensor_of_the_cpu(device, mix):
    here = torch.ones(3, 3)
    with pytest.raises(RuntimeError, match="on the same device|input tensor device cpu"):
        mix(here.to(device), here)


def test_it_meets_numbers_and_indices_as_cuda_does(device):
    x = torch.arange(6.0).reshape(2, 3)
    there = x.to(device)
    half = torch.tensor(0.5)
    torch.testing.assert_close(
        (there * half + torch.where(there > 2, there, half)).cpu(),
        x * half + torch.where(x > 2, x, half),
    )
    torch.testing.assert_close(there[torch.tensor([1, 0])].cpu(), x.flip(0))
    with pytest.raises(TypeError, match="can't convert standin"):
        there.numpy()
    assert torch.empty(4, device=device).cpu().isnan().all()  # nobody has written it


def test_it_computes_as_the_cpu(device):
    """Views, writing in place, results that are resized, and gradients."""
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def work(x):
        x = x.clone().requires_grad_()
        y = x.mT.reshape(2, 3, 4)[:, 1:].flatten(1)
        z = y.new_zeros(2, 9)
        z[:, 1:9] = y.exp()
        z.view(-1)[::3].mul_(2)
        z.mT.diagonal().add_(1)
        z.logsumexp(-1).square().sum().backward()
        return z.detach(), x.grad, torch.stack(torch.sort(z.detach(), -1).values.split(3, 1))

    for there, here in zip(work(x.to(device)), work(x)):
        assert there.device.type == device
        torch.testing.assert_close(there.cpu(), here, rtol=1e-14, atol=1e-14)


# The network.


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("feature_map", MAPS)
def test_networks_are_those_of_the_cpu(device, feature_map, causal, dtype):
    """Every feature map, both orders, two sizes, unequal leaks, and values of another width."""
    tokens, hidden = draw(11, 70, 6, 300, 0.4, feature_map, d_value=4)
    found = []
    for where in (device, "cpu"):
        q, k, v = (x.to(where, dtype) for x in tokens[:3])
        networks = network.read(
            [Tokens(q, k, v, tokens.log_gain.to(where))],
            [hidden[:2]],
            [(0, 100), (0, 300)],
            *hidden[2:],
            causal=causal,
            leak=Leak(0.01, 0.02),
        )
        found.append([x for (one,) in networks for x in one])
    for there, here in zip(*found, strict=True):
        assert there.device.type == device
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(there.cpu(), here, rtol=tolerance, atol=tolerance)


def test_a_tensor_on_the_wrong_device_is_found(device, monkeypatch):
    """A fault that is planted: one number of each key is computed on the CPU."""
    tokens, hidden = draw(11, 20, 6, 30)
    there = Tokens(*(x.to(device) for x in tokens))
    network.read([there], [hidden[:2]], [(0, 30)])
    right = network._square
    monkeypatch.setattr(network, "_square", lambda x: right(x.cpu()))
    with pytest.raises(RuntimeError, match="on the same device"):
        network.read([there], [hidden[:2]], [(0, 30)])


def test_flex_attention_is_tried_when_it_can_pay_and_once(device, monkeypatch, capsys):
    """Not before as much was computed as a compilation costs; never again where it fails."""
    tokens, hidden = draw(11, 20, 16, 30, 9.0)
    there = [Tokens(*(x.to(device, torch.float32) for x in tokens[:3]), tokens.log_gain.to(device))]
    monkeypatch.setattr(lse_attention, "_forms", {})
    monkeypatch.setattr(lse_attention, "_computed", Counter())
    monkeypatch.setattr(lse_attention, "COMPILING", 1000)  # 600 in a call

    def run(*neurons):
        (((_, _, output),),) = network.read(there, [neurons], [(0, len(neurons[1]))])
        return output.cpu()

    def compiled(*inputs):
        raise ValueError("no compiler")

    plain = run(*hidden[:2])
    monkeypatch.setattr(torch, "compile", lambda function: compiled)
    run(*hidden[:2])  # a device that is not CUDA's
    assert not capsys.readouterr().out
    monkeypatch.setattr(lse_attention, "COMPILES_ON", (device,))
    for _ in range(2):
        torch.testing.assert_close(run(*hidden[:2]), plain)
        run(*(x[:29] for x in hidden[:2]))
    (line,) = capsys.readouterr().out.splitlines()
    assert "cannot be compiled (no compiler)" in line
    monkeypatch.setattr(lse_attention, "_forms", {})
    monkeypatch.setattr(torch, "compile", lambda function: lse_attention.flex)
    monkeypatch.setattr(lse_attention, "flex", lambda *inputs: [x + 1e-3 for x in real(*inputs)])
    monkeypatch.setattr(lse_attention, "_seconds", lambda form, *inputs: float(form is real))
    real = lse_attention.products
    assert (run(*hidden[:2]) - plain).abs().min() > 5e-4  # by the compiled form
    assert capsys.readouterr().out.count("flex_attention is used") == 2  # to write, and to read


# Stages.

NETWORK = {"n_features": [10, 20, 45], "n_seeds": 3}
STAGES = {
    "simulate": defaults("network") | NETWORK | {"previous": None},
    "explain": {"n_features": [20], "n_seeds": 2, "heads": [[0, 0], [0, 2]]},
    "settle": NETWORK | {"ratios": [0.1, 1.0, 9.0], "heads": [[0, 0]]},
    "compare_maps": NETWORK
    | {
        "variants": {
            "plain": {"feature_map": "performer"},
            "fitted": {"feature_map": "fitted_normal"},
            "linear": {"feature_map": "linear"},
        },
        "heads": [[0, 1]],
        "symmetries": ["center_keys"],
        "dtype": "float64",
    },
    "learn": NETWORK
    | {
        "n_features": [6],
        "n_seeds": 2,
        "trained_on": ["draw-0"],
        "validated_on": ["draw-1"],
        "loss": "weights",
        "max_steps": 12,
        "learning_rate": 0.1,
        "patience": 5,
        "dtype": "float64",
        "previous": None,
    },
}


@pytest.fixture(scope="module")
def data():
    """Three heads; inputs of 12 tokens, the last one of 9."""
    return random_heads([0.5, 4.0, 20.0], 3, [(2, slice(9, None))], n_tokens=12, d_head=4)


def on_both(device, data, stage, **changes):
    """What a stage returns on the device, with two threads, and on the CPU."""
    settings = {"heads": "all", "inputs": "all", "seed": 5, "data_of": "x"} | STAGES[stage]
    function = function_of(declarations.stages()[stage])
    for where in (device, "cpu"):
        more = {"checkpoint": {}} if stage == "learn" else {}
        yield run_stage(function, data, settings | more | changes, device=where)


def test_every_stage_that_takes_a_device_is_tested_here():
    using = [one for one in declarations.stages().values() if "device" in one.uses]
    assert {one.stage for one in using} == {*STAGES, "measure", "train"}


def rotated(x, first):
    """arms._rotated in real numbers: the stand-in has no complex ones."""
    places = torch.arange(first, first + x.shape[1], device=x.device, dtype=x.dtype)
    steps = torch.arange(0, x.shape[-1], 2, device=x.device, dtype=x.dtype) / x.shape[-1]
    angle = (places[:, None] * arms.ROTARY_BASE**-steps)[:, None, None]
    cosine, sine = angle.cos() * x.shape[-1] ** -0.25, angle.sin() * x.shape[-1] ** -0.25
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)


def test_training_on_the_device_is_that_on_the_cpu(device, monkeypatch):
    """The first steps of every attention: later ones grow apart by rounding."""
    x = torch.randn(2, 5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotated(x, 3), arms._rotated(x, 3))
    monkeypatch.setattr(arms, "_rotated", rotated)
    found = []
    for where in (device, "cpu"):
        settings = train.Settings(
            arms=["softmax", "random", "learned", "leak", "astromorphic"],  # torch has its own gru
            n_features=[4],
            n_seeds=2,
            context=6,
            d_model=8,
            n_layers=1,
            n_heads=2,
            batch=4,
            steps=3,
            learning_rates=[0.01],
            prompts=[],
            sample_length=1,
            temperature=1.0,
        )
        found.append(train.train([], "recall", {}, 0, "here", settings, where, 1, {}))
    there, here = found
    for name in ("training_loss", "validation_loss", "tuning_loss"):
        assert here[name].notnull().any()
        xr.testing.assert_allclose(there[name], here[name], rtol=1e-4)


@pytest.mark.parametrize(
    ("stage", "order"),
    [
        (stage, order)
        for stage in STAGES
        for order in ("bidirectional", "causal")
        if order in declarations.kinds()[declarations.stages()[stage].kind].orders
    ],
)
def test_stages_give_the_numbers_of_the_cpu(device, data, stage, order):
    there, here = on_both(device, in_order(data, order), stage)
    # explain fits: where a function is least is known to the root of its rounding errors
    tolerance = 1e-8 if stage == "explain" else 1e-12
    xr.testing.assert_allclose(there, here, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("smaller_networks", ["nested", "blocks", "disjoint"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 3e-6)])
def test_batches_of_draws_are_the_draws_one_by_one(
    device, data, smaller_networks, dtype, tolerance, monkeypatch
):
    """All draws in one batch, and with a small memory blocks of neurons and one draw at a time."""
    changes = {"smaller_networks": smaller_networks, "dtype": dtype, "leak_hebbian": 0.1}
    found, here = on_both(device, data, "simulate", **changes)
    xr.testing.assert_allclose(found, here, rtol=tolerance, atol=tolerance)
    monkeypatch.setattr(network, "GPU_BLOCK_BYTES", 5000)
    network.device_block_bytes.cache_clear()
    found, _ = on_both(device, data, "simulate", **changes)
    network.device_block_bytes.cache_clear()
    xr.testing.assert_allclose(found, here, rtol=tolerance, atol=tolerance)


def test_the_benchmark_runs_on_a_device(device, monkeypatch):
    """Our network on all heads in one batch has the error of the CPU; all cases have one."""
    cases = [
        measure.Case(method, "bidirectional", 24, 100, dtype, 3)
        for method, dtype in (
            (measure.OURS, "float32"),
            (measure.OURS, "bfloat16"),
            ("torch eager", "float32"),
            ("exact SDPA", "float32"),
        )
    ]
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(measure, "machine", lambda device: f"a machine with {device}")
    monkeypatch.setattr(measure, "gemm_peak", lambda case, device: 1.0)
    for name, value in {"ROUNDS": 1, "SECONDS": 0.001, "CASES": [], "GPU_CASES": cases}.items():
        monkeypatch.setattr(measure, name, value)
    there = measure.measure("no/peers", 1, device)
    assert chosen == [device]
    monkeypatch.setattr(measure, "CASES", cases)
    monkeypatch.setattr(measure, "in_a_fresh_process", lambda *arguments: 1.0)
    here = measure.measure("no/peers", 1, "cpu")
    for i, case in enumerate(cases):
        tolerance = 0.02 if case.dtype == "bfloat16" else 1e-5
        error, wanted = (float(x["output_error"][i]) for x in (there, here))
        assert error == pytest.approx(wanted, rel=tolerance, abs=1e-6)
