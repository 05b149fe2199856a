"""``blasenv config``: write a commented configuration, check one, show what applies and from where."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import sys
import tempfile
from typing import TYPE_CHECKING, NamedTuple

import blasenv
from blasenv import _config_file, _host
from blasenv.commands.options import look_arguments
from blasenv.errors import Failure
from blasenv.machine.observe import observe, settings
from blasenv.output.report import SCHEMA
from blasenv.output.text import count, paint, paragraph, print_json, printable, table, toml

if TYPE_CHECKING:
    import argparse

SWITCHES = ("visible", "override", "cpu_count")
WORDS = {"mode": ("auto", "single", "off"), "rounding": ("floor", "ceil")}

TEMPLATE = """\
# What blasenv does when a Python process of this machine or image starts.
# Everything is optional; the values shown are the defaults. Check: blasenv config check

# "auto":   where the CPU limit is below the visible CPUs, as many threads as it allows.
# "single": one thread everywhere, for an image whose programs are parallel already.
# "off":    nothing at all.
# For one run: BLASENV_MODE=single
mode = "auto"

# A fixed count, in the place of the limit's. For one run: BLASENV_THREADS=4
#threads = 4

# Never more threads than this, whatever the limit says: for pods that start boosted and shrink.
#max_threads = 8

# A limit that cannot be seen from inside (a sandbox, a parent of the container), in CPUs; the
# tightest one applies. For one run: BLASENV_CPUS=1.5, or 1500m
#cpus = 1.5

# What becomes of a limit of 1.5 CPUs: "floor" is 1 thread, "ceil" is 2, which may do more
# in all, with pauses in between.
#rounding = "floor"

# The variables to set, by names that end in _THREADS. Some libraries read none but their own
# (NumExpr, Numba, TensorFlow, ONNX Runtime ...): variables = "all" sets these as well.
#variables = ["OMP_NUM_THREADS"]

# Whether os.environ shows the variables, too. Frameworks that find them there (joblib,
# Dask, Ray, torchrun) stop limiting their own workers.
#visible = false

# Whether to win over values that the user's environment has.
#override = false

# Whether os.cpu_count() and what stands on it (the size of a Pool, pytest -n auto) give the
# limit, rounded up. Pools that wait for files and networks shrink, too.
#cpu_count = false

# Settings for single programs, by the name of the script or of the module behind -m:
# "auto", "single", "off", a count, or "share:N" for N processes that share the limit.
# In this table, keys with a dot go in quotes. Uncomment the first line, too.
#[programs]
#gunicorn = "single"
#uvicorn = "single"
#celery = "single"
#airflow = "off"
#"train.py" = 8
"""


class Problem(NamedTuple):
    """Something wrong with a configuration file."""

    line: int | None
    """None for the file as a whole."""
    problem: str
    text: str
    """The line itself."""
    hint: str
    """What was probably meant, or what to do; may be empty."""


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """init, check and show."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    default = f"{blasenv.CONFIG_PATH}, or what BLASENV_CONFIG names"
    init = actions.add_parser("init", help="write a configuration that explains itself")
    init.add_argument("path", nargs="?", metavar="PATH", help=f"where to ({default}; - is stdout)")
    check = actions.add_parser("check", help="say all that is wrong with a configuration")
    check.add_argument("path", nargs="?", metavar="PATH", help=f"the file to check ({default})")
    check.add_argument("--root", default="", metavar="DIR", help="the file below DIR, not below /")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    show = actions.add_parser("show", help="each key, its value, and where that comes from")
    look_arguments(show, program=True, affinity=False)
    show.add_argument("--json", action="store_true", help="print one JSON object")


def config_command(args: argparse.Namespace) -> int:
    """Run the action."""
    if args.action == "init":
        return init_config(args.path or os.environ.get("BLASENV_CONFIG") or blasenv.CONFIG_PATH)
    if args.action == "check":
        return check_config(args)
    return show_config(args)


