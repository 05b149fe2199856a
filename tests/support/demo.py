"""What tests/demo shows: numpy in a control group with a CPU limit, without and with blasenv."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cgroup import Cgroup, NoCgroupError, cpu_mount, make_cgroup

SECONDS = 3
PROGRAM = f"""
import os, time
import numpy
a = numpy.ones((512, 512))
a @ a
products, end = 0, time.monotonic() + {SECONDS}
while time.monotonic() < end:
    a @ a
    products += 1
print(len(os.listdir("/proc/self/task")), products / {SECONDS})
"""


def environ(**changes: str) -> dict[str, str]:
    """This environment without thread counts, which would hide what blasenv does."""
    rest = {name: value for name, value in os.environ.items() if not name.endswith("_THREADS")}
    return {**{name: value for name, value in rest.items() if not name.startswith("BLASENV_")}, **changes}


def measure(cpus: float, **changes: str) -> str:
    """A row of the table, from a group of its own."""
    with make_cgroup(cpus) as group:
        command = group.enter([sys.executable, "-c", PROGRAM])
        result = subprocess.run(command, env=environ(**changes), stdout=subprocess.PIPE, text=True, check=True)
        threads, products = result.stdout.split()
        throttled, periods = group.throttled()
    return f"{threads:>9}{float(products):>13.0f}{throttled:>13} of {periods}"


def show(group: Cgroup, *words: str) -> None:
    """A command and its output, from inside the group."""
    print(f"$ {' '.join(words)}\n", flush=True)
    program = Path(sys.executable).parent / words[0]
    subprocess.run(group.enter([program, *words[1:]]), env=environ(), check=True)
    print(flush=True)


def main() -> int:
    visible = len(os.sched_getaffinity(0))
    cpus = max(1, visible // 4)
    try:
        version, mount = cpu_mount()
        print(f"{visible} CPUs to see, cgroup v{version} at {mount}. The limit is {cpus} CPU{'s' * (cpus > 1)}.\n")
        if visible == 1:
            print("With one CPU there is nothing to gain: libraries start one thread by themselves.\n")
        print(f"numpy, products of two 512 x 512 matrices, for {SECONDS} seconds under this limit:\n")
        print("                   threads   products/s   throttled periods")
        print("without blasenv", measure(cpus, BLASENV_DISABLE="1"), flush=True)
        print("with blasenv   ", measure(cpus), flush=True)
        print()
        with make_cgroup(cpus) as group:
            show(group, "blasenv", "status")
            show(group, "blasenv", "explain")
    except NoCgroupError as error:
        print(f"tests/demo: {error}. It needs root and a writable cgroup file system.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
