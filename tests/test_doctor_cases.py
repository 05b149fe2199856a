"""The doctor's cases: a program, a real limit, with blasenv or without, and what is to be said of it.

Each is a real process in a cgroup of its own, looked at three times, and each time the verdict
has to be the same, whatever else this machine does: several run, and are looked at, at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ROOT, TIMEOUT, Venv, clean_environ, make_cgroup, make_venv, pids_cgroup, run
from measure import HERE, VERSION, install

SUPPORT = ROOT / "tests" / "support"
LOOKS = 3
SECONDS = "0.7"
AT_ONCE = 4  # programs that compute; more would have little of two CPUs
BUSY_MACHINE = {"one-thread": {"one-thread", "queue"}, "fits": {"fits", "queue"}}  # that others compute is a fact, too


class Case(NamedTuple):
    """One row of the table."""

    name: str
    program: tuple[str, ...]
    """Of suffers.py, or "spin" (OpenMP, C), "gunicorn", "sh"."""
    limit: float | None
    kind: str
    """Of the verdict."""
    mends: tuple[str, ...] = ()
    """What is advised, by name (page.py)."""
    says: tuple[str, ...] = ()
    """In the sentence and the advice."""
    blasenv: bool = True
    """Whether it is in the program's Python."""
    environ: Mapping[str, str] = {}
    who: str = "main"
    """Who is looked at: the process that was started, or the first of its workers."""
    whose: str | None = None
    """Whose its threads are said to be."""
    never: tuple[str, ...] = ()
    """What must not be advised."""
    quiet: bool = False
    """Whether it uses no CPU, and so is no burden for others."""


