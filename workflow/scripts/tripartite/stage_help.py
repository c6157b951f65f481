"""What a stage reads, takes and makes, from its declaration, for `stage.py STAGE --help`."""

from tripartite import declarations


def told(stage: str) -> str:
    """The declaration of a stage in words; the stages that there are, if there is no such stage."""
    if stage not in declarations.stages():
        return f"Stages: {', '.join(declarations.stages())}, and draw for a figure."
    file = declarations.stages()[stage]
    return f"{stage} makes {file.name}.nc out of {', '.join(file.reads)}."
