"""How many threads each native library starts with which variables.

One class per library, with the version whose rule it is and the URL where that rule can be read. What can
be measured here was: benchmarks/library_threads.py counts real threads, docs/library-threads.json has them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, NamedTuple

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

EVERY_CPU = "counts the visible CPUs"
EVERY_CORE = "counts the cores"


class Library(NamedTuple):
    """How many threads a native library starts, and why."""

    name: str
    threads: int | None
    """None where that is the library's own affair."""
    reason: str


class Surroundings(NamedTuple):
    """What a library can look at when it starts its threads."""

    native: Mapping[str, str]
    """The process environment, which libraries in C read (getenv)."""
    python: Mapping[str, str]
    """The os.environ mapping, which those in Python read."""
    affinity: int
    """CPUs in the affinity mask."""
    cores: int
    """Physical cores behind them."""
    online: int
    """CPUs of the machine, whatever the mask."""
    quota: float | None
    """CPUs of quota; None is no limit."""


def atoi(text: str) -> int:
    """The number at the start of ``text`` as C's atoi finds it, 0 if there is none."""
    match = re.match(r"\s*([+-]?[0-9]{1,9})", text)
    return int(match.group(1)) if match else 0


class Rule:
    """What one library makes of the variables. Most take the first that holds a number above 0."""

    name: ClassVar[str]
    version: ClassVar[str]
    """Of the library, when its rule was read or measured."""
    source: ClassVar[str]
    """Where the rule can be read."""
    obeys: ClassVar[tuple[str, ...]] = ()
    """The variables that set its count; the first one that is set counts."""
    reads_os_environ: ClassVar[bool] = False
    """Whether it is Python and looks in os.environ; the others read the native environment."""
    own: ClassVar[tuple[str, ...]] = ()
    """What ``variables = "all"`` sets for it: it does not listen to OMP_NUM_THREADS where blasenv puts that."""
    untold: ClassVar[str] = ""
    """Why no count is told: it has a way of its own."""
    row: ClassVar[str] = ""
    """The row of a table that it shares with others of which the same is to be said."""

    def default(self, at: Surroundings) -> tuple[int | None, str]:
        """The count without a variable, and the reason."""
        return at.affinity, EVERY_CPU

    def threads(self, at: Surroundings) -> tuple[int | None, str]:
        """The count, None where the library has a way of its own, and the variable or reason behind it."""
        if self.untold:
            return None, self.untold
        environ = at.python if self.reads_os_environ else at.native
        for name in self.obeys:
            if atoi(environ.get(name, "")) > 0:
                return atoi(environ[name]), name
        return self.default(at)


class OpenBLASPthreads(Rule):
    """Takes atoi of each variable, so 0, "" and abc are as if unset; never above the affinity count."""

    name = "OpenBLAS (pthreads: PyPI wheels)"
    version = "0.3.31"
    source = "https://github.com/OpenMathLib/OpenBLAS/blob/develop/driver/others/memory.c"  # and openblas_env.c
    obeys = ("OPENBLAS_NUM_THREADS", "OPENBLAS_DEFAULT_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")

    def threads(self, at: Surroundings) -> tuple[int | None, str]:
        """Not more than there are CPUs."""
        count, reason = super().threads(at)
        return min(count or 1, at.affinity), reason


class OpenMP(Rule):
    """What libgomp does, and most that ask it. A list such as 3,2 is for nested levels: the first counts."""

    name = "libgomp (GNU OpenMP)"
    version = "GCC 12.2"
    source = "https://gcc.gnu.org/onlinedocs/libgomp/OMP_005fNUM_005fTHREADS.html"  # and OMP_THREAD_LIMIT, beside it
    obeys = ("OMP_NUM_THREADS",)

    def threads(self, at: Surroundings) -> tuple[int | None, str]:
        """Not more than OMP_THREAD_LIMIT: omp_get_max_threads doesn't tell, but the team is no larger."""
        count, reason = super().threads(at)
        most = atoi(at.native.get("OMP_THREAD_LIMIT", ""))
        return (most, "OMP_THREAD_LIMIT") if count and 0 < most < count else (count, reason)


