"""``blasenv doctor``: every check, when all is well and when what it is there for has happened."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import NEWEST_TESTED, PYTHONS, ROOT, Cgroup, Venv, clean_environ, make_venv, pids_cgroup, run

BLASENV: list[str | Path] = [sys.executable, "-m", "blasenv"]
NAMES = [
    "hook", "files", "order", "compiled", "cost", "config", "decision",
    "children", "blas", "libraries", "openmp", "blis", "uncovered", "variables", "throttling", "pids",
]  # fmt: skip


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Venv:
    """A virtual environment that these tests may hurt; each undoes what it did."""
    version = next(version for version, path in PYTHONS.items() if path == NEWEST_TESTED)
    new = make_venv(tmp_path_factory.mktemp("doctor") / "venv", version)
    new.install(wheel)
    run([new.python, "-m", "compileall", "-q", new.site_packages / "blasenv"])
    return new


def doctor(venv: Venv, *words: str, group: Cgroup | None = None, status: int | None = 0, **changes: str) -> Any:
    """The JSON of ``blasenv doctor``, inside a limit if there is one."""
    command = [str(venv.directory / "bin" / "blasenv"), "doctor", "--json", *words]
    environ = clean_environ(**changes)
    result = (group.run if group else run)(command, status=status, environ=environ)
    return json.loads(result.stdout)


def one(venv: Venv, name: str, **options: Any) -> dict[str, str]:
    """What one check found; its exit status has to fit."""
    document = doctor(venv, name, status=None, **options)
    (found,) = document["checks"]
    assert document["fine"] == (found["state"] != "problem")
    assert bool(found["advice"]) == (found["state"] in ("warning", "problem"))
    return dict(found)


@contextlib.contextmanager
def changed(path: Path, contents: bytes | None) -> Iterator[None]:
    """A file with other contents, or moved away; put back at the end, times and all."""
    kept = path.with_name(path.name + ".kept")
    there = path.exists()
    if there:
        shutil.copy2(path, kept)
        path.unlink()
    try:
        if contents is not None:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(contents)
        yield
    finally:
        path.unlink(missing_ok=True)
        if there:
            kept.rename(path)


@contextlib.contextmanager
def package(venv: Venv, files: dict[str, bytes]) -> Iterator[None]:
    """Files of a package that is not there, in site-packages."""
    top = {name.partition("/")[0] for name in files}
    try:
        for name, contents in files.items():
            path = venv.site_packages / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents)
        yield
    finally:
        for name in top:
            place = venv.site_packages / name
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)


def test_all_is_well_under_a_limit(patient: Venv, one_cpu: Cgroup) -> None:
    found = doctor(patient, group=one_cpu)
    assert [check["name"] for check in found["checks"]] == NAMES
    states = {check["name"]: check["state"] for check in found["checks"]}
    sound = ("hook", "files", "order", "compiled", "config", "decision", "children", "variables")
    assert {name: states[name] for name in sound} == dict.fromkeys(sound, "ok")
    assert found["fine"]


def test_the_list_names_every_check_with_its_question(patient: Venv) -> None:
    lines = run([patient.directory / "bin" / "blasenv", "doctor", "--list"]).stdout.split("\n")
    assert [line.split()[0] for line in lines[1:] if line and not line.startswith(" ")] == NAMES
    assert "?" in lines[1]


def test_the_text_is_calm(patient: Venv, one_cpu: Cgroup) -> None:
    out = one_cpu.run([patient.directory / "bin" / "blasenv", "doctor", "hook", "config"]).stdout
    assert out.endswith("\n\nAll is well.\n")
    assert max(len(line) for line in out.split("\n") if "/" not in line and "sha256" not in line) <= 80


def test_an_unknown_check(patient: Venv) -> None:
    result = run([patient.directory / "bin" / "blasenv", "doctor", "confg"], status=2)
    assert "did you mean config?" in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["hook", "1"], "give PIDs or names of checks, not both"),
        (["--all", "hook"], "--all takes neither"),
        (["1", "--seconds", "0"], "up to 3600"),
        (["1", "--seconds", "1e9"], "--seconds 1e+09: say a number above 0 and up to 3600"),
        (["1", "--seconds", "nan"], "up to 3600"),
        (["²"], "there is no check '²'"),
        (["--root", "/nowhere"], "--root /nowhere: no such directory"),
        (["--root", "/tmp", "1"], "--root is for checks of an image"),
    ],
)
def test_wrong_usage(patient: Venv, words: list[str], says: str) -> None:
    result = run([patient.directory / "bin" / "blasenv", "doctor", *words], status=2)
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_no_hash_is_cut_in_two(patient: Venv) -> None:
    result = run([patient.directory / "bin" / "blasenv", "doctor", "hook", "files"])
    assert len(re.findall(r"^ *[0-9a-f]{64}$", result.stdout, re.MULTILINE)) == 2


def test_an_image_that_lies_unpacked(tmp_path: Path, wheel: Path) -> None:
    """What its files say is checked; what would take running it is skipped, and says so."""
    usr = tmp_path / "usr"
    packages = usr / "local/lib/python3.11/dist-packages"
    for directory in (usr / "bin", usr / "lib/python3.11", packages, tmp_path / "etc"):
        directory.mkdir(parents=True)
    (usr / "lib/python3.11/os.py").write_text("")
    (usr / "bin/python3.11").write_bytes(b"\x7fELF of another machine")
    (usr / "bin/python3.11").chmod(0o755)
    (usr / "bin/python3").symlink_to("python3.11")
    command = [*BLASENV, "doctor", "--json", "--root", tmp_path]
    environ = clean_environ(PYTHONPATH=str(ROOT))

    def states(status: int) -> dict[str, tuple[str, str]]:
        checks = json.loads(run(command, status=status, environ=environ).stdout)["checks"]
        return {check["name"]: (check["state"], check["value"]) for check in checks}

    assert states(1)["hook"] == ("problem", "no a0_blasenv.pth for /usr/bin/python3")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "numpy.libs").mkdir()
    (packages / "numpy.libs/libscipy_openblas64_-1.so").write_bytes(b"\x7fELF OpenBLAS 0.3.30 ")
    (tmp_path / "etc/blasenv.toml").write_text("threads = 4\n")
    found = states(0)
    assert list(found) == NAMES
    assert found["hook"][0] == found["files"][0] == found["config"][0] == "ok"
    assert found["libraries"] == ("ok", "OpenBLAS 0.3.30 (pthreads) in numpy.libs")
    assert found["decision"][1].startswith("OMP_NUM_THREADS=4 (config:")
    assert found["compiled"][0] == "warning"
    skipped = {name for name, (state, value) in found.items() if "nothing of" in value and state == "skipped"}
    assert skipped == {"order", "cost", "children", "blas", "variables"}
    (tmp_path / "etc/blasenv.toml").write_text("threds = 4\n")
    assert states(1)["config"][0] == "problem"


def test_an_image_without_python(tmp_path: Path) -> None:
    result = run([*BLASENV, "doctor", "--root", tmp_path], status=1, environ=clean_environ(PYTHONPATH=str(ROOT)))
    assert "no Python in" in result.stderr


def test_hook(patient: Venv) -> None:
    hook = patient.site_packages / "a0_blasenv.pth"
    assert hook.read_text().strip() in one(patient, "hook")["value"]
    with changed(hook, None):
        assert one(patient, "hook")["state"] == "problem"
    with changed(hook, b"import os\n"):
        assert "did not run" in one(patient, "hook")["value"]
    assert one(patient, "hook", BLASENV_DISABLE="1")["state"] == "warning"


@pytest.mark.parametrize(
    ("setting", "accepted"),
    [("BLASENV_THREADS=abc", "a whole number from 1 to 8192"), ("BLASENV_MODE=bogus", '"auto", "single" or "off"')],
)
def test_a_variable_that_is_ignored(setting: str, accepted: str, patient: Venv) -> None:
    name, _, value = setting.partition("=")
    seen = one(patient, "config", **{name: value})
    assert (seen["state"], seen["value"]) == ("warning", f"{name}={value!r} is ignored: it is {accepted}")


def test_files(patient: Venv) -> None:
    module = patient.site_packages / "blasenv" / "_host.py"
    assert one(patient, "files")["state"] == "ok"
    with changed(module, module.read_bytes() + b"# one more line\n"):
        found = one(patient, "files")
        assert found["state"] == "problem"
        assert "_host.py is not the installed file" in found["value"]
    with changed(patient.site_packages / "blasenv" / "py.typed", None):
        assert "py.typed is missing" in one(patient, "files")["value"]


def test_order(patient: Venv) -> None:
    files = {"numpy/__init__.py": b"", "a.pth": b"import numpy\n"}
    with package(patient, files):
        found = one(patient, "order")
    assert found["state"] == "problem"
    assert "numpy is imported before the hook" in found["value"]
    assert "/a.pth" in found["value"]
    with package(patient, {"numpy/__init__.py": b"", "b.pth": b"import numpy\n"}):
        assert one(patient, "order")["state"] == "ok"


def test_compiled(patient: Venv) -> None:
    cache = patient.site_packages / "blasenv" / "__pycache__"
    cache.rename(cache.with_name("elsewhere"))
    try:
        found = one(patient, "compiled", PYTHONDONTWRITEBYTECODE="1")
        strict = doctor(patient, "compiled", "--strict", status=1, PYTHONDONTWRITEBYTECODE="1")
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        cache.with_name("elsewhere").rename(cache)
    assert found["state"] == "warning"
    assert "compileall" in found["advice"]
    assert not strict["fine"]


def test_cost(patient: Venv) -> None:
    """An import that sleeps is slow on any machine."""
    assert "ms to import" in one(patient, "cost")["value"]
    module = patient.site_packages / "blasenv" / "__init__.py"
    with changed(module, b"import time; time.sleep(0.05)\n" + module.read_bytes()):
        assert one(patient, "cost")["state"] == "warning"


def test_config(patient: Venv, tmp_path: Path) -> None:
    file = tmp_path / "blasenv.toml"
    file.write_text('mode = "single"\n')
    file.chmod(0o644)
    assert one(patient, "config", BLASENV_CONFIG=str(file))["state"] == "ok"
    file.write_text("threds = 4\n")
    found = one(patient, "config", BLASENV_CONFIG=str(file))
    assert found["state"] == "problem"
    assert found["advice"].startswith("threds: did you mean threads?")
    file.write_text("threads = 4\n")
    file.chmod(0o666)
    assert "can be written by every user" in one(patient, "config", BLASENV_CONFIG=str(file))["value"]
    file.chmod(0o644)
    tmp_path.chmod(0o777)
    assert "can be written by every user" in one(patient, "config", BLASENV_CONFIG=str(file))["value"]
    assert one(patient, "config", BLASENV_THREADS="many")["state"] == "warning"


def test_decision(patient: Venv, one_cpu: Cgroup) -> None:
    assert one(patient, "decision", group=one_cpu)["value"].startswith("OMP_NUM_THREADS=1 (quota:")
    assert "disabled" in one(patient, "decision", group=one_cpu, BLASENV_DISABLE="1")["value"]


def test_children(patient: Venv, one_cpu: Cgroup) -> None:
    assert one(patient, "children", group=one_cpu)["value"] == "yes: OMP_NUM_THREADS=1"
    # Somebody takes it away in every Python process, after the hook.
    with package(patient, {"z.pth": b"import os; os.unsetenv('OMP_NUM_THREADS')\n"}):
        found = one(patient, "children", group=one_cpu)
    assert found["state"] == "problem"
    assert "OMP_NUM_THREADS=nothing" in found["value"]


FAKE_NUMPY = b"""
import threading, time
class A:
    def __matmul__(self, other):
        for _ in range(%d): threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()
