#!/usr/bin/env python3
"""What the hook adds to a start, in instructions: exact, whatever else the machine is doing.

    benchmarks/instructions.py PYTHON...

For each CPython, in a fresh venv, callgrind counts the instructions of ``python -c pass`` with no
hook, with a ``.pth`` line that does nothing, and with blasenv in the cases of `CASES`. Prints a
Markdown table; needs valgrind. Run it inside a CPU limit, such as ``blasenv limit --cpus 1 --``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = 'mode = "auto"\nrounding = "floor"\n[programs]\ngunicorn = "single"\n'


CALLGRIND = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")


def collected(said: str) -> int:
    """The instructions that callgrind counted, from what it says on stderr."""
    (instructions,) = re.findall(r"Collected : (\d+)", said)
    return int(instructions)


def copy_hook(site_packages: Path) -> None:
    """What pip puts into a site-packages directory, from this checkout."""
    shutil.copytree(ROOT / "blasenv", site_packages / "blasenv", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "blasenv" / "a0_blasenv.pth", site_packages)


def count(python: Path, **environ: str) -> int:
    """Instructions of a start, byte code of everything present."""
    clean = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", **environ}
    subprocess.run([python, "-c", "pass"], env=clean, check=True)
    result = subprocess.run(
        [*CALLGRIND, str(python), "-c", "pass"], env=clean, check=True, capture_output=True, text=True
    )
    return collected(result.stderr)


def measure(python: str, directory: Path) -> list[tuple[str, int, int]]:
    """(case, instructions, instructions of what it is compared with) for one CPython."""
    subprocess.run([python, "-m", "venv", "--without-pip", directory], check=True)
    inside = directory / "bin" / "python"
    (packages,) = directory.glob("lib/python3.*/site-packages")
    config = directory / "blasenv.toml"
    config.write_text(CONFIG)
    bare = count(inside)
    hook = packages / "a0_blasenv.pth"
    hook.write_text("import os\n")
    line = count(inside)
    copy_hook(packages)
    package = packages / "blasenv"
    cases = {
        "blasenv": {},
        "a child of one": {
            "OMP_NUM_THREADS": "1",
            "BLASENV_SET": "OMP_NUM_THREADS=1",
            "BLASENV_MARK": "OMP_NUM_THREADS=1",
        },
        "when you set `OMP_NUM_THREADS`": {"OMP_NUM_THREADS": "1"},
        "with a configuration file": {"BLASENV_CONFIG": str(config)},
        "`BLASENV_DISABLE=1`": {"BLASENV_DISABLE": "1"},
    }
    rows = [("bare start", bare, 0), ("a `.pth` line that does nothing", line, bare)]
    rows += [(case, count(inside, **environ), line) for case, environ in cases.items()]
    shutil.rmtree(package / "__pycache__")
    rows.append(("without byte code", count(inside, PYTHONDONTWRITEBYTECODE="1"), line))
    hook.unlink()
    exported = directory / "exported"
    subprocess.run([sys.executable, "-m", "blasenv", "inject", "export", exported], check=True, cwd=ROOT)
    rows.append(("injected, over a bare start", count(inside, PYTHONPATH=str(exported)), bare))
    package.rename(packages / "_blasenv_startup")
    shutil.copy(ROOT / "sitecustomize_template" / "sitecustomize.py", packages)
    rows.append(("as sitecustomize, over a bare start", count(inside), bare))
    return rows


def main() -> int:
    if len(sys.argv) < 2 or not shutil.which("valgrind"):
        print("usage: instructions.py PYTHON...  (needs valgrind)", file=sys.stderr)
        return 2
    for python in sys.argv[1:]:
        version = subprocess.run([python, "-V"], check=True, capture_output=True, text=True).stdout.strip()
        with tempfile.TemporaryDirectory() as directory:
            rows = measure(python, Path(directory, "venv"))
        bare = rows[0][1]
        print(f"| {version} | instructions | more | of a bare start |\n|---|---|---|---|")
        for case, instructions, base in rows:
            more = f"+{(instructions - base) / 1e6:.2f} M" if base else ""
            share = f"{(instructions - base) / bare:.1%}" if base else ""
            print(f"| {case} | {instructions / 1e6:.2f} M | {more} | {share} |")
        print(flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