INSTALL = "install blasenv"
CASES = (
    # One program that computes.
    Case("numpy", ("matmul",), 1, "threads", ("variable", "install"),
         ("2 busy threads (OpenBLAS) share 1 CPU", "OMP_NUM_THREADS=1, or install blasenv"), False, whose="library"),
    Case("numpy at 1.5", ("matmul",), 1.5, "threads", ("variable", "install"), ("share 1.5 CPUs",), False,
         whose="library"),
    Case("numpy, blasenv", ("matmul",), 1, "one-thread", ("line",), never=(INSTALL,)),
    Case("numpy at 1.5, blasenv", ("matmul",), 1.5, "one-thread", ("line",), never=(INSTALL,)),
    Case("numpy, blasenv disabled", ("matmul",), 1, "threads", ("variable", "enable"),
         ("unset BLASENV_DISABLE=1",), environ={"BLASENV_DISABLE": "1"}, never=(INSTALL,), whose="library"),
    Case("numpy, blasenv told 2", ("matmul",), 1, "threads", ("config",), ("BLASENV_THREADS",),
         environ={"BLASENV_THREADS": "2"}, never=(INSTALL,), whose="library"),
    Case("numpy, variable too high", ("matmul",), 1, "threads", ("lower",), ("OPENBLAS_NUM_THREADS=2",
         "with OPENBLAS_NUM_THREADS=1, or without: blasenv then sets 1"),
         environ={"OPENBLAS_NUM_THREADS": "2"}, never=(INSTALL,), whose="library"),
    Case("numpy, told 2 in its code", ("matmul_told_in_code",), 1, "threads", ("code", "pool"),
         ("its code asks for more",), never=(INSTALL,), whose="both"),
    Case("numpy without a limit", ("matmul",), None, "fits", blasenv=False),
    # Threads of its own.
    Case("executor", ("executor", "4"), 1, "threads", ("variable", "install", "pool"), ("max_workers",), False,
         whose="both"),
    Case("executor, blasenv", ("executor", "4"), 1, "threads", ("pool",),
         ("4 busy threads of its own share 1 CPU", "max_workers"), never=(INSTALL, "OMP_NUM_THREADS"), whose="own"),
    Case("executor at 1.5, blasenv", ("executor", "4"), 1.5, "threads", ("pool",), ("of its own share 1.5 CPUs",),
         never=(INSTALL, "OMP_NUM_THREADS"), whose="own"),
    Case("executor, variable set", ("executor", "4"), 1, "threads", ("pool",), ("of its own",), False,
         {"OMP_NUM_THREADS": "1"}, never=(INSTALL, "OMP_NUM_THREADS"), whose="own"),
    Case("Python threads", ("gil", "6"), 1, "one-thread", ("line",), ("GIL",)),
    Case("Python threads at 0.3", ("gil", "6"), 0.3, "limit", ("raise",)),
    # Not Python.
    Case("OpenMP program", ("spin",), 1, "threads", ("run", "variable"), ("blasenv run -- ",), False,
         never=("in its Python",), whose="library"),
    Case("OpenMP program, told 1", ("spin",), 1, "one-thread", (), (), False, {"OMP_NUM_THREADS": "1"}),
    Case("OpenMP program, told 8", ("spin",), 1, "threads", ("lower",), ("8 busy threads (GNU OpenMP) share 1 CPU",),
         False, {"OMP_NUM_THREADS": "8"}, never=("in its Python",), whose="library"),
    Case("OpenMP program, pinned", ("spin", "pinned"), None, "threads", ("widen", "lower"), ("taskset -a -c -p",),
         False, {"OMP_NUM_THREADS": "2"}, whose="library"),
    # Workers.
    Case("pool, from its worker", ("pool", "4"), 1, "threads", ("variable", "install", "workers"),
         ("4 busy workers",), False, who="worker", whose="library"),
    Case("pool, from its master", ("pool", "4"), 1, "threads", ("variable", "install", "workers"),
         ("4 busy workers",), False, whose="library"),
    Case("pool, blasenv", ("pool", "4"), 1, "processes", ("workers",), ("suffers.py: 4 busy workers share 1 CPU",),
         never=(INSTALL,)),
    Case("pool at 1.5, blasenv", ("pool", "2"), 1.5, "processes", ("workers",), ("2 busy workers share 1.5 CPUs",),
         never=(INSTALL,), who="worker"),
    Case("spawned pool, blasenv", ("spawn_pool", "3"), 1, "processes", ("workers",),
         ("suffers.py: 3 busy workers share 1 CPU",), never=(INSTALL,), who="worker"),
    Case("pool of Python loops", ("python_pool", "3"), 1, "processes", ("workers",), ("3 busy workers",), False,
         never=(INSTALL,)),
    Case("joblib, blasenv", ("joblib_workers", "3"), 1, "processes", ("workers",), ("3 busy workers share 1 CPU",),
         never=(INSTALL,)),
    Case("joblib at 1.5, blasenv", ("joblib_workers", "3"), 1.5, "processes", ("workers",), ("share 1.5 CPUs",),
         never=(INSTALL,), who="worker"),
    Case("joblib", ("joblib_workers", "4"), 1, "processes", ("workers",), ("4 busy workers share 1 CPU",), False,
         never=(INSTALL,)),
    Case("gunicorn", ("gunicorn",), 1, "threads", ("variable", "install", "workers"),
         ("gunicorn: 2 busy workers × 2 busy threads (OpenBLAS) share 1 CPU",), False, whose="library"),
    Case("gunicorn, blasenv", ("gunicorn",), 1, "processes", ("workers",), ("gunicorn: 2 busy workers share 1 CPU",),
         never=(INSTALL,)),
    # A limit that is too small for one thread.
    Case("a loop at 0.3", ("python_loop",), 0.3, "limit", ("raise",), ("one busy thread alone wants more",)),
    Case("the parent of a loop at 0.3", ("parent_of_one",), 0.3, "limit", ("raise",), ("which it started",)),
    Case("a loop", ("python_loop",), None, "one-thread", ("line",)),
    Case("a sleeper beside a loop at 0.3", ("sleeper_beside_another",), 0.3, "sleep", ("others", "line"),
         ("blasenv doctor ",)),
    # Threads that could not start.
    Case("pids.max", ("more_threads_than_may_be", "pids"), None, "refused", ("raise-pids",), ("12 of 12",), quiet=True),
    Case("RLIMIT_NPROC", ("sh", "nproc"), None, "refused", ("raise-user",), ("ulimit -u",), quiet=True),
    # Asleep.
    Case("sleep", ("sleeper",), 1, "sleep", ("line",), quiet=True),
    Case("a pipe", ("reads_a_pipe",), None, "input", (), ("on a pipe",), quiet=True),
    Case("a lock", ("locked",), None, "lock", ("line",), ("py-spy",), quiet=True),
    Case("events", ("polls",), None, "events", ("line",), quiet=True),
    Case("stopped", ("sleeper", "stopped"), None, "stopped", ("continue",), ("kill -CONT",), quiet=True),
    Case("zombie", ("zombie",), None, "gone", (), ("a zombie",), who="worker", quiet=True),
)  # fmt: skip


@dataclass
class Machine:
    """Where the programs come from."""

    hooked: Venv
    bare: Venv
    spin: Path
    scratch: Path


@dataclass
class Running:
    """A case that runs."""

    case: Case
    pid: int


