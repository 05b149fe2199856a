"""Start-up where a server runs: how many workers it says it will start.

Imported by `blasenv` only where the program is one of `blasenv.SERVERS`. As strict as ``__init__``:
nothing imported that a bare interpreter has not loaded.

One small piece for each server, after the source of the version that stands beside it. They
parse with argparse or click, and both read numbers with int(). What their parsers refuse may
count as anything, because then the server does not start. A word that begins with - is taken
for an option, as argparse does; click would take it for the value of an option before it.
"""

import os

from . import MAX_THREADS, find_quota
from ._host import split_command_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    # The number of workers, who says so (a command line or a variable), and a note where nobody can know.
    Answer = tuple[int, str, str]
    Piece = Callable[["Asked"], Answer]


def count_workers(
    words: "Sequence[str]", environ: "Mapping[str, str]", cpus: int, process: str = "self"
) -> "tuple[int, str, str]":
    """How many workers the server with the command line ``words`` starts, who says so, and a note.

    ``words`` is the whole command line of its interpreter, ``cpus`` what os.cpu_count() says in
    it; ``process`` is its PID, for its working directory, affinity and limit. The answer is such
    as (4, "workers (gunicorn --workers 4)", ""); 1 and "" where it is no server, or has one
    worker; and with a note where a file that is not read here may name the workers.
    """
    name, arguments = split_command_line(words)
    piece = PIECES.get(name)
    workers, source, note = piece(Asked(arguments, environ, cpus, process)) if piece else NONE
    # More than MAX_THREADS do not start, whatever was asked for.
    return (workers, f"workers ({source})", note) if 1 < workers <= MAX_THREADS else (1, "", note)


class Asked:
    """A server's arguments, its environment, what os.cpu_count() says in it, and its process."""

    def __init__(self, words: "Sequence[str]", environ: "Mapping[str, str]", cpus: int, process: str) -> None:
        self.words, self.environ, self.cpus, self.process = words, environ, cpus, process


def split(text: str) -> "list[str] | None":
    """The words of a variable that a server takes apart with shlex.split(), None where that raises."""
    words: list[str] = []
    word, quote, escaped = None, "", False
    for sign in text:
        if escaped:
            word = (word or "") + (sign if not quote or sign in '"\\' else "\\" + sign)
            escaped = False
        elif sign == "\\" and quote != "'":
            escaped = True
        elif quote:
            word, quote = ((word or ""), "") if sign == quote else ((word or "") + sign, quote)
        elif sign in "'\"":
            word, quote = word or "", sign
        elif sign not in " \t\r\n":
            word = (word or "") + sign
        elif word is not None:
            words.append(word)
            word = None
    if word is not None:
        words.append(word)
    return None if quote or escaped else words


def _last(words: "Sequence[str]", long: str, short: str = "", flags: str = "", least: str = "") -> "tuple[str, str]":
    """How an option was spelled the last time, "" if it was not, and the value that it had then.

    ``short`` is its letter, which may come in one word behind those of ``flags``, options
    without a value. ``least`` is how much of ``long`` argparse wants to see; click wants it all.
    """
    found = "", ""
    for place, word in enumerate(words, 1):
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name.startswith(least or long) and long.startswith(name):
            spelled = long
        elif short and word[:1] == "-" and word[1:].lstrip(flags).startswith(short):
            spelled, value = "-" + short, word[1:].lstrip(flags)[1:]
            equals, value = value, value.removeprefix("=")
        else:
            continue
        if not equals:
            value = words[place] if place < len(words) else ""
        found = spelled, value
    return found


def _switched(words: "Sequence[str]", on: str, off: str = "--", least: str = "", default: bool = False) -> bool:
    """Whether an option without a value is on, by the last word that says so."""
    for word in words:
        if word == "--":
            break
        if word == off:
            default = False
        elif word.startswith(least or on) and on.startswith(word):
            default = True
    return default


def _number(text: str) -> "int | None":
    try:
        return int(text)
    except ValueError:
        return None


def _named(server: str, option: "tuple[str, str]") -> "Answer":
    """What an option on a command line says, one worker where there is none."""
    workers = _number(option[1]) or 1
    return workers, f"{server} {option[0]} {workers}", ""


