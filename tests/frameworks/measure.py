"""Frameworks in virtual environments with and without blasenv, and what their workers see under a real CPU limit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import NEWEST_TESTED, PYTHONS, ROOT, Cgroup, Venv, clean_environ, find_uv, make_venv

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
KEPT = ROOT / ".cache" / "frameworks"  # git-ignored; an environment is made once
# PyTorch's CPU wheels and all else here exist for 3.11; elsewhere the newest does.
VERSION = "3.11" if "3.11" in PYTHONS else next(name for name, path in PYTHONS.items() if path == NEWEST_TESTED)

Command = Sequence["str | Path"]


class Workers(NamedTuple):
    """What the workers of one run saw."""

    count: int
    native: list[str | None]
    """OMP_NUM_THREADS as C code reads it: the different values."""
    threads: list[int | None]
    """Threads that the workers' own OpenBLAS or PyTorch would use: the different numbers."""


class Runs(NamedTuple):
    """The workers of the same command, run three times under the same limit."""

    without: Workers
    """without blasenv"""
    hooked: Workers
    """with blasenv, which decides by the limit"""
    seven: Workers
    """with blasenv told to take 7 threads, a number that no framework here gives by itself"""


@dataclass(frozen=True)
class Frameworks:
    """An environment of frameworks, and another that adds blasenv to it."""

    bare: Venv
    hooked: Venv

    def script(self, name: str) -> Path:
        """A console script of one of the frameworks, to be run by either Python."""
        return self.bare.directory / "bin" / name


def install(name: str) -> Venv:
    """The environment of ``requirements/NAME.txt``, made on first use. Skips where it cannot be."""
    requirements = HERE / "requirements" / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:8]
    kept = KEPT / f"{name}-{VERSION}-{digest}"
    if not kept.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        new = make_venv(Path(tempfile.mkdtemp(prefix=f"{kept.name}.", dir=KEPT)), VERSION)
        uv = find_uv()
        pip = [uv, "pip", "install", "--python", new.python] if uv else [new.python, "-m", "pip", "install"]
        links = [f"--find-links={link}" for link in os.environ.get("PIP_FIND_LINKS", "").split()]  # uv does not read it
        result = subprocess.run(
            [*map(str, pip), "--quiet", *links, "-r", str(requirements)],
            check=False,
            capture_output=True,
            text=True,
            timeout=1800,
            env=clean_environ(),
        )
        if result.returncode:
            shutil.rmtree(new.directory)
            pytest.skip(f"cannot install {requirements.name}: {result.stderr.strip()[-300:]}")
        try:
            new.directory.rename(kept)
        except OSError:  # another test process was faster
            shutil.rmtree(new.directory)
    return Venv(kept, VERSION)


def make_frameworks(name: str, wheel: Path, directory: Path) -> Frameworks:
    """`install` an environment, and make the one that adds blasenv to it in ``directory``."""
    bare = install(name)
    hooked = make_venv(directory / "hooked", VERSION)
    hooked.install(wheel)
    (hooked.site_packages / "frameworks.pth").write_text(f"{bare.site_packages}\n")
    return Frameworks(bare, hooked)


def run_in(group: Cgroup, command: Command, seen_in: Path | None = None, **changes: str) -> list[dict[str, Any]]:
    """Run a command in ``group``; what its workers printed, or, where ``seen_in`` is given, left in there."""
    environ = clean_environ(PYTHONPATH=str(PROGRAMS), **changes)
    if seen_in:
        seen_in.mkdir()
        environ["SEEN_IN"] = str(seen_in)
    result = group.run(command, environ=environ, cwd=seen_in or PROGRAMS)
    if seen_in:
        return [json.loads(path.read_text(encoding="utf-8")) for path in seen_in.iterdir() if path.name.isdigit()]
    found = [line[5:] for line in result.stdout.splitlines() if line.startswith("SEEN ")]
    assert len(found) == 1, result.stdout + result.stderr
    workers: list[dict[str, Any]] = json.loads(found[0])
    return workers


def summary(workers: Iterable[dict[str, Any]]) -> Workers:
    workers = list(workers)
    native = sorted({worker["native"] for worker in workers}, key=str)
    return Workers(len(workers), native, sorted({worker["threads"] for worker in workers}, key=str))


def measure(frameworks: Frameworks, group: Cgroup, command: Command, directory: Path | None = None) -> Runs:
    """Run a Python command without blasenv, with it, and with it set to 7 threads.

    The word ``python`` at the start of an item stands for the interpreter. Workers that cannot
    print leave what they see below ``directory``.
    """
    runs = []
    for name, venv, changes in [
        ("without", frameworks.bare, {}),
        ("hooked", frameworks.hooked, {}),
        ("seven", frameworks.hooked, {"BLASENV_THREADS": "7"}),
    ]:
        here = directory / name if directory else None
        runs.append(summary(run_in(group, [venv.python, *command], here, **changes)))
    return Runs(*runs)


