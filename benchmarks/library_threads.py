#!/usr/bin/env python3
"""How many threads libraries really start under a CPU limit, by variable: docs/library-threads.json.

    benchmarks/library_threads.py PYTHON [PYTHON ...]
    benchmarks/library_threads.py --page        # docs/libraries.md anew, from the rules and that file

Each PYTHON is asked for the libraries below that it has. A library runs with no variable, and with each
variable that may concern it, in the native environment alone (where libraries in C look) and in os.environ
alone (where those in Python look). The limit is one CPU, seen as in a container: some libraries look for it
only where a container has it. Needs root, and at least two CPUs.

    pip install numpy scipy numexpr numba onnxruntime onnx polars tokenizers pyarrow scikit-learn lightgbm \\
        xgboost duckdb opencv-python-headless simpleitk jax catboost openvino mkl  # and apart: tensorflow-cpu
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import blasenv  # noqa: E402
from blasenv.machine import library_threads  # noqa: E402

RESULT = ROOT / "docs" / "library-threads.json"
PAGE = ROOT / "docs" / "libraries.md"
LIMIT = "1"  # CPUs


class Case(NamedTuple):
    """One library."""

    name: str
    """Of the distribution."""
    load: str
    """Python that imports it."""
    work: str
    """Python that uses its threads; may set ``says``, the count as the library tells it."""
    variables: tuple[str, ...] = ()
    """To try, besides OMP_NUM_THREADS."""


ONNX = """
graph = helper.make_graph(
    [helper.make_node("MatMul", ["a", "a"], ["b"])], "g",
    [helper.make_tensor_value_info("a", 1, [300, 300])], [helper.make_tensor_value_info("b", 1, [300, 300])])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
options = onnxruntime.SessionOptions()
{mode}
session = onnxruntime.InferenceSession(model, options)
session.run(None, {{"a": numpy.ones((300, 300), "f")}})
"""
NUMBA = """
@numba.njit(parallel=True)
def total(values):
    found = 0.0
    for index in numba.prange(len(values)):
        found += values[index]
    return found
