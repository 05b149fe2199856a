"""A parent's decision never reaches a child as if it were the user's, however the child is started.

The parent decides under a real limit. Its child is in the same limit, or the parent has left it
first: then nothing of the decision may be left in the child.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import PROBE, Cgroup, Venv, clean_environ, run

PARENT = """
import multiprocessing, os, runpy, shlex, subprocess, sys
if __name__ == "__main__":
    group, edit, way, *command = sys.argv[1:]
    if group:
        with open(group, "w") as procs:
            procs.write("0")  # ourselves
    exec(edit)
    exec(way)
"""

# How a parent starts `command`, which runs the probe.
WAYS = {
    "subprocess": "subprocess.run(command)",
    "env=os.environ": "subprocess.run(command, env=os.environ)",
    "env=os.environ.copy()": "subprocess.run(command, env=os.environ.copy())",
    "env and more": "subprocess.run(command, env={**os.environ, 'MORE': '1'})",
    "env={}": "subprocess.run(command, env={})",
    "shell=True": "subprocess.run(shlex.join(command), shell=True)",
    "os.system": "sys.exit(os.system(shlex.join(command)) != 0)",
    "sh": "subprocess.run(['sh', '-c', '\"$@\"', 'sh', *command])",
    "bash": "subprocess.run(['bash', '-c', '\"$@\"', 'bash', *command])",
    "login shell": "subprocess.run(['bash', '-lc', '\"$@\"', 'bash', *command])",
    "env": "subprocess.run(['env', 'MORE=1', *command])",
    "os.execv": "os.execv(command[0], command)",
    "os.execve": "os.execve(command[0], command, os.environ.copy())",
    "os.posix_spawn": "os.waitpid(os.posix_spawn(command[0], command, os.environ), 0)",
    "os.spawnv": "os.spawnv(os.P_WAIT, command[0], command)",
    "fork and exec": "os.fork() and sys.exit(os.wait()[1]); os.execv(command[0], command)",
    "spawn": "child = multiprocessing.get_context('spawn').Process(target=runpy.run_path, args=command[1:]);"
    " child.start(); child.join()",
    "forkserver": "child = multiprocessing.get_context('forkserver').Process(target=runpy.run_path, args=command[1:]);"
    " child.start(); child.join()",
}
if shutil.which("sudo"):
    WAYS["sudo -E"] = "subprocess.run(['sudo', '-E', *command])"
    WAYS["sudo"] = "subprocess.run(['sudo', *command])"

NOTHING: dict[str, Any] = {"environ": {}, "native": None, "rule": "no-limit"}
LIMITED: dict[str, Any] = {"environ": {"BLASENV_SET": "OMP_NUM_THREADS=1"}, "native": "1", "rule": "quota"}


def users(value: str, **changes: Any) -> dict[str, Any]:
    """What the probe must see where the user, or the parent's own code, has set a value."""
    return {"environ": {"OMP_NUM_THREADS": value}, "native": value, "rule": "user-env", **changes}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("parent") / "parent.py"
    file.write_text(PARENT)
    return file


@pytest.fixture(scope="module")
def outside(one_cpu: Cgroup, one_venv: Venv) -> str:
    """The file that a process writes itself to in order to leave the limit."""
    procs = one_cpu.outside / "cgroup.procs"
    script = 'echo $$ > "$0" && exec "$@"'
    result = run(["/bin/sh", "-c", script, str(procs), one_venv.python, PROBE])
    if seen(result.stdout) != NOTHING:
        pytest.skip("this machine is under a CPU limit itself")
    return str(procs)


def seen(output: str) -> dict[str, Any]:
    found = json.loads(output)
    return {name: found[name] for name in ("environ", "native", "rule")}


def child(
    group: Cgroup,
    venv: Venv,
    program: Path,
    *,
    leave: str = "",
    edit: str = "",
    way: str = WAYS["subprocess"],
    command: Sequence[str | Path] = (),
    **environ: str,
) -> dict[str, Any]:
    """What the probe sees as the child of a Python process in ``group`` that may ``edit``, and ``leave`` the group."""
    parent: list[str | Path] = [venv.python, program, leave, edit, way]
    result = group.run([*parent, *command, venv.python, PROBE], environ=clean_environ(**environ))
    return seen(result.stdout)


