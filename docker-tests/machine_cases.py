"""The cases of the 48-CPU machine, with what is expected of each: read by the machine and by its host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

CPUS = 48
CORES = 24  # two hardware threads each
QUOTA = 4  # CPUs, as in the report that started this project
SWEEP = (1, 2, 3, 4, 6, 8, 16, 24, 48)  # thread counts of the chart
SECONDS = {"short": 3, "full": 6}  # of one measurement
ROUNDS = {"short": 1, "full": 3}  # of the measurements

PIDS = 40  # of pids.max, as docker run --pids-limit 40

FOUR = "400000 100000"  # cpu.max: microseconds of CPU time, in each period of so many microseconds

# Four threads that never pause, with more room than they can use, and with the quota in other slices: cpu.max, and
# the slice in microseconds (5000 by default).
ROOM = {
    "4.2": ("420000 100000", 5000),
    "4.4": ("440000 100000", 5000),
    "4, slices of 1 ms": (FOUR, 1000),
}


@dataclass(frozen=True)
class Decision:
    """Where a Python process starts, and what blasenv must make of it."""

    name: str
    groups: tuple[str, ...]
    """cpu.max of each cgroup from the outermost down ("" is none); the process is in the last."""
    rule: str
    value: str | None
    """The native OMP_NUM_THREADS."""
    environ: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    """A cgroup namespace made in the "own" group or in its "parent"; "bare": own, with the host's mount."""
    cpuset: str = ""
    """cpuset.cpus of the innermost group."""
    affinity: str = ""
    """For taskset."""
    threads: int | None = None
    """What NumPy's OpenBLAS starts, where that differs from the value."""
    short: bool = False
    """Whether the short form has it, too."""


DECISIONS = (
    # The quota
    Decision("no limit anywhere", ("", ""), "no-limit", None, short=True),
    Decision("4 on the parent", (FOUR, ""), "quota", "4", short=True),
    Decision("4 on the group itself", ("", FOUR), "quota", "4"),
    Decision("47.5 of 48", ("4750000 100000",), "quota", "24"),  # 24 cores
    Decision("30 of 48", ("3000000 100000",), "quota", "24", short=True),
    Decision("20 of 48", ("2000000 100000",), "quota", "20"),
    Decision("48 of 48", ("4800000 100000",), "no-gap", None, short=True),
    Decision("64 of 48", ("6400000 100000",), "no-gap", None),
    Decision("weight only", ("weight",), "no-limit", None),
    # Fractions
    Decision("0.5", ("50000 100000", ""), "quota", "1"),
    Decision("1.5", ("150000 100000", ""), "quota", "1", short=True),
    Decision("2.5", ("250000 100000", ""), "quota", "2", short=True),
    Decision("2.5 in a period of 20 ms", ("50000 20000", ""), "quota", "2"),
    Decision("3.99999", ("3999990 1000000", ""), "quota", "3"),
    # Nested limits: the least one binds, wherever it is
    Decision("2 below 4", (FOUR, "200000 100000"), "quota", "2", short=True),
    Decision("4 below 2", ("200000 100000", FOUR), "quota", "2"),
    Decision("none below 3 below 6", ("600000 100000", "300000 100000", ""), "quota", "3"),
    Decision("five levels", ("", FOUR, "", "3600000 100000", ""), "quota", "4"),
    # Affinity
    Decision("4, cpuset of 8", (FOUR, ""), "quota", "4", cpuset="0-7", short=True),
    Decision("4, cpuset of 2", (FOUR, ""), "no-gap", None, cpuset="0-1", threads=2, short=True),
    Decision("3, cpuset of 4 that are 2 cores", ("300000 100000", ""), "quota", "2", cpuset="0-3"),
    Decision("3, cpuset of 4 that are 4 cores", ("300000 100000", ""), "quota", "3", cpuset="0,2,4,6"),
    Decision("4, taskset of 3", (FOUR, ""), "no-gap", None, affinity="5-7", threads=3),
    # Namespaces
    Decision("namespace, 4 on its root", (FOUR,), "quota", "4", namespace="own", short=True),
    Decision("namespace, 4 on its root, in a child", (FOUR, ""), "quota", "4", namespace="parent"),
    Decision("namespace, 4 outside of it", (FOUR, ""), "no-limit", None, namespace="own"),
    Decision("namespace, 4, host's mount", (FOUR,), "no-limit", None, namespace="bare"),
    # What the user or the launcher said
    Decision("4, OMP_NUM_THREADS=7", (FOUR, ""), "user-env", "7", environ={"OMP_NUM_THREADS": "7"}, short=True),
    Decision("4, OPENBLAS_NUM_THREADS=3", (FOUR, ""), "quota", "4", environ={"OPENBLAS_NUM_THREADS": "3"}, threads=3),
    Decision("4, a parent's decision", (FOUR, ""), "quota", "4",
             environ={"OMP_NUM_THREADS": "9", "BLASENV_MARK": "OMP_NUM_THREADS=9"}),
    Decision("4, two ranks", (FOUR, ""), "quota", "2", environ={"LOCAL_WORLD_SIZE": "2"}),
    Decision("4, single", (FOUR, ""), "config", "1", environ={"BLASENV_MODE": "single"}),
    Decision("4, BLASENV_DISABLE=1", (FOUR, ""), "not loaded", None, environ={"BLASENV_DISABLE": "1"}, short=True),
)  # fmt: skip


