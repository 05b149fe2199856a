"""The state of a directory, to compare with a later one. Needs nothing but a Python."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection


def snapshot(directory: str | os.PathLike[str], skip: Collection[str] = ()) -> dict[str, tuple[object, ...]]:
    """Each path below ``directory``: mode, owner, contents or link, time; no time for directories.

    A directory whose path is in ``skip`` is left out.
    """
    top = os.fspath(directory)
    found: dict[str, tuple[object, ...]] = {}
    todo = [top]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.path in skip:
                    continue
                info = entry.stat(follow_symlinks=False)
                kind: tuple[object, ...] = (info.st_mode, info.st_uid, info.st_gid)
                if stat.S_ISDIR(info.st_mode):
                    todo.append(entry.path)
                elif stat.S_ISLNK(info.st_mode):
                    kind += (os.readlink(entry.path), info.st_mtime_ns)
                elif stat.S_ISREG(info.st_mode):
                    with open(entry.path, "rb") as file:
                        kind += (hashlib.sha256(file.read()).hexdigest(), info.st_mtime_ns)
                found[os.path.relpath(entry.path, top)] = kind
    return found
