"""Ranks of an MPI, Slurm or torchrun job that share a CPU limit share its threads.

Real launchers: frameworks/slow_ranks.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from conftest import PROBE, Cgroup, Venv, clean_environ

import blasenv
from blasenv._host import local_ranks


@pytest.mark.parametrize(
    ("environ", "ranks"),
    [
        ({}, 1),
        ({"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}, 4),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_SIZE": "8"}, 4),
        ({"MPI_LOCALNRANKS": "4", "PMI_SIZE": "8"}, 4),
        ({"MV2_COMM_WORLD_LOCAL_SIZE": "4"}, 4),
        ({"PALS_LOCAL_SIZE": "4"}, 4),
        ({"PMI_SIZE": "8"}, 1),  # of the whole job
        ({"WORLD_SIZE": "8"}, 1),
        ({"SLURM_NTASKS": "8"}, 1),
        # What a batch script sees, a step's task, and a batch script that was submitted by such a task.
        ({"SLURM_GTIDS": "0", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_TASKS_PER_NODE": "2"}, 1),
        ({"SLURM_GTIDS": "4,5,6", "SLURM_STEP_TASKS_PER_NODE": "4,3", "SLURM_NODEID": "1"}, 3),
        ({"SLURM_GTIDS": "0", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NTASKS": "1"}, 1),
        # salloc's shell; and a site that unsets SLURM_GTIDS, as srun(1) suggests for some programs.
        ({"SLURM_NTASKS_PER_NODE": "2"}, 1),
        ({"SLURM_STEP_TASKS_PER_NODE": "2"}, 2),
        # A launcher that Slurm started one of per node (mpirun does so) says what Slurm cannot know.
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, 4),
        ({"LOCAL_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, 2),
    ],
)
def test_launchers(environ: Mapping[str, str], ranks: int) -> None:
    assert local_ranks(environ)[0] == ranks


@pytest.mark.parametrize(
    ("tasks", "by_node"),
    [
        ("4", [4]),
        ("4(x2)", [4, 4]),
        ("2(x3),1", [2, 2, 2, 1]),
        ("1,3(x2),2", [1, 3, 3, 2]),
        ("16(x12)", [16] * 12),
    ],
)
def test_slurm_counts_by_node(tasks: str, by_node: list[int]) -> None:
    """The forms of sbatch(1), SLURM_TASKS_PER_NODE."""
    for node, ranks in enumerate(by_node):
        assert local_ranks({"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(node)})[0] == ranks


@pytest.mark.parametrize(
    "value", ["", "0", "-1", "4.0", " 4", "+4", "x4", "9999999999", "٤", "(x2)", ",", "many", "4("]
)
def test_what_is_no_count_tells_nothing(value: str) -> None:
    assert local_ranks({"OMPI_COMM_WORLD_LOCAL_SIZE": value}) == (1, "")
    assert local_ranks({"OMPI_COMM_WORLD_LOCAL_SIZE": value, "MPI_LOCALNRANKS": "3"}) == (
        3,
        "ranks (MPI_LOCALNRANKS=3)",
    )


@pytest.mark.parametrize("value", ["", ",", "0,", "x", "0 1", "-1", "0-3"])
def test_what_is_no_list_of_tasks_tells_nothing(value: str) -> None:
    assert local_ranks({"SLURM_GTIDS": value}) == (1, "")
    assert local_ranks({"SLURM_GTIDS": value, "SLURM_STEP_TASKS_PER_NODE": "3"})[0] == 3


def decide(root: Path, affinity: int, environ: Mapping[str, str]) -> blasenv.Decision:
    config = blasenv.read_config(str(root), environ)
    return blasenv.decide(config, blasenv.find_quota(str(root)), affinity, environ)


@pytest.mark.parametrize(
    ("cpus", "affinity", "ranks", "rule", "threads"),
    [
        (12, 48, 1, "quota", 12),
        (12, 48, 4, "quota", 3),
        (12, 48, 5, "quota", 2),
        (12, 48, 24, "quota", 1),
        (None, 48, 4, "no-limit", None),
        (48, 48, 4, "no-gap", None),
        (12, 12, 4, "no-gap", None),
        # Each rank pinned to its quarter of the machine: the launcher has divided.
        (24, 12, 4, "no-gap", None),
    ],
)
def test_only_a_quota_is_divided(
    cpus: int | None,
    affinity: int,
    ranks: int,
    rule: str,
    threads: int | None,
    machine: Callable[[int | None], Path],
) -> None:
    decision = decide(machine(cpus), affinity, {"OMPI_COMM_WORLD_LOCAL_SIZE": str(ranks)})
    assert (decision.rule, decision.threads) == (rule, threads)


def test_the_users_number_is_not_divided(machine: Callable[[int | None], Path]) -> None:
    decision = decide(machine(12), 48, {"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMP_NUM_THREADS": "6"})
    assert (decision.rule, decision.set) == ("user-env", {})


def test_a_share_is_not_divided_again(tmp_path: Path, machine: Callable[[int | None], Path]) -> None:
    """``share:N`` is the owner's word on how many there are."""
    root = machine(12)
    (root / "etc").mkdir()
    (root / "etc/blasenv.toml").write_text('[programs]\n"train.py" = "share:2"\n')
    environ = {"LOCAL_WORLD_SIZE": "4"}
    config = blasenv.read_config(str(root), environ, ["/srv/train.py"])
    assert blasenv.decide(config, blasenv.find_quota(str(root)), 48, environ).threads == 6


@pytest.mark.parametrize(("ranks", "threads"), [("1", "2"), ("2", "1")])
def test_in_a_real_process(
    ranks: str, threads: str, one_venv: Venv, limited: Callable[[float], Cgroup], tmp_path: Path
) -> None:
    """With two CPUs, only rounding up tells one rank (1.5 is 2) from two (0.75 is 1)."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU cannot be divided")
    (tmp_path / "blasenv.toml").write_text('rounding = "ceil"\n')
    environ = clean_environ(BLASENV_CONFIG=str(tmp_path / "blasenv.toml"), OMPI_COMM_WORLD_LOCAL_SIZE=ranks)
    seen = json.loads(limited(1.5).run([one_venv.python, PROBE], environ=environ).stdout)
    assert (seen["native"], seen["rule"]) == (threads, "quota")