@dataclass(frozen=True)
class Load:
    """A program under a load, and what is expected of its threads and of the quota."""

    program: str
    variant: str
    """"default", "blasenv" or "by hand"."""
    quota: int | None
    """CPUs, on the parent group."""
    threads: int
    """The real ones, the main thread among them."""
    short: bool = False

    @property
    def name(self) -> str:
        """What the results call it."""
        return f"{self.program}, {self.variant}, {f'quota {self.quota}' if self.quota else 'no quota'}"

    @property
    def by_default(self) -> str:
        """The name of the same when nobody sets anything."""
        return replace(self, variant="default").name


LOADS = (
    Load("matmul + solve", "default", QUOTA, 48, short=True),
    Load("matmul + solve", "default", None, 48, short=True),
    Load("interpolate", "default", QUOTA, 48 + 47, short=True),  # SciPy brings another OpenBLAS
    Load("interpolate", "default", None, 48 + 47),
    Load("matmul + solve", "by hand", QUOTA, 4, short=True),
    Load("matmul + solve", "by hand", None, 4),
    Load("interpolate", "by hand", QUOTA, 4 + 3),
    Load("interpolate", "by hand", None, 4 + 3),
    Load("matmul + solve", "blasenv", QUOTA, 4, short=True),
    Load("matmul + solve", "blasenv", None, 48, short=True),
    Load("interpolate", "blasenv", QUOTA, 4 + 3, short=True),
    Load("interpolate", "blasenv", None, 48 + 47),
)


@dataclass(frozen=True)
class Server:
    """A program that starts worker processes, under the quota, and how many processes and threads there are then."""

    name: str
    command: tuple[str, ...]
    variant: str
    """"default" or "blasenv"."""
    processes: int
    """With the parent."""
    threads: int | None = None
    """Of each worker that has computed something; None where it computes nothing."""
    environ: Mapping[str, str] = field(default_factory=dict)
    short: bool = False


GUNICORN = ("python3", "-m", "gunicorn", "--workers", "4", "--chdir", "/machine", "machine_server:application")
CELERY = (
    "python3",
    "-m",
    "celery",
    "--workdir",
    "/machine",
    "-A",
    "machine_server:celery",
    "worker",
    "--without-gossip",
)
POOL = ("python3", "/machine/machine_server.py")
COUNTED = {"BLASENV_CPU_COUNT": "1"}

SERVERS = (
    Server("gunicorn --workers 4", GUNICORN, "default", 1 + 4, 48, environ={"COMPUTE": "1"}, short=True),
    Server("gunicorn --workers 4", GUNICORN, "blasenv", 1 + 4, 1, environ={"COMPUTE": "1"}, short=True),
    Server("celery worker", CELERY, "default", 1 + 48),
    Server("celery worker, cpu_count", CELERY, "blasenv", 1 + 4, 1, environ={"COMPUTE": "1", **COUNTED}),
    Server("multiprocessing.Pool()", POOL, "default", 1 + 48),
    Server("multiprocessing.Pool(), cpu_count", POOL, "blasenv", 1 + 4, environ=COUNTED, short=True),
)


@dataclass(frozen=True)
class Command:
    """A command of blasenv, run in the machine, and what it must say."""

    name: str
    arguments: tuple[str, ...]
    """For ``python3 -m blasenv``; {pid} is a program that is at work under the quota without blasenv."""
    says: tuple[str, ...]
    """In its output, blanks and line ends made one."""
    status: int = 0
    limited: bool = False
    """Whether it runs under the quota, too."""
    short: bool = False


