"""Put the copy of the start-up code beside a standard library, and take it away.

Both are lists of steps, each with its sentence, each atomic or harmless. A kill between any
two leaves an interpreter that starts as before or is covered, and what is needed to go on or
back: the manifest is the first file there and the last to go.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

from blasenv.errors import Failure
from blasenv.pythons.installed import (
    ASIDE,
    MANIFEST,
    MARK,
    SAVED,
    SITE,
    STARTUP,
    Manifest,
    digest,
    read_file,
    read_manifest,
    sitecustomize_state,
    wanted,
)

TEMPORARY = ".blasenv-new"
COMPILE = "import py_compile, sys; [py_compile.compile(file, doraise=True) for file in sys.argv[1:]]"
TIMEOUT = 120  # seconds for one start of an interpreter, or one call of dpkg


class Step(NamedTuple):
    """One thing to do."""

    sentence: str
    do: Callable[[], None]


@contextmanager
def locked(directory: str) -> Iterator[None]:
    """Hold the lock on a standard library's directory, so that two installs take turns."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: str, contents: bytes) -> None:
    """Replace or make the file at ``path``, whole or not at all, also when the power fails."""
    new = path + TEMPORARY
    remove_file(new)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(fd, "wb") as file:
        file.write(contents)
        file.flush()
        os.fchmod(fd, 0o644)  # whatever the umask: other users' processes read it
        os.fsync(fd)
    os.replace(new, path)
    _sync_directory(os.path.dirname(path))


