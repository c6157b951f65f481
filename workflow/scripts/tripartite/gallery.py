"""What readers are told beside figures: the page with all of them, and captions of the report.

The page needs no script and no network, and reads well on a phone. It links to the files beside it,
in figures/. This module imports no large package, as the Snakefile imports it.
"""

import re
from pathlib import Path
from textwrap import indent

import yaml

from . import declarations

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ study }}: figures</title>
<style>
body { max-width: 60rem; margin: 0 auto; padding: 1rem; font: 16px/1.5 sans-serif; color: #111; }
h2 { margin-top: 3rem; border-bottom: 1px solid #999; }
h3 { margin-top: 2.5rem; }
img { max-width: 100%; height: auto; background: #fff; }
a { color: #004488; }
li { margin: .4rem 0; }
pre { overflow: auto; padding: .5rem; background: #f2f2f2; font-size: 13px; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; }
tr { border-bottom: 1px solid #ccc; }
tbody th { background: #f2f2f2; }
</style>
</head>
<body>
<main>
<h1>Figures of the study {{ study }}</h1>
<p>A transformer built from neurons and astrocytes. Every figure has its question, its answer with
numbers, how it is read, its numbers as a table (csv), and the settings of its experiments. All
intervals are 95&nbsp;%, unless a caption says what else is shown.</p>
{% if claims %}
<h2>Claims and their verdicts</h2>
<p>{{ counts }}. Every verdict comes from the numbers of this study alone, by the rules of
docs/claims.md.</p>
<table>
<thead><tr>
<th scope="col">verdict</th><th scope="col">confidence</th><th scope="col">claim</th>
</tr></thead>
{% for part, rows in claims.items() %}
<tbody>
<tr><th colspan="3" scope="rowgroup">{{ part }}</th></tr>
{% for claim in rows %}
<tr><td><strong>{{ claim.verdict }}</strong></td><td>{{ claim.confidence }}</td>
<td>{{ claim.sentence }}{% if claim.doi %} <a href="https://doi.org/{{ claim.doi }}">\
{{ claim.doi }}</a>{% endif %}{% if claim.conditions %}<br><small>{{ claim.conditions }}</small>\
{% endif %}</td></tr>
{% endfor %}
</tbody>
{% endfor %}
</table>
{% endif %}
<h2>What was found</h2>
<ol>
{% for figure in figures %}
<li><a href="#{{ figure.name }}">{{ figure.question }}</a> {{ figure.answer }}</li>
{% endfor %}
</ol>
{% for part, members in figures | groupby("category") %}
<h2>{{ part[2:] }}</h2>
{% for figure in members | sort(attribute="number") %}
<section id="{{ figure.name }}">
<h3>{{ figure.number }}. {{ figure.question }}</h3>
<a href="figures/{{ figure.name }}.svg"><img loading="lazy" src="figures/{{ figure.name }}.svg" \
alt="{{ figure.question }} {{ figure.answer }}"></a>
{% for paragraph in figure.caption %}
<p>{{ paragraph }}</p>
{% endfor %}
<p>Files: {% for suffix in figure.suffixes %}
<a href="figures/{{ figure.name }}.{{ suffix }}">{{ figure.name }}.{{ suffix }}</a>
{%- if not loop.last %}, {% endif %}{% endfor %}</p>
{% if figure.settings %}
<details><summary>Settings of its experiments</summary>
<pre tabindex="0" aria-label="settings of {{ figure.name }}">{{ figure.settings }}</pre>
</details>
{% endif %}
</section>
{% endfor %}
{% endfor %}
</main>
</body>
</html>
"""


def gallery(results: Path, study: dict, counts: str, claims: dict[str, list[dict]]) -> str:
    """The page of a study; results: its folder, results/STUDY; study: with all defaults.

    counts: how many claims have each verdict; claims: by part, as the kind claims tells them.
    """
    import jinja2  # imported here: the Snakefile needs captions only

    names = declarations.in_order(study["figures"])
    figures = [described(results, study, name, number) for number, name in enumerate(names, 1)]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    about = {"study": results.name, "figures": figures, "counts": counts, "claims": claims}
    return environment.from_string(PAGE).render(about)


def described(results: Path, study: dict, name: str, number: int) -> dict:
    """What the page and the report say of a figure; caption: its paragraphs after the answer."""
    declared = declarations.figures()[name]
    first, *caption = (results / f"figures/{name}.txt").read_text(encoding="utf-8").split("\n\n")
    return {
        "name": name,
        "number": number,
        "category": declarations.category(name),
        "question": declared.question,
        "answer": first.removeprefix(declared.question).strip(),
        "caption": [paragraph.strip() for paragraph in caption],
        "suffixes": [
            suffix
            for suffix in ("csv", "svg", "pdf", "png", *declared.also)
            if (results / f"figures/{name}.{suffix}").is_file()
        ],
        "settings": settings_of(study, name),
    }


def settings_of(study: dict, figure: str) -> str:
    """The settings of the experiments that a figure shows, with all defaults, as YAML."""
    names = study["figures"][figure].get("experiments", [])
    shown = {name: without_folders(study["experiments"][name]) for name in names}
    return yaml.safe_dump(shown, sort_keys=False, default_flow_style=None, width=90) * bool(shown)


def without_folders(experiment: dict) -> dict:
    """An experiment with the name of a user's file without its folder."""
    data = experiment["data"]
    if "file" in data:
        data = data | {"file": Path(data["file"]).name}
    return experiment | {"data": data}


def as_rst(text: str) -> str:
    """A plain text as reStructuredText: no letter of it is markup."""
    return re.sub(r"([\\*`_|])", r"\\\1", text)


def caption(results: Path, study: dict, figure: str) -> str:
    """The caption of a figure in the report: its text, and the settings of its experiments."""
    text = (results / f"figures/{figure}.txt").read_text(encoding="utf-8")
    settings = settings_of(study, figure)
    shown = "Settings of its experiments::\n\n" + indent(settings, "   ")
    return "\n\n".join([as_rst(text).strip(), *([shown] if settings else [])])
