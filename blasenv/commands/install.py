"""``blasenv install``, ``upgrade`` and ``uninstall``: cover an interpreter and every venv made from it.

The plan is printed, then done; its steps are in pythons/steps.py.
"""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

from blasenv.errors import Failure
from blasenv.output.text import printable
from blasenv.pythons.installed import sitecustomize_state
from blasenv.pythons.interpreter import Interpreter, identify, is_executable
from blasenv.pythons.removal import STARTUP, Refused, Step, locked, plan_uninstall
from blasenv.pythons.search import find
from blasenv.pythons.steps import plan_install, start

# Ends with this message, and exit status 1, in an interpreter that has not decided when it started.
CHECK = """
import sys
if getattr(getattr(sys, "_blasenv", None), "rule", "error") == "error":
    sys.exit("blasenv did not run")
"""


class Target(NamedTuple):
    """A directory to work on."""

    stdlib: str
    interpreter: str
    """The base's executable."""


def install_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``blasenv install`` to its parser."""
    _arguments(parser, "cover every interpreter of this image")


def upgrade_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``blasenv upgrade`` to its parser."""
    _arguments(parser, "every interpreter where blasenv was installed (the default)")


def uninstall_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``blasenv uninstall`` to its parser."""
    _arguments(parser, "every interpreter where blasenv was installed")


def _arguments(parser: argparse.ArgumentParser, every: str) -> None:
    parser.add_argument(
        "pythons", nargs="*", metavar="PYTHON", help="an interpreter: a path, or a name on PATH; for a venv, its base"
    )
    parser.add_argument("--all", action="store_true", help=every)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")


def install_command(args: argparse.Namespace) -> int:
    """``blasenv install``: place the copy beside the standard library of each interpreter."""
    targets, refused = _targets(args, lambda _: True)
    return max(refused, _work(targets, args.dry_run, _plan_install, _install, "in place already"))


def upgrade_command(args: argparse.Namespace) -> int:
    """``blasenv upgrade``: replace copies of other versions by this one."""
    if not args.pythons:
        args.all = True
    targets, refused = _targets(args, _is_placed)
    return max(refused, _work(targets, args.dry_run, _plan_install, _install, "this version already"))


def uninstall_command(args: argparse.Namespace) -> int:
    """``blasenv uninstall``: take the copy away, and put back what was there."""
    targets, refused = _targets(args, _is_placed)
    return max(refused, _work(targets, args.dry_run, _plan_uninstall, _uninstall, "nothing of blasenv is there"))


def _is_placed(one: Interpreter) -> bool:
    """Whether a copy of blasenv is there, also one that somebody asked for by name."""
    return sitecustomize_state(one.stdlib).form != "" or os.path.lexists(f"{one.stdlib}/{STARTUP}")


def _targets(args: argparse.Namespace, wants: Callable[[Interpreter], bool]) -> tuple[list[Target], int]:
    """The directories to work on, and 1 when some of all have to be left out, else 0."""
    if bool(args.pythons) == args.all:
        raise Failure("name the interpreters, or say --all; blasenv scan lists them", 2)
    targets: dict[str, Target] = {}
    refused = 0
    if args.all:
        others: dict[str, list[str]] = {}
        for one in find().interpreters:
            if one.is_venv or one.unsupported or not wants(one):
                continue
            if one.owner and (one.owner.kind == "root" or not _is_placed(one)):
                others.setdefault(one.owner.sentence, []).append(one.path)
                continue
            try:
                targets[one.stdlib] = _target(one)
            except Failure as failure:
                print(f"blasenv: {failure.message}", file=sys.stderr)
                refused = 1
        for sentence, paths in others.items():
            print(f"left alone, unless named: {printable(sentence)}:")
            print(*(f"  {printable(path)}" for path in paths), sep="\n")
        return list(targets.values()), refused
    for name in args.pythons:
        one_named = _named(name)
        targets[one_named.stdlib] = _target(one_named)
    return list(targets.values()), refused


def _named(name: str) -> Interpreter:
    """The interpreter that a person names, a path or a name on PATH; or a Failure that says what is there instead."""
    path = name if "/" in name else shutil.which(name)
    if path is None:
        beside = f"; the file here is ./{name}" if os.path.lexists(name) else ""
        raise Failure(f"no {printable(name)} on PATH{printable(beside)}; blasenv scan lists the interpreters")
    found = identify(os.path.abspath(path))
    if found is not None:
        return found
    shown = printable(path)
    if not os.path.lexists(path):
        raise Failure(f"there is no {shown}; blasenv scan lists the interpreters")
    if os.path.isdir(path):
        raise Failure(f"{shown} is a directory; name the interpreter in it, such as {shown.rstrip('/')}/bin/python3")
    if is_executable(os.path.realpath(path)):
        raise Failure(f"{shown} is no Python interpreter: no standard library lies with it")
    raise Failure(f"{shown} is no Python interpreter (a script that starts one?); blasenv scan lists them")


def _target(interpreter: Interpreter) -> Target:
    """Where to work for ``interpreter``, or a Failure that says why that can't be."""
    name = printable(interpreter.path)
    if interpreter.unsupported:
        raise Failure(f"{name}: {interpreter.unsupported}; blasenv does nothing for it")
    if not interpreter.stdlib:
        raise Failure(f"{name}: its base {printable(interpreter.base)} is gone; make the venv anew")
    stdlib = interpreter.stdlib
    owner = os.stat(stdlib).st_uid
    instead = f"; pip install blasenv in {name}'s environment covers that one" if interpreter.is_venv else ""
    if owner not in (0, os.geteuid()):
        # Its owner could make us write, and start, whatever he likes.
        try:
            user = pwd.getpwuid(owner).pw_name
        except KeyError:
            user = str(owner)
        raise Failure(f"{printable(stdlib)} belongs to the user {user}; run blasenv install as {user}{instead}")
    if not os.access(stdlib, os.W_OK | os.X_OK):
        raise Failure(f"{printable(stdlib)} is not writable; run this as its owner, on a writable file system{instead}")
    return Target(stdlib, interpreter.base)