def remove_file(path: str) -> None:
    """Remove the file or link at ``path`` if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def _keep(path: str, copy: str) -> None:
    """Give the file or link at ``path`` the second name ``copy``; the same inode where that can be."""
    new = copy + TEMPORARY
    remove_file(new)
    try:
        os.link(path, new, follow_symlinks=False)
    except OSError:
        shutil.copy2(path, new, follow_symlinks=False)
        stat = os.lstat(path)
        os.chown(new, stat.st_uid, stat.st_gid, follow_symlinks=False)
    # rename() does nothing when both names are the same inode.
    os.replace(new, copy)
    remove_file(new)


def _same(path: str, other: str) -> bool:
    """Whether two paths are the same link, or files with the same contents."""
    if os.path.islink(path) or os.path.islink(other):
        return os.path.islink(path) and os.path.islink(other) and os.readlink(path) == os.readlink(other)
    return read_file(path) == read_file(other)


def _pycs(stdlib: str) -> list[str]:
    """The names in __pycache__ that belong to sitecustomize.py and to the one put aside."""
    stems = (SITE[:-3] + ".", ASIDE[:-3] + ".")
    try:
        return sorted(name for name in os.listdir(f"{stdlib}/__pycache__") if name.startswith(stems))
    except FileNotFoundError:
        return []


def _dpkg(*command: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def _owned_by_dpkg(path: str) -> bool:
    """Whether a Debian package has the file, so that its next upgrade would write it again."""
    if not os.path.exists("/var/lib/dpkg/status"):
        return False
    if shutil.which("dpkg-query") is None or shutil.which("dpkg-divert") is None:
        raise Failure(f"{path} belongs to a Debian package, and dpkg-divert is not here to put it aside")
    return _dpkg("dpkg-query", "--search", path).returncode == 0


def _divert(action: str, path: str, aside: str) -> None:
    """Tell dpkg to unpack ``path`` as ``aside`` from now on ("--add"), or no more ("--remove")."""
    result = _dpkg("dpkg-divert", "--local", "--no-rename", "--divert", aside, action, path)
    if result.returncode:
        raise Failure(f"{path}: {' '.join(result.stderr.split()) or 'dpkg-divert failed'}")


def _marked(site: bytes | None) -> bool:
    """Whether the contents of a sitecustomize.py are ours, or were before somebody changed them."""
    return site is not None and MARK in site


def _ours(site: bytes | None, manifest: Manifest | None) -> bool:
    """Whether the contents of a sitecustomize.py are as blasenv placed them, so that they can go."""
    if site is None or MARK not in site:
        return False
    # Without a manifest it was copied by hand, and whatever version it is, it can be replaced.
    return manifest is None or digest(site) in [digest(wanted()[SITE]), *manifest.files.get(SITE, [])]


def _changed(stdlib: str) -> Failure:
    return Failure(f"{stdlib}/{SITE} was changed after blasenv placed it; move it elsewhere and try again")


def plan_install(stdlib: str, interpreter: str) -> list[Step]:
    """The steps that cover the standard library in the directory ``stdlib``; none when all is in place.

    ``interpreter`` is the executable that compiles the files. Raises Failure with a sentence
    where it can't be done.
    """
    files = wanted()
    old = read_manifest(stdlib)
    site, aside, manifest = f"{stdlib}/{SITE}", f"{stdlib}/{ASIDE}", f"{stdlib}/{MANIFEST}"
    present = {name: read_file(f"{stdlib}/{name}") for name in files}
    ours = _ours(present[SITE], old)
    if _marked(present[SITE]) and not ours:
        raise _changed(stdlib)
    if os.path.isdir(site):
        raise Failure(f"{site} is a directory; blasenv cannot put it aside")
    hides = os.path.lexists(site) and not ours
    if hides and os.path.lexists(aside) and not _same(site, aside):
        raise Failure(f"both {site} and {aside} are somebody else's; remove one of them")

    new = Manifest()
    if old is not None:
        new.aside, new.saved, new.pycache = old.aside, old.saved, old.pycache
    else:
        new.pycache = os.path.isdir(f"{stdlib}/__pycache__")
    if hides:
        new.aside = "diverted" if _owned_by_dpkg(site) else "moved"
        if not (old and old.aside):  # else it is a half-done install or uninstall that saved them
            new.saved = [name for name in _pycs(stdlib) if not name.startswith(ASIDE[:-3])]
    for name, code in files.items():
        was = present[name]
        hashes = [digest(code)]
        if was is not None and (name != SITE or ours) and digest(was) not in hashes:
            hashes.append(digest(was))  # until it is replaced
        new.files[name] = hashes
    stale = [name for name, code in files.items() if present[name] != code]

    steps: list[Step] = []
    if stale or old is None or old.version != new.version:
        steps.append(Step(f"make {stdlib}/{STARTUP}", partial(os.makedirs, f"{stdlib}/{SAVED}", exist_ok=True)))
        for name in new.saved if hides else ():
            pyc, copy = f"{stdlib}/__pycache__/{name}", f"{stdlib}/{SAVED}/{name}"
            if old is None or not os.path.exists(copy):
                steps.append(Step(f"save {pyc}", partial(_keep, pyc, copy)))
        steps.append(Step(f"write {manifest}", partial(write_file, manifest, new.dump())))
    if hides:
        if new.aside == "diverted":
            steps.append(Step(f"dpkg-divert {site} to {ASIDE}", partial(_divert, "--add", site, aside)))
        steps.append(Step(f"keep {site} as {ASIDE}", partial(_keep, site, aside)))
    for name in stale:
        path = f"{stdlib}/{name}"
        steps.append(Step(f"write {path}", partial(write_file, path, files[name])))
    if steps or not sitecustomize_state(stdlib).compiled:
        sources = [*(f"{stdlib}/{name}" for name in files), aside]
        steps.append(Step(f"compile them with {interpreter}", partial(compile_files, interpreter, sources)))
    return steps


def compile_files(interpreter: str, sources: list[str]) -> None:
    """Write the .pyc files of ``sources``, for the version of ``interpreter``; without them starts are slower."""
    # -I -S: neither the environment, nor the user's, nor the site's code runs.
    existing = [path for path in sources if os.path.isfile(path)]
    start(interpreter, ["-I", "-S", "-c", COMPILE, *existing])


def start(interpreter: str, arguments: list[str]) -> str:
    """Start an interpreter with an environment that is clean of Python's and our variables.

    Returns what it printed; a Failure when it doesn't start, or ends with an error.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BLASENV_"))}
    try:
        result = subprocess.run(
            [interpreter, "-B", *arguments],  # leaves no .pyc files of its own
            env=environ, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=TIMEOUT, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{interpreter} does not start: {error}") from None
    said = result.stdout.decode("utf-8", "replace")
    if result.returncode:
        raise Failure(f"{interpreter} fails: {said.strip()[-300:] or f'exit status {result.returncode}'}")
    return said


def plan_uninstall(stdlib: str) -> list[Step]:
    """The steps that bring the directory ``stdlib`` back to what it was; none when nothing of ours is there."""
    manifest = read_manifest(stdlib)
    site, aside = f"{stdlib}/{SITE}", f"{stdlib}/{ASIDE}"
    contents = read_file(site)
    marked = _marked(contents)
    startup = f"{stdlib}/{STARTUP}"
    if not marked and not os.path.isdir(startup):
        return []
    if marked and not _ours(contents, manifest):
        raise _changed(stdlib)
    was_aside = os.path.lexists(aside) and (manifest is None or manifest.aside != "")
    if was_aside and not marked and os.path.lexists(site) and not _same(site, aside):
        raise Failure(f"{site} is not blasenv's any more, and {aside} is what was there before; keep one and try again")
    steps = []
    if was_aside:
        steps.append(Step(f"put {aside} back to {site}", partial(_put_back, aside, site)))
    elif marked:
        steps.append(Step(f"remove {site}", partial(remove_file, site)))
    if manifest is not None and manifest.aside == "diverted":
        steps.append(Step(f"end the dpkg-divert of {site}", partial(_divert, "--remove", site, aside)))
    steps.append(Step(f"remove {startup}", partial(_remove_startup, stdlib, manifest)))
    return steps


def _put_back(aside: str, site: str) -> None:
    os.replace(aside, site)
    remove_file(aside)  # rename() leaves it when both are the same inode, as before the first write


def _remove_startup(stdlib: str, manifest: Manifest | None) -> None:
    """Remove the copy and its .pyc files, and restore the saved ones. The manifest goes last."""
    startup, cache = f"{stdlib}/{STARTUP}", f"{stdlib}/__pycache__"
    # Before the manifest is written, nothing outside of this directory has changed.
    if manifest is not None or os.path.exists(f"{startup}/__init__.py"):
        saved = manifest.saved if manifest else []
        for name in _pycs(stdlib):
            if name not in saved:
                remove_file(f"{cache}/{name}")
        for name in saved:
            with suppress(FileNotFoundError):  # it is back already
                _put_back(f"{stdlib}/{SAVED}/{name}", f"{cache}/{name}")
        if manifest is not None and not manifest.pycache and os.path.isdir(cache) and not os.listdir(cache):
            os.rmdir(cache)
        remove_file(f"{stdlib}/{SITE}{TEMPORARY}")
        remove_file(f"{stdlib}/{ASIDE}{TEMPORARY}")
    for directory, _, names in os.walk(startup, topdown=False):
        for name in names:
            if f"{directory}/{name}" != f"{stdlib}/{MANIFEST}":
                remove_file(f"{directory}/{name}")
        if directory != startup:
            os.rmdir(directory)
    remove_file(f"{stdlib}/{MANIFEST}")
    if os.path.isdir(startup):
        os.rmdir(startup)
    _sync_directory(stdlib)
