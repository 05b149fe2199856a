"""``blasenv explain``: every step and file behind the decision, in the order of the start-up code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import blasenv
from blasenv.commands.capture import capture
from blasenv.commands.options import look_arguments
from blasenv.machine.cgroup import cpus_of, is_level, tightest_quota
from blasenv.machine.observe import observe, settings
from blasenv.output.summary import View, blasenv_shows
from blasenv.output.text import count, number, paint, paragraph, print_json, printable, table, toml

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from blasenv._types import Limit


def explain_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to look, as which program, JSON, and where to write a test case."""
    look_arguments(parser, program=True)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--capture", metavar="DIR", help="also write the files that were read to DIR, a test case for a bug report"
    )


def explain_command(args: argparse.Namespace) -> int:
    """Print every step. 1 when the configuration is refused or something unforeseen happened."""
    seen = observe(args.root, args.affinity, args.program)
    view = View(seen, pretended=seen.pretended or args.program is not None)
    if args.json:
        print_json({**view.document(), "settings": [row._asdict() for row in settings(seen.config, seen.environ)]})
    else:
        print(page(view))
    if args.capture:
        written = capture(args.capture, seen)
        where = printable(args.capture)
        print(
            f"\nblasenv: wrote {count(len(written), 'file')} to {where}; look at them before you show them:",
            file=sys.stderr,
        )
        for name in written:
            print(f"  {printable(name)}", file=sys.stderr)
    return view.exit_status()


def page(view: View) -> str:
    """The steps, and what to know besides. ``*`` marks what was taken, ``!`` what is wrong."""
    steps = (
        ("Configuration", configuration(view)),
        ("CPU limit", cpu_limit(view)),
        ("Visible CPUs", visible_cpus(view)),
        ("Process", process(view)),
        ("Decision", decision(view)),
    )
    blocks = []
    for number_of, (title, lines) in enumerate(steps, 1):
        blocks.append("\n".join([paint("bold", f"{number_of}. {title}"), *lines]))
    return "\n\n".join([*blocks, *(paragraph(note) for note in view.remarks())])


def _line(mark: str, text: str, depth: int = 0) -> str:
    """One wrapped line below a step."""
    style = {"*": "green", "!": "red"}.get(mark)
    indent = "     " + "  " * depth
    body = paragraph(printable(text), indent=indent)
    return "   " + (paint(style, mark) if style else " ") + body[4:]


def configuration(view: View) -> Iterable[str]:
    """The file, and each key with its value and source."""
    seen, config = view.seen, view.seen.config
    named = seen.environ.get("BLASENV_CONFIG")
    path = seen.root.rstrip("/") + blasenv.CONFIG_PATH if named is None else named
    origin = "" if named is None else " (named by BLASENV_CONFIG)"
    if config.path is None:
        state = "no file is read" if path in ("", "/dev/null") else f"{path}: {blasenv.ABSENT}"
        yield _line("", f"{state}{origin}; the defaults apply")
    elif config.problems:
        for line, problem in config.problems:
            yield _line("!", f"{config.path}{f':{line}' if line else ''}: {problem}")
        rest = 'only its mode = "off" counts' if config.mode == "off" else "the defaults apply"
        yield _line("", f"the file is refused{origin}; {rest}")
    else:
        yield _line("*", f"{config.path}{origin}")
    yield ""
    rows = [(row.key, toml(row.value), printable(row.source)) for row in settings(config, seen.environ)]
    yield table(("KEY", "VALUE", "FROM"), rows, indent="     ")


def cpu_limit(view: View) -> Iterable[str]:
    """The line of our group, the mounts that show it, and each level of it."""
    seen = view.seen
    prefix = seen.root.rstrip("/")
    contents, problem = blasenv.read_file(f"{prefix}/proc/self/cgroup", blasenv.MAX_FILE)
    group = blasenv.parse_cgroup(contents)
    if group is None:
        why = problem or "no line names the CPU controller or a unified hierarchy"
        yield _line("!", f"/proc/self/cgroup: {why}; no limit is seen")
        return
    version, path = group
    chosen = next(line for line in contents.split(b"\n") if blasenv.parse_cgroup(line) == group)
    yield _line("", "/proc/self/cgroup")
    yield _line("*", os.fsdecode(chosen), 1)
    what = "lists the CPU controller" if version == 1 else "no v1 line lists the CPU controller, so this one has it"
    yield _line("", f"cgroup v{version}: {what}", 1)

    contents, problem = blasenv.read_file(f"{prefix}/proc/self/mountinfo", blasenv.MAX_MOUNTINFO)
    if problem:
        yield _line("!", f"/proc/self/mountinfo: {problem}; no limit is seen")
        return
    yield _line("", "/proc/self/mountinfo")
    mounts = blasenv.parse_mountinfo(contents, version)
    for root, point in mounts:
        levels = len(blasenv.level_directories(path, root, point))
        mount = f"{os.fsdecode(point)} shows {os.fsdecode(root)}"
        if levels:
            yield _line("*", f"{mount}: {count(levels, 'level')}, from our group up", 1)
        else:
            yield _line("", f"{mount}: our group is not below it", 1)
    if not mounts:
        yield _line("!", f"no mount of cgroup v{version} with the CPU controller; no limit is seen", 1)
    tightest = tightest_quota(seen.limits)
    levels_read = [limit for limit in seen.limits if is_level(limit)]
    if levels_read:
        rows = [_level(limit, taken=limit is tightest) for limit in levels_read]
        yield ""
        yield table((" ", "CPUS", "QUOTA us", "PERIOD us", "FILE"), rows, indent="   ")
        yield ""
    elif mounts:
        yield _line("!", "none of them shows our group; no limit is seen", 1)
    if tightest:
        yield _line("", f"The tightest applies: {count(cpus_of(tightest) or 0, 'CPU')}.")
    elif levels_read:
        yield _line("", "No level sets a limit.")


