"""``blasenv inject``: blasenv for containers whose images nobody rebuilds."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from blasenv.errors import Failure
from blasenv.inject.contents import SUPPORTED, collect
from blasenv.inject.export import DEFAULT, check_directory, export, keep
from blasenv.output.text import paragraph, printable

if TYPE_CHECKING:
    from blasenv.inject.contents import Contents


def inject_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of ``blasenv inject`` to its parser."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, function, add, what in (
        ("export", _export, _export_arguments, "write what a container needs into a directory"),
    ):
        action = actions.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        add(action)
        action.set_defaults(act=function)


def inject_command(args: argparse.Namespace) -> int:
    """``blasenv inject``: do one action."""
    act: Callable[[argparse.Namespace], int] = args.act
    return act(args)


def _python_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--python", action="append", default=[], metavar="PYTHON",
        help="one more interpreter to make byte code with (may be repeated); those of this machine are found",
    )  # fmt: skip


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help=f"new, empty, or exported to before, such as {DEFAULT}")
    _python_argument(parser)
    parser.add_argument(
        "--add", action="store_true", help="keep the byte code that is there, when the code is this version's"
    )


def _export(args: argparse.Namespace) -> int:
    directory = os.path.abspath(args.directory)
    try:
        check_directory(directory)  # before the search for interpreters, which takes a while
        contents = collect(args.python)
        if args.add:
            keep(contents, directory)
        export(contents, directory)
    except OSError as error:
        raise Failure(f"{printable(str(error.filename or directory))} cannot be written: {error.strerror}") from None
    _tell(contents)
    print(f"{len(contents.files) + 1} files in {printable(directory)}")
    return 0


def _version(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _tell(contents: Contents) -> None:
    """Say on stderr for which versions of Python there is byte code, and for which none."""
    for note in contents.notes:
        print(paragraph(note), file=sys.stderr)
    have = [_version(version) for version in SUPPORTED if version in contents.compiled.values()]
    print(f"byte code for Python {', '.join(have) or 'none'}", file=sys.stderr)
    if contents.missing:
        names = ", ".join(map(_version, contents.missing))
        text = (
            f"none for {names}: there each start compiles the code anew, about 30 million instructions instead of 2; "
        )
        print(paragraph(text + "--python PYTHON names an interpreter that is not found by itself"), file=sys.stderr)
