"""Real numpy, with its real OpenBLAS, under a real CPU limit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cgroup, Venv, clean_environ, make_venv

# The threads of the whole process, as the kernel counts them: this one and OpenBLAS's.
COUNT = "import os; print(len(os.listdir('/proc/self/task')))"
MATMUL = "import numpy; a = numpy.ones((500, 500)); a @ a"

# What a worker has is asked of C: what joblib hands it, and what its OpenBLAS makes of that.
JOBLIB = """
import json, os, subprocess
import joblib

def worker(_):
    import numpy, threadpoolctl
    a = numpy.ones((200, 200))
    a @ a
    lines = subprocess.run(["env"], capture_output=True, text=True).stdout.splitlines()
    return {"environ": sorted(line for line in lines if "_THREADS=" in line and "BLASENV_" not in line),
            "threads": [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]}

if __name__ == "__main__":
    jobs = int(os.environ["JOBS"])
    print(json.dumps(joblib.Parallel(n_jobs=jobs)(joblib.delayed(worker)(number) for number in range(jobs))))
"""


@pytest.fixture(scope="module")
def numpy_venv(one_venv: Venv, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """numpy and joblib beside blasenv."""
    venv = make_venv(tmp_path_factory.mktemp("numpy") / "venv", one_venv.version)
    venv.install("numpy", "joblib", "threadpoolctl")
    shutil.copytree(one_venv.site_packages / "blasenv", venv.site_packages / "blasenv")
    shutil.copy(one_venv.site_packages / "a0_blasenv.pth", venv.site_packages)
    return venv


def threads(venv: Venv, group: Cgroup, before: str = "", **environ: str) -> int:
    """How many threads a process has after a matrix product."""
    result = group.run([venv.python, "-c", f"{before}\n{MATMUL}\n{COUNT}"], environ=clean_environ(**environ))
    assert result.stderr == ""
    return int(result.stdout)


@pytest.mark.parametrize("cpus", [1.0, 1.5])
def test_numpy_starts_as_many_threads_as_decided(
    cpus: float, numpy_venv: Venv, limited: Callable[[float], Cgroup]
) -> None:
    group = limited(cpus)
    code = "import blasenv; print(blasenv.run().threads)"
    decided = int(group.run([numpy_venv.python, "-c", code]).stdout)
    assert decided == int(cpus)
    assert threads(numpy_venv, group) == decided
    assert threads(numpy_venv, group, BLASENV_DISABLE="1") == len(os.sched_getaffinity(0))


def test_users_value_wins_at_every_level(numpy_venv: Venv, limited: Callable[[float], Cgroup]) -> None:
    group = limited(1)
    assert threads(numpy_venv, group) == 1
    assert threads(numpy_venv, group, OMP_NUM_THREADS="2") == 2, "in the shell"
    assert threads(numpy_venv, group, OPENBLAS_NUM_THREADS="2") == 2, "the more specific variable"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        assert threads(numpy_venv, group, f"import os; os.environ['{name}'] = '2'") == 2, "in code"


def workers(venv: Venv, group: Cgroup, script: Path, jobs: int, **environ: str) -> Any:
    """What joblib's worker processes see and use."""
    result = group.run([venv.python, script], environ=clean_environ(JOBS=str(jobs), **environ))
    return json.loads(result.stdout)


@pytest.mark.parametrize("jobs", [1, 2])
def test_joblib_gives_its_workers_what_it_gives_without_blasenv(
    jobs: int, numpy_venv: Venv, limited: Callable[[float], Cgroup], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(JOBLIB)
    group = limited(1)
    seen = workers(numpy_venv, group, script, jobs)
    without = workers(numpy_venv, group, script, jobs, BLASENV_DISABLE="1")
    if jobs == 1:  # joblib starts no worker, and so divides nothing: the case that blasenv is there for
        assert (seen[0]["threads"], without[0]["threads"]) == ([1], [len(os.sched_getaffinity(0))])
    else:
        assert seen == without
        assert "OMP_NUM_THREADS=1" in seen[0]["environ"]
