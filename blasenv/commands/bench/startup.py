"""``blasenv bench --startup``: what the hook costs each Python process, measured in pairs."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from blasenv.errors import Failure

LEAST_PAIRS = 10


@dataclass(frozen=True)
class Cost:
    """Start-up times in milliseconds."""

    pairs: int
    bare: float
    """Median with BLASENV_DISABLE=1."""
    difference: float
    """Median of the pairs' differences: what the hook adds."""
    low: float
    """Lower quartile of the differences."""
    high: float
    """Upper quartile."""

    @property
    def noise(self) -> bool:
        """Whether so many pairs can't tell the difference from nothing (the quartiles embrace zero)."""
        return self.low <= 0 <= self.high


def _start(python: str, environ: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run([python, "-c", "pass"], check=True, env=environ, stdin=subprocess.DEVNULL, capture_output=True)
    return 1000 * (time.perf_counter() - start)


def measure_startup(python: str, budget: float, progress: Callable[[float, str], None]) -> tuple[Cost | None, bool]:
    """Time pairs of starts, hook on and off in random order, for ``budget`` seconds.

    Both read the hook's line; BLASENV_DISABLE=1 stops there. So the difference is the module's
    import and the decision. Returns the cost, None with too few pairs, and whether Ctrl-C ended it.
    """
    on = {name: value for name, value in os.environ.items() if name not in ("BLASENV_DISABLE", "BLASENV_DEBUG")}
    off = {**on, "BLASENV_DISABLE": "1"}
    code = "import sys; sys.exit('_blasenv' not in vars(sys))"
    if subprocess.run([python, "-c", code], check=False, env=on, stdin=subprocess.DEVNULL).returncode:
        raise Failure(f"the hook does not run in {python}; see: blasenv doctor hook, or name another with --python")
    bare: list[float] = []
    differences: list[float] = []
    interrupted = False
    begin = time.monotonic()
    try:
        while time.monotonic() - begin < budget or len(differences) < LEAST_PAIRS:
            progress(min(1.0, (time.monotonic() - begin) / budget), f"{len(differences)} pairs")
            first_on = random.random() < 0.5  # noqa: S311, no secret
            one = _start(python, on if first_on else off)
            other = _start(python, off if first_on else on)
            bare.append(other if first_on else one)
            differences.append(one - other if first_on else other - one)
    except KeyboardInterrupt:
        interrupted = True
    if len(differences) < LEAST_PAIRS:
        return None, interrupted
    low, middle, high = statistics.quantiles(differences, n=4)
    return Cost(len(differences), statistics.median(bare), middle, low, high), interrupted
