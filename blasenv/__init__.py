"""Give native numeric libraries the thread count that the container's CPU limit allows."""

# This module is what runs when an interpreter starts: the line in ``a0_blasenv.pth``
# imports it and calls `run`. Importing it alone does nothing. What flows, one way::
#
#     read_config -> find_limits -> decide -> apply
#
# It is read by people who audit a base image, and run by every Python process of that
# image. So it imports only what a bare interpreter has loaded (and `_config_file` where there
# is a configuration, `_host` where cores, ranks or workers matter, `_workers` where the program
# is a server, `_cpu_count` where that is asked for), opens a closed list of files, prints
# nothing unless the configuration is broken or BLASENV_DEBUG=1, and writes only its own
# variables. ``find_*`` open files, ``parse_*`` take their bytes. Errors are caught in two
# places: `read_file`, for one file, and `run`, for everything.
#
# It counts instructions, which shows in two habits: annotations are quoted, because Python
# then makes one string of each and evaluates none; and lists stand where generators would,
# because a list is built in place, and a generator is a function call for each item.
#
# Files: /etc/blasenv.toml, /proc/self/cgroup, /proc/self/mountinfo, the CPU limit of each
# cgroup from our own up to the mount point (cpu.max, or cpu.cfs_quota_us and
# cpu.cfs_period_us), and, when that allows more threads than half of the CPUs, one
# /sys/devices/system/cpu/cpuN/topology/thread_siblings_list.
#
# Not handled: a limit outside the cgroup namespace (nobody in it can see one), a limit
# that changes while the process runs, CPU shares and weights (requests, not limits).

import os
import sys

__version__ = "0.1.0"

TYPE_CHECKING = False  # importing typing would cost more than all of this; type checkers know the name
if TYPE_CHECKING:
    from ._types import (
        Config as Config,
        Decision as Decision,
        Iterable,
        Iterator,
        Limit as Limit,
        Mapping,
        Sequence,
        cpu_quota as cpu_quota,
        follow as follow,
        refresh as refresh,
    )
else:
    Config = Decision = Limit = type(sys.implementation)  # types.SimpleNamespace

CONFIG_PATH = "/etc/blasenv.toml"
WISHES = "BLASENV_MODE BLASENV_THREADS BLASENV_CPUS BLASENV_CPU_COUNT".split()  # for one run
# The values of BLASENV_DISABLE that do not: the hook line asks whether they hold the value. So does each
# part of them, such as "" and "n"; what anybody means as a yes is no part.
ENABLED = "0 no No NO false False FALSE off Off OFF"
# Set by launchers for each rank of a job on this node: torchrun and accelerate, Open MPI, MPICH
# and Intel MPI, MVAPICH2, HPE Cray, Slurm. The least specific come last.
LOCAL_RANKS = (
    "LOCAL_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_SIZE MPI_LOCALNRANKS MV2_COMM_WORLD_LOCAL_SIZE PALS_LOCAL_SIZE "
    "SLURM_GTIDS SLURM_STEP_TASKS_PER_NODE".split()
)
# Programs that start workers, and may say how many; and a worker that joblib starts afresh.
# Each between blanks, in one string: a set of strings costs more than all that is asked of it.
SERVERS = (
    " celery dramatiq dramatiq-gevent fastapi granian gunicorn gunicorn.app.wsgiapp gunicorn3 hypercorn "
    "py.test py.test-3 pytest pytest-3 rq rq.cli sanic uvicorn apache2 httpd uwsgi uwsgi-core uwsgi_python3 "
    "joblib.externals.loky.backend.popen_loky_posix loky.backend.popen_loky_posix "
)
# How a worker begins that multiprocessing (spawn, forkserver), Celery or execnet (pytest-xdist) starts afresh.
WORKERS = ("from multiprocessing.", "from billiard.", "import sys;exec(eval(sys.stdin.readline()))")
RECEIPT = "BLASENV_SET"  # "OMP_NUM_THREADS=4" tells people what is ours
# The same for children. It is set natively only, so that they have it exactly when they have the native
# environment as a whole. Where somebody made an environment for them, what is in it is his.
MARK = "BLASENV_MARK"
CONCERNS = tuple(b"_THREADS _LOCAL_SIZE _WORLD_SIZE LOCALNRANKS _GTIDS _PER_NODE _NODEID _CPU_COUNT".split())
OURS = ("_THREADS", "PYTHON_CPU_COUNT")  # how the names end that blasenv sets, and takes back
IN_MAPPING = ("NUMEXPR_", "NUMBA_")  # of libraries that are Python, and read os.environ

