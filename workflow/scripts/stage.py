"""Run one job: python stage.py STAGE --input FILES --output FILES --settings JSON.

STAGE is declared by a kind in tripartite/kinds/<kind>/kind.yaml, and `python stage.py STAGE --help`
says what it reads, takes and makes; "draw" draws a figure. A stage is
a function in the module of the same name, in the folder of its kind. Its arguments are

- the datasets of the input files, named like the files (qkv.nc is `qkv`), or `heads`, which gives
  queries, keys, values and their attention head by head, or `fits`, by the name of the experiment;
- the settings;
- what the kind declares under `uses`.

The dataset that it returns is checked against its contract and written to the output.
"""

import os
import time

STARTED = time.monotonic()
# Set before numpy is imported: the order of sums must not depend on the number of cores.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import argparse
import contextlib
import dataclasses
import functools
import importlib
import inspect
import json
import resource
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from tripartite import declarations, job, locks
from tripartite.contracts import UserError

# Attributes that a file takes over from its inputs: the name of the data, how networks read them.
INHERITED = tuple("data labels model_dtype feature_map symmetries machine".split())
RECORDED = (  # attributes of a file, in order
    *INHERITED,
    *"kind stage experiment settings code_digest upstream upstream_settings".split(),
    *"device processor".split(),
)


def function_of(declared: declarations.File | declarations.Figure) -> Callable[..., Any]:
    """The function that makes a file or a figure; its module is imported here."""
    name = Path(declared.module).name
    return getattr(importlib.import_module(declared.module.replace("/", ".")), name)


def run(
    stage: str,
    inputs: list[Path],
    outputs: list[Path],
    settings: dict[str, Any],
    code: str,
    device: str,
    workers: int,
    shard: str = "",
    shards: Sequence[Path] = (),
    peers: Path | None = None,
) -> None:
    """Load the inputs, call the stage and save what it returns; UserError where a user can help.

    code: digest of the stage's code, which the file records; shard: "2/5" for the second of every
    five heads; shards: files of shards, which are joined instead; peers: the folder of other
    implementations, for the benchmark.
    """
    if stage == "draw":
        return draw(inputs, outputs, settings, code)
    if shards:
        return put_together(shards, outputs[0])
    declared = declarations.stages()[stage]
    function = function_of(declared)
    wanted = inspect.signature(function).parameters
    arguments: dict[str, Any] = {"peers": str(peers)} if "peers" in wanted else {}
    upstream, upstream_settings, inherited = {}, {}, {"data": ""}
    if "raw" in declared.reads:
        arguments["raw"] = inputs
        upstream = {path.name: job.file_digest(path) for path in inputs}
        _unchanged(inputs, upstream, settings)
    if "fits" in wanted:
        arguments["fits"] = {}
    with contextlib.ExitStack() as stack:
        for path in [] if "raw" in declared.reads else inputs:
            dataset = stack.enter_context(job.load(path))
            upstream[job.key(path)] = dataset.attrs["content_digest"]
            upstream_settings[job.key(path)] = json.loads(dataset.attrs["settings"])
            if "fits" in wanted:
                arguments["fits"][path.parent.name] = dataset
            else:
                arguments[path.stem] = dataset
                inherited |= inherited_of(dataset)
        origin: dict[str, Any] = {
            "stage": declared.stage,
            "settings": settings,
            "code_digest": code,
            "upstream": upstream,
            "upstream_settings": upstream_settings,
        }
        checkpoint = None
        if "checkpoint" in declared.uses:
            checkpoint = job.Checkpoint(outputs[0], settings, code, upstream)
            stack.enter_context(checkpoint.held())
        name = stack.enter_context(job.device(device if "device" in declared.uses else "cpu"))
        origin["device"] = name.split(":")[0]
        if "device" in declared.uses:
            print(f"{stage}: computes on {job.device_words(name)}", flush=True)
        previous = None
        if "previous" in declared.uses:
            # the file of which a shard is a part, .../shards/5/2/states.nc
            whole = outputs[0].parents[3] / outputs[0].name if shard else outputs[0]
            previous = job.previous(whole, origin, declared.grows_with)
        used = {"device": name, "workers": workers}
        used |= {"checkpoint": checkpoint, "previous": previous}
        used["room"] = functools.partial(job.room, outputs[0].parent)
        used["feature_maps"] = declarations.common()["feature_maps"]
        arguments |= {key: used[key] for key in declared.uses if key in used}
        if clashing := arguments.keys() & settings.keys():
            raise TypeError(f"{stage}: {', '.join(clashing)} is a setting and something else")
        arguments = fitting(arguments | settings, wanted, declared, shard)
        dataset = function(**arguments)
        processors = [job.processor()]
        if previous is not None:
            processors.append(previous.attrs["processor"])
        if checkpoint is not None:
            processors += checkpoint.processors()
        origin |= {
            "kind": declared.kind,
            "experiment": outputs[0].parent.name,
            "processor": job.joined(processors),
        }
        attrs = inherited | inherited_of(dataset) | origin
        job.save(dataset, outputs[0], {name: attrs[name] for name in RECORDED if name in attrs})
        if checkpoint is not None:
            checkpoint.clear()
    locks.clear([outputs[0].parent])  # temporary files of jobs that were killed


