"""The hook in real interpreters, under a real CPU limit."""

from __future__ import annotations

import ast
import json
import os
import shutil
import zipapp
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import PROBE, PYTHONS, ROOT, Cgroup, Venv, clean_environ, run

from blasenv.pythons.installed import STARTUP_FILES

SPAWN = """
import multiprocessing, runpy, sys
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    child = context.Process(target=runpy.run_path, args=(sys.argv[2],))
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""

SUBINTERPRETER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
# ctypes, which the probe uses, does not load in the isolated kind.
new = interpreters.create("legacy") if sys.version_info >= (3, 13) else interpreters.create(isolated=False)
failure = interpreters.run_string(new, open(sys.argv[1]).read())
sys.exit(failure and str(failure))
"""


def limited_to(count: int, **changes: Any) -> dict[str, Any]:
    """What the probe must see where blasenv decided on ``count`` threads and nobody else said anything."""
    receipt = f"OMP_NUM_THREADS={count}"
    seen = {"environ": {"BLASENV_SET": receipt}, "native": str(count), "receipt": receipt, "rule": "quota"}
    return {**seen, **changes}


def seen_by(
    command: Sequence[str | Path], group: Cgroup, environ: dict[str, str] | None = None, **options: Any
) -> dict[str, Any]:
    """What the probe, run by ``command`` in ``group``, sees; nothing else may be printed."""
    result = group.run(command, environ=environ, **options)
    assert result.stderr == ""
    seen = json.loads(result.stdout)
    return {name: seen[name] for name in ("environ", "native", "receipt", "rule")}


@pytest.mark.parametrize("flag", ["", "-I", "-E", "-s", "-O", "-B", "-X=dev", "-P"])
def test_options_of_the_interpreter(flag: str, venv: Venv, one_cpu: Cgroup) -> None:
    if flag == "-P" and venv.version in ("3.9", "3.10"):
        flag = "-I"
    flags = flag.split("=") if flag else []
    assert seen_by([venv.python, *flags, PROBE], one_cpu) == limited_to(1)


def test_without_site_nothing_happens(venv: Venv, one_cpu: Cgroup) -> None:
    nothing: dict[str, Any] = {"environ": {}, "native": None, "receipt": None, "rule": None}
    assert seen_by([venv.python, "-S", PROBE], one_cpu) == nothing


