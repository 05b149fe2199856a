"""The thread pools of the libraries that are loaded in this process: find them, read their counts, set them.

`refresh` imports this file, and `heal` sends its text to another process, where blasenv need not be
installed. So it imports nothing of blasenv and nothing that is costly, prints nothing, keeps what it must
remember in ``sys``, where both find it, and never touches the environment: putenv in a process that has
threads is a race (https://github.com/python/cpython/issues/120513).

The setters are those that each library documents:

- OpenBLAS: openblas_set_num_threads. PyPI's builds put scipy_ in front of it, and builds with 64-bit integers
  put 64_ behind it. Where it was built on OpenMP, OpenMP's own number overrides it at each call
  (https://github.com/OpenMathLib/OpenBLAS/issues/5806), so that number counts, and is set, too.
- MKL: MKL_Set_Num_Threads, for the whole process. (MKL_Set_Num_Threads_Local is the calling thread's.)
- BLIS: bli_thread_set_num_threads, for the whole process; FlexiBLAS: flexiblas_set_num_threads.
- OpenMP: omp_set_num_threads, which counts for the calling thread only
  (OpenMP 5.2, 18.2.1; https://github.com/joblib/threadpoolctl/issues/207).
- PyTorch, NumExpr, Numba, PyArrow: through their Python modules, if the program has imported them.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

MEMORY = "_blasenv_live"  # in sys: {pool: (what it had before us, what we set)}
OPENBLAS = [f"{prefix}openblas_%s_num_threads{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "", "_64")]
OPENMP = ("libgomp", "libiomp5", "libomp")
# What the user sets for one library, which beats OMP_NUM_THREADS there, and so beats us.
OWN_VARIABLES = {
    "OpenBLAS": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS"),
    "MKL": ("MKL_NUM_THREADS",),
    "PyTorch": ("MKL_NUM_THREADS",),
    "BLIS": ("BLIS_NUM_THREADS",),
    "NumExpr": ("NUMEXPR_NUM_THREADS",),
    "Numba": ("NUMBA_NUM_THREADS",),
}


class Pool:
    """One library that has a thread count, and how to read and set it."""

    def __init__(self, kind: str, path: str, read: Callable[[], int], write: Callable[[int], Any]) -> None:
        self.kind = kind
        self.path = path
        self.read = read
        self.write = write
        self.bound = False
        """Whether the count belongs to the thread that sets it, as OpenMP's does."""
        self.cores = False
        """Whether the library counts cores by itself, and not CPUs."""


class Closed:
    """A library that is loaded and can't be set, and why."""

    def __init__(self, kind: str, path: str, why: str) -> None:
        self.kind = kind
        self.path = path
        self.why = why


def mapped() -> list[str]:
    """The shared objects of this process, each once, from /proc/self/maps (proc_pid_maps(5))."""
    with open("/proc/self/maps", "rb") as file:
        contents = file.read()
    paths: dict[str, None] = {}
    for line in contents.split(b"\n"):
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[5].startswith(b"/") and b".so" in fields[5]:
            paths[os.fsdecode(fields[5])] = None
    return list(paths)


def find() -> Iterator[Pool | Closed]:
    """Every pool of this process, in the order in which they are to be set.

    PyTorch comes first: its setter calls those of OpenMP and MKL. An OpenBLAS on OpenMP comes last,
    because its count follows OpenMP's.
    """
    yield from _modules()
    late = []
    for pool in _libraries():
        if pool.kind == "OpenBLAS":
            late.append(pool)
        else:
            yield pool
    yield from late


def _libraries() -> Iterator[Pool | Closed]:
    try:
        import ctypes
    except ImportError:  # Debian's python3-minimal
        for path in mapped():
            if _is_known(os.path.basename(path)):
                yield Closed(_kind(os.path.basename(path)), path, "this Python has no ctypes to call it with")
        return
    for path in mapped():
        name = os.path.basename(path)
        if not _is_known(name):
            continue
        kind = _kind(name)
        try:
            # RTLD_NOLOAD: what is loaded, and nothing else.
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        except OSError:
            yield Closed(kind, path, "its file has been replaced or removed since it was loaded")
            continue
        pool = _pool(kind, path, library)
        if pool is not None:
            yield pool


def _is_known(name: str) -> bool:
    return name.startswith(
        ("libopenblas", "libscipy_openblas", "libmkl_", "libblis", "libflexiblas", "libtatlas", *OPENMP)
    )


