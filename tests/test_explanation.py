"""The reverse fit: planted attention is recovered, networks are explained, or a note says why."""

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy.optimize import minimize

from conftest import random_heads, run_stage
from tripartite import explanation, job, network
from tripartite.contracts import check, describe
from tripartite.explanation import EXPLANATIONS, SCALARS, Observed, explain_attention
from tripartite.features import draw_neurons
from tripartite.kinds.explanation import criteria, prediction
from tripartite.kinds.explanation.effective_temperature import (
    DESCRIPTIONS,
    answer,
    effective_temperature,
    table,
)
from tripartite.kinds.explanation.explain import explain

SETTINGS = {"n_features": [10], "n_seeds": 2, "heads": "all", "seed": 5, "data_of": "x"}
N = 24
RNG = np.random.default_rng(0)
LOGITS = 1.5 * RNG.standard_normal((N, N))
AGE = np.broadcast_to(np.arange(N)[::-1].astype(float), (N, N))
ALL = np.ones((N, N), dtype=bool)  # every query reads every key
BIAS = 0.5 * RNG.standard_normal(N)
BIAS -= BIAS.mean()
PLANTED = {  # beta, gamma, eps, bias
    "uniform": (0.0, 0.0, 0.0, 0 * BIAS),
    "softmax": (1.0, 0.0, 0.0, 0 * BIAS),
    "uniform share": (1.0, 0.0, 0.2, 0 * BIAS),
    "decay": (1.0, 0.03, 0.0, 0 * BIAS),
    "key bias": (1.0, 0.0, 0.0, BIAS),
    "temperature": (0.7, 0.0, 0.0, 0 * BIAS),
    "temperature and uniform share": (1.2, 0.0, 0.2, 0 * BIAS),
    "temperature and decay": (0.7, 0.03, 0.0, 0 * BIAS),
    "temperature and key bias": (0.7, 0.0, 0.0, BIAS),
}


def attention(beta, decay, share, bias, logits=LOGITS, age=AGE):
    """P written out."""
    weights = np.exp(beta * logits + bias - decay * age)
    return (1 - share) * weights / weights.sum(1, keepdims=True) + share / logits.shape[1]


def values_of(planted):
    return dict(zip(("inverse_temperature", "decay", "uniform_share", "key_bias"), planted))


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_exact_attention_gives_its_parameters(name):
    found = explain_attention(attention(*PLANTED[name]), LOGITS, AGE, name)
    assert found.note == ""
    for key, wanted in values_of(PLANTED[name]).items():
        np.testing.assert_allclose(found.estimates[key], wanted, atol=2e-4)
    np.testing.assert_allclose(np.exp(found.log_attention), attention(*PLANTED[name]), atol=2e-5)


@pytest.mark.parametrize("name", [name for name, free in EXPLANATIONS.items() if free])
def test_score_and_information_are_the_derivatives(name):
    """Against finite differences of the likelihood, and of its mean curvature at the truth."""
    values = values_of((0.8, 0.02, 0.15, 0.3 * BIAS))
    planted = attention(1.2, 0, 0.2, BIAS)
    counts = np.array([RNG.multinomial(30, row) for row in planted]).astype(float)
    free = EXPLANATIONS[name]
    scalars = [key for key in SCALARS if key in free]
    with_bias = "key_bias" in free
    for key in SCALARS:
        values[key] = values[key] if key in scalars else 0.0

    def point_at(step, target):
        new = values | {key: values[key] + x for key, x in zip(scalars, step)}
        if with_bias:
            new["key_bias"] = values["key_bias"] + step[len(scalars) :]
        return explanation.point(new, Observed(target, LOGITS, AGE))

    def log_likelihood(step, target):
        return point_at(step, target).log_likelihood

    def score(step, target):
        return explanation.score(point_at(step, target), Observed(target, LOGITS, AGE), free)

    nowhere = np.zeros(len(scalars) + with_bias * N)
    gradient, _ = score(nowhere, counts)
    steps = 1e-5 * np.eye(len(nowhere))
    numeric = [(log_likelihood(h, counts) - log_likelihood(-h, counts)) / 2e-5 for h in steps]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-4)
    expected = 30 * np.exp(point_at(nowhere, counts).log_p)
    _, information = score(nowhere, expected)
    curved = [(score(h, expected)[0] - score(-h, expected)[0]) / -2e-5 for h in steps]
    np.testing.assert_allclose(information, curved, rtol=1e-4, atol=1e-3)