def fitting(
    arguments: dict[str, Any],
    wanted: Mapping[str, inspect.Parameter],
    declared: declarations.File,
    shard: str,
) -> dict[str, Any]:
    """Arguments as the stage takes them, with those of Heads in one.

    TypeError if the stage does not take an argument that is neither for Heads nor an input file.
    """
    if "heads" in wanted:
        # Imported by name: the code digest of a stage without heads must not depend on it.
        module = importlib.import_module("tripartite.heads")
        of_heads = ("qkv", "attention", *module.SETTINGS, "device", "workers", "room")
        given = {key: arguments[key] for key in of_heads if key in arguments}
        heads = module.Heads(**given)
        if shard:
            share = importlib.import_module("tripartite.kinds.network.gather").share
            heads = module.Heads(**given | {"heads": share(heads.chosen, shard)})
        arguments = {
            key: value for key, value in arguments.items() if key not in of_heads or key in wanted
        } | {"heads": heads}
    arguments = grouped(arguments, wanted)
    dropped = [key for key in arguments if key not in wanted and key not in declared.reads]
    if dropped:
        where = f"kinds/{declared.kind}/{declared.stage}.py"
        raise TypeError(f"{where}: {declared.stage} does not take {', '.join(dropped)}")
    return {key: value for key, value in arguments.items() if key in wanted}


