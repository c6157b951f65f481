"""The claims of a study as chains of nanopublications: one JSON-LD text that needs no network.

Each claim is a chain of four or five nanopublications, each of which names the one before it:

    quotation -> sentence -> claim -> study -> outcome

A nanopublication has four graphs: head, assertion, provenance and publication info
(https://nanopub.net/guidelines/working_draft/). They are not published: their addresses are
temporary ones, which tools replace when somebody signs them with a name, a date and a licence.
Files of the archive have their names in it, so that they are those of ro-crate-metadata.json.

The terms of quotation, sentence, claim, study and outcome are those of the templates of Science
Live for FORRT chains (w3id.org/np/RA24onqm, RALmXhDw, RAZWyM8D, RAuLEjPp and RA2zljn0), with CiTO
for quotations and citations. Tests of numbers are in EARL, origins in PROV, numbers and software in
schema.org: minValue and maxValue are the ends of an interval, or the bounds of a test.
"""

import json
import math
from typing import Any
from urllib.parse import quote

import xarray as xr

from tripartite import __version__, declarations

TEMPORARY = "http://purl.org/nanopub/temp/tripartite/"
AIDA = "http://purl.org/aida/"
DOI = "https://doi.org/"
WORKFLOW = "workflow/Snakefile"
NUMBER = {"@type": "xsd:double"}
CONTEXT = {
    "np": "http://www.nanopub.org/nschema#",
    "npx": "http://purl.org/nanopub/x/",
    "hycl": "http://purl.org/petapico/o/hycl#",
    "slt": "https://w3id.org/sciencelive/o/terms/",
    "cito": "http://purl.org/spar/cito/",
    "earl": "http://www.w3.org/ns/earl#",
    "prov": "http://www.w3.org/ns/prov#",
    "schema": "http://schema.org/",
    "dct": "http://purl.org/dc/terms/",
    "skos": "http://www.w3.org/2004/02/skos/core#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    "value": {"@id": "schema:value"} | NUMBER,
    "minValue": {"@id": "schema:minValue"} | NUMBER,
    "maxValue": {"@id": "schema:maxValue"} | NUMBER,
}
PARTS = {  # graphs of a nanopublication, and how its head names them
    "assertion": "hasAssertion",
    "provenance": "hasProvenance",
    "pubinfo": "hasPublicationInfo",
}
CONFIDENCE = {"High": "HighConfidence", "Moderate": "Moderate", "Low": "LowConfidence"}
CITES = {"Validated": "confirms", "PartiallySupported": "qualifies", "Contradicted": "disputes"}
OUTCOMES = {  # of a test, in claims.nc and in EARL
    "holds": "passed",
    "fails": "failed",
    "open": "cantTell",
    "missing": "untested",
}


def chains(claims: xr.Dataset, study: str, code: str) -> dict:
    """The nanopublications of all claims of a study.

    claims: the file claims.nc; study: its name; code: the SHA-256 of the workflow's files.
    """
    graphs = []
    for name in claims["claim"].values:
        numbers = claims.isel(quantity=(claims["of_claim"] == name).values)
        graphs += _chain(claims.sel(claim=name), numbers, study, code)
    return {"@context": CONTEXT, "@graph": graphs}


