"""A parse of the Snakefile, without Snakemake: command line, targets, inputs, resources, log."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import ROOT
from tripartite import declarations, memory, plan, snakefile, study

MACHINE = {
    "study": "quick",
    "device": "cpu",
    "memory_gb": 8,
    "shards": 1,
    "file": "",
    "other": "",
}


def wildcards(**names):
    return SimpleNamespace(**{"study": "quick"} | names)


@pytest.fixture
def parsed(monkeypatch):
    monkeypatch.chdir(ROOT)
    chosen = study.load_study("quick", Path("."), MACHINE)
    own = {name: ROOT / name for name in (ROOT / "workflow/files.txt").read_text().split()}
    own["workflow/scripts/share.py"] = ROOT / "workflow/scripts/stage.py"  # not where it should be
    return snakefile.Parsed(dict(MACHINE), chosen, "results", own)


def line(*targets, **options):
    plain = dict.fromkeys(
        ("report", "report_after_run", "unlock", "summary", "detailed_summary", "executor")
    )
    return SimpleNamespace(**plain | {"targets": {*targets}} | options)


def test_the_command_line_is_read_as_snakemake_reads_it():
    assert snakefile.command_line(["pytest", "verify"]) is None
    given = snakefile.command_line(["/bin/snakemake", "--cores", "1", "verify", "x/y.nc"])
    assert {*given.targets} == {"verify", "x/y.nc"} and given.cores == 1
    assert snakefile.command_line(["snakemake", "--no-such-option"]) is None


@pytest.mark.parametrize(
    ("given", "looks"),
    [
        (None, False),
        (line(), False),
        (line("verify"), True),
        (line("verify", "compare"), True),
        (line("verify", "all"), False),
        (line(report="x.html"), True),
        (line(report="x.html", report_after_run=True), False),
        (line(unlock=True), True),
    ],
)
def test_what_only_looks_runs_no_stage(given, looks):
    assert snakefile.only_looks(given) is looks


@pytest.mark.parametrize(
    ("nodes", "remote", "executor", "away"),
    [
        (None, False, "slurm", False),
        (4, False, None, False),
        (4, False, "slurm", True),
        (4, False, "local", False),
        (None, True, None, True),
    ],
)
def test_jobs_go_away_by_the_executor(nodes, remote, executor, away):
    workflow = SimpleNamespace(remote_exec=remote, resource_settings=SimpleNamespace(nodes=nodes))
    assert snakefile.sends_jobs_away(workflow, lambda: line(executor=executor)) is away


def test_texts_are_as_they_were_typed():
    config = {"study": 7, "other": 1e3, "shards": 2}
    typed = snakefile.typed_config(config, ["study=007", "other=1e3", "shards=2"], True)
    assert typed == {"study": "007", "other": "1e3", "shards": 2}
    assert snakefile.typed_config(config, ["study=007"], False) == config
    assert snakefile.typed_config({"study": "quick"}, None, True) == {"study": "quick"}


def test_folders_that_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert snakefile.usable(f"{tmp_path}/a/b/c")
    assert not snakefile.usable(f"{tmp_path}/file/x") and not snakefile.usable(f"{tmp_path}/gone")


def test_a_fault_is_read_from_the_end_of_a_log(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("fit: 10 %\nerror: old\nagain\nerror: x: is missing\nmore of it\n")
    assert snakefile.reported_fault(log, 0) == ["error: x: is missing", "more of it"]
    assert snakefile.reported_fault(log, time.time() + 60) == []
    assert snakefile.reported_fault(tmp_path / "none.log", 0) == []
    log.write_text("all is well\n")
    assert snakefile.reported_fault(log, 0) == []


@pytest.mark.parametrize("cluster", [False, True])
def test_the_log_shows_no_command_where_a_fault_was_reported(tmp_path, cluster):
    log = tmp_path / "fit.log"
    log.write_text("error: x: is missing\n")
    calm = snakefile.log_filter(True, cluster, "python -E -s", 0)
    event = SimpleNamespace(name="JOB_ERROR")
    record = SimpleNamespace(
        event=event,
        shellcmd="python -E -s stage.py fit",
        log=[f"{log} (check)"],
        rule_msg="Fit.",
        msg="",
    )
    assert calm(record)
    assert record.shellcmd is None
    assert (
        record.rule_msg == f"Fit.\n{'error: x: is missing' if cluster else 'see the error above'}"
    )
    text = f"Command 'python -E -s stage.py fit 2>&1 | tee {log}' returned non-zero exit status 1."
    assert not calm(SimpleNamespace(event=None, msg=text))
    assert calm(SimpleNamespace(event=None, msg=text.replace(str(log), "other.log")))
    foreign = SimpleNamespace(event=event, shellcmd="python own.py", log=[log], rule_msg="", msg="")
    assert calm(foreign) and foreign.shellcmd == "python own.py"
    every = SimpleNamespace(event=SimpleNamespace(name="JOB_INFO"), rule_name="all", msg="")
    assert calm(every) and every.input == []


def test_resources_double_and_follow_the_plan(parsed):
    assert [snakefile.doubling(60)(None, n) for n in (1, 2, 3)] == [60, 120, 240]
    assert snakefile.memory_mb([]) == snakefile.UNKNOWN_MB
    assert snakefile.memory_mb([memory.Array(10, "", "")]) == snakefile.MIN_MB
    arrays = [memory.Array(6_000_000_000, "a", ""), memory.Array(1_900_000_000, "b", "", True)]
    assert snakefile.memory_mb(arrays) == 1000 + 9875
    assert snakefile.memory_mb(arrays, 3) == 1000 + 7500 + 3 * 2375
    named = wildcards(experiment="albert")
    states, fit = (declarations.files()[name] for name in ("states", "fit"))
    asked = [parsed.memory(states)(named, n, 1) for n in (1, 2)]
    assert asked[1] == 2 * asked[0] >= 2 * snakefile.MIN_MB
    parsed.machine["device"] = "cuda"
    assert parsed.memory(states)(named, 1, 1) == asked[0] + snakefile.CUDA_MB
    assert parsed.memory(fit)(named, 1, 1) == asked[0]


def test_data_whose_sizes_are_not_known_ask_for_what_is_usual(parsed):
    """As of a user's file that is gone, or where Snakemake's Python cannot read it."""
    network = {"n_features": [10], "n_seeds": 2}
    parsed.chosen["experiments"]["mine"] = {"data": {"file": "gone.nc"}, "network": network}
    states = declarations.files()["states"]
    asked = parsed.memory(states)(wildcards(experiment="mine"), 2, 1)
    assert asked == 2 * snakefile.UNKNOWN_MB


def test_every_kind_asks_for_the_memory_that_its_plan_needs():
    """A plan that memory_gb allows is not killed by the first request of a scheduler."""
    default = study.load_study("default", ROOT, {"memory_gb": 8})
    for name, experiment in default["experiments"].items():
        arrays = study.memory_needed(name, default, ROOT)
        if "task" in experiment["data"]:
            assert arrays == []  # networks that are trained from scratch are small
            continue
        assert arrays == sorted(arrays, reverse=True)
        assert snakefile.memory_mb(arrays) * 1e6 > arrays[0].size + 9e8


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("results/quick/albert/qkv.nc", ""),
        ("results/quick/figures/trace.svg", ""),
        ("elsewhere/x.nc", ""),
        ("results/quick/x.nc", ""),
        ("results/quick/figures/trac.svg", "study quick has no figure trac; it has "),
        ("results/quick/nobody/qkv.nc", "study quick has no experiment nobody; it has "),
        (
            "results/quick/albert/learned.nc",
            "experiment albert of study quick has qkv.nc, attention.nc, states.nc, fit.nc",
        ),
        (
            "results/quick/albert-balanced/qkv.nc",
            "albert-balanced shares the data of albert; ask for results/quick/albert/qkv.nc",
        ),
    ],
)
def test_targets_that_no_study_has(parsed, target, fault):
    found = parsed.target_fault(Path(target))
    assert fault in found and bool(found) == bool(fault)


def test_inputs_are_those_of_the_owner(parsed):
    named = wildcards(experiment="albert-balanced")
    assert parsed.reads("qkv", "attention")(named) == [
        f"<results>/quick/albert/{name}.nc" for name in ("qkv", "attention")
    ]
    assert parsed.drawn(wildcards(figure="symmetries")) == [
        f"<results>/quick/{name}/symmetries.nc"
        for name in parsed.chosen["figures"]["symmetries"]["experiments"]
    ]
    assert parsed.simulated(named) == parsed.reads("qkv", "attention")(named)
    assert parsed.gathered(named, None) == ""
    (wheel,) = parsed.reads("raw")(wildcards(experiment="albert"))
    assert str(wheel) == "<resources>/wheels/rxnmapper-0.4.3.whl"
    files = parsed.study_files()
    assert len(files) == len({*files}) and "<results>/quick/figures/trace.svg" in files


def test_shards_stand_in_the_place_of_the_attention(parsed):
    parsed.machine["shards"] = 3
    named = wildcards(experiment="albert")
    qkv, whole = parsed.simulated(named)
    assert str(whole) == "<results>/quick/albert/shards/3/states.nc"
    assert whole.flags["sourcecache_entry"] == "results/quick/albert/attention.nc"
    input = SimpleNamespace(data=[qkv, "results/quick/albert/shards/3/states.nc"])
    assert parsed.gathered(named, input) == "--shards results/quick/albert/shards/3/states.nc"


def test_parameters_of_a_job(parsed):
    named = wildcards(experiment="albert")
    settings = json.loads(parsed.settings("states")(named))
    assert settings == plan.settings(parsed.chosen, "albert", "states", Path("results/quick"))
    assert settings["data_of"] == "albert" and "n_features" in settings
    assert parsed.script("stage")(None, None) == "workflow/scripts/stage.py"
    assert parsed.script("share")(None, None) == str(ROOT / "workflow/scripts/stage.py")
    texts = parsed.raw_files("qkv")(named, None)
    assert texts and all(Path(text).suffix == ".smi" for text in texts)
    assert parsed.raw_files("states")(named, None) == []
    labels = parsed.labels("svg")(wildcards(study="quick", figure="trace"))
    assert labels["question"] == declarations.figures()["trace"].question
    names = declarations.in_order(parsed.chosen["figures"])
    assert int(labels["no"]) == names.index("trace") + 1
    packed = [Path(path) for path in parsed.packed(named, None)]
    assert packed[-1].name == "quick.yaml" and ROOT / "config/studies/full.yaml" in packed
    assert len(parsed.packed_content(named)) == len(packed) + len(parsed.own_files) + 2
    assert parsed.options() == "--study quick --results results/quick"


def test_names_that_do_not_exist_stop_with_the_known_ones(parsed):
    with pytest.raises(
        SystemExit, match="nobody: study quick has no experiment nobody; it has synth"
    ):
        parsed.named(wildcards(experiment="nobody"), "experiment")
    with pytest.raises(SystemExit, match="config: study: 'nothing' is unknown; choose one of"):
        parsed.study("nothing")


def test_what_to_compare_with_must_be_there(parsed, tmp_path):
    with pytest.raises(SystemExit, match="other: is missing; add the archive or folder"):
        parsed.other_results(None)
    parsed.machine["other"] = str(tmp_path / "theirs.zip")
    with pytest.raises(SystemExit, match="theirs.zip'?: there is no such archive or folder"):
        parsed.other_results(None)
    parsed.machine["other"] = str(tmp_path)
    assert parsed.other_results(None) == str(tmp_path)


def test_a_faulty_configuration_stops_with_its_lines(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = {"study": "quick", "shards": 0}
    with pytest.raises(
        SystemExit, match="The configuration has faults; nothing was run.\nconfig: sha"
    ):
        snakefile.checked_config(config, False, True, "results", lambda: None)


def test_too_large_a_study_may_be_looked_at(monkeypatch, tmp_path):
    """Its memory is checked only if stages run."""
    monkeypatch.chdir(tmp_path)
    config = {"study": "quick", "memory_gb": 0.001}
    with pytest.raises(SystemExit, match="memory_gb allows"):
        snakefile.checked_config(config, False, True, "results", lambda: line())
    machine, chosen = snakefile.checked_config(
        config, False, True, "results", lambda: line("verify")
    )
    assert machine["memory_gb"] == 0.001 and "albert" in chosen["experiments"]
    assert os.listdir(tmp_path) == []
