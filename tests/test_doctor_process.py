"""``blasenv doctor PID`` on real processes: what they suffer from is known, and the verdict has to say it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ROOT, Cgroup, clean_environ, run

import blasenv
from blasenv.commands.doctor import page, verdict
from blasenv.commands.doctor.started import UNKNOWN
from blasenv.machine import libraries, process
from blasenv.machine.cgroup import Throttling, cpus_of, directory_of, find_levels, parse_cpu_stat, tightest

BLASENV = [sys.executable, "-m", "blasenv"]


@pytest.fixture(scope="session")
def spin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose OpenMP threads never rest."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc to compile an OpenMP program with")
    program = tmp_path_factory.mktemp("spin") / "spin"
    run([compiler, "-O1", "-fopenmp", ROOT / "tests" / "support" / "spin.c", "-o", program])
    return program


@contextlib.contextmanager
def running(command: Sequence[str | Path], **changes: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs meanwhile."""
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([str(word) for word in command], env=clean_environ(**changes), **options) as child:
        try:
            yield child
        finally:
            child.kill()


@contextlib.contextmanager
def running_python(code: str, prefix: Sequence[str] = ()) -> Iterator[int]:
    """A Python process that has said it is ready; the PID is the one it says it has."""
    ready = "import os, sys; print(os.getpid(), flush=True)\n"
    command = [*prefix, sys.executable, "-u", "-c", ready + code]
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=clean_environ(), **options) as child:
        try:
            assert child.stdout is not None
            yield int(child.stdout.readline())
        finally:
            child.kill()


def wait_for_threads(pid: int, count: int) -> None:
    """Until a process has so many threads."""
    for _ in range(500):
        if len(os.listdir(f"/proc/{pid}/task")) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{pid} has {os.listdir(f'/proc/{pid}/task')}, not {count} threads")


def doctor(pid: int, status: int | None = 0, prefix: Sequence[str] = ()) -> dict[str, Any]:
    """What ``blasenv doctor PID --json`` says."""
    command = [*prefix, *BLASENV, "doctor", str(pid), "--json", "--seconds", "0.6"]
    result = run(command, status=status, environ=clean_environ(PYTHONPATH=str(ROOT)))
    (found,) = json.loads(result.stdout)["processes"]
    assert isinstance(found, dict)
    return found


def test_too_many_threads_for_the_limit(spin: Path, limited: Callable[[float], Cgroup]) -> None:
    with running(limited(1).enter([spin]), OMP_NUM_THREADS="8") as child:
        wait_for_threads(child.pid, 8)
        found = doctor(child.pid, status=1)
    assert found["verdict"]["kind"] == "threads"
    assert "8 busy threads (GNU OpenMP) share 1 CPU;" in found["verdict"]["sentence"]
    assert "OMP_NUM_THREADS=8" in found["verdict"]["advice"]
    assert "OMP_NUM_THREADS=1" in found["verdict"]["advice"]
    assert found["quota_cpus"] == 1
    assert found["throttling"]["periods"] > 0
    assert found["environment"] == {"OMP_NUM_THREADS": "8"}
    assert [library["kind"] for library in found["libraries"]] == ["GNU OpenMP"]
    assert len(found["threads"]) == 8
    assert all(thread["busy"] for thread in found["threads"])


def test_it_is_stopped_by_a_limit_that_one_thread_exceeds(limited: Callable[[float], Cgroup]) -> None:
    group = limited(0.1)
    code = "while True: pass"
    with running_python(code, prefix=group.enter([])) as pid:
        found = doctor(pid, status=1)
    assert found["verdict"]["kind"] == "limit"
    assert found["throttling"]["throttled"] > 0


def test_processes_that_share_a_limit(limited: Callable[[float], Cgroup]) -> None:
    prefix = limited(0.2).enter([])
    code = "while True: pass"
    with running_python(code, prefix) as pid, running_python(code, prefix), running_python(code, prefix):
        found = doctor(pid, status=1)
    assert found["verdict"]["kind"] == "processes"
    assert found["cgroup_processes"] == 3