@pytest.fixture(scope="module")
def machine(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    scratch = tmp_path_factory.mktemp("cases")
    numpy = install("pools")
    venvs = []
    (requirement,) = [
        line for line in (HERE / "requirements" / "servers.txt").read_text().split() if line.startswith("gunicorn")
    ]
    for name in ("hooked", "bare"):
        venv = make_venv(scratch / name, VERSION)
        venv.install(*([wheel] if name == "hooked" else []), requirement)
        (venv.site_packages / "pools.pth").write_text(f"{numpy.site_packages}\n")
        venvs.append(venv)
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc to compile an OpenMP program with")
    spin = scratch / "spin"
    run([compiler, "-O1", "-fopenmp", SUPPORT / "spin.c", "-o", spin])
    return Machine(venvs[0], venvs[1], spin, scratch)


def command_of(case: Case, machine: Machine) -> list[str | Path]:
    venv = machine.hooked if case.blasenv else machine.bare
    if case.program[0] == "spin":
        return [machine.spin]
    if case.program[0] == "gunicorn":
        options = ["--workers=2", f"--bind=unix:{socket_of(case, machine)}", "--no-control-socket", "--timeout=0"]
        return [venv.python, venv.directory / "bin" / "gunicorn", *options, "web_that_computes:wsgi"]
    if case.program[0] == "sh":
        alone = ["prlimit", "--nproc=3:3", "setpriv", "--reuid=64321", "--regid=64321", "--clear-groups"]
        return [*alone, "sh", "-c", "sleep 999 & sleep 999 & echo ready; exec sleep 999"]
    return [venv.python, SUPPORT / "suffers.py", *(word for word in case.program if word not in ("pids", "stopped"))]


def socket_of(case: Case, machine: Machine) -> Path:
    return machine.scratch / f"{case.blasenv}.socket"


@contextlib.contextmanager
def running(case: Case, machine: Machine) -> Iterator[Running]:
    """The case's process, at work."""
    with contextlib.ExitStack() as stack:
        command = command_of(case, machine)
        if case.limit is not None:
            if len(os.sched_getaffinity(0)) <= case.limit:
                pytest.skip(f"{case.limit} CPUs are no limit on this machine")
            command = list(stack.enter_context(make_cgroup(case.limit)).enter(command))
        if "pids" in case.program:
            command = list(stack.enter_context(pids_cgroup(12)).enter(command))
        environ = clean_environ(PYTHONPATH=str(SUPPORT), **case.environ)
        words = [str(word) for word in command]
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        main = stack.enter_context(subprocess.Popen(words, env=environ, start_new_session=True, **options))
        stack.callback(lambda: os.killpg(main.pid, signal.SIGKILL))
        yield Running(case, at_work(case, machine, main, stack))


def at_work(case: Case, machine: Machine, main: subprocess.Popen[str], stack: contextlib.ExitStack) -> int:
    """Wait until a case's program does what it is there for; the PID to look at."""
    workers: list[int] = []
    if case.program[0] == "spin":
        time.sleep(0.5)
        if "pinned" in case.program:
            for tid in os.listdir(f"/proc/{main.pid}/task"):
                os.sched_setaffinity(int(tid), {min(os.sched_getaffinity(0))})
    elif case.program[0] == "gunicorn":
        deadline = time.monotonic() + TIMEOUT
        while not socket_of(case, machine).exists():
            assert time.monotonic() < deadline
            assert main.poll() is None
            time.sleep(0.1)
        for _ in range(2):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(socket_of(case, machine)))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        time.sleep(2)
    else:
        assert main.stdout is not None
        line = main.stdout.readline()
        assert line.startswith("ready"), case.name
        workers = [int(pid) for pid in line.split()[1:]]
        if workers and not case.quiet:
            time.sleep(1)  # in which they load numpy
    if "stopped" in case.program:
        os.kill(main.pid, signal.SIGSTOP)
    return workers[0] if case.who == "worker" else main.pid


def batches() -> Iterator[tuple[Case, ...]]:
    """Those that sleep all at once, those that compute a few at a time."""
    yield tuple(case for case in CASES if case.quiet)
    busy = [case for case in CASES if not case.quiet]
    for first in range(0, len(busy), AT_ONCE):
        yield tuple(busy[first : first + AT_ONCE])


def doctor(pids: Sequence[int]) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "blasenv", "doctor", "--json", "--seconds", SECONDS, *map(str, pids)]
    result = run(command, status=None, environ=clean_environ(PYTHONPATH=str(ROOT)))
    processes: list[dict[str, Any]] = json.loads(result.stdout)["processes"]
    assert [one["pid"] for one in processes] == list(pids)
    assert result.returncode == any(one["verdict"]["problem"] for one in processes)
    return processes


@pytest.mark.parametrize("batch", list(batches()), ids=lambda batch: " | ".join(case.name for case in batch))
def test_the_verdict(batch: tuple[Case, ...], machine: Machine) -> None:
    """What is said of the rows of a batch, three times."""
    with contextlib.ExitStack() as stack:
        all_running = [stack.enter_context(running(case, machine)) for case in batch]
        time.sleep(0.5)
        looks = [doctor([one.pid for one in all_running]) for _ in range(LOOKS)]
    wrong = {}
    for number, case in enumerate(batch):
        found = [problem for look in looks for problem in differences(case, look[number]["verdict"])]
        if found:
            wrong[case.name] = found
    assert not wrong