def test_scoring_finds_what_a_slow_search_finds():
    """Nelder-Mead on the likelihood written out."""
    counts = np.array([RNG.multinomial(20, row) for row in attention(0.8, 0.02, 0.1, BIAS)]).astype(
        float
    )
    for name in ("temperature and decay", "temperature and uniform share"):
        second = EXPLANATIONS[name][1]

        def cost(x, second=second):
            values = {"beta": x[0], "decay": 0, "share": 0, "bias": 0}
            if second == "uniform_share" and not 0 <= x[1] < 1:
                return np.inf
            values["share" if second == "uniform_share" else "decay"] = x[1]
            return -(counts * np.log(attention(*values.values()))).sum()

        slow = minimize(
            cost, [1, 0.05], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}
        )
        found = explain_attention(counts, LOGITS, AGE, name)
        got = [found.estimates["inverse_temperature"], found.estimates[second]]
        np.testing.assert_allclose(got, slow.x, atol=1e-5)
        assert found.log_likelihood == pytest.approx(-slow.fun, abs=1e-8)


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_a_near_start_finds_the_same(name):
    """Half of the queries, from the estimates of all: as from the start of its own."""
    weights, logits = simulated(*random_head(6.0, N, 16), 30, 1)
    near = explain_attention(weights, logits, AGE, name).estimates
    halves = [x[::2] for x in (weights, logits, AGE)]
    found, wanted = explain_attention(*halves, name, near), explain_attention(*halves, name)
    assert found.log_likelihood == pytest.approx(wanted.log_likelihood, abs=1e-6)
    assert (found.note, wanted.note) == ("", "")


def test_a_single_parameter_is_found_as_by_a_grid():
    """beta is 1: a uniform share or a decay alone, by the likelihood written out on a fine grid."""
    weights, logits = simulated(*random_head(6.0, N, 16), 30, 1)
    for name, place, grid in (
        ("uniform share", 2, np.linspace(0, 0.9, 9001)),
        ("decay", 1, np.linspace(-0.2, 0.2, 8001)),
    ):
        found = explain_attention(weights, logits, AGE, name)
        costs = []
        for value in grid:
            planted = [1.0, 0.0, 0.0, 0.0]
            planted[place] = value
            costs.append(-(weights * np.log(attention(*planted, logits=logits))).sum())
        key = EXPLANATIONS[name][0]
        assert found.estimates[key] == pytest.approx(grid[np.argmin(costs)], abs=1e-4)
        assert found.log_likelihood == pytest.approx(-min(costs), abs=1e-6)
        assert found.estimates["inverse_temperature"] == 1


def test_a_share_has_two_ends():
    """Attention sharper than softmax has a uniform share of 0, and uniform attention one of 1."""
    target = attention(1.5, 0, 0, 0 * BIAS)
    found = explain_attention(target, LOGITS, AGE, "uniform share")
    assert found.note == "" and found.estimates["uniform_share"] == 0
    assert np.isnan(found.errors["uniform_share"])
    uniform = explain_attention(np.full((N, N), 1 / N), LOGITS, AGE, "uniform share")
    assert uniform.note == "" and uniform.estimates["uniform_share"] == pytest.approx(1, abs=1e-6)
    softmax = explain_attention(target, LOGITS, AGE, "softmax")
    assert found.log_likelihood == softmax.log_likelihood


@pytest.mark.slow
def test_intervals_hold_planted_parameters_at_the_nominal_rate():
    """250 repeats of 40 tokens per query, every explanation: the binomial sd of 95 % is .014."""
    rng = np.random.default_rng(1)
    for name in filter(EXPLANATIONS.get, EXPLANATIONS):
        truth, hits = values_of(PLANTED[name]), {}
        for _ in range(250):
            counts = np.array(
                [rng.multinomial(40, row) for row in attention(*PLANTED[name])]
            ).astype(float)
            found = explain_attention(counts, LOGITS, AGE, name)
            for key in EXPLANATIONS[name]:
                inside = np.abs(found.estimates[key] - truth[key]) <= 1.96 * np.asarray(
                    found.errors[key]
                )
                hits.setdefault(key, []).append(inside)
        for key, inside in hits.items():
            assert 0.90 <= np.mean(inside) <= 0.99, (name, key, np.mean(inside))