def _variable(environ: "Mapping[str, str]", name: str) -> "Answer":
    """What a variable says, one worker where it is not set."""
    workers = _number(environ.get(name, "")) or 1
    return workers, f"{name}={workers}", ""


def _affinity(asked: "Asked") -> int:
    """The CPUs that the process may run on, which some servers count in place of os.cpu_count()."""
    try:
        return len(os.sched_getaffinity(0 if asked.process == "self" else int(asked.process)))
    except (OSError, ValueError):
        return asked.cpus


def _in_a_file(server: str, file: str) -> "Answer":
    return 1, "", f'{file} may name the workers of {server}; [programs] can: {server} = "share:N"'


def _present(names: "Sequence[str]", asked: "Asked") -> str:
    """The first of these files in the working directory, "" without one."""
    for name in names:
        if os.path.exists(f"/proc/{asked.process}/cwd/{name}"):
            return name
    return ""


def _gunicorn(asked: "Asked") -> "Answer":
    # gunicorn 27.0.1, app/base.py, load_config; config.py, Workers, WorkerClass, get_default_config_file
    # https://github.com/benoitc/gunicorn/blob/master/gunicorn/app/base.py
    # https://docs.gunicorn.org/en/stable/configure.html: the command line beats GUNICORN_CMD_ARGS, that the file,
    # and that WEB_CONCURRENCY. --work alone is --worker-class, too, so argparse takes no less than --workers.
    given = split(asked.environ.get("GUNICORN_CMD_ARGS", "")) or []
    for source, arguments in (("gunicorn", asked.words), ("GUNICORN_CMD_ARGS", given)):
        option = _last(arguments, "--workers", "w", "DR")
        if option[0]:
            return _named(source, option)
    file = _last(asked.words, "--config", "c", "DR", "--co")[1] or _last(given, "--config", "c", "DR", "--co")[1]
    file = file or _present(("gunicorn.conf.py",), asked)
    return _in_a_file("gunicorn", file) if file else _variable(asked.environ, "WEB_CONCURRENCY")


def _uvicorn(asked: "Asked") -> "Answer":
    # uvicorn 0.54.0, main.py (click, auto_envvar_prefix="UVICORN"); config.py, Config.__init__
    # https://github.com/encode/uvicorn/blob/master/uvicorn/main.py, https://www.uvicorn.org/settings/
    # click's booleans: https://click.palletsprojects.com/en/stable/api/#click.BOOL
    reload = asked.environ.get("UVICORN_RELOAD", "").strip().lower() in ("1", "true", "t", "yes", "y", "on")
    if _switched(asked.words, "--reload", default=reload):
        return NONE  # one process; "workers" is ignored, with a warning
    option = _last(asked.words, "--workers")
    if option[0]:
        return _named("uvicorn", option)
    if asked.environ.get("UVICORN_WORKERS"):
        return _variable(asked.environ, "UVICORN_WORKERS")
    file = _last(asked.words, "--env-file")[1] or asked.environ.get("UVICORN_ENV_FILE", "")
    if file and "WEB_CONCURRENCY" not in asked.environ:  # which it would not replace
        return _in_a_file("uvicorn", file)
    return _variable(asked.environ, "WEB_CONCURRENCY")


def _fastapi(asked: "Asked") -> "Answer":
    # fastapi-cli 0.0.34, cli.py, run and dev: typer, which is click; both call uvicorn.run(workers=…, reload=…)
    # https://github.com/fastapi/fastapi-cli/blob/main/src/fastapi_cli/cli.py
    command, words = _command(asked.words)
    if command not in ("run", "dev") or _switched(words, "--reload", "--no-reload", default=command == "dev"):
        return NONE
    option = _last(words, "--workers")
    return _named(f"fastapi {command}", option) if option[0] else _variable(asked.environ, "WEB_CONCURRENCY")


def _hypercorn(asked: "Asked") -> "Answer":
    # hypercorn 0.18.0, __main__.py: argparse; the command line beats the file of -c; config.py: else 1
    # https://github.com/pgjones/hypercorn/blob/main/src/hypercorn/__main__.py
    option, file = _last(asked.words, "--workers", "w", "D"), _last(asked.words, "--config", "c", "D", "--co")[1]
    return _named("hypercorn", option) if option[0] or not file else _in_a_file("hypercorn", file)


