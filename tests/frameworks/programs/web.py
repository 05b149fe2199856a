"""A web application that each worker of gunicorn or uvicorn imports for itself."""

from seen import leave


def wsgi(environ, start_response):
    start_response("204 No Content", [])
    return []


async def asgi(scope, receive, send):
    await receive()


leave()
