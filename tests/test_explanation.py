"""The reverse fit: planted attention is recovered, networks are explained, or a note says why."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from scipy.optimize import minimize

from conftest import random_heads, run_stage
from tripartite import explanation, job, network
from tripartite.contracts import check, describe
from tripartite.explanation import EXPLANATIONS, SCALARS, Observed, explain_attention
from tripartite.features import draw_neurons
from tripartite.kinds.explanation import prediction
from tripartite.kinds.explanation.effective_temperature import effective_temperature
from tripartite.kinds.explanation.explain import explain

SETTINGS = {"n_features": [10], "n_seeds": 2, "heads": "all", "seed": 5, "data_of": "x"}
N = 24
RNG = np.random.default_rng(0)
LOGITS = 1.5 * RNG.standard_normal((N, N))
AGE = np.broadcast_to(np.arange(N)[::-1].astype(float), (N, N))
BIAS = 0.5 * RNG.standard_normal(N)
BIAS -= BIAS.mean()
PLANTED = {  # beta, gamma, eps, bias
    "uniform": (0.0, 0.0, 0.0, 0 * BIAS),
    "temperature": (0.7, 0.0, 0.0, 0 * BIAS),
    "temperature and decay": (0.7, 0.03, 0.0, 0 * BIAS),
    "temperature and uniform": (1.2, 0.0, 0.2, 0 * BIAS),
    "temperature and key bias": (0.7, 0.0, 0.0, BIAS),
    "all": (1.2, 0.0, 0.2, BIAS),
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
    counts = np.array([RNG.multinomial(30, row) for row in attention(*PLANTED["all"])]).astype(
        float
    )
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
    for name in ("temperature and decay", "temperature and uniform"):
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
        assert found.aic == pytest.approx(4 + 2 * slow.fun, abs=1e-8)


@pytest.mark.slow
def test_intervals_hold_planted_parameters_at_the_nominal_rate():
    """250 repeats of 40 tokens per query, every explanation: the binomial sd of 95 % is .014."""
    rng = np.random.default_rng(1)
    for name in (
        "temperature",
        "temperature and decay",
        "temperature and uniform",
        "temperature and key bias",
        "all",
    ):
        truth, hits, n = values_of(PLANTED[name]), {}, 250 if name != "all" else 120
        for _ in range(n):
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
    for planted in ("temperature", "temperature and uniform", "temperature and key bias"):
        right = 0
        for _ in range(20):
            counts = np.array(
                [rng.multinomial(60, row) for row in attention(*PLANTED[planted])]
            ).astype(float)
            scores = {
                name: explain_attention(counts, LOGITS, AGE, name).aic for name in EXPLANATIONS
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
        (np.full((4, 4), 0.25), LOGITS[:1, :4].repeat(4, 0), "all", "leave a parameter open"),
    ],
)
def test_what_cannot_be_fitted_is_said(target, logits, name, word):
    found = explain_attention(target, logits, AGE[:4, -logits.shape[1] :], name)
    assert word in found.note
    assert np.isnan(found.estimates["inverse_temperature"]) and np.isnan(found.log_likelihood)


def simulated(sigma_squared, m, seed, n_tokens=64, d_head=16):
    """Attention weights of a network of m neurons written out, and the logits, both [T, N]."""
    settings = {"seed": 3, "experiment": "simulated"}
    data = random_heads([sigma_squared], 1, n_tokens=n_tokens, d_head=d_head, **settings)
    q, k = (data[name].values[0, 0, 0].astype(float) for name in "qk")
    omega = np.random.default_rng(seed).standard_normal((m, d_head))
    phi_q, phi_k = (np.exp(x @ omega.T - np.square(x).sum(1)[:, None] / 2) for x in (q, k))
    weights = phi_q @ phi_k.T
    return weights / weights.sum(1, keepdims=True), q @ k.T


@pytest.mark.parametrize("sigma_squared", [1.0, 18.0])
def test_more_parameters_explain_no_less(sigma_squared):
    """With a share the likelihood has several maxima; the highest is above all simpler fits."""
    age, worst, compared = AGE[:16, -16:], np.inf, 0
    for seed in range(20):
        weights, logits = simulated(sigma_squared, 10, seed, n_tokens=16)
        found = {name: explain_attention(weights, logits, age, name) for name in EXPLANATIONS}
        for large, small in (
            ("all", "temperature and key bias"),
            ("all", "temperature and uniform"),
            ("all", "temperature and decay"),  # a decay is a key bias here
            ("temperature and uniform", "temperature"),
        ):
            if not found[large].note and not found[small].note:
                gain = found[large].log_likelihood - found[small].log_likelihood
                worst, compared = min(worst, gain), compared + 1
    assert worst > -1e-6 and compared >= 40


def test_a_key_that_only_the_share_attends_has_no_bias():
    weights = attention(1.0, 0, 0.2, np.where(np.arange(N) == 3, -60.0, 0.0))
    found = explain_attention(weights, LOGITS, AGE, "all")
    assert found.note == explanation.UNATTENDED and np.isnan(found.estimates["key_bias"]).all()


@pytest.mark.parametrize("name", ["temperature", "temperature and uniform", "all"])
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
    predicted = explained["inverse_temperature_predicted"].squeeze().values
    assert np.nanmax(np.abs(predicted - beta)) < 0.15 and np.isfinite(predicted[0, 1:]).all()
    assert np.isnan(predicted[1, 0])  # the Gaussian phase
    assert explained["reach_shift_low"] <= explained["reach_shift"] <= explained["reach_shift_high"]
    assert explained["reach_shift_note"] == ""
    hard = ("temperature and ", "all: ")  # mixtures, for few neurons
    assert all(note == "" or note.startswith(hard) for note in explained["note"].values.ravel())
    assert float(explained["kl"].sel(explanation="all").max()) >= 0
    np.testing.assert_allclose(explained["share_best"].sum("explanation"), 1)
    change = (
        explained["delta_bic"] - explained["delta_aic"]
    )  # ln 16 - 2 per parameter, but for the lowest
    per_parameter = change.sel(explanation="temperature and decay") - change.sel(
        explanation="temperature"
    )
    np.testing.assert_allclose(per_parameter, np.log(16) - 2)
    low, high = (explained[f"inverse_temperature_{end}"].values for end in ("low", "high"))
    beta = explained["inverse_temperature"].values
    assert ((low <= beta) & (beta <= high) | np.isnan(beta)).all() and np.isfinite(beta[1]).all()


def test_heads_that_cannot_be_explained_have_a_note():
    data = random_heads([1.0, 1.0, 1.0], 1, n_tokens=5, d_head=3)
    data["k"][:, :, 0] = 0  # all logits alike
    found = run_stage(explain, data, SETTINGS | {"heads": [[0, 0], [0, 1]]})
    check(describe(found, "explanation"), "explanation", "here")
    assert "temperature: the data leave a parameter open" in str(found["note"].values[0, 0, 0])
    assert found["note"].values[0, 0, 2] == "not run"
    alone = found.sel(head=0)
    assert np.isnan(alone["inverse_temperature"].sel(explanation="temperature")).all()
    assert alone["delta_aic"].sel(explanation="temperature").isnull().all()
    assert found["sigma_squared"].isnull().values.tolist() == [[False, False, True]]
    assert np.isnan(found["reach_shift"]) and "needed" in str(found["reach_shift_note"].values)


def test_one_network_has_estimates_without_intervals():
    data = random_heads([1.0, 6.0], 1, n_tokens=8, d_head=4)
    found = run_stage(explain, data, SETTINGS | {"n_features": [50], "n_seeds": 1})
    one = found.sel(explanation="temperature")
    assert one["inverse_temperature"].notnull().all()
    assert one["inverse_temperature_low"].isnull().all()


def test_a_shift_at_the_end_of_its_range_is_none():
    """Inverse temperatures above 1 are nearest to the prediction at any large shift."""
    log_m, sigma_squared = np.log([10, 100, 1000]), np.array([9.0, 16.0])
    shift, note = prediction.fitted_shift(log_m, sigma_squared, np.full((3, 2), 1.2))
    assert np.isnan(shift).all() and "no shift between" in note


def test_the_figure_draws_what_was_found(explained, tmp_path):
    for fits in (
        {"a": explained},
        {str(i): explained.assign_attrs(data=f"x $^$ {i}") for i in range(4)},
    ):
        figure = effective_temperature(fits)
        job.save_figure(figure, [tmp_path / "effective_temperature.svg"], {})
    figure = effective_temperature({"a": explained})
    points = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    beta = explained["inverse_temperature"].sel(explanation="temperature").squeeze().values
    np.testing.assert_array_equal([line.get_ydata() for line in points], beta.T)
    plt.close("all")
