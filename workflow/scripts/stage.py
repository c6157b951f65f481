"""The one entry of every job: python stage.py STAGE --input FILES --output FILES --settings JSON.

A stage is the function of the same name in tripartite/stages, or a figure of tripartite/figures. Its
arguments are the datasets of the input files, named like the files (qkv.nc is `qkv`), and the
settings; what it returns is checked and written to the output.
"""

import os
import time

STARTED = time.monotonic()
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy: the sums must not depend on the number of cores

import argparse
import contextlib
import importlib
import inspect
import json
import resource
import sys
from pathlib import Path

from tripartite import job, locks
from tripartite.contracts import Breach

RECORDED = (  # attributes of what a stage writes, in order
    "source", "labels", "stage", "experiment", "settings", "code_digest", "upstream", "upstream_settings", "device",
    "processor",
)  # fmt: skip


def part_of(stage: str):
    """The module of a stage: imported when it runs, so that its edits concern nothing else."""
    return importlib.import_module(f"tripartite.stages.{stage}")


def run(
    stage: str, inputs: list[Path], outputs: list[Path], settings: dict, code: str, device: str,
    workers: int, shard: str, shards: list[Path] = (), peers: Path | None = None,
):  # fmt: skip
    """Load the inputs through their contracts, call the stage, save what it returns."""
    if stage == "draw":
        return draw(inputs, outputs, settings, code)
    if shards:
        return put_together(shards, outputs[0])
    function = getattr(part_of(stage), stage)
    wanted = inspect.signature(function).parameters
    arguments = {name: value for name, value in settings.items() if name in wanted}
    upstream, upstream_settings, names = {}, {}, {"source": ""}
    if "sources" in wanted:
        arguments["sources"] = inputs
        upstream = {path.name: job.file_digest(path) for path in inputs}
        _unchanged(inputs, upstream, settings)
    else:
        for path in inputs:
            arguments[path.stem] = dataset = job.load(path)
            upstream[job.key(path)] = dataset.attrs["content_digest"]
            upstream_settings[job.key(path)] = json.loads(dataset.attrs["settings"])
            names |= named(dataset)
    if "peers" in wanted:
        arguments["peers"] = str(peers)
    if "workers" in wanted:
        arguments["workers"] = workers
    if "kept" in wanted:
        arguments["kept"] = kept = job.Kept(outputs[0], settings, code, upstream)
    if shard:
        qkv = arguments["qkv"]
        every = [
            [layer, head]
            for layer in range(qkv.sizes["layer"])
            for head in range(qkv.sizes["head"])
        ]
        heads = every if arguments["heads"] == "all" else arguments["heads"]
        arguments["heads"] = part_of("gather").share(heads, shard)
    origin = {
        "stage": stage,
        "settings": settings,
        "code_digest": code,
        "upstream": upstream,
        "upstream_settings": upstream_settings,
    }
    with contextlib.ExitStack() as stack:
        if "kept" in wanted:
            stack.enter_context(kept.held())
        name = stack.enter_context(job.device(device if "device" in wanted else "cpu"))
        origin["device"] = name.split(":")[0]
        if "device" in wanted:
            arguments["device"] = name
        if "earlier" in wanted:
            # the file of which a shard is a part, .../shards/5/2/states.nc
            whole = outputs[0].parents[3] / outputs[0].name if shard else outputs[0]
            arguments["earlier"] = job.earlier(whole, origin, part_of(stage).EXTENDS)
        dataset = function(**arguments)
        processors = [job.processor()]
        if arguments.get("earlier") is not None:
            processors.append(arguments["earlier"].attrs["processor"])
        if "kept" in wanted:
            processors += kept.processors()
        origin |= {"experiment": outputs[0].parent.name, "processor": job.joined(processors)}
        attrs = names | named(dataset) | origin
        attrs = {name: attrs[name] for name in RECORDED if name in attrs}
        job.save(dataset, outputs[0], attrs)
        if "kept" in wanted:
            kept.clear()
    locks.clear([outputs[0].parent])  # what was left by jobs that were killed


def _unchanged(inputs: list[Path], digests: dict[str, str], settings: dict):
    """Breach if a user's file is not the one that was there when the jobs were planned."""
    wanted = settings.get("data", {}).get("file")
    if wanted and digests[inputs[0].name] != wanted:
        raise Breach(f"{inputs[0]}: was written to after Snakemake had read it; run again")


def named(dataset) -> dict[str, str]:
    """What data are called, in all that is made from them: their source, and labels of layers and heads."""
    return {key: dataset.attrs[key] for key in ("source", "labels") if key in dataset.attrs}


def put_together(inputs: list[Path], output: Path):
    """Save shards as the one file that the simulation would have made without them."""
    parts = [job.load(path) for path in inputs]
    attrs = parts[0].attrs | {"experiment": output.parent.name}
    attrs["processor"] = job.joined(part.attrs["processor"] for part in parts)
    attrs = {name: attrs[name] for name in RECORDED if name in attrs}
    job.save(part_of("gather").gather(parts), output, attrs)


def draw(inputs: list[Path], outputs: list[Path], settings: dict, code: str):
    """Draw a figure from the fits of its experiments, which are named like their folders.

    Where the figure's module has a table as well, it is written beside it and shown.
    """
    figure = importlib.import_module(f"tripartite.figures.{outputs[0].stem}")
    fits = {path.parent.name: job.load(path) for path in inputs}
    upstream = {job.key(path): fits[path.parent.name].attrs["content_digest"] for path in inputs}
    pictures = [path for path in outputs if path.suffix != ".md"]
    drawn = getattr(figure, outputs[0].stem)(fits, **settings)
    importlib.import_module("tripartite.figures.palette").mark_empty(drawn)
    job.save_figure(drawn, pictures, upstream, settings, code)
    for path in set(outputs) - set(pictures):
        text = figure.table(fits)
        job.save_text(text, path)
        print(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage")
    parser.add_argument("--input", nargs="*", type=Path, default=[])
    parser.add_argument("--output", nargs="*", type=Path, default=[])
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--code", default="", help="digest of the code, recorded in the file")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=1, help="heads computed at the same time")
    parser.add_argument("--shard", default="", help="2/5: the second of every five heads")
    parser.add_argument(
        "--shards", nargs="*", type=Path, default=[], help="what shards made: put it together"
    )
    parser.add_argument("--peers", type=Path, help="measure: the folder of other implementations")
    given = parser.parse_args()
    try:
        run(
            given.stage, given.input, given.output, given.settings, given.code, given.device,
            given.workers, given.shard, given.shards, given.peers,
        )  # fmt: skip
    except Breach as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if "CUDA" not in str(error):
            raise
        first_line = str(error).splitlines()[0]
        print(
            f"error: the GPU failed ({first_line}); nothing of this job was written. Run the same "
            "command again: what is done is kept. If its memory is too small, add device=cpu",
            file=sys.stderr,
        )
        return 1
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megabytes = most / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
    seconds = time.monotonic() - STARTED
    print(f"{given.stage}: {seconds:.1f} s, at most {megabytes:.0f} MB of memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
