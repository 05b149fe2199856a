"""Every fact about the kernel's files, and every bug of others, as a fake root; read twice, by two readers."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import reference
from hypothesis import given, settings, strategies as st

import blasenv

TREES = Path(__file__).parent / "trees"
NAMES = sorted(path.parent.name for path in TREES.glob("*/expect.json"))

# Other projects' bugs that a tree must hold.
ISSUES = (
    "golang/go 76390",
    "golang/go 77911",
    "golang/go 81180",
    "uber-go/automaxprocs 85",
    "rust-lang/rust 104493",
    "joblib/loky 478",
    "joblib/loky 634",
    "dask/distributed 3053",
    "dotnet/runtime 99563",
)


class Tree(NamedTuple):
    root: Path
    expect: dict[str, Any]


@pytest.fixture(params=NAMES)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    root = TREES / request.param
    expect = json.loads((root / "expect.json").read_text("utf-8"))
    if "files" in expect:
        root = shutil.copytree(root, tmp_path / "root")
        for name, text in expect["files"].items():
            write(root / name, os.fsencode(text))
    return Tree(root, expect)


def write(path: Path, contents: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)


def test_a_tree_gives_what_it_expects(tree: Tree) -> None:
    root, expect = str(tree.root), tree.expect
    environ = expect.get("environ", {})
    config = blasenv.read_config(root, environ, expect.get("argv", ()))
    limits = list(blasenv.find_limits(root, set(range(expect["affinity"]))))
    decision = blasenv.decide(config, limits, expect["affinity"], environ)

    assert blasenv.cpu_quota(root) == expect["quota_cpus"]
    assert (decision.rule, decision.threads) == (expect["rule"], expect["threads"])
    assert decision.set == ({"OMP_NUM_THREADS": str(expect["threads"])} if expect["threads"] else {})
    for name, value in expect.get("config", {}).items():
        assert getattr(config, name) == value
    assert expect.get("note", "") in " ".join(limit.note for limit in limits)


def test_a_tree_reads_the_same_to_the_reference(tree: Tree) -> None:
    assert exact_quota(tree.root) == reference.cpu_quota(tree.root)
    if tree.expect["rule"] in ("quota", "no-gap", "no-limit") and not {"environ", "config"} & set(tree.expect):
        assert tree.expect["threads"] == reference.threads(tree.root, tree.expect["affinity"])


def exact_quota(root: Path) -> Fraction | None:
    limits = blasenv.find_quota(str(root))
    return min((Fraction(limit.quota, limit.period) for limit in limits if limit.quota and limit.period), default=None)


@pytest.mark.parametrize("issue", ISSUES)
def test_a_tree_holds_the_issue(issue: str) -> None:
    assert any(issue in (TREES / name / "expect.json").read_text("utf-8") for name in NAMES)


@pytest.mark.parametrize("trailing", ["", "/", "//"])
def test_the_root_may_end_in_slashes(trailing: str) -> None:
    assert blasenv.cpu_quota(str(TREES / "docker-v2") + trailing) == 1.5


def test_another_process(tmp_path: Path) -> None:
    own = TREES / "docker-v2-in-docker"
    shutil.copytree(own / "sys", tmp_path / "sys")
    write(tmp_path / "proc/42/cgroup", b"0::/docker\n")
    write(tmp_path / "proc/42/mountinfo", (own / "proc/self/mountinfo").read_bytes())
    paths = [limit.path for limit in blasenv.find_quota(str(tmp_path), "42")]
    assert paths == ["/sys/fs/cgroup/docker/cpu.max", "/sys/fs/cgroup/cpu.max"]


# Generated trees: groups with awkward names, mounts of several roots and kinds on points that cover one another.

NAME = st.sampled_from(["a", "b", "sand", "sandbox", "a b", "c\\d", "x:y", "é", "\udcff", "r\r", "z (deleted)", ".."])
POINT = st.sampled_from(["/sys", "/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup2", "/mnt/a b", "/c\\g"])
NUMBER = st.one_of(
    st.sampled_from(["-1", "0", "max", "", "1_0", "x", "99999999999999999", "18446744073709551616", "000200000"]),
    st.integers(1, 900_000).map(str),
)


@st.composite
def generated(draw: st.DrawFn) -> dict[str, str]:
    """The files of a fake root, by path."""
    group = draw(st.lists(NAME, max_size=4))
    path = "/" + "/".join(group)
    lines = draw(st.permutations([f"4:cpu,cpuacct:{path}", "3:cpuset:/elsewhere", f"0::{path}", "garbage"]))
    files = {"/proc/self/cgroup": "\n".join(lines[: draw(st.integers(1, 4))])}
    kinds = st.sampled_from(["cgroup2 none rw", "cgroup  rw,cpuacct,cpu", "cgroup none rw,cpuset", "tmpfs none rw"])
    mountinfo = ["28 1 259:2 / / rw,relatime shared:1 - ext4 /dev/sda rw"]
    for _ in range(draw(st.integers(1, 4))):
        shown = draw(st.integers(0, len(group)))
        names = draw(st.one_of(st.just(group[:shown]), st.lists(NAME, max_size=3)))
        root, point, kind = "/" + "/".join(names), draw(POINT), draw(kinds)
        if kind.startswith("tmpfs"):
            point = draw(st.sampled_from([point, "/"]))
        mountinfo.append(f"30 28 0:26 {escape(root)} {escape(point)} rw,nosuid shared:9 master:1 - {kind}")
        for depth in range(len(group) + 1):
            level = "/".join([point, *draw(st.sampled_from([group, group[shown:]]))[:depth]])
            files[f"{level}/cpu.max"] = f"{draw(NUMBER)} {draw(NUMBER)}\n"
            files[f"{level}/cpu.cfs_quota_us"] = draw(NUMBER)
            files[f"{level}/cpu.cfs_period_us"] = draw(NUMBER)
    return {**files, "/proc/self/mountinfo": "\n".join([*mountinfo, ""])}


def escape(path: str) -> str:
    return "".join({" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134"}.get(letter, letter) for letter in path)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@settings(max_examples=200, deadline=None)
@given(files=generated(), affinity=st.integers(1, 64))
def test_generated_trees_read_the_same_to_the_reference(scratch: Path, files: dict[str, str], affinity: int) -> None:
    shutil.rmtree(scratch / "1", ignore_errors=True)
    root = scratch / "1/2/3/4"  # as deep as the ".." of a group can climb
    for name, text in files.items():
        write(Path(f"{root}{name}"), os.fsencode(text))

    quota = reference.cpu_quota(root)
    assert exact_quota(root) == quota
    assert blasenv.cpu_quota(str(root)) == (None if quota is None else float(quota))
    config = blasenv.read_config(str(root), {})
    limits = blasenv.find_limits(str(root), set(range(affinity)))
    assert blasenv.decide(config, limits, affinity, {}).threads == reference.threads(root, affinity)
