"""Give native numeric libraries the thread count that the container's CPU limit allows.

This module is what runs when an interpreter starts: the line in ``a0_blasenv.pth``
imports it and calls `run`. Importing it alone does nothing. What flows, one way::

    read_config -> find_limits -> decide -> apply

It is read by people who audit a base image, and run by every Python process of that
image. So it imports only what a bare interpreter has loaded (and `_rare`, its other half,
when there is a configuration file or another rare case), opens a closed list of files,
prints nothing unless the configuration is broken or BLASENV_DEBUG=1, and writes only its
own variables. ``find_*`` open files, ``parse_*`` take their bytes. Errors are caught in two
places: `_read`, for one file, and `run`, for everything.

Files: /etc/blasenv.toml, /proc/self/cgroup, /proc/self/mountinfo, the CPU limit of each
cgroup from our own up to the mount point (cpu.max, or cpu.cfs_quota_us and
cpu.cfs_period_us), and, when the limit is above half of the CPUs, one
/sys/devices/system/cpu/cpuN/topology/thread_siblings_list.

Not handled: a limit outside the cgroup namespace (nobody in it can see one), a limit
that changes while the process runs, CPU shares and weights (requests, not limits).
"""

import os
import sys

__version__ = "0.1.0"

TYPE_CHECKING = False  # importing typing would cost more than all of this; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ._types import Config as Config
    from ._types import Decision as Decision
    from ._types import Limit as Limit
else:
    Config = Decision = Limit = type(sys.implementation)  # types.SimpleNamespace

CONFIG_PATH = "/etc/blasenv.toml"
# Set by launchers for each rank of a job on this node: torchrun and accelerate, Open MPI, MPICH
# and Intel MPI, MVAPICH2, HPE Cray, Slurm. The least specific come last.
LOCAL_RANKS = (
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "PALS_LOCAL_SIZE",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_NTASKS_PER_NODE",
)
RECEIPT = "BLASENV_SET"  # "OMP_NUM_THREADS=4" tells children, and people, what is ours

ABSENT = "no such file"
MAX_THREADS = 8192  # the most CPUs a Linux kernel is built for
MAX_FILE = 1 << 16  # bytes; a larger file is not what it claims to be
MAX_MOUNTINFO = 1 << 24  # about 100,000 mounts


