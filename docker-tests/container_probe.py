"""What a Python process in a container got, as one JSON object. Runs in the image; exits with 7.

Says nothing of blasenv's own opinion except the rule: the thread count is what numpy started,
the variable is what getenv(3) returns to a native library.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from importlib.util import cache_from_source

EXIT_STATUS = 7


def native(name: str) -> str | None:
    """The variable as a C library sees it."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    value = getenv(name.encode())
    return None if value is None else str(value, "utf-8")


def numpy_threads() -> int:
    """The threads of this process once OpenBLAS has worked: its own, and the main one, which works too."""
    import numpy as np

    square = np.ones((256, 256))
    np.dot(square, square)
    return len(os.listdir("/proc/self/task"))


def status(field: str) -> str:
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith(field + ":"))


def masked_proc() -> bool:
    """Whether files of /proc are covered by other mounts, as Docker does by default."""
    with open("/proc/self/mountinfo") as file:
        return any(line.split()[4].startswith("/proc/") for line in file)


def main() -> None:
    hook = sys.modules.get("blasenv")  # the hook imported it, or nobody did
    seen = {
        "native": native("OMP_NUM_THREADS"),
        "visible": os.environ.get("OMP_NUM_THREADS"),
        "receipt": os.environ.get("BLASENV_SET"),
        "rule": hook.run().rule if hook else None,  # run() returns what it decided at the start
        "threads": numpy_threads(),
        "shell": subprocess.run(
            ["sh", "-c", 'printf %s "${OMP_NUM_THREADS-unset}"'], stdout=subprocess.PIPE, check=True
        ).stdout.decode(),
        "python": "{}.{}".format(*sys.version_info),
        "prefix": sys.prefix,
        "uid": os.getuid(),
        "capabilities": int(status("CapEff"), 16),
        "no-new-privileges": int(status("NoNewPrivs")),
        "seccomp": int(status("Seccomp")),
        "masked-proc": masked_proc(),
        "read-only": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
        "pyc": hook is not None and os.path.exists(cache_from_source(str(hook.__file__))),
    }
    print(json.dumps(seen))
    sys.exit(EXIT_STATUS)


if __name__ == "__main__":
    main()
