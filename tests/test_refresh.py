"""`blasenv.refresh`: real libraries in real processes under real limits; threadpoolctl is the second opinion."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import live_libraries
import pytest
from conftest import ROOT, Cgroup, Venv, clean_environ, run

import blasenv
from blasenv.live import pools
from blasenv.pythons.installed import STARTUP_FILES

CPUS = len(os.sched_getaffinity(0))

# What the programs below begin with.
START = """
import ctypes, json, os, sys
import blasenv
def show(refreshed):
    rows = [(row.kind, row.before, row.after, row.remark) for row in refreshed.changes]
    print(json.dumps([refreshed.threads, refreshed.rule, rows]), flush=True)
def quota(text):
    with open(sys.argv[1], "w") as file:
        file.write(text)
"""


def program(
    group: Cgroup, python: Path | str, code: str, arguments: Sequence[object] = (), **environ: str
) -> list[list[Any]]:
    """What a program printed: one JSON document a line. Its first argument is the file that holds its quota."""
    v2 = group.directory / "cpu.max"
    file = v2 if v2.exists() else group.directory / "cpu.cfs_quota_us"
    words = [str(python), "-c", START + code, str(file), *map(str, arguments)]
    result = group.run(words, environ=clean_environ(PYTHONPATH=str(ROOT), **environ))
    assert result.stderr == ""
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def wheels() -> Venv:
    return live_libraries.wheels()


SET_ALL = """
import numpy, scipy.linalg, sklearn.cluster, threadpoolctl
def counts():
    return {found["filepath"]: found["num_threads"] for found in threadpoolctl.threadpool_info()}
before = counts()
found = blasenv.refresh()
print(json.dumps([found.threads, before, counts(), [row._asdict() for row in found.changes]]))
"""


def test_threadpoolctl_sees_the_same(wheels: Venv, limited: Callable[[float], Cgroup]) -> None:
    ((threads, before, after, rows),) = program(limited(1), wheels.python, SET_ALL)
    assert threads == 1
    assert len(before) == 3  # numpy's OpenBLAS, scipy's, and scikit-learn's OpenMP
    assert {row["path"]: row["before"] for row in rows} == before == dict.fromkeys(before, CPUS)
    assert {row["path"]: row["after"] for row in rows} == after == dict.fromkeys(before, 1)
    assert sorted(row["kind"] for row in rows) == ["GNU OpenMP", "OpenBLAS", "OpenBLAS"]


LOADED = """
for path in sys.argv[2:]:
    ctypes.CDLL(path)
show(blasenv.refresh())
show(blasenv.refresh())
quota("-1" if "cfs" in sys.argv[1] else "max")
show(blasenv.refresh())
show(blasenv.refresh())
"""


def test_every_python_sets_and_puts_back(version: str, limited: Callable[[float], Cgroup], wheels: Venv) -> None:
    """Libraries of wheels, loaded by their files, so that every Python can have them."""
    from conftest import PYTHONS

    (openmp,) = wheels.site_packages.glob("scikit_learn.libs/libgomp*")
    found = program(limited(1), PYTHONS[version], LOADED, [live_libraries.openblas_of_numpy(), openmp])
    kinds = ("GNU OpenMP", "OpenBLAS")
    assert found == [
        [1, "quota", [[kind, CPUS, 1, ""] for kind in kinds]],
        [1, "quota", [[kind, 1, 1, ""] for kind in kinds]],
        [None, "no-limit", [[kind, 1, CPUS, ""] for kind in kinds]],
        [None, "no-limit", [[kind, CPUS, CPUS, ""] for kind in kinds]],
    ]


@pytest.mark.parametrize(
    ("package", "name", "before"),
    [
        ("libblis4-pthread", "libblis.so.4", 1),  # by itself it starts one
        ("libblis4-openmp", "libblis.so.4", 1),
        ("libopenblas0-pthread", "libopenblas*.so", CPUS),
        ("libopenblas0-openmp", "libopenblas*.so", CPUS),
    ],
)
def test_debian_builds(package: str, name: str, before: int, limited: Callable[[float], Cgroup]) -> None:
    library = live_libraries.debian(package, name)
    code = """