def _read(path: "str | bytes", most: int) -> "tuple[bytes, str]":
    """The contents of a regular file of at most ``most`` bytes, and "" or why there are none.

    O_NONBLOCK because a FIFO in the place of a file must not hang a start. Files of /proc
    and /sys have size 0 and may give less than they hold at each read, so read to the end.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            stat = os.fstat(fd)
            if stat.st_mode & 0o170000 != 0o100000:
                return b"", "not a regular file"
            chunks, length = [], 0
            while stat.st_size <= most >= length:
                chunk = os.read(fd, 65536)
                if not chunk:
                    break
                chunks.append(chunk)
                length += len(chunk)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return b"", ABSENT
    except OSError as error:
        return b"", error.strerror or "cannot be read"
    except ValueError:  # a NUL in the path
        return b"", "not a path"
    if stat.st_size > most or length > most:
        return b"", f"larger than {most} bytes"
    return b"".join(chunks), ""


def read_config(root: str = "/", environ: "Mapping[str, str]" = os.environ, argv: "Sequence[str]" = ()) -> Config:
    """The configuration: the file, its setting for the program in ``argv``, then the BLASENV_ variables.

    BLASENV_CONFIG names another file than /etc/blasenv.toml, or, when empty, none. Each step
    that has something to say beats the one before.
    """
    config = Config(
        mode="auto",
        threads=None,
        share=1,
        rounding="floor",
        variables=["OMP_NUM_THREADS"],
        visible=False,
        override=False,
        programs={},
        program=None,
        path=None,
        problems=[],
        notes=[],
    )
    named = environ.get("BLASENV_CONFIG")
    path = root.rstrip("/") + CONFIG_PATH if named is None else named
    if path not in ("", "/dev/null"):
        contents, problem = _read(path, MAX_FILE)
        if problem != ABSENT or named is not None:
            from ._rare import take_file

            take_file(config, path, contents, problem, argv)
    if "BLASENV_MODE" in environ or "BLASENV_THREADS" in environ:
        from ._rare import take_environ

        take_environ(config, environ)
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
    kind = b" - cgroup2 " if version == 2 else b" - cgroup "
    mounts = []
    place = contents.find(kind)
    while place >= 0:
        end = contents.find(b"\n", place)
        end = len(contents) if end < 0 else end
        options = contents[place + len(kind) : end].partition(b" ")[2]
        if version == 2 or b"cpu" in options.split(b","):
            fields = contents[contents.rfind(b"\n", 0, place) + 1 : place].split(b" ", 5)
            # The first lone hyphen ends the optional fields; a later one is within the super options.
            if len(fields) == 6 and b" - " not in fields[5] and not _is_covered(fields[4], contents, end):
                mounts.append((fields[3], fields[4]))
        place = contents.find(kind, place + 1)
    if b"\\" in b"".join([root + point for root, point in mounts]):
        from ._rare import unescape

        return unescape(mounts)
    return mounts


def _is_covered(point: bytes, contents: bytes, start: int) -> bool:
    """Whether a mount that comes after ``start`` in mountinfo is on ``point``, or on a directory above it."""
    while point:
        place = contents.find(b" " + point + b" ", start)
        while place >= 0:
            end = contents.find(b"\n", place)
            line = contents[contents.rfind(b"\n", 0, place) + 1 : end if end >= 0 else None]
            before, hyphen, _ = line.partition(b" - ")
            fields = before.split(b" ", 5)
            if hyphen and len(fields) == 6 and fields[4] == point:
                return True
            place = contents.find(b" " + point + b" ", place + 1)
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


def _levels(path: bytes, root: bytes, point: bytes) -> "list[bytes]":
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


def find_quota(root: str = "/", process: str = "self") -> "Iterator[Limit]":
    """The CPU bandwidth limit at each visible level of a process's cgroup, leaf first.

    ``root`` is read in the place of /. A file that gave no limit has the reason in its note.
    """
    prefix = os.fsencode(root.rstrip("/"))
    source = f"/proc/{process}/cgroup"
    contents, note = _read(prefix + source.encode(), MAX_FILE)
    group = parse_cgroup(contents)
    if group is None:
        note = note or "names no CPU controller"
        yield Limit(controller="cpu", version=0, path=source, quota=None, period=None, note=note)
        return
    version, path = group
    source = f"/proc/{process}/mountinfo"
    contents, problem = _read(prefix + source.encode(), MAX_MOUNTINFO)
    note = problem or f"no mount shows the cgroup {path!r}"
    for mount_root, point in parse_mountinfo(contents, version):
        for level in _levels(path, mount_root, point):
            note = ""
            if version == 2:
                file = level + b"/cpu.max"
                contents, problem = _read(prefix + file, MAX_FILE)
                quota, period, malformed = parse_cpu_max(contents)
            else:
                file = level + b"/cpu.cfs_quota_us"
                contents, problem = _read(prefix + file, MAX_FILE)
                length = b""
                if parse_microseconds(contents.strip()):
                    length, problem = _read(prefix + level + b"/cpu.cfs_period_us", MAX_FILE)
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
        yield Limit(controller="cpu", version=version, path=source, quota=None, period=None, note=note)


def find_limits(root: str, cpus: "set[int]") -> "Iterator[Limit]":
    """All that limits the threads of this process, which may run on ``cpus``: its quota, and SMT.

    A quota above half of the CPUs may be more than there are cores. MKL and PyTorch start no
    more threads than cores by themselves, and blasenv never raises a count.
    """
    least = float(len(cpus))
    for limit in find_quota(root):
        if limit.quota and limit.period:
            least = min(least, limit.quota / limit.period)
        yield limit
    if len(cpus) / 2 < least < len(cpus):
        from ._rare import find_cores

        yield from find_cores(root, cpus)


def cpu_quota(root: str = "/") -> "float | None":
    """CPUs of bandwidth this process may use, such as 1.5, or None when unlimited.

    The smallest quota/period over its cgroup and all ancestors that can be seen, read anew at
    each call. Nothing found there raises: what can't be read or understood sets no limit.
    """
    quotas = [limit.quota / limit.period for limit in find_quota(root) if limit.quota and limit.period]
    return min(quotas, default=None)


def is_thread_variable(name: str) -> bool:
    """Whether ``name`` is that of a thread count, such as OMP_NUM_THREADS; blasenv touches no other."""
    return name.endswith("_THREADS") and name.isascii() and name.isupper() and name.replace("_", "").isalnum()


def decide(config: Config, limits: "Iterable[Limit]", affinity: int, environ: "Mapping[str, str]") -> Decision:
    """What to set in the environment, and the rule that says so. Changes nothing.

    ``limits`` come from `find_limits` and are looked at only when the rules get that far;
    ``affinity`` is the number of CPUs in the affinity mask. What the user set stays, unless
    the owner of the image said ``override``; an empty value is set, too.
    """
    # A variable that equals its receipt is a parent's decision, not the user's.
    pairs = [item.partition("=") for item in environ.get(RECEIPT, "").split()]
    stale = [name for name, _, value in pairs if value and environ.get(name) == value and is_thread_variable(name)]
    kept = {
        name: environ[name] for name in ("OMP_NUM_THREADS", *config.variables) if name in environ and name not in stale
    }
    threads = None
    if config.mode == "off":
        rule = "disabled"
    # Beside the user's OMP_NUM_THREADS, a more specific variable of ours would beat it.
    elif not config.override and ("OMP_NUM_THREADS" in kept or len(kept) == len(config.variables)):
        rule = "user-env"
    elif config.threads or config.mode == "single":
        rule, threads = "config", config.threads or 1
    else:
        found = [(limit.quota, limit.period, limit.controller) for limit in limits if limit.quota and limit.period]
        rule = "no-gap" if found else "no-limit"
        if any([quota < affinity * period for quota, period, _ in found]):
            rule = "quota"
        if rule == "quota" or config.share > 1:
            # Floor: BLAS threads work in lock-step, so a surplus one is throttled while the
            # others spin. In integers, because 17 digits do not fit a float.
            share = config.share
            if share == 1 and not set(LOCAL_RANKS).isdisjoint(environ):
                from ._rare import local_ranks

                share = local_ranks(environ)
            up = config.rounding == "ceil"
            found.append((affinity, 1, "cpu"))
            # The cores are a cap on one program's threads; only bandwidth and CPUs are shared out.
            parts = [(quota, period if controller == "smt" else period * share) for quota, period, controller in found]
            threads = max(1, min([-(-quota // period) if up else quota // period for quota, period in parts]))
    if threads and config.program:
        rule = "program"
    if threads and config.override:
        kept = {}
    return Decision(
        rule=rule,
        threads=threads,
        set={name: str(threads) for name in config.variables if name not in kept} if threads else {},
        kept=kept,
        stale=stale,
        visible=config.visible,
        notes=config.notes,
    )


def apply(decision: Decision) -> None:
    """Change the environment as decided: all of it, or, when something fails, nothing.

    os.putenv writes the process environment, which native libraries and children read, and not
    the os.environ mapping: joblib, Dask, Ray, torchrun and others stop limiting their workers
    when they find the variable there.
    """
    environ = os.environ
    touched = [*decision.stale, *decision.set, RECEIPT]
    before = {name: environ[name] for name in touched if name in environ}
    try:
        for name in before:
            del environ[name]
        for name, value in decision.set.items():
            # NumExpr and Numba are Python, and look nowhere else.
            if decision.visible or name.startswith(("NUMEXPR_", "NUMBA_")):
                environ[name] = value
            else:
                os.putenv(name, value)
        if decision.set:
            environ[RECEIPT] = " ".join([f"{name}={value}" for name, value in decision.set.items()])
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
        rule, notes = "not-linux", []
        try:
            if sys.platform == "linux":
                config = read_config("/", os.environ, sys.argv)
                cpus = os.sched_getaffinity(0)
                decision = decide(config, find_limits("/", cpus), len(cpus), os.environ)
                apply(decision)
                here["_blasenv"] = decision
                decision.by = __file__
                if config.problems or "BLASENV_DEBUG" in os.environ:
                    from ._rare import report

                    report(config, decision)
        except Exception as error:  # whatever it is, the interpreter must start
            rule, notes = "error", [f"{type(error).__name__}: {error}"]
        if "_blasenv" not in here:
            here["_blasenv"] = decision = Decision(
                rule=rule, threads=None, set={}, kept={}, stale=[], visible=False, notes=notes
            )
            decision.by = __file__
    done: Decision = here["_blasenv"]
    return done
