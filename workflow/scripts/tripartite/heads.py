"""A dataset seen head by head: what every stage that runs networks on heads needs.

`stage.py` makes Heads of q, k, v, their attention and the settings that choose among them. A stage
says what is done with one Head; `Heads.table` runs it on all chosen heads and puts the numbers to
their places in the file that the kind declares.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from tripartite.choosing import chosen_inputs, spread_heads
from tripartite.contracts import UserError
from tripartite.declarations import INTERVAL, axes, files, variables
from tripartite.large import Room, filled
from tripartite.streams import stream

T = TypeVar("T")
SETTINGS = ("heads", "inputs", "calibrated_on", "seed", "data_of")  # taken by Heads, not by stages
NOT_RUN = {
    "float64": np.nan,
    "float32": np.nan,
    "str": "not run",
    "bool": False,
    "int64": -1,
    "int8": 0,
}


@dataclass(frozen=True)
class Reading:
    """One input as one head reads it: its tokens alone, in float64."""

    name: str
    q: Tensor  # [T, D]
    k: Tensor  # [T, D]
    v: Tensor  # [T, E]
    log_normalizer: Tensor  # [T], ln Z of softmax attention
    output: Tensor  # [T, E], of softmax attention
    causal: bool  # whether a query reads only the keys up to its own token


@dataclass(frozen=True)
class Head:
    """One head of one layer, with the inputs that it reads and its own random numbers."""

    layer: int
    head: int
    readings: list[Reading]
    calibrating: list[Reading]  # inputs to which something is fitted
    seed: int
    data_of: str  # the experiment with the data, whose name finds the random numbers
    device: str
    causal: bool  # whether a query reads only the keys up to its own token
    advance: Callable[[float], object] = float  # told what share of the head is done

    def each(self, parts: Sequence[T]) -> Iterator[T]:
        """The parts of the work on this head, such as seeds, for the line of progress."""
        for part in parts:
            yield part
            self.advance(1 / len(parts))

    def stream(self, *names: str | int) -> np.random.Generator:
        """The random numbers of these names that belong to this head."""
        return stream(self.seed, self.data_of, *names, self.layer, self.head)


@dataclass(frozen=True)
class Heads:
    """The chosen heads and inputs of an experiment's data.

    heads is "all", a number of heads, or a list of [layer, head]; inputs is "all", which leaves out
    those that calibrate, or a list of names; calibrated_on is "half" or a list of names. UserError
    if one of them does not exist.
    """

    qkv: xr.Dataset
    attention: xr.Dataset
    heads: Literal["all"] | int | list[list[int]] = "all"
    inputs: str | list[str] = "all"
    calibrated_on: str | Sequence[str] = ()
    seed: int = 0
    data_of: str = ""
    device: str = "cpu"
    workers: int = 1
    room: Room = np.empty  # gives the arrays of a table
    chosen: list[tuple[int, int]] = field(init=False)  # places of the chosen heads
    names: list[str] = field(init=False)  # of all inputs

    def __post_init__(self) -> None:
        sizes = self.qkv.sizes
        every = [(a, b) for a in range(sizes["layer"]) for b in range(sizes["head"])]
        if isinstance(self.heads, int):
            chosen = spread_heads(self.heads, sizes["layer"], sizes["head"])
        else:
            chosen = every if self.heads == "all" else [(a, b) for a, b in self.heads]
        for pair in set(chosen) - set(every):
            raise UserError(
                f"heads: got {list(pair)}, wanted layers below {sizes['layer']} and heads below "
                f"{sizes['head']}"
            )
        names = [str(name) for name in self.qkv["input"].values]
        asked = [] if self.inputs == "all" else self.inputs
        calibrating = chosen_inputs(names, self.calibrated_on)[0]
        for name in [*asked, *calibrating]:
            if name not in names:
                raise UserError(f"inputs: got {name}, wanted some of {', '.join(names)}")
        object.__setattr__(self, "chosen", chosen)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "calibrated_on", calibrating)

    @property
    def read_inputs(self) -> list[int]:
        """Places of the inputs that are read."""
        if self.inputs != "all":
            return [self.names.index(name) for name in self.inputs]
        return [i for i, name in enumerate(self.names) if name not in self.calibrated_on]

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Layers and heads of the chosen heads, as an index of arrays [..., layer, head]."""
        layer, head = np.array(self.chosen).T
        return layer, head

    @property
    def distinct(self) -> np.ndarray:
        """Number of the set of weights of each chosen head: heads of one number are one cluster."""
        return self.qkv["distinct_head"].values[self.places]

    def stream(self, *names: str | int) -> np.random.Generator:
        """The random numbers of these names that belong to the data."""
        return stream(self.seed, self.data_of, *names)

    def present(self, i: int) -> np.ndarray:
        """Where an input has tokens, true or false [token]."""
        return self.qkv["mask"].values[i]

    def n_tokens(self, i: int) -> int:
        """How many tokens an input has."""
        return int(self.present(i).sum())

    def reading(self, i: int, layer: int, head: int) -> Reading:
        """The input of place i as a head reads it."""
        present = self.present(i)
        q, k, v, log_normalizer, output = (
            torch.from_numpy(dataset[name].variable[i, layer, head].values[present]).double()
            for dataset, names in (
                (self.qkv, ("q", "k", "v")),
                (self.attention, ("log_normalizer", "output")),
            )
            for name in names
        )
        return Reading(self.names[i], q, k, v, log_normalizer, output, self.causal(layer))

    def causal(self, layer: int) -> bool:
        """Whether the queries of a layer read only the keys up to their own token."""
        return self.qkv["order"].values[layer] == "causal"

    def head(self, layer: int, head: int) -> Head:
        """One head, chosen or not."""
        calibrating = [self.names.index(name) for name in self.calibrated_on]
        return Head(
            layer,
            head,
            [self.reading(i, layer, head) for i in self.read_inputs],
            [self.reading(i, layer, head) for i in calibrating],
            self.seed,
            self.data_of,
            self.device,
            self.causal(layer),
        )

    def map(self, one_head: Callable[[Head], object], what: str) -> list:
        """Results of one_head in the order of `chosen`, with progress; several heads in parallel.

        Beside a GPU one more thread draws neurons while the others wait for it.
        """
        with tqdm(desc=what, total=len(self.chosen), **_line("heads")) as bar:

            def run(place: tuple[int, int]) -> object:
                shares: list[float] = []

                def advance(share: float) -> None:
                    shares.append(share)
                    bar.update(share)

                result = one_head(replace(self.head(*place), advance=advance))
                bar.update(1 - sum(shares))
                return result

            with ThreadPoolExecutor(self.workers + (self.device != "cpu")) as pool:
                return list(pool.map(run, self.chosen))

    def table(
        self, file: str, one_head: Callable[[Head], dict], coords: dict, **others: object
    ) -> xr.Dataset:
        """Run one_head on every chosen head, and put what it returns to its place.

        one_head returns values by the names of the declared variables, without the axes layer and
        head: of a variable with an interval, estimate, low and high. Elsewhere numbers are NaN and
        texts "not run". others are variables of the whole file, coords its axes beside layer, head
        and input.
        """
        results = self.map(one_head, files()[file].stage)
        found = self.placed(file, results, coords)
        if not results:  # a shard without a head
            of_heads = [name for name, one in variables(file).items() if "head" in one.dims.split()]
            found = self.not_run(file, {*of_heads} - {*others}, coords)
        return self.dataset(file, found | others, coords)

    def placed(self, file: str, results: list[dict], coords: dict) -> dict[str, np.ndarray]:
        """Results of the chosen heads as arrays of all heads, by the names of variables."""
        spec = variables(file)
        found: dict[str, np.ndarray] = {}
        for (layer, head), result in zip(self.chosen, results):
            for name, value in _ends(file, result).items():
                dims = spec[name].dims.split()
                if name not in found:
                    found |= self.not_run(file, [name], coords, room=self.room)
                place = {"layer": layer, "head": head}
                found[name][tuple(place.get(dim, slice(None)) for dim in dims)] = value
        return found

    def not_run(
        self,
        file: str,
        names: Iterable[str],
        coords: dict,
        without: Sequence[str] = (),
        room: Room = np.empty,
    ) -> dict[str, np.ndarray]:
        """Variables as they stand where nothing was run, on their axes but those of `without`."""
        lengths = dict(self.qkv.sizes) | {name: len(values) for name, values in coords.items()}
        found = {}
        for name in names:
            spec = variables(file)[name]
            shape = tuple(lengths[dim] for dim in spec.dims.split() if dim not in without)
            dtype = object if spec.dtype == "str" else spec.dtype
            found[name] = filled(room, shape, dtype, NOT_RUN[spec.dtype])
        return found

    def dataset(self, file: str, values: dict, coords: dict, **attrs: object) -> xr.Dataset:
        """As the function `dataset`; input, layer, head and order are known from the data."""
        own = {name: self.qkv[name].values for name in ("input", "layer", "head")}
        if "order" in variables(file):
            values = values | {"order": self.qkv["order"].values}
        return dataset(file, values, own | coords, **attrs)


