"""``blasenv scan``: the Python interpreters of this image, and whether each is covered."""

from __future__ import annotations

import argparse
import os
from collections import Counter

from blasenv.errors import Failure
from blasenv.output.text import paint, paragraph, print_json, printable, table
from blasenv.pythons.coverage import Coverage, coverage
from blasenv.pythons.interpreter import Interpreter
from blasenv.pythons.search import find


def scan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``blasenv scan`` to its parser."""
    parser.add_argument(
        "places", nargs="*", metavar="DIRECTORY", help="look only in these; default: PATH, processes, the file system"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 when an interpreter of this image is not covered"
    )
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
    uncovered = [one for one, cover in rows if not one.owner and not one.unsupported and not cover.fine]
    # Somebody has installed blasenv there, and would not hear otherwise that it never runs.
    ignored = [one for one, cover in rows if not one.owner and cover.ignored]
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
    return 1 if ignored or (args.strict and uncovered) else 0


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
        "owner": interpreter.owner._asdict() if interpreter.owner else None,
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
        if interpreter.unsupported or (interpreter.owner and not cover.by):
            covered = paint("dim", "-")
        code = "" if not cover.by else "compiled" if cover.compiled else "no .pyc"
        path = printable(interpreter.path)
        lines.append([_version(interpreter), interpreter.kind, covered, code, path])
        if not interpreter.owner and (cover.problems or (cover.by and cover.advice)):
            remarks.append(paragraph(f"{path}: {'; '.join([*cover.problems, cover.advice])}"))
    parts = [table(["PYTHON", "KIND", "COVERED BY", "CODE", "INTERPRETER"], lines)] if lines else []
    parts += [paragraph(printable(note)) for note in notes] + remarks
    parts += _of_others([interpreter for interpreter, _ in rows])
    supported = sum(not interpreter.owner and not interpreter.unsupported for interpreter, _ in rows)
    if not rows:
        parts.append("No Python interpreter found.")
    elif uncovered:
        parts.append(f"{uncovered} of {supported} not covered. To cover all: blasenv install --all")
    elif not supported:
        parts.append("None of them is this image's and can be covered.")
    else:
        parts.append(f"All {supported} covered." if supported > 1 else "Covered.")
    return "\n".join(parts)


def _of_others(interpreters: list[Interpreter]) -> list[str]:
    """Whose the interpreters are that are not this image's, and what that means."""
    counts = Counter(one.owner for one in interpreters if one.owner)
    if not counts:
        return []
    lines = [f"  {number} {printable(owner.sentence)}" for owner, number in counts.items()]
    meaning = "Not this image's, so neither counted nor covered by blasenv install --all, only by name:"
    return [paragraph(meaning), *lines]
