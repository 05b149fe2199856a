"""Options that several commands have."""

from __future__ import annotations

import argparse
import os

import blasenv
from blasenv import _host


def look_arguments(parser: argparse.ArgumentParser, *, affinity: bool = True, program: bool = False) -> None:
    """The options of a command that looks: where, and as what process."""
    parser.add_argument("--root", default="/", metavar="DIR", type=_directory, help="read the files below DIR, not /")
    if affinity:
        parser.add_argument("--affinity", metavar="N", type=thread_count, help="pretend that N CPUs are visible")
    if program:
        parser.add_argument("--program", metavar="NAME", help="pretend to be this script or module, for [programs]")


def thread_count(text: str) -> int:
    """A whole number from 1 to MAX_THREADS, for argparse."""
    count = _host.parse_count(text)
    if count is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {blasenv.MAX_THREADS}")
    return count


def _directory(text: str) -> str:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return text
