"""What a process that runs was started with: is it Python, did blasenv act on it, and so what do its libraries read?

/proc/PID/environ is what the process was handed when it was started. What blasenv sets after that
natively (putenv) does not show there, so it is worked out: from the files of the interpreter, when
these came, and what blasenv decides for that process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from blasenv.machine import library_threads
from blasenv.machine.cgroup import quota_cpus
from blasenv.machine.libraries import Library
from blasenv.machine.observe import disabled
from blasenv.machine.process import Process
from blasenv.pythons import installed
from blasenv.pythons.coverage import Coverage, coverage
from blasenv.pythons.interpreter import Interpreter, identify

_PYTHON = re.compile(r"(?:python|pypy)[0-9.]*t?")
_NO_SITE = re.compile(r"-[bBdEhiIOPqsuvVx]*S")  # python(1): short options that share a word with -S


@dataclass(frozen=True)
class Started:
    """What is known about how a process was started."""

    python: bool | None = None
    """Whether it is Python, None when that can't be seen."""
    interpreter: Interpreter | None = None
    cover: Coverage | None = None
    """Whether that interpreter starts blasenv."""
    why: str = "unknown"
    """acted; not-python, not-covered, disabled, off (by its configuration), no-site (python -S), later
    (blasenv came after it had started); unknown."""
    values: Mapping[str, str] = field(default_factory=dict)
    """The thread variables that native code reads in it, as far as blasenv and its start tell."""
    set: Mapping[str, str] = field(default_factory=dict)
    """Those of them that blasenv set in it."""

    @property
    def acted(self) -> bool | None:
        """Whether blasenv decided in it as it started, None when nobody can tell."""
        return None if self.why == "unknown" else self.why == "acted"


UNKNOWN = Started()


def look(process: Process) -> Started:
    """Find out what ``process`` was started with; opens the files of its interpreter."""
    environment = process.environment or {}
    if not process.executable:
        return Started(values=environment)
    if not _PYTHON.fullmatch(os.path.basename(process.executable)):
        # An interpreter within another program (uWSGI, mod_wsgi) has its own idea of where its files are.
        if process.has_python:
            return Started(None, values=environment)
        return Started(False, why="not-python", values=environment)
    interpreter = _interpreter(process)
    cover = coverage(interpreter, process.root) if interpreter is not None else None
    why = _why(process, interpreter, cover)
    decided: Mapping[str, str] = {}
    values = dict(environment)
    if why == "acted" and process.observation is not None:
        decision = process.observation.decision
        decided = decision.set
        values = {name: value for name, value in values.items() if name not in decision.stale}
        values.update(decided)
    return Started(True, interpreter, cover, why, values, decided)


def _interpreter(process: Process) -> Interpreter | None:
    """The interpreter as it was called: a venv's python is a link, and /proc/PID/exe is where that leads."""
    for path in _called(process):
        try:
            same = os.path.samefile(f"{process.root}{path}", f"{process.root}{process.executable}")
        except (OSError, ValueError):
            continue
        found = identify(path, process.root) if same else None
        if found is not None:
            return found
    return identify(process.executable, process.root)


def _called(process: Process) -> Iterator[str]:
    word = process.command[0] if process.command else ""
    if word.startswith("/"):
        yield word
    elif "/" in word:
        try:
            yield os.path.normpath(os.path.join(os.readlink(os.path.join(os.path.dirname(process.root), "cwd")), word))
        except OSError:
            return
    elif word:
        for directory in process.search_path.split(":"):
            if directory.startswith("/"):
                yield f"{directory.rstrip('/')}/{word}"


def _why(process: Process, interpreter: Interpreter | None, cover: Coverage | None) -> str:
    environment = process.environment
    if environment is not None and disabled(environment):
        return "disabled"
    if interpreter is None or cover is None or environment is None or process.observation is None:
        return "unknown"
    if not cover.by:
        return "not-covered"
    if any(_NO_SITE.fullmatch(word) for word in _options(process.command)):
        return "no-site"
    came = _came(interpreter, process.root)
    # btime is in whole seconds. A container's files came before its first process, if only just.
    if came is not None and process.since is not None and came > process.since + 2:
        return "later"
    return "off" if process.observation.decision.rule == "disabled" else "acted"


def _options(command: list[str]) -> Iterator[str]:
    """The options in front of a script, of -c and of -m, which end them."""
    for word in command[1:]:
        if not word.startswith("-") or word in ("-", "--") or re.fullmatch(r"-\w*[cm].*", word):
            return
        yield word


def _came(interpreter: Interpreter, root: str) -> float | None:
    """When blasenv was put there, in seconds since 1970: the earliest change time of a hook or a copy."""
    files = [f"{place}/{installed.HOOK}" for place in interpreter.site_packages]
    files.append(f"{interpreter.stdlib}/{installed.STARTUP}/__init__.py")
    return min((os.stat(root + file).st_ctime for file in files if os.path.exists(root + file)), default=None)


# Which line of library_threads tells what the pool of a library in a process starts.
_LINES = {
    ("OpenBLAS", "pthreads"): "OpenBLAS (pthreads",
    ("MKL", "Intel OpenMP"): "MKL",
    ("MKL", "GNU OpenMP"): "MKL",
    ("MKL", "TBB"): "MKL",
    ("BLIS", "pthreads"): "BLIS",
    ("GNU OpenMP", "OpenMP"): "libgomp",
    ("Intel OpenMP", "OpenMP"): "libiomp5",
    ("LLVM OpenMP", "OpenMP"): "libiomp5",
}


def pool(library: Library, process: Process, values: Mapping[str, str]) -> int:
    """The threads that a library's pool has in ``process`` with these variables, the calling one included."""
    cpus = len(process.cpus | process.around) or 1
    seen = process.observation
    rows = library_threads.libraries(
        values,
        values,
        affinity=cpus,
        cores=seen.cores if seen else cpus,
        online=os.cpu_count() or 1,
        quota=quota_cpus(seen.limits) if seen else None,
    )
    line = _LINES.get((library.kind, library.threading), "nothing")
    counts = [row.threads for row in rows if row.name.startswith(line) and row.threads]
    return counts[0] if counts else cpus


def pools(process: Process, values: Mapping[str, str]) -> int:
    """The threads that all its libraries can have started beside the one that calls them, with these variables."""
    return sum(pool(library, process, values) - 1 for library in process.libraries if library.makes_threads)
