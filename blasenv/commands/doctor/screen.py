"""A terminal's other screen, drawn anew in place, and given back whatever ends it: Ctrl-C, SIGTERM, an error."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

# xterm's control sequences (https://invisible-island.net/xterm/ctlseqs/ctlseqs.html): the alternate screen, with
# the cursor hidden, long lines cut; home; clear to the end of the line; clear to the end of the screen.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[J", "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"


class Screen:
    """While it is open, the screen is ours."""

    def __init__(self) -> None:
        self._lines: Sequence[str] = ()
        self._before: dict[signal.Signals, Any] = {}

    @staticmethod
    def possible() -> bool:
        """Whether stdout is a terminal that understands this."""
        return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def open(self) -> None:
        """Take the screen; every signal that ends us gives it back."""
        for number, handler in (
            (signal.SIGTERM, self._terminate),
            (signal.SIGHUP, self._terminate),
            (signal.SIGTSTP, self._stop),
        ):
            self._before[number] = signal.signal(number, handler)
        _write(_ENTER)

    def close(self) -> None:
        """Give it back."""
        _write(_LEAVE)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def show(self, lines: Sequence[str]) -> None:
        """Draw these lines, as many as there is room for."""
        self._lines = lines
        room = shutil.get_terminal_size((80, 24)).lines
        if len(lines) > room:
            lines = [*lines[: room - 1], f"… {len(lines) - room + 1} more lines; all: blasenv doctor --node"]
        _write(_HOME + "\n".join(line + _REST_OF_LINE for line in lines) + _REST)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """Give the screen back, and die of the signal all the same."""
        del frame
        _write(_LEAVE)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its screen, and we ours when it goes on."""
        del frame
        _write(_LEAVE)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._stop)
        _write(_ENTER)
        self.show(self._lines)


def _write(text: str) -> None:
    """Past Python's buffer, which a signal may find half-written."""
    with contextlib.suppress(OSError):  # the terminal is gone; a signal says so
        os.write(sys.stdout.fileno(), text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
