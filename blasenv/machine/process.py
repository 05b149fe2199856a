"""Look at processes that run now, from the outside, with nothing but /proc: no ptrace, nothing stops.

``parse_*`` take the bytes of a file of /proc; `measure` opens them, twice and in between, and
returns what happened meanwhile.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import blasenv
from blasenv import _host
from blasenv.machine.cgroup import Throttling, cpus_of, directory_of, find_levels, read_throttling, tightest
from blasenv.machine.libraries import Library, is_numeric, parse_maps, recognise_all
from blasenv.machine.observe import Observation, observe_process

SAMPLES_PER_SECOND = 20
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

# The system calls a thread waits in, by number (arch/x86/entry/syscalls/syscall_64.tbl,
# include/uapi/asm-generic/unistd.h). Others are shown by the kernel function they sleep in.
_CALLS = {
    "x86_64": {
        0: "read", 1: "write", 7: "poll", 17: "pread64", 18: "pwrite64", 19: "readv", 20: "writev", 23: "select",
        34: "pause", 35: "nanosleep", 42: "connect", 43: "accept", 44: "sendto", 45: "recvfrom", 46: "sendmsg",
        47: "recvmsg", 61: "wait4", 72: "fcntl", 73: "flock", 74: "fsync", 75: "fdatasync", 128: "rt_sigtimedwait",
        130: "rt_sigsuspend", 202: "futex", 230: "clock_nanosleep", 232: "epoll_wait", 247: "waitid", 257: "openat",
        270: "pselect6", 271: "ppoll", 281: "epoll_pwait", 288: "accept4", 441: "epoll_pwait2", 449: "futex_waitv",
    },
    "aarch64": {
        22: "epoll_pwait", 25: "fcntl", 32: "flock", 56: "openat", 63: "read", 64: "write", 65: "readv", 66: "writev",
        67: "pread64", 68: "pwrite64", 72: "pselect6", 73: "ppoll", 82: "fsync", 83: "fdatasync", 95: "waitid",
        98: "futex", 101: "nanosleep", 115: "clock_nanosleep", 133: "rt_sigsuspend", 137: "rt_sigtimedwait",
        202: "accept", 203: "connect", 206: "sendto", 207: "recvfrom", 211: "sendmsg", 212: "recvmsg",
        242: "accept4", 260: "wait4", 441: "epoll_pwait2", 449: "futex_waitv",
    },
}  # fmt: skip
_WITH_FILE = re.compile(r"p?readv?|p?writev?|pread64|pwrite64|recv|send|accept|connect|fsync|fdatasync|flock|fcntl")

# Kernel functions that stand for a call, where /proc/PID/syscall is closed (Yama's ptrace_scope).
_KERNEL_FUNCTIONS = (
    ("futex", "futex"),
    ("nanosleep", "clock_nanosleep"),
    ("ep_poll", "epoll_wait"),
    ("poll_schedule", "poll"),
    ("do_wait", "wait4"),
    ("pipe_read", "read"),
    ("tty_read", "read"),
    ("wait_woken", "read"),
    ("wait_data", "recvfrom"),
    ("stream_read", "recvfrom"),
    ("inet_csk_accept", "accept"),
    ("pipe_write", "write"),
)


@dataclass(frozen=True)
class Stat:
    """What one read of /proc/PID/task/TID/stat tells."""

    name: str
    state: str
    """R, S, D, T, Z … as in proc_pid_stat(5)."""
    parent: int
    major_faults: int
    seconds: float
    """CPU time, user and system."""


def parse_stat(contents: bytes) -> Stat | None:
    """The fields of proc_pid_stat(5), None when they are not there.

    ``pid (comm) state ppid …``; comm may hold blanks and parentheses, so its end is the last one.
    """
    before, parenthesis, after = contents.rpartition(b")")
    fields = after.split()
    if not parenthesis or len(fields) < 20:
        return None
    name = before.partition(b"(")[2].decode(errors="backslashreplace")
    ticks = int(fields[11]) + int(fields[12])
    return Stat(name, fields[0].decode(), int(fields[1]), int(fields[9]), ticks / _TICK)


def parse_status(contents: bytes) -> dict[str, str]:
    """The ``Name: value`` lines of proc_pid_status(5)."""
    pairs = (line.partition(":") for line in contents.decode(errors="backslashreplace").split("\n"))
    return {name: value.strip() for name, colon, value in pairs if colon}


@dataclass
class Thread:
    """One thread, over the time it was watched."""

    tid: int
    name: str
    states: Counter[str] = field(default_factory=Counter)
    """How many samples saw it in which state."""
    places: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What it slept in: (system call or kernel function, file if it has one)."""
    cpu: float = 0.0
    """CPU time over time watched: 1.0 is a whole CPU."""
    queued: float = 0.0
    """Time ready to run without a CPU, over time watched."""
    major_faults: float = 0.0
    """Page faults that read from disk, per second."""
    voluntary: float = 0.0
    """Context switches per second because it had to wait."""
    involuntary: float = 0.0
    """Context switches per second because its CPU was taken."""
    cpus: frozenset[int] = frozenset()
    """Where it may run."""

    @property
    def busy(self) -> bool:
        """Ready to run, with or without a CPU, in at least half of the samples."""
        return self.states["R"] * 2 >= max(1, sum(self.states.values()))

    @property
    def state(self) -> str:
        """The state it was seen in most often; R when busy."""
        return "R" if self.busy else self.states.most_common(1)[0][0]

    @property
    def place(self) -> tuple[str, str]:
        """What it slept in most often, empty strings when that can't be read."""
        return self.places.most_common(1)[0][0] if self.places else ("", "")


