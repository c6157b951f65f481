"""The GPU path without a GPU: on a stand-in device every stage gives the numbers of the CPU."""

import numpy as np
import pytest
import torch
import xarray as xr

import stand_in_device
from conftest import defaults, in_order, random_heads, run_simulate, run_stage
from stage import function_of
from test_network import MAPS, draw
from tripartite import declarations, hidden, job, lse_attention, network
from tripartite.kinds.benchmark import measure
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
    with pytest.raises(RuntimeError, match="on the same device"):
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
        y = x.mT.reshape(2, 3, 4)[:, 1:].unfold(2, 2, 2).flatten(1)
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


def both(device, tokens, hidden, dtype, **options):
    """The network's ln|p|, sign and output on the device and on the CPU, in a dtype."""
    for where in (device, "cpu"):
        q, k, v = (x.to(where, dtype) for x in tokens[:3])
        found = network.read(
            [Tokens(q, k, v, tokens.log_gain.to(where))],
            [hidden[:2]],
            [(0, hidden.bias.shape[-1] // 3), (0, hidden.bias.shape[-1])],
            hidden.activation,
            hidden.threshold,
            **options,
        )
        yield [x.cpu() for (one,) in found for x in one]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("feature_map", MAPS)
def test_networks_are_those_of_the_cpu(device, feature_map, causal, dtype):
    """Every feature map, both orders, with unequal leaks, and values of another width."""
    tokens, hidden = draw(11, 70, 6, 300, 0.4, feature_map, d_value=4)
    leak = Leak(0.01, 0.02)
    for there, here in zip(*both(device, tokens, hidden, dtype, causal=causal, leak=leak)):
        torch.testing.assert_close(there, here, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
