"""A decision in words, tables and JSON. Pure: what goes in are the values of `blasenv`, what comes out is text."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from blasenv.machine.cgroup import cpus_of, quota_cpus, tightest
from blasenv.output.text import count, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blasenv._types import Config, Decision, Limit
    from blasenv.machine.observe import Observation

SCHEMA = 1  # of the JSON documents; grows when a field changes its meaning or goes away

RULES = {
    "disabled": "blasenv is switched off",
    "user-env": "the environment has a thread count of its own, and it stays",
    "config": "the configuration names the thread count",
    "program": "the configuration has a line for this program",
    "workers": "the program says how many workers it starts, and they share the CPU limit",
    "quota": "the CPU limit is below the CPUs this process can see",
    "no-gap": "the CPU limit is no smaller than the visible CPUs, so libraries count right by themselves",
    "no-limit": "no CPU limit was found; libraries count the visible CPUs",
    "not-linux": "this is not Linux, which is where such CPU limits are",
    "error": "something unforeseen happened, and the environment stayed as it was",
}


class Variable(NamedTuple):
    """A thread variable as native code finds it."""

    name: str
    value: str | None
    source: str
    """"blasenv", "environment" or "unset"."""


def reason(decision: Decision, config: Config, limits: Sequence[Limit], affinity: int) -> str:
    """Why this decision, in one sentence with its numbers."""
    rule = decision.rule
    if rule in ("quota", "workers") or (rule == "config" and decision.limit is not None):
        return reason_of_count(decision, affinity)
    quota = quota_cpus(limits)
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
        line = f"{RULES[rule]}: {config.program} = " + (str(setting) if isinstance(setting, int) else f'"{setting}"')
        counted = decision.limit is not None or decision.share > 1
        return f"{line}; {reason_of_count(decision, affinity)}" if counted else line
    if rule == "disabled" and config.mode == "off":
        return f'{RULES[rule]}: mode = "off"'
    # A mount that shows neither our group nor one above it hides a limit, too.
    unseen = [limit.note for limit in limits if limit.version and limit.path.startswith("/proc/")]
    if rule == "no-limit" and unseen:
        return f"no CPU limit can be seen, and there may be one: {unseen[0]}"
    return RULES.get(rule, rule)


def reason_of_count(decision: Decision, affinity: int) -> str:
    """How the count of a decision came about: the limit that bound it, who shares that, the rounding."""
    limit = decision.limit
    cpus = (cpus_of(limit) or 0.0) if limit is not None else float(affinity)
    if limit is not None and limit.controller == "smt":
        parts = [f"the {affinity} visible CPUs are {count(cpus, 'core')}, and libraries start no more threads"]
    elif limit is not None and limit.controller == "max_threads":
        parts = [f"max_threads = {number(cpus)}"]
    elif decision.share > 1:
        parts = [f"{count(cpus, 'CPU')} shared by {decision.share} {decision.shared_by}"]
        if limit is not None:
            parts[0] += f"; this process can see {affinity}"
    else:
        told = f", told by {limit.path}," if limit is not None and limit.controller == "told" else ""
        parts = [f"the CPU limit of {number(cpus)}{told} is below the {affinity} CPUs this process can see"]
    rounding = {"floor": "rounded down", "ceil": "rounded up", "least": "1 is the least"}
    if decision.rounding:
        parts.append(rounding[decision.rounding])
    return "; ".join(parts)


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


def limit_json(limit: Limit, taken: bool) -> dict[str, object]:
    """One level that was looked at. Quota and period are microseconds; for smt, cores and 1."""
    return {
        "controller": limit.controller,
        "version": limit.version,
        "path": limit.path,
        "quota": limit.quota,
        "period": limit.period,
        "cpus": cpus_of(limit),
        "taken": taken,
        "note": limit.note,
    }


def document(seen: Observation, decision: Decision, rows: Sequence[Variable]) -> dict[str, object]:
    """What ``--json`` prints of a decision. Commands add fields, and take none away."""
    config, limits = seen.config, seen.limits
    taken = seen.fit.limit or tightest(limits)
    return {
        "schema": SCHEMA,
        "threads": decision.threads,
        "rule": decision.rule,
        "share": decision.share,
        "shared_by": decision.shared_by or None,
        "rounding": decision.rounding or None,
        "quota_cpus": quota_cpus(limits),
        "affinity_cpus": seen.affinity,
        "limits": [limit_json(limit, limit is taken) for limit in limits],
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
