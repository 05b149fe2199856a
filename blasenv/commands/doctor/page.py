"""A verdict in words: sentences, the evidence as tables, and JSON."""

from __future__ import annotations

import math
import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import groupby

from blasenv.live import remote
from blasenv.machine.cgroup import Throttling, cpus_of, directory_of
from blasenv.machine.pids import Pids, UserThreads
from blasenv.machine.process import Lack, Process, Thread
from blasenv.output.text import count, number, paint, paragraph, printable, table

from .started import Started
from .verdict import IDLE, TAKES_PART, WORKS, Verdict, main_thread, on_disk, program_of, set_too_high, wait_of


def percent(share: float) -> str:
    """A share of 0 to 1 in words."""
    return f"{100 * share:.0f} %"


def processes(number_of: int) -> str:
    """``1 process``, ``2 processes``."""
    return f"{number_of} process{'' if number_of == 1 else 'es'}"


def _name(process: Process, fallback: Process | None = None) -> str:
    """What a program is called: its script or module, else its executable."""
    name = program_of(process, fallback or process)
    return printable(name or os.path.basename(process.command[0] if process.command else process.name))[:40]


def _stopped(process: Process, threads: Sequence[Thread], them: str) -> str:
    """Why they go without: the kernel stops them, or they wait for a CPU."""
    if process.throttled and process.throttling is not None:
        return f"the kernel stopped {them} in {percent(process.throttling.share)} of the periods"
    waited = sum(thread.queued for thread in threads) / max(1, len(threads))
    each = "it" if them == "it" else "each"
    return f"{each} waited {percent(min(1.0, waited))} of the time for a CPU"


def pool_names(process: Process) -> str:
    """The libraries whose threads they may be: "OpenBLAS", "GNU OpenMP or OpenBLAS"; "" without any."""
    return " or ".join(sorted({library.kind for library in process.libraries if library.makes_threads}))


# The verdict in one sentence, or two.


def sentence(process: Process, verdict: Verdict) -> str:
    """What is the matter."""
    if verdict.kind in _SENTENCES:
        return _SENTENCES[verdict.kind](process, verdict)
    if verdict.kind in _SHORT:
        return _SHORT[verdict.kind](process)
    if verdict.kind == "stopped":
        return "It is stopped, by a signal or a debugger."
    return _disk(process) if verdict.kind == "disk" and on_disk(process) else _waiting(process, verdict)


def _gone(process: Process, verdict: Verdict) -> str:
    return {
        "zombie": "It has ended; its parent has not taken notice (a zombie).",
        "missing": f"There is no process {process.pid} here.",
    }.get(verdict.cause, f"Process {process.pid} has ended.")


def _threads(process: Process, verdict: Verdict) -> str:
    about = verdict.about or process
    busy = f"{count(verdict.working, 'busy thread')}"
    pools = pool_names(about)
    kinds = {"library": f" ({pools})" if pools else "", "own": " of its own", "both": ""}
    if verdict.whose == "both":
        kinds["both"] = f" (its own, or of {pools or 'a library'})"
    cpus = count(process.allowed, "CPU")
    stopped = _stopped(process, about.busy, "them")
    if len(verdict.workers) > 1:
        return f"Threads: {_family(verdict)} × {busy}{kinds[verdict.whose]} share {cpus}; {stopped}."
    whose = "" if about is process else f" of process {about.pid}, which it started,"
    text = f"Threads: {busy}{kinds[verdict.whose]}{whose} share {cpus}; {stopped}."
    if verdict.cause == "pinned":
        text += (
            f" They are pinned: its parent may use {count(len(about.around), 'CPU')}, and threads that wait for one "
            "another spin on the CPU that the other needs."
        )
    return text


def _family(verdict: Verdict) -> str:
    """The processes that work, and whose they are: "gunicorn: 2 workers"."""
    if verdict.master is not None and verdict.about is not None:
        name = _name(verdict.about, verdict.master)
        return f"{name}: {count(len(verdict.workers), 'busy worker')}"
    return f"{len(verdict.workers)} busy processes"


