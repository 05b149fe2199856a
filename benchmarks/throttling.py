#!/usr/bin/env python3
"""What too many threads cost on real cores under a real CPU limit: docs/throttling.json.

    benchmarks/throttling.py [ROUNDS]

The same work (100 × 100 matmul + solve) with each thread count and each limit, one after the other,
round after round, so that whatever else the machine does meets all of them. Needs NumPy, a cgroup
that can be written (root, or systemd) and at least two CPUs. benchmarks/chart.py draws the result.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "docs" / "throttling.json"
LIMITS = (1.0, 1.5)  # CPUs
CALLS = 10000  # one to three seconds


def work() -> None:
    """Run inside the limit: time every call, and print the seconds of all, and how often the limit struck."""
    import numpy as np

    import blasenv

    # Let what else runs on this machine take as little as possible from this cgroup.
    cgroup = Path(next(iter(blasenv.find_quota())).path).parent
    for name, most in (("cpu.shares", "262144"), ("cpu.weight", "10000")):
        with contextlib.suppress(OSError):
            (cgroup / name).write_text(most)
    matrix = np.random.default_rng(4).random((100, 100)) + 100 * np.eye(100)
    for _ in range(200):
        np.linalg.solve(matrix, matrix @ matrix)
    before, slowest, start = read_stat(cgroup), 0.0, time.perf_counter()
    for _ in range(CALLS):
        begin = time.perf_counter()
        np.linalg.solve(matrix, matrix @ matrix)
        slowest = max(slowest, time.perf_counter() - begin)
    seconds, after = time.perf_counter() - start, read_stat(cgroup)
    result = {
        "threads": len(os.listdir("/proc/self/task")),
        "seconds": round(seconds, 3),
        "slowest_ms": round(1000 * slowest, 1),
        "periods": after["nr_periods"] - before["nr_periods"],
        "throttled": after["nr_throttled"] - before["nr_throttled"],
    }
    print(json.dumps(result))


def read_stat(cgroup: Path) -> dict[str, int]:
    """The counters of cpu.stat, of the same names in v1 (sched-bwc.rst) and v2 (cgroup-v2.rst)."""
    pairs = (line.split() for line in (cgroup / "cpu.stat").read_text().splitlines())
    return {name: int(value) for name, value in pairs}


def run(limit: float, threads: int) -> dict[str, float]:
    """One measurement, in a process of its own."""
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environ |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "blasenv", "limit", "--quiet", "--cpus", str(limit), "--"]
    done = subprocess.run(
        [*command, sys.executable, __file__, "--work"], env=environ, stdout=subprocess.PIPE, check=True, text=True
    )
    result: dict[str, float] = json.loads(done.stdout)
    if result["threads"] != threads:
        sys.exit(f"{result['threads']:g} threads started, not {threads}")
    return result


def main() -> None:
    """Measure, print a table, write the JSON."""
    import numpy as np

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    cpus = len(os.sched_getaffinity(0))
    counts = [count for count in (1, 2, 4, 8, 16) if count <= cpus]
    cases: dict[tuple[float, int], list[dict[str, float]]]
    cases = {(limit, threads): [] for limit in LIMITS for threads in counts}
    for number in range(rounds):
        for (limit, threads), results in cases.items():
            results.append(run(limit, threads))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    rows = []
    for (limit, threads), results in cases.items():
        seconds = sorted(result["seconds"] for result in results)
        row = {
            "limit": limit,
            "threads": threads,
            "seconds": round(median(seconds), 3),
            "slowest_ms": round(median(result["slowest_ms"] for result in results), 1),
            "periods": sum(result["periods"] for result in results),
            "throttled": sum(result["throttled"] for result in results),
            "all_seconds": seconds,
        }
        rows.append(row)
        print("{limit} CPUs, {threads} threads: {seconds} s, throttled {throttled} of {periods}".format_map(row))
    head = {
        "cpus": cpus,
        "calls": CALLS,
        "rounds": rounds,
        "numpy": np.__version__,
        "kernel": platform.release().partition("-")[0],
    }
    lines = ",\n    ".join(map(json.dumps, rows))
    RESULT.write_text(json.dumps(head)[:-1] + ', "rows": [\n    ' + lines + "\n]}\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        work()
    else:
        main()
