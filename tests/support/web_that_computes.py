"""A WSGI application, whose requests never end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from suffers import forever, numpy_work

work = numpy_work()


def wsgi(environ: Mapping[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    forever(work)
    return []