@dataclass
class Process:
    """One process, over the time it was watched."""

    pid: int
    command: list[str] = field(default_factory=list)
    name: str = ""
    user: int = -1
    parent: int = 0
    seconds: float = 0.0
    """How long it was watched."""
    threads: list[Thread] = field(default_factory=list)
    libraries: list[Library] = field(default_factory=list)
    environment: dict[str, str] | None = None
    """Variables about threads that it was started with, None when they can't be read."""
    levels: list[blasenv.Limit] = field(default_factory=list)
    observation: Observation | None = None
    """What blasenv would decide for it, None before it was looked at."""
    throttling: Throttling | None = None
    """Of the cgroup that was throttled most, while watched."""
    throttling_before: Throttling | None = None
    """The same cgroup's counters since it was made."""
    cgroup_processes: int = 0
    """How many processes share the tightest cgroup."""
    children: list[int] = field(default_factory=list)
    swapped: int = 0
    """Bytes in swap."""
    lacks: list[str] = field(default_factory=list)
    """What could not be read, and why."""
    gone: bool = False
    """Whether it ended while watched."""

    @property
    def limit(self) -> blasenv.Limit | None:
        """The tightest cgroup."""
        return tightest(self.levels)

    @property
    def cpus(self) -> frozenset[int]:
        """The CPUs that its busy threads may run on, all threads' when none is busy."""
        masks = [thread.cpus for thread in self.threads if thread.busy] or [thread.cpus for thread in self.threads]
        return frozenset[int]().union(*masks)

    @property
    def allowed(self) -> float:
        """CPUs it can use: its quota, or its affinity where that is less."""
        quota = cpus_of(self.limit) if self.limit else None
        visible = float(len(self.cpus) or 1)
        return min(visible, quota) if quota else visible

    @property
    def fitting(self) -> int:
        """The count of threads that fits it, as blasenv would set it."""
        return self.observation.fitting if self.observation else blasenv.fit(self.levels, len(self.cpus) or 1, 1, "")[0]


@dataclass(frozen=True)
class _Counters:
    seconds: float
    queued: float
    major_faults: int
    voluntary: int
    involuntary: int
    cpus: frozenset[int]


def _read(path: str) -> bytes:
    # No file of /proc that is read here is bound in size: the environment may be megabytes.
    return blasenv.read_file(path, blasenv.MAX_MOUNTINFO)[0]


