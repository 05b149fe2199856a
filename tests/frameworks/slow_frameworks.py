"""Frameworks that are large or slow to start: torchrun, accelerate, Lightning, Ray, PySpark, Dask from a shell.

Not run by default. By name: pytest tests/frameworks/slow_frameworks.py
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cgroup
from measure import (
    PROGRAMS,
    VISIBLE,
    WAYS,
    Frameworks,
    Workers,
    divided,
    make_frameworks,
    measure,
    run_in,
    summary,
    undivided,
)

RANK = PROGRAMS / "rank.py"

Make = Callable[[str], Frameworks]


@pytest.fixture(scope="module")
def make(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The environments of a requirements file."""
    made: dict[str, Frameworks] = {}

    def frameworks(name: str) -> Frameworks:
        if name not in made:
            made[name] = make_frameworks(name, wheel, tmp_path_factory.mktemp(name))
        return made[name]

    return frameworks


def test_joblib_on_all_cpus(make: Make, group: Cgroup) -> None:
    assert measure(make("pools"), group, [PROGRAMS / "joblib_workers.py", "-1"]) == divided(VISIBLE, 1)


DASK = """
trap 'kill $scheduler $worker 2>/dev/null; wait' EXIT
"$0" "$1" scheduler --scheduler-file=cluster.json --port=0 --no-dashboard >scheduler.log 2>&1 & scheduler=$!
"$0" "$1" worker --scheduler-file=cluster.json --nworkers=2 --nthreads=1 --no-dashboard >worker.log 2>&1 & worker=$!
"$0" "$2" cluster.json 2
"""


@pytest.mark.parametrize("way", WAYS)
def test_dask_worker(way: str, make: Make, group: Cgroup, tmp_path: Path) -> None:
    pools = make("pools")
    script = f"cd {tmp_path}\n{DASK}"
    command: list[str | Path] = [
        "/bin/sh",
        "-c",
        script,
        pools.python(way),
        pools.script("dask"),
        PROGRAMS / "dask_client.py",
    ]
    assert summary(run_in(group, command, WAYS[way])) == Workers(2, ["1"], [1])


def test_torchrun(make: Make, group: Cgroup, tmp_path: Path) -> None:
    torch = make("torch")
    found = measure(torch, group, [torch.script("torchrun"), "--nproc-per-node=2", RANK], tmp_path)
    assert found == divided(2, 1)


def test_torchrun_with_one_worker(make: Make, group: Cgroup, tmp_path: Path) -> None:
    """torchrun says nothing for a worker that is alone."""
    torch = make("torch")
    found = measure(torch, group, [torch.script("torchrun"), "--nproc-per-node=1", RANK], tmp_path)
    assert [run.native for run in found] == [[None], ["1"], ["7"]]


def test_accelerate(make: Make, group: Cgroup, tmp_path: Path) -> None:
    options = ["--cpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    command: list[str | Path] = ["-m", "accelerate.commands.launch", *options, RANK]
    # Without a GPU and without MPI, it divides by the processes asked for, and starts one.
    assert measure(make("torch"), group, command, tmp_path) == divided(1, 1)


def test_lightning(make: Make, group: Cgroup, tmp_path: Path) -> None:
    found = measure(make("torch"), group, [PROGRAMS / "lightning_workers.py"], tmp_path)
    assert found == divided(2, max(1, VISIBLE // 2))


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("kind", ["task", "actor"])
def test_ray(kind: str, cpus: int, make: Make, group: Cgroup) -> None:
    found = measure(make("ray"), group, [PROGRAMS / "ray_workers.py", kind, str(cpus)])
    assert found == divided(2 // cpus, cpus)


def test_spark(make: Make, group: Cgroup) -> None:
    if not shutil.which("java"):
        pytest.skip("no Java for PySpark on this machine")
    assert measure(make("spark"), group, [PROGRAMS / "spark_workers.py", "2"]) == divided(2, 1)


def test_pool_in_torch(make: Make, group: Cgroup) -> None:
    """PyTorch counts cores; in workers that nobody divides among, blasenv's number is what it takes."""
    found = measure(make("torch"), group, [PROGRAMS / "process_pool.py", "pool", "spawn"])
    assert found.hooked == undivided(2).hooked
