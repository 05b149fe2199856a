"""Every command's ``--json`` against docs/json.md: what is printed is documented, what is documented is printed.

A new field needs a row in docs/json.md. A new command with ``--json`` needs a table there, and a line in
`EXAMPLES` that runs it so that each of its fields shows.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bed import make_bed
from conftest import ROOT, Cgroup, Venv, clean_environ, pids_cgroup

from blasenv.cli import COMMANDS

PAGE = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
TREES = ROOT / "tests" / "trees"


def tables() -> dict[str, dict[str, str]]:
    """For each command of a heading: its fields, of all the tables below headings that name it, with their types."""
    found: dict[str, dict[str, str]] = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", text, re.MULTILINE)
        assert len(rows) == len(dict(rows)), f"a field is twice in {heading}"
        for command in re.findall(r"`([^`]+)`", heading):
            fields = found.setdefault(command, {})
            assert not fields.keys() & dict(rows).keys(), f"a field is in two tables of {command}"
            fields.update(rows)
    return found


DOCUMENTED = tables()


def is_a(kind: str, value: object) -> bool:
    """Whether a value is of a type as docs/json.md calls it: "integer", "list of string", "string or null"."""
    kinds = re.split(r", | or ", kind.strip())
    if len(kinds) > 1:
        return any(is_a(one, value) for one in kinds)
    if kind.startswith("list of "):
        return isinstance(value, list) and all(is_a(kind[len("list of ") :], item) for item in value)
    if isinstance(value, bool) or value is None:
        return kind == {True: "boolean", False: "boolean", None: "null"}[value]
    types: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "object": dict,
        "boolean": bool,
        "null": (),
    }
    return isinstance(value, types[kind])


def fields(value: object, documented: set[str], path: str = "") -> Iterator[tuple[str, object]]:
    """Each field of a document by the name that docs/json.md gives it, and its value."""
    if path:
        yield path, value
    if isinstance(value, dict):
        free = f"{path}.*" in documented  # the keys are names from elsewhere
        for key, item in value.items():
            yield from fields(item, documented, f"{path}.{'*' if free else key}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                for name, inner in item.items():
                    yield from fields(inner, documented, f"{path}[].{name}")


@dataclass(frozen=True)
class Place:
    """Where commands are run: blasenv installed, a limit of one CPU, a process with much to say about it."""

    venv: Venv
    group: Cgroup
    pid: int
    directory: Path

    def document(self, words: Sequence[object], **changes: str) -> Any:
        """What a command prints under the limit; a problem found is no failure."""
        command: list[str | Path] = [self.venv.python, "-m", "blasenv", *map(str, words)]
        command.insert(command.index("--") if "--" in command else len(command), "--json")
        done = self.group.run(command, status=None, environ=clean_environ(**{"BLASENV_CONFIG": "", **changes}))
        assert done.returncode in (0, 1), done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def place(one_venv: Venv, one_cpu: Cgroup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("json")
    (directory / "wrong.toml").write_text("thread = 4\n")
    (directory / "programs.toml").write_text('mode = "auto"\nthreads = 3\n[programs]\ngunicorn = "single"\nx = 2\n')
    # An OpenMP library, a child, a variable, threads.
    code = (
        "import ctypes, subprocess, sys\n"
        "try: ctypes.CDLL('libgomp.so.1')\n"
        "except OSError: sys.exit('no libgomp.so.1 on this machine')\n"
        "with subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE) as child:\n"
        "    print('ready', flush=True)\n"
        "    input()\n"
    )
    command = one_cpu.enter([sys.executable, "-c", code])
    environ = clean_environ(OMP_NUM_THREADS="3")
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environ, text=True, **streams) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            pytest.skip(process.communicate()[1].strip())
        try:
            yield Place(one_venv, one_cpu, process.pid, directory)
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.communicate("\n")


def looks(place: Place, command: str) -> list[Any]:
    """Status and explain: a real process, one told by a file, refused files, ranks, and trees of other machines."""
    programs = {"BLASENV_CONFIG": str(place.directory / "programs.toml")}
    return [
        place.document([command]),
        place.document([command], LOCAL_WORLD_SIZE="2"),
        place.document([command], OMP_NUM_THREADS="2"),
        place.document([command, "--program", "gunicorn"], **programs),
        place.document([command], BLASENV_CONFIG=str(place.directory / "wrong.toml")),
        place.document([command], BLASENV_CONFIG=str(place.directory), BLASENV_THREADS="many"),
        *(
            place.document(
                [command, "--root", tree, "--affinity", json.loads((tree / "expect.json").read_text())["affinity"]]
            )
            for tree in sorted(TREES.iterdir())
            if (tree / "proc").is_dir() and tree.name.startswith(("cpu-max", "smt", "config"))
        ),
    ]


def image_with_a_product(root: Path) -> Path:
    """A directory that ``scan`` takes for an image in which a product brings its own Python along."""
    prefix = root / "opt" / "product" / "runtime"
    for name, contents in {"bin/python3.12": b"\x7fELF no program", "lib/python3.12/os.py": b""}.items():
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        (prefix / name).write_bytes(contents)
    (prefix / "bin" / "python3.12").chmod(0o755)
    return root


def looks_at_processes(place: Place) -> list[Any]:
    """Doctor: the process with much to say, one with blasenv, and one whose threads are limited in both ways."""
    with contextlib.ExitStack() as stack:
        alone = ["prlimit", "--nproc=99:99", "setpriv", "--reuid=64322", "--regid=64322", "--clear-groups"]
        ready = "echo ready; exec sleep 99"
        commands: list[list[str | Path]] = [
            [place.venv.python, "-u", "-c", "import time; print('ready'); time.sleep(99)"],
            [*stack.enter_context(pids_cgroup(99)).enter([*alone, "sh", "-c", ready])],
        ]
        pids = [place.pid]
        for command in commands:
            process = stack.enter_context(
                subprocess.Popen(place.group.enter(command), stdout=subprocess.PIPE, env=clean_environ(), text=True)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            pids.append(process.pid)
        return [place.document(["doctor", *pids, "--seconds", "0.3"])]


def looks_at_all(place: Place) -> list[Any]:
    """A process is written there as with its PID; not every field shows in those that this machine has."""
    document = place.document(["doctor", "--all", "--seconds", "0.3"])
    document["processes"] += looks_at_processes(place)[0]["processes"]
    return [document]


def looks_at_node(place: Place) -> list[Any]:
    """Doctor: a container whose process computes with a library, in a limit, and a loop that is stopped by one."""
    loop = "import ctypes; ctypes.CDLL('libgomp.so.1'); print('ready', flush=True)\nwhile True: pass"
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "env": clean_environ(), "text": True}
    with subprocess.Popen(place.group.enter([sys.executable, "-c", loop]), **options) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            return [place.document(["doctor", "--node", "--seconds", "0.5"])]
        finally:
            process.kill()


def heals(place: Place) -> list[Any]:
    """A process that can be healed, and one that can't."""
    program = (ROOT / "tests" / "support" / "heal_program.py").read_text(encoding="utf-8")
    command = place.group.enter(make_bed().command("-c", program, "100", "1"))
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=clean_environ(), text=True, **streams) as process:
        try:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            return [
                place.document(["heal", one, "--seconds", "0.3", *more])
                for one in (pid, place.pid)
                for more in (["--dry-run"], ["--threads", "1"])
            ]
        finally:
            process.kill()


