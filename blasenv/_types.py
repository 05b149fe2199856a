"""The three values that flow through start-up, for readers and type checkers.

At run time each is a `types.SimpleNamespace`: a class statement costs every Python process
of the image 0.2 % of its start, and these need nothing a namespace has not got.
"""

from __future__ import annotations

from collections.abc import Iterable as Iterable, Iterator as Iterator, Mapping as Mapping, Sequence as Sequence

from ._host import cpu_quota as cpu_quota
from .live import follow as follow, refresh as refresh


class Config:
    """What the owner of the image, and the BLASENV_ variables of this run, ask for."""

    def __init__(
        self,
        *,
        mode: str,
        threads: int | None,
        share: int,
        shared_by: str,
        rounding: str,
        variables: Sequence[str],
        visible: bool,
        override: bool,
        programs: Mapping[str, int | str],
        program: str | None,
        cpus: float | None,
        cpus_from: str,
        max_threads: int | None,
        cpu_count: bool,
        server: Sequence[str] | None,
        process: str,
        path: str | None,
        problems: Sequence[tuple[int, str]],
        notes: list[str],
    ) -> None:
        self.mode = mode
        """"auto", "single" or "off"."""
        self.threads = threads
        """A fixed count in place of the quota's."""
        self.share = share
        """How many processes share the CPUs, as the owner says in [programs]."""
        self.shared_by = shared_by
        """Who they are, and the line that says so: 'processes (celery = "share:4")'; "" without one."""
        self.rounding = rounding
        """"floor" or "ceil"."""
        self.variables = variables
        """The variables to set."""
        self.visible = visible
        """Whether os.environ is written, too."""
        self.override = override
        """Whether to beat the user's environment."""
        self.programs = programs
        """Settings for programs, by the basename of the script or the -m module."""
        self.program = program
        """The one of them that this process is."""
        self.cpus = cpus
        """CPUs that the owner tells, as one more limit."""
        self.cpus_from = cpus_from
        """Who tells it: the file, or "BLASENV_CPUS"."""
        self.max_threads = max_threads
        """The most threads to set, however many CPUs there are."""
        self.cpu_count = cpu_count
        """Whether Python's own count of CPUs is to be the budget."""
        self.server = server
        """The command line, where it may be that of a server with workers."""
        self.process = process
        """Whose: "self", or a PID."""
        self.path = path
        """The file that was read, None if there was none."""
        self.problems = problems
        """Why the file was refused: (line, sentence); line 0 is the file itself."""
        self.notes = notes
        """What is wrong with the BLASENV_ variables."""


class Limit:
    """One place where a limit on CPUs was looked for."""

    def __init__(
        self, *, controller: str, version: int, path: str, quota: int | None, period: int | None, note: str
    ) -> None:
        self.controller = controller
        """"cpu", "smt" for the cores behind hardware threads, "told" or "max_threads" by the owner."""
        self.version = version
        """Of the cgroup hierarchy, 1 or 2; 0 for anything else."""
        self.path = path
        """The file."""
        self.quota = quota
        """Microseconds of CPU time per period (smt: cores), None when unlimited."""
        self.period = period
        """Microseconds (smt: 1), None when unlimited."""
        self.note = note
        """Why the file gave no limit, "" if it says so itself or gave one."""


class Decision:
    """What to do with the environment, and why."""

    def __init__(
        self,
        *,
        rule: str,
        threads: int | None,
        set: Mapping[str, str],
        kept: Mapping[str, str],
        stale: Sequence[str],
        visible: bool,
        limit: Limit | None,
        share: int,
        shared_by: str,
        rounding: str,
        cpu_count: int | None,
        notes: list[str],
        by: str,
    ) -> None:
        self.rule = rule
        """disabled, user-env, config, program, workers, quota, no-gap, no-limit, not-linux or error."""
        self.threads = threads
        """The count, None when blasenv has no opinion."""
        self.set = set
        """The variables to set, with their values."""
        self.kept = kept
        """The user's own values, which stay."""
        self.stale = stale
        """Variables inherited from a parent's decision, to be taken back first."""
        self.visible = visible
        """Whether ``set`` goes into os.environ, too."""
        self.limit = limit
        """The limit that bound the count, None when none did."""
        self.share = share
        """How many processes share that limit."""
        self.shared_by = shared_by
        """Who they are, and who says so: "ranks (LOCAL_WORLD_SIZE=2)"; "" when nobody shares it."""
        self.rounding = rounding
        """What rounding changed: "floor", "ceil", "least" (less than 1 was allowed), "" when the count is exact."""
        self.cpu_count = cpu_count
        """What os.cpu_count() is to say at most, None where it stays as it is."""
        self.notes = notes
        """What a person should know about how this came about."""
        self.by = by
        """The file of the blasenv that acted on it in this process."""
