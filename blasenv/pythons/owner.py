"""Whose an interpreter is: this image's, another root's that lies unpacked in it, or a product's that bundles it.

``install --all`` writes beside this image's only, for nobody asked for a change to the others. From the
files, and in this order, an interpreter is

1. this image's, when PATH finds it (its directory, or a link in one), when a venv that lies elsewhere was
   made from it, or when it runs blasenv;
2. another root's, when a directory above it is a root of its own: an os-release (os-release(5)) in its etc or
   usr/lib, or usr/bin, etc and lib beside one another;
3. this image's, when its prefix is a usual place itself (/usr, /usr/local, a home), or where pyenv, uv, conda,
   asdf, mise, rye, Hatch, or Homebrew keep theirs;
4. this image's, when the first name below a usual place (/, /opt, /srv, /usr/local, a home) is a Python's: it
   begins with python, cpython or pypy, such as /opt/python3.13 or /opt/python/3.13.1;
5. else a product's, such as /opt/blender/4.2/python.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

# The prefix of an interpreter in the place of a manager of Pythons, by that manager's own layout.
MANAGED = re.compile(
    r"/(?:.*/)?(?:"
    r"[^/]*pyenv[^/]*/versions/[^/]+"
    r"|\.?asdf/installs/python/[^/]+"
    r"|mise/installs/python/[^/]+"
    r"|\.rye/py/[^/]+"
    r"|hatch/pythons/[^/]+/python"
    r"|(?:cpython|pypy)-3\.\d[^/]*-linux[^/]*"  # uv, and python-build-standalone's archives
    r"|Cellar/python@3\.\d+/[^/]+"
    r")"
)
NAMED = re.compile(r"(?:c?python|pypy)[^/]*", re.IGNORECASE)
# Where people put software, each piece under a name of its own.
PLACES = re.compile(
    r"(?:/opt|/srv|/tmp|/root|/home/[^/]+|/usr/local(?:/lib|/share|/opt)?|/usr(?:/lib|/lib64|/libexec|/share)?"
    r"|/var(?:/lib)?)?(?:/\.local(?:/share|/lib|/opt)?)?(?=/|$)"
)


class Owner(NamedTuple):
    """Who has an interpreter, when it is not this image."""

    kind: str
    """"root" or "product"."""
    directory: str
    """The other root, or the product's directory."""

    @property
    def sentence(self) -> str:
        """Whose it is, for a person."""
        return f"another root's, {self.directory}" if self.kind == "root" else f"bundled in {self.directory}"


def is_root(path: str) -> bool:
    """Whether the real directory ``path`` is laid out as the root of a system."""
    if os.path.lexists(f"{path}/etc/os-release") or os.path.lexists(f"{path}/usr/lib/os-release"):
        return True
    return os.path.isdir(f"{path}/usr/bin") and os.path.isdir(f"{path}/etc") and os.path.lexists(f"{path}/lib")


def other_root(root: str, path: str) -> str:
    """The innermost directory above ``path`` inside ``root`` that is a root of its own, "" when there is none."""
    directory = os.path.dirname(path)
    while directory not in ("/", ""):
        if is_root(root.rstrip("/") + directory):
            return directory
        directory = os.path.dirname(directory)
    return ""


def _split(prefix: str) -> tuple[str, str]:
    """The usual place that an interpreter's prefix lies in, and the first name below it, "" when it is that place."""
    match = PLACES.match(prefix)
    place = match[0] if match else ""
    return place, prefix[len(place) :].strip("/").partition("/")[0]


def owner(root: str, stdlib: str, venvs: Iterable[str] = ()) -> Owner | None:
    """Who has the base with this standard library, by rules 2 to 5; None: this image.

    ``venvs`` are the directories of those made from it.
    """
    prefix = stdlib.rpartition("/lib")[0]
    place, name = _split(prefix)
    other = other_root(root, stdlib)
    directory = other or f"{place}/{name}"
    if any(not venv.startswith(directory.rstrip("/") + "/") for venv in venvs):
        return None
    if other:
        return Owner("root", other)
    if not name or NAMED.fullmatch(name) or MANAGED.fullmatch(prefix):
        return None
    if os.path.isdir(f"{root.rstrip('/')}{prefix}/conda-meta"):
        return None
    return Owner("product", directory)