def test_the_criterion_picks_what_was_planted():
    rng = np.random.default_rng(2)
    for planted in ("temperature", "temperature and uniform share", "temperature and key bias"):
        right = 0
        for _ in range(20):
            counts = np.array(
                [rng.multinomial(60, row) for row in attention(*PLANTED[planted])]
            ).astype(float)
            fits = {name: explain_attention(counts, LOGITS, AGE, name) for name in EXPLANATIONS}
            scores = {
                name: explanation.aic(fit.n_parameters, fit.log_likelihood, 1)
                for name, fit in fits.items()
                if not fit.note
            }
            right += min(scores, key=scores.get) == planted
        assert right >= 12, (planted, right)


@pytest.mark.parametrize(
    ("target", "logits", "name", "word"),
    [
        (np.full((4, 4), 0.25), np.ones((4, 4)), "temperature", "leave a parameter open"),
        (np.full((4, 1), 1.0), np.ones((4, 1)), "temperature", "leave a parameter open"),
        (np.eye(4), np.eye(4), "temperature", "a single key has all the weight"),
        (np.zeros((4, 4)), LOGITS[:4, :4], "temperature", "leave a parameter open"),
        (np.zeros((4, 4)), LOGITS[:4, :4], "decay", "leave a parameter open"),
        (
            np.full((4, 4), 0.25),
            LOGITS[:1, :4].repeat(4, 0),
            "temperature and key bias",
            "leave a parameter open",
        ),
    ],
)
def test_what_cannot_be_fitted_is_said(target, logits, name, word):
    found = explain_attention(target, logits, AGE[:4, -logits.shape[1] :], name)
    assert word in found.note
    assert np.isnan(found.estimates["inverse_temperature"]) and np.isnan(found.log_likelihood)


def random_head(sigma_squared, n_tokens, d_head):
    """Random queries and keys, both [T, D]."""
    settings = {"seed": 3, "experiment": "simulated"}
    data = random_heads([sigma_squared], 1, n_tokens=n_tokens, d_head=d_head, **settings)
    return [data[name].values[0, 0, 0].astype(float) for name in "qk"]


def simulated(q, k, m, seed):
    """Attention weights of a network of m neurons written out, and the logits, both [T, N]."""
    omega = np.random.default_rng(seed).standard_normal((m, q.shape[1]))
    phi_q, phi_k = (np.exp(x @ omega.T - np.square(x).sum(1)[:, None] / 2) for x in (q, k))
    weights = phi_q @ phi_k.T
    return weights / weights.sum(1, keepdims=True), q @ k.T


@pytest.mark.parametrize("sigma_squared", [1.0, 18.0])
def test_more_parameters_explain_no_less(sigma_squared):
    """With a share the likelihood has several maxima; the highest is above all simpler fits."""
    age, worst, compared = AGE[:16, -16:], np.inf, 0
    for seed in range(20):
        weights, logits = simulated(*random_head(sigma_squared, 16, 16), 10, seed)
        found = {name: explain_attention(weights, logits, age, name) for name in EXPLANATIONS}
        for large, small in (
            ("temperature and key bias", "temperature and decay"),  # a decay is a key bias here
            ("temperature and key bias", "key bias"),
            ("temperature and uniform share", "temperature"),
            ("temperature and uniform share", "uniform share"),
            ("temperature and decay", "decay"),
            ("temperature", "softmax"),
            ("temperature", "uniform"),
            ("uniform share", "softmax"),
            ("decay", "softmax"),
        ):
            if not found[large].note and not found[small].note:
                gain = found[large].log_likelihood - found[small].log_likelihood
                worst, compared = min(worst, gain), compared + 1
    assert worst > -1e-6 and compared >= 150


@pytest.mark.parametrize("name", ["temperature", "temperature and uniform share"])
def test_queries_may_avoid_their_keys(name):
    """A negative inverse temperature is a maximum like any other."""
    found = explain_attention(attention(-0.5, 0, 0, 0 * BIAS), LOGITS, AGE, name)
    assert found.note == "" and found.estimates["uniform_share"] < 1e-6
    assert found.estimates["inverse_temperature"] == pytest.approx(-0.5, abs=1e-5)


