#!/usr/bin/env python3
"""Coverage-guided fuzzing of what start-up reads, with two independent judges.

    tests/support/fuzz.py -max_total_time=600      (needs atheris; the options are libFuzzer's)

No parser may raise. A configuration that is accepted has the value that tomllib gives it, and
the quota found in a tree made of the input is the one that `reference` finds. A finding
becomes a tree or a row of a table in the tests.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris
import reference
import tomllib

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["blasenv"]):
    import blasenv
    from blasenv import _config_file, _host

TREE = Path(tempfile.mkdtemp(prefix="blasenv-fuzz-"))
WORDS = [
    b"0::/", b"1:cpu,cpuacct:/", b"/a/b", b"..", b" - cgroup2 c rw", b" - cgroup c rw,cpu", b"\\040", b"max 100000",
    b"150000 100000", b"-1", b"programs", b"mode", b"threads", b"variables", b"OMP_NUM_THREADS", b"rounding",
]  # fmt: skip


def fuzz_config(contents: bytes) -> None:
    settings, problems, _ = _config_file.parse_config(contents)
    if not problems:
        expected = tomllib.loads(contents.decode())
        if settings != expected:
            raise AssertionError(f"{settings} is not {expected}")


def fuzz_tree(provider: atheris.FuzzedDataProvider) -> None:
    mount_root = provider.PickValueInList([b"/", b"/a", b"/a/b", b"/..", b"/a\\040b"])
    cgroup = provider.ConsumeBytes(60).replace(b"\0", b"x")  # no path holds a NUL
    kind = provider.PickValueInList([b"cgroup2 c rw", b"cgroup c rw,cpu", b"cgroup c rw,cpuset", b"tmpfs t rw"])
    lines = [b"1 0 0:1 " + mount_root + b" /cg rw - " + kind, provider.ConsumeBytes(80).replace(b"\0", b"x")]
    files = {"cpu.max": provider.ConsumeBytes(24), "cpu.cfs_quota_us": provider.ConsumeBytes(24)}
    files["cpu.cfs_period_us"] = provider.ConsumeBytes(24)
    (TREE / "proc/self/cgroup").write_bytes(provider.PickValueInList([b"0::/", b"1:cpu:/", b"0::/a/b\n"]) + cgroup)
    (TREE / "proc/self/mountinfo").write_bytes(b"\n".join(lines))
    for directory in (TREE / "cg", TREE / "cg/a", TREE / "cg/a/b"):
        for name, contents in files.items():
            (directory / name).write_bytes(contents)
    found, expected = blasenv.cpu_quota(str(TREE)), reference.cpu_quota(TREE)
    if found != (None if expected is None else float(expected)):
        raise AssertionError(f"{found} is not {expected}")


def fuzz(contents: bytes) -> None:
    fuzz_config(contents)
    blasenv.parse_cgroup(contents)
    blasenv.parse_cpu_max(contents)
    blasenv.parse_cpu_cfs(contents[: len(contents) // 2], contents[len(contents) // 2 :])
    for version in (1, 2):
        blasenv.parse_mountinfo(contents, version)
    _host.parse_cpu_list(contents)
    text = contents.decode("utf-8", "surrogateescape")
    environ = dict.fromkeys((blasenv.MARK, *blasenv.WISHES, *blasenv.LOCAL_RANKS, "WEB_CONCURRENCY"), text)
    environ["OMP_NUM_THREADS"] = "4"
    environ["BLASENV_CONFIG"] = ""
    blasenv.decide(blasenv.read_config("/", environ), [], 8, environ)
    fuzz_tree(atheris.FuzzedDataProvider(contents))


def main() -> None:
    for directory in ("proc/self", "cg/a/b"):
        (TREE / directory).mkdir(parents=True)
    with tempfile.NamedTemporaryFile(suffix=".dict") as dictionary:
        for word in WORDS:
            dictionary.write(b'"' + word.replace(b"\\", b"\\\\") + b'"\n')
        dictionary.flush()
        atheris.Setup([*sys.argv, f"-dict={dictionary.name}", "-max_len=512"], fuzz)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
