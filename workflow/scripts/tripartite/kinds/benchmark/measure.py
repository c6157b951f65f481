"""How fast the network is computed, beside its peers in the same run: ratios, not seconds."""

import multiprocessing
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from tripartite import dynamics, network
from tripartite.attention import relative_error, softmax_attention
from tripartite.kinds.benchmark.peers import PEERS, torchdiffeq_write
from tripartite.network import Tokens, read
from tripartite.streams import stream

D_HEAD = 64
SCALE = 0.25  # of normal queries and keys: |q + k|^2 is about 8
ROUNDS = 3  # through all cases: a machine has fast and slow minutes
SECONDS = 1.0  # repeat a case for about so long in each round, at least once, at most MAX_REPEATS
MAX_REPEATS = 7
MAX_SECONDS = 8.0  # of a case that is run in every round
MAX_TOKENS = 8192  # of exact attention in float64, which would fill the memory

OURS = "ours"
DENOMINATORS, CALLS = "ours, denominators", "ours, two attention calls"
CURVE, TREE = "ours, 21 sizes", "ours, 127 dyadic estimates"

EXACT, RK4, DIFFEQ = "ours, exact update", "ours, Runge-Kutta", "torchdiffeq rk4"
STEPS = 10  # of Runge-Kutta per token
TOKEN_SECONDS = 0.1


class Case(NamedTuple):
    """What is timed: a method, its task, and the workers (of one thread) that share its heads."""

    method: str
    order: str = "bidirectional"
    n_tokens: int = 512
    n_features: int = 100_000
    dtype: str = "float32"
    n_heads: int = 1
    workers: int = 1


class Inputs(NamedTuple):
    """What a case reads: q, k, v [head, T, D], and the random projection omega [m, D]."""

    q: Tensor
    k: Tensor
    v: Tensor
    omega: Tensor


class Prepared(NamedTuple):
    """What is timed, the floating point operations it takes, and its error where that is known."""

    run: Callable[[], Tensor]
    operations: float
    error: Callable[[], float]


SQUARE = (4096, 4096)  # tokens, neurons
ON_ONE_HEAD = (
    DENOMINATORS,
    OURS,
    CALLS,
    CURVE,
    TREE,
    "performer-pytorch",
    "darkformer-pytorch",
    "torch eager",
    "torch.compile",
    "exact SDPA",
)
CASES = [
    Case("numpy loop, denominators", dtype="float64"),
    Case("numpy loop", dtype="float64"),
    *(Case(method) for method in ON_ONE_HEAD),
    *(Case(OURS, dtype=dtype) for dtype in ("bfloat16", "float64")),
    *(
        Case(method, order, *SQUARE)
        for order in ("bidirectional", "causal")
        for method in (OURS, "performer-pytorch", "darkformer-pytorch", "exact SDPA")
    ),
    Case(OURS, "bidirectional", *SQUARE, "bfloat16"),
    # how cost grows with neurons, tokens, heads and workers
    *(Case(OURS, n_features=m) for m in (1000, 10_000)),
    *(Case(OURS, n_tokens=n, n_features=10_000) for n in (32, 128, 2048, 8192)),
    *(Case(OURS, "causal", n, 10_000) for n in (128, 512, 2048)),
    *(Case(OURS, n_features=10_000, n_heads=8, workers=workers) for workers in (1, 2)),
    Case(OURS, n_heads=2, workers=2),
    Case(OURS, n_tokens=65_536),
    # synapses in continuous time: linear (all tokens in one update), and with saturation
    *(Case(method, "write", n, 4096) for method, n in ((EXACT, 512), (DIFFEQ, 8))),
    *(Case(method, "saturating write", 8, 4096) for method in (RK4, DIFFEQ)),
]
GPU_CASES = [
    Case(method, dtype=dtype, n_heads=144)
    for method, dtype in (
        (OURS, "bfloat16"),
        (OURS, "float32"),
        ("torch eager", "bfloat16"),
        ("torch eager", "float32"),
        ("torch.compile", "bfloat16"),
        ("exact SDPA", "bfloat16"),
    )
]
MEASURED = ("seconds", "seconds_low", "seconds_high", "gemm_share", "peak_memory", "output_error")


