"""How many workers a server's command line and variables say, by each server's own rules.

Real servers with real workers, and their own parsers: frameworks/test_named_workers.py.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

import blasenv
from blasenv import MAX_THREADS
from blasenv._host import split_command_line
from blasenv._workers import PIECES, count_workers, split

CPUS = 48  # that os.cpu_count() says
AFFINITY = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def _nothing_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def count(line: str, **environ: str) -> tuple[int, str]:
    """The workers of a command line, and who says so, without a note."""
    workers, source, note = count_workers(line.split(" "), environ, CPUS)
    assert note == ""
    assert source == "" if workers == 1 else source.startswith("workers (")
    return workers, source.removeprefix("workers (").removesuffix(")")


def note_of(line: str, **environ: str) -> str:
    """The note to a command line whose workers nobody knows."""
    workers, source, note = count_workers(line.split(" "), environ, CPUS)
    assert (workers, source) == (1, "")
    return note


ONE = (1, "")
CASES: list[tuple[str, Mapping[str, str], tuple[int, str]]] = [
    # gunicorn: argparse, then GUNICORN_CMD_ARGS, then WEB_CONCURRENCY
    ("python /bin/gunicorn app:app", {}, ONE),
    ("python /bin/gunicorn -w 4 app:app", {}, (4, "gunicorn -w 4")),
    ("python /bin/gunicorn -w4 app:app", {}, (4, "gunicorn -w 4")),
    ("python /bin/gunicorn -w=4 app:app", {}, (4, "gunicorn -w 4")),
    ("python /bin/gunicorn -Dw4 app:app", {}, (4, "gunicorn -w 4")),
    ("python /bin/gunicorn -DRw 4 app:app", {}, (4, "gunicorn -w 4")),
    ("python /bin/gunicorn app:app --workers 4", {}, (4, "gunicorn --workers 4")),
    ("python /bin/gunicorn app:app --workers=4", {}, (4, "gunicorn --workers 4")),
    ("python /bin/gunicorn -w 4 --workers=2 app:app", {}, (2, "gunicorn --workers 2")),
    ("python /bin/gunicorn --worker 4 app:app", {}, ONE),  # ambiguous, so refused
    ("python /bin/gunicorn --worker-connections 4 app:app", {}, ONE),
    ("python /bin/gunicorn -b w4 app:app", {}, ONE),
    ("python /bin/gunicorn -bw4 app:app", {}, ONE),
    ("python /bin/gunicorn --name -w app:app", {}, ONE),
    ("python /bin/gunicorn app:app -- -w 4", {}, ONE),
    ("python -m gunicorn -w 4 app:app", {}, (4, "gunicorn -w 4")),
    ("python -Im gunicorn -w 4 app:app", {}, (4, "gunicorn -w 4")),
    ("python -mgunicorn -w 4 app:app", {}, (4, "gunicorn -w 4")),
    ("python -X dev -W error -m gunicorn -w 4 app:app", {}, (4, "gunicorn -w 4")),
    ("python -m gunicorn.app.wsgiapp -w 4 app:app", {}, (4, "gunicorn -w 4")),
    ("python gunicorn3 -w 4 app:app", {}, (4, "gunicorn -w 4")),
    ("python gunicorn app:app", {"WEB_CONCURRENCY": "4"}, (4, "WEB_CONCURRENCY=4")),
    ("python gunicorn -w 2 app:app", {"WEB_CONCURRENCY": "4"}, (2, "gunicorn -w 2")),
    ("python gunicorn -w 1 app:app", {"WEB_CONCURRENCY": "4"}, ONE),
    ("python gunicorn a", {"GUNICORN_CMD_ARGS": "--workers=4"}, (4, "GUNICORN_CMD_ARGS --workers 4")),
    ("python gunicorn a", {"GUNICORN_CMD_ARGS": "-b :80 -w 4"}, (4, "GUNICORN_CMD_ARGS -w 4")),
    ("python gunicorn a", {"GUNICORN_CMD_ARGS": "--log-format '%(h)s -w 9' -w '4'"}, (4, "GUNICORN_CMD_ARGS -w 4")),
    ("python gunicorn a", {"GUNICORN_CMD_ARGS": "-w 4 --name 'x"}, ONE),  # refused: no closing quotation
    ("python gunicorn -w 2 a", {"GUNICORN_CMD_ARGS": "-w 4"}, (2, "gunicorn -w 2")),
    ("python gunicorn a", {"GUNICORN_CMD_ARGS": "-w 4", "WEB_CONCURRENCY": "2"}, (4, "GUNICORN_CMD_ARGS -w 4")),
    ("python gunicorn -c gunicorn.py -w 3 a", {}, (3, "gunicorn -w 3")),
    ("python gunicorn -c gunicorn.py a", {"GUNICORN_CMD_ARGS": "-w 4"}, (4, "GUNICORN_CMD_ARGS -w 4")),
    # uvicorn: click, UVICORN_ variables, WEB_CONCURRENCY; --reload wins
    ("python /bin/uvicorn app:app", {}, ONE),
    ("python /bin/uvicorn app:app --workers 4", {}, (4, "uvicorn --workers 4")),
    ("python /bin/uvicorn app:app --workers=4", {}, (4, "uvicorn --workers 4")),
    ("python /bin/uvicorn --workers 4 --workers 2 app:app", {}, (2, "uvicorn --workers 2")),
    ("python /bin/uvicorn --worker 4 app:app", {}, ONE),  # click has no abbreviations
    ("python /bin/uvicorn -w 4 app:app", {}, ONE),
    ("python /bin/uvicorn app:app -- --workers 4", {}, ONE),
    ("python -m uvicorn app:app --workers 4", {}, (4, "uvicorn --workers 4")),
    ("python /bin/uvicorn app:app --workers 4 --reload", {}, ONE),
    ("python /bin/uvicorn app:app --workers 4 --reload-delay 1", {}, (4, "uvicorn --workers 4")),
    ("python /bin/uvicorn app:app --workers 4", {"UVICORN_RELOAD": "true"}, ONE),
    ("python /bin/uvicorn app:app --workers 4", {"UVICORN_RELOAD": "0"}, (4, "uvicorn --workers 4")),
    ("python /bin/uvicorn app:app", {"UVICORN_WORKERS": "3"}, (3, "UVICORN_WORKERS=3")),
    ("python /bin/uvicorn app:app", {"UVICORN_WORKERS": "3", "WEB_CONCURRENCY": "4"}, (3, "UVICORN_WORKERS=3")),
    ("python /bin/uvicorn app:app", {"UVICORN_WORKERS": "", "WEB_CONCURRENCY": "4"}, (4, "WEB_CONCURRENCY=4")),
    ("python /bin/uvicorn app:app", {"WEB_CONCURRENCY": "4"}, (4, "WEB_CONCURRENCY=4")),
    ("python /bin/uvicorn app:app --workers 1", {"WEB_CONCURRENCY": "4"}, ONE),
    ("python /bin/uvicorn app:app --env-file .env", {"WEB_CONCURRENCY": "4"}, (4, "WEB_CONCURRENCY=4")),
    ("python /bin/uvicorn app:app", {"GUNICORN_CMD_ARGS": "-w 4"}, ONE),
    # fastapi: run and dev, which reloads
    ("python /bin/fastapi run --workers 4 main.py", {}, (4, "fastapi run --workers 4")),
    ("python /bin/fastapi --verbose run main.py --workers=4", {}, (4, "fastapi run --workers 4")),
    ("python -m fastapi run --workers 4", {}, (4, "fastapi run --workers 4")),
    ("python /bin/fastapi run", {"WEB_CONCURRENCY": "4"}, (4, "WEB_CONCURRENCY=4")),
    ("python /bin/fastapi run", {"UVICORN_WORKERS": "4"}, ONE),  # which only uvicorn's own command reads
    ("python /bin/fastapi run --reload --workers 4", {}, ONE),
    ("python /bin/fastapi run --reload --no-reload --workers 4", {}, (4, "fastapi run --workers 4")),
    ("python /bin/fastapi dev", {"WEB_CONCURRENCY": "4"}, ONE),
    ("python /bin/fastapi dev --no-reload", {"WEB_CONCURRENCY": "4"}, (4, "WEB_CONCURRENCY=4")),
    ("python /bin/fastapi deploy --workers 4", {"WEB_CONCURRENCY": "4"}, ONE),
    ("python /bin/fastapi", {"WEB_CONCURRENCY": "4"}, ONE),
    # hypercorn: argparse
    ("python hypercorn app", {"WEB_CONCURRENCY": "4"}, ONE),
    ("python hypercorn -w 4 app", {}, (4, "hypercorn -w 4")),
    ("python hypercorn -Dw4 app", {}, (4, "hypercorn -w 4")),
    ("python hypercorn --workers=4 app", {}, (4, "hypercorn --workers 4")),
    ("python hypercorn -c x.toml --workers 4 app", {}, (4, "hypercorn --workers 4")),
    ("python hypercorn --worker-class trio app", {}, ONE),
    # granian: click
    ("python granian app:app", {"WEB_CONCURRENCY": "4"}, ONE),
    ("python granian --workers 4 app:app", {}, (4, "granian --workers 4")),
    ("python granian app:app", {"GRANIAN_WORKERS": "4"}, (4, "GRANIAN_WORKERS=4")),
    ("python granian --workers 2 app:app", {"GRANIAN_WORKERS": "4"}, (2, "granian --workers 2")),
    ("python granian --workers-lifetime 60 app:app", {}, ONE),
    # sanic: argparse
    ("python sanic app", {"WEB_CONCURRENCY": "4"}, ONE),
    ("python sanic app -w 4", {}, (4, "sanic -w 4")),
    ("python sanic app -dw4", {}, (4, "sanic -w 4")),
    ("python sanic app --workers=4", {}, (4, "sanic --workers 4")),
    ("python sanic app --work 4", {}, (4, "sanic --workers 4")),
    ("python sanic app --single-process", {}, ONE),
    ("python sanic app --factory", {}, ONE),
    # daphne and others have one process
    ("python daphne app:app -w 4 --workers 4", {"WEB_CONCURRENCY": "4"}, ONE),
    ("python flask run --workers 4", {"WEB_CONCURRENCY": "4"}, ONE),
    # dramatiq: argparse
    ("python dramatiq app", {}, (CPUS, "dramatiq, one per CPU")),
    ("python -m dramatiq app", {}, (CPUS, "dramatiq, one per CPU")),
    ("python dramatiq-gevent app", {}, (CPUS, "dramatiq, one per CPU")),
    ("python dramatiq -p 4 app", {}, (4, "dramatiq -p 4")),
    ("python dramatiq app -vvp4", {}, (4, "dramatiq -p 4")),
    ("python dramatiq app --processes=4", {}, (4, "dramatiq --processes 4")),
    ("python dramatiq app --proc 4", {}, (4, "dramatiq --processes 4")),
    ("python dramatiq app -p 1 --path x", {}, ONE),
    ("python dramatiq app -P 4 --threads 4", {}, (CPUS, "dramatiq, one per CPU")),
    # rq: click; only worker-pool has several
    ("python rq worker-pool", {}, ONE),
    ("python rq worker-pool high -n 4", {}, (4, "rq worker-pool -n 4")),
    ("python rq worker-pool -bqn4", {}, (4, "rq worker-pool -n 4")),
    ("python rq worker-pool --num-workers 4", {}, (4, "rq worker-pool --num-workers 4")),
    ("python -m rq.cli worker-pool --num-workers=4", {}, (4, "rq worker-pool --num-workers 4")),
    ("python rq worker -n 4", {}, ONE),
    ("python rq info -n 4", {}, ONE),
    # celery: click; worker, prefork
    ("python /bin/celery -A app worker", {}, (CPUS, "celery, one per CPU")),
    ("python -m celery --app=app worker", {}, (CPUS, "celery, one per CPU")),
    ("python celery -A app worker -c 4", {}, (4, "celery -c 4")),
    ("python celery -Aapp -q worker -EBc4", {}, (4, "celery -c 4")),
    ("python celery -qA app worker --concurrency 4", {}, (4, "celery --concurrency 4")),
    ("python celery --app app worker --concurrency=4 -l INFO", {}, (4, "celery --concurrency 4")),
    ("python celery --workdir worker -A app worker -c 4", {}, (4, "celery -c 4")),
    ("python celery -A app worker -c 0", {}, (CPUS, "celery, one per CPU")),
    ("python celery -A app worker -c 4 -P prefork", {}, (4, "celery -c 4")),
    ("python celery -A app worker -c 4 -P processes", {}, (4, "celery -c 4")),
    ("python celery -A app worker -c 4 -P solo", {}, ONE),
    ("python celery -A app worker -c 4 --pool=threads", {}, ONE),
    ("python celery -A app worker -c 4 --pool gevent", {}, ONE),
    ("python celery -A app worker -c 4 -P eventlet", {}, ONE),
    ("python celery -A app worker --autoscale=10,3", {}, (10, "celery --autoscale, up to 10")),
    ("python celery -A app worker --autoscale 3,10 -c 4", {}, (10, "celery --autoscale, up to 10")),
    ("python celery -A app beat -c 4", {}, ONE),
    ("python celery -A app multi start worker -c 4", {}, ONE),
    ("python celery -A worker inspect active", {}, ONE),
    ("python celery", {}, ONE),
    ("python celery -A app worker -c 4", {"WEB_CONCURRENCY": "2", "CELERY_CONFIG_MODULE": "x"}, (4, "celery -c 4")),
    # pytest with xdist: addopts, PYTEST_ADDOPTS, command line
    ("python /bin/pytest", {}, ONE),
    ("python /bin/pytest -n 4", {}, (4, "pytest -n 4")),
    ("python /bin/pytest -n4 tests", {}, (4, "pytest -n 4")),
    ("python /bin/pytest -qxn4 tests", {}, ONE),  # refused before xdist is loaded
    ("python /bin/pytest -n=4 tests", {}, (4, "pytest -n 4")),
    ("python -m pytest --numprocesses=4", {}, (4, "pytest --numprocesses 4")),
    ("python -m pytest --numprocesses 4", {}, (4, "pytest --numprocesses 4")),
    ("python -m pytest --numproc 4", {}, ONE),  # pytest allows no abbreviations
    ("python -m pytest -n 0", {}, ONE),
    ("python -m pytest -n 4 -n 0", {}, ONE),
    ("python -m pytest -n 4 --maxprocesses=2", {}, (2, "pytest -n 4, --maxprocesses 2")),
    ("python -m pytest -n 4 --maxprocesses=8", {}, (4, "pytest -n 4")),
    ("python -m pytest -n auto", {}, (AFFINITY, "pytest -n auto, one per CPU")),
    ("python -m pytest -nlogical", {}, (AFFINITY, "pytest -n logical, one per CPU")),
    ("python -m pytest -n auto --pdb", {}, ONE),
    ("python -m pytest -n auto", {"PYTEST_XDIST_AUTO_NUM_WORKERS": "3"}, (3, "PYTEST_XDIST_AUTO_NUM_WORKERS=3")),
    ("python -m pytest -n auto", {"PYTEST_XDIST_AUTO_NUM_WORKERS": "x"}, (AFFINITY, "pytest -n auto, one per CPU")),
    ("python -m pytest -n 4", {"PYTEST_XDIST_AUTO_NUM_WORKERS": "3"}, (4, "pytest -n 4")),
    ("python -m pytest", {"PYTEST_XDIST_AUTO_NUM_WORKERS": "3"}, ONE),
    ("python -m pytest", {"PYTEST_ADDOPTS": "-n 4 -k 'not slow'"}, (4, "PYTEST_ADDOPTS -n 4")),
    ("python -m pytest", {"PYTEST_ADDOPTS": "-k 'a or b' -n auto"}, (AFFINITY, "PYTEST_ADDOPTS -n auto, one per CPU")),
    ("python -m pytest -n 2", {"PYTEST_ADDOPTS": "-n 4"}, (2, "pytest -n 2")),
    ("python -m pytest -n0", {"PYTEST_ADDOPTS": "-n 4"}, ONE),
    ("python py.test -n 4", {}, (4, "pytest -n 4")),
    # uWSGI: getopt_long. Its own name comes first.
    ("uwsgi --http :80 --wsgi-file app.py", {}, ONE),
    ("uwsgi --http :80 -p 4", {}, (4, "uwsgi -p 4")),
    ("/usr/bin/uwsgi-core -Mp4", {}, (4, "uwsgi -p 4")),
    ("uwsgi_python3 --processes 4", {}, (4, "uwsgi --processes 4")),
    ("python /venv/bin/uwsgi --workers=4 --processes 2", {}, (2, "uwsgi --processes 2")),
    ("uwsgi -p 2 --workers 4", {}, (4, "uwsgi --processes 4")),
    ("uwsgi", {"UWSGI_PROCESSES": "4"}, (4, "UWSGI_PROCESSES=4")),
    ("uwsgi", {"UWSGI_WORKERS": "4"}, (4, "UWSGI_WORKERS=4")),
    ("uwsgi -p 2", {"UWSGI_PROCESSES": "4"}, (2, "uwsgi -p 2")),
    # anything else
    ("python train.py -w 4 --workers 4 -n 4 -c 4 -p 4", {"WEB_CONCURRENCY": "4", "GUNICORN_CMD_ARGS": "-w 4"}, ONE),
    ("python -m train -w 4", {"WEB_CONCURRENCY": "4"}, ONE),
    ("python -c gunicorn -w 4", {"WEB_CONCURRENCY": "4"}, ONE),
    ("python - gunicorn -w 4", {"WEB_CONCURRENCY": "4"}, ONE),
    ("python", {"WEB_CONCURRENCY": "4"}, ONE),
    ("", {"WEB_CONCURRENCY": "4"}, ONE),
    ("gunicorn -w 4", {"WEB_CONCURRENCY": "4"}, ONE),  # the interpreter has that name
]  # fmt: skip


@pytest.mark.parametrize(("line", "environ", "want"), CASES)
def test_what_a_server_says(line: str, environ: Mapping[str, str], want: tuple[int, str]) -> None:
    assert count(line, **environ) == (want if want[0] > 1 else ONE)


WAYS = {
    "gunicorn -w {}": "",
    "gunicorn --workers={}": "",
    "uvicorn --workers {}": "",
    "fastapi run --workers {}": "",
    "hypercorn -w{}": "",
    "granian --workers={}": "",
    "sanic app -w {}": "",
    "dramatiq app -p {}": "",
    "rq worker-pool -n {}": "",
    "celery -A app worker --autoscale={}": "",
    "celery -A app worker -c {}": "",
    "pytest -n {}": "",
    "uwsgi -p {}": "",
    "gunicorn a": "WEB_CONCURRENCY",
    "uvicorn a": "WEB_CONCURRENCY",
    "uvicorn b": "UVICORN_WORKERS",
    "granian a": "GRANIAN_WORKERS",
    "uwsgi": "UWSGI_PROCESSES",
}
BAD = ["-1", "-4", "1000000000", "9" * 5000, "4.0", "four", '"4"', "'4'", "", "4;", "0x4", "--", "\udcff", "٤ ٤"]


@pytest.mark.parametrize("bad", [pytest.param(bad, id=repr(bad[:12])) for bad in BAD])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_count_divides_nothing(way: str, bad: str) -> None:
    words = [word.format(bad) for word in f"python {way}".split(" ")]
    if "{}" in words[-1] and bad == "":
        words.pop()
    environ = {WAYS[way]: bad} if WAYS[way] else {}
    workers, source, note = count_workers(words, environ, 1)  # of one CPU, so that no default is more
    assert (workers, source, note) == (1, "", "")


@pytest.mark.parametrize("same", ["4", "+4", " 4 ", "04", "٤", "0_4"])
@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith(("gunicorn", "uvicorn", "celery", "pytest"))])
def test_what_int_takes_is_a_count(way: str, same: str) -> None:
    words = [word.format(same) for word in f"python {way}".split(" ")]
    assert count_workers(words, {WAYS[way]: same} if WAYS[way] else {}, 1)[0] == 4


def test_the_most_that_is_a_count() -> None:
    assert count(f"python gunicorn -w {MAX_THREADS} a")[0] == MAX_THREADS
    assert count(f"python gunicorn -w {MAX_THREADS + 1} a") == ONE


@pytest.mark.parametrize(
    ("line", "environ", "file"),
    [
        ("python gunicorn -c conf.py app:app", {}, "conf.py"),
        ("python gunicorn --config=python:conf app:app", {"WEB_CONCURRENCY": "4"}, "python:conf"),
        ("python gunicorn --conf conf.py app:app", {}, "conf.py"),
        ("python gunicorn app:app", {"GUNICORN_CMD_ARGS": "-cconf.py"}, "conf.py"),
        ("python uvicorn app:app --env-file .env", {}, ".env"),
        ("python uvicorn app:app", {"UVICORN_ENV_FILE": ".env"}, ".env"),
        ("python hypercorn -c file:conf.py app", {}, "file:conf.py"),
        ("python celery -A app --config=conf worker", {}, "conf"),
        ("python celery -A app worker", {"CELERY_CONFIG_MODULE": "conf"}, "conf"),
        ("python celery -A app worker worker.concurrency=4", {}, "worker.concurrency=4"),
        ("uwsgi --ini app.ini -p 4", {}, "--ini"),
        ("uwsgi -p 4 app.ini", {}, "app.ini"),
        ("uwsgi --emperor=/etc/uwsgi", {}, "--emperor=/etc/uwsgi"),
        ("uwsgi -p 4", {"UWSGI_INI": "/app.ini"}, "UWSGI_INI"),
        ("/usr/sbin/apache2 -k start", {}, "Apache's configuration"),
        ("httpd -DFOREGROUND", {}, "Apache's configuration"),
    ],
)
def test_a_file_that_may_say_it(line: str, environ: Mapping[str, str], file: str) -> None:
    name = split_command_line(line.split())[0]
    assert note_of(line, **environ) == (
        f'{file} may name the workers of {name}; [programs] can: {name} = "share:N"'
        if name not in ("apache2", "httpd")
        else 'Apache\'s configuration may name the workers of apache2; [programs] can: apache2 = "share:N"'
    )


@pytest.mark.parametrize(
    ("file", "line", "instead"),
    [
        ("gunicorn.conf.py", "python gunicorn app:app", "-w 4"),
        ("celeryconfig.py", "python celery -A app worker", "-c 4"),
        ("pytest.ini", "python -m pytest", "-n 4"),
        (".pytest.ini", "python -m pytest", "-n 4"),
        ("pyproject.toml", "python -m pytest", "-n 4"),
        ("tox.ini", "python -m pytest", "-n 4"),
        ("setup.cfg", "python -m pytest", "-n 4"),
    ],
)
def test_a_file_in_the_working_directory(file: str, line: str, instead: str, tmp_path: Path) -> None:
    (tmp_path / file).touch()
    assert file in note_of(line)
    assert count(f"{line} {instead}")[0] == 4


def test_a_pool_that_celery_does_not_know() -> None:
    assert note_of("python celery -A app worker -P custom -c 4") == "nobody knows the processes of celery --pool custom"


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in another working directory, on one CPU."""
    directory = tmp_path / "other"
    directory.mkdir()
    (directory / "gunicorn.conf.py").touch()
    process = subprocess.Popen(["sleep", "60"], cwd=directory)
    os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
    yield process
    process.kill()
    process.wait()


