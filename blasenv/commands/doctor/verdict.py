"""Is it threads? From what was seen of a process to what is the matter, and what would mend it. Pure; no words.

Load on the machine must not change what is said, so the evidence is what load can't fake: how
many CPUs a process would use if it got them (`Process.wants`), against those it may use.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import blasenv
from blasenv import _host
from blasenv.machine.process import Process, Thread

from .started import UNKNOWN, Started, pools

DISK = 0.2  # share of samples in state D: between them, even a fast disk leaves time to run
FAULTS = 50  # major faults per second: with a disk read of some milliseconds each, they take most of the time
IDLE = 0.05  # CPUs: less than this is nothing
WORKS = 0.25  # CPUs: a process that wants less than this is not what a limit is too small for
AT_ONCE = 30  # seconds: a library starts its pool in a loop, which takes a while where it is throttled
TAKES_PART = 0.1  # share of samples in which a main thread runs that does not only wait for others
MARGIN = 0.3  # of a thread: a program that is one thread is now and then a little more
QUEUED = 0.25  # CPUs not got although there was work; below, whoever waited has hardly waited


@dataclass(frozen=True)
class Verdict:
    """What is the matter with a process."""

    kind: str
    """threads, processes, limit, refused; one-thread, fits; lock, disk, input, output, events, sleep, child,
    memory, queue, stopped, waiting; gone."""
    mends: tuple[str, ...] = ()
    """What to do, by name: see page.MENDS; only what is not in place."""
    about: Process | None = None
    """The process whose threads they are: itself, or a worker of it."""
    working: int = 0
    """Threads of that one that would run at once."""
    whose: str = ""
    """library, own, or both where nobody can tell; "" when it isn't asked."""
    fits: int = 0
    """The threads that fit each process, when workers share the limit with one another."""
    workers: tuple[Process, ...] = ()
    """The processes that work within the same limit, when there are several."""
    master: Process | None = None
    """The one that started all of those."""
    cause: str = ""
    """refused: pids or user; gone: missing, zombie or ended; threads: pinned; processes: unseen; one-thread: turns."""

    @property
    def problem(self) -> bool:
        """Whether threads or a limit are the problem, which is what this command is asked."""
        return self.kind in ("threads", "processes", "limit", "refused")


# What a thread waits for, by the system call it sleeps in.
_WAITS = {
    "lock": ("futex", "futex_waitv"),
    "file lock": ("flock", "fcntl"),
    "disk": ("fsync", "fdatasync"),
    "input": ("read", "readv", "pread64", "preadv", "recvfrom", "recvmsg", "accept", "accept4", "connect"),
    "output": ("write", "writev", "pwrite64", "sendto", "sendmsg"),
    "events": ("poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2"),
    "sleep": ("nanosleep", "clock_nanosleep", "pause", "rt_sigtimedwait", "rt_sigsuspend"),
    "child": ("wait4", "waitid"),
}
_WAIT_OF = {call: wait for wait, calls in _WAITS.items() for call in calls}


def judge(process: Process, started: Started = UNKNOWN) -> Verdict:
    """The verdict: threads against CPUs first, then what else keeps the process from working."""
    if process.gone or not process.threads:
        return Verdict("gone", cause="ended" if process.threads else "missing")
    main = main_thread(process)
    if main.state in ("T", "t"):
        return Verdict("stopped", ("continue",))
    if main.state in ("Z", "X") and len(process.threads) == 1:
        return Verdict("gone", cause="zombie")
    return (
        _judge_refused(process, started)
        or _judge_limit(process, started)
        or _judge_memory(process)
        or _judge_disk(process)
        or _judge_busy(process)
        or _judge_waiting(process, main)
    )


def main_thread(process: Process) -> Thread:
    """The thread that the process began with."""
    return next((thread for thread in process.threads if thread.tid == process.pid), process.threads[0])


