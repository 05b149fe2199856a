"""How many more threads may start: the pids controller of a process's cgroups, and RLIMIT_NPROC.

A thread that may not start is an EAGAIN from clone(2), which OpenBLAS reports as
"pthread_create failed" and others as a crash. ``parse_*`` take bytes, ``find_*`` open.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import blasenv
from blasenv import _host


@dataclass(frozen=True)
class Pids:
    """One cgroup that limits how many threads and processes there may be."""

    directory: str
    current: int
    """Threads in it and below, now (the kernel counts each thread as one)."""
    most: int
    refused: int | None
    """How often the kernel has refused one since the cgroup was made, None where it does not count."""

    @property
    def full(self) -> bool:
        """Whether not one more may start."""
        return self.current >= self.most


@dataclass(frozen=True)
class UserThreads:
    """RLIMIT_NPROC of a process: the threads that its user may have, over all processes."""

    current: int
    most: int

    @property
    def full(self) -> bool:
        """Whether not one more may start."""
        return self.current >= self.most


def parse_group(contents: bytes, controller: bytes) -> tuple[int, bytes] | None:
    """The cgroup version and path of a controller, from /proc/PID/cgroup; see `blasenv.parse_cgroup`."""
    unified = None
    for line in contents.split(b"\n"):
        fields = line.split(b":", 2)
        if len(fields) == 3 and fields[2].startswith(b"/"):
            if controller in fields[1].split(b","):
                return 1, fields[2]
            if fields[0] == b"0" and not fields[1]:
                unified = unified or (2, fields[2])
    return unified


def parse_mounts(contents: bytes, version: int, controller: bytes) -> list[tuple[bytes, bytes]]:
    """The (root, mount point) of the mounts of a controller; proc_pid_mountinfo(5), see `blasenv.parse_mountinfo`.

    Of several mounts on one point, the last one covers the others.
    """
    found: dict[bytes, bytes | None] = {}
    for line in contents.split(b"\n"):
        before, hyphen, after = line.partition(b" - ")
        fields, rest = before.split(b" "), after.split(b" ", 2)
        if not hyphen or len(fields) < 6 or len(rest) < 3:
            continue
        shows = rest[0] == b"cgroup2" if version == 2 else rest[0] == b"cgroup" and controller in rest[2].split(b",")
        found.pop(fields[4], None)
        found[fields[4]] = fields[3] if shows else None
    return _host.unescape([(root, point) for point, root in found.items() if root is not None])


def parse_pids_max(contents: bytes) -> int | None:
    """The number in ``pids.max``, None for "max" (cgroup-v2.rst, pids.rst) and for what is no number."""
    return int(contents) if contents.strip().isdigit() and len(contents) < 20 else None


def parse_pids_events(contents: bytes) -> int | None:
    """How often a fork has failed because of the limit: ``max N`` in ``pids.events``."""
    for line in contents.split(b"\n"):
        name, _, number = line.partition(b" ")
        if name == b"max" and number.isdigit():
            return int(number)
    return None


def parse_nproc(contents: bytes) -> int | None:
    """The soft limit of "Max processes" in /proc/PID/limits (proc_pid_limits(5)), None when unlimited."""
    for line in contents.split(b"\n"):
        if line.startswith(b"Max processes"):
            soft = line[len(b"Max processes") :].split()[:1]
            return int(soft[0]) if soft and soft[0].isdigit() else None
    return None


def find_pids(process: str = "self", root: str = "/") -> list[Pids]:
    """The cgroups of a process that limit its threads, from its own upwards; as `cgroup.find_levels` looks for them."""
    prefix = os.fsencode(root.rstrip("/"))
    contents, _ = blasenv.read_file(prefix + f"/proc/{process}/cgroup".encode(), blasenv.MAX_FILE, kernel=True)
    group = parse_group(contents, b"pids")
    if group is None:
        return []
    version, name = group
    for observer, below in (("self", b""), (process, f"/proc/{process}/root".encode())):
        path = prefix + f"/proc/{observer}/mountinfo".encode()
        mountinfo, _ = blasenv.read_file(path, blasenv.MAX_MOUNTINFO, kernel=True)
        found, seen = [], False
        for mount_root, point in parse_mounts(mountinfo, version, b"pids"):
            for directory in blasenv.level_directories(name, mount_root, below + point):
                seen = True
                limit = _read_pids(prefix + directory, os.fsdecode(directory))
                if limit is not None:
                    found.append(limit)
        if seen or process == "self":
            return found
    return []


def _read_pids(directory: bytes, shown: str) -> Pids | None:
    def read(name: bytes) -> bytes:
        return blasenv.read_file(directory + b"/" + name, blasenv.MAX_FILE, kernel=True)[0]

    most, current = parse_pids_max(read(b"pids.max")), parse_pids_max(read(b"pids.current"))
    if most is None or current is None:
        return None
    return Pids(shown, current, most, parse_pids_events(read(b"pids.events")))


def nearest(limits: list[Pids]) -> Pids | None:
    """The one with the fewest threads left; None without any."""
    return min(limits, key=lambda limit: limit.most - limit.current, default=None)


def count_threads_of_users(root: str = "/") -> Counter[int]:
    """How many threads each user has, by UID, as far as their processes can be seen (proc_pid_status(5))."""
    proc = f"{root.rstrip('/')}/proc"
    threads: Counter[int] = Counter()
    for name in os.listdir(proc):
        if name.isdigit():
            status = blasenv.read_file(f"{proc}/{name}/status", blasenv.MAX_FILE)[0]
            words = {line.split(b":")[0]: line.split()[1:] for line in status.split(b"\n") if b":" in line}
            uid = (words.get(b"Uid") or [b""])[0]
            if uid.isdigit():
                threads[int(uid)] += int((words.get(b"Threads") or [b"1"])[0])
    return threads


def find_user_threads(
    pid: int,
    user: int,
    root: str = "/",
    of_users: Callable[[str], Counter[int]] = count_threads_of_users,
) -> UserThreads | None:
    """RLIMIT_NPROC of a process, and how many threads its user has.

    ``of_users`` is `count_threads_of_users`, or one that remembers what it said. None when there is no such limit for
    it: none set, root (setrlimit(2): a privileged process is not held to it), or another user namespace, whose count
    can't be seen from here.
    """
    proc = f"{root.rstrip('/')}/proc"
    most = parse_nproc(blasenv.read_file(f"{proc}/{pid}/limits", blasenv.MAX_FILE)[0])
    if most is None or user <= 0 or not _same_user_namespace(f"{proc}/{pid}", f"{proc}/self"):
        return None
    return UserThreads(of_users(root)[user], most)


def _same_user_namespace(one: str, other: str) -> bool:
    try:
        return os.readlink(f"{one}/ns/user") == os.readlink(f"{other}/ns/user")
    except OSError:
        return False