def differences(case: Case, verdict: Mapping[str, Any]) -> list[str]:
    """What is otherwise than the row says."""
    text = " ".join([verdict["sentence"], verdict["advice"]])
    found = []
    if verdict["kind"] not in BUSY_MACHINE.get(case.kind, {case.kind}):
        found.append(f"kind {verdict['kind']}")
    elif verdict["kind"] == case.kind:
        found += [f"{verdict['mends']}"] * (tuple(verdict["mends"]) != case.mends)
        found += [f"does not say {words!r}" for words in case.says if words not in text]
    found += [f"says {words!r}" for words in case.never if words in text]
    found += [f"whose {verdict['whose_threads']}"] * (verdict["whose_threads"] != case.whose)
    problem = case.kind in ("threads", "processes", "limit", "refused")
    found += [f"problem {verdict['problem']}"] * (verdict["problem"] != problem)
    return [f"{one}: {text}" for one in found]


def test_the_table_is_large_enough() -> None:
    assert len(CASES) >= 25
    assert len({case.name for case in CASES}) == len(CASES)


def look_at(pid: int) -> dict[str, Any]:
    (found,) = doctor([pid])
    return found


@contextlib.contextmanager
def numpy_at_one_cpu(command: Sequence[str | Path], **changes: str) -> Iterator[int]:
    """``command``, a Python with its options, that runs the program matmul."""
    with make_cgroup(1) as group:
        words = group.enter([*command, SUPPORT / "suffers.py", "matmul"])
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        with subprocess.Popen(words, env=clean_environ(**changes), **options) as child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == "ready\n"
                yield child.pid
            finally:
                child.kill()


def test_blasenv_came_after_it_had_started(machine: Machine, wheel: Path, tmp_path: Path) -> None:
    venv = make_venv(tmp_path / "venv", VERSION)
    shutil.copy2(machine.bare.site_packages / "pools.pth", venv.site_packages)
    with numpy_at_one_cpu([venv.python]) as pid:
        assert look_at(pid)["blasenv"]["state"] == "not-covered"
        time.sleep(2.5)  # the kernel says in whole seconds when it started
        venv.install(wheel)
        found = look_at(pid)
    assert found["blasenv"]["state"] == "later"
    assert found["verdict"]["mends"] == ["variable", "restart"]
    assert "or just restart it" in found["verdict"]["advice"]


def test_python_that_runs_no_hook(machine: Machine) -> None:
    pools = (machine.hooked.site_packages / "pools.pth").read_text().strip()
    with numpy_at_one_cpu([machine.hooked.python, "-S"], PYTHONPATH=pools) as pid:
        found = look_at(pid)
    assert found["blasenv"]["state"] == "no-site"
    assert found["verdict"]["mends"] == ["variable", "site"]


@pytest.mark.parametrize("hooked", [True, False])
def test_a_process_whose_root_directory_is_another(machine: Machine, tmp_path: Path, hooked: bool) -> None:
    """As a container's: its interpreter has a path there that leads nowhere here."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("needs root and unshare to change the root directory")
    venv = machine.hooked if hooked else machine.bare
    script = 'mount --rbind / "$0" && mount --bind "$1" "$0/mnt" && shift && exec chroot "$0" "$@"'
    inside: list[str | Path] = ["unshare", "--mount", "sh", "-c", script, tmp_path, venv.directory, "/mnt/bin/python"]
    with numpy_at_one_cpu(inside) as pid:
        found = look_at(pid)
    assert not os.path.exists("/mnt/bin/python")
    assert found["blasenv"]["interpreter"] == "/mnt/bin/python"
    assert found["blasenv"]["state"] == ("acted" if hooked else "not-covered")
    assert found["blasenv"]["set"] == ({"OMP_NUM_THREADS": "1"} if hooked else {})
    assert found["blasenv"]["would_set"] == {"OMP_NUM_THREADS": "1"}
    assert found["verdict"]["kind"] in ({"one-thread", "queue"} if hooked else {"threads"})


def test_a_family_is_told_once(machine: Machine) -> None:
    (case,) = [case for case in CASES if case.name == "pool, blasenv"]
    with running(case, machine) as pool:
        workers = Path(f"/proc/{pool.pid}/task/{pool.pid}/children").read_text().split()
        command = [sys.executable, "-m", "blasenv", "doctor", "--all", "--seconds", SECONDS]
        text = run(command, status=1, environ=clean_environ(PYTHONPATH=str(ROOT))).stdout
    assert len(workers) == 4
    told = [line for line in text.split("\n") if line.partition(":")[0] in workers]
    assert len(told) <= 1
    rows = [line.split() for line in text.split("\n") if line.split()[:1] in [[worker] for worker in workers]]
    assert [row[-1] for row in rows if row not in [line.split() for line in told]] == ["processes"] * 4
