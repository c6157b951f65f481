"""Put a simulation together that was split into shards of its heads."""

import xarray as xr

from tripartite.contracts import UserError


def share(heads: list, shard: str) -> list:
    """The heads [layer, head] that a shard runs, of shard "2/5" the second of every five."""
    part, of = map(int, shard.split("/"))
    return heads[part - 1 :: of]


def gather(parts: list[xr.Dataset]) -> xr.Dataset:
    """Return the whole of shards: every head from the one that computed it.

    What a head of no shard has is the same in all. UserError where two shards computed a head.
    """
    whole = parts[0].copy(deep=True)
    for part in parts[1:]:
        for layer, head in zip(
            *part["computed"].any(("n_features", "seed", "input")).values.nonzero()
        ):
            place = {"layer": layer, "head": head}
            if whole["computed"].isel(place).any():
                raise UserError(
                    f"shards: layer {layer}, head {head} is in two of them; delete them, run again"
                )
            for name in part.data_vars:
                if {"layer", "head"} <= {*part[name].dims}:
                    whole[name][place] = part[name].isel(place).values
    return whole
