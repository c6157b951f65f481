"""Train a small transformer of each arm from scratch: learning rates, seeds, scores, samples."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr

from tripartite import job
from tripartite.contracts import UserError
from tripartite.declarations import files
from tripartite.heads import NOT_RUN, dataset, progress
from tripartite.kinds.trained import arms, books, knocked_out, tasks, training
from tripartite.statistics import over_seeds
from tripartite.streams import stream

TUNING = 0.2  # ASSUME: steps of the shorter runs that choose the learning rate, a share of `steps`
SIZELESS = "not run: does not depend on n_features"
ALL_DIVERGED = "not run: every learning rate diverged"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the kind."""

    arms: list[str]
    n_features: list[int]
    n_seeds: int
    context: int
    d_model: int
    n_layers: int
    n_heads: int
    batch: int
    steps: int
    learning_rates: list[float]
    prompts: list[str]
    sample_length: int
    temperature: float


class Arm(NamedTuple):
    """An arm of one size, and the width that gives it as many parameters as softmax has."""

    name: str
    m: int
    width: int


def train(
    raw: list[Path],
    task: str,
    sha256: dict[str, str],
    seed: int,
    data_of: str,
    settings: Settings,
    device: str,
    workers: int,
    checkpoint: training.Kept,
) -> xr.Dataset:
    """Return learning curves, scores, knock-outs and texts of all arms on a task.

    The same settings give the same bytes on one kind of processor, with any number of workers and
    whether or not the work was interrupted; a GPU may differ in the last digits.
    """
    archives, _ = job.open_sources(raw, sha256)
    opened = tasks.open_task(task, archives, settings.context)
    return results(opened, seed, data_of, settings, device, workers, checkpoint)