library = ctypes.CDLL(sys.argv[2])
openmp = os.path.basename(os.path.dirname(sys.argv[2])).endswith("openmp")
get = library.omp_get_max_threads if openmp else getattr(library, sys.argv[3])
show(blasenv.refresh())
print(json.dumps([get()]))
"""
    getter = "bli_thread_get_num_threads" if "blis" in package else "openblas_get_num_threads"
    refreshed, (read,) = program(
        limited(1), sys.executable, code, [library, getter], LD_LIBRARY_PATH=live_libraries.fortran()
    )
    kind = "BLIS" if "blis" in package else "OpenBLAS"
    rows = {row[0]: row[1:] for row in refreshed[2]}
    assert rows[kind][:2] == ([before, 1] if "openmp" not in package or kind == "BLIS" else [rows[kind][0], 1])
    if "openmp" in package:
        assert rows["GNU OpenMP"] == [CPUS, 1, ""]
    assert read in (1, -1)  # -1: BLIS was never told


def test_an_openblas_on_openmp_computes_with_as_many(limited: Callable[[float], Cgroup]) -> None:
    """Its own setter alone would be overridden by OpenMP's number (OpenBLAS 5806)."""
    library = live_libraries.debian("libopenblas0-openmp", "libopenblas*.so")
    code = """
library = ctypes.CDLL(sys.argv[2])
def multiply():
    n = 300
    a = (ctypes.c_double * (n * n))()
    one = ctypes.c_double(1.0)
    library.cblas_dgemm(101, 111, 111, n, n, n, one, a, n, a, n, one, a, n)
    return len(os.listdir("/proc/self/task"))
blasenv.refresh()
print(json.dumps(multiply()))
print(json.dumps(library.openblas_get_num_threads()))
"""
    found: list[Any] = program(limited(1), sys.executable, code, [library], LD_LIBRARY_PATH=live_libraries.fortran())
    assert found == [1, 1]


def test_mkl(limited: Callable[[float], Cgroup], wheels: Venv) -> None:
    code = """
library = ctypes.CDLL(sys.argv[2])
os.environ["MKL_THREADING_LAYER"] = "INTEL"
before = library.MKL_Get_Max_Threads()
found = blasenv.refresh()
print(json.dumps([before, library.MKL_Get_Max_Threads(), {row.kind: [row.before, row.after] for row in found.changes}]))
"""
    environ = {"LD_LIBRARY_PATH": str(live_libraries.mkl().parent)}
    ((before, after, rows),) = program(limited(1), wheels.python, code, [live_libraries.mkl()], **environ)
    assert (after, rows["MKL"]) == (1, [before, 1])


def test_python_modules(limited: Callable[[float], Cgroup], wheels: Venv) -> None:
    code = """
import numexpr, numba, pyarrow
before = [numexpr.get_num_threads(), pyarrow.cpu_count()]
rows = {row.kind: [row.before, row.after, row.remark] for row in blasenv.refresh().changes}
print(json.dumps([before, [numexpr.get_num_threads(), pyarrow.cpu_count()], rows]))
numba.get_num_threads()  # which starts its threads
rows = {row.kind: [row.before, row.after, row.remark] for row in blasenv.refresh().changes}
print(json.dumps([numba.get_num_threads(), rows["Numba"]]))
"""
    (before, after, rows), (numba, started) = program(limited(1), wheels.python, code)
    assert (before, after) == ([CPUS, CPUS], [1, 1])
    assert rows["NumExpr"] == rows["PyArrow"] == [CPUS, 1, ""]
    assert rows["Numba"] == [None, None, "can't be set: it has started no threads yet, and asking it would start them"]
    assert (numba, started[:2]) == (1, [CPUS, 1])


def test_modules_that_are_not_imported_stay_so(limited: Callable[[float], Cgroup], wheels: Venv) -> None:
    code = """
found = blasenv.refresh()
print(json.dumps([found.changes, [name for name in ("numpy", "numba", "torch", "pyarrow") if name in sys.modules]]))
"""
    assert program(limited(1), wheels.python, code) == [[[], []]]


NUMPY = "import numpy\nshow(blasenv.refresh())\n"


