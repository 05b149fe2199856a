"""What runs inside the 48-CPU machine: every case, each result a line of JSON on the console.

The first half runs without blasenv on the disk; then its wheel is installed, and the second
half runs with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
import zipfile
from importlib.metadata import version
from pathlib import Path

from machine_cases import (
    COMMANDS,
    DECISIONS,
    FOUR,
    LOADS,
    QUOTA,
    ROUNDS,
    SECONDS,
    SERVERS,
    SWEEP,
    Command,
    Decision,
    Server,
)

CGROUPS = Path("/sys/fs/cgroup")
MARK = "RESULT "  # the kernel may write to the console, too
PROGRAM = ("/usr/bin/python3", "/machine/machine_program.py")
ENVIRON = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}

# Become a member of the cgroup "$0", then run the rest of the command line.
ENTER = ("sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"')
# In a new cgroup namespace, a mount of cgroup2 shows the namespace's root and what is below it.
REMOUNT = ("sh", "-c", 'umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"', "sh")

PROBE = """
import ctypes, json, os, sys
blasenv = sys.modules.get("blasenv")
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
value = getenv(b"OMP_NUM_THREADS")
started = None
if sys.argv[1:] == ["numpy"]:
    import numpy
    numpy.ones((100, 100)) @ numpy.ones((100, 100))
    started = len(os.listdir("/proc/self/task"))