total(numpy.ones(100000))
says = numba.get_num_threads()
"""
TOKENIZERS = """
one = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
one.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
one.encode_batch(["a b c"] * 20000)
says = len(os.listdir("/proc/self/task")) - before  # the caller waits for them
"""
OPENVINO = """
given = opset13.parameter([300, 300], openvino.Type.f32)
model = openvino.Model([opset13.matmul(given, given, False, False)], [given])
compiled = openvino.Core().compile_model(model, "CPU")
compiled([numpy.ones((300, 300), "f")])
says = compiled.get_property("INFERENCE_NUM_THREADS")
"""
TENSORFLOW = """
a = tensorflow.random.uniform((1500, 1500))
tensorflow.function(lambda a: tensorflow.matmul(a, a) + tensorflow.sin(a))(a)
says = {count}
"""
# The pool between operations has a name; of that within them, there are as many threads as are new and without one.
BETWEEN = 'sum(name == "tf_Compute" for name in names())'
WITHIN = 'sum(not name.startswith("tf_") for name in names()) - before'
FIT = "(numpy.random.rand(5000, 5), numpy.random.rand(5000))"
OPENBLAS = ("OPENBLAS_NUM_THREADS", "OPENBLAS_DEFAULT_NUM_THREADS", "GOTO_NUM_THREADS")

MKL = ("MKL_NUM_THREADS",)
LOADED = 'import ctypes, glob, sys; ctypes.CDLL(glob.glob(sys.prefix + "/lib/{name}")[0], ctypes.RTLD_GLOBAL)'
INTEL = 'import ctypes, glob, sys; says = ctypes.CDLL(glob.glob(sys.prefix + "/lib/{name}")[0]).{ask}()'

CASES = (
    Case("numpy", "", "import numpy; a = numpy.ones((800, 800)); a @ a", OPENBLAS),
    Case("mkl", LOADED.format(name="libiomp5.so"), INTEL.format(name="libmkl_rt.so*", ask="MKL_Get_Max_Threads"), MKL),
    Case("intel-openmp", "", INTEL.format(name="libiomp5.so", ask="omp_get_max_threads")),
    Case(
        "numexpr",
        "import numexpr",
        "says = numexpr.get_num_threads()",
        ("NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS"),
    ),
    Case("numba", "import numba, numpy", NUMBA, ("NUMBA_NUM_THREADS",)),
    Case(
        "onnxruntime",
        "import numpy, onnxruntime; from onnx import helper",
        ONNX.format(mode=""),
        ("ORT_INTRA_OP_NUM_THREADS", "ORT_INTER_OP_NUM_THREADS"),
    ),
    Case(
        "onnxruntime (parallel mode)",
        "import numpy, onnxruntime; from onnx import helper",
        ONNX.format(mode="options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL"),
        ("ORT_INTRA_OP_NUM_THREADS", "ORT_INTER_OP_NUM_THREADS"),
    ),
    Case(
        "tensorflow-cpu (within operations)",
        "import tensorflow",
        TENSORFLOW.format(count=WITHIN),
        ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    ),
    Case(
        "tensorflow-cpu (between operations)",
        "import tensorflow",
        TENSORFLOW.format(count=BETWEEN),
        ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    ),
    Case(
        "simpleitk",
        "import SimpleITK",
        "says = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()",
        ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",),
    ),
    Case("polars", "import polars", "says = polars.thread_pool_size()", ("POLARS_MAX_THREADS", "RAYON_NUM_THREADS")),
    Case("tokenizers", "import tokenizers", TOKENIZERS, ("RAYON_NUM_THREADS",)),
    Case("pyarrow", "import pyarrow", "says = pyarrow.cpu_count()", ("OMP_THREAD_LIMIT",)),
    Case(
        "scikit-learn",
        "from sklearn.utils import _openmp_helpers",
        "says = _openmp_helpers._openmp_effective_n_threads()",
    ),
    Case("lightgbm", "import lightgbm, numpy", f'lightgbm.train({{"verbose": -1}}, lightgbm.Dataset(*{FIT}), 3)'),
    Case("xgboost", "import xgboost, numpy", f"xgboost.train({{}}, xgboost.DMatrix(*{FIT}), 3)"),
    Case("duckdb", "import duckdb", "says = duckdb.sql(\"select current_setting('threads')\").fetchall()[0][0]"),
    Case(
        "opencv-python-headless",
        "import cv2",
        "says = cv2.getNumThreads()",
        ("OPENCV_FOR_THREADS_NUM",),
    ),
    Case(
        "catboost",
        "import catboost, numpy",
        f"catboost.CatBoostRegressor(iterations=3, verbose=0, allow_writing_files=False).fit(*{FIT})",
    ),
    Case("openvino", "import numpy, openvino; from openvino import opset13", OPENVINO),
    Case(
        "jax",
        "import jax",
        "a = jax.numpy.ones((1000, 1000)); (a @ a).block_until_ready()\n"
        'says = sum(name == "tf_XLAEigen" for name in names())',
        ("NPROC",),
    ),
)

# What runs inside: the case and the variable come as JSON on its command line.
PROGRAM = """
import importlib.metadata, json, os, sys

def names():
    return [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]

case, name, value, place = json.loads(sys.argv[1])
if place == "native":
    os.putenv(name, value)
elif place == "os.environ":
    os.environ[name] = value
    os.unsetenv(name)
found = {"says": None}
exec(case["load"], found)
before = len(names())
found.update(os=os, names=names, before=before)
exec(case["work"], found)
started = len(names()) - before
version = importlib.metadata.version(case["name"].partition(" ")[0])
print()
print(json.dumps({"threads": started + 1 if found["says"] is None else found["says"], "started": started,
    "version": version}))
"""


def enter(command: list[str]) -> None:
    """Become the command where only our own cgroup is mounted, and nothing above it: as in Docker's containers."""
    leaf = point = os.path.dirname(next(iter(blasenv.find_quota())).path)
    while not os.path.ismount(point):
        point = os.path.dirname(point)
    # Taken away, not covered: some take the first mount in mountinfo for the one that is seen.
    aside = tempfile.mkdtemp()
    for words in (["mount", "--bind", leaf, aside], ["umount", "--lazy", point], ["mount", "--bind", aside, point]):
        subprocess.run(words, check=True)
    subprocess.run(["umount", aside], check=True)
    os.rmdir(aside)
    os.execvp(command[0], command)  # noqa: S606


