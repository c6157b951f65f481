"""Which standard attention explains given attention weights: maximum likelihood and information criteria.

Rows y_tj of weights or of counts (how often query t attended to key j) are explained by

    P_tj = (1 - eps) softmax_j(beta logit_tj + b_j - gamma age_tj) + eps / N,

with inverse temperature beta, key bias b (of mean 0), decay gamma per token of age, and a share eps of
uniform attention, in the multinomial likelihood sum_tj y_tj ln P_tj. ASSUME: weights whose rows sum to
one count as one attended token per query, which sets the scale of information criteria. Fisher scoring
with the expected information finds the maximum, and gives standard errors. Without eps the likelihood
is concave; with it there can be several maxima, and a search from several starts comes first.

Of a network of m neurons the random-energy model predicts beta (`predicted_inverse_temperature`).
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_ndtr, log_softmax

SCALARS = ("inverse_temperature", "decay", "uniform_share")
STEPS = 200
UNSEEN = 1e-3  # share of the softmax in the weight of a key, below which its bias is open
SHARPEST = 1e3  # of beta and of its error: beyond it a single key has all the weight
SHARP = "a single key has all the weight: no finite inverse temperature"
OPEN = "the data leave a parameter open: logits or ages do not vary enough, or a key has no weight"
UNATTENDED = "a key is attended by the uniform share alone: no finite bias"
STARTS = (0.01, 0.3, 0.7)  # of the share
BIASES = 100.0  # the largest in the search
SINGULAR = 1e-10  # least eigenvalue of the scaled information that counts
LEAST_POINTS = 3
SHIFTS = (-3.0, 6.0)


class Fit(NamedTuple):
    """Estimates and standard errors by name (key_bias [N]), ln likelihood, number of parameters, ln P [T, N].

    note says why there are none (NaN). An error is NaN for a share of 0, the end of its range.
    """

    estimates: dict
    errors: dict
    log_likelihood: float
    n_parameters: int
    log_attention: np.ndarray
    note: str

    @property
    def aic(self) -> float:
        return 2 * self.n_parameters - 2 * self.log_likelihood


EXPLANATIONS = {  # free parameters; the others are 0
    "uniform": (),  # beta = 0
    "temperature": ("inverse_temperature",),
    "temperature and decay": ("inverse_temperature", "decay"),
    "temperature and uniform": ("inverse_temperature", "uniform_share"),
    "temperature and key bias": ("inverse_temperature", "key_bias"),
    "all": ("inverse_temperature", "uniform_share", "key_bias"),  # in which a decay is a key bias
}


def explain_attention(
    target: np.ndarray, logits: np.ndarray, age: np.ndarray, explanation: str
) -> Fit:
    """Fit one of EXPLANATIONS to target [T, N], of logits and ages [T, N] of the keys (tokens).

    Queries without any weight do not count. NaN and a note where the data leave a parameter open, where
    the weights are sharper than any temperature, or where scoring does not end.
    """
    free = EXPLANATIONS[explanation]
    n_keys = target.shape[1]
    scalars = [name for name in SCALARS if name in free]
    with_bias = "key_bias" in free
    values = {
        "inverse_temperature": 1.0 if free else 0.0,
        "decay": 0.0,
        "uniform_share": 0.05 if "uniform_share" in free else 0.0,
        "key_bias": np.zeros(n_keys),
    }
    n_parameters = len(scalars) + with_bias * (n_keys - 1)
    held: set[str] = set()
    note = "" if free else None
    if "uniform_share" in free:
        simpler = next(
            name
            for name, others in EXPLANATIONS.items()
            if set(others) == set(free) - {"uniform_share"}
        )
        base = explain_attention(target, logits, age, simpler)
        flat = np.ptp(base.log_attention) < 1e-6  # no share can be told from uniform weights
        if base.note or flat:
            return _none(n_parameters, base.log_attention, base.note or OPEN)
        values = _search(target, logits, age, base, scalars, with_bias)
        held = {"uniform_share"} if values["uniform_share"] == 0 else set()
    log_p, _ = log_attention(values, logits, age)
    best = likelihood(target, log_p)
    for _ in range(STEPS if free else 0):
        if with_bias and values["uniform_share"] > 0:  # its information vanishes as its bias falls
            log_s = log_attention(values, logits, age)[1]
            if (
                (log_s - log_p).max(0) + np.log1p(-values["uniform_share"]) < math.log(UNSEEN)
            ).any():
                note = UNATTENDED
                break
        names = [name for name in scalars if name not in held]
        gradient, information = score(target, logits, age, values, names, with_bias)
        covariance = _inverse(information, with_bias)
        if covariance is None:
            note = OPEN
            break
        step = covariance @ gradient
        decrement = float(gradient @ step)
        if decrement < 1e-12 * max(1.0, target.sum()):
            if held:  # is the share rather above 0?
                some = target > 0
                with np.errstate(over="ignore"):  # a key without weight would gain without bound
                    gain = target[some] * np.exp(-log_p[some]) / n_keys
                slope = gain.sum() - target.sum()
                if slope > 1e-6 * target.sum():
                    held = set()
                    values["uniform_share"] = 1e-6
                    log_p, _ = log_attention(values, logits, age)
                    best = likelihood(target, log_p)
                    continue
            note = None
            break
        size = 1.0
        for _ in range(40):
            tried = _moved(values, names, with_bias, size * step)
            new_p, _ = log_attention(tried, logits, age)
            reached = likelihood(target, new_p)
            if reached >= best:
                break
            size /= 2
        else:
            note = None  # no step up within rounding: this is the maximum
            break
        values, log_p, best = tried, new_p, reached
        if "uniform_share" in names and values["uniform_share"] == 0:
            held = {"uniform_share"}
        if abs(values["inverse_temperature"]) > SHARPEST:
            note = SHARP
            break
    if note == "":
        note = f"the likelihood did not settle in {STEPS} steps"
    if note is not None:
        return _none(n_parameters, log_p, note)
    errors = dict.fromkeys(SCALARS, 0.0) | {"key_bias": np.zeros(n_keys)}
    if free:
        names = [name for name in scalars if name not in held]
        _, information = score(target, logits, age, values, names, with_bias)
        covariance = _inverse(information, with_bias)
        if covariance is None:
            covariance = np.full_like(information, np.nan)
        spread = np.sqrt(np.diagonal(covariance))
        errors |= {name: float(x) for name, x in zip(names, spread)} | dict.fromkeys(held, math.nan)
        if errors["inverse_temperature"] > SHARPEST:  # flat: the maximum lies at infinity
            return _none(n_parameters, log_p, SHARP)
        if with_bias:
            errors["key_bias"] = spread[len(names) :]
    return Fit(values, errors, best, n_parameters, log_p, "")


def _search(
    target: np.ndarray,
    logits: np.ndarray,
    age: np.ndarray,
    base: Fit,
    scalars: list[str],
    with_bias: bool,
) -> dict:
    """Values near the highest of the maxima that a descent from several shares finds (L-BFGS-B).

    It starts from the fit without share, which is one of the candidates, and from that without bias.
    """
    n_keys = logits.shape[1]
    ends = [(1e-9, 1 - 1e-9) if name == "uniform_share" else (None, None) for name in scalars]
    ends += [(-BIASES, BIASES)] * (n_keys * with_bias)

    def values_of(x: np.ndarray) -> dict:
        values = dict(base.estimates) | {name: float(one) for name, one in zip(scalars, x)}
        return values | ({"key_bias": x[len(scalars) :]} if with_bias else {})

    def cost(x: np.ndarray) -> tuple[float, np.ndarray]:
        values = values_of(x)
        log_p, log_s = log_attention(values, logits, age)
        rest = target * np.exp(log_s - log_p)  # y S / P
        pulled = (1 - values["uniform_share"]) * rest
        pulled = pulled - np.exp(log_s) * pulled.sum(1, keepdims=True)
        slopes = {
            "inverse_temperature": (pulled * logits).sum(),
            "uniform_share": (target * np.exp(-log_p)).sum() / n_keys - rest.sum(),
        }
        slope = np.array([slopes[name] for name in scalars])
        return -likelihood(target, log_p), -np.append(slope, pulled.sum(0) if with_bias else [])

    best, found = base.log_likelihood, dict(base.estimates)
    biases = [base.estimates["key_bias"]] + [np.zeros(n_keys)] * with_bias
    for bias in biases:
        for share in STARTS:
            start = base.estimates | {"uniform_share": share}
            x = np.append([start[name] for name in scalars], bias if with_bias else [])
            tried = minimize(cost, x, jac=True, method="L-BFGS-B", bounds=ends)
            if -tried.fun > best:
                best, found = -tried.fun, values_of(tried.x)
    return found


def _none(n_parameters: int, log_p: np.ndarray, note: str) -> Fit:
    empty = {name: math.nan for name in SCALARS} | {"key_bias": np.full(log_p.shape[1], np.nan)}
    return Fit(empty, empty, math.nan, n_parameters, np.full_like(log_p, np.nan), note)


def log_attention(
    values: dict, logits: np.ndarray, age: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """ln P and ln of its softmax part, both [T, N]."""
    drive = values["inverse_temperature"] * logits + values["key_bias"] - values["decay"] * age
    log_s = log_softmax(drive, axis=1)
    share, n_keys = values["uniform_share"], logits.shape[1]
    if share == 0:
        return log_s, log_s
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-share) + log_s, math.log(share / n_keys)), log_s


def likelihood(target: np.ndarray, log_p: np.ndarray) -> float:
    return float((target * np.where(target > 0, log_p, 0.0)).sum())


def score(
    target: np.ndarray,
    logits: np.ndarray,
    age: np.ndarray,
    values: dict,
    names: list[str],
    with_bias: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient [p] and expected information [p, p]: scalars first, then key biases [N] of mean 0.

    With u = d ln P / d parameter, they are sum y u and sum_t n_t sum_j P_tj u u^T, n_t the total of row t.
    """
    log_p, log_s = log_attention(values, logits, age)
    p, s = np.exp(log_p), np.exp(log_s)
    total = target.sum(1, keepdims=True)
    kept = np.exp(np.log1p(-values["uniform_share"]) + log_s - log_p)  # (1 - eps) S / P
    columns = []
    for name in names:
        if name == "uniform_share":
            columns.append(np.exp(-log_p) / p.shape[1] - np.exp(log_s - log_p))
        else:
            drive = logits if name == "inverse_temperature" else -age
            columns.append(kept * (drive - (s * drive).sum(1, keepdims=True)))
    flat = np.array(columns).reshape(len(columns), -1)
    weight = (total * p).ravel()
    gradient = flat @ target.ravel()
    information = (flat * weight) @ flat.T
    if not with_bias:
        return gradient, information
    pulled = target * kept  # [T, N]
    of_bias = (pulled - s * pulled.sum(1, keepdims=True)).sum(0)
    c = total * p * kept**2
    crossed = c.T @ s
    biases = np.diag(c.sum(0)) - crossed - crossed.T + (s * c.sum(1, keepdims=True)).T @ s
    mixed = []
    for column in columns:
        h = total * p * kept * column
        mixed.append((h - s * h.sum(1, keepdims=True)).sum(0))
    mixed = np.array(mixed).reshape(len(columns), -1)
    whole = np.block([[information, mixed], [mixed.T, biases]])
    return np.concatenate([gradient, of_bias]), whole


