"""The cgroups of any process, and how often the kernel stopped them because their CPU quota was spent.

The walk and the quota are those of start-up, `blasenv.find_quota`; a level is a `blasenv.Limit`.
What is new here is ``cpu.stat``, and the way to the cgroup of a process in another mount namespace.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import blasenv

LIMIT_FILES = ("cpu.max", "cpu.cfs_quota_us")


@dataclass(frozen=True)
class Throttling:
    """The counters of ``cpu.stat``, since the cgroup was made or, after subtraction, over a span."""

    periods: int
    """Enforcement periods in which the group had something to run."""
    throttled: int
    """Those of them in which it was stopped."""
    seconds: float
    """For how long, summed over CPUs."""

    @property
    def share(self) -> float:
        """Throttled periods of all, 0 to 1."""
        return min(1.0, self.throttled / self.periods) if self.periods > 0 else 0.0

    def __sub__(self, earlier: Throttling) -> Throttling:
        return Throttling(
            self.periods - earlier.periods, self.throttled - earlier.throttled, self.seconds - earlier.seconds
        )


def parse_cpu_stat(contents: bytes) -> Throttling | None:
    """The throttling counters in ``cpu.stat``, None where the kernel does not count.

    sched-bwc.rst (v1): nr_periods, nr_throttled, throttled_time in nanoseconds; cgroup-v2.rst:
    the same with throttled_usec. v2 has the file, without these lines, at the real root.
    """
    numbers = {}
    for line in contents.split(b"\n"):
        name, _, number = line.partition(b" ")
        if number.strip().isdigit():
            numbers[name] = int(number)
    if b"nr_periods" not in numbers or b"nr_throttled" not in numbers:
        return None
    seconds = numbers.get(b"throttled_usec", 0) / 1e6 + numbers.get(b"throttled_time", 0) / 1e9
    return Throttling(numbers[b"nr_periods"], numbers[b"nr_throttled"], seconds)


def is_level(limit: blasenv.Limit) -> bool:
    """Whether a limit was looked for in a cgroup, and not in a file that failed to lead to one."""
    return os.path.basename(limit.path) in LIMIT_FILES


def cpus_of(limit: blasenv.Limit) -> float | None:
    """The CPUs a limit allows, None when it allows all."""
    return limit.quota / limit.period if limit.quota and limit.period else None


def directory_of(level: blasenv.Limit, root: str = "/") -> str:
    """The directory of a level's cgroup, as it can be opened from here."""
    return root.rstrip("/") + os.path.dirname(level.path)


def tightest(limits: Iterable[blasenv.Limit]) -> blasenv.Limit | None:
    """The limit that allows the fewest CPUs, the one nearest to the process when several do; None without any."""
    finite = [limit for limit in limits if limit.quota and limit.period]
    # Fractions, because a float holds 15 of a quota's 17 digits.
    return min(finite, key=lambda limit: Fraction(limit.quota or 1, limit.period or 1), default=None)


def tightest_quota(limits: Iterable[blasenv.Limit]) -> blasenv.Limit | None:
    """The tightest limit on CPUs, of a cgroup or as told, without what only caps threads."""
    return tightest(limit for limit in limits if limit.controller in blasenv.SHARED)


def quota_cpus(limits: Iterable[blasenv.Limit]) -> float | None:
    """CPUs allowed by the cgroups, or as told, None when unlimited."""
    limit = tightest_quota(limits)
    return cpus_of(limit) if limit else None


def read_throttling(level: blasenv.Limit, root: str = "/") -> Throttling | None:
    """The counters of one cgroup now, None when they can't be read."""
    path = os.path.join(directory_of(level, root), "cpu.stat")
    return parse_cpu_stat(blasenv.read_file(path, blasenv.MAX_FILE, kernel=True)[0])


def find_levels(process: str = "self", root: str = "/") -> list[blasenv.Limit]:
    """The cgroups of a process from its own upwards, each with its quota; empty when none can be seen.

    /proc shows the path of another process's cgroup, and the roots of its mounts, relative to
    the cgroup namespace of whoever reads. So our own mounts come first: they may show more
    ancestors than the process sees itself. Where they don't show its cgroup, its own mounts
    are used, through /proc/PID/root (which needs the right to trace the process).
    """
    for observer, below in (("self", ""), (process, f"/proc/{process}/root")):
        levels = [level for level in blasenv.find_quota(root, process, observer, below) if is_level(level)]
        if levels or process == "self":
            return levels
    return []