def _kind(name: str) -> str:
    for prefix, kind in (
        ("libmkl_", "MKL"),
        ("libblis", "BLIS"),
        ("libflexiblas", "FlexiBLAS"),
        ("libtatlas", "ATLAS"),
        ("libgomp", "GNU OpenMP"),
        ("libiomp5", "Intel OpenMP"),
        ("libomp", "LLVM OpenMP"),
    ):
        if name.startswith(prefix):
            return kind
    return "OpenBLAS"


def _pool(kind: str, path: str, library: Any) -> Pool | Closed | None:
    if kind == "OpenBLAS":
        return _openblas(path, library)
    if kind == "MKL":
        # One of several files has the setter: libmkl_rt, or the interface layer.
        if not _has(library, "MKL_Set_Num_Threads", "MKL_Get_Max_Threads") or not _first_mkl(path):
            return None
        pool = Pool(kind, path, library.MKL_Get_Max_Threads, library.MKL_Set_Num_Threads)
        pool.cores = True
        return pool
    if kind == "BLIS" and _has(library, "bli_thread_set_num_threads", "bli_thread_get_num_threads"):
        import ctypes

        # Its integers are 64 bits wide (dim_t), and -1 stands for "nobody said", which means 1.
        library.bli_thread_get_num_threads.restype = ctypes.c_int64
        library.bli_thread_set_num_threads.argtypes = [ctypes.c_int64]
        return Pool(
            kind, path, lambda: max(1, library.bli_thread_get_num_threads()), library.bli_thread_set_num_threads
        )
    if kind == "FlexiBLAS" and _has(library, "flexiblas_set_num_threads", "flexiblas_get_num_threads"):
        return Pool(kind, path, lambda: max(1, library.flexiblas_get_num_threads()), library.flexiblas_set_num_threads)
    if kind.endswith("OpenMP") and _has(library, "omp_set_num_threads", "omp_get_max_threads"):
        pool = Pool(kind, path, library.omp_get_max_threads, library.omp_set_num_threads)
        pool.bound = True
        return pool
    return Closed(kind, path, "it has no function that sets its count")


def _first_mkl(path: str) -> bool:
    """Whether this file of MKL is the one to ask: libmkl_rt, or else the first one with the setter."""
    files = [found for found in mapped() if os.path.basename(found).startswith("libmkl_")]
    runtime = [found for found in files if os.path.basename(found).startswith("libmkl_rt")]
    return path == (runtime or files)[0] or (not runtime and "_lp64" in path)


def _has(library: Any, *names: str) -> bool:
    return all(hasattr(library, name) for name in names)


def _openblas(path: str, library: Any) -> Pool | Closed:
    for template in OPENBLAS:
        if _has(library, template % "get", template % "set"):
            read, write = library[template % "get"], library[template % "set"]
            parallel = template.replace("%s_num_threads", "get_parallel")
            # openblas_get_parallel: 0 without threads, 1 with its own, 2 on OpenMP.
            how = library[parallel]() if _has(library, parallel) else 1
            if how == 0:
                return Closed("OpenBLAS", path, "it was built without threads")
            if how == 2 and _has(library, "omp_set_num_threads", "omp_get_max_threads"):

                def both(threads: int, write: Callable[[int], Any] = write) -> None:
                    library.omp_set_num_threads(threads)
                    write(threads)

                pool = Pool("OpenBLAS", path, library.omp_get_max_threads, both)
                pool.bound = True
                return pool
            return Pool("OpenBLAS", path, read, write)
    return Closed("OpenBLAS", path, "it has no function that sets its count")


def _modules() -> Iterator[Pool | Closed]:
    """The pools that Python modules have, of those that are imported."""
    for name, kind, setter, getter in (
        ("torch", "PyTorch", "set_num_threads", "get_num_threads"),
        ("numexpr", "NumExpr", "set_num_threads", "get_num_threads"),
        ("numba", "Numba", "set_num_threads", "get_num_threads"),
        ("pyarrow", "PyArrow", "set_cpu_count", "cpu_count"),
    ):
        module = sys.modules.get(name)
        if module is None:
            continue
        if getattr(getattr(module, "__spec__", None), "_initializing", False):
            yield Closed(kind, name, "it is being imported; afterwards it counts by itself")
            continue
        read, write = getattr(module, getter, None), getattr(module, setter, None)
        if name == "numexpr" and read is None:
            read = lambda module=module: module.nthreads  # noqa: E731  before NumExpr 2.9
        if name == "numba" and not _numba_started():
            yield Closed(kind, name, "it has started no threads yet, and asking it would start them")
        elif callable(read) and callable(write):
            pool = Pool(kind, name, read, write)
            pool.cores = name == "torch"
            pool.bound = name == "numba"
            yield pool
        else:
            yield Closed(kind, name, f"it has no {setter}")


