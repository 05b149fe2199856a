#!/usr/bin/env python3
"""The README's first picture, docs/speedup.svg, from what was measured.

    benchmarks/speedup_chart.py [FILE.svg]

docs/speedup.json (benchmarks/speedup.py): how many times as fast each program is with blasenv, under the limit of one
CPU. The same measurements always give the same bytes.
"""

from __future__ import annotations

import json
import sys
from math import log2
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from chart import BOLD, DOCS, TITLE, style, text
from speedup import mean

LIMIT = 1.0
WIDTH, TOP, ROW = 880, 128, 27
ONE, LAST = 340, 790  # where 1 × is, and where the longest bar ends; between, each doubling takes as much room


def render(measured: Any) -> str:
    """The whole picture."""
    rows = [row for row in measured["rows"] if row["limit"] == LIMIT]
    ratios = {(row["program"], row["neighbour"]): row["with"]["ratio"] for row in rows}
    names = sorted({name for name, _ in ratios}, key=lambda name: (-ratios[name, False], name))
    quiet, beside = (mean(rows, LIMIT, busy) for busy in (False, True))
    cpus = measured["cpus"]
    height = TOP + ROW * len(names) + 30
    doubling = (LAST - ONE) / log2(max(ratios.values()))
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    told = f"On the average {quiet:.1f} times as fast on a quiet machine, {beside:.1f} times beside a busy neighbour."
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title told">',
        '<title id="title">How many times as fast programs are with blasenv</title>',
        f'<desc id="told">{escape(told)}</desc>',
        style(),
        f'<rect width="{WIDTH}" height="{height}" rx="8" class="ground"/>',
        text((24, 34), "How many times as fast with blasenv", "strong", more=TITLE),
        text((24, 56), f"A container with 1 CPU of {cpus}, the mildest case there is: 1 thread in place of {cpus}."),
        text((24, 73), f"Real programs, real cores, each the median of {measured['pairs']} pairs."),
        f'<rect x="{ONE}" y="94" width="14" height="10" rx="2" class="good"/>',
        text((ONE + 20, 103), f"quiet machine, mean {quiet:.1f} ×", "good", more=BOLD),
        f'<rect x="{ONE + 236}" y="94" width="14" height="10" rx="2" class="dot"/>',
        text((ONE + 256, 103), f"beside a busy neighbour, mean {beside:.1f} ×", more=BOLD),
    ]
    end = TOP + ROW * len(names)
    for power in range(int(log2(max(ratios.values()))) + 1):
        x = round(ONE + power * doubling, 1)
        parts.append(f'<path d="M{x:g} {TOP - 6}V{end}" class="{"grid" if power else "curve"}"/>')
        parts.append(text((x, end + 18), f"{2**power} ×", anchor="middle"))
    for number, name in enumerate(names):
        y = TOP + ROW * number
        parts.append(text((ONE - 56, y + 13), name, "strong", "end"))
        for offset, thick, busy, kind in ((0, 11, False, "good"), (12, 7, True, "dot")):
            ends = sorted((0.0, log2(ratios[name, busy]) * doubling))
            x, width = round(ONE + ends[0], 1), round(ends[1] - ends[0], 1)
            parts.append(f'<rect x="{x:g}" y="{y + offset}" width="{width:g}" height="{thick}" rx="2" class="{kind}"/>')
        at = round(ONE + max(0.0, log2(max(ratios[name, False], ratios[name, True]))) * doubling + 8, 1)
        parts.append(text((at, y + 13), f"{ratios[name, False]:.1f}", "good", more=BOLD))
        parts.append(text((round(at + 38, 1), y + 13), f"{ratios[name, True]:.1f}"))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def main() -> None:
    """Draw what is in docs/."""
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "speedup.svg"
    picture.write_text(render(json.loads((DOCS / "speedup.json").read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
