"""How fast the astrocyte must be: queries are read in turn while its process follows them."""

import numpy as np
import xarray as xr

from tripartite import calcium, hidden
from tripartite.contracts import UserError
from tripartite.heads import Head, Heads
from tripartite.kinds.settling import lag

MIN_TOKENS = 3  # of an input, for a correlation of neighbours
# ASSUME: the IP3 of these models follows its drive at once; below and above their oscillations.
MODELS = {
    "li_rinzel_nest 0.2 uM": ("li_rinzel_nest", 0.2),
    "li_rinzel_nest 0.7 uM": ("li_rinzel_nest", 0.7),
    "li_rinzel_stimberg 0.3 uM": ("li_rinzel_stimberg", 0.3),
    "li_rinzel_stimberg 1.2 uM": ("li_rinzel_stimberg", 1.2),
}
# Time constants (s) of calcium transients as measured in processes of astrocytes: rise .1 to .2,
# decay .2 to 4 (De Pitta et al., Frontiers in Computational Neuroscience 6:98, 2012, table 2, after
# Di Castro et al. and Panatier et al., 2011).
MEASURED = {"fastest rise": 0.1, "fastest decay": 0.2, "slowest decay": 4.0}


def settle(heads: Heads, ratios: list[float], n_features: list[int], n_seeds: int) -> xr.Dataset:
    """Return the errors that a process of each T_r / tau_p (ratios) makes, and the ratio needed.

    Intervals are over inputs, and over seeds where the network is one of random features (NaN for
    one input). Times in seconds are those of calcium models at rest, and of measured transients.
    UserError for an input of less than MIN_TOKENS tokens.
    """
    for i in heads.read_inputs:
        if heads.n_tokens(i) < MIN_TOKENS:
            raise UserError(
                f"settling: input {heads.names[i]} has {heads.n_tokens(i)} tokens, wanted at least "
                f"{MIN_TOKENS} to read one after another; leave it out of inputs"
            )
    sweep = np.sort(np.array(ratios, dtype=float))

    def one_head(head: Head) -> dict:
        exact = [(x.log_normalizer.numpy(), x.output.numpy()) for x in head.readings]
        networks = []  # [seed][input] of all sizes
        for draw in head.each(range(n_seeds)):
            of_sizes = hidden.networks(head, draw, n_features)
            networks.append(
                [
                    (np.stack([p for p, _, _ in x]), np.stack([o for _, _, o in x]))
                    for x in zip(*of_sizes)
                ]
            )
        rng = head.stream("settle")
        return lag.of_exact(exact, sweep, rng) | lag.of_networks(networks, exact, sweep, rng)

    coords = {
        "ratio": sweep,
        "n_features": n_features,
        "model": [*MODELS, *MEASURED],
        "lag_error": lag.TOLERANCES,
    }
    seconds = [calcium.relaxation_seconds(*model) for model in MODELS.values()]
    names, points = zip(*MODELS.values(), *[("", np.nan)] * len(MEASURED))
    found = heads.table(
        "settling",
        one_head,
        coords,
        calcium_model=list(names),
        operating_point=list(points),
        relaxation_seconds=[*seconds, *MEASURED.values()],
    )
    for end in ("", "_low", "_high"):
        needed = found["relaxation_seconds"] * found[f"ratio_for_lag{end}"]
        found[f"seconds_needed{end}"] = needed
    return found