ABSENT = "no such file"
MAX_THREADS = 8192  # the most CPUs a Linux kernel is built for
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
MAX_FILE = 1 << 16  # bytes; a larger file is not what it claims to be
MAX_MOUNTINFO = 1 << 24  # about 100,000 mounts


def read_file(path: "str | bytes", most: int, kernel: bool = False) -> "tuple[bytes, str]":
    """The contents of a regular file of at most ``most`` bytes, and "" or why there are none.

    O_NONBLOCK because a FIFO in the place of a file must not hang a start. Files of /proc
    and /sys may give less than they hold at each read, so read to the end. What is no regular
    file is not read, for somebody else may wait for what is in it; only with ``kernel``, where
    nobody can have put anything else, the question comes last, and only if there is a doubt.
    """
    try:
        fd = os.open(path, READ)
        try:
            if not kernel and os.fstat(fd).st_mode & 0o170000 != 0o100000:
                return b"", "not a regular file"
            chunks, length = [], 0
            while length <= most:
                chunk = os.read(fd, 8192)  # for much more, the heap would grow and shrink again
                if not chunk:
                    break
                chunks.append(chunk)
                length += len(chunk)
            if kernel and not 0 < length <= most and os.fstat(fd).st_mode & 0o170000 != 0o100000:
                return b"", "not a regular file"
        finally:
            os.close(fd)
    except FileNotFoundError:
        return b"", ABSENT
    except OSError as error:
        return b"", error.strerror or "cannot be read"
    except ValueError:  # a NUL in the path
        return b"", "not a path"
    if length > most:
        return b"", f"larger than {most} bytes"
    return b"".join(chunks), ""


def read_config(
    root: str = "/",
    environ: "Mapping[str, str]" = os.environ,
    argv: "Sequence[str]" = (),
    words: "Sequence[str] | None" = None,
) -> Config:
    """The configuration: the file, its setting for the program in ``argv``, then the BLASENV_ variables.

    BLASENV_CONFIG names another file than /etc/blasenv.toml, or, when empty, none. Each step
    that has something to say beats the one before. When the hook runs, ``argv`` has only "-m" or
    "-c" in the place of the program; ``words`` is the whole command line, by default this process's.
    """
    config = Config(
        mode="auto",
        threads=None,
        share=1,
        shared_by="",
        rounding="floor",
        variables=["OMP_NUM_THREADS"],
        visible=False,
        override=False,
        programs={},
        program=None,
        cpus=None,
        cpus_from="",
        max_threads=None,
        cpu_count=False,
        server=None,
        process="self",
        path=None,
        problems=[],
        notes=[],
    )
    named = environ.get("BLASENV_CONFIG")
    path = root.rstrip("/") + CONFIG_PATH if named is None else named
    if path not in ("", "/dev/null"):
        contents, problem = read_file(path, MAX_FILE)
        if problem != ABSENT or named is not None:
            from ._config_file import take_file

            take_file(config, path, contents, problem, argv, words)
    if any([name in environ for name in WISHES]):
        from ._config_file import take_environ

        take_environ(config, environ)
    # A server with workers, or one of those? Only names that are in memory are looked at.
    program = argv[0].rpartition("/")[2] if argv else ""
    if f" {program} " in SERVERS:
        config.server = words or ["", *argv]
    elif words:
        config.server = words
    elif argv and program in ("", "-m", "-c"):
        words = getattr(sys, "orig_argv", None)
        if not words:  # before Python 3.10, and inside of uWSGI and Apache
            words = os.fsdecode(read_file("/proc/self/cmdline", MAX_FILE, True)[0]).split("\0")[:-1]
        if any([f" {word.rpartition('/')[2]} " in SERVERS or word.startswith(WORKERS) for word in words]):
            config.server = words
    return config


