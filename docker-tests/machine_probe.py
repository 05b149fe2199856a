"""What the 48-CPU machine asks of a single process: its memory, a program of its own, the bits of its answers.

    machine_probe.py memory | solve | answers

Each prints one JSON object.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20
STACK = 8 * MIB  # of a thread: glibc takes RLIMIT_STACK (pthread_create(3)), and this is Linux's


def read_memory() -> dict[str, int]:
    """The memory of this process in kB, as proc_pid_status(5) and proc_pid_smaps(5) count it, and its threads.

    The stack of a thread is a mapping that can be written, as large as the limit says, behind one that can't be
    touched.
    """
    seen = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmSize", "VmPeak", "VmRSS", "Threads"):
            seen[name] = int(value.split()[0])
    seen["stacks"] = seen["stacks_size"] = seen["stacks_rss"] = 0
    guard = stack = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            start, end = (int(part, 16) for part in words[0].split("-"))
            stack = guard and words[1] == "rw-p" and abs(end - start - STACK) < 1 << 16
            guard = words[1] == "---p" and end - start < 1 << 16
            if stack:
                seen["stacks"] += 1
                seen["stacks_size"] += (end - start) >> 10
        elif stack and words[0] == "Rss:":
            seen["stacks_rss"] += int(words[1])
    return seen


def memory() -> dict[str, object]:
    """The memory of Python alone, with NumPy and SciPy imported, and after a first product and a first solution."""
    alone = read_memory()
    import numpy as np
    import scipy.linalg

    imported = read_memory()
    matrix = np.random.default_rng(4).random((240, 240)) + 240 * np.eye(240)
    scipy.linalg.solve(matrix, matrix @ matrix)
    return {"alone": alone, "imported": imported, "computed": read_memory()}


def solve() -> dict[str, object]:
    """A program that needs SciPy for one system of equations."""
    import numpy as np
    import scipy.linalg

    matrix = np.random.default_rng(4).random((100, 100)) + 100 * np.eye(100)
    error = abs(matrix @ scipy.linalg.solve(matrix, matrix) - matrix).max()
    return {"solved": bool(error < 1e-9), "threads": len(os.listdir("/proc/self/task"))}


def answers() -> dict[str, object]:
    """The bits of some results, a part of their SHA-256, of each twice in this process; and NumPy's threads."""
    import numpy as np

    random = np.random.default_rng(4)
    matrix, other = random.random((256, 256)), random.random((256, 256))
    small, tall, numbers = random.random((80, 80)), random.random((200, 20)), random.random(200_000)
    points = random.random((2000, 4))
    work: dict[str, Callable[[], object]] = {
        "matmul": lambda: matrix @ other,
        "sum": numbers.sum,
        "dot": lambda: numbers @ numbers[::-1].copy(),
        "matrix times vector": lambda: matrix @ other[0],
        "solve": lambda: np.linalg.solve(small, small.T),
        "lstsq": lambda: np.linalg.lstsq(tall, tall[:, 0] * 2 + 1, rcond=None)[0],
        "svd": lambda: np.linalg.svd(small, compute_uv=False),
    }
    bits = {name: [digest(run()), digest(run())] for name, run in work.items()}
    openblas = len(os.listdir("/proc/self/task"))
    if importlib.util.find_spec("sklearn"):
        from sklearn.cluster import KMeans

        clusters = KMeans(4, n_init=1, max_iter=20, random_state=4)
        bits["KMeans"] = [digest(clusters.fit(points).cluster_centers_) for _ in range(2)]
    return {"bits": bits, "openblas": openblas}


def digest(result: object) -> str:
    """A part of the SHA-256 of the bytes of an array or a number."""
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(result).tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    print(json.dumps({"memory": memory, "solve": solve, "answers": answers}[sys.argv[1]]()))
