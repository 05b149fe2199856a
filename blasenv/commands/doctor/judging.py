"""A process, what is the matter with it, and what it was started with: the one way from a process to its verdict."""

from __future__ import annotations

from typing import NamedTuple

from blasenv.machine.process import Process

from . import started, verdict
from .started import Started
from .verdict import Verdict


class Judged(NamedTuple):
    """What is said of one process."""

    process: Process
    verdict: Verdict
    started: Started


def judge(found: Process) -> Judged:
    """Judge a process that was watched; opens the files of its interpreter."""
    known = started.UNKNOWN if found.gone else started.look(found)
    return Judged(found, verdict.judge(found, known), known)
