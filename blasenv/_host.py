"""Start-up where the host or the program matters: cores, ranks of a job, workers, mount points with odd names.

Imported by `blasenv` only then. As strict as ``__init__``: nothing imported that a bare
interpreter has not loaded.
"""

import os

from . import LOCAL_RANKS, MAX_FILE, MAX_THREADS, WORKERS, Config, Decision, Limit, find_quota, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def parse_count(text: str) -> "int | None":
    """A thread count from 1 to MAX_THREADS in plain digits, else None."""
    if text.isascii() and text.isdigit() and len(text) <= 4 and 0 < int(text) <= MAX_THREADS:
        return int(text)
    return None


def parse_cpu_list(contents: bytes) -> "set[int]":
    """The CPU numbers in a kernel list such as ``0-1,24`` (cpuset(7), List format), empty if malformed."""
    cpus: set[int] = set()
    for part in contents[:4096].strip().split(b","):
        first, dash, last = part.partition(b"-")
        if not first.isdigit() or len(part) > 9 or (dash and not last.isdigit()) or int(last or first) >= MAX_THREADS:
            return set()
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def find_cores(root: str, cpus: "set[int]") -> "Iterator[Limit]":
    """A limit of one thread per core, where ``cpus`` holds several hardware threads of a core.

    Asks for the siblings of one CPU. /sys/devices/system/cpu/smt/active would be wrong in a
    cpuset that holds one hardware thread of each core.
    """
    path = f"/sys/devices/system/cpu/cpu{min(cpus)}/topology/thread_siblings_list"
    contents, problem = read_file(root.rstrip("/") + path, MAX_FILE, True)
    siblings = len(parse_cpu_list(contents) & cpus)
    if problem or siblings > 1:
        cores = -(-len(cpus) // siblings) if siblings > 1 else None
        yield Limit(controller="smt", version=0, path=path, quota=cores, period=1, note=problem)


def local_ranks(environ: "Mapping[str, str]") -> "tuple[int, str]":
    """The number of ranks of this job on this node, and who they are, from the first variable that tells.

    1 and "" without a job.

    Slurm lists the tasks on this node, ``0,1,2`` (srun(1), SLURM_GTIDS), also for a batch script, which is one task
    whatever its steps will be. Where a site unsets that: a list of counts with repeats, one per node, ``2(x3),1``
    (SLURM_STEP_TASKS_PER_NODE; the forms are in sbatch(1)); SLURM_NODEID says which is ours.
    """
    node = parse_count(environ.get("SLURM_NODEID", "")) or 0
    for name in LOCAL_RANKS:
        parts = environ.get(name, "").split(",")
        if name == "SLURM_GTIDS":
            if all([part.isdigit() for part in parts]):
                return len(parts), f"ranks ({name}={environ[name]})"
            continue
        before = 0  # nodes before this part of the list
        for part in parts:
            count, _, repeat = part.partition("(x")
            before += parse_count(repeat.rstrip(")")) or 0 if repeat else 1
            if node < before or len(parts) == 1:
                ranks = parse_count(count)
                if ranks:
                    return ranks, f"ranks ({name}={environ[name]})"
                break
    return 1, ""


def find_sharers(decision: Decision, config: Config, environ: "Mapping[str, str]") -> None:
    """Put into ``decision`` who shares the limit: ranks of a job, or else the workers that a server names."""
    decision.share, decision.shared_by = local_ranks(environ)
    if config.server and decision.share == 1 and config.program is None:
        from ._workers import count_workers

        words = program_words(config.server) if config.process == "self" else config.server
        cpus = decision.cpu_count or os.cpu_count() or 1
        decision.share, decision.shared_by, note = count_workers(words, environ, cpus, config.process)
        if decision.share > 1:
            decision.rule = "workers"
        if note:
            decision.notes = [*decision.notes, note]


def program_words(words: "Sequence[str]", parent: str = "") -> "Sequence[str]":
    """The command line of the program that a process with the command line ``words`` belongs to.

    A worker that multiprocessing (spawn, forkserver; uvicorn --workers), loky (joblib) or execnet
    (pytest-xdist) starts afresh belongs to that of its ``parent``, a PID, by default this process's.
    """
    name = parse_command_line(words)
    if name.endswith("loky.backend.popen_loky_posix") or (
        name == "-c" and any([word.startswith(WORKERS) for word in words])
    ):
        return command_line(parent or str(os.getppid()))
    return words


def command_line(process: str) -> "list[str]":
    """The words of a process's command line, proc_pid_cmdline(5): each ends with a NUL byte."""
    return os.fsdecode(read_file(f"/proc/{process}/cmdline", MAX_FILE, True)[0]).split("\0")[:-1]


def split_command_line(words: "Sequence[str]") -> "tuple[str, Sequence[str]]":
    """The program in an interpreter's command line, a script's basename, a -m module, "-c" or "", and its arguments.

    python(1): short options may share a word; c, m, W and X take its rest or the next word.
    uWSGI and Apache have the interpreter inside, and are the program.
    """
    for name in ("uwsgi", "apache2", "httpd"):
        if os.path.basename("".join(words[:1])).startswith(name):
            return name, words[1:]
    at = 1
    while at < len(words):
        word = words[at]
        at += 1
        if not word.startswith("-") or word == "-":
            return os.path.basename(word), words[at:]
        if word == "--check-hash-based-pycs":
            at += 1
        for start, option in enumerate("" if word.startswith("--") else word[1:], 2):
            if option == "c":
                return "-c", ()
            if option in "mWX":
                value = word[start:]
                if not value:
                    value = words[at] if at < len(words) else ""
                    at += 1
                if option == "m":
                    return value, words[at:]
                break
    return "", ()


def parse_command_line(words: "Sequence[str]") -> str:
    """The program alone."""
    return split_command_line(words)[0]


def told_limits(config: Config) -> "Iterator[Limit]":
    """The limits that the owner, or BLASENV_CPUS, tells: CPUs, and a cap on the threads of a process."""
    for controller, allowed, path in (
        ("told", config.cpus, config.cpus_from),
        ("max_threads", config.max_threads, config.path or ""),
    ):
        if allowed:
            yield Limit(controller=controller, version=0, path=path, quota=round(1000 * allowed), period=1000, note="")


def unescape(mounts: "list[tuple[bytes, bytes]]") -> "list[tuple[bytes, bytes]]":
    """Mounts without the octal escapes of their paths (blank, tab, newline, backslash), less the broken ones."""
    unescaped = [(_unescape(root), _unescape(point)) for root, point in mounts]
    return [(root, point) for root, point in unescaped if root is not None and point is not None]


def _unescape(field: bytes) -> "bytes | None":
    """A mountinfo path without its octal escapes (blank, tab, newline, backslash), None if one is broken."""
    first, *escaped = field.split(b"\\")
    for part in escaped:
        byte = {b"040": b" ", b"011": b"\t", b"012": b"\n", b"134": b"\\"}.get(part[:3])
        if byte is None:
            return None
        first += byte + part[3:]
    return first


def cpu_quota(root: str = "/") -> "float | None":
    """CPUs of quota that this process may use, such as 1.5, or None when unlimited.

    The tightest quota/period over its cgroup and all ancestors that can be seen, read anew at
    each call. Nothing found there raises: what can't be read or understood sets no limit.
    """
    quotas = [limit.quota / limit.period for limit in find_quota(root) if limit.quota and limit.period]
    return min(quotas, default=None)


def public(name: str) -> object:
    """The function ``blasenv.NAME`` of those that no start needs. Raises AttributeError when there is none."""
    if name == "cpu_quota":
        return cpu_quota
    if name not in ("refresh", "follow"):
        raise AttributeError(f"module 'blasenv' has no attribute {name!r}")
    try:
        from . import live
    except ImportError as error:
        raise AttributeError(f"{name} is not in this copy of blasenv's start-up: pip install blasenv") from error
    return getattr(live, name)
