"""Costs of a token: counts by enumeration, energies by hand, numbers as they were published."""

from collections import Counter

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from conftest import assert_drawn_alike
from test_sources import tables
from tripartite.figures.biology import BIOLOGY
from tripartite.kinds.comparison.dynamic_range import CORTEX
from tripartite.kinds.rebuilt import cost_of_token as costs
from tripartite.kinds.rebuilt.cost import answer, cost, table
from tripartite.kinds.rebuilt.cost_of_token import PUBLISHED, SYNAPSES, Sizes

TINY = Sizes(layers=2, heads=4, key_heads=2, d_head=2, d_value=3, d_model=5, width=7, gated=True)
ALBERT = Sizes(12, 8, 8, 32, 32, 256, 512, gated=False)
SMOLLM2 = Sizes(30, 9, 3, 64, 64, 576, 1536, gated=True)
SIZES = st.builds(Sizes, *[st.integers(1, 50)] * 7, gated=st.booleans())
FEATURES = st.floats(1, 1e12)


def wired(sizes, m):
    """Every synapse as (part, neuron before it), and the passes in which each neuron fires."""
    found, fires = [], {}

    def connect(part, before, after, passes):
        for i in before:
            fires[i] = passes
            found.extend((part, i) for _ in after)

    for layer in range(sizes.layers):
        states = [(layer, "states", i) for i in range(sizes.d_model)]
        middle = [(layer, "middle", i) for i in range(sizes.d_model)]
        wide = [(layer, "wide", i) for i in range(sizes.width)]
        outputs = []
        for head in range(sizes.heads):
            name = (layer, head)
            inputs = [(*name, "input", i) for i in range(sizes.d_head)]
            hidden = [(*name, "hidden", i) for i in range(m)]
            output = [(*name, "output", i) for i in range(sizes.d_value)]
            connect("projections", states, inputs, 1)  # queries
            if head % (sizes.heads // sizes.key_heads) == 0:
                connect("projections", states, inputs, 1)  # keys
                connect("projections", states, output, 1)  # values
            connect("input_to_hidden", inputs, hidden, 2)
            connect("hidden_to_output", hidden, output, 2)
            connect("hidden_to_astrocyte", hidden, ["astrocyte"], 2)
            outputs += output
        connect("projections", outputs, middle, 1)
        for _ in range(2 if sizes.gated else 1):
            connect("feed_forward", middle, wide, 1)
        connect("feed_forward", wide, states, 1)
    return found, fires


@pytest.mark.parametrize("sizes", [TINY, TINY._replace(key_heads=4, gated=False)])
def test_counts_of_an_enumerated_network(sizes):
    m = 6
    found, fires = wired(sizes, m)
    of_parts = Counter(part for part, _ in found)
    events = Counter()
    for part, before in found:
        events[part] += fires[before]
    hidden = [name for name in fires if "hidden" in name]
    spikes = costs.spikes_per_pass()
    np.testing.assert_equal(costs.synapses(sizes, m), [of_parts[part] for part in SYNAPSES])
    assert costs.hidden_neurons(sizes, m) == len(hidden)
    assert costs.other_neurons(sizes) == len(fires) - len(hidden)
    assert costs.astrocyte_processes(sizes, m) == of_parts["hidden_to_output"]
    expected = np.outer(spikes, [events[part] for part in SYNAPSES])
    np.testing.assert_allclose(costs.events(sizes, m), expected, rtol=1e-14)
    fired = sum(fires.values())
    np.testing.assert_allclose(costs.spikes(sizes, m), spikes * fired, rtol=1e-14)
    assert costs.network_operations(sizes, m) == 2 * sum(events.values())


def test_numbers_by_hand():
    """SmolLM2: 30 layers of nine heads, m = 1000 in each."""
    static = 30 * (576 * (576 + 192 + 192 + 576) + 3 * 576 * 1536)
    assert static == 106_168_320
    assert costs.synapses(SMOLLM2, 0).sum() == static
    assert costs.synapses(SMOLLM2, 1000).sum() == static + 270 * 1000 * 129
    events = 0.01 * (static + 2 * 270 * 1000 * 129)
    # 4.1e4 molecules of ATP for transmission and 1.17e8 / 8000 for the axon, 8.3e-20 J each
    low = events * (4.1e4 + 14625) * 8.3027e-20
    np.testing.assert_allclose(costs.tissue_energy(SMOLLM2, 1000)[0], low, rtol=1e-4)
    np.testing.assert_allclose(low, 8.12e-9, rtol=1e-3)
    neuromorphic = costs.neuromorphic_energy(SMOLLM2, 1000)[0]
    np.testing.assert_allclose(neuromorphic, events * 23.6e-12, rtol=1e-12)
    softmax = costs.softmax_operations(SMOLLM2, 1000)
    assert softmax == 2 * static + 270 * 1000 * 4 * 64
    np.testing.assert_allclose(
        costs.chip_energy(softmax), [x * softmax for x in (700 / 989e12, 4 / 130e9)]
    )
    np.testing.assert_allclose(costs.brain_energy(), [0.831, 6.557], rtol=1e-3)


@given(SIZES, FEATURES)
def test_costs_rise_with_neurons_and_from_low_to_high(sizes, m):
    for energy in (costs.tissue_energy, costs.neuromorphic_energy):
        few, many = energy(sizes, m), energy(sizes, 2 * m)
        assert (few < many).all() and few[0] < few[1] and many[0] < many[1]
    low, high = costs.chip_energy(costs.network_operations(sizes, m))
    assert low < high


@given(SIZES, FEATURES)
def test_even_context(sizes, m):
    """There both take the same number of operations; with twice the tokens softmax takes more."""
    even = costs.even_context(sizes, m)
    network = costs.network_operations(sizes, m)
    np.testing.assert_allclose(costs.softmax_operations(sizes, even), network, rtol=1e-12)
    assert costs.softmax_operations(sizes, 2 * even) > network > costs.softmax_operations(sizes, 0)


@given(SIZES)
def test_affordable_features(sizes):
    """With so many neurons a token costs as much as a word."""
    low, high = costs.affordable_features(sizes)
    budget = costs.brain_energy()
    np.testing.assert_allclose(costs.tissue_energy(sizes, 10**low)[0], budget[1], rtol=1e-9)
    np.testing.assert_allclose(costs.tissue_energy(sizes, 10**high)[1], budget[0], rtol=1e-9)
    assert high < low


@given(SIZES)
def test_cortical_features(sizes):
    """With so many there are as many neurons, or synapses, as in a cortex."""
    neurons, synapses = 10 ** costs.cortical_features(sizes)
    np.testing.assert_allclose(costs.hidden_neurons(sizes, neurons), 1.6e10, rtol=1e-9)
    np.testing.assert_allclose(costs.synapses(sizes, synapses).sum(), 1.5e14, rtol=1e-9)


def test_too_large_for_a_brain():
    huge = SMOLLM2._replace(d_model=10**8, width=10**8)
    assert np.isnan(costs.affordable_features(huge)).all()
    neurons, synapses = costs.cortical_features(huge)
    assert np.isfinite(neurons) and np.isnan(synapses)


def test_spikes_of_log_uniform_rates():
    rates = np.exp(np.linspace(np.log(0.15), np.log(16), 100_001))
    mean = np.trapezoid(rates, np.log(rates)) / np.log(16 / 0.15)
    np.testing.assert_allclose(costs.spikes_per_pass(), [0.01, mean / 0.15], rtol=1e-6)


def test_sizes_of_weights():
    """Of a layer with shared keys and a gate, and of one with neither."""
    shapes = {"query": (8, 5), "key": (4, 5), "value": (6, 5), "up": (7, 5), "gate": (7, 5)}
    layer = {f"{name}.weight": np.empty(shape) for name, shape in shapes.items()}
    assert costs.sizes_of(2, 4, layer) == TINY
    plain = {"query.weight": 8, "key.weight": 8, "value.weight": 12, "up.weight": 7}
    layer = {name: np.empty((rows, 5)) for name, rows in plain.items()}
    assert costs.sizes_of(2, 4, layer) == TINY._replace(key_heads=4, gated=False)


def test_published_numbers_agree_with_abstracts():
    """Shares of Attwell and Laughlin (2001) and of Howarth et al. (2012); power of a cortex.

    2001: of 3.29e9 molecules of ATP per s and neuron at 4 Hz, 47 % are for spikes and 13 % for
    rest. 2012: 21 % for spikes, 50, 5 and 4 % for transmission.
    """
    total, rate = 3.29e9, 4
    transmission = (
        PUBLISHED["synapses of a neuron"]
        * PUBLISHED["release by a spike"]
        * PUBLISHED["ATP for a vesicle"]
    )
    spikes = rate * PUBLISHED["ATP for a spike, 2001"] / total
    assert spikes == pytest.approx(0.47, abs=0.005)
    assert rate * transmission / total == pytest.approx(1 - 0.47 - 0.13, abs=0.005)
    later = transmission * 21 / (50 + 5 + 4)
    assert PUBLISHED["ATP for a spike, 2012"] == pytest.approx(later, rel=0.01)
    joules = total * PUBLISHED["free energy of ATP"] / costs.AVOGADRO
    cortex = PUBLISHED["neurons of the cortex"] * joules
    assert PUBLISHED["power of cortical signals"] < cortex < PUBLISHED["power of the brain"]


def test_numbers_are_those_of_the_page_and_of_other_figures():
    rows = tables()["Energy"]
    assert {row["number"]: float(row["value"]) for row in rows} == PUBLISHED
    assert PUBLISHED["neurons of the cortex"] == BIOLOGY["human cortex"]
    decades = np.log10(PUBLISHED["highest rate"] / PUBLISHED["lowest rate"])
    assert decades == pytest.approx(CORTEX[0])


DIMS = {
    "cost_hidden_neurons": "log10_features",
    "cost_other_neurons": "",
    "cost_astrocyte_processes": "log10_features",
    "cost_synapses": "synapse log10_features",
    "cost_spikes": "estimate log10_features",
    "cost_events": "estimate synapse log10_features",
    "cost_tissue": "estimate log10_features",
    "cost_neuromorphic": "estimate log10_features",
    "cost_chip": "estimate log10_features",
    "cost_chip_softmax": "estimate context",
    "cost_even_context": "log10_features",
    "cost_brain": "estimate",
    "log10_affordable_features": "estimate",
    "log10_cortical_neurons": "",
    "log10_cortical_synapses": "",
}


def drawn_from(sizes, needs, title):
    """A file with costs and with needs of heads by their recipes, each [layer, head]."""
    found = {
        name: (tuple(DIMS[name].split()), values) for name, values in costs.variables(sizes).items()
    }
    coords = {name: [*values] for name, values in costs.AXES.items()} | {"recipe": [*needs]}
    found["log10_features_needed"] = (("recipe", "layer", "head"), np.stack([*needs.values()]))
    return xr.Dataset(found, coords, {"data": title})


def test_answer_counts_heads_for_which_a_cortex_has_neurons():
    """ALBERT: a cortex has neurons for 10^8.22 in each head."""
    plain, fitted = np.full((12, 8), 30.0), np.full((12, 8), 8.0)
    plain[0, :4] = 6.7, 6.8, 8.3, 13.0
    needs = {"plain": plain, "balanced": plain - 1, "fitted": fitted, "learned": plain * np.nan}
    said = answer({"a": drawn_from(ALBERT, needs, "ALBERT")})
    assert "2 of 96 plain and 96 of 96 fitted heads (ALBERT)" in said
    assert "no head" in answer({"a": drawn_from(ALBERT, {"learned": plain * np.nan}, "ALBERT")})
    fit = drawn_from(ALBERT, {"plain": plain}, "ALBERT")
    assert "2 of 96 plain heads (ALBERT)" in answer({"a": fit})
    low, high = fit["cost_tissue"].sel(log10_features=4).values
    written = (f"{x:.0e}".replace("e-0", " × 10^-") for x in (low, high))
    assert f"{' to '.join(written)} J in living tissue" in answer({"a": fit})


def test_table_has_the_numbers_of_the_file():
    needs = np.linspace(3, 20, 96).reshape(12, 8)
    fit = drawn_from(ALBERT, {"plain": needs}, "ALBERT")
    rows = table({"a": fit}).set_index("quantity")
    for name in ("cost_tissue", "cost_neuromorphic", "cost_chip"):
        assert [*rows.loc[name, ["low", "high"]]] == [*fit[name].sel(log10_features=4).values]
    assert [*rows.loc["cost_brain", ["low", "high"]]] == [*fit["cost_brain"].values]
    np.testing.assert_array_equal(rows.loc["head", "log10_features_needed"], needs.ravel())
    limits = rows.loc["energy", ["low", "high"]]
    assert [*limits] == [*fit["log10_affordable_features"].values[::-1]]


def test_figure(tmp_path):
    rng = np.random.default_rng(0)
    few, many = rng.normal(6, 2, (12, 8)), rng.normal(30, 9, (30, 9))
    fits = {
        "albert": drawn_from(ALBERT, {"plain": few}, "ALBERT"),
        "smollm2": drawn_from(SMOLLM2, {"plain": many, "fitted": many / 4}, "SmolLM2 (4-bit)"),
    }
    assert_drawn_alike(cost, fits, tmp_path)


def test_needs_beyond_the_axis_stand_at_its_end_and_are_counted():
    needs = np.linspace(-1, 94, 96).reshape(12, 8)
    axis = cost({"a": drawn_from(ALBERT, {"plain": needs}, "ALBERT")}).axes[1]
    marks = next(line for line in axis.lines if len(line.get_xdata()) == 96)
    expected = [0, *np.arange(25), *[25] * 70]
    np.testing.assert_allclose(marks.get_xdata(), expected, atol=1e-9)
    assert axis.get_xlabel().endswith("69 of 96 heads beyond")
