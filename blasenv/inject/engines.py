"""The lines that make Docker, Podman, containerd and CRI-O start blasenv-runtime, and whether they are in place.

daemon.json: https://docs.docker.com/reference/cli/dockerd/#daemon-configuration-file
containers.conf(5); containerd's CRI plugin:
https://github.com/containerd/containerd/blob/main/docs/cri/config.md; crio.conf(5)
"""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from blasenv.inject.export import DEFAULT, damage
from blasenv.inject.runtime import ANNOTATION, RUNTIMES
from blasenv.output.text import printable
from blasenv.pythons.installed import read_file

PROGRAM = "blasenv-runtime"
NAME = "blasenv"
"""What the engines call it."""

RUNTIME_CLASS = f"""\
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: {NAME}
handler: {NAME}
"""


@dataclass(frozen=True)
class Engine:
    """Where an engine is configured."""

    title: str
    file: str
    """Where to put our lines."""
    reads: tuple[str, ...]
    """All the files it reads, as patterns."""
    apply: str
    """What makes it read them again."""
    options: bool
    """Whether it can hand options to a runtime."""


ENGINES = {
    "docker": Engine(
        "Docker", "/etc/docker/daemon.json", ("/etc/docker/daemon.json",), "systemctl reload docker", True
    ),
    "podman": Engine(
        "Podman",
        "/etc/containers/containers.conf.d/blasenv.conf",
        (
            "/usr/share/containers/containers.conf",
            "/etc/containers/containers.conf",
            "/etc/containers/containers.conf.d/*.conf",
        ),
        "nothing to restart: the next podman run reads it",
        False,
    ),
    "containerd": Engine(
        "containerd",
        "/etc/containerd/config.toml",
        ("/etc/containerd/config.toml", "/etc/containerd/conf.d/*.toml"),
        "systemctl restart containerd",
        False,
    ),
    "crio": Engine(
        "CRI-O",
        "/etc/crio/crio.conf.d/50-blasenv.conf",
        ("/etc/crio/crio.conf", "/etc/crio/crio.conf.d/*"),
        "systemctl restart crio",
        False,
    ),
}


@dataclass(frozen=True)
class Settings:
    """What the engine is to start."""

    program: str = f"/usr/local/bin/{PROGRAM}"
    startup: str = DEFAULT
    real: str = ""
    """The real runtime, "" for the first one on PATH."""

    @property
    def options(self) -> list[str]:
        """The runtime's own options that say so."""
        named = ["--real-runtime", self.real] if self.real else []
        return (["--startup", self.startup] if self.startup != DEFAULT else []) + named


def find_program() -> str:
    """The path of blasenv-runtime: beside this interpreter, else on PATH, else where pip would put it."""
    beside = os.path.join(os.path.dirname(sys.executable), PROGRAM)
    return beside if os.access(beside, os.X_OK) else shutil.which(PROGRAM) or Settings.program


def wrapper(settings: Settings) -> str:
    """A script for an engine that hands a runtime no options."""
    return f'#!/bin/sh\nexec {shlex.join([settings.program, *settings.options])} "$@"\n'


def lines(name: str, settings: Settings) -> str:
    """What goes into the engine's file."""
    program = json.dumps(settings.program)  # a quoted string of JSON is one of TOML
    if name == "docker":
        entry: dict[str, object] = {"path": settings.program}
        if settings.options:
            entry["runtimeArgs"] = settings.options
        return json.dumps({"runtimes": {NAME: entry}, "default-runtime": NAME}, indent=2) + "\n"
    if name == "podman":
        return f'[engine]\nruntime = "{NAME}"\n\n[engine.runtimes]\n{NAME} = [{program}]\n'
    if name == "containerd":
        table = f'plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{NAME}'
        return (
            f'version = 2\n\n[{table}]\n  runtime_type = "io.containerd.runc.v2"\n'
            f'  pod_annotations = ["{ANNOTATION}"]\n  [{table}.options]\n'
            f"    BinaryName = {program}\n    SystemdCgroup = true\n"
        )
    return f'[crio.runtime.runtimes.{NAME}]\nruntime_path = {program}\nruntime_type = "oci"\n'


@dataclass(frozen=True)
class Check:
    """One thing that must be in place."""

    name: str
    fine: bool | None
    """None when nobody could be asked."""
    text: str
    advice: str = ""
    """What to do where it is not fine."""


