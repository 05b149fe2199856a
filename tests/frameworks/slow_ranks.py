"""Ranks that real MPI launchers start under a real limit.

Not run by default. Open MPI and MPICH are Debian's (apt-get install openmpi-bin mpich), Intel MPI
comes from PyPI. By name: pytest tests/frameworks/slow_ranks.py
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from conftest import Cgroup
from measure import PROGRAMS, Frameworks, install, make_frameworks, run_in

# Rounding up tells whether 1.5 CPUs were divided: 2 threads for one rank, 1 for two.
CONFIG = 'rounding = "ceil"\n'

OPEN_MPI = ["mpirun.openmpi", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
MPICH = ["mpirun.mpich"]
INTEL_MPI = ["intel"]


@pytest.fixture(scope="module")
def frameworks(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Frameworks:
    return make_frameworks("impi", wheel, tmp_path_factory.mktemp("ranks"))


def ranks(
    launcher: list[str], number: int, frameworks: Frameworks, group: Cgroup, directory: Path
) -> list[tuple[str | None, int, str]]:
    """The native OMP_NUM_THREADS, the affinity and the rule that each rank sees."""
    if launcher == INTEL_MPI:
        launcher = [str(install("impi").directory / "bin" / "mpirun")]
    elif not shutil.which(launcher[0]):
        pytest.skip(f"no {launcher[0]} on this machine")
    (directory / "blasenv.toml").write_text(CONFIG)
    command: list[str | Path] = [*launcher, "-n", str(number), frameworks.hooked.python, PROGRAMS / "rank.py"]
    changes = {"BLASENV_CONFIG": str(directory / "blasenv.toml")}
    found = run_in(group, command, changes, directory / "seen")
    assert len(found) == number
    return [(rank["native"], rank["affinity"], rank["rule"]) for rank in found]


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("launcher", [OPEN_MPI, MPICH, INTEL_MPI], ids=["openmpi", "mpich", "intel"])
def test_ranks_share_the_limit(
    launcher: list[str], number: int, frameworks: Frameworks, group: Cgroup, tmp_path: Path
) -> None:
    if len(os.sched_getaffinity(0)) != 2:
        pytest.skip("1.5 CPUs say something only where two are visible")
    threads = "2" if number == 1 else "1"
    assert ranks(launcher, number, frameworks, group, tmp_path) == [(threads, 2, "quota")] * number


def test_pinned_ranks_are_left_alone(frameworks: Frameworks, group: Cgroup, tmp_path: Path) -> None:
    """Open MPI pins each of two ranks to a core, if not told otherwise: no more than a limit of 1.5 CPUs."""
    found = ranks([*OPEN_MPI[:-1], "core"], 2, frameworks, group, tmp_path)
    assert found == [(None, 1, "no-gap")] * 2
