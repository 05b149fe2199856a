"""``blasenv scan``: the Python interpreters of this image, and whether each is covered."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import dataclass

from .placed import hook_state, sitecustomize_state
from .pythons import Interpreter
from .search import find
from .text import Failure, paint, paragraph, print_json, printable, table


@dataclass(frozen=True)
class Coverage:
    """How one interpreter comes to start blasenv, or why it doesn't."""

    by: tuple[str, ...]
    """"hook", "sitecustomize", "inherited" (from its base); the first one decides. Empty: not covered."""
    version: str
    """Of the first one."""
    compiled: bool
    """Whether the first one has its .pyc files."""
    problems: tuple[str, ...]
    """What is damaged, or in the way."""
    advice: str
    """What to do, "" when there is nothing."""

    @property
    def fine(self) -> bool:
        return bool(self.by) and not self.problems


def coverage(interpreter: Interpreter, root: str = "/") -> Coverage:
    """Read from the files whether ``interpreter`` starts blasenv. Starts nothing."""
    prefix = root.rstrip("/")
    path = shlex.quote(printable(interpreter.path))
    if interpreter.unsupported:
        return Coverage((), "", False, (interpreter.unsupported,), "blasenv does nothing for it")
    if not interpreter.stdlib:
        return Coverage((), "", False, (f"its base {printable(interpreter.base)} is gone",), "make the venv anew")
    lib = os.path.basename(interpreter.stdlib)
    states = [("hook", hook_state(prefix + place, lib)) for place in interpreter.site_packages]
    copy = sitecustomize_state(prefix + interpreter.stdlib)
    states.append(("inherited" if interpreter.is_venv else "sitecustomize", copy))
    working = [(name, state) for name, state in states if state.works]
    problems = [state.damage for _, state in states if state.damage]
    if not working:
        return Coverage((), "", False, tuple(problems), f"blasenv install {path}")
    first = working[0][1]
    advice = ""
    if problems:
        advice = f"blasenv install {path}" if copy.damage else "pip install --force-reinstall blasenv"
    elif first.outdated:
        advice = f"blasenv upgrade {path}" if first is copy else "pip install --upgrade blasenv"
    elif not first.compiled:
        advice = f"blasenv install {path}" if first is copy else "compile it (python -m compileall) for faster starts"
    return Coverage(
        by=tuple(dict.fromkeys(name for name, _ in working)),
        version=first.version,
        compiled=first.compiled,
        problems=tuple(problems),
        advice=advice,
    )


def scan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``blasenv scan`` to its parser."""
    parser.add_argument(
        "places", nargs="*", metavar="DIRECTORY", help="look only in these; default: PATH, processes, the file system"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 when an interpreter is not covered")
    parser.add_argument("--root", default="/", metavar="DIR", help="scan the image unpacked in DIR")
    parser.add_argument("--json", action="store_true", help="print JSON")


def scan_command(args: argparse.Namespace) -> int:
    """``blasenv scan``: print each interpreter and its coverage."""
    if not os.path.isdir(args.root):
        raise Failure(f"--root {args.root}: no such directory", 2)
    root = os.path.realpath(args.root)
    places = [place if root != "/" else os.path.abspath(place) for place in args.places]
    for place in places:
        if not os.path.isdir(root.rstrip("/") + "/" + place):
            raise Failure(f"{place}: no such directory", 2)
    found = find(root, places)
    rows = [(interpreter, coverage(interpreter, root)) for interpreter in found.interpreters]
    uncovered = [interpreter for interpreter, cover in rows if not interpreter.unsupported and not cover.fine]
    if args.json:
        print_json(
            {
                "schema": 1,
                "interpreters": [_as_json(interpreter, cover) for interpreter, cover in rows],
                "uncovered": len(uncovered),
                "directories": found.directories,
                "notes": found.notes,
            }
        )
    else:
        print(_as_text(rows, len(uncovered), found.notes))
    return 1 if args.strict and uncovered else 0


def _as_json(interpreter: Interpreter, cover: Coverage) -> dict[str, object]:
    return {
        "path": interpreter.path,
        "kind": interpreter.kind,
        "version": _version(interpreter) or None,
        "base": interpreter.base,
        "stdlib": interpreter.stdlib or None,
        "covered_by": list(cover.by),
        "blasenv": cover.version or None,
        "compiled": cover.compiled,
        "supported": not interpreter.unsupported,
        "intact": not cover.problems,
        "problems": list(cover.problems),
        "advice": cover.advice or None,
    }


def _version(interpreter: Interpreter) -> str:
    return ".".join(str(part) for part in interpreter.version or ())


def _as_text(rows: list[tuple[Interpreter, Coverage]], uncovered: int, notes: list[str]) -> str:
    lines = []
    remarks = []
    for interpreter, cover in rows:
        covered = paint("green", " + ".join(cover.by)) if cover.by else paint("red", "no")
        if interpreter.unsupported:
            covered = paint("dim", "-")
        code = "" if not cover.by else "compiled" if cover.compiled else "no .pyc"
        path = printable(interpreter.path)
        lines.append([_version(interpreter), interpreter.kind, covered, code, path])
        if cover.problems or (cover.by and cover.advice):
            remarks.append(paragraph(f"{path}: {'; '.join([*cover.problems, cover.advice])}"))
    parts = [table(["PYTHON", "KIND", "COVERED BY", "CODE", "INTERPRETER"], lines)] if lines else []
    parts += [paragraph(printable(note)) for note in notes] + remarks
    supported = sum(not interpreter.unsupported for interpreter, _ in rows)
    if not rows:
        parts.append("No Python interpreter found.")
    elif uncovered:
        parts.append(f"{uncovered} of {supported} not covered. To cover all: blasenv install --all")
    else:
        parts.append(f"All {supported} covered." if supported > 1 else "Covered.")
    return "\n".join(parts)