def test_more_threads_than_cpus_without_a_limit(spin: Path) -> None:
    count = 4 * len(os.sched_getaffinity(0))
    with running([spin], OMP_NUM_THREADS=str(count)) as child:
        wait_for_threads(child.pid, count)
        found = doctor(child.pid, status=1)
    assert found["verdict"]["kind"] == "threads"
    assert found["verdict"]["fitting_threads"] <= len(os.sched_getaffinity(0))


def test_threads_pinned_to_one_cpu_share_that_one(spin: Path) -> None:
    with running([spin], OMP_NUM_THREADS="2", OMP_PROC_BIND="false") as child:
        wait_for_threads(child.pid, 2)
        for tid in os.listdir(f"/proc/{child.pid}/task"):
            os.sched_setaffinity(int(tid), {min(os.sched_getaffinity(0))})
        found = doctor(child.pid, status=1)
    assert "2 busy threads (GNU OpenMP) share 1 CPU;" in found["verdict"]["sentence"]


def test_one_thread_that_computes() -> None:
    with running_python("while True: pass") as pid:
        found = doctor(pid)
    # On a machine where others compute, too, it may wait for a CPU.
    assert found["verdict"]["kind"] in ("one-thread", "queue")
    assert not found["verdict"]["problem"]


def test_threads_that_take_turns_at_the_gil() -> None:
    code = "import threading\ndef f():\n  while True: pass\nfor _ in range(6): threading.Thread(target=f).start()"
    with running_python(code) as pid:
        wait_for_threads(pid, 7)
        found = doctor(pid)
    assert not found["verdict"]["problem"]
    assert found["verdict"]["kind"] in ("one-thread", "queue")


def test_as_many_threads_as_cpus_are_healthy(spin: Path) -> None:
    count = len(os.sched_getaffinity(0))
    with running([spin], OMP_NUM_THREADS=str(count)) as child:
        wait_for_threads(child.pid, count)
        found = doctor(child.pid)
    assert found["verdict"]["kind"] in ("fits", "queue") if count > 1 else ("one-thread", "queue")
    assert [library["kind"] for library in found["libraries"]] == ["GNU OpenMP"]


def test_a_deadlock() -> None:
    code = (
        "import threading; l = threading.Lock(); l.acquire()\n"
        "t = threading.Thread(target=l.acquire, daemon=True); t.start(); t.join()"
    )
    with running_python(code) as pid:
        wait_for_threads(pid, 2)
        found = doctor(pid)
    assert found["verdict"]["kind"] == "lock"
    assert [thread["waits_in"] for thread in found["threads"]] == ["futex", "futex"]
    assert f"py-spy dump --pid {pid}" in found["verdict"]["advice"]


@pytest.mark.parametrize(
    ("code", "kind", "place", "target"),
    [
        ("r, w = os.pipe(); os.read(r, 1)", "input", "read", "pipe:"),
        ("r, w = os.pipe(); os.write(w, bytes(1 << 20))", "output", "write", "pipe:"),
        ("import socket; s, t = socket.socketpair(); s.recv(1)", "input", "recvfrom", "socket:"),
        ("import time; time.sleep(99)", "sleep", "clock_nanosleep", ""),
        ("import select; e = select.epoll(); e.poll()", "events", "epoll_wait", ""),
        ("import subprocess; subprocess.run(['sleep', '99'])", "child", "wait4", ""),
    ],
)
def test_what_it_waits_for(code: str, kind: str, place: str, target: str) -> None:
    with running_python(code) as pid:
        time.sleep(0.3)
        found = doctor(pid)
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for child in children:
        os.kill(child, signal.SIGKILL)
    assert found["verdict"]["kind"] == kind
    assert found["children"] == children
    for child in children:
        assert f"blasenv doctor {child}" in found["verdict"]["advice"]
    (thread,) = found["threads"]
    assert thread["waits_in"] == place
    assert thread["waits_on"].startswith(target)


def test_a_stopped_process() -> None:
    with running_python("import time; time.sleep(99)") as pid:
        os.kill(pid, signal.SIGSTOP)
        assert doctor(pid)["verdict"]["kind"] == "stopped"