@pytest.mark.parametrize("size", [40, 300, 3000])
@pytest.mark.parametrize("name", EXPLANATIONS)
def test_sharp_attention_makes_no_warning(name, size):
    scaled = size * LOGITS
    target = np.exp(scaled - scaled.max(1, keepdims=True))
    found = explain_attention(target / target.sum(1, keepdims=True), scaled, AGE, name)
    estimate = found.estimates["inverse_temperature"]
    assert np.isnan(estimate) == (found.note != "")
    assert name == "uniform" or np.isnan(estimate) or estimate == pytest.approx(1, abs=1e-4)


def test_queries_without_weight_do_not_count():
    target = attention(*PLANTED["temperature"])
    target[3] = 0
    found = explain_attention(target, LOGITS, AGE, "temperature")
    assert found.estimates["inverse_temperature"] == pytest.approx(0.7, abs=1e-6)


def test_a_leaky_network_is_explained_by_a_decay():
    """Many neurons at low norm with a leak of .05: decay .05, temperature 1."""
    rng = np.random.default_rng(3)
    q, k = (torch.from_numpy(0.3 * rng.standard_normal((N, 4))) for _ in "qk")
    tokens = network.Tokens(q, k, torch.eye(N).double(), torch.zeros(N).double())
    neurons = draw_neurons("performer", rng, rng, 200000, 4)
    (((_, _, weights),),) = network.read(
        [tokens], neurons, [(0, 200000)], leak=network.Leak(0.05, 0.05)
    )
    found = explain_attention(weights.numpy(), (q @ k.T).numpy(), AGE, "temperature and decay")
    assert found.estimates["decay"] == pytest.approx(0.05, abs=2e-3)
    assert found.estimates["inverse_temperature"] == pytest.approx(1, abs=0.1)


def test_prediction_is_stable_and_its_shift_is_found():
    reach, sigma = np.linspace(-30, 2, 20), np.full(20, 5.0)
    curve = prediction.predicted_inverse_temperature(reach, sigma, 0.4)
    assert np.isfinite(curve).all() and (np.diff(curve) > 0).all()
    shift = prediction.inverse_temperature_shift(reach, sigma, curve)
    assert shift == pytest.approx(0.4, abs=1e-3)


def test_a_shift_is_compared_only_with_heads_it_was_not_fitted_to():
    """Four heads of three weights, each beta planted with a shift: only that of others counts."""
    log_m, sigma_squared = np.log([10, 100, 1000]), np.array([16.0, 20.0, 20.0, 24.0])
    distinct, planted = np.array([0, 1, 1, 2]), np.array([0.2, 0.5, 0.5, 0.8])
    measured = prediction.predicted(log_m, sigma_squared, planted)
    (shift, low, high), of_others, note = prediction.fitted_shifts(
        log_m, sigma_squared, measured, distinct
    )
    assert note == "" and low < shift < high and 0.2 < shift < 0.8
    for head, label in enumerate(distinct):  # the misfit of the others, written out
        others = np.flatnonzero(distinct != label)
        grid = np.linspace(0, 1, 1001)
        misfits = [
            np.square(prediction.predicted(log_m, sigma_squared[others], x) - measured[:, others])
            for x in grid
        ]
        best = grid[np.argmin([x.sum() for x in misfits])]
        assert of_others[head] == pytest.approx(best, abs=2e-3)
    assert of_others[1] == of_others[2] and of_others[0] > of_others[3]
    moved = measured.copy()
    moved[:, 1:3] += 0.1
    _, again, _ = prediction.fitted_shifts(log_m, sigma_squared, moved, distinct)
    assert again[1] == of_others[1] and again[0] != of_others[0]


@pytest.mark.parametrize(("m", "sigma"), [(1, 3.0), (10, 0.4), (10, 4.0), (300, 6.0), (1e5, 2.0)])
def test_mean_log_response_is_that_of_networks(m, sigma):
    """Against the mean of many drawn responses to one pair, within four standard errors."""
    rng = np.random.default_rng(6)
    drawn = []
    for _ in range(200 if m > 1000 else 4000):
        z = rng.standard_normal(int(m))
        drawn.append(np.log(np.exp(sigma * z - sigma**2 / 2).mean()))
    error = np.std(drawn) / np.sqrt(len(drawn))
    (found,) = prediction.mean_log_response(np.array([np.log(m)]), sigma)
    assert abs(found - np.mean(drawn)) < 4 * error


