"""What a stage reads, takes and makes, from its declaration, for `stage.py STAGE --help`."""

import json
import textwrap
from collections.abc import Iterator

from tripartite import declarations
from tripartite.declarations import File, Variable

WIDTH = 88
USES = {  # what a stage is given beside its inputs and settings
    "seed": "the seed of the study",
    "pairs": "lists of sentence pairs, if the model embeds sentences",
    "device": "a GPU if there is one (--device)",
    "workers": "several threads (--workers)",
    "checkpoint": "parts of an interrupted job, which it goes on with",
    "previous": "the old file, of which it keeps what does not change",
    "feature_maps": "the declared feature maps",
    "room": "large arrays on disk",
}


def told(stage: str) -> str:
    """The declaration of a stage in words; the stages that there are, if there is no such stage."""
    if stage == "draw":
        return "\n".join(_figures())
    if stage not in declarations.stages():
        names = ", ".join(sorted(declarations.stages()))
        return _wrapped(f"Stages: {names}, and draw for a figure.")
    file = declarations.stages()[stage]
    return "\n".join([*_about(file), "", *_settings(file), "", *_variables(file)])


def _about(file: File) -> Iterator[str]:
    """What a stage does, reads, makes and uses."""
    kind = declarations.kinds()[file.kind]
    does = file.does.replace("{experiment}", "an experiment")
    yield _wrapped(f"{file.stage}, a stage of the kind {file.kind}: {does}")
    yield _wrapped(f"The kind: {' '.join(kind.what.split())}")
    yield ""
    named = {"raw": "wheels, texts or a user's file"}
    reads = [named.get(name, f"{name}.nc") for name in file.reads]
    others = "the last files of other experiments" if kind.role == "claims" else "nothing"
    yield _wrapped(f"reads  {', '.join(reads) or others}")
    yield _wrapped(f"makes  {file.name}.nc")
    if file.uses:
        yield _wrapped(f"uses   {'; '.join(USES[name] for name in file.uses)}")


def _settings(file: File) -> Iterator[str]:
    """The settings of a stage with defaults and descriptions; keys of sections are dotted."""
    properties = declarations.kinds()[file.kind].settings["properties"]
    taken = [key for key in properties if file.settings is None or key in file.settings]
    if not taken:
        yield "It takes no settings of its own."
        return
    yield "Settings (--settings, as JSON; the workflow adds names, seeds and digests):"
    schema = declarations.kinds()[file.kind].settings
    yield from _properties({**schema, "properties": {key: properties[key] for key in taken}}, "")


def _properties(schema: dict, prefix: str) -> Iterator[str]:
    needed = schema.get("required", [])
    for key, part in schema.get("properties", {}).items():
        default = "needed" if key in needed else "no default"
        if "default" in part:
            default = f"default {json.dumps(part['default'], ensure_ascii=False)}"
        yield _wrapped(f"{prefix}{key} ({default})", 2)
        if part.get("description"):
            yield _wrapped(" ".join(part["description"].split()), 6)
        yield from _properties(part, f"{prefix}{key}.")
    if isinstance(of_any_name := schema.get("additionalProperties"), dict):
        yield from _properties(of_any_name, f"{prefix}<name>.")


def _variables(file: File) -> Iterator[str]:
    """The variables of a file with axes, units and meanings; intervals are named with theirs."""
    yield f"Variables of {file.name}.nc:"
    for name, spec in (declarations.axes(file.name) | file.variables).items():
        yield _wrapped(f"{name}{_form(name, spec)}", 2)
        interval = f"; {name}_low, {name}_high: 95 % interval over {spec.over}" if spec.over else ""
        yield _wrapped(" ".join(spec.means.split()) + interval, 6)


def _form(name: str, spec: Variable) -> str:
    """Axes and unit of a variable."""
    axes = "" if spec.dims == name else f" ({', '.join(spec.dims.split())})"
    return f"{axes}, {spec.dtype}" if not spec.units else f"{axes}, unit {spec.units}"


def _figures() -> Iterator[str]:
    """Figures with their questions and the kinds that they show."""
    yield _wrapped(
        "draw makes a figure, the name of which is that of its output, from the last files of "
        "the experiments that it shows:"
    )
    for name in declarations.in_order(declarations.figures()):
        figure = declarations.figures()[name]
        kinds = f"shows {', '.join(figure.kinds)}" if figure.kinds else "shows no data"
        yield _wrapped(f"{name} ({kinds})", 2)
        yield _wrapped(" ".join(figure.question.split()), 6)


def _wrapped(text: str, indent: int = 0) -> str:
    space = " " * indent
    more = space if indent else " " * 7 * text.startswith(("reads  ", "makes  ", "uses   "))
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=space,
        subsequent_indent=more,
        break_long_words=False,
        break_on_hyphens=False,
    )
