"""What the 48-CPU machine measured, added up, as half a line of text, as JSON and as a page of Markdown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from machine_cases import CPUS, DECISIONS, LOADS, QUOTA, SERVERS, SWEEP

Result = dict[str, Any]  # one line of JSON from the machine: kind, name, result
Seen = Mapping[str, Any]  # its "result"

COUNTERS = ("usec", "nr_periods", "nr_throttled", "throttled_usec")
VARIANTS = {"default": "nothing", "blasenv": "nothing; blasenv is installed", "by hand": f"`OMP_NUM_THREADS={QUOTA}`"}


def group(results: Iterable[Result], kind: str) -> dict[str, list[Seen]]:
    """The results of one kind, by name: several rounds of each."""
    groups: dict[str, list[Seen]] = {}
    for result in results:
        if result["kind"] == kind:
            groups.setdefault(result["name"], []).append(result["result"])
    return groups


def add_up(rounds: Sequence[Seen]) -> Seen:
    """Several rounds as one; the threads, one number in all of them, or a text of several."""
    threads = sorted({seen["threads"] for seen in rounds})
    total: Result = {name: sum(seen[name] for seen in rounds) for name in COUNTERS}
    return {"threads": threads[0] if len(threads) == 1 else " and ".join(map(str, threads)), **total}


def share(seen: Seen) -> float:
    """The share of periods in which the group was throttled; 0 without a quota, where none are counted."""
    return float(seen["nr_throttled"] / seen["nr_periods"]) if seen["nr_periods"] else 0.0


def standing(seen: Seen) -> float:
    """How many CPUs had runnable threads that stood still, throttled, on average over the measurement."""
    return float(seen["throttled_usec"] / seen["usec"])


def describe(seen: Seen) -> str:
    """A measurement in half a line."""
    if not seen["nr_periods"]:
        return f"{seen['threads']} threads, no periods"
    periods = f"throttled in {seen['nr_throttled']} of {seen['nr_periods']} periods"
    return f"{seen['threads']} threads, {periods}, {standing(seen):.2f} CPUs stand still"


def _table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _throttled(seen: Seen) -> tuple[str, str]:
    """Two columns."""
    if not seen["nr_periods"]:
        return "no periods", "0"
    return f"{seen['nr_throttled']} of {seen['nr_periods']} ({share(seen):.0%})", f"{standing(seen):.2f}"


def render_json(results: Sequence[Result]) -> str:
    """Everything as it was measured, a result a line."""
    return "[\n" + ",\n".join(map(json.dumps, results)) + "\n]\n"


PAGE = """\
# {cpus} CPUs, {quota} allotted

Made by `docker-tests/machine --write`; what it measured is in [48-cpus.json](48-cpus.json).

A machine with {cpus} CPUs, emulated by QEMU: Linux {kernel}, cgroup v2 alone, a quota of {quota} CPUs on the
parent of the program's cgroup, NumPy {numpy} and SciPy {scipy} from PyPI, each with an OpenBLAS of its own.
Every row was watched for {seconds} seconds. An emulator's times are its own, so there are none here. The
counters are the kernel's, but emulated CPUs get their turns late, which adds some throttling to every row.
What too many threads cost on real cores is in [throttling.json](throttling.json).

## At work

*Standing still*: CPUs whose threads are ready to run and wait for the next period, on average
(`throttled_usec` of `cpu.stat` over the time).

{loads}

*matmul + solve*: 100 × 100. *interpolate*: `scipy.interpolate.RBFInterpolator` through 100 points with 400
values each; SciPy's OpenBLAS starts as many threads as NumPy's, less the main thread.

## Thread counts, under a quota of {quota}

{sweep}

{servers}## What the doctor says

A program that never heard of blasenv is at work there, and this is asked from outside:

```console
$ blasenv doctor PID
{doctor}
```

## What blasenv decides

Numbers are CPUs of quota, from the outermost cgroup to the one of the process.

{decisions}
"""


def _servers(seen_by_name: Mapping[str, Sequence[Seen]]) -> str:
    """The section about programs with workers, where they were measured."""
    rows = [
        (server.name, VARIANTS[server.variant], seen["processes"], sum(seen["threads"]))
        for server in SERVERS
        for seen in seen_by_name.get(f"{server.name}, {server.variant}", [])
    ]
    if not rows:
        return ""
    table = _table(("program", "what is set", "processes", "threads"), rows)
    return f"""\
## Programs with workers, under a quota of {QUOTA}

{table}

Processes with the parent. `gunicorn` computes in each worker; by default, `celery` and `Pool()` start one for each CPU
that they see, and with `cpu_count = true` one for each that is allotted.

"""


def render_page(results: Sequence[Result]) -> str:
    """The page docs/48-cpus.md."""
    machine = next(result for result in results if result["kind"] == "machine")
    loads = {name: add_up(rounds) for name, rounds in group(results, "load").items()}
    sweep = {name: add_up(rounds) for name, rounds in group(results, "sweep").items()}
    decisions = group(results, "decision")
    order = [(program, variant) for program in ("matmul + solve", "interpolate") for variant in VARIANTS]
    rows = sorted(LOADS, key=lambda load: (load.quota is None, order.index((load.program, load.variant))))
    return PAGE.format(
        cpus=CPUS,
        quota=QUOTA,
        kernel=machine["kernel"],
        numpy=machine["numpy"],
        scipy=machine["scipy"],
        seconds=round(loads[rows[0].name]["usec"] / 1e6),
        loads=_table(
            ("program", "quota", "what is set", "threads", "throttled periods", "standing still"),
            [
                (load.program, load.quota or "none", VARIANTS[load.variant], seen["threads"], *_throttled(seen))
                for load in rows
                for seen in [loads[load.name]]
            ],
        ),
        sweep=_table(
            ("`OMP_NUM_THREADS`", "throttled periods", "standing still"),
            [(threads, *_throttled(sweep[str(threads)])) for threads in SWEEP],
        ),
        servers=_servers(group(results, "server")),
        doctor=group(results, "command")["doctor PID"][0]["stdout"].rstrip(),
        decisions=_table(
            ("where Python starts", "rule", "`OMP_NUM_THREADS`", "NumPy's threads"),
            [
                (case.name, seen["rule"], seen["value"] or "", seen["threads"])
                for case in DECISIONS
                for seen in decisions[case.name]
            ],
        ),
    )


if __name__ == "__main__":
    # The page of a file of results, without measuring anew.
    with open(sys.argv[1], encoding="utf-8") as file:
        print(render_page(json.load(file)), end="")
