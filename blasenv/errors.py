"""The error that ends a command."""


class Failure(Exception):
    """A command could not do its work: ``blasenv: MESSAGE`` on stderr, and the exit status.

    The message says what is wrong, where, and what to do.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