def init_config(path: str) -> int:
    """Write the template to ``path``: all of it or nothing, and never over another file."""
    if path == "-":
        print(TEMPLATE, end="")
        return 0
    named = path == os.environ.get("BLASENV_CONFIG") and not os.path.exists(path)
    early = named and "_blasenv" in vars(sys)
    try:
        _write_new(path, TEMPLATE.encode())
    except FileExistsError:
        raise Failure(f"{path} exists and is left as it is; see it with: blasenv config show") from None
    except OSError as error:
        raise Failure(
            f"{path} cannot be written: {error.strerror}; to write it elsewhere: blasenv config init PATH"
        ) from None
    if early:  # the hook of this very process has complained by now
        print("blasenv: what was said above about that file was true before it was written", file=sys.stderr)
    print(f"Wrote {printable(path)}. After a change: blasenv config check {printable(path)}")
    return 0


def _write_new(path: str, contents: bytes) -> None:
    """Make a file that nobody sees half-written. Raises FileExistsError if there is anything at ``path``."""
    if os.path.lexists(path):
        raise FileExistsError(path)
    fd, scratch = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".blasenv.")
    try:
        with open(fd, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(fd)
            os.fchmod(fd, 0o644)  # every user of the image reads it at each start
        try:
            os.link(scratch, path)  # unlike rename, fails if somebody else was faster
        except PermissionError:  # a file system without hard links
            os.rename(scratch, path)
            return
        os.unlink(scratch)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch)
        raise


def check_config(args: argparse.Namespace) -> int:
    """Print every problem, with file, line and what to do; 1 if there is one."""
    named = args.path or (os.environ.get("BLASENV_CONFIG") if not args.root else None)
    path = named if named is not None else args.root.rstrip("/") + blasenv.CONFIG_PATH
    contents, unread = blasenv.read_file(path, blasenv.MAX_FILE)
    problems = [Problem(None, unread, "", _reading_hint(unread))] if unread else find_problems(contents)
    notes = []
    if not args.path and (path in ("", "/dev/null") or (unread == blasenv.ABSENT and named is None)):
        problems, notes = [], [f"{path or 'BLASENV_CONFIG is empty'}: no file is read, so the defaults apply"]
    elif not unread and not os.stat(path).st_mode & 0o004:
        notes = [f"{path}: not every user can read it, and each one's Python will say so; chmod a+r {path}"]
    if args.json:
        found = [{**problem._asdict()} for problem in problems]
        print_json({"schema": SCHEMA, "config": path, "problems": found, "notes": notes})
        return 1 if problems else 0
    for problem in problems:
        print(_describe(path, problem))
    for note in notes:
        print(printable(note))
    if problems:
        mode_off = not unread and _config_file.parse_config(contents)[0].get("mode") == "off"
        rest = 'only its mode = "off" counts' if mode_off else "the defaults apply"
        print(f"\n{count(len(problems), 'problem')}. Python refuses this file when it starts; {rest}.")
    elif not notes:
        print(f"{printable(path)}: fine")
    return 1 if problems else 0


def _reading_hint(problem: str) -> str:
    if problem == blasenv.ABSENT:
        return "to write one: blasenv config init PATH"
    return "a configuration is a small text file that every user can read"


def _describe(path: str, problem: Problem) -> str:
    where = printable(path) + (f":{problem.line}" if problem.line else "")
    lines = [f"{paint('bold', where)}: {printable(problem.problem)}"]
    if problem.text.strip():
        lines.append(f"    {paint('dim', printable(problem.text.strip()))}")
    if problem.hint:
        lines.append(paragraph(printable(problem.hint), indent="    "))
    return "\n".join(lines)


