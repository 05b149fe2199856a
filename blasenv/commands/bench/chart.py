"""Measurements as text with bars, in words, and as an SVG. Pure."""

from __future__ import annotations

import html
import statistics
from collections.abc import Sequence

from blasenv.output.text import columns, paint, paragraph, table

from .measure import DEFAULT, Series
from .workloads import Workload

FEW = "fewer than 3 rounds, too few to compare; give it more --seconds."
BAR, SHORT_BAR = 24, 8  # characters of the longest bar, with room and without
NOISY = 1.5  # above this ratio of two that should be alike, no ratio is a result
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def duration(seconds: float) -> str:
    """Three digits and a unit: 12.3 ms."""
    scale, unit = next(((scale, unit) for scale, unit in _UNITS if seconds >= scale), _UNITS[-1])
    value = seconds / scale
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def _label(threads: int) -> str:
    return "default" if threads == DEFAULT else str(threads)


def best_of(group: Sequence[Series]) -> Series:
    """The one with the least median."""
    return min(group, key=lambda series: series.median)


def chosen_of(group: Sequence[Series], choice: int) -> Series:
    """blasenv's choice; where it changes nothing, the default."""
    return next((series for series in group if series.threads == choice), group[-1])


def marks(series: Series, group: Sequence[Series], choice: int) -> list[str]:
    """What is special about a row: best, blasenv."""
    found = ["best"] if series is best_of(group) and not too_few(group) else []
    return found + (["blasenv"] if series.threads == choice else [])


def twins_of(group: Sequence[Series], affinity: int) -> tuple[Series, Series] | None:
    """The default, and the count of ``affinity`` CPUs, which is what libraries take by default: the same twice."""
    default, counted = ([one for one in group if one.threads == threads] for threads in (DEFAULT, affinity))
    return (default[0], counted[0]) if default and counted and affinity != DEFAULT else None


def noise_of(group: Sequence[Series], affinity: int) -> float | None:
    """By what ratio the same thing, measured twice, differs; 1 is not at all, None is unknown."""
    twins = twins_of(group, affinity)
    if twins is None or too_few(group):
        return None
    medians = [one.median for one in twins]
    return max(medians) / min(medians)


def tells_apart(one: Series, other: Series, noise: float | None) -> bool:
    """Whether two differ by more than the same thing measured twice does."""
    ratio = max(one.median, other.median) / min(one.median, other.median)
    return one.differs(other) and ratio > (noise or 1)


def text_of(workload: Workload, group: list[Series], choice: int, block: str) -> str:
    """One workload: a heading, and a row with a bar for each thread count."""
    longest = max(series.median for series in group)
    cells = []
    for series in group:
        share = "" if series.share is None else f"{100 * series.share:.0f} %"
        spread = f"{duration(min(series.seconds))} to {duration(max(series.seconds))}"
        cells.append((_label(series.threads), duration(series.median), spread, share))
    throttled = "THROTTLED" if any(series.share is not None for series in group) else ""
    headers = ("THREADS", "MEDIAN", "RANGE", throttled)
    words = [" ".join(marks(series, group, choice)) for series in group]
    taken = sum(max(map(len, column)) + 2 for column in zip(headers, *cells)) + max(map(len, words)) + 1
    room = max(SHORT_BAR, min(BAR, columns() - taken))
    rows = []
    for series, row, word in zip(group, cells, words):
        plain = f"{block * max(1, round(room * series.median / longest))} {word}".rstrip()
        style = "green" if "blasenv" in word else "bold" if "best" in word else ""
        rows.append((*row, paint(style, plain) if style else plain))
    heading = paragraph(f"{workload.name}  {workload.what}").replace(workload.name, paint("bold", workload.name), 1)
    return heading + "\n" + table((*headers, ""), rows)


def too_few(group: Sequence[Series]) -> bool:
    """Whether there are fewer than the 3 rounds that a comparison takes."""
    return min(len(series.seconds) for series in group) < 3


