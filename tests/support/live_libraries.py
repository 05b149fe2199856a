"""Real libraries to set thread counts in: PyPI's wheels, and Debian's packages unpacked below .cache/live."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Venv, run
from measure import install

CACHE = ROOT / ".cache" / "live"


def wheels() -> Venv:
    """The environment of requirements/live.txt."""
    return install("live")


def openblas_of_numpy() -> Path:
    (found,) = wheels().site_packages.glob("numpy.libs/libscipy_openblas64_*.so")
    return found


def mkl() -> Path:
    (found,) = (wheels().directory / "lib").glob("libmkl_rt.so.*")
    return found


def fortran() -> str:
    """The directory of the run-time library that Debian's OpenBLAS is linked to."""
    return f"{debian('libgfortran5', 'libgfortran.so.5*').parent}:{debian('libquadmath0', 'libquadmath.so.0*').parent}"


def debian(package: str, name: str) -> Path:
    """A library of a Debian package, unpacked and not installed. Skips where it can't be had."""
    directory = CACHE / package
    if not directory.exists():
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            pytest.skip("no apt-get to get Debian's libraries with")
        work = directory.with_suffix(".new")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        result = run(["apt-get", "download", "-qq", package], status=None, cwd=work)
        archives = list(work.glob("*.deb"))
        if result.returncode or not archives:
            pytest.skip(f"no package {package}: {result.stderr.strip()[-200:]}")
        run(["dpkg-deb", "--extract", archives[0], work])
        archives[0].unlink()
        work.rename(directory)
    found = [path for path in directory.rglob(name) if not path.is_symlink()]
    return found[0]
