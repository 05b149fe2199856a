#!/usr/bin/env python3
"""What the hook adds to a start, in instructions: exact, whatever else the machine is doing. docs/cost.json.

    benchmarks/instructions.py PYTHON...

For each CPython, in fresh venvs, callgrind counts the instructions of a start in each of `SITUATIONS`, and of the
same start without blasenv; the figures go into docs/cost.json and docs/cost.md. Needs root (it makes the limits),
valgrind and a C compiler. Each cgroup file system that is mounted a second time is more to read, so such mounts
are hidden from it, in a mount namespace of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import cost_page  # noqa: E402
from cgroup import make_cgroup  # noqa: E402

CALLGRIND = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
CONFIG = 'mode = "auto"\nrounding = "floor"\n[programs]\ngunicorn = "single"\n'
LINE = "import os\n"  # a .pth line that does nothing
# The machine that measures may have too few CPUs for a limit to be above half of them and below all.
FOUR_CPUS = """
#define _GNU_SOURCE
#include <sched.h>
int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) {
    CPU_ZERO_S(size, set);
    for (int cpu = 0; cpu < 4; cpu++) CPU_SET_S(cpu, size, set);
    return 0;
}
"""


@dataclass(frozen=True)
class Situation:
    """A start, and what it is compared with."""

    label: str
    cpus: float | None = 1.0
    """The limit of its cgroup."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Beside PATH; {DIR} stands for the directory with the files that `Bench` writes."""
    program: tuple[str, ...] = ("-c", "pass")
    pretend: bool = False
    """Whether it sees four CPUs."""
    venv: str = "hook"
    """hook, site (with a sitecustomize) or bare (with neither)."""
    over: str = "line"
    """Where the same start is counted without blasenv and what it has in its environment: line or bare."""
    compiled: bool = True
    most: float = 0.0
    """The gate: how much more it may be, in parts of a bare start on 3.13; 0 without one."""


CHILD = {"OMP_NUM_THREADS": "1", "BLASENV_SET": "OMP_NUM_THREADS=1", "BLASENV_MARK": "OMP_NUM_THREADS=1"}
SITUATIONS = {
    "none": Situation("no limit", cpus=None, most=0.041),
    "half": Situation("limit of 1 CPU of 2", most=0.042),
    "above": Situation("limit of 1.5 CPUs of 2", cpus=1.5, most=0.042),
    "cores": Situation("limit of 3 CPUs of 4, where cores are asked for", cpus=3, pretend=True, most=0.061),
    "server": Situation("a server, `gunicorn -w 4`", program=("{DIR}/gunicorn", "-w", "4"), most=0.088),
    "child": Situation("receipts in the environment: a child of one", environ=CHILD, most=0.044),
    "config": Situation("with a configuration file", environ={"BLASENV_CONFIG": "{DIR}/blasenv.toml"}, most=0.083),
    "user": Situation("when you set `OMP_NUM_THREADS`", environ={"OMP_NUM_THREADS": "1"}, most=0.036),
    "disabled": Situation("`BLASENV_DISABLE=1`", environ={"BLASENV_DISABLE": "1"}, most=0.008),
    "site": Situation("as `sitecustomize`, over a bare start", venv="site", over="bare", most=0.052),
    "injected": Situation(
        "injected ([fleet.md](fleet.md)), over a bare start",
        environ={"PYTHONPATH": "{DIR}/exported"},
        venv="bare",
        over="bare",
        most=0.054,
    ),
    "source": Situation("without byte code", compiled=False),
}
BARE = Situation("bare start", venv="bare", over="bare")
EMPTY_LINE = Situation("a `.pth` line that does nothing", venv="line", over="bare")


def collected(said: str) -> int:
    """The instructions that callgrind counted, from what it says on stderr."""
    (instructions,) = re.findall(r"Collected : (\d+)", said)
    return int(instructions)


def copy_hook(site_packages: Path) -> None:
    """What pip puts into a site-packages directory, from this checkout."""
    shutil.copytree(ROOT / "blasenv", site_packages / "blasenv", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "blasenv" / "a0_blasenv.pth", site_packages)