def test_what_the_user_set_stays(limited: Callable[[float], Cgroup], wheels: Venv) -> None:
    group = limited(1)
    assert program(group, wheels.python, NUMPY, OMP_NUM_THREADS="2") == [[None, "user-env", []]]
    assert program(group, wheels.python, NUMPY, BLASENV_DISABLE="1") == [[None, "disabled", []]]
    remark = f"left alone: OPENBLAS_NUM_THREADS={CPUS} is in its environment"
    expected = [[1, "quota", [["OpenBLAS", CPUS, CPUS, remark]]]]
    assert program(group, wheels.python, NUMPY, OPENBLAS_NUM_THREADS=str(CPUS)) == expected


def test_what_the_program_lowered_itself_stays_low(limited: Callable[[float], Cgroup], wheels: Venv) -> None:
    code = """
import numpy, threadpoolctl
blasenv.refresh()
threadpoolctl.threadpool_limits(1)
show(blasenv.refresh())
"""
    found = program(limited(1), wheels.python, code, BLASENV_THREADS=str(CPUS))
    assert found == [[CPUS, "config", [["OpenBLAS", 1, 1, ""]]]]


def test_what_the_hook_lowered_is_raised_when_the_limit_goes(
    limited: Callable[[float], Cgroup], one_venv: Venv, wheels: Venv
) -> None:
    code = """
ctypes.CDLL(sys.argv[2])
show(blasenv.refresh())
quota("-1" if "cfs" in sys.argv[1] else "max")
show(blasenv.refresh())
"""
    group = limited(1)
    v2 = group.directory / "cpu.max"
    file = v2 if v2.exists() else group.directory / "cpu.cfs_quota_us"
    words: list[str | Path] = [one_venv.python, "-c", START + code, file, live_libraries.openblas_of_numpy()]
    result = group.run(words)
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        [1, "quota", [["OpenBLAS", 1, 1, ""]]],
        [None, "no-limit", [["OpenBLAS", 1, CPUS, ""]]],
    ]


def test_workers_of_a_server_share_the_limit(limited: Callable[[float], Cgroup], wheels: Venv, tmp_path: Path) -> None:
    """As the hook does: from the command line, also when the server has written a title over it."""
    group = limited(1.5)
    set_to = "import blasenv; print(blasenv.refresh()[:2], blasenv.run().rule)"
    (tmp_path / "gunicorn").write_text(set_to)
    environ = clean_environ(PYTHONPATH=str(ROOT), BLASENV_CONFIG="")
    done = group.run([wheels.python, tmp_path / "gunicorn", "--workers", "4", "app:app"], environ=environ)
    assert done.stdout == "(1, 'workers') workers\n"


