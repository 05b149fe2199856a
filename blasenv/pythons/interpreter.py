"""What a Python interpreter is, read from the files around it. Nothing here starts one.

Paths are those inside ``root``, a directory that stands for /, unless a name says otherwise.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from blasenv.pythons.owner import Owner

EXECUTABLE = re.compile(r"(?:python|pypy)(?:3(?:\.\d+t?)?)?")
STDLIB = re.compile(r"(?:python|pypy)(3)\.(\d+)t?")
OLDEST = (3, 9)
MAX_CFG = 1 << 16


@dataclass(frozen=True)
class Interpreter:
    """A Python that can be started, and the directories it imports from."""

    path: str
    """The executable: a venv's own, or the base's."""
    kind: str
    """"system", "pyenv", "uv", "conda", "pypy" or "python" for a base; "venv", "virtualenv" or "uv venv"."""
    version: tuple[int, int] | None
    """Major and minor; None when the files don't say."""
    stdlib: str
    """The directory of the standard library, which a venv shares with its base; "" when that is gone."""
    base: str
    """The base's executable; for a base, its own."""
    site_packages: tuple[str, ...]
    """Where its hooks (.pth files) are read."""
    owner: Owner | None = None
    """Who has it, when it is not this image; only a search tells."""

    @property
    def is_venv(self) -> bool:
        return self.kind in ("venv", "virtualenv", "uv venv")

    @property
    def unsupported(self) -> str:
        """Why blasenv can do nothing for it, "" when it can."""
        if self.version is not None and self.version < OLDEST:
            return "older than Python 3.9"
        if os.path.basename(self.stdlib).startswith("pypy"):
            return "PyPy has no os.sched_getaffinity, so that the start-up code cannot count CPUs"
        return ""


def resolve(root: str, path: str) -> str:
    """The path inside ``root`` that ``path`` leads to when ``root`` is /; symlinks that end nowhere stay.

    os.path.realpath would take a link to /etc/alternatives out of the tree.
    """
    root = root.rstrip("/")
    parts = path.split("/")[::-1]
    done = ""
    links = 0
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        try:
            target = os.readlink(f"{root}{done}/{part}")
        except OSError:
            done = f"{done}/{part}"
            continue
        links += 1
        if links > 40:  # as the kernel: ELOOP
            return path
        if target.startswith("/"):
            done = ""
        parts.extend(target.split("/")[::-1])
    return done or "/"


