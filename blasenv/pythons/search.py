"""Find the interpreters of an image: on PATH, in running processes, and by a bounded walk."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from blasenv.pythons.interpreter import EXECUTABLE, STDLIB, Interpreter, executables, identify, resolve
from blasenv.pythons.owner import Owner, other_root, owner

# Nobody's interpreters, another image's, or links to them (/etc/alternatives).
SKIPPED_NAMES = frozenset(
    (
        *("alternatives", "node_modules", "site-packages", "dist-packages", "__pycache__", ".git", ".hg", ".svn"),
        *("lost+found", "overlay2"),
    )
)
SKIPPED_PLACES = frozenset(
    f"/{place}"
    for place in (
        *("proc", "sys", "dev", "run", "boot", "usr/include", "usr/share", "usr/src"),
        *("var/cache", "var/lib/apt", "var/lib/containerd", "var/lib/containers", "var/lib/docker", "var/lib/dpkg"),
    )
)
# The file systems of local disks and of containers. A walk over a network mount may take hours.
LOCAL = frozenset(
    (
        *("aufs", "bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "fuse.fuse-overlayfs", "iso9660"),
        *("jfs", "overlay", "ramfs", "reiserfs", "rootfs", "squashfs", "tmpfs", "virtiofs", "xfs", "zfs"),
    )
)
MAX_DEPTH = 12
MAX_DIRECTORIES = 400_000


@dataclass
class Found:
    """What a search came upon."""

    interpreters: list[Interpreter] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Where it did not look, and why."""
    directories: int = 0


class Progress:
    """One line on stderr that says where the search is, when stderr is a terminal."""

    def __init__(self) -> None:
        self.shown = sys.stderr is not None and sys.stderr.isatty()
        self.due = time.monotonic() + 0.5  # a short search shows nothing

    def show(self, count: int, directory: str) -> None:
        """Tell, at most ten times a second."""
        if self.shown and time.monotonic() > self.due:
            self.due = time.monotonic() + 0.1
            text = f"{count} directories, in {directory}".encode("ascii", "replace").decode()
            print(f"\r\x1b[K{text[:78]}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the line away."""
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def foreign_mounts(mounts: bytes) -> dict[str, str]:
    """The mount points in the text of /proc/self/mounts that are no local disk, and their type.

    fstab(5): source, mount point, type, …, with blanks and backslashes as octal escapes.
    """
    found: dict[str, str] = {}
    for line in mounts.split(b"\n"):
        fields = line.split(b" ")
        if len(fields) > 2:
            point = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 255]), fields[1])
            kind = fields[2].decode("ascii", "replace")
            found.pop(os.fsdecode(point), None)
            if kind not in LOCAL:
                found[os.fsdecode(point)] = kind
    return found


def _mounts() -> dict[str, str]:
    try:
        with open("/proc/self/mounts", "rb") as file:
            return foreign_mounts(file.read())
    except OSError:
        return {}


def walk(root: str, places: Iterable[str], found: Found, progress: Progress) -> Iterator[str]:
    """The paths inside ``root`` of files named like an interpreter, below ``places``; no symlink is followed."""
    prefix = root.rstrip("/")
    mounts = _mounts()
    for place in places:
        todo = [(resolve(root, place), 0)]
        while todo:
            directory, depth = todo.pop()
            real = prefix + directory
            if found.directories >= MAX_DIRECTORIES:
                found.notes.append(f"stopped in {directory} after {MAX_DIRECTORIES} directories; name where to look")
                return
            kind = mounts.get(real or "/")
            if kind is not None and depth and (directory not in SKIPPED_PLACES):
                found.notes.append(f"not looked into: {directory} ({kind})")
            if kind is not None and depth:
                continue
            found.directories += 1
            progress.show(found.directories, directory)
            try:
                with os.scandir(real or "/") as entries:
                    below = []
                    interesting = False
                    in_lib = os.path.basename(directory) in ("lib", "lib64")  # and not /opt/python3.13, a prefix
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            path = f"{directory.rstrip('/')}/{entry.name}"
                            if (
                                depth < MAX_DEPTH
                                and entry.name not in SKIPPED_NAMES
                                and path not in SKIPPED_PLACES
                                and not (in_lib and STDLIB.fullmatch(entry.name))
                            ):
                                below.append((path, depth + 1))
                        elif entry.name.startswith(("python", "pypy")) and EXECUTABLE.fullmatch(entry.name):
                            interesting = True
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    found.notes.append(f"not looked into: {directory} ({error.strerror})")
                continue
            if interesting:
                yield from executables(root, directory or "/")
            todo.extend(sorted(below, reverse=True))