def measure(peers: str, seed: int, device: str) -> xr.Dataset:
    """Return time, share of the machine's own GEMM peak, memory and error of every case.

    peers is the folder where the other implementations are installed. Times are medians over the
    repeats of several rounds, with the shortest and the longest; every case is timed beside a
    matrix product of its own dtype and size.
    """
    sys.path.insert(0, peers)
    torch.set_num_threads(1)
    if device != "cpu":
        torch.cuda.set_device(device)  # the one that `_once` waits for
    cases = CASES if device == "cpu" else CASES + GPU_CASES
    results = {name: np.full(len(cases), np.nan) for name in MEASURED}
    times: list[list[float]] = [[] for _ in cases]
    shares: list[list[float]] = [[] for _ in cases]
    rounds = [(turn, i) for turn in range(ROUNDS) for i in range(len(cases))]
    bar_format = "{desc}: {percentage:.0f} %, {elapsed} gone, {remaining} left\n"
    for turn, i in tqdm(rounds, desc="measure", bar_format=bar_format, mininterval=5):
        case = cases[i]
        if case.method == "torch.compile" and not shutil.which("g++"):
            continue  # NaN: there is no compiler
        if times[i] and times[i][0] > MAX_SECONDS:
            continue  # one run tells enough
        where = device if case in GPU_CASES else "cpu"
        run, operations, error = prepared(case, seed, where)
        seconds = timed(run)
        times[i] += seconds
        shares[i].append(operations / np.median(seconds) / gemm_peak(case, where))
        if turn:
            continue
        results["output_error"][i] = error()
        if where == "cpu" and (case.n_heads, case.workers) == (1, 1):
            results["peak_memory"][i] = in_a_fresh_process(peak_memory, case, seed, peers)
    for i in np.flatnonzero([bool(seconds) for seconds in times]):
        results["seconds"][i] = np.median(times[i])
        results["seconds_low"][i], results["seconds_high"][i] = min(times[i]), max(times[i])
        results["gemm_share"][i] = np.median(shares[i])
    table = {name: np.array(column) for name, column in zip(Case._fields, zip(*cases))}
    return xr.Dataset(
        {name: ("case", values) for name, values in (table | results).items()},
        coords={"case": np.arange(len(cases))},
        attrs={"machine": machine(device)},
    )


def prepared(case: Case, seed: int, device: str) -> Prepared:
    """A case with its inputs; its error is that of the first head against exact attention."""
    if "write" in case.order:
        return prepared_synapses(case, seed)
    n_tokens, m, n_heads = case.n_tokens, case.n_features, case.n_heads
    rng = stream(seed, "measure", n_tokens, m, n_heads)  # methods are given the same
    shape = (3, n_heads, n_tokens, D_HEAD)
    q, k, v = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device)
    q, k = SCALE * q, SCALE * k
    omega = torch.from_numpy(rng.standard_normal((m, D_HEAD), dtype=np.float32)).to(device)
    width = 0 if "denominators" in case.method else D_HEAD
    kind = getattr(torch, case.dtype)
    inputs = Inputs(*(x.to(kind) for x in (q, k, v, omega)))
    run = (
        _own_passes(case, inputs, width) if case.method.startswith(OURS) else _passes(case, inputs)
    )

    def error() -> float:
        if not width or n_tokens > MAX_TOKENS:
            return np.nan
        mask = torch.ones(n_tokens, dtype=torch.bool, device=device)
        first = [x[0].double() for x in (q, k, v)]
        _, exact = softmax_attention(first[0], first[1], first[2], mask, case.order == "causal")
        return float(relative_error(run()[0].double(), exact))

    operations = 4 * n_tokens * m * (D_HEAD + width + 1) * n_heads
    has_features = case.method != "exact SDPA" and case.order != "causal"
    return Prepared(run, operations if has_features else np.nan, error)


def _own_passes(case: Case, inputs: Inputs, width: int) -> Callable[[], Tensor]:
    """Our network on all heads, by workers or on a GPU in one batch, with outputs of a width."""
    m, device = case.n_features, inputs.omega.device
    gain = torch.zeros(case.n_tokens, dtype=torch.float64, device=device)
    neurons = [(inputs.omega, torch.zeros(m, dtype=torch.float64, device=device))]
    heads = [Tokens(q, k, v[:, :width], gain) for q, k, v in zip(inputs.q, inputs.k, inputs.v)]
    if device.type != "cpu":
        heads = [Tokens(*(torch.stack(parts) for parts in zip(*heads)))]
    run_all = map if case.workers == 1 else ThreadPoolExecutor(case.workers).map

    def output(tokens: Tokens) -> Tensor:
        if case.method == CALLS:
            partial = network.attention_calls(tokens, network.Hidden(*neurons[0]), m, None)
            return network.finished(partial, m, True)[2]
        causal = case.order == "causal"
        return read([tokens], neurons, ranges(case.method, m), causal=causal)[-1][0][2]

    def run() -> Tensor:
        outputs = list(run_all(output, heads))
        if len(heads) == 1:
            return outputs[0].reshape(case.n_heads, case.n_tokens, -1)
        return torch.stack(outputs)

    return run


def _passes(case: Case, inputs: Inputs) -> Callable[[], Tensor]:
    """Another implementation on one head after another."""
    causal = case.order == "causal"
    passes = [
        PEERS[case.method](q, k, v, inputs.omega, causal)
        for q, k, v in zip(inputs.q, inputs.k, inputs.v)
    ]
    return lambda: torch.stack([forward() for forward in passes])