def is_executable(path: str) -> bool:
    """Whether the file at a real ``path`` is an ELF binary that somebody may run.

    A shell script by that name is a wrapper (pyenv's shims), and what it wraps is found elsewhere.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
            mode = os.fstat(file.fileno()).st_mode
            return stat.S_ISREG(mode) and mode & 0o111 != 0 and file.read(4) == b"\x7fELF"
    except OSError:
        return False


def read_venv(root: str, directory: str) -> dict[str, str] | None:
    """The lines ``key = value`` of a directory's pyvenv.cfg (PEP 405), None when it has none."""
    try:
        with open(f"{root.rstrip('/')}{directory}/pyvenv.cfg", encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(MAX_CFG)
    except OSError:
        return None
    pairs = [line.partition("=") for line in text.splitlines()]
    return {key.strip().lower(): value.strip() for key, equals, value in pairs if equals}


def _find_stdlib(root: str, real: str) -> str:
    """The standard library of a base's executable, without symlinks; "" if there is none.

    As CPython's getpath does: from the executable's directory upwards, the first that has
    lib/pythonX.Y/os.py in it. An executable that does not say its version takes the only one.
    """
    name = os.path.basename(real)
    directory = os.path.dirname(real)
    prefix = root.rstrip("/")
    while True:
        for lib in ("lib", "lib64"):
            found = []
            try:
                names = os.listdir(f"{prefix}{directory.rstrip('/')}/{lib}")
            except OSError:
                continue
            for entry in names:
                if STDLIB.fullmatch(entry) and (entry == name or not STDLIB.fullmatch(name)):
                    place = resolve(root, f"{directory}/{lib}/{entry}")
                    if os.path.isfile(f"{prefix}{resolve(root, place + '/os.py')}") and entry[:4] == name[:4]:
                        found.append(place)
            if len(set(found)) == 1:
                return found[0]
        if directory in ("/", ""):
            return ""
        directory = os.path.dirname(directory)


def _base_kind(root: str, stdlib: str) -> str:
    prefix, _, lib = stdlib.rpartition("/lib")[0], "", os.path.basename(stdlib)
    parent, name = os.path.split(prefix)
    if lib.startswith("pypy"):
        return "pypy"
    if os.path.isdir(f"{root.rstrip('/')}{prefix}/conda-meta"):
        return "conda"
    if os.path.basename(parent) == "versions" and "pyenv" in os.path.basename(os.path.dirname(parent)):
        return "pyenv"
    if re.fullmatch(r"(cpython|pypy)-3\.\d.*-linux.*", name):
        return "uv"
    return "system" if prefix in ("/usr", "") else "python"


def _site_packages(root: str, prefix: str, stdlib: str) -> tuple[str, ...]:
    """The directories below ``prefix`` where site reads .pth files, Debian's included, if they exist."""
    lib = os.path.basename(stdlib)
    places = [f"{prefix}/lib/{lib}/site-packages", f"{prefix}/lib64/{lib}/site-packages"]
    if prefix in ("/usr", ""):
        debians = (f"/usr/local/lib/{lib}", "/usr/lib/python3", f"/usr/lib/{lib}")
        places += [f"{place}/dist-packages" for place in debians]
    found = dict.fromkeys(resolve(root, place) for place in places)
    return tuple(place for place in found if os.path.isdir(root.rstrip("/") + place))


def identify(path: str, root: str = "/") -> Interpreter | None:
    """The interpreter at ``path``, None when there is none.

    A venv is one by its pyvenv.cfg, next to the executable or one directory above it; the
    executable's symlinks are not followed for that, as Python doesn't.
    """
    prefix = root.rstrip("/")
    path = os.path.normpath("/" + path)
    path = os.path.join(resolve(root, os.path.dirname(path)), os.path.basename(path))
    real = resolve(root, path)
    if not is_executable(prefix + real):
        return None
    for directory in (os.path.dirname(path), os.path.dirname(os.path.dirname(path))):
        cfg = read_venv(root, directory)
        if cfg is not None and "home" in cfg:
            return _identify_venv(root, path, real, directory, cfg)
    stdlib = _find_stdlib(root, real)
    if not stdlib:
        return None
    base = stdlib.rpartition("/lib")[0]
    return Interpreter(
        path=path,
        kind=_base_kind(root, stdlib),
        version=_version(os.path.basename(stdlib)),
        stdlib=stdlib,
        base=path,
        site_packages=_site_packages(root, base, stdlib),
    )


def _identify_venv(root: str, path: str, real: str, directory: str, cfg: dict[str, str]) -> Interpreter:
    kind = "virtualenv" if "virtualenv" in cfg else "uv venv" if "uv" in cfg else "venv"
    home = resolve(root, cfg["home"])
    digits = re.match(r"(\d+)\.(\d+)", cfg.get("version", cfg.get("version_info", "")))
    version = (int(digits[1]), int(digits[2])) if digits else None
    # With --copies the executable is no link to its base; the base's directory and version are told.
    for base in [real, f"{home}/{os.path.basename(real)}", *executables(root, home)]:
        found = None if base.startswith(directory + "/") else identify(base, root)
        if found is not None and version in (None, found.version):
            sites = _site_packages(root, directory, found.stdlib)
            if cfg.get("include-system-site-packages", "").lower() == "true":
                sites += found.site_packages
            return Interpreter(path, kind, found.version, found.stdlib, found.base, sites)
    return Interpreter(path, kind, version, "", f"{home}/{os.path.basename(real)}", ())


def _version(lib: str) -> tuple[int, int] | None:
    match = STDLIB.fullmatch(lib)
    return (int(match[1]), int(match[2])) if match else None


def executables(root: str, directory: str) -> Iterator[str]:
    """The files in ``directory`` that are named like an interpreter, the most telling name first."""
    try:
        names = os.listdir(root.rstrip("/") + directory)
    except OSError:
        return
    for name in sorted(filter(EXECUTABLE.fullmatch, names), key=lambda name: (-len(name), name)):
        yield f"{directory.rstrip('/')}/{name}"
