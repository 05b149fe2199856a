"""Look at processes that run now, from the outside, with nothing but /proc: no ptrace, nothing stops.

``parse_*`` take the bytes of a file of /proc. A `Watch` opens them: when it starts, in between, and
at the end; `measure` watches several processes over the same time.
"""

from __future__ import annotations

import math
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import blasenv
from blasenv import _host
from blasenv.machine.cgroup import Throttling, directory_of, find_levels, quota_cpus, read_throttling, tightest
from blasenv.machine.libraries import Library, is_numeric, parse_maps, recognise_all
from blasenv.machine.observe import Observation, observe_process
from blasenv.machine.pids import Pids, UserThreads, count_threads_of_users, find_pids, find_user_threads, nearest

# The kernel hands out quota every 100 ms; looks in step with that would always see the same part of it.
SAMPLES_PER_SECOND = 41
RESTLESS = 20  # times a second that a thread falls asleep; one that computes does so hardly ever
THROTTLED = 0.1  # share of periods above which throttling is worth a word; short bursts cost a period now and then
MOST_NEIGHBOURS = 64  # processes in one limit that are watched beside the one asked for
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

_INTERPRETER = re.compile(rb"(lib)?(python|pypy)[23]?")  # not an extension module, x.cpython-311-x86_64-linux-gnu.so

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
    started: float
    """When it began, in seconds after the machine's start; field 22."""
    threads: int
    """How many the process has; field 20."""
    kernel: bool
    """Whether it is a thread of the kernel; PF_KTHREAD in field 9 (include/linux/sched.h)."""


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
    return Stat(
        name,
        fields[0].decode(),
        int(fields[1]),
        int(fields[9]),
        ticks / _TICK,
        int(fields[19]) / _TICK,
        int(fields[17]),
        bool(int(fields[6]) & 0x00200000),
    )


def parse_words(contents: bytes) -> list[str]:
    """The words of a command line, proc_pid_cmdline(5): each ends with a NUL byte."""
    return [os.fsdecode(word) for word in contents.split(b"\0") if word]


def parse_environ(contents: bytes) -> dict[str, str]:
    """The variables of proc_pid_environ(5), ``NAME=VALUE`` between NUL bytes; getenv(3) finds no others."""
    pairs = (os.fsdecode(item).partition("=") for item in contents.split(b"\0"))
    return {name: value for name, equals, value in pairs if equals}


def parse_status(contents: bytes) -> dict[str, str]:
    """The ``Name: value`` lines of proc_pid_status(5)."""
    pairs = (line.partition(":") for line in contents.decode(errors="backslashreplace").split("\n"))
    return {name: value.strip() for name, colon, value in pairs if colon}


def parse_static(contents: bytes) -> list[tuple[int, int]]:
    """The addresses in which a Python interpreter, or its library, keeps its variables, from /proc/PID/maps.

    proc_pid_maps(5): ``address perms offset dev inode pathname``. A file's writable mapping, and the
    nameless one right behind it, which is its .bss.
    """
    found: list[tuple[int, int]] = []
    for line in contents.split(b"\n"):
        fields = line.split(None, 5)
        first, dash, last = (fields[0] if fields else b"").partition(b"-")
        if not dash or len(fields) < 5 or not fields[1].startswith(b"rw"):
            continue
        try:
            start, end = int(first, 16), int(last, 16)
        except ValueError:
            continue
        if len(fields) == 6 and _INTERPRETER.match(fields[5].rpartition(b"/")[2]):
            found.append((start, end))
        elif len(fields) == 5 and found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
    return found


def parse_start_of_machine(contents: bytes) -> float | None:
    """When the machine started, in seconds since 1970: ``btime`` in /proc/stat (proc_stat(5))."""
    for line in contents.split(b"\n"):
        name, _, number = line.partition(b" ")
        if name == b"btime" and number.isdigit():
            return float(number)
    return None


@dataclass(frozen=True)
class Lack:
    """Something that could not be read."""

    what: str
    """libraries, environment or waits."""
    path: str
    problem: str
    """Why, "" when nothing says so."""


