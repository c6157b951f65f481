"""Where a transformer breaks: predictions beside plain loops and planted laws, growth of errors."""

import math
from functools import partial

import numpy as np
import pytest
from scipy.stats import spearmanr

from tripartite.kinds.rebuilt import damage
from tripartite.statistics import over_clusters
from tripartite.streams import stream

RNG = partial(stream, 2023, "test damage")
INPUTS, LAYERS, SEEDS, HEADS = 4, 9, 3, 2
PARTS = ["all", *map("layer {}".format, range(LAYERS))]
N_FEATURES = [100, 1000]
RECIPES = 2


def planted(law, noise=0.0):
    """Arguments of variables() in which the damage of a layer is a law of its expected error."""
    rng = RNG("planted")
    size = rng.uniform(0.1, 1, (INPUTS, LAYERS))
    needed = rng.uniform(2, 6, (RECIPES, LAYERS, HEADS))
    expected = damage.expected_error(needed, N_FEATURES)
    shape = RECIPES, len(N_FEATURES), SEEDS, len(PARTS), INPUTS
    score = np.ones(shape)
    state_error = np.zeros((*shape, LAYERS))
    for layer in range(LAYERS):
        x = size[:, layer] * expected[..., None, None, layer]  # [recipe, n_features, 1, input]
        done = law(x) + noise * rng.standard_normal(shape[:3] + (INPUTS,))
        score[:, :, :, 1 + layer] = 1 + done
        state_error[:, :, :, 1 + layer, :, layer:] = np.abs(done)[..., None]
    score[:, :, :, 0] = score[:, :, :, 1:].sum(3) + 1 - LAYERS
    equal = {
        "score": rng.uniform(1, 2, shape[3:]),
        "state_error": rng.uniform(0, 1, (*shape[3:], LAYERS)),
    }
    return dict(
        parts=PARTS,
        n_features=N_FEATURES,
        score=score,
        state_error=state_error,
        equal=equal,
        size=size,
        needed=needed,
        measure="bits_per_character",
        exact=np.ones(INPUTS),
        rng=RNG,
    )


@pytest.fixture(scope="module")
def lawful():
    return planted(lambda x: 0.3 + 2 * x)


@pytest.fixture(scope="module")
def found(lawful):
    return damage.variables(**lawful)


def test_a_planted_law_is_found_on_layers_and_inputs_that_were_held_out(found):
    place = damage.PREDICTORS.index(damage.EXPECTED)
    for name in ("prediction_r2", "prediction_rank"):
        for of_all in found[name]:  # with both ends
            np.testing.assert_allclose(of_all[:, place], 1, rtol=1e-9)
    predicted = found["predicted_damage"][:, place]
    np.testing.assert_allclose(predicted, found["layer_damage"][0], rtol=1e-9)
    for rival in ("layer", "equal"):
        assert (found["prediction_r2"][2][:, damage.PREDICTORS.index(rival)] < 1).all()
    constant = found["prediction_r2"][0][:, damage.PREDICTORS.index("mean")]
    assert constant.mean() < 0
    assert np.isnan(found["prediction_rank"][0][:, damage.PREDICTORS.index("mean")]).all()


def test_noise_is_predicted_no_better_than_by_a_constant():
    noise = planted(lambda x: 0 * x, noise=1.0)
    r2, low, _ = damage.variables(**noise)["prediction_r2"]
    assert r2[0].mean() < 0
    assert (low[0] < 0).all()


def test_a_law_of_the_wrong_sign_predicts_no_better_than_a_constant():
    """Where damage falls with the expected error, the closed form is refuted, not confirmed."""
    found = damage.variables(**planted(lambda x: 3 - 2 * x))
    expected, constant = map(damage.PREDICTORS.index, (damage.EXPECTED, "mean"))
    r2 = found["prediction_r2"][0]
    np.testing.assert_allclose(r2[0, expected], r2[0, constant], rtol=1e-9)
    np.testing.assert_allclose(found["prediction_rank"][0][:, expected], -1, rtol=1e-9)


def test_inputs_in_which_layers_do_not_differ_have_no_order():
    x, y = RNG("flat").standard_normal((2, INPUTS, LAYERS))
    y[1] = 0.5
    ranks = [spearmanr(x[i], y[i]).statistic for i in range(INPUTS) if i != 1]
    assert damage.rank_correlation(np.stack([y, x], 2)) == pytest.approx(np.mean(ranks), rel=1e-12)
    assert np.isnan(damage.rank_correlation(np.stack([0 * y, x], 2)))


