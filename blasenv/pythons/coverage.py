"""Whether an interpreter starts blasenv, read from its files."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from blasenv.output.text import printable
from blasenv.pythons.installed import hook_state, sitecustomize_state
from blasenv.pythons.interpreter import Interpreter


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
    ignored: bool = False
    """Whether blasenv is there, intact, and this Python never runs it; then it is not covered."""

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
        ignored = [state.ignored for _, state in states if state.ignored]
        return Coverage((), "", False, (*problems, *ignored), f"blasenv install {path}", ignored=bool(ignored))
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