def test_mean_log_response_has_its_limits():
    """One term: -sigma^2 / 2, exactly. Many neurons: -(exp(sigma^2) - 1) / 2m. No spread: 0."""
    one, many = np.log([1.0]), np.log([1e6])
    for sigma in (0.3, 2.0, 7.0):
        assert prediction.mean_log_response(one, sigma)[0] == pytest.approx(
            -(sigma**2) / 2, abs=1e-9
        )
    assert prediction.mean_log_response(many, 1.0)[0] == pytest.approx(-np.expm1(1) / 2e6, rel=1e-3)
    np.testing.assert_allclose(prediction.mean_log_response(np.log([1, 100]), 0.0), 0, atol=1e-9)


@pytest.mark.parametrize(("sigma_squared", "m"), [(1.0, 30), (8.0, 10), (24.0, 300)])
def test_the_slope_of_logs_has_its_exact_mean(sigma_squared, m):
    """Networks written out, in all three phases: their mean slope within four standard errors."""
    q, k = random_head(sigma_squared, 12, 6)
    slopes = []
    for seed in range(400):
        weights, logits = simulated(q, k, m, seed)
        slopes.append(prediction.slope(np.log(weights), logits, ALL[:12, :12]))
    (wanted,) = prediction.expected_slope(q, k, np.array([np.log(m)]), ALL[:12, :12])
    error = np.std(slopes) / np.sqrt(len(slopes))
    assert error < 0.02 and abs(np.mean(slopes) - wanted) < 4 * error
    pairs = np.sqrt(np.square(q[:, None] + k).sum(-1))  # without interpolation
    exact = [[prediction.mean_log_response(np.array([np.log(m)]), x)[0] for x in y] for y in pairs]
    direct = prediction.slope(q @ k.T + np.array(exact), q @ k.T, ALL[:12, :12])
    assert wanted == pytest.approx(direct, abs=1e-4)


def test_a_slope_ignores_a_gain_of_each_query():
    gains = RNG.standard_normal((N, 1))
    assert prediction.slope(0.7 * LOGITS + gains, LOGITS, ALL) == pytest.approx(0.7)
    assert np.isnan(prediction.slope(np.where(LOGITS > 1, -np.inf, 0.0), LOGITS, ALL))
    assert np.isnan(prediction.slope(LOGITS, np.ones((N, N)) * gains, ALL))
    q, k = np.ones((3, 2)), np.ones((3, 2))
    assert np.isnan(prediction.expected_slope(q, k, np.log([10.0]), ALL[:3, :3])).all()


def test_the_share_removed_is_that_of_the_divergence():
    """Attention that a temperature makes: it removes all, softmax none; uniform may be farther."""
    kl = np.full((len(EXPLANATIONS), 1), np.nan)
    weights = attention(0.7, 0, 0, 0 * BIAS)
    for place, name in enumerate(EXPLANATIONS):
        log_p = explain_attention(weights, LOGITS, AGE, name).log_attention
        kl[place] = (weights * (np.log(weights) - log_p)).sum(1).mean()
    removed = dict(zip(EXPLANATIONS, 1 - criteria.divergence_left(kl)[:, 0]))
    assert removed["softmax"] == 0 and removed["temperature"] == pytest.approx(1, abs=1e-9)
    assert removed["uniform"] < 0 < removed["uniform share"] < 1
    assert removed["decay"] < 0.2 and removed["key bias"] < 0.5


def test_biases_fitted_to_noise_do_not_serve_other_queries():
    """Noise of each query and key removes itself where it is fitted; biases of keys remain."""
    noise = 0.5 * np.random.default_rng(7).standard_normal((N, N))
    for log_weights, serves in ((LOGITS + noise, False), (LOGITS + BIAS + 0.1 * noise, True)):
        weights = np.exp(log_weights)
        weights /= weights.sum(1, keepdims=True)
        left = {}
        for name in ("softmax", "key bias"):
            fit = explain_attention(weights, LOGITS, AGE, name)
            others = criteria.unfitted_likelihood(weights, LOGITS, AGE, name, fit.estimates)
            entropy = (weights * np.log(weights)).sum()
            left[name] = entropy - np.array([fit.log_likelihood, others])
        removed = 1 - left["key bias"] / left["softmax"]
        assert removed[1] < removed[0] and (removed[1] > 0.8 if serves else removed[1] < 0)
        assert left["softmax"][0] == pytest.approx(left["softmax"][1])  # nothing is fitted


