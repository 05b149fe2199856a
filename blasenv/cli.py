"""The command ``blasenv``: its table of subcommands, their dispatch, and the exit status.

0 is fine, 1 is a problem found or a command that could not do its work, 2 is wrong usage.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import os
import shlex
import signal
import sys
from typing import TYPE_CHECKING

from blasenv import __version__
from blasenv.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

# Module MODULE has NAME_arguments(parser) and NAME_command(args) -> exit status. It is imported
# only when its command is the one that runs.
COMMANDS = (
    ("status", "blasenv.commands.status", "what this interpreter got, and from where"),
    ("explain", "blasenv.commands.explain", "every step and file behind the decision"),
    ("doctor", "blasenv.commands.doctor", "check the installation, or a process that runs now"),
    ("scan", "blasenv.commands.scan", "the Python interpreters of this image, covered or not"),
    ("run", "blasenv.commands.run", "run a command with the decided thread count in its environment"),
    ("env", "blasenv.commands.env", "lines to paste into a shell script, a Dockerfile or a pod"),
    ("config", "blasenv.commands.config", "write, check or show the configuration"),
    ("install", "blasenv.commands.install", "put the hook where pip cannot reach"),
    ("upgrade", "blasenv.commands.install", "bring installed hooks to this version"),
    ("uninstall", "blasenv.commands.install", "take installed hooks away"),
    ("inject", "blasenv.commands.inject", "cover containers whose images nobody rebuilds"),
    ("limit", "blasenv.commands.limit", "run a command under a real CPU limit"),
    ("heal", "blasenv.commands.heal", "give a running process the threads that fit it"),
    ("bench", "blasenv.commands.bench", "measure thread counts, and what the hook costs"),
)
TAKE_COMMAND = ("run", "limit", "bench")  # all behind their first "--" is args.cmd, untouched


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="blasenv",
        usage="blasenv [-h] [--version] COMMAND ...",
        description="Thread counts for BLAS and OpenMP that fit the container's CPU limit.",
        epilog="blasenv COMMAND --help says more. Start with: blasenv status",
    )
    parser.add_argument("--version", action="version", version=f"blasenv {__version__}")
    commands = parser.add_subparsers(
        prog="blasenv", dest="command", metavar="COMMAND ...", required=True, title="commands"
    )
    # The first word that is no option is the command; only its module is imported.
    chosen = next((word for word in argv if not word.startswith("-")), None)
    names = [name for name, _, _ in COMMANDS]
    if chosen is not None and chosen not in names and not {"-h", "--help", "--version"} & set(argv):
        near = difflib.get_close_matches(chosen, names, 1)
        parser.error(
            f"there is no command {chosen!r}; " + (f"did you mean {near[0]}?" if near else "see: blasenv --help")
        )
    before, cmd = list(argv), []
    if chosen in TAKE_COMMAND and "--" in argv:
        dashes = argv.index("--")
        before, cmd = list(argv[:dashes]), list(argv[dashes + 1 :])
    for name, module, summary in COMMANDS:
        description = f"{summary[0].upper()}{summary[1:]}."
        subparser = commands.add_parser(name, help=summary, description=description)
        if name == chosen:
            code = importlib.import_module(module)
            getattr(code, f"{name}_arguments")(subparser)
            subparser.set_defaults(function=getattr(code, f"{name}_command"))
    args, unknown = parser.parse_known_args(before)
    if unknown and chosen is not None:
        message = f"unrecognized arguments: {' '.join(unknown)}"
        if chosen in TAKE_COMMAND and "--" not in argv and not unknown[0].startswith("-"):
            # The same word may be an option's value before: as many of them as are unknown are the command's.
            first = [at for at, word in enumerate(before) if word == unknown[0]][-unknown.count(unknown[0])]
            better = shlex.join(["blasenv", *before[:first], "--", *before[first:]])
            message = f"-- is missing before the command; write: {better}"
        commands.choices[chosen].error(message)
    args.cmd = cmd
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. The only place where its errors are caught."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files and cgroups hold what no locale can print
            stream.reconfigure(errors="backslashreplace")
    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        status: int = args.function(args)
        if sys.stdout is not None:
            sys.stdout.flush()
    except Failure as failure:
        print(f"blasenv: {failure.message}", file=sys.stderr)
        return failure.status
    except BrokenPipeError:
        # The reader has seen enough. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if sys.stdout is None or error.filename is not None:
            raise  # not the result's fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"blasenv: stdout cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # Die of the signal, so that a shell script around us stops, too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 130
    return status
