"""An observation as `status` and `explain` tell it: what this process got, or what one would get."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import blasenv
from blasenv.machine import library_threads
from blasenv.machine.cgroup import is_level, quota_cpus, read_throttling
from blasenv.machine.library_threads import VARIABLES
from blasenv.machine.observe import disabled, native_environ
from blasenv.output import report
from blasenv.output.text import count, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blasenv._types import Decision
    from blasenv.machine.observe import Observation


class View:
    """An observation, seen as this process really is, or as one would be under what was pretended."""

    def __init__(self, seen: Observation, *, pretended: bool) -> None:
        self.seen = seen
        self.pretended = pretended
        self.hook = None if pretended else seen.hook
        self.decision = self.hook or seen.decision
        """What this process got, or what it would get."""
        self.native: Mapping[str, str]
        """The environment as native libraries find it."""
        self.python: Mapping[str, str]
        """The environment as os.environ shows it."""
        if pretended:
            base = {name: value for name, value in seen.environ.items() if name not in seen.decision.stale}
            ours = seen.decision.set.items()
            self.native = {**base, **dict(ours)}
            self.python = {**base, **{name: value for name, value in ours if blasenv_shows(name, seen.decision)}}
        else:
            self.native, self.python = native_environ(), seen.environ

    @property
    def affinity(self) -> int:
        """The number of visible CPUs."""
        return len(self.seen.cpus)

    def reason(self, decision: Decision) -> str:
        """Why, in one sentence."""
        if self._first_note_says_why(decision):
            return printable(f"{report.RULES[decision.rule]}: {decision.notes[0]}")
        seen = self.seen
        return printable(report.reason(decision, seen.config, seen.limits, self.affinity))

    def _first_note_says_why(self, decision: Decision) -> bool:
        """Whether the rule's own reason is a note, as of BLASENV_DISABLE; a mode "off" is in the configuration."""
        off = decision.rule == "disabled" and decision is not self.seen.hook and disabled(self.seen.environ)
        return bool(decision.notes) and (off or decision.rule == "error")

    def variables(self) -> list[report.Variable]:
        """The known thread variables, those of the configuration, and the ones just set."""
        names = [*VARIABLES, *self.seen.config.variables, *self.decision.set]
        applied = self.seen.decision if self.pretended else self.hook
        return report.variables(names, self.native, applied, self.native.get(blasenv.RECEIPT, ""))

    def libraries(self) -> list[library_threads.Library]:
        """What follows for each library."""
        return library_threads.libraries(
            self.native,
            self.python,
            affinity=self.affinity,
            cores=self.seen.cores,
            online=self.affinity if self.pretended else os.cpu_count() or 1,
            quota=quota_cpus(self.seen.limits),
        )

    def document(self) -> dict[str, object]:
        """The JSON that both commands share."""
        seen = self.seen
        return {
            **report.document(seen, self.decision, self.variables()),
            "reason": self.reason(self.decision),
            "hook": {"active": seen.hook is not None, "by": seen.hook.by if seen.hook else None},
            "pretended": self.pretended,
        }

    def exit_status(self) -> int:
        """1 when something is wrong that a person should mend."""
        return 1 if self.seen.config.problems or self.decision.rule == "error" else 0

    def why_no_hook(self) -> str:
        """Why the hook did not run in this interpreter, as far as it can be told from inside."""
        if disabled(self.seen.environ):
            return printable(f"switched off by BLASENV_DISABLE={self.seen.environ['BLASENV_DISABLE']}")
        if sys.flags.no_site:
            return "not active: Python was started with -S, which runs no .pth file"
        return "not active; blasenv doctor says why"

    def remarks(self) -> list[str]:
        """What a person should know besides."""
        seen, decision, now = self.seen, self.decision, self.seen.decision
        notes = decision.notes[1:] if self._first_note_says_why(decision) else list(decision.notes)
        if self.hook is not None and (self.hook.rule, self.hook.set) != (now.rule, now.set):
            values = assignments(now.set) or "nothing"
            notes.append(
                f"Things have changed since this interpreter started: a new one would get {values} ({now.rule})."
            )
        if seen.config.problems:
            notes.append("The configuration is refused. To see all that is wrong with it: blasenv config check")
        throttled = [(path, periods) for path, periods in self.throttling() if periods]
        if throttled and decision.rule == "no-limit":
            path, periods = throttled[0]
            notes.append(
                f"No limit is seen, but {path} counts {count(periods, 'throttled period')}: there was a limit, or it "
                "is above what this container can see. To name a count: BLASENV_THREADS=N, or threads = N in the "
                "configuration."
            )
        return [printable(note) for note in notes]

    def throttling(self) -> list[tuple[str, int]]:
        """The cpu.stat file of each level, and the periods in which the group had to stand still (sched-bwc.rst)."""
        found = []
        for level in filter(is_level, self.seen.limits):
            counted = read_throttling(level, self.seen.root)
            found.append((f"{os.path.dirname(level.path)}/cpu.stat", counted.throttled if counted else 0))
        return found


def blasenv_shows(name: str, decision: Decision) -> bool:
    """Whether `blasenv.apply` puts a variable into os.environ, too."""
    return decision.visible or name.startswith(blasenv.IN_MAPPING)


def assignments(values: Mapping[str, str]) -> str:
    """``NAME=VALUE NAME=VALUE``, as in the receipt."""
    return " ".join(f"{name}={value}" for name, value in values.items())
