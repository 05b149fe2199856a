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
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ROOT, Cgroup, clean_environ, run

import blasenv
from blasenv.commands.doctor import page, started, verdict
from blasenv.commands.doctor.started import UNKNOWN, Started
from blasenv.machine import libraries, pids, process
from blasenv.machine.cgroup import Throttling, cpus_of, directory_of, find_levels, parse_cpu_stat, tightest
from blasenv.pythons.coverage import Coverage

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


def test_one_of_several_is_not_there() -> None:
    with running_python("import time; time.sleep(99)") as pid:
        command = [*BLASENV, "doctor", str(pid), "4194304", "--seconds", "0.2"]
        environ = clean_environ(PYTHONPATH=str(ROOT))
        text = run(command, status=1, environ=environ)
        found = json.loads(run([*command, "--json"], status=1, environ=environ).stdout)["processes"]
    assert "PID 4194304\n\nThere is no process 4194304 here." in text.stdout
    assert "there is no process 4194304 here" in text.stderr
    assert [one["verdict"]["kind"] for one in found] == ["sleep", "gone"]


def test_what_it_used_is_counted_right() -> None:
    found = process_with(1, 2, None, None)
    found.threads = found.threads[:1]
    found.threads[0].cpu = 1.0
    rows = [line.split(None, 1) for line in page.render(found, verdict.judge(found), UNKNOWN).split("\n")]
    assert ["used", "1 CPU, 1 thread"] in rows


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


# Whose threads, and what is in place.


def test_a_pool_that_began_bit_by_bit_is_no_librarys() -> None:
    found = process_with(4, 8, 2.0, Throttling(15, 14, 1.0))
    assert verdict.whose_threads(found) == "library"
    for thread in found.threads:
        thread.started = 60.0 * (thread.tid - 7)
    assert verdict.whose_threads(found) == "both"


def test_named_threads_are_no_librarys() -> None:
    found = process_with(4, 8, 2.0, Throttling(15, 14, 1.0))
    found.threads[2].name = "ThreadPoolExecu"
    assert verdict.whose_threads(found) == "both"


def test_more_threads_than_its_libraries_can_have_started() -> None:
    assert verdict.whose_threads(process_with(9, 8, 2.0, Throttling(15, 14, 1.0))) == "both"


def test_a_main_thread_that_waits_has_others_that_call() -> None:
    found = process_with(4, 8, 2.0, Throttling(15, 14, 1.0))
    found.threads[0].states = Counter(S=10)
    assert verdict.whose_threads(found) == "both"
    assert verdict.whose_threads(found, Started(True, why="acted", values={"OMP_NUM_THREADS": "1"})) == "own"


COVERED = Coverage(("hook",), "0.1.0", True, (), "")


@pytest.mark.parametrize(
    ("started", "mends", "says"),
    [
        (UNKNOWN, ("variable", "install"), "or install blasenv in its Python"),
        (Started(True, why="not-covered"), ("variable", "install"), "or install blasenv in its Python"),
        (Started(True, cover=COVERED, why="later"), ("variable", "restart"), "blasenv came into its Python after it"),
        (Started(True, cover=COVERED, why="off"), ("variable", "mode"), 'take mode = "off" out of the configuration'),
        (Started(True, cover=COVERED, why="no-site"), ("variable", "site"), "or without -S"),
        (Started(True, cover=COVERED, why="disabled"), ("variable", "enable"), "or unset BLASENV_DISABLE=1: blasenv"),
        (Started(True, why="disabled"), ("variable", "enable-and-install"), "and install blasenv in its Python"),
        (Started(False, why="not-python"), ("run", "variable"), "blasenv run -- ./omp"),
        (
            Started(True, cover=COVERED, why="acted", values={"OMP_NUM_THREADS": "2"}, set={"OMP_NUM_THREADS": "2"}),
            ("code",),
            "sets OMP_NUM_THREADS=2 under the limit of now. Either it started under a larger one",
        ),
    ],
)
def test_only_what_is_not_in_place_is_advised(started: Started, mends: tuple[str, ...], says: str) -> None:
    found = process_with(8, 8, 2.0, Throttling(15, 14, 1.0))
    found.command = ["./omp"]
    judgement = verdict.judge(found, started)
    assert judgement.kind == "threads"
    assert tuple(mend for mend in judgement.mends if mend != "pool") == mends
    assert says in page.advice(found, judgement, started)
    assert max(len(line) for line in page.render(found, judgement, started).split("\n")) <= 80