@dataclass
class Thread:
    """One thread, over the time it was watched."""

    tid: int
    name: str
    started: float = 0.0
    """When it began, in seconds after the machine's start."""
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
    turns: int = 0
    """How many samples saw it wait for its turn at the lock of a Python interpreter (GIL)."""

    @property
    def running(self) -> float:
        """The share of samples in which it was ready to run, with or without a CPU."""
        return self.states["R"] / max(1, sum(self.states.values()))

    @property
    def restless(self) -> bool:
        """Whether it falls asleep so often that it may be ready to run only because it waits for a CPU.

        What computes has its CPU taken from it, however many others want it, and does not sleep.
        """
        return self.voluntary >= RESTLESS or self.turns >= 0.1 * max(1, sum(self.states.values()))

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
    throttled_level: blasenv.Limit | None = None
    """The limit of that cgroup."""
    cgroup_processes: int = 0
    """How many processes share the tightest cgroup."""
    children: list[int] = field(default_factory=list)
    neighbours: list[Process] = field(default_factory=list)
    """The others in the tightest cgroup, or, without a limit, its descendants; watched over the same time."""
    left_out: int = 0
    """How many more of them there are."""
    swapped: int = 0
    """Bytes in swap."""
    started: float = 0.0
    """When it began, in seconds after the machine's start."""
    since: float | None = None
    """The same in seconds since 1970, None when that can't be told."""
    executable: str = ""
    """Its file, as its own root directory names it; "" when that can't be read."""
    has_python: bool = False
    """Whether a Python interpreter is loaded, as its executable or as a library."""
    root: str = ""
    """Where its root directory can be opened from here, /proc/PID/root."""
    search_path: str = ""
    """PATH, as it was started with."""
    around: frozenset[int] = frozenset()
    """The CPUs that its parent may use."""
    pids: Pids | None = None
    """The cgroup with the fewest threads left, None where their number has no limit."""
    refused: int | None = None
    """How many threads or processes the kernel refused there while it was watched, None where it does not count."""
    user_threads: UserThreads | None = None
    """RLIMIT_NPROC, where it binds this process."""
    lacks: list[Lack] = field(default_factory=list)
    gone: bool = False
    """Whether it ended while watched."""

    def lacks_any(self, what: str) -> bool:
        """Whether that could not be read: libraries, environment or waits."""
        return any(lack.what == what for lack in self.lacks)

    @property
    def busy(self) -> list[Thread]:
        """The threads that were ready to run in at least half of the samples."""
        return [thread for thread in self.threads if thread.busy]

    @cached_property
    def used(self) -> float:
        """CPUs that it used."""
        return sum(thread.cpu for thread in self.threads)

    @property
    def _in_turn(self) -> list[Thread]:
        return [thread for thread in self.threads if thread.restless and thread.turns and thread.running]

    @property
    def takes_turns(self) -> bool:
        """Whether its threads wait for one another at Python's lock, so that one runs at a time."""
        return bool(self._in_turn)

    @cached_property
    def wants(self) -> float:
        """CPUs that it would use if it got them.

        A thread that computes wants what it was ready to run for. One that keeps falling asleep
        waits after each time for a CPU, so that on a busy machine it is ready to run for longer
        than it would need: it wants what it used, or, stopped by a limit, what it was ready for.
        Threads that take turns at Python's lock want at most one CPU together.
        """
        steady = sum(thread.running for thread in self.threads if not thread.restless)
        in_turn = min(1.0, sum(thread.running for thread in self._in_turn))
        others = [thread for thread in self.threads if thread.restless and not thread.turns]
        used, ready = sum(thread.cpu for thread in others), sum(thread.running for thread in others)
        if self.takes_turns:
            # Their restlessness, too, may come from that lock, although none was seen waiting at it.
            return steady + min(1.0, in_turn + used)
        return steady + (ready if self.throttled else used)

    @cached_property
    def waited(self) -> float:
        """CPUs that it wanted, and did not get."""
        steady = sum(thread.queued for thread in self.threads if not thread.restless)
        return steady + min(1.0, sum(thread.queued for thread in self._in_turn))

    @property
    def standing_still(self) -> float:
        """CPUs whose threads were ready, and stood still because the quota was spent."""
        return self.throttling.seconds / self.seconds if self.throttling and self.seconds else 0.0

    @property
    def throttled(self) -> bool:
        """Whether the kernel stopped its cgroup so often that it is worth a word."""
        return self.throttling is not None and self.throttling.share >= THROTTLED

    @property
    def limit(self) -> blasenv.Limit | None:
        """The tightest cgroup."""
        return tightest(self.levels)

    @property
    def cpus(self) -> frozenset[int]:
        """The CPUs that its busy threads may run on, all threads' when none is busy."""
        masks = [thread.cpus for thread in self.busy] or [thread.cpus for thread in self.threads]
        return frozenset[int]().union(*masks)

    @property
    def allowed(self) -> float:
        """CPUs it can use: its quota, what its owner tells of one that can't be seen, or its affinity."""
        limits = [*self.levels, *(self.observation.limits if self.observation else [])]
        return min(float(len(self.cpus) or 1), quota_cpus(limits) or math.inf)

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
        _cpus(status.get("Cpus_allowed_list", "")),
    )


