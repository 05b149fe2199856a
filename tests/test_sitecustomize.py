"""sitecustomize.py in real interpreters: whom it reaches, and that it is in nobody's way."""

from __future__ import annotations

import json
import re
import shutil
import sys
import zipapp
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import NEWEST_TESTED, PROBE, PYTHONS, Cgroup, clean_environ, find_uv, run
from instructions import copy_hook
from prefix import PACKAGE, TEMPLATE, Prefix, copy_by_hand, make_prefix

import blasenv
from blasenv.machine.observe import disabled

NEWEST = next(version for version, path in PYTHONS.items() if path == NEWEST_TESTED)
BY = "import sys; print(getattr(getattr(sys, '_blasenv', None), 'by', None))"


@pytest.fixture
def prefix(tmp_path: Path) -> Prefix:
    return make_prefix(tmp_path / "prefix", NEWEST)


def seen(group: Cgroup, *command: str | Path, **changes: str) -> dict[str, Any]:
    """What the probe reports when it is run under a real limit."""
    report: dict[str, Any] = json.loads(group.run([*command, PROBE], environ=clean_environ(**changes)).stdout)
    return report


def outcome(python: Path, *words: str, **changes: str) -> tuple[int, str, str]:
    """Status and output; of tracebacks, whose frames differ, the sentences."""
    result = run([python, *words], environ=clean_environ(**changes), status=None)
    errors = "".join(line for line in result.stderr.splitlines(keepends=True) if not line.startswith("  "))
    return result.returncode, result.stdout, errors


def test_covers_the_base_and_every_venv_made_from_it(version: str, tmp_path: Path, one_cpu: Cgroup) -> None:
    prefix = make_prefix(tmp_path / "prefix", version)
    before = prefix.venv(tmp_path / "before")
    copy_by_hand(prefix.stdlib)
    pythons = [prefix.python, before.python]
    pythons.append(prefix.venv(tmp_path / "after").python)
    pythons.append(prefix.venv(tmp_path / "copies", "--copies").python)
    run([sys.executable, "-m", "virtualenv", "-q", "--no-seed", "--python", prefix.python, tmp_path / "virtualenv"])
    pythons.append(tmp_path / "virtualenv" / "bin" / "python")
    if uv := find_uv():
        run([uv, "venv", "--quiet", "--python", prefix.python, tmp_path / "uv"])
        pythons.append(tmp_path / "uv" / "bin" / "python")
    for python in pythons:
        report = seen(one_cpu, python)
        assert report["native"] == "1", python
        assert report["receipt"] == "OMP_NUM_THREADS=1", python
        assert outcome(python, "-I", "-c", "pass") == (0, "", "")


def test_uv_run_is_covered(prefix: Prefix, one_cpu: Cgroup) -> None:
    uv = find_uv()
    if uv is None:
        pytest.skip("no uv on this machine")
    copy_by_hand(prefix.stdlib)
    assert seen(one_cpu, uv, "run", "--quiet", "--no-project", "--python", prefix.python, "python")["native"] == "1"


def test_imports_the_start_up_code_and_nothing_else(version: str, tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "prefix", version)
    code = "import sys; print(' '.join(sorted(sys.modules)))"
    without = set(run([prefix.python, "-c", code]).stdout.split())
    copy_by_hand(prefix.stdlib)
    assert set(run([prefix.python, "-c", code]).stdout.split()) - without == {"sitecustomize", "_blasenv_startup"}


def test_the_kill_switch(prefix: Prefix, tmp_path: Path) -> None:
    copy_by_hand(prefix.stdlib)
    (tmp_path / "hidden").mkdir()
    venv = prefix.venv(tmp_path / "venv")
    (venv.site_packages / "sitecustomize.py").write_text("print('hidden ran')\n")
    assert outcome(venv.python, "-c", BY, BLASENV_DISABLE="1") == (0, "hidden ran\nNone\n", "")
    (prefix.stdlib / "_blasenv_startup" / "__init__.py").write_text("import os; os._exit(9)\n")
    assert outcome(venv.python, "-c", "pass", BLASENV_DISABLE="1") == (0, "hidden ran\n", "")


