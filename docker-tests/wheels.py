"""The wheels that go into the images: blasenv from this checkout, and what the images have no network to fetch."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from process import install, run

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCES = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")


def host_python(cache: Path) -> Path:
    """An interpreter on the host that has pip, whatever the host's own has."""
    python = cache / "venv" / "bin" / "python"
    if not python.with_name("pip").exists():
        if not importlib.util.find_spec("ensurepip"):
            install("python3-venv")
        run([sys.executable, "-m", "venv", "--clear", cache / "venv"])
    return python


def build(host: Path, target: Path) -> None:
    """Build blasenv's wheel into ``target``, from a copy: setuptools leaves its traces beside the sources."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(ROOT, Path(directory, "source"), ignore=NOT_SOURCES)
        shutil.rmtree(target, ignore_errors=True)
        # The same bytes for the same sources, so that Docker takes its cached layers.
        environ = {"SOURCE_DATE_EPOCH": "1600000000"}
        run([host, "-m", "pip", "wheel", "-q", "--no-deps", "-w", target, directory + "/source"], environ)


def download(host: Path, target: Path, python: str) -> None:
    """Put numpy and uv for one Python version, "3.11", into ``target``, unless they are there."""
    if (target / "complete").exists():
        return
    machine = platform.machine()
    platforms = [f"--platform={name}_{machine}" for name in ("manylinux_2_28", "manylinux_2_27", "manylinux2014")]
    run([
        host, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", target,
        "--implementation=cp", f"--python-version={python}", *platforms, "numpy", "uv",
    ])  # fmt: skip
    (target / "complete").touch()
