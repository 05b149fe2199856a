"""Runs in the machine of docker-tests/systemd, as root: each case as its user, one JSON line for each."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

MARK = "systemd-case "
QUOTA = "import blasenv; print(blasenv.cpu_quota(), open('/proc/self/cgroup').read().strip())"
CPUSET = "import os; print(os.sched_getaffinity(0))"
# What native code would read, as a shell reads it; and the quota that blasenv found.
SEEN = """
import os, blasenv
print("quota", blasenv.cpu_quota(), flush=True)
os.system('echo "threads ${OMP_NUM_THREADS-unset}"')
"""
UNIT = """\
[Service]
Type=oneshot
CPUQuota=150%
StandardOutput=file:/run/quota
ExecStart=/usr/bin/python3 /machine/seen.py
"""
LIMITED = ("quota 1.5", "threads 1")
LIMIT = ("python3", "-m", "blasenv", "limit", "--quiet", "--cpus", "0.5")

RUN = ("systemd-run", "--quiet", "--property=CPUQuota=150%")
SET = ("systemctl", "set-property", "--runtime", "user-1000.slice")
NSPAWN = (
    "systemd-nspawn", "--quiet", "--directory=/container", "--bind-ro=/machine", "--timezone=off",
    "--property=CPUQuota=150%",
)  # fmt: skip
TOLD = ("--setenv=BLASENV_CPUS=1.5",)


class Case(NamedTuple):
    """One command, who runs it, and what must come of it."""

    name: str
    user: str
    command: tuple[str, ...]
    status: int
    says: tuple[str, ...] = ()
    """Parts of both its outputs."""
    bus: bool = True
    """Whether its environment leads to the user's systemd."""


# `blasenv limit`, as root and as two users.
LIMIT_CASES = (
    Case("root", "root", (*LIMIT, "--", "python3", "-c", QUOTA), 0, ("0.5 0::/", "/blasenv-limit-")),
    # A user may make no cgroup here; systemd makes one.
    Case("user", "able", (*LIMIT, "--", "python3", "-c", QUOTA), 0, ("0.5 0::/user.slice/", ".scope")),
    Case("exit-status", "able", (*LIMIT, "--", "sh", "-c", "exit 37"), 37),
    Case("signal", "able", (*LIMIT, "--", "sh", "-c", "kill -TERM $$"), 143),  # as su tells it
    Case("not-found", "able", (*LIMIT, "--", "no-such-command"), 127, ("no-such-command: command not found",)),
    Case("cpuset", "able", (*LIMIT, "--cpuset", "1", "--", "python3", "-c", CPUSET), 0, ("{1}",)),
    Case("words", "able", (*LIMIT, "--", "printf", "%s|", "a b", "--", "$HOME"), 0, ("a b|--|$HOME|",)),
    Case("user-scope", "able", (*RUN, "--user", "--scope", "python3", "/machine/seen.py"), 0, LIMITED),
    Case("nothing-left", "able", ("systemctl", "--user", "list-units", "--type=scope", "--plain", "--no-legend"), 0),
    Case("no-bus", "able", (*LIMIT, "--", "true"), 1, ("not without XDG_RUNTIME_DIR", "docker run"), bus=False),
    Case("no-controller", "unable", (*LIMIT, "--", "true"), 1, ("systemd set no CPU limit in", "Delegate=cpu")),
)
# Limits that systemd's own settings set.
SYSTEMD_CASES = (
    Case("unlimited", "root", ("python3", "/machine/seen.py"), 0, ("quota None", "threads unset")),
    Case("unit", "root", ("sh", "-c", "systemctl start quota && cat /run/quota"), 0, LIMITED),
    Case("systemd-run", "root", (*RUN, "--pipe", "--wait", "python3", "/machine/seen.py"), 0, LIMITED),
    Case("slice", "root", (*SET, "CPUQuota=180%"), 0),
    Case("session", "able", ("python3", "/machine/seen.py"), 0, ("quota 1.8", "threads 1")),
    Case("slice-undone", "root", (*SET, "CPUQuota="), 0),
    # A known limit: nspawn's cgroup namespace begins below the cgroup that has the quota. It can be told.
    Case("nspawn", "root", (*NSPAWN, "python3", "/machine/seen.py"), 0, ("quota None", "threads unset")),
    Case("nspawn-told", "root", (*NSPAWN, *TOLD, "python3", "/machine/seen.py"), 0, ("threads 1",)),
    Case(
        "nspawn-no-cgns",
        "root",
        ("env", "SYSTEMD_NSPAWN_USE_CGNS=0", *NSPAWN, "python3", "/machine/seen.py"),
        0,
        LIMITED,
    ),
)
CASES = (*LIMIT_CASES, *SYSTEMD_CASES)
USERS = {"root": 0, "able": 1000, "unable": 1001}


def run(case: Case) -> dict[str, object]:
    """Run one case, and what came of it."""
    uid = USERS[case.user]
    environ = {"PATH": os.environ["PATH"], "SYSTEMD_PAGER": "", "HOME": "/tmp"}
    if uid and case.bus:
        environ["XDG_RUNTIME_DIR"] = f"/run/user/{uid}"
    command = ["env", "-i", *(f"{name}={value}" for name, value in environ.items()), *case.command]
    done = subprocess.run(
        # As a login does: in a session of its own below user.slice, and not in our service.
        ["su", case.user, "-s", "/bin/sh", "-c", f"exec {shlex.join(command)}"],
        cwd="/tmp",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return {"name": case.name, "status": done.returncode, "said": done.stdout + done.stderr}


def make_container() -> None:
    """A root directory with this machine's programs."""
    for name in ("dev", "etc", "proc", "run", "sys", "tmp", "usr", "var"):
        os.makedirs(f"/container/{name}")
    for name in ("bin", "lib", "lib64", "sbin"):
        os.symlink(f"usr/{name}", f"/container/{name}")
    subprocess.run(["mount", "--bind", "/usr", "/container/usr"], check=True)


def run_all(cases: Sequence[Case]) -> None:
    """These cases, in their order."""
    for case in cases:
        print(MARK + json.dumps(run(case)) + "\n", end="", flush=True)


def main() -> None:
    """Both rows of cases side by side, as there are two CPUs, and the end."""
    make_container()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run_all, (LIMIT_CASES, SYSTEMD_CASES)))
    print(MARK + json.dumps({"name": "end"}), flush=True)


if __name__ == "__main__":
    main()
