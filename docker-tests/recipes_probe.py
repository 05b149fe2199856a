"""Says in one line of JSON what it sees: as a program on stdout, as a WSGI application to whoever asks."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterable

# The line has to stay short: srun hands its tasks' output on in pieces of 1024 bytes, and mixes longer lines up.
SLURM = ("SLURM_NODEID", "SLURM_GTIDS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE")


def look() -> str:
    """What native code finds in the environment, the CPUs, and what blasenv decided."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    value = getenv(b"OMP_NUM_THREADS")
    decision = getattr(sys, "_blasenv", None)
    seen = {
        "threads": None if value is None else value.decode(),
        "cpus": len(os.sched_getaffinity(0)),
        "rule": decision and decision.rule,
        "share": decision and decision.share,
        "slurm": {name: os.environ[name] for name in SLURM if name in os.environ},
    }
    return json.dumps(seen)


def application(environ: object, start: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    """As PEP 3333 says."""
    start("200 OK", [("Content-Type", "application/json")])
    return [look().encode()]


if __name__ == "__main__":
    print(look(), flush=True)
