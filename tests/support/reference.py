"""A second reader of cgroup limits, to hold the first one to account.

It does what `blasenv.find_quota` does and shares no code with it: regular expressions for the
formats, pathlib for the paths, fractions for the numbers; no care for speed.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path, PurePosixPath

CGROUP = re.compile(rb"(?P<id>[^:\n]*):(?P<controllers>[^:\n]*):(?P<path>/[^\n]*)")
MOUNT = re.compile(
    rb"(?P<id>[^ ]+) (?P<parent>[^ ]+) (?P<device>[^ ]+) (?P<root>[^ ]+) (?P<point>[^ ]+) (?P<options>[^ ]+)"
    rb"(?P<optional> [^ ]+)*? - (?P<type>[^ ]+) (?P<source>[^ ]*) (?P<super>[^\n]*)"
)
ESCAPED = re.compile(rb"(?:[^\\]|\\(?:040|011|012|134))+")
CPU_MAX = re.compile(rb"\s*([0-9]{1,20})(?:\s+([0-9]{1,20}))?\s*")
NUMBER = re.compile(rb"\s*([0-9]{1,20})\s*")


def cpu_quota(root: Path) -> Fraction | None:
    """The least quota over period that binds the process of this fake root."""
    own = group(contents(root / "proc/self/cgroup"))
    if own is None:
        return None
    version, raw = own
    if raw != b"/" and {b"", b"."} & set(raw.split(b"/")[1:]):
        return None  # no group has such a name, and PurePosixPath would leave it out
    path = PurePosixPath(os.fsdecode(raw))
    quotas = []
    for mount_root, point in mounts(contents(root / "proc/self/mountinfo"), version):
        for level in levels(path, mount_root, point):
            directory = root / level.relative_to("/")
            quota = quota_v2(directory) if version == 2 else quota_v1(directory)
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def threads(root: Path, affinity: int) -> int | None:
    """The thread count that leaves nobody throttled, None where the CPUs are the limit already."""
    quota = cpu_quota(root)
    if quota is None or quota >= affinity:
        return None
    return max(1, min(math.floor(quota), cores(root, affinity) if quota > Fraction(affinity, 2) else affinity))


def cores(root: Path, affinity: int) -> int:
    topology = root / "sys/devices/system/cpu/cpu0/topology"
    text = contents(topology / "thread_siblings_list").decode("ascii", "replace").strip()
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        return affinity
    ranges = [[int(end) for end in part.split("-")] for part in text.split(",")]
    siblings = sum(1 for cpu in range(affinity) if any(part[0] <= cpu <= part[-1] for part in ranges))
    return math.ceil(Fraction(affinity, max(1, siblings)))


def contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def group(cgroup: bytes) -> tuple[int, bytes] | None:
    lines = [match for match in map(CGROUP.fullmatch, cgroup.split(b"\n")) if match]
    for line in lines:
        if re.search(rb"(?:^|,)cpu(?:,|$)", line["controllers"]):
            return 1, line["path"]
    for line in lines:
        if (line["id"], line["controllers"]) == (b"0", b""):
            return 2, line["path"]
    return None


def mounts(mountinfo: bytes, version: int) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    lines = [match for match in map(MOUNT.fullmatch, mountinfo.split(b"\n")) if match]
    for number, line in enumerate(lines):
        kind, options = line["type"], line["super"].split(b",")
        if not (kind == b"cgroup2" if version == 2 else kind == b"cgroup" and b"cpu" in options):
            continue
        root, point = unescape(line["root"]), unescape(line["point"])
        later = {unescape(match["point"]) for match in lines[number + 1 :]}
        # The root directory itself is left out: what is mounted over it covers nothing that we hold on to.
        if root and point and not later & {point, *list(point.parents)[:-1]}:
            yield root, point


def unescape(field: bytes) -> PurePosixPath | None:
    if not ESCAPED.fullmatch(field):
        return None
    plain = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)
    return PurePosixPath(os.fsdecode(plain))


def levels(path: PurePosixPath, root: PurePosixPath, point: PurePosixPath) -> list[PurePosixPath]:
    try:
        rest = path.relative_to(root)
    except ValueError:
        return []
    if ".." in rest.parts:
        return []
    return [point, *(point.joinpath(*rest.parts[:count]) for count in range(1, len(rest.parts) + 1))]


def quota_v2(directory: Path) -> Fraction | None:
    match = CPU_MAX.fullmatch(contents(directory / "cpu.max"))
    return ratio(match[1], match[2] or b"100000") if match else None


def quota_v1(directory: Path) -> Fraction | None:
    quota = NUMBER.fullmatch(contents(directory / "cpu.cfs_quota_us"))
    period = NUMBER.fullmatch(contents(directory / "cpu.cfs_period_us"))
    return ratio(quota[1], period[1]) if quota and period else None


def ratio(quota: bytes, period: bytes) -> Fraction | None:
    return Fraction(int(quota), int(period)) if int(quota) and int(period) else None