print(json.dumps({
    "rule": blasenv.run().rule if blasenv else "not loaded",
    "value": value and value.decode(),
    "threads": started,
}))
"""


def tell(kind: str, **result: object) -> None:
    """Send one result to the host."""
    print(MARK + json.dumps({"kind": kind, **result}), flush=True)


def make_groups(limits: tuple[str, ...]) -> list[Path]:
    """Nested cgroups with these limits, outermost first."""
    groups: list[Path] = []
    parent = CGROUPS
    for number, limit in enumerate(limits):
        if number:
            (parent / "cgroup.subtree_control").write_text("+cpu +cpuset")
        parent = parent / ("pod" if number == 0 else f"container{number}")
        parent.mkdir()
        groups.append(parent)
        if limit == "weight":
            (parent / "cpu.weight").write_text("1")
        elif limit:
            (parent / "cpu.max").write_text(limit)
    return groups


def run_in(group: Path, command: tuple[str, ...], environ: dict[str, str]) -> dict[str, object]:
    """The JSON that a command prints, started as a member of ``group``; its complaints in "stderr"."""
    done = subprocess.run(
        [*ENTER, str(group), *command], env=environ, cwd="/", capture_output=True, text=True, check=False, timeout=300
    )
    try:
        result: dict[str, object] = json.loads(done.stdout)
    except ValueError:
        result = {"stdout": done.stdout}
    if done.stderr or done.returncode:
        result["stderr"] = f"status {done.returncode}: {done.stderr[-400:]}"
    return result


def check_decision(case: Decision, numpy: bool) -> dict[str, object]:
    """Start Python where the case says, and ask it what was decided."""
    groups = make_groups(case.groups)
    if case.cpuset:
        (groups[-1] / "cpuset.cpus").write_text(case.cpuset)
    start, command = groups[-1], ("/usr/bin/python3", "-c", PROBE, *(["numpy"] if numpy else []))
    if case.affinity:
        command = ("taskset", "-c", case.affinity, *command)
    if case.namespace == "bare":
        command = ("unshare", "--cgroup", *command)
    elif case.namespace == "own":
        command = ("unshare", "--cgroup", "--mount", *REMOUNT, *command)
    elif case.namespace == "parent":
        start = groups[-2]
        # A group that hands controllers down can have no member of its own (cgroup-v2.rst, No Internal Process).
        (start / "cgroup.subtree_control").write_text("-cpu -cpuset")
        command = ("unshare", "--cgroup", "--mount", *REMOUNT, *ENTER, f"/sys/fs/cgroup/{groups[-1].name}", *command)
    try:
        return run_in(start, command, {**ENVIRON, **case.environ})
    finally:
        for group in reversed(groups):
            group.rmdir()


def read_stat(group: Path) -> dict[str, int]:
    """The counters of cpu.stat (cgroup-v2.rst, CPU Interface Files); no periods are counted without a quota."""
    pairs = (line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return {name: int(value) for name, value in pairs}


def measure(program: str, quota: int | None, threads: int | None, seconds: float) -> dict[str, object]:
    """The threads of a program at work, and what its cgroup counts meanwhile.

    The quota is on the parent of the program's group. ``threads`` is its OMP_NUM_THREADS, if
    not None. A single call may take a minute here, so the program is looked at for some seconds
    and then ended, whatever it has reached.
    """
    pod, container = make_groups((FOUR if quota else "", ""))
    environ = ENVIRON if threads is None else {**ENVIRON, "OMP_NUM_THREADS": str(threads)}
    command = [*ENTER, str(container), *PROGRAM, program]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        ready = process.stdout.readline()
        before, start = read_stat(pod), time.monotonic()
        time.sleep(seconds)
        after, elapsed = read_stat(pod), time.monotonic() - start
        started = len(os.listdir(f"/proc/{process.pid}/task")) if ready else 0
        (pod / "cpu.max").write_text("max")  # or it would die as slowly as it works
        process.kill()
    container.rmdir()
    pod.rmdir()
    names = ("nr_periods", "nr_throttled", "throttled_usec", "usage_usec")
    counted = {name: after.get(name, 0) - before.get(name, 0) for name in names}
    return {"threads": started, "usec": int(elapsed * 1e6), **counted}


def serve(case: Server) -> dict[str, object]:
    """The threads of each process of a server, when all its processes are there and start no more."""
    pod, container = make_groups((FOUR, ""))
    kind = next((name for name in ("gunicorn", "celery") if name in case.command), "")
    environ = {**ENVIRON, "SERVER": kind, "C_FORCE_ROOT": "1", **case.environ}
    said = Path("/tmp/server")
    seen: list[int] = []
    with said.open("w") as log:
        server = subprocess.Popen([*ENTER, str(container), *case.command], env=environ, stdout=log, stderr=log)
        try:
            still, deadline = 0, time.monotonic() + 150
            while still < 4 and time.monotonic() < deadline and server.poll() is None:
                time.sleep(1)
                pids = (container / "cgroup.procs").read_text().split()
                now = sorted(len(os.listdir(f"/proc/{pid}/task")) for pid in pids if os.path.isdir(f"/proc/{pid}"))
                workers = [threads for threads in now if threads == case.threads]
                done = len(now) >= case.processes and (case.threads is None or len(workers) >= case.processes - 1)
                still = still + 1 if now == seen and done else 0
                seen = now
        finally:
            (pod / "cpu.max").write_text("max")
            (container / "cgroup.kill").write_text("1")
            server.wait()
    for group in (container, pod):
        for _ in range(300):  # until the last of many threads is gone
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.1)
    return {"processes": len(seen), "threads": seen, "said": said.read_text()[-600:]}


def run_command(case: Command) -> dict[str, object]:
    """What a command of blasenv says, while a program that never heard of blasenv is at work if it asks for one."""
    pod, container = make_groups((FOUR, ""))
    program = None
    try:
        if "{pid}" in case.arguments:
            environ = {**ENVIRON, "BLASENV_DISABLE": "1"}
            command = [*ENTER, str(container), *PROGRAM, "matmul + solve"]
            program = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
            assert program.stdout
            program.stdout.readline()
        arguments = [word.format(pid=program.pid) if program else word for word in case.arguments]
        done = subprocess.run(
            [*ENTER, str(container if case.limited else CGROUPS), "/usr/bin/python3", "-m", "blasenv", *arguments],
            env={**ENVIRON, "COLUMNS": "80"}, cwd="/", capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    finally:
        (pod / "cpu.max").write_text("max")
        if program:
            program.kill()
            program.wait()
        container.rmdir()
        pod.rmdir()


def install(wheel: Path) -> None:
    """What pip does with a wheel of pure Python."""
    zipfile.ZipFile(wheel).extractall(sysconfig.get_path("purelib"))


def main() -> None:
    """All cases of the form that the command line names, "short" or "full"."""
    form = sys.argv[1]
    short, seconds, rounds = form == "short", SECONDS[form], ROUNDS[form]
    tell("machine", kernel=os.uname().release, cpus=len(os.sched_getaffinity(0)), numpy=version("numpy"),
         scipy=version("scipy"), membership=Path("/proc/self/cgroup").read_text())  # fmt: skip
    for variant in ("default", "by hand", "blasenv"):
        if variant == "blasenv":
            (wheel,) = Path("/machine").glob("*.whl")
            install(wheel)
        for _ in range(rounds):
            for load in LOADS:
                if load.variant == variant and (load.short or not short):
                    by_hand = QUOTA if variant == "by hand" else None
                    tell("load", name=load.name, result=measure(load.program, load.quota, by_hand, seconds))
        for server in SERVERS if variant != "by hand" else ():
            if server.variant == variant and (server.short or not short):
                tell("server", name=f"{server.name}, {variant}", result=serve(server))
    for case in DECISIONS:
        if case.short or not short:
            tell("decision", name=case.name, result=check_decision(case, numpy=not short))
    for command in COMMANDS:
        if command.short or not short:
            tell("command", name=command.name, result=run_command(command))
    for _ in range(0 if short else rounds):
        for threads in SWEEP:
            tell("sweep", name=str(threads), result=measure("matmul + solve", QUOTA, threads, seconds))
    tell("end")


if __name__ == "__main__":
    main()
