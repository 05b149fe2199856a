"""Placeholder."""


def follow(seconds: float = 1.0) -> None:
    raise NotImplementedError(seconds)
