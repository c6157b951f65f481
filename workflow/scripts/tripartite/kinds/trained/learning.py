"""Not drawn yet."""


def learning(fits: dict) -> None:
    raise NotImplementedError