def _processes(process: Process, verdict: Verdict) -> str:
    about = verdict.about or process
    cpus = count(process.allowed, "CPU")
    stopped = _stopped(process, about.busy, "them")
    own = f"its own {count(verdict.working, 'busy thread')} would fit"
    if verdict.cause == "unseen":
        return f"Processes: {own}, but others that can't be seen from here share its {cpus}; {stopped}."
    if verdict.master is None and len(verdict.workers) > 1 and about is process:
        return f"Processes: {own}, but {len(verdict.workers)} busy processes share {cpus}; {stopped}."
    if len(verdict.workers) > 1:
        threads = f" × {count(verdict.working, 'busy thread')}" if verdict.working > 1 else ""
        return f"Processes: {_family(verdict)}{threads} share {cpus}; {stopped}."
    others = process.cgroup_processes or len(process.neighbours) + 1
    return f"Processes: {own}, but {processes(others)} share {cpus}; {stopped}."


def _limit(process: Process, verdict: Verdict) -> str:
    about = verdict.about or process
    whose = "its" if about is process else f"process {about.pid}, which it started, fits: its"
    if about.takes_turns:
        fit = f"{whose} threads, which take turns at Python's lock, want one CPU, which is"
    elif verdict.working == 1:
        fit = f"{whose} one busy thread alone wants"
    else:
        fit = f"{whose} {verdict.working} busy threads fit, but want"
    stopped = _stopped(process, about.busy, "it" if verdict.working == 1 else "them")
    return f"The limit: {fit} more than {count(process.allowed, 'CPU')}; {stopped}."


def _refused(process: Process, verdict: Verdict) -> str:
    if verdict.cause == "user" and process.user_threads is not None:
        user = process.user_threads
        return (
            f"Threads that can't start: user {process.user} has {count(user.current, 'thread')}, and may have "
            f"{user.most} (RLIMIT_NPROC, ulimit -u). The kernel refuses every other one."
        )
    pids = process.pids
    if pids is None:
        return "Threads that can't start: the kernel refuses them."
    refused = f"{process.refused} while it was watched" if process.refused else f"{pids.refused} since it was made"
    return (
        f"Threads that could not start: {pids.current} of {pids.most} threads and processes are in use, and the kernel "
        f"refused {refused} (pids.max in {printable(pids.directory)})."
    )


def _memory(process: Process) -> str:
    faults = sum(thread.major_faults for thread in process.threads)
    swapped = f", and {process.swapped >> 20} MiB of it are in swap" if process.swapped else ""
    return f"Not threads: memory. {faults:.0f} page faults a second read from disk{swapped}."


def _disk(process: Process) -> str:
    waiting = on_disk(process)
    calls = sorted({f"{thread.place[0]}()" for thread in waiting if thread.place[0]})
    shares = max(thread.states["D"] / sum(thread.states.values()) for thread in waiting)
    where = f", in {', '.join(calls)}" if calls else ""
    files = sorted({thread.place[1] for thread in waiting if thread.place[1]})
    on = f" on {_describe(files[0])}" if files else ""
    waited = f"{count(len(waiting), 'thread')} waited for I/O {percent(shares)} of the time"
    return f"Not threads: the disk. {waited}{where}{on}."


def _queue(process: Process) -> str:
    busy = process.busy
    number_of = f"{count(len(busy), 'busy thread')} on {count(len(process.cpus) or 1, 'CPU')}"
    if process.takes_turns:
        number_of = f"{len(process.threads)} threads that take turns at Python's lock (GIL)"
    waited = sum(thread.queued for thread in busy) / max(1, len(busy))
    share = percent(min(1.0, waited))
    return f"Not its threads: {number_of}, but others use its CPUs, too; it waited {share} of the time for a CPU."


def _one_thread(process: Process, verdict: Verdict) -> str:
    allowed = f"of the {count(process.allowed, 'CPU')} it may use" if process.allowed > 1 else "of its one CPU"
    if process.takes_turns:
        who = "threads that take turns at Python's lock (GIL) use"
    else:
        who = "threads that take turns use" if verdict.cause == "turns" else "one thread computes and uses"
    return f"Not threads: {who} {percent(process.used)} of a CPU, {allowed}."


