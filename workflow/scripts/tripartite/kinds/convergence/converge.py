"""Write tokens in continuous time, and see how the network approaches its algebra."""

import itertools
import math

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from tripartite import dynamics
from tripartite.contracts import UserError
from tripartite.features import FEATURE_MAPS, draw_neurons
from tripartite.statistics import over_seeds
from tripartite.streams import stream

ENDS = ("", "_low", "_high")
SMALL_RATIO = 0.03  # up to here the error is of first order
LEAST_ERROR = 1e-12  # below are rounding errors
SHORT_TOKENS, SHORT_NEURONS = 8, 256  # what integrators are tried on


def converge(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    n_features: list[int],
    n_seeds: int,
    ratios: list[float],
    steps: list[int],
    heads: str | list[list[int]],
    inputs: str | list[str],
    seed: int,
    data_of: str,
) -> xr.Dataset:
    """Return the error of continuous time against time constants, and of Runge-Kutta against its steps.

    All tokens of an input are written from rest, in closed form, each for T = 1 s, with tau_hidden =
    tau_last = ratio T; H and g are read by the algebra and compared with those that the algebra writes.
    Runge-Kutta's method takes `steps` steps per token at the middle ratio. heads and inputs as in
    simulate, whose hidden weights these are. Where there is no slope or order, a note says why.
    """
    names = [str(name) for name in qkv["input"].values]
    chosen_inputs = range(len(names)) if inputs == "all" else [names.index(x) for x in inputs]
    every_head = itertools.product(range(qkv.sizes["layer"]), range(qkv.sizes["head"]))
    chosen = list(every_head) if heads == "all" else [tuple(pair) for pair in heads]
    middle = sorted(ratios)[len(ratios) // 2]
    sizes = (len(ratios), len(n_features), len(chosen), len(chosen_inputs), n_seeds)
    found = {
        name: np.full(sizes, np.nan)
        for name in ("output_error", "output_error_law", "calcium_error", "calcium_error_law")
    }
    integrator_error = np.full((2, len(steps), n_seeds), np.nan)  # measured, law

    runs = list(itertools.product(enumerate(chosen), range(n_seeds)))
    bar_format = "{desc}: {percentage:.0f} % of {total} runs, {elapsed} gone, {remaining} left\n"
    for (at, pair), index in tqdm(
        runs, desc="converge", mininterval=5, maxinterval=5, bar_format=bar_format
    ):
        streams = (stream(seed, data_of, name, index, *pair) for name in ("omega", "phase"))
        drawn = draw_neurons("performer", *streams, n_features[-1], qkv.sizes["d_head"])
        weights = torch.cat([part for part, _ in drawn])
        for place, i in enumerate(chosen_inputs):
            present = qkv["mask"].values[i]
            q, k, v = (
                torch.from_numpy(qkv[name].values[i][pair][present]).double() for name in "qkv"
            )
            for size, m in enumerate(n_features):
                rates_q, rates_k = _rates(weights[:m], q, True), _rates(weights[:m], k, False)
                errors = _errors(rates_k, rates_q, v, ratios)
                for name, values in zip(found, errors):
                    found[name][:, size, at, place, index] = values
                if at == place == size == 0:
                    integrator_error[:, :, index] = _integrator_errors(rates_k, v, middle, steps)

    return xr.Dataset(
        _summaries(found, np.array(ratios), chosen, qkv)
        | _integrators(integrator_error, np.array(steps), middle),
        coords={
            "point": np.arange(len(ratios)),
            "n_features": np.array(n_features, dtype=np.int64),
            "step": np.array(steps, dtype=np.int64),
            **{name: qkv[name] for name in ("layer", "head")},
        },
        attrs={"data": qkv.attrs.get("data", "")},
    )


def constants_of(ratio: float) -> dynamics.Constants:
    """T is 1 s: ratio = tau_hidden / T = tau_last / T; calcium is not read."""
    return dynamics.Constants(
        tau_hidden=ratio, tau_last=ratio, tau_hebbian=1.0, tau_presynaptic=1.0, tau_calcium=1.0
    )


def _rates(weights: Tensor, x: Tensor, each: bool) -> Tensor:
    """Rates [T, m] of x [T, D], but for a factor, of each token or of all, that cancels in all errors."""
    drive, square = x @ weights.mT, x.square().sum(-1, keepdim=True)
    log_rates, _ = FEATURE_MAPS["performer"].activation(drive, square, len(weights), math.inf)
    return torch.exp(log_rates - (log_rates.amax(1, keepdim=True) if each else log_rates.max()))


def _errors(rates_k: Tensor, rates_q: Tensor, v: Tensor, ratios: list[float]) -> np.ndarray:
    """Errors of output and calcium, each followed by its law, of one network on one input: [4, point]."""
    calcium, output = dynamics.read_out(v.mT @ rates_k, rates_k.sum(0), rates_q)
    rest = dynamics.rest(rates_k.shape[1], v.shape[1])
    change_p, change_o = dynamics.first_order(rates_k, v, rates_q)
    laws = float(change_o.norm() / output.norm()), _median(change_p)
    errors = []
    for ratio in ratios:
        try:
            written = dynamics.write(rest, rates_k, v, 1.0, constants_of(ratio))
        except dynamics.Diverged as error:
            raise UserError(f"convergence: ratios: {ratio:g}: {error}") from None
        p, o = dynamics.read_out(written.hebbian, written.presynaptic, rates_q)
        measured = float((o - output).norm() / output.norm()), _median(p / calcium - 1)
        errors.append([measured[0], ratio * laws[0], measured[1], ratio * laws[1]])
    return np.array(errors).T


def _median(errors: Tensor) -> float:
    return float(np.median(errors.abs().numpy()))


def _integrator_errors(rates: Tensor, v: Tensor, ratio: float, steps: list[int]) -> np.ndarray:
    """Relative error of Runge-Kutta's method against the closed form, and its law: [2, step].

    NaN for steps that are not stable. The law leaves out what is as small as exp(-1 / ratio).
    """
    rates, v, constants = (
        rates[:SHORT_TOKENS, :SHORT_NEURONS],
        v[:SHORT_TOKENS],
        constants_of(ratio),
    )
    rest = dynamics.rest(rates.shape[1], v.shape[1])
    exact = dynamics.write(rest, rates, v, 1.0, constants)
    carried_v, carried_rates = (
        torch.diff(x, dim=0, prepend=torch.zeros_like(x[:1])) for x in (v, rates)
    )
    coefficient = float((carried_v.mT @ carried_rates).norm() / exact.hebbian.norm())
    errors = np.full((2, len(steps)), np.nan)
    for place, n in enumerate(steps):
        if 1 / n > dynamics.stability_limit(constants):
            continue
        state = rest
        for one, value in zip(rates, v):
            period = dynamics.Period(0, one, value, 1.0)
            state = dynamics.runge_kutta(state, period, constants, 1 / n)
        errors[0, place] = max(
            float((got - wanted).norm() / wanted.norm())
            for got, wanted in zip(state[2:4], exact[2:4])  # H and g
        )
        errors[1, place] = coefficient * abs(dynamics.runge_kutta_excess(1 / n, ratio, 1.0))
    return errors


def _slopes(x: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, str]:
    """Exponent of errors [point, seed] in x [point], per seed; or NaN and why there is none."""
    nothing = np.full(errors.shape[1], np.nan)
    usable = (errors > LEAST_ERROR).all(1)
    if not np.isfinite(errors).all():
        return nothing, "an output is 0, or a query has no response"
    if usable.sum() < 2:
        return nothing, f"{usable.sum()} of {len(x)} errors are beyond rounding, 2 needed"
    log_x, log_error = np.log(x[usable]), np.log(errors[usable])
    return (log_x - log_x.mean()) @ log_error / np.square(log_x - log_x.mean()).sum(), ""


def _mean_over_seeds(values: np.ndarray, scale: str) -> tuple[np.ndarray, ...]:
    """Mean over the last axis, which is seeds, with its interval."""
    return over_seeds(lambda x: x.mean(0), np.moveaxis(values, -1, 0), scale)


def _summaries(found: dict, ratios: np.ndarray, chosen: list[tuple], qkv: xr.Dataset) -> dict:
    """Means over inputs and seeds, and slopes, put to the places of their heads."""
    layer, head = np.array(chosen).T
    of_heads = (found["output_error"].shape[1], qkv.sizes["layer"], qkv.sizes["head"])
    dims = ("n_features", "layer", "head")

    def placed(values: np.ndarray) -> np.ndarray:  # [..., n_features, H]
        full = np.full((*values.shape[:-2], *of_heads), np.nan)
        full[..., layer, head] = values
        return full

    variables = {"ratio": ("point", ratios)}
    for name, values in found.items():
        per_seed = values.mean(-2)  # [point, n_features, H, seed]
        summary = _mean_over_seeds(per_seed, "log")
        for end, one in zip(ENDS[:1] if name.endswith("law") else ENDS, summary):
            variables[name + end] = (("point", *dims), placed(one))

    small = ratios <= SMALL_RATIO
    notes = np.full(of_heads, "not run", dtype=object)
    slopes = np.full((of_heads[0], len(chosen), found["output_error"].shape[-1]), np.nan)
    per_seed = found["output_error"].mean(-2)[small]
    for size, at in np.ndindex(slopes.shape[:2]):
        if small.sum() < 2:
            note = f"{small.sum()} ratios of at most {SMALL_RATIO}, 2 needed"
        else:
            slopes[size, at], note = _slopes(ratios[small], per_seed[:, size, at])
        notes[(size, *chosen[at])] = note
    for end, one in zip(ENDS, _mean_over_seeds(slopes, "linear")):
        variables[f"slope{end}"] = (dims, placed(one))
    return variables | {"slope_note": (dims, notes)}


def _integrators(errors: np.ndarray, steps: np.ndarray, ratio: float) -> dict:
    """Errors and law [2, step, seed], and the order, which shows where steps are below the time constant."""
    measured, law = (_mean_over_seeds(one, "log") for one in errors)
    variables = {f"integrator_error{end}": ("step", one) for end, one in zip(ENDS, measured)}
    fine = 1 / steps <= ratio
    order, order_law = np.full((2, errors.shape[-1]), np.nan)
    note = f"{fine.sum()} steps of at most {ratio} T, 2 needed"
    if fine.sum() >= 2:
        order, note = _slopes(1 / steps[fine], errors[0, fine])
        order_law, _ = _slopes(1 / steps[fine], errors[1, fine])
    summary = _mean_over_seeds(order, "linear")
    variables |= {f"integrator_order{end}": ((), float(one)) for end, one in zip(ENDS, summary)}
    return variables | {
        "integrator_error_law": ("step", law[0]),
        "integrator_order_law": ((), float(order_law.mean())),
        "integrator_ratio": ((), float(ratio)),
        "integrator_note": ((), note),
    }
