"""joblib.Parallel with loky: joblib_workers.py N_JOBS [INNER_MAX_NUM_THREADS]."""

import os
import sys
import tempfile

from joblib import Parallel, delayed, parallel_config
from seen import meet, show

if __name__ == "__main__":
    n_jobs, *inner = map(int, sys.argv[1:])
    count = n_jobs if n_jobs > 0 else len(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory() as directory,
        parallel_config("loky", n_jobs=n_jobs, **({"inner_max_num_threads": inner[0]} if inner else {})),
    ):
        show(Parallel(batch_size=1, pre_dispatch="all")(delayed(meet)(directory, count) for _ in range(count)))
