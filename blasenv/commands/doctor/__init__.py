"""``blasenv doctor``: is the installation sound, and, with a PID, is it threads that a process suffers from?"""

from __future__ import annotations

import argparse
import difflib
import os
import subprocess
import sys
from dataclasses import asdict

from blasenv import __version__
from blasenv.errors import Failure
from blasenv.machine import process
from blasenv.output.text import count, paint, paragraph, print_json, table

from . import effect, installation, page
from .checks import CHECKS, Check, Context, Result, summary
from .judging import judge
from .node import node_command

SCHEMA = 1
MOST_SECONDS = 3600
MOST_TOLD = 3  # problems that --all writes out
# Those of the installation are shown first.
ORDERED = {
    name: function
    for module in (installation, effect)
    for name, function in CHECKS.items()
    if function.__module__ == module.__name__
}
_STYLES = {"ok": "green", "skipped": "dim", "warning": "yellow", "problem": "red"}


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``blasenv doctor``."""
    parser.add_argument("what", nargs="*", metavar="PID | CHECK", help="a process that runs now, or a check by name")
    parser.add_argument("--all", action="store_true", help="every process that has a BLAS or OpenMP library loaded")
    parser.add_argument("--seconds", type=float, default=1.5, help="how long to watch processes (default: 1.5)")
    parser.add_argument("--node", action="store_true", help="every container of this machine, the worst first")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="with --node: show it anew this often")
    parser.add_argument("--metrics", metavar="FILE", help="with --node: write FILE for Prometheus' node-exporter")
    parser.add_argument("--list", action="store_true", help="list the checks")
    parser.add_argument(
        "--root", default="/", metavar="DIR", help="check the image unpacked in DIR, without running it"
    )
    parser.add_argument("--strict", action="store_true", help="a warning is a problem, too (for Dockerfiles)")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def doctor_command(args: argparse.Namespace) -> int:
    """Run ``blasenv doctor``: 0 when all is well, 1 when something is not."""
    # str.isdigit alone takes superscripts, of which int() makes nothing.
    pids = [int(word) for word in args.what if word.isascii() and word.isdigit()]
    names = [word for word in args.what if not (word.isascii() and word.isdigit())]
    if pids and names:
        raise Failure("give PIDs or names of checks, not both", 2)
    if args.all and args.what:
        raise Failure("--all takes neither PIDs nor checks", 2)
    if args.root != "/" and (args.all or pids):
        raise Failure("--root is for checks of an image; a process runs on this machine", 2)
    if not os.path.isdir(args.root):
        raise Failure(f"--root {args.root}: no such directory", 2)
    if not 0 < args.seconds <= MOST_SECONDS:
        raise Failure(f"--seconds {args.seconds:g}: say a number above 0 and up to {MOST_SECONDS}, such as 1.5", 2)
    _check_node(args)
    if args.node:
        return node_command(args)
    if args.all:
        return _look_at_all(args)
    if pids:
        return _look_at(list(dict.fromkeys(pids)), args)
    if args.list:
        print(table(("CHECK", "WHAT IT ASKS"), [(name, summary(function)) for name, function in ORDERED.items()]))
        return 0
    return _check(names, args)


def _check_node(args: argparse.Namespace) -> None:
    """Refuse what --node doesn't go with, and what goes only with it."""
    if not args.node and (args.watch is not None or args.metrics is not None):
        raise Failure("--watch and --metrics are for blasenv doctor --node", 2)
    if not args.node:
        return
    if args.all or args.what:
        raise Failure("--node looks at all containers; it takes no --all, PIDs or checks", 2)
    if args.root != "/" or args.strict or args.list:
        raise Failure("--node looks at this machine; it takes no --root, --strict or --list", 2)
    if args.watch is not None and not 0 < args.watch <= MOST_SECONDS:
        raise Failure(f"--watch {args.watch:g}: say a number above 0 and up to {MOST_SECONDS}, such as 10", 2)
    if args.watch is not None and args.json:
        raise Failure("--watch draws on a terminal; it doesn't go with --json", 2)


