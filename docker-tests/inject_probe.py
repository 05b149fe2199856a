"""What a Python process in a container got that nobody prepared for blasenv, as one JSON object. Any Python runs it."""

import ctypes
import json
import os
import sys

getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
value = getenv(b"OMP_NUM_THREADS")
by = getattr(sys, "_blasenv", None)
with open("/proc/self/mountinfo") as mounts:
    mounted = [line.split() for line in mounts if line.split()[4] == "/.blasenv"]
print(
    json.dumps(
        {
            "native": value and value.decode(),
            "visible": os.environ.get("OMP_NUM_THREADS"),
            "by": by and by.by,
            "on the path": "/.blasenv" in sys.path,
            "PYTHONPATH": os.environ.get("PYTHONPATH"),
            "own": os.environ.get("OWN_SITECUSTOMIZE"),
            "compiled": getattr(getattr(sys.modules.get("_blasenv_startup"), "__spec__", None), "cached", None),
            "read-only": bool(mounted) and "ro" in mounted[0][5].split(","),
            "uid": os.getuid(),
            "python": "{}.{}".format(*sys.version_info),
        }
    )
)
