#!/usr/bin/env python3
"""What threads cost a server that has workers already, under a real CPU limit: docs/servers.json.

    benchmarks/servers.py [PAIRS [REQUESTS]]

gunicorn with 2 and with 4 sync workers that do NumPy work (matmul and solve of 100 × 100), in a cgroup limited to one
CPU, once without blasenv and once with it, one after the other, pair after pair, so that whatever else the machine
does meets both. The requests come over a Unix socket, from twice as many clients as workers, outside the limit.
Needs root, at least two CPUs, and a package index for gunicorn and NumPy, in an environment of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from cgroup import Cgroup, make_cgroup  # noqa: E402

RESULT = ROOT / "docs" / "servers.json"
LIMIT = 1.0  # CPUs
WORKERS = (2, 4)
WARM_UP = 5  # requests for each worker, so that every worker has imported what it needs
DEFAULTS = (15, 500)  # pairs, and requests of each run
ROUNDS_A_REQUEST = 10  # some 2 ms on one free core
PACKAGES = ("gunicorn==27.0.1", "numpy==2.4.6")
WAYS = {"without": {"BLASENV_DISABLE": "1"}, "with": {}}
APPLICATION = f"""
import json, os
import numpy

matrix = numpy.random.default_rng(4).random((100, 100)) + 100 * numpy.eye(100)

def application(environ, start_response):
    for _ in range({ROUNDS_A_REQUEST}):
        numpy.linalg.solve(matrix, matrix @ matrix)
    body = json.dumps([os.getpid(), len(os.listdir("/proc/self/task"))]).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def make_environment(directory: Path) -> Path:
    """The bin directory of a virtual environment with this blasenv, gunicorn and NumPy."""
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    install: list[str | Path] = [
        directory / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run([*install, ROOT, *PACKAGES], check=True)
    return directory / "bin"


@contextlib.contextmanager
def serve(gunicorn: Path, directory: Path, group: Cgroup, workers: int, way: str) -> Iterator[Path]:
    """A server with so many workers inside the limit: its socket."""
    socket = directory / "socket"
    drop = ("_THREADS", "BLASENV_")
    environ = {name: value for name, value in os.environ.items() if not any(part in name for part in drop)}
    command: list[str | Path] = [
        gunicorn,
        f"--workers={workers}",
        f"--bind=unix:{socket}",
        "--no-control-socket",
        "bench:application",
    ]
    server = subprocess.Popen(
        group.enter([*command, "--log-level=error"]), cwd=directory, env={**environ, **WAYS[way], "BLASENV_CONFIG": ""}
    )
    try:
        while not socket.exists():
            if server.poll() is not None:
                sys.exit(f"gunicorn ended with status {server.returncode}")
            time.sleep(0.05)
        yield socket
    finally:
        server.terminate()
        server.wait(60)


async def request(socket: Path) -> tuple[int, int]:
    """One request, on a connection of its own as the sync worker wants it: its PID, and the threads that it has."""
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 120)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        sys.exit(f"the server answered {head[:80]!r}")
    worker, threads = json.loads(body)
    return worker, threads


async def load(socket: Path, clients: int, requests: int) -> tuple[list[float], dict[int, int]]:
    """So many requests, each client's as soon as its last is answered: seconds of each, and the workers' threads."""
    left = iter(range(requests))
    seconds: list[float] = []
    workers: dict[int, int] = {}

    async def client() -> None:
        for _ in left:
            start = time.perf_counter()
            worker, threads = await request(socket)
            seconds.append(time.perf_counter() - start)
            workers[worker] = threads

    await asyncio.gather(*[client() for _ in range(clients)])
    return seconds, workers


def measure(gunicorn: Path, directory: Path, workers: int, way: str, requests: int) -> dict[str, Any]:
    """One server, warmed up and loaded."""
    with make_cgroup(LIMIT) as group, serve(gunicorn, directory, group, workers, way) as socket:
        asyncio.run(load(socket, 2 * workers, WARM_UP * workers))
        throttled, periods = group.throttled()
        start = time.perf_counter()
        seconds, seen = asyncio.run(load(socket, 2 * workers, requests))
        whole = time.perf_counter() - start
        after = group.throttled()
    if len(seen) != workers:
        sys.exit(f"{len(seen)} workers answered, not {workers}")
    seconds.sort()
    return {
        "threads": sorted(set(seen.values())),
        "requests_a_second": round(requests / whole, 1),
        "p50_ms": round(1000 * seconds[len(seconds) // 2], 1),
        "p99_ms": round(1000 * seconds[len(seconds) * 99 // 100], 1),
        "throttled": after[0] - throttled,
        "periods": after[1] - periods,
    }


def summary(workers: int, way: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of one server's runs, and all of what they are medians of."""
    rates = [result["requests_a_second"] for result in results]
    return {
        "workers": workers,
        "blasenv": way,
        "threads": results[0]["threads"],
        **{name: round(median(result[name] for result in results), 1) for name in MEDIANS},
        "throttled": sum(result["throttled"] for result in results),
        "periods": sum(result["periods"] for result in results),
        "all_requests_a_second": rates,
        "all_p99_ms": [result["p99_ms"] for result in results],
    }


MEDIANS = ("requests_a_second", "p50_ms", "p99_ms")


def main() -> None:
    """Measure, print a table, write the JSON."""
    pairs, requests = [*map(int, sys.argv[1:]), *DEFAULTS[len(sys.argv) - 1 :]]
    cases: dict[tuple[int, str], list[dict[str, Any]]] = {(workers, way): [] for workers in WORKERS for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="blasenv-servers-") as name:
        directory = Path(name)
        (directory / "bench.py").write_text(APPLICATION)
        gunicorn = make_environment(directory / "venv") / "gunicorn"
        for number in range(pairs):
            for (workers, way), results in cases.items():
                results.append(measure(gunicorn, directory, workers, way, requests))
            print(f"pair {number + 1} of {pairs}", file=sys.stderr)
    rows = [summary(workers, way, results) for (workers, way), results in cases.items()]
    for row in rows:
        print(
            "{workers} workers {blasenv} blasenv, {threads} threads each: {requests_a_second} requests/s, "
            "p99 {p99_ms} ms, throttled {throttled} of {periods}".format_map(row)
        )
    head = {
        "cpus": len(os.sched_getaffinity(0)),
        "limit": LIMIT,
        "requests": requests,
        "pairs": pairs,
        "packages": PACKAGES,
        "kernel": platform.release().partition("-")[0],
    }
    RESULT.write_text(json.dumps(head)[:-1] + ', "rows": [\n    ' + ",\n    ".join(map(json.dumps, rows)) + "\n]}\n")


if __name__ == "__main__":
    main()
