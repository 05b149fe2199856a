"""All containers of a machine: who uses CPUs, who is stopped by a limit, and a close look at those.

Two reads, some time apart, of one file of each process and of ``cpu.stat`` of each limit. Threads, maps and
environments are read only of processes that use CPUs: whoever reads these of a process that stands still, with
its memory locked, would stand still, too.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import blasenv
from blasenv.machine.cgroup import Throttling, cpus_of, directory_of, find_levels, read_throttling, tightest
from blasenv.machine.containers import NAMELESS, Name, Names, Place, parse_path
from blasenv.machine.libraries import is_numeric, parse_maps
from blasenv.machine.process import (
    THROTTLED,
    Process,
    Stat,
    measure,
    most_throttled,
    parse_environ,
    parse_stat,
    parse_words,
)

BUSY = 0.25  # CPUs: a container that uses less, and isn't throttled, has nothing the matter that threads could be
IDLE = 0.005  # CPUs: not one tick in a second and a half
MOST_ASKED = 4  # processes of one container that are judged, those that use most
MOST_THREADS = 2000  # looked at closely, of all containers; each takes about 0.1 ms at each of a few samples
_NO_RIGHT = (os.strerror(errno.EACCES), os.strerror(errno.EPERM))
_INITIAL_PIDS = 0xEFFFFFFC  # the inode of the machine's own PID namespace (include/linux/proc_ns.h)


@dataclass
class Seen:
    """One process, at two times."""

    pid: int
    first: Stat
    at: float
    used: float = 0.0
    """CPUs that it used between them."""
    idle: bool = True
    """Whether it used none, and was not ready to run."""
    ready: bool = False
    """Whether its first thread was ready to run both times, as where others use the CPUs that it wants."""
    stuck: bool = False
    """Whether it was in uninterruptible sleep."""
    gone: bool = False


@dataclass
class Container:
    """A cgroup with processes that has a CPU limit, or a process with numeric libraries that uses CPUs."""

    place: Place
    name: Name = NAMELESS
    hostname: str = ""
    """HOSTNAME of a process in it."""
    processes: list[Seen] = field(default_factory=list)
    levels: list[blasenv.Limit] = field(default_factory=list)
    """Its cgroup and those above, each with its limit."""
    throttling: Throttling | None = None
    """Of the limit that stopped it most, over ``seconds``."""
    level: blasenv.Limit | None = None
    """That limit."""
    seconds: float = 0.0
    numeric: bool = False
    """Whether a process in it that uses CPUs has a BLAS or OpenMP library; looked for where there is no limit."""
    asked: list[Process] = field(default_factory=list)
    """The processes that use most, looked at closely; empty where it was idle."""
    left_out: bool = False
    """Whether it was worth a closer look, and there were too many."""
    sharing: int = 1
    """How many containers are below the limit that stopped it."""
    counted_with: Container | None = None
    """The one of those that uses most, when it is another one: their standing still is one, and counted there."""

    @property
    def limit(self) -> blasenv.Limit | None:
        """The tightest one."""
        return tightest(self.levels)

    @property
    def used(self) -> float:
        """CPUs that its processes used."""
        return sum(one.used for one in self.processes)

    @property
    def share(self) -> float:
        """Throttled periods of all, 0 to 1."""
        return self.throttling.share if self.throttling else 0.0

    @property
    def standing_still(self) -> float:
        """CPUs that stood still because the quota was spent: 0 where that is counted with another container."""
        if self.counted_with is not None or self.throttling is None or not self.seconds:
            return 0.0
        return self.throttling.seconds / self.seconds

    @property
    def watched(self) -> list[Process]:
        """Its processes that were looked at closely."""
        pids = {one.pid for one in self.processes}
        near = [*self.asked, *(other for one in self.asked for other in one.neighbours)]
        return [one for pid, one in {one.pid: one for one in near}.items() if pid in pids]


@dataclass
class Node:
    """What was seen of a machine."""

    containers: list[Container]
    processes: int
    """How many were looked at."""
    closed: int
    """How many of those that use CPUs can't be looked into."""
    whole: bool
    """Whether this is the machine's own /proc, and not that of a container."""


