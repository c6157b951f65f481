"""The first page of a study's report, as reStructuredText: findings, software, times, settings."""

import base64
import json
import re
from collections import defaultdict
from html import escape
from pathlib import Path
from textwrap import indent, wrap

import yaml

from tripartite import declarations, gallery, job
from tripartite.contracts import UserError

PIPELINE = Path(__file__).resolve().parents[2] / "report/pipeline.svg"

# The last line of the log of a job, by stage.py.
USED = re.compile(r"^(\w+): ([\d.]+) s, at most (\d+) MB of memory$", re.M)


def about(
    results: Path,
    asked: dict[str, dict],
    logs: Path,
    settings: dict,
    counts: str,
    claims: dict[str, list[dict]],
) -> str:
    """Software and devices of the netCDF files, time and memory of the stages, and all settings.

    results: the folder results/STUDY; asked: settings and code of its files, from plan.asked;
    logs: the folder of logs, with a folder for each experiment; counts: how many claims have each
    verdict; claims: by part.
    """
    there = {key: results / key for key in asked if (results / key).is_file()}
    if not there:
        return (
            "**Nothing of this study is there.** Run it first, or name another one with --config "
            "study=...\n"
        )
    made = {key: job.load(path).attrs for key, path in there.items() if job.is_contract(path)}
    parts = findings(results, settings, table_of(counts, claims))
    if len(there) < len(asked):
        parts.append(f"**Not there yet: {len(asked) - len(there)} of {len(asked)} files.**")
    if stale := [key for key, path in there.items() if _is_stale(path, asked[key])]:
        more = f" and {len(stale) - 3} more" if len(stale) > 3 else ""
        parts.append(
            f"**Out of date: {len(stale)} of {len(there)} files** ({', '.join(stale[:3])}{more}); "
            "*snakemake verify* says why."
        )
    if made:
        software = sorted({attrs["versions"] for attrs in made.values()})
        parts.append("**Software.** " + " Other files: ".join(map(_versions, software)))
        devices = {f"{x['device']} ({x.get('processor', 'not recorded')})" for x in made.values()}
        words = " and ".join(sorted(devices))
        parts.append(f"**Computed on** {words}; code and data by their digests in each file.")
    parts.append("**Run times and memory**, of the jobs whose logs are here:")
    parts.append(_usage_table(usage(sorted({path.parent for path in there.values()}), logs)))
    parts.append("**Settings of the study**, with all defaults::")
    experiments = settings["experiments"].items()
    settings = settings | {"experiments": {x: gallery.without_folders(y) for x, y in experiments}}
    text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=90)
    parts.append(indent(text.rstrip("\n"), "   ", lambda line: True))
    return "\n\n".join(parts) + "\n"


def findings(results: Path, study: dict, claims: list[str]) -> list[str]:
    """The overview as a picture, the claims, and the answer of each figure, in their order."""
    names = [
        name
        for name in declarations.in_order(study.get("figures", {}))
        if (results / f"figures/{name}.txt").is_file()
    ]
    parts = []
    if "overview" in names and (picture := results / "figures/overview.svg").is_file():
        data = base64.b64encode(picture.read_bytes()).decode()
        words = escape(declarations.figures()["overview"].question)
        source = f"data:image/svg+xml;base64,{data}"
        image = f'<img style="max-width: 100%" alt="{words}" src="{source}">'
        # docutils refuses lines of more than 10 000 letters
        parts += [".. raw:: html", indent("\n".join(wrap(image, 5000)), "   ")]
    parts += claims
    drawing = PIPELINE.read_text(encoding="utf-8").replace("\n", " ")
    parts += [".. raw:: html", f"   {drawing}"]
    if names:
        parts.append(
            "**What was found.** *Results* has each figure with its caption, numbers and settings."
        )
    for number, name in enumerate(names, 1):
        figure = gallery.described(results, study, name, number)
        parts.append(
            f"{number}. *{gallery.as_rst(figure['question'])}* {gallery.as_rst(figure['answer'])}"
        )
    return parts


def table_of(counts: str, claims: dict[str, list[dict]]) -> list[str]:
    """The claims of a study with their verdicts, below a line that says how many there are."""
    if not claims:
        return []
    rows: list[tuple] = [("verdict", "confidence", "claim")]
    for part, members in claims.items():
        rows.append(("", "", f"*{gallery.as_rst(part)}*"))
        for one in members:
            sentence = gallery.as_rst(one["sentence"])
            rows.append((f"**{one['verdict']}**", one["confidence"], sentence))
    words = "Verdicts come from the numbers of this study alone, by the rules of docs/claims.md."
    return [f"**Claims.** {counts}. {words}", _table(rows, "   :widths: 18 12 70")]


def _is_stale(path: Path, asked: dict) -> bool:
    """Whether a result was not made as it is asked for now, or does not say how."""
    try:
        return bool(job.outdated(job.origin(path), asked))
    except UserError:
        return True


def usage(folders: list[Path], logs: Path) -> dict[str, list[tuple[float, int, str]]]:
    """Seconds, MB and folder of all jobs of each stage, from the last lines of their logs."""
    jobs = defaultdict(list)
    for folder in folders:
        for log in sorted((logs / folder.name).glob("*.log")):
            for stage, seconds, megabytes in USED.findall(log.read_text())[-1:]:
                name = log.stem if stage == "draw" else folder.name
                jobs[stage].append((float(seconds), int(megabytes), name))
    return jobs


def _versions(text: str) -> str:
    return ", ".join(f"{name} {version}" for name, version in json.loads(text).items()) + "."


def _usage_table(used: dict[str, list[tuple[float, int, str]]]) -> str:
    """One row per stage, the longest first."""
    rows: list[tuple] = [
        ("stage", "jobs", "seconds, all", "seconds, longest job", "MB, largest job")
    ]
    totals = {stage: sum(seconds for seconds, _, _ in jobs) for stage, jobs in used.items()}
    for stage in sorted(used, key=lambda stage: -totals[stage]):
        seconds, _, longest = max(used[stage])
        _, megabytes, largest = max(used[stage], key=lambda job: job[1])
        cells = f"{totals[stage]:.0f}", f"{seconds:.0f} ({longest})", f"{megabytes} ({largest})"
        rows.append((stage, len(used[stage]), *cells))
    return _table(rows)


def _table(rows: list[tuple], *options: str) -> str:
    """A table with a head in its first row."""
    lines = [".. csv-table::", "   :header-rows: 1", *options, ""]
    for row in rows:
        cells = (str(cell).replace('"', '""') for cell in row)
        lines.append("   " + ", ".join(f'"{cell}"' for cell in cells))
    return "\n".join(lines)
