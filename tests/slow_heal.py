"""``blasenv heal`` where it takes longer: real containers, large libraries, long calls, and what it is worth.

Not run by default. As root; it installs docker.io and mmdebstrap if they are missing, and takes about
ten minutes the first time. By name: pytest tests/slow_heal.py
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from bed import LARGE, Bed, make_bed
from conftest import ROOT, Cgroup, clean_environ, run
from test_heal import BLASENV, PROGRAM, counts, heal, numpy_program, running

sys.path.insert(0, str(ROOT / "docker-tests"))
import daemon

CPUS = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module", params=["3.14", "3.15"])
def each_bed(request: pytest.FixtureRequest) -> Bed:
    """Python 3.14, and 3.15 where numpy has a wheel for it."""
    return make_bed(request.param)


@pytest.fixture(scope="module")
def bed() -> Bed:
    return make_bed()


@pytest.fixture(scope="module")
def large() -> Bed:
    return make_bed("3.14", LARGE)


def test_each_version(each_bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    with running(limited(1).enter(numpy_program(each_bed))) as program:
        (case,) = heal(program.pid)
        assert (case["outcome"], counts(case)) == ("healed", [("OpenBLAS", CPUS, 1)])
        program.assert_unharmed()


# Three pools: numpy's OpenBLAS, scipy's, and scikit-learn's OpenMP. A fourth is PyArrow's, a fifth NumExpr's.
POOLS = """
import os, sys
import numpy as np, scipy.linalg, pyarrow, numexpr
from sklearn.cluster import KMeans
rng = np.random.default_rng(1)
a, points = rng.random((200, 200)), rng.random((2000, 8))
def work():
    centres = KMeans(4, n_init=1, max_iter=20, random_state=0).fit(points).cluster_centers_
    return centres.sum() + scipy.linalg.solve(a, a[0]).sum() + (a @ a).sum()
expected = work()
print(os.getpid(), flush=True)
import threading
state = [0, 0]
def answer():
    for _ in sys.stdin:
        print(state[0], state[1], [], flush=True)
threading.Thread(target=answer, daemon=True).start()
while True:
    state[1] += abs(work() - expected) > 1e-6 * abs(expected)
    state[0] += 1
"""


def test_five_pools(large: Bed, limited: Callable[[float], Cgroup]) -> None:
    with running(limited(1).enter(large.command("-c", POOLS))) as program:
        (case,) = heal(program.pid, "--wait", 60)
        assert case["outcome"] == "healed", case
        expected = [("GNU OpenMP", 1), ("NumExpr", 1), ("OpenBLAS", 1), ("OpenBLAS", 1), ("PyArrow", 1)]
        assert sorted((kind, after) for kind, _, after in counts(case)) == expected
        program.assert_unharmed()


LONG = """
import os, sys, time
import numpy as np
n = int(sys.argv[1])
a = np.ones((n, n))
print(os.getpid(), flush=True)
b = a @ a
print(1, flush=True)
assert (b == n).all()
import ctypes
path = [line.split()[-1] for line in open("/proc/self/maps") if "openblas" in line][0]
print(ctypes.CDLL(path).scipy_openblas_get_num_threads64_(), flush=True)
sys.stdin.readline()
"""


def test_in_the_middle_of_a_long_product(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    """Too late: nothing happens, also not afterwards. With patience: as soon as the product is done."""
    for wait, status, after in ((1, 1, CPUS), (600, 0, 1)):
        with running(limited(1).enter(bed.command("-c", LONG, "6000"))) as program:
            (case,) = heal(program.pid, "--wait", wait, status=status)
            assert case["outcome"] == ("not healed" if status else "healed"), case
            assert program.process.stdout is not None
            assert program.process.stdout.readline() == "1\n"
            assert program.process.stdout.readline() == f"{after}\n"


RATE = """
import os, sys, time
import numpy as np
a = np.random.default_rng(1).random((400, 400))
print(os.getpid(), flush=True)
while True:
    sys.stdin.readline()
    end, rounds = time.monotonic() + 4, 0
    while time.monotonic() < end:
        a @ a
        rounds += 1
    print(rounds, flush=True)
