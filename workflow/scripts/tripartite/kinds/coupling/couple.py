"""Astrocyte processes side by side, coupled by gap junctions: averaged noise against mixed normalisers.

The chosen heads lie one after another, each with some processes; process b of a head pools the neurons
of its own block, which make its own estimate of the normaliser Z_t of the head, and scales what its own
block sends to the last layer:

    o_t = sum_b drive_b / (P p_b),    p = (I + kappa L)^-1 z

with P processes per head, drive_b and z_b of a block in units of its size. One head whose processes
are coupled strongly is the network of all its neurons.

ASSUME: all heads read token t of an input at the same time, and their processes are settled.
ASSUME: homeostasis: contacts of a head are scaled so that its normaliser is 1 on average over queries.
"""

import itertools

import numpy as np
import torch
import xarray as xr
from scipy.optimize import minimize_scalar
from tqdm import tqdm

from tripartite import theory
from tripartite.contracts import UserError
from tripartite.features import draw_neurons
from tripartite.kinds.coupling.gap_junctions import laplacian, rows, squared_errors, steady
from tripartite.network import Tokens, read
from tripartite.statistics import cluster_bootstrap, over_seeds
from tripartite.streams import stream

ENDS = ("", "_low", "_high")
MOST = 4000  # processes: matrices of all pairs
SEARCHED = 1e-4  # least kappa above 0 that the law is searched at


