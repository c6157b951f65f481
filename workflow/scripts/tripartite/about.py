"""What made a study, as reStructuredText for its report: software, run times, settings."""

import json
import re
from collections import defaultdict
from pathlib import Path

import yaml

from tripartite import job
from tripartite.contracts import UserError

# What stage.py writes into the log of a job.
USED = re.compile(r"^(\w+): ([\d.]+) s, at most (\d+) MB of memory$", re.M)


def about(results: Path, asked: dict[str, dict], logs: Path, settings: dict) -> str:
    """Software and devices of the netCDF files, time and memory of the stages, and all settings.

    results: the folder results/STUDY; asked: settings and code of its files, as plan.asked gives
    them; logs: the folder that holds a folder of logs for each of theirs.
    """
    there = {key: results / key for key in asked if (results / key).is_file()}
    if not there:
        return (
            "**Nothing of this study is there.** Run it first, or name another one with --config "
            "study=...\n"
        )
    made = {key: job.load(path).attrs for key, path in there.items() if job.is_contract(path)}
    parts = []
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
        devices = sorted(
            {
                f"{attrs['device']} ({attrs.get('processor', 'not recorded')})"
                for attrs in made.values()
            }
        )
        parts.append(
            f"**Computed on** {' and '.join(devices)}; code and data by their digests in each file."
        )
    parts.append("**Run times and memory**, of the jobs whose logs are here:")
    parts.append(_table(usage(sorted({path.parent for path in there.values()}), logs)))
    parts.append("**Settings of the study**, with all defaults::")
    for section in settings["experiments"].values():
        # the name of a user's file, never where it lies
        if "file" in section["data"]:
            section["data"] = {"file": Path(section["data"]["file"]).name}
    parts.append(
        _indented(yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=90))
    )
    return "\n\n".join(parts) + "\n"


def _is_stale(path: Path, asked: dict) -> bool:
    """Whether a result was not made as it is asked for, or does not say how."""
    try:
        return bool(job.outdated(job.origin(path), asked))
    except UserError:
        return True


def usage(folders: list[Path], logs: Path) -> dict[str, list[tuple[float, int, str]]]:
    """Seconds, MB and folder of every job of a stage, by the last lines of their logs."""
    found = defaultdict(list)
    for folder in folders:
        for log in sorted((logs / folder.name).glob("*.log")):
            for stage, seconds, megabytes in USED.findall(log.read_text())[-1:]:
                name = log.stem if stage == "draw" else folder.name
                found[stage].append((float(seconds), int(megabytes), name))
    return found


def _versions(text: str) -> str:
    return ", ".join(f"{name} {version}" for name, version in json.loads(text).items()) + "."


def _table(used: dict[str, list[tuple[float, int, str]]]) -> str:
    """One row per stage, longest first."""
    rows = [("stage", "jobs", "seconds, all", "seconds, longest job", "MB, largest job")]
    for stage, jobs in sorted(used.items(), key=lambda item: -sum(one[0] for one in item[1])):
        longest, largest = max(jobs), max(jobs, key=lambda one: one[1])
        rows.append(
            (
                stage,
                str(len(jobs)),
                f"{sum(one[0] for one in jobs):.0f}",
                f"{longest[0]:.0f} ({longest[2]})",
                f"{largest[1]} ({largest[2]})",
            )
        )
    lines = [".. csv-table::", "   :header-rows: 1", ""]
    return "\n".join(lines + ["   " + ", ".join(f'"{cell}"' for cell in row) for row in rows])


def _indented(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.splitlines())