def prepared_synapses(case: Case, seed: int) -> Prepared:
    """Synapses that are written in continuous time; the error is that of H, in float64."""
    rng = stream(seed, "measure", "write", case.n_features)
    rates = torch.from_numpy(rng.random((case.n_tokens, case.n_features)))
    v = torch.from_numpy(rng.standard_normal((case.n_tokens, D_HEAD)))
    # At time constants of two tokens ten steps err less than single precision: errors are equal.
    constants = dynamics.Constants(
        tau_hidden=0.2,
        tau_last=0.2,
        tau_hebbian=1.0,
        tau_presynaptic=1.0,
        tau_calcium=0.2,
        release=0.5 if case.order == "saturating write" else 0.0,
    )
    kind = getattr(torch, case.dtype)
    inputs = {dtype: (rates.to(dtype), v.to(dtype)) for dtype in (kind, torch.float64)}

    def at_rest(dtype: torch.dtype) -> dynamics.State:
        rest = dynamics.rest(case.n_features, D_HEAD)
        return dynamics.State(*(x.to(dtype) for x in rest))

    def each_token(dtype: torch.dtype, steps: int) -> Tensor:
        state = at_rest(dtype)
        for rate, value in zip(*inputs[dtype]):
            period = dynamics.Period(0, rate, value, TOKEN_SECONDS)
            state = dynamics.runge_kutta(state, period, constants, TOKEN_SECONDS / steps)
        return state.hebbian

    def at_once(dtype: torch.dtype) -> Tensor:
        return dynamics.write(at_rest(dtype), *inputs[dtype], TOKEN_SECONDS, constants).hebbian

    run = {
        EXACT: lambda: at_once(kind),
        RK4: lambda: each_token(kind, STEPS),
        DIFFEQ: lambda: torchdiffeq_write(*inputs[kind], TOKEN_SECONDS, constants, STEPS),
    }[case.method]

    def error() -> float:
        linear = case.order == "write"
        exact = at_once(torch.float64) if linear else each_token(torch.float64, 10 * STEPS)
        return float(relative_error(run().double(), exact))

    operations = 2 * case.n_tokens * case.n_features * D_HEAD
    return Prepared(run, operations if case.method == EXACT else np.nan, error)


def ranges(method: str, m: int) -> list[tuple[int, int]]:
    """The networks that are read in one pass; the last is the whole."""
    if method == CURVE:
        return [(0, int(size)) for size in np.geomspace(100, m, 21).round()]
    if method == TREE:
        leaf = m // 64
        return [
            (i * leaf << level, (i + 1) * leaf << level)
            for level in range(7)
            for i in range(64 >> level)
        ]
    return [(0, m)]


def timed(run: Callable) -> list[float]:
    """Seconds of repeated runs, after one that is not counted unless it is long."""
    first = _once(run)
    if first > SECONDS:
        return [first]
    return [_once(run) for _ in range(int(np.clip(SECONDS / first, 2, MAX_REPEATS)))]


def _once(run: Callable) -> float:
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def gemm_peak(case: Case, device: str) -> float:
    """Operations per second of large matrix products in the dtype of a case, one per worker."""
    kind, size = getattr(torch, case.dtype), 1024 if device == "cpu" else 8192
    matrices = [
        [torch.randn(size, size, device=device).to(kind) for _ in range(3)]
        for _ in range(case.workers)
    ]
    pool = ThreadPoolExecutor(case.workers)

    def products(three: list[Tensor]) -> None:
        for _ in range(5):
            torch.mm(three[0], three[1], out=three[2])

    def run() -> None:
        list(pool.map(products, matrices))

    run()
    return 5 * case.workers * 2 * size**3 / min(_once(run) for _ in range(7))


def in_a_fresh_process(function: Callable, *arguments) -> float:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory(case: Case, seed: int, peers: str) -> float:
    """Most bytes above inputs, neurons and outputs; NaN where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return np.nan
    sys.path.insert(0, peers)
    torch.set_num_threads(1)
    small = case._replace(n_tokens=64, n_features=1000)
    prepared(small, seed, "cpu").run()  # libraries load and set up what they keep
    run = prepared(case, seed, "cpu").run
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    output = run()
    return _status("VmHWM") - before - output.nbytes


def _status(field: str) -> int:
    """A number of bytes in what the system tells of this process."""
    text = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(rf"^{field}:\s+(\d+) kB", text, re.M)
    return 1024 * int(kilobytes)


def machine(device: str) -> str:
    """What was measured on, without its name."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    parts = [names[0] if names else platform.machine(), f"{os.cpu_count()} cores"]
    parts += [torch.cuda.get_device_name(device)] if device != "cpu" else []
    return ", ".join([*parts, f"torch {torch.__version__}"])
