"""Write what is generated from the declared kinds: python workflow/scripts/write_reference.py

workflow/files.txt                  all files that travel with the workflow
workflow/schemas/study.schema.yaml  the schema of studies, for editors
docs/reference.md                   each kind: its settings, variables of its files, its figures
docs/figures.md                     every figure: its question, and how it is read
README.md                           findings of the study default, between marks
docs/results.md                     tables of figures and files, between marks
docs/claims.md                      the claims of the study default, between marks

A test fails if one of them is not up to date.
"""

import sys

import xarray as xr
import yaml

from tripartite import declarations, job, registry, study
from tripartite.kinds.claims import wording

ROOT = study.WORKFLOW_ROOT
# Texts alone: Snakemake fetches no binary files of a module, such as the pictures of docs/images.
TRAVELS = """
CHANGELOG.md CITATION.cff LICENSE README.md Snakefile config/inputs/*/* config/models.txt
config/studies/*.yaml docs/*.md envs/* workflow/**/*
""".split()
IMAGES = ROOT / "docs/images"
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
BY = "written by workflow/scripts/write_reference.py out of workflow/scripts/tripartite/kinds"
BY_CLAIMS = "written by workflow/scripts/write_reference.py out of docs/default/claims.nc"


def manifest() -> str:
    """All files that travel with the workflow, one per line."""
    generated = {"workflow/files.txt", "workflow/schemas/study.schema.yaml"}
    generated |= {"docs/reference.md", "docs/figures.md"}
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
    """The schema of studies."""
    head = f"# {BY.capitalize()}.\n$schema: https://json-schema.org/draft/2020-12/schema\n"
    content = study.load_schema("study")
    return head + yaml.dump(content, Dumper=Dumper, sort_keys=False, width=100, allow_unicode=True)


def reference() -> str:
    """The reference of all kinds in Markdown."""
    lines = [
        "# Reference",
        "",
        f"Every kind of experiment, {BY}.",
        "",
        "An experiment of a study has `data` and one section that says what is done with them. "
        "Files are in `results/<study>/<experiment>/`, figures in `results/<study>/figures/`. A "
        "variable with an interval has its ends beside it, `name_low` and `name_high` (95 %).",
    ]
    kinds = declarations.kinds()
    told = [kind for kind in kinds.values() if kind.role == "story"]
    for kind in [*told, kinds["data"], *_ordered(), kinds["benchmark"], kinds["claims"]]:
        lines += ["", f"## {kind.name}", "", kind.what]
        if kind.settings["properties"]:
            lines += ["", "| setting | default | meaning |", "|---|---|---|"]
            lines += _settings(kind.settings, "")
        if kind.role == "data":
            lines += ["", *_models()]
        for file in kind.files.values():
            lines += ["", f"### {file.name}.nc", ""]
            reads = ", ".join(f"`{name}`" for name in file.reads) or "nothing"
            lines += [f"Made by the stage `{file.stage}`, which reads {reads}.", ""]
            lines += ["| variable | axes | unit | meaning |", "|---|---|---|---|"]
            specs = declarations.axes(file.name) | file.variables
            for name, spec in specs.items():
                over = f"; interval over {spec.over}" if spec.over else ""
                dims = ", ".join(spec.dims.split())
                lines.append(f"| `{name}` | {dims} | {spec.units} | {_cell(spec.means + over)} |")
        if kind.figures:
            lines += ["", "| figure | question |", "|---|---|"]
            lines += [
                f"| `{fig.name}` | {_cell(fig.question)} {_cell(fig.caption)} |"
                for fig in kind.figures.values()
            ]
    return "\n".join(lines) + "\n"


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
    """A text in a cell of a Markdown table."""
    return text.replace("|", "\\|")


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


def files_table() -> str:
    """The kinds of experiments and the files that they make."""
    rows = [
        f"| `{kind.name}` | {', '.join(f'`{file}.nc`' for file in kind.files)} | "
        f"{_cell(kind.what)} |"
        for kind in (declarations.kinds()["data"], *_ordered())
    ]
    return "\n".join(["| section | files | what it finds out |", "|---|---|---|", *rows])


def results_page() -> str:
    """docs/results.md with its tables brought up to date."""
    text = between("docs/results.md", "figures", BY, figures_table())
    return between("docs/results.md", "files", BY, files_table(), text)


def readme(claims: xr.Dataset) -> str:
    """README.md with its findings brought up to date."""
    return between("README.md", "findings", BY_CLAIMS, wording.findings(claims))


def claims_page(claims: xr.Dataset) -> str:
    """docs/claims.md with the table of claims brought up to date."""
    return between("docs/claims.md", "claims", BY_CLAIMS, wording.tables(claims))


def between(file: str, name: str, by: str, content: str, text: str = "") -> str:
    """A file, or its text, with new content between the marks of this name."""
    text = text or (ROOT / file).read_text(encoding="utf-8")
    start, end = f"<!-- {name}: {by} -->\n", f"\n<!-- end of {name} -->"
    before, _, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not closed:
        sys.exit(f"{file}: the marks of {name} are missing")
    return before + start + content + end + after


def written() -> dict[str, str]:
    """The content that each generated file should have."""
    pages = {}
    if CLAIMS.is_file():
        claims = job.load(CLAIMS)
        pages = {"README.md": readme(claims), "docs/claims.md": claims_page(claims)}
    return pages | {
        "docs/results.md": results_page(),
        "docs/reference.md": reference(),
        "docs/figures.md": figures_page(),
        "workflow/files.txt": manifest(),
        "workflow/schemas/study.schema.yaml": schema(),
    }


if __name__ == "__main__":
    for name, content in written().items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_text(content, encoding="utf-8")
