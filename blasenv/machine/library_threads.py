"""How many threads each native library starts with which variables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# What status lists, besides the variables that the configuration adds.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "NUMBA_NUM_THREADS",
)


class Library(NamedTuple):
    """How many threads a native library starts, and why."""

    name: str
    threads: int | None
    """None where that is the library's own affair."""
    reason: str


def _atoi(text: str) -> int:
    """The number at the start of ``text`` as C's atoi finds it, 0 if there is none."""
    match = re.match(r"\s*([+-]?[0-9]{1,9})", text)
    return int(match.group(1)) if match else 0


def libraries(
    native: Mapping[str, str],
    python: Mapping[str, str],
    *,
    affinity: int,
    cores: int,
    online: int,
    quota: float | None,
) -> list[Library]:
    """The threads each library starts with these variables.

    ``native`` is the process environment, ``python`` the os.environ mapping. By default the
    libraries count the CPUs in the affinity mask, the ``cores`` behind them, or those that are
    ``online``.
    """

    def first(*names: str, otherwise: int, default: str, environ: Mapping[str, str] = native) -> tuple[int, str]:
        for name in names:
            if _atoi(environ.get(name, "")) > 0:
                return _atoi(environ[name]), name
        return otherwise, default

    every, physical = "counts the visible CPUs", "counts the cores"

    openblas, openblas_from = first(
        "OPENBLAS_NUM_THREADS",
        "OPENBLAS_DEFAULT_NUM_THREADS",
        "GOTO_NUM_THREADS",
        "OMP_NUM_THREADS",
        otherwise=affinity,
        default=every,
    )
    openmp, openmp_from = first("OMP_NUM_THREADS", otherwise=affinity, default=every)
    intel, intel_from = openmp, openmp_from
    most = _atoi(native.get("OMP_THREAD_LIMIT", ""))
    if 0 < most < intel:
        intel, intel_from = most, "OMP_THREAD_LIMIT"
    torch, torch_from = first("MKL_NUM_THREADS", "OMP_NUM_THREADS", otherwise=cores, default=physical)
    mkl, mkl_from = cores, physical
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if name in native:
            mkl, mkl_from = max(1, _atoi(native[name])), name
    blis, blis_from = first("BLIS_NUM_THREADS", "OMP_NUM_THREADS", otherwise=1, default="starts 1 by default")

    # scikit-learn has its own cap, which OMP_NUM_THREADS in os.environ switches off.
    sklearn, sklearn_from = openmp, openmp_from
    cap = min(cores, -int(-quota // 1)) if quota else cores
    if "OMP_NUM_THREADS" not in python and (max(1, cap) < openmp or openmp_from == every):
        sklearn, sklearn_from = max(1, cap), "reads the CPU limit, counts the cores"

    # NumExpr and Numba are Python and read os.environ.
    ceiling = _atoi(python.get("NUMEXPR_MAX_THREADS", ""))
    numexpr, numexpr_from = first(
        "NUMEXPR_NUM_THREADS",
        "OMP_NUM_THREADS",
        environ=python,
        otherwise=ceiling if ceiling > 0 else min(online, 16),
        default="NUMEXPR_MAX_THREADS" if ceiling > 0 else "counts all CPUs, up to 16",
    )
    if numexpr > (ceiling if ceiling > 0 else 64):
        numexpr, numexpr_from = 1, f"{numexpr_from} is above its maximum, which means 1"
    numba, numba_from = first("NUMBA_NUM_THREADS", environ=python, otherwise=affinity, default=every)
    own = "reads the CPU limit by itself"
    return [
        Library("OpenBLAS (pthreads: PyPI wheels)", min(openblas, affinity), openblas_from),
        Library("OpenBLAS (OpenMP: conda)", openmp, openmp_from),
        Library("MKL", mkl, mkl_from),
        Library("libgomp (GNU OpenMP)", openmp, openmp_from),
        Library("libiomp5 (Intel, LLVM OpenMP)", intel, intel_from),
        Library("BLIS", blis, blis_from),
        Library("PyTorch", torch, torch_from),
        Library("scikit-learn", sklearn, sklearn_from),
        Library("PyArrow", openmp, openmp_from),
        Library("LightGBM", openmp, openmp_from),
        Library("NumExpr", numexpr, numexpr_from),
        Library("Numba", numba, numba_from),
        Library("XGBoost, Polars, DuckDB", None, own),
        Library("TensorFlow, ONNX Runtime", None, "have settings of their own"),
    ]
