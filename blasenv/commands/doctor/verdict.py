"""Is it threads? From what was seen of a process to one sentence, and to the text around it. Pure."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import groupby

from blasenv.machine.cgroup import Throttling, cpus_of, directory_of
from blasenv.machine.process import Process, Thread
from blasenv.output.text import count, number, paint, paragraph, printable, table

THROTTLED = 0.1  # share of periods above which throttling is worth a word; short bursts cost a period now and then
DISK = 0.2  # share of samples in state D: between them, even a fast disk leaves time to run
FAULTS = 50  # major faults per second: with a disk read of some milliseconds each, they take most of the time
IDLE = 0.05  # CPUs: less than this is nothing


@dataclass(frozen=True)
class Verdict:
    """What is the matter with a process."""

    kind: str
    """threads, processes, limit; one-thread, fits; lock, disk, input, output, events, sleep, child,
    memory, queue, stopped, waiting; gone."""
    sentence: str
    advice: str
    """What to do, "" if nothing."""

    @property
    def problem(self) -> bool:
        """Whether threads or the CPU limit are the problem, which is what this command is asked."""
        return self.kind in ("threads", "processes", "limit")


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


def judge(process: Process) -> Verdict:
    """The verdict: threads against CPUs first, then what else keeps the process from working."""
    if process.gone or not process.threads:
        return Verdict("gone", f"Process {process.pid} has ended.", "")
    main = next((thread for thread in process.threads if thread.tid == process.pid), process.threads[0])
    if main.state in ("T", "t"):
        stopped = "It is stopped, by a signal or a debugger."
        return Verdict("stopped", stopped, f"To let it go on: kill -CONT {process.pid}")
    if main.state in ("Z", "X") and len(process.threads) == 1:
        return Verdict("gone", "It has ended; its parent has not taken notice (a zombie).", "")
    busy = [thread for thread in process.threads if thread.busy]
    return (
        _judge_throttled(process, busy)
        or _judge_memory(process)
        or _judge_disk(process)
        or _judge_busy(process, busy)
        or _judge_waiting(process, main)
    )


def _of(process: Process) -> str:
    """The libraries whose threads they may be, in parentheses."""
    names = sorted({library.kind for library in process.libraries if library.makes_threads})
    return f" ({' or '.join(names)})" if names else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _queued(busy: list[Thread]) -> str:
    waited = sum(thread.queued for thread in busy) / len(busy)
    return f"each waited {_percent(min(1.0, waited))} of the time for a CPU"


def _restart(process: Process) -> str:
    fits = process.fitting
    set_too_high = [
        name
        for name, value in sorted((process.environment or {}).items())
        if name.endswith("_NUM_THREADS") and value.isdigit() and int(value) > fits
    ]
    if set_too_high:
        assignments = " ".join(f"{name}={fits}" for name in set_too_high)
        values = ", ".join(f"{name}={(process.environment or {})[name]}" for name in set_too_high)
        return f"It was started with {values}. Restart it with {assignments}, or without, and with blasenv installed."
    if process.libraries or process.environment is None or any("maps" in lack for lack in process.lacks):
        return f"Restart it with OMP_NUM_THREADS={fits}, or install blasenv in its Python."
    return (
        "No BLAS or OpenMP library is loaded, so these threads are the program's own: "
        f"tell it to use {fits} (workers, jobs, pool size)."
    )


def _judge_throttled(process: Process, busy: list[Thread]) -> Verdict | None:
    change, level = process.throttling, process.limit
    if change is None or level is None or cpus_of(level) is None or not busy:
        return None
    throttled = change.share >= THROTTLED
    cpus = count(process.allowed, "CPU")
    stopped = f"the kernel stopped {'it' if len(busy) == 1 else 'them'} in {_percent(change.share)} of the periods"
    # Two threads may do with 1.5 CPUs. Three can't all run, throttled or not.
    if len(busy) > (process.fitting if throttled else math.ceil(process.allowed)):
        if not throttled:
            stopped = _queued(busy)
        sentence = f"Threads: {len(busy)} busy threads{_of(process)} share {cpus}; {stopped}."
        return Verdict("threads", sentence, _restart(process))
    if not throttled:
        return None
    used = sum(thread.cpu for thread in process.threads)
    if process.cgroup_processes > 1 and used < 0.8 * process.allowed:
        sentence = (
            f"Processes: its own {count(len(busy), 'busy thread')} would fit, "
            f"but {process.cgroup_processes} processes share {cpus}; {stopped}."
        )
        advice = "See them all with: blasenv doctor --all. Start fewer workers, or give each fewer threads."
        return Verdict("processes", sentence, advice)
    fit = "its one busy thread alone wants" if len(busy) == 1 else f"its {len(busy)} busy threads fit, but want"
    sentence = f"The limit: {fit} more than {cpus}; {stopped}."
    return Verdict("limit", sentence, "Fewer threads would not help. Raise the CPU limit, or accept the speed.")


def _judge_memory(process: Process) -> Verdict | None:
    faults = sum(thread.major_faults for thread in process.threads)
    if faults < FAULTS:
        return None
    swapped = f", and {process.swapped >> 20} MiB of it are in swap" if process.swapped else ""
    sentence = f"Not threads: memory. {faults:.0f} page faults a second read from disk{swapped}."
    return Verdict("memory", sentence, "Give it more memory, or less to hold at a time.")


def _judge_disk(process: Process) -> Verdict | None:
    waiting = [thread for thread in process.threads if thread.states["D"] >= DISK * sum(thread.states.values())]
    if not waiting or sum(thread.cpu for thread in process.threads) > 1.1:
        return None
    calls = sorted({f"{thread.place[0]}()" for thread in waiting if thread.place[0]})
    shares = max(thread.states["D"] / sum(thread.states.values()) for thread in waiting)
    where = f", in {', '.join(calls)}" if calls else ""
    files = sorted({thread.place[1] for thread in waiting if thread.place[1]})
    on = f" on {_describe(files[0])}" if files else ""
    sentence = f"Not threads: the disk. {count(len(waiting), 'thread')} waited for I/O {_percent(shares)} of the time"
    return Verdict("disk", f"{sentence}{where}{on}.", "")


def _judge_busy(process: Process, busy: list[Thread]) -> Verdict | None:
    used = sum(thread.cpu for thread in process.threads)
    cpus = len(process.cpus) or 1
    if len(busy) > cpus:
        sentence = f"Threads: {len(busy)} busy threads{_of(process)} share {count(cpus, 'CPU')}; {_queued(busy)}."
        return Verdict("threads", sentence, _restart(process))
    if busy and sum(thread.queued for thread in busy) > 0.3 * len(busy):
        number_of = f"{count(len(busy), 'busy thread')} on {count(cpus, 'CPU')}"
        sentence = f"Not its threads: {number_of}, but others use these, too."
        return Verdict("queue", sentence, "See who: top, or blasenv doctor --all.")
    one_by_one = not busy and len(process.threads) > 1 and 0.5 <= used <= 1.1
    if one_by_one or (len(busy) == 1 and used <= 1.1):
        allowed = f"of the {count(process.allowed, 'CPU')} it may use" if process.allowed > 1 else "of its one CPU"
        who = "threads that take turns (Python's GIL?) use" if one_by_one else "one thread computes and uses"
        sentence = f"Not threads: {who} {_percent(used)} of a CPU, {allowed}."
        return Verdict("one-thread", sentence, _which_line(process))
    if busy or used > 1.1:
        whose = f"{len(busy)} busy threads" if busy else f"{count(len(process.threads), 'thread')} in turns"
        sentence = f"Not threads: {whose} use {number(round(used, 1))} of {count(process.allowed, 'CPU')}, and fit."
        return Verdict("fits", sentence, "")
    return None


def _which_line(process: Process) -> str:
    if not any("python" in os.path.basename(word) for word in [process.name, *process.command[:1]]):
        return ""
    return f"Which line of Python it is: py-spy dump --pid {process.pid}"


def wait_of(thread: Thread) -> str:
    """What a sleeping thread waits for: lock, disk, input …, "" when unknown."""
    call = thread.place[0]
    return "disk" if thread.state == "D" else _WAIT_OF.get(call, "")


def _judge_waiting(process: Process, main: Thread) -> Verdict:
    used = sum(thread.cpu for thread in process.threads)
    does = "uses no CPU" if used < IDLE else f"uses {_percent(used)} of a CPU"
    call, target = main.place
    where = f"{call}()" + (f" on {_describe(target)}" if target else "") if call else "a place that can't be read"
    wait = wait_of(main)
    sentences = {
        "lock": f"Not threads: a lock. It {does}; the main thread sleeps in {where}, for a lock or another thread.",
        "file lock": f"Not threads: a lock on a file. It {does} and sleeps in {where}.",
        "disk": f"Not threads: the disk. It {does} and waits for I/O ({where}).",
        "input": f"Not threads: it {does} and waits for input, in {where}.",
        "output": f"Not threads: it {does} and waits for a reader of its output, in {where}.",
        "events": f"Not threads: it {does} and waits for events, in {where}, as an idle server does.",
        "sleep": f"Not threads: it {does} and sleeps, in {where}.",
        "child": f"Not its threads: it {does} and waits for a child process.",
    }
    sentence = sentences.get(wait, f"Not threads: it {does} and waits in {where}.")
    advice = {"lock": _which_line(process), "input": "", "sleep": _which_line(process)}.get(wait, "")
    if process.children and wait in ("child", "lock", "events", "input", "sleep"):
        advice = f"It has children; look there: blasenv doctor {' '.join(str(pid) for pid in process.children[:8])}"
    elif wait == "events":
        advice = _which_line(process)
    return Verdict({"file lock": "lock"}.get(wait, wait or "waiting"), sentence, advice)


def _describe(target: str) -> str:
    kind = target.partition(":")[0]
    return f"a {kind}" if kind in ("pipe", "socket") else printable(target)


def _throttled(change: Throttling) -> str:
    return f"{change.throttled} of {change.periods} periods ({_percent(change.share)})"


def _thread_rows(process: Process) -> list[list[str]]:
    """Threads that do the same, together; those that work first."""

    def key(thread: Thread) -> tuple[str, str, str]:
        place = "" if thread.busy else thread.place[0]
        return thread.name, thread.state, place

    groups = [list(group) for _, group in groupby(sorted(process.threads, key=key), key=key)]
    groups.sort(key=lambda group: (-sum(thread.cpu for thread in group), -len(group)))
    words = {"R": "runs", "S": "sleeps", "D": "disk", "T": "stopped", "t": "traced", "Z": "zombie", "I": "idle"}
    return [
        [
            str(len(group)),
            printable(group[0].name),
            words.get(group[0].state, group[0].state),
            _percent(sum(thread.cpu for thread in group)),
            _percent(sum(thread.queued for thread in group) / len(group)),
            f"{sum(thread.voluntary + thread.involuntary for thread in group):.0f}",
            "" if group[0].busy else group[0].place[0],
        ]
        for group in groups
    ]


def render(process: Process, verdict: Verdict) -> str:
    """Everything about one process: the verdict first, then the evidence."""
    command = printable(" ".join(process.command)) or f"[{printable(process.name)}]"
    if len(command) > 60:
        command = command[:59] + "…"
    paragraphs = [f"{paint('bold', f'PID {process.pid}')}  {command}"]
    style = "red" if verdict.problem else "green"
    first = verdict.sentence.partition(":")[0]
    text = paragraph(verdict.sentence)
    if text.startswith(first):
        text = paint(style, first) + text[len(first) :]
    paragraphs.append(text + ("\n" + paragraph(verdict.advice) if verdict.advice else ""))
    if verdict.kind != "gone":
        paragraphs.append(table((), _facts(process)))
        headers = ("THREADS", "NAME", "STATE", "CPU", "QUEUED", "SWITCHES/S", "WAITS IN")
        paragraphs.append(table(headers, _thread_rows(process)))
    if process.lacks:
        reasons = "; ".join(process.lacks)
        rights = "Run this as its user or as root (docker run: --cap-add SYS_PTRACE)."
        paragraphs.append(paragraph(f"Could not be read: {reasons}. {rights}"))
    return "\n\n".join(paragraphs)


def _facts(process: Process) -> list[list[str]]:
    level = process.limit
    quota = cpus_of(level) if level else None
    limit = f"{count(quota, 'CPU')}, from {printable(directory_of(level))}" if level and quota else "none seen"
    rows = [["CPU limit", limit], ["affinity", count(len(process.cpus), "CPU")]]
    if process.throttling is not None and level is not None:
        text = f"{_throttled(process.throttling)} in {process.seconds:.1f} s"
        if process.throttling_before is not None:
            text += f"; {_throttled(process.throttling_before)} since the cgroup was made"
        rows.append(["throttled", text])
    used = sum(thread.cpu for thread in process.threads)
    rows.append(["used", f"{number(round(used, 2))} CPUs, {count(len(process.threads), 'thread')}"])
    names = Counter(str(library) for library in process.libraries)
    libraries = ", ".join(f"{count} {name}" if count > 1 else name for name, count in names.items())
    if not any("maps" in lack for lack in process.lacks):
        rows.append(["libraries", libraries or "no BLAS, no OpenMP"])
    if process.environment is not None:
        pairs = " ".join(f"{name}={printable(value)}" for name, value in sorted(process.environment.items()))
        rows.append(["started with", pairs or "no thread variables"])
    if process.swapped:
        rows.append(["swap", f"{process.swapped >> 20} MiB"])
    return rows


def as_json(process: Process, verdict: Verdict) -> dict[str, object]:
    """One process for ``--json``. Rates are per second, shares 0 to 1, CPU in CPUs."""
    level = process.limit

    def counters(value: Throttling | None) -> dict[str, object] | None:
        return None if value is None else {**asdict(value), "share": round(value.share, 4)}

    return {
        "pid": process.pid,
        "command": process.command,
        "user": process.user,
        "parent": process.parent,
        "children": process.children,
        "verdict": {
            "kind": verdict.kind,
            "problem": verdict.problem,
            "sentence": verdict.sentence,
            "advice": verdict.advice,
            "fitting_threads": process.fitting,
        },
        "seconds": round(process.seconds, 3),
        "quota_cpus": cpus_of(level) if level else None,
        "cgroup": directory_of(level) if level else None,
        "cgroup_processes": process.cgroup_processes,
        "affinity_cpus": len(process.cpus),
        "throttling": counters(process.throttling),
        "throttling_since_start": counters(process.throttling_before),
        "swapped_bytes": process.swapped,
        "libraries": [asdict(library) for library in process.libraries],
        "environment": process.environment,
        "threads": [
            {
                "tid": thread.tid,
                "name": thread.name,
                "state": thread.state,
                "busy": thread.busy,
                "cpu": round(thread.cpu, 4),
                "queued": round(thread.queued, 4),
                "major_faults": round(thread.major_faults, 2),
                "voluntary_switches": round(thread.voluntary, 2),
                "involuntary_switches": round(thread.involuntary, 2),
                "waits_in": "" if thread.busy else thread.place[0],
                "waits_on": "" if thread.busy else thread.place[1],
            }
            for thread in process.threads
        ],
        "lacks": process.lacks,
    }


def render_all(judged: list[tuple[Process, Verdict]]) -> str:
    """One line for each process, those with a problem first."""
    rows = []
    for process, verdict in sorted(judged, key=lambda pair: (not pair[1].problem, pair[0].pid)):
        used = sum(thread.cpu for thread in process.threads)
        busy = sum(1 for thread in process.threads if thread.busy)
        names = [os.path.basename(process.command[0])] if process.command else [process.name]
        kind = paint("red", verdict.kind) if verdict.problem else verdict.kind
        threads = f"{busy}/{len(process.threads)}"
        limit = cpus_of(process.limit) if process.limit else None
        share = _percent(process.throttling.share) if process.throttling and limit else ""
        program = printable(" ".join(names + [os.path.basename(word) for word in process.command[1:2]]))[:24]
        rows.append([process.pid, program, threads, f"{used:.2f}", number(process.allowed), share, kind])
    return table(("PID", "PROGRAM", "BUSY/ALL", "CPU", "OF", "THROTTLED", "VERDICT"), rows)
