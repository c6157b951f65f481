"""Share a finished study: python share.py verify|check|export|compare|gallery|about --study ...

verify checks results against what the study asks for now; check holds the verdicts of its claims
against those that it expects; export packs them into one archive;
compare compares them with another lab's archive or results folder (workflow/rules/sharing.smk);
gallery writes the page with all figures; about prints
the first page of the report. read is called by compare, in a process of its own,
to read files of another lab before anything depends on them.
"""

import argparse
import json
import sys
from pathlib import Path

from tripartite import agreement, job, plan, sharing, study
from tripartite.about import about
from tripartite.contracts import UserError
from tripartite.figures import agreement as figure
from tripartite.gallery import gallery
from tripartite.kinds.claims import verdicts, wording


def requested(name: str, results: Path, file: str) -> tuple[dict, dict[str, dict]]:
    """A study, and settings and code of its results as they are asked for now.

    file: of the configuration. ValueError with all faults of the study.
    """
    settings = study.load_study(name, Path("."), {"file": file}, str(results.parent))
    return settings, plan.asked(settings, results)


def verdicts_of(results: Path) -> tuple[str, dict[str, list[dict]]]:
    """How many claims of a study have each verdict, and its claims by part; none without them."""
    path = results / plan.CLAIMS
    if not path.is_file():
        return "", {}
    claims = job.load(path)
    return wording.counts(claims), wording.parts(claims)


def compare(files: list[Path], other: Path, folder: Path) -> None:
    """Write and print how far the other results agree; UserError if a fitted value does not."""
    study = files[0].parts[-3]
    with sharing.opened(other, folder, files) as theirs:
        comparison = agreement.compare(files, theirs)
    text = agreement.summary(comparison, study, other.name)
    job.save_text(f"{text}\n{agreement.table(comparison)}", folder / f"{study}.md")
    pictures = [folder / f"{study}.{suffix}" for suffix in ("svg", "pdf", "png")]
    job.save_figure(figure.agreement(comparison.rows, study), pictures, {})
    print(f"{text}\nAll that was compared: {folder / study}.md")
    if faults := agreement.failures(comparison.rows):
        names = ", ".join(f"{row.file} {row.variable}".strip() for row in faults[:3])
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        words = f"fitted values contradict those of {other.name}, or are missing there"
        if not any(row.fitted for row in comparison.rows):
            words = (
                "there is no fitted value that can be judged (its data are those of other "
                "settings, or it has no intervals), and other values differ from those of "
                f"{other.name}, or are missing there"
            )
        raise UserError(f"{folder / study}.md: {words}: {names}{more}")


def nothing(results: Path) -> str:
    """What to say if a study has no results; names of those that have some."""
    others = sorted(page.parent.name for page in results.parent.glob("*/index.html"))
    there = f" (there are results of {', '.join(others)})" if others else ""
    return (
        f"{results}: there are no results of the study {results.name}; run it, or name another "
        f"one: --config study=...{there}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", choices=("verify", "check", "export", "compare", "gallery", "about", "read")
    )
    parser.add_argument("--study", help="name of a file in config/studies")
    parser.add_argument("--results", type=Path, help="the folder results/STUDY")
    parser.add_argument("--file", default="", help="the key file of config.yaml")
    text = "export: files of config/, the study last"
    parser.add_argument("--settings", nargs="+", type=Path, help=text)
    text = "export: settings of config.yaml, as JSON"
    parser.add_argument("--machine", type=json.loads, default={}, help=text)
    parser.add_argument("--other", type=Path, help="compare: an archive, or a folder results/STUDY")
    parser.add_argument(
        "--output", type=Path, help="export: the archive; compare: a folder; gallery: the page"
    )
    parser.add_argument("--logs", type=Path, help="about: the folder of the study's logs")
    parser.add_argument("--files", nargs="+", type=Path, help="read: files of another lab")
    parser.add_argument("--limits", nargs="+", type=int, help="read: largest bytes of each file")
    given = parser.parse_args()
    try:
        if given.what == "read":
            sharing.read_all(dict(zip(given.files, given.limits)))
            return 0
        settings, asked = requested(given.study, given.results, given.file)
        files = [given.results / name for name in asked]
        if given.what == "about":
            claims = verdicts_of(given.results)
            print(about(given.results, asked, given.logs, settings, *claims))
            return 0
        if given.what == "check" and not settings["claims"]:
            raise UserError(f"claims: study {given.study} has none; nothing can be checked")
        if given.what == "check":
            scored = job.load(given.results / plan.CLAIMS)
            print(f"{wording.listed(scored)}\n{verdicts.checked(scored)}")
            return 0
        if given.what == "gallery":
            page = gallery(given.results, settings, *verdicts_of(given.results))
            job.save_text(page, given.output)
            return 0
        if not given.results.is_dir():
            raise UserError(nothing(given.results))
        job.verify(given.results, asked)
        if given.what == "export":
            drawn = settings["figures"] and verdicts_of(given.results)
            page = gallery(given.results, settings, *drawn) if drawn else ""
            root = Path(__file__).parents[2]
            own, absent = plan.own_files(settings)
            sharing.export(
                files, given.settings, root, given.output, own, absent, given.machine, page
            )
        if given.what == "compare":
            compare(files, given.other, given.output)
    except ValueError as error:  # a UserError, or faults of the study
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
