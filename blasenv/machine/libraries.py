"""Recognise BLAS and OpenMP libraries from their files, without loading them."""

from __future__ import annotations

import mmap
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass

# (pattern of the file name, what it is, which thread pool of its own it brings). Wheels add a
# hash to the name (libgomp-a34b3233.so.1.0.0) or a prefix (libscipy_openblas64_-4f1d3d1e.so).
_NAMES = (
    (re.compile(r"lib(scipy_)?openblas"), "OpenBLAS", "pthreads"),
    (re.compile(r"libmkl_intel_thread\."), "MKL", "Intel OpenMP"),
    (re.compile(r"libmkl_gnu_thread\."), "MKL", "GNU OpenMP"),
    (re.compile(r"libmkl_tbb_thread\."), "MKL", "TBB"),
    (re.compile(r"libmkl_(rt|core|sequential)\."), "MKL", ""),
    (re.compile(r"libblis[-.]"), "BLIS", "pthreads"),
    (re.compile(r"libgomp[-.]"), "GNU OpenMP", "OpenMP"),
    (re.compile(r"libiomp5[-.]"), "Intel OpenMP", "OpenMP"),
    (re.compile(r"lib(z?omp|omp5)[-.]"), "LLVM OpenMP", "OpenMP"),
    (re.compile(r"libtorch_cpu\."), "PyTorch", ""),
    (re.compile(r"libtbb(12)?[-.]"), "TBB", "TBB"),
    (re.compile(r"libflexiblas[-.]"), "FlexiBLAS", ""),
    (re.compile(r"libtatlas[-.]"), "ATLAS", "pthreads"),
)
_SHARED_OBJECT = re.compile(r"\.so(\.[0-9.]+)?$")
_NEEDS_OPENMP = re.compile(rb"\0lib(gomp|iomp5|omp)[-.\w]*\.so")
_OPENBLAS_VERSION = re.compile(rb"OpenBLAS (\d+\.\d+\.\d+[.\w]*)")
OPENMP = ("GNU OpenMP", "Intel OpenMP", "LLVM OpenMP")
BLAS = ("OpenBLAS", "MKL", "BLIS", "ATLAS", "FlexiBLAS")


@dataclass(frozen=True, order=True)
class Library:
    """One BLAS or OpenMP library, in a process or on disk."""

    kind: str
    """OpenBLAS, MKL, BLIS, GNU OpenMP …"""
    threading: str
    """What makes its threads: pthreads, OpenMP …; empty when its file doesn't tell."""
    version: str
    """Of OpenBLAS, where its file tells; else empty."""
    path: str

    def __str__(self) -> str:
        words = [self.kind, self.version, f"({self.threading})" if self.kind in ("OpenBLAS", "MKL", "BLIS") else ""]
        return " ".join(word for word in words if word and word != "()")

    @property
    def makes_threads(self) -> bool:
        """Whether threads come from this library itself, and not from an OpenMP library below it."""
        return self.threading in ("pthreads", "OpenMP", "TBB") and not (
            self.kind in BLAS and self.threading == "OpenMP"
        )


def _kind(path: str) -> tuple[str, str] | None:
    name = os.path.basename(path)
    if not _SHARED_OBJECT.search(name):
        return None
    return next(((kind, threading) for pattern, kind, threading in _NAMES if pattern.match(name)), None)


def is_numeric(path: str) -> bool:
    """Whether the file name is that of a BLAS or OpenMP library."""
    return _kind(path) is not None


def recognise(path: str, root: str = "/") -> Library | None:
    """What the library at ``path`` under ``root`` is, None when it is neither BLAS nor OpenMP.

    OpenBLAS and BLIS exist as pthreads and as OpenMP builds under the same file name; which
    one it is shows in the OpenMP runtime it is linked to.
    """
    known = _kind(path)
    if known is None:
        return None
    kind, threading = known
    version = ""
    if kind in ("OpenBLAS", "BLIS"):
        openmp, version = _look_inside(root.rstrip("/") + path)
        threading = {True: "OpenMP", False: "pthreads", None: ""}[openmp]
    return Library(kind, threading, version, path)


_looked_inside: dict[tuple[int, int, int], tuple[bool | None, str]] = {}


def _look_inside(path: str) -> tuple[bool | None, str]:
    """Whether the file asks for an OpenMP runtime, None when unreadable; and OpenBLAS's version in it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return None, ""
            # Many processes have the same library loaded, and it is large.
            same = found.st_dev, found.st_ino, found.st_mtime_ns
            if same not in _looked_inside:
                with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as contents:
                    version = _OPENBLAS_VERSION.search(contents)
                    openmp = _NEEDS_OPENMP.search(contents) is not None
                    _looked_inside[same] = openmp, version.group(1).decode() if version else ""
            return _looked_inside[same]
        finally:
            os.close(fd)
    except (OSError, ValueError):  # ValueError: an empty file
        return None, ""


def parse_maps(contents: bytes) -> list[str]:
    """The files mapped into a process, each once, from /proc/PID/maps.

    proc_pid_maps(5): ``address perms offset dev inode pathname``; the path runs to the end of
    the line, and " (deleted)" is added when the file is gone.
    """
    paths: dict[str, None] = {}
    for line in contents.split(b"\n"):
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[5].startswith(b"/"):
            path = fields[5]
            paths[os.fsdecode(path[:-10] if path.endswith(b" (deleted)") else path)] = None
    return list(paths)


def recognise_all(paths: Iterable[str], root: str = "/") -> list[Library]:
    """The BLAS and OpenMP libraries among ``paths``, sorted; MKL's several files count as one."""
    found = [library for library in (recognise(path, root) for path in paths) if library is not None]
    # libmkl_rt and libmkl_core say nothing that the threading layer beside them doesn't say better.
    layered = any(library.kind == "MKL" and library.threading for library in found)
    seen_mkl = False
    kept = []
    for library in sorted(found):
        if library.kind == "MKL" and not library.threading:
            if layered or seen_mkl:
                continue
            seen_mkl = True
        kept.append(library)
    return kept
