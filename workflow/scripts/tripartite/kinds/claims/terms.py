"""Terms of the section `claims` that its check and its stage share; no large package."""

import re

PLACE = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")  # of a number in a sentence, with its format
N_VALUES = "n"  # the format for the number of values
POWER = "10^"  # before a format: ten to the power of the number
HEADS = "heads"  # selects pairs of layer and head
PAIR = ("layer", "head")
