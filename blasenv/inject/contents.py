"""The files that a container is given, and nothing that depends on the machine or the hour.

::

    sitecustomize.py                 sitecustomize_template/, with the lines of LEAVE
    _blasenv_startup/__init__.py …   the start-up code, as in the package
    …/__pycache__/NAME.TAG.pyc       their byte code, for each Python that was here to compile it

The directory is read-only where it is used, so that Python could not write byte code itself.
The .pyc files are hash-based and unchecked (PEP 552): whatever happens to the times of the
sources on their way (a ConfigMap has none), the byte code counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field

from blasenv.errors import Failure
from blasenv.output.text import printable
from blasenv.pythons.installed import PACKAGE, SITE, STARTUP, STARTUP_FILES, template
from blasenv.pythons.interpreter import Interpreter, identify
from blasenv.pythons.search import find

PLACE = "/.blasenv"
"""Where the files are in a container. At the top, because a mount of the user's may cover anything below."""
SUPPORTED = tuple((3, minor) for minor in range(9, 16))
TIMEOUT = 60  # seconds, for an interpreter that hangs

FOUND = "_spec = _find_hidden()\n"
LEAVE = """
# Injected: this directory is on PYTHONPATH for this file alone. The program's sys.path is to be what it would be
# without; children find PYTHONPATH in their environment.
_here = __file__.rpartition("/")[0]
sys.path[:] = [place for place in sys.path if place != _here]
if sys.version_info < (3,):
    import imp

    try:
        imp.load_module("sitecustomize", *imp.find_module("sitecustomize", sys.path))
    except ImportError:
        pass
"""
# Of Python before 3.9, too, the start must be what it was: nothing of ours, and the sitecustomize behind.
RUNS = 'if os.getenv("BLASENV_DISABLE", "0") in '
OLD = "sys.version_info >= (3, 9) and "

# Runs in each interpreter, of whatever version: byte code of argv[2:] (relative names) from argv[1] into the
# current directory; names and hash seed are fixed, so that the same comes out each time.
COMPILE = """
import json, os, py_compile, sys
tag = sys.implementation.cache_tag
for name in sys.argv[3:]:
    head, _, last = name.rpartition("/")
    target = os.path.join(head, "__pycache__", last[:-3] + "." + tag + ".pyc")
    py_compile.compile(os.path.join(sys.argv[1], name), cfile=target, dfile=sys.argv[2] + "/" + name, doraise=True,
                       invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
print(json.dumps([tag, list(sys.version_info[:2])]))
"""


def render_site(text: bytes) -> bytes:
    """sitecustomize.py for a container, from the text of the template. Raises Failure when that has changed shape."""
    found, runs = FOUND.encode(), RUNS.encode()
    if text.count(found) != 1 or text.count(runs) != 1:
        raise Failure("the template of sitecustomize.py is not this version's; install blasenv again")
    text = text.replace(runs, runs.replace(b"if ", b"if " + OLD.encode()))
    return text.replace(found, found + LEAVE.lstrip("\n").encode())


def sources() -> dict[str, bytes]:
    """The Python files by their path in the directory, the one that counts last."""
    files = {}
    for name in STARTUP_FILES:
        with open(os.path.join(PACKAGE, name), "rb") as file:
            files[f"{STARTUP}/{name}"] = file.read()
    return {**files, SITE: render_site(template())}


@dataclass
class Contents:
    """What goes into a directory."""

    files: dict[str, bytes] = field(default_factory=dict)
    """By path; the first are byte code, the last is what makes the others count."""
    compiled: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The tag of each kind of byte code, such as cpython-311, and its version of Python."""
    notes: list[str] = field(default_factory=list)
    """Interpreters that gave none, and why."""

    @property
    def missing(self) -> list[tuple[int, int]]:
        """The supported versions without byte code."""
        return [version for version in SUPPORTED if version not in self.compiled.values()]


def collect(pythons: Iterable[str] | None = None) -> Contents:
    """The files, with byte code by the interpreters of this machine and by ``pythons``, paths or names of more.

    Raises Failure when one that was named gives none.
    """
    contents = Contents()
    plain = sources()
    named = [_named(python) for python in pythons or ()]
    found = [one for one in find().interpreters if not (one.is_venv or one.unsupported or one.owner)]
    problems = []
    with tempfile.TemporaryDirectory(prefix="blasenv-") as directory:
        for name, code in plain.items():
            path = f"{directory}/sources/{name}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(code)
        for number, interpreter in enumerate([*named, *found]):
            problem = _compile(interpreter, directory, f"{directory}/{number}", sorted(plain), contents)
            if problem and number < len(named):
                raise Failure(problem)
            if problem:
                problems.append((interpreter.version, problem))
    contents.notes = [problem for version, problem in problems if version in contents.missing]
    contents.files = {**dict(sorted(contents.files.items())), **plain}
    return contents


def _named(python: str) -> Interpreter:
    for place in [python] if "/" in python else [f"{place}/{python}" for place in os.get_exec_path()]:
        found = identify(os.path.abspath(place))
        if found is not None and not found.unsupported:
            return found
    raise Failure(f"{printable(python)} is no Python interpreter that blasenv knows; blasenv scan lists them")


def _compile(interpreter: Interpreter, directory: str, work: str, names: list[str], contents: Contents) -> str:
    """Add what one interpreter makes of the sources in ``directory``, unless its version has been there already.

    Returns why it made nothing, or "".
    """
    name = printable(interpreter.base)
    if interpreter.version in contents.compiled.values() and not interpreter.stdlib.endswith("t"):
        return ""
    owners = {os.stat(path).st_uid for path in (interpreter.base, interpreter.stdlib)}
    if not owners <= {0, os.geteuid()}:
        # Started by root, it would do what its owner likes.
        return f"{name} was not started: it belongs to another user"
    os.mkdir(work)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BLASENV_"))}
    command = [interpreter.base, "-s", "-S", "-B", "-c", COMPILE, f"{directory}/sources", PLACE, *names]
    try:
        done = subprocess.run(
            command, cwd=work, env={**environ, "PYTHONHASHSEED": "0"}, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=TIMEOUT, check=True,
        )  # fmt: skip
        tag, version = json.loads(done.stdout)
        made = {}
        for source in names:
            head, _, last = source.rpartition("/")
            path = os.path.join(head, "__pycache__", f"{last[:-3]}.{tag}.pyc")
            with open(f"{work}/{path}", "rb") as file:
                made[path] = file.read()
    except (OSError, ValueError, TypeError, subprocess.SubprocessError):
        return f"{name} does not compile; start it by hand to see why"
    if tag not in contents.compiled:
        contents.compiled[tag] = (version[0], version[1])
        contents.files.update(made)
    return ""
