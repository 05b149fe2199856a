"""One budget: a limit told from outside, a cap, workers that a server names, and Python's own count."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Cgroup, Venv, clean_environ, run

import blasenv
from blasenv._config_file import parse_cpus
from blasenv._cpu_count import Count

BLASENV = [sys.executable, "-m", "blasenv"]


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("1.5", 1.5),
        ("1500m", 1.5),
        ("2", 2.0),
        ("250m", 0.25),
        ("0.001", 0.001),
        ("1m", 0.001),
        ("8192", 8192.0),
        ("8192000m", 8192.0),
        *[(text, None) for text in ("", "0", "0m", "-1", "+1", "nan", "inf", "1e9", "1e1", "abc", "m", ".", ".m")],
        *[
            (text, None)
            for text in ("1,5", " 1", "1 ", "1_0", "٣", "8193", "0.0001", "1.5.1", "1.5M", "9" * 30, "\udcff")
        ],
    ],
)
def test_cpus_as_people_write_them(text: str, cpus: float | None) -> None:
    assert parse_cpus(text) == cpus


def observed(root: Path, *words: str, **environ: str) -> dict[str, Any]:
    """What ``blasenv status --json`` says of a tree."""
    command = [*BLASENV, "status", "--json", "--root", str(root), *words]
    found: dict[str, Any] = json.loads(run(command, clean_environ(PYTHONPATH=str(ROOT), **environ)).stdout)
    return found


@pytest.mark.parametrize(
    ("cpus", "config", "environ", "rule", "threads", "reason"),
    [
        # one more limit; the tightest applies
        (None, "cpus = 2.5\n", {}, "quota", 2, "the CPU limit of 2.5, told by "),
        (None, "", {"BLASENV_CPUS": "2500m"}, "quota", 2, "the CPU limit of 2.5, told by BLASENV_CPUS, is below"),
        (4, "cpus = 2\n", {}, "quota", 2, "the CPU limit of 2, told by "),
        (2, "cpus = 4\n", {}, "quota", 2, "the CPU limit of 2 is below the 48 CPUs"),
        (None, "cpus = 4\n", {"BLASENV_CPUS": "2"}, "quota", 2, "told by BLASENV_CPUS"),
        (None, "cpus = 48\n", {}, "no-gap", None, "the CPU limit of 48 is no smaller than the 48 visible CPUs"),
        # divided as a quota is, unlike a count
        (None, "cpus = 8\n", {"LOCAL_WORLD_SIZE": "4"}, "quota", 2, "8 CPUs shared by 4 ranks (LOCAL_WORLD_SIZE=4)"),
        # ignored, and said
        (None, "", {"BLASENV_CPUS": "abc"}, "no-limit", None, "no CPU limit"),
        (None, "", {"BLASENV_CPUS": "9000"}, "no-limit", None, "no CPU limit"),
        # a cap binds with and without a limit, and is not shared out
        (None, "max_threads = 8\n", {}, "config", 8, "max_threads = 8"),
        (16, "max_threads = 8\n", {}, "config", 8, "max_threads = 8"),
        (4, "max_threads = 8\n", {}, "quota", 4, "the CPU limit of 4 is below"),
        (16, "max_threads = 8\n", {"LOCAL_WORLD_SIZE": "2"}, "quota", 8, "16 CPUs shared by 2 ranks"),
        (32, "max_threads = 8\n", {"LOCAL_WORLD_SIZE": "2"}, "config", 8, "max_threads = 8"),
        (None, "max_threads = 64\n", {}, "no-limit", None, "no CPU limit"),
        (None, "max_threads = 8\nthreads = 16\n", {}, "config", 16, "threads = 16"),
    ],
)
def test_told_and_capped(
    cpus: float | None,
    config: str,
    environ: dict[str, str],
    rule: str,
    threads: int | None,
    reason: str,
    machine: Callable[..., Path],
) -> None:
    found = observed(machine(cpus, config), "--affinity", "48", **environ)
    assert (found["rule"], found["threads"]) == (rule, threads)
    assert reason in found["reason"]
    ignored = environ.get("BLASENV_CPUS") in ("abc", "9000")
    assert ("BLASENV_CPUS" in " ".join(found["notes"])) == ignored


def test_a_cap_does_not_raise_a_count_above_the_cores(machine: Callable[..., Path]) -> None:
    root = machine(None, "max_threads = 6\n")
    siblings = root / "sys/devices/system/cpu/cpu0/topology"
    siblings.mkdir(parents=True)
    (siblings / "thread_siblings_list").write_text("0,4\n")
    found = observed(root, "--affinity", "8")
    assert (found["rule"], found["threads"]) == ("config", 4)
    assert [limit["controller"] for limit in found["limits"] if limit["taken"]] == ["smt"]


def test_all_variables(machine: Callable[..., Path]) -> None:
    found = observed(machine(2, 'variables = "all"\n'), "--affinity", "48")
    ours = {row["name"]: row["value"] for row in found["variables"] if row["source"] == "blasenv"}
    assert set(ours.values()) == {"2"}
    assert {"OMP_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"} <= set(ours)


@pytest.mark.parametrize(
    ("threads", "most", "value"), [("64", "", "64"), ("65", "", None), ("8", "4", None), ("8", "8", "8")]
)
def test_numexpr_is_spared_a_count_above_its_maximum(
    threads: str, most: str, value: str | None, machine: Callable[..., Path]
) -> None:
    """It would print an error and take one thread."""
    environ = {"NUMEXPR_MAX_THREADS": most} if most else {}
    found = observed(machine(None, f'variables = "all"\nthreads = {threads}\n'), "--affinity", "99", **environ)
    ours = {row["name"]: row["value"] for row in found["variables"] if row["source"] == "blasenv"}
    assert (ours["OMP_NUM_THREADS"], ours.get("NUMEXPR_NUM_THREADS")) == (threads, value)


# Servers. What each of them says: test_workers.py.


def decide(
    argv: list[str], cpus: int = 4, *, words: list[str] | None = None, environ: dict[str, str] | None = None
) -> blasenv.Decision:
    environ = environ or {}
    config = blasenv.read_config(environ={"BLASENV_CONFIG": "", **environ}, argv=argv, words=words)
    limit = blasenv.Limit(controller="cpu", version=2, path="x", quota=cpus, period=1, note="")
    return blasenv.decide(config, [limit], 48, environ)


@pytest.mark.parametrize(
    ("argv", "environ", "rule", "threads", "shared_by"),
    [
        (["/usr/bin/gunicorn", "-w", "2", "app:app"], {}, "workers", 2, "workers (gunicorn -w 2)"),
        (["/usr/bin/gunicorn", "app:app"], {"WEB_CONCURRENCY": "4"}, "workers", 1, "workers (WEB_CONCURRENCY=4)"),
        (["/usr/bin/gunicorn", "app:app"], {}, "quota", 4, ""),
        (["/srv/train.py", "-w", "2"], {"WEB_CONCURRENCY": "4"}, "quota", 4, ""),
        (["/usr/bin/gunicorn", "-w", "2"], {"OMP_NUM_THREADS": "3"}, "user-env", None, ""),
        # ranks of a job come first, and a server without a gap is left alone
        (["gunicorn", "-w", "2"], {"LOCAL_WORLD_SIZE": "4"}, "quota", 1, "ranks (LOCAL_WORLD_SIZE=4)"),
    ],
)
def test_workers_divide(
    argv: list[str], environ: dict[str, str], rule: str, threads: int | None, shared_by: str
) -> None:
    decision = decide(argv, environ=environ)
    assert (decision.rule, decision.threads, decision.shared_by) == (rule, threads, shared_by)


def test_a_module_is_a_server_by_the_whole_command_line() -> None:
    words = ["python", "-m", "uvicorn", "app:app", "--workers", "2"]
    assert decide(["-m", "app:app"], words=words).shared_by == "workers (uvicorn --workers 2)"
    assert decide(["-m", "x"], words=["python", "-m", "http.server"]).rule == "quota"


def test_without_a_gap_workers_change_nothing() -> None:
    assert decide(["gunicorn", "-w", "4"], 48).rule == "no-gap"


@pytest.mark.parametrize(("line", "rule", "threads"), [('"auto"', "program", 4), ('"single"', "program", 1)])
def test_the_owners_line_beats_the_servers_option(line: str, rule: str, threads: int, tmp_path: Path) -> None:
    file = tmp_path / "blasenv.toml"
    file.write_text(f"[programs]\ngunicorn = {line}\n")
    config = blasenv.read_config(environ={"BLASENV_CONFIG": str(file)}, argv=["gunicorn", "-w", "4", "app:app"])
    limit = blasenv.Limit(controller="cpu", version=2, path="x", quota=4, period=1, note="")
    decision = blasenv.decide(config, [limit], 48, {})
    assert (decision.rule, decision.threads) == (rule, threads)


# Python's own count, in real processes.

COUNTS = """
import concurrent.futures, functools, inspect, json, multiprocessing, os, pickle, subprocess, sys
class Method:
    count = os.cpu_count
