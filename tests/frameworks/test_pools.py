"""Process pools and the libraries that divide threads among their workers: the same with blasenv and without.

Quick to install, so they run by default. A library that divides must come to the same number three
times: without blasenv, with it, and with a blasenv that would say 7. Where nobody divides,
blasenv's number reaches the workers.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Cgroup
from measure import PROGRAMS, Frameworks, Runs, Workers, make_frameworks, measure, run_in, summary

VISIBLE = len(os.sched_getaffinity(0))  # CPUs; OpenBLAS and joblib start no more than that


@pytest.fixture(scope="module")
def pools(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Frameworks:
    return make_frameworks("pools", wheel, tmp_path_factory.mktemp("pools"))


def undivided(count: int) -> Runs:
    """A limit of one CPU reaches ``count`` workers as blasenv says; without it, they start a thread for each CPU."""
    return Runs(
        without=Workers(count, [None], [VISIBLE]),
        hooked=Workers(count, ["1"], [1]),
        seven=Workers(count, ["7"], [min(7, VISIBLE)]),
    )


def divided(count: int, threads: int) -> Runs:
    """``count`` workers have what the library gives them, whatever blasenv says."""
    workers = Workers(count, [str(threads)], [min(threads, VISIBLE)])
    return Runs(workers, workers, workers)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["pool", "executor"])
def test_standard_library(kind: str, method: str, pools: Frameworks, one_cpu: Cgroup) -> None:
    assert measure(pools, one_cpu, [PROGRAMS / "process_pool.py", kind, method]) == undivided(2)


@pytest.mark.parametrize(
    ("arguments", "workers", "threads"),
    [
        (["2"], 2, VISIBLE // 2),
        (["-1"], min(VISIBLE, 4), 1),
        (["2", "3"], 2, 3),
    ],
)
def test_joblib(arguments: list[str], workers: int, threads: int, pools: Frameworks, one_cpu: Cgroup) -> None:
    found = measure(pools, one_cpu, [PROGRAMS / "joblib_workers.py", *arguments])
    assert found == divided(workers, threads)


def test_joblib_without_workers(pools: Frameworks, one_cpu: Cgroup) -> None:
    assert measure(pools, one_cpu, [PROGRAMS / "joblib_workers.py", "1"]) == undivided(1)


def test_grid_search(pools: Frameworks, one_cpu: Cgroup) -> None:
    assert measure(pools, one_cpu, [PROGRAMS / "grid_search.py", "2"]) == divided(2, VISIBLE // 2)


def test_openmp_of_sklearn(pools: Frameworks, one_cpu: Cgroup) -> None:
    found = measure(pools, one_cpu, [PROGRAMS / "openmp_of_sklearn.py"])
    # scikit-learn caps at the CPUs that it counts, unless it sees OMP_NUM_THREADS in os.environ.
    assert [run.threads for run in found] == [[VISIBLE], [1], [min(7, VISIBLE)]]


def test_dask_local_cluster(pools: Frameworks, one_cpu: Cgroup) -> None:
    assert measure(pools, one_cpu, [PROGRAMS / "dask_cluster.py"]) == divided(2, 1)


DASK = """
trap 'kill $scheduler $worker 2>/dev/null; wait' EXIT
"$0" "$1" scheduler --scheduler-file=cluster.json --port=0 --no-dashboard >scheduler.log 2>&1 & scheduler=$!
"$0" "$1" worker --scheduler-file=cluster.json --nworkers=2 --nthreads=1 --no-dashboard >worker.log 2>&1 & worker=$!
"$0" "$2" cluster.json 2
"""


@pytest.mark.parametrize("way", ["without", "hooked", "seven"])
def test_dask_worker(way: str, pools: Frameworks, one_cpu: Cgroup, tmp_path: Path) -> None:
    python = (pools.bare if way == "without" else pools.hooked).python
    (tmp_path / "cluster").mkdir()
    command = ["/bin/sh", "-c", f"cd {tmp_path}/cluster\n{DASK}", python, pools.script("dask"), PROGRAMS / "dask_client.py"]
    found = run_in(one_cpu, command, **({"BLASENV_THREADS": "7"} if way == "seven" else {}))
    assert summary(found) == Workers(2, ["1"], [1])


def test_pytest_xdist(pools: Frameworks, one_cpu: Cgroup, tmp_path: Path) -> None:
    suite = ["-m", "pytest", "-q", "-n2", "--dist=each", "-p", "no:cacheprovider", f"--rootdir={PROGRAMS}"]
    found = measure(pools, one_cpu, [*suite, PROGRAMS / "test_xdist_workers.py"], tmp_path)
    assert found == undivided(2)