def _numba_started() -> bool:
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    return bool(getattr(parallel, "_is_initialized", False))


def listed(environ: dict[str, str], name: str) -> dict[str, str]:
    """What blasenv's hook says in a variable that it set, by variable.

    BLASENV_SET has the counts with which this process started, BLASENV_MARK those of them that stand in
    os.environ and are not the user's.
    """
    return dict(item.partition("=")[::2] for item in environ.get(name, "").split())


def memory() -> dict[tuple[str, str], tuple[int, int]]:
    """What was done to each pool of this process: {(kind, path): (what it had before us, what we set)}."""
    found: dict[tuple[str, str], tuple[int, int]] = vars(sys).setdefault(MEMORY, {})
    return found


def wanted(
    pool: Pool, before: int, threads: int | None, most_cpus: int, environ: dict[str, str]
) -> tuple[int | None, str]:
    """The count that a pool is to get, None to leave it alone, and a remark about it.

    ``most_cpus`` is what it would count by itself at its start. Never raised is what neither the hook
    nor we lowered. What the user set for this library stays.
    """
    marked, started_with = listed(environ, "BLASENV_MARK"), listed(environ, "BLASENV_SET").values()
    for name in ("OMP_NUM_THREADS", *OWN_VARIABLES.get(pool.kind, ())):
        if environ.get(name) and marked.get(name) != environ[name]:
            return None, f"left alone: {name}={environ[name]} is in its environment"
    before_us, set_by_us = memory().get((pool.kind, pool.path), (before, None))
    # At start-up the hook's value was lower than what the library would have counted.
    by_hook = str(before_us) in started_with
    most = most_cpus if by_hook else before_us
    if set_by_us is not None and set_by_us != before:
        if threads is None or before <= threads:
            return None, f"left alone: the program set {before} itself"
        most, by_hook = before, False
    elif set_by_us is None and not by_hook and (threads is None or before <= threads):
        return None, ""
    count = most if threads is None else min(threads, most)
    return (None, "") if count == before else (count, "")


def change(
    threads: int | None, cpus: int, cores: int, *, force: bool = False, heed: bool = True, bound: bool = True
) -> list[dict[str, Any]]:
    """Give every pool of this process ``threads``, and report each: before, after as read back, and a remark.

    None puts back what it had: there is no limit (any more) below the CPUs. ``force`` sets exactly
    ``threads`` everywhere, also above what was there. Without ``heed``, variables of the user don't count
    (the owner's ``override``). Without ``bound``, pools whose count belongs to the calling thread are only
    reported.
    """
    environ = dict(os.environ) if heed else {}
    others = len(sys._current_frames()) - 1
    rows: list[dict[str, Any]] = []
    read: list[tuple[Pool, dict[str, Any]]] = []
    # All are read before the first is set: MKL's count follows that of the OpenMP below it.
    for pool in find():
        row: dict[str, Any] = {"kind": pool.kind, "path": pool.path, "before": None, "after": None, "remark": ""}
        rows.append(row)
        if isinstance(pool, Closed):
            row["remark"] = f"can't be set: {pool.why}"
        elif _tried(row, pool.read, "before"):
            read.append((pool, row))
    written = []
    for pool, row in read:
        before = row["before"]
        count, row["remark"] = wanted(pool, before, threads, cores if pool.cores else cpus, environ)
        if force and threads is not None:
            count, row["remark"] = (threads if threads != before else None), ""
        if count is not None and (bound or not pool.bound) and _tried(row, pool.write, count=count):
            written.append((pool, row, count))
    for pool, row in read:
        _tried(row, pool.read, "after")
    for pool, row, count in written:
        before, after = row["before"], row["after"]
        key = (pool.kind, pool.path)
        before_us = memory().get(key, (before, None))[0]
        if after != count and after == before:
            row["remark"] = f"can't be set: it stays at {after}"
        elif threads is None:
            memory().pop(key, None)
        elif after is not None:
            memory()[key] = (before_us, after)
        if pool.bound and others and after != before:
            keep = "s keep" if others > 1 else " keeps"
            row["remark"] = f"for this thread; {others} other Python thread{keep} its own count"
    return rows


def _tried(row: dict[str, Any], call: Callable[..., Any], field: str = "", count: int | None = None) -> bool:
    """Call a library's function, with a count or for one; whatever it raises is a remark, and the others go on."""
    try:
        found = call() if count is None else call(count)
        if field:
            row[field] = int(found)
    except Exception as error:  # noqa: BLE001
        row["remark"] = f"can't be set: {type(error).__name__}: {error}"
        return False
    return True
