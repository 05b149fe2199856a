"""Control groups with a real CPU limit, made by root on this machine. Used by the tests and by tests/demo."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PERIOD = 100_000  # microseconds

_numbers = itertools.count()


class NoCgroupError(Exception):
    """This machine lets us make no control group; the message says why."""


@dataclass(frozen=True)
class Cgroup:
    """A control group."""

    directory: Path

    @property
    def outside(self) -> Path:
        """The group it was made in."""
        return self.directory.parent

    def enter(self, command: Sequence[str | Path]) -> list[str]:
        """A command that enters the group and becomes ``command``."""
        script = 'echo $$ > "$0" && exec "$@"'
        return ["/bin/sh", "-c", script, str(self.directory / "cgroup.procs"), *map(str, command)]

    def pids(self) -> list[int]:
        """The processes in it."""
        return [int(pid) for pid in (self.directory / "cgroup.procs").read_text(encoding="ascii").split()]

    def kill(self) -> None:
        """End them."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    def limit(self, cpus: float | None) -> None:
        """Limit it to so many CPUs from now on, or no longer."""
        if (self.directory / "cpu.max").exists():
            (self.directory / "cpu.max").write_text("max" if cpus is None else f"{round(cpus * PERIOD)} {PERIOD}")
        else:
            (self.directory / "cpu.cfs_period_us").write_text(str(PERIOD))
            (self.directory / "cpu.cfs_quota_us").write_text("-1" if cpus is None else str(round(cpus * PERIOD)))

    def throttled(self) -> tuple[int, int]:
        """In how many periods the group had to stand still, and of how many (``cpu.stat``)."""
        lines = (self.directory / "cpu.stat").read_text(encoding="ascii").splitlines()
        stat = dict(line.split() for line in lines)
        return int(stat["nr_throttled"]), int(stat["nr_periods"])


def cpu_mount() -> tuple[int, Path]:
    """The cgroup version and mount point of the CPU controller."""
    unified = None
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, point, kind, options = line.split()[:4]
        if kind == "cgroup" and "cpu" in options.split(","):
            return 1, Path(point)
        if kind == "cgroup2" and "cpu" in Path(point, "cgroup.controllers").read_text(encoding="ascii").split():
            unified = Path(point)
    if unified is None:
        raise NoCgroupError("this machine has no cgroup with the CPU controller")
    return 2, unified


@contextlib.contextmanager
def make_cgroup(cpus: float | None) -> Iterator[Cgroup]:
    """A new control group, limited to ``cpus``, without a limit for None; removed with all its processes at the end."""
    version, mount = cpu_mount()
    directory = mount / f"blasenv-test-{os.getpid()}-{next(_numbers)}"
    try:
        if version == 2 and "cpu" not in (mount / "cgroup.subtree_control").read_text(encoding="ascii").split():
            (mount / "cgroup.subtree_control").write_text("+cpu")
        directory.mkdir()
    except OSError as error:
        raise NoCgroupError(f"cannot make a cgroup in {mount}: {error.strerror}") from error
    try:
        group = Cgroup(directory)
        group.limit(cpus)
        yield group
    finally:
        _remove(directory)


def pids_mount() -> tuple[int, Path]:
    """The cgroup version and mount point of the controller that counts threads."""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, point, kind, options = line.split()[:4]
        if kind == "cgroup" and "pids" in options.split(","):
            return 1, Path(point)
        if kind == "cgroup2" and "pids" in Path(point, "cgroup.controllers").read_text(encoding="ascii").split():
            return 2, Path(point)
    raise NoCgroupError("this machine has no cgroup with the pids controller")


@contextlib.contextmanager
def make_pids_cgroup(most: int) -> Iterator[Cgroup]:
    """A new control group in which there may be so many threads; removed with all its processes at the end."""
    version, mount = pids_mount()
    directory = mount / f"blasenv-test-pids-{os.getpid()}-{next(_numbers)}"
    try:
        if version == 2 and "pids" not in (mount / "cgroup.subtree_control").read_text(encoding="ascii").split():
            (mount / "cgroup.subtree_control").write_text("+pids")
        directory.mkdir()
    except OSError as error:
        raise NoCgroupError(f"cannot make a cgroup in {mount}: {error.strerror}") from error
    try:
        (directory / "pids.max").write_text(str(most))
        yield Cgroup(directory)
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    for _ in range(50):
        Cgroup(directory).kill()
        with contextlib.suppress(OSError):  # busy, while its processes end
            directory.rmdir()
            return
        time.sleep(0.1)
    raise RuntimeError(f"cannot remove {directory}")