def _level(limit: Limit, *, taken: bool) -> tuple[str, str, str, str, str]:
    """One level as a row: mark, CPUs, quota, period, file and what is the matter with it."""
    cpus, path = cpus_of(limit), printable(limit.path)
    if cpus is not None:
        return (paint("green", "*") if taken else "", number(cpus), str(limit.quota), str(limit.period), path)
    if not limit.note:
        return ("", "all", "none", "", path)
    # The root group has no limit and so no file; a level that went away is no error, either.
    mark = "" if limit.note == blasenv.ABSENT else paint("red", "!")
    return (mark, "all", "?", "", f"{path} ({printable(limit.note)})")


def visible_cpus(view: View) -> Iterable[str]:
    """The affinity mask and the cores behind it."""
    seen = view.seen
    how = "pretended" if seen.pretended else "sched_getaffinity"
    yield _line("*", f"{count(view.affinity, 'CPU')}: {cpu_list(sorted(seen.cpus))} ({how})")
    for limit in seen.limits:
        if limit.controller == "smt" and limit.note:
            yield _line("!", f"{limit.path}: {limit.note}; each CPU counts as a core")
        elif limit.controller == "smt":
            yield _line(
                "*", f"{limit.path}: {count(limit.quota or 0, 'core')}; libraries start no more threads than that"
            )


def cpu_list(cpus: Sequence[int]) -> str:
    """CPU numbers in the kernel's list format, ``0-3,8`` (cpuset(7))."""
    ranges: list[list[int]] = []
    for cpu in cpus:
        if ranges and ranges[-1][-1] == cpu - 1:
            ranges[-1][1:] = [cpu]
        else:
            ranges.append([cpu])
    return ",".join("-".join(map(str, ends)) for ends in ranges)


def process(view: View) -> Iterable[str]:
    """What the environment and the command line say: ranks, program, receipts, the user's own values."""
    seen = view.seen
    ranks, who = seen.ranks
    if ranks > 1:
        yield _line("*", f"{ranks} {who} share the limit")
    elif view.decision.share > 1:
        yield _line("*", f"{view.decision.share} {view.decision.shared_by} share the limit")
    else:
        yield _line("", "no ranks of an MPI, Slurm or torchrun job share the limit")
    if seen.config.program is not None:
        yield _line("*", f"the line for {seen.config.program} in [programs] applies")
    elif seen.config.programs:
        yield _line("", "no line in [programs] is for this one; --program NAME asks for another")
    inherited = view.decision.stale
    if inherited:
        yield _line("*", f"inherited {', '.join(inherited)} from a parent's decision ({blasenv.MARK}); decided afresh")
    else:
        yield _line("", f"no decision of a parent was inherited ({blasenv.MARK})")
    if not view.decision.kept:
        yield _line("", f"the user set none of {', '.join(dict.fromkeys(('OMP_NUM_THREADS', *seen.config.variables)))}")
    for name, value in view.decision.kept.items():
        yield _line("*", f"the user set {name}={value}")


def decision(view: View) -> Iterable[str]:
    """The rule, what is set and what is kept."""
    decided = view.decision
    yield _line("*", f"{decided.rule}: {view.reason(decided)}")
    verb = "set" if view.hook else "would set"
    for name, value in decided.set.items():
        where = (
            "native and in os.environ" if blasenv_shows(name, decided) else "native only; os.environ has the receipt"
        )
        yield _line("*", f"{verb} {name}={value} ({where})")
    if not decided.set:
        yield _line("", f"{verb} nothing")
    for name, value in decided.kept.items():
        yield _line("", f"keeps {name}={value}")
    if not view.pretended and view.hook is None:
        yield _line("!", f"the hook did not run in this interpreter: {view.why_no_hook()}")
