"""What one worker process sees; the programs here print it for each of theirs, or leave it in a directory."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

Worker = dict[str, Any]


def seen(_: object = None) -> Worker:
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
        "shared_by": getattr(getattr(sys, "_blasenv", None), "shared_by", None),
        "notes": getattr(getattr(sys, "_blasenv", None), "notes", None),
    }


def threads() -> int | None:
    """How many threads the native library here has: PyTorch's, or numpy's OpenBLAS; None without either."""
    try:
        import torch
    except ImportError:
        pass
    else:
        return int(torch.get_num_threads())
    try:
        import numpy  # noqa: F401
        from threadpoolctl import threadpool_info
    except ImportError:
        return None
    return max(int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas")


def leave(directory: str | None = None) -> None:
    """Leave what this process sees in ``directory``, or in the one that SEEN_IN names."""
    worker = seen()
    file = Path(directory or os.environ["SEEN_IN"], str(worker["pid"]))
    file.with_suffix(".part").write_text(json.dumps(worker))
    file.with_suffix(".part").rename(file)


def meet(directory: str, count: int) -> Worker:
    """What this process sees, once ``count`` processes have come here: a task that no worker can take twice."""
    leave(directory)
    mine = Path(directory, str(os.getpid()))
    for _ in range(1200):
        if len([path for path in mine.parent.iterdir() if path.name.isdigit()]) >= count:
            worker: Worker = json.loads(mine.read_text())
            return worker
        time.sleep(0.05)
    raise TimeoutError(f"fewer than {count} workers")


def show(workers: Iterable[Worker]) -> None:
    """Print the distinct workers on one line, which other output does not begin like."""
    print("SEEN " + json.dumps(list({worker["pid"]: worker for worker in workers}.values())), flush=True)
