"""``blasenv doctor``: is the installation sound, and, with a PID, is it threads that a process suffers from?"""

from __future__ import annotations

import argparse
import os

from blasenv.text import Failure, paragraph, print_json

from . import process, verdict

SCHEMA = 1


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
    return 0


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
        count = f"{len(judged)} process{'es' if len(judged) != 1 else ''} with a BLAS or OpenMP library"
        print(paragraph(f"{count}; threads are no problem in any.") if judged else f"{count}.".replace("0", "No", 1))
    else:
        print(paragraph(f"More about one of them: blasenv doctor {problems[0][0].pid}"))
    if closed:
        who = "" if os.geteuid() == 0 else "; root may"
        print(paragraph(f"{closed} process{'es' if closed > 1 else ''} can't be looked into from here{who}."))
    return int(bool(problems))
