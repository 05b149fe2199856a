"""The cases: an image, how `docker run` starts it, and what must come out.

Expected values are worked out here from each case's own limit and the machine's CPU count:
blasenv is not asked what it thinks. ``sets`` is what blasenv puts into OMP_NUM_THREADS, None
for nothing. Where nothing is said of numpy, it starts as many threads as that, or else one
for each CPU it may run on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import floor

OPENBLAS_MOST = 64  # numpy's OpenBLAS is built for so many threads
PROBE = "python3 /probe.py"


@dataclass(frozen=True)
class Machine:
    """What a container without any limit may use, as the kernel tells it, and the daemon's cgroup version."""

    cpus: int
    cores: int
    first: int
    """The number of one CPU it may run on."""
    cgroup: int


@dataclass(frozen=True)
class Case:
    """One container."""

    name: str
    image: str
    """A target of the Dockerfile."""
    flags: str
    """For docker run."""
    sets: int | None
    rule: str | None
    """None where the hook did not run."""
    numpy: int | None = None
    environment: str | None = None
    """OMP_NUM_THREADS as the user set it, and as it must stay."""
    command: str = PROBE
    exec: bool = False
    """Start the command with docker exec in a running container."""
    update: str = ""
    """Flags for docker update, before that."""
    config: str | None = None
    """Mounted at /etc/blasenv.toml, readable by root alone if the name of the case ends in "unreadable"."""
    stderr: str = ""
    parent: float | None = None
    """A limit on the container's parent cgroup, in CPUs."""
    holds: dict[str, object] = field(default_factory=dict)
    """What must be true in the container for the case to be the one it claims to be."""
    everywhere: bool = False
    """Run with every Python, not with the default one alone."""
    debian: bool = False
    """Needs Debian's own Python in the base image."""


