"""How fast the network is computed: goals beside measured values, growth, and the peers."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import estimates, points

Case = dict[str, Any]  # columns that tell a case from others

OURS, LOOP = "ours", "numpy loop, denominators"
LONG: Case = {"n_tokens": 512, "n_features": 100_000}
SQUARE: Case = {"n_tokens": 4096, "n_features": 4096}

# What is compared: words, goal, and the slow and the fast case whose times are divided.
RATIOS: list[tuple[str, float, Case, Case]] = [
    (
        "denominators float32, against the numpy loop",
        26,
        {"method": LOOP},
        {"method": "ours, denominators"},
    ),
    (
        "outputs bfloat16, against the numpy loop",
        24,
        {"method": LOOP},
        LONG | {"dtype": "bfloat16"},
    ),
    (
        "bidirectional float32, against performer-pytorch",
        6,
        SQUARE | {"method": "performer-pytorch"},
        SQUARE,
    ),
    (
        "bidirectional bfloat16, against performer-pytorch",
        10,
        SQUARE | {"method": "performer-pytorch"},
        SQUARE | {"dtype": "bfloat16"},
    ),
    (
        "causal, against performer-pytorch",
        115,
        SQUARE | {"method": "performer-pytorch", "order": "causal"},
        SQUARE | {"order": "causal"},
    ),
    (
        "bidirectional, against darkformer-pytorch",
        4.5,
        LONG | {"method": "darkformer-pytorch"},
        LONG,
    ),
    (
        "causal, against darkformer-pytorch",
        3.5,
        SQUARE | {"method": "darkformer-pytorch", "order": "causal"},
        SQUARE | {"order": "causal"},
    ),
]
GPU_RATIOS = [
    ("GPU: 144 heads bfloat16, against torch eager bfloat16", 8, "bfloat16"),
    ("GPU: 144 heads bfloat16, against torch eager float32", 20, "float32"),
]
LABELS = {
    "ours, two attention calls": "ours, attention calls",
    "numpy loop, denominators": "numpy loop (normalisers)",
    "ours, denominators": "ours (normalisers)",
    "exact SDPA": "softmax attention",
}


def value(speed: pd.DataFrame, case: Case, column: str = "seconds") -> float:
    """The value of a case, NaN without it: ours, bidirectional, float32, one head, unless said."""
    case = {"method": OURS, "order": "bidirectional", "n_heads": 1, "workers": 1} | case
    if case["method"] != LOOP:
        case = {"dtype": "float32"} | case
    if "n_tokens" not in case:
        case |= LONG
    rows = speed.loc[(speed[list(case)] == pd.Series(case)).all(axis=1)]
    return float(rows[column].iloc[0]) if len(rows) else np.nan


def ratio(speed: pd.DataFrame, slow: Case, fast: Case, column: str = "seconds") -> float:
    """The value of one case over that of another."""
    return value(speed, slow, column) / value(speed, fast, column)


def goals(speed: pd.DataFrame) -> list[tuple[str, str, str]]:
    """What is measured, the goal, and the value found, in words."""
    rows = [
        (words, f"≥ {goal} x", f"{ratio(speed, slow, fast):.3g} x")
        for words, goal, slow, fast in RATIOS
    ]
    share = value(speed, {}, "gemm_share")
    two = value(speed, {"n_heads": 2, "workers": 2}, "gemm_share")
    rows.insert(2, ("share of torch.mm peak, outputs float32", "≥ 83 %", f"{100 * share:.0f} %"))
    rows.insert(3, ("the same, two workers on two cores", "≥ 75 %", f"{100 * two:.0f} %"))
    for method, words, goal in (
        ("ours, 21 sizes", "error-against-m curve of 21 sizes, in passes", 1.03),
        ("ours, 127 dyadic estimates", "127 dyadic estimates, in passes", 1.12),
    ):
        rows.append((words, f"≤ {goal}", f"{ratio(speed, {'method': method}, {}):.2f}"))
    causal: Case = {"order": "causal", "n_tokens": 1000, "n_features": 10_000}
    by_token = causal | {"method": "torch loop, at any norm"}
    any_norm = causal | {"method": "ours, at any norm"}
    closed: Case = {"order": "causal", "n_tokens": 128, "n_features": 1, "dtype": "float64"}
    by_query = closed | {"method": "torch loop, closed forms"}
    rows += [
        (
            "causal at any norm, against a loop over tokens",
            "≥ 5 x",
            f"{ratio(speed, by_token, any_norm):.3g} x",
        ),
        (
            "closed forms of the output, against a loop over queries",
            "≥ 10 x",
            f"{ratio(speed, by_query, closed | {'method': 'ours, closed forms'}):.3g} x",
        ),
    ]
    write: Case = {"order": "write", "n_features": 4096}
    ours = write | {"method": "ours, exact update", "n_tokens": 512}
    diffeq = write | {"method": "torchdiffeq rk4", "n_tokens": 8}
    saturating = diffeq | {"order": "saturating write"}
    steps = saturating | {"method": "ours, Runge-Kutta"}
    rows += [
        (
            "exact write update, error of H over that of torchdiffeq rk4 of 10 steps",
            "about 1",
            f"{ratio(speed, ours, diffeq, 'output_error'):.2g}",
        ),
        (
            "exact write update, share of torch.mm peak",
            "≥ 90 %",
            f"{100 * value(speed, ours, 'gemm_share'):.0f} %",
        ),
        (
            "exact write update, a token against torchdiffeq rk4 of 10 steps",
            "≥ 5000 x",
            f"{value(speed, diffeq) / 8 / (value(speed, ours) / 512):.3g} x",
        ),
        (
            "non-linear Runge-Kutta, against torchdiffeq rk4",
            "≥ 7 x",
            f"{ratio(speed, saturating, steps):.3g} x",
        ),
    ]
    most = max(value(speed, LONG | {"n_tokens": n}, "peak_memory") for n in (512, 65_536))
    rows.append(
        (
            "peak memory above inputs, outputs and weights, N up to 65536",
            "≤ 8 MB",
            f"{most / 1e6:.1f} MB",
        )
    )
    gpu = speed[speed["n_heads"] == 144]
    if len(gpu):
        heads: Case = {"n_heads": 144}
        fast = heads | {"dtype": "bfloat16"}
        rate = 4 * 512 * 100_000 * 129 * 144 / value(gpu, fast) / 1e12
        rows.append(("GPU: 144 heads bfloat16", "≥ 450 TFLOP/s", f"{rate:.0f} TFLOP/s"))
        for words, goal, dtype in GPU_RATIOS:
            slow = heads | {"method": "torch eager", "dtype": dtype}
            rows.append((words, f"≥ {goal} x", f"{ratio(gpu, slow, fast):.3g} x"))
    return [
        (words, goal, "not measured" if "nan" in found else found) for words, goal, found in rows
    ]


def printed(fits: dict[str, xr.Dataset]) -> str:
    """Two tables as a page of documentation: goals, and every case."""
    (fit,) = fits.values()
    speed = fit.to_dataframe()
    lines = [
        f"# Speed on {fit.attrs['machine']}",
        "",
        "One thread, N = 512, d = 64, m = 100 000 unless said; peers N = m = 4096, and "
        "darkformer-pytorch",
        "bidirectional N = 512, m = 100 000. Ratios of median times in one run.",
        "",
        "| what | goal | measured |",
        "|---|---|---|",
        *(f"| {words} | {goal} | {found} |" for words, goal, found in goals(speed)),
        "",
        "| method | order | N | m | numbers | heads | workers | time (ms) | of GEMM peak | "
        "memory (MB) | error |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in speed.itertuples():
        low, high = 1e3 * row.seconds_low, 1e3 * row.seconds_high
        cells = (
            row.method,
            row.order,
            row.n_tokens,
            row.n_features,
            row.dtype,
            row.n_heads,
            row.workers,
            f"{1e3 * row.seconds:.4g} ({low:.4g} to {high:.4g})",
            f"{100 * row.gemm_share:.0f} %",
            f"{row.peak_memory / 1e6:.1f}",
            f"{row.output_error:.2g}",
        )
        lines.append("| " + " | ".join("–" if "nan" in str(x) else str(x) for x in cells) + " |")
    return "\n".join(lines) + "\n"


def speed(fits: dict[str, xr.Dataset]) -> Figure:
    """Three panels: every implementation on the long task, growth with tokens and with neurons."""
    palette.apply()
    (fit,) = fits.values()
    cases = fit.to_dataframe()
    figure, (times, tokens, neurons) = plt.subplots(
        1, 3, figsize=(palette.PAGE, 2.6), gridspec_kw={"width_ratios": (1.5, 1, 1)}
    )
    draw_times(times, cases)
    ours = cases[
        (cases["method"] == OURS) & (cases["dtype"] == "float32") & (cases["n_heads"] == 1)
    ]
    for order, colour, marker in (
        ("bidirectional", palette.CATEGORIES[0], "o"),
        ("causal", palette.CATEGORIES[1], "s"),
    ):
        of_order = ours[(ours["order"] == order) & (ours["n_features"] == 10_000)]
        draw_growth(tokens, of_order.sort_values("n_tokens"), "n_tokens", order, colour, marker)
    plain = ours[(ours["n_tokens"] == 512) & (ours["order"] == "bidirectional")]
    draw_growth(
        neurons,
        plain.sort_values("n_features"),
        "n_features",
        "bidirectional",
        palette.CATEGORIES[0],
        "o",
    )
    palette.title(tokens, "Growth with tokens", "$m$ = 10 000")
    palette.title(neurons, "Growth with neurons", "$N$ = 512")
    neurons.sharey(tokens)
    tokens.set_xlabel("tokens $N$")
    neurons.set_xlabel("hidden neurons $m$")
    tokens.legend(loc="upper left")
    return figure


def draw_times(axis, cases: pd.DataFrame) -> None:
    """Time of each implementation on one head of 512 tokens with 100 000 features."""
    rows = cases[
        (cases["n_tokens"] == 512)
        & (cases["n_features"] == 100_000)
        & (cases["n_heads"] == 1)
        & ~cases["method"].isin(["ours, 21 sizes", "ours, 127 dyadic estimates"])
        & cases["seconds"].notnull()
    ].sort_values("seconds")
    place = np.arange(len(rows))
    rows = rows.assign(place=place)
    ours, exact = rows["method"].str.startswith(OURS), rows["method"] == "exact SDPA"
    kinds = (ours, palette.CATEGORIES[0]), (exact, palette.EXACT), (~ours & ~exact, palette.GUIDE)
    for shown, colour in kinds:
        estimates("seconds", "place", data=rows[shown], axis=axis, across=True, color=colour)
    for y, seconds, high in zip(place, rows["seconds"], rows["seconds_high"]):
        axis.annotate(
            f"{seconds:.2g} s",
            (high, y),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=6,
        )
    names = [f"{LABELS.get(row.method, row.method)}, {row.dtype}" for row in rows.itertuples()]
    axis.set_yticks(place, names)
    axis.set(xscale="log", xlim=(rows["seconds"].min() / 2, rows["seconds"].max() * 5))
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("time (s): median, shortest to longest")
    palette.title(axis, "One head", "$N$ = 512, $d$ = 64, $m$ = 100 000")


def draw_growth(axis, rows: pd.DataFrame, by: str, label: str, colour: str, marker: str) -> None:
    """Time against a size, with the slope of proportionality."""
    seconds = tuple(rows[name] for name in ("seconds", "seconds_low", "seconds_high"))
    points(axis, rows[by], seconds, colour, marker, linestyle="-", label=label)
    if label == "bidirectional":
        last = rows.iloc[-1]
        axis.plot(
            rows[by],
            last["seconds"] * rows[by] / last[by],
            ":",
            color=palette.GUIDE,
            label="proportional",
        )
    axis.set(xscale="log", yscale="log")
    axis.set_ylabel("time (s)")
