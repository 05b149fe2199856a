# mypy: ignore-errors
"""What one worker process sees; the programs here print it for each of theirs."""

import ctypes
import json
import os
import time


def seen(_=None):
    """Our process: its thread count as C code, Python code and the BLAS have it. Slow enough for each worker to get one."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    native = getenv(b"OMP_NUM_THREADS")
    time.sleep(0.2)
    return {
        "pid": os.getpid(),
        "native": native and native.decode(),
        "environ": os.environ.get("OMP_NUM_THREADS"),
        "threads": threads(),
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


def show(workers):
    """Print the distinct workers on one line, which other output does not begin like."""
    print("SEEN " + json.dumps(list({worker["pid"]: worker for worker in workers}.values())), flush=True)


if __name__ == "__main__":
    show([seen()])
