"""Write the files for containers into a directory, and tell whether one has them.

Running containers have the directory mounted, so it is changed in place, and in an order in
which no start ever sees half of one version and half of another: sitecustomize.py, which
makes the others count, goes first and comes last.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress

from blasenv import __version__
from blasenv.errors import Failure
from blasenv.inject.contents import PLACE, Contents, sources
from blasenv.output.text import printable
from blasenv.pythons.installed import SITE, STARTUP, digest, read_file

MANIFEST = "manifest.json"
OURS = re.compile(
    rf"({SITE}|{STARTUP}/\w+\.py|({STARTUP}/)?__pycache__/\w+\.[\w.-]+\.pyc)", re.ASCII
)  # a manifest from elsewhere leads nowhere else
TAG = re.compile(r"\.(cpython-3(\d+)t?)\.pyc$", re.ASCII)
PUBLIC = 0o755  # whatever the umask: a container's user reads it
MTIME = 315_532_800  # 1980, the first year that a zip archive can tell
DEFAULT = "/usr/local/lib/blasenv"
"""Where the runtime looks when it is not told: containerd, Podman and CRI-O hand it no options."""


def read_manifest(directory: str) -> dict[str, str] | None:
    """The SHA-256 of each file that was exported into ``directory``, None when none of ours was."""
    try:
        document = json.loads(read_file(f"{directory}/{MANIFEST}") or b"")
        if document["blasenv"] and document["schema"] == 1:
            return {name: str(value) for name, value in document["files"].items() if OURS.fullmatch(name)}
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    return None


def check_directory(directory: str) -> None:
    """Raise Failure for a directory that holds something else."""
    if os.path.lexists(directory) and not os.path.isdir(directory):
        raise Failure(f"{printable(directory)} is not a directory; name one that is empty or new")
    if os.path.isdir(directory) and os.listdir(directory) and read_manifest(directory) is None:
        raise Failure(f"{printable(directory)} holds what is not blasenv's; name a directory that is empty or new")


def export(contents: Contents, directory: str) -> None:
    """Write ``contents``. Raises Failure for a directory that holds something else, OSError when it can't be done."""
    check_directory(directory)
    os.makedirs(directory, exist_ok=True)
    old = read_manifest(directory)
    for name in sorted(old or (), key=lambda name: name != SITE):
        with suppress(FileNotFoundError):
            os.unlink(f"{directory}/{name}")
    document = {
        "schema": 1,
        "blasenv": __version__,
        "place": PLACE,
        "files": {name: digest(code) for name, code in sorted(contents.files.items())},
    }
    _write(directory, MANIFEST, (json.dumps(document, indent=2) + "\n").encode())
    for name, code in contents.files.items():
        _write(directory, name, code)
    for place in (f"{STARTUP}/__pycache__", "__pycache__", STARTUP, ""):
        with suppress(FileNotFoundError):
            os.chmod(f"{directory}/{place}", PUBLIC)
            os.utime(f"{directory}/{place}", (MTIME, MTIME))


def keep(contents: Contents, directory: str) -> None:
    """Add the byte code that is in ``directory`` already, made of the same sources by Pythons that are not here."""
    old = read_manifest(directory) or {}
    if any(old.get(name) != digest(code) for name, code in sources().items()):
        return
    for name, value in old.items():
        found = TAG.search(name)
        code = read_file(f"{directory}/{name}") if found and found[1] not in contents.compiled else None
        if code is not None and digest(code) == value:
            contents.files[name] = code
    for found in map(TAG.search, contents.files):
        if found:
            contents.compiled.setdefault(found[1], (3, int(found[2])))
    contents.files = dict(sorted(contents.files.items(), key=lambda item: (item[0] == SITE, item[0])))


def _write(directory: str, name: str, code: bytes) -> None:
    path = f"{directory}/{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with suppress(FileNotFoundError):
        os.unlink(path + ".new")
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(fd, "wb") as file:
        file.write(code)
        os.fchmod(fd, 0o644)
    os.utime(path + ".new", (MTIME, MTIME))
    os.replace(path + ".new", path)


def damage(directory: str) -> str:
    """What is wrong with an exported directory, "" when it is whole and of this version."""
    files = read_manifest(directory)
    again = f"blasenv inject export {printable(directory)}"
    if files is None:
        return f"nothing is exported to {printable(directory)}: {again}"
    for name, value in files.items():
        contents = read_file(f"{directory}/{name}")
        if contents is None or digest(contents) != value:
            return f"{printable(directory)}/{name} is not as it was exported: {again}"
    for name, code in sources().items():
        if files.get(name) != digest(code):
            return f"{printable(directory)} is of another version than this blasenv: {again}"
    return ""


def read_exported(directory: str) -> dict[str, bytes]:
    """The files of an exported directory. Raises Failure unless it is whole and of this version."""
    wrong = damage(directory)
    if wrong:
        raise Failure(wrong)
    return {name: read_file(f"{directory}/{name}") or b"" for name in read_manifest(directory) or {}}
