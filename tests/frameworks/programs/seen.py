"""What one worker process sees; the programs here print it for each of theirs, or leave it in a directory."""

import ctypes
import json
import os
import sys
import time
from pathlib import Path


def seen(_=None):
    """Our process: its thread count as C code, Python code and the native library have it."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    native = getenv(b"OMP_NUM_THREADS")
    return {
        "pid": os.getpid(),
        "native": native and native.decode(),
        "environ": os.environ.get("OMP_NUM_THREADS"),
        "threads": threads(),
        "affinity": len(os.sched_getaffinity(0)),
        "rule": getattr(getattr(sys, "_blasenv", None), "rule", None),
    }


def threads():
    """How many threads the native library here has: PyTorch's, or numpy's OpenBLAS; None without either."""
    try:
        import torch
    except ImportError:
        pass
    else:
        return torch.get_num_threads()
    try:
        import numpy  # noqa: F401
        from threadpoolctl import threadpool_info
    except ImportError:
        return None
    return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")


def leave(directory=None):
    """Leave what this process sees in ``directory``, or in the one that SEEN_IN names."""
    worker = seen()
    file = Path(directory or os.environ["SEEN_IN"], str(worker["pid"]))
    file.with_suffix(".part").write_text(json.dumps(worker))
    file.with_suffix(".part").rename(file)


def meet(directory, count):
    """What this process sees, once ``count`` processes have come here: a task that no worker can take twice."""
    leave(directory)
    mine = Path(directory, str(os.getpid()))
    for _ in range(1200):
        if len([path for path in mine.parent.iterdir() if path.name.isdigit()]) >= count:
            return json.loads(mine.read_text())
        time.sleep(0.05)
    raise TimeoutError(f"fewer than {count} workers")


def show(workers):
    """Print the distinct workers on one line, which other output does not begin like."""
    print("SEEN " + json.dumps(list({worker["pid"]: worker for worker in workers}.values())), flush=True)
