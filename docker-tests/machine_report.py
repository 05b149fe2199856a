"""What the 48-CPU machine measured, added up, as half a line of text, as JSON and as a page of Markdown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from machine_cases import (
    ANSWERS,
    CONTAINERS,
    CPUS,
    CROWDS,
    DECISIONS,
    LOADS,
    MEMORY,
    PIDS,
    QUOTA,
    ROOM,
    SERVERS,
    SWEEP,
    Answer,
)

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
    return f"{seen['threads']} threads, {standing(seen):.2f} CPUs stand still, {periods}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _throttled(seen: Seen) -> tuple[str, str]:
    """Two columns: the CPUs that stand still, and the periods."""
    if not seen["nr_periods"]:
        return "0", "no periods"
    return f"{standing(seen):.2f}", f"{seen['nr_throttled']} of {seen['nr_periods']} ({share(seen):.0%})"


def render_json(results: Sequence[Result]) -> str:
    """Everything as it was measured, a result a line."""
    return "[\n" + ",\n".join(map(json.dumps, results)) + "\n]\n"


PAGE = """\
# {cpus} CPUs, {quota} allotted

Made by `docker-tests/machine --write`; what it measured is in [48-cpus.json](48-cpus.json).

A machine with {cpus} CPUs, emulated by QEMU: Linux {kernel}, cgroup v2 alone, a quota of {quota} CPUs on the
parent of the program's cgroup, NumPy {numpy} and SciPy {scipy} from PyPI, each with an OpenBLAS of its own.
Every row was watched for {seconds} seconds. An emulator's times are its own, so there are none here.
What too many threads cost on real cores: [speedup.md](speedup.md), and on the right
([throttling.json](throttling.json), by `benchmarks/throttling.py`):

<img src="throttling.svg" alt="CPUs that stand still against thread count, and what that costs" width="880">

## At work

*Standing still*: CPUs whose threads are ready to run and wait for the next period, on average
(`throttled_usec` of `cpu.stat` over the time). This figure tells the cases apart. The share of the periods in which
it happened does not: a period counts the same if {quota} threads waited for a millisecond, or {cpus} for most of it.

{loads}{room}

*matmul + solve*: 100 × 100. *interpolate*: `scipy.interpolate.RBFInterpolator` through 100 points with 400
values each; SciPy's OpenBLAS starts as many threads as NumPy's, less the main thread.

## Thread counts, under a quota of {quota}

{sweep}

{servers}{memory}{crowds}{answers}{podman}## What the doctor says

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


def _room(loads: Mapping[str, Seen], room: Mapping[str, Seen]) -> str:
    """Why the right count is throttled, too; nothing where that was not measured."""
    if not room:
        return ""
    own = next(loads[load.name] for load in LOADS if (load.variant, load.quota) == ("blasenv", QUOTA))
    wide, wider, fine = (f"{share(room[name]):.0%}" for name in ROOM)
    seen = f"{share(own):.0%} of the periods, but with {standing(own):.2f} CPUs"
    return f"""

Why {QUOTA} threads on a quota of {QUOTA} touch the limit, too, in {seen}:
they never pause, so they use up the quota, and whatever runs late goes over it. A part of that is the emulation, whose
CPUs get their turns late: with more quota than {QUOTA} threads can use the share is still {wide} (4.2 CPUs) and {wider}
(4.4). Slices of 1 ms in place of 5, in which a CPU fetches quota, change little ({fine}), and the program has no other
thread."""


