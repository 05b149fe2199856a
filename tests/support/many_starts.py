#!/usr/bin/env python3
"""Start interpreters by the thousand while blasenv is installed over itself again and again, and count what breaks.

    many_starts.py VENV WHEEL [STARTS]

VENV has blasenv, or will have it. Prints one line of JSON: starts, installations meanwhile, failed starts
(another exit status, or another output of the program), and what starts said on stderr, with how often.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

PROGRAM = "import sys; print('started'); sys.exit(7)"


def last_line(text: str) -> str:
    """The sentence of a traceback, without the frames."""
    lines = [line.strip() for line in text.splitlines() if "Error: " in line]
    return lines[-1] if lines else text.strip()[-200:]


def installers(venv: Path, wheel: Path) -> list[list[str]]:
    """uv, and the environment's own pip if it has one."""
    uv = Path(sys.executable).with_name("uv")
    python = str(venv / "bin" / "python")
    commands = [[str(uv), "pip", "install", "--quiet", "--reinstall", "--no-deps", "--python", python, str(wheel)]]
    if (venv / "bin" / "pip").exists():
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
        commands.append([*pip, "--force-reinstall", str(wheel)])
    return commands


def main() -> None:
    """Print the counts."""
    venv, wheel = Path(sys.argv[1]), Path(sys.argv[2])
    starts = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("BLASENV", "OMP_"))}
    done = threading.Event()
    installed = 0

    def install() -> None:
        nonlocal installed
        for command in cycle(installers(venv, wheel)):
            if done.is_set():
                return
            subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL)
            installed += 1

    def start(_: int) -> tuple[bool, str]:
        command = [str(venv / "bin" / "python"), "-c", PROGRAM]
        result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        return (result.returncode, result.stdout) == (7, "started\n"), last_line(result.stderr)

    thread = threading.Thread(target=install)
    thread.start()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(start, range(starts)))
    done.set()
    thread.join()
    said = Counter(text for _, text in results if text)
    failed = sum(not fine for fine, _ in results)
    print(json.dumps({"starts": starts, "installations": installed, "failed": failed, "said": said}))


if __name__ == "__main__":
    main()
