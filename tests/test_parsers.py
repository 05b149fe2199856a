"""One table per parser: bytes of a kernel file, and what they mean. The formats are quoted in the parsers."""

from __future__ import annotations

import pytest

from blasenv import (
    MAX_THREADS,
    _host,
    level_directories,
    parse_cgroup,
    parse_cpu_cfs,
    parse_cpu_max,
    parse_microseconds,
    parse_mountinfo,
)
from blasenv._config_file import is_thread_variable

Mounts = list[tuple[bytes, bytes]]


@pytest.mark.parametrize(
    ("contents", "want"),
    [
        (b"", None),
        (b"\n\n", None),
        (b"0::/\n", (2, b"/")),
        (b"0::/a/b", (2, b"/a/b")),
        (b"1:name=systemd:/s\n0::/u\n", (2, b"/u")),
        (b"0::/u\n4:cpu,cpuacct:/v\n", (1, b"/v")),
        (b"4:cpuacct,cpu:/v\n", (1, b"/v")),
        (b"4:cpu:/v\n", (1, b"/v")),
        (b"4:net_cls,cpu,pids:/v\n", (1, b"/v")),
        (b"4:cpuset:/v\n5:cpuacct:/w\n6:name=cpu:/x\n", None),
        (b"4:CPU:/v\n", None),
        (b"0:name=x:/v\n", None),
        (b"00::/v\n", None),
        (b"0::\n", None),
        (b"0::relative\n", None),
        (b"0:/v\n", None),
        (b"0\n", None),
        (b"0::/a:b::c\n", (2, b"/a:b::c")),
        (b"0::/a \n", (2, b"/a ")),
        (b"0::/a\r\n", (2, b"/a\r")),
        (b"0::/a\t\x0b\x0c\x85\n", (2, b"/a\t\x0b\x0c\x85")),
        (b"0::/caf\xe9\n", (2, b"/caf\xe9")),
        (b"0::/a\\040b\n", (2, b"/a\\040b")),
        (b"0::/../a\n", (2, b"/../a")),
        (b"0::/a (deleted)\n", (2, b"/a (deleted)")),
        (b"0::/first\n0::/second\n", (2, b"/first")),
        (b"\xff\xfe\n:::\n0::/a\n", (2, b"/a")),
    ],
)
def test_parse_cgroup(contents: bytes, want: tuple[int, bytes] | None) -> None:
    assert parse_cgroup(contents) == want


V2 = b"31 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
V1 = b"32 31 0:27 /docker/1 /sys/fs/cgroup/cpu,cpuacct ro shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
CPUSET = b"33 31 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
SHOWN = (b"/", b"/sys/fs/cgroup")


def mount(root: bytes, point: bytes) -> bytes:
    return b"31 22 0:26 " + root + b" " + point + b" rw - cgroup2 cgroup2 rw\n"


def tmpfs(point: bytes) -> bytes:
    return b"40 22 0:30 / " + point + b" rw - tmpfs tmpfs rw\n"


