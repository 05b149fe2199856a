"""Checks of what comes of it: do children and libraries obey, and what else starts threads?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from blasenv.machine.cgroup import directory_of, read_throttling, tightest_quota
from blasenv.machine.libraries import OPENMP
from blasenv.machine.pids import find_pids, find_user_threads, nearest
from blasenv.output.text import count, printable

from .checks import Context, Result, check

PATIENCE = 120  # seconds for a child that imports a library; torch on a throttled machine takes a while
THROTTLED = 0.1  # share of periods
NEARLY = 0.9  # share of the threads that may be
FEW = 20  # periods: below, a share says little

# Run in a child: what makes the library start its threads.
_WORK = {
    "numpy": "import numpy as m; a = m.ones((400, 400)); a @ a",
    "scipy": "import scipy.linalg as m; m.lu_factor([[float(i == j) for i in range(200)] for j in range(200)])",
    "torch": "import torch as m; a = m.ones((400, 400)); a @ a; (a + a).sum()",
}
# scipy and torch bring numpy along, which has a pool of its own; it is there before they are counted.
_COUNT = """
import os
def count(): return len(os.listdir("/proc/self/task"))
{before}
before = count()
{work}
print(count() - before + 1)
"""

# Python code that reads variables of its own at import; by default blasenv leaves them alone.
_OWN_VARIABLES = {"numexpr": "NUMEXPR_NUM_THREADS", "numba": "NUMBA_NUM_THREADS"}


def _child(code: str) -> subprocess.CompletedProcess[str]:
    """A new process of this interpreter, with this environment as native code sees it."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
    )


@check
def children(context: Context) -> Result:
    """Does a program that a Python process starts get the value?"""
    skipped = context.not_here("it takes a new process")
    if skipped:
        return skipped
    if context.hook_decision is None:
        return Result("skipped", "the hook did not run")
    wanted = context.observation.decision.set
    if not wanted:
        return Result("skipped", "blasenv sets nothing here")
    # A program that is not Python, started by a new Python: what it sees was inherited.
    names = list(wanted)
    code = f"import subprocess; subprocess.run(['sh', '-c', {_shell(names)!r}])"
    result = _child(code)
    values = dict(zip(names, result.stdout.split("\n")))
    if values == dict(wanted):
        return Result("ok", "yes: " + ", ".join(f"{name}={value}" for name, value in values.items()))
    got = ", ".join(f"{name}={printable(value) or 'nothing'}" for name, value in values.items())
    return Result(
        "problem", f"a child of a new Python process got {got}", "See what the new process does: BLASENV_DEBUG=1"
    )


def _shell(names: Sequence[str]) -> str:
    return "; ".join(f'echo "${name}"' for name in names)


@check
def blas(context: Context) -> Result:
    """Do numpy, scipy and torch start no more threads than the CPUs allow?"""
    skipped = context.not_here("it takes new processes that import them")
    if skipped:
        return skipped
    present = [name for name in _WORK if context.has(name)]
    if not present:
        return Result("skipped", "none of numpy, scipy, torch is installed")
    fits = context.observation.fitting
    counts, failed = {}, []
    for name in present:
        before = _WORK["numpy"] if name != "numpy" and "numpy" in present else ""
        result = _child(_COUNT.format(before=before, work=_WORK[name]))
        if result.returncode == 0 and result.stdout.strip().isdigit():
            counts[name] = int(result.stdout)
        else:
            failed.append(f"{name} can't be imported ({printable(result.stderr.strip().rpartition(chr(10))[2][:100])})")
    value = ", ".join([f"{name}: {count(threads, 'thread')}" for name, threads in counts.items()] + failed)
    value += f"; {count(context.cpus, 'CPU')} allowed"
    if any(threads > fits for threads in counts.values()):
        if fits >= context.observation.affinity:  # as many CPUs as it sees: nothing is throttled
            return Result("ok", value)
        many = max(counts, key=lambda name: counts[name])
        advice = f"Start with OMP_NUM_THREADS={fits}, or see why blasenv did not set it: blasenv explain ({many})"
        return Result("problem", value, advice)
    if failed:
        return Result("warning", value, "Nothing of blasenv's; see the import's own error.")
    return Result("ok", value)


@check
def libraries(context: Context) -> Result:
    """Which BLAS and OpenMP libraries do the installed packages bring?"""
    found = context.libraries
    if not found:
        return Result("skipped", "none is installed (a distribution's own, such as /usr/lib's, is not looked for)")
    return Result("ok", "\n".join(f"{library} in {context.package(library)}" for library in found))