def test_of_another_process(other: subprocess.Popen[bytes]) -> None:
    process = str(other.pid)
    assert "gunicorn.conf.py" in count_workers(["python", "gunicorn", "app"], {}, CPUS, process)[2]
    assert count_workers(["python", "-m", "pytest", "-n", "auto"], {}, CPUS, process) == (1, "", "")
    assert count_workers(["python", "sanic", "app", "--fast"], {}, CPUS, process) == (1, "", "")


def test_of_a_process_that_has_ended() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    words = ["python", "sanic", "app", "--fast"]
    assert count_workers(words, {}, 4, str(process.pid)) == (4, "workers (sanic --fast, one per CPU)", "")


def test_start_up_asks_about_these() -> None:
    """By the names that are in memory; uWSGI has more of them, and a worker of loky may belong to any."""
    more = {name for name in blasenv.SERVERS.split() if "loky" in name} | {"uwsgi-core", "uwsgi_python3"}
    assert set(PIECES) == set(blasenv.SERVERS.split()) - more


def test_one_process_of_each_server_without_any_word() -> None:
    """What is not told and has no default of one per CPU is one process."""
    for name in set(PIECES) - {"dramatiq", "dramatiq-gevent"}:
        assert count_workers(["python", name], {}, CPUS)[:2] == (1, ""), name