def wait_of(thread: Thread) -> str:
    """What a sleeping thread waits for: lock, disk, input …, "" when unknown."""
    return "disk" if thread.state == "D" else _WAIT_OF.get(thread.place[0], "")


# Threads against CPUs.


def is_short(process: Process, group: Sequence[Process]) -> bool:
    """Whether ``group``, of which ``process`` is one, wants more CPUs than it may use, and goes without."""
    wanted = sum(one.wants for one in group)
    if wanted <= 1.1 * process.allowed + 0.05:
        return False
    return process.throttled or sum(one.waited for one in group) >= QUEUED


def _judge_limit(process: Process, started: Started) -> Verdict | None:
    group = [process, *process.neighbours]
    working = _working(group)
    if not is_short(process, group):
        return _judge_unseen(process, group)
    below = _below(process, group)
    if process not in working and not any(one in below for one in working):
        return None  # it sleeps, and the others are not its own
    about = process if process in working else max((one for one in working if one in below), key=lambda one: one.wants)
    if len(working) == 1:
        if _too_many(about):
            return _threads(process, about, started, (), about.fitting)
        if about.wants > about.allowed:
            return Verdict("limit", ("raise",), about, _count(about), fits=about.fitting)
        return Verdict("processes", ("neighbours",), about, _count(about), fits=about.fitting)
    fits = _fit_for(process, len(working))
    if _too_many(about):
        return _threads(process, about, started, working, fits)
    mends = []
    if _count(about) > fits and whose_threads(about, started) != "own":
        mends += _share(process, about, started, working, fits)
        mends += _library_mends(about, started, fits, bool(mends))
    mends += _fewer(process, working)
    master = _master(group, working)
    return Verdict("processes", _once(mends), about, _count(about), fits=fits, workers=working, master=master)


def _working(group: Sequence[Process]) -> tuple[Process, ...]:
    """Those that work, without the one that only hands out work to them."""
    working = [one for one in group if one.wants >= WORKS]

    def hands_out(one: Process) -> bool:
        # It may be ready to run for long, behind its workers; but who computes gets as much as they do.
        children = [other.used for other in working if other.parent == one.pid]
        return len(children) > 1 and one.used < 0.5 * max(children)

    return tuple(one for one in working if not hands_out(one))


def _judge_unseen(process: Process, group: Sequence[Process]) -> Verdict | None:
    """The kernel stops the limit's processes often, and those that can be seen use too little for that."""
    throttled = process.throttling is not None and process.throttling.share >= QUEUED
    used = sum(one.used for one in group)
    missed = sum(thread.running - thread.cpu for thread in process.busy)
    if not throttled or not process.limit or process.wants < WORKS or missed < QUEUED or used > 0.7 * process.allowed:
        return None
    return Verdict("processes", ("neighbours",), process, _count(process), fits=process.fitting, cause="unseen")


def _count(process: Process) -> int:
    """How many of its threads would run at once."""
    if process.takes_turns:
        return max(1, round(process.wants))
    return max(len(process.busy), round(process.wants))


def _too_many(process: Process) -> bool:
    return process.wants > process.fitting + MARGIN


def _fit_for(process: Process, share: int) -> int:
    """The threads that fit each of ``share`` processes, as blasenv would set it."""
    seen = process.observation
    if seen is None:
        return blasenv.fit(process.levels, len(process.cpus) or 1, share, "floor")[0]
    return blasenv.fit(seen.limits, seen.affinity, max(share, seen.fit.share), seen.config.rounding)[0]


def _below(process: Process, group: Sequence[Process]) -> list[Process]:
    """Those of ``group`` that ``process`` started, or that those started."""
    pids = {process.pid}
    for _ in group:
        pids |= {one.pid for one in group if one.parent in pids}
    return [one for one in group if one.pid in pids and one is not process]


def _master(group: Sequence[Process], working: Sequence[Process]) -> Process | None:
    """The process that started all who work."""
    parents = {one.parent for one in working}
    return next((one for one in group if parents == {one.pid}), None)


