"""Interleaved measurement: every setting once per round, so that what changes on the machine meets all alike."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import blasenv
from blasenv.errors import Failure
from blasenv.machine.cgroup import Throttling, find_levels, read_throttling, tightest
from blasenv.machine.library_threads import COUNT_VARIABLES
from blasenv.machine.observe import observe

from .workloads import Workload, program

WINDOW = 0.3  # seconds one process measures: three periods of the usual quota
DEFAULT = 0  # in the place of a thread count: no variable set, blasenv switched off


@dataclass
class Series:
    """All measurements of one workload with one thread count."""

    workload: str
    threads: int
    """DEFAULT means: as it is without blasenv."""
    seconds: list[float] = field(default_factory=list)
    periods: int = 0
    throttled: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def share(self) -> float | None:
        """Throttled periods of all, None without a CPU limit."""
        return self.throttled / self.periods if self.periods else None

    def differs(self, other: Series) -> bool:
        """Whether the two have no measured time in common; with fewer than 3 each, nobody can tell."""
        if min(len(self.seconds), len(other.seconds)) < 3:
            return False
        return max(self.seconds) < min(other.seconds) or max(other.seconds) < min(self.seconds)


def clean_environ() -> dict[str, str]:
    """The environment without thread counts, and with the hook switched off: its choice is measured as a count."""
    drop = {*COUNT_VARIABLES, blasenv.RECEIPT, blasenv.MARK}
    kept = {name: value for name, value in os.environ.items() if name not in drop and not name.endswith("_NUM_THREADS")}
    return {**kept, "BLASENV_DISABLE": "1"}


def environ_for(threads: int) -> dict[str, str]:
    """The environment in which libraries take so many threads."""
    environ = clean_environ()
    return environ if threads == DEFAULT else {**environ, "OMP_NUM_THREADS": str(threads)}


def choice() -> int:
    """The count blasenv would set for a user who set none; DEFAULT where it changes nothing."""
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environ.pop(blasenv.RECEIPT, None)
    environ.pop(blasenv.MARK, None)
    return observe(environ=environ).decision.threads or DEFAULT


def counts(affinity: int, chosen: int) -> list[int]:
    """Thread counts to try from 1 to ``affinity``: all up to 4, then half as much again each time."""
    found = {1, affinity, chosen} - {DEFAULT}
    count = 1
    while count < affinity:
        found.add(count)
        count = max(count + 1, count * 3 // 2)
    return sorted(found)


def _run(command: Sequence[str], threads: int, capture: bool) -> str:
    try:
        result = subprocess.run(
            command,
            check=False,
            env=environ_for(threads),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if capture else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        raise Failure(f"{command[0]}: not found; is it installed, and on PATH?") from None
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise Failure(f"{command[0]}: cannot be run: {problem}") from None
    if result.returncode:
        last = result.stderr.strip().rpartition("\n")[2]
        raise Failure(f"{command[0]} ended with exit status {result.returncode}{': ' if last else ''}{last}")
    return result.stdout or ""


def _now() -> Throttling | None:
    level = tightest(find_levels())
    return read_throttling(level) if level is not None else None


def measure_once(series: Series, workload: Workload, python: str, command: Sequence[str]) -> None:
    """Run one process and add what it took."""
    before = _now()
    if workload.work:
        output = _run([python, "-c", program(workload, WINDOW)], series.threads, capture=True)
        seconds = float(output.split()[-1])
    else:
        start = time.perf_counter()
        _run(command, series.threads, capture=False)
        seconds = time.perf_counter() - start
    after = _now()
    series.seconds.append(seconds)
    if before is not None and after is not None:
        change = after - before
        series.periods += change.periods
        series.throttled += change.throttled


def measure(
    workloads: Sequence[Workload],
    threads: Sequence[int],
    *,
    python: str,
    command: Sequence[str],
    budget: float,
    rounds: int,
    progress: Callable[[float, str], None],
) -> tuple[list[Series], bool]:
    """Measure all workloads with all counts in rounds until the budget (seconds) or the rounds are used.

    The first round is always finished. Returns what there is, and whether Ctrl-C ended it.
    """
    every = {(work.name, count): Series(work.name, count) for work in workloads for count in threads}
    by_name = {workload.name: workload for workload in workloads}
    order = list(every.values())
    start = time.monotonic()
    done = 0
    try:
        for number in range(rounds):
            random.shuffle(order)
            for series in order:
                elapsed = time.monotonic() - start
                if number and elapsed > budget:
                    return list(every.values()), False
                label = "default" if series.threads == DEFAULT else f"{series.threads} threads"
                progress(max(done / (rounds * len(order)), min(1.0, elapsed / budget)), f"{series.workload}, {label}")
                measure_once(series, by_name[series.workload], python, command)
                done += 1
    except KeyboardInterrupt:
        return list(every.values()), True
    return list(every.values()), False


def has(python: str, module: str) -> bool:
    """Whether that Python finds a module."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        return (
            subprocess.run(
                [python, "-c", code], check=False, env=clean_environ(), stdin=subprocess.DEVNULL, capture_output=True
            ).returncode
            == 0
        )
    except OSError as error:
        raise Failure(f"{python} can't be started: {error.strerror}") from None


def bar(progress: float, label: str) -> None:
    """A progress bar on stderr, on a terminal only."""
    if sys.stderr is None or not sys.stderr.isatty():
        return
    filled = round(20 * progress)
    sys.stderr.write(f"\r\x1b[K[{'#' * filled}{'.' * (20 - filled)}] {100 * progress:3.0f} %  {label}")
    sys.stderr.flush()


def bar_end() -> None:
    """Take the progress bar away."""
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
