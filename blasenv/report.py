"""A decision in words, tables and JSON. Pure: what goes in are the values of `blasenv`, what comes out is text."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from .text import count, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._types import Config, Decision, Limit

SCHEMA = 1  # of the JSON documents; grows when a field changes its meaning or goes away

RULES = {
    "disabled": "blasenv is switched off",
    "user-env": "the environment has a thread count of its own, and it stays",
    "config": "the configuration names the thread count",
    "program": "the configuration has a line for this program",
    "quota": "the CPU limit is below the CPUs this process can see",
    "no-gap": "the CPU limit is no smaller than the visible CPUs, so libraries count right by themselves",
    "no-limit": "no CPU limit was found; libraries count the visible CPUs",
    "not-linux": "this is not Linux, which is where such CPU limits are",
    "error": "something unforeseen happened, and the environment stayed as it was",
}

# What status lists, besides the variables that the configuration adds.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "NUMBA_NUM_THREADS",
)


class Variable(NamedTuple):
    """A thread variable as native code finds it."""

    name: str
    value: str | None
    source: str
    """"blasenv", "environment" or "unset"."""


class Library(NamedTuple):
    """How many threads a native library starts, and why."""

    name: str
    threads: int | None
    """None where that is the library's own affair."""
    reason: str


def limit_cpus(limit: Limit) -> float | None:
    """The CPUs a limit allows, None when it allows all."""
    return limit.quota / limit.period if limit.quota and limit.period else None


def least(limits: Sequence[Limit]) -> Limit | None:
    """The smallest limit, the one nearest to the process when there are several; None without any."""
    finite = [limit for limit in limits if limit.quota and limit.period]
    # Fractions, because a float holds 15 of a quota's 17 digits.
    return min(finite, key=lambda limit: Fraction(limit.quota or 1, limit.period or 1), default=None)


def bandwidth(limits: Sequence[Limit]) -> Limit | None:
    """The smallest limit of a cgroup, without the cores behind hardware threads."""
    return least([limit for limit in limits if limit.controller == "cpu"])


def quota_cpus(limits: Sequence[Limit]) -> float | None:
    """CPUs of bandwidth allowed by the cgroups, None when unlimited."""
    limit = bandwidth(limits)
    return limit_cpus(limit) if limit else None


def reason(decision: Decision, config: Config, limits: Sequence[Limit], affinity: int, ranks: int = 1) -> str:
    """Why this decision, in one sentence with its numbers; ``ranks`` are the processes that share the quota."""
    rule = decision.rule
    quota = quota_cpus(limits)
    if rule == "quota" and quota is not None and decision.threads:
        parts = []
        shared = f", shared by {ranks} ranks," if ranks > 1 else ""
        if quota < affinity:
            parts.append(f"the CPU limit of {number(quota)}{shared} is below the {affinity} CPUs this process can see")
        smallest = least(limits)
        if smallest and smallest.controller == "smt":
            parts.append(f"there are {smallest.quota} cores behind these CPUs, and libraries start no more threads")
        exact = Fraction(quota) / ranks
        if exact < 1:
            parts.append("1 is the least")
        elif exact.denominator != 1:
            parts.append("rounded up" if config.rounding == "ceil" else "rounded down")
        return "; ".join(parts) or RULES[rule]
    if rule == "no-gap" and quota is not None:
        visible = count(affinity, "visible CPU")
        return (
            f"the CPU limit of {number(quota)} is no smaller than the {visible}, so libraries count right by themselves"
        )
    if rule == "user-env":
        own = ", ".join(f"{name}={value}" for name, value in decision.kept.items())
        return f"{own} is in the environment, and what the user sets stays"
    if rule == "config":
        return f"{RULES[rule]}: " + ('mode = "single"' if config.mode == "single" else f"threads = {config.threads}")
    if rule == "program" and config.program:
        setting = config.programs.get(config.program)
        return f"{RULES[rule]}: {config.program} = " + (str(setting) if isinstance(setting, int) else f'"{setting}"')
    if rule == "disabled" and config.mode == "off":
        return f'{RULES[rule]}: mode = "off"'
    # A mount that shows neither our group nor one above it hides a limit, too.
    unseen = [limit.note for limit in limits if limit.version and limit.path.startswith("/proc/")]
    if rule == "no-limit" and unseen:
        return f"no CPU limit can be seen, and there may be one: {unseen[0]}"
    return RULES.get(rule, rule)


def variables(
    names: Sequence[str], native: Mapping[str, str], decision: Decision | None, receipt: str = ""
) -> list[Variable]:
    """Each variable, its value in the ``native`` environment, and who set it.

    Ours are the values of ``decision``, where it was applied, and those with a ``receipt`` of a
    parent process ("OMP_NUM_THREADS=4").
    """
    ours = {(name, value) for name, _, value in (item.partition("=") for item in receipt.split())}
    ours.update(decision.set.items() if decision else ())
    rows = []
    for name in dict.fromkeys(names):
        value = native.get(name)
        source = "unset" if value is None else "blasenv" if (name, value) in ours else "environment"
        rows.append(Variable(name, value, source))
    return rows


def _atoi(text: str) -> int:
    """The number at the start of ``text`` as C's atoi finds it, 0 if there is none."""
    match = re.match(r"\s*([+-]?[0-9]{1,9})", text)
    return int(match.group(1)) if match else 0


