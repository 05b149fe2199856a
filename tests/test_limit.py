"""``blasenv limit``: the limit is real, the command is itself, and nothing stays behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, clean_environ, make_cgroup, run

from blasenv.machine.cgroup import directory_of, find_levels

LIMIT = [sys.executable, "-m", "blasenv", "limit"]
ENVIRON = clean_environ(PYTHONPATH=str(ROOT))


@pytest.fixture(autouse=True, scope="module")
def _can_be_limited() -> None:
    """Skip where this machine lets nobody make a cgroup."""
    with make_cgroup(1):
        pass


def limited(*words: str, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    return run([*LIMIT, *words], status=status, environ=ENVIRON, **options)


def left_behind(pid: int) -> list[str]:
    """The cgroups of a ``limit`` with this PID that are still there, after what time removing takes."""
    places = [Path(directory_of(level)) for level in find_levels()]
    for _ in range(250):
        found = [str(path) for place in places for path in place.glob(f"blasenv-limit-{pid}")]
        if not found:
            break
        time.sleep(0.02)
    return found


def start(*words: str) -> tuple[subprocess.Popen[str], int]:
    """A ``limit`` whose command has started and said its PID."""
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRON}
    child = subprocess.Popen([*LIMIT, "--cpus", "0.5", "--", *words], **options)
    assert child.stdout is not None
    return child, int(child.stdout.readline())


def is_running(pid: int) -> bool:
    for _ in range(250):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        time.sleep(0.02)
    return True


def test_the_command_sees_the_limit() -> None:
    code = "import blasenv; print(blasenv.cpu_quota())"
    assert limited("--cpus", "0.5", "--", sys.executable, "-c", code).stdout == "0.5\n"


def test_it_is_throttled_and_that_is_said_on_stderr() -> None:
    # So small a limit that even a busy machine would give more.
    code = "import time; start = time.process_time()\nwhile time.process_time() - start < 0.05: pass"
    result = limited("--cpus", "0.05", "--", sys.executable, "-c", code)
    match = re.fullmatch(
        r"blasenv: throttled in (\d+) of (\d+) periods \(\d+ %\) under a limit of 0\.05 CPUs\n", result.stderr
    )
    assert match is not None, result.stderr
    assert 0 < int(match[1]) <= int(match[2])
    assert result.stdout == ""


def test_quiet_says_nothing() -> None:
    assert limited("--cpus", "1", "--quiet", "--", "true").stderr == ""


def test_the_cpuset_is_its_affinity() -> None:
    cpu = max(os.sched_getaffinity(0))
    code = "import os; print(os.sched_getaffinity(0))"
    result = limited("--cpus", "1", "--cpuset", str(cpu), "--", sys.executable, "-c", code)
    assert result.stdout == f"{{{cpu}}}\n"


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_the_exit_status_is_the_commands(status: int) -> None:
    limited("--cpus", "1", "--", "sh", "-c", f"exit {status}", status=status)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT])
def test_death_by_a_signal_is_passed_on(number: signal.Signals) -> None:
    limited("--cpus", "1", "--", "sh", "-c", f"kill -{number.value} $$", status=-number)


def test_what_cannot_be_run() -> None:
    assert "no-such-command: command not found" in limited("--cpus", "1", "--", "no-such-command", status=127).stderr
    assert "Permission denied" in limited("--cpus", "1", "--", "/etc/passwd", status=126).stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_us_is_for_the_command(number: signal.Signals) -> None:
    name = number.name[3:]
    child, _ = start("sh", "-c", f"trap 'echo got {name}; exit 5' {name}; echo $$; while :; do sleep 0.05; done")
    child.send_signal(number)
    out, _ = child.communicate(timeout=60)
    assert out == f"got {name}\n"
    assert child.returncode == 5
    assert left_behind(child.pid) == []


def test_nothing_is_left_when_it_is_killed() -> None:
    child, pid = start("sh", "-c", "echo $$; exec sleep 99")
    child.kill()
    child.communicate(timeout=60)
    assert not is_running(pid)
    assert left_behind(child.pid) == []


def test_what_the_command_left_running_ends_with_it() -> None:
    child, pid = start("sh", "-c", "sleep 99 > /dev/null 2>&1 & echo $!")
    child.communicate(timeout=60)
    assert child.returncode == 0
    assert not is_running(pid)
    assert left_behind(child.pid) == []


def test_what_it_prints_can_be_piped() -> None:
    """Nobody but the command holds its stdout, so a reader sees the end."""
    script = '"$@" | cat'
    command = ["sh", "-c", script, "sh", *LIMIT, "--cpus", "1", "--quiet", "--", "echo", "a b"]
    assert run(command, environ=ENVIRON).stdout == "a b\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--cpus", "0", "--", "true"], "--cpus is a number from 0.01"),
        (["--cpus", "nan", "--", "true"], "--cpus is a number from 0.01"),
        (["--cpus", "1"], "the command is missing"),
        (["--cpus", "1", "--cpuset", "9999", "--", "true"], "none of these are CPUs we may use"),
        (["--cpus", "1", "--cpuset", "a", "--", "true"], "none of these are CPUs we may use"),
    ],
)
def test_wrong_usage(words: Sequence[str], sentence: str) -> None:
    assert sentence in limited(*words, status=2).stderr


def test_without_the_right_to_make_a_cgroup_docker_is_named() -> None:
    """A cgroup file system that is not there stands for one that is read-only."""
    if os.geteuid():
        pytest.skip("needs root to hide the cgroup file system")
    # Every mount of it: containers unpacked on this machine may have theirs.
    mounts = "awk '$3 ~ /^cgroup/ { print $2 }' /proc/self/mounts"
    hidden = f'{mounts} | while read -r point; do umount --lazy "$point"; done; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", hidden, "sh", *LIMIT, "--cpus", "1.5", "--", "python", "a b.py"]
    result = run(command, status=1, environ=ENVIRON)
    assert result.stderr.startswith("blasenv: no cgroup can be made here: ")
    assert result.stderr.endswith("docker run --rm --cpus 1.5 IMAGE python 'a b.py'\n")


def test_in_a_scope_of_systemd_the_limit_is_looked_at() -> None:
    """Where systemd hands no cpu controller to users, it makes a scope, and the limit is silently none."""
    words = ["--scope", "--cpus", "0.5", "--quiet", "--", "echo", "ran"]
    result = run([*LIMIT, *words], status=1, environ=ENVIRON)
    assert result.stderr.startswith("blasenv: systemd set no CPU limit in /sys/fs/cgroup")
    assert result.stdout == ""
    with make_cgroup(0.5) as group:
        assert group.run([*LIMIT, *words], environ=ENVIRON).stdout == "ran\n"


def test_a_limit_above_that_is_tighter() -> None:
    """Kernels of v1 refuse a looser limit below a tighter one; v2 takes it, and the tighter one binds."""
    code = "import blasenv; print(blasenv.cpu_quota())"
    inner = [*LIMIT, "--cpus", "2", "--quiet", "--", sys.executable, "-c", code]
    result = limited("--cpus", "0.5", "--quiet", "--", *inner, status=1 if find_levels()[0].version == 1 else 0)
    assert "the cgroup above allows 0.5" in result.stderr or result.stdout == "0.5\n"
