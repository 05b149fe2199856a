"""Decide afresh, and give the libraries that are loaded in this process the count that came out."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from blasenv import _host
from blasenv.live import pools
from blasenv.machine.observe import Observation, disabled, observe, observe_process


class Change(NamedTuple):
    """One library, before and after."""

    kind: str
    """OpenBLAS, MKL, BLIS, GNU OpenMP, PyTorch …"""
    path: str
    """Its file, or the name of the Python module."""
    before: int | None
    """Its count of threads before, None when it can't be read."""
    after: int | None
    """The same afterwards, read back from the library."""
    remark: str
    """Why it stayed as it was, or for whom it counts; "" when there is nothing to say."""


class Refreshed(NamedTuple):
    """What `refresh` decided and did."""

    threads: int | None
    """The count that fits, None when nothing limits this process, or the count is the user's."""
    rule: str
    """The rule behind it: quota, no-gap, no-limit, user-env, config, program, disabled …"""
    changes: list[Change]
    """Every library that was found, those that were left alone included."""


def refresh() -> Refreshed:
    """Decide as the hook would now, set what is loaded, and say what was there and what is.

    Lowers what is too high, and raises only what the hook or an earlier call had lowered. With no
    gap between the limit and the CPUs, each library gets back what it had. What the user set stays:
    OMP_NUM_THREADS in the environment means hands off, and so does a library's own variable for that
    library. The environment is never written. OpenMP counts for the thread that calls this.
    Nothing raises; what can't be set says so in its remark.
    """
    return apply(look())


def look() -> Observation:
    """What the hook would decide for this process if it started now: as this program, with its workers."""
    if sys.platform != "linux" or disabled(os.environ):
        return observe()
    # /proc may be that of another PID namespace, where we have another PID.
    pid, parent = os.readlink("/proc/self"), os.getppid()
    # Servers rewrite their command line in /proc, to have a title there.
    words = getattr(sys, "orig_argv", None) or _host.command_line("self")  # Python 3.9 has no orig_argv
    return observe_process(int(pid), parent, frozenset(os.sched_getaffinity(0)), words, os.environ)


def apply(seen: Observation, *, bound: bool = True) -> Refreshed:
    """Set what is loaded as an observation of this process says.

    Without ``bound``, only what counts for all threads.
    """
    decision = seen.decision
    if decision.rule in ("user-env", "disabled", "not-linux", "error"):
        return Refreshed(None, decision.rule, [])
    heed = not seen.config.override
    rows = pools.change(decision.threads, seen.affinity, seen.cores, heed=heed, bound=bound)
    return Refreshed(decision.threads, decision.rule, [Change(**row) for row in rows])