@lru_cache(64)
def _cpus(listed: str) -> frozenset[int]:
    return frozenset(_host.parse_cpu_list(listed.encode()))  # one set for all the threads that have the same


def _read_call(proc: str, tid: int) -> list[int]:
    """The number of the system call that a thread is in, and its arguments; empty when it runs or that is closed.

    proc_pid_syscall(5): the number in decimal, six arguments, the stack and the instruction in
    hexadecimal; or "running", or -1.
    """
    words = _read(f"{proc}/task/{tid}/syscall").split()
    if len(words) < 7 or not words[0].isdigit():
        return []
    return [int(words[0]), *(int(word, 16) for word in words[1:7])]


def _place(proc: str, tid: int, call: Sequence[int]) -> tuple[str, str]:
    """The system call that a sleeping thread is in, with the file it is about; or the kernel function."""
    if call:
        name = _CALLS.get(platform.machine(), {}).get(call[0], "")
        if name in ("select", "pselect6") and call[1] == 0:
            return "clock_nanosleep", ""  # select without files is a sleep (Python before 3.11)
        if name:
            target = ""
            if _WITH_FILE.match(name):
                try:
                    target = os.readlink(f"{proc}/fd/{call[1]}")
                except OSError:
                    target = ""
            return name, target
    function = _read(f"{proc}/task/{tid}/wchan").decode(errors="replace")
    if function in ("", "0"):
        return "", ""
    return next((name for part, name in _KERNEL_FUNCTIONS if part in function), function), ""


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


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _within(top: str, path: str) -> str:
    return path[len(top) :] if path.startswith(f"{top}/") else path


def most_throttled(
    levels: Sequence[blasenv.Limit], before: Sequence[Throttling | None], after: Sequence[Throttling | None]
) -> tuple[Throttling | None, Throttling | None, blasenv.Limit | None]:
    """The change of the level that was throttled in most periods, its counters at the end, and the level."""
    changes = [
        (now - then, now, level)
        for level, then, now in zip(levels, before, after)
        if then is not None and now is not None
    ]
    if not changes:
        return None, None, None
    return max(changes, key=lambda change: (change[0].share, change[0].periods))


