"""From a configuration, limits and an environment to a decision, as tables; and the decision applied."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from conftest import clean_environ, run
from hypothesis import given, settings, strategies as st

import blasenv

OMP = "OMP_NUM_THREADS"
BLAS = "OPENBLAS_NUM_THREADS"
NUMBA = "NUMBA_NUM_THREADS"
Quotas = list[tuple[int, int]]


def configured(**changes: Any) -> blasenv.Config:
    config = blasenv.read_config("/dev/null", {})  # nothing is below a device: the defaults
    vars(config).update(changes)
    return config


def limits(quotas: Quotas, cores: int | None = None) -> list[blasenv.Limit]:
    found = [
        blasenv.Limit(controller="cpu", version=2, path="", quota=quota, period=period, note="")
        for quota, period in quotas
    ]
    found.append(blasenv.Limit(controller="cpu", version=2, path="", quota=None, period=None, note="no such file"))
    if cores:
        found.append(blasenv.Limit(controller="smt", version=0, path="", quota=cores, period=1, note=""))
    return found


def unread() -> Iterator[blasenv.Limit]:
    """Limits that nobody may look at."""
    yield pytest.fail("a file was read for nothing")


@pytest.mark.parametrize(
    ("quotas", "affinity", "rule", "threads"),
    [
        ([], 8, "no-limit", None),
        ([(800_000, 100_000)], 8, "no-gap", None),
        ([(900_000, 100_000)], 8, "no-gap", None),
        ([(800_001, 100_000)], 8, "no-gap", None),
        ([(799_999, 100_000)], 8, "quota", 7),
        ([(400_000, 100_000)], 48, "quota", 4),
        ([(150_000, 100_000)], 8, "quota", 1),
        ([(199_999, 100_000)], 8, "quota", 1),
        ([(100_000, 100_000)], 2, "quota", 1),
        ([(50_000, 100_000)], 8, "quota", 1),
        ([(1_000, 1_000_000)], 8, "quota", 1),
        ([(100_000, 100_000)], 1, "no-gap", None),
        ([(50_000, 100_000)], 1, "quota", 1),
        ([(75_000, 25_000)], 8, "quota", 3),
        # the least of all levels, by ratio
        ([(600_000, 100_000), (300_000, 100_000), (500_000, 100_000)], 8, "quota", 3),
        ([(200_000, 50_000), (300_000, 200_000)], 8, "quota", 1),
        ([(900_000, 100_000), (300_000, 100_000)], 8, "quota", 3),
        ([(900_000, 100_000), (1_600_000, 100_000)], 8, "no-gap", None),
        # exact where a float is not
        ([(29_999_999_999_999_999, 10_000_000_000_000_000)], 8, "quota", 2),
        ([(79_999_999_999_999_999, 10_000_000_000_000_000)], 8, "quota", 7),
        ([(2**64 - 1, 1)], 8, "no-gap", None),
    ],
)
def test_the_quota_against_the_cpus(quotas: Quotas, affinity: int, rule: str, threads: int | None) -> None:
    decision = blasenv.decide(configured(), limits(quotas), affinity, {})
    assert (decision.rule, decision.threads) == (rule, threads)
    assert decision.set == ({OMP: str(threads)} if threads else {})
    assert (decision.kept, decision.stale, decision.visible) == ({}, [], False)


@pytest.mark.parametrize(
    ("quota", "affinity", "floor", "ceil"),
    [
        (50_000, 8, 1, 1),
        (100_000, 8, 1, 1),
        (100_001, 8, 1, 2),
        (150_000, 8, 1, 2),
        (200_000, 8, 2, 2),
        (799_999, 8, 7, 8),
        (150_000, 2, 1, 2),
    ],
)
def test_rounding(quota: int, affinity: int, floor: int, ceil: int) -> None:
    for rounding, threads in (("floor", floor), ("ceil", ceil)):
        decision = blasenv.decide(configured(rounding=rounding), limits([(quota, 100_000)]), affinity, {})
        assert (decision.rule, decision.threads) == ("quota", threads)


@pytest.mark.parametrize(
    ("quota", "cores", "threads"),
    [(700_000, 4, 4), (790_000, 4, 4), (450_000, 4, 4), (700_000, None, 7), (700_000, 8, 7), (700_000, 2, 2)],
)
@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_never_more_threads_than_cores(quota: int, cores: int | None, threads: int, rounding: str) -> None:
    found = limits([(quota, 100_000)], cores)
    decision = blasenv.decide(configured(rounding=rounding), found, 8, {})
    assert decision.rule == "quota"
    assert decision.threads == (threads if rounding == "floor" or cores in (2, 4) else -(-quota // 100_000))


@settings(max_examples=300, deadline=None)
@given(
    quotas=st.lists(st.tuples(st.integers(1, 2**64), st.integers(1, 2**64)), min_size=1, max_size=4),
    affinity=st.integers(1, 4096),
)
def test_the_largest_count_that_fits(quotas: Quotas, affinity: int) -> None:
    threads = blasenv.decide(configured(), limits(quotas), affinity, {}).threads
    if threads is None:
        assert all(quota >= affinity * period for quota, period in quotas)
    else:
        assert threads == 1 or all(threads * period <= quota for quota, period in quotas)
        assert any((threads + 1) * period > quota for quota, period in quotas)
        assert threads <= affinity


@pytest.mark.parametrize(
    ("changes", "environ", "rule", "threads"),
    [
        ({"mode": "off"}, {}, "disabled", None),
        ({"mode": "off", "threads": 4}, {}, "disabled", None),
        ({"mode": "off", "override": True}, {OMP: "7"}, "disabled", None),
        ({"mode": "off", "program": "idle.py"}, {}, "disabled", None),
        ({}, {OMP: "7"}, "user-env", None),
        ({"mode": "single"}, {OMP: "7"}, "user-env", None),
        ({"threads": 4}, {OMP: "7"}, "user-env", None),
        ({"threads": 4}, {}, "config", 4),
        ({"threads": 8192}, {}, "config", 8192),
        ({"mode": "single"}, {}, "config", 1),
        ({"threads": 4, "override": True}, {OMP: "7"}, "config", 4),
        ({"threads": 4, "program": "train.py"}, {}, "program", 4),
        ({"mode": "single", "program": "gunicorn"}, {}, "program", 1),
    ],
)
def test_what_needs_no_limit_reads_none(
    changes: dict[str, Any], environ: dict[str, str], rule: str, threads: int | None
) -> None:
    """golang/go 77911: what is switched off, or decided already, opens no file."""
    decision = blasenv.decide(configured(**changes), unread(), 8, environ)
    assert (decision.rule, decision.threads) == (rule, threads)


QUOTA_4: Quotas = [(400_000, 100_000)]


@pytest.mark.parametrize(
    ("changes", "environ", "rule", "sets", "kept"),
    [
        ({}, {}, "quota", {OMP: "4"}, {}),
        ({}, {OMP: "7"}, "user-env", {}, {OMP: "7"}),
        ({}, {OMP: "4"}, "user-env", {}, {OMP: "4"}),
        ({}, {OMP: ""}, "user-env", {}, {OMP: ""}),
        ({}, {OMP: "0"}, "user-env", {}, {OMP: "0"}),
        ({}, {"omp_num_threads": "7"}, "quota", {OMP: "4"}, {}),
        # a specific one needs no handling: it beats ours
        ({}, {BLAS: "7"}, "quota", {OMP: "4"}, {}),
        # several variables
        ({"variables": [OMP, BLAS]}, {}, "quota", {OMP: "4", BLAS: "4"}, {}),
        ({"variables": [OMP, BLAS]}, {BLAS: "7"}, "quota", {OMP: "4"}, {BLAS: "7"}),
        ({"variables": [OMP, BLAS]}, {BLAS: ""}, "quota", {OMP: "4"}, {BLAS: ""}),
        # beside the user's OMP_NUM_THREADS, a specific one of ours would beat it
        ({"variables": [OMP, BLAS]}, {OMP: "7"}, "user-env", {}, {OMP: "7"}),
        ({"variables": [OMP, BLAS]}, {OMP: ""}, "user-env", {}, {OMP: ""}),
        ({"variables": [BLAS]}, {OMP: "7"}, "user-env", {}, {OMP: "7"}),
        ({"variables": [BLAS]}, {}, "quota", {BLAS: "4"}, {}),
        ({"variables": [BLAS]}, {BLAS: "7"}, "user-env", {}, {BLAS: "7"}),
        ({"variables": [OMP, BLAS]}, {OMP: "7", BLAS: "8"}, "user-env", {}, {OMP: "7", BLAS: "8"}),
        # the owner of the image beats the user
        ({"override": True}, {OMP: "7"}, "quota", {OMP: "4"}, {}),
        ({"override": True}, {OMP: ""}, "quota", {OMP: "4"}, {}),
        ({"override": True, "variables": [OMP, BLAS]}, {OMP: "7", BLAS: "8"}, "quota", {OMP: "4", BLAS: "4"}, {}),
        ({"override": True}, {BLAS: "7"}, "quota", {OMP: "4"}, {}),
        ({"override": True, "threads": 6}, {OMP: "7"}, "config", {OMP: "6"}, {}),
    ],
)
def test_what_the_user_set_stays(
    changes: dict[str, Any], environ: dict[str, str], rule: str, sets: dict[str, str], kept: dict[str, str]
) -> None:
    decision = blasenv.decide(configured(**changes), limits(QUOTA_4), 8, environ)
    assert (decision.rule, decision.set, decision.kept, decision.stale) == (rule, sets, kept, [])


@pytest.mark.parametrize(("quotas", "rule"), [([], "no-limit"), ([(800_000, 100_000)], "no-gap")])
def test_override_without_a_decision_takes_nothing_away(quotas: Quotas, rule: str) -> None:
    decision = blasenv.decide(configured(override=True), limits(quotas), 8, {OMP: "7"})
    assert (decision.rule, decision.threads, decision.set, decision.kept) == (rule, None, {}, {OMP: "7"})


@pytest.mark.parametrize(
    ("mark", "environ", "stale", "kept"),
    [
        # equal: a parent's decision
        (f"{OMP}=2", {OMP: "2"}, [OMP], {}),
        (f"{OMP}=2 {BLAS}=2", {OMP: "2", BLAS: "2"}, [OMP, BLAS], {}),
        (f"{OMP}=2", {OMP: "2", BLAS: "7"}, [OMP], {}),
        (f" {OMP}=2  {BLAS}=2 ", {BLAS: "2"}, [BLAS], {}),
        # different: the user's, or a framework's
        (f"{OMP}=2", {OMP: "7"}, [], {OMP: "7"}),
        (f"{OMP}=2", {OMP: "02"}, [], {OMP: "02"}),
        (f"{OMP}=2", {OMP: ""}, [], {OMP: ""}),
        (f"{OMP}=2", {OMP: "2 "}, [], {OMP: "2 "}),
        (f"{OMP}=2 {BLAS}=2", {OMP: "7", BLAS: "2"}, [BLAS], {OMP: "7"}),
        # missing: env=os.environ.copy() carries the receipt alone
        (f"{OMP}=2", {}, [], {}),
        # none, or not of ours
        ("", {OMP: "2"}, [], {OMP: "2"}),
        ("=", {OMP: "2"}, [], {OMP: "2"}),
        (f"{OMP}", {OMP: "2"}, [], {OMP: "2"}),
        (f"{BLAS}=2", {OMP: "2"}, [], {OMP: "2"}),
        (f"{OMP}=2=2", {OMP: "2"}, [], {OMP: "2"}),
        ("\udcff", {OMP: "2"}, [], {OMP: "2"}),
        # blasenv never takes away what is no thread count
        ("PATH=/bin", {"PATH": "/bin"}, [], {}),
        ("LD_PRELOAD=x.so PATH=/bin", {"PATH": "/bin", "LD_PRELOAD": "x.so"}, [], {}),
        ("BLASENV_DISABLE=1", {"BLASENV_DISABLE": "1"}, [], {}),
    ],
)
@pytest.mark.parametrize("changes", [{}, {"mode": "off"}, {"threads": 6}], ids=str)
def test_the_mark_tells_ours_from_the_users(
    mark: str, environ: dict[str, str], stale: list[str], kept: dict[str, str], changes: dict[str, Any]
) -> None:
    decision = blasenv.decide(configured(**changes), limits(QUOTA_4), 8, {**environ, blasenv.MARK: mark})
    assert (decision.stale, decision.kept) == (stale, kept)
    if changes.get("mode") == "off":
        assert decision.rule == "disabled"
    elif OMP in kept:
        assert decision.rule == "user-env"
    else:
        assert decision.set == {OMP: str(changes.get("threads", 4))}


@pytest.mark.parametrize(
    ("environ", "ranks"),
    [
        ({}, 1),
        *[({name: "3"}, 3) for name in blasenv.LOCAL_RANKS if name != "SLURM_GTIDS"],
        ({"SLURM_GTIDS": "3"}, 1),  # that one task
        ({"SLURM_GTIDS": "3,4,5"}, 3),
        ({"LOCAL_WORLD_SIZE": "1"}, 1),
        ({"LOCAL_WORLD_SIZE": "12"}, 12),
        ({"LOCAL_WORLD_SIZE": "100"}, 12),
        ({"LOCAL_WORLD_SIZE": "0"}, 1),
        ({"LOCAL_WORLD_SIZE": ""}, 1),
        ({"LOCAL_WORLD_SIZE": "-2"}, 1),
        ({"LOCAL_WORLD_SIZE": "two"}, 1),
        ({"LOCAL_WORLD_SIZE": "9" * 5000}, 1),
        ({"WORLD_SIZE": "3", "PMI_SIZE": "3", "SLURM_NTASKS": "3"}, 1),  # of the job, not of the node
        ({"LOCAL_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, 2),
        ({"LOCAL_WORLD_SIZE": "", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, 4),
        ({"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NTASKS_PER_NODE": "4"}, 2),
        ({"SLURM_NTASKS_PER_NODE": "4"}, 1),  # a batch script has it, which is no rank
        # sbatch(1): counts with repeats, one for each node
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "0"}, 2),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "2"}, 2),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "3"}, 1),
        ({"SLURM_STEP_TASKS_PER_NODE": "4,3,2", "SLURM_NODEID": "1"}, 3),
        ({"SLURM_STEP_TASKS_PER_NODE": "3(x2)", "SLURM_NODEID": "1"}, 3),
        ({"SLURM_STEP_TASKS_PER_NODE": "4,3"}, 4),
        ({"SLURM_STEP_TASKS_PER_NODE": "4,3", "SLURM_NODEID": "9"}, 1),
        ({"SLURM_STEP_TASKS_PER_NODE": "(x", "SLURM_NODEID": "0"}, 1),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(xy),3", "SLURM_NODEID": "0"}, 3),
    ],
)
def test_ranks_share_the_quota(environ: dict[str, str], ranks: int) -> None:
    decision = blasenv.decide(configured(), limits([(1_200_000, 100_000)]), 64, environ)
    assert (decision.rule, decision.threads) == ("quota", 12 // ranks)


@pytest.mark.parametrize(("ranks", "floor", "ceil"), [(2, 3, 4), (3, 2, 3), (4, 1, 2), (100, 1, 1)])
def test_ranks_and_rounding(ranks: int, floor: int, ceil: int) -> None:
    for rounding, threads in (("floor", floor), ("ceil", ceil)):
        environ = {"LOCAL_WORLD_SIZE": str(ranks)}
        decision = blasenv.decide(configured(rounding=rounding), limits([(700_000, 100_000)]), 64, environ)
        assert decision.threads == threads


@pytest.mark.parametrize("quotas", [[], [(800_000, 100_000)]])
def test_ranks_without_a_gap_change_nothing(quotas: Quotas) -> None:
    """Launchers pin ranks: the mask is divided already, and the libraries see it."""
    assert blasenv.decide(configured(), limits(quotas), 8, {"LOCAL_WORLD_SIZE": "4"}).set == {}


@pytest.mark.parametrize(
    ("quotas", "share", "threads"),
    [
        ([(800_000, 100_000)], 4, 2),
        ([(700_000, 100_000)], 4, 1),
        ([(1_000_000, 100_000)], 4, 2),
        ([(200_000, 100_000)], 4, 1),
        # without a gap the workers share the CPUs of the mask
        ([], 4, 4),
        ([(1_600_000, 100_000)], 4, 4),
        ([(9_900_000, 100_000)], 5, 3),
        ([], 100, 1),
    ],
)
def test_workers_share(quotas: Quotas, share: int, threads: int) -> None:
    environ = {"LOCAL_WORLD_SIZE": "2"}  # the owner's word beats the launcher's
    decision = blasenv.decide(configured(share=share, program="gunicorn"), limits(quotas), 16, environ)
    assert (decision.rule, decision.threads, decision.set) == ("program", threads, {OMP: str(threads)})


@pytest.mark.parametrize(("quotas", "rule", "threads"), [(QUOTA_4, "program", 4), ([], "no-limit", None)])
def test_a_program_left_to_the_quota(quotas: Quotas, rule: str, threads: int | None) -> None:
    decision = blasenv.decide(configured(program="serve.py"), limits(quotas), 8, {})
    assert (decision.rule, decision.threads) == (rule, threads)


def test_decide_changes_nothing() -> None:
    config, environ = configured(variables=[OMP, BLAS], override=True), {OMP: "2", blasenv.MARK: f"{OMP}=2"}
    before = (dict(vars(config)), dict(environ))
    blasenv.decide(config, limits(QUOTA_4), 8, environ)
    assert (vars(config), environ) == before


# Applied, each time in a process of its own: what native code sees, and what Python code sees.

APPLY = """
import ctypes, json, os, subprocess, sys
sys.path.insert(0, sys.argv[1])
import blasenv
names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")
names += ("BLASENV_SET", "BLASENV_MARK")
before = dict(os.environ)
decision = blasenv.undecided("quota", [])
vars(decision).update(json.loads(sys.argv[2]))
try:
    blasenv.apply(decision)
    error = None
