"""What holds for any input: nothing raises, and a file that cannot be read costs only itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

import blasenv
from blasenv import _config_file, _host

# Bytes as they come, and pieces of the real formats in any order.
LINES = [
    b"0::/",
    b"4:cpu,cpuacct:/",
    b"31 22 0:26 / /sys/fs/cgroup rw",
    b" - cgroup2 cgroup2 rw",
    b" - cgroup x rw,cpu",
]
WORDS = [b"a", b"..", b"max", b"100000", b"-1", b"0", b"/sys/fs/cgroup", b"mode", b'"off"', b"[programs]", b"x" * 300]
SIGNS = [b"/", b":", b"\n", b" ", b"\\040", b"\\", b" - ", b",", b"-", b"=", b'"', b"#", b"\0", b"\r", b"\xff"]
PIECES = st.one_of(st.sampled_from(LINES), st.sampled_from(WORDS), st.sampled_from(SIGNS))
BYTES = st.one_of(st.binary(max_size=100), st.lists(PIECES, max_size=20).map(b"".join))


@settings(max_examples=300, deadline=None)
@given(one=BYTES, other=BYTES, third=BYTES)
def test_parsers_never_raise(one: bytes, other: bytes, third: bytes) -> None:
    group = blasenv.parse_cgroup(one)
    assert group is None or (group[0] in (1, 2) and group[1].startswith(b"/") and b"\n" not in group[1])
    for version in (1, 2):
        for root, point in blasenv.parse_mountinfo(one, version):
            levels = blasenv.level_directories(other, root, point)
            assert len(levels) == len(set(levels))
            assert b".." not in b"/".join(level[len(point) :] for level in levels).split(b"/")
    assert (blasenv.parse_microseconds(one) or 1) > 0
    for quota, period, note in (blasenv.parse_cpu_max(one), blasenv.parse_cpu_cfs(one, other)):
        assert (quota is None) == (period is None)
        assert not (quota and note)
    assert len(_host.parse_cpu_list(one[:8])) <= 100_000
    _, problems, lines = _config_file.parse_config(third)
    assert all(1 <= number <= third.count(b"\n") + 1 for number in [*lines.values(), *(line for line, _ in problems)])


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@settings(max_examples=100, deadline=None)
@given(cgroup=BYTES, mountinfo=BYTES, limit=BYTES, period=BYTES, toml=BYTES, siblings=st.binary(max_size=5))
def test_no_tree_raises(
    scratch: Path, cgroup: bytes, mountinfo: bytes, limit: bytes, period: bytes, toml: bytes, siblings: bytes
) -> None:
    shutil.rmtree(scratch / "root", ignore_errors=True)
    files = {
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": mountinfo,
        "sys/fs/cgroup/cpu.max": limit,
        "sys/fs/cgroup/cpu.cfs_quota_us": limit,
        "sys/fs/cgroup/cpu.cfs_period_us": period,
        "sys/devices/system/cpu/cpu0/topology/thread_siblings_list": siblings,
        "etc/blasenv.toml": toml,
    }
    for name, contents in files.items():
        write(scratch / "root" / name, contents)
    root = str(scratch / "root")
    limits = list(blasenv.find_limits(root, set(range(8))))
    assert limits
    decision = blasenv.decide(blasenv.read_config(root, {}), limits, 8, {})
    assert decision.threads is None or 1 <= decision.threads <= blasenv.MAX_THREADS
    assert (blasenv.cpu_quota(root) or 1) > 0


def write(path: Path, contents: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)


# Something else in the place of each file that is read.


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 100 << 20)


def unreadable(path: Path) -> None:
    path.write_bytes(b"100000 100000\n")
    path.chmod(0)


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


PLACES: dict[str, Callable[[Path], object]] = {
    "not a regular file: FIFO": os.mkfifo,
    "Is a directory": os.mkdir,
    "not a regular file: device": lambda path: path.symlink_to("/dev/zero"),
    "larger than": sparse,
    "Permission denied": unreadable,
    "Too many levels of symbolic links": lambda path: path.symlink_to(path.name),
    "Input/output error": lambda path: path.symlink_to("/proc/self/mem"),
    "no such file": lambda path: path.symlink_to("absent"),
    "Not a directory": below_a_file,
}
V1 = b"5:cpu:/pod/app\n", b"31 22 0:26 / /sys/fs/cgroup rw - cgroup cgroup rw,cpu\n"
V2 = b"0::/pod/app\n", b"31 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
LEAF = "sys/fs/cgroup/pod/app"
SIBLINGS = "sys/devices/system/cpu/cpu0/topology/thread_siblings_list"


@contextlib.contextmanager
def without_privileges(needed: bool) -> Iterator[None]:
    """As nobody, because root may read what has no permission bits."""
    user = os.geteuid()
    if needed and user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that nobody may enter, too, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.mark.parametrize("kind", list(PLACES))
@pytest.mark.parametrize(
    ("process", "name", "quota"),
    [
        (V2, "proc/self/cgroup", None),
        (V2, "proc/self/mountinfo", None),
        (V2, f"{LEAF}/cpu.max", 3.0),
        (V1, f"{LEAF}/cpu.cfs_quota_us", 3.0),
        (V1, f"{LEAF}/cpu.cfs_period_us", 3.0),
        (V2, SIBLINGS, 1.5),
    ],
    ids=lambda value: value.rpartition("/")[2] if isinstance(value, str) else "",
)
def test_what_cannot_be_read_costs_only_itself(
    open_directory: Path, process: tuple[bytes, bytes], name: str, quota: float | None, kind: str
) -> None:
    root = open_directory
    files = {
        "proc/self/cgroup": process[0],
        "proc/self/mountinfo": process[1],
        f"{LEAF}/cpu.max": b"150000 100000\n",
        f"{LEAF}/cpu.cfs_quota_us": b"150000\n",
        f"{LEAF}/cpu.cfs_period_us": b"100000\n",
        "sys/fs/cgroup/pod/cpu.max": b"300000 100000\n",
        "sys/fs/cgroup/pod/cpu.cfs_quota_us": b"300000\n",
        "sys/fs/cgroup/pod/cpu.cfs_period_us": b"100000\n",
        SIBLINGS: b"0\n",
    }
    place = root / name
    for other, contents in files.items():
        if root / other != place and not (kind == "Not a directory" and (root / other).parent == place.parent):
            write(root / other, contents)
    place.parent.mkdir(parents=True, exist_ok=True)
    PLACES[kind](place)

    with without_privileges(needed=kind == "Permission denied"):
        config = blasenv.read_config(environ={"BLASENV_CONFIG": ""})
        config.rounding = "ceil"  # only then may there be more threads than cores
        limits = list(blasenv.find_limits(str(root), {0, 1}, config))
        assert blasenv.cpu_quota(str(root)) == quota
    assert kind.partition(":")[0] in " ".join(limit.note for limit in limits)


def test_ten_thousand_mounts(tmp_path: Path) -> None:
    """Busy nodes have them, and overlay mounts with many layers have lines of 80 kB."""
    layers = ":".join(f"/var/lib/docker/overlay2/{number:064x}/diff" for number in range(850))
    line = "{0} 1 0:{0} / /mnt/{0} rw,relatime shared:{0} - overlay overlay rw,lowerdir={1}"
    others = [line.format(number, layers if number % 2500 == 0 else layers[:200]) for number in range(10_000)]
    ours = "31 22 0:26 {} /sys/fs/cgroup{} rw - cgroup2 cgroup2 rw"
    foreign = [ours.format(f"/machine/{number}", f"/machine/{number}") for number in range(500)]
    mountinfo = [*others[:5000], ours.format("/", ""), *foreign, *others[5000:], ours.format("/pod", "/again"), ""]
    write(tmp_path / "proc/self/cgroup", b"0::/pod/app\n")
    write(tmp_path / "proc/self/mountinfo", "\n".join(mountinfo).encode())
    write(tmp_path / "sys/fs/cgroup/pod/app/cpu.max", b"300000 100000\n")
    write(tmp_path / "sys/fs/cgroup/again/cpu.max", b"200000 100000\n")
    limits = list(blasenv.find_quota(str(tmp_path)))
    assert [limit.path.removeprefix("/sys/fs/cgroup") for limit in limits] == [
        "/pod/app/cpu.max",
        "/pod/cpu.max",
        "/cpu.max",
        "/again/app/cpu.max",
        "/again/cpu.max",
    ]
    assert blasenv.cpu_quota(str(tmp_path)) == 2.0
