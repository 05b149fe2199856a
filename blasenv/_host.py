"""Start-up where the host matters: the cores behind the CPUs, the ranks of a job, mount points with odd names.

Imported by `blasenv` only then. As strict as ``__init__``: nothing imported that a bare
interpreter has not loaded.
"""

from . import LOCAL_RANKS, MAX_FILE, MAX_THREADS, Limit, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


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

    Slurm writes a list of counts with repeats, one per node, ``2(x3),1`` (sbatch(1),
    SLURM_TASKS_PER_NODE); SLURM_NODEID says which is ours.
    """
    node = parse_count(environ.get("SLURM_NODEID", "")) or 0
    for name in LOCAL_RANKS:
        parts = environ.get(name, "").split(",")
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