def _tids(proc: str) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(f"{proc}/task"))
    except OSError:
        return []


def _counters(task: str) -> _Counters | None:
    stat = parse_stat(_read(f"{task}/stat"))
    if stat is None:
        return None
    # schedstat: nanoseconds on a CPU, nanoseconds ready without one, times run (sched-stats.rst).
    schedstat = _read(f"{task}/schedstat").split()
    seconds, queued = stat.seconds, 0.0
    if len(schedstat) == 3 and all(number.isdigit() for number in schedstat):
        seconds, queued = int(schedstat[0]) / 1e9, int(schedstat[1]) / 1e9
    status = parse_status(_read(f"{task}/status"))
    return _Counters(
        seconds,
        queued,
        stat.major_faults,
        int(status.get("voluntary_ctxt_switches", 0)),
        int(status.get("nonvoluntary_ctxt_switches", 0)),
        frozenset(_host.parse_cpu_list(status.get("Cpus_allowed_list", "").encode())),
    )


def _place(proc: str, tid: int) -> tuple[str, str]:
    """The system call that a sleeping thread is in, with the file it is about; or the kernel function."""
    words = _read(f"{proc}/task/{tid}/syscall").split()
    if words and words[0].isdigit():
        call = _CALLS.get(platform.machine(), {}).get(int(words[0]), "")
        if call in ("select", "pselect6") and len(words) > 1 and int(words[1], 16) == 0:
            return "clock_nanosleep", ""  # select without files is a sleep (Python before 3.11)
        if call:
            target = ""
            if _WITH_FILE.match(call) and len(words) > 1:
                try:
                    target = os.readlink(f"{proc}/fd/{int(words[1], 16)}")
                except OSError:
                    target = ""
            return call, target
    function = _read(f"{proc}/task/{tid}/wchan").decode(errors="replace")
    if function in ("", "0"):
        return "", ""
    return next((call for part, call in _KERNEL_FUNCTIONS if part in function), function), ""


def _sample(proc: str, threads: dict[int, Thread]) -> None:
    for tid in _tids(proc):
        stat = parse_stat(_read(f"{proc}/task/{tid}/stat"))
        if stat is None:
            continue
        thread = threads.setdefault(tid, Thread(tid, stat.name))
        thread.name = stat.name
        thread.states[stat.state] += 1
        if stat.state in ("S", "D"):
            thread.places[_place(proc, tid)] += 1


def _identify(process: Process, proc: str) -> None:
    """Fill in what does not change while it is watched."""
    stat = parse_stat(_read(f"{proc}/stat"))
    status = parse_status(_read(f"{proc}/status"))
    if stat is None:
        process.gone = True
        return
    process.name, process.parent = stat.name, stat.parent
    process.user = int((status.get("Uid", "").split() or ["-1"])[0])
    process.swapped = int((status.get("VmSwap", "").split() or ["0"])[0]) * 1024
    process.command = [os.fsdecode(word) for word in _read(f"{proc}/cmdline").split(b"\0") if word]
    maps, problem = blasenv.read_file(f"{proc}/maps", blasenv.MAX_MOUNTINFO)
    if problem:
        process.lacks.append(f"which libraries it has loaded ({proc}/maps: {problem})")
    process.libraries = recognise_all(parse_maps(maps), f"{proc}/root")
    environ, problem = blasenv.read_file(f"{proc}/environ", blasenv.MAX_MOUNTINFO)
    if problem:
        process.lacks.append(f"the environment it was started with ({proc}/environ: {problem})")
    else:
        pairs = (os.fsdecode(item).partition("=") for item in environ.split(b"\0"))
        process.environment = {
            name: value for name, _, value in pairs if name.endswith("_THREADS") or name.startswith("BLASENV_")
        }
    if not _readable(f"{proc}/syscall") and not _readable(f"{proc}/fd"):
        process.lacks.append(f"what its threads wait for ({proc}/syscall)")
    for tid in _tids(proc):
        process.children += [int(pid) for pid in _read(f"{proc}/task/{tid}/children").split()]


