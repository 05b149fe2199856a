"""What the commands look at: the configuration, limits and decision for this process, and its environment.

All of it comes from the functions that run at start-up; nothing is decided a second way.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import blasenv
from blasenv import _config_file, _host
from blasenv.machine.cgroup import find_levels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blasenv._types import Config, Decision, Limit


@dataclass(frozen=True)
class Observation:
    """One look at a machine (or a directory that stands for one), and what blasenv decides there."""

    root: str
    """The directory read in the place of /."""
    cpus: frozenset[int]
    """The CPUs in the affinity mask, or 0 to N-1 for a pretended one."""
    pretended: bool
    """Whether another root or affinity than the real one was asked for."""
    environ: Mapping[str, str]
    """What the decision was made with: os.environ, if nothing else was asked for."""
    config: Config
    limits: list[Limit]
    """Each level looked at, leaf first; then SMT, if it was asked."""
    decision: Decision
    """What blasenv decides here, now. Nothing of it was applied."""
    hook: Decision | None
    """What the hook decided and did when this process started, None when it did not run."""

    fit: Decision
    """What blasenv decides where neither the configuration nor the environment names a count."""

    @property
    def fitting(self) -> int:
        """The count of threads that fits here."""
        return self.fit.threads or len(self.cpus)

    @property
    def affinity(self) -> int:
        """The number of visible CPUs."""
        return len(self.cpus)

    @property
    def cores(self) -> int:
        """The physical cores behind the CPUs, as far as the kernel tells."""
        counted = [limit.quota for limit in _host.find_cores(self.root, set(self.cpus)) if limit.quota]
        return counted[0] if counted else len(self.cpus)

    @property
    def ranks(self) -> tuple[int, str]:
        """The ranks of this job on this node, and "VARIABLE=VALUE" that says so; 1 and "" without a job."""
        return _host.local_ranks(self.environ)


class Setting(NamedTuple):
    """One key of the configuration, as it applies."""

    key: str
    value: object
    source: str
    """"default", "FILE:LINE", or the BLASENV_ variable."""


def observe(
    root: str = "/",
    affinity: int | None = None,
    program: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Observation:
    """Read, find and decide as the hook does, and change nothing.

    ``affinity`` pretends that many visible CPUs; ``program`` is the script or module to look up
    in [programs].
    """
    environ = os.environ if environ is None else environ
    if affinity is not None:
        cpus = set(range(affinity))
    elif sys.platform == "linux":
        cpus = os.sched_getaffinity(0)
    else:
        cpus = set(range(os.cpu_count() or 1))
    config = blasenv.read_config(root, environ, [program] if program else [])
    limits: list[Limit] = []
    decision = blasenv.undecided("not-linux", [])
    if sys.platform == "linux" or root != "/":
        limits = list(blasenv.find_limits(root, cpus, config))
        decision = blasenv.decide(config, limits, len(cpus), environ)
    if disabled(environ):
        decision = _switched_off(environ, config)
    return Observation(
        root=root,
        cpus=frozenset(cpus),
        pretended=root != "/" or affinity is not None,
        environ=environ,
        config=config,
        limits=limits,
        decision=decision,
        hook=vars(sys).get("_blasenv"),
        fit=_fit(config, limits, len(cpus), environ),
    )


def observe_process(
    pid: int,
    parent: int,
    cpus: frozenset[int],
    command: Sequence[str],
    environ: Mapping[str, str],
    root: str = "/",
) -> Observation:
    """What the hook would decide for a process that runs: with its cgroup, configuration, program and job.

    ``parent`` is its parent's PID, ``cpus`` its affinity mask, ``command`` its command line, ``environ`` all that
    it was started with: the ranks of its job and the BLASENV_ variables are in there.
    """
    words = _host.program_words(command, str(parent))
    own = f"{root.rstrip('/')}/proc/{pid}/root"
    named = environ.get("BLASENV_CONFIG", "")
    inside = dict(environ)
    if named not in ("", "/dev/null"):  # a path in its own tree, which may be another container's
        inside["BLASENV_CONFIG"] = own + named if named.startswith("/") else f"{own[:-4]}cwd/{named}"
    config = blasenv.read_config(own, inside, [_host.parse_command_line(words)] if words else [], words)
    config.process = str(pid)
    levels = find_levels(str(pid), root)
    limits = list(blasenv.find_limits(root, set(cpus), config, levels))
    decision = blasenv.decide(config, limits, len(cpus), environ)
    if disabled(environ):
        decision = _switched_off(environ, config)
    return Observation(
        root=root,
        cpus=cpus,
        pretended=True,
        environ=environ,
        config=config,
        limits=limits,
        decision=decision,
        hook=None,
        fit=_fit(config, limits, len(cpus), environ),
    )


def _switched_off(environ: Mapping[str, str], config: Config) -> Decision:
    return blasenv.undecided("disabled", [_why_disabled(environ["BLASENV_DISABLE"]), *config.notes])


def _fit(config: Config, limits: Sequence[Limit], affinity: int, environ: Mapping[str, str]) -> Decision:
    neutral = blasenv.Config(**{**vars(config), "mode": "auto", "threads": None, "cpu_count": False})
    unset = {name: value for name, value in environ.items() if not name.endswith("_THREADS")}
    return blasenv.decide(neutral, limits, affinity, unset)


def disabled(environ: Mapping[str, str]) -> bool:
    """Whether BLASENV_DISABLE switches the hook off, as its line asks."""
    return environ.get("BLASENV_DISABLE", "0") not in blasenv.ENABLED


def _why_disabled(value: str) -> str:
    why = f"BLASENV_DISABLE={value} is in the environment"
    if value.lower() in ("1", "true", "yes", "on"):
        return why
    words = list(dict.fromkeys(blasenv.ENABLED.lower().split()))
    return f"{why}; of all values, only {', '.join(words)} and the empty one do not switch it off"


def settings(config: Config, environ: Mapping[str, str]) -> list[Setting]:
    """Each key with its value and where that comes from, the general ones first."""
    lines: dict[str, int] = {}
    if config.path is not None:
        contents, _ = blasenv.read_file(config.path, blasenv.MAX_FILE)
        found, problems, lines = _config_file.parse_config(contents)
        if problems:  # refused, but for a readable mode = "off"
            lines = {"mode": lines["mode"]} if found.get("mode") == "off" else {}
    source = {key: f"{config.path}:{line}" for key, line in lines.items()}
    if config.program is not None:
        where = f"{source.get(f'programs.{config.program}', config.path)} (for {config.program})"
        source.update(mode=where, threads=where, share=where)
    # What a variable only puts back to its default keeps "default" as its source.
    if environ.get("BLASENV_MODE") in ("auto", "single", "off"):
        source.update({key: "BLASENV_MODE" for key in ("mode", "threads", "share") if key == "mode" or key in source})
    if _host.parse_count(environ.get("BLASENV_THREADS", "")) and environ.get("BLASENV_MODE") != "off":
        source.update({key: "BLASENV_THREADS" for key in ("mode", "threads") if key == "threads" or key in source})
    if config.cpus_from == "BLASENV_CPUS":
        source["cpus"] = "BLASENV_CPUS"
    if environ.get("BLASENV_CPU_COUNT") and config.cpu_count:
        source["cpu_count"] = "BLASENV_CPU_COUNT"
    keys = [key for key in _config_file.KEYS if key != "programs"] + (["share"] if config.share > 1 else [])
    rows = [Setting(key, getattr(config, key), source.get(key, "default")) for key in keys]
    rows += [
        Setting(f"programs.{name}", value, source.get(f"programs.{name}", "default"))
        for name, value in config.programs.items()
    ]
    return rows


def native_environ() -> dict[str, str]:
    """The environment as native libraries and child processes find it, not as os.environ remembers it.

    Asked with getenv for each variable that os.environ has or blasenv may have set. Without
    ctypes (Debian's python3-minimal), what the hook says that it set has to do.
    """
    hook: Decision | None = vars(sys).get("_blasenv")
    named = dict(item.partition("=")[::2] for item in os.environ.get(blasenv.RECEIPT, "").split())
    ours = {**named, **(hook.set if hook else {})}
    try:
        import ctypes

        getenv = ctypes.CDLL(None).getenv
    except (ImportError, OSError, AttributeError):  # no ctypes; a static or foreign interpreter
        return {**os.environ, **(hook.set if hook else {})}
    getenv.restype = ctypes.c_char_p
    getenv.argtypes = [ctypes.c_char_p]
    values = {name: getenv(os.fsencode(name)) for name in (*os.environ, *ours)}
    return {name: os.fsdecode(value) for name, value in values.items() if value is not None}