def results(
    task: tasks.Task,
    seed: int,
    data_of: str,
    settings: Settings,
    device: str,
    workers: int,
    checkpoint: training.Kept,
) -> xr.Dataset:
    """As train, of an open task."""
    shape = arms.Shape(
        n_symbols=task.n_symbols,
        n_outputs=task.n_outputs,
        n_tokens=task.n_tokens,
        causal=task.causal,
        pooled=task.test[1].ndim == 1,
        d_model=settings.d_model,
        n_layers=settings.n_layers,
        n_heads=settings.n_heads,
    )
    prompts = tasks.prompts(task, settings.prompts) if task.letters else []
    every = [
        Arm(name, m, _width(name, shape, m))
        for name in settings.arms
        for m in (settings.n_features[:1] if name in arms.SIZELESS else settings.n_features)
    ]
    validation, test = (_on(part, device) for part in (task.validation, task.test))
    full = training.evaluation_steps(settings.steps)
    rates = settings.learning_rates
    shorter = [0, max(1, round(TUNING * settings.steps))]

    def trained(
        arm: Arm, index: int, rate: float, at: list[int], name: str
    ) -> tuple[Any, training.Trained]:
        """A network of an arm, and what its training gave."""
        network = arms.network(arm.name, shape, arm.m, arm.width).to_empty(device=device)
        arms.initialise(network, lambda one: stream(seed, data_of, "weights", index, one))

        def batch(step: int) -> training.Batch:
            rng = stream(seed, data_of, "batch", index, step)
            return _on(task.draw(rng, settings.batch), device)

        made_with = {
            "arm": arm.name,
            "n_features": arm.m,
            "width": arm.width,
            **shape._asdict(),
            **{"batch": settings.batch, "steps": at[-1], "learning_rate": rate},
            **{"seed": [seed, data_of, index]},
        }
        return network, training.train(
            network, batch, validation, at, rate, checkpoint, name, made_with, bar.update
        )

    def tuned(job: tuple[Arm, int]) -> dict[str, np.ndarray]:
        """The validation loss of one learning rate."""
        arm, place = job
        name = f"{arm.name}-{arm.m}-rate-{place}"
        if name not in checkpoint:
            _, found = trained(arm, 0, rates[place], shorter, f"{name}-running")
            last = np.array(found.validation_loss[-1])
            checkpoint[name] = {"tuning_loss": last, "tuning_note": np.array(found.note)}
            del checkpoint[f"{name}-running"]
        else:
            bar.update(shorter[-1])
        return checkpoint[name]

    def measured(job: tuple[Arm, int, float]) -> dict[str, np.ndarray]:
        """Everything of one seed at the best learning rate."""
        arm, index, rate = job
        name = f"{arm.name}-{arm.m}-{index}"
        if math.isnan(rate):
            return {"note": np.array(ALL_DIVERGED)}
        if name not in checkpoint:
            network, found = trained(arm, index, rate, full, f"{name}-running")
            values: dict[str, Any] = found._asdict()
            for part, data in (("validation", validation), ("test", test)):
                values[f"{part}_score"] = training.score(network, data, task.unit)
            if arm.name != "gru":
                values["knockout_score"] = _knocked_out(network, task, validation, test)
            if prompts:
                values |= _texts(network, index)
            checkpoint[name] = {key: np.array(value) for key, value in values.items()}
            del checkpoint[f"{name}-running"]
        else:
            bar.update(settings.steps)
        return checkpoint[name]

    def _texts(network: Any, index: int) -> dict[str, Any]:
        """What a network writes after each prompt."""
        longest = max(map(len, prompts)) + settings.sample_length
        uniform = stream(seed, data_of, "letters", index).random((longest, len(prompts)))
        written = training.write(
            network, prompts, settings.sample_length, settings.temperature, uniform
        )
        texts = ["".join(task.letters[i] for i in text) for text in written]
        copies = [books.longest_copied(text, task.training_text) for text in texts]
        return {"text": texts, "longest_copy": copies}

    total = len(every) * (len(rates) * shorter[-1] + settings.n_seeds * full[-1])
    with (
        progress((), "train", "steps of training", total) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        jobs = [(arm, place) for arm in every for place in range(len(rates))]
        tuning = dict(zip(jobs, pool.map(tuned, jobs)))
        best = {arm: _best(rates, [tuning[arm, i] for i in range(len(rates))]) for arm in every}
        runs = [(arm, i, best[arm]) for arm in every for i in range(settings.n_seeds)]
        found = dict(zip(((arm, i) for arm, i, _ in runs), pool.map(measured, runs)))
    coords = {
        "arm": settings.arms,
        "n_features": settings.n_features,
        "seed": range(settings.n_seeds),
        "step": full,
        "learning_rate": rates,
        "baseline": list(task.baselines),
        "knockout": list(knocked_out.KNOCKOUTS),
        "prompt": settings.prompts,
    }
    values = _empty(coords)
    for arm in every:
        place = settings.arms.index(arm.name), settings.n_features.index(arm.m)
        network = arms.network(arm.name, shape, arm.m, arm.width)
        values["n_parameters"][place] = arms.n_parameters(network)
        values["state_size"][place] = arms.state_size(network, shape, arm.m)
        values["best_learning_rate"][place] = best[arm]
        for i in range(len(rates)):
            for name, value in tuning[arm, i].items():
                values[name][(*place, i)] = value.item()
        for index in range(settings.n_seeds):
            for name, value in found[arm, index].items():
                before = (slice(None),) if name == "knockout_score" else ()
                values[name][(*before, *place, index)] = value if value.ndim else value.item()
    return dataset(
        "trained",
        values
        | _summaries(values)
        | {
            "unit": task.unit,
            "n_tokens": task.n_tokens,
            "n_trained_tokens": task.n_tokens * settings.batch * settings.steps,
            "baseline_score": list(task.baselines.values()),
            "temperature": settings.temperature,
        },
        coords,
        data=task.title,
    )


def _width(name: str, shape: arms.Shape, m: int) -> int:
    """The width that gives an arm as many parameters as softmax has."""
    try:
        return arms.width(name, shape, m)
    except ValueError as fault:
        raise UserError(f"n_features: {fault}; lower it, or raise d_model") from None


def _best(rates: list[float], tuning: list[dict[str, np.ndarray]]) -> float:
    """The learning rate of the least loss; NaN if all diverged."""
    losses = np.array([one["tuning_loss"] for one in tuning])
    return rates[int(np.nanargmin(losses))] if np.isfinite(losses).any() else math.nan


def _knocked_out(
    network: Any, task: tasks.Task, validation: training.Batch, test: training.Batch
) -> list[float]:
    """Scores of a trained network with each knock-out."""

    def validate(change: arms.Change) -> None:
        with torch.no_grad():
            network(validation[0], change)

    changes = [one.change(validate, task.causal) for one in knocked_out.KNOCKOUTS.values()]
    return [training.score(network, test, task.unit, change) for change in changes]


def _empty(coords: dict) -> dict[str, np.ndarray]:
    """Variables as they stand where nothing was run."""
    return {
        name: np.full(
            [len(coords[dim]) for dim in spec.dims.split()],
            {"note": SIZELESS, "tuning_note": SIZELESS, "text": ""}.get(name, NOT_RUN[spec.dtype]),
            dtype=object if spec.dtype == "str" else spec.dtype,
        )
        for name, spec in files()["trained"].variables.items()
        if "arm" in spec.dims
    }


def _summaries(values: dict[str, np.ndarray]) -> dict:
    """Means over seeds with their intervals."""
    test, knockouts = values["test_score"], values["knockout_score"]
    over = {
        "mean_validation_score": values["validation_score"],
        "mean_test_score": test,
        "knockout_change": knockouts - test,
    }
    return {
        name: over_seeds(lambda x: x.mean(0), np.moveaxis(x, -1, 0), "linear")
        for name, x in over.items()
    }


def _on(data: training.Batch, device: str) -> training.Batch:
    inputs, targets = data
    return inputs.to(device), targets.to(device)
