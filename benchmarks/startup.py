#!/usr/bin/env python3
"""What other .pth files cost a start, beside blasenv's: wall-clock time, in pairs with a start without any.

docs/cost.json, docs/cost.md.

    benchmarks/startup.py PYTHON [ROUNDS]

Needs a package index, for setuptools and coverage (virtualenv 21 brings no
.pth file any more). Run it inside a CPU limit, such as ``blasenv limit --cpus 1 --``.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cost_page
from instructions import LINE, copy_hook

NOTHING = "a line that does nothing"
# What blasenv's time consists of, step by step: what is behind its line.
STEPS = {
    "blasenv's line, and an empty package": "def run(): pass\n",
    "… with blasenv's code, which only is read": "{CODE}\ndef run(): pass\n",
    "… which opens `/proc/self/cgroup` and `mountinfo`, too": (
        "{CODE}\ndef run():\n"
        "    if not hasattr(sys, '_blasenv'):\n"
        "        sys._blasenv = [read_file(f'/proc/self/{name}', MAX_FILE, True) for name in ('cgroup', 'mountinfo')]\n"
    ),
}


def make_venvs(python: str, directory: Path) -> dict[str, Path]:
    """One environment without a .pth file, and one for each case, with only that in it."""
    venvs: dict[str, Path] = {}
    packages = {"setuptools": "setuptools<82", "coverage": "coverage>=7.11"}  # later setuptools bring no .pth
    for name in ("bare", NOTHING, *STEPS, "blasenv", *packages):
        venv = directory / f"{len(venvs)}"
        pip = [] if name in packages else ["--without-pip"]
        subprocess.run([python, "-m", "venv", *pip, venv], check=True)
        (site,) = venv.glob("lib/python3.*/site-packages")
        if name == NOTHING:
            (site / "a0_nothing.pth").write_text(LINE)
        elif name == "blasenv" or name in STEPS:
            copy_hook(site)
            module = site / "blasenv" / "__init__.py"
            code = module.read_text(encoding="utf-8")
            module.write_text(STEPS.get(name, "{CODE}").replace("{CODE}", code), encoding="utf-8")
        elif name in packages:
            pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            subprocess.run([*pip, packages[name]], check=True)
        if name != "bare" and not list(site.glob("*.pth")):
            raise SystemExit(f"{name} has no .pth file in this version")
        venvs[name] = venv / "bin" / "python"
    return venvs


def start(python: Path, environ: dict[str, str]) -> float:
    """Milliseconds from the spawn to the exit, without subprocess, whose own work is as long as what is measured."""
    begin = time.perf_counter()
    pid = os.posix_spawn(python, [str(python), "-c", "pass"], environ)
    _, status = os.waitpid(pid, 0)
    took = 1000 * (time.perf_counter() - begin)
    if status:
        raise SystemExit(f"{python} ended with wait status {status}")
    return took


def main() -> None:
    """Measure, and write it down."""
    python, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 300
    environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    with tempfile.TemporaryDirectory() as directory:
        venvs = make_venvs(python, Path(directory))
        times: dict[str, list[float]] = {name: [] for name in venvs}
        for number in range(rounds + 5):
            for name in random.sample(list(venvs), len(venvs)):
                took = start(venvs[name], environ)
                if number >= 5:  # by then the byte code is written and the files are in memory
                    times[name].append(took)
    version = subprocess.run([python, "-V"], check=True, capture_output=True, text=True).stdout.strip()
    bare = times.pop("bare")
    more: dict[str, dict[str, object]] = {}
    for name, those in times.items():
        low, middle, high = statistics.quantiles([one - other for one, other in zip(those, bare)], n=4)
        more[name] = {"median": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)]}
    measured = {"python": version.split()[1], "pairs": rounds, "bare_ms": round(statistics.median(bare), 1)}
    cost_page.write("time", {**measured, "more_ms": more})


if __name__ == "__main__":
    main()