def _fits(process: Process) -> str:
    busy, used = process.busy, number(round(process.used, 1))
    whose = f"{len(busy)} busy threads" if busy else f"{count(len(process.threads), 'thread')} in turns"
    return f"Not threads: {whose} use {used} of {count(process.allowed, 'CPU')}, and fit."


def _waiting(process: Process, verdict: Verdict) -> str:
    main, used = main_thread(process), process.used
    does = "uses no CPU" if used < IDLE else f"uses {percent(used)} of a CPU"
    call, target = main.place
    where = f"{call}()" + (f" on {_describe(target)}" if target else "") if call else "a place that can't be read"
    text = {
        "lock": f"Not threads: a lock. It {does}; the main thread sleeps in {where}, for a lock or another thread.",
        "file lock": f"Not threads: a lock on a file. It {does} and sleeps in {where}.",
        "disk": f"Not threads: the disk. It {does} and waits for I/O ({where}).",
        "input": f"Not threads: it {does} and waits for input, in {where}.",
        "output": f"Not threads: it {does} and waits for a reader of its output, in {where}.",
        "events": f"Not threads: it {does} and waits for events, in {where}, as an idle server does.",
        "sleep": f"Not threads: it {does} and sleeps, in {where}.",
        "child": f"Not its threads: it {does} and waits for a child process.",
    }.get(wait_of(main), f"Not threads: it {does} and waits in {where}.")
    if verdict.workers:
        work = sum(one.used for one in verdict.workers)
        text += f" What it started works: {processes(len(verdict.workers))}, {count(round(work, 1), 'CPU')}."
    return text


_SENTENCES: dict[str, Callable[[Process, Verdict], str]] = {
    "gone": _gone,
    "threads": _threads,
    "processes": _processes,
    "limit": _limit,
    "refused": _refused,
    "one-thread": _one_thread,
}
_SHORT: dict[str, Callable[[Process], str]] = {"memory": _memory, "queue": _queue, "fits": _fits}


def _describe(target: str) -> str:
    kind = target.partition(":")[0]
    return f"a {kind}" if kind in ("pipe", "socket") else printable(target)


# What would mend it.


def advice(process: Process, verdict: Verdict, started: Started) -> str:
    """What to do, in sentences; "" when there is nothing."""
    mends = list(verdict.mends)
    about = verdict.about or process
    fits = verdict.fits or about.fitting
    variable = f"OMP_NUM_THREADS={fits}"
    told = " ".join(f"{name}={printable(value)}" for name, value in sorted(started.values.items()) if "OMP" in name)
    sentences = [_heal(about, verdict, fits)]
    for mend in mends:
        if mend == "share":
            sentences.append(_share(process, verdict, started))
        elif mend == "lower":
            sentences.append(_lower(about, started, fits, "install" in mends))
        elif mend == "variable":
            sentences.append(f"Restart it with {variable}{_or_else(mends, started, fits)}.")
        elif mend == "run":
            command = shlex.join(printable(word) for word in about.command[:1]) or "COMMAND"
            more = " …" if len(about.command) > 1 else ""
            sentences.append(f"Restart it as: blasenv run -- {command}{more}")
            if "variable" in mends:
                mends[mends.index("variable")] = ""
                sentences[-1] += f" (it sets {variable}; that variable alone does as well)."
        elif mend == "code":
            look = f"look there for n_jobs, set_num_threads, threadpool_limits or os.environ, and take {fits}."
            if started.set:
                # What was set in it can't be read; what would be set now can, and the limit may have changed since.
                sentences.append(
                    f"blasenv is in its Python, and sets {told or variable} under the limit of now. Either it started "
                    f"under a larger one (in-place resize, docker update), or its code asks for more: {look}"
                )
            else:
                sentences.append(f"It was started with {told or variable}, so its code asks for more: {look}")
        elif mend == "config":
            where = about.observation.config.path if about.observation and about.observation.config.path else ""
            setting = where or "BLASENV_THREADS"
            sentences.append(f"blasenv set {told} in it because {printable(setting)} says so; {fits} fits.")
        elif mend == "pool":
            sentences.append(_own_pool(about, fits, also=any(one not in ("pool", "workers") for one in mends)))
        elif mend == "workers":
            most = most_workers(process)
            sentences.append(f"Start fewer workers: {most} {'fits' if most == 1 else 'fit'} here.")
        elif mend == "widen":
            sentences.append(_widen(about))
        elif mend in _PLAIN:
            children = " ".join(str(pid) for pid in process.children[:8])
            others = " ".join(str(one.pid) for one in process.neighbours if one.wants >= WORKS)
            sentences.append(_PLAIN[mend].format(pid=process.pid, children=children, others=others))
    return " ".join(text for text in sentences if text)