@pytest.mark.parametrize(
    ("contents", "version", "want"),
    [
        (b"", 2, []),
        (V2, 2, [SHOWN]),
        (V2.rstrip(b"\n"), 2, [SHOWN]),
        (V2, 1, []),
        (V1, 1, [(b"/docker/1", b"/sys/fs/cgroup/cpu,cpuacct")]),
        (V1, 2, []),
        (CPUSET, 1, []),
        (V2 + V1 + CPUSET, 2, [SHOWN]),
        (V2 + V1 + CPUSET, 1, [(b"/docker/1", b"/sys/fs/cgroup/cpu,cpuacct")]),
        # (7) any number of optional fields
        (b"31 22 0:26 / /c rw - cgroup2 x rw\n", 2, [(b"/", b"/c")]),
        (b"31 22 0:26 / /c rw shared:1 master:2 propagate_from:3 unbindable - cgroup2 x rw\n", 2, [(b"/", b"/c")]),
        # (9) the type is a whole word
        (b"31 22 0:26 / /c rw - cgroup2fs cgroup2 rw\n", 2, []),
        (b"31 22 0:26 / /c rw - cgroup2 cgroup rw,cpu\n", 1, []),
        # (10) the source may be empty, (11) may hold blanks
        (b"31 22 0:26 / /c rw - cgroup  rw,cpu\n", 1, [(b"/", b"/c")]),
        (b"31 22 0:26 / /c rw - cgroup2  rw\n", 2, [(b"/", b"/c")]),
        (b"31 22 0:26 / /c rw - cgroup c rw,a=b c - d,cpu\n", 1, [(b"/", b"/c")]),
        (b"31 22 0:26 / /c rw - 9p x rw,path=C:\\Program Files\\a - cgroup2 b\n", 2, []),
        (b"31 22 0:26 / /c rw - cgroup cpu rw,name=cpu,cpuset\n", 1, []),
        # too few fields
        (b"0:26 / /c rw - cgroup2 x rw\n", 2, []),
        (b" - cgroup2 x rw\n" + V2, 2, [SHOWN]),
        (b"31 22 0:26 / /c rw\n" + V2, 2, [SHOWN]),
        (V2 + b"31 22\n\n-\n", 2, [SHOWN]),
        # (4) and (5) are escaped
        (mount(b"/a\\040b", b"/c\\011\\012\\134d"), 2, [(b"/a b", b"/c\t\n\\d")]),
        (mount(b"/a", b"/caf\xe9"), 2, [(b"/a", b"/caf\xe9")]),
        (mount(b"/a\r", b"/c\x0b\x0c\rd"), 2, [(b"/a\r", b"/c\x0b\x0c\rd")]),
        (mount(b"/a\\04", b"/c") + V2, 2, [SHOWN]),
        (mount(b"/", b"/c\\") + V2, 2, [SHOWN]),
        (mount(b"/..", b"/c"), 2, [(b"/..", b"/c")]),
        # several mounts
        (mount(b"/a", b"/c") + mount(b"/a/b", b"/d"), 2, [(b"/a", b"/c"), (b"/a/b", b"/d")]),
        # a later mount covers
        (mount(b"/a", b"/c") + mount(b"/b", b"/c"), 2, [(b"/b", b"/c")]),
        (V2 + tmpfs(b"/sys/fs/cgroup"), 2, []),
        (V2 + tmpfs(b"/sys"), 2, []),
        (V2 + tmpfs(b"/sys") + V2, 2, [SHOWN]),
        (tmpfs(b"/sys/fs/cgroup") + V2, 2, [SHOWN]),
        (V2 + tmpfs(b"/sys/fs/cgroup2"), 2, [SHOWN]),
        (V2 + b"31 22 0:26 / /sys rw\n" + b"22 /sys - x\n", 2, [SHOWN]),
        (V2 + b"31 22 0:26 /sys /mnt rw - ext4 /sys rw\n", 2, [SHOWN]),
        (V2 + tmpfs(b"/sys/fs/cgroup/x"), 2, [SHOWN]),
        (V2 + tmpfs(b"/sy"), 2, [SHOWN]),
        (V2 + tmpfs(b"/"), 2, [SHOWN]),
        (V2 + CPUSET.replace(b"/sys/fs/cgroup/cpuset", b"/sys/fs/cgroup"), 2, []),
        (mount(b"/", b"/a\\040b") + tmpfs(b"/a\\040b"), 2, []),
    ],
)
def test_parse_mountinfo(contents: bytes, version: int, want: Mounts) -> None:
    assert parse_mountinfo(contents, version) == want


ESCAPES = [
    (b"", b""),
    (b"/sys/fs/cgroup", b"/sys/fs/cgroup"),
    (b"/a b", b"/a\\040b"),
    (b"/a  b", b"/a\\040\\040b"),
    (b"\t\n", b"\\011\\012"),
    (b"\\", b"\\134"),
    (b"/a\\040b", b"/a\\134040b"),
    (b"/a\\x2db", b"/a\\134x2db"),
    (b"/caf\xe9", b"/caf\xe9"),
    (b"/a\rb", b"/a\rb"),
    (b"/a#b", b"/a#b"),
    (b"/a 40", b"/a\\04040"),
]


