"""Write what is generated from the declared kinds: python workflow/scripts/write_reference.py

workflow/files.txt                  all files that travel with the workflow
workflow/schemas/study.schema.yaml  the schema of studies, for editors
codecheck.yml                       the figures that a codechecker of quick or default makes again
docs/kinds/<kind>.md                each kind: equation, settings, files, figures, cost, limits
docs/reference.md                   the index of these pages; models, keys of a study, configuration
docs/figures.md                     every figure: its question, and how it is read
docs/methods.md                     the assumptions of the code, between marks
docs/results.md                     the table of figures, between marks
docs/claims.md                      the claims of the study default, between marks
mkdocs.yml                          the pages of kinds, between marks
README.md                           findings of the study default, between marks

A test fails if one of them is not up to date.
"""

import ast
import copy
import json
import re
import sys
from collections.abc import Iterator

import xarray as xr
import yaml

from tripartite import declarations, job, registry, study
from tripartite.kinds.claims import wording

ROOT = study.WORKFLOW_ROOT
# Texts alone: Snakemake fetches no binary files of a module, such as the pictures of docs/images.
TRAVELS = """
CHANGELOG.md CITATION.cff CONTRIBUTING.md LICENSE README.md Snakefile codecheck.yml codemeta.json
config/inputs/*/* config/models.txt config/studies/*.yaml docs/*.md envs/* mkdocs.yml workflow/**/*
""".split()
IMAGES = ROOT / "docs/images"
PACKAGE = ROOT / "workflow/scripts/tripartite"
CLAIMS = ROOT / "docs/default/claims.nc"  # as the study default made it; no module has it
READING = """\
All figures speak one language. The symbol is the model: ■ MiniLM, ▲ ALBERT, ◆ ViT, ✚ SmolLM2,
○ random heads. Of a few heads the first one, which is the easiest, is filled. Hidden weights are
the darker the more is done to them: plain, balanced, fitted, learned. More hidden neurons m are
darker, and so are harder heads and larger errors. Hidden neurons are green, Hebbian synapses H
blue, presynaptic weights g orange, the astrocyte wine; softmax attention and laws black. Bars are
95 % intervals, unless the caption says what else they are. A figure that a study draws has beside
it a caption with its answer in numbers (txt) and what it shows as a table (csv);
`results/<study>/index.html` has them all."""
CODECHECK = """\
%YAML 1.1
---
# {by}.
# Manifest of a CODECHECK (https://codecheck.org.uk): the files that a codechecker makes again, by
# snakemake --cores 2 --config study=quick (three to five minutes), and by snakemake --cores 2 (the
# study default, about half an hour on two cores). Each figure has beside it its numbers (csv) and
# its caption (txt). For the codechecker to fill in, by the names of the specification: codechecker,
# report, summary, repository, check_time, certificate.
version: https://codecheck.org.uk/spec/config/1.0/

paper:
  title: {title}
  authors:
    - name: The tripartite authors

manifest:"""
BY = "written by workflow/scripts/write_reference.py out of workflow/scripts/tripartite/kinds"
BY_CLAIMS = "written by workflow/scripts/write_reference.py out of docs/default/claims.nc"
BY_CODE = "written by workflow/scripts/write_reference.py out of workflow/scripts/tripartite"
PAGE = re.compile(r"`?docs/(\w+\.md)`?")  # of the documentation, as texts of declarations name it


def manifest() -> str:
    """All files that travel with the workflow, one per line."""
    generated = {"workflow/files.txt", "workflow/schemas/study.schema.yaml"}
    generated |= {"docs/reference.md", "docs/figures.md", "codecheck.yml"}
    generated |= {f"docs/kinds/{name}.md" for name in declarations.kinds()}
    names = {path.relative_to(ROOT).as_posix() for glob in TRAVELS for path in ROOT.glob(glob)}
    names = {name for name in names if (ROOT / name).is_file() and not _is_private(name)}
    return "\n".join(sorted(names | generated)) + "\n"


def _is_private(name: str) -> bool:
    """True for a user's own files, and for hidden files and caches of Python and editors."""
    parts = name.split("/")
    return "own" in parts[:-1] or any(part.startswith((".", "__pycache__")) for part in parts)