class LLVMOpenMP(OpenMP):
    """libiomp5 and libomp. Where OMP_THREAD_LIMIT takes threads away, it says so on stderr."""

    name = "libiomp5 (Intel, LLVM OpenMP)"
    version = "Intel 2026.2"
    source = "https://github.com/llvm/llvm-project/blob/main/openmp/runtime/src/kmp_settings.cpp"


class OpenBLASOpenMP(Rule):
    """Asks the OpenMP library below, and is not held to the affinity count.

    Below an OMP_THREAD_LIMIT that is less, 0.3.21 waits for ever for threads that never come.
    """

    name = "OpenBLAS (OpenMP: conda)"
    version = "0.3.21"
    source = "https://github.com/OpenMathLib/OpenBLAS/blob/develop/driver/others/blas_server_omp.c"
    obeys = ("OMP_NUM_THREADS",)


class MKL(Rule):
    """Looks at its own variable first; what is no number there means 1, silently. Not above the cores.

    That last is MKL_DYNAMIC, which is on unless somebody sets it to FALSE or 0.
    """

    name = "MKL"
    version = "2026.2"
    source = (
        "https://www.intel.com/content/www/us/en/docs/onemkl/developer-guide-linux/2024-1/"
        "improving-performance-with-threading.html"
    )
    obeys = ("MKL_NUM_THREADS", "OMP_NUM_THREADS")

    def default(self, at: Surroundings) -> tuple[int | None, str]:
        """One for each physical core."""
        return at.cores, EVERY_CORE

    def threads(self, at: Surroundings) -> tuple[int | None, str]:
        """The first variable that is there, whatever it holds."""
        for name in self.obeys:
            if name in at.native:
                count = max(1, atoi(at.native[name]))
                dynamic = at.native.get("MKL_DYNAMIC", "").upper() not in ("FALSE", "0")
                return (min(count, at.cores) if dynamic else count), name
        return self.default(at)


class BLIS(Rule):
    """Starts no threads unless asked, so a variable adds some."""

    name = "BLIS"
    version = "0.9.0"
    source = "https://github.com/flame/blis/blob/master/docs/Multithreading.md"
    obeys = ("BLIS_NUM_THREADS", "OMP_NUM_THREADS")

    def default(self, at: Surroundings) -> tuple[int | None, str]:
        """One, whatever there is."""
        del at
        return 1, "starts 1 by default"


class PyTorch(Rule):
    """The threads within an operation. Those between operations have no variable."""

    name = "PyTorch"
    version = "2.13"
    source = "https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/ParallelCommon.cpp"
    obeys = ("MKL_NUM_THREADS", "OMP_NUM_THREADS")

    def default(self, at: Surroundings) -> tuple[int | None, str]:
        """One for each physical core."""
        return at.cores, EVERY_CORE