def _plan_install(target: Target) -> list[Step]:
    return plan_install(target.stdlib, target.interpreter)


def _plan_uninstall(target: Target) -> list[Step]:
    return plan_uninstall(target.stdlib)


def _install(target: Target) -> None:
    """Do the plan, and take it back when the interpreter then starts with another output, or without blasenv."""
    before = start(target.interpreter, ["-c", "pass"])
    for step in plan_install(target.stdlib, target.interpreter):
        step.do()
    try:
        after = start(target.interpreter, ["-c", CHECK])
    except Failure as failure:
        after = failure.message
    if after != before:
        _uninstall(target)
        raise Failure(f"taken away again, because it then started otherwise: {printable(after.strip()[-300:])}")


def _uninstall(target: Target) -> None:
    for step in plan_uninstall(target.stdlib):
        step.do()


def _work(
    targets: list[Target],
    dry_run: bool,
    plan: Callable[[Target], list[Step]],
    do: Callable[[Target], None],
    idle: str,
) -> int:
    """Print the plan for all targets, then do it; the exit status. One that fails doesn't stop the others."""
    todo = []
    status = 0
    if not targets:
        print("No interpreter to work on.")
    for target in targets:
        try:
            steps = plan(target)
        except (Failure, Refused) as refusal:
            print(f"blasenv: {refusal}", file=sys.stderr)
            status = 1
            continue
        print(f"{printable(target.interpreter)} and every venv made from it" + ("" if steps else f": {idle}"))
        for step in steps:
            print(f"  {printable(step.sentence)}")
        if steps:
            todo.append(target)
    if dry_run:
        return status
    for target in todo:
        sys.stdout.flush()
        try:
            with locked(target.stdlib):
                do(target)
        except (Failure, Refused, OSError, subprocess.SubprocessError) as error:
            print(f"blasenv: {printable(target.stdlib)}: {error}", file=sys.stderr)
            status = 1
        else:
            print(f"done: {printable(target.interpreter)}")
    return status
