"""Limits of inputs and of the frames of a recording, for the checks of settings and the stage."""

MIN_FRAMES, MAX_FRAMES = 20, 20_000  # of an input, whose tokens are known when it is imaged
MAX_PLANNED = 2_000_000  # frames of as many tokens as an input of these data can have
MIN_INPUTS = (
    3  # of the data: the contacts of rivals hold another one, those of their control a third
)