def hide_mounts(command: Sequence[str]) -> list[str]:
    """The command in a mount namespace without the cgroup mounts that somebody has put beside those of the host.

    A bind mount of one, or one in a container's root, is another line for each start to look at.
    """
    mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    groups = [point for _, point, kind, *_ in mounts if kind.startswith("cgroup")]
    foreign = [point for point in groups if not point.startswith("/sys/fs/cgroup")]
    if not foreign:
        return list(command)
    script = "".join(f"umount -l {shlex.quote(point)}\n" for point in foreign) + 'exec "$@"'
    return ["unshare", "--mount", "--", "/bin/sh", "-c", script, "sh", *command]


class Bench:
    """The venvs of one CPython, and what was counted in them."""

    def __init__(self, python: str | Path, directory: Path, install: Callable[[Path], None] = copy_hook) -> None:
        self._directory = directory
        # Names of one length, because a longer path is more to read.
        for name in ("bare", "line", "hook", "site"):
            subprocess.run([python, "-m", "venv", "--without-pip", directory / name], check=True)
            (packages,) = (directory / name).glob("lib/python3.*/site-packages")
            if name == "line":
                (packages / "a0_blasenv.pth").write_text(LINE)
            elif name == "hook":
                install(packages)
            elif name == "site":
                shutil.copytree(ROOT / "blasenv", packages / "_blasenv_startup")
                shutil.copy(ROOT / "sitecustomize_template" / "sitecustomize.py", packages)
        (directory / "gunicorn").write_text("pass\n")
        (directory / "blasenv.toml").write_text(CONFIG)
        (directory / "cpus.c").write_text(FOUR_CPUS)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", "cpus.so", "cpus.c"], check=True, cwd=directory)
        export = [python, "-m", "blasenv", "inject", "export", directory / "exported"]
        environ = {**os.environ, "BLASENV_DISABLE": "1"}
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=environ)
        self._counted: dict[object, int] = {}

    def measure(self, situation: Situation) -> tuple[int, int]:
        """Instructions of a start in a situation, and of what it is compared with."""
        without = replace(situation, venv=situation.over, environ={})
        return self.count(situation), self.count(without)

    def count(self, situation: Situation) -> int:
        """Instructions of a start: with byte code, the second one's, for the first writes it."""
        environ = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"}
        environ.update({name: self._filled(value) for name, value in situation.environ.items()})
        if situation.pretend:
            environ["LD_PRELOAD"] = self._filled("{DIR}/cpus.so")
        venv = self._directory / situation.venv
        command = [str(venv / "bin" / "python"), *map(self._filled, situation.program)]
        key = (*command, *environ.items(), situation.cpus, situation.compiled)
        if key in self._counted:
            return self._counted[key]
        with make_cgroup(situation.cpus) as group:
            if situation.compiled:
                subprocess.run(group.enter(command), env=environ, check=True)
            else:
                environ["PYTHONDONTWRITEBYTECODE"] = "1"
                for cache in venv.glob("lib/python3.*/site-packages/blasenv/__pycache__"):
                    shutil.rmtree(cache)
            callgrind = hide_mounts(group.enter([*CALLGRIND, *command]))
            result = subprocess.run(callgrind, env=environ, check=True, capture_output=True, text=True)
        self._counted[key] = collected(result.stderr)
        return self._counted[key]

    def _filled(self, text: str) -> str:
        return text.replace("{DIR}", str(self._directory))


def main() -> int:
    """Measure, and write it down."""
    if len(sys.argv) < 2 or not shutil.which("valgrind"):
        print("usage: instructions.py PYTHON...  (needs valgrind)", file=sys.stderr)
        return 2
    pythons = {}
    for python in sys.argv[1:]:
        version = subprocess.run([python, "-V"], check=True, capture_output=True, text=True).stdout.split()[1]
        counted: dict[str, list[int]] = {}
        with tempfile.TemporaryDirectory() as directory:
            bench = Bench(python, Path(directory))
            counted["bare"] = [bench.count(BARE)]
            counted["line"] = [*bench.measure(EMPTY_LINE)]
            for name, situation in SITUATIONS.items():
                counted[name] = [*bench.measure(situation)]
                print(version, name, *counted[name], file=sys.stderr)
        pythons[version] = counted
    cost_page.write("instructions", {"pythons": pythons})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