def parse_cgroup(contents: bytes) -> "tuple[int, bytes] | None":
    """The cgroup version (1 or 2) and path of the CPU controller, from /proc/PID/cgroup.

    cgroups(7): each line is ``hierarchy-ID:controller-list:cgroup-path``. Only the first two
    colons separate; the path is raw to the end of the line. The controller is on the v1 line
    that has ``cpu`` in its comma-separated list, else in the unified hierarchy, ``0::path``.
    """
    unified = None
    for line in contents.split(b"\n"):
        fields = line.split(b":", 2)
        if len(fields) == 3 and fields[2].startswith(b"/"):
            if b"cpu" in fields[1].split(b","):
                return 1, fields[2]
            if fields[0] == b"0" and not fields[1]:
                unified = unified or (2, fields[2])
    return unified


def parse_mountinfo(contents: bytes, version: int) -> "list[tuple[bytes, bytes]]":
    """The (root, mount point) of each cgroup mount with the CPU controller that can be reached.

    proc_pid_mountinfo(5), fields separated by single blanks::

        36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
        (1)(2)(3)   (4)   (5)      (6)     (7)   (8) (9)    (10)          (11)

    (4) is the root of the mount within its file system, (5) the mount point, (7) any number
    of optional fields, (8) a lone hyphen, (9) the type, (11) the super options, where v1 names
    its controllers. The source (10) may be empty, and (11) may hold raw blanks (WSL2).
    """
    # From each type back to the start of its line, and not forward field by field: of
    # thousands of mounts, only those of cgroups are taken apart.
    kind = b" - cgroup2 " if version == 2 else b" - cgroup "
    mounts = []
    found = contents.find(kind)
    while found >= 0:
        end = contents.find(b"\n", found)
        end = len(contents) if end < 0 else end
        options = contents[found + len(kind) : end].partition(b" ")[2]
        if version == 2 or b"cpu" in options.split(b","):
            fields = contents[contents.rfind(b"\n", 0, found) + 1 : found].split(b" ", 5)
            # The first lone hyphen ends the optional fields; a later one is within the super options.
            if len(fields) == 6 and b" - " not in fields[5] and not _is_covered(fields[4], contents, end):
                mounts.append((fields[3], fields[4]))
        found = contents.find(kind, found + 1)
    if b"\\" in b"".join([root + point for root, point in mounts]):
        from ._host import unescape

        return unescape(mounts)
    return mounts


def _is_covered(point: bytes, contents: bytes, start: int) -> bool:
    """Whether a mount that comes after ``start`` in mountinfo is on ``point``, or on a directory above it."""
    while point:
        found = contents.find(b" " + point + b" ", start)
        while found >= 0:
            end = contents.find(b"\n", found)
            line = contents[contents.rfind(b"\n", 0, found) + 1 : end if end >= 0 else None]
            before, hyphen, _ = line.partition(b" - ")
            fields = before.split(b" ", 5)
            if hyphen and len(fields) == 6 and fields[4] == point:
                return True
            found = contents.find(b" " + point + b" ", found + 1)
        point = point.rpartition(b"/")[0]
    return False


def parse_microseconds(field: bytes) -> "int | None":
    """A positive number in plain ASCII digits as the kernel prints it (64 bits), else None."""
    return int(field) or None if field.isdigit() and len(field) <= 20 else None


def parse_cpu_max(contents: bytes) -> "tuple[int | None, int | None, str]":
    """Quota and period in microseconds from v2 ``cpu.max``, and a note when it is malformed.

    cgroup-v2.rst: ``$MAX $PERIOD``, where $MAX may be ``max`` (no limit); with one number it
    is $MAX, and the period is the default of 100 ms. Empty without CONFIG_CFS_BANDWIDTH.
    """
    fields = contents.split()
    if not fields or fields[0] == b"max":
        return None, None, ""
    quota = parse_microseconds(fields[0])
    period = parse_microseconds(fields[1]) if len(fields) > 1 else 100_000
    if quota and period and len(fields) < 3:
        return quota, period, ""
    return None, None, f"malformed: {contents[:80]!r}"


