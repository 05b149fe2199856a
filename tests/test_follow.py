"""`blasenv.follow` in real processes whose limit is changed while they run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import live_libraries
import pytest
from conftest import ROOT, Cgroup, clean_environ

import blasenv
from blasenv.live import following

CPUS = len(os.sched_getaffinity(0))
LATER = 30  # seconds; nothing is measured with it

# Each line on stdin is an expression, and its value goes to stdout.
PROGRAM = """
import ctypes, json, os, sys, threading
import blasenv
blas = ctypes.CDLL(sys.argv[1])
omp = ctypes.CDLL(sys.argv[2])
count, set_count = blas.scipy_openblas_get_num_threads64_, blas.scipy_openblas_set_num_threads64_
openmp = omp.omp_get_max_threads
for line in sys.stdin:
    print(json.dumps(eval(line)), flush=True)
"""


class Program:
    """A program that is asked for values."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, expression: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def wait_for(self, expression: str, value: object) -> None:
        found = None
        for _ in range(LATER * 100):
            found = self.ask(expression)
            if found == value:
                return
            time.sleep(0.01)
        raise AssertionError(f"{expression} is {found!r}, not {value!r}")


@contextlib.contextmanager
def running(group: Cgroup, **environ: str) -> Iterator[Program]:
    (openmp,) = live_libraries.wheels().site_packages.glob("scikit_learn.libs/libgomp*")
    words: list[str | Path] = [sys.executable, "-c", PROGRAM, live_libraries.openblas_of_numpy(), openmp]
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environ = clean_environ(PYTHONPATH=str(ROOT), **environ)
    with subprocess.Popen(group.enter(words), env=environ, **options) as child:
        try:
            yield Program(child)
        finally:
            child.kill()


FOLLOW = "blasenv.follow(0.01).ended"


def test_a_limit_that_changes_a_hundred_times(limited: Callable[[float], Cgroup]) -> None:
    group = limited(1)
    with running(group) as program:
        assert program.ask("[count(), openmp()]") == [CPUS, CPUS]
        assert program.ask(FOLLOW) == ""
        assert program.ask("[count(), openmp()]") == [1, 1]
        files = program.ask("len(os.listdir('/proc/self/fd'))")
        for number in range(100):
            group.limit((None, 1)[number % 2])
            # OpenMP's count belongs to the main thread, and is set there.
            program.wait_for("[count(), openmp()]", [(CPUS, 1)[number % 2]] * 2)
        assert program.ask(FOLLOW) == ""
        assert program.ask("len(os.listdir('/proc/self/fd'))") == files
        assert program.ask("[thread.daemon for thread in threading.enumerate()]") == [False, True]


def test_it_moves_to_another_group(limited: Callable[[float], Cgroup]) -> None:
    free, tight = limited(1.5), limited(1)
    free.limit(None)
    with running(free) as program:
        assert program.ask(FOLLOW) == ""
        assert program.ask("count()") == CPUS
        (tight.directory / "cgroup.procs").write_text(str(program.process.pid))
        program.wait_for("count()", 1)


def test_a_library_that_comes_later(limited: Callable[[float], Cgroup]) -> None:
    group = limited(1)
    numpy = live_libraries.wheels().site_packages
    with running(group) as program:
        program.ask(FOLLOW)
        program.ask(f"sys.path.append({str(numpy)!r})")
        program.ask("str(__import__('scipy.linalg'))")
        program.ask("str(__import__('threadpoolctl'))")
        counts = "sorted(found['num_threads'] for found in sys.modules['threadpoolctl'].threadpool_info())"
        program.wait_for(counts, [1] * 3)  # numpy's own copy is the one that was there


def test_the_program_has_the_last_word(limited: Callable[[float], Cgroup]) -> None:
    group = limited(1)
    with running(group) as program:
        program.ask(FOLLOW)
        program.ask(f"set_count({CPUS})")
        group.limit(1.5)
        program.wait_for(
            "blasenv.live.following._State.follower.ended", f"the program has set OpenBLAS to {CPUS} itself"
        )
        assert program.ask("count()") == CPUS


def test_what_it_lowers_for_a_while_is_not_raised_meanwhile(limited: Callable[[float], Cgroup]) -> None:
    group = limited(1)
    group.limit(None)
    with running(group) as program:
        program.ask(FOLLOW)
        program.ask("set_count(1)")  # as threadpoolctl does for a moment
        group.limit(1.5)
        group.limit(1)
        time.sleep(0.5)
        assert program.ask("count()") == 1
        program.ask(f"set_count({CPUS})")  # what threadpoolctl remembers from before the limit
        program.wait_for("count()", 1)
        assert program.ask("blasenv.live.following._State.follower.ended") == ""


def test_a_forked_child_does_not_follow_and_may(limited: Callable[[float], Cgroup]) -> None:
    group = limited(1)
    with running(group) as program:
        program.ask(FOLLOW)
        child = (
            "(lambda pid: pid or print(json.dumps([threading.active_count(), len(os.listdir('/proc/self/fd')),"
            " blasenv.follow(0.01).ended, threading.active_count()]), flush=True) or os._exit(0))(os.fork())"
        )
        assert program.process.stdin is not None
        assert program.process.stdout is not None
        program.process.stdin.write(child + "\n")
        program.process.stdin.flush()
        lines = [json.loads(program.process.stdout.readline()) for _ in range(2)]
        (found,) = [line for line in lines if isinstance(line, list)]
        assert found == [1, 4, "", 2]  # three standard files, and the listing itself
        group.limit(None)
        program.wait_for("count()", CPUS)


def test_it_is_asked_to_stop(limited: Callable[[float], Cgroup]) -> None:
    group = limited(1)
    with running(group) as program:
        program.ask(FOLLOW)
        program.ask("blasenv.follow(0.01).stop()")
        program.wait_for("threading.active_count()", 1)
        assert program.ask("len(os.listdir('/proc/self/fd'))") == 4
        group.limit(None)
        time.sleep(0.3)
        assert program.ask("count()") == 1
        assert program.ask(FOLLOW) == ""
        assert program.ask("count()") == CPUS


def test_the_user_set_a_count_before(limited: Callable[[float], Cgroup]) -> None:
    with running(limited(1), OMP_NUM_THREADS="2") as program:
        assert program.ask(FOLLOW) == ""
        assert program.ask("[count(), openmp()]") == [min(2, CPUS), 2]


def test_two_calls_are_one_follower() -> None:
    first = blasenv.follow(3600)
    try:
        assert blasenv.follow(1800) is first
        assert first.seconds == 1800
    finally:
        first.stop()


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_how_often_is_above_zero(seconds: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        blasenv.follow(seconds)
    assert following._State.follower is None or following._State.follower.ended
