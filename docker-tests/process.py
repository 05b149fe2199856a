"""Running commands so that an interrupted run leaves none of them behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_running: set[subprocess.Popen[str]] = set()


def output(
    command: Sequence[str | Path], environ: Mapping[str, str] | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end, and return the exit status and both outputs."""
    with subprocess.Popen(
        command,
        env={**os.environ, **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
    ) as process:
        _running.add(process)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
            stderr += f"(stopped after {timeout:.0f} s)\n"
        finally:
            _running.discard(process)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def run(command: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> str:
    """The standard output of a command. Raises RuntimeError with its last words when it fails."""
    done = output(command, environ)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RuntimeError(f"{' '.join(map(str, command[:4]))}: " + "\n  ".join(words[-6:]))
    return done.stdout


def stop_all() -> None:
    """Ask the commands that still run to end."""
    for process in list(_running):
        process.terminate()


def install(*packages: str) -> None:
    """Install Debian packages that this machine lacks, or raise RuntimeError saying which."""
    if os.geteuid() or not shutil.which("apt-get"):
        raise RuntimeError(f"needs the Debian packages {' '.join(packages)}, or root to install them")
    print(f"docker-tests: installing {' '.join(packages)}", file=sys.stderr)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "-qq", "update"], quiet)
    run(["apt-get", "-qq", "install", "-y", "--no-install-recommends", *packages], quiet)
