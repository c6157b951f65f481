"""The published protocol: one head that reads one input, response beside normaliser, arm by arm."""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import interval
from tripartite.kinds.network.trace import (
    draw_responses,
    first_read,
    simulated_heads,
    token_words,
)


def protocol(fits: dict[str, xr.Dataset]) -> Figure:
    """A row per experiment: ln of response and normaliser on the left, their difference beside it.

    Each experiment shows its first simulated head by the neurons it needs, reading the first input
    that was read. Titles hold its sigma^2, and of the smallest and the largest network the phase,
    the median error of the normaliser and r of the logs, with 95 % intervals over seeds. Lines are
    the median over seeds, bands hold the central 80 % of seeds.
    """
    palette.apply()
    figure, axes = plt.subplots(
        len(fits),
        2,
        squeeze=False,
        figsize=(palette.PAGE, 0.3 + 1.85 * len(fits)),
        gridspec_kw={"width_ratios": [3, 2]},
    )
    for fit, (left, right) in zip(fits.values(), axes, strict=True):
        layer, head = simulated_heads(fit)[0]
        at_input = first_read(fit)
        shown = at_input.sel(layer=layer, head=head)
        draw_responses(left, right, shown)
        sizes = fit["n_features"].values
        name, sigma_squared = palette.head_name(fit, layer, head), float(shown["sigma_squared"])
        if np.isfinite(sigma_squared):
            name += rf", $\sigma^2 = {sigma_squared:.1f}$"
        constant = palette.percent(float(shown["normalizer_error_constant"]))
        name += f"; median error of the best constant {constant}"
        said = [size_words(shown.sel(n_features=m)) for m in dict.fromkeys(sizes[[0, -1]])]
        palette.title_of(left, fit, "\n".join([name, *said]))
        left.set_ylabel("ln response,\nln normaliser")
        right.set_ylabel("ln(response /\nnormaliser)")
        for axis in (left, right):
            axis.set_xlabel(token_words(at_input))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.align_ylabels()
    return figure


def size_words(shown: xr.Dataset) -> str:
    """Phase, median error and r of one head's networks of one size, with 95 % intervals."""
    phase = str(shown["phase_of"].values).replace("gaussian", "Gaussian")
    error, *ends = map(palette.percent, map(float, interval(shown, "normalizer_error")))
    r, *r_ends = map(palette.decimal, map(float, interval(shown, "correlation")))
    return (
        f"{palette.power(np.log10(float(shown['n_features'])))} neurons"
        f"{f' ({phase})' if phase else ''}: median error {error} [{', '.join(ends)}], "
        f"$r = {r}$ $[{', '.join(r_ends)}]$"
    )
