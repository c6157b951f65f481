"""Which standard attention explains given attention weights: maximum likelihood and criteria.

Rows y_tj of weights or of counts (how often query t attended to key j) are explained by

    P_tj = (1 - eps) softmax_j(beta logit_tj + b_j - gamma age_tj) + eps / N_t,

with inverse temperature beta, key bias b (of mean 0), decay gamma per token of age, and a share eps
of uniform attention (without key bias), in the multinomial likelihood sum_tj y_tj ln P_tj. A query
reads the N_t keys whose age is 0 or more. A key of negative age is not written yet and has no
weight: causal attention differs from bidirectional attention by its ages alone.

Weights whose rows sum to one stand for any number n of attended tokens per query: estimates do not
depend on it, but criteria do, as n times the log likelihood enters them (`aic`). Fisher scoring
with the expected information finds the maximum, and gives standard errors. The likelihood is
concave without eps, and in eps alone; with temperature and eps there can be several maxima, and a
search from several starts comes first.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import log_softmax

SCALARS = ("inverse_temperature", "decay", "uniform_share")
EXPLANATIONS = {  # free parameters, in the order of their errors; the others are 0, and beta 1
    "uniform": (),  # beta = 0
    "softmax": (),  # the transformer's own attention
    "uniform share": ("uniform_share",),
    "decay": ("decay",),
    "key bias": ("key_bias",),
    "temperature": ("inverse_temperature",),
    "temperature and uniform share": ("inverse_temperature", "uniform_share"),
    "temperature and decay": ("inverse_temperature", "decay"),
    "temperature and key bias": ("inverse_temperature", "key_bias"),
}
MAX_STEPS = 200  # of Fisher scoring
MAX_HALVINGS = 40  # of a step that leads down
MAX_BETA = 1e3  # of beta and of its error: beyond it a single key has all the weight
MIN_EIGENVALUE = 1e-10  # of the scaled information, over the largest one
FIRST_SHARES = (0.01, 0.3, 0.7)  # from which the search starts
SMALL_SHARE = 1e-6  # from which scoring goes on where the share is rather above 0
SHARP = "a single key has all the weight: no finite inverse temperature"
OPEN = "the data leave a parameter open: logits or ages do not vary enough, or a key has no weight"


class Observed(NamedTuple):
    """Weights or counts that are explained, logits and ages of the keys (tokens), each [T, N]."""

    target: np.ndarray
    logits: np.ndarray
    age: np.ndarray

    @property
    def read(self) -> np.ndarray:
        """Which keys a query reads, true or false [T, N]."""
        return self.age >= 0

    @property
    def n_read(self) -> np.ndarray:
        """How many keys a query reads [T, 1]."""
        return self.read.sum(1, keepdims=True)


class Fit(NamedTuple):
    """Estimates and standard errors by name (key_bias [N]), and what criteria need; ln P [T, N].

    note says why there are none (NaN). An error is NaN for a share of 0, the end of its range.
    """

    estimates: dict
    errors: dict
    log_likelihood: float
    n_parameters: int
    log_attention: np.ndarray
    note: str


def aic(n_parameters: ArrayLike, log_likelihood: ArrayLike, n_attended: ArrayLike) -> np.ndarray:
    """Akaike's criterion of weights that stand for n_attended tokens per query; shapes broadcast.

    BIC with one datum per query, T of them, prefers what AIC does with 2 / ln T attended tokens.
    """
    return 2 * np.asarray(n_parameters) - 2 * np.asarray(n_attended) * log_likelihood


class Point(NamedTuple):
    """Values of all parameters by name; for them ln P and ln of its softmax part, both [T, N]."""

    values: dict
    log_p: np.ndarray
    log_softmax: np.ndarray
    log_likelihood: float


class NoMaximum(Exception):
    """The likelihood has no maximum at finite values, or none that was found; says why."""


def explain_attention(
    target: np.ndarray,
    logits: np.ndarray,
    age: np.ndarray,
    explanation: str,
    near: dict | None = None,
) -> Fit:
    """Fit one of EXPLANATIONS to target [T, N], of logits and ages [T, N] of the keys (tokens).

    A key of a negative age is not read by the query: its ln P is -inf. near: estimates from which
    scoring starts, such as those of a part of the same queries, so that no other maximum is
    searched. Queries without any weight do not count, and a key that no query reads has a bias of
    0. NaN and a note where the data leave a parameter open, where the weights are sharper than any
    temperature, or where scoring does not end.
    """
    read = np.asarray((age >= 0).any(0))
    if len(target) and not read.all():
        return _with_unread_keys(target, logits, age, explanation, near, read)
    free, n_keys = EXPLANATIONS[explanation], target.shape[1]
    n_parameters = len(_scalars(free)) + ("key_bias" in free) * (n_keys - 1)  # biases have mean 0
    try:
        best, errors = _best(Observed(target, logits, age), explanation, near)
    except NoMaximum as reason:
        unknown = dict.fromkeys(SCALARS, math.nan) | {"key_bias": np.full(n_keys, np.nan)}
        nowhere = np.full(target.shape, np.nan)
        return Fit(unknown, unknown, math.nan, n_parameters, nowhere, str(reason))
    return Fit(best.values, errors, best.log_likelihood, n_parameters, best.log_p, "")


def _with_unread_keys(
    target: np.ndarray,
    logits: np.ndarray,
    age: np.ndarray,
    explanation: str,
    near: dict | None,
    read: np.ndarray,
) -> Fit:
    """The fit to the keys that some query reads, read [N], with a bias of 0 for the others."""
    if near is not None:
        bias = near["key_bias"][read]
        near = near | {"key_bias": bias - bias.mean()}
    fit = explain_attention(target[:, read], logits[:, read], age[:, read], explanation, near)
    estimates, errors = (
        {**x, "key_bias": np.zeros(len(read))} for x in (fit.estimates, fit.errors)
    )
    log_attention = np.full(target.shape, -np.inf)
    estimates["key_bias"][read] = fit.estimates["key_bias"]
    errors["key_bias"][read] = fit.errors["key_bias"]
    log_attention[:, read] = fit.log_attention
    return fit._replace(estimates=estimates, errors=errors, log_attention=log_attention)


def log_explained_attention(
    values: dict, logits: np.ndarray, age: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """ln P of the explanation with these values and ln of its softmax part, both [T, N]."""
    read = age >= 0
    drive = values["inverse_temperature"] * logits + values["key_bias"] - values["decay"] * age
    log_s = log_softmax(np.where(read, drive, -np.inf), axis=1)
    share = values["uniform_share"]
    if share == 0:
        return log_s, log_s
    with np.errstate(divide="ignore"):
        of_share = np.where(read, np.log(share / read.sum(1, keepdims=True)), -np.inf)
        return np.logaddexp(np.log1p(-share) + log_s, of_share), log_s


def likelihood(target: np.ndarray, log_p: np.ndarray) -> float:
    """sum_tj y_tj ln P_tj."""
    return float((target * np.where(target > 0, log_p, 0.0)).sum())


def point(values: dict, observed: Observed) -> Point:
    """The explanation with these values."""
    log_p, log_s = log_explained_attention(values, observed.logits, observed.age)
    return Point(values, log_p, log_s, likelihood(observed.target, log_p))


def score(here: Point, observed: Observed, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Gradient [p] and expected information [p, p] of these parameters, the last one key_bias [N].

    With u = d ln P / d parameter, they are sum y u and sum_t n_t sum_j P_tj u u^T, n_t the total of
    row t.
    """
    values, log_p, log_s, _ = here
    target, logits, age = observed
    p, s = np.exp(log_p), np.exp(log_s)
    log_p, log_s = (np.where(observed.read, x, 0.0) for x in (log_p, log_s))
    total = target.sum(1, keepdims=True)
    kept = np.exp(np.log1p(-values["uniform_share"]) + log_s - log_p)  # (1 - eps) S / P
    columns = []
    for name in _scalars(names):
        if name == "uniform_share":
            columns.append(np.exp(-log_p) / observed.n_read - np.exp(log_s - log_p))
        else:
            drive = logits if name == "inverse_temperature" else -age
            columns.append(kept * (drive - (s * drive).sum(1, keepdims=True)))
    flat = np.array(columns).reshape(len(columns), p.size)
    weight = (total * p).ravel()
    gradient = flat @ target.ravel()
    information = (flat * weight) @ flat.T
    if "key_bias" not in names:
        return gradient, information
    expected = total * p  # [T, N]; there is no uniform share beside biases, so p = s
    of_bias = (target - expected).sum(0)
    biases = np.diag(expected.sum(0)) - expected.T @ p
    mixed = np.array([(expected * column).sum(0) for column in columns]).reshape(-1, p.shape[1])
    whole = np.block([[information, mixed], [mixed.T, biases]])
    return np.concatenate([gradient, of_bias]), whole