def look(seconds: float, root: str = "/") -> Node:
    """Watch the machine for so many seconds, and then what is busy or throttled for as many again.

    ``root`` is read in the place of /. Processes may come and go meanwhile.
    """
    return _Look(root).run(seconds)


class _Look:
    def __init__(self, root: str) -> None:
        self._root = root
        self._proc = os.path.join(root, "proc")
        self._closed: set[int] = set()

    def _read(self, pid: int, name: str) -> bytes:
        contents, problem = blasenv.read_file(f"{self._proc}/{pid}/{name}", blasenv.MAX_MOUNTINFO)
        if problem in _NO_RIGHT:
            self._closed.add(pid)
        return contents

    def _stat(self, pid: int) -> Stat | None:
        return parse_stat(blasenv.read_file(f"{self._proc}/{pid}/stat", blasenv.MAX_FILE, kernel=True)[0])

    def run(self, seconds: float) -> Node:
        seen = self._list()
        groups = self._group(seen)
        for group in groups:
            group.levels = self._levels(group)
        counters = self._counters(groups)
        time.sleep(seconds)
        for one in seen:
            self._again(one)
        self._throttling(groups, counters)
        containers = [group for group in groups if group.limit is not None or self._is_numeric(group)]
        containers = [group for group in containers if any(not one.gone for one in group.processes)]
        self._watch(containers, seen, seconds)
        _attribute(containers)
        self._name(containers, seen)
        return Node(containers, len(seen), len(self._closed), self._is_whole())

    def _list(self) -> list[Seen]:
        """Every process but the kernel's, those that have ended, and this one."""
        pids = sorted(int(name) for name in os.listdir(self._proc) if name.isascii() and name.isdigit())
        found = []
        for pid in pids:
            stat = self._stat(pid) if pid != os.getpid() else None
            if stat is not None and not stat.kernel and stat.state not in ("Z", "X"):
                found.append(Seen(pid, stat, time.monotonic()))
        return found

    def _group(self, seen: Iterable[Seen]) -> list[Container]:
        """The processes by container, or by cgroup where they are in none."""
        groups: dict[tuple[int, bytes], Container] = {}
        known: dict[bytes, tuple[int, Place] | None] = {}
        for one in seen:
            path = f"{self._proc}/{one.pid}/cgroup"
            contents, _ = blasenv.read_file(path, blasenv.MAX_FILE, kernel=True)
            if contents not in known:
                group = blasenv.parse_cgroup(contents)
                known[contents] = (group[0], parse_path(group[1])) if group else None
            found = known[contents]
            if found is not None:
                version, place = found
                groups.setdefault((version, place.path), Container(place)).processes.append(one)
        return list(groups.values())

    def _levels(self, group: Container) -> list[blasenv.Limit]:
        """By one of its processes, the one that has worked most; by another where that has ended meanwhile."""
        for one in sorted(group.processes, key=lambda one: -one.first.seconds)[:3]:
            levels = find_levels(str(one.pid), self._root)
            if levels:
                return levels
        return []

    def _counters(self, groups: Iterable[Container]) -> dict[str, tuple[float, Throttling]]:
        """The counters of each limit now, and when that was."""
        levels = {level.path: level for group in groups for level in group.levels if cpus_of(level)}
        found = {}
        for path, level in levels.items():
            counted = read_throttling(level, self._root)
            if counted is not None:
                found[path] = time.monotonic(), counted
        return found

    def _again(self, one: Seen) -> None:
        stat = self._stat(one.pid)
        if stat is None or stat.started != one.first.started:  # another one with its PID
            one.gone = True
            return
        one.used = max(0.0, stat.seconds - one.first.seconds) / max(1e-3, time.monotonic() - one.at)
        one.idle = one.used < IDLE and "R" not in (one.first.state, stat.state)
        one.stuck = "D" in (one.first.state, stat.state)
        one.ready = one.first.state == stat.state == "R"

    def _throttling(self, groups: Iterable[Container], before: dict[str, tuple[float, Throttling]]) -> None:
        now = self._counters(groups)
        for group in groups:
            then, after = (
                [found[level.path][1] if level.path in found else None for level in group.levels]
                for found in (before, now)
            )
            group.throttling, _, group.level = most_throttled(group.levels, then, after)
            if group.level is not None:
                group.seconds = now[group.level.path][0] - before[group.level.path][0]

    def _is_numeric(self, group: Container) -> bool:
        busy = sorted((one for one in group.processes if one.used >= IDLE), key=lambda one: -one.used)
        group.numeric = any(any(map(is_numeric, parse_maps(self._read(one.pid, "maps")))) for one in busy)
        return group.numeric

    def _watch(self, containers: Iterable[Container], seen: Iterable[Seen], seconds: float) -> None:
        """A close look at those that are busy or throttled, all over the same time."""
        chosen: list[Container] = []
        threads = 0
        for one in sorted(containers, key=lambda one: (-one.standing_still, -one.used)):
            if one.used < BUSY and one.share < THROTTLED and not any(process.ready for process in one.processes):
                continue
            threads += sum(process.first.threads for process in one.processes if not process.idle)
            if chosen and threads > MOST_THREADS:
                one.left_out = True
            else:
                chosen.append(one)
        if not chosen:
            return
        by_pid = {one.pid: one for one in seen}
        above = _above(by_pid)
        closed = {one.pid for one in by_pid.values() if one.idle and (one.stuck or one.pid not in above)}
        asked = [
            [one.pid for one in sorted(group.processes, key=lambda one: -one.used) if not one.gone and not one.idle]
            for group in chosen
        ]
        pids = [pid for group in asked for pid in group[:MOST_ASKED]]
        measured = {one.pid: one for one in measure(pids, seconds, self._root, closed)}
        for group, of_group in zip(chosen, asked):
            group.asked = [measured[pid] for pid in of_group[:MOST_ASKED] if not measured[pid].gone]
            self._closed.update(one.pid for one in group.watched if one.lacks)
            worst = max(group.asked, key=lambda one: one.throttling.share if one.throttling else -1.0, default=None)
            if worst is not None and worst.throttling is not None and group.throttling is not None:
                # The figures that the verdict on that process is about.
                group.throttling, group.level, group.seconds = worst.throttling, worst.throttled_level, worst.seconds

    def _name(self, containers: Iterable[Container], seen: Iterable[Seen]) -> None:
        monitors, daemons = (
            [parse_words(self._read(one.pid, "cmdline")) for one in seen if one.first.name == name and not one.gone]
            for name in ("conmon", "dockerd")
        )
        names = Names(self._root, monitors, daemons)
        for one in containers:
            engine, one.name = names.find(one.place)
            one.place = one.place._replace(engine=engine)
            if one.place.id and not (one.name.pod or one.name.name):
                awake = [process for process in one.processes if not process.gone and not process.idle]
                for process in awake[:1]:
                    one.hostname = parse_environ(self._read(process.pid, "environ")).get("HOSTNAME", "")

    def _is_whole(self) -> bool:
        try:
            return os.stat(f"{self._proc}/self/ns/pid").st_ino == _INITIAL_PIDS
        except OSError:
            return False


def _above(by_pid: dict[int, Seen]) -> set[int]:
    """The parents of all that are awake, and their parents: whose workers these are."""
    above: set[int] = set()
    for one in by_pid.values():
        parent = by_pid.get(one.first.parent) if not one.idle else None
        while parent is not None and parent.pid not in above:
            above.add(parent.pid)
            parent = by_pid.get(parent.first.parent)
    return above


def _attribute(containers: Iterable[Container]) -> None:
    """Where one limit stopped several containers, that is one thing: it goes with the one that uses most."""
    levels: dict[str, list[Container]] = {}
    for one in containers:
        if one.level is not None and one.throttling is not None and one.throttling.throttled > 0:
            levels.setdefault(directory_of(one.level), []).append(one)
    for sharing in levels.values():
        first = max(sharing, key=lambda one: one.used)
        for one in sharing:
            one.sharing = len(sharing)
            one.counted_with = None if one is first else first
