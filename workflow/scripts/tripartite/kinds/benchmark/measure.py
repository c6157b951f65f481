"""How fast the network is computed, beside its peers in the same run: ratios, not promises of seconds."""

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

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from tripartite import dynamics, network
from tripartite.attention import softmax_attention
from tripartite.kinds.benchmark.peers import PEERS, torchdiffeq_write
from tripartite.network import Tokens, read
from tripartite.streams import stream

D_HEAD = 64
SCALE = 0.25  # of normal queries and keys: |q + k|^2 is about 8
ROUNDS = 3  # through all cases: a machine has fast and slow minutes
SECONDS = 1.0  # repeat a case for about so long in each round, at least once and at most MOST times
MOST = 7
LONG_SECONDS = 8.0

OURS = "ours"
DENOMINATORS, CALLS = "ours, denominators", "ours, two attention calls"
CURVE, TREE = "ours, 21 sizes", "ours, 127 dyadic estimates"

EXACT, RK4, DIFFEQ = "ours, exact update", "ours, Runge-Kutta", "torchdiffeq rk4"
STEPS = 10  # of Runge-Kutta per token
TOKEN_SECONDS = 0.1

# method, order, tokens, neurons, dtype, heads, workers
LONG, SQUARE = (512, 100_000), (4096, 4096)
CASES = [
    *(("numpy loop, denominators", "bidirectional", *LONG, "float64", 1, 1),),
    *(("numpy loop", "bidirectional", *LONG, "float64", 1, 1),),
    *(
        (method, "bidirectional", *LONG, "float32", 1, 1)
        for method in (
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
    ),
    *((OURS, "bidirectional", *LONG, dtype, 1, 1) for dtype in ("bfloat16", "float64")),
    *(
        (method, order, *SQUARE, "float32", 1, 1)
        for order in ("bidirectional", "causal")
        for method in (
            OURS,
            "performer-pytorch",
            "darkformer-pytorch",
            "exact SDPA",
        )
    ),
    (OURS, "bidirectional", *SQUARE, "bfloat16", 1, 1),
    # how cost grows with neurons, tokens, heads and workers
    *((OURS, "bidirectional", 512, m, "float32", 1, 1) for m in (1000, 10_000)),
    *((OURS, "bidirectional", n, 10_000, "float32", 1, 1) for n in (32, 128, 2048, 8192)),
    *((OURS, "causal", n, 10_000, "float32", 1, 1) for n in (128, 512, 2048)),
    *((OURS, "bidirectional", 512, 10_000, "float32", 8, workers) for workers in (1, 2)),
    (OURS, "bidirectional", *LONG, "float32", 2, 2),
    (OURS, "bidirectional", 65_536, 100_000, "float32", 1, 1),
    # synapses in continuous time: linear (512 tokens in one update), and with saturating facilitation
    *((method, "write", n, 4096, "float32", 1, 1) for method, n in ((EXACT, 512), (DIFFEQ, 8))),
    *((method, "saturating write", 8, 4096, "float32", 1, 1) for method in (RK4, DIFFEQ)),
]
GPU_CASES = [
    (method, "bidirectional", *LONG, dtype, 144, 1)
    for method, dtype in (
        (OURS, "bfloat16"),
        (OURS, "float32"),
        ("torch eager", "bfloat16"),
        ("torch eager", "float32"),
        ("torch.compile", "bfloat16"),
        ("exact SDPA", "bfloat16"),
    )
]
FIELDS = ("method", "order", "n_tokens", "n_features", "dtype", "n_heads", "workers")


def measure(peers: str, seed: int, device: str) -> xr.Dataset:
    """Return time, share of the machine's own GEMM peak, memory and error of every case.

    peers is the folder where the other implementations are installed. Times are medians over the repeats
    of several rounds, with the shortest and the longest; every case is timed beside a matrix product
    of its own kind.
    """
    sys.path.insert(0, peers)
    torch.set_num_threads(1)
    cases = CASES if device == "cpu" else CASES + GPU_CASES
    names = ("seconds", "seconds_low", "seconds_high", "gemm_share", "peak_memory", "output_error")
    results = {name: np.full(len(cases), np.nan) for name in names}
    times, shares = [[] for _ in cases], [[] for _ in cases]
    rounds = [(turn, i) for turn in range(ROUNDS) for i in range(len(cases))]
    bar_format = "{desc}: {percentage:.0f} %, {elapsed} gone, {remaining} left\n"
    for turn, i in tqdm(rounds, desc="measure", bar_format=bar_format, mininterval=5):
        case = cases[i]
        if case[0] == "torch.compile" and not shutil.which("g++"):
            continue  # NaN: there is no compiler
        if times[i] and times[i][0] > LONG_SECONDS:
            continue  # one run tells enough
        where = device if case in GPU_CASES else "cpu"
        run, flops, error = prepared(case, seed, where)
        seconds = timed(run)
        times[i] += seconds
        shares[i].append(flops / np.median(seconds) / gemm_peak(case, where))
        if turn:
            continue
        results["output_error"][i] = error()
        if where == "cpu" and case[-2:] == (1, 1):
            results["peak_memory"][i] = in_a_fresh_process(peak_memory, case, seed, peers)
    for i in np.flatnonzero([bool(seconds) for seconds in times]):
        results["seconds"][i] = np.median(times[i])
        results["seconds_low"][i], results["seconds_high"][i] = min(times[i]), max(times[i])
        results["gemm_share"][i] = np.median(shares[i])
    table = {name: np.array(column) for name, column in zip(FIELDS, zip(*cases))}
    return xr.Dataset(
        {name: ("case", values) for name, values in (table | results).items()},
        coords={"case": np.arange(len(cases))},
        attrs={"machine": machine(device)},
    )


def prepared(case: tuple, seed: int, device: str) -> tuple[Callable, float, Callable]:
    """What is timed, the floating point operations it takes, and its error against exact attention."""
    method, order, n_tokens, m, dtype, n_heads, workers = case
    if "write" in order:
        return prepared_synapses(case, seed)
    causal = order == "causal"
    rng = stream(seed, "measure", n_tokens, m, n_heads)  # methods are given the same
    shape = (3, n_heads, n_tokens, D_HEAD)
    q, k, v = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device)
    q, k = SCALE * q, SCALE * k
    omega = torch.from_numpy(rng.standard_normal((m, D_HEAD), dtype=np.float32)).to(device)
    width = 0 if "denominators" in method else D_HEAD
    kind = getattr(torch, dtype)
    if method.startswith(OURS):
        gain = torch.zeros(n_tokens, dtype=torch.float64, device=device)
        neurons = [(omega.to(kind), torch.zeros(m, dtype=torch.float64, device=device))]
        heads = [
            Tokens(*(x[i].to(kind) for x in (q, k)), v[i, :, :width].to(kind), gain)
            for i in range(n_heads)
        ]
        if device != "cpu":  # all heads in one batch
            heads = [Tokens(*(torch.stack(parts) for parts in zip(*heads)))]
        each = map if workers == 1 else ThreadPoolExecutor(workers).map

        def one(tokens: Tokens):
            if method == CALLS:
                hidden = network.Hidden(*neurons[0])
                return network.finished(network.attention_calls(tokens, hidden, m, None), m, True)[
                    2
                ]
            return read([tokens], neurons, ranges(method, m), causal=causal)[-1][0][2]

        def run():
            outputs = list(each(one, heads))
            return (
                outputs[0].reshape(n_heads, n_tokens, -1)
                if len(heads) == 1
                else torch.stack(outputs)
            )

    else:
        passes = [
            PEERS[method](*(x[i].to(kind) for x in (q, k, v)), omega.to(kind), causal)
            for i in range(n_heads)
        ]

        def run():
            return torch.stack([forward() for forward in passes])

    def error() -> float:
        if (
            not width or n_tokens > 8192
        ):  # no output; exact attention in float64 would fill the memory
            return np.nan
        mask = torch.ones(n_tokens, dtype=torch.bool, device=device)
        exact = softmax_attention(*(x[0].double() for x in (q, k, v)), mask, causal)[1]
        return float((run()[0].double() - exact).norm() / exact.norm())

    products = 4 * n_tokens * m * (D_HEAD + width + 1) * n_heads
    random_features = method != "exact SDPA" and not causal
    return run, products if random_features else np.nan, error