def _granian(asked: "Asked") -> "Answer":
    # granian 2.8.7, cli.py: click, auto_envvar_prefix="GRANIAN"
    # https://github.com/emmett-framework/granian/blob/master/granian/cli.py
    option = _last(asked.words, "--workers")
    return _named("granian", option) if option[0] else _variable(asked.environ, "GRANIAN_WORKERS")


def _sanic(asked: "Asked") -> "Answer":
    # sanic 25.12.1, cli/arguments.py, WorkerGroup: argparse; --fast excludes --workers; mixins/startup.py: affinity
    # https://github.com/sanic-org/sanic/blob/main/sanic/cli/arguments.py
    if _switched(asked.words, "--fast", least="--fas"):
        return _affinity(asked), "sanic --fast, one per CPU", ""
    return _named("sanic", _last(asked.words, "--workers", "w", "13Ddrsv", "--w"))


def _dramatiq(asked: "Asked") -> "Answer":
    # dramatiq 2.2.1, cli.py, make_argument_parser: argparse; CPUS = multiprocessing.cpu_count()
    # https://github.com/Bogdanp/dramatiq/blob/master/dramatiq/cli.py
    option = _last(asked.words, "--processes", "p", "v", "--pr")
    return _named("dramatiq", option) if option[0] else (asked.cpus, "dramatiq, one per CPU", "")


def _rq(asked: "Asked") -> "Answer":
    # rq 3.0.0, cli/workers.py, worker_pool: click; no variable, and nothing in the file of --config
    # https://github.com/rq/rq/blob/master/rq/cli/workers.py, https://python-rq.org/docs/workers/#worker-pool
    command, words = _command(asked.words)
    return _named("rq worker-pool", _last(words, "--num-workers", "n", "bqv")) if command == "worker-pool" else NONE


