"""Start-up where Python's own count of CPUs is to be the budget: ``cpu_count = true``, or BLASENV_CPU_COUNT=1.

Imported by `blasenv` only then, because it changes what Python code sees: the workers that
multiprocessing, concurrent.futures, celery and pytest-xdist start by default. CPython discusses
the same for itself (https://github.com/python/cpython/issues/149452).
"""

import os
import sys

from . import SHARED, Decision, Limit, fit
from ._host import local_ranks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VARIABLE = "PYTHON_CPU_COUNT"  # read by CPython 3.13 and later as it starts; hyphenated elsewhere: -X cpu_count


def decide_cpu_count(
    decision: Decision, limits: "Sequence[Limit]", affinity: int, environ: "Mapping[str, str]"
) -> None:
    """Put the budget into ``decision``, rounded up: workers are no lock-step threads, and Java, .NET and Go do so.

    Ranks of a job share it. Nothing when Python counts no more by itself, or when the user says
    what it is to count.
    """
    if "cpu_count" in sys._xoptions or (VARIABLE in environ and VARIABLE not in decision.stale):
        return
    quotas = [limit for limit in limits if limit.controller in SHARED]
    count, limit, _ = fit(quotas, affinity, local_ranks(environ)[0], "ceil")
    if limit is not None or count < (os.cpu_count() or 1):
        decision.cpu_count = count
        decision.set = {**decision.set, VARIABLE: str(count)}


class Count:
    """What stands in for `os.cpu_count` and `os.process_cpu_count`.

    An object and no function, because functions of C, such as the ones replaced, do not become
    methods in the body of a class. Pickled, it is the name in ``os``, as before.
    """

    def __init__(self, name: str, most: "int | None") -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__ = "os"
        self.__doc__ = getattr(os, name).__doc__
        self.most = most

    def __call__(self) -> "int | None":
        # What C counts is what was inherited in PYTHON_CPU_COUNT, maybe.
        visible = os.sysconf("SC_NPROCESSORS_ONLN")
        if self.__name__ == "process_cpu_count":
            visible = len(os.sched_getaffinity(0))
        return min(visible, self.most or visible) if visible > 0 else None

    def __repr__(self) -> str:
        return f"<os.{self.__name__}, {f'at most {self.most}' if self.most else 'as counted'}, by blasenv>"

    def __reduce__(self) -> str:
        return self.__name__


def replace(most: "int | None") -> None:
    """Make the two functions of ``os`` say at most ``most``; with None, what the machine has.

    The latter is for a child of a process that had a budget: what it inherited Python has read already.
    """
    for name in ("cpu_count", "process_cpu_count"):  # the second since Python 3.13
        if hasattr(os, name):
            setattr(os, name, Count(name, most))