def cases(machine: Machine, python: str) -> list[Case]:
    """The table for a machine of at least two CPUs and a version of Python, "3.11"."""
    cpus = machine.cpus
    most = min(cpus, OPENBLAS_MOST)
    almost = cpus - 0.25  # above half of the CPUs: no more threads than cores
    # A limit on the parent can be seen where the container's view of the cgroup tree starts
    # above it: on v2 in the host's cgroup namespace. On v1 Docker mounts the leaf alone.
    seen = machine.cgroup == 2
    host_tree = "-v /sys/fs/cgroup:/sys/fs/cgroup:ro"
    nobody = "--user 65534:65534"
    # What 1.5 CPUs come to: what blasenv sets, the rule, numpy's threads if they are another number.
    runs: tuple[int | None, str | None, int | None] = (floor(1.5), "quota", None)
    never: tuple[int | None, str | None, int | None] = (None, None, most)
    reads_start = int(python.partition(".")[2]) >= 15
    # fmt: off
    return [
        # The original problem: without blasenv, as many threads as CPUs, whatever the limit.
        Case("control", "control", "--cpus 1.5", None, None, numpy=most, everywhere=True),
        # Limits.
        Case("cpus-none", "venv", "", None, "no-limit", everywhere=True),
        Case("cpus-0.5", "venv", "--cpus 0.5", max(1, floor(0.5)), "quota"),
        Case("cpus-1", "venv", "--cpus 1", floor(1), "quota"),
        Case("cpus-1.5", "venv", "--cpus 1.5", floor(1.5), "quota", everywhere=True),
        Case("cpus-almost-all", "venv", f"--cpus {almost}", min(floor(almost), machine.cores), "quota"),
        Case("cpus-all", "venv", f"--cpus {cpus}", None, "no-gap"),
        Case("quota-and-period", "venv", "--cpu-quota 75000 --cpu-period 50000", floor(75 / 50), "quota"),
        Case("quota-default-period", "venv", "--cpu-quota 120000", floor(120 / 100), "quota"),
        Case("shares-are-no-limit", "venv", "--cpu-shares 512", None, "no-limit"),
        Case("cpuset-one", "venv", f"--cpuset-cpus {machine.first}", None, "no-limit", numpy=1),
        Case("cpuset-and-less", "venv", f"--cpuset-cpus {machine.first} --cpus 0.5", max(1, floor(0.5)), "quota"),
        Case("cpuset-and-more", "venv", f"--cpuset-cpus {machine.first} --cpus 1.5", None, "no-gap", numpy=1),
        # Namespaces, and limits further up.
        Case("cgroupns-host", "venv", "--cgroupns host --cpus 1.5", floor(1.5), "quota"),
        Case("cgroupns-private", "venv", "--cgroupns private --cpus 1.5", floor(1.5), "quota"),
        Case("parent-cgroupns-private", "venv", "--cgroupns private", None, "no-limit", parent=1),
        Case(
            "parent-cgroupns-host", "venv", "--cgroupns host",
            floor(1) if seen else None, "quota" if seen else "no-limit", parent=1,
        ),
        Case("parent-host-tree", "venv", f"--cgroupns host {host_tree}", floor(1), "quota", parent=1),
        Case("parent-more-than-own", "venv", f"--cgroupns host {host_tree} --cpus 1", floor(1), "quota", parent=1.5),
        # Version 1 refuses a group a larger share than its parent's.
        *[
            Case(
                "parent-less-than-own", "venv", f"--cgroupns host --cpus {cpus}",
                floor(1), "quota", parent=1,
            )
        ][: machine.cgroup - 1],
        # A known limit: the mount's root is outside the namespace, so the group's place on it cannot be told.
        Case("private-host-tree", "venv", f"--cgroupns private {host_tree} --cpus 1", None, "no-limit"),
        # Without rights.
        Case("user", "venv", f"{nobody} --cpus 1.5", floor(1.5), "quota", holds={"uid": 65534}),
        Case("read-only", "venv", "--read-only --cpus 1.5", floor(1.5), "quota", holds={"read-only": True}),
        Case("no-capabilities", "venv", "--cap-drop ALL --cpus 1.5", floor(1.5), "quota", holds={"capabilities": 0}),
        Case("seccomp-on", "venv", "--cpus 1.5", floor(1.5), "quota", holds={"seccomp": 2}),
        Case(
            "seccomp-off", "venv", "--security-opt seccomp=unconfined --cpus 1.5",
            floor(1.5), "quota", holds={"seccomp": 0},
        ),
        Case("proc-masked", "venv", "--cpus 1.5", floor(1.5), "quota", holds={"masked-proc": True}),
        Case(
            "proc-unmasked", "venv", "--security-opt systempaths=unconfined --cpus 1.5",
            floor(1.5), "quota", holds={"masked-proc": False},
        ),
        Case(
            "locked-down", "venv", f"{nobody} --read-only --cap-drop ALL --security-opt no-new-privileges --cpus 1.5",
            floor(1.5), "quota", everywhere=True,
            holds={"uid": 65534, "read-only": True, "capabilities": 0, "no-new-privileges": 1, "seccomp": 2},
        ),
        # Ways to start.
        Case("exec", "venv", "--cpus 1.5", floor(1.5), "quota", exec=True),
        # A limit that changes while the container runs, as in an in-place resize of Kubernetes: new processes see it.
        Case("exec-after-update", "venv", f"--cpus {cpus}", floor(1), "quota", exec=True, update="--cpus 1"),
        Case("init", "venv", "--init --cpus 1.5", floor(1.5), "quota"),
        Case("entrypoint-script", "entrypoint", "--cpus 1.5", floor(1.5), "quota", command="/probe.py"),
        # The child of a shell of a Python decides for itself, although it inherits the parent's value.
        # (That a child which is not Python inherits it, every case asserts.)
        Case(
            "grandchild", "venv", "--cpus 1.5", floor(1.5), "quota",
            command=f"""python3 -c 'import os, sys; sys.exit(os.system("exec {PROBE}") >> 8)'""",
        ),
        Case("isolated", "venv", "--cpus 1.5", floor(1.5), "quota", command="python3 -I /probe.py"),
        # Installations.
        Case("system", "system", "--cpus 1.5", floor(1.5), "quota"),
        Case("system-user", "system", f"{nobody} --cpus 1.5", floor(1.5), "quota", holds={"uid": 65534}),
        Case(
            "system-bin-first", "system", "--cpus 1.5 -e PATH=/bin:/usr/bin",
            floor(1.5), "quota", holds={"prefix": "/usr"}, debian=True,
        ),
        # A known limit: without PATH, in the directory /, Python takes / for its prefix, and misses /usr/local.
        Case(
            "system-no-path", "system", "--cpus 1.5", None, None, numpy=most, holds={"prefix": "/"},
            command=f"env -u PATH PYTHONPATH=/usr/local/lib/python{python}/dist-packages {PROBE}", debian=True,
        ),
        Case("uv", "uv", "--cpus 1.5", floor(1.5), "quota"),
        Case("uv-no-pyc", "uv", f"{nobody} --cpus 1.5", floor(1.5), "quota", holds={"pyc": False}),
        Case("uv-compiled", "uv-compiled", f"{nobody} --cpus 1.5", floor(1.5), "quota", holds={"pyc": True}),
        Case("multi-stage", "multi-stage", "--cpus 1.5", floor(1.5), "quota", holds={"uid": 1000, "pyc": True}),
        Case(
            "multi-stage-no-pyc", "multi-stage-no-pyc", "--cpus 1.5",
            floor(1.5), "quota", holds={"uid": 1000, "pyc": False},
        ),
        # PEP 829: since 3.15 a .start file silences the line of the .pth file beside it. Once is enough, and the
        # doctor says when nothing is left that runs.
        Case("start-file", "start-file", "--cpus 1.5", *runs, everywhere=True),
        Case("start-file-alone", "start-file-alone", "--cpus 1.5", *(runs if reads_start else never), everywhere=True),
        # The switch stands in the line; a .start file can only name a function, which would have to ask for it.
        Case(
            "start-file-disable", "start-file", "--cpus 1.5 -e BLASENV_DISABLE=1",
            *(runs if reads_start else never), everywhere=True,
        ),
        Case(
            "start-file-empty", "start-file-empty", "--cpus 1.5", *(never if reads_start else runs), everywhere=True,
            command=f"sh -c 'blasenv doctor hook | grep -q silenced && exec {PROBE}'" if reads_start else PROBE,
        ),
        # The user's word.
        Case("image-omp", "env-omp", "--cpus 1", None, "user-env", numpy=most, environment=str(cpus)),
        Case(
            "run-omp", "venv", f"-e OMP_NUM_THREADS={cpus} --cpus 1",
            None, "user-env", numpy=most, environment=str(cpus),
        ),
        Case("run-omp-empty", "venv", "-e OMP_NUM_THREADS= --cpus 1", None, "user-env", numpy=most, environment=""),
        Case("run-openblas", "venv", f"-e OPENBLAS_NUM_THREADS={cpus} --cpus 1", floor(1), "quota", numpy=most),
        Case("image-disable", "env-disable", "--cpus 1", None, None, numpy=most),
        Case("run-disable", "venv", "-e BLASENV_DISABLE=1 --cpus 1", None, None, numpy=most),
        Case("run-disable-0", "venv", "-e BLASENV_DISABLE=0 --cpus 1", floor(1), "quota"),
        Case("run-threads", "venv", "-e BLASENV_THREADS=1", 1, "config"),
        # The owner's word.
        Case("config-single", "venv", "", 1, "config", config='mode = "single"\n', everywhere=True),
        Case("config-off", "venv", "--cpus 1", None, "disabled", config='mode = "off"\n', numpy=most),
        Case(
            "config-broken", "venv", "--cpus 1", floor(1), "quota", config='mode = "single\n',
            stderr="blasenv: /etc/blasenv.toml:1: a string needs its closing quote on the same line; "
            "the file is ignored. To see all: blasenv config check\n",
        ),
        Case(
            "config-unreadable", "venv", f"{nobody} --cpus 1", floor(1), "quota", config='mode = "single"\n',
            stderr="blasenv: /etc/blasenv.toml: Permission denied; "
            "the file is ignored. To see all: blasenv config check\n",
        ),
    ]