def _celery(asked: "Asked") -> "Answer":
    # celery 5.7.0, bin/celery.py and bin/worker.py: click; worker/worker.py, on_before_init: else billiard.cpu_count()
    # https://github.com/celery/celery/blob/main/celery/bin/worker.py
    # https://docs.celeryq.dev/en/stable/userguide/workers.html#concurrency
    settings = (
        _last(asked.words, "--config")[1]
        or asked.environ.get("CONFIG_MODULE")
        or asked.environ.get("CELERY_CONFIG_MODULE")
    )
    command, words = _command(asked.words, ("-A", "-b", *[f"--{name}" for name in CELERY_OPTIONS]), "Cq")
    pool = _last(words, "--pool", "P", "BDE")[1] or "prefork"
    if command != "worker" or pool in ("solo", "threads", "gevent", "eventlet"):
        return NONE
    if pool not in ("prefork", "processes"):
        return 1, "", f"nobody knows the processes of celery --pool {pool}"
    # --autoscale MAX,MIN: that many when there is work, whatever --concurrency says.
    scale = _last(words, "--autoscale")
    if scale[0]:
        most = max([_number(part) or 0 for part in scale[1].split(",")])
        return most, f"celery --autoscale, up to {most}", ""
    option = _last(words, "--concurrency", "c", "BDE")
    if option[1].strip().lower() == "auto":
        # utils/sysinfo.py, cpu_budget: the quota rounded up, within the affinity
        quotas = [
            -(-limit.quota // limit.period) for limit in find_quota("/", asked.process) if limit.quota and limit.period
        ]
        return min([_affinity(asked), *quotas]), f"celery {option[0]} auto", ""
    if option[1] and _number(option[1]) != 0:
        return _named("celery", option)
    file = settings or _present(("celeryconfig.py",), asked)
    given = [word for word in words if "=" in word and word.partition("=")[0].lower().endswith("concurrency")]
    if file or [word for word in given if not word.startswith("-")]:
        return _in_a_file("celery", file or given[0])
    return asked.cpus, "celery, one per CPU", ""


CELERY_OPTIONS = ("app", "broker", "result-backend", "loader", "config", "workdir")  # with a value, before "worker"


def _command(words: "Sequence[str]", valued: "Sequence[str]" = (), flags: str = "") -> "tuple[str, Sequence[str]]":
    """The subcommand of a click group, and what follows it; ``valued`` are the group's options with a value."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        word = words[at]
        at += 2 if word in valued or ("-" + word[1:].lstrip(flags)) in valued else 1
    return (words[at], words[at + 1 :]) if at < len(words) else ("", ())


def _pytest(asked: "Asked") -> "Answer":
    # pytest-xdist 3.8.0, plugin.py, pytest_cmdline_main and pytest_xdist_auto_num_workers
    # https://github.com/pytest-dev/pytest-xdist/blob/master/src/xdist/plugin.py
    # pytest 9.2.0, config/__init__.py: PYTEST_ADDOPTS stands before the command line, and addopts of the file before
    # both; argparse, allow_abbrev=False, at first without xdist, so that -qn2 is refused. https://docs.pytest.org/en/stable/reference/customize.html
    # With psutil, "auto" counts cores; under a limit that leaves each worker as much.
    every = [*(split(asked.environ.get("PYTEST_ADDOPTS", "")) or ()), *asked.words]
    option = _last(every, "--numprocesses", "n")
    if not option[0]:
        file = _present(PYTEST_FILES, asked)
        return _in_a_file("pytest", f"addopts in {file}") if file else NONE
    source = "pytest" if _last(asked.words, "--numprocesses", "n")[0] else "PYTEST_ADDOPTS"
    workers, source, _ = _named(source, option)
    if option[1] in ("auto", "logical"):
        if "--pdb" in every:
            return NONE
        workers, source = _affinity(asked), f"{source[:-1]}{option[1]}, one per CPU"
        if _number(asked.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", "")) is not None:
            workers, source, _ = _variable(asked.environ, "PYTEST_XDIST_AUTO_NUM_WORKERS")
    most = _number(_last(every, "--maxprocesses")[1]) or workers
    return (most, f"{source}, --maxprocesses {most}", "") if most < workers else (workers, source, "")


PYTEST_FILES = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")


def _uwsgi(asked: "Asked") -> "Answer":
    # uWSGI 2.0.21, core/uwsgi.c: getopt_long; UWSGI_ variables first, then the command line, then what files say
    # https://uwsgi-docs.readthedocs.io/en/latest/Options.html#processes and Configuration.html
    # The order of files and options decides, so that with a file nobody knows.
    files = ["--config", "--emperor", "--include", "--ini", "--json", "--set", "--xml", "--yaml", "--yml"]
    for word in [*asked.words, *[name for name in asked.environ if name.startswith("UWSGI_")]]:
        option = f"--{word[6:].lower()}" if word.startswith("UWSGI_") else word.partition("=")[0]
        if option in (*files, "-j", "-x", "-y") or word.endswith((".ini", ".xml", ".yaml", ".yml", ".json")):
            return _in_a_file("uwsgi", word)
    alike = ["--processes" + word[9:] if word.partition("=")[0] == "--workers" else word for word in asked.words]
    named = _last(alike, "--processes", "p", "CLMTim", "--proce")
    if named[0]:
        return _named("uwsgi", named)
    return _variable(asked.environ, "UWSGI_WORKERS" if "UWSGI_WORKERS" in asked.environ else "UWSGI_PROCESSES")


def _mod_wsgi(_: "Asked") -> "Answer":
    # mod_wsgi 4.9.4: Apache's configuration has all, WSGIDaemonProcess NAME processes=N, or the MPM's children
    # https://modwsgi.readthedocs.io/en/master/configuration-directives/WSGIDaemonProcess.html
    return _in_a_file("apache2", "Apache's configuration")


NONE = (1, "", "")

# By script or -m module: those of `blasenv.SERVERS`. daphne, waitress and "flask run" have one process.
PIECES: "Mapping[str, Piece]" = {
    "gunicorn": _gunicorn,
    "gunicorn3": _gunicorn,  # in Debian and Ubuntu, once
    "gunicorn.app.wsgiapp": _gunicorn,
    "uvicorn": _uvicorn,
    "fastapi": _fastapi,
    "hypercorn": _hypercorn,
    "granian": _granian,
    "sanic": _sanic,
    "dramatiq": _dramatiq,
    "dramatiq-gevent": _dramatiq,
    "rq": _rq,
    "rq.cli": _rq,
    "celery": _celery,
    "pytest": _pytest,
    "py.test": _pytest,
    "pytest-3": _pytest,  # in Debian and Ubuntu
    "py.test-3": _pytest,
    "uwsgi": _uwsgi,
    "apache2": _mod_wsgi,
    "httpd": _mod_wsgi,
}