def _threads(process: Process, about: Process, started: Started, working: tuple[Process, ...], fits: int) -> Verdict:
    whose = whose_threads(about, started)
    pinned = about.cpus < about.around and about.allowed == len(about.cpus)
    mends = ["widen"] if pinned else []
    if whose != "own":
        line = _share(process, about, started, working, fits)
        mends += line + _library_mends(about, started, fits, bool(line))
    if whose != "library":
        mends.append("pool")
    if len(working) > 1:
        mends += _fewer(process, working)
    master = _master([process, *process.neighbours], working) if working else None
    cause = "pinned" if pinned else ""
    return Verdict("threads", _once(mends), about, _count(about), whose, fits, working, master, cause)


def _once(mends: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(mends))


def whose_threads(process: Process, started: Started = UNKNOWN) -> str:
    """Whose the busy threads of a process are: library, own, or both where nobody can tell.

    What there is to go by: which libraries with thread pools are loaded; how many threads these
    can have started, with what they were told; whether the main thread takes part, as it does when
    it calls a library, or waits for others, which then are the program's; when threads began,
    because a pool begins all at once; names, because OpenBLAS and OpenMP give none.
    """
    if not any(library.makes_threads for library in process.libraries):
        return "both" if process.lacks_any("libraries") else "own"
    main = main_thread(process)
    helpers = sorted((one for one in process.threads if one is not main), key=lambda one: (one.started, one.tid))
    busy = [thread for thread in helpers if thread.running >= WORKS]
    most = pools(process, started.values)
    usual = {main.name, process.name}
    named = any(thread.name not in usual and not re.match("python", thread.name) for thread in busy)
    takes_part = main.running >= TAKES_PART
    if most == 0:
        # Told to start none. A pool as large as it would be untold: perhaps the program's code told it otherwise.
        return "both" if takes_part and not named and len(busy) <= pools(process, {}) else "own"
    spread = max((one.started for one in busy), default=0) - min((one.started for one in busy), default=0)
    if takes_part and not named and spread < AT_ONCE and all(thread in helpers[:most] for thread in busy):
        return "library"
    return "both"


# What would mend it.


def set_too_high(process: Process, fits: int) -> dict[str, str]:
    """The variables with a number above what fits that it was started with, without those of a parent's blasenv."""
    stale = process.observation.decision.stale if process.observation else ()
    return {
        name: value
        for name, value in sorted((process.environment or {}).items())
        if name.endswith("_NUM_THREADS") and value.isdigit() and int(value) > fits and name not in stale
    }


def _library_mends(process: Process, started: Started, fits: int, lined: bool = False) -> list[str]:
    """What makes its libraries start fewer threads, and isn't in place; ``lined``: beside a line in [programs]."""
    if set_too_high(process, fits):
        return ["lower", *(["install"] if started.why in ("unknown", "not-covered") else [])]
    if started.why == "not-python":
        return ["code"] if _is_told(started, fits) else ["run", "variable"]
    if started.why == "disabled":
        covered = started.cover is not None and bool(started.cover.by)
        return ["variable", "enable" if covered else "enable-and-install"]
    if started.why == "acted":
        asked = [int(value) for name, value in started.set.items() if name.endswith("_THREADS") and value.isdigit()]
        if not asked or max(asked) <= fits:
            return ["code"]
        if not _is_shared(process, fits):
            return ["config"]
        return [] if lined else ["variable"]
    if _is_told(started, fits):
        return ["code"]
    return ["variable", {"later": "restart", "off": "mode", "no-site": "site"}.get(started.why, "install")]


def _is_told(started: Started, fits: int) -> bool:
    value = started.values.get("OMP_NUM_THREADS", "")
    return value.isdigit() and 0 < int(value) <= fits


def _is_shared(process: Process, fits: int) -> bool:
    """Whether what blasenv sets is what fits it, and only its siblings make that too much."""
    seen = process.observation
    return fits < process.fitting and (seen is None or seen.decision.rule in ("quota", "workers"))