def _heal(about: Process, verdict: Verdict, fits: int) -> str:
    """The way without a restart, where the threads are a library's and the interpreter lets somebody in."""
    command = heal_command(about, verdict, fits)
    return f"Without a restart: {command}." if command else ""


def heal_command(about: Process, verdict: Verdict, fits: int) -> str:
    """``blasenv heal PID`` where that can work, else ""."""
    if verdict.kind != "threads" or not about.libraries or not {"variable", "run", "lower", "code"} & {*verdict.mends}:
        return ""
    if not remote.is_open(about.pid):
        return ""
    named = f"--threads {fits} " if "lower" in verdict.mends else ""  # what the user set stays otherwise
    return f"blasenv heal {named}{about.pid}"


def _or_else(mends: Sequence[str], started: Started, fits: int) -> str:
    """The second way, behind "Restart it with OMP_NUM_THREADS=1"."""
    disable = f"BLASENV_DISABLE={printable(started.values.get('BLASENV_DISABLE', '1'))}"
    ways = {
        "install": ", or install blasenv in its Python",
        "enable": f", or unset {disable}: blasenv is in its Python, and sets {fits}",
        "enable-and-install": f", or unset {disable} and install blasenv in its Python",
        "restart": f", or just restart it: blasenv came into its Python after it had started, and sets {fits} now",
        "mode": ', or take mode = "off" out of the configuration: blasenv is in its Python, and switched off for it',
        "site": ", or without -S, with which Python starts no hook",
    }
    return next((text for mend, text in ways.items() if mend in mends), "")


def _lower(about: Process, started: Started, fits: int, install: bool) -> str:
    high = set_too_high(about, fits)
    values = ", ".join(f"{name}={value}" for name, value in high.items())
    assignments = " ".join(f"{name}={fits}" for name in high)
    without = ""
    if install:
        without = ", or without, and with blasenv installed"
    elif started.why == "acted":
        without = f", or without: blasenv then sets {fits}"
    return f"It was started with {values}. Restart it with {assignments}{without}."


def _own_pool(about: Process, fits: int, *, also: bool) -> str:
    how = f"{fits} (max_workers, n_jobs, threads; whatever its code calls it)"
    if not also:
        return f"No library started them: tell the program's own pool to use {how}."
    if main_thread(about).running < TAKES_PART:
        return f"And tell its own pool, for which its main thread waits, to use {how}."
    return f"If it has a pool of its own, tell that, too, to use {how}."


def _share(process: Process, verdict: Verdict, started: Started) -> str:
    gives = f"each worker then starts {count(verdict.fits, 'thread')}"
    line = f"In /etc/blasenv.toml, under [programs]: {programs_line(process, verdict)} ({gives})."
    return line if started.acted else f"Install blasenv in its Python. {line}"


def programs_line(process: Process, verdict: Verdict) -> str:
    """The line of [programs] that divides the limit among its workers."""
    name = printable(program_of(verdict.master or process, verdict.about or process))
    key = name if name.replace("_", "").replace("-", "").isalnum() else f'"{name}"'
    return f'{key} = "share:{len(verdict.workers)}"'


def most_workers(process: Process) -> int:
    """How many workers of one thread fit."""
    return max(1, math.floor(process.allowed))