def _chain(claim: xr.Dataset, numbers: xr.Dataset, study: str, code: str) -> list[dict]:
    """The graphs of one claim; numbers: those that it rests on."""
    name = claim["claim"].item()
    said = {key: claim[key].item() for key in claim.data_vars if claim[key].ndim == 0}
    base = f"{TEMPORARY}{study}/{name}/"
    paper = _of(DOI + quote(said["doi"], safe="/")) if said["doi"] else None
    sentence = said["sentence"].rstrip(".") + "."
    ids = {step: f"{base}{step}/{step}" for step in ("quotation", "claim", "study", "outcome")}
    ids["sentence"] = AIDA + quote(sentence, safe="")
    file = _file("claims/claims.nc", claim.attrs["content_digest"], study)
    used = dict.fromkeys(key for files in _files(numbers) for key in files)
    origins = [_origin(key, claim.attrs, study) for key in used]

    quotation: dict[str, Any] = {"@id": ids["quotation"], "cito:hasQuotedText": said["quotation"]}
    aida: dict[str, Any] = {
        "@id": ids["sentence"],
        "@type": "hycl:AIDA-Sentence",
        "rdfs:label": sentence,
    }
    asserted: dict[str, Any] = {
        "@id": ids["claim"],
        "@type": "slt:FORRT-Claim",
        "rdfs:label": f"{study}: {name}",
    }
    asserted["slt:asAidaStatement"] = _of(ids["sentence"])
    if said["law"]:
        asserted["rdfs:comment"] = f"Law: {said['law']}"
    if said["quotation"]:
        aida["skos:related"] = _of(f"{base}quotation/")
    if paper:
        quotation["cito:quotes"] = paper
        asserted["dct:source"] = paper
    steps = {
        "quotation": [quotation],
        "sentence": [aida],
        "claim": [asserted],
        "study": [_study(ids, said, numbers, study), _workflow(code), *origins],
        "outcome": _outcome(ids, said, numbers, study, paper),
    }
    if not said["quotation"]:
        del steps["quotation"]
    graphs = []
    for step, assertion in steps.items():
        uri = f"{base}{step}/"
        origin: dict[str, Any] = {"@id": f"{uri}assertion", "prov:wasDerivedFrom": _of(file["@id"])}
        if step == "quotation" and paper:
            origin["prov:wasQuotedFrom"] = paper
        head: dict[str, Any] = {"@id": uri, "@type": "np:Nanopublication"}
        head |= {f"np:{key}": _of(uri + part) for part, key in PARTS.items()}
        info = {"@id": uri, "rdfs:label": f"{name}: {step}", "npx:introduces": _of(ids[step])}
        contents = [head], assertion, [origin, file], [info]
        graphs += [
            {"@id": uri + part, "@graph": nodes} for part, nodes in zip(("Head", *PARTS), contents)
        ]
    return graphs


def _study(ids: dict, said: dict, numbers: xr.Dataset, study: str) -> dict:
    """The test of a claim by this workflow: which numbers it takes from which files."""
    methods = [f"{_words(row)}; test: {row['test'] or 'none'}" for row in _rows(numbers)]
    files = [f"results/{study}/{key}" for files in _files(numbers) for key in files]
    files = [f"config/studies/{study}.yaml", *dict.fromkeys(files)]
    return {
        "@id": ids["study"],
        "@type": ["slt:FORRT-Replication-Study", "prov:Activity"],
        "rdfs:label": f"tripartite study {study}: {said['sentence']}",
        "slt:targetsClaim": _of(ids["claim"]),
        "slt:hasScopeDescription": said["conditions"] or "Models, inputs and settings of the study",
        "slt:hasMethodologyDescription": "\n".join(methods),
        "prov:wasAssociatedWith": _of(WORKFLOW),
        "prov:used": [_of(file) for file in files],
    }


