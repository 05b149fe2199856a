"""``blasenv heal``: give a process that runs now the thread count that fits, without a restart."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import blasenv
from blasenv.errors import Failure
from blasenv.live import remote
from blasenv.machine.observe import observe_process
from blasenv.machine.process import Process, measure, numeric_pids, parse_environ, parse_stat, parse_words
from blasenv.output import report
from blasenv.output.text import count, number, paint, paragraph, print_json, printable, table

from .options import thread_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blasenv.machine.observe import Observation

SCHEMA = 1
LOOK = 2.0  # seconds to watch a process, before and after
SETTLE = 0.5  # seconds: threads that have nothing to do any more spin for a while before they sleep
THROTTLED = 0.1  # share of periods: below it, more threads than fit hurt nobody
RETRY = 60.0  # seconds until --watch tries again what could not be healed
_STYLES = {"healed": "green", "fine": "green", "would heal": "yellow", "not healed": "red"}


def heal_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``blasenv heal``."""
    parser.add_argument("pids", nargs="*", metavar="PID", type=int, help="a Python process (3.14 or later)")
    parser.add_argument("--all", action="store_true", help="every Python process with more threads than fit")
    parser.add_argument("--threads", type=thread_count, metavar="N", help="this count, also where the user set another")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument(
        "--wait", type=float, default=5.0, metavar="SECONDS", help="for a safe point of the interpreter (default: 5)"
    )
    parser.add_argument("--seconds", type=float, default=LOOK, help="how long to look, before and after (default: 2)")
    parser.add_argument(
        "--watch", type=float, metavar="SECONDS", help="keep looking this often, and heal when a limit has changed"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document (with --watch: one line each time)")


def heal_command(args: argparse.Namespace) -> int:
    """Run ``blasenv heal``: 0 when nothing is wrong or it is healed, 1 when something could not be healed."""
    if bool(args.pids) == args.all:
        raise Failure("give one PID or several, or --all", 2)
    for name in ("wait", "watch", "seconds"):
        seconds = getattr(args, name)
        if seconds is not None and not 0 < seconds <= 86400:
            raise Failure(f"--{name} is a number of seconds above 0, such as 10", 2)
    if args.watch is not None and (args.dry_run or args.threads):
        raise Failure("--watch decides by itself each time; it goes with neither --dry-run nor --threads", 2)
    if sys.platform != "linux":
        raise Failure("only on Linux can a process be looked into like this")
    if args.watch is not None:
        return _watch(args)
    cases = _look(args.pids or _candidates(), args)
    if not cases:
        if args.json:
            print_json({"schema": SCHEMA, "processes": []})
        else:
            print(paragraph("No Python process here has a BLAS or OpenMP library and more threads than fit."))
        return 0
    closed = [case for case in cases if case.outcome]
    if not args.json:
        print("\n\n".join(_announcement(case) for case in cases), flush=True)
    if not args.dry_run:
        for case in cases:
            _mend(case, args)
        _look_again(cases, args.seconds)
    if args.json:
        print_json({"schema": SCHEMA, "processes": [_as_json(case) for case in cases]})
    elif not args.dry_run:
        for case in cases:
            if case not in closed:
                print(f"\n{_result(case)}")
    return int(any(case.outcome == "not healed" for case in cases))


@dataclass
class Case:
    """One process, what is to be done with it, and what came out."""

    pid: int
    before: Process
    seen: Observation
    target: remote.Target | None = None
    """None where it can't be healed."""
    threads: int | None = None
    """The count to set, None to give back what the libraries had."""
    force: bool = False
    outcome: str = ""
    """healed, fine, would heal, not healed; "" while it is open."""
    sentence: str = ""
    advice: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    after: Process | None = None

    def end(self, outcome: str, sentence: str, advice: str = "") -> None:
        """Close the case."""
        self.outcome, self.sentence, self.advice = outcome, sentence, advice

    @property
    def too_many(self) -> bool:
        """Whether more threads compute than fit."""
        return _busy(self.before) > (self.threads or self.seen.fitting)

    @property
    def restart(self) -> str:
        """The way that is left where it can't be healed, "" for what has nothing to do with threads."""
        python = any("python" in os.path.basename(word) for word in [self.before.name, *self.before.command[:1]])
        if self.before.gone or not (python or self.before.libraries):
            return ""
        also = ", or with blasenv in its Python" if python else ""
        return f"Restart it with OMP_NUM_THREADS={self.threads or self.seen.fitting}{also}."


def _busy(process: Process) -> int:
    return sum(thread.busy for thread in process.threads)


def _busy_with(process: Process) -> str:
    """What keeps a main thread from a safe point."""
    main = next((thread for thread in process.threads if thread.tid == process.pid), None)
    if main is None or main.busy or not main.place[0]:
        return "it is in one long call, or it waits"
    return f"it waits, in {main.place[0]}()"


def _environ(pid: int) -> dict[str, str]:
    """The environment that a process was started with, empty where it can't be read."""
    return parse_environ(blasenv.read_file(f"/proc/{pid}/environ", blasenv.MAX_MOUNTINFO, kernel=True)[0])


def _command(pid: int) -> list[str]:
    return parse_words(blasenv.read_file(f"/proc/{pid}/cmdline", blasenv.MAX_MOUNTINFO, kernel=True)[0])


def _parent(pid: int) -> int:
    """Its parent's PID, 0 where that can't be read."""
    stat = parse_stat(blasenv.read_file(f"/proc/{pid}/stat", blasenv.MAX_FILE, kernel=True)[0])
    return stat.parent if stat else 0


def _observe(pid: int) -> Observation:
    """What the hook would decide for a process now, without watching it."""
    return observe_process(pid, _parent(pid), frozenset(os.sched_getaffinity(pid)), _command(pid), _environ(pid))


def _candidates() -> list[int]:
    """The Python processes, as far as they can be looked into, that have more threads than fit."""
    found = []
    for pid in numeric_pids()[0]:
        with contextlib.suppress(remote.Refused, OSError):
            remote.identify(pid)
            threads = _observe(pid).decision.threads
            if threads is not None and len(os.listdir(f"/proc/{pid}/task")) > threads:
                found.append(pid)
    return found


def _look(pids: Sequence[int], args: argparse.Namespace) -> list[Case]:
    """Watch the processes, and decide for each what is to be done."""
    cases = []
    for process in measure(list(dict.fromkeys(pids)), args.seconds):
        seen = observe_process(process.pid, process.parent, process.cpus, process.command, _environ(process.pid))
        case = Case(process.pid, process, seen)
        _decide(case, args)
        cases.append(case)
    return cases


def _decide(case: Case, args: argparse.Namespace) -> None:
    """Whether and how a process is to be healed, as the hook would decide for it."""
    decision = case.seen.decision
    case.threads, case.force = decision.threads, False
    if args.threads:
        case.threads, case.force = args.threads, True
    try:
        case.target = remote.identify(case.pid)
    except remote.Refused as refused:
        if case.before.gone or case.too_many or case.force:
            case.end("not healed", _sentence(str(refused)), case.restart)
        else:
            case.end("fine", _sentence(f"no more threads compute than fit; it could not be healed, though: {refused}"))
        return
    if not case.force and decision.rule in ("user-env", "disabled", "error"):
        fits = case.seen.fitting
        why = report.reason(decision, case.seen.config, case.seen.limits, case.seen.affinity)
        named = max((int(value) for value in decision.kept.values() if value.isdigit()), default=0)
        if case.too_many or named > fits:
            advice = f"To set it all the same: blasenv heal --threads {fits} {case.pid}"
            case.end("not healed", _sentence(f"{why}; {count(fits, 'thread')} would fit"), advice)
        else:
            case.end("fine", _sentence(f"{why}; no more threads compute than fit"))


def _sentence(text: str) -> str:
    text = printable(text)
    return f"{text[:1].upper()}{text[1:]}."


def _announcement(case: Case) -> str:
    """What is going to be done, before it is done."""
    command = printable(" ".join(case.before.command))
    lines = [f"{paint('bold', f'PID {case.pid}')}  {command if len(command) <= 60 else command[:59] + '…'}"]
    if case.outcome:
        lines.append(paragraph(f"{paint(_STYLES[case.outcome], _titled(case.outcome))}: {case.sentence} {case.advice}"))
        return "\n".join(lines)
    seen = case.seen
    why = "as you say" if case.force else report.reason(seen.decision, seen.config, seen.limits, seen.affinity)
    if case.threads is None:
        what = "Its libraries get back the counts they had"
    else:
        what = f"Its libraries get {count(case.threads, 'thread')}"
    lines.append(paragraph(printable(f"{what}: {why}. {count(_busy(case.before), 'thread')} compute now.")))
    return "\n".join(lines)


def _titled(words: str) -> str:
    return words[:1].upper() + words[1:]


def _mend(case: Case, args: argparse.Namespace) -> None:
    """Do it, if nothing speaks against it."""
    if case.outcome or case.target is None:
        return
    seen = case.seen
    heed = not seen.config.override
    try:
        case.rows = remote.heal(
            case.target,
            seconds=args.wait,
            threads=case.threads,
            cpus=seen.affinity,
            cores=seen.cores,
            force=case.force,
            heed=heed,
        )
    except remote.Late as late:
        sentence = (
            f"In {number(args.wait)} s its main thread came to no safe point: {_busy_with(case.before)}. "
            f"The script was emptied, and will do nothing later ({late} stays until then)"
        )
        advice = f"To give it more time: blasenv heal --wait {max(60, round(args.wait * 4))} {case.pid}"
        case.end("not healed", _sentence(sentence), f"{advice}. {case.restart}")
    except remote.Refused as refused:
        case.end("not healed", _sentence(str(refused)), case.restart if case.target.lives() else "")
    except OSError as error:
        case.end("not healed", _sentence(f"{error.filename or 'handing it over'}: {error.strerror}"), case.restart)


def _look_again(cases: list[Case], seconds: float) -> None:
    """Watch what was healed once more, and judge each case by what its libraries say, and its threads do."""
    done = [case for case in cases if not case.outcome]
    if not done:
        return
    if any(row["before"] != row["after"] for case in done for row in case.rows):
        time.sleep(SETTLE)
        again = {process.pid: process for process in measure([case.pid for case in done], seconds)}
    else:
        again = {case.pid: case.before for case in done}
    for case in done:
        case.after = again[case.pid]
        _judge(case, case.after)


def _judge(case: Case, after: Process) -> None:
    changed = [row for row in case.rows if row["before"] != row["after"]]
    high = [row for row in case.rows if case.threads is not None and (row["after"] or 0) > case.threads]
    closed = [row for row in case.rows if row["after"] is None]
    if len(closed) == len(case.rows):
        if closed and (case.too_many or case.force):
            names = ", ".join(sorted({f"{row['kind']} {row['remark']}" for row in closed}))
            case.end("not healed", _sentence(names), case.restart)
        elif case.too_many:
            why = "no library is loaded whose thread count can be set (linked statically?), so these are its own"
            case.end("not healed", _sentence(why), case.restart)
        else:
            case.end("fine", "No library whose thread count can be set is loaded.")
    elif high:
        names = ", ".join(f"{row['kind']} {row['remark']}".strip() for row in high)
        case.end(
            "not healed",
            _sentence(f"{count(len(high), 'library').replace('librarys', 'libraries')}: {names}"),
            case.restart,
        )
    elif not changed:
        case.end("fine", "Its libraries have these counts already.")
    elif after.gone:
        case.end("healed", "It has ended since.")
    elif case.threads is not None and _busy(after) > case.threads and _throttled(after) >= THROTTLED:
        sentence = (
            f"its libraries have {case.threads} now, but {_busy(after)} threads compute: they are the program's own"
        )
        case.end("not healed", _sentence(sentence), f"Tell it to use {case.threads} (workers, jobs, pool size).")
    else:
        case.end("healed", "It goes on where it was, and nothing was restarted.")


def _throttled(process: Process) -> float:
    return process.throttling.share if process.throttling else 0.0


def _result(case: Case) -> str:
    """What came of it."""
    head = paint("bold", f"PID {case.pid}")
    verdict = f"{paint(_STYLES[case.outcome], _titled(case.outcome))}: {case.sentence} {case.advice}".strip()
    parts = [f"{head}  {paragraph(verdict, ' ' * 2).lstrip()}"]
    if case.rows:
        rows = [
            (row["kind"], _short(row["path"]), _or(row["before"]), _or(row["after"]), printable(row["remark"]))
            for row in case.rows
        ]
        parts.append(table(("LIBRARY", "FILE", "BEFORE", "AFTER", ""), rows))
    if case.after is not None and case.after is not case.before and not case.after.gone:
        pair = (case.before, case.after)
        facts = [
            ("busy threads", *(str(_busy(process)) for process in pair)),
            ("throttled", *(f"{100 * _throttled(process):.0f} % of the periods" for process in pair)),
            ("standing still", *(f"{process.standing_still:.2f} CPUs" for process in pair)),
        ]
        parts.append(table(("", "BEFORE", "AFTER"), facts))
    return "\n\n".join(parts)


def _or(value: int | None) -> str:
    return "?" if value is None else str(value)


def _short(path: str) -> str:
    name = printable(os.path.basename(path))
    return name if len(name) <= 30 else name[:29] + "…"


def _as_json(case: Case) -> dict[str, object]:
    def look(process: Process | None) -> dict[str, object] | None:
        if process is None or process.gone:
            return None
        return {
            "busy_threads": _busy(process),
            "threads": len(process.threads),
            "throttled_share": round(_throttled(process), 4),
            "standing_still_cpus": round(process.standing_still, 4),
            "seconds": round(process.seconds, 3),
        }

    return {
        "pid": case.pid,
        "command": case.before.command,
        "outcome": case.outcome or "would heal",
        "sentence": case.sentence,
        "advice": case.advice,
        "rule": case.seen.decision.rule,
        "threads": case.threads,
        "fitting_threads": case.seen.fitting,
        "libraries": case.rows,
        "before": look(case.before),
        "after": look(case.after),
    }


def _watch(args: argparse.Namespace) -> int:
    """Look again and again, and heal what a changed limit has made wrong. Ends with a signal."""
    known: dict[tuple[int, bytes], int | None] = {}
    later: dict[tuple[int, bytes], float] = {}
    while True:
        present = set()
        for pid in args.pids or numeric_pids()[0]:
            try:
                target = remote.identify(pid)
                seen = _observe(pid)
                tasks = len(os.listdir(f"/proc/{pid}/task"))
            except (remote.Refused, OSError):
                continue
            key = (pid, target.started)
            present.add(key)
            threads = seen.decision.threads
            if seen.decision.rule in ("user-env", "disabled", "error") or later.get(key, 0) > time.monotonic():
                continue
            if key not in known and (threads is None or tasks <= threads):
                known[key] = threads  # there is nothing to mend
            if known.get(key, -1) != threads:
                case = Case(pid, Process(pid, _command(pid)), seen, target, threads)
                _mend(case, args)
                if case.outcome:
                    later[key] = time.monotonic() + RETRY
                else:
                    known[key] = threads
                    changed = any(row["before"] != row["after"] for row in case.rows)
                    case.end("healed" if changed else "fine", "")
                _report(case, args.json)
        known = {key: value for key, value in known.items() if key in present}
        later = {key: value for key, value in later.items() if key in present}
        if args.pids and not present:
            return 0
        time.sleep(args.watch)


def _report(case: Case, as_json: bool) -> None:
    """One line for one event of --watch."""
    if as_json:
        print(json.dumps({"schema": SCHEMA, "time": round(time.time(), 3), **_as_json(case)}), flush=True)
        return
    now = time.strftime("%H:%M:%S")
    counts = ", ".join(
        f"{row['kind']} {_or(row['before'])} → {_or(row['after'])}"
        for row in case.rows
        if row["before"] != row["after"]
    )
    what = printable(counts) or case.sentence or "nothing to change"
    print(f"{now}  {case.pid}  {case.outcome}: {what}", flush=True)