def test_the_words_that_do_not_switch_off_are_the_same_everywhere(prefix: Prefix) -> None:
    asked = re.compile(r"""os\.getenv\("BLASENV_DISABLE", "0"\) in "([^"]*)" and """)
    copies = [asked.findall(path.read_text()) for path in (PACKAGE / "a0_blasenv.pth", TEMPLATE)]
    assert copies == [[blasenv.ENABLED]] * 2
    copy_by_hand(prefix.stdlib)
    code = "import sys; print(hasattr(sys, '_blasenv'))"
    for value in ("", *blasenv.ENABLED.split()):
        assert not disabled({"BLASENV_DISABLE": value})
        assert outcome(prefix.python, "-c", code, BLASENV_DISABLE=value) == (0, "True\n", ""), value
    for value in ("1", "yes", "true", "on", "2", "fAlse", "no, please"):
        assert disabled({"BLASENV_DISABLE": value})
        assert outcome(prefix.python, "-c", code, BLASENV_DISABLE=value) == (0, "False\n", ""), value
    assert not disabled({})


HIDDEN = {
    "runs": "import sys\nprint(__name__, __file__, __spec__.name, sys.modules[__name__].__file__, sys.path)\n",
    "fails": "raise ValueError('no')\n",
    "needs what is not there": "import nobody_has_this\n",
    "lacks itself": "raise ImportError('gone', name='sitecustomize')\n",
    "ends the process": "raise SystemExit(3)\n",
    "is no Python": "def :\n",
    "replaces itself": "import sys, types\nsys.modules[__name__] = types.ModuleType('other')\n",
}


@pytest.mark.parametrize("where", ["module", "package", "PYTHONPATH"])
def test_what_it_hides_runs_as_without_it(where: str, prefix: Prefix, tmp_path: Path) -> None:
    venv = prefix.venv(tmp_path / "venv")
    place, changes = venv.site_packages, {}
    ours = prefix.stdlib
    if where == "PYTHONPATH":
        ours, place = tmp_path / "first", tmp_path / "second"
        ours.mkdir()
        place.mkdir()
        changes = {"PYTHONPATH": f"{ours}:{place}"}
    path = place / ("sitecustomize/__init__.py" if where == "package" else "sitecustomize.py")
    path.parent.mkdir(exist_ok=True)

    def outcomes() -> dict[str, tuple[int, str, str]]:
        found = {}
        for name, text in HIDDEN.items():
            path.write_text(text)
            found[name] = outcome(venv.python, "-B", "-c", "print('started')", **changes)
        return found

    without = outcomes()
    copy_by_hand(ours)
    assert outcomes() == without
    path.write_text("")
    code = "import sitecustomize; print(sitecustomize.__file__)"
    assert outcome(venv.python, "-B", "-c", code, **changes) == (0, f"{path}\n", "")


def test_one_put_aside_runs_and_the_next_stays_hidden(prefix: Prefix, tmp_path: Path) -> None:
    venv = prefix.venv(tmp_path / "venv")
    (venv.site_packages / "sitecustomize.py").write_text("print('further down')\n")
    (tmp_path / "conffile").write_text("print('put aside')\n")
    (prefix.stdlib / "sitecustomize.distrib.py").symlink_to(tmp_path / "conffile")
    copy_by_hand(prefix.stdlib)
    assert outcome(venv.python, "-c", "pass") == (0, "put aside\n", "")