def prepared_synapses(case: tuple, seed: int) -> tuple[Callable, float, Callable]:
    """The same for synapses that are written in continuous time; the error is that of H, in float64."""
    method, order, n_tokens, m, dtype, _, _ = case
    rng = stream(seed, "measure", "write", m)
    rates = torch.from_numpy(rng.random((n_tokens, m)))
    v = torch.from_numpy(rng.standard_normal((n_tokens, D_HEAD)))
    # At time constants of two tokens ten steps err less than single precision: errors are equal.
    constants = dynamics.Constants(
        0.2, 0.2, 1.0, 1.0, 0.2, release=0.5 if order == "saturating write" else 0.0
    )
    kind = getattr(torch, dtype)
    inputs = {one: (rates.to(one), v.to(one)) for one in (kind, torch.float64)}

    def each_token(dtype: torch.dtype, steps: int) -> Tensor:
        state = dynamics.State(*(x.to(dtype) for x in dynamics.rest(m, D_HEAD)))
        for rate, value in zip(*inputs[dtype]):
            period = dynamics.Period(0, rate, value, TOKEN_SECONDS)
            state = dynamics.runge_kutta(state, period, constants, TOKEN_SECONDS / steps)
        return state.hebbian

    def at_once(dtype: torch.dtype) -> Tensor:
        state = dynamics.State(*(x.to(dtype) for x in dynamics.rest(m, D_HEAD)))
        return dynamics.write(state, *inputs[dtype], TOKEN_SECONDS, constants).hebbian

    run = {
        EXACT: lambda: at_once(kind),
        RK4: lambda: each_token(kind, STEPS),
        DIFFEQ: lambda: torchdiffeq_write(*inputs[kind], TOKEN_SECONDS, constants, STEPS),
    }[method]

    def error() -> float:
        linear = order == "write"
        exact = at_once(torch.float64) if linear else each_token(torch.float64, 10 * STEPS)
        return float((run().double() - exact).norm() / exact.norm())

    return run, 2 * n_tokens * m * D_HEAD if method == EXACT else np.nan, error


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
    return [_once(run) for _ in range(int(np.clip(SECONDS / first, 2, MOST)))]