def parse_cpu_cfs(quota: bytes, period: bytes) -> "tuple[int | None, int | None, str]":
    """Quota and period in microseconds from v1 ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``.

    sched-bwc.rst: a quota of -1 is no limit. Zero cannot be written there, so it is none.
    """
    quota, period = quota.strip(), period.strip()
    if quota in (b"-1", b"0"):
        return None, None, ""
    if parse_microseconds(quota) and parse_microseconds(period):
        return int(quota), int(period), ""
    return None, None, f"malformed: {quota[:40]!r} with period {period[:40]!r}"


def level_directories(path: bytes, root: bytes, point: bytes) -> "list[bytes]":
    """The directories of the cgroup ``path`` and its ancestors, leaf first, on a mount of ``root`` at ``point``.

    Empty when the mount does not show the group. Whole components count: /sand is no ancestor
    of /sandbox. A ".." (a group outside our namespace, cgroup_namespaces(7)) matches itself
    only; resolved as a directory, it would lead to somebody else's group.
    """
    if path == root:
        return [point]
    root = root.rstrip(b"/") + b"/"
    names = path[len(root) :].split(b"/")
    if not path.startswith(root) or b".." in names or b"." in names or b"" in names:
        return []
    point = point.rstrip(b"/")
    return [b"/".join([point, *names[:count]]) for count in range(len(names), -1, -1)]


def find_quota(
    root: str = "/", process: str = "self", observer: "str | None" = None, below: str = ""
) -> "Iterator[Limit]":
    """The CPU quota at each visible level of a process's cgroup, leaf first.

    ``root`` is read in the place of /. The levels are looked for on the mounts of the process
    ``observer``, by default the same one, whose mount points lie ``below`` that directory. A file
    that gave no limit has the reason in its note.
    """
    prefix = os.fsencode(root.rstrip("/"))
    path = f"/proc/{process}/cgroup"
    contents, note = read_file(prefix + path.encode(), MAX_FILE, True)
    group = parse_cgroup(contents)
    version = 0
    if group is None:
        note = note or "names no CPU controller"
    else:
        version, name = group
        path = f"/proc/{observer or process}/mountinfo"
        contents, note = read_file(prefix + path.encode(), MAX_MOUNTINFO, True)
        note = note or f"no mount shows the cgroup {name!r}"
        for mount_root, point in parse_mountinfo(contents, version):
            for directory in level_directories(name, mount_root, os.fsencode(below) + point):
                note = ""
                if version == 2:
                    file = directory + b"/cpu.max"
                    contents, problem = read_file(prefix + file, MAX_FILE, True)
                    quota, period, malformed = parse_cpu_max(contents)
                else:
                    file = directory + b"/cpu.cfs_quota_us"
                    contents, problem = read_file(prefix + file, MAX_FILE, True)
                    length = b""
                    if parse_microseconds(contents.strip()):
                        length, problem = read_file(prefix + directory + b"/cpu.cfs_period_us", MAX_FILE, True)
                    quota, period, malformed = parse_cpu_cfs(contents, length)
                yield Limit(
                    controller="cpu",
                    version=version,
                    path=os.fsdecode(file),
                    quota=quota,
                    period=period,
                    note=problem or malformed,
                )
    if note:
        yield Limit(controller="cpu", version=version, path=path, quota=None, period=None, note=note)