SOME = (
    "python -m -c -w -n -p -- - --workers --workers= --processes 4 -A worker worker-pool run dev --reload --fast auto"
    " -P --autoscale --concurrency= --numprocesses --config --ini -W -X --maxprocesses 1,2 ' \" \\ -Dw ="
)


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (["/usr/bin/uwsgi", "--http", ":80", "-p", "4"], ("workers", 2, "workers (uwsgi -p 4)")),
        (["uwsgi-core", "--processes=2"], ("workers", 4, "workers (uwsgi --processes 2)")),
        (["uwsgi", "--ini", "x.ini"], ("quota", 8, "")),
        (["/usr/sbin/apache2", "-k", "start"], ("quota", 8, "")),
        (["python3"], ("quota", 8, "")),
    ],
)
@pytest.mark.parametrize("setting", ["", "uwsgi = 3", "apache2 = 3"])
def test_where_python_is_inside_a_server(
    words: list[str], want: tuple[str, int, str], setting: str, tmp_path: Path
) -> None:
    """sys.argv says nothing there, and [programs] has the server's name."""
    (tmp_path / "blasenv.toml").write_text(f"[programs]\n{setting}\n")
    config = blasenv.read_config(environ={"BLASENV_CONFIG": str(tmp_path / "blasenv.toml")}, argv=[""], words=words)
    limit = blasenv.Limit(controller="cpu", version=2, path="x", quota=8, period=1, note="")
    decision = blasenv.decide(config, [limit], 48, {})
    if setting and setting.partition(" ")[0] in words[0]:
        want = ("program", 3, "")
    assert (decision.rule, decision.threads, decision.shared_by) == want