def _widen(about: Process) -> str:
    cpus = cpu_list(about.around)
    return f"Undo that: taskset -a -c -p {cpus} {about.pid}. Fewer CPUs never help threads that are there already."


def cpu_list(cpus: frozenset[int]) -> str:
    """``0-3,8``, as the kernel and taskset write it (cpuset(7), List format)."""
    parts = []
    for _, group in groupby(enumerate(sorted(cpus)), key=lambda pair: pair[1] - pair[0]):
        run = [cpu for _, cpu in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(parts)


_PLAIN = {
    "continue": "To let it go on: kill -CONT {pid}",
    "raise": "Fewer threads would not help. Raise the CPU limit, or accept the speed.",
    "neighbours": "See them all with: blasenv doctor --all. Start fewer of them, or give each fewer threads.",
    "who": "See who: top, or blasenv doctor --all.",
    "memory": "Give it more memory, or less to hold at a time.",
    "line": "Which line of Python it is: py-spy dump --pid {pid}",
    "children": "It has children; look there: blasenv doctor {children}",
    "others": "Others in its limit want more than that allows (blasenv doctor {others}).",
    "raise-pids": (
        "Start fewer threads, or raise the limit: docker run --pids-limit, podPidsLimit of the kubelet, TasksMax= of "
        "systemd."
    ),
    "raise-user": "Start fewer threads, or raise the limit: ulimit -u, docker run --ulimit nproc.",
}


# The evidence.


def _throttled(change: Throttling) -> str:
    return f"{change.throttled} of {count(change.periods, 'period')} ({percent(change.share)})"


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
            percent(sum(thread.cpu for thread in group)),
            percent(sum(thread.queued for thread in group) / len(group)),
            f"{sum(thread.voluntary + thread.involuntary for thread in group):.0f}",
            "" if group[0].busy else group[0].place[0],
        ]
        for group in groups
    ]


def render(process: Process, verdict: Verdict, started: Started) -> str:
    """Everything about one process: the verdict first, then the evidence."""
    command = printable(" ".join(process.command)) or f"[{printable(process.name)}]"
    if len(command) > 60:
        command = command[:59] + "…"
    if verdict.cause == "missing":
        command = ""
    paragraphs = [f"{paint('bold', f'PID {process.pid}')}  {command}".rstrip()]
    says = sentence(process, verdict)
    first, colon, _ = says.partition(":")
    text = paragraph(says)
    if colon and text.startswith(first):
        text = paint("red" if verdict.problem else "green", first) + text[len(first) :]
    to_do = advice(process, verdict, started)
    paragraphs.append(text + ("\n" + paragraph(to_do) if to_do else ""))
    if verdict.kind != "gone":
        paragraphs.append(table((), _facts(process, started)))
        if verdict.workers:
            paragraphs.append(_worker_table(verdict))
        headers = ("THREADS", "NAME", "STATE", "CPU", "QUEUED", "SWITCHES/S", "WAITS IN")
        paragraphs.append(table(headers, _thread_rows(process)))
    if process.lacks and verdict.kind != "gone":
        reasons = "; ".join(lack_text(lack) for lack in process.lacks)
        rights = "Run this as its user or as root (docker run: --cap-add SYS_PTRACE)."
        paragraphs.append(paragraph(f"Could not be read: {reasons}. {rights}"))
    return "\n\n".join(paragraphs)


def lack_text(lack: Lack) -> str:
    """What could not be read, and why."""
    what = {
        "libraries": "which libraries it has loaded",
        "environment": "the environment it was started with",
        "waits": "what its threads wait for",
    }[lack.what]
    return f"{what} ({lack.path}{': ' if lack.problem else ''}{lack.problem})"


def _worker_table(verdict: Verdict) -> str:
    rows = []
    for one in sorted(verdict.workers, key=lambda one: one.pid)[:12]:
        threads = f"{len(one.busy)}/{len(one.threads)}"
        rows.append([one.pid, _name(one, verdict.master), threads, percent(one.used), one.parent])
    left = len(verdict.workers) - len(rows)
    text = table(("WORKER", "PROGRAM", "BUSY/ALL", "CPU", "PARENT"), rows)
    return text + (f"\n… and {left} more" if left > 0 else "")


