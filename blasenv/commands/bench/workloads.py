"""What is measured: small programs for numpy and scipy, each run in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """One thing to time."""

    name: str
    what: str
    """In a few words, with the size."""
    prepare: str = ""
    """Python statements run before the clock starts."""
    work: str = ""
    """The expression that is timed, again and again; empty for a command of the user's."""
    needs: str = "numpy"


WORKLOADS = (
    Workload(
        "matmul-small",
        "100 × 100 matrix product, numpy",
        "import numpy as np; a = np.random.default_rng(1).random((100, 100))",
        "a @ a",
    ),
    Workload(
        "matmul",
        "1000 × 1000 matrix product, numpy",
        "import numpy as np; a = np.random.default_rng(1).random((1000, 1000))",
        "a @ a",
    ),
    Workload(
        "solve",
        "800 equations, numpy.linalg.solve",
        "import numpy as np; r = np.random.default_rng(1); a = r.random((800, 800)); b = r.random(800)",
        "np.linalg.solve(a, b)",
    ),
    Workload(
        "svd",
        "200 × 200, numpy.linalg.svd",
        "import numpy as np; a = np.random.default_rng(1).random((200, 200))",
        "np.linalg.svd(a)",
    ),
    Workload(
        "interpolate",
        "500 points, scipy.interpolate.RBFInterpolator",
        "import numpy as np; from scipy.interpolate import RBFInterpolator; r = np.random.default_rng(1); "
        "p = r.random((500, 2)); v = r.random(500)",
        "RBFInterpolator(p, v)(p)",
        "scipy",
    ),
)

# The mean over a fixed time, not the median of single calls: throttling stops all of a process
# for most of a 100 ms period, and a median of short calls would not see it.
TIMER = """
{prepare}
from time import perf_counter
{work}
calls, start = 0, perf_counter()
while True:
    {work}
    calls += 1
    spent = perf_counter() - start
    if spent > {seconds} and calls >= 3:
        break
print(spent / calls)
"""


def program(workload: Workload, seconds: float) -> str:
    """The program for ``python -c`` that prints the seconds one call takes."""
    return TIMER.format(prepare=workload.prepare, work=workload.work, seconds=seconds)