def _memory(seen_by_name: Mapping[str, Sequence[Seen]]) -> str:
    """The section about memory, where it was measured."""
    rows = []
    for variant in MEMORY:
        for seen in seen_by_name.get(variant, []):
            for title, when in (
                ("`import numpy, scipy.linalg`", "imported"),
                ("and a product, and a solution", "computed"),
            ):
                now = seen[when]
                rows.append(
                    (
                        title,
                        VARIANTS[variant],
                        now["Threads"],
                        _mib(now["VmSize"]),
                        f"{now['stacks']}: {_mib(now['stacks_size'])}",
                        _mib(now["stacks_rss"]),
                        _mib(now["VmRSS"]),
                        _mib(seen["peak"]) if when == "computed" else "",
                    )
                )
    if not rows:
        return ""
    many, few = (seen_by_name[variant][0]["computed"] for variant in MEMORY)
    more = many["Threads"] - few["Threads"]
    each, touched = ((many[name] - few[name]) / 1024 / more for name in ("VmSize", "VmRSS"))
    alone = seen_by_name["default"][0]["alone"]
    bare = f"{_mib(alone['VmSize'])} and {_mib(alone['VmRSS'])}"
    titles = (
        "after",
        "what is set",
        "threads",
        "address space",
        "stacks",
        "of them resident",
        "resident",
        "cgroup's peak",
    )
    return f"""\
## Memory, under a quota of {QUOTA}

{_table(titles, rows)}

MiB, of one process (`VmSize` and `VmRSS` of `/proc/self/status`, the thread stacks of `smaps`), and the most that the
kernel counted for its cgroup (`memory.peak`); Python alone has {bare}. Each thread more costs {each:.0f} of address
space, 8 of them for its stack, nearly all of the rest for OpenBLAS's buffer, and {touched:.1f} resident once it has
computed. A limit on the address space (`ulimit -v`, a batch system's) counts all of it, a container's `--memory` only
what was touched.

"""


def _mib(kilobytes: int) -> int:
    return round(kilobytes / 1024)


def _crowds(seen_by_name: Mapping[str, Sequence[Seen]]) -> str:
    """The section about pids.max, where it was measured."""
    rows = [
        (VARIANTS[case.variant], seen["status"], "" if case.status else seen["threads"], _last_words(case.status, seen))
        for case in CROWDS
        for seen in seen_by_name.get(case.variant, [])
    ]
    if not rows:
        return ""
    said = seen_by_name["default"][0]["said"].splitlines()[0].partition("init: ")[2]
    return f"""\
## Where threads are counted: `pids.max` {PIDS}

A program that imports NumPy and SciPy and solves one system of equations, in a cgroup that may have {PIDS} processes
and threads (`docker run --pids-limit {PIDS}`), under the quota of {QUOTA}:

{_table(("what is set", "exit status", "threads", "how it ends"), rows)}

OpenBLAS can't have its {CPUS} threads, says so, and sends the process SIGINT: the import fails as if somebody had
pressed ctrl-C. It said `{said}`.

"""


def _last_words(status: int, seen: Seen) -> str:
    """How a program ended: its last line, or that it got there."""
    return f"`{seen['said'].split()[-1]}` in `import numpy`" if status else "it is solved"


def _answers(seen_by_name: Mapping[str, Sequence[Seen]]) -> str:
    """The section about the bits of results, where they were asked for."""
    seen = {case: seen_by_name[case.name][0] for case in ANSWERS if case.name in seen_by_name}
    if not seen:
        return ""
    names = list(next(iter(seen.values()))["bits"])
    letters: dict[str, dict[str, str]] = {name: {} for name in names}

    def letter(name: str, bits: str) -> str:
        return letters[name].setdefault(bits, chr(ord("A") + len(letters[name])))

    rows = [
        (
            case.cpus,
            VARIANTS[case.variant] + f", `OPENBLAS_CORETYPE={case.processor}`" * bool(case.processor),
            now["openblas"],
            *("/".join(dict.fromkeys(letter(name, bits) for bits in now["bits"][name])) for name in names),
        )
        for case, now in seen.items()
    ]
    table = _table(("visible CPUs", "what is set", "threads", *names), rows)
    return f"""\
## The same bits?

Equal letters in a column: the same bits (SHA-256 of the result's bytes). Each row is a process, in which each was
computed twice; where these two differ, both letters stand there. `matmul` is of 256 × 256, `solve` and `svd` of
80 × 80, `lstsq` of 200 × 20; `sum` and `dot` have 200 000 numbers, `KMeans` (scikit-learn) 2000 points. OpenBLAS takes
fewer threads, or one, for small problems: what is equal here may differ at another size.

{table}

{_moral(seen)}

"""


