#!/usr/bin/env python3
"""A terminal's picture, as SVG, of what a command prints on a terminal of 80 columns.

    docs/screenshot.py FILE.svg TITLE COMMAND [ARGUMENT ...]

Needs rich (pip install rich).
"""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from html import unescape
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


def place_words(picture: str) -> str:
    """The picture with each word or phrase at a place of its own, where rich leaves it to blanks.

    Viewers without the font stretch or drop blanks, at the start of a text above all: then a bold
    name runs into what follows it.
    """

    def split(match: re.Match[str]) -> str:
        before, left, middle, length, after, content = match.groups()
        text = unescape(content).rstrip("\n")
        if not text.strip():
            return ""
        cell = float(length) / len(text)
        texts = []
        for phrase in re.finditer(r"[^\xa0](?:\xa0?[^\xa0])*", text):
            x, width = float(left) + phrase.start() * cell, len(phrase[0]) * cell
            words = escape(phrase[0]).replace("\xa0", "&#160;")
            texts.append(f'<text{before} x="{x:g}"{middle} textLength="{width:g}"{after}>{words}</text>')
        return "\n".join(texts) + "\n"

    return re.sub(r'<text([^>]*) x="([^"]*)"([^>]*) textLength="([^"]*)"([^>]*)>([^<]*)</text>', split, picture)


def main() -> None:
    """Write the file."""
    file, title, *command = sys.argv[1:]
    console = Console(width=80, record=True, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text("$ " + title, style="bold"))
    console.print(Text.from_ansi(capture(command).rstrip()))
    template = TEMPLATE.replace("TITLE", escape(title))
    picture = console.export_svg(title="", theme=DIMMED_MONOKAI, code_format=template, unique_id="terminal")
    lines = (line.rstrip() for line in place_words(picture).splitlines())
    Path(file).write_text("\n".join(line for line in lines if line) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
