"""What the overview shows of each kind of experiment, as tables, and as sentences."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import xarray as xr

from tripartite.figures import palette
from tripartite.figures.biology import BIOLOGY
from tripartite.figures.captions import interval
from tripartite.figures.panels import heads_by, spread

Fits = dict[str, xr.Dataset]

MAX_MODELS = 5  # in a panel
MAX_POINTS = 200  # tokens of a head
MAX_STRIPS = 3  # tasks side by side
CONTACTS, CORTEX = BIOLOGY["rodent astrocyte"], BIOLOGY["human cortex"]
ARMS = {  # what attends in trained networks, in the order of rows
    "softmax": "softmax attention",
    "learned": "trained neurons",
    "leak": "trained, leaky",
    "random": "fixed random neurons",
    "astromorphic": "astromorphic",
    "gru": "recurrent (GRU)",
}
HEADLINE_ARMS = (ARMS["softmax"], ARMS["learned"], ARMS["random"])  # of the sentence
CALCIUM = {
    "li_rinzel_nest": "Li–Rinzel (NEST)",
    "li_rinzel_stimberg": "Li–Rinzel (Stimberg)",
    "chi": "ChI",
    "g_chi": "G-ChI",
}
DIVISIONS = {  # what heads divide by instead of their own Z, by knock-out
    "knockout_best": "best constant",
    "knockout_best_inside": "…, fitted in\nthe changed model",
    "knockout_best_here": "…, fitted to the\nvery input",
    "knockout_lagged": "$Z$ of the token\nbefore",
}


def tables(fits: Fits) -> dict[str, pd.DataFrame]:
    """The table of each panel for which there are numbers, in the order of the panels.

    All have the columns panel, experiment and data, and value with its 95 % interval, value_low and
    value_high, NaN where it has none.
    """
    found = {}
    for name, rows_of in FINDINGS.items():
        rows = [row for row in rows_of(fits) if row["value"] == row["value"]]
        if rows:
            blank = {"panel": name, "value_low": np.nan, "value_high": np.nan}
            found[name] = pd.DataFrame([blank | row for row in rows])
    return found


def of_kind(fits: Fits, kind: str) -> Fits:
    return {name: fit for name, fit in fits.items() if fit.attrs["kind"] == kind}


def networks(fits: Fits) -> dict[str, dict[str, tuple[str, xr.Dataset]]]:
    """Of each model the experiment with most simulated heads of its plain and its best network.

    By data and recipe, the least first: at most two. Values are the experiment and its fit.
    """
    found: dict[str, dict[str, tuple[str, xr.Dataset]]] = {}
    for name, fit in of_kind(fits, "network").items():
        known = found.setdefault(fit.attrs["data"], {})
        recipe = palette.recipe_of(fit)
        if recipe not in known or _n_run(fit) > _n_run(known[recipe][1]):
            known[recipe] = (name, fit)
    for data, known in found.items():
        names = sorted(known, key=[*palette.RECIPES].index)
        found[data] = {recipe: known[recipe] for recipe in dict.fromkeys((names[0], names[-1]))}
    return dict(list(found.items())[:MAX_MODELS])


def _n_run(fit: xr.Dataset) -> int:
    return int(fit["output_error"].notnull().any("n_features").sum())


def _about(name: str, fit: xr.Dataset, **more: object) -> dict:
    return {"experiment": name, "data": fit.attrs["data"], **more}


def _with_ends(values: xr.Dataset, name: str) -> dict[str, float]:
    ends = {"value": name, "value_low": f"{name}_low", "value_high": f"{name}_high"}
    return {end: float(values[key]) for end, key in ends.items() if key in values}


def _places(fit: xr.Dataset, place: tuple[int, int]) -> dict[str, int]:
    return {"layer": int(fit["layer"][place[0]]), "head": int(fit["head"][place[1]])}


def tokens(fits: Fits) -> Iterator[dict]:
    """ln p and ln Z of queries in the largest plain networks, for an easy head and a median one."""
    plain = [
        (name, fit)
        for name, fit in of_kind(fits, "network").items()
        if palette.recipe_of(fit) == "plain" and fit["log_calcium"].notnull().any()
    ]
    if not plain:
        return
    name, fit = max(plain, key=lambda pair: int(pair[1]["n_features"][-1]))
    run = fit["output_error"].notnull().any("n_features")
    for place, first in zip(heads_by(_hardness(fit).where(run).values, 3), (True, False)):
        one = fit.isel(layer=place[0], head=place[1], n_features=-1)
        about = _about(name, fit, first=first, n_features=int(one["n_features"]))
        about |= _places(fit, place)
        about["log10_features_needed"] = float(one["log10_features_needed"])
        for key in ("correlation", "correlation_low", "correlation_high"):
            about[key] = float(one[key])
        pairs = one[["log_normalizer", "log_calcium"]].stack(query=("input", "token"))
        z, p = (pairs[key].values for key in ("log_normalizer", "log_calcium"))
        for i in spread(np.flatnonzero(np.isfinite(z) & np.isfinite(p)).tolist(), MAX_POINTS):
            yield about | {"x": float(z[i]), "value": float(p[i])}


def _hardness(fit: xr.Dataset) -> xr.DataArray:
    """What orders heads from easy to hard: the neurons that they need, or else their errors."""
    needed = fit["log10_features_needed"]
    return needed if needed.notnull().any() else fit["output_error"].isel(n_features=-1)


def needs(fits: Fits) -> Iterator[dict]:
    """log10 of the neurons that each head needs, with plain and with the best hidden weights."""
    for known in networks(fits).values():
        for recipe, (name, fit) in known.items():
            needed = fit["log10_features_needed"]
            about = _about(name, fit, recipe=recipe, n_features=int(fit["n_features"][-1]))
            for place in np.argwhere(np.isfinite(needed.values)).tolist():
                value = float(needed.values[tuple(place)])
                yield about | _places(fit, (place[0], place[1])) | {"value": value}


def errors(fits: Fits) -> Iterator[dict]:
    """Errors of the output of heads in the largest networks of both recipes, and their medians."""
    for known in networks(fits).values():
        pair = [*known.items()]
        sizes = {*pair[0][1][1]["n_features"].values} & {*pair[-1][1][1]["n_features"].values}
        if len(pair) < 2 or not sizes:
            continue
        m = int(max(sizes))
        run = [fit["output_error"].sel(n_features=m).notnull().values for _, (_, fit) in pair]
        if run[0].mean() < 0.5 or not np.array_equal(run[0], run[1]):
            continue  # a few heads, which were chosen, say nothing of the model
        for recipe, (name, fit) in pair:
            one = fit.sel(n_features=m)
            about = _about(name, fit, recipe=recipe, n_features=m)
            for place in np.argwhere(run[0]).tolist():
                value = float(one["output_error"].values[tuple(place)])
                yield about | _places(fit, (place[0], place[1])) | {"what": "head", "value": value}
            yield about | {"what": "median head", **_with_ends(one, "output_error_all")}
            equal = _with_ends(one, "output_error_uniform_all")
            yield about | {"what": "equal attention", **equal}


def rebuilt(fits: Fits) -> Iterator[dict]:
    """Scores of whole rebuilt transformers, from 0 (equal attention) to 1 (softmax attention)."""
    for name, fit in [*of_kind(fits, "rebuilt").items()][:MAX_MODELS]:
        one = fit.isel(measure=0).sel(part="all") if "all" in fit["part"] else None
        if one is None:
            continue
        low, high = (
            float(one["mean_reference_score"].sel(reference=x)) for x in ("equal", "softmax")
        )
        about = _about(name, fit, measure=str(one["label"].values), equal=low, softmax=high)
        for recipe in map(str, one["recipe"].values):
            of_recipe = one.sel(recipe=recipe).dropna("n_features", subset=["mean_score"])
            if not of_recipe.sizes["n_features"] or recipe not in palette.RECIPES:
                continue
            of_recipe = of_recipe.isel(n_features=-1)
            score = _with_ends(of_recipe, "mean_score")
            ends = sorted((x - low) / (high - low) for x in list(score.values())[1:])
            yield about | {
                "recipe": recipe,
                "n_features": int(of_recipe["n_features"]),
                "score": score["value"],
                "score_low": score["value_low"],
                "score_high": score["value_high"],
                "value": (score["value"] - low) / (high - low),
                "value_low": ends[0],
                "value_high": ends[1],
            }


def trained(fits: Fits) -> Iterator[dict]:
    """Scores of networks trained from scratch, as they are and with the best constant for p."""
    for name, fit in [*of_kind(fits, "trained").items()][:MAX_STRIPS]:
        for arm in (arm for arm in ARMS if arm in fit["arm"]):
            of_arm = fit.sel(arm=arm)
            one = of_arm.isel(n_features=int(np.flatnonzero(of_arm["n_parameters"] >= 0)[-1]))
            score = _with_ends(one, "mean_test_score")
            about = _about(name, fit, row=ARMS[arm], unit=str(fit["unit"].values))
            about["n_features"] = int(one["n_features"])
            yield about | {"what": "trained", **score}
            if "best_constant" in fit["knockout"]:
                change = _with_ends(one.sel(knockout="best_constant"), "knockout_change")
                after = {end: score["value"] + value for end, value in change.items()}
                change = {end.replace("value", "change"): value for end, value in change.items()}
                yield about | {"what": "best constant for p", **change, **after}


def calcium(fits: Fits) -> Iterator[dict]:
    """Spread of the gain that is left when models of calcium divide, without and with noise."""
    hardness = {data: _hardness([*known.values()][0][1]) for data, known in networks(fits).items()}
    for name, fit in of_kind(fits, "readout").items():
        without = np.isinf(fit["vesicles"].values)
        noises = fit["calcium_noise"].values
        kinds = {int(np.argmax(np.where(without, -noises, -np.inf)))}
        kinds |= {int(np.argmax(np.where(without, noises, -np.inf)))}
        left = fit["best_spread_left"]
        run = left.notnull().any([dim for dim in left.dims if dim not in ("layer", "head")])
        order = hardness.get(fit.attrs["data"], fit["sd_log_normalizer"])
        heads = heads_by(order.where(run).values, 2)
        for noise in sorted(kinds, key=lambda i: noises[i]):
            for readout in map(str, fit["readout"].values):
                for model in map(str, fit["model"].values):
                    for number, place in enumerate(heads):
                        one = fit.isel(noise=noise, layer=place[0], head=place[1])
                        one = one.sel(readout=readout, model=model)
                        yield _about(
                            name,
                            fit,
                            row=CALCIUM.get(model, model),
                            readout=readout,
                            noise=float(noises[noise]),
                            first=number == 0,
                            **_places(fit, place),
                            **_with_ends(one, "best_spread_left"),
                        )


def divisions(fits: Fits) -> Iterator[dict]:
    """Cosine of a model's output with itself, if its heads divide by something else than Z."""
    for name, fit in [*of_kind(fits, "ablation").items()][:MAX_MODELS]:
        output = fit.isel(layer=-1)
        for knockout in (key for key in DIVISIONS if key in fit["perturbation"]):
            one = output.sel(perturbation=knockout)
            about = _about(name, fit, row=DIVISIONS[knockout])
            layers = one["cosine"].sel(lesion=[x for x in fit["lesion"].values if x != "all"])
            yield about | {"what": "one layer", "value": float(layers.median())}
            if "all" in fit["lesion"]:
                yield about | {"what": "all layers", **_with_ends(one.sel(lesion="all"), "cosine")}


