"""What a check is, and the list of them. Each one is a function that looks and says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

STATES = ("ok", "skipped", "warning", "problem")


@dataclass(frozen=True)
class Result:
    """What one check found."""

    state: str
    """ok, warning, problem, or skipped when there was nothing to check."""
    value: str
    """What was found, in words; may be several lines."""
    advice: str = ""
    """What to do; never empty for a warning or a problem."""


Check = Callable[[], Result]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Register a check under its function's name; its docstring's first line says what it looks at."""
    CHECKS[function.__name__.replace("_", "-")] = function
    return function


def summary(function: Check) -> str:
    """The first line of a check's docstring."""
    return (function.__doc__ or "").partition("\n")[0]