"""


def test_it_is_as_fast_as_one_that_was_started_right(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    """In pairs, because the machine may have other things to do: the median of the ratios is at least 0.95."""
    command = bed.command("-c", RATE)
    with running(limited(1).enter(command)) as healed, running(limited(1).enter(command), OMP_NUM_THREADS="1") as right:

        def rate(program: Any) -> int:
            program.process.stdin.write("\n")
            program.process.stdin.flush()
            return int(program.process.stdout.readline())

        before = rate(healed) / rate(right)
        healed.process.stdin.write("\n")  # type: ignore[union-attr]
        healed.process.stdin.flush()  # type: ignore[union-attr]
        (case,) = heal(healed.pid)
        healed.process.stdout.readline()  # type: ignore[union-attr]
        assert counts(case) == [("OpenBLAS", CPUS, 1)]
        ratios = []
        for turn in range(10):
            pair = [healed, right] if turn % 2 else [right, healed]
            found = {program.pid: rate(program) for program in pair}
            ratios.append(found[healed.pid] / found[right.pid])
    print(f"before {before:.2f}; after {statistics.median(ratios):.3f}, from {min(ratios):.2f} to {max(ratios):.2f}")
    assert statistics.median(ratios) >= 0.95


def test_a_hundred_heals_leave_the_results_right(bed: Bed, limited: Callable[[float], Cgroup]) -> None:
    """Counts change while two Python threads multiply."""
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from blasenv.live import remote
for number in range(100):
    rows = remote.heal(remote.identify(int(sys.argv[1])), seconds=60, threads=(1, {CPUS})[number % 2], cpus={CPUS},
                       cores={CPUS}, force=True, heed=True)
    assert [row["after"] for row in rows] == [(1, {CPUS})[number % 2]], rows
"""
    with running(limited(1.5).enter(numpy_program(bed, 300, threads=2))) as program:
        files = len(os.listdir(f"/proc/{program.pid}/fd"))
        run([sys.executable, "-c", code, str(program.pid)])
        program.assert_unharmed()
        assert len(os.listdir(f"/proc/{program.pid}/fd")) == files


TORCH = """
import os, sys
import torch
a = torch.ones((300, 300))
print(os.getpid(), flush=True)
while True:
    a @ a
"""


def test_torch(limited: Callable[[float], Cgroup]) -> None:
    bed = make_bed("3.14", ("numpy", "torch", "setuptools"))  # which pip can't tell for another Python
    with running(limited(1).enter(bed.command("-c", TORCH))) as program:
        (case,) = heal(program.pid, "--wait", 60)
    rows = {row["kind"]: row for row in case["libraries"]}
    assert rows["PyTorch"]["after"] == 1, case
    assert all(row["after"] in (1, None) for row in case["libraries"]), case


# Real containers.


@pytest.fixture(scope="module")
def docker() -> Iterator[daemon.Docker]:
    cache = ROOT / ".cache" / "docker-tests"
    cache.mkdir(parents=True, exist_ok=True)
    with daemon.docker(cache) as found:
        yield found


@pytest.fixture(scope="module")
def image(docker: daemon.Docker, bed: Bed) -> str:
    """The root directory of the bed, as an image."""
    if not bed.prefix:
        pytest.skip("this machine's own Python 3.14 is no image")
    tag = f"blasenv-heal:{bed.root.name}"
    if not docker.has(tag):
        with subprocess.Popen(
            ["tar", "-C", str(bed.root), "--exclude=./proc/*", "-c", "."], stdout=subprocess.PIPE
        ) as tar:
            environ = {**os.environ, **docker.environ}
            subprocess.run(
                ["docker", "import", "-", tag], stdin=tar.stdout, env=environ, check=True, capture_output=True
            )
    return tag


@contextlib.contextmanager
def container(docker: daemon.Docker, image: str, *flags: str) -> Iterator[tuple[str, int]]:
    """A container in which the program computes: its name, and the PID as we know it."""
    name = f"blasenv-heal-{os.getpid()}"
    docker.run(
        "run", "--detach", "--interactive", "--network=none", f"--name={name}", f"--label=blasenv={os.getpid()}",
        f"--volume={ROOT}:/src:ro", *flags, image, "/venv/bin/python", "-c", PROGRAM, "100", "1",
    )  # fmt: skip
    try:
        for _ in range(300):
            if docker.run("logs", name):
                break
            time.sleep(0.1)
        yield name, int(docker.run("inspect", "--format", "{{.State.Pid}}", name))
    finally:
        docker.output("rm", "--force", name)


