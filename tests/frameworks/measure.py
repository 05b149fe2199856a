"""Frameworks in virtual environments with and without blasenv, and what their workers see under a real CPU limit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import NEWEST_TESTED, PYTHONS, ROOT, TIMEOUT, Cgroup, Venv, clean_environ, find_uv, make_venv

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
KEPT = ROOT / ".cache" / "frameworks"  # git-ignored; an environment is made once
# Everything here has wheels for 3.11.
VERSION = "3.11" if "3.11" in PYTHONS else next(name for name, path in PYTHONS.items() if path == NEWEST_TESTED)
VISIBLE = len(os.sched_getaffinity(0))  # CPUs; OpenBLAS and joblib start no more than that

# The same command three times under the same limit: without blasenv; with it; and with it told to
# take 7 threads, a number that no framework comes to by itself, so that it would stand out.
WAYS: Mapping[str, Mapping[str, str]] = {"without": {}, "hooked": {}, "seven": {"BLASENV_THREADS": "7"}}


class Workers(NamedTuple):
    """What the workers of one run saw."""

    number: int
    native: list[str | None]
    """OMP_NUM_THREADS as C code reads it: the different values."""
    threads: list[int | None]
    """Threads that the workers' own OpenBLAS or PyTorch would use: the different numbers."""


class Runs(NamedTuple):
    """The workers of the same command in each of the three `WAYS`."""

    without: Workers
    hooked: Workers
    seven: Workers


def undivided(number: int) -> Runs:
    """Nobody gives the workers a number: without blasenv they start a thread for each CPU, with it what it says."""
    return Runs(
        without=Workers(number, [None], [VISIBLE]),
        hooked=Workers(number, ["1"], [1]),
        seven=Workers(number, ["7"], [min(7, VISIBLE)]),
    )


def divided(number: int, threads: int) -> Runs:
    """The workers have what their framework gives them, whatever blasenv says."""
    workers = Workers(number, [str(threads)], [min(threads, VISIBLE)])
    return Runs(workers, workers, workers)


@dataclass(frozen=True)
class Frameworks:
    """An environment of frameworks, and another that adds blasenv to it."""

    bare: Venv
    hooked: Venv

    def python(self, way: str) -> Path:
        return (self.bare if way == "without" else self.hooked).python

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


def run_in(
    group: Cgroup, command: Sequence[str | Path], changes: Mapping[str, str], seen_in: Path | None = None
) -> list[dict[str, Any]]:
    """Run a command in ``group``; what its workers printed, or, where ``seen_in`` is given, left in there."""
    environ = clean_environ(PYTHONPATH=str(PROGRAMS), **changes)
    if seen_in:
        seen_in.mkdir(parents=True)
        environ["SEEN_IN"] = str(seen_in)
    result = group.run(command, environ=environ, cwd=seen_in or PROGRAMS)
    if seen_in:
        return [json.loads(path.read_text(encoding="utf-8")) for path in seen_in.iterdir() if path.name.isdigit()]
    found = [line[5:] for line in result.stdout.splitlines() if line.startswith("SEEN ")]
    assert len(found) == 1, result.stdout + result.stderr
    workers: list[dict[str, Any]] = json.loads(found[0])
    return workers


def summary(workers: Iterable[Mapping[str, Any]]) -> Workers:
    workers = list(workers)
    native = sorted({worker["native"] for worker in workers}, key=str)
    return Workers(len(workers), native, sorted({worker["threads"] for worker in workers}, key=str))


def measure(
    frameworks: Frameworks, group: Cgroup, command: Sequence[str | Path], directory: Path | None = None
) -> Runs:
    """Run a Python command in each of the three `WAYS`. Workers that cannot print leave files below ``directory``."""
    runs = []
    for way, changes in WAYS.items():
        seen_in = directory / way if directory else None
        runs.append(summary(run_in(group, [frameworks.python(way), *command], changes, seen_in)))
    return Runs(*runs)


def serve(
    command: Sequence[str | Path], group: Cgroup, directory: Path, config: str, number: int, **changes: str
) -> list[dict[str, Any]]:
    """Start a server in ``directory``, and stop it when ``number`` workers are there: what each of them saw."""
    (directory / "blasenv.toml").write_text(config)
    seen = directory / "seen"
    seen.mkdir()
    settings = {"SEEN_IN": str(seen), "BLASENV_CONFIG": str(directory / "blasenv.toml"), "PYTHONPATH": str(PROGRAMS)}
    environ = clean_environ(**{**settings, **changes})
    with (directory / "log").open("w") as log:
        server = subprocess.Popen(
            group.enter(command), cwd=directory, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    workers: list[Path] = []
    deadline = time.monotonic() + TIMEOUT
    try:
        while len(workers) < number and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            workers = [path for path in seen.iterdir() if path.name.isdigit()]
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:  # Sanic, for one, can miss a signal while it starts
            server.kill()
            server.wait()
    found = [json.loads(path.read_text(encoding="utf-8")) for path in seen.iterdir() if path.name.isdigit()]
    assert len(found) == number, (directory / "log").read_text(encoding="utf-8")
    return found
