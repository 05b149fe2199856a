"""Programs with workers, for the 48-CPU machine: a WSGI application, a celery application, a pool.

With COMPUTE in the environment each worker multiplies two matrices, so that OpenBLAS starts its threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable


def compute() -> None:
    """Start the threads of NumPy's OpenBLAS, if asked to."""
    if os.environ.get("COMPUTE"):
        import numpy as np

        matrix = np.ones((200, 200))
        matrix @ matrix


def application(environ: object, start_response: object) -> Iterable[bytes]:
    """Never called: gunicorn's workers import this module, which is enough."""
    raise NotImplementedError


if os.environ.get("SERVER") == "gunicorn":
    compute()

if os.environ.get("SERVER") == "celery":
    from celery import Celery, signals

    celery = Celery(broker="memory://")
    signals.worker_process_init.connect(lambda **_: compute(), weak=False)

if __name__ == "__main__":
    import multiprocessing

    with multiprocessing.Pool():
        while True:
            time.sleep(1)
