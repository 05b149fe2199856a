"""``blasenv heal`` on real processes of Python 3.14: what they were, what they are afterwards, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bed import Bed, make_bed
from conftest import PYTHONS, ROOT, Cgroup, clean_environ, run

from blasenv.live import handed, remote

BLASENV = [sys.executable, "-m", "blasenv"]
PROGRAM = (ROOT / "tests" / "support" / "heal_program.py").read_text(encoding="utf-8")
NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
LATER = 30  # seconds; nothing is measured with it


@pytest.fixture(scope="session")
def bed() -> Bed:
    return make_bed()


@dataclass
class Program:
    """A program that computes, and answers how far it is."""

    process: subprocess.Popen[str]
    pid: int
    """As this machine knows it."""

    def ask(self) -> list[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split(" ", 2)

    @property
    def left_behind(self) -> list[Path]:
        """What healers have left in its file system; it has a /tmp of its own, if not this machine's."""
        root = Path(f"/proc/{self.pid}/root")
        name = f"blasenv-heal-{self.pid if root.samefile('/') else '*'}-*"
        return [path for place in ("tmp", "dev/shm", "var/tmp") for path in (root / place).glob(name)]

    def assert_unharmed(self) -> None:
        """It computes on, its results are right, and its ``__main__`` has gained no name."""
        before = int(self.ask()[0])
        for _ in range(LATER * 10):
            rounds, wrong, names = self.ask()
            assert (wrong, names) == ("0", "[]\n")
            if int(rounds) > before:
                return
            time.sleep(0.1)
        raise AssertionError("it stands still")


@contextlib.contextmanager
def running(command: Sequence[str], **environ: str) -> Iterator[Program]:
    """A program that has printed a line: its PID, or anything."""
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(list(command), text=True, env=clean_environ(**environ), **options) as child:
        try:
            assert child.stdout is not None
            line = child.stdout.readline().strip()
            assert line.isdigit(), (line, child.stderr and child.stderr.read())
            yield Program(child, int(line))
        finally:
            child.kill()


def numpy_program(bed: Bed, size: int = 100, threads: int = 1) -> list[str]:
    return bed.command("-c", PROGRAM, str(size), str(threads))


def heal(
    *arguments: object, status: int | None = 0, blasenv: Sequence[str] = BLASENV, package: Path = ROOT
) -> list[dict[str, Any]]:
    """What ``blasenv heal ARGUMENTS --json`` says."""
    command = [*blasenv, "heal", *map(str, arguments), "--json", "--seconds", "0.5"]
    result = run(command, status=status, environ=clean_environ(PYTHONPATH=str(package)), cwd="/")
    found: list[dict[str, Any]] = json.loads(result.stdout)["processes"]
    return found


def counts(case: dict[str, Any]) -> list[tuple[str, int, int]]:
    return [(row["kind"], row["before"], row["after"]) for row in case["libraries"]]


