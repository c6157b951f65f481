"""How fast the network is computed: goals beside measured values, growth, and the peers."""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette

OURS, LOOP = "ours", "numpy loop, denominators"
LONG, SQUARE = {"n_tokens": 512, "n_features": 100_000}, {"n_tokens": 4096, "n_features": 4096}

# What is compared: words, goal, the two cases whose times are divided (or one case and its column).
RATIOS = [
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
    "numpy loop, denominators": "numpy loop (denominators)",
    "ours, denominators": "ours (denominators)",
}


def one(speed: pd.DataFrame, column: str = "seconds", **wanted) -> float:
    """The value of the one case that is meant: ours, bidirectional, float32, one head, unless said."""
    wanted = {"method": OURS, "order": "bidirectional", "n_heads": 1, "workers": 1} | wanted
    if wanted["method"] != LOOP:
        wanted = {"dtype": "float32"} | wanted
    if "n_tokens" not in wanted:
        wanted |= LONG
    rows = speed.loc[(speed[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    return float(rows[column].iloc[0]) if len(rows) else np.nan


def goals(speed: pd.DataFrame) -> list[tuple[str, str, str]]:
    """What is measured, the goal, and the value found, in words."""
    rows = [
        (words, f"≥ {goal} x", f"{one(speed, **slow) / one(speed, **fast):.3g} x")
        for words, goal, slow, fast in RATIOS
    ]
    share = one(speed, "gemm_share")
    two = one(speed, "gemm_share", n_heads=2, workers=2)
    rows.insert(2, ("share of torch.mm peak, outputs float32", "≥ 83 %", f"{100 * share:.0f} %"))
    rows.insert(3, ("the same, two workers on two cores", "≥ 75 %", f"{100 * two:.0f} %"))
    for method, words, goal in (
        ("ours, 21 sizes", "error-against-m curve of 21 sizes, in passes", 1.03),
        ("ours, 127 dyadic estimates", "127 dyadic estimates, in passes", 1.12),
    ):
        rows.append((words, f"≤ {goal}", f"{one(speed, method=method) / one(speed):.2f}"))
    write = {"order": "write", "n_features": 4096}
    ours = write | {"method": "ours, exact update", "n_tokens": 512}
    diffeq = {"method": "torchdiffeq rk4", "n_tokens": 8, "n_features": 4096}
    errors = [one(speed, "output_error", **write | case) for case in (ours, diffeq)]
    rows += [
        (
            "exact write update, error of H over that of torchdiffeq rk4 of 10 steps",
            "about 1",
            f"{errors[0] / errors[1]:.2g}",
        ),
        (
            "exact write update, share of torch.mm peak",
            "≥ 90 %",
            f"{100 * one(speed, 'gemm_share', **ours):.0f} %",
        ),
        (
            "exact write update, a token against torchdiffeq rk4 of 10 steps",
            "≥ 5000 x",
            f"{one(speed, **write | diffeq) / 8 / (one(speed, **ours) / 512):.3g} x",
        ),
        (
            "non-linear Runge-Kutta, against torchdiffeq rk4",
            "≥ 7 x",
            f"{one(speed, **diffeq, order='saturating write') / one(speed, order='saturating write', **diffeq | {'method': 'ours, Runge-Kutta'}):.3g} x",
        ),
    ]
    most = max(one(speed, "peak_memory", n_tokens=n, n_features=100_000) for n in (512, 65_536))
    rows.append(
        (
            "peak memory above inputs, outputs and weights, N up to 65536",
            "≤ 8 MB",
            f"{most / 1e6:.1f} MB",
        )
    )
    gpu = speed[speed["n_heads"] == 144]
    if len(gpu):
        fast = one(gpu, n_heads=144, dtype="bfloat16")
        rate = 4 * 512 * 100_000 * 129 * 144 / fast / 1e12
        rows.append(("GPU: 144 heads bfloat16", "≥ 450 TFLOP/s", f"{rate:.0f} TFLOP/s"))
        for words, goal, dtype in GPU_RATIOS:
            slow = one(gpu, n_heads=144, method="torch eager", dtype=dtype)
            rows.append((words, f"≥ {goal} x", f"{slow / fast:.3g} x"))
    return [
        (words, goal, "not measured" if "nan" in found else found) for words, goal, found in rows
    ]


def table(fits: dict[str, xr.Dataset]) -> str:
    """Two tables as a page of documentation: goals, and every case."""
    (fit,) = fits.values()
    speed = fit.to_dataframe()
    lines = [
        f"# Speed on {fit.attrs['source']}",
        "",
        "One thread, N = 512, d = 64, m = 100 000 unless said; peers N = m = 4096, and darkformer-pytorch",
        "bidirectional N = 512, m = 100 000. Ratios of median times in one run.",
        "",
        "| what | goal | measured |",
        "|---|---|---|",
        *(f"| {words} | {goal} | {found} |" for words, goal, found in goals(speed)),
        "",
        "| method | order | N | m | numbers | heads | workers | time (ms) | of GEMM peak | memory (MB) | error |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in speed.itertuples():
        cells = (
            row.method,
            row.order,
            row.n_tokens,
            row.n_features,
            row.dtype,
            row.n_heads,
            row.workers,
            f"{1e3 * row.seconds:.4g} ({1e3 * row.seconds_low:.4g} to {1e3 * row.seconds_high:.4g})",
            f"{100 * row.gemm_share:.0f} %",
            f"{row.peak_memory / 1e6:.1f}",
            f"{row.output_error:.2g}",
        )
        lines.append("| " + " | ".join("–" if "nan" in str(x) else str(x) for x in cells) + " |")
    return "\n".join(lines) + "\n"


def speed(fits: dict[str, xr.Dataset]) -> Figure:
    """Three panels: every implementation on the long task, growth with tokens, growth with neurons."""
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
        ("bidirectional", palette.LARGE, "o"),
        ("causal", palette.COLOURS[0], "s"),
    ):
        chosen = ours[(ours["order"] == order) & (ours["n_features"] == 10_000)]
        draw_growth(tokens, chosen.sort_values("n_tokens"), "n_tokens", order, colour, marker)
    chosen = ours[(ours["n_tokens"] == 512) & (ours["order"] == "bidirectional")]
    draw_growth(
        neurons, chosen.sort_values("n_features"), "n_features", "bidirectional", palette.LARGE, "o"
    )
    palette.title(tokens, "Growth with tokens", "$m$ = 10 000, one thread")
    palette.title(neurons, "Growth with neurons", "$N$ = 512, one thread")
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
    spread = np.array(
        [rows["seconds"] - rows["seconds_low"], rows["seconds_high"] - rows["seconds"]]
    )
    ours = rows["method"].str.startswith(OURS).values
    for chosen, colour in ((ours, palette.LARGE), (~ours, "0.35")):
        axis.errorbar(
            rows["seconds"][chosen],
            place[chosen],
            xerr=spread[:, chosen],
            fmt="o",
            color=colour,
            markersize=4,
            elinewidth=0.8,
        )
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
    palette.title(axis, "One head", "$N$ = 512, $d$ = 64, $m$ = 100 000, one thread")


def draw_growth(axis, rows: pd.DataFrame, by: str, label: str, colour: str, marker: str) -> None:
    """Time against a size, with the slope of proportionality."""
    seconds = rows["seconds"]
    axis.errorbar(
        rows[by],
        seconds,
        (seconds - rows["seconds_low"], rows["seconds_high"] - seconds),
        fmt=f"{marker}-",
        color=colour,
        markersize=3,
        elinewidth=0.8,
        label=label,
    )
    if label == "bidirectional":
        last = rows.iloc[-1]
        axis.plot(
            rows[by], last["seconds"] * rows[by] / last[by], ":", color="0.5", label="proportional"
        )
    axis.set(xscale="log", yscale="log")
    axis.set_ylabel("time (s)")
