"""Small transformers that are alike but for their attention, and a recurrent network beside them.

A transformer has pre-norm layers of attention and feed-forward nets, and rotary positions; its
queries, keys and values take over a trained share of those of the token before, number by number (a
short convolution, as in Based, Arora et al. 2024), since linear attention can hardly find the token
before by itself. Sizes of all arms are chosen so that they have as many trained parameters.
Attention is one of ATTENTION, of queries, keys and values q, k, v [B, H, T, D] of B sequences, H
heads, T tokens (q and k are each divided by D^(1/4): q.k is the logit of softmax attention):

    softmax       softmax attention
    random        phi(x) = exp(omega.x - |x|^2 / 2) / sqrt(m) with m fixed standard normal omega
                  (Choromanski et al. 2021), of which the neuron-astrocyte network makes
                  sum_i phi(q).phi(k_i) v_i / sum_i phi(q).phi(k_i)  (Kozachkov et al. 2023, eq. 12)
    learned       the same with phi(x) = [softmax(W x), softmax(-W x)] (Hedgehog, Zhang et al. 2024)
    leak          learned, where synapses H and g lose exp(-leak) per token: a key of some age
                  counts by exp(-leak * age), in what is read and in its normaliser
    astromorphic  phi(x) = elu(W x) + 1, with which H = sum_i (phi(k_i) + phi(r_i)) v_i and
                  g = (sum_i phi(k_i))^alpha, where r_i = sum_j exp(-s |i - j|) M_j is the position
                  of a token; W, M, s and alpha are trained (after Mia, Bal & Sengupta 2023,
                  arXiv:2312.10925)

In causal order a query reads the keys up to its own token; else all of them, once all are written.
Every attention has two forms that agree to rounding. `forward` reads all tokens at once and is what
is trained; `empty`, `write` and `read` go token by token, with a memory of fixed size but for
softmax. Both give what is read with ln of the response p that divides it, so that a knock-out needs
no more: exp(log_p - log_p') * output is the output that is divided by p' instead.
"""

import bisect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tripartite.learning import log_features, log_kernel

ROTARY_BASE = 1e4  # ASSUME: base of rotary positions (Su et al. 2021)
WIDENING = 4  # ASSUME: hidden units of the feed-forward net of softmax per unit of d_model
# ASSUME: leaks per token of the first and last head before training, evenly spread in their logs
LEAKS = 0.1, 0.01
EMBEDDED = 0.5  # ASSUME: standard deviation of the states of symbols before training
AT_REST = 1e-6  # ASSUME: rate of a neuron elu + 1 that nothing drives
TOLERANCE = 0.02  # of the number of parameters of an arm
SAFE = 1e-30  # a normaliser below this has lost more than rounding errors in float32


class Shape(NamedTuple):
    """What all arms of an experiment share; n_symbols 0: the inputs are real numbers."""

    n_symbols: int
    n_outputs: int
    n_tokens: int
    causal: bool
    pooled: bool  # one target per sequence, read from the mean over tokens
    d_model: int
    n_layers: int
    n_heads: int


class Read(NamedTuple):
    """What the heads of a layer read: output [B, H, T, D], ln p [B, H, T], of values v."""

    output: Tensor
    log_p: Tensor
    v: Tensor


# (layer, what its heads read) -> their output [B, H, T, D]
Change = Callable[[int, Read], Tensor]


