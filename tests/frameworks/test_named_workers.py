"""Servers that say how many workers they start: real ones, under a real limit that their workers share.

The limit is 1.5 CPUs and rounded up, because between 1 and 2 CPUs only that tells one worker (1.5 is 2 threads) from
two (0.75 is 1). slow_workers.py has the servers that few people run.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import Cgroup, Venv, make_venv
from measure import HERE, PROGRAMS, VERSION, serve

CEIL = 'rounding = "ceil"\n'
CPUS = os.cpu_count() or 1  # that Python counts, whatever the limit
VISIBLE = len(os.sched_getaffinity(0))

ALONE = ("2", "quota", "")
"""What one worker sees: its number of threads, the rule, and nobody who shares."""


def shared(source: str, threads: str = "1") -> tuple[str, str, str]:
    """What each of several workers sees."""
    return threads, "workers", f"workers ({source})"


@pytest.fixture(scope="module")
def servers(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    venv = make_venv(tmp_path_factory.mktemp("servers") / "venv", VERSION)
    venv.install(wheel, "-r", HERE / "requirements" / "servers.txt")
    return venv


def check(
    servers: Venv,
    group: Cgroup,
    directory: Path,
    line: str,
    number: int,
    want: tuple[str | None, str, str],
    environ: Mapping[str, str] | None = None,
    config: str = CEIL,
) -> list[str]:
    """Start a server, a console script or "-m MODULE", and compare what its workers see. Their notes."""
    if VISIBLE < 2:
        pytest.skip("one CPU cannot be divided")
    words = shlex.split(line)
    command: list[str | Path] = [servers.python, *words]
    if words[0] != "-m":
        command[:2] = [servers.directory / "bin" / words[0]]
    workers = serve(command, group, directory, config, number, **(environ or {}))
    assert {(worker["native"], worker["rule"], worker["shared_by"]) for worker in workers} == {want}
    return sorted({note for worker in workers for note in worker["notes"]})


GUNICORN = "gunicorn --bind=unix:socket --no-control-socket web:wsgi"
UVICORN = "uvicorn --uds=socket web:asgi"
CELERY = "celery --app=tasks worker"
DRAMATIQ = "dramatiq actors"
XDIST = f"-q --dist=each -p no:cacheprovider --rootdir={PROGRAMS} {PROGRAMS / 'xdist_workers.py'}"

SAID = [
    # gunicorn forks its workers
    (f"{GUNICORN} -w 2", {}, 2, shared("gunicorn -w 2")),
    (f"{GUNICORN} -w2", {}, 2, shared("gunicorn -w 2")),
    (f"{GUNICORN} --workers 2", {}, 2, shared("gunicorn --workers 2")),
    (f"{GUNICORN} --workers=2", {}, 2, shared("gunicorn --workers 2")),
    (f"{GUNICORN} -w 4 -w 2", {}, 2, shared("gunicorn -w 2")),
    (f"-m {GUNICORN} -w 2", {}, 2, shared("gunicorn -w 2")),
    (GUNICORN, {"GUNICORN_CMD_ARGS": "--name 'a b' --workers=2"}, 2, shared("GUNICORN_CMD_ARGS --workers 2")),
    (GUNICORN, {"WEB_CONCURRENCY": "2"}, 2, shared("WEB_CONCURRENCY=2")),
    (GUNICORN, {}, 1, ALONE),
    (f"{GUNICORN} -w 1", {"WEB_CONCURRENCY": "2", "GUNICORN_CMD_ARGS": "-w 2"}, 1, ALONE),
    # uvicorn has multiprocessing spawn them
    (f"{UVICORN} --workers 2", {}, 2, shared("uvicorn --workers 2")),
    (f"{UVICORN} --workers=2", {}, 2, shared("uvicorn --workers 2")),
    (f"-m {UVICORN} --workers=2", {}, 2, shared("uvicorn --workers 2")),
    (UVICORN, {"WEB_CONCURRENCY": "2"}, 2, shared("WEB_CONCURRENCY=2")),
    (UVICORN, {"UVICORN_WORKERS": "2", "WEB_CONCURRENCY": "3"}, 2, shared("UVICORN_WORKERS=2")),
    (UVICORN, {}, 1, ALONE),
    (f"{UVICORN} --workers 2 --reload", {}, 1, ALONE),
    # Celery forks them
    (f"{CELERY} -c 2", {}, 2, shared("celery -c 2")),
    (f"{CELERY} -EBc2", {}, 2, shared("celery -c 2")),
    (f"{CELERY} --concurrency=2", {}, 2, shared("celery --concurrency 2")),
    (f"-m {CELERY} --concurrency 2", {}, 2, shared("celery --concurrency 2")),
    (f"{CELERY} --autoscale=2,2", {}, 2, shared("celery --autoscale, up to 2")),
    (f"{CELERY} -c auto", {}, 2, shared("celery -c auto")),
    (CELERY, {}, CPUS, shared("celery, one per CPU")),
    (f"{CELERY} -c 1", {"WEB_CONCURRENCY": "2"}, 1, ALONE),
    (f"{CELERY} -c 2 -P solo", {}, 1, ALONE),
    (f"{CELERY} -c 2 --pool=threads", {}, 1, ALONE),
    # dramatiq forks them, or has multiprocessing spawn them
    (f"{DRAMATIQ} -p 2", {}, 2, shared("dramatiq -p 2")),
    (f"-m {DRAMATIQ} --processes=2", {}, 2, shared("dramatiq --processes 2")),
    (f"{DRAMATIQ} --use-spawn -vp2", {}, 2, shared("dramatiq -p 2")),
    (DRAMATIQ, {}, CPUS, shared("dramatiq, one per CPU")),
    (f"{DRAMATIQ} --proc 1", {"WEB_CONCURRENCY": "2"}, 1, ALONE),
    # pytest-xdist has execnet start them, as "python -c", so that their own command line says nothing
    (f"pytest {XDIST} -n 2", {}, 2, shared("pytest -n 2")),
    (f"pytest {XDIST} -n=2", {}, 2, shared("pytest -n 2")),
    (f"-m pytest {XDIST} --numprocesses=2", {}, 2, shared("pytest --numprocesses 2")),
    (f"-m pytest {XDIST} -n auto", {}, VISIBLE, shared("pytest -n auto, one per CPU")),
    (f"-m pytest {XDIST} -n logical", {}, VISIBLE, shared("pytest -n logical, one per CPU")),
    (f"pytest {XDIST} -n auto", {"PYTEST_XDIST_AUTO_NUM_WORKERS": "3"}, 3, shared("PYTEST_XDIST_AUTO_NUM_WORKERS=3")),
    (f"pytest {XDIST}", {"PYTEST_ADDOPTS": "-n 2"}, 2, shared("PYTEST_ADDOPTS -n 2")),
    (f"pytest {XDIST} -n 2", {"PYTEST_ADDOPTS": "-n 3"}, 2, shared("pytest -n 2")),
    (f"pytest {XDIST} -n 3 --maxprocesses=2", {}, 2, shared("pytest -n 3, --maxprocesses 2")),
    (f"pytest {XDIST} -n 0", {"PYTEST_ADDOPTS": "-n 2"}, 1, ALONE),
    (f"pytest {XDIST.replace('--dist=each', '')}", {"PYTEST_XDIST_AUTO_NUM_WORKERS": "2"}, 1, ALONE),
]


@pytest.mark.parametrize(("line", "environ", "number", "want"), SAID)
def test_workers_that_a_server_names(
    line: str,
    environ: Mapping[str, str],
    number: int,
    want: tuple[str, str, str],
    servers: Venv,
    group: Cgroup,
    tmp_path: Path,
) -> None:
    assert check(servers, group, tmp_path, line, number, want, environ) == []


def test_a_setting_for_pytest_reaches_them(servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    config = f"{CEIL}[programs]\npytest = 3\n"
    check(servers, group, tmp_path, f"pytest {XDIST} -n 2", 2, ("3", "program", ""), config=config)


@pytest.mark.parametrize("line", [GUNICORN, f"{GUNICORN} -c python:gunicorn_settings"])
def test_workers_that_a_file_names(line: str, servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    """Nobody reads it, so nothing is divided, and a note says who can."""
    (tmp_path / "gunicorn.conf.py").write_text("workers = 2\n")
    (tmp_path / "gunicorn_settings.py").write_text("workers = 2\n")
    file = line.rpartition("-c ")[2] if "-c " in line else "gunicorn.conf.py"
    notes = check(servers, group, tmp_path, line, 2, ALONE, {"PYTHONPATH": f"{PROGRAMS}:{tmp_path}"})
    assert notes == [f'{file} may name the workers of gunicorn; [programs] can: gunicorn = "share:N"']


@pytest.mark.parametrize(
    ("setting", "want"),
    [
        ('"auto"', ("2", "program", "")),
        ("3", ("3", "program", "")),
        ('"single"', ("1", "program", "")),
        ('"share:4"', ("1", "program", 'processes (gunicorn = "share:4")')),
    ],
)
def test_a_setting_of_the_owner_beats_it(
    setting: str, want: tuple[str, str, str], servers: Venv, group: Cgroup, tmp_path: Path
) -> None:
    config = f"{CEIL}[programs]\ngunicorn = {setting}\n"
    assert check(servers, group, tmp_path, f"{GUNICORN} -w 2", 2, want, config=config) == []


@pytest.mark.parametrize("line", [f"{GUNICORN} -w 2", f"{UVICORN} --workers 2", f"{CELERY} -c 2"])
def test_a_variable_of_the_user_beats_it(line: str, servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    check(servers, group, tmp_path, line, 2, ("7", "user-env", ""), {"OMP_NUM_THREADS": "7"})


@pytest.mark.parametrize("line", [f"{GUNICORN} -w 2", f"{UVICORN} --workers 2", f"{CELERY} -c 2"])
def test_without_blasenv_they_have_no_number(line: str, servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    check(servers, group, tmp_path, line, 2, (None, "disabled", ""), config='mode = "off"\n')


def test_a_script_beside_the_variables_of_servers(servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    environ = {"WEB_CONCURRENCY": "4", "GUNICORN_CMD_ARGS": "-w 4", "UVICORN_WORKERS": "4", "PYTEST_ADDOPTS": "-n 4"}
    (tmp_path / "gunicorn_like.py").write_text((PROGRAMS / "rank.py").read_text(encoding="utf-8"))
    line = "-m gunicorn_like -w 4 --workers 4"
    environ["PYTHONPATH"] = f"{PROGRAMS}:{tmp_path}"
    assert check(servers, group, tmp_path, line, 1, ALONE, environ) == []


def test_a_program_that_a_server_starts_is_alone(servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    """It is decided on its own, as any other."""
    (tmp_path / "starts.py").write_text(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'rank'], check=True)\n"
        "def wsgi(environ, start_response): ...\n"
    )
    line = GUNICORN.replace("web:wsgi", "starts:wsgi")
    environ = {"PYTHONPATH": f"{PROGRAMS}:{tmp_path}"}
    assert check(servers, group, tmp_path, f"{line} -w 2", 2, ALONE, environ) == []
