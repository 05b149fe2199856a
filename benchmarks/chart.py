#!/usr/bin/env python3
"""The README's chart, docs/throttling.svg, from what was measured.

    benchmarks/chart.py [FILE.svg]

Left, docs/48-cpus.json (docker-tests/machine --write): how many CPUs stand still in a program with so many
threads. Right, docs/throttling.json (benchmarks/throttling.py): what that costs, on real cores. The same
measurements always give the same bytes.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docker-tests"))

from machine_report import add_up, group, standing  # noqa: E402

DOCS = ROOT / "docs"
WIDTH, HEIGHT = 880, 392
TOP, BOTTOM = 100, 320  # of both plots
LEFT, RIGHT = (66, 490), (548, 856)  # from where to where

# Light, dark. The ground is drawn, too, so that the text is readable wherever the picture is shown.
COLOURS = {
    "ground": ("fill", "#ffffff", "#0d1117"),
    "strong": ("fill", "#1f2328", "#f0f6fc"),
    "text": ("fill", "#59636e", "#9198a1"),
    "grid": ("stroke", "#d1d9e0", "#30363d"),
    "curve": ("stroke", "#8b949e", "#7d8590"),
    "dot": ("fill", "#8b949e", "#7d8590"),
    "bad": ("fill", "#cf222e", "#ff7b72"),
    "good": ("fill", "#1a7f37", "#3fb950"),
}


def style() -> str:
    """The style sheet: one class for each colour, in both schemes."""
    light = " ".join(f".{name}{{{what}:{colour}}}" for name, (what, colour, _) in COLOURS.items())
    dark = " ".join(f".{name}{{{what}:{colour}}}" for name, (what, _, colour) in COLOURS.items())
    fonts = "font-family:-apple-system,'Segoe UI','Noto Sans',Helvetica,Arial,'DejaVu Sans',sans-serif"
    return f"<style>text{{{fonts};font-size:13px}} {light} @media (prefers-color-scheme:dark){{{dark}}}</style>"


def text(at: tuple[float, float], words: str, kind: str = "text", anchor: str = "start", more: str = "") -> str:
    """Some words; ``anchor`` is start, middle or end."""
    return f'<text x="{at[0]:g}" y="{at[1]:g}" class="{kind}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


BOLD = ' font-weight="600"'
TITLE = ' font-weight="600" style="font-size:15px"'


def sweep(machine: Sequence[Any]) -> dict[int, float]:
    """The CPUs whose threads stood still, on average, for each thread count, all rounds together."""
    found = group(machine, "sweep")
    return {int(threads): standing(add_up(found[threads])) for threads in sorted(found, key=int)}


def draw_standing(machine: Sequence[Any]) -> list[str]:
    """Left: what stands still against thread count, and who lands where."""
    points = sweep(machine)
    first, last = LEFT
    most = 2 * math.ceil(max(points.values()) / 2)  # CPUs, at the top
    step = (last - first - 40) / (len(points) - 1)
    x = {threads: round(first + 20 + number * step, 1) for number, threads in enumerate(points)}
    y = {threads: round(BOTTOM - cpus / most * (BOTTOM - TOP), 1) for threads, cpus in points.items()}
    parts = [
        text((24, 34), "CPUs that stand still", "strong", more=TITLE),
        text((24, 56), "48 CPUs visible, 4 allotted (emulated): threads of a 100 × 100"),
        text((24, 73), "matmul + solve that could run, but wait for the next period"),
    ]
    for cpus in range(0, most + 1, 2):
        level = BOTTOM - cpus / most * (BOTTOM - TOP)
        parts.append(f'<path d="M{first} {level:g}H{last}" class="grid"/>')
        parts.append(text((first - 8, level + 4.5), f"{cpus}", anchor="end"))
    curve = " ".join(f"{x[threads]:g},{y[threads]:g}" for threads in points)
    parts.append(f'<polyline points="{curve}" class="curve" fill="none" stroke-width="2"/>')
    for threads in points:
        kind, size = {4: ("good", 7), 48: ("bad", 7)}.get(threads, ("dot", 3.5))
        parts.append(f'<circle cx="{x[threads]:g}" cy="{y[threads]:g}" r="{size}" class="{kind}"/>')
        parts.append(text((x[threads], BOTTOM + 20), str(threads), kind if size == 7 else "text", "middle"))
    parts += [
        text(((first + last) / 2, BOTTOM + 42), "threads", anchor="middle"),
        text((x[48] + 6, y[48] - 14), f"default: 48 threads, {points[48]:.1f}", "bad", "end", BOLD),
        text((x[4] + 24, y[4] - 33), f"blasenv: 4 threads, {points[4]:.1f}", "good", "end", BOLD),
        text((x[4] + 24, y[4] - 16), "as when set by hand", "good", "end"),
    ]
    return parts


def draw_times(real: Any) -> list[str]:
    """Right: the time for the same work, relative to the best under the same limit."""
    first, last = RIGHT
    parts = [
        text((first, 34), "What that costs", "strong", more=TITLE),
        text((first, 56), f"{real['cpus']} real cores: time for the same work,"),
        text((first, 73), "relative to the best"),
    ]
    limits = sorted({row["limit"] for row in real["rows"]})
    best = {limit: min(row["seconds"] for row in real["rows"] if row["limit"] == limit) for limit in limits}
    unit = (last - first - 50) / max(row["seconds"] / best[row["limit"]] for row in real["rows"])
    y = TOP + 8
    for limit in limits:
        parts.append(text((first, y), f"limit {limit:g} CPU{'s' * (limit != 1)}", "strong", more=BOLD))
        y += 10
        for row in real["rows"]:
            if row["limit"] == limit:
                threads, ratio = row["threads"], row["seconds"] / best[limit]
                # floor(limit) is what blasenv sets; every CPU is OpenBLAS's default.
                who, kind = ("blasenv", "good") if threads == max(1, int(limit)) else ("default", "bad")
                share = row["throttled"] / row["periods"]
                words = f"{who}: {threads} thread{'s' * (threads != 1)}, {share:.0%} of periods throttled"
                length = round(ratio * unit, 1)
                parts += [
                    f'<rect x="{first}" y="{y}" width="{length:g}" height="16" rx="2" class="{kind}"/>',
                    text((first + length + 8, y + 13), f"{ratio:.1f} ×", "strong", more=BOLD),
                    text((first, y + 31), words),
                ]
                y += 44
        y += 20
    return parts


def render(machine: Sequence[Any], real: Any) -> str:
    """The whole picture."""
    points = sweep(machine)
    told = (
        f"CPUs that stand still with 4 of 48 CPUs allotted: {points[48]:.1f} with the default of 48 threads, "
        f"{points[4]:.1f} with the 4 threads that blasenv or a person sets."
    )
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title told">',
        '<title id="title">CPUs that stand still, against thread count</title>',
        f'<desc id="told">{escape(told)}</desc>',
        style(),
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" class="ground"/>',
        *draw_standing(machine),
        *draw_times(real),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Draw what is in docs/."""
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "throttling.svg"
    machine = json.loads((DOCS / "48-cpus.json").read_text(encoding="utf-8"))
    real = json.loads((DOCS / "throttling.json").read_text(encoding="utf-8"))
    picture.write_text(render(machine, real), encoding="utf-8")


if __name__ == "__main__":
    main()
