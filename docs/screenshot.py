#!/usr/bin/env python3
"""A terminal's picture, as SVG, of what a command prints on a terminal of 80 columns.

    docs/screenshot.py FILE.svg TITLE COMMAND [ARGUMENT ...]

Needs rich (pip install rich).
"""

from __future__ import annotations

import io
import os
import pty
import sys
from pathlib import Path
from xml.sax.saxutils import escape

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

# Rich's own template fetches a font; a picture in a README must fetch nothing.
TEMPLATE = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" width="{width}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>TITLE</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def capture(command: list[str]) -> str:
    """What the command writes to its terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS="80", LINES="40")
        os.execvp(command[0], command)  # noqa: S606
    written = b""
    try:
        while chunk := os.read(terminal, 65536):
            written += chunk
    except OSError:  # EIO: the command has ended
        pass
    os.waitpid(pid, 0)
    return written.decode().replace("\r\n", "\n")


def main() -> None:
    """Write the file."""
    file, title, *command = sys.argv[1:]
    console = Console(width=80, record=True, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text("$ " + title, style="bold"))
    console.print(Text.from_ansi(capture(command).rstrip()))
    template = TEMPLATE.replace("TITLE", escape(title))
    picture = console.export_svg(title="", theme=DIMMED_MONOKAI, code_format=template, unique_id="terminal")
    Path(file).write_text("\n".join(line.rstrip() for line in picture.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
