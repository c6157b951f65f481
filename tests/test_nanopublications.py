"""Claims as chains of nanopublications: complete, without loose ends, with the file's numbers."""

import json
import math
import zipfile
from urllib.parse import unquote

import numpy as np
import pytest
import rdflib
import xarray as xr

from conftest import ROOT
from test_sharing import study, unpacked
from tripartite import job, nanopublications, plan, sharing
from tripartite.kinds.claims import terms, verdicts
from tripartite.kinds.claims.score import score

PAPER = "10.1073/pnas.2219150120"
CODE = "1" * 64
STEPS = ("quotation", "sentence", "claim", "study", "outcome")
LINKS = {  # how each step names the one before it
    "quotation": "cito:quotes",
    "sentence": "skos:related",
    "claim": "slt:asAidaStatement",
    "study": "slt:targetsClaim",
    "outcome": "slt:isOutcomeOf",
}


def number(variable="error", experiment="small", **more):
    return {"experiment": experiment, "variable": variable, **more}


CLAIMS = {
    "quoted": {
        "sentence": "The error is {small:.2f}",
        "part": "Paper",
        "source": {"doi": PAPER, "quotation": 'It "computes" softmax & more.'},
        "rests_on": {"small": number()},
        "test": {"below": 1},
        "conditions": "One network",
    },
    "lawful": {
        "sentence": "The error falls.",
        "part": "Laws",
        "source": {"law": "error ∝ 1/√m"},
        "rests_on": {"slope of error": number("slope", at={}), "bound": number("high")},
        "test": {"below": 0},
    },
    "against": {
        "sentence": "The error is smaller than that of the other.",
        "part": "Own",
        "rests_on": {"ratio": number(against={"experiment": "other", "as": "ratio"})},
        "test": {"above": 0.1},
    },
    "lacking": {
        "sentence": "Nothing is known.",
        "part": "Own",
        "rests_on": {"gone": number(experiment="gone")},
        "test": {"above": 0},
    },
}


def fit(value: float) -> xr.Dataset:
    values = {"error": value, "error_low": value / 3, "error_high": value * 1.1, "slope": -0.5}
    values |= {"slope_low": -0.7, "slope_high": 0.1, "high": np.inf}
    return xr.Dataset(values, attrs={"stage": "fit"})


@pytest.fixture(scope="module")
def claims(tmp_path_factory):
    """The file claims.nc of a study with two experiments."""
    path = tmp_path_factory.mktemp("claims") / "results/tiny" / plan.CLAIMS
    return scored(path)


