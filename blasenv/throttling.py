"""How often the kernel stopped a cgroup because its CPU quota was spent, also another process's cgroup.

The quota itself is read as at start-up; what is new here is ``cpu.stat`` and the way to the
cgroup of a process in another mount namespace.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import blasenv


@dataclass(frozen=True)
class Level:
    """One cgroup, from a process's own up to the highest that can be seen."""

    version: int
    """Of the cgroup hierarchy, 1 or 2."""
    directory: str
    """As it can be opened from here."""
    quota: int | None
    """Microseconds of CPU time per period, None when unlimited."""
    period: int | None
    """Microseconds."""

    @property
    def cpus(self) -> float | None:
        """CPUs of bandwidth, None when unlimited."""
        return self.quota / self.period if self.quota and self.period else None


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


def read_throttling(level: Level) -> Throttling | None:
    """The counters of one cgroup now, None when they can't be read."""
    return parse_cpu_stat(blasenv._read(os.path.join(level.directory, "cpu.stat"), blasenv.MAX_FILE)[0])


def _read_level(version: int, directory: str) -> Level:
    def read(name: str) -> bytes:
        return blasenv._read(os.path.join(directory, name), blasenv.MAX_FILE)[0]

    if version == 2:
        quota, period, _ = blasenv.parse_cpu_max(read("cpu.max"))
    else:
        quota, period, _ = blasenv.parse_cpu_cfs(read("cpu.cfs_quota_us"), read("cpu.cfs_period_us"))
    return Level(version, directory, quota, period)


def find_levels(process: str = "self", root: str = "/") -> list[Level]:
    """The cgroups of a process from its own upwards, each with its quota; empty when none can be seen.

    /proc shows the path of another process's cgroup, and the roots of its mounts, relative to
    the cgroup namespace of whoever reads. So our own mounts come first: they may show more
    ancestors than the process sees itself. Where they don't show its cgroup, its own mounts
    are used, through /proc/PID/root (which needs the right to trace the process).
    """
    proc = os.path.join(root, "proc")
    group = blasenv.parse_cgroup(blasenv._read(f"{proc}/{process}/cgroup", blasenv.MAX_FILE)[0])
    if group is None:
        return []
    version, path = group
    for observer, prefix in (("self", root), (process, f"{proc}/{process}/root")):
        mounts = blasenv._read(f"{proc}/{observer}/mountinfo", blasenv.MAX_MOUNTINFO)[0]
        directories = list(_directories(path, mounts, version))
        levels = [_read_level(version, prefix.rstrip("/") + directory) for directory in directories]
        if levels:
            return levels
    return []


def _directories(path: bytes, mountinfo: bytes, version: int) -> Iterator[str]:
    for mount_root, point in blasenv.parse_mountinfo(mountinfo, version):
        for directory in blasenv._levels(path, mount_root, point):
            yield os.fsdecode(directory)


def tightest(levels: list[Level]) -> Level | None:
    """The cgroup with the least quota, None when no level has one."""
    limited = [(level.cpus, number) for number, level in enumerate(levels) if level.cpus]
    return levels[min(limited)[1]] if limited else None
