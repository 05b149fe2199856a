"""``blasenv bench``: is it threads, on this machine under this limit? And what does the hook cost?"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from blasenv import MAX_THREADS, __version__
from blasenv.errors import Failure
from blasenv.machine.cgroup import cpus_of, find_levels, tightest
from blasenv.output.text import count, paragraph, print_json, printable

from . import chart, measure, startup
from .workloads import WORKLOADS, Workload

SCHEMA = 1
DAY = 86400  # seconds
MOST_ROUNDS = 1000


def bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``blasenv bench``."""
    parser.usage = "blasenv bench [options] [-- COMMAND [ARGUMENT ...]]"
    names = ", ".join(workload.name for workload in WORKLOADS)
    parser.add_argument(
        "--python", default=sys.executable, help="the Python to measure, with numpy (default: this one)"
    )
    parser.add_argument("--only", action="append", metavar="NAME", help=f"one workload of {names}; may be repeated")
    parser.add_argument(
        "--threads", metavar="LIST", help="thread counts such as 1,2,8 (default: 1 to the visible CPUs)"
    )
    parser.add_argument("--seconds", type=float, metavar="N", help="time budget (default: 60; --startup: 15)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="at most so many rounds (default: 7)")
    parser.add_argument("--svg", metavar="FILE", help="write a chart, too")
    parser.add_argument("--startup", action="store_true", help="measure what the hook adds to a Python start instead")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def bench_command(args: argparse.Namespace) -> int:
    """Measure and report. After Ctrl-C what was measured is reported, and the signal then passed on."""
    budget = args.seconds if args.seconds is not None else 15.0 if args.startup else 60.0
    if not 0 < budget <= DAY:
        raise Failure(f"--seconds is a number above 0 and up to {DAY}, which is a day", 2)
    if not 1 <= args.rounds <= MOST_ROUNDS:
        raise Failure(f"--rounds is a whole number from 1 to {MOST_ROUNDS}", 2)
    if args.svg:
        _try_writing(args.svg)
    if args.startup:
        return _startup(args, budget)
    listed = _listed(args.threads) if args.threads else []
    workloads = _workloads(args)
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    choice = measure.choice()
    threads = [*(listed or measure.counts(affinity, choice)), measure.DEFAULT]
    if choice not in threads:
        threads.append(choice)
    series, interrupted = measure.measure(
        workloads,
        sorted(threads, key=lambda count: (count == measure.DEFAULT, count)),
        python=args.python,
        command=args.cmd,
        budget=budget,
        rounds=args.rounds,
        progress=measure.bar,
    )
    measure.bar_end()
    if any(one.seconds for one in series):
        _report(args, workloads, series, choice, affinity)
    if interrupted:
        print("blasenv: interrupted; this is what was measured until then", file=sys.stderr)
        sys.stdout.flush()
        raise KeyboardInterrupt
    return 0


def _workloads(args: argparse.Namespace) -> list[Workload]:
    if args.cmd:
        command = printable(shlex.join(args.cmd))
        return [Workload("command", command if len(command) <= 60 else command[:57] + "...")]
    known = {workload.name: workload for workload in WORKLOADS}
    for name in args.only or []:
        if name not in known:
            raise Failure(f"there is no workload {name!r}; known are {', '.join(known)}", 2)
    wanted = [known[name] for name in args.only] if args.only else list(WORKLOADS)
    present = {module: measure.has(args.python, module) for module in ("numpy", "scipy")}
    found = [workload for workload in wanted if present["numpy"] and present[workload.needs]]
    if not found:
        missing = "numpy" if not present["numpy"] else "scipy"
        advice = "name another Python with --python, or measure a program of yours: blasenv bench -- COMMAND"
        raise Failure(f"{args.python} has no {missing}; {advice}")
    return found


def _listed(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) < 5 and 0 < int(word) <= MAX_THREADS for word in words):
        raise Failure(f"--threads {text}: not a list of whole numbers from 1 to {MAX_THREADS} such as 1,2,8", 2)
    return sorted({int(word) for word in words})


def _report(
    args: argparse.Namespace, workloads: list[Workload], series: list[measure.Series], choice: int, affinity: int
) -> None:
    level = tightest(find_levels())
    quota = cpus_of(level) if level else None
    limit = "no CPU limit" if quota is None else f"a limit of {count(quota, 'CPU')}"
    title = f"{count(affinity, 'CPU')} visible, {limit}"
    if args.svg:
        try:
            Path(args.svg).write_text(chart.svg(workloads, series, choice, title), encoding="utf-8")
        except OSError as error:
            raise Failure(f"--svg {args.svg}: {error.strerror}") from None
    if args.json:
        groups = [(work, [one for one in series if one.workload == work.name and one.seconds]) for work in workloads]
        document = {
            "schema": SCHEMA,
            "version": __version__,
            "python": args.python,
            "affinity_cpus": affinity,
            "quota_cpus": quota,
            "choice": choice or None,
            "workloads": [chart.as_json(work, group, choice, affinity) for work, group in groups if group],
        }
        print_json(document)
        return
    does = f"sets {choice}" if choice else "changes nothing"
    print(paragraph(f"{title}; blasenv {does} here. Shorter bars are better."))
    print()
    print(chart.render(workloads, series, choice, affinity, _block()))


def _try_writing(path: str) -> None:
    """Raise a `Failure` now, and not when the time is spent, if the chart can't be written there."""
    there = os.path.lexists(path)
    if there and not os.path.isfile(path) and not os.path.isdir(path):
        return  # a pipe or a device: opening one can have effects
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666))
    except OSError as error:
        raise Failure(f"--svg {path}: {error.strerror}; nothing was measured") from None
    if not there:
        os.unlink(path)


def _block() -> str:
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return "█" if "utf" in encoding else "#"


def _startup(args: argparse.Namespace, budget: float) -> int:
    cost, interrupted = startup.measure_startup(args.python, budget, measure.bar)
    measure.bar_end()
    if cost is not None:
        if args.json:
            print_json({"schema": SCHEMA, "version": __version__, "python": args.python, **asdict(cost)})
        else:
            spread = (
                f"the median of {cost.pairs} pairs, half of which lie between {cost.low:.2f} and {cost.high:.2f} ms"
            )
            text = f"The hook adds {cost.difference:.2f} ms to a start of {cost.bare:.1f} ms: {spread}."
            if cost.noise:
                text = f"This machine is too busy to tell: a difference of {cost.difference:.2f} ms is {spread}."
            print(paragraph(text))
    if interrupted:
        sys.stdout.flush()
        raise KeyboardInterrupt
    return 0