FINDINGS: dict[str, Callable[[Fits], Iterator[dict]]] = {
    "tokens": tokens,
    "needs": needs,
    "errors": errors,
    "rebuilt": rebuilt,
    "trained": trained,
    "calcium": calcium,
    "divisions": divisions,
}


# Sentences.


def each(rows: pd.DataFrame, words: Callable[[pd.DataFrame], str]) -> str:
    """Words for each model, with its name in brackets, as a list."""
    parts = [
        f"{words(own)} ({name_of(str(data), 40)})" for data, own in rows.groupby("data", sort=False)
    ]
    return ", ".join(parts)


def name_of(data: str, n_letters: int = 16) -> str:
    return palette.short_name(data, n_letters).replace(r"\$", "$")


def number(x: float) -> str:
    return palette.decimal(x) if abs(x) < 1e4 or x != x else f"{x:.1e}"


def estimate(row: pd.Series, prefix: str = "value") -> str:
    middle, low, high = (row[f"{prefix}{end}"] for end in ("", "_low", "_high"))
    return interval(middle, low, high, number)


def of_tokens(rows: pd.DataFrame) -> str:
    parts = []
    for _, own in rows.groupby("first", sort=False):
        one = own.iloc[0]
        needed = one["log10_features_needed"]
        words = f" in a head that needs 10^{needed:.1f} of them" if needed == needed else ""
        parts.append(estimate(one, "correlation") + words)
    one = rows.iloc[0]
    name = name_of(one["data"])
    return (
        f"With {one['n_features']} plain neurons, ln p and ln Z of {name} correlate by "
        f"{' and by '.join(parts)}."
    )


