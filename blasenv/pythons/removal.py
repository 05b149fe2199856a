"""Take the copy of the start-up code away again. Stands alone: it imports nothing of blasenv.

``blasenv install`` places this file beside the copy, as ``_blasenv_startup/__main__.py``. So whoever has
removed blasenv first can still, with the interpreter itself::

    python3 -m _blasenv_startup [--dry-run]

``blasenv uninstall`` does the same with the same code. Nothing imports it when an interpreter starts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

SITE = "sitecustomize.py"
ASIDE = "sitecustomize.distrib.py"
STARTUP = "_blasenv_startup"
REMOVER = "__main__.py"
MANIFEST = f"{STARTUP}/manifest.json"
SAVED = f"{STARTUP}/saved"
TEMPORARY = ".blasenv-new"
MARK = STARTUP.encode()  # is in every sitecustomize.py of ours, of whatever version
MAX_FILE = 1 << 20  # bytes; what is read here is code and records, not the kernel's
TIMEOUT = 120  # seconds for one start of an interpreter, or one call of dpkg


class Refused(Exception):
    """Why the copy can't be taken away, and what to do about it."""


class Step(NamedTuple):
    """One thing to do."""

    sentence: str
    do: Callable[[], None]


@dataclass
class Manifest:
    """What was done to a standard library's directory. It is written before anything is done."""

    version: str = ""
    files: dict[str, list[str]] = field(default_factory=dict)
    """SHA-256 of each file placed, the newest first; an upgrade keeps the one it replaces."""
    aside: str = ""
    """How a sitecustomize.py that was there got out of the way: "", "moved" or "diverted" (dpkg)."""
    saved: list[str] = field(default_factory=list)
    """The .pyc files of the former sitecustomize.py: each is in SAVED, or back in __pycache__ already."""
    pycache: bool = True
    """Whether there was a __pycache__ directory before."""

    def dump(self) -> bytes:
        """The manifest as a file."""
        return (json.dumps({"schema": 1, **vars(self)}, indent=2) + "\n").encode()


def read_manifest(stdlib: str) -> Manifest | None:
    """The manifest in a standard library's directory, None without one that can be understood."""
    try:
        fields = json.loads(read_file(f"{stdlib}/{MANIFEST}") or b"")
        if fields.pop("schema") != 1:
            return None
        return Manifest(**fields)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def read_file(path: str) -> bytes | None:
    """The contents of a regular file, None when there is none that can be read."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(MAX_FILE)
    except OSError:
        return None


def digest(contents: bytes) -> str:
    """The SHA-256 of ``contents`` in hexadecimal."""
    return hashlib.sha256(contents).hexdigest()


@contextmanager
def locked(directory: str) -> Iterator[None]:
    """Hold the lock on a standard library's directory, so that two installs take turns."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    """Wait until the names in a directory are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_file(path: str) -> None:
    """Remove the file or link at ``path`` if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def same(path: str, other: str) -> bool:
    """Whether two paths are the same link, or files with the same contents."""
    if os.path.islink(path) or os.path.islink(other):
        return os.path.islink(path) and os.path.islink(other) and os.readlink(path) == os.readlink(other)
    return read_file(path) == read_file(other)


def find_pycs(stdlib: str) -> list[str]:
    """The names in __pycache__ that belong to sitecustomize.py and to the one put aside."""
    stems = (SITE[:-3] + ".", ASIDE[:-3] + ".")
    try:
        return sorted(name for name in os.listdir(f"{stdlib}/__pycache__") if name.startswith(stems))
    except FileNotFoundError:
        return []


def dpkg(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of dpkg's, in English, and capture what it says."""
    environ = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def divert(action: str, path: str, aside: str) -> None:
    """Tell dpkg to unpack ``path`` as ``aside`` from now on ("--add"), or no more ("--remove")."""
    result = dpkg("dpkg-divert", "--local", "--no-rename", "--divert", aside, action, path)
    if result.returncode:
        raise Refused(f"{path}: {' '.join(result.stderr.split()) or 'dpkg-divert failed'}")


def is_marked(site: bytes | None) -> bool:
    """Whether the contents of a sitecustomize.py are ours, or were before somebody changed them."""
    return site is not None and MARK in site