def libraries(
    native: Mapping[str, str],
    python: Mapping[str, str],
    *,
    affinity: int,
    cores: int,
    online: int,
    quota: float | None,
) -> list[Library]:
    """The threads each library starts with these variables.

    ``native`` is the process environment, ``python`` the os.environ mapping. By default the
    libraries count the CPUs in the affinity mask, the ``cores`` behind them, or those that are
    ``online``.
    """

    def first(*names: str, otherwise: int, default: str, environ: Mapping[str, str] = native) -> tuple[int, str]:
        for name in names:
            if _atoi(environ.get(name, "")) > 0:
                return _atoi(environ[name]), name
        return otherwise, default

    every, physical = "counts the visible CPUs", "counts the cores"

    openblas, openblas_from = first(
        "OPENBLAS_NUM_THREADS",
        "OPENBLAS_DEFAULT_NUM_THREADS",
        "GOTO_NUM_THREADS",
        "OMP_NUM_THREADS",
        otherwise=affinity,
        default=every,
    )
    openmp, openmp_from = first("OMP_NUM_THREADS", otherwise=affinity, default=every)
    intel, intel_from = openmp, openmp_from
    most = _atoi(native.get("OMP_THREAD_LIMIT", ""))
    if 0 < most < intel:
        intel, intel_from = most, "OMP_THREAD_LIMIT"
    torch, torch_from = first("MKL_NUM_THREADS", "OMP_NUM_THREADS", otherwise=cores, default=physical)
    mkl, mkl_from = cores, physical
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if name in native:
            mkl, mkl_from = max(1, _atoi(native[name])), name
    blis, blis_from = first("BLIS_NUM_THREADS", "OMP_NUM_THREADS", otherwise=1, default="starts 1 by default")

    # scikit-learn has its own cap, which OMP_NUM_THREADS in os.environ switches off.
    sklearn, sklearn_from = openmp, openmp_from
    cap = min(cores, -int(-quota // 1)) if quota else cores
    if "OMP_NUM_THREADS" not in python and (max(1, cap) < openmp or openmp_from == every):
        sklearn, sklearn_from = max(1, cap), "reads the CPU limit, counts the cores"

    # NumExpr and Numba are Python and read os.environ.
    ceiling = _atoi(python.get("NUMEXPR_MAX_THREADS", ""))
    numexpr, numexpr_from = first(
        "NUMEXPR_NUM_THREADS",
        "OMP_NUM_THREADS",
        environ=python,
        otherwise=ceiling if ceiling > 0 else min(online, 16),
        default="NUMEXPR_MAX_THREADS" if ceiling > 0 else "counts all CPUs, up to 16",
    )
    if numexpr > (ceiling if ceiling > 0 else 64):
        numexpr, numexpr_from = 1, f"{numexpr_from} is above its maximum, which means 1"
    numba, numba_from = first("NUMBA_NUM_THREADS", environ=python, otherwise=affinity, default=every)
    own = "reads the CPU limit by itself"
    return [
        Library("OpenBLAS (pthreads: PyPI wheels)", min(openblas, affinity), openblas_from),
        Library("OpenBLAS (OpenMP: conda)", openmp, openmp_from),
        Library("MKL", mkl, mkl_from),
        Library("libgomp (GNU OpenMP)", openmp, openmp_from),
        Library("libiomp5 (Intel, LLVM OpenMP)", intel, intel_from),
        Library("BLIS", blis, blis_from),
        Library("PyTorch", torch, torch_from),
        Library("scikit-learn", sklearn, sklearn_from),
        Library("PyArrow", openmp, openmp_from),
        Library("LightGBM", openmp, openmp_from),
        Library("NumExpr", numexpr, numexpr_from),
        Library("Numba", numba, numba_from),
        Library("XGBoost, Polars, DuckDB", None, own),
        Library("TensorFlow, ONNX Runtime", None, "have settings of their own"),
    ]


def limit_json(limit: Limit, taken: bool) -> dict[str, object]:
    """One level that was looked at. Quota and period are microseconds; for smt, cores and 1."""
    return {
        "controller": limit.controller,
        "version": limit.version,
        "path": limit.path,
        "quota": limit.quota,
        "period": limit.period,
        "cpus": limit_cpus(limit),
        "taken": taken,
        "note": limit.note,
    }


def document(
    decision: Decision, config: Config, limits: Sequence[Limit], affinity: int, rows: Sequence[Variable]
) -> dict[str, object]:
    """What ``--json`` prints. Commands add fields, and take none away."""
    smallest = least(limits)
    return {
        "schema": SCHEMA,
        "threads": decision.threads,
        "rule": decision.rule,
        "quota_cpus": quota_cpus(limits),
        "affinity_cpus": affinity,
        "limits": [limit_json(limit, limit is smallest) for limit in limits],
        "variables": [row._asdict() for row in rows],
        "config": {
            "path": config.path,
            "problems": [{"line": line or None, "problem": problem} for line, problem in config.problems],
            "mode": config.mode,
            "threads": config.threads,
            "rounding": config.rounding,
            "variables": list(config.variables),
            "visible": config.visible,
            "override": config.override,
            "programs": dict(config.programs),
            "program": config.program,
        },
        "notes": list(decision.notes),
    }