def dataset(file: str, values: dict, coords: dict, **attrs: object) -> xr.Dataset:
    """A file of arrays by the names of its variables, estimates with intervals as triples.

    coords has the values of all axes that the file has coordinates for.
    """
    spec = variables(file)
    arrays = _ends(file, values)
    found = xr.Dataset(
        {name: (spec[name].dims.split(), value) for name, value in arrays.items()},
        coords={
            name: np.asarray(coords[name], dtype=object if axis.dtype == "str" else axis.dtype)
            for name, axis in axes(file).items()
        },
        attrs=attrs,
    )
    return found.set_coords([name for name in arrays if spec[name].coordinate])


def _ends(file: str, values: dict) -> dict:
    """Values with (estimate, low, high) of declared intervals under their three names."""
    found: dict[str, object] = {}
    declared = files()[file].variables
    for name, value in values.items():
        if name in declared and declared[name].over and isinstance(value, tuple | list):
            found |= {name + end: one for (end, _), one in zip(INTERVAL, value, strict=True)}
        else:
            found[name] = value
    return found


def progress(steps: Iterable[T], what: str, unit: str, total: int | None = None) -> tqdm:
    """The steps, with a line of progress every few seconds."""
    return tqdm(steps, what, total, **_line(unit))


def _line(unit: str) -> dict:
    words = "{desc}: {percentage:.0f} % of {total} " + unit
    words += ", elapsed {elapsed}, about {remaining} left\n"
    return {"bar_format": words, "mininterval": 5, "maxinterval": 5}
