"""Whatever the hook finds: the interpreter starts, at once, and the program does what it does without blasenv."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import Cgroup, Venv, clean_environ, make_venv, run

PROGRAM = "import os, sys; print('out'); print('err', file=sys.stderr); print(os.environ['PATH']); sys.exit(3)"
# With a standard stream closed, print may fail; what is seen is the exit status of os._exit.
CLOSED = "import os, sys; print('out') if sys.stdout else 0; sys.stdout and sys.stdout.flush(); os._exit(4)"


def outcome(
    venv: Venv, group: Cgroup, environ: dict[str, str] | None = None, prefix: Sequence[str] = (), code: str = PROGRAM
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a program that prints on both and exits with 3."""
    result = group.run([*prefix, venv.python, "-c", code], environ=environ, status=None)
    return result.returncode, result.stdout, result.stderr


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def terminal(path: Path) -> None:
    path.symlink_to("/dev/tty")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100_000_000)


def forbidden(path: Path) -> None:
    path.write_text('mode = "single"\n')
    path.chmod(0)


def loop(path: Path) -> None:
    path.symlink_to(path)


def not_utf8(path: Path) -> None:
    path.write_bytes(b'mode = "\xff\xfe"\n')


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 100)


def deep(path: Path) -> None:
    path.write_text("mode = " + "[" * 60_000 + "\n")


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (fifo, "not a regular file"),
        (Path.mkdir, "not a regular file"),
        (device, "not a regular file"),
        (terminal, ""),
        (huge, "larger than"),
        (forbidden, "Permission denied"),
        (loop, "Too many levels"),
        (not_utf8, ":1: not UTF-8"),
        (binary, ":1: a control character"),
        (deep, ":1: "),
        (lambda _: None, "no such file"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_configuration_that_is_no_configuration(
    place: Callable[[Path], None], problem: str, one_venv: Venv, one_cpu: Cgroup, tmp_path: Path
) -> None:
    file = tmp_path / "blasenv.toml"
    place(file)
    # Root reads files of mode 0 all the same, but for the capabilities taken away here.
    prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    status, stdout, stderr = outcome(one_venv, one_cpu, clean_environ(BLASENV_CONFIG=str(file)), prefix)
    assert (status, stdout.partition("\n")[0]) == (3, "out")
    line, err = stderr.splitlines()
    assert err == "err"
    assert line.startswith(f"blasenv: {file}")
    assert problem in line


VALUES = [
    b"",
    b" ",
    b"0",
    b"-1",
    b"1.5",
    b"99999999999999999999",
    b"\xff\xfe",
    b"a\nb",
    b"=",
    b"==1 =",
    b"x" * 100_000,
    "٣".encode(),
]


@pytest.mark.parametrize(
    "name",
    [
        *("BLASENV_MODE", "BLASENV_THREADS", "BLASENV_CPUS", "BLASENV_CPU_COUNT", "BLASENV_DISABLE"),
        *("BLASENV_SET", "BLASENV_MARK", "BLASENV_WARNED", "BLASENV_UNKNOWN"),
    ],
)
def test_any_value_of_our_variables(name: str, one_venv: Venv, one_bare_venv: Venv, one_cpu: Cgroup) -> None:
    expected = outcome(one_bare_venv, one_cpu)
    for value in VALUES:
        environ = {os.fsencode(key): os.fsencode(text) for key, text in clean_environ().items()}
        given = {**environ, os.fsencode(name): value}
        result = subprocess.run(
            one_cpu.enter([one_venv.python, "-c", PROGRAM]), env=given, capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stdout, result.stderr) == expected, value[:20]


@pytest.mark.parametrize("value", [b"\xff", b"a\nb", b"x" * 5000, b"relative", b"/", b"/proc/self/mem", b"/dev/stdin"])
def test_any_path_of_a_configuration(value: bytes, one_venv: Venv, one_cpu: Cgroup) -> None:
    given = clean_environ(BLASENV_CONFIG=os.fsdecode(value))
    result = one_cpu.run([one_venv.python, "-c", PROGRAM], environ=given, status=3, errors="surrogateescape")
    assert result.stdout.startswith("out\n")
    assert result.stderr.startswith("blasenv: ")
    assert result.stderr.endswith("err\n")


def test_a_mark_cannot_remove_other_variables(one_venv: Venv, one_cpu: Cgroup) -> None:
    """Only a thread count that equals its mark is taken back."""
    given = clean_environ(NAME="1", OMP_NUM_THREADS="2", BLASENV_MARK="NAME=1 PATH= OMP_NUM_THREADS=3 =")
    code = "import os; print(os.environ['NAME'], os.environ['OMP_NUM_THREADS'], 'PATH' in os.environ)"
    assert one_cpu.run([one_venv.python, "-c", code], environ=given).stdout == "1 2 True\n"


def test_thousands_of_variables(one_venv: Venv, one_bare_venv: Venv, one_cpu: Cgroup) -> None:
    many = clean_environ(**{f"NAME_{number}": "x" * 50 for number in range(10_000)})
    assert outcome(one_venv, one_cpu, many) == outcome(one_bare_venv, one_cpu, many)


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("debug", ["", "1"])
def test_closed_standard_streams(
    closing: str, debug: str, one_venv: Venv, one_bare_venv: Venv, one_cpu: Cgroup
) -> None:
    prefix = ["/bin/sh", "-c", f'exec "$0" "$@" {closing}']
    environ = clean_environ(BLASENV_DEBUG=debug)
    status, stdout, stderr = outcome(one_venv, one_cpu, environ, prefix, CLOSED)
    assert (status, stdout) == outcome(one_bare_venv, one_cpu, environ, prefix, CLOSED)[:2]
    line = "blasenv: rule quota, sets OMP_NUM_THREADS=1\n" if debug and "2>&-" not in closing else ""
    assert stderr == line


def test_standard_streams_that_fail(one_venv: Venv, one_bare_venv: Venv, one_cpu: Cgroup) -> None:
    """stderr on a full disk, with something to say on it."""
    prefix = ["/bin/sh", "-c", 'exec "$0" "$@" 2>/dev/full']
    environ = clean_environ(BLASENV_DEBUG="1", PYTHONUNBUFFERED="1")
    code = "import os, sys; print('out'); sys.stdout.flush(); os._exit(4)"
    expected = outcome(one_bare_venv, one_cpu, environ, prefix, code)
    assert outcome(one_venv, one_cpu, environ, prefix, code) == expected == (4, "out\n", "")


EMPTY_PROC = "mount -t tmpfs none /proc && mkdir /proc/self && cd /proc/self"
MOUNTS = {
    "missing": "mount -t tmpfs none /proc",
    "hidepid": "mount -t proc -o hidepid=2 proc /proc",
    "read-only": "mount --bind /proc /proc && mount -o remount,bind,ro /proc",
    "without-cgroups": 'for each in $(grep cgroup /proc/mounts | cut -d" " -f2 | sort -r); do umount -l $each; done',
    "cgroup-is-a-directory": f"{EMPTY_PROC} && mkdir cgroup mountinfo",
    "cgroup-is-a-fifo": f"{EMPTY_PROC} && mkfifo cgroup mountinfo",
    "cgroup-is-garbage": f"{EMPTY_PROC} && head -c 9999 /dev/urandom > cgroup",
    "cgroup-is-huge": f"{EMPTY_PROC} && truncate -s 100M cgroup",
    "cgroup-is-endless": f"{EMPTY_PROC} && ln -s /dev/zero cgroup",
    "mountinfo-is-garbage": f"cat /proc/self/cgroup > /tmp/$$ && {EMPTY_PROC} && mv /tmp/$$ cgroup && "
    "head -c 99999 /dev/urandom > mountinfo",
}


@pytest.mark.parametrize("state", MOUNTS)
def test_proc(state: str, one_venv: Venv, one_bare_venv: Venv, one_cpu: Cgroup) -> None:
    """In a mount namespace of its own, where /proc or the cgroups are not what they should be."""
    prefix = ["unshare", "--mount", "/bin/sh", "-c", f'{{ {MOUNTS[state]}; }} && cd / && exec "$0" "$@"']
    if run([*prefix[:2], "true"], status=None).returncode:
        pytest.skip("cannot make a mount namespace: not root, or not allowed")
    code = "import os, sys; print('out', 'BLASENV_SET' in os.environ); sys.exit(3)"
    assert outcome(one_bare_venv, one_cpu, None, prefix, code) == (3, "out False\n", "")
    decided = state in ("hidepid", "read-only")
    assert outcome(one_venv, one_cpu, None, prefix, code) == (3, f"out {decided}\n", "")


@pytest.fixture
def broken(one_venv: Venv, tmp_path: Path) -> Venv:
    """A virtual environment of this test only, to break the installation in."""
    venv = make_venv(tmp_path / "venv", one_venv.version)
    shutil.copytree(one_venv.site_packages / "blasenv", venv.site_packages / "blasenv")
    shutil.copy(one_venv.site_packages / "a0_blasenv.pth", venv.site_packages)
    return venv


@pytest.mark.parametrize("harm", ["truncated", "raises SystemExit", "raises KeyboardInterrupt", "gone", "empty"])
def test_broken_module_is_rescued_by_the_switch(harm: str, broken: Venv, one_bare_venv: Venv, one_cpu: Cgroup) -> None:
    module = broken.site_packages / "blasenv" / "__init__.py"
    source = module.read_bytes()
    if harm == "gone":
        shutil.rmtree(module.parent)
    else:
        harmed = {"truncated": source[: len(source) // 2], "empty": b""}
        module.write_bytes(harmed.get(harm, harm.replace("raises", "raise").encode()))
    expected = outcome(one_bare_venv, one_cpu)
    assert outcome(broken, one_cpu) != expected, "it is broken"
    assert outcome(broken, one_cpu, clean_environ(BLASENV_DISABLE="1")) == expected
