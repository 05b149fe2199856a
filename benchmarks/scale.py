#!/usr/bin/env python3
"""What a crowded machine costs the hook: thousands of mounts, dozens of nested groups, in a tree made for it.

    benchmarks/scale.py

Prints a Markdown table: the time of finding the limit, the least of 20 runs, in milliseconds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import blasenv  # noqa: E402

SIZES = ((10, 5), (1_000, 5), (10_000, 5), (10, 50), (10_000, 50))


def make_tree(root: Path, mounts: int, groups: int) -> None:
    """A cgroup v2 file system below so many groups, each with a limit, among so many other mounts."""
    process = root / "proc" / "self"
    process.mkdir(parents=True)
    names = [f"group{number}" for number in range(groups)]
    (process / "cgroup").write_text(f"0::/{'/'.join(names)}\n")
    line = "{0} 1 0:{0} / /var/lib/docker/overlay2/{0:064x}/merged rw,relatime shared:{0} - overlay overlay rw\n"
    cgroup = "25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
    (process / "mountinfo").write_text(cgroup + "".join(line.format(number) for number in range(26, 26 + mounts)))
    for count in range(groups + 1):
        directory = root.joinpath("sys", "fs", "cgroup", *names[:count])
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cpu.max").write_text(f"{400_000 + count} 100000\n")


def measure(root: Path) -> float:
    """Milliseconds."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        limits = list(blasenv.find_quota(str(root)))
        times.append(time.perf_counter() - start)
    if not all(limit.quota for limit in limits):
        raise SystemExit(f"{root}: not every limit was found")
    return 1000 * min(times)


def main() -> None:
    """Print the table."""
    print("| mounts | nested groups | ms |\n|---|---|---|")
    for mounts, groups in SIZES:
        with tempfile.TemporaryDirectory() as directory:
            make_tree(Path(directory), mounts, groups)
            print(f"| {mounts:,} | {groups} | {measure(Path(directory)):.2f} |")


if __name__ == "__main__":
    main()