def sentence(workload: Workload, group: list[Series], choice: int, affinity: int = DEFAULT) -> str:
    """What one workload says about blasenv's choice; no more than the noise allows."""
    if too_few(group):
        return f"{workload.name}: {FEW}"
    best, ours, default = best_of(group), chosen_of(group, choice), chosen_of(group, DEFAULT)
    noise = noise_of(group, affinity)
    loud = noise is not None and noise > NOISY
    gain = ""
    if ours is not default:
        ratio = default.median / ours.median
        # The default was measured twice: what counts must hold against both.
        if not all(tells_apart(ours, one, noise) for one in twins_of(group, affinity) or [default] if one is not ours):
            gain = "no clear difference to the default"
        elif loud:
            gain = f"{'faster' if ratio >= 1 else 'slower'} than the default, and by how much can't be told"
        else:
            gain = (
                f"{ratio:.1f} × as fast as the default" if ratio >= 1 else f"{1 / ratio:.1f} × as slow as the default"
            )
    if ours is best or not tells_apart(ours, best, noise):
        standing = "best" if ours is best else f"as good as the best ({_label(best.threads)}); the difference is noise"
    elif loud:
        standing = f"not the best: {_label(best.threads)} is faster"
    else:
        slower = 100 * (ours.median / best.median - 1)
        standing = f"not the best: it takes {slower:.0f} % longer than {_label(best.threads)}"
    who = f"blasenv's choice ({_label(ours.threads)})" if choice != DEFAULT else "the default, which blasenv leaves,"
    said = f"{workload.name}: {who} is {standing}" + (f"; {gain}." if gain else ".")
    if loud:
        said += (
            f" The default and {affinity}, which are the same to most libraries, differ {noise:.1f} ×: other load on "
            "this machine, or a program that counts in its own way."
        )
    return said


def render(workloads: Sequence[Workload], series: Sequence[Series], choice: int, affinity: int, block: str) -> str:
    """The whole report."""
    parts, sentences = [], []
    for workload in workloads:
        group = [one for one in series if one.workload == workload.name and one.seconds]
        if group:
            parts.append(text_of(workload, group, choice, block))
            sentences.append(
                FEW.capitalize() if too_few(group) else paragraph(sentence(workload, group, choice, affinity))
            )
    sentences = list(dict.fromkeys(sentences))
    return "\n\n".join([*parts, "\n".join(sentences)])


def as_json(workload: Workload, group: list[Series], choice: int, affinity: int = DEFAULT) -> dict[str, object]:
    """One workload for ``--json``; times in seconds, ``threads`` null for the default.

    ``choice_is_best`` is null where there are too few rounds to tell; ``noise`` is null there, too.
    """
    best, ours = best_of(group), chosen_of(group, choice)
    noise = noise_of(group, affinity)
    return {
        "name": workload.name,
        "what": workload.what,
        "best": best.threads or None,
        "choice_is_best": None if too_few(group) else ours is best or not tells_apart(ours, best, noise),
        "noise": noise,
        "series": [
            {
                "threads": one.threads or None,
                "seconds": one.seconds,
                "median": one.median,
                "spread": max(one.seconds) - min(one.seconds),
                "deviation": statistics.stdev(one.seconds) if len(one.seconds) > 1 else None,
                "throttled_share": one.share,
                "marks": marks(one, group, choice),
            }
            for one in group
        ],
        "sentence": sentence(workload, group, choice, affinity),
    }


def svg(workloads: Sequence[Workload], series: Sequence[Series], choice: int, title: str) -> str:
    """All workloads as horizontal bars, readable on a dark and on a light page."""
    lines: list[str] = []
    y = 56
    for workload in workloads:
        group = [one for one in series if one.workload == workload.name and one.seconds]
        if not group:
            continue
        lines.append(f'<text x="16" y="{y}" class="head">{html.escape(f"{workload.name}: {workload.what}")}</text>')
        longest = max(one.median for one in group)
        for one in group:
            y += 22
            width = max(2, round(380 * one.median / longest))
            words = marks(one, group, choice)
            kind = "ours" if "blasenv" in words else "bar"
            note = duration(one.median) + (f", {100 * one.share:.0f} % throttled" if one.share else "")
            note += "".join(f" · {word}" for word in words)
            lines.append(f'<text x="84" y="{y}" text-anchor="end">{_label(one.threads)}</text>')
            lines.append(f'<rect x="92" y="{y - 12}" width="{width}" height="15" rx="2" class="{kind}"/>')
            lines.append(f'<text x="{100 + width}" y="{y}">{html.escape(note)}</text>')
        y += 36
    style = (
        "text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:16px;font-weight:600}.head{font-weight:600}"
        ".bar{fill:#8c959f}.ours{fill:#1a7f37}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.bar{fill:#6e7681}.ours{fill:#3fb950}}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{y}" viewBox="0 0 760 {y}" role="img">'
    named = f'<title>{html.escape(title)}</title><text x="16" y="26" class="title">{html.escape(title)}</text>'
    return "\n".join([head, f"<style>{style}</style>", named, *lines, "</svg>"]) + "\n"
