"""``blasenv run``: a command with the decided thread count really in its environment.

For programs that are not Python, and for interpreters without the hook. The command takes
the place of this process, so its exit status and all signals are its own.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import blasenv
from blasenv.commands.options import thread_count
from blasenv.errors import Failure
from blasenv.machine.library_threads import COUNT_VARIABLES
from blasenv.machine.observe import observe

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """The command itself comes behind ``--``, untouched."""
    parser.usage = "blasenv run [-h] [--threads N] -- CMD [ARG ...]"
    parser.add_argument(
        "--threads",
        metavar="N",
        type=thread_count,
        help="this count, also in the place of values that are in the environment",
    )


def program(cmd: Sequence[str]) -> str:
    """The name to look up in [programs]: of the command, or of the script or module that a Python runs."""
    name = os.path.basename(cmd[0])
    if not name.startswith("python"):
        return name
    words = iter(cmd[1:])
    for word in words:
        if word in ("-W", "-X"):
            next(words, None)
        elif word == "-m":
            return next(words, "")
        elif not word.startswith("-"):
            return os.path.basename(word)
    return name


def environment(cmd: Sequence[str], threads: int | None) -> dict[str, str]:
    """The environment for ``cmd``: the decision's values with their receipt, or the user's ``threads``."""
    environ = dict(os.environ)
    if threads is None:
        decision = observe(program=program(cmd)).decision
        for name in (*decision.stale, blasenv.RECEIPT, blasenv.MARK):
            environ.pop(name, None)
        environ.update(decision.set)
        if decision.set:
            # With it, a Python with the hook knows the values for ours and may decide again.
            receipt = " ".join(f"{name}={value}" for name, value in decision.set.items())
            environ.update({blasenv.RECEIPT: receipt, blasenv.MARK: receipt})
        return environ
    # A wish of the user: no receipt, so that a Python with the hook leaves it alone. What
    # would beat OMP_NUM_THREADS, where it is there, has to say the same.
    for name in (blasenv.RECEIPT, blasenv.MARK):
        environ.pop(name, None)
    names = {*observe().config.variables, "OMP_NUM_THREADS", *(name for name in COUNT_VARIABLES if name in environ)}
    return {**environ, **dict.fromkeys(names, str(threads))}


def run_command(args: argparse.Namespace) -> int:
    """Become the command. Returns only by a `Failure`: 127 when it is not found, 126 when it cannot run."""
    if not args.cmd:
        raise Failure("say what to run behind --, as in: blasenv run -- ffmpeg -i in.mkv out.mp4", 2)
    environ = environment(args.cmd, args.threads)
    # Python ignores these two, and exec would hand that down: `CMD | head` would never end.
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    try:
        os.execvpe(args.cmd[0], args.cmd, environ)  # noqa: S606 - the user names it
    except FileNotFoundError:
        raise Failure(f"{args.cmd[0]}: not found; is it installed, and on PATH?", 127) from None
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise Failure(f"{args.cmd[0]}: cannot be run: {problem}", 126) from None