def check(name: str, settings: Settings, root: str = "/") -> Iterator[Check]:
    """Whether the engine's files, below ``root``, lead to blasenv-runtime, and that one to all it needs."""
    engine = ENGINES[name]
    root = root.rstrip("/")
    again = f"blasenv inject {name} prints the lines"
    runtime = options = None
    place = engine.file
    read = []
    for file in (file for pattern in engine.reads for file in sorted(glob.glob(root + pattern))):
        place = file[len(root) :]
        read.append(printable(place))
        found, problem = parse(name, read_file(file) or b"")
        if problem:
            yield Check("configuration", False, f"{printable(place)} {problem}", f"mend it; {again}")
            return
        runtime, options = found or (runtime, options)
    if runtime is None:
        text = f"{', '.join(read)} does not name {PROGRAM}" if read else f"there is no {place}"
        yield Check("configuration", False, text, again)
        return
    yield Check("configuration", True, f"{printable(place)} names {printable(runtime)}")
    program = root + runtime
    if not (os.path.isfile(program) and os.access(program, os.X_OK)):
        yield Check("runtime", False, f"{printable(runtime)} is not there, or not executable", "pip install blasenv")
        return
    yield Check("runtime", True, f"{printable(runtime)} can be started")
    words = [*_words_of(program), *(options or [])]
    startup = _value(words, "--startup") or settings.startup
    wrong = damage(root + startup)
    yield Check(
        "startup", not wrong, wrong or f"{printable(startup)} has this version's code", wrong.partition(": ")[2]
    )
    real = _value(words, "--real-runtime")
    paths = [real] if real else [f"{place}/{one}" for one in RUNTIMES for place in os.get_exec_path()]
    there = [path for path in paths if os.access(root + path, os.X_OK)]
    text = f"{printable(there[0])} is started" if there else f"{printable(real or ' or '.join(RUNTIMES))} is not there"
    yield Check("real-runtime", bool(there), text, "" if there else "name one with --real-runtime PATH")
    if name == "docker" and not root:
        yield _ask_docker(runtime)


def parse(name: str, contents: bytes) -> tuple[tuple[str, list[str]] | None, str]:
    """The runtime of ours that a configuration names, with its options, and what is wrong with the file.

    Of TOML, the quoted paths outside of comments are enough: nothing else has a name like ours.
    """
    text = contents.decode("utf-8", "replace")
    if name == "docker":
        try:
            runtimes = (json.loads(text) if text.strip() else {}).get("runtimes") or {}
            for entry in runtimes.values():
                if NAME in os.path.basename(entry.get("path") or ""):
                    return (entry["path"], [str(word) for word in entry.get("runtimeArgs") or []]), ""
        except (AttributeError, TypeError, ValueError) as error:
            return None, f"is not as Docker's documentation says: {printable(str(error))}"
        return None, ""
    for line in text.splitlines():
        for path in re.findall(r'"(/[^"]*)"', line.partition("#")[0]):
            if NAME in os.path.basename(path):
                return (path, []), ""
    return None, ""


def _words_of(program: str) -> list[str]:
    """The words of the last line of a wrapper script, [] for the program itself."""
    contents = read_file(program) or b""
    if not contents.startswith(b"#!/bin/sh\nexec "):
        return []
    try:
        return shlex.split(contents.decode("utf-8", "replace").splitlines()[1])
    except ValueError:
        return []


def _value(words: list[str], option: str) -> str:
    for number, word in enumerate(words):
        if word == option:
            return "".join(words[number + 1 : number + 2])
        if word.startswith(option + "="):
            return word.partition("=")[2]
    return ""


def _ask_docker(runtime: str) -> Check:
    command = ["docker", "info", "--format", "{{json .Runtimes}} {{json .DefaultRuntime}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Check("daemon", None, "no Docker daemon answers")
    if done.returncode:
        return Check("daemon", None, "no Docker daemon answers")
    if f'"{runtime}"' not in done.stdout:
        return Check("daemon", False, "the daemon does not know the runtime yet", ENGINES["docker"].apply)
    default = done.stdout.rsplit(" ", 1)[-1].strip().strip('"')
    return Check("daemon", True, f"the daemon knows it; containers get {default} when they don't ask")
