"""Runs in the machine of docker-tests/systemd, as root: each case as its user, one JSON line for each."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from typing import NamedTuple

MARK = "systemd-case "
QUOTA = "import blasenv; print(blasenv.cpu_quota(), open('/proc/self/cgroup').read().strip())"
CPUSET = "import os; print(os.sched_getaffinity(0))"
LIMIT = ("python3", "-m", "blasenv", "limit", "--quiet", "--cpus", "0.5")


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


CASES = (
    Case("root", "root", (*LIMIT, "--", "python3", "-c", QUOTA), 0, ("0.5 0::/", "/blasenv-limit-")),
    # A user may make no cgroup here; systemd makes one.
    Case("user", "able", (*LIMIT, "--", "python3", "-c", QUOTA), 0, ("0.5 0::/user.slice/", ".scope")),
    Case("exit-status", "able", (*LIMIT, "--", "sh", "-c", "exit 37"), 37),
    Case("signal", "able", (*LIMIT, "--", "sh", "-c", "kill -TERM $$"), 143),  # as su tells it
    Case("not-found", "able", (*LIMIT, "--", "no-such-command"), 127, ("no-such-command: command not found",)),
    Case("cpuset", "able", (*LIMIT, "--cpuset", "1", "--", "python3", "-c", CPUSET), 0, ("{1}",)),
    Case("words", "able", (*LIMIT, "--", "printf", "%s|", "a b", "--", "$HOME"), 0, ("a b|--|$HOME|",)),
    Case("nothing-left", "able", ("systemctl", "--user", "list-units", "--type=scope", "--plain", "--no-legend"), 0),
    Case("no-bus", "able", (*LIMIT, "--", "true"), 1, ("not without XDG_RUNTIME_DIR", "docker run"), bus=False),
    Case("no-controller", "unable", (*LIMIT, "--", "true"), 1, ("systemd set no CPU limit in", "Delegate=cpu")),
)
USERS = {"root": 0, "able": 1000, "unable": 1001}


def run(case: Case) -> dict[str, object]:
    """Run one case, and what came of it."""
    uid = USERS[case.user]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": "/machine", "SYSTEMD_PAGER": "", "HOME": "/tmp"}
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


def main() -> None:
    """All cases, in their order, and the end."""
    for case in CASES:
        print(MARK + json.dumps(run(case)), flush=True)
    print(MARK + json.dumps({"name": "end"}), flush=True)


if __name__ == "__main__":
    main()