def ones(shape): return A()
"""


def test_blas(patient: Venv, one_cpu: Cgroup) -> None:
    assert one(patient, "blas", group=one_cpu)["state"] == "skipped"
    with package(patient, {"numpy/__init__.py": FAKE_NUMPY % 3}):
        found = one(patient, "blas", group=one_cpu)
        assert found["state"] == "problem"
        assert "numpy: 4 threads; 1 CPU allowed" in found["value"]
        assert "OMP_NUM_THREADS=1" in found["advice"]
    with package(patient, {"numpy/__init__.py": FAKE_NUMPY % 0}):
        assert one(patient, "blas", group=one_cpu)["state"] == "ok"
    with package(patient, {"numpy/__init__.py": b"raise ImportError('libopenblas.so: no such file')"}):
        found = one(patient, "blas", group=one_cpu)
        assert found["state"] == "warning"
        assert "libopenblas.so: no such file" in found["value"]


def test_libraries_and_openmp(patient: Venv) -> None:
    assert one(patient, "libraries")["state"] == "skipped"
    wheel = {"a.libs/libgomp-1.so.1": b"\x7fELF", "numpy.libs/libscipy_openblas64_-1.so": b"\x7fELF OpenBLAS 0.3.30 "}
    with package(patient, wheel):
        assert one(patient, "libraries")["value"] == ("GNU OpenMP in a.libs\nOpenBLAS 0.3.30 (pthreads) in numpy.libs")
        assert one(patient, "openmp")["state"] == "ok"
    with package(patient, {**wheel, "mkl.libs/libiomp5.so": b"\x7fELF"}):
        found = one(patient, "openmp")
    assert found["state"] == "warning"
    assert found["value"] == "GNU OpenMP by a.libs, Intel OpenMP by mkl.libs"


def test_blis(patient: Venv, limited: Callable[[float], Cgroup]) -> None:
    # On a machine with 2 CPUs no limit leads to 2 threads.
    config = {"BLASENV_THREADS": "2"} if len(os.sched_getaffinity(0)) < 3 else {}
    group = limited(1) if config else limited(2)
    with package(patient, {"blis.libs/libblis-1.so.4": b"\x7fELF"}):
        found = one(patient, "blis", group=group, **config)
        assert found["state"] == "warning"
        assert "OMP_NUM_THREADS=2" in found["value"]
        assert one(patient, "blis", group=group, BLIS_NUM_THREADS="1", **config)["state"] == "ok"
    assert one(patient, "blis", group=group)["state"] == "skipped"


def test_uncovered(patient: Venv, one_cpu: Cgroup) -> None:
    with package(patient, {"numexpr/__init__.py": b"", "numba/__init__.py": b""}):
        found = one(patient, "uncovered", group=one_cpu)
        assert found["state"] == "warning"
        assert '"NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS"]' in found["advice"]
        few = {"NUMEXPR_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        assert one(patient, "uncovered", group=one_cpu, **few)["state"] == "ok"
        assert one(patient, "uncovered")["state"] == "ok"


def test_variables(patient: Venv, one_cpu: Cgroup) -> None:
    found = one(patient, "variables", group=one_cpu, OMP_NUM_THREADS="8")
    assert found["state"] == "problem"
    assert found["value"] == "OMP_NUM_THREADS=8, with 1 CPU"
    assert one(patient, "variables", group=one_cpu, OMP_NUM_THREADS="1")["state"] == "ok"


def test_throttling(patient: Venv, limited: Callable[[float], Cgroup]) -> None:
    group = limited(0.1)
    assert one(patient, "throttling")["state"] == "skipped"
    code = "import time; start = time.monotonic()\nwhile time.monotonic() - start < 2.5: pass"
    group.run([patient.python, "-c", code])
    found = one(patient, "throttling", group=group)
    assert found["state"] == "warning"
    assert "blasenv doctor --all" in found["advice"]


def test_pids(patient: Venv) -> None:
    with pids_cgroup(40) as group:
        assert one(patient, "pids", group=group)["state"] == "ok"
        code = "import threading, time\ntry:\n  while True: threading.Thread(target=time.sleep, args=(5,), daemon=True)"
        group.run([patient.python, "-c", f"{code}.start()\nexcept RuntimeError: pass"])
        found = one(patient, "pids", group=group)
    assert found["state"] == "warning"
    assert "of 40 threads and processes" in found["value"]
    assert "refused more once" in found["value"]