def find_problems(contents: bytes) -> list[Problem]:
    """All that is wrong, by line: what start-up refuses, and what is no TOML to begin with."""
    lines = contents.decode("utf-8", "replace").split("\n")
    found = []
    for number, sentence in _config_file.parse_config(contents)[1]:
        text = lines[number - 1] if 0 < number <= len(lines) else ""
        found.append(Problem(number or None, sentence, text, hint(text, sentence)))
    known = {problem.line for problem in found}
    for line, sentence in toml_problems(contents):
        if line not in known:
            text = lines[line - 1] if line and line <= len(lines) else ""
            found.append(Problem(line, sentence, text, ""))
    return sorted(found, key=lambda problem: problem.line or 0)


def toml_problems(contents: bytes) -> list[tuple[int | None, str]]:
    """What tomllib, the whole language's reader, refuses; nothing before Python 3.11, which lacks it."""
    if sys.version_info < (3, 11):
        return []
    import tomllib

    try:
        tomllib.loads(contents.decode())
    except UnicodeDecodeError as error:
        return [(contents.count(b"\n", 0, error.start) + 1, "not UTF-8")]
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = re.search(r" \(at line (\d+), column \d+\)$", message)
        if place:
            return [(int(place.group(1)), f"not TOML: {message[: place.start()]}")]
        return [(None, f"not TOML: {message}")]
    return []


def hint(text: str, sentence: str) -> str:
    """What a line with this problem was probably meant to be, "" without an idea."""
    found = _hint(text, sentence)
    return (
        "" if found == f"Did you mean {text.partition('#')[0].strip()}?" else found
    )  # as in a line that is there twice


def _hint(text: str, sentence: str) -> str:
    key, equals, value = text.partition("=")
    key, value = key.strip().strip("\"'"), value.partition("#")[0].strip()
    if sentence.startswith("unknown key"):
        close = difflib.get_close_matches(key.lower().replace("-", "_"), _config_file.KEYS, 1)
        if close:
            return f"Did you mean {close[0]}?"
        if re.search(r"\.py$", key) or key in ("gunicorn", "uvicorn", "celery", "airflow"):
            return "A program's line belongs below [programs]."
    elif key in WORDS and equals:
        bare = value.strip("\"'").lower()
        close = difflib.get_close_matches(bare, WORDS[key], 1)
        if close:
            return f'Did you mean {key} = "{close[0]}"?'
    elif text.lstrip().startswith("["):
        if difflib.get_close_matches(text.strip().strip("[]").strip().lower(), ["programs"], 1):
            return "Did you mean [programs]?"
    elif value.lower() in ("true", "false", "yes", "no", "on", "off", "1", "0") and key in SWITCHES:
        return f"Did you mean {key} = {'true' if value.lower() in ('true', 'yes', 'on', '1') else 'false'}?"
    elif key in ("threads", "max_threads") and (meant := _host.parse_count(value.strip("\"'"))):
        return f"Did you mean {key} = {meant}?"
    elif key == "variables" and value.strip("\"'").lower() == "all":
        return 'Did you mean variables = "all"?'
    elif key == "variables" and value.startswith(("'", '"')):
        return f"Did you mean variables = [{value}]?"
    return ""


def show_config(args: argparse.Namespace) -> int:
    """Print each key with its value and source; 1 when the file is refused."""
    seen = observe(args.root, program=args.program)
    config = seen.config
    rows = settings(config, seen.environ)
    if args.json:
        problems = [{"line": line or None, "problem": problem} for line, problem in config.problems]
        listed = [row._asdict() for row in rows]
        notes = list(config.notes)
        print_json({"schema": SCHEMA, "config": config.path, "settings": listed, "problems": problems, "notes": notes})
    else:
        print(
            table(
                ("KEY", "VALUE", "FROM"), [(printable(row.key), toml(row.value), printable(row.source)) for row in rows]
            )
        )
    for line, problem in config.problems:
        print(f"blasenv: {config.path}{f':{line}' if line else ''}: {problem}", file=sys.stderr)
    for note in config.notes:
        print(f"blasenv: {note}", file=sys.stderr)
    if config.problems:
        print("blasenv: the file is refused; to see what to do: blasenv config check", file=sys.stderr)
    return 1 if config.problems else 0