def of_needs(rows: pd.DataFrame) -> str:
    def medians(own: pd.DataFrame) -> str:
        return " or ".join(
            f"10^{part['value'].median():.1f} {recipe}"
            for recipe, part in own.groupby("recipe", sort=False)
        )

    few = rows[rows["value"] <= np.log10(CONTACTS)].groupby("recipe", sort=False).size()
    of = rows.groupby("recipe", sort=False).size()
    counts = " and ".join(f"{few.get(recipe, 0)} of {n} {recipe}" for recipe, n in of.items())
    return (
        "For a 10 % rms error of Z the median head needs so many neurons: "
        f"{each(rows, medians)}; {counts} heads need no more than {palette.spaced(CONTACTS)}, the "
        "most contacts of a rodent astrocyte."
    )


def of_errors(rows: pd.DataFrame) -> str:
    def medians(own: pd.DataFrame) -> str:
        return " and ".join(f"{estimate(row)} {row['recipe']}" for _, row in own.iterrows())

    medians_of = rows[rows["what"] == "median head"]
    sizes = ", ".join(map(str, medians_of["n_features"].unique()))
    return (
        f"At m = {sizes} the relative error of the median head's output is "
        f"{each(medians_of, medians)}."
    )


def of_rebuilt(rows: pd.DataFrame) -> str:
    def score(own: pd.DataFrame) -> str:
        best = own.iloc[-1]
        fitted = own[own["recipe"] == "fitted"]
        row = fitted.iloc[0] if len(fitted) else best
        return f"{estimate(row)} with {row['n_features']} {row['recipe']} neurons"

    return (
        "Of the way from the score of equal attention (0) to that of softmax attention (1), whole "
        f"rebuilt transformers go {each(rows, score)}."
    )