class Dumper(yaml.SafeDumper):
    """Writes YAML without aliases: equal parts are written out each time."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def schema() -> str:
    """The schema of studies; for editors a file may also be the one of the configuration."""
    head = f"# {BY.capitalize()}.\n$schema: https://json-schema.org/draft/2020-12/schema\n"
    content = copy.deepcopy(study.load_schema("study"))
    experiment = content["properties"]["experiments"]["additionalProperties"]
    file = experiment["properties"]["data"]["properties"]["file"]
    file["pattern"] = f"^{re.escape(study.PLACE_OF_FILE)}$|{file['pattern']}"
    return head + yaml.dump(content, Dumper=Dumper, sort_keys=False, width=100, allow_unicode=True)


def reference() -> str:
    """The index of the pages of kinds; models, keys of a study, and the configuration."""
    nothing: dict = {"properties": {}, "additionalProperties": False}  # it stands in their pages
    keys = study.load_schema("study")["properties"].items()
    shallow = {name: {**part, **nothing} for name, part in keys}
    study_keys = {"properties": shallow, "required": ["experiments"]}
    lines = [
        "# Reference",
        "",
        f"All settings, files, variables and figures, {BY}. Each kind has a page of its own.",
        "",
        "An experiment of a study has `data` and one section that says what is done with them; the "
        "section has the name of the kind. Files are in `results/<study>/<experiment>/`, figures "
        "in `results/<study>/figures/`. Axes are named and stand in the order in which the tables "
        "name them. A variable with an interval has its ends beside it, `name_low` and "
        "`name_high` ([95 %](intervals.md)). A number that cannot be computed is NaN, and a "
        "variable `..._note` beside it says why.",
        "",
        "## Pages of kinds",
        "",
        "| kind | part | files | what it finds out |",
        "|---|---|---|---|",
    ]
    for kind in _pages():
        files = ", ".join(f"`{file}.nc`" for file in kind.files) or "–"
        part = kind.category or "–"
        name = f"[{kind.name}](kinds/{kind.name}.md)"
        lines.append(f"| {name} | {part} | {files} | {_cell(kind.what)} |")
    lines += ["", "## Pretrained models", "", *_models()]
    lines += ["", "## Keys of a study", "", "A study is `config/studies/<name>.yaml`.", ""]
    lines += ["| key | default | meaning |", "|---|---|---|", *_settings(study_keys, "")]
    lines += [
        "",
        "`workflow/schemas/study.schema.yaml` has all keys in a form that editors read.",
        "",
        "## Configuration",
        "",
        "Keys of `config/config.yaml`, each of which can also be given on the command line after "
        "`--config`.",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
        *_settings(study.load_schema("config"), ""),
    ]
    return "\n".join(lines) + "\n"


def _pages() -> list[declarations.Kind]:
    """All kinds in the order of their pages: the data, experiments, those that tell, the rest."""
    kinds = declarations.kinds()
    first = [kinds["data"], *_ordered()]
    return first + [kind for kind in kinds.values() if kind not in first]


def kind_page(kind: declarations.Kind) -> str:
    """A page with all that is declared of a kind."""
    lines = [f"# {kind.name}", "", kind.what.strip(), "", f"*{BY.capitalize()}/{kind.name}.*"]
    if kind.equation:
        lines += ["", "## Equation", "", kind.equation.strip()]
    if kind.settings["properties"]:
        lines += ["", "## Settings", "", "| setting | default | meaning |", "|---|---|---|"]
        lines += _settings(kind.settings, "")
    if kind.files:
        lines += ["", "## Files"]
    for file in kind.files.values():
        reads = ", ".join(f"`{name}`" for name in file.reads) or "nothing"
        lines += ["", f"### {file.name}.nc", ""]
        lines += [f"Made by the stage `{file.stage}`, which reads {reads}.", ""]
        lines += ["| variable | axes | unit | meaning |", "|---|---|---|---|"]
        specs = declarations.axes(file.name) | file.variables
        for name, spec in specs.items():
            over = f"; interval over {spec.over}" if spec.over else ""
            dims = ", ".join(spec.dims.split())
            lines.append(f"| `{name}` | {dims} | {spec.units} | {_cell(spec.means + over)} |")
    if kind.figures:
        lines += ["", "## Figures", "", "| figure | question | how it is read |", "|---|---|---|"]
        lines += [
            f"| `{figure.name}` | {_cell(figure.question)} | {_cell(figure.caption)} |"
            for figure in kind.figures.values()
        ]
    for heading, text in (("Cost", kind.cost), ("Limits", kind.limits)):
        if text:
            lines += ["", f"## {heading}", "", text.strip()]
    return _linked("\n".join(lines)) + "\n"


def _linked(text: str) -> str:
    """A text of a page of a kind, in which names of other pages are links to them."""
    return PAGE.sub(r"[docs/\1](../\1)", text)


def _models() -> list[str]:
    """The pretrained models."""
    head = "| model | title | reads | layers x heads | d_head | tokens, at most | wheel |"
    rows = [
        f"| `{name}` | {model.title} | {model.inputs} | {model.layers} x {model.heads} | "
        f"{model.d_head} | {model.tokens} | {model.wheel} |"
        for name, model in registry.models().items()
    ]
    return [head, "|---|---|---|---|---|---|---|", *rows]


def _ordered() -> list[declarations.Kind]:
    """Kinds of experiments by category and name, the network first."""
    kinds = declarations.experiments().values()
    story = [*declarations.common()["story"]]
    order = [*story, *sorted({kind.category for kind in kinds} - {*story})]
    return sorted(
        kinds, key=lambda kind: (order.index(kind.category), kind.name != "network", kind.name)
    )


def _settings(schema: dict, prefix: str) -> list[str]:
    """Rows of the table of settings; keys of nested sections are dotted."""
    rows = []
    named = schema.get("additionalProperties") or {}  # keys with names of the user's choice
    keys = schema.get("properties", {}) | ({"<name>": named} if named else {})
    definitions = declarations.common()["study"]["$defs"]
    for key, part in keys.items():
        if "$ref" in part:
            part = definitions[part["$ref"].rpartition("/")[2]] | part
        default = "needed" if key in schema.get("required", []) else "none"
        if "default" in part:
            text = yaml.safe_dump(part["default"], default_flow_style=True, width=1000)
            default = f"`{text.splitlines()[0]}`"
        if "description" in part:
            rows.append(f"| `{prefix}{key}` | {default} | {_cell(part['description'])} |")
        rows += _settings(part, f"{prefix}{key}.")
    return rows


def _cell(text: str) -> str:
    """A text in a cell of a Markdown table; outside of code < would begin a tag of HTML."""
    return re.sub(r"(`[^`]*`)|<", lambda part: part[1] or "&lt;", text).replace("|", "\\|")


def codecheck() -> str:
    """The manifest of a CODECHECK: figures and verdicts of the studies `quick` and `default`."""
    title = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["title"]
    lines = [CODECHECK.format(by=BY.capitalize(), title=json.dumps(title))]
    for name in ("quick", "default"):
        path = ROOT / f"config/studies/{name}.yaml"
        asked = yaml.safe_load(path.read_text(encoding="utf-8"))
        figures = declarations.in_order(asked["figures"])
        files = {f"figures/{one}.svg": declarations.figures()[one].question for one in figures}
        if asked.get("claims"):
            files["claims/claims.nc"] = "verdicts of all claims of the study, with their numbers"
        for file, comment in files.items():
            lines.append(f"  - file: results/{name}/{file}")
            lines.append(f"    comment: {json.dumps(f'{name}: {comment}', ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def figures_table() -> str:
    """The figures and what each shows."""
    figures = declarations.figures()
    shown = [name for name in figures if declarations.kinds()[figures[name].kind].category]
    rows = [
        f"| {declarations.category(name)[2:]} | `{name}` | {_cell(figures[name].question)} |"
        for name in declarations.in_order(shown)
    ]
    return "\n".join(["| part | figure | question |", "|---|---|---|", *rows])


def figures_page() -> str:
    """Every figure in the order of the story; the overview as a picture, with its caption.

    docs/images has the overview of the default study and its caption, as that study drew them.
    """
    figures = declarations.figures()
    shown = [name for name in figures if declarations.kinds()[figures[name].kind].category]
    lines = ["# Figures", "", f"What each figure asks and how it is read, {BY}.", "", READING]
    part = ""
    for number, name in enumerate(declarations.in_order(shown), 1):
        figure = figures[name]
        if declarations.category(name) != part:
            part = declarations.category(name)
            lines += ["", f"## {part[2:]}"]
        lines += ["", f"### {number}. {figure.question}", ""]
        pictures = [
            path for path in (IMAGES / f"{name}.svg", IMAGES / f"{name}.png") if path.is_file()
        ]
        lines += [f"![{figure.question}](images/{path.name})\n" for path in pictures[:1]]
        text = IMAGES / f"{name}.txt"
        if text.is_file():  # with the numbers of the default study
            lines.append(text.read_text(encoding="utf-8").strip())
        else:
            lines.append(" ".join(figure.caption.split()))
        lines.append(f"\n`results/<study>/figures/{name}.svg`, table in `{name}.csv`.")
    return "\n".join(lines) + "\n"


def assumptions_table() -> str:
    """Every assumption in the code: its file, the constant or function that has it, its words."""
    rows = [
        f"| `{path.relative_to(PACKAGE).as_posix()}` | {place} | {_cell(text)} |"
        for path in sorted(PACKAGE.rglob("*.py"))
        for place, text in assumptions(path.read_text(encoding="utf-8"))
    ]
    return "\n".join(["| file | at | assumption |", "|---|---|---|", *rows])


def assumptions(code: str) -> Iterator[tuple[str, str]]:
    """Where each ASSUME: of a module stands, and its words, to the end of comment or paragraph.

    Where: the function around it, or the constant beside or below it; "" at the head of the module.
    """
    lines = code.splitlines()
    past = 0  # lines that belong to an assumption before
    for start, line in enumerate(lines):
        before, found, text = line.partition("ASSUME:")
        if not found or start < past:
            continue
        past = start + 1
        is_comment = before.strip() == "#"
        while past < len(lines) and ("#" not in before or is_comment):  # beside code: one line
            after = lines[past].strip()
            if not after.startswith("#") if is_comment else after in ("", '"""'):
                break
            text += " " + after.lstrip("# ")
            past += 1
        for one in text.split("ASSUME:"):
            yield _place(code, start + 1), " ".join(one.split()).removesuffix('"""')