def scored(path) -> xr.Dataset:
    fits = {"small": fit(0.3), "other": fit(0.7)}
    files = [f"{name}/fit.nc" for name in fits]
    attrs = {
        "stage": "score",
        "kind": "claims",
        "settings": {"claims": CLAIMS},
        "code_digest": "0" * 64,
        "upstream": {name: f"{i}" * 64 for i, name in enumerate(files)},
        "upstream_settings": {name: {"feature_map": "relu", "n_seeds": 3} for name in files},
        "device": "cpu",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {name: {"headline": False, **claim} for name, claim in CLAIMS.items()}
    job.save(score(fits, given), path, attrs)
    return job.load(path)


@pytest.fixture(scope="module")
def chains(claims):
    return nanopublications.chains(claims, "tiny", CODE)


def nodes(chains) -> dict[str, dict]:
    """All that is said of each node, in whichever graph."""
    found: dict[str, dict] = {}
    for graph in chains["@graph"]:
        for node in graph["@graph"]:
            found.setdefault(node["@id"], {}).update(node)
    return found


def referenced(part) -> set[str]:
    """All nodes that are referred to."""
    if isinstance(part, list):
        return {name for one in part for name in referenced(one)}
    if not isinstance(part, dict):
        return set()
    if set(part) == {"@id"}:
        return {part["@id"]}
    return {name for value in part.values() for name in referenced(value)}


def test_every_node_that_is_named_exists(chains):
    """Except terms of vocabularies, papers and the study, which stand elsewhere."""
    there = {*nodes(chains), *(graph["@id"] for graph in chains["@graph"])}
    known = (*(f"{prefix}:" for prefix in chains["@context"]), "https://doi.org/")
    for name in referenced(chains["@graph"]) - there:
        assert name.startswith(known) or name == "config/studies/tiny.yaml", name


def test_every_nanopublication_has_its_four_graphs(chains):
    graphs = {graph["@id"]: graph["@graph"] for graph in chains["@graph"]}
    heads = [node for node in nodes(chains).values() if "np:hasAssertion" in node]
    assert len(heads) == 4 * len(CLAIMS) + 1, "one claim is quoted"
    for head in heads:
        parts = [head[f"np:has{part}"]["@id"] for part in ("Assertion", "Provenance")]
        assertion, provenance = (graphs[part] for part in parts)
        info = graphs[head["np:hasPublicationInfo"]["@id"]]
        assert graphs[f"{head['@id']}Head"] and assertion
        assert provenance[0]["@id"] == parts[0] and "prov:wasDerivedFrom" in provenance[0]
        assert info[0]["@id"] == head["@id"]
        assert info[0]["npx:introduces"]["@id"] == assertion[0]["@id"]


@pytest.mark.parametrize("name", CLAIMS)
def test_the_chain_of_each_claim_is_complete(name, chains, claims):
    """From the outcome back to the quotation, or to the sentence if there is none."""
    found = nodes(chains)
    base = f"{nanopublications.TEMPORARY}tiny/{name}/"
    one = claims.sel(claim=name)
    outcome = found[f"{base}outcome/outcome"]
    assert outcome["slt:hasValidationStatus"]["@id"] == f"slt:{one['verdict'].item()}"
    made = found[outcome[LINKS["outcome"]]["@id"]]
    assert made["slt:hasScopeDescription"] and made["slt:hasMethodologyDescription"]
    software = found[made["prov:wasAssociatedWith"]["@id"]]
    assert CODE in software["schema:identifier"]
    claim = found[made[LINKS["study"]]["@id"]]
    sentence = found[claim[LINKS["claim"]]["@id"]]
    assert sentence["rdfs:label"].rstrip(".") == one["sentence"].item().rstrip(".")
    address = unquote(sentence["@id"].removeprefix(nanopublications.AIDA))
    assert address == sentence["rdfs:label"] and address.endswith(".")
    source = CLAIMS[name].get("source", {})
    assert ("dct:source" in claim) == ("doi" in source)
    assert ("law" in source) == (source.get("law", "?") in claim.get("rdfs:comment", ""))
    if "quotation" in source:
        (said,) = [node for node in found.values() if "cito:hasQuotedText" in node]
        assert sentence["skos:related"]["@id"] == f"{base}quotation/"
        assert said["cito:hasQuotedText"] == source["quotation"]
        assert said["cito:quotes"]["@id"] == f"https://doi.org/{PAPER}"
        assert outcome["cito:confirms"]["@id"] == f"https://doi.org/{PAPER}"
    else:
        assert "skos:related" not in sentence


def test_every_outcome_has_its_term():
    words = {verdicts.HOLDS, verdicts.FAILS, verdicts.OPEN, verdicts.MISSING}
    assert nanopublications.OUTCOMES.keys() == words
    assert nanopublications.CITES.keys() < {*terms.VERDICTS}


def test_numbers_are_those_of_the_file(chains, claims):
    """Also infinite ones; those that are not known are left out."""
    found = nodes(chains)
    for i, label in enumerate(claims["quantity"].values):
        row = claims.isel(quantity=i)
        name, of = row["name"].item().replace(" ", "%20"), row["of_claim"].item()
        base = f"{nanopublications.TEMPORARY}tiny/{of}/outcome/"
        told = found[f"{base}number/{name}"]
        test = found[f"{base}test/{name}"]
        for key, variable, node in (
            ("value", "value", told),
            ("minValue", "value_low", told),
            ("maxValue", "value_high", told),
            ("minValue", "bound_low", test),
            ("maxValue", "bound_high", test),
        ):
            wanted = row[variable].item()
            assert (key in node) != math.isnan(wanted), label
            if key in node:
                assert float(node[key]) == wanted
        result = found[f"{base}result/{name}"]["earl:outcome"]["@id"]
        assert result == f"earl:{nanopublications.OUTCOMES[row['outcome'].item()]}"
        assert told["schema:unitText"] == row["unit"].item()
    assert found[f"{nanopublications.TEMPORARY}tiny/lawful/outcome/number/bound"]["value"] == "INF"


def test_a_claim_names_all_files_that_it_was_taken_from(chains):
    found = nodes(chains)
    used = {
        name: {
            one["@id"]
            for one in found[f"{nanopublications.TEMPORARY}tiny/{name}/study/study"]["prov:used"]
        }
        for name in CLAIMS
    }
    study, small, other = (
        "config/studies/tiny.yaml",
        "results/tiny/small/fit.nc",
        "results/tiny/other/fit.nc",
    )
    assert used["quoted"] == {study, small} and used["lacking"] == {study}
    assert used["against"] == {study, small, other}, "what it is compared with counts"
    assert json.loads(found[small]["schema:description"].removeprefix("settings: ")) == {
        "feature_map": "relu",
        "n_seeds": 3,
    }
    assert "0" * 64 in found[small]["schema:identifier"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib")
def test_it_is_rdf_without_blank_nodes_and_network(chains):
    """Every key is a term of a vocabulary, so that nothing is lost when it is read as RDF."""
    data = rdflib.Dataset()
    data.parse(data=json.dumps(chains), format="json-ld", publicID="https://example.org/crate/")
    names = {str(graph.identifier) for graph in data.graphs() if len(graph)}
    assert names == {graph["@id"] for graph in chains["@graph"]}
    assert not any(isinstance(part, rdflib.BNode) for quad in data.quads() for part in quad[:3])
    said = sum(
        len(value) if isinstance(value, list) else 1
        for graph in chains["@graph"]
        for node in graph["@graph"]
        for key, value in node.items()
        if key != "@id"
    )
    assert len([*data.quads()]) == said
    value = rdflib.URIRef("http://schema.org/value")
    values = {float(found) for _, _, found, _ in data.quads((None, value, None, None))}
    assert {0.3, -0.5, math.inf} <= values


def test_an_archive_has_them_if_the_study_has_claims(tmp_path):
    files = study(tmp_path)
    settings = tmp_path / "config/studies/tiny.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("experiments: {}\n")
    sharing.export(files, [settings], ROOT, tmp_path / "without.zip")
    with zipfile.ZipFile(tmp_path / "without.zip") as archive:
        assert sharing.CLAIMS not in archive.namelist()
    scored(tmp_path / "results/tiny" / plan.CLAIMS)
    files.append(tmp_path / "results/tiny" / plan.CLAIMS)
    for name in ("a", "b"):
        sharing.export(files, [settings], ROOT, tmp_path / f"{name}.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    folder = unpacked(tmp_path / "a.zip", tmp_path / "unpacked")
    text = (folder / sharing.CLAIMS).read_text()
    assert str(tmp_path) not in text
    metadata = json.loads((folder / sharing.METADATA).read_text())["@graph"]
    (entity,) = [part for part in metadata if part["@id"] == sharing.CLAIMS]
    assert entity["sha256"] == job.file_digest(folder / sharing.CLAIMS)
    assert entity["encodingFormat"] == "application/ld+json"
    for name in referenced(json.loads(text)["@graph"]):
        relative = name.startswith(("results/", "config/", "workflow/"))
        assert not relative or (folder / name).is_file() or "/other/" in name
    with sharing.opened(tmp_path / "a.zip", tmp_path / "x") as theirs:
        assert (theirs / plan.CLAIMS).is_file()
