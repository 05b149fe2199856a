"""Decisions in words and numbers, without a process."""

from __future__ import annotations

import pytest

import blasenv
from blasenv.machine import library_threads
from blasenv.machine.cgroup import quota_cpus, tightest
from blasenv.output import report
from blasenv.output.text import number, printable, table


def limit(quota: int | None, period: int | None = 100_000, controller: str = "cpu", path: str = "/f") -> blasenv.Limit:
    return blasenv.Limit(controller=controller, version=2, path=path, quota=quota, period=period, note="")


def reason(limits: list[blasenv.Limit], affinity: int, **environ: str) -> str:
    """What the decision on these limits says."""
    config = blasenv.read_config("/", {"BLASENV_CONFIG": "", **environ})
    decision = blasenv.decide(config, limits, affinity, environ)
    return report.reason(decision, config, limits, affinity)


def test_every_rule_has_a_sentence() -> None:
    rules = {
        "disabled",
        "user-env",
        "config",
        "program",
        "workers",
        "quota",
        "no-gap",
        "no-limit",
        "not-linux",
        "error",
    }
    assert set(report.RULES) == rules


def test_reasons_carry_their_numbers() -> None:
    assert reason([limit(150_000)], 8) == "the CPU limit of 1.5 is below the 8 CPUs this process can see; rounded down"
    assert reason([limit(200_000)], 8) == "the CPU limit of 2 is below the 8 CPUs this process can see"
    assert reason([limit(50_000)], 8).endswith("; 1 is the least")
    assert reason([limit(200_000)], 2).startswith("the CPU limit of 2 is no smaller than the 2 visible CPUs")
    assert reason([limit(800_000)], 16, LOCAL_WORLD_SIZE="4").startswith(
        "8 CPUs shared by 4 ranks (LOCAL_WORLD_SIZE=4); this process can see 16"
    )
    assert "2 cores" in reason([limit(300_000), limit(2, 1, "smt")], 4)
    assert reason([], 8) == report.RULES["no-limit"]
    hidden = limit(None, None, path="/proc/self/mountinfo")
    hidden.note = "no mount shows the cgroup b'/../..'"
    assert reason([hidden], 8).startswith("no CPU limit can be seen, and there may be one: no mount shows")
    assert reason([], 8, OMP_NUM_THREADS="3").startswith("OMP_NUM_THREADS=3 is in the environment")
    assert reason([], 8, BLASENV_THREADS="3").endswith("threads = 3")
    assert reason([], 8, BLASENV_MODE="single").endswith('mode = "single"')
    assert reason([], 8, BLASENV_MODE="off").endswith('mode = "off"')


def test_the_tightest_limit_is_exact_and_the_nearest() -> None:
    leaf, parent = limit(10**17 + 1, 10**17, path="/leaf"), limit(10**17, 10**17, path="/parent")
    assert tightest([leaf, parent]) is parent  # as floats, they are the same
    assert tightest([limit(100_000, path="/a"), limit(100_000, path="/b")]).path == "/a"  # type: ignore[union-attr]
    assert tightest([limit(None, None)]) is None
    assert quota_cpus([limit(300_000), limit(2, 1, "smt")]) == 3.0


@pytest.mark.parametrize(
    ("value", "text"), [(4.0, "4"), (1.5, "1.5"), (1 / 3, "0.333"), (0.00001, "1e-05"), (100.0, "100")]
)
def test_numbers_are_for_people(value: float, text: str) -> None:
    assert number(value) == text


def libraries(
    native: dict[str, str], python: dict[str, str] | None = None, quota: float | None = None
) -> dict[str, int | None]:
    rows = library_threads.libraries(
        native, native if python is None else python, affinity=48, cores=24, online=64, quota=quota
    )
    return {row.name.split(" (")[0] + (" OpenMP" if "OpenMP: conda" in row.name else ""): row.threads for row in rows}


