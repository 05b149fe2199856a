"""Servers that start workers of their own, with a setting for them in ``[programs]``.

What their owner says there beats what they say themselves: test_named_workers.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Cgroup, Venv, make_venv
from measure import HERE, VERSION, serve

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


def seen_in(command: Sequence[str | Path], group: Cgroup, directory: Path, config: str) -> set[tuple[str | None, str]]:
    """The native OMP_NUM_THREADS and blasenv's rule in the workers of a server."""
    return {(worker["native"], worker["rule"]) for worker in serve(command, group, directory, config, WORKERS)}


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
    found = seen_in([script, *GUNICORN[1:]], group, tmp_path, f"[programs]\ngunicorn = {setting}\n")
    assert found == {SETTINGS[setting]}


@pytest.mark.parametrize("server", [pytest.param(UVICORN, id="uvicorn"), pytest.param(CELERY, id="celery")])
def test_workers_have_the_setting(server: list[str], servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    script = servers.directory / "bin" / server[0]
    assert seen_in([script, *server[1:]], group, tmp_path, f"[programs]\n{server[0]} = 3\n") == {("3", "program")}


@pytest.mark.parametrize("server", [pytest.param(UVICORN, id="uvicorn"), pytest.param(CELERY, id="celery")])
def test_without_blasenv_workers_have_no_number(
    server: list[str], servers: Venv, group: Cgroup, tmp_path: Path
) -> None:
    script = servers.directory / "bin" / server[0]
    assert seen_in([script, *server[1:]], group, tmp_path, f'[programs]\n{server[0]} = "off"\n') == {(None, "disabled")}


@pytest.mark.parametrize("server", [pytest.param(GUNICORN, id="gunicorn"), pytest.param(UVICORN, id="uvicorn")])
def test_run_as_a_module(server: list[str], servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    found = seen_in([servers.python, "-m", *server], group, tmp_path, f"[programs]\n{server[0]} = 3\n")
    assert found == {("3", "program")}


@pytest.mark.parametrize("server", [pytest.param(server, id=server[0]) for server in (GUNICORN, UVICORN, CELERY)])
def test_settings_of_others_do_not_count(server: list[str], servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    script = servers.directory / "bin" / server[0]
    assert seen_in([script, *server[1:]], group, tmp_path, "[programs]\nother = 3\n") == {("1", "workers")}