BROKEN = {
    "empty": b"",
    "cut off": (PACKAGE / "__init__.py").read_bytes()[:3000],
    "not text": b"\xff\xfe\x00",
    "fails": b"raise RuntimeError\n",
    "run fails": b"def run():\n    raise RuntimeError\n",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_copy_lets_the_interpreter_start(broken: str, prefix: Prefix) -> None:
    copy_by_hand(prefix.stdlib)
    (prefix.stdlib / "_blasenv_startup" / "__init__.py").write_bytes(BROKEN[broken])
    assert outcome(prefix.python, "-c", BY) == (0, "None\n", "")


def test_without_its_copy_the_interpreter_starts(prefix: Prefix) -> None:
    shutil.copy(TEMPLATE, prefix.stdlib)
    assert outcome(prefix.python, "-c", BY) == (0, "None\n", "")


def test_the_nearer_one_decides_and_the_other_is_not_even_loaded(prefix: Prefix, tmp_path: Path) -> None:
    copy_by_hand(prefix.stdlib)
    venv = prefix.venv(tmp_path / "venv")
    assert outcome(venv.python, "-c", BY) == (0, f"{prefix.stdlib}/_blasenv_startup/__init__.py\n", "")
    copy_hook(venv.site_packages)
    old = venv.site_packages / "blasenv" / "__init__.py"
    old.write_text(old.read_text().replace('__version__ = "', '__version__ = "0.0.'))
    code = f"{BY}; print('_blasenv_startup' in sys.modules)"
    assert outcome(venv.python, "-c", code) == (0, f"{old}\nFalse\n", "")
    # A child with another interpreter is another process: it decides for itself.
    child = f"import subprocess, sys; sys.exit(subprocess.call([{str(prefix.python)!r}, '-c', {BY!r}]))"
    assert outcome(venv.python, "-c", child) == (0, f"{prefix.stdlib}/_blasenv_startup/__init__.py\n", "")


def test_two_copies_on_the_path_act_once(prefix: Prefix, tmp_path: Path) -> None:
    (tmp_path / "near").mkdir()
    copy_by_hand(tmp_path / "near")
    copy_by_hand(prefix.stdlib)
    changes = {"PYTHONPATH": str(tmp_path / "near"), "BLASENV_DEBUG": "1"}
    status, by, debug = outcome(prefix.python, "-c", BY, **changes)
    assert (status, by) == (0, f"{tmp_path}/near/_blasenv_startup/__init__.py\n")
    assert len(debug.splitlines()) == 1


def test_by_hand_into_a_directory_on_pythonpath(prefix: Prefix, tmp_path: Path, one_cpu: Cgroup) -> None:
    (tmp_path / "lib").mkdir()
    copy_by_hand(tmp_path / "lib")
    assert seen(one_cpu, prefix.python, PYTHONPATH=str(tmp_path / "lib"))["native"] == "1"


def test_pip_install_target(prefix: Prefix, tmp_path: Path, wheel: Path, one_cpu: Cgroup) -> None:
    target = tmp_path / "target"
    # The pip of the tests' own environment: Debian's Python comes without.
    run([sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", target, wheel])
    assert seen(one_cpu, prefix.python, PYTHONPATH=str(target))["native"] is None  # no .pth is read there
    shutil.copy(target / "blasenv" / "sitecustomize_template" / "sitecustomize.py", target)
    assert seen(one_cpu, prefix.python, PYTHONPATH=str(target))["native"] == "1"


def test_zipapp_with_one_line_in_its_main(prefix: Prefix, tmp_path: Path, one_cpu: Cgroup) -> None:
    # As in a frozen program: nothing of it is there when Python starts, so its first line does it.
    app = tmp_path / "app"
    shutil.copytree(PACKAGE, app / "blasenv", ignore=shutil.ignore_patterns("__pycache__"))
    (app / "__main__.py").write_text(f"import blasenv; blasenv.run()\nexec(open({str(PROBE)!r}).read())\n")
    zipapp.create_archive(app, tmp_path / "app.pyz")
    report = json.loads(one_cpu.run([prefix.python, tmp_path / "app.pyz"]).stdout)
    assert report["native"] == "1"


@pytest.mark.parametrize("pack", [lambda path: path, lambda path: Path(shutil.make_archive(str(path), "zip", path))])
def test_a_directory_or_a_zip_file(
    pack: Callable[[Path], Path], prefix: Prefix, tmp_path: Path, one_cpu: Cgroup
) -> None:
    (tmp_path / "lib").mkdir()
    copy_by_hand(tmp_path / "lib")
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "sitecustomize.py").write_text("import sys\nsys.stderr.write('later')\n")
    path = f"{pack(tmp_path / 'lib')}:{tmp_path / 'later'}"
    result = one_cpu.run([prefix.python, PROBE], environ=clean_environ(PYTHONPATH=path))
    assert (json.loads(result.stdout)["native"], result.stderr) == ("1", "later")