def test_what_libraries_start_by_default() -> None:
    assert libraries({}) == {
        "OpenBLAS": 48,
        "OpenBLAS OpenMP": 48,
        "MKL": 24,
        "libgomp": 48,
        "libiomp5": 48,
        "BLIS": 1,
        "PyTorch": 24,
        "scikit-learn": 24,
        "PyArrow": 48,
        "LightGBM": 48,
        "NumExpr": 16,
        "Numba": 48,
        "XGBoost, Polars, DuckDB": None,
        "TensorFlow, ONNX Runtime": None,
    }


def test_the_one_variable_reaches_all_but_what_is_python() -> None:
    found = libraries({"OMP_NUM_THREADS": "4"}, {}, 4.0)
    left = {name for name, threads in found.items() if threads != 4}
    assert left == {"NumExpr", "Numba", "XGBoost, Polars, DuckDB", "TensorFlow, ONNX Runtime"}


@pytest.mark.parametrize(
    ("environ", "library", "threads"),
    [
        ({"OPENBLAS_NUM_THREADS": "3", "OMP_NUM_THREADS": "4"}, "OpenBLAS", 3),
        ({"OPENBLAS_NUM_THREADS": "3", "OMP_NUM_THREADS": "4"}, "OpenBLAS OpenMP", 4),
        ({"OPENBLAS_NUM_THREADS": "0", "GOTO_NUM_THREADS": "abc", "OMP_NUM_THREADS": "4"}, "OpenBLAS", 4),
        ({"OPENBLAS_NUM_THREADS": "99"}, "OpenBLAS", 48),
        ({"OMP_NUM_THREADS": "99"}, "OpenBLAS OpenMP", 99),
        ({"OMP_NUM_THREADS": "3,2"}, "libgomp", 3),
        ({"OMP_NUM_THREADS": ""}, "libgomp", 48),
        ({"OMP_NUM_THREADS": "8", "OMP_THREAD_LIMIT": "2"}, "libiomp5", 2),
        ({"OMP_NUM_THREADS": "8", "OMP_THREAD_LIMIT": "2"}, "libgomp", 8),
        ({"MKL_NUM_THREADS": "2", "OMP_NUM_THREADS": "4"}, "MKL", 2),
        ({"MKL_NUM_THREADS": "abc", "OMP_NUM_THREADS": "4"}, "MKL", 1),
        ({"MKL_NUM_THREADS": "2", "OMP_NUM_THREADS": "4"}, "PyTorch", 2),
        ({"OMP_NUM_THREADS": "40"}, "scikit-learn", 40),
        ({"NUMEXPR_MAX_THREADS": "5"}, "NumExpr", 5),
        ({"NUMEXPR_MAX_THREADS": "4", "NUMEXPR_NUM_THREADS": "5"}, "NumExpr", 1),
        ({"NUMEXPR_NUM_THREADS": "70"}, "NumExpr", 1),
        ({"NUMEXPR_NUM_THREADS": "", "OMP_NUM_THREADS": "3"}, "NumExpr", 3),
        ({"NUMBA_NUM_THREADS": "2"}, "Numba", 2),
    ],
)
def test_which_variable_a_library_obeys(environ: dict[str, str], library: str, threads: int) -> None:
    assert libraries(environ)[library] == threads


def test_scikit_learns_own_cap_holds_while_the_variable_is_hidden() -> None:
    assert libraries({}, {}, 3.5)["scikit-learn"] == 4
    assert libraries({"OMP_NUM_THREADS": "40"}, {}, 3.5)["scikit-learn"] == 4


def test_a_table_wraps_its_last_column_and_leaves_no_blanks() -> None:
    text = table(("A", "B"), [("one", "word " * 30), ("longer", None)], indent="  ")
    lines = text.split("\n")
    assert len(lines) == 5
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)
    assert lines[1].index("word") == lines[2].index("word") == lines[0].index("B")


def test_what_steers_a_terminal_is_printed_as_text() -> None:
    assert printable("a\x1b[31m\nb\udcff\u202eé") == "a\\x1b[31m\\nb\\udcff\\u202eé"
