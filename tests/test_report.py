"""Decisions in words and numbers, without a process."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import pytest
from conftest import ROOT

import blasenv
from blasenv import _config_file
from blasenv.machine import library_threads
from blasenv.machine.cgroup import quota_cpus, tightest
from blasenv.output import report
from blasenv.output.text import count, number, printable, table


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
        "TensorFlow": 48,
        "ONNX Runtime": 24,
        "ITK, SimpleITK": 48,
        "XGBoost, CatBoost, DuckDB": None,
        "Polars, OpenCV, tokenizers": None,
        "OpenVINO, JAX": None,
    }


NO_COUNT = {"XGBoost, CatBoost, DuckDB", "Polars, OpenCV, tokenizers", "OpenVINO, JAX"}


def test_the_one_variable_reaches_all_that_listen_to_it() -> None:
    found = libraries({"OMP_NUM_THREADS": "4"}, {}, 4.0)
    left = {name for name, threads in found.items() if threads != 4}
    assert left == {"NumExpr", "Numba", "TensorFlow", "ONNX Runtime", "ITK, SimpleITK"} | NO_COUNT


def test_all_variables_reach_what_is_left() -> None:
    native = dict.fromkeys(library_threads.ALL_VARIABLES, "4")
    python = {name: "4" for name in native if name.startswith(library_threads.READ_FROM_MAPPING)}
    found = libraries(native, python, 4.0)
    assert {name for name, threads in found.items() if threads != 4} == NO_COUNT


def test_what_all_variables_are() -> None:
    assert library_threads.ALL_VARIABLES == (
        "OMP_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
        "ORT_INTRA_OP_NUM_THREADS",
        "ORT_INTER_OP_NUM_THREADS",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    )
    assert all(_config_file.is_thread_variable(name) for name in library_threads.ALL_VARIABLES)
    # Start-up has them a second time, because it imports nothing.
    assert _config_file.ALL_VARIABLES == library_threads.ALL_VARIABLES
    assert library_threads.READ_FROM_MAPPING == blasenv.IN_MAPPING


@pytest.mark.parametrize("rule", library_threads.RULES, ids=lambda rule: type(rule).__name__)
def test_every_rule_says_where_it_comes_from(rule: library_threads.Rule) -> None:
    assert rule.version
    assert rule.source.startswith("https://")
    assert type(rule).__doc__
    # Who does not listen to OMP_NUM_THREADS, or not where it is, and can be told, is told by "all".
    told = rule.threads(library_threads.Surroundings({}, {}, 8, 8, 8, None))[0] is not None
    assert bool(rule.own) == (told and ("OMP_NUM_THREADS" not in rule.obeys or rule.reads_os_environ))


MEASURED = json.loads((ROOT / "docs" / "library-threads.json").read_text("utf-8"))
RULE_OF = {
    "numpy": library_threads.OpenBLASPthreads,
    "mkl": library_threads.MKL,
    "intel-openmp": library_threads.LLVMOpenMP,
    "numexpr": library_threads.NumExpr,
    "numba": library_threads.Numba,
    "onnxruntime": library_threads.ONNXRuntime,
    "simpleitk": library_threads.ITK,
    "polars": library_threads.Polars,
    "tokenizers": library_threads.Rayon,
    "pyarrow": library_threads.PyArrow,
    "scikit-learn": library_threads.ScikitLearn,
    "lightgbm": library_threads.LightGBM,
    "xgboost": library_threads.XGBoost,
    "duckdb": library_threads.DuckDB,
    "opencv-python-headless": library_threads.OpenCV,
    "catboost": library_threads.CatBoost,
    "openvino": library_threads.OpenVINO,
    "jax": library_threads.JAX,
}


@pytest.mark.parametrize("row", MEASURED["rows"], ids=lambda row: str(row["library"]))
def test_rules_say_what_was_counted(row: dict[str, Any]) -> None:
    """benchmarks/library_threads.py counted real threads; the rules, with the same variables, say the same."""
    cpus, limit = MEASURED["cpus"], MEASURED["limit"]
    assert (cpus, limit) == (2, 1.0)  # so 1 is of who knows the limit or obeys, 2 of who doesn't, and 3 of who obeys
    if row["library"] not in RULE_OF:  # the pools of one library apart; counted below
        return
    rule = RULE_OF[row["library"]]()
    for one in [row["unset"], *row["set"]]:
        variable = {one["variable"]: one["value"]} if "variable" in one else {}
        native, python = (variable if one.get("in") == place else {} for place in ("native", "os.environ"))
        told, _ = rule.threads(library_threads.Surroundings(native, python, cpus, cpus, cpus, limit))
        if told is not None:
            assert (one, told) == (one, one["threads"])
        elif not variable:
            knows = isinstance(rule, library_threads.KnowsTheQuota)
            assert one["threads"] == (1 if knows else 2)


def test_the_page_has_every_rule() -> None:
    """benchmarks/library_threads.py --page writes it."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        counting = importlib.import_module("library_threads")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    assert counting.table() in (ROOT / "docs" / "libraries.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("pool", "variable", "alone"),
    [
        ("tensorflow-cpu (within operations)", "TF_NUM_INTRAOP_THREADS", 0),
        ("tensorflow-cpu (between operations)", "TF_NUM_INTEROP_THREADS", 0),
        ("onnxruntime (parallel mode)", "ORT_INTRA_OP_NUM_THREADS", 1),
        ("onnxruntime (parallel mode)", "ORT_INTER_OP_NUM_THREADS", 1),
    ],
)
def test_each_pool_obeys_its_own_variable(pool: str, variable: str, alone: int) -> None:
    (row,) = [row for row in MEASURED["rows"] if row["library"] == pool]
    assert row["unset"]["threads"] == 2 + alone
    for one in row["set"]:
        obeyed = one["variable"] == variable and one["in"] == "native"
        if obeyed or not one["variable"].startswith(variable.partition("_")[0]):
            assert one["threads"] == (int(one["value"]) if obeyed else 2) + alone, one


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
        ({"OMP_NUM_THREADS": "8", "OMP_THREAD_LIMIT": "2"}, "libgomp", 2),
        ({"OMP_NUM_THREADS": "8", "OMP_THREAD_LIMIT": "2"}, "OpenBLAS", 8),
        ({"OMP_THREAD_LIMIT": "2"}, "PyArrow", 2),
        ({"MKL_NUM_THREADS": "2", "OMP_NUM_THREADS": "4"}, "MKL", 2),
        ({"MKL_NUM_THREADS": "abc", "OMP_NUM_THREADS": "4"}, "MKL", 1),
        ({"OMP_NUM_THREADS": "40"}, "MKL", 24),
        ({"OMP_NUM_THREADS": "40", "MKL_DYNAMIC": "FALSE"}, "MKL", 40),
        ({"TF_NUM_INTRAOP_THREADS": "4"}, "TensorFlow", 48),
        ({"TF_NUM_INTRAOP_THREADS": "4", "TF_NUM_INTEROP_THREADS": "2"}, "TensorFlow", 4),
        ({"OMP_NUM_THREADS": "4"}, "TensorFlow", 48),
        ({"ORT_INTRA_OP_NUM_THREADS": "4"}, "ONNX Runtime", 4),
        ({"ORT_INTRA_OP_NUM_THREADS": "0"}, "ONNX Runtime", 24),
        ({"ORT_INTER_OP_NUM_THREADS": "4"}, "ONNX Runtime", 24),
        ({"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "4", "NSLOTS": "9"}, "ITK, SimpleITK", 4),
        ({"NSLOTS": "9"}, "ITK, SimpleITK", 9),
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


def test_a_word_too_long_for_its_column_stays_in_one_piece() -> None:
    digest, path = "0123456789abcdef" * 4, "/usr/" + "x" * 120
    text = table(("CHECK", "STATE", "FOUND"), [("hook", "ok", f"sha256 {digest}"), ("a" * 30, "ok", path)])
    lines = text.split("\n")
    assert [line for line in lines if digest in line] == [digest.rjust(80)]
    assert [line for line in lines if path in line] == ["a" * 30 + "  ok     " + path]
    assert lines[1].split() == ["hook", "ok", "sha256"]


@pytest.mark.parametrize(("value", "text"), [(1, "1 CPU"), (0.9999, "1 CPU"), (1.5, "1.5 CPUs"), (0, "0 CPUs")])
def test_plurals_go_by_what_is_printed(value: float, text: str) -> None:
    assert count(value, "CPU") == text


def test_what_steers_a_terminal_is_printed_as_text() -> None:
    assert printable("a\x1b[31m\nb\udcff\u202eé") == "a\\x1b[31m\\nb\\udcff\\u202eé"