def _moral(seen: Mapping[Answer, Seen]) -> str:
    """What that table says, and what it does not."""
    names = list(next(iter(seen.values()))["bits"])

    def differing(cases: Iterable[Answer]) -> str:
        bits = {name: {one for case in cases for one in seen[case]["bits"][name]} for name in names}
        return ", ".join(name for name in names if len(bits[name]) > 1) or "none"

    here = [case for case in seen if not case.processor]
    default = [case for case in here if case.variant == "default"]
    ours = [case for case in here if case.variant == "blasenv" and case.threads == QUOTA]
    fewer = [case for case in here if case.variant == "blasenv" and case.cpus in (2, CPUS)]
    other = [case for case in seen if case.processor] + ours
    return f"""\
- Without blasenv the host decides the count. Between 48, 16 and 2 visible CPUs these differ:
  {differing(default)}.
- With blasenv the container's quota does, on each host with at least {QUOTA} CPUs. Between 48, 16 and 4 these differ:
  {differing(ours)}.
- On a host with 2 CPUs there are 2 threads, with blasenv, too. Between 48 and 2 these differ:
  {differing(fewer)}.
- Another generation of CPUs has other code in OpenBLAS, whatever the count. With Nehalem's these differ:
  {differing(other)}.

So the thread count becomes a property of the container, and with it the bits that depend on nothing else. That is no
promise of equal results: not across kinds of CPUs or versions of a library, and not where threads add up in the order
in which they happen to end, as OpenMP lets them."""


WAYS = {
    "nothing": "nothing",
    "image": "blasenv in the image",
    "runtime": "`blasenv-runtime` in front",
    "exec": "the same, by `podman exec`",
}


def _podman(seen_by_name: Mapping[str, Sequence[Seen]], results: Sequence[Result]) -> str:
    """The section about Podman, where it was run."""
    rows = [
        (
            {"root": "root", "able": "rootless"}[case.user],
            case.runtime,
            f"`{case.flags}`" if case.flags else "",
            WAYS[case.way],
            f"`{seen['limit']}`" if "limit" in seen else "",
            seen.get("value") or "",
            seen.get("threads", "KeyboardInterrupt"),
        )
        for case in CONTAINERS
        for seen in seen_by_name.get(case.name, [])
    ]
    if not rows:
        return ""
    full = next(result for result in results if result.get("image") == "full")
    runc = full["runc"].partition("+")[0]
    titles = ("user", "runtime", "`podman run`", "blasenv", "`cpu.max` inside", "`OMP_NUM_THREADS`", "NumPy's threads")
    return f"""\
## Podman

Podman {full["podman"]} with crun {full["crun"]} and runc {runc}, on this machine without systemd
(`--cgroup-manager cgroupfs`), from a root directory (`--rootfs`); rootless with `--cgroups split`, in a subtree of
cgroups that was given to the user with the controllers `cpu`, `cpuset`, `memory` and `pids`.

{_table(titles, rows)}

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
            ("program", "quota", "what is set", "threads", "standing still", "throttled periods"),
            [
                (load.program, load.quota or "none", VARIANTS[load.variant], seen["threads"], *_throttled(seen))
                for load in rows
                for seen in [loads[load.name]]
            ],
        ),
        sweep=_table(
            ("`OMP_NUM_THREADS`", "standing still", "throttled periods"),
            [(threads, *_throttled(sweep[str(threads)])) for threads in SWEEP],
        ),
        room=_room(loads, {name: add_up(rounds) for name, rounds in group(results, "room").items()}),
        servers=_servers(group(results, "server")),
        memory=_memory(group(results, "memory")),
        crowds=_crowds(group(results, "pids")),
        answers=_answers(group(results, "answer")),
        podman=_podman(group(results, "podman"), results),
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