def test_the_line_for_a_program_counts(limited: Callable[[float], Cgroup], wheels: Venv, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import blasenv; print(blasenv.refresh()[:2])")
    (tmp_path / "blasenv.toml").write_text('[programs]\n"train.py" = 7\n')
    environ = clean_environ(PYTHONPATH=str(ROOT), BLASENV_CONFIG=str(tmp_path / "blasenv.toml"))
    assert limited(1).run([wheels.python, tmp_path / "train.py"], environ=environ).stdout == "(7, 'program')\n"


def test_openmp_counts_for_the_thread_that_asks(limited: Callable[[float], Cgroup], wheels: Venv) -> None:
    code = """
import threading
library = ctypes.CDLL(sys.argv[2])
there, done = [], threading.Event()
def other():
    library.omp_get_max_threads()
    done.wait()
    there.append(library.omp_get_max_threads())
thread = threading.Thread(target=other)
thread.start()
show(blasenv.refresh())
done.set()
thread.join()
print(json.dumps([library.omp_get_max_threads(), there]))
"""
    (openmp,) = wheels.site_packages.glob("scikit_learn.libs/libgomp*")
    refreshed, counts = program(limited(1), sys.executable, code, [openmp])
    remark = "for this thread; 1 other Python thread keeps its own count"
    assert refreshed == [1, "quota", [["GNU OpenMP", CPUS, 1, remark]]]
    assert counts == [1, [CPUS]]


def test_the_environment_is_not_touched(limited: Callable[[float], Cgroup], wheels: Venv) -> None:
    code = """
import numpy
from blasenv.machine.observe import native_environ
before = native_environ(), dict(os.environ)
blasenv.refresh()
print(json.dumps(before == (native_environ(), dict(os.environ))))
"""
    found: list[Any] = program(limited(1), wheels.python, code)
    assert found == [True]


def test_without_ctypes_it_is_said(limited: Callable[[float], Cgroup], wheels: Venv) -> None:
    code = """
import numpy
sys.modules["ctypes"] = None
show(blasenv.refresh())
"""
    remark = "can't be set: this Python has no ctypes to call it with"
    assert program(limited(1), wheels.python, code) == [[1, "quota", [["OpenBLAS", None, None, remark]]]]


def test_a_thousand_refreshes_leak_nothing(limited: Callable[[float], Cgroup], wheels: Venv) -> None:
    code = """
import numpy, gc, resource
def size():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
for _ in range(100):
    blasenv.refresh()
files, before = os.listdir("/proc/self/fd"), size()
for number in range(1000):
    quota(("-1", "100000")[number % 2] if "cfs" in sys.argv[1] else ("max", "100000 100000")[number % 2])
    blasenv.refresh()
print(json.dumps([os.listdir("/proc/self/fd") == files, size() - before]))
"""
    ((files, grown),) = program(limited(1), wheels.python, code)
    assert files
    assert grown < 1 << 20


class FakePool(pools.Pool):
    def __init__(self, kind: str, count: int) -> None:
        super().__init__(kind, "/fake", lambda: count, lambda _: None)


@pytest.mark.parametrize(
    ("before", "memory", "threads", "environ", "expected"),
    [
        (8, None, 2, {}, 2),
        (2, None, 2, {}, None),
        (1, None, 2, {}, None),  # BLIS, or the user: never raised
        (2, (8, 2), 4, {}, 4),  # what we lowered
        (2, (8, 2), 16, {}, 8),  # and no further than it was
        (2, (8, 2), None, {}, 8),
        (8, None, None, {}, None),
        (3, (8, 2), None, {}, None),  # the program has set it since
        (3, (8, 2), 4, {}, None),
        (6, (8, 2), 4, {}, 4),
        (2, None, 4, {"BLASENV_SET": "OMP_NUM_THREADS=2"}, 4),  # what the hook lowered
        (2, None, None, {"BLASENV_SET": "OMP_NUM_THREADS=2"}, 16),
        (2, None, 32, {"BLASENV_SET": "OMP_NUM_THREADS=2"}, 16),
        (8, None, 2, {"OMP_NUM_THREADS": "8"}, None),
        (8, None, 2, {"OMP_NUM_THREADS": "8", "BLASENV_SET": "OMP_NUM_THREADS=8"}, None),  # a framework's
        (8, None, 2, {"OMP_NUM_THREADS": "8", "BLASENV_MARK": "OMP_NUM_THREADS=8"}, 2),
        (8, None, 2, {"OPENBLAS_NUM_THREADS": "8"}, None),
        (8, None, 2, {"MKL_NUM_THREADS": "8"}, 2),
    ],
)
def test_the_count_of_a_pool(
    before: int,
    memory: tuple[int, int] | None,
    threads: int | None,
    environ: Mapping[str, str],
    expected: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, pools.MEMORY, {("OpenBLAS", "/fake"): memory} if memory else {}, raising=False)
    assert pools.wanted(FakePool("OpenBLAS", before), before, threads, 16, dict(environ))[0] == expected


def test_it_is_reached_from_the_package_and_costs_a_start_nothing(one_venv: Venv, tmp_path: Path) -> None:
    code = "import sys, blasenv\nfor _ in (1, 2):\n print('blasenv.live' in sys.modules)\n blasenv.refresh()"
    assert run([one_venv.python, "-c", code]).stdout == "False\nTrue\n"
    code = (
        "from blasenv import cpu_quota, follow, refresh; print(refresh.__name__, follow.__name__, cpu_quota.__name__)"
    )
    assert run([one_venv.python, "-c", code]).stdout == "refresh follow cpu_quota\n"
    files = [ROOT / "blasenv" / name for name in STARTUP_FILES]
    (tmp_path / "blasenv").mkdir()
    for file in files:
        shutil.copy(file, tmp_path / "blasenv")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import blasenv; print(hasattr(blasenv, 'refresh'))"
    assert run([sys.executable, "-I", "-c", code]).stdout == "False\n"
    with pytest.raises(AttributeError, match="module 'blasenv' has no attribute 'nothing'"):
        blasenv.nothing  # noqa: B018
