"""docs/adding.md, followed word for word: a kind, a figure, a feature map, a pretrained model."""

import pytest

from conftest import project
from pages import NOT_RUN, blocks, typed, with_environment, write

PAGE = "docs/adding.md"
# What commands say; of the pretrained model, whose wheel is not fetched, a dry run.
SAYS = {
    ".venv/bin/python workflow/scripts/write_reference.py": "",
    ".venv/bin/snakemake --cores 2 --config study=toy": "Everything of the study toy is there",
    ".venv/bin/snakemake --cores 2 results/toy/figures/lengths.svg": "Nothing to be done",
    ".venv/bin/python tests/looks.py results/toy logs/looks lengths": "",
    ".venv/bin/snakemake --cores 2 --config study=squared": "Everything of the study squared is",
    ".venv/bin/snakemake --cores 2 --config study=rxnfp": "resources/wheels/rxnfp-0.1.0.whl",
}


@pytest.mark.slow
def test_what_the_page_adds_works(tmp_path):
    folder = with_environment(project(tmp_path / "project"))
    left = dict(SAYS)
    for one in blocks(PAGE):
        done = write(one, folder) or one.note.startswith(NOT_RUN)
        assert done or one.language == "bash", one.text
        for command in [] if done else one.commands:
            words = command
            if command.endswith("study=rxnfp"):
                words = command.replace("--cores", "--dry-run --cores")
            ran = typed(words, folder)
            assert ran.returncode == 0 and SAYS[command] in ran.stdout, ran.stdout
            assert "looks.py" not in command or not ran.stdout  # no fault
            left.pop(command, None)
    assert left == {}
    assert (folder / "logs/looks/lengths.png").is_file()
    schema = (folder / "workflow/schemas/study.schema.yaml").read_text()
    for added in ("rxnfp", "squared_relu", "toy:", "scales:"):
        assert added in schema
    table = (folder / "results/squared/figures/feature_maps.csv").read_text()
    assert "squared" in table