def family_of(workers: int, threads: int, cpus: float) -> process.Process:
    """An idle master with workers of so many busy threads each, in one limit."""
    master = process_with(0, 8, cpus, Throttling(15, 14, 1.0))
    master.command = ["/usr/bin/python3", "/usr/bin/gunicorn", "web:app"]
    for number in range(workers):
        worker = process_with(threads, 8, cpus, Throttling(15, 14, 1.0))
        worker.pid, worker.parent, worker.command = 100 + number, master.pid, master.command
        for thread in worker.threads:
            thread.tid += 100 + number - 7
        master.neighbours.append(worker)
    return master


def test_workers_that_share_a_limit_are_given_a_line() -> None:
    found = family_of(4, 4, 4.0)
    set_by_blasenv = {"OMP_NUM_THREADS": "4"}
    started = Started(True, cover=COVERED, why="acted", values=set_by_blasenv, set=set_by_blasenv)
    judgement = verdict.judge(found, started)
    assert (judgement.kind, judgement.mends) == ("processes", ("share",))
    assert page.sentence(found, judgement).startswith(
        "Processes: gunicorn: 4 busy workers × 4 busy threads share 4 CPUs;"
    )
    advice = page.advice(found, judgement, started)
    assert advice.startswith('In /etc/blasenv.toml, under [programs]: gunicorn = "share:4" (each worker then starts 1')


def test_idle_workers_are_not_counted() -> None:
    found = family_of(6, 1, 2.0)
    for idle in found.neighbours[4:]:
        idle.threads = idle.threads[1:]
    judgement = verdict.judge(found)
    assert len(judgement.workers) == 4
    assert judgement.mends == ("workers",)
    assert "2 fit here" in page.advice(found, judgement, UNKNOWN)


def test_a_process_that_waits_for_its_turn_is_no_lock() -> None:
    """Six Python threads on a busy machine: each is ready to run most of the time, one at a time runs."""
    found = process_with(6, 8, 4.0, Throttling(15, 0, 0.0))
    for thread in found.threads[:6]:
        thread.states, thread.turns, thread.voluntary, thread.cpu = Counter(R=6, S=4), 4, 120.0, 0.1
    assert found.wants == 1.0
    assert verdict.judge(found).kind == "one-thread"


def test_others_that_cannot_be_seen_are_not_hidden() -> None:
    found = process_with(1, 8, 2.0, Throttling(15, 14, 1.0))
    found.threads[0].cpu = 0.2
    judgement = verdict.judge(found)
    assert (judgement.kind, judgement.cause) == ("processes", "unseen")
    assert "others that can't be seen from here" in page.sentence(found, judgement)


def test_a_list_of_cpus() -> None:
    assert page.cpu_list(frozenset({0, 1, 2, 5, 7, 8})) == "0-2,5,7-8"


# The limits on the number of threads.