def _running() -> Iterator[str]:
    """The executables of the processes that can be seen. Only their /proc/PID/exe is read."""
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return
    for pid in pids:
        with suppress(OSError):
            path = os.readlink(f"/proc/{pid}/exe")
            # A process of another container has the same path and another file.
            if EXECUTABLE.fullmatch(os.path.basename(path)) and os.path.samefile(path, f"/proc/{pid}/exe"):
                yield path


def _identify(path: str, root: str) -> Interpreter | None:
    """The interpreter at ``path``. In another root that lies in this one, its absolute links lead to places there."""
    top = other_root(root, path)
    if not top:
        return identify(path, root)
    found = identify(path[len(top) :], root.rstrip("/") + top)
    return found and replace(
        found,
        path=top + found.path,
        stdlib=top + found.stdlib if found.stdlib else "",
        base=top + found.base,
        site_packages=tuple(top + place for place in found.site_packages),
    )


def _on_path(root: str) -> set[str]:
    """The standard libraries of what a user of the image can start by name, and of what runs this."""
    directories = ["/usr/local/bin", "/usr/bin", "/bin"]
    found = set()
    if root == "/":
        directories += [place for place in os.environ.get("PATH", "").split(":") if place.startswith("/")]
        found.add(os.path.realpath(os.path.dirname(os.__file__)))
    for directory in dict.fromkeys(directories):
        for path in executables(root, directory):
            interpreter = identify(path, root)
            if interpreter is not None:
                found.add(interpreter.stdlib)
    return found


def find(root: str = "/", places: Iterable[str] = (), progress: Progress | None = None) -> Found:
    """The interpreters in ``places`` and below, or without places in the whole image.

    Each base and each venv comes once, bases first. Without places, the directories on PATH and
    the running processes are asked, too, unless another ``root`` than / is looked at. Each says
    its owner, when that is not this image; who looks into an owner's directory has named it.
    """
    found = Found()
    progress = progress or Progress()
    places = [resolve(root, place) for place in places]
    bases: dict[str, Interpreter] = {}
    venvs: dict[tuple[str, str], Interpreter] = {}

    def candidates() -> Iterator[str]:
        if not places and root == "/":
            for directory in os.environ.get("PATH", "").split(":"):
                if directory.startswith("/"):
                    yield from executables(root, directory)
            yield from _running()
        for directory in () if places else ("/usr/bin", "/usr/local/bin", "/bin"):
            yield from executables(root, directory)
        yield from walk(root, places or ["/"], found, progress)

    for path in candidates():
        interpreter = _identify(path, root)
        if interpreter is None:
            continue
        if interpreter.is_venv:
            place = resolve(root, os.path.dirname(interpreter.path))
            venvs.setdefault((place, interpreter.stdlib), interpreter)
        else:
            bases.setdefault(interpreter.stdlib, interpreter)
    # A venv may lead to a base that lies outside of the places.
    for venv in list(venvs.values()):
        base = _identify(venv.base, root) if venv.stdlib not in bases and venv.stdlib else None
        if base is not None and not base.is_venv:
            bases[base.stdlib] = base
    progress.end()
    found.interpreters = _with_owners(root, places, [*bases.values()], [*venvs.values()])
    found.notes = list(dict.fromkeys(found.notes))
    return found


def _with_owners(root: str, places: list[str], bases: list[Interpreter], venvs: list[Interpreter]) -> list[Interpreter]:
    """Bases, then venvs, by path, each with its owner. A venv is its base's owner's, or in another root that one's."""
    on_path = _on_path(root)
    made: dict[str, list[str]] = {}
    for venv in venvs:
        made.setdefault(venv.stdlib, []).append(os.path.dirname(os.path.dirname(venv.path)))
    owners: dict[str, Owner | None] = {}

    def whose(one: Interpreter) -> Owner | None:
        if not one.stdlib:  # the base is gone
            top = other_root(root, one.path)
            return Owner("root", top) if top else None
        if one.stdlib not in owners:
            known = one.stdlib in on_path
            owners[one.stdlib] = None if known else owner(root, one.stdlib, made.get(one.stdlib, ()))
        return owners[one.stdlib]

    rows = []
    for one in sorted(bases + venvs, key=lambda one: (one.is_venv, one.path)):
        has = whose(one)
        named = has and any(f"{place}/".startswith(f"{has.directory}/") for place in places)
        rows.append(replace(one, owner=None if named else has))
    return rows
