"""What the commands look at: the configuration, limits and decision for this process, and its environment.

All of it comes from the functions that run at start-up; nothing is decided a second way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import blasenv

from ._types import Config, Decision, Limit


@dataclass(frozen=True)
class Observation:
    """One look at a machine (or a directory that stands for one), and what blasenv decides there."""

    root: str
    """The directory read in the place of /."""
    cpus: frozenset[int]
    """The CPUs in the affinity mask, or 0 to N-1 for a pretended one."""
    pretended: bool
    """Whether another root or affinity than the real one was asked for."""
    environ: Mapping[str, str]
    """os.environ, which the decision was made with."""
    config: Config
    limits: list[Limit]
    """Each level looked at, leaf first; then SMT, if it was asked."""
    decision: Decision
    """What blasenv decides here, now. Nothing of it was applied."""
    hook: Decision | None
    """What the hook decided and did when this process started, None when it did not run."""


def observe(root: str = "/", affinity: int | None = None, program: str | None = None) -> Observation:
    """Read, find and decide as the hook does, and change nothing.

    ``affinity`` pretends that many visible CPUs; ``program`` is the script or module to look up
    in [programs].
    """
    if affinity is not None:
        cpus = set(range(affinity))
    elif sys.platform == "linux":
        cpus = os.sched_getaffinity(0)
    else:
        cpus = set(range(os.cpu_count() or 1))
    config = blasenv.read_config(root, os.environ, [program] if program else [])
    limits: list[Limit] = []
    if sys.platform == "linux" or root != "/":
        limits = list(blasenv.find_limits(root, cpus))
        decision = blasenv.decide(config, limits, len(cpus), os.environ)
    else:
        decision = blasenv.Decision(
            rule="not-linux", threads=None, set={}, kept={}, stale=[], visible=False, notes=[]
        )
    return Observation(
        root=root,
        cpus=frozenset(cpus),
        pretended=root != "/" or affinity is not None,
        environ=os.environ,
        config=config,
        limits=limits,
        decision=decision,
        hook=vars(sys).get("_blasenv"),
    )
