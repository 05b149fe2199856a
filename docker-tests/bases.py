"""The base images: Debian with its own Python, made from the machine's apt sources, or the user's choice."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from daemon import Docker
from process import output, run

# Python version: the Debian release that has it, and the packages.
DEBIAN = {
    "3.11": ("bookworm", "python3", "python3-pip,python3-venv"),
    "3.9": ("bullseye", "python3", "python3-venv"),
    "3.13": ("trixie", "python3", "python3-venv"),
    "3.14": ("forky", "python3.14", "python3.14-venv"),
    "3.15": ("sid", "python3.15", "python3.15-venv"),
}
DEFAULT = "3.11"


def mirror() -> list[str]:
    """Where this machine gets Debian from, or nothing if its apt does not say: then mmdebstrap knows a place."""
    done = output(["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"])
    return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("Debian ")][:1]


def apt_options() -> list[str]:
    """What this machine's apt thinks of the age of an archive: a mirror that lags is its owner's decision."""
    done = output(["apt-config", "dump", "Acquire::Check-Valid-Until", "Acquire::Check-Date"])
    return [f"--aptopt={line}" for line in done.stdout.splitlines() if line.startswith("Acquire::Check-")]


def debian(docker: Docker, python: str) -> str:
    """The image of the Debian release with this Python. Raises RuntimeError when it can't be had."""
    release, _, packages = DEBIAN[python]
    recipe = ["--variant=minbase", f"--include={packages}", "--dpkgopt=path-exclude=/usr/share/man/*"]
    return make(docker, "blasenv-base", release, recipe)


def make(docker: Docker, name: str, release: str, recipe: Sequence[str], *changes: str) -> str:
    """The image ``name`` of a release, by mmdebstrap's options, cached by them; ``changes`` are of docker import."""
    tag = f"{name}:{release}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"
    if not docker.has(tag):
        with tempfile.TemporaryDirectory() as directory:
            archive = Path(directory, "base.tar")
            run(["mmdebstrap", "--quiet", *recipe, *apt_options(), release, archive, *mirror()])
            docker.run("import", *changes, str(archive), tag)
    return tag


def python_of(docker: Docker, image: str) -> str:
    """The version of python3 in an image, "3.11"."""
    return docker.run(
        "run", "--rm", "--network=none", "--entrypoint=python3", image,
        "-c", "import sys; print('%d.%d' % sys.version_info[:2])",
    ).strip()  # fmt: skip