def of_trained(rows: pd.DataFrame) -> str:
    def costs(own: pd.DataFrame) -> str:
        parts = []
        for row, pair in own[own["row"].isin(HEADLINE_ARMS)].groupby("row", sort=False):
            change = pair[pair["what"] != "trained"]
            costs = f", changed by {estimate(change.iloc[0], 'change')}" if len(change) else ""
            score = pair.iloc[0].copy()
            if score["unit"] == "accuracy":
                score["value_low"], score["value_high"] = np.clip(
                    score[["value_low", "value_high"]].astype(float), 0, 1
                )
            parts.append(f"{row} {estimate(score)}{costs}")
        return f"{own['unit'].iloc[0]}: {'; '.join(parts)}"

    return (
        "Networks trained from scratch score, and are changed by the best constant in place of p: "
        f"{each(rows, costs)}."
    )


def of_calcium(rows: pd.DataFrame) -> str:
    parts = []
    for (noise, readout), own in rows.groupby(["noise", "readout"], sort=False):
        ends = " to ".join(
            palette.decimal(x) if x >= 0.01 else f"{x:.1g}"
            for x in (own["value"].min(), own["value"].max())
        )
        how = "without noise" if noise == 0 else f"with {palette.percent(noise)} noise"
        parts.append(f"{ends} for {'calcium' if readout == 'C' else 'a fitted power of it'} {how}")
    words = "; ".join(parts)
    return f"Dividing by the calcium of models leaves this share of the spread of ln Z: {words}."


def of_divisions(rows: pd.DataFrame) -> str:
    inside = DIVISIONS["knockout_best_inside"]

    def cosines(own: pd.DataFrame) -> str:
        best = own[own["row"] == DIVISIONS["knockout_best"]]
        parts = [f"{estimate(row)} in {row['what']}" for _, row in best.iterrows()]
        for _, row in own[(own["row"] == inside) & (own["what"] == "all layers")].iterrows():
            parts.append(f"{estimate(row)} in all layers if fitted in the changed model")
        return " and ".join(parts)

    return (
        "If heads divide by the best constant, fitted to other inputs, instead of Z, the output of "
        f"the whole model keeps a cosine of {each(rows, cosines)}."
    )


SENTENCES = {
    "tokens": of_tokens,
    "needs": of_needs,
    "errors": of_errors,
    "rebuilt": of_rebuilt,
    "trained": of_trained,
    "calcium": of_calcium,
    "divisions": of_divisions,
}
