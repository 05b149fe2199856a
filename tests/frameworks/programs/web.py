"""A web application that each worker of gunicorn or uvicorn imports for itself."""

from typing import Any

from seen import leave


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("204 No Content", [])
    return []


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()


leave()