@hypothesis.given(
    st.lists(st.floats(-50, -1), min_size=5, max_size=5),
    st.permutations([0, 0, 1, 2, 9]),
    st.floats(0.01, 100),
)
def test_the_tokens_needed_are_where_the_winner_changes(log_likelihood, n_parameters, n):
    """Just above them AIC prefers the explanation to all simpler ones, just below it does not."""
    fits, k = np.array(log_likelihood), np.array(n_parameters)
    needed = criteria.tokens_needed(fits[:, None], k[:, None].astype(float))[:, 0]
    for place, tokens in enumerate(needed):
        simpler = k < k[place]
        scores = explanation.aic(k, fits, n)
        beats = bool((scores[place] < scores[simpler]).all())
        if abs(n - tokens) > 1e-6 * tokens:
            assert beats == (n > tokens)


def test_tokens_needed_where_something_is_not_fitted():
    fits, k = np.array([[-10.0], [np.nan], [-9.0]]), np.array([[0.0], [1.0], [3.0]])
    assert criteria.tokens_needed(fits, k)[2] == pytest.approx(3)
    k[1] = np.nan  # as its likelihood is
    np.testing.assert_array_equal(criteria.tokens_needed(fits, k), [[0], [np.nan], [3]])


def test_bic_is_aic_with_fewer_attended_tokens():
    """BIC = k ln T - 2 ln L has the order of AIC with 2 / ln T attended tokens per query."""
    k, fits = np.arange(6), -20 * RNG.random(6)
    bic = k * np.log(N) - 2 * fits
    np.testing.assert_allclose(explanation.aic(k, fits, 2 / np.log(N)), 2 / np.log(N) * bic)


@pytest.fixture(scope="module")
def explained():
    data = random_heads([0.5, 6.0, 16.0], 2, n_tokens=16, d_head=8)
    found = run_stage(explain, data, SETTINGS | {"n_features": [10, 1000], "n_seeds": 8})
    check(describe(found, "explanation"), "explanation", "here")
    return found.assign_attrs(data="drawn")


def test_networks_sharpen_with_their_size(explained):
    """G17: beta rises with m, falls with sigma^2, is near the prediction, and 1 at low norm."""
    beta = explained["inverse_temperature"].sel(explanation="temperature").squeeze().values
    assert (np.diff(beta[:, 1:], axis=0) > 0).all() and (np.diff(beta[:, :], axis=1) < 0).all()
    assert abs(beta[1, 0] - 1) < 0.1
    shifted, unshifted = (
        explained[f"inverse_temperature_{name}"].squeeze().values
        for name in ("shifted", "unshifted")
    )
    assert np.nanmax(np.abs(shifted - beta)) < 0.15 and np.isfinite(shifted[0, 1:]).all()
    assert (unshifted < beta).sum() == np.isfinite(unshifted).sum() > 2  # too low
    assert np.isnan(shifted[1, 0]) and np.isnan(unshifted[1, 0])  # the Gaussian phase
    assert explained["reach_shift_low"] <= explained["reach_shift"] <= explained["reach_shift_high"]
    assert explained["reach_shift_note"] == ""
    assert (explained["note"].values == "").all()
    low, high = (explained[f"inverse_temperature_{end}"].values for end in ("low", "high"))
    beta = explained["inverse_temperature"].values
    assert ((low <= beta) & (beta <= high)).all()


def test_the_slope_of_networks_is_the_exact_one(explained):
    """Its exact mean lies in most 95 % intervals over inputs and seeds, and close."""
    low, high = (explained[f"slope_of_logs_{end}"].values for end in ("low", "high"))
    wanted = explained["slope_of_logs_predicted"].values
    assert ((low <= wanted) & (wanted <= high)).sum() >= 5  # of 6
    assert np.abs(explained["slope_of_logs"].values - wanted).max() < 0.1