def _best(observed: Observed, explanation: str, near: dict | None) -> tuple[Point, dict]:
    """The explanation of highest likelihood, and standard errors of its parameters by name."""
    free = EXPLANATIONS[explanation]
    errors = dict.fromkeys(SCALARS, 0.0) | {"key_bias": np.zeros(observed.target.shape[1])}
    start = errors | {"inverse_temperature": float(explanation != "uniform")}
    if not free:
        return point(start, observed), errors
    if near is not None:
        start = near
    elif free == ("uniform_share",):  # concave as well: ln of a linear function
        if _is_uniform(point(start, observed).log_p, observed):
            raise NoMaximum(OPEN)
        start |= {"uniform_share": FIRST_SHARES[1]}
    elif "uniform_share" in free:
        start = _searched(observed)
    best, names, covariance = _maximum(observed, start, free)
    spread = np.sqrt(np.diagonal(covariance))
    errors |= dict.fromkeys(_scalars(free), math.nan)
    errors |= {name: float(error) for name, error in zip(_scalars(names), spread)}
    if "key_bias" in names:
        errors["key_bias"] = spread[len(names) - 1 :]
    if errors["inverse_temperature"] > MAX_BETA:  # flat: the maximum lies at infinity
        raise NoMaximum(SHARP)
    return best, errors


