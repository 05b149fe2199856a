"""A Sanic application; each worker says when it has started."""

from sanic import Sanic, empty
from seen import leave

app = Sanic("seen")


@app.before_server_start
async def start(*_: object) -> None:
    leave()


@app.get("/")
async def nothing(_: object) -> object:  # it does not start without a route
    return empty()
