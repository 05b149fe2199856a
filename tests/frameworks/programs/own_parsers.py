"""What a server's own parser makes of command lines: own_parsers.py SERVER LINES.json. null where it refuses one.

Where the default is a worker for each CPU, there are 1000 of them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

CPUS = 1000


class Started(Exception):
    """The server has read its options; the number of workers is the argument."""


def started(*words: Any, **options: Any) -> None:
    for name in ("workers", "num_workers"):
        if name in options:
            raise Started(options[name])
    raise Started(words[0].workers)


def gunicorn() -> None:
    from gunicorn.app.wsgiapp import WSGIApplication

    raise Started(WSGIApplication().cfg.workers)


def uvicorn() -> None:
    module: Any = importlib.import_module("uvicorn.main")  # uvicorn.main alone is the function in it
    module.run = started
    module.main(standalone_mode=False)


def hypercorn() -> None:
    import hypercorn.__main__

    hypercorn.__main__.run = started
    hypercorn.__main__.main()


def granian() -> None:
    import granian.cli

    granian.cli.Server = started
    granian.cli.cli(standalone_mode=False)


def sanic() -> None:
    from sanic.cli.app import SanicCLI

    cli = SanicCLI()
    cli.attach()
    raise Started(cli.parser.parse_args().workers)


def dramatiq() -> None:
    import dramatiq.cli

    dramatiq.cli.CPUS = CPUS
    raise Started(dramatiq.cli.make_argument_parser().parse_args().processes)


def rq() -> None:
    import rq.cli
    import rq.cli.workers

    rq.cli.workers.WorkerPool = started
    rq.cli.main(standalone_mode=False)


def celery() -> None:
    import celery.app.base
    from celery.bin.celery import celery as command

    def worker(_: object, concurrency: int | None = None, **options: object) -> None:
        raise Started(concurrency or CPUS)

    celery.app.base.Celery.Worker = property(lambda self: lambda **options: worker(self, **options))
    command(standalone_mode=False)


def pytest() -> None:
    import _pytest.config

    config = _pytest.config._prepareconfig(sys.argv[1:])
    raise Started(config.option.numprocesses or 0)


def ask(server: str, line: list[str]) -> int | None:
    sys.argv = [server, *line]
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            globals()[server]()
    except Started as result:
        count = result.args[0]
        return count if isinstance(count, int) else None  # argparse before 3.12 makes [] of "--"
    except (Exception, SystemExit):  # noqa: BLE001 - each has its own
        return None
    return None


if __name__ == "__main__":
    lines = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    chosen = sys.argv[1]
    print(json.dumps([ask(chosen, line) for line in lines]))
    sys.stdout.flush()
    os._exit(0)