def _is_uniform(log_p: np.ndarray, observed: Observed) -> bool:
    """Whether no share of uniform attention can be told from these weights."""
    return bool(np.ptp((log_p + np.log(observed.n_read))[observed.read]) < 1e-6)


def _scalars(names: Sequence[str]) -> list[str]:
    return [name for name in names if name != "key_bias"]


def _maximum(
    observed: Observed, start: dict, free: Sequence[str]
) -> tuple[Point, list[str], np.ndarray]:
    """The maximum by Fisher scoring, the parameters that vary there, and their covariance [p, p].

    A share of 0 does not vary, unless the likelihood rises with it at the maximum of the others.
    """
    here = point(start, observed)
    for _ in range(MAX_STEPS):
        share = here.values["uniform_share"]
        names = [name for name in free if name != "uniform_share" or share > 0]
        gradient, information = score(here, observed, names)
        covariance = _inverse(information, n_open="key_bias" in free) if names else information
        if covariance is None:
            raise NoMaximum(OPEN)
        step = covariance @ gradient
        if float(gradient @ step) < 1e-12 * max(1.0, observed.target.sum()):
            if len(names) == len(free) or not _rises_with_a_share(here, observed):
                return here, names, covariance
            here = point(here.values | {"uniform_share": SMALL_SHARE}, observed)
            continue
        higher = _higher(here, observed, names, step)
        if higher is None:  # within rounding, or the share is at its upper end
            return here, names, covariance
        here = higher
        if abs(here.values["inverse_temperature"]) > MAX_BETA:
            raise NoMaximum(SHARP)
    raise NoMaximum(f"the likelihood did not settle in {MAX_STEPS} steps")


