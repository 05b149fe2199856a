"""Put the copy of the start-up code beside a standard library; removal.py takes it away.

Both are lists of steps, each with its sentence, each atomic or harmless. A kill between any
two leaves an interpreter that starts as before or is covered, and what is needed to go on or
back: the manifest is the first file there, and goes when all that it tells of is undone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial

from blasenv import __version__
from blasenv.errors import Failure
from blasenv.pythons.installed import sitecustomize_state, wanted
from blasenv.pythons.removal import (
    ASIDE,
    MANIFEST,
    SAVED,
    SITE,
    STARTUP,
    TEMPORARY,
    TIMEOUT,
    Manifest,
    Step,
    changed,
    digest,
    divert,
    dpkg,
    find_pycs,
    is_marked,
    is_ours,
    read_file,
    read_manifest,
    remove_file,
    same,
    sync_directory,
)

COMPILE = "import py_compile, sys; [py_compile.compile(file, doraise=True) for file in sys.argv[1:]]"


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
    sync_directory(os.path.dirname(path))


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


def _owned_bydpkg(path: str) -> bool:
    """Whether a Debian package has the file, so that its next upgrade would write it again."""
    if not os.path.exists("/var/lib/dpkg/status"):
        return False
    if shutil.which("dpkg-query") is None or shutil.which("dpkg-divert") is None:
        raise Failure(f"{path} belongs to a Debian package, and dpkg-divert is not here to put it aside")
    return dpkg("dpkg-query", "--search", path).returncode == 0


def plan_install(stdlib: str, interpreter: str) -> list[Step]:
    """The steps that cover the standard library in the directory ``stdlib``; none when all is in place.

    ``interpreter`` is the executable that compiles the files. Raises Failure or Refused with
    a sentence where it can't be done.
    """
    files = wanted()
    old = read_manifest(stdlib)
    site, aside, manifest = f"{stdlib}/{SITE}", f"{stdlib}/{ASIDE}", f"{stdlib}/{MANIFEST}"
    present = {name: read_file(f"{stdlib}/{name}") for name in files}
    ours = is_ours(present[SITE], old)
    if is_marked(present[SITE]) and not ours:
        raise changed(stdlib)
    if os.path.isdir(site):
        raise Failure(f"{site} is a directory; blasenv cannot put it aside")
    hides = os.path.lexists(site) and not ours
    if hides and os.path.lexists(aside) and not same(site, aside):
        raise Failure(f"both {site} and {aside} are somebody else's; remove one of them")

    new = Manifest(__version__)
    if old is not None:
        new.aside, new.saved, new.pycache = old.aside, old.saved, old.pycache
    else:
        new.pycache = os.path.isdir(f"{stdlib}/__pycache__")
    if hides:
        new.aside = "diverted" if _owned_bydpkg(site) else "moved"
        if not (old and old.aside):  # else it is a half-done install or uninstall that saved them
            new.saved = [name for name in find_pycs(stdlib) if not name.startswith(ASIDE[:-3])]
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
            steps.append(Step(f"dpkg-divert {site} to {ASIDE}", partial(divert, "--add", site, aside)))
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
