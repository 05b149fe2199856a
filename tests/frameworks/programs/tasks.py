"""A Celery application whose broker lives in the worker's own memory."""

from typing import Any

from celery import Celery
from celery.signals import worker_process_init, worker_ready
from seen import leave

app = Celery("tasks", broker="memory://")
worker_process_init.connect(lambda **_: leave(), weak=False)


@worker_ready.connect
def ready(sender: Any, **_: object) -> None:
    """A pool that has no processes does the work here."""
    if "prefork" not in type(sender.pool).__module__:
        leave()