def _rises_with_a_share(here: Point, observed: Observed) -> bool:
    """Whether the likelihood rises with the uniform share from 0 on."""
    target, attended = observed.target, observed.target > 0
    n_read = np.broadcast_to(observed.n_read, target.shape)
    with np.errstate(over="ignore"):  # a key without weight would gain without bound
        gain = target[attended] * np.exp(-here.log_p[attended]) / n_read[attended]
    slope = gain.sum() - target.sum()
    return bool(slope > 1e-6 * target.sum())


def _higher(
    here: Point, observed: Observed, names: Sequence[str], step: np.ndarray
) -> Point | None:
    """The point after the step, or after the first part of it that is higher; None if none."""
    size = 1.0
    for _ in range(MAX_HALVINGS):
        tried = point(_moved(here.values, names, size * step), observed)
        if tried.log_likelihood > here.log_likelihood:
            return tried
        size /= 2
    return None


def _moved(values: dict, names: Sequence[str], step: np.ndarray) -> dict:
    """Values after a step of the parameters of these names, in their ranges."""
    moved = dict(values)
    for name, change in zip(_scalars(names), step):
        moved[name] = values[name] + float(change)
    moved["uniform_share"] = float(np.clip(moved["uniform_share"], 0, 1 - 1e-9))
    if "key_bias" in names:
        bias = values["key_bias"] + step[len(names) - 1 :]
        moved["key_bias"] = bias - bias.mean()
    return moved


def _searched(observed: Observed) -> dict:
    """Temperature and share near the highest maximum that descents from several shares find.

    L-BFGS-B starts from the fit without share, which is one of the candidates. NoMaximum where that
    fit has none.
    """
    target, logits, _ = observed
    read, per_query = observed.read, logits.shape[1] / observed.n_read
    base = explain_attention(*observed, "temperature")
    if base.note:
        raise NoMaximum(base.note)
    if _is_uniform(base.log_attention, observed):
        raise NoMaximum(OPEN)

    def values_of(x: np.ndarray) -> dict:
        return base.estimates | {"inverse_temperature": float(x[0]), "uniform_share": float(x[1])}

    def cost(x: np.ndarray) -> tuple[float, np.ndarray]:
        values, log_p, log_s, log_likelihood = point(values_of(x), observed)
        s = np.exp(log_s)
        log_p, log_s = (np.where(read, x, 0.0) for x in (log_p, log_s))
        rest = target * np.exp(log_s - log_p)  # y S / P
        pulled = (1 - values["uniform_share"]) * rest
        pulled = pulled - s * pulled.sum(1, keepdims=True)
        of_share = (target * np.exp(-log_p) * per_query).sum() / logits.shape[1] - rest.sum()
        return -log_likelihood, -np.array([(pulled * logits).sum(), of_share])

    highest, values = base.log_likelihood, base.estimates
    for share in FIRST_SHARES:
        start = [base.estimates["inverse_temperature"], share]
        ranges = [(None, None), (1e-9, 1 - 1e-9)]
        tried = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=ranges)
        if -tried.fun > highest:
            highest, values = -tried.fun, values_of(tried.x)
    return values


def _inverse(information: np.ndarray, n_open: int) -> np.ndarray | None:
    """Covariance [p, p]; None where it is beyond float64, or more directions are open than n_open.

    The mean of the biases is open.
    """
    scale = np.sqrt(np.diagonal(information))
    if not (scale > 0).all() or not np.isfinite(information).all():
        return None
    values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    known = values > MIN_EIGENVALUE * values[-1]
    if (~known).sum() > n_open:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        vectors = vectors[:, known] / scale[:, None]
        covariance = (vectors / values[known]) @ vectors.T
    return covariance if np.isfinite(covariance).all() else None