def test_a_program_with_too_many_threads(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    cpus = len(os.sched_getaffinity(0))
    with running(limited(1).enter(numpy_program(bed))) as program:
        (planned,) = heal(program.pid, "--dry-run")
        assert (planned["outcome"], planned["threads"], planned["libraries"]) == ("would heal", 1, [])
        (case,) = heal(program.pid)
        assert case["outcome"] == "healed", case
        assert counts(case) == [("OpenBLAS", cpus, 1)]
        assert case["after"]["busy_threads"] == 1
        program.assert_unharmed()
        (again,) = heal(program.pid)
        assert (again["outcome"], counts(again)) == ("fine", [("OpenBLAS", 1, 1)])
        assert program.left_behind == []


def test_what_a_person_reads(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    cpus = len(os.sched_getaffinity(0))
    with running(limited(1).enter(numpy_program(bed))) as program:
        result = run([*BLASENV, "heal", str(program.pid)], environ=clean_environ(PYTHONPATH=str(ROOT)))
    text = " ".join(result.stdout.split())
    assert f"Its libraries get 1 thread: the CPU limit of 1 is below the {cpus} CPUs this process can see." in text
    assert f"PID {program.pid} Healed: It goes on where it was, and nothing was restarted." in text
    assert "standing still" in text


def test_a_limit_that_goes_gives_the_threads_back(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    cpus = len(os.sched_getaffinity(0))
    group = limited(1)
    with running(group.enter(numpy_program(bed))) as program:
        heal(program.pid)
        group.limit(None)
        (case,) = heal(program.pid)
        assert (case["outcome"], case["rule"], counts(case)) == ("healed", "no-limit", [("OpenBLAS", 1, cpus)])
        program.assert_unharmed()


def test_what_the_user_set_stays_unless_a_count_is_named(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    with running(limited(1).enter(numpy_program(bed)), OMP_NUM_THREADS="2") as program:
        (case,) = heal(program.pid, status=1)
        assert case["outcome"] == "not healed"
        assert "OMP_NUM_THREADS=2 is in the environment" in case["sentence"]
        assert case["advice"] == f"To set it all the same: blasenv heal --threads 1 {program.pid}"
        (case,) = heal(program.pid, "--threads", 1)
        assert (case["outcome"], counts(case)) == ("healed", [("OpenBLAS", 2, 1)])


def test_a_variable_of_one_library_stays_too(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    with running(limited(1).enter(numpy_program(bed)), OPENBLAS_NUM_THREADS="2") as program:
        (case,) = heal(program.pid, status=1)
    assert counts(case) == [("OpenBLAS", 2, 2)]
    assert "OPENBLAS_NUM_THREADS=2 is in its environment" in case["sentence"]


def test_ranks_share_the_limit(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    with running(limited(1.5).enter(numpy_program(bed)), LOCAL_WORLD_SIZE="2") as program:
        (case,) = heal(program.pid, "--dry-run")
    assert case["threads"] == 1


def test_several_python_threads_compute(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    cpus = len(os.sched_getaffinity(0))
    with running(limited(1).enter(numpy_program(bed, 300, threads=3))) as program:
        for threads in (1, cpus, 1, cpus, 1):
            (case,) = heal(program.pid, "--threads", threads, status=None)
            assert counts(case)[0][2] == threads, case
        program.assert_unharmed()


def test_a_process_of_another_user(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    words = numpy_program(bed)[len(bed.prefix) :]
    with running(limited(1).enter([*bed.prefix, *AS_NOBODY, *words])) as program:
        assert Path(f"/proc/{program.pid}").stat().st_uid == NOBODY
        (case,) = heal(program.pid)
        assert case["outcome"] == "healed", case
        program.assert_unharmed()
        assert program.left_behind == []


def test_a_user_heals_only_what_is_his(bed: Bed, limited: Callable[[float], Cgroup], open_to_all: Path) -> None:
    # Not the checkout's own: who else may enter the directories above it?
    python = str(Path(sys.executable).resolve())
    if run([*AS_NOBODY, python, "-c", "pass"], status=None).returncode:
        pytest.skip("this Python can't be run by another user")
    command = [*AS_NOBODY, python, "-m", "blasenv"]
    with running(limited(1).enter(numpy_program(bed))) as program:
        (case,) = heal(program.pid, "--threads", 1, status=1, blasenv=command, package=open_to_all)
    assert case["outcome"] == "not healed"
    assert "it belongs to the user 0" in case["sentence"].lower()


def test_a_long_call_is_too_late_and_nothing_runs_afterwards(bed: Bed) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(4); print(1, flush=True); input()"
    with running(bed.command("-c", code)) as program:
        (case,) = heal(program.pid, "--threads", 1, "--wait", 0.5, status=1)
        assert case["outcome"] == "not healed"
        assert "came to no safe point" in case["sentence"]
        (left,) = program.left_behind
        assert [path.name for path in left.iterdir()] == [handed.SCRIPT]
        assert (left / handed.SCRIPT).read_bytes() == b""
        assert program.process.stdout is not None
        assert program.process.stdout.readline() == "1\n"
        shutil.rmtree(left)
        program.process.kill()
        assert program.process.stderr is not None
        assert program.process.stderr.read() == ""


def test_the_next_attempt_clears_what_a_late_one_left(bed: Bed) -> None:
    code = """
import os, sys, time
print(os.getpid(), flush=True)
while True:
    time.sleep(2 if sys.stdin.readline() == "sleep\\n" else 0)
    while True:
        time.sleep(0.01)
"""
    with running(bed.command("-c", code)) as program:
        heal(program.pid, "--threads", 1, "--wait", 0.3, status=1)  # it waits for a line
        assert len(program.left_behind) == 1
        assert program.process.stdin is not None
        program.process.stdin.write("on\n")
        program.process.stdin.flush()
        (case,) = heal(program.pid, "--threads", 1)
        assert case["outcome"] == "fine", case
        assert program.left_behind == []


def test_a_stopped_process(bed: Bed) -> None:
    with running(numpy_program(bed)) as program:
        os.kill(program.pid, signal.SIGSTOP)
        (case,) = heal(program.pid, "--threads", 1, status=1)
        os.kill(program.pid, signal.SIGCONT)
    assert f"kill -CONT {program.pid}" in case["sentence"]


def test_two_healers_at_once(bed: Bed) -> None:
    with running(bed.command("-c", "import os; print(os.getpid(), flush=True); input()")) as program:
        first = subprocess.Popen(
            [*BLASENV, "heal", str(program.pid), "--threads", "1", "--wait", "20", "--json"],
            env=clean_environ(PYTHONPATH=str(ROOT)), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for _ in range(LATER * 20):
                if program.left_behind:
                    break
                time.sleep(0.05)
            (case,) = heal(program.pid, "--threads", 1, status=1)
        finally:
            first.terminate()
            first.wait()
        for left in program.left_behind:
            shutil.rmtree(left)
    assert "somebody else is healing it" in case["sentence"].lower()


def test_killed_while_it_heals_nothing_runs_later(bed: Bed) -> None:
    """The script finds that nobody waits for it any more, does nothing, and clears up."""
    code = """
import ctypes, os, sys
import numpy
print(os.getpid(), flush=True)
input()
print(1, flush=True)
for _ in range(10000):
    pass
import glob
path = [line.split()[-1] for line in open("/proc/self/maps") if "openblas" in line][0]
print(getattr(ctypes.CDLL(path), "scipy_openblas_get_num_threads64_")(), flush=True)
input()
"""
    with running(bed.command("-c", code)) as program:
        healer = subprocess.Popen(
            [*BLASENV, "heal", str(program.pid), "--threads", "1", "--wait", "60", "--json"],
            env=clean_environ(PYTHONPATH=str(ROOT)), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(LATER * 20):
            if program.left_behind and b"--wait" in Path(f"/proc/{healer.pid}/cmdline").read_bytes():
                break
            time.sleep(0.05)
        time.sleep(1)  # until the process has been told
        healer.kill()
        healer.wait()
        assert program.process.stdin is not None
        assert program.process.stdout is not None
        program.process.stdin.write("\n")
        program.process.stdin.flush()
        assert program.process.stdout.readline() == "1\n"
        assert program.process.stdout.readline() == f"{len(os.sched_getaffinity(0))}\n"
        assert program.left_behind == []


@pytest.mark.parametrize("how", ["environment", "option"])
def test_remote_debugging_is_switched_off(bed: Bed, how: str) -> None:
    options = ["-X", "disable-remote-debug"] if how == "option" else []
    environ = {"PYTHON_DISABLE_REMOTE_DEBUG": "1"} if how == "environment" else {}
    code = "import os; print(os.getpid(), flush=True); input()"
    with running(bed.command(*options, "-c", code), **environ) as program:
        (case,) = heal(program.pid, "--threads", 1, status=1)
        assert program.left_behind == []
    assert "remote debugging is switched off in it" in case["sentence"].lower()
    assert {"environment": "PYTHON_DISABLE_REMOTE_DEBUG", "option": "-X disable-remote-debug"}[how] in case["sentence"]
    assert "OMP_NUM_THREADS=1" in case["advice"]


def test_for_whom_it_is_named(bed: Bed) -> None:
    code = "import os; print(os.getpid(), flush=True); input()"
    with running(bed.command("-c", code)) as program:
        assert remote.is_open(program.pid)
    with running(bed.command("-X", "disable-remote-debug", "-c", code)) as program:
        assert not remote.is_open(program.pid)
    with running(bed.command("-c", code), PYTHON_DISABLE_REMOTE_DEBUG="1") as program:
        assert not remote.is_open(program.pid)
    assert not remote.is_open(2**22 - 1)


def test_an_older_python() -> None:
    old = next((version for version in ("3.13", "3.12", "3.11", "3.10", "3.9") if version in PYTHONS), None)
    if old is None:
        pytest.skip("no CPython 3.13 on this machine")
    code = "import os; print(os.getpid(), flush=True); input()"
    with running([str(PYTHONS[old]), "-c", code]) as program:
        (case,) = heal(program.pid, "--threads", 1, status=1)
    assert f"its python is {old}; " in case["sentence"].lower()
    assert case["advice"] == "Restart it with OMP_NUM_THREADS=1, or with blasenv in its Python."


def test_what_is_not_python() -> None:
    with running(["sh", "-c", "echo $$; exec sleep 60"]) as program:
        time.sleep(0.2)
        (case,) = heal(program.pid, "--threads", 1, status=1)
    assert "It is not Python, but" in case["sentence"]


def test_what_is_not_there() -> None:
    (case,) = heal(2**22 - 1, "--threads", 1, status=1)
    assert "no such process" in case["sentence"]


def test_no_ctypes(bed: Bed) -> None:
    code = "import sys; sys.modules['ctypes'] = None\n" + PROGRAM
    with running(bed.command("-c", code, "300", "1")) as program:
        (case,) = heal(program.pid, "--threads", 1, status=1)
    assert case["outcome"] == "not healed"
    assert "this Python has no ctypes to call it with" in case["sentence"]


def test_what_the_executable_starts_has_no_right_more(bed: Bed, tmp_path: Path) -> None:
    """An interpreter that its user owns, standard library included, runs as that user, and not as who heals."""
    if os.geteuid():
        pytest.skip("only root can run something as another user")
    home = bed.root / "var" / f"own-{os.getpid()}"
    try:
        base = Path(run([*bed.command("-c", "import sys; print(sys._base_executable)")]).stdout.strip())
        stdlib = Path(run([*bed.command("-c", "import os; print(os.path.dirname(os.__file__))")]).stdout.strip())
        below = home / "lib" / stdlib.name
        (home / "bin").mkdir(parents=True)
        source = bed.root / str(base.resolve() if not bed.prefix else base).lstrip("/")
        shutil.copy(os.path.realpath(source), home / "bin" / stdlib.name)
        ignore = shutil.ignore_patterns("test", "__pycache__", "idlelib", "site-packages")
        shutil.copytree(bed.root / str(stdlib).lstrip("/"), below, symlinks=True, ignore=ignore)
        seen = f"/{home.relative_to(bed.root)}/seen"
        with (below / "encodings" / "__init__.py").open("a") as file:
            file.write(f"\nimport posix\n_fd = posix.open({seen!r}, posix.O_WRONLY | posix.O_APPEND)\n")
            file.write("posix.write(_fd, posix.read(posix.open('/proc/self/status', 0), 9999))\n")
        (home / "seen").touch()
        run(["chown", "-R", f"{NOBODY}:{NOBODY}", home])
        inside = f"/{home.relative_to(bed.root)}/bin/{stdlib.name}"
        command = [*bed.prefix, *AS_NOBODY, inside, "-c", "import os; print(os.getpid(), flush=True)\nwhile True: pass"]
        with running(command) as program:
            (home / "seen").write_bytes(b"")
            (case,) = heal(program.pid, "--threads", 1)
            assert case["outcome"] == "fine", case
            assert program.left_behind == []
        status = (home / "seen").read_text()
        assert f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}\n" in status
        assert f"Gid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}\n" in status
        assert "Groups:\t \n" in status
        for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert f"{kind}:\t0000000000000000\n" in status
        assert "NoNewPrivs:\t1\n" in status
    finally:
        shutil.rmtree(home, ignore_errors=True)


# How a container may stand to the machine that heals: what runs, as root, before the program is started in "$0".
PROC, CHROOT = 'mount -t proc proc "$0/proc"', 'exec chroot "$0" "$@"'
READ_ONLY = 'mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"'
SHARED_MEMORY = 'mount -t tmpfs none "$0/dev"; mkdir -m 1777 "$0/dev/shm"'
PIVOT = 'mount --bind "$0" "$0"; cd "$0"; mkdir -p old; pivot_root . old; mount -t proc proc /proc; umount -l /old'
TMP_INSIDE = "mount -t tmpfs -o mode=1777 none /tmp"
TMP = 'mount -t tmpfs -o mode=1777 none "$0/tmp"'
PIDS = "--mount --pid --fork"
WORLDS = {
    "its own PIDs": (PIDS, f"{PROC}; {TMP}; {CHROOT}"),
    "its own users": (f"--user --map-root-user {PIDS}", f"{PROC}; {TMP}; {CHROOT}"),
    "its own root": (PIDS, f'{PIVOT}; {TMP_INSIDE}; exec "$@"'),
    "a read-only root": (PIDS, f"{READ_ONLY}; {PROC}; {SHARED_MEMORY}; {CHROOT}"),
    "no place at all": (PIDS, f"{READ_ONLY}; {PROC}; {CHROOT}"),
}


# The map of "its own users" has one.
@pytest.mark.parametrize(
    ("world", "user"), [(world, user) for world in WORLDS for user in (0, NOBODY) if not (user and "users" in world)]
)
def test_from_outside_of_a_container(
    bed: Bed, limited: Callable[[float], Cgroup], world: str, user: int, tmp_path: Path
) -> None:
    if not bed.prefix:
        pytest.skip("no CPython 3.14 on this machine in a root directory of its own")
    flags, script = WORLDS[world]
    words = numpy_program(bed)[len(bed.prefix) :]
    become = AS_NOBODY if user else ()
    group = limited(1)
    command = ["unshare", *flags.split(), "--propagation=private", "sh", "-c", f"set -e; {script}", str(bed.root)]
    with running(group.enter([*command, *become, *words])) as program:
        program.pid = inside(group, words[0])
        (case,) = heal(program.pid, status=None)
        if world == "no place at all":
            assert "no place for the script that it could read" in case["sentence"]
            assert "OMP_NUM_THREADS=1" in case["advice"]
        else:
            assert case["outcome"] == "healed", case
            assert counts(case) == [("OpenBLAS", len(os.sched_getaffinity(0)), 1)]
        program.assert_unharmed()
        assert program.left_behind == []
        program.process.terminate()


def inside(group: Cgroup, executable: str) -> int:
    """The PID, as we know it, of the program that runs in a group."""
    for pid in (group.directory / "cgroup.procs").read_text().split():
        if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] == executable.encode():
            return int(pid)
    raise AssertionError("it does not run")


# Two programs in PIDs of their own, where --all reaches nobody else. "$0" is the root directory, "$1" the program.
ALL = """
set -e
mount -t proc proc /proc
mount -t proc proc "$0/proc"
mount -t tmpfs -o mode=1777 none "$0/tmp"
for number in 1 2; do
    sleep 600 | chroot "$0" /venv/bin/python -c "$1" 100 1 >"$0/tmp/said-$number" &
done
for number in 1 2; do
    until [ -s "$0/tmp/said-$number" ]; do sleep 0.1; done
done
shift
"$@" || true
"$@"
"""


def test_every_process_that_needs_it(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    if not bed.prefix:
        pytest.skip("no CPython 3.14 on this machine in a root directory of its own")
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private"]
    words = [*BLASENV, "heal", "--all", "--json", "--seconds", "0.5"]
    command = [*unshare, "sh", "-c", ALL, str(bed.root), PROGRAM, *words]
    done = limited(1).run(command, environ=clean_environ(PYTHONPATH=str(ROOT)))
    decoder = json.JSONDecoder()
    first, end = decoder.raw_decode(done.stdout)
    assert [case["outcome"] for case in first["processes"]] == ["healed"] * 2, first
    second, _ = decoder.raw_decode(done.stdout[end:].lstrip())
    assert {case["outcome"] for case in second["processes"]} <= {"fine"}, second


def test_it_ends_meanwhile(bed: Bed) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with running(bed.command("-c", code)) as program:
        threading.Timer(2, program.process.kill).start()
        (case,) = heal(program.pid, "--threads", 1, "--wait", 20, status=1)
    assert case["sentence"] == "It has ended."


def test_what_is_only_roots(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root has what is only root's")
    assert remote._is_only_roots("/bin/sh")
    assert not remote._is_only_roots("/no/such/file")
    assert not remote._is_only_roots(str(tmp_path))  # below /tmp, which anybody may write
    home = Path(tempfile.mkdtemp(dir="/root" if os.access("/root", os.W_OK) else "/"))
    try:
        (home / "python").touch()
        assert remote._is_only_roots(str(home / "python"))
        home.chmod(0o775)
        assert not remote._is_only_roots(str(home / "python"))
        home.chmod(0o755)
        os.chown(home / "python", NOBODY, NOBODY)
        assert not remote._is_only_roots(str(home / "python"))
        (home / "link").symlink_to("python")
        assert not remote._is_only_roots(str(home / "link"))
    finally:
        shutil.rmtree(home)


# Yama is not on everywhere: its refusal is played, and what follows is real. Run by a Python that is root's alone.
YAMA = """
import subprocess, sys
sys.path.insert(0, "/mnt")
from blasenv.live import remote
call, calls = remote._call, []
def forbidden(*arguments, as_root=False):
    calls.append(as_root)
    return call(*arguments, as_root=True) if as_root else "error PermissionError: played"
remote._call, remote._yama = forbidden, lambda: "1"
child = subprocess.Popen([*sys.argv[2:], sys.executable, "-c", sys.argv[1], "100", "1"], stdin=-1, stdout=-1, text=True)
target = remote.identify(int(child.stdout.readline()))
request = dict(seconds=60, threads=1, cpus=2, cores=2, force=True, heed=True)
print(target.user, [row["after"] for row in remote.heal(target, **request)], calls)
remote.is_roots = lambda target: False
try:
    remote.heal(target, **request)
except remote.Refused as refused:
    print(calls, refused)
child.kill()
"""


def test_where_yama_is_on_root_starts_what_is_roots_as_itself(bed: Bed) -> None:
    if not bed.prefix:
        pytest.skip("no CPython 3.14 on this machine in a root directory of its own")
    script = f'{PROC}; {TMP}; mount --bind "$1" "$0/mnt"; shift; {CHROOT}'
    unshare = ["unshare", "--mount", "--propagation=private", "sh", "-c", script, str(bed.root), str(ROOT)]
    done = run([*unshare, bed.python, "-B", "-c", YAMA, PROGRAM, *AS_NOBODY])
    first, second = done.stdout.splitlines()
    assert first == f"{NOBODY} [1] [False, True]"
    assert second.startswith("[False, True, False] the kernel forbids it (kernel.yama.ptrace_scope is 1")
    assert second.endswith("set that to 0 for the moment: sysctl kernel.yama.ptrace_scope=0")


def test_watch_follows_a_limit(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    cpus = len(os.sched_getaffinity(0))
    group = limited(1.5)
    group.limit(None)
    with running(group.enter(numpy_program(bed))) as program:
        command = [*BLASENV, "heal", str(program.pid), "--watch", "0.1", "--json"]
        environ = clean_environ(PYTHONPATH=str(ROOT))
        with subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE) as watcher:
            try:
                assert watcher.stdout is not None
                time.sleep(1)
                group.limit(1)
                assert counts(json.loads(watcher.stdout.readline())) == [("OpenBLAS", cpus, 1)]
                group.limit(None)
                assert counts(json.loads(watcher.stdout.readline())) == [("OpenBLAS", 1, cpus)]
                program.assert_unharmed()
                program.process.kill()
                program.process.wait()
                assert watcher.wait(LATER) == 0
            finally:
                watcher.kill()


@pytest.mark.parametrize(
    "arguments",
    [[], ["1", "--all"], ["1", "--threads", "0"], ["1", "--watch", "0"], ["1", "--watch", "1", "--dry-run"]],
)
def test_wrong_usage(arguments: list[str]) -> None:
    run([*BLASENV, "heal", *arguments], status=2, environ=clean_environ(PYTHONPATH=str(ROOT)))


@pytest.mark.parametrize(
    "answer",
    [b"", b"\n", b"[]\n", b"{}\n", b'{"rows": 1}\n', b'{"rows": [1]}\n', b'{"rows": [{}]}\n', b"[" * 100_000 + b"\n",
     b'{"rows": [{"kind": 1, "path": "", "before": 1, "after": 1, "remark": ""}]}\n', b"\xff\n"],
)  # fmt: skip
def test_an_answer_may_be_anything(answer: bytes) -> None:
    with pytest.raises(remote.Refused, match="can't be read"):
        remote._understand(answer)


@pytest.mark.parametrize(
    "text", ["", "plain", 'a "quoted" \\ path', "tab\tand\nnewline", "umläute €", "\udcff", "\U0001f600"]
)
def test_the_script_writes_json(text: str) -> None:
    value = {"rows": [{"path": text, "before": 1, "after": None}]}
    assert json.loads(handed._json(value)) == value


def test_the_script_is_one_expression_that_leaves_no_name() -> None:
    script = remote._script("/nowhere", {"threads": 1, "cpus": 2, "cores": 2, "force": False, "heed": True})
    names: dict[str, Any] = {}
    exec(script, names)  # noqa: S102  it finds no token there, and does nothing
    assert set(names) == {"__builtins__"}


def test_a_place_that_others_could_exchange_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to("sticky")
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        os.close(remote._walk(root, "sticky", {0, os.getuid()}))
        for name in ("open", "link", "missing"):
            with pytest.raises(OSError, match=r".*"):
                remote._walk(root, name, {0, os.getuid()})
    finally:
        os.close(root)


def test_doctor_names_it_for_a_limit_that_was_larger(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    """blasenv was in its Python, and set what fitted when it started: in-place resize, docker update."""
    environ = clean_environ(PYTHONPATH=str(ROOT))
    group = limited(0.5)
    with running(group.enter(numpy_program(bed, 400)), OMP_NUM_THREADS="1") as program:
        (case,) = heal("--threads", "2", program.pid)  # as it would have been under a limit of 2
        assert case["outcome"] == "healed", case
        said = " ".join(run([*BLASENV, "doctor", str(program.pid)], status=1, environ=environ).stdout.split())
        assert "Threads: 2 " in said
        assert f"blasenv heal --threads 1 {program.pid}" in said or f"blasenv heal {program.pid}" in said


def test_doctor_names_it(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    """The line of doctor's own output, typed, heals."""
    environ = clean_environ(PYTHONPATH=str(ROOT))
    group = limited(0.5)
    for changes, named in (({}, ""), ({"OMP_NUM_THREADS": "2"}, "--threads 1 ")):
        with running(group.enter(numpy_program(bed, 400)), **changes) as program:
            said = run([*BLASENV, "doctor", str(program.pid)], status=1, environ=environ).stdout
            assert f"Without a restart: blasenv heal {named}{program.pid}." in " ".join(said.split())
            (case,) = heal(*named.split(), program.pid)
            assert case["outcome"] == "healed", case