def escape(name: bytes) -> bytes:
    """What the kernel does to a root and a mount point: seq_path(m, path, " \\t\\n\\\\"), fs/proc_namespace.c."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in name)


@pytest.mark.parametrize(("name", "escaped"), ESCAPES)
def test_unescape(name: bytes, escaped: bytes) -> None:
    assert escape(name) == escaped
    assert _host._unescape(escaped) == name


@pytest.mark.parametrize("broken", [b"\\", b"/a\\", b"/a\\0", b"/a\\04", b"/a\\048", b"/a\\x20", b"\\\\", b"/a\\ 040"])
def test_unescape_refuses(broken: bytes) -> None:
    assert _host._unescape(broken) is None


def test_unescape_of_every_byte() -> None:
    name = bytes(range(1, 256)) * 2
    assert _host._unescape(escape(name)) == name


@pytest.mark.parametrize(
    ("field", "want"),
    [
        (b"1", 1),
        (b"150000", 150000),
        (b"007", 7),
        (b"12345678901234567", 12345678901234567),
        (b"18446744073709551615", 2**64 - 1),
        (b"184467440737095516150", None),
        (b"1" * 5000, None),
        (b"0", None),
        (b"000", None),
        (b"", None),
        (b"-1", None),
        (b"+1", None),
        (b" 1", None),
        (b"1 ", None),
        (b"1\n", None),
        (b"1_0", None),
        (b"1.0", None),
        (b"1e5", None),
        (b"0x1", None),
        (b"max", None),
        ("\u0661\u0662".encode(), None),
        ("\u00b2".encode(), None),
        (b"\xb2", None),
        (b"1\0", None),
    ],
)
def test_parse_microseconds(field: bytes, want: int | None) -> None:
    assert parse_microseconds(field) == want


@pytest.mark.parametrize(
    ("contents", "quota", "period", "malformed"),
    [
        (b"max 100000\n", None, None, False),
        (b"max\n", None, None, False),
        (b"", None, None, False),
        (b"\n", None, None, False),
        (b"  \n", None, None, False),
        (b"150000 100000\n", 150000, 100000, False),
        (b"150000 100000", 150000, 100000, False),
        (b" 150000\t100000 \n", 150000, 100000, False),
        (b"150000\n", 150000, 100000, False),
        (b"12345678901234567 98765432109876543\n", 12345678901234567, 98765432109876543, False),
        (b"1 1000000\n", 1, 1000000, False),
        (b"0 100000\n", None, None, True),
        (b"150000 0\n", None, None, True),
        (b"150000 max\n", None, None, True),
        (b"150000 100000 1\n", None, None, True),
        (b"-1 100000\n", None, None, True),
        (b"1_0 100000\n", None, None, True),
        (b"maximum 100000\n", None, None, True),
        (b"Max 100000\n", None, None, True),
        ("\u0661\u0665 100000".encode(), None, None, True),
        (b"\xff\xff", None, None, True),
        (b"\0", None, None, True),
    ],
)
def test_parse_cpu_max(contents: bytes, quota: int | None, period: int | None, malformed: bool) -> None:
    *numbers, note = parse_cpu_max(contents)
    assert numbers == [quota, period]
    assert note.startswith("malformed: ") == malformed == bool(note)


@pytest.mark.parametrize(
    ("quota_file", "period_file", "quota", "period", "malformed"),
    [
        (b"-1\n", b"100000\n", None, None, False),
        (b"-1\n", b"", None, None, False),
        (b"0\n", b"100000\n", None, None, False),
        (b"150000\n", b"100000\n", 150000, 100000, False),
        (b"150000", b"100000", 150000, 100000, False),
        (b" 150000 \n", b"\t100000\n", 150000, 100000, False),
        (b"12345678901234567", b"98765432109876543", 12345678901234567, 98765432109876543, False),
        (b"150000\n", b"0\n", None, None, True),
        (b"150000\n", b"-1\n", None, None, True),
        (b"150000\n", b"", None, None, True),
        (b"", b"100000\n", None, None, True),
        (b"-2\n", b"100000\n", None, None, True),
        (b"+150000\n", b"100000\n", None, None, True),
        (b"15_0000\n", b"100000\n", None, None, True),
        (b"max\n", b"100000\n", None, None, True),
        (b"150000 100000\n", b"100000\n", None, None, True),
        (b"\xff", b"\xff", None, None, True),
    ],
)
def test_parse_cpu_cfs(
    quota_file: bytes, period_file: bytes, quota: int | None, period: int | None, malformed: bool
) -> None:
    *numbers, note = parse_cpu_cfs(quota_file, period_file)
    assert numbers == [quota, period]
    assert note.startswith("malformed: ") == malformed == bool(note)


def test_a_note_quotes_little_of_a_large_file() -> None:
    assert len(parse_cpu_max(b"x" * 60000)[2]) < 120
    assert len(parse_cpu_cfs(b"x" * 60000, b"y" * 60000)[2]) < 120


@pytest.mark.parametrize(
    ("path", "root", "point", "want"),
    [
        (b"/", b"/", b"/c", [b"/c"]),
        (b"/a", b"/", b"/c", [b"/c/a", b"/c"]),
        (b"/a/b/d", b"/", b"/c", [b"/c/a/b/d", b"/c/a/b", b"/c/a", b"/c"]),
        (b"/a/b", b"/a", b"/c", [b"/c/b", b"/c"]),
        (b"/a/b", b"/a/b", b"/c", [b"/c"]),
        (b"/a", b"/a/b", b"/c", []),
        (b"/", b"/a", b"/c", []),
        (b"/a", b"/b", b"/c", []),
        (b"/sandbox", b"/sand", b"/c", []),
        (b"/sandbox/a", b"/sand", b"/c", []),
        (b"/sand/box", b"/sand", b"/c", [b"/c/box", b"/c"]),
        (b"/a /b", b"/a ", b"/c", [b"/c/b", b"/c"]),
        (b"/a /b", b"/a", b"/c", []),
        (b"/caf\xe9/b", b"/caf\xe9", b"/c", [b"/c/b", b"/c"]),
        (b"/a", b"/", b"/", [b"/a", b""]),
        # ".." is a name to match
        (b"/../a", b"/", b"/c", []),
        (b"/a/../b", b"/", b"/c", []),
        (b"/a/../b", b"/a", b"/c", []),
        (b"/..", b"/", b"/c", []),
        (b"/..", b"/..", b"/c", [b"/c"]),
        (b"/../a", b"/..", b"/c", [b"/c/a", b"/c"]),
        (b"/../a", b"/../a", b"/c", [b"/c"]),
        (b"/../../a", b"/..", b"/c", []),
        (b"/../../a", b"/../..", b"/c", [b"/c/a", b"/c"]),
        (b"/..a/b..", b"/", b"/c", [b"/c/..a/b..", b"/c/..a", b"/c"]),
        (b"/a/./b", b"/", b"/c", []),
    ],
)
def test_levels(path: bytes, root: bytes, point: bytes, want: list[bytes]) -> None:
    assert level_directories(path, root, point) == want


@pytest.mark.parametrize(
    ("contents", "want"),
    [
        (b"0\n", {0}),
        (b"0,24\n", {0, 24}),
        (b"0-3", {0, 1, 2, 3}),
        (b"0-1,24-25,48\n", {0, 1, 24, 25, 48}),
        (b"3-3\n", {3}),
        (b"", set()),
        (b"\n", set()),
        (b"0,\n", set()),
        (b"0-\n", set()),
        (b"-1\n", set()),
        (b"0-1-2\n", set()),
        (b"a\n", set()),
        (b"0 1\n", set()),
        (b"0,x\n", set()),
        (b"1_0\n", set()),
        ("\u0661\n".encode(), set()),
        (b"\xff\n", set()),
        (b"99999999999999999999\n", set()),
    ],
)
def test_parse_cpu_list(contents: bytes, want: set[int]) -> None:
    assert _host.parse_cpu_list(contents) == want


def test_parse_cpu_list_makes_no_set_larger_than_any_machine() -> None:
    assert len(_host.parse_cpu_list(b"0-999999\n")) <= MAX_THREADS


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("1", 1),
        ("8", 8),
        ("08", 8),
        ("8192", 8192),
        ("8193", None),
        ("0", None),
        ("", None),
        ("-1", None),
        ("+1", None),
        (" 1", None),
        ("1.5", None),
        ("1_0", None),
        ("3,2", None),
        ("auto", None),
        ("\u0663", None),
        ("\u00b2", None),
        ("9" * 5000, None),
    ],
)
def test_parse_count(text: str, want: int | None) -> None:
    assert _host.parse_count(text) == want


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("OMP_NUM_THREADS", True),
        ("NUMEXPR_MAX_THREADS", True),
        ("RAYON_NUM_THREADS", True),
        ("A2_THREADS", True),
        ("PATH", False),
        ("LD_PRELOAD", False),
        ("omp_num_threads", False),
        ("OMP_NUM_THREADS ", False),
        ("OMP_NUM_THREADS=", False),
        ("OMP NUM_THREADS", False),
        ("OMP-NUM_THREADS", False),
        ("\u00c4OMP_NUM_THREADS", False),
        ("NUM_THREADS_LIMIT", False),
        ("", False),
    ],
)
def test_is_thread_variable(name: str, want: bool) -> None:
    assert is_thread_variable(name) == want