def test_a_process_that_is_not_there() -> None:
    result = run([*BLASENV, "doctor", "4194304"], status=1, environ=clean_environ(PYTHONPATH=str(ROOT)))
    assert "there is no process 4194304 here" in result.stderr


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A copy of the package that every user can read, wherever this checkout is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        shutil.copytree(ROOT / "blasenv", Path(name, "blasenv"), ignore=shutil.ignore_patterns("__pycache__"))
        yield Path(name)


def test_another_users_process_is_judged_and_what_is_closed_is_said(open_to_all: Path) -> None:
    setpriv = shutil.which("setpriv")
    if os.geteuid() or setpriv is None:
        pytest.skip("needs root and setpriv to look with another user's eyes")
    python = "/usr/bin/python3"
    old = "import sys; sys.exit(sys.version_info < (3, 9))"
    if not os.path.exists(python) or run([python, "-c", old], status=None).returncode:
        pytest.skip("no system Python that another user may run")
    command = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", python, "-m", "blasenv", "doctor"]
    options: dict[str, Any] = {"environ": clean_environ(PYTHONPATH=str(open_to_all)), "cwd": "/"}
    with running_python("while True: pass") as pid:
        (found,) = json.loads(run([*command, str(pid), "--json"], **options).stdout)["processes"]
        text = run([*command, str(pid)], **options).stdout
    assert found["verdict"]["kind"] in ("one-thread", "queue")
    assert found["environment"] is None
    assert any("maps: Permission denied" in lack for lack in found["lacks"])
    assert "as its user or as root" in " ".join(text.split())


def test_root_sees_into_another_users_process() -> None:
    setpriv = shutil.which("setpriv")
    if os.geteuid() or setpriv is None:
        pytest.skip("needs root and setpriv to look with another user's eyes")
    command = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "99"]
    with running(command, OMP_NUM_THREADS="3") as child:
        time.sleep(0.3)
        found = doctor(child.pid)
    assert found["user"] == 65534
    assert found["environment"] == {"OMP_NUM_THREADS": "3"}
    assert found["lacks"] == []


def test_through_its_own_mount_and_cgroup_namespaces(spin: Path, limited: Callable[[float], Cgroup]) -> None:
    unshare = shutil.which("unshare")
    if os.geteuid() or unshare is None:
        pytest.skip("needs root and unshare to make namespaces")
    inside = limited(1).enter([unshare, "--cgroup", "--mount", spin])
    with running(inside, OMP_NUM_THREADS="4") as child:
        wait_for_threads(child.pid, 4)
        assert doctor(child.pid, status=1)["quota_cpus"] == 1


def test_all_finds_the_one_that_suffers(spin: Path, limited: Callable[[float], Cgroup]) -> None:
    with running(limited(1).enter([spin]), OMP_NUM_THREADS="8") as child:
        wait_for_threads(child.pid, 8)
        command = [*BLASENV, "doctor", "--all", "--seconds", "1"]
        found = json.loads(run([*command, "--json"], status=1, environ=clean_environ(PYTHONPATH=str(ROOT))).stdout)
        text = run(command, status=1, environ=clean_environ(PYTHONPATH=str(ROOT))).stdout
        pid = child.pid
    kinds = {one["pid"]: one["verdict"]["kind"] for one in found["processes"]}
    assert kinds[pid] == "threads"
    assert f"{pid}: Threads: 8 busy threads (GNU OpenMP) share 1 CPU" in " ".join(text.split())


# What a real machine doesn't do on demand: a tree of files in the place of /proc.


def write_process(root: Path, state: str, faults: int = 0, swap: int = 0) -> None:
    """A process 7 in a fake /proc under ``root``."""
    task = root / "proc" / "7" / "task" / "7"
    task.mkdir(parents=True)
    fields = [state, "1", *["0"] * 7, str(faults), "0", "0", "0", *["0"] * 10]
    stat = f"7 (a) (b)) {' '.join(fields)}\n"
    status = f"Name:\ta\nUid:\t0\t0\t0\t0\nVmSwap:\t{swap} kB\nCpus_allowed_list:\t0-3\n"
    for directory in (task, task.parent.parent):
        (directory / "stat").write_text(stat)
        (directory / "status").write_text(status)
    for name in ("cmdline", "maps", "environ"):
        (task.parent.parent / name).write_bytes(b"")


class Said(NamedTuple):
    """What is said of a process of whose start nothing is known."""

    kind: str
    problem: bool
    sentence: str
    advice: str