def test_what_explanations_remove_and_which_is_likeliest(explained):
    """From their own numbers: shares, AIC of every number of attended tokens, where it changes."""
    kl, removed = explained["kl"], explained["divergence_removed"]
    np.testing.assert_allclose(removed, 1 - kl / kl.sel(explanation="softmax"), atol=1e-12)
    fitted = removed.drop_sel(explanation=["uniform", "softmax"])
    assert (fitted > -1e-9).all() and (fitted < 1).all()
    assert (
        removed.sel(explanation="temperature and key bias")
        >= removed.sel(explanation="temperature")
    ).all()
    gap = (removed - explained["divergence_removed_unfitted"]).sel(explanation=fitted.explanation)
    assert ((gap > 0) | gap.isnull()).all() and gap.isel(n_features=1).notnull().all()
    assert gap.isnull().sum() <= 2  # mixtures, for half of the queries of ten neurons
    share = explained["share_best"]
    np.testing.assert_allclose(share.sum("explanation"), 1)
    with_bias = share.sel(explanation=["key bias", "temperature and key bias"]).sum("explanation")
    assert (with_bias.sel(attended_tokens=30) >= with_bias.sel(attended_tokens=0.3)).all()
    assert (explained["delta_aic"] >= 0).all()
    needed = explained["attended_tokens_needed"]
    assert (needed.sel(explanation=["uniform", "softmax"]) == 0).all()
    assert (needed.drop_sel(explanation=["uniform", "softmax"]) > 0).all()


def test_heads_that_cannot_be_explained_have_a_note():
    data = random_heads([1.0, 1.0, 1.0], 1, n_tokens=5, d_head=3)
    data["k"][:, :, 0] = 0  # all logits alike
    found = run_stage(explain, data, SETTINGS | {"heads": [[0, 0], [0, 1]]})
    check(describe(found, "explanation"), "explanation", "here")
    assert "share: the data leave a parameter open" in str(found["note"].values[0, 0, 0])
    assert found["note"].values[0, 0, 2] == "not run"
    alone = found.sel(head=0)
    assert np.isnan(alone["inverse_temperature"].sel(explanation="temperature")).all()
    assert alone["delta_aic"].sel(explanation="temperature").isnull().all()
    assert alone["share_best"].sel(explanation="temperature").isin([0]).all()
    assert found["sigma_squared"].isnull().values.tolist() == [[False, False, True]]
    assert np.isnan(found["reach_shift"]) and "needed" in str(found["reach_shift_note"].values)


def test_one_network_has_estimates_without_intervals():
    data = random_heads([1.0, 6.0], 1, n_tokens=8, d_head=4)
    found = run_stage(explain, data, SETTINGS | {"n_features": [50], "n_seeds": 1})
    one = found.sel(explanation="temperature")
    assert one["inverse_temperature"].notnull().all()
    assert one["inverse_temperature_low"].isnull().all()
    assert one["divergence_removed"].notnull().all()
    assert one["divergence_removed_low"].isnull().all()


def test_a_shift_at_the_end_of_its_range_is_none():
    """Inverse temperatures above 1 are nearest to the prediction at any large shift."""
    log_m, sigma_squared = np.log([10, 100, 1000]), np.array([9.0, 16.0])
    shift, of_others, note = prediction.fitted_shifts(
        log_m, sigma_squared, np.full((3, 2), 1.2), np.arange(2)
    )
    assert np.isnan(shift).all() and np.isnan(of_others).all() and "no shift between" in note


def test_the_figure_draws_what_was_found(explained, tmp_path):
    for fits in (
        {"a": explained},
        {str(i): explained.assign_attrs(data=f"x $^$ {i}") for i in range(4)},
    ):
        figure = effective_temperature(fits)
        job.save_figure(figure, [tmp_path / "effective_temperature.svg"], {})
    figure = effective_temperature({"a": explained})
    upper, lower = figure.axes[:2]
    temperature = explained.sel(explanation="temperature").squeeze()
    for head, bars in enumerate(upper.containers):
        drawn = bars.lines[0].get_ydata()
        np.testing.assert_array_equal(drawn, temperature["inverse_temperature"].isel(head=head))
    drawn = np.concatenate([bars.lines[0].get_xdata() for bars in lower.containers])
    removed = explained["divergence_removed_unfitted"].isel(n_features=-1)
    wanted = removed.sel(explanation=[*DESCRIPTIONS]).values.ravel()
    np.testing.assert_array_equal(np.sort(drawn), np.sort(wanted))
    found = table({"a": explained})
    rows = found[found["quantity"] == "divergence removed"]
    np.testing.assert_array_equal(np.sort(rows["value"]), np.sort(wanted))
    of_largest = temperature["inverse_temperature"].isel(n_features=-1)
    assert f"is {float(of_largest.min()):.2g} to" in answer({"a": explained})
    doubled = explained.assign(inverse_temperature=2 * explained["inverse_temperature"])
    assert f"is {2 * float(of_largest.min()):.2g} to" in answer({"a": doubled})
    plt.close("all")