@pytest.mark.parametrize("way", WAYS)
def test_child_in_the_same_limit(way: str, one_venv: Venv, one_cpu: Cgroup, program: Path) -> None:
    assert child(one_cpu, one_venv, program, way=WAYS[way]) == LIMITED


@pytest.mark.parametrize("way", WAYS)
def test_child_outside_the_limit(way: str, one_venv: Venv, one_cpu: Cgroup, program: Path, outside: str) -> None:
    assert child(one_cpu, one_venv, program, leave=outside, way=WAYS[way]) == NOTHING


@pytest.mark.parametrize("way", ["subprocess", "env=os.environ.copy()", "sh", "os.execv", "spawn", "forkserver"])
@pytest.mark.parametrize("value", ["3", ""])
def test_a_value_that_the_parent_sets(
    value: str, way: str, one_venv: Venv, one_cpu: Cgroup, program: Path, outside: str
) -> None:
    edit = f"os.environ['OMP_NUM_THREADS'] = {value!r}"
    assert child(one_cpu, one_venv, program, edit=edit, way=WAYS[way]) == users(value)
    assert child(one_cpu, one_venv, program, edit=edit, way=WAYS[way], leave=outside) == users(value)


@pytest.mark.parametrize("way", ["subprocess", "env=os.environ.copy()", "sh", "os.execv", "spawn"])
@pytest.mark.parametrize("value", ["3", "1"])
def test_the_users_value_is_never_taken_for_ours(
    value: str, way: str, one_venv: Venv, one_cpu: Cgroup, program: Path, outside: str
) -> None:
    """Also where blasenv would have come to the same."""
    found = child(one_cpu, one_venv, program, way=WAYS[way], leave=outside, OMP_NUM_THREADS=value)
    assert found == users(value)


@pytest.mark.parametrize(
    "edit",
    [
        "os.environ.pop('OMP_NUM_THREADS', None)",  # is not there, so that this does nothing
        "os.unsetenv('OMP_NUM_THREADS')",
        "os.environ['OMP_NUM_THREADS'] = '3'; del os.environ['OMP_NUM_THREADS']",
    ],
)
def test_a_value_that_the_parent_removes(
    edit: str, one_venv: Venv, one_cpu: Cgroup, program: Path, outside: str
) -> None:
    assert child(one_cpu, one_venv, program, edit=edit) == LIMITED
    assert child(one_cpu, one_venv, program, edit=edit, leave=outside) == NOTHING


def test_a_value_that_a_shell_sets(one_venv: Venv, one_cpu: Cgroup, program: Path, outside: str) -> None:
    command = ["/bin/sh", "-c", 'export OMP_NUM_THREADS=3; exec "$@"', "sh"]
    assert child(one_cpu, one_venv, program, leave=outside, command=command) == users("3")


def test_out_of_the_limit_and_back(one_venv: Venv, one_cpu: Cgroup, program: Path, outside: str) -> None:
    middle: list[str | Path] = [
        one_venv.python,
        program,
        str(one_cpu.directory / "cgroup.procs"),
        "",
        WAYS["subprocess"],
    ]
    assert child(one_cpu, one_venv, program, leave=outside, command=middle) == LIMITED


@pytest.mark.parametrize("way", ["subprocess", "env=os.environ.copy()", "sh", "spawn"])
def test_a_visible_value(
    way: str, one_venv: Venv, one_cpu: Cgroup, program: Path, outside: str, tmp_path: Path
) -> None:
    (tmp_path / "blasenv.toml").write_text("visible = true\n")
    config = str(tmp_path / "blasenv.toml")
    found = child(one_cpu, one_venv, program, way=WAYS[way], leave=outside, BLASENV_CONFIG=config)
    assert found == {**NOTHING, "environ": {"BLASENV_CONFIG": config}}