def _share(process: Process, about: Process, started: Started, working: Sequence[Process], fits: int) -> list[str]:
    """A line in [programs], where one would give each worker fewer threads than it has."""
    if len(working) < 2 or not program_of(process, about) or started.python is False:
        return []
    in_place = about.observation is not None and about.observation.decision.share >= len(working)
    return ["share"] if fits < about.fitting and not in_place else []


def program_of(process: Process, about: Process) -> str:
    """The program that its workers are, as [programs] in the configuration names it; "" without a name."""
    for one in (about, process):
        name = _host.parse_command_line(one.command) if one.command else ""
        if name and name != "-c" and not name.endswith("popen_loky_posix"):
            return name
    return ""


def _fewer(process: Process, working: Sequence[Process]) -> list[str]:
    return ["workers"] if len(working) > max(1, math.floor(process.allowed)) else []


# What else it may be.


def _judge_refused(process: Process, started: Started) -> Verdict | None:
    pids, user = process.pids, process.user_threads
    cause = ""
    if pids is not None and ((process.refused or 0) > 0 or (pids.full and (pids.refused or 0) > 0)):
        cause = "pids"
    elif user is not None and user.full:
        cause = "user"
    if not cause:
        return None
    mends = ["raise-pids" if cause == "pids" else "raise-user"]
    many = sum(library.makes_threads for library in process.libraries) and pools(process, started.values)
    if many >= process.fitting:
        mends = [*_library_mends(process, started, process.fitting), *mends]
    return Verdict("refused", _once(mends), process, _count(process), fits=process.fitting, cause=cause)


def _judge_memory(process: Process) -> Verdict | None:
    faults = sum(thread.major_faults for thread in process.threads)
    return Verdict("memory", ("memory",)) if faults >= FAULTS else None


def on_disk(process: Process) -> list[Thread]:
    """The threads that wait for I/O much of the time."""
    return [thread for thread in process.threads if thread.states["D"] >= DISK * sum(thread.states.values())]


def _judge_disk(process: Process) -> Verdict | None:
    return Verdict("disk") if on_disk(process) and process.used <= 1.1 else None


def _judge_busy(process: Process) -> Verdict | None:
    busy, used = process.busy, process.used
    line = ("line",) if is_python(process) else ()
    if busy and sum(thread.queued for thread in busy) > 0.3 * len(busy):
        return Verdict("queue", ("who",), process, _count(process), fits=process.fitting)
    ready = sum(thread.running for thread in process.threads)
    if process.takes_turns and ready >= 0.5 and used <= 1.1:
        return Verdict("one-thread", line, process, 1, cause="turns")
    if len(busy) == 1 and used <= 1.1:
        return Verdict("one-thread", line, process, 1)
    if not busy and len(process.threads) > 1 and 0.5 <= used <= 1.1:
        return Verdict("one-thread", line, process, 1, cause="turns")
    if busy or used > 1.1:
        return Verdict("fits", (), process, len(busy), fits=process.fitting)
    return None


def is_python(process: Process) -> bool:
    """Whether it goes by the name of a Python."""
    return any("python" in word.rpartition("/")[2] for word in [process.name, *process.command[:1]])


def _judge_waiting(process: Process, main: Thread) -> Verdict:
    wait = wait_of(main)
    mends: list[str] = []
    works = tuple(one for one in _below(process, process.neighbours) if one.wants >= WORKS)
    if process.children and wait in ("child", "lock", "events", "input", "sleep"):
        mends = ["children"]
    elif wait in ("lock", "sleep", "events") and is_python(process):
        mends = ["line"]
    others = [one for one in process.neighbours if one.wants >= WORKS]
    if process.limit is not None and others and is_short(process, [process, *process.neighbours]):
        mends.insert(0, "others")
    kind = {"file lock": "lock"}.get(wait, wait or "waiting")
    return Verdict(kind, tuple(mends), process, workers=works, cause=wait if wait == "file lock" else "")