def said(found: process.Process) -> Said:
    judgement = verdict.judge(found)
    words = page.sentence(found, judgement), page.advice(found, judgement, UNKNOWN)
    return Said(judgement.kind, judgement.problem, *words)


def test_a_process_that_waits_for_the_disk(tmp_path: Path) -> None:
    write_process(tmp_path, "D")
    (tmp_path / "proc/7/task/7/wchan").write_text("folio_wait_bit_common")
    (found,) = process.measure([7], 0.01, str(tmp_path))
    judgement = said(found)
    assert judgement.kind == "disk"
    assert "100 %" in judgement.sentence
    assert "folio_wait_bit_common" in judgement.sentence
    assert found.threads[0].name == "a) (b)"


def test_memory_is_told_from_the_disk() -> None:
    thread = process.Thread(7, "a", major_faults=900.0)
    thread.states["D"] = 10
    judgement = said(process.Process(7, threads=[thread], swapped=300 << 20))
    assert judgement.kind == "memory"
    assert "900 page faults a second" in judgement.sentence
    assert "300 MiB" in judgement.sentence


def process_with(busy: int, cpus: int, quota: float | None, throttling: Throttling | None) -> process.Process:
    """A process of so many busy threads, and 3 that sleep, on so many CPUs."""
    threads = [process.Thread(7 + n, "python", cpus=frozenset(range(cpus))) for n in range(busy + 3)]
    for number, thread in enumerate(threads):
        thread.states["R" if number < busy else "S"] = 10
        thread.cpu = quota / busy if quota and number < busy else 0.0
    found: dict[str, Any] = {"controller": "cpu", "version": 2, "path": "/sys/fs/cgroup/cpu.max", "note": ""}
    levels = [blasenv.Limit(**found, quota=int(quota * 100_000), period=100_000)] if quota else []
    library = libraries.Library("OpenBLAS", "pthreads", "0.3.30", "/x/libopenblas.so.0")
    return process.Process(7, threads=threads, levels=levels, throttling=throttling, libraries=[library])


def test_the_case_it_is_all_about() -> None:
    judgement = said(process_with(48, 48, 4.0, Throttling(15, 14, 600.0)))
    assert judgement.sentence == (
        "Threads: 48 busy threads (OpenBLAS) share 4 CPUs; the kernel stopped them in 93 % of the periods."
    )
    assert judgement.advice == "Restart it with OMP_NUM_THREADS=4, or install blasenv in its Python."
    assert judgement.problem


def test_as_many_threads_as_cpus_fit() -> None:
    assert verdict.judge(process_with(4, 48, 4.0, Throttling(15, 0, 0.0))).kind == "fits"


def test_one_above_a_fraction_is_a_problem_only_when_throttled() -> None:
    assert verdict.judge(process_with(2, 8, 1.5, Throttling(15, 0, 0.0))).kind == "fits"
    assert verdict.judge(process_with(2, 8, 1.5, Throttling(15, 9, 1.0))).kind == "threads"


def test_a_variable_that_was_set_too_high_is_named() -> None:
    found = process_with(8, 8, 2.0, Throttling(15, 9, 1.0))
    found.environment = {"OPENBLAS_NUM_THREADS": "8", "OMP_NUM_THREADS": "2"}
    assert said(found).advice.startswith("It was started with OPENBLAS_NUM_THREADS=8. Restart it with OPEN")


def test_threads_that_are_nobodys_library() -> None:
    found = process_with(8, 8, 2.0, Throttling(15, 9, 1.0))
    found.libraries, found.environment = [], {}
    assert "the program's own" in said(found).advice


def test_the_text_fits_a_terminal_and_leads_with_the_verdict() -> None:
    found = process_with(48, 48, 4.0, Throttling(15, 14, 600.0))
    lines = page.render(found, verdict.judge(found), UNKNOWN).split("\n")
    assert lines[2].startswith("Threads: 48 busy threads")
    assert max(len(line) for line in lines) <= 80


# Parsers.


