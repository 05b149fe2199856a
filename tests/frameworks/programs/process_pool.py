"""multiprocessing.Pool or ProcessPoolExecutor with a start method: process_pool.py (pool | executor) METHOD."""

import functools
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor

from seen import Worker, meet, show


def task(directory: str, _: int) -> Worker:
    return meet(directory, 2)


if __name__ == "__main__":
    kind, method = sys.argv[1:]
    context = multiprocessing.get_context(method)
    with tempfile.TemporaryDirectory() as directory:
        tasks = functools.partial(task, directory)
        if kind == "pool":
            with context.Pool(2) as pool:
                show(pool.map(tasks, range(2), chunksize=1))
        else:
            with ProcessPoolExecutor(2, mp_context=context) as executor:
                show(executor.map(tasks, range(2)))