def _facts(process: Process, started: Started) -> list[list[str]]:
    level = process.limit
    quota = cpus_of(level) if level else None
    limit = f"{count(quota, 'CPU')}, from {printable(directory_of(level))}" if level and quota else "none seen"
    affinity = count(len(process.cpus), "CPU")
    if process.cpus < process.around:
        affinity += f" of the {len(process.around)} that its parent may use"
    rows = [["CPU limit", limit], ["affinity", affinity]]
    if process.throttling is not None and level is not None:
        text = f"{_throttled(process.throttling)} in {process.seconds:.1f} s"
        if process.throttling_before is not None:
            text += f"; {_throttled(process.throttling_before)} since the cgroup was made"
        rows.append(["throttled", text])
    rows.append(["used", f"{count(round(process.used, 2), 'CPU')}, {count(len(process.threads), 'thread')}"])
    if process.cgroup_processes > 1:
        rest = f"; {process.left_out} of them were not watched" if process.left_out else ""
        rows.append(["limit shared", f"by {processes(process.cgroup_processes)}{rest}"])
    if process.pids is not None:
        rows.append(["threads", _pids(process.pids)])
    if process.user_threads is not None and 2 * process.user_threads.current > process.user_threads.most:
        rows.append(["user's threads", _user_threads(process.user_threads)])
    names = Counter(str(library) for library in process.libraries)
    libraries = ", ".join(f"{times} {name}" if times > 1 else name for name, times in names.items())
    if not process.lacks_any("libraries"):
        rows.append(["libraries", libraries or "no BLAS, no OpenMP"])
    if process.environment is not None:
        pairs = " ".join(f"{name}={printable(value)}" for name, value in sorted(process.environment.items()))
        rows.append(["started with", pairs or "no thread variables"])
    rows.append(["blasenv", blasenv_text(process, started)])
    if process.swapped:
        rows.append(["swap", f"{process.swapped >> 20} MiB"])
    return rows


def _pids(pids: Pids) -> str:
    refused = "" if pids.refused is None else f"; refused {pids.refused} since the cgroup was made"
    return f"{pids.current} of {pids.most} allowed (pids.max in {printable(pids.directory)}){refused}"


def _user_threads(user: UserThreads) -> str:
    return f"{user.current} of {user.most} allowed (RLIMIT_NPROC)"


def blasenv_text(process: Process, started: Started) -> str:
    """What blasenv has done in that process, as far as it can be known."""
    seen = process.observation
    would = ""
    if seen is not None and seen.decision.set:
        would = " ".join(f"{name}={value}" for name, value in seen.decision.set.items())
    path = printable(started.interpreter.path) if started.interpreter else "its Python"
    if started.why == "acted":
        if seen is not None and not started.set:
            return f"active in {path}: set nothing ({seen.decision.rule})"
        rule = seen.decision.rule if seen is not None else ""
        hidden = "" if seen is not None and seen.decision.visible else f"; /proc/{process.pid}/environ does not show it"
        return f"active in {path}: set {would} ({rule}){hidden}"
    return {
        "not-python": "not Python; blasenv run -- sets the variable for such programs",
        "not-covered": f"not in {path}" + (f"; it would set {would}" if would else ""),
        "disabled": "switched off by BLASENV_DISABLE",
        "off": f'in {path}, and switched off by mode = "off"',
        "no-site": "did not run: python -S",
        "later": f"in {path}, but put there, or renewed, after this had started" + (f"; sets {would}" if would else ""),
    }.get(started.why, "whether it is active in there can't be seen")