def is_ours(site: bytes | None, manifest: Manifest | None) -> bool:
    """Whether the contents of a sitecustomize.py are as blasenv placed them, so that they can go."""
    if site is None or MARK not in site:
        return False
    # Without a manifest it was copied by hand, and whatever version it is, it can be replaced.
    return manifest is None or digest(site) in manifest.files.get(SITE, [])


def changed(stdlib: str) -> Refused:
    """The refusal to touch a sitecustomize.py that somebody works with."""
    return Refused(f"{stdlib}/{SITE} was changed after blasenv placed it; move it elsewhere and try again")


def plan_uninstall(stdlib: str) -> list[Step]:
    """The steps that bring the directory ``stdlib`` back to what it was; none when nothing of ours is there."""
    manifest = read_manifest(stdlib)
    site, aside = f"{stdlib}/{SITE}", f"{stdlib}/{ASIDE}"
    contents = read_file(site)
    marked = is_marked(contents)
    startup = f"{stdlib}/{STARTUP}"
    if not marked and not os.path.isdir(startup):
        return []
    if marked and not is_ours(contents, manifest):
        raise changed(stdlib)
    was_aside = os.path.lexists(aside) and (manifest is None or manifest.aside != "")
    if was_aside and not marked and os.path.lexists(site) and not same(site, aside):
        raise Refused(f"{site} is not blasenv's any more, and {aside} is what was there before; keep one and try again")
    steps = []
    if was_aside:
        steps.append(Step(f"put {aside} back to {site}", partial(_put_back, aside, site)))
    elif marked:
        steps.append(Step(f"remove {site}", partial(remove_file, site)))
    if manifest is not None and manifest.aside == "diverted":
        steps.append(Step(f"end the dpkg-divert of {site}", partial(divert, "--remove", site, aside)))
    steps.append(Step(f"remove {startup}", partial(_remove_startup, stdlib, manifest)))
    return steps


def _put_back(aside: str, site: str) -> None:
    os.replace(aside, site)
    remove_file(aside)  # rename() leaves it when both are the same inode, as before the first write


def _remove_startup(stdlib: str, manifest: Manifest | None) -> None:
    """Remove the copy and its .pyc files, and restore the saved ones.

    The manifest goes when all that it tells of is done, and the last file is what can still be run.
    """
    startup, cache = f"{stdlib}/{STARTUP}", f"{stdlib}/__pycache__"
    # Before the manifest is written, nothing outside of this directory has changed.
    if manifest is not None or os.path.exists(f"{startup}/__init__.py"):
        saved = manifest.saved if manifest else []
        for name in find_pycs(stdlib):
            if name not in saved:
                remove_file(f"{cache}/{name}")
        for name in saved:
            with suppress(FileNotFoundError):  # it is back already
                _put_back(f"{stdlib}/{SAVED}/{name}", f"{cache}/{name}")
        if manifest is not None and not manifest.pycache and os.path.isdir(cache) and not os.listdir(cache):
            os.rmdir(cache)
        remove_file(f"{stdlib}/{SITE}{TEMPORARY}")
        remove_file(f"{stdlib}/{ASIDE}{TEMPORARY}")
    last = [f"{stdlib}/{MANIFEST}", f"{startup}/{REMOVER}"]
    for directory, _, names in os.walk(startup, topdown=False):
        for name in names:
            if f"{directory}/{name}" not in last:
                remove_file(f"{directory}/{name}")
        if directory != startup:
            os.rmdir(directory)
    for path in last:
        remove_file(path)
    if os.path.isdir(startup):
        os.rmdir(startup)
    sync_directory(stdlib)


def main(words: list[str]) -> int:
    """Remove the copy that this file lies in; the exit status."""
    stdlib = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if words not in ([], ["--dry-run"]):
        print(f"usage: python3 -m {STARTUP} [--dry-run]: take blasenv's copy in {stdlib} away", file=sys.stderr)
        return 2
    try:
        with locked(stdlib):
            for step in plan_uninstall(stdlib):
                print(step.sentence, flush=True)
                if not words:
                    step.do()
    except (Refused, OSError, subprocess.SubprocessError) as error:
        print(f"{STARTUP}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