except Exception as failure:
    error = type(failure).__name__
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
native = {name: getenv(name.encode()) for name in names}
env = lambda environ: subprocess.run(["env"], env=environ, capture_output=True, text=True).stdout.splitlines()
print(json.dumps({
    "error": error,
    "native": {name: value.decode() for name, value in native.items() if value is not None},
    "mapping": {name: os.environ[name] for name in names if name in os.environ},
    "others": {name: value for name, value in os.environ.items() if name not in names}
        == {name: value for name, value in before.items() if name not in names},
    "child": dict(line.split("=", 1) for line in env(None) if line.startswith(names)),
    "child of a copy": dict(line.split("=", 1) for line in env(dict(os.environ)) if line.startswith(names)),
}))
"""


def applied(decision: dict[str, Any], **environ: str) -> dict[str, Any]:
    command = [sys.executable, "-c", APPLY, str(Path(blasenv.__file__).parent.parent), json.dumps(decision)]
    outcome: dict[str, Any] = json.loads(run(command, clean_environ(**environ)).stdout)
    assert outcome["others"], "a variable that is none of ours has changed"
    return outcome


SET, MARK = blasenv.RECEIPT, blasenv.MARK
RECEIPTS = {SET: f"{OMP}=4", MARK: f"{OMP}=4"}


@pytest.mark.parametrize(
    ("decision", "environ", "native", "mapping"),
    [
        # the mark is native only, so that a child has it only with all of the native environment
        ({"set": {OMP: "4"}}, {}, {OMP: "4", **RECEIPTS}, {SET: f"{OMP}=4"}),
        # what is in the mapping is marked there, too
        ({"set": {OMP: "4"}, "visible": True}, {}, {OMP: "4", **RECEIPTS}, {OMP: "4", **RECEIPTS}),
        (
            {"set": {OMP: "4", BLAS: "4"}},
            {},
            {OMP: "4", BLAS: "4", SET: f"{OMP}=4 {BLAS}=4", MARK: f"{OMP}=4 {BLAS}=4"},
            {SET: f"{OMP}=4 {BLAS}=4"},
        ),
        # NumExpr and Numba are Python, and look nowhere else
        (
            {"set": {OMP: "4", "NUMBA_NUM_THREADS": "4"}},
            {},
            {OMP: "4", "NUMBA_NUM_THREADS": "4", SET: f"{OMP}=4 {NUMBA}=4", MARK: f"{OMP}=4 {NUMBA}=4"},
            {"NUMBA_NUM_THREADS": "4", SET: f"{OMP}=4 {NUMBA}=4", MARK: f"{NUMBA}=4"},
        ),
        # nothing to set
        ({}, {}, {}, {}),
        ({}, {OMP: "7"}, {OMP: "7"}, {OMP: "7"}),
        ({"kept": {OMP: "7"}}, {OMP: "7", SET: f"{OMP}=2", MARK: f"{OMP}=2"}, {OMP: "7"}, {OMP: "7"}),
        # a parent's decision is taken back, and made anew
        ({"stale": [OMP]}, {OMP: "2", SET: f"{OMP}=2", MARK: f"{OMP}=2"}, {}, {}),
        (
            {"stale": [OMP], "set": {OMP: "4"}},
            {OMP: "2", SET: f"{OMP}=2", MARK: f"{OMP}=2"},
            {OMP: "4", **RECEIPTS},
            {SET: f"{OMP}=4"},
        ),
        ({"stale": [OMP, BLAS]}, {OMP: "2", BLAS: "2", MARK: f"{OMP}=2 {BLAS}=2"}, {}, {}),
        ({}, {SET: f"{OMP}=2"}, {}, {}),
        # override: the user's value goes
        ({"set": {OMP: "4"}}, {OMP: "7"}, {OMP: "4", **RECEIPTS}, {SET: f"{OMP}=4"}),
        # the value of a variable that is not in the decision stays
        ({"set": {OMP: "4"}}, {BLAS: "7"}, {OMP: "4", BLAS: "7", **RECEIPTS}, {BLAS: "7", SET: f"{OMP}=4"}),
    ],
)
def test_apply(
    decision: dict[str, Any], environ: dict[str, str], native: dict[str, str], mapping: dict[str, str]
) -> None:
    outcome = applied(decision, **environ)
    assert outcome["error"] is None
    assert (outcome["native"], outcome["mapping"]) == (native, mapping)
    assert outcome["child"] == native
    assert outcome["child of a copy"] == mapping


@pytest.mark.parametrize("visible", [False, True])
@pytest.mark.parametrize(
    ("environ", "stale"),
    [
        ({}, []),
        ({OMP: "2", SET: f"{OMP}=2"}, [OMP]),
        ({OMP: "7", BLAS: "8"}, []),
        ({SET: f"{OMP}=2"}, []),
    ],
)
def test_apply_that_fails_leaves_everything_as_it_was(environ: dict[str, str], stale: list[str], visible: bool) -> None:
    """putenv refuses a NUL; the variables before it in the decision are set by then."""
    outcome = applied({"set": {OMP: "4", BLAS: "4\0"}, "stale": stale, "visible": visible}, **environ)
    assert outcome["error"] == "ValueError"
    assert outcome["native"] == outcome["mapping"] == outcome["child"] == environ


# The decision carries how it was made, and nothing else is needed to come to the count.


@settings(max_examples=500, deadline=None)
@given(
    quotas=st.lists(st.tuples(st.integers(1, 2**40), st.integers(1, 2**40)), max_size=3),
    told=st.one_of(st.none(), st.integers(1, 64_000)),
    most=st.one_of(st.none(), st.integers(1, 64)),
    affinity=st.integers(1, 256),
    cores=st.one_of(st.none(), st.integers(1, 256)),
    sharers=st.sampled_from(["", "ranks", "owner"]),
    share=st.integers(1, 9),
    rounding=st.sampled_from(["floor", "ceil"]),
    mode=st.sampled_from(["auto", "auto", "single", "off"]),
)
def test_the_facts_of_a_decision_recompute_to_its_count(
    quotas: Quotas,
    told: int | None,
    most: int | None,
    affinity: int,
    cores: int | None,
    sharers: str,
    share: int,
    rounding: str,
    mode: str,
) -> None:
    config = configured(rounding=rounding, mode=mode)
    found = limits(quotas, cores)
    for controller, quota in (("told", told), ("max_threads", most and 1000 * most)):
        if quota:
            found.append(blasenv.Limit(controller=controller, version=0, path="x", quota=quota, period=1000, note=""))
    if sharers == "owner":
        config.share, config.shared_by, config.program = share, "processes (x)", "x"
    decision = blasenv.decide(config, found, affinity, {"LOCAL_WORLD_SIZE": str(share)} if sharers == "ranks" else {})
    if mode != "auto":
        assert (decision.limit, decision.share, decision.rounding) == (None, 1, "")
        assert decision.threads == (1 if mode == "single" else None)
        return
    limit = decision.limit
    exact = Fraction(affinity, decision.share)
    if limit is not None:
        shared = limit.controller in ("cpu", "told")
        exact = Fraction(limit.quota or 0, (limit.period or 1) * (decision.share if shared else 1))
    if decision.threads is None:
        assert (decision.limit, decision.share, decision.rounding) == (None, 1, "")
        return
    assert decision.threads == max(1, math.ceil(exact) if decision.rounding == "ceil" else math.floor(exact))
    assert (decision.rounding == "") == (exact.denominator == 1 and exact >= 1)
    assert (decision.rounding == "least") == (exact < 1)
    assert decision.share in (1, share)
    # and no other limit allows less
    for other in found:
        if other.quota and other.period:
            parts = decision.share if other.controller in ("cpu", "told") else 1
            assert Fraction(other.quota, other.period * parts) >= exact
