"""The program that is measured in the 48-CPU machine: one small problem, again and again.

    machine_program.py PROGRAM

Says "ready" when everything is imported; whoever started it looks at it from outside, and ends it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np


def matmul_and_solve() -> Callable[[], object]:
    """The linear algebra of the report: matrices of 100 × 100."""
    matrix = np.random.default_rng(4).random((100, 100)) + 100 * np.eye(100)
    return lambda: np.linalg.solve(matrix, matrix @ matrix)


def interpolate() -> Callable[[], object]:
    """Radial basis functions through 100 scattered points with 400 values each: LAPACK solves for the coefficients."""
    from scipy.interpolate import RBFInterpolator

    random = np.random.default_rng(4)
    points, values = random.random((100, 2)), random.random((100, 400))
    return lambda: RBFInterpolator(points, values)(points)


def main() -> None:
    """Work until the end."""
    work = {"matmul + solve": matmul_and_solve, "interpolate": interpolate}[sys.argv[1]]()
    print("ready", flush=True)
    while True:
        work()


if __name__ == "__main__":
    main()