def _inverse(information: np.ndarray, n_open: int) -> np.ndarray | None:
    """Covariance [p, p]; None where it is beyond float64, or more directions are open than n_open.

    The mean of the biases is open.
    """
    scale = np.sqrt(np.diagonal(information))
    if not (scale > 0).all() or not np.isfinite(information).all():
        return None
    values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    known = values > SINGULAR * values[-1]
    if (~known).sum() > n_open:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        vectors = vectors[:, known] / scale[:, None]
        covariance = (vectors / values[known]) @ vectors.T
    return covariance if np.isfinite(covariance).all() else None


def _moved(values: dict, names: list[str], with_bias: bool, step: np.ndarray) -> dict:
    moved = dict(values)
    for name, change in zip(names, step):
        moved[name] = values[name] + float(change)
    moved["uniform_share"] = float(np.clip(moved["uniform_share"], 0, 1 - 1e-9))
    if with_bias:
        bias = values["key_bias"] + step[len(names) :]
        moved["key_bias"] = bias - bias.mean()
    return moved


def predicted_inverse_temperature(
    reach: np.ndarray, sigma: np.ndarray, shift: float = 0.0
) -> np.ndarray:
    """1 - phi(x) / (sigma Phi(x)) at x = b_m - sigma + shift, from the random-energy model.

    d ln of the typical response Phi(b_m - sigma) e^(sigma^2 / 2) by sigma, over sigma: how fast a weight
    grows with its logit. reach b_m - sigma as in phases. For networks outside the Gaussian phase; without
    shift it gives the shape and is too low.
    """
    x = reach + shift
    with np.errstate(over="ignore"):  # far below, where the two exponents differ by rounding alone
        return (
            1 - np.exp(-np.square(x) / 2 - math.log(math.sqrt(2 * math.pi)) - log_ndtr(x)) / sigma
        )


def inverse_temperature_shift(reach: np.ndarray, sigma: np.ndarray, measured: np.ndarray) -> float:
    """The shift at which the prediction fits measured inverse temperatures best (least squares)."""

    def misfit(shift: float) -> float:
        return float(np.square(predicted_inverse_temperature(reach, sigma, shift) - measured).sum())

    return float(minimize_scalar(misfit, bounds=SHIFTS, method="bounded").x)