print(json.dumps({
    "cpu_count": os.cpu_count(),
    "process": os.process_cpu_count() if hasattr(os, "process_cpu_count") else None,
    "multiprocessing": multiprocessing.cpu_count(),
    "threads": concurrent.futures.ThreadPoolExecutor()._max_workers,
    "affinity": len(os.sched_getaffinity(0)),
    "method": Method().count(),
    "pickled": pickle.loads(pickle.dumps(os.cpu_count)) is os.cpu_count,
    "partial": functools.partial(os.cpu_count)(),
    "doc": bool(os.cpu_count.__doc__) and os.cpu_count.__name__ == "cpu_count",
    "signature": str(inspect.signature(os.cpu_count)),
    "repr": repr(os.cpu_count),
    "variable": os.environ.get("PYTHON_CPU_COUNT"),
}))
"""
REAL = os.sysconf("SC_NPROCESSORS_ONLN")


def counts(group: Cgroup, venv: Venv, *before: str | Path, code: str = COUNTS, **environ: str) -> dict[str, Any]:
    command: list[str | Path] = [*before, venv.python, "-c", code]
    found: dict[str, Any] = json.loads(group.run(command, environ=clean_environ(**environ)).stdout)
    return found


def test_the_budget_is_what_python_counts(venv: Venv, one_cpu: Cgroup) -> None:
    found = counts(one_cpu, venv, BLASENV_CPU_COUNT="1")
    newer = venv.version not in ("3.9", "3.10", "3.11", "3.12")
    assert found["cpu_count"] == found["multiprocessing"] == found["method"] == found["partial"] == 1
    assert found["process"] == (1 if newer else None)
    assert found["affinity"] > 1, "what the kernel says is never touched"
    assert found["threads"] == 5
    assert found["pickled"]
    assert found["doc"]
    assert found["signature"].startswith("()")
    assert found["repr"] == "<os.cpu_count, at most 1, by blasenv>"
    assert found["variable"] is None, "the variable is native only"


def test_it_is_opt_in(one_venv: Venv, one_cpu: Cgroup) -> None:
    for environ in ({}, {"BLASENV_CPU_COUNT": "0"}, {"BLASENV_CPU_COUNT": "no"}, {"BLASENV_CPU_COUNT": ""}):
        found = counts(one_cpu, one_venv, **environ)
        assert found["cpu_count"] == REAL
        assert "built-in" in found["repr"]


def test_it_rounds_up_and_stays_within_the_mask(one_venv: Venv, limited: Callable[[float], Cgroup]) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU is all that rounding could give")
    assert counts(limited(1.5), one_venv, BLASENV_CPU_COUNT="1")["cpu_count"] == 2
    narrow = counts(limited(1.5), one_venv, "taskset", "-c", "0", BLASENV_CPU_COUNT="1")
    assert (narrow["cpu_count"], narrow["affinity"]) == (1, 1)


def test_what_the_user_says_wins(one_venv: Venv, one_cpu: Cgroup) -> None:
    newer = one_venv.version not in ("3.9", "3.10", "3.11", "3.12")
    if not newer:
        pytest.skip("no CPython 3.13 on this machine")
    assert counts(one_cpu, one_venv, BLASENV_CPU_COUNT="1", PYTHON_CPU_COUNT="7")["cpu_count"] == 7
    command: list[str | Path] = [one_venv.python, "-X", "cpu_count=6", "-c", "import os; print(os.cpu_count())"]
    assert one_cpu.run(command, environ=clean_environ(BLASENV_CPU_COUNT="1")).stdout == "6\n"


CHILD = "import os, subprocess, sys\n{edit}\nsubprocess.run([sys.executable, '-c', {code!r}], check=True{env})\n"


@pytest.mark.parametrize("env", ["", ", env=dict(os.environ)"])
def test_a_child_counts_the_same(env: str, one_venv: Venv, one_cpu: Cgroup) -> None:
    code = CHILD.format(edit="", code=COUNTS, env=env)
    assert counts(one_cpu, one_venv, code=code, BLASENV_CPU_COUNT="1")["cpu_count"] == 1


def test_a_child_that_leaves_the_limit_counts_all(one_venv: Venv, one_cpu: Cgroup) -> None:
    edit = f"open({str(one_cpu.outside / 'cgroup.procs')!r}, 'w').write('0')"
    code = CHILD.format(edit=edit, code=COUNTS, env="")
    assert counts(one_cpu, one_venv, code=code, BLASENV_CPU_COUNT="1")["cpu_count"] == REAL


def test_a_child_with_the_hook_switched_off_counts_all(one_venv: Venv, one_cpu: Cgroup) -> None:
    code = CHILD.format(edit="", code=COUNTS, env=", env={**os.environ, 'BLASENV_DISABLE': '1'}")
    assert counts(one_cpu, one_venv, code=code, BLASENV_CPU_COUNT="1")["cpu_count"] == REAL


def test_a_child_without_the_hook_has_the_variable(one_venv: Venv, one_cpu: Cgroup) -> None:
    """CPython 3.13 and later reads it."""
    command = "import subprocess; subprocess.run(['sh', '-c', 'echo $PYTHON_CPU_COUNT $BLASENV_SET'])"
    result = one_cpu.run([one_venv.python, "-c", command], environ=clean_environ(BLASENV_CPU_COUNT="1"))
    assert result.stdout == "1 OMP_NUM_THREADS=1 PYTHON_CPU_COUNT=1\n"


def test_pools_start_no_more_workers(one_venv: Venv, one_cpu: Cgroup, tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(
        "import concurrent.futures, multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.Pool() as pool: print(len(pool._pool))\n"
        "    with concurrent.futures.ProcessPoolExecutor() as pool: print(pool._max_workers)\n"
    )
    for wanted, workers in (("1", 1), ("0", REAL)):
        environ = clean_environ(BLASENV_CPU_COUNT=wanted)
        assert one_cpu.run([one_venv.python, script], environ=environ).stdout == f"{workers}\n{workers}\n"


def test_the_count_is_an_object_of_its_own() -> None:
    """Not the functions of ``os`` in this process, which stay as they are."""
    count = Count("cpu_count", 3)
    assert count() == min(3, REAL)
    assert Count("cpu_count", None)() == REAL
    assert count.__module__ == "os"
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(count)  # it is not what is in os, here


def test_subinterpreters_count_the_same(one_venv: Venv, one_cpu: Cgroup) -> None:
    code = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
new = interpreters.create()
failure = interpreters.run_string(new, "import os; print(os.cpu_count())")
assert not failure, failure
"""
    result = one_cpu.run([one_venv.python, "-c", code], environ=clean_environ(BLASENV_CPU_COUNT="1"))
    assert result.stdout == "1\n"


def test_a_debug_line_says_who_shares(one_venv: Venv, one_cpu: Cgroup, tmp_path: Path) -> None:
    server = tmp_path / "gunicorn"
    server.write_text("")
    command: list[str | Path] = [one_venv.python, server, "--workers", "4", "app:app"]
    said = one_cpu.run(command, environ=clean_environ(BLASENV_DEBUG="1")).stderr
    assert said == (
        "blasenv: rule workers, sets OMP_NUM_THREADS=1; 1 CPUs shared by 4 workers (gunicorn --workers 4)\n"
    )


def test_an_ordinary_program_imports_no_second_module(one_venv: Venv, one_cpu: Cgroup, tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text("import sys; print(*sorted(name for name in sys.modules if 'blasenv' in name))\n")
    given = clean_environ(WEB_CONCURRENCY="4")
    assert one_cpu.run([one_venv.python, script], environ=given).stdout == "blasenv\n"
    assert one_cpu.run([one_venv.python, "-c", script.read_text()], environ=given).stdout == "blasenv\n"
    assert one_cpu.run([one_venv.python, "-m", "app"], environ=given, cwd=tmp_path).stdout == "blasenv\n"