def _outcome(
    ids: dict, said: dict, numbers: xr.Dataset, study: str, paper: dict | None
) -> list[dict]:
    """Verdict and confidence of a claim, its numbers, and the tests of these."""
    rows = _rows(numbers)
    base = ids["outcome"].removesuffix("outcome")
    outcome: dict[str, Any] = {
        "@id": ids["outcome"],
        "@type": "slt:FORRT-Replication-Outcome",
        "rdfs:label": f"{said['verdict']}: {said['sentence']}",
        "slt:isOutcomeOf": _of(ids["study"]),
        "slt:hasValidationStatus": _of(f"slt:{said['verdict']}"),
        "slt:hasConclusionDescription": said["sentence"],
        "slt:hasEvidenceDescription": said["reason"],
        "slt:hasLimitationsDescription": " ".join(declarations.kinds()["claims"].limits.split()),
        "prov:wasDerivedFrom": [_of(f"{base}number/{quote(row['name'])}") for row in rows],
    }
    if said["confidence"]:
        outcome["slt:hasConfidenceLevel"] = _of(f"slt:{CONFIDENCE[said['confidence']]}")
    if paper:
        outcome[f"cito:{CITES.get(said['verdict'], 'discusses')}"] = paper
    nodes = [outcome]
    for row, files in zip(rows, _files(numbers)):
        name = quote(row["name"])
        number: dict[str, Any] = {
            "@id": f"{base}number/{name}",
            "@type": "schema:PropertyValue",
            "schema:name": row["name"],
            "schema:unitText": row["unit"],
            "schema:measurementTechnique": _words(row),
            "prov:wasDerivedFrom": [_of(f"results/{study}/{key}") for key in files],
        }
        nodes.append(number | _values(row, "value", "value_low", "value_high"))
        if row["test"]:
            test: dict[str, Any] = {
                "@id": f"{base}test/{name}",
                "@type": "earl:TestCriterion",
                "dct:description": row["test"],
            }
            result: dict[str, Any] = {
                "@id": f"{base}result/{name}",
                "@type": "earl:TestResult",
                "earl:outcome": _of(f"earl:{OUTCOMES[row['outcome']]}"),
            }
            tested = {
                "@id": f"{base}tested/{name}",
                "@type": "earl:Assertion",
                "earl:assertedBy": _of(WORKFLOW),
                "earl:subject": _of(number["@id"]),
                "earl:test": _of(test["@id"]),
                "earl:result": _of(result["@id"]),
            }
            nodes += [tested, test | _values(row, "", "bound_low", "bound_high"), result]
    return nodes


def _values(row: dict, middle: str, low: str, high: str) -> dict[str, str]:
    """Those of three numbers that are known, exactly as they are in the file."""
    keys = {"value": middle, "minValue": low, "maxValue": high}
    known = {key: row[name] for key, name in keys.items() if name and not math.isnan(row[name])}
    infinite = {math.inf: "INF", -math.inf: "-INF"}
    return {key: infinite.get(value, repr(float(value))) for key, value in known.items()}


def _words(row: dict) -> str:
    """How a number is taken, in one line."""
    return (
        f"{row['name']}: from {row['n_values']} values of {row['variable']} in "
        f"{row['file'] or row['experiment']}, {row['selection']}"
    )


def _rows(numbers: xr.Dataset) -> list[dict]:
    """The variables of each number."""
    return numbers.drop_dims("claim").to_dataframe().to_dict("records")


def _files(numbers: xr.Dataset) -> list[list[str]]:
    """The files that each number is taken from or compared with; none if the study lacks them."""
    found = []
    for row in _rows(numbers):
        against = json.loads(row["selection"]).get("against", {})
        named = [*row["experiment"].split(", "), against.get("experiment", "")]
        files = json.loads(numbers.attrs["upstream"])
        found.append([key for key in files if key.split("/")[0] in named])
    return found


def _workflow(code: str) -> dict:
    return {
        "@id": WORKFLOW,
        "@type": ["prov:SoftwareAgent", "schema:SoftwareSourceCode"],
        "schema:name": "tripartite",
        "schema:version": __version__,
        "schema:identifier": f"sha256 of the workflow's files: {code}",
    }


def _file(key: str, digest: str, study: str) -> dict:
    return {
        "@id": f"results/{study}/{key}",
        "@type": "prov:Entity",
        "schema:identifier": f"content digest: {digest}",
    }


def _origin(key: str, attrs: dict, study: str) -> dict:
    """A file that a claim rests on, with its settings."""
    upstream, settings = (json.loads(attrs[name]) for name in ("upstream", "upstream_settings"))
    made_with = json.dumps(settings[key], ensure_ascii=False)
    return _file(key, upstream[key], study) | {"schema:description": f"settings: {made_with}"}


def _of(iri: str) -> dict[str, str]:
    return {"@id": iri}