class Softmax(nn.Module):
    """Softmax attention; its memory has the keys and values of all tokens."""

    def __init__(self, shape: Shape, m: int) -> None:
        super().__init__()
        self.causal = shape.causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Read:
        scores = q @ k.mT  # [B, H, T, T]
        if self.causal:
            scores = scores.masked_fill(~_earlier(q), -torch.inf)
        log_p = torch.logsumexp(scores, -1)
        return Read(torch.exp(scores - log_p[..., None]) @ v, log_p, v)

    def empty(self, like: Tensor) -> tuple[Tensor, ...]:
        """The memory of heads before they have read values `like` [B, H, D]."""
        nothing = like.new_zeros(*like.shape[:2], 0, like.shape[-1])
        return nothing, nothing

    def write(self, memory: tuple[Tensor, ...], k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        keys, values = memory
        return torch.cat([keys, k[:, :, None]], 2), torch.cat([values, v[:, :, None]], 2)

    def read(self, memory: tuple[Tensor, ...], q: Tensor) -> Read:
        keys, values = memory
        scores = torch.einsum("bhd, bhtd -> bht", q, keys)
        log_p = torch.logsumexp(scores, -1)
        shares = torch.exp(scores - log_p[..., None])
        return Read(torch.einsum("bht, bhtd -> bhd", shares, values), log_p, values)


class Network(nn.Module):
    """The neuron-astrocyte network with positive features; a subclass has ln phi.

    Its memory is ln g [B, H, m] and u [B, H, m, D] with H_a = g_a u_a: what a hidden neuron has
    stored is a mean of values, so that nothing leaves the range of float32.
    """

    def __init__(self, shape: Shape, m: int) -> None:
        super().__init__()
        self.causal, self.m = shape.causal, m

    def log_phi(self, x: Tensor, of_keys: bool) -> Tensor:
        """ln phi [B, H, T, m] of x [B, H, T, D]."""
        raise NotImplementedError

    def log_kept(self) -> Tensor | None:
        """ln of what synapses keep from one token to the next [H]; None if they keep all."""
        return None

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Read:
        log_q, log_k = self.log_phi(q, False), self.log_phi(k, True)
        n = q.shape[-2]
        seen = _earlier(q) if self.causal else torch.ones_like(_earlier(q))
        log_decay = q.new_zeros(1, n, n)
        if (kept := self.log_kept()) is not None:
            token = torch.arange(n, device=q.device, dtype=q.dtype)
            now = token[:, None] if self.causal else token[-1]
            log_decay = kept[:, None, None] * (now - token).clamp_min(0)  # [H, T, T]
        # Peaks cancel: they only keep products in range.
        peak_q, peak_k = log_q.detach().amax(-1, True), log_k.detach().amax((-2, -1), True)
        weights = torch.exp(log_q - peak_q) @ torch.exp(log_k - peak_k).mT
        weights = weights * torch.where(seen, log_decay.exp(), 0)
        p = weights.sum(-1)  # [B, H, T]
        if (p > SAFE).all():
            return Read(weights @ v / p[..., None], p.log() + (peak_q + peak_k)[..., 0], v)
        logs = log_kernel(log_q, log_k, seen) + log_decay
        log_p = torch.logsumexp(logs, -1)
        return Read(torch.exp(logs - log_p[..., None]) @ v, log_p, v)

    def empty(self, like: Tensor) -> tuple[Tensor, ...]:
        log_g = like.new_full((*like.shape[:2], self.m), -torch.inf)
        return log_g, like.new_zeros(*log_g.shape, like.shape[-1])

    def write(self, memory: tuple[Tensor, ...], k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        log_g, u = memory
        if (kept := self.log_kept()) is not None:
            log_g = log_g + kept[:, None]
        log_phi = self.log_phi(k[:, :, None], True)[:, :, 0]
        log_g = torch.logaddexp(log_g, log_phi)
        share = torch.exp(log_phi - log_g)[..., None]  # [B, H, m, 1]
        return log_g, u + share * (v[:, :, None] - u)

    def read(self, memory: tuple[Tensor, ...], q: Tensor) -> Read:
        log_g, u = memory
        logs = self.log_phi(q[:, :, None], False)[:, :, 0] + log_g
        log_p = torch.logsumexp(logs, -1)
        shares = torch.exp(logs - log_p[..., None])
        return Read(torch.einsum("bhm, bhmd -> bhd", shares, u), log_p, u)


class Random(Network):
    """Exponential neurons with fixed random weights: omega is no parameter."""

    omega: Tensor  # [H, m, D]

    def __init__(self, shape: Shape, m: int) -> None:
        super().__init__(shape, m)
        self.register_buffer("omega", torch.empty(shape.n_heads, m, shape.d_model // shape.n_heads))

    def log_phi(self, x: Tensor, of_keys: bool) -> Tensor:
        square = x.square().sum(-1, keepdim=True)
        return x @ self.omega.mT - square / 2 - math.log(self.m) / 2


class Learned(Network):
    """Hedgehog features of trained weights."""

    def __init__(self, shape: Shape, m: int) -> None:
        super().__init__(shape, m)
        size = shape.n_heads, m // 2, shape.d_model // shape.n_heads
        self.of_queries, self.of_keys = (nn.Parameter(torch.empty(size)) for _ in range(2))

    def log_phi(self, x: Tensor, of_keys: bool) -> Tensor:
        return log_features(self.of_keys if of_keys else self.of_queries, x)


class Leak(Learned):
    """Learned features, and synapses that leak; the leak per token is exp(log_leak) [H]."""

    def __init__(self, shape: Shape, m: int) -> None:
        super().__init__(shape, m)
        self.log_leak = nn.Parameter(torch.empty(shape.n_heads))

    def log_kept(self) -> Tensor:
        return -self.log_leak.exp()


class Astromorphic(nn.Module):
    """Neurons elu + 1 with trained weights, positions written to H alone, exponent alpha of g.

    Its memory is H [B, H, m, D], the sum of phi(k) [B, H, m], and the number of tokens.
    """

    def __init__(self, shape: Shape, m: int) -> None:
        super().__init__()
        self.causal, self.m = shape.causal, m
        d_head = shape.d_model // shape.n_heads
        self.hidden = nn.Parameter(torch.empty(shape.n_heads, m, d_head))
        self.places = nn.Parameter(torch.empty(shape.n_tokens, d_head))  # M
        self.log_nearness = nn.Parameter(torch.empty(1))  # ln s
        self.alpha = nn.Parameter(torch.empty(shape.n_heads))

    def phi(self, x: Tensor) -> Tensor:
        """elu(W x) + 1, [..., H, T, m] of x [..., H, T, D], above 0 also where elu rounds to -1."""
        return functional.elu(x @ self.hidden.mT) + (1 + AT_REST)

    def of_places(self, first: int, n: int) -> Tensor:
        """phi(r_i) [H, n, m] of n tokens from the first on; there are such beyond the M_j."""
        i, j = (torch.arange(a, a + b) for a, b in ((first, n), (0, len(self.places))))
        distance = (i[:, None] - j).abs().to(self.places)
        return self.phi(torch.exp(-self.log_nearness.exp() * distance) @ self.places)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Read:
        phi_q, phi_k = self.phi(q), self.phi(k)
        weights = phi_q @ (phi_k + self.of_places(0, q.shape[-2])).mT
        g = phi_k.cumsum(-2) if self.causal else phi_k.sum(-2, keepdim=True)
        p = (phi_q * g ** self.alpha[:, None, None]).sum(-1)
        weights = weights * _earlier(q) if self.causal else weights
        return Read(weights @ v / p[..., None], p.log(), v)

    def empty(self, like: Tensor) -> tuple[Tensor, ...]:
        g = like.new_zeros(*like.shape[:2], self.m)
        return like.new_zeros(*g.shape, like.shape[-1]), g, torch.zeros((), dtype=torch.int64)

    def write(self, memory: tuple[Tensor, ...], k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        h, g, place = memory
        phi_k = self.phi(k[:, :, None])[:, :, 0]
        phi = phi_k + self.of_places(int(place), 1)[:, 0]
        return h + phi[..., None] * v[:, :, None], g + phi_k, place + 1

    def read(self, memory: tuple[Tensor, ...], q: Tensor) -> Read:
        h, g, _ = memory
        phi_q = self.phi(q[:, :, None])[:, :, 0]
        p = (phi_q * g ** self.alpha[:, None]).sum(-1)
        return Read(torch.einsum("bhm, bhmd -> bhd", phi_q, h) / p[..., None], p.log(), h)


ATTENTION: dict[str, Callable[[Shape, int], Any]] = {
    "softmax": Softmax,
    "random": Random,
    "learned": Learned,
    "leak": Leak,
    "astromorphic": Astromorphic,
}
SIZELESS = ("softmax", "gru")  # arms that do not depend on the number of hidden neurons


class Block(nn.Module):
    """One layer of a transformer."""

    def __init__(self, arm: str, shape: Shape, m: int, width: int) -> None:
        super().__init__()
        d = shape.d_model
        self.n_heads = shape.n_heads
        self.before_attention, self.before_feed_forward = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.of_token, self.of_last = (nn.Parameter(torch.empty(3 * d)) for _ in range(2))
        self.attention: Any = ATTENTION[arm](shape, m)
        self.up, self.down = nn.Linear(d, width), nn.Linear(width, d)

    def heads(self, x: Tensor, first: int, last: Tensor | None) -> tuple[Tensor, ...]:
        """q, k, v [B, H, T, D] of states [B, T, d_model], and what the next token needs of them.

        first is the place of the first token, last [B, 1, 3 d_model] what the one before it left.
        """
        drive = self.qkv(self.before_attention(x))
        last = torch.zeros_like(drive[:, :1]) if last is None else last
        shifted = torch.cat([last, drive[:, :-1]], 1)
        qkv = (self.of_token * drive + self.of_last * shifted).unflatten(-1, (3, self.n_heads, -1))
        q, k = _rotated(qkv[:, :, :2], first).permute(2, 0, 3, 1, 4)
        return q, k, qkv[:, :, 2].transpose(1, 2), drive[:, -1:]

    def mixed(self, x: Tensor, output: Tensor) -> Tensor:
        """States after the layer, of states before it and the output [B, H, T, D] of its heads."""
        x = x + self.out(output.transpose(1, 2).flatten(-2))
        return x + self.down(functional.relu(self.up(self.before_feed_forward(x))))


class Transformer(nn.Module):
    """A small transformer with the attention of an arm and feed-forward nets of some width."""

    def __init__(self, arm: str, shape: Shape, m: int, width: int) -> None:
        super().__init__()
        self.pooled = shape.pooled
        self.enter = _entrance(shape)
        blocks = (Block(arm, shape, m, width) for _ in range(shape.n_layers))
        self.blocks: Any = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(shape.d_model)
        self.leave = nn.Linear(shape.d_model, shape.n_outputs)

    def forward(self, inputs: Tensor, change: Change | None = None) -> Tensor:
        """Logits [B, T, n_outputs] of inputs [B, T], or [B, n_outputs] with one target each.

        change replaces what all heads of a layer put out, (layer, Read) -> output [B, H, T, D].
        """
        x = _entered(self.enter, inputs)
        for layer, block in enumerate(self.blocks):
            seen = block.attention(*block.heads(x, 0, None)[:3])
            x = block.mixed(x, seen.output if change is None else change(layer, seen))
        x = self.norm(x)
        return self.leave(x.mean(1) if self.pooled else x)

    def empty(self, n: int) -> list:
        """What is kept of the past of n sequences before their first token."""
        return [None, 0, n]

    def step(self, past: list, inputs: Tensor) -> tuple[Tensor, list]:
        """Logits [B, n_outputs] of the next tokens [B], and the past that has them (causal)."""
        memories, place, n = past
        x = _entered(self.enter, inputs[:, None])
        kept = []
        for layer, block in enumerate(self.blocks):
            memory, last = (None, None) if memories is None else memories[layer]
            *heads, last = block.heads(x, place, last)
            q, k, v = (part[:, :, 0] for part in heads)
            memory = block.attention.empty(v) if memory is None else memory
            memory = block.attention.write(memory, k, v)
            kept.append((memory, last))
            x = block.mixed(x, block.attention.read(memory, q).output[:, :, None])
        return self.leave(self.norm(x))[:, 0], [kept, place + 1, n]


class Recurrent(nn.Module):
    """Gated recurrent layers of some width (Cho et al. 2014), without attention.

    Where order does not matter they read from both ends.
    """

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        both = not shape.causal
        self.pooled = shape.pooled
        self.enter = _entrance(shape)
        self.gru = nn.GRU(
            shape.d_model, width, shape.n_layers, batch_first=True, bidirectional=both
        )
        self.norm = nn.LayerNorm(width * (1 + both))
        self.leave = nn.Linear(width * (1 + both), shape.n_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits as those of a transformer."""
        x = self.norm(self.gru(_entered(self.enter, inputs))[0])
        return self.leave(x.mean(1) if self.pooled else x)

    def empty(self, n: int) -> Tensor:
        return self.leave.weight.new_zeros(self.gru.num_layers, n, self.gru.hidden_size)

    def step(self, past: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """As that of a transformer."""
        x, past = self.gru(_entered(self.enter, inputs[:, None]), past)
        return self.leave(self.norm(x))[:, 0], past


def network(arm: str, shape: Shape, m: int, width: int) -> Any:
    """A network of an arm on the device meta, without numbers.

    width: hidden units of its feed-forward nets, or units of the recurrent layers.
    """
    with torch.device("meta"):
        return Recurrent(shape, width) if arm == "gru" else Transformer(arm, shape, m, width)


def width(arm: str, shape: Shape, m: int) -> int:
    """The width that gives an arm as many parameters as softmax has, as nearly as can be.

    What an arm has beside the others is taken from its feed-forward nets. ValueError if it has
    more by TOLERANCE even at width 1.
    """

    def of_width(one: int) -> int:
        return n_parameters(network(arm, shape, m, one))

    usual = WIDENING * shape.d_model
    wanted = n_parameters(network("softmax", shape, m, usual))
    # the number of parameters rises with the width
    enough = bisect.bisect_left(range(2 * usual), wanted, lo=1, key=of_width)
    best = min((max(1, enough - 1), enough), key=lambda one: abs(of_width(one) - wanted))
    if of_width(best) > (1 + TOLERANCE) * wanted:
        raise ValueError(
            f"got {m}, with which {arm} has {of_width(best)} parameters at least, wanted {wanted}, "
            "as many as softmax has"
        )
    return best


def initialise(network: nn.Module, random: Callable[[str], np.random.Generator]) -> None:
    """Draw all numbers of a network; random gives the random numbers of a parameter by its name.

    Parameters of one name have the same numbers in all arms, where they have the same shape.
    """
    for owner, module in network.named_modules():
        own = [*module.named_parameters(owner, False), *module.named_buffers(owner, False)]
        for name, x in own:
            start = torch.from_numpy(random(name).standard_normal(x.shape))
            x.data.copy_(_start(module, name.rsplit(".", 1)[-1], start))


def _start(module: nn.Module, name: str, normal: Tensor) -> Tensor:
    """The first numbers of a parameter, of standard normal ones of its shape."""
    if isinstance(module, nn.LayerNorm):
        return torch.full_like(normal, name == "weight")
    if isinstance(module, nn.Embedding):
        return EMBEDDED * normal
    if isinstance(module, nn.GRU):
        return normal / math.sqrt(3 * module.hidden_size)  # the variance of torch's own start
    if isinstance(module, nn.Linear):
        return normal / math.sqrt(module.in_features) if name == "weight" else 0 * normal
    if name == "omega" or name == "places":
        return normal
    if name in ("of_queries", "of_keys", "hidden"):
        return normal / normal.shape[-1] ** 0.25  # drives of about 1 at queries and keys of rms 1
    if name == "log_leak":
        return torch.linspace(math.log(LEAKS[0]), math.log(LEAKS[1]), len(normal))
    # 0 for ln s and for what a token takes over from the one before
    return torch.full_like(normal, name in ("alpha", "of_token"))


def n_parameters(network: nn.Module) -> int:
    """Trained parameters; random hidden weights are none."""
    return sum(x.numel() for x in network.parameters())


def state_size(network: Any, shape: Shape, m: int) -> int:
    """Numbers that a network keeps of a sequence of n_tokens once it has read it."""
    if isinstance(network, Recurrent):
        directions = 1 if shape.causal else 2
        return network.gru.num_layers * network.gru.hidden_size * directions
    d_head = shape.d_model // shape.n_heads
    of_head = m * (d_head + 1)
    if isinstance(network.blocks[0].attention, Softmax):
        of_head = 2 * d_head * shape.n_tokens
    return shape.n_layers * (shape.n_heads * of_head + 3 * shape.d_model)


def _entrance(shape: Shape) -> nn.Module:
    if shape.n_symbols:
        # without normal_, which on the device meta would import a compiler (seconds)
        empty = torch.empty(shape.n_symbols, shape.d_model)
        return nn.Embedding.from_pretrained(empty, freeze=False)
    return nn.Linear(1, shape.d_model)


def _entered(enter: nn.Module, inputs: Tensor) -> Tensor:
    """States [B, T, d_model] of symbols or numbers [B, T]."""
    return enter(inputs if isinstance(enter, nn.Embedding) else inputs[..., None])


def _earlier(q: Tensor) -> Tensor:
    """Whether a query reads a key in causal order, [T, T]."""
    n = q.shape[-2]
    return torch.ones(n, n, dtype=torch.bool, device=q.device).tril()


def _rotated(x: Tensor, first: int) -> Tensor:
    """Rotary positions (Su et al. 2021) of x [B, T, 2, H, D], divided by D^(1/4).

    Pairs (2i, 2i + 1) turn by their place times ROTARY_BASE^(-2i / D).
    """
    n, d = x.shape[1], x.shape[-1]
    place = torch.arange(first, first + n, device=x.device, dtype=x.dtype)
    speed = ROTARY_BASE ** -(torch.arange(0, d, 2, device=x.device, dtype=x.dtype) / d)
    angle = (place[:, None] * speed)[:, None, None]  # [T, 1, 1, D / 2]
    turn = torch.polar(torch.full_like(angle, d**-0.25), angle)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2)