def run(python: str, case: Case, name: str | None, value: str | None, place: str | None) -> dict[str, object]:
    """Run one case with one variable; what it printed, or the last line of its complaint."""
    steers = ("_THREADS", "BLASENV_", "PYTHON", "_NUM")
    environ = {key: text for key, text in os.environ.items() if not any(word in key for word in steers)}
    environ["BLASENV_DISABLE"] = "1"
    limit = [sys.executable, "-m", "blasenv", "limit", "--cpus", LIMIT, "--quiet", "--"]
    inside = ["unshare", "--mount", sys.executable, __file__, "--inside"]
    program = [python, "-c", PROGRAM, json.dumps([case._asdict(), name, value, place])]
    result = subprocess.run(
        [*limit, *inside, *program],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if result.returncode:
        return {"error": result.stderr.strip().rpartition("\n")[2][:200]}
    document: dict[str, object] = json.loads(result.stdout.strip().rpartition("\n")[2])
    return document


def has(python: str, case: Case) -> bool:
    """Whether that Python has the library."""
    code = f"import importlib.metadata; importlib.metadata.version({case.name.partition(' ')[0]!r})"
    return subprocess.run([python, "-c", code], check=False, capture_output=True).returncode == 0


def measure(python: str, case: Case) -> dict[str, object]:
    """One library: its version, and its threads by variable."""
    bare = run(python, case, None, None, None)
    row: dict[str, object] = {"library": case.name, "version": bare.pop("version", None), "unset": bare}
    for name in ("OMP_NUM_THREADS", *case.variables):
        for place in ("native", "os.environ"):
            for value in ("1", "3"):
                found = run(python, case, name, value, place)
                found.pop("version", None)
                row.setdefault("set", []).append({"variable": name, "value": value, "in": place, **found})  # type: ignore[attr-defined]
    print(json.dumps(row), file=sys.stderr)
    return row


def table() -> str:
    """The rules, a row for each library, in Markdown."""
    head = '| library | version | thread count from, in this order | read from | `"all"` sets |'
    lines = [head, "|---|---|---|---|---|"]
    for rule in library_threads.RULES:
        names = [f"`{name}`" for name in rule.obeys]
        if isinstance(rule, library_threads.KnowsTheQuota):
            names = ["the CPU limit", *([f"(listens to {', '.join(names)}, too)"] if names else [])]
        elif rule.untold:
            names = ["its settings in the program"]
        place = "" if not rule.obeys else "`os.environ`" if rule.reads_os_environ else "native"
        own = ", ".join(f"`{name}`" for name in rule.own) or ("left alone" if rule.untold else "`OMP_NUM_THREADS`")
        cells = (f"[{rule.name}]({rule.source})", rule.version, " ".join(names), place, own)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_page() -> None:
    """Put the table into the page, between its marks."""
    before, mark, rest = PAGE.read_text("utf-8").partition("<!-- rules -->\n")
    PAGE.write_text(f"{before}{mark}{table()}\n<!-- end -->{rest.partition('<!-- end -->')[2]}", encoding="utf-8")


def main() -> int:
    """Measure everything that is there, and write the file. What is not there keeps its row."""
    if sys.argv[1:2] == ["--inside"]:
        enter(sys.argv[2:])
    if sys.argv[1:2] == ["--page"]:
        write_page()
        return 0
    rows = [
        measure(python, case)
        for case in CASES
        for python in next(([one] for one in sys.argv[1:] if has(one, case)), [])
    ]
    before = json.loads(RESULT.read_text("utf-8"))["rows"] if RESULT.exists() else []
    by_name = {row["library"]: row for row in [*before, *rows]}
    rows = [by_name[case.name] for case in CASES if case.name in by_name]
    document = {
        "cpus": len(os.sched_getaffinity(0)),
        "limit": float(LIMIT),
        "kernel": platform.release(),
        "rows": rows,
    }
    lines = ",\n    ".join(json.dumps(row) for row in rows)
    head = json.dumps({**document, "rows": []})[: -len("[]}")]
    RESULT.write_text(f"{head}[\n    {lines}\n]}}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
