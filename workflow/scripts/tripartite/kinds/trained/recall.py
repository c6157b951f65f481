"""Not drawn yet."""


def recall(fits: dict) -> None:
    raise NotImplementedError
