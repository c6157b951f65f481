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
FINE_PROCESS = 0.1  # ASSUME: s, the fastest calcium transients of fine processes


def settle(heads: Heads, ratios: list[float], n_features: list[int], n_seeds: int) -> xr.Dataset:
    """Return the errors that a process of each T_r / tau_p (ratios) makes, and the ratio needed.

    Intervals are over seeds, or over inputs where the network is exact (NaN for one input). Times
    are those of calcium models at rest, in seconds. UserError for an input of less than MIN_TOKENS
    tokens.
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
        networks = [
            [
                [(log_p.numpy(), output.numpy()) for log_p, _, output in of_inputs]
                for of_inputs in hidden.networks(head, draw, n_features)
            ]
            for draw in head.each(range(n_seeds))
        ]
        of_exact = lag.of_exact(exact, sweep, head.stream("settle"))
        return of_exact | lag.of_networks(networks, exact, sweep)

    coords = {"ratio": sweep, "n_features": n_features, "model": [*MODELS, "fine process"]}
    seconds = [calcium.relaxation_seconds(*model) for model in MODELS.values()] + [FINE_PROCESS]
    names, points = zip(*MODELS.values(), ("", np.nan))
    found = heads.table(
        "settling",
        one_head,
        coords,
        calcium_model=list(names),
        operating_point=list(points),
        relaxation_seconds=seconds,
    )
    for end in ("", "_low", "_high"):
        needed = found["relaxation_seconds"] * found[f"ratio_needed_in_all{end}"]
        found[f"seconds_needed{end}"] = needed
    return found