def _readable(path: str) -> bool:
    try:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            with open(path, "rb") as file:
                file.read(1)
    except OSError:
        return False
    return True


def _most_throttled(
    before: Sequence[Throttling | None], after: Sequence[Throttling | None]
) -> tuple[Throttling | None, Throttling | None]:
    """The change of the level that was throttled in most periods, and its counters at the end."""
    changes = [(now - then, now) for then, now in zip(before, after) if then is not None and now is not None]
    if not changes:
        return None, None
    return max(changes, key=lambda change: (change[0].share, change[0].periods))


def measure(pids: Sequence[int], seconds: float, root: str = "/") -> list[Process]:
    """Watch processes for so many seconds, all over the same time.

    A process that ends meanwhile, or was not there, comes back with ``gone``.
    """
    base = os.path.join(root, "proc")
    processes = [Process(pid) for pid in pids]
    proc = {process.pid: f"{base}/{process.pid}" for process in processes}
    first: dict[int, dict[int, _Counters]] = {}
    before: dict[int, list[Throttling | None]] = {}
    threads: dict[int, dict[int, Thread]] = {pid: {} for pid in pids}
    for process in processes:
        _identify(process, proc[process.pid])
        process.levels = [] if process.gone else find_levels(str(process.pid), root)
        before[process.pid] = [read_throttling(level, root) for level in process.levels]
        first[process.pid] = _all_counters(proc[process.pid])
    start = time.monotonic()
    sampled = 0
    while True:
        for process in processes:
            _sample(proc[process.pid], threads[process.pid])
        sampled += 1
        # In a throttled cgroup this loop is throttled, too; a few samples are needed all the same.
        if time.monotonic() - start >= seconds and sampled >= 5:
            break
        time.sleep(1 / SAMPLES_PER_SECOND)
    elapsed = time.monotonic() - start
    for process in processes:
        process.seconds = elapsed
        after = [read_throttling(level, root) for level in process.levels]
        process.throttling, process.throttling_before = _most_throttled(before[process.pid], after)
        last = _all_counters(proc[process.pid])
        process.gone = process.gone or not last
        process.threads = [
            _finish(thread, first[process.pid].get(tid), last.get(tid), elapsed)
            for tid, thread in sorted(threads[process.pid].items())
        ]
        process.observation = observe_process(
            process.pid, process.parent, process.cpus, process.command, process.environment or {}, root
        )
        if process.limit is not None:
            process.cgroup_processes = len(_read(f"{directory_of(process.limit, root)}/cgroup.procs").split())
    return processes


def _all_counters(proc: str) -> dict[int, _Counters]:
    counters = {tid: _counters(f"{proc}/task/{tid}") for tid in _tids(proc)}
    return {tid: found for tid, found in counters.items() if found is not None}


def _finish(thread: Thread, first: _Counters | None, last: _Counters | None, elapsed: float) -> Thread:
    """Put rates into a thread; one that came or went meanwhile has none."""
    if last is not None:
        thread.cpus = last.cpus
    if first is not None and last is not None:
        thread.cpu = (last.seconds - first.seconds) / elapsed
        thread.queued = max(0.0, (last.queued - first.queued) / elapsed)
        thread.major_faults = (last.major_faults - first.major_faults) / elapsed
        thread.voluntary = (last.voluntary - first.voluntary) / elapsed
        thread.involuntary = (last.involuntary - first.involuntary) / elapsed
    return thread


def numeric_pids(root: str = "/") -> tuple[list[int], int]:
    """The processes that have a BLAS or OpenMP library loaded, and how many can't be looked into."""
    base = os.path.join(root, "proc")
    found, closed = [], 0
    for pid in sorted(int(name) for name in os.listdir(base) if name.isdigit()):
        maps, problem = blasenv.read_file(f"{base}/{pid}/maps", blasenv.MAX_MOUNTINFO)
        if problem and problem != blasenv.ABSENT:
            closed += 1
        elif pid != os.getpid() and any(is_numeric(path) for path in parse_maps(maps)):
            found.append(pid)
    return found, closed
