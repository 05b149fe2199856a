#!/usr/bin/env python3
"""How much faster real programs are with blasenv, under real CPU limits: docs/speedup.json.

    benchmarks/speedup.py [--pairs N] [--limits CPUS,…] [--only WORD] [--page]

Each program (benchmarks/speedup_work.py) runs three times at once, as blasenv finds it, as it leaves it, and with
``rounding = "ceil"``, each in a cgroup of its own with the same limit. They do their work in turn, never together, pair
after pair, so that whatever else the machine does meets all of them: first with nothing beside them, then beside a
neighbour, a cgroup of the same weight with a busy loop for each CPU. Where two of the three come to the same number of
threads, one run stands for both. What is imported and prepared is not timed, and not limited.

``--only`` measures the programs with that word in their name and keeps the others' results; ``--page`` measures nothing
and writes the tables of docs/speedup.md anew. Needs root, at least two CPUs, and a package index.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from cgroup import Cgroup, make_cgroup  # noqa: E402
from pages import fill, table  # noqa: E402
from speedup_work import PROGRAMS  # noqa: E402

RESULT, PAGE = ROOT / "docs" / "speedup.json", ROOT / "docs" / "speedup.md"
CACHE = ROOT / ".cache" / "speedup"
PACKAGES = ("numpy", "scipy", "scikit-learn", "lightgbm", "torch==2.13.0", "pandas", "pyarrow", "statsmodels")
LIMITS = (0.5, 1.0, 1.5, 2.0, 4.0, 8.0, 16.0, 32.0)  # CPUs; those that the machine has more than
WAYS = {
    "without": {"BLASENV_DISABLE": "1", "BLASENV_CONFIG": ""},
    "with": {"BLASENV_CONFIG": ""},
    "ceil": {"BLASENV_CONFIG": "{CEIL}"},
}


def make_environment(directory: Path) -> Path:
    """The Python of a virtual environment with this blasenv and all that the programs need."""
    python = directory / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *PACKAGES], check=True)
    subprocess.run([*install, "--force-reinstall", "--no-deps", ROOT], check=True)
    return python


def versions(python: Path) -> dict[str, str]:
    """What is installed there, of what the programs use."""
    command: list[str | Path] = [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    names = [package.partition("=")[0] for package in PACKAGES]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {package["name"]: package["version"] for package in found if package["name"] in names}


class Program:
    """One program in a cgroup of its own, ready to do its work."""

    def __init__(self, python: Path, name: str, way: dict[str, str], group: Cgroup, limit: float) -> None:
        """Start it under the limit, prepare it without, and let it do its work once under the limit again."""
        drop = ("_THREADS", "BLASENV_", "OMP_", "PYTHON")
        environ = {key: value for key, value in os.environ.items() if not any(part in key for part in drop)}
        command = group.enter([python, Path(__file__).with_name("speedup_work.py"), name])
        self.group = group
        self.process = subprocess.Popen(
            command, env={**environ, **way}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if not self.process.stdin or not self.process.stdout:
            raise TypeError("there are two pipes")
        self._to, self._from = self.process.stdin, self.process.stdout
        self.threads = int(self.read() or len(os.sched_getaffinity(0)))
        self.limit, self.name = limit, name

    def read(self) -> str:
        """The next line that it prints."""
        line = self._from.readline()
        if not line:
            sys.exit(f"{self.name} ended with status {self.process.wait()}")
        return line.strip()

    def go(self) -> str:
        """Let it go on, and wait for what it prints then."""
        self._to.write("\n")
        self._to.flush()
        return self.read()

    def prepare(self) -> None:
        """Import and make what the work needs, without the limit; then work once."""
        self.group.limit(None)
        self.go()
        self.group.limit(self.limit)
        self.go()

    def work(self) -> dict[str, Any]:
        """One time for its work, and how often the limit struck meanwhile."""
        throttled, periods = self.group.throttled()
        seconds = float(self.go())
        after = self.group.throttled()
        return {"seconds": seconds, "throttled": after[0] - throttled, "periods": after[1] - periods}


@contextlib.contextmanager
def neighbour(group: Cgroup | None) -> Iterator[None]:
    """A busy loop for each CPU in another cgroup; none without a cgroup."""
    loops = []
    if group:
        command = group.enter(["/bin/sh", "-c", "while :; do :; done"])
        loops = [subprocess.Popen(command) for _ in os.sched_getaffinity(0)]
        time.sleep(0.2)
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(python: Path, name: str, limit: float, pairs: int, ceil: Path) -> list[dict[str, Any]]:
    """A program under a limit, first alone and then beside a neighbour: a row for each."""
    rows = []
    with contextlib.ExitStack() as stack:
        programs: dict[str, Program] = {}
        stands_for: dict[str, str] = {}  # a way, and the one that runs with as many threads
        for way, environ in WAYS.items():
            group = stack.enter_context(make_cgroup(limit))
            wanted = {key: value.replace("{CEIL}", str(ceil)) for key, value in environ.items()}
            program = Program(python, name, wanted, group, limit)
            same = next((other for other in programs if programs[other].threads == program.threads), way)
            stands_for[way] = same
            if same == way:
                programs[way] = program
                program.prepare()
            else:
                program.process.kill()
        beside = stack.enter_context(make_cgroup(None))
        for busy in (False, True):
            runs: dict[str, list[dict[str, Any]]] = {way: [] for way in programs}
            with neighbour(beside if busy else None):
                for number in range(pairs):
                    for way in sorted(programs, reverse=bool(number % 2)):
                        runs[way].append(programs[way].work())
            rows.append(row(name, limit, busy, programs, runs, stands_for))
        for program in programs.values():
            program.process.kill()
    return rows


def row(
    name: str,
    limit: float,
    busy: bool,
    programs: dict[str, Program],
    runs: dict[str, list[dict[str, Any]]],
    stands_for: dict[str, str],
) -> dict[str, Any]:
    """What one program's runs come to: for each way its times, and how many times as fast as without blasenv."""
    found: dict[str, Any] = {"program": name, "limit": limit, "neighbour": busy}
    for way, same in stands_for.items():
        times = [run["seconds"] for run in runs[same]]
        ratios = [without["seconds"] / run["seconds"] for without, run in zip(runs["without"], runs[same], strict=True)]
        found[way] = {
            "threads": programs[same].threads,
            "ratio": round(median(ratios), 2),
            "least": round(min(ratios), 2),
            "most": round(max(ratios), 2),
            "throttled": sum(run["throttled"] for run in runs[same]),
            "periods": sum(run["periods"] for run in runs[same]),
            "seconds": times,
        }
    return found


