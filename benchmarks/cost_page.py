#!/usr/bin/env python3
"""The tables of docs/cost.md, made of docs/cost.json, where the other scripts here put what they measure.

benchmarks/cost_page.py
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pages import fill, table

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, RESULT = DOCS / "cost.md", DOCS / "cost.json"


def machine() -> dict[str, Any]:
    """Where and when something was measured."""
    today = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
    return {"date": today, "cpus": len(os.sched_getaffinity(0)), "kernel": platform.release().partition("-")[0]}


def write(section: str, measured: dict[str, Any]) -> None:
    """Put what was measured into docs/cost.json, in the place of what was there, and make the page anew."""
    document = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    document[section] = {**machine(), **measured}
    RESULT.write_text(_lines(document) + "\n", encoding="utf-8")
    PAGE.write_text(render(PAGE.read_text("utf-8"), document), encoding="utf-8")


def _lines(value: object, depth: int = 0) -> str:
    """JSON with a line for each row: lists, and objects of plain values, stay on one."""
    plain = json.dumps(value)
    if not isinstance(value, dict) or (len(plain) + depth < 100 and depth):
        return plain
    inner = ",\n".join(f"{' ' * (depth + 1)}{json.dumps(key)}: {_lines(one, depth + 1)}" for key, one in value.items())
    return f"{{\n{inner}\n{' ' * depth}}}"


def millions(instructions: int) -> str:
    """As the page has them."""
    return f"{instructions / 1e6:.{2 if abs(instructions) < 1e7 else 1}f} M"


def instructions(measured: dict[str, Any]) -> str:
    """Situations down, CPythons across."""
    from instructions import BARE, EMPTY_LINE, SITUATIONS

    pythons = measured["pythons"]
    rows = [(BARE.label, *[millions(counted["bare"][0]) for counted in pythons.values()])]
    for name, situation in {"line": EMPTY_LINE, **SITUATIONS}.items():
        more = [(counted[name][0] - counted[name][1], counted["bare"][0]) for counted in pythons.values()]
        rows.append((situation.label, *[f"+{millions(one)} ({100 * one / bare:.1f} %)" for one, bare in more]))
    first, *others = pythons
    return table(("", f"CPython {first}", *others), rows)


def time(measured: dict[str, Any]) -> str:
    """What each .pth file costs beside a start without."""
    rows = [
        (name, f"{row['median']:+.2f}", f"{row['quartiles'][0]:+.2f} to {row['quartiles'][1]:+.2f}")
        for name, row in measured["more_ms"].items()
    ]
    head = f"CPython {measured['python']}, {measured['pairs']} pairs"
    return table((head, f"ms more than {measured['bare_ms']}, median", "quartiles"), rows)


def mounts(measured: dict[str, Any]) -> str:
    """Finding the limit among many mounts and nested groups."""
    rows = [(f"{row['mounts']:,}", str(row["groups"]), f"{row['ms']:.2f}") for row in measured["rows"]]
    return table(("mounts", "nested groups", "ms"), rows)


def _used(row: dict[str, Any]) -> tuple[str, str]:
    # Not the seconds by the clock: a machine that others use meanwhile would show in them.
    return f"{row['cpu_seconds']:.1f} s", f"{row['mb']:,} MB"


def crowd(measured: dict[str, Any]) -> str:
    """Commands that look at all processes."""
    rows = [
        (f"`{row['command']}`", f"{row['processes']:,} × {row['threads']}", *_used(row)) for row in measured["rows"]
    ]
    return table(("", "processes × threads", "CPU time", "memory"), rows)


def image(measured: dict[str, Any]) -> str:
    """A scan of many files."""
    rows = [(f"`{row['command']}`", f"{row['files']:,}", *_used(row)) for row in measured["rows"]]
    return table(("", "files", "CPU time", "memory"), rows)


def starts(measured: dict[str, Any]) -> str:
    """CPU time of starts, and what it comes to where there are many."""
    cpus = 10_000 * measured["more_ms"] / 60_000
    rows = [
        ("a start without blasenv", f"{measured['cpu_ms']['without']:.1f} ms of CPU time"),
        ("with it", f"+{measured['more_ms']:.2f} ms (± {measured['error_ms']:.2f})"),
        ("10,000 starts a minute without", f"{10_000 * measured['cpu_ms']['without'] / 60_000:.1f} CPUs"),
        ("with it", f"+{cpus:.2f} CPUs"),
        ("really started on one CPU", f"{measured['starts_a_minute']:,} a minute, half of them with it"),
    ]
    return table((f"CPython {measured['python']}, {measured['pairs']} pairs", ""), rows)


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "instructions": instructions,
    "time": time,
    "mounts": mounts,
    "crowd": crowd,
    "image": image,
    "starts": starts,
}


def render(page: str, document: dict[str, Any]) -> str:
    """The page with the tables between their marks made anew."""
    for name, make in SECTIONS.items():
        if name in document:
            page = fill(page, name, make(document[name]))
    return page


def main() -> int:
    """Make the page anew."""
    PAGE.write_text(render(PAGE.read_text("utf-8"), json.loads(RESULT.read_text("utf-8"))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