@pytest.mark.parametrize(
    ("contents", "want"),
    [
        (b"nr_periods 10\nnr_throttled 4\nthrottled_time 1500000000\n", Throttling(10, 4, 1.5)),
        (b"usage_usec 9\nnr_periods 10\nnr_throttled 4\nthrottled_usec 1500000\n", Throttling(10, 4, 1.5)),
        (b"usage_usec 9\nuser_usec 5\nsystem_usec 4\n", None),
        (b"nr_periods x\nnr_throttled 4\n", None),
        (b"", None),
    ],
)
def test_cpu_stat(contents: bytes, want: Throttling | None) -> None:
    assert parse_cpu_stat(contents) == want


def test_a_share_of_no_periods_is_zero() -> None:
    assert Throttling(0, 0, 0.0).share == 0


@pytest.mark.parametrize("contents", [b"", b"7 (a) R", b"garbage", b")"])
def test_a_stat_that_is_cut_off(contents: bytes) -> None:
    assert process.parse_stat(contents) is None


def test_maps() -> None:
    contents = (
        b"7f00-7f01 r--p 00000000 08:01 12 /usr/lib/libgomp.so.1.0.0\n"
        b"7f01-7f02 r-xp 00001000 08:01 12 /usr/lib/libgomp.so.1.0.0\n"
        b"7f02-7f03 r--p 00000000 08:01 13 /opt/a b/libopenblas.so.0 (deleted)\n"
        b"7f03-7f04 rw-p 00000000 00:00 0 \n"
        b"7ffd-7ffe rw-p 00000000 00:00 0                          [stack]\n"
    )
    assert libraries.parse_maps(contents) == ["/usr/lib/libgomp.so.1.0.0", "/opt/a b/libopenblas.so.0"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("libscipy_openblas64_-32a4b2a6.so", "OpenBLAS"),
        ("libopenblasp-r0.3.21.so", "OpenBLAS"),
        ("libopenblas.so.0", "OpenBLAS"),
        ("libmkl_rt.so.2", "MKL"),
        ("libblis.so.4", "BLIS"),
        ("libblis-mt.so.4", "BLIS"),
        ("libgomp-a34b3233.so.1.0.0", "GNU OpenMP"),
        ("libiomp5.so", "Intel OpenMP"),
        ("libomp.so", "LLVM OpenMP"),
        ("libomp-5c5e2b45.so.5", "LLVM OpenMP"),
        ("libtorch_cpu.so", "PyTorch"),
        ("libompi.so", None),
        ("libgomp.spec", None),
        ("libblas.so.3", None),
        ("_multiarray_umath.cpython-311-x86_64-linux-gnu.so", None),
    ],
)
def test_library_names(name: str, kind: str | None) -> None:
    found = libraries.recognise(f"/nowhere/{name}")
    assert (found.kind if found else None) == kind


def test_pthreads_or_openmp_shows_in_what_it_is_linked_to(tmp_path: Path) -> None:
    (tmp_path / "libopenblas.so.0").write_bytes(b"\x7fELF\0libc.so.6\0OpenBLAS 0.3.30 DYNAMIC_ARCH\0")
    (tmp_path / "libopenblasp-r0.so").write_bytes(b"\x7fELF\0libgomp.so.1\0OpenBLAS 0.3.21 \0")
    other, one = libraries.recognise_all(str(path) for path in tmp_path.iterdir())
    assert (str(one), one.makes_threads) == ("OpenBLAS 0.3.30 (pthreads)", True)
    assert (str(other), other.makes_threads) == ("OpenBLAS 0.3.21 (OpenMP)", False)


def test_mkl_counts_once_with_its_threading_layer() -> None:
    paths = ["/x/libmkl_rt.so.2", "/x/libmkl_core.so.2", "/x/libmkl_gnu_thread.so.2"]
    assert [str(library) for library in libraries.recognise_all(paths)] == ["MKL (GNU OpenMP)"]


def test_the_tightest_level_is_found_above(limited: Callable[[float], Cgroup]) -> None:
    group = limited(1)
    result = group.run(["cat", "/proc/self/cgroup"])
    assert group.directory.name in result.stdout
    with running(group.enter(["sleep", "99"])) as child:
        select.select([], [], [], 0.3)
        level = tightest(find_levels(str(child.pid)))
    assert level is not None
    assert (cpus_of(level), directory_of(level)) == (1, str(group.directory))
