"""How the commands speak: tables, paragraphs, colour, JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def coloured() -> bool:
    """Whether stdout is a terminal whose user wants colour (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout is not None and sys.stdout.isatty()


def paint(style: str, text: str) -> str:
    """``text`` in one of bold, dim, red, green, yellow, or as it is where there is no colour."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if text and coloured() else text


def columns() -> int:
    """The width to write for: the terminal's, at most 100 and at least 40, or 80 without one."""
    return max(40, min(100, shutil.get_terminal_size((80, 24)).columns))


def _width(cell: str) -> int:
    return len(_ESCAPE.sub("", cell))


def _wrap(text: str, width: int) -> list[str]:
    # A path longer than the line stays in one piece: a terminal wraps it, and it can be copied.
    return textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False) or [""]


def paragraph(text: str, indent: str = "") -> str:
    """``text`` wrapped to the width, each line with ``indent``."""
    return "\n".join(indent + line for line in _wrap(text, columns() - len(indent)))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "") -> str:
    """Aligned columns, two blanks apart; the last one wraps so that all fit the width.

    None is an empty cell; no line ends in blanks. Without ``headers`` there is no head line. A word
    too long for the last column (a path, a hash) stays in one piece; on a line of its own, it starts further left.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    head = [[paint("bold", header) for header in headers]] if headers else []
    lines = head + cells
    if not lines:
        return ""
    widths = [max(_width(row[column]) for row in lines) for column in range(len(lines[0]) - 1)]
    left = columns() - len(indent) - sum(widths) - 2 * len(widths)
    out = []
    for row in lines:
        # A painted cell is a short word; only plain text needs wrapping.
        last = _wrap(row[-1], left) if "\x1b" not in row[-1] else [row[-1]]
        for number, text in enumerate(last):
            if number and len(text) > left:
                out.append(" " * max(len(indent), columns() - len(text)) + text)
                continue
            parts = [("" if number else cell) for cell in row[:-1]]
            padded = [cell + " " * (width - _width(cell)) for cell, width in zip(parts, widths)]
            out.append((indent + "  ".join([*padded, text])).rstrip())
    return "\n".join(out)


def number(value: float) -> str:
    """A number for people: 4, 1.5, 0.333."""
    text = f"{value:.3f}".rstrip("0").rstrip(".")
    return text if text != "0" else f"{value:g}"


def count(value: float, noun: str) -> str:
    """``1 thread``, ``1.5 CPUs``; by the number as it is printed, so never "1 CPUs"."""
    printed = number(value)
    return f"{printed} {noun}" if printed == "1" else f"{printed} {noun}s"


def printable(text: str) -> str:
    """``text`` without anything that could steer a terminal or fail to encode.

    Names of cgroups and values of variables are any bytes; control characters and bytes that
    are not UTF-8 (surrogates, after os.fsdecode) come out as escapes.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii") for char in text
    )


def toml(value: object) -> str:
    """A setting's value as it stands in the file; "-" for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return str(value) if isinstance(value, (int, float)) else printable(f'"{value}"')


def print_json(obj: object) -> None:
    """One JSON document on stdout, in ASCII, so that it survives any locale.

    Written as it is made: of a machine with 100,000 threads it has 60 MB, and its pieces would take ten times that.
    """
    if sys.stdout is not None:  # closed
        json.dump(obj, sys.stdout, indent=2)
        print()
