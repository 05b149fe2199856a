"""``blasenv doctor --node``: which containers have a problem, why, and what to tell their owners."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from blasenv.errors import Failure
from blasenv.machine import node
from blasenv.machine.cgroup import cpus_of, directory_of
from blasenv.machine.node import Container, Node
from blasenv.machine.process import THROTTLED
from blasenv.output.text import count, number, paint, paragraph, print_json, printable, table

from . import metrics, page
from .judging import Judged, judge
from .screen import Screen
from .verdict import WORKS, set_too_high

SCHEMA = 1
MOST_TOLD = 3  # problems that are written out below the table
# Which of the processes of a container says what the matter is with all of it.
_WORST = ("threads", "refused", "processes", "limit")
_SHORT = {
    "one-thread": "one thread computes",
    "fits": "its threads fit",
    "queue": "others use the CPUs, too",
    "memory": "memory, not threads",
    "disk": "the disk, not threads",
    "stopped": "stopped",
}


@dataclass(frozen=True)
class Row:
    """A container, and what is said of it."""

    seen: Container
    judged: Judged | None
    """Of the process that says what the matter is; None where none was looked at closely."""

    @property
    def problem(self) -> bool:
        """Whether somebody has to do something."""
        return self.judged is not None and self.judged.verdict.problem

    @property
    def name(self) -> str:
        """What people call it, as far as the node can tell."""
        known, place = self.seen.name, self.seen.place
        short = place.id[:12]
        if known.pod or place.pod:
            pod = known.pod or self.seen.hostname or f"pod {place.pod}"
            parts = [known.namespace, pod, known.container or short]
            return "/".join(part for part in parts if part)
        if known.name or self.seen.hostname not in ("", short):
            return known.name or f"{self.seen.hostname} ({short})"
        return short or place.name or "outside of any cgroup"

    @property
    def cause(self) -> str | None:
        """threads, workers, limit, neighbours, refused; unknown: throttled, and nobody knows by whom; None: nothing."""
        if self.judged is None:
            return "unknown" if self.seen.share >= THROTTLED else None
        verdict = self.judged.verdict
        if verdict.kind == "processes":
            return "workers" if len(verdict.workers) > 1 and self.seen.counted_with is None else "neighbours"
        return verdict.kind if verdict.problem else None

    @property
    def why(self) -> str:
        """The cause in a few words."""
        if self.judged is None:
            if self.seen.left_out:
                return "busy; there were too many to look at closely"
            if self.seen.used >= node.BUSY or self.cause:
                return "its processes had ended before a closer look"
            return "idle"
        process, verdict, _ = self.judged
        about = verdict.about or process
        pools = page.pool_names(about)
        threads = {
            "library": f"{pools} threads",
            "own": "threads of its own",
            "both": f"threads, its own or of {pools}" if pools else "threads",
        }
        if verdict.kind == "threads":
            times = f"{len(verdict.workers)} processes × " if len(verdict.workers) > 1 else ""
            return f"{times}{verdict.working} {threads[verdict.whose]}"
        if self.cause == "workers":
            times = f" × {verdict.working} threads" if verdict.working > 1 else ""
            return f"{len(verdict.workers)} busy {'workers' if verdict.master else 'processes'}{times}"
        if self.cause == "neighbours":
            return "others below the same limit" if verdict.cause != "unseen" else "processes that can't be seen"
        if verdict.kind == "limit":
            return "the limit itself, not threads"
        if verdict.kind == "refused":
            return "threads that may not start"
        if self.seen.share >= THROTTLED and self.allowed and self.seen.used <= 0.9 * self.allowed:
            return f"short bursts: {number(round(self.seen.used, 1))} of {count(self.allowed, 'CPU')} on average"
        return _SHORT.get(verdict.kind, "waits")

    @property
    def fix(self) -> str:
        """What to do in a few words, "" for nothing; ``advice`` says the same in sentences."""
        if self.judged is None:
            return "blasenv doctor --all" if self.cause else ""
        if not self.problem:
            return ""
        if self.cause == "neighbours" and self.seen.counted_with is not None:
            return f"see {Row(self.seen.counted_with, None).name}"
        process, verdict, _ = self.judged
        about = verdict.about or process
        fits = verdict.fits or about.fitting
        lower = " ".join(f"{name}={fits}" for name in set_too_high(about, fits))
        most = page.most_workers(process)
        # What mends it, each by itself; then what is needed besides.
        instead = {
            "share": f"[programs] {page.programs_line(process, verdict)}" if "share" in verdict.mends else "",
            "lower": lower,
            "run": "blasenv run",
            "variable": f"OMP_NUM_THREADS={fits}",
            "restart": "a restart",
            "enable": "unset BLASENV_DISABLE",
            "enable-and-install": "unset BLASENV_DISABLE and install blasenv",
            "mode": 'no mode = "off"',
            "site": "no python -S",
            "install": "" if "share" in verdict.mends else "blasenv in its Python",
            "code": f"its code asks for more: {fits}",
            "config": f"its configuration asks for more: {fits}",
            "widen": "undo the pinning",
            "raise": "a higher limit",
            "neighbours": "fewer processes, or fewer threads in each",
            "raise-pids": "a higher limit of threads",
            "raise-user": "a higher ulimit -u",
        }
        besides = {"pool": f"its own pool: {fits}", "workers": count(most, "worker")}
        ways = [instead[mend] for mend in verdict.mends if instead.get(mend)]
        ways += [way for way in (page.heal_command(about, verdict, fits), self.inject) if way]
        more = [besides[mend] for mend in verdict.mends if mend in besides]
        either = ", ".join(ways[:-1]) + (" or " if ways[1:] else "") + "".join(ways[-1:])
        return "; ".join(part for part in (either, *more) if part)

    @property
    def inject(self) -> str:
        """``blasenv inject ENGINE`` where that sets the count that fits, else ""."""
        if self.judged is None or "install" not in self.judged.verdict.mends:
            return ""
        process, verdict, known = self.judged
        about, place = verdict.about or process, self.seen.place
        decision = about.observation.decision if about.observation else None
        if known.why != "not-covered" or decision is None or decision.threads != (verdict.fits or about.fitting):
            return ""
        engine = "k8s" if place.pod else place.engine
        return f"blasenv inject {engine}" if engine in ("k8s", "docker", "podman", "containerd", "crio") else ""

    @property
    def sentence(self) -> str:
        """The cause in a sentence, as `blasenv doctor PID` says it."""
        if self.judged is None:
            return f"{self.why[0].upper()}{self.why[1:]}."
        return page.sentence(self.judged.process, self.judged.verdict)

    @property
    def advice(self) -> str:
        """What to do, in sentences, as `blasenv doctor PID` says it; "" when there is nothing."""
        if self.judged is None or not self.problem:
            return ""
        said = page.advice(*self.judged)
        if self.inject:
            said += f" From outside, for containers made from then on: {self.inject}."
        return said

    @property
    def busy_processes(self) -> int:
        """Processes that want a good part of a CPU; of one that was not watched, those that use it."""
        watched = self.seen.watched
        if watched:
            return sum(one.wants >= WORKS for one in watched)
        return sum(one.used >= WORKS for one in self.seen.processes)

    @property
    def busy_threads(self) -> int | None:
        """Threads that were ready to run in at least half of the samples, None where it was not looked at closely."""
        return sum(len(one.busy) for one in self.seen.watched) if self.seen.watched else None

    @property
    def threads(self) -> int:
        """All of its threads."""
        return sum(one.first.threads for one in self.seen.processes if not one.gone)

    @property
    def fitting(self) -> int | None:
        """The threads that fit each process, None where it was not looked at closely."""
        if self.judged is None:
            return None
        return self.judged.verdict.fits or self.judged.process.fitting

    @property
    def allowed(self) -> float | None:
        """Its limit in CPUs."""
        limit = self.seen.limit
        return cpus_of(limit) if limit else None


def rows_of(seen: Node) -> list[Row]:
    """The containers, worst first."""
    rows = [Row(one, _worst(one)) for one in seen.containers]
    rows.sort(
        key=lambda row: (
            not row.problem, -row.seen.standing_still, -row.seen.share, -row.seen.used, row.name, row.seen.place.path
        )
    )  # fmt: skip
    return rows


def _worst(container: Container) -> Judged | None:
    judged = [judge(one) for one in container.asked]
    order = {kind: at for at, kind in enumerate(reversed(_WORST))}
    return max(judged, key=lambda one: (order.get(one.verdict.kind, -1), one.process.wants), default=None)


# The command.


def node_command(args: argparse.Namespace) -> int:
    """Run ``blasenv doctor --node``: 0 when nothing is wrong, 1 when a container has a problem."""
    if sys.platform != "linux":
        raise Failure("only on Linux can processes be looked into like this")
    if args.watch is not None:
        return _watch(args)
    if args.metrics is not None:
        metrics.check_target(args.metrics)  # before the look, which takes a while
    seen = node.look(args.seconds)
    rows = rows_of(seen)
    if args.metrics is not None:
        metrics.write(args.metrics, rows, seen)
    if args.json:
        print_json(document(rows, seen))
    elif args.metrics is None:
        print(render(rows, seen))
    return int(any(row.problem for row in rows))


def _watch(args: argparse.Namespace) -> int:
    """Show the table anew every so many seconds, until a signal."""
    if not Screen.possible():
        raise Failure("--watch is for a terminal; without one: --json, or --metrics FILE", 2)
    if args.metrics is not None:
        metrics.check_target(args.metrics)
    rows: list[Row] = []
    screen = Screen()
    screen.open()
    try:
        screen.show([f"blasenv doctor --node: looking for {number(2 * args.seconds)} seconds …"])
        while True:
            start = time.monotonic()
            seen = node.look(args.seconds)
            rows = rows_of(seen)
            if args.metrics is not None:
                metrics.write(args.metrics, rows, seen)
            head = f"{time.strftime('%H:%M:%S')}, every {number(args.watch)} s; Ctrl-C ends"
            screen.show([paint("dim", head), "", *render(rows, seen, told=0).split("\n")])
            time.sleep(max(0.0, args.watch - (time.monotonic() - start)))
    except KeyboardInterrupt:  # the way to end it
        return int(any(row.problem for row in rows))
    finally:
        screen.close()


# Words.


def _cells(row: Row) -> list[str]:
    seen, busy = row.seen, row.busy_threads
    still = "shared" if seen.counted_with is not None else f"{seen.standing_still:.2f}" if seen.throttling else ""
    return [
        number(row.allowed) if row.allowed is not None else "-",
        f"{row.busy_processes}/{sum(not one.gone for one in seen.processes)}",
        f"{'-' if busy is None else busy}/{row.threads}",
        page.percent(seen.share) if seen.throttling else "",
        still,
    ]


def render(rows: Sequence[Row], seen: Node, told: int = MOST_TOLD) -> str:
    """The table, the worst few in sentences (``told``), and how many there are."""
    parts = []
    lines: list[list[str]] = []
    for row in rows:
        name = printable(row.name)
        if not row.problem and row.cause is None:
            lines.append([*_cells(row), f"{name} ({row.why})"])
            continue
        lines.append([*_cells(row), paint("red", name) if row.problem else name])
        fix = f" → {printable(row.fix)}" if row.fix else ""
        lines.append(["", "", "", "", "", f"{printable(row.why)}{fix}"])
    if lines:
        parts.append(table(("CPUS", "PROCS", "THREADS", "THROTTLED", "STILL", "CONTAINER"), lines))
    problems = [row for row in rows if row.problem]
    parts += [paragraph(printable(f"{row.name}: {row.sentence} {row.advice}".strip())) for row in problems[:told]]
    parts.append("\n".join(paragraph(text) for text in _closing(rows, problems, seen)))
    return "\n\n".join(parts)


def _closing(rows: Sequence[Row], problems: Sequence[Row], seen: Node) -> list[str]:
    said = []
    if not rows:
        said.append("No container with a CPU limit, and none that computes with a BLAS or OpenMP library.")
    elif problems:
        first = problems[0].judged
        more = f" More about the first: blasenv doctor {first.process.pid}" if first else ""
        said.append(f"{len(problems)} of {count(len(rows), 'container')} with a problem.{more}")
    else:
        said.append(f"{count(len(rows), 'container')}; threads are no problem in any.")
    left = sum(row.seen.left_out for row in rows)
    if left:
        said.append(f"{left} of them busy and not looked at closely: there is a bound of {node.MOST_THREADS} threads.")
    if seen.closed:
        who = "" if os.geteuid() == 0 else "; root may"
        said.append(f"Can't be looked into from here, of those that use CPUs: {page.processes(seen.closed)}{who}.")
    if not seen.whole:
        said.append("Only the processes of this container can be seen: run it on the host, or with the host's PIDs.")
    return said


def document(rows: Sequence[Row], seen: Node) -> dict[str, object]:
    """For ``--json``. Shares are 0 to 1, CPU in CPUs."""
    return {
        "schema": SCHEMA,
        "containers": [_as_json(row) for row in rows],
        "processes": seen.processes,
        "closed": seen.closed,
        "whole_machine": seen.whole,
    }


def _as_json(row: Row) -> dict[str, object]:
    seen, place, known = row.seen, row.seen.place, row.seen.name
    about = (row.judged.verdict.about or row.judged.process) if row.judged else None
    libraries = Counter(library.kind for one in seen.watched for library in one.libraries)
    return {
        "name": row.name,
        "engine": place.engine or None,
        "id": place.id or None,
        "pod_uid": place.pod or None,
        "namespace": known.namespace or None,
        "pod": known.pod or None,
        "container": known.container or known.name or None,
        "hostname": seen.hostname or None,
        "cgroup": os.fsdecode(place.path),
        "quota_cpus": row.allowed,
        "limited_by": directory_of(seen.limit) if seen.limit else None,
        "processes": sum(not one.gone for one in seen.processes),
        "busy_processes": row.busy_processes,
        "threads": row.threads,
        "busy_threads": row.busy_threads,
        "used_cpus": round(seen.used, 4),
        "throttled_share": round(seen.share, 4) if seen.throttling else None,
        "throttled_by": directory_of(seen.level) if seen.level else None,
        "standing_still_cpus": round(seen.standing_still, 4),
        "counted_with": os.fsdecode(seen.counted_with.place.path) if seen.counted_with else None,
        "seconds": round(seen.seconds, 3),
        "libraries": dict(libraries),
        "problem": row.problem,
        "cause": row.cause,
        "why": row.why,
        "fix": row.fix or None,
        "sentence": row.sentence,
        "advice": row.advice,
        "fitting_threads": row.fitting,
        "pid": about.pid if about else None,
        "workers": [one.pid for one in row.judged.verdict.workers] if row.judged else [],
    }