class Watch:
    """One process that is watched: from when this is made, over each `sample`, to `finish`."""

    def __init__(self, pid: int, root: str = "/") -> None:
        self.process = Process(pid)
        self._root = root
        self._proc = f"{os.path.join(root, 'proc')}/{pid}"
        self._threads: dict[int, Thread] = {}
        self._environ: Mapping[str, str] = {}
        self._python: list[tuple[int, int]] = []
        self._identify()
        process = self.process
        process.levels = [] if process.gone else find_levels(str(pid), root)
        self._throttling = [read_throttling(level, root) for level in process.levels]
        self._refused = {} if process.gone else {one.directory: one.refused for one in find_pids(str(pid), root)}
        self._first = self._counters()

    def _identify(self) -> None:
        """Fill in what does not change while it is watched."""
        process, proc = self.process, self._proc
        stat = parse_stat(_read(f"{proc}/stat"))
        if stat is None:
            process.gone = True
            return
        status = parse_status(_read(f"{proc}/status"))
        process.name, process.parent, process.started = stat.name, stat.parent, stat.started
        machine = parse_start_of_machine(_read(f"{os.path.dirname(proc)}/stat"))
        process.since = machine + stat.started if machine is not None else None
        process.user = int((status.get("Uid", "").split() or ["-1"])[0])
        process.swapped = int((status.get("VmSwap", "").split() or ["0"])[0]) * 1024
        process.command = parse_words(_read(f"{proc}/cmdline"))
        # Files are named as from our root directory, or that of its mount namespace, and it may have another (chroot).
        top = _link(f"{proc}/root").rstrip("/")
        process.executable = _within(top, _link(f"{proc}/exe").replace(" (deleted)", ""))
        process.root = f"{proc}/root"
        maps, problem = blasenv.read_file(f"{proc}/maps", blasenv.MAX_MOUNTINFO)
        if problem:
            process.lacks.append(Lack("libraries", f"{proc}/maps", problem))
        process.libraries = recognise_all((_within(top, path) for path in parse_maps(maps)), f"{proc}/root")
        self._python = parse_static(maps)
        process.has_python = bool(self._python)
        environ, problem = blasenv.read_file(f"{proc}/environ", blasenv.MAX_MOUNTINFO)
        if problem:
            process.lacks.append(Lack("environment", f"{proc}/environ", problem))
        else:
            self._environ = parse_environ(environ)
            process.search_path = self._environ.get("PATH", "")
            process.environment = {
                name: value
                for name, value in self._environ.items()
                if name.endswith("_THREADS") or name.startswith("BLASENV_")
            }
        if not _readable(f"{proc}/syscall") and not _readable(f"{proc}/fd"):
            process.lacks.append(Lack("waits", f"{proc}/syscall", ""))
        process.children = _children(proc)
        outer = parse_status(_read(f"{os.path.dirname(proc)}/{stat.parent}/status")) if stat.parent > 0 else {}
        process.around = _cpus(outer.get("Cpus_allowed_list", ""))

    def _counters(self) -> dict[int, _Counters]:
        counters = {tid: _counters(f"{self._proc}/task/{tid}") for tid in _tids(self._proc)}
        return {tid: found for tid, found in counters.items() if found is not None}

    def sample(self) -> None:
        """Look once at what each thread does."""
        for tid in _tids(self._proc):
            stat = parse_stat(_read(f"{self._proc}/task/{tid}/stat"))
            if stat is None:
                continue
            thread = self._threads.setdefault(tid, Thread(tid, stat.name, stat.started))
            thread.name = stat.name
            thread.states[stat.state] += 1
            if stat.state in ("S", "D"):
                call = _read_call(self._proc, tid)
                thread.places[_place(self._proc, tid, call)] += 1
                thread.turns += self._is_turn(call)

    def _is_turn(self, call: Sequence[int]) -> bool:
        """Whether a thread waits for Python's lock: futex(2) with a timeout, on a variable of the interpreter itself.

        The lock and its condition are static (ceval_gil, in _PyRuntime); those of Python's
        programs and of other libraries are not within the interpreter.
        """
        if not call or _CALLS.get(platform.machine(), {}).get(call[0]) != "futex" or not call[4]:
            return False
        return any(first <= call[1] < last for first, last in self._python)

    def finish(self, elapsed: float) -> Process:
        """The process, over the ``elapsed`` seconds that it was watched."""
        process = self.process
        process.seconds = elapsed
        after = [read_throttling(level, self._root) for level in process.levels]
        process.throttling, process.throttling_before, process.throttled_level = most_throttled(
            process.levels, self._throttling, after
        )
        last = self._counters()
        process.gone = process.gone or not last
        process.threads = [
            _finish(thread, self._first.get(tid), last.get(tid), elapsed)
            for tid, thread in sorted(self._threads.items())
        ]
        process.observation = observe_process(
            process.pid, process.parent, process.cpus, process.command, self._environ, self._root
        )
        return process

    def count_threads(self, of_users: Callable[[str], Counter[int]]) -> None:
        """Fill in how many more threads may start, and how many were refused meanwhile.

        ``of_users`` is `count_threads_of_users`.
        """
        process = self.process
        limits = find_pids(str(process.pid), self._root)
        # The one that refused, else the one that will be first to.
        news = {one: one.refused - (self._refused.get(one.directory) or 0) for one in limits if one.refused is not None}
        refusing = [one for one, number in news.items() if number > 0]
        process.pids = refusing[0] if refusing else nearest(limits)
        process.refused = news.get(process.pids) if process.pids else None
        process.user_threads = find_user_threads(process.pid, process.user, self._root, of_users)


