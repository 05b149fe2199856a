"""Starting an emulated machine and reading what it sends, for docker-tests/machine and docker-tests/systemd."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any


def receive(command: Sequence[str], mark: str, silence: float) -> Iterator[dict[str, Any]]:
    """The results of one machine as they come, until it ends or falls silent; what else it said then to stderr.

    A result is a line of JSON behind ``mark``. On a busy host emulated CPUs sometimes wait for one another for ever, so
    that a machine is ended that has sent none for ``silence`` seconds.
    """
    said: list[str] = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as qemu:
        timer = threading.Timer(silence, qemu.kill)
        timer.start()
        try:
            assert qemu.stdout
            for raw in qemu.stdout:
                line = raw.decode(errors="replace").strip()
                _, found, text = line.partition(mark)
                if found:
                    timer.cancel()
                    timer = threading.Timer(silence, qemu.kill)
                    timer.start()
                    yield json.loads(text)
                else:
                    said.append(line)
        finally:
            timer.cancel()
            qemu.kill()
    print("the machine ended, or fell silent; it said", *said[-12:], sep="\n  ", file=sys.stderr)
