"""Units and synapses of each mechanism, counted alike.

A unit is what has to be there once more for each further feature or stored token: a hidden neuron,
a gain of the replicator, a key that can be matched. Not counted, because all have them alike: the
d_head neurons that bring queries and keys and the d_value neurons of the output. Astrocytes are
counted by their contacts.

Synapses are all contacts onto and from a unit: d_head that bring queries and keys, d_value to the
output, and one more where an output is divided by what all units pool (the astrocyte's contact with
a hidden neuron, the contact of a gain with the pool). Some are written while tokens are read in:
those to the output and to the astrocyte, and, where a key is stored in them, those that bring
queries. The weights of hidden neurons are there before any token.
"""


def of_neurons(m: int, d_head: int, d_value: int, pooled: bool) -> tuple[int, int]:
    """All synapses and written ones of m hidden neurons; pooled: whether an astrocyte divides."""
    written = m * (d_value + pooled)
    return m * d_head + written, written


def of_tokens(n: int, d_head: int, d_value: int, pooled: bool) -> tuple[int, int]:
    """All synapses and written ones of n stored tokens; pooled: whether gains are normalised."""
    return n * (d_head + d_value + pooled), n * (d_head + d_value)
