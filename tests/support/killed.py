"""Kill ``blasenv install`` and ``uninstall`` at each of their file operations, and look what is left.

    killed.py STDLIB INTERPRETER VENV_PYTHON SPARE_DIRECTORY

Run by test_install_killed.py, and by docker-tests/every-interpreter on Debian's own Python.
A process without threads, because it forks. Prints the number of kills and of the different
states they left, for each command, or fails.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snapshot import snapshot

from blasenv.commands.install import install_command, uninstall_command

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.utime"}
KILLED = 137
TOUCHED = ("sitecustomize*", "__pycache__", "_blasenv_startup")  # the rest is compared, too
DIVERSIONS = Path("/var/lib/dpkg/diversions")


def changes(event: str, args: tuple[Any, ...]) -> bool:
    """Whether an audit event (docs.python.org, audit events table) is about to change something."""
    if event == "open":
        return isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) != 0
    return event in WRITES or event.startswith("shutil.") or event == "subprocess.Popen"


def run(command: Callable[[argparse.Namespace], int], interpreter: str, kill_at: int = 0) -> int:
    """The exit status of a command in a child, which dies before the ``kill_at``-th change."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    count = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if changes(event, args):
            count += 1
            if count == kill_at:
                os._exit(KILLED)

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if kill_at:
        sys.addaudithook(hook)
    status = 99
    try:
        status = command(argparse.Namespace(pythons=[interpreter], all=False, dry_run=False))
    finally:
        os._exit(status)


def main(stdlib: Path, interpreter: str, venv_python: str, spare: Path) -> None:
    """Kill each command at each change. From every state that leaves, go on, and go back."""

    def start() -> tuple[int, bytes, bytes]:
        # A venv made from the interpreter starts as the interpreter does, through the same directory.
        done = subprocess.run([venv_python, "-B", "-c", "pass"], capture_output=True, check=False, env={})
        return done.returncode, done.stdout, done.stderr

    def contents() -> dict[str, tuple[object, ...]]:
        # What is written anew has a new time, also inside a .pyc: only its name counts here.
        kinds = {path: () if path.endswith(".pyc") else kind[:4] for path, kind in snapshot(stdlib).items()}
        return {**kinds, str(DIVERSIONS): diversions()}

    def diversions() -> tuple[object, ...]:
        return (DIVERSIONS.read_bytes(),) if DIVERSIONS.exists() else ()

    def copy(source: Path, target: Path) -> None:
        target.mkdir(exist_ok=True)
        for place in TOUCHED:
            for path in target.glob(place):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        paths = [path for place in TOUCHED for path in source.glob(place)]
        if paths:
            subprocess.run(["cp", "-a", *paths, target], check=True)  # keeps hard links and times
        if target != stdlib and DIVERSIONS.exists():
            shutil.copy2(DIVERSIONS, target / "diversions")
        elif (source / "diversions").exists() and (source / "diversions").read_bytes() != diversions()[0]:
            shutil.copy2(source / "diversions", DIVERSIONS)

    silent = start()
    pristine, without, undiverted = snapshot(stdlib), spare / "without", diversions()
    copy(stdlib, without)
    assert run(install_command, interpreter) == 0
    complete, installed = contents(), spare / "installed"
    copy(stdlib, installed)
    assert silent == start()
    assert run(uninstall_command, interpreter) == 0
    assert snapshot(stdlib) == pristine

    for command, before in ((install_command, without), (uninstall_command, installed)):
        kill_at, status = 0, KILLED
        seen = []
        while status == KILLED:
            kill_at += 1
            copy(before, stdlib)
            status = run(command, interpreter, kill_at)
            where = f"{command.__name__} killed at change {kill_at}"
            assert status in (0, KILLED), f"{where}: exit status {status}"
            if contents() in seen:
                continue
            seen.append(contents())
            copy(stdlib, spare / "left")
            assert silent == start(), f"{where}: {start()}"
            assert run(install_command, interpreter) == 0, where
            assert contents() == complete, f"{where}, then install: {contents().items() ^ complete.items()}"
            copy(spare / "left", stdlib)
            assert run(uninstall_command, interpreter) == 0, where
            after = snapshot(stdlib)
            assert after == pristine, f"{where}, then uninstall: {after.items() ^ pristine.items()}"
            assert diversions() == undiverted, where
            # What is left can also go by itself, as long as any of it is there.
            copy(spare / "left", stdlib)
            if (stdlib / "_blasenv_startup" / "__main__.py").exists():
                remove = [interpreter, "-B", "-m", "_blasenv_startup"]
                done = subprocess.run(remove, capture_output=True, check=False, env={"PATH": os.defpath}, text=True)
                assert done.returncode == 0, f"{where}, then {remove}: {done.stderr}"
                after = snapshot(stdlib)
                assert after == pristine, f"{where}, then {remove}: {after.items() ^ pristine.items()}"
                assert diversions() == undiverted, where
        print(kill_at - 1, len(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