def couple(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    layouts: list[str],
    processes_per_head: int,
    n_features: list[int],
    strengths: list[float],
    n_seeds: int,
    heads: str | list[list[int]],
    inputs: str | list[str],
    seed: int,
    data_of: str,
) -> xr.Dataset:
    """Return errors of gain and output against the strength of coupling, their law, and the best strength.

    n_features are neurons of one process; a head's network are the first neurons of that of its seed.
    Heads and inputs as in simulate; heads lie in the order in which they are given.
    """
    names = [str(name) for name in qkv["input"].values]
    chosen_inputs = range(len(names)) if inputs == "all" else [names.index(x) for x in inputs]
    every_head = itertools.product(range(qkv.sizes["layer"]), range(qkv.sizes["head"]))
    chosen = list(every_head) if heads == "all" else [tuple(pair) for pair in heads]
    n = len(chosen) * processes_per_head
    if n > MOST:
        raise UserError(
            f"coupling: {len(chosen)} heads of {processes_per_head} processes are {n} processes, wanted at most "
            f"{MOST}; choose fewer heads, or lower processes_per_head"
        )
    kappas = np.sort(np.array(strengths, dtype=float))
    junctions = {layout: laplacian(layout, n) for layout in layouts}
    mask = qkv["mask"].values
    tokens = {pair: [_tokens(qkv, i, pair, mask[i]) for i in chosen_inputs] for pair in chosen}
    exact = {
        name: [_of_inputs(attention[name].values, pair, chosen_inputs, mask) for pair in chosen]
        for name in ("log_normalizer", "output")
    }
    log_z = np.stack(exact["log_normalizer"], -1)  # [token of all inputs, head]
    scale = np.logaddexp.reduce(log_z, axis=0) - np.log(len(log_z))  # ln of the mean normaliser
    edges = np.cumsum([0, *(mask[i].sum() for i in chosen_inputs)])

    def one_seed(index: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean squared errors of gain and output [layout, point, n_features, head(, input)]."""
        z, outputs = [], []
        for place, pair in enumerate(chosen):
            neurons = draw_neurons(
                "performer",
                stream(seed, data_of, "omega", index, *pair),
                stream(seed, data_of, "phase", index, *pair),
                n_features[-1] * processes_per_head,
                qkv.sizes["d_head"],
            )
            ranges = [(b * m, (b + 1) * m) for m in n_features for b in range(processes_per_head)]
            found = read(tokens[pair], neurons, ranges)
            shape = (len(n_features), processes_per_head)
            log_p = np.stack([torch.cat([x[0] for x in one]).numpy() for one in found])
            z.append(np.exp(log_p.reshape(*shape, -1) - scale[place]))  # [m, process, token]
            outputs.append(
                np.stack([torch.cat([x[2] for x in one]).numpy() for one in found]).reshape(
                    *shape, len(log_z), -1
                )
            )
        drive = np.concatenate(z, 1).swapaxes(1, 2)  # [m, token, process of all heads]
        gain_errors, output_errors = [], []
        for layout, kappa in itertools.product(layouts, kappas):
            p = steady(drive, junctions[layout], kappa).reshape(*drive.shape[:2], len(chosen), -1)
            ratio = p / np.exp(log_z - scale)[..., None]  # [m, token, head, process]
            gain_errors.append(np.square(ratio - 1).mean((1, 3)))
            share = drive.reshape(p.shape) / (processes_per_head * p)
            output_errors.append(
                [
                    [
                        _relative_square(one, exact["output"][place], edges)
                        for one in np.einsum("mtb,mbte->mte", share[:, :, place], outputs[place])
                    ]
                    for place in range(len(chosen))
                ]
            )
        of_points = (len(layouts), len(kappas))
        gain = np.array(gain_errors).reshape(*of_points, len(n_features), -1)
        output = np.array(output_errors).swapaxes(1, 2)  # [layout and point, m, head, input]
        return gain, output.reshape(*gain.shape, -1)

    bar_format = "{desc}: {percentage:.0f} % of {total} seeds, {elapsed} gone, {remaining} left\n"
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # beyond float64
        gain, output = (
            np.stack(x)
            for x in zip(
                *(
                    one_seed(index)
                    for index in tqdm(
                        range(n_seeds),
                        desc="couple",
                        mininterval=5,
                        maxinterval=5,
                        bar_format=bar_format,
                    )
                )
            )
        )
        summaries = {
            "gain_error": over_seeds(lambda x: np.sqrt(x.mean(0)), gain, "log"),
            "output_error": over_seeds(lambda x: np.sqrt(x.mean((0, -1))), output, "log"),
        }
        of_all = {
            "gain_error_all": over_seeds(lambda x: np.sqrt(x.mean((0, -1))), gain, "log"),
            "output_error_all": over_seeds(lambda x: np.sqrt(x.mean((0, -2, -1))), output, "log"),
        }
        noise, mixing, best_law = _laws(
            tokens, log_z, scale, n_features, processes_per_head, junctions, kappas
        )
    dims = ("layout", "point", "n_features", "layer", "head")
    of_heads = (qkv.sizes["layer"], qkv.sizes["head"])
    laws = {
        "gain_error_law": np.sqrt(noise + mixing[:, :, None]),
        "gain_error_noise": np.sqrt(noise),
        "gain_error_mixing": np.sqrt(mixing),
    }
    triples = {name + end: x for name, t in summaries.items() for end, x in zip(ENDS, t)}
    variables = {"strength": ("point", kappas), "processes": ((), np.int64(processes_per_head))}
    variables["rows"] = (
        "layout",
        np.array([rows(layout, n) for layout in layouts], dtype=np.int64),
    )
    for name, triple in of_all.items():
        variables |= {name + end: (dims[:3], x) for end, x in zip(ENDS, triple)}
    for name, values in (triples | laws).items():
        placed = np.full((*values.shape[:-1], *of_heads), np.nan)
        placed[..., *np.array(chosen).T] = values
        variables[name] = (dims if placed.ndim == 5 else (*dims[:2], *dims[3:]), placed)
    rng = stream(seed, data_of, "couple", "bootstrap")
    for name, squares in (("best", gain), ("best_output", output.mean(-1))):
        *triple, note = _best(squares, kappas, rng)
        for end, values in zip(ENDS, triple):
            variables[f"{name}_strength{end}"] = (("layout", "n_features"), values)
        variables[f"{name}_note"] = (("layout", "n_features"), note)
    variables["best_strength_law"] = (("layout", "n_features"), best_law)
    return xr.Dataset(
        variables,
        coords={
            "layout": list(layouts),
            "point": np.arange(len(kappas)),
            "n_features": np.array(n_features, dtype=np.int64),
            **{name: qkv[name] for name in ("layer", "head")},
        },
        attrs={"data": qkv.attrs.get("data", "")},
    )


def _tokens(qkv: xr.Dataset, i: int, pair: tuple[int, int], present: np.ndarray) -> Tokens:
    q, k, v = (torch.from_numpy(qkv[x].values[i][pair][present]).double() for x in "qkv")
    return Tokens(q, k, v, torch.zeros(len(q)).double())


def _of_inputs(values: np.ndarray, pair: tuple, chosen_inputs, mask: np.ndarray) -> np.ndarray:
    """values [input, layer, head, token, ...] of a head, tokens of all inputs one after another."""
    return np.concatenate([values[i][pair][mask[i]] for i in chosen_inputs])


def _relative_square(output: np.ndarray, exact: np.ndarray, edges: np.ndarray) -> list[float]:
    """|O^ - O|^2 / |O|^2 of each input, for outputs [token of all inputs, E]."""
    error, norm = (
        np.add.reduceat(np.square(x).sum(-1), edges[:-1]) for x in (output - exact, exact)
    )
    return error / norm


def _laws(tokens, log_z, scale, n_features, processes_per_head, junctions, kappas):
    """Noise and mixing [layout, point, (n_features,) head] of the squared gain error, and the best kappa.

    The best is that of the law, over all processes [layout, n_features].
    """
    log_r = np.stack(
        [
            torch.cat(
                [
                    theory.log_second_moment(
                        one.q, one.k, torch.logsumexp(one.q @ one.k.T, -1), one.log_gain[None]
                    )
                    for one in its
                ]
            )
            for its in tokens.values()
        ],
        -1,
    )
    z = np.repeat(np.exp(log_z - scale), processes_per_head, -1)  # [token, process]
    unit = np.square(z) * np.expm1(np.repeat(log_r, processes_per_head, -1))  # of one neuron

    def parts(layout: str, kappa: float) -> np.ndarray:
        """Noise of one neuron and mixing, [2, head]."""
        found = squared_errors(z, unit, junctions[layout], kappa)
        relative = [(x / np.square(z)).mean(0) for x in found]
        return np.array(relative).reshape(2, -1, processes_per_head).mean(-1)

    grid = np.array([[parts(layout, kappa) for kappa in kappas] for layout in junctions])
    noise = grid[:, :, None, 0] / np.array(n_features)[:, None]
    mixing = grid[:, :, 1]
    best = np.full((len(junctions), len(n_features)), np.nan)
    ends = np.log(np.maximum(kappas[[0, -1]], SEARCHED))
    for a, layout in enumerate(junctions):
        for b, m in enumerate(n_features):

            def error(log_kappa: float) -> float:
                one_neuron, mixed = parts(layout, np.exp(log_kappa))
                return np.log((one_neuron / m + mixed).mean())

            totals = (noise[a, :, b] + mixing[a]).mean(-1)
            if len(junctions[layout]) < 2 or not np.isfinite(totals).all() or totals.max() == 0:
                continue
            found = minimize_scalar(error, bounds=ends, method="bounded")
            candidates = [(found.fun, np.exp(found.x)), *zip(np.log(totals), kappas)]
            best[a, b] = min(candidates)[1]
    return noise, mixing, best


def _best(squares: np.ndarray, kappas: np.ndarray, rng: np.random.Generator) -> tuple:
    """Strength of the least error with interval, and note [layout, n_features].

    squares [seed, layout, point, n_features, head]: heads have the same number of processes.
    """
    of_all = squares.mean(-1)

    def place(values: np.ndarray) -> np.ndarray:
        return values.mean(0).argmin(1)  # [layout, n_features]

    middle, low, high = cluster_bootstrap(place, of_all, 1, rng, n_draws=1000)
    note = np.full(middle.shape, "", dtype=object)
    note[middle == 0] = "the weakest coupling that was tried is best"
    note[middle == len(kappas) - 1] = "the strongest coupling that was tried is best"
    idle = ~np.isfinite(of_all).all((0, 2)) | (np.ptp(of_all, axis=2) == 0).all(0)
    note[idle] = "coupling changes nothing, or errors are beyond float64"
    triple = (kappas[x.astype(int)] for x in (middle, np.floor(low), np.ceil(high)))
    return *(np.where(idle, np.nan, x) for x in triple), note
