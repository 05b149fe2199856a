#!/usr/bin/env python3
"""What a .start file (PEP 829) costs a start, beside the line in a .pth file that it replaces: docs/start-file.json.

    benchmarks/start_file.py PYTHON [PAIRS]

PYTHON is 3.15 or later. Each case is a fresh venv of a copy of it that has no ``sitecustomize`` (Debian's has one);
instructions of ``python -c pass`` are counted by callgrind, and whole processes are timed in pairs with a start of a
venv without anything. Needs valgrind. Run it inside a CPU limit, such as ``blasenv limit --cpus 1 --``, on a quiet
machine.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from instructions import CALLGRIND, ROOT, collected, copy_hook
from startup import start

RESULT = ROOT / "docs" / "start-file.json"
BARE = "nothing"
LINE, FILE = "a0_nothing.pth", "a0_nothing.start"


def copy_python(python: str, directory: Path) -> Path:
    """An installation of our own: the executable, and a library directory of links to the files of the original's."""
    code = "import os, sys; print(os.path.realpath(sys.executable), os.path.dirname(os.__file__), sep='\\n')"
    said = subprocess.run([python, "-I", "-S", "-c", code], check=True, capture_output=True, text=True).stdout
    executable, stdlib = map(Path, said.splitlines())
    copy = directory / "bin" / stdlib.name
    library = directory / "lib" / stdlib.name
    copy.parent.mkdir(parents=True)
    library.mkdir(parents=True)
    shutil.copy2(executable, copy)
    for path in stdlib.iterdir():
        if path.name not in ("__pycache__", "site-packages", "dist-packages") and "sitecust" not in path.name:
            (library / path.name).symlink_to(path)
    for path in stdlib.parent.glob("libpython*.so*"):
        (library.parent / path.name).symlink_to(path)
    return copy


def fill(case: str, site: Path, stdlib: Path) -> None:
    """Put into a site-packages directory, or beside the standard library, what the case consists of."""
    if case in ("blasenv's line", "blasenv's .start file", "both"):
        copy_hook(site)
        if case != "blasenv's line":
            (site / "a0_blasenv.start").write_text("blasenv:run\n")
        if case == "blasenv's .start file":
            (site / "a0_blasenv.pth").unlink()
    elif case == "a line that does nothing":
        (site / LINE).write_text("import os\n")
    elif case == "a .start file that does nothing":
        (site / FILE).write_text("os:getpid\n")
    elif case == "sitecustomize":
        copy_hook(stdlib)
        (stdlib / "a0_blasenv.pth").unlink()
        (stdlib / "blasenv").rename(stdlib / "_blasenv_startup")
        shutil.copy(ROOT / "sitecustomize_template" / "sitecustomize.py", stdlib)


CASES = (
    BARE,
    "a line that does nothing",
    "blasenv's line",
    "a .start file that does nothing",
    "blasenv's .start file",
    "both",
    "sitecustomize",
)


def count(python: Path) -> int:
    """Instructions of a start, the second one: the first writes byte code."""
    environ = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"}
    command = [str(python), "-c", "pass"]
    subprocess.run(command, env=environ, check=True)
    return collected(
        subprocess.run([*CALLGRIND, *command], env=environ, check=True, capture_output=True, text=True).stderr
    )


def modules(python: Path) -> set[str]:
    """What a start has imported."""
    code = "import sys; print(*sys.modules)"
    return set(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def measure(python: str, pairs: int, directory: Path) -> list[dict[str, Any]]:
    """A row for each case, compared with the bare venv."""
    venvs: dict[str, Path] = {}
    for case in CASES:
        base = copy_python(python, directory / f"base{len(venvs)}")
        venv = directory / f"venv{len(venvs)}"
        subprocess.run([base, "-m", "venv", "--without-pip", venv], check=True)
        (site,) = venv.glob("lib/python3.*/site-packages")
        fill(case, site, base.parent.parent / "lib" / base.name)
        venvs[case] = venv / "bin" / "python"
    instructions = {case: count(inside) for case, inside in venvs.items()}
    loaded = {case: modules(inside) for case, inside in venvs.items()}
    for case, names in loaded.items():
        if ("blasenv" in case or case in ("both", "sitecustomize")) != bool(names & {"blasenv", "_blasenv_startup"}):
            raise SystemExit(f"{case}: not what ran")
    environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    times: dict[str, list[float]] = {case: [] for case in CASES}
    for number in range(pairs + 5):
        for case in random.sample(CASES, len(CASES)):
            took = start(venvs[case], environ)
            if number >= 5:  # by then the files are in memory
                times[case].append(took)
    rows = []
    for case in CASES:
        row: dict[str, Any] = {"case": case, "instructions": instructions[case]}
        if case == BARE:
            row["ms"] = round(statistics.median(times[case]), 2)
        else:
            row["more_instructions"] = instructions[case] - instructions[BARE]
            difference = statistics.quantiles([one - other for one, other in zip(times[case], times[BARE])], n=4)
            row["more_ms"], row["more_ms_quartiles"] = round(difference[1], 2), [round(one, 2) for one in difference]
            row["imports"] = sorted(loaded[case] - loaded[BARE])
        rows.append(row)
    return rows


def main() -> int:
    """Measure and write the file."""
    if len(sys.argv) not in (2, 3) or not shutil.which("valgrind"):
        print("usage: start_file.py PYTHON [PAIRS]  (needs valgrind)", file=sys.stderr)
        return 2
    python, pairs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 300
    version = subprocess.run([python, "-V"], check=True, capture_output=True, text=True).stdout.split()[1]
    with tempfile.TemporaryDirectory() as directory:
        rows = measure(python, pairs, Path(directory))
    machine = {"cpus": len(os.sched_getaffinity(0)), "kernel": platform.release().partition("-")[0]}
    text = ",\n    ".join(json.dumps(row) for row in rows)
    head = json.dumps({"python": version, "pairs": pairs, **machine})
    RESULT.write_text(f'{head[:-1]}, "rows": [\n    {text}\n]}}\n', encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