def _children(proc: str) -> list[int]:
    return [int(pid) for tid in _tids(proc) for pid in _read(f"{proc}/task/{tid}/children").split()]


def _descendants(pid: int, base: str) -> list[int]:
    found: dict[int, None] = {}
    following = [pid]
    while following and len(found) < 10 * MOST_NEIGHBOURS:
        for child in _children(f"{base}/{following.pop()}"):
            if child not in found:
                found[child] = None
                following.append(child)
    return list(found)


def processes_in(directory: str) -> list[int]:
    """The processes in a cgroup and in those below it, as far as they can be seen from here (cgroups(7))."""
    found: set[int] = set()
    for parent, _, _ in os.walk(directory):
        found.update(int(pid) for pid in _read(f"{parent}/cgroup.procs").split() if pid.isdigit())
    return sorted(found - {0})  # 0 stands for one outside of our PID namespace


def _neighbours(process: Process, root: str, within: Callable[[str], Sequence[int]]) -> list[int]:
    """The processes that share its tightest limit; its descendants without one. ``within`` is `processes_in`."""
    if process.limit is not None:
        found = within(directory_of(process.limit, root))
        process.cgroup_processes = len(found)
    else:
        found = _descendants(process.pid, os.path.join(root, "proc"))
    return [pid for pid in found if pid not in (process.pid, os.getpid())]


def measure(
    pids: Sequence[int], seconds: float, root: str = "/", closed: Container[int] = frozenset()
) -> list[Process]:
    """Watch processes for so many seconds, all over the same time, and those that share their limit.

    Of these, none that is in ``closed`` is opened. A process that ends meanwhile, or was not there, comes back with
    ``gone``.
    """
    # Of many processes in one limit, or of one user, each would look at all the others.
    within, of_users = lru_cache(None)(processes_in), lru_cache(None)(count_threads_of_users)
    watches = {pid: Watch(pid, root) for pid in pids}
    neighbours: dict[int, list[int]] = {}
    for pid, watch in list(watches.items()):
        found = [] if watch.process.gone else _neighbours(watch.process, root, within)
        found = [other for other in found if other not in closed]
        # The process's own children first, where not all can be watched.
        found.sort(key=lambda other: other not in watch.process.children)
        neighbours[pid] = found[:MOST_NEIGHBOURS]
        watch.process.left_out = len(found) - len(neighbours[pid])
        watches.update({other: Watch(other, root) for other in neighbours[pid] if other not in watches})
    start = time.monotonic()
    sampled = 0
    while True:
        for watch in watches.values():
            watch.sample()
        sampled += 1
        # In a throttled cgroup this loop is throttled, too; a few samples are needed all the same.
        if time.monotonic() - start >= seconds and sampled >= 5:
            break
        time.sleep(1 / SAMPLES_PER_SECOND)
    elapsed = time.monotonic() - start
    done = {pid: watch.finish(elapsed) for pid, watch in watches.items()}
    for pid in pids:
        watches[pid].count_threads(of_users)
        done[pid].neighbours = [done[other] for other in neighbours[pid] if not done[other].gone]
    return [done[pid] for pid in pids]


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