def _place(code: str, line: int) -> str:
    """The innermost function around a line, or else the constant at it or below; "" of neither."""
    tree = ast.parse(code)
    around = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    if around:
        return f"`{around[-1]}`"
    below = next(node for node in tree.body if line <= (node.end_lineno or 0))
    names = [x.id for x in getattr(below, "targets", []) if isinstance(x, ast.Name)]
    return f"`{names[0]}`" if names else ""


def readme(claims: xr.Dataset, text: str = "") -> str:
    """README.md, or its text, with the headline claims of a file claims.nc as its findings."""
    return between("README.md", "findings", BY_CLAIMS, wording.findings(claims), text)


def claims_page(claims: xr.Dataset, text: str = "") -> str:
    """docs/claims.md, or its text, with the table of all claims of a file claims.nc."""
    return between("docs/claims.md", "claims", BY_CLAIMS, wording.tables(claims), text)


def between(file: str, name: str, by: str, content: str, text: str = "") -> str:
    """A file, or its text, with new content between the marks of this name.

    The marks are lines of comments, in Markdown or YAML.
    """
    text = text or (ROOT / file).read_text(encoding="utf-8")
    marks = re.search(rf"(?s)({name}: {by}\b[^\n]*\n).*?(\n[^\n]*end of {name}\b)", text)
    if not marks:
        sys.exit(f"{file}: the marks of {name} are missing")
    return text[: marks.end(1)] + content + text[marks.start(2) :]