class ScikitLearn(OpenMP):
    """Has a cap of its own, which OMP_NUM_THREADS in os.environ switches off."""

    name = "scikit-learn"
    version = "1.9.1"
    source = "https://github.com/scikit-learn/scikit-learn/blob/main/sklearn/utils/_openmp_helpers.pyx"

    def threads(self, at: Surroundings) -> tuple[int | None, str]:
        """Not more than the CPU limit, rounded up, and the cores, unless os.environ has the variable."""
        count, reason = super().threads(at)
        cap = max(1, min(at.cores, -int(-at.quota // 1)) if at.quota else at.cores)
        if not at.python.get("OMP_NUM_THREADS") and (cap < (count or 1) or reason == EVERY_CPU):
            return cap, "reads the CPU limit, counts the cores"
        return count, reason


class PyArrow(OpenMP):
    """No OpenMP in it, but reads its variables; ARROW_IO_THREADS (8) wait for files."""

    name = "PyArrow"
    version = "26.0.1"
    source = "https://github.com/apache/arrow/blob/main/cpp/src/arrow/util/thread_pool.cc"


class LightGBM(OpenMP):
    """Asks the OpenMP library for its most."""

    name = "LightGBM"
    version = "4.7.0"
    source = "https://github.com/microsoft/LightGBM/blob/master/src/utils/openmp_wrapper.cpp"


class NumExpr(Rule):
    """Counts the CPUs of the machine, up to 16. Asked for more than its maximum, it complains and starts 1.

    That maximum is read in C: NUMEXPR_MAX_THREADS, or 64. Seen in os.environ, the variable makes it the count.
    """

    name = "NumExpr"
    version = "2.14.2"
    source = "https://github.com/pydata/numexpr/blob/master/numexpr/utils.py"
    obeys = ("NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS")
    reads_os_environ = True
    own = ("NUMEXPR_NUM_THREADS",)

    def maximum(self, at: Surroundings) -> int:
        """The most it can start."""
        ceiling = atoi(at.native.get("NUMEXPR_MAX_THREADS", ""))
        return ceiling if ceiling > 0 else 64

    def default(self, at: Surroundings) -> tuple[int | None, str]:
        """Its maximum, where somebody set that; never more."""
        if at.python.get("NUMEXPR_MAX_THREADS"):
            return self.maximum(at), "NUMEXPR_MAX_THREADS"
        count = min(at.online, 16)
        return (count, "counts all CPUs, up to 16") if count <= self.maximum(at) else (1, "NUMEXPR_MAX_THREADS")

    def threads(self, at: Surroundings) -> tuple[int | None, str]:
        """1 above the maximum."""
        count, reason = super().threads(at)
        if (count or 1) > self.maximum(at):
            return 1, f"{reason} is above its maximum, which means 1"
        return count, reason


class Numba(Rule):
    """The variable is the most that set_num_threads takes, too."""

    name = "Numba"
    version = "0.68.1"
    source = "https://numba.readthedocs.io/en/stable/reference/envvars.html#envvar-NUMBA_NUM_THREADS"
    obeys = ("NUMBA_NUM_THREADS",)
    reads_os_environ = True
    own = ("NUMBA_NUM_THREADS",)


class TensorFlow(Rule):
    """Two pools, within operations and between them; the larger one is told."""

    name = "TensorFlow"
    version = "2.21.0"
    source = "https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/common_runtime/process_util.cc"
    obeys = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    own = obeys

    def threads(self, at: Surroundings) -> tuple[int | None, str]:
        """Each pool has its variable."""
        return _largest_pool(self, at)


class ONNXRuntime(Rule):
    """Within operations; and, in its parallel mode only, a second pool between them. Fails at what is no number."""

    name = "ONNX Runtime (1.29 and later)"
    version = "1.32.0; 1.28 and older look at no variable"
    source = "https://github.com/microsoft/onnxruntime/pull/29688"
    obeys = ("ORT_INTRA_OP_NUM_THREADS", "ORT_INTER_OP_NUM_THREADS")
    own = obeys

    def default(self, at: Surroundings) -> tuple[int | None, str]:
        """One for each physical core."""
        return at.cores, EVERY_CORE

    def threads(self, at: Surroundings) -> tuple[int | None, str]:
        """Without its parallel mode, the first pool is all."""
        name = self.obeys[0]
        count = atoi(at.native.get(name, ""))
        return (count, name) if count > 0 else self.default(at)


class ITK(Rule):
    """SimpleITK, too. Each variable that is set replaces the one before; NSLOTS is Grid Engine's."""

    name = "ITK, SimpleITK"
    version = "SimpleITK 2.5.7"
    source = (
        "https://github.com/InsightSoftwareConsortium/ITK/blob/master/Modules/Core/Common/src/itkMultiThreaderBase.cxx"
    )
    obeys = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "NSLOTS")
    own = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",)


class KnowsTheQuota(Rule):
    """Left alone: it reads the CPU limit by itself, and rounds it as suits it."""

    untold = "reads the CPU limit by itself"


class XGBoost(KnowsTheQuota):
    """Its OpenMP team is no larger than the limit, whatever OMP_NUM_THREADS says; a smaller one counts."""

    name = "XGBoost"
    version = "3.2.0"
    source = "https://github.com/dmlc/xgboost/blob/master/src/common/threading_utils.cc"
    obeys = ("OMP_NUM_THREADS",)
    row = "XGBoost, CatBoost, DuckDB"


class CatBoost(KnowsTheQuota):
    """``thread_count`` of a model is another count."""

    name = "CatBoost"
    version = "1.2.10"
    source = "https://github.com/catboost/catboost/blob/master/util/system/info.cpp"
    row = XGBoost.row


class DuckDB(KnowsTheQuota):
    """PRAGMA threads sets another count."""

    name = "DuckDB"
    version = "2.0.1"
    source = "https://github.com/duckdb/duckdb/blob/main/src/common/cgroups.cpp"
    row = XGBoost.row


class OpenCV(KnowsTheQuota):
    """OPENCV_FOR_THREADS_NUM sets another count."""

    name = "OpenCV"
    version = "5.0.0"
    source = "https://github.com/opencv/opencv/blob/4.x/modules/core/src/parallel.cpp"
    obeys = ("OPENCV_FOR_THREADS_NUM",)
    row = "Polars, OpenCV, tokenizers"


class Polars(KnowsTheQuota):
    """Asks Rust's available_parallelism. Its documentation advises against the variable."""

    name = "Polars"
    version = "2.1.0"
    source = "https://docs.pola.rs/api/python/stable/reference/api/polars.thread_pool_size.html"
    obeys = ("POLARS_MAX_THREADS",)
    row = OpenCV.row


class Rayon(KnowsTheQuota):
    """Tokenizers and other modules in Rust; asks available_parallelism."""

    name = "tokenizers (Rayon)"
    version = "tokenizers 0.23.3"
    source = "https://github.com/rayon-rs/rayon/blob/main/rayon-core/src/lib.rs"
    obeys = ("RAYON_NUM_THREADS",)
    row = OpenCV.row


class NoVariable(Rule):
    """Does not know the limit, and no variable that ends in _THREADS tells it; the program can."""

    row = "OpenVINO, JAX"
    untold = "settings in the program only"


class OpenVINO(NoVariable):
    """The property INFERENCE_NUM_THREADS."""

    name = "OpenVINO"
    version = "2026.4.1"
    source = (
        "https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device/"
        "performance-hint-and-thread-scheduling.html"
    )


class JAX(NoVariable):
    """On the CPU: NPROC, read by XLA, which is not a name that blasenv sets."""

    name = "JAX"
    version = "0.10.2"
    source = "https://github.com/jax-ml/jax/issues/1539"


def _largest_pool(rule: Rule, at: Surroundings) -> tuple[int | None, str]:
    """Of the pools that have a variable each, the one with most threads."""
    default, reason = rule.default(at)
    pools = [(atoi(at.native.get(name, "")), name) for name in rule.obeys]
    sizes = [(count, name) if count > 0 else (default or 1, reason) for count, name in pools]
    return max(sizes, key=lambda size: size[0])


RULES: tuple[Rule, ...] = (
    OpenBLASPthreads(),
    OpenBLASOpenMP(),
    MKL(),
    OpenMP(),
    LLVMOpenMP(),
    BLIS(),
    PyTorch(),
    ScikitLearn(),
    PyArrow(),
    LightGBM(),
    NumExpr(),
    Numba(),
    TensorFlow(),
    ONNXRuntime(),
    ITK(),
    XGBoost(),
    CatBoost(),
    DuckDB(),
    OpenCV(),
    Polars(),
    Rayon(),
    OpenVINO(),
    JAX(),
)

# What variables = "all" means: OMP_NUM_THREADS, and for each library that does not listen to it where blasenv
# puts it, that library's own. Not VECLIB_MAXIMUM_THREADS (macOS), not GOTO_NUM_THREADS (OpenBLAS listens to OMP).
ALL_VARIABLES = ("OMP_NUM_THREADS", *(name for rule in RULES for name in rule.own))
# Of these, what begins so must be in os.environ, because Python reads it there.
READ_FROM_MAPPING = tuple(name.partition("_")[0] + "_" for rule in RULES if rule.reads_os_environ for name in rule.own)
# Every variable of a thread count that beats OMP_NUM_THREADS somewhere, or stands for it.
COUNT_VARIABLES = tuple(
    dict.fromkeys(
        name
        for names in (VARIABLES, *(rule.obeys for rule in RULES if not isinstance(rule, KnowsTheQuota)))
        for name in names
        if name.endswith("_THREADS")
    )
)


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
    at = Surroundings(native, python, affinity, cores, online, quota)
    rows = [Library(rule.row or rule.name, *rule.threads(at)) for rule in RULES]
    return list(dict.fromkeys(rows))