WORDS = st.one_of(st.sampled_from([*sorted(PIECES), *SOME.split(), ""]), st.text(max_size=6))
VARIABLES = (
    "WEB_CONCURRENCY GUNICORN_CMD_ARGS PYTEST_ADDOPTS PYTEST_XDIST_AUTO_NUM_WORKERS UVICORN_WORKERS UVICORN_RELOAD"
    " GRANIAN_WORKERS UWSGI_WORKERS UWSGI_INI CELERY_CONFIG_MODULE"
)


@settings(max_examples=500, deadline=None)
@given(
    words=st.lists(WORDS, max_size=8),
    environ=st.dictionaries(st.sampled_from(VARIABLES.split()), st.lists(WORDS, max_size=4).map(" ".join)),
    cpus=st.integers(1, 10_000),
)
def test_nothing_raises(words: list[str], environ: dict[str, str], cpus: int) -> None:
    workers, source, note = count_workers(words, environ, cpus)
    assert 1 <= workers <= MAX_THREADS
    assert bool(source) == (workers > 1)
    assert not (source and note)


@settings(max_examples=500, deadline=None)
@given(text=st.lists(st.one_of(st.sampled_from(["'", '"', "\\", " ", "\n", "\t", "#", "-w"]), st.text(max_size=3))))
def test_split_is_as_shlex(text: list[str]) -> None:
    joined = "".join(text)
    try:
        want = shlex.split(joined)
    except ValueError:
        assert split(joined) is None
    else:
        assert split(joined) == want