EXAMPLES: dict[str, Callable[[Place], list[Any]]] = {
    "status": lambda place: looks(place, "status"),
    "explain": lambda place: looks(place, "explain"),
    "config check": lambda place: [
        place.document(["config", "check"]),
        place.document(["config", "check", place.directory / "wrong.toml"]),
        place.document(["config", "check", place.directory / "missing.toml"]),
    ],
    "config show": lambda place: [
        place.document(["config", "show"], BLASENV_THREADS="many"),
        place.document(["config", "show"], BLASENV_CONFIG=str(place.directory / "programs.toml")),
        place.document(["config", "show"], BLASENV_CONFIG=str(place.directory / "wrong.toml")),
    ],
    "doctor": lambda place: [place.document(["doctor"]), place.document(["doctor", "--strict", "hook"])],
    "doctor PID": looks_at_processes,
    "doctor --all": looks_at_all,
    "doctor --node": looks_at_node,
    "heal": heals,
    "scan": lambda place: [
        place.document(["scan", place.venv.directory / "bin"]),
        place.document(["scan", "--root", image_with_a_product(place.directory / "image")]),
    ],
    "inject docker --check": lambda place: [place.document(["inject", "docker", "--check"])],
    "inject podman --check": lambda place: [place.document(["inject", "podman", "--check"])],
    "inject containerd --check": lambda place: [place.document(["inject", "containerd", "--check"])],
    "inject crio --check": lambda place: [place.document(["inject", "crio", "--check"])],
    "bench": lambda place: [
        place.document(["bench", "--seconds", "2", "--rounds", rounds, "--threads", "1", "--", "true"])
        for rounds in (1, 3)
    ],
    "bench --startup": lambda place: [place.document(["bench", "--startup", "--seconds", "0.5"])],
}


@pytest.mark.parametrize("command", sorted({*EXAMPLES, *DOCUMENTED}))
def test_documents_are_as_documented(command: str, place: Place) -> None:
    documented = DOCUMENTED[command]
    printed: dict[str, list[object]] = {}
    for document in EXAMPLES[command](place):
        found = list(fields(document, set(documented)))
        for name, value in found:
            printed.setdefault(name, []).append(value)
        empty = tuple(f"{name}{below}" for name, value in found if not value for below in (".", "[]."))
        always = {name for name in documented if not name.startswith(empty)}
        assert sorted(always - {name for name, _ in found}) == [], "not in each document, as docs/json.md promises"
    assert sorted(printed.keys() - documented.keys()) == [], "printed, and not in docs/json.md"
    assert sorted(documented.keys() - printed.keys()) == [], "in docs/json.md, and never printed"
    for name, values in printed.items():
        wrong = [value for value in values if not is_a(documented[name], value)]
        assert not wrong, f"{name} is documented as {documented[name]}"


def taking_json(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """The command, and each of its actions, that has the option."""
    for action in parser._actions:
        if "--json" in action.option_strings:
            yield name
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield from taking_json(f"{name} {word}", below)


def test_every_command_that_takes_json_is_documented() -> None:
    found: set[str] = set()
    for name, module, _ in COMMANDS:
        parser = argparse.ArgumentParser()
        getattr(importlib.import_module(module), f"{name}_arguments")(parser)
        found.update(taking_json(name, parser))
    assert {re.split(r" (?:PID|--)", command)[0] for command in DOCUMENTED} == found
