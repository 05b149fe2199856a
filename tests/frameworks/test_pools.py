"""Process pools, and libraries that divide threads among their workers: the same with blasenv and without.

These install fast, so they run by default; slow_frameworks.py has the others.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Cgroup
from measure import (
    PROGRAMS,
    VISIBLE,
    Frameworks,
    Workers,
    divided,
    make_frameworks,
    measure,
    run_in,
    summary,
    undivided,
)


@pytest.fixture(scope="module")
def pools(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Frameworks:
    return make_frameworks("pools", wheel, tmp_path_factory.mktemp("pools"))


@pytest.mark.parametrize(
    ("kind", "method"), [("pool", "fork"), ("pool", "spawn"), ("pool", "forkserver"), ("executor", "spawn")]
)
def test_standard_library(kind: str, method: str, pools: Frameworks, group: Cgroup) -> None:
    assert measure(pools, group, [PROGRAMS / "process_pool.py", kind, method]) == undivided(2)


def test_joblib(pools: Frameworks, group: Cgroup) -> None:
    found = measure(pools, group, [PROGRAMS / "joblib_workers.py", str(VISIBLE)])
    assert found == divided(VISIBLE, 1)


def test_joblib_told_how_many_threads(pools: Frameworks, group: Cgroup) -> None:
    assert measure(pools, group, [PROGRAMS / "joblib_workers.py", "2", "3"]) == divided(2, 3)


def test_joblib_without_workers(pools: Frameworks, group: Cgroup) -> None:
    assert measure(pools, group, [PROGRAMS / "joblib_workers.py", "1"]) == undivided(1)


def test_grid_search(pools: Frameworks, group: Cgroup, tmp_path: Path) -> None:
    found = measure(pools, group, [PROGRAMS / "grid_search.py"], tmp_path)
    assert found == divided(2, max(1, VISIBLE // 2))


def test_openmp_of_sklearn(pools: Frameworks, group: Cgroup) -> None:
    found = measure(pools, group, [PROGRAMS / "openmp_of_sklearn.py"])
    # scikit-learn caps at the CPUs that it counts, unless it sees OMP_NUM_THREADS in os.environ.
    assert [run.threads for run in found] == [[VISIBLE], [1], [min(7, VISIBLE)]]


def test_dask_local_cluster(pools: Frameworks, group: Cgroup) -> None:
    assert measure(pools, group, [PROGRAMS / "dask_cluster.py"]) == divided(2, 1)


def test_pytest_xdist(pools: Frameworks, group: Cgroup, tmp_path: Path) -> None:
    suite = ["-m", "pytest", "-q", "-n2", "--dist=each", "-p", "no:cacheprovider", f"--rootdir={PROGRAMS}"]
    assert measure(pools, group, [*suite, PROGRAMS / "xdist_workers.py"], tmp_path) == undivided(2)


def test_joblib_in_a_program_that_has_a_setting(pools: Frameworks, group: Cgroup, tmp_path: Path) -> None:
    """Where the setting and joblib's division come to the same number, and no limit does."""
    (tmp_path / "blasenv.toml").write_text('[programs]\n"joblib_workers.py" = "single"\n')
    command: list[str | Path] = [pools.hooked.python, PROGRAMS / "joblib_workers.py", str(VISIBLE)]
    changes = {"BLASENV_CONFIG": str(tmp_path / "blasenv.toml")}
    assert summary(run_in(Cgroup(group.outside), command, changes)) == Workers(VISIBLE, ["1"], [1])
