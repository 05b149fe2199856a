"""What a process sees of blasenv, as JSON on stdout. Run by the tests in every way Python can be started."""

import sys

modules = sorted(sys.modules)  # before this file imports anything itself

import ctypes  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402

getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p


def native(name: str) -> "str | None":
    """The variable as C code sees it."""
    value = getenv(name.encode())
    return None if value is None else os.fsdecode(value)


def ours(name: str) -> bool:
    """Whether a variable is of a kind that blasenv may set."""
    return name.startswith("BLASENV_") or name.endswith("_THREADS")


blasenv = sys.modules.get("blasenv")
print(
    json.dumps(
        {
            "modules": modules,
            "environ": {name: value for name, value in os.environ.items() if ours(name)},
            "native": native("OMP_NUM_THREADS"),
            "receipt": native("BLASENV_SET"),
            "rule": blasenv.run().rule if blasenv else None,
            "fds": sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else [],
        }
    ),
    flush=True,
)