def navigation() -> str:
    """The pages of kinds, as the navigation of the site lists them."""
    return "\n".join(f"          - kinds/{kind.name}.md" for kind in _pages())


def written() -> dict[str, str]:
    """The content that each generated file should have."""
    pages = {}
    if CLAIMS.is_file():
        claims = job.load(CLAIMS)
        pages = {"README.md": readme(claims), "docs/claims.md": claims_page(claims)}
    return pages | {
        "codecheck.yml": codecheck(),
        "docs/results.md": between("docs/results.md", "figures", BY, figures_table()),
        "docs/reference.md": reference(),
        "docs/figures.md": figures_page(),
        "docs/methods.md": between("docs/methods.md", "assumptions", BY_CODE, assumptions_table()),
        **{f"docs/kinds/{kind.name}.md": kind_page(kind) for kind in _pages()},
        "mkdocs.yml": between("mkdocs.yml", "kinds", BY, navigation()),
        "workflow/files.txt": manifest(),
        "workflow/schemas/study.schema.yaml": schema(),
    }


if __name__ == "__main__":
    content_of = written()
    for page in (ROOT / "docs/kinds").glob("*.md"):
        page.unlink()  # it may be that of a kind that is gone
    for name, content in content_of.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_text(content, encoding="utf-8")