def test_one_variable_of_two(one_venv: Venv, one_cpu: Cgroup, program: Path, outside: str, tmp_path: Path) -> None:
    """What the parent's code set stays; what blasenv set goes."""
    (tmp_path / "blasenv.toml").write_text('variables = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]\n')
    config = str(tmp_path / "blasenv.toml")
    edit = "os.environ['OPENBLAS_NUM_THREADS'] = '5'"
    found = child(one_cpu, one_venv, program, edit=edit, leave=outside, BLASENV_CONFIG=config)
    assert found == {**NOTHING, "environ": {"BLASENV_CONFIG": config, "OPENBLAS_NUM_THREADS": "5"}}


def test_a_forked_child_has_its_parents_value(one_venv: Venv, one_cpu: Cgroup, program: Path, outside: str) -> None:
    """A fork runs no start-up code, and its libraries are loaded already. docs/frameworks.md names it."""
    way = "os.fork() and sys.exit(os.wait()[1]); runpy.run_path(command[1])"
    assert child(one_cpu, one_venv, program, way=way, leave=outside) == LIMITED


def test_known_limit_the_same_value_by_hand(one_venv: Venv, one_cpu: Cgroup, program: Path, outside: str) -> None:
    """A parent's code that sets the value that blasenv had set cannot be told from blasenv."""
    edit = "os.environ['OMP_NUM_THREADS'] = '1'"
    assert child(one_cpu, one_venv, program, edit=edit) == LIMITED
    assert child(one_cpu, one_venv, program, edit=edit, leave=outside) == NOTHING


def test_known_limit_the_hook_switched_off_in_the_child(
    one_venv: Venv, one_cpu: Cgroup, program: Path, outside: str
) -> None:
    """Nothing runs in the child, so that nothing takes back what it inherited."""
    receipts = {"BLASENV_SET": "OMP_NUM_THREADS=1", "BLASENV_MARK": "OMP_NUM_THREADS=1"}
    environ = {"BLASENV_DISABLE": "1", "OMP_NUM_THREADS": "1", **receipts}
    edit = "os.environ['BLASENV_DISABLE'] = '1'"
    found = child(one_cpu, one_venv, program, edit=edit, leave=outside)
    assert found == {"environ": environ, "native": "1", "rule": None}


@pytest.mark.parametrize("edit", ["os.environ.clear()", "del os.environ['BLASENV_SET']"])
@pytest.mark.parametrize("way", ["subprocess", "env=os.environ.copy()", "sh", "spawn"])
def test_the_receipt_is_for_people(
    edit: str, way: str, one_venv: Venv, one_cpu: Cgroup, program: Path, outside: str
) -> None:
    """Code that removes it changes nothing for children, which have the mark."""
    assert child(one_cpu, one_venv, program, edit=edit, leave=outside, way=WAYS[way]) == NOTHING


FRAMEWORKS = {
    "subprocess": "subprocess.run(command, env={**os.environ, 'OMP_NUM_THREADS': '1'})",
    "os.posix_spawn": "os.waitpid(os.posix_spawn(command[0], command, {**os.environ, 'OMP_NUM_THREADS': '1'}), 0)",
    "os.execve": "os.execve(command[0], command, {**os.environ, 'OMP_NUM_THREADS': '1'})",
    "receipt alone": "subprocess.run(command, env={'BLASENV_SET': 'OMP_NUM_THREADS=1', 'OMP_NUM_THREADS': '1'})",
}


@pytest.mark.parametrize("way", FRAMEWORKS)
def test_a_frameworks_value_is_never_taken_for_ours(
    way: str, one_venv: Venv, one_cpu: Cgroup, program: Path, outside: str
) -> None:
    """Also where it is the very number that blasenv had set: without the mark it is theirs."""
    for leave in ("", outside):
        found = child(one_cpu, one_venv, program, way=FRAMEWORKS[way], leave=leave)
        assert found == users("1")