def test_pids_of_cgroup_v2(tmp_path: Path) -> None:
    own = tmp_path / "sys/fs/cgroup/pod/app"
    own.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/pod/app\n")
    (tmp_path / "proc/self/mountinfo").write_text(
        "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    for directory, most, current in ((own, "max", 12), (own.parent, "20", 19)):
        (directory / "pids.max").write_text(f"{most}\n")
        (directory / "pids.current").write_text(f"{current}\n")
        (directory / "pids.events").write_text("max 3\n")
    (found,) = pids.find_pids(root=str(tmp_path))
    assert found == pids.Pids("/sys/fs/cgroup/pod", 19, 20, 3)
    assert not found.full
    assert pids.find_pids(root=str(tmp_path / "nothing")) == []


def test_pids_of_cgroup_v1_are_on_their_own_mount() -> None:
    contents = b"9:cpu,cpuacct:/a\n8:pids:/b c\n0::/d\n"
    assert pids.parse_group(contents, b"pids") == (1, b"/b c")
    assert pids.parse_group(b"9:cpu:/a\n0::/d\n", b"pids") == (2, b"/d")
    assert pids.parse_group(b"garbage\n", b"pids") is None
    mounts = (
        b"31 30 0:28 / /cg/cpu rw - cgroup cgroup rw,cpu\n"
        b"32 30 0:29 / /cg/pids rw master:9 - cgroup cgroup rw,pids\n"
        b"33 30 0:30 / /cg/with\\040blank rw - cgroup cgroup rw,pids\n"
        b"34 30 0:31 / /cg/covered rw - cgroup cgroup rw,pids\n"
        b"35 30 0:32 / /cg/covered rw - tmpfs tmpfs rw\n"
        b"cut - off\n"
    )
    assert pids.parse_mounts(mounts, 1, b"pids") == [(b"/", b"/cg/pids"), (b"/", b"/cg/with blank")]


def test_many_processes_are_counted_once_for_all_that_are_watched() -> None:
    """Of 2,000 of one user, or in one limit, each would look at all the others: 4 million files."""
    code = (
        "import sys; opened = []; sys.addaudithook(lambda event, args: event == 'open' and opened.append(args[0]));"
        "from blasenv.machine import process;"
        "found = process.measure([int(pid) for pid in sys.argv[2:]], 0.1);"
        "print(all(one.user_threads for one in found), opened.count(f'/proc/{sys.argv[1]}/status'))"
    )
    if os.geteuid():
        pytest.skip("only root starts a process as another user")
    children = []
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            children.append(stack.enter_context(subprocess.Popen(["prlimit", "--nproc=99", "sleep", "99"], user=64323)))
            stack.callback(children[-1].kill)
        pids_of_them = [str(child.pid) for child in children]
        done = run([sys.executable, "-c", code, *pids_of_them], environ=clean_environ(), cwd=ROOT)
    assert done.stdout == "True 1\n"


@pytest.mark.parametrize(
    ("contents", "want"),
    [
        (b"Limit   Soft Limit  Hard Limit  Units\nMax processes             3                    9   processes\n", 3),
        (b"Max processes             unlimited            unlimited            processes\n", None),
        (b"Max processes", None),
        (b"", None),
    ],
)
def test_nproc(contents: bytes, want: int | None) -> None:
    assert pids.parse_nproc(contents) == want


@pytest.mark.parametrize(("contents", "want"), [(b"12\n", 12), (b"max\n", None), (b"", None), (b"-1", None)])
def test_pids_max(contents: bytes, want: int | None) -> None:
    assert pids.parse_pids_max(contents) == want


@pytest.mark.parametrize(
    ("contents", "want"), [(b"max 7\n", 7), (b"other 1\nmax 0\n", 0), (b"max x", None), (b"", None)]
)
def test_pids_events(contents: bytes, want: int | None) -> None:
    assert pids.parse_pids_events(contents) == want


# Parsers.


def test_the_variables_of_the_interpreter() -> None:
    contents = (
        b"00400000-00420000 r-xp 00000000 08:01 12 /usr/bin/python3.11\n"
        b"00a00000-00a10000 rw-p 00600000 08:01 12 /usr/bin/python3.11\n"
        b"00a10000-00a20000 rw-p 00000000 00:00 0 \n"
        b"01000000-02000000 rw-p 00000000 00:00 0 [heap]\n"
        b"7f00-7f10 rw-p 00001000 08:01 12 /usr/lib/libgomp.so.1\n"
        b"7f10-7f20 rw-p 00000000 00:00 0 \n"
        b"8f00-8f10 rw-p 00001000 08:01 12 /usr/lib/x.cpython-311-x86_64-linux-gnu.so\n"
        b"no-hex rw-p 0 0 0\n"
    )
    assert process.parse_static(contents) == [(0xA00000, 0xA20000)]


def test_the_start_of_the_machine() -> None:
    assert process.parse_start_of_machine(b"cpu 1 2\nbtime 1700000000\n") == 1700000000.0
    assert process.parse_start_of_machine(b"cpu 1 2\n") is None


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


@pytest.mark.parametrize(
    ("kind", "threading"),
    [
        ("OpenBLAS", "pthreads"),
        ("MKL", "Intel OpenMP"),
        ("MKL", "GNU OpenMP"),
        ("MKL", "TBB"),
        ("BLIS", "pthreads"),
        ("GNU OpenMP", "OpenMP"),
        ("Intel OpenMP", "OpenMP"),
        ("LLVM OpenMP", "OpenMP"),
    ],
)
def test_the_size_of_a_pool_is_what_status_says_of_that_library(kind: str, threading: str) -> None:
    found = process_with(1, 8, None, None)
    library = libraries.Library(kind, threading, "", "/x/lib.so")
    assert started.pool(library, found, {"OMP_NUM_THREADS": "3"}) == 3
    assert started.pool(library, found, {}) == (1 if kind == "BLIS" else 8)
