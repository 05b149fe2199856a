# mypy: ignore-errors
"""multiprocessing.Pool or ProcessPoolExecutor with a start method: process_pool.py (pool | executor) METHOD."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from seen import seen, show

if __name__ == "__main__":
    kind, method = sys.argv[1:]
    context = multiprocessing.get_context(method)
    if kind == "pool":
        with context.Pool(2) as pool:
            show(pool.map(seen, range(4), chunksize=1))
    else:
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            show(executor.map(seen, range(4)))
