"""What the files of several kinds say of each head of one model: a table with a row per head."""

import json

import numpy as np
import pandas as pd
import xarray as xr

from tripartite.figures import palette

RECIPES = {  # needs that are shown, by what symmetries.nc calls them
    "plain": "plain",
    "balanced": "centred, balanced",
    "fitted": "centred, balanced, width of each direction",
    "generalised": "centred, balanced, one width",
}
ALONE = {  # the same, of queries and keys as they are
    "fitted_alone": "width of each direction",
    "generalised_alone": "one width",
}
ORIGINS = {"learned": "learned", "random": "random", "fitted_random": "fitted random"}
ENDS = ("", "_low", "_high")


def networks(fits: dict[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The files of simulated networks: `plain`, `fitted`, and others by their experiments."""
    found: dict[str, xr.Dataset] = {}
    for experiment, fit in fits.items():
        if "phase_of" in fit:
            words = palette.network_words(fit.drop_vars("order"))
            name = "fitted" if "fitted" in words or "generalized" in words else words or "plain"
            found[experiment if name in found else name] = fit
    return found


def rows(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """One row per head: labels, order, needs, phases and errors of all sizes, and what helps most.

    fits: files of experiments that share their data, one of them with a network, by the names of
    these. Errors are means over inputs (those that test trained features) and seeds, with the ends
    of their 95 % intervals over seeds where networks were simulated; NaN where nothing was run.
    """
    first = next(iter(fits.values()))
    sizes = first.sizes["layer"], first.sizes["head"]
    layer, head = (x.ravel() for x in np.indices(sizes))
    columns: dict[str, object] = {"layer": layer, "head": head}
    named = json.loads(first.attrs.get("labels", "{}"))
    for dim, places in (("layer", layer), ("head", head)):
        labels = named.get(dim) or [*map(str, range(max(places) + 1))]
        columns[f"{dim}_label"] = [labels[i] for i in places]
    simulated = networks(fits)
    columns["order"] = np.repeat(next(iter(simulated.values()))["order"].values, sizes[1])
    columns |= {f"log10_needed_{name}": x.ravel() for name, x in needs(fits).items()}
    for name, fit in simulated.items():
        for m in map(int, fit["n_features"]):
            of_size = fit.sel(n_features=m)
            columns[f"phase_{name}_{m}"] = of_size["phase_of"].values.ravel()
            for end in ENDS:
                errors = of_size[f"output_error{end}"].values
                columns[f"output_error_{name}_{m}{end}"] = errors.ravel()
        columns.setdefault("output_error_uniform", fit["output_error_uniform"].values.ravel())
    for fit in fits.values():
        if "origin" in fit.dims:
            of_test = fit["output_error"].isel(input=fit["role"].values == "test")
            of_head = of_test.mean(("input", "seed"), skipna=False)
            for m in map(int, fit["n_features"]):
                for name, origin in ORIGINS.items():
                    one = of_head.sel(origin=origin, n_features=m)
                    columns[f"output_error_{name}_{m}"] = one.values.ravel()
    frame = pd.DataFrame(columns)
    return frame.assign(helps=helps(frame))


def needs(fits: dict[str, xr.Dataset]) -> dict[str, np.ndarray]:
    """log10 of the neurons that each head needs [layer, head], by the names of RECIPES and ALONE.

    Medians over the tested inputs; without an experiment of symmetries only those of the networks.
    """
    for fit in fits.values():
        if "recipe" in fit.dims:
            tested = fit.isel(input=fit["role"].values == "tested")
            found = tested["log10_features_needed"].median("input")
            recipes = RECIPES | ALONE
            return {name: found.sel(recipe=recipe).values for name, recipe in recipes.items()}
    known = {name: fit["log10_features_needed"].values for name, fit in networks(fits).items()}
    return {name: known[name] for name in RECIPES if name in known}


def helps(frame: pd.DataFrame) -> np.ndarray:
    """What by itself brings the needs and errors of each head down most; "" where it is not known.

    Centring with balancing, and fitting (in the better of its two forms, alone), are judged by the
    decades of neurons that they save. Training is judged by the output error at the largest size of
    the heads that were trained: it helps most where it lowers the least error of the others (random
    features, plain and fitted, and uniform attention) by a larger factor than they lower that of
    plain random features.
    """
    nothing = pd.Series(np.nan, frame.index)

    def column(name: str) -> pd.Series:
        return frame.get(name, nothing)

    plain, balanced, *alone = (
        column(f"log10_needed_{name}") for name in ("plain", "balanced", *ALONE)
    )
    saved = {"centring and balancing": plain - balanced, "fitting": plain - np.fmin(*alone)}
    of_head = pd.DataFrame(saved).fillna(-np.inf)
    found = np.where(of_head.max(axis=1) > 0, of_head.idxmax(axis=1), "nothing")
    found[np.isneginf(of_head).all(axis=1)] = ""
    sizes = [name.rsplit("_", 1)[1] for name in frame if name.startswith("output_error_learned_")]
    if sizes:
        learned, random, fitted_random = (
            column(f"output_error_{origin}_{sizes[-1]}") for origin in ORIGINS
        )
        others = np.fmin(np.fmin(random, fitted_random), column("output_error_uniform"))
        found[(learned < others) & (others / learned > random / others)] = "training"
    return found
