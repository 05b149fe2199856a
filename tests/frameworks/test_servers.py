"""Servers that start workers of their own, with a setting for them in ``[programs]``.

Nobody can see from inside how many workers there will be, so their owner says it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import TIMEOUT, Cgroup, Venv, clean_environ, make_venv
from measure import HERE, PROGRAMS, VERSION

WORKERS = 2

# Each in its own directory. gunicorn and celery fork their workers, uvicorn spawns them.
GUNICORN = ["gunicorn", "--workers=2", "--bind=unix:socket", "--no-control-socket", "web:wsgi"]
UVICORN = ["uvicorn", "--workers=2", "--uds=socket", "web:asgi"]
CELERY = ["celery", "--app=tasks", "worker", "--pool=prefork", "--concurrency=2"]


@pytest.fixture(scope="module")
def servers(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    venv = make_venv(tmp_path_factory.mktemp("servers") / "venv", VERSION)
    venv.install(wheel, "-r", HERE / "requirements" / "servers.txt")
    return venv


def serve(command: Sequence[str | Path], group: Cgroup, directory: Path, config: str) -> set[tuple[str | None, str]]:
    """Start a server, and stop it when its workers are there: their native OMP_NUM_THREADS, and blasenv's rule."""
    (directory / "blasenv.toml").write_text(config)
    seen = directory / "seen"
    seen.mkdir()
    environ = clean_environ(PYTHONPATH=str(PROGRAMS), SEEN_IN=str(seen), BLASENV_CONFIG=str(directory / "blasenv.toml"))
    with (directory / "log").open("w") as log:
        server = subprocess.Popen(group.enter(command), cwd=directory, env=environ, stdout=log, stderr=log)
    workers: list[Path] = []
    deadline = time.monotonic() + TIMEOUT
    try:
        while len(workers) < WORKERS and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            workers = [path for path in seen.iterdir() if path.name.isdigit()]
        found = [json.loads(path.read_text(encoding="utf-8")) for path in workers]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(TIMEOUT)
    assert len(found) == WORKERS, (directory / "log").read_text(encoding="utf-8")
    return {(worker["native"], worker["rule"]) for worker in found}


SETTINGS = {
    '"single"': ("1", "program"),
    '"off"': (None, "disabled"),
    "3": ("3", "program"),
    '"share:2"': ("1", "program"),
    '"auto"': ("1", "program"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_setting(setting: str, servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    script = servers.directory / "bin" / "gunicorn"
    found = serve([script, *GUNICORN[1:]], group, tmp_path, f"[programs]\ngunicorn = {setting}\n")
    assert found == {SETTINGS[setting]}


@pytest.mark.parametrize("server", [pytest.param(UVICORN, id="uvicorn"), pytest.param(CELERY, id="celery")])
def test_workers_have_the_setting(server: list[str], servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    script = servers.directory / "bin" / server[0]
    assert serve([script, *server[1:]], group, tmp_path, f"[programs]\n{server[0]} = 3\n") == {("3", "program")}


@pytest.mark.parametrize("server", [pytest.param(UVICORN, id="uvicorn"), pytest.param(CELERY, id="celery")])
def test_without_blasenv_workers_have_no_number(
    server: list[str], servers: Venv, group: Cgroup, tmp_path: Path
) -> None:
    script = servers.directory / "bin" / server[0]
    assert serve([script, *server[1:]], group, tmp_path, f'[programs]\n{server[0]} = "off"\n') == {(None, "disabled")}


@pytest.mark.parametrize("server", [pytest.param(GUNICORN, id="gunicorn"), pytest.param(UVICORN, id="uvicorn")])
def test_run_as_a_module(server: list[str], servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    found = serve([servers.python, "-m", *server], group, tmp_path, f"[programs]\n{server[0]} = 3\n")
    assert found == {("3", "program")}


@pytest.mark.parametrize("server", [pytest.param(server, id=server[0]) for server in (GUNICORN, UVICORN, CELERY)])
def test_settings_of_others_do_not_count(server: list[str], servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    script = servers.directory / "bin" / server[0]
    assert serve([script, *server[1:]], group, tmp_path, "[programs]\nother = 3\n") == {("1", "workers")}
