"""The programs that benchmarks/speedup.py measures: one of them, in a process of its own.

    benchmarks/speedup_work.py NAME

It talks with speedup.py in lines. It prints, in this order: what OMP_NUM_THREADS is for native libraries, when the
interpreter has started; "prepared", when everything is imported and there is something to work on; "ready", when it
has done its work once. Then it does its work once for every line it reads, and prints how many seconds that took.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from typing import Any

Work = Callable[[], Any]


def matmul(size: int) -> Work:
    """NumPy: the product of two square matrices."""
    import numpy

    left, right = numpy.random.default_rng(1).random((2, size, size))
    return lambda: left @ right


def solve(size: int) -> Work:
    """NumPy: a system of linear equations."""
    import numpy

    matrix = numpy.random.default_rng(2).random((size, size)) + size * numpy.eye(size)
    return lambda: numpy.linalg.solve(matrix, matrix[0])


def svd(size: int) -> Work:
    """NumPy: singular values and vectors."""
    import numpy

    matrix = numpy.random.default_rng(3).random((size, size))
    return lambda: numpy.linalg.svd(matrix)


def eigh(size: int) -> Work:
    """NumPy: eigenvalues and vectors of a symmetric matrix."""
    import numpy

    matrix = numpy.random.default_rng(4).random((size, size))
    return lambda: numpy.linalg.eigh(matrix + matrix.T)


def lstsq(size: int) -> Work:
    """NumPy: least squares, three times as many equations as unknowns."""
    import numpy

    generator = numpy.random.default_rng(5)
    matrix, right = generator.random((3 * size, size)), generator.random(3 * size)
    return lambda: numpy.linalg.lstsq(matrix, right, rcond=None)


def interpolate(points: int, values: int) -> Work:
    """SciPy: radial basis functions through scattered points with so many values each, as in the first report."""
    import numpy
    from scipy.interpolate import RBFInterpolator

    generator = numpy.random.default_rng(6)
    places, wanted = generator.random((points, 2)), generator.random((points, values))
    return lambda: RBFInterpolator(places, wanted)(places)


def estimator(name: str, rows: int, columns: int, **options: Any) -> Work:
    """scikit-learn: one of its estimators, fitted."""
    import numpy
    from sklearn import cluster, decomposition, ensemble, linear_model

    generator = numpy.random.default_rng(7)
    features = generator.random((rows, columns))
    classes = (features[:, 0] + features[:, 1] > generator.random(rows) + 0.5).astype(int)
    modules = (cluster, decomposition, ensemble, linear_model)
    kind = next(getattr(module, name) for module in modules if hasattr(module, name))
    return lambda: kind(**options).fit(features, classes)


def boost(rows: int) -> Work:
    """LightGBM: twenty trees."""
    import lightgbm
    import numpy

    generator = numpy.random.default_rng(8)
    features, target = generator.random((rows, 20)), generator.random(rows)
    options = {"objective": "regression", "verbose": -1}
    return lambda: lightgbm.train(options, lightgbm.Dataset(features, target), num_boost_round=20)


def train(rows: int) -> Work:
    """PyTorch: a step of training with a small network."""
    import torch

    torch.manual_seed(9)
    layers = (torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU())
    network = torch.nn.Sequential(*layers, torch.nn.Linear(256, 1))
    optimizer = torch.optim.Adam(network.parameters())
    features, target = torch.rand(rows, 256), torch.rand(rows, 1)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(features), target).backward()
        optimizer.step()

    return step


def group(rows: int) -> Work:
    """pandas and PyArrow: a table from Parquet, grouped and joined."""
    import io

    import numpy
    import pandas

    generator = numpy.random.default_rng(10)
    columns = {"key": generator.integers(0, 1000, rows), **{f"value{n}": generator.random(rows) for n in range(4)}}
    file = io.BytesIO()
    pandas.DataFrame(columns).to_parquet(file)

    def read() -> Any:
        table = pandas.read_parquet(io.BytesIO(file.getvalue()))
        return table.merge(table.groupby("key").mean(), on="key")

    return read


def regress(rows: int) -> Work:
    """statsmodels: ordinary least squares, with its tests."""
    import numpy
    import statsmodels.api as statsmodels

    generator = numpy.random.default_rng(11)
    features, target = generator.random((rows, 60)), generator.random(rows)
    return lambda: statsmodels.OLS(target, statsmodels.add_constant(features)).fit().pvalues


# What people know it as: how it is prepared, and how often it is done for one time, which is half a second or more on
# one core that is free.
PROGRAMS: dict[str, tuple[Callable[[], Work], int]] = {
    "NumPy matmul, 100 × 100": (lambda: matmul(100), 15000),
    "NumPy matmul, 2000 × 2000": (lambda: matmul(2000), 2),
    "NumPy solve, 100 × 100": (lambda: solve(100), 7000),
    "NumPy solve, 2000 × 2000": (lambda: solve(2000), 5),
    "NumPy svd, 400 × 400": (lambda: svd(400), 24),
    "NumPy eigh, 500 × 500": (lambda: eigh(500), 26),
    "NumPy lstsq, 900 × 300": (lambda: lstsq(300), 40),
    "SciPy RBFInterpolator, 500 points": (lambda: interpolate(500, 1), 90),
    "SciPy RBFInterpolator, 400 values": (lambda: interpolate(100, 400), 80),
    "scikit-learn LogisticRegression": (lambda: estimator("LogisticRegression", 20_000, 50), 16),
    "scikit-learn PCA": (lambda: estimator("PCA", 5_000, 200, n_components=20), 60),
    "scikit-learn KMeans": (lambda: estimator("KMeans", 20_000, 20, n_clusters=8, random_state=0), 6),
    "scikit-learn Ridge": (lambda: estimator("Ridge", 20_000, 100), 45),
    "scikit-learn HistGradientBoosting": (
        lambda: estimator("HistGradientBoostingClassifier", 20_000, 20, max_iter=20),
        4,
    ),
    "LightGBM": (lambda: boost(20_000), 6),
    "PyTorch training step": (lambda: train(256), 200),
    "pandas with PyArrow, Parquet": (lambda: group(200_000), 14),
    "statsmodels OLS": (lambda: regress(20_000), 11),
}


def say(words: object) -> None:
    """One line for speedup.py."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def main() -> None:
    """Prepare one program, and do its work as often as speedup.py asks for it."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    say((getenv(b"OMP_NUM_THREADS") or b"").decode())
    sys.stdin.readline()
    prepare, calls = PROGRAMS[sys.argv[1]]
    work = prepare()
    say("prepared")
    sys.stdin.readline()
    work()
    say("ready")
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        say(round(time.perf_counter() - start, 4))


if __name__ == "__main__":
    main()