def _check(names: list[str], args: argparse.Namespace) -> int:
    """Run the checks of these names, all of them without names."""
    for name in names:
        if name not in CHECKS:
            near = difflib.get_close_matches(name, CHECKS, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise Failure(f"there is no check {name!r}{meant} See: blasenv doctor --list", 2)
    context = Context(args.root)
    results = {name: _run(function, context) for name, function in ORDERED.items() if name in names or not names}
    bad = [name for name, result in results.items() if result.state == "problem"]
    bad += [name for name, result in results.items() if result.state == "warning" and args.strict]
    if args.json:
        listed = [{"name": name, **asdict(result)} for name, result in results.items()]
        print_json({"schema": SCHEMA, "version": __version__, "strict": args.strict, "fine": not bad, "checks": listed})
        return int(bool(bad))
    rows = []
    for name, result in results.items():
        first, *more = result.value.split("\n")
        rows.append((name, paint(_STYLES[result.state], result.state), first))
        rows += [("", "", line) for line in more]
        if result.advice:
            rows.append(("", "", f"→ {result.advice}"))
    print(table(("CHECK", "STATE", "FOUND"), rows))
    print()
    print(paragraph(_closing(results, bad)))
    return int(bool(bad))


def _run(function: Check, context: Context) -> Result:
    """One check; one that breaks is a finding, and the others still run."""
    try:
        return function(context)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return Result("problem", f"the check itself failed: {type(error).__name__}: {error}", "Please report it.")


def _closing(results: dict[str, Result], bad: list[str]) -> str:
    """One calm sentence."""
    warnings = [name for name, result in results.items() if result.state == "warning" and name not in bad]
    if bad:
        return f"{count(len(bad), 'thing')} to look after: {', '.join(bad)}. The line with → says what to do."
    if warnings:
        return f"It works. Worth a look when there is time: {', '.join(warnings)}."
    return "All is well."


def _look_at(pids: list[int], args: argparse.Namespace) -> int:
    missing = [pid for pid in pids if not os.path.exists(f"/proc/{pid}")]
    which = ", ".join(str(pid) for pid in missing)
    absent = f"there is no process {which} here; in a container, only its own PIDs can be seen"
    if missing == pids:
        raise Failure(absent)
    judged = [judge(found) for found in process.measure(pids, args.seconds)]
    if args.json:
        print_json({"schema": SCHEMA, "processes": [page.as_json(*one) for one in judged]})
    else:
        print("\n\n".join(page.render(*one) for one in judged))
    if missing:
        print(f"blasenv: {absent}", file=sys.stderr)
    return int(bool(missing) or any(judgement.problem for _, judgement, _ in judged))


def _look_at_all(args: argparse.Namespace) -> int:
    pids, closed = process.numeric_pids()
    judged = [judge(found) for found in process.measure(pids, args.seconds) if not found.gone]
    problems = [one for one in judged if one[1].problem]
    problems.sort(key=lambda one: one[0].allowed - one[0].wants)  # who is furthest from what it may use
    if args.json:
        print_json({"schema": SCHEMA, "processes": [page.as_json(*one) for one in judged], "closed": closed})
        return int(bool(problems))
    if judged:
        print(page.render_all([(found, judgement) for found, judgement, _ in judged]))
        print()
    told: list[tuple[int, ...]] = []
    for found, judgement, known in problems:
        workers = tuple(sorted(one.pid for one in judgement.workers))
        if len(told) == MOST_TOLD or (workers and workers in told):
            continue  # what was said of one worker goes for its siblings
        told.append(workers)
        print(paragraph(f"{found.pid}: {page.sentence(found, judgement)} {page.advice(found, judgement, known)}"))
    if problems:
        print(paragraph(f"More about one of them: blasenv doctor {problems[0][0].pid}"))
    elif judged:
        looked_at = f"{page.processes(len(judged))} with a BLAS or OpenMP library"
        print(paragraph(f"{looked_at}; threads are no problem in any."))
    else:
        print("No process with a BLAS or OpenMP library.")
    if closed:
        who = "" if os.geteuid() == 0 else "; root may"
        print(paragraph(f"{page.processes(closed)} can't be looked into from here{who}."))
    return int(bool(problems))
