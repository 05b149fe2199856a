"""``blasenv doctor``: is the installation sound, and, with a PID, is it threads that a process suffers from?"""

from __future__ import annotations

import argparse
import difflib
import os
import subprocess
from collections.abc import Callable
from dataclasses import asdict

from blasenv import __version__
from blasenv.errors import Failure
from blasenv.machine import process
from blasenv.output.text import count, paint, paragraph, print_json, table

from . import effect, installation, verdict
from .checks import CHECKS, Result, summary

SCHEMA = 1
# The checks register themselves as their modules are imported, in the order they are shown.
ROOMS = (installation, effect)
_STYLES = {"ok": "green", "skipped": "dim", "warning": "yellow", "problem": "red"}


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``blasenv doctor``."""
    parser.add_argument("what", nargs="*", metavar="PID | CHECK", help="a process that runs now, or a check by name")
    parser.add_argument("--all", action="store_true", help="every process that has a BLAS or OpenMP library loaded")
    parser.add_argument("--seconds", type=float, default=1.5, help="how long to watch processes (default: 1.5)")
    parser.add_argument("--list", action="store_true", help="list the checks")
    parser.add_argument("--strict", action="store_true", help="a warning is a problem, too (for Dockerfiles)")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def doctor_command(args: argparse.Namespace) -> int:
    """Run ``blasenv doctor``: 0 when all is well, 1 when something is not."""
    pids = [int(word) for word in args.what if word.isdigit()]
    names = [word for word in args.what if not word.isdigit()]
    if pids and names:
        raise Failure("give PIDs or names of checks, not both", 2)
    if args.all and args.what:
        raise Failure("--all takes neither PIDs nor checks", 2)
    if not 0 < args.seconds <= 3600:
        raise Failure("--seconds is a number above 0, such as 1.5", 2)
    if args.all:
        return _look_at_all(args)
    if pids:
        return _look_at(pids, args)
    if args.list:
        print(table(("CHECK", "WHAT IT ASKS"), [(name, summary(function)) for name, function in CHECKS.items()]))
        return 0
    return _check(names, args)


def _check(names: list[str], args: argparse.Namespace) -> int:
    """Run the checks of these names, all of them without names."""
    for name in names:
        if name not in CHECKS:
            near = difflib.get_close_matches(name, CHECKS, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise Failure(f"there is no check {name!r}{meant} See: blasenv doctor --list", 2)
    results = {name: _run(function) for name, function in CHECKS.items() if name in names or not names}
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


def _run(function: Callable[[], Result]) -> Result:
    """One check; one that breaks is a finding, and the others still run."""
    try:
        return function()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return Result("problem", f"the check itself failed: {type(error).__name__}: {error}", "Please report it.")


def _closing(results: dict[str, Result], bad: list[str]) -> str:
    """One calm sentence."""
    warnings = [name for name, result in results.items() if result.state == "warning" and name not in bad]
    if bad:
        which = ", ".join(bad)
        return f"{count(len(bad), 'thing')} to look after: {which}. What to do stands behind the arrow."
    if warnings:
        return f"It works. Worth a look when there is time: {', '.join(warnings)}."
    return "All is well."


def _look_at(pids: list[int], args: argparse.Namespace) -> int:
    found = process.measure(pids, args.seconds)
    for one in found:
        if one.gone and not one.threads:
            raise Failure(f"there is no process {one.pid} here; in a container, only its own PIDs can be seen")
    judged = [(one, verdict.judge(one)) for one in found]
    if args.json:
        print_json({"schema": SCHEMA, "processes": [verdict.as_json(*pair) for pair in judged]})
    else:
        print("\n\n".join(verdict.render(*pair) for pair in judged))
    return int(any(judgement.problem for _, judgement in judged))


def _look_at_all(args: argparse.Namespace) -> int:
    pids, closed = process.numeric_pids()
    found = process.measure(pids, args.seconds)
    judged = [(one, verdict.judge(one)) for one in found if not one.gone]
    problems = [pair for pair in judged if pair[1].problem]
    if args.json:
        document = {"schema": SCHEMA, "processes": [verdict.as_json(*pair) for pair in judged], "closed": closed}
        print_json(document)
        return int(bool(problems))
    if judged:
        print(verdict.render_all(judged))
        print()
    for one, judgement in problems[:3]:
        print(paragraph(f"{one.pid}: {judgement.sentence} {judgement.advice}"))
    if not problems:
        looked_at = f"{len(judged)} process{'es' if len(judged) != 1 else ''} with a BLAS or OpenMP library"
        print(
            paragraph(f"{looked_at}; threads are no problem in any.")
            if judged
            else f"{looked_at}.".replace("0", "No", 1)
        )
    else:
        print(paragraph(f"More about one of them: blasenv doctor {problems[0][0].pid}"))
    if closed:
        who = "" if os.geteuid() == 0 else "; root may"
        print(paragraph(f"{closed} process{'es' if closed > 1 else ''} can't be looked into from here{who}."))
    return int(bool(problems))
