"""A machine full of containers: real processes in real cgroups with limits, for `blasenv doctor --node`."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import cgroup


@contextlib.contextmanager
def crowd(processes: int, groups: int, busy: int = 0) -> Iterator[list[cgroup.Cgroup]]:
    """So many processes that sleep, in so many cgroups with a limit of 0.1 CPUs; in ``busy`` of them a loop, too."""
    script = 'echo $$ > "$0"; for number in $(seq "$1"); do sleep 999 & done; [ "$2" = 0 ] || while :; do :; done; wait'
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(cgroup.make_cgroup(0.1)) for _ in range(groups)]
        for number, group in enumerate(made):
            words = [str(group.directory / "cgroup.procs"), str(processes // groups - 1), str(int(number < busy))]
            stack.enter_context(subprocess.Popen(["sh", "-c", script, *words], stdin=subprocess.DEVNULL))
        for group in made:
            stack.callback(group.kill)
        while sum(len(group.pids()) for group in made) < processes // groups * groups:
            pass
        yield made
