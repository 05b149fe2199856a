"""The servers of test_named_workers.py that take long to install; and each server's own parser beside ours.

Not run by default. By name, with a Redis for rq:

    apt-get install redis-server
    pytest tests/frameworks/slow_workers.py
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from conftest import TIMEOUT, Cgroup, Venv, clean_environ, make_venv, run
from measure import HERE, PROGRAMS, VERSION
from test_named_workers import ALONE, VISIBLE, check, shared

from blasenv._workers import count_workers


@pytest.fixture(scope="module")
def servers(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    venv = make_venv(tmp_path_factory.mktemp("servers") / "venv", VERSION)
    requirements = HERE / "requirements"
    venv.install(wheel, "-r", requirements / "servers.txt", "-r", requirements / "workers.txt")
    return venv


FASTAPI = f"{PROGRAMS}/web_fastapi.py --port=0"
HYPERCORN = "hypercorn --bind=unix:socket web:asgi"
GRANIAN = "granian --interface=asginl --port=18765 web:asgi"
SANIC = "sanic web_sanic:app --port=18766"

SAID = [
    (f"fastapi run {FASTAPI} --workers 2", {}, 2, shared("fastapi run --workers 2")),
    (f"fastapi run {FASTAPI} --workers=2", {}, 2, shared("fastapi run --workers 2")),
    (f"-m fastapi run {FASTAPI} --workers=2", {}, 2, shared("fastapi run --workers 2")),
    (f"fastapi run {FASTAPI}", {"WEB_CONCURRENCY": "2"}, 2, shared("WEB_CONCURRENCY=2")),
    (f"fastapi run {FASTAPI}", {"UVICORN_WORKERS": "2"}, 1, ALONE),
    (f"fastapi run {FASTAPI} --workers 2 --reload", {}, 1, ALONE),
    (f"fastapi dev {FASTAPI}", {"WEB_CONCURRENCY": "2"}, 1, ALONE),
    (f"{HYPERCORN} -w 2", {}, 2, shared("hypercorn -w 2")),
    (f"-m {HYPERCORN} --workers=2", {}, 2, shared("hypercorn --workers 2")),
    (HYPERCORN, {"WEB_CONCURRENCY": "2"}, 1, ALONE),
    (f"{HYPERCORN} -w 0", {}, 1, ALONE),
    (f"{GRANIAN} --workers 2", {}, 2, shared("granian --workers 2")),
    (f"-m {GRANIAN} --workers=2", {}, 2, shared("granian --workers 2")),
    (GRANIAN, {"GRANIAN_WORKERS": "2"}, 2, shared("GRANIAN_WORKERS=2")),
    (GRANIAN, {"WEB_CONCURRENCY": "2"}, 1, ALONE),
    (f"{SANIC} -w 2", {}, 2, shared("sanic -w 2")),
    (f"{SANIC} --work=2", {}, 2, shared("sanic --workers 2")),
    (f"-m {SANIC} --workers=2", {}, 2, shared("sanic --workers 2")),
    (f"{SANIC} --fast", {}, VISIBLE, shared("sanic --fast, one per CPU")),
    (f"{SANIC} --single-process", {}, 1, ALONE),
    (SANIC, {"WEB_CONCURRENCY": "2"}, 1, ALONE),
    ("daphne -u socket web:asgi", {"WEB_CONCURRENCY": "2"}, 1, ALONE),
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


def test_workers_that_a_file_of_hypercorn_names(servers: Venv, group: Cgroup, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("workers = 2\n")
    notes = check(servers, group, tmp_path, f"{HYPERCORN} -c settings.toml", 2, ALONE)
    assert notes == ['settings.toml may name the workers of hypercorn; [programs] can: hypercorn = "share:N"']


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis that keeps nothing."""
    if not shutil.which("redis-server"):
        pytest.skip("no redis-server")
    socket = tmp_path / "redis"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + TIMEOUT
        while not socket.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield f"unix://{socket}"
        server.terminate()