@check
def openmp(context: Context) -> Result:
    """Could two different OpenMP runtimes meet in one process?"""
    found = [library for library in context.libraries if library.kind in OPENMP]
    kinds = sorted({library.kind for library in found})
    if not found:
        return Result("skipped", "no package brings an OpenMP runtime")
    brought = ", ".join(f"{library.kind} by {context.package(library)}" for library in found)
    if len(kinds) == 1:
        return Result("ok", brought)
    advice = (
        "In one process each has a pool of threads of its own, so there may be twice as many. "
        "Take these packages from one source (all from conda-forge, or all wheels of one vendor)."
    )
    return Result("warning", brought, advice)


@check
def blis(context: Context) -> Result:
    """Does the value add threads to BLIS, which has one by default?"""
    if not any(library.kind == "BLIS" for library in context.libraries):
        return Result("skipped", "no package brings BLIS")
    threads = context.observation.decision.set.get("OMP_NUM_THREADS")
    if threads in (None, "1") or context.observation.environ.get("BLIS_NUM_THREADS"):
        return Result("ok", "its thread count is not changed")
    value = f"BLIS has 1 thread by itself, and {threads} with OMP_NUM_THREADS={threads}; that is within the limit"
    return Result("warning", value, "To keep it at 1: ENV BLIS_NUM_THREADS=1")


@check
def uncovered(context: Context) -> Result:
    """Are NumExpr or Numba installed, which listen to their own variables only?"""
    seen = context.observation
    present = [name for name in _OWN_VARIABLES if context.has(name)]
    if not present:
        return Result("skipped", "neither NumExpr nor Numba is installed")
    if seen.decision.rule != "quota":
        return Result("ok", f"{', '.join(present)}: no limit below the visible CPUs")
    covered = {*seen.config.variables, *seen.environ}
    missing = [_OWN_VARIABLES[name] for name in present if _OWN_VARIABLES[name] not in covered]
    if not missing:
        return Result("ok", f"{', '.join(present)}: covered")
    value = f"{', '.join(present)} start{'s' if len(present) == 1 else ''} threads by the visible CPUs"
    advice = f"In /etc/blasenv.toml: variables = {json.dumps([*seen.config.variables, *missing])}"
    return Result("warning", value, advice)


@check
def variables(context: Context) -> Result:
    """Does the environment ask for more threads than the CPUs allow?"""
    skipped = context.not_here("an image's ENV is not among its files")
    if skipped:
        return skipped
    allowed = context.cpus
    seen = context.observation.decision
    asked = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.endswith("_NUM_THREADS") and name not in seen.stale and name not in seen.set
    }
    high = [f"{name}={value}" for name, value in asked.items() if value.isdigit() and int(value) > max(1.0, allowed)]
    if high:
        advice = "Remove them from the image or the pod (blasenv keeps what it finds), or say override = true."
        return Result("problem", f"{', '.join(high)}, with {count(allowed, 'CPU')}", advice)
    return Result("ok", ", ".join(f"{name}={printable(value)}" for name, value in asked.items()) or "none set")


@check
def throttling(context: Context) -> Result:
    """How often has the kernel stopped this container since it started?"""
    level = tightest_quota(context.observation.limits)
    if level is None:
        return Result("skipped", "no CPU limit")
    counters = read_throttling(level, context.observation.root)
    if counters is None:
        return Result("skipped", f"{directory_of(level)}/cpu.stat has no counters")
    value = (
        f"in {counters.throttled} of {counters.periods} periods ({100 * counters.share:.0f} %), {directory_of(level)}"
    )
    if counters.periods < FEW or counters.share < THROTTLED:
        return Result("ok", value)
    return Result("warning", value, "See which process it is: blasenv doctor --all")


@check
def pids(context: Context) -> Result:
    """Has the kernel refused threads, because there are as many as may be?"""
    limits = find_pids(root=context.observation.root)
    refusing = [one for one in limits if one.refused]
    found = refusing[0] if refusing else nearest(limits)
    user = find_user_threads(os.getpid(), os.getuid()) if context.here else None
    said, scarce = [], False
    if found is not None:
        said.append(f"{found.current} of {count(found.most, 'thread')} and processes, {printable(found.directory)}")
        if found.refused:
            said[0] += f"; the kernel has refused more {'once' if found.refused == 1 else f'{found.refused} times'}"
        scarce = bool(found.refused) or found.current > NEARLY * found.most
    if user is not None:
        said.append(f"{user.current} of {count(user.most, 'thread')} of this user (ulimit -u)")
        scarce = scarce or user.current > NEARLY * user.most
    if not said:
        return Result("skipped", "their number has no limit (pids.max, ulimit -u)")
    if not scarce:
        return Result("ok", "\n".join(said))
    advice = (
        "Start fewer threads, or raise the limit: docker run --pids-limit, --ulimit nproc; the kubelet's podPidsLimit."
    )
    return Result("warning", "\n".join(said), advice)
