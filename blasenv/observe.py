"""What the commands look at: the configuration, limits and decision for this process, and its environment.

All of it comes from the functions that run at start-up; nothing is decided a second way.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import blasenv

from . import _rare
from .text import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ._types import Config, Decision, Limit


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

    @property
    def cores(self) -> int:
        """The physical cores behind the CPUs, as far as the kernel tells."""
        counted = [limit.quota for limit in _rare.find_cores(self.root, set(self.cpus)) if limit.quota]
        return counted[0] if counted else len(self.cpus)

    @property
    def ranks(self) -> tuple[int, str]:
        """The ranks of this job that share the limit, and the variable that says so; 1 and "" without a job."""
        for name in blasenv.LOCAL_RANKS:
            node = {"SLURM_NODEID": self.environ.get("SLURM_NODEID", "")}
            ranks = _rare.local_ranks({name: self.environ.get(name, ""), **node})
            if name in self.environ and self.environ[name] and ranks > 1:
                return ranks, name
        return 1, ""


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
    if sys.platform == "linux" or root != "/":
        limits = list(blasenv.find_limits(root, cpus))
        decision = blasenv.decide(config, limits, len(cpus), environ)
    else:
        decision = _nothing("not-linux", [])
    if environ.get("BLASENV_DISABLE", "") not in ("", "0"):  # as in the hook line
        decision = _nothing("disabled", [f"BLASENV_DISABLE={environ['BLASENV_DISABLE']} is in the environment"])
    return Observation(
        root=root,
        cpus=frozenset(cpus),
        pretended=root != "/" or affinity is not None,
        environ=environ,
        config=config,
        limits=limits,
        decision=decision,
        hook=vars(sys).get("_blasenv"),
    )


def _nothing(rule: str, notes: list[str]) -> Decision:
    return blasenv.Decision(rule=rule, threads=None, set={}, kept={}, stale=[], visible=False, notes=notes)


def settings(config: Config, environ: Mapping[str, str]) -> list[Setting]:
    """Each key with its value and where that comes from, the general ones first."""
    lines: dict[str, int] = {}
    if config.path is not None:
        contents, _ = blasenv._read(config.path, blasenv.MAX_FILE)
        found, problems, lines = _rare.parse_config(contents)
        if problems:  # refused, but for a readable mode = "off"
            lines = {"mode": lines["mode"]} if found.get("mode") == "off" else {}
    source = {key: f"{config.path}:{line}" for key, line in lines.items()}
    if config.program is not None:
        where = f"{source.get(f'programs.{config.program}', config.path)} (for {config.program})"
        source.update(mode=where, threads=where, share=where)
    # What a variable only puts back to its default keeps "default" as its source.
    if environ.get("BLASENV_MODE") in ("auto", "single", "off"):
        source.update({key: "BLASENV_MODE" for key in ("mode", "threads", "share") if key == "mode" or key in source})
    if _rare.parse_count(environ.get("BLASENV_THREADS", "")) and environ.get("BLASENV_MODE") != "off":
        source.update({key: "BLASENV_THREADS" for key in ("mode", "threads") if key == "threads" or key in source})
    keys = ["mode", "threads", "rounding", "variables", "visible", "override", *(["share"] if config.share > 1 else [])]
    rows = [Setting(key, getattr(config, key), source.get(key, "default")) for key in keys]
    rows += [
        Setting(f"programs.{name}", value, source.get(f"programs.{name}", "default"))
        for name, value in config.programs.items()
    ]
    return rows


def toml(value: object) -> str:
    """A setting's value as it stands in the file; "-" for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return str(value) if isinstance(value, int) else printable(f'"{value}"')


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


def look_arguments(parser: argparse.ArgumentParser, *, affinity: bool = True, program: bool = False) -> None:
    """The options of a command that looks: what to pretend."""
    parser.add_argument("--root", default="/", metavar="DIR", type=_directory, help="read the files below DIR, not /")
    if affinity:
        parser.add_argument("--affinity", metavar="N", type=thread_count, help="pretend that N CPUs are visible")
    if program:
        parser.add_argument("--program", metavar="NAME", help="pretend to be this script or module, for [programs]")


def thread_count(text: str) -> int:
    """A whole number from 1 to 8192, for argparse."""
    count = _rare.parse_count(text)
    if count is None:
        raise ValueError(text)
    return count


def _directory(text: str) -> str:
    import argparse

    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return text
