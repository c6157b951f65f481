"""The metadata of an archive: how each file was made, held against the profiles that it names."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import rocrate
from rocrate.rocrate import ROCrate

import test_nanopublications
from conftest import ROOT
from test_sharing import made, study, unpacked
from tripartite import crate, job, plan, sharing

# In a process of its own: the validator is not made to be imported with warnings as errors. It
# fetches two contexts of JSON-LD: here they come from a cache that is filled from files.
VALIDATE = """
import json, sys
from io import BytesIO
import requests, requests_cache, urllib3
folder, cache = sys.argv[1:]
contexts = json.load(sys.stdin)

class Files(requests.adapters.BaseAdapter):
    def send(self, request, **options):
        content = BytesIO(json.dumps(contexts[request.url]).encode())
        answer = requests.Response()
        answer.url, answer.request, answer.status_code = request.url, request, 200
        answer.headers["content-type"] = "application/ld+json"
        answer.raw = urllib3.HTTPResponse(
            content, status=200, preload_content=False, headers=answer.headers
        )
        return answer

    def close(self):
        pass

with requests_cache.CachedSession(cache, backend="sqlite", expire_after=-1) as session:
    session.mount("https://", Files())
    for url in contexts:
        session.get(url)

from rocrate_validator import models, services
settings = services.ValidationSettings(
    rocrate_uri=folder, profile_identifier="provenance-run-crate", offline=True, cache_path=cache,
    requirement_severity=models.Severity.RECOMMENDED,
)
found = services.validate(settings)
issues = [[x.severity.name, x.check.identifier, x.message] for x in found.get_issues()]
print(json.dumps([len(found.executed_checks), len(found.skipped_checks), issues]))
"""
CONTEXT_1_1 = {  # where RO-Crate 1.1 differs from 1.3, whose context the library brings
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
    "FormalParameter": "https://bioschemas.org/FormalParameter",
}
RUN = {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}
NOT_SAID = {  # who ran it and when, which results do not record; addresses of software
    "The Action SHOULD have an endTime in ISO 8601 format",
    "The Action SHOULD have an agent that is a Person or Organization",
    "The Application SHOULD have a url",
    "The SoftwareApplication id SHOULD be an absolute URI",
    "The Root Data Entity SHOULD have a link to a Contextual Entity representing the `author` of "
    "the RO-Crate",
    "The `publisher` property of a `Root Data Entity` SHOULD be an `Organization`",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An unpacked archive of a study of two experiments with a figure and claims."""
    root = tmp_path_factory.mktemp("lab")
    files = study(root, processor="x86_64 AVX2")
    settings = {"n_features": [8], "name": "ü & <b>"}
    upstream = {"darwin.txt": job.file_digest(ROOT / "config/inputs/passages/darwin.txt")}
    upstream |= {"model-1.0.whl": "a" * 64}
    attrs = {"stage": "settle", "settings": settings, "upstream": upstream, "code_digest": "b" * 64}
    attrs |= {"device": "cuda", "processor": "aarch64 NEON"}
    path = root / "results/tiny/slow/settling.nc"
    job.save(made("settling"), path, attrs)
    (root / "results/tiny/figures/trace.csv").write_text("x\n")
    test_nanopublications.scored(root / "results/tiny" / plan.CLAIMS)
    config = root / "config/studies/tiny.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("experiments: {}\n")
    files = [
        *files,
        path,
        root / "results/tiny/figures/trace.csv",
        root / "results/tiny" / plan.CLAIMS,
    ]
    passage = ROOT / "config/inputs/passages/darwin.txt"
    sharing.export(files, [passage, config], ROOT, root / "tiny.zip")
    return unpacked(root / "tiny.zip", root / "unpacked")


def facts(action) -> dict[str, str]:
    """The settings and so on among the objects of an action."""
    return {one["name"]: one["value"] for one in action["object"] if one.type == "PropertyValue"}


def test_each_file_says_how_it_was_made(folder):
    """Its stage, what was read, settings, code, device and processor."""
    found = ROCrate(folder)
    action = found.get("#run/slow/settling.nc")
    assert action["result"].id == "results/tiny/slow/settling.nc"
    assert action["instrument"].id == "workflow/scripts/tripartite/kinds/settling/settle.py"
    assert (folder / action["instrument"].id).is_file()
    files = {one.id for one in action["object"] if one.type == "File"}
    assert files == {"config/inputs/passages/darwin.txt"}, "an input is known by its content"
    told = facts(action)
    assert told.pop("model-1.0.whl") == "a" * 64, "what is not in the archive by its digest"
    assert json.loads(told.pop("settings")) == {"n_features": [8], "name": "ü & <b>"}
    assert told == {"code digest": "b" * 64, "device": "cuda", "processor": "aarch64 NEON"}


def test_each_figure_says_what_it_shows(folder):
    action = ROCrate(folder).get("#run/figures/trace")
    assert {one.id for one in action["result"]} == {
        "results/tiny/figures/trace.csv",
        "results/tiny/figures/trace.svg",
    }
    assert action["instrument"].id == "workflow/scripts/tripartite/kinds/network/trace.py"
    assert [one.id for one in action["object"]][0] == "results/tiny/small/fit.nc"
    assert facts(action) == {"settings": "{}", "code digest": ""}


def test_every_result_is_made_once_and_every_entity_is_there(folder):
    graph = {
        part["@id"]: part for part in json.loads((folder / sharing.METADATA).read_text())["@graph"]
    }
    results = {name for name in graph if name.startswith("results/")}
    own = [part for part in graph.values() if part["@type"] == "CreateAction"]
    made = [
        one["@id"]
        for part in own
        if part["@id"] != crate.RUN_ID
        for one in (part["result"] if isinstance(part["result"], list) else [part["result"]])
    ]
    assert sorted(made) == sorted(results)
    for name in re.findall(r'"@id": "([^"]+)"', json.dumps([*graph.values()])):
        assert name in graph or name.startswith(("https://", "http://schema.org/")), name
    text = (folder / sharing.METADATA).read_text()
    assert '"agent"' not in text and '"endTime"' not in text and str(folder.parent) not in text


def test_the_validator_finds_nothing(folder, tmp_path):
    """Of Provenance Run Crate and all profiles below it; every required check runs, offline."""
    context = json.loads((Path(rocrate.__file__).parent / "data/ro-crate.jsonld").read_text())
    context["@context"] = context["@context"] | CONTEXT_1_1
    contexts = {
        "https://w3id.org/ro/crate/1.1/context": context,
        crate.CONTEXT: {"@context": RUN},
    }
    command = [sys.executable, "-c", VALIDATE, str(folder), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, input=json.dumps(contexts))
    assert done.returncode == 0, done.stderr
    executed, skipped, issues = json.loads(done.stdout.splitlines()[-1])
    assert executed >= 180 and skipped == 0
    assert {issue[2] for issue in issues} <= NOT_SAID
