"""Whole Python installations to work on, made in a moment: a copied executable, a library of symlinks."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import PYTHONS, ROOT, Venv, run

from blasenv.pythons.installed import STARTUP, STARTUP_FILES

PACKAGE = ROOT / "blasenv"
TEMPLATE = ROOT / "sitecustomize_template" / "sitecustomize.py"


@dataclass(frozen=True)
class Prefix:
    """A Python installation of our own."""

    directory: Path
    version: str

    @property
    def python(self) -> Path:
        return self.directory / "bin" / f"python{self.version}"

    @property
    def stdlib(self) -> Path:
        return self.directory / "lib" / f"python{self.version}"

    @property
    def site_packages(self) -> Path:
        """Where it reads .pth files: Debian's Python not in site-packages."""
        code = "import site; print(site.getsitepackages()[0])"
        directory = Path(run([self.python, "-I", "-S", "-c", code]).stdout.strip())
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def venv(self, directory: Path, *options: str) -> Venv:
        """A venv made from it."""
        run([self.python, "-m", "venv", "--without-pip", *options, directory])
        return Venv(directory, self.version)


def make_prefix(directory: Path, version: str) -> Prefix:
    """An installation that shares the files of the CPython ``version`` of this machine, and no directory."""
    if version not in PYTHONS:
        pytest.skip(f"no CPython {version} on this machine")
    code = "import json, os, sys; print(json.dumps([os.path.realpath(sys.executable), os.path.dirname(os.__file__)]))"
    executable, stdlib = map(Path, json.loads(run([PYTHONS[version], "-I", "-S", "-c", code]).stdout))
    prefix = Prefix(directory.resolve(), version)
    prefix.python.parent.mkdir(parents=True)
    shutil.copy2(executable, prefix.python)
    (prefix.stdlib / "site-packages").mkdir(parents=True)
    for path in stdlib.iterdir():
        if path.name not in ("__pycache__", "site-packages", "dist-packages", STARTUP) and "sitecust" not in path.name:
            (prefix.stdlib / path.name).symlink_to(path)
    for library in stdlib.parent.glob("libpython*.so*"):
        (prefix.stdlib.parent / library.name).symlink_to(library)
    return prefix


def copy_by_hand(directory: Path) -> None:
    """What docs/interpreters.md tells people to copy, into ``directory``."""
    (directory / STARTUP).mkdir()
    for name in STARTUP_FILES:
        shutil.copy(PACKAGE / name, directory / STARTUP)
    shutil.copy(TEMPLATE, directory)
