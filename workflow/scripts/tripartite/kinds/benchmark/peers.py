"""Other implementations of attention, made ready for timing beside the neuron-astrocyte network.

Every function prepares one forward pass: prepare(q, k, v, omega, causal) takes float32 q, k, v
[T, D] that already carry the softmax temperature (q.k is the logit) and the random projection
omega [m, D], and returns a callable without arguments that gives the output [T, D]. The projection
is fixed; nothing is drawn or compiled in the pass. The packages of envs/benchmark.txt are imported
only by the functions that need them.
"""

import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tripartite.dynamics import Constants, Period, State, derivative, rest

Pass = Callable[[], Tensor]


def numpy_denominators(q: Tensor, k: Tensor, v: Tensor, omega: Tensor, causal: bool) -> Pass:
    """The loop over tokens of the notebooks released with Kozachkov et al. (2023), in float64.

    Like the notebooks it finds the denominators g.phi(q) alone: the pass returns [T]; v is unused.
    g is summed over all keys before any query is read: causal raises ValueError.
    """
    phi, queries, keys, _ = _numpy_neurons(q, k, v, omega, causal)

    def forward() -> Tensor:
        g = np.zeros(len(omega))
        for key in keys:
            g += phi(key)
        return torch.from_numpy(np.array([g @ phi(query) for query in queries]))

    return forward


def numpy_loop(q: Tensor, k: Tensor, v: Tensor, omega: Tensor, causal: bool) -> Pass:
    """The same loop with the Hebbian weights H [D, m] too: outputs H phi(q) / g.phi(q), float64."""
    phi, queries, keys, values = _numpy_neurons(q, k, v, omega, causal)

    def forward() -> Tensor:
        g, hebbian = np.zeros(len(omega)), np.zeros((values.shape[1], len(omega)))
        for key, value in zip(keys, values, strict=True):
            hidden = phi(key)
            g += hidden
            hebbian += np.outer(value, hidden)
        return torch.from_numpy(np.stack([hebbian @ h / (g @ h) for h in map(phi, queries)]))

    return forward


def _numpy_neurons(
    q: Tensor, k: Tensor, v: Tensor, omega: Tensor, causal: bool
) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """The neurons phi, of one token [D] -> [m], and q, k, v in float64."""
    _refuse_causal(causal)
    queries, keys, values, projection = (x.double().cpu().numpy() for x in (q, k, v, omega))

    def phi(x: np.ndarray) -> np.ndarray:
        return np.exp(projection @ x - x @ x / 2) / np.sqrt(len(projection))

    return phi, queries, keys, values


def performer(q: Tensor, k: Tensor, v: Tensor, omega: Tensor, causal: bool) -> Pass:
    """FastAttention of performer-pytorch, with omega for its projection.

    It multiplies q and k by D^-1/4, which is undone here, and adds 1e-4 to every scaled feature:
    its output is biased towards the plain mean of the values. Its causal pass is the one in torch,
    the only one without the CUDA package fast_transformers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports distutils.version
        from performer_pytorch import FastAttention
    dim = q.shape[1]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that the CUDA code is missing
        # A few features only: drawing a projection takes it m x m numbers, and omega replaces it.
        attention = FastAttention(dim, nb_features=dim, causal=causal).train(False)
    attention.projection_matrix = omega
    q, k = q * dim**0.25, k * dim**0.25
    return _forward(attention, *(x[None, None] for x in (q, k, v)))


def darkformer(q: Tensor, k: Tensor, v: Tensor, omega: Tensor, causal: bool) -> Pass:
    """DarkformerKernelAttention of darkformer-pytorch, with omega for its projection.

    Its learned geometry is the identity that it starts with; always the linear path, never the
    exact one. It multiplies q and k by D^-1/4, which is undone here.
    """
    from darkformer_pytorch import DarkformerKernelAttention

    m, dim = omega.shape
    attention = (
        DarkformerKernelAttention(
            dim,
            1,
            num_features=m,
            orthogonal_features=False,
            causal=causal,
            attention_mode="linear",
            projection_seed=0,
            fixed_projection=True,
        )
        .to(omega)
        .train(False)
    )
    attention.random_features.projection_matrix = omega
    q, k = q * dim**0.25, k * dim**0.25
    return _forward(attention, *(x[None, None] for x in (q, k, v)))


def exact(q: Tensor, k: Tensor, v: Tensor, omega: Tensor, causal: bool) -> Pass:
    """Exact softmax attention, torch's fused kernel; omega is unused."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=1.0)

    return _forward(attention, *(x[None, None] for x in (q, k, v)))


def eager(q: Tensor, k: Tensor, v: Tensor, omega: Tensor, causal: bool) -> Pass:
    """The formula in plain torch, features [T, m] in memory, any device and dtype; not causal."""
    _refuse_causal(causal)
    return _forward(_random_feature_attention, q, k, v, omega)


def compiled(q: Tensor, k: Tensor, v: Tensor, omega: Tensor, causal: bool) -> Pass:
    """The same under torch.compile, for these shapes alone; not causal.

    Compiling for one set of shapes drops what was compiled before: an earlier pass compiles anew.
    """
    _refuse_causal(causal)
    torch.compiler.reset()
    attention = torch.compile(_random_feature_attention, fullgraph=True, dynamic=False)
    forward = _forward(attention, q, k, v, omega)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's compiler imports torch.jit
        forward()  # compiles
    return forward


def _random_feature_attention(q: Tensor, k: Tensor, v: Tensor, omega: Tensor) -> Tensor:
    """phi(q) (phi(k)^T v) / (phi(q) . sum phi(k)), phi(x) = exp(omega x - |x|^2 / 2) / sqrt(m)."""
    phi_q, phi_k = (
        torch.exp(x @ omega.mT - x.square().sum(-1, keepdim=True) / 2) / len(omega) ** 0.5
        for x in (q, k)
    )
    return phi_q @ (phi_k.mT @ v) / (phi_q @ phi_k.sum(0))[:, None]


def torchdiffeq_write(
    rates: Tensor, v: Tensor, token_seconds: float, constants: Constants, steps: int
) -> Tensor:
    """Hebbian weights [E, m] after torchdiffeq's rk4 wrote tokens from rest, `steps` for each.

    rates [T, m] and v [T, E]; `constants` and equations are those of dynamics.py.
    """
    from torchdiffeq import odeint

    state = tuple(x.to(rates.dtype) for x in rest(rates.shape[1], v.shape[1]))
    times = torch.tensor([0.0, token_seconds], dtype=rates.dtype)
    with torch.inference_mode():
        for rate, value in zip(rates, v):
            period = Period(0, rate, value, token_seconds)
            found = odeint(
                lambda _, y, period=period: tuple(derivative(State(*y), period, constants)),
                state,
                times,
                method="rk4",
                options={"step_size": token_seconds / steps},
            )
            state = tuple(x[-1] for x in found)
    return State(*state).hebbian


def _forward(attention: Callable[..., Tensor], *inputs: Tensor) -> Pass:
    """The pass attention(*inputs), without gradients or leading dimensions of size one."""
    return torch.inference_mode()(lambda: attention(*inputs).reshape(inputs[0].shape[-2], -1))


def _refuse_causal(causal: bool) -> None:
    if causal:
        raise ValueError("this implementation has no causal form")


PEERS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, bool], Pass]] = {
    "numpy loop, denominators": numpy_denominators,
    "numpy loop": numpy_loop,
    "performer-pytorch": performer,
    "darkformer-pytorch": darkformer,
    "exact SDPA": exact,
    "torch eager": eager,
    "torch.compile": compiled,
}
