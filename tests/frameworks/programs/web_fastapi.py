"""A FastAPI application; each worker says when it has started."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from seen import leave


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    leave()  # not at the import, because the command looks into the module, too
    yield


app = FastAPI(lifespan=lifespan)