@pytest.mark.parametrize(
    ("words", "number", "want"),
    [
        ("worker-pool -n 2", 2, shared("rq worker-pool -n 2")),
        ("worker-pool -qn2", 2, shared("rq worker-pool -n 2")),
        ("worker-pool --num-workers=2", 2, shared("rq worker-pool --num-workers 2")),
        ("worker-pool", 1, ALONE),
        ("worker", 1, ALONE),
    ],
)
def test_workers_of_rq(
    words: str,
    number: int,
    want: tuple[str, str, str],
    redis: str,
    servers: Venv,
    group: Cgroup,
    tmp_path: Path,
) -> None:
    line = f"rq {words} --url={redis} --worker-class=rq_worker.Seen"
    assert check(servers, group, tmp_path, line, number, want, {"WEB_CONCURRENCY": "2"}) == []


CPUS = 1000  # that own_parsers.py tells dramatiq and Celery
VALUES = ["2", "02", "+2", " 2 ", "2_0", "٢", "0", "-1", "-2", "2.0", "two", "", '"2"', "1e1", "0x2", "--", "-"]
ARGPARSE_W = "-w {}|-w{}|-w={}|--workers {}|--workers={}|--worker {}|-w 3 -w {}|--workers=3 -w {}|-w 3 -- {}"
FORMS = {
    "gunicorn": f"{ARGPARSE_W}|-Dw{{}}|-DRw {{}}|--work {{}}",
    "uvicorn": "--workers {}|--workers={}|--worker {}|-w {}|--workers 3 --workers {}|--workers 3 -- {}",
    "hypercorn": f"{ARGPARSE_W}|-Dw{{}}",
    "granian": "--workers {}|--workers={}|--worker {}|-w {}",
    "sanic": f"{ARGPARSE_W}|-dw{{}}|-1vw {{}}|--w={{}}",
    "dramatiq": "-p {}|-p{}|-vvp{}|--processes {}|--processes={}|--pr {}|--p {}|-p 3 --proc={}",
    "rq": "-n {}|-n{}|-bqn{}|-n={}|--num-workers {}|--num-workers={}|--num {}",
    "celery": "-c {}|-c{}|-EBc{}|-c={}|--concurrency {}|--concurrency={}|--conc {}|-c 3 -c {}",
    "pytest": "-n {}|-n{}|-qxn{}|-n={}|--numprocesses {}|--numprocesses={}|--numproc {}|-n 3 -n {}",
}
BEFORE = {"rq": ["worker-pool"], "celery": ["-A", "tasks", "worker"]}
AFTER = {"gunicorn": ["web:wsgi"], "uvicorn": ["web:asgi"], "hypercorn": ["web:asgi"], "granian": ["web:asgi"]}
AFTER |= {"sanic": ["web_sanic"], "dramatiq": ["actors"]}


@pytest.mark.parametrize("server", FORMS)
def test_each_servers_own_parser_agrees(
    server: str, servers: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every way of saying it, with good values and bad ones: what the server itself makes of it."""
    monkeypatch.chdir(tmp_path)
    lines = [
        [*BEFORE.get(server, []), *[word.format(value) for word in form.split(" ")], *AFTER.get(server, [])]
        for form in FORMS[server].split("|")
        for value in VALUES
    ]
    (tmp_path / "lines.json").write_text(json.dumps(lines))
    environ = clean_environ(PYTHONPATH=str(PROGRAMS), SEEN_IN=str(tmp_path), BLASENV_DISABLE="1")
    result = run([servers.python, PROGRAMS / "own_parsers.py", server, tmp_path / "lines.json"], environ, cwd=tmp_path)
    theirs: list[int | None] = json.loads(result.stdout.splitlines()[-1])
    assert len(theirs) == len(lines)
    assert any(count == 2 for count in theirs)
    for line, count in zip(lines, theirs):
        ours = count_workers(["python", server, *line], {}, CPUS)[0]
        if count is not None:  # else the server refuses it, and does not start
            assert ours == max(1, count), line
