"""Every system call of the hook made to fail, one at a time, by strace; and limits that make many fail.

Whatever fails, the interpreter starts, says nothing, and sees the right value or none.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Cgroup, Venv, clean_environ, make_venv, run

# What open(2), fstat(2), read(2) and close(2) list for a path that exists, and more. Python retries after EINTR.
FAULTS = {
    "openat": ("EACCES", "EPERM", "EINTR", "EIO", "ELOOP", "EMFILE", "ENFILE", "ENODEV", "ENOENT", "ENOMEM", "ENXIO"),
    "fstat": ("EACCES", "EIO", "ENOMEM", "EOVERFLOW"),
    "newfstatat": ("EACCES", "EIO", "ENOMEM", "EOVERFLOW"),
    "read": ("EAGAIN", "EIO", "EINVAL", "EISDIR", "ENODEV"),
    "close": ("EIO",),
}
SHOW = "import ctypes; f = ctypes.CDLL(None).getenv; f.restype = ctypes.c_char_p; print(f(b'OMP_NUM_THREADS'))"
MANY_STARTS = ROOT / "tests" / "support" / "many_starts.py"
CONFIG = b'rounding = "floor"\n'


Start = Callable[..., "subprocess.CompletedProcess[str]"]
Call = tuple[str, int, str]
"""A system call of the hook: its name, the how-many-th of that name in the process, and the file."""


@pytest.fixture
def traced(one_venv: Venv, one_cpu: Cgroup, tmp_path: Path) -> Start:
    """Starts Python under strace in a limit of one CPU, with a configuration file."""
    if not shutil.which("strace"):
        pytest.skip("no strace on this machine")
    config = tmp_path / "blasenv.toml"
    config.write_bytes(CONFIG)

    def start(*options: str) -> subprocess.CompletedProcess[str]:
        trace: list[str | Path] = [
            "strace",
            "-y",
            "-o",
            tmp_path / "trace",
            "-e",
            f"trace={','.join(FAULTS)}",
            *options,
        ]
        command = one_cpu.enter([*trace, one_venv.python, "-c", SHOW])
        return run(command, environ=clean_environ(BLASENV_CONFIG=str(config), PYTHONHASHSEED="0"), status=None)

    return start


def calls_of_the_hook(traced: Start, trace: Path) -> list[Call]:
    """Every system call on one of the hook's files, in a start where nothing fails."""
    for _ in range(2):  # the first start may write byte code
        assert traced().stdout == "b'1'\n"
    count: Counter[str] = Counter()
    calls = []
    for line in trace.read_text().splitlines():
        name = line.partition("(")[0]
        count[name] += 1
        found = re.search(r"/blasenv\.toml|/proc/\w+/(?:cgroup|mountinfo)|/cpu\.(?:max|cfs_\w+)", line)
        if found:
            calls.append((name, count[name], found[0].rpartition("/")[2]))
    return calls


def test_any_failing_call_leaves_the_right_value_or_none(traced: Start, tmp_path: Path) -> None:
    trace, config = tmp_path / "trace", tmp_path / "blasenv.toml"
    calls = calls_of_the_hook(traced, trace)
    assert {name for _, _, name in calls} >= {"blasenv.toml", "cgroup", "mountinfo"}
    for name, number, file in calls:
        for error in FAULTS[name]:
            result = traced("-e", f"inject={name}:error={error}:when={number}")
            case = f"{file}: {name} {number} {error}: {result}"
            assert trace.read_text().count("(INJECTED)") == 1, case
            assert result.returncode == 0, case
            if file == "blasenv.toml":
                # The one thing that is said aloud: a configuration that can't be read. The defaults apply.
                assert result.stdout == "b'1'\n", case
                assert re.fullmatch(rf"(blasenv: {re.escape(str(config))}: .*\n)?", result.stderr), case
            else:
                assert result.stdout in ("b'1'\n", "None\n"), case
                assert result.stderr == "", case


def test_interrupt_in_each_call_is_pythons_own(traced: Start, tmp_path: Path) -> None:
    for name, number, file in calls_of_the_hook(traced, tmp_path / "trace"):
        result = traced("-e", f"inject={name}:signal=SIGINT:when={number}")
        assert result.returncode not in (0, -11), f"{file} {name}: {result}"
        assert "KeyboardInterrupt" in result.stderr, f"{file} {name}: {result}"


@pytest.mark.parametrize("files", range(3, 12))
def test_out_of_file_descriptors(one_venv: Venv, one_cpu: Cgroup, files: int) -> None:
    """With so few descriptors that Python itself may fail: then it fails the same way without the hook."""
    command = one_cpu.enter([one_venv.python, "-c", "print('started')"])

    def start(**environ: str) -> subprocess.CompletedProcess[str]:
        limit = (files, files)
        return run(
            command,
            environ=clean_environ(**environ),
            status=None,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit),
        )

    with_hook, without = start(), start(BLASENV_DISABLE="1")
    assert (with_hook.returncode, with_hook.stdout, with_hook.stderr) == (
        without.returncode,
        without.stdout,
        without.stderr,
    )


def test_out_of_memory(one_venv: Venv, one_cpu: Cgroup) -> None:
    """Where memory is too little for Python with the hook, it fails as Python does; 4 MiB more, and it starts."""
    command = one_cpu.enter([one_venv.python, "-c", "print('started')"])

    def start(size: int, **environ: str) -> subprocess.CompletedProcess[str]:
        return run(
            command,
            environ=clean_environ(**environ),
            status=None,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
        )

    # Downwards, to meet as few plain starts without memory as possible: CPython itself, though rarely, hangs in one.
    sizes = range(64 << 20, 8 << 20, -(256 << 10))
    least = next(size for size in sizes if start(size, BLASENV_DISABLE="1").returncode != 0) + (256 << 10)
    for size in range(least, least + (4 << 20), 256 << 10):
        assert start(size).returncode in (0, 1), f"{size} bytes"
    result = start(least + (4 << 20))
    assert (result.returncode, result.stdout, result.stderr) == (0, "started\n", "")


def test_no_start_fails_while_blasenv_is_installed_anew(one_venv: Venv, wheel: Path, tmp_path: Path) -> None:
    """A few hundred, because CI has to end; SECURITY.md has the count of ten thousand."""
    venv = make_venv(tmp_path / "venv", one_venv.version, pip=True)
    venv.install(wheel)
    counts = json.loads(run([sys.executable, MANY_STARTS, venv.directory, wheel, "400"]).stdout)
    assert counts["failed"] == 0
    assert counts["installations"] > 1
    # Between the hook's arrival and the module's, site reports a line that cannot run, and goes on.
    assert all("blasenv" in sentence for sentence in counts["said"])