def _once(run: Callable) -> float:
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def gemm_peak(case: tuple, device: str) -> float:
    """Operations per second of large matrix products in the case's dtype, one per worker, just now."""
    kind, workers, size = getattr(torch, case[4]), case[-1], 1024 if device == "cpu" else 8192
    matrices = [
        [torch.randn(size, size, device=device).to(kind) for _ in range(3)] for _ in range(workers)
    ]
    pool = ThreadPoolExecutor(workers)

    def run():
        def products(three: list):
            for _ in range(5):
                torch.mm(three[0], three[1], out=three[2])

        list(pool.map(products, matrices))

    run()
    return 5 * workers * 2 * size**3 / min(_once(run) for _ in range(7))


def in_a_fresh_process(function: Callable, *arguments) -> float:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory(case: tuple, seed: int, peers: str) -> float:
    """Most bytes above inputs, neurons and outputs; NaN where the system does not tell (Linux does)."""
    if not Path("/proc/self/clear_refs").exists():
        return np.nan
    sys.path.insert(0, peers)
    torch.set_num_threads(1)
    small = (*case[:2], 64, 1000, *case[4:])
    prepared(small, seed, "cpu")[0]()  # libraries load and set up what they keep
    run, _, _ = prepared(case, seed, "cpu")
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    output = run()
    return _status("VmHWM") - before - output.nbytes


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", text)[1])


def machine(device: str) -> str:
    """What was measured on, without its name."""
    cpuinfo = Path("/proc/cpuinfo")
    known = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    parts = [known[1] if known else platform.machine(), f"{os.cpu_count()} cores"]
    parts += [torch.cuda.get_device_name(device)] if device != "cpu" else []
    return ", ".join([*parts, f"torch {torch.__version__}"])
