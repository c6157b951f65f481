"""What would they see where every token is read before the next one is written?"""

from tripartite.kinds.dynamics.synapse import answer, table
from tripartite.kinds.dynamics.synapse import synapse as synapse_causal

__all__ = ["answer", "synapse_causal", "table"]
