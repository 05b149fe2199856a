"""A CPython 3.14 with numpy to try `heal` on: this machine's, or else one in a root directory of Debian.

The root is made once, in .cache/heal, by mmdebstrap; it takes about a minute and 250 MB. Programs
in it run in a mount namespace of their own, as those of a container do.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import PYTHONS, ROOT, make_venv, run

CACHE = ROOT / ".cache" / "heal"
PLAIN = ("numpy",)
LARGE = ("numpy", "scipy", "scikit-learn", "pyarrow", "numexpr")


@dataclass(frozen=True)
class Bed:
    """A Python and how to run it."""

    prefix: tuple[str, ...]
    """Put in front of a command."""
    python: str
    root: Path
    """The directory that is / for it."""

    def command(self, *words: str | Path) -> list[str]:
        """A command that runs Python with these arguments."""
        return [*self.prefix, self.python, *map(str, words)]


def make_bed(version: str = "3.14", packages: Sequence[str] = PLAIN) -> Bed:
    """A bed with these packages of PyPI; skips where none can be had."""
    if version in PYTHONS:
        key = hashlib.sha256(repr((str(PYTHONS[version]), packages)).encode()).hexdigest()[:12]
        directory = CACHE / f"venv-{version}-{key}"
        if not (directory / "filled").exists():
            shutil.rmtree(directory, ignore_errors=True)
            make_venv(directory, version, pip=True).install(*packages, uv=False)
            (directory / "filled").touch()
        return Bed((), str(directory / "bin" / "python"), Path("/"))
    if os.geteuid():
        pytest.skip(f"no CPython {version} on this machine, and only root can make a root directory with one")
    root = _root(version, packages)
    # Its own /proc and /tmp; all of it goes with the last process of the namespace.
    mounts = f'mount -t proc proc "{root}/proc" && mount -t tmpfs -o mode=1777 none "{root}/tmp"'
    enter = f'{mounts} && exec chroot "{root}" "$@"'
    prefix = ("unshare", "--mount", "--propagation", "private", "sh", "-c", enter, "sh")
    return Bed(prefix, "/venv/bin/python", root)


def _root(version: str, packages: Sequence[str]) -> Path:
    sys.path.insert(0, str(ROOT / "docker-tests"))
    import bases
    import process

    release, python, needed = bases.DEBIAN[version]
    key = hashlib.sha256(repr((release, needed, packages)).encode()).hexdigest()[:12]
    root = CACHE / f"root-{version}-{key}"
    if (root / "filled").exists():
        return root
    CACHE.mkdir(parents=True, exist_ok=True)
    with _lock(CACHE / "lock"):
        if (root / "filled").exists():
            return root
        shutil.rmtree(root, ignore_errors=True)
        if not shutil.which("mmdebstrap"):
            process.install("mmdebstrap")
        include = f"--include={needed}"
        try:
            subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=minbase", include, "--dpkgopt=path-exclude=/usr/share/man/*",
                 *bases.apt_options(), release, root, *bases.mirror()],
                check=True, capture_output=True, text=True, timeout=900,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no CPython {version} on this machine, and none from Debian {release}: {error.stderr[-300:]}")
        # The wheels come through this machine's pip, which knows where it gets them from.
        wheels = root / "wheels"
        platforms = [f"--platform=manylinux_2_{minor}_{os.uname().machine}" for minor in (17, 27, 28)]
        run([sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", f"--python-version={version}",
             *platforms, f"--platform=manylinux2014_{os.uname().machine}", "--dest", wheels, *packages])  # fmt: skip
        enter = f'mount -t proc proc "{root}/proc" && exec chroot "{root}" "$@"'
        inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", enter, "sh"]
        run([*inside, python, "-m", "venv", "/venv"])
        run([*inside, "/venv/bin/pip", "install", "--quiet", "--no-index", "--find-links=/wheels", *packages])
        shutil.rmtree(wheels)
        (root / "filled").touch()
    return root


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
