"""``blasenv env``: the decided values as lines for a shell, a Dockerfile or a pod, for what is not Python."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from blasenv.commands.options import look_arguments
from blasenv.machine.observe import observe
from blasenv.output import report

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping


def env_arguments(parser: argparse.ArgumentParser) -> None:
    """Which language to speak."""
    form = parser.add_mutually_exclusive_group()
    for name, what in (
        ("shell", 'export lines, for eval "$(blasenv env)" (the default)'),
        ("docker", "ENV lines of a Dockerfile"),
        ("k8s", "the env list of a container in a pod"),
    ):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, default="shell", help=what)
    look_arguments(parser)


def lines(values: Mapping[str, str], form: str) -> list[str]:
    """``values`` as lines of the shell, docker or k8s ``form``."""
    if form == "docker":
        return [f"ENV {name}={value}" for name, value in values.items()]
    if form == "k8s":
        listed = [(f"  - name: {name}", f'    value: "{value}"') for name, value in values.items()]
        return ["env:", *(line for pair in listed for line in pair)]
    return [f"export {name}={shlex.quote(value)}" for name, value in values.items()]


def env_command(args: argparse.Namespace) -> int:
    """Print the lines, and nothing else: stdout goes into a file, or an eval."""
    seen = observe(args.root, args.affinity)
    decision = seen.decision
    if decision.set:
        print("\n".join(lines(decision.set, args.form)))
    else:
        why = report.reason(decision, seen.config, seen.limits, seen.affinity)
        # A user's value may hold anything, and this line may be evaluated.
        print("# blasenv sets nothing: " + "".join(char if char.isprintable() else "?" for char in why))
    return 0
