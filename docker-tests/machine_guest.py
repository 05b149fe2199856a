"""What runs inside the 48-CPU machine: every case, each result a line of JSON on the console.

    machine_guest.py FORM KIND:DONE,KIND:DONE...

Each kind of result is a list of steps; DONE says how many of them a machine before this one got to, which
are left out. blasenv is on the disk where a step asks for it, and only there.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from machine_cases import (
    ANSWERS,
    COMMANDS,
    CONTAINERS,
    CROWDS,
    DECISIONS,
    FOUR,
    LOADS,
    MEMORY,
    PIDS,
    QUOTA,
    ROOM,
    ROUNDS,
    SECONDS,
    SERVERS,
    SWEEP,
    Answer,
    Command,
    Container,
    Decision,
    Server,
)

CGROUPS = Path("/sys/fs/cgroup")
MARK = "RESULT "  # the kernel may write to the console, too
PROGRAM = ("/usr/bin/python3", "/machine/machine_program.py")
ASK = ("/usr/bin/python3", "/machine/machine_probe.py")
CONTROLLERS = ("cpu", "cpuset", "memory", "pids")
Asked = dict[str, Any]
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


def hand_down(group: Path, sign: str = "+") -> None:
    """Let the groups below have the controllers, or with "-" no longer."""
    (group / "cgroup.subtree_control").write_text(" ".join(sign + name for name in CONTROLLERS))


def make_groups(limits: tuple[str, ...]) -> list[Path]:
    """Nested cgroups with these limits, outermost first."""
    groups: list[Path] = []
    parent = CGROUPS
    for number, limit in enumerate(limits):
        if number:
            hand_down(parent)
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
        hand_down(start, "-")
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


def measure(program: str, limit: str, threads: int | None, seconds: float, slice_usec: int = 5000) -> Asked:
    """The threads of a program at work, and what its cgroup counts meanwhile.

    ``limit`` is the cpu.max of the parent of the program's group, "" for none. ``threads`` is its OMP_NUM_THREADS,
    if not None. A CPU fetches ``slice_usec`` of the quota at a time (sched-bwc.rst, sched_cfs_bandwidth_slice_us).
    A single call may take a minute here, so the program is looked at for some seconds and then ended, whatever it
    has reached.
    """
    Path("/proc/sys/kernel/sched_cfs_bandwidth_slice_us").write_text(str(slice_usec))
    pod, container = make_groups((limit, ""))
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


def ask(
    what: str,
    quota: bool = True,
    cpus: int | None = None,
    pids: int | None = None,
    environ: dict[str, str] | None = None,
) -> Asked:
    """What machine_probe.py answers in a group with this limit, so many CPUs and so many processes.

    With its exit status, what it said on stderr, and the most memory that the kernel counted for the group, in kB.
    """
    pod, container = make_groups((FOUR if quota else "", ""))
    try:
        if cpus:
            (container / "cpuset.cpus").write_text(f"0-{cpus - 1}")
        if pids:
            (container / "pids.max").write_text(str(pids))
        done = subprocess.run(
            [*ENTER, str(container), *ASK, what], env={**ENVIRON, **(environ or {})}, cwd="/",
            capture_output=True, text=True, check=False, timeout=230,
        )  # fmt: skip
        return {
            "status": done.returncode if done.returncode >= 0 else 128 - done.returncode,  # as a shell tells a signal
            "said": done.stderr,
            "peak": int((container / "memory.peak").read_text()) >> 10,
            **(json.loads(done.stdout) if done.stdout else {}),
        }
    finally:
        container.rmdir()
        pod.rmdir()


def answer(case: Answer) -> Asked:
    """The bits of some results. A thread that has nothing to do sleeps at once, which changes only the time."""
    environ = {"OPENBLAS_THREAD_TIMEOUT": "4", "OMP_WAIT_POLICY": "passive"}
    if case.variant == "by hand":
        environ["OMP_NUM_THREADS"] = str(case.threads)
    if case.processor:
        environ["OPENBLAS_CORETYPE"] = case.processor
    return ask("answers", quota=case.variant == "blasenv", cpus=case.cpus, environ=environ)


IMAGES = Path("/srv/images")
CODE = Path("/srv/blasenv")  # where the engine's side has it: no image sees this
UID = 1000
RUNTIME = """\
#!/bin/sh
PYTHONPATH={code} exec /usr/bin/python3 -c 'import sys; from blasenv.inject.runtime import main; sys.exit(main())' \\
    --startup {code}/startup --real-runtime {real} "$@"