def mean(rows: list[dict[str, Any]], limit: float, busy: bool, way: str = "with") -> float:
    """How many times as fast the programs are on the average under one limit."""
    return geometric_mean([row[way]["ratio"] for row in rows if row["limit"] == limit and row["neighbour"] == busy])


def results(rows: list[dict[str, Any]], limit: float) -> str:
    """One limit's table for the page: programs by what they gain."""
    of = {(row["program"], row["neighbour"]): row for row in rows if row["limit"] == limit}
    names = sorted({name for name, _ in of}, key=lambda name: (-of[name, False]["with"]["ratio"], name))
    default, count, ceil = (of[names[0], False][way]["threads"] for way in WAYS)
    lines = [(name, *cells(of, name, ceil != count)) for name in names]
    means = [f"**{mean(rows, limit, busy):.2f}**" for busy in (False, True)]
    lines.append(("geometric mean", means[0], "", means[1], ""))
    head = [f"{count} thread{'s' * (count != 1)} in place of {default}", "quiet", "throttled", "neighbour", "throttled"]
    if ceil != count:
        head += [f'"ceil", {ceil} threads: quiet', "neighbour"]
        lines[-1] += tuple(f"{mean(rows, limit, busy, 'ceil'):.2f}" for busy in (False, True))
    return table(head, lines)


def cells(of: dict[tuple[str, bool], dict[str, Any]], name: str, ceil: bool) -> Iterator[str]:
    """One program's cells: ratio and throttled share, alone and beside a neighbour, and what "ceil" gives."""
    for busy in (False, True):
        found = of[name, busy]
        shares = (found[way]["throttled"] / max(1, found[way]["periods"]) for way in ("without", "with"))
        yield f"**{found['with']['ratio']:.2f}** ({found['with']['least']:.2f} to {found['with']['most']:.2f})"
        yield " → ".join(f"{share:.0%}" for share in shares)
    for busy in (False, True) if ceil else ():
        yield f"{of[name, busy]['ceil']['ratio']:.2f}"


def write(head: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The JSON, a row a line, in the order of the programs."""
    order = list(PROGRAMS)
    rows.sort(key=lambda row: (row["limit"], order.index(row["program"]), row["neighbour"]))
    first, *lines = (json.dumps(one, ensure_ascii=False) for one in (head, *rows))
    RESULT.write_text(first[:-1] + ', "rows": [\n    ' + ",\n    ".join(lines) + "\n]}\n", "utf-8")


def render(page: str, rows: list[dict[str, Any]]) -> str:
    """The page with its tables made anew."""
    for limit in sorted({row["limit"] for row in rows}):
        page = fill(page, f"limit {limit:g}", results(rows, limit))
    return page


def main() -> None:
    """Measure what is asked for, print it, and write the JSON."""
    parser = argparse.ArgumentParser(description="How much faster real programs are with blasenv.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--limits", type=lambda words: [float(word) for word in words.split(",")])
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if options.page:
        rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
        PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
        return
    cpus = len(os.sched_getaffinity(0))
    limits = options.limits or [limit for limit in LIMITS if limit < cpus]
    python = make_environment(CACHE)
    old = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
    head = {
        "cpus": cpus,
        "processor": processor(),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "packages": versions(python),
        "pairs": options.pairs,
    }
    with tempfile.TemporaryDirectory(prefix="blasenv-speedup-") as directory:
        ceil = Path(directory) / "blasenv.toml"
        ceil.write_text('rounding = "ceil"\n')
        for name in PROGRAMS:
            if options.only not in name:
                continue
            for limit in limits:
                rows = measure(python, name, limit, options.pairs, ceil)
                for new in rows:
                    same = ("program", "limit", "neighbour")
                    old = [before for before in old if any(before[key] != new[key] for key in same)]
                    print(
                        f"{name}, limit {limit:g}, {'neighbour' if new['neighbour'] else 'quiet'}: "
                        f"{new['with']['ratio']} ({new['with']['least']} to {new['with']['most']}), "
                        f"ceil {new['ceil']['ratio']}; {median(new['with']['seconds'])} s",
                        flush=True,
                    )
                old += rows
                write(head, old)


def processor() -> str:
    """What the machine calls its processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
