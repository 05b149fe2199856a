# mypy: ignore-errors
"""joblib.Parallel with loky: joblib_workers.py N_JOBS [INNER_MAX_NUM_THREADS]."""

import sys

from joblib import Parallel, delayed, parallel_config
from seen import seen, show

if __name__ == "__main__":
    n_jobs, *inner = map(int, sys.argv[1:])
    with parallel_config("loky", n_jobs=n_jobs, **({"inner_max_num_threads": inner[0]} if inner else {})):
        show(Parallel()(delayed(seen)() for _ in range(4)))