"""
CONTAINED = """
import ctypes, json, os, sys
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
value = getenv(b"OMP_NUM_THREADS")
by = getattr(sys, "_blasenv", None)
import numpy
numpy.ones((100, 100)) @ numpy.ones((100, 100))
print(json.dumps({
    "limit": open("/sys/fs/cgroup/cpu.max").read().strip(),
    "value": value and value.decode(),
    "by": by and by.by,
    "threads": len(os.listdir("/proc/self/task")),
}))
"""


def prepare_podman(wheel: Path) -> None:
    """A root directory of each user's to make containers from, blasenv's runtime, and a user who may run Podman."""
    if IMAGES.exists():
        return
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    subprocess.run(["useradd", "--create-home", "--uid", str(UID), "able"], check=True)  # with its rows of subuid(5)
    for path, owner in ((IMAGES / "root", 0), (IMAGES / "able", UID), (Path("/run/user/1000"), UID)):
        path.mkdir(parents=True)
        os.chown(path, owner, owner)
    for image in IMAGES.iterdir():
        for name in ("etc", "usr", "machine", "proc", "sys", "dev", "tmp", "run"):
            (image / name).mkdir()
        for link in ("bin", "sbin", "lib", "lib64"):
            (image / link).symlink_to(f"usr/{link}")
        shutil.copy("/etc/ld.so.cache", image / "etc")
        subprocess.run(["chown", "-R", "--no-dereference", f"--reference={image}", image], check=True)
        for name in ("usr", "machine"):  # what is installed there is in the image
            subprocess.run(["mount", "--bind", f"/{name}", image / name], check=True)
    zipfile.ZipFile(wheel).extractall(CODE)
    export = [sys.executable, "-m", "blasenv", "inject", "export", str(CODE / "startup")]
    subprocess.run(export, env={**ENVIRON, "PYTHONPATH": str(CODE)}, check=True, stdout=subprocess.DEVNULL)
    for name in ("crun", "runc"):
        script = CODE / f"runtime-{name}"
        script.write_text(RUNTIME.format(code=CODE, real=f"/usr/bin/{name}"))
        script.chmod(0o755)


def contain(case: Container) -> Asked:
    """Run Python in a container of Podman's, without an image store: the rootless user has delegated cgroups.

    The engine's own cgroup is "pod"; rootless, the container's is below that one, as systemd would arrange it.
    """
    prepare_podman(find_wheel())
    runtime = f"{CODE}/runtime-{case.runtime}" if case.way in ("runtime", "exec") else f"/usr/bin/{case.runtime}"
    podman = ["podman", "--runtime", runtime, "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs",
              "--events-backend", "none"]  # fmt: skip
    flags = ["--network", "none", *shlex.split(case.flags)]
    python = ["python3", "-c", CONTAINED]
    environ = ENVIRON
    become: tuple[str, ...] = ()
    if case.user == "able":
        flags += ["--cgroups", "split"] if "--cgroups" not in flags else []
        environ = {**ENVIRON, "HOME": "/home/able", "XDG_RUNTIME_DIR": f"/run/user/{UID}"}
        become = ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups")
    root = ["--rootfs", str(IMAGES / case.user)]
    if case.way == "exec":
        script = " && ".join(
            (
                shlex.join([*podman, "run", "--detach", "--name", "box", *flags, *root, "sleep", "300"])
                + " >/dev/null",
                shlex.join([*podman, "exec", "box", *python]),
            )
        )
        command = ["sh", "-c", f"{script}; {shlex.join([*podman, 'rm', '--force', '--time', '0', 'box'])} >/dev/null"]
    else:
        command = [*podman, "run", "--rm", *flags, *root, *python]
    (pod,) = make_groups(("",))
    if case.user == "able":
        for path in (pod, *(pod / name for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"))):
            os.chown(path, UID, UID)
    try:
        done = subprocess.run(
            [*ENTER, str(pod), *become, *command], env=environ, cwd="/", capture_output=True, text=True, check=False,
            timeout=200,
        )  # fmt: skip
    finally:
        (pod / "cgroup.kill").write_text("1")
        remove_tree(pod)
    seen: Asked = {"status": done.returncode, "said": done.stderr[-1500:]}
    return {**seen, **(json.loads(done.stdout) if done.stdout.startswith("{") else {"stdout": done.stdout})}


def remove_tree(group: Path) -> None:
    """Remove a cgroup and those below it, once the last of their processes is gone, or raise OSError."""
    deadline = time.monotonic() + 30
    while "populated 1" in (group / "cgroup.events").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    for path, _, _ in os.walk(group, topdown=False):
        os.rmdir(path)


def find_wheel() -> Path:
    """The wheel under test."""
    (wheel,) = Path("/machine").glob("*.whl")
    return wheel


def put(there: bool) -> None:
    """Do what pip does with a wheel of pure Python, or take it away again."""
    site, wheel = Path(sysconfig.get_path("purelib")), zipfile.ZipFile(find_wheel())
    if there:
        wheel.extractall(site)
        return
    for name in {name.partition("/")[0] for name in wheel.namelist()}:
        shutil.rmtree(site / name) if (site / name).is_dir() else (site / name).unlink(missing_ok=True)


class Step(NamedTuple):
    """One measurement."""

    name: str
    blasenv: bool
    """Whether it is installed."""
    measure: Callable[[], Asked]


def plan(form: str) -> dict[str, list[Step]]:
    """All that there is to measure in a form, "short" or "full", by its kind."""
    short, seconds, rounds = form == "short", SECONDS[form], range(ROUNDS[form])
    steps: dict[str, list[Step]] = {
        "load": [
            Step(load.name, variant == "blasenv", partial(measure, load.program, FOUR if load.quota else "",
                                                          QUOTA if variant == "by hand" else None, seconds))
            for variant in ("default", "by hand", "blasenv")
            for _ in rounds
            for load in LOADS
            if load.variant == variant and (load.short or not short)
        ],
        "server": [
            Step(f"{case.name}, {case.variant}", case.variant == "blasenv", partial(serve, case))
            for case in SERVERS
            if case.short or not short
        ],
        "decision": [
            Step(case.name, True, partial(check_decision, case, numpy=not short))
            for case in DECISIONS
            if case.short or not short
        ],
        "command": [Step(case.name, True, partial(run_command, case)) for case in COMMANDS if case.short or not short],
        "pids": [Step(case.variant, case.variant == "blasenv", partial(ask, "solve", pids=PIDS)) for case in CROWDS],
    }  # fmt: skip
    if not short:
        steps["sweep"] = [
            Step(str(threads), True, partial(measure, "matmul + solve", FOUR, threads, seconds))
            for _ in rounds
            for threads in SWEEP
        ]
        steps["room"] = [
            Step(name, True, partial(measure, "matmul + solve", limit, QUOTA, seconds, slice_usec))
            for _ in rounds
            for name, (limit, slice_usec) in ROOM.items()
        ]
        steps["memory"] = [Step(variant, variant == "blasenv", partial(ask, "memory")) for variant in MEMORY]
        steps["answer"] = [Step(case.name, case.variant == "blasenv", partial(answer, case)) for case in ANSWERS]
        steps["podman"] = [Step(case.name, case.way == "image", partial(contain, case)) for case in CONTAINERS]
    return steps


def versions() -> dict[str, str]:
    """What is installed here."""
    seen = {"kernel": os.uname().release}
    for name in ("numpy", "scipy", "scikit-learn"):
        with suppress(PackageNotFoundError):
            seen[name] = version(name)
    for name in ("podman", "crun", "runc"):
        if shutil.which(name):
            said = subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout
            seen[name] = said.splitlines()[0].split()[2]
    return seen


def main() -> None:
    """The steps that the command line names."""
    form, kinds = sys.argv[1:]
    tell("machine", image="full" if shutil.which("podman") else "plain", cpus=len(os.sched_getaffinity(0)),
         membership=Path("/proc/self/cgroup").read_text(), **versions())  # fmt: skip
    steps = plan(form)
    for word in kinds.split(","):
        kind, _, done = word.partition(":")
        for step in steps[kind][int(done) :]:
            put(step.blasenv)
            tell(kind, name=step.name, result=step.measure())
    tell("end")


if __name__ == "__main__":
    main()
