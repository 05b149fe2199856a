"""``--metrics FILE``: what was seen of a node, for the textfile collector of Prometheus' node-exporter.

The collector reads the text format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/). What is
written here is OpenMetrics 1.0, too (https://prometheus.io/docs/specs/om/open_metrics_spec/): gauges only, which
both write the same way, no blank line, and ``# EOF``, a comment in the former.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from blasenv.errors import Failure
from blasenv.output.text import printable

if TYPE_CHECKING:
    from blasenv.machine.node import Node

    from .node import Row

# Name, what it is, and its value for a container; None for no sample. Base units, as in Prometheus' naming.
_OF_CONTAINER: tuple[tuple[str, str, Callable[[Row], float | None]], ...] = (
    ("limit_cpus", "The tightest CPU limit.", lambda row: row.allowed),
    ("used_cpus", "CPUs used.", lambda row: row.seen.used),
    ("throttled_ratio", "Throttled periods of all.", lambda row: row.seen.share if row.seen.throttling else None),
    (
        "standing_still_cpus",
        "CPUs that stood still because the quota was spent; once for a limit that several containers share.",
        lambda row: row.seen.standing_still,
    ),
    ("processes", "Processes.", lambda row: sum(not one.gone for one in row.seen.processes)),
    ("busy_processes", "Processes that want at least a quarter of a CPU.", lambda row: row.busy_processes),
    ("threads", "Threads.", lambda row: row.threads),
    ("busy_threads", "Threads ready to run half of the time, where it was busy.", lambda row: row.busy_threads),
    ("fitting_threads", "Threads that fit each of its processes, where it was busy.", lambda row: row.fitting),
    ("problem", "1 where there is a problem; the label cause says which.", lambda row: row.problem),
)  # fmt: skip


def render(rows: Sequence[Row], seen: Node) -> str:
    """The text of the file."""
    lines = []
    for name, what, value_of in _OF_CONTAINER:
        family = f"blasenv_container_{name}"
        lines += [f"# HELP {family} {what}", f"# TYPE {family} gauge"]
        for row in rows:
            value = value_of(row)
            if value is not None:
                more = {"cause": row.cause or "none"} if name == "problem" else {}
                lines.append(f"{family}{{{_labels(row, more)}}} {_number(value)}")
    for name, what, value in (
        ("containers", "Containers with a limit, or that compute with numeric libraries.", len(rows)),
        ("processes", "Processes looked at.", seen.processes),
        ("closed_processes", "Processes that use CPUs and could not be looked into.", seen.closed),
    ):
        family = f"blasenv_node_{name}"
        lines += [f"# HELP {family} {what}", f"# TYPE {family} gauge", f"{family} {value}"]
    return "\n".join([*lines, "# EOF", ""])


def _number(value: float) -> str:
    return f"{round(float(value), 6):g}" if not float(value).is_integer() else str(int(value))


def _labels(row: Row, more: dict[str, str]) -> str:
    known, place = row.seen.name, row.seen.place
    labels = {
        "cgroup": os.fsdecode(place.path),
        "name": row.name,
        "namespace": known.namespace,
        "pod": known.pod,
        "container": known.container or known.name,
        **more,
    }
    return ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())


def _escape(value: str) -> str:
    """As both formats want it; control characters, and bytes that are not UTF-8, are escaped before."""
    return printable(value).replace("\\", "\\\\").replace('"', '\\"')


def check_target(path: str) -> None:
    """Refuse what must not be replaced: all but a regular file, or nothing. Raises Failure."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:
        raise _failure(path, error) from None
    if not stat.S_ISREG(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise Failure(f"--metrics {printable(path)}: is {kind}, and stays; name a file")
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise Failure(f"--metrics {printable(path)}: there is no directory {printable(directory)}")


def write(path: str, rows: Sequence[Row], seen: Node) -> None:
    """Write the file, or leave the one that is there: nobody ever reads half of it. Raises Failure."""
    check_target(path)
    temporary = ""
    try:
        # Its name must not end in .prom, or it would be collected.
        handle, temporary = tempfile.mkstemp(prefix=".blasenv-", suffix=".tmp", dir=os.path.dirname(path) or ".")
        with open(handle, "w", encoding="utf-8") as file:
            file.write(render(rows, seen))
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
        temporary = ""
    except OSError as error:
        raise _failure(path, error) from None
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _failure(path: str, error: Exception) -> Failure:
    why = error.strerror if isinstance(error, OSError) else error
    return Failure(f"--metrics {printable(path)} cannot be written: {why}")