ASK = "import blasenv, sys; print('seen', blasenv.cpu_quota(), blasenv.run().threads); sys.exit(3)"
COMMANDS = (
    Command("doctor PID", ("doctor", "{pid}"),
            ("busy threads (OpenBLAS) share 4 CPUs", "Restart it with OMP_NUM_THREADS=4", "CPUs, 48 threads"),
            status=1, short=True),
    Command("doctor blas decision throttling", ("doctor", "decision", "blas", "throttling"),
            ("OMP_NUM_THREADS=4", "numpy: 4 threads, scipy: 4 threads"), limited=True),
    Command("limit --cpus 2.5", ("limit", "--cpus", "2.5", "--", "python3", "-c", ASK),
            ("seen 2.5 2", "under a limit of 2.5 CPUs"), status=3, short=True),
    Command("bench", ("bench", "--only", "matmul-small", "--threads", "1,4,48", "--rounds", "2", "--seconds", "60"),
            ("48 CPUs visible, a limit of 4 CPUs; blasenv sets 4 here", "THREADS MEDIAN RANGE THROTTLED"),
            limited=True),
)  # fmt: skip


@dataclass(frozen=True)
class Crowd:
    """A program that solves one system of equations where pids.max is `PIDS`, and how it ends."""

    variant: str
    """"default" or "blasenv"."""
    status: int
    threads: int | None
    """At the end, with SciPy's; None where it does not get there."""


# As a program that ctrl-C ended: OpenBLAS sends SIGINT when it can't have its threads.
CROWDS = (Crowd("default", 130, None), Crowd("blasenv", 0, 4 + 3))
MEMORY = {"default": 48 + 47, "blasenv": 4 + 3}  # the threads by variant


@dataclass(frozen=True)
class Answer:
    """A setting in which the bits of some results are asked for, of each twice in one process."""

    cpus: int
    """Visible ones: cpuset.cpus of the group."""
    variant: str
    """"default", "by hand" or "blasenv"; only with this one the quota is set, as only it looks there."""
    threads: int
    """Of NumPy's OpenBLAS, then."""
    processor: str = ""
    """OPENBLAS_CORETYPE: the code for another generation of CPUs."""

    @property
    def name(self) -> str:
        """What the results call it."""
        return f"{self.cpus} CPUs, {self.variant}{f', {self.processor}' * bool(self.processor)}"


ANSWERS = (
    Answer(48, "default", 48),
    Answer(16, "default", 16),
    Answer(2, "default", 2),
    Answer(48, "by hand", 4),
    Answer(48, "blasenv", 4),
    Answer(16, "blasenv", 4),
    Answer(4, "blasenv", 4),
    Answer(2, "blasenv", 2),
    Answer(48, "blasenv", 4, "Nehalem"),
)


@dataclass(frozen=True)
class Container:
    """A container of Podman's, and what a Python in it gets."""

    user: str
    """"root", or "able", who has the cgroup controllers of one subtree."""
    runtime: str
    """"crun" or "runc"."""
    way: str
    """How blasenv gets there: "image", "runtime" (blasenv-runtime in front), "exec" (the same, asked by podman exec),
    or "nothing"."""
    flags: str
    limit: str | None
    """cpu.max in the container."""
    value: str | None
    """The native OMP_NUM_THREADS."""
    threads: int | None
    """NumPy's; None where the program must end before it has any."""

    @property
    def name(self) -> str:
        """What the results call it."""
        return f"{self.user}, {self.runtime}, {self.way}, {self.flags or 'no flags'}"


CONTAINERS = (
    *(
        container
        for user in ("root", "able")
        for runtime in ("crun", "runc")
        for container in (
            Container(user, runtime, "nothing", "--cpus 4", FOUR, None, 48),
            Container(user, runtime, "image", "--cpus 4", FOUR, "4", 4),
            Container(user, runtime, "runtime", "--cpus 4", FOUR, "4", 4),
            Container(user, runtime, "exec", "--cpus 4", FOUR, "4", 4),
        )
    ),
    Container("root", "crun", "image", "", "max 100000", None, 48),
    Container("root", "crun", "image", "--cpus 2.5", "250000 100000", "2", 2),
    Container("root", "crun", "image", "--cpus 4 --cpuset-cpus 0-1", FOUR, None, 2),
    Container("root", "crun", "nothing", f"--cpus 4 --pids-limit {PIDS}", None, None, None),
    Container("root", "crun", "image", f"--cpus 4 --pids-limit {PIDS}", FOUR, "4", 4),
    Container("able", "crun", "image", "--cpus 2.5", "250000 100000", "2", 2),
    Container(
        "able", "crun", "image", "--cpus 4 --cgroups enabled", "max 100000", None, 48
    ),  # no limit, without a word
)