def test_ways_to_name_a_program(venv: Venv, one_cpu: Cgroup, tmp_path: Path) -> None:
    source = PROBE.read_text(encoding="utf-8")
    application = tmp_path / "application"
    application.mkdir()
    (application / "__main__.py").write_text(source)
    zipapp.create_archive(application, tmp_path / "probe.pyz")
    assert seen_by([venv.python, "-c", source], one_cpu) == limited_to(1)
    assert seen_by([venv.python, "-m", "probe"], one_cpu, cwd=PROBE.parent) == limited_to(1)
    assert seen_by([venv.python, application], one_cpu) == limited_to(1)
    assert seen_by([venv.python, tmp_path / "probe.pyz"], one_cpu) == limited_to(1)
    with PROBE.open() as stdin:
        assert seen_by([venv.python], one_cpu, stdin=stdin) == limited_to(1)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing_children(method: str, venv: Venv, one_cpu: Cgroup, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(SPAWN)
    assert seen_by([venv.python, script, method, PROBE], one_cpu) == limited_to(1)


def test_sub_interpreter(venv: Venv, one_cpu: Cgroup, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(SUBINTERPRETER)
    assert seen_by([venv.python, script, PROBE], one_cpu) == limited_to(1)


def test_embedded_interpreter(venv: Venv, one_cpu: Cgroup, tmp_path: Path) -> None:
    program = tmp_path / "embed"
    python = PYTHONS[venv.version]
    config = Path(os.path.realpath(python)).parent / f"python{venv.version}-config"
    if not config.exists() or not shutil.which("cc"):
        pytest.skip(f"no libpython of CPython {venv.version} to link with")
    flags = run([config, "--includes", "--ldflags", "--embed"]).stdout.split()
    built = run(["cc", ROOT / "tests" / "support" / "embed.c", "-o", program, *flags], status=None)
    if "Python.h: No such file" in built.stderr or "cannot find -lpython" in built.stderr:
        pytest.skip(f"no libpython of CPython {venv.version} to link with")
    assert built.returncode == 0, built.stderr
    assert seen_by([program, venv.python, PROBE], one_cpu) == limited_to(1)


def test_imports_nothing_but_itself(venv: Venv, bare_venv: Venv, one_cpu: Cgroup) -> None:
    with_hook = json.loads(one_cpu.run([venv.python, PROBE]).stdout)
    without = json.loads(one_cpu.run([bare_venv.python, PROBE]).stdout)
    assert set(with_hook["modules"]) - set(without["modules"]) == {"blasenv"}
    assert set(without["modules"]) <= set(with_hook["modules"])
    assert with_hook["fds"] == without["fds"]


def test_importing_it_does_nothing(venv: Venv, one_cpu: Cgroup) -> None:
    for environ in ({}, {"BLASENV_DISABLE": "1"}):
        flags = [] if environ else ["-S"]
        code = f"import sys; sys.path.append({str(venv.site_packages)!r}); import blasenv; print(blasenv.__version__)"
        code += "; import subprocess; subprocess.run(['env'])"
        result = one_cpu.run([venv.python, *flags, "-c", code], environ=clean_environ(**environ))
        assert "OMP_NUM_THREADS" not in result.stdout
        assert "BLASENV_SET" not in result.stdout


def test_acts_once_although_a_venv_runs_the_line_twice(venv: Venv, one_cpu: Cgroup) -> None:
    result = one_cpu.run([venv.python, "-c", ""], environ=clean_environ(BLASENV_DEBUG="1"))
    assert result.stderr == "blasenv: rule quota, sets OMP_NUM_THREADS=1\n"


def test_fractions_are_floored(one_venv: Venv, limited: Callable[[float], Cgroup]) -> None:
    assert seen_by([one_venv.python, PROBE], limited(1.5)) == limited_to(1)
    assert seen_by([one_venv.python, PROBE], limited(0.25)) == limited_to(1)


def test_no_limit_no_change(one_venv: Venv, one_cpu: Cgroup) -> None:
    """Only where the tests themselves run without a limit can a process be without one."""
    (one_cpu.directory / "child").mkdir()
    try:
        seen = seen_by([one_venv.python, PROBE], Cgroup(one_cpu.directory / "child"))
        assert seen == limited_to(1), "a limit of the parent binds"
    finally:
        (one_cpu.directory / "child").rmdir()
    seen = seen_by([one_venv.python, PROBE], Cgroup(one_cpu.outside))
    assert seen["environ"] == {}
    assert seen["native"] is None


def test_child_decides_for_itself(venv: Venv, one_cpu: Cgroup) -> None:
    """With the environment inherited, as Python sees it, or as Python copies it."""
    for environ in ("None", "os.environ", "dict(os.environ)"):
        code = f"import os, subprocess, sys; subprocess.check_call([sys.executable, sys.argv[1]], env={environ})"
        assert seen_by([venv.python, "-c", code, PROBE], one_cpu) == limited_to(1)


def test_child_outside_the_limit_gets_nothing(one_venv: Venv, one_cpu: Cgroup) -> None:
    leave = Cgroup(one_cpu.outside).enter([one_venv.python, PROBE])
    seen = seen_by([one_venv.python, "-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])", *leave], one_cpu)
    assert seen["environ"] == {}
    assert (seen["native"], seen["receipt"]) == (None, None)


def test_child_of_a_changed_value_keeps_it(one_venv: Venv, one_cpu: Cgroup) -> None:
    code = "import os, subprocess, sys; os.environ['OMP_NUM_THREADS'] = '2'; subprocess.check_call(sys.argv[1:])"
    seen = seen_by([one_venv.python, "-c", code, one_venv.python, PROBE], one_cpu)
    assert seen["native"] == seen["environ"]["OMP_NUM_THREADS"] == "2"
    assert seen["rule"] == "user-env"


@pytest.mark.parametrize("value", ["3", "1", "", "0", "4,2", "nonsense"])
def test_value_in_the_shell_wins(value: str, one_venv: Venv, one_cpu: Cgroup) -> None:
    seen = seen_by([one_venv.python, PROBE], one_cpu, clean_environ(OMP_NUM_THREADS=value))
    nothing_of_ours = {"environ": {"OMP_NUM_THREADS": value}, "native": value, "receipt": None, "rule": "user-env"}
    assert seen == nothing_of_ours


def test_value_of_one_library_stays(one_venv: Venv, one_cpu: Cgroup) -> None:
    seen = seen_by([one_venv.python, PROBE], one_cpu, clean_environ(OPENBLAS_NUM_THREADS="2", MKL_NUM_THREADS="2"))
    theirs = {"OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    assert seen["environ"] == {**theirs, "BLASENV_SET": "OMP_NUM_THREADS=1"}


def test_disabled(one_venv: Venv, one_cpu: Cgroup) -> None:
    for value in ("1", "true", "yes", "on", "2", "anything"):
        seen = seen_by([one_venv.python, PROBE], one_cpu, clean_environ(BLASENV_DISABLE=value))
        assert seen == {"environ": {"BLASENV_DISABLE": value}, "native": None, "receipt": None, "rule": None}
    for value in ("", "0", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"):
        seen = seen_by([one_venv.python, PROBE], one_cpu, clean_environ(BLASENV_DISABLE=value))
        assert seen["native"] == "1", value


@pytest.mark.parametrize(
    ("config", "environ", "native", "more"),
    [
        ('mode = "off"', {}, None, {}),
        ('mode = "single"', {}, "1", {}),
        ("threads = 5", {}, "5", {}),
        ("visible = true", {}, "1", {"OMP_NUM_THREADS": "1", "BLASENV_MARK": "OMP_NUM_THREADS=1"}),
        ('rounding = "ceil"', {}, "1", {}),
        ("threads = 5", {"OMP_NUM_THREADS": "3"}, "3", {}),
        ("threads = 5\noverride = true", {"OMP_NUM_THREADS": "3"}, "5", {"OMP_NUM_THREADS": None}),
        ("", {"BLASENV_THREADS": "7"}, "7", {}),
        ("threads = 5", {"BLASENV_MODE": "off"}, None, {}),
        ("threads = 5", {"BLASENV_MODE": "single"}, "1", {}),
        (
            'variables = ["OMP_NUM_THREADS", "NUMEXPR_NUM_THREADS"]',
            {},
            "1",
            {"NUMEXPR_NUM_THREADS": "1", "BLASENV_MARK": "NUMEXPR_NUM_THREADS=1"},
        ),
        # a limit told, and a cap
        ("cpus = 0.5", {}, "1", {}),
        ("", {"BLASENV_CPUS": "500m"}, "1", {}),
        ("max_threads = 1", {}, "1", {}),
    ],
)
def test_configuration(
    config: str,
    environ: dict[str, str],
    native: str | None,
    more: dict[str, str | None],
    one_venv: Venv,
    one_cpu: Cgroup,
    tmp_path: Path,
) -> None:
    file = tmp_path / "blasenv.toml"
    file.write_text(config)
    given = {**environ, "BLASENV_CONFIG": str(file)}
    seen = seen_by([one_venv.python, PROBE], one_cpu, clean_environ(**given))
    assert seen["native"] == native
    python_sees = {**given, **more, "BLASENV_SET": seen["receipt"]}
    assert seen["environ"] == {name: value for name, value in python_sees.items() if value is not None}


def test_refused_configuration_is_reported_once_per_process_tree(
    one_venv: Venv, one_cpu: Cgroup, tmp_path: Path
) -> None:
    file = tmp_path / "blasenv.toml"
    file.write_text('mode = "auto"\nthread = 4\n')
    code = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, sys.argv[1]]))"
    result = one_cpu.run([one_venv.python, "-c", code, PROBE], environ=clean_environ(BLASENV_CONFIG=str(file)))
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"blasenv: {file}:2: ")
    assert "blasenv config check" in line
    assert json.loads(result.stdout)["native"] == "1", "the defaults apply"


def test_start_up_code_knows_no_other_module_of_ours() -> None:
    """The start-up modules import os, sys, each other, and, for type checkers, types."""
    for name in STARTUP_FILES:
        tree = ast.parse((ROOT / "blasenv" / name).read_text(encoding="utf-8"))
        checked = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ]
        unseen = {id(child) for node in checked for child in ast.walk(node)}
        imports = [
            node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in unseen
        ]
        modules = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
        modules |= {"." * node.level + (node.module or "") for node in imports if isinstance(node, ast.ImportFrom)}
        assert modules <= {"os", "posix", "sys", ".", "._config_file", "._cpu_count", "._host", "._workers"}