def test_held_out_against_a_plain_loop():
    x, y = RNG("loop").standard_normal((2, INPUTS, LAYERS))
    found = damage.held_out(x, y)
    for i in range(INPUTS):
        for layer in range(LAYERS):
            pairs = [
                (x[a, b], y[a, b])
                for a in range(INPUTS)
                for b in range(LAYERS)
                if a != i and b != layer
            ]
            b, a = np.polyfit(*zip(*pairs), 1)
            assert found[i, layer] == pytest.approx(a + b * x[i, layer], rel=1e-9)
    pairs = np.stack([y, found], 2)
    total = sum((y[i, j] - y.mean()) ** 2 for i in range(INPUTS) for j in range(LAYERS))
    left = sum((y[i, j] - found[i, j]) ** 2 for i in range(INPUTS) for j in range(LAYERS))
    assert damage.unexplained(pairs) == pytest.approx(left / total, rel=1e-12)
    ranks = [spearmanr(one, other).statistic for one, other in zip(y, found)]
    assert damage.rank_correlation(pairs) == pytest.approx(np.mean(ranks), rel=1e-12)


def test_what_is_held_out_is_not_seen():
    x, y = RNG("unseen").standard_normal((2, INPUTS, LAYERS))
    before = damage.held_out(x, y)
    changed = y.copy()
    changed[1, :] += RNG("change").standard_normal(LAYERS)  # an input
    changed[:, 4] += 100  # a layer
    assert damage.held_out(x, changed)[1, 4] == pytest.approx(before[1, 4], rel=1e-12)


def test_expected_errors_of_heads_by_hand():
    needed = np.array([[[4.0, 4.0], [3.0, 9.0], [0.0, 0.0]]])  # [recipe, layer, head]
    found = damage.expected_error(needed, [100, 1_000_000])
    few = [1, math.sqrt((0.01 * 1000 / 100 + 1) / 2), math.sqrt(0.01 / 100)]
    many = [math.sqrt(0.01 * 1e4 / 1e6), math.sqrt((0.01 * 1e3 / 1e6 + 1) / 2), 1e-4]
    np.testing.assert_allclose(found, [[few, many]], rtol=1e-12)


def test_damage_is_positive_where_a_measure_gets_worse(lawful, found):
    up = found["layer_damage"][0][0]
    falling = lawful | {
        "measure": "embedding_cosine",
        "score": 2 - lawful["score"],
        "equal": lawful["equal"] | {"score": 2 - lawful["equal"]["score"]},
    }
    np.testing.assert_allclose(damage.variables(**falling)["layer_damage"][0][0], up, rtol=1e-12)
    assert (up > 0).all()


def test_added_damage_is_that_of_all_where_layers_do_not_interact(lawful, found):
    added = found["added_damage"][0]
    of_all = lawful["score"][:, :, :, 0].mean((2, 3)) - 1
    np.testing.assert_allclose(added[0], of_all, rtol=1e-12)
    layers = lawful["state_error"][:, :, :, 1:, :, -1]  # [recipe, n_features, seed, layer, input]
    np.testing.assert_allclose(added[1], np.sqrt((layers**2).sum(3)).mean((2, 3)), rtol=1e-12)


@pytest.mark.parametrize("first", [0, 3])
def test_growth_of_errors_that_grow_by_a_factor(first):
    factors = RNG("growth").lognormal(0, 0.1, (INPUTS, SEEDS, 1))
    layers = np.arange(LAYERS)
    errors = np.where(layers >= first, 0.02 * factors * 1.3 ** (layers - first), 0)
    for end in over_clusters(damage.growth, errors, [None, None], RNG("ends"), "log", n_draws=20):
        assert end == pytest.approx(1.3, rel=1e-9)
    mean = errors.mean((0, 1))
    np.testing.assert_allclose(damage.grown(mean)[first:], mean[first:], rtol=1e-9)
    assert np.isnan(damage.grown(mean)[:first]).all()


def test_growth_against_a_fit_of_logs():
    errors = RNG("fit").lognormal(0, 1, (INPUTS, SEEDS, LAYERS))
    slope = np.polyfit(range(LAYERS), np.log(errors.mean((0, 1))), 1)[0]
    assert damage.growth(errors) == pytest.approx(math.exp(slope), rel=1e-9)


def test_no_growth_from_one_layer():
    errors = np.zeros((INPUTS, SEEDS, LAYERS))
    errors[..., -1] = 0.1
    assert np.isnan(damage.growth(errors))


def test_layers_that_are_not_replaced_alone_have_no_damage(lawful):
    parts = ["all", "first 2"]
    some = lawful | {
        "parts": parts,
        "score": lawful["score"][:, :, :, :2],
        "state_error": lawful["state_error"][:, :, :, :2],
        "equal": {name: x[:2] for name, x in lawful["equal"].items()},
    }
    found = damage.variables(**some)
    for name in ("layer_damage", "prediction_r2", "prediction_rank", "added_damage"):
        assert all(np.isnan(x).all() for x in found[name]), name
    assert np.isnan(found["predicted_damage"]).all()