def find_limits(
    root: str, cpus: "set[int]", config: "Config | None" = None, levels: "Iterable[Limit] | None" = None
) -> "Iterator[Limit]":
    """All that limits the threads of a process which may run on ``cpus``: quotas, what the owner says, and cores.

    ``levels`` are those of its cgroup, by default this process's. MKL and PyTorch start no more
    threads than there are cores by themselves, and blasenv never raises a count: where more
    threads than half of the CPUs are allowed, that may be more than the cores.
    """
    if levels is None:
        levels = find_quota(root)
    up = False
    if config is not None:
        up = config.rounding == "ceil"
        if config.cpus or config.max_threads:
            from ._host import told_limits

            levels = [*levels, *told_limits(config)]
    tightest = float(len(cpus))
    for limit in levels:
        if limit.quota and limit.period:
            tightest = min(tightest, limit.quota / limit.period)
        yield limit
    if tightest < len(cpus) < 2 * (-(-tightest // 1) if up else tightest // 1):
        from ._host import find_cores

        yield from find_cores(root, cpus)


SHARED = ("cpu", "told")  # the limits that processes share out among them


def fit(limits: "Iterable[Limit]", affinity: int, share: int, rounding: str) -> "tuple[int, Limit | None, str]":
    """How many threads fit: the count, the limit that binds (None: the CPUs), and what rounding changed.

    ``affinity`` is the number of CPUs in the affinity mask. Of these and of a quota, each of the
    ``share`` processes gets an equal part; the cores, and max_threads, are a cap on one program's
    threads, and are not shared out. The last is "" when the count is exact, "floor", "ceil", or "least" where
    less than 1 is allowed. Floor is the default: BLAS threads work in lock-step, so a surplus
    one is throttled while the others spin.
    """
    tightest, quota, period = None, affinity, share
    for limit in limits:
        if limit.quota and limit.period:
            divisor = limit.period * share if limit.controller in SHARED else limit.period
            # In integers, because 17 digits do not fit a float.
            if limit.quota * period < quota * divisor:
                tightest, quota, period = limit, limit.quota, divisor
    threads, rest = divmod(quota, period)
    if not threads:
        return 1, tightest, "least"
    return threads + (rest > 0 and rounding == "ceil"), tightest, rounding if rest else ""


def undecided(rule: str, notes: "list[str]") -> Decision:
    """The decision to change nothing."""
    return Decision(
        rule=rule,
        threads=None,
        set={},
        kept={},
        stale=[],
        visible=False,
        limit=None,
        share=1,
        shared_by="",
        rounding="",
        cpu_count=None,
        notes=notes,
        by="",
    )


def decide(config: Config, limits: "Iterable[Limit]", affinity: int, environ: "Mapping[str, str]") -> Decision:
    """What to set in the environment, the rule that says so, and how the count came about. Changes nothing.

    ``limits`` come from `find_limits` and are looked at only when the rules get that far;
    ``affinity`` is the number of CPUs in the affinity mask. What the user set stays, unless
    the owner of the image said ``override``; an empty value is set, too.
    """
    # A variable that equals its mark is a parent's decision, not the user's.
    pairs = [item.partition("=") for item in environ.get(MARK, "").split()]
    stale = [name for name, _, value in pairs if name.endswith(OURS) and value and environ.get(name) == value]
    kept = {
        name: environ[name] for name in ("OMP_NUM_THREADS", *config.variables) if name in environ and name not in stale
    }
    decision = undecided("disabled", config.notes)
    decision.stale, decision.kept, decision.visible = stale, kept, config.visible
    if config.mode == "off":
        return decision
    if config.cpu_count:
        from ._cpu_count import decide_cpu_count

        limits = list(limits)
        decide_cpu_count(decision, limits, affinity, environ)
    # Beside the user's OMP_NUM_THREADS, a more specific variable of ours would beat it.
    if not config.override and ("OMP_NUM_THREADS" in kept or len(kept) == len(config.variables)):
        decision.rule = "user-env"
        return decision
    if config.threads or config.mode == "single":
        decision.rule, threads = "config", config.threads or 1
    else:
        finite = [limit for limit in limits if limit.quota and limit.period]
        quotas = [limit for limit in finite if limit.controller in SHARED]
        gap = any([(limit.quota or 0) < affinity * (limit.period or 1) for limit in quotas])
        decision.rule = "quota" if gap else "no-gap" if quotas else "no-limit"
        decision.share, decision.shared_by = config.share, config.shared_by
        if gap and config.share == 1 and (config.server or any([name in environ for name in LOCAL_RANKS])):
            from ._host import find_sharers

            find_sharers(decision, config, environ)
        threads, decision.limit, decision.rounding = fit(finite, affinity, decision.share, config.rounding)
        if decision.limit is None and decision.share == 1:
            return decision
        if decision.limit is not None and (not gap or decision.limit.controller == "max_threads"):
            decision.rule = "config"  # the cap that the owner has put on it
    if config.program:
        decision.rule = "program"
    if config.override:
        decision.kept = kept = {}
    decision.threads = threads
    decision.set = {**{name: str(threads) for name in config.variables if name not in kept}, **decision.set}
    if "NUMEXPR_NUM_THREADS" in decision.set:
        from ._config_file import spare_numexpr

        spare_numexpr(decision, environ)
    return decision


def apply(decision: Decision, environ: "Mapping[str, str]" = os.environ) -> None:
    """Change the environment as decided: all of it, or, when something fails, nothing.

    ``environ`` is what it was decided with.

    os.putenv writes the process environment, which native libraries and children read, and not
    the os.environ mapping: joblib, Dask, Ray, torchrun and others stop limiting their workers
    when they find the variable there.
    """
    touched = [*decision.stale, *decision.set, RECEIPT, MARK]
    before = {name: environ[name] for name in touched if name in environ}
    environ = os.environ
    try:
        for name in before:
            del environ[name]
        shown = []
        for name, value in decision.set.items():
            # NumExpr and Numba are Python, and look nowhere else.
            if decision.visible or name.startswith(IN_MAPPING):
                environ[name] = value
                shown.append(f"{name}={value}")
            else:
                os.putenv(name, value)
        if decision.set:
            environ[RECEIPT] = receipt = " ".join([f"{name}={value}" for name, value in decision.set.items()])
            if shown:
                environ[MARK] = " ".join(shown)
            os.putenv(MARK, receipt)
        if decision.cpu_count or "PYTHON_CPU_COUNT" in decision.stale:
            from ._cpu_count import replace

            replace(decision.cpu_count)
    except BaseException:  # a KeyboardInterrupt, too, leaves nothing half done
        for name in touched:
            environ.pop(name, None)
            os.unsetenv(name)
        environ.update(before)
        raise


def run() -> Decision:
    """Decide for this process and change its environment, once; later calls return the same.

    Never raises an Exception: when something unforeseen happens, the rule is "error", the
    notes say what, and the environment is as it was. The Decision is kept in ``sys``, where
    another copy of blasenv in this process (a hook in a venv, a sitecustomize below) finds it.
    """
    here = vars(sys)
    if "_blasenv" not in here:
        try:
            if sys.platform != "linux":
                here["_blasenv"] = undecided("not-linux", [])
            else:
                from posix import environ as native

                # Of os.environ (which writes into the same dict) what concerns us. Asked there, each
                # name that is missing costs two exceptions.
                environ = {
                    os.fsdecode(name): os.fsdecode(value)
                    for name, value in native.items()
                    if name.endswith(CONCERNS) or name.startswith(b"BLASENV_")
                }
                config = read_config("/", environ, sys.argv)
                cpus = os.sched_getaffinity(0)
                limits = find_limits("/", cpus, config)
                decision = decide(config, limits, len(cpus), os.environ if config.server else environ)
                apply(decision, environ)
                here["_blasenv"] = decision
                if config.problems or "BLASENV_DEBUG" in environ:
                    from ._config_file import report

                    report(config, decision)
        except Exception as error:  # whatever it is, the interpreter must start
            here.setdefault("_blasenv", undecided("error", [f"{type(error).__name__}: {error}"]))
        here["_blasenv"].by = __file__
    done: Decision = here["_blasenv"]
    return done


def __getattr__(name: str) -> object:
    """What programs may call and no start needs: `cpu_quota`, `refresh`, `follow`."""
    from ._host import public

    return public(name)