KINDS = {
    "plain": (),
    "read-only": ("--read-only",),
    "user": ("--user=1234:1234",),
    "locked-down": ("--user=1234:1234", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    "host-pids": ("--pid=host",),
    "init": ("--init",),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_container_from_its_host(docker: daemon.Docker, image: str, kind: str) -> None:
    with container(docker, image, "--cpus=1", *KINDS[kind]) as (name, first):
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        pid = int(children[0]) if kind == "init" else first
        (case,) = heal(pid)
        assert (case["outcome"], counts(case)) == ("healed", [("OpenBLAS", CPUS, 1)]), case
        assert docker.run("exec", name, "sh", "-c", "ls -d /tmp/blasenv* /dev/shm/blasenv* 2>/dev/null || true") == ""


@pytest.mark.parametrize("kind", ["plain", "read-only", "user", "locked-down"])
def test_a_container_from_inside(docker: daemon.Docker, image: str, kind: str) -> None:
    """As its own user. Docker's seccomp profile lets it since Docker 23; before, it takes a flag."""
    old = int(docker.run("version", "--format", "{{.Server.Version}}").partition(".")[0]) < 23
    with container(docker, image, "--cpus=1", *KINDS[kind]) as (name, _):
        case = heal_inside(docker, name)
        if old:
            assert case["outcome"] == "not healed"
            assert "the kernel forbids it" in case["sentence"].lower()
            assert "--cap-add SYS_PTRACE" in case["sentence"]
        else:
            assert (case["outcome"], counts(case)) == ("healed", [("OpenBLAS", CPUS, 1)]), case


@pytest.mark.parametrize(
    "flags",
    ["--cap-add=SYS_PTRACE", "--security-opt=seccomp=unconfined", "--cap-drop=ALL --security-opt=seccomp=unconfined"],
)
def test_a_container_from_inside_with_flags(docker: daemon.Docker, image: str, flags: str) -> None:
    with container(docker, image, "--cpus=1", *flags.split()) as (name, _):
        case = heal_inside(docker, name)
        assert (case["outcome"], counts(case)) == ("healed", [("OpenBLAS", CPUS, 1)]), case


def heal_inside(docker: daemon.Docker, name: str) -> dict[str, Any]:
    words = ["/venv/bin/python", "-B", "-m", "blasenv", "heal", "1", "--json"]
    done = docker.output("exec", "--env=PYTHONPATH=/src", name, *words)
    (case,) = json.loads(done.stdout)["processes"]
    assert isinstance(case, dict)
    return case


def test_watch_of_a_container_that_is_resized(docker: daemon.Docker, image: str) -> None:
    with container(docker, image, f"--cpus={CPUS}") as (name, pid):
        command = [*BLASENV, "heal", str(pid), "--watch", "0.2", "--json"]
        environ = clean_environ(PYTHONPATH=str(ROOT))
        with subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE) as watcher:
            assert watcher.stdout is not None
            time.sleep(2)
            for cpus, before, after in ((1, CPUS, 1), (CPUS, 1, CPUS), (1, CPUS, 1)):
                docker.run("update", f"--cpus={cpus}", name)
                assert counts(json.loads(watcher.stdout.readline())) == [("OpenBLAS", before, after)]
            watcher.kill()


def test_follow_in_a_container_that_is_resized(docker: daemon.Docker, image: str) -> None:
    code = """
import ctypes, os, sys, time
import numpy, blasenv
path = [line.split()[-1] for line in open("/proc/self/maps") if "openblas" in line][0]
count = ctypes.CDLL(path).scipy_openblas_get_num_threads64_
blasenv.follow(0.05)
last = None
while True:
    if count() != last:
        last = count()
        print(last, flush=True)
    time.sleep(0.01)
"""
    name = f"blasenv-follow-{os.getpid()}"
    words = ["--env=PYTHONPATH=/src", f"--volume={ROOT}:/src:ro", image, "/venv/bin/python", "-B", "-c", code]
    docker.run("run", "--detach", "--network=none", "--cpus=1", f"--name={name}", *words)
    try:
        expected = ["1"]
        for cpus in (CPUS, 1, CPUS, 1):
            wait_for(lambda: docker.run("logs", name).split(), expected)
            docker.run("update", f"--cpus={cpus}", name)
            expected.append(str(cpus))
        wait_for(lambda: docker.run("logs", name).split(), expected)
    finally:
        docker.output("rm", "--force", name)


def wait_for(found: Callable[[], Sequence[str]], expected: Sequence[str]) -> None:
    for _ in range(300):
        if found() == expected:
            return
        time.sleep(0.1)
    assert found() == expected
