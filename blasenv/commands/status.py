"""``blasenv status``: what this interpreter got, from where, and what follows for each library."""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING

import blasenv
from blasenv import _config_file
from blasenv.commands.options import look_arguments
from blasenv.machine.cgroup import cpus_of, tightest_quota
from blasenv.machine.observe import observe
from blasenv.output import report
from blasenv.output.summary import View, assignments
from blasenv.output.text import count, paint, paragraph, print_json, printable, table

if TYPE_CHECKING:
    import argparse

WHY_HIDDEN = (
    "os.environ shows only the receipt, {receipt}. The variable itself is in the process environment, where native "
    "libraries and child processes find it; in os.environ it would stop joblib, Dask, Ray and torchrun from limiting "
    "their own workers. To see it: python3 -c 'import os; os.system(\"printenv {name}\")'"
)
ADD_VARIABLES = (
    "A count above the limit is marked; that library has a variable of its own. To set these as well, write in "
    '/etc/blasenv.toml: variables = "all"'
)


def status_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to look, as which program, and JSON."""
    look_arguments(parser, program=True)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def status_command(args: argparse.Namespace) -> int:
    """Print what this interpreter got. 1 when the configuration is refused or something unforeseen happened."""
    seen = observe(args.root, args.affinity, args.program)
    view = View(seen, pretended=seen.pretended or args.program is not None)
    if args.json:
        print_json({**view.document(), "libraries": [library._asdict() for library in view.libraries()]})
    else:
        print(page(view))
    return view.exit_status()


def page(view: View) -> str:
    """The answer, the facts, the variables, the libraries, and what to know besides."""
    fits = view.seen.fitting
    libraries, too_many = [], False
    for library in view.libraries():
        threads = "-" if library.threads is None else str(library.threads)
        if library.threads is not None and library.threads > fits:
            threads, too_many = paint("yellow", threads + " !"), True
        libraries.append((library.name, threads, library.reason))
    variables = [(row.name, printable(row.value or ""), _source(row)) for row in view.variables()]
    could = view.decision.set and (view.hook or view.pretended)
    missing = set(_config_file.ALL_VARIABLES) - set(view.seen.config.variables)
    notes = [ADD_VARIABLES] if too_many and could and missing else []
    hidden = [name for name in view.decision.set if view.hook and name not in os.environ]
    if hidden:
        receipt = f"{blasenv.RECEIPT}={assignments(view.decision.set)}"
        notes.append(WHY_HIDDEN.format(receipt=receipt, name=hidden[0]))
    return "\n\n".join(
        [
            paint("bold", headline(view)),
            table((), facts(view), indent="  "),
            table(("VARIABLE", "VALUE", "SET BY"), variables, indent="  "),
            table(("LIBRARY", "THREADS", "BECAUSE"), libraries, indent="  "),
            *(paragraph(note) for note in notes + view.remarks()),
        ]
    )


def headline(view: View) -> str:
    """The first line: the answer."""
    values = assignments(view.decision.set)
    if view.pretended:
        return f"A process there would get {values}." if values else "A process there would get nothing from blasenv."
    if view.hook is None:
        return "The hook did not run in this interpreter, so blasenv set nothing."
    return f"This interpreter got {values}." if values else "blasenv set nothing in this interpreter."


def facts(view: View) -> list[tuple[str, str]]:
    """The rule, the hook, the limit, the CPUs and the configuration."""
    seen = view.seen
    why = f"{view.decision.rule}: {view.reason(view.decision)}"
    if view.pretended:
        rows = [("rule", why)]
    elif view.hook:
        rows = [("rule", why), ("hook", f"active, from {printable(view.hook.by)}")]
    else:
        rows = [("hook", view.why_no_hook()), ("with it", f"{assignments(seen.decision.set) or 'nothing set'}; {why}")]
    if not view.pretended:
        rows.append(
            ("interpreter", f"Python {platform.python_version()}, {printable(sys.executable or 'without a name')}")
        )
    limit = tightest_quota(seen.limits)
    cpus = cpus_of(limit) if limit else None
    rows.append(("CPU limit", f"{count(cpus, 'CPU')}, from {printable(limit.path)}" if limit and cpus else "none seen"))
    if view.decision.share > 1:
        rows.append(("shared by", printable(f"{view.decision.share} {view.decision.shared_by}")))
    rows.append(("visible CPUs", str(view.affinity)))
    if seen.cores != view.affinity:
        rows[-1] = ("visible CPUs", f"{view.affinity} on {count(seen.cores, 'core')}")
    if view.decision.cpu_count:
        rows.append(("Python's count", f"os.cpu_count() is at most {view.decision.cpu_count}"))
    rows.append(("configuration", _configuration(view)))
    return rows


def _configuration(view: View) -> str:
    config = view.seen.config
    if config.problems:
        line, problem = config.problems[0]
        return printable(f"{config.path}{f':{line}' if line else ''} is refused: {problem}")
    return "none; the defaults apply" if config.path is None else printable(config.path)


def _source(row: report.Variable) -> str:
    style = {"blasenv": "green", "unset": "dim"}.get(row.source)
    return paint(style, row.source) if style else row.source