def grouped(arguments: dict[str, Any], wanted: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Arguments, with those that are fields of a dataclass that the stage takes in one record."""
    arguments = dict(arguments)
    for name, parameter in wanted.items():
        fields = fields_of(parameter) & arguments.keys()
        if name not in arguments and fields:
            arguments[name] = parameter.annotation(**{key: arguments.pop(key) for key in fields})
    return arguments


def fields_of(parameter: inspect.Parameter) -> set[str]:
    """The settings that a record holds which a stage takes; none of another parameter."""
    if not dataclasses.is_dataclass(parameter.annotation):
        return set()
    return {field.name for field in dataclasses.fields(parameter.annotation)}


def _unchanged(inputs: list[Path], digests: dict[str, str], settings: dict) -> None:
    """UserError if a user's file has changed since Snakemake planned the jobs."""
    wanted = settings.get("data", {}).get("file")
    if wanted and digests[inputs[0].name] != wanted:
        raise UserError(f"{inputs[0]}: was written to after Snakemake had read it; run again")


def inherited_of(dataset: xr.Dataset) -> dict[str, str]:
    """The attributes of an input that the output takes over."""
    return {key: dataset.attrs[key] for key in INHERITED if key in dataset.attrs}


def put_together(inputs: Sequence[Path], output: Path) -> None:
    """Join the files of shards to the file that one job for all heads would have made."""
    gather = importlib.import_module("tripartite.kinds.network.gather").gather
    parts = [job.load(path) for path in inputs]
    attrs = parts[0].attrs | {"experiment": output.parent.name}
    attrs["processor"] = job.joined(part.attrs["processor"] for part in parts)
    job.save(gather(parts), output, {name: attrs[name] for name in RECORDED if name in attrs})


def draw(inputs: list[Path], outputs: list[Path], settings: dict, code: str) -> None:
    """Draw a figure from files of experiments, which have the names of their folders.

    Beside the pictures stand texts: what is drawn as a table (.csv), the caption with its numbers
    (.txt), and what the figure's module makes: a page (.html), or a table that is printed as well
    (.md). The pictures record the digests of texts beside them.
    """
    declared = declarations.figures()[outputs[0].stem]
    fits = {path.parent.name: job.load(path) for path in inputs}
    upstream = {job.key(path): fits[path.parent.name].attrs["content_digest"] for path in inputs}
    module = importlib.import_module(declared.module.replace("/", "."))
    drawn = function_of(declared)(fits, **settings)
    importlib.import_module("tripartite.figures.panels").finish(drawn)
    captions = importlib.import_module("tripartite.figures.captions")
    makers: dict[str, Callable[[], str]] = {
        ".csv": lambda: module.table(fits).to_csv(
            index=False, float_format="%.6g", lineterminator="\n"
        ),
        ".txt": lambda: captions.caption(
            declared.question, module.answer(fits), declared.caption, fits
        ),
        ".html": lambda: module.page(fits),
        ".md": lambda: module.printed(fits),
    }
    beside = [path for path in outputs if path.suffix in makers]
    for path in beside:
        text = makers[path.suffix]()
        job.save_text(text, path)
        if path.suffix == ".md":
            print(text)
    digests = {path.name: job.file_digest(path) for path in beside}
    pictures = [path for path in outputs if path not in beside]
    job.save_figure(drawn, pictures, upstream, settings, code, digests, title=declared.question)


def device_fault(error: RuntimeError) -> str:
    """One line for the user, where memory is too small or a GPU failed; else nothing."""
    torch = sys.modules.get("torch")
    text = str(error)
    first_line = next(iter(text.splitlines()), "")
    unwritten = "nothing of this job was written"
    again = "Run the same command again: what is done is kept"
    if "same device" in text:
        return (
            f"error: numbers on two devices met, which is a fault of this code ({first_line}); "
            f"{unwritten}. Please report the lines above; add device=cpu to go on without the GPU"
        )
    if torch and isinstance(error, torch.OutOfMemoryError):
        sentences = ". ".join(first_line.split(". ")[:3])
        return (
            f"error: the memory of the GPU is too small ({sentences}); {unwritten}. Add "
            "device=cpu, or lower the number of inputs, tokens or n_features"
        )
    if "CUDA" in text or torch and isinstance(error, torch.AcceleratorError):
        return f"error: the GPU failed ({first_line}); {unwritten}. {again}, or add device=cpu"
    if "DefaultCPUAllocator" in text:
        asked = text[text.index("DefaultCPUAllocator") :].splitlines()[0]
        return (
            f"error: the memory of this machine is too small ({asked}); {unwritten}. Lower the "
            "number of inputs, tokens or n_features, or run fewer jobs at a time (--cores)"
        )
    return ""


def main() -> int:
    more = ""
    if {"-h", "--help"} & {*sys.argv}:
        # Imported by name: no digest of a stage's code must depend on it.
        more = importlib.import_module("tripartite.stage_help").told(sys.argv[1])
    raw = argparse.RawDescriptionHelpFormatter
    words = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(description=words, epilog=more, formatter_class=raw)
    parser.add_argument("stage", help="a stage such as fit, or draw for a figure")
    parser.add_argument("--input", nargs="*", type=Path, default=[], dest="inputs")
    parser.add_argument("--output", nargs="*", type=Path, default=[], dest="outputs")
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--code", default="", help="digest of the code, recorded in the file")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=1, help="heads computed at the same time")
    parser.add_argument("--shard", default="", help="2/5: the second of every five heads")
    parser.add_argument(
        "--shards", nargs="*", type=Path, default=[], help="files of shards to join"
    )
    parser.add_argument("--peers", type=Path, help="measure: the folder of other implementations")
    given = parser.parse_args()
    try:
        run(**vars(given))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(
            f"error: the memory of this machine is too small ({error}); nothing of this job was "
            "written. Lower the number of inputs, tokens or n_features, or run fewer jobs at a "
            "time (--cores)",
            file=sys.stderr,
        )
        return 1
    except RuntimeError as error:
        if not (line := device_fault(error)):
            raise
        if "same device" in str(error):
            traceback.print_exc()
        print(line, file=sys.stderr)
        return 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megabytes = peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
    seconds = time.monotonic() - STARTED
    print(f"{given.stage}: {seconds:.1f} s, at most {megabytes:.0f} MB of memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
