"""What blasenv has put where interpreters start, and whether it is still what it should be.

Two forms: the hook, which pip puts into a site-packages directory, and the copy that
``blasenv install`` puts beside a standard library::

    sitecustomize.py                 runs the copy; sitecustomize_template/ has its text
    sitecustomize.distrib.py         what was in its place before, if anything
    _blasenv_startup/                the start-up code, as in the package; not named blasenv,
        __init__.py, …               which would hide one that pip has installed
    _blasenv_startup/__main__.py     takes all of it away, when blasenv itself is gone
    _blasenv_startup/manifest.json   what was placed, so that it can be taken away again
    _blasenv_startup/saved/          the .pyc files of the former sitecustomize.py
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from blasenv import (
    __file__ as PACKAGE_FILE,  # noqa: N812
    __version__,
)
from blasenv.pythons.removal import ASIDE, MARK, REMOVER, SITE, STARTUP, digest, read_file, read_manifest

__all__ = [
    "HOOK",
    "SITE",
    "STARTUP",
    "STARTUP_FILES",
    "State",
    "digest",
    "hook_ignored",
    "hook_state",
    "read_file",
    "sitecustomize_state",
    "template",
    "wanted",
]

PACKAGE = os.path.dirname(os.path.abspath(PACKAGE_FILE))
# All that runs when an interpreter starts.
STARTUP_FILES = (
    "__init__.py",
    "_config_file.py",
    "_cpu_count.py",
    "_host.py",
    "_workers.py",
)
HOOK = "a0_blasenv.pth"
# PEP 829, https://peps.python.org/pep-0829/: since 3.15 a .start file silences the lines of a .pth file of its name;
# from 3.18 on no import line of any .pth file is executed.
START = "a0_blasenv.start"
SILENCED_BY_START = 15
NOT_EXECUTED = 18
VERSION = re.compile(rb'^__version__ = "([^"\n]{1,40})"$', re.MULTILINE)


def template() -> bytes:
    """The text of sitecustomize.py. A wheel has it in the package, a checkout beside it."""
    for directory in (PACKAGE, os.path.dirname(PACKAGE)):
        contents = read_file(os.path.join(directory, "sitecustomize_template", SITE))
        if contents is not None:
            return contents
    raise FileNotFoundError(f"{PACKAGE}/sitecustomize_template/{SITE} is missing; install blasenv again")


def wanted() -> dict[str, bytes]:
    """The files of a copy by their path below the standard library, the one that counts last."""
    files = {}
    for name, source in {**dict(zip(STARTUP_FILES, STARTUP_FILES)), REMOVER: "pythons/removal.py"}.items():
        with open(os.path.join(PACKAGE, source), "rb") as file:
            files[f"{STARTUP}/{name}"] = file.read()
    return {**files, SITE: template()}


@dataclass(frozen=True)
class State:
    """One form of blasenv in one place."""

    form: str
    """"hook" or "sitecustomize"; "" when nothing is there."""
    version: str = ""
    damage: str = ""
    """What is wrong, "" when it is intact."""
    compiled: bool = True
    """Whether its .pyc files are there. Without them each start compiles the code anew."""
    by_hand: bool = False
    """Whether it has no manifest: somebody copied the files."""
    ignored: str = ""
    """Why this Python does not run it although it is intact, "" when it does."""

    @property
    def works(self) -> bool:
        return self.form != "" and not self.damage and not self.ignored

    @property
    def outdated(self) -> bool:
        return self.works and self.version != __version__


def _version_of(contents: bytes | None) -> str:
    match = VERSION.search(contents or b"")
    return match[1].decode("ascii", "replace") if match else ""


def _compiled(path: str, lib: str) -> bool:
    """Whether a source has a .pyc that is not older, for the version in ``lib``, such as python3.11."""
    directory, name = os.path.split(path)
    tag = re.sub(r"^python3\.(\d+)t?$", r"cpython-3\1", lib)
    try:
        changed = int(os.stat(path).st_mtime)
        with os.scandir(f"{directory}/__pycache__") as entries:
            names = [entry.name for entry in entries if entry.name.startswith(f"{name[:-3]}.")]
        for found in names:
            if found == f"{name[:-3]}.{tag}.pyc" or (tag == lib and found.endswith(".pyc")):
                head = (read_file(f"{directory}/__pycache__/{found}") or b"")[:16]
                # PEP 552: a zero word of flags, then the source's mtime; other flags mean a hash.
                if head[4:8] != bytes(4) or head[8:12] == (changed & 0xFFFFFFFF).to_bytes(4, "little"):
                    return len(head) == 16
    except OSError:
        pass
    return False


def sitecustomize_state(stdlib: str) -> State:
    """The copy beside the standard library in the directory ``stdlib`` (a real path)."""
    site = read_file(f"{stdlib}/{SITE}")
    code = {name: read_file(f"{stdlib}/{STARTUP}/{name}") for name in STARTUP_FILES}
    manifest = read_manifest(stdlib)
    ours = site is not None and MARK in site
    if not ours and manifest is None and code["__init__.py"] is None:
        return State("")
    version = _version_of(code["__init__.py"])
    damage = ""
    if site is None:
        damage = f"{SITE} is missing"
    elif not ours:
        damage = f"{SITE} is somebody else's"
    for name, contents in code.items():
        if contents is None:
            damage = damage or f"{STARTUP}/{name} is missing"
    if manifest is not None:
        for name, hashes in manifest.files.items():
            contents = read_file(f"{stdlib}/{name}")
            if contents is None or digest(contents) != hashes[0]:
                damage = damage or f"{name} is not as it was placed"
        if manifest.aside and not os.path.lexists(f"{stdlib}/{ASIDE}"):
            damage = damage or f"{ASIDE} is missing"
    compiled = all(_compiled(f"{stdlib}/{name}", os.path.basename(stdlib)) for name in (SITE, f"{STARTUP}/__init__.py"))
    return State("sitecustomize", version, damage, compiled, manifest is None)


def hook_state(site_packages: str, lib: str) -> State:
    """The hook in one directory where .pth files are read; ``lib`` is such as python3.11."""
    hook = read_file(f"{site_packages}/{HOOK}")
    module = f"{site_packages}/blasenv/__init__.py"
    code = read_file(module)
    if hook is None:
        return State("hook", _version_of(code), f"{HOOK} is missing", False) if code is not None else State("")
    if b"blasenv" not in hook or b"run()" not in hook:
        return State("hook", _version_of(code), f"{HOOK} does not run blasenv")
    if code is None:
        try:
            editable = any(name.startswith("__editable__") and "blasenv" in name for name in os.listdir(site_packages))
        except OSError:
            editable = False
        if not editable:
            return State("hook", "", "the package beside the hook is missing")
        # Where an editable install's code lies is for its own import hook to know.
        return State("hook", __version__, ignored=hook_ignored(site_packages, lib))
    return State("hook", _version_of(code), "", _compiled(module, lib), ignored=hook_ignored(site_packages, lib))


def hook_ignored(site_packages: str, lib: str) -> str:
    """Why the Python of ``lib``, such as python3.18, does not execute the hook's line, "" when it does (PEP 829)."""
    match = re.fullmatch(r"python3\.(\d+)t?", lib)
    minor = int(match[1]) if match else 0
    start = read_file(f"{site_packages}/{START}") if minor >= SILENCED_BY_START else None
    if start is not None:
        lines = start.decode("utf-8", "replace").splitlines()
        return "" if any(line.strip().startswith("blasenv") for line in lines) else f"{HOOK} is silenced by {START}"
    if minor >= NOT_EXECUTED:
        return f"Python 3.{minor} does not execute the line in {HOOK} (PEP 829)"
    return ""