def as_json(process: Process, verdict: Verdict, started: Started) -> dict[str, object]:
    """One process for ``--json``. Rates are per second, shares 0 to 1, CPU in CPUs."""
    level = process.limit

    def counters(value: Throttling | None) -> dict[str, object] | None:
        return None if value is None else {**asdict(value), "share": round(value.share, 4)}

    seen = process.observation
    return {
        "pid": process.pid,
        "command": process.command,
        "user": process.user,
        "parent": process.parent,
        "children": process.children,
        "verdict": {
            "kind": verdict.kind,
            "problem": verdict.problem,
            "sentence": sentence(process, verdict),
            "advice": advice(process, verdict, started),
            "fitting_threads": verdict.fits or process.fitting,
            "mends": list(verdict.mends),
            "whose_threads": verdict.whose or None,
            "working_threads": verdict.working,
            "about": verdict.about.pid if verdict.about else None,
            "workers": [one.pid for one in verdict.workers],
            "master": verdict.master.pid if verdict.master else None,
            "cause": verdict.cause or None,
        },
        "seconds": round(process.seconds, 3),
        "quota_cpus": cpus_of(level) if level else None,
        "cgroup": directory_of(level) if level else None,
        "cgroup_processes": process.cgroup_processes,
        "affinity_cpus": len(process.cpus),
        "parent_affinity_cpus": len(process.around) or None,
        "throttling": counters(process.throttling),
        "throttling_since_start": counters(process.throttling_before),
        "pids": _pids_json(process),
        "user_threads": asdict(process.user_threads) if process.user_threads else None,
        "swapped_bytes": process.swapped,
        "libraries": [asdict(library) for library in process.libraries],
        "environment": process.environment,
        "blasenv": {
            "state": started.why,
            "interpreter": started.interpreter.path if started.interpreter else None,
            "covered_by": list(started.cover.by) if started.cover else None,
            "rule": seen.decision.rule if seen else None,
            "would_set": dict(seen.decision.set) if seen else {},
            "set": dict(started.set),
        },
        "neighbours": [
            {
                "pid": one.pid,
                "parent": one.parent,
                "command": one.command,
                "cpu": round(one.used, 4),
                "wants": round(one.wants, 4),
                "busy_threads": len(one.busy),
                "threads": len(one.threads),
            }
            for one in process.neighbours
        ],
        "neighbours_left_out": process.left_out,
        "threads": [
            {
                "tid": thread.tid,
                "name": thread.name,
                "state": thread.state,
                "busy": thread.busy,
                "started": thread.started,
                "cpu": round(thread.cpu, 4),
                "queued": round(thread.queued, 4),
                "major_faults": round(thread.major_faults, 2),
                "voluntary_switches": round(thread.voluntary, 2),
                "involuntary_switches": round(thread.involuntary, 2),
                "waits_in": "" if thread.busy else thread.place[0],
                "waits_on": "" if thread.busy else thread.place[1],
                "waits_for_gil": thread.turns > 0,
            }
            for thread in process.threads
        ],
        "lacks": [lack_text(lack) for lack in process.lacks],
    }


def _pids_json(process: Process) -> dict[str, object] | None:
    if process.pids is None:
        return None
    pids = process.pids
    return {
        "cgroup": pids.directory,
        "current": pids.current,
        "max": pids.most,
        "refused": process.refused,
        "refused_since_start": pids.refused,
    }


def render_all(judged: Sequence[tuple[Process, Verdict]]) -> str:
    """One line for each process, those with a problem first."""
    rows = []
    for process, verdict in sorted(judged, key=lambda pair: (not pair[1].problem, pair[0].pid)):
        names = [os.path.basename(process.command[0])] if process.command else [process.name]
        kind = paint("red", verdict.kind) if verdict.problem else verdict.kind
        threads = f"{len(process.busy)}/{len(process.threads)}"
        limit = cpus_of(process.limit) if process.limit else None
        share = percent(process.throttling.share) if process.throttling and limit else ""
        program = printable(" ".join(names + [os.path.basename(word) for word in process.command[1:2]]))[:24]
        rows.append([process.pid, program, threads, f"{process.used:.2f}", number(process.allowed), share, kind])
    return table(("PID", "PROGRAM", "BUSY/ALL", "CPU", "OF", "THROTTLED", "VERDICT"), rows)
